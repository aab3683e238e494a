//! [`Netlink`], [`RouteTable`] and the monitor against a real kernel, each in a network namespace of its own: a link
//! `eth0` (its other end `leaf0`) with 192.0.2.1/24 and 2001:db8::1/64, and a pair `cali0`-`peer0`.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use fib::{
    Change, Event, Kernel, Link, Netlink, NextHop, PROTOCOL_BGPD, PROTOCOL_FELIX, Route, RouteKey, RouteTable, Target,
    Watch,
};
use tokio::sync::mpsc;

/// Runs `test` on a thread in a new network namespace, which goes with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name leaf0",
            "link set eth0 up",
            "link set leaf0 up",
            "addr add 192.0.2.1/24 dev eth0",
            "addr add 2001:db8::1/64 dev eth0 nodad",
            "link add cali0 type veth peer name peer0",
            "link set cali0 up",
            "link set peer0 up",
        ] {
            ip(command);
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in this thread's namespace.
fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// `ip route show` of one prefix, its white space made single.
fn shown(prefix: &str) -> String {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    ip(&format!("{family} route show {prefix}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn key(dst: &str) -> RouteKey {
    RouteKey::new(dst.parse().unwrap(), 1024)
}

fn hop(via: &str, ifindex: u32) -> NextHop {
    NextHop { via: via.parse::<IpAddr>().unwrap(), ifindex, onlink: false }
}

async fn index(kernel: &Netlink, name: &str) -> u32 {
    kernel.dump_links().await.unwrap().into_iter().find(|l| l.name == name).unwrap().index
}

async fn synced(kernel: &Netlink, protocol: u8) -> RouteTable {
    let mut table = RouteTable::new(protocol);
    table.resync(&kernel.dump_routes().await.unwrap());
    table.set_in_sync();
    table
}

async fn apply(table: &mut RouteTable, kernel: &Netlink) -> (usize, usize) {
    let applied = table.apply(kernel, Instant::now()).await;
    assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    (applied.written, applied.deleted)
}

/// Waits until the monitor reports what `wanted` accepts.
async fn wait_for(events: &mut mpsc::Receiver<Vec<Event>>, wanted: impl Fn(&Event) -> bool) {
    let search = async { while !events.recv().await.expect("the monitor runs").iter().any(&wanted) {} };
    tokio::time::timeout(Duration::from_secs(5), search).await.expect("the event within 5 s");
}

#[test]
#[ignore = "needs network namespaces"]
fn every_target_is_written_read_back_replaced_and_deleted() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let (eth0, cali0) = (index(&kernel, "eth0").await, index(&kernel, "cali0").await);
        let onlink = |via: &str, ifindex| NextHop { onlink: true, ..hop(via, ifindex) };
        let rows: [(&str, Target, &str); 11] = [
            ("10.0.0.0/26", Target::Blackhole, "blackhole 10.0.0.0/26 proto 201 metric 1024"),
            ("10.0.0.1/32", Target::Link { ifindex: cali0 }, "10.0.0.1 dev cali0 proto 201 scope link metric 1024"),
            (
                "10.1.0.0/16",
                Target::Gateways(vec![hop("192.0.2.9", eth0)]),
                "10.1.0.0/16 via 192.0.2.9 dev eth0 proto 201 metric 1024",
            ),
            (
                "0.0.0.0/0",
                Target::Gateways(vec![hop("192.0.2.9", eth0)]),
                "default via 192.0.2.9 dev eth0 proto 201 metric 1024",
            ),
            (
                "10.2.0.0/16",
                Target::Gateways(vec![onlink("198.51.100.1", cali0)]),
                "10.2.0.0/16 via 198.51.100.1 dev cali0 proto 201 metric 1024 onlink",
            ),
            (
                "10.3.0.0/16",
                Target::Gateways(vec![onlink("198.51.100.1", cali0), hop("192.0.2.9", eth0)]),
                "10.3.0.0/16 proto 201 metric 1024 nexthop via 192.0.2.9 dev eth0 weight 1 nexthop via 198.51.100.1 dev cali0 weight 1 onlink",
            ),
            (
                "10.4.0.0/16",
                Target::Gateways(vec![hop("2001:db8::9", eth0)]),
                "10.4.0.0/16 via inet6 2001:db8::9 dev eth0 proto 201 metric 1024",
            ),
            (
                "2001:db8:1::/64",
                Target::Blackhole,
                "blackhole 2001:db8:1::/64 dev lo proto 201 metric 1024 pref medium",
            ),
            (
                "2001:db8:1::1/128",
                Target::Link { ifindex: cali0 },
                "2001:db8:1::1 dev cali0 proto 201 metric 1024 pref medium",
            ),
            (
                "2001:db8:2::/64",
                Target::Gateways(vec![hop("2001:db8::9", eth0)]),
                "2001:db8:2::/64 via 2001:db8::9 dev eth0 proto 201 metric 1024 pref medium",
            ),
            (
                "2001:db8:3::/64",
                Target::Gateways(vec![hop("2001:db8::9", eth0), hop("2001:db8::8", eth0)]),
                "2001:db8:3::/64 proto 201 metric 1024 pref medium nexthop via 2001:db8::8 dev eth0 weight 1 nexthop via 2001:db8::9 dev eth0 weight 1",
            ),
        ];
        let mut table = synced(&kernel, PROTOCOL_FELIX).await;
        for (dst, target, _) in &rows {
            table.insert(key(dst), Route::new(target.clone(), 0));
        }
        assert_eq!(apply(&mut table, &kernel).await, (rows.len(), 0));
        for (dst, _, expected) in &rows {
            assert_eq!(&shown(if *dst == "0.0.0.0/0" { "default" } else { dst }), expected);
        }
        table.resync(&kernel.dump_routes().await.unwrap());
        assert!(table.is_clean(), "what was written reads back as it was");
        assert_eq!(apply(&mut table, &kernel).await, (0, 0), "a second apply writes nothing");

        // Every target replaces every other target of its family.
        for (dst, target, _) in &rows {
            for (other, _, _) in rows.iter().filter(|r| r.0.contains(':') == dst.contains(':')) {
                table.insert(key(other), Route::new(target.clone(), 0));
            }
            apply(&mut table, &kernel).await;
            table.resync(&kernel.dump_routes().await.unwrap());
            assert!(table.is_clean(), "{target:?} replaced the others: {:?} is {:?}", table.desired(), table.actual());
        }

        table.set_desired(Default::default());
        assert_eq!(apply(&mut table, &kernel).await, (0, rows.len()));
        assert!(kernel.dump_routes().await.unwrap().iter().all(|r| r.route.protocol != PROTOCOL_FELIX));
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn routes_of_others_are_never_touched() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        ip("route add blackhole 10.0.0.0/26 proto 202 metric 1024");
        ip("route add blackhole 10.0.1.0/26 proto static metric 1024");
        ip("route add blackhole 10.0.2.0/26 proto 201 metric 1024");
        let mut table = RouteTable::new(PROTOCOL_FELIX);
        table.resync(&kernel.dump_routes().await.unwrap());
        table.insert(key("10.0.1.0/26"), Route::new(Target::Blackhole, 0));

        let applied = table.apply(&kernel, Instant::now()).await;
        let text = applied.failures[0].1.to_string();
        assert!(text.contains("10.0.1.0/26 metric 1024 belongs to route protocol 4"), "{text}");
        assert!(shown("10.0.2.0/26").contains("201"), "nothing goes before in-sync");

        table.set_in_sync();
        let applied = table.apply(&kernel, Instant::now()).await;
        assert_eq!((applied.written, applied.deleted), (0, 1));
        assert_eq!(shown("10.0.2.0/26"), "");
        assert!(shown("10.0.0.0/26").contains("proto 202"));
        assert!(shown("10.0.1.0/26").contains("proto static"));

        // Deleting by protocol: the same key of another owner stays.
        let results = kernel.apply(vec![Change::Delete(key("10.0.0.0/26"), PROTOCOL_FELIX)]).await;
        assert!(results[0].is_ok(), "what is not there is deleted");
        assert!(shown("10.0.0.0/26").contains("proto 202"));

        ip("route del blackhole 10.0.1.0/26 metric 1024");
        table.observe(&Event::RouteRemoved(key("10.0.1.0/26"), 4));
        assert_eq!(apply(&mut table, &kernel).await, (1, 0), "the key is free now");
    });
}

/// Somebody takes a key in the moment before we write it: no event has told us, and the kernel's replace asks nobody.
#[test]
#[ignore = "needs network namespaces"]
fn a_key_that_another_took_unnoticed_stays_its() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let eth0 = index(&kernel, "eth0").await;
        let rows = [
            ("10.0.0.0/26", "192.0.2.9", "10.0.0.0/26 via 192.0.2.7 dev eth0 proto static metric 1024"),
            (
                "2001:db8:1::/64",
                "2001:db8::9",
                "2001:db8:1::/64 via 2001:db8::7 dev eth0 proto static metric 1024 pref medium",
            ),
        ];
        for (dst, ours, theirs) in rows {
            let mut table = synced(&kernel, PROTOCOL_BGPD).await;
            table.insert(key(dst), Route::new(Target::Gateways(vec![hop(ours, eth0)]), 0));
            table.insert(key("10.9.0.0/16"), Route::new(Target::Blackhole, 0));
            ip(&format!("route add {}", theirs.trim_end_matches(" pref medium")));

            let start = Instant::now();
            let applied = table.apply(&kernel, start).await;
            assert_eq!(shown(dst), theirs);
            assert_eq!((applied.written, applied.needs_resync), (1, true), "{dst}: the others go on");
            let text = applied.failures[0].1.to_string();
            assert!(text.starts_with(&format!("the kernel refused to add {dst} metric 1024")), "{text}");
            // A dump says whose it is; from then on nothing is tried.
            table.resync(&kernel.dump_routes().await.unwrap());
            let applied = table.apply(&kernel, table.next_deadline().unwrap()).await;
            let text = applied.failures[0].1.to_string();
            assert!(text.contains("belongs to route protocol 4") && !applied.needs_resync, "{text}");
            assert_eq!(shown(dst), theirs);

            ip(&format!("route del {dst} proto static"));
            table.observe(&Event::RouteRemoved(key(dst), 4));
            assert_eq!(apply(&mut table, &kernel).await, (1, 0), "{dst}: the key is free now");
            table.set_desired(Default::default());
            apply(&mut table, &kernel).await;
        }
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn a_monitor_of_others_hears_nothing_of_our_own_routes() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let mut others = kernel.monitor(Watch::Others).unwrap();
        let mut links = kernel.monitor(Watch::Links).unwrap();
        let change = |dst: &str| Change::Add(key(dst), Route::new(Target::Blackhole, PROTOCOL_BGPD).into());
        let results = kernel.apply(vec![change("10.0.0.0/26"), change("2001:db8:1::/64")]).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        kernel.apply(vec![Change::Delete(key("10.0.0.0/26"), PROTOCOL_BGPD)]).await;
        // The same number, another program; and of ours what is no route of ours.
        Netlink::new().unwrap().apply(vec![change("10.0.1.0/26")]).await;
        ip("route del 2001:db8:1::/64");
        ip("link set cali0 down");
        let mut heard = Vec::new();
        let is_last = |e: &Event| matches!(e, Event::LinkChanged(l) if l.name == "cali0" && !l.up);
        while !heard.iter().any(is_last) {
            heard.extend(tokio::time::timeout(Duration::from_secs(5), others.recv()).await.unwrap().unwrap());
        }
        let heard: Vec<String> = heard
            .iter()
            .filter_map(|e| match e {
                Event::RouteChanged(r) if r.route.target == Target::Blackhole => Some(format!("+{}", r.key.dst)),
                Event::RouteRemoved(key, PROTOCOL_BGPD) => Some(format!("-{}", key.dst)),
                _ => None,
            })
            .collect();
        assert_eq!(heard, ["+10.0.1.0/26", "-2001:db8:1::/64"]);
        let batch = tokio::time::timeout(Duration::from_secs(5), links.recv()).await.unwrap().unwrap();
        assert!(batch.iter().all(|e| matches!(e, Event::LinkChanged(_))), "{batch:?}");
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn the_monitor_shows_drift_and_it_is_repaired() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let mut events = kernel.monitor(Watch::All).unwrap();
        let cali0 = index(&kernel, "cali0").await;
        let mut table = synced(&kernel, PROTOCOL_FELIX).await;
        table.insert(key("10.0.0.1/32"), Route::new(Target::Link { ifindex: cali0 }, 0));
        table.insert(key("10.0.0.0/26"), Route::new(Target::Blackhole, 0));
        apply(&mut table, &kernel).await;

        ip("route del 10.0.0.1/32 metric 1024");
        let removed = Event::RouteRemoved(key("10.0.0.1/32"), PROTOCOL_FELIX);
        wait_for(&mut events, |e| *e == removed).await;
        table.observe(&removed);
        assert_eq!(apply(&mut table, &kernel).await, (1, 0));
        assert!(shown("10.0.0.1/32").contains("cali0"));

        ip("route replace 10.0.0.0/26 dev eth0 proto 201 metric 1024");
        let mut changed = None;
        while changed.is_none() {
            let batch = tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
            changed = batch.into_iter().find(
                |e| matches!(e, Event::RouteChanged(r) if r.key == key("10.0.0.0/26") && r.route.target != Target::Blackhole),
            );
        }
        table.observe(&changed.unwrap());
        assert_eq!(apply(&mut table, &kernel).await, (1, 0));
        assert!(shown("10.0.0.0/26").starts_with("blackhole"));

        // A link that goes takes its IPv4 routes with it, in silence: the event says to read everything again.
        ip("link set cali0 down");
        wait_for(&mut events, |e| matches!(e, Event::LinkChanged(l) if l.index == cali0 && e.needs_resync())).await;
        table.resync(&kernel.dump_routes().await.unwrap());
        let applied = table.apply(&kernel, Instant::now()).await;
        assert_eq!(applied.failures.len(), 1, "no route over a link that is down");
        assert!(applied.failures[0].1.to_string().contains("add 10.0.0.1/32 metric 1024"));
        ip("link set cali0 up");
        let mut up = None;
        while up.is_none() {
            let batch = tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
            up = batch.into_iter().find(
                |e| matches!(e, Event::LinkChanged(Link { index, up: true, carrier: true, .. }) if *index == cali0),
            );
        }
        table.observe(&up.unwrap());
        assert_eq!(apply(&mut table, &kernel).await, (1, 0), "the failed route is tried at once when the link is back");
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn one_bad_route_in_a_large_batch_fails_alone() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let eth0 = index(&kernel, "eth0").await;
        let good = |n: u32| {
            let dst = format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255);
            Change::Replace(key(&dst), Route::new(Target::Gateways(vec![hop("192.0.2.9", eth0)]), PROTOCOL_BGPD).into())
        };
        let mut changes: Vec<Change> = (0..10_000).map(good).collect();
        // No route to this gateway: the kernel refuses.
        let bad = Route::new(Target::Gateways(vec![hop("203.0.113.1", eth0)]), PROTOCOL_BGPD);
        for at in [0, 127, 128, 5_000, 9_999] {
            changes[at] = Change::Replace(key("172.16.0.0/16"), bad.clone().into());
        }
        let start = Instant::now();
        let results = kernel.apply(changes.clone()).await;
        let took = start.elapsed();
        let failed: Vec<usize> = (0..results.len()).filter(|i| results[*i].is_err()).collect();
        assert_eq!(failed, [0, 127, 128, 5_000, 9_999]);
        let text = results[0].as_ref().unwrap_err().to_string();
        assert_eq!(text, "the kernel refused to replace 172.16.0.0/16 metric 1024 (Nexthop has invalid gateway)");
        let ours = kernel.dump_routes().await.unwrap().iter().filter(|r| r.route.protocol == PROTOCOL_BGPD).count();
        assert_eq!(ours, 10_000 - 5);
        println!("10000 routes in {took:?}");
    });
}

#[test]
#[ignore = "needs network namespaces"]
fn lost_events_are_reported() {
    in_namespace(|| async {
        let kernel = Netlink::new().unwrap();
        let mut events = kernel.monitor(Watch::All).unwrap();
        // This thread does not yield to the monitor while it writes, and each route leaves an event of about 1 KiB in the
        // kernel's queue.
        let writer = Netlink::new().unwrap();
        for round in 0..4 {
            let changes = (0..20_000u32).map(|n| {
                let dst = format!("10.{}.{}.{}/32", 8 * round + (n >> 16), n >> 8 & 255, n & 255);
                Change::Replace(key(&dst), Route::new(Target::Blackhole, PROTOCOL_BGPD).into())
            });
            let changes: Vec<Change> = changes.collect();
            let handle = std::thread::spawn({
                let writer = writer.clone();
                move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(writer.apply(changes)).into_iter().for_each(|r| r.unwrap());
                }
            });
            handle.join().unwrap();
        }
        wait_for(&mut events, |e| *e == Event::Overrun).await;
    });
}
