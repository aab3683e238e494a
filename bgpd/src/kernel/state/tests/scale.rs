//! Many routes, in the real kernel.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;

/// Routes that arrive together, as from a table that is read.
const BATCH: usize = 1000;

/// Runs in a network namespace of its own, which ends with its thread: `eth0` with 192.168.1.4/24.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let setup = "ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip link set eth1 up \
                     && ip address add 192.168.1.4/24 dev eth0";
        assert!(std::process::Command::new("sh").args(["-c", setup]).status().expect("ip runs").success());
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

async fn state_of(kernel: &fib::Netlink) -> State {
    let mut state = State::new("a".into());
    let routes = kernel.dump_routes().await.unwrap();
    state.resync(&routes, kernel.dump_links().await.unwrap(), kernel.dump_addrs().await.unwrap());
    state.keep_stale_routes();
    state.set_inputs(Inputs { sources: vec![ip("192.168.1.4")], ..Inputs::default() });
    state
}

/// `count` /32s by one of 64 next hops, which are reached by a learned route themselves.
fn table(count: usize) -> Vec<(Prefix, Option<Vec<IpAddr>>)> {
    let by_leaf = (prefix(net("172.16.0.0/16")), Some(vec![ip("192.168.1.1")]));
    let host = |i: usize| Prefix::new(Ipv4Addr::from(0x0b00_0000 + i as u32).into(), 32).unwrap();
    let hop = |i: usize| IpAddr::from([172, 16, 0, (i % 64) as u8]);
    [by_leaf].into_iter().chain((0..count).map(|i| (host(i), Some(vec![hop(i)])))).collect()
}

async fn observe(state: &mut State, kernel: &fib::Netlink, events: &mut tokio::sync::mpsc::Receiver<Vec<Event>>) {
    let mut lost = false;
    while let Ok(batch) = events.try_recv() {
        batch.iter().for_each(|event| lost |= state.observe(event));
    }
    if lost {
        let routes = kernel.dump_routes().await.unwrap();
        state.resync(&routes, kernel.dump_links().await.unwrap(), kernel.dump_addrs().await.unwrap());
    }
}

/// Learns a table batch by batch; the time it took until the kernel had it, and until it was gone again.
async fn learned_and_withdrawn(count: usize) -> (Duration, Duration) {
    let kernel = fib::Netlink::new().unwrap();
    let mut events = kernel.monitor().unwrap();
    let mut state = state_of(&kernel).await;
    let table = table(count);
    let mut times = Vec::new();
    for is_withdrawal in [false, true] {
        let start = Instant::now();
        for batch in table.chunks(BATCH) {
            state.learn(batch.iter().map(|(p, hops)| (*p, hops.clone().filter(|_| !is_withdrawal))).collect());
            state.settle();
            let applied = state.apply(&kernel, Instant::now()).await;
            assert!(applied.failures.is_empty(), "{:?}", applied.failures.first());
            observe(&mut state, &kernel, &mut events).await;
        }
        times.push(start.elapsed());
        let ours = kernel.dump_routes().await.unwrap().into_iter().filter(|r| r.route.protocol == PROTOCOL_BGPD);
        assert_eq!(ours.count(), if is_withdrawal { 0 } else { count + 1 });
    }
    (times[0], times[1])
}

/// Four times the routes take about four times as long, not sixteen.
#[test]
#[ignore = "needs network namespaces"]
fn a_hundred_thousand_routes_take_linear_time() {
    in_namespace(|| async {
        let small = learned_and_withdrawn(25_000).await;
        let large = learned_and_withdrawn(100_000).await;
        println!("25,000 routes: {small:?}; 100,000: {large:?}");
        for (small, large) in [(small.0, large.0), (small.1, large.1)] {
            assert!(large < small * 10 + Duration::from_secs(1), "25,000 in {small:?}, 100,000 in {large:?}");
        }
    });
}

/// A route of ours that somebody deletes or replaces comes back; what others own stays.
#[test]
#[ignore = "needs network namespaces"]
fn drift_is_repaired() {
    in_namespace(|| async {
        let kernel = fib::Netlink::new().unwrap();
        let mut events = kernel.monitor().unwrap();
        let mut state = state_of(&kernel).await;
        state.learn(vec![(prefix(net("10.65.1.0/26")), Some(vec![ip("192.168.1.1")]))]);
        let shown = || {
            let run = std::process::Command::new("ip").args(["route", "show", "10.65.1.0/26"]).output().unwrap();
            String::from_utf8(run.stdout).unwrap().trim().to_string()
        };
        let wanted = "10.65.1.0/26 via 192.168.1.1 dev eth0 proto 202 src 192.168.1.4 metric 1536";
        state.settle();
        state.apply(&kernel, Instant::now()).await;
        assert_eq!(shown(), wanted);
        for drift in
            ["route del 10.65.1.0/26 metric 1536", "route replace 10.65.1.0/26 via 192.168.1.2 metric 1536 proto 202"]
        {
            let done = std::process::Command::new("ip").args(drift.split(' ')).status().unwrap();
            assert!(done.success() && shown() != wanted, "{drift}");
            let repaired = async {
                while shown() != wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    observe(&mut state, &kernel, &mut events).await;
                    state.settle();
                    state.apply(&kernel, Instant::now()).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), repaired).await.expect(drift);
        }
    });
}
