//! Graceful restart as tables.

use std::time::{Duration, Instant};

use super::super::restart::*;
use crate::wire::iana;

const S: fn(u64) -> Duration = Duration::from_secs;

fn agreed(restart_time: u64, listed: bool, stale_time: u64) -> Option<Agreed> {
    Some(Agreed { restart_time: S(restart_time), listed, stale_time: S(stale_time) })
}

fn back(forwarding: bool, long_lived: bool) -> Option<Returned> {
    Some(Returned { forwarding, long_lived, wait: S(360) })
}

/// RFC 4724 section 4.2, RFC 8538 section 4.2: (why, without the N bit, with it).
#[test]
fn which_ends_of_a_session_keep_its_routes() {
    let table = [
        ("TCP fails", Cause::ConnectionLost, true, true),
        ("the link is down", Cause::PathLost, false, false),
        ("our hold timer", Cause::Sent(iana::HOLD_TIMER_EXPIRED, 0), false, true),
        ("our send hold timer", Cause::Sent(iana::SEND_HOLD_TIMER_EXPIRED, 0), false, true),
        ("a malformed UPDATE", Cause::Sent(iana::UPDATE_MESSAGE_ERROR, 1), false, true),
        ("our administrative reset", Cause::Sent(iana::CEASE, iana::ADMINISTRATIVE_RESET), false, true),
        ("our hard reset", Cause::Sent(iana::CEASE, iana::HARD_RESET), false, false),
        ("BFD, seen here", Cause::Sent(iana::CEASE, iana::BFD_DOWN), false, false),
        ("the peer's hold timer", Cause::Received(iana::HOLD_TIMER_EXPIRED, 0), false, true),
        ("the peer's shutdown", Cause::Received(iana::CEASE, iana::ADMINISTRATIVE_SHUTDOWN), false, true),
        ("the peer's hard reset", Cause::Received(iana::CEASE, iana::HARD_RESET), false, false),
        ("BFD, seen there", Cause::Received(iana::CEASE, iana::BFD_DOWN), false, false),
    ];
    for (name, cause, without, with) in table {
        assert_eq!((cause.keeps_routes(false), cause.keeps_routes(true)), (without, with), "{name}");
    }
    let hard: Vec<u8> = (1..=9).filter(|&subcode| Cause::is_hard(subcode)).collect();
    assert_eq!(hard, [1, 2, 3], "RFC 8538 section 5.1");
}

#[test]
fn a_session_that_ends() {
    let table = [
        ("nothing agreed", None, Sweep::DropAll, None),
        ("the family is not listed", agreed(120, false, 0), Sweep::DropAll, None),
        ("restart time 0", agreed(0, true, 0), Sweep::DropAll, None),
        ("graceful restart", agreed(120, true, 0), Sweep::DropStaleAndMark, Some(120)),
        ("and then long-lived", agreed(120, true, 3600), Sweep::DropStaleAndMark, Some(120)),
        ("long-lived at once", agreed(0, true, 3600), Sweep::MarkLongLived, Some(3600)),
        ("long-lived only", agreed(120, false, 3600), Sweep::MarkLongLived, Some(3600)),
    ];
    for (name, agreed, want, deadline) in table {
        let (mut r, now) = (Retention::default(), Instant::now());
        assert_eq!(r.ended(agreed, now), want, "{name}");
        assert_eq!(r.next_deadline().map(|t| t - now), deadline.map(S), "{name}");
    }
}

/// (the agreement, what the peer says when it is back, what happens then, at End-of-RIB, and where that never comes).
#[test]
fn a_peer_that_comes_back() {
    use Sweep::{DropStale, Nothing};
    let table = [
        ("F", agreed(120, true, 0), back(true, false), Nothing, DropStale),
        ("not F", agreed(120, true, 0), back(false, false), DropStale, Nothing),
        ("without the capability or the family", agreed(120, true, 0), None, DropStale, Nothing),
        ("F of the long-lived capability only", agreed(120, true, 3600), back(false, true), DropStale, Nothing),
        ("long-lived F", agreed(0, true, 3600), back(false, true), Nothing, DropStale),
        ("long-lived, F of graceful restart only", agreed(0, true, 3600), back(true, false), DropStale, Nothing),
    ];
    for (name, agreed, says, at_once, at_the_end) in table {
        let (mut r, now) = (Retention::default(), Instant::now());
        r.ended(agreed, now);
        assert_eq!(r.returned(says, now), at_once, "{name}");
        let mut late = r;
        assert_eq!(r.end_of_rib(), at_the_end, "{name}: End-of-RIB");
        assert_eq!(r.next_deadline(), None, "{name}");
        assert_eq!(late.expired(now + S(3600)), at_the_end, "{name}: no End-of-RIB");
    }
}

#[test]
fn timers_run_from_restart_to_long_lived_to_the_end() {
    let (mut r, t0) = (Retention::default(), Instant::now());
    r.ended(agreed(120, true, 600), t0);
    assert_eq!(r.expired(t0 + S(119)), Sweep::Nothing);
    assert_eq!(r.expired(t0 + S(120)), Sweep::MarkLongLived);
    assert_eq!(r.next_deadline(), Some(t0 + S(720)));
    let mut returns = r;
    assert_eq!(r.expired(t0 + S(720)), Sweep::DropStale);
    assert_eq!(returns.returned(back(true, true), t0 + S(700)), Sweep::Nothing);
    assert_eq!(returns.expired(t0 + S(720)), Sweep::DropStale, "the stale time goes on until End-of-RIB");
}

#[test]
fn a_path_that_fails_during_a_restart_takes_the_routes_with_it() {
    let (mut r, now) = (Retention::default(), Instant::now());
    assert_eq!(r.abandon(), Sweep::Nothing);
    r.ended(agreed(120, true, 0), now);
    assert_eq!(r.abandon(), Sweep::DropStale);
    assert_eq!(r.next_deadline(), None);
}

/// RFC 4724 section 4.2: what was not confirmed since the last restart goes with the next one.
#[test]
fn consecutive_restarts() {
    let (mut r, now) = (Retention::default(), Instant::now());
    r.ended(agreed(120, true, 0), now);
    r.returned(back(true, false), now);
    assert_eq!(r.ended(agreed(120, true, 0), now), Sweep::DropStaleAndMark);
    assert_eq!(r.returned(back(true, false), now), Sweep::Nothing);
    assert_eq!(r.end_of_rib(), Sweep::DropStale);
    assert_eq!(r.end_of_rib(), Sweep::Nothing, "a second one means nothing");
}

/// RFC 9494 section 4.2: a further restart deletes nothing that is long-lived stale, and gives it no more time.
#[test]
fn consecutive_restarts_of_a_long_lived_peer() {
    let t0 = Instant::now();
    let returned = || {
        let mut r = Retention::default();
        r.ended(agreed(120, true, 600), t0);
        assert_eq!(r.expired(t0 + S(120)), Sweep::MarkLongLived);
        assert_eq!(r.returned(back(true, true), t0 + S(200)), Sweep::Nothing);
        r
    };
    // Until 720 s, whatever the peer does before its End-of-RIB.
    let mut r = returned();
    assert_eq!(
        r.ended(agreed(120, true, 600), t0 + S(300)),
        Sweep::MarkStale,
        "what is new begins with the restart time"
    );
    assert_eq!(r.next_deadline(), Some(t0 + S(420)));
    let mut late = r;
    assert_eq!(r.expired(t0 + S(420)), Sweep::MarkLongLived);
    assert_eq!(r.next_deadline(), Some(t0 + S(720)), "not 600 s more");
    assert_eq!(r.expired(t0 + S(720)), Sweep::DropStale);
    assert_eq!(late.returned(back(true, true), t0 + S(400)), Sweep::Nothing);
    assert_eq!(late.ended(agreed(0, true, 600), t0 + S(650)), Sweep::MarkLongLived);
    assert_eq!(late.next_deadline(), Some(t0 + S(720)), "and again");

    let mut r = returned();
    assert_eq!(r.ended(agreed(120, true, 600), t0 + S(700)), Sweep::MarkStale);
    let mut without_f = r;
    assert_eq!(r.expired(t0 + S(720)), Sweep::DropStale, "the restart time does not prolong it");
    assert_eq!(without_f.returned(back(true, false), t0 + S(710)), Sweep::DropStale, "F of the long-lived capability");

    let mut r = returned();
    assert_eq!(
        r.ended(agreed(120, true, 0), t0 + S(300)),
        Sweep::DropStaleAndMark,
        "the last session had no stale time"
    );
    let mut r = returned();
    assert_eq!(r.ended(None, t0 + S(300)), Sweep::DropAll, "nothing agreed");
    let mut r = returned();
    assert_eq!(r.end_of_rib(), Sweep::DropStale);
    assert_eq!(r.ended(agreed(120, true, 600), t0 + S(300)), Sweep::DropStaleAndMark);
    assert_eq!(r.expired(t0 + S(420)), Sweep::MarkLongLived);
    assert_eq!(r.next_deadline(), Some(t0 + S(1020)), "synchronized since: a new time");
}

/// RFC 7313 section 4.
#[test]
fn an_enhanced_refresh() {
    let (mut r, t0) = (Retention::default(), Instant::now());
    assert_eq!(r.end_refresh(), Sweep::Nothing, "EoRR without BoRR");
    assert_eq!(r.begin_refresh(t0), Sweep::MarkStale);
    assert_eq!(r.begin_refresh(t0 + S(9)), Sweep::MarkStale, "it begins anew");
    assert_eq!(r.end_of_rib(), Sweep::Nothing);
    assert_eq!(r.end_refresh(), Sweep::DropStale);
    assert_eq!(r.begin_refresh(t0), Sweep::MarkStale);
    assert_eq!(r.expired(t0 + SWEEP_TIME), Sweep::DropStale, "EoRR never came");

    r.begin_refresh(t0);
    assert_eq!(r.ended(agreed(120, true, 0), t0), Sweep::MarkStale, "what the refresh marked was valid");
    assert_eq!(r.begin_refresh(t0), Sweep::Nothing, "without a session");
    r.returned(back(true, false), t0);
    assert_eq!(r.begin_refresh(t0), Sweep::Nothing, "not before End-of-RIB");
    assert_eq!(r.end_refresh(), Sweep::Nothing);
    assert_eq!(r.end_of_rib(), Sweep::DropStale);
}
