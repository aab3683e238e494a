//! What is said of paths and of peers, against what the RIB does.

use super::*;
use crate::policy::{Community, Operation, Rule};
use crate::rib::PeerInfo;
use crate::wire::iana::{AS_PATH, TRANSITIVE};

const TEN: &[u8] = &[8, 10];

/// Peers 1 and 2 are eBGP, 3 and 4 iBGP; peer `n` is 192.0.2.n in AS 65000 + n with identifier 10.0.0.n.
fn rib(change: impl Fn(PeerIndex, &mut PeerInfo)) -> Rib {
    let mut rib = Rib::new(1);
    for n in 1..=4_u16 {
        let mut info = PeerInfo::new([192, 0, 2, n as u8].into(), 65000, [10, 0, 0, 99].into());
        info.router_id = [10, 0, 0, n as u8].into();
        info.is_ebgp = n <= 2;
        info.remote_as = if info.is_ebgp { 65000 + u32::from(n) } else { 65000 };
        info.export.next_hop_self = info.is_ebgp;
        info.export.local_address = [192, 0, 2, 99].into();
        change(n, &mut info);
        let peer = rib.add_peer(info);
        rib.start(peer, Family::Ipv4);
    }
    rib.originate(vec![]);
    rib
}

fn received(ases: &[u32], hop: u8, local_pref: u32) -> Attributes {
    let mut set = Attributes::originated(local_pref, &[], &[]);
    set.next_hop = [192, 0, 2, hop].into();
    let mut path = Vec::new();
    crate::wire::as_path::prepend_path(&mut path, ases, &[]);
    set.set(TRANSITIVE, AS_PATH, &path);
    set
}

fn settle(rib: &mut Rib) {
    rib.distribute();
    (1..=4).for_each(|p| rib.write_updates(p, &mut Vec::new(), usize::MAX));
}

fn ten() -> Prefix {
    Prefix::new([10, 1, 2, 3].into(), 32).unwrap()
}

fn said(e: &Explanation) -> Vec<(String, Fate, String)> {
    let peer = |p: &PathFate| p.peer.map_or("self".into(), |a| a.to_string());
    e.paths.iter().map(|p| (peer(p), p.fate, p.why.clone())).collect()
}

#[test]
fn every_path_is_told_at_which_step_it_lost() {
    let mut rib = rib(|_, _| {});
    rib.set_resolver(Box::new(|hop| (hop != IpAddr::from([192, 0, 2, 66])).then_some(0)));
    rib.announce(1, Family::Ipv4, TEN, received(&[65001, 65009], 1, 100));
    rib.announce(2, Family::Ipv4, TEN, received(&[65002], 2, 100));
    rib.announce(3, Family::Ipv4, TEN, received(&[65002], 3, 100));
    rib.announce(4, Family::Ipv4, TEN, received(&[65002], 66, 100));
    settle(&mut rib);
    let e = rib.explain(ten()).unwrap();
    assert_eq!(e.prefix.to_string(), "10.0.0.0/8", "the longest prefix around an address");
    let want = [
        ("192.0.2.2", Fate::Best, "the best"),
        ("192.0.2.1", Fate::Lost(Step::AsPathLength), "AS_PATH of 2 is longer than 1"),
        ("192.0.2.3", Fate::Lost(Step::Ebgp), "iBGP goes behind eBGP"),
        ("192.0.2.4", Fate::Unusable, "its next hop cannot be reached (RFC 4271 section 9.1.2)"),
    ];
    assert_eq!(said(&e), want.map(|(p, f, w)| (p.to_string(), f, w.to_string())));
    assert!(rib.explain(Prefix::new([11, 0, 0, 0].into(), 8).unwrap()).is_none());
}

#[test]
fn the_rule_that_changed_or_rejected_a_path_is_named() {
    let mut rib = rib(|n, info| {
        let operations = vec![Operation::AddCommunity(Community::Standard(7))];
        info.import.rules = match n {
            1 => vec![Rule { name: "BGPFilter a, importV4[0]".into(), operations, ..Rule::default() }],
            2 => vec![Rule { name: "BGPFilter b, importV4[1]".into(), action: Action::Reject, ..Rule::default() }],
            _ => vec![],
        };
    });
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], 1, 100));
    rib.announce(2, Family::Ipv4, TEN, received(&[65002], 2, 100));
    rib.announce(3, Family::Ipv4, TEN, received(&[65000], 3, 100));
    settle(&mut rib);
    let e = rib.explain(ten()).unwrap();
    let imports: Vec<(Option<IpAddr>, &str)> = e.paths.iter().map(|p| (p.peer, p.import.as_str())).collect();
    assert_eq!(imports[0].1, "changed by BGPFilter a, importV4[0]");
    assert_eq!(imports[1].1, "rejected by BGPFilter b, importV4[1]");
    assert_eq!(imports[2].1, "turned down: our own AS is in its path (RFC 4271 section 9)");
    assert!(e.paths[1].used.is_none() && e.paths[1].fate == Fate::Unusable);
}

#[test]
fn every_peer_is_told_or_it_is_said_why_not() {
    let mut rib = rib(|n, info| {
        if n == 2 {
            info.export.policy.rules =
                vec![Rule { name: "BGPFilter x, exportV4[3]".into(), action: Action::Reject, ..Rule::default() }];
        }
    });
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], 1, 100));
    settle(&mut rib);
    let e = rib.explain(ten()).unwrap();
    let why: Vec<(String, bool, &str)> =
        e.peers.iter().map(|h| (h.peer.to_string(), h.told.is_some(), h.why.as_str())).collect();
    assert_eq!(
        why,
        [
            ("192.0.2.1".to_string(), false, "the best path is its own"),
            ("192.0.2.2".to_string(), false, "rejected by BGPFilter x, exportV4[3]"),
            ("192.0.2.3".to_string(), true, ""),
            ("192.0.2.4".to_string(), true, ""),
        ]
    );
    let told = e.peers[2].told.as_ref().unwrap();
    assert_eq!((told.next_hop, told.local_pref), ([192, 0, 2, 1].into(), Some(100)), "as it is sent");
}

#[test]
fn an_ibgp_path_goes_to_no_ibgp_peer() {
    let mut rib = rib(|_, _| {});
    rib.announce(3, Family::Ipv4, TEN, received(&[65009], 3, 100));
    settle(&mut rib);
    let e = rib.explain(ten()).unwrap();
    assert!(e.peers[0].told.as_ref().is_some_and(|a| a.ases().eq([65000, 65009])), "our AS in front: {:?}", e.peers[0]);
    assert!(e.peers[3].told.is_none() && e.peers[3].why.contains("RFC 4456"), "{:?}", e.peers[3]);
    let filter = crate::rib::RouteFilter::default();
    let (routes, _) = rib.advertised(1, &filter, crate::rib::Cursor::START, 10);
    assert!(routes[0].attributes.ases().eq([65000, 65009]), "advertised routes are shown as they are sent");
    assert_eq!(routes[0].attributes.next_hop, IpAddr::from([192, 0, 2, 99]));
}

/// Calico's default rejects what is learned; of our own routes the export rules have said already what becomes of them.
#[test]
fn our_own_routes_are_told_by_their_own_rule() {
    let mut rib = rib(|n, info| {
        info.export.policy.default = Action::Reject;
        if n == 2 {
            info.export.policy.rules = vec![Rule { name: "BGPFilter x, exportV4[0]".into(), ..Rule::default() }];
        }
    });
    for (export, rule, peers) in [
        (
            true,
            "a block of this node",
            [(true, "a block of this node"), (true, "accepted by BGPFilter x, exportV4[0]")],
        ),
        (
            false,
            "its pool has disableBGPExport",
            [(false, "not announced: its pool has disableBGPExport"), (true, "accepted by BGPFilter x, exportV4[0]")],
        ),
    ] {
        let prefix = Prefix::new([10, 0, 0, 0].into(), 8).unwrap();
        rib.originate(vec![Origin { prefix, communities: vec![], interface: None, priority: None, export, rule }]);
        settle(&mut rib);
        let e = rib.explain(ten()).unwrap();
        let said: Vec<(bool, &str)> = e.peers[..2].iter().map(|h| (h.told.is_some(), h.why.as_str())).collect();
        assert_eq!(said, peers);
    }
}
