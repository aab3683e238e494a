//! Releasing: by handle, by address, or all of a node or a pool. A block and the handles it changes are written in one transaction.
//!
//! A block that becomes empty stays with its owner, who will need it again. When nobody owns it, or its owner's Node is gone, it
//! goes, and with it the affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AllocationAttribute, IpamConfig};
use api::key::{AffinityOwner, KeyRange};
use api::{Key, Kind};
use futures::future::{join_all, try_join_all};
use futures::{StreamExt, stream, try_join};
use ipnet::IpNet;

use crate::allocator::{
    Error, Ipam, MAX_BYTES_PER_TXN, MAX_OPS_PER_TXN, Outcome, Retries, Versioned, cooldown, readable_block,
};
use crate::block::Block;
use crate::changes::{AffinityChange, Changes, HandleChange};
use crate::handle;
use crate::lock::Fence;
use crate::pool;

/// Most addresses that one transaction releases; each may change a handle of its own (etcd: 128 operations by default).
const MAX_ADDRESSES_PER_TXN: usize = 64;
/// Blocks of one call that are written at the same time.
const PARALLEL_BLOCKS: usize = 8;

/// An address to release and, where the caller knows them, who must have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRequest {
    pub address: IpAddr,
    /// It must still be this handle's.
    pub handle: Option<String>,
    /// It must still be the allocation with this number (`sequenceNumberForAllocation`): not one that came after.
    pub sequence_number: Option<u64>,
}

impl From<IpAddr> for ReleaseRequest {
    fn from(address: IpAddr) -> Self {
        Self { address, handle: None, sequence_number: None }
    }
}

impl ReleaseRequest {
    /// Refuses an allocation that is not the one meant.
    fn check(&self, block: &Block, attribute: &AllocationAttribute) -> Result<(), Error> {
        let not_the_same = |what, expected: &str, present: Option<String>| Error::NotTheSame {
            ip: self.address,
            what,
            expected: expected.into(),
            present: present.unwrap_or_else(|| "unknown".into()),
        };
        if let Some(handle) = &self.handle
            && attribute.handle_id.as_deref() != Some(handle::sanitized(handle))
        {
            return Err(not_the_same("handle", handle, attribute.handle_id.clone()));
        }
        // What was given before there were numbers has the number 0.
        let sequence = block.sequence_of(self.address).unwrap_or(0);
        match self.sequence_number {
            Some(number) if sequence != number => {
                Err(not_the_same("sequence number", &number.to_string(), Some(sequence.to_string())))
            }
            _ => Ok(()),
        }
    }
}

impl Ipam {
    /// Releases addresses; those that were not allocated are returned (Calico). A request for an allocation that is not there any more as
    /// described stops the release of all addresses of its block, and of no other. Duplicates are harmless.
    ///
    /// # Errors
    /// [`Error::NotTheSame`], [`Error::Store`], [`Error::Contention`], [`Error::Locked`]; then some may have been released.
    pub async fn release_ips(&self, requests: &[ReleaseRequest]) -> Result<Vec<IpAddr>, Error> {
        let (config, fence) = try_join!(self.config(), self.fence())?;
        let mut seen = BTreeSet::new();
        let unique: Vec<&ReleaseRequest> =
            requests.iter().filter(|r| seen.insert((r.address, &r.handle, r.sequence_number))).collect();
        let (by_block, mut unallocated) = self.by_block(&unique).await?;
        let mut parts = Vec::new();
        for (cidr, wanted) in by_block {
            parts.push(self.release_of_block(cidr, wanted, &config, &fence));
        }
        let mut outcomes = stream::iter(parts).buffer_unordered(PARALLEL_BLOCKS);
        let mut first = None;
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(free) => unallocated.extend(free),
                Err(error) => first = first.or(Some(error)),
            }
        }
        unallocated.sort();
        unallocated.dedup();
        first.map_or(Ok(unallocated), Err)
    }

    /// Releases those of the addresses that a handle has; the others are returned and stay with whom they are.
    ///
    /// # Errors
    /// As [`Self::release_ips`].
    pub async fn release_ips_of(&self, handle: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let id = handle::sanitized(handle);
        let requests: Vec<ReleaseRequest> = addresses.iter().copied().map(Into::into).collect();
        let (by_block, mut others) = self.by_block(&requests.iter().collect::<Vec<_>>()).await?;
        let mut mine = Vec::new();
        for (cidr, wanted) in by_block {
            let block = self.peek(cidr).await?;
            for request in wanted {
                let ip = request.address;
                let held = block.as_ref().and_then(|b| b.value.attribute_of(ip)?.handle_id.clone());
                if held.as_deref() == Some(id) {
                    let sequence_number = block.as_ref().and_then(|b| b.value.sequence_of(ip));
                    mine.push(ReleaseRequest { address: ip, handle: Some(id.into()), sequence_number });
                } else {
                    others.push(ip);
                }
            }
        }
        others.extend(self.release_ips(&mine).await?);
        Ok(others)
    }

    /// Releases every address that workloads of a node have, in blocks of whomever; the addresses.
    ///
    /// # Errors
    /// As [`Self::release_ips`]; one that was given again meanwhile is a conflict, and stays.
    pub async fn release_node_addresses(&self, node: &str) -> Result<Vec<IpAddr>, Error> {
        let is_of_node = |_: IpAddr, a: &AllocationAttribute| {
            a.secondary.as_ref().and_then(|s| s.get(api::ipam::attr::NODE)).is_some_and(|n| n == node)
        };
        self.release_where(is_of_node).await
    }

    /// Releases every address inside a pool's CIDR; the addresses.
    ///
    /// # Errors
    /// As [`Self::release_node_addresses`].
    pub async fn release_pool_addresses(&self, pool: IpNet) -> Result<Vec<IpAddr>, Error> {
        self.release_where(|ip, _| pool.contains(&ip)).await
    }

    async fn release_where(&self, wanted: impl Fn(IpAddr, &AllocationAttribute) -> bool) -> Result<Vec<IpAddr>, Error> {
        let mut requests = Vec::new();
        for block in self.store.list(&KeyRange::Blocks).await?.items.iter().filter_map(readable_block) {
            for (address, attribute) in block.value.allocated().filter(|(ip, a)| wanted(*ip, a)) {
                let sequence_number = block.value.sequence_of(address);
                requests.push(ReleaseRequest { address, handle: attribute.handle_id.clone(), sequence_number });
            }
        }
        let gone: BTreeSet<IpAddr> = self.release_ips(&requests).await?.into_iter().collect();
        Ok(requests.into_iter().map(|r| r.address).filter(|ip| !gone.contains(ip)).collect())
    }

    /// The requests by the block that holds their address, and the addresses that no block holds.
    async fn by_block<'a>(
        &self,
        requests: &[&'a ReleaseRequest],
    ) -> Result<(BTreeMap<IpNet, Vec<&'a ReleaseRequest>>, Vec<IpAddr>), Error> {
        let pools = self.pools().await?;
        let mut exists: BTreeMap<IpNet, bool> = BTreeMap::new();
        let mut all: Option<Vec<IpNet>> = None;
        let mut by_block: BTreeMap<IpNet, Vec<&ReleaseRequest>> = BTreeMap::new();
        let mut nowhere = Vec::new();
        for request in requests {
            let ip = request.address;
            let mut found = None;
            for cidr in pools.iter().filter_map(|p| pool::block_of(p, ip)) {
                let is_there = match exists.get(&cidr) {
                    Some(known) => *known,
                    None => self.store.get(&Key::IpamBlock(cidr)).await?.is_some(),
                };
                exists.insert(cidr, is_there);
                found = found.or(is_there.then_some(cidr));
            }
            if found.is_none() {
                // Of a pool that is gone, or had another block size.
                if all.is_none() {
                    let listing = self.store.list(&KeyRange::Blocks).await?;
                    let cidr = |kv: datastore::KeyValue| match kv.key {
                        Key::IpamBlock(cidr) => Some(cidr),
                        _ => None,
                    };
                    all = Some(listing.items.into_iter().filter_map(cidr).collect());
                }
                found = all.iter().flatten().find(|cidr| cidr.contains(&ip)).copied();
            }
            match found {
                Some(cidr) => by_block.entry(cidr).or_default().push(request),
                None => nowhere.push(ip),
            }
        }
        Ok((by_block, nowhere))
    }

    /// Releases addresses of one block; those that were not allocated. All requests are checked before the first is done.
    async fn release_of_block(
        &self,
        cidr: IpNet,
        wanted: Vec<&ReleaseRequest>,
        config: &IpamConfig,
        fence: &Fence<'_>,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut free = Vec::new();
        if wanted.len() > MAX_ADDRESSES_PER_TXN
            && let Some(block) = self.peek(cidr).await?
        {
            let is_right =
                |r: &&ReleaseRequest| block.value.attribute_of(r.address).map_or(Ok(()), |a| r.check(&block.value, a));
            wanted.iter().try_for_each(is_right)?;
        }
        for chunk in wanted.chunks(MAX_ADDRESSES_PER_TXN) {
            let released = self.release_in(cidr, chunk, config, fence.clone()).await?;
            free.extend(chunk.iter().map(|r| r.address).filter(|ip| !released.contains(ip)));
        }
        Ok(free)
    }

    /// Releases addresses of one block in one transaction; those that were allocated.
    async fn release_in(
        &self,
        cidr: IpNet,
        wanted: &[&ReleaseRequest],
        config: &IpamConfig,
        mut fence: Fence<'_>,
    ) -> Result<BTreeSet<IpAddr>, Error> {
        let mut retries = Retries::new(self, format!("release addresses of block {cidr}"));
        // What an attempt with an unknown outcome may have released, by the number of the allocation.
        let mut perhaps: BTreeMap<IpAddr, Option<u64>> = BTreeMap::new();
        loop {
            // Read: that an address is free, or another's, is an answer that no write confirms.
            let Some(mut block) = self.peek(cidr).await? else { return Ok(perhaps.into_keys().collect()) };
            let mut addresses = BTreeSet::new();
            for request in wanted {
                let ip = request.address;
                let Some(attribute) = block.value.attribute_of(ip) else { continue };
                if perhaps.get(&ip).is_some_and(|number| *number != block.value.sequence_of(ip)) {
                    // It happened, and the address is somebody else's by now.
                    continue;
                }
                request.check(&block.value, attribute)?;
                addresses.insert(ip);
            }
            if addresses.is_empty() {
                return Ok(perhaps.into_keys().collect());
            }
            let numbers: Vec<_> = addresses.iter().map(|ip| (*ip, block.value.sequence_of(*ip))).collect();
            let list: Vec<IpAddr> = addresses.into_iter().collect();
            let released = block.value.release(&list, self.now(), cooldown(config));
            let mut changes = fence.changes();
            let handles: BTreeSet<String> = released.into_iter().filter_map(|r| r.handle).collect();
            let mut reads = Vec::new();
            for id in &handles {
                reads.push(self.handle(id));
            }
            for (id, before) in handles.iter().zip(try_join_all(reads).await?) {
                let mut after = before.value.clone();
                handle::set(&mut after, cidr, block.value.addresses_of(id).len());
                if before.revision != 0 || !after.block.is_empty() {
                    changes.handles.insert(id.clone(), HandleChange { before, after });
                } else {
                    // Unless it is there after all.
                    changes.checks.insert(Key::IpamHandle(id.clone()), 0);
                }
            }
            self.put_released(&mut changes, block).await?;
            match self.write_changes(changes).await? {
                Outcome::Done => {
                    perhaps.extend(numbers);
                    return Ok(perhaps.into_keys().collect());
                }
                Outcome::Retry(error) | Outcome::Open(error, _) => {
                    if matches!(error, datastore::Error::Unknown(_)) {
                        perhaps.extend(numbers);
                    }
                    fence.renew(&error).await?;
                    retries.again(error).await?;
                }
            }
        }
    }

    /// Releases everything that a handle has; the addresses. That nobody knows the handle is success.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Contention`], [`Error::Locked`].
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        let mut outcomes = self.release_handles(&[handle]).await;
        outcomes.pop().expect("an outcome for each handle")
    }

    /// Releases everything that some handles have, in as few transactions as it fits in; the addresses of each, in the order of the
    /// handles.
    pub async fn release_handles(&self, handles: &[&str]) -> Vec<Result<Vec<IpAddr>, Error>> {
        let mut todo: BTreeMap<String, Releasing> =
            handles.iter().map(|h| (handle::sanitized(h).to_string(), Releasing::default())).collect();
        let mut done: BTreeMap<String, Result<Vec<IpAddr>, Error>> = BTreeMap::new();
        if let Err(error) = self.release_all(&mut todo, &mut done).await {
            done.extend(todo.into_keys().map(|id| (id, Err(error.clone()))));
        }
        let outcome = |h: &&str| done.get(handle::sanitized(h)).cloned().unwrap_or_else(|| Ok(vec![]));
        handles.iter().map(outcome).collect()
    }

    async fn release_all(
        &self,
        todo: &mut BTreeMap<String, Releasing>,
        done: &mut BTreeMap<String, Result<Vec<IpAddr>, Error>>,
    ) -> Result<(), Error> {
        let (config, mut fence) = try_join!(self.config(), self.fence())?;
        let first = todo.keys().next().cloned().unwrap_or_default();
        let mut retries = Retries::new(self, format!("release handle {first}"));
        while !todo.is_empty() {
            let ids: Vec<String> = todo.keys().cloned().collect();
            // One key at a time: blocks are written before it is seen that the handle counts others by now. So it is read truly.
            let held = match self.store.has_transactions() {
                true => join_all(ids.iter().map(|id| self.handle(id))).await,
                false => join_all(ids.iter().map(|id| self.stored_handle(id))).await,
            };
            let mut changes = fence.changes();
            let mut blocks: BTreeMap<IpNet, Option<Versioned<Block>>> = BTreeMap::new();
            // Bytes of the blocks.
            let mut size = 0;
            for (id, before) in ids.iter().zip(held) {
                let before = match before {
                    // It is that handle's error alone.
                    Err(error @ Error::Store(datastore::Error::Corrupt { .. })) => {
                        todo.remove(id);
                        done.insert(id.clone(), Err(error));
                        continue;
                    }
                    before => before?,
                };
                let Some(releasing) = todo.get_mut(id) else { continue };
                if before.revision == 0 {
                    // Gone; after an unknown outcome, it happened.
                    let unsure = std::mem::take(&mut releasing.unsure);
                    for given in unsure {
                        if !self.is_held(id, &given).await? {
                            releasing.add([given.ip]);
                        }
                    }
                    let released = std::mem::take(&mut releasing.released);
                    todo.remove(id);
                    done.insert(id.clone(), Ok(released));
                    continue;
                }
                // Each handle, block, and perhaps an affinity and a block's deletion are an operation, and the lock's condition.
                if changes.handles.len() + 2 * blocks.len() + 4 > MAX_OPS_PER_TXN {
                    break;
                }
                if !changes.handles.is_empty() && !self.store.has_transactions() {
                    break;
                }
                releasing.perhaps.clear();
                let mut after = before.value.clone();
                let mut unread = None;
                for cidr in handle::blocks(&before.value) {
                    if !blocks.contains_key(&cidr) {
                        let is_full = blocks.len() >= self.max_blocks()
                            || changes.handles.len() + 2 * blocks.len() + 6 > MAX_OPS_PER_TXN;
                        if is_full {
                            break;
                        }
                        let block = match self.block(cidr).await {
                            // What it has there stays, and the rest goes.
                            Err(error @ Error::Store(datastore::Error::Corrupt { .. })) => {
                                unread = Some(error);
                                continue;
                            }
                            block => block?,
                        };
                        let len = block.as_ref().map_or(0, |b| b.value.stored_len());
                        if size > 0 && size + len > MAX_BYTES_PER_TXN {
                            block.into_iter().for_each(|b| self.give_back(b));
                            break;
                        }
                        size += len;
                        blocks.insert(cidr, block);
                    }
                    after.block.retain(|text, _| text.parse().ok() != Some(cidr));
                    let Some(Some(block)) = blocks.get_mut(&cidr) else {
                        // A block that is gone has taken its addresses with it.
                        changes.checks.insert(Key::IpamBlock(cidr), 0);
                        continue;
                    };
                    let mine = block.value.addresses_of(id);
                    let given = |ip: &IpAddr| Given { ip: *ip, block: cidr, number: block.value.sequence_of(*ip) };
                    releasing.perhaps.extend(mine.iter().map(given));
                    block.value.release(&mine, self.now(), cooldown(&config));
                }
                // What is left in the handle but no CIDR names no address.
                after.block.retain(|cidr, _| cidr.parse::<IpNet>().is_ok());
                releasing.is_all = after.block.is_empty();
                if !releasing.is_all && after.block == before.value.block {
                    match unread {
                        Some(error) => {
                            todo.remove(id);
                            done.insert(id.clone(), Err(error));
                        }
                        // Its blocks have no room in this transaction.
                        None => break,
                    }
                    continue;
                }
                changes.handles.insert(id.clone(), HandleChange { before, after });
            }
            for block in blocks.into_values().flatten() {
                self.put_released(&mut changes, block).await?;
            }
            let written: Vec<String> = changes.handles.keys().cloned().collect();
            match self.write_changes(changes).await? {
                Outcome::Done => {
                    for id in written {
                        let Some(releasing) = todo.get_mut(&id) else { continue };
                        let released = std::mem::take(&mut releasing.perhaps);
                        releasing.add(released.iter().map(|given| given.ip));
                        if releasing.is_all {
                            // What it does not have any more, an earlier attempt has released.
                            let unsure = std::mem::take(&mut releasing.unsure);
                            releasing.add(unsure.iter().map(|given| given.ip));
                            let released = std::mem::take(&mut releasing.released);
                            todo.remove(&id);
                            done.insert(id, Ok(released));
                        }
                    }
                }
                Outcome::Retry(error) | Outcome::Open(error, _) => {
                    let is_unknown = matches!(error, datastore::Error::Unknown(_));
                    for releasing in todo.values_mut() {
                        let perhaps = std::mem::take(&mut releasing.perhaps);
                        if is_unknown {
                            releasing.unsure.extend(perhaps);
                        }
                    }
                    fence.renew(&error).await?;
                    retries.again(error).await?;
                }
            }
        }
        Ok(())
    }

    /// Adds the write of a block that gave addresses back: with nobody to use it again, it goes.
    async fn put_released(&self, changes: &mut Changes, block: Versioned<Block>) -> Result<(), Error> {
        let cidr = block.value.cidr();
        match block.value.owner() {
            None if block.value.is_empty() => changes.delete(block),
            Some(AffinityOwner::Host(node)) if block.value.is_empty() && !self.has_node(&node).await? => {
                let owner = AffinityOwner::Host(node);
                let affinity = self.store.get(&Key::BlockAffinity(owner.clone(), cidr)).await?;
                if let Some(affinity) = affinity {
                    changes.affinity(&owner, cidr, AffinityChange::Delete(affinity.mod_revision));
                }
                changes.delete(block);
            }
            _ => changes.write(block, vec![]),
        }
        Ok(())
    }

    async fn has_node(&self, name: &str) -> Result<bool, Error> {
        if self.known().is_some_and(|s| s.labels_of(name).is_some()) {
            return Ok(true);
        }
        Ok(self.store.get(&Key::resource(Kind::Node, None, name)).await?.is_some())
    }

    /// Whether a handle has an address still, of that very allocation: it may have got it anew.
    async fn is_held(&self, id: &str, given: &Given) -> Result<bool, Error> {
        let Some(block) = self.peek(given.block).await? else { return Ok(false) };
        let is_mine = block.value.attribute_of(given.ip).is_some_and(|a| a.handle_id.as_deref() == Some(id));
        Ok(is_mine && block.value.sequence_of(given.ip) == given.number)
    }
}

/// An address that a handle has in a block, and the number of that allocation.
struct Given {
    ip: IpAddr,
    block: IpNet,
    number: Option<u64>,
}

/// How far the release of a handle is.
#[derive(Default)]
struct Releasing {
    released: Vec<IpAddr>,
    /// What the transaction under way releases.
    perhaps: Vec<Given>,
    /// Whether nothing is left after it.
    is_all: bool,
    /// What attempts with an unknown outcome may have released.
    unsure: Vec<Given>,
}

impl Releasing {
    fn add(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for ip in addresses {
            if !self.released.contains(&ip) {
                self.released.push(ip);
            }
        }
    }
}
