//! The status API on `<run dir>/bgpd.sock`.
//!
//! - `/readyz`: 200 once the store is in sync, the configuration applied, the listeners bound and, with a FIB, the kernel read
//!   and written; else 503 with what is missing. `/healthz`: 200 while the process answers.
//! - `/metrics`: Prometheus text.
//! - `/v1/peers`: a list of `name`, `address`, `port` (configured), `type` (`node-to-node mesh`, `global`, `node specific`),
//!   `remoteAs`, `localAs`, `state` (RFC 4271's), `up` (Established), `since` (of the state, RFC 3339), `lastError` (null or a
//!   sentence: why it is down), `received` and `advertised` (prefixes), `family` (of the session's addresses).
//! - `/v1/routes?view=best|received|advertised&peer=IP`: a list of `prefix`, `nextHop` (null: a route of this node), `asPath`,
//!   `localPref`, `med`, `communities`, `peer` (it came from; null: this node), `best` (in the multipath set), `stale` (from
//!   before the peer's restart). `view` is best if absent; advertised needs `peer`. Advertised routes are shown before the
//!   session's own next hop and AS are put in.

use std::net::IpAddr;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::watch;

use crate::kernel;
use crate::speaker::{Handle, RouteQuery};

/// What `/readyz` is made of.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// The store is in sync, and the speaker runs on what it says.
    pub configured: bool,
    /// What the resources lack, or why a listener is missing.
    pub waiting_for: Option<String>,
    /// Absent without a FIB.
    pub kernel: Option<watch::Receiver<kernel::Status>>,
}

impl Readiness {
    /// # Errors
    /// What is missing.
    fn check(&self) -> Result<(), String> {
        if let Some(reason) = &self.waiting_for {
            return Err(reason.clone());
        }
        if !self.configured {
            return Err("the store is not in sync yet".into());
        }
        match &self.kernel {
            Some(kernel) if !kernel.borrow().ready => Err("the kernel's routes are not read and written yet".into()),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct App {
    speaker: Handle,
    readiness: watch::Receiver<Readiness>,
}

/// The API of a speaker.
pub fn router(speaker: Handle, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/peers", get(peers))
        .route("/v1/routes", get(routes))
        .with_state(App { speaker, readiness })
}

async fn readyz(State(app): State<App>) -> Response {
    let ready = app.readiness.borrow().check();
    match ready {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn peers(State(app): State<App>) -> Response {
    Json(app.speaker.peers().await).into_response()
}

/// The query of `/v1/routes`.
#[derive(Deserialize)]
struct RoutesQuery {
    #[serde(default)]
    view: ViewName,
    peer: Option<IpAddr>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ViewName {
    #[default]
    Best,
    Received,
    Advertised,
}

async fn routes(State(app): State<App>, Query(query): Query<RoutesQuery>) -> Response {
    let query = match (query.view, query.peer) {
        (ViewName::Best, _) => RouteQuery::Best,
        (ViewName::Received, peer) => RouteQuery::Received(peer),
        (ViewName::Advertised, Some(peer)) => RouteQuery::Advertised(peer),
        (ViewName::Advertised, None) => {
            return (StatusCode::BAD_REQUEST, "view=advertised needs peer=ADDRESS\n").into_response();
        }
    };
    Json(app.speaker.routes(query).await).into_response()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: String,
    name: String,
}

async fn metrics(State(app): State<App>) -> Response {
    let mut registry = Registry::with_prefix("tortie_bgp");
    let (up, received, advertised) = (gauge(), gauge(), gauge());
    registry.register("peer_up", "Whether the session is Established", up.clone());
    registry.register("received_prefixes", "Prefixes the peer announces", received.clone());
    registry.register("advertised_prefixes", "Prefixes announced to the peer", advertised.clone());
    for peer in app.speaker.peers().await {
        let labels = PeerLabels { peer: peer.address.to_string(), name: peer.name };
        up.get_or_create(&labels).set(peer.up.into());
        received.get_or_create(&labels).set(peer.received.into());
        advertised.get_or_create(&labels).set(peer.advertised.into());
    }
    if let Some(kernel) = app.readiness.borrow().kernel.as_ref().map(|k| *k.borrow()) {
        let routes: [(&str, &str, usize); 3] = [
            ("kernel_routes", "Learned routes wanted in the kernel", kernel.routes),
            ("kernel_stale_routes", "Routes of an earlier process not announced again", kernel.stale),
            ("kernel_failed_routes", "Routes the last write could not make", kernel.failed),
        ];
        for (name, help, value) in routes {
            let gauge: Gauge = Gauge::default();
            gauge.set(value as i64);
            registry.register(name, help, gauge);
        }
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(axum::http::header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {e}\n")).into_response(),
    }
}

fn gauge() -> Family<PeerLabels, Gauge> {
    Family::default()
}
