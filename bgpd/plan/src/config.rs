//! What the speaker runs on: plain data, made from resources by `peers` and `origins`.

pub mod changes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bgp_proto::af::Prefix;
use bgp_proto::policy::Policy;
pub use bgp_proto::rib::Origin;
pub use bgp_proto::wire::iana::Role;
use serde::{Deserialize, Serialize};

use crate::password::Password;

/// Hold time where nothing is configured, seconds: RFC 4271's suggestion (section 10), which most peers offer too. Calico's
/// is BIRD's 240 s: for so long traffic would go to a peer that is dead but whose link is up.
pub const DEFAULT_HOLD_TIME: u16 = 90;
/// RFC 9687 section 4.2: the longer of eight minutes and twice the hold time.
pub const DEFAULT_SEND_HOLD_TIME: u16 = 480;
/// A route that is withdrawn and announced again ten times a minute.
pub const DEFAULT_FLAP_THRESHOLD: u32 = 20;
/// Calico's `connect retry time` (5 s in its BIRD template).
pub const DEFAULT_CONNECT_RETRY: Duration = Duration::from_secs(5);
/// Restart time where nothing is configured (BIRD's default, which Calico uses).
pub const DEFAULT_RESTART_TIME: u16 = 120;

/// Everything the speaker is told. Giving it a new one changes only what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerConfig {
    pub router_id: Ipv4Addr,
    pub local_as: u32,
    /// This node's addresses: the next hop of its own routes where a session is of the other family, and the source of what
    /// this host sends by learned routes.
    pub own_v4: Option<Ipv4Addr>,
    pub own_v6: Option<Ipv6Addr>,
    /// Where to accept connections.
    pub listen: Vec<SocketAddr>,
    #[serde(with = "peer_list")]
    pub peers: BTreeMap<PeerId, PeerConfig>,
    /// Peers that come from anywhere in a prefix, by name.
    pub dynamic: BTreeMap<String, DynamicPeers>,
    /// Peers behind a link, found by their Router Advertisements (RFC 4861), by interface name.
    pub unnumbered: BTreeMap<String, PeerConfig>,
    /// Collectors to stream BMP to (RFC 7854).
    pub bmp: Vec<SocketAddr>,
    /// Best-path changes of one prefix a minute from which it counts as flapping.
    pub flap_threshold: u32,
}

impl SpeakerConfig {
    /// No peers yet, and nowhere to listen.
    pub fn new(router_id: Ipv4Addr, local_as: u32) -> SpeakerConfig {
        SpeakerConfig {
            router_id,
            local_as,
            own_v4: None,
            own_v6: None,
            listen: Vec::new(),
            peers: BTreeMap::new(),
            dynamic: BTreeMap::new(),
            unnumbered: BTreeMap::new(),
            bmp: Vec::new(),
            flap_threshold: DEFAULT_FLAP_THRESHOLD,
        }
    }

    /// This node's address of the other family than that of a session's local address.
    pub fn other_address(&self, local: IpAddr) -> Option<IpAddr> {
        match local {
            IpAddr::V4(_) => self.own_v6.map(IpAddr::from),
            // On a link without addresses the node's is none that the peer reaches: RFC 8950 has the link-local one.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
            IpAddr::V6(_) => self.own_v4.map(IpAddr::from),
        }
    }
}

/// A template: whoever connects from the prefix becomes a passive peer for as long as its session lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicPeers {
    pub prefix: Prefix,
    /// How many at once.
    pub limit: u32,
    /// `remote_as` 0: any.
    pub peer: PeerConfig,
}

/// What makes two configured peers the same one: Calico collapses duplicates by address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId {
    pub address: IpAddr,
    /// The peer's port that we connect to. A connection it makes comes from any port.
    pub port: u16,
    /// Index of the interface of a link-local address; else 0.
    pub scope: u32,
}

impl PeerId {
    /// A peer whose address needs no interface.
    pub fn new(address: IpAddr, port: u16) -> PeerId {
        PeerId { address, port, scope: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// As in Calico: `Mesh_…`, `Global_…`, `Node_…`.
    pub name: String,
    pub peer_type: PeerType,
    /// 0, in templates only: whatever its OPEN says, but our own.
    pub remote_as: u32,
    pub local_as: u32,
    /// Local address of the session; `None`: the kernel chooses.
    pub source: Option<IpAddr>,
    /// Never connects, only accepts.
    pub passive: bool,
    /// Seconds offered in the OPEN: 0 or at least 3 (RFC 4271 section 4.2).
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs; a third of the negotiated hold time if less or absent.
    pub keepalive: Option<u16>,
    /// How long an attempt may take, and the longest wait between two.
    pub connect_retry: Duration,
    /// Restart time in seconds (RFC 4724, at most 4095); `None`: the capability is not sent.
    pub graceful_restart: Option<u16>,
    /// RFC 4456: the peer is a client of ours; needs `cluster_id`.
    pub rr_client: bool,
    pub cluster_id: Option<Ipv4Addr>,
    pub next_hop_mode: NextHopMode,
    /// GTSM (RFC 5082): hops the peer may be away; packets with a lower TTL than 256 minus this are dropped.
    pub ttl_security: Option<u8>,
    /// How often our own AS may be in a received path.
    pub allow_own_as: u8,
    /// TCP-MD5 (RFC 2385).
    pub password: Option<Password>,
    /// The session is signed, or down.
    pub needs_password: bool,
    /// Held down, and why (shown as the peer's last error).
    pub down_reason: Option<String>,
    pub import: Policy,
    pub export: Policy,
    /// Families offered.
    pub v4: bool,
    pub v6: bool,
    /// Sent in place of the hold time once input stops being read by the peer (RFC 9687), seconds; 0: never.
    pub send_hold_time: u16,
    /// RFC 4271 section 8.1.1 DelayOpenTime; zero: the OPEN is sent at once.
    pub delay_open: Duration,
    /// Long-lived stale time in seconds (RFC 9494, at most 2^24 - 1); `None`: the capability is not sent.
    pub long_lived_stale_time: Option<u32>,
    /// RFC 7911, for every family offered.
    pub add_path_receive: bool,
    pub add_path_send: bool,
    /// RFC 8654.
    pub extended_messages: bool,
    /// RFC 8950: IPv4 routes with IPv6 next hops, both ways.
    pub extended_next_hop: bool,
    /// RFC 9234 section 4.1: our role in the session.
    pub role: Option<Role>,
    /// Ends the session where the peer does not say its role (RFC 9234 section 4.2, strict mode).
    pub role_is_strict: bool,
    pub max_prefixes: Option<MaxPrefixes>,
    pub bfd: Option<Bfd>,
    /// Administratively down, with the text for the peer (RFC 9003, at most 255 octets of UTF-8).
    pub shutdown: Option<String>,
    /// RFC 8326: what is announced carries GRACEFUL_SHUTDOWN, and LOCAL_PREF 0 to iBGP peers.
    pub graceful_shutdown: bool,
    /// RFC 8212: without a filter of its own an eBGP peer gets and gives nothing.
    pub requires_policy: bool,
    /// Routes whose AS_PATH has an AS_SET are withdrawn (RFC 9774).
    pub rejects_as_sets: bool,
    /// Interface of a link-local peer.
    pub interface: Option<String>,
}

/// RFC 4271 section 6.7: an upper bound on what a peer may announce, counted for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPrefixes {
    pub limit: u32,
    /// A warning at this share of the limit, per cent.
    pub warn_at: u8,
    /// What happens beyond the limit: a warning only, or Cease 6/1.
    pub ends_session: bool,
    /// When a session that was ended so is tried again; `None`: never.
    pub restart_after: Option<Duration>,
}

/// RFC 5880 timers of a session's BFD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bfd {
    pub min_rx: Duration,
    pub min_tx: Duration,
    pub multiplier: u8,
    /// RFC 5883; else single-hop (RFC 5881).
    pub is_multihop: bool,
}

impl PeerConfig {
    /// A peer with defaults for everything that Calico does not require.
    pub fn new(name: impl Into<String>, peer_type: PeerType, local_as: u32, remote_as: u32) -> PeerConfig {
        PeerConfig {
            name: name.into(),
            peer_type,
            remote_as,
            local_as,
            source: None,
            passive: false,
            hold_time: DEFAULT_HOLD_TIME,
            keepalive: None,
            connect_retry: DEFAULT_CONNECT_RETRY,
            graceful_restart: Some(DEFAULT_RESTART_TIME),
            rr_client: false,
            cluster_id: None,
            next_hop_mode: NextHopMode::Auto,
            ttl_security: None,
            allow_own_as: 0,
            password: None,
            needs_password: false,
            down_reason: None,
            import: Policy::default(),
            export: Policy::default(),
            v4: true,
            v6: true,
            send_hold_time: DEFAULT_SEND_HOLD_TIME,
            delay_open: Duration::ZERO,
            long_lived_stale_time: None,
            add_path_receive: false,
            add_path_send: false,
            extended_messages: true,
            extended_next_hop: false,
            role: None,
            role_is_strict: false,
            max_prefixes: None,
            bfd: None,
            shutdown: None,
            graceful_shutdown: false,
            requires_policy: false,
            rejects_as_sets: false,
            interface: None,
        }
    }

    /// Keeps the peer down; of several reasons an operator is told all.
    pub fn hold_down(&mut self, why: String) {
        self.down_reason = Some(match self.down_reason.take() {
            None => why,
            Some(before) => format!("{before}; {why}"),
        });
    }
}

/// Which resource made the peer, in the words of `calicoctl node status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerType {
    #[serde(rename = "node-to-node mesh")]
    Mesh,
    #[serde(rename = "global")]
    Global,
    #[serde(rename = "node specific")]
    NodeSpecific,
    #[serde(rename = "local workload")]
    LocalWorkload,
    /// It came by itself, from inside a range.
    #[serde(rename = "dynamic")]
    Dynamic,
}

impl PeerType {
    /// As operators read it.
    pub fn name(self) -> &'static str {
        match self {
            PeerType::Mesh => "node-to-node mesh",
            PeerType::Global => "global",
            PeerType::NodeSpecific => "node specific",
            PeerType::LocalWorkload => "local workload",
            PeerType::Dynamic => "dynamic",
        }
    }
}

/// Peers as a list, each with its address: a map in JSON has no keys but texts.
mod peer_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{PeerConfig, PeerId};

    #[derive(Serialize, Deserialize)]
    struct Entry<P> {
        #[serde(flatten)]
        id: PeerId,
        #[serde(flatten)]
        config: P,
    }

    pub fn serialize<S: Serializer>(peers: &BTreeMap<PeerId, PeerConfig>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(peers.iter().map(|(id, config)| Entry { id: *id, config }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<PeerId, PeerConfig>, D::Error> {
        let list = Vec::<Entry<PeerConfig>>::deserialize(d)?;
        Ok(list.into_iter().map(|entry| (entry.id, entry.config)).collect())
    }
}

/// BGPPeer's nextHopMode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHopMode {
    /// Self for eBGP, unchanged for iBGP.
    #[default]
    Auto,
    SelfAddress,
    Keep,
}
