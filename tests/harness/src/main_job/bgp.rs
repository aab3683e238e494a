//! Step 3: sessions with both leaves, routes on the switches, reachability, and the death of a leaf under traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::pods::{PODS, block_of};
use super::{Job, SETTLE};
use crate::cluster::{LEAF_ADDRESSES, WORKERS};
use crate::evidence::eventually;
use crate::switch::HOLD_TIME;
use crate::traffic::{Transport, ping};

/// Requests of the client while a leaf dies.
const INTERVAL: Duration = Duration::from_millis(20);

/// Everything about BGP.
///
/// # Errors
/// With what the switch or the node has instead.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(3, "BGP: sessions, routes on the switches, reachability, the death of a leaf");
    await_sessions(job)?;
    for leaf in &job.lab.leaves {
        job.report.all(&leaf.show_sessions()?);
    }
    job.report.conclude("6 BGP sessions established", "the switches' and bgpd's own state");
    check_switch_routes(job)?;
    check_reachability(job)?;
    let first = leaf_dies(job, 0)?;
    job.report.conclude(first, "a client in a loop while leaf1 and its links were down and came back");
    Ok(())
}

/// Waits until both sides of all six sessions say Established.
///
/// # Errors
/// With who is missing.
pub fn await_sessions(job: &mut Job) -> Result<()> {
    let lab = &job.lab;
    eventually(SETTLE, "every node is established with both leaves", || {
        let leaves: BTreeMap<String, bool> = LEAF_ADDRESSES.iter().map(|a| (a.to_string(), true)).collect();
        for node in &lab.nodes {
            let peers = node.peers()?;
            if peers != leaves {
                bail!("{} says {peers:?}", node.name);
            }
        }
        let workers: BTreeSet<String> = WORKERS.iter().map(|(_, a)| a.to_string()).collect();
        for leaf in &lab.leaves {
            let up = leaf.established()?;
            if up != workers {
                bail!("{} says established with {up:?}", leaf.netns.name);
            }
        }
        Ok(())
    })
}

/// Both leaves have the block (or /32) of every pod via its worker, and nothing of a pod beside.
///
/// # Errors
/// With what a leaf has instead.
pub fn check_switch_routes(job: &mut Job) -> Result<()> {
    let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
    for placed in &PODS {
        let node = &job.lab.nodes[placed.node];
        let pod = node.pods.get(placed.name).context("the pod is not there")?;
        wanted.insert(block_of(&pod.address, placed.block_size)?, &node.address);
    }
    for leaf in &job.lab.leaves {
        for (prefix, worker) in &wanted {
            eventually(SETTLE, &format!("{} has {prefix} via {worker}", leaf.netns.name), || {
                leaf.check_route(prefix, &[worker])
            })?;
        }
        let table = leaf.learned()?;
        let extra: Vec<&String> = table.keys().filter(|p| !wanted.contains_key(*p)).collect();
        if !extra.is_empty() {
            bail!("{} learned more than the blocks of the pods: {extra:?}", leaf.netns.name);
        }
        job.report.all(&leaf.show_routes()?);
        job.report.checked(&format!(
            "{} has {} prefixes, each via its node, and its kernel forwards so",
            leaf.netns.name,
            wanted.len()
        ));
    }
    for node in &job.lab.nodes {
        eventually(SETTLE, &format!("{} has the default route via both leaves", node.name), || {
            let hops = node.netns.next_hops("0.0.0.0/0")?;
            if hops == LEAF_ADDRESSES { Ok(()) } else { bail!("via {hops:?}") }
        })?;
    }
    job.report.all(&job.lab.nodes[0].netns.route_text("0.0.0.0/0")?);
    Ok(())
}

/// The client and every pod reach every pod.
///
/// # Errors
/// With the ping that was lost.
pub fn check_reachability(job: &mut Job) -> Result<()> {
    let pods: Vec<_> = job
        .lab
        .nodes
        .iter()
        .flat_map(|n| n.pods.values())
        .map(|p| (p.full_name(), p.netns.clone(), p.address.clone()))
        .collect();
    let mut n = 0;
    for (_, _, address) in &pods {
        let shown = ping(&job.lab.client, address, 3)?;
        job.report.shown(&shown, |l| l.contains("packets transmitted"));
        n += 1;
    }
    for (_, from, own) in &pods {
        for (_, _, to) in pods.iter().filter(|(_, _, to)| to != own) {
            ping(from, to, 1)?;
            n += 1;
        }
    }
    job.report.checked("the client reaches every pod, and every pod every other");
    job.report.conclude("client to pods, and pods to pods across nodes", format!("{n} pings, none lost"));
    Ok(())
}

/// A leaf dies with its links under requests and comes back; returns what was lost, in words.
///
/// # Errors
/// When routes or sessions do not follow, or requests go on failing.
pub fn leaf_dies(job: &mut Job, index: usize) -> Result<String> {
    let target = job.lab.nodes[1].pods.values().next().context("worker02 has no pod")?.address.clone();
    let other = LEAF_ADDRESSES[1 - index];
    let name = job.lab.leaves[index].netns.name.clone();
    let load = job.lab.start_load(&job.lab.client, Transport::Tcp, &format!("{target}:8080"), INTERVAL)?;
    let died = Instant::now();
    job.lab.kill_leaf(index)?;
    for node in &job.lab.nodes {
        eventually(
            Duration::from_secs(u64::from(HOLD_TIME) + 6),
            &format!("{} routes by {other} alone", node.name),
            || {
                let hops = node.netns.next_hops("0.0.0.0/0")?;
                if hops == [other] { Ok(()) } else { bail!("via {hops:?}") }
            },
        )?;
    }
    let followed = died.elapsed();
    job.report.all(&job.lab.nodes[0].netns.route_text("0.0.0.0/0")?);
    // Some time with one leaf, so that losses after the change would show.
    std::thread::sleep(Duration::from_millis(500));
    job.lab.revive_leaf(index)?;
    await_sessions(job)?;
    for node in &job.lab.nodes {
        eventually(SETTLE, &format!("{} routes by both leaves again", node.name), || {
            let hops = node.netns.next_hops("0.0.0.0/0")?;
            if hops == LEAF_ADDRESSES { Ok(()) } else { bail!("via {hops:?}") }
        })?;
    }
    let table = job.lab.leaves[1 - index].learned()?;
    let leaf = &job.lab.leaves[index];
    eventually(SETTLE, &format!("{name} has all routes again"), || {
        let own = leaf.learned()?;
        if own == table { Ok(()) } else { bail!("{own:?} instead of {table:?}") }
    })?;
    job.lab.open_uplink(index)?;
    std::thread::sleep(Duration::from_millis(500));
    let result = load.finish_load()?;
    let text = format!(
        "{name} died and came back: routes followed after {} ms; {} of {} requests lost, longest time without an answer {} ms",
        followed.as_millis(),
        result.lost_count(),
        result.sent,
        result.longest_gap_ms
    );
    job.report.checked(&text);
    if result.lost_count() > 0 {
        job.report.checked(&format!("lost by reason: {:?}", result.lost));
    }
    // Retransmission brings a request over a change of routes within 1 s; several in a row would be an outage.
    if result.answered < result.sent / 2 {
        bail!("most requests were lost while {name} was away: {result:?}");
    }
    Ok(text)
}
