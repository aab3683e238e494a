//! The store of a fleet: etcd v3, in Calico's layout.
//!
//! A [`Txn`] is one etcd transaction: its conditions are compares, and the `else` branch reads the keys' present revisions, so
//! that the operation that failed is known without a second request.
//!
//! - `cluster`: which member is asked, and the move to another
//! - `watch`: a watch that goes on at another member
//! - `tls`: certificates and keys, checked before they are used
//! - `failure`: what errors mean, and what to do

mod cluster;
mod failure;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, KeyRange, ROOTS};
use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, ConnectOptions, GetOptions, PutOptions, TxnOp, TxnOpResponse};

use crate::config::EtcdConfig;
use crate::store::{Error, KeyValue, LeaseId, Leases, Listing, Op, Revision, Store, Txn, WatchStream};
use cluster::Cluster;
use watch::Watch;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Where there is another member to ask.
const CONNECT_TIMEOUT_OF_MANY: Duration = Duration::from_secs(1);
/// Pings find a dead server under an idle watch. etcd's server closes connections with more than one ping in 5 s
/// (`--grpc-keepalive-min-time`), and those with pings while no stream is open.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Objects that one request of a listing returns.
const PAGE: i64 = 1000;
/// Listings that may be overtaken by a compaction before that is an error.
const MAX_LISTINGS: usize = 3;

/// What is made of a pair that is listed.
type Take<T> = fn(etcd_client::KeyValue) -> Option<T>;

/// etcd.
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

impl EtcdStore {
    /// Connects, and makes sure that the store answers.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file that cannot be used, or what etcd refuses; [`Error::Unavailable`] the endpoints and
    /// what to check, within 5 s.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        let store = Self { cluster: Cluster::new(config, options(config)?) };
        store.get(&Key::IpamConfig).await?;
        Ok(store)
    }

    /// The endpoint that requests and watches go to at present.
    pub fn endpoint_in_use(&self) -> &str {
        self.cluster.endpoint_in_use()
    }

    /// A request that may be made twice; its failure is one of a read.
    async fn ask<'a, T, F>(&'a self, doing: &str, request: impl Fn(Client) -> F + Send + Sync + 'a) -> Result<T, Error>
    where
        T: Send + 'a,
        F: Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
    {
        match self.cluster.ask(request).await {
            Ok((_, answer)) => Ok(answer),
            Err(failed) => Err(failed.into_error(&self.cluster, doing).await),
        }
    }

    /// One transaction; what it writes belongs to the lease, if any.
    async fn commit(&self, txn: Txn, lease: Option<LeaseId>) -> Result<Revision, Error> {
        txn.check_keys()?;
        let request = request(&txn, lease)?;
        let send = |client: Client| {
            let request = request.clone();
            async move {
                match client.kv_client().txn(request).await {
                    Err(e) if failure::is_lease_gone(&e) => Ok(None),
                    outcome => outcome.map(Some),
                }
            }
        };
        let response = match self.cluster.tell(send).await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(Error::Invalid(format!("{}: cannot write: the lease is gone", self.describe()))),
            Err(failed) => return Err(failed.into_write_error(&self.cluster).await),
        };
        if response.succeeded() {
            return Ok(revision_of(response.header()));
        }
        for (op, found) in txn.ops.iter().zip(response.op_responses()) {
            let present = match &found {
                TxnOpResponse::Get(get) => get.kvs().first().map(|kv| revision(kv.mod_revision())),
                _ => None,
            };
            op.check(present)?;
        }
        Err(Error::Unknown(format!("{}: a transaction failed although its conditions hold", self.describe())))
    }

    /// All of a range; begun again where a compaction overtakes it.
    async fn list_all(&self, range: &KeyRange, keys_only: bool) -> Result<Listing, Error> {
        let (items, revision) = self.list_below(&range.prefix(), keys_only, stored).await?;
        Ok(Listing { items, revision })
    }

    /// All that starts with a prefix and that `take` takes, and the revision it is of; begun again where a compaction overtakes it.
    async fn list_below<T>(&self, prefix: &str, keys_only: bool, take: Take<T>) -> Result<(Vec<T>, Revision), Error> {
        let mut outcome = self.list_pages(prefix, keys_only, take).await;
        for _ in 1..MAX_LISTINGS {
            if !matches!(outcome, Err(Error::Compacted(_))) {
                break;
            }
            outcome = self.list_pages(prefix, keys_only, take).await;
        }
        outcome
    }

    /// All pages below a prefix, at the revision of the first.
    async fn list_pages<T>(&self, prefix: &str, keys_only: bool, take: Take<T>) -> Result<(Vec<T>, Revision), Error> {
        let end = end_of(prefix);
        let mut start = prefix.as_bytes().to_vec();
        let (mut items, mut at) = (Vec::new(), 0);
        loop {
            let revision = i64::try_from(at).unwrap_or_default();
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            if keys_only {
                options = options.with_keys_only();
            }
            let read = |client: Client| {
                let (start, options) = (start.clone(), options.clone());
                async move { client.kv_client().max_decoding_message_size(usize::MAX).get(start, Some(options)).await }
            };
            let mut response = self.ask("list", read).await?;
            if at == 0 {
                at = revision_of(response.header());
            }
            let (kvs, has_more) = (response.take_kvs(), response.more());
            let last = kvs.last().map(|kv| kv.key().to_vec());
            items.extend(kvs.into_iter().filter_map(take));
            match last {
                Some(mut last) if has_more => {
                    last.push(0);
                    start = last;
                }
                _ => return Ok((items, at)),
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let key = key.to_string();
        let read = |client: Client| {
            let key = key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        let mut response = self.ask("read", read).await?;
        Ok(response.take_kvs().pop().and_then(stored))
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.list_all(range, false).await
    }

    async fn list_keys(&self, range: &KeyRange) -> Result<Listing, Error> {
        self.list_all(range, true).await
    }

    async fn foreign_paths(&self) -> Result<Vec<String>, Error> {
        let mut paths = Vec::new();
        for root in ROOTS {
            paths.extend(self.list_below(root, true, foreign).await?.0);
        }
        Ok(paths)
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let watch = Watch::open(self.cluster.clone(), range.prefix(), from).await?;
        Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        self.commit(txn, None).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let at = i64::try_from(revision).map_err(|_| Error::Invalid(format!("no such revision: {revision}")))?;
        let compact = |client: Client| async move { client.kv_client().compact(at, None).await };
        match self.ask("compact", compact).await {
            Ok(_) | Err(Error::Compacted(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }

    fn describe(&self) -> String {
        self.cluster.describe()
    }
}

#[async_trait]
impl Leases for EtcdStore {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        Ok(LeaseId(self.ask("grant a lease", grant).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, Error> {
        let keep = |client: Client| async move {
            match client.lease_client().keep_alive(lease.0).await {
                Ok(_) => Ok(true),
                // The server answers with a time to live of 0 where it has no such lease.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(e) if failure::is_lease_gone(&e) => Ok(false),
                Err(e) => Err(e),
            }
        };
        self.ask("keep a lease alive", keep).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoke = |client: Client| async move {
            match client.lease_client().revoke(lease.0).await {
                Err(e) if failure::is_lease_gone(&e) => Ok(()),
                outcome => outcome.map(|_| ()),
            }
        };
        self.ask("revoke a lease", revoke).await
    }

    async fn txn_with_lease(&self, txn: Txn, lease: LeaseId) -> Result<Revision, Error> {
        self.commit(txn, Some(lease)).await
    }
}

/// The etcd transaction: conditions, writes, and reads that tell which condition failed.
fn request(txn: &Txn, lease: Option<LeaseId>) -> Result<etcd_client::Txn, Error> {
    let put_options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
    let mut compares = Vec::new();
    let mut writes = Vec::new();
    let mut reads = Vec::new();
    for op in &txn.ops {
        let key = op.key().to_string();
        let at = |expected: &Revision| -> Result<Compare, Error> {
            // A revision that etcd cannot have is one that the key does not have.
            let expected = i64::try_from(*expected).map_err(|_| Error::Conflict(op.key().clone()))?;
            Ok(Compare::mod_revision(key.clone(), CompareOp::Equal, expected))
        };
        match op {
            Op::Create(..) | Op::Check(_, 0) => compares.push(Compare::version(key.clone(), CompareOp::Equal, 0)),
            Op::Update(_, _, expected) | Op::Delete(_, Some(expected)) | Op::Check(_, expected) => {
                // An absent key has revision 0 there.
                if *expected == 0 {
                    compares.push(Compare::version(key.clone(), CompareOp::Greater, 0));
                }
                compares.push(at(expected)?);
            }
            Op::Delete(_, None) => compares.push(Compare::version(key.clone(), CompareOp::Greater, 0)),
            Op::Put(..) => {}
        }
        match op {
            Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => {
                writes.push(TxnOp::put(key.clone(), value.clone(), put_options.clone()));
            }
            Op::Delete(..) => writes.push(TxnOp::delete(key.clone(), None)),
            Op::Check(..) => {}
        }
        reads.push(TxnOp::get(key, Some(GetOptions::new().with_keys_only())));
    }
    Ok(etcd_client::Txn::new().when(compares).and_then(writes).or_else(reads))
}

/// Connection options, with the files of the configuration read.
fn options(config: &EtcdConfig) -> Result<ConnectOptions, Error> {
    let connect_timeout = if config.endpoints.len() > 1 { CONNECT_TIMEOUT_OF_MANY } else { CONNECT_TIMEOUT };
    let mut options = ConnectOptions::new()
        .with_connect_timeout(connect_timeout)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member that lost its leader would keep a watch open and silent.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        options = options.with_user(username, password);
    }
    if let Some(tls) = tls::options(config)? {
        options = options.with_tls(tls);
    }
    Ok(options)
}

/// The object, unless its key is none of ours.
fn stored(kv: etcd_client::KeyValue) -> Option<KeyValue> {
    let mod_revision = revision(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    let key = Key::parse(std::str::from_utf8(&key).ok()?)?;
    Some(KeyValue { key, value, mod_revision })
}

/// The path, where it is no key of ours.
fn foreign(kv: etcd_client::KeyValue) -> Option<String> {
    let (key, _) = kv.into_key_value();
    let path = String::from_utf8_lossy(&key);
    Key::parse(&path).is_none().then(|| path.into_owned())
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |h| revision(h.revision()))
}

/// etcd's revisions are signed and never negative.
fn revision(n: i64) -> Revision {
    Revision::try_from(n).unwrap_or_default()
}

/// The first key after all that start with the prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
