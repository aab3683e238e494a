//! What the collector keeps of blocks and handles, and what an address's attributes say of whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::ipam::{AllocationAttribute, attr};
use api::key::AffinityOwner;
use ipnet::IpNet;

use super::{Name, TYPE_LOAD_BALANCER};
use crate::block::{Block, address_in};

/// Shortest container id after `<network>.` of a handle; docker shortens its own to this. What is shorter may be a name of somebody's.
const MIN_CONTAINER_ID: usize = 12;
const TUNNEL_TYPES: [&str; 5] = [
    "ipipTunnelAddress",
    "vxlanTunnelAddress",
    "vxlanV6TunnelAddress",
    "wireguardTunnelAddress",
    "wireguardV6TunnelAddress",
];
const VMI_NAME: &str = "vmi-name";

/// To whom an address was given, as far as its attributes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Workload { pod: Option<Name>, node: Option<String> },
    Machine(Name),
    Tunnel(String),
    Service(Name),
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub sequence: Option<u64>,
    pub holder: Arc<Holder>,
}

/// The addresses of a handle, in order. Nearly all handles have one: a tree would take ten times the memory.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<(IpAddr, Slot)>);

impl Slots {
    pub fn get(&self, ip: &IpAddr) -> Option<&Slot> {
        self.0.binary_search_by_key(ip, |(ip, _)| *ip).ok().map(|at| &self.0[at].1)
    }

    pub fn insert(&mut self, ip: IpAddr, slot: Slot) -> Option<Slot> {
        match self.0.binary_search_by_key(&ip, |(ip, _)| *ip) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, slot)),
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (ip, slot));
                None
            }
        }
    }

    pub fn remove(&mut self, ip: &IpAddr) -> Option<Slot> {
        let at = self.0.binary_search_by_key(ip, |(ip, _)| *ip).ok()?;
        Some(self.0.remove(at).1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&IpAddr, &Slot)> {
        self.0.iter().map(|(ip, slot)| (ip, slot))
    }
}

#[derive(Clone, Debug, Default)]
pub struct HandleView {
    pub slots: Slots,
    pub record: Option<Record>,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub revision: u64,
    /// The blocks that it names; None where it cannot be read.
    pub blocks: Option<Vec<IpNet>>,
}

/// A block, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct BlockView {
    pub owner: Option<AffinityOwner>,
    pub sequence: u64,
    /// Nobody has an address of it; some may cool down, of whose end nothing tells.
    pub is_empty: bool,
    /// Handle of each address that has one.
    pub handles: BTreeMap<IpAddr, Arc<str>>,
    /// Addresses that nobody can be given though no handle has them: they cool down, or were taken without one.
    pub withheld: BTreeSet<IpAddr>,
    pub usage: BTreeMap<String, Usage>,
}

/// Addresses of one block that one node (or, without a name, somebody else) uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub in_use: usize,
    pub borrowed: usize,
}

pub fn withheld(block: &Block) -> BTreeSet<IpAddr> {
    let stored = block.stored();
    let is_withheld =
        |index: &usize| stored.attributes.get(*index).is_some_and(|a| a.released_at.is_some() || a.handle_id.is_none());
    let taken = stored.allocations.iter().enumerate().filter(|(_, index)| index.as_ref().is_some_and(is_withheld));
    taken.map(|(ordinal, _)| address_in(stored.cidr, ordinal as u128)).collect()
}

/// To whom an address was given.
pub fn holder(attribute: &AllocationAttribute) -> Holder {
    let empty = BTreeMap::new();
    let attributes = attribute.secondary.as_ref().unwrap_or(&empty);
    let text = |key: &str| attributes.get(key).cloned();
    let named = |key: &str| Some((text(attr::NAMESPACE)?, text(key)?));
    let is_of_cni = |h: &str| {
        let (network, id) = h.rsplit_once('.').unwrap_or_default();
        let is_id = id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        !network.is_empty() && id.len() >= MIN_CONTAINER_ID && is_id
    };
    let found = match attributes.get(attr::TYPE).map(String::as_str).filter(|t| !t.is_empty()) {
        Some(TYPE_LOAD_BALANCER) => named(attr::SERVICE).map(Holder::Service),
        Some(kind) if TUNNEL_TYPES.contains(&kind) => text(attr::NODE).map(Holder::Tunnel),
        Some(_) => None,
        None if attributes.contains_key(VMI_NAME) => named(VMI_NAME).map(Holder::Machine),
        None => match (named(attr::POD), text(attr::NODE)) {
            (Some(pod), node) => Some(Holder::Workload { pod: Some(pod), node }),
            (None, Some(node)) if attribute.handle_id.as_deref().is_some_and(is_of_cni) => {
                Some(Holder::Workload { pod: None, node: Some(node) })
            }
            _ => None,
        },
    };
    found.unwrap_or(Holder::Unknown)
}

/// The node that the name of a workload endpoint begins with, `<node>-<orchestrator>-...`; dashes inside each part are doubled. Empty for a
/// name without parts.
pub fn node_of_endpoint(name: &str) -> String {
    let mut node = String::new();
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '-' && rest.next_if_eq(&'-').is_none() {
            return node;
        }
        node.push(c);
    }
    String::new()
}
