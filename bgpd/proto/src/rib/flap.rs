//! Prefixes whose best paths change too often.
//!
//! A table of a million prefixes must not pay for the few that flap: a change costs an octet by the number of its entry, which is
//! next to the one before. Only a prefix that reaches [`SUSPECT`] is counted by itself, with its peers, and there are at most
//! [`MOST`] of those. An entry keeps its number to the end of the window ([`Rib::make_room`] has the exception).
//!
//! Time is the caller's: it begins a new window each minute ([`Flaps::roll`]).

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::{PeerIndex, Rib};
use crate::af::{Family, Key, Prefix};

/// Changes in a window from which a prefix is counted by itself.
const SUSPECT: u8 = 4;
/// Prefixes that are counted by themselves.
const MOST: usize = 4096;
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
    /// Changes in this window, by family and entry; no more than [`SUSPECT`].
    counts: [Vec<u8>; 2],
    now: HashMap<Prefix, Count, FixedState>,
    last: HashMap<Prefix, Count, FixedState>,
}

impl Flaps {
    pub(super) fn new(seed: u64) -> Flaps {
        let hasher = FixedState::with_seed(seed);
        Flaps {
            counts: Default::default(),
            now: HashMap::with_hasher(hasher.clone()),
            last: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    /// The best paths of an entry changed; these peers' they are now.
    #[inline]
    pub(super) fn note<K: Key>(&mut self, at: u32, key: K, peers: impl Iterator<Item = PeerIndex>) {
        let counts = &mut self.counts[K::FAMILY as usize];
        let at = at as usize;
        if at >= counts.len() {
            counts.resize(at + 1, 0);
        }
        if counts[at] + 1 < SUSPECT {
            counts[at] += 1;
        } else {
            counts[at] = SUSPECT;
            self.suspect(key.prefix(), peers);
        }
    }

    #[cold]
    fn suspect(&mut self, prefix: Prefix, peers: impl Iterator<Item = PeerIndex>) {
        if self.now.len() >= MOST && !self.now.contains_key(&prefix) {
            // Those that changed no more since.
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

    /// Whether an entry is counted by itself, so that it should keep its number.
    pub(super) fn is_suspect(&self, family: Family, at: u32) -> bool {
        self.counts[family as usize].get(at as usize).is_some_and(|&c| c >= SUSPECT)
    }

    /// The number of an entry will be another's.
    pub(super) fn forget(&mut self, family: Family, at: u32) {
        if let Some(count) = self.counts[family as usize].get_mut(at as usize) {
            *count = 0;
        }
    }

    fn roll(&mut self) {
        self.counts.iter_mut().for_each(|c| c.fill(0));
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

    /// A window of changes is over: the numbers of prefixes that are gone are free for others.
    pub fn roll_flaps(&mut self) {
        self.flaps.roll();
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::af::V4;

    fn key(n: u32) -> V4 {
        let prefix = Prefix::new(std::net::Ipv4Addr::from(n << 8).into(), 24).unwrap();
        V4::from_prefix(prefix).unwrap()
    }

    fn note(flaps: &mut Flaps, n: u32, peer: PeerIndex) {
        flaps.note(n, key(n), [peer].into_iter());
    }

    #[test]
    fn what_changes_often_is_named_with_its_peers() {
        let mut flaps = Flaps::new(1);
        for i in 0..10 {
            note(&mut flaps, 1, 1 + i % 2);
        }
        (0..3).for_each(|_| note(&mut flaps, 2, 1));
        let want = Flap { prefix: key(1).prefix(), changes: 10, peers: vec![2, 1] };
        assert_eq!(flaps.flapping(10), [want]);
        assert_eq!(flaps.flapping(11), []);
        assert_eq!(flaps.flapping(1).len(), 1, "three changes are no suspect");
    }

    #[test]
    fn a_window_counts_until_the_end_of_the_next() {
        let mut flaps = Flaps::new(1);
        (0..20).for_each(|_| note(&mut flaps, 1, 1));
        flaps.roll();
        (0..5).for_each(|_| note(&mut flaps, 1, 2));
        assert_eq!(flaps.flapping(20), [Flap { prefix: key(1).prefix(), changes: 20, peers: vec![1, 2] }]);
        flaps.roll();
        assert_eq!(flaps.flapping(20), []);
    }

    #[test]
    fn a_number_that_is_given_to_another_prefix_counts_anew() {
        let mut flaps = Flaps::new(1);
        (0..3).for_each(|_| note(&mut flaps, 1, 1));
        flaps.forget(Family::Ipv4, 1);
        (0..3).for_each(|_| flaps.note(1, key(2), [1].into_iter()));
        assert!(!flaps.is_suspect(Family::Ipv4, 1));
        assert_eq!(flaps.flapping(1), []);
    }
}
