//! Three members of one etcd, each in a network namespace of its own behind the test's, which routes between them:
//!
//!     member 0 (10.99.0.2) --- 10.99.0.1 \
//!     member 1 (10.99.1.2) --- 10.99.1.1 - the test: clients, and the rules that part members
//!     member 2 (10.99.2.2) --- 10.99.2.1 /

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use datastore::DynStore;
use datastore::config::{EtcdConfig, StoreConfig};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const MEMBERS: usize = 3;
/// A member that does not serve by then will not.
const PATIENCE: Duration = Duration::from_secs(120);

/// One member. Its namespace lasts as long as `holder`; the server in it comes and goes.
struct Member {
    holder: Child,
    server: Option<Child>,
    is_stopped: bool,
}

/// The members. All of it goes with this value, and with the process.
pub struct Cluster {
    members: Vec<Member>,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Puts the calling thread, and what it starts from now on, into a network namespace of its own, and starts the members there.
    pub fn start() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own needs root");
        run("ip link set lo up");
        run("sysctl -q -w net.ipv4.ip_forward=1");
        let directory = tempfile::tempdir().unwrap();
        let members = (0..MEMBERS).map(Member::prepare).collect();
        let mut cluster = Self { members, directory };
        (0..MEMBERS).for_each(|i| cluster.restart(i));
        cluster
    }

    /// Waits until the members serve.
    pub async fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        for member in 0..MEMBERS {
            let config = EtcdConfig { endpoints: vec![client_url(member)], ..EtcdConfig::default() };
            while let Err(error) = StoreConfig::Etcd(config.clone()).open().await {
                assert!(Instant::now() < deadline, "member {member}: {error}\n{}", self.log(member));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// A client of all members, which starts with another one each time.
    pub async fn open(&self, client: usize) -> DynStore {
        let mut endpoints: Vec<String> = (0..MEMBERS).map(client_url).collect();
        endpoints.rotate_left(client % MEMBERS);
        StoreConfig::Etcd(EtcdConfig { endpoints, ..EtcdConfig::default() }).open().await.unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut server) = self.members[member].server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Starts a member that was killed, on its data.
    pub fn restart(&mut self, member: usize) {
        let files = (self.directory.path().join(format!("data-{member}")), self.log_path(member));
        let new = &mut self.members[member];
        if new.server.is_none() {
            new.server = Some(serve(member, new.holder.id(), &files.0, &files.1));
        }
    }

    /// The process stops, and its connections stay.
    pub fn stop(&mut self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
        self.members[member].is_stopped = true;
    }

    pub fn resume(&mut self, member: usize) {
        if std::mem::take(&mut self.members[member].is_stopped) {
            self.signal(member, Signal::SIGCONT);
        }
    }

    /// What two members send each other is lost.
    pub fn part(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            run(&format!("ip rule add from {} to {} blackhole", address(from), address(to)));
        }
    }

    pub fn join(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            run(&format!("ip rule del from {} to {} blackhole", address(from), address(to)));
        }
    }

    /// The member's cable: without it, it is parted from the others and from the clients.
    pub fn set_link(&self, member: usize, is_up: bool) {
        run(&format!("ip link set m{member} {}", if is_up { "up" } else { "down" }));
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(server) = &self.members[member].server {
            kill(Pid::from_raw(server.id().cast_signed()), signal).unwrap();
        }
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("log-{member}"))
    }

    fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            for process in member.server.iter_mut().chain([&mut member.holder]) {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

impl Member {
    /// The namespace and the cable.
    fn prepare(number: usize) -> Self {
        // It ends with the thread that started it, whatever happens to the test.
        let script = "ip link set lo up && echo ready && exec sleep 86400";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let stdout = holder.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let namespace = holder.id();
        run(&format!("ip link add m{number} type veth peer name eth0 netns {namespace}"));
        run(&format!("ip addr add 10.99.{number}.1/24 dev m{number}"));
        run(&format!("ip link set m{number} up"));
        let inside = format!("nsenter --net=/proc/{namespace}/ns/net");
        run(&format!("{inside} ip addr add {}/24 dev eth0", address(number)));
        run(&format!("{inside} ip link set eth0 up"));
        run(&format!("{inside} ip route add default via 10.99.{number}.1"));
        Self { holder, server: None, is_stopped: false }
    }
}

fn serve(member: usize, namespace: u32, data: &Path, log: &Path) -> Child {
    let peer = |m: usize| format!("http://{}:2380", address(m));
    let all: Vec<String> = (0..MEMBERS).map(|m| format!("m{m}={}", peer(m))).collect();
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "nsenter", &format!("--net=/proc/{namespace}/ns/net"), "etcd"])
        .args(["--name", &format!("m{member}"), "--log-level", "error", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &client_url(member), "--advertise-client-urls", &client_url(member)])
        .args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)])
        .args(["--initial-cluster", &all.join(",")])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn address(member: usize) -> String {
    format!("10.99.{member}.2")
}

fn client_url(member: usize) -> String {
    format!("http://{}:2379", address(member))
}

fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
