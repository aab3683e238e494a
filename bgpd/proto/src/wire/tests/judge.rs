//! What `judge` says of whole messages, and that it says what sessions do.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{body, cx, with};
use crate::wire::attribute::Context;
use crate::wire::iana::*;
use crate::wire::judge::{judge, parse_hex};
use crate::wire::{MessageType, RouteRefresh, write_keepalive, write_message};

fn update(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, MessageType::Update, |out| out.extend_from_slice(body));
    out
}

fn said(cx: &Context, octets: &[u8]) -> Value {
    let mut all = serde_json::to_value(judge(cx, octets)).unwrap();
    all.get_mut(0).map(Value::take).unwrap_or_default()
}

#[test]
fn hexadecimal_in_many_forms() {
    for text in ["ffff0a", "ff:FF:0a", "0xff 0xff\n0x0a", " ff ff 0a "] {
        assert_eq!(parse_hex(text).unwrap(), [255, 255, 10], "{text}");
    }
    assert!(parse_hex("ff0").unwrap_err().contains('3'), "half an octet");
    assert!(parse_hex("fg").unwrap_err().contains("'g'"));
}

#[test]
fn an_update_in_words() {
    let attributes: [(u8, u8, &[u8]); 6] = [
        (0x40, ORIGIN, &[0]),
        (0x40, AS_PATH, &[2, 2, 0, 0, 0xfd, 0xe9, 0, 1, 0, 0, 1, 1, 0, 0, 0, 7]),
        (0x40, NEXT_HOP, &[192, 0, 2, 1]),
        (0xc0, COMMUNITIES, &[0xff, 0xff, 0xff, 1, 0xfd, 0xe9, 0, 100]),
        (0xc0, EXTENDED_COMMUNITIES, &[0, 2, 0xfd, 0xe9, 0, 0, 0, 9]),
        (0xc0, 200, &[1, 2]),
    ];
    let view = |kind: u8, name: &str, flags: Value, length: usize, value: Value| json!({ "type": kind, "name": name, "flags": flags, "length": length, "value": value });
    let well_known = json!(["transitive"]);
    let optional = json!(["optional", "transitive"]);
    let want = json!({
        "length": 82,
        "type": "update",
        "withdrawn": [],
        "attributes": [
            view(1, "ORIGIN", well_known.clone(), 1, json!("IGP")),
            view(2, "AS_PATH", well_known.clone(), 16, json!("65001 65536 {7}")),
            view(3, "NEXT_HOP", well_known, 4, json!("192.0.2.1")),
            view(8, "COMMUNITIES", optional.clone(), 8, json!(["NO_EXPORT", "65001:100"])),
            view(16, "EXTENDED COMMUNITIES", optional.clone(), 8, json!(["rt:65001:9"])),
            view(200, "unknown", optional, 2, json!({ "octets": "0102" })),
        ],
        "nlri": ["10.0.0.0/8"],
        "verdict": { "action": "accept", "findings": [], "announced": ["10.0.0.0/8"] },
    });
    assert_eq!(said(&cx(false), &update(&body(&attributes))), want);
}

#[test]
fn verdicts() {
    for (row, body, action, want) in [
        (
            "RFC 7606 section 7.8",
            with(false, 0xc0, COMMUNITIES, &[1, 2, 3]),
            "treat-as-withdraw",
            json!({ "attribute": "COMMUNITIES", "action": "treat-as-withdraw", "reason": "length is no multiple, or 0", "rule": "RFC 7606 section 7.8" }),
        ),
        (
            "section 7.7",
            with(false, 0xc0, AGGREGATOR, &[1]),
            "attribute-discard",
            json!({ "attribute": "AGGREGATOR", "action": "attribute-discard", "reason": "length does not fit the AS number capability", "rule": "RFC 7606 section 7.7" }),
        ),
        (
            "section 3 (g)",
            [&[0, 0, 0, 12, 0x80, 15, 3, 0, 2, 1], &[0x80, 15, 3, 0, 2, 1][..]].concat(),
            "session-reset",
            json!({ "action": "session-reset", "reason": "MP_REACH_NLRI or MP_UNREACH_NLRI twice", "rule": "RFC 7606 section 3 (g)" }),
        ),
    ] {
        let verdict = &said(&cx(false), &update(&body))["verdict"];
        assert_eq!((&verdict["action"], &verdict["findings"][0]), (&json!(action), &want), "{row}");
    }
    let reset = &said(&cx(false), &update(&[0, 9, 0, 0]))["verdict"];
    assert_eq!(reset["notification"]["meaning"], "malformed attribute list (3/1)");
    let end = &said(&cx(false), &update(&[0; 4]))["verdict"];
    assert_eq!(end, &json!({ "action": "accept", "findings": [], "endOfRib": "IPv4" }));
}

#[test]
fn other_messages() {
    let mut octets = Vec::new();
    write_keepalive(&mut octets);
    let refresh = RouteRefresh { family: crate::af::Family::Ipv6, kind: crate::wire::RefreshKind::BeginOfRib };
    refresh.write(&mut octets);
    crate::wire::Notification::cease_with_text(2, "bye").write(&mut octets);
    let open = super::open::with_capabilities(&[
        1, 4, 0, 2, 0, 1, 64, 6, 0xc0, 120, 0, 1, 1, 0x80, 69, 4, 0, 1, 1, 2, 99, 1, 7,
    ]);
    write_message(&mut octets, MessageType::Open, |out| out.extend_from_slice(&open));
    octets.extend_from_slice(&[0; 20]);
    let all = serde_json::to_value(judge(&cx(false), &octets)).unwrap();
    assert_eq!(all[0], json!({ "length": 19, "type": "keepalive", "verdict": { "action": "accept", "findings": [] } }));
    assert_eq!((&all[1]["family"], &all[1]["kind"]), (&json!("IPv6"), &json!("begin of RIB")));
    assert_eq!(all[2]["meaning"], r#"administrative shutdown (6/2): "bye""#);
    let capability = |code: u8, name: &str, value: &str| json!({ "code": code, "name": name, "value": value });
    assert_eq!(
        all[3]["capabilities"],
        json!([
            capability(1, "Multiprotocol Extensions", "IPv6 unicast"),
            capability(64, "Graceful Restart", "120 s, restarting, notification; IPv4 (forwarding kept)"),
            capability(69, "ADD-PATH", "IPv4 send"),
            capability(99, "unknown", "07"),
        ])
    );
    assert_eq!(all[4]["verdict"]["notification"]["meaning"], "connection not synchronized (1/1)");
    assert_eq!(all.as_array().map(Vec::len), Some(5));
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200), kind in 1u8..6) {
        let mut message = [&[0xff; 16][..], &(octets.len() as u16 + 19).to_be_bytes(), &[kind], &octets].concat();
        judge(&cx(true), &message);
        message.truncate(message.len() / 2);
        judge(&cx(true), &message);
    }
}
