//! `/v1/peer`: all about one peer; `/v1/clear`: sessions begun anew.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::error::Refusal;
use super::routes::address;
use crate::peer::{PeerDetail, Place};
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
    let wanted = match address(&parameters.peer) {
        Ok(wanted) => wanted,
        Err(refusal) => {
            // An unnumbered peer that was not heard yet goes by its interface.
            let is_it =
                |p: &PeerDetail| matches!(&p.status.address, Place::Interface(name) if *name == parameters.peer);
            let waiting: Vec<PeerDetail> = app.speaker.details().await.into_iter().filter(is_it).collect();
            return if waiting.is_empty() { Err(refusal) } else { Ok(Json(waiting).into_response()) };
        }
    };
    let details = app.speaker.peer(wanted).await;
    if details.is_empty() {
        return Err(Refusal::no_peer(wanted, &app.speaker.peers().await));
    }
    Ok(Json(details).into_response())
}

/// Answers `/v1/clear` with how many peers that were.
pub async fn clear(
    State(app): State<App>,
    parameters: Result<Query<ClearParameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let wanted = parameters.peer.as_deref().map(address).transpose()?;
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
        (0, Some(wanted)) => Err(Refusal::no_peer(wanted, &app.speaker.peers().await)),
        (count, _) => Ok(Json(json!({ "cleared": count })).into_response()),
    }
}
