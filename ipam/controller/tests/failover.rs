//! Several controllers, as processes, over one store: one acts, and when it dies, is stopped or is told to end, another does.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::key::Key;
use api::service::{ServiceBody, ServicePort};
use api::{Kind, Metadata, Service};
use datastore::config::StoreConfig;
use datastore::{DynStore, election, typed};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(3);

struct Controller {
    name: String,
    process: Child,
    run_dir: PathBuf,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Controller {
    fn start(name: &str, dir: &Path, store: &[(String, String)]) -> Self {
        let run_dir = dir.join(name);
        let process = Command::new(env!("CARGO_BIN_EXE_tortie-controller"))
            .args(["--leader-lease", "3s", "--run-dir"])
            .arg(&run_dir)
            .envs(store.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .env("NODENAME", name)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.into(), process, run_dir }
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// None while it does not answer.
    async fn status(&self) -> Option<Value> {
        let socket = self.run_dir.join("controller.sock");
        tokio::time::timeout(Duration::from_secs(1), status::get_json(&socket, "/v1/status")).await.ok()?.ok()
    }

    async fn leads(&self) -> bool {
        self.status().await.is_some_and(|s| s["leading"] == true)
    }

    async fn metric(&self, name: &str) -> Option<String> {
        let socket = self.run_dir.join("controller.sock");
        let reply = status::get(&socket, "/metrics").await.ok()?;
        let text = String::from_utf8(reply.body).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ').map(ToString::to_string))
    }
}

/// The one that leads, by its own word; asserts that no two do.
async fn leader(controllers: &[Controller]) -> Option<usize> {
    let mut leading: Vec<usize> = vec![];
    for (i, controller) in controllers.iter().enumerate() {
        if controller.leads().await {
            leading.push(i);
        }
    }
    if let [first, .., last] = leading[..] {
        // They were asked one after another: the lead may have passed on in between.
        assert!(!controllers[first].leads().await, "two lead: {leading:?}");
        return Some(last);
    }
    leading.first().copied()
}

async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A service that is to be given an address; how long that took.
async fn serve(store: &DynStore, name: &str) -> Duration {
    let started = Instant::now();
    let mut body = ServiceBody::default();
    body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
    typed::create(store.as_ref(), &Service::new(Metadata::namespaced("test", name), body)).await.unwrap();
    eventually(name, async || {
        let service = typed::get::<ServiceBody>(store.as_ref(), Some("test"), name).await.unwrap()?;
        service.body.spec.cluster_ip
    })
    .await;
    started.elapsed()
}

async fn one_acts_whatever_happens_to_it(store: DynStore, environment: &[(String, String)]) {
    let directory = tempfile::tempdir().unwrap();
    let start = |name: &str| Controller::start(name, directory.path(), environment);
    let mut controllers: Vec<Controller> = ["one", "two", "three"].map(start).into();
    let first = eventually("a leader", async || leader(&controllers).await).await;
    serve(&store, "first").await;

    // Everybody says who leads.
    let record = election::leader(&store, "controller").await.unwrap().unwrap();
    assert!(record.holder_identity.starts_with(&controllers[first].name), "{record:?}");
    for (i, controller) in controllers.iter().enumerate() {
        let status = controller.status().await.unwrap();
        assert_eq!(status["leader"], record.holder_identity.as_str());
        assert_eq!(controller.metric("tortie_controller_is_leader").await.unwrap(), u8::from(i == first).to_string());
    }

    // SIGTERM: the next acts at once, long before a lease ends.
    controllers[first].signal("-TERM");
    let asked = Instant::now();
    controllers[first].process.wait().unwrap();
    controllers.remove(first);
    let second = eventually("a successor", async || leader(&controllers).await).await;
    assert!(asked.elapsed() < LEASE, "handed over in {:?}", asked.elapsed());
    serve(&store, "second").await;

    // kill -9: another acts when the lease is over.
    controllers.push(start("four"));
    controllers[second].signal("-KILL");
    controllers[second].process.wait().unwrap();
    controllers.remove(second);
    serve(&store, "third").await;
    let third = eventually("a third", async || leader(&controllers).await).await;

    // SIGSTOP: the one that is stopped does not act when it wakes up, though it believes for a moment that no time has passed.
    controllers[third].signal("-STOP");
    serve(&store, "fourth").await;
    let key = Key::resource(Kind::Service, Some("test"), "fifth");
    controllers[third].signal("-CONT");
    serve(&store, "fifth").await;
    let woken = &controllers[third];
    eventually("it knows that it does not lead", async || woken.status().await.filter(|s| s["leading"] == false)).await;
    leader(&controllers).await;

    // One wrote everything: each service once by its creator, once by a controller.
    assert!(store.get(&key).await.unwrap().is_some());
    let (services, _) = typed::list::<ServiceBody>(store.as_ref()).await.unwrap();
    let ips: std::collections::BTreeSet<_> = services.iter().filter_map(|s| s.body.spec.cluster_ip.clone()).collect();
    assert_eq!((services.len(), ips.len()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_acts_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = StoreConfig::Sqlite { path: path.clone() }.open().await.unwrap();
    let environment = [("DATASTORE_TYPE", "sqlite"), ("SQLITE_PATH", path.to_str().unwrap())];
    one_acts_whatever_happens_to_it(store, &environment.map(|(k, v)| (k.to_string(), v.to_string()))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn one_acts_on_etcd() {
    let etcd = etcd_server::Etcd::start().await;
    let environment = etcd.environment().map(|(name, value)| (name.to_string(), value));
    one_acts_whatever_happens_to_it(etcd.open().await, &environment).await;
}
