//! Which pools serve a request, in which order their blocks are tried, and what is reserved (Calico
//! `libcalico-go/lib/ipam/ipam.go` `determinePools`, `ipam_block_reader_writer.go`). Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use api::ip_pool::{AllowedUse, AssignmentMode};
use api::selector::SelectorError;
use api::{IpPool, IpReservation, Namespace, Selector};
use ipnet::IpNet;

use crate::block::to_number;

/// The label that Kubernetes puts on every namespace; without Kubernetes nobody does.
const LABEL_NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The CIDRs of the enabled pools that select a node. One whose selector cannot be read selects it: that is an error of who goes by the
/// selector, and what there is stays.
pub fn selecting(pools: &[IpPool], labels: &BTreeMap<String, String>) -> Vec<IpNet> {
    let selects = |p: &&IpPool| !p.body.spec.disabled && selects_node(p, labels).unwrap_or(true);
    pools.iter().filter(selects).map(|p| p.body.spec.cidr).collect()
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
pub struct Reservations {
    /// (family, first, last), sorted, neither overlapping nor meeting.
    ranges: Vec<(Family, u128, u128)>,
    fingerprint: u64,
}

impl Reservations {
    /// All CIDRs of all reservations, neighbours joined; a text that is neither CIDR nor address is passed over (validation refuses
    /// it).
    pub fn new(reservations: &[IpReservation]) -> Self {
        let texts = reservations.iter().flat_map(|r| &r.body.spec.reserved_cidrs);
        let nets = texts.filter_map(|t| t.parse().ok().or_else(|| t.parse::<IpAddr>().ok().map(IpNet::from)));
        let mut sorted: Vec<_> =
            nets.map(|n: IpNet| (Family::of(&n), to_number(n.network()), to_number(n.broadcast()))).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(Family, u128, u128)> = Vec::new();
        for (family, first, last) in sorted {
            match ranges.last_mut() {
                Some((f, _, end)) if *f == family && first <= end.saturating_add(1) => *end = last.max(*end),
                _ => ranges.push((family, first, last)),
            }
        }
        let mut hasher = DefaultHasher::new();
        ranges.hash(&mut hasher);
        Self { ranges, fingerprint: hasher.finish() }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        self.stretch(family, to_number(ip)).is_some()
    }

    /// Whether all of a block is reserved.
    pub fn covers(&self, block: &IpNet) -> bool {
        let last = self.stretch(Family::of(block), to_number(block.network()));
        last.is_some_and(|last| last >= to_number(block.broadcast()))
    }

    /// The last address of the reserved stretch that an address lies in.
    pub(crate) fn stretch(&self, family: Family, number: u128) -> Option<u128> {
        let after = self.ranges.partition_point(|(f, first, _)| (*f, *first) <= (family, number));
        let (f, _, last) = self.ranges[..after].last()?;
        (*f == family && *last >= number).then_some(*last)
    }

    /// Differs where the reservations do.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// The 32-bit FNV-1a hash (<http://www.isthe.com/chongo/tech/comp/fnv/>): spreads nodes over a pool, so that they rarely
/// claim the same block.
pub fn fnv1a32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
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
