//! The store of a fleet: etcd v3, in Calico's layout.
//!
//! A [`Txn`] is one etcd transaction: its conditions are compares, and the `else` branch reads the keys' present revisions, so
//! that the operation that failed is known without a second request. The client keeps one balanced HTTP/2 channel over all
//! endpoints and reconnects by itself; an open watch that loses its server ends, and [`crate::watcher`] opens the next.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity, PutOptions, TlsOptions,
    TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::EtcdConfig;
use crate::store::{Error, Event, KeyValue, LeaseId, Leases, Listing, Op, Revision, Store, Txn, WatchStream};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An unreachable store is reported after this and [`PROBE_TIMEOUT`]: less than 5 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the search for the cause of a timeout may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings find a dead server under an idle watch. etcd's server refuses more than one ping in 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects that one request of a listing returns.
const PAGE: i64 = 1000;
/// Listings that may be overtaken by a compaction before that is an error.
const MAX_LISTINGS: usize = 3;

/// etcd.
pub struct EtcdStore {
    client: Client,
    endpoints: Vec<String>,
}

impl EtcdStore {
    /// Connects, and makes sure that the store answers.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file that cannot be read; [`Error::Unavailable`] the endpoints and what to check, within 5 s.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        let options = options(config)?;
        let endpoints = config.endpoints.clone();
        let connecting = timeout(REQUEST_TIMEOUT, Client::connect(&endpoints, Some(options))).await;
        let client = match connecting {
            Ok(Ok(client)) => client,
            Ok(Err(e)) => return Err(failure(&endpoints, "connect", &e).await),
            Err(_) => return Err(timed_out(&endpoints).await),
        };
        let store = Self { client, endpoints };
        store.get(&Key::IpamConfig).await?;
        Ok(store)
    }

    /// Runs a request under the request timeout; its failure is one of a read.
    async fn read<T>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(failure(&self.endpoints, doing, &e).await),
            Err(_) => Err(timed_out(&self.endpoints).await),
        }
    }

    /// One transaction; what it writes belongs to the lease, if any.
    async fn commit(&self, txn: Txn, lease: Option<LeaseId>) -> Result<Revision, Error> {
        txn.check_keys()?;
        let mut kv = self.client.kv_client();
        let outcome = match timeout(REQUEST_TIMEOUT, kv.txn(request(&txn, lease)?)).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(Error::Unknown(timed_out(&self.endpoints).await.to_string())),
        };
        let response = match outcome {
            Ok(response) => response,
            Err(e) if is_lease_gone(&e) => {
                return Err(Error::Invalid(format!("{}: cannot write: the lease is gone", self.describe())));
            }
            Err(e) => {
                let error = failure(&self.endpoints, "write", &e).await;
                return Err(if is_certainly_not_applied(&e) { error } else { Error::Unknown(error.to_string()) });
            }
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

    /// All pages of a range, at the revision of the first.
    async fn list_pages(&self, prefix: &str) -> Result<Listing, Error> {
        let mut kv = self.client.kv_client();
        let end = end_of(prefix);
        let mut start = prefix.as_bytes().to_vec();
        let mut listing = Listing { items: Vec::new(), revision: 0 };
        loop {
            let revision = i64::try_from(listing.revision).unwrap_or_default();
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let mut response = self.read("list", kv.get(start, Some(options))).await?;
            if listing.revision == 0 {
                listing.revision = revision_of(response.header());
            }
            let (kvs, has_more) = (response.take_kvs(), response.more());
            let last = kvs.last().map(|kv| kv.key().to_vec());
            listing.items.extend(kvs.into_iter().filter_map(stored));
            match last {
                Some(mut last) if has_more => {
                    last.push(0);
                    start = last;
                }
                _ => return Ok(listing),
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let mut kv = self.client.kv_client();
        let mut response = self.read("read", kv.get(key.to_string(), None)).await?;
        Ok(response.take_kvs().pop().and_then(stored))
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        let prefix = range.prefix();
        let mut outcome = self.list_pages(&prefix).await;
        for _ in 1..MAX_LISTINGS {
            if !matches!(outcome, Err(Error::Compacted(_))) {
                break;
            }
            outcome = self.list_pages(&prefix).await;
        }
        outcome
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let start = i64::try_from(from + 1).map_err(|_| Error::Compacted(from))?;
        let options = WatchOptions::new().with_prefix().with_start_revision(start);
        let mut client = self.client.watch_client();
        let stream = self.read("watch", client.watch(range.prefix(), Some(options))).await?;
        let watch =
            Watch { stream, endpoints: self.endpoints.clone(), from, ready: VecDeque::new(), has_failed: false };
        Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        self.commit(txn, None).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut kv = self.client.kv_client();
        let at = i64::try_from(revision).map_err(|_| Error::Invalid(format!("no such revision: {revision}")))?;
        match self.read("compact", kv.compact(at, None)).await {
            Ok(_) | Err(Error::Compacted(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }

    fn describe(&self) -> String {
        describe(&self.endpoints)
    }
}

#[async_trait]
impl Leases for EtcdStore {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let mut client = self.client.lease_client();
        let granted = self.read("grant a lease", client.grant(seconds, None)).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, Error> {
        let mut client = self.client.lease_client();
        let kept = async {
            match client.keep_alive(lease.0).await {
                Ok(_) => Ok(true),
                // The server answers with a time to live of 0 where it has no such lease.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(e) => Err(e),
            }
        };
        self.read("keep a lease alive", kept).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let mut client = self.client.lease_client();
        let revoked = async {
            match client.revoke(lease.0).await {
                Err(e) if is_lease_gone(&e) => Ok(()),
                outcome => outcome.map(|_| ()),
            }
        };
        self.read("revoke a lease", revoked).await
    }

    async fn txn_with_lease(&self, txn: Txn, lease: LeaseId) -> Result<Revision, Error> {
        self.commit(txn, Some(lease)).await
    }
}

/// One open watch.
struct Watch {
    stream: etcd_client::WatchStream,
    endpoints: Vec<String>,
    from: Revision,
    ready: VecDeque<Event>,
    has_failed: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if self.has_failed {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.receive().await {
                self.has_failed = true;
                return Some(Err(error));
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let ended = |why: &str| Error::Unavailable(format!("{}: the watch ended: {why}", describe(&self.endpoints)));
        let response = match self.stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(ended("closed by the server")),
            Err(e) => return Err(failure(&self.endpoints, "watch", &e).await),
        };
        if response.compact_revision() != 0 {
            return Err(Error::Compacted(self.from));
        }
        if response.canceled() {
            return Err(ended(response.cancel_reason()));
        }
        // The answer to our request tells where the store is. A revision from its future is one of another life of this
        // store (restored from a backup, made anew): its history is gone.
        if response.created() && revision_of(response.header()) < self.from {
            return Err(Error::Compacted(self.from));
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let Some(key) = std::str::from_utf8(kv.key()).ok().and_then(Key::parse) else { continue };
            let revision = revision(kv.mod_revision());
            self.ready.push_back(match event.event_type() {
                EventType::Put => Event::Put(KeyValue { key, value: kv.value().to_vec(), mod_revision: revision }),
                EventType::Delete => Event::Delete { key, revision },
            });
        }
        Ok(())
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
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        // A member that lost its leader would keep a watch open and silent.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        options = options.with_user(username, password);
    }
    if config.endpoints.iter().any(|e| e.starts_with("https://")) {
        let ca = config.ca_cert_file.as_deref().ok_or_else(|| {
            Error::Invalid(
                "ETCD_ENDPOINTS holds https:// endpoints: ETCD_CA_CERT_FILE must name their CA certificate".into(),
            )
        })?;
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read_pem("ETCD_CA_CERT_FILE", ca)?));
        if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
            tls = tls.identity(Identity::from_pem(read_pem("ETCD_CERT_FILE", cert)?, read_pem("ETCD_KEY_FILE", key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn read_pem(variable: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::Invalid(format!("{variable}: {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    if bytes.windows(10).any(|w| w == b"-----BEGIN") { Ok(bytes) } else { Err(failed("holds no PEM text".into())) }
}

/// The error for a request that failed, by etcd's answer or on the way to it.
async fn failure(endpoints: &[String], doing: &str, error: &etcd_client::Error) -> Error {
    let etcd = describe(endpoints);
    let etcd_client::Error::GRpcStatus(status) = error else {
        return Error::Unavailable(format!("{etcd}: cannot {doing}: {error}"));
    };
    let message = status.message();
    if message.contains("has been compacted") {
        return Error::Compacted(0);
    }
    if is_of_transport(status.code() as i32, message) {
        return unreachable(endpoints, message).await;
    }
    let advice = if ["authentication", "permission denied", "user name"].iter().any(|word| message.contains(word)) {
        "; check ETCD_USERNAME, ETCD_PASSWORD and the user's role"
    } else if message.contains("database space exceeded") {
        "; compact and defragment etcd, then disarm its alarm (etcdctl alarm disarm)"
    } else {
        ""
    };
    Error::Unavailable(format!("{etcd}: cannot {doing}: {message}{advice}"))
}

/// Whether a status was made on the way and not by etcd, whose own messages start with its name.
fn is_of_transport(code: i32, message: &str) -> bool {
    // gRPC status codes: 1 cancelled, 2 unknown, 4 deadline exceeded, 13 internal, 14 unavailable.
    matches!(code, 1 | 2 | 4 | 13 | 14) && !message.starts_with("etcdserver:") && !message.starts_with("auth:")
}

fn is_lease_gone(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("requested lease not found"))
}

/// Whether etcd answered that it did not take the write.
fn is_certainly_not_applied(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let code = status.code() as i32;
    // gRPC status codes: 3 invalid argument, 7 permission denied, 8 resource exhausted, 9 failed precondition, 16 unauthenticated.
    matches!(code, 3 | 7 | 8 | 9 | 16)
}

/// The error for a store that cannot be reached: finds out what each endpoint does.
async fn unreachable(endpoints: &[String], why: &str) -> Error {
    let causes = futures::future::join_all(endpoints.iter().map(|endpoint| probe(endpoint))).await;
    let causes = endpoints.iter().zip(causes).map(|(endpoint, cause)| format!("{endpoint}: {cause}"));
    Error::Unavailable(format!(
        "cannot reach etcd: {why} ({}); check that etcd runs there, ETCD_ENDPOINTS, and the network between",
        causes.collect::<Vec<_>>().join("; ")
    ))
}

/// The error for a request that was not answered in time.
async fn timed_out(endpoints: &[String]) -> Error {
    unreachable(endpoints, &format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())).await
}

async fn probe(endpoint: &str) -> String {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) if endpoint.starts_with("https://") => {
            "the port is open: the TLS files or the server's certificate may not fit, or etcd has no leader".into()
        }
        Ok(Ok(_)) => "the port is open: it may speak TLS (https://), be no etcd, or have no leader".into(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "no answer to TCP".into(),
    }
}

fn describe(endpoints: &[String]) -> String {
    format!("etcd {}", endpoints.join(","))
}

/// The object, unless its key is none of ours.
fn stored(kv: etcd_client::KeyValue) -> Option<KeyValue> {
    let mod_revision = revision(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    let key = Key::parse(std::str::from_utf8(&key).ok()?)?;
    Some(KeyValue { key, value, mod_revision })
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
