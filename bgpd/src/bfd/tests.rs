//! BFD between two network namespaces that are joined by a veth pair, and under a speaker that loads a table.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command as Process;

use bgp_plan::config::{Bfd, PeerType, SpeakerConfig};
use bgp_proto::af::Prefix;
use bgp_proto::rib::Origin;

use super::*;
use crate::speaker;

const MS: Duration = Duration::from_millis(1);
const ADDRESSES: [&str; 2] = ["10.9.1.1", "10.9.1.2"];

fn sh(script: &str) {
    let output = Process::new("sh").args(["-ec", script]).output().expect("sh runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the other end has come as far.
type Step = Arc<tokio::sync::Barrier>;

async fn step(step: &Step) {
    within(MS * 30_000, "the other end is as far", step.wait()).await;
}

/// Runs both ends, each on a thread in a namespace of its own, and returns when both have ended. An end gets its number.
/// The namespaces end with their threads.
fn joined<F: Future<Output = ()>>(end: impl Fn(usize, Step) -> F + Send + Sync + Clone + 'static) {
    let (tell, other) = std::sync::mpsc::channel();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let step = Step::new(tokio::sync::Barrier::new(2));
    let (ready, right_end) = (barrier.clone(), end.clone());
    let run = move |n: usize, end: &dyn Fn(usize, Step) -> F| {
        let address = ADDRESSES[n];
        sh(&format!(
            "ip link set lo up; ip address add {address}/24 dev veth{n}; ip address add fe80::{}/64 dev veth{n} nodad; \
             ip link set veth{n} up",
            n + 1
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (runtime, end(n, step.clone()))
    };
    let right_run = run.clone();
    let right = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        tell.send(nix::unistd::gettid()).unwrap();
        ready.wait();
        let (runtime, end) = right_run(1, &right_end);
        runtime.block_on(end);
        ready.wait();
    });
    let left = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let other = other.recv().unwrap();
        sh(&format!("ip link add veth0 type veth peer name veth1 netns {other}"));
        barrier.wait();
        let (runtime, end) = run(0, &end);
        runtime.block_on(end);
        barrier.wait();
    });
    for end in [left, right] {
        end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

fn settings(peer: &str, scope: u32, hops: Hops, interval: Duration) -> (PeerId, Settings) {
    let peer: IpAddr = peer.parse().unwrap();
    let path = Path { hops, peer, local: None, interface: scope, min_ttl: ANY_TTL };
    let timers = Timers::new(interval, interval, 3);
    (PeerId { address: peer, port: 179, scope }, Settings { path, timers, min_ttl: ANY_TTL })
}

/// Notices with when they came.
fn start(seed: u64) -> (Handle, mpsc::UnboundedReceiver<(Instant, PeerId, Notice)>) {
    let (sender, notices) = mpsc::unbounded_channel();
    let handle = Handle::start(seed, move |id, notice| {
        let _ = sender.send((Instant::now(), id, notice));
    });
    (handle.unwrap(), notices)
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}

#[test]
#[ignore = "needs network namespaces"]
fn single_hop_and_multihop_over_both_families_come_up_and_find_a_cut() {
    joined(|n, both| async move {
        let (handle, mut notices) = start(n as u64);
        let link_local = format!("fe80::{}", 2 - n);
        let index = nix::net::if_::if_nametoindex(format!("veth{n}").as_str()).unwrap();
        let all =
            [settings(ADDRESSES[1 - n], 0, Hops::Single, MS * 50), settings(&link_local, index, Hops::Single, MS * 50)];
        all.iter().for_each(|(id, settings)| handle.set(*id, Some(*settings)));
        for _ in &all {
            let (_, _, notice) = within(MS * 10_000, "Up", notices.recv()).await.unwrap();
            assert_eq!(notice, Notice::Up);
        }
        tokio::time::sleep(MS * 1500).await;
        for (id, _) in &all {
            let status = handle.status(*id).unwrap();
            assert_eq!((status.state, status.remote_state, status.flaps), ("Up", "Up", 0), "{status:?}");
            assert_eq!(status.detection_time, Some(150.0), "the poll sequence is over: {status:?}");
            assert_eq!(status.transmit_interval, Some(50.0));
        }
        step(&both).await;
        // Other timers and the other port: the first without a flap, the second is another session.
        let (id, slower) = settings(ADDRESSES[1 - n], 0, Hops::Single, MS * 100);
        handle.set(id, Some(slower));
        tokio::time::sleep(MS * 1500).await;
        let status = handle.status(id).unwrap();
        assert_eq!((status.state, status.flaps, status.detection_time), ("Up", 0, Some(300.0)), "{status:?}");
        step(&both).await;
        // The cut: the left end drops what comes and what goes.
        let (cut, limit) = (Instant::now(), MS * 3000);
        if n == 0 {
            sh("nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }'");
        }
        if n == 1 {
            // Nothing is dropped on the way to this end until the left one says that it is down.
            let (_, _, notice) = within(limit, "Down", notices.recv()).await.unwrap();
            assert!(matches!(notice, Notice::Down(_)));
        } else {
            for _ in &all {
                let (at, _, notice) = within(limit, "Down", notices.recv()).await.unwrap();
                let Notice::Down(down) = notice else { panic!("{notice:?}") };
                assert_eq!(down.diag.to_string(), "Control Detection Time Expired");
                assert!(at - cut < MS * 1000, "150 and 300 ms, and room for a busy machine: {:?}", at - cut);
            }
            sh("nft delete table inet cut");
        }
        step(&both).await;
        let (id, multihop) = settings(ADDRESSES[1 - n], 0, Hops::Multi, MS * 100);
        handle.set(id, Some(multihop));
        let up = async {
            while handle.status(id).is_none_or(|s| s.state != "Up" || s.kind != "multihop") {
                tokio::time::sleep(MS * 20).await;
            }
        };
        within(MS * 10_000, "multihop Up", up).await;
        step(&both).await;
        if n == 0 {
            handle.set(id, None);
            let gone = async {
                while handle.status(id).is_some() {
                    tokio::time::sleep(MS * 20).await;
                }
            };
            within(MS * 3000, "the session is not shown any more", gone).await;
        } else {
            let down = async {
                while handle.status(id).is_none_or(|s| s.remote_state != "AdminDown") {
                    tokio::time::sleep(MS * 20).await;
                }
            };
            within(MS * 3000, "the other end says that it was taken away", down).await;
        }
        step(&both).await;
    });
}

/// `ttlSecurity` is a live setting; what needs another session says AdminDown first, so that BGP of the other end lives on.
#[test]
#[ignore = "needs network namespaces"]
fn a_ttl_bound_changes_live_and_another_path_is_no_failure() {
    joined(|n, both| async move {
        let (handle, mut notices) = start(n as u64);
        let mut config = PeerConfig::new("peer", PeerType::Global, 65001, 65002);
        config.bfd = Some(Bfd { min_rx: MS * 50, min_tx: MS * 50, multiplier: 3, is_multihop: true });
        let id = PeerId::new(ADDRESSES[1 - n].parse().unwrap(), 179);
        let mut next =
            async |limit: Duration| tokio::time::timeout(limit, notices.recv()).await.ok().map(|n| n.unwrap().2);
        handle.set(id, Settings::of(id, &config));
        assert_eq!(next(MS * 10_000).await, Some(Notice::Up));
        step(&both).await;
        config.ttl_security = Some(3);
        if n == 0 {
            handle.set(id, Settings::of(id, &config));
        }
        assert_eq!(next(MS * 1500).await, None, "another bound is no other session");
        step(&both).await;
        if n == 1 {
            sh("nft 'add table ip far; add chain ip far out { type filter hook output priority mangle; }; \
                 add rule ip far out ip ttl set 200'");
        }
        let down = next(MS * 5000).await;
        assert!(matches!(down, Some(Notice::Down(down)) if !down.by_administrator), "it counts at once: {down:?}");
        if n == 1 {
            sh("nft delete table ip far");
        } else {
            assert!(handle.status(id).unwrap().last_discard.is_some_and(|why| why.contains("TTL")));
        }
        assert_eq!(next(MS * 10_000).await, Some(Notice::Up));
        step(&both).await;
        config.bfd.as_mut().unwrap().is_multihop = false;
        if n == 0 {
            handle.set(id, Settings::of(id, &config));
        }
        let down = next(MS * 5000).await;
        assert!(matches!(down, Some(Notice::Down(down)) if down.by_administrator), "{down:?}");
        step(&both).await;
    });
}

/// 200,000 routes keep both speakers' threads busy for longer than a detection time.
#[test]
#[ignore = "needs network namespaces"]
fn a_table_load_delays_no_packet() {
    const ROUTES: u32 = 200_000;
    joined(|n, both| async move {
        let asn = |n: usize| 65001 + n as u32;
        let handle = speaker::Handle::start(speaker::Start::default()).unwrap();
        let mut peer = PeerConfig::new("peer", PeerType::Global, asn(n), asn(1 - n));
        peer.bfd = Some(Bfd { min_rx: MS * 50, min_tx: MS * 50, multiplier: 3, is_multihop: false });
        let address = |n: usize| ADDRESSES[n].parse::<IpAddr>().unwrap();
        let config = SpeakerConfig {
            listen: vec![SocketAddr::new(address(n), 1790)],
            peers: BTreeMap::from([(PeerId::new(address(1 - n), 1790), peer)]),
            ..SpeakerConfig::new([10, 0, 0, 1 + n as u8].into(), asn(n))
        };
        handle.originate(Vec::new());
        handle.configure(config).await.unwrap().unwrap();
        let peer = || async { handle.peers().await.remove(0) };
        let is_up = async {
            while !peer().await.bfd.is_some_and(|b| b.detection_time == Some(150.0)) || !peer().await.up {
                tokio::time::sleep(MS * 20).await;
            }
        };
        within(MS * 20_000, "BGP and BFD up", is_up).await;
        if n == 0 {
            let origin = |i: u32| Origin {
                prefix: Prefix::new(std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8)).into(), 24).unwrap(),
                communities: vec![],
                interface: None,
                priority: None,
                export: true,
                rule: "",
            };
            handle.originate((0..ROUTES).map(origin).collect());
        }
        let loaded = async {
            while peer().await.received + peer().await.advertised < ROUTES {
                tokio::time::sleep(MS * 50).await;
            }
        };
        within(MS * 120_000, "the table", loaded).await;
        let status = peer().await;
        let bfd = status.bfd.unwrap();
        assert_eq!((bfd.state, bfd.flaps), ("Up", 0), "{bfd:?}");
        assert!(status.up && status.last_error.is_none());
        step(&both).await;
    });
}
