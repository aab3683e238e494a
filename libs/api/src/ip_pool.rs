//! IPPool and IPReservation (Calico `api/pkg/apis/projectcalico/v3/ippool.go`).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

/// Block size of an IPv4 pool that names none (Calico's default), prefix length.
pub const DEFAULT_BLOCK_SIZE_V4: u8 = 26;
/// Block size of an IPv6 pool that names none (Calico's default), prefix length.
pub const DEFAULT_BLOCK_SIZE_V6: u8 = 122;

pub type IpPool = Resource<WithSpec<IpPoolSpec>>;

impl Body for WithSpec<IpPoolSpec> {
    const KIND: Kind = Kind::IpPool;
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedUse {
    Workload,
    Tunnel,
    LoadBalancer,
}

/// Encapsulation between nodes. Tortie is pure layer 3: other values than `Never` are stored and reported as not active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncapMode {
    #[default]
    Never,
    Always,
    CrossSubnet,
}

/// Whether addresses are taken from a pool without being asked for by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentMode {
    #[default]
    Automatic,
    Manual,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// Strictly masked.
    pub cidr: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    #[serde(default, deserialize_with = "empty_as_default")]
    pub ipip_mode: EncapMode,
    #[serde(default, deserialize_with = "empty_as_default")]
    pub vxlan_mode: EncapMode,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        rename = "disableBGPExport",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub disable_bgp_export: bool,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<AllowedUse>>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<AssignmentMode>,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl IpPoolSpec {
    /// A pool with every other field at its default.
    pub fn new(cidr: IpNet) -> Self {
        Self {
            cidr,
            block_size: None,
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            node_selector: None,
            namespace_selector: None,
            allowed_uses: None,
            assignment_mode: None,
            extra: Map::new(),
        }
    }

    /// The prefix length of this pool's blocks.
    pub fn block_prefix_len(&self) -> u8 {
        self.block_size.filter(|size| *size != 0).unwrap_or(match self.cidr {
            IpNet::V4(_) => DEFAULT_BLOCK_SIZE_V4,
            IpNet::V6(_) => DEFAULT_BLOCK_SIZE_V6,
        })
    }

    /// Whether `wanted` is among the pool's uses. No list means Workload and Tunnel.
    pub fn allows(&self, wanted: AllowedUse) -> bool {
        match &self.allowed_uses {
            Some(uses) if !uses.is_empty() => uses.contains(&wanted),
            _ => wanted != AllowedUse::LoadBalancer,
        }
    }
}

pub type IpReservation = Resource<WithSpec<IpReservationSpec>>;

impl Body for WithSpec<IpReservationSpec> {
    const KIND: Kind = Kind::IpReservation;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpReservationSpec {
    /// CIDRs, or bare addresses as /32 and /128.
    #[serde(rename = "reservedCIDRs", default, deserialize_with = "null_as_default")]
    pub reserved_cidrs: Vec<String>,
}
