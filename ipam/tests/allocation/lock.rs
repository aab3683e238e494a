//! The lock is a fence for who heeds it: what was read before it, and is written after it, changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Key;
use api::key::KeyRange;
use async_trait::async_trait;
use datastore::memory::MemoryStore;
use datastore::sqlite::SqliteStore;
use datastore::{DynStore, Error as StoreError, KeyValue, Listing, Revision, Store, Txn, WatchStream};
use etcd_server::Etcd;
use ipam::{Error, Ipam, lock};

use crate::lab::*;

const LOCKED: &str = r#"{"spec":{"datastoreReady":false,"clusterGUID":"g"}}"#;
const OPEN: &str = r#"{"spec":{"datastoreReady":true,"clusterGUID":"g"}}"#;

/// A store in which others write the ClusterInformation between the reads of the next transaction and the transaction.
struct Overtaken {
    inner: DynStore,
    /// How long they take.
    delay: Duration,
    documents: Mutex<Vec<&'static str>>,
}

impl Overtaken {
    fn new(inner: &DynStore, delay: Duration) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), delay, documents: Mutex::default() })
    }

    fn by(&self, documents: &[&'static str]) {
        *self.documents.lock().unwrap() = documents.to_vec();
    }
}

#[async_trait]
impl Store for Overtaken {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        self.inner.list(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        let documents = std::mem::take(&mut *self.documents.lock().unwrap());
        for document in documents {
            tokio::time::sleep(self.delay).await;
            set(&self.inner, document).await;
        }
        self.inner.txn(txn).await
    }

    fn has_transactions(&self) -> bool {
        self.inner.has_transactions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    fn describe(&self) -> String {
        "overtaken".into()
    }
}

async fn set(store: &DynStore, document: &str) {
    store.put(lock::key(), document.into()).await.unwrap();
}

#[tokio::test]
async fn on_sqlite_nothing_is_given_or_taken_that_was_begun_before_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    fence(Arc::new(SqliteStore::open(directory.path().join("tortie.db")).await.unwrap())).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn on_etcd_nothing_is_given_or_taken_that_was_begun_before_the_lock() {
    let etcd = Etcd::start().await;
    fence(etcd.open().await).await;
}

async fn fence(store: DynStore) {
    add_nodes(&store, &["a", "b"]).await;
    add_pool(&store, "pool", "10.0.0.0/24", 28, |_| {}).await;
    let calicoctl = Ipam::new(store.clone());
    for (node, follows) in [("a", false), ("b", true)] {
        let overtaken = Overtaken::new(&store, Duration::ZERO);
        let mut ipam = Ipam::new(overtaken.clone()).heeding_lock();
        if follows {
            ipam = ipam.following([host(node)]);
            ipam.synced().await;
        }
        let handle = |n: u8| format!("{node}.{n}");
        // The first lock of a cluster finds no ClusterInformation; the next ones find one.
        for n in 0..2 {
            overtaken.by(&[LOCKED]);
            let given = ipam.ensure_assigned(&request(node, &handle(n))).await;
            assert!(matches!(given, Err(Error::Locked)), "{node} {n}: {given:?}");
            assert!(!audit(&store).await.contains_key(&handle(n)));
            let given = ipam.ensure_assigned(&request(node, &handle(n))).await;
            assert!(matches!(given, Err(Error::Locked)), "{node} {n}: {given:?}");
            set(&store, OPEN).await;
            assert_eq!(ipam.ensure_assigned(&request(node, &handle(n))).await.unwrap().v4.len(), 1);
        }
        // A change of another field, or a lock that is over, is none.
        overtaken.by(&[LOCKED, r#"{"spec":{"datastoreReady":true,"clusterGUID":7}}"#]);
        assert_eq!(ipam.ensure_assigned(&request(node, &handle(2))).await.unwrap().v4.len(), 1);
        // Who does not heed it writes behind it.
        set(&store, LOCKED).await;
        assert_eq!(calicoctl.auto_assign(&request(node, &handle(3))).await.unwrap().v4.len(), 1);
        set(&store, OPEN).await;
        let before = audit(&store).await;
        assert_eq!(before.keys().filter(|h| h.starts_with(node)).count(), 4);
        let of = |n: u8| before[&handle(n)].first().copied().unwrap();
        let block = ipam.block_of(of(0)).await.unwrap().unwrap().cidr;
        for n in 0..4 {
            overtaken.by(&[LOCKED]);
            for _ in 0..2 {
                let refused = match n {
                    0 => ipam.release_by_handle(&handle(0)).await.map(drop),
                    1 => ipam.release_ips(&requests(&[of(1)])).await.map(drop),
                    2 => ipam.hand_over(of(2), &handle(2), None, "other", &BTreeMap::new()).await,
                    _ => ipam.release_block_affinity(block, &host(node), false).await,
                };
                assert!(matches!(refused, Err(Error::Locked)), "{node} {n}: {refused:?}");
                assert_eq!(audit(&store).await, before, "{node} {n}");
            }
            set(&store, OPEN).await;
        }
        assert_eq!(ipam.release_by_handle(&handle(0)).await.unwrap(), [of(0)]);
        overtaken.by(&[LOCKED, OPEN]);
        assert_eq!(ipam.release_by_handle(&handle(1)).await.unwrap(), [of(1)]);
        overtaken.by(&[LOCKED, OPEN]);
        assert!(ipam.release_ips(&requests(&[of(2)])).await.unwrap().is_empty());
        set(&store, LOCKED).await;
        assert_eq!(calicoctl.release_by_handle(&handle(3)).await.unwrap(), [of(3)]);
        set(&store, OPEN).await;
        overtaken.by(&[LOCKED, OPEN]);
        ipam.release_block_affinity(block, &host(node), true).await.unwrap();
        assert!(!audit(&store).await.keys().any(|h| h.starts_with(node)));
    }
}

/// The first write of an allocation takes so long that the lock comes meanwhile: the block is not written, and what was is taken back.
#[tokio::test(start_paused = true)]
async fn without_transactions_no_block_is_written_long_after_the_lock_was_open() {
    let store: DynStore = Arc::new(MemoryStore::without_transactions());
    add_nodes(&store, &["a"]).await;
    add_pool(&store, "pool", "10.0.0.0/24", 28, |_| {}).await;
    let overtaken = Overtaken::new(&store, Duration::from_secs(11));
    let ipam = Ipam::new(overtaken.clone()).heeding_lock();
    for n in 0..2 {
        let wanted = request("a", &format!("a.{n}"));
        overtaken.by(&[LOCKED]);
        for _ in 0..2 {
            let given = ipam.ensure_assigned(&wanted).await;
            assert!(matches!(given, Err(Error::Locked)), "{n}: {given:?}");
            assert_eq!(audit(&store).await.len(), n);
        }
        set(&store, OPEN).await;
        assert_eq!(ipam.ensure_assigned(&wanted).await.unwrap().v4.len(), 1);
    }
    overtaken.by(&[LOCKED, OPEN]);
    assert_eq!(ipam.ensure_assigned(&request("a", "a.2")).await.unwrap().v4.len(), 1);
    assert_eq!(audit(&store).await.len(), 3);
}
