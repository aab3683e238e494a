use std::sync::Arc;

use api::meta::WithSpec;
use api::{IpPoolSpec, Metadata};
use datastore::memory::MemoryStore;

use super::*;

fn pool_key() -> Key {
    Key::resource(Kind::IpPool, None, "p")
}

fn pool(block_size: u8) -> IpPool {
    let spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new("10.0.0.0/24".parse().unwrap()) };
    IpPool::new(Metadata::named("p"), WithSpec { spec, status: None })
}

fn put(block_size: u8, mod_revision: Revision) -> KeyValue {
    KeyValue { key: pool_key(), value: serde_json::to_vec(&pool(block_size)).unwrap(), mod_revision }
}

async fn follow() -> Arc<Snapshot> {
    let store: DynStore = Arc::new(MemoryStore::new());
    typed::create(store.as_ref(), &pool(26)).await.unwrap();
    let snapshot = Snapshot::follow(store, vec![AffinityOwner::Host("a".into())]);
    snapshot.synced().await;
    snapshot
}

fn block_sizes(snapshot: &Snapshot) -> Vec<u8> {
    snapshot.pools().iter().map(|p| p.body.spec.block_prefix_len()).collect()
}

#[tokio::test]
async fn a_doubt_that_arises_during_the_listing_stays() {
    let snapshot = follow().await;
    let doubts = snapshot.doubts().expect("until the blocks are listed");
    let listing = Listing { items: vec![], revision: 1 };
    snapshot.update(Update::Put(put(28, 50)));
    snapshot.listed(&listing, doubts);
    let doubts = snapshot.doubts().expect("the pool has changed since the listing began");
    snapshot.listed(&listing, doubts);
    assert_eq!(snapshot.doubts(), None);
}

#[tokio::test]
async fn what_was_read_takes_back_nothing_that_was_heard_meanwhile() {
    let snapshot = follow().await;
    let key = pool_key();
    let before = snapshot.revision(&key);
    assert!(before.is_some());
    snapshot.update(Update::Put(put(28, 50)));
    snapshot.refreshed(&key, before, Some(put(27, 40)));
    assert_eq!((block_sizes(&snapshot), snapshot.revision(&key)), (vec![28], Some(50)));
    snapshot.refreshed(&key, before, None);
    assert_eq!(block_sizes(&snapshot), [28], "deleted, and made anew since");
    snapshot.refreshed(&key, before, Some(put(29, 60)));
    assert_eq!(block_sizes(&snapshot), [29], "newer than what was heard");
    let before = snapshot.revision(&key);
    snapshot.update(Update::Delete(key.clone()));
    snapshot.refreshed(&key, before, Some(put(29, 60)));
    assert!(block_sizes(&snapshot).is_empty(), "deleted since");
    snapshot.update(Update::Put(put(28, 70)));
    snapshot.refreshed(&key, Some(70), None);
    assert!(block_sizes(&snapshot).is_empty());
}

#[tokio::test]
async fn a_pool_that_cannot_be_read_any_more_gives_nothing() {
    let snapshot = follow().await;
    let doubts = snapshot.doubts();
    snapshot.update(Update::Put(KeyValue { value: b"{".to_vec(), ..put(26, 50) }));
    assert!(block_sizes(&snapshot).is_empty());
    assert!(snapshot.doubts() > doubts);
}
