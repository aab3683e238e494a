//! What becomes of a peer's routes when its session ends, until it is back: graceful restart (RFC 4724, with NOTIFICATIONs
//! RFC 8538), long-lived graceful restart (RFC 9494), and the sweep after an enhanced route refresh (RFC 7313).
//!
//! ```text
//!            ended, kept                  returned, F set               End-of-RIB, or too late
//!   Nothing ────────────► Restarting ───────────────────► Returned ────────────────────────────► Nothing
//!      │ BoRR                 │ restart time over            ▲                                      ▲
//!      │                      ▼                              │ returned, F set                      │
//!      │                  LongLived ─────────────────────────┘         stale time over: all goes ───┤
//!      └─────► Refreshing ── EoRR, or too late ─────────────────────────────────────────────────────┘
//! ```
//!
//! One [`Retention`] for each peer and family, since each is negotiated for itself. The R bit of the peer is not looked at:
//! several speakers set it always.

use std::time::{Duration, Instant};

use crate::wire::iana;

/// How long a peer may take from BoRR to EoRR, and until its End-of-RIB after it came back, at least. FRR's stalepath-time.
pub const SWEEP_TIME: Duration = Duration::from_secs(360);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection closed or broke without a NOTIFICATION, or the peer connected anew.
    ConnectionLost,
    /// We sent a NOTIFICATION with this code and subcode.
    Sent(u8, u8),
    /// The peer sent one.
    Received(u8, u8),
    /// The way to the peer is gone, and with it what it would keep forwarding.
    PathLost,
}

impl Cause {
    /// Whether routes survive it where graceful restart is negotiated; `notification`: with the N bit of both sides.
    pub fn keeps_routes(self, notification: bool) -> bool {
        match self {
            // RFC 4724 section 4.2.
            Cause::ConnectionLost => true,
            Cause::PathLost => false,
            // RFC 8538 section 4.2: hard is hard; RFC 9384: BFD says that nothing is forwarded.
            Cause::Sent(iana::CEASE, iana::HARD_RESET | iana::BFD_DOWN)
            | Cause::Received(iana::CEASE, iana::HARD_RESET | iana::BFD_DOWN) => false,
            Cause::Sent(..) | Cause::Received(..) => notification,
        }
    }

    /// Whether a Cease of ours with this subcode is sent as a Hard Reset to a peer that knows it (RFC 8538 section 5.1).
    pub fn is_hard(subcode: u8) -> bool {
        matches!(subcode, iana::MAXIMUM_PREFIXES | iana::ADMINISTRATIVE_SHUTDOWN | iana::PEER_DECONFIGURED)
    }
}

/// What both sides agreed on for a family, as of the session's OPENs. Without graceful restart there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The peer's restart time.
    pub restart_time: Duration,
    /// The peer listed the family in its graceful restart capability; else it promised nothing.
    pub listed: bool,
    /// Long-lived stale time; zero: none.
    pub stale_time: Duration,
}

/// What the peer says of a family when it is back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// F of the graceful restart capability.
    pub forwarding: bool,
    /// F of the long-lived one (RFC 9494 section 4.4).
    pub long_lived: bool,
    /// How long its End-of-RIB may take.
    pub wait: Duration,
}

/// What to do with the paths of the peer and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    Nothing,
    MarkStale,
    /// What was stale goes, the rest becomes stale.
    DropStaleAndMark,
    DropStale,
    DropAll,
    /// What is stale becomes least preferred (RFC 9494 section 4.2).
    MarkLongLived,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Nothing,
    /// `stale_time` follows, or what is left of it since an earlier restart that has not been made good yet.
    Restarting {
        until: Instant,
        stale_time: Duration,
        long_lived: Option<Instant>,
    },
    LongLived {
        until: Instant,
    },
    /// `long_lived`: some routes are long-lived stale, and so far they may go on.
    Returned {
        until: Instant,
        long_lived: Option<Instant>,
    },
    Refreshing {
        until: Instant,
    },
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    phase: Phase,
}

impl Retention {
    /// The session ended; `agreed` is `None` where nothing is kept.
    pub fn ended(&mut self, agreed: Option<Agreed>, now: Instant) -> Sweep {
        let agreed = agreed.unwrap_or_default();
        // RFC 9494 section 4.2: what is long-lived stale is not deleted by a further restart, and its time runs on until the
        // peer has told everything.
        let long_lived = match self.phase {
            Phase::Returned { long_lived, .. } => long_lived.filter(|_| !agreed.stale_time.is_zero()),
            _ => None,
        };
        // RFC 4724 section 4.2: stale from an earlier restart, and still not confirmed: gone. What a refresh had marked was valid.
        let is_valid = long_lived.is_some() || matches!(self.phase, Phase::Refreshing { .. });
        if agreed.listed && !agreed.restart_time.is_zero() {
            let (until, stale_time) = (now + agreed.restart_time, agreed.stale_time);
            self.phase = Phase::Restarting { until, stale_time, long_lived };
            return if is_valid { Sweep::MarkStale } else { Sweep::DropStaleAndMark };
        }
        if !agreed.stale_time.is_zero() {
            self.phase = Phase::LongLived { until: long_lived.unwrap_or(now + agreed.stale_time) };
            return Sweep::MarkLongLived;
        }
        self.phase = Phase::Nothing;
        Sweep::DropAll
    }

    /// A session with the peer is up; `None`: without the family, or without graceful restart.
    pub fn returned(&mut self, peer: Option<Returned>, now: Instant) -> Sweep {
        let peer = peer.unwrap_or_default();
        // RFC 4724 section 4.2, RFC 9494 section 4.2: without F nothing was kept. Which F counts depends on the time it took.
        let (kept, until, long_lived) = match self.phase {
            Phase::Nothing => return Sweep::Nothing,
            Phase::LongLived { until } => (peer.long_lived, until, Some(until)),
            Phase::Restarting { long_lived: Some(until), .. } => {
                (peer.forwarding && peer.long_lived, until, Some(until))
            }
            _ => (peer.forwarding, now + peer.wait, None),
        };
        self.phase = if kept { Phase::Returned { until, long_lived } } else { Phase::Nothing };
        if kept { Sweep::Nothing } else { Sweep::DropStale }
    }

    /// End-of-RIB.
    pub fn end_of_rib(&mut self) -> Sweep {
        match self.phase {
            Phase::Returned { .. } => self.done(),
            _ => Sweep::Nothing,
        }
    }

    /// BoRR. Not while an End-of-RIB is awaited (RFC 7313 section 4).
    pub fn begin_refresh(&mut self, now: Instant) -> Sweep {
        match self.phase {
            Phase::Nothing | Phase::Refreshing { .. } => {
                self.phase = Phase::Refreshing { until: now + SWEEP_TIME };
                Sweep::MarkStale
            }
            Phase::Restarting { .. } | Phase::LongLived { .. } | Phase::Returned { .. } => Sweep::Nothing,
        }
    }

    /// EoRR; one without a BoRR is ignored (RFC 7313 section 4).
    pub fn end_refresh(&mut self) -> Sweep {
        match self.phase {
            Phase::Refreshing { .. } => self.done(),
            _ => Sweep::Nothing,
        }
    }

    /// Forwarding has failed too while the peer restarts (RFC 5882 section 4.3.2): nothing is kept.
    pub fn abandon(&mut self) -> Sweep {
        match self.phase {
            Phase::Restarting { .. } => self.done(),
            _ => Sweep::Nothing,
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Nothing => None,
            Phase::Restarting { until, long_lived, .. } => Some(long_lived.map_or(until, |l| l.min(until))),
            Phase::LongLived { until } | Phase::Returned { until, .. } | Phase::Refreshing { until } => Some(until),
        }
    }

    /// What a deadline that has passed means.
    pub fn expired(&mut self, now: Instant) -> Sweep {
        if self.next_deadline().is_none_or(|t| t > now) {
            return Sweep::Nothing;
        }
        match self.phase {
            // The long-lived stale time of all is over.
            Phase::Restarting { long_lived: Some(over), .. } if over <= now => self.done(),
            Phase::Restarting { stale_time, long_lived, .. } if !stale_time.is_zero() => {
                self.phase = Phase::LongLived { until: long_lived.unwrap_or(now + stale_time) };
                Sweep::MarkLongLived
            }
            _ => self.done(),
        }
    }

    /// For display.
    pub fn phase(&self) -> Option<&'static str> {
        match self.phase {
            Phase::Nothing => None,
            Phase::Restarting { .. } => Some("waiting for the peer's restart"),
            Phase::LongLived { .. } => Some("long-lived stale"),
            Phase::Returned { .. } => Some("waiting for End-of-RIB"),
            Phase::Refreshing { .. } => Some("waiting for the end of a refresh"),
        }
    }

    fn done(&mut self) -> Sweep {
        self.phase = Phase::Nothing;
        Sweep::DropStale
    }
}
