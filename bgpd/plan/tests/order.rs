//! The plan is a function of the resources: any order of the same updates gives the same one, and both ends of a session
//! between nodes agree about it.

use api::{Key, Kind};
use bgp_plan::config::{PeerConfig, PeerId};
use bgp_plan::peers::{Plan, RouterId, plan};
use bgp_plan::resources::Resources;
use datastore::store::KeyValue;
use datastore::watcher::Update;
use proptest::prelude::*;
use serde_json::{Value, json};

const NODES: [(&str, &str, &str); 4] = [
    ("a", "10.0.0.9/24", "2001:db8::9/64"),
    ("b", "10.0.0.10/24", "2001:db8::10/64"),
    ("c", "10.0.0.100/24", ""),
    ("d", "9.255.0.1/24", "2001:db8::1:0/64"),
];

fn put(kind: Kind, name: &str, labels: Value, spec: Value) -> Update {
    let document = json!({
        "kind": kind.as_str(), "apiVersion": kind.api_version(), "metadata": {"name": name, "labels": labels}, "spec": spec,
    });
    let key = Key::resource(kind, None, name);
    Update::Put(KeyValue { key, value: document.to_string().into_bytes(), mod_revision: 1 })
}

/// Four nodes; `flags` decide their ASes, clusters and labels.
fn nodes(flags: u16) -> Vec<Update> {
    let node = |(i, (name, v4, v6)): (usize, &(&str, &str, &str))| {
        let is_set = |bit: usize| flags >> (3 * i + bit) & 1 == 1;
        let mut bgp = json!({"ipv4Address": v4});
        if !v6.is_empty() {
            bgp["ipv6Address"] = (*v6).into();
        }
        if is_set(0) {
            bgp["asNumber"] = (65000 + i).into();
        }
        if is_set(1) {
            bgp["routeReflectorClusterID"] = "1.0.0.1".into();
        }
        put(Kind::Node, name, json!({"rack": if is_set(2) { "1" } else { "2" }}), json!({"bgp": bgp}))
    };
    NODES.iter().enumerate().map(node).collect()
}

/// What a BGPPeer may say between nodes, or to others.
fn peer() -> impl Strategy<Value = Value> {
    let remote = prop_oneof![
        Just(json!({"peerSelector": "rack == '1'"})),
        Just(json!({"peerSelector": "all()"})),
        Just(json!({"peerIP": "10.0.0.100"})),
        Just(json!({"peerIP": "192.168.1.1:1790", "asNumber": 65001})),
        Just(json!({"peerIP": "10.0.0.9"})),
        Just(json!({"peerRange": "10.1.0.0/16"})),
    ];
    let owner = prop_oneof![
        Just(json!({})),
        Just(json!({"node": "a"})),
        Just(json!({"node": "c"})),
        Just(json!({"nodeSelector": "rack == '2'"})),
    ];
    let more = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"passive": true})),
        1 => Just(json!({"holdTime": "9s", "filters": ["f"]})),
        1 => Just(json!({"nextHopMode": "Self"})),
    ];
    (remote, owner, more).prop_map(|(remote, owner, more)| {
        let mut spec = remote;
        for part in [owner, more] {
            spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        spec
    })
}

fn updates() -> impl Strategy<Value = Vec<Update>> {
    (any::<u16>(), prop::collection::vec(peer(), 0..5), any::<bool>(), any::<bool>()).prop_map(
        |(flags, peers, mesh, port)| {
            let mut all = nodes(flags);
            for (i, spec) in peers.into_iter().enumerate() {
                all.push(put(Kind::BgpPeer, &format!("p{i}"), json!({}), spec));
            }
            let default = json!({"nodeToNodeMeshEnabled": mesh, "holdTime": "30s"});
            all.push(put(Kind::BgpConfiguration, "default", json!({}), default));
            if port {
                all.push(put(Kind::BgpConfiguration, "node.a", json!({}), json!({"listenPort": 1179})));
            }
            let rules = json!({"importV4": [{"action": "Accept", "matchOperator": "In", "cidr": "10.0.0.0/8"}]});
            all.push(put(Kind::BgpFilter, "f", json!({}), rules));
            all.push(put(Kind::IpPool, "pods", json!({}), json!({"cidr": "10.65.0.0/16"})));
            all
        },
    )
}

fn plans(updates: &[Update]) -> Vec<Plan> {
    let mut resources = Resources::default();
    for update in updates {
        resources.update(update);
    }
    NODES.iter().map(|(name, ..)| plan(name, &resources, RouterId::Hash).unwrap()).collect()
}

/// The two ends of every session between nodes that both ends have.
fn ends(plans: &[Plan]) -> Vec<(&PeerConfig, &PeerConfig)> {
    let mut found = Vec::new();
    for (own, plan) in NODES.iter().zip(plans) {
        for (id, peer) in &plan.config.peers {
            let other = NODES.iter().zip(plans).find(|(n, _)| has(n, id));
            let Some(local) =
                [own.1, own.2].into_iter().filter_map(address).find(|a| a.is_ipv4() == id.address.is_ipv4())
            else {
                continue;
            };
            let opposite = other.and_then(|(_, p)| p.config.peers.iter().find(|(i, _)| i.address == local));
            found.extend(opposite.map(|(_, o)| (peer, o)));
        }
    }
    found
}

fn address(cidr: &str) -> Option<std::net::IpAddr> {
    cidr.split('/').next()?.parse().ok()
}

fn has(node: &(&str, &str, &str), id: &PeerId) -> bool {
    [node.1, node.2].into_iter().filter_map(address).any(|a| a == id.address)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_gives_the_same_plan(
        (all, shuffled) in updates().prop_flat_map(|u| (Just(u.clone()), Just(u).prop_shuffle()))
    ) {
        let expected = plans(&all);
        prop_assert_eq!(&plans(&shuffled), &expected);
        // What came twice, and what came and went, changes nothing.
        let twice: Vec<Update> = all.iter().chain(&shuffled).cloned().collect();
        prop_assert_eq!(&plans(&twice), &expected);
        let gone = put(Kind::BgpPeer, "gone", json!({}), json!({"peerIP": "192.0.2.1", "asNumber": 1}));
        let Update::Put(kv) = &gone else { unreachable!() };
        let detour: Vec<Update> =
            [gone.clone()].into_iter().chain(all).chain([Update::Delete(kv.key.clone())]).collect();
        prop_assert_eq!(&plans(&detour), &expected);
    }

    /// No two nodes wait for each other, whatever they are told; where nobody was told, exactly one waits. They agree about AS
    /// numbers.
    #[test]
    fn both_ends_agree(all in updates()) {
        let is_told = |u: &Update| {
            matches!(u, Update::Put(kv) if kv.value.windows(14).any(|w| w == b"\"passive\":true"))
        };
        let told = all.iter().any(is_told);
        for (peer, opposite) in ends(&plans(&all)) {
            prop_assert!(!(peer.passive && opposite.passive), "{} and {}", peer.name, opposite.name);
            prop_assert!(told || peer.passive != opposite.passive, "{} and {}", peer.name, opposite.name);
            prop_assert_eq!((peer.local_as, peer.remote_as), (opposite.remote_as, opposite.local_as));
        }
    }
}
