//! Backups while writers write, and what a restored store is to those who knew the old one.

use std::collections::BTreeMap;
use std::time::Duration;

use api::key::KeyRange;
use datastore::sqlite::{self, Depth, SqliteStore};
use datastore::watcher::{self, Update};
use datastore::{Error, Store};

use crate::process::start;
use crate::{handle, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_writers_is_one_revision() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut writer = start("pairs", &path);
    let mut last = 0;
    for n in 0..5 {
        writer.number("acknowledged").unwrap();
        let copy = directory.path().join(format!("backup-{n}.db"));
        let report = sqlite::backup(&path, &copy).unwrap();
        assert_eq!(report.problems, [""; 0]);
        assert!(report.revision > last, "each is of its moment");
        last = report.revision;
        // Both keys of each transaction, as they were.
        let listing = SqliteStore::open(&copy).await.unwrap().list(&KeyRange::Handles).await.unwrap();
        assert_eq!(listing.revision, report.revision);
        assert_eq!(listing.items[0].value, listing.items[1].value);
        assert_eq!(listing.items[0].value, report.revision.to_string().into_bytes());
    }
    let taken = directory.path().join("backup-0.db");
    let before = std::fs::read(&taken).unwrap();
    let text = sqlite::backup(&path, &taken).unwrap_err().to_string();
    assert!(text.contains("backup-0.db") && text.contains("exists"), "{text}");
    assert_eq!(std::fs::read(&taken).unwrap(), before, "what is there is not overwritten");
    let leftovers = std::fs::read_dir(directory.path()).unwrap().flatten();
    let partial: Vec<_> = leftovers.filter(|f| f.file_name().to_string_lossy().contains("partial")).collect();
    assert!(partial.is_empty(), "{partial:?}");
}

/// Programs go on while the content is replaced: watches are told, watchers see the difference, writes with what was read before
/// conflict.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_reaches_running_programs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    store.put(handle("kept"), b"1".into()).await.unwrap();
    let changed = store.put(handle("changed"), b"1".into()).await.unwrap();
    store.put(handle("deleted"), b"1".into()).await.unwrap();
    let backup = directory.path().join("backup.db");
    sqlite::backup(&path, &backup).unwrap();

    let newer = store.update(handle("changed"), b"2".into(), changed).await.unwrap();
    store.delete(handle("deleted"), None).await.unwrap();
    let added = store.put(handle("added"), b"1".into()).await.unwrap();
    let mut updates = watcher::watch(store.clone(), vec![KeyRange::Handles]);
    let mut mirror = BTreeMap::new();
    let mut follow = async |until: &[(&str, &str)]| {
        let expected: BTreeMap<_, _> = until.iter().map(|(k, v)| (handle(k), v.as_bytes().to_vec())).collect();
        while mirror != expected {
            match tokio::time::timeout(Duration::from_secs(30), updates.recv()).await.unwrap().unwrap() {
                Update::Put(kv) => drop(mirror.insert(kv.key, kv.value)),
                Update::Delete(key) => assert!(mirror.remove(&key).is_some(), "{key} was never put"),
                Update::InSync => {}
            }
        }
    };
    follow(&[("kept", "1"), ("changed", "2"), ("added", "1")]).await;

    let restored = sqlite::restore(&path, &backup).unwrap();
    assert_eq!((restored.report.problems.len(), restored.report.objects, &restored.aside), (0, 3, &None));
    follow(&[("kept", "1"), ("changed", "1"), ("deleted", "1")]).await;
    assert!(matches!(store.watch(&KeyRange::Handles, added).await, Err(Error::Compacted(_))));
    let stale = store.update(handle("changed"), b"3".into(), newer).await;
    assert!(matches!(stale, Err(Error::Conflict(_))), "{stale:?}");
    let present = store.get(&handle("changed")).await.unwrap().unwrap();
    let revision = store.update(handle("changed"), b"3".into(), present.mod_revision).await.unwrap();
    assert!(revision > added + 1, "no revision comes twice");
    follow(&[("kept", "1"), ("changed", "3"), ("deleted", "1")]).await;
}

/// A damaged store is replaced only when nobody has it open, and is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_in_use_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let revision = store.put(handle("a"), b"1".into()).await.unwrap();
    let backup = directory.path().join("backup.db");
    sqlite::backup(&path, &backup).unwrap();
    drop(store);
    let mut user = start("try", &path);
    assert_eq!(user.line("outcome").unwrap(), "written");
    // The `-wal` too: until a checkpoint it has every page, and the store is sound whatever is in the file.
    let wal = directory.path().join("store.db-wal");
    let length = std::fs::metadata(&wal).unwrap().len();
    std::fs::write(&wal, vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
    std::fs::write(&path, vec![0xA5; 40960]).unwrap();
    let text = sqlite::restore(&path, &backup).unwrap_err().to_string();
    assert!(text.contains(&format!("({})", user.id())) && text.contains("stop every program"), "{text}");
    user.kill();
    let restored = sqlite::restore(&path, &backup).unwrap();
    assert_eq!(std::fs::read(restored.aside.unwrap()).unwrap(), vec![0xA5; 40960], "the damaged file is kept");
    let store = open(&path).await;
    assert_eq!(store.get(&handle("a")).await.unwrap().unwrap().value, b"1");
    assert!(store.put(handle("b"), b"1".into()).await.unwrap() > revision + 2, "beyond what the damaged file had");
}

/// A store's files, copied as they are, are a backup too: what is in the `-wal` counts.
#[tokio::test]
async fn a_damaged_store_gets_what_the_backups_wal_holds() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let store = open(&at("live.db")).await;
    store.put(handle("a"), b"1".into()).await.unwrap();
    for suffix in ["", "-wal"] {
        std::fs::copy(at(&format!("live.db{suffix}")), at(&format!("backup.db{suffix}"))).unwrap();
    }
    assert!(std::fs::metadata(at("backup.db-wal")).unwrap().len() > 0);
    std::fs::write(at("store.db"), vec![0xA5; 40960]).unwrap();
    let restored = sqlite::restore(&at("store.db"), &at("backup.db")).unwrap();
    assert_eq!((restored.report.problems.len(), restored.report.objects), (0, 1));
    assert_eq!(open(&at("store.db")).await.get(&handle("a")).await.unwrap().unwrap().value, b"1");
}

#[tokio::test]
async fn what_is_no_sound_backup_is_refused_and_the_store_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    store.put(handle("a"), b"1".into()).await.unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("text"), "no database at all, in some length ".repeat(40)).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    let foreign = rusqlite::Connection::open(at("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    sqlite::backup(&path, &at("cut")).unwrap();
    std::fs::OpenOptions::new().write(true).open(at("cut")).unwrap().set_len(9000).unwrap();
    for (name, cause) in [
        ("text", "not a database"),
        ("empty", "empty"),
        ("foreign", "another program"),
        ("cut", "sound"),
        ("missing", "no such file"),
    ] {
        let text = sqlite::restore(&path, &at(name)).unwrap_err().to_string();
        assert!(text.contains(at(name).to_str().unwrap()) && text.contains(cause), "{name}: {text}");
    }
    store.put(handle("b"), b"1".into()).await.unwrap();
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

/// Each rule of our own check, broken in a file that SQLite finds whole.
#[tokio::test]
async fn a_check_finds_what_does_not_agree() {
    let rows = [
        ("DELETE FROM kv WHERE key LIKE '%/a'", "a is gone, but history has it at revision 3"),
        ("UPDATE kv SET value = CAST('7' AS BLOB) WHERE key LIKE '%/a'", "a has another value than history says"),
        ("UPDATE kv SET value = CAST('{' AS BLOB) WHERE key LIKE '%/a'", "a holds what is no JSON"),
        ("UPDATE kv SET mod_rev = 1 WHERE key LIKE '%/a'", "a has revision 1, but history says 3"),
        ("UPDATE kv SET mod_rev = 77 WHERE key LIKE '%/a'", "a has revision 77"),
        ("UPDATE meta SET value = 3 WHERE name = 'revision'", "in a store at 3"),
        ("UPDATE meta SET value = 9 WHERE name = 'compacted'", "compacted up to 9"),
        ("DELETE FROM log WHERE rev = 2", "3 revisions, not of 4"),
        ("INSERT INTO kv VALUES ('/calico/ipam/v2/handle/x', 2, 2, 0, CAST('1' AS BLOB))", "which history lacks"),
        ("INSERT INTO kv VALUES ('/elsewhere', 0, 0, 0, CAST('1' AS BLOB))", "no key of this program"),
        ("UPDATE kv SET mod_rev = 3 WHERE key LIKE '%/b'", "the row of /calico/ipam/v2/handle/b is damaged"),
        (
            "UPDATE kv SET value = CAST('7' AS BLOB) WHERE key LIKE '%/b'",
            "value of /calico/ipam/v2/handle/b is damaged",
        ),
        ("DELETE FROM kv WHERE key LIKE '%/b'", "below /calico/ipam/v2/handle/ are 1 objects, not 2"),
        ("UPDATE log SET value = CAST('7' AS BLOB) WHERE rev = 1", "handle/a at revision 1 is damaged"),
        ("UPDATE log SET more = 1 WHERE rev = 4", "before the store's revision 4"),
        ("UPDATE meta SET value = 5 WHERE name = 'revision'", "the store's revision is damaged"),
        ("UPDATE kv SET key = CAST(x'2fff' AS TEXT) WHERE key LIKE '%/b'", "is damaged"),
    ];
    for (damage, problem) in rows {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let store = open(&path).await;
        for _ in 0..3 {
            store.put(handle("a"), b"1".into()).await.unwrap();
        }
        store.put(handle("b"), b"1".into()).await.unwrap();
        assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
        rusqlite::Connection::open(&path).unwrap().execute(damage, []).unwrap();
        let problems = sqlite::check(&path, Depth::Full).unwrap().problems;
        assert!(problems.iter().any(|p| p.contains(problem)), "{damage}: {problems:?}");
    }
}
