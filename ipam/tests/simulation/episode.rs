//! One run from one seed: a world, clients that come and go in it, and at its end a settlement.

mod settlement;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use api::Key;
use api::key::AffinityOwner;
use datastore::{DynStore, Error as StoreError, Op, Revision, Store, Txn};
use ipam::gc::Settings;
use ipam::{Assignment, Error, Ipam};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::choices::Choices;
use crate::collector;
use crate::judge::{Judge, Moment, Rules, Told};
use crate::life::{Holder, Life};
use crate::setting::{Kind, Known, Setting};
use crate::task::{Done, Task};
use crate::world::{self, Answer, Asked, CallId, ClientStore, Request, World};

/// What the controller leaves between two looks for what was cut off.
const RESYNC: SignedDuration = SignedDuration::from_secs(60);
/// What the simulated store says.
const OUTAGE: &str = "simulated outage";
const SILENCE: &str = "simulated silence";

/// What was done in one run, or many.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub operations: u64,
    pub store_operations: u64,
    pub writes: u64,
    pub crashes: u64,
    pub errors: u64,
    pub unknown: u64,
    pub late: u64,
    pub assigned: u64,
    pub released: u64,
    pub refused: u64,
    pub collected: u64,
    /// A hash of everything that happened, in order: two runs with the same did the same.
    pub history: u64,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("operations", self.operations),
            ("store operations", self.store_operations),
            ("writes", self.writes),
            ("crashes", self.crashes),
            ("errors", self.errors),
            ("unknown", self.unknown),
            ("late", self.late),
            ("assigned", self.assigned),
            ("released", self.released),
            ("refused", self.refused),
            ("collected", self.collected),
        ];
        counts.iter().try_for_each(|(name, n)| write!(f, "{n} {name}, "))?;
        write!(f, "history {:016x}", self.history)
    }
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.operations += other.operations;
        self.store_operations += other.store_operations;
        self.writes += other.writes;
        self.crashes += other.crashes;
        self.errors += other.errors;
        self.unknown += other.unknown;
        self.late += other.late;
        self.assigned += other.assigned;
        self.released += other.released;
        self.refused += other.refused;
        self.collected += other.collected;
        self.history = hash_of(&(self.history, other.history));
    }
}

/// Why a run failed, and how it came there.
#[derive(Clone, Debug)]
pub struct Failure {
    pub violation: String,
    pub choices: Vec<u32>,
    pub trace: Vec<String>,
}

/// The process that makes calls: one at a time, until it crashes and another comes in its place.
struct Client {
    node: String,
    store: Arc<ClientStore>,
    ipam: Ipam,
    running: Option<Running>,
    /// What a controller watches, and when it looked for what was cut off.
    watched: Option<collector::Shared>,
    inspected: Timestamp,
    /// The handle of the call in which its predecessor crashed.
    resumes: Option<String>,
}

struct Running {
    call: CallId,
    began: Moment,
    task: Task,
    future: Pin<Box<dyn Future<Output = Done>>>,
}

/// One step that could come next.
#[derive(Clone, Copy)]
enum Next {
    Begin(usize),
    Go(u64),
    Answer(u64),
    Late(u64),
    /// The endpoint of a workload that has its addresses.
    Start,
    /// Something ends of itself: a pod vanishes, a service is deleted.
    End,
}

/// The run.
pub struct Episode {
    kind: Kind,
    choices: Choices,
    setting: Setting,
    world: Arc<World>,
    judge: Judge,
    /// Where there is a collection.
    life: Option<Life>,
    clients: Vec<Client>,
    calls: CallId,
    handles: usize,
    is_settling: bool,
    /// Steps in which there was nothing to do.
    idle_steps: usize,
    /// How many addresses were taken, by family, since when.
    taken: Vec<(Moment, [usize; 2])>,
    pub figures: Figures,
    history: DefaultHasher,
    /// What happened; a read with the call that it was for.
    trace: Option<Vec<(Option<CallId>, String)>>,
    /// The call that went on last.
    current: CallId,
    /// When the tasks ran last.
    passed: Timestamp,
}

type Verdict = Result<(), String>;

/// Runs an episode of about `operations` calls to its end.
pub async fn run(choices: Choices, kind: Kind, operations: u64, traces: bool) -> Result<Figures, Failure> {
    let mut episode = Episode::new(choices, kind, traces).await;
    match episode.play(operations).await {
        Ok(()) => Ok(Figures { history: episode.history.finish(), ..episode.figures }),
        Err(violation) => {
            let current = episode.current;
            // Of the reads, those of the call that went wrong.
            let trace = episode.trace.into_iter().flatten().filter(|(call, _)| call.is_none_or(|c| c == current));
            let trace = trace.map(|(_, line)| line).collect();
            Err(Failure { violation, choices: episode.choices.made().to_vec(), trace })
        }
    }
}

impl Episode {
    async fn new(mut choices: Choices, kind: Kind, traces: bool) -> Self {
        let setting = Setting::choose(&mut choices, kind);
        let memory = kind.store(&mut choices);
        setting.write(&memory, kind).await;
        let is_exact = memory.has_transactions();
        let world = World::new(memory);
        let life = kind.collects().then(|| Life::choose(&mut choices));
        let rules = life.as_ref().map(|l| Rules { grace: l.grace, has_kubernetes: l.has_kubernetes });
        let mut episode = Self {
            kind,
            choices,
            judge: Judge::new(
                is_exact,
                rules,
                setting.stale_permille > 0,
                (0..setting.clients).any(|id| kind.follows(id)),
            ),
            life,
            world,
            clients: vec![],
            calls: 0,
            handles: 0,
            is_settling: false,
            idle_steps: 0,
            taken: vec![(0, [0, 0])],
            figures: Figures::default(),
            history: DefaultHasher::new(),
            trace: traces.then(Vec::new),
            current: 0,
            passed: world::START.parse().expect("a time"),
            setting,
        };
        episode.log(|e| format!("{:?}", e.setting));
        let controllers = if episode.life.is_some() { 1 + episode.choices.below(2) } else { 0 };
        for id in 0..episode.setting.clients + controllers {
            let client = episode.new_client(id);
            episode.clients.push(client);
        }
        episode
    }

    fn new_client(&mut self, id: usize) -> Client {
        let skew = SignedDuration::from_millis(self.choices.below(4000) as i64);
        let store = ClientStore::new(self.world.clone(), id, skew);
        let shared: DynStore = store.clone();
        let node = self.setting.nodes[id % self.setting.nodes.len()].clone();
        let ipam = Ipam::with_environment(shared, store.clone());
        let is_controller = id >= self.setting.clients;
        let ipam = match self.kind.follows(id) && !is_controller {
            true => ipam.following([AffinityOwner::Host(node.clone())]),
            false => ipam,
        };
        let settings = self.life.as_ref().map(|l| Settings { grace: l.grace, has_kubernetes: l.has_kubernetes });
        let watched = settings.filter(|_| is_controller).map(|settings| collector::watch(store.clone(), settings));
        Client { node, store, ipam, running: None, watched, inspected: self.world.now(), resumes: None }
    }

    fn log(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = line(self);
            if let Some(trace) = &mut self.trace {
                trace.push((None, line));
            }
        }
    }

    /// Takes an operation of the store into the history.
    fn note(&mut self, call: CallId, asked: &Asked, answer: &Answer) {
        let history = &mut self.history;
        call.hash(history);
        self.world.now().hash(history);
        match asked {
            Asked::Get(key) => key.hash(history),
            Asked::List(range) => range.hash(history),
            Asked::Txn(txn) => txn.ops.iter().for_each(|op| match op.key() {
                // It holds a uid and the machine's time.
                key @ Key::Resource { .. } => key.hash(history),
                _ => format!("{op:?}").hash(history),
            }),
            Asked::Sleep(_) => {}
        }
        match answer {
            Answer::Got(Ok(found)) => found.as_ref().map(|kv| kv.mod_revision).hash(history),
            Answer::Listed(Ok(listing)) => listing.revision.hash(history),
            other => format!("{other:?}").hash(history),
        }
    }

    async fn play(&mut self, operations: u64) -> Verdict {
        while self.figures.operations < operations {
            self.step()?;
            self.let_tasks_run().await;
        }
        self.settle().await
    }

    /// What follows the store does so in tasks of its own.
    async fn let_tasks_run(&mut self) {
        if self.kind != Kind::Following && self.life.is_none() {
            return;
        }
        // Their clock is the world's.
        let passed = self.world.now().duration_since(self.passed);
        self.passed = self.world.now();
        tokio::time::advance(passed.unsigned_abs()).await;
        if self.is_settling || self.choices.below(4) == 0 {
            self.world.show();
            tokio::task::yield_now().await;
        }
        if !self.is_settling && self.choices.chance(self.setting.fault_permille / 30) {
            self.log(|_| "every watch breaks".into());
            self.figures.errors += 1;
            self.world.break_watches();
            self.judge.watches_break();
        }
    }

    // Steps

    fn step(&mut self) -> Verdict {
        self.world.step();
        if !self.is_settling {
            if self.choices.chance(2) {
                let seconds = self.choices.below(90) as i64;
                self.log(|_| format!("{seconds} s pass"));
                self.world.pass(SignedDuration::from_secs(seconds));
            }
            if self.choices.chance(self.setting.crash_permille) {
                self.crash();
            }
        }
        self.judge.set_time(self.world.now());
        self.give_up()?;
        let mut next = self.world.waiting(Self::next_of);
        if !self.is_settling {
            let idle = self.clients.iter().enumerate().filter(|(_, c)| c.running.is_none());
            next.extend(idle.map(|(id, _)| Next::Begin(id)));
            if self.life.is_some() {
                next.push(Next::Start);
                if self.choices.below(8) == 7 {
                    next.push(Next::End);
                }
            }
        }
        if next.is_empty() {
            self.idle_steps += 1;
            return if self.idle_steps > 1_000 { Err("every client waits, and for nothing".into()) } else { Ok(()) };
        }
        self.idle_steps = 0;
        match *self.choices.pick(&next) {
            Next::Begin(client) => self.begin(client),
            Next::Go(id) => self.go(id),
            Next::Answer(id) => self.answer(id),
            Next::Late(id) => self.late(id),
            Next::Start => self.start_workload(),
            Next::End => self.end_something(),
        }
    }

    // What happens beside the clients

    /// The world writes by itself.
    fn write(&mut self, ops: Vec<Op>) -> Verdict {
        for op in ops {
            self.log(|_| format!("the world: {}", shown(&Asked::Txn(Txn { ops: vec![op.clone()] }))));
            let txn = Txn { ops: vec![op] };
            match self.world.write(txn.clone()) {
                Ok(_) => self.judge.commit(0, &txn.ops)?,
                // The collection was faster.
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(format!("the world cannot write: {error}")),
            }
        }
        Ok(())
    }

    fn start_workload(&mut self) -> Verdict {
        let now = self.world.now();
        let Some(life) = &self.life else { return Ok(()) };
        let ready = life.startable(self.judge.told().values(), now);
        if ready.is_empty() {
            return Ok(());
        }
        let handle = self.choices.pick(&ready).clone();
        self.start_with_told(&handle)
    }

    fn start_with_told(&mut self, handle: &str) -> Verdict {
        let told = self.judge.told().iter().filter(|(_, h)| *h == handle);
        let addresses: Vec<IpAddr> = told.map(|(ip, _)| *ip).collect();
        let op = self.life.as_mut().and_then(|life| life.start(handle, &addresses));
        self.judge.runs_with(handle, &addresses);
        self.write(op.into_iter().collect())
    }

    fn end_something(&mut self) -> Verdict {
        let present: Vec<String> = self.life.iter().flat_map(Life::present).cloned().collect();
        if present.is_empty() {
            return Ok(());
        }
        let handle = self.choices.pick(&present).clone();
        self.end(&handle)
    }

    /// Nobody stands behind a handle any more.
    fn end(&mut self, handle: &str) -> Verdict {
        let Some(life) = &mut self.life else { return Ok(()) };
        if life.is_over(handle) {
            return Ok(());
        }
        let keys = life.end(handle);
        // What had neither endpoint nor Pod has lasted from when it was given.
        let since = if keys.is_empty() { Timestamp::MIN } else { self.world.now() };
        self.judge.ends(handle, since);
        self.write(keys.into_iter().map(|key| Op::Delete(key, None)).collect())
    }

    /// Whoever has waited too long for a workload gives it up.
    fn give_up(&mut self) -> Verdict {
        let now = self.world.now();
        let late = self.life.as_mut().map(|life| life.overdue(now)).unwrap_or_default();
        late.iter().try_for_each(|handle| self.end(handle))
    }

    fn next_of(id: u64, request: &Request) -> Option<Next> {
        Some(match (&request.answer, request.is_detached) {
            (_, true) => Next::Late(id),
            (Some(_), _) => Next::Answer(id),
            (None, _) => Next::Go(id),
        })
    }

    fn begin(&mut self, client: usize) -> Verdict {
        let task = self.choose_task(client);
        self.start(client, task)
    }

    /// Begins a call of a client.
    fn start(&mut self, client: usize, task: Task) -> Verdict {
        self.calls += 1;
        let call = self.calls;
        self.figures.operations += 1;
        format!("{task:?}").hash(&mut self.history);
        self.log(|e| format!("client {client} on {} begins call {call}: {task:?}", e.clients[client].node));
        if let Some(life) = &mut self.life {
            let (now, node) = (self.world.now(), self.clients[client].node.clone());
            let mut ops = vec![];
            for handle in task.handles() {
                ops.extend(life.begin(handle, &node, now));
                if let Some(home) = life.node_of(handle) {
                    self.judge.set_home(handle, home);
                }
            }
            for op in &ops {
                if let Some(name) = op.key().name() {
                    self.judge.runs(name);
                }
            }
            self.write(ops)?;
            if let Task::Release { handle } = &task {
                self.end(handle)?;
            }
        }
        match &task {
            Task::Sweep => self.judge.begin_collection(call),
            Task::HandOver { ip, from, to, .. } => self.judge.begin_hand_over(call, *ip, from, to),
            Task::Release { handle } => self.judge.begin(call, BTreeSet::from([handle.clone()]), true),
            Task::ReleaseAddresses { addresses } => self.judge.begin_release_of(call, addresses),
            task => self.judge.begin(call, task.handles().iter().cloned().collect(), false),
        }
        let client_of = &mut self.clients[client];
        client_of.store.begin(call);
        let future = task.clone().run(
            client_of.ipam.clone(),
            client_of.store.clone(),
            client_of.node.clone(),
            client_of.watched.clone(),
        );
        client_of.running = Some(Running { call, began: self.judge.now(), task, future });
        self.poll(client)
    }

    /// Lets a client go on until it waits again or is done.
    fn poll(&mut self, client: usize) -> Verdict {
        let Some(running) = &mut self.clients[client].running else { return Ok(()) };
        self.current = running.call;
        let mut context = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| running.future.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => Ok(()),
            Ok(Poll::Ready(done)) => self.finish(client, &done),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
                Err(format!("client {client} panicked: {}", text.unwrap_or_default()))
            }
        }
    }

    /// The store acts on a waiting operation, or fails to.
    fn go(&mut self, id: u64) -> Verdict {
        let (call, asked) = self.world.asked(id);
        if matches!(asked, Asked::Sleep(_)) {
            let answer = self.world.execute(&asked, 0);
            self.world.set_answer(id, answer);
            return self.answer(id);
        }
        self.figures.store_operations += 1;
        // A call reads more often than it writes, and a failed read ends it.
        let permille = self.setting.fault_permille / if matches!(asked, Asked::Txn(_)) { 1 } else { 8 };
        let faulty = !self.is_settling && self.choices.chance(permille);
        let answer = match &asked {
            Asked::Txn(_) if faulty => match self.choices.below(4) {
                0 => Answer::Written(Err(unavailable())),
                1 => Answer::Written(Err(unknown())),
                2 => {
                    let applied = self.execute(call, &asked)?;
                    match applied {
                        Answer::Written(Ok(_)) => Answer::Written(Err(unknown())),
                        refused => refused,
                    }
                }
                _ => {
                    self.figures.unknown += 1;
                    self.judge.is_unsure(call);
                    self.log(|_| format!("  call {call}: {}: no answer, may still come", shown(&asked)));
                    let client = self.world.detach(id, Answer::Written(Err(unknown())));
                    return client.map_or(Ok(()), |c| self.poll(c));
                }
            },
            Asked::Get(_) if faulty => Answer::Got(Err(unavailable())),
            Asked::List(_) if faulty => Answer::Listed(Err(unavailable())),
            Asked::Get(_) | Asked::List(_) if self.is_behind(id) => {
                let lag = 1 + self.choices.below(6) as Revision;
                self.execute_behind(call, &asked, lag)?
            }
            _ => self.execute(call, &asked)?,
        };
        match &answer {
            Answer::Written(Err(StoreError::Unknown(_))) => {
                self.figures.unknown += 1;
                self.judge.is_unsure(call);
            }
            _ if faulty => self.figures.errors += 1,
            _ => {}
        }
        self.note(call, &asked, &answer);
        self.log(|_| format!("  call {call}: {}: {}", shown(&asked), shown_answer(&answer)));
        if let (Some(last), Answer::Got(_) | Answer::Listed(_)) = (self.trace.iter_mut().flatten().last(), &answer) {
            last.0 = Some(call);
        }
        self.world.set_answer(id, answer);
        // Most answers arrive at once.
        if self.choices.below(4) < 3 { self.answer(id) } else { Ok(()) }
    }

    fn execute(&mut self, call: CallId, asked: &Asked) -> Result<Answer, String> {
        self.execute_behind(call, asked, 0)
    }

    /// A read that is some writes behind.
    fn execute_behind(&mut self, call: CallId, asked: &Asked, lag: Revision) -> Result<Answer, String> {
        let answer = self.world.execute(asked, lag);
        if let (Asked::Txn(txn), Answer::Written(Ok(_))) = (asked, &answer) {
            self.figures.writes += 1;
            self.current = call;
            self.judge.commit(call, &txn.ops)?;
            let mut taken = [0, 0];
            for ip in self.judge.owners().keys() {
                taken[usize::from(ip.is_ipv6())] += 1;
            }
            self.taken.push((self.judge.now(), taken));
        }
        Ok(answer)
    }

    /// Whether a read is answered with what was there before. The collection reads once more before it releases, and that must be true.
    fn is_behind(&mut self, id: u64) -> bool {
        if self.setting.stale_permille == 0 || self.is_settling {
            return false;
        }
        let of = self.world.waiting(|n, request| (n == id).then_some(request.client));
        let is_node = of.first().is_some_and(|client| *client < self.setting.clients);
        is_node && self.choices.chance(self.setting.stale_permille)
    }

    fn answer(&mut self, id: u64) -> Verdict {
        match self.world.deliver(id) {
            Some(client) => self.poll(client),
            None => Ok(()),
        }
    }

    /// An operation that nobody waits for any more happens after all, or never.
    fn late(&mut self, id: u64) -> Verdict {
        // Some stay on the way for long.
        if !self.is_settling && self.choices.below(8) > 0 {
            return Ok(());
        }
        let (call, asked) = self.world.asked(id);
        self.world.forget(id);
        let happens = matches!(asked, Asked::Txn(_)) && self.choices.below(4) > 0;
        if happens {
            self.figures.late += 1;
            let answer = self.execute(call, &asked)?;
            self.note(call, &asked, &answer);
            self.log(|_| format!("  call {call}, late: {}: {}", shown(&asked), shown_answer(&answer)));
        }
        let open = self.world.waiting(|_, request| request.is_detached.then_some(request.call));
        self.judge.close_all_but(&open.into_iter().collect());
        Ok(())
    }

    /// A client that is in a call dies, and another takes its place.
    fn crash(&mut self) {
        let busy: Vec<usize> = (0..self.clients.len()).filter(|c| self.clients[*c].running.is_some()).collect();
        if busy.is_empty() {
            return;
        }
        let id = *self.choices.pick(&busy);
        let new = self.new_client(id);
        let old = std::mem::replace(&mut self.clients[id], new);
        let Some(running) = old.running else { return };
        self.figures.crashes += 1;
        self.log(|_| format!("client {id} crashes in call {}", running.call));
        if let Task::ReleaseAddresses { addresses } = &running.task {
            self.judge.end_release_of(addresses);
        }
        self.judge.end_unknown(running.call);
        self.clients[id].resumes = running.task.handles().first().cloned();
        // What it asked for, and the store has not done, is on the way.
        drop(running.future);
    }

    // Tasks

    fn choose_task(&mut self, client: usize) -> Task {
        let resumes = self.clients[client].resumes.take();
        if let Some(life) = &self.life {
            let now = self.world.now();
            let of = &mut self.clients[client];
            let known = Known { judge: &self.judge, life, now, node: &of.node };
            if of.watched.is_none() {
                return self.setting.choose_workload(&mut self.choices, &known, &mut self.handles, resumes);
            }
            let can_inspect = !self.world.memory.has_transactions() && now.duration_since(of.inspected) >= RESYNC;
            let task = self.setting.choose_control(&mut self.choices, &known, &mut self.handles, can_inspect);
            if matches!(task, Task::Inspect) {
                of.inspected = now;
            }
            return task;
        }
        self.setting.choose_task(&mut self.choices, &self.judge, &mut self.handles, resumes)
    }

    fn finish(&mut self, client: usize, done: &Done) -> Verdict {
        let Some(running) = self.clients[client].running.take() else { return Ok(()) };
        let (id, node) = (running.call, self.clients[client].node.clone());
        format!("{id} {done:?}").hash(&mut self.history);
        self.log(|_| format!("call {id} ends: {done:?}"));
        if let Task::ReleaseAddresses { addresses } = &running.task {
            self.judge.end_release_of(addresses);
        }
        if let Some(error) = done.error() {
            self.figures.refused += 1;
            if !running.task.may_fail_with(error) {
                return Err(format!("call {id}, {:?}, failed: {error}", running.task));
            }
            self.judge.end_unknown(id);
            return Ok(());
        }
        match (&running.task, done) {
            (Task::Assign { handle, v4, v6, pools, is_repeated }, Done::Assigned(Ok(got))) => {
                let addresses = addresses_of(got);
                self.figures.assigned += addresses.len() as u64;
                self.judge.assigned(id, handle, &addresses, told(*is_repeated))?;
                self.judge.end_plain(id);
                let is_other = *is_repeated || Holder::of(handle) == Holder::Service;
                self.check_amount(&running, (*v4, *v6), is_other || !pools.is_empty(), got, [0, 0])?;
                self.check_place(&node, pools, is_other, &addresses)
            }
            (Task::AssignMany { handles, amount, is_repeated }, Done::AssignedMany(all)) => {
                for (handle, got) in handles.iter().zip(all) {
                    match got {
                        Ok(got) => {
                            let addresses = addresses_of(got);
                            self.figures.assigned += addresses.len() as u64;
                            self.judge.assigned(id, handle, &addresses, told(*is_repeated))?;
                            let others = all.iter().flatten().filter(|other| !std::ptr::eq(*other, got));
                            let others = others.fold([0, 0], |[v4, v6], o| [v4 + o.v4.len(), v6 + o.v6.len()]);
                            self.check_amount(&running, *amount, *is_repeated, got, others)?;
                            self.check_place(&node, &[], *is_repeated, &addresses)?;
                        }
                        Err(error) if running.task.may_fail_with(error) => {
                            self.figures.refused += 1;
                            self.judge.failed(id, handle);
                        }
                        Err(error) => return Err(format!("call {id}, {handle}, failed: {error}")),
                    }
                }
                self.judge.end_plain(id);
                Ok(())
            }
            (Task::HandOver { ip, from, to, .. }, Done::Plain(Ok(()))) => {
                self.judge.gave(id, from);
                self.judge.assigned(id, to, &[*ip], Told::One)?;
                self.judge.end_plain(id);
                Ok(())
            }
            (Task::Take { handle, ip, .. }, Done::Taken(Ok(net))) => {
                self.figures.assigned += 1;
                if net.addr() != *ip {
                    return Err(format!("{handle} asked for {ip} and got {net}"));
                }
                self.judge.assigned(id, handle, &[*ip], Told::One)?;
                self.judge.end_plain(id);
                Ok(())
            }
            (Task::Release { handle }, Done::Released(Ok(addresses))) => {
                self.figures.released += addresses.len() as u64;
                self.judge.end_released(id, handle, addresses)
            }
            (Task::ReleaseAddresses { addresses }, Done::Released(Ok(unallocated))) => {
                self.figures.released += (addresses.len() - unallocated.len()) as u64;
                self.judge.end_released_addresses(id, addresses, unallocated)
            }
            _ => {
                self.judge.end_plain(id);
                Ok(())
            }
        }
    }

    /// Fewer than were asked for only where there were fewer, and then with a message. `others` of the call have got so many.
    fn check_amount(
        &self,
        running: &Running,
        want: (usize, usize),
        is_special: bool,
        got: &Assignment,
        others: [usize; 2],
    ) -> Verdict {
        let counts = [(want.0, got.v4.len()), (want.1, got.v6.len())];
        let is_short = counts.iter().any(|(want, got)| got < want);
        if is_short != got.message.is_some() {
            return Err(format!("asked for {want:?}, and answered {got:?}"));
        }
        if is_special || !self.setting.lends_everything() || self.setting.stale_permille > 0 {
            return Ok(());
        }
        if counts.iter().any(|(want, got)| got > want) {
            return Err(format!("asked for {want:?}, and answered {got:?}"));
        }
        // A store that failed after some were written is a reason of its own.
        if got.message.as_deref().is_some_and(|text| text.contains(OUTAGE) || text.contains(SILENCE)) {
            return Ok(());
        }
        for (family, (want, got)) in counts.into_iter().enumerate() {
            let since = self.taken.partition_point(|(at, _)| *at < running.began).saturating_sub(1);
            let most = self.taken[since..].iter().map(|(_, taken)| taken[family]).max().unwrap_or_default();
            let free = self.setting.capacity(family).saturating_sub(most);
            if got < want && free >= want + others[family] {
                return Err(format!("asked for {want} and got {got}, while {free} were free all the time"));
            }
        }
        Ok(())
    }

    /// Only of the pools, nothing reserved, and under strict affinity only of the node's blocks.
    fn check_place(&self, node: &str, pools: &[IpNet], is_repeated: bool, addresses: &[IpAddr]) -> Verdict {
        if is_repeated {
            return Ok(());
        }
        for ip in addresses {
            let of_family: Vec<&IpNet> = pools.iter().filter(|p| p.addr().is_ipv4() == ip.is_ipv4()).collect();
            let is_in_pools = match of_family.as_slice() {
                [] => self.setting.pools.iter().any(|p| p.cidr.contains(ip)),
                pools => pools.iter().any(|p| p.contains(ip)),
            };
            if !is_in_pools {
                return Err(format!("{ip} is of no pool that was asked for"));
            }
            if self.setting.reserved.iter().any(|net| net.contains(ip)) {
                return Err(format!("{ip} is reserved"));
            }
            if self.setting.is_steady && self.setting.config.strict_affinity {
                let owner = self.judge.blocks().find(|b| b.cidr().contains(ip)).and_then(|b| b.owner());
                let is_kept = self.judge.owners().contains_key(ip);
                if is_kept && owner != Some(AffinityOwner::Host(node.into())) {
                    return Err(format!(
                        "{ip} was given to {node} under strict affinity, and its block is {owner:?}'s"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn addresses_of(got: &Assignment) -> Vec<IpAddr> {
    got.v4.iter().chain(&got.v6).map(|net| net.addr()).collect()
}

/// Who asks again is told everything; others get new addresses each time.
fn told(is_repeated: bool) -> Told {
    if is_repeated { Told::All } else { Told::New }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable(OUTAGE.into())
}

fn unknown() -> StoreError {
    StoreError::Unknown(SILENCE.into())
}

fn shown(asked: &Asked) -> String {
    let Asked::Txn(txn) = asked else { return format!("{asked:?}") };
    let of = |op: &datastore::Op| {
        use datastore::Op;
        match op {
            Op::Create(key, value) => format!("create {key} {}", String::from_utf8_lossy(value)),
            Op::Update(key, value, at) => format!("update {key} at {at} {}", String::from_utf8_lossy(value)),
            Op::Put(key, value) => format!("put {key} {}", String::from_utf8_lossy(value)),
            Op::Delete(key, at) => format!("delete {key} at {at:?}"),
            Op::Check(key, at) => format!("check {key} at {at}"),
        }
    };
    txn.ops.iter().map(of).collect::<Vec<_>>().join("; ")
}

fn shown_answer(answer: &Answer) -> String {
    match answer {
        Answer::Got(Ok(Some(kv))) => format!("{} at {}", String::from_utf8_lossy(&kv.value), kv.mod_revision),
        Answer::Listed(Ok(listing)) => {
            let keys: Vec<String> = listing.items.iter().map(|kv| kv.key.to_string()).collect();
            format!("{keys:?}")
        }
        other => format!("{other:?}"),
    }
}

/// Whether the store failed, and nothing else.
pub fn is_of_the_store(error: &Error) -> bool {
    matches!(error, Error::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
}
