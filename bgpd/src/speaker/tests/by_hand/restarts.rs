//! Our own restart, as peers see it (RFC 4724 section 4.1).

use bgp_proto::wire::open::{LongLived, LongLivedFamily};

use super::*;

/// A speaker that restarted, with two passive peers at addresses of their own.
async fn restarted(connect_retry: Duration) -> (Handle, [[IpAddr; 2]; 2]) {
    let (a, b) = (addresses(), addresses());
    let ends = [a, [a[0], b[1]]];
    let mut config = config_of(a, 65001, 65002);
    let p = only_peer(&mut config);
    (p.passive, p.connect_retry) = (true, connect_retry);
    p.export.default = policy::Action::Accept;
    let second = PeerConfig { remote_as: 65003, ..p.clone() };
    config.peers.insert(PeerId::new(b[1], LOOPBACK_PORT), second);
    let h = Handle::start(Start { restarted: true, preserved: [true, false], seed: 1, ..Start::default() }).unwrap();
    h.originate(vec![origin("10.200.0.0/16")]);
    h.configure(config).await.unwrap().unwrap();
    (h, ends)
}

async fn end_of_rib(peer: &mut ByHand) {
    let mut end = Vec::new();
    write_end_of_rib(&mut end, Family::Ipv4);
    peer.send(&end).await;
}

#[tokio::test]
async fn nothing_is_announced_before_all_have_told() {
    let (h, ends) = restarted(Duration::from_secs(5)).await;
    let mut first = ByHand::connect(ends[0], 64).await;
    let said = first.establish(&open(65002, [10, 0, 0, 6])).await.capabilities.graceful_restart.unwrap();
    assert_eq!((said.restarting, said.ipv4, said.ipv6), (true, Some(true), Some(false)), "F as the kernel has it");
    end_of_rib(&mut first).await;
    let quiet = tokio::time::timeout(QUIET, first.next()).await;
    assert!(quiet.is_err(), "the other peer has not told yet: {quiet:?}");
    let mut second = ByHand::connect(ends[1], 64).await;
    // R proves nothing: its End-of-RIB is awaited all the same.
    let mut open = open(65003, [10, 0, 0, 7]);
    open.capabilities.graceful_restart.as_mut().unwrap().restarting = true;
    second.establish(&open).await;
    second.send(&update(&[(ORIGIN, &[0]), (AS_PATH, &[2, 1, 0, 0, 0xfd, 0xeb]), (NEXT_HOP, &[10, 9, 9, 9])], 1)).await;
    let quiet = tokio::time::timeout(QUIET, first.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(!h.in_sync().borrow().v4);
    end_of_rib(&mut second).await;
    let mut told = Vec::new();
    while !told.ends_with(&[0, 0, 0, 0]) {
        told = first.expect(MessageType::Update).await;
    }
    assert!(h.in_sync().borrow().v4);
}

/// One dead node does not silence the others, but the kernel keeps what may be its routes.
#[tokio::test]
async fn a_peer_that_stays_away_is_not_waited_for_to_announce() {
    let (h, ends) = restarted(Duration::from_millis(300)).await;
    let mut first = ByHand::connect(ends[0], 64).await;
    first.establish(&open(65002, [10, 0, 0, 6])).await;
    end_of_rib(&mut first).await;
    first.expect(MessageType::Update).await;
    assert!(!h.in_sync().borrow().v4, "the sweep waits for the restart time");
}

/// RFC 9494 section 4: after the restart time routes stay for long, marked and least preferred, but for those with NO_LLGR.
#[tokio::test]
async fn a_peer_that_stays_away_for_long() {
    let at = addresses();
    let mut config = config_of(at, 65001, 65002);
    (only_peer(&mut config).passive, only_peer(&mut config).long_lived_stale_time) = (true, Some(600));
    let h = started(&config).await;
    let mut open = open(65002, [10, 0, 0, 6]);
    open.capabilities.graceful_restart.as_mut().unwrap().restart_time = 2;
    let family = LongLivedFamily { preserved: true, stale_time: 3 };
    open.capabilities.long_lived = Some(LongLived { ipv4: Some(family), ipv6: None });
    let mut peer = ByHand::connect(at, 64).await;
    peer.establish(&open).await;
    peer.send(&update(PLAIN, 2)).await;
    let no_llgr = iana::NO_LLGR.to_be_bytes();
    let not_for_long = [PLAIN, &[(iana::COMMUNITIES, &no_llgr)]].concat();
    peer.send(&update(&not_for_long, 1)).await;
    until("routes", || has(&h, "10.2.0.0/16")).await;
    drop(peer);
    until("stale", || async { shown(&h, RouteView::Best(None)).await.iter().all(|r| r.stale) }).await;
    assert!(has(&h, "10.1.0.0/16").await);
    until("the restart time is over", || async { !has(&h, "10.1.0.0/16").await }).await;
    let left = shown(&h, RouteView::Best(None)).await;
    assert_eq!((left.len(), left[0].prefix.as_str()), (1, "10.2.0.0/16"));
    assert_eq!(left[0].attributes.communities, ["65535:6"], "LLGR_STALE");
    until("the stale time is over", || async { !has(&h, "10.2.0.0/16").await }).await;
}
