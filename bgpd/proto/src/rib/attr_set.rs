//! Attribute sets, each kept once however many paths have it.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::wire::attribute::Attributes;

/// Names an interned attribute set. Valid while somebody holds a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrId(u32);

impl AttrId {
    /// No set: a path that policy or a loop check turned down.
    pub const NONE: AttrId = AttrId(u32::MAX);
}

/// A set with what the decision process asks most.
#[derive(Debug)]
pub struct AttrSet {
    pub attributes: Attributes,
    pub as_path_len: u32,
    pub neighbour_as: u32,
    /// NO_ADVERTISE is among its communities.
    pub no_advertise: bool,
    /// NO_EXPORT or NO_EXPORT_SUBCONFED is (we know no confederations).
    pub no_export: bool,
    hash: u64,
    references: u32,
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

    /// The set's number, with one more reference, which belongs to the caller.
    pub fn intern(&mut self, attributes: Attributes) -> AttrId {
        let hash = self.hasher.hash_one(&attributes);
        let sets = &mut self.sets;
        let same = |&id: &u32| sets[id as usize].as_ref().is_some_and(|s| s.attributes == attributes);
        if let Some(&id) = self.index.find(hash, same) {
            self.retain(AttrId(id), 1);
            return AttrId(id);
        }
        let (no_advertise, no_export) = super::export::bounds(&attributes);
        let set = AttrSet {
            no_advertise,
            no_export,
            as_path_len: attributes.as_path_len(),
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
        self.index.insert_unique(hash, id, |&i| sets[i as usize].as_ref().map_or(0, |s| s.hash));
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
        let Some(slot) = self.sets.get_mut(id.0 as usize) else {
            return; // NONE
        };
        let Some(set) = slot else { return };
        set.references -= 1;
        if set.references == 0 {
            if let Ok(found) = self.index.find_entry(set.hash, |&i| i == id.0) {
                found.remove();
            }
            *slot = None;
            self.free.push(id.0);
        }
    }

    /// How many sets there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}
