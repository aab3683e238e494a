//! Assigning: which blocks an allocation touches, and the one transaction that writes it (order of decisions: Calico
//! `libcalico-go/lib/ipam/ipam.go` `autoAssign`).
//!
//! For each family: the owner's own blocks; then a block that nobody has; then one that lies empty with another owner; then,
//! unless `strictAffinity` forbids it, an address borrowed from another owner's block. Unlike Calico, a host at its block limit
//! borrows before it fails, and both families are written together or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ip_pool::AllowedUse;
use api::ipam::{BlockAffinity, IpamConfig};
use api::key::{AffinityOwner, KeyRange};
use api::{IpPool, Key, Namespace};
use datastore::Op;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::allocator::{DEFAULT_MAX_BLOCKS_PER_HOST, Error, Ipam, Outcome, Retries, Versioned, completed_attributes};
use crate::attempt::{Attempt, decode_affinity};
use crate::block::Assignee;
use crate::handle;
use crate::pool::{self, Family, Reservations, Wanted};

/// What a workload, node or service wants.
#[derive(Clone, Debug)]
pub struct AssignRequest {
    pub num_v4: usize,
    pub num_v6: usize,
    pub handle: String,
    /// Stored with the address ([`api::ipam::attr`]); `node` and `timestamp` are filled in where absent.
    pub attributes: BTreeMap<String, String>,
    pub owner: AffinityOwner,
    /// Pools asked for by CIDR: used whatever their selectors say. Empty: all that match.
    pub pools_v4: Vec<IpNet>,
    pub pools_v6: Vec<IpNet>,
    pub intended_use: AllowedUse,
    /// Decides `namespaceSelector`s.
    pub namespace: Option<Namespace>,
}

impl AssignRequest {
    /// A request of `owner` for nothing yet, in all pools that match; for services where the owner is no node.
    pub fn new(owner: AffinityOwner, handle: impl Into<String>) -> Self {
        let intended_use = match owner {
            AffinityOwner::Host(_) => AllowedUse::Workload,
            AffinityOwner::Virtual(_) => AllowedUse::LoadBalancer,
        };
        Self {
            num_v4: 0,
            num_v6: 0,
            handle: handle.into(),
            attributes: BTreeMap::new(),
            owner,
            pools_v4: vec![],
            pools_v6: vec![],
            intended_use,
            namespace: None,
        }
    }
}

/// What was assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Addresses, each with the mask of its block.
    pub v4: Vec<IpNet>,
    pub v6: Vec<IpNet>,
    /// Why there are fewer than were asked for, in Calico's words; `None` when there are not.
    pub message: Option<String>,
}

impl Ipam {
    /// Assigns addresses. Fewer than were asked for is no error: see [`Assignment::message`].
    ///
    /// # Errors
    /// [`Error`]; then nothing was assigned, except where the store cannot even be read any more after an unknown outcome:
    /// [`Ipam::release_by_handle`] covers that.
    pub async fn auto_assign(&self, request: &AssignRequest) -> Result<Assignment, Error> {
        self.assign(request, false).await
    }

    /// As [`Self::auto_assign`], but addresses that the handle has already count: a repeated request gets the same answer.
    ///
    /// # Errors
    /// As [`Self::auto_assign`].
    pub async fn ensure_assigned(&self, request: &AssignRequest) -> Result<Assignment, Error> {
        self.assign(request, true).await
    }

    /// Assigns one given address, reserved or not; that the same handle has it already is success. Returns it with the mask of
    /// its block.
    ///
    /// # Errors
    /// [`Error::NotInPool`] when no enabled pool has it, [`Error::NotForUse`] when that pool is for services and the owner is a node,
    /// or the reverse; [`BlockError::AlreadyAssigned`]; [`BlockError::NotOwner`] under strict affinity.
    ///
    /// [`BlockError::AlreadyAssigned`]: crate::block::BlockError::AlreadyAssigned
    /// [`BlockError::NotOwner`]: crate::block::BlockError::NotOwner
    pub async fn assign_ip(
        &self,
        ip: IpAddr,
        handle: &str,
        attributes: BTreeMap<String, String>,
        owner: AffinityOwner,
    ) -> Result<IpNet, Error> {
        let pools = self.pools().await?;
        let enabled = pools.iter().filter(|p| !p.body.spec.disabled);
        let (pool, cidr) =
            enabled.filter_map(|p| Some((p, pool::block_of(p, ip)?))).next().ok_or(Error::NotInPool(ip))?;
        let uses: &[AllowedUse] = match owner {
            AffinityOwner::Host(_) => &[AllowedUse::Workload, AllowedUse::Tunnel],
            AffinityOwner::Virtual(_) => &[AllowedUse::LoadBalancer],
        };
        if !uses.iter().any(|u| pool.body.spec.allows(*u)) {
            return Err(Error::NotForUse { ip, pool: pool.metadata.name.clone(), wanted: uses[0] });
        }
        let context = Context::new(self, handle, &attributes, owner).await?;
        let mut retries = Retries::new(self, format!("assign {ip} to {handle}"));
        loop {
            let mut attempt = Attempt::read(&context).await?;
            let net = attempt.take_address(ip, cidr, &pools).await?;
            match attempt.commit().await? {
                Outcome::Done => return Ok(net),
                Outcome::Retry(error) => retries.again(error).await?,
            }
        }
    }

    async fn assign(&self, request: &AssignRequest, idempotent: bool) -> Result<Assignment, Error> {
        let mut context = Context::new(self, &request.handle, &request.attributes, request.owner.clone()).await?;
        context.choose_pools(request).await?;
        if request.pools_v4.is_empty() && request.pools_v6.is_empty() {
            context.release_unselected().await?;
        }
        let mut retries = Retries::new(self, format!("assign addresses to {}", request.handle));
        let mut before = Assignment::default();
        loop {
            let mut attempt = Attempt::read(&context).await?;
            if idempotent {
                before = attempt.existing().await?;
            }
            let v4 = attempt.plan(Family::V4, request.num_v4.saturating_sub(before.v4.len())).await?;
            let v6 = attempt.plan(Family::V6, request.num_v6.saturating_sub(before.v6.len())).await?;
            match attempt.commit().await? {
                Outcome::Done => {}
                Outcome::Retry(error) => {
                    retries.again(error).await?;
                    continue;
                }
            }
            let truncated = attempt.truncated;
            before.v4.extend(v4.taken);
            before.v6.extend(v6.taken);
            if truncated {
                continue;
            }
            let texts = [
                shortfall(Family::V4, request.num_v4, before.v4.len(), &v4.reasons),
                shortfall(Family::V6, request.num_v6, before.v6.len(), &v6.reasons),
            ];
            let texts: Vec<String> = texts.into_iter().flatten().collect();
            before.message = (!texts.is_empty()).then(|| texts.join("; "));
            return Ok(before);
        }
    }
}

/// Calico's text for fewer addresses than asked for.
fn shortfall(family: Family, asked: usize, got: usize, reasons: &[String]) -> Option<String> {
    let n = family.number();
    (got < asked).then(|| format!("Assigned {got} out of {asked} requested IPv{n} addresses; {}", reasons.join("; ")))
}

/// What does not change between the attempts of one call.
pub(crate) struct Context<'a> {
    pub ipam: &'a Ipam,
    pub handle: String,
    attributes: BTreeMap<String, String>,
    pub owner: AffinityOwner,
    pub config: IpamConfig,
    pub reservations: Reservations,
    pools: BTreeMap<Family, Vec<IpPool>>,
    /// Every enabled pool that selects the node, whatever is asked for now.
    node_pools: Vec<IpNet>,
    pub now: Timestamp,
}

impl<'a> Context<'a> {
    pub async fn new(
        ipam: &'a Ipam,
        handle: &str,
        attributes: &BTreeMap<String, String>,
        owner: AffinityOwner,
    ) -> Result<Context<'a>, Error> {
        let now = ipam.now();
        Ok(Self {
            ipam,
            handle: handle::sanitized(handle).to_string(),
            attributes: completed_attributes(attributes, &owner, now),
            owner,
            config: ipam.config().await?,
            reservations: ipam.reservations().await?,
            pools: BTreeMap::new(),
            node_pools: vec![],
            now,
        })
    }

    async fn choose_pools(&mut self, request: &AssignRequest) -> Result<(), Error> {
        let pools = self.ipam.pools().await?;
        let labels = self.ipam.labels_of(&self.owner).await?;
        for (family, number, requested) in
            [(Family::V4, request.num_v4, &request.pools_v4), (Family::V6, request.num_v6, &request.pools_v6)]
        {
            if number == 0 {
                continue;
            }
            let wanted = Wanted {
                family,
                requested,
                intended_use: request.intended_use,
                node: self.owner_name(),
                node_labels: &labels,
                namespace: request.namespace.as_ref(),
            };
            let chosen = pool::select(&pools, &wanted)?.into_iter().cloned().collect();
            self.pools.insert(family, chosen);
        }
        for pool in pools.iter().filter(|p| !p.body.spec.disabled) {
            // A selector that cannot be read is an error of the request only where the request goes by selectors, above; here it
            // keeps what there is.
            if pool::selects_node(pool, &labels).unwrap_or(true) {
                self.node_pools.push(pool.body.spec.cidr);
            }
        }
        Ok(())
    }

    /// Gives up the owner's empty blocks in pools that no longer select it (Calico `releaseBlocksNotInSelectedPools`), and affinities
    /// there for blocks that it has not. A race lost here is left to the next call.
    async fn release_unselected(&self) -> Result<(), Error> {
        for (cidr, affinity) in self.affinities().await? {
            if self.node_pools.iter().any(|p| p.contains(&cidr)) {
                continue;
            }
            let block = match self.ipam.block(cidr).await {
                Err(Error::Store(datastore::Error::Corrupt { .. })) => continue,
                block => block?.filter(|b| b.value.owner().as_ref() == Some(&self.owner)),
            };
            if block.as_ref().is_some_and(|b| !b.value.is_empty()) {
                continue;
            }
            let mut ops = vec![Op::Delete(Key::BlockAffinity(self.owner.clone(), cidr), Some(affinity.revision))];
            ops.extend(block.map(|b| Op::Delete(Key::IpamBlock(cidr), Some(b.revision))));
            if let Outcome::Retry(error) = self.ipam.write(ops).await? {
                tracing::debug!(%cidr, %error, "an empty block of an unselected pool is kept for now");
            }
        }
        Ok(())
    }

    pub async fn affinities(&self) -> Result<Vec<(IpNet, Versioned<BlockAffinity>)>, Error> {
        let listing = self.ipam.store.list(&KeyRange::AffinitiesOf(self.owner.clone())).await?;
        let affinities = listing.items.iter().filter_map(|kv| match &kv.key {
            Key::BlockAffinity(_, cidr) => Some((*cidr, decode_affinity(kv))),
            _ => None,
        });
        Ok(affinities.collect())
    }

    pub fn assignee(&self) -> Assignee<'_> {
        Assignee { handle: &self.handle, attributes: &self.attributes }
    }

    /// The owner, where only it may use its blocks.
    pub fn strict(&self) -> Option<&AffinityOwner> {
        self.config.strict_affinity.then_some(&self.owner)
    }

    /// The most blocks this owner may have; only hosts are limited.
    pub fn block_limit(&self) -> Option<usize> {
        let limit = match self.config.max_blocks_per_host {
            0 => DEFAULT_MAX_BLOCKS_PER_HOST,
            n => n,
        };
        matches!(self.owner, AffinityOwner::Host(_)).then_some(limit as usize)
    }

    fn owner_name(&self) -> &str {
        match &self.owner {
            AffinityOwner::Host(name) | AffinityOwner::Virtual(name) => name,
        }
    }

    /// Where the walk of a pool starts: by the owner, so that nodes seldom meet; with blocks of one address, where they would
    /// meet at every allocation, by time (Calico).
    pub fn seed(&self, pool: &IpPool) -> u64 {
        let spec = &pool.body.spec;
        if spec.block_prefix_len() == spec.cidr.max_prefix_len() {
            u64::from(pool::fnv1a32(&self.now.as_nanosecond().to_string()))
        } else {
            u64::from(pool::fnv1a32(self.owner_name()))
        }
    }

    pub fn pools(&self, family: Family) -> &[IpPool] {
        self.pools.get(&family).map_or(&[], Vec::as_slice)
    }
}
