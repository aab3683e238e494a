//! The file: its tables, and every statement that runs on them.
//!
//! | table | columns | holds |
//! |---|---|---|
//! | `kv` | key, create_rev, mod_rev, sum, value | the objects |
//! | `log` | rev, seq, more, sum, key, value (null: deleted) | the writes after `compacted`, for watches; `more` follow in `rev` |
//! | `meta` | name, value, sum | `schema`, `revision`, `compacted`; and by prefix how many objects there are, and their sum |
//!
//! `sum` is the row's [`Sum`], verified wherever the row is read. That no row is missing is known otherwise: a listing has the
//! [`Total`] of its prefix, writes follow each other without a gap, and a key that `kv_key` does not find is looked up in
//! `kv_again`, which is an index like it on pages of its own.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use api::key::{AffinityOwner, Key, KeyRange, ROOTS};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::fault::{BUSY_TIMEOUT, Failure, directory_of, unavailable};
use super::sum::{Sum, Total};
use super::{files, notify, upgrade};
use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Txn};

/// The version of the tables that this program reads and writes.
pub(super) const SCHEMA: u64 = 2;
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

pub(super) const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE kv (key TEXT NOT NULL, create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL, sum INTEGER NOT NULL,
                     value BLOB NOT NULL);
    CREATE UNIQUE INDEX kv_key ON kv (key);
    CREATE INDEX kv_again ON kv (key);
    CREATE TABLE log (rev INTEGER, seq INTEGER, more INTEGER NOT NULL, sum INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
                      PRIMARY KEY (rev, seq)) WITHOUT ROWID;
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
    if check_owner(connection, path)? == SCHEMA {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    match check_owner(&tx, path)? {
        SCHEMA => {}
        0 => {
            tx.execute_batch(TABLES)?;
            // Where the file was removed to begin anew, who followed the old one must not take its revisions for new ones. A file
            // that was not removed and has no tables has lost them with its WAL.
            let acknowledged = notify::acknowledged(path);
            if !acknowledged.may_begin_anew {
                files::check_not_behind(path, 0, acknowledged.revision)?;
            }
            set_meta(&tx, "schema", SCHEMA)?;
            begin_new_life(&tx, acknowledged.revision)?;
        }
        _ => upgrade::from_1(&tx)?,
    }
    tx.commit()?;
    check_owner(connection, path).map(drop)
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

/// Refuses a database of another program, and one of a newer version of this. The version of the tables; 0 where there are none.
pub(super) fn check_owner(connection: &Connection, path: &Path) -> Result<u64, Failure> {
    let tables: u64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(0);
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
        Some(schema @ 1..=SCHEMA) => Ok(schema),
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

pub(super) fn meta(connection: &Connection, name: &str) -> Result<u64, Failure> {
    let mut statement = connection.prepare_cached("SELECT value, sum FROM meta WHERE name = ?1")?;
    let (value, sum) = statement.query_row([name], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Sum>(1)?)))?;
    match sum == Sum::of(name.as_bytes(), &[value], &[]) {
        true => Ok(value),
        false => Err(Failure::damaged(format!("the store's {name}"))),
    }
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    put_meta(connection, name, value.cast_signed(), Sum::of(name.as_bytes(), &[value], &[]))
}

fn put_meta(connection: &Connection, name: &str, value: i64, sum: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value, sum) VALUES (?1, ?2, ?3)
               ON CONFLICT (name) DO UPDATE SET value = ?2, sum = ?3";
    connection.prepare_cached(sql)?.execute(params![name, value, sum]).map(drop)
}

/// The range whose total a key is counted in.
fn counted_in(key: &Key) -> KeyRange {
    match key {
        Key::Resource { kind, .. } => KeyRange::Kind(*kind),
        Key::IpamBlock(_) => KeyRange::Blocks,
        Key::BlockAffinity(AffinityOwner::Host(_), _) => KeyRange::HostAffinities,
        Key::BlockAffinity(AffinityOwner::Virtual(_), _) => KeyRange::VirtualAffinities,
        Key::IpamHandle(_) => KeyRange::Handles,
        Key::IpamConfig => KeyRange::IpamConfig,
        Key::Election(_) => KeyRange::Elections,
    }
}

/// As the total of a key is named in `meta`.
pub(super) fn total_name(key: &str) -> String {
    Key::parse(key).map_or_else(|| "/".into(), |key| counted_in(&key).prefix())
}

/// What is kept as the total of a range; `None` for one that is a part of another.
fn kept_total(connection: &Connection, range: &KeyRange) -> rusqlite::Result<Option<Total>> {
    match range {
        KeyRange::Namespace(..) | KeyRange::AffinitiesOf(_) => Ok(None),
        KeyRange::All => {
            let mut all = Total::default();
            totals(connection)?.into_values().for_each(|total| all.join(total));
            Ok(Some(all))
        }
        _ => read_total(connection, &range.prefix()).map(Some),
    }
}

fn read_total(connection: &Connection, name: &str) -> rusqlite::Result<Total> {
    let mut statement = connection.prepare_cached("SELECT value, sum FROM meta WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| total_in(row, 0)).optional()?.unwrap_or_default())
}

fn total_in(row: &Row, column: usize) -> rusqlite::Result<Total> {
    let (objects, sum): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
    Ok(Total { objects: objects.cast_unsigned(), sum: sum.cast_unsigned() })
}

/// All totals, by their names.
pub(super) fn totals(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Total>> {
    let mut statement = connection.prepare_cached("SELECT name, value, sum FROM meta WHERE name LIKE '/%'")?;
    let totals = statement.query_map([], |row| Ok((row.get(0)?, total_in(row, 1)?)))?;
    totals.collect()
}

/// Adds a difference to a total.
pub(super) fn change_total(connection: &Connection, name: &str, difference: Total) -> rusqlite::Result<()> {
    let mut total = read_total(connection, name)?;
    total.join(difference);
    put_meta(connection, name, total.objects.cast_signed(), total.sum.cast_signed())
}

/// The revision of the last commit.
pub(super) fn head(connection: &Connection) -> Result<Revision, Failure> {
    meta(connection, "revision")
}

/// The bytes of a text or a blob.
pub(super) fn bytes<'r>(row: &'r Row, column: usize) -> Result<&'r [u8], Failure> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
        _ => Err(Failure::damaged("a row of another form".into())),
    }
}

/// A row of `kv`; not yet verified.
pub(super) struct Object<'r> {
    pub(super) key: &'r [u8],
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) sum: Sum,
    pub(super) value: &'r [u8],
}

impl<'r> Object<'r> {
    pub(super) const COLUMNS: &'static str = "key, create_rev, mod_rev, sum, value";

    pub(super) fn read(row: &'r Row) -> Result<Self, Failure> {
        let (created, modified, sum) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(Self { key: bytes(row, 0)?, created, modified, sum, value: bytes(row, 4)? })
    }

    /// What is wrong with it.
    pub(super) fn damage(&self) -> Option<String> {
        let name = || String::from_utf8_lossy(self.key);
        match self.sum.covers_head(self.key, &[self.created, self.modified]) {
            false => Some(format!("the row of {}", name())),
            true if !self.sum.covers_value(self.value) => Some(format!("the value of {}", name())),
            true => None,
        }
    }

    fn verified(self) -> Result<Self, Failure> {
        self.damage().map_or(Ok(self), |what| Err(Failure::damaged(what)))
    }
}

pub(super) fn get(connection: &Connection, key: &Key) -> Result<Option<KeyValue>, Failure> {
    let sql = format!("SELECT {} FROM kv INDEXED BY kv_key WHERE key = ?1", Object::COLUMNS);
    let (mut statement, name) = (connection.prepare_cached(&sql)?, key.to_string());
    let mut rows = statement.query([&name])?;
    let Some(row) = rows.next()? else {
        return check_absent(connection, &name).map(|()| None);
    };
    let object = Object::read(row)?.verified()?;
    Ok(Some(KeyValue { key: key.clone(), value: object.value.to_vec(), mod_revision: object.modified }))
}

/// Whether a key that was not found is not there: a damaged page of the index may have hidden it.
fn check_absent(connection: &Connection, key: &str) -> Result<(), Failure> {
    let mut again = connection.prepare_cached("SELECT count(*) FROM kv INDEXED BY kv_again WHERE key = ?1")?;
    match again.query_row([key], |row| row.get::<_, u64>(0))? {
        0 => Ok(()),
        _ => Err(Failure::damaged(format!("what leads to {key}"))),
    }
}

/// What is below Calico's root and ours and is no key: of a newer program.
pub(super) fn foreign_paths(connection: &Connection) -> Result<Vec<String>, Failure> {
    let mut paths = Vec::new();
    for root in ROOTS {
        let mut statement = connection
            .prepare_cached("SELECT key FROM kv INDEXED BY kv_key WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let mut rows = statement.query([root, &end_of(root)])?;
        while let Some(row) = rows.next()? {
            let path = String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned();
            paths.extend(Some(path).filter(|path| Key::parse(path).is_none()));
        }
    }
    Ok(paths)
}

pub(super) fn list(
    path: &Path,
    connection: &mut Connection,
    range: &KeyRange,
    floor: Revision,
) -> Result<Listing, Failure> {
    let prefix = range.prefix();
    // One read transaction: the objects and the revision belong together.
    let tx = connection.transaction()?;
    let revision = head(&tx)?;
    check_not_back(path, revision, floor)?;
    let (mut items, mut found) = (Vec::new(), Total::default());
    {
        let columns = Object::COLUMNS;
        let mut statement = tx.prepare_cached(&format!(
            "SELECT {columns} FROM kv INDEXED BY kv_key WHERE key >= ?1 AND key < ?2 ORDER BY key"
        ))?;
        let mut rows = statement.query([&prefix, &end_of(&prefix)])?;
        let mut last = Vec::new();
        while let Some(row) = rows.next()? {
            let object = Object::read(row)?.verified()?;
            if object.key <= last.as_slice() {
                return Err(Failure::damaged(format!("the order of the objects below {prefix}")));
            }
            last.clear();
            last.extend_from_slice(object.key);
            found.add(object.sum);
            // Other keys are of others.
            if let Some(key) = std::str::from_utf8(object.key).ok().and_then(Key::parse) {
                items.push(KeyValue { key, value: object.value.to_vec(), mod_revision: object.modified });
            }
        }
    }
    let is_whole = match kept_total(&tx, range)? {
        Some(kept) => kept == found,
        None => {
            let mut again =
                tx.prepare_cached("SELECT count(*) FROM kv INDEXED BY kv_again WHERE key >= ?1 AND key < ?2")?;
            again.query_row([&prefix, &end_of(&prefix)], |row| row.get::<_, u64>(0))? == found.objects
        }
    };
    match is_whole {
        true => Ok(Listing { items, revision }),
        false => Err(Failure::damaged(format!("what leads to the objects below {prefix}"))),
    }
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
    /// How many writes of the same revision follow.
    more: u64,
}

impl Cursor {
    /// After everything of a revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self { revision, seq: END_OF_REVISION, more: 0 }
    }

    /// Moves on to the next write; says whether it is that, with none between.
    pub(super) fn advance(&mut self, write: &Write) -> bool {
        let last = std::mem::replace(self, Self { revision: write.revision, seq: write.seq, more: write.more });
        match last.more {
            0 => write.revision == last.revision + 1 && write.seq == 0,
            more => (write.revision, write.seq, write.more + 1) == (last.revision, last.seq + 1, more),
        }
    }

    /// Whether nothing follows it up to this revision.
    pub(super) fn is_at_end_of(self, head: Revision) -> bool {
        self.revision == head && self.more == 0
    }
}

/// A row of `log`; not yet verified, and without the value.
pub(super) struct Write<'r> {
    pub(super) revision: Revision,
    pub(super) seq: u64,
    pub(super) more: u64,
    pub(super) sum: Sum,
    pub(super) key: &'r [u8],
    pub(super) is_put: bool,
}

impl<'r> Write<'r> {
    /// SQLite takes the length from the row's header, without reading the value.
    pub(super) const COLUMNS: &'static str = "rev, seq, more, sum, key, length(value)";

    pub(super) fn read(row: &'r Row) -> Result<Self, Failure> {
        let is_put = row.get::<_, Option<u64>>(5)?.is_some();
        let (revision, seq, more, sum) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(Self { revision, seq, more, sum, key: bytes(row, 4)?, is_put })
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sum.covers_head(self.key, &write_numbers(self.revision, self.seq, self.more, self.is_put))
    }

    pub(super) fn name(&self) -> String {
        format!("the write of {} at revision {}", String::from_utf8_lossy(self.key), self.revision)
    }
}

fn write_numbers(revision: Revision, seq: u64, more: u64, is_put: bool) -> [u64; 4] {
    [revision, seq, more, u64::from(is_put)]
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
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// What was written to a range after the cursor.
pub(super) fn events(connection: &mut Connection, prefix: &str, cursor: Cursor, limit: Limit) -> Result<Page, Failure> {
    let tx = connection.transaction()?;
    let head = head(&tx)?;
    // A revision from the future is one of another life of this file: its history is gone too.
    // So is the rest of a transaction that was read in part.
    let compacted = meta(&tx, "compacted")?;
    let is_gone = cursor.revision < compacted || (cursor.revision == compacted && cursor.more > 0);
    if is_gone || cursor.revision > head {
        return Err(Failure::Store(Error::Compacted(cursor.revision)));
    }
    let mut page = Page { events: Vec::new(), cursor, is_last: true };
    // Every write is looked at: one that is missing would be of another range, or of this.
    let columns = Write::COLUMNS;
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {columns}, key >= ?3 AND key < ?4, CASE WHEN key >= ?3 AND key < ?4 THEN value END
         FROM log WHERE (rev, seq) > (?1, ?2) ORDER BY rev, seq"
    ))?;
    let mut rows = statement.query(params![cursor.revision, cursor.seq, prefix, end_of(prefix)])?;
    let mut bytes_read = 0;
    while let Some(row) = rows.next()? {
        if page.events.len() >= limit.events || bytes_read >= limit.bytes {
            page.is_last = false;
            break;
        }
        let write = Write::read(row)?;
        if !write.is_sound() || !page.cursor.advance(&write) {
            return Err(Failure::damaged(write.name()));
        }
        let (true, Some(key)) = (row.get(6)?, std::str::from_utf8(write.key).ok().and_then(Key::parse)) else {
            continue;
        };
        page.events.push(match write.is_put {
            false => Event::Delete { key, revision: write.revision },
            true => {
                let value = bytes(row, 7)?;
                if !write.sum.covers_value(value) {
                    return Err(Failure::damaged(write.name()));
                }
                bytes_read += value.len();
                Event::Put(KeyValue { key, value: value.to_vec(), mod_revision: write.revision })
            }
        });
    }
    match page.is_last && !page.cursor.is_at_end_of(head) {
        true => Err(Failure::damaged(format!("the history up to revision {head}"))),
        false => Ok(page),
    }
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
    let mut totals = BTreeMap::new();
    for txn in txns {
        outcomes.push(match apply(&tx, txn, &mut revision, &mut totals) {
            // Found before anything was written: the other transactions have no part in it.
            Err(damage @ Failure::Damaged(_)) => Err(damage.into_error(path, "write")),
            outcome => outcome?,
        });
        *unkept += bytes_of(txn);
    }
    let mut batch = Batch { outcomes, head: revision, has_written: revision != before, has_trimmed: false };
    if batch.has_written {
        set_meta(&tx, "revision", revision)?;
        for (range, difference) in totals {
            change_total(&tx, &range, difference)?;
        }
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

/// An object that is there, without its value.
struct Present {
    created: Revision,
    modified: Revision,
    sum: Sum,
}

fn present(connection: &Connection, key: &str) -> Result<Option<Present>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT create_rev, mod_rev, sum FROM kv INDEXED BY kv_key WHERE key = ?1")?;
    let read = |row: &Row| Ok(Present { created: row.get(0)?, modified: row.get(1)?, sum: row.get(2)? });
    let Some(present) = statement.query_row([key], read).optional()? else {
        return check_absent(connection, key).map(|()| None);
    };
    match present.sum.covers_head(key.as_bytes(), &[present.created, present.modified]) {
        true => Ok(Some(present)),
        false => Err(Failure::damaged(format!("the row of {key}"))),
    }
}

/// Checks every condition, then writes: [`Failure::Damaged`] has written nothing.
fn apply(
    connection: &Connection,
    txn: &Txn,
    head: &mut Revision,
    totals: &mut BTreeMap<String, Total>,
) -> Result<Result<Revision, Error>, Failure> {
    let mut before = Vec::with_capacity(txn.ops.len());
    for op in &txn.ops {
        let key = op.key().to_string();
        let present = present(connection, &key)?;
        if let Err(error) = op.check(present.as_ref().map(|p| p.modified)) {
            return Ok(Err(error));
        }
        if !matches!(op, Op::Check(..)) {
            before.push((op, key, present));
        }
    }
    let revision = *head + 1;
    let mut more = before.len() as u64;
    for (seq, (op, key, present)) in before.into_iter().enumerate() {
        more -= 1;
        let value = match op {
            Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => Some(value.as_slice()),
            Op::Delete(..) | Op::Check(..) => None,
        };
        let total = totals.entry(counted_in(op.key()).prefix()).or_default();
        put_object(connection, &key, value, present.as_ref(), revision, total)?;
        put_write(connection, &key, value, revision, seq as u64, more)?;
        *head = revision;
    }
    Ok(Ok(*head))
}

fn put_object(
    connection: &Connection,
    key: &str,
    value: Option<&[u8]>,
    present: Option<&Present>,
    revision: Revision,
    total: &mut Total,
) -> rusqlite::Result<()> {
    let created = present.map_or(revision, |present| present.created);
    let sum = value.map(|value| Sum::of(key.as_bytes(), &[created, revision], value));
    let changed = match (sum, present) {
        (Some(sum), None) => connection
            .prepare_cached("INSERT INTO kv (key, create_rev, mod_rev, sum, value) VALUES (?1, ?2, ?2, ?3, ?4)")?
            .execute(params![key, revision, sum, value])?,
        (Some(sum), Some(_)) => connection
            .prepare_cached("UPDATE kv INDEXED BY kv_key SET mod_rev = ?2, sum = ?3, value = ?4 WHERE key = ?1")?
            .execute(params![key, revision, sum, value])?,
        (None, Some(_)) => {
            connection.prepare_cached("DELETE FROM kv INDEXED BY kv_key WHERE key = ?1")?.execute([key])?
        }
        (None, None) => 1,
    };
    if let Some(present) = present {
        total.remove(present.sum);
    }
    if let Some(sum) = sum {
        total.add(sum);
    }
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(changed)) }
}

/// One more write in the history.
pub(super) fn put_write(
    connection: &Connection,
    key: &str,
    value: Option<&[u8]>,
    revision: Revision,
    seq: u64,
    more: u64,
) -> rusqlite::Result<()> {
    let numbers = write_numbers(revision, seq, more, value.is_some());
    let sum = Sum::of(key.as_bytes(), &numbers, value.unwrap_or_default());
    connection
        .prepare_cached("INSERT INTO log (rev, seq, more, sum, key, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![revision, seq, more, sum, key, value])
        .map(drop)
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

fn trim(connection: &Connection, revision: Revision) -> Result<(), Failure> {
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
