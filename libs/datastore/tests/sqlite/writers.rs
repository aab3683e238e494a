//! Many processes at once: killed at random, crowded, stopped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use api::key::KeyRange;
use datastore::sqlite::{self, Depth};
use datastore::{DynStore, Event, Store};
use futures::StreamExt;

use crate::process::{Process, say, start};
use crate::{handle, open};

const CLIENTS: usize = 16;

/// What the processes of these tests do.
pub async fn child(role: &str, store: DynStore) {
    if let Some(name) = role.strip_prefix("sequence:") {
        sequence(&*store, name).await;
    } else if let Some(name) = role.strip_prefix("crowd:") {
        crowd(store, name).await;
    } else if let Some(from) = role.strip_prefix("follow:") {
        follow(&*store, from.parse().unwrap()).await;
    } else {
        panic!("no such role: {role}");
    }
}

/// Counts up under one key by compare-and-swap, with a line for each acknowledged write, until killed.
async fn sequence(store: &dyn Store, name: &str) {
    let kv = store.get(&handle(name)).await.unwrap();
    let (mut n, mut revision) = match kv {
        Some(kv) => (String::from_utf8(kv.value).unwrap().parse().unwrap(), kv.mod_revision),
        None => (0, store.create(handle(name), b"0".into()).await.unwrap()),
    };
    loop {
        n += 1;
        revision = store.update(handle(name), format!("{n}").into_bytes(), revision).await.unwrap();
        say(&format!("acknowledged {n}"));
    }
}

/// A line for each event, until killed.
async fn follow(store: &dyn Store, from: u64) {
    let mut events = store.watch(&KeyRange::Handles, from).await.unwrap();
    say("following now");
    while let Some(event) = events.next().await {
        let Event::Put(kv) = event.unwrap() else { panic!("nobody deletes") };
        say(&format!("event {} {} {}", kv.mod_revision, kv.key, String::from_utf8(kv.value).unwrap()));
    }
}

/// Clients that write as fast as they can until the parent says when; a line for each: how many writes.
async fn crowd(store: DynStore, name: &str) {
    let (name, seconds) = name.split_once(':').unwrap();
    let until = Instant::now() + Duration::from_millis(seconds.parse().unwrap());
    let clients = (0..CLIENTS).map(|n| {
        let (store, key) = (store.clone(), handle(&format!("{name}-{n}")));
        tokio::spawn(async move {
            let mut writes = 0_u64;
            let mut revision = store.create(key.clone(), b"0".into()).await.unwrap();
            while Instant::now() < until {
                writes += 1;
                revision = store.update(key.clone(), writes.to_string().into_bytes(), revision).await.unwrap();
            }
            writes
        })
    });
    for client in futures::future::join_all(clients).await {
        say(&format!("writes {}", client.unwrap()));
    }
}

/// Reads the acknowledged number of the writer until it has none for the moment: at least one.
fn acknowledged_after(writer: &mut Process, time: Duration) -> u64 {
    let deadline = Instant::now() + time;
    loop {
        let n = writer.number("acknowledged").expect("a writer does not end by itself");
        if Instant::now() > deadline {
            return n;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_killed_at_random_lose_nothing_and_watchers_see_all_once() {
    const WRITERS: usize = 4;
    const KILLS: u64 = 12;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let from = store.put(handle("before"), b"0".into()).await.unwrap();
    let mut follower = start(&format!("follow:{from}"), &path);
    follower.line("following").unwrap();
    let mut events = store.watch(&KeyRange::Handles, from).await.unwrap();
    let role = |n: usize| format!("sequence:writer-{n}");
    let mut writers: Vec<Process> = (0..WRITERS).map(|n| start(&role(n), &path)).collect();
    let mut acknowledged = [0; WRITERS];
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    for kill in 0..KILLS {
        let random = u64::from(seed).wrapping_mul(6_364_136_223_846_793_005).rotate_left((7 * kill) as u32);
        let n = (random % WRITERS as u64) as usize;
        acknowledged[n] = acknowledged_after(&mut writers[n], Duration::from_millis(random / 7 % 80));
        writers[n].kill();
        while let Some(number) = writers[n].number("acknowledged") {
            acknowledged[n] = number;
        }
        let kv = store.get(&handle(&format!("writer-{n}"))).await.unwrap().unwrap();
        let stored: u64 = String::from_utf8(kv.value).unwrap().parse().unwrap();
        assert!(stored == acknowledged[n] || stored == acknowledged[n] + 1, "{stored}, acknowledged {acknowledged:?}");
        writers[n] = start(&role(n), &path);
    }
    for (n, writer) in writers.iter_mut().enumerate() {
        acknowledged[n] = writer.number("acknowledged").expect("a new writer goes on");
        writer.kill();
        while let Some(number) = writer.number("acknowledged") {
            acknowledged[n] = number;
        }
    }
    let listing = store.list(&KeyRange::Handles).await.unwrap();
    // Both watchers: every revision once, in order; every key counts up by one.
    let mut counts: HashMap<String, u64> = HashMap::new();
    for expected in from + 1..=listing.revision {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap();
        let Event::Put(kv) = event else { panic!("nobody deletes") };
        let value = String::from_utf8(kv.value).unwrap();
        assert_eq!(kv.mod_revision, expected);
        assert_eq!(follower.line("event").unwrap(), format!("{expected} {} {value}", kv.key), "the other process");
        let value: u64 = value.parse().unwrap();
        let last = counts.insert(kv.key.to_string(), value);
        assert_eq!(value, last.map_or(0, |last| last + 1), "{}", kv.key);
    }
    for kv in listing.items.iter().filter(|kv| kv.key != handle("before")) {
        let stored: u64 = String::from_utf8_lossy(&kv.value).parse().unwrap();
        assert_eq!(counts[&kv.key.to_string()], stored);
    }
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

/// Nobody meets a lock, and nobody starves: a process that has just written does not go before one that waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_writers_takes_turns() {
    const PROCESSES: usize = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let mut children: Vec<Process> = (0..PROCESSES).map(|n| start(&format!("crowd:p{n}:3000"), &path)).collect();
    let mut by_process = Vec::new();
    for child in &mut children {
        let writes: Vec<u64> = (0..CLIENTS).map(|_| child.number("writes").expect("no client fails")).collect();
        assert!(child.wait().success());
        assert!(writes.iter().all(|&n| n > 0), "a client never came: {writes:?}");
        by_process.push(writes.iter().sum::<u64>());
    }
    println!("writes of each process: {by_process:?}");
    let total: u64 = by_process.iter().sum();
    // They do not start at the same moment; a process without its turn would have none.
    let fair = total / PROCESSES as u64;
    assert!(by_process.iter().all(|&n| n * 5 > fair), "{by_process:?}");
    let stored = store.list(&KeyRange::Handles).await.unwrap();
    assert_eq!(stored.items.len(), PROCESSES * CLIENTS);
    // Each first write is a create: one revision more for each client.
    assert_eq!(stored.revision, total + (PROCESSES * CLIENTS) as u64);
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

/// A process that is stopped with the lock in its hands is named as the reason; when it goes on, so do the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_given_back_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let other = open(&path).await;
    let started = Instant::now();
    let writes = (0..6).map(|n| store.put(handle("a"), vec![b'0' + n]));
    let (first, second, compacted) =
        tokio::join!(futures::future::join_all(writes), other.put(handle("a"), b"2".into()), store.compact(0));
    for outcome in first.into_iter().chain([second]).map(|r| r.map(drop)).chain([compacted]) {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("write lock for 10 s") && text.contains("fuser"), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(25), "all gave up together");
    assert_eq!(store.get(&handle("a")).await.unwrap(), None, "reads go on");
    holder.execute_batch("ROLLBACK").unwrap();
    store.put(handle("a"), b"1".into()).await.unwrap();
}

/// Who gave up waiting has told so: the write does not happen afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_write_does_not_happen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let patience = Duration::from_millis(100);
    assert!(tokio::time::timeout(patience, store.put(handle("abandoned"), b"1".into())).await.is_err());
    assert!(tokio::time::timeout(patience, store.put(handle("queued"), b"1".into())).await.is_err());
    let kept = tokio::spawn({
        let store = store.clone();
        async move { store.put(handle("kept"), b"1".into()).await }
    });
    tokio::time::sleep(patience).await;
    holder.execute_batch("ROLLBACK").unwrap();
    kept.await.unwrap().unwrap();
    let keys: Vec<_> = store.list(&KeyRange::Handles).await.unwrap().items.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, [handle("kept")]);
}

/// Two writers end their commits in one order, and may send their signals in the other: the acknowledged revision beside the file
/// never stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_signal_never_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let stores = [open(&path).await, open(&path).await, open(&path).await];
    for round in 0..300 {
        let writes = stores.iter().map(|store| store.put(handle("a"), b"1".into()));
        let revisions = futures::future::try_join_all(writes).await.unwrap();
        let sent = std::fs::read_to_string(directory.path().join("store.db-changed")).unwrap();
        assert_eq!(sent.trim().parse(), Ok(*revisions.iter().max().unwrap()), "round {round}");
    }
}
