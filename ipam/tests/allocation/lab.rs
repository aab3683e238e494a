//! A store with nodes and a pool, and the audit of what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::ip_pool::IpPoolSpec;
use api::ipam::IpamHandle;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::{IpPool, Key, Metadata, Node, NodeSpec};
use datastore::memory::MemoryStore;
use datastore::{DynStore, typed};
use ipam::block::Block;
use ipam::{AffinityOwner, AssignRequest, Ipam, IpamConfig, ReleaseRequest};
use ipnet::IpNet;

pub const STRICT: IpamConfig = IpamConfig {
    strict_affinity: true,
    auto_allocate_blocks: true,
    max_blocks_per_host: 0,
    kube_virt_vm_address_persistence: None,
    ip_cooldown_seconds: 0,
};

pub fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn host(name: &str) -> AffinityOwner {
    AffinityOwner::Host(name.into())
}

pub fn request(node: &str, handle: &str) -> AssignRequest {
    AssignRequest { num_v4: 1, ..AssignRequest::new(host(node), handle) }
}

pub fn requests(addresses: &[IpAddr]) -> Vec<ReleaseRequest> {
    addresses.iter().copied().map(Into::into).collect()
}

pub async fn add_pool(store: &DynStore, name: &str, cidr: &str, block_size: u8, change: impl FnOnce(&mut IpPoolSpec)) {
    let mut spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new(net(cidr)) };
    change(&mut spec);
    let pool = IpPool::new(Metadata::named(name), WithSpec { spec, status: None });
    typed::apply(store.as_ref(), &pool).await.unwrap();
}

pub async fn add_nodes(store: &DynStore, names: &[&str]) {
    for name in names {
        let body = WithSpec { spec: NodeSpec::default(), status: None };
        typed::create(store.as_ref(), &Node::new(Metadata::named(*name), body)).await.unwrap();
    }
}

/// A store with nodes a, b, c and one pool.
pub async fn lab(cidr: &str, block_size: u8) -> (MemoryStore, DynStore, Ipam) {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_nodes(&store, &["a", "b", "c"]).await;
    add_pool(&store, "pool", cidr, block_size, |_| {}).await;
    (memory, store.clone(), Ipam::new(store))
}

/// Every address that is taken, by handle; panics unless blocks, handles and affinities agree and no address is there twice.
pub async fn audit(store: &DynStore) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut held: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut claims = BTreeSet::new();
    let blocks = store.list(&KeyRange::Blocks).await.unwrap().items;
    for kv in &blocks {
        let block = Block::from_stored(serde_json::from_slice(&kv.value).unwrap()).unwrap();
        assert_eq!(kv.key, Key::IpamBlock(block.cidr()));
        claims.extend(block.owner().map(|o| Key::BlockAffinity(o, block.cidr())));
        for (address, attribute) in block.allocated() {
            assert!(seen.insert(address), "{address} is in two blocks");
            let handle = attribute.handle_id.clone().unwrap();
            *counts.entry(handle.clone()).or_default().entry(block.cidr().to_string()).or_default() += 1;
            held.entry(handle).or_default().insert(address);
        }
    }
    let stored = store.list(&KeyRange::Handles).await.unwrap().items;
    let stored: BTreeMap<String, BTreeMap<String, usize>> = stored
        .into_iter()
        .map(|kv| match kv.key {
            Key::IpamHandle(id) => (id, serde_json::from_slice::<IpamHandle>(&kv.value).unwrap().block),
            other => panic!("{other} among the handles"),
        })
        .collect();
    assert_eq!(stored, counts, "handles are exact");
    let mut affinities = store.list(&KeyRange::HostAffinities).await.unwrap().items;
    affinities.extend(store.list(&KeyRange::VirtualAffinities).await.unwrap().items);
    let affinities: BTreeSet<Key> = affinities
        .into_iter()
        .inspect(|kv| assert_eq!(kv.value, br#"{"state":"confirmed","deleted":false}"#, "{}", kv.key))
        .map(|kv| kv.key)
        .collect();
    assert_eq!(affinities, claims, "affinities and owners agree");
    held
}
