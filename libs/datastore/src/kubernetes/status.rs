//! What the API server's refusals mean (Kubernetes API conventions, "Response Status Kind").

use api::key::Key;
use serde::Deserialize;
use serde_json::Value;

use super::client::Answer;
use super::collection::Collection;
use crate::store::{Error, Revision};

/// A `Status` object; also what an `ERROR` event of a watch carries.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub code: u16,
    pub reason: String,
    pub message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    name: Option<String>,
}

impl Status {
    /// What an answer with an error status says.
    pub fn of(answer: &Answer) -> Self {
        let text = String::from_utf8_lossy(&answer.body);
        let mut status: Self = serde_json::from_str(&text).unwrap_or_default();
        if status.message.is_empty() {
            status.message = text.chars().take(200).collect::<String>().trim().to_string();
        }
        status.code = answer.status;
        status
    }

    /// From an event.
    pub fn from_event(object: Value) -> Self {
        serde_json::from_value(object).unwrap_or_default()
    }

    /// The history from the revision that was asked for is gone.
    pub fn is_expired(&self) -> bool {
        self.code == 410 || self.reason == "Expired" || self.reason == "Gone"
    }

    /// There is no such object; a kind that the server does not have is no such case.
    pub fn is_absent(&self) -> bool {
        self.code == 404 && self.details.as_ref().is_some_and(|d| d.name.as_ref().is_some_and(|n| !n.is_empty()))
    }
}

/// Where an error happened.
pub struct Context<'a> {
    /// `kubernetes https://10.0.0.1:6443`.
    pub store: &'a str,
    pub collection: &'a Collection,
    /// `list`, `write`.
    pub doing: &'a str,
    pub key: Option<&'a Key>,
    pub is_write: bool,
}

/// The error for a refusal.
pub fn error(context: &Context<'_>, status: &Status) -> Error {
    let Context { store, collection, doing, .. } = context;
    let message = &status.message;
    let text = |advice: &str| format!("{store}: cannot {doing} {}: {message}{advice}", collection.name());
    match (status.code, context.key) {
        (404, Some(key)) if status.is_absent() => Error::NotFound(key.clone()),
        // A store without our kinds must not look like an empty one.
        (404, _) => Error::Unavailable(text("; the server does not have this kind: apply the CRDs of crds/")),
        (409, Some(key)) if status.reason == "AlreadyExists" => Error::AlreadyExists(key.clone()),
        (409, Some(key)) => Error::Conflict(key.clone()),
        (410, _) => Error::Compacted(0),
        (401, _) => Error::Unavailable(text(
            "; the credentials are missing, wrong or expired: check the token or client certificate of KUBECONFIG",
        )),
        (403, _) => Error::Invalid(text("; give this user the right to (RBAC: deploy/kubernetes/rbac.yaml)")),
        (400 | 405 | 413 | 415 | 422, _) => Error::Invalid(text("")),
        // The server had it in hand: etcd may have it.
        (500.., _) if context.is_write => Error::Unknown(text("")),
        _ => Error::Unavailable(text("")),
    }
}

/// The revision that a `resourceVersion` is. The API calls it opaque; over etcd it is etcd's revision, one counter for all
/// kinds, and that is what we rely on (Kubernetes KEP-5504 makes the order official).
///
/// # Errors
/// [`Error::Corrupt`] where it is no number.
pub fn revision(object: &Value) -> Result<Revision, Error> {
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    version.parse().map_err(|_| Error::Corrupt {
        key: object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("a list").into(),
        reason: format!("resourceVersion \"{version}\" is no number: this API server does not store in etcd"),
    })
}
