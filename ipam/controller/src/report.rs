//! What the controller says of itself on its socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// Counters and the present condition.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The store has been read, and a plan carried out once.
    pub is_in_sync: bool,
    pub services: usize,
    pub workloads: usize,
    /// Services that have a load-balancer address.
    pub load_balancers: usize,
    pub reconciles: u64,
    pub actions: u64,
    pub failures: u64,
    /// Actions of the last round that failed and will be retried.
    pub failing: u64,
    pub last_error: Option<String>,
}

type Shared = Arc<Mutex<Report>>;

/// `/readyz`, `/healthz`, `/metrics`, `/v1/status`.
pub fn router(report: Shared) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(|State(report): State<Shared>| async move { metrics(&read(&report)) }))
        .route("/v1/status", get(|State(report): State<Shared>| async move { Json(status(&read(&report))) }))
        .with_state(report)
}

fn read(report: &Shared) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ready when it has read the store and carried out a plan. What a service asks for and cannot have is in that service's status,
/// not here.
async fn readyz(State(report): State<Shared>) -> (StatusCode, &'static str) {
    if read(&report).is_in_sync {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "reading the datastore\n")
    }
}

fn status(report: &Report) -> Value {
    json!({
        "inSync": report.is_in_sync,
        "services": report.services,
        "workloads": report.workloads,
        "loadBalancers": report.load_balancers,
        "reconciles": report.reconciles,
        "actions": report.actions,
        "failures": report.failures,
        "failing": report.failing,
        "lastError": report.last_error,
    })
}

/// Prometheus' text format.
fn metrics(report: &Report) -> String {
    let rows = [
        ("services", "gauge", "Services in the datastore.", report.services as u64),
        ("workloads", "gauge", "Workload endpoints in the datastore.", report.workloads as u64),
        ("load_balancers", "gauge", "Services with a load-balancer address.", report.load_balancers as u64),
        ("failing_actions", "gauge", "Actions of the last round that will be retried.", report.failing),
        ("reconciles_total", "counter", "Plans carried out.", report.reconciles),
        ("actions_total", "counter", "Actions done.", report.actions),
        ("failures_total", "counter", "Actions that failed.", report.failures),
    ];
    let row = |(name, kind, help, value): (&str, &str, &str, u64)| {
        format!(
            "# HELP tortie_controller_{name} {help}\n# TYPE tortie_controller_{name} {kind}\ntortie_controller_{name} {value}\n"
        )
    };
    rows.into_iter().map(row).collect()
}
