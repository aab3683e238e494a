//! Releasing: by handle, by address, or all of a node or a pool. A block and the handles it changes are written in one transaction.
//!
//! A block that becomes empty stays with its owner, who will need it again. When nobody owns it, or its owner's Node is gone, it
//! goes, and with it the affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AllocationAttribute, IpamConfig};
use api::key::{AffinityOwner, KeyRange};
use api::{Key, Kind};
use datastore::Op;
use futures::future::try_join_all;
use futures::{StreamExt, stream};
use ipnet::IpNet;

use crate::allocator::{
    Error, Ipam, MAX_BLOCKS_PER_TXN, Outcome, Retries, Versioned, cooldown, readable_block, write_block, write_handle,
};
use crate::block::Block;
use crate::handle;
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
        let sequence = block.sequence_of(self.address);
        match self.sequence_number {
            Some(number) if sequence != Some(number) => {
                Err(not_the_same("sequence number", &number.to_string(), sequence.map(|n| n.to_string())))
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
    /// [`Error::NotTheSame`], [`Error::Store`], [`Error::Contention`]; then some may have been released.
    pub async fn release_ips(&self, requests: &[ReleaseRequest]) -> Result<Vec<IpAddr>, Error> {
        let config = self.config().await?;
        let mut seen = BTreeSet::new();
        let unique: Vec<&ReleaseRequest> =
            requests.iter().filter(|r| seen.insert((r.address, &r.handle, r.sequence_number))).collect();
        let (by_block, mut unallocated) = self.by_block(&unique).await?;
        let mut parts = Vec::new();
        for (cidr, wanted) in by_block {
            parts.push(self.release_of_block(cidr, wanted, &config));
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
            let block = self.block(cidr).await?;
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
    ) -> Result<Vec<IpAddr>, Error> {
        let mut free = Vec::new();
        if wanted.len() > MAX_ADDRESSES_PER_TXN
            && let Some(block) = self.block(cidr).await?
        {
            for request in &wanted {
                block.value.attribute_of(request.address).map_or(Ok(()), |a| request.check(&block.value, a))?;
            }
        }
        for chunk in wanted.chunks(MAX_ADDRESSES_PER_TXN) {
            let released = self.release_in(cidr, chunk, config).await?;
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
    ) -> Result<BTreeSet<IpAddr>, Error> {
        let mut retries = Retries::new(self, format!("release addresses of block {cidr}"));
        // What an attempt with an unknown outcome may have released, by the number of the allocation.
        let mut perhaps: BTreeMap<IpAddr, Option<u64>> = BTreeMap::new();
        loop {
            let Some(mut block) = self.block(cidr).await? else { return Ok(perhaps.into_keys().collect()) };
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
            let mut ops = self.write_released(&block).await?;
            let handles: BTreeSet<String> = released.into_iter().filter_map(|r| r.handle).collect();
            let mut reads = Vec::new();
            for id in &handles {
                reads.push(self.handle(id));
            }
            for (id, mut held) in handles.iter().zip(try_join_all(reads).await?) {
                handle::set(&mut held.value, cidr, block.value.addresses_of(id).len());
                ops.extend(write_handle(id, &held));
            }
            match self.write(ops).await? {
                Outcome::Done => {
                    perhaps.extend(numbers);
                    return Ok(perhaps.into_keys().collect());
                }
                Outcome::Retry(error) => {
                    if matches!(error, datastore::Error::Unknown(_)) {
                        perhaps.extend(numbers);
                    }
                    retries.again(error).await?;
                }
            }
        }
    }

    /// Releases everything that a handle has; the addresses. That nobody knows the handle is success.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Contention`].
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        let id = handle::sanitized(handle);
        let config = self.config().await?;
        let mut retries = Retries::new(self, format!("release handle {id}"));
        let mut released = Vec::new();
        loop {
            let mut held = self.handle(id).await?;
            if held.revision == 0 {
                return Ok(released);
            }
            let now = self.now();
            let mut ops = Vec::new();
            let mut addresses = Vec::new();
            for cidr in handle::blocks(&held.value).into_iter().take(MAX_BLOCKS_PER_TXN) {
                held.value.block.remove(&cidr.to_string());
                // A block that is gone has taken its addresses with it.
                let Some(mut block) = self.block(cidr).await? else { continue };
                let mine = block.value.addresses_of(id);
                if !mine.is_empty() {
                    block.value.release(&mine, now, cooldown(&config));
                    ops.extend(self.write_released(&block).await?);
                    addresses.extend(mine);
                }
            }
            // What is left in the handle but no CIDR names no address.
            held.value.block.retain(|cidr, _| cidr.parse::<IpNet>().is_ok());
            ops.extend(write_handle(id, &held));
            match self.write(ops).await? {
                Outcome::Done => released.extend(addresses),
                // After an unknown outcome the handle is read again: gone, it happened.
                Outcome::Retry(error) => {
                    if matches!(error, datastore::Error::Unknown(_)) && self.are_free(id, &addresses).await? {
                        released.extend(addresses);
                    }
                    retries.again(error).await?;
                }
            }
        }
    }

    /// The writes of a block that gave addresses back.
    async fn write_released(&self, block: &Versioned<Block>) -> Result<Vec<Op>, Error> {
        if !block.value.is_empty() {
            return Ok(vec![write_block(block)]);
        }
        let cidr = block.value.cidr();
        let delete = Op::Delete(Key::IpamBlock(cidr), Some(block.revision));
        match block.value.owner() {
            None => Ok(vec![delete]),
            Some(AffinityOwner::Host(node)) if !self.has_node(&node).await? => {
                let key = Key::BlockAffinity(AffinityOwner::Host(node), cidr);
                let affinity = self.store.get(&key).await?;
                Ok([Some(delete), affinity.map(|a| Op::Delete(key, Some(a.mod_revision)))]
                    .into_iter()
                    .flatten()
                    .collect())
            }
            Some(_) => Ok(vec![write_block(block)]),
        }
    }

    async fn has_node(&self, name: &str) -> Result<bool, Error> {
        Ok(self.store.get(&Key::resource(Kind::Node, None, name)).await?.is_some())
    }

    /// Whether a handle has none of these addresses any more.
    async fn are_free(&self, id: &str, addresses: &[IpAddr]) -> Result<bool, Error> {
        for &ip in addresses {
            let info = self.ip_info(ip).await?;
            if info.is_some_and(|i| i.handle.as_deref() == Some(id)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
