//! Headers, NOTIFICATION and ROUTE-REFRESH.

use crate::af::Family;
use crate::wire::*;

#[test]
fn headers() {
    let message = |len: u16, kind: u8| [&[0xff; 16][..], &len.to_be_bytes(), &[kind], &[0; 40]].concat();
    for (row, octets, want) in [
        ("marker", vec![0; 19], (1, 1)),
        ("length below 19", message(18, 4), (1, 2)),
        ("length above 4096", message(4097, 2), (1, 2)),
        ("KEEPALIVE with a body", message(20, 4), (1, 2)),
        ("OPEN too short", message(28, 1), (1, 2)),
        ("UPDATE too short", message(22, 2), (1, 2)),
        ("NOTIFICATION too short", message(20, 3), (1, 2)),
        ("type", message(19, 9), (1, 3)),
    ] {
        let n = frame(&octets, MAX_MESSAGE_LEN).unwrap_err();
        assert_eq!((n.code, n.subcode), want, "{row}");
    }
    // RFC 8654 section 4.
    for (row, len, kind, whole) in [
        ("UPDATE", 65535, 2, true),
        ("NOTIFICATION", 4097, 3, true),
        ("ROUTE-REFRESH", 5000, 5, true),
        ("OPEN stays at 4096", 4097, 1, false),
    ] {
        let octets = [&message(len, kind)[..19], &vec![0; usize::from(len) - 19]].concat();
        let read = frame(&octets, MAX_EXTENDED_MESSAGE_LEN);
        assert_eq!(read.is_ok_and(|f| f.is_some_and(|f| f.len == usize::from(len))), whole, "extended {row}");
    }
    assert_eq!(frame(&message(19, 4)[..18], MAX_MESSAGE_LEN), Ok(None), "incomplete");
}

/// What operators read of each.
#[test]
fn notifications_in_words() {
    let n = Notification::new;
    let text = "\u{4}Wärm".as_bytes();
    for (notification, words) in [
        (n(1, 2, &[0x10, 1]), "bad message length (1/2): length 4097"),
        (n(1, 3, &[9]), "bad message type (1/3): type 9"),
        (n(2, 1, &[0, 4]), "unsupported version (2/1): version 4 is supported"),
        (
            n(2, 7, &[1, 4, 0, 2, 0, 1, 200, 0]),
            "unsupported capability (2/7): Multiprotocol Extensions, capability 200",
        ),
        (n(2, 11, &[]), "role mismatch (2/11)"),
        (n(3, 5, &[0x40, 3, 1, 0]), "attribute length error (3/5): NEXT_HOP"),
        (n(3, 3, &[2]), "missing well-known attribute (3/3): AS_PATH"),
        (n(3, 2, &[0x40, 99, 0]), "unrecognized well-known attribute (3/2): attribute 99"),
        (n(4, 0, &[]), "hold timer expired (4/0)"),
        (n(5, 3, &[]), "unexpected message in Established state (5/3)"),
        (n(6, 1, &[0, 2, 1, 0, 0, 3, 232]), "maximum number of prefixes reached (6/1): at most 1000 of IPv6"),
        (n(6, 2, &[]), "administrative shutdown (6/2)"),
        (
            Notification::cease_with_text(4, "line\ncard \u{1b}[2J"),
            r#"administrative reset (6/4): "line\ncard \u{1b}[2J""#,
        ),
        (n(6, 2, text), r#"administrative shutdown (6/2): "Wär""#),
        (n(6, 2, &[2, 0xff, 0xff]), "administrative shutdown (6/2)"),
        (n(6, 2, &[9, b'a']), "administrative shutdown (6/2)"),
        (n(6, 3, &[1, b'a']), "peer de-configured (6/3)"),
        (n(6, 8, &[]), "out of resources (6/8)"),
        (n(4, 0, &[]).hard_reset(), "hard reset (6/9): hold timer expired (4/0)"),
        (Notification::cease_with_text(2, "x").hard_reset(), r#"hard reset (6/9): administrative shutdown (6/2): "x""#),
        (n(6, 9, &[6]), "hard reset (6/9)"),
        (n(6, 9, &[6, 9, 6, 9, 4, 0]), "hard reset (6/9): hard reset (6/9)"),
        (n(6, 10, &[]), "BFD down (6/10)"),
        (n(7, 1, &[]), "invalid length of a ROUTE-REFRESH (7/1)"),
        (n(8, 0, &[]), "send hold timer expired (8/0)"),
        (n(99, 1, &[]), "unknown error (99/1)"),
    ] {
        assert_eq!(notification.describe(), words);
        let mut out = Vec::new();
        notification.write(&mut out);
        let body = frame(&out, MAX_MESSAGE_LEN).unwrap().unwrap().body;
        assert_eq!(Notification::read(body), notification, "{words}");
    }
}

/// RFC 8538 section 3: what is inside a Hard Reset may be another, as often as a message has room.
#[test]
fn hard_resets_inside_each_other_are_read_as_one() {
    let data = [6, 9].repeat(32_000);
    let nested = Notification::new(6, 9, &data);
    assert_eq!(nested.describe(), "hard reset (6/9): hard reset (6/9)");
}

/// RFC 9003 section 2: 255 octets, of whole characters.
#[test]
fn shutdown_text_is_cut_between_characters() {
    let n = Notification::cease_with_text(2, &"é".repeat(200));
    assert_eq!((n.data[0], n.data.len()), (254, 255));
    assert_eq!(n.shutdown_text(), Some("é".repeat(127).as_str()));
    assert_eq!(Notification::cease_with_text(2, "").shutdown_text(), None);
}

#[test]
fn maximum_prefixes_says_which_and_how_many() {
    assert_eq!(Notification::maximum_prefixes(Family::Ipv6, 1000).data, [0, 2, 1, 0, 0, 3, 232], "RFC 4486 section 4");
}

#[test]
fn route_refreshes() {
    let is = |family, kind| Some(RouteRefresh { family, kind });
    for (row, enhanced, body, want) in [
        ("RFC 2918 section 3", false, &[0, 1, 0, 1][..], is(Family::Ipv4, RefreshKind::Request)),
        ("IPv6", true, &[0, 2, 0, 1], is(Family::Ipv6, RefreshKind::Request)),
        ("RFC 7313 section 3.2: BoRR", true, &[0, 1, 1, 1], is(Family::Ipv4, RefreshKind::BeginOfRib)),
        ("EoRR", true, &[0, 2, 2, 1], is(Family::Ipv6, RefreshKind::EndOfRib)),
        ("a mark that was not negotiated", false, &[0, 1, 1, 1], None),
        ("RFC 7313 section 5: an unknown subtype", true, &[0, 1, 3, 1], None),
        ("another family", true, &[0, 1, 0, 2], None),
        ("RFC 5291: filters after it", true, &[0, 1, 0, 1, 1, 64, 0, 0], None),
    ] {
        assert_eq!(RouteRefresh::read(enhanced, body), Ok(want), "{row}");
        if let Some(refresh) = want {
            let mut out = Vec::new();
            refresh.write(&mut out);
            assert_eq!(frame(&out, MAX_MESSAGE_LEN).unwrap().unwrap().body, body, "{row}");
        }
    }
    let whole = |rest: &[u8]| [&[0xff; 16][..], rest].concat();
    for (row, enhanced, body, want, data) in [
        ("RFC 7313 section 5: a mark too long", true, &[0, 1, 1, 1, 9][..], (7, 1), whole(&[0, 24, 5, 0, 1, 1, 1, 9])),
        ("a mark too short", true, &[0, 1, 2], (7, 1), whole(&[0, 22, 5, 0, 1, 2])),
        ("a request too short", true, &[0, 1, 0], (1, 2), vec![0, 22]),
        ("a mark too short that was not negotiated", false, &[0, 1, 2], (1, 2), vec![0, 22]),
        ("nothing", true, &[], (1, 2), vec![0, 19]),
    ] {
        let n = RouteRefresh::read(enhanced, body).unwrap_err();
        assert_eq!(((n.code, n.subcode), n.data), (want, data), "{row}");
    }
}
