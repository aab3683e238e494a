//! The stores that are measured: an etcd of our own, a SQLite file; and a wrapper that counts and remembers transactions.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use datastore::config::StoreConfig;
use datastore::{DynStore, Error, KeyValue, Listing, Revision, Store, Txn, WatchStream};
use etcd_server::Etcd;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Sqlite,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Sqlite => "SQLite",
        }
    }
}

/// An empty store; its data goes with it.
pub struct Lab {
    config: StoreConfig,
    _server: Option<Etcd>,
    _directory: Option<tempfile::TempDir>,
}

impl Lab {
    /// Starts a store in a directory of its own below `data`.
    pub async fn start(kind: Kind, data: &Path) -> Result<Self, String> {
        if kind == Kind::Sqlite {
            let directory = tempfile::tempdir_in(data).map_err(|e| format!("{}: {e}", data.display()))?;
            let config = StoreConfig::Sqlite { path: directory.path().join("tortie.db") };
            return Ok(Self { config, _server: None, _directory: Some(directory) });
        }
        let server = Etcd::start_in(data).await?;
        Ok(Self { config: server.config(), _server: Some(server), _directory: None })
    }

    /// What tells another program of the store.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match &self.config {
            StoreConfig::Etcd(etcd) => {
                vec![("DATASTORE_TYPE", "etcdv3".into()), ("ETCD_ENDPOINTS", etcd.endpoints.join(","))]
            }
            StoreConfig::Sqlite { path } => {
                vec![("DATASTORE_TYPE", "sqlite".into()), ("SQLITE_PATH", path.display().to_string())]
            }
            StoreConfig::Kubernetes(_) => vec![],
        }
    }

    /// A client of its own, counted.
    pub async fn open(&self) -> Result<Arc<Counted>, Error> {
        Ok(Arc::new(Counted {
            inner: self.config.open().await?,
            transactions: AtomicU64::new(0),
            last: Mutex::default(),
        }))
    }
}

/// A store whose transactions are counted; the last one is kept.
pub struct Counted {
    inner: DynStore,
    transactions: AtomicU64,
    last: Mutex<Txn>,
}

impl Counted {
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> Txn {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Past the count.
    pub fn bare(&self) -> &DynStore {
        &self.inner
    }
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.inner.list(range).await
    }

    async fn list_keys(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.inner.list_keys(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = txn.clone();
        self.inner.txn(txn).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
