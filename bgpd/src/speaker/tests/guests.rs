//! Peers that come by themselves.

use bgp_plan::config::{DynamicPeers, PeerType};

use super::*;

/// `own` takes peers of any AS from 10.9.0.0/28, two at most.
fn host(own: u8, password: Option<&str>) -> SpeakerConfig {
    let mut peer = PeerConfig::new("Range_rack", PeerType::Global, 65001, 0);
    peer.hold_time = 9;
    peer.password = password.map(Into::into);
    let range = DynamicPeers { prefix: prefix("10.9.0.0/28"), limit: 2, peer };
    SpeakerConfig {
        listen: vec![SocketAddr::new(address(own), 179)],
        dynamic: BTreeMap::from([("rack".into(), range)]),
        ..SpeakerConfig::new(std::net::Ipv4Addr::new(10, 0, 0, own), 65001)
    }
}

/// `own` of AS 65000 + own, which connects to 10.9.0.1.
fn guest(own: u8, password: Option<&str>) -> SpeakerConfig {
    let mut config = config((own, 65000 + u32::from(own)), (1, 65001), 179);
    config.listen.clear();
    config.peers.values_mut().for_each(|p| p.password = password.map(Into::into));
    config
}

#[test]
#[ignore = "needs network namespaces"]
fn who_connects_from_a_range_is_a_peer_until_the_range_is_full() {
    in_namespace(|| async {
        let h = Handle::start(Start::default()).unwrap();
        h.originate(vec![origin("10.1.0.0/16")]);
        h.configure(host(1, None)).await.unwrap().unwrap();
        let mut guests = Vec::new();
        for n in [2, 3, 4] {
            let g = Handle::start(Start::default()).unwrap();
            g.originate(vec![origin(&format!("10.{n}0.0.0/16"))]);
            g.configure(guest(n, None)).await.unwrap().unwrap();
            if n < 4 {
                until("session", || is_up(&g)).await;
            }
            guests.push(g);
        }
        until("routes", || async { has(&h, "10.20.0.0/16").await && has(&h, "10.30.0.0/16").await }).await;
        until("our route", || has(&guests[1], "10.1.0.0/16")).await;
        let why = || async { guests[2].peers().await.remove(0).last_error.unwrap_or_default() };
        // RFC 4486: Cease 6/5. No session ends for want of resources, so nothing is said of them (6/8).
        until("refused with a reason", || async { why().await.contains("connection rejected") }).await;
        let peers = h.peers().await;
        let shown: Vec<_> =
            peers.iter().map(|p| (p.address.clone(), p.remote_as, p.peer_type, p.name.as_str())).collect();
        let row =
            |n: u8| (crate::peer::Place::Address(address(n)), 65000 + u32::from(n), PeerType::Dynamic, "Range_rack");
        assert_eq!(shown, [row(2), row(3)], "the third finds no place");

        // Other settings of the template count at once, without a flap; without the range its peers are none.
        let mut next = host(1, None);
        next.dynamic.values_mut().for_each(|d| {
            d.peer.export.rules = vec![policy::Rule { action: policy::Action::Reject, ..Default::default() }];
        });
        h.configure(next).await.unwrap().unwrap();
        until("withdrawn", || async { !has(&guests[1], "10.1.0.0/16").await }).await;
        assert!(h.peers().await.iter().all(|p| p.up && p.flaps == 0));
        let mut without = host(1, None);
        without.dynamic.clear();
        h.configure(without).await.unwrap().unwrap();
        until("down", || async { !is_up(&guests[0]).await }).await;
        assert!(h.peers().await.is_empty());
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn one_key_signs_a_whole_range() {
    in_namespace(|| async {
        let h = Handle::start(Start::default()).unwrap();
        h.originate(vec![]);
        h.configure(host(1, Some("secret"))).await.unwrap().unwrap();
        let (good, bad) = (Handle::start(Start::default()).unwrap(), Handle::start(Start::default()).unwrap());
        for (g, n, password) in [(&good, 2, "secret"), (&bad, 3, "wrong")] {
            g.originate(vec![]);
            g.configure(guest(n, Some(password))).await.unwrap().unwrap();
        }
        until("session", || is_up(&good)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!is_up(&bad).await);
        assert_eq!(h.peers().await.len(), 1, "what is not signed is no peer, either");
    });
}

/// A guest that never has a session goes too, where nothing else ever wakes up the timers.
#[tokio::test]
async fn a_guest_that_is_held_down_is_expired() {
    let bfd = bfd::Handle::start(1, |_, _| {}).unwrap();
    let in_sync = watch::Sender::new(InSync { v4: true, v6: true });
    let speaker = new_speaker(Start::default(), bfd, Watched { in_sync, ..Watched::default() });
    let changed = speaker.borrow().timers_changed.clone();
    let mut config = host(1, None);
    config.listen.clear();
    config.dynamic.values_mut().for_each(|d| d.peer.shutdown = Some("maintenance".into()));
    speaker.borrow_mut().configure(config).unwrap();
    let is_woken = async || tokio::time::timeout(Duration::ZERO, changed.notified()).await.is_ok();
    is_woken().await;
    assert_eq!(speaker.borrow().next_deadline(), None);
    speaker.borrow_mut().admit(address(2), 0);
    assert!(speaker.borrow().next_deadline().is_some() && is_woken().await);
}

/// An interface with nobody behind it is shown as a peer that waits, so that the operator sees where to look.
#[tokio::test]
async fn an_interface_with_nobody_behind_it_is_a_peer_that_waits() {
    let h = Handle::start(Start::default()).unwrap();
    h.originate(vec![]);
    let mut config = SpeakerConfig::new([10, 0, 0, 1].into(), 65001);
    config.unnumbered.insert("eth7".into(), PeerConfig::new("Interface_eth7", PeerType::Global, 65001, 65002));
    h.configure(config.clone()).await.unwrap().unwrap();
    let shown = || async {
        let peers = h.peers().await;
        assert_eq!(peers.len(), 1);
        assert_eq!(h.details().await.len(), 1, "for the metrics too");
        let p = &peers[0];
        (p.address.to_string(), p.state, p.last_error.clone().unwrap_or_default(), p.since)
    };
    let (address, state, why, _) = shown().await;
    assert_eq!((address.as_str(), state, why.as_str()), ("eth7", "Idle", "the interface eth7 is down or absent"));

    h.set_neighbours([("eth7".to_string(), (7, None))].into());
    let (address, state, why, since) = shown().await;
    assert_eq!((address.as_str(), state, why.as_str()), ("eth7", "Active", "no neighbour heard on eth7"));
    config.local_as = 65009;
    h.configure(config.clone()).await.unwrap().unwrap();
    assert_eq!(shown().await.3, since, "it waits since then");

    let heard = "fe80::1".parse().unwrap();
    h.set_neighbours([("eth7".to_string(), (7, Some(heard)))].into());
    assert_eq!(shown().await.0, "fe80::1");
    h.set_neighbours(crate::dynamic::Neighbours::new());
    let (address, state, ..) = shown().await;
    assert_eq!((address.as_str(), state), ("eth7", "Idle"), "it went with its link");

    config.unnumbered.values_mut().for_each(|p| p.shutdown = Some("maintenance".into()));
    h.configure(config.clone()).await.unwrap().unwrap();
    assert_eq!(shown().await.2, "administratively down: maintenance");
    config.unnumbered.clear();
    h.configure(config).await.unwrap().unwrap();
    assert!(h.peers().await.is_empty());
}
