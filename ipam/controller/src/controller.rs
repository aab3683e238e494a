//! The loop: watched updates into the state, the state into a plan, the plan into writes.
//!
//! ```text
//!  store ──watch──► State ──plan──► actions ──► store, ipam
//!                     ▲                │
//!                     └── failures ◄───┘   a failed round is planned again after a backoff
//! ```
//! One task owns the state; dropping its future stops it between two writes or in one, either of which the next run takes up.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::ip_pool::AllowedUse;
use api::key::{AffinityOwner, LOAD_BALANCER_OWNER};
use api::service::ServiceBody;
use datastore::{DynStore, typed, watcher};
use ipam::{AssignRequest, Ipam};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::plan::{self, Action, AssignAddress, Settings, Wish};
use crate::report::Report;
use crate::state::{self, Name, State};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// Everything is planned again this often, whatever was or was not reported.
const RESYNC: Duration = Duration::from_secs(60);

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] datastore::Error),
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    /// Addresses are short: the text says why.
    #[error("{0}")]
    Short(String),
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

/// The controller of one cluster.
pub struct Controller {
    store: DynStore,
    ipam: Ipam,
    settings: Settings,
    state: State,
    report: Arc<Mutex<Report>>,
}

impl Controller {
    pub fn new(store: DynStore, settings: Settings, report: Arc<Mutex<Report>>) -> Self {
        Self { ipam: Ipam::new(store.clone()), store, settings, state: State::default(), report }
    }

    /// Runs until it is dropped; ends only when the watcher does.
    pub async fn run(mut self) {
        let mut updates = watcher::watch(self.store.clone(), state::ranges());
        let mut next = Instant::now() + RESYNC;
        let mut backoff = FIRST_BACKOFF;
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.state.apply(update);
                    // What waits belongs to the same round.
                    while let Ok(update) = updates.try_recv() {
                        self.state.apply(update);
                    }
                    if !self.state.is_in_sync || !self.state.take_dirty() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(next), if self.state.is_in_sync => {}
            }
            if self.reconcile().await {
                backoff = FIRST_BACKOFF;
                next = Instant::now() + RESYNC;
            } else {
                next = Instant::now() + backoff;
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    /// Plans and does; whether everything could be done.
    async fn reconcile(&mut self) -> bool {
        let now = ipam::block::rfc3339(Timestamp::now());
        let actions = plan::plan(&self.state, &self.settings, &now);
        let failures = self.state.failures.clone();
        let mut round = self.execute_all(actions).await;
        if self.state.failures != failures {
            // Whom addresses were refused is said at once: a round that failed is not planned again before its backoff.
            let mut actions = plan::plan(&self.state, &self.settings, &now);
            actions.retain(|action| matches!(action, Action::UpdateService(_)));
            round.add(self.execute_all(actions).await);
        }
        let Round { done, failed } = round;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.is_in_sync = true;
        report.services = self.state.services.len();
        report.workloads = self.state.workloads.len();
        report.load_balancers = self.state.allocations().len();
        report.reconciles += 1;
        report.actions += done;
        report.failures += failed;
        report.failing = failed;
        if failed == 0 {
            report.last_error = None;
        }
        failed == 0
    }

    async fn execute_all(&mut self, actions: Vec<Action>) -> Round {
        let mut round = Round::default();
        for action in actions {
            let text = describe(&action);
            match self.execute(&action).await {
                Ok(()) => {
                    round.done += 1;
                    tracing::info!("{text}");
                }
                // Somebody was faster: the watch brings what they wrote, and the next plan builds on it.
                Err(Error::Store(
                    error @ (datastore::Error::Conflict(_)
                    | datastore::Error::AlreadyExists(_)
                    | datastore::Error::NotFound(_)),
                )) => tracing::debug!(%error, "{text}: overtaken"),
                Err(error) => {
                    round.failed += 1;
                    tracing::warn!(%error, "{text}: failed, will be retried");
                    self.report().last_error = Some(format!("{text}: {error}"));
                }
            }
        }
        round
    }

    async fn execute(&mut self, action: &Action) -> Result<(), Error> {
        let store = self.store.as_ref();
        match action {
            Action::UpdateService(service) => drop(typed::update(store, service).await?),
            Action::CreateSlice(slice) => drop(typed::create(store, slice).await?),
            Action::UpdateSlice(slice) => drop(typed::update(store, slice).await?),
            Action::DeleteSlice(slice) => {
                let revision = slice.metadata.resource_version.as_deref().and_then(|v| v.parse().ok());
                store.delete(slice.key(), revision).await?;
            }
            Action::UpdateWorkload(workload) => drop(typed::update(store, workload).await?),
            Action::AssignAddress(assign) => {
                let outcome = self.assign(assign).await;
                // The condition in the service's status is planned from this.
                match &outcome {
                    Ok(()) => drop(self.state.failures.remove(&assign.service)),
                    Err(error) => {
                        let text = error.to_string().trim().to_string();
                        self.state.failures.insert(assign.service.clone(), text);
                    }
                }
                outcome?;
            }
            Action::ReleaseAddresses { handle, addresses } => {
                self.ipam.release_ips_of(handle, addresses).await?;
            }
            Action::ReleaseHandle { service, handle } => self.release(service, handle).await?,
        }
        Ok(())
    }

    async fn assign(&self, assign: &AssignAddress) -> Result<(), Error> {
        let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
        let take = |ip: IpAddr| self.ipam.assign_ip(ip, &assign.handle, assign.attributes(), owner.clone());
        match assign.wish {
            Wish::Must(ip) => return Ok(take(ip).await.map(drop)?),
            Wish::Prefer(ip) => match take(ip).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::warn!(%ip, %error, "a service cannot keep the address of its status"),
            },
            Wish::Any => {}
        }
        let request = AssignRequest {
            num_v4: 1,
            num_v6: 0,
            handle: assign.handle.clone(),
            attributes: assign.attributes(),
            owner,
            pools_v4: assign.pools.clone(),
            pools_v6: vec![],
            intended_use: AllowedUse::LoadBalancer,
            namespace: None,
        };
        match self.ipam.ensure_assigned(&request).await?.message {
            None => Ok(()),
            Some(message) => Err(Error::Short(message)),
        }
    }

    /// Releases what nobody wants. The service is read once more: the blocks may have been watched ahead of it.
    async fn release(&self, name: &Name, handle: &str) -> Result<(), Error> {
        let service = typed::get::<ServiceBody>(self.store.as_ref(), Some(&name.0), &name.1).await?;
        let is_wanted =
            service.is_some_and(|s| plan::wants_address(&s) && plan::handle_of(name, &s).as_deref() == Some(handle));
        if !is_wanted {
            self.ipam.release_by_handle(handle).await?;
        }
        Ok(())
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Action::ReleaseAddresses { addresses, .. } => format!("release {addresses:?}"),
        Action::ReleaseHandle { service, .. } => {
            format!("release the load-balancer address of service {}/{}", service.0, service.1)
        }
    }
}

#[cfg(test)]
mod tests;
