//! An etcd of one test's or bench's own, on free loopback ports, with etcd's default limits. It and its data go with it, also when the
//! test fails.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use datastore::config::{EtcdConfig, StoreConfig};
use datastore::{DynStore, Error};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub struct Etcd {
    process: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Etcd {
    /// Starts a server that keeps its data where temporary files are, and waits until it serves.
    ///
    /// # Panics
    /// Where it does not serve, with what a test needs to say.
    pub async fn start() -> Self {
        Self::start_in(&std::env::temp_dir()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a server that keeps its data in a directory of its own below `data`, and waits until it serves.
    ///
    /// # Errors
    /// Text: what was attempted, and what to do.
    pub async fn start_in(data: &Path) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(data).map_err(|e| format!("{}: {e}", data.display()))?;
        let bind = || TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"));
        // Both listeners are open at once, so that the ports differ.
        let listeners = (bind()?, bind()?);
        let url = |l: &TcpListener| l.local_addr().map(|a| format!("http://{a}")).map_err(|e| e.to_string());
        let (client, peer) = (url(&listeners.0)?, url(&listeners.1)?);
        drop(listeners);
        let process = Command::new("etcd")
            .args(["--name", "test", "--log-level", "error", "--data-dir"])
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=test={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("etcd: {e}; on Debian: apt-get install etcd-server"))?;
        let server = Self { process, endpoint: client, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = server.config().open().await {
            if Instant::now() > deadline {
                return Err(format!("etcd does not serve: {error}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    /// Where it serves clients: `http://127.0.0.1:2379`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// As the store of a program of ours.
    pub fn config(&self) -> StoreConfig {
        StoreConfig::Etcd(EtcdConfig { endpoints: vec![self.endpoint.clone()], ..EtcdConfig::default() })
    }

    /// The same as environment variables.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("DATASTORE_TYPE", "etcdv3".into()), ("ETCD_ENDPOINTS", self.endpoint.clone())]
    }

    /// A client of its own.
    ///
    /// # Errors
    /// Those of [`StoreConfig::open`].
    pub async fn try_open(&self) -> Result<DynStore, Error> {
        self.config().open().await
    }

    /// A client of its own.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub async fn open(&self) -> DynStore {
        self.try_open().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A value as another program would read it.
    ///
    /// # Panics
    /// Where `etcdctl` fails.
    pub fn read(&self, key: &str) -> String {
        let output = self.etcdctl(&["get", key, "--print-value-only"]);
        output.strip_suffix('\n').map_or(output.clone(), str::to_string)
    }

    /// Writes a value as another program would.
    ///
    /// # Panics
    /// Where `etcdctl` fails.
    pub fn write(&self, key: &str, value: &str) {
        self.etcdctl(&["put", key, value]);
    }

    fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.args(["--endpoints", &self.endpoint]).args(args).env("ETCDCTL_API", "3");
        let output =
            command.output().unwrap_or_else(|e| panic!("etcdctl: {e}; on Debian: apt-get install etcd-client"));
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
