use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ip_pool::AllowedUse;
use api::meta::WithSpec;
use api::service::NamespaceBody;
use api::{IpReservation, IpReservationSpec, Key, Kind, Metadata, Namespace};
use datastore::typed;
use ipam::allocator::is_borrowed;
use ipam::wire::AssignCall;
use ipam::{AffinityOwner, AssignRequest, Error, IpamConfig, Queue};

use crate::lab::*;

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
async fn a_given_address_must_be_of_a_pool_for_its_use() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    for (name, cidr, uses) in [
        ("tunnels", "10.1.0.0/24", vec![AllowedUse::Tunnel]),
        ("services", "10.2.0.0/24", vec![AllowedUse::LoadBalancer]),
        ("both", "10.3.0.0/24", vec![AllowedUse::Workload, AllowedUse::Tunnel]),
    ] {
        add_pool(&store, name, cidr, 26, |p| p.allowed_uses = Some(uses)).await;
    }
    let balancer = AffinityOwner::Virtual("load-balancer".into());
    // (address, owner, use, pool that refuses)
    let rows = [
        ("10.0.0.1", host("a"), AllowedUse::Workload, None),
        ("10.0.0.2", host("a"), AllowedUse::Tunnel, None),
        ("10.1.0.1", host("a"), AllowedUse::Workload, Some("tunnels")),
        ("10.1.0.2", host("a"), AllowedUse::Tunnel, None),
        ("10.2.0.1", host("a"), AllowedUse::Workload, Some("services")),
        ("10.2.0.2", balancer.clone(), AllowedUse::LoadBalancer, None),
        ("10.3.0.1", balancer, AllowedUse::LoadBalancer, Some("both")),
        ("10.3.0.2", host("a"), AllowedUse::Workload, None),
    ];
    for (address, owner, intended_use, refusal) in rows {
        let given = AssignRequest { addresses: vec![ip(address)], intended_use, ..AssignRequest::new(owner, address) };
        let outcome = ipam.ensure_assigned(&given).await;
        let wanted =
            refusal.map(|pool| format!("{address} is in IPPool {pool}, whose allowedUses lack {intended_use:?}"));
        assert_eq!(outcome.err().map(|e| e.to_string()), wanted, "{address}");
    }
    // What a plugin asks for is for a workload.
    let call = AssignCall {
        node: "a".into(),
        handle: "net.1".into(),
        addresses: vec![ip("10.1.0.3")],
        ..AssignCall::default()
    };
    let error = ipam.ensure_assigned(&ipam.resolve(call).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::NotForUse { .. }), "{error}");
    assert_eq!(audit(&store).await.len(), 5);
}

#[tokio::test]
async fn a_node_that_does_not_exist_gets_no_given_address() {
    let (memory, store, ipam) = lab("10.0.0.0/24", 26).await;
    let following = ipam::Ipam::new(store.clone()).following([host("gone")]);
    following.synced().await;
    let before = memory.revision();
    for ipam in [ipam, following] {
        let error = ipam.assign_ip(ip("10.0.0.7"), "x", BTreeMap::new(), host("gone")).await.unwrap_err();
        assert!(matches!(error, Error::NoNode(ref n) if n == "gone"), "{error}");
    }
    assert_eq!(memory.revision(), before, "nothing is written");
}

#[tokio::test]
async fn where_no_blocks_are_allocated_a_node_uses_those_that_it_has() {
    let (_, store, ipam) = lab("10.0.0.0/29", 31).await;
    let first = ipam.auto_assign(&request("a", "a.1")).await.unwrap().v4[0];
    ipam.set_config(IpamConfig { auto_allocate_blocks: false, ..STRICT }).await.unwrap();
    let second = ipam.auto_assign(&request("a", "a.2")).await.unwrap();
    assert_eq!((second.v4[0].trunc(), second.message), (first.trunc(), None), "its own block has room");
    for (node, handle) in [("a", "a.3"), ("b", "b.1")] {
        let none = ipam.auto_assign(&request(node, handle)).await.unwrap();
        let said =
            "Assigned 0 out of 1 requested IPv4 addresses; No more free affine blocks and strict affinity enabled";
        assert_eq!((none.v4, none.message.as_deref()), (vec![], Some(said)), "{node}");
    }
    assert_eq!(ipam.blocks().await.unwrap().len(), 1, "none is claimed");
    // A given address takes the block that it is in (Calico).
    let free = (0..8).map(|n| ip(&format!("10.0.0.{n}"))).find(|ip| !first.trunc().contains(ip)).unwrap();
    assert_eq!(ipam.assign_ip(free, "b.2", BTreeMap::new(), host("b")).await.unwrap().addr(), free);
    let info = ipam.ip_info(free).await.unwrap().unwrap();
    assert_eq!((info.owner.as_deref(), info.borrowed), (Some("host:b"), false));
    assert_eq!(ipam.auto_assign(&request("b", "b.3")).await.unwrap().v4.len(), 1, "and then has room there");
    assert_eq!(ipam.blocks().await.unwrap().len(), 2);
    audit(&store).await;
}

#[tokio::test]
async fn a_reserved_address_goes_only_to_who_asks_for_it() {
    let (_, store, ipam) = lab("10.0.0.0/29", 30).await;
    add_pool(&store, "six", "fd00::/126", 127, |_| {}).await;
    let following = ipam::Ipam::new(store.clone()).following([host("b")]);
    // All of one block, a part of the other; of IPv6, one address of each block.
    let spec = IpReservationSpec {
        reserved_cidrs: ["10.0.0.0/30", "10.0.0.5", "10.0.0.6/32", "fd00::1/128", "fd00::2"].map(String::from).to_vec(),
    };
    let reservation = IpReservation::new(Metadata::named("r"), WithSpec { spec, status: None });
    typed::create(store.as_ref(), &reservation).await.unwrap();
    following.synced().await;
    for (client, node) in [(&ipam, "a"), (&following, "b")] {
        let all = AssignRequest { num_v4: 8, num_v6: 4, ..request(node, node) };
        let got = client.auto_assign(&all).await.unwrap();
        let mut given: Vec<IpAddr> = got.v4.iter().chain(&got.v6).map(|n| n.addr()).collect();
        given.sort();
        assert_eq!(given, ["10.0.0.4", "10.0.0.7", "fd00::", "fd00::3"].map(ip), "{node}");
        assert!(got.message.unwrap().starts_with("Assigned 2 out of 8 requested IPv4 addresses"));
        client.release_by_handle(node).await.unwrap();
    }
    for (n, reserved) in ["10.0.0.2", "10.0.0.5", "fd00::1"].into_iter().enumerate() {
        let net = ipam.assign_ip(ip(reserved), &n.to_string(), BTreeMap::new(), host("b")).await.unwrap();
        assert_eq!(net.addr(), ip(reserved), "who names it gets it");
    }
    assert_eq!(audit(&store).await.len(), 3);
}

/// What a plugin asks for, by way of felix and alone.
#[tokio::test]
async fn a_namespace_selector_decides_by_the_labels_of_the_workloads_namespace() {
    let (_, store, alone) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "pool", "10.0.0.0/24", 26, |p| p.namespace_selector = Some("team == 'a'".into())).await;
    add_pool(&store, "rest", "10.1.0.0/24", 26, |p| p.namespace_selector = Some("!has(team)".into())).await;
    for (name, team) in [("of-a", Some("a")), ("of-b", Some("b")), ("plain", None)] {
        let labels = team.map(|t| ("team".to_string(), t.to_string())).into_iter().collect();
        let namespace = Namespace::new(Metadata { labels, ..Metadata::named(name) }, NamespaceBody::default());
        typed::create(store.as_ref(), &namespace).await.unwrap();
    }
    let following = alone.clone().following([host("a")]);
    following.synced().await;
    let queue = Queue::start(following.clone());
    let rows = [("of-a", Ok("10.0.0.0/24")), ("plain", Ok("10.1.0.0/24")), ("of-b", Err(())), ("absent", Err(()))];
    for (namespace, wanted) in rows {
        let call = |handle: &str| AssignCall {
            node: "a".into(),
            handle: format!("{namespace}.{handle}"),
            num_v4: 1,
            namespace: Some(namespace.into()),
            ..AssignCall::default()
        };
        let by_felix = queue.assign_call(&following, call("felix")).await;
        let by_itself = async { alone.ensure_assigned(&alone.resolve(call("alone")).await?).await }.await;
        for outcome in [by_felix, by_itself] {
            match (outcome, wanted) {
                (Ok(got), Ok(pool)) => assert!(net(pool).contains(&got.v4[0]), "{namespace}: {got:?}"),
                (Err(error), Err(())) => assert!(matches!(error, Error::Pool(_)), "{namespace}: {error}"),
                other => panic!("{namespace}: {other:?}"),
            }
        }
    }
    // A pool that is named is used whatever it selects.
    let named = AssignCall {
        node: "a".into(),
        handle: "named".into(),
        num_v4: 1,
        ipv4_pools: vec!["pool".into()],
        namespace: Some("of-b".into()),
        ..AssignCall::default()
    };
    assert!(net("10.0.0.0/24").contains(&queue.assign_call(&following, named).await.unwrap().v4[0]));
    assert_eq!(audit(&store).await.len(), 5);
}

#[tokio::test]
async fn addresses_are_released_whoever_has_them() {
    let (_, store, ipam) = lab("10.0.0.0/24", 28).await;
    let got = ipam.auto_assign(&AssignRequest { num_v4: 40, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 40);
    let more = ipam.auto_assign(&request("a", "a.2")).await.unwrap();
    let mut wanted: Vec<IpAddr> = got.v4[..30].iter().map(|n| n.addr()).collect();
    wanted.extend([more.v4[0].addr(), ip("172.16.0.1"), got.v4[0].addr()]);
    let unallocated = ipam.release_ips(&requests(&wanted)).await.unwrap();
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
async fn a_new_block_size_never_overlaps_old_blocks() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    add_pool(&store, "pool", "10.0.0.0/28", 29, |_| {}).await;
    let got = ipam.auto_assign(&AssignRequest { num_v4: 16, ..request("b", "b.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 8 + 3, "the other half as one block, and what a's block lends");
    audit(&store).await;
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
