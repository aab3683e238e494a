//! Releasing: by handle, or by address. A block and the handles it changes are written in one transaction.
//!
//! A block that becomes empty stays with its owner, who will need it again. When nobody owns it, or its owner's Node is gone, it
//! goes, and with it the affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::IpamConfig;
use api::key::AffinityOwner;
use api::{Key, Kind};
use datastore::Op;
use ipnet::IpNet;

use crate::allocator::{
    Error, Ipam, MAX_BLOCKS_PER_TXN, Outcome, Retries, Versioned, cooldown, write_block, write_handle,
};
use crate::block::Block;
use crate::handle;

/// Most addresses that one transaction releases; each may change a handle of its own (etcd: 128 operations by default).
const MAX_ADDRESSES_PER_TXN: usize = 64;

impl Ipam {
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

    /// Releases addresses, whoever has them; those that were not allocated are returned (Calico).
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Contention`]; then some may have been released.
    pub async fn release_ips(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        self.release(addresses, None).await
    }

    /// Releases those of the addresses that a handle has; the others are returned and stay with whom they are.
    ///
    /// # Errors
    /// As [`Self::release_ips`].
    pub async fn release_ips_of(&self, handle: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        self.release(addresses, Some(handle::sanitized(handle))).await
    }

    async fn release(&self, addresses: &[IpAddr], holder: Option<&str>) -> Result<Vec<IpAddr>, Error> {
        let config = self.config().await?;
        let pools = self.pools().await?;
        let mut by_block: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        let mut unallocated = Vec::new();
        for &ip in addresses {
            match self.block_with(ip, &pools).await? {
                Some(block) => by_block.entry(block.value.cidr()).or_default().push(ip),
                None => unallocated.push(ip),
            }
        }
        for (cidr, wanted) in by_block {
            for chunk in wanted.chunks(MAX_ADDRESSES_PER_TXN) {
                let released = self.release_in(cidr, chunk, holder, &config).await?;
                unallocated.extend(chunk.iter().filter(|ip| !released.contains(ip)));
            }
        }
        Ok(unallocated)
    }

    /// Releases addresses of one block, with `holder` only what that handle has; those that were allocated.
    async fn release_in(
        &self,
        cidr: IpNet,
        wanted: &[IpAddr],
        holder: Option<&str>,
        config: &IpamConfig,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut retries = Retries::new(self, format!("release addresses of block {cidr}"));
        // Addresses that an earlier attempt with an unknown outcome may have released.
        let mut perhaps: Vec<IpAddr> = Vec::new();
        loop {
            let Some(mut block) = self.block(cidr).await? else { return Ok(perhaps) };
            let wanted: Vec<IpAddr> = match holder {
                Some(id) => block.value.addresses_of(id).into_iter().filter(|ip| wanted.contains(ip)).collect(),
                None => wanted.to_vec(),
            };
            let released = block.value.release(&wanted, self.now(), cooldown(config));
            if released.is_empty() {
                return Ok(perhaps);
            }
            let mut ops = self.write_released(&block).await?;
            let handles: BTreeSet<&str> = released.iter().filter_map(|r| r.handle.as_deref()).collect();
            for id in handles {
                let mut held = self.handle(id).await?;
                handle::set(&mut held.value, cidr, block.value.addresses_of(id).len());
                ops.extend(write_handle(id, &held));
            }
            let addresses: Vec<IpAddr> = released.into_iter().map(|r| r.address).collect();
            match self.write(ops).await? {
                Outcome::Done => {
                    perhaps.retain(|ip| !addresses.contains(ip));
                    perhaps.extend(addresses);
                    return Ok(perhaps);
                }
                Outcome::Retry(error) => {
                    if matches!(error, datastore::Error::Unknown(_)) {
                        perhaps = addresses;
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
