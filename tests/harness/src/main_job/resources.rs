//! Step 1: the seed's YAML applies in both API groups; pasted as it is printed, it is refused with the cause.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Job;
use crate::cluster::{LEAF_ADDRESSES, LEAF_ASNS, repository};

/// Files below `docs/examples/pasted`, and what the message about each has to name.
const PASTED: [(&str, &str); 5] = [
    ("ippool.yaml", "indentation"),
    ("ippool-quotes.yaml", "quote"),
    ("bgpconfigurations.yaml", "indentation"),
    ("bgppeer1.yaml", "indentation"),
    ("namespace.yaml", "indentation"),
];

/// A pool as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    pub cidr: String,
}

/// Pools by block size.
#[derive(Clone, Debug, Default)]
pub struct Pools(BTreeMap<u64, Pool>);

impl Pools {
    /// The pool of that block size.
    ///
    /// # Errors
    /// When the seed's YAML brought none.
    pub fn of_block_size(&self, size: u64) -> Result<&Pool> {
        self.0.get(&size).with_context(|| format!("the examples hold no IPPool with blockSize {size}: {:?}", self.0))
    }
}

/// Applies the examples in both API groups, the nodes, and with eBGP the leaves' AS numbers; reads the pools back.
///
/// # Errors
/// With what calicoctl says.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(1, "The seed's YAML, in both API groups");
    let examples = repository().join("docs/examples");
    for (file, cause) in PASTED {
        let path = examples.join("pasted").join(file).display().to_string();
        let refused = job.lab.calicoctl(&["apply", "-f", &path])?;
        if refused.code != 1 || !refused.text().to_lowercase().contains(cause) {
            bail!(
                "`{}` is not refused with the cause '{cause}' (code {}): {}",
                refused.command,
                refused.code,
                refused.text()
            );
        }
        job.report.all(&refused);
    }
    job.report.checked("pasted as the seed prints it, each is refused, and the message names the cause");
    if !pools(job)?.0.is_empty() {
        bail!("a refused document left a pool behind");
    }
    for group in ["crd-v1", "v3"] {
        let applied = job
            .lab
            .calicoctl(&["apply", "-f", &examples.join("calico-bgp").join(group).display().to_string()])?
            .ok()?;
        job.report.all(&applied);
    }
    let nodes = job.lab.calicoctl(&["apply", "-f", &examples.join("nodes.yaml").display().to_string()])?.ok()?;
    job.report.all(&nodes);
    if job.lab.options.ebgp {
        use_leaf_asns(job)?;
    }
    job.pools = pools(job)?;
    for size in [29, 31, 32] {
        job.pools.of_block_size(size)?;
    }
    fast_timers(job)?;
    job.report.conclude(
        "the seed's YAML applies in crd.projectcalico.org/v1 and projectcalico.org/v3",
        "calicoctl apply -f docs/examples/calico-bgp",
    );
    Ok(())
}

/// Each leaf has its own AS, and one BGPPeer for itself.
fn use_leaf_asns(job: &Job) -> Result<()> {
    let peers = items(job, "bgppeer")?;
    for (address, asn) in LEAF_ADDRESSES.iter().zip(LEAF_ASNS) {
        let mut peer = peers
            .iter()
            .find(|p| p["spec"]["peerIP"] == *address)
            .cloned()
            .with_context(|| format!("the examples hold no BGPPeer for {address}"))?;
        peer["spec"]["asNumber"] = asn.into();
        strip_versions(&mut peer);
        job.lab.apply(&peer.to_string())?;
    }
    Ok(())
}

/// Connects again soon after a leaf is back; the default of 120 s belongs in no quick test.
fn fast_timers(job: &Job) -> Result<()> {
    for mut peer in items(job, "bgppeer")? {
        peer["spec"]["connectRetryTime"] = "1s".into();
        peer["spec"]["holdTime"] = "9s".into();
        strip_versions(&mut peer);
        job.lab.apply(&peer.to_string())?;
    }
    Ok(())
}

fn strip_versions(resource: &mut Value) {
    if let Some(metadata) = resource["metadata"].as_object_mut() {
        for field in ["resourceVersion", "uid", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
}

/// Every resource of a kind, as JSON.
///
/// # Errors
/// When calicoctl fails.
pub fn items(job: &Job, kind: &str) -> Result<Vec<Value>> {
    let listed = job.lab.calicoctl(&["get", kind, "-o", "json"])?.json()?;
    Ok(match listed {
        Value::Array(items) => items,
        other if other["items"].is_array() => other["items"].as_array().cloned().unwrap_or_default(),
        other => vec![other],
    })
}

fn pools(job: &Job) -> Result<Pools> {
    let mut pools = BTreeMap::new();
    for pool in items(job, "ippool")? {
        let field = |f: &str| pool["spec"][f].as_str().unwrap_or_default().to_string();
        let name = pool["metadata"]["name"].as_str().unwrap_or_default().to_string();
        if let Some(size) = pool["spec"]["blockSize"].as_u64() {
            pools.entry(size).or_insert(Pool { name, cidr: field("cidr") });
        }
    }
    Ok(Pools(pools))
}
