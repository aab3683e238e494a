//! The machine of one connection: the table, run, with its timers.
//!
//! After a failure the wait before the next attempt doubles, from [`FIRST_WAIT`] up to ConnectRetryTime, in Active as in Idle
//! (there it is the IdleHoldTime of DampPeerOscillations): two that start together find each other at once, and one that
//! stays away is asked as often as configured. A session that lived for ConnectRetryTime begins anew. Timers are jittered as
//! RFC 4271 section 10 says.

use std::time::{Duration, Instant};

use super::table::{Options, Step, transition};
use super::{Action, Again, Event, EventKind, State};
use crate::wire::Notification;
use crate::wire::iana;

/// "Large value" of the hold timer until the peer's OPEN (RFC 4271 section 8.2.2: four minutes).
pub const OPEN_HOLD_TIME: Duration = Duration::from_secs(240);
/// The wait after a first failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(250);

/// What the peer's configuration says to the machine. A new one counts from the next use of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub passive: bool,
    /// ConnectRetryTime.
    pub connect_retry: Duration,
    /// DelayOpenTime; zero: the OPEN is sent at once.
    pub delay_open: Duration,
    /// SendHoldTime (RFC 9687); zero: for ever.
    pub send_hold: Duration,
}

/// When each timer runs out; `None`: it does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    pub connect_retry: Option<Instant>,
    pub hold: Option<Instant>,
    pub keepalive: Option<Instant>,
    pub delay_open: Option<Instant>,
    pub idle_hold: Option<Instant>,
    pub send_hold: Option<Instant>,
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        let all = [self.connect_retry, self.hold, self.keepalive, self.delay_open, self.idle_hold, self.send_hold];
        all.into_iter().flatten().min()
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Fsm {
    config: Config,
    state: State,
    timers: Timers,
    /// Stopped by ourselves, for a time or for good: nobody is let in.
    held_off: bool,
    /// As negotiated; zero: no timers.
    hold_time: Duration,
    keepalive_time: Duration,
    next_wait: Duration,
    up_since: Option<Instant>,
    jitter: u64,
}

impl Fsm {
    /// In Idle, with no timer. `seed` is of the timers' jitter: another one for each machine, so that they do not march in
    /// step.
    pub fn new(config: Config, seed: u64) -> Fsm {
        Fsm {
            config,
            state: State::Idle,
            timers: Timers::default(),
            held_off: false,
            hold_time: Duration::ZERO,
            keepalive_time: Duration::ZERO,
            next_wait: FIRST_WAIT.min(config.connect_retry),
            up_since: None,
            jitter: seed,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// For display.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Hold time and keepalive interval as negotiated; zero: none.
    pub fn negotiated(&self) -> (Duration, Duration) {
        (self.hold_time, self.keepalive_time)
    }

    /// Whether a connection of the peer is welcome, as far as this machine is concerned.
    pub fn is_held_off(&self) -> bool {
        self.held_off
    }

    /// Replaces the configuration.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
        self.next_wait = self.next_wait.min(config.connect_retry);
    }

    /// Another keepalive interval for the running session, at most a third of the hold time.
    pub fn set_keepalive(&mut self, configured: Option<u16>, now: Instant) {
        let hold = self.hold_time.as_secs() as u16;
        self.keepalive_time = Duration::from_secs(negotiate(hold, hold, configured).1.into());
        if self.timers.keepalive.is_some() {
            self.timers.keepalive = self.running(now, self.keepalive_time, true);
        }
    }

    /// When [`Fsm::expired`] has something to say, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next timer that has run out; hand it to [`Fsm::handle`], until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<Event> {
        let timers = &mut self.timers;
        let order = [
            (&mut timers.send_hold, Event::SendHoldExpires),
            (&mut timers.hold, Event::HoldExpires),
            (&mut timers.keepalive, Event::KeepaliveExpires),
            (&mut timers.connect_retry, Event::ConnectRetryExpires),
            (&mut timers.delay_open, Event::DelayOpenExpires),
            (&mut timers.idle_hold, Event::IdleHoldExpires),
        ];
        let (timer, event) = order.into_iter().find(|(timer, _)| timer.is_some_and(|t| t <= now))?;
        *timer = None;
        Some(event)
    }

    /// Takes an event and says what to do about it, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let before = self.state;
        let kind = self.kind(&event);
        if let Event::Open { hold_time, keepalive } = event {
            self.hold_time = Duration::from_secs(hold_time.into());
            self.keepalive_time = Duration::from_secs(keepalive.into());
        }
        let again = match &event {
            Event::AutomaticStop(_, again) => *again,
            _ => Again::Backoff,
        };
        let options = Options { passive: self.config.passive, delay_open: !self.config.delay_open.is_zero() };
        let (next, steps) = transition(before, kind, options);
        self.state = next;
        // Whoever stops it decides anew; a start ends it.
        if next != State::Idle || matches!(kind, EventKind::ManualStop) {
            self.held_off = false;
        }
        let mut notification = Some(notification(before, event));
        steps.iter().filter_map(|&step| self.step(step, now, again, &mut notification)).collect()
    }

    /// The common events of a busy session, without a list of actions: an UPDATE or KEEPALIVE in Established.
    pub fn is_alive(&mut self, now: Instant) {
        if self.timers.hold.is_some() {
            self.timers.hold = Some(now + self.hold_time);
        }
    }

    /// UPDATEs went out: they say as well as a KEEPALIVE that we live (RFC 4271 section 8.2.2, Established).
    pub fn has_sent(&mut self, now: Instant) {
        if self.timers.keepalive.is_some() {
            self.timers.keepalive = self.running(now, self.keepalive_time, true);
        }
    }

    /// SendHoldTimer (RFC 9687): since when the socket has taken nothing of what waits for it; `None`: it takes. A KEEPALIVE is
    /// due often enough that there is always something to take, so this is the timer that every sent message restarts.
    pub fn set_blocked(&mut self, since: Option<Instant>) {
        // RFC 9687 section 3: stopped where SendHoldTime or the negotiated hold time is zero.
        let is_off = self.config.send_hold.is_zero() || self.hold_time.is_zero();
        let runs = self.state == State::Established && !is_off;
        self.timers.send_hold = since.filter(|_| runs).map(|since| since + self.config.send_hold);
    }

    /// Whether the SendHoldTimer runs.
    pub fn is_blocked(&self) -> bool {
        self.timers.send_hold.is_some()
    }

    fn kind(&self, event: &Event) -> EventKind {
        let passive = self.config.passive;
        match event {
            Event::ManualStart if passive => EventKind::ManualStartPassive,
            Event::ManualStart => EventKind::ManualStart,
            Event::ManualStop(_) => EventKind::ManualStop,
            Event::AutomaticStart => match (self.timers.idle_hold.is_some(), passive) {
                (false, false) => EventKind::AutomaticStart,
                (false, true) => EventKind::AutomaticStartPassive,
                (true, false) => EventKind::AutomaticStartDamped,
                (true, true) => EventKind::AutomaticStartDampedPassive,
            },
            Event::AutomaticStop(..) => EventKind::AutomaticStop,
            Event::ConnectRetryExpires => EventKind::ConnectRetryExpires,
            Event::HoldExpires => EventKind::HoldExpires,
            Event::KeepaliveExpires => EventKind::KeepaliveExpires,
            Event::DelayOpenExpires => EventKind::DelayOpenExpires,
            Event::IdleHoldExpires => EventKind::IdleHoldExpires,
            Event::TcpValid => EventKind::TcpValid,
            Event::TcpInvalid => EventKind::TcpInvalid,
            Event::TcpAcked => EventKind::TcpAcked,
            Event::TcpConfirmed => EventKind::TcpConfirmed,
            Event::TcpFails => EventKind::TcpFails,
            Event::Open { .. } if self.timers.delay_open.is_some() => EventKind::OpenWhileDelayed,
            Event::Open { .. } => EventKind::Open,
            Event::HeaderError(_) => EventKind::HeaderError,
            Event::OpenError(_) => EventKind::OpenError,
            Event::CollisionDump => EventKind::CollisionDump,
            Event::NotificationVersionError => EventKind::NotificationVersionError,
            Event::Notification => EventKind::Notification,
            Event::Keepalive => EventKind::Keepalive,
            Event::Update => EventKind::Update,
            Event::UpdateError(_) => EventKind::UpdateError,
            Event::SendHoldExpires => EventKind::SendHoldExpires,
        }
    }

    fn step(
        &mut self,
        step: Step,
        now: Instant,
        again: Again,
        notification: &mut Option<Notification>,
    ) -> Option<Action> {
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
            Step::Retry => self.timers.connect_retry = self.running(now, self.config.connect_retry, true),
            Step::RetryWait => self.timers.connect_retry = Some(now + self.wait()),
            Step::StopRetry => self.timers.connect_retry = None,
            Step::DelayOpen => self.timers.delay_open = self.running(now, self.config.delay_open, true),
            Step::HoldOpen => self.timers.hold = Some(now + OPEN_HOLD_TIME),
            Step::HoldNegotiated => {
                self.timers.hold = self.running(now, self.hold_time, false);
                self.timers.keepalive = self.running(now, self.keepalive_time, true);
            }
            Step::RestartHold => self.timers.hold = self.running(now, self.hold_time, false),
            Step::RestartKeepalive => self.timers.keepalive = self.running(now, self.keepalive_time, true),
            Step::IdleHold => self.idle_hold(now, again),
            Step::Clear => self.timers = Timers::default(),
        }
        None
    }

    fn idle_hold(&mut self, now: Instant, again: Again) {
        self.held_off = again != Again::Backoff;
        self.timers.idle_hold = match again {
            Again::Backoff => Some(now + self.wait()),
            Again::After(time) => Some(now + time),
            Again::Never => None,
        };
    }

    /// When a timer of `time` that starts now runs out; one of zero does not run.
    fn running(&mut self, now: Instant, time: Duration, is_jittered: bool) -> Option<Instant> {
        let time = if is_jittered { self.jittered(time) } else { time };
        (!time.is_zero()).then(|| now + time)
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
        Event::ManualStop(n) | Event::AutomaticStop(n, _) => n,
        Event::HeaderError(n) | Event::OpenError(n) | Event::UpdateError(n) => n,
        Event::HoldExpires => Notification::new(iana::HOLD_TIMER_EXPIRED, 0, &[]),
        Event::SendHoldExpires => Notification::new(iana::SEND_HOLD_TIMER_EXPIRED, 0, &[]),
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
