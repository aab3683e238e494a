//! HostEndpoint (Calico `api/pkg/apis/projectcalico/v3/hostendpoint.go`): stored and carried; nothing here enforces policy.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::null_as_default;
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type HostEndpoint = Resource<WithSpec<HostEndpointSpec>>;

impl Body for WithSpec<HostEndpointSpec> {
    const KIND: Kind = Kind::HostEndpoint;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointSpec {
    #[serde(default, deserialize_with = "null_as_default")]
    pub node: String,
    /// `*` is every interface of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
