//! The planner's fleet against the allocator: the same pods on the same nodes, and after every one of them the same blocks and the same
//! number of borrowed addresses.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use datastore::DynStore;
use datastore::memory::MemoryStore;
use ipam::environment::Environment;
use ipam::plan::{Fleet, PlannedNode, Scenario};
use ipam::{Ipam, IpamConfig};
use jiff::Timestamp;

use crate::lab::*;

/// A clock that the test moves.
#[derive(Default)]
struct Clock(AtomicI64);

impl Environment for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0.load(Ordering::Relaxed))).unwrap()
    }

    fn random(&self) -> u64 {
        0
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Plays `events` with blocks of one size; how many addresses were borrowed at most.
async fn play(pool: &str, block_size: u8, nodes: usize, config: IpamConfig, events: usize) -> usize {
    let names: Vec<String> = (0..nodes).map(|n| format!("node-{n}")).collect();
    let store: DynStore = Arc::new(MemoryStore::new());
    add_pool(&store, "pool", pool, block_size, |_| {}).await;
    add_nodes(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let clock = Arc::new(Clock::default());
    let ipam = Ipam::with_environment(store.clone(), clock.clone());
    let scenario = Scenario {
        pools: vec![net(pool)],
        nodes: names.iter().map(|name| PlannedNode { name: name.clone(), pools: vec![0] }).collect(),
        pods_per_node: 0,
        max_pods_per_node: usize::MAX,
        churn: 0.0,
        hours: 0.0,
        strict_affinity: config.strict_affinity,
        max_blocks_per_host: match config.max_blocks_per_host {
            0 => ipam::DEFAULT_MAX_BLOCKS_PER_HOST,
            limit => limit,
        } as usize,
        seed: 0,
    };
    ipam.set_config(config).await.unwrap();
    let mut fleet = Fleet::new(&scenario, block_size);
    let mut random = fastrand::Rng::with_seed(7);
    let mut handles: Vec<String> = Vec::new();
    let mut most = 0;
    for event in 0..events {
        // 20 s, which a clock in nanoseconds and one in seconds both say exactly: empty blocks can be taken after three events.
        fleet.advance(20.0);
        clock.0.fetch_add(20_000_000_000, Ordering::Relaxed);
        // The fleet grows first and breathes then.
        if event > events / 3 && random.bool() && !handles.is_empty() {
            let pod = random.usize(..handles.len());
            fleet.stop(pod);
            ipam.release_by_handle(&handles.swap_remove(pod)).await.unwrap();
        } else {
            let node = random.usize(..nodes);
            let handle = format!("pod-{event}");
            let mut wanted = request(&names[node], &handle);
            if pool.contains(':') {
                (wanted.num_v4, wanted.num_v6) = (0, 1);
            }
            let assigned = ipam.auto_assign(&wanted).await.unwrap();
            assert_eq!(fleet.start(node), assigned.message.is_none(), "event {event}: {assigned:?}");
            if assigned.message.is_none() {
                handles.push(handle);
            }
        }
        let blocks = ipam.blocks().await.unwrap();
        let borrowed = blocks
            .iter()
            .flat_map(|b| b.allocations.iter().flatten().map(move |i| (b, &b.attributes[*i])))
            .filter(|(b, a)| b.affinity.as_deref() != Some(&format!("host:{}", a.secondary.as_ref().unwrap()["node"])))
            .count();
        assert_eq!((fleet.blocks(), fleet.borrowed()), (blocks.len(), borrowed), "event {event}");
        most = most.max(borrowed);
    }
    most
}

#[tokio::test]
async fn the_planner_decides_as_the_allocator_does() {
    let limited = |max_blocks_per_host| IpamConfig { max_blocks_per_host, ..IpamConfig::default() };
    // (pool, block size, nodes, configuration, whether addresses are borrowed)
    let rows = [
        ("10.0.0.0/22", 26, 4, IpamConfig::default(), false),
        ("10.0.0.0/25", 28, 12, IpamConfig::default(), true),
        ("10.0.0.0/26", 31, 5, limited(3), true),
        ("10.0.0.0/26", 29, 5, STRICT, false),
        ("10.0.0.0/26", 32, 5, limited(50), false),
        ("fd00::/120", 124, 20, IpamConfig::default(), true),
    ];
    for (pool, block_size, nodes, config, is_borrowed) in rows {
        let most = play(pool, block_size, nodes, config, 240).await;
        assert_eq!(most > 0, is_borrowed, "{pool} /{block_size}: {most} borrowed");
    }
}
