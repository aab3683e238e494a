//! The prefixes of one family, each with the paths that peers announced: the Adj-RIBs-In and the Loc-RIB in one.
//!
//! Invariants: an entry's number stays the same while anybody may name it (it has paths, or a peer has yet to be told that it
//! has none); its first `best` paths are the multipath set, the best of all in front.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::attr_set::AttrId;
use super::bitmap::Bitmap;
use super::decision::{self, Candidate};
use super::{PeerIndex, Shared};
use crate::af::Key;

/// A path that a peer announced. It owns a reference to each of its sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// As received: the Adj-RIB-In.
    pub received: AttrId,
    /// After import policy; [`AttrId::NONE`] if it was turned down.
    pub used: AttrId,
    pub peer: PeerIndex,
    /// RFC 4724: from before the peer's restart.
    pub stale: bool,
}

/// One path is the common case and takes no allocation. The box keeps an entry at 32 octets.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "a Vec would make every entry, and there are a million, half as large again")]
enum Paths {
    None,
    One(Path),
    Many(Box<Vec<Path>>),
}

impl Paths {
    fn as_slice(&self) -> &[Path] {
        match self {
            Paths::None => &[],
            Paths::One(p) => std::slice::from_ref(p),
            Paths::Many(list) => list,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Paths::None => &mut [],
            Paths::One(p) => std::slice::from_mut(p),
            Paths::Many(list) => list,
        }
    }

    fn push(&mut self, path: Path) {
        *self = match std::mem::replace(self, Paths::None) {
            Paths::None => Paths::One(path),
            Paths::One(first) => Paths::Many(Box::new(vec![first, path])),
            Paths::Many(mut list) => {
                list.push(path);
                Paths::Many(list)
            }
        };
    }

    fn remove(&mut self, at: usize) {
        *self = match std::mem::replace(self, Paths::None) {
            Paths::None | Paths::One(_) => Paths::None,
            Paths::Many(mut list) => {
                list.remove(at);
                match list[..] {
                    [last] => Paths::One(last),
                    _ => Paths::Many(list),
                }
            }
        };
    }
}

/// A prefix and its paths.
#[derive(Clone, Debug)]
pub struct Entry<K> {
    pub key: K,
    best: u16,
    paths: Paths,
}

impl<K> Entry<K> {
    pub fn paths(&self) -> &[Path] {
        self.paths.as_slice()
    }

    /// The multipath set, the best path first; empty if no path can be used.
    pub fn multipath(&self) -> &[Path] {
        &self.paths()[..usize::from(self.best)]
    }

    pub fn best(&self) -> Option<&Path> {
        self.multipath().first()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Table<K> {
    entries: Vec<Entry<K>>,
    index: HashTable<u32>,
    hasher: FixedState,
    free: Vec<u32>,
    /// Entries without a path that keep their number for now.
    empty: Vec<u32>,
    /// Entries whose multipath set changed since the last [`Table::take_changed`], each once.
    changed: Vec<u32>,
    changed_bits: Bitmap,
    /// Room for the decision, kept.
    before: Vec<Path>,
    candidates: Vec<(usize, Candidate)>,
}

impl<K: Key> Table<K> {
    pub fn new(seed: u64) -> Table<K> {
        Table {
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            free: Vec::new(),
            empty: Vec::new(),
            changed: Vec::new(),
            changed_bits: Bitmap::default(),
            before: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// All entries by number; some have no path.
    pub fn entries(&self) -> &[Entry<K>] {
        &self.entries
    }

    pub fn find(&self, key: K) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&i| self.entries[i as usize].key == key).copied()
    }

    fn find_or_insert(&mut self, key: K) -> u32 {
        let hash = self.hasher.hash_one(key);
        let (entries, hasher) = (&mut self.entries, &self.hasher);
        if let Some(&at) = self.index.find(hash, |&i| entries[i as usize].key == key) {
            return at;
        }
        let entry = Entry { key, best: 0, paths: Paths::None };
        let at = match self.free.pop() {
            Some(at) => {
                entries[at as usize] = entry;
                at
            }
            None => {
                entries.push(entry);
                entries.len() as u32 - 1
            }
        };
        self.index.insert_unique(hash, at, |&i| hasher.hash_one(entries[i as usize].key));
        at
    }

    /// A path of `path.peer` for the prefix, in place of the one it had. The table takes new references to its sets.
    /// Returns whether the peer had none before.
    pub fn insert(&mut self, shared: &mut Shared, key: K, path: Path) -> bool {
        let at = self.find_or_insert(key);
        let old = self.entries[at as usize].paths.as_mut_slice().iter_mut().find(|p| p.peer == path.peer);
        if let Some(old) = old
            && (old.received, old.used) == (path.received, path.used)
        {
            old.stale = path.stale;
            return false;
        }
        self.remember(at);
        shared.attrs.retain(path.received, 1);
        shared.attrs.retain(path.used, 1);
        let entry = &mut self.entries[at as usize];
        let replaced = match entry.paths.as_mut_slice().iter_mut().find(|p| p.peer == path.peer) {
            Some(old) => Some(std::mem::replace(old, path)),
            None => {
                entry.paths.push(path);
                None
            }
        };
        self.decide(shared, at);
        if let Some(old) = replaced {
            shared.release(&old);
        }
        replaced.is_none()
    }

    /// Takes the peer's path away; whether it had one.
    pub fn remove(&mut self, shared: &mut Shared, at: u32, peer: PeerIndex) -> bool {
        let entry = &mut self.entries[at as usize];
        let Some(found) = entry.paths().iter().position(|p| p.peer == peer) else {
            return false;
        };
        let old = entry.paths()[found];
        self.remember(at);
        let entry = &mut self.entries[at as usize];
        entry.paths.remove(found);
        if entry.paths().is_empty() {
            self.empty.push(at);
        }
        self.decide(shared, at);
        shared.release(&old);
        true
    }

    /// Takes away the peer's paths that `which` names; returns how many.
    pub fn remove_where(&mut self, shared: &mut Shared, peer: PeerIndex, which: impl Fn(&Path) -> bool) -> u32 {
        let mut removed = 0;
        for at in 0..self.entries.len() as u32 {
            if self.entries[at as usize].paths().iter().any(|p| p.peer == peer && which(p)) {
                removed += u32::from(self.remove(shared, at, peer));
            }
        }
        removed
    }

    /// RFC 4724 section 4.2: the peer is gone and said that it would come back.
    pub fn mark_stale(&mut self, peer: PeerIndex) {
        for entry in &mut self.entries {
            entry.paths.as_mut_slice().iter_mut().filter(|p| p.peer == peer).for_each(|p| p.stale = true);
        }
    }

    /// Asks `used` again for each path of the peer; what it returns is a reference that the table takes over.
    pub fn reimport(
        &mut self,
        shared: &mut Shared,
        peer: PeerIndex,
        mut used: impl FnMut(&mut Shared, K, AttrId) -> AttrId,
    ) {
        for at in 0..self.entries.len() as u32 {
            let entry = &self.entries[at as usize];
            let Some(found) = entry.paths().iter().position(|p| p.peer == peer) else {
                continue;
            };
            let old = entry.paths()[found];
            let new = used(shared, entry.key, old.received);
            if new == old.used {
                shared.attrs.release(new);
                continue;
            }
            self.remember(at);
            self.entries[at as usize].paths.as_mut_slice()[found].used = new;
            self.decide(shared, at);
            shared.attrs.release(old.used);
        }
    }

    /// Runs the decision process again for every entry: next hops have changed.
    pub fn redecide(&mut self, shared: &mut Shared) {
        for at in 0..self.entries.len() as u32 {
            if !self.entries[at as usize].paths().is_empty() {
                self.remember(at);
                self.decide(shared, at);
            }
        }
    }

    fn remember(&mut self, at: u32) {
        self.before.clear();
        self.before.extend_from_slice(self.entries[at as usize].multipath());
    }

    /// Puts the multipath set in front, and notes the entry if it is not what `remember` saw.
    fn decide(&mut self, shared: &mut Shared, at: u32) {
        let entry = &mut self.entries[at as usize];
        let list = entry.paths.as_mut_slice();
        entry.best = match list {
            [] => 0,
            [only] => u16::from(shared.is_eligible(only)),
            list => {
                self.candidates.clear();
                for (i, path) in list.iter().enumerate() {
                    if let Some(candidate) = shared.candidate(path) {
                        self.candidates.push((i, candidate));
                    }
                }
                let best = decision::select(&mut self.candidates);
                let mut order: Vec<Path> = self.candidates.iter().map(|c| list[c.0]).collect();
                order.extend(list.iter().filter(|p| !self.candidates.iter().any(|c| list[c.0].peer == p.peer)));
                list.copy_from_slice(&order);
                best as u16
            }
        };
        let same = |(a, b): (&Path, &Path)| a.peer == b.peer && a.used == b.used;
        let now = entry.multipath();
        if (now.len() != self.before.len() || !now.iter().zip(&self.before).all(same)) && self.changed_bits.insert(at) {
            self.changed.push(at);
        }
    }

    /// The changed entries; give the list back with [`Table::recycle`].
    pub fn take_changed(&mut self) -> Vec<u32> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().for_each(|&at| {
            self.changed_bits.remove(at);
        });
        changed
    }

    pub fn recycle(&mut self, mut changed: Vec<u32>) {
        if self.changed.is_empty() {
            changed.clear();
            self.changed = changed;
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Forgets entries without paths. Only when nobody has still to be told of one.
    pub fn reap(&mut self) {
        for at in std::mem::take(&mut self.empty) {
            let entry = &self.entries[at as usize];
            if !entry.paths().is_empty() {
                continue;
            }
            let hash = self.hasher.hash_one(entry.key);
            // An entry is in `empty` twice if it was filled and emptied again.
            if let Ok(found) = self.index.find_entry(hash, |&i| i == at) {
                found.remove();
                self.free.push(at);
            }
        }
    }
}
