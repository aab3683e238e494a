//! Resolution as a table, over one small network.

use super::*;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn via(gateway: &str, ifindex: u32, onlink: bool) -> NextHop {
    NextHop { via: ip(gateway), ifindex, onlink }
}

/// eth0 (1) and eth1 (2) work, eth2 (3) has no carrier, eth3 (4) is not set up, 9 is absent.
fn links() -> Links {
    let link = |index, up, carrier| (index, Link { index, name: format!("eth{}", index - 1), up, carrier });
    [link(1, true, true), link(2, true, true), link(3, true, false), link(4, false, true)].into()
}

fn routes() -> Routes {
    let rows = [
        ("192.168.1.1/32", 0, Target::Link { ifindex: 1 }),
        ("192.168.1.2/32", 0, Target::Link { ifindex: 2 }),
        ("10.9.0.0/16", 0, Target::Link { ifindex: 1 }),
        ("10.65.0.0/26", 1024, Target::Blackhole),
        ("10.65.0.9/32", 1536, Target::Gateways(vec![via("192.168.1.2", 2, true)])),
        ("10.1.0.0/16", 0, Target::Gateways(vec![via("192.168.1.1", 1, true), via("192.168.3.1", 3, false)])),
        ("10.2.0.0/16", 0, Target::Link { ifindex: 3 }),
        ("10.3.0.0/16", 0, Target::Gateways(vec![via("10.3.0.1", 9, false)])),
        ("10.3.0.0/16", 100, Target::Gateways(vec![via("192.168.1.2", 2, true)])),
        ("10.4.0.0/16", 0, Target::Other),
        ("10.5.0.0/16", 0, Target::Link { ifindex: 4 }),
        ("2001:db8:1::/64", 256, Target::Link { ifindex: 1 }),
        ("2001:db8:2::/64", 1024, Target::Gateways(vec![via("fe80::1", 2, false)])),
    ];
    rows.into_iter().map(|(dst, priority, t)| (RouteKey::new(net(dst), priority), Route::new(t, 4).into())).collect()
}

#[test]
fn kernel_routes() {
    let rows: [(&str, &str, Vec<NextHop>); 13] = [
        ("a host route is a gateway on that link", "192.168.1.1", vec![via("192.168.1.1", 1, true)]),
        ("an address of a subnet is on its link", "10.9.8.7", vec![via("10.9.8.7", 1, false)]),
        ("a blackhole makes an address unreachable", "10.65.0.8", vec![]),
        ("a more specific route wins over a blackhole", "10.65.0.9", vec![via("192.168.1.2", 2, true)]),
        ("a next hop without carrier is skipped", "10.1.2.3", vec![via("192.168.1.1", 1, true)]),
        ("a link without carrier reaches nothing", "10.2.0.1", vec![]),
        ("with an absent link the next priority is used", "10.3.0.7", vec![via("192.168.1.2", 2, true)]),
        ("a route that we do not understand is no way", "10.4.0.1", vec![]),
        ("a link that is not set up reaches nothing", "10.5.0.1", vec![]),
        ("no route, no next hop", "172.16.0.1", vec![]),
        ("IPv6 on link", "2001:db8:1::5", vec![via("2001:db8:1::5", 1, false)]),
        ("IPv6 by a link-local gateway", "2001:db8:2::5", vec![via("fe80::1", 2, false)]),
        ("families do not mix", "::a09:807", vec![]),
    ];
    for (name, addr, expected) in rows {
        assert_eq!(resolve(&routes(), &links(), ip(addr)), expected, "{name}");
    }
}

#[test]
fn recursive_routes() {
    let recursive: Recursive = [
        (net("0.0.0.0/0"), [ip("192.168.1.2"), ip("192.168.1.1")].into()),
        (net("10.80.0.0/16"), [ip("192.168.1.6")].into()),
        (net("10.81.0.0/16"), [ip("10.82.0.1")].into()),
        (net("10.82.0.0/16"), [ip("10.81.0.1")].into()),
        (net("10.83.0.0/16"), [ip("10.83.0.1")].into()),
        (net("10.84.0.0/16"), [ip("10.65.0.8")].into()),
    ]
    .into();
    let both = vec![via("192.168.1.1", 1, true), via("192.168.1.2", 2, true)];
    let rows: [(&str, &str, Option<&str>, Vec<NextHop>); 7] = [
        ("a default learned over two links is multipath", "10.100.0.10", None, both.clone()),
        ("a peer behind the learned default", "192.168.1.6", Some("10.80.0.0/16"), both.clone()),
        ("three levels", "10.80.0.1", None, both.clone()),
        (
            "a route does not resolve through itself, but through a shorter one",
            "10.83.0.1",
            Some("10.83.0.0/16"),
            both.clone(),
        ),
        ("two routes through each other end at the default", "10.82.0.1", Some("10.81.0.0/16"), both),
        ("the default does not resolve through itself", "172.16.0.1", Some("0.0.0.0/0"), vec![]),
        ("a blackhole stops a learned route as well", "10.65.0.8", Some("10.84.0.0/16"), vec![]),
    ];
    let (routes, links) = (routes(), links());
    let resolver = Resolver { routes: &routes, links: &links, neighbours: &Neighbours::new(), recursive: &recursive };
    for (name, addr, through, expected) in rows {
        assert_eq!(resolver.resolve(ip(addr), through.map(net)), expected, "{name}");
    }
}

/// Eight routes, each with eight next hops behind the next one: sixteen million ways, were all of them walked.
#[test]
fn routes_that_branch_at_every_step_are_not_walked_to_the_end() {
    let level = |n: u8| {
        let gateways: Vec<IpAddr> = (1..=8).map(|host| IpAddr::from([11, n + 1, 0, host])).collect();
        (net(&format!("11.{n}.0.0/16")), gateways.into())
    };
    let mut recursive: Recursive = (0..7).map(level).collect();
    recursive.insert(net("11.7.0.0/16"), [ip("192.168.1.1")].into());
    let (routes, links) = (routes(), links());
    let resolver = Resolver { routes: &routes, links: &links, neighbours: &Neighbours::new(), recursive: &recursive };
    assert_eq!(resolver.resolve(ip("11.0.0.1"), None), [via("192.168.1.1", 1, true)]);
}

/// Every link has a route to fe80::/64: by routes, the next pod's would be the way to every router.
#[test]
fn a_link_local_address_is_reached_by_its_neighbours_links_only() {
    let mut routes = routes();
    let on = |ifindex| Route::new(Target::Link { ifindex }, 2).into();
    routes.insert(RouteKey::new(net("fe80::/64"), 256), on(2));
    routes.insert(RouteKey::new(net("fe80::1/128"), 1024), on(2));
    let (links, neighbours) = (links(), Neighbours::from([(ip("fe80::1"), [1, 3, 9].into())]));
    let recursive = Recursive::from([(net("10.80.0.0/16"), [ip("fe80::1")].into())]);
    let resolver = Resolver { routes: &routes, links: &links, neighbours: &neighbours, recursive: &recursive };
    let rows = [
        ("on the links that work", "fe80::1", vec![via("fe80::1", 1, false)]),
        ("behind a learned route", "10.80.0.1", vec![via("fe80::1", 1, false)]),
        ("nobody knows where it is", "fe80::2", vec![]),
    ];
    for (name, addr, expected) in rows {
        assert_eq!(resolver.resolve(ip(addr), None), expected, "{name}");
    }
}
