//! `/v1/why`: the decision about a prefix, in words.

use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bgp_proto::af::Prefix;
use bgp_proto::rib::Origin;
use bgp_proto::rib::explain::{Explanation, Fate, Hearer, PathFate};
use serde::{Deserialize, Serialize};

use super::App;
use super::error::Refusal;
use super::routes::{Shown, prefix};

/// The query of `/v1/why`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    target: String,
}

/// The answer; the fields are documented in `control`.
#[derive(Debug, Serialize)]
struct Why {
    /// What was asked about.
    target: String,
    prefix: String,
    paths: Vec<PathWhy>,
    peers: Vec<PeerWhy>,
    origin: Option<OriginWhy>,
    /// Why the learned route is not in the kernel as it should be, where that is known.
    kernel: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PathWhy {
    peer: Option<IpAddr>,
    path_id: u32,
    fate: &'static str,
    why: String,
    import: String,
    next_hop_metric: Option<u32>,
    stale: bool,
    #[serde(flatten)]
    route: Shown,
}

#[derive(Debug, Serialize)]
struct PeerWhy {
    peer: IpAddr,
    told: Option<Shown>,
    why: String,
}

#[derive(Debug, Serialize)]
struct OriginWhy {
    /// Of the kernel's route.
    interface: Option<String>,
    priority: Option<u32>,
    announced: bool,
    rule: &'static str,
}

impl Why {
    fn new(target: Prefix, explanation: Explanation) -> Why {
        Why {
            target: target.to_string(),
            prefix: explanation.prefix.to_string(),
            paths: explanation.paths.into_iter().map(PathWhy::from).collect(),
            peers: explanation.peers.into_iter().map(PeerWhy::from).collect(),
            origin: explanation.origin.map(OriginWhy::from),
            kernel: None,
        }
    }
}

impl From<PathFate> for PathWhy {
    fn from(path: PathFate) -> PathWhy {
        PathWhy {
            peer: path.peer,
            path_id: path.path_id,
            fate: match path.fate {
                Fate::Best => "best",
                Fate::Multipath => "multipath",
                Fate::Lost(_) => "lost",
                Fate::Unusable => "unusable",
            },
            why: path.why,
            import: path.import,
            next_hop_metric: path.metric,
            stale: path.is_stale,
            route: Shown::from(path.used.as_ref().unwrap_or(&path.received)),
        }
    }
}

impl From<Hearer> for PeerWhy {
    fn from(hearer: Hearer) -> PeerWhy {
        PeerWhy { peer: hearer.peer, told: hearer.told.as_ref().map(Shown::from), why: hearer.why }
    }
}

impl From<Origin> for OriginWhy {
    fn from(origin: Origin) -> OriginWhy {
        OriginWhy {
            interface: origin.interface,
            priority: origin.priority,
            announced: origin.export,
            rule: origin.rule,
        }
    }
}

/// Answers `/v1/why`.
pub async fn why(
    State(app): State<App>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let target = prefix(&parameters.target)?;
    match app.speaker.explain(target).await {
        Some(explanation) => {
            let mut why = Why::new(target, explanation);
            let readiness = app.readiness.borrow();
            let failures = readiness.kernel.iter().flat_map(|kernel| kernel.borrow().failures.clone());
            why.kernel = failures.into_iter().find(|f| f.prefix.to_string() == why.prefix).map(|f| f.reason);
            Ok(Json(why).into_response())
        }
        None => Err(Refusal { status: StatusCode::NOT_FOUND, error: format!("no route covers {target}") }),
    }
}
