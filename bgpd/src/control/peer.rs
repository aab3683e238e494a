//! `/v1/peer`: all about one peer; `/v1/clear`: sessions begun anew.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::error::Refusal;
use super::whom::{waiting, whom};
use crate::speaker::Clear;

/// The query of `/v1/peer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerParameters {
    peer: String,
}

/// RFC 9003 section 2, octets.
const LONGEST_MESSAGE: usize = 255;

/// The query of `/v1/clear`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearParameters {
    /// Absent: all.
    peer: Option<String>,
    /// Absent: the session itself.
    soft: Option<Soft>,
    /// For the operators of the peers (RFC 9003).
    message: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Soft {
    In,
    Out,
    Both,
}

/// Answers `/v1/peer`: a list, since peers of different ports may share an address.
pub async fn peer(
    State(app): State<App>,
    parameters: Result<Query<PeerParameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let waiting = waiting(&app.speaker, &parameters.peer).await;
    if !waiting.is_empty() {
        return Ok(Json(waiting).into_response());
    }
    let wanted = whom(&app.speaker, &parameters.peer).await?;
    let details = app.speaker.peer(wanted).await;
    if details.is_empty() {
        return Err(Refusal::no_peer(wanted.address, &app.speaker.peers().await));
    }
    Ok(Json(details).into_response())
}

/// Answers `/v1/clear` with how many peers that were.
pub async fn clear(
    State(app): State<App>,
    parameters: Result<Query<ClearParameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let wanted = match &parameters.peer {
        Some(text) => Some(whom(&app.speaker, text).await?),
        None => None,
    };
    let clear = match parameters.soft {
        None => Clear::Hard,
        Some(Soft::In) => Clear::SoftIn,
        Some(Soft::Out) => Clear::SoftOut,
        Some(Soft::Both) => Clear::Soft,
    };
    match &parameters.message {
        Some(_) if clear != Clear::Hard => {
            return Err(Refusal::bad("message goes with the end of a session, which soft does not bring"));
        }
        Some(text) if text.len() > LONGEST_MESSAGE => {
            return Err(Refusal::bad(format!("message has {} octets; {LONGEST_MESSAGE} are allowed", text.len())));
        }
        _ => {}
    }
    match (app.speaker.clear(wanted, clear, parameters.message).await, wanted) {
        (0, Some(wanted)) => Err(Refusal::no_peer(wanted.address, &app.speaker.peers().await)),
        (count, _) => Ok(Json(json!({ "cleared": count })).into_response()),
    }
}
