//! Speakers over the loopback of a network namespace: two of ours. The addresses are no loopback addresses, which no route
//! may have as next hop.

use std::net::IpAddr;
use std::time::Duration;

use bgp_proto::af::Prefix;
use bgp_proto::policy;
use bgp_proto::rib::{Cursor, RouteFilter};

use super::*;
use crate::control::routes::RouteStatus;
use bgp_plan::config::{Origin, PeerConfig, PeerType};

mod by_hand;
mod guests;

const PORT: u16 = 1790;

/// Runs a test in a network namespace of its own, which ends with its thread; 10.9.0.1 to .9 and 2001:db8::1 to ::9 are there.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let add = |n| format!("ip address add 10.9.0.{n}/32 dev lo && ip address add 2001:db8::{n}/128 dev lo nodad");
        let setup = (1..10).map(add).collect::<Vec<_>>().join(" && ");
        let done = std::process::Command::new("sh").args(["-c", &format!("ip link set lo up && {setup}")]).status();
        assert!(done.expect("ip runs").success());
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn address(n: u8) -> IpAddr {
    [10, 9, 0, n].into()
}

fn prefix(s: &str) -> Prefix {
    let (address, len) = s.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
}

fn origin(s: &str) -> Origin {
    Origin { prefix: prefix(s), communities: vec![], interface: None, priority: None, export: true, rule: "" }
}

/// A speaker at `own` with one peer; both sides connect.
fn config(own: (u8, u32), peer: (u8, u32), port: u16) -> SpeakerConfig {
    let mut p = PeerConfig::new("peer", PeerType::Global, own.1, peer.1);
    p.source = Some(address(own.0));
    p.connect_retry = Duration::from_secs(1);
    p.hold_time = 9;
    SpeakerConfig {
        listen: vec![SocketAddr::new(address(own.0), port)],
        peers: BTreeMap::from([(PeerId::new(address(peer.0), port), p)]),
        ..SpeakerConfig::new(std::net::Ipv4Addr::new(10, 0, 0, own.0), own.1)
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

async fn is_up(h: &Handle) -> bool {
    h.peers().await.first().is_some_and(|p| p.up)
}

async fn shown(h: &Handle, view: RouteView) -> Vec<RouteStatus> {
    let (mut all, mut from) = (Vec::new(), Some(Cursor::START));
    while let Some(cursor) = from {
        let query = RouteQuery { view, filter: RouteFilter::default() };
        let (routes, next) = h.routes(query, cursor).await.unwrap_or_default();
        all.extend(routes.into_iter().map(RouteStatus::from));
        from = next;
    }
    all
}

async fn has(h: &Handle, p: &str) -> bool {
    shown(h, RouteView::Received(None)).await.iter().any(|r| r.prefix == p && r.best)
}

#[test]
#[ignore = "needs network namespaces"]
fn two_speakers_exchange_and_withdraw_routes() {
    in_namespace(exchange_and_withdraw);
}

async fn exchange_and_withdraw() {
    let port = PORT;
    let (a, b) = (Handle::start(Start::default()).unwrap(), Handle::start(Start::default()).unwrap());
    let mut batches = b.best_routes();
    a.originate(vec![origin("10.1.0.0/16"), origin("10.2.0.0/16")]);
    b.originate(vec![]);
    let (ca, cb) = (config((1, 65001), (2, 65002), port), config((2, 65002), (1, 65001), port));
    a.configure(ca.clone()).await.unwrap().unwrap();
    b.configure(cb).await.unwrap().unwrap();
    until("session", || async { is_up(&a).await && is_up(&b).await }).await;
    until("routes", || async { has(&b, "10.1.0.0/16").await && has(&b, "10.2.0.0/16").await }).await;
    let r = shown(&b, RouteView::Best(None)).await;
    assert_eq!(r[0].attributes.as_path, [65001], "eBGP puts the AS in front");
    assert_eq!(r[0].attributes.next_hop, Some(address(1)), "the next hop is the session's local address");
    a.originate(vec![origin("10.2.0.0/16")]);
    until("withdrawal", || async { !has(&b, "10.1.0.0/16").await }).await;
    until("in sync", || async { *b.in_sync().borrow() == InSync { v4: true, v6: true } }).await;

    // A policy change applies to the running session.
    let mut rejecting = ca.clone();
    rejecting.peers.values_mut().for_each(|p| {
        p.export.rules = vec![policy::Rule { action: policy::Action::Reject, ..Default::default() }];
    });
    a.configure(rejecting).await.unwrap().unwrap();
    until("rejected", || async { !has(&b, "10.2.0.0/16").await }).await;
    assert!(is_up(&b).await);
    a.configure(ca).await.unwrap().unwrap();
    until("accepted", || async { has(&b, "10.2.0.0/16").await }).await;

    let mut fib = BTreeMap::new();
    while let Ok(batch) = batches.try_recv() {
        fib.extend(batch);
    }
    assert_eq!(fib.get(&prefix("10.2.0.0/16")), Some(&Some(vec![address(1)])));
    assert_eq!(fib.get(&prefix("10.1.0.0/16")), Some(&None));
    a.shut_down().await;
}

#[test]
#[ignore = "needs network namespaces"]
fn a_session_over_ipv6_carries_ipv6_routes() {
    in_namespace(|| async {
        let ends: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        let config = |own: usize| {
            let asn = |n: usize| 65001 + n as u32;
            let mut p = PeerConfig::new("peer", PeerType::Global, asn(own), asn(1 - own));
            (p.source, p.v4, p.v6) = (Some(ends[own]), false, true);
            p.password = Some("TCP-MD5 over IPv6 as well".into());
            SpeakerConfig {
                listen: vec![SocketAddr::new(ends[own], PORT)],
                peers: BTreeMap::from([(PeerId::new(ends[1 - own], PORT), p)]),
                ..SpeakerConfig::new([10, 0, 0, 1 + own as u8].into(), asn(own))
            }
        };
        let (a, b) = (Handle::start(Start::default()).unwrap(), Handle::start(Start::default()).unwrap());
        a.originate(vec![origin("10.1.0.0/16"), origin("2001:db8:1::/48"), origin("2001:db8:2::3/128")]);
        b.originate(vec![]);
        a.configure(config(0)).await.unwrap().unwrap();
        b.configure(config(1)).await.unwrap().unwrap();
        until("routes", || async { has(&b, "2001:db8:1::/48").await && has(&b, "2001:db8:2::3/128").await }).await;
        let routes = shown(&b, RouteView::Best(None)).await;
        assert_eq!(routes.len(), 2, "no IPv4 route: {routes:?}");
        assert!(
            routes.iter().all(|r| r.attributes.next_hop == Some(ends[0]) && r.attributes.as_path == [65001]),
            "{routes:?}"
        );
        a.originate(vec![origin("2001:db8:1::/48")]);
        until("withdrawal", || async { !has(&b, "2001:db8:2::3/128").await }).await;
        until("in sync", || async { *b.in_sync().borrow() == InSync { v4: true, v6: true } }).await;
        // The session goes without graceful restart: so do the routes.
        let mut alone = config(0);
        alone.peers.clear();
        a.configure(alone).await.unwrap().unwrap();
        until("gone", || async { shown(&b, RouteView::Best(None)).await.is_empty() }).await;
    });
}

/// `families: [IPv4, IPv6]`: the next hop of our own routes of the other family is the node's address, live.
#[test]
#[ignore = "needs network namespaces"]
fn a_session_over_ipv4_carries_ipv6_routes_too() {
    in_namespace(|| async {
        let own = |n: u8| -> std::net::Ipv6Addr { format!("2001:db8::{n}").parse().unwrap() };
        let (a, b) = (Handle::start(Start::default()).unwrap(), Handle::start(Start::default()).unwrap());
        a.originate(vec![origin("10.1.0.0/16"), origin("2001:db8:1::/48")]);
        b.originate(vec![]);
        let mut ca = config((1, 65001), (2, 65002), PORT);
        a.configure(ca.clone()).await.unwrap().unwrap();
        b.configure(config((2, 65002), (1, 65001), PORT)).await.unwrap().unwrap();
        until("routes", || async { has(&b, "10.1.0.0/16").await }).await;
        assert!(!has(&b, "2001:db8:1::/48").await, "there is no address to give as next hop");
        for n in [1, 7] {
            ca.own_v6 = Some(own(n));
            a.configure(ca.clone()).await.unwrap().unwrap();
            let next_hop = async || {
                let routes = shown(&b, RouteView::Best(None)).await;
                routes.iter().find(|r| r.prefix == "2001:db8:1::/48").and_then(|r| r.attributes.next_hop)
            };
            until("next hop", || async { next_hop().await == Some(own(n).into()) }).await;
        }
        assert!(is_up(&b).await);
    });
}

/// bindMode changes: one address and all of them cannot be listened on at a time, so the old listener goes first.
#[test]
#[ignore = "needs network namespaces"]
fn a_listener_makes_room_for_the_next_one() {
    in_namespace(|| async {
        let (a, b) = (Handle::start(Start::default()).unwrap(), Handle::start(Start::default()).unwrap());
        a.originate(vec![]);
        b.originate(vec![]);
        let (mut ca, mut cb) = (config((1, 65001), (2, 65002), PORT), config((2, 65002), (1, 65001), PORT));
        cb.listen.clear();
        a.configure(ca.clone()).await.unwrap().unwrap();
        b.configure(cb).await.unwrap().unwrap();
        until("session", || async { is_up(&a).await && is_up(&b).await }).await;
        let since = a.peers().await[0].since;
        let one = ca.listen[0];
        let all = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), PORT);
        for listen in [all, one, all, one] {
            ca.listen = vec![listen];
            let listening = a.configure(ca.clone()).await.unwrap();
            assert_eq!(listening, Ok(()), "{listen}");
            let stream = TcpStream::connect(one).await;
            assert!(stream.is_ok(), "{listen}: {stream:?}");
        }
        assert_eq!(a.peers().await[0].since, since, "sessions live on");
    });
}

#[tokio::test]
async fn a_busy_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let h = Handle::start(Start::default()).unwrap();
    let mut config = config((9, 65001), (2, 65002), PORT);
    config.listen = vec![at];
    config.peers.clear();
    let error = h.configure(config).await.unwrap().unwrap_err();
    for part in [at.ip().to_string(), at.port().to_string(), "listenPort".into()] {
        assert!(error.contains(&part), "{error:?} names {part}");
    }
}

/// FRR's bgpd at 10.9.0.3, which passes its routes to nobody's kernel; killed and cleaned up when dropped.
struct Frr {
    directory: tempfile::TempDir,
    process: std::process::Child,
}

impl Frr {
    const ADDRESS: u8 = 3;

    fn start() -> Frr {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        // FRR gives up its privileges.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let process = Frr::run(directory.path());
        Frr { directory, process }
    }

    fn run(directory: &std::path::Path) -> std::process::Child {
        let configuration = "
router bgp 65002
 bgp router-id 10.0.0.3
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor 10.9.0.1 remote-as 65001
 neighbor 10.9.0.1 update-source 10.9.0.3
 neighbor 10.9.0.1 ebgp-multihop 255
 neighbor 10.9.0.1 timers 3 9
 neighbor 10.9.0.1 timers connect 1
 neighbor 10.9.0.1 port 1790
 neighbor 10.9.0.1 disable-connected-check
 address-family ipv4 unicast
  network 10.30.0.0/16
 exit-address-family
";
        let file = directory.join("bgpd.conf");
        std::fs::write(&file, configuration).unwrap();
        let pid = directory.join("pid");
        std::process::Command::new("/usr/lib/frr/bgpd")
            .args(["-Z", "-n", "-S", "-p", "1790", "-l", "10.9.0.3", "-P", "0", "-f"])
            .arg(&file)
            .arg("-i")
            .arg(pid)
            .arg("--vty_socket")
            .arg(directory)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("FRR's bgpd is installed")
    }

    /// Like a crash: no NOTIFICATION.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Frr::run(self.directory.path());
    }

    fn show(&self, command: &str) -> serde_json::Value {
        let output = std::process::Command::new("vtysh")
            .arg("--vty_socket")
            .arg(self.directory.path())
            .args(["-d", "bgpd", "-c", command])
            .output()
            .expect("vtysh is installed");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn has(&self, prefix: &str) -> bool {
        self.show("show ip bgp json")["routes"][prefix][0]["nexthops"][0]["ip"] == "10.9.0.1"
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs FRR"]
fn frr_keeps_our_routes_over_our_restart_and_we_keep_its() {
    in_namespace(|| async {
        let mut frr = Frr::start();
        let ours = config((1, 65001), (Frr::ADDRESS, 65002), PORT);
        let a = Handle::start(Start::default()).unwrap();
        a.originate(vec![origin("10.1.0.0/16")]);
        a.configure(ours.clone()).await.unwrap().unwrap();
        until("session", || is_up(&a)).await;
        until("their route", || has(&a, "10.30.0.0/16")).await;
        until("our route", || async { frr.has("10.1.0.0/16") }).await;
        until("in sync", || async { a.in_sync().borrow().v4 }).await;

        // The peer dies and comes back: its routes stay, stale, and are fresh again after its End-of-RIB.
        frr.kill();
        until("noticed", || async { !is_up(&a).await }).await;
        let kept = shown(&a, RouteView::Best(None)).await;
        assert!(kept.iter().any(|r| r.prefix == "10.30.0.0/16" && r.stale), "{kept:?}");
        frr.restart();
        until("session again", || is_up(&a)).await;
        let fresh =
            || async { shown(&a, RouteView::Best(None)).await.iter().any(|r| r.prefix == "10.30.0.0/16" && !r.stale) };
        until("fresh route", fresh).await;
        until("our route again", || async { frr.has("10.1.0.0/16") }).await;

        // We go without a word: the peer keeps our route for a new speaker, which says that it restarted.
        a.shut_down().await;
        for _ in 0..20 {
            assert!(frr.has("10.1.0.0/16"), "kept while we are away");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let b = Handle::start(Start { restarted: true, preserved: [true; 2], seed: 1, ..Start::default() }).unwrap();
        b.originate(vec![origin("10.2.0.0/16")]);
        let mut again = ours;
        again.listen.clear(); // The first speaker's thread is still in this process.
        b.configure(again).await.unwrap().unwrap();
        until("session of the new speaker", || is_up(&b)).await;
        until("new route", || async { frr.has("10.2.0.0/16") }).await;
        until("the old one is swept by End-of-RIB", || async { !frr.has("10.1.0.0/16") }).await;
    });
}

/// As after an upgrade of all nodes at once: each would wait for the other's End-of-RIB until the restart time is over.
#[test]
#[ignore = "needs network namespaces"]
fn two_that_restart_together_do_not_wait_for_each_other() {
    in_namespace(|| async {
        let restarted = |seed| Start { restarted: true, preserved: [true; 2], seed, ..Start::default() };
        let (a, b) = (Handle::start(restarted(1)).unwrap(), Handle::start(restarted(2)).unwrap());
        a.originate(vec![origin("10.1.0.0/16")]);
        b.originate(vec![origin("10.2.0.0/16")]);
        a.configure(config((1, 65001), (2, 65002), PORT)).await.unwrap().unwrap();
        b.configure(config((2, 65002), (1, 65001), PORT)).await.unwrap().unwrap();
        until("routes both ways", || async { has(&a, "10.2.0.0/16").await && has(&b, "10.1.0.0/16").await }).await;
        until("in sync", || async { a.in_sync().borrow().v4 && b.in_sync().borrow().v4 }).await;
    });
}
