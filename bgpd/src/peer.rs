//! A peer: its configuration, its one or two connections, its session once established.

mod detail;
mod handshake;
mod malformed;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_proto::af::Family;
use bgp_proto::fsm::restart::{Cause, Retention};
use bgp_proto::fsm::{self, Fsm, Initiator, State};
use bgp_proto::rib::{ExportConfig, PeerIndex, PeerInfo};
use bgp_proto::wire::open::Open;
use bgp_proto::wire::{HEADER_LEN, MessageType};
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;

pub use self::detail::{FamilyStatus, MessageCounts, PeerDetail, PeerStatus, Place, Waiting};
pub use self::handshake::{Restart, Session, check_open, our_open};
pub use self::malformed::MalformedUpdates;
use crate::link::Link;
use crate::session::Serial;
use bgp_plan::config::{MaxPrefixes, NextHopMode, PeerConfig, PeerId};

/// A second connection that comes so soon after a session is up belongs to the same beginning: both sides began one.
const SAME_BEGINNING: Duration = Duration::from_secs(5);

/// One TCP connection with a peer, or the attempt at one.
pub struct Connection {
    pub fsm: Fsm,
    pub initiator: Initiator,
    pub attempt: Option<(Serial, JoinHandle<()>)>,
    pub link: Option<Link>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// What we said of ourselves.
    pub sent: Option<Open>,
    /// What the peer said of itself.
    pub open: Option<Open>,
    /// The same as it came, for BMP: with what is not understood.
    pub open_body: Box<[u8]>,
}

impl Connection {
    /// `seed`: of the timers' jitter.
    pub fn new(config: &PeerConfig, seed: u64) -> Connection {
        Connection {
            fsm: Fsm::new(fsm_config(config), seed),
            initiator: Initiator::Us,
            attempt: None,
            link: None,
            local: None,
            remote: None,
            sent: None,
            open: None,
            open_body: Box::default(),
        }
    }

    /// A connection on which the peer has said nothing yet.
    pub fn is_silent(&self) -> bool {
        self.open.is_none() && self.fsm.state() <= State::OpenSent
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

/// Messages by type, in the order of their numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages([u64; 5]);

impl Messages {
    pub fn count(&mut self, kind: MessageType, messages: u64) {
        self.0[kind as usize - 1] += messages;
    }

    /// Counts whole messages, one after another.
    pub fn count_all(&mut self, mut messages: &[u8]) {
        while let Some(header) = messages.first_chunk::<HEADER_LEN>() {
            let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let Some(kind) = MessageType::from_wire(header[18]) else { return };
            self.count(kind, 1);
            messages = messages.get(len.max(HEADER_LEN)..).unwrap_or_default();
        }
    }
}

/// What happened to a peer since it was configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub received: Messages,
    pub sent: Messages,
    /// Sessions that came up.
    pub established: u64,
    /// Sessions that were lost, not counting those that an operator ended.
    pub flaps: u64,
}

/// How a session ended.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    pub time: Timestamp,
    pub reason: String,
}

pub struct Peer {
    pub config: PeerConfig,
    pub index: PeerIndex,
    pub primary: Connection,
    /// A connection that the peer made while the primary one was still coming up.
    pub extra: Option<Connection>,
    pub session: Option<Session>,
    /// What is kept of sessions that ended, of each family.
    pub retention: [Retention; 2],
    /// Why the session that is going down does so.
    pub cause: Cause,
    pub last_error: Option<String>,
    /// The end of the last session.
    pub last_reset: Option<Reset>,
    /// Why we are about to end the session, where the NOTIFICATION says less.
    pub why: Option<String>,
    /// The peer did not understand the OPEN with capabilities (RFC 5492 section 3). Of the one after it nothing is assumed: a
    /// peer learns.
    pub next_open_is_plain: bool,
    /// The last connection of the peer's own: peers that share an address take turns.
    pub last_accepted: Serial,
    /// Of each family: the warning about its number of prefixes was given.
    pub is_warned: [bool; 2],
    pub counters: Counters,
    pub malformed: MalformedUpdates,
    pub since: Timestamp,
    /// When the peer was configured, or last left alone.
    pub awaited_since: Instant,
}

impl Peer {
    /// `seed`: of the timers' jitter.
    pub fn new(config: PeerConfig, index: PeerIndex, seed: u64) -> Peer {
        Peer {
            primary: Connection::new(&config, seed),
            last_error: None,
            last_reset: None,
            why: None,
            next_open_is_plain: false,
            config,
            index,
            extra: None,
            session: None,
            retention: Default::default(),
            cause: Cause::ConnectionLost,
            last_accepted: 0,
            is_warned: [false; 2],
            counters: Counters::default(),
            malformed: MalformedUpdates::default(),
            since: Timestamp::now(),
            awaited_since: Instant::now(),
        }
    }

    /// The connection an event is about.
    pub fn connection(&mut self, extra: bool) -> Option<&mut Connection> {
        if extra { self.extra.as_mut() } else { Some(&mut self.primary) }
    }

    /// Says why the session ends now.
    pub fn explain(&mut self, reason: String) {
        self.last_error = Some(reason.clone());
        self.why = Some(reason);
    }

    /// Held down by its configuration, and why.
    pub fn down_reason(&self) -> Option<String> {
        down_reason(&self.config)
    }

    /// Whether an OPEN on a new connection means that the peer restarted before we noticed that it went (RFC 4724 section 5).
    pub fn may_have_restarted(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.common.graceful_restart.is_some() && s.since.elapsed() > SAME_BEGINNING)
    }

    /// Whether the peer keeps our routes when we go without a word (RFC 4724 section 4): as negotiated, and before that as we
    /// would have it.
    pub fn ends_silently(&self) -> bool {
        let negotiated = self.session.as_ref().map(|s| s.common.graceful_restart.is_some());
        negotiated.unwrap_or(self.config.graceful_restart.is_some())
    }

    /// Whether so many prefixes of a family are worth a warning.
    pub fn is_near_limit(&self, count: u32) -> bool {
        let share = |max: MaxPrefixes| u64::from(max.limit) * u64::from(max.warn_at);
        self.config.max_prefixes.is_some_and(|max| u64::from(count) * 100 >= share(max))
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let connections = [Some(&self.primary), self.extra.as_ref()].into_iter().flatten();
        let timers = connections.filter_map(|c| c.fsm.next_deadline());
        timers.chain(self.retention.iter().filter_map(Retention::next_deadline)).min()
    }

    /// How the RIB sees a peer, as far as it is configured.
    pub fn rib_info(id: PeerId, config: &PeerConfig, router_id: Ipv4Addr) -> PeerInfo {
        let is_ebgp = config.remote_as != config.local_as;
        PeerInfo {
            remote_as: config.remote_as,
            is_ebgp,
            rr_client: config.rr_client && config.cluster_id.is_some() && !is_ebgp,
            cluster_id: config.cluster_id,
            allow_own_as: config.allow_own_as,
            rejects_as_sets: config.rejects_as_sets,
            requires_policy: config.requires_policy,
            graceful_shutdown: config.graceful_shutdown,
            role: config.role,
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

    pub fn state_changed(&mut self, id: PeerId, extra: bool, before: State, after: State) {
        let address = id.address;
        if !extra {
            self.since = Timestamp::now();
        }
        match (before, after) {
            (_, State::Established) => tracing::info!("peer {address} ({}): Established", self.config.name),
            (State::Established, _) => {
                let why = self.last_error.clone().unwrap_or_else(|| "the session ended".into());
                tracing::warn!("peer {address} ({}): down: {why}", self.config.name);
                self.last_reset = Some(Reset { time: Timestamp::now(), reason: why });
            }
            _ => tracing::debug!("peer {address}: {} to {}", before.name(), after.name()),
        }
    }
}

/// Why a configuration keeps its peer down, where it does.
fn down_reason(config: &PeerConfig) -> Option<String> {
    let shutdown = config.shutdown.as_ref().map(|text| match text.as_str() {
        "" => "administratively down".into(),
        text => format!("administratively down: {text}"),
    });
    config.down_reason.clone().or(shutdown)
}

/// The address of a peer's end, without the port.
pub fn ip(end: Option<SocketAddr>) -> Option<IpAddr> {
    end.map(|end| end.ip().to_canonical())
}

/// Whether a family is configured for a peer.
pub fn is_configured(config: &PeerConfig, family: Family) -> bool {
    match family {
        Family::Ipv4 => config.v4,
        Family::Ipv6 => config.v6,
    }
}
