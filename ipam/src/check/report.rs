//! Calico's report of a check, field by field, and what several of them agree on (Calico `calicoctl/commands/ipam/{check,release}.go`): its
//! `ipam release --from-report` reads ours, and ours reads Calico's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::attr;
use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use super::{Allocation, Findings, Problem};

/// The report as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(default)]
    pub version: String,
    #[serde(default, rename = "clusterGUID")]
    pub cluster_guid: String,
    #[serde(default)]
    pub datastore_locked: bool,
    #[serde(default)]
    pub cluster_information_revision: String,
    #[serde(default)]
    pub cluster_type: String,
    #[serde(default)]
    pub allocations: Option<BTreeMap<String, Vec<ReportedAllocation>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaked_handles: Option<Vec<ReportedHandle>>,
}

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedAllocation {
    pub ip: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub handle: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    #[serde(default)]
    pub in_use: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrowed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cooling_down: bool,
    /// Null where there are none, as Go writes it.
    #[serde(default)]
    pub owners: Option<Vec<String>>,
}

/// One handle without addresses. Go's field names: Calico gives them no others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportedHandle {
    #[serde(rename = "ID")]
    pub id: String,
    /// Set where the store is Kubernetes.
    #[serde(rename = "UID", default)]
    pub uid: Option<String>,
    #[serde(rename = "Revision", default)]
    pub revision: String,
}

/// What is to be released: the address, and what must still be true of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakedIp {
    pub address: IpAddr,
    pub handle: Option<String>,
    pub sequence: Option<u64>,
}

/// The cluster that a report is of.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub version: String,
    pub guid: String,
    pub is_locked: bool,
    /// The revision of the ClusterInformation, which changes when the datastore is locked.
    pub revision: String,
    pub cluster_type: String,
}

impl Report {
    /// The report of a check.
    pub fn new(cluster: &Cluster, snapshot: &Snapshot, findings: &Findings) -> Self {
        let allocations = findings.allocations.iter();
        let allocations = allocations
            .map(|(ip, all)| (ip.to_string(), all.iter().map(|a| reported(a, snapshot.lacks_services())).collect()))
            .collect();
        let handles = findings.problems.iter().filter_map(|p| match p {
            Problem::HandleLeaked { handle } if !findings.handles_uncertain => {
                let revision = snapshot.handles.get(handle)?.revision.to_string();
                Some(ReportedHandle { id: handle.clone(), uid: None, revision })
            }
            _ => None,
        });
        let handles: Vec<ReportedHandle> = handles.collect();
        Self {
            version: cluster.version.clone(),
            cluster_guid: cluster.guid.clone(),
            datastore_locked: cluster.is_locked,
            cluster_information_revision: cluster.revision.clone(),
            cluster_type: cluster.cluster_type.clone(),
            allocations: Some(allocations),
            leaked_handles: (!handles.is_empty()).then_some(handles),
        }
    }
}

fn reported(allocation: &Allocation, lacks_services: bool) -> ReportedAllocation {
    // Whoever releases by a report must not take it for nobody's.
    let mut owners = allocation.owners.clone();
    if owners.is_empty() && lacks_services && allocation.is_of_service() {
        owners.push("its Services are not in this store".into());
    }
    let text = |name| allocation.attr(name).unwrap_or_default().to_string();
    ReportedAllocation {
        ip: allocation.ip.to_string(),
        handle: allocation.handle().unwrap_or_default().to_string(),
        sequence_number: Some(allocation.sequence),
        pod: text(attr::POD),
        namespace: text(attr::NAMESPACE),
        node: allocation.node.clone(),
        kind: text(attr::TYPE),
        creation_timestamp: text(attr::TIMESTAMP),
        in_use: !owners.is_empty(),
        borrowed: allocation.is_borrowed,
        cooling_down: allocation.is_cooling(),
        owners: (!owners.is_empty()).then_some(owners),
    }
}

/// What every report says is leaked, and of that what has not changed between them.
///
/// # Errors
/// A text that is no address.
pub fn agreed(reports: &[Report]) -> Result<(Vec<LeakedIp>, Vec<ReportedHandle>), String> {
    let mut ips: Option<BTreeMap<IpAddr, LeakedIp>> = None;
    let mut handles: Option<BTreeMap<String, ReportedHandle>> = None;
    for report in reports {
        let mut leaked = BTreeMap::new();
        for allocation in report.allocations.iter().flatten().flat_map(|(_, all)| all) {
            if allocation.in_use || allocation.cooling_down {
                continue;
            }
            let address = allocation.ip.parse().map_err(|_| format!("\"{}\" is no address", allocation.ip))?;
            let handle = Some(allocation.handle.clone()).filter(|h| !h.is_empty());
            let found = LeakedIp { address, handle, sequence: allocation.sequence_number };
            // Another allocation of the same address in between has another number.
            if ips.as_ref().is_none_or(|before| before.get(&address) == Some(&found)) {
                leaked.insert(address, found);
            }
        }
        ips = Some(leaked);
        let all = report.leaked_handles.iter().flatten();
        let known =
            all.filter(|h| handles.as_ref().is_none_or(|b| b.get(&h.id).is_some_and(|o| o.revision == h.revision)));
        handles = Some(known.map(|h| (h.id.clone(), h.clone())).collect());
    }
    Ok((ips.unwrap_or_default().into_values().collect(), handles.unwrap_or_default().into_values().collect()))
}
