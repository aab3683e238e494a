//! The last look at workload endpoints before addresses are released: what the watch has not shown yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::attr;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::workload::WorkloadEndpointSpec;
use api::{Key, Kind};
use datastore::{DynStore, KeyValue, typed};

use super::together;
use crate::allocator::{Error, IpInfo};
use crate::gc::{Reason, Release, node_of_endpoint};

/// Addresses that an endpoint may have, with the node of the workload that each was given to, where it is of one.
pub type Suspects = BTreeMap<IpAddr, Option<String>>;

/// Adds an address, unless it is a tunnel's or a service's: no endpoint has those.
pub fn suspect(suspects: &mut Suspects, info: &IpInfo) {
    if info.attributes.get(attr::TYPE).is_none_or(String::is_empty) {
        suspects.insert(info.ip, info.attributes.get(attr::NODE).cloned());
    }
}

/// What may be released of what has passed the other checks: that of which no endpoint has an address. Every endpoint of the nodes is
/// read, whatever its name, orchestrator and namespace.
pub async fn unused(
    store: &DynStore,
    releases: &[Release],
    checked: Vec<Result<Option<Suspects>, Error>>,
) -> Vec<Result<bool, Error>> {
    let suspects = checked.iter().filter_map(|c| c.as_ref().ok()?.as_ref()).flat_map(BTreeMap::values);
    let nodes: BTreeSet<Option<&String>> = suspects.map(Option::as_ref).collect();
    let endpoints = Endpoints::read(store, &nodes).await;
    let mut outcomes = Vec::new();
    for (release, checked) in releases.iter().zip(&checked) {
        outcomes.push(match (checked, &endpoints) {
            (Err(error), _) => Err(error.clone()),
            (Ok(None), _) => Ok(false),
            (Ok(Some(suspects)), _) if suspects.is_empty() => Ok(true),
            (Ok(Some(_)), Err(error)) => Err(error.clone().into()),
            (Ok(Some(suspects)), Ok(endpoints)) => Ok(!endpoints.may_use(suspects, release.reason())),
        });
    }
    outcomes
}

/// The endpoints of some nodes.
#[derive(Default)]
struct Endpoints {
    addresses: BTreeSet<IpAddr>,
    /// Nodes with an endpoint that cannot be read, and whether the node is there. Empty: its name tells of none.
    unreadable: BTreeMap<String, bool>,
}

impl Endpoints {
    async fn read(store: &DynStore, nodes: &BTreeSet<Option<&String>>) -> Result<Self, datastore::Error> {
        let mut endpoints = Self::default();
        if nodes.is_empty() {
            return Ok(endpoints);
        }
        for kv in read_endpoints(store, nodes).await? {
            match typed::decode::<WithSpec<WorkloadEndpointSpec>>(&kv) {
                Ok(endpoint) => {
                    let networks = endpoint.body.spec.ip_networks.iter();
                    endpoints
                        .addresses
                        .extend(networks.filter_map(|net| net.split('/').next()?.parse::<IpAddr>().ok()));
                }
                Err(_) => {
                    let node = kv.key.name().map(node_of_endpoint).unwrap_or_default();
                    endpoints.unreadable.insert(node, true);
                }
            }
        }
        for (node, is_there) in &mut endpoints.unreadable {
            *is_there = node.is_empty() || store.get(&Key::resource(Kind::Node, None, node)).await?.is_some();
        }
        Ok(endpoints)
    }

    /// Whether an endpoint has one of the addresses, or cannot be read and may have it. One of a node that is gone counts only before a
    /// grace period has passed.
    fn may_use(&self, suspects: &Suspects, reason: &Reason) -> bool {
        let is_soon = matches!(reason, Reason::NodeGone(_));
        suspects.iter().any(|(ip, node)| {
            let mut unreadable = self.unreadable.iter().filter(|(of, _)| node.as_ref().is_none_or(|node| node == *of));
            self.addresses.contains(ip) || unreadable.any(|(_, is_there)| is_soon || *is_there)
        })
    }
}

/// The endpoints of the nodes; of all nodes where an address is of none.
async fn read_endpoints(
    store: &DynStore,
    nodes: &BTreeSet<Option<&String>>,
) -> Result<Vec<KeyValue>, datastore::Error> {
    let range = KeyRange::Kind(Kind::WorkloadEndpoint);
    if nodes.contains(&None) {
        return Ok(store.list(&range).await?.items);
    }
    let is_of_nodes = |key: &Key| key.name().is_some_and(|name| nodes.contains(&Some(&node_of_endpoint(name))));
    let keys = store.list_keys(&range).await?.items.into_iter().map(|kv| kv.key).filter(is_of_nodes);
    let keys: Vec<Key> = keys.collect();
    let mut reads = Vec::new();
    for key in &keys {
        reads.push(store.get(key));
    }
    let mut found = Vec::new();
    for read in together(reads).await {
        found.extend(read?);
    }
    Ok(found)
}
