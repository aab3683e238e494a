//! What goes in from peers and what goes out to others, as octets.

use super::*;
use crate::policy::Action;
use crate::wire::attribute::{self, Context};
use crate::wire::iana::*;
use crate::wire::update::Update;
use crate::wire::{MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, MessageType, frame};

mod groups;
mod rules;

const OWN_AS: u32 = 65000;
const OWN_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ebgp,
    Ibgp,
    Client,
}
use Kind::{Client, Ebgp, Ibgp};

fn accept() -> Policy {
    Policy { default: Action::Accept, ..Policy::default() }
}

/// Peer `n` is 192.0.2.n with identifier 10.0.0.n; we are 192.0.2.99 on each session.
fn info(n: u8, kind: Kind) -> PeerInfo {
    let export = ExportConfig::new([192, 0, 2, 99].into());
    PeerInfo {
        router_id: [10, 0, 0, n].into(),
        is_ebgp: kind == Ebgp,
        rr_client: kind == Client,
        cluster_id: Some(CLUSTER),
        import: accept(),
        export: ExportConfig { policy: accept(), next_hop_self: kind == Ebgp, ..export },
        ..PeerInfo::new([192, 0, 2, n].into(), OWN_AS, OWN_ID)
    }
}

/// A RIB whose peers 1, 2, ... are of these kinds, all up.
fn rib(kinds: &[Kind]) -> Rib {
    let mut rib = Rib::new(1);
    for (i, &kind) in kinds.iter().enumerate() {
        let peer = rib.add_peer(info(i as u8 + 1, kind));
        Family::ALL.into_iter().for_each(|f| rib.start(peer, f));
    }
    rib.originate(vec![]);
    rib
}

fn path(ases: &[u32]) -> Vec<u8> {
    let mut value = Vec::new();
    attribute::prepend_path(&mut value, ases, &[]);
    value
}

/// As received with next hop 192.0.2.200 and an AS_PATH.
fn received(ases: &[u32], more: &[(u8, Vec<u8>)]) -> Attributes {
    let mut set = Attributes::originated(200, &[], &[]);
    set.next_hop = [192, 0, 2, 200].into();
    set.set(TRANSITIVE, AS_PATH, &path(ases));
    more.iter().for_each(|(kind, value)| set.set(OPTIONAL | TRANSITIVE, *kind, value));
    set
}

const TEN: &[u8] = &[8, 10];

/// What a peer was told since the last time: the sizes of the messages, prefixes announced (the last word counts) and gone.
#[derive(Default)]
struct Told {
    sizes: Vec<usize>,
    announced: Vec<(Prefix, Attributes)>,
    withdrawn: Vec<Prefix>,
    /// Path identifiers of the two, in the same order.
    announced_ids: Vec<u32>,
    withdrawn_ids: Vec<u32>,
    end_of_rib: Vec<Family>,
    /// RFC 7313: 1 begins, 2 ends.
    refresh_marks: Vec<u8>,
}

fn keys(family: Family, add_path: bool, list: &[u8]) -> Vec<(u32, Prefix)> {
    match family {
        Family::Ipv4 => paths::<V4>(list, add_path).map(|(id, k)| (id, k.prefix())).collect(),
        Family::Ipv6 => paths::<V6>(list, add_path).map(|(id, k)| (id, k.prefix())).collect(),
    }
}

fn told(rib: &mut Rib, peer: PeerIndex) -> Told {
    rib.distribute();
    let mut out = Vec::new();
    for _ in 0..1000 {
        if !rib.has_output(peer) {
            break;
        }
        rib.write_updates(peer, &mut out, usize::MAX);
    }
    assert!(!rib.has_output(peer), "writing comes to an end");
    heard(rib, peer, &out)
}

/// What a peer makes of octets.
fn heard(rib: &Rib, peer: PeerIndex, out: &[u8]) -> Told {
    let info = rib.peer(peer).unwrap();
    let cx = Context {
        four_octet_as: info.export.four_octet_as,
        ibgp: !info.is_ebgp,
        ipv4: true,
        ipv6: true,
        add_path_receive: info.add_path_send,
        extended_next_hop: info.extended_next_hop,
        extended_messages: info.extended_messages,
        local_address: info.address,
        first_as: None,
    };
    let mut told = Told::default();
    let mut rest = out;
    while let Some(message) = frame(rest, MAX_EXTENDED_MESSAGE_LEN).expect("we write what we can read") {
        if message.kind == MessageType::RouteRefresh {
            told.refresh_marks.push(message.body[2]);
            rest = &rest[message.len..];
            continue;
        }
        assert_eq!(message.kind, MessageType::Update);
        let update = Update::read(&cx, message.body).expect("we write what we can read");
        assert!(update.errors.is_empty(), "{:?}", update.errors);
        told.sizes.push(message.len);
        for (family, list, attributes) in update.announced {
            for (id, prefix) in keys(family, info.add_path_send[family as usize], list) {
                told.announced.push((prefix, attributes.clone()));
                told.announced_ids.push(id);
            }
        }
        for (family, list) in update.withdrawn {
            for (id, prefix) in keys(family, info.add_path_send[family as usize], list) {
                told.withdrawn.push(prefix);
                told.withdrawn_ids.push(id);
            }
        }
        told.end_of_rib.extend(update.end_of_rib);
        rest = &rest[message.len..];
    }
    assert!(rest.is_empty());
    told
}

/// RFC 4271 section 9.2 and RFC 4456 section 6: who is told what whom announced.
#[test]
fn a_route_passes_between_these_kinds_of_peers() {
    let rows = [
        (Ebgp, Ebgp, true),
        (Ebgp, Ibgp, true),
        (Ebgp, Client, true),
        (Ibgp, Ebgp, true),
        (Ibgp, Ibgp, false),
        (Ibgp, Client, true),
        (Client, Ebgp, true),
        (Client, Ibgp, true),
        (Client, Client, true),
    ];
    for (from, to, passes) in rows {
        let mut rib = rib(&[from, to]);
        rib.announce(1, Family::Ipv4, TEN, received(&[65009], &[]));
        assert_eq!(told(&mut rib, 2).announced.len(), usize::from(passes), "{from:?} to {to:?}");
        assert!(told(&mut rib, 1).announced.is_empty(), "never back to the peer it is from");
    }
}

/// RFC 4271 sections 5.1.2 to 5.1.5 and RFC 4456 section 8: the attributes that the kinds of peers see.
#[test]
fn attributes_as_each_kind_of_peer_is_told() {
    struct Row {
        name: &'static str,
        from: Kind,
        to: Kind,
        path: &'static [u32],
        next_hop: u8,
        local_pref: Option<u32>,
        med: Option<u32>,
        originator: Option<u8>,
        clusters: &'static [u32],
    }
    const OWN_CLUSTER: u32 = 0x0101_0101;
    let rows = [
        Row {
            name: "eBGP to eBGP: our AS in front, next hop self, neither MED nor LOCAL_PREF",
            from: Ebgp,
            to: Ebgp,
            path: &[OWN_AS, 65009],
            next_hop: 99,
            local_pref: None,
            med: None,
            originator: None,
            clusters: &[],
        },
        Row {
            name: "eBGP to iBGP: as it is, with LOCAL_PREF",
            from: Ebgp,
            to: Ibgp,
            path: &[65009],
            next_hop: 200,
            local_pref: Some(200),
            med: Some(7),
            originator: None,
            clusters: &[],
        },
        Row {
            name: "reflected: as it is, with ORIGINATOR_ID and CLUSTER_LIST",
            from: Client,
            to: Ibgp,
            path: &[65009],
            next_hop: 200,
            local_pref: Some(200),
            med: Some(7),
            originator: Some(1),
            clusters: &[OWN_CLUSTER],
        },
        Row {
            name: "iBGP to eBGP: what is for inside stays inside",
            from: Client,
            to: Ebgp,
            path: &[OWN_AS, 65009],
            next_hop: 99,
            local_pref: None,
            med: None,
            originator: None,
            clusters: &[],
        },
    ];
    for row in rows {
        let mut rib = rib(&[row.from, row.to]);
        let mut set = received(&[65009], &[]);
        set.med = Some(7);
        rib.announce(1, Family::Ipv4, TEN, set);
        let told = told(&mut rib, 2);
        let set = &told.announced[0].1;
        assert_eq!(set.ases().collect::<Vec<_>>(), row.path, "{}", row.name);
        assert_eq!(set.next_hop, IpAddr::from([192, 0, 2, row.next_hop]), "{}", row.name);
        assert_eq!(set.local_pref, row.local_pref, "{}", row.name);
        assert_eq!(set.med, row.med, "{}", row.name);
        assert_eq!(set.originator_id(), row.originator.map(|n| [10, 0, 0, n].into()), "{}", row.name);
        assert_eq!(set.cluster_list().collect::<Vec<_>>(), row.clusters, "{}", row.name);
    }
    let mut rib = rib(&[Client, Client]);
    let (originator, cluster) = (vec![10, 0, 0, 77], vec![2, 2, 2, 2]);
    rib.announce(1, Family::Ipv4, TEN, received(&[], &[(ORIGINATOR_ID, originator), (CLUSTER_LIST, cluster)]));
    let told = told(&mut rib, 2);
    let set = &told.announced[0].1;
    assert_eq!(set.originator_id(), Some([10, 0, 0, 77].into()), "the first reflector's word stays");
    assert_eq!(set.cluster_list().collect::<Vec<_>>(), [OWN_CLUSTER, 0x0202_0202], "we put ours in front");
}

#[test]
fn the_next_hop_follows_mode_and_origin() {
    let own: IpAddr = [192, 0, 2, 99].into();
    let learned: IpAddr = [192, 0, 2, 200].into();
    let rows = [
        ("eBGP: self", Ebgp, true, false, own),
        ("eBGP, nextHopMode Keep", Ebgp, false, false, learned),
        ("iBGP: unchanged", Ibgp, false, false, learned),
        ("iBGP, nextHopMode Self", Ibgp, true, false, own),
        ("a route of our own, whatever the mode", Ibgp, false, true, own),
    ];
    for (name, to, next_hop_self, is_own, want) in rows {
        let mut rib = rib(&[Ebgp, to]);
        rib.peer_mut(2).unwrap().export.next_hop_self = next_hop_self;
        rib.regroup(2);
        match is_own {
            true => rib.originate(vec![own_route("10.0.0.0", 8)]),
            false => rib.announce(1, Family::Ipv4, TEN, received(&[65009], &[])),
        }
        assert_eq!(told(&mut rib, 2).announced[0].1.next_hop, want, "{name}");
    }
}

fn own_route(address: &str, len: u8) -> Origin {
    let prefix = Prefix::new(address.parse().unwrap(), len).unwrap();
    Origin { prefix, communities: vec![], interface: None, priority: None, export: true, rule: "" }
}

#[test]
fn a_route_of_our_own_needs_an_address_of_its_family() {
    let mut rib = rib(&[Ebgp, Ebgp]);
    rib.peer_mut(2).unwrap().export.local_address = "2001:db8::99".parse().unwrap();
    rib.regroup(2);
    rib.originate(vec![own_route("10.0.0.0", 8), own_route("2001:db8:1::", 48)]);
    let families = |told: Told| told.announced.iter().map(|(p, _)| p.family()).collect::<Vec<_>>();
    assert_eq!(families(told(&mut rib, 1)), [Family::Ipv4]);
    assert_eq!(families(told(&mut rib, 2)), [Family::Ipv6]);
}

/// RFC 4271 section 9 and RFC 4456 section 8. A loop replaces what the peer had said before.
#[test]
fn loops_are_not_used_and_replace_what_was_there() {
    let id = |a: Ipv4Addr| a.octets().to_vec();
    let rows: [(&str, Kind, u8, Attributes, bool); 8] = [
        ("no loop", Ebgp, 0, received(&[65009], &[]), true),
        ("our AS in the path", Ebgp, 0, received(&[65009, OWN_AS], &[]), false),
        ("our AS once, allowed once", Ebgp, 1, received(&[65009, OWN_AS], &[]), true),
        ("our AS twice, allowed once", Ebgp, 1, received(&[65009, OWN_AS, OWN_AS], &[]), false),
        ("our AS from inside", Ibgp, 0, received(&[OWN_AS], &[]), false),
        ("our identifier as ORIGINATOR_ID", Ibgp, 0, received(&[], &[(ORIGINATOR_ID, id(OWN_ID))]), false),
        ("our cluster in CLUSTER_LIST", Client, 0, received(&[], &[(CLUSTER_LIST, id(CLUSTER))]), false),
        ("another cluster", Client, 0, received(&[], &[(CLUSTER_LIST, id([2, 2, 2, 2].into()))]), true),
    ];
    for (name, from, allow_own_as, set, is_used) in rows {
        let mut rib = rib(&[from, Ebgp]);
        rib.peer_mut(1).unwrap().allow_own_as = allow_own_as;
        rib.announce(1, Family::Ipv4, TEN, received(&[65008], &[]));
        assert_eq!(told(&mut rib, 2).announced.len(), 1);
        rib.announce(1, Family::Ipv4, TEN, set);
        let told = told(&mut rib, 2);
        assert_eq!((told.announced.len(), told.withdrawn.len()), if is_used { (1, 0) } else { (0, 1) }, "{name}");
        assert_eq!(rib.counts(1, Family::Ipv4).0, 1, "{name}: it is in the Adj-RIB-In all the same");
    }
}

/// RFC 1997.
#[test]
fn well_known_communities_keep_a_route_here() {
    let rows = [
        ("none", 0x0001_0001, true, true),
        ("NO_EXPORT", NO_EXPORT, false, true),
        ("NO_EXPORT_SUBCONFED", NO_EXPORT_SUBCONFED, false, true),
        ("NO_ADVERTISE", NO_ADVERTISE, false, false),
        ("BLACKHOLE (RFC 7999 section 3.2)", BLACKHOLE, false, true),
        ("NO_PEER is an operator's to obey (RFC 3765)", NO_PEER, true, true),
    ];
    for (name, community, to_ebgp, to_client) in rows {
        let mut rib = rib(&[Ebgp, Ebgp, Client]);
        let set = received(&[65009], &[(COMMUNITIES, community.to_be_bytes().to_vec())]);
        rib.announce(1, Family::Ipv4, TEN, set);
        assert_eq!(told(&mut rib, 2).announced.len() == 1, to_ebgp, "{name} to eBGP");
        assert_eq!(told(&mut rib, 3).announced.len() == 1, to_client, "{name} to iBGP");
        rib.originate(vec![Origin { communities: vec![Community::Standard(community)], ..own_route("11.0.0.0", 8) }]);
        for peer in [2, 3] {
            let told = told(&mut rib, peer);
            let set = &told.announced.first().unwrap_or_else(|| panic!("{name}: our own route is told to {peer}")).1;
            assert_eq!(set.communities().collect::<Vec<_>>(), [community], "{name}: for the peer to obey");
        }
    }
}

/// `count` prefixes of the longest kind.
fn hosts(family: Family, count: u32) -> Vec<u8> {
    let mut list = Vec::new();
    for i in 0..count {
        let n = i.to_be_bytes();
        let address = match family {
            Family::Ipv4 => IpAddr::from([11, n[1], n[2], n[3]]),
            Family::Ipv6 => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, n[0], n[1], n[2], n[3]]),
        };
        let prefix = Prefix::new(address, family.bits()).unwrap();
        match family {
            Family::Ipv4 => V4::from_prefix(prefix).unwrap().write(&mut list),
            Family::Ipv6 => V6::from_prefix(prefix).unwrap().write(&mut list),
        }
    }
    list
}

fn next_hop(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => [192, 0, 2, 200].into(),
        Family::Ipv6 => "2001:db8:ffff::200".parse().unwrap(),
    }
}

#[test]
fn updates_are_packed_to_the_last_octets() {
    for (family, per_message, withdrawn_per_message) in [(Family::Ipv4, 809, 814), (Family::Ipv6, 237, 238)] {
        let mut rib = rib(&[Ebgp, Client]);
        told(&mut rib, 2);
        let set = Attributes { next_hop: next_hop(family), ..received(&[65009], &[]) };
        rib.announce(1, family, &hosts(family, 2000), set);
        let first = told(&mut rib, 2);
        assert_eq!(first.announced.len(), 2000);
        assert!(first.sizes.iter().all(|s| *s <= MAX_MESSAGE_LEN), "{:?}", first.sizes);
        assert_eq!(first.sizes.len(), 2000_usize.div_ceil(per_message), "{family:?}: {:?}", first.sizes);
        rib.withdraw(1, family, &hosts(family, 2000));
        let then = told(&mut rib, 2);
        assert_eq!(then.withdrawn.len(), 2000);
        assert!(then.sizes.iter().all(|s| *s <= MAX_MESSAGE_LEN), "{:?}", then.sizes);
        assert_eq!(then.sizes.len(), 2000_usize.div_ceil(withdrawn_per_message), "{family:?}: {:?}", then.sizes);
    }
}

/// Sets around the size that leaves no room for a prefix: as long as one fits each prefix is announced, then none is, and
/// what was announced before is withdrawn. No size makes the writer spin or break a message.
#[test]
fn a_set_too_large_for_an_update_withdraws() {
    for family in Family::ALL {
        let mut fitted = Vec::new();
        for extra in (3700..4096).rev() {
            let mut rib = rib(&[Ebgp, Client]);
            let next_hop = next_hop(family);
            rib.announce(1, family, &hosts(family, 3), Attributes { next_hop, ..received(&[65009], &[]) });
            assert_eq!(told(&mut rib, 2).announced.len(), 3);
            let big = received(&[65009], &[(200, vec![1; extra])]);
            rib.announce(1, family, &hosts(family, 3), Attributes { next_hop, ..big });
            let told = told(&mut rib, 2);
            assert!(told.sizes.iter().all(|s| *s <= MAX_MESSAGE_LEN), "{family:?} {extra}: {:?}", told.sizes);
            let fits = told.announced.len() == 3;
            assert_eq!(told.withdrawn.len(), if fits { 0 } else { 3 }, "{family:?} {extra}");
            assert_eq!(rib.counts(2, family).1, if fits { 3 } else { 0 });
            if fits {
                fitted.push((extra, told.sizes.iter().max().copied()));
            }
        }
        // The largest set that fits leaves less than a prefix of the message unused.
        let (extra, size) = fitted[0];
        assert!(size.is_some_and(|s| s > MAX_MESSAGE_LEN - 17), "{family:?} {extra}: {size:?}");
        assert_eq!(fitted.len(), extra - 3700 + 1, "{family:?}: everything smaller fits");
    }
}

/// RFC 4724 section 4.2.
#[test]
fn stale_routes_are_used_until_they_are_swept() {
    let stale = |rib: &Rib| {
        rib.routes(View::Best, &RouteFilter::default(), Cursor::START, 10).0.iter().filter(|r| r.stale).count()
    };
    let mut rib = rib(&[Ebgp, Ebgp]);
    rib.announce(1, Family::Ipv4, &[8, 10, 8, 11, 8, 12], received(&[65009], &[]));
    assert_eq!(told(&mut rib, 2).announced.len(), 3);
    rib.mark_stale(1, Family::Ipv4);
    let quiet = told(&mut rib, 2);
    assert_eq!((quiet.announced.len(), quiet.withdrawn.len(), stale(&rib)), (0, 0, 3), "nobody is told");
    // One again as it was, one changed, one not at all.
    rib.announce(1, Family::Ipv4, &[8, 10], received(&[65009], &[]));
    rib.announce(1, Family::Ipv4, &[8, 11], received(&[65009, 65010], &[]));
    let again = told(&mut rib, 2);
    assert_eq!((again.announced.len(), again.withdrawn.len(), stale(&rib)), (1, 0, 1), "only what changed is told");
    rib.remove_paths(1, Family::Ipv4, true);
    assert_eq!(told(&mut rib, 2).withdrawn, [Prefix::new([12, 0, 0, 0].into(), 8).unwrap()]);
    assert_eq!(rib.counts(1, Family::Ipv4), (2, 0));
    rib.mark_stale(1, Family::Ipv4);
    rib.remove_paths(1, Family::Ipv4, false);
    assert_eq!(told(&mut rib, 2).withdrawn.len(), 2);
    rib.reap();
    assert_eq!(rib.attribute_sets(), 0, "nothing is left of it");
}

/// `count` prefixes of 24 bits, from 10.0.0.0 on if `first` is 0.
fn many(first: u32, count: u32) -> Vec<u8> {
    (first..first + count).flat_map(|n| [24, 10 + (n >> 16) as u8, (n >> 8) as u8, n as u8]).collect()
}

#[test]
fn new_prefixes_take_the_places_of_those_that_are_gone() {
    const MANY: u32 = 10_000;
    let mut rib = rib(&[Ebgp, Ebgp]);
    for _ in 0..3 {
        rib.announce(1, Family::Ipv4, TEN, received(&[65009], &[]));
        told(&mut rib, 2);
        rib.withdraw(1, Family::Ipv4, TEN);
        told(&mut rib, 2);
    }
    for round in 0..5 {
        let list = many(round * MANY, MANY);
        rib.announce(1, Family::Ipv4, &list, received(&[65009], &[]));
        assert_eq!(told(&mut rib, 2).announced.len(), MANY as usize);
        assert_eq!(rib.size(Family::Ipv4), (MANY, MANY));
        rib.withdraw(1, Family::Ipv4, &list);
        rib.make_room();
        assert_eq!(rib.v4.empty_len(), MANY + 1, "nobody knows yet that they are gone");
        assert_eq!(told(&mut rib, 2).withdrawn.len(), MANY as usize);
        assert_eq!(told(&mut rib, 1).withdrawn, [], "it is not told of its own");
        rib.make_room();
        assert_eq!((rib.v4.empty_len(), rib.size(Family::Ipv4)), (1, (0, 0)), "all but the one that flaps");
    }
    assert_eq!(rib.v4.entries().len(), MANY as usize + 1, "the table has not grown");
    rib.announce(1, Family::Ipv4, TEN, received(&[65009], &[]));
    told(&mut rib, 2);
    assert_eq!(rib.flapping(7).len(), 1, "what flaps keeps its count");
    rib.withdraw(1, Family::Ipv4, TEN);
    (1..=2).for_each(|peer| drop(told(&mut rib, peer)));
    rib.roll_flaps();
    assert_eq!(rib.v4.empty_len(), 0, "at the end of a window all are forgotten");
    assert_eq!(rib.flapping(8).len(), 1, "the last window counts until the end of this one");
}

#[test]
fn every_prefix_is_found_while_the_table_grows() {
    let mut rib = rib(&[Ebgp]);
    for n in 0..5_000 {
        rib.announce(1, Family::Ipv4, &many(n, 1), received(&[65009], &[]));
        if n % 3 == 0 {
            rib.withdraw(1, Family::Ipv4, &many(n / 2, 1));
            rib.distribute();
            rib.reap();
        }
    }
    let left = rib.size(Family::Ipv4).0;
    assert!(left > 3_000, "{left}");
    rib.withdraw(1, Family::Ipv4, &many(0, 5_000));
    assert_eq!(rib.size(Family::Ipv4), (0, 0));
}

/// RFC 4724 section 2: after the first table, once, and not before our own routes are known.
#[test]
fn end_of_rib_follows_the_first_table() {
    let mut rib = Rib::new(1);
    let peer = rib.add_peer(info(1, Ebgp));
    Family::ALL.into_iter().for_each(|f| rib.start(peer, f));
    assert!(told(&mut rib, peer).end_of_rib.is_empty(), "our routes are not known yet");
    rib.refresh(peer, Family::Ipv4, true);
    assert_eq!(told(&mut rib, peer).refresh_marks, [0; 0], "RFC 7313 section 4: no BoRR before End-of-RIB");
    rib.originate(vec![own_route("10.0.0.0", 8)]);
    let first = told(&mut rib, peer);
    assert_eq!((first.announced.len(), first.end_of_rib), (1, Family::ALL.to_vec()));
    for (is_marked, marks) in [(false, vec![]), (true, vec![1, 2])] {
        rib.refresh(peer, Family::Ipv4, is_marked);
        let again = told(&mut rib, peer);
        assert_eq!((again.announced.len(), again.end_of_rib), (1, vec![]), "a refresh repeats the routes only");
        assert_eq!(again.refresh_marks, marks);
    }
}

#[test]
fn a_peer_with_two_octet_numbers_gets_as4_path_beside() {
    let mut rib = rib(&[Ebgp, Ebgp]);
    rib.peer_mut(2).unwrap().export.four_octet_as = false;
    rib.regroup(2);
    let aggregator = [&70000_u32.to_be_bytes()[..], &[10, 0, 0, 5]].concat();
    rib.announce(1, Family::Ipv4, TEN, received(&[65009, 70000], &[(AGGREGATOR, aggregator.clone())]));
    // Reading puts the two together again (RFC 6793 section 4.2.3).
    let told = told(&mut rib, 2);
    let set = &told.announced[0].1;
    assert_eq!(set.ases().collect::<Vec<_>>(), [OWN_AS, 65009, 70000]);
    assert_eq!(set.value(AGGREGATOR), aggregator);
}

#[test]
fn slices_show_every_route_once_whatever_their_size() {
    let mut rib = rib(&[Ebgp, Ibgp]);
    let mut list: Vec<u8> = (1..=50).flat_map(|i| [8, i]).collect();
    list.extend([16, 10, 1, 16, 10, 2, 24, 10, 1, 1]);
    rib.announce(1, Family::Ipv4, &list, received(&[65009], &[]));
    rib.announce(2, Family::Ipv4, TEN, received(&[65008], &[(COMMUNITIES, vec![0xfd, 0xe8, 0, 7])]));
    rib.announce(1, Family::Ipv6, &[16, 0x20, 1], received(&[65009], &[]));
    rib.distribute();
    let all = |view, filter: &RouteFilter, steps| {
        let (mut shown, mut from) = (Vec::new(), Some(Cursor::START));
        while let Some(cursor) = from {
            let (routes, next) = rib.routes(view, filter, cursor, steps);
            shown.extend(routes.into_iter().map(|r| r.prefix.to_string()));
            from = next;
        }
        shown.sort();
        shown
    };
    for steps in [1, 7, 53, 1000] {
        let shown = all(View::Received(None), &RouteFilter::default(), steps);
        assert_eq!(shown.len(), 55, "{steps}");
        assert_eq!(all(View::Received(Some(2)), &RouteFilter::default(), steps), ["10.0.0.0/8"]);
    }
    let p = |address: [u8; 4], len| Prefix::new(address.into(), len).unwrap();
    let ten = p([10, 0, 0, 0], 8);
    let on = |prefix| RouteFilter { prefix: Some(prefix), ..RouteFilter::default() };
    let carrying = RouteFilter { communities: vec![Community::Standard(65000 << 16 | 7)], ..RouteFilter::default() };
    for (filter, want) in [
        (on(PrefixFilter::Exact(ten)), &["10.0.0.0/8", "10.0.0.0/8"][..]),
        (on(PrefixFilter::Exact(p([10, 0, 0, 0], 9))), &[]),
        (on(PrefixFilter::Longer(p([10, 1, 0, 0], 15))), &["10.1.0.0/16", "10.1.1.0/24"]),
        (on(PrefixFilter::Covering(p([10, 1, 1, 9], 32))), &["10.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24"]),
        (carrying, &["10.0.0.0/8"]),
    ] {
        assert_eq!(all(View::Received(None), &filter, 7), want, "{filter:?}");
    }
}
