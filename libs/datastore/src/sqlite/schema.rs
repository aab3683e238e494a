//! The file: its tables, and every statement that runs on them.
//!
//! | table | columns | holds |
//! |---|---|---|
//! | `kv` | key, value, create_rev, mod_rev | the objects |
//! | `log` | rev, seq, key, value (null: deleted) | the writes after `compacted`, for watches |
//! | `meta` | name, value | `schema`, `revision`, `compacted` |

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use api::key::Key;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use super::fault::{BUSY_TIMEOUT, Failure, directory_of, unavailable};
use super::{files, notify};
use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Txn};

/// The version of the tables that this program reads and writes.
pub(super) const SCHEMA: u64 = 1;
/// Revisions whose writes are kept for watches, at most.
const KEPT_REVISIONS: Revision = 10_000;
/// Bytes of keys and values that are kept for watches, at most.
const KEPT_BYTES: u64 = 64 << 20;
/// Revisions that are kept however large their values: one commit of [`super::MAX_BATCH`] transactions.
const KEPT_ALWAYS: Revision = 64;
/// The log is trimmed each time the revision passes a multiple of this,
const TRIM_EVERY: Revision = 500;
/// and each time a process has written so much.
const TRIM_EVERY_BYTES: u64 = 8 << 20;
/// How often the process whose turn it is looks whether the lock is free. It is the only one that does.
const LOCK_POLL: Duration = Duration::from_micros(100);
/// The WAL shrinks to this when it begins anew.
const WAL_LIMIT: u64 = 16 << 20;
/// Free pages that are kept for what is written next: returning them to the file system, and asking for them again, costs more.
const KEPT_FREE_PAGES: u64 = 1024;
/// Pages that one commit returns to the file system.
const RETURNED_PAGES: u64 = 512;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL);
    CREATE TABLE log (rev INTEGER, seq INTEGER, key TEXT NOT NULL, value BLOB, PRIMARY KEY (rev, seq)) WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 0), ('compacted', 0);
";

/// Opens the file; creates directory, file and tables where missing.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(files::DIRECTORY_MODE)
            .create(directory)
            // The name must survive a power loss as the writes will.
            .and_then(|()| File::open(directory_of(directory))?.sync_all())
            .map_err(|e| {
                let (path, directory) = (path.display(), directory.display());
                Error::Unavailable(format!(
                    "sqlite {path}: cannot create the directory {directory}: {e}; run as root or set SQLITE_PATH"
                ))
            })?;
    }
    // Where that fails, SQLite fails to open it, and says more.
    let _ = files::create_private(path);
    let mut connection = Connection::open(path).map_err(|e| unavailable(path, "open", &e))?;
    prepare(&mut connection, path).map_err(|failure| failure.into_error(path, "open"))?;
    Ok(connection)
}

/// One more connection to a store that is open: creates nothing.
pub(super) fn open_again(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
        .map_err(|e| unavailable(path, "open", &e))
}

/// A connection for the thread that writes: it waits for the lock without SQLite's pauses of up to 100 ms, and leaves checkpoints
/// to [`checkpoint`].
pub(super) fn open_writer(path: &Path) -> Result<Connection, Error> {
    let mut connection = open(path)?;
    let mut give_up = Instant::now();
    let patience = move |attempt: i32| {
        if attempt == 0 {
            give_up = Instant::now() + BUSY_TIMEOUT;
        }
        std::thread::sleep(LOCK_POLL);
        Instant::now() < give_up
    };
    connection
        .busy_handler(Some(patience))
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 0))
        .and_then(|()| connection.pragma_update(None, "journal_size_limit", WAL_LIMIT))
        .map_err(|e| unavailable(path, "open", &e))?;
    Ok(connection)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Refuse what is not ours before changing anything, even the journal mode.
    check_owner(connection, path)?;
    // Where there are tables this changes nothing, but takes the write lock.
    if !has_table(connection, "meta")? {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    set_wal(connection, path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // Opening a file that has its tables takes no write lock: it must not wait for writers.
    if has_table(connection, "meta")? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    if !has_table(&tx, "meta")? {
        tx.execute_batch(TABLES)?;
        tx.execute("INSERT INTO meta VALUES ('schema', ?1)", [SCHEMA])?;
        // Where the file was removed to begin anew, who followed the old one must not take its revisions for new ones. A file that
        // was not removed and has no tables has lost them with its WAL.
        let acknowledged = notify::acknowledged(path);
        if !acknowledged.may_begin_anew {
            files::check_not_behind(path, 0, acknowledged.revision)?;
        }
        begin_new_life(&tx, acknowledged.revision)?;
    }
    tx.commit()?;
    check_owner(connection, path)
}

/// Continues at a revision, without history.
pub(super) fn begin_new_life(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM log", [])?;
    set_meta(connection, "revision", revision)?;
    set_meta(connection, "compacted", revision)
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
}

/// Refuses a database of another program, and one of a newer version of this.
pub(super) fn check_owner(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let tables: u64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(());
    }
    let path = path.display();
    let read = || connection.query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| row.get::<_, u64>(0));
    let schema = match has_table(connection, "meta")?.then(read).transpose() {
        Ok(schema) => schema,
        // A table of this name with other columns, or other values. Damage is another matter.
        Err(e) if matches!(e.sqlite_error_code(), None | Some(ErrorCode::Unknown)) => None,
        Err(e) => return Err(e.into()),
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
fn set_wal(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e.into()),
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => {
                return Err(Failure::Store(Error::Invalid(format!(
                    "sqlite {}: the file system gives no shared memory, so the journal stays in mode {mode} and processes cannot \
                     share the file; set SQLITE_PATH to a local file system",
                    path.display()
                ))));
            }
        }
    }
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
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

pub(super) fn list(
    path: &Path,
    connection: &mut Connection,
    prefix: &str,
    floor: Revision,
) -> Result<Listing, Failure> {
    // One read transaction: the objects and the revision belong together.
    let tx = connection.transaction()?;
    let revision = head(&tx)?;
    check_not_back(path, revision, floor)?;
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

const END_OF_REVISION: u64 = i64::MAX as u64;

/// Where a watch stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    revision: Revision,
    seq: u64,
}

impl Cursor {
    /// After everything of a revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self { revision, seq: END_OF_REVISION }
    }

    /// Whether more writes of the same revision may follow.
    fn is_within(self) -> bool {
        self.seq != END_OF_REVISION
    }
}

/// A part of the log.
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) cursor: Cursor,
    /// Nothing followed when this was read.
    pub(super) is_last: bool,
}

/// How much one read of the log returns at most; one event is always read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) events: u64,
    pub(super) bytes: usize,
}

/// What was written to a range after the cursor.
pub(super) fn events(connection: &mut Connection, prefix: &str, cursor: Cursor, limit: Limit) -> Result<Page, Failure> {
    let tx = connection.transaction()?;
    let head = head(&tx)?;
    // A revision from the future is one of another life of this file: its history is gone too.
    // So is the rest of a transaction that was read in part.
    let compacted = meta(&tx, "compacted")?;
    let is_gone = cursor.revision < compacted || (cursor.revision == compacted && cursor.is_within());
    if is_gone || cursor.revision > head {
        return Err(Failure::Store(Error::Compacted(cursor.revision)));
    }
    let mut page = Page { events: Vec::new(), cursor, is_last: false };
    {
        let mut statement = tx.prepare_cached(
            "SELECT rev, seq, key, value FROM log
             WHERE (rev, seq) > (?1, ?2) AND key >= ?3 AND key < ?4 ORDER BY rev, seq LIMIT ?5",
        )?;
        let mut rows = statement.query(params![cursor.revision, cursor.seq, prefix, end_of(prefix), limit.events])?;
        let (mut read, mut bytes) = (0, 0);
        let mut is_cut = false;
        while let Some(row) = rows.next()? {
            // The row is left unread, and its value with it.
            if bytes >= limit.bytes {
                is_cut = true;
                break;
            }
            read += 1;
            let revision = row.get(0)?;
            page.cursor = Cursor { revision, seq: row.get(1)? };
            let Some(key) = Key::parse(row.get_ref(2)?.as_str().unwrap_or_default()) else {
                continue;
            };
            page.events.push(match row.get::<_, Option<Vec<u8>>>(3)? {
                Some(value) => {
                    bytes += value.len();
                    Event::Put(KeyValue { key, value, mod_revision: revision })
                }
                None => Event::Delete { key, revision },
            });
        }
        page.is_last = !is_cut && read < limit.events;
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
    pub(super) has_trimmed: bool,
}

/// Takes the write lock.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// Runs transactions one after another under one lock and one commit. A transaction whose condition fails writes nothing and
/// does not touch the others. `unkept` counts what this process has written since it last trimmed the log.
pub(super) fn commit<'a>(
    path: &Path,
    tx: Transaction,
    txns: impl Iterator<Item = &'a Txn>,
    floor: Revision,
    unkept: &mut u64,
) -> Result<Batch, Failure> {
    let before = head(&tx)?;
    check_not_back(path, before, floor)?;
    let mut revision = before;
    let mut outcomes = Vec::new();
    for txn in txns {
        outcomes.push(apply(&tx, txn, &mut revision)?);
        *unkept += bytes_of(txn);
    }
    let mut batch = Batch { outcomes, head: revision, has_written: revision != before, has_trimmed: false };
    if batch.has_written {
        set_meta(&tx, "revision", revision)?;
        if revision / TRIM_EVERY != before / TRIM_EVERY || *unkept >= TRIM_EVERY_BYTES {
            let last_forgotten = oldest_kept(&tx, revision)?;
            trim(&tx, last_forgotten)?;
            *unkept = 0;
            batch.has_trimmed = true;
        }
        tx.commit().map_err(Failure::AtCommit)?;
    }
    Ok(batch)
}

/// Refuses a file whose revision went back under a running program: somebody copied another over it.
pub(super) fn check_not_back(path: &Path, head: Revision, known: Revision) -> Result<(), Error> {
    if head >= known {
        return Ok(());
    }
    Err(Error::Unavailable(format!(
        "sqlite {}: the file is at revision {head}, but was at {known}: another file was copied over it while in use; stop every \
         program of Tortie on this host, and restore a backup: `calicoctl datastore sqlite restore BACKUP`",
        path.display()
    )))
}

fn bytes_of(txn: &Txn) -> u64 {
    let bytes = txn.ops.iter().map(|op| match op {
        Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => value.len(),
        Op::Delete(..) | Op::Check(..) => 0,
    });
    bytes.sum::<usize>() as u64
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
pub(super) fn compact(connection: &mut Connection, revision: Revision) -> Result<(), Failure> {
    let tx = begin(connection)?;
    let revision = revision.min(head(&tx)?);
    trim(&tx, revision)?;
    tx.commit().map_err(Failure::AtCommit)
}

/// The last revision to forget, so that the log stays within its bounds.
fn oldest_kept(connection: &Connection, head: Revision) -> rusqlite::Result<Revision> {
    let by_count = head.saturating_sub(KEPT_REVISIONS);
    // The usual store is smaller than its log may be.
    if file_bytes(connection)? <= KEPT_BYTES {
        return Ok(by_count);
    }
    // SQLite takes the lengths from the rows' headers, without reading the values.
    let mut statement = connection
        .prepare_cached("SELECT rev, length(key) + ifnull(length(value), 0) FROM log ORDER BY rev DESC, seq DESC")?;
    let mut rows = statement.query([])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += row.get::<_, u64>(1)?;
        let revision: Revision = row.get(0)?;
        if bytes > KEPT_BYTES && revision + KEPT_ALWAYS <= head {
            return Ok(by_count.max(revision));
        }
    }
    Ok(by_count)
}

fn trim(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    if revision > meta(connection, "compacted")? {
        connection.prepare_cached("DELETE FROM log WHERE rev <= ?1")?.execute([revision])?;
        set_meta(connection, "compacted", revision)?;
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// How large the database is, what is in the WAL included.
pub(super) fn file_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(pragma(connection, "page_count")? * pragma(connection, "page_size")?)
}

/// How much of the database is free for what is written next.
pub(super) fn free_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(pragma(connection, "freelist_count")? * pragma(connection, "page_size")?)
}

/// Returns some of the free pages to the file system where a quarter of the file is free.
pub(super) fn return_pages(connection: &Connection) -> rusqlite::Result<()> {
    let free = pragma(connection, "freelist_count")?;
    if free > KEPT_FREE_PAGES && free > pragma(connection, "page_count")? / 4 {
        connection.execute_batch(&format!("PRAGMA incremental_vacuum({RETURNED_PAGES})"))?;
    }
    Ok(())
}

/// Copies what is in the WAL into the database, as far as readers allow; waits for nobody.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
