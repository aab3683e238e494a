//! A peer: its configuration, its one or two connections, its session once established; and how it is shown.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_proto::af::Family;
use bgp_proto::fsm::{self, Fsm, Initiator, State};
use bgp_proto::rib::{ExportConfig, PeerIndex, PeerInfo, Rib};
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::open::{GracefulRestart, Open};
use bgp_proto::wire::{Notification, iana};
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::bfd::BfdStatus;
use crate::link::Link;
use crate::session::Serial;
use bgp_plan::config::{NextHopMode, PeerConfig, PeerId, PeerType};

/// One TCP connection with a peer, or the attempt at one.
pub struct Connection {
    pub fsm: Fsm,
    pub initiator: Initiator,
    pub attempt: Option<(Serial, JoinHandle<()>)>,
    pub link: Option<Link>,
    pub local_address: Option<IpAddr>,
    /// What the peer said of itself.
    pub open: Option<Open>,
}

impl Connection {
    /// `seed`: of the timers' jitter.
    pub fn new(config: &PeerConfig, seed: u64) -> Connection {
        Connection {
            fsm: Fsm::new(fsm_config(config), seed),
            initiator: Initiator::Us,
            attempt: None,
            link: None,
            local_address: None,
            open: None,
        }
    }
}

/// What a peer's configuration says to its machines.
pub fn fsm_config(config: &PeerConfig) -> fsm::Config {
    fsm::Config {
        passive: config.passive,
        connect_retry: config.connect_retry,
        delay_open: config.delay_open,
        send_hold: Duration::from_secs(config.send_hold_time.into()),
    }
}

/// What an established session negotiated.
pub struct Session {
    pub context: Context,
    /// The peer's graceful restart, if both sides have it.
    pub peer_restart: Option<GracefulRestart>,
    /// Of each family.
    pub end_of_rib: [bool; 2],
    pub since: Instant,
}

/// A second connection that comes so soon after a session is up belongs to the same beginning: both sides began one.
const SAME_BEGINNING: Duration = Duration::from_secs(5);

pub struct Peer {
    pub config: PeerConfig,
    pub index: PeerIndex,
    pub primary: Connection,
    /// A connection that the peer made while the primary one was still coming up.
    pub extra: Option<Connection>,
    pub session: Option<Session>,
    /// Until when routes from before the peer's restart are kept.
    pub stale_until: Option<Instant>,
    pub last_error: Option<String>,
    since: Timestamp,
}

impl Peer {
    /// `seed`: of the timers' jitter.
    pub fn new(config: PeerConfig, index: PeerIndex, seed: u64) -> Peer {
        Peer {
            primary: Connection::new(&config, seed),
            last_error: config.down_reason.clone(),
            config,
            index,
            extra: None,
            session: None,
            stale_until: None,
            since: Timestamp::now(),
        }
    }

    /// The connection an event is about.
    pub fn connection(&mut self, extra: bool) -> Option<&mut Connection> {
        if extra { self.extra.as_mut() } else { Some(&mut self.primary) }
    }

    /// Whether an OPEN on a new connection means that the peer restarted before we noticed that it went (RFC 4724 section 5).
    pub fn may_have_restarted(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.peer_restart.is_some() && s.since.elapsed() > SAME_BEGINNING)
    }

    /// How the RIB sees a peer.
    pub fn rib_info(id: PeerId, config: &PeerConfig, router_id: Ipv4Addr) -> PeerInfo {
        let is_ebgp = config.remote_as != config.local_as;
        PeerInfo {
            is_ebgp,
            rr_client: config.rr_client && config.cluster_id.is_some() && !is_ebgp,
            cluster_id: config.cluster_id,
            allow_own_as: config.allow_own_as,
            rejects_as_sets: config.rejects_as_sets,
            requires_policy: config.requires_policy,
            graceful_shutdown: config.graceful_shutdown,
            import: config.import.clone(),
            export: ExportConfig {
                policy: config.export.clone(),
                next_hop_self: match config.next_hop_mode {
                    NextHopMode::Auto => is_ebgp,
                    NextHopMode::SelfAddress => true,
                    NextHopMode::Keep => false,
                },
                ..ExportConfig::new(config.source.unwrap_or(id.address))
            },
            ..PeerInfo::new(id.address, config.local_as, router_id)
        }
    }

    /// Whether an OPEN is from the peer that is configured (RFC 4271 section 6.2).
    pub fn check_open(&self, open: Open, router_id: Ipv4Addr) -> Result<Open, Notification> {
        if open.asn != self.config.remote_as {
            return Err(Notification::open(iana::BAD_PEER_AS, &[]));
        }
        // RFC 6286 section 2.2: unique within an AS.
        if open.router_id == router_id && self.config.local_as == self.config.remote_as {
            return Err(Notification::open(iana::BAD_BGP_IDENTIFIER, &[]));
        }
        let common = (self.config.v4 && open.capabilities.ipv4) || (self.config.v6 && open.capabilities.ipv6);
        if common { Ok(open) } else { Err(Notification::open(iana::UNSUPPORTED_CAPABILITY, &[])) }
    }

    pub fn state_changed(&mut self, id: PeerId, extra: bool, before: State, after: State) {
        let address = id.address;
        if !extra {
            self.since = Timestamp::now();
        }
        match (before, after) {
            (_, State::Established) => tracing::info!("peer {address} ({}): Established", self.config.name),
            (State::Established, _) => {
                let why = self.last_error.as_deref().unwrap_or("the session ended");
                tracing::warn!("peer {address} ({}): down: {why}", self.config.name);
            }
            _ => tracing::debug!("peer {address}: {} to {}", before.name(), after.name()),
        }
    }

    /// Whether the peer has sent its first table of a family, as far as one can know.
    pub fn has_told(&self, family: Family, settle_time: Duration) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let negotiated = match family {
            Family::Ipv4 => session.context.ipv4,
            Family::Ipv6 => session.context.ipv6,
        };
        // Only speakers of graceful restart promise an End-of-RIB (RFC 4724 section 3).
        let silent = session.peer_restart.is_none() && session.since.elapsed() >= settle_time;
        !negotiated || session.end_of_rib[family as usize] || silent
    }

    pub fn status(&self, id: PeerId, rib: &Rib, bfd: Option<BfdStatus>) -> PeerStatus {
        let (v4, v6) = (rib.counts(self.index, Family::Ipv4), rib.counts(self.index, Family::Ipv6));
        PeerStatus {
            name: self.config.name.clone(),
            address: id.address,
            port: id.port,
            peer_type: self.config.peer_type,
            remote_as: self.config.remote_as,
            local_as: self.config.local_as,
            state: self.primary.fsm.state().name(),
            up: self.session.is_some(),
            since: self.since,
            last_error: self.last_error.clone(),
            held_down: self.config.down_reason.clone(),
            received: v4.0 + v6.0,
            advertised: v4.1 + v6.1,
            family: if id.address.is_ipv4() { "IPv4" } else { "IPv6" },
            bfd,
        }
    }
}

/// A row of `/v1/peers`; the fields are documented in `control`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    #[serde(rename = "type")]
    pub peer_type: PeerType,
    pub remote_as: u32,
    pub local_as: u32,
    pub state: &'static str,
    pub up: bool,
    pub since: Timestamp,
    pub last_error: Option<String>,
    pub held_down: Option<String>,
    pub received: u32,
    pub advertised: u32,
    pub family: &'static str,
    pub bfd: Option<BfdStatus>,
}
