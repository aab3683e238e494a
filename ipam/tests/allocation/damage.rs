use std::collections::BTreeMap;
use std::time::Duration;

use api::ip_pool::AllowedUse;
use api::ipam::IpamHandle;
use api::key::{AffinityOwner, KeyRange};
use api::meta::WithSpec;
use api::{IpReservation, IpReservationSpec, Key, Metadata};
use datastore::memory::MemoryStore;
use datastore::typed;
use ipam::{AssignRequest, IpamConfig, LOAD_BALANCER_OWNER};

use crate::lab::*;

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
async fn an_affinity_that_is_not_true_takes_no_place_below_the_limit() {
    let (_, store, ipam) = lab("10.0.0.0/29", 30).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 1, ..STRICT }).await.unwrap();
    ipam.auto_assign(&request("b", "b.1")).await.unwrap();
    let theirs = ipam.blocks().await.unwrap()[0].cidr;
    let key = Key::BlockAffinity(host("a"), theirs);
    store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    let got = ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    assert_eq!((got.v4.len(), got.message), (1, None));
    audit(&store).await;
}

#[tokio::test]
async fn a_hundred_untrue_affinities_overfill_no_transaction() {
    let (_, store, ipam) = lab("10.0.0.0/22", 30).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 200, ..IpamConfig::default() }).await.unwrap();
    let got = ipam.auto_assign(&AssignRequest { num_v4: 400, ..request("b", "b.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 400);
    for block in ipam.blocks().await.unwrap() {
        let key = Key::BlockAffinity(host("a"), block.cidr);
        store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    }
    let affinities = || async { store.list(&KeyRange::AffinitiesOf(host("a"))).await.unwrap().items.len() };
    assert_eq!(affinities().await, 100);
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    assert_eq!(affinities().await, 100 - 16 + 1, "and one for the block it got");
}

#[tokio::test]
async fn an_affinity_is_read_in_every_form_it_was_ever_written() {
    for value in ["", "\"\"", "{\"state\":\"confirmed\",\"deleted\":false}", "{\"state\":\"what\"}", "not JSON"] {
        let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
        let key = Key::BlockAffinity(host("a"), net("10.0.0.64/26"));
        store.create(key, value.as_bytes().to_vec()).await.unwrap();
        let got = ipam.auto_assign(&request("a", "a.1")).await.unwrap();
        assert_eq!(got.v4[0].trunc(), net("10.0.0.64/26"), "{value}");
    }
}

#[tokio::test]
async fn a_claim_without_a_block_never_overlaps_a_block_of_another_size() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    ipam.assign_ip(ip("10.0.0.1"), "b.1", BTreeMap::new(), host("b")).await.unwrap();
    let key = Key::BlockAffinity(host("a"), net("10.0.0.0/29"));
    store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    ipam.auto_assign(&AssignRequest { num_v4: 16, ..request("a", "a.1") }).await.unwrap();
    audit(&store).await;
}

#[tokio::test]
async fn claims_without_blocks_that_overlap_each_other_make_one_block() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    for cidr in ["10.0.0.0/29", "10.0.0.0/30"] {
        let key = Key::BlockAffinity(host("a"), net(cidr));
        store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    }
    let got = ipam.auto_assign(&AssignRequest { num_v4: 16, ..request("a", "a.1") }).await.unwrap();
    assert_eq!(got.v4.len(), 16);
    audit(&store).await;
}

#[tokio::test]
async fn a_handle_that_was_counted_wrongly_becomes_right() {
    for wrong in [7, 0] {
        let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
        let first = ipam.auto_assign(&AssignRequest { num_v4: 2, ..request("a", "x") }).await.unwrap();
        let block = first.v4[0].trunc().to_string();
        let handle = IpamHandle { block: BTreeMap::from([(block, wrong)]), ..IpamHandle::default() };
        store.put(Key::IpamHandle("x".into()), serde_json::to_vec(&handle).unwrap()).await.unwrap();
        ipam.release_ips(&[first.v4[0].addr().into()]).await.unwrap();
        audit(&store).await;
        store.put(Key::IpamHandle("x".into()), serde_json::to_vec(&handle).unwrap()).await.unwrap();
        ipam.auto_assign(&request("a", "x")).await.unwrap();
        audit(&store).await;
    }
}

/// Calico's first releases wrote a block's owner as `hostAffinity`, and an affinity as nothing.
#[tokio::test]
async fn a_block_with_an_owner_in_the_deprecated_field_keeps_it() {
    for follows in [false, true] {
        let (_, store, mut ipam) = lab("10.0.0.0/29", 29).await;
        let block = r#"{"cidr":"10.0.0.0/29","affinity":null,"allocations":[0,1,null,null,null,null,null,null],"unallocated":[2,3,4,5,6,7],"attributes":[{"handle_id":"old","secondary":{"node":"a"}},{"handle_id":"kept","secondary":{"node":"a"}}],"sequenceNumber":3,"sequenceNumberForAllocation":{},"deleted":false,"hostAffinity":"a"}"#;
        store.put(Key::IpamBlock(net("10.0.0.0/29")), block.into()).await.unwrap();
        let key = Key::BlockAffinity(host("a"), net("10.0.0.0/29"));
        store.put(key.clone(), vec![]).await.unwrap();
        for (handle, value) in [("old", "{\"block\":{\"10.0.0.0/29\":1}}"), ("kept", "{\"block\":{\"10.0.0.0/29\":1}}")]
        {
            store.put(Key::IpamHandle(handle.into()), value.into()).await.unwrap();
        }
        if follows {
            ipam = ipam.following([host("a")]);
            ipam.synced().await;
        }
        assert_eq!(ipam.release_by_handle("old").await.unwrap(), [ip("10.0.0.0")]);
        let got = ipam.auto_assign(&request("a", "new")).await.unwrap();
        assert_eq!((got.v4, got.message), (vec![net("10.0.0.2/29")], None));
        assert!(store.get(&key).await.unwrap().is_some(), "it still has its affinity");
        let info = ipam.ip_info(ip("10.0.0.1")).await.unwrap().unwrap();
        assert_eq!((info.owner.as_deref(), info.borrowed), (Some("host:a"), false));
    }
}

/// Fields of a release to come, in records that are written again.
#[tokio::test]
async fn fields_that_are_not_known_stay_in_handles_and_affinities() {
    for has_transactions in [true, false] {
        let memory = if has_transactions { MemoryStore::new() } else { MemoryStore::without_transactions() };
        let store: datastore::DynStore = std::sync::Arc::new(memory);
        add_nodes(&store, &["a"]).await;
        add_pool(&store, "pool", "10.0.0.0/29", 29, |_| {}).await;
        let ipam = ipam::Ipam::new(store.clone());
        let key = Key::BlockAffinity(host("a"), net("10.0.0.0/29"));
        store.put(key.clone(), r#"{"state":"pending","deleted":false,"later":{"b":1,"a":2}}"#.into()).await.unwrap();
        let handle = Key::IpamHandle("x".into());
        store.put(handle.clone(), r#"{"block":{},"deleted":false,"later":"a < b & c"}"#.into()).await.unwrap();
        assert_eq!(ipam.auto_assign(&request("a", "x")).await.unwrap().v4.len(), 1);
        let text = |key: Key| {
            let store = store.clone();
            async move { String::from_utf8(store.get(&key).await.unwrap().unwrap().value).unwrap() }
        };
        assert_eq!(text(key).await, r#"{"state":"confirmed","deleted":false,"later":{"b":1,"a":2}}"#);
        let wanted = r#"{"block":{"10.0.0.0/29":1},"deleted":false,"later":"a \u003c b \u0026 c"}"#;
        assert_eq!(text(handle).await, wanted, "and are written as Go does");
    }
}

/// A walk block by block would need 2^58 steps.
#[test]
fn a_reserved_stretch_of_an_ipv6_pool_is_passed_in_one_step() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
            add_pool(&store, "six", "fd00::/64", 122, |_| {}).await;
            // All of it, in parts.
            let parts = ["fd00::/65", "fd00::8000:0:0:0/66", "fd00::c000:0:0:0/67", "fd00::e000:0:0:0/67"];
            let cidrs = parts.map(String::from).to_vec();
            let spec = IpReservationSpec { reserved_cidrs: cidrs };
            let body = WithSpec { spec, status: None };
            typed::create(store.as_ref(), &IpReservation::new(Metadata::named("r"), body)).await.unwrap();
            let request = AssignRequest { num_v4: 0, num_v6: 1, ..request("a", "a.1") };
            let got = ipam.auto_assign(&request).await.unwrap();
            assert_eq!(got.v6, []);
            assert!(got.message.unwrap().contains("No IPs available in pools: [fd00::/64]"));
        });
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(20)).expect("the walk ends");
}

#[tokio::test]
async fn a_pool_that_no_longer_selects_the_node_leaves_no_affinity() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "old", "10.1.0.0/24", 26, |p| p.node_selector = Some("!all()".into())).await;
    let key = Key::BlockAffinity(host("a"), net("10.1.0.0/26"));
    store.create(key, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    store.create(Key::IpamBlock(net("10.1.0.64/26")), b"not JSON".to_vec()).await.unwrap();
    let key = Key::BlockAffinity(host("a"), net("10.1.0.64/26"));
    store.create(key.clone(), br#"{"state":"confirmed","deleted":false}"#.to_vec()).await.unwrap();
    assert_eq!(
        ipam.auto_assign(&request("a", "a.1")).await.unwrap().v4.len(),
        1,
        "a block that cannot be read stops nobody"
    );
    store.delete(key, None).await.unwrap();
    store.delete(Key::IpamBlock(net("10.1.0.64/26")), None).await.unwrap();
    audit(&store).await;
}

#[tokio::test]
async fn a_bad_selector_of_another_pool_fails_no_request_that_names_its_pool() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "bad", "10.1.0.0/24", 26, |p| p.node_selector = Some("((".into())).await;
    let named = AssignRequest { pools_v4: vec![net("10.0.0.0/24")], ..request("a", "a.1") };
    assert_eq!(ipam.auto_assign(&named).await.unwrap().v4.len(), 1);
    let error = ipam.auto_assign(&request("a", "a.2")).await.unwrap_err().to_string();
    assert!(error.starts_with("IPPool bad: "), "{error}");
}

#[tokio::test]
async fn a_given_address_comes_from_a_pool_of_its_use_with_its_blocks_mask() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    add_pool(&store, "lb", "172.20.0.0/24", 28, |p| p.allowed_uses = Some(vec![AllowedUse::LoadBalancer])).await;
    let services = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
    for (address, owner, expected) in [
        ("10.0.0.1", host("a"), Ok("10.0.0.1/26")),
        ("172.20.0.1", services.clone(), Ok("172.20.0.1/28")),
        ("172.20.0.2", host("a"), Err("172.20.0.2 is in IPPool lb, whose allowedUses lack Workload")),
        ("10.0.0.2", services, Err("10.0.0.2 is in IPPool pool, whose allowedUses lack LoadBalancer")),
    ] {
        let got = ipam.assign_ip(ip(address), address, BTreeMap::new(), owner).await;
        assert_eq!(got.map_err(|e| e.to_string()), expected.map(net).map_err(str::to_string));
    }
    add_pool(&store, "pool", "10.0.0.0/24", 29, |_| {}).await;
    let kept = ipam.assign_ip(ip("10.0.0.3"), "x", BTreeMap::new(), host("a")).await.unwrap();
    assert_eq!(kept, net("10.0.0.3/26"), "the block is older than the pool's block size");
}

#[tokio::test]
async fn an_address_is_released_only_for_the_handle_that_has_it() {
    let (_, store, ipam) = lab("10.0.0.0/24", 26).await;
    let mine = ipam.auto_assign(&request("a", "mine")).await.unwrap().v4[0].addr();
    let theirs = ipam.auto_assign(&request("a", "theirs")).await.unwrap().v4[0].addr();
    assert_eq!(ipam.release_ips_of("mine", &[mine, theirs]).await.unwrap(), [theirs]);
    assert_eq!(audit(&store).await.into_keys().collect::<Vec<_>>(), ["theirs"]);
}
