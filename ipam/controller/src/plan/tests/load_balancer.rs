use api::load_balancer_ip_pool::{CONDITION_AVAILABLE, CONDITION_CONFLICT};
use api::{Key, Kind};

use super::world::World;
use super::*;

fn pool(name: &str, spec: Value) -> Value {
    json!({"kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len() % 10)}, "spec": spec})
}

fn ip_pool(name: &str, cidr: &str) -> Value {
    json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"cidr": cidr, "allowedUses": ["LoadBalancer"]}})
}

/// A service with these ports; `more` is merged into its spec.
fn balanced(name: &str, ports: &[u16], annotations: Value, more: Value) -> Value {
    let ports: Vec<Value> = ports.iter().map(|p| json!({"port": p})).collect();
    let mut service = service(
        name,
        json!({"type": "LoadBalancer", "clusterIP": "None", "allocateLoadBalancerNodePorts": false, "ports": ports}),
    );
    service["metadata"]["annotations"] = annotations;
    service["metadata"]["labels"] = json!({"color": "blue"});
    service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    service
}

fn plain(name: &str) -> Value {
    balanced(name, &[80], json!({}), json!({}))
}

fn shared(name: &str, ports: &[u16]) -> Value {
    balanced(name, ports, json!({"lbipam.cilium.io/sharing-key": "k"}), json!({}))
}

fn service_key(name: &str) -> Key {
    Key::resource(Kind::Service, Some("test"), name)
}

fn pool_key(name: &str) -> Key {
    Key::resource(Kind::LoadBalancerIpPool, None, name)
}

fn condition(world: &World, pool: &str, kind: &str) -> (String, String) {
    let conditions = world.objects[&pool_key(pool)]["status"]["conditions"].as_array().unwrap().clone();
    let found = conditions.iter().find(|c| c["type"] == kind).unwrap();
    (found["status"].as_str().unwrap().into(), found["message"].as_str().unwrap().into())
}

#[test]
fn the_published_pools_serve_the_services_they_select_and_count() {
    let blue = json!({"blocks": [{"cidr": "20.0.10.0/24"}],
        "serviceSelector": {"matchExpressions": [{"key": "color", "operator": "In", "values": ["blue", "cyan"]}]}});
    let red = json!({"blocks": [{"cidr": "30.0.10.0/24"}], "serviceSelector": {"matchLabels": {"color": "red"}}});
    let mut world = World::new(&[pool("blue-pool", blue), pool("red-pool", red)]);
    world.settle();
    let available = |world: &World, pool: &str| condition(world, pool, CONDITION_AVAILABLE).1;
    assert_eq!((available(&world, "blue-pool"), available(&world, "red-pool")), ("254".into(), "254".into()));
    world.put(plain("cni"));
    world.settle();
    let ingress = world.ingress("test", "cni");
    assert!(ingress.len() == 1 && ingress[0].starts_with("20.0.10."), "{ingress:?}");
    assert_eq!((available(&world, "blue-pool"), available(&world, "red-pool")), ("253".into(), "254".into()));
    world.delete(&service_key("cni"));
    world.settle();
    assert_eq!(available(&world, "blue-pool"), "254");
    assert!(world.allocated().is_empty());
}

#[test]
fn a_service_is_told_why_the_pools_that_select_it_give_nothing() {
    let of = |address: &str, more: Value| {
        let mut spec = json!({"blocks": [{"start": address}], "serviceSelector": {"matchLabels": {"color": "blue"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let mut world = World::new(&[plain("web")]);
    world.put(pool("a", of("10.9.0.1", json!({"serviceSelector": {"matchLabels": {"color": "red"}}}))));
    world.settle();
    let told = |world: &World, name: &str| world.problem(name).unwrap();
    assert!(told(&world, "web").1.ends_with("no LoadBalancerIPPool of IPv4 that selects the service"));
    world.put(pool("a", of("10.9.0.1", json!({"disabled": true}))));
    world.settle();
    let (reason, message) = told(&world, "web");
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("NoPool", "no pool gives IPv4 addresses to the service: LoadBalancerIPPool a is disabled")
    );
    // A pool in conflict, and one that has nothing left.
    world.put(pool("a", of("10.9.0.1", json!({}))));
    world.put(pool("bb", of("10.9.0.1", json!({}))));
    world.put(plain("xother"));
    world.settle();
    assert_eq!(world.ingress("test", "web"), ["10.9.0.1"]);
    let conflict = "in LoadBalancerIPPool bb, 10.9.0.1 overlaps 10.9.0.1 of LoadBalancerIPPool(a)";
    let (reason, message) = told(&world, "xother");
    assert_eq!(reason, "OutOfAddresses");
    assert_eq!(message, format!("no IPv4 address is left in LoadBalancerIPPool a; {conflict}"));
}

#[test]
fn a_pool_of_ranges_gives_all_of_them_and_no_more() {
    let spec =
        json!({"blocks": [{"start": "10.9.0.5", "stop": "10.9.0.6"}, {"start": "10.9.1.1"}, {"cidr": "10.9.2.0/30"}]});
    let mut world = World::new(&[pool("p", spec)]);
    (0..6).for_each(|i| world.put(plain(&format!("s{i}"))));
    world.settle();
    let taken: Vec<String> = world.allocated().keys().map(ToString::to_string).collect();
    assert_eq!(taken, ["10.9.0.5", "10.9.0.6", "10.9.1.1", "10.9.2.1", "10.9.2.2"]);
    let without: Vec<String> =
        (0..6).map(|i| format!("s{i}")).filter(|n| world.ingress("test", n).is_empty()).collect();
    assert_eq!(without.len(), 1);
    let problem = world.problem(&without[0]).unwrap();
    assert_eq!(problem, ("OutOfAddresses".into(), "no IPv4 address is left in LoadBalancerIPPool p".into()));
    // What another gives back, it gets.
    let other = (0..6).map(|i| format!("s{i}")).find(|n| *n != without[0]).unwrap();
    world.delete(&service_key(&other));
    world.settle();
    assert_eq!((world.ingress("test", &without[0]).len(), world.problem(&without[0])), (1, None));
}

#[test]
fn pools_that_change_under_use() {
    let all = json!({"blocks": [{"cidr": "20.0.10.0/24"}]});
    type Change = fn(&mut World);
    fn of_block(w: &World, nth: usize) -> Value {
        let ip = w.ingress("test", "web")[0].parse().unwrap();
        let block = ipnet::IpNet::new(ip, 26).unwrap().trunc();
        let halves: Vec<ipnet::IpNet> = block.subnets(27).unwrap().collect();
        let own = usize::from(!halves[0].contains(&ip));
        json!([{"cidr": halves[(own + nth) % 2].to_string()}])
    }
    let rows: [(&str, Change, bool, &str); 8] = [
        (
            "shrunk to its half of the block",
            |w| {
                let blocks = of_block(w, 0);
                w.change(&pool_key("a"), |p| p["spec"]["blocks"] = blocks);
            },
            true,
            "20.0.10.",
        ),
        (
            "shrunk to the other half of the block",
            |w| {
                let blocks = of_block(w, 1);
                w.change(&pool_key("a"), |p| p["spec"]["blocks"] = blocks);
            },
            true,
            "20.0.10.",
        ),
        (
            "disabled: what is there stays",
            |w| w.change(&pool_key("a"), |p| p["spec"]["disabled"] = json!(true)),
            true,
            "20.0.10.",
        ),
        (
            "in conflict with an older one",
            |w| w.put(pool("", json!({"blocks": [{"cidr": "20.0.0.0/16"}]}))),
            true,
            "20.0.10.",
        ),
        ("deleted", |w| w.delete(&pool_key("a")), false, ""),
        (
            "shrunk",
            |w| w.change(&pool_key("a"), |p| p["spec"]["blocks"] = json!([{"cidr": "20.0.11.0/24"}])),
            true,
            "20.0.11.",
        ),
        (
            "of other services",
            |w| w.change(&pool_key("a"), |p| p["spec"]["serviceSelector"] = json!({"matchLabels": {"color": "red"}})),
            false,
            "",
        ),
        (
            "deleted, and another is there",
            |w| {
                w.put(pool("bb", json!({"blocks": [{"cidr": "20.0.20.0/24"}]})));
                w.delete(&pool_key("a"));
            },
            true,
            "20.0.20.",
        ),
    ];
    for (what, change, has_one, prefix) in rows {
        let mut world = World::new(&[pool("a", all.clone()), plain("web")]);
        world.settle();
        let before = world.ingress("test", "web");
        assert_eq!(before.len(), 1, "{what}");
        change(&mut world);
        world.settle();
        let after = world.ingress("test", "web");
        assert_eq!(after.len(), usize::from(has_one), "{what}");
        assert!(after.iter().all(|ip| ip.starts_with(prefix)), "{what}: {after:?}");
        let taken: Vec<String> = world.allocated().keys().map(ToString::to_string).collect();
        assert_eq!(taken, after, "{what}: nothing is leaked");
        assert_eq!(world.problem("web").is_none(), has_one, "{what}: {:?}", world.problem("web"));
    }
}

#[test]
fn a_pool_that_cannot_be_read_takes_nothing_away_and_gives_nothing() {
    let kinds = [
        (pool("p", json!({"blocks": [{"cidr": "20.0.10.0/24"}]})), "blocks"),
        (ip_pool("lb", "172.20.0.0/28"), "cidr"),
    ];
    for (readable, field) in kinds {
        for starts_anew in [false, true] {
            let mut world = World::new(&[readable.clone(), plain("web")]);
            world.settle();
            let before = world.ingress("test", "web");
            assert_eq!(before.len(), 1);
            let key = super::world::key_of(&readable);
            world.change(&key, |p| p["spec"][field] = json!("10.0.0.0-10"));
            if starts_anew {
                world = World::new(&world.objects.values().cloned().collect::<Vec<_>>());
            }
            world.put(plain("new"));
            world.settle();
            assert_eq!(
                (world.ingress("test", "web"), world.ingress("test", "new")),
                (before.clone(), vec![]),
                "{field}"
            );
            world.put(ip_pool("other", "172.30.0.0/28"));
            world.settle();
            assert!(world.ingress("test", "new")[0].starts_with("172.30.0."), "{field}");
            assert_eq!((world.ingress("test", "web"), world.allocated().len()), (before.clone(), 2), "{field}");
            world.put(readable.clone());
            world.settle();
            assert_eq!(world.ingress("test", "web"), before, "{field}");
            // One that cannot be read may be deleted as any other.
            world.change(&key, |p| p["spec"][field] = json!("10.0.0.0-10"));
            world.delete(&key);
            world.settle();
            assert!(world.ingress("test", "web")[0].starts_with("172.30.0."), "{field}");
        }
    }
}

/// What a service's status says is its own: a pool that shrinks while all others are full, and a status that was pasted.
#[test]
fn an_address_is_in_the_status_of_who_has_it_only() {
    let mut world = World::new(&[ip_pool("lb", "172.20.0.0/30")]);
    (0..4).for_each(|i| world.put(plain(&format!("s{i}"))));
    world.settle();
    world.put(pool("p", json!({"blocks": [{"start": "20.0.10.1", "stop": "20.0.10.2"}]})));
    world.put(plain("stays"));
    world.put(plain("moves"));
    world.settle();
    let (stays, moves) = (world.ingress("test", "stays"), world.ingress("test", "moves"));
    assert!(stays.len() == 1 && moves.len() == 1 && stays != moves);
    world.change(&pool_key("p"), |p| p["spec"]["blocks"] = json!([{"start": stays[0]}]));
    world.settle();
    world
        .put(pool("q", json!({"blocks": [{"start": moves[0]}], "serviceSelector": {"matchLabels": {"color": "red"}}})));
    let mut red = plain("red");
    red["metadata"]["labels"] = json!({"color": "red"});
    world.put(red);
    let mut pasted = plain("pasted");
    pasted["status"] = json!({"loadBalancer": {"ingress": [{"ip": stays[0]}]}});
    world.put(pasted);
    world.settle();
    let names = ["s0", "s1", "s2", "s3", "stays", "moves", "red", "pasted"];
    let lacks: Vec<&str> = names.into_iter().filter(|n| world.ingress("test", n).is_empty()).collect();
    assert_eq!((lacks, world.ingress("test", "moves")), (vec!["red", "pasted"], moves.clone()));
    for name in names {
        for ip in world.ingress("test", name) {
            assert_eq!(world.allocated()[&ip.parse().unwrap()], lb_handle(name), "{ip} of {name}");
        }
    }
    // As soon as there is another address, it moves there.
    world.delete(&service_key("s0"));
    world.state.mark_all();
    world.settle();
    let now = world.ingress("test", "moves");
    assert!(
        now.len() == 1 && (now[0].starts_with("172.20.0.") || world.ingress("test", "pasted").len() == 1),
        "{now:?}"
    );
}

#[test]
fn of_two_pools_that_overlap_the_younger_gives_nothing_until_that_ends() {
    // Younger by its name's length, which is its time.
    let mut world = World::new(&[
        pool("old", json!({"blocks": [{"cidr": "10.0.0.0/24"}], "disabled": true})),
        pool("young", json!({"blocks": [{"cidr": "10.0.0.128/25"}]})),
        plain("web"),
    ]);
    world.settle();
    assert_eq!(world.ingress("test", "web"), Vec::<String>::new());
    let (status, message) = condition(&world, "young", CONDITION_CONFLICT);
    assert_eq!(status, "True");
    assert!(message.contains("LoadBalancerIPPool(old)"), "{message}");
    world.delete(&pool_key("old"));
    world.settle();
    assert_eq!(condition(&world, "young", CONDITION_CONFLICT).0, "False");
    assert_eq!(world.ingress("test", "web").len(), 1);
}

#[test]
fn addresses_that_are_asked_for() {
    let pools = [pool("p", json!({"blocks": [{"cidr": "20.0.10.0/24"}]})), ip_pool("lb", "172.20.0.0/24")];
    let ask = |key: &str, value: &str| json!({ key: value });
    let rows = [
        (ask("lbipam.cilium.io/ips", "20.0.10.7"), vec!["20.0.10.7"], None),
        (ask("io.cilium/lb-ipam-ips", "20.0.10.7, 20.0.10.9"), vec!["20.0.10.7", "20.0.10.9"], None),
        (ask("tortie.io/load-balancer-ips", "172.20.0.9"), vec!["172.20.0.9"], None),
        (ask("projectcalico.org/loadBalancerIPs", "[\"20.0.10.7\"]"), vec!["20.0.10.7"], None),
        (ask("lbipam.cilium.io/ips", "20.0.10.0"), vec![], Some("AddressNotInPool")),
        (ask("lbipam.cilium.io/ips", "web"), vec![], Some("InvalidRequest")),
        (ask("projectcalico.org/loadBalancerIPs", "[\"20.0.10.7\",\"20.0.10.8\"]"), vec![], Some("InvalidRequest")),
        (ask("projectcalico.org/ipv4pools", "[\"none\"]"), vec![], Some("InvalidRequest")),
        (ask("projectcalico.org/ipv6pools", "[\"lb\"]"), vec![], Some("InvalidRequest")),
    ];
    for (annotations, ingress, reason) in rows {
        let mut documents = pools.to_vec();
        documents.push(balanced("web", &[80], annotations.clone(), json!({})));
        let mut world = World::new(&documents);
        world.settle();
        assert_eq!(world.ingress("test", "web"), ingress, "{annotations}");
        assert_eq!(world.problem("web").map(|(reason, _)| reason).as_deref(), reason, "{annotations}");
    }
    let mut world = World::new(&pools);
    world.put(balanced("first", &[80], ask("lbipam.cilium.io/ips", "20.0.10.7"), json!({})));
    world.put(balanced("second", &[80], ask("lbipam.cilium.io/ips", "20.0.10.7"), json!({})));
    world.settle();
    assert_eq!(world.ingress("test", "first"), ["20.0.10.7"]);
    let problem = world.problem("second").unwrap();
    assert_eq!(problem, ("AddressInUse".into(), "20.0.10.7 is the address of service test/first".into()));
    // An IPPool that is named wins over a LoadBalancerIPPool.
    world.put(balanced("third", &[80], ask("projectcalico.org/ipv4pools", "[\"lb\"]"), json!({})));
    world.settle();
    assert!(world.ingress("test", "third")[0].starts_with("172.20.0."));
}

#[test]
fn families_are_given_as_far_as_the_policy_asks() {
    let (v4, v6) = (ip_pool("v4", "172.20.0.0/28"), ip_pool("v6", "fd00:20::/124"));
    let both = vec![v4.clone(), v6.clone()];
    let rows = [
        ("single", json!({}), both.clone(), vec!["172."], None),
        ("IPv6 alone", json!({"ipFamilies": ["IPv6"]}), both.clone(), vec!["fd00:"], None),
        ("preferred", json!({"ipFamilyPolicy": "PreferDualStack"}), both.clone(), vec!["172.", "fd00:"], None),
        ("preferred, one is there", json!({"ipFamilyPolicy": "PreferDualStack"}), vec![v4.clone()], vec!["172."], None),
        (
            "preferred, the other is there",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            vec![v6.clone()],
            vec!["fd00:"],
            None,
        ),
        ("preferred, none is there", json!({"ipFamilyPolicy": "PreferDualStack"}), vec![], vec![], Some("NoPool")),
        (
            "required",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            both.clone(),
            vec!["fd00:", "172."],
            None,
        ),
        (
            "required, one is missing",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            vec![v4.clone()],
            vec!["172."],
            Some("NoPool"),
        ),
    ];
    for (what, spec, pools, prefixes, reason) in rows {
        let mut documents = pools;
        documents.push(balanced("web", &[80], json!({}), spec));
        let mut world = World::new(&documents);
        world.settle();
        let ingress = world.ingress("test", "web");
        assert_eq!(ingress.len(), prefixes.len(), "{what}: {ingress:?}");
        assert!(ingress.iter().zip(&prefixes).all(|(ip, p)| ip.starts_with(p)), "{what}: {ingress:?}");
        assert_eq!(world.problem("web").map(|(reason, _)| reason).as_deref(), reason, "{what}");
    }
    // Calico never adds the second family to a service that has one.
    let mut world = World::new(&[v4, balanced("web", &[80], json!({}), json!({"ipFamilyPolicy": "RequireDualStack"}))]);
    world.settle();
    let before = world.ingress("test", "web");
    world.put(v6);
    world.settle();
    let after = world.ingress("test", "web");
    assert_eq!((after.len(), &after[0], world.problem("web")), (2, &before[0], None));
    world.change(&service_key("web"), |s| s["spec"]["ipFamilyPolicy"] = json!("SingleStack"));
    world.settle();
    assert_eq!((world.ingress("test", "web"), world.allocated().len()), (before, 1));
}

#[test]
fn services_share_an_address_when_they_can() {
    let other = |mut s: Value, change: fn(&mut Value)| {
        change(&mut s);
        s
    };
    let elsewhere: fn(&mut Value) = |s| s["metadata"]["namespace"] = json!("other");
    let open = |mut s: Value, namespaces: &str| {
        s["metadata"]["annotations"]["lbipam.cilium.io/sharing-cross-namespace"] = json!(namespaces);
        s
    };
    let local: fn(&mut Value) = |s| s["spec"]["externalTrafficPolicy"] = json!("Local");
    let local_other: fn(&mut Value) = |s| {
        s["spec"]["externalTrafficPolicy"] = json!("Local");
        s["spec"]["selector"] = json!({"app": "other"});
    };
    let rows = [
        ("ports differ", shared("a", &[80]), shared("b", &[443]), true),
        ("a port is the same", shared("a", &[80, 81]), shared("b", &[81]), false),
        (
            "the key differs",
            shared("a", &[80]),
            other(shared("b", &[443]), |s| s["metadata"]["annotations"] = json!({"lbipam.cilium.io/sharing-key": "l"})),
            false,
        ),
        (
            "the former annotation",
            shared("a", &[80]),
            other(shared("b", &[443]), |s| {
                s["metadata"]["annotations"] = json!({"io.cilium/lb-ipam-sharing-key": "k"})
            }),
            true,
        ),
        (
            "one protocol is UDP",
            shared("a", &[53]),
            other(shared("b", &[53]), |s| s["spec"]["ports"][0]["protocol"] = json!("UDP")),
            true,
        ),
        ("the policy differs", shared("a", &[80]), other(shared("b", &[443]), local), false),
        (
            "both are local, with one selector",
            other(shared("a", &[80]), local),
            other(shared("b", &[443]), local),
            true,
        ),
        (
            "both are local, with two selectors",
            other(shared("a", &[80]), local),
            other(shared("b", &[443]), local_other),
            false,
        ),
        ("another namespace", shared("a", &[80]), other(shared("b", &[443]), elsewhere), false),
        (
            "both allow the namespace",
            open(shared("a", &[80]), "other"),
            open(other(shared("b", &[443]), elsewhere), "*"),
            true,
        ),
        ("one allows the namespace", open(shared("a", &[80]), "other"), other(shared("b", &[443]), elsewhere), false),
    ];
    for (what, a, b, together) in rows {
        for pool in [pool("p", json!({"blocks": [{"cidr": "20.0.10.0/24"}]})), ip_pool("lb", "172.20.0.0/28")] {
            for at_once in [true, false] {
                let mut world = World::new(&[pool.clone(), a.clone()]);
                if !at_once {
                    world.settle();
                }
                world.put(b.clone());
                world.settle();
                let namespace = b["metadata"]["namespace"].as_str().unwrap();
                let (one, two) = (world.ingress("test", "a"), world.ingress(namespace, "b"));
                assert_eq!((one.len(), two.len()), (1, 1), "{what}");
                assert_eq!(one == two, together, "{what}");
                assert_eq!(world.allocated().len(), if together { 1 } else { 2 }, "{what}");
            }
        }
    }
}

#[test]
fn a_shared_address_outlives_the_service_that_was_given_it() {
    let mut world = World::new(&[pool("p", json!({"blocks": [{"cidr": "20.0.10.0/24"}]})), shared("a", &[80])]);
    world.settle();
    world.put(shared("b", &[443]));
    world.settle();
    let address = world.ingress("test", "b");
    assert_eq!(world.allocated().values().next().unwrap(), &lb_handle("a"));
    world.delete(&service_key("a"));
    world.settle();
    assert_eq!(world.ingress("test", "b"), address, "it keeps its address");
    assert_eq!(world.allocated().values().next().unwrap(), &lb_handle("b"), "under its own handle");
    world.put(shared("a", &[80]));
    world.settle();
    assert_eq!(world.ingress("test", "a"), address);
    // One that leaves the group gets an address of its own; the other keeps this.
    world.change(&service_key("b"), |s| s["metadata"]["annotations"] = json!({}));
    world.settle();
    let (one, two) = (world.ingress("test", "a"), world.ingress("test", "b"));
    assert!(one != two && world.allocated().len() == 2, "{one:?} {two:?}");
    world.delete(&service_key("a"));
    world.delete(&service_key("b"));
    world.settle();
    assert!(world.allocated().is_empty());
}

#[test]
fn only_who_asks_gets_an_address_where_that_is_configured() {
    let configuration = |assign: &str| {
        json!({"kind": "KubeControllersConfiguration", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"},
            "spec": {"controllers": {"loadBalancer": {"assignIPs": assign}}}})
    };
    let asks = balanced("asks", &[80], json!({}), json!({"loadBalancerIP": "172.20.0.5"}));
    let mut world =
        World::new(&[ip_pool("lb", "172.20.0.0/28"), configuration("RequestedServicesOnly"), plain("silent"), asks]);
    world.settle();
    assert_eq!(
        (world.ingress("test", "silent").len(), world.ingress("test", "asks")),
        (0, vec!["172.20.0.5".to_string()])
    );
    world.put(configuration("AllServices"));
    world.settle();
    assert_eq!(world.ingress("test", "silent").len(), 1);
    world.put(configuration("RequestedServicesOnly"));
    world.settle();
    assert_eq!(world.ingress("test", "silent").len(), 1, "who has one keeps it");
}

#[test]
fn reserved_addresses_are_given_only_to_who_asks_for_them() {
    let reservation = json!({"kind": "IPReservation", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "r"},
        "spec": {"reservedCIDRs": ["20.0.10.0/31", "20.0.10.2"]}});
    let asks = balanced("asks", &[80], json!({"lbipam.cilium.io/ips": "20.0.10.2"}), json!({}));
    let spec = json!({"blocks": [{"start": "20.0.10.0", "stop": "20.0.10.3"}]});
    let mut world = World::new(&[pool("p", spec), reservation, plain("a"), plain("b"), asks]);
    world.settle();
    assert_eq!(world.ingress("test", "asks"), ["20.0.10.2"]);
    let mut others = [world.ingress("test", "a"), world.ingress("test", "b")];
    others.sort();
    assert_eq!(others, [vec![], vec!["20.0.10.3".to_string()]]);
    world.delete(&Key::resource(Kind::IpReservation, None, "r"));
    world.settle();
    assert_eq!(world.allocated().len(), 3);
}
