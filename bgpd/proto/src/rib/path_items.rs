//! Numbers for the paths that peers with add-path (RFC 7911) are told of, as entry numbers are for prefixes.
//!
//! The path identifier that is sent is the lowest number that no other path of the prefix has; a path keeps it as long as
//! somebody has been told of it, whatever else comes and goes.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::PeerIndex;

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
    of_entry: HashMap<u32, Vec<u32>, FixedState>,
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
        let of_entry = self.of_entry.entry(entry).or_default();
        let items = &mut self.items;
        let known = of_entry
            .iter()
            .copied()
            .find(|&i| items[i as usize].is_some_and(|item| (item.peer, item.received_id) == (peer, received_id)));
        if let Some(item) = known {
            return item;
        }
        let is_taken = |id| of_entry.iter().any(|&i| items[i as usize].is_some_and(|item| item.sent_id == id));
        let sent_id = (1..).find(|&id| !is_taken(id)).unwrap_or(u32::MAX);
        let new = Some(PathItem { entry, peer, received_id, sent_id });
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
        of_entry.push(item);
        item
    }

    /// Gives a number back.
    pub fn remove(&mut self, item: u32) {
        if let Some(gone) = self.items.get_mut(item as usize).and_then(Option::take) {
            self.free.push(item);
            if let Some(of_entry) = self.of_entry.get_mut(&gone.entry) {
                of_entry.retain(|&i| i != item);
                if of_entry.is_empty() {
                    self.of_entry.remove(&gone.entry);
                }
            }
        }
    }
}
