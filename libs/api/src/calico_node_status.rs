//! CalicoNodeStatus (Calico `api/pkg/apis/projectcalico/v3/nodestatus.go`): what a node is asked to report, and its report.

use serde::{Deserialize, Serialize};

use crate::go_json::null_as_default;
use crate::kind::Kind;
use crate::meta::{Body, Resource};

pub type CalicoNodeStatus = Resource<CalicoNodeStatusBody>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CalicoNodeStatusBody {
    pub spec: CalicoNodeStatusSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<CalicoNodeStatusStatus>,
}

impl Body for CalicoNodeStatusBody {
    const KIND: Kind = Kind::CalicoNodeStatus;
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusSpec {
    pub node: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub classes: Vec<NodeStatusClass>,
    /// 0: the report is not refreshed; at most a day.
    #[serde(default, deserialize_with = "null_as_default")]
    pub update_period_seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatusClass {
    Agent,
    #[serde(rename = "BGP")]
    Bgp,
    Routes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeStatusStatus {
    /// RFC 3339, UTC; null while there is no report yet.
    pub last_updated: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub agent: AgentStatus,
    #[serde(deserialize_with = "null_as_default")]
    pub bgp: BgpStatus,
    #[serde(deserialize_with = "null_as_default")]
    pub routes: RoutesStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    #[serde(deserialize_with = "null_as_default", rename = "birdV4")]
    pub bird_v4: BgpDaemonStatus,
    #[serde(deserialize_with = "null_as_default", rename = "birdV6")]
    pub bird_v6: BgpDaemonStatus,
}

/// The speaker's; Calico has one for each family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpDaemonStatus {
    /// `Ready` or `NotReady`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub state: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(deserialize_with = "null_as_default", rename = "routerID", skip_serializing_if = "String::is_empty")]
    pub router_id: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub last_boot_time: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub last_reconfiguration_time: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub number_established_v4: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub number_not_established_v4: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub number_established_v6: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub number_not_established_v6: u64,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub peers_v4: Vec<PeerStatus>,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub peers_v6: Vec<PeerStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    #[serde(deserialize_with = "null_as_default", rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
    /// `NodeMesh`, `NodePeer` or `GlobalPeer`.
    #[serde(deserialize_with = "null_as_default", rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The session's state; `Close` while it is taken down.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub state: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub since: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutesStatus {
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub routes_v4: Vec<RouteStatus>,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub routes_v6: Vec<RouteStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteStatus {
    /// `FIB` or `RIB`.
    #[serde(deserialize_with = "null_as_default", rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub destination: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub interface: String,
    #[serde(deserialize_with = "null_as_default")]
    pub learned_from: LearnedFrom,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LearnedFrom {
    /// `Kernel`, `Static`, `Direct`, `NodeMesh` or `BGPPeer`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub source_type: String,
    #[serde(deserialize_with = "null_as_default", rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
}
