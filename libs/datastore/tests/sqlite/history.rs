//! History within its bounds, watches that fall behind, stores that are large.

use std::time::Duration;

use api::key::KeyRange;
use datastore::sqlite::{self, Depth, SqliteStore};
use datastore::watcher::{self, Update};
use datastore::{Error, Op, Store, Txn};
use futures::StreamExt;

use crate::process::{say, start};
use crate::{handle, open};

/// A watch may stand within a transaction when its history goes: the rest of it must not be skipped in silence.
#[tokio::test]
async fn a_watch_within_a_compacted_transaction_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let ops = (0..1500).map(|n| Op::Put(handle(&format!("k{n:04}")), b"1".into())).collect();
    let from = store.put(handle("before"), b"1".into()).await.unwrap();
    let mut events = store.watch(&KeyRange::Handles, from).await.unwrap();
    let revision = store.txn(Txn { ops }).await.unwrap();
    events.next().await.unwrap().unwrap();
    store.compact(revision).await.unwrap();
    let mut seen = 1;
    let error = loop {
        match events.next().await.unwrap() {
            Ok(_) => seen += 1,
            Err(error) => break error,
        }
        assert!(seen < 1500, "all of it was in memory: the transaction is too small for this test");
    };
    assert!(matches!(error, Error::Compacted(_)), "{error}");
    // From the transaction on, all is well.
    assert!(store.watch(&KeyRange::Handles, revision).await.is_ok());
}

/// Values of 1 MiB, many times over: neither the history nor the file grows without bound, and the log keeps the newest.
#[tokio::test]
async fn history_is_bounded_by_size_and_the_file_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut sizes = Vec::new();
    let mut last = 0;
    for n in 0..240_u32 {
        let value = format!("\"{}\"", char::from(b'a' + (n % 26) as u8).to_string().repeat(1 << 20));
        last = store.put(handle(&format!("k{}", n % 4)), value.into_bytes()).await.unwrap();
        if n % 80 == 79 {
            sizes.push(store.check(Depth::Quick).await.unwrap().bytes);
        }
    }
    let report = store.check(Depth::Full).await.unwrap();
    assert_eq!(report.problems, [""; 0]);
    assert!(report.history < 90, "{report:?}");
    assert!(sizes[2] < sizes[1] + (16 << 20), "the file goes on growing: {sizes:?}");
    assert!(store.watch(&KeyRange::Handles, last - 60).await.is_ok(), "the newest are kept");
    // Small writes later give the space back, a part with each trim.
    store.compact(last).await.unwrap();
    for round in 0..60 {
        let ops = (0..10).map(|n| Op::Put(handle(&format!("s{n}")), format!("{round}").into_bytes()));
        for op in ops {
            store.txn(Txn { ops: vec![op] }).await.unwrap();
        }
    }
    let later = store.check(Depth::Full).await.unwrap();
    assert!(later.bytes < report.bytes, "nothing was returned: {later:?}");
    drop(store);
    let compacted = sqlite::compact(&path).unwrap();
    assert!(compacted.bytes < 8 << 20, "{compacted:?}");
    assert_eq!((compacted.free_bytes, compacted.history, compacted.objects), (0, 0, 14));
}

/// A receiver that reads nothing for a long while gets the present state: a deletion for what vanished, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_lists_again_without_phantoms() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.db")).await;
    let put = |name: String, value: u32| Op::Put(handle(&name), value.to_string().into_bytes());
    store.txn(Txn { ops: (0..3000).map(|n| put(format!("k{n}"), 0)).collect() }).await.unwrap();
    let mut updates = watcher::watch(store.clone(), vec![KeyRange::Handles]);
    let mut mirror = std::collections::BTreeMap::new();
    mirror.extend(match updates.recv().await {
        Some(Update::Put(kv)) => Some((kv.key.clone(), kv)),
        other => panic!("{other:?}"),
    });
    // It sits there, with more waiting than the channel holds, while its history goes.
    for round in 1..4 {
        let ops = (0..3000).map(|n| match (n + round) % 7 {
            0 if round == 1 => Op::Delete(handle(&format!("k{n}")), None),
            _ => put(format!("k{n}"), round),
        });
        let revision = store.txn(Txn { ops: ops.collect() }).await.unwrap();
        store.compact(revision).await.unwrap();
    }
    let gone = (0..3000).step_by(3).map(|n| Op::Delete(handle(&format!("k{n}")), None));
    let revision = store.txn(Txn { ops: gone.collect() }).await.unwrap();
    store.compact(revision).await.unwrap();
    let last = store.put(handle("last"), b"1".into()).await.unwrap();
    let mut in_syncs = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(30), updates.recv()).await.unwrap().unwrap() {
            Update::InSync => in_syncs += 1,
            Update::Delete(key) => assert!(mirror.remove(&key).is_some(), "{key} was never put"),
            Update::Put(kv) => {
                let is_last = kv.mod_revision == last;
                mirror.insert(kv.key.clone(), kv);
                if is_last {
                    break;
                }
            }
        }
    }
    assert_eq!(in_syncs, 1);
    assert_eq!(mirror.into_values().collect::<Vec<_>>(), sorted(store.list(&KeyRange::Handles).await.unwrap().items));
}

fn sorted(mut items: Vec<datastore::KeyValue>) -> Vec<datastore::KeyValue> {
    items.sort_by(|a, b| a.key.cmp(&b.key));
    items
}

/// 100,000 objects, and values of 1 MiB: a listing takes the memory of what it returns, and not twice that. In a process of its
/// own, whose memory is only this.
#[tokio::test(flavor = "multi_thread")]
async fn large_stores_list_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await;
    for thousand in 0..100 {
        let ops = (0..1000).map(|n| Op::Create(handle(&format!("h{thousand:03}{n:03}")), vec![b'7'; 200]));
        store.txn(Txn { ops: ops.collect() }).await.unwrap();
    }
    for n in 0..96 {
        store.put(handle(&format!("large-{n}")), vec![b'7'; 1 << 20]).await.unwrap();
    }
    let mut child = start("large", &path);
    assert!(child.line("within").is_some());
    assert!(child.wait().success());
}

pub async fn list_large(store: &dyn Store) {
    let before = peak_memory();
    let listing = store.list(&KeyRange::Handles).await.unwrap();
    let returned: usize = listing.items.iter().map(|kv| kv.value.len()).sum();
    assert_eq!(listing.items.len(), 100_096);
    assert!(listing.items.windows(2).all(|w| w[0].key.to_string() < w[1].key.to_string()), "sorted");
    let grown = peak_memory() - before;
    // 100,000 small objects have keys and headers too.
    assert!(grown < returned as u64 + (64 << 20), "{grown} for {returned} returned");
    let mut events = store.watch(&KeyRange::Handles, listing.revision - 60).await.unwrap();
    let before = current_memory();
    for _ in 0..60 {
        events.next().await.unwrap().unwrap();
        let grown = current_memory().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} for a watch, which holds a page of the history");
    }
    say("within bounds");
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    memory("VmHWM:")
}

fn current_memory() -> u64 {
    memory("VmRSS:")
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}
