//! The nodes that sessions are between, and how a BGPPeer names them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::bgp_configuration::{DEFAULT_AS_NUMBER, DEFAULT_LISTEN_PORT};
use api::{BgpPeerSpec, Node, Selector};
use sha2::{Digest, Sha256};

use super::configuration;
use crate::config::PeerType;
use crate::resources::Resources;

/// What sessions need to know of a node.
#[derive(Clone, Debug)]
pub(super) struct Speaker<'a> {
    pub name: &'a str,
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
    pub asn: u32,
    pub port: u16,
    pub cluster_id: Option<Ipv4Addr>,
    pub node: &'a Node,
}

impl<'a> Speaker<'a> {
    pub fn new(name: &'a str, node: &'a Node, resources: &Resources) -> Self {
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

    /// The node's address of the same family.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.into_iter().chain(self.v6)
    }

    pub fn is_selected(&self, selector: &Selector) -> bool {
        selector.matches(&self.node.metadata.labels)
    }

    /// Whether the address is in a subnet of the node.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        let bgp = self.node.body.spec.bgp.as_ref();
        let mut subnets = bgp.into_iter().flat_map(|b| b.ipv4_address.into_iter().chain(b.ipv6_address));
        subnets.any(|net| net.contains(address))
    }

    /// The addresses of another node in the families that this one has too.
    pub fn both_have(&self, other: &Speaker<'_>) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = other.v4.filter(|_| self.v4.is_some());
        let v6 = other.v6.filter(|_| self.v6.is_some());
        v4.into_iter().chain(v6)
    }

    /// Whether a BGPPeer that applies to another node names this one.
    pub fn is_named_by(&self, spec: &BgpPeerSpec) -> bool {
        match (text(&spec.peer_ip), text(&spec.peer_selector)) {
            (Some(peer), None) => parse_peer_ip(peer)
                .is_ok_and(|(ip, port)| self.addresses().any(|a| a == ip) && port.is_none_or(|p| p == self.port)),
            (None, Some(selector)) => Selector::parse(selector).is_ok_and(|s| self.is_selected(&s)),
            _ => false,
        }
    }
}

/// One end of a session as a BGPPeer names it.
#[derive(Clone, Copy)]
pub(super) struct Remote {
    pub address: IpAddr,
    pub port: u16,
    pub asn: Option<u32>,
    /// Whether a node of ours has this address, and its cluster id.
    pub node: Option<Option<Ipv4Addr>>,
}

impl Remote {
    pub fn node(speaker: &Speaker<'_>, address: IpAddr) -> Self {
        Self { address, port: speaker.port, asn: Some(speaker.asn), node: Some(speaker.cluster_id) }
    }
}

pub(super) fn peer_type(spec: &BgpPeerSpec) -> PeerType {
    match (text(&spec.node), text(&spec.node_selector)) {
        (None, None) => PeerType::Global,
        _ => PeerType::NodeSpecific,
    }
}

/// Whether a node owns this peering.
pub(super) fn applies_to(spec: &BgpPeerSpec, speaker: &Speaker<'_>) -> Result<bool, String> {
    match (text(&spec.node), text(&spec.node_selector)) {
        (None, None) => Ok(true),
        (Some(node), None) => Ok(node == speaker.name),
        (None, Some(selector)) => Selector::parse(selector).map(|s| speaker.is_selected(&s)).map_err(|e| e.to_string()),
        (Some(_), Some(_)) => Err("node and nodeSelector cannot both be set".into()),
    }
}

/// An empty string is an absent one, as in Calico's types.
pub(super) fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|s| !s.is_empty())
}

/// `ip`, `ip:port` or `[ip6]:port`.
pub(super) fn parse_peer_ip(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(ip) = text.parse() {
        return Ok((ip, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(socket) => Ok((socket.ip(), Some(socket.port()).filter(|p| *p != 0))),
        Err(_) => Err(format!("peerIP is '{text}', which is neither ip, ip:port nor [ip6]:port")),
    }
}

/// Calico's names: `Mesh_192_168_1_5`, `Node_192_168_1_1_port_1179`.
pub(super) fn session_name(prefix: &str, address: IpAddr, port: u16) -> String {
    let address = address.to_string().replace(['.', ':'], "_");
    match port {
        DEFAULT_LISTEN_PORT => format!("{prefix}_{address}"),
        port => format!("{prefix}_{address}_port_{port}"),
    }
}

/// Calico's `CALICO_ROUTER_ID=hash`: the first octets of the name's SHA-256, made an address that is not multicast.
pub(super) fn hashed_router_id(name: &str) -> Ipv4Addr {
    let digest = Sha256::digest(name.as_bytes());
    let first = if digest[0] > 223 { digest[0] - 32 } else { digest[0] };
    Ipv4Addr::new(first, digest[1], digest[2], digest[3])
}
