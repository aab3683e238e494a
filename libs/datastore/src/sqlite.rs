//! The embedded store: one SQLite file that every process of a host shares.
//!
//! WAL mode, `synchronous=FULL`: a write that was acknowledged survives `kill -9` and power loss. Writers take the lock with
//! `BEGIN IMMEDIATE`; conditions are checked and the writes made under it.
//!
//! ```text
//!  tasks ──► write thread: one commit for all that is queued ──► file, then one byte to <file>-changed
//!        ──► read thread                                              │ inotify, in every process
//!  watch streams ◄── head revision ◄── watch thread ◄─────────────────┘ (and once a second)
//!        └──► read thread: the log after the stream's revision
//! ```
//! The threads end when the store and its last watch are dropped. The signal is a file of its own because the WAL is written
//! *before* its commit can be seen: a process that woke up on the WAL would read too early and miss the commit.

mod notify;
mod schema;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::store::{Error, Event, KeyValue, Listing, Revision, Store, Txn, WatchStream};
use notify::{Signal, WatchThread};
use schema::{Cursor, Failure, Identity};

/// Transactions that share one commit, and so one fdatasync.
const MAX_BATCH: usize = 64;
/// Events that one read of the log returns.
const WATCH_PAGE: usize = 512;

/// The embedded store.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

enum Write {
    Txn(Txn, oneshot::Sender<Result<Revision, Error>>),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
}

struct Inner {
    path: PathBuf,
    identity: Identity,
    writes: Sender<Write>,
    reads: Sender<Job>,
    /// The newest revision that this process knows of.
    head: watch::Sender<Revision>,
    /// Runs from the first watch on.
    watch_thread: Mutex<Option<WatchThread>>,
}

impl SqliteStore {
    /// Opens the file, and creates it and its directory where missing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Invalid`] (the file is none of ours, or newer than this program) with the path, the
    /// cause and what to do.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let name = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || Inner::open(path)).await;
        let inner = opened.map_err(|e| Error::Unavailable(format!("sqlite {name}: {e}")))??;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let writer = schema::open(&path)?;
        let reader = schema::open(&path)?;
        let identity = Identity::of(&path)?;
        let signal = Signal::open(&path)?;
        let revision = schema::head(&writer).map_err(|e| schema::unavailable(&path, "read", &e))?;
        let head = watch::Sender::new(revision);
        let (writes, write_queue) = channel();
        let (reads, read_queue) = channel();
        let write_thread = WriteThread { path: path.clone(), connection: writer, signal, head: head.clone() };
        spawn(&path, "sqlite-write", move || write_thread.run(&write_queue))?;
        spawn(&path, "sqlite-read", move || run_reads(reader, &read_queue))?;
        Ok(Self { path, identity, writes, reads, head, watch_thread: Mutex::new(None) })
    }

    /// Runs a read on the read thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        self.identity.check()?;
        let (reply, outcome) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that went away needs no answer.
            let _ = reply.send(read(connection));
        });
        self.reads.send(job).map_err(|_| self.stopped())?;
        let outcome = outcome.await.map_err(|_| self.stopped())?;
        outcome.map_err(|failure| failure.into_error(&self.path, "read"))
    }

    async fn write<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Write) -> Result<T, Error> {
        self.identity.check()?;
        let (reply, outcome) = oneshot::channel();
        self.writes.send(make(reply)).map_err(|_| self.stopped())?;
        outcome.await.map_err(|_| Error::Unknown(format!("sqlite {}: the write thread ended", self.path.display())))?
    }

    fn stopped(&self) -> Error {
        Error::Unavailable(format!("sqlite {}: the store's thread ended", self.path.display()))
    }

    fn start_watch_thread(&self) -> Result<(), Error> {
        let mut thread = self.watch_thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Some(WatchThread::start(&self.path, self.identity.clone(), self.head.clone())?);
        }
        Ok(())
    }
}

/// Owns the connection that writes.
struct WriteThread {
    path: PathBuf,
    connection: Connection,
    signal: Signal,
    head: watch::Sender<Revision>,
}

impl WriteThread {
    fn run(mut self, queue: &Receiver<Write>) {
        while let Ok(first) = queue.recv() {
            let mut txns = Vec::new();
            let mut replies = Vec::new();
            for write in std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH - 1)) {
                match write {
                    Write::Txn(txn, reply) => {
                        txns.push(txn);
                        replies.push(reply);
                    }
                    Write::Compact(revision, reply) => {
                        let outcome = schema::compact(&mut self.connection, revision);
                        // A caller that went away needs no answer; likewise below.
                        let _ = reply.send(outcome.map_err(|e| schema::unavailable(&self.path, "compact", &e)));
                    }
                }
            }
            if txns.is_empty() {
                continue;
            }
            match schema::commit(&mut self.connection, &txns) {
                Ok(batch) => {
                    if batch.has_written {
                        self.signal.send();
                        notify::advance(&self.head, batch.head);
                    }
                    for (reply, outcome) in replies.into_iter().zip(batch.outcomes) {
                        let _ = reply.send(outcome);
                    }
                }
                Err(failure) => {
                    let error = failure.into_error(&self.path, "write");
                    for reply in replies {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

fn run_reads(mut connection: Connection, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job(&mut connection);
    }
}

fn spawn(path: &Path, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
    spawned.map(drop).map_err(|e| Error::Unavailable(format!("sqlite {}: cannot start a thread: {e}", path.display())))
}

/// One open watch.
struct Watch {
    inner: Arc<Inner>,
    head: watch::Receiver<Revision>,
    prefix: String,
    cursor: Cursor,
    ready: VecDeque<Event>,
    has_failed: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if self.has_failed {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            self.head.borrow_and_update();
            let (prefix, cursor) = (self.prefix.clone(), self.cursor);
            match self.inner.read(move |c| schema::events(c, &prefix, cursor, WATCH_PAGE)).await {
                Err(error) => {
                    self.has_failed = true;
                    return Some(Err(error));
                }
                Ok(page) => {
                    self.ready.extend(page.events);
                    self.cursor = page.cursor;
                    // The sender lives in `inner`: it cannot be gone.
                    if self.ready.is_empty() && page.is_last && self.head.changed().await.is_err() {
                        return None;
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let key = key.clone();
        self.inner.read(move |c| schema::get(c, &key)).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        let prefix = range.prefix();
        self.inner.read(move |c| schema::list(c, &prefix)).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        self.inner.start_watch_thread()?;
        let head = self.inner.head.subscribe();
        let (prefix, cursor) = (range.prefix(), Cursor::after(from));
        let first = {
            let prefix = prefix.clone();
            self.inner.read(move |c| schema::events(c, &prefix, cursor, WATCH_PAGE)).await?
        };
        let inner = self.inner.clone();
        let watch = Watch { inner, head, prefix, cursor: first.cursor, ready: first.events.into(), has_failed: false };
        Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        txn.check_keys()?;
        self.inner.write(|reply| Write::Txn(txn, reply)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.write(|reply| Write::Compact(revision, reply)).await
    }

    fn describe(&self) -> String {
        format!("sqlite {}", self.inner.path.display())
    }
}
