//! Named states, each with the answer it must have; then: any order of the same updates gives the same answer.

use std::collections::BTreeMap;

use api::ipam::AllocationBlock;
use felix_calc::{BlockRoute, DesiredState, Frontend, FrontendKind, Graph, ObjectName, Update};
use proptest::prelude::*;
use serde_json::{Value, json};

const ME: &str = "worker01";

/// What the state is, the updates that make it, the answer.
type Row<Answer> = (&'static str, Vec<Update>, Answer);

fn wep(name: &str, node: &str, interface: &str, addr: &str) -> Update {
    let spec = json!({"node": node, "interfaceName": interface, "ipNetworks": [addr], "mac": "ee:ee:ee:00:00:01"});
    Update::WorkloadEndpoint(ObjectName::new("test", name), Some(Box::new(serde_json::from_value(spec).unwrap())))
}

/// A block with (ordinal, node) allocations.
fn block(cidr: &str, affinity: Value, allocations: &[(usize, &str)]) -> Update {
    let net: ipnet::IpNet = cidr.parse().unwrap();
    let mut slots = vec![Value::Null; 1 << (net.max_prefix_len() - net.prefix_len())];
    for (index, (ordinal, _)) in allocations.iter().enumerate() {
        slots[*ordinal] = json!(index);
    }
    let attributes: Vec<Value> = allocations.iter().map(|(_, n)| json!({"secondary": {"node": n}})).collect();
    let value =
        json!({"cidr": cidr, "affinity": affinity, "allocations": slots, "unallocated": [], "attributes": attributes});
    let block: AllocationBlock = serde_json::from_value(value).unwrap();
    Update::Block(net, Some(Box::new(block)))
}

fn node(name: &str, addr: &str) -> Update {
    let spec = json!({"bgp": {"ipv4Address": addr}});
    Update::Node(name.into(), Some(Box::new(serde_json::from_value(spec).unwrap())))
}

fn service(name: &str, body: Value) -> Update {
    Update::Service(ObjectName::new("test", name), Some(Box::new(serde_json::from_value(body).unwrap())))
}

fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> Update {
    let doc = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "test", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    Update::EndpointSlice(ObjectName::new("test", name), Some(Box::new(serde_json::from_value(doc).unwrap())))
}

fn answer(updates: &[Update]) -> DesiredState {
    let mut graph = Graph::new(ME);
    for u in updates {
        graph.apply(u.clone());
    }
    graph.desired()
}

fn routes(state: &DesiredState) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (dst, interface) in &state.workload_routes {
        out.insert(dst.to_string(), format!("dev {interface}"));
    }
    for (dst, route) in &state.block_routes {
        let text = match route {
            BlockRoute::Blackhole => "blackhole".to_string(),
            BlockRoute::Borrowed { node, via } => format!("via {via} ({node})"),
        };
        assert!(out.insert(dst.to_string(), text).is_none(), "{dst} twice");
    }
    out
}

#[test]
fn route_states() {
    let mine = json!("host:worker01");
    let other = json!("host:worker02");
    let rows: Vec<Row<&[(&str, &str)]>> = vec![
        ("nothing", vec![], &[]),
        (
            "a local workload has a host route",
            vec![wep("a", ME, "cali1", "10.0.0.1/32")],
            &[("10.0.0.1/32", "dev cali1")],
        ),
        ("a workload of another node has none", vec![wep("a", "worker02", "cali1", "10.0.0.1/32")], &[]),
        ("an endpoint without a host address is absent", vec![wep("a", ME, "cali1", "10.0.0.0/24")], &[]),
        ("an own block is a blackhole", vec![block("10.0.0.0/29", mine.clone(), &[])], &[("10.0.0.0/29", "blackhole")]),
        ("a /32 block never is", vec![block("10.0.0.1/32", mine.clone(), &[(0, ME)])], &[]),
        ("a /128 block never is", vec![block("fd00::1/128", mine.clone(), &[])], &[]),
        ("a block of worker010 is not worker01's", vec![block("10.0.0.0/29", json!("host:worker010"), &[])], &[]),
        ("a virtual owner's block is not ours", vec![block("10.0.0.0/29", json!("virtual:worker01"), &[])], &[]),
        (
            "an address lent out of an own block goes to the borrower",
            vec![node("worker02", "192.168.1.5/24"), block("10.0.0.0/30", mine.clone(), &[(0, ME), (1, "worker02")])],
            &[("10.0.0.0/30", "blackhole"), ("10.0.0.1/32", "via 192.168.1.5 (worker02)")],
        ),
        (
            "a third node sends it to the borrower too",
            vec![
                node("worker03", "192.168.1.6/24"),
                block("10.0.0.0/30", other.clone(), &[(1, "worker03"), (2, "worker02")]),
            ],
            &[("10.0.0.1/32", "via 192.168.1.6 (worker03)")],
        ),
        (
            "a borrower without an address has no route",
            vec![block("10.0.0.0/30", other.clone(), &[(1, "worker03")])],
            &[],
        ),
        (
            "what we borrow is our workload's route",
            vec![
                node(ME, "192.168.1.4/24"),
                block("10.0.0.0/30", other.clone(), &[(1, ME)]),
                wep("a", ME, "cali1", "10.0.0.1/32"),
            ],
            &[("10.0.0.1/32", "dev cali1")],
        ),
        (
            "a local workload wins over what the block says",
            vec![
                node("worker02", "192.168.1.5/24"),
                block("10.0.0.0/30", mine.clone(), &[(1, "worker02")]),
                wep("a", ME, "cali1", "10.0.0.1/32"),
            ],
            &[("10.0.0.0/30", "blackhole"), ("10.0.0.1/32", "dev cali1")],
        ),
        (
            "addresses of a block without an owner are reached at the node that uses them",
            vec![node("worker02", "192.168.1.5/24"), block("10.0.0.0/30", Value::Null, &[(3, "worker02")])],
            &[("10.0.0.3/32", "via 192.168.1.5 (worker02)")],
        ),
    ];
    for (name, updates, expected) in rows {
        let expected: BTreeMap<String, String> = expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        assert_eq!(routes(&answer(&updates)), expected, "{name}");
    }
}

/// `addr:port/protocol kind [L external-local] [l internal-local] = backends`, `*` after a local one.
fn lines(state: &DesiredState) -> Vec<String> {
    let line = |f: &Frontend| {
        let kind = match f.kind {
            FrontendKind::ClusterIp => "cluster",
            FrontendKind::ExternalIp => "external",
            FrontendKind::LoadBalancer => "lb",
            FrontendKind::NodePort => "node",
        };
        let flags = format!("{}{}", if f.external_local { "L" } else { "" }, if f.internal_local { "l" } else { "" });
        let local = |l| if l { "*" } else { "" };
        let backends: Vec<String> =
            f.backends.iter().map(|b| format!("{}:{}{}", b.addr, b.port, local(b.is_local))).collect();
        format!("{}:{}/{:?} {kind}{flags} = {}", f.addr, f.port, f.protocol, backends.join(" "))
    };
    state.frontends.iter().map(line).collect()
}

#[test]
fn service_states() {
    let web = |extra: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        service("web", json!({"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}))
    };
    let ports = json!([{"port": 8080}]);
    let eps = |list: Value| slice("web-1", "web", ports.clone(), list);
    let one = json!([{"addresses": ["10.0.0.1"]}]);
    let rows: Vec<Row<&[&str]>> = vec![
        ("without slices there are no backends", vec![web(json!({}))], &["10.96.0.1:80/Tcp cluster = "]),
        ("a slice without its service is nothing", vec![eps(one.clone())], &[]),
        (
            "ready absent counts as ready, false does not",
            vec![
                web(json!({})),
                eps(json!([{"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                           {"addresses": ["10.0.0.1"], "conditions": {"ready": true}}])),
            ],
            &["10.96.0.1:80/Tcp cluster = 10.0.0.1:8080 10.0.0.3:8080"],
        ),
        (
            "an endpoint is local by its node or by a local workload's address",
            vec![
                web(json!({})),
                eps(json!([{"addresses": ["10.0.0.1"], "nodeName": ME}, {"addresses": ["10.0.0.2"]},
                           {"addresses": ["10.0.0.3"], "nodeName": "worker02"}])),
                wep("a", ME, "cali1", "10.0.0.2/32"),
            ],
            &["10.96.0.1:80/Tcp cluster = 10.0.0.1:8080* 10.0.0.2:8080* 10.0.0.3:8080"],
        ),
        (
            "all addresses of a load balancer; the same backends, each policy where it counts",
            vec![
                web(json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.7"], "externalTrafficPolicy": "Local",
                           "ports": [{"port": 80, "nodePort": 30080}]})),
                eps(one.clone()),
            ],
            &[
                "0.0.0.0:30080/Tcp nodeL = 10.0.0.1:8080",
                "10.96.0.1:80/Tcp cluster = 10.0.0.1:8080",
                "198.51.100.7:80/Tcp externalL = 10.0.0.1:8080",
                "203.0.113.9:80/Tcp lbL = 10.0.0.1:8080",
            ],
        ),
        (
            "internalTrafficPolicy Local restricts the cluster IP only",
            vec![web(
                json!({"type": "NodePort", "internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]}),
            )],
            &["0.0.0.0:30080/Tcp node = ", "10.96.0.1:80/Tcp clusterLl = "],
        ),
        (
            "an ingress address of a service that is no load balancer is ignored",
            vec![web(json!({"type": "ClusterIP"}))],
            &["10.96.0.1:80/Tcp cluster = "],
        ),
        (
            "a node port of a ClusterIP service is ignored",
            vec![web(json!({"ports": [{"port": 80, "nodePort": 30080}]}))],
            &["10.96.0.1:80/Tcp cluster = "],
        ),
        ("headless services are not served", vec![web(json!({"clusterIP": "None"})), eps(one.clone())], &[]),
        ("nor are external names", vec![web(json!({"type": "ExternalName"}))], &[]),
        (
            "ports are matched by name and protocol",
            vec![
                web(json!({"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
                                     {"name": "sig", "port": 5000, "protocol": "SCTP"}]})),
                slice(
                    "web-1",
                    "web",
                    json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"},
                                             {"name": "dns", "port": 1, "protocol": "TCP"}]),
                    one.clone(),
                ),
            ],
            &["10.96.0.1:80/Tcp cluster = 10.0.0.1:8080", "10.96.0.1:53/Udp cluster = 10.0.0.1:5353"],
        ),
        (
            "an endpoint that is in two slices is one backend",
            vec![web(json!({})), eps(one.clone()), slice("web-2", "web", ports.clone(), one.clone())],
            &["10.96.0.1:80/Tcp cluster = 10.0.0.1:8080"],
        ),
        (
            "an address that two services want is the first one's",
            vec![
                web(json!({})),
                eps(one.clone()),
                service("zeb", json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})),
            ],
            &["10.96.0.1:80/Tcp cluster = 10.0.0.1:8080"],
        ),
        (
            "a slice that moves to another service leaves the first",
            vec![web(json!({})), eps(one.clone()), slice("web-1", "other", ports.clone(), one.clone())],
            &["10.96.0.1:80/Tcp cluster = "],
        ),
        (
            "addresses that cannot be served are left out",
            vec![web(json!({"externalIPs": ["0.0.0.0", "x", "127.0.0.1", "fd00::1"]}))],
            &["10.96.0.1:80/Tcp cluster = "],
        ),
    ];
    for (name, updates, expected) in rows {
        assert_eq!(lines(&answer(&updates)), expected, "{name}");
    }
}

#[test]
fn what_is_left_out_is_counted() {
    let state = answer(&[
        service(
            "a",
            json!({"spec": {"clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"port": 1}, {"port": 2, "protocol": "SCTP"}]}}),
        ),
        service("b", json!({"spec": {"clusterIP": "10.96.0.1", "externalIPs": ["nonsense"], "ports": [{"port": 1}]}})),
    ]);
    assert_eq!(state.skipped.sctp_ports, 1);
    assert_eq!(state.skipped.ipv6_frontends, 2);
    assert_eq!(state.skipped.conflicting_frontends, 1);
    assert_eq!(state.skipped.invalid_addresses, 1);
    assert_eq!(state.frontends[0].service, "test/a");
}

/// One update out of a small world, so that updates collide.
fn any_update() -> impl Strategy<Value = Update> {
    let nodes = prop::sample::select(vec![ME, "worker02", "worker03"]);
    let owner = prop::sample::select(vec![json!("host:worker01"), json!("host:worker02"), Value::Null]);
    prop_oneof![
        (0..3u8, nodes.clone(), 0..2u8, 0..4u8).prop_map(|(n, node, i, a)| wep(
            &format!("w{n}"),
            node,
            &format!("cali{i}"),
            &format!("10.0.0.{a}/32")
        )),
        (0..3u8).prop_map(|n| Update::WorkloadEndpoint(ObjectName::new("test", format!("w{n}")), None)),
        (owner, prop::collection::btree_map(0..4usize, nodes.clone(), 0..4))
            .prop_map(|(owner, a)| { block("10.0.0.0/30", owner, &a.into_iter().collect::<Vec<_>>()) }),
        (nodes, 4..9u8).prop_map(|(n, a)| node(n, &format!("192.168.1.{a}/24"))),
        Just(Update::Node("worker02".into(), None)),
        (0..3u8, 0..2u8).prop_map(|(n, a)| {
            service(&format!("s{n}"), json!({"spec": {"clusterIP": format!("10.96.0.{a}"), "ports": [{"port": 80}]}}))
        }),
        (0..3u8).prop_map(|n| Update::Service(ObjectName::new("test", format!("s{n}")), None)),
        (0..3u8, 0..3u8, 0..4u8).prop_map(|(n, s, a)| {
            let ends = json!([{"addresses": [format!("10.0.0.{a}")]}]);
            slice(&format!("e{n}"), &format!("s{s}"), json!([{"port": 80}]), ends)
        }),
        (0..3u8).prop_map(|n| Update::EndpointSlice(ObjectName::new("test", format!("e{n}")), None)),
    ]
}

fn key(update: &Update) -> String {
    match update {
        Update::WorkloadEndpoint(n, _) => format!("w {n}"),
        Update::Block(c, _) => format!("b {c}"),
        Update::Node(n, _) => format!("n {n}"),
        Update::Service(n, _) => format!("s {n}"),
        Update::EndpointSlice(n, _) => format!("e {n}"),
    }
}

proptest! {
    #[test]
    fn the_answer_depends_on_the_resources_only(
        history in prop::collection::vec((any_update(), any::<bool>()), 1..40),
        seed in prop::collection::vec(any::<u32>(), 40),
    ) {
        // One graph lives through the whole history, and is asked in between.
        let mut graph = Graph::new(ME);
        for (update, ask) in &history {
            graph.apply(update.clone());
            if *ask {
                graph.desired();
            }
        }
        // The other sees only what exists in the end, in another order.
        let last: BTreeMap<String, Update> = history.into_iter().map(|(u, _)| (key(&u), u)).collect();
        let mut last: Vec<(u32, Update)> = seed.into_iter().zip(last.into_values()).collect();
        last.sort_by_key(|(order, _)| *order);
        let last: Vec<Update> = last.into_iter().map(|(_, u)| u).collect();
        prop_assert_eq!(graph.desired(), answer(&last));
    }
}
