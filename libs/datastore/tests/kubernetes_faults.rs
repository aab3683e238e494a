//! What a real API server does not do on demand: a small server on loopback plays recorded answers, one connection each, in
//! order. `tests/kubernetes.rs` has the real one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::key::{Key, KeyRange};
use api::kind::Kind;
use datastore::kubernetes::KubernetesStore;
use datastore::kubernetes::config::KubernetesConfig;
use datastore::watcher::{self, Update};
use datastore::{Error, Event, Store};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// One answer.
enum Play {
    /// Status, headers, body.
    Answer(u16, &'static str, String),
    /// Lines of a watch, then the end of the connection.
    Watch(Vec<Value>),
    /// So much of a watch as it is, then the end of the connection.
    Raw(String),
    /// The request is read, and nothing said.
    HangUp,
}

struct Player {
    address: std::net::SocketAddr,
    /// `METHOD /path authorization`, in order.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Player {
    /// Plays an empty configuration for the connection test, then what is given.
    async fn start(plays: Vec<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        tokio::spawn(async move {
            for play in std::iter::once(ok(&object("default", 1))).chain(plays) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request);
                let text = match play {
                    Play::HangUp => continue,
                    Play::Answer(status, headers, body) => {
                        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
                    }
                    Play::Watch(lines) => {
                        let lines: String = lines.iter().map(|l| format!("{l}\n")).collect();
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{lines}")
                    }
                    Play::Raw(text) => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{text}"),
                };
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        Self { address, heard }
    }

    async fn connect(&self) -> KubernetesStore {
        KubernetesStore::connect(&self.config()).await.unwrap()
    }

    fn config(&self) -> KubernetesConfig {
        KubernetesConfig { server: Some(format!("http://{}", self.address)), ..KubernetesConfig::default() }
    }

    /// What was asked after the connection test.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap()[1..].to_vec()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(n, 0, "a request has a head: {text}");
            continue;
        };
        let header = |name: &str| {
            let mut lines = head.lines().map(|l| l.split_once(": ").unwrap_or((l, "")));
            lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_string())
        };
        let length: usize = header("content-length").map_or(0, |v| v.parse().unwrap());
        if body.len() >= length {
            let first = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
            return format!("{first} {}", header("authorization").unwrap_or_default()).trim_end().to_string();
        }
    }
}

fn object(name: &str, revision: u64) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": if name == "default" { "IPAMConfig" } else { "IPPool" },
        "metadata": {"name": name, "resourceVersion": revision.to_string()}, "spec": {},
    })
}

fn list(names: &[&str], revision: u64, more: &str) -> Value {
    let items: Vec<Value> = names.iter().map(|name| object(name, 1)).collect();
    json!({"kind": "IPPoolList", "metadata": {"resourceVersion": revision.to_string(), "continue": more}, "items": items})
}

fn ok(body: &Value) -> Play {
    Play::Answer(200, "", body.to_string())
}

fn refused(code: u16, reason: &str) -> Play {
    Play::Answer(code, "", status(code, reason).to_string())
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": format!("said {reason}"), "reason": reason,
        "details": {"name": "p", "kind": "ippools"}, "code": code,
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again() {
    let busy = |code| Play::Answer(code, "retry-after: 0\r\n", status(code, "TooManyRequests").to_string());
    let player = Player::start(vec![busy(429), busy(503), ok(&object("p", 7)), busy(429), ok(&object("p", 8))]).await;
    let store = player.connect().await;
    assert_eq!(store.get(&pool("p")).await.unwrap().unwrap().mod_revision, 7);
    assert_eq!(store.create(pool("p"), b"{}".into()).await.unwrap(), 8, "it was not begun: a write too");
    assert_eq!(player.heard().len(), 5);
}

/// What the discovery of Calico's group names, less what is ours; parts of objects (`/status`) are no kinds.
#[tokio::test]
async fn kinds_of_calicos_group_that_are_not_ours_are_found() {
    let names = ["ippools", "ippools/status", "ipamblocks", "networkpolicies", "tiers"];
    let discovery = json!({"kind": "APIResourceList", "resources": names.map(|name| json!({ "name": name }))});
    let mut policies = list(&["a", "b"], 9, "");
    policies["items"][1]["metadata"]["namespace"] = "web".into();
    let player =
        Player::start(vec![ok(&discovery), ok(&policies), ok(&list(&["x"], 9, "t")), ok(&list(&["y"], 9, ""))]).await;
    let root = "/apis/crd.projectcalico.org/v1";
    let paths = player.connect().await.foreign_paths().await.unwrap();
    let wanted = ["networkpolicies/a", "networkpolicies/web/b", "tiers/x", "tiers/y"];
    assert_eq!(paths, wanted.map(|path| format!("{root}/{path}")));
    assert_eq!(
        player.heard(),
        [
            format!("GET {root}"),
            format!("GET {root}/networkpolicies?limit=500"),
            format!("GET {root}/tiers?limit=500"),
            format!("GET {root}/tiers?limit=500&continue=t"),
        ]
    );
}

/// (answer, on a read, on a write, what the text says)
#[tokio::test]
async fn every_refusal_has_its_error() {
    let rows = [
        (409, "AlreadyExists", "Conflict", "AlreadyExists", ""),
        (409, "Conflict", "Conflict", "Conflict", ""),
        (401, "Unauthorized", "Unavailable", "Unavailable", "credentials"),
        (403, "Forbidden", "Invalid", "Invalid", "RBAC"),
        (422, "Invalid", "Invalid", "Invalid", "said Invalid"),
        (400, "BadRequest", "Invalid", "Invalid", "said BadRequest"),
        (413, "RequestEntityTooLarge", "Invalid", "Invalid", ""),
        (500, "InternalError", "Unavailable", "Unknown", "said InternalError"),
        (503, "ServiceUnavailable", "Unavailable", "Unknown", ""),
        (504, "Timeout", "Unavailable", "Unknown", "said Timeout"),
    ];
    for (code, reason, on_read, on_write, text) in rows {
        let player = Player::start(vec![refused(code, reason), refused(code, reason)]).await;
        let store = player.connect().await;
        let on_read = if code == 409 && reason == "AlreadyExists" { "AlreadyExists" } else { on_read };
        for (error, expected) in [
            (store.get(&pool("p")).await.unwrap_err(), on_read),
            (store.update(pool("p"), b"{}".into(), 1).await.unwrap_err(), on_write),
        ] {
            assert!(format!("{error:?}").starts_with(expected), "{code} {reason}: {error:?}");
            assert!(error.to_string().contains(text), "{code} {reason}: \"{error}\" lacks \"{text}\"");
        }
    }
    // A server without the kind, and a proxy that is no API server.
    let unknown =
        || Play::Answer(404, "", json!({"kind": "Status", "message": "not found", "details": {}}).to_string());
    let player = Player::start(vec![unknown(), unknown(), Play::Answer(200, "", "<html>".into())]).await;
    let store = player.connect().await;
    for error in [store.get(&pool("p")).await.unwrap_err(), store.list(&KeyRange::Handles).await.unwrap_err()] {
        assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains("crds/"), "{error:?}");
    }
    assert!(store.get(&pool("p")).await.unwrap_err().to_string().contains("no JSON"));
}

#[tokio::test]
async fn a_lost_answer_is_unknown_for_a_write_and_asked_for_again_for_a_read() {
    let plays = vec![Play::HangUp, Play::HangUp, ok(&object("p", 7)), Play::HangUp, Play::HangUp];
    let player = Player::start(plays).await;
    let store = player.connect().await;
    let error = store.create(pool("p"), b"{}".into()).await.unwrap_err();
    assert!(matches!(&error, Error::Unknown(text) if text.contains("127.0.0.1")), "{error:?}");
    assert!(store.get(&pool("p")).await.unwrap().is_some());
    assert!(matches!(store.get(&pool("p")).await.unwrap_err(), Error::Unavailable(_)));
    assert_eq!(player.heard().len(), 5);

    let nobody = KubernetesConfig { server: Some("http://127.0.0.1:1".into()), ..KubernetesConfig::default() };
    let Err(error) = KubernetesStore::connect(&nobody).await else { panic!("connected to nobody") };
    for part in ["http://127.0.0.1:1", "refused", "check"] {
        assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
    }
}

/// The pages after the first are of its revision; where that is compacted meanwhile, the listing begins again.
#[tokio::test]
async fn a_listing_overtaken_by_a_compaction_begins_again() {
    let plays = vec![
        ok(&list(&["a"], 10, "more/1")),
        refused(410, "Expired"),
        ok(&list(&["b"], 20, "more/2")),
        ok(&list(&["c", "d"], 20, "")),
    ];
    let player = Player::start(plays).await;
    let listing = player.connect().await.list(&KeyRange::Kind(Kind::IpPool)).await.unwrap();
    assert_eq!(listing.items.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), ["b", "c", "d"].map(pool));
    assert_eq!(listing.revision, 20);
    let path = "GET /apis/crd.projectcalico.org/v1/ippools?limit=500";
    let expected = [path.into(), format!("{path}&continue=more%2F1"), path.into(), format!("{path}&continue=more%2F2")];
    assert_eq!(player.heard(), expected);
}

/// A watch that the server ends, that breaks off within an event, or that meets a server in the middle of its restart goes on
/// from the last revision it has heard of, bookmarks included, and repeats nothing.
#[tokio::test]
async fn a_watch_goes_on_where_it_stood() {
    let torn = format!("{}\n{{\"type\":\"MOD", event("ADDED", object("b", 13)));
    let plays = vec![
        ok(&list(&[], 10, "")),
        Play::Watch(vec![event("ADDED", object("a", 11)), event("BOOKMARK", object("", 12))]),
        ok(&list(&[], 12, "")),
        Play::Raw(torn),
        refused(503, "ServiceUnavailable"),
        ok(&list(&[], 15, "")),
        Play::Watch(vec![event("MODIFIED", object("b", 14)), event("DELETED", object("a", 15))]),
        ok(&list(&[], 15, "")),
        Play::Watch(vec![event("ERROR", status(410, "Expired"))]),
    ];
    let player = Player::start(plays).await;
    let mut events = player.connect().await.watch(&KeyRange::Kind(Kind::IpPool), 10).await.unwrap();
    for (name, revision) in [("a", 11), ("b", 13), ("b", 14)] {
        let Some(Ok(Event::Put(kv))) = events.next().await else { panic!("{name} at {revision}") };
        assert_eq!((kv.key, kv.mod_revision), (pool(name), revision));
    }
    assert_eq!(events.next().await.unwrap().unwrap(), Event::Delete { key: pool("a"), revision: 15 });
    assert!(matches!(events.next().await, Some(Err(Error::Compacted(15)))));
    assert!(events.next().await.is_none());
    let watches: Vec<String> = player.heard().into_iter().filter(|l| l.contains("watch=true")).collect();
    for (watch, from) in watches.iter().zip([10, 12, 13, 15]) {
        assert!(watch.contains(&format!("&resourceVersion={from}&")), "{watch}");
        assert!(watch.contains("allowWatchBookmarks=true"), "{watch}");
    }
    assert_eq!(watches.len(), 4);
}

/// The real server keeps a watch from its future open and silent: after a restored backup nobody would ever hear a thing.
#[tokio::test]
async fn a_watch_from_the_past_or_the_future_of_another_life_is_compacted() {
    let plays = vec![ok(&list(&[], 10, "")), ok(&list(&[], 10, "")), refused(410, "Expired"), ok(&list(&[], 10, ""))];
    let player = Player::start(plays).await;
    let store = player.connect().await;
    for from in [11, 9, 0] {
        let outcome = store.watch(&KeyRange::Kind(Kind::IpPool), from).await;
        assert!(matches!(outcome.err(), Some(Error::Compacted(_))), "from {from}");
    }
}

/// (the pod's node and annotations, whether it is in its node's network; what the error says)
#[tokio::test]
async fn an_endpoint_is_written_on_its_own_pod_only() {
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), "node--1-k8s-web--0-eth0");
    let address = json!({"cni.projectcalico.org/podIPs": "10.0.0.1"});
    let second = json!({"cni.projectcalico.org/podIPs": "10.0.0.1", "tortie.io/endpoint": "{\"endpoint\":\"net1\"}"});
    let rows = [
        ("node-2", json!({}), false, "another node"),
        ("node-2", address.clone(), false, "another node"),
        ("node-1", second, false, "another interface"),
        ("node-1", json!({}), true, "its node's network"),
        ("", json!({}), false, "on no node"),
    ];
    for (node, annotations, is_host_network, text) in rows {
        let mut pod = pod(5, node, annotations);
        pod["spec"]["hostNetwork"] = is_host_network.into();
        let player = Player::start(vec![ok(&pod), ok(&pod)]).await;
        let store = player.connect().await;
        let error = store.create(key.clone(), b"{\"spec\":{}}".into()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains(text), "{node}: {error:?}");
        assert_eq!(player.heard().len(), 1, "{node}: it is read, and not written");
    }
    // The kubelet writes the pod's status between the read and the write.
    let free = |revision| ok(&pod(revision, "node-1", json!({})));
    let plays = vec![free(5), refused(409, "Conflict"), free(6), ok(&pod(7, "node-1", address.clone()))];
    let player = Player::start(plays).await;
    assert_eq!(player.connect().await.create(key.clone(), b"{\"spec\":{}}".into()).await.unwrap(), 7);
    let plays = vec![free(5), refused(409, "Conflict"), ok(&pod(6, "node-1", address))];
    let player = Player::start(plays).await;
    let outcome = player.connect().await.create(key.clone(), b"{\"spec\":{}}".into()).await;
    assert!(matches!(&outcome, Err(Error::AlreadyExists(k)) if *k == key), "{outcome:?}");
}

fn pod(revision: u64, node: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node},
        "metadata": {
            "name": "web-0", "namespace": "default", "resourceVersion": revision.to_string(), "annotations": annotations,
        },
    })
}

/// The object is there when its status meets another writer: that is no conflict of the whole.
#[tokio::test]
async fn a_status_that_meets_another_writer_is_written_again() {
    let value = br#"{"spec":{},"status":{"a":1}}"#;
    let conflict = || refused(409, "Conflict");
    let mut taken = object("p", 8);
    taken["status"] = json!({"a": 2});
    let rows = [
        (vec![ok(&object("p", 7)), ok(&object("p", 8))], Some(8)),
        // Who updates from 7 reads first what made 8.
        (vec![ok(&object("p", 7)), conflict(), ok(&object("p", 8)), ok(&object("p", 9))], Some(7)),
        (vec![ok(&object("p", 7)), conflict(), ok(&taken)], None),
        (vec![ok(&object("p", 7)), refused(403, "Forbidden")], None),
    ];
    for (n, (plays, expected)) in rows.into_iter().enumerate() {
        let count = plays.len();
        let player = Player::start(plays).await;
        let outcome = player.connect().await.create(pool("p"), value.into()).await;
        match expected {
            Some(revision) => assert_eq!(outcome.unwrap(), revision, "{n}"),
            None => assert!(matches!(outcome, Err(Error::Unknown(_))), "{n}: {outcome:?}"),
        }
        assert_eq!(player.heard().len(), count, "{n}");
    }
}

/// A record that becomes unreadable is gone, for who watches as for who lists.
#[tokio::test]
async fn a_record_that_becomes_unreadable_is_deleted() {
    let block = |revision: u64, cidr: &str| {
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
            "metadata": {"name": "10-0-0-0-26", "resourceVersion": revision.to_string()}, "spec": {"cidr": cidr},
        })
    };
    let blocks = |revision: u64, items: Value| {
        ok(&json!({"kind": "IPAMBlockList", "metadata": {"resourceVersion": revision.to_string()}, "items": items}))
    };
    let plays = vec![
        blocks(10, json!([block(9, "10.0.0.0/26")])),
        blocks(10, json!([])),
        Play::Watch(vec![event("MODIFIED", block(11, "ten"))]),
        blocks(11, json!([block(11, "ten")])),
    ];
    let player = Player::start(plays).await;
    let mut updates = watcher::watch(Arc::new(player.connect().await), vec![KeyRange::Blocks]);
    let key = Key::IpamBlock("10.0.0.0/26".parse().unwrap());
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), updates.recv()).await.unwrap().unwrap();
    assert!(matches!(next().await, Update::Put(kv) if kv.key == key));
    assert_eq!(next().await, Update::InSync);
    assert_eq!(next().await, Update::Delete(key));
}

/// Service account tokens are renewed on disk: one that is refused is read again at once.
#[tokio::test]
async fn a_renewed_token_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "old\n").unwrap();
    let plays = vec![refused(401, "Unauthorized"), ok(&object("p", 7)), ok(&object("p", 7))];
    let player = Player::start(plays).await;
    let kubeconfig = format!(
        "current-context: x\nclusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]",
        player.address
    );
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig).unwrap();
    let config =
        KubernetesConfig { kubeconfig: Some(path.to_string_lossy().into_owned()), ..KubernetesConfig::default() };
    let store = KubernetesStore::connect(&config).await.unwrap();
    std::fs::write(directory.path().join("token"), "new\n").unwrap();
    store.get(&pool("p")).await.unwrap();
    store.get(&pool("p")).await.unwrap();
    let tokens: Vec<String> = player.heard().iter().map(|l| l.rsplit(' ').next().unwrap().to_string()).collect();
    assert_eq!(tokens, ["old", "new", "new"]);
}

/// A transaction is one operation.
#[tokio::test]
async fn a_transaction_of_several_operations_is_refused() {
    let player = Player::start(vec![]).await;
    let store = player.connect().await;
    assert!(!store.has_transactions());
    let ops = ["a", "b"].map(|name| datastore::Op::Put(pool(name), b"{}".into())).to_vec();
    let refusal = tokio::time::timeout(Duration::from_secs(5), store.txn(datastore::Txn { ops })).await.unwrap();
    assert!(matches!(refusal, Err(Error::Invalid(text)) if text.contains("no transactions")));
    assert_eq!(player.heard().len(), 0, "nothing is half applied");
}
