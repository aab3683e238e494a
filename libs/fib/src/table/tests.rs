//! [`RouteTable`] against the fake kernel.

use std::time::Duration;

use super::*;
use crate::fake::Fake;
use crate::kernel::Watch;
use crate::route::{PROTOCOL_BGPD, PROTOCOL_FELIX, Target};

fn key(dst: &str) -> RouteKey {
    RouteKey::new(dst.parse().expect("a prefix"), 1024)
}

fn blackhole() -> Route {
    Route::new(Target::Blackhole, PROTOCOL_FELIX)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn synced(kernel: &Fake) -> RouteTable {
    let mut table = RouteTable::new(PROTOCOL_FELIX);
    table.resync(&block_on(kernel.dump_routes()).expect("a dump"));
    table.set_in_sync();
    table
}

/// (written, deleted, failed)
fn apply(table: &mut RouteTable, kernel: &Fake, now: Instant) -> (usize, usize, usize) {
    let applied = block_on(table.apply(kernel, now));
    (applied.written, applied.deleted, applied.failures.len())
}

#[test]
fn a_refused_route_is_retried_later_and_the_others_proceed() {
    let (kernel, now) = (Fake::new(), Instant::now());
    let mut table = synced(&kernel);
    kernel.refuse(key("10.0.0.0/26"), true);
    table.insert(key("10.0.0.0/26"), blackhole());
    table.insert(key("10.0.1.0/26"), blackhole());
    assert_eq!(apply(&mut table, &kernel, now), (1, 0, 1));
    assert_eq!(apply(&mut table, &kernel, now), (0, 0, 0), "it waits");
    let due = table.next_deadline().expect("a retry is due");
    kernel.refuse(key("10.0.0.0/26"), false);
    assert_eq!(apply(&mut table, &kernel, due - Duration::from_millis(1)), (0, 0, 0));
    assert_eq!(apply(&mut table, &kernel, due), (1, 0, 0));
    assert!(table.is_clean() && table.next_deadline().is_none());
}

#[test]
fn the_protocol_is_the_tables_whatever_the_route_says() {
    let kernel = Fake::new();
    let mut table = synced(&kernel);
    table.insert(key("10.0.0.0/26"), Route::new(Target::Blackhole, 4));
    apply(&mut table, &kernel, Instant::now());
    assert_eq!(kernel.routes()[&key("10.0.0.0/26")].protocol, PROTOCOL_FELIX);
}

#[test]
fn a_route_that_another_protocol_replaced_is_left_to_it_until_it_goes() {
    let (kernel, mut now) = (Fake::new(), Instant::now());
    let mut events = kernel.monitor(Watch::All).expect("a monitor");
    let mut table = synced(&kernel);
    let mut take_events = move |table: &mut RouteTable| {
        while let Ok(batch) = events.try_recv() {
            batch.iter().for_each(|e| table.observe(e));
        }
    };
    table.insert(key("10.0.0.0/26"), blackhole());
    apply(&mut table, &kernel, now);
    take_events(&mut table);

    kernel.set_route(key("10.0.0.0/26"), Route::new(Target::Blackhole, PROTOCOL_BGPD));
    take_events(&mut table);
    now += Duration::from_secs(1);
    assert_eq!(apply(&mut table, &kernel, now), (0, 0, 1));
    assert_eq!(kernel.routes()[&key("10.0.0.0/26")].protocol, PROTOCOL_BGPD);

    kernel.remove_route(&key("10.0.0.0/26"));
    take_events(&mut table);
    assert_eq!(apply(&mut table, &kernel, now), (1, 0, 0), "at once, without waiting");
}

#[test]
fn a_failed_dump_says_so() {
    let kernel = Fake::new();
    kernel.fail_dumps(true);
    assert_eq!(block_on(kernel.dump_routes()).expect_err("fails on demand").to_string(), "cannot dump by netlink");
}
