//! Attribute sets, each kept once however many paths have it.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::wire::attribute::Attributes;
use crate::wire::iana;

/// Names an interned attribute set. Valid while somebody holds a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrId(u32);

impl AttrId {
    /// No set: a path that policy or a loop check turned down.
    pub const NONE: AttrId = AttrId(u32::MAX);
}

/// A set with what the decision process asks most. There are as many as UPDATEs: every octet counts.
#[derive(Debug)]
pub struct AttrSet {
    pub attributes: Attributes,
    pub neighbour_as: u32,
    metric: u32,
    hash: u32,
    references: u32,
    as_path_len: u16,
    pub marks: Marks,
}

const _: () = assert!(size_of::<Option<AttrSet>>() <= 96);

/// What [`AttrSet::metric`] has for a next hop that cannot be reached.
const UNREACHABLE: u32 = u32::MAX;

impl AttrSet {
    pub fn as_path_len(&self) -> u32 {
        self.as_path_len.into()
    }

    /// How far away the next hop is; `None`: it cannot be reached.
    pub fn metric(&self) -> Option<u32> {
        (self.metric != UNREACHABLE).then_some(self.metric)
    }
}

/// A table's hash of the half of it that is kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Well-known communities of a set. NO_PEER (RFC 3765) asks for what only an operator can decide, and is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// RFC 1997.
    pub no_advertise: bool,
    /// NO_EXPORT or NO_EXPORT_SUBCONFED (RFC 1997; we know no confederations).
    pub no_export: bool,
    /// RFC 7999: a learned route stays in the AS, as section 3.2 wants. Its prefix may be as long as it likes anyway.
    pub blackhole: bool,
    /// RFC 8326.
    pub graceful_shutdown: bool,
    /// RFC 9494.
    pub llgr_stale: bool,
    pub no_llgr: bool,
}

impl Marks {
    fn of(attributes: &Attributes) -> Marks {
        let mut marks = Marks::default();
        for community in attributes.communities() {
            match community {
                iana::NO_ADVERTISE => marks.no_advertise = true,
                iana::NO_EXPORT | iana::NO_EXPORT_SUBCONFED => marks.no_export = true,
                iana::BLACKHOLE => marks.blackhole = true,
                iana::GRACEFUL_SHUTDOWN => marks.graceful_shutdown = true,
                iana::LLGR_STALE => marks.llgr_stale = true,
                iana::NO_LLGR => marks.no_llgr = true,
                _ => {}
            }
        }
        marks
    }
}

/// The interned sets, counted by reference.
#[derive(Debug)]
pub struct AttrTable {
    sets: Vec<Option<AttrSet>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
}

impl AttrTable {
    pub fn new(seed: u64) -> AttrTable {
        AttrTable { sets: Vec::new(), free: Vec::new(), index: HashTable::new(), hasher: FixedState::with_seed(seed) }
    }

    /// The set's number, with one more reference, which belongs to the caller. `resolve` judges the next hop of a new set.
    pub fn intern(&mut self, attributes: Attributes, resolve: impl FnOnce(IpAddr) -> Option<u32>) -> AttrId {
        let hash = self.hasher.hash_one(&attributes) as u32;
        let sets = &mut self.sets;
        let same = |&id: &u32| sets[id as usize].as_ref().is_some_and(|s| s.attributes == attributes);
        if let Some(&id) = self.index.find(spread(hash), same) {
            self.retain(AttrId(id), 1);
            return AttrId(id);
        }
        let set = AttrSet {
            marks: Marks::of(&attributes),
            metric: resolve(attributes.next_hop).unwrap_or(UNREACHABLE),
            as_path_len: attributes.as_path_len().try_into().unwrap_or(u16::MAX),
            neighbour_as: attributes.neighbour_as().unwrap_or(0),
            attributes,
            hash,
            references: 1,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.sets[id as usize] = Some(set);
                id
            }
            None => {
                self.sets.push(Some(set));
                self.sets.len() as u32 - 1
            }
        };
        let sets = &self.sets;
        self.index.insert_unique(spread(hash), id, |&i| sets[i as usize].as_ref().map_or(0, |s| spread(s.hash)));
        AttrId(id)
    }

    pub fn get(&self, id: AttrId) -> &AttrSet {
        self.sets[id.0 as usize].as_ref().expect("an id is used only while a reference to it is held")
    }

    /// Adds references.
    pub fn retain(&mut self, id: AttrId, count: u32) {
        if let Some(Some(set)) = self.sets.get_mut(id.0 as usize) {
            set.references += count;
        }
    }

    /// Gives a reference back; the last one frees the set.
    pub fn release(&mut self, id: AttrId) {
        self.release_many(id, 1);
    }

    /// Gives references back.
    pub fn release_many(&mut self, id: AttrId, count: u32) {
        let Some(slot) = self.sets.get_mut(id.0 as usize) else {
            return; // NONE
        };
        let Some(set) = slot else { return };
        set.references -= count;
        if set.references == 0 {
            if let Ok(found) = self.index.find_entry(spread(set.hash), |&i| i == id.0) {
                found.remove();
            }
            *slot = None;
            self.free.push(id.0);
        }
    }

    /// Judges all next hops again; whether any answer differs.
    pub fn resolve(&mut self, mut resolve: impl FnMut(IpAddr) -> Option<u32>) -> bool {
        let mut differs = false;
        for set in self.sets.iter_mut().flatten() {
            let metric = resolve(set.attributes.next_hop).unwrap_or(UNREACHABLE);
            differs |= std::mem::replace(&mut set.metric, metric) != metric;
        }
        differs
    }

    /// Whether a set has a next hop.
    pub fn has_next_hop(&self, next_hop: IpAddr) -> bool {
        self.sets.iter().flatten().any(|s| s.attributes.next_hop == next_hop)
    }

    /// How many sets there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}
