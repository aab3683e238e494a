//! Which pools serve a request, in which order their blocks are tried, and what is reserved (Calico
//! `libcalico-go/lib/ipam/ipam.go` `determinePools`, `ipam_block_reader_writer.go`). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ip_pool::{AllowedUse, AssignmentMode};
use api::selector::SelectorError;
use api::{IpPool, IpReservation, Namespace, Selector};
use ipnet::IpNet;

use crate::block::{address_in, to_number};

/// The label that Kubernetes puts on every namespace; without Kubernetes nobody does.
const LABEL_NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// 4 or 6, as messages say it.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// Why no pool serves a request. The texts are Calico's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("the given pool ({0}) does not exist, or is not enabled")]
    NotEnabled(IpNet),
    #[error("no configured Calico pools for node {0}")]
    NoneForNode(String),
    #[error("cannot find a qualified ippool, no pools match the required use ({0:?})")]
    NoneForUse(AllowedUse),
    #[error("IPPool {pool}: {source}")]
    Selector { pool: String, source: SelectorError },
}

/// For whom addresses are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub family: Family,
    /// Pools asked for by CIDR: used whatever their selectors say.
    pub requested: &'a [IpNet],
    pub intended_use: AllowedUse,
    /// The node's name, for messages.
    pub node: &'a str,
    pub node_labels: &'a BTreeMap<String, String>,
    pub namespace: Option<&'a Namespace>,
}

/// The pools that serve a request, by name.
///
/// # Errors
/// [`PoolError`], one variant for each of Calico's texts.
pub fn select<'a>(pools: &'a [IpPool], wanted: &Wanted<'_>) -> Result<Vec<&'a IpPool>, PoolError> {
    let mut enabled: Vec<&IpPool> =
        pools.iter().filter(|p| !p.body.spec.disabled && Family::of(&p.body.spec.cidr) == wanted.family).collect();
    enabled.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut chosen = if wanted.requested.is_empty() {
        let mut matching = Vec::new();
        for pool in enabled {
            if is_automatic(pool) && selects_node(pool, wanted.node_labels)? && selects_namespace(pool, wanted)? {
                matching.push(pool);
            }
        }
        matching
    } else {
        requested(&enabled, wanted.requested)?
    };
    if chosen.is_empty() {
        return Err(PoolError::NoneForNode(wanted.node.into()));
    }
    chosen.retain(|p| p.body.spec.allows(wanted.intended_use));
    if chosen.is_empty() { Err(PoolError::NoneForUse(wanted.intended_use)) } else { Ok(chosen) }
}

/// Whether a pool's `nodeSelector` selects a node with these labels.
///
/// # Errors
/// [`PoolError::Selector`].
pub fn selects_node(pool: &IpPool, labels: &BTreeMap<String, String>) -> Result<bool, PoolError> {
    Ok(selector(pool, pool.body.spec.node_selector.as_deref())?.matches(labels))
}

fn requested<'a>(enabled: &[&'a IpPool], cidrs: &[IpNet]) -> Result<Vec<&'a IpPool>, PoolError> {
    cidrs
        .iter()
        .map(|cidr| {
            let found = enabled.iter().find(|p| p.body.spec.cidr.trunc() == cidr.trunc());
            found.copied().ok_or(PoolError::NotEnabled(*cidr))
        })
        .collect()
}

fn is_automatic(pool: &IpPool) -> bool {
    pool.body.spec.assignment_mode.unwrap_or_default() == AssignmentMode::Automatic
}

fn selects_namespace(pool: &IpPool, wanted: &Wanted<'_>) -> Result<bool, PoolError> {
    let text = pool.body.spec.namespace_selector.as_deref().filter(|s| !s.trim().is_empty());
    let selector = selector(pool, text)?;
    let Some(namespace) = wanted.namespace else { return Ok(text.is_none()) };
    let mut labels = namespace.metadata.labels.clone();
    labels.entry(LABEL_NAMESPACE_NAME.into()).or_insert_with(|| namespace.metadata.name.clone());
    Ok(selector.matches(&labels))
}

fn selector(pool: &IpPool, text: Option<&str>) -> Result<Selector, PoolError> {
    Selector::parse(text.unwrap_or_default())
        .map_err(|source| PoolError::Selector { pool: pool.metadata.name.clone(), source })
}

/// Addresses that are never assigned unasked.
#[derive(Clone, Debug, Default)]
pub struct Reservations(Vec<IpNet>);

impl Reservations {
    /// All CIDRs of all reservations, neighbours joined; a text that is neither CIDR nor address is passed over (validation refuses
    /// it).
    pub fn new(reservations: &[IpReservation]) -> Self {
        let texts = reservations.iter().flat_map(|r| &r.body.spec.reserved_cidrs);
        let nets = texts.filter_map(|t| t.parse().ok().or_else(|| t.parse::<IpAddr>().ok().map(IpNet::from)));
        Self(IpNet::aggregate(&nets.collect()))
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// The reserved CIDR in which all of a block lies.
    pub fn covering(&self, block: &IpNet) -> Option<&IpNet> {
        self.0.iter().find(|net| net.contains(block))
    }
}

/// The 32-bit FNV-1a hash (<http://www.isthe.com/chongo/tech/comp/fnv/>): spreads nodes over a pool, so that they rarely
/// claim the same block.
pub fn fnv1a32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Every block that a pool can hold, from a seeded start, wrapping.
#[derive(Clone, Debug)]
pub struct BlockWalk {
    pool: IpNet,
    block_len: u8,
    count: u128,
    at: u128,
    left: u128,
}

impl BlockWalk {
    /// The walk of a pool in blocks of `block_len`; empty when a block is larger than the pool.
    pub fn new(pool: IpNet, block_len: u8, seed: u64) -> Self {
        let count = match block_len.checked_sub(pool.prefix_len()) {
            Some(bits) if block_len <= pool.max_prefix_len() => 1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX),
            _ => 0,
        };
        Self { pool: pool.trunc(), block_len, count, at: u128::from(seed).checked_rem(count).unwrap_or(0), left: count }
    }
}

impl BlockWalk {
    /// The next block that is not reserved as a whole and that `suits`. A reserved stretch is passed in one step: an IPv6 pool may
    /// have 2^64 blocks in it.
    pub fn find_outside(&mut self, reserved: &Reservations, suits: impl Fn(&IpNet) -> bool) -> Option<IpNet> {
        while let Some(block) = self.next() {
            match reserved.covering(&block) {
                Some(stretch) => self.skip_rest_of(&block, stretch),
                None if suits(&block) => return Some(block),
                None => {}
            }
        }
        None
    }

    /// Passes the blocks after `block`, the last one given, that lie in `stretch`.
    fn skip_rest_of(&mut self, block: &IpNet, stretch: &IpNet) {
        let last = to_number(stretch.broadcast()).min(to_number(self.pool.broadcast()));
        let rest = (last - to_number(block.network())) >> (self.pool.max_prefix_len() - self.block_len);
        let rest = rest.min(self.left);
        self.left -= rest;
        self.at = self.at.saturating_add(rest) % self.count;
    }
}

impl Iterator for BlockWalk {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        self.left = self.left.checked_sub(1)?;
        let index = self.at;
        self.at = (self.at + 1) % self.count;
        let offset = index << (self.pool.max_prefix_len() - self.block_len);
        IpNet::new(address_in(self.pool, offset), self.block_len).ok()
    }
}

/// The block of a pool that would hold an address.
pub fn block_of(pool: &IpPool, ip: IpAddr) -> Option<IpNet> {
    let spec = &pool.body.spec;
    if !spec.cidr.contains(&ip) {
        return None;
    }
    IpNet::new(ip, spec.block_prefix_len()).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests;
