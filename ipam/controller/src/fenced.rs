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

    async fn list_keys(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.store.list_keys(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        self.store.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        self.leadership.txn(txn.ops).await
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use datastore::election::{self, Election};
    use datastore::memory::MemoryStore;

    use super::*;

    /// One that was stopped while another took over still believes that it leads: the store refuses what it writes.
    #[tokio::test]
    async fn a_leader_that_was_overtaken_writes_nothing() {
        let millis = Duration::from_millis;
        let store: DynStore = Arc::new(MemoryStore::new());
        let settings = election::Settings::new(millis(900), millis(600), millis(200)).unwrap();
        let election = Election { store: store.clone(), name: "test".into(), identity: "one".into(), settings };
        let (give, mut take) = tokio::sync::mpsc::channel(1);
        let leading = election::run_as_leader(election, std::future::pending(), |leadership| {
            let fenced = Fenced::new(store.clone(), leadership);
            let give = give.clone();
            async move {
                give.send(fenced).await.ok();
                std::future::pending::<()>().await;
            }
        });
        let mut leading = std::pin::pin!(leading);
        let fenced = tokio::select! {
            _ = &mut leading => panic!("it leads for ever"),
            fenced = take.recv() => fenced.unwrap(),
        };
        fenced.put(Key::IpamConfig, b"{}".to_vec()).await.unwrap();
        // From here on it is not polled: it neither renews nor sees anything.
        let record = election::leader(&store, "test").await.unwrap().unwrap();
        assert!(record.holder_identity.starts_with("one"));
        let other = election::Record { holder_identity: "two".into(), ..record };
        store.put(Key::Election("test".into()), serde_json::to_vec(&other).unwrap()).await.unwrap();
        assert!(fenced.leadership.is_held(), "it believes that it leads");
        let refused = fenced.put(Key::IpamConfig, b"{\"late\":1}".to_vec()).await;
        assert!(matches!(refused, Err(Error::Conflict(Key::Election(_)))), "{refused:?}");
        assert_eq!(store.get(&Key::IpamConfig).await.unwrap().unwrap().value, b"{}");
    }
}
