//! IPAM blocks and nodes to routes: blackholes of our own blocks, and the way to addresses that a node borrowed out of a
//! block of another.
//!
//! Calico leaves a borrowed address unreachable where the switch does not reflect routes, because the owner's blackhole of
//! the block swallows it. Here every node learns the borrower from the block itself (docs/design/felix.md).

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::{AllocationBlock, attr};
use api::key::AffinityOwner;
use api::node::NodeSpec;
use ipnet::IpNet;
use serde::Serialize;

/// How a prefix that follows from IPAM is routed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum BlockRoute {
    /// The block is ours: what no workload has taken is dropped.
    Blackhole,
    /// The address lives on another node than the block's owner: send it to that node's address.
    Borrowed { node: String, via: IpAddr },
}

/// What a block says that matters to routes.
struct BlockView {
    owner: Option<AffinityOwner>,
    /// Addresses in use on a node that is not the owner, with that node.
    borrowed: Vec<(IpAddr, String)>,
}

/// Keeps blocks and node addresses.
pub struct L3RouteResolver {
    me: String,
    blocks: BTreeMap<IpNet, BlockView>,
    nodes: BTreeMap<String, NodeAddresses>,
}

#[derive(Clone, Copy)]
struct NodeAddresses {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl L3RouteResolver {
    pub fn new(node: &str) -> Self {
        Self { me: node.into(), blocks: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    pub fn apply_block(&mut self, cidr: IpNet, block: Option<AllocationBlock>) {
        match block.filter(|b| !b.deleted) {
            Some(b) => self.blocks.insert(cidr, BlockView::new(cidr, &b)),
            None => self.blocks.remove(&cidr),
        };
    }

    pub fn apply_node(&mut self, name: String, spec: Option<NodeSpec>) {
        match spec.and_then(|s| s.bgp) {
            Some(bgp) => self.nodes.insert(
                name,
                NodeAddresses { v4: bgp.ipv4_address.map(|a| a.ip()), v6: bgp.ipv6_address.map(|a| a.ip()) },
            ),
            None => self.nodes.remove(&name),
        };
    }

    /// Routes by prefix. A borrowed address of an unknown node, or of one without an address of that family, has none.
    pub fn routes(&self) -> BTreeMap<IpNet, BlockRoute> {
        let mut routes = BTreeMap::new();
        for (cidr, block) in &self.blocks {
            // Never for /32 and /128: the blackhole would be the workload's own route (Calico `felix/calc`).
            let is_mine = matches!(&block.owner, Some(AffinityOwner::Host(n)) if *n == self.me);
            if is_mine && cidr.prefix_len() < cidr.max_prefix_len() {
                routes.insert(*cidr, BlockRoute::Blackhole);
            }
            for (addr, node) in block.borrowed.iter().filter(|(_, node)| *node != self.me) {
                if let Some(via) = self.nodes.get(node).and_then(|n| if addr.is_ipv4() { n.v4 } else { n.v6 }) {
                    routes.insert(IpNet::from(*addr), BlockRoute::Borrowed { node: node.clone(), via });
                }
            }
        }
        routes
    }
}

impl BlockView {
    fn new(cidr: IpNet, block: &AllocationBlock) -> Self {
        let owner = block.affinity.as_deref().and_then(AffinityOwner::from_block_field);
        let borrowed = block
            .allocations
            .iter()
            .enumerate()
            .filter_map(|(ordinal, index)| {
                let attribute = block.attributes.get((*index)?)?;
                // An address that cools down is in use by nobody.
                if attribute.released_at.is_some() {
                    return None;
                }
                let node = attribute.secondary.as_ref()?.get(attr::NODE)?;
                let is_borrowed = !matches!(&owner, Some(AffinityOwner::Host(n)) if n == node);
                is_borrowed.then(|| Some((address(cidr, ordinal)?, node.clone())))?
            })
            .collect();
        Self { owner, borrowed }
    }
}

/// The address of an ordinal; `None` beyond the block.
fn address(cidr: IpNet, ordinal: usize) -> Option<IpAddr> {
    let addr = match cidr.network() {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).checked_add(u32::try_from(ordinal).ok()?)?.into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(ordinal as u128)?.into()),
    };
    cidr.contains(&addr).then_some(addr)
}
