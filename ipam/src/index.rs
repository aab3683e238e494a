//! Which blocks exist, which of them have room, which are empty and whose they are: what an allocation must know of all blocks, in a
//! few hundred bytes for each. Pure.
//!
//! Every question costs the logarithm of the number of blocks. Blocks that meet are one run, so that a search for a free place steps
//! over a full part of a pool at once, however many blocks it has.

use std::collections::{BTreeMap, BTreeSet};

use api::Key;
use api::key::AffinityOwner;
use datastore::{KeyValue, Revision};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::block::{Block, address_in, to_number};
use crate::pool::{Family, Reservations};

/// Shortest and longest prefix of a block, by family.
const PREFIX_LENGTHS: [(Family, std::ops::RangeInclusive<u8>); 2] = [(Family::V4, 20..=32), (Family::V6, 116..=128)];

/// What the index keeps of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub owner: Option<AffinityOwner>,
    /// Addresses that are free now.
    pub free: usize,
    /// Whether an address cools down: it may be free by the time that is asked.
    pub is_cooling: bool,
    /// Whether nobody has an address of it.
    pub is_empty: bool,
    pub claimed_at: Option<Timestamp>,
}

impl Summary {
    pub fn of(block: &Block) -> Self {
        Self {
            owner: block.owner(),
            free: block.free(),
            is_cooling: block.is_cooling(),
            is_empty: block.is_empty() || block.is_cooling() && block.allocated().next().is_none(),
            claimed_at: block.claimed_at(),
        }
    }

    /// That of a stored block, without making the block; `None` where it cannot be read.
    pub fn read(kv: &KeyValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Lean {
            affinity: Option<String>,
            #[serde(rename = "hostAffinity", default)]
            host_affinity: Option<String>,
            #[serde(default)]
            affinity_claim_time: Option<String>,
            allocations: Vec<Option<u32>>,
            // Go writes null for a list that was never made.
            unallocated: Option<Vec<u32>>,
            attributes: Option<Vec<LeanAttribute>>,
        }
        #[derive(Deserialize)]
        struct LeanAttribute {
            #[serde(rename = "releasedAt", default)]
            released_at: Option<IgnoredAny>,
        }
        let lean: Lean = serde_json::from_slice(&kv.value).ok()?;
        let attributes = lean.attributes.unwrap_or_default();
        let is_cooling = |i: &u32| attributes.get(*i as usize).is_some_and(|a| a.released_at.is_some());
        let taken = || lean.allocations.iter().flatten();
        Some(Self {
            owner: match (lean.affinity, lean.host_affinity.filter(|h| !h.is_empty())) {
                (Some(affinity), _) => AffinityOwner::from_block_field(&affinity),
                (None, host) => host.map(AffinityOwner::Host),
            },
            free: lean.unallocated.map_or(0, |list| list.len()),
            is_cooling: taken().any(is_cooling),
            is_empty: taken().all(is_cooling),
            claimed_at: lean.affinity_claim_time.and_then(|t| t.parse().ok()),
        })
    }

    pub fn has_room(&self) -> bool {
        self.free > 0 || self.is_cooling
    }
}

/// Family, first address, prefix length: blocks in the order of their addresses.
type Place = (Family, u128, u8);

#[derive(Clone, Debug)]
struct Known {
    revision: Revision,
    /// `None` for a block that cannot be read, or of which only the key is known: it is in the way, and no more.
    summary: Option<Summary>,
}

/// The blocks of a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockIndex {
    blocks: BTreeMap<Place, Known>,
    /// First to last address of each stretch that blocks cover.
    runs: BTreeMap<(Family, u128), u128>,
    roomy: BTreeSet<Place>,
    empty: BTreeSet<Place>,
    owned: BTreeMap<AffinityOwner, Owned>,
}

/// The blocks that say they are an owner's.
#[derive(Clone, Debug, Default)]
struct Owned {
    all: BTreeSet<Place>,
    /// Those with room, by the text of their address: so the store lists them.
    roomy: BTreeSet<(String, Place)>,
}

impl BlockIndex {
    /// The index of a listing; of one without values it says only what is where.
    pub fn new(items: &[KeyValue]) -> Self {
        let mut index = Self::default();
        for kv in items {
            if let Key::IpamBlock(cidr) = kv.key {
                index.insert(cidr, kv.mod_revision, Summary::read(kv));
            }
        }
        index
    }

    /// Adds or replaces a block. One of a length that no block has is nobody's block.
    pub fn insert(&mut self, cidr: IpNet, revision: Revision, summary: Option<Summary>) {
        let place = place(&cidr);
        if !PREFIX_LENGTHS.iter().any(|(family, lengths)| *family == place.0 && lengths.contains(&place.2)) {
            return;
        }
        self.forget(place);
        if let Some(summary) = &summary {
            if summary.has_room() {
                self.roomy.insert(place);
            }
            if summary.is_empty {
                self.empty.insert(place);
            }
            if let Some(owner) = &summary.owner {
                let owned = self.owned.entry(owner.clone()).or_default();
                owned.all.insert(place);
                if summary.has_room() {
                    owned.roomy.insert((text(place), place));
                }
            }
        }
        if self.blocks.insert(place, Known { revision, summary }).is_none() {
            self.cover(place);
        }
    }

    pub fn remove(&mut self, cidr: &IpNet) {
        let place = place(cidr);
        self.forget(place);
        if self.blocks.remove(&place).is_some() {
            self.uncover(place);
        }
    }

    /// The revision at which a block is known.
    pub fn revision(&self, cidr: &IpNet) -> Option<Revision> {
        self.blocks.get(&place(cidr)).map(|k| k.revision)
    }

    pub fn summary(&self, cidr: &IpNet) -> Option<&Summary> {
        self.blocks.get(&place(cidr))?.summary.as_ref()
    }

    /// Whether a block is where this one is or would be.
    pub fn overlaps(&self, cidr: &IpNet) -> bool {
        self.run_in(Family::of(cidr), to_number(cidr.network()), to_number(cidr.broadcast())).is_some()
    }

    /// Whether a block shares addresses with another: Calico's clients could make such blocks, and what is free in one may be taken in
    /// the other.
    pub fn is_doubtful(&self, cidr: &IpNet) -> bool {
        let (family, first, length) = place(cidr);
        let last = to_number(cidr.broadcast());
        let inside =
            self.blocks.range((family, first, 0)..=(family, last, u8::MAX)).filter(|(p, _)| **p != place(cidr));
        inside.take(1).count() > 0 || self.around(family, first).any(|(_, _, l)| l < length)
    }

    /// The smallest block that holds an address.
    pub fn holding(&self, ip: std::net::IpAddr) -> Option<IpNet> {
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        self.around(family, to_number(ip)).max_by_key(|(_, _, length)| *length).map(net)
    }

    /// A place in a pool for a block of that length: the first after a seeded start, wrapping, where no block is, that is not
    /// reserved as a whole and not `taken`.
    pub fn first_free(
        &self,
        pool: IpNet,
        length: u8,
        seed: u64,
        reserved: &Reservations,
        taken: impl Fn(&IpNet) -> bool,
    ) -> Option<IpNet> {
        let start = start_of(pool, length, seed)?;
        let (first, last) = (to_number(pool.network()), to_number(pool.broadcast()));
        let gap = |from, to| self.first_gap(Family::of(&pool), length, (from, to), reserved, &taken);
        gap(start, last).or_else(|| if start == first { None } else { gap(first, start - 1) })
    }

    fn first_gap(
        &self,
        family: Family,
        length: u8,
        (mut at, to): (u128, u128),
        reserved: &Reservations,
        taken: &impl Fn(&IpNet) -> bool,
    ) -> Option<IpNet> {
        let size = 1u128.checked_shl(u32::from(bits(family).checked_sub(length)?))?;
        while at <= to {
            let end = at + (size - 1);
            let candidate = net((family, at, length));
            let stretch = reserved.stretch(family, at).filter(|last| *last >= end);
            let next = if let Some(last) = self.run_in(family, at, end) {
                // The next place that begins after the run.
                last.checked_add(size)? & !(size - 1)
            } else if let Some(last) = stretch {
                // The place that the first address after the stretch lies in.
                last.checked_add(1)? & !(size - 1)
            } else if taken(&candidate) {
                at.checked_add(size)?
            } else {
                return Some(candidate);
            };
            at = next;
        }
        None
    }

    /// The first block of a pool with room, from a seeded start, wrapping.
    pub fn first_roomy(&self, pool: IpNet, start: u128, suits: impl Fn(&IpNet) -> bool) -> Option<IpNet> {
        let trusted = |cidr: &IpNet| suits(cidr) && !self.is_doubtful(cidr);
        first_of(&self.roomy, pool, start, trusted)
    }

    /// The first block of a pool that nobody uses, from a seeded start, wrapping.
    pub fn first_empty(&self, pool: IpNet, start: u128, suits: impl Fn(&IpNet, &Summary) -> bool) -> Option<IpNet> {
        let suits = |cidr: &IpNet| self.summary(cidr).is_some_and(|s| suits(cidr, s)) && !self.is_doubtful(cidr);
        first_of(&self.empty, pool, start, suits)
    }

    /// The blocks that say they are an owner's.
    pub fn owned(&self, owner: &AffinityOwner) -> impl Iterator<Item = IpNet> {
        self.owned.get(owner).into_iter().flat_map(|o| &o.all).copied().map(net)
    }

    /// Those of them that have room, in the order in which the store lists them.
    pub fn roomy_of(&self, owner: &AffinityOwner) -> impl Iterator<Item = IpNet> {
        self.owned.get(owner).into_iter().flat_map(|o| &o.roomy).map(|(_, place)| net(*place))
    }

    /// Whether a block says it is this owner's.
    pub fn is_owned(&self, cidr: &IpNet, owner: &AffinityOwner) -> bool {
        self.summary(cidr).is_some_and(|s| s.owner.as_ref() == Some(owner))
    }

    /// Takes a block out of the sets that depend on its summary.
    fn forget(&mut self, place: Place) {
        self.roomy.remove(&place);
        self.empty.remove(&place);
        let summary = self.blocks.get(&place).and_then(|k| k.summary.as_ref());
        if let Some(summary) = summary
            && let Some(owner) = &summary.owner
            && let Some(owned) = self.owned.get_mut(owner)
        {
            owned.all.remove(&place);
            if summary.has_room() {
                owned.roomy.remove(&(text(place), place));
            }
            if owned.all.is_empty() {
                self.owned.remove(owner);
            }
        }
    }

    /// The blocks that hold an address.
    fn around(&self, family: Family, number: u128) -> impl Iterator<Item = Place> {
        let lengths = PREFIX_LENGTHS.iter().find(|(f, _)| *f == family).map(|(_, l)| l.clone());
        lengths.into_iter().flatten().filter_map(move |length| {
            let size = 1u128 << (bits(family) - length);
            let place = (family, number & !(size - 1), length);
            self.blocks.contains_key(&place).then_some(place)
        })
    }

    /// The end of the last run that has an address between these.
    fn run_in(&self, family: Family, first: u128, last: u128) -> Option<u128> {
        let ((f, _), end) = self.runs.range(..=(family, last)).next_back()?;
        (*f == family && *end >= first).then_some(*end)
    }

    fn cover(&mut self, (family, mut first, length): Place) {
        let mut last = first + ((1u128 << (bits(family) - length)) - 1);
        // Runs that overlap it or meet it become one with it.
        while let Some((&(f, start), &end)) = self.runs.range(..=(family, last.saturating_add(1))).next_back() {
            if f != family || end.saturating_add(1) < first {
                break;
            }
            self.runs.remove(&(f, start));
            first = first.min(start);
            last = last.max(end);
        }
        self.runs.insert((family, first), last);
    }

    fn uncover(&mut self, (family, first, length): Place) {
        let last = first + ((1u128 << (bits(family) - length)) - 1);
        if let Some((&(f, start), &end)) = self.runs.range(..=(family, first)).next_back()
            && f == family
            && end >= last
        {
            self.runs.remove(&(f, start));
            if start < first {
                self.runs.insert((f, start), first - 1);
            }
            if end > last {
                self.runs.insert((f, last + 1), end);
            }
        }
        // What other blocks cover of it, where blocks overlap.
        let inside: Vec<Place> =
            self.blocks.range((family, first, 0)..=(family, last, u8::MAX)).map(|(p, _)| *p).collect();
        let around: Vec<Place> = self.around(family, first).collect();
        inside.into_iter().chain(around).for_each(|p| self.cover(p));
    }
}

/// The first address of the place where the walk of a pool begins; `None` where a block is larger than the pool.
pub(crate) fn start_of(pool: IpNet, length: u8, seed: u64) -> Option<u128> {
    let most = length.checked_sub(pool.prefix_len()).filter(|_| length <= pool.max_prefix_len())?;
    let count = 1u128.checked_shl(u32::from(most)).unwrap_or(u128::MAX);
    let offset = (u128::from(seed) % count) << (pool.max_prefix_len() - length);
    Some(to_number(pool.network()) + offset)
}

fn first_of(set: &BTreeSet<Place>, pool: IpNet, start: u128, suits: impl Fn(&IpNet) -> bool) -> Option<IpNet> {
    let family = Family::of(&pool);
    let (first, last) = ((family, to_number(pool.network()), 0), (family, to_number(pool.broadcast()), u8::MAX));
    let start = (family, start, 0).clamp(first, last);
    let is_of_pool = |cidr: &IpNet| pool.contains(cidr) && suits(cidr);
    set.range(start..=last).chain(set.range(first..start)).copied().map(net).find(is_of_pool)
}

fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn text(place: Place) -> String {
    net(place).network().to_string()
}

fn place(cidr: &IpNet) -> Place {
    (Family::of(cidr), to_number(cidr.network()), cidr.prefix_len())
}

fn net((family, first, length): Place) -> IpNet {
    let zero: IpNet = match family {
        Family::V4 => std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into(),
        Family::V6 => std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED).into(),
    };
    IpNet::new(address_in(zero, first), length).expect("a place has a length of its family")
}

#[cfg(test)]
mod tests;
