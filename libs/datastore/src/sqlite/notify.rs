//! How a process learns that another has committed: one byte written to a file beside the database, seen through inotify.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::schema::{self, Identity};
use crate::store::{Error, Revision};

/// How often the revision is read where no signal came: a process was killed between its commit and its signal, or the signal
/// file was removed.
const FALLBACK_POLL: Duration = Duration::from_secs(1);
const INOTIFY_BUFFER: usize = 4096;

/// The file that is written after each commit.
pub(super) struct Signal {
    file: File,
}

impl Signal {
    pub(super) fn open(database: &Path) -> Result<Self, Error> {
        let path = path_of(database);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| {
            Error::Unavailable(format!("sqlite {}: cannot open {}: {e}", database.display(), path.display()))
        })?;
        Ok(Self { file })
    }

    /// Wakes the other processes. Where that fails, they see the commit at their next poll.
    pub(super) fn send(&self) {
        let _ = self.file.write_at(&[0], 0);
    }
}

fn path_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_os_string();
    path.push("-changed");
    path.into()
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
        let failed = |what: &str, e: std::io::Error| {
            Error::Unavailable(format!("sqlite {}: cannot {what}: {e}", database.display()))
        };
        let connection = schema::open(database)?;
        let inotify =
            Inotify::init().map_err(|e| failed("watch for changes (see fs.inotify.max_user_instances)", e))?;
        let signal = path_of(database);
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
