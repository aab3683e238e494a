//! Session settings as users write them to those that a session runs on (pure).
//!
//! A setting that cannot be used counts as absent and is named in a note; validation refuses it where it is written.

use std::ops::RangeInclusive;
use std::time::Duration;

use api::bgp_session::{
    AddPath, AddressFamily, BfdSettings, BgpSessionSettings, MaxPrefixesAction, MaxPrefixesSettings, Mode,
};
use api::{bgp_session, duration};

use crate::config::{
    Bfd, DEFAULT_CONNECT_RETRY, DEFAULT_HOLD_TIME, DEFAULT_RESTART_TIME, DEFAULT_SEND_HOLD_TIME, MaxPrefixes,
    PeerConfig, Role,
};

/// The shortest hold time but 0 (RFC 4271 section 4.2).
const SHORTEST_HOLD_TIME: Duration = Duration::from_secs(3);
/// More often than this is no use to anybody.
const SHORTEST_CONNECT_RETRY: Duration = Duration::from_millis(100);
/// The longest time that 16 bits of seconds hold.
const LONGEST: Duration = Duration::from_secs(u16::MAX as u64);
/// The longest restart time that RFC 4724's 12 bits hold.
const LONGEST_RESTART_TIME: Duration = Duration::from_secs(4095);
/// The longest stale time that RFC 9494's 24 bits hold.
const LONGEST_STALE_TIME: Duration = Duration::from_secs(0xff_ffff);
const LONGEST_DELAY_OPEN: Duration = Duration::from_secs(240);
/// The bounds of BFD's intervals, and where nothing is configured: as FRR's bfdd.
const BFD_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const DEFAULT_BFD_INTERVAL: Duration = Duration::from_millis(300);
const DEFAULT_BFD_MULTIPLIER: u8 = 3;
/// Enough for somebody to see what happened, short enough for nobody to have to.
const DEFAULT_RESTART_AFTER: Duration = Duration::from_secs(300);
/// As in FRR and IOS.
const DEFAULT_WARN_AT: u8 = 75;
/// RFC 9003 section 2.
const LONGEST_MESSAGE: usize = 255;

/// Fills `peer` from settings in which the precedence is already resolved.
pub struct Filler<'a> {
    /// The resource that notes name.
    pub origin: &'a str,
    /// No router is between the node and the peer.
    pub is_on_link: bool,
    pub notes: &'a mut Vec<String>,
}

impl Filler<'_> {
    /// Everything that does not depend on which nodes the session is between. `max_restart_time` and `keepalive_time` are
    /// Calico's own fields.
    pub fn fill(
        &mut self,
        peer: &mut PeerConfig,
        settings: &BgpSessionSettings,
        max_restart_time: Option<&str>,
        keepalive_time: Option<&str>,
    ) {
        self.fill_timers(peer, settings, max_restart_time, keepalive_time);
        if !settings.families.is_empty() {
            peer.v4 = settings.families.contains(&AddressFamily::IPv4);
            peer.v6 = settings.families.contains(&AddressFamily::IPv6);
        }
        let add_path = settings.add_path.unwrap_or(AddPath::None);
        peer.add_path_receive = matches!(add_path, AddPath::Receive | AddPath::Both);
        peer.add_path_send = matches!(add_path, AddPath::Send | AddPath::Both);
        peer.extended_messages = settings.extended_messages.unwrap_or(true);
        peer.extended_next_hop = settings.extended_next_hop.unwrap_or(peer.extended_next_hop);
        peer.bfd = settings.bfd.as_ref().and_then(|b| self.bfd(b));
        peer.max_prefixes = settings.max_prefixes.as_ref().and_then(|m| self.max_prefixes(m));
        peer.role = settings.role.map(role);
        peer.role_is_strict = peer.role.is_some() && settings.role_strict.unwrap_or(false);
        peer.requires_policy = settings.ebgp_requires_policy.unwrap_or(false);
        peer.graceful_shutdown = settings.graceful_shutdown.unwrap_or(false);
        peer.rejects_as_sets = settings.reject_as_sets.unwrap_or(false);
        peer.shutdown = settings.shutdown.as_ref().map(|s| truncated(&s.message).to_string());
    }

    fn fill_timers(
        &mut self,
        peer: &mut PeerConfig,
        settings: &BgpSessionSettings,
        max_restart_time: Option<&str>,
        keepalive_time: Option<&str>,
    ) {
        let hold = self.time("holdTime", settings.hold_time.as_deref(), SHORTEST_HOLD_TIME..=LONGEST, true);
        peer.hold_time = hold.map_or(DEFAULT_HOLD_TIME, seconds);
        peer.keepalive =
            self.time("keepaliveTime", keepalive_time, Duration::from_secs(1)..=LONGEST, false).map(seconds);
        let retry = SHORTEST_CONNECT_RETRY..=LONGEST;
        peer.connect_retry = self
            .time("connectRetryTime", settings.connect_retry_time.as_deref(), retry, false)
            .unwrap_or(DEFAULT_CONNECT_RETRY);
        let send_hold =
            self.time("sendHoldTime", settings.send_hold_time.as_deref(), SHORTEST_HOLD_TIME..=LONGEST, true);
        // RFC 9687 section 4.2: the longer of eight minutes and twice the hold time.
        peer.send_hold_time = send_hold.map_or(DEFAULT_SEND_HOLD_TIME.max(peer.hold_time.saturating_mul(2)), seconds);
        let delay = Duration::from_millis(1)..=LONGEST_DELAY_OPEN;
        peer.delay_open =
            self.time("delayOpenTime", settings.delay_open_time.as_deref(), delay, true).unwrap_or_default();
        let restart =
            self.time("maxRestartTime", max_restart_time, Duration::from_secs(1)..=LONGEST_RESTART_TIME, false);
        let is_on = settings.graceful_restart.as_ref().is_none_or(|g| g.mode == Mode::Enabled);
        peer.graceful_restart = is_on.then(|| restart.map_or(DEFAULT_RESTART_TIME, seconds));
        let stale = settings.long_lived_graceful_restart.as_ref().map(|l| l.stale_time.as_str());
        let stale =
            self.time("longLivedGracefulRestart.staleTime", stale, Duration::from_secs(1)..=LONGEST_STALE_TIME, true);
        // RFC 9494 section 3.1: only together with the graceful restart capability.
        peer.long_lived_stale_time =
            stale.map(|s| s.as_secs_f64().round() as u32).filter(|s| *s > 0 && peer.graceful_restart.is_some());
    }

    fn bfd(&mut self, settings: &BfdSettings) -> Option<Bfd> {
        if settings.mode == Some(Mode::Disabled) {
            return None;
        }
        let is_on_link = self.is_on_link;
        let mut interval = |field, value: &Option<String>| {
            self.time(field, value.as_deref(), BFD_INTERVALS, false).unwrap_or(DEFAULT_BFD_INTERVAL)
        };
        Some(Bfd {
            min_rx: interval("bfd.minRxInterval", &settings.min_rx_interval),
            min_tx: interval("bfd.minTxInterval", &settings.min_tx_interval),
            multiplier: settings.multiplier.filter(|m| *m > 0).unwrap_or(DEFAULT_BFD_MULTIPLIER),
            is_multihop: settings.multihop.unwrap_or(!is_on_link),
        })
    }

    fn max_prefixes(&mut self, settings: &MaxPrefixesSettings) -> Option<MaxPrefixes> {
        if settings.limit == 0 {
            return None;
        }
        let action = settings.action.unwrap_or_default();
        let longest = Duration::from_secs(86_400 * 7);
        let after = settings.restart_after.as_deref();
        let after = self.time("maxPrefixes.restartAfter", after, Duration::from_secs(1)..=longest, false);
        Some(MaxPrefixes {
            limit: settings.limit,
            warn_at: settings.warn_at.filter(|w| (1..=100).contains(w)).unwrap_or(DEFAULT_WARN_AT),
            ends_session: action != MaxPrefixesAction::Warn,
            restart_after: (action == MaxPrefixesAction::Restart).then(|| after.unwrap_or(DEFAULT_RESTART_AFTER)),
        })
    }

    /// A duration within bounds; one that is none or is out of them is noted and counts as absent.
    fn time(
        &mut self,
        field: &str,
        value: Option<&str>,
        range: RangeInclusive<Duration>,
        or_zero: bool,
    ) -> Option<Duration> {
        let value = value.filter(|v| !v.is_empty())?;
        let time = duration::parse(value).filter(|d| range.contains(d) || (or_zero && d.is_zero()));
        if time.is_none() {
            let zero = if or_zero { "0s or " } else { "" };
            let (least, most) = (duration::format(*range.start()), duration::format(*range.end()));
            self.notes.push(format!(
                "{}: {field} is '{value}', it must be {zero}a duration from {least} to {most}; the default is used",
                self.origin
            ));
        }
        time
    }
}

/// The resource's word for it: `api` knows no protocol.
fn role(role: bgp_session::Role) -> Role {
    match role {
        bgp_session::Role::Provider => Role::Provider,
        bgp_session::Role::RouteServer => Role::RouteServer,
        bgp_session::Role::RouteServerClient => Role::RouteServerClient,
        bgp_session::Role::Customer => Role::Customer,
        bgp_session::Role::Peer => Role::Peer,
    }
}

/// Whole seconds, rounded as Calico does. The bounds keep it within 16 bits, and a time that is not zero is not made so.
fn seconds(time: Duration) -> u16 {
    let least = if time.is_zero() { 0.0 } else { 1.0 };
    time.as_secs_f64().round().clamp(least, u16::MAX.into()) as u16
}

/// What fits into a Shutdown Communication.
fn truncated(message: &str) -> &str {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests;
