mod judge;
mod messages;
mod open;
mod pack;

use proptest::prelude::*;

use super::attribute::{self, Attributes, Context, Remedy};
use super::iana::*;
use super::open::Open;
use super::update::{Update, write_end_of_rib};
use super::*;
use crate::af::Family;

fn cx(ibgp: bool) -> Context {
    Context {
        four_octet_as: true,
        ibgp,
        ipv4: true,
        ipv6: true,
        add_path_receive: [false; 2],
        extended_next_hop: false,
        extended_messages: false,
        local_address: [192, 0, 2, 99].into(),
        first_as: None,
    }
}

const PATH: &[u8] = &[2, 1, 0, 0, 0xfd, 0xe9];
const HOP: &[u8] = &[192, 0, 2, 1];

/// An UPDATE of 10.0.0.0/8 with these attributes.
fn body(attributes: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    attributes.iter().for_each(|(flags, kind, value)| attribute::write(&mut list, *flags, *kind, value));
    let mut body = vec![0, 0];
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    body.extend_from_slice(&[8, 10]);
    body
}

/// With the mandatory attributes and one more, which replaces its like.
fn with(ibgp: bool, flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut list: Vec<(u8, u8, &[u8])> = vec![(0x40, ORIGIN, &[0]), (0x40, AS_PATH, PATH), (0x40, NEXT_HOP, HOP)];
    if ibgp {
        list.push((0x40, LOCAL_PREF, &[0, 0, 0, 100]));
    }
    list.retain(|a| a.1 != kind);
    list.push((flags, kind, value));
    body(&list)
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Used,
    Discarded,
    Withdrawn,
    Reset(u8, u8),
}
use Outcome::*;

fn outcome(cx: &Context, body: &[u8], kind: u8) -> Outcome {
    match Update::read(cx, body) {
        Err(n) => Reset(n.code, n.subcode),
        Ok(u) if !u.withdrawn.is_empty() => {
            assert!(u.announced.is_empty());
            Withdrawn
        }
        Ok(u) if u.errors.iter().any(|e| e.kind == kind && e.remedy == Remedy::AttributeDiscard) => {
            let (_, _, attributes) = &u.announced[0];
            assert!(attributes.value(kind).is_empty(), "what is discarded is gone");
            Discarded
        }
        Ok(_) => Used,
    }
}

/// RFC 7606 section 7 and the RFCs it does not cover: one row for each way an attribute is wrong.
#[test]
fn malformed_attributes_meet_their_remedy() {
    // Name, whether the session is iBGP, flags, type, value.
    type Row = (&'static str, bool, u8, u8, &'static [u8], Outcome);
    let rows: &[Row] = &[
        ("7.1 ORIGIN length", false, 0x40, ORIGIN, &[0, 0], Withdrawn),
        ("7.1 ORIGIN value", false, 0x40, ORIGIN, &[3], Withdrawn),
        ("7.2 AS_PATH segment type", false, 0x40, AS_PATH, &[9, 1, 0, 0, 0, 1], Withdrawn),
        ("7.2 AS_PATH overrun", false, 0x40, AS_PATH, &[2, 2, 0, 0, 0, 1], Withdrawn),
        ("7.2 AS_PATH of one octet", false, 0x40, AS_PATH, &[2], Withdrawn),
        ("7.2 AS_PATH segment of nothing", false, 0x40, AS_PATH, &[2, 0], Withdrawn),
        ("RFC 5065 confederation segment", false, 0x40, AS_PATH, &[3, 1, 0, 0, 0, 1], Withdrawn),
        ("RFC 7607 AS 0 in the path", true, 0x40, AS_PATH, &[2, 1, 0, 0, 0, 0], Withdrawn),
        ("an empty AS_PATH is allowed", true, 0x40, AS_PATH, &[], Used),
        ("7.3 NEXT_HOP length", false, 0x40, NEXT_HOP, &[1, 2, 3], Withdrawn),
        ("NEXT_HOP 0.0.0.0", false, 0x40, NEXT_HOP, &[0; 4], Withdrawn),
        ("NEXT_HOP loopback", false, 0x40, NEXT_HOP, &[127, 0, 0, 1], Withdrawn),
        ("NEXT_HOP multicast", false, 0x40, NEXT_HOP, &[224, 0, 0, 1], Withdrawn),
        ("5.1.3 NEXT_HOP is ourselves", false, 0x40, NEXT_HOP, &[192, 0, 2, 99], Withdrawn),
        ("7.4 MED length", false, 0x80, MULTI_EXIT_DISC, &[1], Withdrawn),
        ("7.5 LOCAL_PREF from outside", false, 0x40, LOCAL_PREF, &[1], Discarded),
        ("7.5 LOCAL_PREF length", true, 0x40, LOCAL_PREF, &[1], Withdrawn),
        ("7.6 ATOMIC_AGGREGATE length", false, 0x40, ATOMIC_AGGREGATE, &[1], Discarded),
        ("7.7 AGGREGATOR length", false, 0xc0, AGGREGATOR, &[0; 6], Discarded),
        ("RFC 7607 AGGREGATOR AS 0", false, 0xc0, AGGREGATOR, &[0, 0, 0, 0, 1, 2, 3, 4], Discarded),
        ("7.8 COMMUNITIES length", false, 0xc0, COMMUNITIES, &[1, 2, 3], Withdrawn),
        ("section 4 COMMUNITIES of nothing", false, 0xc0, COMMUNITIES, &[], Withdrawn),
        ("7.9 ORIGINATOR_ID from outside", false, 0x80, ORIGINATOR_ID, &[1], Discarded),
        ("7.9 ORIGINATOR_ID length", true, 0x80, ORIGINATOR_ID, &[1], Withdrawn),
        ("7.10 CLUSTER_LIST from outside", false, 0x80, CLUSTER_LIST, &[1], Discarded),
        ("7.10 CLUSTER_LIST length", true, 0x80, CLUSTER_LIST, &[1], Withdrawn),
        ("7.11 MP_REACH_NLRI unreadable", false, 0x80, MP_REACH_NLRI, &[0, 2, 1, 16], Reset(3, 9)),
        ("7.12 MP_UNREACH_NLRI unreadable", false, 0x80, MP_UNREACH_NLRI, &[0, 2], Reset(3, 9)),
        ("5.3 MP_UNREACH_NLRI prefix too long", false, 0x80, MP_UNREACH_NLRI, &[0, 2, 1, 129], Reset(3, 9)),
        ("7.14 EXTENDED COMMUNITIES length", false, 0xc0, EXTENDED_COMMUNITIES, &[0; 7], Withdrawn),
        ("7.15 IPv6 EXTENDED COMMUNITIES length", false, 0xc0, IPV6_EXTENDED_COMMUNITIES, &[0; 19], Withdrawn),
        ("RFC 8092 LARGE_COMMUNITIES length", false, 0xc0, LARGE_COMMUNITIES, &[0; 11], Withdrawn),
        ("RFC 6793 6 AS4_PATH from a 4-octet speaker", false, 0xc0, AS4_PATH, PATH, Discarded),
        ("RFC 6793 6 AS4_AGGREGATOR likewise", false, 0xc0, AS4_AGGREGATOR, &[0, 0, 0, 1, 1, 1, 1, 1], Discarded),
        ("RFC 9234 5 OTC length", false, 0xc0, ONLY_TO_CUSTOMER, &[1], Withdrawn),
        ("3 (c) flags of ORIGIN", false, 0xc0, ORIGIN, &[0], Withdrawn),
        ("3 (c) flags of COMMUNITIES", false, 0x80, COMMUNITIES, &[0; 4], Withdrawn),
        ("3 (c) flags of AIGP: discarded", false, 0xc0, AIGP, &[0; 4], Discarded),
        ("3 (c) Partial and the low bits are masked", false, 0x4f, ORIGIN, &[0], Used),
        ("RFC 4271 6.3 unknown well-known", false, 0x40, 200, &[1], Reset(3, 2)),
        ("unknown optional", false, 0xc0, 200, &[1], Used),
    ];
    for (row, ibgp, flags, kind, value, want) in rows {
        // Bit 0x10 changes the header, which `write` sets itself.
        let flags = flags & !EXTENDED_LENGTH;
        assert_eq!(outcome(&cx(*ibgp), &with(*ibgp, flags, *kind, value), *kind), *want, "{row}");
    }
}

#[test]
fn mandatory_attributes_and_repeats() {
    let all: [(u8, u8, &[u8]); 3] = [(0x40, ORIGIN, &[0]), (0x40, AS_PATH, PATH), (0x40, NEXT_HOP, HOP)];
    for missing in 0..3 {
        let mut list = all.to_vec();
        let (_, kind, _) = list.remove(missing);
        assert_eq!(outcome(&cx(false), &body(&list), kind), Withdrawn, "RFC 7606 3 (d): without {kind}");
    }
    assert_eq!(
        outcome(&cx(true), &body(&all), LOCAL_PREF),
        Withdrawn,
        "RFC 4271 5.1.5: from inside without LOCAL_PREF"
    );
    let mut twice = all.to_vec();
    twice.push((0x40, ORIGIN, &[2]));
    let b = body(&twice);
    let update = Update::read(&cx(false), &b).unwrap();
    assert_eq!(update.announced[0].2.origin, 0, "3 (g): the first counts");
    // RFC 4760 section 3: beside prefixes of MP_REACH_NLRI alone NEXT_HOP is ignored.
    let mut reach = vec![0, 2, 1, 16];
    reach.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    reach.extend_from_slice(&[0, 8, 0x20]);
    let ignored: [(u8, u8, &[u8]); 4] = [all[0], all[1], (0x40, NEXT_HOP, &[0; 4]), (0x80, MP_REACH_NLRI, &reach)];
    let mut b = body(&ignored);
    b.truncate(b.len() - 2);
    assert_eq!(outcome(&cx(false), &b, NEXT_HOP), Used);
    // RFC 8092 section 3: what is there twice is there once.
    let twice = [[1; 12], [2; 12], [1; 12]].concat();
    let b = with(false, 0xc0, LARGE_COMMUNITIES, &twice);
    let update = Update::read(&cx(false), &b).unwrap();
    assert_eq!(update.announced[0].2.value(LARGE_COMMUNITIES), [[1; 12], [2; 12]].concat());
    let unreach: (u8, u8, &[u8]) = (0x80, MP_UNREACH_NLRI, &[0, 2, 1]);
    let mp = [all[0], all[1], all[2], unreach, unreach];
    assert_eq!(outcome(&cx(false), &body(&mp), 0), Reset(3, 1), "3 (g): MP attributes twice");
}

/// RFC 4271 section 6.3.
#[test]
fn paths_begin_with_the_peer() {
    let of = |first_as, four_octet_as| Context { first_as, four_octet_as, ..cx(false) };
    let set: &[u8] = &[1, 1, 0, 0, 0xfd, 0xe9];
    for (row, cx, path, want) in [
        ("the peer's AS", of(Some(65001), true), PATH, Used),
        ("another", of(Some(65002), true), PATH, Withdrawn),
        ("none", of(Some(65001), true), &[], Withdrawn),
        ("a set", of(Some(65001), true), set, Withdrawn),
        ("not looked at", of(None, true), PATH, Used),
        ("RFC 6793: a peer with two octets", of(Some(65001), false), &[2, 1, 0xfd, 0xe9], Used),
        ("and one whose number does not fit", of(Some(70000), false), &[2, 1, 0x5b, 0xa0], Used),
    ] {
        assert_eq!(outcome(&cx, &with(false, 0x40, AS_PATH, path), AS_PATH), want, "{row}");
    }
}

#[test]
fn lists_that_cannot_be_found_reset_the_session() {
    for (row, body, want) in [
        ("withdrawn routes overrun", &[0, 9, 0, 0][..], (3, 1)),
        ("attributes overrun", &[0, 0, 0, 9], (3, 1)),
        ("withdrawn prefix too long", &[0, 1, 33, 0, 0], (3, 10)),
        ("announced prefix cut", &[0, 0, 0, 0, 24, 1], (3, 10)),
        ("5.2: an error and no prefix", &[0, 0, 0, 4, 0x40, 1, 1, 9], (3, 1)),
        (
            "5.2: withdrawals, and an error beside them",
            &[0, 0, 0, 12, 0xc0, 15, 5, 0, 2, 1, 8, 0x20, 0x40, 1, 1, 9],
            (3, 1),
        ),
        ("5.2: withdrawals, and what overruns", &[0, 0, 0, 11, 0xc0, 15, 5, 0, 2, 1, 8, 0x20, 0x40, 1, 9], (3, 1)),
    ] {
        let n = Update::read(&cx(false), body).unwrap_err();
        assert_eq!((n.code, n.subcode), want, "{row}");
    }
    // Section 5.2: withdrawals alone are what they are, whatever their flags (section 3 c).
    let unreach = [0, 0, 0, 8, 0xc0, 15, 5, 0, 2, 1, 8, 0x20];
    assert_eq!(outcome(&cx(false), &unreach, MP_UNREACH_NLRI), Withdrawn);
    // Section 4: an attribute that overruns the list does not hide the prefixes.
    let overrun = [0, 0, 0, 4, 0x40, 1, 9, 0, 8, 10];
    assert_eq!(outcome(&cx(false), &overrun, 1), Withdrawn);
}

#[test]
fn end_of_rib() {
    for family in Family::ALL {
        let mut out = Vec::new();
        write_end_of_rib(&mut out, family);
        let body = frame(&out, MAX_MESSAGE_LEN).unwrap().unwrap().body;
        assert_eq!(Update::read(&cx(false), body).unwrap().end_of_rib, Some(family));
    }
}

/// RFC 6793 section 4.2.3.
#[test]
fn two_octet_peers() {
    let cx = Context { four_octet_as: false, ..cx(false) };
    let path: &[u8] = &[2, 3, 0xfd, 0xe9, 0x5b, 0xa0, 0, 7];
    let as4: &[u8] = &[2, 2, 0, 1, 0, 0, 0, 0, 0, 7];
    let list: [(u8, u8, &[u8]); 4] =
        [(0x40, ORIGIN, &[0]), (0x40, AS_PATH, path), (0x40, NEXT_HOP, HOP), (0xc0, AS4_PATH, as4)];
    let b = body(&list);
    let update = Update::read(&cx, &b).unwrap();
    assert_eq!(update.announced[0].2.ases().collect::<Vec<_>>(), [65001, 65536, 7]);
    let (narrow, replaced) = attribute::narrow_path(&[2, 2, 0, 1, 0, 0, 0, 0, 0, 7]);
    assert_eq!((&narrow[..], replaced), (&[2, 2, 0x5b, 0xa0, 0, 7][..], true));
}

/// RFC 6793 sections 4.2.3 and 6: what is made of the attributes of a peer with two-octet numbers.
#[test]
fn as4_attributes_of_two_octet_peers() {
    const ORIGINAL: [u32; 3] = [65001, 23456, 7];
    const MERGED: [u32; 3] = [65001, 65536, 7];
    let seven: &[u8] = &[2, 2, 0, 1, 0, 0, 0, 0, 0, 7];
    let confederation: &[u8] = &[3, 1, 0, 0, 0, 9, 2, 2, 0, 1, 0, 0, 0, 0, 0, 7, 4, 1, 0, 0, 0, 9];
    let by_trans: &[u8] = &[0x5b, 0xa0, 1, 1, 1, 1];
    let by_65002: &[u8] = &[0xfd, 0xea, 1, 1, 1, 1];
    let wide: &[u8] = &[0, 1, 0, 0, 1, 1, 1, 1];
    type Row<'a> = (&'a str, &'a [(u8, &'a [u8])], [u32; 3], Option<[u8; 4]>);
    let rows: &[Row<'_>] = &[
        ("no AS4_PATH", &[], ORIGINAL, None),
        ("AS4_PATH", &[(AS4_PATH, seven)], MERGED, None),
        (
            "both aggregators",
            &[(AGGREGATOR, by_trans), (AS4_PATH, seven), (AS4_AGGREGATOR, wide)],
            MERGED,
            Some([0, 1, 0, 0]),
        ),
        (
            "aggregated since by a speaker that knows only two octets",
            &[(AGGREGATOR, by_65002), (AS4_PATH, seven), (AS4_AGGREGATOR, wide)],
            ORIGINAL,
            Some([0, 0, 0xfd, 0xea]),
        ),
        (
            "an aggregator of two octets needs no AS4_AGGREGATOR",
            &[(AGGREGATOR, by_65002), (AS4_PATH, seven)],
            MERGED,
            Some([0, 0, 0xfd, 0xea]),
        ),
        ("AS4_AGGREGATOR alone", &[(AS4_PATH, seven), (AS4_AGGREGATOR, wide)], MERGED, None),
        ("confederation segments are left out", &[(AS4_PATH, confederation)], MERGED, None),
        ("an undefined segment", &[(AS4_PATH, &[9, 1, 0, 1, 0, 0])], ORIGINAL, None),
        ("AS 0 (RFC 7607)", &[(AS4_PATH, &[2, 1, 0, 0, 0, 0])], ORIGINAL, None),
        ("longer than AS_PATH", &[(AS4_PATH, &[2, 4, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0])], ORIGINAL, None),
    ];
    let cx = Context { four_octet_as: false, ..cx(false) };
    let path: &[u8] = &[2, 3, 0xfd, 0xe9, 0x5b, 0xa0, 0, 7];
    for (row, more, ases, aggregator) in rows {
        let mut list: Vec<(u8, u8, &[u8])> = vec![(0x40, ORIGIN, &[0]), (0x40, AS_PATH, path), (0x40, NEXT_HOP, HOP)];
        list.extend(more.iter().map(|&(kind, value)| (0xc0, kind, value)));
        let b = body(&list);
        let update = Update::read(&cx, &b).unwrap();
        let attributes = &update.announced[0].2;
        assert_eq!(attributes.ases().collect::<Vec<_>>(), ases, "{row}");
        assert_eq!(attributes.value(AGGREGATOR).get(..4), aggregator.as_ref().map(|a| &a[..]), "{row}");
    }
}

/// RFC 8654: what fits into a message with two octets a number need not fit into an attribute with four.
#[test]
fn paths_that_grow_beyond_an_attribute() {
    let cx = Context { four_octet_as: false, extended_messages: true, ..cx(false) };
    let segment = [&[2, 255][..], &[0, 7].repeat(255)].concat();
    let list = |segments: usize, as4: &'static [u8]| {
        let path = segment.repeat(segments);
        let mut list: Vec<(u8, u8, &[u8])> = vec![(0x40, ORIGIN, &[0]), (0x40, AS_PATH, &path), (0x40, NEXT_HOP, HOP)];
        list.push((0xc0, AS4_PATH, as4));
        body(&list)
    };
    let (fits, does_not) = (list(64, &[2, 1, 0, 0, 0, 7]), list(65, &[2, 1, 0, 0, 0, 7]));
    let update = Update::read(&cx, &fits).unwrap();
    assert_eq!(update.announced[0].2.as_path_len(), 64 * 255);
    assert_eq!(outcome(&cx, &does_not, AS_PATH), Withdrawn);
    let mut attributes = update.announced[0].2.clone();
    attributes.prepend(&[1; 100]);
    assert_eq!(attributes.as_path_len(), 64 * 255, "no room: it stays as it is");
    // 64 sets count one each, so that all sequences before them stay.
    let set = [&[1, 255][..], &[0, 7].repeat(255)].concat();
    let sets = [&[1, 255][..], &[0, 0, 0, 7].repeat(255)].concat().repeat(15);
    let path = [segment.repeat(50), set.repeat(14)].concat();
    let b = body(&[(0x40, ORIGIN, &[0]), (0x40, AS_PATH, &path), (0x40, NEXT_HOP, HOP), (0xc0, AS4_PATH, &sets)]);
    let update = Update::read(&cx, &b).unwrap();
    assert_eq!(update.announced[0].2.as_path_len(), 50 * 255 + 14, "AS_PATH alone");
}

/// Found by fuzzing: it made an empty list.
#[test]
fn mp_reach_without_prefixes() {
    let mp: &[u8] = &[0, 1, 1, 4, 192, 0, 2, 1, 0];
    let b = with(false, 0x80, MP_REACH_NLRI, mp);
    let update = Update::read(&cx(false), &b).unwrap();
    assert_eq!(update.announced.len(), 1, "the NLRI field alone");
    let list: [(u8, u8, &[u8]); 2] = [(0x80, MP_REACH_NLRI, mp), (0xc0, COMMUNITIES, &[1])];
    let mut b = body(&list);
    b.truncate(b.len() - 2);
    assert_eq!(outcome(&cx(false), &b, 0), Reset(3, 1), "RFC 7606 5.2: an error and no prefix");
}

/// Found by fuzzing: an attribute of type 0 came after the path.
#[test]
fn attributes_are_kept_ascending() {
    let b = with(false, 0xc0, 0, &[1]);
    let update = Update::read(&cx(false), &b).unwrap();
    let kinds: Vec<u8> = update.announced[0].2.iter().map(|a| a.kind).collect();
    assert_eq!(kinds, [0, AS_PATH]);
}

#[test]
fn a_path_grows_in_front() {
    let mut a = Attributes::originated(100, &[], &[]);
    a.prepend(&[65001]);
    a.prepend(&[65002, 65003]);
    assert_eq!(a.ases().collect::<Vec<_>>(), [65002, 65003, 65001]);
    assert_eq!(a.as_path()[..2], [2, 3], "one segment");
    (0..300).for_each(|_| a.prepend(&[1]));
    assert_eq!(a.as_path_len(), 303);
}

proptest! {
    #[test]
    fn no_octets_make_a_decoder_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), ibgp: bool, wide: bool) {
        let cx = Context { four_octet_as: wide, ..cx(ibgp) };
        let _ = frame(&octets, MAX_MESSAGE_LEN);
        let _ = Open::read(&octets);
        let _ = Update::read(&cx, &octets);
        let _ = Notification::read(&octets);
    }

    #[test]
    fn no_attribute_makes_a_decoder_panic(
        list in proptest::collection::vec((any::<u8>(), 0u8..45, proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
        ibgp: bool, wide: bool,
    ) {
        let cx = Context { four_octet_as: wide, ..cx(ibgp) };
        let list: Vec<(u8, u8, &[u8])> = list.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
        if let Ok(update) = Update::read(&cx, &body(&list)) {
            for (_, _, attributes) in update.announced {
                let kinds: Vec<u8> = attributes.iter().map(|a| a.kind).collect();
                prop_assert!(kinds.is_sorted_by(|a, b| a < b), "ascending, each once: {kinds:?}");
            }
        }
    }
}

#[test]
fn a_value_that_is_written_in_place_reads_as_any_other() {
    for len in [0, 1, 255, 256, 4000] {
        let value: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let (mut whole, mut in_place) = (vec![7], vec![7]);
        attribute::write(&mut whole, 0xc0, COMMUNITIES, &value);
        attribute::write_with(&mut in_place, 0xc0, COMMUNITIES, |out| out.extend_from_slice(&value));
        assert_eq!(in_place, whole, "{len} octets");
        assert_eq!(attribute::written_len(&value), whole.len() - 1, "{len} octets");
    }
}
