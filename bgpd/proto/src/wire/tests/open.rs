//! OPEN and its capabilities.

use proptest::prelude::*;

use crate::af::Family;
use crate::wire::iana::{self, Role};
use crate::wire::open::*;
use crate::wire::{MAX_MESSAGE_LEN, frame};

/// Composed like FRR's: each capability in a parameter of its own, unknown ones among them.
#[test]
fn an_open_as_others_send_it() {
    let body = [
        4, 0xfd, 0xea, 0, 9, 10, 0, 0, 3, 30, 2, 6, 1, 4, 0, 1, 0, 1, 2, 2, 128, 0, 2, 2, 2, 0, 2, 6, 65, 4, 0, 0,
        0xfd, 0xea, 2, 4, 64, 2, 0xc0, 0x78,
    ];
    let open = Open::read(&body).unwrap();
    assert_eq!((open.asn, open.hold_time, open.router_id), (65002, 9, [10, 0, 0, 3].into()));
    assert!(open.capabilities.ipv4 && !open.capabilities.ipv6 && open.capabilities.route_refresh);
    let gr = open.capabilities.graceful_restart.unwrap();
    assert_eq!((gr.restarting, gr.restart_time, gr.ipv4), (true, 120, None), "helper only: no families");
}

#[test]
fn bad_opens() {
    for (row, body, want) in [
        ("version", &[3, 0, 1, 0, 90, 1, 1, 1, 1, 0][..], (2, 1)),
        ("AS 0", &[4, 0, 0, 0, 90, 1, 1, 1, 1, 0], (2, 2)),
        ("AS 0 beside a capability", &[4, 0, 0, 0, 90, 1, 1, 1, 1, 8, 2, 6, 65, 4, 0, 0, 0, 1], (2, 2)),
        ("AS 0 in the capability", &[4, 0, 1, 0, 90, 1, 1, 1, 1, 8, 2, 6, 65, 4, 0, 0, 0, 0], (2, 2)),
        ("identifier 0", &[4, 0, 1, 0, 90, 0, 0, 0, 0, 0], (2, 3)),
        ("hold time 2", &[4, 0, 1, 0, 2, 1, 1, 1, 1, 0], (2, 6)),
        ("parameter", &[4, 0, 1, 0, 90, 1, 1, 1, 1, 2, 1, 0], (2, 4)),
        ("parameters cut", &[4, 0, 1, 0, 90, 1, 1, 1, 1, 9, 2, 0], (2, 0)),
    ] {
        let n = Open::read(body).unwrap_err();
        assert_eq!((n.code, n.subcode), want, "{row}");
    }
}

/// An OPEN with these octets as its capabilities.
pub(super) fn with_capabilities(caps: &[u8]) -> Vec<u8> {
    let len = caps.len() as u8;
    [&[4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, len + 2, 2, len], caps].concat()
}

fn read(caps: &[u8]) -> Capabilities {
    Open::read(&with_capabilities(caps)).unwrap().capabilities
}

/// What each capability looks like on the wire, by the RFC's diagram.
#[test]
fn capabilities_on_the_wire() {
    let mp = Capabilities { ipv4: true, ..Default::default() };
    let gr = GracefulRestart { restart_time: 120, ..Default::default() };
    let llgr = |ipv4, ipv6| Capabilities {
        graceful_restart: Some(gr),
        long_lived: Some(LongLived { ipv4, ipv6 }),
        ..mp.clone()
    };
    let family = |preserved, stale_time| Some(LongLivedFamily { preserved, stale_time });
    let rows: &[(&str, &[u8], Capabilities)] = &[
        ("RFC 4760 section 8: IPv4", &[1, 4, 0, 1, 0, 1], mp.clone()),
        ("IPv6", &[1, 4, 0, 2, 0, 1], Capabilities { ipv6: true, ..Default::default() }),
        ("RFC 2918 section 2", &[1, 4, 0, 1, 0, 1, 2, 0], Capabilities { route_refresh: true, ..mp.clone() }),
        (
            "RFC 8950 section 4",
            &[1, 4, 0, 1, 0, 1, 5, 6, 0, 1, 0, 1, 0, 2],
            Capabilities { extended_next_hop: true, ..mp.clone() },
        ),
        ("RFC 8654 section 3", &[1, 4, 0, 1, 0, 1, 6, 0], Capabilities { extended_messages: true, ..mp.clone() }),
        ("RFC 9234 section 4.1", &[1, 4, 0, 1, 0, 1, 9, 1, 3], Capabilities { role: Some(3), ..mp.clone() }),
        (
            "RFC 4724 section 3: R, 120 s, IPv4 with F",
            &[1, 4, 0, 1, 0, 1, 64, 6, 0x80, 120, 0, 1, 1, 0x80],
            Capabilities {
                graceful_restart: Some(GracefulRestart { restarting: true, ipv4: Some(true), ..gr }),
                ..mp.clone()
            },
        ),
        (
            "RFC 8538 section 2: N, no families",
            &[1, 4, 0, 1, 0, 1, 64, 2, 0x40, 120],
            Capabilities { graceful_restart: Some(GracefulRestart { notification: true, ..gr }), ..mp.clone() },
        ),
        (
            "RFC 7911 section 4: IPv4 both, IPv6 receive",
            &[1, 4, 0, 1, 0, 1, 69, 8, 0, 1, 1, 3, 0, 2, 1, 1],
            Capabilities {
                add_path: [AddPath { send: true, receive: true }, AddPath { send: false, receive: true }],
                ..mp.clone()
            },
        ),
        (
            "RFC 7313 section 3.1",
            &[1, 4, 0, 1, 0, 1, 70, 0],
            Capabilities { enhanced_route_refresh: true, ..mp.clone() },
        ),
        (
            "RFC 9494 section 3: IPv4 with F for 60 s, IPv6 for a day",
            &[1, 4, 0, 1, 0, 1, 64, 2, 0, 120, 71, 14, 0, 1, 1, 0x80, 0, 0, 60, 0, 2, 1, 0, 1, 0x51, 0x80],
            llgr(family(true, 60), family(false, 86400)),
        ),
        (
            "draft-walton-bgp-hostname-capability, as FRR sends it",
            &[1, 4, 0, 1, 0, 1, 73, 6, 4, b'l', b'e', b'a', b'f', 0],
            Capabilities { fqdn: Some(Fqdn { host: "leaf".into(), domain: String::new() }), ..mp.clone() },
        ),
    ];
    for (row, octets, capabilities) in rows {
        assert_eq!(read(octets), *capabilities, "{row}");
        let open =
            Open { asn: 65001, hold_time: 90, router_id: [10, 0, 0, 1].into(), capabilities: capabilities.clone() };
        let mut out = Vec::new();
        open.write(&mut out);
        let body = frame(&out, MAX_MESSAGE_LEN).unwrap().unwrap().body;
        assert_eq!(body, with_capabilities(octets), "{row}");
    }
}

/// Capabilities that do not hold what they must are as good as unknown ones (RFC 5492 section 3: no reason to refuse).
#[test]
fn capabilities_that_are_not_understood_are_shown_by_code() {
    for (row, octets, unknown) in [
        ("unknown, twice", &[128, 0, 76, 1, 0, 128, 0][..], &[128, 76][..]),
        ("RFC 7911 section 4: 0 is not a direction", &[69, 4, 0, 1, 1, 0], &[69]),
        ("route refresh with contents", &[2, 1, 0], &[2]),
        ("RFC 9494: seven octets each", &[71, 6, 0, 1, 1, 0, 0, 0], &[71]),
        ("FQDN cut", &[73, 2, 9, b'a'], &[73]),
        ("FQDN that is no UTF-8", &[73, 3, 1, 0xff, 0], &[73]),
        ("graceful restart cut", &[64, 1, 0], &[64]),
        ("RFC 8950 tuple cut", &[5, 5, 0, 1, 0, 1, 0], &[5]),
    ] {
        assert_eq!(read(octets), Capabilities { ipv4: true, unknown: unknown.into(), ..Default::default() }, "{row}");
    }
    assert_eq!(
        read(&[71, 7, 0, 1, 1, 0, 0, 0, 9]).long_lived,
        None,
        "RFC 9494 section 4.2: only with graceful restart"
    );
}

/// RFC 4271 section 6.2: recognized, and malformed.
#[test]
fn capabilities_without_which_there_is_no_session() {
    for (row, octets) in [
        ("RFC 4760 section 8: multiprotocol of 3 octets", &[1, 3, 0, 1, 0][..]),
        ("RFC 6793 section 3: AS number of 2 octets", &[65, 2, 0, 1]),
        ("RFC 5492 section 4: longer than its parameter", &[2, 1]),
    ] {
        let n = Open::read(&with_capabilities(octets)).unwrap_err();
        assert_eq!((n.code, n.subcode), (2, 0), "{row}");
    }
}

#[test]
fn roles() {
    use Role::*;
    for (ours, theirs, fit) in [
        (Some(Provider as u8), Some(Customer as u8), true),
        (Some(Customer as u8), Some(Provider as u8), true),
        (Some(RouteServer as u8), Some(RouteServerClient as u8), true),
        (Some(RouteServerClient as u8), Some(RouteServer as u8), true),
        (Some(Peer as u8), Some(Peer as u8), true),
        (Some(Provider as u8), Some(Provider as u8), false),
        (Some(Peer as u8), Some(Customer as u8), false),
        (Some(Peer as u8), Some(9), false),
        (None, Some(9), true),
        (Some(Peer as u8), None, true),
    ] {
        let caps = |role| Capabilities { role, ..Default::default() };
        assert_eq!(caps(ours).roles_fit(&caps(theirs)), fit, "RFC 9234 table 2: {ours:?} with {theirs:?}");
    }
    assert_eq!(read(&[9, 1, 4, 9, 1, 4]).role, Some(4), "RFC 9234 section 4.2: the same twice is one");
    let n = Open::read(&with_capabilities(&[9, 1, 4, 9, 1, 3])).unwrap_err();
    assert_eq!((n.code, n.subcode), (2, iana::ROLE_MISMATCH), "section 4.2: two that differ");
}

#[test]
fn what_both_sides_have() {
    let full = Capabilities {
        ipv4: true,
        ipv6: true,
        route_refresh: true,
        four_octet_as: true,
        extended_next_hop: true,
        add_path: [AddPath { send: true, receive: false }; 2],
        ..Default::default()
    };
    let peer = Capabilities {
        ipv4: true,
        four_octet_as: true,
        add_path: [AddPath { send: true, receive: true }; 2],
        extended_next_hop: true,
        extended_messages: true,
        graceful_restart: Some(GracefulRestart::default()),
        ..Default::default()
    };
    let common = full.common(&peer);
    let want = Capabilities {
        ipv4: true,
        four_octet_as: true,
        extended_next_hop: true,
        add_path: [AddPath { send: true, receive: false }, AddPath::default()],
        ..Default::default()
    };
    assert_eq!(common, want, "add-path for families of both only, in the directions that fit");
}

/// RFC 9072 section 2: capabilities of more than 255 octets, and the form of others who use it for fewer.
#[test]
fn extended_parameters() {
    let fixed = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1];
    for first in [255, 7] {
        let body = [&fixed[..], &[first, 255, 0, 9, 2, 0, 6, 1, 4, 0, 2, 0, 1]].concat();
        assert!(Open::read(&body).unwrap().capabilities.ipv6, "the first length is ignored: {first}");
    }
    let body = [&fixed[..], &[255, 255, 0, 8, 2, 0, 6, 1, 4, 0, 2, 0, 1]].concat();
    assert!(Open::read(&body).is_err(), "a length that is not that of the message");
    let one: Vec<u8> = (0..60).flat_map(|code| [200 + code % 50, 3, 1, 2, 3]).collect();
    let [a, b] = (one.len() as u16 + 3).to_be_bytes();
    let [c, d] = (one.len() as u16).to_be_bytes();
    let body = [&fixed[..], &[255, 255, a, b, 2, c, d], &one].concat();
    assert_eq!(Open::read(&body).unwrap().capabilities.unknown.len(), 50);
}

fn any_capabilities() -> impl Strategy<Value = Capabilities> {
    let flags = prop::array::uniform6(any::<bool>());
    let gr = (any::<(bool, bool)>(), 0u16..4096, any::<(Option<bool>, Option<bool>)>());
    let llgr =
        any::<(bool, u32)>().prop_map(|(preserved, t)| LongLivedFamily { preserved, stale_time: t & MAX_STALE_TIME });
    let llgr = (prop::option::of(llgr.clone()), prop::option::of(llgr));
    let add_path = any::<(bool, bool)>().prop_map(|(send, receive)| AddPath { send, receive });
    let fqdn = ("[a-zé-]{0,40}", "[a-z.]{0,64}");
    let options = (prop::option::of(gr), prop::option::of(llgr), prop::option::of(0u8..6), prop::option::of(fqdn));
    (flags, prop::array::uniform2(add_path), options, any::<bool>()).prop_map(
        |([ipv6, rr, err, as4, ext, enh], add_path, (gr, llgr, role, fqdn), ipv4)| Capabilities {
            ipv4: ipv4 || !ipv6,
            ipv6,
            route_refresh: rr,
            enhanced_route_refresh: err,
            four_octet_as: as4,
            extended_messages: ext,
            extended_next_hop: enh,
            graceful_restart: gr.map(|((restarting, notification), restart_time, (ipv4, ipv6))| GracefulRestart {
                restarting,
                notification,
                restart_time,
                ipv4,
                ipv6,
            }),
            long_lived: gr.and(llgr).map(|(ipv4, ipv6)| LongLived { ipv4, ipv6 }),
            add_path,
            role,
            fqdn: fqdn.map(|(host, domain)| Fqdn { host, domain }),
            unknown: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn opens_round_trip(asn in 1u32.., hold in 3u16.., id in 1u32.., capabilities in any_capabilities()) {
        let asn = if capabilities.four_octet_as { asn } else { asn % 65535 + 1 };
        let mut open = Open { asn, hold_time: hold, router_id: id.into(), capabilities };
        if let Some(fqdn) = &mut open.capabilities.fqdn {
            while fqdn.host.len() > 64 {
                fqdn.host.pop();
            }
        }
        let mut out = Vec::new();
        open.write(&mut out);
        prop_assert_eq!(Open::read(frame(&out, MAX_MESSAGE_LEN).unwrap().unwrap().body), Ok(open));
    }
}

#[test]
fn a_context_of_what_is_common() {
    use crate::wire::attribute::Context;
    let common = Capabilities {
        ipv6: true,
        extended_messages: true,
        add_path: [AddPath::default(), AddPath { send: false, receive: true }],
        ..Default::default()
    };
    let cx = Context::new(&common, true, [192, 0, 2, 1].into());
    assert!(!cx.family(Family::Ipv4) && cx.family(Family::Ipv6) && cx.has_path_ids(Family::Ipv6));
    assert_eq!(cx.max_message_len(), 65535);
}
