//! The file: its tables, and every statement that runs on them.
//!
//! | table | columns | holds |
//! |---|---|---|
//! | `kv` | key, value, create_rev, mod_rev | the objects |
//! | `log` | rev, seq, key, value (null: deleted) | the writes after `compacted`, for watches |
//! | `meta` | name, value | `schema`, `revision`, `compacted` |

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::key::Key;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Txn};

/// The version of the tables that this program reads and writes.
const SCHEMA: u64 = 1;
/// How long a writer waits for another process's commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Revisions whose writes are kept for watches.
pub(super) const KEPT_REVISIONS: Revision = 10_000;
/// The log is trimmed each time the revision passes a multiple of this.
const TRIM_EVERY: Revision = 500;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL);
    CREATE TABLE log (rev INTEGER, seq INTEGER, key TEXT NOT NULL, value BLOB, PRIMARY KEY (rev, seq)) WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 0), ('compacted', 0);
";

/// Why a statement did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    /// The commit itself failed: the writes may be durable or not.
    AtCommit(rusqlite::Error),
    Store(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

impl Failure {
    pub(super) fn into_error(self, path: &Path, doing: &str) -> Error {
        match self {
            Self::Sqlite(e) => unavailable(path, doing, &e),
            Self::AtCommit(e) => Error::Unknown(describe(path, "commit", &e)),
            Self::Store(e) => e,
        }
    }
}

pub(super) fn unavailable(path: &Path, doing: &str, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Invalid(describe(path, doing, error)),
        _ => Error::Unavailable(describe(path, doing, error)),
    }
}

/// What failed, where, why and what to do.
fn describe(path: &Path, doing: &str, error: &rusqlite::Error) -> String {
    let directory = path.parent().unwrap_or(path).display();
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("; this user must be able to write the file, its -wal and -shm files, and in {directory}")
        }
        Some(ErrorCode::NotADatabase) => "; move the file away, or set SQLITE_PATH to another".into(),
        Some(ErrorCode::DatabaseCorrupt) => {
            "; stop every program of Tortie here and restore the file from a backup".into()
        }
        Some(ErrorCode::DiskFull) => format!("; free space on the file system of {directory}"),
        Some(ErrorCode::SystemIoFailure) => format!("; check the file system and the disk of {directory}"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!(
                "; another process has held the write lock for {} s: `fuser` on the file names it",
                BUSY_TIMEOUT.as_secs()
            )
        }
        _ => String::new(),
    };
    format!("sqlite {}: cannot {doing}: {error}{advice}", path.display())
}

/// Which file is open: a write to one that has lost its name would be acknowledged and lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Identity {
    /// The file that the path names now.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|e| lost(path, &e.to_string()))?;
        Ok(Self { path: path.to_path_buf(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Whether the path still names the file.
    pub(super) fn check(&self) -> Result<(), Error> {
        if Self::of(&self.path)? == *self { Ok(()) } else { Err(lost(&self.path, "it is another file now")) }
    }
}

fn lost(path: &Path, why: &str) -> Error {
    Error::Unavailable(format!(
        "sqlite {}: the file was removed or replaced while in use ({why}); stop every program of Tortie on this host, put the \
         file in place, and start them again",
        path.display()
    ))
}

/// Opens the file; creates directory, file and tables where missing.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|e| {
            let (path, directory) = (path.display(), directory.display());
            Error::Unavailable(format!(
                "sqlite {path}: cannot create the directory {directory}: {e}; run as root or set SQLITE_PATH"
            ))
        })?;
    }
    let mut connection = Connection::open(path).map_err(|e| unavailable(path, "open", &e))?;
    prepare(&mut connection, path).map_err(|failure| failure.into_error(path, "open"))?;
    Ok(connection)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Refuse what is not ours before changing anything, even the journal mode.
    check_owner(connection, path)?;
    set_wal(connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Opening a file that has its tables takes no write lock: it must not wait for writers.
    if has_table(connection, "meta")? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    if !has_table(&tx, "meta")? {
        tx.execute_batch(TABLES)?;
        tx.execute("INSERT INTO meta VALUES ('schema', ?1)", [SCHEMA])?;
    }
    tx.commit()?;
    check_owner(connection, path)
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
}

/// Refuses a database of another program, and one of a newer version of this.
fn check_owner(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let tables: u64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(());
    }
    let path = path.display();
    let schema: Option<u64> = match has_table(connection, "meta")? {
        false => None,
        true => connection
            .query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| row.get(0))
            .optional()
            .unwrap_or_default(),
    };
    match schema {
        Some(SCHEMA) => Ok(()),
        Some(newer) if newer > SCHEMA => Err(Failure::Store(Error::Invalid(format!(
            "sqlite {path}: the file has schema {newer}, this program knows up to {SCHEMA}; upgrade this program"
        )))),
        _ => Err(Failure::Store(Error::Invalid(format!(
            "sqlite {path}: the file is a database of another program; set SQLITE_PATH to another file"
        )))),
    }
}

/// Switches to WAL. SQLite does not wait for a lock here as it does elsewhere, so several first openers are retried.
fn set_wal(connection: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value]).map(drop)
}

/// The revision of the last commit.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<Revision> {
    meta(connection, "revision")
}

pub(super) fn get(connection: &Connection, key: &Key) -> Result<Option<KeyValue>, Failure> {
    let mut statement = connection.prepare_cached("SELECT value, mod_rev FROM kv WHERE key = ?1")?;
    let found = statement.query_row([key.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.map(|(value, mod_revision)| KeyValue { key: key.clone(), value, mod_revision }))
}

pub(super) fn list(connection: &mut Connection, prefix: &str) -> Result<Listing, Failure> {
    // One read transaction: the objects and the revision belong together.
    let tx = connection.transaction()?;
    let revision = head(&tx)?;
    let mut items = Vec::new();
    {
        let mut statement =
            tx.prepare_cached("SELECT key, value, mod_rev FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let mut rows = statement.query([prefix, &end_of(prefix)])?;
        while let Some(row) = rows.next()? {
            if let Some(key) = Key::parse(row.get_ref(0)?.as_str().unwrap_or_default()) {
                items.push(KeyValue { key, value: row.get(1)?, mod_revision: row.get(2)? });
            }
        }
    }
    Ok(Listing { items, revision })
}

/// The first key after all that start with the prefix. Prefixes of [`api::key::KeyRange`] end in `/`; `0` follows it.
fn end_of(prefix: &str) -> String {
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix))
}

/// Where a watch stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    revision: Revision,
    seq: u64,
}

impl Cursor {
    /// After everything of a revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self { revision, seq: i64::MAX as u64 }
    }
}

/// A part of the log.
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) cursor: Cursor,
    /// Nothing followed when this was read.
    pub(super) is_last: bool,
}

/// What was written to a range after the cursor, at most `limit` events.
pub(super) fn events(connection: &mut Connection, prefix: &str, cursor: Cursor, limit: usize) -> Result<Page, Failure> {
    let tx = connection.transaction()?;
    let head = head(&tx)?;
    // A revision from the future is one of another life of this file: its history is gone too.
    if cursor.revision < meta(&tx, "compacted")? || cursor.revision > head {
        return Err(Failure::Store(Error::Compacted(cursor.revision)));
    }
    let mut page = Page { events: Vec::new(), cursor, is_last: false };
    {
        let mut statement = tx.prepare_cached(
            "SELECT rev, seq, key, value FROM log
             WHERE (rev, seq) > (?1, ?2) AND key >= ?3 AND key < ?4 ORDER BY rev, seq LIMIT ?5",
        )?;
        let mut rows = statement.query(params![cursor.revision, cursor.seq, prefix, end_of(prefix), limit as u64])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            read += 1;
            let revision = row.get(0)?;
            page.cursor = Cursor { revision, seq: row.get(1)? };
            let Some(key) = Key::parse(row.get_ref(2)?.as_str().unwrap_or_default()) else {
                continue;
            };
            page.events.push(match row.get(3)? {
                Some(value) => Event::Put(KeyValue { key, value, mod_revision: revision }),
                None => Event::Delete { key, revision },
            });
        }
        page.is_last = read < limit;
    }
    if page.is_last {
        page.cursor = Cursor::after(head);
    }
    Ok(page)
}

/// What became of the transactions that shared a commit.
pub(super) struct Batch {
    pub(super) outcomes: Vec<Result<Revision, Error>>,
    pub(super) head: Revision,
    pub(super) has_written: bool,
}

/// Runs transactions one after another under one lock and one commit. A transaction whose condition fails writes nothing and
/// does not touch the others.
pub(super) fn commit(connection: &mut Connection, txns: &[Txn]) -> Result<Batch, Failure> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = head(&tx)?;
    let mut revision = before;
    let mut outcomes = Vec::with_capacity(txns.len());
    for txn in txns {
        outcomes.push(apply(&tx, txn, &mut revision)?);
    }
    let has_written = revision != before;
    if has_written {
        set_meta(&tx, "revision", revision)?;
        if revision / TRIM_EVERY != before / TRIM_EVERY {
            trim(&tx, revision.saturating_sub(KEPT_REVISIONS))?;
        }
        tx.commit().map_err(Failure::AtCommit)?;
    }
    Ok(Batch { outcomes, head: revision, has_written })
}

/// Checks every condition, then writes. Errors of SQLite are the outer ones.
fn apply(connection: &Connection, txn: &Txn, head: &mut Revision) -> rusqlite::Result<Result<Revision, Error>> {
    let mut present = connection.prepare_cached("SELECT mod_rev FROM kv WHERE key = ?1")?;
    for op in &txn.ops {
        let revision = present.query_row([op.key().to_string()], |row| row.get(0)).optional()?;
        if let Err(error) = op.check(revision) {
            return Ok(Err(error));
        }
    }
    let revision = *head + 1;
    for (seq, op) in txn.ops.iter().enumerate() {
        let path = op.key().to_string();
        let value = match op {
            Op::Check(..) => continue,
            Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => {
                connection
                    .prepare_cached(
                        "INSERT INTO kv (key, value, create_rev, mod_rev) VALUES (?1, ?2, ?3, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = ?2, mod_rev = ?3",
                    )?
                    .execute(params![path, value, revision])?;
                Some(value)
            }
            Op::Delete(..) => {
                connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([&path])?;
                None
            }
        };
        connection
            .prepare_cached("INSERT INTO log (rev, seq, key, value) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![revision, seq as u64, path, value])?;
        *head = revision;
    }
    Ok(Ok(*head))
}

/// Forgets the log up to a revision, at most up to the present one.
pub(super) fn compact(connection: &mut Connection, revision: Revision) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let revision = revision.min(head(&tx)?);
    trim(&tx, revision)?;
    tx.commit()
}

fn trim(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    if revision > meta(connection, "compacted")? {
        connection.prepare_cached("DELETE FROM log WHERE rev <= ?1")?.execute([revision])?;
        set_meta(connection, "compacted", revision)?;
    }
    Ok(())
}
