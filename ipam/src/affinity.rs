//! Taking blocks back from their owners (Calico `libcalico-go/lib/ipam/ipam.go` `ReleaseAffinity` and its kin). The assignment of
//! a block is part of the allocation that needs it: [`crate::assign`].
//!
//! A block that is given up and empty is deleted; one with addresses in use stays, owned by nobody, until the last of them is
//! released. Block and affinity change in one transaction.

use std::collections::BTreeSet;

use api::Key;
use api::key::{AffinityOwner, KeyRange};
use futures::try_join;
use ipnet::IpNet;

use crate::allocator::{Error, Ipam, Outcome, Retries, cooldown, readable_block};
use crate::changes::AffinityChange;

impl Ipam {
    /// Takes one block from its owner. A block that is not this owner's, or is gone, only loses the untrue affinity; that nothing
    /// is to be done is success.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] where `must_be_empty` and an address is in use or cooling down; [`Error::Store`], [`Error::Contention`].
    pub async fn release_block_affinity(
        &self,
        cidr: IpNet,
        owner: &AffinityOwner,
        must_be_empty: bool,
    ) -> Result<(), Error> {
        let cidr = cidr.trunc();
        let (config, mut fence) = try_join!(self.config(), self.fence())?;
        let cooldown = cooldown(&config);
        let mut retries = Retries::new(self, format!("release the affinity of block {cidr}"));
        let key = Key::BlockAffinity(owner.clone(), cidr);
        loop {
            let mut changes = fence.changes();
            let affinity = self.store.get(&key).await?.map(|kv| kv.mod_revision);
            let block = self.peek(cidr).await?;
            let present = block.as_ref().map_or(0, |b| b.revision);
            let block = block.filter(|b| b.value.owner().as_ref() == Some(owner));
            match affinity {
                Some(at) if block.is_none() => changes.untrue_affinity(owner, cidr, at, present),
                Some(at) => changes.affinity(owner, cidr, AffinityChange::Delete(at)),
                None => {}
            }
            if let Some(mut block) = block {
                block.value.thaw(self.now(), cooldown);
                if block.value.is_empty() {
                    changes.delete(block);
                } else if must_be_empty {
                    return Err(Error::NotEmpty(cidr));
                } else {
                    block.value.clear_owner();
                    changes.write(block, vec![]);
                }
            }
            match self.write_changes(changes).await? {
                Outcome::Done => return Ok(()),
                Outcome::Retry(error) | Outcome::Open(error, _) => {
                    fence.renew(&error).await?;
                    retries.again(error).await?;
                }
            }
        }
    }

    /// Takes all blocks from an owner; those that it had. Goes on after an error.
    ///
    /// # Errors
    /// The first of those of [`Self::release_block_affinity`].
    pub async fn release_host_affinities(
        &self,
        owner: &AffinityOwner,
        must_be_empty: bool,
    ) -> Result<Vec<IpNet>, Error> {
        let listing = self.store.list(&KeyRange::AffinitiesOf(owner.clone())).await?;
        let mut claims: BTreeSet<(IpNet, AffinityOwner)> = listing.items.into_iter().filter_map(claim).collect();
        // A block whose affinity was lost is the owner's all the same.
        let blocks = self.store.list(&KeyRange::Blocks).await?.items;
        let owned = blocks.iter().filter_map(readable_block).filter(|b| b.value.owner().as_ref() == Some(owner));
        claims.extend(owned.map(|b| (b.value.cidr(), owner.clone())));
        self.release_claims(claims, must_be_empty).await
    }

    /// Takes all blocks inside a pool's CIDR from their owners, whoever they are; those that had one. Goes on after an error.
    ///
    /// # Errors
    /// The first of those of [`Self::release_block_affinity`].
    pub async fn release_pool_affinities(&self, pool: IpNet) -> Result<Vec<IpNet>, Error> {
        let mut claims = BTreeSet::new();
        for range in [KeyRange::HostAffinities, KeyRange::VirtualAffinities] {
            claims.extend(self.store.list(&range).await?.items.into_iter().filter_map(claim));
        }
        let blocks = self.store.list(&KeyRange::Blocks).await?.items;
        let owned = blocks.iter().filter_map(readable_block);
        claims.extend(owned.filter_map(|b| Some((b.value.cidr(), b.value.owner()?))));
        claims.retain(|(cidr, _)| pool.contains(cidr));
        self.release_claims(claims, false).await
    }

    /// Forgets a node that is gone: takes its blocks. Its addresses in use stay until they are released
    /// ([`Self::release_node_addresses`]). That there is nothing to forget is success.
    ///
    /// # Errors
    /// As [`Self::release_host_affinities`].
    pub async fn remove_host(&self, name: &str) -> Result<(), Error> {
        self.release_host_affinities(&AffinityOwner::Host(name.into()), false).await.map(drop)
    }

    async fn release_claims(
        &self,
        claims: BTreeSet<(IpNet, AffinityOwner)>,
        must_be_empty: bool,
    ) -> Result<Vec<IpNet>, Error> {
        let mut first = None;
        let mut released = Vec::new();
        for (cidr, owner) in claims {
            match self.release_block_affinity(cidr, &owner, must_be_empty).await {
                Ok(()) => released.push(cidr),
                Err(error) => {
                    tracing::debug!(%cidr, %error, "an affinity is kept");
                    first = first.or(Some(error));
                }
            }
        }
        first.map_or(Ok(released), Err)
    }
}

fn claim(kv: datastore::KeyValue) -> Option<(IpNet, AffinityOwner)> {
    match kv.key {
        Key::BlockAffinity(owner, cidr) => Some((cidr, owner)),
        _ => None,
    }
}
