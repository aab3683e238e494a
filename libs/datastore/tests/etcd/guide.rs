//! The guide's page on etcd: its commands, run as they stand there, with other addresses and paths.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, KeyRange};
use datastore::config::EtcdConfig;
use datastore::election::{Election, Settings, leader, run_as_leader};
use datastore::etcd::EtcdStore;
use datastore::watcher::{self, Update};
use datastore::{DynStore, Error, Op, Store, Txn};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::handle;
use crate::server::{PATIENCE, Server, Tls, free_ports, make_certificates, wait};

/// The indented block after the mark of this name, with each `from` made `to`.
pub fn block(name: &str, replace: &[(&str, &str)]) -> String {
    let page = include_str!("../../../../docs/guide/etcd.md");
    let mark = format!("<!-- tested: {name} -->\n");
    let (_, after) = page.split_once(&mark).unwrap_or_else(|| panic!("the page has no block {name}"));
    let lines: Vec<&str> = after.lines().map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!lines.is_empty(), "{name} is empty");
    replace.iter().fold(lines.join("\n"), |text, (from, to)| {
        assert!(text.contains(from), "{name} does not hold {from}");
        text.replace(from, to)
    })
}

/// A block as a script; what it printed.
pub fn run(script: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).env("ETCDCTL_API", "3").envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A process that is killed when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn the_flags_of_the_guide_start_a_server() {
    let flags = block("flags", &[]);
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let server = Server::start_with(None, &flags).await;
    server.open().await.put(handle("a"), b"{}".into()).await.unwrap();
}

/// Revisions go back; a watcher applies the difference.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn backup_and_restore_of_the_guide() {
    let mut server = Server::start(None).await;
    let store = server.open().await;
    for name in ["kept", "changed"] {
        store.put(handle(name), b"1".into()).await.unwrap();
    }
    let endpoint = server.config().endpoints[0].clone();
    let backup = server.directory.path().join("etcd.db").display().to_string();
    run(&block("backup", &[("/var/backups/etcd.db", &backup)]), &[("ETCDCTL_ENDPOINTS", &endpoint)]);
    store.put(handle("changed"), b"2".into()).await.unwrap();
    store.put(handle("new"), b"2".into()).await.unwrap();

    let mut updates = watcher::watch(store, vec![KeyRange::Handles]);
    while timeout(PATIENCE, updates.recv()).await.unwrap() != Some(Update::InSync) {}
    server.kill();
    let data = server.directory.path().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    let restore = [
        ("/var/backups/etcd.db", backup.as_str()),
        ("/var/lib/etcd/default", &data.display().to_string()),
        ("m1", "test"),
        ("http://10.0.0.1:2380", &server.peer),
    ];
    run(&block("restore", &restore), &[]);
    server.restart().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(match timeout(PATIENCE, updates.recv()).await.unwrap().unwrap() {
            Update::Put(kv) => (kv.key, String::from_utf8(kv.value).unwrap()),
            Update::Delete(key) => (key, "deleted".into()),
            Update::InSync => panic!("a second InSync"),
        });
    }
    seen.sort();
    assert_eq!(seen, [(handle("changed"), "1".into()), (handle("new"), "deleted".into())]);
}

/// A server with TLS, and two of the guide's proxies before it.
struct Proxied {
    server: Server,
    tls: Tls,
    proxies: [Proxy; 2],
    _directory: tempfile::TempDir,
    metrics: String,
    /// Of the first proxy.
    proxy_config: EtcdConfig,
}

struct Proxy {
    script: String,
    endpoint: String,
    process: Option<Process>,
}

impl Proxy {
    fn start(&mut self) {
        let mut command = Command::new("sh");
        // `exec`, so that the process that is killed at the end is the proxy itself.
        command.args(["-c", &format!("exec {}", self.script)]).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Process(command.spawn().unwrap()));
    }

    fn kill(&mut self) {
        self.process = None;
    }
}

async fn start_proxied() -> Proxied {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let tls = make_certificates(directory.path());
    let server = Server::start(Some(tls.clone())).await;
    let (ca, proxy_dir) = (at(""), at("proxy"));
    std::fs::create_dir(&proxy_dir).unwrap();
    let (ca, proxy_dir) = (ca.trim_end_matches('/'), proxy_dir.as_str());
    let places = [("/etc/etcd-ca", ca), ("/etc/etcd-proxy", proxy_dir)];
    run(&block("certificate", &places), &[]);

    let endpoint = server.config().endpoints[0].clone();
    let (cert, key) = (tls.cert.display().to_string(), tls.key.display().to_string());
    let ports: [u16; 2] = free_ports();
    let proxies = ports.map(|port| {
        let address = format!("127.0.0.1:{port}");
        let script = block(
            "proxy",
            &[
                ("https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379", &endpoint),
                ("/etc/etcd-ca", ca),
                ("/etc/etcd-proxy", proxy_dir),
                ("10.0.0.10:23790", &address),
                ("/etc/etcd/server.pem", &cert),
                ("/etc/etcd/server.key", &key),
                ("/var/lib/etcd-proxy", &at(&format!("proxy-data-{port}"))),
            ],
        );
        let mut proxy = Proxy { script, endpoint: format!("https://{address}"), process: None };
        proxy.start();
        proxy
    });
    let proxy_config = EtcdConfig { endpoints: vec![proxies[0].endpoint.clone()], ..server.config() };
    wait(&proxy_config).await;
    let metrics =
        block("metrics", &[("/etc/etcd-ca", ca), ("/etc/etcd-proxy", proxy_dir), ("https://10.0.0.1:2379", &endpoint)]);
    Proxied { server, tls, proxies, _directory: directory, metrics, proxy_config }
}

/// Each of the two proxies dies in turn, so that the client has to move at least once: its watch and its writes go on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn nodes_fail_over_between_the_proxies_of_the_guide() {
    let mut proxied = start_proxied().await;
    let direct = proxied.server.open().await;
    let endpoints = proxied.proxies.iter().map(|proxy| proxy.endpoint.clone()).collect();
    let config = EtcdConfig { endpoints, ..proxied.proxy_config.clone() };
    let of = |proxy: &Proxy| EtcdConfig { endpoints: vec![proxy.endpoint.clone()], ..config.clone() };
    wait(&of(&proxied.proxies[1])).await;
    let store: DynStore = Arc::new(EtcdStore::connect(&config).await.unwrap());
    let mut updates = watcher::watch(store.clone(), vec![KeyRange::Handles]);
    while timeout(PATIENCE, updates.recv()).await.unwrap() != Some(Update::InSync) {}
    for dead in [0, 1, 0] {
        proxied.proxies[dead].kill();
        let name = handle(&new_name(dead, &direct).await);
        direct.put(name.clone(), b"{}".into()).await.unwrap();
        match timeout(PATIENCE, updates.recv()).await.unwrap() {
            Some(Update::Put(kv)) => assert_eq!(kv.key, name, "no gap, no double"),
            other => panic!("{other:?}"),
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(error) = store.put(Key::Election("written".into()), b"{}".into()).await {
            assert!(std::time::Instant::now() < deadline, "{error}");
        }
        proxied.proxies[dead].start();
        wait(&of(&proxied.proxies[dead])).await;
    }
}

/// A name that was not used before.
async fn new_name(dead: usize, direct: &DynStore) -> String {
    format!("{dead}-{}", direct.list(&KeyRange::Handles).await.unwrap().revision)
}

fn watchers_at_etcd(metrics: &str) -> u64 {
    let line = run(metrics, &[]);
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() as u64
}

/// 200 watchers, some of them late, are few at etcd; what they get is whole, and everything else passes through.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_fleet_behind_the_proxy_of_the_guide() {
    const NODES: usize = 20;
    const STREAMS: usize = 10;
    const WRITES: u64 = 10;
    let proxied = start_proxied().await;
    let direct = proxied.server.open().await;
    let before = watchers_at_etcd(&proxied.metrics);
    let mut streams = Vec::new();
    let mut nodes: Vec<DynStore> = Vec::new();
    let first = direct.put(handle("first"), b"{}".into()).await.unwrap();
    for _ in 0..NODES {
        let store: DynStore = Arc::new(EtcdStore::connect(&proxied.proxy_config).await.unwrap());
        for _ in 0..STREAMS {
            streams.push(store.watch(&KeyRange::Handles, first).await.unwrap());
        }
        nodes.push(store);
    }
    for n in 0..WRITES {
        nodes[0].create(handle(&format!("{n:02}")), b"{}".into()).await.unwrap();
    }
    for stream in &mut streams {
        for n in 0..WRITES {
            let event = timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event.key(), &handle(&format!("{n:02}")), "no gap, no double");
        }
    }
    let watchers = watchers_at_etcd(&proxied.metrics) - before;
    println!("{} watches of {NODES} nodes are {watchers} at etcd", streams.len());
    assert!(watchers <= 5, "{watchers} watchers at etcd for {} behind the proxy", streams.len());

    let store = &nodes[1];
    compare_and_swap(store, &direct).await;
    // History that is compacted, behind the proxy's back and before a watcher comes.
    let last = direct.put(handle("last"), b"{}".into()).await.unwrap();
    direct.compact(last).await.unwrap();
    let refusal = match store.watch(&KeyRange::Handles, first).await {
        Err(error) => error,
        Ok(mut stream) => timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap_err(),
    };
    assert!(matches!(refusal, Error::Compacted(_)), "{refusal}");
    // A revision of another life of the store: the proxy would wait for it for ever.
    let refusal = store.watch(&KeyRange::Handles, last + 1_000_000).await.err();
    assert!(matches!(refusal, Some(Error::Compacted(_))), "{refusal:?}");
    let mut updates = watcher::watch(store.clone(), vec![KeyRange::Handles]);
    let mut listed = 0;
    while timeout(PATIENCE, updates.recv()).await.unwrap() != Some(Update::InSync) {
        listed += 1;
    }
    assert_eq!(listed, direct.list(&KeyRange::Handles).await.unwrap().items.len());
    leads_through_the_proxy(store, &direct).await;
    without_a_client_certificate(&proxied).await;
}

async fn compare_and_swap(store: &DynStore, direct: &DynStore) {
    let created = store.create(handle("cas"), b"1".into()).await.unwrap();
    assert!(matches!(store.create(handle("cas"), b"1".into()).await, Err(Error::AlreadyExists(_))));
    let updated = direct.update(handle("cas"), b"2".into(), created).await.unwrap();
    // What another wrote is read at once: no cache is between.
    assert_eq!(store.get(&handle("cas")).await.unwrap().unwrap().mod_revision, updated);
    assert!(matches!(store.update(handle("cas"), b"3".into(), created).await, Err(Error::Conflict(_))));
    let ops = vec![Op::Update(handle("cas"), b"3".into(), updated), Op::Create(handle("cas-2"), b"3".into())];
    let revision = store.txn(Txn { ops }).await.unwrap();
    for name in ["cas", "cas-2"] {
        assert_eq!(direct.get(&handle(name)).await.unwrap().unwrap().mod_revision, revision);
    }
}

/// A leader holds its lease for longer than that lasts, with renewals through the proxy.
async fn leads_through_the_proxy(store: &DynStore, direct: &DynStore) {
    let settings = [2000, 1200, 300].map(Duration::from_millis);
    let settings = Settings::new(settings[0], settings[1], settings[2]).unwrap();
    let election = Election { store: store.clone(), name: "guide".into(), identity: "a".into(), settings };
    let output = run_as_leader(election, std::future::pending(), |leadership| async move {
        sleep(Duration::from_millis(5500)).await;
        assert!(leadership.is_held());
        leadership.txn(vec![Op::Put(handle("led"), b"{}".into())]).await.unwrap();
        leader(direct, "guide").await.unwrap().unwrap()
    });
    let record = output.await.unwrap().unwrap();
    assert_eq!(record.transitions, 1, "one term all the time");
    assert!(direct.get(&Key::Election("guide".into())).await.unwrap().is_some());
}

async fn without_a_client_certificate(proxied: &Proxied) {
    let config = EtcdConfig { cert_file: None, key_file: None, ..proxied.proxy_config.clone() };
    assert!(EtcdStore::connect(&config).await.is_err(), "the proxy asks for a certificate of {:?}", proxied.tls.ca);
}

/// What the guide warns of: a shared watch is of another's login, and is refused.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn users_behind_the_proxy_are_an_error_and_no_silence() {
    let server = Server::start(None).await;
    let endpoint = server.config().endpoints[0].clone();
    let [port] = free_ports();
    let mut command = Command::new("etcd");
    let address = format!("127.0.0.1:{port}");
    command.args(["grpc-proxy", "start", "--endpoints", &endpoint, "--listen-addr", &address]);
    command.arg("--data-dir").arg(server.directory.path().join("proxy"));
    let _proxy = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let plain = EtcdConfig { endpoints: vec![format!("http://{address}")], ..EtcdConfig::default() };
    wait(&plain).await;
    run(&block("users", &[]), &[("ETCDCTL_ENDPOINTS", &endpoint)]);
    let config = EtcdConfig { username: Some("tortie".into()), password: Some("change-me-too".into()), ..plain };
    let store: DynStore = Arc::new(EtcdStore::connect(&config).await.unwrap());
    let revision = store.put(handle("a"), b"{}".into()).await.unwrap();
    // The proxy opens it with this login; whoever comes later shares it.
    let _first = store.watch(&KeyRange::Handles, revision).await.unwrap();
    let second = EtcdStore::connect(&config).await.unwrap();
    let Err(error) = second.watch(&KeyRange::Handles, revision).await else { panic!("a shared watch with users") };
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    for part in ["gRPC proxy", "client certificates", "ETCD_USERNAME"] {
        assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
    }
    // The proxy loses etcd's code, and not its words.
    let config = EtcdConfig { endpoints: config.endpoints.clone(), ..server.config() };
    let Err(error) = EtcdStore::connect(&config).await else { panic!("connected without a user") };
    assert!(error.to_string().contains("set ETCD_USERNAME and ETCD_PASSWORD"), "{error}");
}

/// Nothing of the page's blocks is left untested.
#[test]
fn every_marked_block_is_run() {
    let page = include_str!("../../../../docs/guide/etcd.md");
    let marks = page.lines().filter_map(|line| line.strip_prefix("<!-- tested: ")?.strip_suffix(" -->"));
    let tests = [include_str!("guide.rs"), include_str!("limits.rs")].concat();
    for name in marks {
        assert!(tests.contains(&format!("\"{name}\"")), "no test runs the block {name}");
    }
}
