//! The loop: watched updates into the state, the state into a plan, the plan into writes.
//!
//! ```text
//!  store ──watch──► State ──plan──► actions ──► store, ipam
//!                     ▲                │
//!                     └── failures ◄───┘   a failed round is planned again after a backoff
//! ```
//! One task owns the state; dropping its future stops it between two writes or in one, either of which the next run takes up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::ip_pool::AllowedUse;
use api::key::{AffinityOwner, LOAD_BALANCER_OWNER};
use api::meta::WithSpec;
use api::service::ServiceBody;
use api::workload::WorkloadEndpointSpec;
use api::{Service, WorkloadEndpoint};
use datastore::{DynStore, Store, typed, watcher};
use ipam::collect::{self, release_requests, together};
use ipam::ordered::Suspicions;
use ipam::pool::Family;
use ipam::release::ReleaseRequest;
use ipam::{AssignRequest, Assignment, Ipam, gc};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::plan::{self, Action, AssignAddress, Settings, Wish};
use crate::report::{Report, Snapshot, pool_of};
use crate::state::{self, Dirty, Name, State};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// Everything is planned again this often, whatever was or was not reported.
const RESYNC: Duration = Duration::from_secs(600);
/// Blocks, affinities and handles are compared this often where the store takes one write at a time.
const INSPECTION: Duration = Duration::from_secs(60);
/// Questions that may wait while a plan is carried out.
const QUESTIONS: usize = 16;
/// Addresses that are asked for, or given back, in one call of the allocator.
const TOGETHER: usize = 256;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] datastore::Error),
    #[error(transparent)]
    Ipam(ipam::Error),
    /// Addresses are short: the text says why.
    #[error("{0}")]
    Short(String),
}

impl From<ipam::Error> for Error {
    fn from(error: ipam::Error) -> Self {
        match error {
            ipam::Error::Store(error) => Self::Store(error),
            error => Self::Ipam(error),
        }
    }
}

/// How many actions of a round were done, and how many will be tried again.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    done: u64,
    failed: u64,
}

impl Round {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
    }
}

/// The controller of one cluster, while it leads.
pub struct Controller {
    store: DynStore,
    ipam: Ipam,
    settings: Settings,
    state: State,
    clock: Clock,
    /// What failed, to be planned again.
    failed: Dirty,
    /// What a dry run has said already.
    said: BTreeMap<String, Instant>,
    /// What a cut-off write may have left, in a store without transactions.
    suspicions: Suspicions,
    report: Arc<Mutex<Report>>,
}

impl Controller {
    pub fn new(store: DynStore, settings: Settings, report: Arc<Mutex<Report>>) -> Self {
        let collection = gc::Settings { has_kubernetes: settings.has_kubernetes, ..gc::Settings::default() };
        Self {
            ipam: Ipam::new(store.clone())
                .following([AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into())])
                .heeding_lock(),
            store,
            settings,
            state: State::new(collection),
            clock: Clock::start(),
            failed: Dirty::default(),
            said: BTreeMap::new(),
            suspicions: Suspicions::default(),
            report,
        }
    }

    /// Runs until it is dropped; ends only when the watcher does.
    pub async fn run(mut self) {
        let mut updates = watcher::watch(self.store.clone(), state::ranges());
        let (questions, mut asked) = mpsc::channel::<oneshot::Sender<Snapshot>>(QUESTIONS);
        self.report().questions = Some(questions);
        let mut resync = Instant::now() + RESYNC;
        let may_be_cut_off = !self.store.has_transactions() && !self.settings.is_dry_run;
        let mut inspection = may_be_cut_off.then(|| Instant::now() + INSPECTION);
        let mut retry = None;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let mut is_inspection = false;
            // While the datastore is locked, what is due stays due.
            let due = self.state.collector.next_due().filter(|_| !self.state.config.is_locked);
            let due = due.map(|due| self.clock.instant_of(due));
            let next = [Some(resync), inspection, retry, due].into_iter().flatten().min().unwrap_or(resync);
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.state.apply(update);
                    // What waits belongs to the same round.
                    while let Ok(update) = updates.try_recv() {
                        self.state.apply(update);
                    }
                    if !self.state.is_in_sync || (self.state.dirty.is_empty() && !self.state.collector.is_dirty()) {
                        continue;
                    }
                }
                Some(question) = asked.recv() => {
                    let _ = question.send(self.snapshot());
                    continue;
                }
                () = tokio::time::sleep_until(next), if self.state.is_in_sync => {
                    let now = Instant::now();
                    if now >= resync {
                        self.state.mark_all();
                        self.forget_nodes();
                        resync = now + RESYNC;
                    }
                    if inspection.is_some_and(|at| now >= at) {
                        is_inspection = true;
                        inspection = Some(now + INSPECTION);
                    }
                    if retry.is_some_and(|at| now >= at) {
                        self.state.mark(std::mem::take(&mut self.failed));
                        retry = None;
                    }
                }
            }
            if self.state.config.is_locked {
                // It is planned when the lock is gone: that is an update too.
                continue;
            }
            if is_inspection {
                self.repair().await;
            }
            if self.reconcile().await {
                backoff = FIRST_BACKOFF;
            } else if retry.is_none() {
                retry = Some(Instant::now() + backoff);
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    /// Repairs what clients that were cut off have left. What is seen twice, an inspection apart, is not under way.
    async fn repair(&mut self) {
        if let Err(error) = self.ipam.repair(&mut self.suspicions).await {
            tracing::warn!(%error, "blocks, affinities and handles were not compared; they will be again");
        }
    }

    /// Plans and does; whether everything could be done.
    async fn reconcile(&mut self) -> bool {
        let now = ipam::block::rfc3339(self.clock.now());
        let actions = plan::plan(&mut self.state, &self.settings, &now);
        let failures = self.state.failures.clone();
        let mut round = self.execute_all(actions).await;
        if self.state.failures != failures {
            // Whom addresses were refused is said at once: a round that failed is not planned again before its backoff.
            let told = self.state.failures.iter().filter(|(name, text)| failures.get(*name) != Some(*text));
            let told: Vec<Name> = told.map(|(name, _)| name.clone()).collect();
            self.state.dirty.services.extend(told);
            let mut actions = plan::plan(&mut self.state, &self.settings, &now);
            actions.retain(|action| {
                let is_update = matches!(action, Action::UpdateService(_));
                if !is_update {
                    action.mark(&mut self.failed);
                }
                is_update
            });
            round.add(self.execute_all(actions).await);
        }
        round.add(self.collect().await);
        let Round { done, failed } = round;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.is_in_sync = true;
        report.services = self.state.services.len();
        report.workloads = self.state.workloads.len();
        report.load_balancers = self.state.allocations.len();
        report.held = self.state.held_handles();
        report.reconciles += 1;
        report.actions += done;
        report.failures += failed;
        report.failing = failed;
        if failed == 0 {
            report.last_error = None;
        }
        // What the second plan left out, too.
        failed == 0 && self.failed.is_empty()
    }

    /// Releases what nobody needs.
    async fn collect(&mut self) -> Round {
        let mut round = Round::default();
        let mut releases = self.state.collector.observe(self.clock.now());
        if self.settings.is_dry_run {
            releases.iter().for_each(|release| self.say(collect::describe(release)));
            return round;
        }
        let node_of = |release: &gc::Release| match release {
            gc::Release::Addresses { handle, .. } => self.state.collector.node_of(handle).map(ToString::to_string),
            _ => None,
        };
        let mut nodes: Vec<Option<String>> = releases.iter().map(node_of).collect();
        // While the datastore is locked, what is left stays due.
        while !releases.is_empty() && !self.is_locked().await {
            let rest = releases.split_off(releases.len().min(TOGETHER));
            let rest_nodes = nodes.split_off(releases.len());
            let settings = self.state.collector.settings();
            let outcomes = collect::execute(&self.store, &self.ipam, settings, &releases).await;
            for ((release, node), outcome) in releases.iter().zip(&nodes).zip(outcomes) {
                let text = collect::describe(release);
                match outcome.map_err(Error::from) {
                    Ok(true) => {
                        round.done += 1;
                        self.count(release, node.as_deref());
                        tracing::info!("{text}");
                    }
                    Ok(false) => tracing::debug!("{text}: not any more"),
                    Err(error) if is_overtaken(&error) => tracing::debug!(%error, "{text}: overtaken"),
                    Err(error @ Error::Ipam(ipam::Error::Locked)) => tracing::debug!(%error, "{text}: waits"),
                    // It stays a candidate and comes again.
                    Err(error) => {
                        tracing::warn!(%error, "{text}: failed, will be retried");
                        self.report().last_error = Some(format!("{text}: {error}"));
                    }
                }
            }
            (releases, nodes) = (rest, rest_nodes);
        }
        round
    }

    /// Whether the datastore has been locked since the round began. That it is not known says that nothing can be written either.
    async fn is_locked(&self) -> bool {
        self.ipam.is_locked().await.unwrap_or(true)
    }

    /// Whether actions wait, because the datastore is locked.
    async fn is_put_off(&mut self, actions: &[Action], round: &mut Round) -> bool {
        let is_locked = self.is_locked().await;
        for action in actions.iter().filter(|_| is_locked) {
            self.settle(action, Err(ipam::Error::Locked.into()), round);
        }
        is_locked
    }

    /// Says once what a dry run would do.
    fn say(&mut self, text: String) {
        let now = Instant::now();
        match self.said.insert(text.clone(), now) {
            None => tracing::info!("would {text}"),
            Some(_) => return,
        }
        // What is not repeated by the resync is over.
        self.said.retain(|_, at| now.duration_since(*at) < RESYNC * 3);
    }

    /// What gives addresses back comes first, then what asks for some, then all else, where the order is of no matter.
    async fn execute_all(&mut self, actions: Vec<Action>) -> Round {
        let mut round = Round::default();
        let (mut releases, mut handovers, mut assigns, mut others) = (vec![], vec![], vec![], vec![]);
        for action in actions {
            if self.settings.is_dry_run && action.is_collection() {
                self.say(describe(&action));
                continue;
            }
            match &action {
                Action::ReleaseAddresses { .. } | Action::ReleaseHandle { .. } => releases.push(action),
                Action::HandOver { .. } => handovers.push(action),
                Action::AssignAddress(assign) => assigns.push(assign.clone()),
                _ => others.push(action),
            }
        }
        for some in releases.chunks(TOGETHER) {
            if self.is_put_off(some, &mut round).await {
                continue;
            }
            let outcomes = self.release(some).await;
            some.iter().zip(outcomes).for_each(|(action, outcome)| self.settle(action, outcome, &mut round));
        }
        for action in &handovers {
            let outcome = self.hand_over(action).await;
            self.settle(action, outcome, &mut round);
        }
        for some in assigns.chunks(TOGETHER) {
            for (assign, outcome) in some.iter().zip(self.assign(some).await) {
                // The condition in the service's status is planned from this.
                match &outcome {
                    Ok(()) => drop(self.state.failures.remove(&assign.service)),
                    // It is no refusal.
                    Err(Error::Ipam(ipam::Error::Locked)) => {}
                    Err(error) => {
                        let text = error.to_string().trim().to_string();
                        self.state.failures.insert(assign.service.clone(), text);
                    }
                }
                self.settle(&Action::AssignAddress(assign.clone()), outcome, &mut round);
            }
        }
        let (store, ipam) = (self.store.clone(), self.ipam.clone());
        for some in others.chunks(TOGETHER) {
            if self.is_put_off(some, &mut round).await {
                continue;
            }
            let mut writes = Vec::new();
            for action in some {
                writes.push(write(&store, &ipam, action));
            }
            for (action, outcome) in some.iter().zip(together(writes).await) {
                let outcome = outcome.map(|written| {
                    if let Some(written) = written {
                        let metadata = &written.metadata;
                        let name = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone());
                        self.state.put_service(name, written);
                    }
                });
                self.settle(action, outcome, &mut round);
            }
        }
        round
    }

    /// What came of an action is counted and said; what was not done is marked.
    fn settle(&mut self, action: &Action, outcome: Result<(), Error>, round: &mut Round) {
        let text = describe(action);
        match outcome {
            Ok(()) => {
                round.done += 1;
                tracing::info!("{text}");
            }
            // Somebody was faster: the watch brings what they wrote, and the next plan builds on it.
            Err(error) if is_overtaken(&error) => {
                tracing::debug!(%error, "{text}: overtaken");
                self.state.forget_plan(action);
            }
            Err(error) => {
                round.failed += 1;
                match error {
                    Error::Ipam(ipam::Error::Locked) => tracing::debug!(%error, "{text}: waits"),
                    _ => tracing::warn!(%error, "{text}: failed, will be retried"),
                }
                self.report().last_error = Some(format!("{text}: {error}"));
                self.state.forget_plan(action);
                action.mark(&mut self.failed);
            }
        }
    }

    fn count(&self, release: &gc::Release, node: Option<&str>) {
        let mut report = self.report();
        let gc::Release::Addresses { addresses, .. } = release else {
            report.collected_other += 1;
            return;
        };
        for (ip, _) in addresses {
            let pool = pool_of(&self.state.pools, &IpNet::from(*ip)).to_string();
            *report.reclamations.entry((pool, node.unwrap_or_default().to_string())).or_default() += 1;
        }
    }

    /// What was collected of nodes of which nothing is left is counted together: they would become more and more.
    fn forget_nodes(&self) {
        let mut report = self.report();
        let collector = &self.state.collector;
        let is_gone = |node: &str| !node.is_empty() && !collector.has_node(node) && !collector.has_traces_of(node);
        for ((pool, node), n) in std::mem::take(&mut report.reclamations) {
            let node = if is_gone(&node) { String::new() } else { node };
            *report.reclamations.entry((pool, node)).or_default() += n;
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.state)
    }

    /// Gives addresses back, all together; where that fails, by itself each, so that one harms no other.
    async fn release(&self, actions: &[Action]) -> Vec<Result<(), Error>> {
        let mut reads = Vec::new();
        for action in actions {
            reads.push(is_wanted(&self.store, action));
        }
        let wanted = together(reads).await;
        let requests_of = |action: &Action, is_wanted: &Result<bool, Error>| match action {
            Action::ReleaseAddresses { handle, addresses, .. } | Action::ReleaseHandle { handle, addresses, .. }
                if matches!(is_wanted, Ok(false)) =>
            {
                release_requests(handle, addresses)
            }
            _ => vec![],
        };
        let requests: Vec<Vec<ReleaseRequest>> = actions.iter().zip(&wanted).map(|(a, w)| requests_of(a, w)).collect();
        let are_released = self.ipam.release_ips(&requests.concat()).await.is_ok();
        let mut outcomes = Vec::new();
        for (is_wanted, requests) in wanted.into_iter().zip(requests) {
            outcomes.push(match is_wanted {
                Ok(_) if are_released || requests.is_empty() => Ok(()),
                Ok(_) => self.ipam.release_ips(&requests).await.map(drop).map_err(Error::from),
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn hand_over(&self, action: &Action) -> Result<(), Error> {
        if let Action::HandOver { address, from, sequence, service, handle, pool } = action {
            let attributes = plan::service_attributes(service, pool.as_deref());
            self.ipam.hand_over(*address, from, *sequence, handle, &attributes).await?;
        }
        Ok(())
    }

    /// Asks for addresses, together: as few transactions as they fit in.
    async fn assign(&self, assigns: &[AssignAddress]) -> Vec<Result<(), Error>> {
        let requests: Vec<AssignRequest> = assigns.iter().map(|a| assign_request(a, a.wish)).collect();
        let mut outcomes = self.ipam.assign_many(&requests).await;
        let mut again = Vec::new();
        for (i, (assign, outcome)) in assigns.iter().zip(&outcomes).enumerate() {
            if let (Wish::Prefer(ip), Err(error)) = (assign.wish, outcome)
                && is_refused(error)
            {
                tracing::warn!(%ip, %error, "a service cannot keep the address of its status");
                again.push(i);
            }
        }
        let requests: Vec<AssignRequest> = again.iter().map(|i| assign_request(&assigns[*i], Wish::Any)).collect();
        for (i, outcome) in again.into_iter().zip(self.ipam.assign_many(&requests).await) {
            outcomes[i] = outcome;
        }
        let judge = |outcome: Result<Assignment, ipam::Error>| match outcome?.message {
            None => Ok(()),
            Some(message) => Err(Error::Short(message)),
        };
        outcomes.into_iter().map(judge).collect()
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a service wants the addresses that are to be released with its handle. The blocks may have been watched ahead of it: it is
/// read once more.
async fn is_wanted(store: &DynStore, action: &Action) -> Result<bool, Error> {
    let Action::ReleaseHandle { service, handle, .. } = action else { return Ok(false) };
    let present = typed::get::<ServiceBody>(store.as_ref(), Some(&service.0), &service.1).await?;
    Ok(present
        .is_some_and(|s| plan::wants_address(&s) && plan::handle_of(service, &s).as_deref() == Some(handle.as_str())))
}

/// Writes what an action says of one object; a service as it was written.
async fn write(store: &DynStore, ipam: &Ipam, action: &Action) -> Result<Option<Service>, Error> {
    let at = store.as_ref();
    match action {
        Action::UpdateService(service) => return Ok(Some(typed::update(at, service).await?)),
        Action::CreateSlice(slice) => drop(typed::create(at, slice).await?),
        Action::UpdateSlice(slice) => drop(typed::update(at, slice).await?),
        Action::DeleteSlice(slice) => {
            let revision = slice.metadata.resource_version.as_deref().and_then(|v| v.parse().ok());
            at.delete(slice.key(), revision).await?;
        }
        Action::UpdateWorkload(workload) => relabel(at, workload).await?,
        Action::UpdatePool(pool) => drop(typed::update(at, pool).await?),
        Action::DeleteOfNode { node, key, revision } => collect::delete_of_node(ipam, node, key, *revision).await?,
        // Those of addresses are the allocator's.
        Action::AssignAddress(_)
        | Action::ReleaseAddresses { .. }
        | Action::ReleaseHandle { .. }
        | Action::HandOver { .. } => {}
    }
    Ok(None)
}

/// Writes the labels of a workload, where it is still as it was planned on.
async fn relabel(store: &dyn Store, planned: &WorkloadEndpoint) -> Result<(), Error> {
    let metadata = &planned.metadata;
    let found =
        typed::get::<WithSpec<WorkloadEndpointSpec>>(store, metadata.namespace.as_deref(), &metadata.name).await?;
    let Some(mut present) = found else { return Err(datastore::Error::NotFound(planned.key()).into()) };
    if present.metadata.resource_version != metadata.resource_version {
        return Err(datastore::Error::Conflict(planned.key()).into());
    }
    present.metadata.labels = metadata.labels.clone();
    typed::update(store, &present).await?;
    Ok(())
}

fn assign_request(assign: &AssignAddress, wish: Wish) -> AssignRequest {
    let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
    let request =
        AssignRequest { attributes: assign.attributes(), ..AssignRequest::new(owner, assign.handle.as_str()) };
    match wish {
        Wish::Must(ip) | Wish::Prefer(ip) => {
            let in_block = assign.from.as_ref().map(|(block, _)| *block);
            AssignRequest { addresses: vec![ip], in_block, ..request }
        }
        Wish::Any => {
            let is_v4 = assign.family == Family::V4;
            let number = assign.besides + 1;
            let pools = |is_asked: bool| if is_asked { assign.pools.clone() } else { vec![] };
            AssignRequest {
                num_v4: if is_v4 { number } else { 0 },
                num_v6: if is_v4 { 0 } else { number },
                pools_v4: pools(is_v4),
                pools_v6: pools(!is_v4),
                intended_use: AllowedUse::LoadBalancer,
                counts_existing: true,
                ..request
            }
        }
    }
}

/// Whether somebody else was faster.
fn is_overtaken(error: &Error) -> bool {
    use datastore::Error as E;
    matches!(
        error,
        Error::Store(E::Conflict(_) | E::AlreadyExists(_) | E::NotFound(_))
            | Error::Ipam(ipam::Error::NotTheSame { .. })
    )
}

/// Whether an address is another's, or not to be had: later it would be the same.
fn is_refused(error: &ipam::Error) -> bool {
    use ipam::block::BlockError;
    matches!(
        error,
        ipam::Error::NotInPool(_)
            | ipam::Error::NotForUse { .. }
            | ipam::Error::Block(
                BlockError::AlreadyAssigned(_) | BlockError::NotOwner { .. } | BlockError::NoBytesLeft { .. }
            )
    )
}

/// An action, for the log.
fn describe(action: &Action) -> String {
    match action {
        Action::UpdateService(s) => format!("update {}", s.key()),
        Action::CreateSlice(s) => format!("create {} with {} endpoints", s.key(), s.body.endpoints.len()),
        Action::UpdateSlice(s) => format!("update {} to {} endpoints", s.key(), s.body.endpoints.len()),
        Action::DeleteSlice(s) => format!("delete {}", s.key()),
        Action::UpdateWorkload(w) => format!("copy the pod's labels to {}", w.key()),
        Action::AssignAddress(a) => {
            format!("assign a load-balancer address to service {}/{}", a.service.0, a.service.1)
        }
        Action::ReleaseAddresses { addresses, .. } => {
            format!("release {:?}", addresses.iter().map(|(ip, _)| ip).collect::<Vec<_>>())
        }
        Action::HandOver { address, service, .. } => {
            format!("hand {address} over to service {}/{}", service.0, service.1)
        }
        Action::UpdatePool(pool) => format!("update the status of {}", pool.key()),
        Action::DeleteOfNode { node, key, .. } => format!("delete {key} with node {node}"),
        Action::ReleaseHandle { service, addresses, .. } => {
            let addresses: Vec<String> = addresses.iter().map(|(ip, _)| ip.to_string()).collect();
            format!("release {} of service {}/{}", addresses.join(", "), service.0, service.1)
        }
    }
}

#[cfg(test)]
mod tests;
