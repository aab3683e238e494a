//! `/v1/watch`: events as they happen.

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::App;
use super::error::Refusal;
use super::routes::prefix;
use super::whom::whom;
use crate::events::{Event, Filter};

/// The query of `/v1/watch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    peer: Option<String>,
    prefix: Option<String>,
}

/// Events that one write may hold.
const AT_ONCE: usize = 256;

/// Answers `/v1/watch`; the answer ends when the reader goes, or is too slow.
pub async fn watch(
    State(app): State<App>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let peer = match &parameters.peer {
        Some(text) => Some(whom(&app.speaker, text).await?.address),
        None => None,
    };
    if let Some(peer) = peer {
        let peers = app.speaker.peers().await;
        if !peers.iter().any(|p| p.address == peer) {
            return Err(Refusal::no_peer(peer, &peers));
        }
    }
    let filter = Filter { peer, prefix: parameters.prefix.as_deref().map(prefix).transpose()? };
    let events = app.speaker.watch(filter);
    let body = futures::stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match next(&mut events).await {
            Some(text) => Some((Ok::<_, std::io::Error>(text), Some(events))),
            None => Some((Ok(line(&Event::lost()).into()), None)),
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// What has happened, a line each; `None`: there is no more.
async fn next(events: &mut mpsc::Receiver<Event>) -> Option<Bytes> {
    let mut text = line(&events.recv().await?);
    for _ in 1..AT_ONCE {
        let Ok(event) = events.try_recv() else { break };
        text.extend(line(&event));
    }
    Some(text.into())
}

fn line(event: &Event) -> Vec<u8> {
    // An event holds nothing that could not be written as JSON.
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.push(b'\n');
    text
}
