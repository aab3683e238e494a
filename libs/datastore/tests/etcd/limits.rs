//! What etcd refuses: each error says what to do, and is of the right kind.

use std::time::Duration;

use api::key::KeyRange;
use datastore::config::EtcdConfig;
use datastore::etcd::EtcdStore;
use datastore::{Error, Op, Store, Txn};
use futures::StreamExt;
use tokio::time::sleep;

use crate::guide::{block, run};
use crate::handle;
use crate::server::Server;

fn assert_invalid(error: &Error, parts: &[&str]) {
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    for part in parts {
        assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn what_is_too_large_is_refused() {
    let server = Server::start(None).await;
    let store = server.open().await;
    // etcd's own limit, and that of its gRPC server.
    for size in [1_600_000, 4_000_000] {
        let error = store.put(handle("large"), vec![b'x'; size]).await.unwrap_err();
        assert_invalid(&error, &["1.5 MiB", "--max-request-bytes"]);
    }
    let ops: Vec<Op> = (0..129).map(|n| Op::Put(handle(&n.to_string()), b"{}".into())).collect();
    let error = store.txn(Txn { ops }).await.unwrap_err();
    assert_invalid(&error, &["--max-txn-ops", "128"]);
    assert!(store.list(&KeyRange::Handles).await.unwrap().items.is_empty());
    // What fits is read back also where a page of it is larger than gRPC's usual limit of 4 MiB.
    for n in 0..6 {
        store.put(handle(&n.to_string()), vec![b'x'; 1_400_000]).await.unwrap();
    }
    let listing = store.list(&KeyRange::Handles).await.unwrap();
    assert_eq!(listing.items.len(), 6);
    let mut stream = store.watch(&KeyRange::Handles, listing.revision - 6).await.unwrap();
    for _ in 0..6 {
        stream.next().await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_full_store_says_how_to_get_out() {
    let server = Server::start_with(None, &["--quota-backend-bytes", "2000000"]).await;
    let store = server.open().await;
    let mut count = 0;
    let error = loop {
        match store.put(handle("k"), vec![b'x'; 200_000]).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "the quota is never reached");
    };
    // etcd applies a transaction, and says so of it afterwards.
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    for part in ["database space exceeded", "etcdctl compact", "etcdctl defrag", "etcdctl alarm disarm"] {
        assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
    }
    assert!(store.get(&handle("k")).await.unwrap().is_some(), "reads go on");
    // What the guide says to do helps.
    run(&block("full", &[]), &[("ETCDCTL_ENDPOINTS", &server.config().endpoints[0])]);
    store.put(handle("k"), b"{}".into()).await.unwrap();
}

/// Tokens that expire, and are forgotten by a restart; a role with the least that is needed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn users_passwords_and_tokens_that_expire() {
    let mut server = Server::start_with(None, &["--auth-token-ttl", "1"]).await;
    let with = |username: &str, password: &str| EtcdConfig {
        username: Some(username.into()),
        password: Some(password.into()),
        ..server.config()
    };
    let Err(error) = EtcdStore::connect(&with("tortie", "secret")).await else { panic!("no users yet") };
    assert_invalid(&error, &["not enabled", "unset ETCD_USERNAME", "etcdctl auth enable"]);
    let endpoint = server.config().endpoints[0].clone();
    let environment = [("ETCDCTL_ENDPOINTS", endpoint.as_str())];
    run("etcdctl user add guest:secret", &environment);
    run(&block("users", &[("change-me-too", "secret")]), &environment);
    let store = EtcdStore::connect(&with("tortie", "secret")).await.unwrap();
    let revision = store.put(handle("a"), b"1".into()).await.unwrap();
    let mut stream = store.watch(&KeyRange::Handles, revision).await.unwrap();
    // Longer than a token lives unused: the next request logs in again, a watch as well as a write, and an open watch goes on.
    sleep(Duration::from_millis(2300)).await;
    let mut second = store.watch(&KeyRange::Handles, revision).await.unwrap();
    sleep(Duration::from_millis(2300)).await;
    store.put(handle("a"), b"2".into()).await.unwrap();
    for stream in [&mut stream, &mut second] {
        stream.next().await.unwrap().unwrap();
    }
    let leases = store.leases().unwrap();
    let lease = leases.grant(Duration::from_secs(60)).await.unwrap();
    sleep(Duration::from_millis(2300)).await;
    assert!(leases.keep_alive(lease).await.unwrap());

    let error = store.list(&KeyRange::All).await.unwrap_err();
    assert_invalid(&error, &["permission denied", "readwrite", "/calico/", "/tortie/"]);
    let rows = [
        (with("tortie", "wrong"), &["check ETCD_USERNAME and ETCD_PASSWORD"][..]),
        (with("nobody", "secret"), &["check ETCD_USERNAME and ETCD_PASSWORD"]),
        (server.config(), &["set ETCD_USERNAME and ETCD_PASSWORD"]),
        (with("guest", "secret"), &["permission denied", "/calico/"]),
    ];
    for (config, parts) in rows {
        let Err(error) = EtcdStore::connect(&config).await else { panic!("connected with {config:?}") };
        assert_invalid(&error, parts);
    }
    server.respawn();
    let deadline = std::time::Instant::now() + crate::server::PATIENCE;
    while let Err(error) = store.put(handle("a"), b"3".into()).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}
