//! Members that are killed, stopped, cut off or without a majority; histories that end, go back or are compacted.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::key::KeyRange;
use datastore::config::EtcdConfig;
use datastore::etcd::EtcdStore;
use datastore::watcher::{self, Update};
use datastore::{DynStore, Error, Event, Store, WatchStream};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::handle;
use crate::server::{Cable, Cluster, PATIENCE, Relay, Server, free_ports};

/// Requests and watches are with another member after this: a probe's interval and its patience, and what a loaded machine adds.
const MOVED: Duration = Duration::from_secs(8);

/// Creates the key, whatever the outcome of single attempts.
async fn create(store: &DynStore, n: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.create(handle(&format!("{n:06}")), b"{}".into()).await {
            Ok(_) | Err(Error::AlreadyExists(_)) => return,
            Err(error @ (Error::Unknown(_) | Error::Unavailable(_))) => assert!(Instant::now() < deadline, "{error}"),
            Err(error) => panic!("{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The next event is the creation of this key: nothing was missed, and nothing comes twice.
async fn expect(stream: &mut WatchStream, n: u64) {
    let event = timeout(PATIENCE, stream.next()).await.expect("an event arrives").expect("the watch goes on").unwrap();
    let Event::Put(kv) = event else { panic!("{event:?}") };
    assert_eq!(kv.key, handle(&format!("{n:06}")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn an_endpoint_that_is_down_at_the_start_does_not_matter() {
    let server = Server::start(None).await;
    let [closed, also_closed] = free_ports();
    let mut endpoints = server.config().endpoints;
    endpoints.extend([closed, also_closed].map(|port| format!("http://127.0.0.1:{port}")));
    for n in 0..12 {
        // Each begins with a member at random.
        let started = Instant::now();
        let config = EtcdConfig { endpoints: endpoints.clone(), ..EtcdConfig::default() };
        let store = EtcdStore::connect(&config).await.unwrap();
        let store: DynStore = Arc::new(store);
        let stream = store.watch(&KeyRange::Handles, 0).await;
        // A write is not refused either: nothing of it was sent to where nobody listens.
        store.create(handle(&n.to_string()), b"{}".into()).await.unwrap();
        assert!(stream.is_ok());
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

/// The index of the member that the store uses.
fn in_use(cluster: &Cluster, store: &EtcdStore) -> usize {
    cluster.config(&[0, 1, 2]).endpoints.iter().position(|endpoint| endpoint == store.endpoint_in_use()).unwrap()
}

/// The member in use is stopped, then the next is killed: requests and the same watch go on at another, without a gap or a
/// double.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn requests_and_watches_move_to_a_member_that_answers() {
    let mut cluster = Cluster::start().await;
    let etcd = Arc::new(EtcdStore::connect(&cluster.config(&[0, 1, 2])).await.unwrap());
    let store: DynStore = etcd.clone();
    let mut stream = store.watch(&KeyRange::Handles, 0).await.unwrap();
    for (n, how) in [(0, "-STOP"), (3, "-KILL")] {
        let victim = in_use(&cluster, &etcd);
        let others: Vec<usize> = (0..3).filter(|member| *member != victim).collect();
        let elsewhere = cluster.open(&others).await;
        create(&elsewhere, n).await;
        expect(&mut stream, n).await;
        if how == "-STOP" {
            cluster.signal(victim, how)
        } else {
            cluster.kill(victim)
        }
        let started = Instant::now();
        create(&elsewhere, n + 1).await;
        let written = started.elapsed();
        expect(&mut stream, n + 1).await;
        let watched = started.elapsed();
        println!("{how}: the watch went on after {watched:?}, the write elsewhere after {written:?}");
        assert!(watched < MOVED, "{how}: a watch took {watched:?}, {written:?} of it the write");
        let asked = Instant::now();
        store.get(&handle("x")).await.unwrap();
        create(&store, n + 2).await;
        expect(&mut stream, n + 2).await;
        assert!(asked.elapsed() < MOVED, "{how}: requests took {:?}", asked.elapsed());
        if how == "-STOP" { cluster.signal(victim, "-CONT") } else { cluster.revive(victim).await }
    }
    // A request that is the first to meet a member that hangs.
    cluster.signal(in_use(&cluster, &etcd), "-STOP");
    let asked = Instant::now();
    // The others may have to elect a leader first.
    while let Err(error) = store.get(&handle("x")).await {
        assert!(asked.elapsed() < MOVED, "{error}");
    }
    println!("a read that met a stopped member took {:?}", asked.elapsed());
    assert!(asked.elapsed() < MOVED, "{:?}", asked.elapsed());
}

/// A connection on which nothing passes any more, and that nobody closes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_half_open_connection_is_noticed() {
    let server = Server::start(None).await;
    let (first, second) = (Relay::start(server.client_port).await, Relay::start(server.client_port).await);
    second.set(Cable::Cut);
    let endpoints = [&first, &second].map(|relay| format!("http://127.0.0.1:{}", relay.port)).to_vec();
    let store = EtcdStore::connect(&EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    let store: DynStore = Arc::new(store);
    let mut stream = store.watch(&KeyRange::Handles, 0).await.unwrap();
    let direct = server.open().await;
    second.set(Cable::Whole);
    first.set(Cable::Silent);
    let started = Instant::now();
    create(&direct, 0).await;
    expect(&mut stream, 0).await;
    println!("half-open: the watch went on after {:?}", started.elapsed());
    assert!(started.elapsed() < MOVED, "{:?}", started.elapsed());
    store.get(&handle("x")).await.unwrap();
}

/// A member that has lost its majority answers no read with what it remembers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_member_without_a_majority_says_so() {
    let cluster = Cluster::start().await;
    let store = cluster.open(&[0]).await;
    create(&store, 0).await;
    let mut stream = store.watch(&KeyRange::Handles, 0).await.unwrap();
    expect(&mut stream, 0).await;
    cluster.signal(1, "-STOP");
    cluster.signal(2, "-STOP");
    // Its lease on the lead, or its trust in a leader, ends within a few election timeouts.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let started = Instant::now();
        let outcome = store.get(&handle("000000")).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        // A signal takes a moment to stop a process that runs.
        let Err(error) = outcome else {
            assert!(Instant::now() < deadline, "a read without a majority");
            continue;
        };
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        if error.to_string().contains("majority") {
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
    }
    let error = store.create(handle("1"), b"{}".into()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "certainly not written: {error}");
    // The watch does not stay open and silent.
    let ended = timeout(PATIENCE, stream.next()).await.expect("the watch ends").unwrap();
    assert!(matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
    cluster.signal(1, "-CONT");
    cluster.signal(2, "-CONT");
    create(&store, 1).await;
    assert_eq!(store.list(&KeyRange::Handles).await.unwrap().items.len(), 2);
}

async fn next(updates: &mut tokio::sync::mpsc::Receiver<Update>) -> Update {
    timeout(PATIENCE, updates.recv()).await.expect("an update arrives").unwrap()
}

/// Puts by key and value, deletes by key, in any order.
async fn changes(updates: &mut tokio::sync::mpsc::Receiver<Update>, count: usize) -> BTreeMap<String, Option<String>> {
    let mut changes = BTreeMap::new();
    for _ in 0..count {
        let (key, value) = match next(updates).await {
            Update::Put(kv) => (kv.key, Some(String::from_utf8(kv.value).unwrap())),
            Update::Delete(key) => (key, None),
            Update::InSync => panic!("a second InSync"),
        };
        let name = key.to_string().rsplit('/').next().unwrap().to_string();
        assert!(changes.insert(name, value).is_none(), "{key} twice");
    }
    sleep(Duration::from_millis(300)).await;
    assert!(updates.is_empty(), "more than the difference: {:?}", updates.recv().await);
    changes
}

fn row(name: &str, value: Option<&str>) -> (String, Option<String>) {
    (name.into(), value.map(String::from))
}

/// What a watcher missed is compacted when it comes back: it sends the difference, and no delete of what is there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_compaction_while_away_is_a_difference() {
    let server = Server::start(None).await;
    let direct = server.open().await;
    for name in ["gone", "changed", "kept"] {
        direct.put(handle(name), b"1".into()).await.unwrap();
    }
    let relay = Relay::start(server.client_port).await;
    let config = EtcdConfig { endpoints: vec![format!("http://127.0.0.1:{}", relay.port)], ..EtcdConfig::default() };
    let store: DynStore = Arc::new(EtcdStore::connect(&config).await.unwrap());
    let mut updates = watcher::watch(store, vec![KeyRange::Handles]);
    for _ in 0..3 {
        assert!(matches!(next(&mut updates).await, Update::Put(_)));
    }
    assert_eq!(next(&mut updates).await, Update::InSync);
    relay.set(Cable::Cut);
    direct.delete(handle("gone"), None).await.unwrap();
    for value in ["2", "3"] {
        direct.put(handle("changed"), value.into()).await.unwrap();
    }
    let last = direct.put(handle("new"), b"1".into()).await.unwrap();
    direct.compact(last).await.unwrap();
    relay.set(Cable::Whole);
    let expected = BTreeMap::from([row("gone", None), row("changed", Some("3")), row("new", Some("1"))]);
    assert_eq!(changes(&mut updates, 3).await, expected);
    // And it goes on.
    direct.put(handle("kept"), b"2".into()).await.unwrap();
    assert_eq!(changes(&mut updates, 1).await, BTreeMap::from([row("kept", Some("2"))]));
}

/// etcd is made anew: revisions go back, and the same revision of the same key is another object.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_store_made_anew_is_a_difference() {
    let mut server = Server::start(None).await;
    let relay = Relay::start(server.client_port).await;
    let direct = server.open().await;
    for name in ["same", "other", "gone", "late"] {
        direct.put(handle(name), b"1".into()).await.unwrap();
    }
    let config = EtcdConfig { endpoints: vec![format!("http://127.0.0.1:{}", relay.port)], ..EtcdConfig::default() };
    let store: DynStore = Arc::new(EtcdStore::connect(&config).await.unwrap());
    let mut updates = watcher::watch(store, vec![KeyRange::Handles]);
    for _ in 0..4 {
        assert!(matches!(next(&mut updates).await, Update::Put(_)));
    }
    assert_eq!(next(&mut updates).await, Update::InSync);
    relay.set(Cable::Cut);
    server.kill();
    std::fs::remove_dir_all(server.directory.path().join("data")).unwrap();
    server.restart().await;
    let direct = server.open().await;
    // At the revisions of before: one with the same value, one with another.
    direct.put(handle("same"), b"1".into()).await.unwrap();
    direct.put(handle("other"), b"2".into()).await.unwrap();
    relay.set(Cable::Whole);
    let expected = BTreeMap::from([row("other", Some("2")), row("gone", None), row("late", None)]);
    assert_eq!(changes(&mut updates, 3).await, expected);
    direct.put(handle("same"), b"3".into()).await.unwrap();
    assert_eq!(changes(&mut updates, 1).await, BTreeMap::from([row("same", Some("3"))]));
}

/// A lease is kept alive through changes of the leader, and its key with it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_lease_outlives_the_leader() {
    let mut cluster = Cluster::start().await;
    let store = cluster.open(&[0, 1, 2]).await;
    let leases = store.leases().expect("etcd has leases");
    let lease = leases.grant(Duration::from_secs(2)).await.unwrap();
    let txn = datastore::Txn { ops: vec![datastore::Op::Create(handle("leased"), b"{}".into())] };
    leases.txn_with_lease(txn, lease).await.unwrap();
    let is_done = AtomicBool::new(false);
    let keep = async {
        while !is_done.load(Ordering::Relaxed) {
            if let Ok(is_alive) = leases.keep_alive(lease).await {
                assert!(is_alive, "the lease ended although it was kept alive");
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let change = async {
        for member in 0..3 {
            cluster.kill(member);
            sleep(Duration::from_millis(1200)).await;
            cluster.revive(member).await;
        }
        is_done.store(true, Ordering::Relaxed);
    };
    tokio::join!(keep, change);
    assert!(store.get(&handle("leased")).await.unwrap().is_some());
    leases.revoke(lease).await.unwrap();
    leases.revoke(lease).await.unwrap();
    assert!(!leases.keep_alive(lease).await.unwrap());
    assert!(store.get(&handle("leased")).await.unwrap().is_none(), "a revoked lease takes its keys along");
}

/// The test starts itself with this in a network namespace of its own.
const IN_NAMESPACE: &str = "TORTIE_TEST_NAMESPACE";

/// Every packet to and from a member in use is dropped: nothing is refused, and nothing is closed.
#[test]
#[ignore = "needs network namespaces"]
fn a_member_behind_a_firewall_that_drops_is_left() {
    if std::env::var(IN_NAMESPACE).is_ok() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(leave_what_is_dropped());
    }
    let this = "exec \"$0\" --exact failover::a_member_behind_a_firewall_that_drops_is_left --ignored --nocapture";
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-ec", &format!("ip link set lo up; {this}")]);
    let status = command.arg(std::env::current_exe().unwrap()).env(IN_NAMESPACE, "1").status().unwrap();
    assert!(status.success());
}

async fn leave_what_is_dropped() {
    let nft = |rules: &str| assert!(Command::new("nft").arg(rules).status().unwrap().success(), "{rules}");
    let cluster = Cluster::start().await;
    let store = Arc::new(EtcdStore::connect(&cluster.config(&[0, 1, 2])).await.unwrap());
    let mut stream = store.watch(&KeyRange::Handles, 0).await.unwrap();
    let member = in_use(&cluster, &store);
    let port = cluster.ports[member][0];
    let elsewhere = cluster.open(&[(member + 1) % 3]).await;
    nft(&format!(
        "add table inet t; add chain inet t input {{ type filter hook input priority 0; }}; \
         add rule inet t input tcp dport {port} drop; add rule inet t input tcp sport {port} drop"
    ));
    let started = Instant::now();
    create(&elsewhere, 0).await;
    expect(&mut stream, 0).await;
    println!("a firewall that drops: the watch went on after {:?}", started.elapsed());
    assert!(started.elapsed() < MOVED, "{:?}", started.elapsed());
    let store: DynStore = store;
    let asked = Instant::now();
    create(&store, 1).await;
    expect(&mut stream, 1).await;
    assert!(asked.elapsed() < MOVED, "{:?}", asked.elapsed());
}
