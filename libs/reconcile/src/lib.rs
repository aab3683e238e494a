//! Desired state against what was read back: [`Delta`], the one tool with which routes, BPF maps and BGP peers are
//! reconciled.
//!
//! Pure: no clock (`now` is an argument), no I/O, no tasks. The shell around it asks for [`Delta::pending`], writes, and
//! reports every key with [`Delta::record_write`], [`Delta::record_delete`] or [`Delta::record_failure`].
//!
//! - Desired state may be set in any order: what is pending depends on the two maps only.
//! - Nothing is deleted before [`Delta::set_in_sync`]: until then the desired state is not known to be complete.
//! - A failed key stays dirty and is retried with backoff; the other keys proceed.
//! - When everything was written, nothing is pending: a second apply writes nothing.
//!
//! The idea is Calico's (`felix/deltatracker/delta_tracker.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a key that failed once waits before it is tried again; doubled on every further failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two tries of a failing key.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// A key that could not be written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    wait: Duration,
    not_before: Instant,
}

/// What has to be written and what has to be deleted, each in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending<K, V> {
    /// Desired and either absent or different.
    pub updates: Vec<(K, V)>,
    /// Present and not desired, with the value that was read back.
    pub deletes: Vec<(K, V)>,
}

impl<K, V> Pending<K, V> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.deletes.is_empty()
    }
}

/// Desired and actual values by key, and the keys on which they differ.
///
/// Always true: a key is dirty exactly when its desired and actual values differ.
#[derive(Clone, Debug)]
pub struct Delta<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    dirty: BTreeSet<K>,
    failures: BTreeMap<K, Failure>,
    in_sync: bool,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Default for Delta<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Delta<K, V> {
    /// Nothing desired, nothing read back, not in sync.
    pub fn new() -> Self {
        Self {
            desired: BTreeMap::new(),
            actual: BTreeMap::new(),
            dirty: BTreeSet::new(),
            failures: BTreeMap::new(),
            in_sync: false,
        }
    }

    /// The desired values.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// The values as last read back or written.
    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    /// Whether deletes are allowed.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// The desired state is complete from here on: what is not desired may be deleted.
    pub fn set_in_sync(&mut self) {
        self.in_sync = true;
    }

    /// Sets one desired value. A changed one is tried at once, whatever failed before.
    pub fn insert(&mut self, key: K, value: V) {
        if self.desired.get(&key) != Some(&value) {
            self.failures.remove(&key);
            self.desired.insert(key.clone(), value);
            self.mark(key);
        }
    }

    /// Removes one desired value.
    pub fn remove(&mut self, key: &K) {
        if self.desired.remove(key).is_some() {
            self.failures.remove(key);
            self.mark(key.clone());
        }
    }

    /// Makes `desired` the whole desired state.
    pub fn set_desired(&mut self, desired: BTreeMap<K, V>) {
        let gone: Vec<K> = self.desired.keys().filter(|k| !desired.contains_key(k)).cloned().collect();
        gone.iter().for_each(|k| self.remove(k));
        desired.into_iter().for_each(|(k, v)| self.insert(k, v));
    }

    /// One value as it is seen now (`None`: absent), for example from an event.
    pub fn observe(&mut self, key: K, value: Option<V>) {
        if self.actual.get(&key) == value.as_ref() {
            return;
        }
        self.failures.remove(&key);
        match value {
            Some(v) => self.actual.insert(key.clone(), v),
            None => self.actual.remove(&key),
        };
        self.mark(key);
    }

    /// Everything as it was read back: the whole actual state. Keys that fail keep their backoff unless they changed.
    pub fn resync(&mut self, actual: BTreeMap<K, V>) {
        let gone: Vec<K> = self.actual.keys().filter(|k| !actual.contains_key(k)).cloned().collect();
        gone.into_iter().for_each(|k| self.observe(k, None));
        actual.into_iter().for_each(|(k, v)| self.observe(k, Some(v)));
    }

    /// What to write and delete now: dirty keys whose backoff is over; deletes only when in sync.
    pub fn pending(&self, now: Instant) -> Pending<K, V> {
        let mut pending = Pending { updates: Vec::new(), deletes: Vec::new() };
        for key in &self.dirty {
            if self.failures.get(key).is_some_and(|f| f.not_before > now) {
                continue;
            }
            match (self.desired.get(key), self.actual.get(key)) {
                (Some(want), _) => pending.updates.push((key.clone(), want.clone())),
                (None, Some(have)) if self.in_sync => pending.deletes.push((key.clone(), have.clone())),
                (None, _) => {}
            }
        }
        pending
    }

    /// `value` was written for `key`.
    pub fn record_write(&mut self, key: &K, value: V) {
        self.failures.remove(key);
        self.actual.insert(key.clone(), value);
        self.mark(key.clone());
    }

    /// `key` was deleted, or found to be absent.
    pub fn record_delete(&mut self, key: &K) {
        self.failures.remove(key);
        self.actual.remove(key);
        self.mark(key.clone());
    }

    /// Writing or deleting `key` failed: it stays dirty and waits, twice as long as the last time.
    pub fn record_failure(&mut self, key: &K, now: Instant) {
        let wait = self.failures.get(key).map_or(RETRY_FIRST, |f| (f.wait * 2).min(RETRY_MAX));
        self.failures.insert(key.clone(), Failure { wait, not_before: now + wait });
    }

    /// Lets every failed key be tried at once: something they may have waited for (a link, a route) has changed.
    pub fn retry_now(&mut self) {
        self.failures.clear();
    }

    /// When [`Delta::pending`] has something again that waits now: the earliest end of a backoff.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.failures.iter().filter(|(k, _)| self.dirty.contains(k)).map(|(_, f)| f.not_before).min()
    }

    /// Whether desired and actual state are the same.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// How many keys failed and wait for their next try.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    fn mark(&mut self, key: K) {
        if self.desired.get(&key) == self.actual.get(&key) {
            self.failures.remove(&key);
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key);
        }
    }
}

#[cfg(test)]
mod tests;
