//! The store as the clients see it: every operation waits until the schedule lets it go on, and meets what the schedule decides: success,
//! an error, an unknown outcome, or silence. Time stands still but for what the schedule adds.
//!
//!     client's Ipam -> ClientStore -> Request in World ...schedule: execute... MemoryStore -> Judge
//!                                                      ...schedule: answer...  -> the client goes on
//!
//! Watches are the world's own: they show what the schedule lets them ([`World::show`]), and wake in the order in which they were opened.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use datastore::memory::MemoryStore;
use datastore::{Error, Event, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream};
use futures::{FutureExt, Stream};
use ipam::environment::Environment;
use jiff::{SignedDuration, Timestamp};

use crate::choices::split_mix;

/// When every episode begins.
pub const START: &str = "2026-01-01T00:00:00Z";
/// How far time goes on with each step.
const STEP: SignedDuration = SignedDuration::from_micros(20);
const AT_ONCE: &str = "a store in memory does not wait";

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
    /// Every change, with the path of its key, oldest first.
    log: Vec<(String, Event)>,
    /// The revision up to which watches have come: they are as late as the schedule has them.
    shown: Revision,
    /// Open watches by number: whom to wake.
    watches: BTreeMap<u64, Option<Waker>>,
    watches_made: u64,
    /// Watches up to this number are broken.
    broken: u64,
}

/// The store, its waiting operations, and the clock.
pub struct World {
    pub memory: MemoryStore,
    state: Mutex<State>,
    /// Since [`START`], in nanoseconds.
    elapsed: AtomicU64,
    randomness: Mutex<u64>,
    /// The revision of what it began with.
    first: Revision,
}

impl World {
    /// A world whose store holds what `memory` does.
    pub fn new(memory: MemoryStore) -> Arc<Self> {
        let all = memory.list(&KeyRange::All).now_or_never().expect(AT_ONCE).expect("it is up");
        let mut log: Vec<_> = all.items.into_iter().map(|kv| (kv.key.to_string(), Event::Put(kv))).collect();
        log.sort_by_key(|(_, event)| event.revision());
        let state = State { log, ..State::default() };
        let (elapsed, randomness) = (AtomicU64::new(0), Mutex::new(0));
        let first = all.revision;
        Arc::new(Self { memory, state: Mutex::new(state), elapsed, randomness, first })
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
        let mut state = self.state();
        state.shown = self.memory.revision();
        state.wake();
    }

    /// Every open watch ends.
    pub fn break_watches(&self) {
        let mut state = self.state();
        state.broken = state.watches_made;
        state.wake();
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

    /// Does what an operation asks; the answer is not given yet. A read is `lag` writes behind.
    pub fn execute(&self, asked: &Asked, lag: Revision) -> Answer {
        if lag > 0 {
            let at = self.memory.revision().saturating_sub(lag).max(self.first);
            match asked {
                Asked::Get(key) => {
                    return Answer::Got(Ok(self.state().versions(&key.to_string(), at).remove(&key.to_string())));
                }
                Asked::List(range) => {
                    let items = self.state().versions(&range.prefix(), at).into_values().collect();
                    return Answer::Listed(Ok(Listing { items, revision: at }));
                }
                _ => {}
            }
        }
        match asked {
            Asked::Get(key) => Answer::Got(self.memory.get(key).now_or_never().expect(AT_ONCE)),
            Asked::List(range) => Answer::Listed(self.memory.list(range).now_or_never().expect(AT_ONCE)),
            Asked::Txn(txn) => Answer::Written(self.write(txn.clone())),
            Asked::Sleep(time) => {
                self.pass(SignedDuration::try_from(*time).expect("short"));
                Answer::Slept
            }
        }
    }

    /// Writes at once.
    pub fn write(&self, txn: Txn) -> Result<Revision, Error> {
        let revision = self.memory.txn(txn.clone()).now_or_never().expect(AT_ONCE)?;
        let events = txn.ops.into_iter().filter_map(|op| {
            let path = op.key().to_string();
            match op {
                Op::Check(..) => None,
                Op::Create(key, value) | Op::Update(key, value, _) | Op::Put(key, value) => {
                    Some((path, Event::Put(KeyValue { key, value, mod_revision: revision })))
                }
                Op::Delete(key, _) => Some((path, Event::Delete { key, revision })),
            }
        });
        self.state().log.extend(events);
        Ok(revision)
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

impl State {
    /// What was stored at a revision under the keys that begin with this.
    fn versions(&self, prefix: &str, at: Revision) -> BTreeMap<String, KeyValue> {
        let mut found = BTreeMap::new();
        let past = self.log.iter().take_while(|(_, event)| event.revision() <= at);
        for (path, event) in past.filter(|(path, _)| path.starts_with(prefix)) {
            match event {
                Event::Put(kv) => drop(found.insert(path.clone(), kv.clone())),
                Event::Delete { .. } => drop(found.remove(path)),
            }
        }
        found
    }

    fn wake(&mut self) {
        self.watches.values_mut().filter_map(Option::take).for_each(Waker::wake);
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

/// An open watch.
struct Watching {
    world: Arc<World>,
    id: u64,
    prefix: String,
    /// Where in the log it goes on.
    next: usize,
    has_ended: bool,
}

impl Stream for Watching {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let world = self.world.clone();
        let mut state = world.state();
        if self.id <= state.broken {
            self.has_ended = true;
            return Poll::Ready(Some(Err(Error::Unavailable("the watch is broken".into()))));
        }
        while let Some((path, event)) = state.log.get(self.next).filter(|(_, e)| e.revision() <= state.shown) {
            self.next += 1;
            if path.starts_with(&self.prefix) {
                return Poll::Ready(Some(Ok(event.clone())));
            }
        }
        state.watches.insert(self.id, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.world.state().watches.remove(&self.id);
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
        let mut state = self.world.state();
        if from > self.world.memory.revision() {
            return Err(Error::Compacted(from));
        }
        state.watches_made += 1;
        let id = state.watches_made;
        state.watches.insert(id, None);
        let next = state.log.partition_point(|(_, event)| event.revision() <= from);
        Ok(Box::pin(Watching { world: self.world.clone(), id, prefix: range.prefix(), next, has_ended: false }))
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
