//! The store as the clients see it: every operation waits until the schedule lets it go on, and meets what the schedule decides: success,
//! an error, an unknown outcome, or silence. Time stands still but for what the schedule adds.
//!
//!     client's Ipam -> ClientStore -> Request in World ...schedule: execute... MemoryStore -> Judge
//!                                                      ...schedule: answer...  -> the client goes on

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use datastore::memory::MemoryStore;
use datastore::{Error, KeyValue, Listing, Revision, Store, Txn, WatchStream};
use futures::{FutureExt, StreamExt};
use ipam::environment::Environment;
use jiff::{SignedDuration, Timestamp};

use crate::choices::split_mix;

/// When every episode begins.
pub const START: &str = "2026-01-01T00:00:00Z";
/// How far time goes on with each step.
const STEP: SignedDuration = SignedDuration::from_micros(20);

/// A call of a client, told apart from its other calls.
pub type CallId = u64;

/// What a client asks of the store.
#[derive(Clone, Debug)]
pub enum Asked {
    Get(Key),
    List(KeyRange),
    Txn(Txn),
    /// No store operation: to be left alone for a while.
    Sleep(Duration),
}

/// What it is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    Got(Result<Option<KeyValue>, Error>),
    Listed(Result<Listing, Error>),
    Written(Result<Revision, Error>),
    Slept,
}

/// An operation that waits for the schedule.
pub struct Request {
    pub call: CallId,
    pub client: usize,
    pub asked: Asked,
    /// Set when the store has acted, and the client does not know yet.
    pub answer: Option<Answer>,
    /// The client is gone or believes that it timed out: what comes of it, nobody hears.
    pub is_detached: bool,
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot(Mutex<(Option<Answer>, Option<Waker>)>);

#[derive(Default)]
struct State {
    requests: BTreeMap<u64, Request>,
    made: u64,
}

/// The store, its waiting operations, and the clock.
pub struct World {
    pub memory: MemoryStore,
    state: Mutex<State>,
    /// Since [`START`], in nanoseconds.
    elapsed: AtomicU64,
    randomness: Mutex<u64>,
    /// The revision up to which watches have come: they are as late as the schedule has them.
    shown: tokio::sync::watch::Sender<Revision>,
}

impl World {
    pub fn new(memory: MemoryStore) -> Arc<Self> {
        Arc::new(Self {
            memory,
            state: Mutex::default(),
            elapsed: AtomicU64::new(0),
            randomness: Mutex::new(0),
            shown: tokio::sync::watch::Sender::new(0),
        })
    }

    pub fn now(&self) -> Timestamp {
        let start: Timestamp = START.parse().expect("a time");
        start + SignedDuration::from_nanos(self.elapsed.load(Ordering::Relaxed) as i64)
    }

    pub fn pass(&self, time: SignedDuration) {
        self.elapsed.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Watches show what was written until now.
    pub fn show(&self) {
        self.shown.send_replace(self.memory.revision());
    }

    pub fn step(&self) {
        self.pass(STEP);
    }

    /// The waiting operations by number, oldest first: what `of` makes of each.
    pub fn waiting<T>(&self, of: impl Fn(u64, &Request) -> Option<T>) -> Vec<T> {
        self.state().requests.iter().filter_map(|(id, request)| of(*id, request)).collect()
    }

    /// What a waiting operation asks.
    pub fn asked(&self, id: u64) -> (CallId, Asked) {
        let state = self.state();
        let request = &state.requests[&id];
        (request.call, request.asked.clone())
    }

    /// Does what an operation asks; the answer is not given yet.
    pub fn execute(&self, asked: &Asked) -> Answer {
        let done = "a store in memory does not wait";
        match asked {
            Asked::Get(key) => Answer::Got(self.memory.get(key).now_or_never().expect(done)),
            Asked::List(range) => Answer::Listed(self.memory.list(range).now_or_never().expect(done)),
            Asked::Txn(txn) => Answer::Written(self.memory.txn(txn.clone()).now_or_never().expect(done)),
            Asked::Sleep(time) => {
                self.pass(SignedDuration::try_from(*time).expect("short"));
                Answer::Slept
            }
        }
    }

    /// The store has acted; the client will hear of it with [`Self::deliver`].
    pub fn set_answer(&self, id: u64, answer: Answer) {
        if let Some(request) = self.state().requests.get_mut(&id) {
            request.answer = Some(answer);
        }
    }

    /// Gives a client its answer, and forgets the operation; the client.
    pub fn deliver(&self, id: u64) -> Option<usize> {
        let request = self.state().requests.remove(&id)?;
        give(&request.slot, request.answer?);
        Some(request.client)
    }

    /// The client hears this now, and the operation waits on without it.
    pub fn detach(&self, id: u64, answer: Answer) -> Option<usize> {
        let mut state = self.state();
        let request = state.requests.get_mut(&id)?;
        request.is_detached = true;
        give(&request.slot, answer);
        Some(request.client)
    }

    pub fn forget(&self, id: u64) {
        self.state().requests.remove(&id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give(slot: &Slot, answer: Answer) {
    let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
    slot.0 = Some(answer);
    if let Some(waker) = slot.1.take() {
        waker.wake();
    }
}

/// The store of one client, and its clock, which is a little wrong.
pub struct ClientStore {
    world: Arc<World>,
    client: usize,
    skew: SignedDuration,
    /// The call that is under way.
    call: AtomicU64,
}

impl ClientStore {
    pub fn new(world: Arc<World>, client: usize, skew: SignedDuration) -> Arc<Self> {
        Arc::new(Self { world, client, skew, call: AtomicU64::new(0) })
    }

    /// What is asked from now on belongs to this call.
    pub fn begin(&self, call: CallId) {
        self.call.store(call, Ordering::Relaxed);
    }

    fn ask(&self, asked: Asked) -> Waiting {
        let mut state = self.world.state();
        state.made += 1;
        let id = state.made;
        let slot = Arc::new(Slot::default());
        let call = self.call.load(Ordering::Relaxed);
        let (client, answer, is_detached) = (self.client, None, false);
        state.requests.insert(id, Request { call, client, asked, answer, is_detached, slot: slot.clone() });
        Waiting { world: self.world.clone(), id, slot }
    }
}

/// An operation until its answer is there. Dropped before, it is detached: it may still happen.
struct Waiting {
    world: Arc<World>,
    id: u64,
    slot: Arc<Slot>,
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut slot = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.0.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(request) = self.world.state().requests.get_mut(&self.id) {
            request.is_detached = true;
        }
    }
}

#[async_trait]
impl Store for ClientStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        match self.ask(Asked::Get(key.clone())).await {
            Answer::Got(answer) => answer,
            other => unreachable!("{other:?} for a read"),
        }
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        match self.ask(Asked::List(range.clone())).await {
            Answer::Listed(answer) => answer,
            other => unreachable!("{other:?} for a listing"),
        }
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let events = self.world.memory.watch(range, from).await?;
        let shown = self.world.shown.subscribe();
        // Each event once it is shown.
        let later = futures::stream::unfold((events, shown), |(mut events, mut shown)| async move {
            let event = events.next().await?;
            if let Ok(event) = &event {
                shown.wait_for(|at| *at >= event.revision()).await.ok()?;
            }
            Some((event, (events, shown)))
        });
        Ok(Box::pin(later))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        match self.ask(Asked::Txn(txn)).await {
            Answer::Written(answer) => answer,
            other => unreachable!("{other:?} for a write"),
        }
    }

    fn has_transactions(&self) -> bool {
        self.world.memory.has_transactions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.world.memory.compact(revision).await
    }

    fn describe(&self) -> String {
        format!("simulated store of client {}", self.client)
    }
}

impl Environment for ClientStore {
    fn now(&self) -> Timestamp {
        self.world.now() + self.skew
    }

    fn random(&self) -> u64 {
        split_mix(&mut self.world.randomness.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let waiting = self.ask(Asked::Sleep(duration));
        Box::pin(async move {
            waiting.await;
        })
    }
}
