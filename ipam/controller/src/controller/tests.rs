use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::ip_pool::IpPoolSpec;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::service::{EndpointSliceBody, PodBody, ServicePort, ServiceType};
use api::workload::WorkloadEndpointSpec;
use api::{IpPool, Key, Kind, Metadata, Pod, Service, WorkloadEndpoint};
use datastore::KeyValue;
use datastore::memory::{Fault, MemoryStore};
use datastore::store::{Listing, Revision, Store, Txn, WatchStream};

use super::*;
use etcd_server::Etcd;

/// Waits until `$check` holds; the paused clock makes backoffs pass at once.
macro_rules! eventually {
    ($check:expr) => {
        for attempt in 0.. {
            if $check {
                break;
            }
            assert!(attempt < 2000, "never: {}", stringify!($check));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
}

mod collection;
mod lock;
mod pools;
mod takeover;

fn settings() -> Settings {
    Settings {
        cluster_ips: vec!["10.96.0.0/12".parse().unwrap()],
        node_ports: 30000..=32767,
        has_kubernetes: false,
        is_dry_run: false,
    }
}

struct Lab {
    store: DynStore,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lab {
    fn start(store: DynStore) -> Self {
        Self::start_with(store, settings())
    }

    fn start_with(store: DynStore, settings: Settings) -> Self {
        let controller = Controller::new(store.clone(), settings, Arc::default());
        Self { store, task: tokio::spawn(controller.run()) }
    }

    async fn service(&self) -> Service {
        typed::get::<ServiceBody>(self.store.as_ref(), Some("test"), "web").await.unwrap().unwrap()
    }

    async fn ingress(&self) -> Option<String> {
        self.service().await.body.status?.load_balancer.ingress.first()?.ip.clone()
    }

    async fn endpoints(&self) -> Option<Vec<String>> {
        let slice = typed::get::<EndpointSliceBody>(self.store.as_ref(), Some("test"), "web-tortie").await.unwrap()?;
        Some(slice.body.endpoints.into_iter().flat_map(|e| e.addresses).collect())
    }

    async fn revision(&self) -> u64 {
        self.store.list(&KeyRange::Blocks).await.unwrap().revision
    }

    async fn allocated(&self) -> usize {
        let blocks = Ipam::new(self.store.clone()).blocks().await.unwrap();
        blocks.iter().map(|b| b.allocations.iter().flatten().count()).sum()
    }
}

async fn add_pool(store: &DynStore) {
    let spec = IpPoolSpec {
        allowed_uses: Some(vec![AllowedUse::LoadBalancer]),
        ..IpPoolSpec::new("172.20.0.0/24".parse().unwrap())
    };
    let pool = IpPool::new(Metadata::named("lb"), WithSpec { spec, status: None });
    typed::create(store.as_ref(), &pool).await.unwrap();
}

async fn add_service(store: &DynStore) {
    let mut body = ServiceBody::default();
    body.spec.service_type = ServiceType::LoadBalancer;
    body.spec.selector = [("app".to_string(), "web".to_string())].into();
    body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
    typed::create(store.as_ref(), &Service::new(Metadata::namespaced("test", "web"), body)).await.unwrap();
}

/// Services are kept in this store.
async fn add_other_service(store: &DynStore) {
    typed::create(store.as_ref(), &Service::new(Metadata::namespaced("test", "other"), ServiceBody::default()))
        .await
        .unwrap();
}

async fn add_workload(store: &DynStore) {
    let mut metadata = Metadata::namespaced("test", "w1-k8s-p1-eth0");
    metadata.labels.insert("app".into(), "web".into());
    let spec = WorkloadEndpointSpec {
        node: "worker01".into(),
        pod: Some("p1".into()),
        ip_networks: vec!["10.0.0.1/32".into()],
        interface_name: "cali1".into(),
        ..WorkloadEndpointSpec::default()
    };
    typed::create(store.as_ref(), &WorkloadEndpoint::new(metadata, WithSpec { spec, status: None })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_is_completed_served_and_cleaned_up() {
    a_services_life(Arc::new(MemoryStore::new()), RESYNC * 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_service_is_completed_served_and_cleaned_up_on_etcd() {
    let etcd = Etcd::start().await;
    a_services_life(etcd.open().await, Duration::from_secs(1)).await;
}

async fn a_services_life(store: DynStore, quiet: Duration) {
    add_pool(&store).await;
    add_service(&store).await;
    add_workload(&store).await;
    let lab = Lab::start(store.clone());
    eventually!(lab.ingress().await.is_some());
    eventually!(lab.endpoints().await == Some(vec!["10.0.0.1".into()]));
    let web = lab.service().await;
    assert!(web.body.spec.cluster_ip.is_some() && web.body.spec.ports[0].node_port.is_some());
    assert!(lab.ingress().await.unwrap().starts_with("172.20.0."));
    assert_eq!(lab.allocated().await, 1);

    // Nothing more is written once everything is as wanted, also after a resync.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let revision = lab.revision().await;
    tokio::time::sleep(quiet).await;
    assert_eq!(lab.revision().await, revision);

    // The type goes and comes back.
    for (service_type, addresses) in [(ServiceType::ClusterIP, 0), (ServiceType::LoadBalancer, 1)] {
        let mut changed = lab.service().await;
        changed.body.spec.service_type = service_type;
        typed::update(store.as_ref(), &changed).await.unwrap();
        eventually!(lab.allocated().await == addresses && lab.ingress().await.is_some() == (addresses == 1));
    }

    // A pod whose labels change leaves the service.
    let mut metadata = Metadata::namespaced("test", "p1");
    metadata.labels.insert("app".into(), "drained".into());
    typed::create(store.as_ref(), &Pod::new(metadata, PodBody::default())).await.unwrap();
    eventually!(lab.endpoints().await == Some(vec![]));
    let stored = || typed::get::<WithSpec<WorkloadEndpointSpec>>(store.as_ref(), Some("test"), "w1-k8s-p1-eth0");
    eventually!(stored().await.unwrap().unwrap().metadata.labels.get("app").is_some_and(|app| app == "drained"));
    assert_eq!(stored().await.unwrap().unwrap().body.spec.interface_name, "cali1", "only its labels are written");

    typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "web")).await.unwrap();
    eventually!(lab.endpoints().await.is_none());
    eventually!(lab.allocated().await == 0);
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_it_was_down_is_made_up_for() {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_pool(&store).await;
    add_service(&store).await;
    let first = Lab::start(Arc::new(memory.clone()));
    eventually!(first.ingress().await.is_some());
    let kept = first.ingress().await;
    drop(first);
    let second = Lab::start(Arc::new(memory.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(second.ingress().await, kept, "a restart changes nothing");
    drop(second);
    add_other_service(&store).await;
    typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "web")).await.unwrap();
    let third = Lab::start(Arc::new(memory));
    eventually!(third.allocated().await == 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_pool_the_status_says_so_until_there_is_one() {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_service(&store).await;
    let lab = Lab::start(Arc::new(memory));
    let conditions = || async { lab.service().await.body.status.map(|s| s.extra["conditions"].to_string()) };
    eventually!(conditions().await.is_some_and(|c| c.contains("no configured Calico pools")));
    add_pool(&store).await;
    eventually!(lab.ingress().await.is_some());
    eventually!(!lab.service().await.body.status.unwrap().extra.contains_key("conditions"));
}

/// Many services are addressed together: beside what is written into each of them, there are a few transactions.
#[tokio::test(start_paused = true)]
async fn many_services_share_transactions() {
    const MANY: u64 = 200;
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_pool(&store).await;
    let has_address = |service: &Service| plan::ingress_of(service).next().is_some();
    for n in 0..MANY {
        let mut body = ServiceBody::default();
        body.spec.service_type = ServiceType::LoadBalancer;
        body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
        let service = Service::new(Metadata::namespaced("test", format!("s{n}")), body);
        typed::create(store.as_ref(), &service).await.unwrap();
    }
    let before = memory.revision();
    let lab = Lab::start(store.clone());
    eventually!(typed::list::<ServiceBody>(store.as_ref()).await.unwrap().0.iter().all(has_address));
    assert_eq!(lab.allocated().await as u64, MANY);
    // Its cluster IP and node port, then its address.
    let of_services = 2 * MANY;
    let others = memory.revision() - before - of_services;
    assert!(others <= MANY / 20, "{others} transactions for {MANY} addresses");
    // And given back together.
    let before = memory.revision();
    for n in 0..MANY {
        typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), &format!("s{n}"))).await.unwrap();
    }
    eventually!(lab.allocated().await == 0);
    let others = memory.revision() - before - MANY;
    assert!(others <= MANY / 10, "{others} transactions for {MANY} addresses");
}

#[tokio::test(start_paused = true)]
async fn what_a_cut_off_write_has_left_is_repaired() {
    let store: DynStore = Arc::new(MemoryStore::without_transactions());
    add_pool(&store).await;
    let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
    let block = Ipam::new(store.clone())
        .auto_assign(&AssignRequest { num_v4: 1, ..AssignRequest::new(owner.clone(), "x") })
        .await
        .unwrap()
        .v4[0]
        .trunc();
    let key = Key::BlockAffinity(owner, block);
    let confirmed = store.get(&key).await.unwrap().unwrap().value;
    store.put(key.clone(), br#"{"state":"pending","deleted":false}"#.to_vec()).await.unwrap();
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(INSPECTION * 2).await;
    eventually!(store.get(&key).await.unwrap().unwrap().value == confirmed);
}

#[tokio::test(start_paused = true)]
async fn failing_writes_are_retried() {
    for fault in [Fault::Conflict, Fault::UnknownApplied, Fault::UnknownLost, Fault::Unavailable] {
        let memory = MemoryStore::new();
        let store: DynStore = Arc::new(memory.clone());
        add_pool(&store).await;
        add_service(&store).await;
        for _ in 0..6 {
            memory.fail_next_txn(fault);
        }
        let lab = Lab::start(Arc::new(memory));
        eventually!(lab.ingress().await.is_some() && lab.endpoints().await.is_some());
        eventually!(lab.service().await.body.spec.cluster_ip.is_some());
        assert_eq!(lab.allocated().await, 1, "{fault:?}");
    }
}

/// A store on which its user dies: all writes from the `n`th on never return; that one happens or not.
struct Mortal {
    inner: MemoryStore,
    left: AtomicUsize,
    last_happens: bool,
}

#[async_trait::async_trait]
impl Store for Mortal {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, datastore::Error> {
        self.inner.get(key).await
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, datastore::Error> {
        self.inner.list(range).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, datastore::Error> {
        self.inner.watch(range, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, datastore::Error> {
        if self.left.load(Ordering::Relaxed) == 0 {
            if self.last_happens {
                let _ = self.inner.txn(txn).await;
            }
            return std::future::pending().await;
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        self.inner.txn(txn).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), datastore::Error> {
        self.inner.compact(revision).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Killed before or after each of its writes; meanwhile the service stays, or goes.
#[tokio::test(start_paused = true)]
async fn a_kill_between_any_two_writes_leaks_nothing() {
    const WRITES: usize = 4;
    for n in 0..=WRITES {
        for (last_happens, stays) in [(false, true), (true, true), (false, false), (true, false)] {
            let memory = MemoryStore::new();
            let store: DynStore = Arc::new(memory.clone());
            add_pool(&store).await;
            add_service(&store).await;
            add_workload(&store).await;
            let before = memory.revision();
            let mortal = Mortal { inner: memory.clone(), left: AtomicUsize::new(n), last_happens };
            let first = Lab::start(Arc::new(mortal));
            tokio::time::sleep(Duration::from_secs(1)).await;
            let written = memory.revision() - before;
            assert!(written >= n.min(3) as u64, "{written} writes before the {n}th: too few to kill between");
            drop(first);
            if !stays {
                add_other_service(&store).await;
                typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), "web")).await.unwrap();
            }
            let second = Lab::start(store.clone());
            if stays {
                eventually!(second.ingress().await.is_some() && second.endpoints().await.is_some());
            } else {
                eventually!(second.endpoints().await.is_none());
            }
            let addresses = usize::from(stays);
            eventually!(second.allocated().await == addresses);
            let handles = store.list(&KeyRange::Handles).await.unwrap().items.len();
            assert_eq!(handles, addresses, "killed at write {n}, {last_happens} {stays}");
        }
    }
}

/// Before the store answers there is nothing to do, however long that takes: the task sleeps.
#[test]
fn while_the_store_is_away_the_controller_sleeps() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let memory = MemoryStore::new();
            let store: DynStore = Arc::new(memory.clone());
            add_pool(&store).await;
            add_service(&store).await;
            memory.set_unavailable(true);
            let lab = Lab::start(store);
            // The paused clock moves on only while every task sleeps.
            tokio::time::sleep(RESYNC * 10).await;
            memory.set_unavailable(false);
            eventually!(lab.ingress().await.is_some());
        });
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(20)).expect("the controller does not spin");
}
