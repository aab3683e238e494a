//! A store without transactions, and a client that is cut off after any of its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::key::KeyRange;
use datastore::DynStore;
use datastore::memory::{Fault, MemoryStore};
use ipam::ordered::Suspicions;
use ipam::{AssignRequest, Ipam};
use proptest::prelude::*;

use crate::lab::*;
use crate::watched::{Watched, Write};

async fn single_writes(cidr: &str, block_size: u8) -> (MemoryStore, DynStore, Ipam) {
    let memory = MemoryStore::without_transactions();
    let store: DynStore = Arc::new(memory.clone());
    add_nodes(&store, &["a", "b", "c"]).await;
    add_pool(&store, "pool", cidr, block_size, |_| {}).await;
    (memory, store.clone(), Ipam::new(store))
}

/// Two looks, as a caller has a minute apart.
async fn repair(ipam: &Ipam) -> usize {
    let mut seen = Suspicions::default();
    let at_once = ipam.repair(&mut seen).await.unwrap();
    assert_eq!(at_once, [], "what is seen for the first time may be under way");
    ipam.repair(&mut seen).await.unwrap().len()
}

/// Who holds what by the blocks alone.
async fn by_blocks(ipam: &Ipam) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut held: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for stored in ipam.blocks().await.unwrap() {
        let block = ipam::block::Block::from_stored(stored).unwrap();
        for (ip, attribute) in block.allocated() {
            assert!(held.entry(attribute.handle_id.clone().unwrap()).or_default().insert(ip));
        }
    }
    held
}

#[tokio::test]
async fn without_transactions_the_result_is_the_same() {
    let (memory, store, ipam) = single_writes("10.0.0.0/28", 30).await;
    add_pool(&store, "six", "fd00::/120", 126, |_| {}).await;
    let many = AssignRequest { num_v4: 10, num_v6: 3, ..request("a", "x") };
    let got = ipam.auto_assign(&many).await.unwrap();
    assert_eq!((got.v4.len(), got.v6.len(), got.message), (10, 3, None));
    let wanted: Vec<AssignRequest> = (0..4).map(|n| request("b", &format!("b{n}"))).collect();
    assert!(ipam.assign_many(&wanted).await.iter().all(|g| g.as_ref().unwrap().v4.len() == 1));
    assert_eq!(audit(&store).await.len(), 5);
    for fault in [Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost] {
        for position in 0..4 {
            let handle = format!("{fault:?}{position}");
            for n in 0..=position {
                // The first writes go through: a fault of another kind in their place would end the call.
                if n == position {
                    memory.fail_next_txn(fault);
                }
            }
            assert_eq!(ipam.auto_assign(&request("c", &handle)).await.unwrap().v4.len(), 1);
            audit(&store).await;
            memory.fail_next_txn(fault);
            assert_eq!(ipam.release_by_handle(&handle).await.unwrap().len(), 1);
            assert_eq!(repair(&ipam).await, 0);
            audit(&store).await;
        }
    }
    ipam.release_pool_affinities(net("10.0.0.0/28")).await.unwrap();
    assert_eq!(ipam.release_by_handle("x").await.unwrap().len(), 13);
    audit(&store).await;
}

/// Cut off after any write, who has the address can release it at once, without a repair.
#[tokio::test]
async fn an_address_that_is_handed_over_is_always_in_the_handle_that_has_it() {
    for cut in 0..4 {
        let (memory, store, ipam) = single_writes("10.0.0.0/28", 30).await;
        let address = ipam.auto_assign(&request("a", "from")).await.unwrap().v4[0].addr();
        let client = Ipam::new(Watched::cut_after(memory.clone(), cut));
        let outcome = client.hand_over(address, "from", None, "to", &BTreeMap::new()).await;
        assert_eq!(outcome.is_ok(), cut >= 2, "{cut}: {outcome:?}");
        let held = by_blocks(&ipam).await;
        for (handle, addresses) in held {
            assert_eq!(handle, if cut >= 2 { "to" } else { "from" }, "{cut}");
            let released: BTreeSet<IpAddr> = ipam.release_by_handle(&handle).await.unwrap().into_iter().collect();
            assert_eq!(released, addresses, "{cut}: {handle}");
        }
        repair(&ipam).await;
        assert!(audit(&store).await.is_empty(), "{cut}");
    }
}

/// b borrows an address after the affinity said that it goes, and before the block does; also where the client is cut off between the two.
#[tokio::test]
async fn a_block_that_comes_into_use_while_it_is_deleted_stays_its_owners() {
    for is_cut in [false, true] {
        let (memory, store, ipam) = single_writes("10.0.0.0/28", 30).await;
        let block = ipam.auto_assign(&request("a", "first")).await.unwrap().v4[0].trunc();
        ipam.release_by_handle("first").await.unwrap();
        let key = api::Key::BlockAffinity(host("a"), block);
        let stored = br#"{"state":"confirmed","deleted":false,"later":1}"#;
        store.put(key.clone(), stored.to_vec()).await.unwrap();
        let client = Watched::cut_after(memory.clone(), if is_cut { 1 } else { -1 });
        let borrower = ipam.clone();
        let borrow = async move {
            borrower.assign_ip(block.addr(), "second", BTreeMap::new(), host("b")).await.unwrap();
        };
        let deleting = Ipam::new(client.clone());
        if is_cut {
            deleting.release_block_affinity(block, &host("a"), true).await.unwrap_err();
            borrow.await;
            assert_eq!(repair(&ipam).await, 1);
        } else {
            client.next_writes([Write::Done, Write::After(Box::pin(borrow))]);
            let refused = deleting.release_block_affinity(block, &host("a"), true).await.unwrap_err();
            assert!(matches!(refused, ipam::Error::NotEmpty(_)), "{refused}");
            assert_eq!(repair(&ipam).await, 0);
        }
        let blocks = ipam.blocks().await.unwrap();
        assert_eq!(blocks[0].affinity.as_deref(), Some("host:a"), "cut off: {is_cut}");
        assert_eq!(store.get(&key).await.unwrap().unwrap().value, stored, "cut off: {is_cut}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Assign { node: usize, handle: u8, n: usize },
    Take { node: usize, handle: u8, last: u8 },
    ReleaseHandle { handle: u8 },
    Release { last: u8 },
    GiveUp { node: usize },
    HandOver { last: u8, from: u8, to: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..5u8, 1..6usize).prop_map(|(node, handle, n)| Step::Assign { node, handle, n }),
        1 => (0..3usize, 0..5u8, 0..16u8).prop_map(|(node, handle, last)| Step::Take { node, handle, last }),
        2 => (0..5u8).prop_map(|handle| Step::ReleaseHandle { handle }),
        1 => (0..16u8).prop_map(|last| Step::Release { last }),
        1 => (0..3usize).prop_map(|node| Step::GiveUp { node }),
        2 => (0..8u8, 0..5u8, 0..5u8).prop_map(|(last, from, to)| Step::HandOver { last, from, to }),
    ]
}

/// What a step does, through a client that may be cut off.
async fn run(ipam: &Ipam, step: &Step) {
    let node = |i: usize| ["a", "b", "c"][i];
    // What a client that was cut off is told does not matter: it is gone.
    match step {
        Step::Assign { node: i, handle, n } => {
            let request = AssignRequest { num_v4: *n, ..request(node(*i), &handle.to_string()) };
            let _ = ipam.auto_assign(&request).await;
        }
        Step::Take { node: i, handle, last } => {
            let ip = ip(&format!("10.0.0.{last}"));
            let _ = ipam.assign_ip(ip, &handle.to_string(), BTreeMap::new(), host(node(*i))).await;
        }
        Step::ReleaseHandle { handle } => drop(ipam.release_by_handle(&handle.to_string()).await),
        Step::Release { last } => drop(ipam.release_ips(&requests(&[ip(&format!("10.0.0.{last}"))])).await),
        Step::GiveUp { node: i } => drop(ipam.release_host_affinities(&host(node(*i)), false).await),
        Step::HandOver { last, from, to } => {
            let ip = ip(&format!("10.0.0.{last}"));
            let _ = ipam.hand_over(ip, &from.to_string(), None, &to.to_string(), &BTreeMap::new()).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// After any history in which clients are cut off after any write, a repair makes blocks, affinities and handles agree and takes no
    /// address from anybody; and every handle can be released at once, without a repair.
    #[test]
    fn a_cut_leaves_nothing_that_is_not_repaired(
        steps in prop::collection::vec((step(), prop::option::weighted(0.6, 0..7i64)), 1..25),
        repairs in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (memory, store, ipam) = single_writes("10.0.0.0/28", 30).await;
            for (step, cut) in steps {
                let client = Watched::cut_after(memory.clone(), cut.unwrap_or(-1));
                run(&Ipam::new(client), &step).await;
                let held = by_blocks(&ipam).await;
                if repairs {
                    repair(&ipam).await;
                    assert_eq!(audit(&store).await, held);
                }
            }
            let held = by_blocks(&ipam).await;
            for (handle, addresses) in held {
                let released: BTreeSet<IpAddr> =
                    ipam.release_by_handle(&handle).await.unwrap().into_iter().collect();
                assert_eq!(released, addresses, "{handle}");
            }
            repair(&ipam).await;
            assert!(audit(&store).await.is_empty());
            assert!(store.list(&KeyRange::Handles).await.unwrap().items.is_empty());
            // What is left is usable: all of the pool.
            let all = AssignRequest { num_v4: 16, ..request("a", "all") };
            assert_eq!(ipam.auto_assign(&all).await.unwrap().v4.len(), 16);
            audit(&store).await;
        });
    }
}

#[tokio::test]
async fn without_transactions_a_check_mends_the_same() {
    use ipam::check::{repair, snapshot};
    let (_, store, ipam) = single_writes("10.0.0.0/28", 30).await;
    ipam.auto_assign(&AssignRequest { num_v4: 6, ..request("a", "x") }).await.unwrap();
    ipam.auto_assign(&request("b", "b.1")).await.unwrap();
    store.delete(api::Key::resource(api::Kind::Node, None, "a"), None).await.unwrap();
    store.put(api::Key::IpamHandle("lost".into()), br#"{"block":{}}"#.to_vec()).await.unwrap();
    let circumstances = repair::Circumstances { is_locked: false, cooldown: jiff::SignedDuration::ZERO };
    for _ in 0..10 {
        let objects = store.list(&KeyRange::All).await.unwrap().items;
        let snapshot = snapshot::Snapshot::new(&objects, jiff::Timestamp::now());
        let (mends, _) = repair::plan(&snapshot, &ipam::check::check(&snapshot), circumstances);
        for mend in mends {
            assert!(ipam.commit(mend.ops).await.unwrap().is_none(), "{}", mend.what);
        }
    }
    let held = audit(&store).await;
    assert_eq!(held.keys().collect::<Vec<_>>(), ["b.1"]);
    // What has changed since it was planned is left alone.
    let objects = store.list(&KeyRange::All).await.unwrap().items;
    store.delete(api::Key::resource(api::Kind::Node, None, "b"), None).await.unwrap();
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let snapshot = snapshot::Snapshot::new(&objects, later);
    let (mends, _) = repair::plan(&snapshot, &ipam::check::check(&snapshot), circumstances);
    ipam.auto_assign(&request("c", "b.1")).await.unwrap();
    assert_eq!(mends.len(), 1);
    assert!(ipam.commit(mends[0].ops.clone()).await.unwrap().is_some());
}
