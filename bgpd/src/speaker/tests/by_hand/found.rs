//! Peers that are found rather than configured, and peers that share an address.

use bgp_plan::config::DynamicPeers;

use super::*;
use crate::dynamic::Neighbours;
use crate::events::{Event, Filter};

const PATH_65003: &[u8] = &[2, 1, 0, 0, 0xfd, 0xeb];

/// Of any AS.
fn template(change: impl Fn(&mut PeerConfig)) -> PeerConfig {
    let mut template = PeerConfig::new("found", PeerType::Global, 65001, 0);
    template.export.default = policy::Action::Accept;
    change(&mut template);
    template
}

/// A speaker at the first address with peers wherever they come from in the /32 of the second one.
fn range_of([own, peer]: [IpAddr; 2], template: PeerConfig) -> SpeakerConfig {
    let range = DynamicPeers { prefix: Prefix::new(peer, 32).unwrap(), limit: 9, peer: template };
    SpeakerConfig {
        listen: vec![SocketAddr::new(own, LOOPBACK_PORT)],
        dynamic: BTreeMap::from([("rack".into(), range)]),
        ..SpeakerConfig::new([10, 0, 0, 5].into(), 65001)
    }
}

/// RFC 4724 section 4.1: peers of a range and neighbours on a link have told nothing before they are found.
#[tokio::test]
async fn after_a_restart_peers_that_are_yet_to_be_found_are_waited_for() {
    let restarted = || Handle::start(Start { restarted: true, preserved: [true; 2], seed: 1, ..Start::default() });
    let settings = |p: &mut PeerConfig| {
        (p.graceful_restart, p.connect_retry) = (Some(6), Duration::from_millis(800));
    };
    let at = addresses();
    let h = restarted().unwrap();
    h.originate(vec![origin("10.200.0.0/16")]);
    let begun = Instant::now();
    h.configure(range_of(at, template(settings))).await.unwrap().unwrap();
    let mut peer = ByHand::connect(at, 64).await;
    let said = peer.establish(&open(65002, [10, 0, 0, 6])).await.capabilities.graceful_restart.unwrap();
    assert!(said.restarting && said.ipv4 == Some(true));
    let mut end = Vec::new();
    write_end_of_rib(&mut end, Family::Ipv4);
    peer.send(&end).await;
    let quiet = tokio::time::timeout(QUIET, peer.next()).await;
    assert!(quiet.is_err(), "others of the range may come: {quiet:?}");
    assert_eq!(*h.in_sync().borrow(), InSync::default());
    peer.expect(MessageType::Update).await;
    assert!(begun.elapsed() >= Duration::from_millis(4 * 800), "four attempts to connect: {:?}", begun.elapsed());
    assert_eq!(*h.in_sync().borrow(), InSync::default(), "the sweep waits for the restart time");
    until("in sync", || async { h.in_sync().borrow().v4 && h.in_sync().borrow().v6 }).await;
    assert!(begun.elapsed() >= Duration::from_secs(6), "{:?}", begun.elapsed());

    // Behind an interface, and where nobody is to come.
    for (row, text, is_awaited) in [("a link", None, true), ("held down", Some("maintenance".to_string()), false)] {
        let h = restarted().unwrap();
        h.originate(vec![]);
        let mut config = SpeakerConfig::new([10, 0, 0, 5].into(), 65001);
        let peer = template(|p| {
            settings(p);
            p.shutdown.clone_from(&text);
        });
        config.unnumbered.insert("eth7".into(), peer);
        h.configure(config).await.unwrap().unwrap();
        tokio::time::sleep(QUIET).await;
        let in_sync = *h.in_sync().borrow();
        assert_eq!(in_sync, InSync { v4: !is_awaited, v6: !is_awaited }, "{row}");
    }
}

/// Two links have a neighbour of the same address: only the one whose link goes is lost.
#[test]
#[ignore = "needs network namespaces"]
fn a_lost_link_is_that_of_one_neighbour() {
    in_namespace(|| async {
        let mut neighbours = Neighbours::new();
        for link in ["eth0", "eth1"] {
            let script = format!(
                "ip link add {link} type veth peer name {link}p && ip link set {link}p up && ip link set {link} up && \
                 ip address add fe80::1/64 dev {link} nodad && ip address add fe80::9/64 dev {link} nodad"
            );
            assert!(std::process::Command::new("sh").args(["-ec", &script]).status().unwrap().success());
            let index = nix::net::if_::if_nametoindex(link).unwrap();
            neighbours.insert(link.into(), (index, Some("fe80::1".parse().unwrap())));
        }
        let mut config = SpeakerConfig::new([10, 0, 0, 5].into(), 65001);
        config.listen = vec![SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 179)];
        for link in neighbours.keys() {
            config.unnumbered.insert(link.clone(), template(|p| p.passive = true));
        }
        let h = started(&config).await;
        h.set_neighbours(neighbours.clone());
        let mut peers = Vec::new();
        for (index, _) in neighbours.values() {
            let end = |address: &str, port| std::net::SocketAddrV6::new(address.parse().unwrap(), port, 0, *index);
            let socket = TcpSocket::new_v6().unwrap();
            socket.bind(end("fe80::1", 0).into()).unwrap();
            let mut peer = ByHand::new(socket.connect(end("fe80::9", 179).into()).await.unwrap());
            peer.establish(&open(65002, [10, 0, 0, 6])).await;
            peers.push(peer);
        }
        let up = || async { h.peers().await.into_iter().filter(|p| p.up).map(|p| p.scope).collect::<Vec<_>>() };
        until("both sessions", || async { up().await.len() == 2 }).await;
        let (gone, _) = neighbours.remove("eth0").unwrap();
        h.set_neighbours(neighbours.clone());
        assert_eq!(up().await, [neighbours["eth1"].0], "of {gone} and that");
    });
}

/// Of a range that takes any AS, what the peer said is shown.
#[tokio::test]
async fn a_peer_of_any_as_is_shown_with_its_own() {
    let at = addresses();
    let h = started(&range_of(at, template(|_| {}))).await;
    let mut events = h.watch(Filter { peer: None, prefix: None });
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    until("session", || is_up(&h)).await;
    let mut file = crate::mrt::Dump::new(h.clone());
    assert_eq!(mrt_peers(&file.next().await.unwrap()), [65002]);
    drop(peer);
    let mut told = Vec::new();
    while told.len() < 2 {
        match tokio::time::timeout(SOON, events.recv()).await.expect("it is told").unwrap() {
            Event::PeerUp { remote_as, .. } => told.push((true, remote_as)),
            Event::PeerDown { remote_as, .. } => told.push((false, remote_as)),
            _ => {}
        }
    }
    assert_eq!(told, [(true, 65002), (false, 65002)]);
}

/// The AS numbers of an IPv4 PEER_INDEX_TABLE (RFC 6396 section 4.3.1).
fn mrt_peers(record: &[u8]) -> Vec<u32> {
    let peers = record[12 + 8..].chunks_exact(13);
    peers.map(|p| u32::from_be_bytes([p[9], p[10], p[11], p[12]])).collect()
}

/// Peers that share an address are told apart wherever their routes are: in MRT files, and in what a late BMP collector hears.
#[tokio::test]
async fn peers_that_share_an_address_are_not_mixed_up() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let second = PeerConfig { remote_as: 65003, ..only_peer(&mut config).clone() };
    config.peers.insert(PeerId::new(at[1], LOOPBACK_PORT + 1), second);
    let h = started(&config).await;
    let mut peers = Vec::new();
    for (asn, path, count) in [(65002, PATH_65002, 2), (65003, PATH_65003, 1)] {
        let mut peer = ByHand::connect(at, 64).await;
        peer.establish(&open(asn, [10, 0, 0, 6])).await;
        peer.send(&update(&[(ORIGIN, &[0]), (AS_PATH, path), (NEXT_HOP, &[10, 9, 9, 9])], count)).await;
        peers.push(peer);
    }
    let received = || async { h.peers().await.iter().map(|p| p.received).collect::<Vec<_>>() };
    until("routes", || async { received().await == [2, 1] }).await;

    let mut file = crate::mrt::Dump::new(h.clone());
    let known = mrt_peers(&file.next().await.unwrap());
    let mut records = Vec::new();
    while let Some(more) = file.next().await {
        records.extend(more);
    }
    let mut named = Vec::new();
    let mut rest = &records[..];
    while !rest.is_empty() {
        let len = u32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let record = &rest[12..12 + len];
        rest = &rest[12 + len..];
        // Sequence, prefix, number of paths; of each path its peer, its time and its attributes.
        let mut paths = &record[4 + 1 + 2 + 2..];
        while !paths.is_empty() {
            let len = usize::from(u16::from_be_bytes([paths[6], paths[7]]));
            let attributes = &paths[8..8 + len];
            let begins_with = |path: &[u8]| attributes.windows(path.len()).any(|w| w == path);
            let asn = if begins_with(PATH_65003) { 65003 } else { 65002 };
            named.push((record[6], known[usize::from(paths[1])], asn));
            paths = &paths[8 + len..];
        }
    }
    named.sort_unstable();
    assert_eq!(named, [(1, 65002, 65002), (1, 65003, 65003), (2, 65002, 65002)], "second octet, peer, path");

    let listener = TcpListener::bind(SocketAddr::new(at[1], 0)).await.unwrap();
    config.bmp = vec![listener.local_addr().unwrap()];
    h.configure(config).await.unwrap().unwrap();
    assert_eq!(super::bmp::announced(&listener).await, [(65002, 2), (65003, 1)]);
}
