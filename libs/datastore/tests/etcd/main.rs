//! etcd passes the suite, also through a restart of the server. Each test runs a server of its own on free loopback ports.

mod failover;
mod guide;
mod limits;
mod server;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::key::{Key, KeyRange};
use datastore::config::{EtcdConfig, from_vars};
use datastore::conformance;
use datastore::etcd::EtcdStore;
use datastore::watcher::{self, Update};
use datastore::{Error, Event};
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

    let read = |path: &Path| Some(std::fs::read_to_string(path).unwrap());
    let inline = EtcdConfig {
        endpoints: server.config().endpoints,
        ca_cert: read(&tls.ca),
        cert: read(&tls.cert),
        key: read(&tls.key),
        ..EtcdConfig::default()
    };
    EtcdStore::connect(&inline).await.unwrap();

    // A CA, a key and a certificate that have nothing to do with the server's.
    let other = tempfile::tempdir().unwrap();
    let stranger = make_certificates(other.path());
    let encrypted = other.path().join("encrypted.pem");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-aes256", "-passout", "pass:x", "-in"]).arg(&tls.key).arg("-out").arg(&encrypted);
    assert!(openssl.output().unwrap().status.success());
    let garbled = other.path().join("garbled.pem");
    std::fs::write(&garbled, "-----BEGIN CERTIFICATE-----\nnonsense!\n-----END CERTIFICATE-----\n").unwrap();

    let port = server.client_port;
    let endpoints = |scheme: &str, host: &str| vec![format!("{scheme}://{host}:{port}")];
    let plain = EtcdConfig { endpoints: endpoints("http", "127.0.0.1"), ..EtcdConfig::default() };
    let mixed = EtcdConfig { endpoints: vec!["https://a:1".into(), "http://b:1".into()], ..server.config() };
    let with = |change: &dyn Fn(&mut EtcdConfig)| {
        let mut config = server.config();
        change(&mut config);
        config
    };
    let no_certificate = with(&|c| (c.cert_file, c.key_file) = (None, None));
    let strange = with(&|c| (c.cert_file, c.key_file) = (Some(stranger.cert.clone()), Some(stranger.key.clone())));
    let rows: [(EtcdConfig, &[&str]); 13] = [
        (plain, &["https://"]),
        (mixed, &["ETCD_ENDPOINTS mixes", "http://b:1"]),
        (with(&|c| c.ca_cert_file = None), &["ETCD_CA_CERT_FILE"]),
        (
            with(&|c| c.cert_file = Some("/nonexistent/cert.pem".into())),
            &["ETCD_CERT_FILE", "/nonexistent/cert.pem", "No such file"],
        ),
        (
            with(&|c| c.ca_cert_file = Some("/dev/null".into())),
            &["ETCD_CA_CERT_FILE", "/dev/null", "no PEM certificate"],
        ),
        (with(&|c| c.ca_cert_file = Some(garbled.clone())), &["ETCD_CA_CERT_FILE", "garbled.pem", "cannot be read"]),
        (with(&|c| c.key_file = Some(tls.cert.clone())), &["ETCD_KEY_FILE", "cert.pem", "no PEM private key"]),
        (with(&|c| c.key_file = Some(encrypted.clone())), &["ETCD_KEY_FILE", "encrypted.pem", "without a passphrase"]),
        (
            with(&|c| c.key_file = Some(stranger.key.clone())),
            &["ETCD_KEY_FILE", "is not the key of the certificate in ETCD_CERT_FILE"],
        ),
        (
            with(&|c| c.ca_cert_file = Some(stranger.ca.clone())),
            &["invalid peer certificate", "not issued by the CA of ETCD_CA_CERT_FILE"],
        ),
        (
            with(&|c| c.endpoints = endpoints("https", "localhost")),
            &["localhost", "does not name the host of ETCD_ENDPOINTS"],
        ),
        (no_certificate, &["ETCD_CERT_FILE"]),
        (strange, &["ETCD_CERT_FILE"]),
    ];
    for (config, parts) in rows {
        let Err(error) = EtcdStore::connect(&config).await else { panic!("connected with {config:?}") };
        println!("{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
        }
    }
}

/// Without `ETCD_CA_CERT_FILE` the system's CAs count, as for Calico. In a process of its own, whose environment names them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn the_systems_ca_certificates_are_the_default() {
    const ENDPOINTS: &str = "ETCD_ENDPOINTS";
    if std::env::var(ENDPOINTS).is_ok() {
        let store = datastore::config::from_env().unwrap().open().await.unwrap();
        store.put(handle("a"), b"{}".into()).await.unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tls = make_certificates(directory.path());
    let server = Server::start(Some(tls.clone())).await;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_systems_ca_certificates_are_the_default", "--ignored"])
        .env(ENDPOINTS, server.config().endpoints.concat())
        .envs([("SSL_CERT_FILE", &tls.ca), ("ETCD_CERT_FILE", &tls.cert), ("ETCD_KEY_FILE", &tls.key)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(server.open().await.get(&handle("a")).await.unwrap().is_some());
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
