//! Routes of felix's protocol: what the desired state means in terms of the kernel as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use felix_calc::{BlockRoute, DesiredState, FrontendKind};
use fib::{
    Applied, Event, Kernel, KernelRoute, PRIORITY_BORROWED, PRIORITY_LOCAL, PROTOCOL_FELIX, Route, RouteKey,
    RouteTable, Target,
};
use ipnet::IpNet;

use crate::dataplane::iface_monitor::KernelView;

/// Owns every route of felix's protocol in the main table.
#[derive(Debug)]
pub struct RouteManager {
    table: RouteTable,
}

impl Default for RouteManager {
    fn default() -> Self {
        Self { table: RouteTable::new(PROTOCOL_FELIX) }
    }
}

impl RouteManager {
    /// Takes a dump as the truth.
    pub fn resync(&mut self, dump: &[KernelRoute]) {
        self.table.resync(dump);
    }

    pub fn observe(&mut self, event: &Event) {
        self.table.observe(event);
    }

    /// What has been written stays where it is wanted; the rest goes. Only to be called with a complete desired state.
    pub fn set_desired(&mut self, desired: BTreeMap<RouteKey, Route>) {
        self.table.set_in_sync();
        self.table.set_desired(desired);
    }

    pub async fn apply(&mut self, kernel: &dyn Kernel, now: Instant) -> Applied {
        self.table.apply(kernel, now).await
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// Whether the kernel holds all routes that are wanted, and no others of ours.
    pub fn is_clean(&self) -> bool {
        self.table.is_clean()
    }

    /// Numbers of routes wanted and held.
    pub fn counts(&self) -> (usize, usize) {
        (self.table.desired().len(), self.table.actual().len())
    }

    /// Whether the kernel sends this address out of this interface.
    pub fn is_programmed(&self, addr: IpAddr, ifindex: u32) -> bool {
        let route = self.table.actual().get(&RouteKey::new(IpNet::from(addr), PRIORITY_LOCAL));
        route.is_some_and(|r| r.target == Target::Link { ifindex })
    }

    /// Host addresses that the kernel holds as blackholes of ours: services announced before a restart.
    pub fn actual_blackholes(&self) -> BTreeSet<IpAddr> {
        let hosts = self
            .table
            .actual()
            .iter()
            .filter(|(k, r)| r.target == Target::Blackhole && k.dst.prefix_len() == k.dst.max_prefix_len());
        hosts.map(|(k, _)| k.dst.addr()).collect()
    }
}

/// The routes that the desired state means on this kernel. A workload whose interface is absent or down has none, nor has a
/// borrowed address whose node cannot be reached. `services` are the addresses to be announced.
pub fn desired_routes(
    state: &DesiredState,
    view: &KernelView,
    services: &BTreeSet<IpAddr>,
) -> BTreeMap<RouteKey, Route> {
    let mut routes = BTreeMap::new();
    for addr in services {
        routes.insert(local(IpNet::from(*addr)), Route::new(Target::Blackhole, PROTOCOL_FELIX));
    }
    for (dst, route) in &state.block_routes {
        match route {
            BlockRoute::Blackhole => {
                routes.insert(local(*dst), Route::new(Target::Blackhole, PROTOCOL_FELIX));
            }
            BlockRoute::Borrowed { via, .. } => {
                let hops = fib::resolve(&view.routes, &view.links, *via);
                if !hops.is_empty() {
                    // A higher metric than a route learned by BGP, which wins when it is there.
                    let key = RouteKey::new(*dst, PRIORITY_BORROWED);
                    routes.insert(key, Route::new(Target::Gateways(hops), PROTOCOL_FELIX));
                }
            }
        }
    }
    for (dst, interface) in &state.workload_routes {
        if let Some(link) = view.link(interface).filter(|l| l.up) {
            routes.insert(local(*dst), Route::new(Target::Link { ifindex: link.index }, PROTOCOL_FELIX));
        }
    }
    routes
}

fn local(dst: IpNet) -> RouteKey {
    RouteKey::new(dst, PRIORITY_LOCAL)
}

/// The service addresses that this node may draw traffic for: their maps are read back (`served`), some backend can take it,
/// and under a Local policy a backend of this node can (Calico `confd/pkg/backends/calico/routes.go`). A blackhole, so that
/// a packet that the datapath does not take is dropped and never loops between node and switch.
pub fn announced_services(state: &DesiredState, served: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let may_draw = state.frontends.iter().filter(|f| {
        f.kind != FrontendKind::NodePort
            && served.contains(&f.addr)
            && f.backends.iter().any(|b| b.is_local || !f.external_local)
    });
    may_draw.map(|f| f.addr).collect()
}

#[cfg(test)]
mod tests;
