//! The members of a cluster, and which of them is in use.
//!
//! A process talks to one member at a time, chosen at random at the start, so that a fleet spreads over all. It moves to the
//! next when the member refuses connections, does not answer, or has no leader; its watches move along.
//!
//! ```text
//!  request ──► member in use ── no answer within HEDGE (reads) ──► the next as well; who answers first is used from then on
//!                    ▲
//!  probe task ───────┘ while watches are open: a read every PROBE_INTERVAL where nothing else was answered
//! ```
//! The probe task ends with the cluster, and runs only where there is a member to move to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use api::key::Key;
use etcd_client::{Client, ConnectOptions, GetOptions};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep_until, timeout};

use super::failure;
use crate::config::EtcdConfig;
use crate::store::Error;

/// An unreachable store is reported after this and the search for the cause: less than 5 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// After this a read is sent to one more member.
const HEDGE: Duration = Duration::from_secs(1);
/// How often the member in use must answer something while watches are open.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);

pub(super) struct Cluster {
    members: Vec<Member>,
    options: ConnectOptions,
    has_user: bool,
    /// The index of the member in use.
    current: watch::Sender<usize>,
    last_answer: Mutex<Instant>,
    watches: AtomicUsize,
}

struct Member {
    endpoint: String,
    /// Made at the first use: with a user it logs in, and a member that is down at the start does not matter.
    client: OnceCell<Client>,
}

/// Why a request has no answer.
pub(super) enum Failed {
    /// What etcd, or the way to it, said.
    Said(etcd_client::Error),
    TimedOut,
}

impl Cluster {
    pub(super) fn new(config: &EtcdConfig, options: ConnectOptions) -> Arc<Self> {
        let member = |endpoint: &String| Member { endpoint: endpoint.clone(), client: OnceCell::new() };
        let members: Vec<Member> = config.endpoints.iter().map(member).collect();
        // The random part of a UUID is the randomness that is at hand here.
        let random = usize::from(uuid::Uuid::new_v4().as_bytes()[0]);
        let cluster = Arc::new(Self {
            current: watch::Sender::new(random % members.len().max(1)),
            members,
            options,
            has_user: config.username.is_some(),
            last_answer: Mutex::new(Instant::now()),
            watches: AtomicUsize::new(0),
        });
        if cluster.members.len() > 1 {
            tokio::spawn(probe_members(Arc::downgrade(&cluster)));
        }
        cluster
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.endpoint.clone()).collect()
    }

    pub(super) fn describe(&self) -> String {
        format!("etcd {}", self.endpoints().join(","))
    }

    pub(super) fn has_user(&self) -> bool {
        self.has_user
    }

    /// The endpoint of the member in use.
    pub(super) fn endpoint_in_use(&self) -> &str {
        &self.members[*self.current.borrow()].endpoint
    }

    /// Tells which member is in use, and when another is.
    pub(super) fn current(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// When a member last answered.
    pub(super) fn last_answer(&self) -> Instant {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of a watch is a sign of life as well.
    pub(super) fn heard(&self) {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Counts a watch for as long as the guard lives: only then is the member in use probed.
    pub(super) fn count_watch(self: &Arc<Self>) -> WatchCount {
        self.watches.fetch_add(1, Ordering::Relaxed);
        WatchCount(self.clone())
    }

    /// A request that may be made twice, of the member in use or, where that does not answer, of the others as well. Gives the
    /// member that answered.
    pub(super) async fn ask<'a, T, F>(
        &'a self,
        request: impl Fn(Client) -> F + Send + Sync + 'a,
    ) -> Result<(usize, T), Failed>
    where
        T: Send + 'a,
        F: Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let first = *self.current.borrow();
        let mut waiting = (0..self.members.len()).map(|n| (first + n) % self.members.len());
        let request = &request;
        let mut attempts = FuturesUnordered::new();
        let attempt = |index| async move { (index, self.attempt(index, request).await) };
        attempts.extend(waiting.next().map(attempt));
        loop {
            let hedge_at = if waiting.len() > 0 { Instant::now() + HEDGE } else { deadline };
            tokio::select! {
                Some((index, outcome)) = attempts.next() => match outcome {
                    Err(e) if failure::is_members(&e) => match waiting.next() {
                        Some(next) => attempts.push(attempt(next)),
                        None if attempts.is_empty() => return Err(Failed::Said(e)),
                        None => {}
                    },
                    outcome => {
                        self.answered(first, index);
                        return outcome.map(|answer| (index, answer)).map_err(Failed::Said);
                    }
                },
                () = sleep_until(hedge_at.min(deadline).into()) => {
                    if Instant::now() >= deadline {
                        return Err(Failed::TimedOut);
                    }
                    attempts.extend(waiting.next().map(attempt));
                }
            }
        }
    }

    /// A request that must be made once: another member is asked only where the one before certainly did not get it.
    pub(super) async fn tell<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let first = *self.current.borrow();
        let mut last = Failed::TimedOut;
        for index in (0..self.members.len()).map(|n| (first + n) % self.members.len()) {
            match tokio::time::timeout_at(deadline.into(), self.attempt(index, &request)).await {
                Ok(Err(e)) if failure::is_not_taken(&e) => last = Failed::Said(e),
                Ok(Err(e)) if failure::is_members(&e) => {
                    self.leave(index);
                    return Err(Failed::Said(e));
                }
                Ok(outcome) => {
                    self.answered(first, index);
                    return outcome.map_err(Failed::Said);
                }
                Err(_) => {
                    self.leave(index);
                    return Err(Failed::TimedOut);
                }
            }
        }
        Err(last)
    }

    /// One attempt at one member; once more where the login has expired.
    async fn attempt<T, F>(&self, index: usize, request: &impl Fn(Client) -> F) -> Result<T, etcd_client::Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client(index).await?;
        match request(client.clone()).await {
            Err(e) if self.has_user && failure::is_old_login(&e) => {
                client.refresh_token().await?;
                request(client.clone()).await
            }
            outcome => outcome,
        }
    }

    async fn client(&self, index: usize) -> Result<&Client, etcd_client::Error> {
        let member = &self.members[index];
        let connect = || Client::connect([&member.endpoint], Some(self.options.clone()));
        member.client.get_or_try_init(connect).await
    }

    fn answered(&self, asked: usize, by: usize) {
        self.heard();
        if asked != by {
            self.use_member(by, asked);
        }
    }

    /// The member did not answer: the next one's turn.
    fn leave(&self, index: usize) {
        self.use_member((index + 1) % self.members.len(), index);
    }

    /// Unless another request has moved on already.
    fn use_member(&self, index: usize, instead_of: usize) {
        let has_moved = self.current.send_if_modified(|current| {
            let moves = *current == instead_of && *current != index;
            if moves {
                *current = index;
            }
            moves
        });
        if has_moved {
            let (left, used) = (&self.members[instead_of].endpoint, &self.members[index].endpoint);
            tracing::info!(left, used, "etcd's member does not answer; using another");
        }
    }

    /// Moves on where the member in use does not answer and another does.
    async fn probe(&self) {
        let current = *self.current.borrow();
        if self.answers(current).await {
            return self.heard();
        }
        let others = (1..self.members.len()).map(|n| (current + n) % self.members.len());
        let mut answers: FuturesUnordered<BoxFuture<'_, Option<usize>>> = FuturesUnordered::new();
        for index in others {
            answers.push(Box::pin(async move { self.answers(index).await.then_some(index) }));
        }
        while let Some(answer) = answers.next().await {
            if let Some(index) = answer {
                self.heard();
                return self.use_member(index, current);
            }
        }
    }

    /// Whether the member, with a majority behind it, answers a read. A refusal is an answer too.
    async fn answers(&self, index: usize) -> bool {
        let read = |client: Client| async move {
            let options = GetOptions::new().with_count_only();
            client.kv_client().get(Key::IpamConfig.to_string(), Some(options)).await
        };
        match timeout(PROBE_TIMEOUT, self.attempt(index, &read)).await {
            Ok(outcome) => !outcome.is_err_and(|e| failure::is_members(&e)),
            Err(_) => false,
        }
    }
}

/// One open watch.
pub(super) struct WatchCount(Arc<Cluster>);

impl Drop for WatchCount {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Failed {
    /// The error for a read.
    pub(super) async fn into_error(self, cluster: &Cluster, doing: &str) -> Error {
        match self {
            Self::Said(e) => failure::error(&cluster.endpoints(), doing, &e).await,
            Self::TimedOut => {
                let why = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
                failure::unreachable(&cluster.endpoints(), &why).await
            }
        }
    }

    /// The error for a write: what may have happened is [`Error::Unknown`].
    pub(super) async fn into_write_error(self, cluster: &Cluster) -> Error {
        let is_certain = matches!(&self, Self::Said(e) if failure::is_not_applied(e));
        let error = self.into_error(cluster, "write").await;
        if is_certain { error } else { Error::Unknown(error.to_string()) }
    }
}

async fn probe_members(cluster: Weak<Cluster>) {
    loop {
        let next = {
            let Some(cluster) = cluster.upgrade() else { return };
            let due = cluster.last_answer() + PROBE_INTERVAL;
            if Instant::now() < due {
                due
            } else {
                if cluster.watches.load(Ordering::Relaxed) > 0 {
                    cluster.probe().await;
                }
                Instant::now() + PROBE_TIMEOUT
            }
        };
        sleep_until(next.into()).await;
    }
}
