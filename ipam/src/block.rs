//! The arithmetic of one block (Calico `libcalico-go/lib/ipam/ipam_block.go`). Pure: what is stored goes in, what is to be stored
//! comes out.
//!
//! Invariants of a [`Block`], checked when one is read: there is one slot for each address; a slot is free exactly when
//! its ordinal stands once in `unallocated`; a taken slot points at an existing attribute entry; no attribute entry is unused
//! after a change of ours.
//!
//! Taking and giving back cost the same in a block of one address and of 4,096: ordinals are links of lists, one list of what is
//! free and one for each attribute entry; entries keep their place while others go, and get their stored index when the block is
//! stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::ipam::{AllocationAttribute, AllocationBlock, HOST_AFFINITY};
use api::key::AffinityOwner;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::pool::Reservations;

mod lists;
mod size;

use lists::{List, Lists};
pub use size::{MAX_ATTRIBUTE_BYTES, MAX_BYTES};

/// Most addresses in a block: `allocations` is stored in full (Calico: IPv4 /20, IPv6 /116).
pub const MAX_ADDRESSES: usize = 4096;
/// Entries that may lie unused before the others close up.
const MIN_UNUSED: usize = 16;

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
    /// The block has free addresses, but what its workloads store with theirs leaves no room.
    #[error(
        "{ip} cannot be taken: block {cidr} is stored in {size} bytes, and with {more} more it would be larger than {MAX_BYTES}, \
         about what etcd takes in one request; take an address of another block, or store shorter attributes"
    )]
    NoBytesLeft { ip: IpAddr, cidr: IpNet, size: usize, more: usize },
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
            && attribute.alternate_owner_attrs.as_ref().is_none_or(BTreeMap::is_empty)
            && attribute.extra.is_empty()
            && attribute.handle_id.as_deref() == Some(self.handle)
            // No attributes are stored as none.
            && attribute.secondary.as_ref().map_or(self.attributes.is_empty(), |s| s == self.attributes)
    }
}

/// An address that was given back, and the handle it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub address: IpAddr,
    pub handle: Option<String>,
}

/// The number of an attribute entry, as long as the block is in memory; not its stored index.
type EntryId = u32;

/// No entry, and no ordinal.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Entry {
    attribute: AllocationAttribute,
    /// The ordinals that point here.
    ordinals: List,
    /// Neighbours among the entries whose handles have the same hash.
    next: EntryId,
    previous: EntryId,
}

/// A block whose invariants hold.
#[derive(Clone, Debug)]
pub struct Block {
    cidr: IpNet,
    affinity: Option<String>,
    claim_time: Option<String>,
    sequence_number: u64,
    deleted: bool,
    extra: Map<String, Value>,
    /// The entry of each ordinal; [`NONE`]: free.
    holders: Vec<EntryId>,
    lists: Lists,
    free: List,
    /// Under the reservations of this fingerprint, what is free before this ordinal is reserved.
    reserved_before: Option<(u64, u32)>,
    /// The sequence number at which each ordinal was allocated; 0: not known.
    numbers: Vec<u64>,
    /// Stored sequence numbers that [`Self::numbers`] cannot hold, kept.
    other_numbers: BTreeMap<String, u64>,
    /// In stored order; `None` where one is gone.
    entries: Vec<Option<Entry>>,
    live: usize,
    /// In how many bytes the entries are stored, at most.
    entries_len: usize,
    /// Entries that were stored without any address; they go with the next release.
    unused: Vec<EntryId>,
    /// The hash of a handle to the newest entry with it.
    by_handle: HashMap<u64, EntryId>,
    cooling: BTreeSet<(Timestamp, EntryId)>,
}

impl Block {
    /// A block with every address free, claimed at `now`. Its sequence starts at `now` in nanoseconds, so that a block which is
    /// deleted and made again never repeats a number.
    ///
    /// # Errors
    /// [`BlockError::TooLarge`].
    pub fn new(cidr: IpNet, owner: &AffinityOwner, now: Timestamp) -> Result<Self, BlockError> {
        let cidr = cidr.trunc();
        let mut block = Self::empty(cidr, size(cidr)?);
        block.affinity = Some(owner.to_block_field());
        block.claim_time = Some(rfc3339(now));
        block.sequence_number = u64::try_from(now.as_nanosecond()).unwrap_or(0);
        (0..block.holders.len()).for_each(|o| block.lists.push(&mut block.free, ordinal_u32(o)));
        Ok(block)
    }

    fn empty(cidr: IpNet, size: usize) -> Self {
        Self {
            cidr,
            affinity: None,
            claim_time: None,
            sequence_number: 0,
            deleted: false,
            extra: Map::new(),
            holders: vec![NONE; size],
            lists: Lists::new(size),
            free: List::EMPTY,
            reserved_before: None,
            numbers: vec![0; size],
            other_numbers: BTreeMap::new(),
            entries: vec![],
            live: 0,
            entries_len: 0,
            unused: vec![],
            by_handle: HashMap::new(),
            cooling: BTreeSet::new(),
        }
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
        let mut block = Self::empty(cidr, size);
        let mut queued = vec![false; size];
        for &ordinal in &stored.unallocated {
            match queued.get_mut(ordinal) {
                Some(seen) if !*seen && stored.allocations[ordinal].is_none() => *seen = true,
                Some(true) => return Err(wrong(format!("ordinal {ordinal} is free twice"))),
                Some(_) => return Err(wrong(format!("ordinal {ordinal} is free and allocated"))),
                None => return Err(wrong(format!("ordinal {ordinal} is outside the block"))),
            }
            block.lists.push(&mut block.free, ordinal_u32(ordinal));
        }
        if let Some(lost) = (0..size).find(|&o| stored.allocations[o].is_none() && !queued[o]) {
            return Err(wrong(format!("ordinal {lost} is neither free nor allocated")));
        }
        for (ordinal, index) in stored.allocations.iter().enumerate() {
            if let Some(index) = index {
                block.holders[ordinal] = ordinal_u32(*index);
            }
        }
        for (text, number) in stored.sequence_number_for_allocation {
            match text.parse::<usize>() {
                Ok(ordinal) if ordinal < size && number != 0 && ordinal.to_string() == text => {
                    block.numbers[ordinal] = number;
                }
                _ => drop(block.other_numbers.insert(text, number)),
            }
        }
        block.affinity = stored.affinity;
        block.claim_time = stored.affinity_claim_time;
        block.sequence_number = stored.sequence_number;
        block.deleted = stored.deleted;
        block.extra = stored.extra;
        block.fill_entries(stored.attributes);
        Ok(block)
    }

    /// Takes the attribute entries, to which [`Self::holders`] points already.
    fn fill_entries(&mut self, attributes: Vec<AllocationAttribute>) {
        self.entries.clear();
        self.by_handle.clear();
        self.cooling.clear();
        self.live = 0;
        self.entries_len = 0;
        for attribute in attributes {
            self.add_entry(attribute);
        }
        for ordinal in 0..self.holders.len() {
            if let Some(Some(entry)) = self.entries.get_mut(self.holders[ordinal] as usize) {
                self.lists.push(&mut entry.ordinals, ordinal_u32(ordinal));
            }
        }
        let is_unused = |id: &EntryId| self.entries[*id as usize].as_ref().is_some_and(|e| e.ordinals.is_empty());
        self.unused = (0..ordinal_u32(self.entries.len())).filter(is_unused).collect();
    }

    /// What is to be stored.
    pub fn stored(&self) -> AllocationBlock {
        let indices = self.indices();
        let numbers = self.numbers.iter().enumerate().filter(|(_, n)| **n != 0).map(|(o, n)| (o.to_string(), *n));
        let mut sequence_number_for_allocation = self.other_numbers.clone();
        sequence_number_for_allocation.extend(numbers);
        AllocationBlock {
            cidr: self.cidr,
            affinity: self.affinity.clone(),
            affinity_claim_time: self.claim_time.clone(),
            allocations: self.holders.iter().map(|id| indices.get(*id as usize).map(|i| *i as usize)).collect(),
            unallocated: self.lists.of(&self.free).map(|o| o as usize).collect(),
            attributes: self.entries.iter().flatten().map(|e| e.attribute.clone()).collect(),
            sequence_number: self.sequence_number,
            sequence_number_for_allocation,
            deleted: self.deleted,
            extra: self.extra.clone(),
        }
    }

    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Whose block this is.
    pub fn owner(&self) -> Option<AffinityOwner> {
        AffinityOwner::from_block_field(self.affinity.as_deref()?)
    }

    /// The owner as it is stored.
    pub fn affinity(&self) -> Option<&str> {
        self.affinity.as_deref()
    }

    /// Whether no address is taken; a cooling one is.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.holders.len()
    }

    /// How many addresses are free; a cooling one is not.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether an address cools down.
    pub fn is_cooling(&self) -> bool {
        !self.cooling.is_empty()
    }

    /// When the block was claimed, if that is known.
    pub fn claimed_at(&self) -> Option<Timestamp> {
        self.claim_time.as_deref()?.parse().ok()
    }

    /// The number of the last change.
    pub fn sequence_number(&self) -> u64 {
        self.sequence_number
    }

    /// Gives the block to another owner.
    pub fn set_owner(&mut self, owner: &AffinityOwner, now: Timestamp) {
        self.affinity = Some(owner.to_block_field());
        self.claim_time = Some(rfc3339(now));
        self.extra.shift_remove(HOST_AFFINITY);
        self.sequence_number += 1;
    }

    /// Leaves the block to nobody.
    pub fn clear_owner(&mut self) {
        self.affinity = None;
        self.claim_time = None;
        self.extra.shift_remove(HOST_AFFINITY);
        self.sequence_number += 1;
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
        let mut at = match self.reserved_before {
            Some((fingerprint, ordinal)) if fingerprint == reserved.fingerprint() => ordinal,
            _ => self.free.first(),
        };
        let mut taken = Vec::new();
        while at != NONE && taken.len() < want {
            let next = self.lists.after(at);
            if !reserved.contains(nth(self.cidr, at)) {
                self.lists.remove(&mut self.free, at);
                taken.push(at);
            }
            at = next;
        }
        self.reserved_before = Some((reserved.fingerprint(), at));
        self.mark(&taken, to);
        Ok(taken.into_iter().map(|o| nth(self.cidr, o)).collect())
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
        let ordinal = self.ordinal(ip).ok_or(BlockError::NotInBlock { ip, cidr: self.cidr })?;
        if self.holders[ordinal as usize] != NONE {
            return Err(BlockError::AlreadyAssigned(ip));
        }
        if let Some((_, before)) = self.reserved_before.as_mut().filter(|(_, before)| *before == ordinal) {
            *before = self.lists.after(ordinal);
        }
        self.lists.remove(&mut self.free, ordinal);
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
            self.numbers[ordinal as usize] = 0;
            self.let_go(ordinal);
            if cooldown.is_positive() {
                let id = *cooling.get_or_insert_with(|| {
                    let released_at = Some(rfc3339(now));
                    self.add_entry(AllocationAttribute { released_at, ..AllocationAttribute::default() })
                });
                self.point(ordinal, id);
            } else {
                self.queue(ordinal);
            }
        }
        if !released.is_empty() {
            self.has_shrunk();
        }
        released
    }

    /// Frees the addresses which have cooled down; whether there were any.
    pub fn thaw(&mut self, now: Timestamp, cooldown: SignedDuration) -> bool {
        let mut thawed = Vec::new();
        while let Some(&(at, id)) = self.cooling.first()
            && (at == Timestamp::MIN || now.duration_since(at) >= cooldown)
        {
            self.cooling.remove(&(at, id));
            let entry = self.entries[id as usize].as_ref();
            thawed.extend(entry.into_iter().flat_map(|e| self.lists.of(&e.ordinals)));
        }
        thawed.sort_unstable();
        for &ordinal in &thawed {
            self.let_go(ordinal);
            self.queue(ordinal);
        }
        if !thawed.is_empty() {
            self.has_shrunk();
        }
        !thawed.is_empty()
    }

    /// The addresses that a handle has here, in order.
    pub fn addresses_of(&self, handle: &str) -> Vec<IpAddr> {
        let of_handle = self.chain(handle).filter(|(_, e)| e.attribute.handle_id.as_deref() == Some(handle));
        let active = of_handle.filter(|(_, e)| e.attribute.released_at.is_none());
        let mut ordinals: Vec<u32> = active.flat_map(|(_, e)| self.lists.of(&e.ordinals)).collect();
        ordinals.sort_unstable();
        ordinals.into_iter().map(|o| nth(self.cidr, o)).collect()
    }

    /// The addresses that are taken (not those that cool down), and by whom.
    pub fn allocated(&self) -> impl Iterator<Item = (IpAddr, &AllocationAttribute)> {
        (0..ordinal_u32(self.holders.len()))
            .filter_map(|o| Some((nth(self.cidr, o), self.attribute_at(o)?)))
            .filter(|(_, a)| a.released_at.is_none())
    }

    /// Who has an address, or `None` when it is free or cools down.
    pub fn attribute_of(&self, ip: IpAddr) -> Option<&AllocationAttribute> {
        self.attribute_at(self.ordinal(ip)?).filter(|a| a.released_at.is_none())
    }

    /// The number that an allocation carries: with the attributes, it tells whether an allocation is the one that was written.
    pub fn sequence_of(&self, ip: IpAddr) -> Option<u64> {
        self.numbers.get(self.ordinal(ip)? as usize).copied().filter(|n| *n != 0)
    }

    fn check_owner(&self, strict: Option<&AffinityOwner>) -> Result<(), BlockError> {
        match strict {
            Some(asker) if self.owner().as_ref() != Some(asker) => Err(BlockError::NotOwner {
                cidr: self.cidr,
                owner: self.affinity.clone().unwrap_or_else(|| "nobody".into()),
            }),
            _ => Ok(()),
        }
    }

    /// Writes `to` on slots that have just left the queue. Equal attributes share one entry.
    fn mark(&mut self, ordinals: &[u32], to: Assignee<'_>) {
        if ordinals.is_empty() {
            return;
        }
        // The first in stored order, as a search from the front finds it.
        let found = self.chain(to.handle).filter(|(_, e)| to.owns(&e.attribute)).map(|(id, _)| id).min();
        let id = found.unwrap_or_else(|| {
            self.add_entry(AllocationAttribute {
                handle_id: Some(to.handle.to_string()),
                secondary: Some(to.attributes.clone()).filter(|a| !a.is_empty()),
                ..AllocationAttribute::default()
            })
        });
        self.unused.retain(|unused| *unused != id);
        for &ordinal in ordinals {
            self.point(ordinal, id);
            self.numbers[ordinal as usize] = self.sequence_number;
        }
        self.sequence_number += 1;
    }

    fn add_entry(&mut self, attribute: AllocationAttribute) -> EntryId {
        let id = ordinal_u32(self.entries.len());
        if let Some(text) = &attribute.released_at {
            // A time that cannot be read would hold the address for ever.
            self.cooling.insert((text.parse().unwrap_or(Timestamp::MIN), id));
        }
        let mut next = NONE;
        if let Some(handle) = &attribute.handle_id {
            next = self.by_handle.insert(hash(handle), id).unwrap_or(NONE);
        }
        if let Some(Some(newest)) = self.entries.get_mut(next as usize) {
            newest.previous = id;
        }
        self.entries_len += size::attribute_len(&attribute);
        self.entries.push(Some(Entry { attribute, ordinals: List::EMPTY, next, previous: NONE }));
        self.live += 1;
        id
    }

    fn remove_entry(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::take) else { return };
        self.live -= 1;
        self.entries_len -= size::attribute_len(&entry.attribute);
        if let Some(text) = &entry.attribute.released_at {
            self.cooling.remove(&(text.parse().unwrap_or(Timestamp::MIN), id));
        }
        if let Some(Some(next)) = self.entries.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        match (self.entries.get_mut(entry.previous as usize), &entry.attribute.handle_id) {
            (Some(Some(previous)), _) => previous.next = entry.next,
            (_, Some(handle)) if entry.next == NONE => drop(self.by_handle.remove(&hash(handle))),
            (_, Some(handle)) => drop(self.by_handle.insert(hash(handle), entry.next)),
            _ => {}
        }
    }

    /// The entries whose handle may be this one, newest first.
    fn chain(&self, handle: &str) -> impl Iterator<Item = (EntryId, &Entry)> {
        let mut at = self.by_handle.get(&hash(handle)).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?.as_ref()?;
            let id = std::mem::replace(&mut at, entry.next);
            Some((id, entry))
        })
    }

    /// Makes a slot, which is in no list, one of an entry's.
    fn point(&mut self, ordinal: u32, id: EntryId) {
        self.holders[ordinal as usize] = id;
        if let Some(Some(entry)) = self.entries.get_mut(id as usize) {
            self.lists.push(&mut entry.ordinals, ordinal);
        }
    }

    /// Takes a slot from its entry; the entry goes with its last.
    fn let_go(&mut self, ordinal: u32) {
        let id = std::mem::replace(&mut self.holders[ordinal as usize], NONE);
        if let Some(Some(entry)) = self.entries.get_mut(id as usize) {
            self.lists.remove(&mut entry.ordinals, ordinal);
            if entry.ordinals.is_empty() {
                self.remove_entry(id);
            }
        }
    }

    /// Puts a slot, which is in no list, at the tail of the queue.
    fn queue(&mut self, ordinal: u32) {
        self.lists.push(&mut self.free, ordinal);
        if let Some((_, before @ NONE)) = &mut self.reserved_before {
            *before = ordinal;
        }
    }

    /// After slots were freed: a change of its own, and nothing unused stays.
    fn has_shrunk(&mut self) {
        self.sequence_number += 1;
        for id in std::mem::take(&mut self.unused) {
            self.remove_entry(id);
        }
        if self.entries.len() - self.live > self.live + MIN_UNUSED {
            let indices = self.indices();
            for holder in &mut self.holders {
                *holder = indices.get(*holder as usize).copied().unwrap_or(NONE);
            }
            let attributes = std::mem::take(&mut self.entries).into_iter().flatten().map(|e| e.attribute).collect();
            // The order within an entry's list is nobody's concern.
            self.fill_entries(attributes);
        }
    }

    /// The stored index of each entry.
    fn indices(&self) -> Vec<u32> {
        let step = |next: &mut u32, entry: &Option<Entry>| {
            let index = *next;
            *next += u32::from(entry.is_some());
            Some(index)
        };
        self.entries.iter().scan(0, step).collect()
    }

    fn attribute_at(&self, ordinal: u32) -> Option<&AllocationAttribute> {
        let id = *self.holders.get(ordinal as usize)?;
        Some(&self.entries.get(id as usize)?.as_ref()?.attribute)
    }

    fn ordinal(&self, ip: IpAddr) -> Option<u32> {
        if !self.cidr.contains(&ip) {
            return None;
        }
        u32::try_from(to_number(ip) - to_number(self.cidr.network())).ok()
    }
}

/// As [`AllocationBlock`] is stored, field for field, without making one.
impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Stored<'a> {
            cidr: IpNet,
            affinity: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            affinity_claim_time: &'a Option<String>,
            #[serde(serialize_with = "allocations")]
            allocations: &'a Block,
            #[serde(serialize_with = "unallocated")]
            unallocated: &'a Block,
            #[serde(serialize_with = "attributes")]
            attributes: &'a Block,
            #[serde(rename = "sequenceNumber")]
            sequence_number: u64,
            #[serde(rename = "sequenceNumberForAllocation", serialize_with = "numbers")]
            numbers: &'a Block,
            deleted: bool,
            #[serde(flatten)]
            extra: &'a Map<String, Value>,
        }
        fn allocations<S: Serializer>(block: &Block, serializer: S) -> Result<S::Ok, S::Error> {
            let indices = block.indices();
            serializer.collect_seq(block.holders.iter().map(|id| indices.get(*id as usize)))
        }
        fn unallocated<S: Serializer>(block: &Block, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(block.lists.of(&block.free))
        }
        fn attributes<S: Serializer>(block: &Block, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(block.entries.iter().flatten().map(|e| &e.attribute))
        }
        fn numbers<S: Serializer>(block: &Block, serializer: S) -> Result<S::Ok, S::Error> {
            // Sorted as texts, as Calico's are.
            let known = block.numbers.iter().enumerate().filter(|(_, n)| **n != 0).map(|(o, n)| (o.to_string(), n));
            let mut all: Vec<(String, &u64)> =
                block.other_numbers.iter().map(|(text, n)| (text.clone(), n)).chain(known).collect();
            all.sort_unstable();
            serializer.collect_map(all)
        }
        Stored {
            cidr: self.cidr,
            affinity: &self.affinity,
            affinity_claim_time: &self.claim_time,
            allocations: self,
            unallocated: self,
            attributes: self,
            sequence_number: self.sequence_number,
            numbers: self,
            deleted: self.deleted,
            extra: &self.extra,
        }
        .serialize(serializer)
    }
}

/// Equal is what is stored equally.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.stored() == other.stored()
    }
}

/// Whose block a stored one is.
pub fn owner_of(stored: &AllocationBlock) -> Option<AffinityOwner> {
    AffinityOwner::from_block_field(stored.affinity.as_deref()?)
}

/// A time as blocks store it: RFC 3339, whole seconds that have passed, UTC.
pub fn rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
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

fn nth(cidr: IpNet, ordinal: u32) -> IpAddr {
    address_in(cidr, u128::from(ordinal))
}

fn ordinal_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a block has at most 4,096 addresses, and few entries more")
}

fn hash(handle: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    handle.hash(&mut hasher);
    hasher.finish()
}

fn size(cidr: IpNet) -> Result<usize, BlockError> {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    let size = 1usize.checked_shl(u32::from(bits)).unwrap_or(usize::MAX);
    if bits > 12 || size > MAX_ADDRESSES { Err(BlockError::TooLarge(cidr)) } else { Ok(size) }
}

#[cfg(test)]
mod tests;
