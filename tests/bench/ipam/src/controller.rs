//! f: tortie-controller, as a process, with 1,000 and with 10,000 services of type LoadBalancer, and ten pods of a fleet behind each:
//! until all have addresses, and what one more service, one pod less, and doing nothing cost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::ip_pool::{AllowedUse, IpPoolSpec};
use api::key::KeyRange;
use api::load_balancer_ip_pool::LoadBalancerIpPoolBlock;
use api::meta::{Body, Resource, WithSpec};
use api::service::{ServiceBody, ServicePort, ServiceType};
use api::workload::{WorkloadEndpointSpec, k8s_endpoint_name};
use api::{IpPool, Key, Kind, LoadBalancerIpPool, LoadBalancerIpPoolSpec, Metadata, Service, WorkloadEndpoint};
use datastore::{DynStore, Event, Op, Txn, WatchStream, typed};
use futures::StreamExt;
use ipam::{AssignRequest, Ipam, IpamConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Row;
use crate::stores::{self, Lab};
use crate::times::Times;
use crate::together::{node, prepare, request};

/// The larger number of services is this many times the smaller.
const TIMES: usize = 10;
/// Pods behind each service, and of each node.
const PODS: usize = 10;
const OF_NODE: usize = 100;
/// Objects of one transaction.
const BATCH: usize = 100;
/// Events timed at each size.
const TIMED: usize = 50;
const NAMESPACE: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(300);
const IDLE: Duration = Duration::from_secs(30);

/// What one size came to.
#[derive(Default)]
struct Figures {
    addressed: f64,
    restarted: f64,
    service: Times,
    pod: Times,
    idle: f64,
    resident: f64,
}

pub async fn measure(data: &Path, services: usize) -> Result<Vec<Row>, String> {
    let few = size(data, services / TIMES).await?;
    let many = size(data, services).await?;
    let row = |what, unit, value, other, limit| Row {
        scenario: 'f',
        store: "etcd",
        what,
        unit,
        value,
        against: Some(("with a tenth", other)),
        limit,
    };
    Ok(vec![
        row("controller: all services have addresses after", "s", many.addressed, few.addressed, None),
        row("controller: in sync after a restart", "s", many.restarted, few.restarted, None),
        row("controller: one more service, median", "us", many.service.median(), few.service.median(), Some(1.5)),
        row("controller: one pod less, median", "us", many.pod.median(), few.pod.median(), Some(1.5)),
        row("controller: share of a core when idle", "%", many.idle, few.idle, None),
        row("controller: resident", "MiB", many.resident, few.resident, None),
    ])
}

async fn size(data: &Path, services: usize) -> Result<Figures, String> {
    let lab = Lab::start(stores::Kind::Etcd, data).await?;
    let store = lab.open().await.map_err(|e| e.to_string())?.bare().clone();
    let addresses = services * PODS;
    prepare(&store, addresses.div_ceil(OF_NODE)).await?;
    furnish(&store, services).await?;
    let mut figures = Figures::default();
    let mut watch = changes(&store, Kind::Service).await?;
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let start = Instant::now();
    let controller = Controller::start(&lab, directory.path())?;
    let mut waiting: BTreeSet<String> = (0..services).map(service_name).collect();
    while !waiting.is_empty() {
        let (name, service) = next(&mut watch).await?;
        if has_address(&service) {
            waiting.remove(&name);
        }
    }
    figures.addressed = start.elapsed().as_secs_f64();
    drop(controller);
    let start = Instant::now();
    let controller = Controller::start(&lab, directory.path())?;
    controller.in_sync(directory.path()).await?;
    figures.restarted = start.elapsed().as_secs_f64();
    events(&store, services, &mut figures).await?;
    // What the events left is done.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = controller.cpu_seconds()?;
    tokio::time::sleep(IDLE).await;
    figures.idle = (controller.cpu_seconds()? - before) / IDLE.as_secs_f64() * 100.0;
    figures.resident = controller.resident()?;
    Ok(figures)
}

/// Times of a service that comes, until it has its address, and of a pod that goes, until its service's slice has it no more.
async fn events(store: &DynStore, services: usize, figures: &mut Figures) -> Result<(), String> {
    let mut watch = changes(store, Kind::Service).await?;
    for n in services..services + TIMED {
        let (name, start) = (service_name(n), Instant::now());
        typed::create(store.as_ref(), &service(n)).await.map_err(|e| e.to_string())?;
        loop {
            let (changed, value) = next(&mut watch).await?;
            if changed == name && has_address(&value) {
                break;
            }
        }
        figures.service.add(start.elapsed());
    }
    let mut watch = changes(store, Kind::EndpointSlice).await?;
    for n in 0..TIMED.min(services) {
        let gone = Key::resource(Kind::WorkloadEndpoint, Some(NAMESPACE), &endpoint_name(n));
        let (prefix, start) = (format!("{}-tortie", service_name(n)), Instant::now());
        store.delete(gone, None).await.map_err(|e| e.to_string())?;
        while !next(&mut watch).await?.0.starts_with(&prefix) {}
        figures.pod.add(start.elapsed());
    }
    Ok(())
}

/// Pools of both kinds, pods with addresses in the blocks of their nodes, and services.
async fn furnish(store: &DynStore, services: usize) -> Result<(), String> {
    let ipam = Ipam::new(store.clone());
    let config = IpamConfig { max_blocks_per_host: 1_000, ..IpamConfig::default() };
    ipam.set_config(config).await.map_err(|e| e.to_string())?;
    let cidr = "172.16.0.0/16".parse().map_err(|e| format!("{e}"))?;
    let spec = IpPoolSpec { allowed_uses: Some(vec![AllowedUse::LoadBalancer]), ..IpPoolSpec::new(cidr) };
    let pool = IpPool::new(Metadata::named("services"), WithSpec { spec, status: None });
    typed::create(store.as_ref(), &pool).await.map_err(|e| e.to_string())?;
    let block = LoadBalancerIpPoolBlock {
        cidr: Some("172.17.0.0/17".parse().map_err(|e| format!("{e}"))?),
        ..LoadBalancerIpPoolBlock::default()
    };
    let selector = serde_json::from_value(serde_json::json!({"matchLabels": {"half": "1"}}));
    let spec = LoadBalancerIpPoolSpec {
        blocks: vec![block],
        service_selector: selector.map_err(|e| e.to_string())?,
        ..LoadBalancerIpPoolSpec::default()
    };
    let pool = LoadBalancerIpPool::new(Metadata::named("half"), WithSpec { spec, status: None });
    typed::create(store.as_ref(), &pool).await.map_err(|e| e.to_string())?;
    let mut ops = Vec::new();
    for n in 0..services {
        ops.push(created(service(n)));
        write(store, &mut ops, BATCH).await?;
    }
    write(store, &mut ops, 1).await?;
    for from in (0..services * PODS).step_by(BATCH) {
        let requests: Vec<AssignRequest> = (from..from + BATCH).map(pod_request).collect();
        for (n, outcome) in (from..).zip(ipam.assign_many(&requests).await) {
            let got = outcome.map_err(|e| e.to_string())?;
            let address = got.v4.first().ok_or("an address was refused while there were some")?.addr();
            let mut metadata = Metadata::namespaced(NAMESPACE, endpoint_name(n));
            metadata.labels = pod_labels(n, services);
            let spec = WorkloadEndpointSpec {
                orchestrator: Some("k8s".into()),
                node: node_name(n),
                container_id: Some(container(n)),
                pod: Some(format!("pod-{n}")),
                endpoint: Some("eth0".into()),
                ip_networks: vec![format!("{address}/32")],
                interface_name: format!("cali{n:011}"),
                profiles: vec![format!("kns.{NAMESPACE}")],
                ..WorkloadEndpointSpec::default()
            };
            ops.push(created(WorkloadEndpoint::new(metadata, WithSpec { spec, status: None })));
        }
        write(store, &mut ops, BATCH).await?;
    }
    Ok(())
}

fn service_name(n: usize) -> String {
    format!("service-{n}")
}

fn node_name(pod: usize) -> String {
    format!("node-{}", pod / OF_NODE)
}

fn endpoint_name(pod: usize) -> String {
    k8s_endpoint_name(&node_name(pod), &format!("pod-{pod}"), "eth0")
}

fn container(pod: usize) -> String {
    format!("{pod:064x}")
}

fn pod_labels(pod: usize, services: usize) -> BTreeMap<String, String> {
    let pairs = [
        ("app", service_name(pod % services)),
        ("pod-template-hash", format!("{:010x}", pod / 7)),
        ("projectcalico.org/namespace", NAMESPACE.into()),
        ("projectcalico.org/orchestrator", "k8s".into()),
    ];
    pairs.map(|(k, v)| (k.to_string(), v)).into()
}

fn pod_request(pod: usize) -> AssignRequest {
    let attributes = [("pod", format!("pod-{pod}")), ("namespace", NAMESPACE.into()), ("node", node_name(pod))];
    AssignRequest {
        attributes: attributes.map(|(k, v)| (k.to_string(), v)).into(),
        owner: node(pod / OF_NODE),
        ..request(0, format!("k8s-pod-network.{}", container(pod)))
    }
}

fn service(n: usize) -> Service {
    let mut body = ServiceBody::default();
    body.spec.service_type = ServiceType::LoadBalancer;
    // The range of node ports is not made for so many.
    body.spec.extra.insert("allocateLoadBalancerNodePorts".into(), false.into());
    body.spec.selector = [("app".to_string(), service_name(n))].into();
    body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
    let mut metadata = Metadata::namespaced(NAMESPACE, service_name(n));
    metadata.labels.insert("half".into(), (n % 2).to_string());
    Service::new(metadata, body)
}

/// As [`typed::create`] writes it.
fn created<B: Body>(mut resource: Resource<B>) -> Op {
    resource.metadata.uid = Some(format!("uid-{}", resource.metadata.name));
    resource.metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".into());
    Op::Create(resource.key(), typed::encode(&resource))
}

/// Writes them, once they are so many.
async fn write(store: &DynStore, ops: &mut Vec<Op>, least: usize) -> Result<(), String> {
    if ops.len() >= least {
        store.txn(Txn { ops: std::mem::take(ops) }).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

async fn changes(store: &DynStore, kind: Kind) -> Result<WatchStream, String> {
    let revision = store.list_keys(&KeyRange::Kind(kind)).await.map_err(|e| e.to_string())?.revision;
    store.watch(&KeyRange::Kind(kind), revision).await.map_err(|e| e.to_string())
}

/// The name and value of what was written next.
async fn next(watch: &mut WatchStream) -> Result<(String, Value), String> {
    loop {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.map_err(|_| "the controller does nothing")?;
        if let Event::Put(kv) = event.ok_or("the watch ended")?.map_err(|e| e.to_string())? {
            let value = serde_json::from_slice(&kv.value).map_err(|e| e.to_string())?;
            return Ok((kv.key.name().unwrap_or_default().to_string(), value));
        }
    }
}

fn has_address(service: &Value) -> bool {
    service.pointer("/status/loadBalancer/ingress/0/ip").is_some()
}

/// The process; told to end when it is dropped, so that the next one leads at once.
struct Controller(Child);

impl Controller {
    fn start(lab: &Lab, run_dir: &Path) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let program = own.with_file_name("tortie-controller");
        let child = Command::new(&program)
            .arg("--run-dir")
            .arg(run_dir)
            .envs(lab.environment())
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .spawn();
        child.map(Self).map_err(|e| format!("{}: {e}; build it with the bench", program.display()))
    }

    async fn in_sync(&self, run_dir: &Path) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if answers(&run_dir.join("controller.sock")).await.is_some_and(|text| text.ends_with("ok\n")) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("the controller is never in sync".into())
    }

    fn file(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.0.id());
        std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
    }

    fn cpu_seconds(&self) -> Result<f64, String> {
        let stat = self.file("stat")?;
        // After the name, which may hold anything: utime and stime are the 14th and 15th field, in hundredths.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
        Ok(ticks / 100.0)
    }

    /// MiB in memory.
    fn resident(&self) -> Result<f64, String> {
        let pages: Option<f64> = self.file("statm")?.split(' ').nth(1).and_then(|n| n.parse().ok());
        pages.map(|n| n * 4096.0 / f64::from(1 << 20)).ok_or_else(|| "/proc/PID/statm has no second field".into())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status();
        if !told.is_ok_and(|status| status.success()) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

async fn answers(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}
