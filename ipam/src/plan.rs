//! The planner: what a block size costs. It plays a fleet's life, pods that come and go, over the decisions of the allocator, and counts
//! the routes that the switch carries and the addresses that are borrowed. Pure.
//!
//! Decisions are those of [`crate::assign`], taken on counts instead of stored blocks, so that a fleet of a thousand nodes is played for
//! every block size within seconds. `tests/allocation/planner.rs` plays the same events through [`crate::Ipam`] and compares, event by event.
//!
//! A switch carries one route for each block that is longer than one address, and one for each address that is used outside its own
//! block: a borrowed one, or the only one of its block.

use ipnet::IpNet;
use serde::Serialize;

use crate::pool::Family;

mod fleet;

pub use fleet::Fleet;

/// Empty blocks that the controller sees twice at this distance go back to the pool: half of its grace period of 15 minutes.
const COLLECTION_PERIOD_SECONDS: f64 = 450.0;
const SECONDS_PER_HOUR: f64 = 3600.0;
/// How fast the fleet is filled at first.
const SECONDS_PER_FIRST_POD: f64 = 0.01;
/// Block sizes that a pool may have (Calico).
const SIZES_V4: std::ops::RangeInclusive<u8> = 20..=32;
const SIZES_V6: std::ops::RangeInclusive<u8> = 116..=128;

/// A node, and which pools of the scenario serve it, by index, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    pub name: String,
    pub pools: Vec<usize>,
}

/// What is to be planned. All pools are of one family.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub pools: Vec<IpNet>,
    pub nodes: Vec<PlannedNode>,
    /// Pods of a node on average. A scheduler spreads them unevenly: each goes to a node chosen at random that has room.
    pub pods_per_node: usize,
    /// No node takes more (kubelet `maxPods`).
    pub max_pods_per_node: usize,
    /// The share of all pods that is replaced in an hour; 0.1 is a tenth.
    pub churn: f64,
    /// How long the fleet is played.
    pub hours: f64,
    pub strict_affinity: bool,
    pub max_blocks_per_host: usize,
    pub seed: u64,
}

/// What one block size costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// The prefix length of a block.
    pub block_size: u8,
    /// Addresses in a block.
    pub addresses: u64,
    /// Blocks that the pools hold.
    pub blocks_possible: u64,
    /// Blocks at the end, and the most that one node has.
    pub blocks: usize,
    pub blocks_per_node_max: usize,
    /// Routes at the switch: at the end, and the most there were.
    pub routes: usize,
    pub routes_peak: usize,
    /// Borrowed addresses: on average, and the most there were.
    pub borrowed_mean: f64,
    pub borrowed_peak: usize,
    /// Free addresses in blocks of nodes at the end: another node gets them only by borrowing.
    pub stranded: u64,
    /// Pods that got no address.
    pub failed: usize,
    /// How full the pools' address space is at the end, in equal parts from the first address to the last: taken and in blocks, each from 0 to 1.
    #[serde(skip)]
    pub map: Vec<Fill>,
}

/// One part of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fill {
    pub used: f64,
    pub claimed: f64,
}

impl Cost {
    /// What is to be as small as possible. Pods without an address count most; then each route, and each borrowed address once more,
    /// since it is an exception in every node's table too.
    fn rank(&self) -> (usize, usize) {
        (self.failed, self.routes_peak + self.borrowed_peak)
    }
}

/// The block sizes that these pools can have.
pub fn sizes(pools: &[IpNet]) -> Vec<u8> {
    let Some(longest) = pools.iter().map(IpNet::prefix_len).max() else { return vec![] };
    let allowed = match Family::of(&pools[0]) {
        Family::V4 => SIZES_V4,
        Family::V6 => SIZES_V6,
    };
    allowed.filter(|size| *size >= longest).collect()
}

/// Plays the scenario with blocks of one size.
pub fn cost(scenario: &Scenario, block_size: u8, cells: usize) -> Cost {
    let mut fleet = Fleet::new(scenario, block_size);
    let mut random = fastrand::Rng::with_seed(scenario.seed);
    let total = scenario.nodes.len() * scenario.pods_per_node.min(scenario.max_pods_per_node);
    let mut tally = Tally::default();
    for _ in 0..total {
        let Some(node) = fleet.node_with_room(&mut random) else { break };
        fleet.advance(SECONDS_PER_FIRST_POD);
        tally.failed += usize::from(!fleet.start(node));
        tally.see(&fleet);
    }
    let per_second = total as f64 * scenario.churn / SECONDS_PER_HOUR;
    let replaced = (per_second * scenario.hours * SECONDS_PER_HOUR) as usize;
    let mut collected = fleet.now();
    for _ in 0..replaced {
        fleet.advance(1.0 / per_second);
        while fleet.now() - collected >= COLLECTION_PERIOD_SECONDS {
            fleet.collect();
            collected += COLLECTION_PERIOD_SECONDS;
        }
        fleet.stop_any(&mut random);
        let Some(node) = fleet.node_with_room(&mut random) else { break };
        tally.failed += usize::from(!fleet.start(node));
        tally.see(&fleet);
    }
    // What is empty by now is seen twice more before anybody counts.
    fleet.collect();
    fleet.collect();
    let bits = u32::from(scenario.pools.first().map_or(0, IpNet::max_prefix_len) - block_size);
    Cost {
        block_size,
        addresses: 1 << bits,
        blocks_possible: fleet.blocks_possible(),
        blocks: fleet.blocks(),
        blocks_per_node_max: fleet.blocks_per_node_max(),
        routes: fleet.routes(),
        routes_peak: tally.routes_peak.max(fleet.routes()),
        borrowed_mean: tally.borrowed as f64 / tally.events.max(1) as f64,
        borrowed_peak: tally.borrowed_peak,
        stranded: fleet.stranded(),
        failed: tally.failed,
        map: fleet.map(cells),
    }
}

/// Which of the costs is the least. Of those that are within a hundredth of it, the one with the smallest blocks: it leaves most
/// blocks to nodes that come later. `None` only for no costs.
pub fn best(costs: &[Cost]) -> Option<usize> {
    let (failed, least) = costs.iter().map(Cost::rank).min()?;
    let near = |cost: &Cost| cost.failed == failed && cost.rank().1 <= least + least / 100;
    (0..costs.len()).filter(|&i| near(&costs[i])).max_by_key(|&i| costs[i].block_size)
}

/// What is counted while a scenario is played.
#[derive(Default)]
struct Tally {
    events: usize,
    failed: usize,
    borrowed: usize,
    borrowed_peak: usize,
    routes_peak: usize,
}

impl Tally {
    fn see(&mut self, fleet: &Fleet) {
        self.events += 1;
        self.borrowed += fleet.borrowed();
        self.borrowed_peak = self.borrowed_peak.max(fleet.borrowed());
        self.routes_peak = self.routes_peak.max(fleet.routes());
    }
}

#[cfg(test)]
mod tests;
