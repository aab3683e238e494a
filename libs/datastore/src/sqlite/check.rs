//! Is a store whole? SQLite's own check of the pages, then ours: the checksums, and do objects, history and revisions agree.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use api::key::Key;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Row};

use super::fault::{self, Failure};
use super::schema::{self, Cursor, Object, SCHEMA};
use super::sum::Total;
use super::{files, notify};
use crate::store::{Error, Revision};

/// Problems of one sort that are told one by one.
const TOLD: usize = 100;

/// How much SQLite reads of its own structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// `PRAGMA quick_check`: the pages, but not whether indices agree with their tables.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub path: PathBuf,
    pub revision: Revision,
    /// Watches from here on have their history.
    pub compacted: Revision,
    pub objects: u64,
    /// Writes that are kept for watches.
    pub history: u64,
    /// The size of the database, and how much of it is free for what is written next.
    pub bytes: u64,
    pub free_bytes: u64,
    pub wal_bytes: u64,
    /// Empty where all is well. Each names what it is about.
    pub problems: Vec<String>,
}

/// Checks the store at a path, beside programs that use it. Changes nothing. Blocks: it reads the whole file.
///
/// # Errors
/// There is no file, it is none of ours, or it cannot be read for another reason than damage, which is in the report.
pub fn check(path: &Path, depth: Depth) -> Result<Report, Error> {
    let acknowledged = notify::acknowledged(path).revision;
    if !path.exists() {
        return Err(Error::Unavailable(format!("sqlite {}: there is no such file", path.display())));
    }
    let length = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or_default();
    let mut report = Report {
        path: path.to_path_buf(),
        bytes: length(path),
        wal_bytes: length(&files::beside(path, "-wal")),
        ..Report::default()
    };
    if report.bytes == 0 {
        report.problems.push("the file is empty".into());
        return Ok(report);
    }
    match examine(path, depth, &mut report) {
        Ok(()) => {}
        Err(failure) => match failure.damage() {
            Some(what) => report.problems.push(format!("it cannot be read to its end: {what}")),
            None => return Err(failure.into_error(path, "check")),
        },
    }
    if report.problems.is_empty()
        && let Err(error) = files::check_not_behind(path, report.revision, acknowledged)
    {
        report.problems.push(error.to_string());
    }
    Ok(report)
}

/// Opens what is there, for reading and, where that is allowed, for the locks in its `-shm`. What is in its WAL stays there.
pub(super) fn open_existing(path: &Path) -> Result<Connection, Error> {
    let wal = std::fs::metadata(files::beside(path, "-wal")).map(|m| m.len()).unwrap_or_default();
    if wal == 0 && fault::is_read_only(path) {
        // Nobody can write it, so it needs no locks, for which there is no place.
        let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        return Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)
            .map_err(|e| fault::unavailable(path, "open", &e));
    }
    let open = |access| Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    open(OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| open(OpenFlags::SQLITE_OPEN_READ_ONLY))
        .and_then(|c| {
            c.busy_timeout(fault::BUSY_TIMEOUT)?;
            c.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            Ok(c)
        })
        .map_err(|e| fault::unavailable(path, "open", &e))
}

fn examine(path: &Path, depth: Depth, report: &mut Report) -> Result<(), Failure> {
    let mut connection = open_existing(path)?;
    // One read transaction: all is about one revision.
    let tx = connection.transaction()?;
    let version = schema::check_owner(&tx, path)?;
    report.bytes = schema::file_bytes(&tx)?;
    report.free_bytes = schema::free_bytes(&tx)?;
    let pragma = match depth {
        Depth::Quick => format!("PRAGMA quick_check({TOLD})"),
        Depth::Full => format!("PRAGMA integrity_check({TOLD})"),
    };
    report.problems.extend(lines(&tx, &pragma)?.into_iter().filter(|line| line != "ok"));
    if version == 0 {
        return match notify::acknowledged(path).revision {
            0 => Err(Error::Invalid(format!("sqlite {}: the file holds no store yet", path.display())).into()),
            // All that it had was in a WAL that is lost: the caller reports that it is behind.
            _ => Ok(()),
        };
    }
    report.revision = number(&tx, "revision")?;
    report.compacted = number(&tx, "compacted")?;
    let count = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, u64>(0));
    report.objects = count("SELECT count(*) FROM kv")?;
    report.history = count("SELECT count(*) FROM log")?;
    let (revision, compacted) = (report.revision, report.compacted);
    if compacted > revision {
        report.problems.push(format!("history is compacted up to {compacted}, after the store's revision {revision}"));
        return Ok(());
    }
    let revisions = count("SELECT count(DISTINCT rev) FROM log")?;
    if revisions != revision - compacted {
        report.problems.push(format!(
            "the history from {compacted} to {revision} has the writes of {revisions} revisions, not of {}",
            revision - compacted
        ));
    }
    report.problems.extend(lines(
        &tx,
        &format!(
            "SELECT key || ' has revision ' || mod_rev || ', made at ' || create_rev || ', in a store at {revision}'
             FROM kv WHERE mod_rev > {revision} OR create_rev > mod_rev OR create_rev < 1
             UNION ALL
             SELECT key || ' has a write at revision ' || rev || ' in a history from {compacted} to {revision}'
             FROM log WHERE rev > {revision} OR rev <= {compacted}
             LIMIT {TOLD}"
        ),
    )?);
    if version == SCHEMA {
        report.problems.extend(verify(&tx, report)?);
    }
    report.problems.extend(compare(&tx, compacted)?);
    Ok(())
}

/// A number of `meta`, in tables of each version.
fn number(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}

/// Whether each row is what was written, and none is missing.
fn verify(connection: &Connection, report: &Report) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    for name in ["schema", "revision", "compacted"] {
        if let Err(failure) = schema::meta(connection, name) {
            problems.push(failure.damage().ok_or(failure)?);
        }
    }
    let mut found: BTreeMap<String, Total> = BTreeMap::new();
    let mut statement = connection.prepare(&format!("SELECT {} FROM kv NOT INDEXED", Object::COLUMNS))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let object = Object::read(row)?;
        problems.extend(object.damage().map(|what| format!("{what} is damaged: it has another checksum")));
        found.entry(schema::total_name(&String::from_utf8_lossy(object.key))).or_default().add(object.sum);
    }
    let mut kept = schema::totals(connection)?;
    kept.retain(|_, total| *total != Total::default());
    if found != kept {
        let objects = |totals: &BTreeMap<String, Total>, name: &str| totals.get(name).map_or(0, |t| t.objects);
        let names: std::collections::BTreeSet<&String> = found.keys().chain(kept.keys()).collect();
        let differing = names.into_iter().filter(|name| found.get(*name) != kept.get(*name));
        problems.extend(differing.map(|name| match (objects(&found, name), objects(&kept, name)) {
            (found, kept) if found == kept => {
                format!("of the {found} objects below {name} some are not as they were written")
            }
            (found, kept) => format!("below {name} are {found} objects, not {kept}"),
        }));
    }
    let mut cursor = Cursor::after(report.compacted);
    let mut statement =
        connection.prepare(&format!("SELECT {}, value FROM log ORDER BY rev, seq", schema::Write::COLUMNS))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let write = schema::Write::read(row)?;
        let value = if write.is_put { schema::bytes(row, 6)? } else { &[] };
        if !write.is_sound() || !write.sum.covers_value(value) {
            problems.push(format!("{} is damaged: it has another checksum", write.name()));
        }
        if !cursor.advance(&write) {
            problems.push(format!("before {} history has a gap", write.name()));
        }
    }
    if !cursor.is_at_end_of(report.revision) {
        problems.push(format!("history ends before the store's revision {}", report.revision));
    }
    problems.truncate(TOLD);
    Ok(problems)
}

/// Whether each object is what history says of it, and is one.
fn compare(connection: &Connection, compacted: Revision) -> Result<Vec<String>, Failure> {
    // The last write of each key: its revision, and whether it was no deletion.
    let mut last: HashMap<String, (Revision, bool)> = HashMap::new();
    let mut statement = connection.prepare("SELECT key, rev, value IS NOT NULL FROM log ORDER BY rev, seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        last.insert(text(row, 0)?, (row.get(1)?, row.get(2)?));
    }
    let mut problems = Vec::new();
    let mut same = connection.prepare("SELECT count(*) FROM log WHERE rev = ?1 AND key = ?2 AND value = ?3")?;
    let mut statement = connection.prepare("SELECT key, mod_rev, value FROM kv NOT INDEXED ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (key, revision): (String, Revision) = (text(row, 0)?, row.get(1)?);
        let value = schema::bytes(row, 2)?;
        if Key::parse(&key).is_none() {
            problems.push(format!("{key} is no key of this program"));
        }
        if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(value) {
            problems.push(format!("{key} holds what is no JSON: {e}"));
        }
        match last.remove(&key) {
            None if revision > compacted => {
                problems.push(format!("{key} was written at revision {revision}, which history lacks"));
            }
            None => {}
            Some((_, false)) => problems.push(format!("{key} is there, but history says that it was deleted")),
            Some((written, true)) if written != revision => {
                problems.push(format!("{key} has revision {revision}, but history says {written}"));
            }
            Some(_) if same.query_row((revision, &key, value), |row| row.get::<_, u64>(0))? == 0 => {
                problems.push(format!("{key} has another value than history says"));
            }
            Some(_) => {}
        }
        if problems.len() >= TOLD {
            return Ok(problems);
        }
    }
    let missing = last.into_iter().filter(|(_, (_, is_put))| *is_put);
    problems
        .extend(missing.map(|(key, (written, _))| format!("{key} is gone, but history has it at revision {written}")));
    problems.truncate(TOLD);
    Ok(problems)
}

/// A text, whatever its bytes are.
fn text(row: &Row, column: usize) -> Result<String, Failure> {
    schema::bytes(row, column).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn lines(connection: &Connection, sql: &str) -> Result<Vec<String>, Failure> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(text(row, 0)?);
    }
    Ok(lines)
}
