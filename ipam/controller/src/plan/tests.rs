use std::collections::BTreeMap;

use api::Key;
use datastore::KeyValue;
use datastore::watcher::Update;
use serde_json::{Value, json};

use super::*;

mod incremental;
mod load_balancer;
mod slices;
mod world;

const NOW: &str = "2026-08-22T10:00:00Z";

fn settings() -> Settings {
    Settings {
        cluster_ips: vec!["10.96.0.0/29".parse().unwrap()],
        node_ports: 30000..=30002,
        has_kubernetes: false,
        is_dry_run: false,
    }
}

/// A state that holds these documents, as the watcher brings them.
fn state(documents: &[Value]) -> State {
    let mut state = State::default();
    for (i, document) in documents.iter().enumerate() {
        let key = if document.get("cidr").is_some() {
            Key::IpamBlock(document["cidr"].as_str().unwrap().parse().unwrap())
        } else {
            let kind = api::Kind::from_document(document["kind"].as_str().unwrap()).unwrap();
            let metadata = &document["metadata"];
            Key::resource(kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap())
        };
        let value = document.to_string().into_bytes();
        state.apply(Update::Put(KeyValue { key, value, mod_revision: i as u64 + 1 }));
    }
    state.apply(Update::InSync);
    state
}

fn service(name: &str, spec: Value) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}")},
        "spec": spec,
    })
}

fn workload(name: &str, ip: &str, labels: Value) -> Value {
    json!({
        "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": format!("w1-k8s-{name}-eth0"), "namespace": "test", "labels": labels},
        "spec": {"node": "worker01", "pod": name, "ipNetworks": [format!("{ip}/32")], "interfaceName": "cali1",
                 "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]},
    })
}

fn slice(name: &str, service: &str, managed_by: &str) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "test", "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": managed_by}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    })
}

fn lb_pool() -> Value {
    json!({
        "kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "lb"},
        "spec": {"cidr": "172.20.0.0/24", "allowedUses": ["LoadBalancer"]},
    })
}

fn lb_handle(service: &str) -> String {
    ipam::handle::for_service(service, "test", &format!("uid-{service}"))
}

/// A block in which a service has the first `n` addresses.
fn lb_block(service: &str, n: usize) -> Value {
    let allocations: Vec<Value> = (0..4).map(|i| if i < n { json!(0) } else { Value::Null }).collect();
    json!({
        "cidr": "172.20.0.4/30", "affinity": "virtual:load-balancer", "allocations": allocations,
        "unallocated": (n..4).collect::<Vec<_>>(),
        "attributes": [{"handle_id": lb_handle(service),
            "secondary": {"service": service, "namespace": "test", "type": "LoadBalancer"}}],
        "sequenceNumber": 1, "sequenceNumberForAllocation": {}, "deleted": false,
    })
}

fn run(documents: &[Value]) -> Vec<Action> {
    plan(&mut state(documents), &settings(), NOW)
}

/// The services that are written, as JSON, by name.
fn written(documents: &[Value]) -> BTreeMap<String, Value> {
    run(documents)
        .into_iter()
        .filter_map(|a| match a {
            Action::UpdateService(s) => Some((s.metadata.name.clone(), serde_json::to_value(*s).unwrap())),
            _ => None,
        })
        .collect()
}

#[test]
fn services_get_the_cluster_ip_they_lack() {
    let rows = [
        ("none", json!({"ports": []}), true),
        ("an empty one", json!({"clusterIP": ""}), true),
        ("one of their own", json!({"clusterIP": "10.96.0.3"}), false),
        ("one outside the range", json!({"clusterIP": "192.0.2.1"}), false),
        ("headless", json!({"clusterIP": "None"}), false),
        ("an external name", json!({"type": "ExternalName", "externalName": "example.org"}), false),
    ];
    for (name, spec, given) in rows {
        let services = written(&[service("web", spec)]);
        let ip = services.get("web").map(|s| s["spec"]["clusterIP"].as_str().unwrap().to_string());
        assert_eq!(ip.is_some(), given, "{name}");
        if let Some(ip) = ip {
            let range: ipnet::Ipv4Net = "10.96.0.2/29".parse().unwrap();
            assert!(range.contains(&ip.parse::<std::net::Ipv4Addr>().unwrap()), "{ip}");
            assert_eq!(services["web"]["spec"]["clusterIPs"], json!([ip]));
        }
    }
}

#[test]
fn cluster_ips_are_distinct_until_the_range_is_full() {
    // Of a /29: not the network, not the first, not the last address.
    let mut documents: Vec<Value> = (0..7).map(|i| service(&format!("s{i}"), json!({}))).collect();
    documents[0] = service("s0", json!({"clusterIP": "10.96.0.4"}));
    let services = written(&documents);
    let ips: Vec<&str> = services.values().filter_map(|s| s["spec"]["clusterIP"].as_str()).collect();
    let distinct: std::collections::BTreeSet<&str> = ips.iter().copied().collect();
    assert_eq!((ips.len(), distinct.len()), (4, 4));
    assert!(!distinct.contains("10.96.0.4"));
    let full: Vec<&Value> = services.values().filter(|s| s["spec"].get("clusterIP").is_none()).collect();
    assert_eq!(full.len(), 2);
    assert_eq!(full[0]["status"]["conditions"][0]["reason"], "ClusterIPRangeFull");
}

#[test]
fn a_service_made_again_finds_its_cluster_ip() {
    let alone = written(&[service("web", json!({}))]);
    let among = written(&[service("web", json!({})), service("x", json!({"clusterIP": "10.9.9.9"}))]);
    assert_eq!(alone["web"]["spec"]["clusterIP"], among["web"]["spec"]["clusterIP"]);
}

#[test]
fn node_ports_go_to_the_types_that_have_them() {
    let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}, {"port": 443, "nodePort": 31443}]);
    let rows = [
        ("NodePort", json!({}), true),
        ("LoadBalancer", json!({}), true),
        ("LoadBalancer", json!({"allocateLoadBalancerNodePorts": false}), false),
        ("ClusterIP", json!({}), false),
    ];
    for (kind, extra, given) in rows {
        let mut spec = json!({"type": kind, "ports": ports, "clusterIP": "10.96.0.3"});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let services = written(&[service("web", spec)]);
        let is_given = services.get("web").is_some_and(|s| s["spec"]["ports"][0].get("nodePort").is_some());
        assert_eq!(is_given, given, "{kind} {extra}");
        if given {
            let ports = services["web"]["spec"]["ports"].as_array().unwrap();
            assert!(ports[..2].iter().all(|p| (30000..=30002).contains(&p["nodePort"].as_u64().unwrap())));
            assert_eq!(ports[2]["nodePort"], 31443, "what is there stays");
        }
    }
}

#[test]
fn node_ports_are_distinct_for_each_protocol() {
    let tcp = |name: &str| service(name, json!({"type": "NodePort", "ports": [{"port": 80}], "clusterIP": "None"}));
    let udp =
        service("u", json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "UDP"}], "clusterIP": "None"}));
    let services = written(&[tcp("a"), tcp("b"), tcp("c"), tcp("d"), udp]);
    let port = |name: &str| services[name]["spec"]["ports"][0]["nodePort"].as_u64();
    let distinct: std::collections::BTreeSet<_> = ["a", "b", "c"].into_iter().map(port).collect();
    assert_eq!(distinct, [30000, 30001, 30002].into_iter().map(Some).collect());
    assert_eq!(services["d"]["status"]["conditions"][0]["reason"], "NodePortRangeFull");
    assert!(port("u").is_some(), "UDP has ports of its own");
}

#[test]
fn of_two_services_with_the_same_address_the_younger_is_told() {
    let aged = |name: &str, time: &str, spec: Value| {
        let mut service = service(name, spec);
        service["metadata"]["creationTimestamp"] = json!(time);
        service
    };
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.3", "ports": [{"port": 80, "nodePort": 30001}]});
    let documents = [aged("a", "2026-01-02T00:00:00Z", spec.clone()), aged("b", "2026-01-01T00:00:00Z", spec.clone())];
    let services = written(&documents);
    assert_eq!(services.keys().collect::<Vec<_>>(), ["a"]);
    let condition = &services["a"]["status"]["conditions"][0];
    assert_eq!(condition["reason"], "Conflict");
    assert_eq!(
        condition["message"],
        "clusterIP 10.96.0.3 is already taken by service test/b; nodePort 30001 is already taken by service test/b"
    );
    assert_eq!(services["a"]["spec"]["clusterIP"], "10.96.0.3", "never changed");

    let told = services["a"].clone();
    assert!(written(&[told.clone(), documents[1].clone()]).is_empty(), "said once");
    let alone = written(&[told]);
    assert_eq!(alone["a"]["status"].get("conditions"), None, "and taken back");
}

#[test]
fn a_load_balancer_gets_an_address_then_its_status() {
    let base = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3", "allocateLoadBalancerNodePorts": false});
    let with = |extra: Value| {
        let mut spec = base.clone();
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        service("web", spec)
    };
    let mut sticky = with(json!({}));
    sticky["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.20.0.9"}]}});
    let mut foreign = with(json!({}));
    foreign["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    let mut annotated = with(json!({}));
    annotated["metadata"]["annotations"] = json!({
        "projectcalico.org/loadBalancerIPs": "[\"172.20.0.8\"]", "projectcalico.org/ipv4pools": "[\"lb\"]"});
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let rows = [
        ("no wish", with(json!({})), Some((Wish::Any, 0))),
        ("a wish", with(json!({"loadBalancerIP": "172.20.0.7"})), Some((Wish::Must(ip("172.20.0.7")), 0))),
        ("a wish and a pool by annotation", annotated, Some((Wish::Must(ip("172.20.0.8")), 0))),
        ("what the status has is kept", sticky, Some((Wish::Prefer(ip("172.20.0.9")), 0))),
        ("unless no pool has it", foreign, Some((Wish::Any, 0))),
        ("Calico's class", with(json!({"loadBalancerClass": "calico"})), Some((Wish::Any, 0))),
        ("Cilium's class", with(json!({"loadBalancerClass": "io.cilium/bgp-control-plane"})), Some((Wish::Any, 0))),
        ("another's class", with(json!({"loadBalancerClass": "metallb"})), None),
        ("a wish outside the pools", with(json!({"loadBalancerIP": "192.0.2.1"})), None),
        ("a wish that is none", with(json!({"loadBalancerIP": "web"})), None),
    ];
    for (name, service, expected) in rows {
        let assigned = run(&[lb_pool(), service]).into_iter().find_map(|a| match a {
            Action::AssignAddress(a) => Some((a.wish, a.pools.len())),
            _ => None,
        });
        assert_eq!(assigned, expected, "{name}");
    }

    let refused = written(&[lb_pool(), with(json!({"loadBalancerIP": "192.0.2.1"}))]);
    assert_eq!(refused["web"]["status"]["conditions"][0]["reason"], "AddressNotInPool");

    let done = written(&[lb_pool(), with(json!({})), lb_block("web", 1)]);
    assert_eq!(done["web"]["status"]["loadBalancer"]["ingress"], json!([{"ip": "172.20.0.4"}]));
    assert_eq!(run(&[lb_pool(), done["web"].clone(), lb_block("web", 1)]), [], "done is done");
}

#[test]
fn a_changed_wish_moves_a_load_balancer() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3", "loadBalancerIP": "172.20.0.5"});
    let mut web = service("web", spec);
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.20.0.4"}]}});
    let first = run(&[lb_pool(), web.clone(), lb_block("web", 1)]);
    assert!(matches!(&first[..], [Action::AssignAddress(a)] if a.wish == Wish::Must("172.20.0.5".parse().unwrap())));
    let second = run(&[lb_pool(), web, lb_block("web", 2)]);
    let addresses = vec![("172.20.0.4".parse().unwrap(), None)];
    let service = ("test".to_string(), "web".to_string());
    assert_eq!(second[0], Action::ReleaseAddresses { service, handle: lb_handle("web"), addresses });
    assert!(matches!(&second[1], Action::UpdateService(s)
        if s.body.status.as_ref().unwrap().load_balancer.ingress[0].ip.as_deref() == Some("172.20.0.5")));
}

#[test]
fn an_address_is_released_when_the_service_is_gone_or_another() {
    let release = |handle: &str| Action::ReleaseHandle {
        service: ("test".into(), "web".into()),
        handle: handle.into(),
        addresses: vec![("172.20.0.4".parse().unwrap(), None)],
    };
    let handle = lb_handle("web");
    let other = service("other", json!({"clusterIP": "10.96.0.2"}));
    assert_eq!(run(&[other, lb_block("web", 1)]), [release(&handle)], "gone");
    assert_eq!(run(&[lb_block("web", 1)]), [], "there are no Services: they may be elsewhere");

    let mut changed = service("web", json!({"type": "ClusterIP", "clusterIP": "10.96.0.3"}));
    changed["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.20.0.4"}]}});
    let actions = run(&[changed, lb_block("web", 1)]);
    assert!(actions.contains(&release(&handle)), "of another type");
    assert!(actions.iter().any(|a| matches!(a, Action::UpdateService(s)
        if s.body.status.as_ref().unwrap().load_balancer.ingress.is_empty())));

    let mut again = service("web", json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}));
    again["metadata"]["uid"] = json!("another");
    assert!(run(&[lb_pool(), again, lb_block("web", 1)]).contains(&release(&handle)), "made again");
}

#[test]
fn what_nobody_wants_is_released_before_others_ask_for_it() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3", "loadBalancerIP": "172.20.0.4"});
    let mut again = service("web", spec);
    again["metadata"]["uid"] = json!("another");
    let actions = run(&[lb_pool(), again, lb_block("web", 1)]);
    let at = |f: fn(&Action) -> bool| actions.iter().position(f).unwrap();
    assert!(at(|a| matches!(a, Action::ReleaseHandle { .. })) < at(|a| matches!(a, Action::AssignAddress(_))));
}

#[test]
fn a_load_balancer_whose_pool_goes_moves_or_waits() {
    let mut web = service("web", json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}));
    web["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.20.0.4"}]}});
    let mut wished = web.clone();
    wished["spec"]["loadBalancerIP"] = json!("172.20.0.4");
    let mut disabled = lb_pool();
    disabled["spec"]["disabled"] = json!(true);
    let mut other = lb_pool();
    other["spec"]["cidr"] = json!("172.21.0.0/24");
    let pods = json!({
        "kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "pods"},
        "spec": {"cidr": "172.20.0.0/24"},
    });
    let rows = [
        ("disabled", disabled, &web, vec![]),
        ("another pool is there", other.clone(), &web, vec!["assign"]),
        ("but the user wants this address", other, &wished, vec!["told"]),
        ("for pods now, and no other pool", pods, &web, vec!["told"]),
    ];
    for (name, pool, service, expected) in rows {
        let actions = run(&[pool, service.clone(), lb_block("web", 1)]);
        let words: Vec<&str> = actions
            .iter()
            .map(|a| match a {
                Action::ReleaseAddresses { .. } => "release",
                Action::AssignAddress(a) if a.wish == Wish::Any => "assign",
                Action::UpdateService(s) => {
                    let status = s.body.status.as_ref().unwrap();
                    assert_eq!(status.extra["conditions"][0]["reason"], "AddressNotInPool");
                    assert_eq!(status.load_balancer.ingress[0].ip.as_deref(), Some("172.20.0.4"));
                    "told"
                }
                other => panic!("{name}: {other:?}"),
            })
            .collect();
        assert_eq!(words, expected, "{name}");
    }
}

#[test]
fn node_ports_of_an_earlier_type_are_nobodys() {
    let left = service(
        "a",
        json!({"type": "ClusterIP", "clusterIP": "10.96.0.3", "ports": [{"port": 80, "nodePort": 30001}]}),
    );
    let wish =
        service("b", json!({"type": "NodePort", "clusterIP": "10.96.0.4", "ports": [{"port": 80, "nodePort": 30001}]}));
    assert_eq!(run(&[left, wish]), []);
}

fn slices(documents: &[Value]) -> Vec<(&'static str, EndpointSlice)> {
    run(documents)
        .into_iter()
        .filter_map(|a| match a {
            Action::CreateSlice(s) => Some(("create", *s)),
            Action::UpdateSlice(s) => Some(("update", *s)),
            Action::DeleteSlice(s) => Some(("delete", *s)),
            _ => None,
        })
        .collect()
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice.body.endpoints.iter().flat_map(|e| &e.addresses).map(String::as_str).collect()
}

fn web(ports: Value) -> Value {
    service("web", json!({"clusterIP": "10.96.0.3", "selector": {"app": "web", "track": "a"}, "ports": ports}))
}

#[test]
fn a_slice_has_the_workloads_that_match_all_of_the_selector() {
    let mut elsewhere = workload("p4", "10.0.0.4", json!({"app": "web", "track": "a"}));
    elsewhere["metadata"]["namespace"] = json!("other");
    let documents = [
        web(json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}])),
        workload("p2", "10.0.0.2", json!({"app": "web", "track": "a", "more": "yes"})),
        workload("p1", "10.0.0.1", json!({"app": "web", "track": "a"})),
        workload("p3", "10.0.0.3", json!({"app": "web"})),
        elsewhere,
    ];
    let made = slices(&documents);
    assert_eq!(made.len(), 1);
    let (verb, slice) = &made[0];
    assert_eq!((*verb, slice.metadata.name.as_str()), ("create", "web-tortie"));
    assert_eq!(slice.metadata.namespace.as_deref(), Some("test"));
    assert_eq!(slice.metadata.labels["kubernetes.io/service-name"], "web");
    assert_eq!(slice.metadata.labels["endpointslice.kubernetes.io/managed-by"], "tortie-controller");
    assert_eq!(addresses(slice), ["10.0.0.1", "10.0.0.2"]);
    let endpoint = &slice.body.endpoints[0];
    assert_eq!((endpoint.conditions.ready, endpoint.node_name.as_deref()), (Some(true), Some("worker01")));
    let ports: Vec<(Option<&str>, Option<u16>)> =
        slice.body.ports.iter().map(|p| (p.name.as_deref(), p.port)).collect();
    assert_eq!(ports, [(Some("http"), Some(8080)), (Some("dns"), Some(53))]);

    let mut stored = documents.to_vec();
    stored.push(serde_json::to_value(slice).unwrap());
    assert!(slices(&stored).is_empty(), "done is done");
    stored.remove(1);
    let updated = slices(&stored);
    assert_eq!((updated[0].0, addresses(&updated[0].1)), ("update", vec!["10.0.0.1"]));
    stored.remove(0);
    assert_eq!(slices(&stored)[0].0, "delete", "with the service");
}

#[test]
fn a_named_target_port_is_looked_up_on_each_workload() {
    let labels = json!({"app": "web", "track": "a"});
    let mut other = workload("p2", "10.0.0.2", labels.clone());
    other["spec"]["ports"][0]["port"] = json!(9090);
    let mut without = workload("p3", "10.0.0.3", labels.clone());
    without["spec"]["ports"] = json!([]);
    let documents =
        [web(json!([{"port": 80, "targetPort": "http"}])), workload("p1", "10.0.0.1", labels), other, without];
    let made = slices(&documents);
    let rows: Vec<(&str, Option<u16>, Vec<&str>)> =
        made.iter().map(|(_, s)| (s.metadata.name.as_str(), s.body.ports[0].port, addresses(s))).collect();
    assert_eq!(rows, [("web-tortie", Some(8080), vec!["10.0.0.1"]), ("web-tortie-2", Some(9090), vec!["10.0.0.2"])]);
}

#[test]
fn a_combination_of_ports_keeps_its_slice() {
    let web = web(json!([{"name": "http", "port": 80, "targetPort": "http"}]));
    let on = |name: &str, ip: &str, port: u16| {
        let mut workload = workload(name, ip, json!({"app": "web", "track": "a"}));
        workload["spec"]["ports"][0]["port"] = json!(port);
        workload
    };
    let mut documents = vec![web, on("a", "10.0.0.1", 8080)];
    let first = slices(&documents);
    assert_eq!((first.len(), first[0].0), (1, "create"));
    documents.push(serde_json::to_value(&first[0].1).unwrap());
    // A lower number comes first in order, and takes no place.
    documents.push(on("b", "10.0.0.2", 7070));
    let second = slices(&documents);
    assert_eq!((second.len(), second[0].0, addresses(&second[0].1)), (1, "create", vec!["10.0.0.2"]));
    documents.push(serde_json::to_value(&second[0].1).unwrap());
    assert!(slices(&documents).is_empty());
    // The first goes; the second stays where it is.
    documents.remove(1);
    let third = slices(&documents);
    assert_eq!((third.len(), third[0].0), (1, "delete"));
    assert_eq!(third[0].1.metadata.name, first[0].1.metadata.name);
}

#[test]
fn slices_of_others_are_left_alone() {
    let labels = json!({"app": "web", "track": "a"});
    let workload = workload("p1", "10.0.0.1", labels);
    let service = web(json!([{"port": 80}]));
    let kubernetes = slice("web-x7", "web", "endpointslice-controller.k8s.io");
    assert!(slices(&[service.clone(), workload.clone(), kubernetes.clone()]).is_empty());
    let ours = slice("web-tortie", "web", "tortie-controller");
    let both = slices(&[service.clone(), workload.clone(), kubernetes, ours]);
    assert_eq!((both.len(), both[0].0), (1, "delete"), "two owners would serve twice");
    let mut bare = slice("mine", "web", "");
    bare["metadata"]["labels"].as_object_mut().unwrap().remove("endpointslice.kubernetes.io/managed-by");
    assert!(slices(&[service, workload, bare]).is_empty(), "also what an operator wrote by hand");
    let no_selector = service_without_selector();
    assert!(slices(&[no_selector]).is_empty());
}

fn service_without_selector() -> Value {
    service("web", json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80}]}))
}

#[test]
fn a_service_without_workloads_has_an_empty_slice() {
    let made = slices(&[web(json!([{"port": 80, "targetPort": 8080}]))]);
    assert_eq!((made.len(), made[0].1.body.endpoints.len(), made[0].1.body.ports[0].port), (1, 0, Some(8080)));
}

#[test]
fn a_pods_labels_reach_its_workload_and_its_services_at_once() {
    let stored = json!({"app": "web", "track": "a", "projectcalico.org/orchestrator": "k8s"});
    let pod = json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "p1", "namespace": "test", "labels": {"app": "web", "track": "out"}}});
    let documents = [web(json!([{"port": 80}])), workload("p1", "10.0.0.1", stored.clone()), pod];
    let actions = run(&documents);
    let Action::UpdateWorkload(updated) = &actions[0] else { panic!("{actions:?}") };
    let labels = serde_json::to_value(&updated.metadata.labels).unwrap();
    assert_eq!(labels, json!({"app": "web", "track": "out", "projectcalico.org/orchestrator": "k8s"}));
    assert!(slices(&documents)[0].1.body.endpoints.is_empty(), "in the same round");
    let without_pod = run(&documents[..2]);
    assert!(!without_pod.iter().any(|a| matches!(a, Action::UpdateWorkload(_))), "the plugin's labels stay");
}

/// What a service has of both families after a plan with the ranges of `settings`.
fn families(spec: Value, ranges: &[&str]) -> (Value, Option<String>) {
    let settings = Settings { cluster_ips: ranges.iter().map(|r| r.parse().unwrap()).collect(), ..settings() };
    let document = service("web", spec);
    let actions = plan(&mut state(std::slice::from_ref(&document)), &settings, NOW);
    let written = actions.into_iter().find_map(|a| match a {
        Action::UpdateService(s) => Some(serde_json::to_value(*s).unwrap()),
        _ => None,
    });
    let after = written.unwrap_or(document);
    let reason = after["status"]["conditions"][0]["reason"].as_str().map(ToString::to_string);
    (after["spec"].clone(), reason)
}

#[test]
fn cluster_ips_of_both_families() {
    const BOTH: &[&str] = &["10.96.0.0/29", "fd00:96::/112"];
    const SIX_FIRST: &[&str] = &["fd00:96::/112", "10.96.0.0/29"];
    const FOUR: &[&str] = &["10.96.0.0/29"];
    let rows = [
        ("the first range is the usual one", json!({}), BOTH, "4", None),
        ("whichever that is", json!({}), SIX_FIRST, "6", None),
        ("a named family", json!({"ipFamilies": ["IPv6"]}), BOTH, "6", None),
        ("of which there is no range", json!({"ipFamilies": ["IPv6"]}), FOUR, "", Some("NoClusterIPRange")),
        ("preferred", json!({"ipFamilyPolicy": "PreferDualStack"}), BOTH, "46", None),
        ("preferred, with one range", json!({"ipFamilyPolicy": "PreferDualStack"}), FOUR, "4", None),
        ("required", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}), BOTH, "64", None),
        (
            "required, with one range",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            FOUR,
            "4",
            Some("NoClusterIPRange"),
        ),
        (
            "one that becomes dual-stack keeps what it has",
            json!({"clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3"], "ipFamilyPolicy": "PreferDualStack"}),
            BOTH,
            "46",
            None,
        ),
        ("headless", json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}), BOTH, "None", None),
    ];
    for (what, spec, ranges, expected, reason) in rows {
        let kept = spec.get("clusterIP").cloned();
        let (after, problem) = families(spec, ranges);
        let ips: Vec<String> = match after.get("clusterIPs") {
            Some(ips) => serde_json::from_value(ips.clone()).unwrap(),
            None => after["clusterIP"].as_str().map(ToString::to_string).into_iter().collect(),
        };
        let word = |ip: &String| match ip.parse::<IpAddr>() {
            Ok(ip) => if ip.is_ipv4() { "4" } else { "6" }.to_string(),
            Err(_) => ip.clone(),
        };
        assert_eq!(ips.iter().map(word).collect::<String>(), expected, "{what}");
        assert_eq!(ips.first().map(String::as_str), after["clusterIP"].as_str(), "{what}");
        assert_eq!(problem.as_deref(), reason, "{what}");
        assert!(kept.is_none_or(|ip| ip == after["clusterIP"]), "{what}");
    }
}

#[test]
fn a_service_of_both_families_has_a_slice_of_each() {
    let labels = json!({"app": "web", "track": "a"});
    let mut pod = workload("p1", "10.0.0.1", labels.clone());
    pod["spec"]["ipNetworks"] = json!(["10.0.0.1/32", "fd00::1/128"]);
    let both = |families: Value| {
        let mut service = web(json!([{"port": 80}]));
        service["spec"]["ipFamilies"] = families;
        service
    };
    let rows = [
        (json!(["IPv4", "IPv6"]), vec![("IPv4", "web-tortie", "10.0.0.1"), ("IPv6", "web-tortie-2", "fd00::1")]),
        (json!(["IPv4"]), vec![("IPv4", "web-tortie", "10.0.0.1")]),
    ];
    for (families, expected) in rows {
        let made = slices(&[both(families), pod.clone()]);
        let found: Vec<(&str, &str, &str)> = made
            .iter()
            .map(|(_, s)| (s.body.address_type.as_str(), s.metadata.name.as_str(), addresses(s)[0]))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn an_endpoint_is_ready_as_its_pod_is() {
    let labels = json!({"app": "web", "track": "a"});
    let pod = |ready: &str, terminating: bool| {
        let mut pod = json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p1", "namespace": "test", "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        if terminating {
            pod["metadata"]["deletionTimestamp"] = json!(NOW);
        }
        pod
    };
    let rows = [
        ("ready", pod("True", false), false, (Some(true), None, None)),
        ("not ready", pod("False", false), false, (Some(false), Some(false), Some(false))),
        ("terminating, and serving", pod("True", true), false, (Some(false), Some(true), Some(true))),
        ("not ready, and published", pod("False", false), true, (Some(true), Some(false), Some(false))),
    ];
    for (what, pod, publishes, expected) in rows {
        let mut service = web(json!([{"port": 80}]));
        service["spec"]["publishNotReadyAddresses"] = json!(publishes);
        let made = slices(&[service, workload("p1", "10.0.0.1", labels.clone()), pod]);
        let conditions = made[0].1.body.endpoints[0].conditions;
        assert_eq!((conditions.ready, conditions.serving, conditions.terminating), expected, "{what}");
    }
}

#[test]
fn with_kubernetes_only_load_balancers_are_ours() {
    let settings = Settings { has_kubernetes: true, ..settings() };
    let documents = [
        lb_pool(),
        service("web", json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]})),
        workload("p1", "10.0.0.1", json!({"app": "web"})),
    ];
    let actions = plan(&mut state(&documents), &settings, NOW);
    assert!(matches!(&actions[..], [Action::AssignAddress(_)]), "{actions:?}");
}
