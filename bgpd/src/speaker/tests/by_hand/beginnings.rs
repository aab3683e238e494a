//! How sessions begin: whose connections are let in, and what OPENs agree on.

use bgp_plan::config::Role;
use bgp_proto::wire::open::AddPath;

use super::*;

/// RFC 9234 section 4.2: our role, the peer's, strict mode; whether the session comes up.
#[tokio::test]
async fn roles_have_to_fit() {
    let rows = [
        (Some(Role::Provider), Some(3), false, true),
        (Some(Role::Customer), Some(0), true, true),
        (Some(Role::RouteServer), Some(2), false, true),
        (Some(Role::RouteServerClient), Some(1), false, true),
        (Some(Role::Peer), Some(4), false, true),
        (Some(Role::Provider), Some(0), false, false),
        (Some(Role::Customer), Some(4), false, false),
        (Some(Role::Provider), Some(9), false, false),
        (Some(Role::Provider), None, false, true),
        (Some(Role::Provider), None, true, false),
        (None, Some(0), true, true),
    ];
    for (own, theirs, strict, comes_up) in rows {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        let p = only_peer(&mut config);
        (p.passive, p.role, p.role_is_strict) = (true, own, strict);
        let _h = started(&config).await;
        let mut peer = ByHand::connect(at, 64).await;
        let ours = Open::read(&peer.expect(MessageType::Open).await).unwrap();
        assert_eq!(ours.capabilities.role, own.map(|r| r as u8));
        let mut open = open(65002, [10, 0, 0, 6]);
        open.capabilities.role = theirs;
        peer.send_open(&open).await;
        let row = format!("{own:?} {theirs:?}, strict: {strict}");
        let (kind, body) = peer.next().await.unwrap();
        if comes_up {
            assert_eq!(kind, MessageType::Keepalive, "{row}");
        } else {
            let n = Notification::read(&body);
            assert_eq!((kind, n.code, n.subcode), (MessageType::Notification, 2, iana::ROLE_MISMATCH), "{row}");
        }
    }
}

/// What is configured is said, and what both said is used.
#[tokio::test]
async fn capabilities_are_said_as_configured() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    let p = only_peer(&mut config);
    (p.passive, p.v6, p.add_path_send, p.extended_next_hop) = (true, true, true, true);
    p.long_lived_stale_time = Some(3600);
    let h = started(&config).await;
    let mut peer = ByHand::connect(at, 64).await;
    let theirs = open(65002, [10, 0, 0, 6]);
    let ours = peer.establish(&theirs).await;
    let c = ours.capabilities;
    assert!(c.ipv4 && c.ipv6 && c.route_refresh && c.enhanced_route_refresh && c.four_octet_as);
    assert!(c.extended_messages && c.extended_next_hop);
    assert_eq!(c.add_path, [AddPath { send: true, receive: false }; 2]);
    let gr = c.graceful_restart.unwrap();
    assert_eq!((gr.restarting, gr.notification, gr.restart_time), (false, true, 120));
    assert_eq!((gr.ipv4, gr.ipv6), (Some(false), Some(false)), "nothing was preserved");
    assert_eq!(c.long_lived.unwrap().ipv6.unwrap().stale_time, 3600);
    until("session", || is_up(&h)).await;
    let detail = h.peer(at[1].into()).await.remove(0);
    let shown = |name: &str| detail.capabilities.iter().find(|c| c.name == name).unwrap();
    assert_eq!(shown("graceful restart").theirs.as_deref(), Some("60 s, IPv4 preserved"));
    assert_eq!(shown("multiprotocol IPv6").theirs, None);
    let negotiated: Vec<bool> = detail.families.iter().map(|f| f.negotiated).collect();
    assert_eq!(negotiated, [true, false]);
    let hold = detail.timers.iter().find(|t| t.name == "hold").unwrap();
    assert_eq!((hold.configured, hold.negotiated), (90.0, Some(90.0)));
    assert!(hold.remaining.unwrap() > 80.0);
}

/// RFC 5492 section 3: a peer that knows no optional parameters is asked once more without them, and each time anew.
#[tokio::test]
async fn a_peer_that_knows_no_capabilities() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    let answer = Notification::open(iana::UNSUPPORTED_OPTIONAL_PARAMETER, &[]);
    let mut refusal = Vec::new();
    answer.write(&mut refusal);
    let theirs = open(65002, [10, 0, 0, 6]);
    let mut plain = Vec::new();
    theirs.write_without_capabilities(&mut plain);
    for (row, has_parameters, is_taken) in [
        ("as always", true, false),
        ("without, and that is refused too", false, false),
        ("as always once more", true, false),
        ("without", false, true),
        ("the next session", true, true),
    ] {
        let mut peer = ByHand::connect(at, 64).await;
        let ours = peer.expect(MessageType::Open).await;
        assert_eq!(ours[9] > 0, has_parameters, "{row}");
        let open = Open::read(&ours).unwrap();
        assert_eq!((open.asn, open.capabilities.ipv4), (65001, true), "{row}");
        if is_taken {
            peer.send(&plain).await;
            peer.expect(MessageType::Keepalive).await;
            peer.send_keepalive().await;
            until("session", || is_up(&h)).await;
            let attributes: [(u8, &[u8]); 3] =
                [(ORIGIN, &[0]), (AS_PATH, &[2, 1, 0xfd, 0xea]), (NEXT_HOP, &[10, 9, 9, 9])];
            peer.send(&update(&attributes, 1)).await;
            until("route", || has(&h, "10.1.0.0/16")).await;
        } else {
            peer.send(&refusal).await;
        }
        drop(peer);
        until("end", || async { !is_up(&h).await }).await;
    }
}

/// RFC 4271 section 4.2: hold time 0 means that no KEEPALIVE is sent but the first.
#[tokio::test]
async fn a_hold_time_of_zero_is_silence() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    (only_peer(&mut config).passive, only_peer(&mut config).keepalive) = (true, Some(1));
    let h = started(&config).await;
    h.originate(vec![]);
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&Open { hold_time: 0, ..open(65002, [10, 0, 0, 6]) }).await;
    peer.expect(MessageType::Update).await; // End-of-RIB
    let more = tokio::time::timeout(Duration::from_millis(1500), peer.next()).await;
    assert!(more.is_err(), "{more:?}");
    assert!(is_up(&h).await);
}

/// A stranger costs an accept; who is known may have two connections, and silent ones lock nobody out.
#[tokio::test]
async fn connections_that_say_nothing_lock_nobody_out() {
    let at = addresses();
    let stranger = addresses()[0];
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    assert_refused(ByHand::connect([at[0], stranger], 64).await, "a stranger").await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(ByHand::connect(at, 64).await);
    }
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    until("session", || is_up(&h)).await;
    let mut closed = 0;
    for s in &mut silent {
        while let Some((kind, _)) = s.next().await {
            assert!(matches!(kind, MessageType::Open | MessageType::Notification));
        }
        closed += 1;
    }
    assert_eq!(closed, 20, "all others are closed");
}

/// Peers that differ in their port only: each gets a connection of its own.
#[tokio::test]
async fn peers_that_share_an_address_take_turns() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let first = only_peer(&mut config).clone();
    for (port, asn) in [(LOOPBACK_PORT + 1, 65003), (LOOPBACK_PORT + 2, 65004)] {
        config.peers.insert(PeerId::new(at[1], port), PeerConfig { remote_as: asn, ..first.clone() });
    }
    let h = started(&config).await;
    let mut all = Vec::new();
    for asn in [65004, 65002, 65003] {
        // Whose it is shows in the OPEN only: a wrong guess is refused, and the next one is another peer's.
        for attempt in 0.. {
            assert!(attempt < 3, "AS {asn} is let in");
            let mut peer = ByHand::connect(at, 64).await;
            peer.expect(MessageType::Open).await;
            peer.send_open(&open(asn, [10, 0, 0, 6])).await;
            if peer.next().await.unwrap().0 == MessageType::Keepalive {
                peer.send_keepalive().await;
                all.push(peer);
                break;
            }
        }
    }
    until("all three", || async { h.peers().await.iter().all(|p| p.up) }).await;
}

/// RFC 4724 section 5: a peer that comes back before we noticed that it went. Its old session is older than a beginning.
#[tokio::test]
async fn a_second_connection_of_an_established_peer() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    let open = open(65002, [10, 0, 0, 6]);
    let mut old = ByHand::connect(at, 64).await;
    old.establish(&open).await;
    old.send(&update(PLAIN, 1)).await;
    until("route", || has(&h, "10.1.0.0/16")).await;
    // At once: a collision with an established session.
    let mut second = ByHand::connect(at, 64).await;
    second.expect(MessageType::Open).await;
    second.send_open(&open).await;
    let said = Notification::read(&second.expect(MessageType::Notification).await);
    assert_eq!(said, Notification::cease(iana::CONNECTION_COLLISION_RESOLUTION));
    // Later: a restart.
    tokio::time::sleep(Duration::from_millis(5100)).await;
    assert!(is_up(&h).await);
    let mut new = ByHand::connect(at, 64).await;
    new.establish(&open).await;
    while let Some((kind, _)) = old.next().await {
        assert_ne!(kind, MessageType::Notification, "the old session is closed without a word");
    }
    until("session", || is_up(&h)).await;
    assert!(has(&h, "10.1.0.0/16").await, "F is set: the route stays until End-of-RIB");
    let mut end = Vec::new();
    write_end_of_rib(&mut end, Family::Ipv4);
    new.send(&end).await;
    until("swept", || async { !has(&h, "10.1.0.0/16").await }).await;
}

/// Each of these counts at once or next time: the session lives through all of them.
#[tokio::test]
async fn what_need_not_end_a_session_does_not() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).passive = true;
    only_peer(&mut config).ttl_security = Some(255);
    let h = started(&config).await;
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open(65002, [10, 0, 0, 6])).await;
    until("session", || is_up(&h)).await;
    let since = h.peers().await[0].since;
    let changes: [fn(&mut PeerConfig); 9] = [
        |p| p.hold_time = 9,
        |p| p.keepalive = Some(1),
        |p| p.passive = false,
        |p| p.connect_retry = Duration::from_secs(1),
        |p| p.graceful_restart = None,
        |p| p.allow_own_as = 1,
        |p| p.rr_client = true,
        |p| p.graceful_shutdown = true,
        |p| p.ttl_security = Some(200),
    ];
    for change in changes {
        change(only_peer(&mut config));
        h.configure(config.clone()).await.unwrap().unwrap();
    }
    loop {
        let (kind, _) = peer.next().await.expect("the session stays");
        if kind == MessageType::Keepalive {
            break;
        }
    }
    assert_eq!(h.peers().await[0].since, since, "KEEPALIVEs come each second now");
}

/// A new password counts on both ends without a new session, where both change in time.
#[tokio::test]
async fn a_password_changes_live() {
    let at = addresses();
    let (mut a, mut b) = (config_of(at, 65001, 65002), config_of([at[1], at[0]], 65002, 65001));
    b.router_id = [10, 0, 0, 6].into();
    for c in [&mut a, &mut b] {
        (only_peer(c).password, only_peer(c).keepalive) = (Some("one".into()), Some(1));
    }
    let (ha, hb) = (started(&a).await, started(&b).await);
    until("session", || async { is_up(&ha).await && is_up(&hb).await }).await;
    let since = ha.peers().await[0].since;
    for (config, h) in [(&mut a, &ha), (&mut b, &hb)] {
        only_peer(config).password = Some("two".into());
        h.configure(config.clone()).await.unwrap().unwrap();
    }
    let heard = async |h: &Handle, from: IpAddr| h.peer(from.into()).await[0].messages_received.keepalive;
    let (by_a, by_b) = (heard(&ha, at[1]).await, heard(&hb, at[0]).await);
    until("KEEPALIVEs under the new password", || async {
        heard(&ha, at[1]).await > by_a + 2 && heard(&hb, at[0]).await > by_b + 2
    })
    .await;
    assert_eq!(ha.peers().await[0].since, since);
}

/// RFC 4271 section 4.2: the hold time is the smaller of the two that were said, whatever is configured when the peer answers.
#[tokio::test]
async fn what_was_said_in_an_open_is_negotiated() {
    for (before, after) in [(90, 9), (9, 90)] {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).passive = true;
        only_peer(&mut config).hold_time = before;
        let h = started(&config).await;
        let mut peer = ByHand::connect(at, 64).await;
        let theirs = Open::read(&peer.expect(MessageType::Open).await).unwrap();
        assert_eq!(theirs.hold_time, before);
        only_peer(&mut config).hold_time = after;
        h.configure(config).await.unwrap().unwrap();
        peer.send_open(&open(65002, [10, 0, 0, 6])).await;
        peer.expect(MessageType::Keepalive).await;
        peer.send_keepalive().await;
        until("session", || is_up(&h)).await;
        let hold = h.peer(at[1].into()).await[0].timers.iter().find(|t| t.name == "hold").unwrap().negotiated;
        assert_eq!(hold, Some(f64::from(before)), "said {before}, then {after}");
    }
}

/// Beside an attempt of ours the peer's own connection tells what is wrong.
#[tokio::test]
async fn a_second_connection_that_fails_says_why() {
    let at = addresses();
    let listener = ByHand::listen(at);
    let h = started(&config_of(at, 65001, 65002)).await;
    let mut ours = ByHand::new(listener.accept().await.unwrap().0);
    ours.expect(MessageType::Open).await;
    let last_error = async || h.peers().await[0].last_error.clone().unwrap_or_default();
    let mut by_peer = ByHand::connect(at, 64).await;
    by_peer.expect(MessageType::Open).await;
    by_peer.send_open(&open(65009, [10, 0, 0, 6])).await;
    by_peer.expect(MessageType::Notification).await;
    assert!(last_error().await.contains("sent NOTIFICATION: bad peer AS (2/2)"), "{}", last_error().await);
    let mut by_peer = ByHand::connect(at, 64).await;
    by_peer.expect(MessageType::Open).await;
    let mut out = Vec::new();
    Notification::open(iana::BAD_PEER_AS, &[]).write(&mut out);
    by_peer.send(&out).await;
    until("its NOTIFICATION", || async { last_error().await.contains("received NOTIFICATION: bad peer AS (2/2)") })
        .await;
}
