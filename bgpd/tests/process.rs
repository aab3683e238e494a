//! The program at its edges: what an operator gets wrong is one message that says what, where and what to do, and exit
//! code 1; what may still come is waited for; SIGTERM ends it.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use api::meta::{Body, Resource};
use api::{BgpConfiguration, BgpPeer, IpPool, Metadata, Node};
use bgp_proto::wire::attribute;
use bgp_proto::wire::iana::{AS_PATH, LOCAL_PREF, NEXT_HOP, ORIGIN};
use bgp_proto::wire::open::{Capabilities, Open};
use bgp_proto::wire::{MAX_MESSAGE_LEN, MessageType, frame, write_keepalive, write_message};
use datastore::config::StoreConfig;
use datastore::typed;
use fib::{Kernel, Netlink, Watch};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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
    let rows: [Row; 7] = [
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
        (
            "metrics where nothing can be served",
            "run",
            &[("TORTIE_BGPD_METRICS", "192.0.2.1:1")],
            &["'192.0.2.1:1'", "--metrics", "off"],
        ),
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

/// A client of the reflector, made by hand.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// 10.9.0.`n` with 10.9.0.1, to Established.
    async fn establish(n: u8) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([10, 9, 0, n], 0).into()).unwrap();
        let stream = socket.connect(([10, 9, 0, 1], 179).into()).await.unwrap();
        let mut client = Client { stream, received: Vec::new() };
        client.expect(MessageType::Open).await;
        let capabilities = Capabilities { ipv4: true, four_octet_as: true, ..Default::default() };
        let open = Open { asn: 64512, hold_time: 90, router_id: [10, 9, 0, n].into(), capabilities };
        let mut out = Vec::new();
        open.write(&mut out);
        write_keepalive(&mut out);
        client.stream.write_all(&out).await.unwrap();
        client.expect(MessageType::Keepalive).await;
        client
    }

    /// The body of the next message of this kind.
    async fn expect(&mut self, kind: MessageType) -> Vec<u8> {
        loop {
            if let Some(f) = frame(&self.received, MAX_MESSAGE_LEN).unwrap() {
                let (found, body, len) = (f.kind, f.body.to_vec(), f.len);
                self.received.drain(..len);
                if found == kind {
                    return body;
                }
                continue;
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.received)).await;
            assert!(read.expect("the reflector has something to say").unwrap() > 0, "the session ended");
        }
    }
}

/// A route whose next hop nothing here reaches goes from client to client, and the kernel is as it was.
#[test]
#[ignore = "needs network namespaces"]
fn a_reflector_without_a_fib_touches_no_route_and_reaches_every_next_hop() {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let setup = "ip link set lo up && for n in 1 2 3; do ip addr add 10.9.0.$n/32 dev lo; done
                     ip route add blackhole 10.70.0.0/16 proto 202 metric 1536
                     ip route add blackhole 10.65.0.0/26 proto 201 metric 1024";
        assert!(Command::new("sh").args(["-ec", setup]).status().unwrap().success());
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(reflect());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

async fn reflect() {
    let kernel = Netlink::new().unwrap();
    let mut events = kernel.monitor(Watch::All).unwrap();
    let before = kernel.dump_routes().await.unwrap();
    assert!(before.iter().any(|r| r.route.protocol == fib::PROTOCOL_BGPD));
    let mut place = Place::new();
    let configuration: BgpConfiguration =
        object("default", json!({"nodeToNodeMeshEnabled": false, "bindMode": "NodeIP"}));
    place.create(configuration).await;
    let bgp = json!({"ipv4Address": "10.9.0.1/24", "routeReflectorClusterID": "10.9.0.1"});
    let node: Node = object("here", json!({ "bgp": bgp }));
    place.create(node).await;
    let pool: IpPool = object("pods", json!({"cidr": "10.1.0.0/16"}));
    place.create(pool).await;
    for n in [2, 3] {
        let peer: BgpPeer = object(&format!("c{n}"), json!({"peerIP": format!("10.9.0.{n}"), "asNumber": 64512}));
        place.create(peer).await;
    }
    place.start(&place.path("run"), &[]);
    place.until_ready().await;
    let (mut first, mut second) = (Client::establish(2).await, Client::establish(3).await);
    let mut list = Vec::new();
    for (kind, value) in
        [(ORIGIN, &[0][..]), (AS_PATH, &[]), (NEXT_HOP, &[203, 0, 113, 77]), (LOCAL_PREF, &[0, 0, 0, 100])]
    {
        attribute::write(&mut list, 0x40, kind, value);
    }
    let mut update = Vec::new();
    write_message(&mut update, MessageType::Update, |out| {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(list.len() as u16).to_be_bytes());
        out.extend_from_slice(&list);
        out.extend_from_slice(&[16, 10, 1]);
    });
    first.stream.write_all(&update).await.unwrap();
    let heard = loop {
        let heard = second.expect(MessageType::Update).await;
        if heard.ends_with(&[16, 10, 1]) {
            break heard;
        }
    };
    assert!(heard.windows(7).any(|w| w == [0x40, NEXT_HOP, 4, 203, 0, 113, 77]), "reflected as it came: {heard:?}");
    // As long as a task would need to write it, and one to sweep.
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.terminate();
    assert_eq!(place.finish().1.code(), Some(0));
    assert!(events.try_recv().is_err(), "nothing was written");
    assert_eq!(kernel.dump_routes().await.unwrap(), before, "nothing was swept");
}

/// Prometheus and a kubelet speak no unix sockets.
#[tokio::test]
async fn metrics_and_probes_are_on_a_port_and_nothing_else() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut place = Place::new();
    place.start(&place.path("run"), &[("TORTIE_BGPD_METRICS", &address)]);
    place.readyz().await;
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("tortie_bgp_flapping_prefixes 0"), "{metrics}");
    assert!(get("/readyz").starts_with("HTTP/1.1 503"));
    assert!(get("/v1/peers").starts_with("HTTP/1.1 404"));
}
