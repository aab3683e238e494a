//! Our codec and an independent one (netgauze-bgp-pkt) on the same octets: generated here, generated there, and mutated.
//!
//! Where both read a message, both have to find the same in it: netgauze writes what it read, and that is compared with what we
//! read, attribute by attribute, prefix by prefix. Where only one reads it, the difference is one of those named below, with
//! the RFC that we follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use arbitrary::{Arbitrary, Unstructured};
use bgp_proto::af::{Family, Key, Prefix, V4, V6};
use bgp_proto::wire::attribute::{self, Attributes, Context};
use bgp_proto::wire::iana::*;
use bgp_proto::wire::nlri::paths;
use bgp_proto::wire::open::{AddPath, Capabilities, GracefulRestart, LongLived, LongLivedFamily, Open};
use bgp_proto::wire::pack::{Layout, MpNextHop};
use bgp_proto::wire::update::Update;
use bgp_proto::wire::{
    MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, MessageType, Notification, RefreshKind, RouteRefresh, frame,
    write_message,
};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

/// What we find wrong and netgauze does not look at.
const ONLY_OURS: &[(&str, &str)] = &[
    ("missing", "RFC 7606 section 3 (d): mandatory attributes"),
    ("AS number 0 (RFC 7607)", "RFC 7607 section 2"),
    ("a segment has no AS numbers", "RFC 7606 section 7.2"),
    ("not the address of a host", "RFC 4271 section 6.3: NEXT_HOP"),
    ("the next hop is not the address of a host", "RFC 4271 section 6.3: MP_REACH_NLRI"),
    ("the next hop's length is not one of its family", "RFC 7606 section 7.11: lengths other than 16 and 32"),
    (
        "MP_REACH_NLRI is cut",
        "RFC 7606 section 7.11: netgauze takes sixteen octets, whatever the length of the next hop says",
    ),
    ("length is not 4", "RFC 9234 section 5: netgauze takes four octets of OTC and leaves the rest"),
    ("length is no multiple, or 0", "RFC 7606 section 4: no elements"),
    (
        "Optional or Transitive is not as specified",
        "RFC 7606 section 3 (c): of attributes that netgauze lets be either",
    ),
    ("length is 0", "RFC 6793 section 6: AS4_PATH of nothing"),
    ("from a peer with four-octet AS numbers", "RFC 6793 section 6"),
    ("length is not 8, or AS number 0", "RFC 6793 section 6: netgauze takes AS4_AGGREGATOR for unknown"),
    ("MP_REACH_NLRI or MP_UNREACH_NLRI twice", "RFC 7606 section 3 (g)"),
    ("a well-known attribute that is not known", "RFC 4271 section 6.3"),
    ("an error and no prefix to withdraw", "RFC 7606 section 5.2, after one of the above"),
];

/// What netgauze refuses and we do not.
fn only_netgauze(cx: &Context, body: &[u8]) -> Option<&'static str> {
    let (withdrawn, list, nlri) = parts(body)?;
    let all = attributes(list);
    for (at, (kind, flags, value)) in all.iter().enumerate() {
        if all[..at].iter().any(|a| a.0 == *kind) {
            return Some("RFC 7606 section 3 (g): all but the first are not looked at");
        }
        if flags & PARTIAL != 0 {
            return Some("RFC 7606 section 3 (c) masks Partial");
        }
        if matches!(*kind, AIGP | LINK_STATE | PREFIX_SID) {
            return Some("RFC 7311, 9552, 8669: what is not used is not looked into");
        }
        let is_ours = matches!(value.get(..3), Some([0, 1 | 2, 1]));
        if matches!(*kind, MP_REACH_NLRI | MP_UNREACH_NLRI) && !is_ours {
            return Some("RFC 4760 section 7: a family that was not negotiated is ignored");
        }
    }
    // RFC 4271 section 6.3: a prefix that is not unicast is ignored, and no reason for more.
    let ids = cx.add_path_receive[0];
    let is_odd = |keys: &[Prefix]| keys.iter().any(|p| is_not_unicast(*p));
    let mp = |at: usize, value: &[u8]| match value[1] {
        1 => prefixes::<V4>(&value[at..], ids),
        _ => prefixes::<V6>(&value[at..], ids),
    };
    let odd = is_odd(&prefixes::<V4>(withdrawn, ids))
        || is_odd(&prefixes::<V4>(nlri, ids))
        || all.iter().any(|(kind, _, value)| match *kind {
            MP_REACH_NLRI => is_odd(&mp(5 + usize::from(value[3]), value)),
            MP_UNREACH_NLRI => is_odd(&mp(3, value)),
            _ => false,
        });
    odd.then_some("RFC 4271 section 6.3: a prefix that is not unicast")
}

/// As netgauze may see it, which keeps bits beyond the length: the last address in it.
fn is_not_unicast(prefix: Prefix) -> bool {
    let len = prefix.len().into();
    match prefix.address() {
        IpAddr::V4(a) => (u32::from(a) | u32::MAX.checked_shr(len).unwrap_or(0)) >= 0xe000_0000,
        IpAddr::V6(a) => (u128::from(a) | u128::MAX.checked_shr(len).unwrap_or(0)) >= 0xff << 120,
    }
}

/// The same session for both.
fn contexts(four_octet_as: bool, add_path: bool) -> (Context, BgpParsingContext) {
    let cx = Context {
        four_octet_as,
        ibgp: true,
        ipv4: true,
        ipv6: true,
        add_path_receive: [add_path; 2],
        extended_next_hop: true,
        extended_messages: true,
        // No next hop: a route through ourselves is withdrawn (RFC 4271 section 5.1.3), which netgauze cannot know.
        local_address: IpAddr::from([0; 4]),
        first_as: None,
    };
    let mut theirs = BgpParsingContext::asn2_default();
    theirs.set_asn4(four_octet_as);
    for family in [AddressType::Ipv4Unicast, AddressType::Ipv6Unicast] {
        theirs.add_path_mut().insert(family, add_path);
    }
    (cx, theirs)
}

/// Withdrawn routes, attributes, NLRI.
fn parts(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    fn list(body: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = body.split_first_chunk::<2>()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
    }
    let (withdrawn, rest) = list(body)?;
    let (attributes, nlri) = list(rest)?;
    Some((withdrawn, attributes, nlri))
}

/// Type, flags and value of each.
fn attributes(mut list: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((raw, rest)) = attribute::split(list) {
        all.push((raw.kind, raw.flags, raw.value.to_vec()));
        list = rest;
    }
    all
}

fn prefixes<K: Key>(list: &[u8], ids: bool) -> Vec<Prefix> {
    paths::<K>(list, ids).map(|(_, key)| key.prefix()).collect()
}

fn keys(family: Family, list: &[u8], ids: bool) -> Vec<(u32, Prefix)> {
    match family {
        Family::Ipv4 => paths::<V4>(list, ids).map(|(id, key)| (id, key.prefix())).collect(),
        Family::Ipv6 => paths::<V6>(list, ids).map(|(id, key)| (id, key.prefix())).collect(),
    }
}

/// The family of an MP attribute's value.
fn family(value: &[u8]) -> Family {
    if value[1] == 1 { Family::Ipv4 } else { Family::Ipv6 }
}

/// What we read is what netgauze read, which it wrote as `theirs`.
fn compare(cx: &Context, update: &Update<'_>, theirs: &[u8]) {
    let ids = cx.add_path_receive[0];
    let (withdrawn, list, nlri) = parts(&theirs[19..]).expect("what netgauze writes is well formed");
    let mut values: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (kind, _, value) in attributes(list) {
        // RFC 7606 section 3 (g): the first one counts.
        values.entry(kind).or_insert(value);
    }
    let mut gone: Vec<(Family, (u32, Prefix))> = Vec::new();
    gone.extend(keys(Family::Ipv4, withdrawn, ids).into_iter().map(|k| (Family::Ipv4, k)));
    if let Some(value) = values.get(&MP_UNREACH_NLRI) {
        let family = family(value);
        gone.extend(keys(family, &value[3..], ids).into_iter().map(|k| (family, k)));
    }
    let mut ours = Vec::new();
    for (family, list) in &update.withdrawn {
        ours.extend(keys(*family, list, ids).into_iter().map(|k| (*family, k)));
    }
    assert_eq!(ours, gone, "withdrawn");
    for (at, (of, list, a)) in update.announced.iter().enumerate() {
        let from_nlri = at == 0 && !nlri.is_empty();
        let (theirs, next_hop) = if from_nlri {
            (keys(Family::Ipv4, nlri, ids), values[&NEXT_HOP].clone())
        } else {
            let value = &values[&MP_REACH_NLRI];
            let end = 4 + usize::from(value[3]);
            assert_eq!(*of, family(value));
            (keys(*of, &value[end + 1..], ids), value[4..end].to_vec())
        };
        assert_eq!(keys(*of, list, ids), theirs, "announced");
        compare_next_hop(a, &next_hop);
        compare_attributes(cx, a, &values);
    }
}

fn compare_next_hop(ours: &Attributes, theirs: &[u8]) {
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&theirs[at..at + 16]).expect("sixteen octets"));
    match (theirs.len(), ours.next_hop) {
        (4, next_hop) => assert_eq!(next_hop, IpAddr::from(<[u8; 4]>::try_from(theirs).expect("four octets"))),
        // RFC 2545 section 3: without a global address the link-local one is the next hop.
        (32, next_hop) if v6(0).is_unspecified() => assert_eq!(next_hop, IpAddr::from(v6(16))),
        (_, next_hop) => assert_eq!(next_hop, IpAddr::from(v6(0))),
    }
    if theirs.len() == 32 {
        assert_eq!(ours.link_local, Some(v6(16)).filter(Ipv6Addr::is_unicast_link_local));
    }
}

fn compare_attributes(cx: &Context, ours: &Attributes, theirs: &BTreeMap<u8, Vec<u8>>) {
    let number = |kind: u8| theirs.get(&kind).map(|v| u32::from_be_bytes(v[..].try_into().expect("four octets")));
    assert_eq!(theirs.get(&ORIGIN), Some(&vec![ours.origin]));
    assert_eq!(number(MULTI_EXIT_DISC), ours.med);
    assert_eq!(number(LOCAL_PREF), ours.local_pref);
    if cx.four_octet_as {
        assert_eq!(theirs.get(&AS_PATH).map(Vec::as_slice), Some(ours.as_path()));
    } else if !theirs.contains_key(&AS4_PATH) {
        assert_eq!(theirs.get(&AS_PATH), Some(&attribute::narrow_path(ours.as_path()).0), "RFC 6793 section 4.2.2");
    }
    for a in ours.iter().filter(|a| a.kind != AS_PATH && (cx.four_octet_as || a.kind != AGGREGATOR)) {
        let theirs = theirs.get(&a.kind).map(Vec::as_slice).unwrap_or_default();
        if a.kind == EXTENDED_COMMUNITIES {
            // netgauze writes reserved octets as zero, and subtype 9 as 2: only targets and origins are compared.
            assert_eq!(a.value.len(), theirs.len());
            let is_known = |c: &[u8]| c[0] & !0x40 <= 2 && matches!(c[1], 2 | 3);
            for (ours, theirs) in a.value.chunks(8).zip(theirs.chunks(8)).filter(|(c, _)| is_known(c)) {
                assert_eq!(ours, theirs, "an extended community");
            }
            continue;
        }
        if a.kind == LARGE_COMMUNITIES {
            // RFC 8092 section 3: we read each once.
            let once = |list: &[u8]| list.chunks(12).map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
            assert_eq!(once(theirs), once(a.value));
            continue;
        }
        assert_eq!(theirs, a.value, "attribute {}", a.kind);
    }
    // Nothing is lost but what is not for others (RFC 4271 section 5) or not used.
    let elsewhere = [ORIGIN, AS_PATH, NEXT_HOP, MULTI_EXIT_DISC, LOCAL_PREF, MP_REACH_NLRI, MP_UNREACH_NLRI];
    let known = [ATOMIC_AGGREGATE, AGGREGATOR, COMMUNITIES, ORIGINATOR_ID, CLUSTER_LIST, EXTENDED_COMMUNITIES];
    for kind in theirs.keys().filter(|k| !elsewhere.contains(k) && known.contains(k)) {
        assert!(ours.iter().any(|a| a.kind == *kind), "attribute {kind} is lost");
    }
}

/// One body through both codecs; how they took it.
fn both(four_octet_as: bool, ids: bool, body: &[u8]) {
    let (cx, mut theirs_cx) = contexts(four_octet_as, ids);
    let mut message = Vec::new();
    write_message(&mut message, MessageType::Update, |out| out.extend_from_slice(body));
    let theirs = BgpMessage::parse(&mut SliceReader::new(&message), &mut theirs_cx);
    match (Update::examine(&cx, body), theirs) {
        (Ok(update), Ok(theirs)) if update.errors.is_empty() => {
            let mut written = Vec::new();
            theirs.write(&mut written).expect("netgauze writes what it read");
            if only_netgauze(&cx, body).is_none() {
                compare(&cx, &update, &written);
            }
        }
        (Ok(update), Ok(_)) => {
            for e in &update.errors {
                assert!(ONLY_OURS.iter().any(|o| o.0 == e.reason), "netgauze has nothing against {e:?}: {body:02x?}");
            }
        }
        (Err(reset), Ok(theirs)) => {
            assert!(
                ONLY_OURS.iter().any(|o| o.0 == reset.reason),
                "netgauze has nothing against {reset:?}: {theirs:?}"
            );
        }
        (Ok(update), Err(e)) if update.errors.is_empty() => {
            assert!(only_netgauze(&cx, body).is_some(), "we have nothing against {e}: {body:02x?}");
        }
        _ => {}
    }
}

/// Attributes that are right, each perhaps there.
fn any_attributes(width: usize) -> impl Strategy<Value = Vec<u8>> {
    let asn = move |n: u32| if width == 4 { (n % 100_000 + 1).to_be_bytes().to_vec() } else { vec![1, n as u8] };
    let segment = (1u8..=2, prop::collection::vec(any::<u32>(), 1..6)).prop_map(move |(kind, ases)| {
        let mut out = vec![kind, ases.len() as u8];
        ases.iter().for_each(|a| out.extend(asn(*a)));
        out
    });
    let path = prop::collection::vec(segment, 0..3).prop_map(|s| s.concat());
    let aggregator = any::<(u32, [u8; 4])>().prop_map(move |(a, id)| [asn(a), id.to_vec()].concat());
    let list = |width: usize| {
        prop::collection::vec(any::<u8>(), width..4 * width).prop_map(move |mut v| {
            v.truncate(v.len() / width * width);
            v
        })
    };
    let number = || any::<[u8; 4]>().prop_map(|v| v.to_vec());
    let hop = prop_oneof![Just(vec![192, 0, 2, 1]), Just(vec![10, 9, 8, 7])];
    let maybe = |flags: u8, kind: u8, value: BoxedStrategy<Vec<u8>>| {
        prop::option::of(value).prop_map(move |v| v.map(|v| (flags, kind, v))).boxed()
    };
    let must =
        |flags: u8, kind: u8, value: BoxedStrategy<Vec<u8>>| value.prop_map(move |v| Some((flags, kind, v))).boxed();
    let both = OPTIONAL | TRANSITIVE;
    let rows = vec![
        must(TRANSITIVE, ORIGIN, (0u8..3).prop_map(|o| vec![o]).boxed()),
        must(TRANSITIVE, AS_PATH, path.boxed()),
        must(TRANSITIVE, NEXT_HOP, hop.boxed()),
        maybe(OPTIONAL, MULTI_EXIT_DISC, number().boxed()),
        must(TRANSITIVE, LOCAL_PREF, number().boxed()),
        maybe(TRANSITIVE, ATOMIC_AGGREGATE, Just(Vec::new()).boxed()),
        maybe(both, AGGREGATOR, aggregator.boxed()),
        maybe(both, COMMUNITIES, list(4).boxed()),
        maybe(OPTIONAL, ORIGINATOR_ID, number().boxed()),
        maybe(OPTIONAL, CLUSTER_LIST, list(4).boxed()),
        maybe(both, EXTENDED_COMMUNITIES, list(8).boxed()),
        maybe(both, LARGE_COMMUNITIES, list(12).boxed()),
        maybe(both, ONLY_TO_CUSTOMER, number().boxed()),
        maybe(both, 200, list(1).boxed()),
        maybe(OPTIONAL, 201, list(1).boxed()),
    ];
    rows.prop_map(|rows| {
        let mut out = Vec::new();
        rows.iter().flatten().for_each(|(flags, kind, value)| attribute::write(&mut out, *flags, *kind, value));
        out
    })
}

fn any_list(v6: bool, ids: bool) -> impl Strategy<Value = Vec<u8>> {
    let bits = if v6 { 128 } else { 32 };
    let prefix = (any::<[u8; 16]>(), 0u8..=bits, any::<u32>()).prop_map(move |(mut a, len, id)| {
        // Neither multicast nor beyond: that both would refuse, or one.
        a[0] = a[0] % 200 + 1;
        let mut out = if ids { id.to_be_bytes().to_vec() } else { Vec::new() };
        match v6 {
            true => V6::from_wire(len, &a[..usize::from(len.div_ceil(8))]).write(&mut out),
            false => V4::from_wire(len, &a[..usize::from(len.div_ceil(8))]).write(&mut out),
        }
        out
    });
    prop::collection::vec(prefix, 0..6).prop_map(|p| p.concat())
}

/// Bodies of UPDATEs that are right, and whether paths have identifiers.
fn any_update(width: usize) -> impl Strategy<Value = (bool, Vec<u8>)> {
    any::<bool>().prop_flat_map(move |ids| {
        let lists = (any_list(false, ids), any_list(false, ids), any_list(true, ids), any_list(true, ids));
        let hop = prop_oneof![Just(16usize), Just(32)];
        (lists, any_attributes(width), any::<[bool; 2]>(), hop).prop_map(
            move |((withdrawn, nlri, reach, unreach), mut list, [has_reach, has_unreach], len)| {
                if has_reach {
                    let mut hop = [0u8; 32];
                    hop[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
                    (hop[15], hop[16], hop[17], hop[31]) = (1, 0xfe, 0x80, 1);
                    let value = [&[0, 2, 1, len as u8], &hop[..len], &[0], &reach].concat();
                    attribute::write(&mut list, OPTIONAL, MP_REACH_NLRI, &value);
                }
                if has_unreach {
                    attribute::write(&mut list, OPTIONAL, MP_UNREACH_NLRI, &[&[0, 2, 1], &unreach[..]].concat());
                }
                let len = |list: &[u8]| (list.len() as u16).to_be_bytes();
                (ids, [&len(&withdrawn), &withdrawn[..], &len(&list), &list, &nlri].concat())
            },
        )
    })
}

/// Code and subcode of what we may send.
const NOTIFICATIONS: &[(u8, u8)] = &[
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 1),
    (2, 2),
    (2, 3),
    (2, 4),
    (2, 6),
    (2, 7),
    (2, 11),
    (3, 1),
    (3, 2),
    (3, 9),
    (3, 10),
    (4, 0),
    (5, 1),
    (5, 2),
    (5, 3),
    (6, 1),
    (6, 2),
    (6, 3),
    (6, 4),
    (6, 5),
    (6, 6),
    (6, 7),
    (6, 9),
    (6, 10),
    (7, 1),
];

/// What we say of ourselves, with any of our capabilities.
fn any_open() -> impl Strategy<Value = Open> {
    let restart = (any::<[bool; 2]>(), 0u16..4096, any::<[Option<bool>; 2]>()).prop_map(
        |([restarting, notification], restart_time, [ipv4, ipv6])| GracefulRestart {
            restarting,
            notification,
            restart_time,
            ipv4,
            ipv6,
        },
    );
    let long_lived = any::<[Option<(bool, u8)>; 2]>().prop_map(|families| {
        let [ipv4, ipv6] = families
            .map(|f| f.map(|(preserved, time)| LongLivedFamily { preserved, stale_time: u32::from(time) * 1000 }));
        LongLived { ipv4, ipv6 }
    });
    let capabilities =
        (any::<[bool; 6]>(), any::<[bool; 4]>(), prop::option::of((restart, prop::option::of(long_lived)))).prop_map(
            |([ipv6, refresh, enhanced, four, extended, hop], paths, restart)| Capabilities {
                ipv4: true,
                ipv6,
                route_refresh: refresh,
                enhanced_route_refresh: enhanced,
                four_octet_as: four,
                extended_messages: extended,
                extended_next_hop: hop,
                add_path: [0, 2].map(|at| AddPath { send: paths[at], receive: paths[at + 1] }),
                graceful_restart: restart.map(|r| r.0),
                long_lived: restart.and_then(|r| r.1),
                ..Capabilities::default()
            },
        );
    // netgauze wants an identifier that could be an address; RFC 6286 section 2.1 has any but 0.
    (capabilities, 1u32..70_000, prop_oneof![Just(0u16), 3u16..], 1u32..0x7f00_0000).prop_map(
        |(capabilities, asn, hold_time, router_id)| {
            let asn = if capabilities.four_octet_as { asn } else { asn % 65_535 + 1 };
            Open { asn, hold_time, router_id: router_id.into(), capabilities }
        },
    )
}

/// Messages of ours, as netgauze reads them and writes them again.
fn through_netgauze(octets: &[u8]) -> (BgpMessage, Vec<u8>) {
    let (_, mut cx) = contexts(true, false);
    let read = BgpMessage::parse(&mut SliceReader::new(octets), &mut cx);
    let message = read.unwrap_or_else(|e| panic!("netgauze refuses {octets:02x?}: {e}"));
    let mut again = Vec::new();
    message.write(&mut again).expect("netgauze writes what it read");
    (message, again)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn our_opens_are_read_by_netgauze(ours in any_open()) {
        let mut octets = Vec::new();
        ours.write(&mut octets);
        let (message, again) = through_netgauze(&octets);
        let BgpMessage::Open(theirs) = &message else { panic!("{message:?}") };
        prop_assert_eq!(theirs.hold_time(), ours.hold_time);
        prop_assert_eq!(theirs.bgp_id(), ours.router_id);
        prop_assert_eq!(theirs.my_asn4(), ours.asn);
        let found = frame(&again, MAX_MESSAGE_LEN).unwrap().unwrap();
        prop_assert_eq!(Open::read(found.body), Ok(ours), "with its capabilities");
    }

    #[test]
    fn our_notifications_and_refreshes_are_read_by_netgauze(
        code in 0usize..NOTIFICATIONS.len(),
        data in prop::collection::vec(any::<u8>(), 0..40),
        refresh in 0usize..3,
        v6 in any::<bool>(),
    ) {
        let (code, subcode) = NOTIFICATIONS[code];
        let mut octets = Vec::new();
        Notification::new(code, subcode, &data).write(&mut octets);
        prop_assert_eq!(&through_netgauze(&octets).1, &octets);
        octets.clear();
        let kind = [RefreshKind::Request, RefreshKind::BeginOfRib, RefreshKind::EndOfRib][refresh];
        RouteRefresh { family: Family::ALL[usize::from(v6)], kind }.write(&mut octets);
        prop_assert_eq!(&through_netgauze(&octets).1, &octets);
    }

    /// As the RIB writes them: attributes once, prefixes packed.
    #[test]
    fn our_updates_are_read_by_netgauze(
        list in any_attributes(4),
        ids in any::<bool>(),
        v6 in any::<bool>(),
        prefixes in prop::collection::vec((any::<u32>(), any::<[u8; 16]>(), 0u8..=32), 1..2000),
    ) {
        let layout = Layout { max_len: MAX_MESSAGE_LEN, add_path: ids };
        let hop = MpNextHop { address: "2001:db8::1".parse().unwrap(), link_local: None };
        let all: Vec<(u32, [u8; 16], u8)> = prefixes.into_iter().map(|(id, mut a, len)| {
            a[0] = a[0] % 200 + 1;
            (if ids { id } else { 0 }, a, len)
        }).collect();
        let mut octets = Vec::new();
        let mut packed = BTreeSet::new();
        let len = |len: u8| usize::from(len.div_ceil(8));
        if v6 {
            let keys: Vec<_> = all.iter().map(|(id, a, n)| (*id, V6::from_wire(*n, &a[..len(*n)]))).collect();
            layout.write_reach(&mut octets, &list, Some(&hop), keys.iter().copied());
            layout.write_unreach(&mut octets, keys.iter().copied());
            packed.extend(keys.iter().map(|(id, k)| (*id, k.prefix())));
        } else {
            let keys: Vec<_> = all.iter().map(|(id, a, n)| (*id, V4::from_wire(*n, &a[..len(*n)]))).collect();
            layout.write_reach(&mut octets, &list, None, keys.iter().copied());
            layout.write_unreach(&mut octets, keys.iter().copied());
            packed.extend(keys.iter().map(|(id, k)| (*id, k.prefix())));
        }
        let (cx, _) = contexts(true, ids);
        let (mut announced, mut withdrawn) = (BTreeSet::new(), BTreeSet::new());
        let mut rest = &octets[..];
        while let Some(message) = frame(rest, MAX_MESSAGE_LEN).unwrap() {
            both(true, ids, message.body);
            let update = Update::examine(&cx, message.body).expect("we read what we write");
            prop_assert!(update.errors.is_empty(), "{:?}", update.errors);
            update.announced.iter().for_each(|(f, list, _)| announced.extend(keys(*f, list, ids)));
            update.withdrawn.iter().for_each(|(f, list)| withdrawn.extend(keys(*f, list, ids)));
            rest = &rest[message.len..];
        }
        prop_assert_eq!(&announced, &packed);
        prop_assert_eq!(&withdrawn, &packed);
    }

    #[test]
    fn updates_that_are_right_are_read_the_same((ids, body) in any_update(4)) {
        both(true, ids, &body);
    }

    #[test]
    fn updates_of_two_octet_speakers_are_read_the_same((ids, body) in any_update(2)) {
        both(false, ids, &body);
    }

    #[test]
    fn mutated_updates_are_taken_the_same(
        (ids, mut body) in any_update(4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, octet) in changes {
            let at = at.index(body.len());
            body[at] = octet;
        }
        both(true, ids, &body);
    }

    /// Made by netgauze, of whatever it can write.
    #[test]
    fn updates_of_netgauze_are_taken_the_same(seed in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(update) = BgpUpdateMessage::arbitrary(&mut Unstructured::new(&seed)) {
            let mut message = Vec::new();
            if BgpMessage::Update(update).write(&mut message).is_ok() && message.len() < 60_000 {
                both(true, false, &message[19..]);
            }
        }
    }

    #[test]
    fn other_messages_of_netgauze_are_read_the_same(seed in prop::collection::vec(any::<u8>(), 0..600)) {
        let Ok(message) = BgpMessage::arbitrary(&mut Unstructured::new(&seed)) else { return Ok(()) };
        let mut octets = Vec::new();
        if message.write(&mut octets).is_err() || octets.len() > 4096 {
            return Ok(());
        }
        let Ok(Some(found)) = frame(&octets, MAX_EXTENDED_MESSAGE_LEN) else { return Ok(()) };
        match (&message, found.kind) {
            (BgpMessage::Open(theirs), MessageType::Open) => {
                if let Ok(ours) = Open::read(found.body) {
                    prop_assert_eq!(ours.hold_time, theirs.hold_time());
                    prop_assert_eq!(ours.router_id, theirs.bgp_id());
                    prop_assert_eq!(ours.asn, theirs.my_asn4());
                }
            }
            (BgpMessage::Notification(_), MessageType::Notification) => {
                let mut again = Vec::new();
                Notification::read(found.body).write(&mut again);
                prop_assert_eq!(again, octets);
            }
            (BgpMessage::RouteRefresh(_), MessageType::RouteRefresh) => {
                if let Ok(Some(refresh)) = RouteRefresh::read(true, found.body) {
                    let mut again = Vec::new();
                    refresh.write(&mut again);
                    prop_assert_eq!(again, octets);
                }
            }
            (BgpMessage::KeepAlive, MessageType::Keepalive) | (BgpMessage::Update(_), MessageType::Update) => {}
            (_, kind) => prop_assert!(false, "a {kind:?} for us: {message:?}"),
        }
    }
}
