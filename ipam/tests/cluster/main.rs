//! Allocation against a real etcd of three members, which are killed, stopped and parted from each other at random: ownership of every
//! address stays linearisable ([`history`]), and in the end the store holds what the clients were told.
//!
//!     CLUSTER_SECONDS=600 cargo test --release -p ipam --test cluster -- --ignored     # longer

mod clients;
mod history;
mod members;

use std::time::{Duration, Instant};

use clients::Recorder;
use members::{Cluster, MEMBERS};

const CLIENTS: usize = 64;
const SECONDS: u64 = 18;

#[test]
#[ignore = "needs network namespaces"]
fn ownership_is_linearisable_while_members_fail() {
    let seconds = number("CLUSTER_SECONDS").unwrap_or(SECONDS);
    let seed = number("SEED").unwrap_or_else(|| std::process::id().into());
    println!("SEED={seed} repeats the order of the faults");
    // The namespace is the thread's; the runtime's threads are started from here and share it.
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        cluster.wait().await;
        let recorder = Recorder::new();
        let setting = clients::prepare(&cluster.open(0).await).await;
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let store = cluster.open(client).await;
            tasks.spawn(clients::run(client, store, setting.clone(), recorder.clone(), end, seed));
        }
        let faults = fail_until(&mut cluster, end, seed).await;
        cluster.wait().await;
        // Every client releases what it is not sure of, and then says what it has.
        let mut told = vec![];
        while let Some(result) = tasks.join_next().await {
            told.extend(result.expect("a client panicked"));
        }
        let counts = clients::settle(&cluster.open(0).await, &recorder, told).await;
        println!("{faults:?}; {counts:?}");
        assert!(faults.iter().all(|n| *n > 0), "{faults:?}");
        assert!(counts.assigned > 100 && counts.released > 100 && counts.unanswered > 0, "{counts:?}");
    });
}

/// Fails members, and mends them, until the end; how often each fault was there: killed, stopped, parted from one, alone, unplugged.
async fn fail_until(cluster: &mut Cluster, end: Instant, seed: u64) -> [u32; 5] {
    let mut random = clients::Random::new(seed);
    let mut counts = [0; 5];
    while Instant::now() < end {
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
