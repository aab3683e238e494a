use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::{Key, Kind};
use datastore::memory::Fault;
use datastore::{DynStore, typed};
use ipam::wire::AssignCall;
use ipam::{AssignRequest, Ipam, IpamConfig, Queue};
use ipnet::IpNet;

use crate::lab::*;
use crate::watched::Watched;

/// A client of node a that follows the store, and what counts its requests.
async fn follow(memory: &datastore::memory::MemoryStore) -> (std::sync::Arc<Watched>, Ipam) {
    let watched = Watched::new(memory.clone());
    let ipam = Ipam::new(watched.clone()).following([host("a")]);
    ipam.synced().await;
    watched.counts();
    (watched, ipam)
}

/// Lets the watch deliver what has happened.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn an_allocation_is_one_transaction_and_no_read() {
    let (memory, store, _) = lab("10.0.0.0/16", 26).await;
    let (watched, ipam) = follow(&memory).await;
    // The lock is followed too, and one more condition.
    let ipam = ipam.heeding_lock();
    ipam.ensure_assigned(&request("a", "first")).await.unwrap();
    assert_eq!(watched.counts(), (1, 1), "the blocks are listed once before one is made");
    for n in 0..200 {
        let got = ipam.ensure_assigned(&request("a", &format!("x{n}"))).await.unwrap();
        assert_eq!((got.v4.len(), got.message), (1, None));
        assert_eq!(watched.counts(), (0, 1), "{n}");
    }
    for n in 0..200 {
        assert_eq!(ipam.release_by_handle(&format!("x{n}")).await.unwrap().len(), 1);
        assert_eq!(watched.counts(), (0, 1), "{n}");
    }
    assert_eq!(audit(&store).await.len(), 1);
}

#[tokio::test]
async fn what_others_do_is_known_or_found_out() {
    let (memory, store, other) = lab("10.0.0.0/28", 30).await;
    let (watched, ipam) = follow(&memory).await;
    let first = ipam.auto_assign(&request("a", "a.0")).await.unwrap().v4[0];
    // Another client takes from a's block: the watch tells it.
    let theirs = other.auto_assign(&request("a", "a.1")).await.unwrap().v4[0];
    assert_eq!(theirs.trunc(), first.trunc());
    settle().await;
    watched.counts();
    let second = ipam.auto_assign(&request("a", "a.2")).await.unwrap().v4[0];
    assert_eq!(watched.counts(), (0, 1));
    assert!(second.trunc() == first.trunc() && second != theirs);
    // And once more, with no time for the watch: a conflict, what it was about is read, and it is planned again.
    other.release_by_handle("a.1").await.unwrap();
    other.ensure_assigned(&request("a", "a.3")).await.unwrap();
    let third = ipam.ensure_assigned(&request("a", "a.3")).await.unwrap();
    assert_eq!(audit(&store).await["a.3"], BTreeSet::from([third.v4[0].addr()]));
    // The configuration, a pool and a node that have just been written.
    other.set_config(STRICT).await.unwrap();
    add_pool(&store, "six", "fd00::/120", 126, |_| {}).await;
    let got = ipam.auto_assign(&AssignRequest { num_v6: 1, ..request("a", "a.4") }).await.unwrap();
    assert_eq!((got.v4.len(), got.v6.len(), got.message), (1, 1, None));
    add_nodes(&store, &["new"]).await;
    assert_eq!(ipam.auto_assign(&request("new", "n.1")).await.unwrap().v4.len(), 1);
    settle().await;
    assert!(ipam.config().await.unwrap().strict_affinity);
    typed::delete(store.as_ref(), &Key::resource(Kind::IpPool, None, "six")).await.unwrap();
    settle().await;
    let error = ipam.auto_assign(&AssignRequest { num_v6: 1, ..request("a", "a.5") }).await.unwrap_err();
    assert_eq!(error.to_string(), "no configured Calico pools for node a");
    audit(&store).await;
}

/// A pool is made anew with smaller blocks, and another node has one, while a's watch is behind.
#[tokio::test]
async fn a_block_is_never_made_over_one_of_another_size() {
    let (memory, store, other) = lab("10.0.0.0/28", 29).await;
    let (_, ipam) = follow(&memory).await;
    ipam.auto_assign(&request("a", "a.0")).await.unwrap();
    ipam.release_by_handle("a.0").await.unwrap();
    ipam.release_host_affinities(&host("a"), true).await.unwrap();
    for (size, node) in [(30, "b"), (31, "c")] {
        add_pool(&store, "pool", "10.0.0.0/28", size, |_| {}).await;
        other.auto_assign(&AssignRequest { num_v4: 2, ..request(node, node) }).await.unwrap();
    }
    let got = ipam.auto_assign(&AssignRequest { num_v4: 10, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 10);
    assert!(got.v4.iter().all(|n| n.prefix_len() >= 30));
    audit(&store).await;
}

#[tokio::test]
async fn a_hundred_requests_are_few_transactions() {
    for follows in [false, true] {
        let (memory, store, _) = lab("10.0.0.0/16", 26).await;
        let (watched, mut ipam) = follow(&memory).await;
        if !follows {
            ipam = Ipam::new(watched.clone());
        }
        let wanted: Vec<AssignRequest> =
            (0..100).map(|n| AssignRequest { counts_existing: true, ..request("a", &format!("x{n}")) }).collect();
        let got = ipam.assign_many(&wanted).await;
        let (_, writes) = watched.counts();
        assert_eq!(writes, 1, "two blocks, their affinities, a hundred handles");
        let given: BTreeSet<IpAddr> = got.iter().map(|g| g.as_ref().unwrap().v4[0].addr()).collect();
        assert_eq!(given.len(), 100);
        let again = ipam.assign_many(&wanted).await;
        assert!(again.iter().zip(&got).all(|(a, b)| a.as_ref().unwrap() == b.as_ref().unwrap()), "by handle");
        assert_eq!(audit(&store).await.len(), 100);
        watched.counts();
        let handles: Vec<String> = (0..100).map(|n| format!("x{n}")).collect();
        let names: Vec<&str> = handles.iter().map(String::as_str).collect();
        let released = ipam.release_handles(&names).await;
        assert!(released.iter().all(|r| r.as_ref().unwrap().len() == 1));
        assert_eq!(watched.counts().1, 1);
        assert!(audit(&store).await.is_empty());
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_met_harms_no_other() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    add_pool(&store, "lb", "172.20.0.0/30", 30, |p| p.allowed_uses = Some(vec![ipam::AllowedUse::LoadBalancer])).await;
    let of = |handle: &str| request("a", handle);
    let wanted = [
        of("one"),
        AssignRequest { pools_v4: vec![net("10.77.0.0/24")], ..of("no such pool") },
        AssignRequest { addresses: vec![ip("10.0.0.9"), ip("172.20.0.1")], ..of("not for pods") },
        AssignRequest { addresses: vec![ip("10.0.0.8")], ..of("given") },
        AssignRequest { addresses: vec![ip("10.0.0.8")], ..of("too late") },
        request("nobody", "no such node"),
        AssignRequest { num_v4: 20, ..of("too many") },
        AssignRequest { num_v4: 1, ..AssignRequest::new(ipam::AffinityOwner::Virtual("load-balancer".into()), "lb-1") },
        of("one"),
    ];
    let got = ipam.assign_many(&wanted).await;
    let text = |i: usize| got[i].as_ref().unwrap_err().to_string();
    assert_eq!(got[0].as_ref().unwrap().v4.len(), 1);
    assert_eq!(text(1), "the given pool (10.77.0.0/24) does not exist, or is not enabled");
    assert!(text(2).contains("allowedUses"), "{}", text(2));
    assert_eq!(got[3].as_ref().unwrap().v4, [net("10.0.0.8/30")]);
    assert!(text(4).contains("already assigned"), "{}", text(4));
    assert!(text(5).starts_with("node nobody does not exist"), "{}", text(5));
    assert!(got[6].as_ref().unwrap().message.as_ref().unwrap().starts_with("Assigned "));
    assert_eq!(got[7].as_ref().unwrap().v4.len(), 1);
    let held = audit(&store).await;
    assert!(!held.contains_key("not for pods"), "nothing of it");
    assert_eq!(held["too many"].len(), got[6].as_ref().unwrap().v4.len());
    assert_eq!(held.values().map(BTreeSet::len).sum::<usize>(), 17, "the pool, and one for services");
}

#[tokio::test]
async fn what_arrives_together_shares_a_transaction() {
    let (memory, store, _) = lab("10.0.0.0/16", 26).await;
    let (watched, ipam) = follow(&memory).await;
    let queue = Queue::start(ipam);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let queue = queue.clone();
        tasks.spawn(async move { queue.assign(request("a", &format!("x{n}"))).await.unwrap().v4[0].addr() });
    }
    let given: BTreeSet<IpAddr> = tasks.join_all().await.into_iter().collect();
    assert_eq!(given.len(), 100);
    assert!(watched.counts().1 <= 5);
    // An ADD and the DEL of the same container keep their order.
    let (added, deleted) = tokio::join!(queue.assign(request("a", "y")), queue.release("y".into()));
    assert_eq!((added.unwrap().v4.len(), deleted.unwrap().len()), (1, 1));
    memory.set_unavailable(true);
    let error = queue.assign(request("a", "z")).await.unwrap_err();
    assert!(error.to_string().contains("unavailable"), "{error}");
    memory.set_unavailable(false);
    assert_eq!(queue.release("x0".into()).await.unwrap().len(), 1);
    assert_eq!(audit(&store).await.len(), 99);
}

#[tokio::test]
async fn failures_neither_double_nor_leak_what_is_followed() {
    let faults = [Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost];
    for first in faults {
        for second in faults {
            let (memory, store, _) = lab("10.0.0.0/24", 28).await;
            let (_, ipam) = follow(&memory).await;
            let fail = || [first, second].into_iter().for_each(|f| memory.fail_next_txn(f));
            fail();
            let wanted = [request("a", "a.1"), AssignRequest { num_v4: 20, ..request("a", "a.2") }];
            let got = ipam.assign_many(&wanted).await;
            let held = audit(&store).await;
            for (request, got) in wanted.iter().zip(&got) {
                let got: BTreeSet<IpAddr> = got.as_ref().unwrap().v4.iter().map(|n| n.addr()).collect();
                assert_eq!(held[&request.handle], got, "{first:?} {second:?}");
            }
            fail();
            let released = ipam.release_handles(&["a.1", "a.2"]).await;
            let counts: Vec<usize> = released.iter().map(|r| r.as_ref().unwrap().len()).collect();
            assert_eq!(counts, [1, 20], "{first:?} {second:?}");
            assert!(audit(&store).await.is_empty(), "{first:?} {second:?}");
        }
    }
}

#[tokio::test]
async fn a_handle_may_be_limited_to_so_many_addresses_of_a_family() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "six", "fd00::/120", 122, |_| {}).await;
    let limited = AssignRequest { num_v4: 2, num_v6: 1, max_per_handle: 1, ..request("a", "vm") };
    let first = ipam.auto_assign(&limited).await.unwrap();
    assert_eq!((first.v4.len(), first.v6.len(), &first.message), (1, 1, &None));
    assert_eq!(ipam.auto_assign(&limited).await.unwrap(), first, "an ADD that is repeated");
    let more = AssignRequest { max_per_handle: 2, ..limited };
    let second = ipam.auto_assign(&more).await.unwrap();
    assert!(second.v4.len() == 2 && second.v6 == first.v6 && second.v4[0] == first.v4[0]);
    assert_eq!(audit(&store).await["vm"].len(), 3);
}

#[tokio::test]
async fn a_request_may_be_limited_to_fewer_blocks_than_the_configuration() {
    let (_, _, ipam) = lab("10.0.0.0/24", 30).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 3, ..STRICT }).await.unwrap();
    let many = |max_blocks, handle| AssignRequest { num_v4: 20, max_blocks, ..request("a", handle) };
    assert_eq!(ipam.auto_assign(&many(2, "x")).await.unwrap().v4.len(), 8);
    let rest = ipam.auto_assign(&many(5, "y")).await.unwrap();
    assert_eq!(rest.v4.len(), 4);
    assert!(rest.message.unwrap().contains("limit of 3 blocks"));
}

#[tokio::test]
async fn every_block_size_serves() {
    for length in 20..=32u8 {
        let (_, store, ipam) = lab("10.0.0.0/16", length).await;
        let six = format!("fd00::/{}", length + 90);
        add_pool(&store, "six", &six, length + 96, |_| {}).await;
        let want = AssignRequest { num_v4: 3, num_v6: 3, ..request("a", "x") };
        let got = ipam.auto_assign(&want).await.unwrap();
        assert_eq!((got.v4.len(), got.v6.len(), got.message), (3, 3, None), "/{length}");
        assert!(got.v4.iter().all(|n| n.prefix_len() == length));
        assert_eq!(ipam.release_by_handle("x").await.unwrap().len(), 6);
        assert!(audit(&store).await.is_empty());
    }
}

#[tokio::test]
async fn a_cooling_address_is_given_again_only_when_it_is_cold() {
    let (_, store, ipam) = lab("10.0.0.0/31", 31).await;
    let two = AssignRequest { num_v4: 2, ..request("a", "x") };
    ipam.set_config(IpamConfig { ip_cooldown_seconds: 1000, ..IpamConfig::default() }).await.unwrap();
    ipam.auto_assign(&two).await.unwrap();
    ipam.release_by_handle("x").await.unwrap();
    assert!(audit(&store).await.is_empty());
    let memory_full = ipam.auto_assign(&request("a", "y")).await.unwrap();
    assert!(memory_full.v4.is_empty() && memory_full.message.is_some());
    // Calico counts from the configuration of the moment.
    ipam.set_config(IpamConfig::default()).await.unwrap();
    assert_eq!(ipam.auto_assign(&AssignRequest { num_v4: 2, ..request("b", "y") }).await.unwrap().v4.len(), 2);
    audit(&store).await;
}

#[tokio::test]
async fn a_manual_pool_serves_only_who_names_it() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    let manual = Some(api::ip_pool::AssignmentMode::Manual);
    add_pool(&store, "manual", "10.1.0.0/24", 26, |p| p.assignment_mode = manual).await;
    let all = ipam.auto_assign(&AssignRequest { num_v4: 300, ..request("a", "x") }).await.unwrap();
    assert!(all.v4.len() == 256 && all.v4.iter().all(|n| net("10.0.0.0/24").contains(n)));
    let named = AssignRequest { pools_v4: vec![net("10.1.0.0/24")], ..request("a", "y") };
    assert_eq!(ipam.auto_assign(&named).await.unwrap().v4.len(), 1);
    audit(&store).await;
    assert_eq!(ipam.assign_ip(ip("10.1.0.77"), "z", BTreeMap::new(), host("a")).await.unwrap(), net("10.1.0.77/26"));
    let _: &DynStore = &store;
}

/// A restored backup begins with low revisions again; what was known of the old store is not kept for that.
#[tokio::test]
async fn a_store_that_was_made_anew_is_known_as_it_is() {
    let (old, _, ipam_old) = lab("10.0.0.0/28", 30).await;
    let (watched, ipam) = follow(&old).await;
    for n in 0..6 {
        ipam.auto_assign(&request("a", &format!("x{n}"))).await.unwrap();
    }
    settle().await;
    let (new, store, _) = lab("10.0.0.0/28", 30).await;
    let restored = Ipam::new(store.clone());
    restored.auto_assign(&AssignRequest { num_v4: 3, ..request("a", "restored") }).await.unwrap();
    assert!(new.revision() < old.revision());
    watched.replace(new);
    old.break_watches();
    tokio::time::timeout(Duration::from_secs(10), async {
        let mut listed = 0;
        while listed < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            listed += watched.counts().0;
        }
    })
    .await
    .expect("the watches begin again");
    settle().await;
    watched.counts();
    assert_eq!(ipam.auto_assign(&request("a", "y")).await.unwrap().v4.len(), 1);
    assert_eq!(watched.counts(), (0, 1), "nothing of the old store is in the way");
    let held = audit(&store).await;
    assert_eq!((held.len(), held["restored"].len()), (2, 3));
    drop(ipam_old);
}

/// A handle or a block that cannot be read is an error of who needs it, and of nobody else.
#[tokio::test]
async fn what_cannot_be_read_harms_no_other_request() {
    for follows in [false, true] {
        let (memory, store, other) = lab("10.0.0.0/24", 28).await;
        let (_, mut ipam) = follow(&memory).await;
        if !follows {
            ipam = other;
        }
        store.put(Key::IpamHandle("x1".into()), b"{".to_vec()).await.unwrap();
        let wanted: Vec<AssignRequest> = (0..4).map(|n| request("a", &format!("x{n}"))).collect();
        let got = ipam.assign_many(&wanted).await;
        for (n, got) in got.iter().enumerate() {
            match got {
                Ok(got) => assert!(n != 1 && got.v4.len() == 1, "{n}"),
                Err(error) => assert!(n == 1 && error.to_string().contains("cannot be read"), "{n}: {error}"),
            }
        }
        // x4 has addresses in a block that is damaged, and in another one.
        let many = AssignRequest { num_v4: 20, ..request("b", "x4") };
        let spread = ipam.auto_assign(&many).await.unwrap().v4;
        let damaged = Key::IpamBlock(spread[0].trunc());
        let right = store.get(&damaged).await.unwrap().unwrap().value;
        store.put(damaged.clone(), b"{".to_vec()).await.unwrap();
        settle().await;
        let released = ipam.release_handles(&["x0", "x1", "x2", "x4"]).await;
        assert_eq!(released.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
        assert!(released[3].as_ref().unwrap_err().to_string().contains(&damaged.to_string()));
        store.put(damaged, right).await.unwrap();
        store.delete(Key::IpamHandle("x1".into()), None).await.unwrap();
        settle().await;
        let held = audit(&store).await;
        assert_eq!(held.keys().collect::<Vec<_>>(), ["x3", "x4"]);
        assert!(held["x4"].len() < 20, "what could be released is");
        assert_eq!(ipam.release_by_handle("x4").await.unwrap().len(), held["x4"].len());
    }
}

/// A store that refuses transactions of more than so many operations: what they contain goes one by one.
#[tokio::test]
async fn a_transaction_that_is_refused_harms_only_who_cannot_do_without() {
    let (memory, store, _) = lab("10.0.0.0/24", 28).await;
    let watched = Watched::refusing(memory, 4);
    let ipam = Ipam::new(watched);
    let mut wanted: Vec<AssignRequest> = (0..8).map(|n| request("a", &format!("x{n}"))).collect();
    wanted[3].num_v4 = 60;
    let got = ipam.assign_many(&wanted).await;
    for (n, got) in got.iter().enumerate() {
        assert_eq!(got.is_ok(), n != 3, "{n}: {got:?}");
    }
    assert_eq!(audit(&store).await.len(), 7);
}

/// Two requests are told of a store that is down after one look at it, not two.
#[tokio::test]
async fn a_store_that_is_down_is_asked_once() {
    let (memory, _, _) = lab("10.0.0.0/24", 28).await;
    let (watched, ipam) = follow(&memory).await;
    ipam.ensure_assigned(&request("a", "first")).await.unwrap();
    watched.counts();
    memory.set_unavailable(true);
    assert!(ipam.ensure_assigned(&request("a", "x")).await.is_err());
    assert_eq!(watched.counts(), (0, 1));
}

/// Labels of a size that nobody has, so that few requests fill a transaction.
#[tokio::test]
async fn a_transaction_stays_within_what_etcd_takes() {
    let (memory, store, _) = lab("10.0.0.0/16", 28).await;
    let (watched, ipam) = follow(&memory).await;
    let attributes = BTreeMap::from([("note".to_string(), "x".repeat(20_000))]);
    let large = |n: usize| AssignRequest { attributes: attributes.clone(), ..request("a", &format!("x{n}")) };
    let wanted: Vec<AssignRequest> = (0..100).map(large).collect();
    let got = ipam.assign_many(&wanted).await;
    assert!(got.iter().all(|g| g.as_ref().unwrap().v4.len() == 1));
    let names: Vec<String> = (0..100).map(|n| format!("x{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(ipam.release_handles(&names).await.iter().all(|r| r.as_ref().unwrap().len() == 1));
    assert!(watched.largest() < 3 << 19, "{} bytes", watched.largest());
    assert!(audit(&store).await.is_empty());
}

/// A namespace selector, and a pool of another name, that the watch has not brought yet.
#[tokio::test]
async fn what_a_call_is_taken_for_is_as_new_as_the_store() {
    let (memory, store, _) = lab("10.0.0.0/28", 28).await;
    let watched = Watched::new(memory.clone());
    let ipam = Ipam::new(watched.clone()).following([host("a")]);
    ipam.synced().await;
    let queue = Queue::start(ipam.clone());
    let web = api::Namespace::new(api::Metadata::named("web"), api::service::NamespaceBody::default());
    typed::create(store.as_ref(), &web).await.unwrap();
    let call = |handle: &str| AssignCall {
        node: "a".into(),
        handle: handle.into(),
        num_v4: 1,
        namespace: Some("web".into()),
        ..AssignCall::default()
    };
    // No await that lets the watch deliver is between the change and the call.
    add_pool(&store, "pool", "10.0.0.0/28", 28, |p| p.namespace_selector = Some("all()".into())).await;
    let got = queue.assign_call(&ipam, call("x")).await.unwrap();
    assert_eq!((got.v4.len(), got.message), (1, None));
    add_pool(&store, "two", "10.1.0.0/28", 28, |_| {}).await;
    settle().await;
    typed::delete(store.as_ref(), &Key::resource(Kind::IpPool, None, "two")).await.unwrap();
    add_pool(&store, "two", "10.2.0.0/28", 28, |_| {}).await;
    let named = AssignCall { ipv4_pools: vec!["two".into()], ..call("y") };
    let got = queue.assign_call(&ipam, named).await.unwrap();
    assert!(got.v4.len() == 1 && net("10.2.0.0/28").contains(&got.v4[0]), "{got:?}");
    audit(&store).await;
}

/// A plugin without felix: what it asks of the store does not depend on how many blocks others have, nor on how many addresses it is
/// asked for at once.
#[tokio::test]
async fn alone_an_allocation_reads_what_concerns_its_node() {
    let (memory, store, filling) = lab("10.0.0.0/16", 28).await;
    let many = |node, handle, num_v4| AssignRequest { num_v4, ..request(node, handle) };
    assert_eq!(filling.auto_assign(&many("a", "a.0", 12 * 16 + 1)).await.unwrap().v4.len(), 12 * 16 + 1);
    assert_eq!(filling.auto_assign(&many("b", "b.0", 10 * 16)).await.unwrap().v4.len(), 10 * 16);
    let watched = Watched::new(memory);
    let alone = Ipam::new(watched.clone());
    // Configuration, pools, reservations, node; affinities; 13 blocks, of which one has room.
    let of_node = 4 + 1 + 13;
    assert_eq!(alone.ensure_assigned(&request("a", "x")).await.unwrap().v4.len(), 1);
    let (reads, writes) = watched.counts();
    assert!(reads <= of_node + 1 && writes == 1, "{reads} reads, {writes} writes");
    let wanted: Vec<AssignRequest> = (0..10).map(|n| request("a", &format!("x{n}"))).collect();
    assert!(alone.assign_many(&wanted).await.iter().all(|g| g.as_ref().unwrap().v4.len() == 1));
    let (reads, writes) = watched.counts();
    assert!(reads <= of_node + 10 && writes == 1, "{reads} reads, {writes} writes");
    assert_eq!(alone.release_by_handle("x3").await.unwrap().len(), 1);
    assert_eq!(watched.counts(), (3, 1), "configuration, handle, block");
    assert_eq!(watched.block_listings(), 0);
    // The lock is one more of what is read together.
    let plugin = alone.clone().heeding_lock();
    assert_eq!(plugin.ensure_assigned(&request("a", "x3")).await.unwrap().v4.len(), 1);
    let (reads, writes) = watched.counts();
    assert!(reads <= of_node + 2 && writes == 1, "{reads} reads, {writes} writes");
    assert_eq!(plugin.release_by_handle("x3").await.unwrap().len(), 1);
    assert_eq!(watched.counts(), (4, 1), "configuration and lock, handle, block");
    // A block is claimed: of the others their keys are listed, once.
    assert_eq!(alone.auto_assign(&many("a", "more", 8)).await.unwrap().v4.len(), 8);
    let (reads, writes) = watched.counts();
    assert!(reads <= of_node + 1 + 1 && writes == 1, "{reads} reads, {writes} writes");
    assert_eq!(watched.block_listings(), 1);
    audit(&store).await;
}

/// Of the same blocks, who follows the store takes from the one that who reads it would take from, whatever was released.
#[tokio::test]
async fn following_and_reading_take_from_the_same_block() {
    let (memory, store, reading) = lab("10.0.0.0/16", 30).await;
    reading.set_config(IpamConfig { max_blocks_per_host: 1_000, ..IpamConfig::default() }).await.unwrap();
    let (watched, following) = follow(&memory).await;
    let wanted: Vec<AssignRequest> = (0..200).map(|n| request("a", &format!("x{n}"))).collect();
    let mut held: Vec<IpNet> = following.assign_many(&wanted).await.into_iter().map(|got| got.unwrap().v4[0]).collect();
    watched.counts();
    for n in 0..40 {
        let released = held[n * 37 % 200];
        following.release_ips(&requests(&[released.addr()])).await.unwrap();
        let (f, r) = (format!("f{n}"), format!("r{n}"));
        let followed = following.auto_assign(&request("a", &f)).await.unwrap().v4[0];
        following.release_by_handle(&f).await.unwrap();
        let read = reading.auto_assign(&request("a", &r)).await.unwrap().v4[0];
        assert_eq!(followed.trunc(), read.trunc(), "{n}");
        if n % 3 != 0 {
            reading.release_by_handle(&r).await.unwrap();
        }
        settle().await;
        held[n * 37 % 200] = read;
    }
    audit(&store).await;
}

/// No await that lets the watch deliver is between what another does and the release.
#[tokio::test]
async fn what_is_released_by_address_is_what_the_store_has() {
    let (memory, store, other) = lab("10.0.0.0/28", 28).await;
    let (_, ipam) = follow(&memory).await;
    ipam.auto_assign(&request("a", "a.0")).await.unwrap();
    let theirs = other.auto_assign(&request("a", "a.1")).await.unwrap().v4[0].addr();
    assert_eq!(ipam.release_ips(&requests(&[theirs])).await.unwrap(), Vec::<IpAddr>::new());
    let theirs = other.auto_assign(&request("a", "a.2")).await.unwrap().v4[0].addr();
    assert_eq!(ipam.release_ips_of("a.2", &[theirs]).await.unwrap(), Vec::<IpAddr>::new());
    let theirs = other.auto_assign(&request("a", "a.3")).await.unwrap().v4[0].addr();
    assert_eq!(ipam.auto_assign(&request("a", "a.4")).await.unwrap().v4.len(), 1);
    assert_eq!(audit(&store).await["a.3"], BTreeSet::from([theirs]));
}
