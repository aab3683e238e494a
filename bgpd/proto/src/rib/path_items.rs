//! Numbers for the paths that peers with add-path (RFC 7911) are told of, as entry numbers are for prefixes.
//!
//! The path identifier that is sent is the lowest number that no other path of the prefix has; a path keeps it as long as
//! somebody has been told of it, whatever else comes and goes.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::PeerIndex;
use super::entry_set::EntrySet;

/// A path as add-path peers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathItem {
    /// The entry in the prefix table.
    pub entry: u32,
    pub peer: PeerIndex,
    /// As received.
    pub received_id: u32,
    /// As sent.
    pub sent_id: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PathItems {
    items: Vec<Option<PathItem>>,
    free: Vec<u32>,
    /// The items of an entry, by ascending `sent_id`.
    of_entry: HashMap<u32, Vec<u32>, FixedState>,
    of_path: HashMap<(u32, PeerIndex, u32), u32, FixedState>,
    /// Items whose path is gone, or was when they were last looked at.
    gone: EntrySet,
}

impl PathItems {
    pub fn get(&self, item: u32) -> Option<PathItem> {
        self.items.get(item as usize).copied().flatten()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.of_entry.is_empty()
    }

    /// The entry that an item is about: itself in groups without add-path.
    pub fn entry(&self, item: u32, add_path: bool) -> u32 {
        if add_path { self.get(item).map_or(0, |i| i.entry) } else { item }
    }

    /// The items of an entry.
    pub fn of_entry(&self, entry: u32) -> &[u32] {
        self.of_entry.get(&entry).map_or(&[], Vec::as_slice)
    }

    /// The number of a path, a new one if it has none yet.
    pub fn number(&mut self, entry: u32, peer: PeerIndex, received_id: u32) -> u32 {
        if let Some(&item) = self.of_path.get(&(entry, peer, received_id)) {
            return item;
        }
        let of_entry = self.of_entry.entry(entry).or_default();
        let items = &mut self.items;
        // The first gap: before it the identifiers are 1, 2, 3, ...
        let is_in_order = |at: usize| items[of_entry[at] as usize].is_some_and(|i| i.sent_id == at as u32 + 1);
        let (mut at, mut end) = (0, of_entry.len());
        while at < end {
            let middle = at.midpoint(end);
            if is_in_order(middle) { at = middle + 1 } else { end = middle }
        }
        let new = Some(PathItem { entry, peer, received_id, sent_id: at as u32 + 1 });
        let item = match self.free.pop() {
            Some(free) => {
                items[free as usize] = new;
                free
            }
            None => {
                items.push(new);
                items.len() as u32 - 1
            }
        };
        of_entry.insert(at, item);
        self.of_path.insert((entry, peer, received_id), item);
        item
    }

    /// The path of an item is gone: once nobody knows of it the number can go back.
    pub fn note_gone(&mut self, item: u32) {
        self.gone.insert(item);
    }

    pub fn gone_len(&self) -> u32 {
        self.gone.len()
    }

    /// Those noted since the last time; which of them have a path again is for the caller to see.
    pub fn take_gone(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        self.gone.take(usize::MAX, &mut gone);
        gone
    }

    /// Gives a number back.
    pub fn remove(&mut self, item: u32) {
        if let Some(gone) = self.items.get_mut(item as usize).and_then(Option::take) {
            self.free.push(item);
            self.gone.remove(item);
            self.of_path.remove(&(gone.entry, gone.peer, gone.received_id));
            if let Some(of_entry) = self.of_entry.get_mut(&gone.entry) {
                of_entry.retain(|&i| i != item);
                if of_entry.is_empty() {
                    self.of_entry.remove(&gone.entry);
                }
            }
        }
    }
}
