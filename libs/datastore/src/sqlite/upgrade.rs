//! From the tables of version 1, which had no checksums, to those of this one: in one transaction, or not at all.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};

use super::fault::Failure;
use super::schema::{self, SCHEMA};
use super::sum::{Sum, Total};

/// Reads the old tables and writes the new ones. What is damaged must not get a checksum that says it is sound: SQLite's own check
/// comes first, and each object is compared with what history says of it.
pub(super) fn from_1(tx: &Transaction) -> Result<(), Failure> {
    let found: String = tx.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Failure::damaged(format!("the database ({})", found.replace('\n', " "))));
    }
    let differs = "SELECT kv.key FROM kv JOIN log ON log.rev = kv.mod_rev AND log.key = kv.key
                   WHERE log.value IS NOT kv.value LIMIT 1";
    if let Some(row) = tx.prepare(differs)?.query([])?.next()? {
        return Err(Failure::damaged(format!("the value of {}", String::from_utf8_lossy(schema::bytes(row, 0)?))));
    }
    let old = |name: &str| tx.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get::<_, u64>(0));
    let (revision, compacted) = (old("revision")?, old("compacted")?);
    let kept: u64 = tx.query_row("SELECT count(DISTINCT rev) FROM log", [], |row| row.get(0))?;
    if compacted.checked_add(kept) != Some(revision) {
        return Err(Failure::damaged(format!("the history from {compacted} to {revision}")));
    }
    tx.execute_batch(
        "ALTER TABLE meta RENAME TO old_meta; ALTER TABLE kv RENAME TO old_kv; ALTER TABLE log RENAME TO old_log;",
    )?;
    tx.execute_batch(schema::TABLES)?;
    schema::set_meta(tx, "schema", SCHEMA)?;
    schema::set_meta(tx, "revision", revision)?;
    schema::set_meta(tx, "compacted", compacted)?;
    copy_objects(tx)?;
    copy_writes(tx)?;
    tx.execute_batch("DROP TABLE old_meta; DROP TABLE old_kv; DROP TABLE old_log;")?;
    Ok(())
}

fn copy_objects(tx: &Transaction) -> Result<(), Failure> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut put = tx.prepare("INSERT INTO kv (key, create_rev, mod_rev, sum, value) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut statement = tx.prepare("SELECT key, create_rev, mod_rev, value FROM old_kv ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (key, created, modified): (String, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let value = schema::bytes(row, 3)?;
        let sum = Sum::of(key.as_bytes(), &[created, modified], value);
        put.execute(params![key, created, modified, sum, value])?;
        totals.entry(schema::total_name(&key)).or_default().add(sum);
    }
    for (name, total) in totals {
        schema::change_total(tx, &name, total)?;
    }
    Ok(())
}

/// `seq` had gaps where a transaction only checked a key; now a gap is damage.
fn copy_writes(tx: &Transaction) -> Result<(), Failure> {
    let mut statement = tx.prepare(
        "SELECT rev, row_number() OVER (PARTITION BY rev ORDER BY seq) - 1, count(*) OVER (PARTITION BY rev), key, value
         FROM old_log ORDER BY rev, seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (revision, seq, all, key): (u64, u64, u64, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let value: Option<Vec<u8>> = row.get(4)?;
        schema::put_write(tx, &key, value.as_deref(), revision, seq, all - 1 - seq)?;
    }
    Ok(())
}
