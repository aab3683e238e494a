//! WorkloadEndpoint (Calico `libcalico-go/lib/apis/v3/workloadendpoint.go`), its name and its interface's name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::null_as_default;
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

/// Labels that Calico puts on every WorkloadEndpoint beside the pod's own.
pub const LABEL_NAMESPACE: &str = "projectcalico.org/namespace";
pub const LABEL_ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

pub type WorkloadEndpoint = Resource<WithSpec<WorkloadEndpointSpec>>;

impl Body for WithSpec<WorkloadEndpointSpec> {
    const KIND: Kind = Kind::WorkloadEndpoint;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub node: String,
    #[serde(default, rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Addresses as /32 or /128.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ip_networks: Vec<String>,
    #[serde(default, rename = "ipv4Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    #[serde(default, rename = "ipv6Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub interface_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPort>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// A name, or a number of IANA's, which is a number in a document.
    #[serde(default, deserialize_with = "read_protocol", serialize_with = "write_protocol")]
    pub protocol: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
}

fn read_protocol<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    match Value::deserialize(d)? {
        Value::Null => Ok(String::new()),
        Value::String(name) => Ok(name),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("{other} is not a protocol"))),
    }
}

fn write_protocol<S: serde::Serializer>(protocol: &str, s: S) -> Result<S::Ok, S::Error> {
    match protocol.parse::<u8>() {
        Ok(number) => s.serialize_u8(number),
        Err(_) => s.serialize_str(protocol),
    }
}

/// The name of the endpoint of a Kubernetes pod: `<node>-k8s-<pod>-<endpoint>`, dashes inside each part doubled.
pub fn k8s_endpoint_name(node: &str, pod: &str, endpoint: &str) -> String {
    format!("{}-k8s-{}-{}", escape(node), escape(pod), escape(endpoint))
}

/// The name of the endpoint of a container without Kubernetes: `<node>-cni-<containerID>-<endpoint>`.
pub fn cni_endpoint_name(node: &str, container_id: &str, endpoint: &str) -> String {
    format!("{}-cni-{}-{}", escape(node), escape(container_id), escape(endpoint))
}

/// What the names of all endpoints of a node begin with.
pub fn endpoint_prefix(node: &str) -> String {
    format!("{}-", escape(node))
}

fn escape(part: &str) -> String {
    part.replace('-', "--")
}
