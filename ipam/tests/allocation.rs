//! Allocation against real stores: order of decisions, races, failures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::ip_pool::IpPoolSpec;
use api::ipam::IpamHandle;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::{IpPool, Key, Kind, Metadata, Node, NodeSpec};
use datastore::memory::{Fault, MemoryStore};
use datastore::sqlite::SqliteStore;
use datastore::{DynStore, typed};
use ipam::allocator::is_borrowed;
use ipam::block::Block;
use ipam::{AffinityOwner, AllowedUse, AssignRequest, Assignment, Error, Ipam, IpamConfig};
use ipnet::IpNet;
use proptest::prelude::*;

const STRICT: IpamConfig = IpamConfig {
    strict_affinity: true,
    auto_allocate_blocks: true,
    max_blocks_per_host: 0,
    kube_virt_vm_address_persistence: None,
    ip_cooldown_seconds: 0,
};

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn host(name: &str) -> AffinityOwner {
    AffinityOwner::Host(name.into())
}

fn request(node: &str, handle: &str) -> AssignRequest {
    AssignRequest {
        num_v4: 1,
        num_v6: 0,
        handle: handle.into(),
        attributes: BTreeMap::new(),
        owner: host(node),
        pools_v4: vec![],
        pools_v6: vec![],
        intended_use: AllowedUse::Workload,
        namespace: None,
    }
}

async fn add_pool(store: &DynStore, name: &str, cidr: &str, block_size: u8, change: impl FnOnce(&mut IpPoolSpec)) {
    let mut spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new(net(cidr)) };
    change(&mut spec);
    let pool = IpPool::new(Metadata::named(name), WithSpec { spec, status: None });
    typed::apply(store.as_ref(), &pool).await.unwrap();
}

async fn add_nodes(store: &DynStore, names: &[&str]) {
    for name in names {
        let body = WithSpec { spec: NodeSpec::default(), status: None };
        typed::create(store.as_ref(), &Node::new(Metadata::named(*name), body)).await.unwrap();
    }
}

/// A store with nodes a, b, c and one pool.
async fn lab(cidr: &str, block_size: u8) -> (MemoryStore, DynStore, Ipam) {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_nodes(&store, &["a", "b", "c"]).await;
    add_pool(&store, "pool", cidr, block_size, |_| {}).await;
    (memory, store.clone(), Ipam::new(store))
}

/// Every address that is taken, by handle; panics unless blocks, handles and affinities agree and no address is there twice.
async fn audit(store: &DynStore) -> BTreeMap<String, BTreeSet<IpAddr>> {
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
    let affinities = store.list(&KeyRange::HostAffinities).await.unwrap().items;
    let affinities: BTreeSet<Key> = affinities
        .into_iter()
        .inspect(|kv| assert_eq!(kv.value, br#"{"state":"confirmed","deleted":false}"#, "{}", kv.key))
        .map(|kv| kv.key)
        .collect();
    assert_eq!(affinities, claims, "affinities and owners agree");
    held
}

#[tokio::test]
async fn a_first_address_claims_a_block_in_one_transaction() {
    let (memory, store, ipam) = lab("10.0.0.0/16", 26).await;
    let before = memory.revision();
    let got = ipam.auto_assign(&request("a", "net.1")).await.unwrap();
    assert_eq!(memory.revision(), before + 1, "block, affinity and handle at once");
    assert_eq!((got.v4.len(), got.v4[0].prefix_len(), got.message), (1, 26, None));
    let info = ipam.ip_info(got.v4[0].addr()).await.unwrap().unwrap();
    assert_eq!((info.owner.as_deref(), info.handle.as_deref(), info.borrowed), (Some("host:a"), Some("net.1"), false));
    assert_eq!(info.attributes["node"], "a");
    assert!(info.attributes["timestamp"].ends_with(" +0000 UTC"), "{}", info.attributes["timestamp"]);
    let second = ipam.auto_assign(&request("a", "net.2")).await.unwrap();
    assert_eq!(second.v4[0].trunc(), got.v4[0].trunc(), "the node's block is used first");
    assert_eq!(audit(&store).await.len(), 2);
}

#[tokio::test]
async fn both_families_come_together_or_not_at_all() {
    let (_, store, ipam) = lab("10.0.0.0/16", 26).await;
    let dual = AssignRequest { num_v6: 1, ..request("a", "net.1") };
    let error = ipam.auto_assign(&dual).await.unwrap_err();
    assert_eq!(error.to_string(), "no configured Calico pools for node a");
    assert!(audit(&store).await.is_empty());
    add_pool(&store, "six", "fd00:1::/64", 122, |_| {}).await;
    let got = ipam.auto_assign(&dual).await.unwrap();
    assert_eq!((got.v4.len(), got.v6.len(), got.message), (1, 1, None));
    assert_eq!(audit(&store).await["net.1"].len(), 2);
    let mut released = ipam.release_by_handle("net.1").await.unwrap();
    released.sort();
    assert_eq!(released, [got.v4[0].addr(), got.v6[0].addr()]);
    assert!(audit(&store).await.is_empty());
}

#[tokio::test]
async fn a_full_pool_lends_and_strict_affinity_forbids_it() {
    // One block of two addresses: a owns it, b can only borrow.
    let (_, store, ipam) = lab("10.0.0.0/31", 31).await;
    ipam.auto_assign(&request("a", "net.1")).await.unwrap();

    ipam.set_config(STRICT).await.unwrap();
    let refused = ipam.auto_assign(&request("b", "net.2")).await.unwrap();
    assert_eq!(refused.v4, []);
    assert_eq!(
        refused.message.as_deref(),
        Some("Assigned 0 out of 1 requested IPv4 addresses; No more free affine blocks and strict affinity enabled")
    );

    ipam.set_config(IpamConfig::default()).await.unwrap();
    let borrowed = ipam.auto_assign(&request("b", "net.2")).await.unwrap();
    assert_eq!(borrowed.v4, [net("10.0.0.1/31")]);
    let info = ipam.ip_info(ip("10.0.0.1")).await.unwrap().unwrap();
    assert!(info.borrowed && info.owner.as_deref() == Some("host:a") && info.attributes["node"] == "b");

    let none = ipam.auto_assign(&request("c", "net.3")).await.unwrap();
    assert_eq!(
        none.message.as_deref(),
        Some("Assigned 0 out of 1 requested IPv4 addresses; No IPs available in pools: [10.0.0.0/31]")
    );
    assert_eq!(audit(&store).await.len(), 2);
}

#[tokio::test]
async fn at_its_block_limit_a_node_borrows_before_it_fails() {
    let (_, store, ipam) = lab("10.0.0.0/29", 31).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 1, ..IpamConfig::default() }).await.unwrap();
    ipam.auto_assign(&request("b", "b.1")).await.unwrap();
    let got = ipam.auto_assign(&AssignRequest { num_v4: 4, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 3, "two of its own block, one of b's");
    let message = got.message.unwrap();
    assert!(message.contains("Assigned 3 out of 4"), "{message}");
    assert!(message.contains("limit of 1 blocks reached for this node"), "{message}");
    ipam.set_config(IpamConfig { max_blocks_per_host: 1, ..STRICT }).await.unwrap();
    let none = ipam.auto_assign(&request("a", "a.2")).await.unwrap();
    assert!(none.v4.is_empty() && none.message.unwrap().contains("limit of 1 blocks"));
    audit(&store).await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_where_asked_for() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    let first = ipam.ensure_assigned(&request("a", "net.1")).await.unwrap();
    assert_eq!(ipam.ensure_assigned(&request("a", "net.1")).await.unwrap(), first);
    let two = ipam.ensure_assigned(&AssignRequest { num_v4: 2, ..request("a", "net.1") }).await.unwrap();
    assert!(two.v4.len() == 2 && two.v4[0] == first.v4[0]);
    ipam.auto_assign(&request("a", "net.1")).await.unwrap();
    assert_eq!(audit(&store).await["net.1"].len(), 3, "not where it is not asked for");
}

#[tokio::test]
async fn a_given_address_is_assigned_once() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "off", "10.9.0.0/24", 26, |p| p.disabled = true).await;
    let assign = |address: &str, handle: &'static str, node| {
        let (ipam, address) = (ipam.clone(), ip(address));
        async move { ipam.assign_ip(address, handle, BTreeMap::new(), host(node)).await }
    };
    assert_eq!(assign("10.0.0.70", "x", "a").await.unwrap(), net("10.0.0.70/26"));
    assert_eq!(assign("10.0.0.70", "x", "a").await.unwrap(), net("10.0.0.70/26"), "a retry of the same workload");
    let taken = assign("10.0.0.70", "y", "a").await.unwrap_err().to_string();
    assert!(taken.contains("Address already assigned in block"), "{taken}");
    for outside in ["172.16.0.1", "10.9.0.1"] {
        let error = assign(outside, "y", "a").await.unwrap_err().to_string();
        assert_eq!(error, "The provided IP address is not in a configured pool\n");
    }
    ipam.set_config(STRICT).await.unwrap();
    let foreign = assign("10.0.0.71", "y", "b").await.unwrap_err().to_string();
    assert!(foreign.starts_with("Block host affinity does not match"), "{foreign}");
    assert_eq!(audit(&store).await.len(), 1);
}

#[tokio::test]
async fn addresses_are_released_whoever_has_them() {
    let (_, store, ipam) = lab("10.0.0.0/24", 28).await;
    let got = ipam.auto_assign(&AssignRequest { num_v4: 40, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 40);
    let more = ipam.auto_assign(&request("a", "a.2")).await.unwrap();
    let mut wanted: Vec<IpAddr> = got.v4[..30].iter().map(|n| n.addr()).collect();
    wanted.extend([more.v4[0].addr(), ip("172.16.0.1"), got.v4[0].addr()]);
    let unallocated = ipam.release_ips(&wanted).await.unwrap();
    assert_eq!(unallocated, [ip("172.16.0.1")], "a duplicate is harmless");
    let held = audit(&store).await;
    assert_eq!((held.len(), held["a.1"].len()), (1, 10));
    assert!(ipam.release_by_handle("nobody").await.unwrap().is_empty());
}

#[tokio::test]
async fn more_blocks_than_one_transaction_takes_are_taken_in_several() {
    let (_, store, ipam) = lab("10.0.0.0/24", 32).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 200, ..IpamConfig::default() }).await.unwrap();
    let got = ipam.auto_assign(&AssignRequest { num_v4: 70, ..request("a", "many") }).await.unwrap();
    assert_eq!((got.v4.len(), got.message), (70, None));
    assert_eq!(audit(&store).await["many"].len(), 70);
    assert_eq!(ipam.release_by_handle("many").await.unwrap().len(), 70);
    assert!(audit(&store).await.is_empty());
}

#[tokio::test]
async fn blocks_go_with_their_owner_or_their_pools_selection() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    let blocks = || async { ipam.blocks().await.unwrap().len() };
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    ipam.release_by_handle("a.1").await.unwrap();
    assert_eq!(blocks().await, 1, "a node keeps its empty block");

    add_pool(&store, "pool", "10.0.0.0/24", 26, |p| p.node_selector = Some("!all()".into())).await;
    add_pool(&store, "other", "10.1.0.0/24", 26, |_| {}).await;
    ipam.auto_assign(&request("a", "a.2")).await.unwrap();
    assert_eq!(ipam.blocks().await.unwrap()[0].cidr.trunc().addr(), ipam.blocks().await.unwrap()[0].cidr.addr());
    assert!(ipam.blocks().await.unwrap().iter().all(|b| net("10.1.0.0/24").contains(&b.cidr)));

    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
    ipam.release_by_handle("a.2").await.unwrap();
    assert_eq!(blocks().await, 0, "nobody will use it again");
    audit(&store).await;
    let error = ipam.auto_assign(&request("a", "a.3")).await.unwrap_err();
    assert!(matches!(error, Error::NoNode(ref n) if n == "a"), "{error}");
}

#[tokio::test]
async fn an_old_empty_block_of_another_node_is_taken_over() {
    let (_, store, ipam) = lab("10.0.0.0/30", 30).await;
    ipam.set_config(STRICT).await.unwrap();
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    ipam.release_by_handle("a.1").await.unwrap();
    assert!(ipam.auto_assign(&request("b", "b.1")).await.unwrap().v4.is_empty(), "the claim is young");
    let key = Key::IpamBlock(net("10.0.0.0/30"));
    let mut block = ipam.blocks().await.unwrap().remove(0);
    block.affinity_claim_time = Some("2020-01-01T00:00:00Z".into());
    store.put(key, serde_json::to_vec(&block).unwrap()).await.unwrap();
    assert_eq!(ipam.auto_assign(&request("b", "b.1")).await.unwrap().v4.len(), 1);
    assert_eq!(ipam.blocks().await.unwrap()[0].affinity.as_deref(), Some("host:b"));
    audit(&store).await;
}

#[tokio::test]
async fn what_a_crash_of_calicos_leaves_is_repaired() {
    let (_, store, ipam) = lab("10.0.0.0/29", 30).await;
    // Pending without a block; and an affinity for a block that another node has.
    ipam.assign_ip(ip("10.0.0.4"), "b.1", BTreeMap::new(), host("b")).await.unwrap();
    for cidr in ["10.0.0.0/30", "10.0.0.4/30"] {
        let key = Key::BlockAffinity(host("a"), net(cidr));
        store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    }
    let got = ipam.auto_assign(&AssignRequest { num_v4: 5, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 5);
    let held = audit(&store).await;
    assert_eq!(held["a.1"].iter().filter(|ip| net("10.0.0.0/30").contains(*ip)).count(), 4);
}

#[tokio::test]
async fn a_new_block_size_never_overlaps_old_blocks() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    add_pool(&store, "pool", "10.0.0.0/28", 29, |_| {}).await;
    let got = ipam.auto_assign(&AssignRequest { num_v4: 16, ..request("b", "b.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 8 + 3, "the other half as one block, and what a's block lends");
    audit(&store).await;
}

#[tokio::test]
async fn injected_failures_neither_double_nor_leak() {
    let faults = [Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost];
    for first in faults {
        for second in faults {
            let (memory, store, ipam) = lab("10.0.0.0/24", 28).await;
            memory.fail_next_txn(first);
            memory.fail_next_txn(second);
            let one = ipam.auto_assign(&request("a", "a.1")).await.unwrap();
            let two = ipam.auto_assign(&AssignRequest { num_v4: 20, ..request("a", "a.2") }).await.unwrap();
            let held = audit(&store).await;
            assert_eq!(held["a.1"], BTreeSet::from([one.v4[0].addr()]), "{first:?} {second:?}");
            assert_eq!(held["a.2"], two.v4.iter().map(|n| n.addr()).collect(), "{first:?} {second:?}");
            memory.fail_next_txn(first);
            memory.fail_next_txn(second);
            assert!(ipam.release_ips(&[one.v4[0].addr()]).await.unwrap().is_empty(), "{first:?} {second:?}");
            memory.fail_next_txn(first);
            memory.fail_next_txn(second);
            assert_eq!(ipam.release_by_handle("a.2").await.unwrap().len(), 20, "{first:?} {second:?}");
            assert!(audit(&store).await.is_empty(), "{first:?} {second:?}");
        }
    }
}

#[tokio::test]
async fn an_unreachable_store_is_an_error_at_once() {
    let (memory, store, ipam) = lab("10.0.0.0/24", 28).await;
    memory.fail_next_txn(Fault::Unavailable);
    let error = ipam.auto_assign(&request("a", "a.1")).await.unwrap_err();
    assert!(matches!(error, Error::Store(datastore::Error::Unavailable(_))), "{error}");
    assert!(audit(&store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_writers_of_one_sqlite_file_share_without_doubles() {
    const TASKS: usize = 8;
    const EACH: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tortie.db");
    let store: DynStore = Arc::new(SqliteStore::open(&path).await.unwrap());
    add_nodes(&store, &["a", "b", "c", "d"]).await;
    // 512 addresses for 400: the nodes have to borrow as well.
    add_pool(&store, "pool", "10.0.0.0/23", 26, |_| {}).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        // Each has a connection of its own, as CNI plugins have.
        let ipam = Ipam::new(Arc::new(SqliteStore::open(&path).await.unwrap()));
        let node = ["a", "b", "c", "d"][task % 4];
        tasks.spawn(async move {
            let mut got = Vec::new();
            for i in 0..EACH {
                let handle = format!("net.{task}-{i}");
                let Assignment { v4, message, .. } = ipam.auto_assign(&request(node, &handle)).await.unwrap();
                assert_eq!((v4.len(), message), (1, None));
                got.push(v4[0].addr());
                if i % 5 == 4 {
                    assert_eq!(ipam.release_by_handle(&handle).await.unwrap(), [got.pop().unwrap()]);
                }
            }
            got
        });
    }
    let mut all = Vec::new();
    while let Some(got) = tasks.join_next().await {
        all.extend(got.unwrap());
    }
    let distinct: BTreeSet<IpAddr> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (TASKS * EACH * 4 / 5, all.len()));
    let held: BTreeSet<IpAddr> = audit(&store).await.into_values().flatten().collect();
    assert_eq!(held, distinct);
}

#[derive(Clone, Debug)]
enum Step {
    Assign { node: usize, handle: u8, n: usize },
    Ensure { node: usize, handle: u8 },
    Take { node: usize, handle: u8, last: u8 },
    Release { last: Vec<u8> },
    ReleaseHandle { handle: u8 },
    Strict(bool),
    Fail(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..6u8, 0..5usize).prop_map(|(node, handle, n)| Step::Assign { node, handle, n }),
        2 => (0..3usize, 0..6u8).prop_map(|(node, handle)| Step::Ensure { node, handle }),
        1 => (0..3usize, 0..6u8, 0..18u8).prop_map(|(node, handle, last)| Step::Take { node, handle, last }),
        2 => prop::collection::vec(0..18u8, 0..4).prop_map(|last| Step::Release { last }),
        2 => (0..6u8).prop_map(|handle| Step::ReleaseHandle { handle }),
        1 => any::<bool>().prop_map(Step::Strict),
        2 => (0..3u8).prop_map(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever three nodes do, and whatever the store does to them, the store holds what they were told.
    #[test]
    fn nodes_never_double_or_leak_an_address(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (memory, store, ipam) = lab("10.0.0.0/28", 30).await;
            let mut model: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
            let node = |i: usize| ["a", "b", "c"][i];
            let address = |last: u8| ip(&format!("10.0.0.{last}"));
            for step in steps {
                match step {
                    Step::Assign { node: i, handle, n } => {
                        let request = AssignRequest { num_v4: n, ..request(node(i), &handle.to_string()) };
                        let got = ipam.auto_assign(&request).await.unwrap();
                        assert_eq!(got.v4.len() < n, got.message.is_some());
                        for net in got.v4 {
                            assert!(model.values().all(|held| !held.contains(&net.addr())), "{net} is given twice");
                            model.entry(handle.to_string()).or_default().insert(net.addr());
                        }
                    }
                    Step::Ensure { node: i, handle } => {
                        let got = ipam.ensure_assigned(&request(node(i), &handle.to_string())).await.unwrap();
                        let held = model.entry(handle.to_string()).or_default();
                        assert!(held.is_empty() || got.v4.len() == held.len());
                        held.extend(got.v4.iter().map(|n| n.addr()));
                    }
                    Step::Take { node: i, handle, last } => {
                        let (ip, text) = (address(last), handle.to_string());
                        let taken = model.iter().any(|(h, held)| *h != text && held.contains(&ip));
                        let got = ipam.assign_ip(ip, &text, BTreeMap::new(), host(node(i))).await;
                        assert!(!(got.is_ok() && (taken || last > 15)));
                        if got.is_ok() {
                            model.entry(text).or_default().insert(ip);
                        }
                    }
                    Step::Release { last } => {
                        let addresses: Vec<IpAddr> = last.into_iter().map(address).collect();
                        let unallocated = ipam.release_ips(&addresses).await.unwrap();
                        for ip in addresses.into_iter().collect::<BTreeSet<_>>() {
                            let was = model.values_mut().any(|held| held.remove(&ip));
                            assert_eq!(was, !unallocated.contains(&ip), "{ip}");
                        }
                    }
                    Step::ReleaseHandle { handle } => {
                        let released = ipam.release_by_handle(&handle.to_string()).await.unwrap();
                        let held = model.remove(&handle.to_string()).unwrap_or_default();
                        assert_eq!(released.into_iter().collect::<BTreeSet<_>>(), held);
                    }
                    Step::Strict(true) => ipam.set_config(STRICT).await.unwrap(),
                    Step::Strict(false) => ipam.set_config(IpamConfig::default()).await.unwrap(),
                    Step::Fail(which) => {
                        memory.fail_next_txn([Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost][usize::from(which)]);
                        let probe = ipam.auto_assign(&request("a", "probe")).await.unwrap();
                        // With no address left nothing was written; the fault is not for the next step.
                        let _ = store.delete(Key::IpamHandle("nobody".into()), None).await;
                        model.entry("probe".into()).or_default().extend(probe.v4.iter().map(|n| n.addr()));
                    }
                }
                model.retain(|_, held| !held.is_empty());
                assert_eq!(audit(&store).await, model);
            }
        });
    }
}

#[test]
fn borrowed_is_what_another_node_than_the_owner_uses() {
    let on = |node: &str| BTreeMap::from([("node".to_string(), node.to_string())]);
    let rows = [
        (Some(host("a")), on("a"), false),
        (Some(host("a")), on("b"), true),
        (None, on("b"), true),
        (Some(AffinityOwner::Virtual("load-balancer".into())), BTreeMap::new(), false),
    ];
    for (owner, attributes, expected) in rows {
        assert_eq!(is_borrowed(owner.as_ref(), &attributes), expected, "{owner:?} {attributes:?}");
    }
}
