//! The files of a store, and whether they still belong together.
//!
//! | file | holds |
//! |---|---|
//! | `FILE` | the database |
//! | `FILE-wal`, `FILE-shm` | SQLite's: the newest commits, and their index in shared memory |
//! | `FILE-changed` | the newest revision that was acknowledged, as text; written after each commit ([`super::notify`]) |
//!
//! SQLite cannot know that its `-wal` was taken away, or that the file was put in place of another. The revision in `-changed`
//! is never ahead of the database, whatever crashes: a database that is behind it has lost acknowledged writes.
//!
//! The store holds passwords, and whoever can open `-changed` can hold its lock: all are made for their owner alone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};

use super::notify;
use crate::store::{Error, Revision};

/// How long a file may be empty while another process makes it.
const CREATION: Duration = Duration::from_secs(1);

/// What new files and directories allow.
pub(super) const FILE_MODE: u32 = 0o600;
pub(super) const DIRECTORY_MODE: u32 = 0o700;

/// Makes an empty file for its owner alone, where there is none: SQLite would let everybody read it. The file is not opened: to
/// close it would drop the locks that this process has on it.
pub(super) fn create_private(path: &Path) -> std::io::Result<()> {
    match mknod(path, SFlag::S_IFREG, Mode::from_bits_truncate(FILE_MODE), 0) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// `FILE` with something appended.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// Which files are open: a write to one that has lost its name would be acknowledged and lost, and two processes with two `-shm`
/// files do not see each other's locks.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The first is the database.
    files: [(PathBuf, FileId); 3],
}

type FileId = Option<(u64, u64)>;

fn id(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Identity {
    /// The files that the path names now. SQLite must have opened them.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let database = id(path).map_err(|e| lost(path, path, &e.to_string()))?;
        let aside = |suffix| {
            let path = beside(path, suffix);
            let id = id(&path).ok();
            (path, id)
        };
        Ok(Self { files: [(path.to_path_buf(), Some(database)), aside("-wal"), aside("-shm")] })
    }

    /// Whether the path still names the files.
    pub(super) fn check(&self) -> Result<(), Error> {
        let database = &self.files[0].0;
        for (path, known) in &self.files {
            let Some(known) = known else { continue };
            match id(path) {
                Ok(now) if now == *known => {}
                Ok(_) => return Err(lost(database, path, "it is another file now")),
                Err(e) => return Err(lost(database, path, &e.to_string())),
            }
        }
        Ok(())
    }
}

fn lost(database: &Path, file: &Path, why: &str) -> Error {
    Error::Unavailable(format!(
        "sqlite {}: {} was removed or replaced while in use ({why}); stop every program of Tortie on this host, put the file in \
         place (a backup: `calicoctl datastore sqlite restore BACKUP`), and start them again",
        database.display(),
        file.display()
    ))
}

/// Refuses what SQLite would take for a new database, and empty its `-wal`.
pub(super) fn check_before_open(path: &Path) -> Result<(), Error> {
    let length = |path: &Path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
    let give_up = Instant::now() + CREATION;
    loop {
        let wal = length(&beside(path, "-wal")).unwrap_or_default();
        let acknowledged = notify::acknowledged(path);
        let name = path.display();
        let problem = match length(path) {
            None if path.exists() => return Ok(()),
            None if wal > 0 => format!("the file is gone, but {name}-wal holds writes that belong to it"),
            None if acknowledged.revision > 0 => return notify::allow_to_begin_anew(path),
            Some(0) if wal > 0 || (acknowledged.revision > 0 && !acknowledged.may_begin_anew) => {
                format!("the file is empty, but it was a store with revision {}", acknowledged.revision)
            }
            _ => return Ok(()),
        };
        // Another process may just be making the file.
        if Instant::now() > give_up {
            return Err(Error::Unavailable(format!(
                "sqlite {name}: {problem}; put the file back, or a backup: `calicoctl datastore sqlite restore BACKUP`; or move \
                 away {name} and {name}-* to begin anew, without what was stored"
            )));
        }
        std::thread::sleep(CREATION / 20);
    }
}

/// Refuses a database that is behind what was acknowledged.
pub(super) fn check_not_behind(path: &Path, head: Revision, acknowledged: Revision) -> Result<(), Error> {
    if head >= acknowledged {
        return Ok(());
    }
    let name = path.display();
    Err(Error::Unavailable(format!(
        "sqlite {name}: the file ends at revision {head}, but {acknowledged} was acknowledged: its -wal file was removed, or an \
         older copy was put in its place; put back what belongs here, or a backup: `calicoctl datastore sqlite restore BACKUP` \
         (`restore {name}` takes the file as it is)"
    )))
}
