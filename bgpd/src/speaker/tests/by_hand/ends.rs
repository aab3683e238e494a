//! How sessions end, and what is kept of them.

use bgp_plan::config::MaxPrefixes;
use bgp_proto::wire::{RefreshKind, RouteRefresh};

use super::super::Clear;
use super::*;

/// An established session with a passive speaker.
async fn established(config: &mut SpeakerConfig, at: [IpAddr; 2], open: &Open) -> (Handle, ByHand) {
    only_peer(config).passive = true;
    let h = started(config).await;
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(open).await;
    until("session", || is_up(&h)).await;
    (h, peer)
}

fn with_n() -> Open {
    let mut open = open(65002, [10, 0, 0, 6]);
    open.capabilities.graceful_restart.as_mut().unwrap().notification = true;
    open
}

/// The next NOTIFICATION, whatever comes before it.
async fn farewell(peer: &mut ByHand) -> Notification {
    loop {
        let (kind, body) = peer.next().await.expect("a NOTIFICATION comes first");
        if kind == MessageType::Notification {
            return Notification::read(&body);
        }
    }
}

async fn last_error(h: &Handle) -> String {
    h.peers().await[0].last_error.clone().unwrap_or_default()
}

/// RFC 8538 section 4: what the peer says at the end, and whether its routes stay without the N bit and with it.
#[tokio::test]
async fn a_notification_keeps_routes_where_both_sides_have_n() {
    let reset = || Notification::cease(iana::ADMINISTRATIVE_RESET);
    let rows = [
        ("a reset", reset(), [false, true]),
        ("a hold timer", Notification::new(iana::HOLD_TIMER_EXPIRED, 0, &[]), [false, true]),
        ("a hard reset", reset().hard_reset(), [false, false]),
    ];
    for (name, notification, kept) in rows {
        for (notifications, kept) in [false, true].into_iter().zip(kept) {
            let at = addresses();
            let open = if notifications { with_n() } else { open(65002, [10, 0, 0, 6]) };
            let (h, mut peer) = established(&mut config_of(at, 65001, 65002), at, &open).await;
            peer.send(&update(PLAIN, 1)).await;
            until("route", || has(&h, "10.1.0.0/16")).await;
            let mut out = Vec::new();
            notification.write(&mut out);
            peer.send(&out).await;
            until("the end", || async { !is_up(&h).await }).await;
            assert_eq!(has(&h, "10.1.0.0/16").await, kept, "{name}, N: {notifications}");
        }
    }
}

/// RFC 4486, RFC 9003, RFC 8538 section 5.1: (what happens to the peer, its Cease, also as a Hard Reset).
#[tokio::test]
async fn the_peer_is_told_why_its_session_ends() {
    type Change = fn(&mut SpeakerConfig);
    let rows: [(&str, Change, u8, &str); 3] = [
        ("taken out", |c| c.peers.clear(), iana::PEER_DECONFIGURED, ""),
        (
            "shut down",
            |c| only_peer(c).shutdown = Some("new line card".into()),
            iana::ADMINISTRATIVE_SHUTDOWN,
            "new line card",
        ),
        ("changed", |c| only_peer(c).remote_as = 65009, iana::OTHER_CONFIGURATION_CHANGE, ""),
    ];
    for (name, change, subcode, text) in rows {
        for hard in [false, true] {
            let at = addresses();
            let mut config = config_of(at, 65001, 65002);
            let open = if hard { with_n() } else { open(65002, [10, 0, 0, 6]) };
            let (h, mut peer) = established(&mut config, at, &open).await;
            let before = config.clone();
            change(&mut config);
            h.configure(config).await.unwrap().unwrap();
            let said = farewell(&mut peer).await;
            let inner = said.inner();
            let is_hard = hard && subcode != iana::OTHER_CONFIGURATION_CHANGE;
            assert_eq!(inner.is_some(), is_hard, "{name}: {}", said.describe());
            let said = inner.unwrap_or(said);
            assert_eq!((said.code, said.subcode), (iana::CEASE, subcode), "{name}");
            assert_eq!(said.shutdown_text().unwrap_or_default(), text, "{name}");
            assert_eq!(peer.next().await, None, "{name}");
            if !text.is_empty() {
                assert_eq!(last_error(&h).await, format!("administratively down: {text}"));
                assert_refused(ByHand::connect(at, 64).await, "nobody is let in meanwhile").await;
            }
            h.configure(before).await.unwrap().unwrap();
            let mut again = ByHand::connect(at, 64).await;
            again.establish(&open).await;
            until("session again", || is_up(&h)).await;
        }
    }
}

/// RFC 4271 section 6.7: what counts is what is accepted.
#[tokio::test]
async fn a_peer_that_announces_too_much() {
    let limit = |ends_session, restart_after| Some(MaxPrefixes { limit: 3, warn_at: 60, ends_session, restart_after });
    for (ends, after) in [(true, None), (true, Some(Duration::from_millis(300))), (false, None)] {
        let at = addresses();
        let mut config = config_of(at, 65001, 65002);
        only_peer(&mut config).max_prefixes = limit(ends, after);
        let open = open(65002, [10, 0, 0, 6]);
        let (h, mut peer) = established(&mut config, at, &open).await;
        // A loop is not accepted, and does not count.
        let looped: &[(u8, &[u8])] =
            &[(ORIGIN, &[0]), (AS_PATH, &[2, 2, 0, 0, 0xfd, 0xea, 0, 0, 0xfd, 0xe9]), (NEXT_HOP, &[10, 9, 9, 9])];
        peer.send(&update(looped, 200)).await;
        peer.send(&update(PLAIN, 1)).await;
        until("route", || has(&h, "10.1.0.0/16")).await;
        assert_eq!(last_error(&h).await, "");
        peer.send(&update(PLAIN, 3)).await;
        until("the warning", || async { last_error(&h).await.contains("its limit is 3") }).await;
        peer.send(&update(PLAIN, 4)).await;
        if !ends {
            until("route", || has(&h, "10.4.0.0/16")).await;
            assert!(is_up(&h).await);
            continue;
        }
        let said = farewell(&mut peer).await;
        assert_eq!(said, Notification::maximum_prefixes(Family::Ipv4, 3));
        assert!(last_error(&h).await.contains("more than 3 IPv4 prefixes"), "{}", last_error(&h).await);
        assert_refused(ByHand::connect(at, 64).await, "it is not let in at once").await;
        match after {
            Some(after) => tokio::time::sleep(after * 2).await,
            None => assert_eq!(h.clear(Some(at[1].into()), Clear::Hard, None).await, 1),
        }
        let mut again = ByHand::connect(at, 64).await;
        again.establish(&open).await;
        until("session again", || is_up(&h)).await;
    }
}

/// A second connection, made in good time, does not outlive the limit.
#[tokio::test]
async fn a_peer_that_announces_too_much_has_no_second_way_in() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    let max = MaxPrefixes { limit: 3, warn_at: 60, ends_session: true, restart_after: None };
    only_peer(&mut config).max_prefixes = Some(max);
    let open = open(65002, [10, 0, 0, 6]);
    let (h, mut peer) = established(&mut config, at, &open).await;
    let mut second = ByHand::connect(at, 64).await;
    second.expect(MessageType::Open).await;
    peer.send(&update(PLAIN, 4)).await;
    assert_eq!(farewell(&mut peer).await, Notification::maximum_prefixes(Family::Ipv4, 3));
    assert_refused(second, "nor is the second connection let in").await;
    assert_refused(ByHand::connect(at, 64).await, "nor another one").await;
    assert!(!is_up(&h).await);
}

/// RFC 7313 section 4: what was not announced between the marks goes; an end without a begin means nothing.
#[tokio::test]
async fn a_refresh_between_marks_sweeps_what_is_gone() {
    let at = addresses();
    let mut open = open(65002, [10, 0, 0, 6]);
    open.capabilities.enhanced_route_refresh = true;
    let (h, mut peer) = established(&mut config_of(at, 65001, 65002), at, &open).await;
    let mark = |kind| {
        let mut out = Vec::new();
        RouteRefresh { family: Family::Ipv4, kind }.write(&mut out);
        out
    };
    peer.send(&update(PLAIN, 2)).await;
    until("routes", || has(&h, "10.2.0.0/16")).await;
    // Before End-of-RIB the marks mean nothing.
    for kind in [RefreshKind::BeginOfRib, RefreshKind::EndOfRib] {
        peer.send(&mark(kind)).await;
    }
    let mut end = Vec::new();
    write_end_of_rib(&mut end, Family::Ipv4);
    peer.send(&end).await;
    peer.send(&mark(RefreshKind::EndOfRib)).await;
    peer.send(&update(PLAIN, 3)).await;
    until("a third route", || has(&h, "10.3.0.0/16")).await;
    assert!(has(&h, "10.2.0.0/16").await);
    peer.send(&mark(RefreshKind::BeginOfRib)).await;
    peer.send(&update(PLAIN, 1)).await;
    peer.send(&mark(RefreshKind::EndOfRib)).await;
    until("swept", || async { !has(&h, "10.2.0.0/16").await && !has(&h, "10.3.0.0/16").await }).await;
    assert!(has(&h, "10.1.0.0/16").await && is_up(&h).await);

    // Section 5: a mark that is too long.
    let mut long = Vec::new();
    write_message(&mut long, MessageType::RouteRefresh, |out| out.extend_from_slice(&[0, 1, 1, 1, 9]));
    peer.send(&long).await;
    let said = farewell(&mut peer).await;
    assert_eq!((said.code, said.subcode), (iana::ROUTE_REFRESH_MESSAGE_ERROR, iana::INVALID_MESSAGE_LENGTH));
    assert_eq!(said.data, long, "with the message");
}

/// A peer that asks again and again, as many times as one read takes, is answered once.
#[tokio::test]
async fn requests_that_come_together_are_one() {
    const ROUTES: u32 = 200_000;
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).export.default = policy::Action::Accept;
    let mut open = open(65002, [10, 0, 0, 6]);
    (open.capabilities.route_refresh, open.capabilities.enhanced_route_refresh) = (true, true);
    only_peer(&mut config).passive = true;
    let h = started(&config).await;
    let route = |n: u32| origin(&format!("{}/24", std::net::Ipv4Addr::from(0x0b00_0000 + (n << 8))));
    h.originate((0..ROUTES).map(route).collect());
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open).await;
    while peer.next().await.expect("the table") != (MessageType::Update, vec![0; 4]) {}
    let mut request = Vec::new();
    RouteRefresh { family: Family::Ipv4, kind: RefreshKind::Request }.write(&mut request);
    let begun = Instant::now();
    peer.send(&request.repeat(5600)).await;
    let kind = |body: Vec<u8>| RouteRefresh::read(true, &body).unwrap().unwrap().kind;
    let (mut marks, mut total) = (Vec::new(), 0);
    while total < 5600 || marks.last() != Some(&RefreshKind::EndOfRib) {
        if let (MessageType::RouteRefresh, body) = peer.next().await.expect("the session stays") {
            marks.push(kind(body));
        }
        total = h.peer(at[1].into()).await[0].messages_received.route_refresh;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}, {marks:?}");
}

/// What was negotiated decides how a session ends when we do: a peer without graceful restart would wait for its hold timer.
#[tokio::test]
async fn a_peer_without_graceful_restart_hears_that_we_shut_down() {
    for negotiated in [true, false] {
        let at = addresses();
        let mut open = open(65002, [10, 0, 0, 6]);
        open.capabilities.graceful_restart = open.capabilities.graceful_restart.filter(|_| negotiated);
        let mut config = config_of(at, 65001, 65002);
        assert!(only_peer(&mut config).graceful_restart.is_some(), "the default");
        let (h, mut peer) = established(&mut config, at, &open).await;
        h.shut_down().await;
        let mut said = None;
        while let Some((kind, body)) = peer.next().await {
            said = (kind == MessageType::Notification).then(|| Notification::read(&body)).or(said);
        }
        let want = (!negotiated).then(|| Notification::cease(iana::ADMINISTRATIVE_SHUTDOWN));
        assert_eq!(said, want, "graceful restart: {negotiated}");
    }
}

#[tokio::test]
async fn clearing_asks_tells_or_ends() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).export.default = policy::Action::Accept;
    let mut open = open(65002, [10, 0, 0, 6]);
    (open.capabilities.route_refresh, open.capabilities.enhanced_route_refresh) = (true, true);
    let (h, mut peer) = established(&mut config, at, &open).await;
    h.originate(vec![origin("10.200.0.0/16")]);
    peer.expect(MessageType::Update).await;
    peer.expect(MessageType::Update).await; // End-of-RIB
    assert_eq!(h.clear(Some(at[0].into()), Clear::Hard, None).await, 0, "no such peer");

    assert_eq!(h.clear(None, Clear::SoftIn, None).await, 1);
    let asked = RouteRefresh::read(true, &peer.expect(MessageType::RouteRefresh).await).unwrap();
    assert_eq!(asked, Some(RouteRefresh { family: Family::Ipv4, kind: RefreshKind::Request }), "the common family");

    h.clear(Some(at[1].into()), Clear::SoftOut, None).await;
    let kind = |body: Vec<u8>| RouteRefresh::read(true, &body).unwrap().unwrap().kind;
    assert_eq!(kind(peer.expect(MessageType::RouteRefresh).await), RefreshKind::BeginOfRib);
    let told = peer.expect(MessageType::Update).await;
    assert!(told.ends_with(&[16, 10, 200]), "{told:?}");
    assert_eq!(kind(peer.expect(MessageType::RouteRefresh).await), RefreshKind::EndOfRib);

    let detail = h.peer(at[1].into()).await.remove(0);
    let sent = detail.messages_sent;
    assert_eq!((sent.open, sent.update, sent.route_refresh), (1, 3, 3));
    h.clear(Some(at[1].into()), Clear::Hard, Some("new optics".into())).await;
    let said = farewell(&mut peer).await;
    assert_eq!(said, Notification::cease_with_text(iana::ADMINISTRATIVE_RESET, "new optics"));
    let mut again = ByHand::connect(at, 64).await;
    again.establish(&open).await;
    until("session again", || is_up(&h)).await;
    let detail = h.peer(at[1].into()).await.remove(0);
    assert_eq!((detail.established, detail.status.flaps), (2, 0), "what an operator ends is no flap");
}

/// RFC 9687: the peer's socket is open, but it reads nothing.
#[tokio::test]
async fn a_peer_that_reads_nothing_is_dropped() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    only_peer(&mut config).export.default = policy::Action::Accept;
    only_peer(&mut config).send_hold_time = 1;
    let (h, peer) = established(&mut config, at, &open(65002, [10, 0, 0, 6])).await;
    // More than the socket buffers hold.
    let many = (0..120_000_u32).map(|n| {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n * 16));
        Origin { communities: vec![policy::Community::Standard(n)], ..origin(&format!("{address}/28")) }
    });
    h.originate(many.collect());
    until("the send hold time is over", || async { !is_up(&h).await }).await;
    assert!(last_error(&h).await.contains("(8/0)"), "{}", last_error(&h).await);
    drop(peer);
}

/// What came in while the speaker was busy counts: the hold timer judges the peer, not the time there was to read.
#[tokio::test]
async fn a_busy_speaker_drops_nobody_who_has_spoken() {
    const BUSY: Duration = Duration::from_millis(3500);
    let at = addresses();
    let open = Open { hold_time: 3, ..open(65002, [10, 0, 0, 6]) };
    let (h, mut peer) = established(&mut config_of(at, 65001, 65002), at, &open).await;
    peer.send(&update(PLAIN, 1)).await;
    until("route", || has(&h, "10.1.0.0/16")).await;
    let since = h.peers().await[0].since;
    // The speaker asks for each next hop, and waits for the answer.
    h.set_resolver(std::sync::Arc::new(|_| {
        std::thread::sleep(BUSY);
        Some(0)
    }));
    let begun = Instant::now();
    while begun.elapsed() < BUSY + Duration::from_millis(500) {
        peer.send_keepalive().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(h.peers().await[0].since, since, "{}", last_error(&h).await);
    assert!(is_up(&h).await);
}

/// RFC 4724 section 4.2: what a peer says of itself when it is back, and whether its routes stay until End-of-RIB.
#[tokio::test]
async fn routes_wait_for_a_peer_that_comes_back_as_it_was() {
    type Change = fn(&mut Open);
    let rows: [(&str, Change, bool); 5] = [
        ("as it was", |_| {}, true),
        ("F is clear", |o| o.capabilities.graceful_restart.as_mut().unwrap().ipv4 = Some(false), false),
        ("the family is not listed", |o| o.capabilities.graceful_restart.as_mut().unwrap().ipv4 = None, false),
        ("without graceful restart", |o| o.capabilities.graceful_restart = None, false),
        ("another identifier: another speaker", |o| o.router_id = [10, 0, 0, 7].into(), false),
    ];
    for (name, change, are_kept) in rows {
        let at = addresses();
        let mut open = open(65002, [10, 0, 0, 6]);
        let (h, mut peer) = established(&mut config_of(at, 65001, 65002), at, &open).await;
        peer.send(&update(PLAIN, 1)).await;
        until("route", || has(&h, "10.1.0.0/16")).await;
        drop(peer);
        until("noticed", || async { !is_up(&h).await }).await;
        assert!(has(&h, "10.1.0.0/16").await, "{name}");
        change(&mut open);
        let mut again = ByHand::connect(at, 64).await;
        again.establish(&open).await;
        until("session again", || is_up(&h)).await;
        assert_eq!(has(&h, "10.1.0.0/16").await, are_kept, "{name}");
    }
}
