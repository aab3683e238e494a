//! The other ends of the sessions that resources give the nodes: what each switch must be configured with (pure).
//!
//! A peer that is no node of ours is a switch. What nodes may announce, by the export rules of [`crate::origins`], becomes its
//! inbound filter: a second safety net, on the device of another team.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::ip_pool::{AllowedUse, DEFAULT_BLOCK_SIZE_V4, DEFAULT_BLOCK_SIZE_V6};
use api::{IpPoolSpec, Node};
use bgp_proto::af::Family;
use ipnet::IpNet;

use crate::config::{Bfd, PeerConfig, PeerId, Role};
use crate::origins::service_ranges;
use crate::peers::{NotReady, Plan, RouterId, configuration, plan};
use crate::resources::Resources;

/// The least limit on prefixes that is worth setting.
const LEAST_LIMIT: u32 = 100;
/// The highest one: beyond it a limit protects no switch.
const HIGHEST_LIMIT: u32 = 50_000;
/// The least number of equal paths to allow.
const LEAST_PATHS: u32 = 8;
/// The highest: what switches have in common.
const MOST_PATHS: u32 = 64;

/// A switch, as our nodes see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Switch {
    /// Its ends of the sessions.
    pub addresses: Vec<IpAddr>,
    pub asn: u32,
    /// Nodes that want the same.
    pub groups: Vec<Group>,
    /// What nodes may announce.
    pub permits: Vec<Permit>,
    /// More than all that nodes can announce by those, of one family, in one session.
    pub max_prefixes: u32,
    /// Equal paths to one prefix to use together.
    pub paths: u32,
}

/// Sessions that differ in nothing but the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub family: Family,
    /// The switch's end.
    pub address: IpAddr,
    /// The nodes' AS.
    pub node_as: u32,
    pub session: Session,
    pub neighbors: Vec<Neighbor>,
}

/// A node's end of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbor {
    pub address: IpAddr,
    pub node: String,
    /// The port that the node listens on.
    pub port: u16,
}

/// What a session is set to, on the switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Seconds.
    pub hold_time: u16,
    pub keepalive: u16,
    pub connect_retry: Duration,
    pub needs_password: bool,
    /// The switch has to help a node that restarts.
    pub graceful_restart: bool,
    /// RFC 5082: hops that the node may be away.
    pub ttl_security: Option<u8>,
    /// The switch is not on the node's subnet.
    pub is_multihop: bool,
    pub bfd: Option<Bfd>,
    /// The switch's role (RFC 9234), opposite to the node's.
    pub role: Option<Role>,
    /// The node never connects: the switch has to.
    pub node_is_passive: bool,
}

/// Prefixes that nodes may announce: those inside `net` of these lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit {
    pub net: IpNet,
    pub min_len: u8,
    pub max_len: u8,
}

impl Switch {
    /// The permits of a family.
    pub fn permits(&self, family: Family) -> impl Iterator<Item = &Permit> {
        self.permits.iter().filter(move |p| family_of(&p.net) == family)
    }

    /// The families that have a session.
    pub fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|f| self.groups.iter().any(|g| g.family == *f)).collect()
    }
}

impl Group {
    pub fn is_ibgp(&self, switch: &Switch) -> bool {
        self.node_as == switch.asn
    }
}

/// The switches that nodes have sessions with, by address; `nodes`: all of them if empty. What cannot be planned is in the
/// notes.
///
/// # Errors
/// A named node cannot be planned.
pub fn switches(
    resources: &Resources,
    nodes: &[String],
    router_id: RouterId,
) -> Result<(Vec<Switch>, Vec<String>), NotReady> {
    let mut found: BTreeMap<IpAddr, Switch> = BTreeMap::new();
    let mut notes = Vec::new();
    let names: BTreeSet<&String> =
        if nodes.is_empty() { resources.nodes.keys().collect() } else { nodes.iter().collect() };
    for name in names {
        let planned = match plan(name, resources, router_id) {
            Ok(planned) => planned,
            Err(e) if nodes.is_empty() => {
                notes.push(e.to_string());
                continue;
            }
            Err(e) => return Err(e),
        };
        add_node(name, resources, &planned, &mut found, &mut notes);
    }
    let permits = permits(resources);
    let mut switches: Vec<Switch> = found.into_values().collect();
    for switch in &mut switches {
        switch.permits = permits.clone();
        switch.max_prefixes = limit(&permits);
        let most = switch.groups.iter().map(|g| g.neighbors.len() as u32).sum::<u32>();
        switch.paths = most.next_power_of_two().clamp(LEAST_PATHS, MOST_PATHS);
    }
    Ok((switches, notes))
}

/// Several switches' addresses that are one switch: their sessions in one configuration.
///
/// # Errors
/// A sentence, where they cannot be one.
pub fn merge(switches: Vec<Switch>) -> Result<Switch, String> {
    let mut all = switches.into_iter();
    let Some(mut first) = all.next() else {
        return Err("no session leads to such a switch".into());
    };
    for next in all {
        if next.asn != first.asn {
            let (a, b) = (first.addresses[0], next.addresses[0]);
            return Err(format!("{a} is in AS {} and {b} in AS {}: they are two switches", first.asn, next.asn));
        }
        let family = Family::of(next.addresses[0]);
        if let Some(same) = first.addresses.iter().find(|a| Family::of(**a) == family) {
            return Err(format!("{same} and {} are of one family: they are two switches", next.addresses[0]));
        }
        first.addresses.extend(next.addresses);
        first.groups.extend(next.groups);
    }
    Ok(first)
}

fn add_node(
    name: &str,
    resources: &Resources,
    planned: &Plan,
    found: &mut BTreeMap<IpAddr, Switch>,
    notes: &mut Vec<String>,
) {
    let Some(node) = resources.nodes.get(name) else { return };
    let port = planned.config.listen.first().map_or(api::bgp_configuration::DEFAULT_LISTEN_PORT, |l| l.port());
    for (id, peer) in &planned.config.peers {
        if resources.nodes.values().any(|n| address(n, id.address) == Some(id.address)) {
            continue;
        }
        if let Some(why) = &peer.down_reason {
            notes.push(format!("{name} holds the session with {} down: {why}", id.address));
        }
        let Some(own) = peer.source.or_else(|| address(node, id.address)) else {
            notes.push(format!("{name} has no address for the session with {}", id.address));
            continue;
        };
        let switch = found.entry(id.address).or_insert_with(|| Switch {
            addresses: vec![id.address],
            asn: peer.remote_as,
            groups: Vec::new(),
            permits: Vec::new(),
            max_prefixes: 0,
            paths: 0,
        });
        if switch.asn != peer.remote_as {
            notes.push(format!(
                "{name} expects AS {} of {}, and another node AS {}: its session is left out",
                peer.remote_as, id.address, switch.asn
            ));
            continue;
        }
        let session = session(node, id, peer);
        let neighbor = Neighbor { address: own, node: name.to_string(), port };
        let same = switch.groups.iter_mut().find(|g| g.node_as == peer.local_as && g.session == session);
        match same {
            Some(group) => group.neighbors.push(neighbor),
            None => switch.groups.push(Group {
                family: Family::of(id.address),
                address: id.address,
                node_as: peer.local_as,
                session,
                neighbors: vec![neighbor],
            }),
        }
    }
}

fn session(node: &Node, id: &PeerId, peer: &PeerConfig) -> Session {
    let subnet = node.body.spec.bgp.as_ref().and_then(|b| match id.address {
        IpAddr::V4(_) => b.ipv4_address,
        IpAddr::V6(_) => b.ipv6_address,
    });
    Session {
        hold_time: peer.hold_time,
        keepalive: peer.keepalive.unwrap_or(u16::MAX).min(peer.hold_time / 3),
        connect_retry: peer.connect_retry,
        needs_password: peer.password.is_some() || peer.down_reason.as_ref().is_some_and(|r| r.contains("assword")),
        graceful_restart: peer.graceful_restart.is_some(),
        ttl_security: peer.ttl_security,
        is_multihop: !subnet.is_some_and(|s| s.contains(id.address)),
        bfd: peer.bfd,
        role: peer.role.map(Role::counterpart),
        node_is_passive: peer.passive,
    }
}

/// A node's address of the family of `like`.
fn address(node: &Node, like: IpAddr) -> Option<IpAddr> {
    let bgp = node.body.spec.bgp.as_ref()?;
    let address = if like.is_ipv4() { bgp.ipv4_address } else { bgp.ipv6_address };
    address.map(|a| a.ip())
}

/// Blocks of the pools and the addresses in them; what service ranges hold.
fn permits(resources: &Resources) -> Vec<Permit> {
    let pools = resources.pools.values().map(|p| &p.body.spec).filter(|p| !p.disabled && !p.disable_bgp_export);
    let ranges = service_ranges(&configuration(resources, "default"));
    let whole = |net: IpNet| Permit { net, min_len: net.prefix_len(), max_len: net.max_prefix_len() };
    let services = ranges.into_iter().map(whole);
    let mut permits: Vec<Permit> = pools.map(pool_permit).chain(services).collect();
    permits.sort();
    permits.dedup();
    permits
}

fn pool_permit(pool: &IpPoolSpec) -> Permit {
    let host = pool.cidr.max_prefix_len();
    let default = if pool.cidr.addr().is_ipv4() { DEFAULT_BLOCK_SIZE_V4 } else { DEFAULT_BLOCK_SIZE_V6 };
    let block = pool.block_size.unwrap_or(default).max(pool.cidr.prefix_len());
    // A pool of service addresses has no blocks that are announced.
    let only_services = pool.allowed_uses.as_ref().is_some_and(|u| *u == [AllowedUse::LoadBalancer]);
    Permit { net: pool.cidr, min_len: if only_services { host } else { block }, max_len: host }
}

/// Of the pools all blocks, of the service ranges all addresses; then room for half as many again.
fn limit(permits: &[Permit]) -> u32 {
    let count = |p: &Permit| {
        let is_range = p.min_len == p.net.prefix_len() && p.min_len < p.max_len;
        let bits = if is_range { p.max_len } else { p.min_len } - p.net.prefix_len();
        1_u32.checked_shl(bits.into()).unwrap_or(u32::MAX)
    };
    let most = |family| {
        permits.iter().filter(|p| family_of(&p.net) == family).fold(0_u32, |sum, p| sum.saturating_add(count(p)))
    };
    let all = Family::ALL.map(most).into_iter().max().unwrap_or(0);
    all.saturating_add(all / 2).clamp(LEAST_LIMIT, HIGHEST_LIMIT)
}

fn family_of(net: &IpNet) -> Family {
    Family::of(net.addr())
}

#[cfg(test)]
mod tests;
