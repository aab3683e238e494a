//! felix.sock: what felix knows and has programmed, as HTTP and JSON.
//!
//! | path | answer |
//! |---|---|
//! | `/readyz` | 200 when in sync and everything is programmed, else 503 with the reasons, one a line |
//! | `/healthz` | 200 while the daemon's loop runs |
//! | `/metrics` | Prometheus text |
//! | `/v1/status` | the node, readiness, counts, the load balancer's own status |
//! | `/v1/services` | every frontend with its backends, and whether it is served and announced |
//! | `POST /ipam/assign`, `/ipam/release` | addresses for the CNI plugin ([`crate::addresses`]) |
//! | `/v1/workloads/{interface}?wait_ms=N` | 200 once that interface is programmed, 404 when it is not after the wait |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use felix_calc::{DesiredState, LocalEndpoint};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::dataplane::service_manager::StatusClient;

/// Longest wait for a workload.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What the daemon publishes after every change.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub node: String,
    /// `all` or `services`.
    pub mode: &'static str,
    pub store: String,
    pub is_in_sync: bool,
    /// Why felix is not ready; empty when it is.
    pub problems: Vec<String>,
    pub counts: Counts,
    /// By interface; those whose route, sysctls and programs are in place.
    pub programmed: BTreeMap<String, LocalEndpoint>,
    pub state: Arc<DesiredState>,
    pub served: Arc<BTreeSet<IpAddr>>,
    pub announced: BTreeSet<IpAddr>,
    /// Frontends that the load balancer cannot serve, and why.
    pub skipped: Vec<String>,
}

/// Numbers for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub routes_desired: usize,
    pub routes_actual: usize,
    pub endpoints: usize,
    pub frontends: usize,
    /// Kernel writes since the start: routes, neighbours, sysctls.
    pub writes: u64,
    /// Writes that failed since the start.
    pub failures: u64,
    /// Rounds of apply since the start.
    pub applies: u64,
}

impl Snapshot {
    /// Before anything is known.
    pub fn starting(node: &str, services_only: bool) -> Self {
        Self {
            node: node.into(),
            mode: if services_only { "services" } else { "all" },
            problems: vec!["starting".into()],
            ..Default::default()
        }
    }

    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }
}

#[derive(Clone)]
struct Context {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    services: StatusClient,
}

/// The router of felix.sock.
pub fn router(snapshots: watch::Receiver<Arc<Snapshot>>, services: StatusClient) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/services", get(services_list))
        .route("/v1/workloads/{interface}", get(workload))
        .with_state(Context { snapshots, services })
}

async fn readyz(State(context): State<Context>) -> Response {
    let snapshot = context.snapshots.borrow().clone();
    if snapshot.is_ready() {
        return (StatusCode::OK, "ready\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, snapshot.problems.join("\n") + "\n").into_response()
}

async fn healthz(State(context): State<Context>) -> Response {
    match context.snapshots.has_changed() {
        Ok(_) => (StatusCode::OK, "ok\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "felix is stopping\n").into_response(),
    }
}

async fn metrics(State(context): State<Context>) -> String {
    let snapshot = context.snapshots.borrow().clone();
    let c = snapshot.counts;
    let rows = [
        ("felix_ready", "gauge", "Whether everything is programmed.", u64::from(snapshot.is_ready())),
        ("felix_in_sync", "gauge", "Whether the store has been read once.", u64::from(snapshot.is_in_sync)),
        ("felix_routes_desired", "gauge", "Routes wanted.", c.routes_desired as u64),
        ("felix_routes_actual", "gauge", "Routes of felix in the kernel.", c.routes_actual as u64),
        ("felix_endpoints", "gauge", "Workloads of this node.", c.endpoints as u64),
        ("felix_frontends", "gauge", "Service frontends wanted.", c.frontends as u64),
        (
            "felix_frontend_addresses_served",
            "gauge",
            "Addresses whose maps were read back.",
            snapshot.served.len() as u64,
        ),
        ("felix_writes_total", "counter", "Kernel writes: routes, neighbours, sysctls.", c.writes),
        ("felix_failures_total", "counter", "Kernel writes that failed.", c.failures),
        ("felix_applies_total", "counter", "Rounds of apply.", c.applies),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}

async fn status(State(context): State<Context>) -> Json<serde_json::Value> {
    let snapshot = context.snapshots.borrow().clone();
    let balancer = context.services.status().await;
    Json(json!({
        "node": snapshot.node,
        "mode": snapshot.mode,
        "store": snapshot.store,
        "inSync": snapshot.is_in_sync,
        "ready": snapshot.is_ready(),
        "problems": snapshot.problems,
        "counts": snapshot.counts,
        "workloads": snapshot.state.endpoints,
        "programmed": snapshot.programmed.keys().collect::<Vec<_>>(),
        "announced": snapshot.announced,
        "skipped": snapshot.state.skipped,
        "notServed": snapshot.skipped,
        "loadBalancer": balancer,
    }))
}

async fn services_list(State(context): State<Context>) -> Json<serde_json::Value> {
    let snapshot = context.snapshots.borrow().clone();
    let rows = snapshot.state.frontends.iter().map(|f| {
        let mut row = json!(f);
        // The unspecified address stands for the node's own, which are announced as the node's, not as a service's.
        row["served"] = json!(snapshot.served.contains(&f.addr));
        row["announced"] = json!(snapshot.announced.contains(&f.addr));
        row
    });
    Json(rows.collect())
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

async fn workload(
    State(mut context): State<Context>,
    Path(interface): Path<String>,
    Query(wait): Query<Wait>,
) -> Response {
    let wait = Duration::from_millis(wait.wait_ms).min(MAX_WAIT);
    let is_there = |s: &Arc<Snapshot>| s.programmed.contains_key(&interface);
    // Whether it came or the time ran out: the snapshot says it.
    let _ = tokio::time::timeout(wait, context.snapshots.wait_for(is_there)).await.is_ok();
    let snapshot = context.snapshots.borrow().clone();
    if let Some(endpoint) = snapshot.programmed.get(&interface) {
        return Json(json!(endpoint)).into_response();
    }
    let mut reasons = snapshot.problems.clone();
    if !snapshot.state.endpoints.contains_key(&interface) {
        reasons.push(format!("no WorkloadEndpoint of node {} names {interface}", snapshot.node));
    }
    (StatusCode::NOT_FOUND, reasons.join("; ") + "\n").into_response()
}
