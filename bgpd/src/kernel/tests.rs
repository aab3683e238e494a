//! The task with a speaker, a peer in another network namespace, and the real kernel: `eth0` (192.0.2.1) here, `leaf0`
//! (192.0.2.2) there.

use std::net::SocketAddr;
use std::process::Command;

use bgp_plan::config::{PeerConfig, PeerId, PeerType, SpeakerConfig};
use bgp_proto::af::Prefix;
use fib::{Change, Kernel as _, Netlink, Route, RouteKey, Target};

use super::*;
use crate::speaker::Start;

const PORT: u16 = 1790;
const SOON: Duration = Duration::from_secs(20);

/// Runs `ip` in this thread's namespace.
fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn index(link: &str) -> u32 {
    ip(&format!("-o link show {link}")).split(':').next().unwrap().parse().unwrap()
}

fn speaker_config(own: u8, peer: u8) -> SpeakerConfig {
    let address = |n: u8| IpAddr::from([192, 0, 2, n]);
    let mut p = PeerConfig::new("peer", PeerType::Global, 65000 + u32::from(own), 65000 + u32::from(peer));
    p.connect_retry = Duration::from_secs(1);
    SpeakerConfig {
        listen: vec![SocketAddr::new(address(own), PORT)],
        peers: BTreeMap::from([(PeerId::new(address(peer), PORT), p)]),
        ..SpeakerConfig::new([10, 0, 0, own].into(), 65000 + u32::from(own))
    }
}

fn origin(net: &str) -> bgp_plan::config::Origin {
    let net: IpNet = net.parse().unwrap();
    let prefix = Prefix::new(net.addr(), net.prefix_len()).unwrap();
    bgp_plan::config::Origin { prefix, communities: vec![], interface: None, priority: None, export: true, rule: "" }
}

/// A node whose task runs, and its peer.
struct Node {
    own: Handle,
    peer: Handle,
    /// The index of `leaf0` there.
    leaf0: u32,
    status: watch::Receiver<Status>,
    /// Keeps the task.
    _inputs: watch::Sender<Inputs>,
}

impl Node {
    async fn start() -> Node {
        ip("link set lo up");
        ip("link add eth0 address 02:00:00:00:00:01 type veth peer name leaf0 address 02:00:00:00:00:02");
        let own_thread = nix::unistd::gettid();
        // A speaker's thread is in the namespace of the one that starts it.
        let peer = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let there = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            let run = |args: &str| {
                let in_own = format!("--net=/proc/{}/task/{own_thread}/ns/net", std::process::id());
                assert!(
                    Command::new("nsenter").args([&in_own, "ip"]).args(args.split(' ')).status().unwrap().success()
                );
            };
            run(&format!("link set leaf0 netns {}", nix::unistd::gettid()));
            ip("link set lo up");
            ip("addr add 192.0.2.2/24 dev leaf0");
            ip("link set leaf0 up");
            assert!(std::path::Path::new(&there).exists());
            (Handle::start(Start::default()).unwrap(), index("leaf0"))
        });
        let (peer, leaf0) = peer.join().unwrap();
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        let own = Handle::start(Start::default()).unwrap();
        let (inputs, receiver) = watch::channel(Inputs::default());
        let kernel = Arc::new(Netlink::new().unwrap());
        let status = spawn(kernel, own.clone(), "a".into(), receiver).unwrap();
        own.configure(speaker_config(1, 2)).await.unwrap().unwrap();
        peer.configure(speaker_config(2, 1)).await.unwrap().unwrap();
        Node { own, peer, leaf0, status, _inputs: inputs }
    }

    async fn announce(&mut self, nets: impl IntoIterator<Item = String>) {
        let origins: Vec<_> = nets.into_iter().map(|net| origin(&net)).collect();
        let count = origins.len();
        self.peer.originate(origins);
        self.until("the routes are in the kernel", |s| s.routes == count && s.failed == 0).await;
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Status) -> bool) {
        let is_there = tokio::time::timeout(SOON, self.status.wait_for(holds)).await.is_ok();
        assert!(is_there, "never came: {what}: {:?}", self.status.borrow());
    }
}

fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let soon = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, soon).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

fn learned(n: usize) -> String {
    format!("10.{}.{}.0/24", n / 256, n % 256)
}

/// Writes behind the task's back, and returns only when it is done: the task has no time to hear of it meanwhile.
fn write_unheard(changes: Vec<Change>) {
    let write = std::thread::scope(|scope| {
        let body = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(Netlink::new().unwrap().apply(changes))
        };
        scope.spawn(body).join().unwrap()
    });
    write.into_iter().for_each(|result| result.unwrap());
}

/// The receive buffer overruns, and with it goes the news that a route of ours was deleted, one replaced, and that felix
/// serves a block: everything is read again and put right.
#[test]
#[ignore = "needs network namespaces"]
fn nothing_is_lost_with_lost_events() {
    in_namespace(|| async {
        let mut node = Node::start().await;
        node.announce((0..500).map(learned)).await;
        let flood = |round: u32, is_there: bool| -> Vec<Change> {
            let key = move |n: u32| {
                let address = std::net::Ipv4Addr::from(0x0b00_0000 + n);
                RouteKey::new(IpNet::new(address.into(), 32).unwrap(), 10 + round)
            };
            let one = move |n: u32| match is_there {
                true => Change::Add(key(n), Route::new(Target::Blackhole, 4).into()),
                false => Change::Delete(key(n), 4),
            };
            (0..40_000).map(one).collect()
        };
        // More than the buffer holds, which then takes nothing more until it is read.
        write_unheard(flood(0, true));
        write_unheard(flood(0, false));
        ip("route del 10.0.7.0/24 proto 202");
        ip("route replace blackhole 10.0.8.0/24 metric 1536 proto 202");
        ip("route add blackhole 10.65.0.0/26 metric 1024 proto 201");
        let ours = "via 192.0.2.2 dev eth0 proto 202 metric 1536";
        eventually("our routes are mended", || {
            ip("route show 10.0.7.0/24").contains(ours) && ip("route show 10.0.8.0/24").contains(ours)
        })
        .await;
        assert_eq!(ip("route show proto 202").matches("via 192.0.2.2 dev eth0").count(), 500);
        // The task knows of felix's block: what is learned for it is not installed.
        node.peer.originate((0..500).map(learned).chain(["10.65.0.0/26".into()]).map(|n| origin(&n)).collect());
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(ip("route show 10.65.0.0/26"), "blackhole 10.65.0.0/26 proto 201 metric 1024");
    });
}

/// More routes than one slice: they come, follow their next hop, and go.
#[test]
#[ignore = "needs network namespaces"]
fn many_routes_come_and_go_in_slices() {
    in_namespace(|| async {
        let mut node = Node::start().await;
        node.announce((0..20_000).map(learned)).await;
        let count = || ip("route show proto 202").matches("metric 1536").count();
        assert_eq!(count(), 20_000);
        assert_eq!(node.status.borrow().check(), Ok(()));
        ip("route add unreachable 10.200.0.0/24 metric 1536 proto static");
        node.peer.originate((0..20_000).map(learned).chain(["10.200.0.0/24".into()]).map(|n| origin(&n)).collect());
        node.until("the foreign route is named", |s| s.failed == 1).await;
        let problem = node.status.borrow().check().unwrap_err();
        assert!(problem.starts_with("10.200.0.0/24 is not in the kernel as it should be: "), "{problem}");
        node.peer.originate(Vec::new());
        eventually("withdrawn", || count() == 0).await;
        node.until("nothing fails", |s| s.routes == 0 && s.failed == 0).await;
        assert!(ip("route show 10.200.0.0/24").contains("proto static"));
    });
}

/// A router that sends no advertisement is found by its connection. Its link-local address is the next hop of what it announces,
/// on its link, whatever pods come and go, and whoever else advertises there.
#[test]
#[ignore = "needs network namespaces"]
fn a_neighbour_found_by_its_connection_is_a_next_hop_on_its_link() {
    in_namespace(|| async {
        let mut node = Node::start().await;
        ip("link add cali9 type veth peer name pod9");
        ip("link set pod9 up");
        ip("link set cali9 up");
        let config = |own: u8, peer: u8, interface: &str| {
            let mut config = speaker_config(own, peer);
            config.listen = vec!["[::]:179".parse().unwrap()];
            let (_, peer) = config.peers.pop_first().unwrap();
            config.unnumbered.insert(interface.into(), peer);
            config
        };
        let behind = |interface: &str, index: u32, address: Option<&str>| {
            crate::dynamic::Neighbours::from([(interface.to_string(), (index, address.map(|a| a.parse().unwrap())))])
        };
        node.own.configure(config(1, 2, "eth0")).await.unwrap().unwrap();
        node.own.set_neighbours(behind("eth0", index("eth0"), None));
        node.peer.configure(config(2, 1, "leaf0")).await.unwrap().unwrap();
        node.peer.set_neighbours(behind("leaf0", node.leaf0, Some("fe80::ff:fe00:1")));
        node.announce(["2001:db8:7::/48".into()]).await;
        let shown = || ip("-6 route show 2001:db8:7::/48");
        let wanted = "2001:db8:7::/48 via fe80::ff:fe00:2 dev eth0 proto 202 metric 1536 pref medium";
        assert_eq!(shown(), wanted);

        node.own.set_neighbours(behind("eth0", index("eth0"), Some("fe80::9")));
        ip("link add cali10 type veth peer name pod10");
        ip("link set pod10 up");
        ip("link set cali10 up");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(shown(), wanted, "a pod came, and another router advertises");
        ip("link del cali10");
        ip("link del cali9");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(shown(), wanted, "the pods went");
        ip("link set eth0 down");
        eventually("it went with its link", || shown().is_empty()).await;
    });
}
