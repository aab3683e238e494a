//! The session settings that a BGPPeer and a BGPConfiguration have beside Calico's fields ([`crate::bgp_session`]).

use std::time::Duration;

use super::super::Format::*;
use super::super::Type::*;
use super::super::{Field, Object, Span, Type};
use super::{ENABLED, f, object, req};

/// The longest time that 16 bits of seconds hold.
const LONGEST: Duration = Duration::from_secs(65_535);

const fn within(span: &'static Span) -> Type {
    Text(Within(span))
}

const fn span(least: Duration, most: Duration, or_zero: bool, source: &'static str, advice: &'static str) -> Span {
    Span { least, most, or_zero, source, advice }
}

static HOLD_TIME: Span =
    span(Duration::from_secs(3), LONGEST, true, "RFC 4271 section 4.2", "use 9s for fast detection, 90s otherwise");
pub(super) static KEEPALIVE_TIME: Span =
    span(Duration::from_secs(1), LONGEST, false, "", "leave it out for a third of the hold time");
static CONNECT_RETRY_TIME: Span = span(Duration::from_millis(100), LONGEST, false, "", "5s is the default");
static SEND_HOLD_TIME: Span =
    span(Duration::from_secs(3), LONGEST, true, "RFC 9687", "8m is the default; it is longer than the hold time");
static DELAY_OPEN_TIME: Span =
    span(Duration::from_millis(1), Duration::from_secs(240), true, "", "0s, the default, sends the OPEN at once");
static STALE_TIME: Span = span(
    Duration::from_secs(1),
    Duration::from_secs(0xff_ffff),
    true,
    "RFC 9494 section 3.1",
    "use 60s to bridge a reboot, 24h to bridge a night",
);
static BFD_INTERVAL: Span = span(
    Duration::from_millis(10),
    Duration::from_secs(60),
    false,
    "",
    "300ms is the default; 100ms with multiplier 3 detects in 300ms",
);
static RESTART_AFTER: Span =
    span(Duration::from_secs(1), Duration::from_secs(86_400 * 7), false, "", "5m is the default");

static GRACEFUL_RESTART: Object = object("GracefulRestartSettings", &[req("mode", ENABLED)]);
static LONG_LIVED: Object = object("LongLivedGracefulRestartSettings", &[req("staleTime", within(&STALE_TIME))]);
static BFD: Object = object(
    "BFDSettings",
    &[
        f("mode", ENABLED),
        f("minRxInterval", within(&BFD_INTERVAL)),
        f("minTxInterval", within(&BFD_INTERVAL)),
        f("multiplier", Int(1, 255)),
        f("multihop", Bool),
    ],
);
static MAX_PREFIXES: Object = object(
    "MaxPrefixesSettings",
    &[
        req("limit", Int(0, u32::MAX as i64)),
        f("action", Text(OneOf(&["Restart", "Shutdown", "Warn"]))),
        f("restartAfter", within(&RESTART_AFTER)),
        f("warnAt", Int(1, 100)),
    ],
);
static SHUTDOWN: Object = object("ShutdownSettings", &[f("message", Text(Free))]);

pub(super) const FIELDS: &[Field] = &[
    f("holdTime", within(&HOLD_TIME)).or("90s").is("RFC 4271; 0s: none"),
    f("connectRetryTime", within(&CONNECT_RETRY_TIME)).or("5s"),
    f("sendHoldTime", within(&SEND_HOLD_TIME)).or("8m or twice the hold time").is("RFC 9687"),
    f("delayOpenTime", within(&DELAY_OPEN_TIME)).or("0s"),
    f("gracefulRestart", Object(&GRACEFUL_RESTART)).or("Enabled").is("RFC 4724"),
    f("longLivedGracefulRestart", Object(&LONG_LIVED)).or("off").is("RFC 9494"),
    f("families", List(&Text(OneOf(&["IPv4", "IPv6"])))).or("those of the addresses"),
    f("addPath", Text(OneOf(&["None", "Receive", "Send", "Both"]))).or("None").is("RFC 7911"),
    f("extendedNextHop", Bool).or("false").is("RFC 8950"),
    f("extendedMessages", Bool).or("false").is("RFC 8654"),
    f("bfd", Object(&BFD)).or("off").is("RFC 5880; `{}` turns it on"),
    f("maxPrefixes", Object(&MAX_PREFIXES)).or("no bound"),
    f("passive", Bool).or("false").is("wait for the peer to connect"),
    f("role", Text(OneOf(&["Provider", "Customer", "Peer", "RouteServer", "RouteServerClient"])))
        .is("RFC 9234: what this side is"),
    f("roleStrict", Bool).or("false"),
    f("ebgpRequiresPolicy", Bool).or("false").is("RFC 8212"),
    f("gracefulShutdown", Bool).or("false").is("RFC 8326"),
    f("rejectASSets", Bool).or("false").is("RFC 9774"),
    f("shutdown", Object(&SHUTDOWN)).is("administratively down; the message is for the peer's operators"),
];

/// A kind's own fields, then these.
pub(super) const fn after<const N: usize>(own: &[Field]) -> [Field; N] {
    let mut all = [FIELDS[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < own.len() { own[i] } else { FIELDS[i - own.len()] };
        i += 1;
    }
    all
}
