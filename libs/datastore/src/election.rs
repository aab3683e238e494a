//! Leader election through the store: one process acts, the others wait, and nobody compares clocks.
//!
//! The record of an election is one object, changed by compare-and-swap alone. Its holder renews it; the others watch it, and
//! take it over when they have not seen it change for the holder's lease duration, by their own monotonic clocks. The holder
//! counts from the moment it *sent* its last successful renewal and stops at the renew deadline, which is shorter: it stops
//! before anyone can take over. (The same protocol as Kubernetes' `client-go/tools/leaderelection`.)
//!
//! ```text
//!              record free: released, expired, or mine
//!  follower ─────────────── acquire ────────────────► leader ──► work, polled only while the lease is held
//!     ▲  waits: watch, expiry of what was seen          │ │
//!     │                                                 │ └─ shutdown or work done: release, the next leads at once
//!     └── not renewed in time, taken over, removed ◄────┘
//! ```
//! A process that is stopped between a look at the clock and a write (SIGSTOP, a paused machine) may still send that write
//! afterwards. [`Leadership::txn`] makes the store refuse it: the write is conditional on the record.
//!
//! In a store with leases the record belongs to one, so that it goes by itself when its holder died and nobody else is there
//! to take it over.

mod record;

use std::pin::pin;
use std::time::{Duration, Instant};

use api::key::{Key, KeyRange};
use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout_at};

use crate::store::{DynStore, Error, LeaseId, Op, Revision, Txn};
use crate::watcher::{self, Update};
pub use record::Record;
use record::Sight;

/// The store's lease lasts for this many leases of the record: where somebody is there, the record is taken over before it
/// goes by itself, and one that is gone was removed by somebody.
const KEY_LEASES: u32 = 2;
/// How long a release may take; a store that does not answer must not hold up a shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The times of an election. All candidates of one election should have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    lease: Duration,
    renew_deadline: Duration,
    retry: Duration,
}

/// client-go's defaults (`LeaseDuration`, `RenewDeadline`, `RetryPeriod` of Kubernetes' own controllers).
impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew_deadline: seconds(10), retry: seconds(2) }
    }
}

impl Settings {
    /// `lease`: for how long others leave an unchanged record alone; `renew_deadline`: for how long a leader acts after its
    /// last renewal; `retry`: from one renewal, or attempt, to the next.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `retry` < `renew_deadline` < `lease`.
    pub fn new(lease: Duration, renew_deadline: Duration, retry: Duration) -> Result<Self, Error> {
        if Duration::ZERO < retry && retry < renew_deadline && renew_deadline < lease {
            Ok(Self { lease, renew_deadline, retry })
        } else {
            Err(Error::Invalid(format!(
                "leader election: the retry period ({retry:?}) must be above 0 and below the renew deadline \
                 ({renew_deadline:?}), and that below the lease duration ({lease:?})"
            )))
        }
    }
}

/// Who stands for what.
#[derive(Clone)]
pub struct Election {
    pub store: DynStore,
    /// Of the election; holds no `/`.
    pub name: String,
    /// Of the candidate, for people: the node, say. What is recorded has a random suffix, so that no two processes are ever
    /// taken for one.
    pub identity: String,
    pub settings: Settings,
}

/// What a leader has. Clones are of the same term.
#[derive(Clone)]
pub struct Leadership {
    store: DynStore,
    key: Key,
    term: watch::Receiver<Term>,
}

/// How long a leader may act, and on what its writes depend.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// The record's revision, which each renewal changes.
    revision: Revision,
    valid_until: Instant,
    is_lost: bool,
}

impl Term {
    fn is_held(&self) -> bool {
        !self.is_lost && Instant::now() < self.valid_until
    }
}

/// Who leads, as the store has it now; `None` where nobody does. Says nothing about whether that one is alive.
///
/// # Errors
/// Those of a read; [`Error::Corrupt`].
pub async fn leader(store: &DynStore, name: &str) -> Result<Option<Record>, Error> {
    let key = Key::Election(name.into());
    let Some(kv) = store.get(&key).await? else { return Ok(None) };
    let record = Record::decode(&kv.value)
        .map_err(|e| Error::Corrupt { key: key.to_string(), reason: format!("no record of an election: {e}") })?;
    Ok(record.is_held().then_some(record))
}

/// Waits until it leads, does the work, and gives its output; `None` when `shutdown` came first.
///
/// The work is polled only while the leadership is held, is dropped when it is lost, and is begun again in the next term; what
/// it spawns must end with it ([`Leadership::lost`]). It is dropped before the record is released, so that it never overlaps
/// with the next leader's. Dropping the future this returns releases nothing: the others then wait for the lease to expire.
///
/// # Errors
/// [`Error::Invalid`] for a name that is none.
pub async fn run_as_leader<T, F>(
    election: Election,
    shutdown: impl Future<Output = ()>,
    mut work: impl FnMut(Leadership) -> F,
) -> Result<Option<T>, Error>
where
    F: Future<Output = T>,
{
    let mut candidate = Candidate::new(election)?;
    let mut shutdown = pin!(shutdown);
    loop {
        let mut held = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(None),
            held = candidate.campaign() => held,
        };
        let leadership = candidate.leadership(&held);
        let outcome = {
            let mut work = pin!(while_held(&leadership, work(leadership.clone())));
            tokio::select! {
                biased;
                reason = candidate.hold(&mut held) => Err(reason),
                () = &mut shutdown => Ok(None),
                done = &mut work => done.map(Some).ok_or(Lost::Expired),
            }
        };
        // Also ends what was spawned.
        held.lose();
        match outcome {
            Ok(output) => {
                candidate.release(held).await;
                return Ok(output);
            }
            Err(reason) => candidate.report_loss(&reason),
        }
    }
}

/// Runs the work, and does not touch it once the leadership is over (`None`).
async fn while_held<T>(leadership: &Leadership, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    // A process that was stopped for long wakes up here or in `hold`, in any order: the clock is looked at each time.
    std::future::poll_fn(|cx| if leadership.is_held() { work.poll_unpin(cx).map(Some) } else { None.into() }).await
}

impl Leadership {
    /// Whether this process may act now, by its own clock.
    pub fn is_held(&self) -> bool {
        self.term.borrow().is_held()
    }

    /// Waits until the leadership is over.
    pub async fn lost(&self) {
        let mut term = self.term.clone();
        loop {
            let present = *term.borrow_and_update();
            if !present.is_held() {
                return;
            }
            tokio::select! {
                changed = term.changed() => if changed.is_err() { return },
                () = sleep_until(present.valid_until.into()) => {}
            }
        }
    }

    /// The operations, on the condition that this process still leads: the store refuses them when another took over, however
    /// late they reach it. A store without transactions ([`crate::Store::has_transactions`]) cannot: there it is one operation, and
    /// the clock alone says whether this process leads.
    ///
    /// # Errors
    /// Those of [`crate::Store::txn`]; [`Error::Conflict`] on the election's key when the leadership is over.
    pub async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error> {
        let mut term = self.term.clone();
        loop {
            let present = *term.borrow_and_update();
            if !present.is_held() {
                return Err(Error::Conflict(self.key.clone()));
            }
            if !self.store.has_transactions() {
                return self.store.txn(Txn { ops }).await;
            }
            let mut fenced = ops.clone();
            fenced.push(Op::Check(self.key.clone(), present.revision));
            match self.store.txn(Txn { ops: fenced }).await {
                // A renewal came between, if it was not a takeover; the term says which as soon as it knows.
                Err(Error::Conflict(key) | Error::NotFound(key)) if key == self.key => {
                    let changed = timeout_at(present.valid_until.into(), term.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(Error::Conflict(key));
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

/// Why a leadership is over.
#[derive(Debug)]
enum Lost {
    /// It could not be renewed in time.
    Expired,
    /// Somebody else has the record, or removed it.
    Taken(Option<Record>),
    /// The store let the lease end.
    LeaseGone,
}

/// A leadership as its holder keeps it.
struct Held {
    record: Record,
    lease: Option<LeaseId>,
    term: watch::Sender<Term>,
}

impl Held {
    fn lose(&self) {
        self.term.send_modify(|term| term.is_lost = true);
    }
}

/// One that wants to lead.
struct Candidate {
    store: DynStore,
    key: Key,
    identity: String,
    settings: Settings,
    updates: mpsc::Receiver<Update>,
    sight: Sight,
    is_in_sync: bool,
}

impl Candidate {
    fn new(election: Election) -> Result<Self, Error> {
        let Election { store, name, identity, settings } = election;
        let key = Key::Election(name);
        if Key::parse(&key.to_string()).as_ref() != Some(&key) {
            return Err(Error::Invalid(format!(
                "leader election: {key} is no valid key; a name is not empty and holds no /"
            )));
        }
        let updates = watcher::watch(store.clone(), vec![KeyRange::Elections]);
        let identity = format!("{identity}_{}", uuid::Uuid::new_v4());
        Ok(Self { store, key, identity, settings, updates, sight: Sight::default(), is_in_sync: false })
    }

    fn leadership(&self, held: &Held) -> Leadership {
        Leadership { store: self.store.clone(), key: self.key.clone(), term: held.term.subscribe() }
    }

    /// Waits until it leads.
    async fn campaign(&mut self) -> Held {
        loop {
            let free_at = self.sight.free_at(&self.identity, Instant::now());
            if self.is_in_sync && free_at <= Instant::now() {
                match self.acquire().await {
                    Ok(held) => return held,
                    Err(error) => self.recover(&error).await,
                }
            } else {
                tokio::select! {
                    update = self.updates.recv() => self.take(update).await,
                    () = sleep_until(free_at.into()), if self.is_in_sync => {}
                }
            }
        }
    }

    /// Learns from the watch. The watcher lives as long as its receiver.
    async fn take(&mut self, update: Option<Update>) {
        match update {
            Some(Update::Put(kv)) if kv.key == self.key => self.see(Some((&kv.value, kv.mod_revision))),
            Some(Update::Delete(key)) if key == self.key => self.see(None),
            Some(Update::InSync) => self.is_in_sync = true,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    fn see(&mut self, present: Option<(&[u8], Revision)>) {
        let present = present.map(|(value, revision)| (self.decode(value), revision));
        let before = self.sight.holder().map(ToString::to_string);
        self.sight.see(present, Instant::now());
        let holder = self.sight.holder();
        if holder != before.as_deref() && holder != Some(&self.identity) {
            tracing::info!(election = %self.key, leader = holder.unwrap_or("none"), "the leader changed");
        }
    }

    /// A record that cannot be read is held by somebody unknown, for as long as ours would be.
    fn decode(&self, value: &[u8]) -> Record {
        Record::decode(value).unwrap_or_else(|error| {
            tracing::warn!(election = %self.key, %error, "the record cannot be read; it is replaced when it does not change");
            Record::new("unreadable".into(), self.settings.lease, 0)
        })
    }

    /// One attempt on what is seen as free.
    async fn acquire(&self) -> Result<Held, Error> {
        let lease = match self.store.leases() {
            Some(leases) => Some(leases.grant(self.settings.lease * KEY_LEASES).await?),
            None => None,
        };
        let started = Instant::now();
        let record = Record::new(self.identity.clone(), self.settings.lease, self.sight.transitions() + 1);
        let op = match self.sight.revision() {
            Some(revision) => Op::Update(self.key.clone(), record.encode(), revision),
            None => Op::Create(self.key.clone(), record.encode()),
        };
        match self.write(op, lease).await {
            Ok(revision) => {
                tracing::info!(election = %self.key, identity = %self.identity, term = record.transitions, "leading");
                let valid_until = started + self.settings.renew_deadline;
                Ok(Held { record, lease, term: watch::Sender::new(Term { revision, valid_until, is_lost: false }) })
            }
            Err(error) => {
                // Where the write may have happened, its record must not be taken away from under a later attempt.
                if !matches!(error, Error::Unknown(_)) {
                    self.revoke(lease).await;
                }
                Err(error)
            }
        }
    }

    async fn write(&self, op: Op, lease: Option<LeaseId>) -> Result<Revision, Error> {
        let txn = Txn { ops: vec![op] };
        match (self.store.leases(), lease) {
            (Some(leases), Some(lease)) => leases.txn_with_lease(txn, lease).await,
            _ => self.store.txn(txn).await,
        }
    }

    async fn revoke(&self, lease: Option<LeaseId>) {
        if let (Some(leases), Some(lease)) = (self.store.leases(), lease)
            && let Err(error) = leases.revoke(lease).await
        {
            tracing::debug!(election = %self.key, %error, "the lease is left to expire");
        }
    }

    /// After an attempt that failed: waits for what the watch tells. Nothing else is looked at, since news must come in order.
    async fn recover(&mut self, error: &Error) {
        if !matches!(error, Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_)) {
            tracing::warn!(election = %self.key, %error, "cannot take the lead");
        }
        if let Ok(update) = tokio::time::timeout(self.settings.retry, self.updates.recv()).await {
            self.take(update).await;
        }
    }

    /// Renews for as long as it can; why it could not any more.
    async fn hold(&mut self, held: &mut Held) -> Lost {
        let mut attempt_at = Instant::now() + self.settings.retry;
        loop {
            let valid_until = held.term.borrow().valid_until;
            if Instant::now() >= valid_until {
                return Lost::Expired;
            }
            tokio::select! {
                biased;
                () = sleep_until(attempt_at.min(valid_until).into()) => {}
                update = self.updates.recv() => {
                    let is_ours = matches!(&update, Some(Update::Put(kv)) if kv.key == self.key && self.is_mine(&kv.value));
                    let is_about_us = matches!(&update, Some(Update::Put(kv)) if kv.key == self.key)
                        || matches!(&update, Some(Update::Delete(key)) if *key == self.key);
                    self.take(update).await;
                    // News from the watch may be older than what we wrote: the renewal finds out.
                    if is_ours || !is_about_us {
                        continue;
                    }
                }
            }
            let started = Instant::now();
            match timeout_at(valid_until.into(), self.renew(held)).await {
                Ok(Ok(())) => {}
                Ok(Err(Renewal::Lost(reason))) => return reason,
                Ok(Err(Renewal::Failed(error))) => {
                    tracing::warn!(election = %self.key, %error, "cannot renew the lead");
                }
                Err(_) => return Lost::Expired,
            }
            attempt_at = started + self.settings.retry;
        }
    }

    fn is_mine(&self, value: &[u8]) -> bool {
        Record::decode(value).is_ok_and(|record| record.holder_identity == self.identity)
    }

    async fn renew(&self, held: &mut Held) -> Result<(), Renewal> {
        let started = Instant::now();
        if let (Some(leases), Some(lease)) = (self.store.leases(), held.lease)
            && !leases.keep_alive(lease).await?
        {
            return Err(Renewal::Lost(Lost::LeaseGone));
        }
        loop {
            let revision = held.term.borrow().revision;
            let record = Record { renewals: held.record.renewals + 1, ..held.record.clone() };
            match self.write(Op::Update(self.key.clone(), record.encode(), revision), held.lease).await {
                Ok(revision) => {
                    held.record = record;
                    let valid_until = started + self.settings.renew_deadline;
                    held.term.send_modify(|term| *term = Term { revision, valid_until, ..*term });
                    return Ok(());
                }
                // An earlier attempt, whose outcome was not known, may have been applied late.
                Err(Error::Conflict(_) | Error::NotFound(_)) => self.adopt(held).await?,
                Err(error @ Error::Unknown(_)) => {
                    self.adopt(held).await?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the revision of our record as it is in the store; the leadership is lost where it is not ours.
    async fn adopt(&self, held: &mut Held) -> Result<(), Renewal> {
        let Some(kv) = self.store.get(&self.key).await? else { return Err(Renewal::Lost(Lost::Taken(None))) };
        match Record::decode(&kv.value) {
            Ok(record) if record.holder_identity == self.identity => {
                held.record = record;
                held.term.send_modify(|term| term.revision = kv.mod_revision);
                Ok(())
            }
            other => Err(Renewal::Lost(Lost::Taken(other.ok()))),
        }
    }

    /// Gives the record up, so that the next leads at once.
    async fn release(&self, held: Held) {
        let released = async {
            for _ in 0..2 {
                let revision = held.term.borrow().revision;
                let record = Record { holder_identity: String::new(), ..held.record.clone() };
                // Without the lease: the record, which counts the terms, stays.
                match self.store.update(self.key.clone(), record.encode(), revision).await {
                    Err(Error::Conflict(_) | Error::Unknown(_)) => {
                        let Ok(Some(kv)) = self.store.get(&self.key).await else { break };
                        if !self.is_mine(&kv.value) {
                            break;
                        }
                        held.term.send_modify(|term| term.revision = kv.mod_revision);
                    }
                    Err(error) => {
                        tracing::warn!(election = %self.key, %error, "cannot release the lead; the others wait for its end");
                        return;
                    }
                    Ok(_) => break,
                }
            }
            self.revoke(held.lease).await;
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, released).await {
            Ok(()) => tracing::info!(election = %self.key, "released the lead"),
            Err(_) => {
                tracing::warn!(election = %self.key, "the store did not answer; the others wait for the lead's end")
            }
        }
    }

    fn report_loss(&self, reason: &Lost) {
        let why = match reason {
            Lost::Expired => "it could not be renewed in time".to_string(),
            Lost::LeaseGone => "the store let its lease end".to_string(),
            Lost::Taken(Some(record)) if record.is_held() => format!("{} took it over", record.holder_identity),
            Lost::Taken(_) => "its record was removed".to_string(),
        };
        tracing::warn!(election = %self.key, identity = %self.identity, why, "lost the lead");
    }
}

/// What became of a renewal that did not succeed.
enum Renewal {
    Lost(Lost),
    Failed(Error),
}

impl From<Error> for Renewal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
