//! What an event marks is all that it changes: planning after each event leads where planning everything leads.

use api::{Key, Kind};
use proptest::prelude::*;

use super::world::World;
use super::*;

#[derive(Clone, Debug)]
enum Event {
    Service { index: u8, kind: u8, ports: u8, key: u8, selector: u8, ip: u8, age: u8 },
    Workload { index: u8, label: u8, port: bool },
    Pod { index: u8, label: u8, ready: bool },
    Slice { index: u8, foreign: bool },
    Pool { index: u8, state: u8 },
    Drop { what: u8, index: u8 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => (0..6u8, 0..6u8, 1..4u8, 0..3u8, 0..3u8, 0..4u8, 0..3u8).prop_map(
            |(index, kind, ports, key, selector, ip, age)| Event::Service { index, kind, ports, key, selector, ip, age }),
        3 => (0..3u8, 0..3u8, any::<bool>()).prop_map(|(index, label, port)| Event::Workload { index, label, port }),
        2 => (0..3u8, 0..3u8, any::<bool>()).prop_map(|(index, label, ready)| Event::Pod { index, label, ready }),
        1 => (0..4u8, any::<bool>()).prop_map(|(index, foreign)| Event::Slice { index, foreign }),
        2 => (0..3u8, 0..4u8).prop_map(|(index, state)| Event::Pool { index, state }),
        3 => (0..5u8, 0..6u8).prop_map(|(what, index)| Event::Drop { what, index }),
    ];
    proptest::collection::vec(event, 1..25)
}

fn apply(world: &mut World, event: &Event) {
    let labels = |n: u8| {
        let app = ["web", "db", "none"][usize::from(n)];
        json!({"app": app, "track": "a"})
    };
    match event {
        Event::Service { index, kind, ports, key, selector, ip, age } => {
            let name = format!("s{index}");
            let ports: Vec<Value> = (0..*ports)
                .map(|p| {
                    let target = if p == 1 { json!("http") } else { json!(8080) };
                    json!({"name": format!("p{p}"), "port": 80 + 10 * u16::from(p) + u16::from(*index % 3), "targetPort": target})
                })
                .collect();
            let mut document = service(&name, json!({"ports": ports}));
            document["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{age}Z"));
            document["metadata"]["labels"] = json!({"color": "blue"});
            let spec = document["spec"].as_object_mut().unwrap();
            match kind {
                0 => drop(spec.insert("clusterIP".into(), json!("None"))),
                1 => drop(spec.insert("type".into(), json!("NodePort"))),
                2 => drop(spec.insert("clusterIP".into(), json!(format!("10.96.0.{}", 2 + ip)))),
                3 => {
                    spec.insert("type".into(), json!("LoadBalancer"));
                    spec.insert("ipFamilyPolicy".into(), json!("PreferDualStack"));
                }
                4 => {
                    spec.insert("type".into(), json!("LoadBalancer"));
                    spec.insert("loadBalancerIP".into(), json!(format!("172.20.0.{ip}")));
                }
                _ => drop(spec.insert("type".into(), json!("LoadBalancer"))),
            }
            if *selector < 2 {
                spec.insert("selector".into(), labels(*selector));
            }
            if *key > 0 {
                document["metadata"]["annotations"] = json!({"tortie.io/sharing-key": format!("k{}", key % 2)});
            }
            // A user's apply keeps the status.
            if let Some(before) = world.objects.get(&super::world::key_of(&document)) {
                document["status"] = before["status"].clone();
                if document["status"].is_null() {
                    document.as_object_mut().unwrap().remove("status");
                }
            }
            world.put(document);
        }
        Event::Workload { index, label, port } => {
            let mut document = workload(&format!("p{index}"), &format!("10.0.0.{index}"), labels(*label));
            if *port {
                document["spec"]["ports"][0]["port"] = json!(9090);
            }
            world.put(document);
        }
        Event::Pod { index, label, ready } => {
            let ready = if *ready { "True" } else { "False" };
            world.put(json!({
                "kind": "Pod", "apiVersion": "v1",
                "metadata": {"name": format!("p{index}"), "namespace": "test", "labels": labels(*label)},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }));
        }
        Event::Slice { index, foreign } => {
            let by = if *foreign { "somebody" } else { "tortie-controller" };
            world.put(slice(&format!("x{index}"), &format!("s{index}"), by));
        }
        Event::Pool { index: 0, state } => {
            let cidr = if *state == 1 { "172.20.0.0/30" } else { "172.20.0.0/29" };
            world.put(json!({
                "kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "lb"},
                "spec": {"cidr": cidr, "disabled": *state == 2, "allowedUses": ["LoadBalancer"]},
            }));
        }
        Event::Pool { index, state } => {
            let range = json!({"start": format!("20.0.{index}.1")});
            let block = if *state == 1 { json!({"cidr": "20.0.0.0/30"}) } else { range };
            let selector = if *state == 3 { json!({"matchLabels": {"color": "red"}}) } else { json!({}) };
            let metadata =
                json!({"name": format!("lb{index}"), "creationTimestamp": format!("2026-01-01T00:00:0{index}Z")});
            world.put(json!({
                "kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": metadata,
                "spec": {"blocks": [block], "disabled": *state == 2, "serviceSelector": selector},
            }));
        }
        Event::Drop { what, index } => {
            let key = match what {
                0 => Key::resource(Kind::Service, Some("test"), &format!("s{index}")),
                1 => Key::resource(Kind::WorkloadEndpoint, Some("test"), &format!("w1-k8s-p{index}-eth0")),
                2 => Key::resource(Kind::Pod, Some("test"), &format!("p{index}")),
                3 if *index == 0 => Key::resource(Kind::IpPool, None, "lb"),
                3 => Key::resource(Kind::LoadBalancerIpPool, None, &format!("lb{index}")),
                _ => Key::resource(Kind::EndpointSlice, Some("test"), &format!("x{index}")),
            };
            world.delete(&key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn planning_what_changed_leaves_nothing_to_a_plan_of_everything(events in events(), together in 1..4usize) {
        let mut world = World::new(&[]);
        for batch in events.chunks(together) {
            batch.iter().for_each(|event| apply(&mut world, event));
            world.settle();
            let documents: Vec<Value> = world.objects.values().cloned().collect();
            let failures = world.state.failures.clone();
            let mut anew = World::new(&documents);
            anew.state.failures = failures;
            let left = plan(&mut anew.state, &anew.settings, NOW);
            // An attempt that failed for want of addresses is made again whenever everything is planned.
            let left: Vec<&Action> = left.iter().filter(|a| !matches!(a, Action::AssignAddress(a) if world.state.failures.contains_key(&a.service))).collect();
            prop_assert_eq!(left, Vec::<&Action>::new());
            // No address is used by two who may not share it, and each that is taken is used.
            let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for key in world.objects.keys() {
                if let Key::Resource { kind: Kind::Service, name, .. } = key {
                    world.ingress("test", name).into_iter().for_each(|ip| users.entry(ip).or_default().push(name.clone()));
                }
            }
            for (ip, names) in users.iter().filter(|(_, names)| names.len() > 1) {
                let services: Vec<&Service> = names.iter().map(|n| &world.state.services[&("test".into(), n.clone())]).collect();
                let keys: std::collections::BTreeSet<Option<&str>> = services.iter().map(|s| sharing_key(s)).collect();
                prop_assert!(keys.len() == 1 && !keys.contains(&None), "{} of {:?} with keys {:?}", ip, names, keys);
                let mut ports: Vec<u16> = services.iter().flat_map(|s| &s.body.spec.ports).map(|p| p.port).collect();
                ports.sort_unstable();
                prop_assert!(ports.windows(2).all(|p| p[0] != p[1]), "{} of {:?} with ports {:?}", ip, names, ports);
            }
            let taken: std::collections::BTreeSet<String> = world.allocated().keys().map(ToString::to_string).collect();
            prop_assert!(taken.iter().all(|ip| users.contains_key(ip)), "unused: {:?} {:?}", taken, users);
        }
    }
}

#[test]
fn a_change_marks_what_depends_on_it_and_nothing_else() {
    let mut world = World::new(&[lb_pool()]);
    for i in 0..200 {
        let app = json!({"app": format!("a{i}")});
        let mut document = service(
            &format!("s{i}"),
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "clusterIP": format!("10.97.0.{i}"), "selector": app, "ports": [{"port": 80}]}),
        );
        document["metadata"]["uid"] = json!(format!("u{i}"));
        world.put(document);
        world.put(workload(&format!("p{i}"), &format!("10.0.0.{i}"), app));
    }
    world.settle();
    let marked = |world: &World| {
        let d = &world.state.dirty;
        (d.services.len(), d.endpoints.len(), d.workloads.len(), d.handles.len())
    };
    assert_eq!(marked(&world), (0, 0, 0, 0));
    world.put(workload("p7", "10.0.0.77", json!({"app": "a7"})));
    assert_eq!(marked(&world), (0, 1, 0, 0), "a workload: the service that selects it");
    assert_eq!(world.settle(), 1);
    world.change(&Key::resource(Kind::Service, Some("test"), "s9"), |s| s["metadata"]["labels"] = json!({"x": "y"}));
    assert_eq!(marked(&world), (1, 1, 0, 1), "a service: itself");
    assert_eq!(world.settle(), 0);
    world.delete(&Key::resource(Kind::Service, Some("test"), "s9"));
    assert_eq!(marked(&world), (0, 1, 0, 1), "one that goes: its slices and its addresses");
    assert_eq!(world.settle(), 2);
}
