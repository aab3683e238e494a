use std::net::IpAddr;

use felix_calc::{Backend, Frontend};
use fib::{Link, NextHop};

use super::*;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn link(index: u32, name: &str, up: bool) -> Link {
    Link { index, name: name.into(), up, carrier: up }
}

/// eth0 with a route to the borrower's subnet, a workload's interface that is up and one that is down.
fn view() -> KernelView {
    let mut view = KernelView::default();
    for l in [link(2, "eth0", true), link(5, "cali1", true), link(6, "cali2", false)] {
        view.links.insert(l.index, l);
    }
    let hop = NextHop { via: ip("192.168.1.1"), ifindex: 2, onlink: false };
    let default = Route::new(Target::Gateways(vec![hop]), fib::PROTOCOL_BGPD);
    view.routes.insert(RouteKey::new(net("0.0.0.0/0"), fib::PRIORITY_LEARNED), default.into());
    view
}

#[test]
fn routes_follow_from_the_state_and_the_kernel() {
    let borrowed = BlockRoute::Borrowed { node: "worker02".into(), via: ip("192.168.1.5") };
    let state = DesiredState {
        workload_routes: [
            (net("10.0.0.1/32"), "cali1".to_string()),
            (net("10.0.0.2/32"), "cali2".to_string()),
            (net("10.0.0.3/32"), "cali3".to_string()),
        ]
        .into(),
        block_routes: [(net("10.0.0.0/29"), BlockRoute::Blackhole), (net("10.0.0.5/32"), borrowed)].into(),
        ..Default::default()
    };
    let routes = desired_routes(&state, &view(), &[ip("203.0.113.1")].into());
    let via = NextHop { via: ip("192.168.1.1"), ifindex: 2, onlink: false };
    let expected = [
        (RouteKey::new(net("10.0.0.0/29"), PRIORITY_LOCAL), Route::new(Target::Blackhole, PROTOCOL_FELIX)),
        (RouteKey::new(net("10.0.0.1/32"), PRIORITY_LOCAL), Route::new(Target::Link { ifindex: 5 }, PROTOCOL_FELIX)),
        (RouteKey::new(net("10.0.0.5/32"), PRIORITY_BORROWED), Route::new(Target::Gateways(vec![via]), PROTOCOL_FELIX)),
        (RouteKey::new(net("203.0.113.1/32"), PRIORITY_LOCAL), Route::new(Target::Blackhole, PROTOCOL_FELIX)),
    ];
    assert_eq!(routes, expected.into(), "not the interfaces that are down or absent");

    let mut cut = view();
    cut.links.insert(2, link(2, "eth0", false));
    let routes = desired_routes(&state, &cut, &BTreeSet::new());
    assert!(!routes.keys().any(|k| k.dst == net("10.0.0.5/32")), "no way to the borrower, no route");
}

#[test]
fn a_service_is_announced_only_where_traffic_for_it_can_be_served() {
    use FrontendKind::{ClusterIp, LoadBalancer, NodePort};
    // (what, kind, address, external policy Local, backends, served, announced)
    let (none, remote, local): (&[bool], &[bool], &[bool]) = (&[], &[false], &[false, true]);
    let rows = [
        ("maps read back", LoadBalancer, "203.0.113.1", false, remote, true, true),
        ("maps not read back", LoadBalancer, "203.0.113.1", false, remote, false, false),
        ("no backend anywhere", LoadBalancer, "203.0.113.1", false, none, true, false),
        ("Local, no backend here", LoadBalancer, "203.0.113.1", true, remote, true, false),
        ("Local, a backend here", LoadBalancer, "203.0.113.1", true, local, true, true),
        ("a cluster IP", ClusterIp, "10.96.0.1", false, remote, true, true),
        ("a node port is the node's address", NodePort, "0.0.0.0", false, local, true, false),
    ];
    for (what, kind, addr, external_local, backends, served, announced) in rows {
        let backend = |l: &bool| Backend { addr: ip("10.0.0.1"), port: 80, is_local: *l };
        let frontend = Frontend {
            addr: ip(addr),
            port: 80,
            protocol: felix_calc::service_index::Protocol::Tcp,
            kind,
            service: "test/web".into(),
            external_local,
            internal_local: false,
            backends: backends.iter().map(backend).collect(),
        };
        let state = DesiredState { frontends: vec![frontend], ..Default::default() };
        let served: BTreeSet<IpAddr> = served.then(|| ip(addr)).into_iter().collect();
        let expected: BTreeSet<IpAddr> = announced.then(|| ip(addr)).into_iter().collect();
        assert_eq!(announced_services(&state, &served), expected, "{what}");
    }
}
