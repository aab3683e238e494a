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

/// Takes events and writes until nothing is left to do; how often routes were written.
async fn write(
    state: &mut State,
    kernel: &fib::Netlink,
    events: &mut tokio::sync::mpsc::Receiver<Vec<Event>>,
) -> usize {
    let mut written = 0;
    loop {
        state.settle();
        let applied = state.apply(kernel, Instant::now()).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures.first());
        written += applied.written + applied.deleted;
        observe(state, kernel, events).await;
        if applied.is_idle() && state.is_settled() {
            return written;
        }
    }
}

/// Resident memory of this process, MiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / f64::from(1 << 20)
}

/// CPU seconds of this process, the kernel's work for it included.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let times = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    times.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

struct Step {
    start: Instant,
    cpu: f64,
}

impl Step {
    fn begin() -> Step {
        Step { start: Instant::now(), cpu: cpu() }
    }

    fn end(&self, what: &str) {
        println!(
            "{what:<34} {:>6.2} s {:>6.2} CPU s {:>7.0} MiB",
            self.start.elapsed().as_secs_f64(),
            cpu() - self.cpu,
            resident()
        );
    }
}

/// Everything a table goes through: it is learned, read again, moved to another next hop, withdrawn. What is written is exactly
/// what changed. `ROUTES=1000000` with `--nocapture` shows what each step costs, beside the same routes by raw netlink.
#[test]
#[ignore = "needs network namespaces"]
fn a_table_is_written_once_and_only_what_changed_after_that() {
    let count: usize = std::env::var("ROUTES").map_or(50_000, |n| n.parse().unwrap());
    if std::env::var("ROUTES").is_ok() {
        in_namespace(move || raw_netlink(count));
    }
    in_namespace(move || async move {
        let kernel = fib::Netlink::new().unwrap();
        let mut events = kernel.monitor(Watch::Others).unwrap();
        let mut state = state_of(&kernel).await;
        let ours = async |kernel: &fib::Netlink| {
            let all = kernel.dump_routes().await.unwrap();
            all.into_iter().filter(|r| r.route.protocol == PROTOCOL_BGPD).count()
        };
        let table = table(count);
        let step = Step::begin();
        let mut written = 0;
        for batch in table.chunks(BATCH) {
            state.learn(batch.to_vec());
            written += write(&mut state, &kernel, &mut events).await;
        }
        step.end("learned, 1,000 at a time");
        assert_eq!((written, ours(&kernel).await), (count + 1, count + 1), "each once");

        let step = Step::begin();
        let routes = kernel.dump_routes().await.unwrap();
        state.resync(&routes, kernel.dump_links().await.unwrap(), kernel.dump_addrs().await.unwrap());
        drop(routes);
        assert_eq!(write(&mut state, &kernel, &mut events).await, 0, "unchanged");
        step.end("read again, unchanged");

        let step = Step::begin();
        state.learn(table.clone());
        assert_eq!(write(&mut state, &kernel, &mut events).await, 0, "learned again as it was");
        step.end("learned again, unchanged");

        let step = Step::begin();
        state.learn(vec![(table[0].0, Some(vec![ip("192.168.1.2")]))]);
        assert_eq!(write(&mut state, &kernel, &mut events).await, count + 1, "all behind it move");
        step.end("the next hop of all moves");

        let step = Step::begin();
        state.learn(table.iter().map(|(prefix, _)| (*prefix, None)).collect());
        assert_eq!(write(&mut state, &kernel, &mut events).await, count + 1);
        step.end("withdrawn at once");
        assert_eq!(ours(&kernel).await, 0);

        let step = Step::begin();
        state.learn(table.clone());
        assert_eq!(write(&mut state, &kernel, &mut events).await, count + 1);
        step.end("learned at once");
        // A restart: what the kernel has is found, learned again and left alone.
        drop((state, events));
        let step = Step::begin();
        let mut events = kernel.monitor(Watch::Others).unwrap();
        let mut state = state_of(&kernel).await;
        state.learn(table);
        state.sweep(InSync { v4: true, v6: true });
        assert_eq!(write(&mut state, &kernel, &mut events).await, 0, "a restart writes nothing");
        step.end("a restart");
    });
}

/// The same routes in messages made beforehand, 128 a send, of which the last one is answered.
async fn raw_netlink(count: usize) {
    use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockType, bind, recv, send, socket};
    let links = fib::Netlink::new().unwrap().dump_links().await.unwrap();
    let eth0 = links.iter().find(|l| l.name == "eth0").unwrap().index;
    let message = |i: usize, is_last: bool, is_delete: bool| {
        let mut m = Vec::new();
        let (kind, flags) = if is_delete { (25u16, 1u16) } else { (24, 0x601) };
        let flags = if is_last { flags | 4 } else { flags };
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend((i as u32 + 1).to_ne_bytes());
        m.extend([0; 4]);
        // rtmsg: AF_INET, /32, main table, protocol 202, universe, unicast; for a delete nowhere, unspecified.
        m.extend([2, 32, 0, 0, 254, 202, if is_delete { 255 } else { 0 }, u8::from(!is_delete), 0, 0, 0, 0]);
        let mut attribute = |kind: u16, value: [u8; 4]| {
            m.extend(8u16.to_ne_bytes());
            m.extend(kind.to_ne_bytes());
            m.extend(value);
        };
        attribute(1, (0x0b00_0000 + i as u32).to_be_bytes());
        attribute(6, PRIORITY_LEARNED.to_ne_bytes());
        if !is_delete {
            attribute(4, eth0.to_ne_bytes());
            attribute(5, [192, 168, 1, 1]);
            attribute(7, [192, 168, 1, 4]);
        }
        let len = (m.len() as u32 + 4).to_ne_bytes();
        [&len[..], &m].concat()
    };
    let all: Vec<usize> = (0..count).collect();
    let batches = |is_delete| -> Vec<Vec<u8>> {
        let batch =
            |b: &[usize]| b.iter().flat_map(|i| message(*i, i + 1 == count || i % 128 == 127, is_delete)).collect();
        all.chunks(128).map(batch).collect()
    };
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &NetlinkAddr::new(0, 0)).unwrap();
    for (what, is_delete) in [("raw netlink, written", false), ("raw netlink, deleted", true)] {
        let (batches, mut answer) = (batches(is_delete), [0; 4096]);
        let step = Step::begin();
        for batch in &batches {
            send(std::os::fd::AsRawFd::as_raw_fd(&fd), batch, MsgFlags::empty()).unwrap();
            let len = recv(std::os::fd::AsRawFd::as_raw_fd(&fd), &mut answer, MsgFlags::empty()).unwrap();
            assert_eq!((len >= 20, &answer[16..20]), (true, &[0; 4][..]), "{what}");
        }
        step.end(what);
    }
}

/// A route of ours that somebody deletes or replaces comes back; what others own stays.
#[test]
#[ignore = "needs network namespaces"]
fn drift_is_repaired() {
    in_namespace(|| async {
        let kernel = fib::Netlink::new().unwrap();
        let mut events = kernel.monitor(Watch::Others).unwrap();
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
