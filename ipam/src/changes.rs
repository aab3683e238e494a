//! What one decision writes: blocks, affinities and handles together, as one transaction or, where the store has none, in an order
//! that is safe to be cut off ([`crate::ordered`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Key;
use api::ipam::{AffinityState, AllocationAttribute, BlockAffinity, IpamHandle};
use api::key::AffinityOwner;
use datastore::{Op, Revision};
use ipnet::IpNet;

use crate::allocator::{Versioned, encode};
use crate::block::Block;

/// What becomes of a block.
pub(crate) struct BlockChange {
    pub block: Versioned<Block>,
    pub is_deleted: bool,
    /// Addresses that the change gives to somebody.
    pub taken: Vec<IpAddr>,
}

/// What becomes of an affinity.
#[derive(Clone, Debug)]
pub(crate) enum AffinityChange {
    /// Confirmed; from what was read, or made.
    Confirm(Option<Versioned<BlockAffinity>>),
    Delete(Revision),
}

/// A handle as it was read, and as it is to be.
pub(crate) struct HandleChange {
    pub before: Versioned<IpamHandle>,
    pub after: IpamHandle,
}

/// Conditional writes that belong together.
#[derive(Default)]
pub(crate) struct Changes {
    /// What else must not have changed.
    pub checks: BTreeMap<Key, Revision>,
    pub blocks: BTreeMap<IpNet, BlockChange>,
    pub affinities: BTreeMap<(AffinityOwner, IpNet), AffinityChange>,
    pub handles: BTreeMap<String, HandleChange>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.affinities.is_empty() && self.handles.is_empty()
    }

    pub fn len(&self) -> usize {
        self.checks.len() + self.blocks.len() + self.affinities.len() + self.handles.len()
    }

    /// A block as it is to be, with the addresses that it gives.
    pub fn write(&mut self, block: Versioned<Block>, taken: Vec<IpAddr>) {
        let cidr = block.value.cidr();
        self.blocks.insert(cidr, BlockChange { block, is_deleted: false, taken });
    }

    /// A block that goes.
    pub fn delete(&mut self, block: Versioned<Block>) {
        let cidr = block.value.cidr();
        self.blocks.insert(cidr, BlockChange { block, is_deleted: true, taken: vec![] });
    }

    pub fn affinity(&mut self, owner: &AffinityOwner, cidr: IpNet, change: AffinityChange) {
        self.affinities.insert((owner.clone(), cidr), change);
    }

    /// An affinity that goes because its block is another's, at this revision, or is not there (0): unless that has changed.
    pub fn untrue_affinity(&mut self, owner: &AffinityOwner, cidr: IpNet, at: Revision, block: Revision) {
        self.affinity(owner, cidr, AffinityChange::Delete(at));
        self.checks.insert(Key::IpamBlock(cidr), block);
    }

    /// The transaction.
    pub fn ops(&self) -> Vec<Op> {
        // What is written is written at its revision.
        let is_written = |key: &Key| matches!(key, Key::IpamBlock(cidr) if self.blocks.contains_key(cidr));
        let checks = self.checks.iter().filter(|(key, _)| !is_written(key));
        let checks = checks.map(|(key, revision)| Op::Check(key.clone(), *revision));
        let blocks = self.blocks.values().map(write_block);
        let affinities = self.affinities.iter().map(|((owner, cidr), change)| {
            let key = Key::BlockAffinity(owner.clone(), *cidr);
            match change {
                AffinityChange::Confirm(before) => write_affinity(key, before.as_ref(), AffinityState::Confirmed),
                AffinityChange::Delete(at) => Op::Delete(key, Some(*at)),
            }
        });
        let handles = self.handles.iter().filter_map(|(id, change)| write_handle(id, change));
        checks.chain(blocks).chain(affinities).chain(handles).collect()
    }
}

/// The operation that writes a block: made, changed, or gone.
pub(crate) fn write_block(change: &BlockChange) -> Op {
    let Versioned { value: block, revision } = &change.block;
    let key = Key::IpamBlock(block.cidr());
    match (change.is_deleted, *revision) {
        (true, revision) => Op::Delete(key, Some(revision)),
        (false, 0) => Op::Create(key, encode(block)),
        (false, revision) => Op::Update(key, encode(block), revision),
    }
}

/// The operation that writes a handle: made, changed, or gone when it is empty. None when it neither was nor is.
pub(crate) fn write_handle(id: &str, change: &HandleChange) -> Option<Op> {
    let key = Key::IpamHandle(id.into());
    match (change.before.revision, change.after.block.is_empty()) {
        (0, true) => None,
        (0, false) => Some(Op::Create(key, encode(&change.after))),
        (revision, true) => Some(Op::Delete(key, Some(revision))),
        (revision, false) => Some(Op::Update(key, encode(&change.after), revision)),
    }
}

/// The operation that writes an affinity in a state: made, or changed.
pub(crate) fn write_affinity(key: Key, before: Option<&Versioned<BlockAffinity>>, state: AffinityState) -> Op {
    match before {
        Some(known) => Op::Update(key, encode(&in_state(known.value.clone(), state)), known.revision),
        None => Op::Create(key, encode(&BlockAffinity::new(state))),
    }
}

/// What was read, in another state.
pub(crate) fn in_state(read: BlockAffinity, state: AffinityState) -> BlockAffinity {
    BlockAffinity { state, deleted: false, ..read }
}

/// Whether the block shows an address that was taken by the write that `written` describes. One is enough: it carries the time of that
/// attempt and the number of that write, and somebody may have released the others since.
pub(crate) fn happened(read: &Block, written: &BlockChange) -> bool {
    let shows = |ip: &IpAddr| {
        let same = |a: &AllocationAttribute| Some(a) == written.block.value.attribute_of(*ip);
        read.attribute_of(*ip).is_some_and(same) && read.sequence_of(*ip) == written.block.value.sequence_of(*ip)
    };
    written.taken.iter().any(shows)
}
