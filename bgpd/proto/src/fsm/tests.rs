use super::*;

fn fsm(passive: bool) -> Fsm {
    Fsm::new(Config { passive, connect_retry: Duration::from_secs(5), seed: 7 })
}

/// How long until the machine's next deadline, which is `time` jittered (RFC 4271 section 10).
#[track_caller]
fn assert_waits(f: &Fsm, now: Instant, time: Duration) {
    let wait = f.next_deadline().expect("a timer runs") - now;
    assert!(wait >= time.mul_f64(0.75) && wait <= time, "{wait:?} is not {time:?} jittered");
}

/// RFC 4271 section 8.2.2: the next state of every state and event. `=` stays; the columns are those of `EventKind::ALL`.
#[test]
fn every_state_and_event_has_the_next_state_of_the_rfc() {
    use State::{Active as A, Connect as C, Established as E, Idle as I, OpenConfirm as OC, OpenSent as OS};
    // Start Stop Retry Hold Keep IdleHold TcpUp TcpFails Open Error Collision Notification Keepalive Update
    let table = [
        (I, [C, I, I, I, I, C, OS, I, I, I, I, I, I, I]),
        (C, [C, I, C, I, I, C, OS, A, I, I, I, I, I, I]),
        (A, [A, I, C, I, I, A, OS, I, I, I, I, I, I, I]),
        (OS, [OS, I, I, I, I, OS, I, A, OC, I, I, I, I, I]),
        (OC, [OC, I, I, I, OC, OC, I, I, I, I, I, I, E, I]),
        (E, [E, I, I, I, E, E, I, I, I, I, I, I, E, E]),
    ];
    for (state, row) in table {
        for (event, want) in EventKind::ALL.into_iter().zip(row) {
            assert_eq!(transition(state, event, false).0, want, "{state:?} {event:?}");
        }
    }
}

#[test]
fn what_holds_for_every_state_and_event() {
    for passive in [false, true] {
        for state in State::ALL {
            for event in EventKind::ALL {
                let (next, steps) = transition(state, event, passive);
                let row = format!("{state:?} {event:?} -> {next:?} {steps:?}");
                let has = |s: Step| steps.contains(&s);
                assert_eq!(has(Step::Down), state == State::Established && next != state, "down once: {row}");
                assert_eq!(has(Step::Up), next == State::Established && state != next, "up once: {row}");
                assert!(!(passive && has(Step::Connect)) || state == State::Connect, "passive never connects: {row}");
                if state >= State::OpenSent && next < State::OpenSent {
                    assert!(has(Step::Close), "the connection is closed: {row}");
                    let silent = matches!(event, EventKind::TcpFails | EventKind::NotificationReceived);
                    assert_eq!(has(Step::Notify), !silent, "the peer is told, unless it knows: {row}");
                }
            }
        }
    }
}

#[test]
fn a_passive_peer_waits() {
    let mut f = fsm(true);
    let now = Instant::now();
    assert_eq!(f.handle(Event::Start, now), []);
    assert_eq!((f.state(), f.next_deadline()), (State::Active, None));
    assert_eq!(f.handle(Event::TcpEstablished, now), [Action::SendOpen]);
}

#[test]
fn a_session_comes_up_lives_and_dies_of_its_hold_timer() {
    let mut f = fsm(false);
    let t0 = Instant::now();
    let s = Duration::from_secs;
    assert_eq!(f.handle(Event::Start, t0), [Action::Connect]);
    assert_eq!(f.handle(Event::TcpEstablished, t0), [Action::SendOpen]);
    assert_eq!(f.next_deadline(), Some(t0 + OPEN_HOLD_TIME));
    assert_eq!(f.handle(Event::OpenReceived { hold_time: 9, keepalive: 3 }, t0), [Action::SendKeepalive]);
    assert_waits(&f, t0, s(3));
    assert_eq!(f.handle(Event::KeepaliveReceived, t0), [Action::Up]);
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

#[test]
fn waits_grow_up_to_the_connect_retry_time() {
    let failures: [(&str, &[Event]); 2] = [
        ("a refused connection", &[Event::TcpFails]),
        ("a session that fails", &[Event::TcpEstablished, Event::NotificationReceived]),
    ];
    for (name, events) in failures {
        let mut f = fsm(false);
        let mut now = Instant::now();
        assert_eq!(f.handle(Event::Start, now), [Action::Connect], "{name}: the first attempt is at once");
        assert_waits(&f, now, Duration::from_secs(5));
        for millis in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            events.iter().for_each(|e| drop(f.handle(e.clone(), now)));
            assert_waits(&f, now, Duration::from_millis(millis));
            now = f.next_deadline().unwrap();
            let event = f.expired(now).unwrap();
            assert_eq!(f.handle(event, now), [Action::Connect], "{name}");
        }
        for (lived, wait) in [(Duration::ZERO, Duration::from_secs(5)), (Duration::from_secs(5), FIRST_WAIT)] {
            for e in
                [Event::TcpEstablished, Event::OpenReceived { hold_time: 9, keepalive: 3 }, Event::KeepaliveReceived]
            {
                f.handle(e, now);
            }
            now += lived;
            f.handle(Event::TcpFails, now);
            assert_waits(&f, now, wait);
        }
    }
    let mut short = Fsm::new(Config { passive: false, connect_retry: Duration::from_millis(100), seed: 1 });
    let now = Instant::now();
    short.handle(Event::Start, now);
    short.handle(Event::TcpFails, now);
    assert_waits(&short, now, Duration::from_millis(100));
}

#[test]
fn no_two_machines_march_in_step() {
    let first = |seed| {
        let mut f = Fsm::new(Config { passive: false, connect_retry: Duration::from_secs(5), seed });
        let now = Instant::now();
        f.handle(Event::Start, now);
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
    for e in [Event::Start, Event::TcpEstablished, Event::OpenReceived { hold_time: 0, keepalive: 0 }] {
        f.handle(e, now);
    }
    f.handle(Event::KeepaliveReceived, now);
    f.is_alive(now);
    assert_eq!((f.state(), f.next_deadline()), (State::Established, None));
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

#[test]
fn the_higher_identifier_keeps_its_connection() {
    assert_eq!(collision_winner((2, 1), (1, 9)), Initiator::Us);
    assert_eq!(collision_winner((1, 9), (2, 1)), Initiator::Peer);
    assert_eq!(collision_winner((1, 1), (1, 2)), Initiator::Peer, "RFC 6286: equal identifiers, higher AS");
}
