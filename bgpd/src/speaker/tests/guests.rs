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
        let peers = h.peers().await;
        let shown: Vec<_> = peers.iter().map(|p| (p.address, p.remote_as, p.peer_type, p.name.as_str())).collect();
        let row = |n: u8| (address(n), 65000 + u32::from(n), PeerType::Dynamic, "Range_rack");
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
