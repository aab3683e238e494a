//! The state machine as a table over every state and event, and two sessions over a line that loses what a test says.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn timers(min_tx: u64, min_rx: u64, multiplier: u8) -> Timers {
    Timers::new(MS * min_tx as u32, MS * min_rx as u32, multiplier)
}

/// Rows: the state. Columns: received AdminDown, Down, Init, Up; detection time expires; AdminDown; AdminUp; path down.
/// RFC 5880 sections 6.2, 6.8.4, 6.8.6, 6.8.16.
#[test]
fn transitions() {
    use State::{AdminDown as A, Down as D, Init as I, Up as U};
    let events = [
        Kind::Received(A),
        Kind::Received(D),
        Kind::Received(I),
        Kind::Received(U),
        Kind::DetectionTimeExpires,
        Kind::AdminDown,
        Kind::AdminUp,
        Kind::PathDown,
    ];
    #[rustfmt::skip]
    let table = [
        (A, [A, A, A, A, A, A, D, A]),
        (D, [D, I, U, D, D, A, D, D]),
        (I, [D, I, U, U, D, A, I, D]),
        (U, [D, D, U, U, D, A, U, D]),
    ];
    for (state, row) in table {
        for (event, next) in events.into_iter().zip(row) {
            let found = transition(state, event);
            assert_eq!(found.map_or(state, |f| f.0), next, "{state:?} {event:?}");
            assert!(found.is_none_or(|f| f.0 != state), "{state:?} {event:?}: a change changes something");
        }
    }
}

/// Who says that a session went down is in its diagnostic.
#[test]
fn diagnostics() {
    let rows = [
        (Kind::Received(State::Down), Diag::NEIGHBOUR_SIGNALED_DOWN),
        (Kind::Received(State::AdminDown), Diag::NEIGHBOUR_SIGNALED_DOWN),
        (Kind::DetectionTimeExpires, Diag::DETECTION_TIME_EXPIRED),
        (Kind::AdminDown, Diag::ADMINISTRATIVELY_DOWN),
        (Kind::PathDown, Diag::PATH_DOWN),
    ];
    for (event, diag) in rows {
        assert_eq!(transition(State::Up, event).and_then(|t| t.1), Some(diag), "{event:?}");
    }
    assert_eq!(transition(State::Down, Kind::Received(State::Init)), Some((State::Up, None)), "kept on the way up");
}

/// Two sessions, `a` and `b`, and a line between them without delay.
struct Line {
    now: Instant,
    ends: [Session; 2],
    /// Nothing gets through from this end.
    cut: [bool; 2],
    /// One packet in so many gets through.
    passes: usize,
    /// What each end sent, and when.
    sent: [Vec<(Instant, Packet)>; 2],
    news: [Vec<Action>; 2],
}

impl Line {
    fn new(a: Timers, b: Timers) -> Line {
        let now = Instant::now();
        Line {
            now,
            ends: [Session::new(a, 1, 11, now), Session::new(b, 2, 22, now)],
            cut: [false; 2],
            passes: 1,
            sent: Default::default(),
            news: Default::default(),
        }
    }

    fn event(&mut self, end: usize, event: Event) {
        let mut waiting = vec![(end, event)];
        while let Some((end, event)) = waiting.pop() {
            for action in self.ends[end].handle(event, self.now) {
                match action {
                    Action::Send(packet) => {
                        let read = Packet::read(&packet.write()).unwrap();
                        assert_eq!(read, packet, "what is sent passes the reception checks");
                        assert!(!(packet.poll && packet.is_final), "section 6.8.7: never both");
                        self.sent[end].push((self.now, packet));
                        if !self.cut[end] && self.sent[end].len().is_multiple_of(self.passes) {
                            waiting.insert(0, (1 - end, Event::Received(packet)));
                        }
                    }
                    news => self.news[end].push(news),
                }
            }
        }
    }

    /// Lets time pass, deadline by deadline.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = (0..2).filter_map(|e| Some((self.ends[e].next_deadline()?, e))).min();
            match next {
                Some((at, end)) if at <= until => {
                    self.now = self.now.max(at);
                    self.event(end, Event::Timer);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    fn up(a: Timers, b: Timers) -> Line {
        let mut line = Line::new(a, b);
        line.run(Duration::from_secs(5));
        assert_eq!(line.states(), [State::Up; 2]);
        line.sent = Default::default();
        line.news = Default::default();
        line
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state, self.ends[1].state]
    }

    /// Times between the packets of an end, but answers to polls.
    fn intervals(&self, end: usize) -> Vec<Duration> {
        let times: Vec<Instant> = self.sent[end].iter().filter(|(_, p)| !p.is_final).map(|(at, _)| *at).collect();
        times.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

#[test]
fn two_sessions_come_up_with_a_three_way_handshake() {
    let mut line = Line::new(timers(50, 50, 3), timers(50, 50, 3));
    line.run(Duration::from_secs(3));
    assert_eq!(line.states(), [State::Up; 2]);
    assert_eq!(line.news, [vec![Action::Up], vec![Action::Up]]);
    let first = line.sent[0][0].1;
    assert_eq!((first.state, first.your_discriminator), (State::Down, 0));
    assert!(line.sent[0].iter().any(|(_, p)| p.state == State::Up && p.your_discriminator == 2));
}

#[test]
fn below_up_a_packet_a_second_and_the_configured_interval_after() {
    let mut line = Line::new(timers(50, 50, 3), timers(50, 50, 3));
    line.cut = [true; 2];
    line.run(Duration::from_secs(20));
    assert!(line.sent[0].iter().all(|(_, p)| p.desired_min_tx == SLOW_START && p.state == State::Down));
    assert!(line.intervals(0).iter().all(|&t| t >= MS * 750 && t <= MS * 1000), "{:?}", line.intervals(0));
    line.cut = [false; 2];
    line.run(Duration::from_secs(2));
    assert_eq!(line.states(), [State::Up; 2]);
    line.sent = Default::default();
    line.run(Duration::from_secs(2));
    assert!(line.intervals(0).iter().all(|&t| t >= MS * 37 && t <= MS * 50), "{:?}", line.intervals(0));
}

#[test]
fn the_slower_of_both_wishes_is_the_interval() {
    let mut line = Line::up(timers(50, 300, 3), timers(100, 200, 4));
    line.run(Duration::from_secs(10));
    let range = |end: usize, most: u32| {
        let all = line.intervals(end);
        assert!(all.iter().all(|&t| t >= MS * (most * 3 / 4) && t <= MS * most), "{all:?}");
    };
    range(0, 200); // max(50, 200)
    range(1, 300); // max(100, 300)
    let status = line.ends[0].status();
    assert_eq!(status.transmit_interval, Some(MS * 200));
    // Section 6.8.4: the other end's multiplier, times the greater of what we require and what it desires.
    assert_eq!(status.detection_time, Some(MS * 4 * 300));
    assert_eq!(line.ends[1].status().detection_time, Some(MS * 3 * 200));
}

#[test]
fn jitter_takes_up_to_a_quarter_and_with_a_multiplier_of_one_at_least_a_tenth() {
    for (multiplier, most) in [(3, 100), (1, 90)] {
        let mut line = Line::up(timers(100, 100, multiplier), timers(100, 100, 3));
        line.run(Duration::from_secs(60));
        let all = line.intervals(0);
        let (least, longest) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*least >= MS * 75 && *longest <= MS * most, "{least:?} {longest:?}");
        assert!(*least < MS * 77 && *longest > MS * (most - 2), "the whole range is used: {least:?} {longest:?}");
    }
}

#[test]
fn two_seeds_do_not_march_in_step() {
    let line = {
        let mut line = Line::up(timers(100, 100, 3), timers(100, 100, 3));
        line.run(Duration::from_secs(10));
        line
    };
    assert_ne!(line.intervals(0)[..20], line.intervals(1)[..20]);
}

#[test]
fn silence_for_the_detection_time_takes_the_session_down() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    let last = line.now;
    line.cut[1] = true;
    line.run(MS * 149);
    let down = |line: &Line| line.news[0].iter().any(|n| matches!(n, Action::Down(_)));
    assert!(!down(&line) || line.now - last >= MS * 100, "two packets may be lost");
    line.run(MS * 2);
    let expected =
        Down { diag: Diag::DETECTION_TIME_EXPIRED, by_administrator: false, control_plane_independent: false };
    assert_eq!(line.news[0], [Action::Down(expected)]);
    assert_eq!(line.ends[0].status().remote_discriminator, 0, "section 6.8.1");
    let signaled = Down { diag: Diag::NEIGHBOUR_SIGNALED_DOWN, ..expected };
    assert_eq!(line.news[1], [Action::Down(signaled)], "the end that still hears us is told");
}

#[test]
fn two_lost_packets_of_three_are_borne() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.passes = 3;
    line.run(Duration::from_secs(60));
    assert_eq!(line.news, [vec![], vec![]]);
}

#[test]
fn a_session_comes_up_again_after_a_cut() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.cut = [true; 2];
    line.run(Duration::from_secs(4));
    assert_eq!(line.states(), [State::Down; 2]);
    line.cut = [false; 2];
    line.run(Duration::from_secs(3));
    assert_eq!(line.states(), [State::Up; 2]);
}

#[test]
fn the_administrator_of_either_end_takes_it_down_and_that_is_no_failure() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.event(0, Event::AdminDown);
    assert_eq!(line.states(), [State::AdminDown, State::Down]);
    let down = |diag| Action::Down(Down { diag, by_administrator: true, control_plane_independent: false });
    assert_eq!(line.news[0], [down(Diag::ADMINISTRATIVELY_DOWN)]);
    assert_eq!(line.news[1], [down(Diag::NEIGHBOUR_SIGNALED_DOWN)]);
    line.sent = Default::default();
    line.run(Duration::from_secs(5));
    assert_eq!(line.states(), [State::AdminDown, State::Down], "it stays so");
    assert!(line.sent[0].iter().all(|(_, p)| p.state == State::AdminDown && !p.is_final));
    line.event(0, Event::AdminUp);
    line.run(Duration::from_secs(3));
    assert_eq!(line.states(), [State::Up; 2]);
}

#[test]
fn a_path_that_is_known_to_be_gone_is_not_waited_for() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.cut = [true; 2];
    line.event(0, Event::PathDown);
    let down = Down { diag: Diag::PATH_DOWN, by_administrator: false, control_plane_independent: false };
    assert_eq!(line.news[0], [Action::Down(down)]);
}

#[test]
fn a_change_of_timers_is_polled_for_and_flaps_nothing() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.event(0, Event::Configure(timers(200, 400, 5)));
    let first = line.sent[0].last().unwrap().1;
    assert!(first.poll && (first.desired_min_tx, first.required_min_rx, first.multiplier) == (200_000, 400_000, 5));
    assert!(line.sent[1].iter().any(|(_, p)| p.is_final && !p.poll));
    line.run(Duration::from_secs(5));
    assert!(!line.ends[0].status().polls);
    assert_eq!(line.ends[0].status().transmit_interval, Some(MS * 200));
    assert_eq!(line.ends[1].status().transmit_interval, Some(MS * 400));
    assert_eq!(line.ends[1].status().detection_time, Some(MS * 1000));
    line.event(0, Event::Configure(timers(50, 50, 3)));
    line.run(Duration::from_secs(5));
    assert_eq!(line.ends[0].status().detection_time, Some(MS * 150));
    assert_eq!(line.news, [vec![], vec![]]);
}

/// Section 6.8.3: the other end goes on expecting the old rate until it has answered.
#[test]
fn a_longer_transmit_interval_waits_for_the_end_of_the_poll_sequence() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 100));
    line.cut[1] = true; // Its answers are lost; our detection time is 5 s.
    line.event(0, Event::Configure(timers(1000, 50, 3)));
    line.sent = Default::default();
    line.run(Duration::from_secs(1));
    assert!(line.intervals(0).iter().all(|&t| t <= MS * 50), "{:?}", line.intervals(0));
    assert!(line.sent[0].iter().all(|(_, p)| p.poll && p.desired_min_tx == 1_000_000), "and goes on asking");
    line.cut[1] = false;
    line.run(Duration::from_secs(1));
    line.sent = Default::default();
    line.run(Duration::from_secs(10));
    assert!(line.intervals(0).iter().all(|&t| t >= MS * 750), "{:?}", line.intervals(0));
    assert_eq!(line.news, [vec![], vec![]]);
}

/// Section 6.8.3: packets at the old rate are on their way until the other end has answered.
#[test]
fn a_shorter_receive_interval_waits_for_the_end_of_the_poll_sequence() {
    let mut line = Line::up(timers(50, 1000, 3), timers(50, 50, 3));
    line.cut[0] = true; // The poll is not heard; the other end's detection time is 150 ms.
    line.event(0, Event::Configure(timers(50, 100, 3)));
    assert_eq!(line.ends[0].status().detection_time, Some(MS * 3000));
    line.cut[0] = false;
    line.run(MS * 100);
    assert_eq!(line.ends[0].status().detection_time, Some(MS * 300));
    line.run(Duration::from_secs(5));
    assert_eq!(line.news, [vec![], vec![]]);
}

/// Section 6.5: an answer to the first poll says nothing about what changed after it.
#[test]
fn a_second_change_during_a_poll_sequence_has_one_of_its_own() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 100));
    line.cut[1] = true;
    line.event(0, Event::Configure(timers(500, 50, 3)));
    line.event(0, Event::Configure(timers(900, 50, 3)));
    let answer = line.sent[1].iter().rev().find(|(_, p)| p.is_final).unwrap().1;
    line.event(0, Event::Received(answer));
    assert!(line.ends[0].status().polls);
    assert_eq!(line.ends[0].status().transmit_interval, Some(MS * 50), "not yet");
    line.event(0, Event::Received(answer));
    assert_eq!(line.ends[0].status().transmit_interval, Some(MS * 900));
}

#[test]
fn a_poll_is_answered_at_once_in_every_state_but_admin_down() {
    for state in State::ALL {
        let now = Instant::now();
        let mut session = Session::new(timers(50, 50, 3), 1, 1, now);
        session.state = state;
        let poll = Packet {
            poll: true,
            state: State::Down,
            my_discriminator: 9,
            multiplier: 3,
            ..Session::new(timers(50, 50, 3), 9, 1, now).packet()
        };
        let actions = session.handle(Event::Received(poll), now);
        let answers = actions.iter().filter(|a| matches!(a, Action::Send(p) if p.is_final && !p.poll)).count();
        assert_eq!(answers, usize::from(state != State::AdminDown), "{state:?}");
    }
}

/// Section 6.8.7, and section 6.6 as seen from the end that is asked to be quiet.
#[test]
fn a_peer_in_demand_mode_gets_no_periodic_packets() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    let now = line.now;
    let demand = |poll| Packet { demand: true, poll, ..line.ends[1].packet() };
    let (quiet, poll) = (demand(false), demand(true));
    let a = &mut line.ends[0];
    a.handle(Event::Received(quiet), now);
    assert_eq!(a.transmit_at, None);
    assert!(a.is_periodic() == a.status().transmit_interval.is_some());
    let answer = a.handle(Event::Received(poll), now);
    assert!(matches!(answer[..], [Action::Send(Packet { is_final: true, .. })]), "a poll is still answered");
    // A poll sequence of our own goes out all the same.
    a.handle(Event::Configure(timers(60, 60, 3)), now);
    assert!(a.transmit_at.is_some());
    let done = Packet { is_final: true, ..quiet };
    a.handle(Event::Received(done), now);
    assert_eq!(a.transmit_at, None);
    a.handle(Event::Received(Packet { demand: false, ..quiet }), now);
    assert!(a.transmit_at.is_some(), "and the end of it is obeyed, too");
}

#[test]
fn a_peer_that_requires_zero_gets_no_periodic_packets_until_it_is_silent() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 0, 3));
    assert_eq!(line.ends[0].transmit_at, None);
    line.cut[1] = true;
    line.run(Duration::from_secs(1));
    assert!(line.ends[0].transmit_at.is_some(), "a peer that comes anew would not know of us");
}

#[test]
fn the_c_bit_of_the_peer_is_told_with_its_failure() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    let independent = Packet { control_plane_independent: true, ..line.ends[1].packet() };
    line.event(0, Event::Received(independent));
    line.cut[1] = true;
    line.ends[0].detect_at = Some(line.now);
    line.event(0, Event::Timer);
    assert!(matches!(line.news[0][..], [Action::Down(Down { control_plane_independent: true, .. })]));
    assert!(line.sent[0].iter().all(|(_, p)| !p.control_plane_independent), "ours is clear");
}

#[test]
fn intervals_that_cannot_travel_are_brought_to_those_that_can() {
    let hours = Timers::new(Duration::from_secs(7200), Duration::ZERO, 0);
    assert_eq!(hours, Timers { min_tx: u32::MAX, min_rx: 0, multiplier: 1 });
    assert_eq!(Timers::new(Duration::ZERO, MS, 3).min_tx, 1);
}

#[test]
fn a_packet_that_is_due_is_not_put_off_by_what_is_received() {
    let mut line = Line::up(timers(50, 50, 3), timers(50, 50, 3));
    line.cut = [true; 2];
    let due = line.ends[0].transmit_at.unwrap();
    let quiet = Packet { poll: false, ..line.ends[1].packet() };
    for n in 0..40 {
        let at = line.now + MS * n;
        line.ends[0].handle(Event::Received(quiet), at.min(due));
        assert_eq!(line.ends[0].transmit_at, Some(due));
    }
}
