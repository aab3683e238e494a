//! The other ends of the sessions that resources give the nodes: what each switch must be configured with (pure).
//!
//! A peer that is no node of ours is a switch: by its address, as one that connects from inside a range, or as what is behind a
//! link. What nodes may announce, by the export rules of [`crate::origins`] and the BGPFilters of the session, becomes its inbound
//! filter: a second safety net, on the device of another team.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use api::bgp_configuration::DEFAULT_LISTEN_PORT;
use api::ip_pool::{AllowedUse, DEFAULT_BLOCK_SIZE_V4, DEFAULT_BLOCK_SIZE_V6};
use api::{IpPoolSpec, Node};
use bgp_proto::af::Family;
use bgp_proto::policy::{Action, MatchOperator, PrefixMatch, Rule};
use ipnet::IpNet;

use crate::config::{Bfd, PeerConfig, PeerType, Role};
use crate::origins::service_ranges;
use crate::peers::{NotReady, Plan, RouterId, configuration, plan};
use crate::resources::Resources;

/// The least limit on prefixes that is worth setting.
const LEAST_LIMIT: u32 = 100;
/// The highest one: beyond it a limit protects no switch, and a lower one would end sessions that do no harm.
pub const HIGHEST_LIMIT: u32 = 50_000;
/// The least number of equal paths to allow.
const LEAST_PATHS: u32 = 8;
/// The highest: what switches have in common.
const MOST_PATHS: u32 = 64;

/// A switch, as our nodes see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Switch {
    /// Its ends of the sessions.
    pub ends: Vec<End>,
    /// 0: not known, nodes take any.
    pub asn: u32,
    /// Nodes that want the same.
    pub groups: Vec<Group>,
    /// What nodes may announce.
    pub permits: Vec<Permit>,
    /// Equal paths to one prefix to use together.
    pub paths: u32,
}

/// Where nodes find a switch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Address(IpAddr),
    /// It connects to the nodes, from inside here.
    Range(IpNet),
    /// It is behind the link that has this name on the node.
    Interface(String),
}

impl End {
    /// The switch's own address, where it is known.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            End::Address(address) => Some(*address),
            End::Range(_) | End::Interface(_) => None,
        }
    }

    /// The family of the session's addresses: link-local ones, where there are no others.
    pub fn family(&self) -> Family {
        match self {
            End::Address(address) => Family::of(*address),
            End::Range(net) => family_of(net),
            End::Interface(_) => Family::Ipv6,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Address(address) => address.fmt(f),
            End::Range(net) => net.fmt(f),
            End::Interface(name) => name.fmt(f),
        }
    }
}

/// Sessions that differ in nothing but the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The switch's end.
    pub end: End,
    /// The nodes' AS.
    pub node_as: u32,
    pub session: Session,
    pub neighbors: Vec<Neighbor>,
}

/// A node's end of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbor {
    /// `None`: the node is behind a link.
    pub address: Option<IpAddr>,
    pub node: String,
    /// The port that the node listens on.
    pub port: u16,
}

/// What a session is set to, on the switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub families: Vec<Family>,
    /// The port that nodes connect to.
    pub port: u16,
    /// Seconds.
    pub hold_time: u16,
    pub keepalive: u16,
    pub connect_retry: Duration,
    pub needs_password: bool,
    /// The switch has to help a node that restarts.
    pub graceful_restart: bool,
    /// Seconds for which the switch is to keep what a node that is gone announced (RFC 9494).
    pub long_lived_stale_time: Option<u32>,
    /// RFC 5082: hops that the node may be away.
    pub ttl_security: Option<u8>,
    /// The switch is not on the node's subnet.
    pub is_multihop: bool,
    pub bfd: Option<Bfd>,
    /// The switch's role (RFC 9234), opposite to the node's.
    pub role: Option<Role>,
    /// RFC 8950.
    pub extended_next_hop: bool,
    /// RFC 7911: the switch sends several paths, and takes them.
    pub sends_paths: bool,
    pub takes_paths: bool,
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

    /// A limit on prefixes of one family in one session, above all that a node can announce by the permits; `None`: that is
    /// too many to limit.
    pub fn max_prefixes(&self, family: Family) -> Option<u32> {
        let all = self.permits(family).fold(0_u32, |sum, p| sum.saturating_add(p.count()));
        let limit = all.saturating_add(all / 2).max(LEAST_LIMIT);
        (limit <= HIGHEST_LIMIT).then_some(limit)
    }

    /// The families that have a session.
    pub fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|f| self.groups.iter().any(|g| g.carries(*f))).collect()
    }

    /// Its addresses, as far as they are known.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ends.iter().filter_map(End::address)
    }
}

impl Permit {
    /// How many prefixes of its least and of its greatest length there are: all blocks of a pool, and all addresses, which a node
    /// announces alone where it borrowed them; a service range as a whole, and all addresses.
    fn count(&self) -> u32 {
        let of = |len: u8| 1_u32.checked_shl((len - self.net.prefix_len()).into()).unwrap_or(u32::MAX);
        let least = if self.min_len < self.max_len { of(self.min_len) } else { 0 };
        least.saturating_add(of(self.max_len))
    }
}

impl Group {
    pub fn is_ibgp(&self, switch: &Switch) -> bool {
        self.node_as == switch.asn
    }

    /// Whether a family goes over these sessions.
    pub fn carries(&self, family: Family) -> bool {
        self.session.families.contains(&family)
    }

    /// Whether the nodes are behind links, and not at addresses.
    pub fn is_unnumbered(&self) -> bool {
        matches!(self.end, End::Interface(_))
    }
}

/// The switches that nodes have sessions with, by where they are; `nodes`: all of them if empty. What cannot be planned is in the
/// notes.
///
/// # Errors
/// A named node cannot be planned.
pub fn switches(
    resources: &Resources,
    nodes: &[String],
    router_id: RouterId,
) -> Result<(Vec<Switch>, Vec<String>), NotReady> {
    let mut found: BTreeMap<End, Switch> = BTreeMap::new();
    let mut notes = Vec::new();
    let permits = permits(resources);
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
    let mut switches: Vec<Switch> = found.into_values().collect();
    for switch in &mut switches {
        switch.permits.extend(&permits);
        switch.permits.sort();
        switch.permits.dedup();
        let most = switch.groups.iter().map(|g| g.neighbors.len() as u32).sum::<u32>();
        switch.paths = most.next_power_of_two().clamp(LEAST_PATHS, MOST_PATHS);
    }
    Ok((switches, notes))
}

/// Several ends that are one switch: their sessions in one configuration.
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
            let (a, b) = (&first.ends[0], &next.ends[0]);
            return Err(format!("{a} is in AS {} and {b} in AS {}: they are two switches", first.asn, next.asn));
        }
        let is_of = |family, address: &IpAddr| Family::of(*address) == family;
        for address in next.addresses() {
            if let Some(same) = first.addresses().find(|a| is_of(Family::of(address), a)) {
                return Err(format!("{same} and {address} are of one family: they are two switches"));
            }
        }
        first.ends.extend(next.ends);
        first.groups.extend(next.groups);
        first.permits.extend(next.permits);
        first.permits.sort();
        first.permits.dedup();
        first.paths = first.paths.max(next.paths);
    }
    Ok(first)
}

fn add_node(
    name: &str,
    resources: &Resources,
    planned: &Plan,
    found: &mut BTreeMap<End, Switch>,
    notes: &mut Vec<String>,
) {
    let Some(node) = resources.nodes.get(name) else { return };
    let config = &planned.config;
    let port = config.listen.first().map_or(DEFAULT_LISTEN_PORT, |l| l.port());
    let is_node = |at: IpAddr| resources.nodes.values().any(|n| address(n, at) == Some(at));
    let addressed =
        config.peers.iter().filter(|(id, p)| p.peer_type != PeerType::LocalWorkload && !is_node(id.address));
    let addressed = addressed.map(|(id, p)| (End::Address(id.address), id.port, p));
    let ranges = config.dynamic.values().filter_map(|d| {
        let net = IpNet::new(d.prefix.address(), d.prefix.len()).ok()?;
        Some((End::Range(net), DEFAULT_LISTEN_PORT, &d.peer))
    });
    let links = config.unnumbered.iter();
    let links = links.map(|(interface, p)| (End::Interface(interface.clone()), DEFAULT_LISTEN_PORT, p));
    for (end, switch_port, peer) in addressed.chain(ranges).chain(links) {
        if let Some(why) = &peer.down_reason {
            notes.push(format!("{name} holds the session with {end} down: {why}"));
        }
        let own = match &end {
            End::Address(at) => peer.source.or_else(|| address(node, *at)),
            End::Range(net) => address(node, net.addr()),
            End::Interface(_) => None,
        };
        if own.is_none() && !matches!(end, End::Interface(_)) {
            notes.push(format!("{name} has no address for the session with {end}"));
            continue;
        }
        let switch = found.entry(end.clone()).or_insert_with(|| Switch {
            ends: vec![end.clone()],
            asn: peer.remote_as,
            groups: Vec::new(),
            permits: Vec::new(),
            paths: 0,
        });
        if switch.asn != peer.remote_as {
            notes.push(format!(
                "{name} expects AS {} of {end}, and another node AS {}: its session is left out",
                peer.remote_as, switch.asn
            ));
            continue;
        }
        switch.permits.extend(permits_of_filters(name, &end, peer, notes));
        let session = Session { port: switch_port, ..session(node, &end, peer) };
        let neighbor = Neighbor { address: own, node: name.to_string(), port };
        let same = switch.groups.iter_mut().find(|g| g.node_as == peer.local_as && g.session == session);
        match same {
            Some(group) => group.neighbors.push(neighbor),
            None => switch.groups.push(Group { end, node_as: peer.local_as, session, neighbors: vec![neighbor] }),
        }
    }
}

/// What the BGPFilters of a session let out beside pools and service ranges.
fn permits_of_filters(name: &str, end: &End, peer: &PeerConfig, notes: &mut Vec<String>) -> Vec<Permit> {
    let mut permits = Vec::new();
    // Rules of a filter are for one family; those that follow the filters are for both.
    let accepting = peer.export.rules.iter().filter(|r| r.family.is_some() && r.action == Action::Accept);
    let mut note_more = |rule: &Rule| {
        notes.push(format!(
            "{name} announces to {end} what {} accepts, which is more than the filter of the switch lets in",
            rule.name
        ));
    };
    for rule in accepting {
        let Some(PrefixMatch { prefix, operator, min_len, max_len }) = rule.prefix else {
            note_more(rule);
            continue;
        };
        let Ok(net) = IpNet::new(prefix.address(), prefix.len()) else { continue };
        let is_ranged = min_len.is_some() || max_len.is_some();
        match operator {
            MatchOperator::Equal if !is_ranged => {
                permits.push(Permit { net, min_len: net.prefix_len(), max_len: net.prefix_len() });
            }
            MatchOperator::In | MatchOperator::Equal => permits.push(Permit {
                net,
                min_len: min_len.unwrap_or(0).max(net.prefix_len()),
                max_len: max_len.unwrap_or(net.max_prefix_len()).min(net.max_prefix_len()),
            }),
            MatchOperator::NotEqual | MatchOperator::NotIn => note_more(rule),
        }
    }
    permits.retain(|p| p.min_len <= p.max_len);
    permits
}

fn session(node: &Node, end: &End, peer: &PeerConfig) -> Session {
    let bgp = node.body.spec.bgp.as_ref();
    let is_on_link = |at: IpAddr| {
        let subnet = bgp.and_then(|b| if at.is_ipv4() { b.ipv4_address } else { b.ipv6_address });
        subnet.is_some_and(|s| s.contains(at))
    };
    Session {
        port: DEFAULT_LISTEN_PORT,
        families: Family::ALL.into_iter().filter(|f| if *f == Family::Ipv4 { peer.v4 } else { peer.v6 }).collect(),
        hold_time: peer.hold_time,
        keepalive: peer.keepalive.unwrap_or(u16::MAX).min(peer.hold_time / 3),
        connect_retry: peer.connect_retry,
        needs_password: peer.needs_password,
        graceful_restart: peer.graceful_restart.is_some(),
        long_lived_stale_time: peer.long_lived_stale_time,
        ttl_security: peer.ttl_security,
        is_multihop: match end {
            End::Address(at) => !is_on_link(*at),
            End::Range(net) => !is_on_link(net.addr()),
            End::Interface(_) => false,
        },
        bfd: peer.bfd,
        role: peer.role.map(Role::counterpart),
        extended_next_hop: peer.extended_next_hop,
        sends_paths: peer.add_path_receive,
        takes_paths: peer.add_path_send,
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
    let pools = resources.pools.values().map(|p| &p.body.spec).filter(|p| !p.disable_bgp_export);
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

fn family_of(net: &IpNet) -> Family {
    Family::of(net.addr())
}

#[cfg(test)]
mod tests;
