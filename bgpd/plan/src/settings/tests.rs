use serde_json::{Value, json};

use super::*;
use crate::config::PeerType;

/// What `fields` of a peer are under these settings, and the notes.
fn filled(settings: Value, fields: &[&str]) -> (Value, Vec<String>) {
    let mut notes = Vec::new();
    let mut peer = PeerConfig::new("p", PeerType::Global, 1, 2);
    let text = |field: &str| settings[field].as_str().map(str::to_string);
    let (restart, keepalive) = (text("maxRestartTime"), text("keepaliveTime"));
    let settings: BgpSessionSettings = serde_json::from_value(settings).unwrap();
    let mut filler = Filler { origin: "BGPPeer p", is_on_link: false, notes: &mut notes };
    filler.fill(&mut peer, &settings, restart.as_deref(), keepalive.as_deref());
    let peer = serde_json::to_value(&peer).unwrap();
    (fields.iter().map(|f| peer[*f].clone()).collect(), notes)
}

#[test]
fn every_setting_arrives() {
    let ms = |millis: u64| json!({"secs": millis / 1000, "nanos": millis % 1000 * 1_000_000});
    let bfd = |rx, tx, multiplier, multihop| json!([{"min_rx": ms(rx), "min_tx": ms(tx), "multiplier": multiplier, "is_multihop": multihop}]);
    let max = |ends, after: Option<u64>, warn| json!([{"limit": 10, "warn_at": warn, "ends_session": ends, "restart_after": after.map(ms)}]);
    let rows: Vec<(Value, &[&str], Value)> = vec![
        (json!({}), &["hold_time", "keepalive", "send_hold_time", "graceful_restart"], json!([90, null, 480, 120])),
        (json!({"holdTime": "9s", "keepaliveTime": "2.6s"}), &["hold_time", "keepalive"], json!([9, 3])),
        // RFC 9687 section 4.2: the longer of eight minutes and twice the hold time.
        (json!({"holdTime": "10m"}), &["hold_time", "send_hold_time"], json!([600, 1200])),
        (json!({"sendHoldTime": "20s"}), &["send_hold_time"], json!([20])),
        (json!({"sendHoldTime": "0"}), &["send_hold_time"], json!([0])),
        (json!({"keepaliveTime": "1.2s"}), &["keepalive"], json!([1])),
        (json!({"delayOpenTime": "1500ms"}), &["delay_open"], json!([ms(1500)])),
        (json!({"connectRetryTime": "200ms"}), &["connect_retry"], json!([ms(200)])),
        (json!({"gracefulRestart": {"mode": "Disabled"}}), &["graceful_restart"], json!([null])),
        (json!({"maxRestartTime": "30s"}), &["graceful_restart"], json!([30])),
        (
            json!({"longLivedGracefulRestart": {"staleTime": "60s"}}),
            &["graceful_restart", "long_lived_stale_time"],
            json!([120, 60]),
        ),
        (json!({"longLivedGracefulRestart": {"staleTime": "0s"}}), &["long_lived_stale_time"], json!([null])),
        // RFC 9494 section 3.1: never without the graceful restart capability.
        (
            json!({"longLivedGracefulRestart": {"staleTime": "60s"}, "gracefulRestart": {"mode": "Disabled"}}),
            &["long_lived_stale_time"],
            json!([null]),
        ),
        (json!({"families": ["IPv6"]}), &["v4", "v6"], json!([false, true])),
        (json!({"families": ["IPv4", "IPv6"]}), &["v4", "v6"], json!([true, true])),
        (json!({}), &["add_path_receive", "add_path_send"], json!([false, false])),
        (json!({"addPath": "Both"}), &["add_path_receive", "add_path_send"], json!([true, true])),
        (json!({"addPath": "Send"}), &["add_path_receive", "add_path_send"], json!([false, true])),
        (json!({"addPath": "None"}), &["add_path_receive", "add_path_send"], json!([false, false])),
        (json!({}), &["extended_messages", "extended_next_hop"], json!([true, false])),
        (
            json!({"extendedMessages": false, "extendedNextHop": true}),
            &["extended_messages", "extended_next_hop"],
            json!([false, true]),
        ),
        (json!({"bfd": {}}), &["bfd"], bfd(300, 300, 3, true)),
        (
            json!({"bfd": {"minRxInterval": "50ms", "minTxInterval": "100ms", "multiplier": 5, "multihop": false}}),
            &["bfd"],
            bfd(50, 100, 5, false),
        ),
        (json!({"bfd": {"mode": "Disabled"}}), &["bfd"], json!([null])),
        (json!({"maxPrefixes": {"limit": 10}}), &["max_prefixes"], max(true, Some(300_000), 75)),
        (
            json!({"maxPrefixes": {"limit": 10, "action": "Restart", "restartAfter": "30s", "warnAt": 50}}),
            &["max_prefixes"],
            max(true, Some(30_000), 50),
        ),
        (json!({"maxPrefixes": {"limit": 10, "action": "Shutdown"}}), &["max_prefixes"], max(true, None, 75)),
        (json!({"maxPrefixes": {"limit": 10, "action": "Warn"}}), &["max_prefixes"], max(false, None, 75)),
        (json!({"maxPrefixes": {"limit": 0}}), &["max_prefixes"], json!([null])),
        (
            json!({"role": "RouteServerClient", "roleStrict": true}),
            &["role", "role_is_strict"],
            json!(["RouteServerClient", true]),
        ),
        (json!({"roleStrict": true}), &["role", "role_is_strict"], json!([null, false])),
        (
            json!({"ebgpRequiresPolicy": true, "gracefulShutdown": true, "rejectASSets": true}),
            &["requires_policy", "graceful_shutdown", "rejects_as_sets"],
            json!([true, true, true]),
        ),
        (json!({"shutdown": {"message": "back at noon"}}), &["shutdown"], json!(["back at noon"])),
        (json!({"shutdown": {}}), &["shutdown"], json!([""])),
        // RFC 9003 section 2: whole characters, at most 255 octets.
        (json!({"shutdown": {"message": "é".repeat(200)}}), &["shutdown"], json!(["é".repeat(127)])),
    ];
    for (settings, fields, expected) in rows {
        assert_eq!(filled(settings.clone(), fields), (expected, Vec::new()), "{settings}");
    }
}

#[test]
fn what_cannot_be_used_is_noted() {
    let rows = [
        (json!({"holdTime": "2s"}), "hold_time", "holdTime is '2s', it must be 0s or a duration from 3s to 18h12m15s"),
        (json!({"holdTime": "soon"}), "hold_time", "holdTime is 'soon'"),
        (
            json!({"maxRestartTime": "2h"}),
            "graceful_restart",
            "maxRestartTime is '2h', it must be a duration from 1s to 1h8m15s",
        ),
        (json!({"keepaliveTime": "0s"}), "keepalive", "keepaliveTime is '0s'"),
        (json!({"connectRetryTime": "5"}), "connect_retry", "connectRetryTime is '5'"),
        (
            json!({"bfd": {"minTxInterval": "1h"}}),
            "v4",
            "bfd.minTxInterval is '1h', it must be a duration from 10ms to 1m",
        ),
        (json!({"maxPrefixes": {"limit": 1, "restartAfter": "-1s"}}), "v4", "maxPrefixes.restartAfter is '-1s'"),
    ];
    let (default, _) = filled(json!({}), &["hold_time", "graceful_restart", "keepalive", "connect_retry", "v4"]);
    for (settings, field, expected) in rows {
        let (got, notes) = filled(settings.clone(), &[field]);
        assert!(default.as_array().unwrap().contains(&got[0]), "{settings}: {got}");
        assert!(notes.len() == 1 && notes[0].starts_with("BGPPeer p: ") && notes[0].contains(expected), "{notes:?}");
    }
}
