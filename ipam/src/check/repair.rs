//! What mends a problem: writes that are conditional on everything they were planned on, so that they happen to what was seen or not at
//! all. Nothing that anybody uses is ever touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AffinityState, AllocationBlock, BlockAffinity, IpamHandle, attr};
use api::key::{AffinityOwner, Key};
use datastore::{Op, Revision};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::snapshot::Snapshot;
use super::{Allocation, Findings, Problem, fault};
use crate::allocator::encode;
use crate::block::{Block, owner_of};
use crate::changes::in_state;

/// How old an allocation that nobody uses must be before it is released: a workload is seen only after its address is assigned (Calico
/// `leakGracePeriod`).
pub const LEAK_GRACE: SignedDuration = SignedDuration::from_mins(15);
/// How old it must be while the datastore is locked: who asked before may still be at it.
const LOCKED_GRACE: SignedDuration = SignedDuration::from_mins(2);
/// Most addresses that one transaction releases: each may change a handle of its own, and etcd takes 128 operations by default.
const MAX_RELEASES: usize = 64;

/// What is known beside the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The datastore is locked: nobody assigns anything anew.
    pub is_locked: bool,
    /// How long a released address is kept from being assigned again.
    pub cooldown: SignedDuration,
}

/// What to do about one problem, or about several addresses of one block.
#[derive(Clone, Debug, PartialEq)]
pub struct Mend {
    /// What is done: `delete handle x`.
    pub what: String,
    pub ops: Vec<Op>,
}

/// A problem that is left.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    pub problem: Problem,
    /// Why, and what the operator can do.
    pub why: String,
}

/// What can be mended now, and what cannot. No two mends write the same record: what has to wait for another mend comes up in the next
/// round, when all is read again.
pub fn plan(snapshot: &Snapshot, findings: &Findings, circumstances: Circumstances) -> (Vec<Mend>, Vec<Left>) {
    let mut planner = Planner {
        snapshot,
        findings,
        circumstances,
        mends: Vec::new(),
        written: BTreeSet::new(),
        checked: BTreeSet::new(),
    };
    let mut left = Vec::new();
    // Blocks first: what they say decides about all else.
    let is_block = |p: &&Problem| matches!(p, Problem::InvalidBlock { .. });
    let (first, rest): (Vec<&Problem>, Vec<&Problem>) = findings.problems.iter().partition(is_block);
    let mut leaks: BTreeMap<IpNet, Vec<&Allocation>> = BTreeMap::new();
    for problem in first.into_iter().chain(rest) {
        match planner.mend(problem, &mut leaks) {
            Ok(()) => {}
            Err(why) => left.push(Left { problem: problem.clone(), why: why.into() }),
        }
    }
    left.sort_by(|a: &Left, b| a.problem.cmp(&b.problem));
    for (block, allocations) in leaks {
        planner.release(block, &allocations);
    }
    (planner.mends, left)
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    findings: &'a Findings,
    circumstances: Circumstances,
    mends: Vec<Mend>,
    /// What mends write, and what they are conditional on.
    written: BTreeSet<Key>,
    checked: BTreeSet<Key>,
}

impl<'a> Planner<'a> {
    /// Plans one mend, or says why there is none.
    fn mend(
        &mut self,
        problem: &Problem,
        leaks: &mut BTreeMap<IpNet, Vec<&'a Allocation>>,
    ) -> Result<(), &'static str> {
        match problem {
            Problem::Leaked { .. } | Problem::BlockOfMissingNode { .. }
                if self.snapshot.unreadable_user().is_some() =>
            {
                Err(
                    "the record of a node, workload or service cannot be read, and it may use this; put that right first",
                )
            }
            Problem::ServiceUnknown { .. } => Err("the Services of Calico on etcd are in Kubernetes; ask there"),
            Problem::Leaked { ip, block, .. } => {
                let all = self.findings.allocations.get(ip).map(Vec::as_slice).unwrap_or_default();
                let Some(allocation) = all.iter().find(|a| a.block == *block) else { return Ok(()) };
                self.may_release(allocation)?;
                leaks.entry(*block).or_default().push(allocation);
                Ok(())
            }
            Problem::HandleLeaked { .. } | Problem::HandleCount { .. } if self.findings.handles_uncertain => {
                Err("what a block says of whom has which address is lost, and it may be this handle's")
            }
            Problem::HandleLeaked { handle } => {
                let revision = self.snapshot.handles.get(handle).map_or(0, |h| h.revision);
                let op = Op::Delete(Key::IpamHandle(handle.clone()), Some(revision));
                self.add(format!("delete handle {handle}, which has no address"), vec![op])
            }
            Problem::HandleMissing { handle, actual } => {
                let mut ops = vec![Op::Create(Key::IpamHandle(handle.clone()), counts(actual, None))];
                ops.extend(self.unchanged(actual));
                self.add(format!("make handle {handle}, which blocks name"), ops)
            }
            Problem::HandleCount { handle, actual, .. } => {
                let Some(known) = self.snapshot.handles.get(handle) else { return Ok(()) };
                let value = counts(actual, Some(&known.value));
                let mut ops = vec![Op::Update(Key::IpamHandle(handle.clone()), value, known.revision)];
                ops.extend(self.unchanged(actual));
                self.add(format!("count the addresses of handle {handle}"), ops)
            }
            Problem::InvalidBlock { block, .. } => {
                let Some(stored) = self.snapshot.blocks.get(block) else { return Ok(()) };
                let mended = fault::mended(&stored.value, self.snapshot.now)
                    .ok_or("what it says of whom has which address is lost; recreate the workloads that use it")?;
                let op = Op::Update(Key::IpamBlock(*block), encode(&mended), stored.revision);
                self.add(format!("put block {block} right: {}", texts(problem)), vec![op])
            }
            Problem::UnownedBlock { block } => self.remove_block(*block, "is empty and nobody's"),
            Problem::OrphanBlock { block, allocated: 0 } => self.remove_block(*block, "is empty and in no pool"),
            Problem::BlockSize { block, allocated: 0, .. } => {
                self.remove_block(*block, "is empty and of another size than its pool's")
            }
            Problem::BlockOfMissingNode { block, allocated: 0, .. } => {
                self.remove_block(*block, "is empty and of a node that does not exist")
            }
            Problem::OverlappingBlocks { outer, inner } => {
                let is_empty = |c: &&IpNet| self.snapshot.blocks.get(*c).is_some_and(|b| is_empty(&b.value));
                match [inner, outer].into_iter().find(is_empty) {
                    Some(cidr) => self.remove_block(*cidr, "is empty and overlaps another"),
                    None => Err("both have addresses in use; drain the workloads of one of them"),
                }
            }
            Problem::BlockWithoutAffinity { block, owner } => {
                let Some(owner) = AffinityOwner::from_block_field(owner) else { return Ok(()) };
                let ops = vec![Op::Create(Key::BlockAffinity(owner.clone(), *block), confirmed()), self.same(*block)];
                self.add(format!("give {} its affinity for block {block}", owner.to_block_field()), ops)
            }
            Problem::AffinityWithoutBlock { block, owner, .. } => {
                self.remove_affinity(*block, owner, "a block that does not exist", Op::Check(Key::IpamBlock(*block), 0))
            }
            Problem::AffinityOfOther { block, owner, .. } => {
                self.remove_affinity(*block, owner, "a block that it has not", self.same(*block))
            }
            Problem::AffinityState { block, owner, .. } => {
                let Some(owner) = AffinityOwner::from_block_field(owner) else { return Ok(()) };
                let Some(stuck) = self.snapshot.affinities.get(&(*block, owner.clone())) else { return Ok(()) };
                let key = Key::BlockAffinity(owner.clone(), *block);
                let mended = encode(&in_state(stuck.value.clone(), AffinityState::Confirmed));
                let ops = vec![Op::Update(key, mended, stuck.revision), self.same(*block)];
                self.add(format!("confirm the affinity of {} for its block {block}", owner.to_block_field()), ops)
            }
            Problem::Unreadable { key, .. } => self.rewrite(key),
            Problem::NotAllocated { .. } => {
                Err("recreate the workload, or keep others off the address with an IPReservation")
            }
            Problem::NotInPool { .. } => Err("apply an IP pool that has it, or recreate the workload"),
            Problem::UsedWhileCooling { .. } | Problem::Duplicate { .. } | Problem::WrongOwner { .. } => {
                Err("recreate the workload that should not have it")
            }
            Problem::CannotShare { .. } => Err(
                "the controller gives one of them another address; where both ask for this one, let them share it (sharing-key, \
                 other ports), or change one",
            ),
            Problem::AllocatedTwice { .. } => Err("the two blocks overlap; recreate the workload that has it"),
            Problem::OrphanBlock { .. } => {
                Err("its addresses are in use; apply its pool again, or drain the workloads")
            }
            Problem::BlockSize { .. } => Err("its addresses are in use; drain the workloads"),
            Problem::BlockOfMissingNode { .. } => Err("its addresses are in use; recreate the workloads"),
        }
    }

    /// Whether an unused allocation may go.
    fn may_release(&self, allocation: &Allocation) -> Result<(), &'static str> {
        let age = assigned_at(allocation).map(|at| self.snapshot.now.duration_since(at));
        if self.circumstances.is_locked {
            return match age {
                Some(age) if age < LOCKED_GRACE => {
                    Err("it was assigned less than 2 minutes ago, perhaps to who comes yet")
                }
                _ => Ok(()),
            };
        }
        if allocation.attribute.is_none() {
            return Err("nothing says whose it is; lock the datastore and repair again");
        }
        if !allocation.node.is_empty() && !self.snapshot.nodes.contains(&allocation.node) {
            return Ok(());
        }
        match age {
            Some(age) if age >= LEAK_GRACE => Ok(()),
            Some(_) => Err("it was assigned less than 15 minutes ago, and its workload may yet be seen"),
            None => Err("nothing says when it was assigned; lock the datastore and repair again"),
        }
    }

    /// Releases addresses of one block, with their handles, in as many transactions as it takes; a block is written once in a round.
    fn release(&mut self, cidr: IpNet, allocations: &[&Allocation]) {
        let Some(stored) = self.snapshot.blocks.get(&cidr) else { return };
        // One that is invalid comes up in the next round, when it is put right.
        let Ok(mut block) = Block::from_stored(stored.value.clone()) else { return };
        let ips: Vec<IpAddr> = allocations.iter().take(MAX_RELEASES).map(|a| a.ip).collect();
        let released = block.release(&ips, self.snapshot.now, self.circumstances.cooldown);
        let handles: BTreeSet<&str> = released.iter().filter_map(|r| r.handle.as_deref()).collect();
        let mut ops = Vec::new();
        for id in handles {
            let key = Key::IpamHandle(id.into());
            let Some(handle) = self.snapshot.handles.get(id) else { continue };
            let mut value = handle.value.clone();
            crate::handle::set(&mut value, cidr, block.addresses_of(id).len());
            ops.push(if value.block.is_empty() {
                Op::Delete(key, Some(handle.revision))
            } else {
                Op::Update(key, encode(&value), handle.revision)
            });
        }
        let owner_is_gone = match block.owner() {
            Some(AffinityOwner::Host(node)) => !self.snapshot.nodes.contains(&node),
            Some(_) => false,
            None => true,
        };
        if block.is_empty() && owner_is_gone {
            ops.extend(self.block_and_affinity(cidr));
        } else {
            ops.push(Op::Update(Key::IpamBlock(cidr), encode(&block), stored.revision));
        }
        let texts: Vec<String> =
            allocations.iter().take(MAX_RELEASES).map(|a| format!("{} ({})", a.ip, a.described())).collect();
        let _ = self.add(format!("release {}", texts.join(", ")), ops);
    }

    fn remove_block(&mut self, cidr: IpNet, why: &str) -> Result<(), &'static str> {
        let ops = self.block_and_affinity(cidr);
        self.add(format!("delete block {cidr}, which {why}"), ops)
    }

    fn block_and_affinity(&self, cidr: IpNet) -> Vec<Op> {
        let Some(stored) = self.snapshot.blocks.get(&cidr) else { return Vec::new() };
        let mut ops = vec![Op::Delete(Key::IpamBlock(cidr), Some(stored.revision))];
        if let Some(owner) = owner_of(&stored.value)
            && let Some(affinity) = self.snapshot.affinities.get(&(cidr, owner.clone()))
        {
            ops.push(Op::Delete(Key::BlockAffinity(owner, cidr), Some(affinity.revision)));
        }
        ops
    }

    fn remove_affinity(&mut self, cidr: IpNet, owner: &str, what: &str, check: Op) -> Result<(), &'static str> {
        let Some(owner) = AffinityOwner::from_block_field(owner) else { return Ok(()) };
        let revision = self.affinity(cidr, &owner);
        let named = owner.to_block_field();
        let ops = vec![Op::Delete(Key::BlockAffinity(owner, cidr), Some(revision)), check];
        self.add(format!("delete the affinity of {named} for {cidr}, {what}"), ops)
    }

    /// Writes a record anew that cannot be read, where the others say what must be in it.
    fn rewrite(&mut self, key: &str) -> Result<(), &'static str> {
        let found = self.snapshot.unreadable.iter().find(|u| u.key.to_string() == key);
        let Some(unreadable) = found else { return Ok(()) };
        let (key, revision) = (unreadable.key.clone(), unreadable.revision);
        match &key {
            Key::BlockAffinity(owner, cidr) => {
                let is_owner =
                    self.snapshot.blocks.get(cidr).is_some_and(|b| owner_of(&b.value).as_ref() == Some(owner));
                if is_owner {
                    let ops = vec![Op::Update(key.clone(), confirmed(), revision), self.same(*cidr)];
                    return self.add(format!("write {key} anew"), ops);
                }
                let check = match self.snapshot.blocks.get(cidr) {
                    Some(_) => self.same(*cidr),
                    None if self.snapshot.unreadable.iter().any(|u| u.key == Key::IpamBlock(*cidr)) => {
                        return Err("its block cannot be read either");
                    }
                    None => Op::Check(Key::IpamBlock(*cidr), 0),
                };
                self.add(format!("delete {key}"), vec![Op::Delete(key.clone(), Some(revision)), check])
            }
            Key::IpamHandle(_) if self.findings.handles_uncertain => {
                Err("what a block says of whom has which address is lost, and it may be this handle's")
            }
            Key::IpamHandle(id) => {
                let mut actual: BTreeMap<IpNet, usize> = BTreeMap::new();
                for a in self.findings.allocations.values().flatten().filter(|a| a.handle() == Some(id)) {
                    *actual.entry(a.block).or_default() += 1;
                }
                if actual.is_empty() {
                    return self.add(format!("delete {key}"), vec![Op::Delete(key.clone(), Some(revision))]);
                }
                let mut ops = vec![Op::Update(key.clone(), counts(&actual, None), revision)];
                ops.extend(self.unchanged(&actual));
                self.add(format!("write {key} anew"), ops)
            }
            _ => Err("put it right by hand, or apply it again"),
        }
    }

    /// Adds a mend, unless another writes one of its records, or is conditional on what it writes.
    fn add(&mut self, what: String, ops: Vec<Op>) -> Result<(), &'static str> {
        let meets = |op: &Op| {
            self.written.contains(op.key()) || (!matches!(op, Op::Check(..)) && self.checked.contains(op.key()))
        };
        if !ops.is_empty() && !ops.iter().any(meets) {
            for op in &ops {
                let keys = if matches!(op, Op::Check(..)) { &mut self.checked } else { &mut self.written };
                keys.insert(op.key().clone());
            }
            self.mends.push(Mend { what, ops });
        }
        Ok(())
    }

    /// The conditions that blocks are as they were read.
    fn unchanged(&self, blocks: &BTreeMap<IpNet, usize>) -> Vec<Op> {
        blocks.keys().map(|&cidr| self.same(cidr)).collect()
    }

    fn same(&self, cidr: IpNet) -> Op {
        Op::Check(Key::IpamBlock(cidr), self.snapshot.blocks.get(&cidr).map_or(0, |b| b.revision))
    }

    fn affinity(&self, cidr: IpNet, owner: &AffinityOwner) -> Revision {
        self.snapshot.affinities.get(&(cidr, owner.clone())).map_or(0, |a| a.revision)
    }
}

/// When an address was assigned: `2026-08-22 10:00:00.12 +0000 UTC`, as Go prints it and Calico stores it.
pub fn assigned_at(allocation: &Allocation) -> Option<Timestamp> {
    let mut words = allocation.attr(attr::TIMESTAMP)?.split_whitespace();
    let (date, time) = (words.next()?, words.next()?);
    let offset = words.next().unwrap_or("+0000");
    let (hours, minutes) = offset.split_at_checked(offset.len().checked_sub(2)?)?;
    format!("{date}T{time}{hours}:{minutes}").parse().ok()
}

fn is_empty(block: &AllocationBlock) -> bool {
    block.allocations.iter().all(Option::is_none)
}

fn texts(problem: &Problem) -> String {
    match problem {
        Problem::InvalidBlock { faults, .. } => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// A handle with these counts, and of what was known what is none.
fn counts(actual: &BTreeMap<IpNet, usize>, known: Option<&IpamHandle>) -> Vec<u8> {
    let block = actual.iter().map(|(cidr, n)| (cidr.to_string(), *n)).collect();
    let extra = known.map(|h| h.extra.clone()).unwrap_or_default();
    encode(&IpamHandle { block, deleted: false, extra })
}

fn confirmed() -> Vec<u8> {
    encode(&BlockAffinity::new(AffinityState::Confirmed))
}
