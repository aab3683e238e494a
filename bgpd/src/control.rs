//! The status API on `<run dir>/bgpd.sock`. `curl --unix-socket /run/tortie/bgpd.sock http://bgpd/v1/peers` sees all of it.
//!
//! - `/readyz`: 200 once the store is in sync, the configuration applied, the listeners bound and, with a FIB, the kernel read
//!   and written, and while it refuses no route; else 503 with what is missing. `/healthz`: 200 while the process answers.
//! - `/metrics`: Prometheus text; see `metrics`. These three are on a port of the loopback interface too (`--metrics`).
//! - `/v1/status`: `routerId`, `localAs`, `listening`, `attributeSets` (of the RIB), `awaited` (after a restart: the peers
//!   whose End-of-RIB announcements wait for), `flapThreshold`, `flapping` (prefixes whose
//!   best path changed that often in a minute: `prefix`, `changes`, `peers`), `waitingFor` (null, or why `/readyz` is 503),
//!   `notes` (what resources ask for that the speaker does not do), `kernel` (null without a FIB; else `routes` wanted, `stale`,
//!   `failed`, and of a hundred of these `failures`: `prefix` and `reason`, the kernel's).
//! - `/v1/peers`: a list of `name`, `address` (of an unnumbered peer that was not heard yet, its interface), `port` (configured), `type` (`node-to-node mesh`, `global`, `node specific`),
//!   `remoteAs`, `localAs`, `state` (RFC 4271's), `up` (Established), `since` (of the state, RFC 3339), `lastError` (null or a
//!   sentence: why it is down), `received`, `accepted` (those that loop checks and
//!   import rules let pass) and `advertised` (prefixes), `family` (of the session's addresses), `bfd`
//!   (null without it; else see [`BfdStatus`](crate::bfd::BfdStatus)), `flaps` (sessions lost), `nearLimit` (of its prefixes), `heldDown` (null, or why its
//!   configuration keeps it down), `interface` (null, or the link that it is behind).
//! - `/v1/peer?peer=ADDRESS`: a list of peers there, each with the fields of `/v1/peers` and `local` and `remote` (ends of the
//!   connection), `routerId`, `established` (sessions so far), `lastReset` (null, or `time` and `reason` of the last loss), `lastCode` (null, or code and subcode
//!   of the NOTIFICATION that ended the last session), `capabilities` (`name`, `ours`, `theirs`), `families`, `timers`
//!   (seconds: `configured`, `negotiated`, `remaining`), `messagesReceived` and `messagesSent` (by type).
//! - POST `/v1/clear?peer=ADDRESS&soft=in|out|both&message=TEXT`: begins sessions anew, all without `peer`, with `message` for
//!   the peers' operators; with `soft` only looks at routes again. The answer says how many peers that were: `{"cleared": 1}`.
//! - `/v1/routes`: `prefix`, `nextHop` (null: a route of this node), `asPath`, `asPathText` (sets in braces), `origin`, `localPref`,
//!   `med`, `communities`, `originatorId`, `clusterList`, `peer` (it came from; null: this node), `pathId` (0 without add-path),
//!   `best` (in the multipath set), `stale` (from before the peer's restart), `accepted` (loop checks and import rules let it pass).
//!   - `view=best` (if absent), `received` or `advertised`; `peer=ADDRESS`, which advertised needs. Advertised routes are shown
//!     as they are sent.
//!   - `prefix=PREFIX` with `match=longer` (it and what lies inside it; if absent), `exact` or `covering`;
//!     `community=aa:nn[,aa:nn:mm]`: carried, all of them.
//!   - `format=list` (if absent) or `lines`: one object on each line. Either is made while it is read, in slices between which
//!     the speaker does other work: a change meanwhile is shown as it was or as it is.
//! - `/v1/mrt`: every path of every peer as received, an MRT file (TABLE_DUMP_V2, RFC 6396).
//! - `/v1/why?target=PREFIX|ADDRESS`: `target`; the prefix, or the longest one around it, as `prefix`; `paths`, the best first, with the
//!   fields of a route and `fate` (`best`, `multipath`, `lost`, `unusable`), `why` (a sentence), `import` (what loop checks and
//!   rules made of it), `nextHopMetric` (null: out of reach); `peers` with `told` (null, or what it is sent) and `why`;
//!   `origin` (null, or the kernel's route behind our own: `interface`, `priority`, `announced`, `rule`); `kernel` (null, or why
//!   the learned route is not in the kernel: one of the `failures` of `/v1/status`).
//! - `/v1/watch`: what happens from now on, one JSON object on each line: `event` (`peerUp`, `peerDown`, `bestPath`, `lost`),
//!   `time`, and `peer`, `name`, `remoteAs`, `reason`, or `prefix` and `best` (null, or `peer`, `nextHops`, `asPath`).
//!   `peer=ADDRESS`, `prefix=PREFIX` (and what lies inside it) limit it. After `lost`, for a reader that is too slow, it ends.
//!
//! A peer is named by its address (`fe80::1%eth0` on a link), its `name`, or the `interface` that it is behind.
//!
//! What is wrong with a request is said in JSON: `{"error": "a sentence"}`, with status 400, or 404 for a peer that is not there.

mod error;
mod peer;
pub mod routes;
mod watch;
mod whom;
mod why;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch as latest;

use crate::mrt::Dump;
use crate::speaker::{Handle, SpeakerStatus};
use crate::{kernel, metrics};

/// What `/readyz` is made of.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// The store is in sync, and the speaker runs on what it says.
    pub configured: bool,
    /// What the resources lack, or why a listener is missing.
    pub waiting_for: Option<String>,
    /// What the resources ask for that the speaker does not do.
    pub notes: Vec<String>,
    /// Absent without a FIB.
    pub kernel: Option<latest::Receiver<kernel::Status>>,
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
        self.kernel.as_ref().map_or(Ok(()), |kernel| kernel.borrow().check())
    }
}

/// What every answer is made from.
#[derive(Clone)]
pub struct App {
    speaker: Handle,
    readiness: latest::Receiver<Readiness>,
}

/// The API of a speaker.
pub fn router(speaker: Handle, readiness: latest::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/peer", get(peer::peer))
        .route("/v1/clear", post(peer::clear))
        .route("/v1/mrt", get(mrt))
        .route("/v1/routes", get(routes::routes))
        .route("/v1/why", get(why::why))
        .route("/v1/watch", get(watch::watch))
        .with_state(App { speaker, readiness })
}

/// What scrapers and probes ask for, without the rest: for a TCP port of the loopback interface.
pub fn scraped(speaker: Handle, readiness: latest::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(App { speaker, readiness })
}

async fn readyz(State(app): State<App>) -> Response {
    let ready = app.readiness.borrow().check();
    match ready {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// `/v1/mrt`.
async fn mrt(State(app): State<App>) -> Response {
    let dump = Dump::new(app.speaker);
    let records =
        futures::stream::unfold(dump, |mut dump| async { Some((Ok::<_, std::io::Error>(dump.next().await?), dump)) });
    ([(CONTENT_TYPE, "application/mrt")], Body::from_stream(records)).into_response()
}

/// `/v1/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(flatten)]
    speaker: SpeakerStatus,
    waiting_for: Option<String>,
    notes: Vec<String>,
    kernel: Option<kernel::Status>,
}

async fn status(State(app): State<App>) -> Response {
    let speaker = app.speaker.status().await;
    let readiness = app.readiness.borrow();
    Json(Status {
        speaker,
        waiting_for: readiness.check().err(),
        notes: readiness.notes.clone(),
        kernel: readiness.kernel.as_ref().map(|k| k.borrow().clone()),
    })
    .into_response()
}

async fn peers(State(app): State<App>) -> Response {
    Json(app.speaker.peers().await).into_response()
}

async fn metrics(State(app): State<App>) -> Response {
    let (speaker, peers) = (app.speaker.status().await, app.speaker.details().await);
    let kernel = app.readiness.borrow().kernel.as_ref().map(|k| k.borrow().clone());
    match metrics::text(&speaker, &peers, kernel) {
        Ok(text) => ([(axum::http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
