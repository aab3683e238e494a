//! BGPConfiguration (Calico `api/pkg/apis/projectcalico/v3/bgpconfig.go`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bgp_peer::{AsNumber, BgpPassword};
use crate::bgp_session::BgpSessionSettings;
use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

/// The AS of a fleet that names none (Calico's default).
pub const DEFAULT_AS_NUMBER: u32 = 64512;
/// BGP's port (RFC 4271 section 8.2.1).
pub const DEFAULT_LISTEN_PORT: u16 = 179;

pub type BgpConfiguration = Resource<WithSpec<BgpConfigurationSpec>>;

impl Body for WithSpec<BgpConfigurationSpec> {
    const KIND: Kind = Kind::BgpConfiguration;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrBlock {
    pub cidr: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCommunity {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    pub cidr: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub communities: Vec<String>,
}

/// Where to stream BMP to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmpCollector {
    pub address: IpAddr,
    pub port: u16,
}

/// The object `default` is the fleet's; `node.<name>` overrides it on one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        rename = "serviceClusterIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_cluster_ips: Vec<CidrBlock>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        rename = "serviceExternalIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_external_ips: Vec<CidrBlock>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        rename = "serviceLoadBalancerIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_load_balancer_ips: Vec<CidrBlock>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<NamedCommunity>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BgpPassword>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ignored_interfaces: Vec<String>,
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "localWorkloadPeeringIPV4",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v4: Option<String>,
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "localWorkloadPeeringIPV6",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v6: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<String>,
    #[serde(default, rename = "ipv4NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<i64>,
    #[serde(default, rename = "ipv6NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<i64>,
    /// Collectors that every node streams BMP to (RFC 7854).
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub bmp_collectors: Vec<BmpCollector>,
    /// Best-path changes of one prefix a minute from which it counts as flapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flap_threshold: Option<u32>,
    /// Defaults for every peer.
    #[serde(flatten)]
    pub session: BgpSessionSettings,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BgpConfigurationSpec {
    /// Fields of ours beside the session settings, stored as annotations like them.
    pub const FIELDS: &'static [&'static str] = &["bmpCollectors", "flapThreshold"];
}
