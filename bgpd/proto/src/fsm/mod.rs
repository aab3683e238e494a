//! The session state machine of RFC 4271 section 8, one per TCP connection; the choice between two connections; and what
//! becomes of a peer's routes when its session ends.
//!
//! - [`transition`] is the table: state and event give the next state and the steps (`table`).
//! - [`Fsm`] runs it and keeps the timers as deadlines: call [`Fsm::handle`] with what happened, do the actions, and come
//!   back at [`Fsm::next_deadline`] (`machine`).
//! - [`resolve_collision`] is section 6.8 (`collision`).
//! - [`Retention`] is graceful restart, seen from the side that stays (`restart`).
//!
//! Optional session attributes of section 8.1.1: DelayOpen and PassiveTcpEstablishment as configured;
//! DampPeerOscillations, CollisionDetectEstablishedState (`resolve_collision` says when), TrackTcpState and
//! SendNOTIFICATIONwithoutOPEN are always on; AcceptConnectionsUnconfiguredPeers never (the shell makes dynamic peers first).

mod collision;
mod machine;
pub mod restart;
mod table;

pub use self::collision::{Collision, Initiator, Other, resolve_collision};
pub use self::machine::{Config, FIRST_WAIT, Fsm, OPEN_HOLD_TIME, Timers, negotiate};
pub use self::table::{Options, Step, transition};
use crate::wire::Notification;

/// RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl State {
    pub const ALL: [State; 6] =
        [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];

    /// As shown to operators.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        }
    }
}

/// When a session that was stopped by ourselves is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After the wait that failures have.
    Backoff,
    /// After this time; until then the peer's own connections are refused.
    After(std::time::Duration),
    /// Not before a start.
    Never,
}

/// What happened, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// 1, or 4 where the peer is passive.
    ManualStart,
    /// 2: the NOTIFICATION says why.
    ManualStop(Notification),
    /// 3; 5 where the peer is passive; 6 and 7 during the wait after a failure.
    AutomaticStart,
    /// 8: a limit, or a decision of ours that is no operator's.
    AutomaticStop(Notification, Again),
    /// 9 to 13.
    ConnectRetryExpires,
    HoldExpires,
    KeepaliveExpires,
    DelayOpenExpires,
    IdleHoldExpires,
    /// 14: a SYN of the peer that may become a connection. The kernel answers it: nobody tells us.
    TcpValid,
    /// 15: one that may not.
    TcpInvalid,
    /// 16: ours was acknowledged.
    TcpAcked,
    /// 17: the peer's was accepted.
    TcpConfirmed,
    /// 18.
    TcpFails,
    /// 19, and 20 while the DelayOpenTimer runs: an OPEN that is acceptable. Seconds agreed on (0: no keepalives) and
    /// between KEEPALIVEs.
    Open {
        hold_time: u16,
        keepalive: u16,
    },
    /// 21.
    HeaderError(Notification),
    /// 22: malformed, or not acceptable.
    OpenError(Notification),
    /// 23: another connection with this peer won (section 6.8).
    CollisionDump,
    /// 24: Unsupported Version Number.
    NotificationVersionError,
    /// 25.
    Notification,
    /// 26.
    Keepalive,
    /// 27, and ROUTE-REFRESH.
    Update,
    /// 28, and a ROUTE-REFRESH that is malformed (RFC 7313 section 5).
    UpdateError(Notification),
    /// 29 (RFC 9687 section 3).
    SendHoldExpires,
}

/// The events by their numbers in RFC 4271 section 8.1 and RFC 9687: the columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    ManualStart = 1,
    ManualStop,
    AutomaticStart,
    ManualStartPassive,
    AutomaticStartPassive,
    AutomaticStartDamped,
    AutomaticStartDampedPassive,
    AutomaticStop,
    ConnectRetryExpires,
    HoldExpires,
    KeepaliveExpires,
    DelayOpenExpires,
    IdleHoldExpires,
    TcpValid,
    TcpInvalid,
    TcpAcked,
    TcpConfirmed,
    TcpFails,
    Open,
    OpenWhileDelayed,
    HeaderError,
    OpenError,
    CollisionDump,
    NotificationVersionError,
    Notification,
    Keepalive,
    Update,
    UpdateError,
    SendHoldExpires,
}

impl EventKind {
    pub const ALL: [EventKind; 29] = [
        EventKind::ManualStart,
        EventKind::ManualStop,
        EventKind::AutomaticStart,
        EventKind::ManualStartPassive,
        EventKind::AutomaticStartPassive,
        EventKind::AutomaticStartDamped,
        EventKind::AutomaticStartDampedPassive,
        EventKind::AutomaticStop,
        EventKind::ConnectRetryExpires,
        EventKind::HoldExpires,
        EventKind::KeepaliveExpires,
        EventKind::DelayOpenExpires,
        EventKind::IdleHoldExpires,
        EventKind::TcpValid,
        EventKind::TcpInvalid,
        EventKind::TcpAcked,
        EventKind::TcpConfirmed,
        EventKind::TcpFails,
        EventKind::Open,
        EventKind::OpenWhileDelayed,
        EventKind::HeaderError,
        EventKind::OpenError,
        EventKind::CollisionDump,
        EventKind::NotificationVersionError,
        EventKind::Notification,
        EventKind::Keepalive,
        EventKind::Update,
        EventKind::UpdateError,
        EventKind::SendHoldExpires,
    ];
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a TCP connection.
    Connect,
    SendOpen,
    SendKeepalive,
    SendNotification(Notification),
    /// Close the connection, or give up the attempt.
    Close,
    /// The session is up: announce.
    Up,
    /// The session is down.
    Down,
}

#[cfg(test)]
mod tests;
