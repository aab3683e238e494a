//! [`Ipam`]: what the two directions, [`crate::assign`] and [`crate::release`], share: reads, retries, the configuration.
//!
//! # Unknown outcomes
//! When the store cannot say whether a transaction happened, the blocks are read back: it did when one of its addresses has our
//! handle, our attributes (which hold the time of the attempt) and the sequence number we wrote. If it is not there it can still arrive late, but
//! never beside a retry: every transaction of a handle is conditional on the revision of that handle, so of two only one happens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::ip_pool::AllowedUse;
use api::ipam::{AllocationBlock, IpamConfig, IpamHandle};
use api::key::{AffinityOwner, KeyRange};
use api::meta::WithSpec;
use api::{IpPool, IpReservationSpec, Key, NodeSpec, go_json};
use datastore::{DynStore, KeyValue, Op, Revision, Txn, typed};
use futures::future::join_all;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::block::{Block, BlockError};
use crate::changes::{Changes, happened};
use crate::environment::{Environment, System};
use crate::ordered;
use crate::pool::{self, PoolError, Reservations};
use crate::snapshot::Snapshot;

/// How often a lost race is retried (Calico `datastoreRetries`).
pub const MAX_ATTEMPTS: u32 = 100;
/// Blocks of a host that has no limit of its own (Calico `defaultMaxBlocksPerHost`).
pub const DEFAULT_MAX_BLOCKS_PER_HOST: u32 = 20;
/// Operations of one transaction that etcd takes by default (`--max-txn-ops`).
pub(crate) const MAX_OPS_PER_TXN: usize = 128;
/// Most blocks that one transaction writes.
pub(crate) const MAX_BLOCKS_PER_TXN: usize = 32;
/// Bytes of blocks in one transaction beyond which no further one is added, and none of several grows; etcd takes 1.5 MiB
/// (`--max-request-bytes`). One block alone has [`crate::block::MAX_BYTES`].
pub(crate) const MAX_BYTES_PER_TXN: usize = 1 << 20;
const FIRST_BACKOFF: Duration = Duration::from_millis(1);
const LAST_BACKOFF: Duration = Duration::from_millis(64);

/// Why an address is not assigned or released.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("node {0} does not exist in the datastore: apply its Node resource first")]
    NoNode(String),
    /// Calico's text.
    #[error("The provided IP address is not in a configured pool\n")]
    NotInPool(IpAddr),
    #[error("{ip} is in IPPool {pool}, whose allowedUses lack {wanted:?}")]
    NotForUse { ip: IpAddr, pool: String, wanted: AllowedUse },
    #[error("IP pool \"{0}\" does not exist: name an IPPool, or give the CIDR of one")]
    NoPool(String),
    #[error("IP pool {pool} ({cidr}) is not of IPv{wanted}")]
    OtherFamily { pool: String, cidr: IpNet, wanted: u8 },
    /// Calico's text.
    #[error("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")]
    InvalidConfig,
    /// The address has been given to somebody else, or again, since the caller looked; nothing of its block was released.
    #[error("update conflict: {ip} is not released: its {what} is {present}, not {expected}")]
    NotTheSame { ip: IpAddr, what: &'static str, expected: String, present: String },
    #[error(
        "the attributes of handle {handle} are stored in {size} bytes; at most {max} fit into a block",
        max = crate::block::MAX_ATTRIBUTE_BYTES
    )]
    AttributesTooLong { handle: String, size: usize },
    /// Of who heeds the lock ([`Ipam::heeding_lock`]); later it may be otherwise.
    #[error("the datastore is locked; calicoctl datastore migrate unlock ends that")]
    Locked,
    /// Calico's words.
    #[error("block '{0}' is not empty")]
    NotEmpty(IpNet),
    #[error("{what}: gave up after {MAX_ATTEMPTS} attempts, each lost to another writer (last: {last})")]
    Contention { what: String, last: datastore::Error },
    #[error(transparent)]
    Store(#[from] datastore::Error),
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpInfo {
    pub ip: IpAddr,
    pub block: IpNet,
    /// Whose block it is: `host:<node>`, `virtual:load-balancer`.
    pub owner: Option<String>,
    pub handle: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// Whether another node than the block's owner uses it.
    pub borrowed: bool,
}

/// Address management over a store. Cheap to clone.
#[derive(Clone)]
pub struct Ipam {
    pub(crate) store: DynStore,
    pub(crate) environment: Arc<dyn Environment>,
    /// What a program that runs for long knows already; `None`: everything is read when it is needed.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Nothing is written while the datastore is locked.
    pub(crate) heeds_lock: bool,
}

/// Something read, and what to compare when it is written: 0 when it is to be created.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub value: T,
    pub revision: Revision,
}

/// How an attempt ended that wrote, or tried to.
pub(crate) enum Outcome {
    Done,
    /// Lost to another writer: read again.
    Retry(datastore::Error),
    /// Not known, and not seen to have happened: read again. Until something that the changes depend on has changed, they can still come.
    Open(datastore::Error, Box<Changes>),
}

impl Ipam {
    pub fn new(store: DynStore) -> Self {
        Self::with_environment(store, Arc::new(System))
    }

    /// With time and randomness of the caller's.
    pub fn with_environment(store: DynStore, environment: Arc<dyn Environment>) -> Self {
        Self { store, environment, snapshot: None, heeds_lock: false }
    }

    /// Follows the store in memory for allocations of these owners, as long as it or a clone lives: each is then planned without a
    /// read and is one conditional transaction. Must be called in a tokio runtime.
    pub fn following(self, owners: impl IntoIterator<Item = AffinityOwner>) -> Self {
        let snapshot = Snapshot::follow(self.store.clone(), owners.into_iter().collect());
        Self { snapshot: Some(snapshot), ..self }
    }

    /// Waits until what is followed has been read once; until then, allocations read the store.
    pub async fn synced(&self) {
        if let Some(snapshot) = &self.snapshot {
            snapshot.synced().await;
        }
    }

    /// What is followed, once it is known.
    pub(crate) fn known(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref().filter(|s| s.is_synced())
    }

    /// The same without what is followed.
    pub(crate) fn reading(&self) -> Self {
        Self { snapshot: None, ..self.clone() }
    }

    /// How many blocks one decision may write.
    pub(crate) fn max_blocks(&self) -> usize {
        if self.store.has_transactions() { MAX_BLOCKS_PER_TXN } else { 1 }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// The configuration; defaults where none is stored.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn config(&self) -> Result<IpamConfig, Error> {
        if let Some(snapshot) = self.known() {
            return Ok(snapshot.config());
        }
        Ok(self.read(Key::IpamConfig).await?.map(|v| v.value).unwrap_or_default())
    }

    /// Writes the configuration; the last writer wins (Calico).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when no block may be claimed and none borrowed; [`Error::Store`].
    pub async fn set_config(&self, config: IpamConfig) -> Result<(), Error> {
        // Calico: without strictAffinity a node that claims no blocks would only ever borrow.
        if !config.strict_affinity && !config.auto_allocate_blocks {
            return Err(Error::InvalidConfig);
        }
        self.store.put(Key::IpamConfig, encode(&config)).await?;
        Ok(())
    }

    /// Every block. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn blocks(&self) -> Result<Vec<AllocationBlock>, Error> {
        let listing = self.store.list(&KeyRange::Blocks).await?;
        Ok(listing.items.iter().filter_map(readable_block).map(|v| v.value.stored()).collect())
    }

    /// The block that holds an address, if there is one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn block_of(&self, ip: IpAddr) -> Result<Option<AllocationBlock>, Error> {
        Ok(self.block_with(ip, &self.pools().await?).await?.map(|b| b.value.stored()))
    }

    /// Who has an address; `None` when it is free or in no block.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ip_info(&self, ip: IpAddr) -> Result<Option<IpInfo>, Error> {
        let Some(Versioned { value: block, .. }) = self.block_with(ip, &self.pools().await?).await? else {
            return Ok(None);
        };
        let Some(attribute) = block.attribute_of(ip) else { return Ok(None) };
        let attributes = attribute.secondary.clone().unwrap_or_default();
        Ok(Some(IpInfo {
            ip,
            block: block.cidr(),
            owner: block.affinity().map(str::to_string),
            handle: attribute.handle_id.clone(),
            borrowed: is_borrowed(block.owner().as_ref(), &attributes),
            attributes,
        }))
    }

    /// The block that holds an address: by the pools' block sizes, else (a pool that is gone) by looking at all blocks.
    pub(crate) async fn block_with(&self, ip: IpAddr, pools: &[IpPool]) -> Result<Option<Versioned<Block>>, Error> {
        for pool in pools {
            let Some(cidr) = pool::block_of(pool, ip) else { continue };
            if let Some(block) = self.peek(cidr).await? {
                return Ok(Some(block));
            }
        }
        let listing = self.store.list(&KeyRange::Blocks).await?;
        let holds = |kv: &&KeyValue| matches!(kv.key, Key::IpamBlock(cidr) if cidr.contains(&ip));
        listing.items.iter().find(holds).map(decode_block).transpose()
    }

    /// A block to be changed: out of what is followed, which gets it back with the change or reads it again.
    pub(crate) async fn block(&self, cidr: IpNet) -> Result<Option<Versioned<Block>>, Error> {
        if let Some(block) = self.known().and_then(|s| s.take_block(&cidr)) {
            return Ok(Some(block));
        }
        self.peek(cidr).await
    }

    /// Gives back a block that was not changed.
    pub(crate) fn give_back(&self, block: Versioned<Block>) {
        if let Some(snapshot) = self.known().filter(|_| block.revision != 0) {
            snapshot.put_back(block);
        }
    }

    /// A block as it is stored.
    pub(crate) async fn peek(&self, cidr: IpNet) -> Result<Option<Versioned<Block>>, Error> {
        self.store.get(&Key::IpamBlock(cidr)).await?.as_ref().map(decode_block).transpose()
    }

    /// The handle, or an empty one that is to be created.
    pub(crate) async fn handle(&self, id: &str) -> Result<Versioned<IpamHandle>, Error> {
        if let Some(handle) = self.known().and_then(|s| s.handle(id)) {
            return Ok(handle);
        }
        self.stored_handle(id).await
    }

    /// The handle as it is stored, or an empty one that is to be created.
    pub(crate) async fn stored_handle(&self, id: &str) -> Result<Versioned<IpamHandle>, Error> {
        let found = self.read(Key::IpamHandle(id.into())).await?;
        Ok(found.unwrap_or(Versioned { value: IpamHandle::default(), revision: 0 }))
    }

    /// The handle of a workload that is to get an address. Where the store is followed it is taken for new unless we wrote it: if it is
    /// not, the transaction says so.
    pub(crate) async fn new_handle(&self, id: &str) -> Result<Versioned<IpamHandle>, Error> {
        match self.known() {
            Some(snapshot) if !snapshot.is_unread(id) => {
                Ok(snapshot.handle(id).unwrap_or(Versioned { value: IpamHandle::default(), revision: 0 }))
            }
            _ => self.handle(id).await,
        }
    }

    pub(crate) async fn pools(&self) -> Result<Arc<Vec<IpPool>>, Error> {
        match self.known() {
            Some(snapshot) => Ok(snapshot.pools()),
            None => Ok(Arc::new(typed::list(self.store.as_ref()).await?.0)),
        }
    }

    pub(crate) async fn reservations(&self) -> Result<Arc<Reservations>, Error> {
        if let Some(snapshot) = self.known() {
            return Ok(snapshot.reservations());
        }
        let (reservations, _) = typed::list::<WithSpec<IpReservationSpec>>(self.store.as_ref()).await?;
        Ok(Arc::new(Reservations::new(&reservations)))
    }

    /// The labels of the owner's node; those of a virtual owner are empty. `None`: there is no such node.
    pub(crate) async fn labels_of(&self, owner: &AffinityOwner) -> Result<Option<BTreeMap<String, String>>, Error> {
        let AffinityOwner::Host(name) = owner else { return Ok(Some(BTreeMap::new())) };
        if let Some(labels) = self.known().and_then(|s| s.labels_of(name)) {
            return Ok(Some(labels));
        }
        let node = typed::get::<WithSpec<NodeSpec>>(self.store.as_ref(), None, name).await?;
        Ok(node.map(|n| n.metadata.labels))
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: Key) -> Result<Option<Versioned<T>>, Error> {
        self.store.get(&key).await?.as_ref().map(decode).transpose()
    }

    /// Writes what was decided. An unknown outcome of what gives addresses is read back; other conflicts are for the caller to
    /// retry, and what is followed is read again where it was wrong.
    pub(crate) async fn write_changes(&self, changes: Changes) -> Result<Outcome, Error> {
        use datastore::Error as E;
        if changes.is_empty() {
            return Ok(Outcome::Done);
        }
        let outcome = if self.store.has_transactions() {
            self.store.txn(Txn { ops: changes.ops() }).await.map(Some)
        } else {
            ordered::write(self.store.as_ref(), &changes).await.map(|()| None)
        };
        match outcome {
            Ok(revision) => {
                if let Some(snapshot) = &self.snapshot {
                    snapshot.committed(changes, revision);
                }
                Ok(Outcome::Done)
            }
            Err(E::Unknown(text)) => {
                self.refresh(&changes, None).await;
                // That this cannot be read does not make it less open.
                if self.happened(&changes).await.unwrap_or(false) {
                    return Ok(Outcome::Done);
                }
                Ok(Outcome::Open(E::Unknown(text), Box::new(changes)))
            }
            Err(error @ (E::AlreadyExists(_) | E::NotFound(_) | E::Conflict(_))) => {
                self.refresh(&changes, Some(&error)).await;
                Ok(Outcome::Retry(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes operations that belong together, which no allocation is planned on.
    pub(crate) async fn write(&self, ops: Vec<Op>) -> Result<Outcome, Error> {
        use datastore::Error as E;
        match self.store.txn(Txn { ops }).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error @ (E::AlreadyExists(_) | E::NotFound(_) | E::Conflict(_) | E::Unknown(_))) => {
                Ok(Outcome::Retry(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the store shows an address given that these changes give, and with it that all of them happened.
    pub(crate) async fn happened(&self, changes: &Changes) -> Result<bool, Error> {
        for (cidr, change) in changes.blocks.iter().filter(|(_, c)| !c.taken.is_empty()) {
            if self.peek(*cidr).await?.is_some_and(|read| happened(&read.value, change)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads again what changes were planned on, as far as it is followed; of the handles, all only after an unknown outcome.
    async fn refresh(&self, changes: &Changes, conflict: Option<&datastore::Error>) {
        let Some(snapshot) = &self.snapshot else { return };
        let mut keys: Vec<Key> = changes.blocks.keys().map(|cidr| Key::IpamBlock(*cidr)).collect();
        keys.extend(changes.affinities.keys().map(|(owner, cidr)| Key::BlockAffinity(owner.clone(), *cidr)));
        match conflict.and_then(key_of) {
            Some(key) if !keys.contains(key) => keys.push(key.clone()),
            Some(_) => {}
            None => keys.extend(changes.handles.keys().map(|id| Key::IpamHandle(id.clone()))),
        }
        let before: Vec<Option<Revision>> = keys.iter().map(|key| snapshot.revision(key)).collect();
        let mut reads = Vec::new();
        for key in &keys {
            reads.push(self.store.get(key));
        }
        for ((key, before), read) in keys.iter().zip(before).zip(join_all(reads).await) {
            match read {
                Ok(found) => snapshot.refreshed(key, before, found),
                Err(error) => tracing::debug!(%key, %error, "what is followed could not be read again"),
            }
        }
    }
}

/// The key that a conflict is about.
pub(crate) fn key_of(error: &datastore::Error) -> Option<&Key> {
    use datastore::Error as E;
    match error {
        E::AlreadyExists(key) | E::NotFound(key) | E::Conflict(key) => Some(key),
        _ => None,
    }
}

/// Whether an address with these attributes is used by another node than the block's owner.
pub fn is_borrowed(owner: Option<&AffinityOwner>, attributes: &BTreeMap<String, String>) -> bool {
    match (owner, attributes.get(api::ipam::attr::NODE)) {
        (Some(AffinityOwner::Host(owner)), Some(node)) => owner != node,
        (_, node) => node.is_some(),
    }
}

/// Counts attempts and waits between them: not before the second, then ever longer, with jitter.
pub(crate) struct Retries {
    environment: Arc<dyn Environment>,
    what: String,
    attempts: u32,
}

impl Retries {
    pub fn new(ipam: &Ipam, what: String) -> Self {
        Self { environment: ipam.environment.clone(), what, attempts: 0 }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`Error::Contention`] when there is none left.
    pub async fn again(&mut self, last: datastore::Error) -> Result<(), Error> {
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS {
            return Err(Error::Contention { what: std::mem::take(&mut self.what), last });
        }
        tracing::debug!(what = self.what, attempt = self.attempts, %last, "retrying");
        let longest = FIRST_BACKOFF.saturating_mul(1 << self.attempts.min(6)).min(LAST_BACKOFF);
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        let jittered = Duration::from_micros(self.environment.random() % micros.max(1));
        self.environment.sleep(jittered).await;
        Ok(())
    }
}

pub(crate) fn cooldown(config: &IpamConfig) -> SignedDuration {
    SignedDuration::from_secs(i64::from(config.ip_cooldown_seconds))
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    go_json::to_vec(value).expect("the stored forms have text keys and no failing serialisers")
}

pub(crate) fn decode<T: DeserializeOwned>(kv: &KeyValue) -> Result<Versioned<T>, Error> {
    let value = serde_json::from_slice(&kv.value)
        .map_err(|e| datastore::Error::Corrupt { key: kv.key.to_string(), reason: e.to_string() })?;
    Ok(Versioned { value, revision: kv.mod_revision })
}

pub(crate) fn decode_block(kv: &KeyValue) -> Result<Versioned<Block>, Error> {
    let stored: Versioned<AllocationBlock> = decode(kv)?;
    let corrupt = |e: BlockError| datastore::Error::Corrupt { key: kv.key.to_string(), reason: e.to_string() };
    Ok(Versioned { value: Block::from_stored(stored.value).map_err(corrupt)?, revision: stored.revision })
}

/// A block that can be read; one that cannot is logged, so that it stops nobody else.
pub(crate) fn readable_block(kv: &KeyValue) -> Option<Versioned<Block>> {
    decode_block(kv).inspect_err(|error| tracing::warn!(%error, "a block is left out")).ok()
}

/// The attributes as they are stored: with the node (felix tells borrowed addresses by it) and the time, in Go's form
/// (Calico writes `time.Now().UTC().String()`).
pub(crate) fn completed_attributes(
    given: &BTreeMap<String, String>,
    owner: &AffinityOwner,
    now: Timestamp,
) -> BTreeMap<String, String> {
    let mut attributes = given.clone();
    if let AffinityOwner::Host(node) = owner {
        attributes.entry(api::ipam::attr::NODE.into()).or_insert_with(|| node.clone());
    }
    attributes
        .entry(api::ipam::attr::TIMESTAMP.into())
        .or_insert_with(|| now.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string());
    attributes
}

/// The address with the mask of its block.
pub(crate) fn in_block(ip: IpAddr, block: IpNet) -> IpNet {
    IpNet::new(ip, block.prefix_len()).expect("the block's length fits its family")
}
