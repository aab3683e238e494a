//! What RFCs beyond 4271 say about who is told what.

use super::*;
use crate::wire::iana::Role;

/// A RIB whose peers are of these kinds, each changed before it starts.
fn rib_with(kinds: &[Kind], change: impl Fn(PeerIndex, &mut PeerInfo)) -> Rib {
    let mut rib = Rib::new(1);
    for (i, &kind) in kinds.iter().enumerate() {
        let mut info = info(i as u8 + 1, kind);
        info.remote_as = 65000 + if kind == Ebgp { i as u32 + 1 } else { 0 };
        change(i as PeerIndex + 1, &mut info);
        let peer = rib.add_peer(info);
        Family::ALL.into_iter().for_each(|f| rib.start(peer, f));
    }
    rib.originate(vec![]);
    rib
}

fn communities(values: &[u32]) -> (u8, Vec<u8>) {
    (COMMUNITIES, values.iter().flat_map(|v| v.to_be_bytes()).collect())
}

/// RFC 9234 section 5, table by table: our role to the peer, OTC as received, and what then goes where.
#[test]
fn only_to_customer_both_ways() {
    use Role::*;
    let taken = [
        (Provider, None, Some(None)),
        (Provider, Some(7), None),
        (RouteServer, None, Some(None)),
        (RouteServer, Some(7), None),
        (Customer, None, Some(Some(65001))),
        (Customer, Some(7), Some(Some(7))),
        (RouteServerClient, None, Some(Some(65001))),
        (RouteServerClient, Some(7), Some(Some(7))),
        (Peer, None, Some(Some(65001))),
        (Peer, Some(65001), Some(Some(65001))),
        (Peer, Some(7), None),
    ];
    let otc =
        |asn: Option<u32>| asn.map(|a| (ONLY_TO_CUSTOMER, a.to_be_bytes().to_vec())).into_iter().collect::<Vec<_>>();
    for (role, received_otc, want) in taken {
        let mut rib = rib_with(&[Ebgp, Client], |n, info| info.role = (n == 1).then_some(role));
        rib.announce(1, Family::Ipv4, TEN, received(&[65001], &otc(received_otc)));
        let told = told(&mut rib, 2);
        let got = told.announced.first().map(|(_, set)| set.only_to_customer());
        assert_eq!(got, want, "from a peer to which we are {role:?}, with {received_otc:?}");
    }
    let sent = [
        (Provider, None, Some(Some(OWN_AS))),
        (Provider, Some(7), Some(Some(7))),
        (RouteServer, None, Some(Some(OWN_AS))),
        (Peer, None, Some(Some(OWN_AS))),
        (Peer, Some(7), None),
        (Customer, None, Some(None)),
        (Customer, Some(7), None),
        (RouteServerClient, None, Some(None)),
        (RouteServerClient, Some(7), None),
    ];
    for (role, received_otc, want) in sent {
        let mut rib = rib_with(&[Client, Ebgp], |n, info| info.role = (n == 2).then_some(role));
        rib.announce(1, Family::Ipv4, TEN, received(&[65009], &otc(received_otc)));
        let told = told(&mut rib, 2);
        let got = told.announced.first().map(|(_, set)| set.only_to_customer());
        assert_eq!(got, want, "to a peer to which we are {role:?}, with {received_otc:?}");
    }
}

/// RFC 8326: from outside it is the last choice; on the way out we say so ourselves.
#[test]
fn graceful_shutdown_both_ways() {
    let mut rib = rib_with(&[Ebgp, Ebgp, Client, Ebgp], |n, info| info.graceful_shutdown = n > 2);
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], &[communities(&[GRACEFUL_SHUTDOWN])]));
    rib.announce(2, Family::Ipv4, TEN, received(&[65002, 65003], &[communities(&[0x0001_0001])]));
    let inside = told(&mut rib, 3);
    let set = &inside.announced[0].1;
    assert_eq!(set.ases().collect::<Vec<_>>(), [65002, 65003], "the other one is preferred");
    assert_eq!(set.local_pref, Some(0));
    assert_eq!(set.communities().collect::<Vec<_>>(), [0x0001_0001, GRACEFUL_SHUTDOWN]);
    let outside = told(&mut rib, 4);
    assert_eq!(outside.announced[0].1.communities().last(), Some(GRACEFUL_SHUTDOWN));
    rib.withdraw(2, Family::Ipv4, TEN);
    let inside = told(&mut rib, 3);
    assert_eq!(inside.announced[0].1.communities().collect::<Vec<_>>(), [GRACEFUL_SHUTDOWN], "once only");
}

/// RFC 9494.
#[test]
fn long_lived_stale_routes_are_the_last_choice() {
    let mut rib = rib_with(&[Ebgp, Ebgp, Ebgp, Ebgp], |n, info| info.long_lived = n == 3);
    rib.announce(1, Family::Ipv4, &[8, 10, 8, 11], received(&[65001], &[]));
    rib.announce(1, Family::Ipv4, &[8, 12], received(&[65001], &[communities(&[NO_LLGR])]));
    rib.announce(2, Family::Ipv4, &[8, 11], received(&[65002, 65003, 65004], &[]));
    assert_eq!(told(&mut rib, 3).announced.len(), 3);
    assert_eq!(told(&mut rib, 4).announced.len(), 3);
    rib.mark_stale(1, Family::Ipv4);
    assert!(!rib.has_changes());
    rib.mark_long_lived_stale(1, Family::Ipv4);
    let knows = told(&mut rib, 3);
    let paths: Vec<_> =
        knows.announced.iter().map(|(p, s)| (p.to_string(), s.communities().collect::<Vec<_>>())).collect();
    let own = [("10.0.0.0/8".to_string(), vec![LLGR_STALE]), ("11.0.0.0/8".to_string(), vec![])];
    assert_eq!(paths, own, "marked; and where there is another it is used");
    assert_eq!(knows.withdrawn.iter().map(Prefix::to_string).collect::<Vec<_>>(), ["12.0.0.0/8"], "NO_LLGR");
    let does_not = told(&mut rib, 4);
    assert_eq!(does_not.announced.len(), 1);
    let mut gone = does_not.withdrawn.iter().map(Prefix::to_string).collect::<Vec<_>>();
    gone.sort();
    assert_eq!(gone, ["10.0.0.0/8", "12.0.0.0/8"], "section 4.3: not to those without the capability");
    rib.reimport(1);
    assert!(!rib.has_changes(), "the mark stays over a change of policy");
    rib.mark_stale(1, Family::Ipv4);
    rib.reimport(1);
    assert!(!rib.has_changes(), "section 4.2: and over a further restart");
    rib.announce(1, Family::Ipv4, &[8, 10], received(&[65001], &[]));
    assert_eq!(told(&mut rib, 4).announced.len(), 1, "back again");
    rib.remove_paths(1, Family::Ipv4, true);
    assert_eq!((told(&mut rib, 3).withdrawn.len(), rib.counts(1, Family::Ipv4).0), (0, 1));
}

/// RFC 4360 section 6.
#[test]
fn extended_communities_that_are_not_transitive_stay_inside() {
    let mut rib = rib_with(&[Ebgp, Ebgp, Client], |_, _| {});
    let value = [[0, 2, 0, 0, 0, 0, 0, 1], [0x40, 4, 0, 0, 0, 0, 0, 2], [3, 0xc, 0, 0, 0, 0, 0, 3]].concat();
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], &[(EXTENDED_COMMUNITIES, value.clone())]));
    rib.announce(1, Family::Ipv4, &[8, 11], received(&[65001], &[(EXTENDED_COMMUNITIES, value[8..16].to_vec())]));
    let outside = told(&mut rib, 2).announced;
    assert_eq!(outside[0].1.value(EXTENDED_COMMUNITIES), [&value[..8], &value[16..]].concat());
    assert_eq!(outside[1].1.value(EXTENDED_COMMUNITIES), [0_u8; 0]);
    assert!(outside[1].1.iter().all(|a| a.kind != EXTENDED_COMMUNITIES), "none left, no attribute");
    assert_eq!(told(&mut rib, 3).announced[0].1.value(EXTENDED_COMMUNITIES), value);
}

/// RFC 8212, RFC 9774; and what a limit on prefixes counts.
#[test]
fn what_is_refused_is_received_but_not_accepted() {
    let set = || {
        let mut set = received(&[], &[]);
        set.set(TRANSITIVE, AS_PATH, &[2, 1, 0, 0, 0xfd, 0xe9, 1, 1, 0, 0, 0xfd, 0xea]);
        set
    };
    type Change = fn(&mut PeerInfo);
    let rows: [(&str, Kind, Change, Attributes, bool); 7] = [
        ("nothing asked", Ebgp, |_| {}, set(), true),
        ("AS_SET refused", Ebgp, |i| i.rejects_as_sets = true, set(), false),
        ("no AS_SET", Ebgp, |i| i.rejects_as_sets = true, received(&[65001], &[]), true),
        ("eBGP without policy", Ebgp, |i| i.requires_policy = true, received(&[65001], &[]), false),
        ("iBGP needs none", Ibgp, |i| i.requires_policy = true, received(&[65001], &[]), true),
        (
            "eBGP with policy",
            Ebgp,
            |i| (i.requires_policy, i.import.rules) = (true, vec![crate::policy::Rule::default()]),
            received(&[65001], &[]),
            true,
        ),
        ("our own AS", Ebgp, |_| {}, received(&[65001, OWN_AS], &[]), false),
    ];
    for (name, kind, change, set, is_accepted) in rows {
        let mut rib = rib_with(&[kind, Ebgp], |n, info| {
            if n == 1 {
                change(info)
            }
        });
        rib.announce(1, Family::Ipv4, &[8, 10, 8, 11], set);
        assert_eq!(told(&mut rib, 2).announced.len(), if is_accepted { 2 } else { 0 }, "{name}");
        let accepted = |rib: &Rib| (rib.counts(1, Family::Ipv4).0, rib.accepted(1, Family::Ipv4));
        assert_eq!(accepted(&rib), (2, if is_accepted { 2 } else { 0 }), "{name}");
        rib.announce(1, Family::Ipv4, TEN, received(&[OWN_AS], &[]));
        assert_eq!(accepted(&rib), (2, u32::from(is_accepted)), "{name}");
        rib.withdraw(1, Family::Ipv4, &[8, 10, 8, 11]);
        assert_eq!(accepted(&rib), (0, 0), "{name}");
    }
    let mut rib = rib_with(&[Client, Ebgp], |_, info| info.requires_policy = true);
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], &[]));
    rib.originate(vec![own_route("11.0.0.0", 8)]);
    assert!(told(&mut rib, 2).announced.is_empty(), "RFC 8212: nothing goes out either");
}

/// RFC 4271 section 6.3.
#[test]
fn multicast_prefixes_are_ignored() {
    let v4: &[u8] = &[4, 0xe0, 8, 239, 32, 224, 0, 0, 1, 3, 0xe0, 4, 0xf0, 0];
    let v6: &[u8] = &[8, 0xff, 16, 0xff, 2, 7, 0xfe, 10, 0xfe, 0x80, 0];
    for (family, list, want) in [
        (Family::Ipv4, v4, ["0.0.0.0/0", "224.0.0.0/3", "240.0.0.0/4"]),
        (Family::Ipv6, v6, ["::/0", "fe00::/7", "fe80::/10"]),
    ] {
        let mut rib = rib_with(&[Ebgp, Client], |_, info| info.export.other_address = "2001:db8::99".parse().ok());
        let next_hop = match family {
            Family::Ipv4 => [192, 0, 2, 200].into(),
            Family::Ipv6 => "2001:db8::1".parse().unwrap(),
        };
        rib.announce(1, family, list, Attributes { next_hop, ..received(&[65001], &[]) });
        assert_eq!(rib.counts(1, family).0, 3);
        let mut found: Vec<String> = told(&mut rib, 2).announced.iter().map(|(p, _)| p.to_string()).collect();
        found.sort();
        assert_eq!(found, want);
    }
}

/// RFC 8950 and RFC 2545: next hops of the other family, and on the link.
#[test]
fn next_hops_follow_what_the_session_can_carry() {
    let v4: IpAddr = [192, 0, 2, 99].into();
    let v6: IpAddr = "2001:db8::99".parse().unwrap();
    let link_local: std::net::Ipv6Addr = "fe80::99".parse().unwrap();
    type Row = (&'static str, Family, fn(&mut PeerInfo), Option<(IpAddr, bool)>);
    let rows: [Row; 7] = [
        ("own IPv6 route over IPv4, no address", Family::Ipv6, |_| {}, None),
        (
            "own IPv6 route over IPv4, with one",
            Family::Ipv6,
            |i| i.export.other_address = "2001:db8::99".parse().ok(),
            Some((v6, false)),
        ),
        ("own IPv4 route over IPv4", Family::Ipv4, |_| {}, Some((v4, false))),
        (
            "own IPv4 route over IPv6, not negotiated",
            Family::Ipv4,
            |i| i.export.local_address = "2001:db8::99".parse().unwrap(),
            None,
        ),
        (
            "own IPv4 route over IPv6, negotiated",
            Family::Ipv4,
            |i| {
                i.export.local_address = "2001:db8::99".parse().unwrap();
                i.extended_next_hop = true;
            },
            Some((v6, false)),
        ),
        (
            "the same on a link",
            Family::Ipv4,
            |i| {
                i.export.local_address = "2001:db8::99".parse().unwrap();
                i.export.link_local_next_hop = "fe80::99".parse().ok();
                i.extended_next_hop = true;
            },
            Some((v6, true)),
        ),
        (
            "own IPv6 route on a link",
            Family::Ipv6,
            |i| {
                i.export.local_address = "2001:db8::99".parse().unwrap();
                i.export.link_local_next_hop = "fe80::99".parse().ok();
            },
            Some((v6, true)),
        ),
    ];
    for (name, family, change, want) in rows {
        let mut rib = rib_with(&[Ebgp], |_, info| change(info));
        rib.originate(vec![match family {
            Family::Ipv4 => own_route("10.0.0.0", 8),
            Family::Ipv6 => own_route("2001:db8:1::", 48),
        }]);
        let told = told(&mut rib, 1);
        let got = told.announced.first().map(|(_, set)| (set.next_hop, set.link_local == Some(link_local)));
        assert_eq!(got, want, "{name}");
    }
    // A link-local next hop is good on one link only: from there on the route goes through us, or not at all.
    for (own, want) in [(v6, Some(v6)), (v4, None)] {
        let mut rib = rib_with(&[Ebgp, Client], |_, info| info.export.local_address = own);
        let next_hop = IpAddr::from(link_local);
        let set = Attributes { next_hop, ..received(&[65001], &[]) };
        rib.announce(1, Family::Ipv6, &[32, 0x20, 1, 0xd, 0xb8], set);
        let told = told(&mut rib, 2);
        assert_eq!(told.announced.first().map(|(_, set)| set.next_hop), want, "a link-local next hop, from {own}");
    }
    // A learned IPv4 route with an IPv6 next hop goes on as it is where that was negotiated, else through us.
    for (extended_next_hop, want) in [(true, v6), (false, v4)] {
        let mut rib = rib_with(&[Client, Client], |_, info| info.extended_next_hop = extended_next_hop);
        rib.announce(1, Family::Ipv4, TEN, Attributes { next_hop: v6, ..received(&[65001], &[]) });
        assert_eq!(told(&mut rib, 2).announced[0].1.next_hop, want);
    }
}

/// RFC 8654.
#[test]
fn large_sets_go_to_peers_with_extended_messages() {
    for extended in [true, false] {
        let mut rib = rib_with(&[Ebgp, Client], |_, info| info.extended_messages = extended);
        rib.announce(1, Family::Ipv4, TEN, received(&[65001], &[(200, vec![1; 9000])]));
        rib.announce(1, Family::Ipv4, &hosts(Family::Ipv4, 2000), received(&[65001], &[]));
        let told = told(&mut rib, 2);
        assert_eq!(told.announced.len(), if extended { 2001 } else { 2000 });
        assert_eq!(told.sizes.iter().any(|&s| s > MAX_MESSAGE_LEN), extended);
        assert_eq!(told.sizes.len(), if extended { 4 } else { 5 }, "as many prefixes as fit: {:?}", told.sizes);
    }
}

/// RFC 4724 section 4.1.
#[test]
fn nothing_is_told_while_a_family_is_held() {
    let mut rib = rib_with(&[Ebgp, Ebgp], |_, _| {});
    rib.hold(Family::Ipv4);
    rib.announce(1, Family::Ipv4, TEN, received(&[65001], &[]));
    let held = told(&mut rib, 2);
    assert_eq!((held.announced.len(), held.end_of_rib), (0, vec![Family::Ipv6]));
    rib.release(Family::Ipv4);
    let released = told(&mut rib, 2);
    assert_eq!((released.announced.len(), released.end_of_rib), (1, vec![Family::Ipv4]));
}

/// RFC 4271 section 5.1.3: who is the next hop is not told, as long as it is known who that is.
#[test]
fn a_route_does_not_go_to_its_next_hop() {
    let mut rib = rib(&[Client, Client]);
    let start = |rib: &mut Rib, n: u8, address: u8| {
        let peer = rib.add_peer(PeerInfo { address: [192, 0, 2, address].into(), ..info(n, Client) });
        rib.start(peer, Family::Ipv4);
        peer
    };
    let third = Attributes { next_hop: [192, 0, 2, 3].into(), ..received(&[65009], &[]) };
    rib.announce(1, Family::Ipv4, TEN, third.clone());
    assert_eq!(told(&mut rib, 2).announced.len(), 1, "it is of no concern to anybody else");
    assert_eq!(start(&mut rib, 3, 3), 3);
    assert!(told(&mut rib, 3).announced.is_empty(), "the one that was added later");
    assert_eq!(rib.counts(3, Family::Ipv4).1, 0);
    let ten = Prefix::new([10, 0, 0, 0].into(), 8).unwrap();
    let hearer = rib.explain(ten).unwrap().peers.pop().unwrap();
    assert_eq!((hearer.told, hearer.why.contains("section 5.1.3")), (None, true), "{}", hearer.why);
    // What it has goes when the best path becomes one through itself, and comes when it is another.
    rib.announce(2, Family::Ipv4, TEN, Attributes { local_pref: Some(900), ..received(&[65009], &[]) });
    assert_eq!(told(&mut rib, 3).announced.len(), 1);
    rib.withdraw(2, Family::Ipv4, TEN);
    assert_eq!(told(&mut rib, 3).withdrawn, [ten]);
    // Two peers that share an address are told, and each turns it down.
    assert_eq!(start(&mut rib, 4, 3), 4);
    assert_eq!([told(&mut rib, 3).withdrawn, told(&mut rib, 4).withdrawn], [[ten], [ten]]);
    rib.remove_peer(4);
    assert_eq!(told(&mut rib, 3).withdrawn, [ten]);
    // The number of a peer that is gone says nothing about the next one that has it.
    rib.remove_peer(3);
    assert_eq!(start(&mut rib, 3, 33), 3);
    assert_eq!(told(&mut rib, 3).announced.len(), 1);
    assert_eq!(rib.counts(3, Family::Ipv4).1, 1);
}

/// A peer that announces ever new path identifiers, or next hops, and withdraws them costs no memory for those that are gone.
#[test]
fn what_a_path_needed_goes_with_it() {
    let mut rib = rib_with(&[Client, Client, Client], |n, info| {
        info.add_path_receive = [n == 1; 2];
        info.add_path_send = [n == 3; 2];
    });
    rib.announce(2, Family::Ipv4, TEN, received(&[65009], &[]));
    for id in 1..20_000_u32 {
        let list = [&id.to_be_bytes(), TEN].concat();
        let next_hop = Ipv4Addr::from(0x0b00_0000 + id).into();
        rib.announce(1, Family::Ipv4, &list, Attributes { next_hop, ..received(&[65009], &[]) });
        told(&mut rib, 3);
        rib.withdraw(1, Family::Ipv4, &list);
        told(&mut rib, 3);
        rib.make_room();
        assert!(rib.out[0].paths.of_entry(0).len() <= 1500, "{} paths are kept", rib.out[0].paths.of_entry(0).len());
        assert!(rib.shared.next_hops.len() <= 5000, "{} next hops are kept", rib.shared.next_hops.len());
    }
    rib.reap();
    assert_eq!(rib.out[0].paths.of_entry(0).len(), 1);
    assert_eq!(rib.counts(3, Family::Ipv4).1, 1);
}

/// RFC 4456 section 6, when who is a client changes while the sessions stay.
#[test]
fn a_peer_that_becomes_a_client_is_heard_by_all() {
    let mut rib = rib(&[Ibgp, Ibgp]);
    rib.announce(1, Family::Ipv4, TEN, received(&[], &[]));
    assert!(told(&mut rib, 2).announced.is_empty());
    let ten = Prefix::new([10, 0, 0, 0].into(), 8).unwrap();
    for (is_client, announced, withdrawn) in [(true, 1, &[][..]), (false, 0, &[ten])] {
        rib.peer_mut(1).unwrap().rr_client = is_client;
        rib.regroup(1);
        rib.redistribute(1);
        let told = told(&mut rib, 2);
        assert_eq!((told.announced.len(), &told.withdrawn[..]), (announced, withdrawn), "client: {is_client}");
        assert_eq!(rib.counts(2, Family::Ipv4).1, announced as u32);
    }
}

/// RFC 7313 section 4: who has heard BoRR hears EoRR, whatever else is asked for in between.
#[test]
fn a_refresh_that_was_begun_is_ended() {
    let mut rib = rib(&[Client, Client]);
    for n in 0..40 {
        rib.announce(1, Family::Ipv4, &[16, 10, n], Attributes { med: Some(n.into()), ..received(&[65009], &[]) });
    }
    told(&mut rib, 2);
    rib.out[0].limits.chunk_items = 1;
    rib.refresh(2, Family::Ipv4, true);
    let mut begun = Vec::new();
    rib.write_updates(2, &mut begun, 1);
    assert_eq!(heard(&rib, 2, &begun).refresh_marks, [1]);
    rib.refresh(2, Family::Ipv4, false);
    assert_eq!(told(&mut rib, 2).refresh_marks, [2]);
}

/// What is waiting to be withdrawn is in no view.
#[test]
fn a_path_that_import_turned_down_since_is_not_advertised() {
    let mut rib = rib_with(&[Client, Client], |n, info| info.add_path_send = [n == 2; 2]);
    rib.announce(1, Family::Ipv4, TEN, received(&[65009], &[]));
    assert_eq!(told(&mut rib, 2).announced.len(), 1);
    let shown = |rib: &mut Rib| rib.advertised(2, &RouteFilter::default(), Cursor::START, 99).0.len();
    assert_eq!(shown(&mut rib), 1);
    rib.announce(1, Family::Ipv4, TEN, received(&[OWN_AS], &[]));
    assert_eq!(shown(&mut rib), 0);
    rib.distribute();
    assert_eq!(shown(&mut rib), 0);
}

/// The time of a decision grows with the paths of a prefix, and that of numbering them too.
#[test]
fn many_paths_of_one_prefix() {
    let mut rib = rib_with(&[Client, Client], |n, info| {
        info.add_path_receive = [n == 1; 2];
        info.add_path_send = [n == 2; 2];
    });
    let ids = 1..=3000_u32;
    let list: Vec<u8> = ids.clone().flat_map(|id| [&id.to_be_bytes(), TEN].concat()).collect();
    rib.announce(1, Family::Ipv4, &list, received(&[65009], &[]));
    let told = told(&mut rib, 2);
    let sent: std::collections::BTreeSet<u32> = told.announced_ids.iter().copied().collect();
    assert_eq!(sent, ids.collect(), "the lowest identifiers, each once");
}
