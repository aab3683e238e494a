//! RFC 4271 section 8.2.2 as a table.
//!
//! Where it differs from the RFC's text, on purpose and as FRR and BIRD do:
//! - A connection that the peer makes during the wait after a failure (Idle) is let in: waiting for us would only delay both.
//! - An attempt that fails (Connect, event 18) leads to Active, with and without a delayed OPEN.
//! - A passive peer never connects, so that nothing happens in Active when ConnectRetryTimer would expire.
//! - A NOTIFICATION is never answered, nor is one sent for a message header that is wrong with a code other than its own.

use super::{EventKind, State};

/// A step of the table: an action, or a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Connect,
    SendOpen,
    SendKeepalive,
    /// The NOTIFICATION that the event carries or stands for.
    Notify,
    Close,
    Up,
    Down,
    /// Start ConnectRetryTimer with the time that an attempt may take: ConnectRetryTime.
    Retry,
    /// Start ConnectRetryTimer with the wait after a failure, twice as long as the last one.
    RetryWait,
    StopRetry,
    /// Start DelayOpenTimer.
    DelayOpen,
    /// The four minutes until an OPEN.
    HoldOpen,
    /// The negotiated hold and keepalive timers.
    HoldNegotiated,
    RestartHold,
    RestartKeepalive,
    /// Start IdleHoldTimer with the wait after a failure, twice as long as the last one, or as the event says.
    IdleHold,
    /// No timer runs.
    Clear,
}

/// The optional session attributes that change transitions (RFC 4271 section 8.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// PassiveTcpEstablishment.
    pub passive: bool,
    pub delay_open: bool,
}

/// RFC 4271 section 8.2.2, all of it.
pub fn transition(state: State, event: EventKind, options: Options) -> (State, &'static [Step]) {
    match state {
        State::Idle => idle(event, options),
        // Events 1 and 3 to 7 are ignored in every state but Idle.
        _ if is_start(event) => (state, &[]),
        State::Connect | State::Active => connecting(state, event, options),
        State::OpenSent => open_sent(event),
        State::OpenConfirm => open_confirm(event),
        State::Established => established(event),
    }
}

fn is_start(event: EventKind) -> bool {
    use EventKind as E;
    matches!(
        event,
        E::ManualStart
            | E::AutomaticStart
            | E::ManualStartPassive
            | E::AutomaticStartPassive
            | E::AutomaticStartDamped
            | E::AutomaticStartDampedPassive
    )
}

fn idle(event: EventKind, options: Options) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match event {
        E::ManualStartPassive | E::AutomaticStartPassive => (S::Active, &[Clear]),
        E::IdleHoldExpires if options.passive => (S::Active, &[Clear]),
        E::ManualStart | E::AutomaticStart | E::IdleHoldExpires => (S::Connect, &[Clear, Retry, Connect]),
        // 6, 7: the wait after a failure goes on.
        E::AutomaticStartDamped | E::AutomaticStartDampedPassive => (S::Idle, &[]),
        E::TcpAcked | E::TcpConfirmed if options.delay_open => (S::Active, &[Clear, DelayOpen]),
        E::TcpAcked | E::TcpConfirmed => (S::OpenSent, &[Clear, SendOpen, HoldOpen]),
        E::ManualStop => (S::Idle, &[Clear]),
        E::AutomaticStop => (S::Idle, &[Clear, IdleHold]),
        _ => (S::Idle, &[]),
    }
}

/// Connect and Active differ in who is expected to begin, and with a delayed OPEN there may be a connection in both.
fn connecting(state: State, event: EventKind, options: Options) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match event {
        E::TcpValid | E::TcpInvalid => (state, &[]),
        E::TcpAcked | E::TcpConfirmed if options.delay_open => (state, &[Clear, DelayOpen]),
        E::TcpAcked | E::TcpConfirmed | E::DelayOpenExpires => (S::OpenSent, &[Clear, SendOpen, HoldOpen]),
        E::OpenWhileDelayed => (S::OpenConfirm, &[Clear, SendOpen, SendKeepalive, HoldNegotiated]),
        E::ConnectRetryExpires if options.passive => (state, &[StopRetry]),
        E::ConnectRetryExpires if state == S::Active => (S::Connect, &[Clear, Retry, Connect]),
        E::ConnectRetryExpires => (S::Connect, &[Close, Clear, Retry, Connect]),
        E::TcpFails if state == S::Connect => (S::Active, &[Clear, Close, RetryWait]),
        E::ManualStop => (S::Idle, &[Notify, Clear, Close]),
        E::HeaderError | E::OpenError | E::AutomaticStop => (S::Idle, &[Notify, Clear, Close, IdleHold]),
        _ => (S::Idle, &[Clear, Close, IdleHold]),
    }
}

fn open_sent(event: EventKind) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match event {
        // A second connection is a machine of its own until its OPEN comes (section 6.8).
        E::TcpValid | E::TcpInvalid | E::TcpAcked | E::TcpConfirmed => (S::OpenSent, &[]),
        E::Open => (S::OpenConfirm, &[SendKeepalive, HoldNegotiated]),
        E::TcpFails => (S::Active, &[Clear, Close, RetryWait]),
        E::ManualStop => (S::Idle, &[Notify, Clear, Close]),
        E::NotificationVersionError | E::Notification => (S::Idle, &[Clear, Close, IdleHold]),
        // Any other event is an error, or an FSM error: Notify says which NOTIFICATION that is.
        _ => (S::Idle, &[Notify, Clear, Close, IdleHold]),
    }
}

fn open_confirm(event: EventKind) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match event {
        E::TcpValid | E::TcpInvalid | E::TcpAcked | E::TcpConfirmed => (S::OpenConfirm, &[]),
        E::Keepalive => (S::Established, &[RestartHold, Up]),
        E::KeepaliveExpires => (S::OpenConfirm, &[SendKeepalive, RestartKeepalive]),
        E::ManualStop => (S::Idle, &[Notify, Clear, Close]),
        E::TcpFails | E::NotificationVersionError | E::Notification => (S::Idle, &[Clear, Close, IdleHold]),
        _ => (S::Idle, &[Notify, Clear, Close, IdleHold]),
    }
}

fn established(event: EventKind) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match event {
        E::TcpValid | E::TcpInvalid | E::TcpAcked | E::TcpConfirmed => (S::Established, &[]),
        E::Keepalive | E::Update => (S::Established, &[RestartHold]),
        E::KeepaliveExpires => (S::Established, &[SendKeepalive, RestartKeepalive]),
        E::ManualStop => (S::Idle, &[Notify, Clear, Close, Down]),
        E::TcpFails | E::NotificationVersionError | E::Notification => (S::Idle, &[Clear, Close, Down, IdleHold]),
        _ => (S::Idle, &[Notify, Clear, Close, Down, IdleHold]),
    }
}
