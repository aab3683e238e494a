//! A watch that goes on at another member where it lost its own.
//!
//! It goes on after the last revision it has seen, so that nothing is missed or repeated. Where that is not certain it ends:
//! with [`Error::Compacted`] where history is gone or is another's, with [`Error::Unavailable`] after an outage, in which the
//! cluster may have been replaced.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::key::Key;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::watch;

use super::cluster::{Cluster, WatchCount};
use super::{failure, revision, revision_of};
use crate::store::{Error, Event, KeyValue, Revision};

/// How long a watch may have heard nothing of the cluster and still go on: less than a restore from a backup takes.
const BLIND: Duration = Duration::from_secs(10);

/// One open watch.
pub(super) struct Watch {
    cluster: Arc<Cluster>,
    prefix: String,
    /// Everything until here was received.
    from: Revision,
    cluster_id: u64,
    stream: WatchStream,
    /// The member that the stream is of.
    member: usize,
    current: watch::Receiver<usize>,
    ready: VecDeque<Event>,
    has_failed: bool,
    _count: WatchCount,
}

impl Watch {
    pub(super) async fn open(cluster: Arc<Cluster>, prefix: String, from: Revision) -> Result<Self, Error> {
        let current = cluster.current();
        let (member, opened) = open(&cluster, &prefix, from).await?;
        let _count = cluster.count_watch();
        let Opened { stream, cluster_id } = opened;
        let ready = VecDeque::new();
        Ok(Self { cluster, prefix, from, cluster_id, stream, member, current, ready, has_failed: false, _count })
    }

    pub(super) async fn next(&mut self) -> Option<Result<Event, Error>> {
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
        let message = tokio::select! {
            biased;
            message = self.stream.message() => message,
            () = moved(&mut self.current, self.member) => return self.go_on("its member does not answer").await,
        };
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return self.go_on("closed by the server").await,
            Err(e) if failure::is_members(&e) => return self.go_on(&failure::text(&e)).await,
            Err(e) => return Err(failure::error(&self.cluster.endpoints(), "watch", &e).await),
        };
        self.cluster.heard();
        if response.compact_revision() != 0 {
            return Err(Error::Compacted(self.from));
        }
        if response.canceled() {
            let reason = response.cancel_reason().to_string();
            return self.go_on(&reason).await;
        }
        self.take(&response);
        Ok(())
    }

    fn take(&mut self, response: &WatchResponse) {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = revision(kv.mod_revision());
            self.from = self.from.max(revision);
            let Some(key) = std::str::from_utf8(kv.key()).ok().and_then(Key::parse) else { continue };
            self.ready.push_back(match event.event_type() {
                EventType::Put => Event::Put(KeyValue { key, value: kv.value().to_vec(), mod_revision: revision }),
                EventType::Delete => Event::Delete { key, revision },
            });
        }
        // Without events it tells that everything until there was sent.
        if response.events().is_empty() {
            self.from = self.from.max(revision_of(response.header()));
        }
    }

    /// Opens the watch again, where that loses nothing.
    async fn go_on(&mut self, why: &str) -> Result<(), Error> {
        let ended = |why: &str| Error::Unavailable(format!("{}: the watch ended: {why}", self.cluster.describe()));
        if self.cluster.last_answer().elapsed() > BLIND {
            return Err(ended(why));
        }
        tracing::debug!(prefix = self.prefix, from = self.from, why, "the watch goes on elsewhere");
        let started = Instant::now();
        let (member, opened) = open(&self.cluster, &self.prefix, self.from).await?;
        if opened.cluster_id != self.cluster_id {
            return Err(Error::Compacted(self.from));
        }
        // A member that opens watches and ends them at once must not be asked in a busy loop.
        if member == self.member && started.elapsed() < Duration::from_millis(100) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (self.member, self.stream) = (member, opened.stream);
        Ok(())
    }
}

/// Waits until another member is in use.
async fn moved(current: &mut watch::Receiver<usize>, member: usize) {
    // The sender lives in the cluster.
    if current.wait_for(|current| *current != member).await.is_err() {
        std::future::pending().await
    }
}

struct Opened {
    stream: WatchStream,
    cluster_id: u64,
}

/// A watch that the server has confirmed.
async fn open(cluster: &Arc<Cluster>, prefix: &str, from: Revision) -> Result<(usize, Opened), Error> {
    let start = i64::try_from(from + 1).map_err(|_| Error::Compacted(from))?;
    let request = |client: Client| {
        let options = WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify();
        let prefix = prefix.to_string();
        async move { create(&client, prefix, options).await }
    };
    let (member, (stream, response)) = match cluster.ask(request).await {
        Ok(answer) => answer,
        Err(failed) => return Err(failed.into_error(cluster, "watch").await),
    };
    // The answer to our request tells where the store is. A revision from its future is one of another life of this store
    // (restored from a backup, made anew): its history is gone.
    if !response.created() && !response.canceled() && response.compact_revision() == 0 {
        return Err(failure::refused(&cluster.endpoints(), "watch", "the watch was not confirmed"));
    }
    let cluster_id = response.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
    let mut reached = revision_of(response.header());
    if cluster_id == 0 {
        // etcd's gRPC proxy answers by itself, with the revision asked for.
        if cluster.has_user() {
            return Err(Error::Invalid(format!(
                "{}: cannot watch: this is etcd's gRPC proxy, which shares a watch that another's login has opened and ends \
                 silently with it; use client certificates without ETCD_USERNAME, or etcd's own endpoints",
                cluster.describe()
            )));
        }
        reached = revision_now(cluster).await?;
    }
    if response.compact_revision() != 0 || reached < from {
        return Err(Error::Compacted(from));
    }
    if response.canceled() {
        return Err(failure::refused(&cluster.endpoints(), "watch", response.cancel_reason()));
    }
    Ok((member, Opened { stream, cluster_id }))
}

/// The store's present revision.
async fn revision_now(cluster: &Cluster) -> Result<Revision, Error> {
    let read = |client: Client| async move {
        let options = GetOptions::new().with_count_only();
        client.kv_client().get(Key::IpamConfig.to_string(), Some(options)).await
    };
    match cluster.ask(read).await {
        Ok((_, response)) => Ok(revision_of(response.header())),
        Err(failed) => Err(failed.into_error(cluster, "read").await),
    }
}

/// Opens a stream and waits for the server's answer to it. A login that has expired looks like a missing permission: it is
/// renewed once.
async fn create(
    client: &Client,
    prefix: String,
    options: WatchOptions,
) -> Result<(WatchStream, WatchResponse), etcd_client::Error> {
    let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
    for is_retry in [false, true] {
        let mut stream = watches.watch(prefix.clone(), Some(options.clone())).await?;
        let Some(response) = stream.message().await? else { break };
        if is_retry || !response.canceled() || !failure::may_be_old_login(response.cancel_reason()) {
            return Ok((stream, response));
        }
        client.refresh_token().await?;
    }
    Err(etcd_client::Error::WatchError("the server closed a new watch".into()))
}
