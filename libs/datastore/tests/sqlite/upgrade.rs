//! Stores of version 1, which had no checksums: opened, checked, backed up and restored.

use std::path::Path;
use std::time::Duration;

use api::key::KeyRange;
use datastore::sqlite::{self, Depth, SqliteStore};
use datastore::{Error, Event};
use futures::StreamExt;

use crate::files::assert_names;
use crate::process::start;
use crate::{handle, open};

const TABLES: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL);
    CREATE TABLE log (rev INTEGER, seq INTEGER, key TEXT NOT NULL, value BLOB, PRIMARY KEY (rev, seq)) WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 5), ('compacted', 2), ('schema', 1);
    INSERT INTO kv VALUES ('/calico/ipam/v2/handle/a', CAST('1' AS BLOB), 1, 1),
                          ('/calico/ipam/v2/handle/b', CAST('3' AS BLOB), 2, 3),
                          ('/tortie/election/c', CAST('4' AS BLOB), 4, 4);
    INSERT INTO log VALUES (3, 1, '/calico/ipam/v2/handle/b', CAST('3' AS BLOB)),
                           (4, 0, '/tortie/election/c', CAST('4' AS BLOB)),
                           (4, 3, '/calico/ipam/v2/handle/d', CAST('4' AS BLOB)),
                           (5, 0, '/calico/ipam/v2/handle/d', NULL);
";

fn make(path: &Path, more: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(TABLES).unwrap();
    connection.execute_batch(more).unwrap();
}

/// `count` more objects, each with its write.
fn grow(count: u32) -> String {
    format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
         INSERT INTO log SELECT 5 + n, 0, '/calico/ipam/v2/handle/more-' || n, CAST('\"' || hex(zeroblob(300)) || '\"' AS BLOB)
                         FROM n;
         INSERT INTO kv SELECT key, value, rev, rev FROM log WHERE rev > 5;
         UPDATE meta SET value = 5 + {count} WHERE name = 'revision';"
    )
}

#[tokio::test]
async fn a_store_of_version_1_is_taken_over_with_its_history() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    make(&path, "");
    let old = sqlite::check(&path, Depth::Full).unwrap();
    assert_eq!((old.problems.len(), old.revision, old.objects, old.history), (0, 5, 3, 4));

    let store = open(&path).await;
    let listing = store.list(&KeyRange::All).await.unwrap();
    let items: Vec<_> =
        listing.items.iter().map(|kv| (kv.key.to_string(), kv.value.as_slice(), kv.mod_revision)).collect();
    let handle_of = |name: &str| handle(name).to_string();
    assert_eq!(
        items,
        [(handle_of("a"), &b"1"[..], 1), (handle_of("b"), b"3", 3), ("/tortie/election/c".into(), b"4", 4)]
    );
    assert_eq!(listing.revision, 5);
    let mut watch = store.watch(&KeyRange::Handles, 2).await.unwrap();
    for expected in [(3, true), (4, true), (5, false)] {
        let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((event.revision(), matches!(event, Event::Put(_))), expected);
    }
    assert!(matches!(store.watch(&KeyRange::Handles, 1).await, Err(Error::Compacted(_))));
    assert_eq!(store.update(handle("b"), b"6".into(), 3).await.unwrap(), 6);
    store.delete(handle("a"), None).await.unwrap();
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
    let schema = "SELECT value FROM meta WHERE name = 'schema'";
    let connection = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(connection.query_row(schema, [], |row| row.get::<_, u64>(0)).unwrap(), 2);
}

/// Killed within it, the store is as it was, or as it shall be.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_killed_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    make(&path, &grow(5000));
    let mut killed = 0;
    for round in 1..12_u64 {
        let mut child = start("try", &path);
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        child.kill();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
        let tables = count("SELECT count(*) FROM sqlite_schema WHERE type = 'table'");
        assert_eq!(tables, 3, "round {round}: no table of both");
        assert!(count("SELECT count(*) FROM kv") >= 5003);
        if count("SELECT value FROM meta WHERE name = 'schema'") == 2 {
            break;
        }
        killed += 1;
    }
    println!("{killed} were killed before the end");
    let store = open(&path).await;
    assert!(store.list(&KeyRange::Handles).await.unwrap().items.len() >= 5002);
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_start_together_upgrade_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    make(&path, &grow(1000));
    let mut children: Vec<_> = (0..4).map(|_| start("try", &path)).collect();
    for child in &mut children {
        assert_eq!(child.line("outcome").unwrap(), "written");
    }
    let report = sqlite::check(&path, Depth::Full).unwrap();
    assert_eq!((report.problems.len(), report.objects, report.revision), (0, 1004, 1009));
}

/// A checksum of what is damaged would say that it is sound.
#[tokio::test]
async fn what_is_damaged_is_not_taken_over() {
    for (damage, what) in [
        ("UPDATE kv SET value = CAST('7' AS BLOB) WHERE mod_rev = 3", "value of /calico/ipam/v2/handle/b is damaged"),
        ("DELETE FROM log WHERE rev = 3", "the history from 2 to 5 is damaged"),
        ("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'kv'", "damaged"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        make(&path, damage);
        let Err(error) = SqliteStore::open(&path).await else { panic!("{damage}: it was opened") };
        assert_names(&error.to_string(), &[path.to_str().unwrap(), what, "restore BACKUP"]);
        let schema = "SELECT value FROM meta WHERE name = 'schema'";
        let connection = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(connection.query_row(schema, [], |row| row.get::<_, u64>(0)).unwrap(), 1, "{damage}: it is left");
    }
}

#[tokio::test]
async fn a_backup_of_version_1_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    make(&at("old.db"), "");
    sqlite::backup(&at("old.db"), &at("backup.db")).unwrap();
    // In place of what is there, beside a program that has it open; and where there is nothing.
    let store = open(&at("store.db")).await;
    store.put(handle("gone"), b"1".into()).await.unwrap();
    for path in [at("store.db"), at("new.db")] {
        let restored = sqlite::restore(&path, &at("backup.db")).unwrap();
        assert_eq!((restored.report.problems.len(), restored.report.objects), (0, 3));
        let found = open(&path).await.list(&KeyRange::Handles).await.unwrap().items;
        assert_eq!(found.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), [handle("a"), handle("b")]);
    }
    assert_eq!(store.get(&handle("gone")).await.unwrap(), None);
    assert_eq!(sqlite::check(&at("backup.db"), Depth::Full).unwrap().revision, 5, "the backup is as it was");
    let left = std::fs::read_dir(directory.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|f| f.file_name()).filter(|f| f.to_string_lossy().contains("converted")).collect();
    assert!(left.is_empty(), "{left:?}");
}
