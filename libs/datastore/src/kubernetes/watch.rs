//! A watch of one list: it outlives the server's own time limits, restarts of the server and lost connections, as long as the
//! history from where it stands is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::Api;
use super::client::{Lines, Request};
use super::collection::Selection;
use super::object::{self, Seen};
use super::status::{self, Status};
use crate::store::{Error, Event, Revision};

/// The server ends a watch after a time in this range, each at another moment, so that they do not all come back at once.
const LIFE_LEAST: u64 = 300;
const LIFE_SPREAD: u64 = 300;
/// A server that has not ended a watch this long after it should have is not there any more.
const LIFE_SLACK: Duration = Duration::from_secs(30);
/// For how long a server that went away may be back without the receiver listing everything again.
const RESUME_LIMIT: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(2);

/// One open watch.
pub struct Watch {
    api: Arc<Api>,
    selection: Selection,
    /// What the keys of the range start with.
    prefix: String,
    /// Everything up to here is told.
    from: Revision,
    lines: Lines,
    life: Duration,
    ready: VecDeque<Event>,
    has_failed: bool,
}

#[derive(Deserialize)]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Watch {
    /// Begins a watch.
    ///
    /// # Errors
    /// [`Error::Compacted`] where the history from there is gone, or the server has not reached that revision: it is one of
    /// another life of its store.
    pub async fn open(api: Arc<Api>, selection: Selection, prefix: String, from: Revision) -> Result<Self, Error> {
        let (lines, life) = begin(&api, &selection, from).await?;
        Ok(Self { api, selection, prefix, from, lines, life, ready: VecDeque::new(), has_failed: false })
    }

    /// The next change; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if self.has_failed {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.receive().await {
                self.has_failed = true;
                return Some(Err(error));
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let opened = Instant::now();
        let why = match timeout(self.life + LIFE_SLACK, self.lines.next()).await {
            Ok(Ok(Some(line))) => return self.take(&line),
            Ok(Ok(None)) => "ended by the server".to_string(),
            Ok(Err(why)) => why,
            Err(_) => "silent".to_string(),
        };
        tracing::debug!(collection = self.selection.collection.name(), why, "a watch goes on");
        if opened.elapsed() < BACKOFF_FIRST {
            sleep(BACKOFF_FIRST).await;
        }
        self.resume(&why).await
    }

    /// Opens the watch again where it stands.
    async fn resume(&mut self, why: &str) -> Result<(), Error> {
        let give_up = Instant::now() + RESUME_LIMIT;
        let mut backoff = BACKOFF_FIRST;
        loop {
            match begin(&self.api, &self.selection, self.from).await {
                Ok((lines, life)) => {
                    (self.lines, self.life) = (lines, life);
                    return Ok(());
                }
                Err(Error::Unavailable(_) | Error::Unknown(_)) if Instant::now() + backoff < give_up => {
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                }
                Err(Error::Unavailable(text)) => {
                    return Err(Error::Unavailable(format!("{text} (the watch was lost: {why})")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Error> {
        let collection = &self.selection.collection;
        let change: Change = serde_json::from_slice(line).map_err(|e| {
            Error::Unavailable(format!("{}: a watch of {} gave no event: {e}", self.api.name, collection.name()))
        })?;
        if change.kind == "ERROR" {
            let status = Status::from_event(change.object);
            if status.is_expired() {
                return Err(Error::Compacted(self.from));
            }
            return Err(status::error(&self.api.context(collection, "watch", None, false), &status));
        }
        let revision = status::revision(&change.object)?;
        self.from = self.from.max(revision);
        if change.kind == "BOOKMARK" {
            return Ok(());
        }
        let is_deleted = change.kind == "DELETED";
        let event = match object::read(collection, change.object) {
            Ok(Seen::Present(kv)) if is_deleted => Event::Delete { key: kv.key, revision },
            Ok(Seen::Present(kv)) => Event::Put(kv),
            // The mark was the deletion, and was told.
            Ok(Seen::Absent(_)) if is_deleted && collection.is_marked_before_deletion() => return Ok(()),
            Ok(Seen::Absent(key)) => Event::Delete { key, revision },
            Ok(Seen::Foreign) => return Ok(()),
            Err(error) => {
                // It does not tell its key. A listing leaves it out, and so tells that what was there is not any more.
                tracing::warn!(%error, "an object of the datastore became unreadable; listing again");
                return Err(Error::Compacted(self.from));
            }
        };
        if event.key().to_string().starts_with(&self.prefix) {
            self.ready.push_back(event);
        }
        Ok(())
    }
}

async fn begin(api: &Api, selection: &Selection, from: Revision) -> Result<(Lines, Duration), Error> {
    // The API keeps a watch from the future open and silent.
    let reached = api.revision(selection).await?;
    if from == 0 || reached < from {
        return Err(Error::Compacted(from));
    }
    let life = LIFE_LEAST + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * LIFE_SPREAD / 256;
    let path = format!(
        "{}?watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={life}",
        selection.collection.path(selection.namespace.as_deref())
    );
    match api.client.open(&Request::get(path)).await.map_err(super::client::Failure::of_read)? {
        Ok(lines) => Ok((lines, Duration::from_secs(life))),
        Err(answer) => {
            let status = Status::of(&answer);
            if status.is_expired() {
                return Err(Error::Compacted(from));
            }
            Err(status::error(&api.context(&selection.collection, "watch", None, false), &status))
        }
    }
}
