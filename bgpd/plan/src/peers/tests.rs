//! Resources in, sessions out.

use api::Metadata;
use api::meta::{Body, Resource};
use serde_json::{Value, json};

use super::*;

fn object<B: Body>(name: &str, labels: &[(&str, &str)], spec: Value) -> (String, Resource<B>) {
    let mut metadata = Metadata::named(name);
    metadata.labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let body: B = serde_json::from_value(json!({ "spec": spec })).unwrap();
    (name.to_string(), Resource::new(metadata, body))
}

/// Three nodes: `a` .9, `b` .10 (rack 1), `c` .11 (rack 2, AS 64600); `a` and `c` have IPv6 too.
fn fleet() -> Resources {
    let mut r = Resources::default();
    let a = json!({"bgp": {"ipv4Address": "10.0.0.9/24", "ipv6Address": "2001:db8::9/64"}});
    let b = json!({"bgp": {"ipv4Address": "10.0.0.10/24"}});
    let c = json!({"bgp": {"ipv4Address": "10.0.0.11/24", "ipv6Address": "2001:db8::11/64", "asNumber": 64600}});
    r.nodes.extend([
        object("a", &[("rack", "1")], a),
        object("b", &[("rack", "1")], b),
        object("c", &[("rack", "2")], c),
    ]);
    r
}

fn without_mesh(mut r: Resources) -> Resources {
    configure(&mut r, "default", json!({"nodeToNodeMeshEnabled": false}));
    r
}

fn configure(r: &mut Resources, name: &str, spec: Value) {
    r.configurations.extend([object(name, &[], spec)]);
}

fn peering(r: &mut Resources, name: &str, spec: Value) {
    r.peers.extend([object(name, &[], spec)]);
}

fn set_cluster(r: &mut Resources, node: &str, id: &str) {
    let bgp = r.nodes.get_mut(node).unwrap().body.spec.bgp.as_mut().unwrap();
    bgp.route_reflector_cluster_id = Some(id.into());
}

fn planned(node: &str, r: &Resources) -> Plan {
    plan(node, r, RouterId::Hash).unwrap()
}

/// `name address:port remote-as flags`, one line a session; flags: passive, client, down.
fn sessions(node: &str, r: &Resources) -> Vec<String> {
    let peers = planned(node, r).config.peers;
    let line = |(id, p): (&PeerId, &PeerConfig)| {
        let flags = [(p.passive, " passive"), (p.rr_client, " client"), (p.down_reason.is_some(), " down")];
        let flags: String = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
        format!("{} {} as {}{flags}", p.name, SocketAddr::new(id.address, id.port), p.remote_as)
    };
    peers.iter().map(line).collect()
}

#[test]
fn session_tables() {
    type Setup = fn(&mut Resources);
    let rows: [(&str, &str, Setup, &[&str]); 19] = [
        (
            "the mesh: every node, both families; the higher address connects, compared as numbers",
            "a",
            |_| {},
            &[
                "Mesh_10_0_0_10 10.0.0.10:179 as 64512 passive",
                "Mesh_10_0_0_11 10.0.0.11:179 as 64600 passive",
                "Mesh_2001_db8__11 [2001:db8::11]:179 as 64600 passive",
            ],
        ),
        (
            "the other side of the same sessions",
            "b",
            |_| {},
            &["Mesh_10_0_0_9 10.0.0.9:179 as 64512", "Mesh_10_0_0_11 10.0.0.11:179 as 64600 passive"],
        ),
        (
            "a peer's own listen port",
            "b",
            |r| configure(r, "node.a", json!({"listenPort": 1179})),
            &["Mesh_10_0_0_9 10.0.0.9:1179 as 64512", "Mesh_10_0_0_11 10.0.0.11:179 as 64600 passive"],
        ),
        (
            "a route reflector is not in the mesh, seen from others",
            "b",
            |r| set_cluster(r, "a", "1.0.0.1"),
            &["Mesh_10_0_0_11 10.0.0.11:179 as 64600 passive"],
        ),
        ("a route reflector is not in the mesh, seen from itself", "a", |r| set_cluster(r, "a", "1.0.0.1"), &[]),
        ("without mesh there is nothing", "a", |r| *r = without_mesh(std::mem::take(r)), &[]),
        (
            "a global peer",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "tor", json!({"peerIP": "192.168.1.1", "asNumber": 64512}));
            },
            &["Global_192_168_1_1 192.168.1.1:179 as 64512"],
        ),
        (
            "a peer of this node with a port",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "tor", json!({"node": "a", "peerIP": "192.168.1.1:1790", "asNumber": "65000"}));
                peering(r, "six", json!({"node": "a", "peerIP": "[2001:db8::1]:1790", "asNumber": "1.10"}));
                peering(r, "other", json!({"node": "b", "peerIP": "192.168.1.2", "asNumber": 65000}));
            },
            &[
                "Node_192_168_1_1_port_1790 192.168.1.1:1790 as 65000",
                "Node_2001_db8__1_port_1790 [2001:db8::1]:1790 as 65546",
            ],
        ),
        (
            "a nodeSelector selects by this node's labels",
            "c",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "tor1", json!({"nodeSelector": "rack == '1'", "peerIP": "192.168.1.1", "asNumber": 65000}));
                peering(r, "tor2", json!({"nodeSelector": "rack == '2'", "peerIP": "192.168.2.1", "asNumber": 65000}));
            },
            &["Node_192_168_2_1 192.168.2.1:179 as 65000"],
        ),
        (
            "of two peers with the same address the global one counts",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "a-node", json!({"node": "a", "peerIP": "192.168.1.1", "asNumber": 1}));
                peering(r, "z-global", json!({"peerIP": "192.168.1.1", "asNumber": 2}));
            },
            &["Global_192_168_1_1 192.168.1.1:179 as 2"],
        ),
        (
            "a peer that is this node itself is skipped",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "self", json!({"peerIP": "10.0.0.9", "asNumber": 64512, "reversePeering": "Manual"}));
            },
            &[],
        ),
        (
            "a peerSelector selects nodes; the reflector's clients",
            "a",
            |r| {
                set_cluster(r, "a", "1.0.0.1");
                peering(r, "clients", json!({"nodeSelector": "rack == '1'", "peerSelector": "all()"}));
            },
            &[
                "Node_10_0_0_10 10.0.0.10:179 as 64512 passive client",
                "Node_10_0_0_11 10.0.0.11:179 as 64600 passive",
                "Node_2001_db8__11 [2001:db8::11]:179 as 64600 passive",
            ],
        ),
        (
            "a peerSelector makes the opposite session too",
            "c",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "to-c", json!({"nodeSelector": "rack == '1'", "peerSelector": "rack == '2'"}));
            },
            &[
                "Node_10_0_0_9 10.0.0.9:179 as 64512",
                "Node_10_0_0_10 10.0.0.10:179 as 64512",
                "Node_2001_db8__9 [2001:db8::9]:179 as 64512",
            ],
        ),
        (
            "reversePeering Manual makes none",
            "c",
            |r| {
                *r = without_mesh(std::mem::take(r));
                let spec =
                    json!({"nodeSelector": "rack == '1'", "peerSelector": "rack == '2'", "reversePeering": "Manual"});
                peering(r, "to-c", spec);
            },
            &[],
        ),
        (
            "a peerIP that is a node's address makes the opposite session, of its family",
            "c",
            |r| {
                *r = without_mesh(std::mem::take(r));
                let spec = json!({"node": "a", "peerIP": "10.0.0.11", "asNumber": 64600, "localASNumber": 64999});
                peering(r, "to-c", spec);
            },
            &["Node_10_0_0_9 10.0.0.9:179 as 64999"],
        ),
        (
            "reflectors of one cluster are plain iBGP to each other",
            "a",
            |r| {
                set_cluster(r, "a", "1.0.0.1");
                set_cluster(r, "b", "1.0.0.1");
                peering(r, "all", json!({"peerSelector": "all()"}));
            },
            &[
                "Global_10_0_0_10 10.0.0.10:179 as 64512 passive",
                "Global_10_0_0_11 10.0.0.11:179 as 64600 passive",
                "Global_2001_db8__11 [2001:db8::11]:179 as 64600 passive",
            ],
        ),
        (
            "what cannot be given holds a peer down",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                let secret = json!({"secretKeyRef": {"name": "bgp", "key": "password"}});
                peering(r, "p", json!({"peerIP": "192.168.1.1", "asNumber": 1, "password": secret}));
                peering(r, "f", json!({"peerIP": "192.168.1.2", "asNumber": 1, "filters": ["nope"]}));
                peering(r, "n", json!({"peerIP": "192.168.1.3"}));
            },
            &[
                "Global_192_168_1_1 192.168.1.1:179 as 1 down",
                "Global_192_168_1_2 192.168.1.2:179 as 1 down",
                "Global_192_168_1_3 192.168.1.3:179 as 0 down",
            ],
        ),
        (
            "passive is set by the user",
            "b",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "p", json!({"peerIP": "192.168.1.1", "asNumber": 1, "passive": true}));
                peering(r, "q", json!({"node": "b", "peerIP": "10.0.0.9", "asNumber": 64512, "passive": true}));
            },
            &["Node_10_0_0_9 10.0.0.9:179 as 64512 passive", "Global_192_168_1_1 192.168.1.1:179 as 1 passive"],
        ),
        (
            "and the other side of that session connects",
            "a",
            |r| {
                *r = without_mesh(std::mem::take(r));
                peering(r, "q", json!({"node": "b", "peerIP": "10.0.0.9", "asNumber": 64512, "passive": true}));
            },
            &["Node_10_0_0_10 10.0.0.10:179 as 64512"],
        ),
    ];
    for (name, node, setup, expected) in rows {
        let mut r = fleet();
        setup(&mut r);
        assert_eq!(sessions(node, &r), expected, "{name}");
    }
}

/// A BGPPeer's setting, else the node's, else everybody's.
#[test]
fn precedence_of_settings() {
    let mut r = fleet();
    peering(&mut r, "tor", json!({"peerIP": "192.168.1.1", "asNumber": 1, "holdTime": "9s", "role": "Customer"}));
    configure(&mut r, "node.a", json!({"holdTime": "12s", "connectRetryTime": "2s", "gracefulShutdown": true}));
    let default = json!({"holdTime": "15s", "connectRetryTime": "3s", "sendHoldTime": "1m", "flapThreshold": 5,
        "bmpCollectors": [{"address": "10.9.9.9", "port": 1790}], "bfd": {}});
    configure(&mut r, "default", default);
    let times = |node: &str| -> Vec<String> {
        let peers = planned(node, &r).config.peers;
        let line = |p: &PeerConfig| {
            let multihop = p.bfd.map(|b| b.is_multihop);
            format!(
                "{} {} {:?} {} {} {multihop:?}",
                p.name, p.hold_time, p.connect_retry, p.send_hold_time, p.graceful_shutdown
            )
        };
        peers.values().filter(|p| !p.name.contains("2001")).map(line).collect()
    };
    assert_eq!(
        times("a"),
        [
            "Mesh_10_0_0_10 12 2s 60 true Some(false)",
            "Mesh_10_0_0_11 12 2s 60 true Some(false)",
            "Global_192_168_1_1 9 2s 60 true Some(true)",
        ]
    );
    assert_eq!(times("b")[0], "Mesh_10_0_0_9 15 3s 60 false Some(false)");
    let config = planned("a", &r).config;
    assert_eq!((config.bmp, config.flap_threshold), (vec!["10.9.9.9:1790".parse().unwrap()], 5));
}

/// Of every two nodes exactly one connects, and both ends agree on the AS numbers.
#[test]
fn both_ends_of_a_mesh_session_agree() {
    let mut r = fleet();
    for (i, ip) in ["10.0.0.2", "9.255.0.1", "10.0.0.100"].into_iter().enumerate() {
        r.nodes.extend([object(
            &format!("n{i}"),
            &[],
            json!({"bgp": {"ipv4Address": format!("{ip}/24"), "asNumber": i + 1}}),
        )]);
    }
    let plans: BTreeMap<IpAddr, SpeakerConfig> = r
        .nodes
        .iter()
        .map(|(name, node)| (node.body.spec.bgp.as_ref().unwrap().ipv4_address.unwrap().ip(), planned(name, &r).config))
        .collect();
    let mut seen = 0;
    for (own, config) in &plans {
        for (id, peer) in config.peers.iter().filter(|(id, _)| id.address.is_ipv4()) {
            let opposite = &plans[&id.address].peers[&PeerId::new(*own, 179)];
            assert_ne!(peer.passive, opposite.passive, "{own} to {}", id.address);
            assert_eq!((peer.local_as, peer.remote_as), (opposite.remote_as, opposite.local_as));
            assert_eq!(peer.source, Some(*own));
            seen += 1;
        }
    }
    assert_eq!(seen, 6 * 5);
}

#[test]
fn session_settings() {
    type Check = fn(&PeerConfig) -> Value;
    let secs: Check = |p| json!([p.hold_time, p.keepalive, p.connect_retry.as_millis() as u64, p.graceful_restart]);
    let rows: [(&str, Value, Value, Check, Value); 17] = [
        ("defaults", json!({}), json!({}), secs, json!([90, null, 5000, 120])),
        (
            "a peer's timers",
            json!({"holdTime": "9s", "keepaliveTime": "2.6s", "connectRetryTime": "500ms", "maxRestartTime": "1m30s"}),
            json!({}),
            secs,
            json!([9, 3, 500, 90]),
        ),
        (
            "BGPConfiguration gives what the peer does not",
            json!({"holdTime": "9s"}),
            json!({"holdTime": "30s", "connectRetryTime": "1s"}),
            secs,
            json!([9, null, 1000, 120]),
        ),
        ("no keepalives at all", json!({"holdTime": "0s"}), json!({}), secs, json!([0, null, 5000, 120])),
        (
            "a hold time below RFC 4271's least",
            json!({"holdTime": "2s"}),
            json!({}),
            secs,
            json!([90, null, 5000, 120]),
        ),
        (
            "what is no duration",
            json!({"holdTime": "soon", "maxRestartTime": "2h"}),
            json!({}),
            secs,
            json!([90, null, 5000, 120]),
        ),
        (
            "graceful restart off",
            json!({"gracefulRestart": {"mode": "Disabled"}, "maxRestartTime": "10s"}),
            json!({}),
            secs,
            json!([90, null, 5000, null]),
        ),
        (
            "graceful restart off for all",
            json!({}),
            json!({"gracefulRestart": {"mode": "Disabled"}}),
            secs,
            json!([90, null, 5000, null]),
        ),
        ("the session's source is the node's address", json!({}), json!({}), |p| json!(p.source), json!("10.0.0.9")),
        ("unless sourceAddress is None", json!({"sourceAddress": "None"}), json!({}), |p| json!(p.source), json!(null)),
        (
            "localASNumber makes the session eBGP",
            json!({"localASNumber": 65001}),
            json!({}),
            |p| json!(p.local_as),
            json!(65001),
        ),
        (
            "nextHopMode Self",
            json!({"nextHopMode": "Self"}),
            json!({}),
            |p| json!(p.next_hop_mode),
            json!("SelfAddress"),
        ),
        ("nextHopMode Keep", json!({"nextHopMode": "Keep"}), json!({}), |p| json!(p.next_hop_mode), json!("Keep")),
        (
            "keepOriginalNextHop is for eBGP",
            json!({"keepOriginalNextHop": true}),
            json!({}),
            |p| json!(p.next_hop_mode),
            json!("Auto"),
        ),
        (
            "keepOriginalNextHop on eBGP",
            json!({"keepOriginalNextHop": true, "asNumber": 1}),
            json!({}),
            |p| json!(p.next_hop_mode),
            json!("Keep"),
        ),
        (
            "own AS in the path, GTSM",
            json!({"numAllowedLocalASNumbers": 2, "ttlSecurity": 1}),
            json!({}),
            |p| json!([p.allow_own_as, p.ttl_security]),
            json!([2, 1]),
        ),
        (
            "a session carries the family of its addresses",
            json!({}),
            json!({}),
            |p| json!([p.v4, p.v6]),
            json!([true, false]),
        ),
    ];
    for (name, extra, configuration, check, expected) in rows {
        let mut r = fleet();
        let mut spec = json!({"peerIP": "192.168.1.1", "asNumber": 64512});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        peering(&mut r, "tor", spec);
        configure(&mut r, "default", configuration);
        let plan = planned("a", &r);
        let peer = plan.config.peers.values().find(|p| p.peer_type == PeerType::Global).unwrap();
        assert_eq!(check(peer), expected, "{name}");
        let is_wrong = extra["holdTime"] == "soon" || extra["holdTime"] == "2s";
        assert_eq!(plan.notes.iter().any(|n| n.contains("holdTime")), is_wrong, "{name}: {:?}", plan.notes);
    }
}

#[test]
fn node_identity() {
    let mut r = fleet();
    r.nodes.extend([
        object("six", &[], json!({"bgp": {"ipv6Address": "2001:db8::6/64"}})),
        object("none", &[], json!({})),
        object("kube-master", &[], json!({"bgp": {"ipv4Address": "10.0.0.1/24"}})),
    ]);
    let id = |node, text| plan(node, &r, RouterId::parse(text).unwrap()).map(|p| p.config.router_id.to_string());
    assert_eq!(id("a", "").unwrap(), "10.0.0.9");
    assert_eq!(id("a", "1.2.3.4").unwrap(), "1.2.3.4");
    // Calico's documentation of CALICO_ROUTER_ID.
    assert_eq!(id("kube-master", "hash").unwrap(), "25.79.212.8");
    assert_eq!(id("six", ""), Err(NotReady::NoRouterId("six".into())));
    assert_eq!(id("none", ""), Err(NotReady::NoBgp("none".into())));
    assert_eq!(id("nobody", ""), Err(NotReady::UnknownNode("nobody".into())));
    for wrong in ["1.2.3", "0.0.0.0", "2001:db8::1", "Hash"] {
        assert!(RouterId::parse(wrong).unwrap_err().contains(wrong));
    }

    assert_eq!(planned("a", &r).config.local_as, 64512);
    configure(&mut r, "default", json!({"asNumber": 65001}));
    assert_eq!(planned("a", &r).config.local_as, 65001);
    assert_eq!(planned("c", &r).config.local_as, 64600, "the node's own AS wins");
}

#[test]
fn listening() {
    let all = |port: u16| {
        vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)]
    };
    let mut r = fleet();
    assert_eq!(planned("a", &r).config.listen, all(179));
    assert_eq!(planned("b", &r).config.listen, all(179)[..1], "no IPv6 where nothing uses it");
    configure(&mut r, "default", json!({"listenPort": 1790}));
    assert_eq!(planned("a", &r).config.listen, all(1790));
    configure(&mut r, "node.a", json!({"listenPort": 1791, "bindMode": "NodeIP"}));
    let own = ["10.0.0.9:1791", "[2001:db8::9]:1791"].map(|s| s.parse().unwrap());
    assert_eq!(planned("a", &r).config.listen, own);
}

#[test]
fn what_makes_no_session_is_noted() {
    let rows = [
        (json!({"peerIP": "leaf1", "asNumber": 1}), "peerIP is 'leaf1'"),
        (json!({"peerIP": "1.2.3.4", "peerSelector": "all()"}), "cannot both be set"),
        (json!({"node": "a", "nodeSelector": "all()", "peerIP": "1.2.3.4"}), "cannot both be set"),
        (json!({"asNumber": 1}), "neither peerIP nor peerSelector"),
        (json!({"peerSelector": "rack ="}), "expected =="),
        (json!({"localWorkloadSelector": "all()", "asNumber": 1}), "not supported yet"),
        (json!({"peerIP": "1.2.3.4", "asNumber": 1, "reachableBy": "10.0.0.1"}), "reachableBy is not active"),
    ];
    for (spec, expected) in rows {
        let mut r = without_mesh(fleet());
        peering(&mut r, "p", spec.clone());
        let notes = planned("a", &r).notes;
        assert!(notes.len() == 1 && notes[0].contains("BGPPeer p") && notes[0].contains(expected), "{spec}: {notes:?}");
    }
}

#[test]
fn filters_come_first_and_what_is_learned_is_rejected_by_default() {
    let mut r = without_mesh(fleet());
    r.filters.extend([
        object("first", &[], json!({
            "exportV4": [{"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "In", "source": "RemotePeers"}],
            "importV6": [{"action": "Reject"}],
        })),
        object("second", &[], json!({"exportV4": [{"action": "Accept", "operations": [
            {"addCommunity": {"value": "65001:200"}}, {"prependASPath": {"prefix": [65000]}}, {"setPriority": {"value": 256}},
        ]}]})),
        object("broken", &[], json!({"importV4": [{"action": "Accept", "communities": {"values": ["65536:1"]}}]})),
    ]);
    peering(&mut r, "tor", json!({"peerIP": "192.168.1.1", "asNumber": 1, "filters": ["first", "second"]}));
    peering(&mut r, "bad", json!({"peerIP": "192.168.1.2", "asNumber": 1, "filters": ["first", "broken"]}));
    r.pools.extend([object("pool", &[], json!({"cidr": "10.65.0.0/16"}))]);
    let plan = planned("a", &r);
    let mut peers = plan.config.peers.values();
    let tor = peers.next().unwrap();
    let exports: Vec<String> =
        tor.export.rules.iter().map(|r| format!("{:?} {:?} {}", r.action, r.source, r.operations.len())).collect();
    assert_eq!(exports, ["Accept Some(RemotePeers) 0", "Accept None 3", "Accept Some(RemotePeers) 0"]);
    assert_eq!((tor.export.default, tor.import.default), (Action::Reject, Action::Accept));
    assert_eq!(tor.import.rules[0].family, Some(bgp_proto::af::Family::Ipv6));
    let reason = peers.next().unwrap().down_reason.clone().unwrap();
    assert!(reason.starts_with("BGPFilter broken: importV4[0]: '65536:1' is no community"), "{reason}");
}
