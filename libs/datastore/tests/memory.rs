//! The store in memory passes the suite, and fails on demand.

use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, KeyRange};
use datastore::conformance;
use datastore::memory::{Fault, MemoryStore};
use datastore::watcher::{self, Update};
use datastore::{DynStore, Error, Store};

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let store: DynStore = Arc::new(MemoryStore::new());
    conformance::all(conformance::open_with(move || std::future::ready(store.clone()))).await;
}

fn handle(name: &str) -> Key {
    Key::IpamHandle(name.into())
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let store = MemoryStore::new();
    let rows = [
        (Fault::Conflict, "conflict", false),
        (Fault::UnknownApplied, "unknown", true),
        (Fault::UnknownLost, "unknown", false),
        (Fault::Unavailable, "unavailable", false),
    ];
    for (n, (fault, expected, is_written)) in rows.into_iter().enumerate() {
        let key = handle(&n.to_string());
        store.fail_next_txn(fault);
        let error = store.create(key.clone(), b"{}".into()).await.unwrap_err();
        let name = match error {
            Error::Conflict(_) => "conflict",
            Error::Unknown(_) => "unknown",
            Error::Unavailable(_) => "unavailable",
            _ => "other",
        };
        assert_eq!(name, expected, "{fault:?}");
        assert_eq!(store.get(&key).await.unwrap().is_some(), is_written, "{fault:?}");
        let again = store.put(key, b"{}".into()).await;
        assert!(again.is_ok(), "{fault:?} happens once");
    }
}

async fn next(updates: &mut tokio::sync::mpsc::Receiver<Update>) -> Update {
    tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap()
}

/// What happens while the watcher is cut off, by outage or compaction, reaches the receiver as a difference.
#[tokio::test]
async fn the_watcher_makes_up_for_what_it_missed() {
    let store = MemoryStore::new();
    let mut updates = watcher::watch(Arc::new(store.clone()), vec![KeyRange::Handles]);
    assert_eq!(next(&mut updates).await, Update::InSync);
    for name in ["stays", "goes", "changes"] {
        store.put(handle(name), b"1".into()).await.unwrap();
        assert!(matches!(next(&mut updates).await, Update::Put(kv) if kv.key == handle(name)));
    }

    store.break_watches();
    store.delete(handle("goes"), None).await.unwrap();
    store.put(handle("changes"), b"2".into()).await.unwrap();
    store.put(handle("comes"), b"1".into()).await.unwrap();
    store.put(handle("passes"), b"1".into()).await.unwrap();
    store.delete(handle("passes"), None).await.unwrap();
    store.compact(store.revision()).await.unwrap();

    assert_eq!(next(&mut updates).await, Update::Delete(handle("goes")));
    for name in ["changes", "comes"] {
        assert!(matches!(next(&mut updates).await, Update::Put(kv) if kv.key == handle(name)));
    }

    store.set_unavailable(true);
    tokio::time::sleep(Duration::from_millis(120)).await;
    store.set_unavailable(false);
    store.put(handle("after"), b"1".into()).await.unwrap();
    assert!(matches!(next(&mut updates).await, Update::Put(kv) if kv.key == handle("after")));
    assert!(updates.is_empty(), "nothing is repeated, in-sync neither");
}

/// A watcher that starts while the store is away is in sync once it is back.
#[tokio::test]
async fn the_watcher_waits_for_a_store_that_is_away() {
    let store = MemoryStore::new();
    store.put(handle("a"), b"1".into()).await.unwrap();
    store.set_unavailable(true);
    let mut updates = watcher::watch(Arc::new(store.clone()), vec![KeyRange::Handles, KeyRange::Blocks]);
    let early = tokio::time::timeout(Duration::from_millis(100), updates.recv()).await;
    assert!(early.is_err(), "{early:?}");
    store.set_unavailable(false);
    assert!(matches!(next(&mut updates).await, Update::Put(_)));
    assert_eq!(next(&mut updates).await, Update::InSync);
}

#[tokio::test]
async fn the_watchers_tasks_end_with_the_receiver() {
    let store = Arc::new(MemoryStore::new());
    let weak = Arc::downgrade(&store);
    let updates = watcher::watch(store, vec![KeyRange::Handles]);
    drop(updates);
    tokio::time::timeout(Duration::from_secs(10), async {
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}
