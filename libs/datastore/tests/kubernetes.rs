//! The store against a real API server, with the CRDs of `crds/` applied. `tests/cluster/kube-apiserver.sh` builds and runs one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::ip_pool::{AssignmentMode, IpPoolSpec};
use api::key::{AffinityOwner, Key, KeyRange};
use api::kind::Kind;
use api::meta::WithSpec;
use api::node::NodeSpec;
use api::workload::WorkloadEndpointSpec;
use api::{IpPool, Metadata, Resource};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datastore::config::StoreConfig;
use datastore::kubernetes::config::KubernetesConfig;
use datastore::watcher::{self, Update};
use datastore::{DynStore, Error, Event, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream, conformance, typed};
use futures::StreamExt;
use serde_json::{Value, json};

#[path = "../../../tests/cluster/api_server.rs"]
#[allow(dead_code, reason = "others include it too, and use more of it")]
mod api_server;

use api_server::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the store and its etcd say of a server.
trait Look {
    fn config(&self, context: &str) -> KubernetesConfig;
    async fn open(&self) -> DynStore;
    /// What the server has stored, from its etcd.
    async fn stored(&self, path: &str) -> Option<Value>;
}

impl Look for Server {
    fn config(&self, context: &str) -> KubernetesConfig {
        KubernetesConfig {
            kubeconfig: Some(self.kubeconfig().to_string_lossy().into_owned()),
            context: Some(context.into()),
            namespace: "kube-system".into(),
            ..KubernetesConfig::default()
        }
    }

    async fn open(&self) -> DynStore {
        StoreConfig::Kubernetes(self.config("admin")).open().await.unwrap()
    }

    async fn stored(&self, path: &str) -> Option<Value> {
        let endpoint = std::fs::read_to_string(self.directory.join("etcd")).unwrap();
        let client = etcd_client::Client::connect([endpoint], None).await.unwrap();
        let answer = client.kv_client().get(format!("/registry/{path}"), None).await.unwrap();
        answer.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap())
    }
}

/// The suite's keys and values are any text; the API's are objects with DNS names. Dresses the suite's as Secrets, or as
/// Calico's BGPFilters, and undresses what comes back.
struct Disguise {
    store: DynStore,
    kind: Kind,
}

impl Disguise {
    fn key(&self, key: &Key) -> Key {
        let Key::Resource { kind: Kind::WorkloadEndpoint, namespace, name } = key else { return key.clone() };
        let namespace = namespace.as_deref().unwrap();
        let hex: String = name.bytes().map(|b| format!("{b:02x}")).collect();
        let name = if self.kind.is_namespaced() { hex } else { format!("{namespace}.{hex}") };
        Key::resource(self.kind, Some(namespace), &name)
    }

    fn key_back(&self, key: Key) -> Key {
        let Key::Resource { kind, namespace, name } = &key else { return key };
        assert_eq!(*kind, self.kind);
        let (namespace, hex) = match namespace {
            Some(namespace) => (namespace.as_str(), name.as_str()),
            None => name.split_once('.').unwrap(),
        };
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let name = (0..hex.len()).step_by(2).map(byte).collect();
        Key::resource(Kind::WorkloadEndpoint, Some(namespace), &String::from_utf8(name).unwrap())
    }

    fn value(&self, key: &Key, value: &[u8]) -> Vec<u8> {
        if !matches!(key, Key::Resource { .. }) {
            return value.to_vec();
        }
        let text = STANDARD.encode(value);
        let document = match self.kind {
            Kind::Secret => json!({ "data": { "v": text } }),
            _ => json!({ "metadata": { "annotations": { "v": text } }, "spec": {} }),
        };
        document.to_string().into_bytes()
    }

    fn item_back(&self, kv: KeyValue) -> KeyValue {
        if !matches!(kv.key, Key::Resource { .. }) {
            return kv;
        }
        let document: Value = serde_json::from_slice(&kv.value).unwrap();
        let text = match self.kind {
            Kind::Secret => &document["data"]["v"],
            _ => &document["metadata"]["annotations"]["v"],
        };
        let value = STANDARD.decode(text.as_str().unwrap()).unwrap();
        KeyValue { key: self.key_back(kv.key), value, mod_revision: kv.mod_revision }
    }

    fn error_back(&self, error: Error) -> Error {
        match error {
            Error::AlreadyExists(key) => Error::AlreadyExists(self.key_back(key)),
            Error::NotFound(key) => Error::NotFound(self.key_back(key)),
            Error::Conflict(key) => Error::Conflict(self.key_back(key)),
            other => other,
        }
    }

    fn range(&self, range: &KeyRange) -> KeyRange {
        match range {
            KeyRange::Namespace(_, namespace) if self.kind.is_namespaced() => {
                KeyRange::Namespace(self.kind, namespace.clone())
            }
            KeyRange::Namespace(..) => KeyRange::Kind(self.kind),
            other => other.clone(),
        }
    }
}

#[async_trait]
impl Store for Disguise {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        Ok(self.store.get(&self.key(key)).await?.map(|kv| self.item_back(kv)))
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        let mut listing = self.store.list(&self.range(range)).await?;
        let items = listing.items.into_iter().map(|kv| self.item_back(kv));
        listing.items = items.filter(|kv| kv.key.to_string().starts_with(&range.prefix())).collect();
        Ok(listing)
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let events = self.store.watch(&self.range(range), from).await?;
        let own = Self { store: self.store.clone(), kind: self.kind };
        let prefix = range.prefix();
        Ok(events
            .filter_map(move |event| {
                let event = event.map(|event| match event {
                    Event::Put(kv) => Event::Put(own.item_back(kv)),
                    Event::Delete { key, revision } => Event::Delete { key: own.key_back(key), revision },
                });
                let is_in = event.as_ref().map_or(true, |e| e.key().to_string().starts_with(&prefix));
                std::future::ready(is_in.then_some(event))
            })
            .boxed())
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        let dress = |op| match op {
            Op::Create(key, value) => Op::Create(self.key(&key), self.value(&key, &value)),
            Op::Update(key, value, revision) => Op::Update(self.key(&key), self.value(&key, &value), revision),
            Op::Put(key, value) => Op::Put(self.key(&key), self.value(&key, &value)),
            Op::Delete(key, revision) => Op::Delete(self.key(&key), revision),
            Op::Check(key, revision) => Op::Check(self.key(&key), revision),
        };
        let ops = txn.ops.into_iter().map(dress).collect();
        self.store.txn(Txn { ops }).await.map_err(|e| self.error_back(e))
    }

    fn has_transactions(&self) -> bool {
        self.store.has_transactions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

fn disguised(server: &'static Server, kind: Kind) -> conformance::Open {
    conformance::open_with(move || async move {
        let store: DynStore = Arc::new(Disguise { store: server.open().await, kind });
        store
    })
}

/// The whole suite, with objects of the API's own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn conforms() {
    let server = Server::shared();
    let store = server.open().await;
    let names = [
        "operations",
        "atomic",
        "list",
        "list-2",
        "lis",
        "many",
        "values",
        "watch",
        "watch-2",
        "count",
        "follow",
        "follow-2",
    ];
    for name in names {
        store.create(Key::resource(Kind::Namespace, None, name), b"{}".into()).await.unwrap();
    }
    conformance::without_transactions(disguised(server, Kind::Secret)).await;
}

/// The parts of it that do not need names in any script or large values, with Calico's kinds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn calicos_kinds_conform() {
    let open = disguised(Server::shared(), Kind::BgpFilter);
    conformance::operations(&open).await;
    conformance::watches_miss_and_repeat_nothing(&open).await;
    conformance::watcher_follows_the_store(&open).await;
}

async fn next(events: &mut WatchStream) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event arrives");
    event.expect("the watch does not end").expect("the watch does not fail")
}

/// Every operation on every kind of IPAM record, what is stored for it, and what a watch makes of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn ipam_records_are_calicos() {
    let server = Server::shared();
    let store = server.open().await;
    let host = AffinityOwner::Host("records-1".into());
    let block = json!({
        "cidr": "10.99.0.64/30", "affinity": null, "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
        "attributes": [{"handle_id": "Net.A", "secondary": {"node": "node-1"}}],
        "sequenceNumber": 1_787_392_800_000_000_003_u64, "sequenceNumberForAllocation": {"0": 1_787_392_800_000_000_001_u64},
        "deleted": false,
    });
    let handle = json!({"block": {"10.99.0.64/30": 1}, "deleted": false});
    let rows = [
        (Key::IpamBlock("10.99.0.64/30".parse().unwrap()), KeyRange::Blocks, "ipamblocks/10-99-0-64-30", block),
        (
            Key::BlockAffinity(host.clone(), "10.99.0.64/30".parse().unwrap()),
            KeyRange::AffinitiesOf(host),
            "blockaffinities/records-1-10-99-0-64-30",
            json!({"state": "pending", "deleted": false}),
        ),
        (Key::IpamHandle("Net.A".into()), KeyRange::Handles, "ipamhandles/net.a", handle),
    ];
    for (key, range, path, value) in rows {
        let path = format!("crd.projectcalico.org/{path}");
        let bytes = value.to_string().into_bytes();
        let start = store.list(&range).await.unwrap();
        assert_eq!(start.items, [], "{key}");
        let mut events = store.watch(&range, start.revision).await.unwrap();

        let created = store.create(key.clone(), bytes.clone()).await.unwrap();
        let read = store.get(&key).await.unwrap().unwrap();
        assert_eq!((&read.key, read.mod_revision), (&key, created));
        assert_eq!(serde_json::from_slice::<Value>(&read.value).unwrap(), value, "{key}");
        assert!(matches!(store.create(key.clone(), bytes.clone()).await, Err(Error::AlreadyExists(k)) if k == key));
        assert_eq!(store.list(&range).await.unwrap().items.first(), Some(&read));

        // A deletion that was begun and never ended: marked, and still there.
        let mut marked = server.stored(&path).await.unwrap();
        api::kdd::mark_deleted(&mut marked);
        server.kubectl(&["replace", "-f", "-"], &marked.to_string());
        assert_eq!(store.list(&range).await.unwrap().items, [], "{key} is marked");
        let again = store.create(key.clone(), bytes.clone()).await.unwrap();
        assert!(again > created);
        assert!(matches!(store.update(key.clone(), bytes.clone(), created).await, Err(Error::Conflict(_))));
        assert!(matches!(store.delete(key.clone(), Some(created)).await, Err(Error::Conflict(_))));
        let deleted = store.delete(key.clone(), Some(again)).await.unwrap();
        assert_eq!(server.stored(&path).await, None, "{key} is removed, not only marked");
        assert!(matches!(store.delete(key.clone(), None).await, Err(Error::NotFound(k)) if k == key));
        assert_eq!(store.get(&key).await.unwrap(), None);

        assert_eq!(next(&mut events).await, Event::Put(read));
        assert!(matches!(next(&mut events).await, Event::Delete { key: k, .. } if k == key));
        assert!(matches!(next(&mut events).await, Event::Put(kv) if kv.mod_revision == again));
        // The mark is the deletion: told at its revision, and once.
        assert_eq!(next(&mut events).await, Event::Delete { key: key.clone(), revision: deleted });
        let silence = tokio::time::timeout(Duration::from_millis(200), events.next()).await;
        assert!(silence.is_err(), "{silence:?}");
    }
    let config = json!({"strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 3});
    store.put(Key::IpamConfig, config.to_string().into_bytes()).await.unwrap();
    let stored = server.stored("crd.projectcalico.org/ipamconfigs/default").await.unwrap();
    assert_eq!(stored["spec"], json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 3}));
    assert_eq!(store.get(&Key::IpamConfig).await.unwrap().unwrap().value, config.to_string().into_bytes());
    store.delete(Key::IpamConfig, None).await.unwrap();
}

/// Resources as Calico's tools and kubectl see them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn resources_are_custom_resources() {
    let server = Server::shared();
    let store = server.open().await;
    // Without what the server fills in.
    let spec = serde_json::from_value(json!({"cidr": "10.98.0.0/16", "natOutgoing": true})).unwrap();
    let mut metadata = Metadata::named("resources");
    metadata.labels.insert("a".into(), "b".into());
    metadata.annotations.insert("c".into(), "d".into());
    let pool: IpPool = Resource::new(metadata, WithSpec { spec, status: None });
    let created = typed::create(&*store, &pool).await.unwrap();
    let read = typed::get::<WithSpec<_>>(&*store, None, "resources").await.unwrap().unwrap();
    let mut filled: WithSpec<IpPoolSpec> = pool.body.clone();
    filled.spec.node_selector = Some("all()".into());
    filled.spec.assignment_mode = Some(AssignmentMode::Automatic);
    assert_eq!(read.body, filled);
    // The same again is no write: who may not write applies it.
    let reader = api_server::open(&server.reader()).await;
    let applied = typed::apply(&*reader, &pool).await.unwrap();
    assert_eq!(applied.metadata.resource_version, created.metadata.resource_version);
    let mut other = pool.clone();
    other.body.spec.nat_outgoing = false;
    let refused = typed::apply(&*reader, &other).await.unwrap_err();
    assert!(refused.to_string().contains("RBAC"), "{refused}");
    assert_eq!(
        (&read.metadata.labels, &read.metadata.annotations),
        (&pool.metadata.labels, &pool.metadata.annotations)
    );
    assert_eq!(read.metadata.creation_timestamp, created.metadata.creation_timestamp);
    assert_eq!(read.metadata.resource_version, created.metadata.resource_version);

    let seen: Value =
        serde_json::from_str(&server.kubectl(&["get", "ippools.crd.projectcalico.org", "resources", "-o", "json"], ""))
            .unwrap();
    assert_eq!(seen["spec"]["cidr"], "10.98.0.0/16");
    assert_ne!(seen["metadata"]["uid"].as_str(), read.metadata.uid.as_deref(), "a uid of its own, as in Calico");
    let annotation = seen["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap();
    let created_at = created.metadata.creation_timestamp.as_deref().unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), json!({ "creationTimestamp": created_at }));

    // Written with what create returned, whose uid is not the server's; then nothing to write, then what is out of date.
    let mut changed = created.clone();
    changed.body.spec.nat_outgoing = false;
    let updated = typed::update(&*store, &changed).await.unwrap();
    assert_ne!(updated.metadata.resource_version, created.metadata.resource_version);
    let applied = typed::apply(&*store, &updated).await.unwrap();
    assert_eq!(applied.metadata.resource_version, updated.metadata.resource_version, "the same: no write");
    assert!(matches!(typed::update(&*store, &created).await, Err(Error::Conflict(_))));

    // Made with kubectl, without Calico's annotation.
    server.kubectl(&["apply", "-f", "-"], &json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "by-kubectl"}, "spec": {"cidr": "10.97.0.0/16"},
    }).to_string());
    let by_kubectl: IpPool = typed::get(&*store, None, "by-kubectl").await.unwrap().unwrap();
    assert!(by_kubectl.metadata.creation_timestamp.is_some());
    assert!(typed::delete(&*store, &by_kubectl.key()).await.unwrap());
    assert!(typed::delete(&*store, &pool.key()).await.unwrap());
    assert!(!typed::delete(&*store, &pool.key()).await.unwrap());
}

/// What a watcher has told.
struct Mirror {
    updates: tokio::sync::mpsc::Receiver<Update>,
    seen: BTreeMap<Key, KeyValue>,
}

impl Mirror {
    async fn until(&mut self, what: &str, is_so: impl Fn(&BTreeMap<Key, KeyValue>) -> bool) {
        while !is_so(&self.seen) {
            match tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect(what).unwrap() {
                Update::Put(kv) => drop(self.seen.insert(kv.key.clone(), kv)),
                Update::Delete(key) => drop(self.seen.remove(&key)),
                Update::InSync => {}
            }
        }
    }
}

/// A Node's addresses and a pod's endpoint are annotations of the Kubernetes objects.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn nodes_and_endpoints_are_annotations() {
    let server = Server::shared();
    let store = server.open().await;
    let ranges = vec![KeyRange::Kind(Kind::Node), KeyRange::Namespace(Kind::WorkloadEndpoint, "default".into())];
    let mut mirror = Mirror { updates: watcher::watch(store.clone(), ranges), seen: BTreeMap::new() };
    server.kubectl(
        &["create", "-f", "-"],
        &json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "real-1", "labels": {"rack": "kubernetes"}, "annotations": {"other": "kept"}},
        })
        .to_string(),
    );
    let mut node = typed::get::<WithSpec<NodeSpec>>(&*store, None, "real-1").await.unwrap().unwrap();
    assert_eq!(node.body.spec.bgp, None);
    node.body.spec.bgp =
        Some(serde_json::from_value(json!({"asNumber": 64513, "ipv4Address": "10.0.0.1/24"})).unwrap());
    node.metadata.labels.insert("own".into(), "calico".into());
    let updated = typed::update(&*store, &node).await.unwrap();
    assert!(matches!(typed::update(&*store, &node).await, Err(Error::Conflict(_))), "it has changed since");
    let stored = server.stored("minions/real-1").await.unwrap();
    let annotations = &stored["metadata"]["annotations"];
    assert_eq!(annotations["projectcalico.org/IPv4Address"], "10.0.0.1/24");
    assert_eq!(annotations["projectcalico.org/ASNumber"], "64513");
    assert_eq!(annotations["projectcalico.org/labels"], r#"{"own":"calico"}"#);
    assert_eq!(annotations["other"], "kept");
    assert_eq!(stored["metadata"]["labels"], json!({"rack": "kubernetes"}), "Calico's labels are not the Node's");
    let key = Key::resource(Kind::Node, None, "real-1");
    let revision: Revision = updated.metadata.resource_version.unwrap().parse().unwrap();
    mirror.until("the node", |seen| seen.get(&key).is_some_and(|kv| kv.mod_revision == revision)).await;
    let refused = store.delete(key, None).await.unwrap_err();
    assert!(refused.to_string().contains("kubectl delete node"), "{refused}");
    let unmade = store.create(Key::resource(Kind::Node, None, "real-2"), b"{}".into()).await.unwrap_err();
    assert!(unmade.to_string().contains("kubelet"), "{unmade}");

    // What the plugin does: read, write, write again after a retry, remove.
    let endpoint = |addresses: &[&str]| {
        let spec: WorkloadEndpointSpec = serde_json::from_value(json!({
            "node": "real-1", "pod": "web-0", "endpoint": "eth0", "containerID": "abc", "ipNetworks": addresses, "mac": "ee:ee:ee:ee:ee:ee",
        }))
        .unwrap();
        Resource::new(Metadata::namespaced("default", "real--1-k8s-web--0-eth0"), WithSpec { spec, status: None })
    };
    let wanted = endpoint(&["10.1.0.1/32", "fd00::1/128"]);
    let unmade = typed::create(&*store, &wanted).await.unwrap_err();
    assert!(unmade.to_string().contains("no such Pod"), "{unmade}");
    server.kubectl(&["create", "-f", "-"], &json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "real-1", "containers": [{"name": "c", "image": "i"}]},
    }).to_string());
    let read = async || {
        typed::get::<WithSpec<WorkloadEndpointSpec>>(&*store, Some("default"), &wanted.metadata.name).await.unwrap()
    };
    assert_eq!(read().await, None, "a pod without an address has no endpoint yet");
    typed::apply(&*store, &wanted).await.unwrap();
    let present = read().await.unwrap();
    assert_eq!(present.body.spec.ip_networks, wanted.body.spec.ip_networks);
    assert_eq!(
        (present.body.spec.mac, present.body.spec.container_id),
        (wanted.body.spec.mac.clone(), Some("abc".into()))
    );
    assert_eq!(present.metadata.labels["app"], "web");
    assert!(matches!(typed::create(&*store, &wanted).await, Err(Error::AlreadyExists(_))));
    typed::apply(&*store, &endpoint(&["10.1.0.2/32"])).await.unwrap();
    let annotations = &server.stored("pods/default/web-0").await.unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["cni.projectcalico.org/podIP"], "10.1.0.2/32");
    assert_eq!(annotations["cni.projectcalico.org/podIPs"], "10.1.0.2/32");
    let key = wanted.key();
    mirror
        .until("the endpoint", |seen| {
            seen.get(&key).is_some_and(|kv| String::from_utf8_lossy(&kv.value).contains("10.1.0.2"))
        })
        .await;
    assert!(typed::delete(&*store, &key).await.unwrap());
    assert!(!typed::delete(&*store, &key).await.unwrap());
    mirror.until("its removal", |seen| !seen.contains_key(&key)).await;
    let annotations = &server.stored("pods/default/web-0").await.unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["cni.projectcalico.org/podIP"], "");
    assert_eq!(annotations["cni.projectcalico.org/containerID"], "abc");
}

/// The API's own kinds: a Service whose status has a subresource, a document in a namespace that is not there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn the_apis_own_objects_are_written_with_their_status() {
    let server = Server::shared();
    let store = server.open().await;
    let key = Key::resource(Kind::Service, Some("default"), "lb");
    let document = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "lb", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"},
    });
    store.create(key.clone(), document.to_string().into_bytes()).await.unwrap();
    let mut service: api::Service = typed::get(&*store, Some("default"), "lb").await.unwrap().unwrap();
    assert!(service.body.spec.cluster_ip.is_some(), "the server gave it one");
    service.body.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).unwrap();
    typed::update(&*store, &service).await.unwrap();
    let seen: Value = serde_json::from_str(&server.kubectl(&["get", "service", "lb", "-o", "json"], "")).unwrap();
    assert_eq!(seen["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
    assert_eq!(seen["spec"]["sessionAffinity"], "ClientIP", "what we do not know stays");
    store.delete(key, None).await.unwrap();

    let nowhere = store.create(Key::resource(Kind::Secret, Some("nowhere"), "s"), b"{}".into()).await.unwrap_err();
    assert!(matches!(&nowhere, Error::Invalid(text) if text.contains("namespace")), "{nowhere:?}");
    let unlawful = store.create(Key::resource(Kind::IpPool, None, "Not_A_Name"), b"{\"spec\":{}}".into()).await;
    assert!(matches!(&unlawful, Err(Error::Invalid(text)) if text.contains("Not_A_Name")), "{unlawful:?}");
}

/// Who may what, by certificate and by token; whom we trust.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn credentials_and_certificates_are_checked() {
    let server = Server::shared();
    for context in ["admin", "token"] {
        StoreConfig::Kubernetes(server.config(context)).open().await.unwrap();
    }
    let bad = |change: fn(&mut KubernetesConfig, &Path)| {
        let mut config = server.config("admin");
        change(&mut config, &server.directory);
        config
    };
    let rows: [(KubernetesConfig, &[&str]); 5] = [
        (server.config("nobody"), &["nobody", "forbidden", "RBAC"]),
        (bad(|c, _| c.ca_file = Some("/etc/ssl/certs/ca-certificates.crt".into())), &["UnknownIssuer", "K8S_CA_FILE"]),
        (bad(|c, _| c.cert_file = Some("/dev/null".into())), &["K8S_KEY_FILE"]),
        (
            bad(|c, d| (c.cert_file, c.key_file) = (Some(d.join("admin.pem")), Some(d.join("nobody.key")))),
            &["do not fit", "nobody.key"],
        ),
        (
            bad(|c, d| {
                let text = std::fs::read_to_string(d.join("kubeconfig")).unwrap();
                let text = text.replace("tokenFile: token", "token: wrong");
                std::fs::write(d.join("wrong-token"), text).unwrap();
                c.kubeconfig = Some(d.join("wrong-token").to_string_lossy().into_owned());
                c.context = Some("token".into());
            }),
            &["Unauthorized", "credentials"],
        ),
    ];
    for (config, parts) in rows {
        let Err(error) = StoreConfig::Kubernetes(config.clone()).open().await else { panic!("opened {config:?}") };
        for part in parts {
            assert!(error.to_string().contains(part), "\"{error}\" lacks \"{part}\"");
        }
    }
    let mut unchecked = bad(|c, _| c.ca_file = Some("/etc/ssl/certs/ca-certificates.crt".into()));
    unchecked.insecure = true;
    StoreConfig::Kubernetes(unchecked).open().await.unwrap();
}

/// `kill -9` of the server and a restart: the same client and the same watch go on, nothing is told twice, nothing is missed;
/// and history from before the restart is compacted, not silently skipped.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn a_killed_server_loses_nothing_and_clients_go_on() {
    let server = Server::start();
    let store = server.open().await;
    let filter = |name: &str| Key::resource(Kind::BgpFilter, None, name);
    let value = || b"{\"spec\":{}}".to_vec();
    let range = KeyRange::Kind(Kind::BgpFilter);
    let mut old = 0;
    let mut updates = watcher::watch(store.clone(), vec![range.clone()]);
    assert_eq!(updates.recv().await, Some(Update::InSync));
    for round in 0..2 {
        for n in 0..10 {
            let revision = store.create(filter(&format!("r{round}-{n}")), value()).await.unwrap();
            old = if old == 0 { revision } else { old };
        }
        server.kill();
        let error = store.put(filter("lost"), value()).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_) | Error::Unavailable(_)), "{error:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.release();
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(error) = store.put(filter(&format!("r{round}-after")), value()).await {
            assert!(Instant::now() < deadline, "{error}");
            assert!(matches!(error, Error::Unknown(_) | Error::Unavailable(_) | Error::Invalid(_)), "{error:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for _ in 0..11 {
            let update = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
            let Update::Put(kv) = update else { panic!("{update:?}") };
            assert!(kv.key.name().unwrap().starts_with(&format!("r{round}-")), "{}", kv.key);
        }
        assert!(updates.is_empty(), "{:?}", updates.recv().await);
    }
    assert_eq!(store.list(&range).await.unwrap().items.len(), 22);
    let now = store.list(&range).await.unwrap().revision;
    let endpoint = std::fs::read_to_string(server.directory.join("etcd")).unwrap();
    let etcd = etcd_client::Client::connect([endpoint], None).await.unwrap();
    etcd.kv_client().compact(i64::try_from(now).unwrap(), None).await.unwrap();
    for from in [old, now + 1_000_000] {
        let error = match store.watch(&range, from).await {
            Err(error) => error,
            Ok(mut events) => {
                tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().expect_err("history that is gone")
            }
        };
        assert!(matches!(error, Error::Compacted(_)), "from {from}: {error:?}");
    }
}

/// What became of IPAM's records while their watcher did not hear of it, and history of it is gone: 410, then the difference.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn a_watcher_of_records_outlives_a_compaction_without_phantoms() {
    let server = Server::start();
    let store = server.open().await;
    let handle = |n: usize| Key::IpamHandle(format!("net.{n}"));
    let value = |n: usize| format!(r#"{{"block":{{"10.0.0.0/26":{n}}},"deleted":false}}"#).into_bytes();
    for n in 0..5 {
        store.create(handle(n), value(1)).await.unwrap();
    }
    let mut mirror = Mirror { updates: watcher::watch(store.clone(), vec![KeyRange::Handles]), seen: BTreeMap::new() };
    mirror.until("all of them", |seen| seen.len() == 5).await;
    let from = store.list(&KeyRange::Handles).await.unwrap().revision;

    server.kill();
    // Another server of the cluster writes: one goes, one changes, a deletion of one is begun.
    let endpoint = std::fs::read_to_string(server.directory.join("etcd")).unwrap();
    let etcd = etcd_client::Client::connect([endpoint], None).await.unwrap();
    let mut kv = etcd.kv_client();
    let at = |n: usize| format!("/registry/crd.projectcalico.org/ipamhandles/net.{n}");
    kv.delete(at(0), None).await.unwrap();
    for (n, change) in [(1, json!({"block": {"10.0.0.0/26": 2}})), (2, json!({"deleted": true}))] {
        let stored = kv.get(at(n), None).await.unwrap();
        let mut object: Value = serde_json::from_slice(stored.kvs()[0].value()).unwrap();
        object["spec"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        kv.put(at(n), object.to_string(), None).await.unwrap();
    }
    let now = kv.get(at(1), None).await.unwrap().header().unwrap().revision();
    kv.compact(now, None).await.unwrap();
    server.release();

    let is_so = |seen: &BTreeMap<Key, KeyValue>| {
        seen.len() == 3 && seen.get(&handle(1)).is_some_and(|kv| String::from_utf8_lossy(&kv.value).contains(":2}"))
    };
    mirror.until("the difference", is_so).await;
    let gone = match store.watch(&KeyRange::Handles, from).await {
        Err(error) => error,
        Ok(mut events) => tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap_err(),
    };
    assert!(matches!(gone, Error::Compacted(_)), "{gone:?}");
    // And on from there.
    store.create(handle(2), value(3)).await.unwrap();
    mirror.until("what came after", |seen| seen.len() == 4).await;
    assert_eq!(store.list(&KeyRange::Handles).await.unwrap().items.len(), 4);
}

/// Elections run on Leases, which kubectl shows.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn an_election_is_held_on_a_lease() {
    let server = Server::shared();
    let store = server.open().await;
    let key = Key::Election("test".into());
    let record = |holder: &str, renewals| {
        json!({"holderIdentity": holder, "leaseDurationMilliseconds": 15000, "transitions": 1, "renewals": renewals})
            .to_string()
            .into_bytes()
    };
    let mut events = {
        let from = store.list(&KeyRange::Elections).await.unwrap().revision;
        store.watch(&KeyRange::Elections, from).await.unwrap()
    };
    let first = store.create(key.clone(), record("a", 0)).await.unwrap();
    let second = store.update(key.clone(), record("a", 1), first).await.unwrap();
    assert!(matches!(store.update(key.clone(), record("b", 0), first).await, Err(Error::Conflict(_))));
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, record("a", 1));
    let lease: Value =
        serde_json::from_str(&server.kubectl(&["-n", "kube-system", "get", "lease", "tortie-test", "-o", "json"], ""))
            .unwrap();
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseDurationSeconds"]), (&json!("a"), &json!(15)));
    store.update(key.clone(), record("", 2), second).await.unwrap();
    store.delete(key.clone(), None).await.unwrap();
    let kinds = [true, true, true, false];
    for is_put in kinds {
        let event = next(&mut events).await;
        assert_eq!((event.key(), matches!(event, Event::Put(_))), (&key, is_put));
    }
}
