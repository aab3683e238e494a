//! What SQLite's failures mean to who has to mend them: the file, the cause, what to do.
//!
//! Whether a failed `COMMIT` has happened is decided here, once. In WAL mode a transaction is there when its last frame, the
//! commit frame, is whole. `SQLITE_FULL` is a write that found no room, so the commit frame is not whole; `SQLITE_BUSY` leaves the
//! transaction open, and it is rolled back. Neither has happened. After any other error, above all of the fsync that follows the
//! commit frame, no reader sees the transaction, but a recovery of the WAL may find its frames whole: unknown.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::ErrorCode;

use super::files;
use crate::store::Error;

/// How long a writer waits for other processes.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const DAMAGED_ADVICE: &str = "; the file is damaged: `calicoctl datastore sqlite check` says how; stop every program of Tortie on \
                              this host and restore a backup: `calicoctl datastore sqlite restore BACKUP`";

/// Why a statement did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    AtCommit(rusqlite::Error),
    /// SQLite finds the file whole, but what is in it is not what was written.
    Damaged(String),
    Store(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

impl Failure {
    /// Names what is damaged.
    pub(super) fn damaged(what: String) -> Self {
        Self::Damaged(format!("{what} is damaged"))
    }

    /// What is damaged, where that is the reason.
    pub(super) fn damage(&self) -> Option<String> {
        match self {
            Self::Damaged(what) => Some(what.clone()),
            Self::Sqlite(e) if is_damage(e) => Some(e.to_string()),
            _ => None,
        }
    }

    pub(super) fn into_error(self, path: &Path, doing: &str) -> Error {
        match self {
            Self::Sqlite(e) => unavailable(path, doing, &e),
            Self::AtCommit(e) => match e.sqlite_error_code() {
                Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    unavailable(path, "commit", &e)
                }
                _ => Error::Unknown(describe(path, "commit", &e)),
            },
            Self::Damaged(what) => {
                Error::Unavailable(format!("sqlite {}: cannot {doing}: {what}{DAMAGED_ADVICE}", path.display()))
            }
            Self::Store(e) => e,
        }
    }
}

pub(super) fn unavailable(path: &Path, doing: &str, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::TooBig) => Error::Invalid(describe(path, doing, error)),
        _ => Error::Unavailable(describe(path, doing, error)),
    }
}

/// What failed, where, why and what to do.
pub(super) fn describe(path: &Path, doing: &str, error: &rusqlite::Error) -> String {
    let directory = directory_of(path);
    let advice = match error.sqlite_error_code() {
        Some(
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen | ErrorCode::SystemIoFailure,
        ) if is_read_only(path) => format!("; {}", read_only(path)),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => format!(
            "; this user must be able to write the file, its -wal and -shm files, and in {}",
            directory.display()
        ),
        Some(ErrorCode::NotADatabase) => {
            "; move the file away, or set SQLITE_PATH to another; if it was this program's, restore a backup: \
             `calicoctl datastore sqlite restore BACKUP`"
                .into()
        }
        _ if is_damage(error) => DAMAGED_ADVICE.into(),
        Some(ErrorCode::DiskFull) => format!("; {}: free some; nothing of this write was kept", room(directory)),
        Some(ErrorCode::SystemIoFailure) => {
            format!("; {}; check that file system, its quota and its disk (the kernel's log)", room(directory))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => busy_advice(),
        _ => String::new(),
    };
    format!("sqlite {}: cannot {doing}: {error}{advice}", path.display())
}

/// Whether an error of SQLite, or of reading what it gave, can only come from a file that is damaged: our statements fit our tables.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::StatementChangedRows(_)
        | rusqlite::Error::Utf8Error(..) => true,
        error => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::ConstraintViolation | ErrorCode::Unknown)
        ),
    }
}

/// The file system is read-only, and what to do.
pub(super) fn read_only(path: &Path) -> String {
    format!(
        "the file system of {} is mounted read-only: look for its errors in the kernel's log, and mount it for writing again",
        directory_of(path).display()
    )
}

/// No turn came: as SQLite's own busy error.
pub(super) fn busy(path: &Path) -> Error {
    Error::Unavailable(format!("sqlite {}: cannot write: the database is in use{}", path.display(), busy_advice()))
}

fn busy_advice() -> String {
    format!("; another process has held the write lock for {} s: `fuser` on the file names it", BUSY_TIMEOUT.as_secs())
}

/// An error of the operating system about a file of the store.
pub(super) fn io(path: &Path, doing: &str, error: &std::io::Error) -> Error {
    let directory = directory_of(path);
    let advice = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            format!("; {}: free some", room(directory))
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            format!("; the file system of {} is mounted read-only: mount it for writing", directory.display())
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("; this user must be able to write the file and in {}", directory.display())
        }
        _ => String::new(),
    };
    Error::Unavailable(format!("sqlite {}: cannot {doing}: {error}{advice}", path.display()))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the file system of a store takes no writes. One that met an error may still be mounted for writing, and refuse to open a
/// file for it (ext4: `emergency_ro`).
pub(super) fn is_read_only(path: &Path) -> bool {
    let refuses = |e: std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    statvfs(directory_of(path)).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY))
        || File::options().write(true).open(files::beside(path, "-changed")).is_err_and(refuses)
}

/// How much room the file system of a directory has.
fn room(directory: &Path) -> String {
    let place = directory.display();
    match statvfs(directory) {
        Ok(fs) if fs.files() > 0 && fs.files_available() == 0 => {
            format!("no inode is free on the file system of {place}")
        }
        Ok(fs) => {
            let free = size(fs.blocks_available() * fs.fragment_size());
            format!("{free} of {} are free on the file system of {place}", size(fs.blocks() * fs.fragment_size()))
        }
        Err(e) => format!("the file system of {place} does not say how much room it has ({e})"),
    }
}

/// A size as people read it: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}
