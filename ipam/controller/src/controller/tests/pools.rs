//! Addresses of LoadBalancerIPPools in real blocks, and their handing over.

use std::collections::{BTreeMap, BTreeSet};

use api::ipam::{AllocationBlock, IpamHandle};
use ipam::block::Block;
use serde_json::{Value, json};

use super::*;

async fn put(store: &DynStore, document: Value) {
    let kind = Kind::from_document(document["kind"].as_str().unwrap()).unwrap();
    let metadata = &document["metadata"];
    let key = Key::resource(kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap());
    store.put(key, document.to_string().into_bytes()).await.unwrap();
}

async fn add_pool(store: &DynStore, blocks: Value) {
    put(store, json!({
        "kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": {"name": "blue"}, "spec": {"blocks": blocks},
    }))
    .await;
}

async fn add_shared(store: &DynStore, name: &str, port: u16) {
    put(store, json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}"),
            "annotations": {"lbipam.cilium.io/sharing-key": "k"}},
        "spec": {"type": "LoadBalancer", "clusterIP": "None", "allocateLoadBalancerNodePorts": false, "ports": [{"port": port}]},
    }))
    .await;
}

async fn ingress(store: &DynStore, name: &str) -> Option<String> {
    let service = typed::get::<ServiceBody>(store.as_ref(), Some("test"), name).await.unwrap()?;
    service.body.status?.load_balancer.ingress.first()?.ip.clone()
}

/// The handle of every address; panics unless the handles' records say the same.
async fn audit(store: &DynStore) -> BTreeMap<IpAddr, String> {
    // Both of one moment: two readings of the blocks, with the handles between, say the same.
    let (blocks, records) = loop {
        let blocks = store.list(&KeyRange::Blocks).await.unwrap().items;
        let records = store.list(&KeyRange::Handles).await.unwrap().items;
        if store.list(&KeyRange::Blocks).await.unwrap().items == blocks {
            break (blocks, records);
        }
    };
    let mut held = BTreeMap::new();
    let mut counts: BTreeSet<(String, String, usize)> = BTreeSet::new();
    for kv in blocks {
        let block = Block::from_stored(serde_json::from_slice::<AllocationBlock>(&kv.value).unwrap()).unwrap();
        assert_eq!(block.stored().affinity.as_deref(), Some("virtual:load-balancer"));
        let mut of_block: BTreeMap<String, usize> = BTreeMap::new();
        for (ip, attribute) in block.allocated() {
            let handle = attribute.handle_id.clone().unwrap();
            assert_eq!(attribute.secondary.as_ref().unwrap()["type"], "LoadBalancer");
            *of_block.entry(handle.clone()).or_default() += 1;
            assert!(held.insert(ip, handle).is_none(), "{ip} is in two blocks");
        }
        counts.extend(of_block.into_iter().map(|(handle, n)| (handle, block.cidr().to_string(), n)));
    }
    let records = records.into_iter().flat_map(|kv| {
        let Key::IpamHandle(id) = kv.key else { panic!() };
        let record: IpamHandle = serde_json::from_slice(&kv.value).unwrap();
        record.block.into_iter().map(move |(block, n)| (id.clone(), block, n)).collect::<Vec<_>>()
    });
    assert_eq!(records.collect::<BTreeSet<_>>(), counts, "handles are exact");
    held
}

fn handle(service: &str) -> String {
    ipam::handle::for_service(service, "test", &format!("uid-{service}"))
}

#[tokio::test(start_paused = true)]
async fn addresses_of_a_pool_are_in_blocks_and_are_shared_and_handed_over() {
    shared_and_handed_over(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn addresses_of_a_pool_are_in_blocks_and_are_shared_and_handed_over_on_etcd() {
    let etcd = Etcd::start().await;
    shared_and_handed_over(etcd.open().await).await;
}

async fn shared_and_handed_over(store: DynStore) {
    // With a cooldown, what is handed over must never be free.
    store
        .put(
            Key::IpamConfig,
            br#"{"strict_affinity":false,"auto_allocate_blocks":true,"ipCooldownSeconds":600}"#.to_vec(),
        )
        .await
        .unwrap();
    add_pool(&store, json!([{"start": "20.0.10.5", "stop": "20.0.10.70"}])).await;
    add_shared(&store, "a", 80).await;
    let _lab = Lab::start(store.clone());
    eventually!(ingress(&store, "a").await.is_some());
    add_shared(&store, "b", 443).await;
    eventually!(ingress(&store, "b").await.is_some());
    let address = ingress(&store, "a").await;
    assert_eq!(ingress(&store, "b").await, address);
    let ip: IpAddr = address.as_deref().unwrap().parse().unwrap();
    assert_eq!(audit(&store).await, BTreeMap::from([(ip, handle("a"))]));

    typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "a")).await.unwrap();
    eventually!(audit(&store).await == BTreeMap::from([(ip, handle("b"))]));
    assert_eq!(ingress(&store, "b").await, address);
    let info = Ipam::new(store.clone()).ip_info(ip).await.unwrap().unwrap();
    assert_eq!((info.attributes["service"].as_str(), info.attributes["tortie.io/pool"].as_str()), ("b", "blue"));

    typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "b")).await.unwrap();
    eventually!(audit(&store).await.is_empty());
}

/// Killed before or after each write while a service gets an address and another takes it over.
#[tokio::test(start_paused = true)]
async fn a_kill_in_the_middle_of_handing_over_loses_nothing() {
    for n in 0..6 {
        for last_happens in [false, true] {
            let memory = MemoryStore::new();
            let store: DynStore = Arc::new(memory.clone());
            add_pool(&store, json!([{"cidr": "20.0.10.0/30"}])).await;
            add_shared(&store, "a", 80).await;
            add_shared(&store, "b", 443).await;
            let before = Lab::start(store.clone());
            eventually!(ingress(&store, "b").await.is_some() && ingress(&store, "a").await.is_some());
            drop(before);
            let address = ingress(&store, "b").await;
            typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "a")).await.unwrap();
            let mortal = Mortal { inner: memory.clone(), left: AtomicUsize::new(n), last_happens };
            let first = Lab::start(Arc::new(mortal));
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
            let _second = Lab::start(store.clone());
            let ip: IpAddr = address.as_deref().unwrap().parse().unwrap();
            eventually!(audit(&store).await == BTreeMap::from([(ip, handle("b"))]));
            assert_eq!(ingress(&store, "b").await, address, "killed at write {n}, {last_happens}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handing_over_meets_faults() {
    for fault in [Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost] {
        let memory = MemoryStore::new();
        let store: DynStore = Arc::new(memory.clone());
        let ipam = Ipam::new(store.clone());
        let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
        let (ip, block) = ("20.0.10.5".parse().unwrap(), "20.0.10.0/28".parse().unwrap());
        let attributes = |service: &str| plan::service_attributes(&("test".into(), service.into()), None);
        let assigned = ipam.assign_ip_in_block(ip, block, "from", attributes("a"), owner.clone()).await.unwrap();
        assert_eq!(assigned.to_string(), "20.0.10.5/28");
        let again = ipam.assign_ip_in_block(ip, block, "from", attributes("a"), owner.clone()).await;
        assert!(again.is_ok(), "the handle has it already");
        assert!(ipam.assign_ip_in_block(ip, block, "other", attributes("a"), owner).await.is_err());
        memory.fail_next_txn(fault);
        ipam.hand_over(ip, "from", None, "to", &attributes("b")).await.unwrap();
        assert_eq!(audit(&store).await, BTreeMap::from([(ip, "to".to_string())]), "{fault:?}");
        let refused = ipam.hand_over(ip, "from", None, "third", &attributes("b")).await;
        assert!(matches!(refused, Err(ipam::Error::NotTheSame { .. })), "{refused:?}");
        let refused = ipam.hand_over(ip, "to", Some(1), "third", &attributes("b")).await;
        assert!(matches!(refused, Err(ipam::Error::NotTheSame { what: "sequence number", .. })), "{refused:?}");
        ipam.hand_over(ip, "from", None, "to", &attributes("b")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_moment_costs_no_service_its_address() {
    for fault in [Fault::Unavailable, Fault::UnknownLost] {
        let memory = MemoryStore::new();
        let store: DynStore = Arc::new(memory.clone());
        super::add_pool(&store).await;
        put(&store, json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "test", "uid": "uid-web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "None", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "172.20.0.77"}]}},
        }))
        .await;
        memory.fail_next_txn(fault);
        let _lab = Lab::start(Arc::new(memory));
        eventually!(audit(&store).await.len() == 1);
        assert_eq!(audit(&store).await, BTreeMap::from([("172.20.0.77".parse().unwrap(), handle("web"))]), "{fault:?}");
    }
}

/// An address whose pool is gone is kept until there is another: the handle has both for a moment.
#[tokio::test(start_paused = true)]
async fn a_service_moves_to_another_pool_and_has_an_address_all_the_time() {
    let store: DynStore = Arc::new(MemoryStore::new());
    add_pool(&store, json!([{"start": "20.0.10.5", "stop": "20.0.10.70"}])).await;
    add_shared(&store, "a", 80).await;
    let _lab = Lab::start(store.clone());
    eventually!(ingress(&store, "a").await.is_some());
    super::add_pool(&store).await;
    typed::delete(store.as_ref(), &Key::resource(Kind::LoadBalancerIpPool, None, "blue")).await.unwrap();
    eventually!(ingress(&store, "a").await.unwrap().starts_with("172.20.0."));
    let ip = ingress(&store, "a").await.unwrap().parse().unwrap();
    eventually!(audit(&store).await == BTreeMap::from([(ip, handle("a"))]));
}

/// The search for an address starts at the same place again, and that one cools down.
#[tokio::test(start_paused = true)]
async fn a_service_made_again_does_not_wait_for_its_address_to_cool_down() {
    let store: DynStore = Arc::new(MemoryStore::new());
    store
        .put(
            Key::IpamConfig,
            br#"{"strict_affinity":false,"auto_allocate_blocks":true,"ipCooldownSeconds":600}"#.to_vec(),
        )
        .await
        .unwrap();
    add_pool(&store, json!([{"cidr": "20.0.10.0/29"}])).await;
    add_shared(&store, "a", 80).await;
    let _lab = Lab::start(store.clone());
    eventually!(ingress(&store, "a").await.is_some());
    let first = ingress(&store, "a").await;
    typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "a")).await.unwrap();
    eventually!(audit(&store).await.is_empty());
    add_shared(&store, "a", 80).await;
    let started = tokio::time::Instant::now();
    eventually!(ingress(&store, "a").await.is_some_and(|ip| Some(&ip) != first.as_ref()));
    assert!(started.elapsed() < Duration::from_secs(2), "without a failed attempt");
}
