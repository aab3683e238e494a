//! The arithmetic of one block (Calico `libcalico-go/lib/ipam/ipam_block.go`). Pure: what is stored goes in, what is to be stored
//! comes out.
//!
//! Invariants of a [`Block`], checked when one is read: there is one slot for each address; a slot is free exactly when
//! its ordinal stands once in `unallocated`; a taken slot points at an existing attribute entry; no attribute entry is unused
//! after a change of ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::ipam::{AllocationAttribute, AllocationBlock};
use api::key::AffinityOwner;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::Map;

use crate::pool::Reservations;

/// Most addresses in a block: `allocations` is stored in full (Calico: IPv4 /20, IPv6 /116).
pub const MAX_ADDRESSES: usize = 4096;

/// What is wrong with a block, or with what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("block {0} is too large: at most {MAX_ADDRESSES} addresses (IPv4 /20, IPv6 /116)")]
    TooLarge(IpNet),
    #[error("block {cidr} is inconsistent: {reason}")]
    Inconsistent { cidr: IpNet, reason: String },
    /// The first sentence is Calico's.
    #[error("Block host affinity does not match: block {cidr} belongs to {owner}")]
    NotOwner { cidr: IpNet, owner: String },
    /// The last words are Calico's.
    #[error("resource already exists: {0}: Address already assigned in block")]
    AlreadyAssigned(IpAddr),
    #[error("{ip} is not in block {cidr}")]
    NotInBlock { ip: IpAddr, cidr: IpNet },
}

/// To whom an address goes.
#[derive(Clone, Copy, Debug)]
pub struct Assignee<'a> {
    pub handle: &'a str,
    pub attributes: &'a BTreeMap<String, String>,
}

impl Assignee<'_> {
    fn owns(&self, attribute: &AllocationAttribute) -> bool {
        attribute.released_at.is_none()
            && attribute.alternate_owner_attrs.is_none()
            && attribute.handle_id.as_deref() == Some(self.handle)
            && attribute.secondary.as_ref() == Some(self.attributes)
    }
}

/// An address that was given back, and the handle it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub address: IpAddr,
    pub handle: Option<String>,
}

/// A block whose invariants hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    stored: AllocationBlock,
}

impl Block {
    /// A block with every address free, claimed at `now`. Its sequence starts at `now` in nanoseconds, so that a block which is
    /// deleted and made again never repeats a number.
    ///
    /// # Errors
    /// [`BlockError::TooLarge`].
    pub fn new(cidr: IpNet, owner: &AffinityOwner, now: Timestamp) -> Result<Self, BlockError> {
        let cidr = cidr.trunc();
        let size = size(cidr)?;
        let stored = AllocationBlock {
            cidr,
            affinity: Some(owner.to_block_field()),
            affinity_claim_time: Some(rfc3339(now)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: vec![],
            sequence_number: u64::try_from(now.as_nanosecond()).unwrap_or(0),
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            host_affinity: None,
            extra: Map::new(),
        };
        Ok(Self { stored })
    }

    /// Takes a stored block.
    ///
    /// # Errors
    /// [`BlockError::TooLarge`], [`BlockError::Inconsistent`] when an invariant does not hold.
    pub fn from_stored(stored: AllocationBlock) -> Result<Self, BlockError> {
        let cidr = stored.cidr;
        let wrong = |reason: String| BlockError::Inconsistent { cidr, reason };
        let size = size(cidr)?;
        if stored.allocations.len() != size {
            return Err(wrong(format!("{} slots for {size} addresses", stored.allocations.len())));
        }
        if let Some(index) = stored.allocations.iter().flatten().find(|i| **i >= stored.attributes.len()) {
            return Err(wrong(format!("an address has attribute {index} of {}", stored.attributes.len())));
        }
        let mut queued = vec![false; size];
        for &ordinal in &stored.unallocated {
            match queued.get_mut(ordinal) {
                Some(seen) if !*seen && stored.allocations[ordinal].is_none() => *seen = true,
                Some(true) => return Err(wrong(format!("ordinal {ordinal} is free twice"))),
                Some(_) => return Err(wrong(format!("ordinal {ordinal} is free and allocated"))),
                None => return Err(wrong(format!("ordinal {ordinal} is outside the block"))),
            }
        }
        if let Some(lost) = (0..size).find(|&o| stored.allocations[o].is_none() && !queued[o]) {
            return Err(wrong(format!("ordinal {lost} is neither free nor allocated")));
        }
        Ok(Self { stored })
    }

    /// What is to be stored.
    pub fn stored(&self) -> &AllocationBlock {
        &self.stored
    }

    pub fn cidr(&self) -> IpNet {
        self.stored.cidr
    }

    /// Whose block this is; the deprecated `hostAffinity` counts where `affinity` is absent.
    pub fn owner(&self) -> Option<AffinityOwner> {
        owner_of(&self.stored)
    }

    /// Whether no address is taken; a cooling one is.
    pub fn is_empty(&self) -> bool {
        self.stored.unallocated.len() == self.stored.allocations.len()
    }

    /// When the block was claimed, if that is known.
    pub fn claimed_at(&self) -> Option<Timestamp> {
        self.stored.affinity_claim_time.as_deref()?.parse().ok()
    }

    /// Gives the block to another owner.
    pub fn set_owner(&mut self, owner: &AffinityOwner, now: Timestamp) {
        self.stored.affinity = Some(owner.to_block_field());
        self.stored.affinity_claim_time = Some(rfc3339(now));
        self.stored.host_affinity = None;
        self.stored.sequence_number += 1;
    }

    /// Leaves the block to nobody.
    pub fn clear_owner(&mut self) {
        self.stored.affinity = None;
        self.stored.affinity_claim_time = None;
        self.stored.host_affinity = None;
        self.stored.sequence_number += 1;
    }

    /// Takes up to `want` addresses from the head of the queue; reserved ones stay queued, in order. With `strict`, only the
    /// block's owner may.
    ///
    /// # Errors
    /// [`BlockError::NotOwner`].
    pub fn assign(
        &mut self,
        want: usize,
        to: Assignee<'_>,
        reserved: &Reservations,
        strict: Option<&AffinityOwner>,
    ) -> Result<Vec<IpAddr>, BlockError> {
        self.check_owner(strict)?;
        let cidr = self.stored.cidr;
        let mut taken = Vec::new();
        self.stored.unallocated.retain(|&ordinal| {
            let take = taken.len() < want && !reserved.contains(address_at(cidr, ordinal));
            if take {
                taken.push(ordinal);
            }
            !take
        });
        self.mark(&taken, to);
        Ok(taken.into_iter().map(|o| address_at(cidr, o)).collect())
    }

    /// Takes one address, reserved or not (an explicit wish wins).
    ///
    /// # Errors
    /// [`BlockError::NotOwner`], [`BlockError::NotInBlock`], [`BlockError::AlreadyAssigned`] (also while it cools down).
    pub fn assign_address(
        &mut self,
        ip: IpAddr,
        to: Assignee<'_>,
        strict: Option<&AffinityOwner>,
    ) -> Result<(), BlockError> {
        self.check_owner(strict)?;
        let ordinal = self.ordinal(ip).ok_or(BlockError::NotInBlock { ip, cidr: self.stored.cidr })?;
        if self.stored.allocations[ordinal].is_some() {
            return Err(BlockError::AlreadyAssigned(ip));
        }
        self.stored.unallocated.retain(|&o| o != ordinal);
        self.mark(&[ordinal], to);
        Ok(())
    }

    /// Gives addresses back, to the tail of the queue. Those that are not allocated are passed over. With a cooldown they
    /// stay taken, by nobody, until [`Self::thaw`].
    pub fn release(&mut self, addresses: &[IpAddr], now: Timestamp, cooldown: SignedDuration) -> Vec<Released> {
        let mut released = Vec::new();
        let mut cooling = None;
        for &address in addresses {
            let Some(ordinal) = self.ordinal(address) else { continue };
            let Some(attribute) = self.attribute_at(ordinal).filter(|a| a.released_at.is_none()) else { continue };
            released.push(Released { address, handle: attribute.handle_id.clone() });
            self.stored.sequence_number_for_allocation.remove(&ordinal.to_string());
            if cooldown.is_positive() {
                let index = *cooling.get_or_insert_with(|| {
                    let released_at = Some(rfc3339(now));
                    self.stored.attributes.push(AllocationAttribute { released_at, ..AllocationAttribute::default() });
                    self.stored.attributes.len() - 1
                });
                self.stored.allocations[ordinal] = Some(index);
            } else {
                self.stored.allocations[ordinal] = None;
                self.stored.unallocated.push(ordinal);
            }
        }
        if !released.is_empty() {
            self.repack();
            self.stored.sequence_number += 1;
        }
        released
    }

    /// Frees the addresses which have cooled down; whether there were any.
    pub fn thaw(&mut self, now: Timestamp, cooldown: SignedDuration) -> bool {
        let cold = |a: &AllocationAttribute| match a.released_at.as_deref().map(str::parse::<Timestamp>) {
            Some(Ok(at)) => now.duration_since(at) >= cooldown,
            // A time that cannot be read would hold the address for ever.
            Some(Err(_)) => true,
            None => false,
        };
        let thawed: Vec<usize> =
            (0..self.stored.allocations.len()).filter(|&o| self.attribute_at(o).is_some_and(cold)).collect();
        for &ordinal in &thawed {
            self.stored.allocations[ordinal] = None;
            self.stored.unallocated.push(ordinal);
        }
        if !thawed.is_empty() {
            self.repack();
            self.stored.sequence_number += 1;
        }
        !thawed.is_empty()
    }

    /// The addresses that a handle has here, in order.
    pub fn addresses_of(&self, handle: &str) -> Vec<IpAddr> {
        self.allocated().filter(|(_, a)| a.handle_id.as_deref() == Some(handle)).map(|(ip, _)| ip).collect()
    }

    /// The addresses that are taken (not those that cool down), and by whom.
    pub fn allocated(&self) -> impl Iterator<Item = (IpAddr, &AllocationAttribute)> {
        let cidr = self.stored.cidr;
        (0..self.stored.allocations.len())
            .filter_map(move |o| Some((address_at(cidr, o), self.attribute_at(o)?)))
            .filter(|(_, a)| a.released_at.is_none())
    }

    /// Who has an address, or `None` when it is free or cools down.
    pub fn attribute_of(&self, ip: IpAddr) -> Option<&AllocationAttribute> {
        self.attribute_at(self.ordinal(ip)?).filter(|a| a.released_at.is_none())
    }

    /// The number that an allocation carries: with the attributes, it tells whether an allocation is the one that was written.
    pub fn sequence_of(&self, ip: IpAddr) -> Option<u64> {
        self.stored.sequence_number_for_allocation.get(&self.ordinal(ip)?.to_string()).copied()
    }

    fn check_owner(&self, strict: Option<&AffinityOwner>) -> Result<(), BlockError> {
        match strict {
            Some(asker) if self.owner().as_ref() != Some(asker) => Err(BlockError::NotOwner {
                cidr: self.stored.cidr,
                owner: self.stored.affinity.clone().unwrap_or_else(|| "nobody".into()),
            }),
            _ => Ok(()),
        }
    }

    /// Writes `to` on slots that have just left the queue. Equal attributes share one entry.
    fn mark(&mut self, ordinals: &[usize], to: Assignee<'_>) {
        if ordinals.is_empty() {
            return;
        }
        let index = self.stored.attributes.iter().position(|a| to.owns(a)).unwrap_or_else(|| {
            self.stored.attributes.push(AllocationAttribute {
                handle_id: Some(to.handle.to_string()),
                secondary: Some(to.attributes.clone()),
                ..AllocationAttribute::default()
            });
            self.stored.attributes.len() - 1
        });
        for &ordinal in ordinals {
            self.stored.allocations[ordinal] = Some(index);
            let number = self.stored.sequence_number;
            self.stored.sequence_number_for_allocation.insert(ordinal.to_string(), number);
        }
        self.stored.sequence_number += 1;
    }

    /// Drops attribute entries that nothing points at, and closes the gaps.
    fn repack(&mut self) {
        let mut used = vec![false; self.stored.attributes.len()];
        self.stored.allocations.iter().flatten().for_each(|&i| used[i] = true);
        let moved: Vec<usize> = used
            .iter()
            .scan(0, |next, &u| {
                let index = *next;
                *next += usize::from(u);
                Some(index)
            })
            .collect();
        self.stored.allocations.iter_mut().flatten().for_each(|i| *i = moved[*i]);
        let mut keep = used.iter();
        self.stored.attributes.retain(|_| keep.next().copied().unwrap_or(false));
    }

    fn attribute_at(&self, ordinal: usize) -> Option<&AllocationAttribute> {
        self.stored.attributes.get((*self.stored.allocations.get(ordinal)?)?)
    }

    fn ordinal(&self, ip: IpAddr) -> Option<usize> {
        if !self.stored.cidr.contains(&ip) {
            return None;
        }
        usize::try_from(to_number(ip) - to_number(self.stored.cidr.network())).ok()
    }
}

/// Whose block a stored one is.
pub fn owner_of(stored: &AllocationBlock) -> Option<AffinityOwner> {
    match (&stored.affinity, &stored.host_affinity) {
        (Some(affinity), _) => AffinityOwner::from_block_field(affinity),
        (None, Some(host)) => Some(AffinityOwner::Host(host.clone())),
        (None, None) => None,
    }
}

/// A time as blocks store it: RFC 3339, seconds, UTC.
pub fn rfc3339(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).to_string()
}

/// An address as a number.
pub(crate) fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address `offset` addresses into a network. The offset is less than the network's size.
pub(crate) fn address_in(network: IpNet, offset: u128) -> IpAddr {
    let number = to_number(network.network()) + offset;
    match network {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The address of an ordinal of a block.
pub fn address_at(cidr: IpNet, ordinal: usize) -> IpAddr {
    address_in(cidr, ordinal as u128)
}

fn size(cidr: IpNet) -> Result<usize, BlockError> {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    let size = 1usize.checked_shl(u32::from(bits)).unwrap_or(usize::MAX);
    if bits > 12 || size > MAX_ADDRESSES { Err(BlockError::TooLarge(cidr)) } else { Ok(size) }
}

#[cfg(test)]
mod tests;
