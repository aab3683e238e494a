//! How a process learns that another has committed, and how processes queue up to write: the file `FILE-changed`.
//!
//! A writer puts its revision there after each commit, which inotify shows to the others. Its lock is the queue: who waits for
//! SQLite's write lock holds it meanwhile, so that a process that has just written cannot write again before one that waits.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::fault::{self, BUSY_TIMEOUT};
use super::files::{self, Identity};
use super::schema;
use crate::store::{Error, Revision};

/// How often the revision is read where no signal came: a process was killed between its commit and its signal, or the signal
/// file was removed.
const FALLBACK_POLL: Duration = Duration::from_secs(1);
const INOTIFY_BUFFER: usize = 4096;
/// How often who waits for its turn looks: a commit takes longer.
const TURN_POLL: Duration = Duration::from_micros(500);

/// The digits of the greatest revision, and a line feed.
const TEXT_LENGTH: u64 = 21;

/// The file that is written after each commit.
pub(super) struct Signal {
    file: File,
}

/// At the head of the queue of writers; until dropped.
pub(super) struct Turn<'a> {
    file: &'a File,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // What cannot be unlocked was not locked: a file system without locks.
        let _ = self.file.unlock();
    }
}

impl Signal {
    pub(super) fn open(database: &Path) -> Result<Self, Error> {
        let path = files::beside(database, "-changed");
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true).mode(files::FILE_MODE);
        let file = options.open(&path);
        let failed = |e| fault::io(database, &format!("write {}", path.display()), &e);
        let signal = Self { file: file.map_err(failed)? };
        // A full disk has no room for the first revision, but it can take the place of what is there.
        if signal.file.metadata().map_err(failed)?.len() < TEXT_LENGTH {
            signal.file.write_at(text(0).as_bytes(), 0).map_err(failed)?;
        }
        Ok(signal)
    }

    /// Wakes the other processes. Where that fails, they see the commit at their next poll.
    pub(super) fn send(&self, revision: Revision) {
        let _ = self.file.write_at(text(revision).as_bytes(), 0);
    }

    /// As [`Self::send`], after a commit of this connection. The signal never goes back: where another process has committed later
    /// and sent its revision before, its revision is sent again.
    pub(super) fn send_all(&self, connection: &Connection, committed: Revision) {
        let mut sent = committed;
        self.send(sent);
        // Whoever commits after this look sends after it.
        while let Ok(head) = schema::head(connection)
            && head > sent
        {
            sent = head;
            self.send(sent);
        }
    }

    /// Waits for the turn of this process; `None` where it did not come in time.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let give_up = Instant::now() + BUSY_TIMEOUT;
        loop {
            match self.file.try_lock() {
                // On a file system without locks SQLite's own busy handler remains.
                Ok(()) | Err(TryLockError::Error(_)) => return Some(Turn { file: &self.file }),
                Err(TryLockError::WouldBlock) if Instant::now() > give_up => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_POLL),
            }
        }
    }
}

/// Always [`TEXT_LENGTH`] bytes.
fn text(revision: Revision) -> String {
    format!("{revision:020}\n")
}

/// What the signal file tells of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The newest revision that was acknowledged; 0 where nothing is known.
    pub(super) revision: Revision,
    /// The database had been removed when somebody opened it: `+` in place of the first digit, which no revision needs.
    pub(super) may_begin_anew: bool,
}

pub(super) fn acknowledged(database: &Path) -> Acknowledged {
    let mut text = String::new();
    let read = File::open(files::beside(database, "-changed")).and_then(|f| f.take(64).read_to_string(&mut text));
    if read.is_err() {
        return Acknowledged::default();
    }
    let digits = text.trim().trim_start_matches('+');
    Acknowledged { revision: digits.parse().unwrap_or_default(), may_begin_anew: text.starts_with('+') }
}

/// Lets a new database begin after a revision, where the old one was removed.
pub(super) fn allow_to_begin_anew(database: &Path) -> Result<(), Error> {
    let path = files::beside(database, "-changed");
    let marked = File::options().write(true).open(&path).and_then(|file| file.write_at(b"+", 0));
    marked.map(drop).map_err(|e| fault::io(database, &format!("write {}", path.display()), &e))
}

/// Raises the head; never lowers it.
pub(super) fn advance(head: &watch::Sender<Revision>, revision: Revision) {
    head.send_if_modified(|head| {
        let is_newer = revision > *head;
        *head = revision.max(*head);
        is_newer
    });
}

/// Follows the commits of all processes; ends when dropped.
pub(super) struct WatchThread {
    _stop: oneshot::Sender<()>,
}

impl WatchThread {
    pub(super) fn start(database: &Path, identity: Identity, head: watch::Sender<Revision>) -> Result<Self, Error> {
        let failed = |what: &str, e: std::io::Error| fault::io(database, what, &e);
        let connection = schema::open_again(database)?;
        let inotify =
            Inotify::init().map_err(|e| failed("watch for changes (see fs.inotify.max_user_instances)", e))?;
        let signal = files::beside(database, "-changed");
        inotify.watches().add(&signal, WatchMask::MODIFY).map_err(|e| failed("watch the signal file", e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed("start the watch thread", e))?;
        let (stop, stopped) = oneshot::channel();
        super::spawn(database, "sqlite-watch", move || {
            runtime.block_on(async {
                tokio::select! {
                    // Completes with an error when the sender is dropped.
                    _ = stopped => {}
                    () = follow(inotify, &connection, &identity, &head) => {}
                }
            });
        })?;
        Ok(Self { _stop: stop })
    }
}

/// Reads the revision at each signal, and at each poll.
async fn follow(inotify: Inotify, connection: &Connection, identity: &Identity, head: &watch::Sender<Revision>) {
    let mut signals = inotify.into_event_stream([0; INOTIFY_BUFFER]).ok();
    loop {
        let signal = async {
            match &mut signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(FALLBACK_POLL, signal).await {
            Ok(Some(Ok(_))) | Err(_) => {}
            // The signals cannot be read any more: the poll remains.
            Ok(None | Some(Err(_))) => signals = None,
        }
        if identity.check().is_err() {
            // Wakes the streams, which meet the same error and report it.
            head.send_modify(|_| {});
            continue;
        }
        // Where the read fails, the streams meet the same failure themselves and report it.
        if let Ok(revision) = schema::head(connection) {
            advance(head, revision);
        }
    }
}
