//! [`Ipam`]: what the two directions, [`crate::assign`] and [`crate::release`], share: reads, retries, the configuration.
//!
//! # Unknown outcomes
//! When the store cannot say whether a transaction happened, the blocks are read back: an allocation is ours when the address has our
//! handle, our attributes (which hold the time) and the sequence number we wrote. If it is not there it can still arrive late, but
//! never beside a retry: every transaction of a handle is conditional on the revision of that handle, so of two only one happens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::ip_pool::AllowedUse;
use api::ipam::{AllocationBlock, IpamConfig, IpamHandle};
use api::key::{AffinityOwner, KeyRange};
use api::meta::WithSpec;
use api::{IpPool, IpReservationSpec, Key, NodeSpec};
use datastore::{DynStore, KeyValue, Op, Revision, Txn, typed};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::block::{Block, BlockError};
use crate::environment::{Environment, System};
use crate::pool::{self, PoolError, Reservations};

/// How often a lost race is retried (Calico `datastoreRetries`).
pub const MAX_ATTEMPTS: u32 = 100;
/// Blocks of a host that has no limit of its own (Calico `defaultMaxBlocksPerHost`).
pub const DEFAULT_MAX_BLOCKS_PER_HOST: u32 = 20;
/// Most blocks that one transaction writes: etcd takes 128 operations by default, and a block costs up to three.
pub(crate) const MAX_BLOCKS_PER_TXN: usize = 32;
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
    /// Calico's text.
    #[error("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")]
    InvalidConfig,
    /// The address has been given to somebody else, or again, since the caller looked; nothing of its block was released.
    #[error("update conflict: {ip} is not released: its {what} is {present}, not {expected}")]
    NotTheSame { ip: IpAddr, what: &'static str, expected: String, present: String },
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
    /// Lost to another writer, or not known: read again.
    Retry(datastore::Error),
}

impl Ipam {
    pub fn new(store: DynStore) -> Self {
        Self::with_environment(store, Arc::new(System))
    }

    /// With time and randomness of the caller's.
    pub fn with_environment(store: DynStore, environment: Arc<dyn Environment>) -> Self {
        Self { store, environment }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// The configuration; defaults where none is stored.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn config(&self) -> Result<IpamConfig, Error> {
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
        Ok(listing.items.iter().filter_map(readable_block).map(|v| v.value.stored().clone()).collect())
    }

    /// The block that holds an address, if there is one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn block_of(&self, ip: IpAddr) -> Result<Option<AllocationBlock>, Error> {
        Ok(self.block_with(ip, &self.pools().await?).await?.map(|b| b.value.stored().clone()))
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
            owner: block.stored().affinity.clone(),
            handle: attribute.handle_id.clone(),
            borrowed: is_borrowed(block.owner().as_ref(), &attributes),
            attributes,
        }))
    }

    /// The block that holds an address: by the pools' block sizes, else (a pool that is gone) by looking at all blocks.
    pub(crate) async fn block_with(&self, ip: IpAddr, pools: &[IpPool]) -> Result<Option<Versioned<Block>>, Error> {
        for pool in pools {
            let Some(cidr) = pool::block_of(pool, ip) else { continue };
            if let Some(block) = self.block(cidr).await? {
                return Ok(Some(block));
            }
        }
        let listing = self.store.list(&KeyRange::Blocks).await?;
        let holds = |kv: &&KeyValue| matches!(kv.key, Key::IpamBlock(cidr) if cidr.contains(&ip));
        listing.items.iter().find(holds).map(decode_block).transpose()
    }

    pub(crate) async fn block(&self, cidr: IpNet) -> Result<Option<Versioned<Block>>, Error> {
        self.store.get(&Key::IpamBlock(cidr)).await?.as_ref().map(decode_block).transpose()
    }

    /// The handle, or an empty one that is to be created.
    pub(crate) async fn handle(&self, id: &str) -> Result<Versioned<IpamHandle>, Error> {
        let found = self.read(Key::IpamHandle(id.into())).await?;
        Ok(found.unwrap_or(Versioned { value: IpamHandle::default(), revision: 0 }))
    }

    pub(crate) async fn pools(&self) -> Result<Vec<IpPool>, Error> {
        Ok(typed::list(self.store.as_ref()).await?.0)
    }

    pub(crate) async fn reservations(&self) -> Result<Reservations, Error> {
        let (reservations, _) = typed::list::<WithSpec<IpReservationSpec>>(self.store.as_ref()).await?;
        Ok(Reservations::new(&reservations))
    }

    /// The labels of the owner's node; those of a virtual owner are empty.
    pub(crate) async fn labels_of(&self, owner: &AffinityOwner) -> Result<BTreeMap<String, String>, Error> {
        let AffinityOwner::Host(name) = owner else { return Ok(BTreeMap::new()) };
        let node = typed::get::<WithSpec<NodeSpec>>(self.store.as_ref(), None, name).await?;
        Ok(node.ok_or_else(|| Error::NoNode(name.clone()))?.metadata.labels)
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: Key) -> Result<Option<Versioned<T>>, Error> {
        self.store.get(&key).await?.as_ref().map(decode).transpose()
    }

    /// Writes a transaction. Conflicts and unknown outcomes are for the caller to retry.
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

/// The operation that writes a handle: made, changed, or gone when it is empty. None when it neither was nor is.
pub(crate) fn write_handle(id: &str, handle: &Versioned<IpamHandle>) -> Option<Op> {
    let key = Key::IpamHandle(id.into());
    match (handle.revision, handle.value.block.is_empty()) {
        (0, true) => None,
        (0, false) => Some(Op::Create(key, encode(&handle.value))),
        (revision, true) => Some(Op::Delete(key, Some(revision))),
        (revision, false) => Some(Op::Update(key, encode(&handle.value), revision)),
    }
}

/// The operation that writes a block.
pub(crate) fn write_block(block: &Versioned<Block>) -> Op {
    let key = Key::IpamBlock(block.value.cidr());
    let value = encode(block.value.stored());
    if block.revision == 0 { Op::Create(key, value) } else { Op::Update(key, value, block.revision) }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the stored forms have text keys and no failing serialisers")
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

/// Whether the block shows that these addresses were taken by the write that `written` describes.
pub(crate) fn happened(read: &Block, written: &Block, taken: &[IpAddr]) -> bool {
    taken.iter().all(|&ip| {
        read.attribute_of(ip).is_some_and(|a| Some(a) == written.attribute_of(ip))
            && read.sequence_of(ip) == written.sequence_of(ip)
    })
}

/// The address with the mask of its block.
pub(crate) fn in_block(ip: IpAddr, block: IpNet) -> IpNet {
    IpNet::new(ip, block.prefix_len()).expect("the block's length fits its family")
}
