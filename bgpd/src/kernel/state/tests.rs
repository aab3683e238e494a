//! The task's decisions against the fake kernel.

use std::sync::Arc;

use api::Metadata;
use api::meta::{Body, Resource};
use fib::{Fake, PRIORITY_BORROWED, PRIORITY_LOCAL, Watch};
use serde_json::json;

use super::*;
use bgp_plan::filters::prefix;
use bgp_plan::resources::Resources;

mod real;
mod scale;

const STATIC: u8 = 4;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn link(index: u32, up: bool) -> Link {
    Link { index, name: format!("eth{index}"), up, carrier: up }
}

fn hop(gateway: &str, ifindex: u32) -> NextHop {
    NextHop { via: ip(gateway), ifindex, onlink: true }
}

fn object<B: Body>(name: &str, spec: serde_json::Value) -> (String, Resource<B>) {
    let body: B = serde_json::from_value(json!({ "spec": spec })).unwrap();
    (name.to_string(), Resource::new(Metadata::named(name), body))
}

/// The lab's worker: two links to two leaves by host routes, no default; a block, a pod and a borrowed address.
struct Lab {
    kernel: Fake,
    state: State,
    events: tokio::sync::mpsc::Receiver<Vec<Event>>,
}

impl Lab {
    async fn new(left_over: &[(&str, NextHop)]) -> Self {
        let kernel = Fake::new();
        let set = |dst: &str, priority, protocol, target| {
            kernel.set_route(RouteKey::new(net(dst), priority), Route::new(target, protocol));
        };
        kernel.set_link(link(1, true));
        kernel.set_link(link(2, true));
        kernel.add_addr(Addr { ifindex: 9, net: net("192.168.1.4/32") });
        set("192.168.1.1/32", 0, STATIC, Target::Link { ifindex: 1 });
        set("192.168.1.2/32", 0, STATIC, Target::Link { ifindex: 2 });
        set("10.65.0.0/26", PRIORITY_LOCAL, PROTOCOL_FELIX, Target::Blackhole);
        set("10.65.0.5/32", PRIORITY_LOCAL, PROTOCOL_FELIX, Target::Link { ifindex: 3 });
        set("10.65.0.6/32", PRIORITY_BORROWED, PROTOCOL_FELIX, Target::Gateways(vec![hop("192.168.1.1", 1)]));
        for (dst, hop) in left_over {
            set(dst, PRIORITY_LEARNED, PROTOCOL_BGPD, Target::Gateways(vec![*hop]));
        }
        let events = kernel.monitor(Watch::Others).unwrap();
        let mut resources = Resources::default();
        resources.pools.extend([object("pods", json!({"cidr": "10.65.0.0/16"}))]);
        resources.own_blocks.insert(net("10.65.0.0/26"));
        let peers = ["192.168.1.1", "192.168.1.2", "192.168.1.5"].map(ip).into();
        let mut lab = Self { kernel, state: State::new("a".into()), events };
        lab.read().await;
        lab.state.keep_stale_routes();
        lab.state.set_inputs(Inputs { resources: Arc::new(resources), peers, ..Inputs::default() });
        lab
    }

    async fn read(&mut self) {
        let routes = self.kernel.dump_routes().await.unwrap();
        let (links, addrs) = (self.kernel.dump_links().await.unwrap(), self.kernel.dump_addrs().await.unwrap());
        self.state.resync(&routes, links, addrs);
    }

    fn learn(&mut self, routes: &[(&str, &[&str])]) {
        let one = |(dst, gateways): &(&str, &[&str])| -> (Prefix, Option<Vec<IpAddr>>) {
            let gateways: Vec<IpAddr> = gateways.iter().map(|g| ip(g)).collect();
            (prefix(net(dst)), Some(gateways).filter(|g| !g.is_empty()))
        };
        self.state.learn(routes.iter().map(one).collect());
    }

    /// Takes the kernel's events, settles and writes; what was learned as it stands in the kernel, one line a route.
    async fn settle(&mut self) -> (Actions, Vec<String>) {
        while let Ok(events) = self.events.try_recv() {
            for event in &events {
                self.state.observe(event);
            }
        }
        let actions = self.state.settle();
        let applied = self.state.apply(&self.kernel, Instant::now()).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        (actions, self.learned())
    }

    fn learned(&self) -> Vec<String> {
        let routes = self.kernel.routes();
        let ours = routes.iter().filter(|(_, r)| r.protocol == PROTOCOL_BGPD);
        let line = |(key, route): (&RouteKey, &Arc<Route>)| {
            assert_eq!(key.priority, PRIORITY_LEARNED);
            let Target::Gateways(hops) = &route.target else { panic!("{route:?}") };
            let hops: Vec<String> = hops.iter().map(|h| format!("{}@{}", h.via, h.ifindex)).collect();
            format!("{} {}", key.dst, hops.join(" "))
        };
        ours.map(line).collect()
    }
}

#[tokio::test]
async fn next_hops_are_resolved_and_what_is_served_here_is_not_overridden() {
    type Learned = &'static [(&'static str, &'static [&'static str])];
    let rows: [(&str, Learned, &[&str]); 8] = [
        (
            "a default from both leaves is one multipath route",
            &[("0.0.0.0/0", &["192.168.1.1", "192.168.1.2"])],
            &["0.0.0.0/0 192.168.1.1@1 192.168.1.2@2"],
        ),
        (
            "a node behind the learned default",
            &[("0.0.0.0/0", &["192.168.1.1", "192.168.1.2"]), ("10.65.1.0/26", &["192.168.1.5"])],
            &["0.0.0.0/0 192.168.1.1@1 192.168.1.2@2", "10.65.1.0/26 192.168.1.1@1 192.168.1.2@2"],
        ),
        ("a next hop that nothing reaches", &[("10.65.1.0/26", &["192.168.1.5"])], &[]),
        (
            "one of two next hops is reached",
            &[("10.65.1.0/26", &["192.168.1.5", "192.168.1.2"])],
            &["10.65.1.0/26 192.168.1.2@2"],
        ),
        (
            "an own address is no next hop",
            &[("0.0.0.0/0", &["192.168.1.1"]), ("10.65.1.0/26", &["192.168.1.4"])],
            &["0.0.0.0/0 192.168.1.1@1"],
        ),
        ("an own block is never overridden", &[("10.65.0.0/26", &["192.168.1.1"])], &[]),
        ("nor is a local workload", &[("10.65.0.5/32", &["192.168.1.1"])], &[]),
        (
            "a borrowed address is learned beside felix's own way",
            &[("10.65.0.6/32", &["192.168.1.2"])],
            &["10.65.0.6/32 192.168.1.2@2"],
        ),
    ];
    for (name, learned, expected) in rows {
        let mut lab = Lab::new(&[]).await;
        lab.learn(learned);
        assert_eq!(lab.settle().await.1, expected, "{name}");
        lab.kernel.take_changes();
        lab.read().await;
        lab.settle().await;
        assert_eq!(lab.kernel.take_changes(), [], "{name}: a second pass writes nothing");
        // The same routes one by one, in the opposite order.
        let mut one_by_one = Lab::new(&[]).await;
        for route in learned.iter().rev() {
            one_by_one.learn(&[*route]);
            one_by_one.settle().await;
        }
        assert_eq!(one_by_one.learned(), expected, "{name}: in any order");
        lab.learn(&learned.iter().map(|(dst, _)| (*dst, &[][..])).collect::<Vec<_>>());
        assert_eq!(lab.settle().await.1, [""; 0], "{name}: withdrawn");
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_is_swept_only_when_proven_stale() {
    let mut lab = Lab::new(&[
        ("10.70.0.0/16", hop("192.168.1.1", 1)),
        ("10.71.0.0/16", hop("192.168.1.1", 1)),
        ("2001:db8:70::/48", hop("fe80::1", 1)),
    ])
    .await;
    let all = ["10.70.0.0/16 192.168.1.1@1", "10.71.0.0/16 192.168.1.1@1", "2001:db8:70::/48 fe80::1@1"];
    assert_eq!(lab.settle().await.1, all, "nothing is known, nothing goes");
    assert_eq!((lab.state.status().stale, lab.kernel.take_changes()), (3, Vec::new()));

    lab.learn(&[("10.70.0.0/16", &["192.168.1.1"])]);
    lab.settle().await;
    assert_eq!(lab.kernel.take_changes(), [], "what is learned again as it was is not written");
    lab.state.sweep(InSync { v4: true, v6: false });
    assert_eq!(lab.settle().await.1, [all[0], all[2]], "stale in IPv4; IPv6 is not proven");
    lab.state.sweep(InSync { v4: true, v6: true });
    assert_eq!(lab.settle().await.1, [all[0]]);
    assert_eq!(lab.state.status().stale, 0);
}

#[tokio::test]
async fn a_lost_link_moves_routes_at_once_and_takes_its_peer_down() {
    let mut lab = Lab::new(&[]).await;
    lab.learn(&[("0.0.0.0/0", &["192.168.1.1", "192.168.1.2"]), ("10.65.1.0/26", &["192.168.1.5"])]);
    let (actions, _) = lab.settle().await;
    assert_eq!(actions.lost, [] as [IpAddr; 0]);
    let resolver = lab.state.resolver();
    assert_eq!(["192.168.1.1", "192.168.1.5", "10.9.9.9"].map(|a| resolver(ip(a))), [Some(0), Some(1), Some(1)]);

    lab.kernel.set_link(Link { carrier: false, ..link(1, true) });
    let (actions, learned) = lab.settle().await;
    assert_eq!(learned, ["0.0.0.0/0 192.168.1.2@2", "10.65.1.0/26 192.168.1.2@2"]);
    assert_eq!(actions.lost, [ip("192.168.1.1")], "only the peer on that link");
    assert!(actions.ask_again, "192.168.1.1 is behind the other leaf now, no longer on a link");
    assert_eq!(lab.settle().await.0.lost, [] as [IpAddr; 0], "once");
}

#[tokio::test]
async fn the_speaker_is_asked_again_exactly_when_an_answer_changed() {
    let mut lab = Lab::new(&[]).await;
    lab.settle().await;
    let resolver = lab.state.resolver();
    assert_eq!((resolver(ip("192.168.1.1")), resolver(ip("192.168.1.5"))), (Some(0), None));
    lab.learn(&[("10.70.0.0/16", &["192.168.1.1"])]);
    assert!(!lab.settle().await.0.ask_again, "a route to elsewhere");
    lab.learn(&[("0.0.0.0/0", &["192.168.1.1"])]);
    assert!(lab.settle().await.0.ask_again, "192.168.1.5 is reached now");
    assert_eq!(lab.state.resolver()(ip("192.168.1.5")), Some(1));
    lab.kernel.set_link(link(1, false));
    assert!(lab.settle().await.0.ask_again, "and no longer");
}

#[tokio::test]
async fn felix_routes_are_originated_and_changes_told_once() {
    let mut lab = Lab::new(&[("10.70.0.0/16", hop("192.168.1.1", 1))]).await;
    let exported = |actions: Actions| -> Option<Vec<String>> {
        let accepted = |o: Vec<Origin>| o.into_iter().filter(|o| o.export).map(|o| o.prefix.to_string()).collect();
        actions.originate.map(accepted)
    };
    assert_eq!(exported(lab.settle().await.0).unwrap(), ["10.65.0.0/26"]);
    assert_eq!(exported(lab.settle().await.0), None, "nothing changed");
    lab.learn(&[("0.0.0.0/0", &["192.168.1.1"])]);
    lab.settle().await;
    assert_eq!(exported(lab.settle().await.0), None, "what was learned and written is never originated");

    let borrowed = RouteKey::new(net("10.65.9.1/32"), PRIORITY_LOCAL);
    lab.kernel.set_route(borrowed, Route::new(Target::Link { ifindex: 3 }, PROTOCOL_FELIX));
    assert_eq!(exported(lab.settle().await.0).unwrap(), ["10.65.0.0/26", "10.65.9.1/32"]);
    lab.kernel.remove_route(&borrowed);
    assert_eq!(exported(lab.settle().await.0).unwrap(), ["10.65.0.0/26"]);
}

#[tokio::test]
async fn a_route_that_felix_takes_over_is_given_up_and_taken_back() {
    let mut lab = Lab::new(&[]).await;
    lab.learn(&[("10.65.8.1/32", &["192.168.1.1"])]);
    assert_eq!(lab.settle().await.1, ["10.65.8.1/32 192.168.1.1@1"]);
    let key = RouteKey::new(net("10.65.8.1/32"), PRIORITY_LOCAL);
    lab.kernel.set_route(key, Route::new(Target::Link { ifindex: 3 }, PROTOCOL_FELIX));
    assert_eq!(lab.settle().await.1, [""; 0], "the pod runs here now");
    lab.kernel.remove_route(&key);
    assert_eq!(lab.settle().await.1, ["10.65.8.1/32 192.168.1.1@1"]);
    // Somebody deletes ours: it comes back.
    lab.kernel.remove_route(&RouteKey::new(net("10.65.8.1/32"), PRIORITY_LEARNED));
    assert_eq!(lab.settle().await.1, ["10.65.8.1/32 192.168.1.1@1"]);
}

/// Runs `ip` in this thread's namespace.
fn run_ip(args: &str) -> String {
    let out = std::process::Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The worker's kernel for real: links eth0 and eth1 to leaf0 and leaf1, host routes to the leaves.
async fn real_kernel() {
    for command in [
        "link set lo up",
        "link add eth0 type veth peer name leaf0",
        "link add eth1 type veth peer name leaf1",
        "link set leaf0 up",
        "link set leaf1 up",
        "link set eth0 up",
        "link set eth1 up",
        "addr add 192.168.1.4/32 dev lo",
        "route add 192.168.1.1/32 dev eth0 src 192.168.1.4",
        "route add 192.168.1.2/32 dev eth1 src 192.168.1.4",
        "route add default via 192.168.1.1 dev eth0 onlink proto 202 metric 1536",
        "route add blackhole 10.65.0.0/26 proto 201 metric 1024",
    ] {
        run_ip(command);
    }
    let kernel = fib::Netlink::new().unwrap();
    let mut events = kernel.monitor(Watch::Others).unwrap();
    let mut state = State::new("a".into());
    let read = async || {
        let (links, addrs) = (kernel.dump_links().await.unwrap(), kernel.dump_addrs().await.unwrap());
        (kernel.dump_routes().await.unwrap(), links, addrs)
    };
    let (routes, links, addrs) = read().await;
    state.resync(&routes, links, addrs);
    state.keep_stale_routes();
    state.set_inputs(Inputs { peers: ["192.168.1.1", "192.168.1.2"].map(ip).into(), ..Inputs::default() });
    let actions = state.settle();
    assert_eq!(actions.originate.unwrap().len(), 1, "the block");

    let leaves = || Some(vec![ip("192.168.1.1"), ip("192.168.1.2")]);
    state.learn(vec![
        (prefix(net("0.0.0.0/0")), leaves()),
        (prefix(net("10.65.1.0/26")), Some(vec![ip("192.168.1.5")])),
    ]);
    state.settle();
    assert!(state.apply(&kernel, Instant::now()).await.failures.is_empty());
    let both = "nexthop via 192.168.1.1 dev eth0 weight 1 onlink nexthop via 192.168.1.2 dev eth1 weight 1 onlink";
    assert_eq!(run_ip("route show default"), format!("default proto 202 metric 1536 {both}"));
    assert_eq!(run_ip("route show 10.65.1.0/26"), format!("10.65.1.0/26 proto 202 metric 1536 {both}"));

    let start = Instant::now();
    run_ip("link set leaf0 down");
    let (mut lost, mut needs_resync) = (Vec::new(), false);
    while lost.is_empty() {
        let batch = tokio::time::timeout(std::time::Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        for event in &batch {
            needs_resync |= state.observe(event);
        }
        lost = state.settle().lost;
    }
    assert!(state.apply(&kernel, Instant::now()).await.failures.is_empty());
    println!("link down to routes moved: {:?}", start.elapsed());
    assert_eq!((lost, needs_resync), (vec![ip("192.168.1.1")], true));
    let other = "via 192.168.1.2 dev eth1 proto 202 metric 1536 onlink";
    assert_eq!(run_ip("route show default"), format!("default {other}"));
    assert_eq!(run_ip("route show 10.65.1.0/26"), format!("10.65.1.0/26 {other}"));

    run_ip("link set leaf0 up");
    while !run_ip("route show default").contains("eth0") {
        let batch = tokio::time::timeout(std::time::Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        for event in &batch {
            state.observe(event);
        }
        state.settle();
        state.apply(&kernel, Instant::now()).await;
    }
    assert_eq!(run_ip("route show default"), format!("default proto 202 metric 1536 {both}"));

    let (routes, links, addrs) = read().await;
    state.resync(&routes, links, addrs);
    state.settle();
    assert!(state.apply(&kernel, Instant::now()).await.is_idle(), "what was written reads back as it was");
}

#[test]
#[ignore = "needs network namespaces"]
fn learned_routes_in_a_real_kernel_follow_the_links() {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(real_kernel());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// BGPPeer's reachableBy: a host route by the gateway, in front of what BGP says of the same prefix.
#[tokio::test]
async fn a_peer_is_reached_by_its_gateway() {
    let mut lab = Lab::new(&[]).await;
    let with = |gateways: &[(&str, &str)], lab: &Lab| Inputs {
        gateways: gateways.iter().map(|(peer, gateway)| (ip(peer), ip(gateway))).collect(),
        ..lab.state.inputs.clone()
    };
    lab.learn(&[("10.65.1.0/26", &["172.16.0.9"])]);
    assert_eq!(lab.settle().await.1, [""; 0]);

    let inputs = with(&[("172.16.0.9", "192.168.1.1")], &lab);
    lab.state.set_inputs(inputs);
    let by_one = ["10.65.1.0/26 192.168.1.1@1", "172.16.0.9/32 192.168.1.1@1"];
    assert_eq!(lab.settle().await.1, by_one, "the peer, and what it told");
    assert_eq!(lab.state.resolver()(ip("172.16.0.9")), Some(1));

    lab.learn(&[("172.16.0.9/32", &["192.168.1.2"])]);
    assert_eq!(lab.settle().await.1, by_one, "what is learned does not move it");
    let inputs = with(&[("172.16.0.9", "192.168.1.2")], &lab);
    lab.state.set_inputs(inputs);
    assert_eq!(lab.settle().await.1, ["10.65.1.0/26 192.168.1.2@2", "172.16.0.9/32 192.168.1.2@2"]);
    let inputs = with(&[("172.16.0.9", "172.16.0.9")], &lab);
    lab.state.set_inputs(inputs);
    assert_eq!(lab.settle().await.1, [""; 0], "not by itself");
    lab.learn(&[("172.16.0.9/32", &["192.168.1.1"])]);
    let inputs = with(&[], &lab);
    lab.state.set_inputs(inputs);
    assert_eq!(lab.settle().await.1, by_one, "without a gateway what was learned meanwhile counts");
}

/// The node's service ranges: dropped here as a whole while they are announced, and never learned.
#[tokio::test]
async fn own_service_ranges_are_blackholes() {
    let mut lab = Lab::new(&[("10.96.0.7/32", hop("192.168.1.1", 1))]).await;
    let mut resources = (*lab.state.inputs.resources).clone();
    let spec =
        json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceExternalIPs": [{"cidr": "192.168.0.0/16"}]});
    resources.configurations.extend([object("default", spec)]);
    let services = bgp_plan::origins::ServiceRanges::new("a", &resources);
    lab.state.set_inputs(Inputs { resources: Arc::new(resources), services, ..lab.state.inputs.clone() });
    lab.learn(&[
        ("10.96.0.7/32", &["192.168.1.1"]),
        ("10.97.0.0/24", &["192.168.1.1"]),
        ("10.112.0.0/24", &["192.168.1.1"]),
    ]);
    assert_eq!(lab.settle().await.1, ["10.112.0.0/24 192.168.1.1@1"]);

    for served in ["10.96.0.10/32", "192.168.9.9/32"] {
        let route = Route::new(Target::Blackhole, PROTOCOL_FELIX);
        lab.kernel.set_route(RouteKey::new(net(served), PRIORITY_LOCAL), route);
    }
    while let Ok(events) = lab.events.try_recv() {
        for event in &events {
            lab.state.observe(event);
        }
    }
    let origins = lab.state.settle().originate.unwrap();
    let announced: Vec<String> = origins.iter().filter(|o| o.export).map(|o| o.prefix.to_string()).collect();
    assert!(
        announced.contains(&"10.96.0.0/12".into()) && announced.contains(&"192.168.0.0/16".into()),
        "{announced:?}"
    );
    lab.state.apply(&lab.kernel, Instant::now()).await;
    let blackholes =
        lab.kernel.routes().into_iter().filter(|(_, r)| (r.protocol, &r.target) == (PROTOCOL_BGPD, &Target::Blackhole));
    let blackholes: Vec<String> = blackholes.map(|(key, _)| key.to_string()).collect();
    assert_eq!(blackholes, ["10.96.0.0/12 metric 1536"], "not where the node itself lives");
}

#[tokio::test]
async fn learned_routes_have_the_nodes_address_as_source() {
    let mut lab = Lab::new(&[]).await;
    lab.learn(&[("10.65.1.0/26", &["192.168.1.1"])]);
    let source = |lab: &Lab| lab.kernel.routes()[&RouteKey::new(net("10.65.1.0/26"), PRIORITY_LEARNED)].source;
    let sources = vec![ip("192.168.1.4"), ip("2001:db8::4")];
    lab.state.set_inputs(Inputs { sources, ..lab.state.inputs.clone() });
    lab.settle().await;
    assert_eq!(source(&lab), Some(ip("192.168.1.4")));
    lab.state.set_inputs(Inputs { sources: vec![ip("192.168.1.99")], ..lab.state.inputs.clone() });
    lab.settle().await;
    assert_eq!(source(&lab), None, "the host has no such address");
}

/// RFC 8950: the neighbour of an unnumbered peer is a next hop of both families, on the links that it is behind.
#[tokio::test]
async fn a_neighbour_behind_a_link_is_reached_without_a_route() {
    let mut lab = Lab::new(&[]).await;
    lab.learn(&[("10.70.0.0/24", &["fe80::1"]), ("2001:db8:7::/48", &["fe80::1"])]);
    assert!(lab.settle().await.1.is_empty(), "nobody knows where it is");
    for index in [1, 2, 3] {
        // Each link has this one, and the last one heard of is a new pod's.
        let route = Route::new(Target::Link { ifindex: index }, 2);
        lab.kernel.set_link(link(index, true));
        lab.kernel.set_route(RouteKey::new(net("fe80::/64"), 256), route);
        assert!(lab.settle().await.1.is_empty(), "a route says nothing of it");
    }
    let behind = |links: &[u32]| Neighbours::from([(ip("fe80::1"), links.iter().copied().collect())]);
    lab.state.set_neighbours(&behind(&[1]));
    assert_eq!(lab.settle().await.1, ["10.70.0.0/24 fe80::1@1", "2001:db8:7::/48 fe80::1@1"]);
    lab.state.set_neighbours(&behind(&[1, 2]));
    assert_eq!(lab.settle().await.1[0], "10.70.0.0/24 fe80::1@1 fe80::1@2");
    lab.learn(&[("10.71.0.0/24", &["10.70.0.9"])]);
    assert_eq!(lab.settle().await.1[1], "10.71.0.0/24 fe80::1@1 fe80::1@2", "behind what it announced");
    lab.kernel.remove_route(&RouteKey::new(net("fe80::/64"), 256));
    assert_eq!(lab.settle().await.1.len(), 3, "the pod went, and no route with it");
    lab.state.set_neighbours(&Neighbours::new());
    assert!(lab.settle().await.1.is_empty());
}

/// Carrier is lost first, and then the link is set down: that is when the kernel drops its routes.
#[tokio::test]
async fn routes_by_a_link_without_carrier_go_when_it_is_set_down() {
    let mut lab = Lab::new(&[]).await;
    let resources = (*lab.state.inputs.resources).clone();
    lab.state.set_inputs(Inputs { resources: Arc::new(resources), ..lab.state.inputs.clone() });
    lab.kernel.set_link(link(3, true));
    let borrowed = RouteKey::new(net("10.65.9.1/32"), PRIORITY_LOCAL);
    lab.kernel.set_route(borrowed, Route::new(Target::Link { ifindex: 3 }, PROTOCOL_FELIX));
    let announced = async |lab: &mut Lab| {
        let origins = lab.settle().await.0.originate?;
        Some(origins.iter().any(|o| o.export && o.prefix == prefix(net("10.65.9.1/32"))))
    };
    assert_eq!(announced(&mut lab).await, Some(true));
    lab.kernel.set_link(Link { carrier: false, ..link(3, true) });
    assert_eq!(announced(&mut lab).await, None, "it is there");
    lab.kernel.set_link(link(3, false));
    assert_eq!(announced(&mut lab).await, Some(false), "the kernel has dropped it in silence");
}

/// A peer may announce one prefix with ever other next hops: what was asked for is not kept for ever, and nothing is missed.
#[tokio::test]
async fn answers_that_no_route_needs_are_not_kept() {
    let mut lab = Lab::new(&[]).await;
    lab.settle().await;
    let made_up = |n: u32| IpAddr::from((0xac10_0000 + n).to_be_bytes());
    let speaker = lab.state.resolver();
    (0..100_000).for_each(|n| assert_eq!(speaker(made_up(n)), None));
    let kept = |lab: &Lab| lab.state.judge.asked().answers.len();
    assert_eq!(kept(&lab), ANSWERS);

    // The last of them is one that was not kept.
    lab.learn(&[("172.17.134.159/32", &["192.168.1.1"])]);
    assert_eq!(made_up(99_999), ip("172.17.134.159"));
    assert!(lab.settle().await.0.ask_again, "its answer is another one");
    // The speaker asks the new judgement for what it needs, and lets go of the old one.
    let next = lab.state.resolver();
    (90_000..100_000).for_each(|n| assert_eq!(next(made_up(n)).is_some(), n == 99_999));
    drop(speaker);
    assert_eq!(kept(&lab), 10_000, "all that it needs");
    lab.learn(&[("10.70.0.0/16", &["192.168.1.1"])]);
    assert!(!lab.settle().await.0.ask_again, "a route to elsewhere");
    (0..90_000).for_each(|n| assert_eq!(next(made_up(n)), None));
    assert_eq!(kept(&lab), 20_000);
    lab.learn(&[("10.71.0.0/16", &["192.168.1.1"])]);
    assert!(lab.settle().await.0.ask_again, "nobody knows");
    let last = lab.state.resolver();
    (0..10).for_each(|n| assert_eq!(last(made_up(n)), None));
    drop(next);
    (10..90_000).for_each(|n| assert_eq!(last(made_up(n)), None));
    assert_eq!(kept(&lab), ANSWERS, "the room follows what is needed");
}
