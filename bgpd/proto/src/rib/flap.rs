//! Prefixes whose best paths change too often.
//!
//! A table of a million prefixes must not pay for the few that flap, so changes are first counted by hash in a filter of fixed size; only
//! a prefix whose count there reaches [`SUSPECT`] is counted by itself, and there are at most [`MOST`] of those. What flaps is
//! found whatever else is loaded meanwhile; a count may be up to `SUSPECT - 1` too high, where prefixes share a hash.
//!
//! Time is the caller's: it begins a new window each minute ([`Flaps::roll`]).

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::{PeerIndex, Rib};
use crate::af::Prefix;

/// Changes in a window from which a prefix is counted by itself.
const SUSPECT: u8 = 4;
/// Prefixes that are counted by themselves.
const MOST: usize = 4096;
/// Places of the filter, a power of two: a table load is about one change each.
const PLACES: usize = 1 << 20;
/// Peers that are remembered of one prefix.
const MOST_PEERS: usize = 8;

/// A prefix that flaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flap {
    pub prefix: Prefix,
    /// Changes of its best paths in the present window or the last one, whichever had more.
    pub changes: u32,
    /// Whose paths were best meanwhile.
    pub peers: Vec<PeerIndex>,
}

#[derive(Clone, Debug, Default)]
struct Count {
    changes: u32,
    peers: Vec<PeerIndex>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flaps {
    hasher: FixedState,
    /// Made with the first change of a window.
    filter: Vec<u8>,
    now: HashMap<Prefix, Count, FixedState>,
    last: HashMap<Prefix, Count, FixedState>,
}

impl Flaps {
    pub(super) fn new(seed: u64) -> Flaps {
        let hasher = FixedState::with_seed(seed);
        Flaps {
            filter: Vec::new(),
            now: HashMap::with_hasher(hasher.clone()),
            last: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    /// The best paths of a prefix changed; these peers' they are now.
    pub(super) fn note(&mut self, prefix: Prefix, peers: impl Iterator<Item = PeerIndex>) {
        if self.filter.is_empty() {
            self.filter = vec![0; PLACES];
        }
        let place = &mut self.filter[self.hasher.hash_one(prefix) as usize & (PLACES - 1)];
        *place = place.saturating_add(1);
        if *place < SUSPECT {
            return;
        }
        if self.now.len() >= MOST && !self.now.contains_key(&prefix) {
            // Those that only share a hash with others, or changed no more since.
            self.now.retain(|_, c| c.changes > u32::from(SUSPECT));
            if self.now.len() >= MOST {
                return;
            }
        }
        let count =
            self.now.entry(prefix).or_insert_with(|| Count { changes: u32::from(SUSPECT) - 1, peers: Vec::new() });
        count.changes += 1;
        for peer in peers {
            if count.peers.len() < MOST_PEERS && !count.peers.contains(&peer) {
                count.peers.push(peer);
            }
        }
    }

    fn roll(&mut self) {
        self.filter = Vec::new();
        self.last = std::mem::replace(&mut self.now, HashMap::with_hasher(self.hasher.clone()));
    }

    fn flapping(&self, threshold: u32) -> Vec<Flap> {
        let mut all: HashMap<Prefix, Count, FixedState> = self.last.clone();
        for (prefix, count) in &self.now {
            let known = all.entry(*prefix).or_default();
            known.changes = known.changes.max(count.changes);
            known.peers.extend(count.peers.iter().filter(|p| !known.peers.contains(p)).copied().collect::<Vec<_>>());
        }
        let flap = |(prefix, c): (Prefix, Count)| Flap { prefix, changes: c.changes, peers: c.peers };
        let mut flaps: Vec<Flap> = all.into_iter().filter(|(_, c)| c.changes >= threshold).map(flap).collect();
        flaps.sort_by_key(|f| (std::cmp::Reverse(f.changes), f.prefix));
        flaps
    }
}

impl Rib {
    /// Prefixes whose best paths changed `threshold` times or more in this window or the last one, the worst first.
    pub fn flapping(&self, threshold: u32) -> Vec<Flap> {
        self.flaps.flapping(threshold)
    }

    /// A window of changes is over.
    pub fn roll_flaps(&mut self) {
        self.flaps.roll();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u32) -> Prefix {
        Prefix::new(std::net::Ipv4Addr::from(n << 8).into(), 24).unwrap()
    }

    #[test]
    fn what_changes_often_is_named_with_its_peers() {
        let mut flaps = Flaps::new(1);
        for i in 0..10 {
            flaps.note(prefix(1), [1 + i % 2].into_iter());
        }
        (0..3).for_each(|_| flaps.note(prefix(2), [1].into_iter()));
        let want = Flap { prefix: prefix(1), changes: 10, peers: vec![2, 1] };
        assert_eq!(flaps.flapping(10), [want]);
        assert_eq!(flaps.flapping(11), []);
        assert_eq!(flaps.flapping(1).len(), 1, "three changes are no suspect");
    }

    #[test]
    fn a_window_counts_until_the_end_of_the_next() {
        let mut flaps = Flaps::new(1);
        (0..20).for_each(|_| flaps.note(prefix(1), [1].into_iter()));
        flaps.roll();
        (0..5).for_each(|_| flaps.note(prefix(1), [2].into_iter()));
        assert_eq!(flaps.flapping(20), [Flap { prefix: prefix(1), changes: 20, peers: vec![1, 2] }]);
        flaps.roll();
        assert_eq!(flaps.flapping(20), []);
    }

    #[test]
    fn one_that_flaps_is_found_while_a_table_is_loaded_and_withdrawn() {
        let mut flaps = Flaps::new(1);
        for n in 0..1_000_000 {
            flaps.note(prefix(n), [1].into_iter());
            if n % 40_000 == 0 {
                flaps.note(prefix(77), [1].into_iter());
            }
        }
        (0..1_000_000).for_each(|n| flaps.note(prefix(n), std::iter::empty()));
        let found = flaps.flapping(20);
        assert_eq!(found.iter().map(|f| f.prefix).collect::<Vec<_>>(), [prefix(77)]);
        assert!((25..=27 + u32::from(SUSPECT)).contains(&found[0].changes), "{found:?}");
        assert!(flaps.now.len() <= MOST);
    }
}
