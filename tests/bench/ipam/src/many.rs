//! e: the time of an allocation and a release on a store of 1,000 and on one of 100,000 addresses, in turns; what the controller's
//! collector holds for each address; and the pure part, blocks in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use datastore::DynStore;
use ipam::block::{Assignee, Block};
use ipam::gc::{Collector, Settings};
use ipam::pool::Reservations;
use ipam::{AssignRequest, Ipam};
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
/// Operations timed in a turn, and turns.
const TIMED: usize = 20;
const ROUNDS: usize = 30;
const BLOCK: usize = 64;

/// Two stores of a kind, one with few addresses and one with many, are operated in turns.
pub async fn measure(kind: Kind, data: &Path, many: usize) -> Result<Vec<Row>, String> {
    let (mut few, mut many) = (Filled::start(kind, data, FEW).await?, Filled::start(kind, data, many).await?);
    for _ in 0..ROUNDS {
        few.operate().await?;
        many.operate().await?;
    }
    let row = |what, value, other| {
        let against = Some(("at 1,000", other));
        Row { scenario: 'e', store: kind.name(), what, unit: "us", value, against, limit: Some(1.2) }
    };
    Ok(vec![
        row("allocation at 100,000 addresses, median", many.assigning.median(), few.assigning.median()),
        row("release at 100,000 addresses, median", many.releasing.median(), few.releasing.median()),
    ])
}

/// A store with addresses in it, and a node that follows it.
struct Filled {
    ipam: Ipam,
    assigning: Times,
    releasing: Times,
    _lab: Lab,
}

impl Filled {
    async fn start(kind: Kind, data: &Path, size: usize) -> Result<Self, String> {
        let lab = Lab::start(kind, data).await?;
        let store: DynStore = lab.open().await.map_err(|e| e.to_string())?;
        let nodes = size.div_ceil(OF_NODE);
        prepare(&store, 1 + nodes).await?;
        let filling = Ipam::new(store.clone()).heeding_lock().following((1..=nodes).map(node));
        filling.synced().await;
        for filled in (0..size).step_by(BATCH) {
            fill(&filling, filled).await?;
        }
        let ipam = Ipam::new(store).heeding_lock().following([node(0)]);
        ipam.synced().await;
        Ok(Self { ipam, assigning: Times::default(), releasing: Times::default(), _lab: lab })
    }

    /// Allocates and releases, one after another.
    async fn operate(&mut self) -> Result<(), String> {
        for n in 0..TIMED {
            let asked = request(0, format!("e.{n}"));
            let got = self.assigning.time(self.ipam.auto_assign(&asked)).await.map_err(|e| e.to_string())?;
            let release = self.ipam.release_by_handle(&asked.handle);
            let released = self.releasing.time(release).await.map_err(|e| e.to_string())?;
            if got.v4.len() != 1 || released.len() != 1 {
                return Err(format!("{got:?}, then {released:?}"));
            }
        }
        Ok(())
    }
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

/// What the collector of the controller holds, in processes of their own: as many addresses, once as collections of 1,000 each.
pub fn memory(many: usize) -> Result<Vec<Row>, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let held = |each: usize| -> Result<f64, String> {
        let output =
            Command::new(&program).args(["--hold", &each.to_string(), "--addresses", &many.to_string()]).output();
        let text = output.map_err(|e| e.to_string())?.stdout;
        String::from_utf8_lossy(&text).trim().parse().map_err(|e| format!("--hold {each}: {e}"))
    };
    let value = held(many)?;
    let against = Some(("at 1,000", held(FEW)?));
    let what = "collector: resident octets for each address at 100,000";
    Ok(vec![Row { scenario: 'e', store: "none", what, unit: "", value, against, limit: Some(1.2) }])
}

/// Octets in memory for each address that collectors of `each` addresses hold, `all` in sum.
///
/// # Errors
/// When the blocks cannot be made.
pub fn hold(each: usize, all: usize) -> Result<f64, String> {
    let before = resident()?;
    let mut collectors = vec![];
    for of_one in 0..all.div_ceil(each) {
        let mut collector = Collector::new(Settings::default());
        for n in 0..each.div_ceil(BLOCK) {
            let block = full_block(of_one * each.div_ceil(BLOCK) + n, BLOCK)?;
            for (ip, attribute) in block.allocated() {
                let handle = attribute.handle_id.as_deref().unwrap_or_default();
                collector.put_record(handle, Some(vec![block.cidr()]), 1);
                collector.put_workload(&("default".into(), handle.to_string()), vec![ip]);
            }
            collector.put_block(&block);
        }
        collectors.push(collector);
    }
    let after = resident()?;
    Ok(after.saturating_sub(before) as f64 / all as f64)
}

/// Blocks in memory, filled but for one address each; then one address is taken and given back, block after block: what the caches
/// of the CPU make of it.
pub fn pure(many: usize) -> Result<Vec<Row>, String> {
    // The first run is only to warm up.
    pure_at(FEW)?;
    let (small, large) = (pure_at(FEW)?, pure_at(many)?);
    let row = |what, unit, value, other, limit| {
        let against = Some(("at 1,000", other));
        Row { scenario: 'e', store: "none", what, unit, value, against, limit }
    };
    Ok(vec![
        row("pure: one address taken and given back", "ns", large.0, small.0, None),
        row("pure: octets of the stored form for each address", "", large.1, small.1, Some(1.2)),
    ])
}

fn pure_at(addresses: usize) -> Result<(f64, f64), String> {
    let now = Timestamp::now();
    let attributes = attributes();
    let none = Reservations::default();
    let mut blocks = (0..addresses.div_ceil(BLOCK)).map(|n| full_block(n, BLOCK - 1)).collect::<Result<Vec<_>, _>>()?;
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

fn attributes() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("node".into(), "node-0".into()),
        ("namespace".into(), "default".into()),
        ("pod".into(), "web".into()),
    ])
}

/// The block of that number, with so many addresses taken, each by a handle of its own.
fn full_block(number: usize, taken: usize) -> Result<Block, String> {
    let first = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(number * BLOCK).unwrap_or(0);
    let cidr = IpNet::new(std::net::Ipv4Addr::from(first).into(), 26).map_err(|e| e.to_string())?;
    let mut block = Block::new(cidr, &node(0), Timestamp::now()).map_err(|e| e.to_string())?;
    let (attributes, none) = (attributes(), Reservations::default());
    for n in 0..taken {
        let handle = format!("k8s-pod-network.{number}.{n}");
        let to = Assignee { handle: &handle, attributes: &attributes };
        block.assign(1, to, &none, None).map_err(|e| e.to_string())?;
    }
    Ok(block)
}

/// Octets of this process that are in memory.
fn resident() -> Result<usize, String> {
    let text = std::fs::read_to_string("/proc/self/statm").map_err(|e| format!("/proc/self/statm: {e}"))?;
    let pages: Option<usize> = text.split(' ').nth(1).and_then(|n| n.parse().ok());
    pages.map(|n| n * 4096).ok_or_else(|| format!("/proc/self/statm: {text}"))
}
