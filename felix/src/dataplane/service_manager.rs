//! The thread that owns the load balancer.
//!
//! ```text
//!  daemon ── Command (mpsc) ──► thread "datapath": felix_lb::LoadBalancer
//!         ◄── ServiceState (watch) ──┘  reads its maps back all the time
//! ```
//! The load balancer's BPF objects cannot leave their thread. The thread ends when the daemon drops its sender; links and maps
//! stay pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use felix_calc::Frontend;
use felix_lb::{Config, LoadBalancer};
use tokio::sync::{oneshot, watch};

/// Between two read-backs while addresses are announced: one that is no longer served is withdrawn within 100 ms.
const VERIFY_ANNOUNCED: Duration = Duration::from_millis(50);
/// The same while nothing is announced, and a read-back only repairs.
const VERIFY_QUIET: Duration = Duration::from_millis(500);
/// Between tries to program what failed, and to repair what was found damaged.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long an address that was found not served stays withdrawn after it is served again: the network sees one withdrawal
/// and no flicker, and a repair between two looks of the daemon cannot hide it.
const HOLD_DOWN: Duration = Duration::from_millis(500);

/// What the load balancer shall do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Counts the changes: [`ServiceState::generation`] follows.
    pub generation: u64,
    pub frontends: Vec<Frontend>,
    pub node_addresses: Vec<Ipv4Addr>,
    /// Interface index to name.
    pub uplinks: BTreeMap<u32, String>,
    pub workloads: BTreeMap<u32, String>,
    /// Whether the network may learn of addresses from what is served.
    pub is_announced: bool,
}

impl Wanted {
    fn verify_interval(&self) -> Duration {
        if self.is_announced { VERIFY_ANNOUNCED } else { VERIFY_QUIET }
    }
}

/// What it does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceState {
    /// The last [`Wanted`] that was worked on; 0 before the first.
    pub generation: u64,
    /// Addresses whose maps and hooks were read back and are as wanted.
    pub served: Arc<BTreeSet<IpAddr>>,
    /// Interfaces with programs.
    pub attached: BTreeSet<u32>,
    /// Why the last change is not programmed.
    pub error: Option<String>,
    /// What the last read-back found damaged.
    pub faults: Vec<String>,
    /// Frontends that this version cannot serve, and why.
    pub skipped: Vec<String>,
}

enum Command {
    Program(Wanted),
    Status(oneshot::Sender<serde_json::Value>),
}

/// The daemon's end of the thread.
pub struct ServiceManager {
    commands: Sender<Command>,
    state: watch::Receiver<ServiceState>,
    wanted: Wanted,
}

/// Both ends of the thread's queue, made before the thread.
pub struct Queue {
    commands: Sender<Command>,
    receiver: Receiver<Command>,
}

impl Default for Queue {
    fn default() -> Self {
        let (commands, receiver) = channel();
        Self { commands, receiver }
    }
}

impl Queue {
    pub fn status_client(&self) -> StatusClient {
        StatusClient(self.commands.clone())
    }
}

/// Asks the thread for the load balancer's own status.
#[derive(Clone)]
pub struct StatusClient(Sender<Command>);

impl ServiceManager {
    /// Loads or adopts the load balancer on a thread of its own.
    ///
    /// # Errors
    /// The load balancer's: what is missing, and what to do.
    pub async fn open(config: Config, queue: Queue) -> Result<Self, felix_lb::Error> {
        let Queue { commands, receiver } = queue;
        let (publisher, state) = watch::channel(ServiceState::default());
        let (opened, outcome) = oneshot::channel();
        let thread = move || match LoadBalancer::open(config) {
            Ok(balancer) => {
                // The daemon waits for this; it cannot be gone.
                let _ = opened.send(Ok(()));
                let (wanted, state) = (Wanted::default(), ServiceState::default());
                Worker { balancer, wanted, state, held_down: HeldDown::default(), publisher }.run(&receiver);
            }
            Err(e) => {
                let _ = opened.send(Err(e));
            }
        };
        std::thread::Builder::new().name("datapath".into()).spawn(thread).expect("the system can start a thread");
        outcome.await.expect("the thread answers before it ends")?;
        Ok(Self { commands, state, wanted: Wanted::default() })
    }

    /// Asks for a state; nothing happens when it is the one asked for last.
    pub fn program(&mut self, wanted: Wanted) {
        let wanted = Wanted { generation: self.wanted.generation, ..wanted };
        if wanted != self.wanted || wanted.generation == 0 {
            self.wanted = Wanted { generation: wanted.generation + 1, ..wanted };
            // The thread ends only with us.
            let _ = self.commands.send(Command::Program(self.wanted.clone()));
        }
    }

    /// The state as last published.
    pub fn state(&self) -> ServiceState {
        self.state.borrow().clone()
    }

    /// Waits until the state changes.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The thread has ended, which only a panic does; the maps stay, and readiness says so.
            std::future::pending::<()>().await;
        }
    }

    /// Why services are not as wanted; empty when they are.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state.borrow();
        let mut problems: Vec<String> =
            state.error.iter().chain(&state.faults).map(|e| format!("services: {e}")).collect();
        if self.state.has_changed().is_err() {
            problems.push("services: the datapath thread has ended; restart felix".into());
        } else if state.generation != self.wanted.generation {
            problems.push("services: programming".into());
        }
        problems
    }
}

impl StatusClient {
    /// The load balancer's status; null when the thread does not answer.
    pub async fn status(&self) -> serde_json::Value {
        let (tx, rx) = oneshot::channel();
        let _ = self.0.send(Command::Status(tx));
        rx.await.unwrap_or_default()
    }
}

/// Addresses that a read-back found not served, and until when they count as such.
#[derive(Default)]
struct HeldDown(BTreeMap<IpAddr, Instant>);

impl HeldDown {
    /// Remembers what was served before and is not now. Not for what was programmed away: that is not lost.
    fn note_lost(&mut self, before: &Arc<BTreeSet<IpAddr>>, served: &Arc<BTreeSet<IpAddr>>, now: Instant) {
        if !Arc::ptr_eq(before, served) {
            self.0.extend(before.difference(served).map(|addr| (*addr, now + HOLD_DOWN)));
        }
    }

    /// What counts as served.
    fn without_lost(&mut self, served: Arc<BTreeSet<IpAddr>>, now: Instant) -> Arc<BTreeSet<IpAddr>> {
        self.0.retain(|_, until| *until > now);
        if self.0.is_empty() {
            return served;
        }
        Arc::new(served.iter().filter(|addr| !self.0.contains_key(addr)).copied().collect())
    }
}

struct Worker {
    balancer: LoadBalancer,
    wanted: Wanted,
    state: ServiceState,
    held_down: HeldDown,
    publisher: watch::Sender<ServiceState>,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut verify_at = Instant::now();
        let mut retry_at = None;
        loop {
            let mut dirty = false;
            let wait = verify_at.saturating_duration_since(Instant::now());
            let mut next = match commands.recv_timeout(wait) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Of several states that wait only the last one matters.
            while let Some(command) = next {
                match command {
                    Command::Program(wanted) => {
                        self.wanted = wanted;
                        dirty = true;
                    }
                    Command::Status(reply) => {
                        let status = match self.balancer.status() {
                            Ok(status) => serde_json::json!(status),
                            Err(e) => serde_json::json!({"error": e.to_string()}),
                        };
                        // Who asked may have gone.
                        let _ = reply.send(status);
                    }
                }
                next = commands.try_recv().ok();
            }
            let now = Instant::now();
            if dirty || retry_at.is_some_and(|at| at <= now) {
                self.program();
            }
            if dirty || now >= verify_at {
                self.verify(dirty);
                // From when it was due, not from when it ran: so the interval holds.
                verify_at = if dirty { now } else { verify_at } + self.wanted.verify_interval();
            }
            let is_damaged = self.state.error.is_some() || !self.state.faults.is_empty();
            retry_at = is_damaged.then(|| retry_at.filter(|at| *at > now).unwrap_or(now + RETRY_INTERVAL));
            self.publish();
        }
    }

    fn program(&mut self) {
        let outcome = self.try_program();
        if let Err(error) = &outcome {
            let text = error.to_string();
            if self.state.error.as_ref() != Some(&text) {
                tracing::error!(error = text, "cannot program services; trying again");
            }
        }
        self.state.error = outcome.err().map(|e| e.to_string());
        self.state.generation = self.wanted.generation;
    }

    /// Interfaces first: a frontend counts as served when packets reach the programs. One interface that fails does not
    /// keep the services of the others from being programmed.
    fn try_program(&mut self) -> Result<(), felix_lb::Error> {
        self.balancer.set_node_addresses(&self.wanted.node_addresses)?;
        let attached: Vec<u32> = self.balancer.interfaces().collect();
        let is_wanted = |i: &u32| self.wanted.uplinks.contains_key(i) || self.wanted.workloads.contains_key(i);
        for ifindex in attached.into_iter().filter(|i| !is_wanted(i)) {
            self.balancer.detach(ifindex);
        }
        let mut failed = None;
        for (ifindex, name) in &self.wanted.uplinks {
            failed = self.balancer.attach_uplink(*ifindex, name).err().or(failed);
        }
        for (ifindex, name) in &self.wanted.workloads {
            failed = self.balancer.attach_workload(*ifindex, name).err().or(failed);
        }
        let applied = self.balancer.apply(&self.wanted.frontends)?;
        let skipped = applied.skipped.iter();
        self.state.skipped =
            skipped.map(|(f, why)| format!("{} {}:{}/{:?}: {why}", f.service, f.addr, f.port, f.protocol)).collect();
        failed.map_or(Ok(()), Err)
    }

    fn verify(&mut self, has_programmed: bool) {
        let (served, faults) = match self.balancer.verify() {
            Ok(verified) => (verified.served, verified.faults),
            Err(e) => (Arc::default(), vec![e.to_string()]),
        };
        if has_programmed || !faults.is_empty() {
            self.state.attached = self.balancer.interfaces().collect();
        }
        if faults != self.state.faults && !faults.is_empty() {
            tracing::warn!(?faults, "the service datapath is not as it was programmed; repairing");
        }
        let now = Instant::now();
        if !has_programmed {
            self.held_down.note_lost(&self.state.served, &served, now);
        }
        self.state.served = self.held_down.without_lost(served, now);
        self.state.faults = faults;
    }

    fn publish(&self) {
        self.publisher.send_if_modified(|published| {
            let is_new = *published != self.state;
            if is_new {
                published.clone_from(&self.state);
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_lost_stays_withdrawn_for_a_while() {
        let of = |last: &[u8]| Arc::new(last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect::<BTreeSet<_>>());
        let (start, mut held) = (Instant::now(), HeldDown::default());
        let all = of(&[1, 2]);
        held.note_lost(&all, &of(&[2]), start);
        assert_eq!(held.without_lost(of(&[2]), start), of(&[2]));
        let repaired = start + Duration::from_millis(50);
        held.note_lost(&of(&[2]), &all, repaired);
        assert_eq!(held.without_lost(all.clone(), repaired), of(&[2]), "repaired between two looks of the daemon");
        assert_eq!(held.without_lost(all.clone(), start + HOLD_DOWN), all);
    }
}
