//! The stores that are measured: an etcd of our own, a SQLite file; and a wrapper that counts and remembers transactions.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use datastore::config::{EtcdConfig, StoreConfig};
use datastore::{DynStore, Error, KeyValue, Listing, Revision, Store, Txn, WatchStream};

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
    server: Option<Child>,
    _directory: tempfile::TempDir,
}

impl Lab {
    /// Starts a store in a directory of its own below `data`.
    pub async fn start(kind: Kind, data: &Path) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(data).map_err(|e| format!("{}: {e}", data.display()))?;
        if kind == Kind::Sqlite {
            let config = StoreConfig::Sqlite { path: directory.path().join("tortie.db") };
            return Ok(Self { config, server: None, _directory: directory });
        }
        // Both listeners are open at once, so that the ports differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()));
        let [client, peer] = ports.map(|address| address.map(|a| format!("http://{a}")).unwrap_or_default());
        let server = Command::new("etcd")
            .args(["--name", "bench", "--log-level", "error", "--data-dir"])
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=bench={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("etcd: {e}; on Debian: apt-get install etcd-server"))?;
        let config = StoreConfig::Etcd(EtcdConfig { endpoints: vec![client], ..EtcdConfig::default() });
        let lab = Self { config, server: Some(server), _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = lab.config.open().await {
            if Instant::now() > deadline {
                return Err(error.to_string());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(lab)
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

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
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
