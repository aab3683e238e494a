//! Leader election: processes that are killed, stopped and ended, stores that fail; never two leaders at once, by the leaders'
//! own judgement.

#[allow(dead_code, reason = "the tests of etcd use the rest")]
#[path = "etcd/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::key::{Key, KeyRange};
use datastore::config::from_env;
use datastore::election::{Election, Leadership, Settings, leader, run_as_leader};
use datastore::memory::{Fault, MemoryStore};
use datastore::sqlite::SqliteStore;
use datastore::{DynStore, Error, Op};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// The candidate that a child process is: the test binary starts itself with this and runs [`child`].
const CANDIDATE: &str = "TORTIE_TEST_CANDIDATE";
const NAME: &str = "test";
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a leader acts.
const PACE: Duration = Duration::from_millis(5);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn fence() -> Key {
    Key::IpamHandle("fence".into())
}

fn nanos_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// etcd gives no lease of less than 2 s.
fn settings() -> Settings {
    Settings::new(millis(2000), millis(1200), millis(300)).unwrap()
}

/// Not a test by itself: a candidate in a process of its own. A line for each act, made while it held itself for the leader,
/// and one for each write that the store took.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(identity) = std::env::var(CANDIDATE) else { return };
    let store = from_env().unwrap().open().await.unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let election = Election { store: store.clone(), name: NAME.into(), identity, settings: settings() };
    let shutdown = async move {
        let _ = terminate.recv().await;
    };
    let work = |leadership: Leadership| {
        let store = store.clone();
        async move {
            let term = leader(&store, NAME).await.unwrap().map_or(0, |record| record.transitions);
            loop {
                let now = nanos_now();
                if leadership.is_held() {
                    say(&format!("act {now} {term}"));
                }
                if let Ok(revision) = leadership.txn(vec![Op::Put(fence(), b"{}".into())]).await {
                    say(&format!("write {revision} {term}"));
                }
                tokio::time::sleep(PACE).await;
            }
        }
    };
    run_as_leader::<(), _>(election, shutdown, work).await.unwrap();
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// What one candidate did: at this time, or revision, in this term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deed {
    at: u128,
    term: u64,
    who: usize,
}

#[derive(Default)]
struct Journal {
    acts: Vec<Deed>,
    writes: Vec<Deed>,
}

/// Candidates in processes of their own, and what they say.
struct Candidates {
    environment: Vec<(&'static str, String)>,
    processes: BTreeMap<usize, Child>,
    journal: Arc<Mutex<Journal>>,
    count: usize,
}

impl Candidates {
    fn start(environment: Vec<(&'static str, String)>, count: usize) -> Self {
        let mut candidates = Self { environment, processes: BTreeMap::new(), journal: Arc::default(), count: 0 };
        (0..count).for_each(|_| candidates.add());
        candidates
    }

    fn add(&mut self) {
        let who = self.count;
        self.count += 1;
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CANDIDATE, format!("candidate-{who}"))
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let journal = self.journal.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                let ["act" | "write", at, term] = words[..] else { continue };
                let deed = Deed { at: at.parse().unwrap(), term: term.parse().unwrap(), who };
                let mut journal = journal.lock().unwrap();
                if words[0] == "act" { journal.acts.push(deed) } else { journal.writes.push(deed) }
            }
        });
        self.processes.insert(who, process);
    }

    /// Waits until somebody acts after `since`; who and when.
    async fn acts_after(&self, since: u128) -> Deed {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let acts = self.journal.lock().unwrap().acts.iter().copied().filter(|act| act.at > since).min();
            if let Some(act) = acts {
                return act;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(millis(10)).await;
        }
    }

    /// Waits until another acts, later than this one ever did.
    async fn acts_of_others(&self, than: usize) -> Deed {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.last_act_of(than);
            let act = self.acts_after(last).await;
            if act.who != than {
                return act;
            }
            assert!(Instant::now() < deadline, "nobody else leads");
            tokio::time::sleep(millis(10)).await;
        }
    }

    fn last_act_of(&self, who: usize) -> u128 {
        self.journal.lock().unwrap().acts.iter().filter(|act| act.who == who).map(|act| act.at).max().unwrap()
    }

    fn signal(&self, who: usize, name: &str) {
        let pid = self.processes[&who].id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end of one that was told to end.
    fn join(&mut self, who: usize) -> bool {
        self.processes.remove(&who).unwrap().wait().unwrap().success()
    }

    /// Never two leaders at once: in the order of time, terms only grow, and each is one candidate's. Likewise what the store
    /// took, in the order of revisions.
    fn judge(&self) {
        let journal = self.journal.lock().unwrap();
        for (what, deeds) in [("acts", &journal.acts), ("writes", &journal.writes)] {
            let mut deeds = deeds.clone();
            deeds.sort();
            assert!(!deeds.is_empty(), "no {what}");
            let mut leaders: BTreeMap<u64, usize> = BTreeMap::new();
            for pair in deeds.windows(2) {
                assert!(pair[0].term <= pair[1].term, "{what}: term {} after {}", pair[1].term, pair[0].term);
            }
            for deed in deeds {
                assert_eq!(*leaders.entry(deed.term).or_insert(deed.who), deed.who, "{what}: two led in {}", deed.term);
            }
        }
    }
}

impl Drop for Candidates {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Three candidates: the leader is killed, then stopped for longer than its lease, then ended.
async fn leaders_come_and_go(store: DynStore, environment: Vec<(&'static str, String)>) {
    let mut candidates = Candidates::start(environment, 3);
    let first = candidates.acts_after(0).await.who;
    candidates.signal(first, "-KILL");
    candidates.join(first);
    let killed = candidates.last_act_of(first);
    let second = candidates.acts_after(killed).await;
    // The lease, and what a loaded machine adds.
    assert!(second.at - killed < millis(6000).as_nanos(), "{} ms", (second.at - killed) / 1_000_000);

    candidates.add();
    let second = loop {
        let leader = candidates.acts_after(nanos_now()).await.who;
        candidates.signal(leader, "-STOP");
        // Stopped within a transaction, it holds SQLite's lock, and everybody up.
        let probe = store.put(Key::IpamHandle("probe".into()), b"{}".into());
        if matches!(tokio::time::timeout(millis(1000), probe).await, Ok(Ok(_))) {
            break leader;
        }
        candidates.signal(leader, "-CONT");
    };
    let third = candidates.acts_of_others(second).await;
    candidates.signal(second, "-CONT");
    // The stopped one finds the world changed; `judge` sees whether it acts.
    tokio::time::sleep(millis(500)).await;

    let asked = nanos_now();
    candidates.signal(third.who, "-TERM");
    assert!(candidates.join(third.who), "a clean end");
    let last = candidates.last_act_of(third.who);
    let fourth = candidates.acts_after(last.max(asked)).await;
    let gap = (fourth.at - asked) / 1_000_000;
    println!("fail-over after a clean release: {gap} ms");
    assert!(gap < 1000, "{gap} ms");
    candidates.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_at_a_time_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tortie.db").display().to_string();
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    leaders_come_and_go(store, vec![("DATASTORE_TYPE", "sqlite".into()), ("SQLITE_PATH", path)]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn one_leads_at_a_time_on_etcd() {
    let server = server::Server::start(None).await;
    let environment = vec![("ETCD_ENDPOINTS", server.config().endpoints.join(","))];
    leaders_come_and_go(server.open().await, environment).await;
}

/// The store is away for longer than the leader may act without it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_leader_without_its_store_stops() {
    let mut server = server::Server::start(None).await;
    let candidates = Candidates::start(vec![("ETCD_ENDPOINTS", server.config().endpoints.join(","))], 2);
    candidates.acts_after(0).await;
    server.kill();
    let down = nanos_now();
    tokio::time::sleep(millis(2500)).await;
    let last = candidates.journal.lock().unwrap().acts.iter().map(|act| act.at).max().unwrap();
    assert!(last < down + millis(1200).as_nanos(), "it acted without its store");
    server.restart().await;
    candidates.acts_after(nanos_now()).await;
    candidates.judge();
}

/// Each member of etcd, its leader among them, is killed in turn.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn one_leads_at_a_time_through_etcds_own_elections() {
    let mut cluster = server::Cluster::start().await;
    let endpoints = cluster.config(&[0, 1, 2]).endpoints.join(",");
    let candidates = Candidates::start(vec![("ETCD_ENDPOINTS", endpoints)], 3);
    candidates.acts_after(0).await;
    for member in 0..3 {
        cluster.kill(member);
        tokio::time::sleep(millis(1500)).await;
        cluster.revive(member).await;
        candidates.acts_after(nanos_now()).await;
    }
    candidates.judge();
}

/// The key of a leader that died goes by itself, also when nobody is there to take it over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_dead_leaders_key_goes_by_itself_on_etcd() {
    let server = server::Server::start(None).await;
    let store = server.open().await;
    let mut candidates = Candidates::start(vec![("ETCD_ENDPOINTS", server.config().endpoints.join(","))], 1);
    candidates.acts_after(0).await;
    candidates.signal(0, "-KILL");
    candidates.join(0);
    let deadline = Instant::now() + PATIENCE;
    while store.get(&Key::Election(NAME.into())).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the key outlives its lease");
        tokio::time::sleep(millis(50)).await;
    }
    // A candidate that never saw the dead one need not wait.
    candidates.add();
    candidates.acts_after(candidates.last_act_of(0)).await;
}

fn election(store: &MemoryStore, identity: &str) -> Election {
    let settings = Settings::new(millis(600), millis(400), millis(50)).unwrap();
    Election { store: Arc::new(store.clone()), name: NAME.into(), identity: identity.into(), settings }
}

/// A task that leads until told to stop, and tells who leads.
struct Task {
    stop: Option<oneshot::Sender<()>>,
    handle: tokio::task::JoinHandle<Option<()>>,
}

impl Task {
    /// `leading` counts those that lead at this moment, by their own judgement.
    fn start(election: Election, leading: &Arc<AtomicUsize>, terms: &Arc<AtomicUsize>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (leading, terms) = (leading.clone(), terms.clone());
        let handle = tokio::spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
            };
            run_as_leader(election, shutdown, move |_| lead(Entered::new(&leading), terms.clone())).await.unwrap()
        });
        Self { stop: Some(stop), handle }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        assert_eq!(self.handle.await.unwrap(), None);
    }
}

async fn lead(_entered: Entered, terms: Arc<AtomicUsize>) {
    terms.fetch_add(1, Ordering::SeqCst);
    std::future::pending().await
}

/// One more leads for as long as this lives.
struct Entered(Arc<AtomicUsize>);

impl Entered {
    fn new(leading: &Arc<AtomicUsize>) -> Self {
        assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two leaders at once");
        Self(leading.clone())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(millis(1)).await;
    }
}

/// A store that fails in every way, and ten candidates that come and go.
#[tokio::test(flavor = "multi_thread")]
async fn outages_and_unknown_outcomes_never_make_two_leaders() {
    let store = MemoryStore::new();
    let (leading, terms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks: Vec<Task> =
        (0..10).map(|n| Task::start(election(&store, &format!("c{n}")), &leading, &terms)).collect();
    let faults = [Fault::UnknownApplied, Fault::UnknownLost, Fault::Conflict, Fault::Unavailable];
    for round in 0..12 {
        until("nobody leads", || leading.load(Ordering::SeqCst) == 1).await;
        match round % 4 {
            0 => faults.iter().for_each(|fault| store.fail_next_txn(*fault)),
            1 => {
                let before = terms.load(Ordering::SeqCst);
                store.set_unavailable(true);
                until("it leads without its store", || leading.load(Ordering::SeqCst) == 0).await;
                store.set_unavailable(false);
                until("nobody follows", || terms.load(Ordering::SeqCst) > before).await;
            }
            2 => {
                let key = Key::Election(NAME.into());
                datastore::Store::delete(&store, key, None).await.unwrap();
            }
            _ => tasks.remove(0).stop().await,
        }
        tokio::time::sleep(millis(60)).await;
    }
    for task in tasks {
        task.stop().await;
    }
    let released = leader(&(Arc::new(store) as DynStore), NAME).await.unwrap();
    assert_eq!(released, None);
}

/// What a leader writes depends on its lead, and renewals do not disturb it.
#[tokio::test(flavor = "multi_thread")]
async fn writes_of_a_leader_are_fenced() {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    let key = Key::Election(NAME.into());
    let work = |leadership: Leadership| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            // Longer than the renew deadline: many renewals come between.
            let end = Instant::now() + millis(600);
            while Instant::now() < end {
                leadership.txn(vec![Op::Put(fence(), b"1".into())]).await.unwrap();
                tokio::task::yield_now().await;
            }
            // The operations' own conditions are theirs.
            let error = leadership.txn(vec![Op::Create(fence(), b"2".into())]).await.unwrap_err();
            assert!(matches!(&error, Error::AlreadyExists(key) if *key == fence()), "{error}");
            // Another takes over behind its back.
            let record = r#"{"holderIdentity":"x","leaseDurationMilliseconds":9,"transitions":7,"renewals":0}"#;
            store.put(key.clone(), record.into()).await.unwrap();
            assert!(leadership.is_held(), "it cannot know yet");
            let late = leadership.txn(vec![Op::Put(fence(), b"late".into())]).await;
            unreachable!("the work goes on without the lead: {late:?}")
        }
    };
    let taken = async {
        // The intruder's record expires at once, and the next term writes what ends the test.
        let mut updates = datastore::watcher::watch(store.clone(), vec![KeyRange::Elections]);
        while let Some(update) = updates.recv().await {
            let datastore::watcher::Update::Put(kv) = update else { continue };
            if String::from_utf8_lossy(&kv.value).contains(r#""transitions":8"#) {
                return;
            }
        }
    };
    let ended = run_as_leader::<(), _>(election(&memory, "a"), taken, work).await.unwrap();
    assert_eq!(ended, None);
    assert_eq!(store.get(&fence()).await.unwrap().unwrap().value, b"1");
}

/// Without transactions a write cannot depend on the record; it is made while the clock says that the lead is held.
#[tokio::test(flavor = "multi_thread")]
async fn writes_of_a_leader_in_a_store_without_transactions() {
    let memory = MemoryStore::without_transactions();
    let kept = Arc::new(Mutex::new(None));
    let outcome = run_as_leader(election(&memory, "a"), std::future::pending(), |leadership| {
        *kept.lock().unwrap() = Some(leadership.clone());
        async move {
            let written = leadership.txn(vec![Op::Put(fence(), b"1".into())]).await;
            let other = Op::Put(Key::IpamHandle("other".into()), b"1".into());
            let several = leadership.txn(vec![Op::Put(fence(), b"2".into()), other]).await;
            (written, several)
        }
    });
    let (written, several) = outcome.await.unwrap().unwrap();
    written.unwrap();
    assert!(matches!(several, Err(Error::Invalid(_))), "{several:?}");
    let past = kept.lock().unwrap().take().unwrap();
    let late = past.txn(vec![Op::Put(fence(), b"late".into())]).await;
    assert!(matches!(&late, Err(Error::Conflict(Key::Election(_)))), "{late:?}");
    assert_eq!(datastore::Store::get(&memory, &fence()).await.unwrap().unwrap().value, b"1");
}

#[tokio::test]
async fn work_that_ends_releases_the_lead() {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    for n in 1..=3 {
        let never = std::future::pending();
        let started = Instant::now();
        let output = run_as_leader(election(&memory, "a"), never, |leadership| async move {
            assert!(leadership.is_held());
            n
        });
        assert_eq!(output.await.unwrap(), Some(n));
        assert!(started.elapsed() < millis(300), "a released lead is free at once: {:?}", started.elapsed());
        assert_eq!(leader(&store, NAME).await.unwrap(), None);
    }
}

#[test]
fn settings_and_names_are_checked() {
    let rows = [(15, 10, 2, true), (10, 10, 2, false), (15, 2, 2, false), (15, 10, 0, false)];
    for (lease, renew_deadline, retry, is_valid) in rows {
        let [a, b, c] = [lease, renew_deadline, retry].map(Duration::from_secs);
        assert_eq!(Settings::new(a, b, c).is_ok(), is_valid, "{lease} {renew_deadline} {retry}");
    }
}

#[tokio::test]
async fn a_name_that_is_no_key_is_refused() {
    for name in ["", "a/b"] {
        let election = Election { name: name.into(), ..election(&MemoryStore::new(), "a") };
        let error = run_as_leader(election, std::future::pending(), |_| async {}).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("holds no /"), "{error}");
    }
}
