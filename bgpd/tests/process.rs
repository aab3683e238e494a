//! The program at its edges: what an operator gets wrong is one message that says what, where and what to do, and exit
//! code 1; what may still come is waited for; SIGTERM ends it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use api::meta::{Body, Resource};
use api::{BgpConfiguration, Metadata, Node};
use datastore::config::StoreConfig;
use datastore::typed;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// A directory with a store and a run directory; the program that runs in it is killed when dropped.
struct Place {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap(), child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&mut self, run_dir: &Path, environment: &[(&str, &str)]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgpd"));
        command.arg("--no-fib").arg("--run-dir").arg(run_dir);
        command.env_clear().env("DATASTORE_TYPE", "sqlite").env("SQLITE_PATH", self.path("store.db"));
        command.env("NODENAME", "here").envs(environment.iter().copied());
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    }

    /// Waits for the end; what was said, and how it ended.
    fn finish(&mut self) -> (String, ExitStatus) {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + SOON;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (said, child.wait().unwrap())
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.as_ref().unwrap().id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    async fn create<B: Body>(&self, resource: Resource<B>) {
        let store = StoreConfig::Sqlite { path: self.path("store.db") }.open().await.unwrap();
        typed::create(&*store, &resource).await.unwrap();
    }

    /// The node's resources: it is 127.0.0.1 and listens there.
    async fn create_node(&self, port: u16) {
        let configuration: BgpConfiguration = object("default", json!({"listenPort": port, "bindMode": "NodeIP"}));
        let node: Node = object("here", json!({"bgp": {"ipv4Address": "127.0.0.1/8"}}));
        self.create(configuration).await;
        self.create(node).await;
    }

    async fn readyz(&self) -> (u16, String) {
        let deadline = Instant::now() + SOON;
        loop {
            match status::get(&self.path("run/bgpd.sock"), "/readyz").await {
                Ok(reply) => return (reply.status, String::from_utf8(reply.body).unwrap()),
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_ready(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            match self.readyz().await {
                (200, _) => return,
                (_, reason) => assert!(Instant::now() < deadline, "not ready: {reason}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn object<B: Body>(name: &str, spec: serde_json::Value) -> Resource<B> {
    let body = serde_json::from_value(json!({ "spec": spec })).unwrap();
    Resource::new(Metadata::named(name), body)
}

fn assert_refused(place: &mut Place, words: &[&str]) {
    let (said, status) = place.finish();
    assert_eq!(status.code(), Some(1), "{said}");
    let messages: Vec<&str> = said.lines().filter(|l| l.starts_with("bgpd: ")).collect();
    assert_eq!(messages.len(), 1, "one message: {said}");
    for word in words {
        assert!(messages[0].contains(word), "'{word}' is not in: {said}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_one_message() {
    type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let rows: [Row; 6] = [
        ("a store in a file", "run", &[("SQLITE_PATH", "/dev/null/x/store.db")], &["/dev/null/x", "SQLITE_PATH"]),
        ("another kind of store", "run", &[("DATASTORE_TYPE", "mysql")], &["mysql", "DATASTORE_TYPE"]),
        (
            "an etcd that is not there",
            "run",
            &[("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://127.0.0.1:1")],
            &["http://127.0.0.1:1", "ETCD_ENDPOINTS"],
        ),
        (
            "a router id that is none",
            "run",
            &[("CALICO_ROUTER_ID", "10.0.0")],
            &["CALICO_ROUTER_ID", "'10.0.0'", "hash"],
        ),
        ("router id 0", "run", &[("CALICO_ROUTER_ID", "0.0.0.0")], &["CALICO_ROUTER_ID", "'0.0.0.0'"]),
        ("a run directory that cannot be", "/dev/null/run", &[], &["/dev/null/run", "--run-dir"]),
    ];
    for (name, run_dir, environment, words) in rows {
        let mut place = Place::new();
        place.start(&place.path(run_dir), environment);
        println!("{name}");
        assert_refused(&mut place, words);
    }
}

#[tokio::test]
async fn a_busy_port_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut place = Place::new();
    place.create_node(port).await;
    place.start(&place.path("run"), &[]);
    assert_refused(&mut place, &["127.0.0.1", &port.to_string(), "listenPort", "ss -ltnp"]);
    assert!(!place.path("run/bgpd.sock").exists(), "nothing is left behind");
}

#[tokio::test]
async fn a_second_speaker_in_the_same_run_directory_is_refused() {
    let mut place = Place::new();
    place.start(&place.path("run"), &[]);
    place.readyz().await;
    let first = place.child.take();
    place.start(&place.path("run"), &[]);
    assert_refused(&mut place, &["bgpd.sock", "in use", "--run-dir"]);
    place.child = first;
    place.readyz().await;
}

#[tokio::test]
async fn a_node_that_is_not_there_yet_is_waited_for_and_sigterm_ends_it() {
    let mut place = Place::new();
    place.start(&place.path("run"), &[]);
    let (code, reason) = loop {
        match place.readyz().await {
            // Before the store has been read it says so.
            (503, reason) if !reason.contains("here") => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => break answer,
        }
    };
    assert_eq!(code, 503);
    assert!(reason.contains("Node here") && reason.contains("NODENAME"), "{reason}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.create_node(port).await;
    place.until_ready().await;
    place.terminate();
    let (said, status) = place.finish();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(said.matches("there is no Node here").count(), 1, "said once: {said}");
    assert!(!place.path("run/bgpd.sock").exists(), "the socket is gone");
}
