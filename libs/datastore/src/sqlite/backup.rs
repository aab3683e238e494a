//! Backup and restore beside running programs, and giving space back.
//!
//! A restored store is another life of the store: its revision is greater than every one that was seen before, and it has no
//! history, so whoever watches is told [`Error::Compacted`] and lists again, and no revision means two things.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::check::{Depth, Report, check, open_existing};
use super::fault::{self, Failure, directory_of};
use super::notify::{self, Signal};
use super::{files, schema};
use crate::store::{Error, Revision};

/// How far a store whose own revision cannot be read any more is moved on: more than can have been written without a trace.
const UNSEEN_REVISIONS: Revision = 1_000_000;

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The store, after.
    pub report: Report,
    /// Where the damaged file is now; its `-wal` is beside it. `None` where the content was replaced in place.
    pub aside: Option<PathBuf>,
}

/// Copies one revision of a store into a new file, while others write. The copy is complete and checked when it has its name.
/// Blocks.
///
/// # Errors
/// `to` exists or cannot be written, the store cannot be read, or the copy has problems.
pub fn backup(path: &Path, to: &Path) -> Result<Report, Error> {
    if !path.exists() {
        return Err(Error::Unavailable(format!("sqlite {}: there is no such file", path.display())));
    }
    let failed = |e| fault::io(to, "write the backup", &e);
    // Takes the name: two backups do not overwrite each other.
    File::options().write(true).create_new(true).mode(files::FILE_MODE).open(to).map_err(failed)?;
    let partial = files::beside(to, &format!(".partial-{}", std::process::id()));
    let made = copy(path, &partial).and_then(|report| {
        std::fs::rename(&partial, to).and_then(|()| sync_directory(to)).map_err(failed)?;
        Ok(Report { path: to.to_path_buf(), ..report })
    });
    if made.is_err() {
        // The reason is told; what cannot be removed is an empty file, or one that says it is partial.
        let _ = std::fs::remove_file(&partial);
        let _ = std::fs::remove_file(to);
    }
    made
}

fn copy(path: &Path, to: &Path) -> Result<Report, Error> {
    let connection = open_existing(path)?;
    schema::check_owner(&connection, path).map_err(|failure| failure.into_error(path, "open"))?;
    files::create_private(to).map_err(|e| fault::io(to, "write the backup", &e))?;
    // One read transaction that waits for nobody; SQLite syncs the file, which may be there when it is empty.
    connection
        .execute("VACUUM INTO ?1", [to.to_string_lossy()])
        .map_err(|e| Failure::from(e).into_error(path, &format!("copy to {}", to.display())))?;
    let permissions = std::fs::metadata(path).map(|m| m.permissions());
    permissions
        .and_then(|p| std::fs::set_permissions(to, p))
        .and_then(|()| File::open(to)?.sync_all())
        .map_err(|e| fault::io(to, "write the backup", &e))?;
    let report = check(to, Depth::Full)?;
    match report.problems.first() {
        None => Ok(report),
        Some(problem) => Err(Error::Unavailable(format!(
            "sqlite {}: the copy has problems, so the store has: {problem}; `calicoctl datastore sqlite check` tells all",
            path.display()
        ))),
    }
}

/// Makes the content of a backup the content of the store. A store that is whole is changed in one transaction, beside running
/// programs; one that is gone or damaged is replaced, and kept aside, once no program has it open. With `from` the store itself,
/// it is taken as it is. Blocks.
///
/// # Errors
/// The backup is none or has problems, a program has the damaged store open, or a file cannot be written; the store is then as
/// it was.
pub fn restore(path: &Path, from: &Path) -> Result<Restored, Error> {
    let acknowledged = notify::acknowledged(path).revision;
    let canonical = |path: &Path| std::fs::canonicalize(path).ok();
    let is_itself = canonical(path).is_some() && canonical(path) == canonical(from);
    let backup = check(from, Depth::Full)?;
    // That it ends before what was acknowledged is why a store is taken as it is.
    let is_accepted = is_itself && backup.problems.len() == 1 && backup.revision < acknowledged;
    if let Some(problem) = backup.problems.first().filter(|_| !is_accepted) {
        return Err(Error::Invalid(format!("sqlite {}: this is no sound backup: {problem}", from.display())));
    }
    if is_accepted {
        notify::allow_to_begin_anew(path)?;
    }
    let is_whole = is_itself || check(path, Depth::Full).is_ok_and(|report| is_usable(&report, acknowledged));
    let aside = match is_whole {
        true => {
            replace_content(path, (!is_itself).then_some(from), acknowledged.max(backup.revision) + 1)?;
            None
        }
        false => replace_file(path, from, acknowledged.max(backup.revision) + UNSEEN_REVISIONS)?,
    };
    Ok(Restored { report: check(path, Depth::Full)?, aside })
}

/// Whether the file can be written: that it lost writes does not matter any more.
fn is_usable(report: &Report, acknowledged: Revision) -> bool {
    report.problems.is_empty() || (report.problems.len() == 1 && report.revision < acknowledged && report.revision > 0)
}

fn replace_content(path: &Path, from: Option<&Path>, revision: Revision) -> Result<(), Error> {
    let signal = Signal::open(path)?;
    let mut connection = schema::open_writer(path)?;
    let converted = from.map(|from| Converted::of(from, path)).transpose()?;
    let turn = signal.turn().ok_or_else(|| fault::busy(path))?;
    let from = converted.as_ref().map(|converted| converted.path.as_path());
    let revision = rewrite(&mut connection, from, revision).map_err(|failure| failure.into_error(path, "restore"))?;
    drop(turn);
    signal.send_all(&connection, revision);
    Ok(())
}

/// A backup in the tables of this version: itself, or a copy beside the store that is gone when this is dropped.
struct Converted {
    path: PathBuf,
    is_copy: bool,
}

impl Converted {
    fn of(backup: &Path, store: &Path) -> Result<Self, Error> {
        let connection = open_existing(backup)?;
        let version = schema::check_owner(&connection, backup).map_err(|failure| failure.into_error(backup, "open"))?;
        if version == schema::SCHEMA {
            return Ok(Self { path: backup.to_path_buf(), is_copy: false });
        }
        let copy = files::beside(store, &format!(".converted-{}", std::process::id()));
        let made = File::options().write(true).create_new(true).mode(files::FILE_MODE).open(&copy);
        made.map_err(|e| fault::io(&copy, "write a copy of the backup", &e))?;
        let converted = Self { path: copy, is_copy: true };
        connection
            .execute("VACUUM INTO ?1", [converted.path.to_string_lossy()])
            .map_err(|e| Failure::from(e).into_error(backup, &format!("copy to {}", converted.path.display())))?;
        // To open it is to convert it.
        schema::open(&converted.path).map(|_| converted)
    }
}

impl Drop for Converted {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"].into_iter().filter(|_| self.is_copy) {
            // What is left says by its name what it is.
            let _ = std::fs::remove_file(files::beside(&self.path, suffix));
        }
    }
}

fn rewrite(connection: &mut Connection, from: Option<&Path>, revision: Revision) -> Result<Revision, Failure> {
    if let Some(from) = from {
        connection.execute("ATTACH ?1 AS backup", [from.to_string_lossy()])?;
    }
    let tx = schema::begin(connection)?;
    let revision = revision.max(schema::head(&tx)? + 1);
    if from.is_some() {
        tx.execute_batch(
            "DELETE FROM kv;
             INSERT INTO kv (key, create_rev, mod_rev, sum, value) SELECT key, create_rev, mod_rev, sum, value FROM backup.kv;
             DELETE FROM meta WHERE name LIKE '/%';
             INSERT INTO meta (name, value, sum) SELECT name, value, sum FROM backup.meta WHERE name LIKE '/%';",
        )?;
    }
    schema::begin_new_life(&tx, revision)?;
    tx.commit().map_err(Failure::AtCommit)?;
    Ok(revision)
}

fn replace_file(path: &Path, from: &Path, revision: Revision) -> Result<Option<PathBuf>, Error> {
    let failed = |e| fault::io(path, "put the backup in place", &e);
    let users = processes_with(path);
    if !users.is_empty() {
        return Err(Error::Unavailable(format!(
            "sqlite {}: the file is damaged or gone, and still open in {}; stop every program of Tortie on this host, and try again",
            path.display(),
            users.join(", ")
        )));
    }
    DirBuilder::new().recursive(true).mode(files::DIRECTORY_MODE).create(directory_of(path)).map_err(failed)?;
    let new = files::beside(path, &format!(".restored-{}", std::process::id()));
    let made = make_replacement(path, from, &new, revision);
    let placed = made.and_then(|()| {
        let aside = move_aside(path).map_err(failed)?;
        std::fs::rename(&new, path).and_then(|()| sync_directory(path)).map_err(failed)?;
        Ok(aside)
    });
    if placed.is_err() {
        for suffix in ["", "-wal", "-shm"] {
            // The reason is told; what is left says by its name what it is.
            let _ = std::fs::remove_file(files::beside(&new, suffix));
        }
    }
    Signal::open(path)?.send(revision);
    placed
}

/// The backup as a store in a file of its own, with everything in the file when this returns.
fn make_replacement(path: &Path, from: &Path, new: &Path, revision: Revision) -> Result<(), Error> {
    let failed = |e| fault::io(path, "put the backup in place", &e);
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
    // What the backup's `-wal` holds is a part of it.
    open_existing(from)?
        .execute("VACUUM INTO ?1", [new.to_string_lossy()])
        .map_err(|e| Failure::from(e).into_error(from, &format!("copy to {}", new.display())))?;
    // A damaged file still tells whose it is.
    let made_as = match std::fs::metadata(path) {
        Ok(old) => std::fs::set_permissions(new, old.permissions())
            .and_then(|()| std::os::unix::fs::chown(new, Some(old.uid()), Some(old.gid()))),
        Err(_) => std::fs::set_permissions(new, Permissions::from_mode(files::FILE_MODE)),
    };
    made_as.map_err(failed)?;
    let mut connection = schema::open(new)?;
    rewrite(&mut connection, None, revision).map_err(|failure| failure.into_error(new, "restore"))?;
    // The last connection copies its WAL into the file, and removes it.
    connection.close().map_err(|(_, e)| fault::unavailable(new, "close", &e))?;
    File::open(new).and_then(|f| f.sync_all()).map_err(failed)
}

/// Moves the database and its `-wal` to `FILE.damaged`, or `FILE.damaged-2` and so on, and removes its `-shm`.
fn move_aside(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let numbered = (2..).map(|n| format!(".damaged-{n}"));
    let aside = std::iter::once(".damaged".to_string())
        .chain(numbered)
        .map(|suffix| files::beside(path, &suffix))
        .find(|aside| !aside.exists() && !files::beside(aside, "-wal").exists())
        .expect("some number is free");
    let mut is_there = false;
    // The database goes first: a WAL without it is refused, and not taken for another's.
    for suffix in ["", "-wal"] {
        let file = files::beside(path, suffix);
        if file.exists() {
            std::fs::rename(&file, files::beside(&aside, suffix))?;
            is_there = true;
        }
    }
    let shm = files::beside(path, "-shm");
    if shm.exists() {
        std::fs::remove_file(shm)?;
    }
    Ok(is_there.then_some(aside))
}

/// The other processes that have a file of the store open, as `felix (123)`. Those of other users may hide theirs.
fn processes_with(path: &Path) -> Vec<String> {
    let id = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let ours: Vec<_> = ["", "-wal", "-shm"].iter().filter_map(|suffix| id(&files::beside(path, suffix))).collect();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let descriptors = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if pid != std::process::id() && descriptors.filter_map(|fd| id(&fd.path())).any(|id| ours.contains(&id)) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim()));
        }
    }
    found
}

/// Forgets all history and returns all free space to the file system, beside running programs: watches that are behind list
/// again. Blocks writers while it copies.
///
/// # Errors
/// There is no store, or its file system has no room for a second copy.
pub fn compact(path: &Path) -> Result<Report, Error> {
    check(path, Depth::Quick)?;
    let signal = Signal::open(path)?;
    let mut connection = schema::open_writer(path)?;
    let turn = signal.turn().ok_or_else(|| fault::busy(path))?;
    let failed = |failure: Failure| failure.into_error(path, "compact");
    schema::compact(&mut connection, Revision::MAX).map_err(failed)?;
    connection
        .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        .map_err(|e| failed(e.into()))?;
    drop(turn);
    check(path, Depth::Full)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}
