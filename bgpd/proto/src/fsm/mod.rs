//! The session state machine of RFC 4271 section 8, one per TCP connection, and the choice between two connections.
//!
//! [`transition`] is the table: state and event give the next state and the steps. [`Fsm`] runs it and keeps the timers as
//! deadlines: call [`Fsm::handle`] with what happened, do the actions, and come back at [`Fsm::next_deadline`].
//!
//! Not implemented: DelayOpen (section 8.1.1). After a failure the wait before the next attempt doubles, from [`FIRST_WAIT`] up
//! to ConnectRetryTime, in Active as in Idle (there it is the IdleHoldTime of DampPeerOscillations): two that start together
//! find each other at once, and one that stays away is asked as often as configured. A session that lived for ConnectRetryTime
//! begins anew. A peer that connects to us meanwhile is let in: waiting for us would only delay both. Timers are jittered as
//! section 10 says.

use std::time::{Duration, Instant};

use crate::wire::Notification;
use crate::wire::iana;

/// "Large value" of the hold timer until the peer's OPEN (RFC 4271 section 8.2.2: four minutes).
pub const OPEN_HOLD_TIME: Duration = Duration::from_secs(240);
/// The wait after a first failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(250);

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

/// What happened; the numbers are those of RFC 4271 section 8.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// 1, 3, 4, 5.
    Start,
    /// 2: the NOTIFICATION says why.
    Stop(Notification),
    /// 9.
    ConnectRetryExpires,
    /// 10.
    HoldExpires,
    /// 11.
    KeepaliveExpires,
    /// 13.
    IdleHoldExpires,
    /// 16, 17: ours was acknowledged, or the peer's was accepted.
    TcpEstablished,
    /// 18.
    TcpFails,
    /// 19: an OPEN that is acceptable; seconds agreed on, 0: no keepalives. The second is the keepalive interval.
    OpenReceived { hold_time: u16, keepalive: u16 },
    /// 21, 22, 28, and an OPEN that is not acceptable.
    MessageError(Notification),
    /// 23: another connection with this peer won (section 6.8).
    CollisionDump,
    /// 24, 25.
    NotificationReceived,
    /// 26.
    KeepaliveReceived,
    /// 27, and ROUTE-REFRESH.
    UpdateReceived,
}

/// [`Event`] without its data: the columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Start,
    Stop,
    ConnectRetryExpires,
    HoldExpires,
    KeepaliveExpires,
    IdleHoldExpires,
    TcpEstablished,
    TcpFails,
    OpenReceived,
    MessageError,
    CollisionDump,
    NotificationReceived,
    KeepaliveReceived,
    UpdateReceived,
}

impl EventKind {
    pub const ALL: [EventKind; 14] = [
        EventKind::Start,
        EventKind::Stop,
        EventKind::ConnectRetryExpires,
        EventKind::HoldExpires,
        EventKind::KeepaliveExpires,
        EventKind::IdleHoldExpires,
        EventKind::TcpEstablished,
        EventKind::TcpFails,
        EventKind::OpenReceived,
        EventKind::MessageError,
        EventKind::CollisionDump,
        EventKind::NotificationReceived,
        EventKind::KeepaliveReceived,
        EventKind::UpdateReceived,
    ];
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Start => EventKind::Start,
            Event::Stop(_) => EventKind::Stop,
            Event::ConnectRetryExpires => EventKind::ConnectRetryExpires,
            Event::HoldExpires => EventKind::HoldExpires,
            Event::KeepaliveExpires => EventKind::KeepaliveExpires,
            Event::IdleHoldExpires => EventKind::IdleHoldExpires,
            Event::TcpEstablished => EventKind::TcpEstablished,
            Event::TcpFails => EventKind::TcpFails,
            Event::OpenReceived { .. } => EventKind::OpenReceived,
            Event::MessageError(_) => EventKind::MessageError,
            Event::CollisionDump => EventKind::CollisionDump,
            Event::NotificationReceived => EventKind::NotificationReceived,
            Event::KeepaliveReceived => EventKind::KeepaliveReceived,
            Event::UpdateReceived => EventKind::UpdateReceived,
        }
    }
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
    /// The four minutes until an OPEN.
    HoldOpen,
    /// The negotiated hold and keepalive timers.
    HoldNegotiated,
    RestartHold,
    RestartKeepalive,
    /// Start IdleHoldTimer with the wait after a failure, twice as long as the last one.
    IdleHold,
    /// No timer runs.
    Clear,
}

/// RFC 4271 section 8.2.2, all of it.
pub fn transition(state: State, event: EventKind, passive: bool) -> (State, &'static [Step]) {
    use EventKind as E;
    use State as S;
    use Step::*;
    match (state, event) {
        (S::Idle, E::Start | E::IdleHoldExpires) if passive => (S::Active, &[Clear]),
        (S::Idle, E::Start | E::IdleHoldExpires) => (S::Connect, &[Clear, Retry, Connect]),
        (S::Idle | S::Connect | S::Active, E::TcpEstablished) => (S::OpenSent, &[Clear, SendOpen, HoldOpen]),
        (S::Idle, E::Stop) => (S::Idle, &[Clear]),
        (S::Idle, _) => (S::Idle, &[]),

        // Events 1, 3 to 7 are ignored in every state but Idle.
        (_, E::Start | E::IdleHoldExpires) => (state, &[]),

        (S::Connect, E::ConnectRetryExpires) => (S::Connect, &[Close, Retry, Connect]),
        // With an open delayed the RFC goes to Active here; like everybody we wait for either side to try again.
        (S::Connect, E::TcpFails) => (S::Active, &[Close, RetryWait]),
        (S::Active, E::ConnectRetryExpires) if passive => (S::Active, &[StopRetry]),
        (S::Active, E::ConnectRetryExpires) => (S::Connect, &[Retry, Connect]),
        (S::Connect | S::Active, E::Stop) => (S::Idle, &[Clear, Close]),
        (S::Connect | S::Active, _) => (S::Idle, &[Clear, Close, IdleHold]),

        (S::OpenSent, E::OpenReceived) => (S::OpenConfirm, &[SendKeepalive, HoldNegotiated]),
        (S::OpenSent, E::TcpFails) => (S::Active, &[Clear, Close, RetryWait]),
        (S::OpenConfirm, E::KeepaliveReceived) => (S::Established, &[RestartHold, Up]),
        (S::OpenConfirm | S::Established, E::KeepaliveExpires) => (state, &[SendKeepalive, RestartKeepalive]),
        (S::Established, E::KeepaliveReceived | E::UpdateReceived) => (S::Established, &[RestartHold]),

        (S::OpenSent | S::OpenConfirm, E::Stop) => (S::Idle, &[Notify, Clear, Close]),
        (S::Established, E::Stop) => (S::Idle, &[Notify, Clear, Close, Down]),
        (S::OpenSent | S::OpenConfirm, E::NotificationReceived | E::TcpFails) => (S::Idle, &[Clear, Close, IdleHold]),
        (S::Established, E::NotificationReceived | E::TcpFails) => (S::Idle, &[Clear, Close, Down, IdleHold]),
        // Section 8.2.2: any other event is an FSM error; Notify says which NOTIFICATION that is.
        (S::OpenSent | S::OpenConfirm, _) => (S::Idle, &[Notify, Clear, Close, IdleHold]),
        (S::Established, _) => (S::Idle, &[Notify, Clear, Close, Down, IdleHold]),
    }
}

/// What the peer's configuration says to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub passive: bool,
    /// ConnectRetryTime.
    pub connect_retry: Duration,
    /// Seed of the timers' jitter: another one for each machine, so that they do not march in step.
    pub seed: u64,
}

/// The machine of one connection.
#[derive(Clone, Debug)]
pub struct Fsm {
    config: Config,
    state: State,
    connect_retry: Option<Instant>,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    idle_hold: Option<Instant>,
    /// As negotiated; zero: no timers.
    hold_time: Duration,
    keepalive_time: Duration,
    next_wait: Duration,
    up_since: Option<Instant>,
    jitter: u64,
}

impl Fsm {
    /// In Idle, with no timer.
    pub fn new(config: Config) -> Fsm {
        Fsm {
            config,
            state: State::Idle,
            connect_retry: None,
            hold: None,
            keepalive: None,
            idle_hold: None,
            hold_time: Duration::ZERO,
            keepalive_time: Duration::ZERO,
            next_wait: FIRST_WAIT.min(config.connect_retry),
            up_since: None,
            jitter: config.seed,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// When [`Fsm::expired`] has something to say, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.connect_retry, self.hold, self.keepalive, self.idle_hold].into_iter().flatten().min()
    }

    /// The next timer that has run out; hand it to [`Fsm::handle`], until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<Event> {
        let due = |timer: Option<Instant>| timer.is_some_and(|t| t <= now);
        if due(self.hold) {
            self.hold = None;
            return Some(Event::HoldExpires);
        }
        if due(self.keepalive) {
            self.keepalive = None;
            return Some(Event::KeepaliveExpires);
        }
        if due(self.connect_retry) {
            self.connect_retry = None;
            return Some(Event::ConnectRetryExpires);
        }
        if due(self.idle_hold) {
            self.idle_hold = None;
            return Some(Event::IdleHoldExpires);
        }
        None
    }

    /// Takes an event and says what to do about it, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if let Event::OpenReceived { hold_time, keepalive } = event {
            self.hold_time = Duration::from_secs(hold_time.into());
            self.keepalive_time = Duration::from_secs(keepalive.into());
        }
        let before = self.state;
        let (next, steps) = transition(before, event.kind(), self.config.passive);
        self.state = next;
        let mut notification = Some(notification(before, event));
        steps.iter().filter_map(|&step| self.step(step, now, &mut notification)).collect()
    }

    /// The common events of a busy session, without a list of actions: an UPDATE or KEEPALIVE in Established.
    pub fn is_alive(&mut self, now: Instant) {
        if self.hold.is_some() {
            self.hold = Some(now + self.hold_time);
        }
    }

    fn step(&mut self, step: Step, now: Instant, notification: &mut Option<Notification>) -> Option<Action> {
        let running = |time: Duration| (!time.is_zero()).then(|| now + time);
        match step {
            Step::Connect => return Some(Action::Connect),
            Step::SendOpen => return Some(Action::SendOpen),
            Step::SendKeepalive => return Some(Action::SendKeepalive),
            Step::Notify => return notification.take().map(Action::SendNotification),
            Step::Close => return Some(Action::Close),
            Step::Down => {
                // A session that dies as soon as it is up is a failure like any other.
                if self.up_since.take().is_some_and(|since| now - since >= self.config.connect_retry) {
                    self.next_wait = FIRST_WAIT.min(self.config.connect_retry);
                }
                return Some(Action::Down);
            }
            Step::Up => {
                self.up_since = Some(now);
                return Some(Action::Up);
            }
            Step::Retry => self.connect_retry = Some(now + self.jittered(self.config.connect_retry)),
            Step::RetryWait => self.connect_retry = Some(now + self.wait()),
            Step::StopRetry => self.connect_retry = None,
            Step::HoldOpen => self.hold = Some(now + OPEN_HOLD_TIME),
            Step::HoldNegotiated => {
                self.hold = running(self.hold_time);
                self.keepalive = running(self.jittered(self.keepalive_time));
            }
            Step::RestartHold => self.hold = running(self.hold_time),
            Step::RestartKeepalive => self.keepalive = running(self.jittered(self.keepalive_time)),
            Step::IdleHold => self.idle_hold = Some(now + self.wait()),
            Step::Clear => {
                self.connect_retry = None;
                self.hold = None;
                self.keepalive = None;
                self.idle_hold = None;
            }
        }
        None
    }

    /// How long to wait after a failure.
    fn wait(&mut self) -> Duration {
        let wait = self.next_wait;
        self.next_wait = (wait * 2).min(self.config.connect_retry);
        self.jittered(wait)
    }

    /// RFC 4271 section 10: a factor from 0.75 to 1.0, another one each time.
    fn jittered(&mut self, time: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = ((z ^ (z >> 31)) >> 32) as f64 / f64::from(u32::MAX);
        time.mul_f64(1.0 - random / 4.0)
    }
}

/// What [`Step::Notify`] sends for an event.
fn notification(state: State, event: Event) -> Notification {
    match event {
        Event::Stop(n) | Event::MessageError(n) => n,
        Event::HoldExpires => Notification::new(iana::HOLD_TIMER_EXPIRED, 0, &[]),
        Event::CollisionDump => Notification::cease(iana::CONNECTION_COLLISION_RESOLUTION),
        // RFC 6608 section 3.
        _ => {
            let subcode = match state {
                State::OpenSent => iana::UNEXPECTED_IN_OPEN_SENT,
                State::OpenConfirm => iana::UNEXPECTED_IN_OPEN_CONFIRM,
                State::Established => iana::UNEXPECTED_IN_ESTABLISHED,
                State::Idle | State::Connect | State::Active => 0,
            };
            Notification::new(iana::FSM_ERROR, subcode, &[])
        }
    }
}

/// Hold time and keepalive interval of a session, in seconds, from both sides' hold times (RFC 4271 section 4.2) and the
/// configured interval. A third of the hold time is the most there may be between KEEPALIVEs (section 4.4).
pub fn negotiate(ours: u16, theirs: u16, keepalive: Option<u16>) -> (u16, u16) {
    let hold = ours.min(theirs);
    (hold, keepalive.filter(|&k| k > 0).unwrap_or(u16::MAX).min(hold / 3))
}

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    Us,
    Peer,
}

/// Which of two connections with a peer stays: RFC 4271 section 6.8, with equal identifiers by AS (RFC 6286 section 2.3).
pub fn collision_winner(ours: (u32, u32), theirs: (u32, u32)) -> Initiator {
    if ours < theirs { Initiator::Peer } else { Initiator::Us }
}

#[cfg(test)]
mod tests;
