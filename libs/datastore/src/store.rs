//! The trait that every store implements.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use futures::Stream;

/// A store-wide version: etcd's revision, SQLite's write counter. Zero is before everything.
pub type Revision = u64;

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Key,
    /// JSON text.
    pub value: Vec<u8>,
    /// The revision of the last write of this key.
    pub mod_revision: Revision,
}

/// All objects of a range, as they were at `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub items: Vec<KeyValue>,
    /// Watch from here to miss nothing.
    pub revision: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Delete { key: Key, revision: Revision },
}

impl Event {
    /// The revision of the write that this event tells of.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// Changes after the revision asked for, in order. An `Err` is the last item.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>;

/// One step of a transaction: a condition on the key's present state, and a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The key must not exist.
    Create(Key, Vec<u8>),
    /// The key must be at this revision.
    Update(Key, Vec<u8>, Revision),
    /// Unconditional.
    Put(Key, Vec<u8>),
    /// The key must be at this revision, or just exist where none is given.
    Delete(Key, Option<Revision>),
    /// No write: the key must be at this revision (0: must not exist).
    Check(Key, Revision),
}

impl Op {
    /// The key this operation is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Create(key, _)
            | Self::Update(key, _, _)
            | Self::Put(key, _)
            | Self::Delete(key, _)
            | Self::Check(key, _) => key,
        }
    }

    /// Whether the condition holds for a key that is at `present` (`None`: absent), and the error where it does not.
    pub fn check(&self, present: Option<Revision>) -> Result<(), Error> {
        let key = || self.key().clone();
        match (self, present) {
            (Self::Put(..), _)
            | (Self::Create(..), None)
            | (Self::Check(_, 0), None)
            | (Self::Delete(_, None), Some(_)) => Ok(()),
            (Self::Create(..), Some(_)) => Err(Error::AlreadyExists(key())),
            (Self::Update(..) | Self::Delete(..) | Self::Check(..), None) => Err(Error::NotFound(key())),
            (
                Self::Update(_, _, expected) | Self::Delete(_, Some(expected)) | Self::Check(_, expected),
                Some(present),
            ) => {
                if *expected == present {
                    Ok(())
                } else {
                    Err(Error::Conflict(key()))
                }
            }
        }
    }
}

/// Operations that all happen, or none. Conditions are about the state before the transaction; no key occurs twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub ops: Vec<Op>,
}

impl Txn {
    /// Refuses a transaction that names a key twice: no store can say what that would mean.
    pub fn check_keys(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        match self.ops.iter().find(|op| !seen.insert(op.key())) {
            Some(op) => Err(Error::Invalid(format!("a transaction names {} twice", op.key()))),
            None => Ok(()),
        }
    }
}

/// What can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("resource already exists: {0}")]
    AlreadyExists(Key),
    #[error("resource does not exist: {0}")]
    NotFound(Key),
    /// The key has another revision than the caller has seen: read again and retry.
    #[error("update conflict: {0}")]
    Conflict(Key),
    /// The revision to watch from is gone: list again.
    #[error("revision {0} has been compacted")]
    Compacted(Revision),
    /// The write may or may not have happened: read before retrying.
    #[error("outcome of the write is unknown: {0}")]
    Unknown(String),
    /// The store cannot be reached; the text says which, where and why.
    #[error("{0}")]
    Unavailable(String),
    /// The request or the configuration is wrong; trying again does not help.
    #[error("{0}")]
    Invalid(String),
    #[error("{key} holds what cannot be read: {reason}")]
    Corrupt { key: String, reason: String },
}

/// A store. All methods may be called from many tasks at once.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The object, or `None`.
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error>;

    /// All objects of a range, sorted by path.
    async fn list(&self, range: &KeyRange) -> Result<Listing, Error>;

    /// As [`Self::list`], with empty values where the store can save their transfer.
    async fn list_keys(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.list(range).await
    }

    /// Where the store keeps what is no [`Key`]: the paths below Calico's root and ours of kinds that this program does not have, sorted.
    /// None in a store that only ever holds keys.
    async fn foreign_paths(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Every change of the range after `from`, which a [`Listing`] or a write gave.
    ///
    /// # Errors
    /// [`Error::Compacted`], here or as an item of the stream, when `from` is too old.
    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error>;

    /// All operations, or none; the revision of the writes. Fails with the first operation whose condition does not hold:
    /// [`Error::AlreadyExists`] for a create, [`Error::NotFound`] or [`Error::Conflict`] for the others.
    async fn txn(&self, txn: Txn) -> Result<Revision, Error>;

    /// Whether a [`Txn`] may hold several operations. A store that says no refuses such a one with [`Error::Invalid`] and writes
    /// nothing of it.
    fn has_transactions(&self) -> bool {
        true
    }

    /// Forgets history before `revision`; watches from there on still work.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Leases, in a store that has them.
    fn leases(&self) -> Option<&dyn Leases> {
        None
    }

    /// What and where this is, for messages: `sqlite /var/lib/tortie/tortie.db`, `etcd http://10.0.0.1:2379`.
    fn describe(&self) -> String;

    async fn create(&self, key: Key, value: Vec<u8>) -> Result<Revision, Error> {
        self.txn(Txn { ops: vec![Op::Create(key, value)] }).await
    }

    async fn update(&self, key: Key, value: Vec<u8>, revision: Revision) -> Result<Revision, Error> {
        self.txn(Txn { ops: vec![Op::Update(key, value, revision)] }).await
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Result<Revision, Error> {
        self.txn(Txn { ops: vec![Op::Put(key, value)] }).await
    }

    async fn delete(&self, key: Key, revision: Option<Revision>) -> Result<Revision, Error> {
        self.txn(Txn { ops: vec![Op::Delete(key, revision)] }).await
    }
}

/// A lease of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// Keys that go by themselves when whoever wrote them is dead: the server deletes the keys of a lease that was not kept alive.
#[async_trait]
pub trait Leases: Send + Sync {
    /// A lease that lasts for at least `ttl` after this and after each [`Leases::keep_alive`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Whether the lease still was; if so, it lasts for its whole time again.
    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, Error>;

    /// Ends the lease, and deletes its keys. One that is gone already is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// As [`Store::txn`]; what it writes belongs to the lease. A later write without the lease takes the key out of it.
    ///
    /// # Errors
    /// [`Error::Invalid`] also where the lease is gone.
    async fn txn_with_lease(&self, txn: Txn, lease: LeaseId) -> Result<Revision, Error>;
}

/// A shared store.
pub type DynStore = Arc<dyn Store>;
