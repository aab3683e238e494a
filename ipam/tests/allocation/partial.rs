//! Requests of several transactions, of which the first are written and a later one is not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use datastore::memory::MemoryStore;
use datastore::{DynStore, Error as StoreError};
use ipam::{AssignRequest, Assignment, Error, Ipam, IpamConfig};

use crate::lab::*;
use crate::watched::{Watched, Write};

/// A pool of blocks of one address, of which a transaction writes 32.
async fn single_addresses() -> (MemoryStore, DynStore, Ipam) {
    let (memory, store, ipam) = lab("10.0.0.0/24", 32).await;
    ipam.set_config(IpamConfig { max_blocks_per_host: 1_000, ..IpamConfig::default() }).await.unwrap();
    (memory, store, ipam)
}

fn forty(handle: &str) -> AssignRequest {
    AssignRequest { num_v4: 40, ..request("a", handle) }
}

fn addresses(got: &Assignment) -> BTreeSet<IpAddr> {
    got.v4.iter().chain(&got.v6).map(|net| net.addr()).collect()
}

#[tokio::test]
async fn what_was_got_before_an_error_is_told() {
    let (memory, store, _) = single_addresses().await;
    let client = Ipam::new(Watched::cut_after(memory, 1));
    let got = client.auto_assign(&forty("x")).await.unwrap();
    let message = got.message.clone().unwrap();
    assert!(message.starts_with("Assigned 32 out of 40 requested IPv4 addresses; "), "{message}");
    assert!(message.ends_with("cut off"), "{message}");
    assert_eq!(audit(&store).await["x"], addresses(&got));
    // Nothing was got: the error.
    let error = client.auto_assign(&forty("y")).await.unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Unavailable(_))), "{error}");

    // One block at a time: its affinity pending, its handle, itself, its affinity confirmed.
    let memory = MemoryStore::without_transactions();
    let store: DynStore = Arc::new(memory.clone());
    add_nodes(&store, &["a"]).await;
    add_pool(&store, "pool", "10.0.0.0/24", 30, |_| {}).await;
    let got = Ipam::new(Watched::cut_after(memory, 8)).auto_assign(&forty("x")).await.unwrap();
    assert!(got.message.as_ref().unwrap().starts_with("Assigned 8 out of 40 "), "{got:?}");
    assert_eq!(audit(&store).await["x"], addresses(&got));
}

/// The request is looked at twice where the store is followed: the second look goes on from the first.
#[tokio::test]
async fn a_second_look_keeps_what_the_first_got() {
    let (memory, store, _) = single_addresses().await;
    let watched = Watched::new(memory);
    let following = async || {
        let ipam = Ipam::new(watched.clone()).following([host("a")]);
        ipam.synced().await;
        ipam
    };
    let ipam = following().await;
    watched.next_writes([Write::Done, Write::Refused(StoreError::Invalid("too much".into()))]);
    let got = ipam.auto_assign(&forty("x")).await.unwrap();
    assert_eq!((got.v4.len(), got.message.clone()), (40, None));
    assert_eq!(audit(&store).await["x"], addresses(&got));
    // And once more where it does no better. What the second look has written, the first did not know yet.
    let ipam = following().await;
    let refused = || Write::Refused(StoreError::Invalid("too much".into()));
    watched.next_writes([Write::Done, refused(), refused()]);
    let got = ipam.auto_assign(&forty("y")).await.unwrap();
    assert_eq!(got.message.as_deref(), Some("Assigned 32 out of 40 requested IPv4 addresses; too much"));
    assert_eq!(audit(&store).await["y"], addresses(&got));
}

/// Then the caller asks again, or releases the handle.
#[tokio::test]
async fn while_more_may_come_an_error_is_told() {
    let (memory, store, ipam) = single_addresses().await;
    let watched = Watched::new(memory);
    let lost = || Write::Refused(StoreError::Unknown("no answer".into()));
    let down = || Write::Refused(StoreError::Unavailable("down".into()));
    watched.next_writes([Write::Done, lost(), down()]);
    let error = Ipam::new(watched).auto_assign(&forty("x")).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error}");
    let first = audit(&store).await["x"].clone();
    assert_eq!(first.len(), 32);
    let got = ipam.ensure_assigned(&forty("x")).await.unwrap();
    assert!(got.v4.len() == 40 && addresses(&got).is_superset(&first), "{got:?}");
    assert_eq!(audit(&store).await["x"], addresses(&got));
}

/// A transaction with an unknown outcome that a later one has made impossible keeps nobody from his answer.
#[tokio::test]
async fn what_cannot_come_any_more_is_not_waited_for() {
    let (memory, store, other) = lab("10.0.0.0/31", 32).await;
    let watched = Watched::new(memory);
    let taking = async move {
        assert_eq!(other.auto_assign(&request("b", "other")).await.unwrap().v4.len(), 1);
    };
    watched.next_writes([
        // Both, without an answer; both, refused; then each alone.
        Write::Refused(StoreError::Unknown("no answer".into())),
        Write::Refused(StoreError::Invalid("too much".into())),
        Write::After(Box::pin(taking)),
    ]);
    let got = Ipam::new(watched).assign_many(&[request("a", "x"), request("a", "y")]).await;
    assert_eq!(got[0].as_ref().unwrap().v4.len(), 1);
    let none = got[1].as_ref().unwrap();
    assert!(none.v4.is_empty() && none.message.is_some(), "{none:?}");
    assert_eq!(audit(&store).await.keys().collect::<Vec<_>>(), ["other", "x"]);
}
