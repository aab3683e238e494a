//! The API over its socket, with a speaker behind it that has routes of its own.

use bgp_plan::config::{Origin, PeerConfig, PeerId, PeerType, SpeakerConfig};
use bgp_proto::af::Prefix;
use serde_json::Value;

use super::*;
use crate::speaker::Start;

struct Daemon {
    speaker: Handle,
    server: status::Server,
    _dir: tempfile::TempDir,
}

impl Daemon {
    /// With `n` routes of its own, 10.0.0.0/24 and up, and a peer that is never there.
    async fn start(n: u32) -> Daemon {
        let speaker = Handle::start(Start::default()).unwrap();
        let mut config = SpeakerConfig::new([10, 0, 0, 1].into(), 65001);
        let mut peer = PeerConfig::new("away", PeerType::Global, 65001, 65002);
        peer.passive = true;
        config.peers.insert(PeerId::new([192, 0, 2, 1].into(), 179), peer);
        speaker.configure(config).await.unwrap().unwrap();
        let origin = |i: u32| Origin {
            prefix: Prefix::new(std::net::Ipv4Addr::from(10 << 24 | i << 8).into(), 24).unwrap(),
            communities: Vec::new(),
            interface: None,
            priority: None,
            export: true,
            rule: "",
        };
        speaker.originate((0..n).map(origin).collect());
        let dir = tempfile::tempdir().unwrap();
        let readiness = latest::channel(Readiness::default()).1;
        let server = status::serve(dir.path(), "bgpd", router(speaker.clone(), readiness)).await.unwrap();
        Daemon { speaker, server, _dir: dir }
    }

    async fn json(&self, path: &str) -> Value {
        status::get_json(self.server.socket(), path).await.unwrap()
    }
}

#[tokio::test]
async fn the_table_as_a_file_begins_with_its_peers() {
    let daemon = Daemon::start(3).await;
    let mut file = status::lines(daemon.server.socket(), "/v1/mrt").await.unwrap();
    let octets = file.next_octets().await.unwrap().unwrap();
    // RFC 6396 section 4.3.1: after type, subtype and length our identifier, a view without a name, one peer.
    assert_eq!(octets[4..8], [0, 13, 0, 1]);
    assert_eq!(octets[12..20], [10, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(octets[25..29], [192, 0, 2, 1], "the peer's address");
    assert!(file.next_octets().await.unwrap().is_none(), "routes of our own came from no peer");
}

#[tokio::test]
async fn routes_are_one_list_made_of_many_slices() {
    let daemon = Daemon::start(5000).await;
    let all = daemon.json("/v1/routes").await;
    assert_eq!(all.as_array().unwrap().len(), 5000);
    assert_eq!(daemon.json("/v1/routes?view=received").await, serde_json::json!([]));
    let some = daemon.json("/v1/routes?prefix=10.0.8.0/22&match=longer").await;
    assert_eq!(some.as_array().unwrap().len(), 4);
    let one = daemon.json("/v1/routes?prefix=10.0.9.77&match=covering").await;
    assert_eq!(one[0]["prefix"], "10.0.9.0/24");
    let mut lines = status::lines(daemon.server.socket(), "/v1/routes?format=lines").await.unwrap();
    let mut count = 0;
    while let Some(line) = lines.next().await.unwrap() {
        assert!(serde_json::from_str::<Value>(&line).unwrap()["prefix"].is_string(), "{line}");
        count += 1;
    }
    assert_eq!(count, 5000);
}

#[tokio::test]
async fn a_wrong_request_is_told_what_would_be_right() {
    let daemon = Daemon::start(0).await;
    for (path, want) in [
        ("/v1/routes?view=received&peer=192.0.2.11", "there is no peer 192.0.2.11; did you mean 192.0.2.1?"),
        ("/v1/routes?view=advertised", "view=advertised needs peer=ADDRESS"),
        (
            "/v1/routes?view=advertised&peer=leaf1",
            "'leaf1' is no address, and the name or interface of no peer; the peers are 192.0.2.1",
        ),
        ("/v1/peer?peer=awau", "'awau' is no address, and the name or interface of no peer; did you mean away?"),
        ("/v1/peer?peer=fe80::1%25eth0", "'fe80::1%eth0' is no address, and"),
        ("/v1/routes?prefix=10.0.0.0/33", "'10.0.0.0/33' is no prefix: use 10.0.0.0/8, 2001:db8::/32, or an address"),
        ("/v1/routes?community=1", "'1' is no community: use aa:nn"),
        ("/v1/routes?wiew=best", "wiew"),
        ("/v1/routes?view=besst", "besst"),
        ("/v1/watch?peer=10.9.9.9", "there is no peer 10.9.9.9; the peers are 192.0.2.1"),
    ] {
        let error = status::get_json::<Value>(daemon.server.socket(), path).await.unwrap_err().to_string();
        assert!(error.contains(want), "{path}: {error}");
    }
}

/// Behind an interface where nobody was heard there is nothing to show, but the interface is not unknown.
#[tokio::test]
async fn who_was_not_heard_yet_is_no_mistake_of_the_operator() {
    let daemon = Daemon::start(0).await;
    let mut config = SpeakerConfig::new([10, 0, 0, 1].into(), 65001);
    config.unnumbered.insert("eth7".into(), PeerConfig::new("uplink", PeerType::Global, 65001, 0));
    daemon.speaker.configure(config).await.unwrap().unwrap();
    for whom in ["eth7", "uplink"] {
        for path in ["/v1/routes?view=received&peer=", "/v1/watch?peer="] {
            let path = format!("{path}{whom}");
            let error = status::get_json::<Value>(daemon.server.socket(), &path).await.unwrap_err().to_string();
            assert_eq!(error, "no neighbour was heard on eth7 yet", "{path}");
        }
        let reply = status::post(daemon.server.socket(), &format!("/v1/clear?peer={whom}")).await.unwrap();
        assert_eq!(reply.status, 404);
    }
}

#[tokio::test]
async fn a_peer_is_known_by_its_address_and_by_its_name() {
    let daemon = Daemon::start(0).await;
    for whom in ["192.0.2.1", "away"] {
        let peer = daemon.json(&format!("/v1/peer?peer={whom}")).await;
        assert_eq!(peer[0]["address"], "192.0.2.1", "{whom}");
        assert_eq!(daemon.json(&format!("/v1/routes?view=received&peer={whom}")).await, serde_json::json!([]));
    }
}

#[tokio::test]
async fn a_watcher_hears_of_best_paths() {
    let daemon = Daemon::start(1).await;
    daemon.json("/v1/routes").await;
    let mut lines = status::lines(daemon.server.socket(), "/v1/watch?prefix=10.0.0.0/8").await.unwrap();
    daemon.speaker.originate(Vec::new());
    let line = lines.next().await.unwrap().unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&event["event"], &event["prefix"]), (&"bestPath".into(), &"10.0.0.0/24".into()), "{line}");
    assert!(event["best"].is_null() || event["best"]["peer"].is_null(), "{line}");
}

#[tokio::test]
async fn metrics_tell_of_each_session_and_of_the_tables() {
    let daemon = Daemon::start(3).await;
    let text = status::get(daemon.server.socket(), "/metrics").await.unwrap().body;
    let text = String::from_utf8(text).unwrap();
    let peer = r#"peer="192.0.2.1",name="away""#;
    for line in [
        format!("tortie_bgp_peer_info{{{peer},type=\"global\",local_as=\"65001\",remote_as=\"65002\"}} 1.0"),
        format!("tortie_bgp_peer_up{{{peer}}} 0.0"),
        format!("tortie_bgp_peer_state{{{peer}}} 3.0"),
        format!("tortie_bgp_flaps_total{{{peer}}} 0"),
        format!("tortie_bgp_messages_total{{{peer},direction=\"in\",type=\"update\"}} 0"),
        format!("tortie_bgp_received_prefixes{{{peer},family=\"IPv4\"}} 0.0"),
        "tortie_bgp_rib_paths{family=\"IPv4\"} 3.0".into(),
        "tortie_bgp_flapping_prefixes 0".into(),
        format!("tortie_bgp_peer_flapping_prefixes{{{peer}}} 0.0"),
        format!("tortie_bgp_malformed_updates_total{{{peer},remedy=\"withdraw\"}} 0"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("10.0."), "no series for a prefix: {text}");
}

#[tokio::test]
async fn the_status_has_what_stands_below_calicos_table() {
    let daemon = Daemon::start(1).await;
    let status = daemon.json("/v1/status").await;
    assert_eq!((&status["routerId"], &status["localAs"]), (&"10.0.0.1".into(), &65001.into()));
    assert_eq!(status["waitingFor"], "the store is not in sync yet");
    assert!(status["flapping"].as_array().is_some_and(Vec::is_empty), "{status}");
}

#[tokio::test]
async fn clear_takes_a_message_for_the_peer_but_not_with_soft() {
    let daemon = Daemon::start(0).await;
    let clear = async |query: &str| {
        let path = format!("/v1/clear?{query}");
        let reply = status::post(daemon.server.socket(), &path).await.unwrap();
        (reply.status, String::from_utf8(reply.body).unwrap())
    };
    assert_eq!(clear("peer=192.0.2.1&message=maintenance").await, (200, r#"{"cleared":1}"#.into()));
    assert_eq!(clear("soft=in").await, (200, r#"{"cleared":1}"#.into()));
    assert_eq!(clear("soft=in&message=x").await.0, 400);
    assert_eq!(clear(&format!("message={}", "x".repeat(256))).await.0, 400);
    assert_eq!(
        clear("peer=192.0.2.2").await,
        (404, r#"{"error":"there is no peer 192.0.2.2; did you mean 192.0.2.1?"}"#.into())
    );
}
