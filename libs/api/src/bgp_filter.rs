//! BGPFilter (Calico `api/pkg/apis/projectcalico/v3/bgpfilter.go`).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bgp_peer::AsNumber;
use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type BgpFilter = Resource<WithSpec<BgpFilterSpec>>;

impl Body for WithSpec<BgpFilterSpec> {
    const KIND: Kind = Kind::BgpFilter;
}

/// Rules in order; the first whose every condition holds decides, none: the next export or import rule does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BgpFilterSpec {
    #[serde(default, deserialize_with = "null_as_default", rename = "exportV4", skip_serializing_if = "Vec::is_empty")]
    pub export_v4: Vec<BgpFilterRule>,
    #[serde(default, deserialize_with = "null_as_default", rename = "importV4", skip_serializing_if = "Vec::is_empty")]
    pub import_v4: Vec<BgpFilterRule>,
    #[serde(default, deserialize_with = "null_as_default", rename = "exportV6", skip_serializing_if = "Vec::is_empty")]
    pub export_v6: Vec<BgpFilterRule>,
    #[serde(default, deserialize_with = "null_as_default", rename = "importV6", skip_serializing_if = "Vec::is_empty")]
    pub import_v6: Vec<BgpFilterRule>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchOperator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterAction {
    Accept,
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
pub enum PeerType {
    eBGP,
    iBGP,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteSource {
    RemotePeers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixLengthRange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommunityMatch {
    pub values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterRule {
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<MatchOperator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLengthRange>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub source: Option<RouteSource>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        rename = "asPathPrefix",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub as_path_prefix: Vec<AsNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    pub action: FilterAction,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<FilterOperation>,
}

/// One operation of an accepting rule; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterOperation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    #[serde(default, rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<PrependAsPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddCommunity {
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrependAsPath {
    pub prefix: Vec<AsNumber>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetPriority {
    pub value: i64,
}
