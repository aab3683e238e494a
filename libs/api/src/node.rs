//! Node (Calico `libcalico-go/lib/apis/v3/node.go`) and ClusterInformation.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bgp_peer::AsNumber;
use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type Node = Resource<WithSpec<NodeSpec>>;

impl Body for WithSpec<NodeSpec> {
    const KIND: Kind = Kind::Node;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgpSpec>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBgpSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// The node's address with the length of its subnet: host bits kept.
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "ipv4Address",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_address: Option<IpNetwork>,
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "ipv6Address",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_address: Option<IpNetwork>,
    /// A dotted quad; makes the node a route reflector.
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "routeReflectorClusterID",
        skip_serializing_if = "Option::is_none"
    )]
    pub route_reflector_cluster_id: Option<String>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    pub address: String,
    #[serde(default, deserialize_with = "empty_as_default", rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchRef {
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    pub orchestrator: String,
}

pub type ClusterInformation = Resource<WithSpec<ClusterInformationSpec>>;

impl Body for WithSpec<ClusterInformationSpec> {
    const KIND: Kind = Kind::ClusterInformation;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "clusterGUID",
        skip_serializing_if = "Option::is_none"
    )]
    pub cluster_guid: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub cluster_type: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub calico_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
