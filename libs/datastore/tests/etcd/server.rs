//! A real etcd on free loopback ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use datastore::DynStore;
use datastore::config::{EtcdConfig, StoreConfig};
use datastore::etcd::EtcdStore;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server that is killed when the test ends.
pub struct Server {
    process: Child,
    directory: tempfile::TempDir,
    pub client_port: u16,
    peer_port: u16,
    tls: Option<Tls>,
}

#[derive(Clone)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Server {
    pub async fn start(tls: Option<Tls>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Both listeners are open at once, so that the ports differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client_port, peer_port] = ports.map(|l| l.local_addr().unwrap().port());
        let process = spawn(directory.path(), client_port, peer_port, tls.as_ref());
        let server = Self { process, directory, client_port, peer_port, tls };
        server.wait().await;
        server
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.directory.path(), self.client_port, self.peer_port, self.tls.as_ref());
        self.wait().await;
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn config(&self) -> EtcdConfig {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut config = EtcdConfig {
            endpoints: vec![format!("{scheme}://127.0.0.1:{}", self.client_port)],
            ..EtcdConfig::default()
        };
        if let Some(tls) = &self.tls {
            config.ca_cert_file = Some(tls.ca.clone());
            config.cert_file = Some(tls.cert.clone());
            config.key_file = Some(tls.key.clone());
        }
        config
    }

    pub async fn open(&self) -> DynStore {
        StoreConfig::Etcd(self.config()).open().await.unwrap()
    }

    pub async fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = EtcdStore::connect(&self.config()).await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(directory: &Path, client_port: u16, peer_port: u16, tls: Option<&Tls>) -> Child {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new("etcd");
    command
        .args(["--name", "test", "--log-level", "error", "--data-dir"])
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .arg(format!("--initial-cluster=test={peer}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(tls) = tls {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
    }
    command.spawn().unwrap()
}

/// A CA and a certificate for 127.0.0.1 that serves both sides.
pub fn make_certificates(directory: &Path) -> Tls {
    let at = |name: &str| directory.join(name);
    let run = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(at("san"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    run(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"]);
    run(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", "key.pem", "-out", "csr"]);
    run(&[
        "x509",
        "-req",
        "-in",
        "csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "san",
        "-out",
        "cert.pem",
    ]);
    Tls { ca: at("ca.pem"), cert: at("cert.pem"), key: at("key.pem") }
}
