//! A fleet's blocks as counts: the decisions of the allocator without what it stores.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Fill, Scenario};
use crate::block::address_in;
use crate::pool::fnv1a32;

/// An empty block of another node may be taken when it was claimed this long ago (Calico).
const RECLAIM_AGE_SECONDS: f64 = 60.0;
/// A collection takes a block that was empty at this many of them in a row.
const EMPTY_OBSERVATIONS: u8 = 2;
/// Pools with more blocks than this have no map: nobody would see the blocks on it.
const MOST_BLOCKS_ON_MAP: u128 = 1 << 20;

/// A block. It stays in the list when it is given back, without an owner, for its number to be used again.
#[derive(Clone, Debug)]
struct Block {
    pool: usize,
    index: u128,
    owner: usize,
    claimed_at: f64,
    used: usize,
    empty_seen: u8,
}

/// The blocks of one pool, by address.
#[derive(Debug)]
struct Pool {
    cidr: IpNet,
    /// Blocks that there can be.
    count: u128,
    /// (index in the pool, block), sorted.
    blocks: Vec<(u128, usize)>,
    /// Free addresses in `blocks`, and how many of those are empty.
    free: u64,
    empty: usize,
}

#[derive(Debug)]
struct Node {
    name: String,
    pools: Vec<usize>,
    /// Its blocks in the order in which the store lists affinities: by the text of their first address.
    blocks: Vec<(String, usize)>,
    pods: usize,
}

/// Nodes, blocks and pods at one moment.
#[derive(Debug)]
pub struct Fleet {
    pools: Vec<Pool>,
    nodes: Vec<Node>,
    blocks: Vec<Block>,
    /// Numbers of blocks that were given back.
    unused: Vec<usize>,
    /// The node and the block of every pod.
    pods: Vec<(usize, usize)>,
    block_size: u8,
    /// Addresses of a block.
    size: usize,
    max_pods: usize,
    strict: bool,
    limit: usize,
    /// Seconds since the start.
    now: f64,
    borrowed: usize,
    /// Blocks with an address in use.
    used_blocks: usize,
}

impl Fleet {
    /// A fleet without pods.
    pub fn new(scenario: &Scenario, block_size: u8) -> Self {
        let pools = scenario.pools.iter().map(|cidr| Pool {
            cidr: cidr.trunc(),
            count: block_size.checked_sub(cidr.prefix_len()).map_or(0, |bits| 1 << bits),
            blocks: vec![],
            free: 0,
            empty: 0,
        });
        let nodes = scenario.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            pools: node.pools.clone(),
            blocks: vec![],
            pods: 0,
        });
        let bits = scenario.pools.first().map_or(0, IpNet::max_prefix_len) - block_size;
        Self {
            pools: pools.collect(),
            nodes: nodes.collect(),
            blocks: vec![],
            unused: vec![],
            pods: vec![],
            block_size,
            size: 1 << bits,
            max_pods: scenario.max_pods_per_node,
            strict: scenario.strict_affinity,
            limit: scenario.max_blocks_per_host,
            now: 0.0,
            borrowed: 0,
            used_blocks: 0,
        }
    }

    pub fn advance(&mut self, seconds: f64) {
        self.now += seconds;
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// A node chosen at random among those that take another pod; `None` when none does.
    pub fn node_with_room(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let has_room = |node: &usize| self.nodes[*node].pods < self.max_pods;
        // Most have room as a rule; where few have, they are looked for.
        for _ in 0..16 {
            let node = random.usize(..self.nodes.len().max(1));
            if node < self.nodes.len() && has_room(&node) {
                return Some(node);
            }
        }
        let open: Vec<usize> = (0..self.nodes.len()).filter(has_room).collect();
        random.choice(open)
    }

    /// Starts a pod on a node; whether it got an address.
    pub fn start(&mut self, node: usize) -> bool {
        let block = self.own(node).or_else(|| self.claim(node)).or_else(|| self.borrow(node));
        let Some(block) = block else { return false };
        self.take(block);
        self.borrowed += usize::from(self.blocks[block].owner != node);
        self.nodes[node].pods += 1;
        self.pods.push((node, block));
        true
    }

    /// Ends a pod chosen at random.
    pub fn stop_any(&mut self, random: &mut fastrand::Rng) {
        if self.pods.is_empty() {
            return;
        }
        self.stop(random.usize(..self.pods.len()));
    }

    /// Ends a pod by its place; the last one takes that place.
    pub fn stop(&mut self, pod: usize) {
        let (node, block) = self.pods.swap_remove(pod);
        self.nodes[node].pods -= 1;
        self.borrowed -= usize::from(self.blocks[block].owner != node);
        let entry = &mut self.blocks[block];
        entry.used -= 1;
        let pool = &mut self.pools[entry.pool];
        pool.free += 1;
        if entry.used == 0 {
            pool.empty += 1;
            self.used_blocks -= 1;
        }
    }

    /// One collection: a block that was empty at two of them in a row goes, but no node's last one.
    pub fn collect(&mut self) {
        for pool in 0..self.pools.len() {
            let blocks: Vec<usize> = self.pools[pool].blocks.iter().map(|(_, block)| *block).collect();
            for block in blocks {
                let entry = &mut self.blocks[block];
                entry.empty_seen = if entry.used == 0 { entry.empty_seen + 1 } else { 0 };
                if entry.empty_seen >= EMPTY_OBSERVATIONS && self.nodes[entry.owner].blocks.len() > 1 {
                    self.give_back(block);
                }
            }
        }
    }

    /// Addresses in use outside their node's blocks.
    pub fn borrowed(&self) -> usize {
        self.borrowed
    }

    /// Routes that the switch carries for these pods.
    pub fn routes(&self) -> usize {
        if self.size == 1 { self.used_blocks } else { self.blocks() + self.borrowed }
    }

    pub fn blocks(&self) -> usize {
        self.pools.iter().map(|p| p.blocks.len()).sum()
    }

    pub(super) fn blocks_possible(&self) -> u64 {
        self.pools.iter().map(|p| u64::try_from(p.count).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }

    pub(super) fn blocks_per_node_max(&self) -> usize {
        self.nodes.iter().map(|n| n.blocks.len()).max().unwrap_or(0)
    }

    pub(super) fn stranded(&self) -> u64 {
        self.pools.iter().map(|p| p.free).sum()
    }

    /// The address space of the pools in `cells` parts.
    pub(super) fn map(&self, cells: usize) -> Vec<Fill> {
        let blocks: u128 = self.pools.iter().map(|p| p.count).sum();
        if cells == 0 || blocks == 0 || blocks > MOST_BLOCKS_ON_MAP {
            return vec![];
        }
        let per_cell = blocks as f64 / cells as f64;
        let mut map = vec![Fill::default(); cells];
        let mut before = 0;
        for pool in &self.pools {
            for &(index, block) in &pool.blocks {
                let used = self.blocks[block].used as f64 / self.size as f64;
                spread(&mut map, (before + index) as f64 / per_cell, 1.0 / per_cell, used);
            }
            before += pool.count;
        }
        map
    }

    /// The first of the node's own blocks that has room.
    fn own(&self, node: usize) -> Option<usize> {
        self.nodes[node].blocks.iter().map(|(_, block)| *block).find(|b| self.blocks[*b].used < self.size)
    }

    /// A block that is not yet, else an empty one of another node.
    fn claim(&mut self, node: usize) -> Option<usize> {
        if self.nodes[node].blocks.len() >= self.limit {
            return None;
        }
        let pools = self.nodes[node].pools.clone();
        let seed = self.seed(node);
        for &pool in &pools {
            if let Some(index) = self.pools[pool].first_missing(seed) {
                return Some(self.make(node, pool, index));
            }
        }
        let old = |b: &Block| b.used == 0 && self.now - b.claimed_at >= RECLAIM_AGE_SECONDS;
        let found = pools
            .iter()
            .filter(|p| self.pools[**p].empty > 0)
            .find_map(|pool| self.pools[*pool].from(seed).find(|block| old(&self.blocks[*block])))?;
        let Block { pool, index, .. } = self.blocks[found];
        self.give_back(found);
        Some(self.make(node, pool, index))
    }

    /// Any block that has room.
    fn borrow(&self, node: usize) -> Option<usize> {
        if self.strict {
            return None;
        }
        let seed = self.seed(node);
        let pools = self.nodes[node].pools.iter().map(|pool| &self.pools[*pool]).filter(|p| p.free > 0);
        pools.flat_map(|pool| pool.from(seed)).find(|block| self.blocks[*block].used < self.size)
    }

    fn take(&mut self, block: usize) {
        let entry = &mut self.blocks[block];
        let pool = &mut self.pools[entry.pool];
        pool.free -= 1;
        if entry.used == 0 {
            pool.empty -= 1;
            self.used_blocks += 1;
        }
        entry.used += 1;
    }

    fn make(&mut self, owner: usize, pool: usize, index: u128) -> usize {
        let block = Block { pool, index, owner, claimed_at: self.now, used: 0, empty_seen: 0 };
        let number = match self.unused.pop() {
            Some(number) => {
                self.blocks[number] = block;
                number
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        };
        let text = self.address(pool, index).to_string();
        let pool = &mut self.pools[pool];
        pool.free += self.size as u64;
        pool.empty += 1;
        let place = pool.blocks.partition_point(|(i, _)| *i < index);
        pool.blocks.insert(place, (index, number));
        let own = &mut self.nodes[owner].blocks;
        let place = own.partition_point(|(t, _)| *t < text);
        own.insert(place, (text, number));
        number
    }

    fn give_back(&mut self, block: usize) {
        let Block { pool, index, owner, used, .. } = self.blocks[block];
        let entry = &mut self.pools[pool];
        entry.free -= (self.size - used) as u64;
        entry.empty -= usize::from(used == 0);
        entry.blocks.retain(|(i, _)| *i != index);
        self.nodes[owner].blocks.retain(|(_, b)| *b != block);
        self.unused.push(block);
    }

    /// Where a node's walks start: by its name, or by the time where a block is one address.
    fn seed(&self, node: usize) -> u128 {
        let text = if self.size == 1 { format!("{}", (self.now * 1e9) as u128) } else { self.nodes[node].name.clone() };
        u128::from(fnv1a32(&text))
    }

    fn address(&self, pool: usize, index: u128) -> IpAddr {
        let cidr = self.pools[pool].cidr;
        address_in(cidr, index << (cidr.max_prefix_len() - self.block_size))
    }
}

impl Pool {
    /// The first index from a seeded start, wrapping, at which there is no block.
    fn first_missing(&self, seed: u128) -> Option<u128> {
        if self.blocks.len() as u128 >= self.count {
            return None;
        }
        let start = seed % self.count;
        let missing_from = |from: u128| {
            let place = self.blocks.partition_point(|(i, _)| *i < from);
            let run = self.blocks[place..].iter().zip(from..).take_while(|((i, _), expected)| i == expected).count();
            from + run as u128
        };
        let found = missing_from(start);
        if found < self.count { Some(found) } else { Some(missing_from(0)) }
    }

    /// The blocks from a seeded start, wrapping.
    fn from(&self, seed: u128) -> impl Iterator<Item = usize> + '_ {
        let start = self.blocks.partition_point(|(i, _)| *i < seed.checked_rem(self.count).unwrap_or(0));
        self.blocks[start..].iter().chain(&self.blocks[..start]).map(|(_, block)| *block)
    }
}

/// Adds a block, from `start` for `length` cells, of which `used` is taken.
fn spread(map: &mut [Fill], start: f64, length: f64, used: f64) {
    let end = start + length;
    let mut cell = start as usize;
    while cell < map.len() && (cell as f64) < end {
        let part = (end.min(cell as f64 + 1.0) - start.max(cell as f64)).max(0.0);
        map[cell].claimed += part;
        map[cell].used += part * used;
        cell += 1;
    }
}
