//! One attempt of an allocation: a reading of the store, a choice, and one transaction.
//!
//! The order of the choice is told in [`crate::assign`]. Nothing is written before [`Attempt::commit`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AffinityState, BlockAffinity, IpamHandle};
use api::key::KeyRange;
use api::{IpPool, Key};
use datastore::{KeyValue, Op};
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::allocator::{
    Error, MAX_BLOCKS_PER_TXN, Outcome, Versioned, cooldown, decode, encode, happened, in_block, readable_block,
    write_block, write_handle,
};
use crate::assign::{Assignment, Context};
use crate::block::{Block, BlockError, to_number};
use crate::handle;
use crate::pool::{BlockWalk, Family};

/// An empty block of another owner is left alone while its claim is younger: its first address may be on the way (Calico).
const RECLAIM_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Most untrue affinities that one attempt deletes; more are left to the next. With three operations for each of
/// [`MAX_BLOCKS_PER_TXN`] blocks and one for the handle, a transaction stays below etcd's 128 operations.
const MAX_CLEANUPS: usize = 16;

/// What one family gets in one attempt.
#[derive(Default)]
pub(crate) struct Plan {
    pub taken: Vec<IpNet>,
    /// Why it is less than wanted.
    pub reasons: Vec<String>,
}

/// A block that this attempt writes, and what it takes from it.
struct Change {
    block: Versioned<Block>,
    taken: Vec<IpAddr>,
}

/// One reading of the store, what to write in answer, and nothing written until [`Attempt::commit`].
pub(crate) struct Attempt<'a> {
    context: &'a Context<'a>,
    handle: Versioned<IpamHandle>,
    affinities: Vec<(IpNet, Versioned<BlockAffinity>)>,
    /// Every block of the store, once it was needed.
    all: Option<AllBlocks>,
    changes: BTreeMap<IpNet, Change>,
    /// Affinities that the changes make untrue.
    cleanups: Vec<Op>,
    /// Blocks that gave nothing, not to be tried again.
    tried: BTreeSet<IpNet>,
    /// The transaction is full: commit, and read again for the rest.
    pub truncated: bool,
}

impl<'a> Attempt<'a> {
    pub async fn read(context: &'a Context<'a>) -> Result<Self, Error> {
        Ok(Self {
            context,
            handle: context.ipam.handle(&context.handle).await?,
            affinities: context.affinities().await?,
            all: None,
            changes: BTreeMap::new(),
            cleanups: vec![],
            tried: BTreeSet::new(),
            truncated: false,
        })
    }

    /// What the handle has already.
    pub async fn existing(&self) -> Result<Assignment, Error> {
        let mut existing = Assignment::default();
        for cidr in handle::blocks(&self.handle.value) {
            let Some(block) = self.context.ipam.block(cidr).await? else { continue };
            let addresses = block.value.addresses_of(&self.context.handle).into_iter().map(|ip| in_block(ip, cidr));
            match Family::of(&cidr) {
                Family::V4 => existing.v4.extend(addresses),
                Family::V6 => existing.v6.extend(addresses),
            }
        }
        Ok(existing)
    }

    pub async fn plan(&mut self, family: Family, want: usize) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        if want == 0 {
            return Ok(plan);
        }
        let mut own = 0;
        for cidr in self.own_blocks(family) {
            if plan.taken.len() >= want || self.context.reservations.covering(&cidr).is_some() {
                own += 1;
            } else if let Some(taken) = self.take_own(cidr, want - plan.taken.len()).await? {
                own += 1;
                plan.taken.extend(taken);
            }
        }
        while plan.taken.len() < want && !self.truncated && self.context.config.auto_allocate_blocks {
            if let Some(limit) = self.context.block_limit().filter(|l| own >= *l) {
                plan.reasons.push(format!(
                    "Need to allocate an IPAM block but could not - limit of {limit} blocks reached for this node"
                ));
                break;
            }
            let cleanups = self.cleanups.len();
            let Some(block) = self.claim(family).await? else { break };
            let taken = self.take(block, want - plan.taken.len())?;
            if taken.is_empty() {
                // All of it is reserved, or the transaction is full: the claim is not made.
                self.cleanups.truncate(cleanups);
            } else {
                own += 1;
            }
            plan.taken.extend(taken);
        }
        if plan.taken.len() < want && !self.context.config.strict_affinity {
            self.borrow(family, want, &mut plan).await?;
        }
        if plan.taken.len() < want {
            plan.reasons.push(if self.context.config.strict_affinity {
                "No more free affine blocks and strict affinity enabled".into()
            } else {
                let pools: Vec<String> =
                    self.context.pools(family).iter().map(|p| p.body.spec.cidr.to_string()).collect();
                format!("No IPs available in pools: [{}]", pools.join(" "))
            });
        }
        Ok(plan)
    }

    /// The owner's blocks in the chosen pools, in the store's order.
    fn own_blocks(&self, family: Family) -> Vec<IpNet> {
        let pools = self.context.pools(family);
        let cidrs = self.affinities.iter().map(|(cidr, _)| *cidr);
        cidrs.filter(|cidr| pools.iter().any(|p| p.body.spec.cidr.contains(cidr))).collect()
    }

    /// Takes from a block that an affinity gives to the owner; `None` when the block is not the owner's. One that was never made
    /// (a crash of Calico's between its two writes) is made; where another owner has it, or a block of another size is in its
    /// place, the affinity goes.
    async fn take_own(&mut self, cidr: IpNet, want: usize) -> Result<Option<Vec<IpNet>>, Error> {
        self.tried.insert(cidr);
        let block = match self.context.ipam.block(cidr).await {
            Ok(Some(block)) => Some(block),
            Ok(None) => {
                self.read_all().await?;
                if self.is_free(&cidr) { Some(self.new_block(cidr)?) } else { None }
            }
            Err(Error::Store(error @ datastore::Error::Corrupt { .. })) => {
                tracing::warn!(%error, "a block is left out");
                return Ok(Some(vec![]));
            }
            Err(error) => return Err(error),
        };
        if let Some(block) = block
            && block.value.owner().as_ref() == Some(&self.context.owner)
        {
            return self.take(block, want).map(Some);
        }
        if let Some((_, affinity)) = self.affinities.iter().find(|(c, _)| *c == cidr)
            && self.cleanups.len() < MAX_CLEANUPS
        {
            let key = Key::BlockAffinity(self.context.owner.clone(), cidr);
            self.cleanups.push(Op::Delete(key, Some(affinity.revision)));
        }
        Ok(None)
    }

    /// A block that the owner may claim: one that does not exist; else its own that has no affinity; else one that lies empty with
    /// nobody, or with another owner whose claim is old enough.
    async fn claim(&mut self, family: Family) -> Result<Option<Versioned<Block>>, Error> {
        self.read_all().await?;
        let pools = self.context.pools(family);
        let free = pools.iter().find_map(|pool| {
            let spec = &pool.body.spec;
            let mut walk = BlockWalk::new(spec.cidr, spec.block_prefix_len(), self.context.seed(pool));
            walk.find_outside(&self.context.reservations, |cidr| !self.tried.contains(cidr) && self.is_free(cidr))
        });
        if let Some(cidr) = free {
            self.tried.insert(cidr);
            return self.new_block(cidr).map(Some);
        }
        let Some(all) = &self.all else { return Ok(None) };
        let found = pools.iter().flat_map(|p| all.of(p.body.spec.cidr, self.context.seed(p))).find_map(|kv| {
            let mut block = readable_block(kv).filter(|b| !self.tried.contains(&b.value.cidr()))?;
            block.value.thaw(self.context.now, cooldown(&self.context.config));
            self.may_claim(&block.value).then_some(block)
        });
        let Some(mut block) = found else { return Ok(None) };
        let cidr = block.value.cidr();
        self.tried.insert(cidr);
        match block.value.owner() {
            Some(owner) if owner == self.context.owner => {}
            other => {
                if let Some(other) = other {
                    let key = Key::BlockAffinity(other, cidr);
                    if let Some(kv) = self.context.ipam.store.get(&key).await? {
                        self.cleanups.push(Op::Delete(key, Some(kv.mod_revision)));
                    }
                }
                block.value.set_owner(&self.context.owner, self.context.now);
            }
        }
        Ok(Some(block))
    }

    /// Whether no block is where this one would be, neither in the store nor in this transaction.
    fn is_free(&self, cidr: &IpNet) -> bool {
        let overlaps = |block: &IpNet| block.contains(cidr) || cidr.contains(block);
        self.all.as_ref().is_some_and(|all| !all.overlaps(cidr)) && !self.changes.keys().any(overlaps)
    }

    fn may_claim(&self, block: &Block) -> bool {
        let old = block.claimed_at().is_none_or(|at| self.context.now.duration_since(at) >= RECLAIM_AGE);
        match block.owner() {
            Some(owner) if owner == self.context.owner => true,
            Some(_) => block.is_empty() && old,
            None => block.is_empty(),
        }
    }

    /// Takes free addresses wherever they are.
    async fn borrow(&mut self, family: Family, want: usize, plan: &mut Plan) -> Result<(), Error> {
        self.read_all().await?;
        let Some(all) = self.all.take() else { return Ok(()) };
        let context = self.context;
        for kv in context.pools(family).iter().flat_map(|p| all.of(p.body.spec.cidr, context.seed(p))) {
            if plan.taken.len() >= want || self.truncated {
                break;
            }
            let Some(block) = readable_block(kv) else { continue };
            if !self.changes.contains_key(&block.value.cidr()) {
                plan.taken.extend(self.take(block, want - plan.taken.len())?);
            }
        }
        self.all = Some(all);
        Ok(())
    }

    /// Takes up to `want` addresses of a block into the transaction.
    fn take(&mut self, mut block: Versioned<Block>, want: usize) -> Result<Vec<IpNet>, Error> {
        let context = self.context;
        if self.changes.len() >= MAX_BLOCKS_PER_TXN {
            self.truncated = true;
            return Ok(vec![]);
        }
        block.value.thaw(context.now, cooldown(&context.config));
        let taken = block.value.assign(want, context.assignee(), &context.reservations, context.strict())?;
        let cidr = block.value.cidr();
        let nets = taken.iter().map(|&ip| in_block(ip, cidr)).collect();
        self.record(block, taken);
        Ok(nets)
    }

    /// Takes one given address, where no block is yet from one at `cidr`; the address with the mask of its block. Nothing is to be
    /// written when the handle has it already.
    pub async fn take_address(&mut self, ip: IpAddr, cidr: IpNet, pools: &[IpPool]) -> Result<IpNet, Error> {
        let context = self.context;
        let mut block = match context.ipam.block_with(ip, pools).await? {
            Some(block) => block,
            None => {
                self.read_all().await?;
                if self.all.as_ref().is_some_and(|all| all.overlaps(&cidr)) {
                    let reason = "a smaller block of an older pool lies in it".into();
                    return Err(BlockError::Inconsistent { cidr, reason }.into());
                }
                self.new_block(cidr)?
            }
        };
        if block.value.attribute_of(ip).is_some_and(|a| a.handle_id.as_deref() == Some(&context.handle)) {
            return Ok(in_block(ip, block.value.cidr()));
        }
        block.value.thaw(context.now, cooldown(&context.config));
        block.value.assign_address(ip, context.assignee(), context.strict())?;
        let net = in_block(ip, block.value.cidr());
        self.record(block, vec![ip]);
        Ok(net)
    }

    fn record(&mut self, block: Versioned<Block>, taken: Vec<IpAddr>) {
        if !taken.is_empty() {
            let cidr = block.value.cidr();
            handle::set(&mut self.handle.value, cidr, block.value.addresses_of(&self.context.handle).len());
            self.changes.insert(cidr, Change { block, taken });
        }
    }

    fn new_block(&self, cidr: IpNet) -> Result<Versioned<Block>, Error> {
        Ok(Versioned { value: Block::new(cidr, &self.context.owner, self.context.now)?, revision: 0 })
    }

    async fn read_all(&mut self) -> Result<(), Error> {
        if self.all.is_none() {
            self.all = Some(AllBlocks::new(self.context.ipam.store.list(&KeyRange::Blocks).await?.items));
        }
        Ok(())
    }

    /// The whole allocation as one transaction.
    fn ops(&self) -> Vec<Op> {
        let owner = &self.context.owner;
        let mut ops = Vec::new();
        for (cidr, change) in &self.changes {
            ops.push(write_block(&change.block));
            if change.block.value.owner().as_ref() == Some(owner) {
                let known = self.affinities.iter().find(|(c, _)| c == cidr).map(|(_, a)| a);
                ops.extend(confirm(Key::BlockAffinity(owner.clone(), *cidr), known));
            }
        }
        ops.extend(self.cleanups.iter().cloned());
        ops.extend(write_handle(&self.context.handle, &self.handle));
        ops
    }

    /// Writes what was taken, if anything was. An unknown outcome is read back.
    pub async fn commit(&self) -> Result<Outcome, Error> {
        if self.changes.is_empty() {
            return Ok(Outcome::Done);
        }
        match self.context.ipam.write(self.ops()).await? {
            Outcome::Retry(error @ datastore::Error::Unknown(_)) => {
                for (cidr, change) in &self.changes {
                    let read = self.context.ipam.block(*cidr).await?;
                    if !read.is_some_and(|r| happened(&r.value, &change.block.value, &change.taken)) {
                        return Ok(Outcome::Retry(error));
                    }
                }
                Ok(Outcome::Done)
            }
            outcome => Ok(outcome),
        }
    }
}

/// The write that makes an affinity confirmed, unless it is.
fn confirm(key: Key, known: Option<&Versioned<BlockAffinity>>) -> Option<Op> {
    let confirmed = BlockAffinity { state: AffinityState::Confirmed, deleted: false };
    match known {
        Some(affinity) if affinity.value == confirmed => None,
        Some(affinity) => Some(Op::Update(key, encode(&confirmed), affinity.revision)),
        None => Some(Op::Create(key, encode(&confirmed))),
    }
}

/// An affinity. Calico's oldest forms, an empty value and an empty string, mean confirmed. One that cannot be read still says by its
/// key whose block it is: it counts as pending, and is written anew with the next allocation.
pub(crate) fn decode_affinity(kv: &KeyValue) -> Versioned<BlockAffinity> {
    let as_state = |state| Versioned { value: BlockAffinity { state, deleted: false }, revision: kv.mod_revision };
    if matches!(kv.value.as_slice(), b"" | b"\"\"") {
        return as_state(AffinityState::Confirmed);
    }
    decode(kv).unwrap_or_else(|error| {
        tracing::warn!(%error, "an affinity is taken as pending");
        as_state(AffinityState::Pending)
    })
}

/// Every block of the store by family and first address. Blocks never overlap: a new one is not made where one is.
struct AllBlocks(BTreeMap<(Family, u128), KeyValue>);

impl AllBlocks {
    fn new(items: Vec<KeyValue>) -> Self {
        let keyed = items.into_iter().filter_map(|kv| match kv.key {
            Key::IpamBlock(cidr) => Some(((Family::of(&cidr), to_number(cidr.network())), kv)),
            _ => None,
        });
        Self(keyed.collect())
    }

    fn overlaps(&self, cidr: &IpNet) -> bool {
        let family = Family::of(cidr);
        let last = (family, to_number(cidr.broadcast()));
        match self.0.range(..=last).next_back() {
            Some(((f, _), KeyValue { key: Key::IpamBlock(block), .. })) => {
                *f == family && to_number(block.broadcast()) >= to_number(cidr.network())
            }
            _ => false,
        }
    }

    /// The blocks of a pool, from a seeded start, wrapping.
    fn of(&self, pool: IpNet, seed: u64) -> impl Iterator<Item = &KeyValue> {
        let family = Family::of(&pool);
        let range = (family, to_number(pool.network()))..=(family, to_number(pool.broadcast()));
        let blocks: Vec<&KeyValue> = self.0.range(range).map(|(_, kv)| kv).collect();
        let start = usize::try_from(seed).unwrap_or(0).checked_rem(blocks.len()).unwrap_or(0);
        let (before, from) = blocks.split_at(start);
        from.iter().chain(before).copied().collect::<Vec<_>>().into_iter()
    }
}
