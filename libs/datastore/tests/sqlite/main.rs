//! SQLite passes the suite; several processes share the file; a killed process loses nothing that was acknowledged.

mod backup;
mod files;
mod history;
mod mounts;
mod power;
mod process;
mod upgrade;
mod writers;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::key::{Key, KeyRange};
use datastore::conformance;
use datastore::sqlite::SqliteStore;
use datastore::watcher::{self, Update};
use datastore::{DynStore, Error, Event, Op, Txn};
use futures::StreamExt;

use process::{Process, say, start};

const CHILD_INCREMENTS: u64 = 25;

fn handle(name: &str) -> Key {
    Key::IpamHandle(name.into())
}

async fn open(path: &Path) -> DynStore {
    Arc::new(SqliteStore::open(path).await.unwrap())
}

/// Not a test by itself: what the other tests run in processes of their own.
#[tokio::test]
async fn child() {
    let (Ok(role), Ok(path)) = (std::env::var(process::ROLE), std::env::var(process::FILE)) else { return };
    if files::child(&role, Path::new(&path)).await {
        return;
    }
    let store = open(Path::new(&path)).await;
    match role.as_str() {
        "increment" => {
            for _ in 0..CHILD_INCREMENTS {
                conformance::increment(&*store, &handle("counter")).await;
            }
        }
        "clock" => {
            for n in 0..100_u64 {
                store.put(handle("clock"), n.to_string().into_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // Two keys in step, and a line for each acknowledged write, until killed.
        "pairs" => {
            for n in 1_u64.. {
                let value = n.to_string().into_bytes();
                let ops = vec![Op::Put(handle("left"), value.clone()), Op::Put(handle("right"), value)];
                store.txn(Txn { ops }).await.unwrap();
                say(&format!("acknowledged {n}"));
            }
        }
        "pong" => answer(&*store).await,
        "idle" => idle(&*store).await,
        "power" => power::write_until_the_end(store).await,
        "large" => history::list_large(&*store).await,
        other => writers::child(other, store).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    conformance::all(conformance::open_with(move || {
        let path = path.clone();
        async move { open(&path).await }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_increment_one_counter_and_none_is_lost() {
    const PROCESSES: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let from = store.put(handle("counter"), b"0".into()).await.unwrap();
    let mut events = store.watch(&KeyRange::Handles, from).await.unwrap();
    let children: Vec<Process> = (0..PROCESSES).map(|_| start("increment", &path)).collect();
    for expected in 1..=PROCESSES * CHILD_INCREMENTS {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap().unwrap();
        let Event::Put(kv) = event else { panic!("{event:?}") };
        assert_eq!(kv.value, expected.to_string().into_bytes(), "each value is seen once, in order");
    }
    for mut child in children {
        assert!(child.wait().success());
    }
}

/// Two processes answer each other's writes: were an event seen at the poll, each answer would take half of its second.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_needs_no_poll() {
    const ROUNDS: u32 = 60;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let mut events = store.watch(&KeyRange::Handles, 0).await.unwrap();
    let mut child = start("pong", &path);
    child.line("answering").unwrap();
    let started = Instant::now();
    for round in 0..ROUNDS {
        let value = round.to_string().into_bytes();
        store.put(handle("ping"), value.clone()).await.unwrap();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap();
            let Event::Put(kv) = event else { panic!("{event:?}") };
            if kv.key == handle("pong") {
                assert_eq!(kv.value, value);
                break;
            }
        }
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(500) * ROUNDS, "{took:?} for {ROUNDS} answers");
}

async fn answer(store: &dyn datastore::Store) {
    let mut events = store.watch(&KeyRange::Handles, 0).await.unwrap();
    say("answering now");
    while let Some(event) = events.next().await {
        let Event::Put(kv) = event.unwrap() else { panic!("nobody deletes") };
        if kv.key == handle("ping") {
            store.put(handle("pong"), kv.value).await.unwrap();
        }
    }
}

/// Nobody waits in a loop: a process whose watches see nothing uses next to no CPU, by its own clock.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_does_not_poll() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start("idle", &directory.path().join("store.db"));
    let used = child.number("ticks").unwrap();
    assert!(child.wait().success());
    // Of 10 ms. A thread that never sleeps would have 200.
    assert!(used < 20, "{used} ticks of CPU in 2 s");
}

async fn idle(store: &dyn datastore::Store) {
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(store.watch(&KeyRange::Blocks, 0).await.unwrap());
    }
    // proc_pid_stat(5): utime and stime, of all threads.
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = cpu();
    let events = futures::future::join_all(watches.iter_mut().map(|watch| watch.next()));
    assert!(tokio::time::timeout(Duration::from_secs(2), events).await.is_err(), "nobody writes");
    say(&format!("ticks {}", cpu() - before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_acknowledged_write_and_leaves_no_half() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    for round in 0..6_u64 {
        let mut child = start("pairs", &path);
        let mut acknowledged = 0;
        let deadline = Instant::now() + Duration::from_millis(30 + 17 * round);
        // At least some writes, then a kill at a moment that differs each round.
        while acknowledged < 5 || Instant::now() < deadline {
            acknowledged = child.number("acknowledged").expect("the child does not end by itself");
        }
        child.kill();
        // What it had acknowledged before it died is still in the pipe.
        while let Some(n) = child.number("acknowledged") {
            acknowledged = n;
        }

        let store = open(&path).await;
        let items = store.list(&KeyRange::Handles).await.unwrap().items;
        let values: Vec<u64> = items.iter().map(|kv| String::from_utf8_lossy(&kv.value).parse().unwrap()).collect();
        assert_eq!(items.len(), 2);
        assert_eq!((values[0], items[0].mod_revision), (values[1], items[1].mod_revision), "both keys, or none");
        assert!(values[0] >= acknowledged, "{} stored, {acknowledged} acknowledged", values[0]);
        assert!(values[0] <= acknowledged + 1, "{} stored, {acknowledged} acknowledged", values[0]);
        for key in ["left", "right"] {
            store.delete(handle(key), None).await.unwrap();
        }
    }
}

/// A process that goes away and comes back finds what others wrote meanwhile, from the revision it had seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_reopened_continues_its_watch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut child = start("clock", &path);
    let mut last = 0;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let store = open(&path).await;
        let mut events = store.watch(&KeyRange::Handles, last).await.unwrap();
        for _ in 0..20.min(100 - seen.len()) {
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap();
            last = event.revision();
            seen.push(last);
        }
    }
    assert!(child.wait().success());
    assert_eq!(seen, (1..=100).collect::<Vec<u64>>());
}

/// The log is trimmed by itself; who watches from before the trim is told, and the watcher copes.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_trimmed_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let first = store.put(handle("k"), b"0".into()).await.unwrap();
    let writes = (1..=11_000_u32).map(|n| store.put(handle("k"), n.to_string().into_bytes()));
    futures::stream::iter(writes)
        .buffer_unordered(64)
        .for_each(|written| async move { assert!(written.is_ok()) })
        .await;
    let Err(error) = store.watch(&KeyRange::Handles, first).await else { panic!("the log was not trimmed") };
    assert!(matches!(error, Error::Compacted(_)), "{error}");
    let head = store.list(&KeyRange::Handles).await.unwrap().revision;
    assert!(store.watch(&KeyRange::Handles, head - 9_000).await.is_ok(), "the last revisions are kept");
    let mut updates = watcher::watch(store, vec![KeyRange::Handles]);
    assert!(matches!(updates.recv().await, Some(Update::Put(_))));
}

/// A file that lost its name takes no more writes: they would be acknowledged and lost.
#[tokio::test]
async fn a_file_that_is_removed_in_use_is_an_outage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let revision = store.put(handle("a"), b"{}".into()).await.unwrap();
    let mut events = store.watch(&KeyRange::Handles, revision).await.unwrap();
    std::fs::rename(&path, directory.path().join("away")).unwrap();
    let watched = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap();
    let outcomes = [watched.map(drop), store.put(handle("b"), b"{}".into()).await.map(drop)];
    for outcome in outcomes {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("removed or replaced") && text.contains("put the file in place"), "{text}");
    }
    // The first watch of a store opens the file once more; it makes none.
    let unwatched = directory.path().join("unwatched.db");
    let second = open(&unwatched).await;
    std::fs::rename(&unwatched, directory.path().join("gone")).unwrap();
    let Err(error) = second.watch(&KeyRange::Handles, 0).await else { panic!("it watches a file that is gone") };
    assert!(error.to_string().contains("removed or replaced"), "{error}");
    assert!(!unwatched.exists());
    std::fs::rename(directory.path().join("away"), &path).unwrap();
    store.put(handle("b"), b"{}".into()).await.unwrap();
}

/// Every message names the path, the cause and what to do.
#[tokio::test]
async fn a_file_that_cannot_be_used_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("text"), "this is a text file, and long enough that SQLite reads a header of it.".repeat(20))
        .unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let foreign = rusqlite::Connection::open(at("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    drop(open(&at("newer")).await);
    let newer = rusqlite::Connection::open(at("newer")).unwrap();
    newer.execute("UPDATE meta SET value = 99 WHERE name = 'schema'", []).unwrap();
    let rows = [
        ("text", "not a database", "SQLITE_PATH"),
        ("directory", "cannot open", "write the file"),
        ("foreign", "another program", "SQLITE_PATH"),
        ("newer", "schema 99", "upgrade"),
        ("text/below/store.db", "cannot create the directory", "SQLITE_PATH"),
    ];
    for (name, cause, advice) in rows {
        let Err(error) = SqliteStore::open(at(name)).await else { panic!("{name} was opened") };
        let text = error.to_string();
        for part in [at(name).to_str().unwrap(), cause, advice] {
            assert!(text.contains(part), "{name}: \"{text}\" lacks \"{part}\"");
        }
    }
    let tables: u32 = foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1, "a database of another program is left as it was");
}
