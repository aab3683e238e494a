//! Blocks whose bytes are spent before their addresses are: large ones, or ones with long attributes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use etcd_server::Etcd;
use ipam::block::{BlockError, MAX_BYTES};
use ipam::{AssignRequest, Error, Ipam};

use crate::lab::*;
use crate::watched::Watched;

/// Longer than anybody's attributes are, so that few addresses spend a block.
fn long(len: usize, handle: &str) -> AssignRequest {
    let attributes = BTreeMap::from([("note".to_string(), "x".repeat(len))]);
    AssignRequest { attributes, ..request("a", handle) }
}

/// The blocks of one node, with attributes that fill them before 100 of their 4,096 addresses are taken.
#[tokio::test]
#[ignore = "needs etcd"]
async fn a_block_gives_addresses_as_long_as_etcd_takes_it() {
    let etcd = Etcd::start().await;
    let store = etcd.open().await;
    add_nodes(&store, &["a", "b"]).await;
    add_pool(&store, "four", "10.0.0.0/19", 20, |_| {}).await;
    add_pool(&store, "six", "fd00::/115", 116, |_| {}).await;
    let ipam = Ipam::new(store.clone());
    let mut first = None;
    for n in 0..100 {
        let both = AssignRequest { num_v6: 1, ..long(16 << 10, &format!("a.{n}")) };
        let got = ipam.auto_assign(&both).await.unwrap();
        assert_eq!((got.v4.len(), got.v6.len(), got.message), (1, 1, None), "{n}");
        first.get_or_insert((got.v4[0], got.v6[0]));
    }
    let (v4, v6) = first.unwrap();
    let together: Vec<AssignRequest> = (0..40).map(|n| long(16 << 10, &format!("many.{n}"))).collect();
    for got in ipam.assign_many(&together).await {
        let got = got.unwrap();
        assert!(got.v4.len() == 1 && got.v4[0].trunc() != v4.trunc(), "{got:?}");
    }
    assert_eq!(ipam.blocks().await.unwrap().len(), 4);
    for given in [v4, v6] {
        let last = given.broadcast();
        let attributes = long(16 << 10, "").attributes;
        let error = ipam.assign_ip(last, "given", attributes.clone(), host("a")).await.unwrap_err();
        assert!(matches!(error, Error::Block(BlockError::NoBytesLeft { .. })), "{error}");
        let text = error.to_string();
        for part in [given.trunc().to_string(), last.to_string(), MAX_BYTES.to_string()] {
            assert!(text.contains(&part), "{part}: {text}");
        }
        let error = ipam.assign_ip(given.addr(), "given", attributes, host("a")).await.unwrap_err();
        assert!(matches!(error, Error::Block(BlockError::AlreadyAssigned(_))), "{error}");
    }
    // What is given back is room again.
    assert_eq!(ipam.release_by_handle("a.0").await.unwrap().len(), 2);
    let attributes = long(16 << 10, "").attributes;
    assert!(ipam.assign_ip(v4.broadcast(), "given", attributes, host("a")).await.is_ok());
    let held = audit(&store).await;
    assert_eq!(held.values().flatten().count(), 99 * 2 + 40 + 1);
    let names: Vec<&str> = held.keys().map(String::as_str).collect();
    assert!(ipam.release_handles(&names).await.iter().all(Result::is_ok));
    assert!(audit(&store).await.is_empty());
}

/// Who may not claim another block borrows.
#[tokio::test]
async fn a_block_without_bytes_is_spent() {
    let (_, store, ipam) = lab("10.0.0.0/19", 20).await;
    let theirs = ipam.auto_assign(&request("b", "b.0")).await.unwrap().v4[0];
    let mut own = None;
    for n in 0..30 {
        let one = AssignRequest { max_blocks: 1, ..long(64 << 10, &format!("a.{n}")) };
        let got = ipam.auto_assign(&one).await.unwrap();
        assert_eq!((got.v4.len(), got.message), (1, None), "{n}");
        let block = got.v4[0].trunc();
        let own = *own.get_or_insert(block);
        assert_eq!(block == own, n < 19, "{n}: {block}");
        assert!(block == own || block == theirs.trunc());
    }
    // Both are spent for such attributes, and not for others.
    for n in 30..60 {
        let got = ipam.auto_assign(&long(64 << 10, &format!("a.{n}"))).await.unwrap();
        assert_eq!(got.message.is_some(), got.v4.is_empty());
    }
    let got = ipam.auto_assign(&long(64 << 10, "a.60")).await.unwrap();
    assert!(got.v4.is_empty() && got.message.unwrap().contains("No IPs available"));
    assert_eq!(ipam.auto_assign(&request("a", "short")).await.unwrap().v4.len(), 1);
    let error = ipam.auto_assign(&long(MAX_BYTES, "long")).await.unwrap_err();
    assert!(matches!(error, Error::AttributesTooLong { .. }), "{error}");
    for stored in ipam.blocks().await.unwrap() {
        assert!(serde_json::to_vec(&stored).unwrap().len() <= MAX_BYTES, "{}", stored.cidr);
    }
    audit(&store).await;
}

/// One request over three blocks is one transaction, however often its attributes would count if each address stored them.
#[tokio::test]
async fn attributes_that_addresses_share_count_once() {
    let (memory, store, _) = lab("10.0.0.0/24", 28).await;
    let watched = Watched::new(memory);
    let ipam = Ipam::new(watched.clone());
    let many = AssignRequest { num_v4: 40, ..long(64 << 10, "a.0") };
    assert_eq!(ipam.auto_assign(&many).await.unwrap().v4.len(), 40);
    assert_eq!(watched.counts().1, 1);
    assert!(watched.largest() < 300_000, "{} bytes", watched.largest());
    let released: Vec<IpAddr> = ipam.release_by_handle("a.0").await.unwrap();
    assert_eq!(released.len(), 40);
    audit(&store).await;
}
