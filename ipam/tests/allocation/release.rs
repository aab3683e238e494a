use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Key;
use api::key::{AffinityOwner, KeyRange};
use datastore::DynStore;
use datastore::memory::Fault;
use ipam::{AssignRequest, Error, LOAD_BALANCER_OWNER, ReleaseRequest};

use crate::lab::*;

async fn affinities(store: &DynStore) -> usize {
    store.list(&KeyRange::HostAffinities).await.unwrap().items.len()
}

#[tokio::test]
async fn an_allocation_that_is_not_the_one_meant_keeps_all_of_its_block() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    let one = ipam.auto_assign(&AssignRequest { num_v4: 4, ..request("a", "one") }).await.unwrap().v4;
    let two = ipam.auto_assign(&request("a", "two")).await.unwrap().v4;
    let old = ipam.block_of(one[0].addr()).await.unwrap().unwrap();
    let number = old.sequence_number_for_allocation["0"];
    let meant = |ip: IpAddr, handle: &str, sequence_number| ReleaseRequest {
        address: ip,
        handle: Some(handle.into()),
        sequence_number,
    };
    let wanted =
        [one[1].addr().into(), meant(one[0].addr(), "another", None), two[0].addr().into(), ip("172.16.0.1").into()];
    let error = ipam.release_ips(&wanted).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("update conflict: {} is not released: its handle is one, not another", one[0].addr())
    );
    let held = audit(&store).await;
    assert_eq!(held["one"].len(), 4, "nothing of the block");
    assert!(!held.contains_key("two"), "the other block's part is done");

    // The same handle, given again: only the number tells.
    let first = one[0].addr();
    assert!(ipam.release_ips(&[meant(first, "one", Some(number))]).await.unwrap().is_empty());
    ipam.assign_ip(first, "one", BTreeMap::new(), host("a")).await.unwrap();
    let error = ipam.release_ips(&[meant(first, "one", Some(number))]).await.unwrap_err();
    assert!(matches!(error, Error::NotTheSame { what: "sequence number", .. }), "{error}");
    assert_eq!(audit(&store).await["one"].len(), 4);
}

#[tokio::test]
async fn a_release_with_an_unknown_outcome_takes_nothing_from_the_next_holder() {
    let (memory, store, ipam) = lab("10.0.0.0/31", 31).await;
    let got = ipam.auto_assign(&request("a", "x")).await.unwrap().v4[0].addr();
    memory.fail_next_txn(Fault::UnknownApplied);
    assert!(ipam.release_ips(&[got.into()]).await.unwrap().is_empty(), "it was released");
    assert!(audit(&store).await.is_empty());
    assert_eq!(ipam.release_ips(&[got.into(), got.into()]).await.unwrap(), [got]);
}

#[tokio::test]
async fn a_release_of_many_addresses_is_a_transaction_for_each_64() {
    let (memory, store, ipam) = lab("10.0.0.0/20", 24).await;
    let mut wanted: Vec<ReleaseRequest> = vec![];
    for n in 0..300 {
        wanted.push(ipam.auto_assign(&request("a", &format!("x{n}"))).await.unwrap().v4[0].addr().into());
    }
    let before = memory.revision();
    assert!(ipam.release_ips(&wanted).await.unwrap().is_empty());
    assert_eq!(memory.revision() - before, 4 + 1, "256 addresses of one block, 44 of another");
    assert!(audit(&store).await.is_empty());
}

#[tokio::test]
async fn an_owner_gives_up_its_blocks_and_addresses_in_use_stay() {
    let (memory, store, ipam) = lab("10.0.0.0/28", 30).await;
    let got = ipam.auto_assign(&AssignRequest { num_v4: 6, ..request("a", "a.1") }).await.unwrap().v4;
    let (full, half) = (got[0].trunc(), got[4].trunc());
    ipam.release_ips(&got[4..].iter().map(|n| n.addr().into()).collect::<Vec<_>>()).await.unwrap();

    let error = ipam.release_host_affinities(&host("a"), true).await.unwrap_err();
    assert_eq!(error.to_string(), format!("block '{full}' is not empty"));
    assert_eq!(affinities(&store).await, 1, "the empty one went");
    assert!(ipam.blocks().await.unwrap().iter().all(|b| b.cidr != half));

    ipam.release_block_affinity(full, &host("b"), false).await.unwrap();
    assert_eq!(affinities(&store).await, 1, "it is not b's");
    let before = memory.revision();
    assert_eq!(ipam.release_host_affinities(&host("a"), false).await.unwrap(), [full]);
    assert_eq!(memory.revision(), before + 1, "block and affinity at once");
    let block = &ipam.blocks().await.unwrap()[0];
    assert_eq!((block.affinity.as_deref(), block.affinity_claim_time.as_deref()), (None, None));
    assert_eq!(audit(&store).await["a.1"].len(), 4);

    ipam.remove_host("a").await.unwrap();
    ipam.remove_host("a").await.unwrap();
    assert_eq!(ipam.release_node_addresses("a").await.unwrap().len(), 4);
    assert!(ipam.blocks().await.unwrap().is_empty(), "nobody's and empty");
    assert!(audit(&store).await.is_empty());
}

#[tokio::test]
async fn a_pool_is_released_whoever_has_its_blocks() {
    let (_, store, ipam) = lab("10.0.0.0/28", 30).await;
    add_pool(&store, "lb", "172.20.0.0/28", 30, |p| p.allowed_uses = Some(vec![ipam::AllowedUse::LoadBalancer])).await;
    ipam.auto_assign(&request("a", "a.1")).await.unwrap();
    ipam.auto_assign(&AssignRequest { num_v4: 2, ..request("b", "b.1") }).await.unwrap();
    let services = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
    let lb = ipam.auto_assign(&AssignRequest { num_v4: 1, ..AssignRequest::new(services, "lb-1") }).await.unwrap();
    assert_eq!(lb.v4.len(), 1, "{:?}", lb.message);
    // A claim that never got its block goes too.
    let pending = Key::BlockAffinity(host("c"), net("10.0.0.12/30"));
    store.put(pending, br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();

    ipam.release_pool_affinities(net("10.0.0.0/28")).await.unwrap();
    assert_eq!(affinities(&store).await, 0);
    assert_eq!(audit(&store).await.len(), 3, "addresses in use stay");
    assert_eq!(ipam.release_pool_addresses(net("10.0.0.0/28")).await.unwrap().len(), 3);
    assert_eq!(ipam.blocks().await.unwrap().len(), 1);
    ipam.release_pool_affinities(net("172.20.0.0/28")).await.unwrap();
    assert_eq!(store.list(&KeyRange::VirtualAffinities).await.unwrap().items, []);
    assert_eq!(ipam.release_pool_addresses(net("172.20.0.0/28")).await.unwrap(), [lb.v4[0].addr()]);
    assert!(store.list(&KeyRange::Blocks).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_store_without_transactions_refuses_two_operations() {
    let memory = datastore::memory::MemoryStore::without_transactions();
    let ops = ["x", "y"].map(|h| datastore::Op::Create(Key::IpamHandle(h.into()), b"{}".to_vec())).to_vec();
    let store: DynStore = std::sync::Arc::new(memory);
    assert!(!store.has_transactions());
    let error = store.txn(datastore::Txn { ops: ops.clone() }).await.unwrap_err();
    assert!(matches!(error, datastore::Error::Invalid(_)), "{error}");
    assert!(store.list(&KeyRange::Handles).await.unwrap().items.is_empty());
    store.txn(datastore::Txn { ops: ops[..1].to_vec() }).await.unwrap();
}
