//! What the speaker runs on: plain data, made from resources by `peers` and `origins`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_proto::policy::Policy;
pub use bgp_proto::rib::Origin;
use serde::{Deserialize, Serialize};

/// Hold time where nothing is configured, seconds: RFC 4271's suggestion (section 10), which most peers offer too. Calico's
/// is BIRD's 240 s: for so long traffic would go to a peer that is dead but whose link is up.
pub const DEFAULT_HOLD_TIME: u16 = 90;
/// Calico's `connect retry time` (5 s in its BIRD template).
pub const DEFAULT_CONNECT_RETRY: Duration = Duration::from_secs(5);
/// Restart time where nothing is configured (BIRD's default, which Calico uses).
pub const DEFAULT_RESTART_TIME: u16 = 120;

/// Everything the speaker is told. Giving it a new one changes only what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerConfig {
    pub router_id: Ipv4Addr,
    pub local_as: u32,
    /// Where to accept connections.
    pub listen: Vec<SocketAddr>,
    pub peers: BTreeMap<PeerId, PeerConfig>,
}

/// What makes two configured peers the same one: Calico collapses duplicates by address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId {
    pub address: IpAddr,
    /// The peer's port that we connect to. A connection it makes comes from any port.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// As in Calico: `Mesh_…`, `Global_…`, `Node_…`.
    pub name: String,
    pub peer_type: PeerType,
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
    pub password: Option<String>,
    /// Held down, and why (shown as the peer's last error).
    pub down_reason: Option<String>,
    pub import: Policy,
    pub export: Policy,
    /// Families offered.
    pub v4: bool,
    pub v6: bool,
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
            down_reason: None,
            import: Policy::default(),
            export: Policy::default(),
            v4: true,
            v6: true,
        }
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
