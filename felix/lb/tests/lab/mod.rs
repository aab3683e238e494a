//! A node with two pods and a fabric behind its uplink, in network namespaces of their own.
//!
//!     pod a 10.65.0.2 ──calia─┐
//!     pod b 10.65.0.3 ──calib─┴─ node ──eth0── fabric
//!                       192.168.50.4        192.168.50.1, client 10.100.0.10, remote pods 10.65.9.2, 10.65.9.3
//!
//! A namespace is a thread that has left for it; it goes with the thread. The node's mount namespace has a bpffs of its
//! own, so pins go too. Each lab also has a cgroup for processes of the node.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use felix_calc::service_index::{Backend, Frontend, FrontendKind, Protocol};
use felix_lb::{Config, Hooks, LoadBalancer};
use nix::sched::{CloneFlags, unshare};

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 4);
pub const POD_A: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
pub const POD_B: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 65, 9, 2);
pub const REMOTE_2: Ipv4Addr = Ipv4Addr::new(10, 65, 9, 3);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 10);
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const LB_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 1);
pub const TIMEOUT: Duration = Duration::from_secs(5);

static COUNTER: AtomicU32 = AtomicU32::new(0);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
pub struct Ns {
    jobs: mpsc::Sender<Job>,
    tid: i32,
}

impl Ns {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace");
            run("ip link set lo up");
            ready.send(nix::unistd::gettid().as_raw()).expect("the lab waits");
            queue.into_iter().for_each(|job| job());
        });
        Self { jobs, tid: is_ready.recv().expect("the namespace's thread is ready") }
    }

    /// Runs `work` inside; a panic in it is one here.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let (handle, started) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(handle.send(thread::spawn(work))))).expect("the thread lives");
        started.recv().expect("the thread lives")
    }
}

/// The node is the thread that runs the test's body.
pub struct Lab {
    pub pod_a: Ns,
    pub pod_b: Ns,
    pub fabric: Ns,
    pub pin_root: PathBuf,
    pub cgroup: PathBuf,
    mount: PathBuf,
}

impl Lab {
    /// Builds the lab and runs `body` on the node.
    pub fn run(body: impl FnOnce(&Lab) + Send + 'static) {
        let node = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare (needs root)");
            body(&Lab::new());
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let name = format!("felix-lb-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let mount = std::env::temp_dir().join(&name);
        fs::create_dir(&mount).expect("create the mount point");
        run("mount --make-rprivate /");
        run(&format!("mount -t bpf bpf {}", mount.display()));
        let cgroup = cgroup2().join(&name);
        fs::create_dir(&cgroup).expect("create a cgroup");
        let pin_root = mount.join("node");
        let lab = Self { pod_a: Ns::new(), pod_b: Ns::new(), fabric: Ns::new(), pin_root, cgroup, mount };
        run("ip link set lo up");
        sysctl("ip_forward", "1");
        lab.wire_pod("calia", &lab.pod_a, POD_A);
        lab.wire_pod("calib", &lab.pod_b, POD_B);
        lab.wire_fabric();
        lab
    }

    fn wire_pod(&self, name: &str, pod: &Ns, addr: Ipv4Addr) {
        run(&format!("ip link add {name} type veth peer name eth0 netns {}", pod.tid));
        sysctl(&format!("conf/{name}/proxy_arp"), "1");
        sysctl(&format!("conf/{name}/rp_filter"), "0");
        run(&format!("ip link set {name} up"));
        run(&format!("ip route add {addr}/32 dev {name} scope link"));
        pod.run(move || {
            run("ip link set eth0 up");
            run(&format!("ip addr add {addr}/32 dev eth0"));
            run("ip route add 169.254.1.1 dev eth0 scope link");
            run("ip route add default via 169.254.1.1 dev eth0");
        });
    }

    fn wire_fabric(&self) {
        run(&format!("ip link add eth0 type veth peer name node netns {}", self.fabric.tid));
        run(&format!("ip addr add {NODE}/24 dev eth0"));
        run("ip link set eth0 up");
        // As in the product: strict enough that a datapath which leans on the stack for a translated source fails.
        sysctl("conf/all/rp_filter", "1");
        sysctl("conf/eth0/rp_filter", "1");
        run("ip route add default via 192.168.50.1");
        run(&format!("ip route add blackhole {CLUSTER_IP}/32"));
        run(&format!("ip route add blackhole {LB_IP}/32"));
        self.fabric.run(|| {
            sysctl("conf/all/rp_filter", "0");
            run("ip link set node up");
            run("ip addr add 192.168.50.1/24 dev node");
            for addr in [CLIENT, REMOTE, REMOTE_2] {
                run(&format!("ip addr add {addr}/32 dev lo"));
            }
            for prefix in ["10.65.0.0/26", "10.96.0.0/16"] {
                run(&format!("ip route add {prefix} via {NODE}"));
            }
        });
    }

    pub fn config(&self) -> Config {
        Config {
            pin_root: self.pin_root.clone(),
            cgroup: Some(self.cgroup.clone()),
            hooks: Hooks { socket: true, tc: true, xdp: false },
        }
    }

    /// A load balancer on all interfaces, serving `frontends`.
    pub fn balancer(&self, frontends: &[Frontend]) -> LoadBalancer {
        let mut lb = LoadBalancer::open(self.config()).expect("open the load balancer");
        lb.set_node_addresses(&[NODE]).expect("set the node's address");
        lb.attach_uplink(ifindex("eth0"), "eth0").expect("attach the uplink");
        for pod in ["calia", "calib"] {
            lb.attach_workload(ifindex(pod), pod).expect("attach a pod");
        }
        let applied = lb.apply(frontends).expect("apply");
        assert!(applied.skipped.is_empty(), "{:?}", applied.skipped);
        lb
    }

    /// Runs `work` in a process of the node that is in the lab's cgroup; false is failure.
    pub fn in_cgroup(&self, work: impl FnOnce() -> bool) -> bool {
        let procs = self.cgroup.join("cgroup.procs");
        // SAFETY: the child runs on this thread's copy alone; glibc keeps its allocator usable across fork, and the
        // child touches no lock of another thread.
        match unsafe { nix::unistd::fork() }.expect("fork") {
            nix::unistd::ForkResult::Child => {
                let is_done = fs::write(procs, "0").is_ok()
                    && std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
                // SAFETY: leaves the child at once, without the parent's exit handlers.
                unsafe { libc::_exit(if is_done { 0 } else { 1 }) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                matches!(nix::sys::wait::waitpid(child, None), Ok(nix::sys::wait::WaitStatus::Exited(_, 0)))
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.mount);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup v2 is mounted");
    PathBuf::from(line.split(' ').nth(1).expect("a mount point"))
}

/// Runs a command of this thread's namespace, which must succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys/net/ipv4").join(name);
    fs::write(&path, value).unwrap_or_else(|err| panic!("write {}: {err}", path.display()));
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect(name)
}

/// A frontend over TCP; the kind follows from the address.
pub fn tcp(addr: Ipv4Addr, port: u16, backends: &[(Ipv4Addr, u16)]) -> Frontend {
    let kind = if addr.is_unspecified() { FrontendKind::NodePort } else { FrontendKind::LoadBalancer };
    let mut backends: Vec<Backend> = backends
        .iter()
        .map(|&(addr, port)| Backend { addr: addr.into(), port, is_local: [POD_A, POD_B, NODE].contains(&addr) })
        .collect();
    backends.sort_unstable();
    Frontend {
        addr: addr.into(),
        port,
        protocol: Protocol::Tcp,
        kind,
        service: format!("default/{addr}-{port}"),
        external_local: false,
        internal_local: false,
        backends,
    }
}

pub fn udp(addr: Ipv4Addr, port: u16, backends: &[(Ipv4Addr, u16)]) -> Frontend {
    Frontend { protocol: Protocol::Udp, ..tcp(addr, port, backends) }
}

/// What a server saw of a client.
pub type Seen = mpsc::Receiver<SocketAddr>;

/// Echoes whatever comes, on each connection until its end; it ends with the process.
pub fn tcp_echo(ns: &Ns, addr: Ipv4Addr, port: u16) -> Seen {
    ns.run(move || tcp_echo_here(addr, port))
}

/// [`tcp_echo`] in this thread's namespace.
pub fn tcp_echo_here(addr: Ipv4Addr, port: u16) -> Seen {
    let (seen, receiver) = mpsc::channel();
    let listener = TcpListener::bind((addr, port)).expect("listen");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = seen.send(stream.peer_addr().expect("a peer"));
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    receiver
}

/// Answers each datagram with its own address.
pub fn udp_echo(ns: &Ns, addr: Ipv4Addr, port: u16) -> Seen {
    let (seen, receiver) = mpsc::channel();
    ns.run(move || {
        let socket = UdpSocket::bind((addr, port)).expect("bind");
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
                let _ = seen.send(peer);
                let _ = socket.send_to(&buffer[..n], peer);
            }
        });
    });
    receiver
}

/// A connection from `from` (any address if unspecified) with timeouts.
pub fn connect(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
    use std::os::fd::AsRawFd;

    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = nix::sys::time::TimeVal::new(TIMEOUT.as_secs() as i64, 0);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(to, port)))?;
    Ok(TcpStream::from(fd))
}

/// Sends `bytes` of a pattern through an echo and checks what comes back.
pub fn exchange(stream: &mut TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let mut writer = stream.try_clone().expect("clone the socket");
    let expected = sent.clone();
    let sender = thread::spawn(move || writer.write_all(&sent));
    let mut got = vec![0; bytes];
    stream.read_exact(&mut got).expect("the echo");
    sender.join().expect("the sender").expect("send");
    assert!(got == expected, "the echo differs from what was sent");
}

/// One datagram and its echo; returns who answered.
pub fn udp_ask(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> std::io::Result<SocketAddr> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send_to(b"hello", (to, port))?;
    let mut buffer = [0; 16];
    let (n, peer) = socket.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..n], b"hello");
    Ok(peer)
}

pub fn next_seen(seen: &Seen) -> (Ipv4Addr, u16) {
    let SocketAddr::V4(peer) = seen.recv_timeout(TIMEOUT).expect("a client reached the server") else {
        panic!("an IPv6 peer")
    };
    (*peer.ip(), peer.port())
}

pub fn is_from(peer: SocketAddr, addr: Ipv4Addr, port: u16) -> bool {
    peer.ip() == IpAddr::V4(addr) && peer.port() == port
}
