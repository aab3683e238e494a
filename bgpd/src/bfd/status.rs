//! How a session is and was, for display.

use std::time::Duration;

use ::bfd::packet::{Discard, Micros, State};
use ::bfd::sessions::{Entry, Hops};
use jiff::Timestamp;
use serde::Serialize;

use super::Notice;

/// `bfd` of a peer in `/v1/peers`. Times are milliseconds; absent ones are not known or do not apply.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// `Up`, `Init`, `Down` or `AdminDown`; of the other end as it last said.
    pub state: &'static str,
    pub remote_state: &'static str,
    /// `single-hop` or `multihop`.
    pub kind: &'static str,
    /// Why the session last went down, in RFC 5880's words; of the other end as it last said.
    pub diagnostic: String,
    pub remote_diagnostic: String,
    pub up_since: Option<Timestamp>,
    /// How often it went from Up to Down.
    pub flaps: u64,
    /// Between two of our packets, and between two of the other end's, as negotiated.
    pub transmit_interval: Option<f64>,
    pub receive_interval: Option<f64>,
    pub detection_time: Option<f64>,
    /// What each end asks for.
    pub desired_min_tx: f64,
    pub required_min_rx: f64,
    pub multiplier: u8,
    pub remote_desired_min_tx: Option<f64>,
    pub remote_required_min_rx: Option<f64>,
    pub remote_multiplier: Option<u8>,
    pub local_discriminator: u32,
    pub remote_discriminator: Option<u32>,
    pub sent: u64,
    pub received: u64,
    /// Packets from the peer's address that were discarded, and why the last one was.
    pub discarded: u64,
    pub last_discard: Option<&'static str>,
    /// Why no packet can be sent or received.
    pub problem: Option<String>,
}

/// What happened to a session.
#[derive(Debug, Default)]
pub struct History {
    up_since: Option<Timestamp>,
    flaps: u64,
    sent: u64,
    discarded: u64,
    last_discard: Option<Discard>,
    problem: Option<String>,
}

impl History {
    pub fn changed(&mut self, notice: Notice) {
        match notice {
            Notice::Up => self.up_since = Some(Timestamp::now()),
            Notice::Down(_) => {
                self.up_since = None;
                self.flaps += 1;
            }
        }
    }

    pub fn discarded(&mut self, reason: Discard) {
        self.discarded += 1;
        self.last_discard = Some(reason);
    }

    /// Notes how a packet went; what is new about it goes to the log.
    pub fn sent(&mut self, result: Result<(), String>) -> Option<String> {
        self.sent += u64::from(result.is_ok());
        let problem = result.err();
        let is_new = problem.is_some() && problem != self.problem;
        self.problem = problem;
        self.problem.clone().filter(|_| is_new)
    }

    pub fn status(&self, entry: &Entry) -> BfdStatus {
        let s = entry.session.status();
        let heard = s.remote_discriminator != 0;
        let receive_interval = heard.then(|| millis(s.required_min_rx.max(s.remote_desired_min_tx)));
        BfdStatus {
            state: s.state.name(),
            remote_state: s.remote_state.name(),
            kind: match entry.path.hops {
                Hops::Single => "single-hop",
                Hops::Multi => "multihop",
            },
            diagnostic: s.diag.to_string(),
            remote_diagnostic: s.remote_diag.to_string(),
            up_since: self.up_since.filter(|_| s.state == State::Up),
            flaps: self.flaps,
            transmit_interval: s.transmit_interval.map(duration_millis),
            receive_interval,
            detection_time: s.detection_time.map(duration_millis),
            desired_min_tx: millis(s.desired_min_tx),
            required_min_rx: millis(s.required_min_rx),
            multiplier: s.multiplier,
            remote_desired_min_tx: heard.then(|| millis(s.remote_desired_min_tx)),
            remote_required_min_rx: heard.then(|| millis(s.remote_required_min_rx)),
            remote_multiplier: heard.then_some(s.remote_multiplier),
            local_discriminator: s.local_discriminator,
            remote_discriminator: heard.then_some(s.remote_discriminator),
            sent: self.sent,
            received: entry.received,
            discarded: self.discarded,
            last_discard: self.last_discard.map(words),
            problem: self.problem.clone(),
        }
    }
}

fn millis(interval: Micros) -> f64 {
    f64::from(interval) / 1000.0
}

fn duration_millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn words(reason: Discard) -> &'static str {
    match reason {
        Discard::Ttl => "the TTL is too low: it was routed, or the peer does not send 255 (RFC 5881 section 5)",
        Discard::Version => "the version is not 1",
        Discard::Length => "the length is wrong",
        Discard::MultiplierZero => "Detect Mult is 0",
        Discard::Multipoint => "the M bit is set",
        Discard::MyDiscriminatorZero => "My Discriminator is 0",
        Discard::NoSession => {
            "Your Discriminator is that of no session, or the local address or the interface is not the session's"
        }
        Discard::YourDiscriminatorZero => "Your Discriminator is 0 in Init or Up",
        Discard::Authenticated => "the peer uses authentication, which is not supported",
    }
}
