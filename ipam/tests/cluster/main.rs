//! Allocation against a real etcd of three members, which are killed, stopped and parted from each other at random: ownership of every
//! address, IPv4 and IPv6, stays linearisable ([`history`]), and in the end the store holds what the clients were told. Clients read the
//! store for each call, follow it, or share a queue. The run ends when enough was done, however long that takes.
//!
//!     CLUSTER_FAULTS=400 cargo test --release -p ipam --test cluster -- --ignored     # longer

mod clients;
mod history;
mod members;

use std::time::Duration;

use clients::{Counts, Recorder};
use members::{Cluster, MEMBERS};

const CLIENTS: usize = 64;
/// Each kind twice.
const FAULTS: u64 = 10;
/// With so many times the faults that are asked for, there must have been enough calls.
const MOST: u64 = 20;

#[test]
#[ignore = "needs network namespaces"]
fn ownership_is_linearisable_while_members_fail() {
    let faults = number("CLUSTER_FAULTS").unwrap_or(FAULTS);
    let seed = number("SEED").unwrap_or_else(|| std::process::id().into());
    println!("SEED={seed} repeats the order of the faults");
    // The namespace is the thread's; the runtime's threads are started from here and share it.
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        cluster.wait().await;
        let recorder = Recorder::new();
        let setting = clients::prepare(&cluster.open(0).await, &recorder, seed).await;
        let mut stores = Vec::new();
        for member in 0..MEMBERS {
            stores.push(cluster.open(member).await);
        }
        let queues = clients::queues(&setting, stores).await;
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let store = cluster.open(client).await;
            tasks.spawn(clients::run(client, store, setting.clone(), queues.clone()));
        }
        let faults = fail(&mut cluster, faults, seed, &recorder).await;
        cluster.wait().await;
        setting.end();
        // Every client releases what it is not sure of, and then says what it has.
        let mut told = vec![];
        while let Some(result) = tasks.join_next().await {
            told.extend(result.expect("a client panicked"));
        }
        let counts = clients::settle(&cluster.open(0).await, &recorder, told).await;
        println!("{faults:?}; {counts:?}");
    });
}

/// Fails members, and mends them, so many times, and on until the clients have done enough; how often each fault was there: killed,
/// stopped, parted from one, alone, unplugged.
async fn fail(cluster: &mut Cluster, faults: u64, seed: u64, recorder: &Recorder) -> [u32; 5] {
    let mut random = clients::Random::new(seed);
    let mut counts = [0; 5];
    let done = |counts: &[u32; 5]| u64::from(counts.iter().sum::<u32>());
    while done(&counts) < faults || !recorder.counts().is_enough() {
        let far: Counts = recorder.counts();
        assert!(done(&counts) < faults * MOST, "not enough after {counts:?} faults: {far:?}");
        tokio::time::sleep(Duration::from_millis(300 + random.below(700))).await;
        let member = random.below(MEMBERS as u64) as usize;
        let others = [(member + 1) % MEMBERS, (member + 2) % MEMBERS];
        // Each kind comes in turn, so that a short run has them all.
        let kind = (counts.iter().sum::<u32>() % 5) as usize;
        counts[kind] += 1;
        let time = Duration::from_millis(300 + random.below(1700));
        match kind {
            0 => {
                cluster.kill(member);
                tokio::time::sleep(time / 2).await;
                cluster.restart(member);
            }
            1 => {
                cluster.stop(member);
                tokio::time::sleep(time).await;
                cluster.resume(member);
            }
            2 => {
                cluster.part(member, others[0]);
                tokio::time::sleep(time).await;
                cluster.join(member, others[0]);
            }
            3 => {
                others.iter().for_each(|other| cluster.part(member, *other));
                tokio::time::sleep(time).await;
                others.iter().for_each(|other| cluster.join(member, *other));
            }
            _ => {
                cluster.set_link(member, false);
                // Sometimes a second one dies: then there is no majority.
                let both = random.below(3) == 0;
                if both {
                    cluster.kill(others[0]);
                }
                tokio::time::sleep(time).await;
                cluster.set_link(member, true);
                if both {
                    cluster.restart(others[0]);
                }
            }
        }
    }
    counts
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
