//! etcd passes the suite, also through a restart of the server. Each test runs a server of its own on free loopback ports.

mod server;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::key::{Key, KeyRange};
use datastore::config::{EtcdConfig, from_vars};
use datastore::conformance;
use datastore::etcd::EtcdStore;
use datastore::watcher::{self, Update};
use datastore::{Error, Event, Store};
use futures::StreamExt;
use server::{PATIENCE, Server, make_certificates};

fn handle(name: &str) -> Key {
    Key::IpamHandle(name.into())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn conforms() {
    let server = Arc::new(Server::start(None).await);
    let shared = server.clone();
    conformance::all(conformance::open_with(move || {
        let server = shared.clone();
        async move { server.open().await }
    }))
    .await;
}

/// `kill -9` and a restart: what was acknowledged is there, the same client goes on, a watcher misses nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_killed_server_loses_nothing_and_clients_reconnect() {
    let mut server = Server::start(None).await;
    let store = server.open().await;
    let mut updates = watcher::watch(store.clone(), vec![KeyRange::Handles]);
    assert_eq!(updates.recv().await, Some(Update::InSync));
    for round in 0..3 {
        for n in 0..20 {
            store.put(handle(&format!("{round}-{n}")), b"{}".into()).await.unwrap();
        }
        server.kill();
        let error = store.put(handle("lost"), b"{}".into()).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_) | Error::Unavailable(_)), "{error}");
        server.restart().await;
        // The client reconnects by itself.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = store.put(handle(&format!("{round}-after")), b"{}".into()).await {
            assert!(Instant::now() < deadline, "{error}");
        }
        for _ in 0..21 {
            let update = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
            let Update::Put(kv) = update else { panic!("{update:?}") };
            assert!(kv.key.to_string().contains(&format!("/{round}-")), "{}", kv.key);
        }
        // Later rounds see the watcher's next session; nothing of this one is repeated.
        assert!(updates.is_empty(), "{:?}", updates.recv().await);
    }
    assert_eq!(store.list(&KeyRange::Handles).await.unwrap().items.len(), 63);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn tls_with_client_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let tls = make_certificates(directory.path());
    let server = Server::start(Some(tls.clone())).await;
    let store = server.open().await;
    let revision = store.put(handle("a"), b"{}".into()).await.unwrap();
    let mut events = store.watch(&KeyRange::Handles, revision - 1).await.unwrap();
    assert!(matches!(events.next().await, Some(Ok(Event::Put(_)))));

    let plain =
        EtcdConfig { endpoints: vec![format!("http://127.0.0.1:{}", server.client_port)], ..EtcdConfig::default() };
    let no_ca = EtcdConfig { ca_cert_file: None, ..server.config() };
    let no_file = EtcdConfig { cert_file: Some("/nonexistent/cert.pem".into()), ..server.config() };
    let no_pem = EtcdConfig { ca_cert_file: Some("/dev/null".into()), ..server.config() };
    let rows: [(EtcdConfig, &[&str]); 4] = [
        (plain, &["https://"]),
        (no_ca, &["ETCD_CA_CERT_FILE"]),
        (no_file, &["ETCD_CERT_FILE", "/nonexistent/cert.pem", "No such file"]),
        (no_pem, &["ETCD_CA_CERT_FILE", "/dev/null", "no PEM"]),
    ];
    for (config, parts) in rows {
        let Err(error) = EtcdStore::connect(&config).await else { panic!("connected with {config:?}") };
        for part in parts {
            assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn users_and_passwords() {
    let server = Server::start(None).await;
    let mut admin = etcd_client::Client::connect(server.config().endpoints, None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let with = |password: &str| EtcdConfig {
        username: Some("root".into()),
        password: Some(password.into()),
        ..server.config()
    };
    let store = EtcdStore::connect(&with("secret")).await.unwrap();
    store.put(handle("a"), b"{}".into()).await.unwrap();
    for config in [with("wrong"), server.config()] {
        let Err(error) = EtcdStore::connect(&config).await else { panic!("connected with {config:?}") };
        assert!(error.to_string().contains("check ETCD_USERNAME, ETCD_PASSWORD"), "{error}");
    }
}

/// No etcd needed: nobody listens there, or what listens never answers.
#[tokio::test]
async fn an_unreachable_store_is_reported_within_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent_address = silent.local_addr().unwrap();
    let rows = [(closed, "Connection refused"), (silent_address, "the port is open")];
    for (address, cause) in rows {
        let config = from_vars(|name| (name == "ETCD_ENDPOINTS").then(|| format!("http://{address}"))).unwrap();
        let started = Instant::now();
        let Err(error) = config.open().await else { panic!("opened {address}") };
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        for part in [&format!("http://{address}"), cause, "check", "ETCD_ENDPOINTS"] {
            assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
        }
    }
}
