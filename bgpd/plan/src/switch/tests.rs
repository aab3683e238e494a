//! Resources in, switches out.

use api::Metadata;
use api::meta::{Body, Resource};
use serde_json::{Value, json};

use super::*;

fn object<B: Body>(name: &str, spec: Value) -> (String, Resource<B>) {
    let body: B = serde_json::from_value(json!({ "spec": spec })).unwrap();
    (name.to_string(), Resource::new(Metadata::named(name), body))
}

/// Two nodes with both families, a pair of leaves on their subnet, and a route server far away.
fn fleet() -> Resources {
    let mut r = Resources::default();
    for (name, n) in [("a", 4), ("b", 5)] {
        let addresses = json!({"ipv4Address": format!("192.0.2.{n}/24"), "ipv6Address": format!("2001:db8::{n}/64")});
        r.nodes.extend([object(name, json!({"bgp": addresses}))]);
    }
    r.configurations.extend([object(
        "default",
        json!({"nodeToNodeMeshEnabled": false, "asNumber": 65010, "holdTime": "9s",
               "serviceLoadBalancerIPs": [{"cidr": "172.31.0.0/24"}]}),
    )]);
    r.peers.extend([
        object("leaf1", json!({"peerIP": "192.0.2.1", "asNumber": 65001})),
        object("leaf1-v6", json!({"peerIP": "2001:db8::1", "asNumber": 65001})),
        object("leaf2", json!({"peerIP": "192.0.2.2", "asNumber": 65002, "ttlSecurity": 1})),
        object("far", json!({"peerIP": "198.51.100.1", "asNumber": 65010, "keepaliveTime": "2s"})),
    ]);
    r.pools.extend([
        object("pods", json!({"cidr": "10.244.0.0/16"})),
        object("hosts", json!({"cidr": "1.1.1.0/24", "blockSize": 32})),
        object("services", json!({"cidr": "172.30.0.0/24", "allowedUses": ["LoadBalancer"]})),
        object("kept", json!({"cidr": "10.9.0.0/16", "disableBGPExport": true})),
        object("off", json!({"cidr": "10.8.0.0/16", "disabled": true})),
        object("pods6", json!({"cidr": "fd00:10::/64"})),
    ]);
    r
}

fn found(r: &Resources, nodes: &[String]) -> Vec<Switch> {
    let (switches, notes) = switches(r, nodes, RouterId::NodeAddress).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    switches
}

#[test]
fn a_switch_has_the_mirror_image_of_each_nodes_session() {
    let all = found(&fleet(), &[]);
    let of = |address: &str| all.iter().find(|s| s.ends == [End::Address(address.parse().unwrap())]).unwrap();
    let (leaf1, leaf2, far) = (of("192.0.2.1"), of("192.0.2.2"), of("198.51.100.1"));
    assert_eq!((leaf1.asn, leaf2.asn, far.asn), (65001, 65002, 65010));
    let group = &leaf1.groups[0];
    assert_eq!((leaf1.groups.len(), group.node_as, group.is_ibgp(leaf1)), (1, 65010, false));
    let at = |address: &str| Some(address.parse::<IpAddr>().unwrap());
    let neighbors: Vec<_> = group.neighbors.iter().map(|n| (n.node.as_str(), n.address, n.port)).collect();
    assert_eq!(neighbors, [("a", at("192.0.2.4"), 179), ("b", at("192.0.2.5"), 179)]);
    assert_eq!((group.session.hold_time, group.session.keepalive, group.session.is_multihop), (9, 3, false));
    assert_eq!(leaf2.groups[0].session.ttl_security, Some(1));
    assert!(far.groups[0].is_ibgp(far) && far.groups[0].session.is_multihop && far.groups[0].session.keepalive == 2);
    assert_eq!(of("2001:db8::1").groups[0].neighbors[1].address, at("2001:db8::5"));
}

#[test]
fn a_filter_has_what_nodes_may_announce_and_nothing_else() {
    let switch = found(&fleet(), &[]).remove(0);
    let lines: Vec<String> = switch.permits.iter().map(|p| format!("{} {}-{}", p.net, p.min_len, p.max_len)).collect();
    assert_eq!(
        lines,
        [
            "1.1.1.0/24 32-32",
            "10.8.0.0/16 26-32",
            "10.244.0.0/16 26-32",
            "172.30.0.0/24 32-32",
            "172.31.0.0/24 24-32",
            "fd00:10::/64 122-128"
        ]
    );
}

#[test]
fn a_limit_is_above_all_that_one_node_can_announce() {
    let limits = |pools: &[Value]| {
        let mut r = fleet();
        r.configurations.get_mut("default").unwrap().body.spec.service_load_balancer_ips.clear();
        r.pools = pools.iter().enumerate().map(|(i, p)| object(&i.to_string(), p.clone())).collect();
        let switch = found(&r, &[]).remove(0);
        Family::ALL.map(|f| switch.max_prefixes(f))
    };
    // Four blocks; a fifth node has none, and may borrow each of their 256 addresses.
    assert_eq!(limits(&[json!({"cidr": "10.10.0.0/24"})]), [Some(260 + 130), Some(100)]);
    assert_eq!(limits(&[json!({"cidr": "10.10.0.0/24", "blockSize": 32})])[0], Some(256 + 128), "blocks are addresses");
    let services = json!({"cidr": "172.30.0.0/24", "allowedUses": ["LoadBalancer"]});
    assert_eq!(limits(&[json!({"cidr": "10.10.0.0/18"}), services])[0], Some((256 + 16384 + 256) * 3 / 2));
    assert_eq!(limits(&[json!({"cidr": "10.10.0.0/16"}), json!({"cidr": "fd00::/64"})]), [None, None], "too many");
    assert_eq!(limits(&[json!({"cidr": "fd00::/64"})]), [Some(100), None], "each family has its own");
}

#[test]
fn a_port_that_the_switch_has_to_listen_on_is_known() {
    let mut r = fleet();
    r.peers.clear();
    r.peers.extend([
        object("leaf1", json!({"peerIP": "192.0.2.1:1790", "asNumber": 65001})),
        object("leaf2", json!({"peerIP": "192.0.2.2", "asNumber": 65001})),
    ]);
    let ports: Vec<u16> = found(&r, &[]).iter().map(|s| s.groups[0].session.port).collect();
    assert_eq!(ports, [1790, 179]);
}

#[test]
fn two_addresses_of_one_switch_make_one_configuration() {
    let all = found(&fleet(), &["a".to_string()]);
    let (both, others): (Vec<Switch>, Vec<Switch>) = all.into_iter().partition(|s| s.asn == 65001);
    let leaf1 = merge(both).unwrap();
    assert_eq!((leaf1.families(), leaf1.ends.len()), (Family::ALL.to_vec(), 2));
    assert_eq!(
        merge(others).unwrap_err(),
        "192.0.2.2 is in AS 65002 and 198.51.100.1 in AS 65010: they are two switches"
    );
    assert!(merge(Vec::new()).is_err());
}

#[test]
fn nodes_that_cannot_be_planned_are_noted_and_named_ones_refused() {
    let mut r = fleet();
    r.nodes.extend([object("c", json!({}))]);
    let (_, notes) = switches(&r, &[], RouterId::NodeAddress).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(switches(&r, &["c".into()], RouterId::NodeAddress).is_err());
}

#[test]
fn a_switch_that_no_address_names_is_one_all_the_same() {
    let mut r = fleet();
    r.peers.clear();
    r.peers.extend([
        object("any", json!({"peerRange": "192.0.2.0/24", "asNumber": 65001})),
        object(
            "uplink",
            json!({"peerInterface": "eth1", "asNumber": 65002, "extendedNextHop": true, "addPath": "Send"}),
        ),
        object("pods", json!({"localWorkloadSelector": "all()", "asNumber": 65010})),
    ]);
    let all = found(&r, &[]);
    assert_eq!(all.iter().map(|s| s.ends[0].to_string()).collect::<Vec<_>>(), ["192.0.2.0/24", "eth1"]);
    let neighbors = |s: &Switch| s.groups[0].neighbors.iter().map(|n| n.address).collect::<Vec<_>>();
    let at = |n| Some(IpAddr::from([192, 0, 2, n]));
    assert_eq!((all[0].asn, neighbors(&all[0])), (65001, vec![at(4), at(5)]));
    assert_eq!((all[1].asn, neighbors(&all[1])), (65002, vec![None, None]));
    assert_eq!(all[0].families(), [Family::Ipv4]);
    let link = &all[1].groups[0].session;
    assert_eq!((&link.families[..], link.extended_next_hop, link.is_multihop), (&Family::ALL[..], true, false));
    assert_eq!((link.sends_paths, link.takes_paths), (false, true));
}

#[test]
fn what_a_session_carries_is_what_the_switch_is_told() {
    let mut r = fleet();
    r.peers.clear();
    r.peers.extend([object(
        "leaf1",
        json!({"peerIP": "192.0.2.1", "asNumber": 65001, "families": ["IPv4", "IPv6"], "addPath": "Receive",
               "longLivedGracefulRestart": {"staleTime": "60s"}}),
    )]);
    let leaf = found(&r, &[]).remove(0);
    let session = &leaf.groups[0].session;
    assert_eq!((leaf.families(), session.long_lived_stale_time), (Family::ALL.to_vec(), Some(60)));
    assert_eq!((session.sends_paths, session.takes_paths), (true, false));
}

#[test]
fn a_switch_lets_in_what_a_filter_lets_out() {
    let mut r = fleet();
    r.peers.clear();
    let rule = |cidr: &str, operator: &str| json!({"action": "Accept", "cidr": cidr, "matchOperator": operator});
    let mut ranged = rule("10.6.0.0/16", "In");
    ranged["prefixLength"] = json!({"min": 20, "max": 24});
    let rejected = json!({"action": "Reject", "cidr": "10.5.0.0/16", "matchOperator": "In"});
    let rules = json!([
        rule("10.9.0.0/16", "In"),
        rule("10.7.0.0/24", "Equal"),
        ranged,
        rejected,
        rule("10.4.0.0/16", "NotIn"),
        {"action": "Accept", "source": "RemotePeers"}
    ]);
    r.filters.extend([object("more", json!({ "exportV4": rules }))]);
    r.peers.extend([
        object("leaf1", json!({"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["more"]})),
        object("leaf2", json!({"peerIP": "192.0.2.2", "asNumber": 65002})),
    ]);
    let (all, notes) = switches(&r, &["a".into()], RouterId::NodeAddress).unwrap();
    let lines = |s: &Switch| -> Vec<String> {
        s.permits.iter().map(|p| format!("{} {}-{}", p.net, p.min_len, p.max_len)).collect()
    };
    let (first, second) = (lines(&all[0]), lines(&all[1]));
    let more: Vec<&String> = first.iter().filter(|l| !second.contains(l)).collect();
    assert_eq!(more, ["10.6.0.0/16 20-24", "10.7.0.0/24 24-24", "10.9.0.0/16 16-32"]);
    let more = ["exportV4[4]", "exportV4[5]"].map(|rule| {
        format!(
            "a announces to 192.0.2.1 what BGPFilter more, {rule} accepts, which is more than the filter of the switch lets in"
        )
    });
    assert_eq!(notes, more);
}
