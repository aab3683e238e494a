//! The resources that bgpd lives on, as the store has them: plain data for `peers` and `origins`.
//!
//! An object that cannot be read counts as absent, and is named in the log.

use std::collections::{BTreeMap, BTreeSet};

use api::ipam::{AffinityState, BlockAffinity};
use api::key::{AffinityOwner, KeyRange};
use api::meta::Body;
use api::{BgpConfiguration, BgpFilter, BgpPeer, IpPool, Key, Kind, Node, Resource};
use datastore::store::KeyValue;
use datastore::typed;
use datastore::watcher::Update;
use ipnet::IpNet;

/// The current resources, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub nodes: BTreeMap<String, Node>,
    pub peers: BTreeMap<String, BgpPeer>,
    pub configurations: BTreeMap<String, BgpConfiguration>,
    pub filters: BTreeMap<String, BgpFilter>,
    pub pools: BTreeMap<String, IpPool>,
    /// Blocks with a confirmed affinity to this node.
    pub own_blocks: BTreeSet<IpNet>,
}

impl Resources {
    /// What to watch on this node.
    pub fn ranges(node: &str) -> Vec<KeyRange> {
        let kinds = [Kind::Node, Kind::BgpPeer, Kind::BgpConfiguration, Kind::BgpFilter, Kind::IpPool];
        let own_blocks = KeyRange::AffinitiesOf(AffinityOwner::Host(node.to_string()));
        kinds.into_iter().map(KeyRange::Kind).chain([own_blocks]).collect()
    }

    /// Takes one update; whether anything changed.
    pub fn update(&mut self, update: &Update) -> bool {
        match update {
            Update::Put(kv) => self.put(kv),
            Update::Delete(key) => self.delete(key),
            Update::InSync => false,
        }
    }

    fn put(&mut self, kv: &KeyValue) -> bool {
        match (&kv.key, kv.key.kind()) {
            (Key::BlockAffinity(_, cidr), _) => match is_confirmed(&kv.value) {
                true => self.own_blocks.insert(*cidr),
                false => self.own_blocks.remove(cidr),
            },
            (_, Some(Kind::Node)) => put(&mut self.nodes, kv),
            (_, Some(Kind::BgpPeer)) => put(&mut self.peers, kv),
            (_, Some(Kind::BgpConfiguration)) => put(&mut self.configurations, kv),
            (_, Some(Kind::BgpFilter)) => put(&mut self.filters, kv),
            (_, Some(Kind::IpPool)) => put(&mut self.pools, kv),
            _ => false,
        }
    }

    fn delete(&mut self, key: &Key) -> bool {
        let name = key.name().unwrap_or_default();
        match (key, key.kind()) {
            (Key::BlockAffinity(_, cidr), _) => self.own_blocks.remove(cidr),
            (_, Some(Kind::Node)) => self.nodes.remove(name).is_some(),
            (_, Some(Kind::BgpPeer)) => self.peers.remove(name).is_some(),
            (_, Some(Kind::BgpConfiguration)) => self.configurations.remove(name).is_some(),
            (_, Some(Kind::BgpFilter)) => self.filters.remove(name).is_some(),
            (_, Some(Kind::IpPool)) => self.pools.remove(name).is_some(),
            _ => false,
        }
    }
}

fn put<B: Body>(objects: &mut BTreeMap<String, Resource<B>>, kv: &KeyValue) -> bool {
    let name = kv.key.name().unwrap_or_default().to_string();
    match typed::decode::<B>(kv) {
        Ok(object) => objects.insert(name, object.clone()).as_ref() != Some(&object),
        Err(error) => {
            tracing::warn!(%error, key = %kv.key, "an object cannot be read and counts as absent");
            objects.remove(&name).is_some()
        }
    }
}

/// An empty value is Calico's old form of a confirmed affinity.
fn is_confirmed(value: &[u8]) -> bool {
    value.is_empty()
        || serde_json::from_slice::<BlockAffinity>(value)
            .is_ok_and(|a| a.state == AffinityState::Confirmed && !a.deleted)
}
