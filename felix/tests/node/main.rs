//! One node as it runs: the CNI plugins and felix as processes in a network namespace.

mod annotations;
mod cni;
mod lab;
mod many;

use std::time::{Duration, Instant};

use api::{Key, Kind};
use serde_json::{Value, json};

use lab::{Lab, Namespace, address};

#[test]
#[ignore = "needs BPF"]
fn a_pod_gets_what_the_operator_expects() {
    let lab = Lab::new();
    lab.pool("10.77.0.0/24", 29);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let result = lab.add("c1", "web-0", &pod);
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_string();
    let addr = address(&result);
    assert_eq!(host, "cali7b07e5871ca");
    assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path.display().to_string());
    assert_eq!(result["ips"], json!([{"address": format!("{addr}/32"), "interface": 1}]));

    let inside = pod.run("ip -4 -o addr show dev eth0");
    assert!(inside.contains(&format!("inet {addr}/32 scope global eth0")), "{inside}");
    let routes = pod.run("ip route");
    assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
    assert!(routes.contains("169.254.1.1 dev eth0 scope link"), "{routes}");
    assert!(pod.run("ip link show dev eth0").contains("mtu 1480"));
    assert!(!pod.run("ip neigh").contains("PERMANENT"), "proxy ARP answers, no static neighbour");

    for (name, value) in [("proxy_arp", "1"), ("forwarding", "1"), ("rp_filter", "0"), ("route_localnet", "1")] {
        let path = format!("/proc/sys/net/ipv4/conf/{host}/{name}");
        assert_eq!(lab.host.run(&format!("cat {path}")).trim(), value, "{name}");
    }
    assert_eq!(lab.host.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    let routes = lab.routes();
    assert!(routes.contains(&format!("{addr} dev {host} scope link metric 1024")), "{routes:?}");
    assert!(routes.iter().any(|r| r.starts_with("blackhole 10.77.0.") && r.contains("/29")), "{routes:?}");
    let mac = result["interfaces"][1]["mac"].as_str().unwrap();
    let neighbours = lab.host.run(&format!("ip neigh show dev {host}"));
    assert!(neighbours.contains(&format!("{addr} lladdr {mac} PERMANENT")), "{neighbours}");
    // The pod finds its gateway by proxy ARP, which answers for what the host has a route to elsewhere.
    lab.host.run("ip addr add 192.168.1.4/32 dev lo");
    lab.host.run("ip link add eth0 type veth peer name peer");
    lab.host.run("ip link set eth0 up");
    lab.host.run("ip route add default dev eth0");
    pod.run("ping -c 1 -W 2 192.168.1.4");

    let mut conf = lab.config();
    conf["prevResult"] = result.clone();
    lab.cni("CHECK", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert_eq!(lab.add("c1", "web-0", &pod), result, "a repeated ADD answers the same");
    assert_eq!(lab.allocated(), 1);
    pod.run("ip route del default");
    let error = lab.cni("CHECK", &conf, "c1", "web-0", Some(&pod)).unwrap_err();
    assert!(error["details"].as_str().unwrap().contains("route to default"), "{error}");

    for netns in [Some(&pod), Some(&pod), None] {
        lab.cni("DEL", &lab.config(), "c1", "web-0", netns).unwrap();
    }
    assert!(lab.endpoints().is_empty());
    assert_eq!(lab.allocated(), 0);
    assert!(!lab.host.run("ip -o link").contains("cali"));
    lab.until("the route goes", || !lab.routes().iter().any(|r| r.starts_with(&format!("{addr} "))));
}

#[test]
#[ignore = "needs BPF"]
fn blocks_of_one_address_have_no_blackhole() {
    let lab = Lab::new();
    lab.pool("10.78.0.0/28", 32);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let result = lab.add("c1", "web-0", &pod);
    let routes = lab.routes();
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].starts_with(&format!("{} dev cali", address(&result))), "{routes:?}");
}

#[test]
#[ignore = "needs BPF"]
fn a_failing_allocation_leaves_nothing() {
    let lab = Lab::new();
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let error = lab.cni("ADD", &lab.config(), "c1", "web-0", Some(&pod)).unwrap_err();
    assert_eq!(error["cniVersion"], "1.0.0");
    assert!(error["code"].as_u64().unwrap() >= 100, "{error}");
    assert!(lab.endpoints().is_empty());
    assert!(!lab.host.run("ip -o link").contains("cali"));
    assert!(!pod.run("ip -o link").contains("eth0"));
}

#[test]
#[ignore = "needs BPF"]
fn a_failing_interface_gives_the_address_back() {
    let lab = Lab::new();
    lab.pool("10.79.0.0/24", 29);
    let pod = Namespace::new();
    pod.run("ip link add eth0 type veth peer name other");
    let error = lab.cni("ADD", &lab.config(), "c1", "web-0", Some(&pod)).unwrap_err();
    assert_eq!(error["code"], 102, "{error}");
    assert_eq!(lab.allocated(), 0);
    assert!(lab.endpoints().is_empty());
    assert!(pod.run("ip -o link").contains("eth0"), "what was there before is left alone");
}

#[test]
#[ignore = "needs BPF"]
fn a_newer_container_of_the_pod_takes_over_and_the_old_ones_del_leaves_it() {
    let lab = Lab::new();
    lab.pool("10.80.0.0/24", 29);
    let _felix = lab.start_felix();
    let (old, new) = (Namespace::new(), Namespace::new());
    lab.add("c1", "web-0", &old);
    let result = lab.add("c2", "web-0", &new);
    lab.cni("DEL", &lab.config(), "c1", "web-0", Some(&old)).unwrap();
    let mut conf = lab.config();
    conf["prevResult"] = result;
    lab.cni("CHECK", &conf, "c2", "web-0", Some(&new)).unwrap();
    assert_eq!(lab.allocated(), 1);
}

#[test]
#[ignore = "needs BPF"]
fn a_felix_that_was_killed_is_followed_by_one_that_writes_nothing() {
    let lab = Lab::new();
    lab.pool("10.81.0.0/24", 29);
    let mut felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    lab.service("web", "203.0.113.1");
    lab.until("the service is announced", || lab.routes().len() == 4);
    let before = lab.routes();
    felix.kill();
    assert_eq!(lab.routes(), before, "a dead felix takes nothing with it");
    let _felix = lab.start_felix();
    assert_eq!(lab.routes(), before);
    let metrics = lab.get("/metrics").1;
    assert!(metrics.contains("\nfelix_writes_total 0\n"), "{metrics}");
}

#[test]
#[ignore = "needs BPF"]
fn a_service_is_announced_while_it_can_be_served() {
    let lab = Lab::new();
    let _felix = lab.start_felix();
    let announced = |addr: &str| lab.routes().contains(&format!("blackhole {addr} metric 1024"));
    lab.service("web", "203.0.113.1");
    lab.until("the service is announced", || announced("203.0.113.1") && announced("10.96.0.1"));
    let (_, services) = lab.get("/v1/services");
    let services: Value = serde_json::from_str(&services).unwrap();
    assert!(services.as_array().unwrap().iter().all(|f| f["served"] == true && f["announced"] == true), "{services}");
    let slice = Key::resource(Kind::EndpointSlice, Some("test"), "web");
    lab.runtime.block_on(lab.store.delete(slice, None)).unwrap();
    lab.until("a service without backends is withdrawn", || !announced("203.0.113.1") && !announced("10.96.0.1"));
    lab.until("felix is ready", || lab.get("/readyz").0 == 200);
}

#[test]
#[ignore = "needs BPF"]
fn routes_that_somebody_deletes_come_back_and_those_not_wanted_go() {
    let lab = Lab::new();
    lab.pool("10.82.0.0/24", 29);
    lab.host.run("ip route add blackhole 10.99.0.0/24 proto 201");
    lab.host.run("ip route add blackhole 10.98.0.0/24 proto 4");
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    let wanted = lab.routes();
    assert!(!wanted.iter().any(|r| r.contains("10.99.0.0")), "{wanted:?}");
    assert!(lab.host.run("ip route").contains("10.98.0.0/24"), "a route of another program is left alone");
    let addr = wanted.iter().find(|r| r.contains("dev cali")).unwrap().split(' ').next().unwrap().to_string();
    lab.host.run(&format!("ip route del {addr}/32 metric 1024"));
    let deleted = Instant::now();
    lab.until("the route is back", || lab.routes() == wanted);
    assert!(deleted.elapsed() < Duration::from_secs(2));
}

#[test]
#[ignore = "needs BPF"]
fn a_borrowed_address_is_reached_at_the_borrower() {
    let lab = Lab::new();
    lab.pool("10.83.0.0/30", 30);
    lab.node("worker02", "192.168.1.5/24");
    lab.host.run("ip link add eth0 type veth peer name peer");
    lab.host.run("ip addr add 192.168.1.4/24 dev eth0");
    lab.host.run("ip link set eth0 up");
    lab.host.run("ip link set peer up");
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    let owner = api::key::AffinityOwner::Host("worker02".into());
    let request = ipam::AssignRequest { num_v4: 1, ..ipam::AssignRequest::new(owner, "net.c2") };
    let borrowed = lab.runtime.block_on(ipam::Ipam::new(lab.store.clone()).auto_assign(&request)).unwrap();
    let addr = borrowed.v4[0].addr();
    let wanted = format!("{addr} via 192.168.1.5 dev eth0 metric 2048");
    lab.until("the borrower's route", || lab.routes().contains(&wanted));
    lab.host.run("ip addr del 192.168.1.4/24 dev eth0");
    lab.until("no way to the borrower", || !lab.routes().iter().any(|r| r.starts_with(&format!("{addr} "))));
    lab.host.run("ip addr add 192.168.1.4/24 dev eth0");
    lab.until("the borrower's route is back", || lab.routes().contains(&wanted));
    lab.runtime.block_on(ipam::Ipam::new(lab.store.clone()).release_by_handle("net.c2")).unwrap();
    lab.until("the route goes with the address", || !lab.routes().contains(&wanted));
    assert!(lab.runtime.block_on(lab.store.get(&Key::IpamHandle("net.c2".into()))).unwrap().is_none());
}
