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
use super::entry_set::EntrySet;
use super::{PeerIndex, Shared};
use crate::af::Key;

/// A path that a peer announced. It owns a reference to each of its sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// As received: the Adj-RIB-In.
    pub received: AttrId,
    /// After import policy; [`AttrId::NONE`] if it was turned down.
    pub used: AttrId,
    /// The path identifier received (RFC 7911); 0 from peers without.
    pub id: u32,
    pub peer: PeerIndex,
    pub stale: Stale,
}

/// Whether a path is from before the peer's restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    No,
    /// RFC 4724: used as any other for the restart time.
    Restarting,
    /// RFC 9494: used where there is nothing else.
    LongLived,
}

impl Path {
    /// Whether it is the one path that the peer can have under this identifier.
    fn is(&self, peer: PeerIndex, id: u32) -> bool {
        self.peer == peer && self.id == id
    }
}

/// So many entries may be empty in any table.
const LEAST_EMPTY: usize = 4096;

/// What happened to an entry since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The best path is another, or has other attributes.
    pub best: bool,
    /// The multipath set is.
    pub multipath: bool,
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
                // Doubling would leave a quarter of the room unused.
                list.reserve_exact(if list.len() == list.capacity() { 2 + list.len() / 4 } else { 1 });
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
    /// Entries without a path, which keep their number for now.
    empty: EntrySet,
    /// Entries that changed since the last [`Table::take_changed`], each once: their multipath sets, or with `notes_all` any
    /// path of theirs.
    changed: Vec<u32>,
    changed_bits: Bitmap,
    changed_best: Bitmap,
    changed_multipath: Bitmap,
    notes_all: bool,
    /// Room for what is looked up, and for the decision; kept.
    found: Vec<(u32, u32)>,
    before: Vec<Path>,
    candidates: Vec<(usize, Candidate)>,
    order: Vec<Path>,
    unusable: Vec<Path>,
}

impl<K: Key> Table<K> {
    pub fn new(seed: u64) -> Table<K> {
        Table {
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            free: Vec::new(),
            empty: EntrySet::default(),
            changed: Vec::new(),
            changed_bits: Bitmap::default(),
            changed_best: Bitmap::default(),
            changed_multipath: Bitmap::default(),
            notes_all: false,
            found: Vec::new(),
            before: Vec::new(),
            candidates: Vec::new(),
            order: Vec::new(),
            unusable: Vec::new(),
        }
    }

    /// All entries by number; some have no path.
    pub fn entries(&self) -> &[Entry<K>] {
        &self.entries
    }

    /// How many prefixes have a path.
    pub fn prefix_count(&self) -> u32 {
        self.index.len() as u32 - self.empty.len()
    }

    pub fn find(&self, key: K) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&i| self.entries[i as usize].key == key).copied()
    }

    /// The entries of those prefixes of a list that have one, with the list's path identifiers. All are looked up before any is
    /// touched: each is a cache miss, and so they overlap. Give the vector back with [`Table::recycle_found`].
    pub fn find_all(&mut self, list: impl Iterator<Item = (u32, K)>) -> Vec<(u32, u32)> {
        let mut found = std::mem::take(&mut self.found);
        found.extend(list.filter_map(|(id, key)| Some((self.find(key)?, id))));
        found
    }

    pub fn recycle_found(&mut self, mut found: Vec<(u32, u32)>) {
        found.clear();
        self.found = found;
    }

    fn find_or_insert(&mut self, key: K) -> u32 {
        let hash = self.hasher.hash_one(key);
        let entries = &mut self.entries;
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
        if self.index.len() == self.index.capacity() && self.free.is_empty() {
            self.grow_index();
        } else {
            let (entries, hasher) = (&self.entries, &self.hasher);
            self.index.insert_unique(hash, at, |&i| hasher.hash_one(entries[i as usize].key));
        }
        at
    }

    /// Makes the index anew, twice as large, where every entry is in it. In the order of the entries: growing it by itself
    /// would read them in the order of their hashes, a cache miss each.
    fn grow_index(&mut self) {
        let capacity = 2 * self.index.capacity();
        // The old one goes first: both together would be the peak of memory.
        self.index = HashTable::new();
        self.index = HashTable::with_capacity(capacity.max(self.entries.len()));
        for (at, entry) in (0..).zip(&self.entries) {
            self.index.insert_unique(self.hasher.hash_one(entry.key), at, |_| unreachable!("there is room for all"));
        }
    }

    /// Whether changes of paths beyond the multipath sets are noted too.
    pub fn note_all(&mut self, notes_all: bool) {
        self.notes_all = notes_all;
    }

    /// A path of `path.peer` for the prefix, in place of the one it had. The table takes new references to its sets.
    /// Returns whether the peer had none before.
    pub fn insert(&mut self, shared: &mut Shared, key: K, path: Path) -> bool {
        let at = self.find_or_insert(key);
        let old = self.entries[at as usize].paths.as_mut_slice().iter_mut().find(|p| p.is(path.peer, path.id));
        if let Some(old) = old
            && (old.received, old.used) == (path.received, path.used)
        {
            old.stale = path.stale;
            return false;
        }
        shared.retain(&path);
        let entry = &mut self.entries[at as usize];
        if let Paths::None = entry.paths {
            entry.paths = Paths::One(path);
            entry.best = u16::from(shared.is_eligible(&path));
            let is_used = entry.best > 0;
            self.empty.remove(at);
            self.note(at, Change { best: is_used, multipath: is_used });
            shared.count(K::FAMILY, &path, 1);
            return true;
        }
        self.remember(at);
        let entry = &mut self.entries[at as usize];
        let replaced = match entry.paths.as_mut_slice().iter_mut().find(|p| p.is(path.peer, path.id)) {
            Some(old) => Some(std::mem::replace(old, path)),
            None => {
                entry.paths.push(path);
                None
            }
        };
        self.decide(shared, at);
        shared.count(K::FAMILY, &path, 1);
        if let Some(old) = replaced {
            shared.count(K::FAMILY, &old, -1);
            shared.release(&old);
        }
        replaced.is_none()
    }

    /// Takes the peer's path away; whether it had one.
    pub fn remove(&mut self, shared: &mut Shared, at: u32, peer: PeerIndex, id: u32) -> bool {
        let entry = &mut self.entries[at as usize];
        let Some(found) = entry.paths().iter().position(|p| p.is(peer, id)) else {
            return false;
        };
        let old = entry.paths()[found];
        if let Paths::One(_) = entry.paths {
            entry.paths = Paths::None;
            let was_used = std::mem::take(&mut entry.best) > 0;
            self.empty.insert(at);
            self.note(at, Change { best: was_used, multipath: was_used });
        } else {
            self.remember(at);
            self.entries[at as usize].paths.remove(found);
            self.decide(shared, at);
        }
        shared.count(K::FAMILY, &old, -1);
        shared.release(&old);
        true
    }

    /// Takes away the peer's paths that `which` names; returns how many.
    pub fn remove_where(&mut self, shared: &mut Shared, peer: PeerIndex, which: impl Fn(&Path) -> bool) -> u32 {
        let mut removed = 0;
        for at in 0..self.entries.len() as u32 {
            let found = |e: &Entry<K>| e.paths().iter().find(|p| p.peer == peer && which(p)).map(|p| p.id);
            while let Some(id) = found(&self.entries[at as usize]) {
                removed += u32::from(self.remove(shared, at, peer, id));
            }
        }
        removed
    }

    /// RFC 4724 section 4.2: the peer is gone and said that it would come back. What is long-lived stale already stays so (RFC
    /// 9494 section 4.2).
    pub fn mark_stale(&mut self, peer: PeerIndex) {
        let is_fresh = |p: &&mut Path| p.peer == peer && p.stale == Stale::No;
        for entry in &mut self.entries {
            entry.paths.as_mut_slice().iter_mut().filter(is_fresh).for_each(|p| p.stale = Stale::Restarting);
        }
    }

    /// The peer's stale paths are kept for long, but for those with NO_LLGR; returns how many of these there were.
    pub fn mark_long_lived_stale(&mut self, shared: &mut Shared, peer: PeerIndex) -> u32 {
        let mut gone = Vec::new();
        for (at, entry) in (0..).zip(&mut self.entries) {
            let paths = entry.paths.as_mut_slice().iter_mut();
            for path in paths.filter(|p| p.peer == peer && p.stale != Stale::No) {
                path.stale = Stale::LongLived;
                if shared.attrs.get(path.received).marks.no_llgr {
                    gone.push((at, path.id));
                }
            }
        }
        gone.iter().filter(|&&(at, id)| self.remove(shared, at, peer, id)).count() as u32
    }

    /// Asks `used` again for each path of the peer; what it returns is a reference that the table takes over.
    pub fn reimport(
        &mut self,
        shared: &mut Shared,
        peer: PeerIndex,
        mut used: impl FnMut(&mut Shared, K, &Path) -> AttrId,
    ) {
        for at in 0..self.entries.len() as u32 {
            self.remember(at);
            let entry = &mut self.entries[at as usize];
            let key = entry.key;
            let mut replaced = Vec::new();
            for path in entry.paths.as_mut_slice().iter_mut().filter(|p| p.peer == peer) {
                let new = used(shared, key, path);
                let differs = new != path.used;
                shared.count(K::FAMILY, path, -1);
                replaced.push((std::mem::replace(&mut path.used, new), differs));
                shared.count(K::FAMILY, path, 1);
            }
            if replaced.iter().any(|r| r.1) {
                self.decide(shared, at);
            }
            replaced.into_iter().for_each(|(old, _)| shared.attrs.release(old));
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
                self.unusable.clear();
                for (i, path) in list.iter().enumerate() {
                    match shared.candidate(path) {
                        Some(candidate) => self.candidates.push((i, candidate)),
                        None => self.unusable.push(*path),
                    }
                }
                let best = decision::select(&mut self.candidates);
                self.order.clear();
                self.order.extend(self.candidates.iter().map(|c| list[c.0]));
                self.order.append(&mut self.unusable);
                list.copy_from_slice(&self.order);
                best as u16
            }
        };
        let same = |(a, b): (&Path, &Path)| a.is(b.peer, b.id) && a.used == b.used;
        let (now, before) = (entry.multipath(), &self.before);
        let best = now.is_empty() != before.is_empty() || !now.iter().zip(before).take(1).all(same);
        let multipath = now.len() != before.len() || !now.iter().zip(before).all(same);
        self.note(at, Change { best, multipath });
    }

    #[inline]
    fn note(&mut self, at: u32, change: Change) {
        if change.best {
            self.changed_best.insert(at);
        }
        if change.multipath {
            self.changed_multipath.insert(at);
        }
        if (change.multipath || self.notes_all) && self.changed_bits.insert(at) {
            self.changed.push(at);
        }
    }

    /// The changed entries, each to be asked for its [`Table::take_change`]; give the list back with [`Table::recycle`].
    pub fn take_changed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.changed)
    }

    pub fn take_change(&mut self, at: u32) -> Change {
        self.changed_bits.remove(at);
        Change { best: self.changed_best.remove(at), multipath: self.changed_multipath.remove(at) }
    }

    /// Whether an entry changed and nobody has looked at it yet.
    pub fn is_changed(&self, at: u32) -> bool {
        self.changed_bits.contains(at)
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

    /// Forgets the entries without paths that `may_go`: nobody has still to be told of them.
    pub fn reap(&mut self, mut may_go: impl FnMut(u32) -> bool) {
        let mut candidates = Vec::new();
        self.empty.take(usize::MAX, &mut candidates);
        candidates.retain(|&at| {
            let goes = !self.changed_bits.contains(at) && may_go(at);
            if !goes {
                self.empty.insert(at);
            }
            goes
        });
        for at in candidates {
            let hash = self.hasher.hash_one(self.entries[at as usize].key);
            if let Ok(found) = self.index.find_entry(hash, |&i| i == at) {
                found.remove();
                self.free.push(at);
            }
        }
    }

    /// Whether a new prefix makes the table larger though a good part of it is empty.
    pub fn wastes_room(&self) -> bool {
        self.free.is_empty() && self.empty.len() as usize > LEAST_EMPTY.max(self.entries.len() / 4)
    }

    /// Entries that [`Table::reap`] would look at.
    pub fn empty_len(&self) -> u32 {
        self.empty.len()
    }
}
