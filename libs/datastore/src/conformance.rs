//! The suite that every store passes. Each function takes a way to open the store, opens it as often as it needs connections,
//! and panics with what it found. Each works in a namespace of its own, so that one store can serve them all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::key::{AffinityOwner, Key, KeyRange};
use api::kind::Kind;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::timeout;

use crate::store::{DynStore, Error, Event, Listing, Op, Revision, Store, Txn, WatchStream};
use crate::watcher::{self, Update};

/// Opens one more connection to the store under test.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, DynStore> + Send + Sync>;

/// No event of a healthy store takes longer, however loaded the machine.
const PATIENCE: Duration = Duration::from_secs(30);
const WRITERS: u64 = 64;
const INCREMENTS: u64 = 8;
const COUNTERS: u64 = 4;

/// An [`Open`] from a function.
pub fn open_with<F, Fut>(open: F) -> Open
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = DynStore> + Send + 'static,
{
    Arc::new(move || Box::pin(open()))
}

/// The whole suite, one part after another.
pub async fn all(open: Open) {
    operations(&open).await;
    transactions_are_atomic(&open).await;
    listings_hold_their_range(&open).await;
    any_value_and_name_survives(&open).await;
    watches_miss_and_repeat_nothing(&open).await;
    watches_see_a_transaction_as_one_revision(&open).await;
    concurrent_writers_lose_nothing(&open).await;
    watcher_follows_the_store(&open).await;
    compaction_is_reported(&open).await;
}

/// The suite of a store that has no transactions and does not compact: [`Store::has_transactions`] is false.
pub async fn without_transactions(open: Open) {
    operations(&open).await;
    several_operations_are_refused(&open).await;
    listings_hold_their_range(&open).await;
    any_value_and_name_survives(&open).await;
    watches_miss_and_repeat_nothing(&open).await;
    concurrent_writers_lose_nothing(&open).await;
    watcher_follows_the_store(&open).await;
}

fn key(test: &str, name: &str) -> Key {
    Key::resource(Kind::WorkloadEndpoint, Some(test), name)
}

fn range(test: &str) -> KeyRange {
    KeyRange::Namespace(Kind::WorkloadEndpoint, test.into())
}

fn one(op: Op) -> Txn {
    Txn { ops: vec![op] }
}

async fn put(store: &dyn Store, key: &Key, value: &str) -> Revision {
    store.put(key.clone(), value.into()).await.expect("an unconditional put succeeds")
}

async fn list(store: &dyn Store, range: &KeyRange) -> Listing {
    let listing = store.list(range).await.expect("a listing succeeds");
    let keys = store.list_keys(range).await.expect("a listing of keys succeeds");
    if keys.revision == listing.revision {
        let of = |l: &Listing| l.items.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect::<Vec<_>>();
        assert_eq!(of(&keys), of(&listing), "a listing of keys has the keys of a listing");
    }
    listing
}

async fn next(stream: &mut WatchStream) -> Event {
    let item = timeout(PATIENCE, stream.next()).await.expect("an event arrives");
    item.expect("the watch does not end").expect("the watch does not fail")
}

/// What became of an operation, without its key.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    AlreadyExists,
    NotFound,
    Conflict,
}

fn outcome(result: Result<Revision, Error>, expected_key: &Key) -> Outcome {
    let (outcome, key) = match result {
        Ok(_) => return Outcome::Written,
        Err(Error::AlreadyExists(key)) => (Outcome::AlreadyExists, key),
        Err(Error::NotFound(key)) => (Outcome::NotFound, key),
        Err(Error::Conflict(key)) => (Outcome::Conflict, key),
        Err(other) => panic!("unexpected error: {other}"),
    };
    assert_eq!(&key, expected_key, "the error names the key");
    outcome
}

/// Every operation, on an absent key, a present one, and one that has changed since it was read.
pub async fn operations(open: &Open) {
    let store = open().await;
    let absent = key("operations", "absent");
    type Make = fn(Key, Revision) -> Op;
    // (operation; on an absent key; at the present revision; at an older revision)
    let rows: [(&str, Make, Outcome, Outcome, Outcome); 9] = [
        (
            "create",
            |k, _| Op::Create(k, b"new".into()),
            Outcome::Written,
            Outcome::AlreadyExists,
            Outcome::AlreadyExists,
        ),
        ("update", |k, r| Op::Update(k, b"new".into(), r), Outcome::NotFound, Outcome::Written, Outcome::Conflict),
        ("put", |k, _| Op::Put(k, b"new".into()), Outcome::Written, Outcome::Written, Outcome::Written),
        ("delete", |k, _| Op::Delete(k, None), Outcome::NotFound, Outcome::Written, Outcome::Written),
        ("delete at", |k, r| Op::Delete(k, Some(r)), Outcome::NotFound, Outcome::Written, Outcome::Conflict),
        (
            "at 0: update",
            |k, _| Op::Update(k, b"new".into(), 0),
            Outcome::NotFound,
            Outcome::Conflict,
            Outcome::Conflict,
        ),
        ("at 0: delete", |k, _| Op::Delete(k, Some(0)), Outcome::NotFound, Outcome::Conflict, Outcome::Conflict),
        ("check", Op::Check, Outcome::NotFound, Outcome::Written, Outcome::Conflict),
        ("check absent", |k, _| Op::Check(k, 0), Outcome::Written, Outcome::Conflict, Outcome::Conflict),
    ];
    for (name, make, if_absent, if_present, if_changed) in rows {
        let some_revision = put(&*store, &key("operations", "other"), "x").await;
        assert_eq!(
            outcome(store.txn(one(make(absent.clone(), some_revision))).await, &absent),
            if_absent,
            "{name}, absent"
        );
        let _ = store.delete(absent.clone(), None).await;

        let present = key("operations", "present");
        let revision = put(&*store, &present, "old").await;
        let result = store.txn(one(make(present.clone(), revision))).await;
        let written = result.clone().ok();
        assert_eq!(outcome(result, &present), if_present, "{name}, present");
        let found = store.get(&present).await.expect("a read succeeds");
        if let (Outcome::Written, false, Some(kv)) = (&if_present, name.starts_with("check"), &found) {
            assert_eq!((&kv.value[..], Some(kv.mod_revision)), (&b"new"[..], written), "{name}");
            assert!(kv.mod_revision > revision, "{name}: revisions grow");
        }
        assert_eq!(found.is_none(), name.starts_with("delete"), "{name}");

        let before = put(&*store, &present, "old").await;
        put(&*store, &present, "newer").await;
        assert_eq!(
            outcome(store.txn(one(make(present.clone(), before))).await, &present),
            if_changed,
            "{name}, changed"
        );
    }
}

/// All operations of a transaction happen, at one revision, or none does; the first that fails is named.
pub async fn transactions_are_atomic(open: &Open) {
    let store = open().await;
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| key("atomic", name));
    let at_a = put(&*store, &a, "1").await;
    let at_b = put(&*store, &b, "1").await;
    let at_d = put(&*store, &d, "1").await;

    let before = list(&*store, &range("atomic")).await.items;
    let failing = [
        (vec![Op::Put(a.clone(), b"2".into()), Op::Create(b.clone(), b"2".into())], Outcome::AlreadyExists, &b),
        (
            vec![Op::Update(a.clone(), b"2".into(), at_a), Op::Update(c.clone(), b"2".into(), at_a)],
            Outcome::NotFound,
            &c,
        ),
        (vec![Op::Delete(a.clone(), None), Op::Check(b.clone(), at_b + 1)], Outcome::Conflict, &b),
        (
            vec![Op::Create(c.clone(), b"2".into()), Op::Delete(a.clone(), Some(at_a - 1)), Op::Check(b.clone(), 0)],
            Outcome::Conflict,
            &a,
        ),
    ];
    for (ops, expected, at) in failing {
        assert_eq!(outcome(store.txn(Txn { ops: ops.clone() }).await, at), expected, "{ops:?}");
        assert_eq!(list(&*store, &range("atomic")).await.items, before, "{ops:?} left something");
    }

    let ops = vec![
        Op::Update(a.clone(), b"2".into(), at_a),
        Op::Check(b.clone(), at_b),
        Op::Create(c.clone(), b"2".into()),
        Op::Delete(d.clone(), Some(at_d)),
    ];
    let revision = store.txn(Txn { ops }).await.expect("every condition holds");
    let items = list(&*store, &range("atomic")).await.items;
    let found: Vec<_> = items.iter().map(|kv| (&kv.key, &kv.value[..], kv.mod_revision)).collect();
    assert_eq!(found, [(&a, &b"2"[..], revision), (&b, b"1", at_b), (&c, b"2", revision)]);

    let twice = Txn { ops: vec![Op::Put(a.clone(), b"3".into()), Op::Put(a.clone(), b"4".into())] };
    assert!(matches!(store.txn(twice).await, Err(Error::Invalid(_))), "a key that is named twice is refused");
}

/// A store without transactions says so, and writes nothing of one.
pub async fn several_operations_are_refused(open: &Open) {
    let store = open().await;
    assert!(!store.has_transactions());
    let ops = ["a", "b"].map(|name| Op::Put(key("atomic", name), b"1".into()));
    assert!(matches!(store.txn(Txn { ops: ops.to_vec() }).await, Err(Error::Invalid(_))));
    assert_eq!(list(&*store, &range("atomic")).await.items, []);
}

/// A listing holds every object of its range, sorted, and none of a range whose name merely starts the same.
pub async fn listings_hold_their_range(open: &Open) {
    let store = open().await;
    let cidr = |n: u8| format!("10.77.{n}.0/26").parse().expect("a CIDR");
    let owners = ["node-1", "node-10", "node-1.example", "node-2"].map(|n| AffinityOwner::Host(n.into()));
    for (n, owner) in (0..).zip(&owners) {
        for i in [8, 0] {
            put(&*store, &Key::BlockAffinity(owner.clone(), cidr(n * 16 + i)), "{}").await;
        }
    }
    for (n, owner) in (0..).zip(&owners) {
        let listing = list(&*store, &KeyRange::AffinitiesOf(owner.clone())).await;
        let keys: Vec<Key> = listing.items.into_iter().map(|kv| kv.key).collect();
        let expected = [0, 8].map(|i| Key::BlockAffinity(owner.clone(), cidr(n * 16 + i)));
        assert_eq!(keys.len(), 2, "{owner:?}: {keys:?}");
        assert!(expected.iter().all(|key| keys.contains(key)), "{owner:?}: {keys:?}");
        assert!(keys.is_sorted_by_key(ToString::to_string), "{keys:?}");
    }
    for (namespace, name) in [("list", "a"), ("list-2", "b"), ("lis", "c")] {
        put(&*store, &key(namespace, name), "{}").await;
    }
    let listing = list(&*store, &range("list")).await;
    assert_eq!(listing.items.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), [key("list", "a")]);
    assert!(listing.revision >= listing.items[0].mod_revision);
    let empty = list(&*store, &range("nothing-here")).await;
    assert!(empty.items.is_empty() && empty.revision >= listing.revision, "an empty listing has a revision too");

    // More than one page of any store.
    let writes = (0..2300).map(|n| {
        let store = store.clone();
        async move { put(&*store, &key("many", &format!("w{n:05}")), "{}").await }
    });
    futures::stream::iter(writes).buffer_unordered(64).collect::<Vec<_>>().await;
    let listing = list(&*store, &range("many")).await;
    assert_eq!(listing.items.len(), 2300);
    assert!(listing.items.is_sorted_by_key(|kv| kv.key.to_string()));
}

/// Values up to 1 MiB, empty values, and names in any script.
pub async fn any_value_and_name_survives(open: &Open) {
    let store = open().await;
    let mut stream = {
        let from = list(&*store, &range("values")).await.revision;
        store.watch(&range("values"), from).await.expect("a watch opens")
    };
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let rows = [
        ("large", large),
        ("empty", Vec::new()),
        ("łódź-水-🦀", "\"ünïcödé\"".into()),
        ("percent-%25 _", b"{}".to_vec()),
    ];
    for (name, value) in rows {
        let key = key("values", name);
        let revision = store.create(key.clone(), value.clone()).await.expect("a create succeeds");
        let read = store.get(&key).await.expect("a read succeeds").expect("it is there");
        assert_eq!((&read.key, read.mod_revision), (&key, revision));
        assert!(read.value == value, "{name}: the value differs");
        match next(&mut stream).await {
            Event::Put(kv) => assert!(kv == read, "{name}: the event differs"),
            event => panic!("{name}: {event:?}"),
        }
    }
    assert_eq!(list(&*store, &range("values")).await.items.len(), 4);
}

/// A watch from any revision gives exactly the writes after it, in order, also those of other connections and those made
/// while nobody watched. A store without transactions may not know when a deletion happened: the revision that it returned is
/// not later.
pub async fn watches_miss_and_repeat_nothing(open: &Open) {
    const WRITES: usize = 300;
    let (reader, writer) = (open().await, open().await);
    let start = list(&*reader, &range("watch")).await.revision;
    let early = reader.watch(&range("watch"), start).await.expect("a watch opens");
    let mut expected = Vec::new();
    for n in 0..WRITES {
        let key = key("watch", &format!("k{}", n % 7));
        // Writes outside the range are not seen.
        put(&*writer, &self::key("watch-2", "noise"), "{}").await;
        if n % 5 == 4 && writer.get(&key).await.expect("a read succeeds").is_some() {
            let revision = writer.delete(key.clone(), None).await.expect("it is there");
            expected.push((key, revision, None));
        } else {
            let revision = put(&*writer, &key, &n.to_string()).await;
            expected.push((key, revision, Some(n.to_string().into_bytes())));
        }
    }
    let mut watches = vec![(0, early)];
    let knows_deletions = reader.has_transactions();
    for skip in [0, 1, WRITES / 2, WRITES - 1] {
        let skip = skip - usize::from(!knows_deletions && skip > 0 && expected[skip - 1].2.is_none());
        let from = if skip == 0 { start } else { expected[skip - 1].1 };
        watches.push((skip, reader.watch(&range("watch"), from).await.expect("a watch opens")));
    }
    for (skip, mut stream) in watches {
        for row in &expected[skip..] {
            let seen = match next(&mut stream).await {
                Event::Put(kv) => (kv.key, kv.mod_revision, Some(kv.value)),
                Event::Delete { key, revision } if !knows_deletions && revision > row.1 => (key, row.1, None),
                Event::Delete { key, revision } => (key, revision, None),
            };
            assert_eq!(&seen, row, "watching after {skip} writes");
        }
        let silence = timeout(Duration::from_millis(50), stream.next()).await;
        assert!(silence.is_err(), "an event that nobody wrote: {silence:?}");
    }
}

/// The writes of a transaction reach a watch together, in the order of its operations' keys or of the operations.
pub async fn watches_see_a_transaction_as_one_revision(open: &Open) {
    let (reader, writer) = (open().await, open().await);
    let from = list(&*reader, &range("watch-txn")).await.revision;
    let mut stream = reader.watch(&range("watch-txn"), from).await.expect("a watch opens");
    for round in 0..20 {
        let ops = ["a", "b", "c"].map(|name| Op::Put(key("watch-txn", name), round.to_string().into_bytes()));
        let revision = writer.txn(Txn { ops: ops.to_vec() }).await.expect("an unconditional write succeeds");
        let mut keys = Vec::new();
        for _ in 0..3 {
            let event = next(&mut stream).await;
            assert_eq!(event.revision(), revision);
            keys.push(event.key().clone());
        }
        assert_eq!(keys, ["a", "b", "c"].map(|name| key("watch-txn", name)));
    }
}

/// Many connections increment counters by compare-and-swap: every acknowledged increment counts, and a watch sees each counter
/// at each value exactly once.
pub async fn concurrent_writers_lose_nothing(open: &Open) {
    let store = open().await;
    let counters: Vec<Key> = (0..COUNTERS).map(|n| key("count", &format!("counter{n}"))).collect();
    for counter in &counters {
        put(&*store, counter, "0").await;
    }
    let from = list(&*store, &range("count")).await.revision;
    let mut stream = store.watch(&range("count"), from).await.expect("a watch opens");
    let writers = (0..WRITERS).map(|n| {
        let (open, counter) = (open.clone(), counters[(n % COUNTERS) as usize].clone());
        tokio::spawn(async move {
            let store = open().await;
            for _ in 0..INCREMENTS {
                increment(&*store, &counter).await;
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("a writer does not fail");
    }
    let per_counter = WRITERS / COUNTERS * INCREMENTS;
    for kv in list(&*store, &range("count")).await.items {
        assert_eq!(number(&kv.value), per_counter, "{}", kv.key);
    }
    let mut last: BTreeMap<Key, u64> = BTreeMap::new();
    for _ in 0..WRITERS * INCREMENTS {
        let Event::Put(kv) = next(&mut stream).await else { panic!("nobody deletes a counter") };
        let before = last.insert(kv.key.clone(), number(&kv.value)).unwrap_or_default();
        assert_eq!(number(&kv.value), before + 1, "{}", kv.key);
    }
}

/// Adds one to the counter under `key`, by compare-and-swap.
pub async fn increment(store: &dyn Store, key: &Key) {
    loop {
        let kv = store.get(key).await.expect("a read succeeds").expect("the counter is there");
        let value = (number(&kv.value) + 1).to_string().into_bytes();
        match store.update(key.clone(), value, kv.mod_revision).await {
            Ok(_) => return,
            Err(Error::Conflict(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|s| s.parse().ok()).expect("a counter holds a number")
}

/// [`watcher::watch`] gives the state, in-sync once, and then every change.
pub async fn watcher_follows_the_store(open: &Open) {
    let (store, writer) = (open().await, open().await);
    for n in 0..10 {
        put(&*writer, &key("follow", &format!("w{n}")), "0").await;
    }
    let mut updates = watcher::watch(store.clone(), vec![range("follow"), range("follow-2")]);
    let mut mirror = BTreeMap::new();
    let mut in_syncs = 0;
    let mut apply = |update: Update| {
        match update {
            Update::InSync => in_syncs += 1,
            Update::Put(kv) => drop(mirror.insert(kv.key.clone(), kv)),
            Update::Delete(key) => assert!(mirror.remove(&key).is_some(), "{key} was never put"),
        }
        (mirror.values().cloned().collect::<Vec<_>>(), in_syncs)
    };
    for _ in 0..11 {
        let (state, in_syncs) =
            apply(timeout(PATIENCE, updates.recv()).await.expect("an update").expect("it never ends"));
        assert_eq!(
            in_syncs == 1,
            state.len() == 10 && updates.is_empty() && in_syncs > 0,
            "in-sync comes after the state"
        );
    }
    for n in 0..10 {
        put(&*writer, &key("follow", &format!("w{n}")), "1").await;
        writer.delete(key("follow", &format!("w{n}")), None).await.expect("it is there");
        put(&*writer, &key("follow-2", &format!("w{n}")), "1").await;
    }
    for _ in 0..30 {
        apply(timeout(PATIENCE, updates.recv()).await.expect("an update").expect("it never ends"));
    }
    assert_eq!(mirror.into_values().collect::<Vec<_>>(), list(&*store, &range("follow-2")).await.items);
    assert_eq!(in_syncs, 1);
}

/// A watch from a revision whose history is gone says so; one from the compaction on works, and so does the watcher.
pub async fn compaction_is_reported(open: &Open) {
    let store = open().await;
    let old = put(&*store, &key("compact", "k"), "0").await;
    for n in 1..10 {
        put(&*store, &key("compact", "k"), &n.to_string()).await;
    }
    let compacted = list(&*store, &range("compact")).await.revision;
    let last = put(&*store, &key("compact", "k"), "10").await;
    store.compact(compacted).await.expect("a compaction succeeds");

    let refusal = match store.watch(&range("compact"), old).await {
        Err(e) => e,
        Ok(mut stream) => {
            let item =
                timeout(PATIENCE, stream.next()).await.expect("an answer arrives").expect("the reason comes first");
            let error = item.expect_err("history that is gone");
            assert!(stream.next().await.is_none(), "an error is the last item");
            error
        }
    };
    assert!(matches!(refusal, Error::Compacted(_)), "{refusal}");

    let mut stream = store.watch(&range("compact"), compacted).await.expect("a watch opens");
    assert_eq!(next(&mut stream).await.revision(), last);
    assert_eq!(list(&*store, &range("compact")).await.items.len(), 1, "compaction keeps what is present");

    // A revision that this store has not reached is one of another life of it.
    let mut stream = match store.watch(&range("compact"), last + 1_000_000).await {
        Err(Error::Compacted(_)) => return,
        Err(e) => panic!("{e}"),
        Ok(stream) => stream,
    };
    let item = timeout(PATIENCE, stream.next()).await.expect("an answer arrives");
    assert!(matches!(item, Some(Err(Error::Compacted(_)))), "{item:?}");
}
