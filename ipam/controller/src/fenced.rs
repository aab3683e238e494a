//! The store as a leader writes to it: every write is conditional on its still leading, so that one which was stopped and wakes up
//! late (SIGSTOP, a paused machine) changes nothing.

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use datastore::election::Leadership;
use datastore::store::WatchStream;
use datastore::{DynStore, Error, KeyValue, Listing, Revision, Store, Txn};

/// Reads pass through.
pub struct Fenced {
    store: DynStore,
    leadership: Leadership,
}

impl Fenced {
    pub fn new(store: DynStore, leadership: Leadership) -> Self {
        Self { store, leadership }
    }
}

#[async_trait]
impl Store for Fenced {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        self.store.get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.store.list(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        self.store.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        if self.store.has_transactions() {
            return self.leadership.txn(txn.ops).await;
        }
        // Without transactions nothing can be conditional on two objects: the clock alone decides.
        if !self.leadership.is_held() {
            return Err(Error::Unavailable("this controller does not lead any more".into()));
        }
        self.store.txn(txn).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }

    fn has_transactions(&self) -> bool {
        self.store.has_transactions()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}
