//! The stored forms of IPAM (Calico `libcalico-go/lib/backend/model/block.go`, `ipam_handle.go`, `block_affinity.go`):
//! blocks, affinities, handles, configuration. The algebra on them is the `ipam` crate's.
//!
//! Fields stand in the order in which Calico writes them, and what it leaves out is left out, so that a record of Calico's is
//! written back byte for byte. Go writes null for a list or a mapping that was never made; that reads as an empty one.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::go_json::null_as_default;
use crate::key::AffinityOwner;
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

/// An AllocationBlock as it is stored. One whose owner stands in Calico's deprecated `hostAffinity` is read as if it stood in `affinity`
/// (Calico `ensureBlockAffinity`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct AllocationBlock {
    pub cidr: IpNet,
    /// `host:<node>`, `virtual:load-balancer`, or null: no owner.
    pub affinity: Option<String>,
    /// RFC 3339; when the block was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// Ordinal to index into `attributes`; null is free. Length is the number of addresses.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, first in first out: the head is allocated next.
    #[serde(default, deserialize_with = "null_as_default")]
    pub unallocated: Vec<usize>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub attributes: Vec<AllocationAttribute>,
    #[serde(rename = "sequenceNumber", default, deserialize_with = "null_as_default")]
    pub sequence_number: u64,
    /// Decimal ordinal to the block's sequence number when that ordinal was allocated.
    #[serde(rename = "sequenceNumberForAllocation", default, deserialize_with = "null_as_default")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub deleted: bool,
    /// What we do not know, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl<'de> Deserialize<'de> for AllocationBlock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut block = Self::deserialize(deserializer)?;
        if block.affinity.is_none()
            && let Some(host) = block.extra.shift_remove(HOST_AFFINITY)
        {
            let host = host.as_str().filter(|h| !h.is_empty());
            block.affinity = host.map(|h| AffinityOwner::Host(h.into()).to_block_field());
        }
        Ok(block)
    }
}

impl Serialize for AllocationBlock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// The active owner's attributes: `pod`, `namespace`, `node`, `type`, `service`, `timestamp` ([`attr`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,
    #[serde(rename = "alternateOwnerAttrs", default, skip_serializing_if = "Option::is_none")]
    pub alternate_owner_attrs: Option<BTreeMap<String, String>>,
    /// RFC 3339; set while the address cools down.
    #[serde(rename = "releasedAt", default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    /// What we do not know, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A block's owner in a deprecated form, a bare node name (Calico `AllocationBlock.HostAffinity`).
pub const HOST_AFFINITY: &str = "hostAffinity";

/// Keys of [`AllocationAttribute::secondary`].
pub mod attr {
    pub const POD: &str = "pod";
    pub const NAMESPACE: &str = "namespace";
    pub const NODE: &str = "node";
    pub const TYPE: &str = "type";
    pub const SERVICE: &str = "service";
    pub const TIMESTAMP: &str = "timestamp";
}

/// State of a node's claim on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AffinityState {
    #[serde(rename = "pending")]
    Pending,
    #[serde(rename = "confirmed", alias = "")]
    Confirmed,
    #[serde(rename = "pendingDeletion")]
    PendingDeletion,
}

/// A block affinity as it is stored; an empty value reads as confirmed (Calico's legacy form).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAffinity {
    pub state: AffinityState,
    #[serde(default, deserialize_with = "null_as_default")]
    pub deleted: bool,
    /// What we do not know, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BlockAffinity {
    pub fn new(state: AffinityState) -> Self {
        Self { state, deleted: false, extra: Map::new() }
    }
}

/// A handle: block CIDR to the number of its addresses in that block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamHandle {
    #[serde(default, deserialize_with = "null_as_default")]
    pub block: BTreeMap<String, usize>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub deleted: bool,
    /// What we do not know, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn null_as_yes<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Option::deserialize(d).map(|is_on| is_on.unwrap_or(true))
}

/// The IPAM configuration as it is stored under `/calico/ipam/v2/config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IpamConfig {
    #[serde(default, deserialize_with = "null_as_default")]
    pub strict_affinity: bool,
    /// Calico leaves out what is false; only where the whole record is missing is this true.
    #[serde(default, deserialize_with = "null_as_default")]
    pub auto_allocate_blocks: bool,
    /// 0 means the default, 20.
    #[serde(
        rename = "maxBlocksPerHost",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub max_blocks_per_host: u32,
    #[serde(rename = "kubeVirtVMAddressPersistence", default, skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<String>,
    #[serde(
        rename = "ipCooldownSeconds",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub ip_cooldown_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: 0,
        }
    }
}

/// The user's form of the IPAM configuration; the object is always named `default`. It is stored as [`IpamConfig`].
pub type IpamConfiguration = Resource<WithSpec<IpamConfigurationSpec>>;

impl Body for WithSpec<IpamConfigurationSpec> {
    const KIND: Kind = Kind::IpamConfiguration;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamConfigurationSpec {
    #[serde(default, deserialize_with = "null_as_default")]
    pub strict_affinity: bool,
    #[serde(default = "yes", deserialize_with = "null_as_yes")]
    pub auto_allocate_blocks: bool,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub max_blocks_per_host: u32,
    #[serde(default, rename = "kubeVirtVMAddressPersistence", skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub ip_cooldown_seconds: u32,
}

#[cfg(test)]
mod tests;
