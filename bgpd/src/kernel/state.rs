//! What the kernel task knows and decides, without the task.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bgp_proto::af::{Family, Prefix};
use fib::{
    Addr, Applied, Event, Kernel, KernelRoute, Link, Links, NextHop, PRIORITY_LEARNED, PROTOCOL_BGPD, PROTOCOL_FELIX,
    Recursive, Route, RouteKey, RouteTable, Routes, Target,
};
use ipnet::IpNet;

use super::{Inputs, Status};
use crate::dynamic::Neighbours;
use crate::speaker::{InSync, Resolver, RouteBatch};
use bgp_plan::config::Origin;
use bgp_plan::origins::origins;

/// What the speaker has to be told.
#[derive(Debug, Default, PartialEq)]
pub struct Actions {
    /// The whole set, when it changed.
    pub originate: Option<Vec<Origin>>,
    /// The judgement on some next hop changed.
    pub ask_again: bool,
    /// Peers whose link was lost.
    pub lost: Vec<IpAddr>,
}

/// What next hops are judged by; shared with the speaker's thread.
#[derive(Debug, Default)]
struct View {
    /// Of every protocol but 202.
    routes: Routes,
    links: Links,
    addrs: BTreeSet<Addr>,
    /// Link-local addresses of neighbours, and the links they are on: no route says so.
    neighbours: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// Best routes by BGP with their next hops as announced, and peers with the gateways by which they are reached.
    learned: Recursive,
    /// What the speaker asked since the last `ask_again`, and what it was told.
    asked: BTreeMap<IpAddr, Option<u32>>,
}

impl View {
    fn resolve(&self, addr: IpAddr, through: Option<IpNet>) -> Vec<NextHop> {
        // RFC 4271 section 5.1.3: an own address is no next hop.
        if self.addrs.iter().any(|a| a.net.addr() == addr) {
            return Vec::new();
        }
        if let Some(links) = self.neighbours.get(&addr) {
            let usable = links.iter().filter(|i| self.links.get(i).is_some_and(Link::is_usable));
            return usable.map(|i| NextHop { via: addr, ifindex: *i, onlink: false }).collect();
        }
        fib::Resolver { routes: &self.routes, links: &self.links, recursive: &self.learned }.resolve(addr, through)
    }

    /// 0 for an address on a link, 1 for one behind a gateway, `None` for one that is not reached.
    fn distance(&self, addr: IpAddr) -> Option<u32> {
        let hops = self.resolve(addr, None);
        hops.first()?;
        Some(u32::from(hops.iter().any(|h| h.via != addr)))
    }

    /// Whether felix serves this prefix here: a block, a workload or a service, not the way to another node.
    fn is_served_here(&self, net: IpNet) -> bool {
        let at = RouteKey::new(net, 0)..=RouteKey::new(net, u32::MAX);
        let is_own = |r: &Route| r.protocol == PROTOCOL_FELIX && !matches!(r.target, Target::Gateways(_));
        self.routes.range(at).any(|(_, r)| is_own(r))
    }
}

/// Which learned prefixes have to be looked at again.
#[derive(Debug)]
enum Dirty {
    Prefixes(BTreeSet<IpNet>),
    All,
}

impl Dirty {
    fn add(&mut self, net: IpNet) {
        if let Self::Prefixes(nets) = self {
            nets.insert(net);
        }
    }
}

/// All that the task knows.
#[derive(Debug)]
pub struct State {
    node: String,
    inputs: Inputs,
    view: Arc<Mutex<View>>,
    table: RouteTable,
    /// Routes of an earlier process, kept until they are learned again or proven stale.
    stale: BTreeSet<RouteKey>,
    /// How many learned routes have this next hop.
    next_hops: BTreeMap<IpAddr, usize>,
    /// Best routes that the gateway of a peer stands in front of.
    shadowed: BTreeMap<IpNet, Vec<IpAddr>>,
    /// Service ranges that are announced as a whole.
    blackholes: BTreeSet<IpNet>,
    dirty: Dirty,
    origins_dirty: bool,
    peers_dirty: bool,
    announced: Option<Vec<Origin>>,
    /// Peers on a link, and the links on which they were last seen.
    direct: BTreeMap<IpAddr, BTreeSet<u32>>,
    failed: usize,
}

impl State {
    /// Nothing known yet.
    pub fn new(node: String) -> Self {
        Self {
            node,
            inputs: Inputs::default(),
            view: Arc::default(),
            table: RouteTable::new(PROTOCOL_BGPD),
            stale: BTreeSet::new(),
            next_hops: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            blackholes: BTreeSet::new(),
            dirty: Dirty::All,
            origins_dirty: false,
            peers_dirty: false,
            announced: None,
            direct: BTreeMap::new(),
            failed: 0,
        }
    }

    /// What is in the kernel under our protocol now was left by an earlier process: it stays until it is learned again or
    /// swept. Everything else of ours may be deleted from here on.
    pub fn keep_stale_routes(&mut self) {
        let left: Vec<(RouteKey, Route)> = self.table.actual().iter().map(|(k, r)| (*k, r.clone())).collect();
        for (key, route) in left {
            self.stale.insert(key);
            self.table.insert(key, route);
        }
        self.table.set_in_sync();
    }

    /// Resources and peers as they are now.
    pub fn set_inputs(&mut self, inputs: Inputs) {
        self.direct.retain(|peer, _| inputs.peers.contains(peer));
        if (&self.inputs.services, &self.inputs.sources) != (&inputs.services, &inputs.sources) {
            self.dirty = Dirty::All;
        }
        let gateways = std::mem::take(&mut self.inputs.gateways);
        for peer in gateways.keys().filter(|p| !inputs.gateways.contains_key(p)) {
            let net = IpNet::from(*peer);
            let learned = self.shadowed.remove(&net);
            self.reach(net, learned);
        }
        for (peer, gateway) in &inputs.gateways {
            let net = IpNet::from(*peer);
            if gateways.get(peer) != Some(gateway) {
                let before = self.reach(net, Some(vec![*gateway]));
                if !gateways.contains_key(peer) {
                    self.shadowed.extend(before.map(|b| (net, b)));
                }
            }
        }
        self.inputs = inputs;
        self.origins_dirty = true;
        self.peers_dirty = true;
    }

    /// The neighbours of unnumbered peers: next hops of theirs are on the link, for IPv4 too (RFC 8950).
    pub fn set_neighbours(&mut self, neighbours: &Neighbours) {
        let mut by_address: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
        for (index, address) in neighbours.values() {
            if let Some(address) = address {
                by_address.entry((*address).into()).or_default().insert(*index);
            }
        }
        let before = std::mem::replace(&mut lock(&self.view).neighbours, by_address.clone());
        if before != by_address {
            self.dirty = Dirty::All;
        }
    }

    /// Makes these the next hops of a prefix; those it had before.
    fn reach(&mut self, net: IpNet, gateways: Option<Vec<IpAddr>>) -> Option<Vec<IpAddr>> {
        let mut view = lock(&self.view);
        self.stale.remove(&learned_key(net));
        let before = match gateways {
            Some(gateways) => {
                gateways.iter().for_each(|g| *self.next_hops.entry(*g).or_default() += 1);
                view.learned.insert(net, gateways)
            }
            None => view.learned.remove(&net),
        };
        for gateway in before.iter().flatten() {
            if let Some(count) = self.next_hops.get_mut(gateway) {
                *count -= 1;
                if *count == 0 {
                    self.next_hops.remove(gateway);
                }
            }
        }
        self.dirty.add(net);
        before
    }

    /// Best routes that changed.
    pub fn learn(&mut self, batch: RouteBatch) {
        for (prefix, gateways) in batch {
            let net = prefix_net(prefix);
            if self.inputs.gateways.contains_key(&net.addr()) && net.prefix_len() == net.max_prefix_len() {
                match gateways {
                    Some(gateways) => self.shadowed.insert(net, gateways),
                    None => self.shadowed.remove(&net),
                };
            } else {
                self.reach(net, gateways);
            }
        }
    }

    /// The speaker has heard everything of these families: what is still stale in them goes.
    pub fn sweep(&mut self, heard: InSync) {
        let is_proven = |key: &RouteKey| heard.family(Family::of(key.dst.addr()));
        for key in self.stale.extract_if(.., is_proven) {
            self.dirty.add(key.dst);
        }
    }

    /// Takes a dump as the truth.
    pub fn resync(&mut self, routes: &[KernelRoute], links: Vec<Link>, addrs: Vec<Addr>) {
        self.table.resync(routes);
        let others = routes.iter().filter(|r| r.route.protocol != PROTOCOL_BGPD);
        let others: Routes = others.map(|r| (r.key, r.route.clone())).collect();
        let links: Links = links.into_iter().map(|l| (l.index, l)).collect();
        let addrs: BTreeSet<Addr> = addrs.into_iter().collect();
        let mut view = lock(&self.view);
        if (&others, &links, &addrs) != (&view.routes, &view.links, &view.addrs) {
            (view.routes, view.links, view.addrs) = (others, links, addrs);
            self.dirty = Dirty::All;
            self.origins_dirty = true;
        }
    }

    /// Learns from one event; whether everything has to be read again.
    pub fn observe(&mut self, event: &Event) -> bool {
        self.table.observe(event);
        let mut view = lock(&self.view);
        let needs_resync = match event {
            // A link that was down before had no routes to lose: every new pod begins with such events.
            Event::LinkChanged(link) => !link.is_usable() && view.links.get(&link.index).is_some_and(Link::is_usable),
            event => event.needs_resync(),
        };
        match event {
            Event::RouteChanged(r) if r.route.protocol == PROTOCOL_BGPD => {}
            Event::RouteChanged(r) => {
                if view.routes.insert(r.key, r.route.clone()).as_ref() != Some(&r.route) {
                    self.dirty.add(r.key.dst);
                    self.origins_dirty = true;
                }
            }
            Event::RouteRemoved(key, protocol) => {
                if view.routes.get(key).is_some_and(|r| r.protocol == *protocol) {
                    view.routes.remove(key);
                    self.dirty.add(key.dst);
                    self.origins_dirty = true;
                }
            }
            Event::LinkChanged(link) => {
                if view.links.insert(link.index, link.clone()).as_ref() != Some(link) {
                    self.dirty = Dirty::All;
                    self.origins_dirty = true;
                }
            }
            Event::LinkRemoved(index) => {
                view.links.remove(index);
                self.dirty = Dirty::All;
            }
            Event::AddrAdded(addr) => {
                if view.addrs.insert(*addr) {
                    self.dirty = Dirty::All;
                }
            }
            Event::AddrRemoved(addr) => {
                view.addrs.remove(addr);
                self.dirty = Dirty::All;
            }
            Event::Overrun => {}
        }
        needs_resync
    }

    /// Works out the routes wanted, and what the speaker has to be told.
    pub fn settle(&mut self) -> Actions {
        let mut actions = Actions { originate: self.changed_origins(), ..Actions::default() };
        let nets = match std::mem::replace(&mut self.dirty, Dirty::Prefixes(BTreeSet::new())) {
            Dirty::Prefixes(nets) if nets.is_empty() => None,
            // A route by which some next hop is reached concerns every route with that next hop.
            Dirty::Prefixes(nets) if !self.decides_next_hops(&nets) => Some(nets),
            _ => Some(self.all_prefixes()),
        };
        if let Some(nets) = nets {
            self.want(nets);
            actions.ask_again = self.answers_changed();
            self.peers_dirty = true;
        }
        if std::mem::take(&mut self.peers_dirty) {
            actions.lost = self.lost_peers();
        }
        actions
    }

    /// What this node originates, if that is not what it was.
    fn changed_origins(&mut self) -> Option<Vec<Origin>> {
        if !std::mem::take(&mut self.origins_dirty) {
            return None;
        }
        let view = lock(&self.view);
        let now = origins(&self.node, &self.inputs.resources, &view.routes, &view.links);
        let aggregates = &self.inputs.services.aggregates;
        let announced = now.iter().filter(|o| o.export).map(|o| prefix_net(o.prefix));
        // A range around an address of our own links has other hosts in it.
        let is_elsewhere = |net: &IpNet| !view.addrs.iter().any(|a| net.contains(&a.net.addr()) || a.net.contains(net));
        let blackholes: BTreeSet<IpNet> =
            announced.filter(|net| aggregates.contains(net) && is_elsewhere(net)).collect();
        blackholes.symmetric_difference(&self.blackholes).for_each(|net| self.dirty.add(*net));
        self.blackholes = blackholes;
        if self.announced.as_ref() == Some(&now) {
            return None;
        }
        self.announced = Some(now.clone());
        Some(now)
    }

    /// Writes what differs.
    pub async fn apply(&mut self, kernel: &dyn Kernel, now: Instant) -> Applied {
        let applied = self.table.apply(kernel, now).await;
        if !applied.is_idle() {
            self.failed = applied.failures.len();
        }
        applied
    }

    /// When a failed route is due again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// The speaker's judgement on next hops.
    pub fn resolver(&self) -> Resolver {
        let view = Arc::clone(&self.view);
        lock(&view).asked.clear();
        Arc::new(move |addr| {
            let mut view = lock(&view);
            let answer = view.distance(addr);
            view.asked.insert(addr, answer);
            answer
        })
    }

    /// For the status socket.
    pub fn status(&self) -> Status {
        Status {
            ready: self.announced.is_some() && self.table.is_clean(),
            routes: self.table.desired().len(),
            stale: self.stale.len(),
            failed: if self.table.is_clean() { 0 } else { self.failed },
        }
    }

    fn all_prefixes(&self) -> BTreeSet<IpNet> {
        let wanted = self.table.desired().keys().map(|k| k.dst);
        lock(&self.view).learned.keys().copied().chain(wanted).chain(self.blackholes.iter().copied()).collect()
    }

    fn decides_next_hops(&self, nets: &BTreeSet<IpNet>) -> bool {
        let view = lock(&self.view);
        nets.iter().any(|net| {
            let inside = net.network()..=net.broadcast();
            self.next_hops.range(inside.clone()).next().is_some()
                || view.asked.range(inside.clone()).next().is_some()
                || self.inputs.peers.range(inside).next().is_some()
        })
    }

    /// Sets the desired route of each of these prefixes.
    fn want(&mut self, nets: BTreeSet<IpNet>) {
        let view = lock(&self.view);
        let is_here = |address: &IpAddr| view.addrs.iter().any(|a| a.net.addr() == *address);
        let sources: Vec<IpAddr> = self.inputs.sources.iter().copied().filter(is_here).collect();
        let mut resolved: BTreeMap<IpAddr, Vec<NextHop>> = BTreeMap::new();
        for net in nets {
            let key = learned_key(net);
            if self.blackholes.contains(&net) {
                self.stale.remove(&key);
                self.table.insert(key, Route::new(Target::Blackhole, PROTOCOL_BGPD));
                continue;
            }
            let is_ours = view.is_served_here(net) || self.inputs.services.own.iter().any(|r| r.contains(&net));
            let gateways = view.learned.get(&net).filter(|_| !is_ours);
            // Only a route that covers a next hop can be part of its own resolution.
            let through = self.next_hops.range(net.network()..=net.broadcast()).next().map(|_| net);
            let mut hops = Vec::new();
            for gateway in gateways.into_iter().flatten() {
                match through {
                    Some(net) => hops.extend(view.resolve(*gateway, Some(net))),
                    None => {
                        hops.extend(resolved.entry(*gateway).or_insert_with(|| view.resolve(*gateway, None)).iter())
                    }
                }
            }
            if !hops.is_empty() {
                let source = sources.iter().copied().find(|s| s.is_ipv4() == net.addr().is_ipv4());
                self.table.insert(key, Route { source, ..Route::new(Target::Gateways(hops), PROTOCOL_BGPD) });
            } else if !self.stale.contains(&key) {
                self.table.remove(&key);
            }
        }
    }

    fn answers_changed(&self) -> bool {
        let view = lock(&self.view);
        view.asked.iter().any(|(addr, answer)| view.distance(*addr) != *answer)
    }

    /// Peers that were on a link and whose every such link is down or gone; each once.
    fn lost_peers(&mut self) -> Vec<IpAddr> {
        let view = lock(&self.view);
        for peer in &self.inputs.peers {
            let hops = view.resolve(*peer, None);
            let links: BTreeSet<u32> = hops.iter().filter(|h| h.via == *peer).map(|h| h.ifindex).collect();
            if !links.is_empty() {
                self.direct.insert(*peer, links);
            }
        }
        let is_usable = |ifindex: &u32| view.links.get(ifindex).is_some_and(Link::is_usable);
        self.direct.extract_if(.., |_, links| !links.iter().any(is_usable)).map(|(peer, _)| peer).collect()
    }
}

fn prefix_net(prefix: Prefix) -> IpNet {
    IpNet::new(prefix.address(), prefix.len()).expect("a prefix's length fits its family")
}

fn learned_key(net: IpNet) -> RouteKey {
    RouteKey::new(net, PRIORITY_LEARNED)
}

/// A thread that panicked while it held the view has left it whole: every change is one assignment.
fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
