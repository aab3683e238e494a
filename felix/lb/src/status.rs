//! What the load balancer says about itself, for the status API.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::layout::drop_reason;

/// The whole state, one serialisable value.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub hooks: Vec<Hook>,
    pub interfaces: Vec<Interface>,
    pub maps: Vec<MapStatus>,
    /// By `namespace/name`.
    pub services: BTreeMap<String, ServiceCounters>,
    /// By reason, over all services, those of deleted ones included.
    pub drops: BTreeMap<&'static str, u64>,
    /// Frontends in the maps.
    pub frontends: usize,
    /// Frontends that could not be written yet and are retried.
    pub failed: usize,
}

/// One of `socket`, `tc`, `xdp`.
#[derive(Clone, Debug, Serialize)]
pub struct Hook {
    pub name: &'static str,
    pub is_active: bool,
    /// Why it is not active.
    pub reason: Option<String>,
}

/// An interface with programs.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
    /// `workload` or `uplink`.
    pub role: &'static str,
}

/// A map's size, and its fill where that is known without walking it.
#[derive(Clone, Debug, Serialize)]
pub struct MapStatus {
    pub name: &'static str,
    pub max_entries: u32,
    pub used: Option<u32>,
}

/// Exact, from the datapath. Sockets count flows only: their packets are not seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServiceCounters {
    pub packets: u64,
    pub bytes: u64,
    pub flows: u64,
    /// Packets by the reason they were dropped for.
    pub drops: BTreeMap<&'static str, u64>,
}

/// The operator's name of a reason of `bpf/drop.h`.
pub fn drop_reason_name(reason: u32) -> &'static str {
    match drop_reason(reason) {
        drop_reason::DROP_NO_BACKEND => "no_backend",
        drop_reason::DROP_CONNTRACK_FULL => "conntrack_full",
        drop_reason::DROP_NO_SNAT_PORT => "no_snat_port",
        drop_reason::DROP_NO_SNAT_ADDR => "no_snat_address",
        drop_reason::DROP_TTL => "ttl",
        drop_reason::DROP_REWRITE => "rewrite",
        _ => "unknown",
    }
}
