//! A lock that comes in the middle of a round.

use ipam::lock;

use super::collection::{GRACE, POD, add_node, assign, handles, lab};
use super::*;

/// A store that is locked between the first reads of the controller's and its first write.
struct Locked {
    inner: MemoryStore,
    writes: AtomicUsize,
}

#[async_trait::async_trait]
impl Store for Locked {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, datastore::Error> {
        self.inner.get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, datastore::Error> {
        self.inner.list(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, datastore::Error> {
        self.inner.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, datastore::Error> {
        if self.writes.fetch_add(1, Ordering::SeqCst) == 0 {
            self.inner.put(lock::key(), r#"{"spec":{"datastoreReady":false}}"#.into()).await?;
        }
        self.inner.txn(txn).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), datastore::Error> {
        self.inner.compact(revision).await
    }

    fn describe(&self) -> String {
        "memory, to be locked".into()
    }
}

async fn unlock(store: &DynStore) {
    store.put(lock::key(), r#"{"spec":{"datastoreReady":true}}"#.into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_being_collected_when_the_lock_comes_stays_until_it_goes() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    add_node(&store, "gone").await;
    assign(&ipam, "gone", "net.c2", &POD).await;
    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "gone")).await.unwrap();
    let revision = memory.revision();
    let _lab = Lab::start(Arc::new(Locked { inner: memory.clone(), writes: 0.into() }));
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!((memory.revision(), handles(&store).await.len()), (revision + 1, 2), "the lock alone was written");
    unlock(&store).await;
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(handles(&store).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_round_of_many_writes_ends_at_the_lock() {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    let mut body = ServiceBody::default();
    body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
    let many = TOGETHER + 44;
    for n in 0..many {
        let service = Service::new(Metadata::namespaced("test", format!("s{n}")), body.clone());
        typed::create(store.as_ref(), &service).await.unwrap();
    }
    let _lab = Lab::start(Arc::new(Locked { inner: memory.clone(), writes: 0.into() }));
    let done = async || {
        let (services, _) = typed::list::<ServiceBody>(store.as_ref()).await.unwrap();
        services.iter().filter(|s| s.body.spec.cluster_ip.is_some()).count()
    };
    tokio::time::sleep(RESYNC * 3).await;
    assert_eq!(done().await, TOGETHER);
    unlock(&store).await;
    eventually!(done().await == many);
}
