use std::time::{Duration, Instant};

use super::*;
use crate::wire::iana;

mod collision;
mod restart;

const CONFIG: Config = Config {
    passive: false,
    connect_retry: Duration::from_secs(5),
    delay_open: Duration::ZERO,
    send_hold: Duration::from_secs(480),
};

fn fsm(passive: bool) -> Fsm {
    Fsm::new(Config { passive, ..CONFIG }, 7)
}

/// How long until the machine's next deadline, which is `time` jittered (RFC 4271 section 10).
#[track_caller]
fn assert_waits(f: &Fsm, now: Instant, time: Duration) {
    let wait = f.next_deadline().expect("a timer runs") - now;
    assert!(wait >= time.mul_f64(0.75) && wait <= time, "{wait:?} is not {time:?} jittered");
}

const PLAIN: Options = Options { passive: false, delay_open: false };
const PASSIVE: Options = Options { passive: true, delay_open: false };
const DELAYED: Options = Options { passive: false, delay_open: true };

/// RFC 4271 section 8.2.2: the next state of every event in every state. One line an event, by its number; the columns are
/// Idle, Connect, Active, OpenSent, OpenConfirm, Established.
#[test]
fn every_state_and_event_has_the_next_state_of_the_rfc() {
    use State::{Active as A, Connect as C, Established as E, Idle as I, OpenConfirm as OC, OpenSent as OS};
    let table: [(u8, &str, [State; 6]); 29] = [
        (1, "ManualStart", [C, C, A, OS, OC, E]),
        (2, "ManualStop", [I, I, I, I, I, I]),
        (3, "AutomaticStart", [C, C, A, OS, OC, E]),
        (4, "ManualStart_with_PassiveTcpEstablishment", [A, C, A, OS, OC, E]),
        (5, "AutomaticStart_with_PassiveTcpEstablishment", [A, C, A, OS, OC, E]),
        (6, "AutomaticStart_with_DampPeerOscillations", [I, C, A, OS, OC, E]),
        (7, "AutomaticStart_with_DampPeerOscillations_and_PassiveTcpEstablishment", [I, C, A, OS, OC, E]),
        (8, "AutomaticStop", [I, I, I, I, I, I]),
        (9, "ConnectRetryTimer_Expires", [I, C, C, I, I, I]),
        (10, "HoldTimer_Expires", [I, I, I, I, I, I]),
        (11, "KeepaliveTimer_Expires", [I, I, I, I, OC, E]),
        (12, "DelayOpenTimer_Expires", [I, OS, OS, I, I, I]),
        (13, "IdleHoldTimer_Expires", [C, I, I, I, I, I]),
        (14, "TcpConnection_Valid", [I, C, A, OS, OC, E]),
        (15, "Tcp_CR_Invalid", [I, C, A, OS, OC, E]),
        (16, "Tcp_CR_Acked", [OS, OS, OS, OS, OC, E]),
        (17, "TcpConnectionConfirmed", [OS, OS, OS, OS, OC, E]),
        (18, "TcpConnectionFails", [I, A, I, A, I, I]),
        (19, "BGPOpen", [I, I, I, OC, I, I]),
        (20, "BGPOpen with DelayOpenTimer running", [I, OC, OC, I, I, I]),
        (21, "BGPHeaderErr", [I, I, I, I, I, I]),
        (22, "BGPOpenMsgErr", [I, I, I, I, I, I]),
        (23, "OpenCollisionDump", [I, I, I, I, I, I]),
        (24, "NotifMsgVerErr", [I, I, I, I, I, I]),
        (25, "NotifMsg", [I, I, I, I, I, I]),
        (26, "KeepAliveMsg", [I, I, I, I, E, E]),
        (27, "UpdateMsg", [I, I, I, I, I, E]),
        (28, "UpdateMsgErr", [I, I, I, I, I, I]),
        (29, "SendHoldTimer_Expires", [I, I, I, I, I, I]),
    ];
    for (event, (number, name, row)) in EventKind::ALL.into_iter().zip(table) {
        assert_eq!(event as u8, number, "{name}");
        for (state, want) in State::ALL.into_iter().zip(row) {
            assert_eq!(transition(state, event, PLAIN).0, want, "{state:?} {number} {name}");
        }
    }
    // What the options change, and nothing else.
    let changes = [
        (DELAYED, I, EventKind::TcpAcked, A),
        (DELAYED, I, EventKind::TcpConfirmed, A),
        (DELAYED, C, EventKind::TcpAcked, C),
        (DELAYED, C, EventKind::TcpConfirmed, C),
        (DELAYED, A, EventKind::TcpAcked, A),
        (DELAYED, A, EventKind::TcpConfirmed, A),
        (PASSIVE, I, EventKind::IdleHoldExpires, A),
        (PASSIVE, A, EventKind::ConnectRetryExpires, A),
    ];
    for options in [DELAYED, PASSIVE] {
        for state in State::ALL {
            for event in EventKind::ALL {
                let changed = changes.iter().find(|c| (c.0, c.1, c.2) == (options, state, event));
                let want = changed.map_or(transition(state, event, PLAIN).0, |c| c.3);
                assert_eq!(transition(state, event, options).0, want, "{options:?} {state:?} {event:?}");
            }
        }
    }
}

#[test]
fn what_holds_for_every_state_and_event() {
    for options in [PLAIN, PASSIVE, DELAYED, Options { passive: true, delay_open: true }] {
        for state in State::ALL {
            for event in EventKind::ALL {
                let (next, steps) = transition(state, event, options);
                let row = format!("{options:?} {state:?} {event:?} -> {next:?} {steps:?}");
                let has = |s: Step| steps.contains(&s);
                assert_eq!(has(Step::Down), state == State::Established && next != state, "down once: {row}");
                assert_eq!(has(Step::Up), next == State::Established && state != next, "up once: {row}");
                // A start that says passive or not overrides the option.
                let told = matches!(event, EventKind::ManualStart | EventKind::AutomaticStart);
                assert!(!(options.passive && has(Step::Connect)) || told, "passive never connects: {row}");
                let opened = next >= State::OpenSent && state < State::OpenSent;
                assert_eq!(has(Step::SendOpen), opened, "one OPEN a connection: {row}");
                if state >= State::OpenSent && next < State::OpenSent {
                    assert!(has(Step::Close), "the connection is closed: {row}");
                    let silent = matches!(
                        event,
                        EventKind::TcpFails | EventKind::Notification | EventKind::NotificationVersionError
                    );
                    assert_eq!(has(Step::Notify), !silent, "the peer is told, unless it knows: {row}");
                }
                if next == State::Idle && state != State::Idle {
                    let stays = event == EventKind::ManualStop;
                    assert_eq!(has(Step::IdleHold), !stays, "only an operator stops it for good: {row}");
                }
            }
        }
    }
}

#[test]
fn a_passive_peer_waits() {
    let mut f = fsm(true);
    let now = Instant::now();
    assert_eq!(f.handle(Event::ManualStart, now), []);
    assert_eq!((f.state(), f.next_deadline()), (State::Active, None));
    assert_eq!(f.handle(Event::TcpConfirmed, now), [Action::SendOpen]);
}

#[test]
fn a_session_comes_up_lives_and_dies_of_its_hold_timer() {
    let mut f = fsm(false);
    let t0 = Instant::now();
    let s = Duration::from_secs;
    assert_eq!(f.handle(Event::AutomaticStart, t0), [Action::Connect]);
    assert_eq!(f.handle(Event::TcpAcked, t0), [Action::SendOpen]);
    assert_eq!(f.next_deadline(), Some(t0 + OPEN_HOLD_TIME));
    assert_eq!(f.handle(Event::Open { hold_time: 9, keepalive: 3 }, t0), [Action::SendKeepalive]);
    assert_waits(&f, t0, s(3));
    assert_eq!(f.handle(Event::Keepalive, t0), [Action::Up]);
    assert_eq!(f.expired(t0 + s(2)), None);
    assert_eq!(f.expired(t0 + s(3)), Some(Event::KeepaliveExpires));
    assert_eq!(f.handle(Event::KeepaliveExpires, t0 + s(3)), [Action::SendKeepalive]);
    f.is_alive(t0 + s(5));
    assert_eq!(f.expired(t0 + s(14)), Some(Event::HoldExpires), "nine seconds after the last sign of life");
    let expired = Notification::new(iana::HOLD_TIMER_EXPIRED, 0, &[]);
    assert_eq!(
        f.handle(Event::HoldExpires, t0 + s(14)),
        [Action::SendNotification(expired), Action::Close, Action::Down]
    );
    assert_waits(&f, t0 + s(14), FIRST_WAIT);
    assert_eq!(f.handle(Event::IdleHoldExpires, t0 + s(15)), [Action::Connect]);
}

/// RFC 4271 section 8.1.1, DelayOpen: who speaks first.
#[test]
fn an_open_that_is_delayed_waits_for_the_peers_or_for_its_time() {
    let t0 = Instant::now();
    let delay = Duration::from_secs(4);
    let open = Event::Open { hold_time: 90, keepalive: 30 };
    for accepted in [false, true] {
        let begun = || {
            let mut f = Fsm::new(Config { delay_open: delay, passive: accepted, ..CONFIG }, 7);
            f.handle(Event::ManualStart, t0);
            let tcp = if accepted { Event::TcpConfirmed } else { Event::TcpAcked };
            assert_eq!(f.handle(tcp, t0), [], "nothing is said yet");
            assert_eq!(f.state(), if accepted { State::Active } else { State::Connect });
            assert_waits(&f, t0, delay);
            f
        };
        let mut f = begun();
        assert_eq!(f.handle(open.clone(), t0), [Action::SendOpen, Action::SendKeepalive]);
        assert_eq!((f.state(), f.timers().delay_open), (State::OpenConfirm, None));

        let mut f = begun();
        assert_eq!(f.expired(t0 + delay), Some(Event::DelayOpenExpires));
        assert_eq!(f.handle(Event::DelayOpenExpires, t0 + delay), [Action::SendOpen]);
        assert_eq!(f.handle(open.clone(), t0 + delay), [Action::SendKeepalive]);

        let mut f = begun();
        assert_eq!(f.handle(Event::TcpFails, t0), [Action::Close]);
        assert_eq!(f.state(), if accepted { State::Idle } else { State::Active });
    }
}

/// RFC 9687 section 3: so long may the socket take nothing.
#[test]
fn a_peer_that_reads_nothing_is_dropped_when_the_send_hold_time_is_over() {
    let up = |send_hold, hold_time| {
        let mut f = Fsm::new(Config { send_hold, ..CONFIG }, 7);
        let t0 = Instant::now();
        let opened = [Event::ManualStart, Event::TcpAcked, Event::Open { hold_time, keepalive: 0 }];
        opened.into_iter().chain([Event::Keepalive]).for_each(|e| drop(f.handle(e, t0)));
        (f, t0)
    };
    let s = Duration::from_secs;
    let (mut f, t0) = up(s(480), 3600);
    f.set_blocked(Some(t0));
    assert_eq!(f.next_deadline(), Some(t0 + s(480)));
    f.set_blocked(Some(t0 + s(9)));
    assert_eq!(f.next_deadline(), Some(t0 + s(489)), "it took something meanwhile");
    f.set_blocked(None);
    assert_eq!(f.timers().send_hold, None);
    f.set_blocked(Some(t0));
    assert_eq!(f.expired(t0 + s(480)), Some(Event::SendHoldExpires));
    let told = Notification::new(8, 0, &[]);
    assert_eq!(
        f.handle(Event::SendHoldExpires, t0 + s(480)),
        [Action::SendNotification(told), Action::Close, Action::Down]
    );
    for (row, send_hold, hold_time) in [("0: for ever", s(0), 3600), ("without a hold time", s(480), 0)] {
        let (mut f, t0) = up(send_hold, hold_time);
        f.set_blocked(Some(t0));
        assert_eq!(f.timers().send_hold, None, "{row}");
    }
}

#[test]
fn waits_grow_up_to_the_connect_retry_time() {
    let failures: [(&str, &[Event]); 2] = [
        ("a refused connection", &[Event::TcpFails]),
        ("a session that fails", &[Event::TcpAcked, Event::Notification]),
    ];
    for (name, events) in failures {
        let mut f = fsm(false);
        let mut now = Instant::now();
        assert_eq!(f.handle(Event::ManualStart, now), [Action::Connect], "{name}: the first attempt is at once");
        assert_waits(&f, now, Duration::from_secs(5));
        for millis in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            events.iter().for_each(|e| drop(f.handle(e.clone(), now)));
            assert_waits(&f, now, Duration::from_millis(millis));
            now = f.next_deadline().unwrap();
            let event = f.expired(now).unwrap();
            assert_eq!(f.handle(event, now), [Action::Connect], "{name}");
        }
        for (lived, wait) in [(Duration::ZERO, Duration::from_secs(5)), (Duration::from_secs(5), FIRST_WAIT)] {
            for e in [Event::TcpAcked, Event::Open { hold_time: 9, keepalive: 3 }, Event::Keepalive] {
                f.handle(e, now);
            }
            now += lived;
            f.handle(Event::TcpFails, now);
            assert_waits(&f, now, wait);
        }
    }
    let mut short = Fsm::new(Config { connect_retry: Duration::from_millis(100), ..CONFIG }, 1);
    let now = Instant::now();
    short.handle(Event::ManualStart, now);
    short.handle(Event::TcpFails, now);
    assert_waits(&short, now, Duration::from_millis(100));
}

/// Section 8.1.1, DampPeerOscillations: a start does not shorten the wait after a failure.
#[test]
fn a_start_during_the_wait_after_a_failure_waits_on() {
    let now = Instant::now();
    for passive in [false, true] {
        let mut f = fsm(passive);
        f.handle(Event::ManualStart, now);
        f.handle(Event::TcpConfirmed, now);
        f.handle(Event::Notification, now);
        let until = f.next_deadline();
        assert_eq!(f.handle(Event::AutomaticStart, now), []);
        assert_eq!((f.state(), f.next_deadline()), (State::Idle, until));
        f.handle(Event::ManualStart, now);
        assert_ne!(f.state(), State::Idle, "an operator's start does");
    }
}

#[test]
fn a_stop_of_our_own_says_when_it_is_tried_again() {
    let now = Instant::now();
    let minute = Duration::from_secs(60);
    let rows = [
        (Again::Backoff, Some(FIRST_WAIT), false),
        (Again::After(minute), Some(minute), true),
        (Again::Never, None, true),
    ];
    for (again, wait, is_held_off) in rows {
        let mut f = fsm(false);
        for e in [Event::ManualStart, Event::TcpAcked, Event::Open { hold_time: 9, keepalive: 3 }, Event::Keepalive] {
            f.handle(e, now);
        }
        let cease = Notification::cease(iana::MAXIMUM_PREFIXES);
        let actions = f.handle(Event::AutomaticStop(cease.clone(), again), now);
        assert_eq!(actions, [Action::SendNotification(cease), Action::Close, Action::Down]);
        assert_eq!((f.state(), f.is_held_off()), (State::Idle, is_held_off), "{again:?}");
        match wait {
            Some(wait) => assert_waits(&f, now, wait),
            None => assert_eq!(f.next_deadline(), None),
        }
        f.handle(Event::ManualStart, now);
        assert_eq!((f.state(), f.is_held_off()), (State::Connect, false), "a start ends it: {again:?}");
    }
}

#[test]
fn no_two_machines_march_in_step() {
    let first = |seed| {
        let mut f = Fsm::new(CONFIG, seed);
        let now = Instant::now();
        f.handle(Event::ManualStart, now);
        f.next_deadline().unwrap() - now
    };
    let waits: std::collections::BTreeSet<_> = (0..100).map(first).collect();
    assert!(waits.len() > 90, "{}", waits.len());
    assert!(*waits.first().unwrap() < Duration::from_secs_f64(3.9), "the whole range is used");
}

#[test]
fn a_hold_time_of_zero_has_no_timers() {
    let mut f = fsm(false);
    let now = Instant::now();
    for e in [Event::ManualStart, Event::TcpAcked, Event::Open { hold_time: 0, keepalive: 0 }] {
        f.handle(e, now);
    }
    f.handle(Event::Keepalive, now);
    f.is_alive(now);
    f.set_keepalive(Some(5), now);
    assert_eq!((f.state(), f.next_deadline()), (State::Established, None));
}

#[test]
fn another_keepalive_interval_counts_at_once() {
    let mut f = fsm(false);
    let now = Instant::now();
    for e in [Event::ManualStart, Event::TcpAcked, Event::Open { hold_time: 90, keepalive: 30 }, Event::Keepalive] {
        f.handle(e, now);
    }
    for (configured, want) in [(Some(5), 5), (Some(60), 30), (None, 30)] {
        f.set_keepalive(configured, now);
        assert_waits(&f, now, Duration::from_secs(want));
    }
}

#[test]
fn an_update_that_goes_out_puts_off_the_keepalive() {
    let mut f = fsm(false);
    let now = Instant::now();
    for e in [Event::ManualStart, Event::TcpAcked, Event::Open { hold_time: 9, keepalive: 3 }, Event::Keepalive] {
        f.handle(e, now);
    }
    let later = now + Duration::from_secs(2);
    f.has_sent(later);
    assert_waits(&f, later, Duration::from_secs(3));
}

#[test]
fn timers_are_negotiated() {
    for (ours, theirs, keepalive, want) in [
        (90, 180, None, (90, 30)),
        (180, 90, None, (90, 30)),
        (90, 9, Some(30), (9, 3)),
        (90, 90, Some(5), (90, 5)),
        (90, 0, None, (0, 0)),
    ] {
        assert_eq!(negotiate(ours, theirs, keepalive), want);
    }
}
