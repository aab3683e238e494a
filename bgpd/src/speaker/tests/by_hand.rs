//! One speaker of ours against a peer that is made by hand, message by message, over loopback addresses.

use std::sync::atomic::{AtomicU8, Ordering};

use bgp_proto::af::Family;
use bgp_proto::wire::attribute;
use bgp_proto::wire::iana::{AS_PATH, NEXT_HOP, ORIGIN};
use bgp_proto::wire::open::{Capabilities, GracefulRestart, Open};
use bgp_proto::wire::update::write_end_of_rib;
use bgp_proto::wire::{HEADER_LEN, MessageType, frame, write_message};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;

mod beginnings;
mod bmp;
mod ends;
mod found;
mod restarts;

/// Of both ends. No other program listens on all addresses there.
const LOOPBACK_PORT: u16 = 17911;
/// What has to happen happens in this time.
const SOON: Duration = Duration::from_secs(10);
/// What must not happen does not happen in this time.
const QUIET: Duration = Duration::from_millis(700);

/// Two loopback addresses that no other test has, of this process or another that runs now.
fn addresses() -> [IpAddr; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(2, Ordering::Relaxed));
    [n, n + 1].map(|n| IpAddr::from([127, (pid / 256 % 256) as u8, (pid % 256) as u8, n]))
}

/// A speaker at the first address, which knows the second one as its only peer.
fn config_of([own, peer]: [IpAddr; 2], own_as: u32, peer_as: u32) -> SpeakerConfig {
    let mut p = PeerConfig::new("peer", PeerType::Global, own_as, peer_as);
    p.source = Some(own);
    SpeakerConfig {
        listen: vec![SocketAddr::new(own, LOOPBACK_PORT)],
        peers: BTreeMap::from([(PeerId::new(peer, LOOPBACK_PORT), p)]),
        ..SpeakerConfig::new([10, 0, 0, 5].into(), own_as)
    }
}

fn only_peer(config: &mut SpeakerConfig) -> &mut PeerConfig {
    config.peers.values_mut().next().unwrap()
}

async fn started(config: &SpeakerConfig) -> Handle {
    let h = Handle::start(Start::default()).unwrap();
    h.originate(vec![]);
    h.configure(config.clone()).await.unwrap().unwrap();
    h
}

fn open(asn: u32, router_id: [u8; 4]) -> Open {
    let graceful_restart = Some(GracefulRestart { restart_time: 60, ipv4: Some(true), ..Default::default() });
    Open {
        asn,
        hold_time: 90,
        router_id: router_id.into(),
        capabilities: Capabilities { ipv4: true, four_octet_as: true, graceful_restart, ..Default::default() },
    }
}

/// An UPDATE for 10.1.0.0/16 and so on, as many as `count`.
fn update(attributes: &[(u8, &[u8])], count: u8) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, value) in attributes {
        let flags = if matches!(*kind, ORIGIN | AS_PATH | NEXT_HOP) { 0x40 } else { 0xc0 };
        attribute::write(&mut list, flags, *kind, value);
    }
    let mut out = Vec::new();
    write_message(&mut out, MessageType::Update, |out| {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(list.len() as u16).to_be_bytes());
        out.extend_from_slice(&list);
        (1..=count).for_each(|n| out.extend_from_slice(&[16, 10, n]));
    });
    out
}

const PATH_65002: &[u8] = &[2, 1, 0, 0, 0xfd, 0xea];
const PLAIN: &[(u8, &[u8])] = &[(ORIGIN, &[0]), (AS_PATH, PATH_65002), (NEXT_HOP, &[10, 9, 9, 9])];

/// The other end of a connection.
struct ByHand {
    stream: TcpStream,
    received: Vec<u8>,
}

impl ByHand {
    fn new(stream: TcpStream) -> ByHand {
        ByHand { stream, received: Vec::new() }
    }

    /// Connects to the speaker from its peer's address.
    async fn connect([own, peer]: [IpAddr; 2], ttl: u32) -> ByHand {
        let socket = TcpSocket::new_v4().unwrap();
        socket2::SockRef::from(&socket).set_ttl_v4(ttl).unwrap();
        socket.bind(SocketAddr::new(peer, 0)).unwrap();
        ByHand::new(socket.connect(SocketAddr::new(own, LOOPBACK_PORT)).await.unwrap())
    }

    /// Where the speaker connects to.
    fn listen([_, peer]: [IpAddr; 2]) -> TcpListener {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SockAddr::from(SocketAddr::new(peer, LOOPBACK_PORT))).unwrap();
        socket.listen(9).unwrap();
        TcpListener::from_std(socket.into()).unwrap()
    }

    async fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    async fn send_open(&mut self, open: &Open) {
        let mut out = Vec::new();
        open.write(&mut out);
        self.send(&out).await;
    }

    async fn send_keepalive(&mut self) {
        let mut out = Vec::new();
        wire::write_keepalive(&mut out);
        self.send(&out).await;
    }

    /// The next message, `None` at the end of the connection.
    async fn next(&mut self) -> Option<(MessageType, Vec<u8>)> {
        loop {
            if let Some(f) = frame(&self.received, wire::MAX_MESSAGE_LEN).unwrap() {
                let (message, len) = ((f.kind, f.body.to_vec()), f.len);
                self.received.drain(..len);
                return Some(message);
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.received)).await;
            if read.expect("the speaker has something to say").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self, kind: MessageType) -> Vec<u8> {
        let (found, body) = self.next().await.expect("the connection stays");
        assert_eq!(found, kind, "{body:?}");
        body
    }

    /// To Established; returns the speaker's OPEN.
    async fn establish(&mut self, open: &Open) -> Open {
        let theirs = Open::read(&self.expect(MessageType::Open).await).unwrap();
        self.send_open(open).await;
        self.expect(MessageType::Keepalive).await;
        self.send_keepalive().await;
        theirs
    }
}

async fn assert_refused(mut peer: ByHand, why: &str) {
    let said = Notification::read(&peer.expect(MessageType::Notification).await);
    assert_eq!(said, Notification::cease(iana::CONNECTION_REJECTED), "{why}");
    assert_eq!(peer.next().await, None, "{why}");
}

#[tokio::test]
async fn a_peer_that_comes_later_is_found_soon() {
    let at = addresses();
    let (mut early, mut late) = (config_of(at, 65001, 65002), config_of([at[1], at[0]], 65002, 65001));
    late.router_id = [10, 0, 0, 6].into();
    only_peer(&mut late).passive = true;
    assert_eq!(only_peer(&mut early).connect_retry, Duration::from_secs(5), "the default");
    let early = started(&early).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let begin = Instant::now();
    let late = started(&late).await;
    until("session", || async { is_up(&early).await && is_up(&late).await }).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}: waits begin small", begin.elapsed());
}

/// RFC 4271 section 6.8: the connection of the speaker with the higher identifier stays, whichever OPEN comes first.
#[tokio::test]
async fn of_two_connections_the_one_with_the_higher_identifier_stays() {
    for (theirs, ours_stays) in [([10, 0, 0, 4], true), ([10, 0, 0, 6], false)] {
        for ours_first in [true, false] {
            let at = addresses();
            let listener = ByHand::listen(at);
            let h = started(&config_of(at, 65001, 65002)).await;
            let mut ours = ByHand::new(listener.accept().await.unwrap().0);
            let mut by_peer = ByHand::connect(at, 64).await;
            ours.expect(MessageType::Open).await;
            by_peer.expect(MessageType::Open).await;
            let open = open(65002, theirs);
            {
                let (first, second) = if ours_first { (&mut ours, &mut by_peer) } else { (&mut by_peer, &mut ours) };
                first.send_open(&open).await;
                first.expect(MessageType::Keepalive).await;
                second.send_open(&open).await;
            }
            let first_stays = ours_stays == ours_first;
            let (stays, goes) = if ours_stays { (&mut ours, &mut by_peer) } else { (&mut by_peer, &mut ours) };
            let cease = Notification::read(&goes.expect(MessageType::Notification).await);
            let row = format!("identifier {theirs:?}, OPEN on ours first: {ours_first}");
            assert_eq!(cease, Notification::cease(iana::CONNECTION_COLLISION_RESOLUTION), "{row}");
            assert_eq!(goes.next().await, None, "{row}");
            if !first_stays {
                stays.expect(MessageType::Keepalive).await;
            }
            stays.send_keepalive().await;
            until("session", || is_up(&h)).await;
            stays.send(&update(PLAIN, 1)).await;
            until("route", || has(&h, "10.1.0.0/16")).await;
        }
    }
}

/// RFC 6793 section 4.2.
#[tokio::test]
async fn a_peer_with_two_octet_numbers() {
    let at = addresses();
    let mut config = config_of(at, 70001, 65002);
    only_peer(&mut config).passive = true;
    only_peer(&mut config).export = policy::Policy { default: policy::Action::Accept, ..Default::default() };
    let h = started(&config).await;
    h.originate(vec![origin("10.200.0.0/16")]);
    let mut peer = ByHand::connect(at, 64).await;
    let mut narrow = open(65002, [10, 0, 0, 6]);
    narrow.capabilities.four_octet_as = false;
    let theirs = peer.establish(&narrow).await;
    assert_eq!((theirs.asn, theirs.capabilities.four_octet_as), (70001, true));
    let body = peer.expect(MessageType::Update).await;
    let find = |octets: &[u8]| body.windows(octets.len()).any(|w| w == octets);
    assert!(find(&[0x40, AS_PATH, 4, 2, 1, 0x5b, 0xa0]), "AS_TRANS in AS_PATH: {body:x?}");
    assert!(find(&[0xc0, iana::AS4_PATH, 6, 2, 1, 0, 1, 0x11, 0x71]), "70001 in AS4_PATH: {body:x?}");

    let attributes: [(u8, &[u8]); 4] = [
        (ORIGIN, &[0]),
        (AS_PATH, &[2, 2, 0xfd, 0xea, 0x5b, 0xa0]),
        (NEXT_HOP, &[10, 9, 9, 9]),
        (iana::AS4_PATH, &[2, 1, 0, 1, 0x11, 0x70]),
    ];
    peer.send(&update(&attributes, 1)).await;
    until("route", || has(&h, "10.1.0.0/16")).await;
    let routes = shown(&h, RouteView::Received(None)).await;
    assert_eq!(routes[0].attributes.as_path, [65002, 70000], "the two paths make one");
}

/// A peer that is gone keeps its routes with graceful restart, but not where the way to it is lost.
#[tokio::test]
async fn a_lost_next_hop_ends_the_session_and_its_routes_at_once() {
    for link_lost in [false, true] {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).passive = true;
        let h = started(&config).await;
        let mut peer = ByHand::connect(at, 64).await;
        peer.establish(&open(65002, [10, 0, 0, 6])).await;
        peer.send(&update(PLAIN, 1)).await;
        until("route", || has(&h, "10.1.0.0/16")).await;
        match link_lost {
            true => {
                h.next_hop_lost("10.9.9.9".parse().unwrap());
                assert!(is_up(&h).await, "it is no peer's address");
                h.next_hop_lost(at[1]);
                // Answers come in the order of the calls.
                assert!(!is_up(&h).await);
            }
            false => {
                drop(peer);
                until("noticed", || async { !is_up(&h).await }).await;
            }
        }
        assert_eq!(has(&h, "10.1.0.0/16").await, !link_lost, "link lost: {link_lost}");
    }
}

/// What a speaker has heard when it says that it is in sync is in the subscriptions by then.
#[tokio::test]
async fn in_sync_comes_after_the_routes_it_is_about() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    let mut batches = h.best_routes();
    let mut in_sync = h.in_sync();
    assert_eq!(*in_sync.borrow_and_update(), InSync::default());
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    let mut table = update(PLAIN, 250);
    write_end_of_rib(&mut table, Family::Ipv4);
    peer.send(&table).await;
    tokio::time::timeout(SOON, in_sync.wait_for(|s| s.v4)).await.expect("End-of-RIB is noticed").unwrap();
    let mut prefixes = 0;
    while let Ok(batch) = batches.try_recv() {
        prefixes += batch.len();
    }
    assert_eq!(prefixes, 250);
}

/// RFC 5082: what comes from further away is dropped, so that such a peer's OPEN is never heard.
#[tokio::test]
async fn ttl_security_hears_only_those_near_enough() {
    for (hops, ttl, is_heard) in [(1, 255, true), (1, 254, false), (1, 64, false), (2, 254, true), (2, 253, false)] {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).passive = true;
        only_peer(&mut config).ttl_security = Some(hops);
        let h = started(&config).await;
        let mut peer = ByHand::connect(at, ttl).await;
        let row = format!("{hops} hops, TTL {ttl}");
        // The SYN tells: whoever is too far away is refused before anything it has queued is read.
        let answer = peer.next().await;
        assert_eq!(answer.is_some_and(|(kind, _)| kind == MessageType::Open), is_heard, "{row}");
        h.shut_down().await;
    }
    // Connections of ours have the option before they begin, and send with the highest TTL.
    for (ttl, is_heard) in [(255, true), (64, false)] {
        let at = addresses();
        let listener = ByHand::listen(at);
        socket2::SockRef::from(&listener).set_ttl_v4(ttl).unwrap();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).ttl_security = Some(1);
        let h = started(&config).await;
        let accepted = tokio::time::timeout(if is_heard { SOON } else { QUIET }, listener.accept()).await;
        assert_eq!(accepted.is_ok(), is_heard, "SYN-ACK with TTL {ttl}");
        h.shut_down().await;
    }
}

/// RFC 2385.
#[tokio::test]
async fn a_password_has_to_be_the_same_on_both_sides() {
    for (ours, theirs, comes_up) in [("one", "one", true), ("one", "two", false)] {
        let at = addresses();
        let (mut a, mut b) = (config_of(at, 65001, 65002), config_of([at[1], at[0]], 65002, 65001));
        b.router_id = [10, 0, 0, 6].into();
        only_peer(&mut a).password = Some(ours.into());
        only_peer(&mut b).password = Some(theirs.into());
        let (a, b) = (started(&a).await, started(&b).await);
        match comes_up {
            true => until("session", || async { is_up(&a).await && is_up(&b).await }).await,
            false => {
                tokio::time::sleep(QUIET).await;
                assert!(!is_up(&a).await && !is_up(&b).await);
            }
        }
    }
}

/// Whatever comes in, the speaker answers as the RFC says, and lives.
#[tokio::test]
async fn an_open_that_cannot_be_is_answered() {
    let from = |open: Open| {
        let mut out = Vec::new();
        open.write(&mut out);
        out
    };
    let mut version = from(open(65002, [10, 0, 0, 6]));
    version[HEADER_LEN] = 3;
    let mut marker = from(open(65002, [10, 0, 0, 6]));
    marker[0] = 0;
    let keepalive = {
        let mut out = Vec::new();
        wire::write_keepalive(&mut out);
        out
    };
    let rows = [
        ("another AS", from(open(65003, [10, 0, 0, 6])), (2, iana::BAD_PEER_AS)),
        ("version 3", version, (2, iana::UNSUPPORTED_VERSION)),
        ("a broken marker", marker, (1, iana::CONNECTION_NOT_SYNCHRONIZED)),
        ("a KEEPALIVE for an OPEN", keepalive, (iana::FSM_ERROR, iana::UNEXPECTED_IN_OPEN_SENT)),
    ];
    for (name, octets, want) in rows {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).passive = true;
        let h = started(&config).await;
        let mut peer = ByHand::connect(at, 64).await;
        peer.expect(MessageType::Open).await;
        peer.send(&octets).await;
        let n = Notification::read(&peer.expect(MessageType::Notification).await);
        assert_eq!((n.code, n.subcode), want, "{name}");
        assert_eq!(peer.next().await, None, "{name}");
        let mut again = ByHand::connect(at, 64).await;
        again.establish(&open(65002, [10, 0, 0, 6])).await;
        until("session", || is_up(&h)).await;
    }
}

/// RFC 7606: the session stays, and what was mended is counted and explained.
#[tokio::test]
async fn what_was_malformed_is_told_to_operators() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    let mut list = PLAIN.to_vec();
    list.push((iana::AGGREGATOR, &[1]));
    peer.send(&update(&list, 1)).await;
    until("route", || has(&h, "10.1.0.0/16")).await;
    list[0].1 = &[7];
    peer.send(&update(&list, 5)).await;
    until("withdrawn", || async { !has(&h, "10.1.0.0/16").await }).await;
    let malformed = h.peer(at[1].into()).await.remove(0).malformed;
    assert_eq!((malformed.discarded, malformed.withdrawn), (1, 1));
    let reason = malformed.last.unwrap().reason;
    let want = "ORIGIN: not one octet of IGP, EGP or INCOMPLETE, treated as a withdrawal (RFC 7606 section 7.1); AGGREGATOR: \
                length does not fit the AS number capability, discarded (RFC 7606 section 7.7); ORIGIN: missing, treated as a \
                withdrawal (RFC 7606 section 3 (d)); prefixes 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, and more";
    assert_eq!(reason, want);
    assert!(is_up(&h).await);
}
