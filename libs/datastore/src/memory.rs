//! A store in memory, for tests and simulations: the semantics of the others, and it fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::key::{Key, KeyRange};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream};

/// What a transaction meets instead of success ([`MemoryStore::fail_next_txn`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`Error::Conflict`] on the first operation's key; nothing is written.
    Conflict,
    /// [`Error::Unknown`], and the writes have happened.
    UnknownApplied,
    /// [`Error::Unknown`], and the writes have not happened.
    UnknownLost,
    /// [`Error::Unavailable`]; nothing is written.
    Unavailable,
}

/// The store; clones share the data.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Changes after every write and every broken watch.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    objects: BTreeMap<String, KeyValue>,
    /// (path, event), oldest first, after `compacted`.
    log: VecDeque<(String, Event)>,
    faults: VecDeque<Fault>,
    is_unavailable: bool,
    /// Watches of an older generation are broken.
    generation: u64,
    has_single_writes_only: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(0) }) }
    }

    /// A store that refuses transactions of more than one operation, as the Kubernetes API has none.
    pub fn without_transactions() -> Self {
        let store = Self::new();
        store.state().has_single_writes_only = true;
        store
    }

    /// The next transaction meets this; several calls queue up.
    pub fn fail_next_txn(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// While set, every operation fails with [`Error::Unavailable`]; setting it ends all watches.
    pub fn set_unavailable(&self, is_unavailable: bool) {
        self.state().is_unavailable = is_unavailable;
        if is_unavailable {
            self.break_watches();
        }
    }

    /// Ends every open watch with [`Error::Unavailable`].
    pub fn break_watches(&self) {
        self.state().generation += 1;
        self.wake();
    }

    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    fn wake(&self) {
        self.shared.changed.send_modify(|n| *n += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the store is down.
    fn reachable(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        if state.is_unavailable { Err(unavailable()) } else { Ok(state) }
    }
}

impl State {
    fn commit(&mut self, txn: Txn) -> Result<Revision, Error> {
        txn.check_keys()?;
        if self.has_single_writes_only && txn.ops.len() > 1 {
            return Err(Error::Invalid(format!("this store takes one operation at a time, not {}", txn.ops.len())));
        }
        for op in &txn.ops {
            op.check(self.objects.get(&op.key().to_string()).map(|kv| kv.mod_revision))?;
        }
        let revision = self.revision + 1;
        for op in txn.ops {
            let path = op.key().to_string();
            let event = match op {
                Op::Check(..) => continue,
                Op::Create(key, value) | Op::Update(key, value, _) | Op::Put(key, value) => {
                    let kv = KeyValue { key, value, mod_revision: revision };
                    self.objects.insert(path.clone(), kv.clone());
                    Event::Put(kv)
                }
                Op::Delete(key, _) => {
                    self.objects.remove(&path);
                    Event::Delete { key, revision }
                }
            };
            self.revision = revision;
            self.log.push_back((path, event));
        }
        Ok(self.revision)
    }

    /// The events of a range after a revision, and the revision they lead to.
    fn events(&self, prefix: &str, from: Revision) -> Result<(Vec<Event>, Revision), Error> {
        if from < self.compacted || from > self.revision {
            return Err(Error::Compacted(from));
        }
        let after = |e: &Event| e.revision() > from;
        let events = self.log.iter().filter(|(path, e)| after(e) && path.starts_with(prefix)).map(|(_, e)| e.clone());
        Ok((events.collect(), self.revision))
    }
}

/// One open watch.
struct Watch {
    store: MemoryStore,
    changed: watch::Receiver<u64>,
    prefix: String,
    from: Revision,
    generation: u64,
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
            self.changed.borrow_and_update();
            if let Err(error) = self.read() {
                self.has_failed = true;
                return Some(Err(error));
            }
            // The sender lives in `store`: it cannot be gone.
            if self.ready.is_empty() && self.changed.changed().await.is_err() {
                return None;
            }
        }
    }

    fn read(&mut self) -> Result<(), Error> {
        let state = self.store.state();
        if state.generation != self.generation {
            return Err(unavailable());
        }
        let (events, head) = state.events(&self.prefix, self.from)?;
        self.ready.extend(events);
        self.from = head;
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        Ok(self.reachable()?.objects.get(&key.to_string()).cloned())
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        let state = self.reachable()?;
        let prefix = range.prefix();
        let of_range = state.objects.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        Ok(Listing { items: of_range.map(|(_, kv)| kv.clone()).collect(), revision: state.revision })
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let generation = {
            let state = self.reachable()?;
            state.events(&range.prefix(), from)?;
            state.generation
        };
        let watch = Watch {
            store: self.clone(),
            changed: self.shared.changed.subscribe(),
            prefix: range.prefix(),
            from,
            generation,
            ready: VecDeque::new(),
            has_failed: false,
        };
        Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        let outcome = {
            let mut state = self.reachable()?;
            match state.faults.pop_front() {
                None => state.commit(txn),
                Some(Fault::Conflict) => match txn.ops.first() {
                    Some(op) => Err(Error::Conflict(op.key().clone())),
                    None => state.commit(txn),
                },
                Some(Fault::UnknownApplied) => state.commit(txn).and(Err(Error::Unknown("injected, applied".into()))),
                Some(Fault::UnknownLost) => Err(Error::Unknown("injected, lost".into())),
                Some(Fault::Unavailable) => Err(unavailable()),
            }
        };
        self.wake();
        outcome
    }

    fn has_transactions(&self) -> bool {
        !self.state().has_single_writes_only
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut state = self.reachable()?;
        let revision = revision.min(state.revision);
        state.compacted = state.compacted.max(revision);
        state.log.retain(|(_, event)| event.revision() > revision);
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

fn unavailable() -> Error {
    Error::Unavailable("memory: unavailable on demand".into())
}
