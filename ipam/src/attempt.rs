//! One attempt of an allocation: a reading of the store or of what is followed, a choice for each of some requests, and one
//! transaction.
//!
//! The order of the choice is told in [`crate::assign`]. Nothing is written before [`Attempt::commit`].

mod given;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use api::ipam::{AffinityState, BlockAffinity, IpamHandle};
use api::key::{AffinityOwner, KeyRange};
use api::{IpPool, Key};
use datastore::KeyValue;
use futures::future::join_all;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::allocator::{
    Error, MAX_BYTES_PER_TXN, MAX_OPS_PER_TXN, Outcome, Versioned, completed_attributes, cooldown, decode,
    decode_block, in_block,
};
use crate::assign::{AssignRequest, Assignment, Context, shortfall};
use crate::block::{Assignee, Block, MAX_ATTRIBUTE_BYTES};
use crate::changes::{AffinityChange, Changes, HandleChange};
use crate::handle;
use crate::index::{BlockIndex, Summary, start_of};
use crate::pool::{self, Family, Wanted};
use crate::snapshot::{Affinities, Snapshot};

/// An empty block of another owner is left alone while its claim is younger: its first address may be on the way (Calico).
const RECLAIM_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Most untrue affinities that one attempt deletes; more are left to the next.
const MAX_CLEANUPS: usize = 16;
/// What one more block may cost: itself, its affinity, that of the owner before, the pool that it is made in.
const OPS_PER_BLOCK: usize = 4;
/// Blocks of the owner's that are read together.
const READ_AHEAD: usize = 8;

/// What one request gets in one attempt.
pub(crate) struct Part {
    pub got: Assignment,
    /// The transaction was full: the rest of it takes another.
    pub is_truncated: bool,
    shortfalls: Vec<String>,
}

impl Part {
    /// Whether it is less than was asked for.
    pub fn is_short(&self) -> bool {
        !self.shortfalls.is_empty()
    }

    /// What the request has got, and if that is all that it can, why it is less than it asked for.
    pub fn into_assignment(self) -> Assignment {
        let is_short = !self.is_truncated && !self.shortfalls.is_empty();
        Assignment { message: is_short.then(|| self.shortfalls.join("; ")), ..self.got }
    }
}

/// A request with what the choice needs of it.
struct Item<'a> {
    handle: &'a str,
    attributes: BTreeMap<String, String>,
    max_blocks: u32,
    pools: BTreeMap<Family, Vec<&'a IpPool>>,
}

impl<'a> Item<'a> {
    fn new(context: &'a Context<'_>, request: &'a AssignRequest, now: Timestamp) -> Result<Self, Error> {
        // Also for given addresses: a node that does not exist is gone to the collection.
        let node_labels = context.labels.as_ref().ok_or_else(|| Error::NoNode(context.owner_name().into()))?;
        let mut pools = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            if request.number(family) == 0 || !request.addresses.is_empty() {
                continue;
            }
            let wanted = Wanted {
                family,
                requested: request.pools(family),
                intended_use: request.intended_use,
                node: context.owner_name(),
                node_labels,
                namespace: request.namespace.as_ref(),
            };
            pools.insert(family, pool::select(&context.pools, &wanted)?);
        }
        let attributes = completed_attributes(&request.attributes, &context.owner, now);
        let item =
            Self { handle: handle::sanitized(&request.handle), attributes, max_blocks: request.max_blocks, pools };
        let size = item.assignee().stored_len();
        if size > MAX_ATTRIBUTE_BYTES {
            return Err(Error::AttributesTooLong { handle: item.handle.into(), size });
        }
        Ok(item)
    }

    fn pools(&self, family: Family) -> &[&'a IpPool] {
        self.pools.get(&family).map_or(&[], Vec::as_slice)
    }

    fn assignee(&self) -> Assignee<'_> {
        Assignee { handle: self.handle, attributes: &self.attributes }
    }
}

/// One reading, what to write in answer, and nothing written until [`Attempt::commit`].
pub(crate) struct Attempt<'a> {
    context: &'a Context<'a>,
    /// The time that addresses of this attempt carry, and of no other that could still happen.
    now: Timestamp,
    /// What is followed, where the owner's affinities are.
    snapshot: Option<Arc<Snapshot>>,
    affinities: Affinities,
    /// Blocks of these affinities that have nothing more to give, and whether they are the owner's.
    spent: BTreeMap<IpNet, bool>,
    /// What was read before it was needed, where nothing is followed: of the owner's blocks, and of the handles.
    blocks_ahead: HashMap<IpNet, Result<Option<Versioned<Block>>, Error>>,
    handles_ahead: HashMap<String, Result<Versioned<IpamHandle>, Error>>,
    /// Blocks that this attempt claims.
    claimed: Vec<IpNet>,
    /// Every block of the store, once it was needed and nothing is followed; by keys only until `listed` has values.
    index: Option<BlockIndex>,
    listed: Option<HashMap<IpNet, KeyValue>>,
    handles: BTreeMap<String, Versioned<IpamHandle>>,
    changes: Changes,
    /// Bytes of the blocks in `changes`.
    size: usize,
    cleanups: usize,
    /// Blocks that have given what they have.
    tried: BTreeSet<IpNet>,
    is_truncated: bool,
}

impl<'a> Attempt<'a> {
    /// Reads for an attempt with a number that none has of the call which could still happen; the affinities, where they are not known.
    pub async fn read(context: &'a Context<'a>, affinities: Option<Affinities>, number: usize) -> Result<Self, Error> {
        let affinities = match affinities {
            Some(affinities) => affinities,
            None => context.affinities().await?,
        };
        let nanosecond = SignedDuration::from_nanos(i64::try_from(number).unwrap_or(i64::MAX));
        Ok(Self {
            context,
            now: context.now.saturating_add(nanosecond).unwrap_or(context.now),
            snapshot: context.ipam.known().filter(|s| s.follows(&context.owner)).cloned(),
            affinities,
            spent: BTreeMap::new(),
            blocks_ahead: HashMap::new(),
            handles_ahead: HashMap::new(),
            claimed: vec![],
            index: None,
            listed: None,
            handles: BTreeMap::new(),
            changes: context.fence.changes(),
            size: 0,
            cleanups: 0,
            tried: BTreeSet::new(),
            is_truncated: false,
        })
    }

    /// Reads the handles of requests that are to be planned, together. Where the store is followed they are known, or taken for new.
    pub async fn read_handles(&mut self, handles: impl Iterator<Item = &str>) {
        let ipam = self.context.ipam;
        if ipam.known().is_some() || !ipam.store.has_transactions() {
            return;
        }
        let ids: BTreeSet<&str> = handles.take(MAX_OPS_PER_TXN).map(handle::sanitized).collect();
        let reads = join_all(ids.iter().map(|id| ipam.handle(id))).await;
        self.handles_ahead.extend(ids.into_iter().map(String::from).zip(reads));
    }

    /// Whether another request would not fit.
    pub fn is_full(&self) -> bool {
        let one_at_a_time = !self.context.ipam.store.has_transactions();
        let is_large = self.changes.blocks.len() > 1 && self.size >= MAX_BYTES_PER_TXN;
        !self.handles.is_empty() && (one_at_a_time || is_large || self.is_truncated || self.room() <= OPS_PER_BLOCK)
    }

    /// Whether a request for this handle is planned already.
    pub fn has_handle(&self, handle: &str) -> bool {
        self.handles.contains_key(handle::sanitized(handle))
    }

    /// Plans one request, which has got `before` so far.
    pub async fn assign(&mut self, request: &'a AssignRequest, before: Assignment) -> Result<Part, Error> {
        let item = Item::new(self.context, request, self.now)?;
        let counts = request.counts_existing || request.max_per_handle > 0;
        let mut known = match self.handles_ahead.remove(item.handle) {
            Some(read) => read?,
            None => self.context.ipam.new_handle(item.handle).await?,
        };
        if counts && known.revision > 0 && self.snapshot.is_some() {
            // What is followed may be a moment old: others may have given it more.
            known = self.context.ipam.stored_handle(item.handle).await?;
        }
        let mut got = if counts { self.existing(&item, &known).await? } else { Assignment::default() };
        // A read that is a moment old does not show what this call has written.
        before.v4.into_iter().chain(before.v6).for_each(|net| got.add(net));
        self.handles.insert(item.handle.into(), known);
        self.is_truncated = false;
        let mut shortfalls = Vec::new();
        for ip in &request.addresses {
            let has_it = got.v4.iter().chain(&got.v6).any(|net| net.addr() == *ip);
            if !has_it && !self.is_truncated {
                self.take_address(&item, *ip, request).await?.into_iter().for_each(|net| got.add(net));
            }
        }
        if !request.addresses.is_empty() {
            got.v4.retain(|net| request.addresses.contains(&net.addr()));
            got.v6.retain(|net| request.addresses.contains(&net.addr()));
            return Ok(Part { got, is_truncated: self.is_truncated, shortfalls });
        }
        for family in [Family::V4, Family::V6] {
            let asked = request.asked(family);
            let mut reasons = Vec::new();
            loop {
                let want = asked.saturating_sub(got.of(family).len());
                let taken = self.plan(&item, family, want, &mut reasons).await?;
                let is_done = want == 0 || taken.len() < want;
                // One that it had got before, and that somebody has released meanwhile, counts once.
                taken.into_iter().for_each(|net| got.add(net));
                if is_done {
                    break;
                }
            }
            shortfalls.extend(shortfall(family, asked, got.of(family).len(), &reasons));
        }
        Ok(Part { got, is_truncated: self.is_truncated, shortfalls })
    }

    /// What the handle has already.
    async fn existing(&self, item: &Item<'_>, handle: &Versioned<IpamHandle>) -> Result<Assignment, Error> {
        let mut existing = Assignment::default();
        for cidr in handle::blocks(&handle.value) {
            let Some(block) = self.context.ipam.peek(cidr).await? else { continue };
            block.value.addresses_of(item.handle).into_iter().for_each(|ip| existing.add(in_block(ip, cidr)));
        }
        Ok(existing)
    }

    async fn plan(
        &mut self,
        item: &Item<'_>,
        family: Family,
        want: usize,
        reasons: &mut Vec<String>,
    ) -> Result<Vec<IpNet>, Error> {
        let mut taken = Vec::new();
        if want == 0 {
            return Ok(taken);
        }
        let mut own = match self.snapshot.clone() {
            Some(snapshot) => self.take_followed(&snapshot, item, family, want, &mut taken).await?,
            None => self.take_listed(item, family, want, &mut taken).await?,
        };
        while taken.len() < want && !self.is_truncated && self.context.config.auto_allocate_blocks {
            if let Some(limit) = self.context.block_limit(item.max_blocks).filter(|l| own >= *l) {
                reasons.push(format!(
                    "Need to allocate an IPAM block but could not - limit of {limit} blocks reached for this node"
                ));
                break;
            }
            if self.is_without_room(0) {
                break;
            }
            let Some(claim) = self.claim(item, family).await? else { break };
            let cidr = claim.block.value.cidr();
            let from_new = self.take(item, claim.block, claim.is_as_read, want - taken.len())?;
            if !from_new.is_empty() {
                own += 1;
                self.claimed.push(cidr);
                self.changes.checks.extend(claim.check);
                if let Some((owner, at)) = claim.loser {
                    self.changes.affinity(&owner, cidr, AffinityChange::Delete(at));
                }
            }
            taken.extend(from_new);
        }
        if taken.len() < want && !self.context.config.strict_affinity {
            self.borrow(item, family, want, &mut taken).await?;
        }
        if taken.len() < want {
            reasons.push(if self.context.config.strict_affinity {
                "No more free affine blocks and strict affinity enabled".into()
            } else {
                let pools: Vec<String> = item.pools(family).iter().map(|p| p.body.spec.cidr.to_string()).collect();
                format!("No IPs available in pools: [{}]", pools.join(" "))
            });
        }
        Ok(taken)
    }

    /// Takes from the owner's blocks, which are known; how many they are, where more is needed and it matters.
    async fn take_followed(
        &mut self,
        snapshot: &Snapshot,
        item: &Item<'_>,
        family: Family,
        want: usize,
        taken: &mut Vec<IpNet>,
    ) -> Result<usize, Error> {
        while taken.len() < want
            && !self.is_truncated
            && let Some(cidr) = self.next_own(item, family)
        {
            self.take_own(item, cidr, want, taken).await?;
        }
        let is_done = taken.len() >= want || self.is_truncated;
        if is_done
            || self.context.block_limit(item.max_blocks).is_none() && snapshot.strays(&self.context.owner).is_empty()
        {
            return Ok(0);
        }
        let pools = item.pools(family);
        let is_wanted = |cidr: &IpNet| pools.iter().any(|p| p.body.spec.cidr.contains(cidr));
        let is_claimed = |cidr: &IpNet| self.affinities.contains_key(cidr);
        let mut own = self.ask(|i| i.owned(&self.context.owner).filter(|c| is_wanted(c) && is_claimed(c)).count());
        own += self.claimed.iter().filter(|c| is_wanted(c) && !is_claimed(c)).count();
        let mut strays = snapshot.strays(&self.context.owner);
        strays.retain(|cidr| is_wanted(cidr) && is_claimed(cidr));
        for cidr in strays {
            if taken.len() >= want || self.is_truncated || self.take_own(item, cidr, want, taken).await? {
                own += 1;
            }
        }
        Ok(own)
    }

    /// The next of the owner's blocks that may have room, in the store's order, then those of this attempt.
    fn next_own(&self, item: &Item<'_>, family: Family) -> Option<IpNet> {
        let pools = item.pools(family);
        let is_left = |cidr: &IpNet| {
            !self.spent.contains_key(cidr)
                && pools.iter().any(|p| p.body.spec.cidr.contains(cidr))
                && !self.context.reservations.covers(cidr)
        };
        let is_own = |cidr: &IpNet| is_left(cidr) && self.affinities.contains_key(cidr);
        let known = self.ask(|index| index.roomy_of(&self.context.owner).find(is_own));
        known.or_else(|| self.claimed.iter().copied().find(is_left))
    }

    /// Takes from the owner's blocks, which are read; how many they are.
    async fn take_listed(
        &mut self,
        item: &Item<'_>,
        family: Family,
        want: usize,
        taken: &mut Vec<IpNet>,
    ) -> Result<usize, Error> {
        let blocks = self.own_blocks(item, family);
        let mut own = 0;
        for (i, &cidr) in blocks.iter().enumerate() {
            if let Some(is_own) = self.spent.get(&cidr) {
                own += usize::from(*is_own);
            } else if taken.len() >= want || self.is_truncated || self.context.reservations.covers(&cidr) {
                own += 1;
            } else {
                self.read_ahead(&blocks[i..]).await;
                own += usize::from(self.take_own(item, cidr, want, taken).await?);
            }
        }
        Ok(own)
    }

    /// Reads the next of the owner's blocks together, once one was of no use.
    async fn read_ahead(&mut self, next: &[IpNet]) {
        let is_read = |cidr: &IpNet| self.blocks_ahead.contains_key(cidr) || self.changes.blocks.contains_key(cidr);
        if self.spent.is_empty() || next.first().is_none_or(is_read) {
            return;
        }
        let is_new = |cidr: &&IpNet| !is_read(cidr) && !self.spent.contains_key(*cidr);
        let wanted: Vec<IpNet> = next.iter().filter(is_new).take(READ_AHEAD).copied().collect();
        let reads = join_all(wanted.iter().map(|cidr| self.context.ipam.block(*cidr))).await;
        self.blocks_ahead.extend(wanted.into_iter().zip(reads));
    }

    /// The owner's blocks in the chosen pools, in the store's order.
    fn own_blocks(&self, item: &Item<'_>, family: Family) -> Vec<IpNet> {
        let pools = item.pools(family);
        let is_wanted = |cidr: &IpNet| pools.iter().any(|p| p.body.spec.cidr.contains(cidr));
        let mut own: Vec<IpNet> = self.affinities.keys().copied().filter(is_wanted).collect();
        // As texts: so the store lists them.
        own.sort_by_cached_key(|cidr| cidr.network().to_string());
        own.extend(self.claimed.iter().copied().filter(is_wanted));
        own
    }

    /// Takes from a block that an affinity gives to the owner, until there are `want`; whether the block is the owner's.
    async fn take_own(
        &mut self,
        item: &Item<'_>,
        cidr: IpNet,
        want: usize,
        taken: &mut Vec<IpNet>,
    ) -> Result<bool, Error> {
        let missing = want.saturating_sub(taken.len());
        let from_own = self.take_of(item, cidr, missing).await?;
        let is_own = from_own.is_some();
        let from_own = from_own.unwrap_or_default();
        if from_own.len() < missing && !self.is_truncated {
            self.spent.insert(cidr, is_own);
        }
        taken.extend(from_own);
        Ok(is_own)
    }

    /// Takes from a block that an affinity gives to the owner; `None` when the block is not the owner's. One that was never made
    /// (a crash between two writes) is made; where another owner has it, or a block of another size is in its place or would be
    /// today, the affinity goes.
    async fn take_of(&mut self, item: &Item<'_>, cidr: IpNet, want: usize) -> Result<Option<Vec<IpNet>>, Error> {
        let owner = &self.context.owner;
        if self.changes.blocks.contains_key(&cidr) {
            return self.take_more(item, cidr, want).map(Some);
        }
        let read = match self.blocks_ahead.remove(&cidr) {
            Some(read) => read,
            None => self.context.ipam.block(cidr).await,
        };
        let block = match read {
            Ok(Some(block)) => Some(block),
            Ok(None) => {
                self.need_keys().await?;
                let pool = item.pools(Family::of(&cidr)).iter().find(|p| p.body.spec.cidr.contains(&cidr)).copied();
                match pool.filter(|p| p.body.spec.block_prefix_len() == cidr.prefix_len() && self.is_free(&cidr)) {
                    Some(pool) => {
                        self.changes.checks.extend(unchanged(pool));
                        Some(self.new_block(cidr)?)
                    }
                    None => None,
                }
            }
            Err(Error::Store(error @ datastore::Error::Corrupt { .. })) => {
                tracing::warn!(%error, "a block is left out");
                return Ok(Some(vec![]));
            }
            Err(error) => return Err(error),
        };
        let present = match block {
            Some(block) if block.value.owner().as_ref() == Some(owner) => {
                return self.take(item, block, true, want).map(Some);
            }
            Some(block) => {
                let revision = block.revision;
                self.give_back(block);
                revision
            }
            None => 0,
        };
        if let Some(affinity) = self.affinities.get(&cidr)
            && self.cleanups < MAX_CLEANUPS
            && self.room() > OPS_PER_BLOCK
        {
            self.cleanups += 1;
            self.changes.untrue_affinity(owner, cidr, affinity.revision, present);
        }
        Ok(None)
    }

    /// A block that the owner may claim: one that does not exist; else its own that has no affinity; else one that lies empty with
    /// nobody, or with another owner whose claim is old enough.
    async fn claim(&mut self, item: &Item<'_>, family: Family) -> Result<Option<Claim>, Error> {
        self.need_keys().await?;
        for pool in item.pools(family) {
            let spec = &pool.body.spec;
            let length = spec.block_prefix_len();
            let (seed, reserved) = (self.context.seed(pool), &self.context.reservations);
            let is_taken = |cidr: &IpNet| self.tried.contains(cidr) || self.is_planned(cidr);
            let free = self.ask(|index| index.first_free(spec.cidr, length, seed, reserved, is_taken));
            if let Some(cidr) = free {
                self.tried.insert(cidr);
                let block = self.new_block(cidr)?;
                return Ok(Some(Claim { block, is_as_read: false, check: unchanged(pool), loser: None }));
            }
        }
        self.need_values().await?;
        loop {
            let Some(cidr) = self.claimable(item, family) else { return Ok(None) };
            self.tried.insert(cidr);
            let Some(mut block) = self.readable(cidr).await? else { continue };
            let has_thawed = block.value.thaw(self.context.now, cooldown(&self.context.config));
            let mut loser = None;
            let mut is_as_read = !has_thawed;
            match block.value.owner() {
                Some(owner) if owner == self.context.owner => {}
                other if !block.value.is_empty() || other.is_some() && !self.is_old(&block.value) => {
                    if !has_thawed {
                        self.give_back(block);
                    }
                    continue;
                }
                other => {
                    if let Some(owner) = other {
                        let kv = self.context.ipam.store.get(&Key::BlockAffinity(owner.clone(), cidr)).await?;
                        loser = kv.map(|kv| (owner, kv.mod_revision));
                    }
                    block.value.set_owner(&self.context.owner, self.context.now);
                    is_as_read = false;
                }
            }
            return Ok(Some(Claim { block, is_as_read, check: None, loser }));
        }
    }

    /// The next block that exists and may be claimed, by what the index says of it.
    fn claimable(&self, item: &Item<'_>, family: Family) -> Option<IpNet> {
        let is_new = |cidr: &IpNet| {
            !self.tried.contains(cidr) && !self.changes.blocks.contains_key(cidr) && !self.affinities.contains_key(cidr)
        };
        let pools = item.pools(family);
        let of_pools = |cidr: &IpNet| pools.iter().any(|p| p.body.spec.cidr.contains(cidr));
        self.ask(|index| {
            let has_room = |cidr: &IpNet| index.summary(cidr).is_some_and(Summary::has_room);
            let is_own = |cidr: &IpNet| is_new(cidr) && of_pools(cidr) && has_room(cidr) && !index.is_doubtful(cidr);
            let own = index.owned(&self.context.owner).find(is_own);
            own.or_else(|| {
                pools.iter().find_map(|pool| {
                    let is_left = |cidr: &IpNet, summary: &Summary| {
                        let now = self.context.now;
                        let old = summary.claimed_at.is_none_or(|at| now.duration_since(at) >= RECLAIM_AGE);
                        is_new(cidr) && (summary.owner.is_none() || old)
                    };
                    index.first_empty(pool.body.spec.cidr, self.start(pool), is_left)
                })
            })
        })
    }

    fn is_old(&self, block: &Block) -> bool {
        block.claimed_at().is_none_or(|at| self.context.now.duration_since(at) >= RECLAIM_AGE)
    }

    /// Takes free addresses wherever they are.
    async fn borrow(
        &mut self,
        item: &Item<'_>,
        family: Family,
        want: usize,
        taken: &mut Vec<IpNet>,
    ) -> Result<(), Error> {
        for pool in item.pools(family) {
            while taken.len() < want && !self.is_truncated && !self.is_without_room(0) {
                self.need_values().await?;
                let is_new = |cidr: &IpNet| !self.tried.contains(cidr);
                let next = self.ask(|index| index.first_roomy(pool.body.spec.cidr, self.start(pool), is_new));
                let Some(cidr) = next else { break };
                let missing = want - taken.len();
                let more = match self.changes.blocks.contains_key(&cidr) {
                    true => self.take_more(item, cidr, missing)?,
                    false => match self.readable(cidr).await? {
                        Some(block) => self.take(item, block, true, missing)?,
                        None => vec![],
                    },
                };
                if more.len() < missing {
                    self.tried.insert(cidr);
                }
                taken.extend(more);
            }
        }
        Ok(())
    }

    /// Takes up to `want` addresses of a block into the transaction, as many as it has addresses and bytes for. A block that gives none is
    /// given back to what is followed, if it is as it was read.
    fn take(
        &mut self,
        item: &Item<'_>,
        mut block: Versioned<Block>,
        is_as_read: bool,
        want: usize,
    ) -> Result<Vec<IpNet>, Error> {
        let context = self.context;
        let to = item.assignee();
        // A block whose bytes are spent costs no other block its place.
        let is_spent = block.value.fitting(want, to) == 0 && !block.value.is_cooling();
        let len = block.value.stored_len() + block.value.growth(want.min(block.value.free()), to);
        if is_spent || self.is_without_room(len) {
            if is_as_read {
                self.give_back(block);
            }
            return Ok(vec![]);
        }
        let has_thawed = block.value.thaw(context.now, cooldown(&context.config));
        let want = block.value.fitting(want, to);
        let taken = block.value.assign(want, to, &context.reservations, context.strict())?;
        let cidr = block.value.cidr();
        if !taken.is_empty() {
            self.record(item, block, taken.clone());
        } else if is_as_read && !has_thawed {
            self.give_back(block);
        }
        Ok(taken.into_iter().map(|ip| in_block(ip, cidr)).collect())
    }

    /// Takes up to `want` addresses of a block that is in the transaction.
    fn take_more(&mut self, item: &Item<'_>, cidr: IpNet, want: usize) -> Result<Vec<IpNet>, Error> {
        let (context, to, blocks) = (self.context, item.assignee(), self.changes.blocks.len());
        let Some(change) = self.changes.blocks.get_mut(&cidr) else { return Ok(vec![]) };
        let block = &mut change.block.value;
        let want = block.fitting(want.min(block.free()), to);
        let (before, growth) = (block.stored_len(), block.growth(want, to));
        if blocks > 1 && self.size + growth > MAX_BYTES_PER_TXN {
            self.is_truncated = true;
            return Ok(vec![]);
        }
        let taken = block.assign(want, to, &context.reservations, context.strict())?;
        change.taken.extend(&taken);
        self.size += block.stored_len() - before;
        let count = block.addresses_of(item.handle).len();
        if !taken.is_empty() {
            self.count(item.handle, cidr, count);
        }
        Ok(taken.into_iter().map(|ip| in_block(ip, cidr)).collect())
    }

    fn record(&mut self, item: &Item<'_>, block: Versioned<Block>, taken: Vec<IpAddr>) {
        let cidr = block.value.cidr();
        self.count(item.handle, cidr, block.value.addresses_of(item.handle).len());
        self.size += block.value.stored_len();
        self.changes.write(block, taken);
    }

    /// Sets what a handle has in a block.
    fn count(&mut self, id: &str, cidr: IpNet, count: usize) {
        let Some(known) = self.handles.get(id) else { return };
        let change = self.changes.handles.entry(id.into());
        let change = change.or_insert_with(|| HandleChange { before: known.clone(), after: known.value.clone() });
        handle::set(&mut change.after, cidr, count);
    }

    /// Operations that are left in the transaction.
    fn room(&self) -> usize {
        // A block, and its affinity.
        let used = self.changes.len() + self.changes.blocks.len();
        // The handle of the request that is being planned.
        MAX_OPS_PER_TXN.saturating_sub(used + 1)
    }

    /// Whether the transaction takes no further block, of so many bytes; then it is truncated.
    fn is_without_room(&mut self, next: usize) -> bool {
        let blocks = self.changes.blocks.len();
        let is_full = blocks >= self.context.ipam.max_blocks()
            || self.room() < OPS_PER_BLOCK
            || blocks > 0 && self.size + next > MAX_BYTES_PER_TXN;
        self.is_truncated |= is_full;
        is_full
    }

    /// A block that was read and is not changed.
    fn give_back(&self, block: Versioned<Block>) {
        if self.snapshot.is_some() {
            self.context.ipam.give_back(block);
        }
    }

    /// Whether no block is where this one would be, neither in the store nor in this transaction.
    fn is_free(&self, cidr: &IpNet) -> bool {
        self.ask(|index| !index.overlaps(cidr)) && !self.is_planned(cidr)
    }

    fn is_planned(&self, cidr: &IpNet) -> bool {
        self.changes.blocks.keys().any(|block| block.contains(cidr) || cidr.contains(block))
    }

    fn new_block(&self, cidr: IpNet) -> Result<Versioned<Block>, Error> {
        Ok(Versioned { value: Block::new(cidr, &self.context.owner, self.context.now)?, revision: 0 })
    }

    /// Where the walk of a pool begins.
    fn start(&self, pool: &IpPool) -> u128 {
        start_of(pool.body.spec.cidr, pool.body.spec.block_prefix_len(), self.context.seed(pool)).unwrap_or(0)
    }

    /// A block that can be read; one that cannot is logged, so that it stops nobody else.
    async fn readable(&self, cidr: IpNet) -> Result<Option<Versioned<Block>>, Error> {
        let block = match self.listed.as_ref().and_then(|listed| listed.get(&cidr)) {
            Some(kv) => decode_block(kv).map(Some),
            None => self.context.ipam.block(cidr).await,
        };
        match block {
            Err(Error::Store(error @ datastore::Error::Corrupt { .. })) => {
                tracing::warn!(%error, "a block is left out");
                Ok(None)
            }
            block => block,
        }
    }

    /// Makes [`Self::ask`] know which blocks exist, at least those that were made before the pools were read.
    async fn need_keys(&mut self) -> Result<(), Error> {
        let store = &self.context.ipam.store;
        match &self.snapshot {
            Some(snapshot) => {
                if let Some(doubts) = snapshot.doubts() {
                    snapshot.listed(&store.list(&KeyRange::Blocks).await?, doubts);
                }
            }
            None if self.index.is_none() => {
                self.index = Some(BlockIndex::new(&store.list_keys(&KeyRange::Blocks).await?.items));
            }
            None => {}
        }
        Ok(())
    }

    /// Makes [`Self::ask`] know which blocks have room and whose they are.
    async fn need_values(&mut self) -> Result<(), Error> {
        if self.snapshot.is_some() {
            return self.need_keys().await;
        }
        if self.listed.is_none() {
            let items = self.context.ipam.store.list(&KeyRange::Blocks).await?.items;
            self.index = Some(BlockIndex::new(&items));
            let keyed = |kv: KeyValue| match kv.key {
                Key::IpamBlock(cidr) => Some((cidr, kv)),
                _ => None,
            };
            self.listed = Some(items.into_iter().filter_map(keyed).collect());
        }
        Ok(())
    }

    fn ask<T>(&self, question: impl FnOnce(&BlockIndex) -> T) -> T {
        match (&self.index, &self.snapshot) {
            (Some(index), _) => question(index),
            (None, Some(snapshot)) => snapshot.ask(question),
            (None, None) => question(&BlockIndex::default()),
        }
    }

    /// The handles that get addresses, and are written therefore.
    pub fn handles(&self) -> BTreeSet<String> {
        self.changes.handles.keys().cloned().collect()
    }

    /// Writes what was taken, if anything was.
    pub async fn commit(mut self) -> Result<Outcome, Error> {
        if self.changes.blocks.is_empty() {
            return Ok(Outcome::Done);
        }
        let owner = &self.context.owner;
        let own = self.changes.blocks.iter().filter(|(_, c)| c.block.value.owner().as_ref() == Some(owner));
        let own: Vec<(IpNet, bool)> = own.map(|(cidr, change)| (*cidr, change.block.revision == 0)).collect();
        for (cidr, is_new) in own {
            // One that was to go, because its block was not there, stays with the block that is made now.
            let goes = self.changes.affinities.contains_key(&(owner.clone(), cidr));
            match self.affinities.get(&cidr) {
                Some(affinity)
                    if affinity.value.state == AffinityState::Confirmed && !affinity.value.deleted && !goes =>
                {
                    // No revision of a block that is not there says that the affinity is still there.
                    if is_new {
                        self.changes.checks.insert(Key::BlockAffinity(owner.clone(), cidr), affinity.revision);
                    }
                }
                known => {
                    let change = AffinityChange::Confirm(known.cloned());
                    self.changes.affinity(owner, cidr, change);
                }
            }
        }
        // What is followed has the only reference then, and changes it in place.
        drop(self.affinities);
        self.context.ipam.write_changes(self.changes).await
    }
}

/// A block that is to become the owner's.
struct Claim {
    block: Versioned<Block>,
    /// Nothing of it was changed for the claim.
    is_as_read: bool,
    /// Of a block that is made: the pool must be as it was.
    check: Option<(Key, datastore::Revision)>,
    /// Whose it was, and the revision of that affinity.
    loser: Option<(AffinityOwner, datastore::Revision)>,
}

/// The condition that a pool is as it was read: with another block size, a new block could overlap another's.
fn unchanged(pool: &IpPool) -> Option<(Key, datastore::Revision)> {
    let revision = pool.metadata.resource_version.as_deref()?.parse().ok()?;
    Some((pool.key(), revision))
}

/// An affinity. Calico's oldest forms, an empty value and an empty string, mean confirmed. One that cannot be read still says by its
/// key whose block it is: it counts as pending, and is written anew with the next allocation.
pub(crate) fn decode_affinity(kv: &KeyValue) -> Versioned<BlockAffinity> {
    let as_state = |state| Versioned { value: BlockAffinity::new(state), revision: kv.mod_revision };
    if matches!(kv.value.as_slice(), b"" | b"\"\"") {
        return as_state(AffinityState::Confirmed);
    }
    decode(kv).unwrap_or_else(|error| {
        tracing::warn!(%error, "an affinity is taken as pending");
        as_state(AffinityState::Pending)
    })
}
