//! An etcd of one test's own, on free loopback ports.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use datastore::DynStore;
use datastore::config::{EtcdConfig, StoreConfig};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server; it is killed when the test ends.
pub struct Etcd {
    process: Child,
    pub endpoint: String,
    _directory: tempfile::TempDir,
}

impl Etcd {
    /// Starts a server, and waits until it serves.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Both listeners are open at once, so that the ports differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = ports.map(|l| format!("http://{}", l.local_addr().unwrap()));
        let process = Command::new("etcd")
            .args(["--name", "test", "--log-level", "error", "--data-dir"])
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=test={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, endpoint: client, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = server.open().await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    /// A client of its own.
    pub async fn open(&self) -> Result<DynStore, datastore::Error> {
        StoreConfig::Etcd(EtcdConfig { endpoints: vec![self.endpoint.clone()], ..EtcdConfig::default() }).open().await
    }

    /// A value as another program would read it.
    pub fn read(&self, key: &str) -> String {
        let output = self.etcdctl(&["get", key, "--print-value-only"]);
        output.strip_suffix('\n').map_or(output.clone(), str::to_string)
    }

    /// A value as another program would write it.
    pub fn write(&self, key: &str, value: &str) {
        self.etcdctl(&["put", key, value]);
    }

    fn etcdctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .args(["--endpoints", &self.endpoint])
            .args(args)
            .env("ETCDCTL_API", "3")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
