//! Files that were damaged, lost, replaced or taken away: a clear error, and never wrong data in silence.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::key::KeyRange;
use datastore::sqlite::{self, Depth, SqliteStore};
use datastore::{Error, Event, KeyValue, Op, Store, Txn};
use futures::StreamExt;

use crate::process::{say, start, start_as_nobody};
use crate::{handle, open};

/// What the processes of these tests do; whether it was one of theirs.
pub async fn child(role: &str, path: &Path) -> bool {
    match role {
        // Opens, writes, says what came of it, and stays.
        "try" => match try_to_write(path).await {
            Ok(store) => {
                say("outcome written");
                std::future::pending::<()>().await;
                drop(store);
            }
            Err(e) => say(&format!("outcome {e}")),
        },
        _ => return false,
    }
    true
}

async fn try_to_write(path: &Path) -> Result<SqliteStore, Error> {
    let store = SqliteStore::open(path).await?;
    store.put(handle("tried"), b"1".into()).await?;
    Ok(store)
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

async fn refusal(path: &Path) -> String {
    match SqliteStore::open(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(e) => e.to_string(),
    }
}

pub fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{text}\" lacks \"{part}\"");
    }
}

/// A store with some hundred objects, all of it in the file itself.
async fn filled(path: &Path) -> u64 {
    let store = open(path).await;
    for tens in 0..40 {
        let ops = (0..10).map(|n| Op::Put(handle(&format!("h{}", tens * 10 + n)), vec![b'7'; 300]));
        store.txn(Txn { ops: ops.collect() }).await.unwrap();
    }
    let revision = store.list(&KeyRange::Handles).await.unwrap().revision;
    drop(store);
    closed(path).await;
    revision
}

/// Waits until everything is in the file itself: the threads that had it open end a moment after it was dropped; who closes it as
/// the last leaves no WAL.
pub async fn closed(path: &Path) {
    for _ in 0..500 {
        let last = rusqlite::Connection::open(path).unwrap();
        last.query_row("SELECT count(*) FROM kv", [], |row| row.get::<_, u64>(0)).unwrap();
        drop(last);
        if !beside(path, "-wal").exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store was not closed");
}

/// What damage does to a stretch of a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit.
    Flip(u8),
    /// Other bytes.
    Garble(usize),
    /// Zeros, as from a sector that was never written.
    Zero(usize),
}

impl Damage {
    fn apply(self, path: &Path, offset: u64) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let write = |bytes: &[u8]| file.write_all_at(bytes, offset).unwrap();
        match self {
            Self::Flip(bit) => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).unwrap();
                write(&[byte[0] ^ 1 << bit]);
            }
            Self::Garble(length) => write(&vec![0xA5; length]),
            Self::Zero(length) => write(&vec![0; length]),
        }
    }
}

/// What a store gives in every way in which it can be read.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    items: Vec<KeyValue>,
    events: Vec<Event>,
}

async fn content(store: &dyn Store) -> Result<Content, Error> {
    let listing = store.list(&KeyRange::Handles).await?;
    let mut events = Vec::new();
    let mut watch = store.watch(&KeyRange::Handles, 0).await?;
    while events.last().map_or(0, Event::revision) < listing.revision || events.len() % 10 != 0 {
        let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
        events.push(event.expect("what is missing is an error").unwrap()?);
    }
    for kv in &listing.items {
        assert_eq!(store.get(&kv.key).await?.as_ref(), Some(kv));
    }
    Ok(Content { items: listing.items, events })
}

/// Reads a damaged copy of a store: the right data, or an error that names the file and the way back. Whether it was an error.
async fn is_refused(path: &Path, expected: &Content, what: &str) -> bool {
    let known = |e: &Error| assert_names(&e.to_string(), &[path.to_str().unwrap(), "restore BACKUP"]);
    let read = match SqliteStore::open(path).await {
        Ok(store) => {
            let read = content(&store).await;
            for kv in expected.items.iter().step_by(37) {
                match store.get(&kv.key).await {
                    Ok(found) => assert_eq!(found.as_ref(), Some(kv), "{what}: {}", kv.key),
                    Err(e) => known(&e),
                }
                let created = store.create(kv.key.clone(), b"2".into()).await;
                assert!(created.is_err(), "{what}: {} was there", kv.key);
            }
            read
        }
        Err(e) => Err(e),
    };
    let report = sqlite::check(path, Depth::Full).map_err(|e| e.to_string());
    match read {
        Ok(content) => {
            assert!(content == *expected, "{what}: it was read as other data");
            false
        }
        Err(e) => {
            known(&e);
            // A page that cannot even be opened as a database is refused by the check too.
            let is_told = report.as_ref().map_or_else(|e| e.contains("restore BACKUP"), |r| !r.problems.is_empty());
            assert!(is_told, "{what}: {e}, but a check says {report:?}");
            true
        }
    }
}

/// Bytes turned over in the header of each page in turn.
#[tokio::test]
async fn a_damaged_page_is_reported_and_never_read_as_data() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.db");
    filled(&whole).await;
    let backup = directory.path().join("backup.db");
    sqlite::backup(&whole, &backup).unwrap();
    let pages = fs::metadata(&whole).unwrap().len() / 4096;
    let expected = content(&*open(&whole).await).await.unwrap();
    let mut refused = 0;
    for page in 0..pages {
        let path = directory.path().join(format!("damaged-{page}.db"));
        fs::copy(&whole, &path).unwrap();
        // The header of a page, and some of its pointers to cells.
        Damage::Garble(24).apply(&path, page * 4096 + if page == 0 { 100 } else { 0 });
        refused += u64::from(is_refused(&path, &expected, &format!("page {page}")).await);
        let report = sqlite::check(&path, Depth::Full);
        let is_told = report.as_ref().map_or(true, |r| !r.problems.is_empty());
        assert!(is_told, "page {page}: {report:?}");
        if page % 8 == 0 {
            let restored = sqlite::restore(&path, &backup).unwrap();
            assert_eq!(restored.report.problems, [""; 0]);
            assert!(restored.aside.unwrap().exists(), "the damaged file is kept");
            assert_eq!(open(&path).await.list(&KeyRange::Handles).await.unwrap().items, expected.items);
        }
    }
    assert!(refused > pages / 4, "{refused} of {pages} pages");
}

/// Where SQLite's own structures stay whole, and only what is in them changes.
#[tokio::test]
async fn damage_at_random_is_reported_and_never_read_as_data() {
    const ROUNDS: u64 = 60;
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.db");
    filled(&whole).await;
    let length = fs::metadata(&whole).unwrap().len();
    let expected = content(&*open(&whole).await).await.unwrap();
    let seed: u64 = match std::env::var("TORTIE_DAMAGE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("TORTIE_DAMAGE_SEED={seed}");
    let mut state = seed | 1;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut refused = 0;
    for round in 0..ROUNDS {
        let damage = match below(4) {
            0 | 1 => Damage::Flip(below(8) as u8),
            2 => Damage::Garble(1 + below(64) as usize),
            _ => Damage::Zero(512),
        };
        // The header of the file says what sort of file it is.
        let offset = 100 + below(length - 100 - 512);
        let path = directory.path().join(format!("damaged-{round}.db"));
        fs::copy(&whole, &path).unwrap();
        damage.apply(&path, offset);
        refused += u64::from(is_refused(&path, &expected, &format!("{damage:?} at {offset}")).await);
    }
    println!("{refused} of {ROUNDS} refused");
    assert!(refused > ROUNDS / 3, "{refused}");
}

/// The pages of each table and index in turn: what leads to the objects is damaged as often as they are themselves.
#[tokio::test]
async fn a_damaged_index_hides_nothing_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.db");
    filled(&whole).await;
    let expected = content(&*open(&whole).await).await.unwrap();
    let connection = rusqlite::Connection::open(&whole).unwrap();
    let mut statement = connection.prepare("SELECT name, pageno FROM dbstat WHERE pagetype <> 'overflow'").unwrap();
    let pages = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))).unwrap();
    let mut refused = std::collections::BTreeMap::<String, u64>::new();
    for (name, page) in pages.map(Result::unwrap).filter(|(name, _)| name.starts_with("kv_") || name == "meta") {
        for offset in [1600, 2500, 3800] {
            let path = directory.path().join("damaged.db");
            for suffix in ["-wal", "-shm", "-changed"] {
                let _ = fs::remove_file(beside(&path, suffix));
            }
            fs::copy(&whole, &path).unwrap();
            Damage::Garble(16).apply(&path, (page - 1) * 4096 + offset);
            let what = format!("{name}, page {page} at {offset}");
            *refused.entry(name.clone()).or_default() += u64::from(is_refused(&path, &expected, &what).await);
        }
    }
    println!("refused: {refused:?}");
    assert!(refused["kv_key"] > 10, "{refused:?}");
}

/// A disk that lost a write: the page is sound, and of an earlier time.
#[tokio::test]
async fn an_older_copy_of_a_page_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    filled(&path).await;
    let older = fs::read(&path).unwrap();
    let store = open(&path).await;
    store.put(handle("h17"), vec![b'8'; 300]).await.unwrap();
    drop(store);
    closed(&path).await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    let leaves = "SELECT pageno FROM dbstat WHERE name = 'kv' AND pagetype = 'leaf'";
    let mut statement = connection.prepare(leaves).unwrap();
    let leaves: Vec<u64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    drop(connection);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for page in leaves {
        let offset = (page - 1) * 4096;
        file.write_all_at(&older[offset as usize..][..4096], offset).unwrap();
    }
    let error = open(&path).await.list(&KeyRange::Handles).await.unwrap_err().to_string();
    assert_names(&error, &["damaged", "restore BACKUP"]);
    let problems = sqlite::check(&path, Depth::Quick).unwrap().problems.concat();
    assert_names(&problems, &["/calico/ipam/v2/handle/", "not as they were written"]);
    let text = sqlite::backup(&path, &directory.path().join("backup.db")).unwrap_err().to_string();
    assert_names(&text, &["the copy has problems"]);
}

#[tokio::test]
async fn a_file_that_was_cut_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    filled(&path).await;
    let length = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / 2).unwrap();
    let text = match SqliteStore::open(&path).await {
        Ok(store) => store.list(&KeyRange::Handles).await.unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    assert_names(&text, &[path.to_str().unwrap(), "malformed", "damaged", "restore BACKUP"]);
    // Cut to nothing it looks like a new database.
    file.set_len(0).unwrap();
    assert_names(&refusal(&path).await, &["empty", "revision 40", "restore BACKUP", "begin anew"]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "it is left as it is");
}

/// What SQLite cannot know, the acknowledged revision beside the file tells.
#[tokio::test]
async fn a_lost_wal_is_noticed_and_can_be_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut child = start("pairs", &path);
    while child.number("acknowledged").unwrap() < 20 {}
    child.kill();
    let wal = beside(&path, "-wal");
    let kept = fs::read(&wal).unwrap();
    // The file without its WAL, and the WAL without its file.
    fs::remove_file(&wal).unwrap();
    let text = refusal(&path).await;
    assert_names(&text, &[path.to_str().unwrap(), "was acknowledged", "-wal file was removed", "restore"]);
    let problems = sqlite::check(&path, Depth::Quick).unwrap().problems;
    assert_names(&problems.concat(), &["was acknowledged"]);
    let database = fs::read(&path).unwrap();
    fs::write(&wal, &kept).unwrap();
    fs::remove_file(&path).unwrap();
    assert_names(&refusal(&path).await, &["the file is gone", "-wal holds writes", "put the file back"]);
    assert_eq!(fs::read(&wal).unwrap(), kept, "it is left as it is");

    // Both again: all is there, also with a stale index of the WAL.
    fs::write(&path, &database).unwrap();
    fs::write(beside(&path, "-shm"), vec![0xA5; 32768]).unwrap();
    let store = open(&path).await;
    let listing = store.list(&KeyRange::Handles).await.unwrap();
    assert_eq!(listing.items.len(), 2);
    assert!(listing.revision >= 20);
    drop((store, child));

    // Without the WAL, taken as it is: what was lost is lost, and no revision comes twice.
    let mut child = start("pairs", &path);
    child.number("acknowledged").unwrap();
    child.kill();
    fs::remove_file(&wal).unwrap();
    if let Err(e) = SqliteStore::open(&path).await {
        assert_names(&e.to_string(), &["was acknowledged"]);
        let restored = sqlite::restore(&path, &path).unwrap();
        assert!(restored.report.revision > listing.revision, "{restored:?}");
    }
    open(&path).await.put(handle("a"), b"1".into()).await.unwrap();
}

/// Who removes the file to begin anew gets a new store, whose revisions go on.
#[tokio::test]
async fn a_store_that_is_begun_anew_continues_the_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let revision = filled(&path).await;
    fs::remove_file(&path).unwrap();
    let store = open(&path).await;
    assert!(matches!(store.watch(&KeyRange::Handles, revision - 1).await, Err(Error::Compacted(_))));
    assert_eq!(store.put(handle("a"), b"1".into()).await.unwrap(), revision + 1);
    drop(store);
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

/// Two processes with two `-shm` files do not see each other's locks; writes to a WAL without a name are lost.
#[tokio::test]
async fn files_that_are_taken_away_in_use_stop_the_store() {
    for suffix in ["", "-wal", "-shm"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let store = open(&path).await;
        let revision = store.put(handle("a"), b"1".into()).await.unwrap();
        let mut events = store.watch(&KeyRange::Handles, revision).await.unwrap();
        let file = beside(&path, suffix);
        let away = directory.path().join("away");
        fs::rename(&file, &away).unwrap();
        fs::copy(&away, &file).unwrap();
        let written = store.put(handle("b"), b"1".into()).await.map(drop);
        let watched = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().map(drop);
        for outcome in [written, watched, store.list(&KeyRange::Handles).await.map(drop)] {
            let text = outcome.unwrap_err().to_string();
            assert_names(&text, &[file.to_str().unwrap(), "removed or replaced", "restore BACKUP"]);
        }
        fs::rename(&away, &file).unwrap();
        store.put(handle("b"), b"1".into()).await.unwrap();
    }
}

/// `cp backup store.db` beside running programs: the same file, other content.
#[tokio::test]
async fn an_older_file_copied_over_the_one_in_use_takes_no_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    store.put(handle("a"), b"1".into()).await.unwrap();
    let backup = directory.path().join("backup.db");
    sqlite::backup(&path, &backup).unwrap();
    for n in 0..2000 {
        // Enough for a checkpoint: the WAL does not hold all of it any more.
        store.put(handle(&format!("k{}", n % 50)), vec![b'7'; 3000]).await.unwrap();
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    fs::write(&path, fs::read(&backup).unwrap()).unwrap();
    let text = store.put(handle("b"), b"1".into()).await.unwrap_err().to_string();
    assert_names(&text, &[path.to_str().unwrap(), "restore BACKUP"]);
}

/// A file system that gives no shared memory shows it in this way or another; a directory in its place is one.
#[tokio::test]
async fn a_store_without_its_side_files_is_refused_with_advice() {
    for suffix in ["-wal", "-shm", "-changed"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        fs::create_dir(beside(&path, suffix)).unwrap();
        let text = refusal(&path).await;
        assert_names(&text, &[path.to_str().unwrap(), "cannot"]);
        fs::remove_dir(beside(&path, suffix)).unwrap();
        open(&path).await.put(handle("a"), b"1".into()).await.unwrap();
    }
}

#[tokio::test]
async fn without_permission_the_error_says_what_is_needed() {
    if !is_root() {
        eprintln!("only root can give up rights: not tried");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    store.put(handle("a"), b"1".into()).await.unwrap();
    let outcome = start_as_nobody("try", &path).line("outcome").expect("it says what came of it");
    assert_names(&outcome, &[path.to_str().unwrap(), "cannot", "must be able to write"]);
    let outcome = start_as_nobody("try", &directory.path().join("new.db")).line("outcome").unwrap();
    assert_names(&outcome, &["new.db", "cannot open", "must be able to write"]);
    drop(store);
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Passwords of BGP are in the store, and the lock of `-changed` is all that it takes to stop the writers.
#[tokio::test]
async fn nobody_else_may_read_or_lock_what_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/below/store.db");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let assert_private = |path: &Path| {
        for suffix in ["", "-wal", "-shm", "-changed"] {
            let file = beside(path, suffix);
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    };
    let store = open(&path).await;
    store.put(handle("a"), b"1".into()).await.unwrap();
    assert_private(&path);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let backup = directory.path().join("backup.db");
    sqlite::backup(&path, &backup).unwrap();
    assert_eq!(mode(&backup), 0o600);
    // Also from a backup that everybody may read.
    fs::set_permissions(&backup, fs::Permissions::from_mode(0o644)).unwrap();
    let other = directory.path().join("other/store.db");
    sqlite::restore(&other, &backup).unwrap();
    let restored = open(&other).await;
    restored.put(handle("a"), b"2".into()).await.unwrap();
    assert_private(&other);
    assert_eq!(mode(other.parent().unwrap()), 0o700);
    // What an operator allows stays.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    drop(open(&path).await);
    assert_eq!(mode(&path), 0o660);
}

/// Values that would fail the other transactions of their commit are refused before.
#[tokio::test]
async fn a_value_beyond_the_limit_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let error = store.put(handle("huge"), vec![b'7'; (16 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert_names(&error.to_string(), &["handle/huge", "16.0 MiB"]);
    store.put(handle("large"), vec![b'7'; 16 << 20]).await.unwrap();
}
