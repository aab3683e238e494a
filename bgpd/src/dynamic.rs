//! Peers that no resource names: those that connect from inside a range, and those found behind a link.
//!
//! A guest is a peer like any other, made from a template. It stays while it has a session, while routes of it are kept for a
//! restart, and for [`LINGER`] after: long enough that an operator sees why it went. Then its place is free for another one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use bgp_plan::config::{DynamicPeers, PeerConfig, PeerId, PeerType, SpeakerConfig};
use bgp_proto::af::Prefix;

/// How long a guest without a session is kept: half a minute more than FRR's and BIRD's longest wait to connect.
pub const LINGER: Duration = Duration::from_secs(150);
/// Where guests listen, as far as we know.
const PORT: u16 = 179;

/// The interfaces that are there and can carry packets, by name: their index, and the link-local address of who is behind
/// them, once it is known.
pub type Neighbours = BTreeMap<String, (u32, Option<Ipv6Addr>)>;

/// What a guest was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Template {
    Range(String),
    Interface(String),
}

#[derive(Clone, Debug)]
struct Guest {
    template: Template,
    /// Since when it has no session.
    idle_since: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Guests {
    guests: BTreeMap<PeerId, Guest>,
}

impl Guests {
    /// The configuration with its guests among the peers. Guests whose template is gone, or whose address a resource names now,
    /// are forgotten.
    pub fn join(&mut self, mut config: SpeakerConfig) -> SpeakerConfig {
        self.guests.retain(|id, guest| {
            let named = config.peers.keys().any(|named| named.address == id.address && named.scope == id.scope);
            match guest.template.apply(&config, *id).filter(|_| !named) {
                Some(peer) => config.peers.insert(*id, peer).is_none(),
                None => false,
            }
        });
        config
    }

    /// A peer for a connection from an address that is no peer's, from the most specific range.
    ///
    /// # Errors
    /// Why there is none.
    pub fn admit(
        &mut self,
        config: &SpeakerConfig,
        from: IpAddr,
        now: Instant,
    ) -> Result<(PeerId, PeerConfig), String> {
        let Some((name, range)) = range_of(config, from) else {
            return Err("it is no peer".into());
        };
        let template = Template::Range(name.clone());
        let members = self.guests.values().filter(|g| g.template == template).count();
        if members >= usize::try_from(range.limit).unwrap_or(usize::MAX) {
            return Err(format!("the range {name} has its {} peers", range.limit));
        }
        let id = PeerId::new(from, PORT);
        self.guests.insert(id, Guest { template, idle_since: Some(now) });
        Ok((id, guest_config(&range.peer)))
    }

    /// A neighbour shows itself behind an interface: the peer to make, and those to take away for it. Another address takes
    /// the place of one that has no session.
    pub fn meet(
        &mut self,
        config: &SpeakerConfig,
        interface: &str,
        (scope, address): (u32, Ipv6Addr),
        now: Instant,
    ) -> Option<Arrival> {
        let peer = config.unnumbered.get(interface)?;
        let template = Template::Interface(interface.into());
        let id = PeerId { address: address.into(), port: PORT, scope };
        let others: Vec<PeerId> =
            self.guests.iter().filter(|(i, g)| **i != id && g.template == template).map(|(i, _)| *i).collect();
        let is_taken = |other: &PeerId| self.guests.get(other).is_some_and(|g| g.idle_since.is_none());
        if self.guests.contains_key(&id) || others.iter().any(is_taken) {
            return None;
        }
        others.iter().for_each(|other| drop(self.guests.remove(other)));
        self.guests.insert(id, Guest { template, idle_since: Some(now) });
        Some(Arrival { id, peer: peer.clone(), leaving: others })
    }

    /// Neighbours that are behind none of these interfaces any more: the interface went.
    pub fn lost(&self, neighbours: &Neighbours) -> Vec<PeerId> {
        let gone = |id: &PeerId, guest: &Guest| match &guest.template {
            Template::Range(_) => false,
            Template::Interface(name) => neighbours.get(name).is_none_or(|(index, _)| *index != id.scope),
        };
        self.guests.iter().filter(|(id, guest)| gone(id, guest)).map(|(id, _)| *id).collect()
    }

    /// A session came up or went down; whether that is new.
    pub fn session(&mut self, id: PeerId, is_up: bool, now: Instant) -> bool {
        let Some(guest) = self.guests.get_mut(&id) else { return false };
        let idle_since = if is_up { None } else { guest.idle_since.or(Some(now)) };
        std::mem::replace(&mut guest.idle_since, idle_since) != idle_since
    }

    /// Whether it was found behind an interface.
    pub fn is_neighbour(&self, id: PeerId) -> bool {
        self.guests.get(&id).is_some_and(|guest| matches!(guest.template, Template::Interface(_)))
    }

    /// Interfaces of unnumbered peers behind which no peer was found.
    pub fn missing<'a>(&self, config: &'a SpeakerConfig) -> impl Iterator<Item = (&'a String, &'a PeerConfig)> {
        let found = |name: &str| {
            self.guests.values().any(|guest| matches!(&guest.template, Template::Interface(of) if of == name))
        };
        config.unnumbered.iter().filter(move |(name, _)| !found(name))
    }

    /// Guests whose time is over, unless `is_kept`: they start over. Neighbours behind a link go with the link only.
    pub fn overdue(&mut self, now: Instant, is_kept: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let mut gone = Vec::new();
        self.guests.retain(|id, guest| {
            let is_over = guest.deadline().is_some_and(|at| at <= now);
            if is_over && is_kept(*id) {
                guest.idle_since = Some(now);
            } else if is_over {
                gone.push(*id);
                return false;
            }
            true
        });
        gone
    }

    /// When [`Guests::overdue`] has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.guests.values().filter_map(Guest::deadline).min()
    }

    /// It was taken away.
    pub fn remove(&mut self, id: PeerId) {
        self.guests.remove(&id);
    }
}

/// A neighbour that becomes a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    pub id: PeerId,
    pub peer: PeerConfig,
    pub leaving: Vec<PeerId>,
}

impl Guest {
    fn deadline(&self) -> Option<Instant> {
        match self.template {
            Template::Range(_) => self.idle_since.map(|since| since + LINGER),
            Template::Interface(_) => None,
        }
    }
}

impl Template {
    fn apply(&self, config: &SpeakerConfig, id: PeerId) -> Option<PeerConfig> {
        match self {
            Template::Range(name) => {
                let (best, range) = range_of(config, id.address)?;
                (best == name).then(|| guest_config(&range.peer))
            }
            Template::Interface(name) => config.unnumbered.get(name).cloned(),
        }
    }
}

/// Passive: a guest comes by itself, and where it listens nobody said.
fn guest_config(template: &PeerConfig) -> PeerConfig {
    PeerConfig { passive: true, peer_type: PeerType::Dynamic, ..template.clone() }
}

/// The longest prefix that has the address.
fn range_of(config: &SpeakerConfig, address: IpAddr) -> Option<(&String, &DynamicPeers)> {
    let host = Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })?;
    let holding = config.dynamic.iter().filter(|(_, range)| range.prefix.contains(host));
    holding.max_by_key(|(_, range)| range.prefix.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(name: &str) -> PeerConfig {
        PeerConfig::new(name, PeerType::Global, 65001, 0)
    }

    /// Ranges `rack` (10.0.0.0/8, two at most) and `row` (10.1.0.0/16), interface `eth0`, and the named peer 10.1.0.9.
    fn config() -> SpeakerConfig {
        let mut config = SpeakerConfig::new([10, 0, 0, 1].into(), 65001);
        for (name, prefix, len, limit) in [("rack", [10, 0, 0, 0], 8, 2), ("row", [10, 1, 0, 0], 16, 100)] {
            let prefix = Prefix::new(IpAddr::from(prefix), len).unwrap();
            config.dynamic.insert(name.into(), DynamicPeers { prefix, limit, peer: template(name) });
        }
        config.unnumbered.insert("eth0".into(), template("eth0"));
        config
    }

    fn at(n: [u8; 4]) -> IpAddr {
        n.into()
    }

    fn neighbour(n: u16) -> (u32, Ipv6Addr) {
        (7, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n))
    }

    #[test]
    fn the_longest_prefix_makes_the_peer_and_it_is_passive() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let (id, peer) = guests.admit(&config(), at([10, 1, 2, 3]), now).unwrap();
        assert_eq!((id, peer.name.as_str(), peer.passive), (PeerId::new(at([10, 1, 2, 3]), 179), "row", true));
        assert_eq!(guests.admit(&config(), at([10, 2, 0, 1]), now).unwrap().1.name, "rack");
        assert!(guests.admit(&config(), at([192, 0, 2, 1]), now).is_err());
        assert!(guests.admit(&config(), "2001:db8::1".parse().unwrap(), now).is_err());
    }

    #[test]
    fn a_range_is_full_at_its_limit_until_a_place_is_free() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let first = guests.admit(&config(), at([10, 2, 0, 1]), now).unwrap().0;
        guests.admit(&config(), at([10, 2, 0, 2]), now).unwrap();
        let refused = guests.admit(&config(), at([10, 2, 0, 3]), now).unwrap_err();
        assert!(refused.contains("rack") && refused.contains('2'), "{refused}");
        assert!(guests.admit(&config(), at([10, 1, 0, 1]), now).is_ok(), "another range has places of its own");
        guests.remove(first);
        assert!(guests.admit(&config(), at([10, 2, 0, 3]), now).is_ok());
    }

    #[test]
    fn a_guest_goes_when_it_had_no_session_for_a_while_and_nothing_of_it_is_kept() {
        let (mut guests, t0) = (Guests::default(), Instant::now());
        let id = guests.admit(&config(), at([10, 2, 0, 1]), t0).unwrap().0;
        guests.session(id, true, t0);
        assert_eq!(guests.next_deadline(), None, "not while it has a session");
        guests.session(id, false, t0);
        guests.session(id, false, t0 + LINGER / 2);
        assert_eq!(guests.next_deadline(), Some(t0 + LINGER), "an attempt that fails is no session");
        assert!(guests.overdue(t0 + LINGER / 2, |_| false).is_empty());
        assert!(guests.overdue(t0 + LINGER, |_| true).is_empty(), "its routes are kept for a restart");
        assert!(guests.overdue(t0 + LINGER, |_| false).is_empty(), "its time begins anew");
        assert_eq!(guests.overdue(t0 + LINGER * 2, |_| false), [id]);
        assert_eq!(guests.next_deadline(), None);
    }

    #[test]
    fn a_new_configuration_keeps_the_guests_that_it_still_has_a_template_for() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let (in_row, _) = guests.admit(&config(), at([10, 1, 0, 1]), now).unwrap();
        let (in_rack, _) = guests.admit(&config(), at([10, 2, 0, 1]), now).unwrap();
        let (named, _) = guests.admit(&config(), at([10, 1, 0, 9]), now).unwrap();
        let behind = guests.meet(&config(), "eth0", neighbour(1), now).unwrap().id;
        let mut next = config();
        next.dynamic.remove("row");
        next.dynamic.get_mut("rack").unwrap().peer.hold_time = 9;
        let moved = PeerId::new(at([10, 1, 0, 9]), 1790);
        next.peers.insert(moved, template("named"));
        let joined = guests.join(next);
        let found: Vec<PeerId> = joined.peers.keys().copied().collect();
        assert_eq!(found, [moved, in_rack, behind]);
        assert_eq!(joined.peers[&in_rack].hold_time, 9);
        assert!(!joined.peers.contains_key(&in_row) && !joined.peers.contains_key(&named));
        let joined = guests.join(SpeakerConfig::new([10, 0, 0, 1].into(), 65001));
        assert!(joined.peers.is_empty());
    }

    #[test]
    fn a_neighbour_with_another_address_takes_the_place_of_one_without_a_session() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let first = guests.meet(&config(), "eth0", neighbour(1), now).unwrap();
        assert_eq!((first.id.scope, first.leaving.len(), first.peer.passive), (7, 0, false));
        assert_eq!(guests.meet(&config(), "eth0", neighbour(1), now), None, "it is known");
        guests.session(first.id, true, now);
        assert_eq!(guests.meet(&config(), "eth0", neighbour(2), now), None, "the first has a session");
        guests.session(first.id, false, now);
        let second = guests.meet(&config(), "eth0", neighbour(2), now).unwrap();
        assert_eq!(second.leaving, [first.id]);
        assert_eq!(guests.meet(&config(), "eth1", neighbour(3), now), None, "nobody asked for neighbours there");
    }

    #[test]
    fn a_neighbour_goes_with_its_interface() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let id = guests.meet(&config(), "eth0", neighbour(1), now).unwrap().id;
        let there = |index, address| Neighbours::from([("eth0".to_string(), (index, address))]);
        assert!(guests.lost(&there(7, None)).is_empty());
        assert!(guests.lost(&there(7, Some(neighbour(2).1))).is_empty(), "another address is met, not lost");
        assert_eq!(guests.lost(&Neighbours::new()), [id]);
        assert_eq!(guests.lost(&there(8, None)), [id], "it is another interface of that name");
    }
}
