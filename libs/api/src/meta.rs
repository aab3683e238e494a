//! The envelope of every resource: kind, apiVersion, metadata, spec, status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::null_as_default;
use crate::kind::Kind;

/// Object metadata as Calico and Kubernetes write it.
///
/// `resource_version` is never stored: it is filled from the store's revision of the key on every read
/// (Calico `libcalico-go/lib/backend/etcdv3`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// RFC 3339, seconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields of Kubernetes' metadata that we do not use, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Metadata {
    /// Metadata of a cluster-scoped object.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Metadata of a namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: Some(namespace.into()), ..Self::default() }
    }
}

/// The body of one kind: what stands beside `kind`, `apiVersion` and `metadata`.
pub trait Body: Serialize + for<'de> Deserialize<'de> + Clone + PartialEq + Send + Sync + 'static {
    /// The kind whose body this is.
    const KIND: Kind;
}

/// A typed object: `{kind, apiVersion, metadata, ...body}`. The body is flattened, so that kinds without a `spec`
/// (EndpointSlice) and kinds with a `status` have the same envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<B> {
    pub kind: String,
    pub api_version: String,
    pub metadata: Metadata,
    #[serde(flatten)]
    pub body: B,
}

impl<B: Body> Resource<B> {
    /// A new object with the canonical kind and apiVersion of its body.
    pub fn new(metadata: Metadata, body: B) -> Self {
        Self { kind: B::KIND.as_str().into(), api_version: B::KIND.api_version().into(), metadata, body }
    }

    /// The key under which the store holds this object.
    pub fn key(&self) -> crate::Key {
        crate::Key::resource(B::KIND, self.metadata.namespace.as_deref(), &self.metadata.name)
    }
}

/// The body of a kind that has a `spec` and, perhaps, a `status` that is carried as it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WithSpec<S> {
    pub spec: S,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}
