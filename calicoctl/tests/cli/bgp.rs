//! What the daemons' sockets say, and plans without a daemon.

use crate::fleet::{Fleet, run};

#[test]
fn both_names_read_the_sockets() {
    let fleet = Fleet::new();
    let peers = serde_json::json!([
        {"name": "bgp-peer-1", "address": "192.168.1.1", "port": 179, "type": "node specific", "remoteAs": 1111111, "localAs": 1111111,
         "state": "Established", "up": true, "since": "2023-08-17T10:00:00.123456789Z", "lastError": null, "received": 3, "advertised": 2, "family": "ipv4"}]);
    let routes = serde_json::json!(
        {"prefix": "1.1.1.0/29", "nextHop": "192.168.1.4", "asPath": [], "localPref": 100, "med": null, "communities": ["65000:1"], "peer": null, "best": true});
    let router = axum::Router::new()
        .route("/v1/peers", axum::routing::get(move || async move { axum::Json(peers) }))
        .route("/v1/status", axum::routing::get(|| async { axum::Json(serde_json::json!({})) }))
        .route("/v1/routes", axum::routing::get(move || async move { format!("{routes}\n") }));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _server = runtime.block_on(status::serve(fleet.dir.path(), "bgpd", router)).unwrap();
    let services = serde_json::json!([
        {"service": "test/web", "kind": "ClusterIp", "addr": "10.96.0.1", "port": 80, "protocol": "TCP", "served": true, "announced": false,
         "backends": [{"addr": "1.1.1.1", "port": 8080, "is_local": true}, {"addr": "1.1.2.1", "port": 8080, "is_local": false}]}]);
    let status = serde_json::json!({"node": "worker01", "ready": true, "counts": {"frontends": 1}});
    let router = axum::Router::new()
        .route("/v1/services", axum::routing::get(move || async move { axum::Json(services) }))
        .route("/v1/status", axum::routing::get(move || async move { axum::Json(status) }));
    let _felix = runtime.block_on(status::serve(fleet.dir.path(), "felix", router)).unwrap();
    let run_dir = fleet.dir.path().to_str().unwrap();
    for program in [env!("CARGO_BIN_EXE_calicoctl"), env!("CARGO_BIN_EXE_bgpctl")] {
        let status = run(program, fleet.dir.path(), &["node", "status", "--run-dir", run_dir], "");
        assert!(
            status.stdout.starts_with("Calico process is running.\n\nIPv4 BGP status\n+--------------+"),
            "{}",
            status.stderr
        );
        assert!(
            status.stdout.contains("| 192.168.1.1  | node specific | up    | 2023-08-17 | Established |"),
            "{}",
            status.stdout
        );
        let routes = run(program, fleet.dir.path(), &["routes", "best", "--run-dir", run_dir], "").stdout;
        assert!(routes.contains("1.1.1.0/29   192.168.1.4") && routes.contains(" self   true "), "{routes}");
        let sent = run(program, fleet.dir.path(), &["routes", "advertised", "--run-dir", run_dir], "").stdout;
        assert!(sent.contains("192.168.1.1   1.1.1.0/29"), "{sent}");
        let peers = run(program, fleet.dir.path(), &["peers", "--run-dir", run_dir], "").stdout;
        assert!(peers.contains(" 2023-08-17T10:00:00Z "), "{peers}");
        let peers = run(program, fleet.dir.path(), &["peers", "-o", "json", "--run-dir", run_dir], "").stdout;
        assert!(peers.contains("\"bgp-peer-1\""), "{peers}");
        let list = run(program, fleet.dir.path(), &["lb", "list", "--run-dir", run_dir], "").stdout;
        let want =
            "test/web   ClusterIP   10.96.0.1   80     TCP        true     false       1.1.1.1:8080 1.1.2.1:8080   \n";
        assert!(list.contains(want), "{list}");
        let state = run(program, fleet.dir.path(), &["lb", "status", "--run-dir", run_dir], "").stdout;
        assert!(state.starts_with("Node:       worker01"), "{state}");
    }
}

const TWO_SWITCHES: &str = r#"
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 192.0.2.4/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {peerRange: 192.0.2.0/29, password: {secretKeyRef: {name: bgp, key: leaf}}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: uplink}
spec: {peerInterface: eth1, asNumber: 65002}
"#;

/// As bgpd finds them: in the namespace it is told, and as files.
#[test]
fn a_plan_knows_the_passwords_that_are_files() {
    let fleet = Fleet::new();
    fleet.apply(TWO_SWITCHES);
    let plan = |args: &[&str]| {
        let outcome = fleet.run(&[&["plan", "--node", "a"], args].concat(), "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    assert!(plan(&["--namespace", "net"]).contains("there is no Secret net/bgp"));
    std::fs::create_dir_all(fleet.dir.path().join("secrets/bgp")).unwrap();
    std::fs::write(fleet.dir.path().join("secrets/bgp/leaf"), "hunter2\n").unwrap();
    let secrets = fleet.dir.path().join("secrets");
    let found = plan(&["--secrets-dir", secrets.to_str().unwrap()]);
    assert!(!found.contains("no Secret") && found.contains(" password ") && !found.contains("hunter2"), "{found}");
}

#[test]
fn a_switch_is_chosen_by_what_names_it() {
    let fleet = Fleet::new();
    fleet.apply(TWO_SWITCHES);
    let config = |args: &[&str]| fleet.run(&[&["switch-config", "--vendor", "frr"], args].concat(), "");
    let all = config(&[]);
    assert!(all.stdout.contains("router bgp 65002") && all.stderr.contains("--as-number"), "{}", all.stderr);
    let inside = config(&["--peer", "192.0.2.1", "--as-number", "65001"]);
    for want in
        ["router bgp 65001", " bgp router-id 192.0.2.1", " neighbor 192.0.2.4 peer-group tortie-v4", "CHANGE-ME"]
    {
        assert!(inside.stdout.contains(want), "{want}: {}{}", inside.stdout, inside.stderr);
    }
    assert!(config(&["--peer", "eth1"]).stdout.contains(" neighbor swp1 interface peer-group tortie-link"));
    for (peer, want) in [
        ("192.0.2.1", "nothing is left of 1 switch"),
        ("192.0.2.9", "no session leads to 192.0.2.9; the switches are 192.0.2.0/29, eth1"),
    ] {
        let outcome = config(&["--peer", peer]);
        assert!(outcome.code == 1 && outcome.stderr.contains(want), "{}", outcome.stderr);
    }
}
