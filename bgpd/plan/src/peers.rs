//! Resources to sessions: what this node's speaker runs on (pure).
//!
//! The rules are Calico's (confd's `bgp_processor.go` and its BIRD templates), with these differences:
//! - The passive side of a session between two nodes is the one with the lower address, compared as numbers; Calico
//!   compares text, in which 10.0.0.9 is above 10.0.0.10.
//! - A peer that needs something we cannot give (a filter that does not exist, a password) is held down with a reason;
//!   Calico runs it without.
//! - The hold time can be set; its default is RFC 4271's suggestion (section 10), not BIRD's 240 s.
//!
//! A session carries the family of its addresses, as in Calico, which runs one BIRD for each.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use api::bgp_configuration::{DEFAULT_AS_NUMBER, DEFAULT_LISTEN_PORT};
use api::bgp_peer::{self, SourceAddress};
use api::bgp_session::BgpSessionSettings;
use api::{BgpConfigurationSpec, BgpPeerSpec, Node, Selector};
use bgp_proto::policy::Action;
use sha2::{Digest, Sha256};

use crate::config::{DEFAULT_FLAP_THRESHOLD, NextHopMode, PeerConfig, PeerId, PeerType, SpeakerConfig};
use crate::filters;
use crate::origins;
use crate::resources::Resources;
use crate::settings::{Filler, opposite};

/// The speaker's configuration, and what the resources ask for that it does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub config: SpeakerConfig,
    /// One sentence each, for the log and the status.
    pub notes: Vec<String>,
}

/// Why this node cannot run a speaker yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("there is no Node {0}: create it, or set NODENAME to the name it has")]
    UnknownNode(String),
    #[error("Node {0} has no spec.bgp: give it an ipv4Address or ipv6Address")]
    NoBgp(String),
    #[error(
        "Node {0} has no spec.bgp.ipv4Address to take as router id: set CALICO_ROUTER_ID to a dotted quad or to hash"
    )]
    NoRouterId(String),
}

/// CALICO_ROUTER_ID: where the BGP Identifier comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterId {
    /// The node's IPv4 address.
    #[default]
    NodeAddress,
    /// Made of the node's name.
    Hash,
    Fixed(Ipv4Addr),
}

impl RouterId {
    /// An empty text is an absent one.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<RouterId, String> {
        match text {
            "" => Ok(RouterId::NodeAddress),
            "hash" => Ok(RouterId::Hash),
            // RFC 6286 section 2.1: not zero.
            id => id.parse().ok().filter(|id: &Ipv4Addr| !id.is_unspecified()).map(RouterId::Fixed).ok_or_else(|| {
                format!(
                    "CALICO_ROUTER_ID is '{id}': set it to a dotted quad other than 0.0.0.0, or to hash, or unset it"
                )
            }),
        }
    }
}

/// The sessions of node `name`.
///
/// # Errors
/// [`NotReady`]
pub fn plan(name: &str, resources: &Resources, router_id: RouterId) -> Result<Plan, NotReady> {
    let node = resources.nodes.get(name).ok_or_else(|| NotReady::UnknownNode(name.into()))?;
    if node.body.spec.bgp.is_none() {
        return Err(NotReady::NoBgp(name.into()));
    }
    let mut planner = Planner::new(name, node, resources);
    let router_id = planner.router_id(router_id)?;
    planner.add_explicit_peers();
    planner.add_reverse_peers();
    planner.add_mesh();
    let local_as = planner.me.asn;
    let listen = planner.listen();
    let bmp = planner.bmp_collectors();
    let Planner { peers, notes, own, default, .. } = planner;
    let flap_threshold = own.flap_threshold.or(default.flap_threshold).unwrap_or(DEFAULT_FLAP_THRESHOLD);
    let config = SpeakerConfig { listen, peers, bmp, flap_threshold, ..SpeakerConfig::new(router_id, local_as) };
    Ok(Plan { config, notes })
}

/// What sessions need to know of a node.
#[derive(Clone, Debug)]
struct Speaker<'a> {
    name: &'a str,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    asn: u32,
    port: u16,
    cluster_id: Option<Ipv4Addr>,
    node: &'a Node,
}

impl<'a> Speaker<'a> {
    fn new(name: &'a str, node: &'a Node, resources: &Resources) -> Self {
        let default = configuration(resources, "default");
        let own = configuration(resources, &format!("node.{name}"));
        let bgp = node.body.spec.bgp.as_ref();
        let asn = bgp.and_then(|b| b.as_number).or(default.as_number).map_or(DEFAULT_AS_NUMBER, |a| a.0);
        Self {
            name,
            v4: bgp.and_then(|b| b.ipv4_address).map(|a| a.ip()),
            v6: bgp.and_then(|b| b.ipv6_address).map(|a| a.ip()),
            asn,
            port: own.listen_port.or(default.listen_port).unwrap_or(DEFAULT_LISTEN_PORT),
            cluster_id: bgp.and_then(|b| b.route_reflector_cluster_id.as_deref()).and_then(|id| id.parse().ok()),
            node,
        }
    }

    fn address(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.into_iter().chain(self.v6)
    }

    fn is_selected(&self, selector: &Selector) -> bool {
        selector.matches(&self.node.metadata.labels)
    }
}

/// One end of a session as a BGPPeer names it.
#[derive(Clone, Copy)]
struct Remote {
    address: IpAddr,
    port: u16,
    asn: Option<u32>,
    /// Whether a node of ours has this address, and its cluster id.
    node: Option<Option<Ipv4Addr>>,
}

impl Remote {
    fn node(speaker: &Speaker<'_>, address: IpAddr) -> Self {
        Self { address, port: speaker.port, asn: Some(speaker.asn), node: Some(speaker.cluster_id) }
    }
}

struct Planner<'a> {
    me: Speaker<'a>,
    others: Vec<Speaker<'a>>,
    resources: &'a Resources,
    /// BGPConfiguration `default`, and `node.<name>` over it.
    default: BgpConfigurationSpec,
    own: BgpConfigurationSpec,
    peers: BTreeMap<PeerId, PeerConfig>,
    notes: Vec<String>,
}

impl<'a> Planner<'a> {
    fn new(name: &'a str, node: &'a Node, resources: &'a Resources) -> Self {
        let others = resources.nodes.iter().filter(|(other, _)| *other != name);
        Self {
            me: Speaker::new(name, node, resources),
            others: others.map(|(name, node)| Speaker::new(name, node, resources)).collect(),
            resources,
            default: configuration(resources, "default"),
            own: configuration(resources, &format!("node.{name}")),
            peers: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    fn router_id(&self, source: RouterId) -> Result<Ipv4Addr, NotReady> {
        match source {
            RouterId::Hash => Ok(hashed_router_id(self.me.name)),
            RouterId::Fixed(id) => Ok(id),
            RouterId::NodeAddress => match self.me.v4 {
                Some(IpAddr::V4(v4)) => Ok(v4),
                _ => Err(NotReady::NoRouterId(self.me.name.into())),
            },
        }
    }

    /// bindMode `NodeIP`: the node's addresses; else every address of the families in use.
    fn listen(&self) -> Vec<SocketAddr> {
        let (mode, port) = (self.own.bind_mode.as_deref().or(self.default.bind_mode.as_deref()), self.me.port);
        if mode == Some("NodeIP") {
            return self.me.addresses().map(|a| SocketAddr::new(a, port)).collect();
        }
        let is_used =
            |v4: bool| self.me.addresses().chain(self.peers.keys().map(|id| id.address)).any(|a| a.is_ipv4() == v4);
        let v4 = is_used(true).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        let v6 = is_used(false).then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
        v4.into_iter().chain(v6).collect()
    }

    /// The node's own collectors if it has any, else those of all nodes.
    fn bmp_collectors(&self) -> Vec<SocketAddr> {
        let lists = [&self.own.bmp_collectors, &self.default.bmp_collectors];
        let chosen = lists.into_iter().find(|l| !l.is_empty());
        chosen.into_iter().flatten().map(|c| SocketAddr::new(c.address, c.port)).collect()
    }

    /// The peers that BGPPeers give this node: global ones first, then node-specific ones. Of the same address and port,
    /// the first counts.
    fn add_explicit_peers(&mut self) {
        let resources = self.resources;
        for wanted in [PeerType::Global, PeerType::NodeSpecific] {
            for (name, peer) in resources.peers.iter().filter(|(_, p)| peer_type(&p.body.spec) == wanted) {
                let spec = &peer.body.spec;
                match applies_to(spec, &self.me).and_then(|mine| if mine { self.remotes(spec) } else { Ok(Vec::new()) })
                {
                    Ok(remotes) => remotes.into_iter().for_each(|r| self.add_explicit(name, spec, r, wanted, false)),
                    Err(why) => self.notes.push(format!("BGPPeer {name} makes no session: {why}")),
                }
            }
        }
    }

    /// Whom a BGPPeer names, seen from this node: one address, or the nodes it selects.
    fn remotes(&self, spec: &BgpPeerSpec) -> Result<Vec<Remote>, String> {
        if spec.local_workload_selector.is_some() {
            return Err("localWorkloadSelector is not supported yet".into());
        }
        match (&spec.peer_ip, &spec.peer_selector) {
            (Some(_), Some(_)) => Err("peerIP and peerSelector cannot both be set".into()),
            (None, None) => Err("it has neither peerIP nor peerSelector".into()),
            (Some(text), None) => {
                let (address, port) = parse_peer_ip(text)?;
                if self.me.addresses().any(|own| own == address) {
                    return Ok(Vec::new());
                }
                let node = self.others.iter().find(|o| o.addresses().any(|a| a == address));
                let is_node = node.filter(|n| spec.as_number.is_none_or(|asn| asn.0 == n.asn));
                Ok(vec![Remote {
                    address,
                    port: port.or(is_node.map(|n| n.port)).unwrap_or(DEFAULT_LISTEN_PORT),
                    asn: spec.as_number.map(|a| a.0).or(node.map(|n| n.asn)),
                    node: node.map(|n| n.cluster_id),
                }])
            }
            (None, Some(selector)) => {
                let selector = Selector::parse(selector).map_err(|e| e.to_string())?;
                let chosen = self.others.iter().filter(|o| o.is_selected(&selector));
                Ok(chosen.flat_map(|o| self.both_have(o).map(|a| Remote::node(o, a))).collect())
            }
        }
    }

    /// The addresses of another node in the families that this node has too.
    fn both_have(&self, other: &Speaker<'_>) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = other.v4.filter(|_| self.me.v4.is_some());
        let v6 = other.v6.filter(|_| self.me.v6.is_some());
        v4.into_iter().chain(v6)
    }

    /// The opposite ends of what other nodes peer with: a BGPPeer that makes node A talk to node B makes B talk to A,
    /// unless reversePeering is Manual.
    fn add_reverse_peers(&mut self) {
        let resources = self.resources;
        for (name, peer) in &resources.peers {
            let spec = &peer.body.spec;
            if spec.reverse_peering.as_deref() == Some("Manual") || !self.is_named_by(spec) {
                continue;
            }
            let others = self.others.clone();
            for other in others.iter().filter(|o| applies_to(spec, o) == Ok(true)) {
                for address in self.both_have(other) {
                    let names_this_family = spec
                        .peer_ip
                        .as_deref()
                        .is_none_or(|text| parse_peer_ip(text).is_ok_and(|(ip, _)| ip.is_ipv4() == address.is_ipv4()));
                    if names_this_family {
                        let asn = spec.local_as_number.map_or(other.asn, |a| a.0);
                        let remote = Remote { asn: Some(asn), ..Remote::node(other, address) };
                        self.add_explicit(name, spec, remote, PeerType::NodeSpecific, true);
                    }
                }
            }
        }
    }

    /// Whether another node's peering by this spec would reach this node.
    fn is_named_by(&self, spec: &BgpPeerSpec) -> bool {
        match (&spec.peer_ip, &spec.peer_selector) {
            (Some(text), None) => parse_peer_ip(text)
                .is_ok_and(|(ip, port)| self.me.addresses().any(|a| a == ip) && port.is_none_or(|p| p == self.me.port)),
            (None, Some(selector)) => Selector::parse(selector).is_ok_and(|s| self.me.is_selected(&s)),
            _ => false,
        }
    }

    fn add_explicit(&mut self, name: &str, spec: &BgpPeerSpec, remote: Remote, peer_type: PeerType, is_reverse: bool) {
        let prefix = if peer_type == PeerType::Global { "Global" } else { "Node" };
        let title = session_name(prefix, remote.address, remote.port);
        // A localASNumber is that of the node which the BGPPeer applies to.
        let local_as = spec.local_as_number.filter(|_| !is_reverse).map_or(self.me.asn, |a| a.0);
        let mut peer = PeerConfig::new(title, peer_type, local_as, remote.asn.unwrap_or_default());
        (peer.v4, peer.v6) = (remote.address.is_ipv4(), remote.address.is_ipv6());
        let settings = self.settings(&spec.session);
        let own = self.me.address(remote.address);
        peer.source = own.filter(|_| spec.source_address.unwrap_or_default() == SourceAddress::UseNodeIP);
        peer.passive = match (spec.session.passive, remote.node) {
            (Some(passive), _) => passive != is_reverse,
            (None, Some(_)) => own.is_some_and(|own| remote.address > own),
            (None, None) => settings.passive.unwrap_or_default(),
        };
        let is_ibgp = local_as == peer.remote_as;
        peer.cluster_id = self.me.cluster_id;
        // Peers of the same cluster are plain iBGP; those that have no cluster are clients.
        peer.rr_client = is_ibgp && self.me.cluster_id.is_some() && remote.node.flatten() != self.me.cluster_id;
        peer.next_hop_mode = match spec.next_hop_mode {
            Some(bgp_peer::NextHopMode::Itself) => NextHopMode::SelfAddress,
            Some(bgp_peer::NextHopMode::Keep) => NextHopMode::Keep,
            _ if spec.keep_original_next_hop && !is_ibgp => NextHopMode::Keep,
            _ => NextHopMode::Auto,
        };
        peer.ttl_security = spec.ttl_security;
        peer.allow_own_as = spec.num_allowed_local_as_numbers.unwrap_or(0).clamp(0, 255) as u8;
        if remote.asn.is_none() {
            peer.down_reason = Some(format!("BGPPeer {name} has no asNumber"));
        }
        if spec.password.is_some() {
            peer.down_reason = Some(format!("BGPPeer {name} asks for a password: secrets are not supported yet"));
        }
        if spec.reachable_by.is_some() {
            self.notes
                .push(format!("BGPPeer {name}: reachableBy is not active, the kernel's routes must reach the peer"));
        }
        let origin = format!("BGPPeer {name}");
        let is_on_link = self.is_on_link(remote.address);
        let (restart, keepalive) = (spec.max_restart_time.as_deref(), spec.keepalive_time.as_deref());
        Filler { origin: &origin, is_on_link, notes: &mut self.notes }.fill(&mut peer, &settings, restart, keepalive);
        if is_reverse {
            peer.role = peer.role.map(opposite);
        }
        self.add(peer, remote, &spec.filters);
    }

    /// Every node with every other, unless one of the two is a route reflector.
    fn add_mesh(&mut self) {
        if self.default.node_to_node_mesh_enabled == Some(false) || self.me.cluster_id.is_some() {
            return;
        }
        let settings = self.settings(&BgpSessionSettings::default());
        for other in self.others.clone().iter().filter(|o| o.cluster_id.is_none()) {
            for address in self.both_have(other) {
                let remote = Remote::node(other, address);
                let title = session_name("Mesh", address, DEFAULT_LISTEN_PORT);
                let mut peer = PeerConfig::new(title, PeerType::Mesh, self.me.asn, other.asn);
                peer.source = self.me.address(address);
                peer.passive = peer.source.is_some_and(|own| address > own);
                if self.default.node_mesh_password.is_some() {
                    let why = "BGPConfiguration default asks for a nodeMeshPassword: secrets are not supported yet";
                    peer.down_reason = Some(why.into());
                }
                (peer.v4, peer.v6) = (address.is_ipv4(), address.is_ipv6());
                let is_on_link = self.is_on_link(address);
                let mut filler = Filler { origin: "BGPConfiguration default", is_on_link, notes: &mut self.notes };
                filler.fill(&mut peer, &settings, self.default.node_mesh_max_restart_time.as_deref(), None);
                // Of two nodes neither is the other's provider; what is passive is decided above.
                peer.role = None;
                self.add(peer, remote, &[]);
            }
        }
    }

    /// What every session has. Of the same address and port, the first one counts.
    fn add(&mut self, mut peer: PeerConfig, remote: Remote, filter_names: &[String]) {
        let id = PeerId::new(remote.address, remote.port);
        if self.peers.contains_key(&id) {
            return;
        }
        match filters::compile(filter_names, &self.resources.filters) {
            Ok((import, export)) => {
                peer.import.rules = import;
                peer.export.rules = export;
            }
            Err(why) => peer.down_reason = Some(why),
        }
        peer.export.rules.extend(origins::transit_rules(self.resources, self.me.cluster_id.is_some()));
        peer.export.default = Action::Reject;
        self.peers.insert(id, peer);
    }

    /// The session settings of a peer: its own, else those of the node's BGPConfiguration, else those of the default one.
    fn settings(&self, own: &BgpSessionSettings) -> BgpSessionSettings {
        own.or(&self.own.session).or(&self.default.session)
    }

    /// Whether the address is in a subnet of this node.
    fn is_on_link(&self, address: IpAddr) -> bool {
        let bgp = self.me.node.body.spec.bgp.as_ref();
        let subnets = bgp.into_iter().flat_map(|b| b.ipv4_address.into_iter().chain(b.ipv6_address));
        subnets.into_iter().any(|net| net.contains(address))
    }
}

/// The spec of a BGPConfiguration; an absent one sets nothing.
pub fn configuration(resources: &Resources, name: &str) -> BgpConfigurationSpec {
    resources.configurations.get(name).map(|c| c.body.spec.clone()).unwrap_or_default()
}

fn peer_type(spec: &BgpPeerSpec) -> PeerType {
    match (text(&spec.node), text(&spec.node_selector)) {
        (None, None) => PeerType::Global,
        _ => PeerType::NodeSpecific,
    }
}

/// Whether a node owns this peering.
fn applies_to(spec: &BgpPeerSpec, speaker: &Speaker<'_>) -> Result<bool, String> {
    match (text(&spec.node), text(&spec.node_selector)) {
        (None, None) => Ok(true),
        (Some(node), None) => Ok(node == speaker.name),
        (None, Some(selector)) => Selector::parse(selector).map(|s| speaker.is_selected(&s)).map_err(|e| e.to_string()),
        (Some(_), Some(_)) => Err("node and nodeSelector cannot both be set".into()),
    }
}

/// An empty string is an absent one, as in Calico's types.
fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|s| !s.is_empty())
}

/// `ip`, `ip:port` or `[ip6]:port`.
fn parse_peer_ip(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(ip) = text.parse() {
        return Ok((ip, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(socket) => Ok((socket.ip(), Some(socket.port()).filter(|p| *p != 0))),
        Err(_) => Err(format!("peerIP is '{text}', which is neither ip, ip:port nor [ip6]:port")),
    }
}

/// Calico's names: `Mesh_192_168_1_5`, `Node_192_168_1_1_port_1179`.
fn session_name(prefix: &str, address: IpAddr, port: u16) -> String {
    let address = address.to_string().replace(['.', ':'], "_");
    match port {
        DEFAULT_LISTEN_PORT => format!("{prefix}_{address}"),
        port => format!("{prefix}_{address}_port_{port}"),
    }
}

/// Calico's `CALICO_ROUTER_ID=hash`: the first octets of the name's SHA-256, made an address that is not multicast.
fn hashed_router_id(name: &str) -> Ipv4Addr {
    let digest = Sha256::digest(name.as_bytes());
    let first = if digest[0] > 223 { digest[0] - 32 } else { digest[0] };
    Ipv4Addr::new(first, digest[1], digest[2], digest[3])
}

#[cfg(test)]
mod tests;
