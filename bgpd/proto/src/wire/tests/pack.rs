//! Lists of prefixes, and the UPDATEs that are written of them.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::cx;
use crate::af::{Family, Key, Prefix, V4, V6};
use crate::wire::attribute::Context;
use crate::wire::nlri::{is_well_formed, paths};
use crate::wire::pack::{Layout, MpNextHop};
use crate::wire::update::Update;
use crate::wire::{MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, frame};

#[test]
fn lists_with_path_identifiers() {
    // RFC 7911 section 3.
    let list = [0, 0, 0, 7, 16, 10, 1, 0xff, 0xff, 0xff, 0xff, 0];
    assert!(is_well_formed(32, true, &list) && !is_well_formed(32, true, &list[..11]));
    let found: Vec<(u32, Prefix)> = paths::<V4>(&list, true).map(|(id, k)| (id, k.prefix())).collect();
    let prefix = |a: [u8; 4], len| Prefix::new(a.into(), len).unwrap();
    assert_eq!(found, [(7, prefix([10, 1, 0, 0], 16)), (u32::MAX, prefix([0; 4], 0))]);
    for (row, list) in
        [("identifier cut", &[0, 0, 0][..]), ("no length", &[0, 0, 0, 1]), ("33 bits", &[0, 0, 0, 1, 33])]
    {
        assert!(!is_well_formed(32, true, list), "{row}");
    }
}

const ATTRIBUTES: &[u8] = &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];

type Paths<K> = Vec<(u32, K)>;

/// Everything that messages announce and withdraw, and how many messages they are.
fn read_all<K: Key>(cx: &Context, mut octets: &[u8]) -> (Paths<K>, Paths<K>, usize) {
    let (mut reach, mut unreach, mut count) = (Vec::new(), Vec::new(), 0);
    while let Some(message) = frame(octets, cx.max_message_len()).unwrap() {
        let update = Update::read(cx, message.body).unwrap();
        assert_eq!(update.errors, []);
        for (family, list, _) in &update.announced {
            assert_eq!(*family, K::FAMILY);
            reach.extend(paths::<K>(list, cx.has_path_ids(K::FAMILY)));
        }
        for (_, list) in &update.withdrawn {
            unreach.extend(paths::<K>(list, cx.has_path_ids(K::FAMILY)));
        }
        octets = &octets[message.len..];
        count += 1;
    }
    assert!(octets.is_empty());
    (reach, unreach, count)
}

fn round_trip<K: Key>(paths: &[(u32, K)], add_path: bool, max_len: usize, next_hop: Option<MpNextHop>) -> usize {
    let layout = Layout { max_len, add_path };
    let attributes = if next_hop.is_some() { ATTRIBUTES.to_vec() } else { [ATTRIBUTES, NEXT_HOP].concat() };
    let mut out = Vec::new();
    layout.write_reach(&mut out, &attributes, next_hop.as_ref(), paths.iter().copied());
    layout.write_unreach(&mut out, paths.iter().copied());
    let cx = Context {
        add_path_receive: [add_path; 2],
        extended_next_hop: true,
        extended_messages: max_len > MAX_MESSAGE_LEN,
        ..cx(false)
    };
    let (reach, unreach, count) = read_all::<K>(&cx, &out);
    let sent: Vec<(u32, K)> = paths.iter().map(|&(id, k)| (if add_path { id } else { 0 }, k)).collect();
    assert_eq!((&reach, &unreach), (&sent, &sent));
    count
}

fn global() -> IpAddr {
    "2001:db8::1".parse().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        v4 in prop::collection::vec((any::<u32>(), any::<u32>(), 0u8..=32), 0..2000),
        v6 in prop::collection::vec((any::<u32>(), any::<u128>(), 0u8..=128), 0..600),
        add_path: bool, extended: bool, over_ipv6: bool, link_local: bool,
    ) {
        let max_len = if extended { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
        let link_local = link_local.then(|| "fe80::1".parse::<Ipv6Addr>().unwrap());
        let next_hop = MpNextHop { address: global(), link_local };
        let v4: Vec<(u32, V4)> =
            v4.iter().map(|&(id, a, l)| (id, V4::from_wire(l, &a.to_be_bytes()))).collect();
        let v6: Vec<(u32, V6)> =
            v6.iter().map(|&(id, a, l)| (id, V6::from_wire(l, &a.to_be_bytes()))).collect();
        round_trip(&v4, add_path, max_len, over_ipv6.then_some(next_hop));
        round_trip(&v6, add_path, max_len, Some(next_hop));
    }
}

#[test]
fn messages_are_filled() {
    let keys: Vec<(u32, V4)> = (0..10_000u32).map(|n| (n, V4::from_wire(24, &(n << 8).to_be_bytes()))).collect();
    let next_hop = Some(MpNextHop { address: global(), link_local: None });
    for (row, add_path, max_len, next_hop, messages) in [
        ("four octets each, about 1010 a message", false, MAX_MESSAGE_LEN, None, 10 + 10),
        ("eight each", true, MAX_MESSAGE_LEN, None, 20 + 20),
        ("RFC 8654", false, MAX_EXTENDED_MESSAGE_LEN, None, 1 + 1),
        ("RFC 8950", false, MAX_MESSAGE_LEN, next_hop, 10 + 10),
    ] {
        assert_eq!(round_trip(&keys, add_path, max_len, next_hop), messages, "{row}");
    }
}

#[test]
fn attributes_that_leave_no_room_do_not_fit() {
    let layout = Layout { max_len: MAX_MESSAGE_LEN, add_path: true };
    assert!(layout.fits(4096 - 23 - 21, None) && !layout.fits(4096 - 23 - 20, None));
    let next_hop = MpNextHop { address: global(), link_local: Some("fe80::1".parse().unwrap()) };
    assert!(!layout.fits(4096 - 23 - 21 - 40, Some(&next_hop)) && layout.fits(4096 - 23 - 21 - 41, Some(&next_hop)));
}

/// RFC 2545 section 3, RFC 8950 section 3; and speakers without a global address.
#[test]
fn next_hops_of_mp_reach() {
    let ll: Ipv6Addr = "fe80::1".parse().unwrap();
    let (g, l) = ("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(), ll.octets());
    let v6: IpAddr = global();
    type Row<'a> = (&'a str, Family, bool, Vec<u8>, Option<(IpAddr, Option<Ipv6Addr>)>);
    let rows: [Row<'_>; 10] = [
        ("global", Family::Ipv6, false, g.to_vec(), Some((v6, None))),
        ("global and link-local", Family::Ipv6, false, [g, l].concat(), Some((v6, Some(ll)))),
        ("link-local twice (FRR)", Family::Ipv6, false, [l, l].concat(), Some((ll.into(), Some(ll)))),
        (":: and link-local (BIRD)", Family::Ipv6, false, [[0; 16], l].concat(), Some((ll.into(), Some(ll)))),
        ("a second one that is not link-local", Family::Ipv6, false, [g, g].concat(), Some((v6, None))),
        ("24 octets, of VPNs", Family::Ipv6, false, vec![1; 24], None),
        ("IPv4 by RFC 4760", Family::Ipv4, false, vec![192, 0, 2, 1], Some(([192, 0, 2, 1].into(), None))),
        ("RFC 8950", Family::Ipv4, true, g.to_vec(), Some((v6, None))),
        ("RFC 8950 with a link-local one", Family::Ipv4, true, [g, l].concat(), Some((v6, Some(ll)))),
        ("RFC 8950, not negotiated", Family::Ipv4, false, g.to_vec(), None),
    ];
    for (row, family, extended_next_hop, next_hop, want) in rows {
        let mut value = family.afi().to_be_bytes().to_vec();
        value.extend_from_slice(&[1, next_hop.len() as u8]);
        value.extend_from_slice(&next_hop);
        value.extend_from_slice(&[0, 8, 10]);
        let body = super::with(false, 0x80, crate::wire::iana::MP_REACH_NLRI, &value);
        let cx = Context { extended_next_hop, ..cx(false) };
        let read = Update::read(&cx, &body);
        let Some((address, link_local)) = want else {
            assert_eq!(read.unwrap_err().subcode, 9, "{row}");
            continue;
        };
        let announced = read.unwrap().announced;
        let of = &announced.last().unwrap().2;
        assert_eq!((of.next_hop, of.link_local), (address, link_local), "{row}");
    }
}
