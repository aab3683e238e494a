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
/// Always true: a key is in one of `to_write`, `to_delete` and `failures` exactly when its desired and actual values differ, and
/// `due` has the end of the wait of every key in `failures`.
#[derive(Clone, Debug)]
pub struct Delta<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    /// To be tried now: desired, and not desired.
    to_write: BTreeSet<K>,
    to_delete: BTreeSet<K>,
    /// To be tried when its wait is over.
    failures: BTreeMap<K, Failure>,
    due: BTreeSet<(Instant, K)>,
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
            to_write: BTreeSet::new(),
            to_delete: BTreeSet::new(),
            failures: BTreeMap::new(),
            due: BTreeSet::new(),
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
            self.desired.insert(key.clone(), value);
            self.mark(key);
        }
    }

    /// Removes one desired value.
    pub fn remove(&mut self, key: &K) {
        if self.desired.remove(key).is_some() {
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
        self.pending_up_to(now, usize::MAX)
    }

    /// The same, but no more than `limit` keys: those whose backoff is over first, then updates, then deletes. It takes time in
    /// proportion to what it gives, not to what waits.
    pub fn pending_up_to(&self, now: Instant, limit: usize) -> Pending<K, V> {
        let mut pending = Pending { updates: Vec::new(), deletes: Vec::new() };
        let again = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key);
        let deletes = self.to_delete.iter().filter(|_| self.in_sync);
        for key in again.chain(&self.to_write).chain(deletes).take(limit) {
            match (self.desired.get(key), self.actual.get(key)) {
                (Some(want), _) => pending.updates.push((key.clone(), want.clone())),
                (None, Some(have)) => pending.deletes.push((key.clone(), have.clone())),
                (None, None) => {}
            }
        }
        pending.updates.sort_by(|a, b| a.0.cmp(&b.0));
        pending.deletes.sort_by(|a, b| a.0.cmp(&b.0));
        pending
    }

    /// `value` was written for `key`.
    pub fn record_write(&mut self, key: &K, value: V) {
        self.actual.insert(key.clone(), value);
        self.mark(key.clone());
    }

    /// `key` was deleted, or found to be absent.
    pub fn record_delete(&mut self, key: &K) {
        self.actual.remove(key);
        self.mark(key.clone());
    }

    /// Writing or deleting `key` failed: it stays dirty and waits, twice as long as the last time.
    pub fn record_failure(&mut self, key: &K, now: Instant) {
        let wait = match self.forget_failure(key) {
            Some(last) => (last.wait * 2).min(RETRY_MAX),
            None if self.to_write.remove(key) || self.to_delete.remove(key) => RETRY_FIRST,
            // Another one has made it as it should be.
            None => return,
        };
        let not_before = now + wait;
        self.due.insert((not_before, key.clone()));
        self.failures.insert(key.clone(), Failure { wait, not_before });
    }

    /// Lets every failed key be tried at once: something they may have waited for (a link, a route) has changed.
    pub fn retry_now(&mut self) {
        self.due.clear();
        std::mem::take(&mut self.failures).into_keys().for_each(|key| self.mark(key));
    }

    /// When [`Delta::pending`] has something again that waits now: the earliest end of a backoff.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether desired and actual state are the same.
    pub fn is_clean(&self) -> bool {
        self.to_write.is_empty() && self.to_delete.is_empty() && self.failures.is_empty()
    }

    /// How many keys failed and wait for their next try.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Whether this key failed and waits for its next try.
    pub fn has_failed(&self, key: &K) -> bool {
        self.failures.contains_key(key)
    }

    fn mark(&mut self, key: K) {
        self.forget_failure(&key);
        let desired = self.desired.get(&key);
        let (is_wanted, is_dirty) = (desired.is_some(), desired != self.actual.get(&key));
        let (right, other) = if is_wanted {
            (&mut self.to_write, &mut self.to_delete)
        } else {
            (&mut self.to_delete, &mut self.to_write)
        };
        other.remove(&key);
        if is_dirty {
            right.insert(key);
        } else {
            right.remove(&key);
        }
    }

    fn forget_failure(&mut self, key: &K) -> Option<Failure> {
        let failure = self.failures.remove(key)?;
        self.due.remove(&(failure.not_before, key.clone()));
        Some(failure)
    }
}

#[cfg(test)]
mod tests;
