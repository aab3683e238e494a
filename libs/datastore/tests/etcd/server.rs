//! A real etcd on free loopback ports: one server, or a cluster of three; and a relay before it whose cable can be cut.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use datastore::DynStore;
use datastore::config::{EtcdConfig, StoreConfig};
use datastore::etcd::EtcdStore;
use tokio::net::TcpStream;
use tokio::sync::watch;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server that is killed when the test ends.
pub struct Server {
    process: Child,
    pub directory: tempfile::TempDir,
    pub client_port: u16,
    /// The URL for other members.
    pub peer: String,
    flags: Vec<String>,
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
        Self::start_with(tls, &[]).await
    }

    /// With more flags of etcd's.
    pub async fn start_with(tls: Option<Tls>, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [client_port, peer_port] = free_ports();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{client_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut flags = flags("test", &client, &peer, &format!("test={peer}"));
        flags.extend(more.iter().map(ToString::to_string));
        if let Some(Tls { ca, cert, key }) = &tls {
            flags.push("--client-cert-auth".into());
            for (flag, path) in [("--trusted-ca-file", ca), ("--cert-file", cert), ("--key-file", key)] {
                flags.extend([flag.into(), path.display().to_string()]);
            }
        }
        let process = spawn(directory.path(), &flags);
        let server = Self { process, directory, client_port, peer, flags, tls };
        server.wait().await;
        server
    }

    pub async fn restart(&mut self) {
        self.respawn();
        self.wait().await;
    }

    /// Kills it and starts it again, without a look at whether it answers.
    pub fn respawn(&mut self) {
        self.kill();
        self.process = spawn(self.directory.path(), &self.flags);
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
        wait(&self.config()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three members, killed when the test ends.
pub struct Cluster {
    members: Vec<(Child, Vec<String>)>,
    directory: tempfile::TempDir,
    pub ports: Vec<[u16; 2]>,
}

impl Cluster {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let six: [u16; 6] = free_ports();
        let ports: Vec<[u16; 2]> = six.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n][1]);
        let all: Vec<String> = (0..3).map(|n| format!("m{n}={}", peer(n))).collect();
        let members = (0..3).map(|n| {
            let client = format!("http://127.0.0.1:{}", ports[n][0]);
            let mut flags = flags(&format!("m{n}"), &client, &peer(n), &all.join(","));
            flags.extend(["--heartbeat-interval", "50", "--election-timeout", "500"].map(String::from));
            (spawn(&directory.path().join(n.to_string()), &flags), flags)
        });
        let cluster = Self { members: members.collect(), directory, ports };
        for n in 0..3 {
            wait(&cluster.config(&[n])).await;
        }
        cluster
    }

    /// For a client of these members.
    pub fn config(&self, members: &[usize]) -> EtcdConfig {
        let endpoint = |n: &usize| format!("http://127.0.0.1:{}", self.ports[*n][0]);
        EtcdConfig { endpoints: members.iter().map(endpoint).collect(), ..EtcdConfig::default() }
    }

    pub async fn open(&self, members: &[usize]) -> DynStore {
        StoreConfig::Etcd(self.config(members)).open().await.unwrap()
    }

    pub fn signal(&self, n: usize, name: &str) {
        let pid = self.members[n].0.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub fn kill(&mut self, n: usize) {
        self.members[n].0.kill().unwrap();
        self.members[n].0.wait().unwrap();
    }

    /// Starts a killed member again.
    pub async fn revive(&mut self, n: usize) {
        let (process, flags) = &mut self.members[n];
        *process = spawn(&self.directory.path().join(n.to_string()), flags);
        wait(&self.config(&[n])).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (process, _) in &mut self.members {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Passes connections on, until told not to.
pub struct Relay {
    pub port: u16,
    state: watch::Sender<Cable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    Whole,
    /// Connections are closed, and new ones with them.
    Cut,
    /// Connections stay open, and nothing passes.
    Silent,
}

impl Relay {
    pub async fn start(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, cable) = watch::channel(Cable::Whole);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, SocketAddr::from(([127, 0, 0, 1], target)), cable.clone()));
            }
        });
        Self { port, state }
    }

    pub fn set(&self, cable: Cable) {
        self.state.send_replace(cable);
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, mut cable: watch::Receiver<Cable>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    loop {
        let present = *cable.borrow_and_update();
        match present {
            Cable::Cut => return,
            Cable::Silent => {
                if cable.changed().await.is_err() {
                    return;
                }
            }
            // What was half copied when the cable changes is lost: the connection is useless then, and closed.
            Cable::Whole => tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                _ = cable.changed() => {}
            },
        }
    }
}

/// Ports that were free a moment ago; all listeners are open at once, so that they differ.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|l| l.local_addr().unwrap().port())
}

pub async fn wait(config: &EtcdConfig) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = EtcdStore::connect(config).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn flags(name: &str, client: &str, peer: &str, cluster: &str) -> Vec<String> {
    let flags = [
        ("--name", name),
        ("--log-level", "error"),
        ("--listen-client-urls", client),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", cluster),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]).collect()
}

fn spawn(directory: &Path, flags: &[String]) -> Child {
    let data = directory.join("data");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data).args(flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
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
