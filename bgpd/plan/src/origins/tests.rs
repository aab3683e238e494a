//! felix's routes in, prefixes and verdicts out.

use std::collections::BTreeMap;

use api::Metadata;
use api::meta::{Body, Resource};
use fib::{Link, NextHop, PROTOCOL_BGPD, Route, RouteKey};
use serde_json::{Value, json};

use super::*;

fn object<B: Body>(name: &str, spec: Value) -> (String, Resource<B>) {
    let body: B = serde_json::from_value(json!({ "spec": spec })).unwrap();
    (name.to_string(), Resource::new(Metadata::named(name), body))
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

/// Blocks 10.65.0.0/26 and 10.67.0.0/26 (its pool is not exported) are ours, and 10.68.0.9/32 of a pool of /32 blocks.
fn resources() -> Resources {
    let mut r = Resources::default();
    r.pools.extend([
        object("pods", json!({"cidr": "10.65.0.0/16"})),
        object("off", json!({"cidr": "10.66.0.0/16", "disabled": true})),
        object("secret", json!({"cidr": "10.67.0.0/16", "disableBGPExport": true})),
        object("single", json!({"cidr": "10.68.0.0/16", "blockSize": 32})),
        object("vips", json!({"cidr": "172.20.0.0/24", "allowedUses": ["LoadBalancer"]})),
        object(
            "hidden-vips",
            json!({"cidr": "172.21.0.0/24", "allowedUses": ["LoadBalancer"], "disableBGPExport": true}),
        ),
        object("old-vips", json!({"cidr": "172.22.0.0/24", "allowedUses": ["LoadBalancer"], "disabled": true})),
        object("six", json!({"cidr": "2001:db8:65::/48"})),
    ]);
    r.own_blocks.extend(["10.65.0.0/26", "10.67.0.0/26", "10.68.0.9/32", "2001:db8:65::/122"].map(net));
    r.local_services.insert(("default".into(), "local".into()), ["203.0.113.6".parse().unwrap()].into());
    r.configurations.extend([object(
        "default",
        json!({
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "serviceExternalIPs": [{"cidr": "198.51.100.7"}],
            "serviceLoadBalancerIPs": [{"cidr": "203.0.113.0/24"}],
            "communities": [{"name": "pods", "value": "65000:1"}],
            "prefixAdvertisements": [
                {"cidr": "10.65.0.0/16", "communities": ["pods", "65000:2:3"]},
                {"cidr": "10.65.0.0/24", "communities": ["65000:4", "pods", "unknown"]},
            ],
        }),
    )]);
    r
}

fn links() -> Links {
    [(7, Link { index: 7, name: "cali0".into(), up: true, carrier: true })].into()
}

fn verdict_of(resources: &Resources, dst: &str, target: &Target, protocol: u8) -> Option<bool> {
    let routes: Routes = [(RouteKey::new(net(dst), 1024), Route::new(target.clone(), protocol).into())].into();
    let origins = origins("a", resources, &routes, &links());
    origins.iter().find(|o| o.prefix.to_string() == dst).map(|o| o.export)
}

#[test]
fn the_export_rules() {
    let (hole, pod) = (Target::Blackhole, Target::Link { ifindex: 7 });
    let away = Target::Gateways(vec![NextHop { via: "192.168.1.5".parse().unwrap(), ifindex: 2, onlink: false }]);
    let rows: [(&str, &str, &Target, Option<bool>); 22] = [
        ("an own block", "10.65.0.0/26", &hole, Some(true)),
        ("an own IPv6 block", "2001:db8:65::/122", &hole, Some(true)),
        ("a workload inside an own block: aggregated", "10.65.0.5/32", &pod, Some(false)),
        ("a workload that borrowed an address", "10.65.7.5/32", &pod, Some(true)),
        ("a workload whose block is its address", "10.68.0.9/32", &pod, Some(true)),
        ("an IPv6 workload that borrowed", "2001:db8:65:1::5/128", &pod, Some(true)),
        ("another node's borrowed address", "10.65.0.6/32", &away, None),
        ("a block that is not confirmed as ours", "10.65.1.0/26", &hole, Some(false)),
        ("a workload of a disabled pool, which gives no new addresses", "10.66.0.5/32", &pod, Some(true)),
        ("a service address of a disabled pool", "172.22.0.5/32", &hole, Some(true)),
        ("an own block of a pool that is not exported", "10.67.0.0/26", &hole, Some(false)),
        ("a workload of a pool that is not exported", "10.67.9.5/32", &pod, Some(false)),
        ("a workload outside every pool", "10.99.0.5/32", &pod, Some(false)),
        ("a workload inside a load-balancer pool", "172.20.0.5/32", &pod, Some(false)),
        ("a cluster IP, its range announced as a whole", "10.96.0.10/32", &hole, Some(false)),
        ("an external IP, its range written as an address", "198.51.100.7/32", &hole, Some(true)),
        ("a load-balancer IP, its range announced as a whole", "203.0.113.5/32", &hole, Some(false)),
        ("a load-balancer IP with externalTrafficPolicy Local", "203.0.113.6/32", &hole, Some(true)),
        ("a service address of a load-balancer pool", "172.20.0.5/32", &hole, Some(true)),
        ("a service address of a pool that is not exported", "172.21.0.5/32", &hole, Some(false)),
        ("a service address outside every range", "192.0.2.5/32", &hole, Some(false)),
        ("a blackhole that is no host route", "203.0.113.0/25", &hole, Some(false)),
    ];
    for (name, dst, target, expected) in rows {
        assert_eq!(verdict_of(&resources(), dst, target, PROTOCOL_FELIX), expected, "{name}");
        assert_eq!(verdict_of(&resources(), dst, target, PROTOCOL_BGPD), None, "{name}: what was learned is not ours");
        assert_eq!(verdict_of(&resources(), dst, target, 4), None, "{name}: nor is what others made");
    }
}

#[test]
fn a_node_excluded_from_load_balancers_announces_no_service() {
    let mut r = resources();
    let mut node: Resource<_> = object("a", json!({})).1;
    node.metadata.labels.insert(EXCLUDE_LABEL.into(), "true".into());
    r.nodes.insert("a".into(), node);
    for dst in ["10.96.0.10/32", "203.0.113.5/32", "172.20.0.5/32", "203.0.113.6/32"] {
        assert_eq!(verdict_of(&r, dst, &Target::Blackhole, PROTOCOL_FELIX), Some(false), "{dst}");
    }
    assert_eq!(verdict_of(&r, "10.65.0.0/26", &Target::Blackhole, PROTOCOL_FELIX), Some(true));
}

/// What a node originates for the services that it serves, one line each.
fn services(r: &Resources, served: &[&str]) -> Vec<String> {
    let route = |dst: &&str| (RouteKey::new(net(dst), 1024), Route::new(Target::Blackhole, PROTOCOL_FELIX).into());
    let routes: Routes = served.iter().map(route).collect();
    let all = origins("a", r, &routes, &links()).into_iter().filter(|o| o.export);
    all.map(|o| o.prefix.to_string()).collect()
}

/// Calico reference: section 4.8 of `calico.md`.
#[test]
fn service_ranges() {
    type Setup = fn(&mut Resources);
    let all = ["10.96.0.10/32", "198.51.100.7/32", "203.0.113.5/32", "203.0.113.6/32", "172.20.0.5/32"];
    let rows: [(&str, Setup, &[&str], &[&str]); 6] = [
        (
            "ranges as a whole, single addresses and Local services alone",
            |_| {},
            &all,
            &["10.96.0.0/12", "172.20.0.5/32", "198.51.100.7/32", "203.0.113.0/24", "203.0.113.6/32"],
        ),
        ("nothing served, nothing announced", |_| {}, &[], &[]),
        ("a range is announced while something of it is served", |_| {}, &["203.0.113.5/32"], &["203.0.113.0/24"]),
        (
            "without aggregation each load-balancer address alone",
            |r| {
                let spec = &mut r.configurations.get_mut("default").unwrap().body.spec;
                spec.service_load_balancer_aggregation = Some("Disabled".into());
            },
            &all,
            &["10.96.0.0/12", "172.20.0.5/32", "198.51.100.7/32", "203.0.113.5/32", "203.0.113.6/32"],
        ),
        (
            "an excluded node announces nothing",
            |r| {
                let mut node: Resource<_> = object("a", json!({})).1;
                node.metadata.labels.insert(EXCLUDE_LABEL.into(), "true".into());
                r.nodes.insert("a".into(), node);
            },
            &all,
            &[],
        ),
        ("nor does one without ranges, but for pools", |r| r.configurations.clear(), &all, &["172.20.0.5/32"]),
    ];
    for (name, setup, served, expected) in rows {
        let mut r = resources();
        setup(&mut r);
        let mut got = services(&r, served);
        got.sort();
        assert_eq!(got, expected, "{name}");
    }
    let own: Vec<String> = ServiceRanges::new("a", &resources()).own.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.96.0.0/12", "198.51.100.7/32", "203.0.113.0/24"]);
}

/// A /32 of an own block with a better priority than the normal one is a workload on the move: it is not aggregated.
#[test]
fn elevated_priority_and_ignored_interfaces() {
    let exported = |r: &Resources, priority| {
        let target = Target::Link { ifindex: 7 };
        let routes: Routes =
            [(RouteKey::new(net("10.65.0.5/32"), priority), Route::new(target, PROTOCOL_FELIX).into())].into();
        origins("a", r, &routes, &links()).first().map(|o| o.export)
    };
    let mut r = resources();
    assert_eq!([512, 1023, 1024].map(|p| exported(&r, p)), [Some(true), Some(true), Some(false)]);
    let spec = &mut r.configurations.get_mut("default").unwrap().body.spec;
    spec.ipv4_normal_route_priority = Some(600);
    assert_eq!([512, 1023].map(|p| exported(&r, p)), [Some(true), Some(false)]);
    r.configurations.get_mut("default").unwrap().body.spec.ignored_interfaces = vec!["eth*".into(), "ca*0".into()];
    assert_eq!(exported(&r, 512), None);
}

#[test]
fn what_an_origin_carries() {
    let routes: Routes = [
        (RouteKey::new(net("10.65.0.0/26"), 1024), Route::new(Target::Blackhole, PROTOCOL_FELIX).into()),
        (RouteKey::new(net("10.65.9.1/32"), 512), Route::new(Target::Link { ifindex: 7 }, PROTOCOL_FELIX).into()),
        (RouteKey::new(net("10.65.9.1/32"), 1024), Route::new(Target::Blackhole, PROTOCOL_FELIX).into()),
    ]
    .into();
    type Carried = (Vec<Community>, Option<String>, Option<u32>);
    let summary = |r: &Resources| -> BTreeMap<String, Carried> {
        let all = origins("a", r, &routes, &links()).into_iter();
        all.map(|o| (o.prefix.to_string(), (o.communities, o.interface, o.priority))).collect()
    };
    let (one, two, four) =
        (Community::Standard(65000 << 16 | 1), Community::Large(65000, 2, 3), Community::Standard(65000 << 16 | 4));
    let default = summary(&resources());
    assert_eq!(default["10.65.0.0/26"], (vec![one, four, two], None, Some(1024)), "every matching range, once each");
    assert_eq!(default["10.65.9.1/32"], (vec![one, two], Some("cali0".into()), Some(512)), "the route that is used");

    let mut r = resources();
    r.configurations.extend([object(
        "node.a",
        json!({
            "prefixAdvertisements": [{"cidr": "10.65.0.0/26", "communities": ["pods"]}],
        }),
    )]);
    let own = summary(&r);
    assert_eq!((&own["10.65.0.0/26"].0, &own["10.65.9.1/32"].0), (&vec![one], &vec![]), "the node's list replaces it");
}

#[test]
fn transit_rules_are_the_export_rules_for_learned_routes() {
    let names = |reflector| -> Vec<String> {
        let rules = transit_rules("a", &resources(), reflector).into_iter();
        rules.map(|r| format!("{:?} {:?} {}", r.source.unwrap(), r.action, r.prefix.unwrap().prefix)).collect()
    };
    let plain = names(false);
    let at = |rule: &str| plain.iter().position(|r| r == rule).unwrap_or_else(|| panic!("{rule} in {plain:?}"));
    assert!(at("RemotePeers Reject 10.67.0.0/16") < at("RemotePeers Accept 10.67.0.0/16"));
    assert!(at("RemotePeers Reject 10.65.0.0/26") < at("RemotePeers Accept 10.65.0.0/16"));
    assert!(plain.contains(&"RemotePeers Accept 10.66.0.0/16".to_string()), "a disabled pool keeps its routes");
    assert!(!plain.iter().any(|r| r.contains("203.0.113.0")));
    assert!(names(true).contains(&"RemotePeers Accept 203.0.113.0/24".to_string()), "a reflector passes services on");
}

/// Calico's apply_communities is said of every route that its export function lets out.
#[test]
fn what_is_passed_on_gets_the_communities_of_its_prefix() {
    let rules = transit_rules("a", &resources(), false).into_iter().filter(|r| r.name == "IPPool pods");
    let (one, two, four) =
        (Community::Standard(65000 << 16 | 1), Community::Large(65000, 2, 3), Community::Standard(65000 << 16 | 4));
    let add = |communities: &[Community]| communities.iter().copied().map(Operation::AddCommunity).collect::<Vec<_>>();
    let got: Vec<_> = rules.map(|r| (r.prefix.unwrap().prefix.to_string(), r.operations)).collect();
    // The first that matches decides.
    assert_eq!(got, [("10.65.0.0/24".into(), add(&[one, four, two])), ("10.65.0.0/16".into(), add(&[one, two]))]);
    let mut r = resources();
    let own = json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["65000:4"]}]});
    r.configurations.extend([object("node.a", own)]);
    let rules = transit_rules("a", &r, false).into_iter().filter(|r| r.name == "IPPool pods");
    let got: Vec<_> = rules.map(|r| (r.prefix.unwrap().prefix.to_string(), r.operations)).collect();
    assert_eq!(got, [("10.65.0.0/16".into(), add(&[four]))], "the node's own list, of a wider range");
}

/// Cilium's pools, by CIDR or by range, are announced as IPPools for load balancers are; a status says nothing to bgpd.
#[test]
fn addresses_of_a_load_balancer_ip_pool_are_announced() {
    let mut resources = Resources::default();
    let put = |status: Value| {
        let key = api::Key::resource(api::Kind::LoadBalancerIpPool, None, "blue");
        let document = json!({
            "kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": {"name": "blue"},
            "spec": {"blocks": [{"cidr": "20.0.10.0/24"}, {"start": "20.0.20.5", "stop": "20.0.20.7"}]},
            "status": status,
        });
        let value = document.to_string().into_bytes();
        datastore::watcher::Update::Put(datastore::KeyValue { key, value, mod_revision: 1 })
    };
    assert!(resources.update(&put(json!({}))));
    assert!(!resources.update(&put(json!({"conditions": []}))), "addresses come and go without a new plan");
    let hole = Target::Blackhole;
    let rows =
        [("20.0.10.209", true), ("20.0.20.5", true), ("20.0.20.7", true), ("20.0.20.4", false), ("20.0.20.8", false)];
    for (address, announced) in rows {
        assert_eq!(verdict_of(&resources, &format!("{address}/32"), &hole, 201), Some(announced), "{address}");
    }
    resources.update(&datastore::watcher::Update::Delete(api::Key::resource(
        api::Kind::LoadBalancerIpPool,
        None,
        "blue",
    )));
    assert_eq!(verdict_of(&resources, "20.0.10.209/32", &hole, 201), Some(false));
}
