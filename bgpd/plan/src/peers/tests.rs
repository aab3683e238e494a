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
        (json!({"localWorkloadSelector": "all()", "asNumber": 1}), "neither localWorkloadPeeringIPV4 nor"),
        (
            json!({"peerIP": "1.2.3.4", "asNumber": 1, "reachableBy": "2001:db8::1"}),
            "is no address of the peer's family",
        ),
        (json!({"peerIP": "1.2.3.4", "peerRange": "10.0.0.0/8"}), "in two ways"),
    ];
    for (spec, expected) in rows {
        let mut r = without_mesh(fleet());
        peering(&mut r, "p", spec.clone());
        let notes = planned("a", &r).notes;
        assert!(notes.len() == 1 && notes[0].contains("BGPPeer p") && notes[0].contains(expected), "{spec}: {notes:?}");
    }
}

/// The plan of node `a` with one BGPPeer `p` in its place, and the peer.
fn with_peer(r: &Resources, spec: Value) -> (Plan, PeerConfig) {
    let mut r = without_mesh(r.clone());
    peering(&mut r, "p", spec);
    let plan = planned("a", &r);
    let peer = plan.config.peers.values().next().cloned();
    (plan, peer.unwrap())
}

#[test]
fn passwords_come_from_secrets() {
    let reference = json!({"secretKeyRef": {"name": "bgp", "key": "password"}});
    let spec = json!({"peerIP": "192.168.1.1", "asNumber": 1, "password": reference.clone()});
    let secret = |data: Value| {
        let mut r = Resources::default();
        let key = api::Key::resource(api::Kind::Secret, Some("kube-system"), "bgp");
        let document = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "bgp"}, "data": data});
        let value = document.to_string().into_bytes();
        let kv = datastore::store::KeyValue { key, value, mod_revision: 1 };
        r.update(&datastore::watcher::Update::Put(kv));
        r.secrets
    };
    let mut r = fleet();
    let found = |r: &Resources| {
        let (plan, peer) = with_peer(r, spec.clone());
        let printed = format!("{plan:?} {}", serde_json::to_string(&plan).unwrap());
        assert!(!printed.contains("hunter2") && !printed.contains("aHVudGVyMg"), "{printed}");
        match (peer.password, peer.down_reason) {
            (Some(password), None) => Ok(password.to_string()),
            (None, Some(why)) => Err(why),
            both => panic!("a session is either protected or down: {both:?}"),
        }
    };
    let missing = "BGPPeer p: there is no Secret kube-system/bgp: create it with the password under password";
    assert_eq!(found(&r), Err(missing.into()));
    r.secrets = secret(json!({"other": "aHVudGVyMg=="}));
    let no_key = "BGPPeer p: Secret kube-system/bgp has no key password: add data.password, the password in base64";
    assert_eq!(found(&r), Err(no_key.into()));
    r.secrets = secret(json!({"password": "Cg=="}));
    assert_eq!(found(&r), Err("BGPPeer p: key password of Secret kube-system/bgp is empty".into()));
    r.secrets = secret(json!({"password": "aHVudGVyMg=="}));
    assert_eq!(found(&r), Ok("hunter2".into()));
    assert_eq!(password::wanted(&without_mesh(r.clone())), Default::default());

    let file = crate::resources::SecretFile(b"hunter2\n".to_vec());
    r.secrets.clear();
    r.secret_files.insert(("bgp".into(), "password".into()), file);
    assert_eq!(found(&r), Ok("hunter2".into()), "a mounted secret");

    r.namespace = "elsewhere".into();
    r.secret_files.clear();
    r.secrets = secret(json!({"password": "aHVudGVyMg=="}));
    assert!(found(&r).unwrap_err().contains("elsewhere/bgp"));

    let mut r = fleet();
    configure(&mut r, "default", json!({"nodeMeshPassword": reference}));
    assert_eq!(password::wanted(&r).len(), 1);
    for peer in planned("a", &r).config.peers.values() {
        let why = peer.down_reason.clone().unwrap();
        assert!(why.starts_with("BGPConfiguration default, nodeMeshPassword: there is no Secret"), "{why}");
    }
    r.secrets = secret(json!({"password": "aHVudGVyMg=="}));
    assert!(
        planned("a", &r)
            .config
            .peers
            .values()
            .all(|p| p.password.as_deref() == Some("hunter2") && p.down_reason.is_none())
    );
}

#[test]
fn ranges_and_links_are_templates() {
    let mut r = without_mesh(fleet());
    set_cluster(&mut r, "a", "1.0.0.1");
    peering(
        &mut r,
        "clients",
        json!({"peerRange": "10.8.7.6/16", "peerRangeLimit": 500, "asNumber": 64512, "holdTime": "9s"}),
    );
    peering(&mut r, "anybody", json!({"peerRange": "2001:db8:1::/48", "node": "a"}));
    peering(&mut r, "leaf", json!({"peerInterface": "eth1", "node": "a"}));
    let config = planned("a", &r).config;
    assert_eq!(config.peers, BTreeMap::new());
    let clients = &config.dynamic["clients"];
    assert_eq!((clients.prefix.to_string(), clients.limit), ("10.8.0.0/16".into(), 500));
    let p = &clients.peer;
    assert_eq!(
        (p.name.as_str(), p.passive, p.rr_client, p.hold_time, p.remote_as),
        ("Range_clients", true, true, 9, 64512)
    );
    assert_eq!((p.v4, p.v6, p.down_reason.clone()), (true, false, None));
    let anybody = &config.dynamic["anybody"];
    assert_eq!((anybody.limit, anybody.peer.remote_as, anybody.peer.v6), (100, 0, true));
    assert_eq!(anybody.peer.peer_type, PeerType::NodeSpecific);
    let leaf = &config.unnumbered["eth1"];
    assert_eq!((leaf.v4, leaf.v6, leaf.extended_next_hop, leaf.passive, leaf.remote_as), (true, true, true, false, 0));
    assert_eq!((leaf.interface.as_deref(), leaf.source), (Some("eth1"), None));
    assert_eq!(planned("b", &r).config.unnumbered, BTreeMap::new());
}

#[test]
fn local_workloads_are_passive_and_trusted_with_nothing() {
    let mut r = without_mesh(fleet());
    let workload = |name: &str, node: &str, app: &str, networks: Value| {
        let mut w: Resource<_> = object(name, &[("app", app)], json!({"node": node, "ipNetworks": networks})).1;
        w.metadata.namespace = Some("default".into());
        (("default".to_string(), name.to_string()), w)
    };
    r.workloads.extend([
        workload("router", "a", "router", json!(["10.65.0.5/32", "2001:db8:65::5/128"])),
        workload("other", "a", "web", json!(["10.65.0.6/32"])),
        workload("away", "b", "router", json!(["10.65.0.7/32"])),
    ]);
    configure(
        &mut r,
        "default",
        json!({"nodeToNodeMeshEnabled": false, "localWorkloadPeeringIPV4": "169.254.7.1", "bindMode": "NodeIP"}),
    );
    r.filters.extend([object(
        "pods",
        &[],
        json!({"importV4": [{"action": "Accept", "cidr": "10.99.0.0/16", "matchOperator": "In"}]}),
    )]);
    peering(
        &mut r,
        "w",
        json!({"localWorkloadSelector": "app == 'router'", "asNumber": 64999, "localASNumber": 64998, "filters": ["pods"]}),
    );
    assert_eq!(
        sessions("a", &r),
        ["Local_Workload_10_65_0_5 10.65.0.5:179 as 64999 passive"],
        "no IPv6 address to peer with"
    );
    let plan = planned("a", &r);
    let peer = plan.config.peers.values().next().unwrap();
    assert_eq!(
        (peer.source, peer.local_as, peer.peer_type),
        (Some("169.254.7.1".parse().unwrap()), 64998, PeerType::LocalWorkload)
    );
    assert_eq!((peer.import.default, peer.import.rules.len()), (Action::Reject, 1));
    let listen = ["10.0.0.9:179", "[2001:db8::9]:179", "169.254.7.1:179"].map(|s| s.parse().unwrap());
    assert_eq!(plan.config.listen, listen);
}

#[test]
fn rfc_8212_lets_nothing_pass_without_a_rule() {
    let mut r = fleet();
    r.filters.extend([object("in4", &[], json!({"importV4": [{"action": "Accept"}]}))]);
    let rejects = |spec: Value| -> Vec<String> {
        let (_, peer) = with_peer(&r, spec);
        let all = |rules: &[Rule], way: &str| -> Vec<String> {
            let none = |rule: &Rule| {
                rule.name == "ebgpRequiresPolicy" && rule.action == Action::Reject && rule.prefix.is_none()
            };
            rules.iter().filter(|rule| none(rule)).map(|rule| format!("{way} {:?}", rule.family.unwrap())).collect()
        };
        [all(&peer.import.rules, "in"), all(&peer.export.rules, "out")].concat()
    };
    let peer = |asn: u32, more: Value| {
        let mut spec = json!({"peerIP": "192.168.1.1", "asNumber": asn});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    assert_eq!(rejects(peer(1, json!({}))), Vec::<String>::new());
    let on = json!({"ebgpRequiresPolicy": true});
    assert_eq!(rejects(peer(1, on.clone())), ["in Ipv4", "in Ipv6", "out Ipv4", "out Ipv6"]);
    assert_eq!(rejects(peer(64512, on)), Vec::<String>::new(), "iBGP");
    let filtered = json!({"ebgpRequiresPolicy": true, "filters": ["in4"]});
    assert_eq!(rejects(peer(1, filtered)), ["in Ipv6", "out Ipv4", "out Ipv6"]);
}

#[test]
fn what_else_a_node_is_told() {
    let mut r = fleet();
    peering(&mut r, "tor", json!({"node": "a", "peerIP": "192.168.1.1", "asNumber": 1, "reachableBy": "10.0.0.1"}));
    configure(
        &mut r,
        "default",
        json!({"logSeverityScreen": "Warning", "programClusterRoutes": "Disabled", "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
    );
    configure(&mut r, "node.a", json!({"logSeverityScreen": "Debug"}));
    let (a, b) = (planned("a", &r), planned("b", &r));
    assert_eq!(a.gateways, [("192.168.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap())].into());
    assert_eq!(b.gateways, BTreeMap::new());
    assert_eq!((a.log_severity.as_deref(), b.log_severity.as_deref()), (Some("Debug"), Some("Warning")));
    assert!(a.notes[0].contains("programClusterRoutes Disabled is not active"), "{:?}", a.notes);
    assert_eq!(a.services.aggregates, ["10.96.0.0/12".parse().unwrap()].into());
    let read: Plan = serde_json::from_value(serde_json::to_value(&a).unwrap()).unwrap();
    assert_eq!(read, a, "a plan without passwords reads back as it is");
}

/// Between two nodes at least one connects, whatever BGPPeers say.
#[test]
fn nobody_waits_for_somebody_who_waits() {
    let rows: [(Value, Value, [bool; 2]); 5] = [
        (json!({"passive": true}), json!({}), [true, false]),
        (json!({}), json!({"passive": true}), [false, true]),
        (json!({}), json!({}), [true, false]),
        (json!({"passive": false}), json!({}), [false, false]),
        (json!({"passive": true}), json!({"passive": true}), [true, false]),
    ];
    for (at_a, at_c, expected) in rows {
        let mut r = without_mesh(fleet());
        for (node, peer, more) in [("a", "10.0.0.11", &at_a), ("c", "10.0.0.9", &at_c)] {
            let mut spec = json!({"node": node, "peerIP": peer});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            peering(&mut r, node, spec);
        }
        let passive = ["a", "c"].map(|n| planned(n, &r).config.peers.values().next().unwrap().passive);
        assert_eq!(passive, expected, "{at_a} {at_c}");
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

#[test]
fn of_several_reasons_to_hold_a_peer_down_all_are_said() {
    let mut r = without_mesh(fleet());
    let secret = json!({"secretKeyRef": {"name": "bgp", "key": "leaf"}});
    peering(&mut r, "tor", json!({"peerIP": "192.168.1.1", "password": secret, "filters": ["nope"]}));
    let peer = planned("a", &r).config.peers.into_values().next().unwrap();
    assert_eq!(
        peer.down_reason.as_deref(),
        Some(
            "BGPPeer tor has no asNumber; BGPPeer tor: there is no Secret kube-system/bgp: create it with the password under \
             leaf; BGPFilter nope does not exist"
        )
    );
    assert!(peer.needs_password);
}

#[test]
fn a_mesh_that_is_too_large_is_named() {
    let mut r = fleet();
    let node = |i: usize| object(&format!("n{i}"), &[], json!({"bgp": {"ipv4Address": format!("10.1.0.{i}/16")}}));
    r.nodes.extend((1..=98).map(node));
    assert_eq!(planned("b", &r).notes, Vec::<String>::new());
    r.nodes.extend([node(99)]);
    assert!(
        planned("b", &r).notes[0].starts_with("the node-to-node mesh has 102 nodes"),
        "{:?}",
        planned("b", &r).notes
    );
    assert_eq!(planned("b", &without_mesh(r)).notes, Vec::<String>::new());
}

#[test]
fn both_ends_of_a_session_between_nodes_mean_the_same() {
    let ends =
        |r: &Resources| ["a", "c"].map(|n| planned(n, r).config.peers.into_values().find(|p| p.v4 && !p.v6).unwrap());
    let mut r = without_mesh(fleet());
    peering(&mut r, "to-c", json!({"node": "a", "peerIP": "10.0.0.11", "addPath": "Send"}));
    let paths = |r: &Resources| ends(r).map(|p| (p.add_path_send, p.add_path_receive));
    assert_eq!(paths(&r), [(true, false), (false, true)], "what one end sends the other receives");
    let mut everybody = fleet();
    configure(&mut everybody, "default", json!({"nodeToNodeMeshEnabled": false, "addPath": "Receive"}));
    peering(&mut everybody, "to-c", json!({"node": "a", "peerIP": "10.0.0.11"}));
    assert_eq!(paths(&everybody), [(false, true), (false, true)], "BGPConfiguration speaks of each node");

    let roles = |r: &Resources| ends(r).map(|p| (p.role, p.role_is_strict));
    configure(&mut r, "default", json!({"nodeToNodeMeshEnabled": false, "role": "Customer", "roleStrict": true}));
    assert_eq!(roles(&r), [(None, false), (None, false)], "two customers of each other would never be up");
    peering(&mut r, "tor", json!({"node": "a", "peerIP": "10.0.0.1", "asNumber": 1}));
    let peers = planned("a", &r).config.peers;
    assert!(peers.values().any(|p| p.role == Some(Role::Customer)), "towards a switch it counts");
    r.peers.clear();
    peering(&mut r, "to-c", json!({"node": "a", "peerIP": "10.0.0.11", "role": "Provider"}));
    assert_eq!(roles(&r), [(Some(Role::Provider), true), (Some(Role::Customer), true)]);

    let narrow = json!({"bgp": {"ipv4Address": "10.0.0.9/32"}});
    let far = json!({"bgp": {"ipv4Address": "10.0.0.11/32"}});
    let multihop = |r: &Resources| ends(r).map(|p| p.bfd.unwrap().is_multihop);
    for mesh in [true, false] {
        let mut r = fleet();
        configure(&mut r, "default", json!({"nodeToNodeMeshEnabled": mesh, "bfd": {}}));
        r.nodes.remove("b");
        if !mesh {
            peering(&mut r, "to-c", json!({"node": "a", "peerIP": "10.0.0.11"}));
        }
        r.nodes.extend([object("a", &[], narrow.clone())]);
        assert_eq!(multihop(&r), [false, false], "one node's subnet holds the other");
        r.nodes.extend([object("c", &[], far.clone())]);
        assert_eq!(multihop(&r), [true, true], "neither's does");
    }
}

#[test]
fn nobody_waits_for_a_daemon_that_is_not_ours() {
    let rows = [
        (json!({"peerIP": "10.0.0.11"}), true, "the other node's bgpd"),
        (json!({"peerIP": "10.0.0.11:179", "asNumber": 64600}), true, "the same in full"),
        (json!({"peerIP": "10.0.0.11:1790", "asNumber": 64600}), false, "another port"),
        (json!({"peerIP": "10.0.0.11", "asNumber": 65000}), false, "another AS"),
    ];
    for (spec, is_passive, name) in rows {
        let (_, peer) = with_peer(&fleet(), spec);
        assert_eq!(peer.passive, is_passive, "{name}");
    }
}
