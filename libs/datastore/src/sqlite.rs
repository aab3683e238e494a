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
//!
//! - `schema`: the tables and every statement; `sum`: the checksums of rows; `upgrade`: from older tables
//! - `notify`: the signal and the queue of writers
//! - `files`: do the files belong together; `fault`: what SQLite's errors mean
//! - [`check()`], [`backup()`], [`restore()`], [`compact()`]: for operators, beside running programs

mod backup;
mod check;
mod fault;
mod files;
mod notify;
mod schema;
mod sum;
mod upgrade;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::hooks::Wal;
use tokio::sync::{oneshot, watch};

use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream};
pub use backup::{Restored, backup, compact, restore};
pub use check::{Depth, Report, check};
use fault::Failure;
pub use fault::size;
use files::Identity;
use notify::{Signal, WatchThread};
use schema::{Batch, Cursor, Limit};

/// Transactions that share one commit, and so one fdatasync.
const MAX_BATCH: usize = 64;
/// What one read of the log returns, and a watch holds in memory.
const WATCH_PAGE: Limit = Limit { events: 512, bytes: 4 << 20 };
/// The largest value; SQLite's own limit would fail other transactions of the same commit.
const MAX_VALUE: usize = 16 << 20;
/// Pages in the WAL from which on they are copied into the database after each commit.
const CHECKPOINT_PAGES: usize = 1000;

/// The embedded store.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

enum Write {
    Txn(Txn, Reply<Revision>),
    Compact(Revision, Reply<()>),
}

impl Write {
    /// Whether nobody waits for it any more: who gave up has told so, and it must not happen afterwards.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Txn(_, reply) => reply.is_closed(),
            Self::Compact(_, reply) => reply.is_closed(),
        }
    }
}

struct Inner {
    path: PathBuf,
    identity: Identity,
    /// `Err` where the store takes none, and why.
    writes: Result<Sender<Write>, Error>,
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

    /// As [`Self::open`]; on a file system that takes no writes, for reading only: writes and watches fail with the reason.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_to_read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let refused = match Self::open(&path).await {
            Err(error) if path.exists() => error,
            outcome => return outcome,
        };
        let name = path.display().to_string();
        let open = move || if fault::is_read_only(&path) { Inner::open_to_read(path) } else { Err(refused) };
        let opened = tokio::task::spawn_blocking(open).await;
        let inner = opened.map_err(|e| Error::Unavailable(format!("sqlite {name}: {e}")))??;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// As the function [`check()`], of the file that is open.
    ///
    /// # Errors
    /// As [`check()`]; also where the file was removed or replaced.
    pub async fn check(&self, depth: Depth) -> Result<Report, Error> {
        self.inner.identity.check()?;
        let path = self.inner.path.clone();
        tokio::task::spawn_blocking(move || check(&path, depth)).await.map_err(|_| self.inner.stopped())?
    }
}

impl Inner {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let acknowledged = notify::acknowledged(&path).revision;
        files::check_before_open(&path)?;
        let mut writer = schema::open_writer(&path)?;
        let reader = schema::open(&path)?;
        let revision = schema::head(&writer).map_err(|failure| failure.into_error(&path, "read"))?;
        files::check_not_behind(&path, revision, acknowledged)?;
        let identity = Identity::of(&path)?;
        let signal = Signal::open(&path)?;
        let head = watch::Sender::new(revision);
        let (writes, write_queue) = channel();
        let (reads, read_queue) = channel();
        let wal_pages = Arc::new(AtomicUsize::new(0));
        let seen = wal_pages.clone();
        let hook = move |_: &mut Wal, pages| {
            seen.store(usize::try_from(pages).unwrap_or_default(), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(|e| fault::unavailable(&path, "open", &e))?;
        let write_thread = WriteThread {
            path: path.clone(),
            identity: identity.clone(),
            connection: writer,
            signal,
            head: head.clone(),
            wal_pages,
            unkept: 0,
        };
        spawn(&path, "sqlite-write", move || write_thread.run(&write_queue))?;
        spawn(&path, "sqlite-read", move || run_reads(reader, &read_queue))?;
        Ok(Self { path, identity, writes: Ok(writes), reads, head, watch_thread: Mutex::new(None) })
    }

    /// On a file system that takes no writes: what is there can be read.
    fn open_to_read(path: PathBuf) -> Result<Self, Error> {
        let failed = |failure: Failure| failure.into_error(&path, "open");
        let reader = check::open_existing(&path)?;
        let version = schema::check_owner(&reader, &path).map_err(failed)?;
        if version != schema::SCHEMA {
            return Err(Error::Unavailable(format!(
                "sqlite {}: the tables of version {version} must be made anew, and {}",
                path.display(),
                fault::read_only(&path)
            )));
        }
        let revision = schema::head(&reader).map_err(failed)?;
        files::check_not_behind(&path, revision, notify::acknowledged(&path).revision)?;
        let identity = Identity::of(&path)?;
        let (reads, read_queue) = channel();
        spawn(&path, "sqlite-read", move || run_reads(reader, &read_queue))?;
        let refusal = format!("sqlite {}: cannot write or watch: {}", path.display(), fault::read_only(&path));
        let writes = Err(Error::Unavailable(refusal));
        let head = watch::Sender::new(revision);
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

    async fn write<T>(&self, make: impl FnOnce(Reply<T>) -> Write) -> Result<T, Error> {
        self.identity.check()?;
        let (reply, outcome) = oneshot::channel();
        self.writes.as_ref().map_err(Error::clone)?.send(make(reply)).map_err(|_| self.stopped())?;
        outcome.await.map_err(|_| Error::Unknown(format!("sqlite {}: the write thread ended", self.path.display())))?
    }

    fn stopped(&self) -> Error {
        Error::Unavailable(format!("sqlite {}: the store's thread ended", self.path.display()))
    }

    /// Blocks.
    fn start_watch_thread(&self) -> Result<(), Error> {
        self.identity.check()?;
        self.writes.as_ref().map_err(Error::clone)?;
        let mut thread = self.watch_thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Some(WatchThread::start(&self.path, self.identity.clone(), self.head.clone())?);
        }
        Ok(())
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Owns the connection that writes.
struct WriteThread {
    path: PathBuf,
    identity: Identity,
    connection: Connection,
    signal: Signal,
    head: watch::Sender<Revision>,
    /// How large the WAL was after the last commit; kept by SQLite's hook.
    wal_pages: Arc<AtomicUsize>,
    /// Bytes written since this process last trimmed the log.
    unkept: u64,
}

impl WriteThread {
    fn run(mut self, queue: &Receiver<Write>) {
        while let Ok(first) = queue.recv() {
            let mut pending = vec![first];
            let (mut txn_outcomes, has_trimmed) = match self.commit(queue, &mut pending) {
                Ok(batch) => (Ok(batch.outcomes.into_iter()), batch.has_trimmed),
                Err(error) => (Err(error), false),
            };
            for write in pending {
                // A caller that went away needs no answer.
                match (write, &mut txn_outcomes) {
                    (Write::Compact(_, reply), Err(error)) => drop(reply.send(Err(error.clone()))),
                    (Write::Compact(revision, reply), Ok(_)) => drop(reply.send(self.compact(revision))),
                    (Write::Txn(_, reply), Err(error)) => drop(reply.send(Err(error.clone()))),
                    (Write::Txn(_, reply), Ok(outcomes)) => {
                        drop(reply.send(outcomes.next().expect("commit gave an outcome for each transaction")));
                    }
                }
            }
            if has_trimmed {
                // What cannot be returned now is free for later writes.
                let _ = schema::return_pages(&self.connection);
            }
            // Checkpoints wait for the disk: nobody shall wait for them.
            if self.wal_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES {
                // Where it fails, the pages stay in the WAL; a write or a read that meets the cause reports it.
                let _ = schema::checkpoint(&self.connection);
            }
        }
    }

    /// Waits for the lock, takes up what was queued meanwhile, and commits its transactions. Where the lock cannot be had, all
    /// that is queued has waited, and fails with it.
    fn commit(&mut self, queue: &Receiver<Write>, pending: &mut Vec<Write>) -> Result<Batch, Error> {
        let failed = |failure: Failure| failure.into_error(&self.path, "write");
        let begun = match self.signal.turn() {
            None => Err(fault::busy(&self.path)),
            // The turn is given up with the block.
            Some(_turn) => schema::begin(&mut self.connection).map_err(|e| failed(e.into())),
        };
        let room = if begun.is_ok() { MAX_BATCH - 1 } else { usize::MAX };
        pending.extend(queue.try_iter().take(room));
        let tx = begun?;
        pending.retain(|write| !write.is_abandoned());
        let txns = pending.iter().filter_map(|write| match write {
            Write::Txn(txn, _) => Some(txn),
            Write::Compact(..) => None,
        });
        let floor = *self.head.borrow();
        let batch = schema::commit(&self.path, tx, txns, floor, &mut self.unkept).map_err(failed)?;
        if batch.has_written {
            // The names may have gone while the lock was awaited.
            self.identity.check().map_err(|e| Error::Unknown(e.to_string()))?;
            self.signal.send_all(&self.connection, batch.head);
            notify::advance(&self.head, batch.head);
        }
        Ok(batch)
    }

    fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        let _turn = self.signal.turn().ok_or_else(|| fault::busy(&self.path))?;
        schema::compact(&mut self.connection, revision).map_err(|failure| failure.into_error(&self.path, "compact"))
    }
}

fn check_sizes(txn: &Txn) -> Result<(), Error> {
    for op in &txn.ops {
        if let Op::Create(key, value) | Op::Update(key, value, _) | Op::Put(key, value) = op
            && value.len() > MAX_VALUE
        {
            return Err(Error::Invalid(format!(
                "the value of {key} has {}; the most that is stored is {}",
                size(value.len() as u64),
                size(MAX_VALUE as u64)
            )));
        }
    }
    Ok(())
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
        let (path, range, floor) = (self.inner.path.clone(), range.clone(), *self.inner.head.borrow());
        self.inner.read(move |c| schema::list(&path, c, &range, floor)).await
    }

    async fn foreign_paths(&self) -> Result<Vec<String>, Error> {
        self.inner.read(|c| schema::foreign_paths(c)).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let inner = self.inner.clone();
        let started = tokio::task::spawn_blocking(move || inner.start_watch_thread()).await;
        started.map_err(|_| self.inner.stopped())??;
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
        check_sizes(&txn)?;
        self.inner.write(|reply| Write::Txn(txn, reply)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.write(|reply| Write::Compact(revision, reply)).await
    }

    fn describe(&self) -> String {
        format!("sqlite {}", self.inner.path.display())
    }
}
