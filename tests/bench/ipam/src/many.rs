//! e: the time of an allocation and a release, and the memory of a process that follows the store, with 1,000 and with 100,000 addresses
//! present; and the same of the pure part, blocks in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use datastore::DynStore;
use ipam::block::{Assignee, Block};
use ipam::pool::Reservations;
use ipam::{AssignRequest, Ipam, IpamConfig};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::Row;
use crate::stores::{Kind, Lab};
use crate::times::Times;
use crate::together::{node, prepare, request};

const FEW: usize = 1_000;
/// Addresses that a node has.
const OF_NODE: usize = 1_000;
/// Requests that are filled in together.
const BATCH: usize = 100;
/// Operations timed at each size.
const TIMED: usize = 400;
const BLOCK: usize = 64;

pub async fn measure(kind: Kind, data: &Path, many: usize) -> Result<Vec<Row>, String> {
    let lab = Lab::start(kind, data).await?;
    let store = lab.open().await.map_err(|e| e.to_string())?;
    prepare(store.bare(), 1 + many.div_ceil(OF_NODE)).await?;
    let filling = Ipam::new(store.clone() as DynStore);
    let config = IpamConfig { max_blocks_per_host: 1_000, ..IpamConfig::default() };
    filling.set_config(config).await.map_err(|e| e.to_string())?;
    let mut figures = vec![];
    let mut filled = 0;
    for size in [FEW, many] {
        while filled < size {
            fill(&filling, filled).await?;
            filled += BATCH;
        }
        let before = resident()?;
        let following = Ipam::new(store.clone() as DynStore).following([node(0)]);
        following.synced().await;
        let times = operate(&following).await?;
        let memory = resident()?.saturating_sub(before);
        figures.push((times, memory as f64 / size as f64));
    }
    let (large, small) = (figures.pop().unwrap_or_default(), figures.pop().unwrap_or_default());
    let row = |what, unit, value, other| {
        let against = Some(("at 1,000", other));
        Row { scenario: 'e', store: kind.name(), what, unit, value, against, limit: Some(1.2) }
    };
    Ok(vec![
        row("allocation at 100,000 addresses, median", "us", large.0.0.median(), small.0.0.median()),
        row("release at 100,000 addresses, median", "us", large.0.1.median(), small.0.1.median()),
        row("resident octets for each address that is followed", "", large.1, small.1),
    ])
}

/// A node takes a batch of addresses.
async fn fill(ipam: &Ipam, from: usize) -> Result<(), String> {
    let number = 1 + from / OF_NODE;
    let requests: Vec<AssignRequest> = (from..from + BATCH).map(|n| request(number, format!("fill.{n}"))).collect();
    for outcome in ipam.assign_many(&requests).await {
        if outcome.map_err(|e| e.to_string())?.v4.len() != 1 {
            return Err("an address was refused while there were some".into());
        }
    }
    Ok(())
}

/// Times of allocations and of releases, one after another.
async fn operate(ipam: &Ipam) -> Result<(Times, Times), String> {
    let (mut assigning, mut releasing) = (Times::default(), Times::default());
    for n in 0..TIMED {
        let asked = request(0, format!("e.{n}"));
        let got = assigning.time(ipam.auto_assign(&asked)).await.map_err(|e| e.to_string())?;
        let released = releasing.time(ipam.release_by_handle(&asked.handle)).await.map_err(|e| e.to_string())?;
        if got.v4.len() != 1 || released.len() != 1 {
            return Err(format!("{got:?}, then {released:?}"));
        }
    }
    Ok((assigning, releasing))
}

/// Blocks in memory, filled but for one address each; then one address is taken and given back, block after block.
pub fn pure(many: usize) -> Result<Vec<Row>, String> {
    // The first run is only to warm up.
    pure_at(FEW)?;
    let (small, large) = (pure_at(FEW)?, pure_at(many)?);
    let row = |what, unit, value, other| {
        let against = Some(("at 1,000", other));
        Row { scenario: 'e', store: "none", what, unit, value, against, limit: Some(1.2) }
    };
    Ok(vec![
        row("pure: one address taken and given back", "ns", large.0, small.0),
        row("pure: octets of the stored form for each address", "", large.1, small.1),
    ])
}

fn pure_at(addresses: usize) -> Result<(f64, f64), String> {
    let now = Timestamp::now();
    let attributes = BTreeMap::from([("node".to_string(), "node-0".to_string()), ("pod".into(), "web".into())]);
    let none = Reservations::default();
    let mut blocks = vec![];
    for n in 0..addresses.div_ceil(BLOCK) {
        let first = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(n * BLOCK).unwrap_or(0);
        let cidr = IpNet::new(std::net::Ipv4Addr::from(first).into(), 26).map_err(|e| e.to_string())?;
        let mut block = Block::new(cidr, &node(0), now).map_err(|e| e.to_string())?;
        for taken in 0..BLOCK - 1 {
            let handle = format!("k8s-pod-network.{n}.{taken}");
            let to = Assignee { handle: &handle, attributes: &attributes };
            block.assign(1, to, &none, None).map_err(|e| e.to_string())?;
        }
        blocks.push(block);
    }
    let mut rounds = 0;
    let start = Instant::now();
    while rounds < 2 * 100_000 {
        for block in &mut blocks {
            let to = Assignee { handle: "k8s-pod-network.timed", attributes: &attributes };
            let taken = block.assign(1, to, &none, None).map_err(|e| e.to_string())?;
            block.release(&taken, now, SignedDuration::ZERO);
            rounds += 1;
        }
    }
    let time = start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds);
    let stored: usize = blocks.iter().map(|b| serde_json::to_vec(&b.stored()).map_or(0, |v| v.len())).sum();
    Ok((time, stored as f64 / (blocks.len() * BLOCK) as f64))
}

/// Octets of this process that are in memory.
fn resident() -> Result<usize, String> {
    let text = std::fs::read_to_string("/proc/self/statm").map_err(|e| format!("/proc/self/statm: {e}"))?;
    let pages: Option<usize> = text.split(' ').nth(1).and_then(|n| n.parse().ok());
    pages.map(|n| n * 4096).ok_or_else(|| format!("/proc/self/statm: {text}"))
}
