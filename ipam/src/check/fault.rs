//! What can be wrong within one block (Calico `calicoctl/commands/ipam/check.go` `validateBlock`), and a block without it.

use std::collections::BTreeSet;
use std::fmt;

use api::ipam::AllocationBlock;
use jiff::Timestamp;
use serde::Serialize;

/// One thing that is wrong within a block. The texts are Calico's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "fault", rename_all = "camelCase")]
pub enum Fault {
    Slots { found: usize, expected: usize },
    AttributeMissing { ordinal: usize, attribute: usize },
    AttributeUnused { attribute: usize },
    ReleasedInFuture { attribute: usize },
    OrdinalOutside { ordinal: usize },
    OrdinalTwice { ordinal: usize },
    OrdinalAllocated { ordinal: usize },
    OrdinalsLost { ordinals: Vec<usize>, expected: usize, unallocated: usize, allocated: usize },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots { found, expected } => {
                write!(f, "expected {expected} addresses in this block, but Allocations has {found}")
            }
            Self::AttributeMissing { ordinal, attribute } => {
                write!(f, "allocation {ordinal} indexes a nonexistent attribute {attribute}")
            }
            Self::AttributeUnused { attribute } => {
                write!(f, "attribute index {attribute} exists but is not indexed by an allocation")
            }
            Self::ReleasedInFuture { attribute } => {
                write!(f, "attribute index {attribute} has releasedAt in the future, suggesting clock skew")
            }
            Self::OrdinalOutside { ordinal } => {
                write!(f, "ordinal {ordinal} appears in the Unallocated array but is out of the block")
            }
            Self::OrdinalTwice { ordinal } => {
                write!(f, "ordinal {ordinal} appears more than once in Unallocated array")
            }
            Self::OrdinalAllocated { ordinal } => {
                write!(f, "ordinal {ordinal} is allocated but appears in Unallocated")
            }
            Self::OrdinalsLost { ordinals, expected, unallocated, allocated } => {
                let sum = unallocated + allocated;
                let lost: Vec<String> = ordinals.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "expected {expected} addresses in this block, but Unallocated ({unallocated}) + Allocated ({allocated}) = \
                     {sum}; neither has ordinal {}",
                    lost.join(", ")
                )
            }
        }
    }
}

impl Fault {
    /// Whether it is not known any more who has an address.
    pub fn loses_owners(&self) -> bool {
        matches!(self, Self::Slots { .. } | Self::AttributeMissing { .. })
    }
}

/// The number of addresses that a block has by its CIDR.
pub fn size_of(block: &AllocationBlock) -> usize {
    let bits = block.cidr.max_prefix_len() - block.cidr.prefix_len();
    1usize.checked_shl(u32::from(bits)).unwrap_or(usize::MAX)
}

/// Everything that is wrong within a block.
pub fn faults(block: &AllocationBlock, now: Timestamp) -> Vec<Fault> {
    let size = size_of(block);
    if block.allocations.len() != size {
        return vec![Fault::Slots { found: block.allocations.len(), expected: size }];
    }
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for (ordinal, slot) in block.allocations.iter().enumerate() {
        match slot {
            Some(attribute) if *attribute >= block.attributes.len() => {
                faults.push(Fault::AttributeMissing { ordinal, attribute: *attribute });
            }
            Some(attribute) => {
                used.insert(*attribute);
            }
            None => {}
        }
    }
    for (attribute, content) in block.attributes.iter().enumerate() {
        if !used.contains(&attribute) {
            faults.push(Fault::AttributeUnused { attribute });
        }
        let released = content.released_at.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        if released.is_some_and(|at| at > now) {
            faults.push(Fault::ReleasedInFuture { attribute });
        }
    }
    let mut free = BTreeSet::new();
    for &ordinal in &block.unallocated {
        match block.allocations.get(ordinal) {
            None => faults.push(Fault::OrdinalOutside { ordinal }),
            Some(_) if !free.insert(ordinal) => faults.push(Fault::OrdinalTwice { ordinal }),
            Some(Some(_)) => faults.push(Fault::OrdinalAllocated { ordinal }),
            Some(None) => {}
        }
    }
    let lost = |o: &usize| block.allocations[*o].is_none() && !free.contains(o);
    let ordinals: Vec<usize> = (0..size).filter(lost).collect();
    if !ordinals.is_empty() {
        faults.push(Fault::OrdinalsLost {
            ordinals,
            expected: size,
            unallocated: block.unallocated.len(),
            allocated: block.allocations.iter().flatten().count(),
        });
    }
    faults
}

/// The block without those of its faults that say by themselves what is right: an allocation stands against a free ordinal, what is lost
/// is free, and an attribute of nobody goes. An allocation whose attribute is missing stays: only its user knows whose it is.
/// `None` where there is nothing of that kind.
pub fn mended(block: &AllocationBlock, now: Timestamp) -> Option<AllocationBlock> {
    let faults = faults(block, now);
    let can =
        |f: &Fault| !matches!(f, Fault::Slots { .. } | Fault::AttributeMissing { .. } | Fault::ReleasedInFuture { .. });
    // Indices cannot be moved while one of them points nowhere.
    let keep_attributes = faults.iter().any(|f| matches!(f, Fault::AttributeMissing { .. }));
    let only_attributes = |f: &Fault| matches!(f, Fault::AttributeUnused { .. });
    if !faults.iter().any(|f| can(f) && !(keep_attributes && only_attributes(f))) {
        return None;
    }
    let mut block = block.clone();
    let mut seen = BTreeSet::new();
    let AllocationBlock { unallocated, allocations, .. } = &mut block;
    unallocated.retain(|o| allocations.get(*o) == Some(&None) && seen.insert(*o));
    unallocated.extend((0..allocations.len()).filter(|o| allocations[*o].is_none() && !seen.contains(o)));
    if !keep_attributes {
        let used: BTreeSet<usize> = block.allocations.iter().flatten().copied().collect();
        let moved = |i: usize| used.range(..i).count();
        block.allocations.iter_mut().flatten().for_each(|i| *i = moved(*i));
        let mut index = 0..;
        block.attributes.retain(|_| index.next().is_some_and(|i| used.contains(&i)));
    }
    block.sequence_number += 1;
    Some(block)
}
