//! One session (RFC 5880 section 6.8): events in, packets and news out, timers as deadlines.
//!
//! - [`transition`] is the state machine of sections 6.2, 6.8.4, 6.8.6 and 6.8.16 as a table.
//! - Intervals that both ends use change only as section 6.8.3 allows: with a poll sequence, and not before its end where the
//!   other end would lose packets that it counts on.
//! - Below Up a packet goes out once a second at most, whatever is configured (section 6.8.3).

use std::time::{Duration, Instant};

use crate::packet::{Diag, Micros, Packet, State};

/// Section 6.8.3: the least Desired Min TX Interval while the session is not Up.
const SLOW_START: Micros = 1_000_000;
/// Section 6.8.1: bfd.RemoteMinRxInterval before anything was heard.
const FIRST_REMOTE_MIN_RX: Micros = 1;

/// What is configured, and may change while the session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Desired Min TX Interval once the session is Up. Not 0 (section 4.1: reserved).
    pub min_tx: Micros,
    /// Required Min RX Interval; 0: the other end is to send no periodic packets.
    pub min_rx: Micros,
    /// Detect Mult. Not 0.
    pub multiplier: u8,
}

impl Timers {
    /// Intervals that cannot travel are brought to the nearest that can.
    pub fn new(min_tx: Duration, min_rx: Duration, multiplier: u8) -> Timers {
        let micros = |d: Duration| Micros::try_from(d.as_micros()).unwrap_or(Micros::MAX);
        Timers { min_tx: micros(min_tx).max(1), min_rx: micros(min_rx), multiplier: multiplier.max(1) }
    }
}

/// What happens to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet that [`crate::sessions::Sessions::select`] found to be for this session.
    Received(Packet),
    /// A deadline may have passed; see [`Session::next_deadline`].
    Timer,
    /// Other timers are configured. No flap: a poll sequence tells the other end.
    Configure(Timers),
    /// Section 6.8.16: taken down by the administrator, and put back.
    AdminDown,
    AdminUp,
    /// Somebody outside knows that the path is gone (section 6.8.16): the interface lost its carrier.
    PathDown,
}

/// What the shell has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send(Packet),
    Up,
    /// The session was Up.
    Down(Down),
}

/// How a session that was Up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    pub diag: Diag,
    /// One of the administrators took it down: no failure of the path (RFC 5882 section 3.2).
    pub by_administrator: bool,
    /// The other end's BFD lives on when its control plane dies (C bit): the path is gone, and with it what the other end
    /// would forward while it restarts (RFC 5882 section 4.3.2).
    pub control_plane_independent: bool,
}

/// Events as the state machine sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Received(State),
    DetectionTimeExpires,
    AdminDown,
    AdminUp,
    PathDown,
}

/// The next state, and the diagnostic if it is a new one; `None`: nothing changes.
pub fn transition(state: State, event: Kind) -> Option<(State, Option<Diag>)> {
    use Kind as K;
    use State as S;
    match (state, event) {
        (S::AdminDown, K::AdminUp) => Some((S::Down, Some(Diag::NONE))),
        // Section 6.8.6: a session in AdminDown discards what it receives, and section 6.8.16 lets nothing else end it.
        (S::AdminDown, _) => None,
        (_, K::AdminDown) => Some((S::AdminDown, Some(Diag::ADMINISTRATIVELY_DOWN))),
        (S::Down, K::Received(S::Down)) => Some((S::Init, None)),
        (S::Down, K::Received(S::Init)) => Some((S::Up, None)),
        (S::Init, K::Received(S::Init | S::Up)) => Some((S::Up, None)),
        // In Init only AdminDown says so: the other end in Down has not heard us yet.
        (S::Init, K::Received(S::AdminDown)) | (S::Up, K::Received(S::AdminDown | S::Down)) => {
            Some((S::Down, Some(Diag::NEIGHBOUR_SIGNALED_DOWN)))
        }
        (S::Init | S::Up, K::DetectionTimeExpires) => Some((S::Down, Some(Diag::DETECTION_TIME_EXPIRED))),
        (S::Init | S::Up, K::PathDown) => Some((S::Down, Some(Diag::PATH_DOWN))),
        (S::Down, K::Received(S::AdminDown | S::Up) | K::DetectionTimeExpires | K::PathDown | K::AdminUp)
        | (S::Init, K::Received(S::Down) | K::AdminUp)
        | (S::Up, K::Received(S::Init | S::Up) | K::AdminUp) => None,
    }
}

/// The poll sequence of section 6.5: one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    None,
    /// P is set until a packet with F comes.
    Running,
    /// What is polled for changed on the way: F may answer what was said before, so another one follows.
    Again,
}

/// What the other end said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remote {
    discriminator: u32,
    state: State,
    desired_min_tx: Micros,
    required_min_rx: Micros,
    multiplier: u8,
    demand: bool,
    control_plane_independent: bool,
    diag: Diag,
}

impl Remote {
    /// Section 6.8.1: the initial values, also those after a Detection Time of silence.
    const UNHEARD: Remote = Remote {
        discriminator: 0,
        state: State::Down,
        desired_min_tx: 0,
        required_min_rx: FIRST_REMOTE_MIN_RX,
        multiplier: 0,
        demand: false,
        control_plane_independent: false,
        diag: Diag::NONE,
    };
}

/// How a session is, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub remote_state: State,
    pub diag: Diag,
    pub remote_diag: Diag,
    pub local_discriminator: u32,
    /// 0: not known.
    pub remote_discriminator: u32,
    pub desired_min_tx: Micros,
    pub required_min_rx: Micros,
    pub multiplier: u8,
    pub remote_desired_min_tx: Micros,
    pub remote_required_min_rx: Micros,
    pub remote_multiplier: u8,
    /// Between two of our packets, before jitter; `None`: none are sent.
    pub transmit_interval: Option<Duration>,
    /// `None`: nothing was heard.
    pub detection_time: Option<Duration>,
    pub polls: bool,
    pub remote_demand: bool,
    pub remote_control_plane_independent: bool,
}

/// See the module. Active: it sends from the start.
#[derive(Clone, Debug)]
pub struct Session {
    configured: Timers,
    local_discriminator: u32,
    state: State,
    diag: Diag,
    /// bfd.DesiredMinTxInterval.
    desired_min_tx: Micros,
    /// What our packets are paced by: an increase waits for the end of the poll sequence.
    paced_by: Micros,
    /// What the detection time is made of: a decrease of bfd.RequiredMinRxInterval waits for the end of the poll sequence.
    expected: Micros,
    remote: Remote,
    poll: Poll,
    last_sent: Option<Instant>,
    /// State of the random numbers, and the present one, from 0 to 1: where in its range the next interval is.
    random: u64,
    lot: f64,
    transmit_at: Option<Instant>,
    detect_at: Option<Instant>,
}

impl Session {
    /// In Down; the first packet goes out with the first [`Event::Timer`]. `local_discriminator` is not 0 and no other
    /// session's. `seed` is of the jitter, which is another one for each session.
    pub fn new(timers: Timers, local_discriminator: u32, seed: u64, now: Instant) -> Session {
        let desired_min_tx = timers.min_tx.max(SLOW_START);
        Session {
            configured: timers,
            local_discriminator,
            state: State::Down,
            diag: Diag::NONE,
            desired_min_tx,
            paced_by: desired_min_tx,
            expected: timers.min_rx,
            remote: Remote::UNHEARD,
            poll: Poll::None,
            last_sent: None,
            random: seed,
            lot: 1.0,
            transmit_at: Some(now),
            detect_at: None,
        }
    }

    /// When [`Event::Timer`] has something to do, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.transmit_at, self.detect_at].into_iter().flatten().min()
    }

    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            remote_state: self.remote.state,
            diag: self.diag,
            remote_diag: self.remote.diag,
            local_discriminator: self.local_discriminator,
            remote_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.configured.min_rx,
            multiplier: self.configured.multiplier,
            remote_desired_min_tx: self.remote.desired_min_tx,
            remote_required_min_rx: self.remote.required_min_rx,
            remote_multiplier: self.remote.multiplier,
            transmit_interval: self.is_periodic().then(|| self.transmit_interval()),
            detection_time: self.detection_time(),
            polls: self.poll != Poll::None,
            remote_demand: self.remote.demand,
            remote_control_plane_independent: self.remote.control_plane_independent,
        }
    }

    /// Takes an event and says what to do about it, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Received(packet) => self.receive(packet, now, &mut actions),
            Event::Timer => self.expire(now, &mut actions),
            Event::Configure(timers) => self.configure(timers, now, &mut actions),
            Event::AdminDown => self.step(Kind::AdminDown, now, &mut actions),
            Event::AdminUp => self.step(Kind::AdminUp, now, &mut actions),
            Event::PathDown => self.step(Kind::PathDown, now, &mut actions),
        }
        actions
    }

    /// Section 6.8.6, from the point where the session is known.
    fn receive(&mut self, packet: Packet, now: Instant, actions: &mut Vec<Action>) {
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            multiplier: packet.multiplier,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
            diag: packet.diag,
        };
        let polls_again = packet.is_final && self.end_poll();
        self.reschedule(now);
        self.detect_at = self.detection_time().map(|time| now + time);
        if self.state == State::AdminDown {
            return;
        }
        self.step(Kind::Received(packet.state), now, actions);
        // Demand mode of the other end begins and ends with what was received.
        self.reschedule(now);
        if packet.poll {
            actions.push(Action::Send(self.answer()));
        }
        if polls_again {
            self.transmit(now, actions);
        }
    }

    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            let control_plane_independent = self.remote.control_plane_independent;
            // Section 6.8.1: the discriminator goes in any state, and what else was said is as old.
            self.remote = Remote { control_plane_independent, ..Remote::UNHEARD };
            self.step(Kind::DetectionTimeExpires, now, actions);
            self.reschedule(now);
        }
        if self.transmit_at.is_some_and(|at| at <= now) {
            self.transmit(now, actions);
        }
    }

    /// Section 6.8.3.
    fn configure(&mut self, timers: Timers, now: Instant, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.configured, timers);
        if before == timers {
            return;
        }
        let tx_changed = self.set_desired_min_tx();
        // While Up a lower one is expected only when the other end has said that it knows.
        self.expected = if self.state == State::Up { self.expected.max(timers.min_rx) } else { timers.min_rx };
        if tx_changed || before.min_rx != timers.min_rx {
            self.begin_poll();
        }
        self.reschedule(now);
        if let Some(at) = self.detect_at {
            // A longer time counts at once. It began with the last packet, which a running deadline does not tell: from now on.
            self.detect_at = self.detection_time().map(|time| at.max(now + time));
        }
        // Section 6.8.7: what differs from the last packet goes out between two periodic ones.
        self.transmit(now, actions);
    }

    fn step(&mut self, kind: Kind, now: Instant, actions: &mut Vec<Action>) {
        let Some((next, diag)) = transition(self.state, kind) else { return };
        let before = std::mem::replace(&mut self.state, next);
        self.diag = diag.unwrap_or(self.diag);
        let changed = self.set_desired_min_tx();
        if next == State::Up {
            actions.push(Action::Up);
        } else if before == State::Up {
            let by_administrator = matches!(kind, Kind::AdminDown | Kind::Received(State::AdminDown));
            let control_plane_independent = self.remote.control_plane_independent;
            actions.push(Action::Down(Down { diag: self.diag, by_administrator, control_plane_independent }));
        }
        if next != State::Up {
            self.expected = self.configured.min_rx;
        }
        if changed {
            self.begin_poll();
        }
        self.transmit(now, actions);
    }

    /// bfd.DesiredMinTxInterval for the state; whether it is another one now. A lower one paces at once: the other end's
    /// detection time allows for more packets than it expects.
    fn set_desired_min_tx(&mut self) -> bool {
        let wanted = match self.state {
            State::Up => self.configured.min_tx,
            State::AdminDown | State::Down | State::Init => self.configured.min_tx.max(SLOW_START),
        };
        let changed = std::mem::replace(&mut self.desired_min_tx, wanted) != wanted;
        self.paced_by = if self.state == State::Up { self.paced_by.min(wanted) } else { wanted };
        changed
    }

    fn begin_poll(&mut self) {
        self.poll = match self.poll {
            // Nobody would hear the answer, which is discarded there.
            _ if self.state == State::AdminDown => Poll::None,
            Poll::None => Poll::Running,
            Poll::Running | Poll::Again => Poll::Again,
        };
    }

    /// The other end has heard what was polled for; whether there is more.
    fn end_poll(&mut self) -> bool {
        self.poll = match self.poll {
            Poll::None => return false,
            Poll::Again => {
                self.poll = Poll::Running;
                return true;
            }
            Poll::Running => Poll::None,
        };
        self.paced_by = self.desired_min_tx;
        self.expected = self.configured.min_rx;
        false
    }

    /// Section 6.8.7: whether packets go out by themselves.
    fn is_periodic(&self) -> bool {
        let is_demanded =
            self.remote.demand && self.state == State::Up && self.remote.state == State::Up && self.poll == Poll::None;
        self.remote.required_min_rx != 0 && !is_demanded
    }

    /// Section 6.8.2.
    fn transmit_interval(&self) -> Duration {
        micros(self.paced_by.max(self.remote.required_min_rx))
    }

    /// Section 6.8.4; `None` while nothing was heard.
    fn detection_time(&self) -> Option<Duration> {
        let interval = micros(self.expected.max(self.remote.desired_min_tx));
        (self.remote.discriminator != 0).then(|| interval * u32::from(self.remote.multiplier))
    }

    /// Section 6.8.2: another interval counts from the last packet on.
    fn reschedule(&mut self, now: Instant) {
        self.transmit_at = match (self.is_periodic(), self.last_sent) {
            (false, _) => None,
            (true, None) => Some(now),
            (true, Some(last)) => Some((last + self.jittered_interval()).max(now)),
        };
    }

    fn transmit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Send(self.packet()));
        self.last_sent = Some(now);
        self.lot = (next_random(&mut self.random) >> 32) as f64 / f64::from(u32::MAX);
        self.reschedule(now);
    }

    fn packet(&self) -> Packet {
        Packet {
            diag: self.diag,
            state: self.state,
            poll: self.poll != Poll::None,
            is_final: false,
            control_plane_independent: false,
            authenticated: false,
            demand: false,
            multiplier: self.configured.multiplier,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.configured.min_rx,
            required_min_echo_rx: 0,
        }
    }

    /// Section 6.8.7: the answer to a packet with P, apart from the periodic ones.
    fn answer(&self) -> Packet {
        Packet { poll: false, is_final: true, ..self.packet() }
    }

    /// Section 6.8.7: 75 to 100 % of the interval, at most 90 % where one lost packet is too many. The same until the next
    /// packet goes out, so that what is received does not move it.
    fn jittered_interval(&self) -> Duration {
        let most = if self.configured.multiplier == 1 { 0.90 } else { 1.0 };
        self.transmit_interval().mul_f64(0.75 + (most - 0.75) * self.lot)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn micros(interval: Micros) -> Duration {
    Duration::from_micros(interval.into())
}

#[cfg(test)]
mod tests;
