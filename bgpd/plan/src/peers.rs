//! Resources to sessions: what this node's speaker runs on (pure).
//!
//! The rules are Calico's (confd's `bgp_processor.go` and its BIRD templates), with these differences:
//! - The passive side of a session between two nodes is the one with the lower address, compared as numbers; Calico
//!   compares text, in which 10.0.0.9 is above 10.0.0.10. It connects all the same where the other side was told not to.
//! - A peer that needs something we cannot give (a filter or a secret that does not exist) is held down with a reason;
//!   Calico runs it without.
//! - What a local workload announces is rejected unless a filter accepts it; Calico accepts all that no filter rejects.
//! - The hold time can be set; its default is RFC 4271's suggestion (section 10), not BIRD's 240 s.
//!
//! A session carries the family of its addresses, as in Calico, which runs one BIRD for each, unless `families` says more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use api::bgp_configuration::DEFAULT_LISTEN_PORT;
use api::bgp_peer::{self, SourceAddress};
use api::bgp_session::BgpSessionSettings;
use api::{BgpConfigurationSpec, BgpPeerSpec, Node, Selector};
use bgp_proto::af::Family;
use bgp_proto::policy::{Action, Rule};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{
    DEFAULT_FLAP_THRESHOLD, DynamicPeers, NextHopMode, PeerConfig, PeerId, PeerType, Role, SpeakerConfig,
};
use crate::filters;
use crate::origins;
use crate::password;
use crate::resources::Resources;
use crate::settings::Filler;
use nodes::{Remote, Speaker, applies_to, hashed_router_id, parse_peer_ip, peer_type, session_name, text};

mod nodes;

/// How many peers of a peerRange there may be at once, where peerRangeLimit does not say.
const DEFAULT_RANGE_LIMIT: u32 = 100;

/// Nodes beside this one that Calico recommends a mesh for.
const LARGEST_MESH: usize = 100;

/// What a node runs on: the speaker's configuration, what the kernel's task does beside it, and what the resources ask for
/// that is not so. It prints without passwords.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub node: String,
    pub config: SpeakerConfig,
    /// reachableBy: peers, and the gateways by which they are reached.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    pub services: origins::ServiceRanges,
    /// BGPConfiguration's logSeverityScreen.
    pub log_severity: Option<String>,
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

/// The sessions of node `name`. The result depends on the resources alone, not on the order in which they came.
///
/// # Errors
/// [`NotReady`]
pub fn plan(name: &str, resources: &Resources, router_id: RouterId) -> Result<Plan, NotReady> {
    let node = resources.nodes.get(name).ok_or_else(|| NotReady::UnknownNode(name.into()))?;
    if node.body.spec.bgp.is_none() {
        return Err(NotReady::NoBgp(name.into()));
    }
    let mut planner = Planner::new(name, node, resources);
    planner.config.router_id = planner.router_id(router_id)?;
    planner.config.own_v4 = planner.me.v4.and_then(|a| if let IpAddr::V4(v4) = a { Some(v4) } else { None });
    planner.config.own_v6 = planner.me.v6.and_then(|a| if let IpAddr::V6(v6) = a { Some(v6) } else { None });
    planner.add_explicit_peers();
    planner.add_reverse_peers();
    planner.add_mesh();
    planner.config.listen = planner.listen();
    planner.config.bmp = planner.bmp_collectors();
    planner.note_what_is_not_active();
    let Planner { config, gateways, notes, own, default, .. } = planner;
    Ok(Plan {
        node: name.into(),
        config,
        gateways,
        services: origins::ServiceRanges::new(name, resources),
        log_severity: own.log_severity_screen.or(default.log_severity_screen).filter(|s| !s.is_empty()),
        notes,
    })
}

/// One session to be: whom with, and on whose word.
struct End {
    title: String,
    peer_type: PeerType,
    /// `None`: unknown, which only a template may be.
    asn: Option<u32>,
    /// Whether a node of ours is at the other end, and its cluster id.
    node: Option<Option<Ipv4Addr>>,
    /// The peer's address; in a template, one of its family if that is known.
    address: Option<IpAddr>,
    is_template: bool,
    /// Whether the BGPPeer applies to the other node, not to this one.
    is_reverse: bool,
}

struct Planner<'a> {
    me: Speaker<'a>,
    others: Vec<Speaker<'a>>,
    resources: &'a Resources,
    /// BGPConfiguration `default`, and `node.<name>` over it.
    default: BgpConfigurationSpec,
    own: BgpConfigurationSpec,
    config: SpeakerConfig,
    gateways: BTreeMap<IpAddr, IpAddr>,
    notes: Vec<String>,
}

impl<'a> Planner<'a> {
    fn new(name: &'a str, node: &'a Node, resources: &'a Resources) -> Self {
        let others = resources.nodes.iter().filter(|(other, _)| *other != name);
        let me = Speaker::new(name, node, resources);
        let own = configuration(resources, &format!("node.{name}"));
        let default = configuration(resources, "default");
        let flap_threshold = own.flap_threshold.or(default.flap_threshold).unwrap_or(DEFAULT_FLAP_THRESHOLD);
        let config = SpeakerConfig { flap_threshold, ..SpeakerConfig::new(Ipv4Addr::UNSPECIFIED, me.asn) };
        Self {
            me,
            others: others.map(|(name, node)| Speaker::new(name, node, resources)).collect(),
            resources,
            default,
            own,
            config,
            gateways: BTreeMap::new(),
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

    /// bindMode `NodeIP`: the node's addresses, and those that its workloads peer with; else every address of the families
    /// in use.
    fn listen(&self) -> Vec<SocketAddr> {
        let (mode, port) = (text(&self.own.bind_mode).or(text(&self.default.bind_mode)), self.me.port);
        if mode == Some("NodeIP") {
            let serves_workloads = self.config.peers.values().any(|p| p.peer_type == PeerType::LocalWorkload);
            let workloads = self.workload_peering().into_iter().flatten().filter(|_| serves_workloads);
            return self.me.addresses().chain(workloads).map(|a| SocketAddr::new(a, port)).collect();
        }
        let peers = self.config.peers.keys().map(|id| id.address);
        let ranges = self.config.dynamic.values().map(|d| d.prefix.address());
        let mut all: Vec<IpAddr> = self.me.addresses().chain(peers).chain(ranges).collect();
        if !self.config.unnumbered.is_empty() {
            all.push(Ipv6Addr::UNSPECIFIED.into());
        }
        let v4 = all.iter().any(IpAddr::is_ipv4).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        let v6 = all.iter().any(IpAddr::is_ipv6).then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
        v4.into_iter().chain(v6).collect()
    }

    /// The node's own collectors if it has any, else those of all nodes.
    fn bmp_collectors(&self) -> Vec<SocketAddr> {
        let lists = [&self.own.bmp_collectors, &self.default.bmp_collectors];
        let chosen = lists.into_iter().find(|l| !l.is_empty());
        chosen.into_iter().flatten().map(|c| SocketAddr::new(c.address, c.port)).collect()
    }

    /// localWorkloadPeeringIPV4 and IPV6.
    fn workload_peering(&self) -> [Option<IpAddr>; 2] {
        let pick = |field: fn(&BgpConfigurationSpec) -> &Option<String>| {
            text(field(&self.own)).or(text(field(&self.default))).and_then(|a| a.parse().ok())
        };
        [pick(|s| &s.local_workload_peering_ip_v4), pick(|s| &s.local_workload_peering_ip_v6)]
    }

    /// What is accepted for Calico's sake and does nothing here.
    fn note_what_is_not_active(&mut self) {
        let mode = text(&self.own.program_cluster_routes).or(text(&self.default.program_cluster_routes));
        if let Some(mode @ ("Disabled" | "EnabledIPIPOnly")) = mode {
            self.notes.push(format!(
                "BGPConfiguration: programClusterRoutes {mode} is not active: felix has no other way to these routes, so \
                 bgpd programs what it learns"
            ));
        }
    }

    /// The peers that BGPPeers give this node: global ones first, then node-specific ones. Of the same address and port,
    /// the first counts.
    fn add_explicit_peers(&mut self) {
        let resources = self.resources;
        for wanted in [PeerType::Global, PeerType::NodeSpecific] {
            for (name, peer) in resources.peers.iter().filter(|(_, p)| peer_type(&p.body.spec) == wanted) {
                let spec = &peer.body.spec;
                let added = match applies_to(spec, &self.me) {
                    Ok(true) => self.add_explicit(name, spec, wanted),
                    Ok(false) => Ok(()),
                    Err(why) => Err(why),
                };
                if let Err(why) = added {
                    self.notes.push(format!("BGPPeer {name} makes no session: {why}"));
                }
            }
        }
    }

    /// Whom a BGPPeer names, seen from this node: one address, the nodes or workloads it selects, a range, a link.
    fn add_explicit(&mut self, name: &str, spec: &BgpPeerSpec, peer_type: PeerType) -> Result<(), String> {
        let selector = text(&spec.local_workload_selector);
        let named = [text(&spec.peer_ip), text(&spec.peer_selector), selector, text(&spec.peer_interface)];
        match (named, spec.peer_range) {
            ([Some(peer), None, None, None], None) => {
                let remote = self.remote(spec, peer)?;
                remote.into_iter().for_each(|r| self.add_addressed(name, spec, r, peer_type, false));
            }
            ([None, Some(selector), None, None], None) => {
                let selector = Selector::parse(selector).map_err(|e| e.to_string())?;
                let chosen = self.others.iter().filter(|o| o.is_selected(&selector));
                let remotes: Vec<Remote> =
                    chosen.flat_map(|o| self.me.both_have(o).map(|a| Remote::node(o, a))).collect();
                remotes.into_iter().for_each(|r| self.add_addressed(name, spec, r, peer_type, false));
            }
            ([None, None, Some(selector), None], None) => self.add_local_workloads(name, spec, selector)?,
            ([None, None, None, Some(interface)], None) => self.add_unnumbered(name, spec, interface, peer_type),
            ([None, None, None, None], Some(range)) => self.add_range(name, spec, range, peer_type),
            ([Some(_), Some(_), None, None], None) => return Err("peerIP and peerSelector cannot both be set".into()),
            ([None, None, None, None], None) => return Err("it has neither peerIP nor peerSelector".into()),
            _ => return Err("it names its peers in two ways; make a BGPPeer for each".into()),
        }
        Ok(())
    }

    /// The peer at a peerIP; none where that is this node itself.
    fn remote(&self, spec: &BgpPeerSpec, peer_ip: &str) -> Result<Option<Remote>, String> {
        let (address, port) = parse_peer_ip(peer_ip)?;
        if self.me.addresses().any(|own| own == address) {
            return Ok(None);
        }
        let node = self.others.iter().find(|o| o.addresses().any(|a| a == address));
        let is_node = node.filter(|n| spec.as_number.is_none_or(|asn| asn.0 == n.asn));
        // Another port, or AS, is that of another daemon on the same host.
        let is_ours = is_node.filter(|n| port.is_none_or(|p| p == n.port));
        Ok(Some(Remote {
            address,
            port: port.or(is_node.map(|n| n.port)).unwrap_or(DEFAULT_LISTEN_PORT),
            asn: spec.as_number.map(|a| a.0).or(node.map(|n| n.asn)),
            node: is_ours.map(|n| n.cluster_id),
        }))
    }

    /// The opposite ends of what other nodes peer with: a BGPPeer that makes node A talk to node B makes B talk to A,
    /// unless reversePeering is Manual.
    fn add_reverse_peers(&mut self) {
        let resources = self.resources;
        for (name, peer) in &resources.peers {
            let spec = &peer.body.spec;
            if text(&spec.reverse_peering) == Some("Manual") || !self.me.is_named_by(spec) {
                continue;
            }
            let others = self.others.clone();
            for other in others.iter().filter(|o| applies_to(spec, o) == Ok(true)) {
                for address in self.me.both_have(other) {
                    let names_this_family = text(&spec.peer_ip)
                        .is_none_or(|text| parse_peer_ip(text).is_ok_and(|(ip, _)| ip.is_ipv4() == address.is_ipv4()));
                    if names_this_family {
                        let asn = spec.local_as_number.map_or(other.asn, |a| a.0);
                        let remote = Remote { asn: Some(asn), ..Remote::node(other, address) };
                        self.add_addressed(name, spec, remote, PeerType::NodeSpecific, true);
                    }
                }
            }
        }
    }

    fn add_addressed(&mut self, name: &str, spec: &BgpPeerSpec, remote: Remote, peer_type: PeerType, is_reverse: bool) {
        let id = PeerId::new(remote.address, remote.port);
        if self.config.peers.contains_key(&id) {
            return;
        }
        let prefix = if peer_type == PeerType::Global { "Global" } else { "Node" };
        let end = End {
            title: session_name(prefix, remote.address, remote.port),
            peer_type,
            asn: remote.asn,
            node: remote.node,
            address: Some(remote.address),
            is_template: false,
            is_reverse,
        };
        let peer = self.session(name, spec, end);
        if let (Some(gateway), false) = (text(&spec.reachable_by), is_reverse) {
            match gateway.parse::<IpAddr>() {
                Ok(gateway) if gateway.is_ipv4() == remote.address.is_ipv4() => {
                    self.gateways.insert(remote.address, gateway);
                }
                _ => {
                    self.notes.push(format!("BGPPeer {name}: reachableBy {gateway} is no address of the peer's family"))
                }
            }
        }
        self.config.peers.insert(id, peer);
    }

    /// Passive sessions with the workloads of this node that the selector chooses.
    fn add_local_workloads(&mut self, name: &str, spec: &BgpPeerSpec, selector: &str) -> Result<(), String> {
        let selector = Selector::parse(selector).map_err(|e| e.to_string())?;
        let [v4, v6] = self.workload_peering();
        if v4.is_none() && v6.is_none() {
            return Err("BGPConfiguration has neither localWorkloadPeeringIPV4 nor localWorkloadPeeringIPV6".into());
        }
        let resources = self.resources;
        let me = self.me.name;
        let workloads = resources.workloads.values().filter(|w| w.body.spec.node == me);
        for workload in workloads.filter(|w| selector.matches(&w.metadata.labels)) {
            let networks = workload.body.spec.ip_networks.iter();
            for address in networks.filter_map(|n| n.split('/').next()?.parse::<IpAddr>().ok()) {
                let Some(own) = (if address.is_ipv4() { v4 } else { v6 }) else { continue };
                let id = PeerId::new(address, DEFAULT_LISTEN_PORT);
                let end = End {
                    title: session_name("Local_Workload", address, DEFAULT_LISTEN_PORT),
                    peer_type: PeerType::LocalWorkload,
                    asn: spec.as_number.map(|a| a.0),
                    node: None,
                    address: Some(address),
                    is_template: false,
                    is_reverse: false,
                };
                let mut peer = self.session(name, spec, end);
                peer.source = Some(own);
                peer.passive = true;
                peer.import.default = Action::Reject;
                self.config.peers.entry(id).or_insert(peer);
            }
        }
        Ok(())
    }

    fn add_range(&mut self, name: &str, spec: &BgpPeerSpec, range: IpNet, peer_type: PeerType) {
        let end = End {
            title: format!("Range_{name}"),
            peer_type,
            asn: spec.as_number.map(|a| a.0),
            node: None,
            address: Some(range.addr()),
            is_template: true,
            is_reverse: false,
        };
        let peer = PeerConfig { passive: true, ..self.session(name, spec, end) };
        let limit = spec.peer_range_limit.filter(|l| *l > 0).unwrap_or(DEFAULT_RANGE_LIMIT);
        let prefix = filters::prefix(range.trunc());
        self.config.dynamic.insert(name.into(), DynamicPeers { prefix, limit, peer });
    }

    fn add_unnumbered(&mut self, name: &str, spec: &BgpPeerSpec, interface: &str, peer_type: PeerType) {
        let end = End {
            title: format!("Interface_{interface}"),
            peer_type,
            asn: spec.as_number.map(|a| a.0),
            node: None,
            address: None,
            is_template: true,
            is_reverse: false,
        };
        let peer = PeerConfig { interface: Some(interface.into()), ..self.session(name, spec, end) };
        self.config.unnumbered.entry(interface.into()).or_insert(peer);
    }

    /// A session that a BGPPeer makes.
    fn session(&mut self, name: &str, spec: &BgpPeerSpec, end: End) -> PeerConfig {
        // A localASNumber is that of the node which the BGPPeer applies to.
        let local_as = spec.local_as_number.filter(|_| !end.is_reverse).map_or(self.me.asn, |a| a.0);
        let mut peer = PeerConfig::new(end.title, end.peer_type, local_as, end.asn.unwrap_or_default());
        match end.address {
            Some(address) => (peer.v4, peer.v6) = (address.is_ipv4(), address.is_ipv6()),
            // Behind a link there are no IPv4 addresses: RFC 8950 carries what has them.
            None => peer.extended_next_hop = true,
        }
        let mut settings = self.settings(&spec.session);
        if end.node.is_some() {
            // Of two nodes at most one is the other's provider: which, only the BGPPeer can say.
            settings.role = spec.session.role;
        }
        let own = end.address.and_then(|a| self.me.address(a));
        peer.source = own.filter(|_| spec.source_address.unwrap_or_default() == SourceAddress::UseNodeIP);
        peer.passive = match (spec.session.passive, end.node, end.address) {
            (Some(true), Some(_), Some(address)) if !end.is_reverse && self.is_told_to_wait(address) => {
                self.me.address(address).is_some_and(|own| address > own)
            }
            (Some(passive), ..) => passive != end.is_reverse,
            (None, Some(_), Some(address)) => self.is_passive_towards(address),
            (None, ..) => settings.passive.unwrap_or_default(),
        };
        let is_ibgp = local_as == peer.remote_as;
        peer.cluster_id = self.me.cluster_id;
        // Peers of the same cluster are plain iBGP; those that have no cluster are clients.
        peer.rr_client = is_ibgp && self.me.cluster_id.is_some() && end.node.flatten() != self.me.cluster_id;
        peer.next_hop_mode = match spec.next_hop_mode {
            Some(bgp_peer::NextHopMode::Itself) => NextHopMode::SelfAddress,
            Some(bgp_peer::NextHopMode::Keep) => NextHopMode::Keep,
            _ if spec.keep_original_next_hop && !is_ibgp => NextHopMode::Keep,
            _ => NextHopMode::Auto,
        };
        peer.ttl_security = spec.ttl_security.filter(|hops| *hops > 0);
        peer.allow_own_as = spec.num_allowed_local_as_numbers.unwrap_or(0).clamp(0, 255) as u8;
        if end.asn.is_none() && !end.is_template {
            peer.hold_down(format!("BGPPeer {name} has no asNumber"));
        }
        let origin = format!("BGPPeer {name}");
        if let Some(password) = &spec.password {
            self.protect(&mut peer, password, &origin);
        }
        let (restart, keepalive) = (text(&spec.max_restart_time), text(&spec.keepalive_time));
        self.filler(&origin, end.address).fill(&mut peer, &settings, restart, keepalive);
        if end.is_reverse {
            peer.role = peer.role.map(Role::counterpart);
            // What BGPConfiguration says is about this node as it is.
            if spec.session.add_path.is_some() {
                std::mem::swap(&mut peer.add_path_send, &mut peer.add_path_receive);
            }
        }
        self.set_policies(&mut peer, &spec.filters);
        peer
    }

    /// Every node with every other, unless one of the two is a route reflector.
    fn add_mesh(&mut self) {
        if self.default.node_to_node_mesh_enabled == Some(false) || self.me.cluster_id.is_some() {
            return;
        }
        let settings = self.settings(&BgpSessionSettings::default());
        let (password, restart) =
            (self.default.node_mesh_password.clone(), self.default.node_mesh_max_restart_time.clone());
        let others: Vec<Speaker> = self.others.iter().filter(|o| o.cluster_id.is_none()).cloned().collect();
        if others.len() > LARGEST_MESH {
            self.notes.push(format!(
                "the node-to-node mesh has {} nodes, each with a session to all others: above {LARGEST_MESH} name route \
                 reflectors, or peer with the switches, and set nodeToNodeMeshEnabled: false",
                others.len() + 1
            ));
        }
        for other in &others {
            for address in self.me.both_have(other) {
                let id = PeerId::new(address, other.port);
                if self.config.peers.contains_key(&id) {
                    continue;
                }
                let title = session_name("Mesh", address, DEFAULT_LISTEN_PORT);
                let mut peer = PeerConfig::new(title, PeerType::Mesh, self.me.asn, other.asn);
                (peer.v4, peer.v6) = (address.is_ipv4(), address.is_ipv6());
                peer.source = self.me.address(address);
                peer.passive = self.is_passive_towards(address);
                let origin = "BGPConfiguration default";
                if let Some(password) = &password {
                    self.protect(&mut peer, password, &format!("{origin}, nodeMeshPassword"));
                }
                self.filler(origin, Some(address)).fill(&mut peer, &settings, restart.as_deref(), None);
                // Of two nodes neither is the other's provider.
                peer.role = None;
                self.set_policies(&mut peer, &[]);
                self.config.peers.insert(id, peer);
            }
        }
    }

    /// Of two nodes the one with the lower address waits for the other, unless that one was told to wait.
    fn is_passive_towards(&self, address: IpAddr) -> bool {
        !self.is_told_to_wait(address) && self.me.address(address).is_some_and(|own| address > own)
    }

    /// Whether a BGPPeer tells the node with this address to wait for this one.
    fn is_told_to_wait(&self, address: IpAddr) -> bool {
        let other = self.others.iter().find(|o| o.addresses().any(|a| a == address));
        let tells = |spec: &BgpPeerSpec, other: &Speaker<'_>| {
            spec.session.passive == Some(true) && applies_to(spec, other) == Ok(true) && self.me.is_named_by(spec)
        };
        other.is_some_and(|o| self.resources.peers.values().any(|p| tells(&p.body.spec, o)))
    }

    /// Gives the session its password, or holds it down.
    fn protect(&self, peer: &mut PeerConfig, password: &bgp_peer::BgpPassword, origin: &str) {
        peer.needs_password = true;
        match password::find(password, self.resources) {
            Ok(password) => peer.password = Some(password),
            Err(why) => peer.hold_down(format!("{origin}: {why}")),
        }
    }

    /// The filters of the peer, then Calico's rules for what nodes tell.
    fn set_policies(&self, peer: &mut PeerConfig, filter_names: &[String]) {
        match filters::compile(filter_names, &self.resources.filters) {
            Ok((import, export)) => {
                peer.import.rules = import;
                peer.export.rules = export;
            }
            Err(why) => peer.hold_down(why),
        }
        if peer.requires_policy && peer.local_as != peer.remote_as {
            require_policy(&mut peer.import.rules);
            require_policy(&mut peer.export.rules);
        }
        peer.export.rules.extend(origins::transit_rules(self.me.name, self.resources, self.me.cluster_id.is_some()));
        peer.export.default = Action::Reject;
    }

    /// The session settings of a peer: its own, else those of the node's BGPConfiguration, else those of the default one.
    fn settings(&self, own: &BgpSessionSettings) -> BgpSessionSettings {
        own.or(&self.own.session).or(&self.default.session)
    }

    /// Whether no router is between: the peer is in a subnet of this node, or a node in whose subnet this one is, so that both
    /// ends say the same.
    fn is_on_link(&self, address: IpAddr) -> bool {
        let other = self.others.iter().find(|o| o.addresses().any(|a| a == address));
        let has_me = |other: &Speaker<'_>| self.me.address(address).is_some_and(|own| other.is_on_link(own));
        self.me.is_on_link(address) || other.is_some_and(has_me)
    }

    fn filler<'f>(&'f mut self, origin: &'f str, address: Option<IpAddr>) -> Filler<'f> {
        let is_on_link = address.is_none_or(|a| self.is_on_link(a));
        Filler { origin, is_on_link, notes: &mut self.notes }
    }
}

/// RFC 8212 section 2: without rules for a family nothing of it passes.
fn require_policy(rules: &mut Vec<Rule>) {
    for family in Family::ALL {
        if !rules.iter().any(|r| r.family.is_none_or(|f| f == family)) {
            let name = "ebgpRequiresPolicy".to_string();
            rules.push(Rule { name, family: Some(family), action: Action::Reject, ..Rule::default() });
        }
    }
}

/// The spec of a BGPConfiguration; an absent one sets nothing.
pub fn configuration(resources: &Resources, name: &str) -> BgpConfigurationSpec {
    resources.configurations.get(name).map(|c| c.body.spec.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
