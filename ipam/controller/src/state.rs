//! What the controller knows: the watched objects, as the store had them last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AllocationBlock, attr};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::meta::{Body, Resource};
use api::service::PodBody;
use api::{EndpointSlice, IpPool, Service, WorkloadEndpoint};
use datastore::watcher::Update;
use datastore::{KeyValue, typed};
use ipam::block::Block;
use ipnet::IpNet;

/// The `type` attribute of a service's addresses (Calico `ipam.AttributeTypeLoadBalancer`).
pub const TYPE_LOAD_BALANCER: &str = "LoadBalancer";

/// Namespace and name.
pub type Name = (String, String);

/// Addresses of one service, as the blocks have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub service: Name,
    pub addresses: BTreeSet<IpAddr>,
}

/// The watched objects.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub services: BTreeMap<Name, Service>,
    pub slices: BTreeMap<Name, EndpointSlice>,
    pub workloads: BTreeMap<Name, WorkloadEndpoint>,
    /// The labels of pods; the rest of a pod is large and says nothing here.
    pub pods: BTreeMap<Name, BTreeMap<String, String>>,
    pub pools: BTreeMap<String, IpPool>,
    /// By block: handle to what it has there, for handles of services only.
    blocks: BTreeMap<IpNet, BTreeMap<String, Allocation>>,
    /// Why a service could not get its address when it was last tried.
    pub failures: BTreeMap<Name, String>,
    pub is_in_sync: bool,
    /// Whether something changed since [`State::take_dirty`].
    is_dirty: bool,
}

/// What is to be watched.
pub fn ranges() -> Vec<KeyRange> {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::WorkloadEndpoint, Kind::Pod, Kind::IpPool];
    kinds.into_iter().map(KeyRange::Kind).chain([KeyRange::Blocks]).collect()
}

impl State {
    /// Takes an update over.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::InSync => {
                self.is_in_sync = true;
                self.is_dirty = true;
            }
            Update::Put(kv) => self.put(&kv),
            Update::Delete(key) => self.delete(&key),
        }
    }

    /// Whether something changed since the last call.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The addresses of services, by handle.
    pub fn allocations(&self) -> BTreeMap<&str, Allocation> {
        let mut all: BTreeMap<&str, Allocation> = BTreeMap::new();
        for (handle, part) in self.blocks.values().flatten() {
            let whole = all.entry(handle).or_default();
            whole.service = part.service.clone();
            whole.addresses.extend(&part.addresses);
        }
        all
    }

    fn put(&mut self, kv: &KeyValue) {
        if let Key::IpamBlock(cidr) = kv.key {
            let found = service_addresses(kv);
            if self.blocks.get(&cidr).is_none_or(|known| *known != found) {
                // A block without services says nothing that matters here.
                self.is_dirty |= !found.is_empty() || self.blocks.contains_key(&cidr);
                if found.is_empty() {
                    self.blocks.remove(&cidr);
                } else {
                    self.blocks.insert(cidr, found);
                }
            }
            return;
        }
        let Some((kind, name)) = named(&kv.key) else { return };
        match kind {
            Kind::Service => store(&mut self.services, name, kv),
            Kind::EndpointSlice => store(&mut self.slices, name, kv),
            Kind::WorkloadEndpoint => store(&mut self.workloads, name, kv),
            Kind::Pod => {
                let labels = decoded::<PodBody>(kv).map(|pod| pod.metadata.labels);
                if self.pods.get(&name) == labels.as_ref() {
                    return;
                }
                match labels {
                    Some(labels) => drop(self.pods.insert(name, labels)),
                    None => drop(self.pods.remove(&name)),
                }
            }
            Kind::IpPool => store(&mut self.pools, name.1, kv),
            _ => return,
        }
        self.is_dirty = true;
    }

    fn delete(&mut self, key: &Key) {
        if let Key::IpamBlock(cidr) = key {
            self.is_dirty |= self.blocks.remove(cidr).is_some();
            return;
        }
        let Some((kind, name)) = named(key) else { return };
        match kind {
            Kind::Service => {
                self.failures.remove(&name);
                self.services.remove(&name);
            }
            Kind::EndpointSlice => drop(self.slices.remove(&name)),
            Kind::WorkloadEndpoint => drop(self.workloads.remove(&name)),
            Kind::Pod => drop(self.pods.remove(&name)),
            Kind::IpPool => drop(self.pools.remove(&name.1)),
            _ => return,
        }
        self.is_dirty = true;
    }
}

fn named(key: &Key) -> Option<(Kind, Name)> {
    Some((key.kind()?, (key.namespace().unwrap_or_default().to_string(), key.name()?.to_string())))
}

fn store<K: Ord, B: Body>(map: &mut BTreeMap<K, Resource<B>>, name: K, kv: &KeyValue) {
    match decoded(kv) {
        Some(resource) => drop(map.insert(name, resource)),
        None => drop(map.remove(&name)),
    }
}

/// An object that cannot be read counts as absent, and is logged.
fn decoded<B: Body>(kv: &KeyValue) -> Option<Resource<B>> {
    typed::decode(kv).inspect_err(|error| tracing::warn!(%error, "an object of the datastore is ignored")).ok()
}

/// The services that have addresses in a block, by handle.
fn service_addresses(kv: &KeyValue) -> BTreeMap<String, Allocation> {
    let mut found: BTreeMap<String, Allocation> = BTreeMap::new();
    let read = serde_json::from_slice::<AllocationBlock>(&kv.value).map_err(|e| e.to_string());
    let block = match read.and_then(|stored| Block::from_stored(stored).map_err(|e| e.to_string())) {
        Ok(block) => block,
        Err(error) => {
            tracing::warn!(key = %kv.key, error, "a block is ignored");
            return found;
        }
    };
    for (address, attribute) in block.allocated() {
        let (Some(handle), Some(attributes)) = (&attribute.handle_id, &attribute.secondary) else { continue };
        if attributes.get(attr::TYPE).map(String::as_str) != Some(TYPE_LOAD_BALANCER) {
            continue;
        }
        let text = |key: &str| attributes.get(key).cloned().unwrap_or_default();
        let allocation = found.entry(handle.clone()).or_default();
        allocation.service = (text(attr::NAMESPACE), text(attr::SERVICE));
        allocation.addresses.insert(address);
    }
    found
}
