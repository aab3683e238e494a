//! A store that counts what is asked of it, that a client loses after so many writes, and whose next writes go as a test says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use api::Key;
use api::key::KeyRange;
use async_trait::async_trait;
use datastore::memory::MemoryStore;
use datastore::{Error, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream};
use futures::future::BoxFuture;

/// How a write goes.
pub enum Write {
    Done,
    /// It does not happen, and this is the answer.
    Refused(Error),
    /// It is done after this.
    After(BoxFuture<'static, ()>),
}

pub struct Watched {
    inner: Mutex<MemoryStore>,
    pub reads: AtomicUsize,
    pub writes: AtomicUsize,
    /// Writes that are left before the client is cut off; negative: no end.
    left: AtomicI64,
    /// Operations of a transaction that is refused for having more.
    max_ops: usize,
    /// Bytes of the largest transaction.
    largest: AtomicUsize,
    /// Listings of all blocks.
    block_listings: AtomicUsize,
    /// How the next writes go; the others are done.
    script: Mutex<VecDeque<Write>>,
}

impl Watched {
    pub fn new(inner: MemoryStore) -> Arc<Self> {
        Self::cut_after(inner, -1)
    }

    pub fn cut_after(inner: MemoryStore, writes: i64) -> Arc<Self> {
        Arc::new(Self::with(inner, writes, usize::MAX))
    }

    pub fn refusing(inner: MemoryStore, max_ops: usize) -> Arc<Self> {
        Arc::new(Self::with(inner, -1, max_ops))
    }

    fn with(inner: MemoryStore, writes: i64, max_ops: usize) -> Self {
        let inner = Mutex::new(inner);
        let (reads, left, largest) = (0.into(), writes.into(), 0.into());
        let script = Mutex::default();
        Self { inner, reads, writes: 0.into(), left, max_ops, largest, block_listings: 0.into(), script }
    }

    /// How the next writes go.
    pub fn next_writes(&self, writes: impl IntoIterator<Item = Write>) {
        self.script.lock().unwrap().extend(writes);
    }

    /// Listings of all blocks, with or without their values, so far.
    pub fn block_listings(&self) -> usize {
        self.block_listings.load(Ordering::Relaxed)
    }

    pub fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    /// (reads, writes) since the last call.
    pub fn counts(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::Relaxed), self.writes.swap(0, Ordering::Relaxed))
    }

    /// Another store answers from now on.
    pub fn replace(&self, inner: MemoryStore) {
        *self.inner.lock().unwrap() = inner;
    }

    fn inner(&self) -> MemoryStore {
        self.inner.lock().unwrap().clone()
    }

    fn alive(&self) -> Result<(), Error> {
        match self.left.load(Ordering::Relaxed) {
            0 => Err(Error::Unavailable("cut off".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Watched {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        self.alive()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner().get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.alive()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.block_listings.fetch_add(usize::from(*range == KeyRange::Blocks), Ordering::Relaxed);
        self.inner().list(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        self.inner().watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        self.alive()?;
        let write = self.script.lock().unwrap().pop_front();
        match write {
            Some(Write::Refused(error)) => return Err(error),
            Some(Write::After(others)) => others.await,
            Some(Write::Done) | None => {}
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.left.fetch_sub(1, Ordering::Relaxed);
        let len = |op: &Op| match op {
            Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => value.len(),
            _ => 0,
        };
        self.largest.fetch_max(txn.ops.iter().map(len).sum(), Ordering::Relaxed);
        if txn.ops.len() > self.max_ops {
            return Err(Error::Invalid(format!("{} operations", txn.ops.len())));
        }
        self.inner().txn(txn).await
    }

    fn has_transactions(&self) -> bool {
        self.inner().has_transactions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner().compact(revision).await
    }

    fn describe(&self) -> String {
        "memory, watched".into()
    }
}
