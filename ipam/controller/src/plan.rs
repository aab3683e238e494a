//! What is to be done about what changed: a function of the state alone. Pure.
//!
//! Each action makes the state more like what is wanted; done, or overtaken, it is not planned again. An action carries the revision
//! that it was planned on, so a stale one fails and the next plan knows better.

pub mod addresses;
mod load_balancer;
mod nodes;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::ipam::attr;
use api::service::{ServiceSpec, ServiceStatus};
use api::{EndpointSlice, Key, LoadBalancerIpPool, Service, WorkloadEndpoint};
use ipam::pool::Family;
use ipnet::IpNet;
use serde_json::{Value, json};

pub use ipam::service_address::sharing_key;
#[cfg(test)]
pub use load_balancer::set_ingress;
pub use load_balancer::{handle_of, ingress_of, wants_address};

use load_balancer::Placement;

use crate::state::{ATTRIBUTE_POOL, Dirty, Name, State, TYPE_LOAD_BALANCER, service_of};

/// The condition in a service's status that says what it did not get. Absent while it has everything.
const CONDITION: &str = "tortie.io/Allocated";

/// From where services get what they do not name.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One, or one of each family; the first is that of services which name no family.
    pub cluster_ips: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    /// Kubernetes gives services their cluster IPs, ports and slices, and keeps its nodes.
    pub has_kubernetes: bool,
    /// What would be collected is only said.
    pub is_dry_run: bool,
}

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// With the cluster IP, node ports and load-balancer addresses that it lacked.
    UpdateService(Box<Service>),
    CreateSlice(Box<EndpointSlice>),
    UpdateSlice(Box<EndpointSlice>),
    DeleteSlice(Box<EndpointSlice>),
    /// With the labels of its pod.
    UpdateWorkload(Box<WorkloadEndpoint>),
    AssignAddress(AssignAddress),
    /// What a service has beyond what it wants, while it is still the allocation with that number.
    ReleaseAddresses {
        service: Name,
        handle: String,
        addresses: Vec<(IpAddr, Option<u64>)>,
    },
    /// Of a service that is gone, or wants no address any more.
    ReleaseHandle {
        service: Name,
        handle: String,
        addresses: Vec<(IpAddr, Option<u64>)>,
    },
    /// An address that several services share, to one of them: that whose handle has it left.
    HandOver {
        address: IpAddr,
        from: String,
        sequence: Option<u64>,
        service: Name,
        handle: String,
        /// The LoadBalancerIPPool that it is of, if it is of one.
        pool: Option<String>,
    },
    /// With its status.
    UpdatePool(Box<LoadBalancerIpPool>),
    /// What was a node's own, while that does not exist, and as it was then.
    DeleteOfNode {
        node: String,
        key: Key,
        revision: Option<u64>,
    },
}

impl Action {
    /// Whether it takes away what nobody needs any more: a dry run only says it.
    pub fn is_collection(&self) -> bool {
        matches!(self, Self::ReleaseHandle { .. } | Self::DeleteOfNode { .. })
    }

    /// Marks what the action is about, to be planned again.
    pub fn mark(&self, dirty: &mut Dirty) {
        let name = |m: &api::Metadata| (m.namespace.clone().unwrap_or_default(), m.name.clone());
        match self {
            Self::UpdateService(s) => drop(dirty.services.insert(name(&s.metadata))),
            Self::CreateSlice(s) | Self::UpdateSlice(s) | Self::DeleteSlice(s) => dirty.endpoints.extend(service_of(s)),
            Self::UpdateWorkload(w) => drop(dirty.workloads.insert(name(&w.metadata))),
            Self::AssignAddress(a) => drop(dirty.services.insert(a.service.clone())),
            Self::ReleaseAddresses { service, handle, .. } | Self::ReleaseHandle { service, handle, .. } => {
                dirty.services.insert(service.clone());
                dirty.handles.insert(handle.clone());
            }
            Self::HandOver { service, from, .. } => {
                dirty.services.insert(service.clone());
                dirty.handles.insert(from.clone());
            }
            Self::UpdatePool(pool) => drop(dirty.pools.insert(pool.metadata.name.clone())),
            Self::DeleteOfNode { node, .. } => drop(dirty.nodes.insert(node.clone())),
        }
    }
}

/// A load-balancer address for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignAddress {
    pub service: Name,
    pub handle: String,
    pub wish: Wish,
    pub family: Family,
    /// IPPools asked for by CIDR; empty: all for load balancers.
    pub pools: Vec<IpNet>,
    /// The block and the LoadBalancerIPPool that the address is of, if it is of one.
    pub from: Option<(IpNet, String)>,
    /// Addresses of the family that the handle keeps until it has this one.
    pub besides: usize,
}

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Any,
    /// The user's: this or none.
    Must(IpAddr),
    /// What the status says, else any.
    Prefer(IpAddr),
}

impl AssignAddress {
    /// What the allocation is to carry.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        service_attributes(&self.service, self.from.as_ref().map(|(_, pool)| pool.as_str()))
    }
}

/// What an allocation for a service carries (Calico `kube-controllers/pkg/controllers/loadbalancer`), and the LoadBalancerIPPool that
/// the address is of.
pub fn service_attributes((namespace, name): &Name, pool: Option<&str>) -> BTreeMap<String, String> {
    let pairs = [(attr::SERVICE, name.as_str()), (attr::NAMESPACE, namespace), (attr::TYPE, TYPE_LOAD_BALANCER)];
    pairs
        .into_iter()
        .chain(pool.map(|pool| (ATTRIBUTE_POOL, pool)))
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

/// What a service did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word, as Kubernetes has it.
    reason: &'static str,
    message: String,
}

impl Problem {
    /// Whether it ends when somebody gives something back.
    fn is_starved(&self) -> bool {
        matches!(self.reason, "ClusterIPRangeFull" | "NodePortRangeFull")
    }
}

/// What is to be done about what changed since the last call. `now` (RFC 3339) dates conditions that change.
pub fn plan(state: &mut State, settings: &Settings, now: &str) -> Vec<Action> {
    let mut dirty = std::mem::take(&mut state.dirty);
    state.exhausted.clear();
    // A service that is not there yet, or is of another type now, may have left an address behind.
    let handles = dirty.services.iter().filter_map(|name| handle_of(name, state.services.get(name)?));
    dirty.handles.extend(handles);
    let mut actions = Vec::new();
    if !settings.has_kubernetes {
        for name in &dirty.workloads {
            actions.extend(relabelled(state, name));
        }
        for name in &dirty.endpoints {
            slices::plan(state, name, &mut actions);
        }
    }
    for node in &dirty.nodes {
        nodes::plan(state, node, settings, &mut actions);
    }
    // First of all what nobody wants: who wants it may come next.
    for handle in &dirty.handles {
        load_balancer::release_unwanted(state, handle, &mut actions);
    }
    // Who shares an address is planned with those that may share it.
    let sharing = dirty.services.iter().flat_map(|name| state.sharing_with(name));
    let services: BTreeSet<Name> = sharing.chain(dirty.services.iter().cloned()).collect();
    let aged = |name: &Name| Some(addresses::age(name, state.services.get(name)?));
    let by_age: BTreeSet<addresses::Age> = services.iter().filter_map(aged).collect();
    let mut placements: BTreeMap<Name, Placement> = BTreeMap::new();
    for (_, name) in &by_age {
        let mut wanted = state.services[name].clone();
        let mut problems = Vec::new();
        if !settings.has_kubernetes {
            problems = state.held.complete(name, &mut wanted, settings);
        }
        if wants_address(&wanted) && handle_of(name, &wanted).is_some() {
            if !placements.contains_key(name) {
                let members = state.group_of(name);
                placements.extend(load_balancer::plan_group(&members, state, &mut actions));
            }
            let placement = placements.remove(name).unwrap_or_default();
            if placement.problems.is_empty() {
                state.starved.remove(name);
            } else {
                state.starved.insert(name.clone());
            }
            load_balancer::set_ingress(&mut wanted, &placement.ingress);
            problems.extend(placement.problems);
        } else {
            load_balancer::forget(&mut wanted);
        }
        set_condition(&mut wanted, &problems, now);
        if wanted != state.services[name] {
            actions.push(Action::UpdateService(Box::new(wanted)));
        }
    }
    actions.extend(dirty.pools.iter().filter_map(|name| load_balancer::pool_status(state, name, now)));
    actions
}

/// An update for a workload that is stored with other labels than its pod has. A workload whose pod is no object of the store keeps what
/// the CNI plugin gave it.
fn relabelled(state: &State, name: &Name) -> Option<Action> {
    let workload = state.workloads.get(name).filter(|_| state.is_relabelled(name))?;
    Some(Action::UpdateWorkload(workload.clone()))
}

pub fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// As Kubernetes writes it.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The families that a service names, in its order (Kubernetes `spec.ipFamilies`).
pub fn named_families(spec: &ServiceSpec) -> Vec<Family> {
    let family = |v: &Value| match v.as_str() {
        Some("IPv4") => Some(Family::V4),
        Some("IPv6") => Some(Family::V6),
        _ => None,
    };
    spec.extra.get("ipFamilies").and_then(Value::as_array).into_iter().flatten().filter_map(family).collect()
}

/// Kubernetes `spec.ipFamilyPolicy`.
pub fn policy(spec: &ServiceSpec) -> Option<&str> {
    spec.extra.get("ipFamilyPolicy").and_then(Value::as_str)
}

/// Writes what a service did not get into its status. A condition that says the same keeps its time.
fn set_condition(service: &mut Service, problems: &[Problem], now: &str) {
    if service.body.status.is_none() && problems.is_empty() {
        return;
    }
    let status = service.body.status.get_or_insert_with(ServiceStatus::default);
    let conditions = status.extra.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_ours = |c: &Value| c["type"] == CONDITION;
    let mut wanted: Vec<Value> = conditions.iter().filter(|c| !is_ours(c)).cloned().collect();
    if let Some(first) = problems.first() {
        let message = problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ");
        let same = |c: &&Value| is_ours(c) && c["reason"] == first.reason && c["message"] == message.as_str();
        wanted.push(conditions.iter().find(same).cloned().unwrap_or_else(|| {
            json!({
                "type": CONDITION, "status": "False", "reason": first.reason, "message": message,
                "lastTransitionTime": now,
            })
        }));
    }
    if wanted.is_empty() {
        status.extra.shift_remove("conditions");
    } else {
        status.extra.insert("conditions".into(), Value::Array(wanted));
    }
}

#[cfg(test)]
mod tests;
