//! The loop: resources and kernel events in, one apply over what they changed.
//!
//! ```text
//!  datastore::watcher ──┐                      ┌──► RouteManager ─────► kernel
//!  fib monitor ─────────┼──► Daemon (one task) ┼──► EndpointManager ──► kernel
//!  timers ──────────────┤    graph, view       ├──► ServiceManager ◄──► thread "datapath"
//!  ServiceState ────────┘                      └──► Snapshot (watch) ─► felix.sock
//! ```
//! The task ends with SIGTERM or SIGINT and takes nothing back: what is programmed serves on, and the next felix adopts it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api::{FelixConfigurationSpec, NodeSpec};
use datastore::watcher;
use felix_calc::{DesiredState, FrontendKind, Graph, Update};
use fib::{Event, Kernel, Netlink, Watch};
use tokio::sync::{mpsc, watch};

use crate::config::{Role, Settings};
use crate::control::Snapshot;
use crate::dataplane::endpoint_manager::EndpointManager;
use crate::dataplane::iface_monitor::KernelView;
use crate::dataplane::route_manager::{RouteManager, announced_services, desired_routes};
use crate::dataplane::service_manager::{ServiceManager, Wanted};
use crate::dataplane::sysctl;
use crate::resources::{self, Change};

/// After a failed dump.
const DUMP_RETRY: Duration = Duration::from_secs(1);

/// What changed since the last apply.
#[derive(Clone, Copy, Debug, Default)]
struct Dirty {
    resources: bool,
    /// Links, addresses, routes, or what the load balancer serves.
    kernel: bool,
    /// Events were lost or are not enough: dump.
    resync: bool,
}

/// One node's felix.
pub struct Daemon {
    node: String,
    services_only: bool,
    is_in_sync: bool,
    graph: Graph,
    state: Arc<DesiredState>,
    configs: BTreeMap<String, FelixConfigurationSpec>,
    settings: Settings,
    own_node: Option<NodeSpec>,
    kernel: Netlink,
    view: KernelView,
    routes: RouteManager,
    endpoints: EndpointManager,
    services: ServiceManager,
    snapshots: watch::Sender<Arc<Snapshot>>,
    snapshot: Snapshot,
    dirty: Dirty,
    resync_at: Instant,
    /// Uplinks whose sysctls were made.
    uplinks_configured: BTreeSet<u32>,
    host_error: Option<String>,
}

impl Daemon {
    /// Ready to run. `services` is the loaded load balancer; `snapshots` is where to publish.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn new(
        node: String,
        services_only: bool,
        services: ServiceManager,
        snapshots: watch::Sender<Arc<Snapshot>>,
    ) -> Result<Self> {
        let snapshot = Snapshot::starting(&node, services_only);
        Ok(Self {
            graph: Graph::new(&node),
            node,
            services_only,
            is_in_sync: false,
            state: Arc::default(),
            configs: BTreeMap::new(),
            settings: Settings::default(),
            own_node: None,
            kernel: Netlink::new().context("cannot open a netlink socket")?,
            view: KernelView::default(),
            routes: RouteManager::default(),
            endpoints: EndpointManager::new().context("cannot open a netlink socket")?,
            services,
            snapshots,
            snapshot,
            dirty: Dirty { resources: true, kernel: true, resync: true },
            resync_at: Instant::now(),
            uplinks_configured: BTreeSet::new(),
            host_error: None,
        })
    }

    /// Runs until the future is cancelled.
    ///
    /// # Errors
    /// When the kernel's events cannot be had any more.
    pub async fn run(mut self, store: datastore::DynStore) -> Result<()> {
        self.snapshot.store = store.describe();
        let mut events = self.kernel.monitor(Watch::All).context("cannot watch the kernel")?;
        let mut updates = watcher::watch(store, resources::ranges(self.services_only));
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => self.take_updates(update, &mut updates),
                    None => bail!("the datastore's watcher has ended"),
                },
                batch = events.recv() => match batch {
                    Some(batch) => self.take_events(batch, &mut events),
                    None => bail!("the kernel's events have ended"),
                },
                () = self.services.changed() => self.dirty.kernel = true,
                () = tokio::time::sleep_until(deadline.into()) => self.dirty.kernel = true,
            }
            if Instant::now() >= self.resync_at {
                self.dirty.resync = true;
            }
            self.apply().await;
        }
    }

    /// While nothing can be applied, no retry is due.
    fn next_deadline(&self) -> Instant {
        if self.waiting_for().is_some() || self.dirty.resync {
            return self.resync_at;
        }
        let retries = [self.routes.next_deadline(), self.endpoints.next_deadline()];
        retries.into_iter().flatten().fold(self.resync_at, Instant::min)
    }

    /// Takes everything that is waiting: one apply for all of it.
    fn take_updates(&mut self, first: watcher::Update, updates: &mut mpsc::Receiver<watcher::Update>) {
        let mut next = Some(first);
        while let Some(update) = next {
            let change = match update {
                watcher::Update::Put(kv) => resources::put(&kv),
                watcher::Update::Delete(key) => resources::delete(&key),
                watcher::Update::InSync => {
                    self.is_in_sync = true;
                    None
                }
            };
            match change {
                Some(Change::Calc(update)) => {
                    if let Update::Node(name, spec) = &update
                        && *name == self.node
                    {
                        self.own_node = spec.as_deref().cloned();
                    }
                    self.graph.apply(update);
                }
                Some(Change::Config(name, spec)) => self.take_config(name, spec),
                None => {}
            }
            self.dirty.resources = true;
            next = updates.try_recv().ok();
        }
    }

    fn take_config(&mut self, name: String, spec: Option<Box<FelixConfigurationSpec>>) {
        match spec {
            Some(spec) => self.configs.insert(name, *spec),
            None => self.configs.remove(&name),
        };
        let own = self.configs.get(&format!("node.{}", self.node));
        let (settings, wrong) = Settings::new(self.configs.get("default"), own);
        for problem in wrong {
            tracing::warn!(problem, "a field of FelixConfiguration is ignored");
        }
        self.settings = settings;
        self.resync_at = self.resync_at.min(Instant::now() + self.settings.route_refresh);
    }

    fn take_events(&mut self, first: Vec<Event>, events: &mut mpsc::Receiver<Vec<Event>>) {
        let mut next = Some(first);
        while let Some(batch) = next {
            for event in batch {
                self.routes.observe(&event);
                self.dirty.kernel |= self.view.observe(&event);
                self.dirty.resync |= event.needs_resync();
            }
            next = events.try_recv().ok();
        }
        // An event that changes nothing for the view may still be a route of ours that went.
        self.dirty.kernel |= !self.routes.is_clean();
    }

    async fn apply(&mut self) {
        if let Some(problem) = self.waiting_for() {
            if self.snapshot.problems != [problem] {
                tracing::info!("{problem}");
                self.snapshot.problems = vec![problem.into()];
                self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
            }
            // Deadlines have passed by; look again when something happens.
            self.resync_at = self.resync_at.max(Instant::now() + DUMP_RETRY);
            return;
        }
        if self.dirty.resync && !self.resync().await {
            return;
        }
        if self.dirty.resources {
            self.state = Arc::new(self.graph.desired());
        }
        if !self.dirty.resources && !self.dirty.kernel {
            return;
        }
        self.dirty = Dirty::default();
        self.snapshot.counts.applies += 1;
        self.program_services();
        self.apply_host();
        if !self.services_only {
            self.apply_endpoints_and_routes().await;
        }
        self.publish();
    }

    /// What must be there before anything is programmed.
    fn waiting_for(&self) -> Option<&'static str> {
        if !self.is_in_sync {
            Some("waiting for the datastore")
        } else if self.own_node.is_none() && !self.services_only {
            Some("waiting for this node's Node resource: apply one whose name is NODENAME")
        } else {
            None
        }
    }

    /// Reads the kernel back; false when it could not be read.
    async fn resync(&mut self) -> bool {
        let now = Instant::now();
        match self.view.read_dumps(&self.kernel).await {
            Ok(dump) => self.routes.resync(&dump),
            Err(error) => {
                tracing::error!(%error, "cannot read the kernel's state; trying again");
                self.snapshot.problems = vec![error.to_string()];
                self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
                self.resync_at = now + DUMP_RETRY;
                return false;
            }
        }
        let (view, settings) = (&self.view, &self.settings);
        let is_workload = |index: u32| view.links.get(&index).is_some_and(|l| settings.role(&l.name) == Role::Workload);
        if !self.services_only
            && let Err(error) = self.endpoints.resync(is_workload).await
        {
            tracing::warn!(%error, "cannot read the kernel's neighbours");
        }
        self.uplinks_configured.clear();
        self.resync_at = now + self.settings.route_refresh;
        self.dirty.kernel = true;
        true
    }

    fn program_services(&mut self) {
        let of_role = |role: Role| {
            let links = self.view.links.values().filter(|l| l.up && self.settings.role(&l.name) == role);
            links.map(|l| (l.index, l.name.clone())).collect()
        };
        self.services.program(Wanted {
            generation: 0,
            frontends: self.state.frontends.clone(),
            node_addresses: self.node_addresses(),
            uplinks: of_role(Role::Uplink),
            workloads: of_role(Role::Workload),
            is_announced: !self.services_only && self.state.frontends.iter().any(|f| f.kind != FrontendKind::NodePort),
        });
    }

    /// The node's own address first: it is the source of what is translated. Then every other one of the host.
    fn node_addresses(&self) -> Vec<Ipv4Addr> {
        let own = self.own_node.as_ref().and_then(|n| n.bgp.as_ref()).and_then(|b| b.ipv4_address);
        let own = own.and_then(|a| if let IpAddr::V4(v4) = a.ip() { Some(v4) } else { None });
        // Alone, the load balancer's workload interfaces are the host's interfaces.
        let is_workload = |name: &str| !self.services_only && self.settings.role(name) == Role::Workload;
        let others = self.view.host_addresses(is_workload).into_iter().filter(|a| Some(*a) != own);
        own.into_iter().chain(others).collect()
    }

    /// Sysctls of the host and of its uplinks.
    fn apply_host(&mut self) {
        let links = self.view.links.values();
        let is_uplink = |l: &&fib::Link| match self.settings.role(&l.name) {
            Role::Uplink => true,
            // Alone, nobody else sets up the workloads' interfaces.
            Role::Workload => self.services_only,
            Role::None => false,
        };
        let uplinks: Vec<&fib::Link> = links.filter(is_uplink).collect();
        let present: BTreeSet<u32> = uplinks.iter().map(|l| l.index).collect();
        if self.uplinks_configured == present && !present.is_empty() && self.host_error.is_none() {
            return;
        }
        let mut settings = sysctl::host();
        settings.extend(uplinks.iter().flat_map(|l| sysctl::uplink(&l.name)));
        self.host_error = match sysctl::apply(&settings) {
            Ok(written) => {
                self.snapshot.counts.writes += written as u64;
                None
            }
            Err(errors) => {
                let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                tracing::error!(error = text, "cannot configure the host");
                Some(text)
            }
        };
        self.uplinks_configured = present;
    }

    async fn apply_endpoints_and_routes(&mut self) {
        let now = Instant::now();
        // Sysctls and neighbours before the route: no packet comes to an interface that is not ready for it.
        self.snapshot.counts.writes += self.endpoints.apply(&self.state, &self.view, now).await as u64;
        let service = self.services.state();
        // A felix that has just started does not know yet what its maps serve: what was announced stays until it does.
        let served = if service.generation == 0 { Arc::new(self.routes.actual_blackholes()) } else { service.served };
        let announced = announced_services(&self.state, &served);
        self.routes.set_desired(desired_routes(&self.state, &self.view, &announced));
        let applied = self.routes.apply(&self.kernel, now).await;
        if applied.needs_resync {
            self.dirty.resync = true;
            self.resync_at = now + DUMP_RETRY;
        }
        if !applied.is_idle() {
            tracing::info!(written = applied.written, deleted = applied.deleted, "routes programmed");
        }
        for (key, error) in &applied.failures {
            tracing::warn!(%key, error = error_chain(error), "cannot program a route; trying again");
        }
        self.snapshot.counts.writes += (applied.written + applied.deleted) as u64;
        self.snapshot.counts.failures += applied.failures.len() as u64;
        self.snapshot.announced = announced;
    }

    fn publish(&mut self) {
        let service = self.services.state();
        let (desired, actual) = self.routes.counts();
        let counts = &mut self.snapshot.counts;
        counts.routes_desired = desired;
        counts.routes_actual = actual;
        counts.endpoints = self.state.endpoints.len();
        counts.frontends = self.state.frontends.len();
        let programmed = self.state.endpoints.iter().filter(|(interface, endpoint)| {
            let Some(link) = self.view.link(interface) else { return false };
            self.endpoints.is_configured(interface)
                && service.attached.contains(&link.index)
                && endpoint.addresses.iter().all(|a| self.routes.is_programmed(*a, link.index))
        });
        self.snapshot.programmed = programmed.map(|(i, e)| (i.clone(), e.clone())).collect();
        let mut problems = self.services.problems();
        problems.extend(self.host_error.iter().cloned());
        problems.extend(self.endpoints.errors());
        if !self.services_only && !self.routes.is_clean() {
            problems.push("routes: programming".into());
        }
        if self.snapshot.is_ready() != problems.is_empty() {
            tracing::info!(ready = problems.is_empty(), ?problems, "readiness");
        }
        self.snapshot.problems = problems;
        self.snapshot.is_in_sync = self.is_in_sync;
        self.snapshot.state = self.state.clone();
        self.snapshot.served = service.served;
        self.snapshot.skipped = service.skipped;
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
