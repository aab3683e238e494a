//! All sessions of a machine: which of them a packet is for, and when the next one has something to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::packet::{Discard, Packet};
use crate::session::{Action, Event, Session, Timers};

/// How far away the other end may be; each has its own UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hops {
    /// RFC 5881.
    Single,
    /// RFC 5883.
    Multi,
}

impl Hops {
    pub const ALL: [Hops; 2] = [Hops::Single, Hops::Multi];

    /// RFC 5881 section 4, RFC 5883 section 5.
    pub fn port(self) -> u16 {
        match self {
            Hops::Single => 3784,
            Hops::Multi => 4784,
        }
    }
}

/// Between whom a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub hops: Hops,
    pub peer: IpAddr,
    /// `None`: whatever address of ours the other end writes to.
    pub local: Option<IpAddr>,
    /// Index of the interface; 0: any.
    pub interface: u32,
    /// The least TTL or hop limit that a packet may have left. Not looked at in a single-hop session, where it is 255.
    pub min_ttl: u8,
}

/// What arrived, and how.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub hops: Hops,
    pub from: IpAddr,
    pub to: IpAddr,
    pub interface: u32,
    pub ttl: u8,
    pub payload: &'a [u8],
}

/// A session and its traffic.
#[derive(Debug)]
pub struct Entry {
    pub path: Path,
    pub session: Session,
    /// Packets taken.
    pub received: u64,
    /// As in the set of deadlines.
    deadline: Option<Instant>,
}

/// See the module. `Id` is the owner's name for a session.
#[derive(Debug)]
pub struct Sessions<Id> {
    entries: BTreeMap<Id, Entry>,
    by_discriminator: BTreeMap<u32, Id>,
    by_peer: BTreeMap<(Hops, IpAddr), Vec<Id>>,
    deadlines: BTreeSet<(Instant, Id)>,
    random: u64,
}

impl<Id: Copy + Ord> Sessions<Id> {
    /// None yet. `seed` is of the discriminators and of the jitter.
    pub fn new(seed: u64) -> Sessions<Id> {
        Sessions {
            entries: BTreeMap::new(),
            by_discriminator: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            random: seed,
        }
    }

    /// Adds a session; one of that name is replaced.
    pub fn insert(&mut self, id: Id, path: Path, timers: Timers, now: Instant) {
        self.remove(id);
        let discriminator = self.new_discriminator();
        let session = Session::new(timers, discriminator, self.random(), now);
        let deadline = session.next_deadline();
        self.deadlines.extend(deadline.map(|at| (at, id)));
        self.by_discriminator.insert(discriminator, id);
        self.by_peer.entry((path.hops, path.peer)).or_default().push(id);
        self.entries.insert(id, Entry { path, session, received: 0, deadline });
    }

    pub fn remove(&mut self, id: Id) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.by_discriminator.remove(&entry.session.status().local_discriminator);
        self.deadlines.extract_if(.., |(_, i)| *i == id).for_each(drop);
        let at = (entry.path.hops, entry.path.peer);
        if let Some(ids) = self.by_peer.get_mut(&at) {
            ids.retain(|i| *i != id);
            if ids.is_empty() {
                self.by_peer.remove(&at);
            }
        }
    }

    pub fn get(&self, id: Id) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// When the first of the sessions has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A session whose deadline has passed: hand it [`Event::Timer`], until there is none.
    pub fn due(&self, now: Instant) -> Option<Id> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// See [`Session::handle`].
    pub fn handle(&mut self, id: Id, event: Event, now: Instant) -> Vec<Action> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        entry.received += u64::from(matches!(event, Event::Received(_)));
        let actions = entry.session.handle(event, now);
        let deadline = entry.session.next_deadline();
        if deadline != entry.deadline {
            self.deadlines.extend(deadline.map(|at| (at, id)));
            if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
                self.deadlines.remove(&(old, id));
            }
        }
        actions
    }

    /// Which session a packet is for.
    ///
    /// # Errors
    /// Why it is discarded: the checks of RFC 5880 section 6.8.6 and RFC 5881 section 5.
    pub fn select(&self, datagram: Datagram<'_>) -> Result<(Id, Packet), Discard> {
        if datagram.hops == Hops::Single && datagram.ttl != u8::MAX {
            return Err(Discard::Ttl);
        }
        let packet = Packet::read(datagram.payload)?;
        let id = match packet.your_discriminator {
            0 => self.by_addresses(datagram),
            // RFC 5880 section 6.3: by the discriminator alone, for addresses may change.
            known => self.by_discriminator.get(&known).copied(),
        };
        let found = id.and_then(|id| Some((id, self.entries.get(&id)?)));
        let Some((id, entry)) = found.filter(|(_, entry)| entry.path.hops == datagram.hops) else {
            return Err(Discard::NoSession);
        };
        if datagram.hops == Hops::Multi && datagram.ttl < entry.path.min_ttl {
            return Err(Discard::Ttl);
        }
        // bfd.AuthType is 0 in every session of ours.
        if packet.authenticated { Err(Discard::Authenticated) } else { Ok((id, packet)) }
    }

    /// RFC 5881 section 3 and RFC 5883 section 4.1: by both addresses and, where it is known, the interface.
    fn by_addresses(&self, datagram: Datagram<'_>) -> Option<Id> {
        let candidates = self.by_peer.get(&(datagram.hops, datagram.from))?;
        let fits = |id: &&Id| {
            self.entries.get(id).is_some_and(|entry| {
                let path = &entry.path;
                (path.interface == 0 || path.interface == datagram.interface)
                    && path.local.is_none_or(|local| local == datagram.to)
            })
        };
        candidates.iter().find(fits).copied()
    }

    /// Section 6.8.1 of RFC 5880: unique and not 0; hard to guess, so that nobody off the path can speak for the other end.
    fn new_discriminator(&mut self) -> u32 {
        loop {
            let candidate = (self.random() >> 32) as u32;
            if candidate != 0 && !self.by_discriminator.contains_key(&candidate) {
                return candidate;
            }
        }
    }

    fn random(&mut self) -> u64 {
        crate::session::next_random(&mut self.random)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::packet::{Diag, State};

    fn address(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn path(hops: Hops, peer: &str) -> Path {
        Path { hops, peer: address(peer), local: None, interface: 0, min_ttl: 1 }
    }

    fn timers() -> Timers {
        Timers::new(Duration::from_millis(50), Duration::from_millis(50), 3)
    }

    fn packet(state: State, your_discriminator: u32) -> Packet {
        Packet {
            diag: Diag::NONE,
            state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            authenticated: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 7,
            your_discriminator,
            desired_min_tx: 50_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    /// Sessions 1 to 4: single-hop to 10.0.0.1 and 10.0.0.2, link-local on interface 5, multihop to 10.0.0.1 at TTL 250.
    fn sessions() -> Sessions<u32> {
        let now = Instant::now();
        let mut all = Sessions::new(1);
        all.insert(1, path(Hops::Single, "10.0.0.1"), timers(), now);
        let bound = Path { local: Some(address("10.0.0.9")), ..path(Hops::Single, "10.0.0.2") };
        all.insert(2, bound, timers(), now);
        all.insert(3, Path { interface: 5, ..path(Hops::Single, "fe80::1") }, timers(), now);
        all.insert(4, Path { min_ttl: 250, ..path(Hops::Multi, "10.0.0.1") }, timers(), now);
        all
    }

    fn select(all: &Sessions<u32>, hops: Hops, from: &str, ttl: u8, packet: Packet) -> Result<u32, Discard> {
        let payload = packet.write();
        let datagram =
            Datagram { hops, from: address(from), to: address("10.0.0.9"), interface: 5, ttl, payload: &payload };
        all.select(datagram).map(|(id, _)| id)
    }

    #[test]
    fn the_first_packets_are_told_apart_by_addresses_port_and_interface() {
        let all = sessions();
        let first = |hops, from, ttl| select(&all, hops, from, ttl, packet(State::Down, 0));
        assert_eq!(first(Hops::Single, "10.0.0.1", 255), Ok(1));
        assert_eq!(first(Hops::Multi, "10.0.0.1", 255), Ok(4));
        assert_eq!(first(Hops::Single, "10.0.0.2", 255), Ok(2));
        assert_eq!(first(Hops::Single, "fe80::1", 255), Ok(3));
        assert_eq!(first(Hops::Single, "10.0.0.3", 255), Err(Discard::NoSession));
        assert_eq!(first(Hops::Multi, "10.0.0.2", 255), Err(Discard::NoSession));
    }

    #[test]
    fn the_local_address_and_the_interface_must_be_the_sessions() {
        let all = sessions();
        let payload = packet(State::Down, 0).write();
        let at = |from: &str, to: &str, interface| {
            let (from, to) = (address(from), address(to));
            all.select(Datagram { hops: Hops::Single, from, to, interface, ttl: 255, payload: &payload }).map(|s| s.0)
        };
        assert_eq!(at("10.0.0.2", "10.0.0.8", 1), Err(Discard::NoSession));
        assert_eq!(at("fe80::1", "fe80::9", 6), Err(Discard::NoSession));
        assert_eq!(at("10.0.0.1", "10.0.0.8", 6), Ok(1), "a session without either takes any");
    }

    #[test]
    fn later_packets_are_told_apart_by_the_discriminator_alone() {
        let all = sessions();
        let mine = all.get(1).unwrap().session.status().local_discriminator;
        let from = |hops, from| select(&all, hops, from, 255, packet(State::Up, mine));
        assert_eq!(from(Hops::Single, "192.0.2.1"), Ok(1));
        assert_eq!(from(Hops::Multi, "10.0.0.1"), Err(Discard::NoSession), "not on the other port");
        let unknown = packet(State::Up, !mine);
        assert_eq!(select(&all, Hops::Single, "10.0.0.1", 255, unknown), Err(Discard::NoSession));
    }

    #[test]
    fn ttl_255_is_required_on_one_hop_and_what_is_configured_on_several() {
        let all = sessions();
        let at = |hops, ttl| select(&all, hops, "10.0.0.1", ttl, packet(State::Down, 0));
        assert_eq!(at(Hops::Single, 254), Err(Discard::Ttl));
        assert_eq!(at(Hops::Multi, 250), Ok(4));
        assert_eq!(at(Hops::Multi, 249), Err(Discard::Ttl));
    }

    #[test]
    fn an_authenticated_packet_is_discarded_where_a_session_is_found() {
        let all = sessions();
        let mut payload = packet(State::Down, 0).write().to_vec();
        payload[1] |= 0x04;
        payload[3] = 26;
        payload.extend([1, 2]);
        let from = |from: &str| {
            let (from, to) = (address(from), address("10.0.0.9"));
            all.select(Datagram { hops: Hops::Single, from, to, interface: 5, ttl: 255, payload: &payload })
        };
        assert_eq!(from("10.0.0.1").err(), Some(Discard::Authenticated));
        assert_eq!(from("10.0.0.3").err(), Some(Discard::NoSession), "section 6.8.6: after the session is looked for");
    }

    #[test]
    fn discriminators_are_unique_and_go_with_their_sessions() {
        let mut all = sessions();
        let discriminator = |all: &Sessions<u32>, id| all.get(id).unwrap().session.status().local_discriminator;
        let seen: BTreeSet<u32> = (1..=4).map(|id| discriminator(&all, id)).collect();
        assert!(seen.len() == 4 && !seen.contains(&0));
        let old = discriminator(&all, 1);
        all.remove(1);
        assert_eq!(select(&all, Hops::Single, "10.0.0.1", 255, packet(State::Up, old)), Err(Discard::NoSession));
        assert_eq!(select(&all, Hops::Single, "10.0.0.1", 255, packet(State::Down, 0)), Err(Discard::NoSession));
    }

    #[test]
    fn the_next_deadline_is_that_of_the_first_session() {
        let mut all = sessions();
        let now = Instant::now();
        let mut done = BTreeSet::new();
        while let Some(id) = all.due(now) {
            assert!(done.insert(id), "a session that was handled is not due again");
            assert!(matches!(all.handle(id, Event::Timer, now)[..], [Action::Send(_)]));
        }
        assert_eq!(done.len(), 4);
        let next = all.next_deadline().unwrap();
        let first = all.iter().filter_map(|(_, e)| e.session.next_deadline()).min().unwrap();
        assert_eq!(next, first);
        (1..=4).for_each(|id| all.remove(id));
        assert_eq!(all.next_deadline(), None);
    }
}
