//! What a program that runs for long knows of the store: pools, reservations, configuration, whether it is locked, its owners' nodes, affinities and blocks,
//! and of every other block a summary. An allocation is planned on it and written under the revisions that it was planned on, so
//! that what it does not know yet can make an allocation fail and be planned again, but not make it wrong.
//!
//! ```text
//!  datastore::watcher ──► task of follow() ──► Snapshot ◄── own writes, at once; what a conflict showed to be old
//! ```
//! The task ends with the snapshot. What the watch tells of a key before it tells of our last write of it is older than that, and is
//! passed over; all else is taken as it comes, for a store that was made anew begins with low revisions again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use api::ipam::{AffinityState, BlockAffinity, IpamConfig, IpamHandle};
use api::key::{AffinityOwner, KeyRange};
use api::meta::WithSpec;
use api::{IpPool, IpReservation, Key, Kind, NodeSpec};
use datastore::watcher::{self, Update};
use datastore::{DynStore, KeyValue, Listing, Revision, typed};
use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::allocator::{Versioned, decode, decode_block};
use crate::attempt::decode_affinity;
use crate::block::Block;
use crate::changes::{AffinityChange, Changes, in_state};
use crate::index::{BlockIndex, Summary};
use crate::lock::{self, Lock};
use crate::pool::{self, Reservations};

/// Blocks of others that are kept whole: those that were borrowed from.
const MAX_FOREIGN_BLOCKS: usize = 64;
/// Handles of ours that are kept, of some hundred bytes each; where there are more, one is read when it is released.
const MAX_HANDLES: usize = 256 * 1024;

/// The affinities of an owner.
pub(crate) type Affinities = Arc<BTreeMap<IpNet, Versioned<BlockAffinity>>>;

/// The state of a store, as far as allocations of some owners need it.
pub(crate) struct Snapshot {
    state: Mutex<State>,
    synced: watch::Sender<bool>,
    task: OnceLock<AbortHandle>,
}

struct State {
    owners: Vec<AffinityOwner>,
    config: IpamConfig,
    lock: Lock,
    pools: BTreeMap<Key, IpPool>,
    reservations: BTreeMap<Key, IpReservation>,
    /// Of the owners' nodes.
    labels: HashMap<String, BTreeMap<String, String>>,
    claims: HashMap<AffinityOwner, Claims>,
    index: BlockIndex,
    /// The owners' blocks; one that is being changed is out.
    blocks: HashMap<IpNet, Versioned<Block>>,
    /// Some of others, the same.
    foreign: HashMap<IpNet, Versioned<Block>>,
    handles: HashMap<String, Held>,
    /// Keys that we wrote or read again, and have not heard of yet, with the revision: what comes before that is older.
    written: HashMap<Key, Revision>,
    /// Keys that we made and have not heard of yet: a deletion that comes now is of what was there before.
    made: HashSet<Key>,
    /// Keys that we deleted and have not heard of yet, with the revision: a write that comes now may be older.
    deleted: HashMap<Key, Revision>,
    /// Handles that were read and cannot be decoded.
    unread_handles: HashSet<String>,
    /// How often a pool has changed: each time, blocks of another size may have been made since the blocks were last heard of.
    doubts: u64,
    /// How many of these doubts a listing of the blocks has settled.
    settled_doubts: u64,
    all_pools: Arc<Vec<IpPool>>,
    all_reservations: Arc<Reservations>,
}

/// What an owner claims.
#[derive(Default)]
struct Claims {
    all: Affinities,
    /// Those whose block is not there, or another's.
    strays: BTreeSet<IpNet>,
    /// Those that may be in a pool which does not select the owner.
    unchecked: BTreeSet<IpNet>,
}

/// A handle, in little room: most have one block.
struct Held {
    counts: Box<[(Box<str>, usize)]>,
    is_deleted: bool,
    /// What we do not know of it; few have any.
    extra: Option<Box<Map<String, Value>>>,
    revision: Revision,
}

impl Held {
    fn new(handle: Versioned<IpamHandle>) -> Self {
        let Versioned { value: IpamHandle { block, deleted, extra }, revision } = handle;
        let counts = block.into_iter().map(|(cidr, count)| (cidr.into_boxed_str(), count)).collect();
        let extra = (!extra.is_empty()).then(|| Box::new(extra));
        Self { counts, is_deleted: deleted, extra, revision }
    }

    fn handle(&self) -> Versioned<IpamHandle> {
        let block = self.counts.iter().map(|(cidr, count)| (cidr.to_string(), *count)).collect();
        let extra = self.extra.as_deref().cloned().unwrap_or_default();
        Versioned { value: IpamHandle { block, deleted: self.is_deleted, extra }, revision: self.revision }
    }
}

/// What is followed for allocations of these owners.
pub fn followed(owners: &[AffinityOwner]) -> Vec<KeyRange> {
    let kinds = [Kind::IpPool, Kind::IpReservation, Kind::Node, Kind::ClusterInformation].map(KeyRange::Kind);
    let affinities = owners.iter().cloned().map(KeyRange::AffinitiesOf);
    kinds.into_iter().chain([KeyRange::Blocks, KeyRange::IpamConfig]).chain(affinities).collect()
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Snapshot {
    /// Starts to follow a store for allocations of these owners.
    pub fn follow(store: DynStore, owners: Vec<AffinityOwner>) -> Arc<Self> {
        let ranges = followed(&owners);
        let state = State {
            owners,
            config: IpamConfig::default(),
            lock: Lock::default(),
            pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            labels: HashMap::new(),
            claims: HashMap::new(),
            index: BlockIndex::default(),
            blocks: HashMap::new(),
            foreign: HashMap::new(),
            handles: HashMap::new(),
            written: HashMap::new(),
            made: HashSet::new(),
            deleted: HashMap::new(),
            unread_handles: HashSet::new(),
            doubts: 1,
            settled_doubts: 0,
            all_pools: Arc::default(),
            all_reservations: Arc::default(),
        };
        let snapshot =
            Arc::new(Self { state: Mutex::new(state), synced: watch::Sender::new(false), task: OnceLock::new() });
        let mut updates = watcher::watch(store, ranges);
        let weak: Weak<Self> = Arc::downgrade(&snapshot);
        let task = tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                let Some(snapshot) = weak.upgrade() else { return };
                snapshot.update(update);
            }
        });
        // It is set once, here.
        let _ = snapshot.task.set(task.abort_handle());
        snapshot
    }

    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub async fn synced(&self) {
        // The sender lives in `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub fn config(&self) -> IpamConfig {
        self.state().config.clone()
    }

    /// The datastore's lock.
    pub fn lock(&self) -> Lock {
        self.state().lock
    }

    pub fn pools(&self) -> Arc<Vec<IpPool>> {
        self.state().all_pools.clone()
    }

    pub fn reservations(&self) -> Arc<Reservations> {
        self.state().all_reservations.clone()
    }

    /// The labels of a node, if it is an owner's and exists.
    pub fn labels_of(&self, node: &str) -> Option<BTreeMap<String, String>> {
        self.state().labels.get(node).cloned()
    }

    pub fn follows(&self, owner: &AffinityOwner) -> bool {
        self.state().owners.contains(owner)
    }

    /// The affinities of an owner; `None` for one that is not followed.
    pub fn affinities(&self, owner: &AffinityOwner) -> Option<Affinities> {
        let state = self.state();
        state.owners.contains(owner).then(|| state.claims.get(owner).map(|c| c.all.clone()).unwrap_or_default())
    }

    /// The affinities of an owner whose blocks are not there, or another's.
    pub fn strays(&self, owner: &AffinityOwner) -> Vec<IpNet> {
        self.state().claims.get(owner).into_iter().flat_map(|c| &c.strays).copied().collect()
    }

    /// The affinities of an owner in pools that do not select it; `None` for one that is not followed. One that was found selected is
    /// not looked at again before a pool or the node changes.
    pub fn unselected(&self, owner: &AffinityOwner) -> Option<Vec<(IpNet, Revision)>> {
        let mut state = self.state();
        let State { owners, claims, labels, all_pools, .. } = &mut *state;
        if !owners.contains(owner) {
            return None;
        }
        let none = BTreeMap::new();
        let labels = match owner {
            AffinityOwner::Host(name) => labels.get(name),
            AffinityOwner::Virtual(_) => Some(&none),
        };
        let claims = claims.get_mut(owner).filter(|c| !c.unchecked.is_empty());
        let (Some(Claims { all, unchecked, .. }), Some(labels)) = (claims, labels) else { return Some(vec![]) };
        let selected = pool::selecting(all_pools, labels);
        unchecked.retain(|cidr| !selected.iter().any(|p| p.contains(cidr)));
        Some(unchecked.iter().filter_map(|cidr| Some((*cidr, all.get(cidr)?.revision))).collect())
    }

    /// Whether the store holds a handle that cannot be decoded.
    pub fn is_unread(&self, id: &str) -> bool {
        self.state().unread_handles.contains(id)
    }

    /// A handle that we wrote.
    pub fn handle(&self, id: &str) -> Option<Versioned<IpamHandle>> {
        self.state().handles.get(id).map(Held::handle)
    }

    /// Takes a block out, to be changed.
    pub fn take_block(&self, cidr: &IpNet) -> Option<Versioned<Block>> {
        let mut state = self.state();
        state.blocks.remove(cidr).or_else(|| state.foreign.remove(cidr))
    }

    /// Gives back a block that was not changed.
    pub fn put_back(&self, block: Versioned<Block>) {
        let mut state = self.state();
        if state.index.revision(&block.value.cidr()) == Some(block.revision) {
            state.keep(block);
        }
    }

    /// Asks the index.
    pub fn ask<T>(&self, question: impl FnOnce(&BlockIndex) -> T) -> T {
        question(&self.state().index)
    }

    /// The doubts so far, where the blocks must be listed before one is made.
    pub fn doubts(&self) -> Option<u64> {
        let state = self.state();
        (state.doubts != state.settled_doubts).then_some(state.doubts)
    }

    /// Takes a listing of all blocks that was begun after so many doubts; those that arose meanwhile stay.
    pub fn listed(&self, listing: &Listing, doubts: u64) {
        let mut state = self.state();
        state.settled_doubts = state.settled_doubts.max(doubts);
        for kv in &listing.items {
            if let Key::IpamBlock(cidr) = &kv.key
                && state.index.revision(cidr).is_none_or(|known| known < kv.mod_revision)
            {
                state.written.insert(kv.key.clone(), kv.mod_revision);
                state.put(kv.clone());
            }
        }
    }

    /// Takes what changes have written, at this revision; without one, what they were planned on is forgotten.
    pub fn committed(&self, changes: Changes, revision: Option<Revision>) {
        let mut state = self.state();
        let Some(revision) = revision else {
            changes.handles.keys().for_each(|id| drop(state.handles.remove(id)));
            return;
        };
        for (cidr, change) in changes.blocks {
            let key = Key::IpamBlock(cidr);
            if state.index.revision(&cidr).is_some_and(|known| known > revision) {
                continue;
            }
            if change.is_deleted {
                state.remove_block(&cidr);
                state.made.remove(&key);
                state.written.remove(&key);
                state.deleted.insert(key, revision);
            } else {
                // Unless the watch was faster.
                if state.index.revision(&cidr) != Some(revision) {
                    if change.block.revision == 0 {
                        state.made.insert(key.clone());
                    }
                    state.written.insert(key, revision);
                }
                state.set_block(cidr, revision, Some(Summary::of(&change.block.value)));
                state.keep(Versioned { value: change.block.value, revision });
            }
        }
        for ((owner, cidr), change) in changes.affinities {
            if !state.owners.contains(&owner) {
                continue;
            }
            let key = Key::BlockAffinity(owner.clone(), cidr);
            match change {
                AffinityChange::Delete(_) => {
                    state.remove_affinity(&owner, &cidr);
                    state.written.remove(&key);
                    state.deleted.insert(key, revision);
                }
                AffinityChange::Confirm(before) => {
                    let is_made = before.is_none();
                    let value = match before {
                        Some(read) => in_state(read.value, AffinityState::Confirmed),
                        None => BlockAffinity::new(AffinityState::Confirmed),
                    };
                    if state.revision(&key) != Some(revision) {
                        if is_made {
                            state.made.insert(key.clone());
                        }
                        state.written.insert(key, revision);
                    }
                    state.set_affinity(&owner, cidr, Versioned { value, revision });
                }
            }
        }
        if state.handles.len() > MAX_HANDLES {
            state.handles.clear();
            state.unread_handles.clear();
        }
        for (id, change) in changes.handles {
            state.unread_handles.remove(&id);
            if change.after.block.is_empty() {
                state.handles.remove(&id);
            } else {
                state.handles.insert(id, Held::new(Versioned { value: change.after, revision }));
            }
        }
    }

    /// The revision at which a key is known, to be told to [`Self::refreshed`].
    pub fn revision(&self, key: &Key) -> Option<Revision> {
        self.state().revision(key)
    }

    /// Takes what a key holds, where a conflict showed that we had it wrong. It was known at revision `before` when the read began: what
    /// has been learnt since is newer than what was read, unless its revision says otherwise.
    pub fn refreshed(&self, key: &Key, before: Option<Revision>, found: Option<KeyValue>) {
        let mut state = self.state();
        let known = state.revision(key);
        let is_newer = |kv: &KeyValue| known.is_some_and(|known| known < kv.mod_revision);
        if known != before && !found.as_ref().is_some_and(is_newer) {
            return;
        }
        state.made.remove(key);
        state.written.remove(key);
        state.deleted.remove(key);
        match (key, found) {
            (Key::IpamHandle(id), Some(kv)) => match decode(&kv) {
                Ok(handle) => {
                    state.unread_handles.remove(id);
                    state.handles.insert(id.clone(), Held::new(handle));
                }
                Err(_) => {
                    state.handles.remove(id);
                    state.unread_handles.insert(id.clone());
                }
            },
            (Key::IpamHandle(id), None) => {
                state.handles.remove(id);
                state.unread_handles.remove(id);
            }
            (_, Some(kv)) => {
                if state.revision(key).is_none_or(|known| known < kv.mod_revision) {
                    state.written.insert(key.clone(), kv.mod_revision);
                }
                state.put(kv);
            }
            (_, None) => state.delete(key),
        }
    }

    fn update(&self, update: Update) {
        match update {
            Update::Put(kv) => {
                let mut state = self.state();
                if state.deleted.get(&kv.key).is_some_and(|at| kv.mod_revision < *at) {
                    return;
                }
                match state.written.get(&kv.key).copied() {
                    Some(ours) if kv.mod_revision < ours => {}
                    ours => {
                        state.written.remove(&kv.key);
                        state.deleted.remove(&kv.key);
                        state.made.remove(&kv.key);
                        if ours != Some(kv.mod_revision) || state.revision(&kv.key) != ours {
                            state.put(kv);
                        }
                    }
                }
            }
            Update::Delete(key) => {
                let mut state = self.state();
                state.deleted.remove(&key);
                if !state.made.contains(&key) {
                    state.written.remove(&key);
                    state.delete(&key);
                }
            }
            // The ranges were listed at different revisions: the index stays doubtful until a listing that is asked for.
            Update::InSync => drop(self.synced.send_replace(true)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The revision at which a block, an affinity, a pool, a handle or the lock is known.
    fn revision(&self, key: &Key) -> Option<Revision> {
        match key {
            Key::IpamBlock(cidr) => self.index.revision(cidr),
            Key::BlockAffinity(owner, cidr) => self.claims.get(owner)?.all.get(cidr).map(|a| a.revision),
            Key::IpamHandle(id) => self.handles.get(id).map(|h| h.revision),
            Key::Resource { kind: Kind::IpPool, .. } => {
                self.pools.get(key)?.metadata.resource_version.as_deref()?.parse().ok()
            }
            key if *key == lock::key() => Some(self.lock.revision).filter(|at| *at != 0),
            _ => None,
        }
    }

    fn put(&mut self, kv: KeyValue) {
        match &kv.key {
            Key::IpamConfig => match serde_json::from_slice(&kv.value) {
                Ok(config) => self.config = config,
                Err(error) => tracing::warn!(%error, "the IPAM configuration cannot be read; the last one is kept"),
            },
            key if *key == lock::key() => self.lock = Lock::of(Some(&kv)),
            Key::IpamBlock(cidr) => self.put_block(*cidr, &kv),
            Key::BlockAffinity(owner, cidr) => {
                self.set_affinity(owner, *cidr, decode_affinity(&kv));
            }
            Key::Resource { kind: Kind::IpPool, .. } => {
                // One that cannot be read gives nothing, whatever it was before.
                match decoded(&kv) {
                    Some(pool) => drop(self.pools.insert(kv.key, pool)),
                    None => drop(self.pools.remove(&kv.key)),
                }
                self.pools_changed();
            }
            Key::Resource { kind: Kind::IpReservation, .. } => {
                // One that cannot be read any more still reserves what it did: too few addresses are better than a reserved one.
                if let Some(reservation) = decoded(&kv) {
                    self.reservations.insert(kv.key, reservation);
                    self.reservations_changed();
                }
            }
            Key::Resource { kind: Kind::Node, name, .. } => {
                let is_owner = self.owners.iter().any(|o| matches!(o, AffinityOwner::Host(n) if n == name));
                if is_owner && let Some(node) = decoded::<WithSpec<NodeSpec>>(&kv) {
                    let before = self.labels.insert(name.clone(), node.metadata.labels);
                    if before.as_ref() != self.labels.get(name) {
                        self.selection_changed();
                    }
                }
            }
            _ => {}
        }
    }

    fn put_block(&mut self, cidr: IpNet, kv: &KeyValue) {
        let summary = Summary::read(kv);
        let is_own = summary.as_ref().and_then(|s| s.owner.as_ref()).is_some_and(|o| self.owners.contains(o));
        self.set_block(cidr, kv.mod_revision, summary);
        self.blocks.remove(&cidr);
        self.foreign.remove(&cidr);
        if is_own && let Ok(block) = decode_block(kv) {
            self.keep(block);
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::IpamConfig => self.config = IpamConfig::default(),
            key if *key == lock::key() => self.lock = Lock::default(),
            Key::IpamBlock(cidr) => {
                self.remove_block(cidr);
                self.blocks.remove(cidr);
                self.foreign.remove(cidr);
            }
            Key::BlockAffinity(owner, cidr) => self.remove_affinity(owner, cidr),
            Key::Resource { kind: Kind::IpPool, .. } => {
                self.pools.remove(key);
                self.pools_changed();
            }
            Key::Resource { kind: Kind::IpReservation, .. } => {
                self.reservations.remove(key);
                self.reservations_changed();
            }
            Key::Resource { kind: Kind::Node, name, .. } => drop(self.labels.remove(name)),
            _ => {}
        }
    }

    fn set_block(&mut self, cidr: IpNet, revision: Revision, summary: Option<Summary>) {
        self.index.insert(cidr, revision, summary);
        self.match_claims(&cidr);
    }

    fn remove_block(&mut self, cidr: &IpNet) {
        self.index.remove(cidr);
        self.match_claims(cidr);
    }

    fn set_affinity(&mut self, owner: &AffinityOwner, cidr: IpNet, affinity: Versioned<BlockAffinity>) {
        let claims = self.claims.entry(owner.clone()).or_default();
        Arc::make_mut(&mut claims.all).insert(cidr, affinity);
        claims.unchecked.insert(cidr);
        self.match_claims(&cidr);
    }

    fn remove_affinity(&mut self, owner: &AffinityOwner, cidr: &IpNet) {
        if let Some(claims) = self.claims.get_mut(owner) {
            Arc::make_mut(&mut claims.all).remove(cidr);
            claims.unchecked.remove(cidr);
            claims.strays.remove(cidr);
        }
    }

    /// After a change of a block or an affinity: whether they agree.
    fn match_claims(&mut self, cidr: &IpNet) {
        for (owner, claims) in &mut self.claims {
            if claims.all.contains_key(cidr) && !self.index.is_owned(cidr, owner) {
                claims.strays.insert(*cidr);
            } else {
                claims.strays.remove(cidr);
            }
        }
    }

    /// Keeps a block to allocate from.
    fn keep(&mut self, block: Versioned<Block>) {
        let cidr = block.value.cidr();
        if block.value.owner().is_some_and(|o| self.owners.contains(&o)) {
            self.foreign.remove(&cidr);
            self.blocks.insert(cidr, block);
        } else {
            self.blocks.remove(&cidr);
            if self.foreign.len() < MAX_FOREIGN_BLOCKS {
                self.foreign.insert(cidr, block);
            }
        }
    }

    /// What selects the owners may have changed.
    fn selection_changed(&mut self) {
        for claims in self.claims.values_mut() {
            claims.unchecked = claims.all.keys().copied().collect();
        }
    }

    fn pools_changed(&mut self) {
        self.doubts += 1;
        self.all_pools = Arc::new(self.pools.values().cloned().collect());
        self.selection_changed();
    }

    fn reservations_changed(&mut self) {
        let all: Vec<IpReservation> = self.reservations.values().cloned().collect();
        self.all_reservations = Arc::new(Reservations::new(&all));
    }
}

/// What can be read; what cannot is logged and taken as absent, as a listing does.
fn decoded<B: api::meta::Body>(kv: &KeyValue) -> Option<api::Resource<B>> {
    typed::decode(kv).inspect_err(|error| tracing::warn!(%error, "left out an object of the datastore")).ok()
}

#[cfg(test)]
mod tests;
