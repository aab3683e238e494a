//! The kernel side of bgpd: it originates what the FIB holds, and puts into the FIB what was learned.
//!
//! ```text
//!   kernel ──events, dumps──►┌──────────┐──originate, set_resolver, next_hop_lost──► speaker
//!   kernel ◄──routes (202)───│ one task │◄──best routes, in-sync, neighbours──────── speaker
//!   resources, peers ───────►└──────────┘──► Status
//! ```
//! The task ends when the inputs' or the speaker's channel closes. It decides nothing: [`state::State`] does.
//!
//! - Learned routes have protocol 202 and [`fib::PRIORITY_LEARNED`]. They are never originated, so nothing loops.
//! - What felix serves on this node (its blocks, workloads and services) is never overridden: a learned route for the same
//!   prefix is not installed. felix's `via` routes to borrowed addresses lose against a learned one.
//! - Beside learned routes the task programs, under the same number, the gateways of peers that are reached by one
//!   (BGPPeer's reachableBy), and a blackhole for each service range that this node announces as a whole: a packet for an
//!   address in it that nobody serves is dropped here and does not go round between node and switch.
//! - A learned route inside the node's own service ranges is not installed: the node serves them itself.
//! - What this host sends by a learned route has the node's address as its source, if that is one of the host's.
//! - A route that the kernel refuses is tried again, later every time, and shown with the kernel's reason; the others go on.
//!   A key that another protocol has is never written.
//! - Much work is done in slices, between which a lost link is heard.
//! - Routes of protocol 202 that an earlier process left stay until the speaker has heard End-of-RIB for their family; then
//!   those that nobody announced again go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fib::{Error, Event, Kernel, KernelRoute, Neighbours, Watch};
use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::speaker::{Handle, RouteBatch};
use bgp_plan::origins::ServiceRanges;
use bgp_plan::peers::Plan;
use bgp_plan::resources::Resources;
use state::{Actions, State};

mod others;
mod state;

/// How often everything is read again, in case an event was missed that nobody reported (Calico's felix: 90 s).
const RESYNC_INTERVAL: Duration = Duration::from_secs(90);
/// How long to wait after the kernel could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// What the task needs from the store.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub resources: Arc<Resources>,
    /// Addresses of the configured peers: sessions with those on a link that is lost go down at once.
    pub peers: BTreeSet<IpAddr>,
    /// Peers that are reached by a gateway.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    pub services: ServiceRanges,
    /// The node's addresses, one of a family.
    pub sources: Vec<IpAddr>,
}

impl Inputs {
    /// What the plan has for the kernel.
    pub fn new(resources: &Resources, plan: &Plan) -> Inputs {
        let sources = plan.config.own_v4.map(IpAddr::from).into_iter().chain(plan.config.own_v6.map(IpAddr::from));
        Inputs {
            resources: Arc::new(resources.clone()),
            peers: plan.config.peers.keys().map(|id| id.address).collect(),
            gateways: plan.gateways.clone(),
            services: plan.services.clone(),
            sources: sources.collect(),
        }
    }
}

/// What the kernel holds of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The kernel was read, the origins given to the speaker and what was learned until then written.
    pub ready: bool,
    /// Learned routes wanted in the kernel.
    pub routes: usize,
    /// Routes left by an earlier process that nobody announced again so far.
    pub stale: usize,
    /// Routes that could not be made, or not be taken away, and are tried again.
    pub failed: usize,
    /// Why, of some of them.
    pub failures: Vec<Failure>,
}

/// A learned route that is not in the kernel as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub prefix: IpNet,
    /// A sentence, with the kernel's own words.
    pub reason: String,
}

impl Status {
    /// # Errors
    /// What keeps the FIB from being what was learned.
    pub fn check(&self) -> Result<(), String> {
        if !self.ready {
            return Err("the kernel's routes are not read and written yet".into());
        }
        let Some(Failure { prefix, reason }) = self.failures.first() else { return Ok(()) };
        let others = match self.failed.saturating_sub(1) {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(format!("{prefix} is not in the kernel as it should be: {reason}{others}"))
    }
}

/// Starts the task. `inputs` must hold the resources as they are after the store's first in-sync: what is originated from
/// then on is the whole truth.
///
/// # Errors
/// When the kernel cannot be watched.
pub fn spawn(
    kernel: Arc<dyn Kernel>,
    speaker: Handle,
    node: String,
    inputs: watch::Receiver<Inputs>,
) -> Result<watch::Receiver<Status>, Error> {
    let events = kernel.monitor(Watch::Others)?;
    let (status, receiver) = watch::channel(Status::default());
    let neighbours = speaker.neighbours();
    let task = Task { kernel, speaker, events, inputs, neighbours, status, state: State::new(node) };
    tokio::spawn(task.run());
    Ok(receiver)
}

struct Task {
    kernel: Arc<dyn Kernel>,
    speaker: Handle,
    events: mpsc::Receiver<Vec<Event>>,
    inputs: watch::Receiver<Inputs>,
    neighbours: watch::Receiver<Neighbours>,
    status: watch::Sender<Status>,
    state: State,
}

impl Task {
    async fn run(mut self) {
        self.read_kernel().await;
        self.state.keep_stale_routes();
        let inputs = self.inputs.borrow_and_update().clone();
        self.state.set_inputs(inputs);
        let neighbours = self.neighbours.borrow_and_update().clone();
        self.state.set_neighbours(&neighbours);
        self.speaker.set_resolver(self.state.resolver());
        let mut in_sync = self.speaker.in_sync();
        // The first batch of a subscription is the whole truth of that moment, later ones are changes.
        let heard = *in_sync.borrow_and_update();
        let mut best = self.speaker.best_routes();
        match best.recv().await {
            Some(batch) => self.state.learn(batch),
            None => return,
        }
        self.state.sweep(heard);
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC_INTERVAL, RESYNC_INTERVAL);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_more = self.settle().await;
            let retry = self.state.next_deadline();
            tokio::select! {
                biased;
                events = self.events.recv() => match events {
                    Some(events) => self.observe(events).await,
                    None => self.watch_again().await,
                },
                changed = self.inputs.changed() => match changed {
                    Ok(()) => {
                        let inputs = self.inputs.borrow_and_update().clone();
                        self.state.set_inputs(inputs);
                    }
                    Err(_) => return,
                },
                Ok(()) = self.neighbours.changed() => {
                    let neighbours = self.neighbours.borrow_and_update().clone();
                    self.state.set_neighbours(&neighbours);
                }
                Ok(()) = in_sync.changed() => {
                    // What the speaker heard before it said so waits in `best`.
                    let heard = *in_sync.borrow_and_update();
                    self.learn(RouteBatch::new(), &mut best);
                    self.state.sweep(heard);
                }
                batch = best.recv() => match batch {
                    Some(batch) => self.learn(batch, &mut best),
                    None => return,
                },
                _ = resync.tick() => self.read_kernel().await,
                () = std::future::ready(()), if has_more => {}
                () = sleep_until(retry) => {}
            }
        }
    }

    /// Takes what waits, so that the kernel is written once for all of it.
    fn learn(&mut self, first: RouteBatch, best: &mut mpsc::UnboundedReceiver<RouteBatch>) {
        self.state.learn(first);
        while let Ok(batch) = best.try_recv() {
            self.state.learn(batch);
        }
    }

    async fn observe(&mut self, first: Vec<Event>) {
        let mut needs_resync = false;
        let mut next = Some(first);
        while let Some(events) = next {
            for event in &events {
                needs_resync |= self.state.observe(event);
            }
            next = self.events.try_recv().ok();
        }
        if needs_resync {
            // A session over a lost link goes down before anything else is done.
            self.settle_state();
            self.read_kernel().await;
        }
    }

    /// Reads everything; what cannot be read now is read later, and until then the last state stands.
    async fn read_kernel(&mut self) {
        loop {
            let read = async {
                let links = self.kernel.dump_links().await?;
                let addrs = self.kernel.dump_addrs().await?;
                let routes: Vec<KernelRoute> = self.kernel.dump_routes().await?;
                Ok::<_, Error>((routes, links, addrs))
            };
            match read.await {
                Ok((routes, links, addrs)) => return self.state.resync(&routes, links, addrs),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the kernel's routes cannot be read");
                    tokio::time::sleep(READ_RETRY).await;
                }
            }
        }
    }

    async fn watch_again(&mut self) {
        match self.kernel.monitor(Watch::Others) {
            Ok(events) => self.events = events,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the kernel cannot be watched");
                tokio::time::sleep(READ_RETRY).await;
            }
        }
        self.read_kernel().await;
    }

    /// Works out what is wanted and tells the speaker what it has to know.
    fn settle_state(&mut self) {
        let Actions { originate, ask_again, lost } = self.state.settle();
        for address in lost {
            tracing::info!(%address, "the link to this peer is lost");
            self.speaker.next_hop_lost(address);
        }
        if ask_again {
            self.speaker.set_resolver(self.state.resolver());
        }
        if let Some(origins) = originate {
            self.speaker.originate(origins);
        }
    }

    /// The same, and writes a slice of it; whether there is more to do at once.
    async fn settle(&mut self) -> bool {
        self.settle_state();
        let applied = self.state.apply(&*self.kernel, Instant::now()).await;
        if applied.written + applied.deleted > 0 {
            tracing::debug!(written = applied.written, deleted = applied.deleted, "learned routes changed");
        }
        if applied.needs_resync {
            self.read_kernel().await;
        }
        let has_more = !applied.is_idle() || !self.state.is_settled();
        // Not for each slice of a table that is written.
        if !has_more || self.status.borrow().failed != self.state.failed() {
            let status = self.state.status();
            self.status.send_if_modified(|last| {
                let is_new = *last != status;
                *last = status;
                is_new
            });
        }
        has_more
    }
}

/// An error and its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
