//! Services and their endpoint slices, as the datapath needs them.

use std::net::IpAddr;

use serde::Serialize;

pub use api::service::Protocol;

/// How a frontend came to be, which decides who may use it and what is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    /// On every address of the node; [`Frontend::addr`] is the unspecified address.
    NodePort,
}

/// One address, protocol and port that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub kind: FrontendKind,
    /// `namespace/name` of the service, for status and counters.
    pub service: String,
    /// Only backends of this node may serve traffic that comes from outside (externalTrafficPolicy Local).
    pub external_local: bool,
    /// Only backends of this node may serve traffic of this node's pods and processes (internalTrafficPolicy Local).
    pub internal_local: bool,
    /// Ready backends, sorted, without duplicates: every node computes the same list.
    pub backends: Vec<Backend>,
}

/// One endpoint behind a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Backend {
    pub addr: IpAddr,
    pub port: u16,
    /// Whether the endpoint is a workload of this node.
    pub is_local: bool,
}
