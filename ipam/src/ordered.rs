//! The same changes where the store takes one write at a time (Calico's protocol): in an order in which being cut off after any write
//! leaves nothing that is taken twice, and nothing that cannot be repaired.
//!
//! Giving an address: the affinity pending, the handle with what is really taken, the block, the affinity confirmed. Handing one over:
//! the handle that gets it, the block, the handle that had it. Taking one back: the
//! affinity pending deletion, the block, the affinity, the handle. So a cut leaves
//!
//! | state | the next allocation or release | [`Ipam::repair`] |
//! |---|---|---|
//! | an affinity pending, no block | makes the block | deletes it |
//! | an affinity pending, the block ours | confirms it | confirms it |
//! | an affinity pending deletion, the block ours and empty | confirms it | takes the block back |
//! | an affinity pending deletion, the block ours and in use | confirms it | confirms it |
//! | an affinity pending deletion, no block | makes the block | deletes it |
//! | a handle with more than its blocks show | counts it anew | counts it anew |
//!
//! A write with an unknown outcome is written again: it is conditional, so that it happens once; when the second is refused, a read
//! tells whether the first happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::Key;
use api::ipam::{AffinityState, BlockAffinity, IpamHandle};
use api::key::{AffinityOwner, KeyRange};
use datastore::{Error as StoreError, KeyValue, Op, Revision, Store, Txn};
use ipnet::IpNet;

use crate::allocator::{Error, Ipam, Outcome, Versioned, decode, encode, readable_block};
use crate::attempt::decode_affinity;
use crate::block::Block;
use crate::changes::{AffinityChange, BlockChange, Changes, HandleChange, write_affinity, write_block, write_handle};
use crate::lock::{self, Gate};

/// How often a write with an unknown outcome is written.
const MAX_WRITES: u32 = 4;

/// Writes changes one by one. After an error nothing of them that gives an address has happened, except where the outcome is unknown.
///
/// # Errors
/// Of the first write that is refused.
pub(crate) async fn write(store: &dyn Store, changes: &Changes) -> Result<(), StoreError> {
    let mut gate = Gate::of(changes);
    gate.pass(store).await?;
    for (key, revision) in changes.checks.iter().filter(|(key, _)| **key != lock::key()) {
        let present = store.get(key).await?.map(|kv| kv.mod_revision);
        Op::Check(key.clone(), *revision).check(present)?;
    }
    let mut affinities = changes.affinities.clone();
    let mut undo = Undo::default();
    // Confirmed at the end, at the revision of the pending one.
    let mut pending: Vec<(Key, Versioned<BlockAffinity>)> = Vec::new();
    let mut handles: BTreeSet<&String> = BTreeSet::new();
    for (cidr, change) in &changes.blocks {
        let of_block = affinities.iter().filter(|((_, c), _)| c == cidr);
        let claims: Vec<_> = of_block.map(|(k, v)| (k.clone(), v.clone())).collect();
        for (claim, kind) in claims {
            let key = Key::BlockAffinity(claim.0.clone(), claim.1);
            match kind {
                AffinityChange::Confirm(before) => {
                    let op = write_affinity(key.clone(), before.as_ref(), AffinityState::Pending);
                    let Written { at, is_ours } = try_or_undo(store, &undo, op).await?;
                    if before.is_none() && is_ours {
                        undo.ops.push(Op::Delete(key.clone(), Some(at)));
                    }
                    let value = before.map_or(BlockAffinity::new(AffinityState::Pending), |read| read.value);
                    pending.push((key, Versioned { value, revision: at }));
                    affinities.remove(&claim);
                }
                AffinityChange::Delete(revision) if change.is_deleted => {
                    let value = affinity_or_new(store, &key).await;
                    let mut known = Versioned { value, revision };
                    let op = write_affinity(key.clone(), Some(&known), AffinityState::PendingDeletion);
                    let Written { at, is_ours } = try_or_undo(store, &undo, op).await?;
                    known.revision = at;
                    if is_ours {
                        // Somebody may take an address of the block before it goes; then it stays its owner's.
                        undo.ops.push(write_affinity(key, Some(&known), AffinityState::Confirmed));
                    }
                    affinities.insert(claim, AffinityChange::Delete(at));
                }
                AffinityChange::Delete(_) => {}
            }
        }
        for (id, handle) in changes.handles.iter().filter(|(id, _)| gets(id, changes)) {
            if let Some(op) = handles.insert(id).then(|| write_handle(id, handle)).flatten() {
                let Written { at, is_ours } = try_or_undo(store, &undo, op).await?;
                undo.ops.extend(back(id, handle, at).filter(|_| is_ours));
            }
        }
        write_or_undo(store, &undo, change, &mut gate).await?;
        // From here on the block says what is so; what follows only makes the rest agree.
        undo.ops.clear();
    }
    for (key, written) in pending {
        settle(store, write_affinity(key, Some(&written), AffinityState::Confirmed)).await;
    }
    for ((owner, cidr), change) in affinities {
        let key = Key::BlockAffinity(owner, cidr);
        settle(
            store,
            match change {
                AffinityChange::Confirm(before) => write_affinity(key, before.as_ref(), AffinityState::Confirmed),
                AffinityChange::Delete(at) => Op::Delete(key, Some(at)),
            },
        )
        .await;
    }
    for (id, handle) in changes.handles.iter().filter(|(id, _)| !handles.contains(id)) {
        if let Some(op) = write_handle(id, handle) {
            settle(store, op).await;
        }
    }
    Ok(())
}

/// Writes a [`crate::check::repair::Mend`] one by one: the block before what counts it, so that a cut leaves no address with two.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn write_mend(store: &dyn Store, ops: Vec<Op>) -> Result<Outcome, Error> {
    use StoreError as E;
    let (checks, mut writes): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(|op| matches!(op, Op::Check(..)));
    writes.sort_by_key(|op| !matches!(op.key(), Key::IpamBlock(_)));
    let written = async {
        for op in checks {
            op.check(store.get(op.key()).await?.map(|kv| kv.mod_revision))?;
        }
        for op in writes {
            write_one(store, op).await?;
        }
        Ok(())
    };
    match written.await {
        Ok(()) => Ok(Outcome::Done),
        Err(error @ (E::AlreadyExists(_) | E::NotFound(_) | E::Conflict(_) | E::Unknown(_))) => {
            Ok(Outcome::Retry(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a handle gets an address. Such a one is written before the block, whatever it counts: that nobody else has changed it is a
/// condition of the gift. One that only loses addresses has them until the block is written.
fn gets(id: &str, changes: &Changes) -> bool {
    let is_mine = |block: &Block, ip: &IpAddr| block.attribute_of(*ip).and_then(|a| a.handle_id.as_deref()) == Some(id);
    changes.blocks.values().any(|c| c.taken.iter().any(|ip| is_mine(&c.block.value, ip)))
}

/// An affinity as it is stored, for the fields that we do not know. Where it cannot be read, the write that comes next says why.
async fn affinity_or_new(store: &dyn Store, key: &Key) -> BlockAffinity {
    let read = store.get(key).await.ok().flatten();
    read.map_or(BlockAffinity::new(AffinityState::PendingDeletion), |kv| decode_affinity(&kv).value)
}

/// What puts back what was written before a block was refused, in the order it was written.
#[derive(Default)]
struct Undo {
    ops: Vec<Op>,
}

/// A write that happened.
struct Written {
    at: Revision,
    /// The store said so. Otherwise the key only holds what was to be written, perhaps by an earlier attempt that gave addresses under it:
    /// it is not taken back.
    is_ours: bool,
}

async fn try_or_undo(store: &dyn Store, undo: &Undo, op: Op) -> Result<Written, StoreError> {
    or_undo(store, undo, write_one(store, op).await).await
}

async fn or_undo(store: &dyn Store, undo: &Undo, outcome: Result<Written, StoreError>) -> Result<Written, StoreError> {
    if outcome.as_ref().is_err_and(|e| !matches!(e, StoreError::Unknown(_))) {
        for op in undo.ops.iter().rev() {
            settle(store, op.clone()).await;
        }
    }
    outcome
}

/// Writes a block, while the lock is open.
async fn write_or_undo(
    store: &dyn Store,
    undo: &Undo,
    change: &BlockChange,
    gate: &mut Gate,
) -> Result<(), StoreError> {
    or_undo(store, undo, write_through(store, write_block(change), gate).await).await.map(drop)
}

/// A write that is repaired later where it fails.
async fn settle(store: &dyn Store, op: Op) {
    let key = op.key().clone();
    if let Err(error) = write_one(store, op).await {
        tracing::debug!(%key, %error, "left to be repaired");
    }
}

/// One conditional write, so often until its outcome is known. Once it is not, no failure of a later try says that the first has not
/// happened.
async fn write_one(store: &dyn Store, op: Op) -> Result<Written, StoreError> {
    write_through(store, op, &mut Gate::new(None)).await
}

/// The same, where none begins after the lock.
async fn write_through(store: &dyn Store, op: Op, gate: &mut Gate) -> Result<Written, StoreError> {
    gate.pass(store).await?;
    let write = || store.txn(Txn { ops: vec![op.clone()] });
    let first = match write().await {
        Err(StoreError::Unknown(text)) => StoreError::Unknown(text),
        known => return known.map(|at| Written { at, is_ours: true }),
    };
    for _ in 1..MAX_WRITES {
        if gate.pass(store).await.is_err() {
            break;
        }
        match write().await {
            Ok(at) => return Ok(Written { at, is_ours: true }),
            Err(StoreError::AlreadyExists(_) | StoreError::NotFound(_) | StoreError::Conflict(_)) => {
                // Refused because the first has happened, or because of another's.
                return match (store.get(op.key()).await, &op) {
                    (Ok(Some(kv)), Op::Create(_, value) | Op::Update(_, value, _)) if kv.value == *value => {
                        Ok(Written { at: kv.mod_revision, is_ours: false })
                    }
                    (Ok(None), Op::Delete(..)) => Ok(Written { at: 0, is_ours: false }),
                    // Or it has happened, and another has written since.
                    _ => Err(first),
                };
            }
            Err(StoreError::Unknown(_)) => {}
            Err(_) => break,
        }
    }
    Err(first)
}

/// The write that takes a handle's change back.
fn back(id: &str, change: &HandleChange, at: Revision) -> Option<Op> {
    let key = Key::IpamHandle(id.into());
    match (change.before.revision, change.after.block.is_empty()) {
        // It gets something: it is not deleted.
        (_, true) => None,
        (0, false) => Some(Op::Delete(key, Some(at))),
        (_, false) => Some(Op::Update(key, encode(&change.before.value), at)),
    }
}

/// What [`Ipam::repair`] has seen wrong, to be repaired when it is seen again.
#[derive(Clone, Debug, Default)]
pub struct Suspicions(BTreeMap<Key, Revision>);

/// Something wrong that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    pub key: Key,
    /// What was wrong with it.
    pub what: &'static str,
}

/// What is wrong with a key, and what would be right.
struct Fault {
    what: &'static str,
    remedy: Remedy,
}

enum Remedy {
    Write(Op),
    /// The owner gives the block up where it is empty; else this is written.
    TakeBack(AffinityOwner, IpNet, Op),
}

impl Ipam {
    /// Repairs what writes that were cut off have left between blocks, affinities and handles; what was repaired. Only what was there
    /// unchanged at the call before, in `seen`, is touched: an allocation that is under way looks the same. Leave a minute between two
    /// calls.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn repair(&self, seen: &mut Suspicions) -> Result<Vec<Repaired>, Error> {
        let faults = self.faults().await?;
        let mut now = BTreeMap::new();
        let mut repaired = Vec::new();
        for ((key, revision), fault) in faults {
            if seen.0.get(&key) != Some(&revision) {
                now.insert(key, revision);
                continue;
            }
            let done = match fault.remedy {
                Remedy::Write(op) => self.write_remedy(op).await?,
                Remedy::TakeBack(owner, cidr, confirm) => match self.release_block_affinity(cidr, &owner, true).await {
                    Ok(()) => true,
                    Err(Error::NotEmpty(_)) => self.write_remedy(confirm).await?,
                    Err(error) => return Err(error),
                },
            };
            if done {
                tracing::info!(%key, fault.what, "repaired");
                repaired.push(Repaired { key, what: fault.what });
            }
        }
        seen.0 = now;
        Ok(repaired)
    }

    /// Whether it was written; a lost race is left to the next call.
    async fn write_remedy(&self, op: Op) -> Result<bool, Error> {
        use StoreError as E;
        match self.store.txn(Txn { ops: vec![op] }).await {
            Ok(_) => Ok(true),
            Err(E::AlreadyExists(_) | E::NotFound(_) | E::Conflict(_) | E::Unknown(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that does not agree, by key and revision; for what is missing, the revision is that of the block which says so.
    async fn faults(&self) -> Result<BTreeMap<(Key, Revision), Fault>, Error> {
        let mut affinities = self.store.list(&KeyRange::HostAffinities).await?.items;
        affinities.extend(self.store.list(&KeyRange::VirtualAffinities).await?.items);
        let handles = self.store.list(&KeyRange::Handles).await?.items;
        // The blocks last: a block that is newer than what depends on it is seen as it is.
        let blocks = self.store.list(&KeyRange::Blocks).await?.items;
        let mut owners: BTreeMap<IpNet, (Option<AffinityOwner>, Revision)> = BTreeMap::new();
        let mut counts: BTreeMap<String, (BTreeMap<String, usize>, Revision)> = BTreeMap::new();
        let mut unread = BTreeSet::new();
        for kv in &blocks {
            let Key::IpamBlock(cidr) = kv.key else { continue };
            let Some(block) = readable_block(kv) else {
                unread.insert(cidr.to_string());
                continue;
            };
            owners.insert(cidr, (block.value.owner(), block.revision));
            for (_, attribute) in block.value.allocated() {
                let Some(id) = &attribute.handle_id else { continue };
                let (count, newest) = counts.entry(id.clone()).or_default();
                *count.entry(cidr.to_string()).or_default() += 1;
                *newest = block.revision.max(*newest);
            }
        }
        let mut faults = BTreeMap::new();
        let mut claims = BTreeSet::new();
        for kv in &affinities {
            let Key::BlockAffinity(owner, cidr) = &kv.key else { continue };
            claims.insert((owner.clone(), *cidr));
            if unread.contains(&cidr.to_string()) {
                continue;
            }
            if let Some(fault) = affinity_fault(kv, owner, *cidr, owners.get(cidr)) {
                faults.insert((kv.key.clone(), kv.mod_revision), fault);
            }
        }
        for (cidr, (owner, revision)) in owners {
            let Some(owner) = owner.filter(|o| !claims.contains(&(o.clone(), cidr))) else { continue };
            let key = Key::BlockAffinity(owner, cidr);
            let remedy = Remedy::Write(write_affinity(key.clone(), None, AffinityState::Confirmed));
            faults.insert((key, revision), Fault { what: "its block says it is there", remedy });
        }
        for kv in &handles {
            let Key::IpamHandle(id) = &kv.key else { continue };
            let (mut right, _) = counts.remove(id).unwrap_or_default();
            let Ok(held) = decode::<IpamHandle>(kv) else { continue };
            right.extend(held.value.block.iter().filter(|(b, _)| unread.contains(*b)).map(|(b, n)| (b.clone(), *n)));
            if held.value.block != right {
                let after = IpamHandle { block: right, ..held.value.clone() };
                faults.extend(handle_fault(id, held, after, kv.mod_revision));
            }
        }
        for (id, (block, newest)) in counts {
            let before = Versioned { value: IpamHandle::default(), revision: 0 };
            faults.extend(handle_fault(&id, before, IpamHandle { block, ..IpamHandle::default() }, newest));
        }
        Ok(faults)
    }
}

fn affinity_fault(
    kv: &KeyValue,
    owner: &AffinityOwner,
    cidr: IpNet,
    block: Option<&(Option<AffinityOwner>, Revision)>,
) -> Option<Fault> {
    let read = decode_affinity(kv);
    let delete = || Remedy::Write(Op::Delete(kv.key.clone(), Some(kv.mod_revision)));
    match block {
        None => Some(Fault { what: "its block is not there", remedy: delete() }),
        Some((other, _)) if other.as_ref() != Some(owner) => {
            Some(Fault { what: "its block is another's", remedy: delete() })
        }
        Some(_) => {
            let confirm = write_affinity(kv.key.clone(), Some(&read), AffinityState::Confirmed);
            match read.value.state {
                AffinityState::Confirmed => None,
                AffinityState::Pending => {
                    Some(Fault { what: "it was never confirmed", remedy: Remedy::Write(confirm) })
                }
                AffinityState::PendingDeletion => {
                    let remedy = Remedy::TakeBack(owner.clone(), cidr, confirm);
                    Some(Fault { what: "it was never deleted", remedy })
                }
            }
        }
    }
}

fn handle_fault(
    id: &str,
    before: Versioned<IpamHandle>,
    after: IpamHandle,
    revision: Revision,
) -> Option<((Key, Revision), Fault)> {
    let op = write_handle(id, &HandleChange { before, after })?;
    let fault = Fault { what: "its blocks count otherwise", remedy: Remedy::Write(op) };
    Some(((Key::IpamHandle(id.into()), revision), fault))
}
