//! Assigning: which blocks an allocation touches, and the one transaction that writes it (order of decisions: Calico
//! `libcalico-go/lib/ipam/ipam.go` `autoAssign`).
//!
//! For each family: the owner's own blocks; then a block that nobody has; then one that lies empty with another owner; then,
//! unless `strictAffinity` forbids it, an address borrowed from another owner's block. Unlike Calico, a host at its block limit
//! borrows before it fails, and both families are written together or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::ip_pool::AllowedUse;
use api::ipam::IpamConfig;
use api::key::{AffinityOwner, KeyRange};
use api::{IpPool, Key, Namespace};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::allocator::{DEFAULT_MAX_BLOCKS_PER_HOST, Error, Ipam, Outcome, Retries, key_of};
use crate::attempt::{Attempt, Part, decode_affinity};
use crate::changes::{AffinityChange, Changes};
use crate::handle;
use crate::lock::Fence;
use crate::pool::{self, Family, Reservations};
use crate::snapshot::Affinities;

/// What a workload, node or service wants.
#[derive(Clone, Debug, PartialEq)]
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
    /// Exactly these addresses, reserved or not, and no others; that the handle has one of them already is success.
    pub addresses: Vec<IpAddr>,
    /// Where no block holds one of `addresses`, this one is made, and whether it may be given is the caller's to know: that is how
    /// addresses of pools that are no IPPools are assigned.
    pub in_block: Option<IpNet>,
    /// What the handle has already counts: a repeated request gets the same answer.
    pub counts_existing: bool,
    /// The most addresses of a family that the handle may have in all (Calico `maxAllocToHandlePerIPVersion`); what it has is returned
    /// beside what is new. 0: no limit.
    pub max_per_handle: usize,
    /// The most blocks that the owner may have, where the configuration allows more. 0: no limit of the request's.
    pub max_blocks: u32,
}

impl AssignRequest {
    pub(crate) fn number(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.num_v4,
            Family::V6 => self.num_v6,
        }
    }

    /// How many addresses it is to have in the end.
    pub(crate) fn asked(&self, family: Family) -> usize {
        if !self.addresses.is_empty() {
            return self.addresses.iter().filter(|ip| ip.is_ipv4() == (family == Family::V4)).count();
        }
        match self.max_per_handle {
            0 => self.number(family),
            max => self.number(family).min(max),
        }
    }

    pub(crate) fn pools(&self, family: Family) -> &[IpNet] {
        match family {
            Family::V4 => &self.pools_v4,
            Family::V6 => &self.pools_v6,
        }
    }

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
            addresses: vec![],
            in_block: None,
            counts_existing: false,
            max_per_handle: 0,
            max_blocks: 0,
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

impl Assignment {
    pub(crate) fn of(&self, family: Family) -> &Vec<IpNet> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Adds an address once: one that somebody released while the request was under way can come again.
    pub(crate) fn add(&mut self, net: IpNet) {
        let of_family = match Family::of(&net) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if !of_family.contains(&net) {
            of_family.push(net);
        }
    }
}

impl Ipam {
    /// Assigns addresses. Fewer than were asked for is no error: see [`Assignment::message`]. It is none either when an error came after
    /// some of them were assigned; the message says which.
    ///
    /// # Errors
    /// [`Error`]; then nothing was assigned, or a transaction with an unknown outcome may still assign something:
    /// [`Self::ensure_assigned`] answers with all that the handle has then, and [`Ipam::release_by_handle`] releases it.
    pub async fn auto_assign(&self, request: &AssignRequest) -> Result<Assignment, Error> {
        self.assign_one(AssignRequest { counts_existing: false, ..request.clone() }).await
    }

    /// As [`Self::auto_assign`], but addresses that the handle has already count: a repeated request gets the same answer.
    ///
    /// # Errors
    /// As [`Self::auto_assign`].
    pub async fn ensure_assigned(&self, request: &AssignRequest) -> Result<Assignment, Error> {
        self.assign_one(AssignRequest { counts_existing: true, ..request.clone() }).await
    }

    /// Assigns one given address, reserved or not; that the same handle has it already is success. Returns it with the mask of
    /// its block.
    ///
    /// # Errors
    /// [`Error::NotInPool`] when no enabled pool has it, [`Error::NotForUse`] when that pool is not for services where the owner is virtual, or not
    /// for workloads where it is a node, [`Error::NoNode`] when there is no such node; [`BlockError::AlreadyAssigned`]; [`BlockError::NotOwner`] under strict affinity;
    /// [`BlockError::NoBytesLeft`].
    ///
    /// [`BlockError::AlreadyAssigned`]: crate::block::BlockError::AlreadyAssigned
    /// [`BlockError::NotOwner`]: crate::block::BlockError::NotOwner
    /// [`BlockError::NoBytesLeft`]: crate::block::BlockError::NoBytesLeft
    pub async fn assign_ip(
        &self,
        ip: IpAddr,
        handle: &str,
        attributes: BTreeMap<String, String>,
        owner: AffinityOwner,
    ) -> Result<IpNet, Error> {
        let request = AssignRequest { attributes, addresses: vec![ip], ..AssignRequest::new(owner, handle) };
        let assignment = self.assign_one(request).await?;
        // An assignment of given addresses has them all.
        assignment.v4.into_iter().chain(assignment.v6).next().ok_or(Error::NotInPool(ip))
    }

    pub(crate) async fn assign_one(&self, request: AssignRequest) -> Result<Assignment, Error> {
        let mut outcomes = self.assign_many(std::slice::from_ref(&request)).await;
        outcomes.pop().expect("an outcome for each request")
    }

    /// Assigns for many requests, those of one owner together: as few transactions as their addresses fit in. Each has an outcome of its
    /// own, in the order of the requests; one that cannot be met does no harm to the others.
    pub async fn assign_many(&self, requests: &[AssignRequest]) -> Vec<Result<Assignment, Error>> {
        let mut progress = vec![Progress::default(); requests.len()];
        let mut owners: BTreeMap<&AffinityOwner, Vec<usize>> = BTreeMap::new();
        for (i, request) in requests.iter().enumerate() {
            owners.entry(&request.owner).or_default().push(i);
        }
        for (owner, todo) in owners {
            let of_owner = todo.clone();
            let mut open = Vec::new();
            Batch { ipam: self, owner, requests, todo, progress: &mut progress, open: &mut open }.run().await;
            if self.known().is_some() {
                // What is followed may be a moment old: no request fails for that. What it has got it keeps.
                let todo: Vec<usize> = of_owner.iter().copied().filter(|i| progress[*i].is_short()).collect();
                for i in &todo {
                    progress[*i].error = None;
                    progress[*i].got.message = None;
                }
                let progress = &mut progress;
                Batch { ipam: &self.reading(), owner, requests, todo, progress, open: &mut open }.run().await;
            }
            for i in of_owner {
                let id = handle::sanitized(&requests[i].handle);
                progress[i].is_open = open.iter().any(|open| open.has_handle(id));
            }
        }
        requests.iter().zip(progress).map(|(request, progress)| progress.into_outcome(request)).collect()
    }
}

/// How far a request is.
#[derive(Clone, Debug, Default)]
struct Progress {
    got: Assignment,
    /// Why it has not got more.
    error: Option<Error>,
    /// A transaction with an unknown outcome may still give it something.
    is_open: bool,
}

impl Progress {
    /// Whether the store itself may have more for it than what is followed.
    fn is_short(&self) -> bool {
        match &self.error {
            None => self.got.message.is_some(),
            // A store that does not answer does not answer the second time either, and the caller waits.
            Some(error) => !is_down(error),
        }
    }

    /// The answer. An error hides nothing that was got, unless there may come more: then it is to be asked for again, or released.
    fn into_outcome(self, request: &AssignRequest) -> Result<Assignment, Error> {
        let Self { got, error, is_open } = self;
        let Some(error) = error else { return Ok(got) };
        if is_open || got.v4.is_empty() && got.v6.is_empty() {
            return Err(error);
        }
        let reasons = [error.to_string().trim().to_string()];
        let short = |family| shortfall(family, request.asked(family), got.of(family).len(), &reasons);
        let shortfalls: Vec<String> = [Family::V4, Family::V6].into_iter().filter_map(short).collect();
        let message = (!shortfalls.is_empty()).then(|| shortfalls.join("; "));
        Ok(Assignment { message, ..got })
    }
}

/// Whether the store did not answer, or is locked: that is the store's own word.
fn is_down(error: &Error) -> bool {
    use datastore::Error as E;
    matches!(error, Error::Locked | Error::Store(E::Unavailable(_) | E::Unknown(_)))
}

/// Requests of one owner that share transactions.
struct Batch<'a> {
    ipam: &'a Ipam,
    owner: &'a AffinityOwner,
    requests: &'a [AssignRequest],
    /// Those that are not done, by their index.
    todo: Vec<usize>,
    /// Of all requests.
    progress: &'a mut Vec<Progress>,
    /// Transactions with an unknown outcome, which may come yet. Of those and of the next only one can happen, since all are conditional
    /// on the revision of the handle that they write.
    open: &'a mut Vec<Open>,
}

/// A transaction with an unknown outcome.
struct Open {
    changes: Box<Changes>,
    /// What each request has got if it happened.
    parts: Vec<(usize, Part)>,
    error: datastore::Error,
    /// Of those that are open, no two have the same.
    number: usize,
}

impl Open {
    fn has_handle(&self, id: &str) -> bool {
        self.changes.handles.contains_key(id)
    }
}

impl Batch<'_> {
    async fn run(&mut self) {
        let mut retries = self.retries();
        let mut context = None;
        let mut has_cleaned = false;
        let mut is_alone = false;
        while !self.todo.is_empty() {
            let read = match context.take() {
                Some(known) => known,
                None => match Context::read(self.ipam, self.owner).await {
                    Ok(read) => read,
                    Err(Error::Locked) => return self.locked().await,
                    Err(error) => return self.fail_all(&error),
                },
            };
            let of_any_pool = |i: &usize| {
                let r = &self.requests[*i];
                r.pools_v4.is_empty() && r.pools_v6.is_empty() && r.addresses.is_empty()
            };
            let mut affinities = None;
            if !has_cleaned && self.todo.iter().any(of_any_pool) {
                has_cleaned = true;
                affinities = match read.release_unselected().await {
                    Ok(affinities) => affinities,
                    Err(error) => return self.fail_all(&error),
                };
            }
            match self.round(&read, affinities, is_alone).await {
                Ok(None) => {
                    retries = self.retries();
                    context = Some(read);
                }
                Ok(Some(lost)) => {
                    // A pool has changed: what was chosen from it may be wrong.
                    if !matches!(key_of(&lost), Some(Key::Resource { .. })) {
                        context = Some(read);
                    }
                    if let Err(error) = retries.again(lost).await {
                        return self.fail_all(&error);
                    }
                }
                // The transaction is refused, and one of them is why: which, is seen when each is alone.
                Err(error) if !is_down(&error) && !is_alone && self.todo.len() > 1 => is_alone = true,
                Err(error) if !is_down(&error) && is_alone => {
                    let i = self.todo.remove(0);
                    self.progress[i].error = Some(error);
                }
                Err(error) => return self.fail_all(&error),
            }
        }
    }

    fn retries(&self) -> Retries {
        let first = self.todo.first().map_or("", |i| self.requests[*i].handle.as_str());
        let others = self.todo.len().saturating_sub(1);
        let what = format!("assign addresses to {first}");
        Retries::new(self.ipam, if others == 0 { what } else { format!("{what} and {others} others") })
    }

    fn fail_all(&mut self, error: &Error) {
        for i in self.todo.drain(..) {
            self.progress[i].error = Some(error.clone());
        }
    }

    /// Nothing more is written, nor can come: what has come by now is told, and the rest fails.
    async fn locked(&mut self) {
        for open in std::mem::take(self.open) {
            match self.ipam.happened(&open.changes).await {
                Ok(true) => self.finish(open.parts),
                Ok(false) if self.ipam.store.has_transactions() => {}
                _ => self.open.push(open),
            }
        }
        self.fail_all(&Error::Locked);
    }

    /// Plans as many requests as fit, or only the first, and writes them. A race that was lost is returned.
    async fn round(
        &mut self,
        context: &Context<'_>,
        affinities: Option<Affinities>,
        is_alone: bool,
    ) -> Result<Option<datastore::Error>, Error> {
        let number = self.open.iter().map(|open| open.number + 1).max().unwrap_or(0);
        let mut attempt = Attempt::read(context, affinities, number).await?;
        if self.todo.len() > 1 && !is_alone {
            attempt.read_handles(self.todo.iter().map(|i| self.requests[*i].handle.as_str())).await;
        }
        let mut parts: Vec<(usize, Part)> = Vec::new();
        for i in self.todo.clone() {
            let request = &self.requests[i];
            if attempt.is_full() || is_alone && !parts.is_empty() {
                break;
            }
            if attempt.has_handle(&request.handle) {
                continue;
            }
            match attempt.assign(request, self.progress[i].got.clone()).await {
                Ok(part) => parts.push((i, part)),
                Err(error @ Error::Store(datastore::Error::Unavailable(_))) => return Err(error),
                Err(error) => {
                    // What it had planned by then is in the attempt: the others are planned without it.
                    self.fail(i, error);
                    return Ok(None);
                }
            }
        }
        // The handles have been read: what comes after this changes them, and makes the commit fail.
        for at in 0..self.open.len() {
            if self.ipam.happened(&self.open[at].changes).await? {
                let Open { changes, parts, .. } = self.open.swap_remove(at);
                self.open.retain(|other| !changes.handles.keys().any(|id| other.has_handle(id)));
                self.finish(parts);
                return Ok(None);
            }
        }
        let written = attempt.handles();
        match attempt.commit().await? {
            // What is open and was planned on a handle that this has written cannot happen any more. Where a transaction is many writes,
            // each of them is conditional on its own key alone.
            Outcome::Done if self.ipam.store.has_transactions() => {
                self.open.retain(|open| !written.iter().any(|id| open.has_handle(id)));
            }
            Outcome::Done => {}
            Outcome::Retry(error) => return Ok(Some(error)),
            Outcome::Open(error, changes) => {
                self.open.push(Open { changes, parts, error: error.clone(), number });
                return Ok(Some(error));
            }
        }
        // Who gets nothing while something may come for it yet, is not told that it has nothing.
        let mut known = Vec::new();
        for (i, part) in parts {
            let id = handle::sanitized(&self.requests[i].handle);
            let open = self.open.iter().find(|open| open.has_handle(id));
            match open.filter(|_| part.is_short() && !written.contains(id)) {
                Some(open) => {
                    let error = open.error.clone().into();
                    self.fail(i, error);
                }
                None => known.push((i, part)),
            }
        }
        self.finish(known);
        Ok(None)
    }

    /// What these requests have got is written.
    fn finish(&mut self, parts: Vec<(usize, Part)>) {
        for (i, part) in parts {
            if !part.is_truncated {
                self.todo.retain(|other| *other != i);
                self.progress[i].error = None;
            }
            let before = std::mem::replace(&mut self.progress[i].got, part.into_assignment());
            // A transaction that came true late was planned on less.
            before.v4.into_iter().chain(before.v6).for_each(|net| self.progress[i].got.add(net));
        }
    }

    fn fail(&mut self, i: usize, error: Error) {
        self.todo.retain(|other| *other != i);
        self.progress[i].error = Some(error);
    }
}

/// Calico's text for fewer addresses than asked for.
pub(crate) fn shortfall(family: Family, asked: usize, got: usize, reasons: &[String]) -> Option<String> {
    let n = family.number();
    (got < asked).then(|| format!("Assigned {got} out of {asked} requested IPv{n} addresses; {}", reasons.join("; ")))
}

/// What does not change between the attempts of one call.
pub(crate) struct Context<'a> {
    pub ipam: &'a Ipam,
    pub owner: AffinityOwner,
    pub config: IpamConfig,
    pub reservations: Arc<Reservations>,
    pub pools: Arc<Vec<IpPool>>,
    /// `None`: the owner is a node that does not exist.
    pub labels: Option<BTreeMap<String, String>>,
    pub fence: Fence<'a>,
    pub now: Timestamp,
}

impl<'a> Context<'a> {
    async fn read(ipam: &'a Ipam, owner: &AffinityOwner) -> Result<Context<'a>, Error> {
        let now = ipam.now();
        // The pools before anything of blocks: a block is made only where the pool is still as it was before the blocks were read.
        let (config, reservations, pools, labels, fence) =
            futures::try_join!(ipam.config(), ipam.reservations(), ipam.pools(), ipam.labels_of(owner), ipam.fence())?;
        Ok(Self { ipam, owner: owner.clone(), config, reservations, pools, labels, fence, now })
    }

    /// Gives up the owner's empty blocks in pools that no longer select it (Calico `releaseBlocksNotInSelectedPools`), and affinities
    /// there for blocks that it has not. A race lost here is left to the next call. The affinities, where they were read and none of
    /// them has changed.
    async fn release_unselected(&self) -> Result<Option<Affinities>, Error> {
        let Some(labels) = &self.labels else { return Ok(None) };
        let mut affinities = None;
        let unselected = match self.ipam.known().and_then(|s| s.unselected(&self.owner)) {
            Some(unselected) => unselected,
            None => {
                let selected = pool::selecting(&self.pools, labels);
                let all = affinities.insert(self.affinities().await?);
                let is_selected = |cidr: &IpNet| selected.iter().any(|p| p.contains(cidr));
                all.iter().filter(|(cidr, _)| !is_selected(cidr)).map(|(cidr, a)| (*cidr, a.revision)).collect()
            }
        };
        for (cidr, revision) in unselected {
            let mut changes = self.fence.changes();
            match self.ipam.block(cidr).await {
                Err(Error::Store(datastore::Error::Corrupt { .. })) => continue,
                Ok(Some(block)) if block.value.owner().as_ref() != Some(&self.owner) => {
                    changes.untrue_affinity(&self.owner, cidr, revision, block.revision);
                    self.ipam.give_back(block);
                }
                Ok(Some(block)) if !block.value.is_empty() => {
                    self.ipam.give_back(block);
                    continue;
                }
                Ok(Some(block)) => {
                    changes.affinity(&self.owner, cidr, AffinityChange::Delete(revision));
                    changes.delete(block);
                }
                Ok(None) => changes.untrue_affinity(&self.owner, cidr, revision, 0),
                Err(error) => return Err(error),
            }
            affinities = None;
            if let Outcome::Retry(error) | Outcome::Open(error, _) = self.ipam.write_changes(changes).await? {
                tracing::debug!(%cidr, %error, "an empty block of an unselected pool is kept for now");
            }
        }
        Ok(affinities)
    }

    pub async fn affinities(&self) -> Result<Affinities, Error> {
        if let Some(known) = self.ipam.known().and_then(|s| s.affinities(&self.owner)) {
            return Ok(known);
        }
        let listing = self.ipam.store.list(&KeyRange::AffinitiesOf(self.owner.clone())).await?;
        let affinities = listing.items.iter().filter_map(|kv| match &kv.key {
            Key::BlockAffinity(_, cidr) => Some((*cidr, decode_affinity(kv))),
            _ => None,
        });
        Ok(Arc::new(affinities.collect()))
    }

    /// The owner, where only it may use its blocks.
    pub fn strict(&self) -> Option<&AffinityOwner> {
        self.config.strict_affinity.then_some(&self.owner)
    }

    /// The most blocks this owner may have; only hosts are limited.
    pub fn block_limit(&self, of_request: u32) -> Option<usize> {
        let limits = [self.config.max_blocks_per_host, of_request];
        let limit = limits.into_iter().filter(|n| *n != 0).min().unwrap_or(DEFAULT_MAX_BLOCKS_PER_HOST);
        matches!(self.owner, AffinityOwner::Host(_)).then_some(limit as usize)
    }

    pub fn owner_name(&self) -> &str {
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
}
