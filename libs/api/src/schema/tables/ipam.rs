//! The records of IPAM in the Kubernetes API (Calico `libcalico-go/lib/apis/internalapi`, `crd.projectcalico.org/v1`).

use super::super::Format::*;
use super::super::Object;
use super::super::Type::*;
use super::{ENABLED, METADATA, TEXT, f, object, req};
use crate::kdd;

pub(in crate::schema) const RECORDS: [(&str, &str, &Object); 4] = [
    (kdd::IPAM_BLOCK, "ipamblocks", &IPAM_BLOCK),
    (kdd::BLOCK_AFFINITY, "blockaffinities", &BLOCK_AFFINITY),
    (kdd::IPAM_HANDLE, "ipamhandles", &IPAM_HANDLE),
    (kdd::IPAM_CONFIG, "ipamconfigs", &IPAM_CONFIG),
];

document!(IPAM_BLOCK, "IPAMBlock", spec & IPAM_BLOCK_SPEC);
static IPAM_BLOCK_SPEC: Object = object(
    "IPAMBlockSpec",
    &[
        req("cidr", TEXT),
        f("affinity", TEXT),
        f("affinityClaimTime", Text(Time)),
        req("allocations", List(&Nullable(&Int(i32::MIN as i64, i32::MAX as i64)))),
        req("unallocated", List(&Int(i32::MIN as i64, i32::MAX as i64))),
        req("attributes", List(&Object(&ALLOCATION_ATTRIBUTE))),
        f("sequenceNumber", Int(0, i64::MAX)),
        f("sequenceNumberForAllocation", Counts),
        f("deleted", Bool),
        f("strictAffinity", Bool),
    ],
);
static ALLOCATION_ATTRIBUTE: Object = object(
    "AllocationAttribute",
    &[f("handle_id", TEXT), f("secondary", Map), f("alternateOwnerAttrs", Map), f("releasedAt", Text(Time))],
);

document!(BLOCK_AFFINITY, "BlockAffinity", spec & BLOCK_AFFINITY_SPEC);
static BLOCK_AFFINITY_SPEC: Object = object(
    "BlockAffinitySpec",
    &[req("state", TEXT), req("node", TEXT), f("type", TEXT), req("cidr", TEXT), req("deleted", TEXT)],
);

document!(IPAM_HANDLE, "IPAMHandle", spec & IPAM_HANDLE_SPEC);
static IPAM_HANDLE_SPEC: Object =
    object("IPAMHandleSpec", &[req("handleID", TEXT), req("block", Counts), f("deleted", Bool)]);

document!(IPAM_CONFIG, "IPAMConfig", spec & IPAM_CONFIG_SPEC);
static IPAM_CONFIG_SPEC: Object = object(
    "IPAMConfigSpec",
    &[
        req("strictAffinity", Bool),
        req("autoAllocateBlocks", Bool),
        f("maxBlocksPerHost", Int(0, i32::MAX as i64)),
        f("kubeVirtVMAddressPersistence", ENABLED).is("no virtual machine is known").inert(),
        f("ipCooldownSeconds", Int(0, 1200)),
    ],
);
