//! What the task knows of its interfaces, and when it speaks on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use fib::Link;

use super::message::Received;
use crate::dynamic::Neighbours;

/// MaxRtrAdvInterval (RFC 4861 section 6.2.1): FRR's on interfaces of unnumbered peers. MinRtrAdvInterval is a third of it.
const ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(10);
/// MIN_DELAY_BETWEEN_RAS and MAX_RA_DELAY_TIME (section 10).
const LEAST_BETWEEN_ADVERTISEMENTS: Duration = Duration::from_secs(3);
const ANSWER_DELAY: Duration = Duration::from_millis(500);
/// MAX_RTR_SOLICITATIONS and RTR_SOLICITATION_INTERVAL (section 10).
const SOLICITATIONS: u32 = 3;
const SOLICITATION_INTERVAL: Duration = Duration::from_secs(4);

/// What to do on an interface, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hear what is sent to all routers.
    Join(u32),
    Advertise(u32),
    Solicit(u32),
}

/// An interface that can carry packets.
#[derive(Clone, Debug)]
struct Interface {
    index: u32,
    joined: bool,
    neighbour: Option<Ipv6Addr>,
    last_advertised: Option<Instant>,
    advertise_at: Instant,
    solicitations_left: u32,
    solicit_at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    wanted: BTreeSet<String>,
    interfaces: BTreeMap<String, Interface>,
    random: u64,
}

impl State {
    /// `seed`: of the random delays, which keep neighbours from speaking all at once.
    pub fn new(seed: u64) -> State {
        State { wanted: BTreeSet::new(), interfaces: BTreeMap::new(), random: seed }
    }

    /// Which interfaces are spoken on; [`State::resync`] finds those that are new.
    pub fn set_interfaces(&mut self, wanted: BTreeSet<String>) {
        self.interfaces.retain(|name, _| wanted.contains(name));
        self.wanted = wanted;
    }

    /// All links there are.
    pub fn resync(&mut self, links: Vec<Link>, now: Instant) {
        let there: BTreeSet<u32> = links.iter().map(|l| l.index).collect();
        self.interfaces.retain(|_, interface| there.contains(&interface.index));
        links.iter().for_each(|link| self.link(link, now));
    }

    /// A link appeared or changed. One that carries nothing has nobody behind it: whoever is there after that may be another.
    pub fn link(&mut self, link: &Link, now: Instant) {
        self.interfaces.retain(|name, i| (i.index == link.index) == (*name == link.name));
        if !link.is_usable() || !self.wanted.contains(&link.name) {
            self.interfaces.remove(&link.name);
            return;
        }
        self.interfaces.entry(link.name.clone()).or_insert(Interface {
            index: link.index,
            joined: false,
            neighbour: None,
            last_advertised: None,
            advertise_at: now,
            solicitations_left: SOLICITATIONS,
            solicit_at: now,
        });
    }

    pub fn link_removed(&mut self, index: u32) {
        self.interfaces.retain(|_, interface| interface.index != index);
    }

    /// The last one heard is the neighbour: behind a link between two there is no other.
    pub fn received(&mut self, received: Received, now: Instant) {
        let (Received::Solicitation { index } | Received::Advertisement { index, .. }) = received;
        let delay = self.random(Duration::ZERO, ANSWER_DELAY);
        let Some(interface) = self.interfaces.values_mut().find(|i| i.index == index) else { return };
        match received {
            Received::Advertisement { from, .. } => {
                interface.neighbour = Some(from);
                interface.solicitations_left = 0;
            }
            Received::Solicitation { .. } => {
                let soonest = interface.last_advertised.map(|last| last + LEAST_BETWEEN_ADVERTISEMENTS);
                let answer = soonest.map_or(now, |at| at.max(now)) + delay;
                interface.advertise_at = interface.advertise_at.min(answer);
            }
        }
    }

    /// What is due.
    pub fn expire(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let pause = self.random(ADVERTISEMENT_INTERVAL / 3, ADVERTISEMENT_INTERVAL);
        for interface in self.interfaces.values_mut() {
            let index = interface.index;
            if !std::mem::replace(&mut interface.joined, true) {
                actions.push(Action::Join(index));
            }
            if interface.advertise_at <= now {
                actions.push(Action::Advertise(index));
                interface.last_advertised = Some(now);
                interface.advertise_at = now + pause;
            }
            if interface.solicitations_left > 0 && interface.solicit_at <= now {
                actions.push(Action::Solicit(index));
                interface.solicitations_left -= 1;
                interface.solicit_at = now + SOLICITATION_INTERVAL;
            }
        }
        actions
    }

    /// When [`State::expire`] has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        let of = |i: &Interface| {
            if i.solicitations_left > 0 { i.advertise_at.min(i.solicit_at) } else { i.advertise_at }
        };
        self.interfaces.values().map(of).min()
    }

    /// Who is where.
    pub fn neighbours(&self) -> Neighbours {
        self.interfaces.iter().map(|(name, i)| (name.clone(), (i.index, i.neighbour))).collect()
    }

    fn random(&mut self, least: Duration, most: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = ((z ^ (z >> 31)) >> 32) as f64 / f64::from(u32::MAX);
        least + (most - least).mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    fn link(index: u32, name: &str, carrier: bool) -> Link {
        Link { index, name: name.into(), up: true, carrier }
    }

    fn state(now: Instant) -> State {
        let mut state = State::new(1);
        state.set_interfaces(BTreeSet::from(["eth0".to_string()]));
        state.resync(vec![link(1, "lo", true), link(3, "eth0", true)], now);
        state
    }

    fn there(index: u32, neighbour: Option<Ipv6Addr>) -> Neighbours {
        Neighbours::from([("eth0".to_string(), (index, neighbour))])
    }

    /// Lets time pass; what was done when.
    fn run(state: &mut State, from: Instant, time: Duration) -> Vec<(Duration, Action)> {
        let mut done = Vec::new();
        while let Some(at) = state.next_deadline().filter(|at| *at <= from + time) {
            done.extend(state.expire(at).into_iter().map(|action| (at - from, action)));
        }
        done
    }

    #[test]
    fn an_interface_that_comes_is_spoken_on_at_once() {
        let t0 = Instant::now();
        let mut state = state(t0);
        assert_eq!(state.neighbours(), there(3, None));
        assert_eq!(state.expire(t0), [Action::Join(3), Action::Advertise(3), Action::Solicit(3)]);
        assert!(state.expire(t0).is_empty());
    }

    #[test]
    fn three_solicitations_until_somebody_is_heard() {
        let t0 = Instant::now();
        let solicited = |state: &mut State| {
            let all = run(state, t0, Duration::from_secs(60));
            all.into_iter().filter(|(_, a)| *a == Action::Solicit(3)).map(|(at, _)| at.as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(solicited(&mut state(t0)), [0, 4, 8]);
        let mut heard = state(t0);
        heard.received(Received::Advertisement { index: 3, from: FROM }, t0);
        assert!(solicited(&mut heard).is_empty());
        assert_eq!(heard.neighbours(), there(3, Some(FROM)));
    }

    #[test]
    fn advertisements_come_every_3_to_10_seconds() {
        let t0 = Instant::now();
        let all = run(&mut state(t0), t0, Duration::from_secs(600));
        let times: Vec<Duration> = all.iter().filter(|(_, a)| *a == Action::Advertise(3)).map(|(at, _)| *at).collect();
        let pauses: Vec<Duration> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(pauses.iter().all(|p| *p >= ADVERTISEMENT_INTERVAL / 3 && *p <= ADVERTISEMENT_INTERVAL), "{pauses:?}");
        assert!(pauses.iter().collect::<BTreeSet<_>>().len() > 20, "no two the same");
    }

    #[test]
    fn a_solicitation_is_answered_soon_but_not_twice_in_three_seconds() {
        let t0 = Instant::now();
        let mut state = state(t0);
        state.expire(t0);
        for n in 0..10 {
            state.received(Received::Solicitation { index: 3 }, t0 + Duration::from_millis(n));
        }
        let at = state.next_deadline().unwrap() - t0;
        assert!(at >= Duration::from_secs(3) && at <= Duration::from_millis(3520), "{at:?}");
        state.received(Received::Solicitation { index: 9 }, t0);
        assert_eq!(state.next_deadline().unwrap() - t0, at, "one that came by another interface");
    }

    #[test]
    fn a_neighbour_goes_with_the_link_and_the_last_one_heard_counts() {
        let t0 = Instant::now();
        let mut state = state(t0);
        let other = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
        for from in [FROM, other] {
            state.received(Received::Advertisement { index: 3, from }, t0);
            assert_eq!(state.neighbours(), there(3, Some(from)));
        }
        state.link(&link(3, "eth0", true), t0);
        assert_eq!(state.neighbours(), there(3, Some(other)), "an event that changes nothing");
        state.link(&link(3, "eth0", false), t0);
        assert!(state.neighbours().is_empty() && state.next_deadline().is_none());
        state.link(&link(3, "eth0", true), t0);
        assert_eq!(state.neighbours(), there(3, None));
        state.link_removed(3);
        assert!(state.neighbours().is_empty());
        state.link(&link(8, "eth0", true), t0);
        assert_eq!(state.neighbours(), there(8, None), "the name came back on another link");
    }

    #[test]
    fn a_link_that_is_renamed_is_another_one() {
        let t0 = Instant::now();
        let mut state = state(t0);
        state.link(&link(3, "eth9", true), t0);
        assert!(state.neighbours().is_empty());
        state.link(&link(3, "eth0", true), t0);
        assert_eq!(state.neighbours(), there(3, None));
    }

    #[test]
    fn interfaces_that_nobody_wants_are_left_alone() {
        let t0 = Instant::now();
        let mut state = state(t0);
        state.set_interfaces(BTreeSet::from(["eth1".to_string()]));
        assert!(state.neighbours().is_empty());
        state.resync(vec![link(3, "eth0", true), link(4, "eth1", true)], t0);
        assert_eq!(state.neighbours(), Neighbours::from([("eth1".to_string(), (4, None))]));
    }
}
