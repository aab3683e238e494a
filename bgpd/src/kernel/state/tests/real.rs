//! The same decisions against the real kernel, each test in a network namespace of its own: `eth0` (192.0.2.4/24,
//! 2001:db8::4/64) and `eth1` (198.51.100.4/24, 2001:db8:1::4/64), their other ends `leaf0` and `leaf1`.

use std::time::Duration;

use super::*;

/// Runs in a network namespace of its own, which ends with its thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        run_ip("link set lo up");
        for (n, v4, v6) in [(0, "192.0.2.4/24", "2001:db8::4/64"), (1, "198.51.100.4/24", "2001:db8:1::4/64")] {
            run_ip(&format!("link add eth{n} type veth peer name leaf{n}"));
            run_ip(&format!("link set eth{n} up"));
            run_ip(&format!("link set leaf{n} up"));
            run_ip(&format!("addr add {v4} dev eth{n}"));
            run_ip(&format!("addr add {v6} dev eth{n} nodad"));
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip route show` of one prefix with its exact length.
fn shown(prefix: &str) -> String {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let line = run_ip(&format!("{family} route show exact {prefix}"));
    line.trim_end_matches(" pref medium").replace(" pref medium", "")
}

/// The task's state, its kernel and its events.
struct Real {
    kernel: fib::Netlink,
    state: State,
    events: tokio::sync::mpsc::Receiver<Vec<Event>>,
    /// Dumps since the start.
    dumps: usize,
}

impl Real {
    async fn new(inputs: Inputs) -> Real {
        let kernel = fib::Netlink::new().unwrap();
        let events = kernel.monitor(Watch::Others).unwrap();
        let mut real = Real { kernel, state: State::new("a".into()), events, dumps: 0 };
        real.read().await;
        real.state.keep_stale_routes();
        real.state.set_inputs(inputs);
        real.write().await;
        real
    }

    async fn read(&mut self) {
        self.dumps += 1;
        let (links, addrs) = (self.kernel.dump_links().await.unwrap(), self.kernel.dump_addrs().await.unwrap());
        self.state.resync(&self.kernel.dump_routes().await.unwrap(), links, addrs);
    }

    /// As the task does it, until nothing is left to do now.
    async fn write(&mut self) {
        loop {
            self.state.settle();
            let applied = self.state.apply(&self.kernel, Instant::now()).await;
            if applied.needs_resync {
                self.read().await;
            }
            if applied.is_idle() && self.state.is_settled() {
                return;
            }
        }
    }

    async fn learn(&mut self, routes: &[(&str, &[&str])]) {
        let one = |(dst, gateways): &(&str, &[&str])| -> (Prefix, Option<Vec<IpAddr>>) {
            let gateways: Vec<IpAddr> = gateways.iter().map(|g| ip(g)).collect();
            (prefix(net(dst)), Some(gateways).filter(|g| !g.is_empty()))
        };
        self.state.learn(routes.iter().map(one).collect());
        self.write().await;
    }

    /// Takes events and does what is due until it holds.
    async fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let soon = async {
            while !holds() {
                // A look now and then: the test waits for something that no event announces.
                let look = tokio::time::Instant::now() + Duration::from_millis(20);
                let retry = self.state.next_deadline().map_or(look, |at| look.min(at.into()));
                tokio::select! {
                    batch = self.events.recv() => self.observe(batch.expect("the monitor runs")).await,
                    () = tokio::time::sleep_until(retry) => {}
                }
                self.write().await;
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(10), soon).await;
        result.unwrap_or_else(|_| panic!("never came: {what}; the kernel has {}", run_ip("route show")));
    }

    /// Takes events until none comes for a while, and does what is due after each; peers whose link was lost.
    async fn hear(&mut self) -> Vec<IpAddr> {
        let mut lost = Vec::new();
        while let Ok(batch) = tokio::time::timeout(Duration::from_millis(200), self.events.recv()).await {
            self.observe(batch.expect("the monitor runs")).await;
            lost.append(&mut self.state.settle().lost);
            self.write().await;
        }
        lost
    }

    async fn observe(&mut self, batch: Vec<Event>) {
        let mut needs_resync = false;
        batch.iter().for_each(|event| needs_resync |= self.state.observe(event));
        if needs_resync {
            self.read().await;
        }
    }
}

#[test]
#[ignore = "needs network namespaces"]
fn what_others_own_is_neither_replaced_nor_removed() {
    in_namespace(|| async {
        let theirs = [
            ("10.1.0.0/16", "10.1.0.0/16 via 192.0.2.7 dev eth0 proto static metric 1536"),
            ("10.2.0.0/16", "10.2.0.0/16 via 192.0.2.7 dev eth0 proto static"),
            ("10.3.0.0/16", "unreachable 10.3.0.0/16 proto bird metric 1536"),
            ("2001:db8:7::/48", "2001:db8:7::/48 via 2001:db8::7 dev eth0 proto static metric 1536"),
        ];
        theirs[..2].iter().chain(&theirs[3..]).for_each(|(_, route)| drop(run_ip(&format!("route add {route}"))));
        let mut real = Real::new(Inputs::default()).await;
        // One was there at the start, one comes while we run, one in the moment before we write.
        run_ip(&format!("route add {}", theirs[2].1));
        let all: Vec<(&str, &[&str])> = theirs
            .iter()
            .map(|(dst, _)| (*dst, if dst.contains(':') { &["2001:db8::1"][..] } else { &["192.0.2.1"] }))
            .collect();
        real.learn(&all).await;
        real.learn(&[("10.9.0.0/16", &["192.0.2.1"])]).await;
        for (dst, route) in theirs {
            assert!(shown(dst).contains(route), "{dst}: {}", shown(dst));
        }
        assert!(shown("10.2.0.0/16").contains("via 192.0.2.1 dev eth0 proto 202 metric 1536"), "beside a better one");
        assert_eq!(
            shown("10.9.0.0/16"),
            "10.9.0.0/16 via 192.0.2.1 dev eth0 proto 202 metric 1536",
            "the others go on"
        );
        // The next try knows whose it is.
        tokio::time::sleep(Duration::from_millis(150)).await;
        real.write().await;
        let status = real.state.status();
        let failures: Vec<(String, &str)> =
            status.failures.iter().map(|f| (f.prefix.to_string(), f.reason.as_str())).collect();
        assert_eq!((status.failed, failures.len()), (3, 3), "{failures:?}");
        for (at, dst, owner) in [(0, "10.1.0.0/16", 4), (1, "10.3.0.0/16", 12), (2, "2001:db8:7::/48", 4)] {
            assert_eq!(failures[at].0, dst);
            assert!(failures[at].1.contains(&format!("belongs to route protocol {owner}")), "{failures:?}");
        }

        let gone: Vec<(&str, &[&str])> = all.iter().map(|(dst, _)| (*dst, &[][..])).collect();
        real.learn(&gone).await;
        for (dst, route) in theirs {
            assert_eq!(shown(dst), route, "withdrawn");
        }
        assert_eq!(real.state.status().failed, 0);

        real.learn(&all).await;
        run_ip("route del 10.1.0.0/16 metric 1536");
        real.until("the key is free", || shown("10.1.0.0/16").contains("proto 202")).await;
        assert_eq!(real.state.status().failed, 2);

        // Ours was replaced, and we wrote ours again before we heard of it: what we believe is what is there.
        run_ip("route replace 10.9.0.0/16 via 192.0.2.7 dev eth0 proto static metric 1536");
        real.learn(&[("10.9.0.0/16", &["198.51.100.1"])]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        while let Ok(batch) = real.events.try_recv() {
            real.observe(batch).await;
        }
        real.write().await;
        let there = shown("10.9.0.0/16");
        assert_eq!((there.contains("proto 202"), real.state.status().failed), (true, 2), "{there}");
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn a_multipath_route_goes_by_the_links_that_are_there() {
    in_namespace(|| async {
        let mut real = Real::new(Inputs::default()).await;
        real.learn(&[
            ("10.1.0.0/16", &["192.0.2.1", "198.51.100.1"]),
            ("10.2.0.0/16", &["198.51.100.1"]),
            ("2001:db8:7::/48", &["2001:db8::1", "2001:db8:1::1"]),
        ])
        .await;
        let is_by = |links: &'static [&'static str]| {
            move || {
                let has = |route: &str| {
                    ["eth0", "eth1"].map(|l| route.contains(l)) == ["eth0", "eth1"].map(|l| links.contains(&l))
                };
                let single = shown("10.2.0.0/16").contains("eth1") == links.contains(&"eth1");
                has(&shown("10.1.0.0/16")) && has(&shown("2001:db8:7::/48")) && single
            }
        };
        assert!(is_by(&["eth0", "eth1"])());
        for (down, up) in [("link set leaf1 down", "link set leaf1 up"), ("link set eth1 down", "link set eth1 up")] {
            run_ip(down);
            real.until(down, is_by(&["eth0"])).await;
            assert!(!run_ip("route show").contains("dead"), "{down}");
            run_ip(up);
            // The kernel drops an interface's global IPv6 addresses with it.
            let _ =
                std::process::Command::new("ip").args("addr add 2001:db8:1::4/64 dev eth1 nodad".split(' ')).output();
            real.until(up, is_by(&["eth0", "eth1"])).await;
        }
        run_ip("addr del 198.51.100.4/24 dev eth1");
        run_ip("addr del 2001:db8:1::4/64 dev eth1");
        real.until("the addresses are gone", is_by(&["eth0"])).await;
        run_ip("addr add 198.51.100.4/24 dev eth1");
        run_ip("addr add 2001:db8:1::4/64 dev eth1 nodad");
        real.until("the addresses are back", is_by(&["eth0", "eth1"])).await;
        run_ip("link del eth1");
        real.until("the link is gone", is_by(&["eth0"])).await;
        assert_eq!(real.state.status().failed, 0);
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn next_hops_are_found_over_learned_routes_and_loops_end() {
    in_namespace(|| async {
        let mut real = Real::new(Inputs::default()).await;
        real.learn(&[
            ("10.1.0.0/16", &["172.16.0.1"]),
            ("172.16.0.0/16", &["172.17.0.1"]),
            ("172.17.0.0/16", &["192.0.2.1"]),
            // Each through the other, and one through itself.
            ("10.3.0.0/16", &["10.4.0.1"]),
            ("10.4.0.0/16", &["10.3.0.1"]),
            ("10.5.0.0/16", &["10.5.0.1"]),
        ])
        .await;
        let by_leaf = |dst: &str| format!("{dst} via 192.0.2.1 dev eth0 proto 202 metric 1536");
        for dst in ["10.1.0.0/16", "172.16.0.0/16", "172.17.0.0/16"] {
            assert_eq!(shown(dst), by_leaf(dst));
        }
        for dst in ["10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16"] {
            assert_eq!(shown(dst), "", "a loop reaches nothing");
        }
        // The end of the chain moves, and all behind it.
        real.learn(&[("172.17.0.0/16", &["198.51.100.1"])]).await;
        assert_eq!(shown("10.1.0.0/16"), "10.1.0.0/16 via 198.51.100.1 dev eth1 proto 202 metric 1536");
        real.learn(&[("10.4.0.0/16", &["172.16.0.1"])]).await;
        assert!(shown("10.3.0.0/16").contains("via 198.51.100.1") && shown("10.4.0.0/16").contains("via 198.51.100.1"));
        real.learn(&[("172.16.0.0/16", &[])]).await;
        for dst in ["10.1.0.0/16", "10.3.0.0/16", "10.4.0.0/16"] {
            assert_eq!(shown(dst), "", "the chain is broken");
        }
    });
}

/// A static route outlives the subnet of its gateway. Who learns a route behind it finds that the kernel takes it no longer.
#[test]
#[ignore = "needs network namespaces"]
fn what_the_kernel_refuses_is_shown_and_tried_again_and_the_others_go_on() {
    in_namespace(|| async {
        run_ip("addr add 203.0.113.4/24 dev eth0");
        run_ip("route add 172.16.0.0/16 via 203.0.113.9 dev eth0");
        run_ip("addr del 203.0.113.4/24 dev eth0");
        let mut real = Real::new(Inputs::default()).await;
        real.learn(&[("10.1.0.0/16", &["172.16.0.1"]), ("10.2.0.0/16", &["192.0.2.1"])]).await;
        assert_eq!(shown("10.1.0.0/16"), "");
        assert!(shown("10.2.0.0/16").contains("proto 202"));
        let status = real.state.status();
        assert_eq!((status.failed, status.failures[0].prefix), (1, net("10.1.0.0/16")));
        let reason = "the kernel refused to add 10.1.0.0/16 metric 1536 (Nexthop has invalid gateway): \
                      Network is unreachable (os error 101)";
        assert_eq!(status.failures[0].reason, reason);
        assert_eq!(status.check(), Err(format!("10.1.0.0/16 is not in the kernel as it should be: {reason}")));
        real.learn(&[("10.3.0.0/16", &["192.0.2.1"])]).await;
        assert!(shown("10.3.0.0/16").contains("proto 202"));
        // No event says that the gateway is on the link now: the next try finds out.
        run_ip("route add 203.0.113.9/32 dev eth0 table 100");
        run_ip("rule add to 203.0.113.9 table 100 pref 10");
        real.until("the next try", || shown("10.1.0.0/16").contains("via 203.0.113.9")).await;
        let status = real.state.status();
        assert_eq!((status.failed, status.failures.len(), status.check()), (0, 0, Ok(())));
    });
}

/// A pod's interface comes and goes: whatever number of routes we have, nothing is read again and nothing written.
#[test]
#[ignore = "needs network namespaces"]
fn links_that_no_learned_route_needs_cost_nothing() {
    in_namespace(|| async {
        let inputs = Inputs { sources: vec![ip("192.0.2.4")], ..Inputs::default() };
        let mut real = Real::new(inputs).await;
        real.learn(&[("10.1.0.0/16", &["192.0.2.1"])]).await;
        let dumps = real.dumps;
        let pod = RouteKey::new(net("10.65.0.9/32"), PRIORITY_LOCAL);
        for end in ["link set cali9 down", "link del cali9", "addr del 10.65.255.1/32 dev cali9"] {
            run_ip("link add cali9 type veth peer name pod9");
            run_ip("link set pod9 up");
            run_ip("link set cali9 up");
            run_ip("addr add 10.65.255.1/32 dev cali9");
            run_ip("route add 10.65.0.9/32 dev cali9 proto 201 metric 1024");
            let knows = |real: &Real| real.state.judge.read().routes.iter().any(|(key, _)| *key == pod);
            while !knows(&real) {
                let batch = tokio::time::timeout(Duration::from_secs(5), real.events.recv()).await.unwrap().unwrap();
                real.observe(batch).await;
            }
            run_ip(end);
            while knows(&real) {
                let batch = tokio::time::timeout(Duration::from_secs(5), real.events.recv()).await.expect(end).unwrap();
                real.observe(batch).await;
            }
            assert_eq!(run_ip("route show 10.65.0.9"), "", "{end}: the kernel has dropped it too");
            if end != "link del cali9" {
                run_ip("link del cali9");
            }
            real.state.settle();
            assert!(real.state.apply(&real.kernel, Instant::now()).await.is_idle(), "{end}");
        }
        assert_eq!(real.dumps, dumps);
    });
}

/// Two interfaces in one subnet have a route of one key each. When one of them goes, the other is the way.
#[test]
#[ignore = "needs network namespaces"]
fn a_subnet_on_two_links_is_reached_by_the_one_that_is_left() {
    in_namespace(|| async {
        let peers = || Inputs { peers: [ip("192.0.2.1")].into(), ..Inputs::default() };
        let mut real = Real::new(peers()).await;
        real.learn(&[("10.1.0.0/16", &["192.0.2.1"]), ("2001:db8:7::/48", &["2001:db8::1"])]).await;
        let by_first = || shown("10.1.0.0/16").contains("eth0") && shown("2001:db8:7::/48").contains("eth0");
        assert!(by_first());
        for (go, back) in [
            ("addr del 192.0.2.5/24 dev eth1", "link set eth1 up"),
            ("addr del 2001:db8::5/64 dev eth1", "link set eth1 up"),
            ("link set leaf1 down", "link set leaf1 up"),
            ("link set eth1 down", "link set eth1 up"),
            ("link del eth1", "link set eth0 up"),
        ] {
            run_ip("addr replace 192.0.2.5/24 dev eth1");
            run_ip("addr replace 2001:db8::5/64 dev eth1 nodad");
            real.hear().await;
            assert!(by_first(), "before {go}: {}", run_ip("route show"));
            run_ip(go);
            assert_eq!(real.hear().await, [] as [IpAddr; 0], "{go}: the peer is on the other link");
            assert!(by_first(), "{go}: {}", run_ip("route show"));
            for there in ["192.0.2.1", "2001:db8::1"] {
                assert_eq!(real.state.judge.read().distance(ip(there)), Some(0), "{go}: {there}");
            }
            run_ip(back);
            real.hear().await;
        }

        // A process that begins while there are two, and one of them without carrier.
        run_ip("link add eth1 type veth peer name leaf1");
        run_ip("addr add 192.0.2.5/24 dev eth1");
        run_ip("link set eth1 up");
        let mut real = Real::new(peers()).await;
        real.learn(&[("10.1.0.0/16", &["192.0.2.1"])]).await;
        assert!(shown("10.1.0.0/16").contains("eth0"), "{}", run_ip("route show"));
    });
}

/// A next hop of a route of somebody else goes, and the event has the key of the whole.
#[test]
#[ignore = "needs network namespaces"]
fn a_foreign_route_goes_on_by_the_next_hops_that_are_left() {
    in_namespace(|| async {
        run_ip("route add 2001:db8:9::/48 nexthop via 2001:db8::1 nexthop via 2001:db8::2 nexthop via 2001:db8:1::1");
        run_ip("route add 172.16.0.0/16 nexthop via 192.0.2.1 nexthop via 198.51.100.1");
        run_ip("route append 172.16.0.0/16 via 192.0.2.2");
        let mut real = Real::new(Inputs::default()).await;
        real.learn(&[("2001:db8:7::/48", &["2001:db8:9::1"]), ("10.1.0.0/16", &["172.16.0.1"])]).await;
        let hops = |dst: &str| shown(dst).matches("via").count();
        assert_eq!((hops("2001:db8:7::/48"), hops("10.1.0.0/16")), (3, 2));
        // One after the other: the news of the second is read after the dump that the first asks for.
        run_ip("route del 2001:db8:9::/48 via 2001:db8::1");
        run_ip("route del 172.16.0.0/16 nexthop via 192.0.2.1 nexthop via 198.51.100.1");
        let first = real.events.recv().await.unwrap();
        run_ip("route del 2001:db8:9::/48 via 2001:db8::2");
        real.observe(first).await;
        real.write().await;
        real.hear().await;
        assert!(shown("2001:db8:7::/48").contains("via 2001:db8:1::1 dev eth1"), "{}", shown("2001:db8:7::/48"));
        assert!(shown("10.1.0.0/16").contains("via 192.0.2.2 dev eth0"), "{}", shown("10.1.0.0/16"));

        let dumps = real.dumps;
        run_ip("route replace 172.16.0.0/16 via 192.0.2.3");
        real.hear().await;
        assert!(shown("10.1.0.0/16").contains("via 192.0.2.3"), "{}", shown("10.1.0.0/16"));
        assert_eq!(real.dumps, dumps, "what replaces another costs no dump");
        run_ip("route append 2001:db8:9::/48 via 2001:db8::1");
        real.hear().await;
        assert_eq!(hops("2001:db8:7::/48"), 2);
        run_ip("route del 2001:db8:9::/48");
        run_ip("route del 172.16.0.0/16");
        real.hear().await;
        assert_eq!((shown("2001:db8:7::/48"), shown("10.1.0.0/16")), (String::new(), String::new()));
    });
}
