//! The datastore's lock: ClusterInformation says `datastoreReady: false` (Calico's convention; `calicoctl datastore migrate lock`) while
//! everything in it is exported or imported.
//!
//! For who heeds it ([`Ipam::heeding_lock`]) it is a fence: a transaction is conditional on the ClusterInformation that was read and was not
//! locked, be it that there was none. One that was begun before the lock, and comes after it, changes nothing. Where the store takes one
//! write at a time, no block's write begins more than 10 s after the lock was seen open, and who locks waits until the last has ended.

use std::time::Duration;

use api::{Key, Kind};
use datastore::{KeyValue, Op, Revision, Store};
use serde_json::Value;
use tokio::time::Instant;

use crate::allocator::{Error, Ipam, key_of};
use crate::changes::Changes;

/// Where the store takes one write at a time: how long before a block's write the lock was seen open, at most. A write that has begun is done
/// or given up within another 25 s (`libs/datastore/src/kubernetes/client.rs`).
const MAX_AGE: Duration = Duration::from_secs(10);
/// After this, what was begun before the lock has been written or will not be: there `calicoctl datastore migrate lock` waits so long.
pub const SETTLED_AFTER: Duration = Duration::from_secs(40);

/// The ClusterInformation, as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lock {
    pub is_locked: bool,
    /// 0: there is none.
    pub revision: Revision,
}

impl Lock {
    pub fn of(kv: Option<&KeyValue>) -> Self {
        kv.map_or(Self::default(), |kv| Self { is_locked: is_locked(&kv.value), revision: kv.mod_revision })
    }
}

/// The one ClusterInformation.
pub fn key() -> Key {
    Key::resource(Kind::ClusterInformation, None, "default")
}

/// Whether a ClusterInformation, as it is stored, says that the datastore is locked: by the one field that matters, whatever the others are.
/// What is no JSON may say so.
pub fn is_locked(document: &[u8]) -> bool {
    serde_json::from_slice::<Value>(document).map_or(true, |d| d["spec"]["datastoreReady"] == false)
}

/// What the transactions of one call are conditional on.
#[derive(Clone)]
pub(crate) struct Fence<'a> {
    ipam: &'a Ipam,
    condition: Option<(Key, Revision)>,
}

impl Fence<'_> {
    /// No changes yet, to be made while the lock is as it was read.
    pub fn changes(&self) -> Changes {
        Changes { checks: self.condition.iter().cloned().collect(), ..Changes::default() }
    }

    /// The same for operations that are no [`Changes`].
    pub fn check(&self) -> Option<Op> {
        self.condition.clone().map(|(key, revision)| Op::Check(key, revision))
    }

    /// After a conflict: whether it was about the lock, which is read again then.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Store`].
    pub async fn renew(&mut self, lost: &datastore::Error) -> Result<bool, Error> {
        let is_lost = self.condition.is_some() && key_of(lost) == Some(&key());
        if is_lost {
            *self = self.ipam.fence_of(self.ipam.stored_lock().await?)?;
        }
        Ok(is_lost)
    }
}

/// The condition where the store takes one write at a time: it is looked at before each block is written.
pub(crate) struct Gate {
    condition: Option<Op>,
    /// When the last look began that found it open.
    seen: Option<Instant>,
}

impl Gate {
    /// Of changes, or of other operations, with these conditions.
    pub fn new(condition: Option<Op>) -> Self {
        Self { condition, seen: None }
    }

    pub fn of(changes: &Changes) -> Self {
        let key = key();
        let revision = changes.checks.get(&key).copied();
        Self::new(revision.map(|revision| Op::Check(key, revision)))
    }

    /// Before a write begins: the lock was open a moment ago.
    ///
    /// # Errors
    /// That of the condition; [`datastore::Error::Unavailable`] where the store is too slow to say it.
    pub async fn pass(&mut self, store: &dyn Store) -> Result<(), datastore::Error> {
        let Some(condition) = &self.condition else { return Ok(()) };
        let is_recent = |at: &Instant| at.elapsed() <= MAX_AGE;
        if self.seen.as_ref().is_some_and(is_recent) {
            return Ok(());
        }
        let began = Instant::now();
        condition.check(store.get(condition.key()).await?.map(|kv| kv.mod_revision))?;
        if is_recent(&began) {
            self.seen = Some(began);
            return Ok(());
        }
        let text = format!("{} took more than {} s to read: nothing is written after it", key(), MAX_AGE.as_secs());
        Err(datastore::Error::Unavailable(text))
    }
}

impl Ipam {
    /// While the datastore is locked nothing is assigned or released: [`Error::Locked`], also for what was begun before. Not for programs
    /// that write behind the lock on purpose.
    pub fn heeding_lock(self) -> Self {
        Self { heeds_lock: true, ..self }
    }

    /// Whether the datastore is locked, by the store's word.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_locked(&self) -> Result<bool, Error> {
        Ok(self.stored_lock().await?.is_locked)
    }

    /// What transactions are conditional on; nothing for who does not heed the lock.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Store`].
    pub(crate) async fn fence(&self) -> Result<Fence<'_>, Error> {
        match self.heeds_lock {
            true => self.fence_of(self.lock().await?),
            false => Ok(Fence { ipam: self, condition: None }),
        }
    }

    fn fence_of(&self, lock: Lock) -> Result<Fence<'_>, Error> {
        match lock.is_locked {
            true => Err(Error::Locked),
            false => Ok(Fence { ipam: self, condition: Some((key(), lock.revision)) }),
        }
    }

    /// The lock. What is followed may be a moment old: that it is locked is asked of the store once more.
    async fn lock(&self) -> Result<Lock, Error> {
        match self.known().map(|s| s.lock()) {
            Some(known) if !known.is_locked => Ok(known),
            _ => self.stored_lock().await,
        }
    }

    async fn stored_lock(&self) -> Result<Lock, Error> {
        Ok(Lock::of(self.store.get(&key()).await?.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_field_is_read() {
        let rows = [
            (r#"{"spec":{"datastoreReady":false}}"#, true),
            (r#"{"spec":{"datastoreReady":true}}"#, false),
            (r#"{"spec":{"datastoreReady":false,"clusterGUID":7,"clusterType":[]},"metadata":null}"#, true),
            (r#"{"spec":{"datastoreReady":true,"clusterGUID":7},"metadata":null}"#, false),
            (r#"{"spec":{"datastoreReady":"false"}}"#, false),
            (r#"{"spec":null}"#, false),
            ("[]", false),
            ("{", true),
            ("", true),
        ];
        for (document, expected) in rows {
            assert_eq!(is_locked(document.as_bytes()), expected, "{document}");
        }
    }
}
