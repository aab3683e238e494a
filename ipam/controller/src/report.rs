//! What the controller says of itself on its socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::IpPool;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use datastore::DynStore;
use datastore::election::{self, Leadership};
use ipam::gc::Subject;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// The election that controllers hold, in the store.
pub const ELECTION: &str = "controller";
/// How long a question to the controller may take while it carries out a plan.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counters and the present condition.
#[derive(Clone, Default)]
pub struct Report {
    /// Who this is, for the others.
    pub identity: String,
    /// Of the present term, or the last one.
    pub leadership: Option<Leadership>,
    /// The store has been read, and a plan carried out once.
    pub is_in_sync: bool,
    pub is_dry_run: bool,
    pub services: usize,
    pub workloads: usize,
    /// Handles that have a load-balancer address.
    pub load_balancers: usize,
    /// Those among them that are kept though their service is not in the store.
    pub held: usize,
    pub reconciles: u64,
    pub actions: u64,
    pub failures: u64,
    /// Actions of the last round that failed and will be retried.
    pub failing: u64,
    pub last_error: Option<String>,
    /// Addresses collected, by pool and node.
    pub reclamations: BTreeMap<(String, String), u64>,
    /// Blocks, affinities and handles collected.
    pub collected_other: u64,
    /// Answered by the controller, while it leads.
    pub questions: Option<mpsc::Sender<oneshot::Sender<Snapshot>>>,
}

/// What only the controller's own state says, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What is to be collected, and when.
    pub candidates: Vec<Value>,
    /// The metrics of IPAM, as Prometheus reads them.
    pub metrics: String,
}

impl Report {
    /// By this process's own clock: one that was stopped knows as soon as it wakes up.
    pub fn is_leading(&self) -> bool {
        self.leadership.as_ref().is_some_and(Leadership::is_held)
    }
}

#[derive(Clone)]
struct Shared {
    report: Arc<Mutex<Report>>,
    store: DynStore,
}

/// `/readyz`, `/healthz`, `/metrics`, `/v1/status`, `/v1/gc`.
pub fn router(report: Arc<Mutex<Report>>, store: DynStore) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/gc", get(candidates))
        .with_state(Shared { report, store })
}

impl Shared {
    fn read(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None where this process does not lead, or is busy.
    async fn snapshot(&self) -> Option<Snapshot> {
        let questions = self.read().questions.clone()?;
        let (question, answer) = oneshot::channel();
        questions.try_send(question).ok()?;
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
    }

    async fn leader(&self) -> Option<String> {
        let asked = tokio::time::timeout(PATIENCE, election::leader(&self.store, ELECTION)).await.ok()?;
        Some(asked.ok()??.holder_identity)
    }
}

/// Ready when it has read the store and carried out a plan, or when another does and it would take over. What a service asks for
/// and cannot have is in that service's status, not here.
async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let (is_leading, is_in_sync) = {
        let report = shared.read();
        (report.is_leading(), report.is_in_sync)
    };
    if is_leading && is_in_sync {
        return (StatusCode::OK, "ok\n".into());
    }
    match shared.leader().await.filter(|_| !is_leading) {
        Some(leader) => (StatusCode::OK, format!("standby: {leader} leads\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "reading the datastore\n".into()),
    }
}

async fn status(State(shared): State<Shared>) -> Json<Value> {
    let leader = shared.leader().await;
    let report = shared.read().clone();
    Json(json!({
        "identity": report.identity,
        "leading": report.is_leading(),
        "leader": leader,
        "inSync": report.is_in_sync,
        "gcDryRun": report.is_dry_run,
        "services": report.services,
        "workloads": report.workloads,
        "loadBalancers": report.load_balancers,
        "heldLoadBalancers": report.held,
        "reconciles": report.reconciles,
        "actions": report.actions,
        "failures": report.failures,
        "failing": report.failing,
        "lastError": report.last_error,
    }))
}

/// What will be collected and when; only the leader knows.
async fn candidates(State(shared): State<Shared>) -> (StatusCode, Json<Value>) {
    match shared.snapshot().await {
        Some(snapshot) => {
            let is_dry_run = shared.read().is_dry_run;
            (StatusCode::OK, Json(json!({"dryRun": is_dry_run, "candidates": snapshot.candidates})))
        }
        None => {
            let leader = shared.leader().await;
            let error = match &leader {
                Some(leader) => format!("this controller does not lead: ask that of {leader}"),
                None => "no controller leads".into(),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error, "leader": leader})))
        }
    }
}

/// Prometheus' text format.
async fn metrics(State(shared): State<Shared>) -> String {
    let ipam = shared.snapshot().await.map(|s| s.metrics).unwrap_or_default();
    let report = shared.read();
    let rows = [
        ("is_leader", "gauge", "1 on the controller that acts.", u64::from(report.is_leading())),
        ("services", "gauge", "Services in the datastore.", report.services as u64),
        ("workloads", "gauge", "Workload endpoints in the datastore.", report.workloads as u64),
        ("load_balancers", "gauge", "Services with a load-balancer address.", report.load_balancers as u64),
        (
            "held_load_balancers",
            "gauge",
            "Load balancers whose addresses are kept, though their services are not in the datastore.",
            report.held as u64,
        ),
        ("failing_actions", "gauge", "Actions of the last round that will be retried.", report.failing),
        ("reconciles_total", "counter", "Plans carried out.", report.reconciles),
        ("actions_total", "counter", "Actions done.", report.actions),
        ("failures_total", "counter", "Actions that failed.", report.failures),
        (
            "collected_records_total",
            "counter",
            "Blocks, affinities and handles that nobody needed.",
            report.collected_other,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        let name = format!("tortie_controller_{name}");
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    let reclaimed = report.reclamations.iter().map(|((pool, node), n)| (labels(pool, node), *n));
    family(&mut text, "ipam_allocations_gc_reclamations", "counter", "Addresses collected.", reclaimed);
    text + &ipam
}

fn labels(pool: &str, node: &str) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{ippool=\"{}\",node=\"{}\"}}", escaped(pool), escaped(node))
}

fn family<N: std::fmt::Display>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    rows: impl Iterator<Item = (String, N)>,
) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in rows {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// The pool of an address or block, as Calico's metrics name it; `no_ippool` where there is none.
pub fn pool_of<'a>(pools: &'a BTreeMap<String, IpPool>, net: &IpNet) -> &'a str {
    let found = pools.iter().find(|(_, pool)| pool.body.spec.cidr.contains(net));
    found.map_or("no_ippool", |(name, _)| name)
}

impl Snapshot {
    pub fn of(state: &crate::state::State) -> Self {
        Self { candidates: candidates_of(state), metrics: ipam_metrics(state) }
    }
}

fn candidates_of(state: &crate::state::State) -> Vec<Value> {
    let describe = |subject: &Subject| match subject {
        Subject::Handle(handle) => json!({"handle": handle}),
        Subject::Block(cidr) => json!({"block": cidr}),
        Subject::Affinity(owner, cidr) => json!({"affinity": owner.to_block_field(), "block": cidr}),
        Subject::Record(handle) => json!({"handle": handle, "addresses": []}),
    };
    let rows = state.collector.candidates().map(|(subject, candidate)| {
        let mut row = describe(subject);
        if !candidate.addresses.is_empty() {
            row["addresses"] = json!(candidate.addresses);
        }
        row["reason"] = json!(candidate.reason.to_string());
        row["since"] = json!(candidate.since.to_string());
        row["due"] = json!(candidate.due.to_string());
        row
    });
    let gone = state.ended_nodes.iter().flat_map(|(node, own)| {
        let endpoints = state.workloads_of_node(node).map(|(ns, name)| format!("workload endpoint {ns}/{name}"));
        let scoped = own.keys().map(ToString::to_string);
        let reason = format!("node {node} does not exist");
        endpoints.chain(scoped).map(move |what| json!({"resource": what, "reason": reason}))
    });
    rows.chain(gone).collect()
}

/// Calico's metrics (Calico `kube-controllers/pkg/controllers/node/metrics.go`).
fn ipam_metrics(state: &crate::state::State) -> String {
    let mut blocks: BTreeMap<String, usize> = BTreeMap::new();
    let mut in_use: BTreeMap<String, usize> = BTreeMap::new();
    let mut borrowed: BTreeMap<String, usize> = BTreeMap::new();
    for (cidr, owner, usage) in state.collector.usage() {
        let pool = pool_of(&state.pools, cidr);
        let node = match owner {
            Some(api::key::AffinityOwner::Host(node) | api::key::AffinityOwner::Virtual(node)) => node.as_str(),
            None => "no_affinity",
        };
        *blocks.entry(labels(pool, node)).or_default() += 1;
        for (node, usage) in usage {
            *in_use.entry(labels(pool, node)).or_default() += usage.in_use;
            if usage.borrowed > 0 {
                *borrowed.entry(labels(pool, node)).or_default() += usage.borrowed;
            }
        }
    }
    let mut candidates: BTreeMap<String, usize> = BTreeMap::new();
    for (subject, candidate) in state.collector.candidates() {
        let Subject::Handle(handle) = subject else { continue };
        let node = state.collector.node_of(handle).unwrap_or_default();
        for ip in &candidate.addresses {
            *candidates.entry(labels(pool_of(&state.pools, &IpNet::from(*ip)), node)).or_default() += 1;
        }
    }
    // An IPv6 pool may have more than any integer holds.
    let size = |cidr: &IpNet| 2f64.powi(i32::from(cidr.max_prefix_len() - cidr.prefix_len()));
    let label = |name: &String| format!("{{ippool=\"{name}\"}}");
    let sizes = state.pools.iter().map(|(name, pool)| (label(name), size(&pool.body.spec.cidr)));
    let reservations = state.reserved();
    let reserved = state.pools.iter().map(|(name, pool)| {
        let cidr = &pool.body.spec.cidr;
        let inside: f64 = reservations.iter().filter(|r| cidr.contains(*r)).map(size).sum();
        let is_whole = reservations.iter().any(|r| r.contains(cidr));
        (label(name), if is_whole { size(cidr) } else { inside })
    });
    let mut text = String::new();
    let mut gauge = |name, help, rows: BTreeMap<String, usize>| {
        family(&mut text, name, "gauge", help, rows.into_iter());
    };
    gauge("ipam_blocks", "Blocks, by pool and the node that has them.", blocks);
    gauge("ipam_allocations_in_use", "Addresses in use, by pool and the node that uses them.", in_use);
    gauge("ipam_allocations_borrowed", "Addresses in use out of another node's block.", borrowed);
    gauge("ipam_allocations_gc_candidates", "Addresses that will be collected.", candidates);
    family(&mut text, "ipam_ippool_size", "gauge", "Addresses of a pool.", sizes);
    family(&mut text, "ipam_ippool_reserved", "gauge", "Addresses of a pool that are reserved.", reserved);
    text
}
