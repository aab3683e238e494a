//! List and watch as one stream of updates, then in-sync.
//!
//! ```text
//!  watch() ── one task per range ──┐
//!             one task per range ──┼──► mpsc ──► receiver
//!             one task per range ──┘
//! ```
//! Dropping the receiver ends the tasks; nothing else does. A task that loses its watch (outage, compaction, a store that was
//! replaced) lists again and sends what differs from what it has sent before, so that the receiver's state follows the store
//! without ever being told to forget.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::key::{Key, KeyRange};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::store::{DynStore, Error, Event, KeyValue, Listing, Revision};

/// Updates that may wait for the receiver before the store is read more slowly.
const QUEUE: usize = 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_secs(2);

/// What a receiver learns, in order per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Put(KeyValue),
    /// Only for keys that were put before.
    Delete(Key),
    /// Every range has been listed once: what was put until now is the whole state. Sent once.
    InSync,
}

/// Follows the ranges for as long as the receiver lives. Ranges must not overlap.
///
/// Must be called in a tokio runtime. An outage of the store is logged once, and its end.
pub fn watch(store: DynStore, ranges: Vec<KeyRange>) -> mpsc::Receiver<Update> {
    let (updates, receiver) = mpsc::channel(QUEUE);
    let shared =
        Arc::new(Shared { store, updates, unlisted: AtomicUsize::new(ranges.len()), outage: AtomicBool::new(false) });
    if ranges.is_empty() {
        // The channel is new: it has room for one update.
        let _ = shared.updates.try_send(Update::InSync);
    }
    for range in ranges {
        let follower = Follower {
            shared: shared.clone(),
            range,
            sent: HashMap::new(),
            hasher: RandomState::new(),
            is_listed: false,
            backoff: BACKOFF_FIRST,
        };
        tokio::spawn(follower.run());
    }
    receiver
}

/// What the tasks of one [`watch`] have in common.
struct Shared {
    store: DynStore,
    updates: mpsc::Sender<Update>,
    /// Ranges that have not been listed yet.
    unlisted: AtomicUsize,
    /// The store could not be reached, and that was logged.
    outage: AtomicBool,
}

/// The receiver is gone.
struct Closed;

impl Shared {
    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.updates.send(update).await.map_err(|_| Closed)
    }

    fn reached(&self) {
        if self.outage.swap(false, Ordering::Relaxed) {
            tracing::info!(store = %self.store.describe(), "the datastore answers again");
        }
    }

    fn lost(&self, error: &Error) {
        if !self.outage.swap(true, Ordering::Relaxed) {
            tracing::warn!(store = %self.store.describe(), %error, "lost the datastore; keeping the last state and retrying");
        }
    }
}

/// Follows one range.
struct Follower {
    shared: Arc<Shared>,
    range: KeyRange,
    /// What the receiver holds: key to the revision it was sent at, and the value's hash. In a store that was made anew, another
    /// object may have the same key and the same revision.
    sent: HashMap<Key, (Revision, u64)>,
    hasher: RandomState,
    is_listed: bool,
    backoff: Duration,
}

impl Follower {
    async fn run(mut self) {
        let updates = self.shared.updates.clone();
        // In this order, so that a simulation repeats itself.
        tokio::select! {
            biased;
            () = updates.closed() => {}
            Closed = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Closed {
        loop {
            match self.list_and_watch().await {
                Err(closed) => return closed,
                Ok(Error::Compacted(revision)) => {
                    tracing::debug!(range = ?self.range, revision, "history is compacted; listing again");
                }
                Ok(error) => self.shared.lost(&error),
            }
            tokio::time::sleep(self.backoff).await;
            self.backoff = (self.backoff * 2).min(BACKOFF_LAST);
        }
    }

    /// Runs until the watch ends; why it did.
    async fn list_and_watch(&mut self) -> Result<Error, Closed> {
        let store = self.shared.store.clone();
        let listing = match store.list(&self.range).await {
            Ok(listing) => listing,
            Err(error) => return Ok(error),
        };
        let revision = listing.revision;
        self.send_difference(listing).await?;
        let mut events = match store.watch(&self.range, revision).await {
            Ok(events) => events,
            Err(error) => return Ok(error),
        };
        self.shared.reached();
        let opened = Instant::now();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.send_event(event).await?,
                Err(error) => {
                    if opened.elapsed() > BACKOFF_LAST {
                        self.backoff = BACKOFF_FIRST;
                    }
                    return Ok(error);
                }
            }
        }
        Ok(Error::Unavailable(format!("{}: the watch ended", store.describe())))
    }

    /// Sends what differs between the listing and what was sent; InSync where this was the last first listing.
    async fn send_difference(&mut self, listing: Listing) -> Result<(), Closed> {
        let present: HashSet<Key> = listing.items.iter().map(|kv| kv.key.clone()).collect();
        let mut vanished: Vec<Key> = self.sent.keys().filter(|key| !present.contains(*key)).cloned().collect();
        vanished.sort_unstable();
        for key in vanished {
            self.sent.remove(&key);
            self.shared.send(Update::Delete(key)).await?;
        }
        for kv in listing.items {
            if self.sent.get(&kv.key) != Some(&self.version(&kv)) {
                self.send_event(Event::Put(kv)).await?;
            }
        }
        if !self.is_listed {
            self.is_listed = true;
            if self.shared.unlisted.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.shared.send(Update::InSync).await?;
            }
        }
        Ok(())
    }

    fn version(&self, kv: &KeyValue) -> (Revision, u64) {
        (kv.mod_revision, self.hasher.hash_one(&kv.value))
    }

    async fn send_event(&mut self, event: Event) -> Result<(), Closed> {
        match event {
            Event::Put(kv) => {
                self.sent.insert(kv.key.clone(), self.version(&kv));
                self.shared.send(Update::Put(kv)).await
            }
            Event::Delete { key, .. } => match self.sent.remove(&key) {
                Some(_) => self.shared.send(Update::Delete(key)).await,
                None => Ok(()),
            },
        }
    }
}
