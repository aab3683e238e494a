//! What the kernel task knows and decides, without the task.
//!
//! Learned routes with the same next hops are a [`Group`], which is resolved once for all of them: what moves a next hop costs
//! one look at every group, and one at every route only where the answer for its group is another one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bgp_proto::af::{Family, Prefix};
use fib::{
    Addr, Applied, Event, Kernel, KernelRoute, Link, Links, Lookup, Neighbours, NextHop, PRIORITY_LEARNED,
    PROTOCOL_BGPD, PROTOCOL_FELIX, Recursive, Route, RouteKey, RouteTable, Target,
};
use ipnet::IpNet;

use super::others::{Others, Seen};
use super::{Failure, Inputs, Status, sentence};
use crate::speaker::{InSync, Resolver, RouteBatch};
use bgp_plan::config::Origin;
use bgp_plan::origins::origins;

/// Prefixes that are settled at a time: a lost link never waits for more of them.
const SLICE: usize = 8192;
/// Answers that are kept at least; beyond, the speaker has to need half of them.
const ANSWERS: usize = 4096;
/// Routes that failed of which the reason is kept; the others are counted.
const LISTED: usize = 100;

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

/// What next hops are judged by.
#[derive(Debug, Default)]
struct View {
    routes: Others,
    links: Links,
    addrs: BTreeSet<Addr>,
    neighbours: Neighbours,
    /// Best routes by BGP with their next hops as announced, and peers with the gateways by which they are reached.
    learned: Recursive,
}

impl View {
    fn resolve(&self, addr: IpAddr, through: Option<IpNet>) -> Vec<NextHop> {
        // RFC 4271 section 5.1.3: an own address is no next hop.
        if self.is_own(addr) {
            return Vec::new();
        }
        let View { routes, links, neighbours, learned: recursive, .. } = self;
        fib::Resolver { routes, links, neighbours, recursive }.resolve(addr, through)
    }

    /// 0 for an address on a link, 1 for one behind a gateway, `None` for one that is not reached.
    fn distance(&self, addr: IpAddr) -> Option<u32> {
        let hops = self.resolve(addr, None);
        hops.first()?;
        Some(u32::from(hops.iter().any(|h| h.via != addr)))
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.addrs.iter().any(|a| a.net.addr() == addr)
    }

    /// Whether felix serves this prefix here: a block, a workload or a service, not the way to another node.
    fn is_served_here(&self, net: IpNet) -> bool {
        let is_own = |r: &Route| r.protocol == PROTOCOL_FELIX && !matches!(r.target, Target::Gateways(_));
        self.routes.routes_to(net).any(is_own)
    }

    /// Learned prefixes that hold one of these next hops: only they can be part of their own resolution.
    fn around<'a>(&self, next_hops: impl Iterator<Item = &'a IpAddr>) -> BTreeSet<IpNet> {
        let prefixes = next_hops.flat_map(|hop| {
            let lengths = 0..=if hop.is_ipv4() { 32 } else { 128 };
            lengths.filter_map(|len| IpNet::new(*hop, len).ok()).map(|net| net.trunc())
        });
        prefixes.filter(|net| self.learned.contains_key(net)).collect()
    }
}

/// Shared with the speaker's thread, which is answered while routes are settled. `view` is locked first.
#[derive(Debug, Default)]
struct Judge {
    view: RwLock<View>,
    asked: Mutex<Asked>,
}

/// What the speaker asked since the last `ask_again`, and what it was told.
#[derive(Debug, Default)]
struct Asked {
    answers: BTreeMap<IpAddr, Option<u32>>,
    /// There are answers that were not kept: a peer may make up as many next hops as it likes, one after another.
    has_more: bool,
    /// How many the speaker needed when it was last asked to ask again.
    needed: usize,
    /// Judgements that the speaker has: for a while the old and the new one.
    judgements: usize,
}

impl Asked {
    fn note(&mut self, addr: IpAddr, answer: Option<u32>) {
        // While the speaker turns to a new judgement it asks for what its routes have, and nothing else.
        let is_full = self.judgements < 2 && self.answers.len() >= ANSWERS.max(2 * self.needed);
        if is_full && !self.answers.contains_key(&addr) {
            self.has_more = true;
        } else {
            self.answers.insert(addr, answer);
        }
    }

    /// Whether the answer for an address in this range may have been given.
    fn any_in(&self, addrs: RangeInclusive<IpAddr>) -> bool {
        self.has_more || self.answers.range(addrs).next().is_some()
    }
}

/// A judgement that the speaker has. It lets go of the old one when it has asked the new one for all it needs.
struct Judgement(Arc<Judge>);

impl Judgement {
    fn new(judge: &Arc<Judge>) -> Self {
        let mut asked = judge.asked();
        asked.answers.clear();
        asked.has_more = false;
        asked.judgements += 1;
        Judgement(Arc::clone(judge))
    }

    fn answer(&self, addr: IpAddr) -> Option<u32> {
        // Locked until the answer is noted: who changes the view finds it.
        let view = self.0.read();
        let answer = view.distance(addr);
        self.0.asked().note(addr, answer);
        answer
    }
}

impl Drop for Judgement {
    fn drop(&mut self) {
        let mut asked = self.0.asked();
        asked.judgements -= 1;
        asked.needed = asked.answers.len();
    }
}

/// A thread that panicked while it held a lock has left what it guards whole: every change is one assignment.
impl Judge {
    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Learned routes with the same next hops as announced.
#[derive(Debug, Default)]
struct Group {
    /// How many.
    routes: usize,
    /// As they stand in the kernel, of each family; `None`: no next hop is reached.
    route: [Option<Arc<Route>>; 2],
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    /// Kernel and learned routes of these prefixes changed.
    nets: BTreeSet<IpNet>,
    /// Links, neighbours or many routes: any next hop may be reached otherwise.
    next_hops: bool,
    /// What every learned route is made with: addresses, service ranges.
    all: bool,
}

/// All that the task knows.
#[derive(Debug)]
pub struct State {
    node: String,
    inputs: Inputs,
    judge: Arc<Judge>,
    table: RouteTable,
    /// Routes of an earlier process, kept until they are learned again or proven stale.
    stale: BTreeSet<RouteKey>,
    groups: HashMap<Arc<[IpAddr]>, Group>,
    /// Groups that were never resolved.
    new_groups: Vec<Arc<[IpAddr]>>,
    /// How many groups have this next hop.
    next_hops: BTreeMap<IpAddr, usize>,
    /// Best routes that the gateway of a peer stands in front of.
    shadowed: BTreeMap<IpNet, Arc<[IpAddr]>>,
    /// Service ranges that are announced as a whole.
    blackholes: BTreeSet<IpNet>,
    dirty: Dirty,
    /// Prefixes whose desired route is to be set.
    unsettled: BTreeSet<IpNet>,
    origins_dirty: bool,
    peers_dirty: bool,
    announced: Option<Vec<Origin>>,
    /// Peers on a link, and the links on which they were last seen.
    direct: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// Everything wanted was tried once.
    was_written: bool,
    /// Why routes are not in the kernel, of some.
    failures: BTreeMap<RouteKey, String>,
}

impl State {
    /// Nothing known yet.
    pub fn new(node: String) -> Self {
        Self {
            node,
            inputs: Inputs::default(),
            judge: Arc::default(),
            table: RouteTable::new(PROTOCOL_BGPD),
            stale: BTreeSet::new(),
            groups: HashMap::new(),
            new_groups: Vec::new(),
            next_hops: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            blackholes: BTreeSet::new(),
            dirty: Dirty { all: true, ..Dirty::default() },
            unsettled: BTreeSet::new(),
            origins_dirty: false,
            peers_dirty: false,
            announced: None,
            direct: BTreeMap::new(),
            was_written: false,
            failures: BTreeMap::new(),
        }
    }

    /// What is in the kernel under our protocol now was left by an earlier process: it stays until it is learned again or
    /// swept. Everything else of ours may be deleted from here on.
    pub fn keep_stale_routes(&mut self) {
        let left: Vec<(RouteKey, Arc<Route>)> = self.table.actual().iter().map(|(k, r)| (*k, r.clone())).collect();
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
            self.dirty.all = true;
        }
        let gateways = std::mem::take(&mut self.inputs.gateways);
        for peer in gateways.keys().filter(|p| !inputs.gateways.contains_key(p)) {
            let net = IpNet::from(*peer);
            let learned = self.shadowed.remove(&net);
            self.reach(net, learned.as_deref());
        }
        for (peer, gateway) in &inputs.gateways {
            let net = IpNet::from(*peer);
            if gateways.get(peer) != Some(gateway) {
                let before = self.reach(net, Some(&[*gateway]));
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
        let before = std::mem::replace(&mut self.judge.write().neighbours, neighbours.clone());
        if before != *neighbours {
            self.dirty.next_hops = true;
        }
    }

    /// Makes these the next hops of a prefix; those it had before.
    fn reach(&mut self, net: IpNet, gateways: Option<&[IpAddr]>) -> Option<Arc<[IpAddr]>> {
        self.stale.remove(&learned_key(net));
        let gateways = gateways.map(|g| self.join_group(g));
        let before = {
            let mut view = self.judge.write();
            match gateways {
                Some(gateways) => view.learned.insert(net, gateways),
                None => view.learned.remove(&net),
            }
        };
        if let Some(before) = &before {
            self.leave_group(before);
        }
        self.dirty.nets.insert(net);
        before
    }

    fn join_group(&mut self, gateways: &[IpAddr]) -> Arc<[IpAddr]> {
        if let Some((known, _)) = self.groups.get_key_value(gateways) {
            let known = Arc::clone(known);
            self.groups.entry(Arc::clone(&known)).or_default().routes += 1;
            return known;
        }
        let gateways: Arc<[IpAddr]> = gateways.into();
        gateways.iter().for_each(|g| *self.next_hops.entry(*g).or_default() += 1);
        self.groups.insert(Arc::clone(&gateways), Group { routes: 1, ..Group::default() });
        self.new_groups.push(Arc::clone(&gateways));
        gateways
    }

    fn leave_group(&mut self, gateways: &Arc<[IpAddr]>) {
        let Some(group) = self.groups.get_mut(gateways) else { return };
        group.routes -= 1;
        if group.routes > 0 {
            return;
        }
        self.groups.remove(gateways);
        for gateway in gateways.iter() {
            if let Some(count) = self.next_hops.get_mut(gateway) {
                *count -= 1;
                if *count == 0 {
                    self.next_hops.remove(gateway);
                }
            }
        }
    }

    /// Best routes that changed.
    pub fn learn(&mut self, batch: RouteBatch) {
        for (prefix, gateways) in batch {
            let net = prefix_net(prefix);
            if self.inputs.gateways.contains_key(&net.addr()) && net.prefix_len() == net.max_prefix_len() {
                match gateways {
                    Some(gateways) => self.shadowed.insert(net, gateways.into()),
                    None => self.shadowed.remove(&net),
                };
            } else {
                self.reach(net, gateways.as_deref());
            }
        }
    }

    /// The speaker has heard everything of these families: what is still stale in them goes.
    pub fn sweep(&mut self, heard: InSync) {
        let is_proven = |key: &RouteKey| heard.family(Family::of(key.dst.addr()));
        for key in self.stale.extract_if(.., is_proven) {
            self.dirty.nets.insert(key.dst);
        }
    }

    /// Takes a dump as the truth.
    pub fn resync(&mut self, routes: &[KernelRoute], links: Vec<Link>, addrs: Vec<Addr>) {
        self.table.resync(routes);
        let links: Links = links.into_iter().map(|l| (l.index, l)).collect();
        let addrs: BTreeSet<Addr> = addrs.into_iter().collect();
        let mut view = self.judge.write();
        let moved = view.routes.resync(routes);
        if moved.is_empty() && (&links, &addrs) == (&view.links, &view.addrs) {
            return;
        }
        self.dirty.nets.extend(moved);
        self.dirty.all |= addrs != view.addrs;
        self.dirty.next_hops = true;
        self.origins_dirty = true;
        (view.links, view.addrs) = (links, addrs);
    }

    /// Learns from one event; whether everything has to be read again: the kernel drops IPv4 routes in silence when a link or
    /// an address goes. What it drops of others' is dropped here too; only for routes of ours is it worth a dump.
    pub fn observe(&mut self, event: &Event) -> bool {
        self.table.observe(event);
        let judge = Arc::clone(&self.judge);
        let mut view = judge.write();
        match event {
            Event::RouteChanged(r) if r.route.protocol == PROTOCOL_BGPD => {}
            Event::RouteChanged(r) => {
                let seen = view.routes.changed(r);
                self.route_seen(r.key, seen);
                // Whether it came before or after a write of ours, which is not reported, only the kernel can say.
                return seen.needs_resync || self.table.desired().contains_key(&r.key);
            }
            Event::RouteRemoved(key, protocol) => {
                let seen = view.routes.removed(key, *protocol);
                self.route_seen(*key, seen);
                return seen.needs_resync;
            }
            Event::LinkChanged(link) => {
                let before = view.links.insert(link.index, link.clone());
                if before.as_ref() != Some(link) {
                    self.link_moved(link.index, &view);
                }
                // A link that was down before had no routes to lose: every new pod begins with such events. One without carrier
                // keeps them until it is set down.
                let (was_up, was_usable) = before.map_or((false, false), |b| (b.up, b.is_usable()));
                let is_set_down = was_up && !link.up;
                if is_set_down {
                    self.forget_routes(&mut view, |_, route| is_only_on(route, link.index));
                }
                if is_set_down || (was_usable && !link.is_usable()) {
                    return self.table.any_value(|route| route.links().contains(&link.index));
                }
            }
            Event::LinkRemoved(index) => {
                view.links.remove(index);
                self.link_moved(*index, &view);
                self.forget_routes(&mut view, |_, route| is_only_on(route, *index));
                return self.table.any_value(|route| route.links().contains(index));
            }
            Event::AddrAdded(addr) => {
                if view.addrs.insert(*addr) {
                    self.address_moved(addr.net.addr());
                }
            }
            Event::AddrRemoved(addr) => {
                if view.addrs.remove(addr) {
                    self.address_moved(addr.net.addr());
                    return self.address_lost(&mut view, addr);
                }
            }
            Event::Overrun => return true,
        }
        false
    }

    fn route_seen(&mut self, key: RouteKey, seen: Seen) {
        if seen.is_change {
            self.dirty.nets.insert(key.dst);
            self.origins_dirty = true;
        }
    }

    /// Next hops behind this link are reached otherwise now.
    fn link_moved(&mut self, index: u32, view: &View) {
        self.dirty.next_hops |= view.neighbours.values().any(|links| links.contains(&index));
        let by_it = view.routes.iter().filter(|(_, route)| route.links().contains(&index));
        self.dirty.nets.extend(by_it.map(|(key, _)| key.dst));
        self.origins_dirty = true;
    }

    fn address_moved(&mut self, address: IpAddr) {
        self.dirty.nets.insert(address.into());
        self.dirty.all |= self.inputs.sources.contains(&address);
        // A range around an address of ours is no blackhole.
        self.origins_dirty |= !self.inputs.services.aggregates.is_empty();
    }

    /// `fib_sync_down_addr`: IPv4 routes with this source go. `fib_disable_ip`: with the last IPv4 address of a link all of its
    /// IPv4 routes go. `rt6_remove_prefsrc`: IPv6 routes lose their source.
    fn address_lost(&mut self, view: &mut View, addr: &Addr) -> bool {
        let address = addr.net.addr();
        let is_gone = !view.is_own(address);
        let is_last = |a: &Addr| a.ifindex == addr.ifindex && a.net.addr().is_ipv4();
        let is_last = address.is_ipv4() && !view.addrs.iter().any(is_last);
        let is_hit = |key: IpAddr, route: &Route| {
            (is_gone && route.source == Some(address))
                || (is_last && key.is_ipv4() && route.links().contains(&addr.ifindex))
        };
        if address.is_ipv4() {
            self.forget_routes(view, |key, route| {
                is_hit(key.dst.addr(), route) && (route.source == Some(address) || is_only_on(route, addr.ifindex))
            });
        }
        self.table.any_value(|route| is_hit(address, route))
    }

    /// The kernel has dropped these routes of others.
    fn forget_routes(&mut self, view: &mut View, is_gone: impl Fn(&RouteKey, &Route) -> bool) {
        let gone = view.routes.forget(is_gone);
        self.origins_dirty |= !gone.is_empty();
        self.dirty.nets.extend(gone);
    }

    /// Works out the routes wanted, of a slice of what changed, and what the speaker has to be told.
    pub fn settle(&mut self) -> Actions {
        let mut actions = Actions { originate: self.changed_origins(), ..Actions::default() };
        let mut dirty = std::mem::take(&mut self.dirty);
        let new_groups = std::mem::take(&mut self.new_groups);
        if dirty.all || dirty.next_hops || self.decides_next_hops(&dirty.nets) {
            let all: Vec<Arc<[IpAddr]>> = self.groups.keys().cloned().collect();
            let moved = self.resolve_groups(all);
            let view = self.judge.read();
            dirty.nets.extend(view.around(self.next_hops.keys()));
            if dirty.all {
                let wanted = self.table.desired().keys().map(|k| k.dst);
                dirty.nets.extend(view.learned.keys().copied().chain(wanted).chain(self.blackholes.iter().copied()));
            } else if !moved.is_empty() {
                let moved: HashSet<*const IpAddr> = moved.iter().map(|group| group.as_ptr()).collect();
                let is_moved = |group: &Arc<[IpAddr]>| moved.contains(&group.as_ptr());
                dirty.nets.extend(view.learned.iter().filter(|(_, group)| is_moved(group)).map(|(net, _)| *net));
            }
            drop(view);
            actions.ask_again = self.answers_changed();
            self.peers_dirty = true;
        } else {
            self.resolve_groups(new_groups);
        }
        self.unsettled.append(&mut dirty.nets);
        let slice: Vec<IpNet> = std::iter::from_fn(|| self.unsettled.pop_first()).take(SLICE).collect();
        self.want(slice);
        if std::mem::take(&mut self.peers_dirty) {
            actions.lost = self.lost_peers();
        }
        actions
    }

    /// Whether [`State::settle`] has more to do.
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Resolves the next hops of these groups; those for which the answer is another one.
    fn resolve_groups(&mut self, groups: Vec<Arc<[IpAddr]>>) -> Vec<Arc<[IpAddr]>> {
        let view = self.judge.read();
        let sources = self.sources(&view);
        let mut resolved: HashMap<IpAddr, Vec<NextHop>> = HashMap::new();
        let mut moved = Vec::new();
        for gateways in groups {
            let Some(group) = self.groups.get_mut(&gateways) else { continue };
            let mut hops = Vec::new();
            for gateway in gateways.iter() {
                hops.extend_from_slice(resolved.entry(*gateway).or_insert_with(|| view.resolve(*gateway, None)));
            }
            let route = sources.map(|source| learned_route(&hops, source));
            if group.route != route {
                group.route = route;
                moved.push(gateways);
            }
        }
        moved
    }

    /// The preferred source of each family.
    fn sources(&self, view: &View) -> [Option<IpAddr>; 2] {
        [true, false].map(|is_v4| {
            let mut sources = self.inputs.sources.iter().copied();
            sources.find(|s| s.is_ipv4() == is_v4 && view.is_own(*s))
        })
    }

    /// What this node originates, if that is not what it was.
    fn changed_origins(&mut self) -> Option<Vec<Origin>> {
        if !std::mem::take(&mut self.origins_dirty) {
            return None;
        }
        let judge = Arc::clone(&self.judge);
        let view = judge.read();
        let now = origins(&self.node, &self.inputs.resources, &view.routes.of(PROTOCOL_FELIX), &view.links);
        let aggregates = &self.inputs.services.aggregates;
        let announced = now.iter().filter(|o| o.export).map(|o| prefix_net(o.prefix));
        // A range around an address of our own links has other hosts in it.
        let is_elsewhere = |net: &IpNet| !view.addrs.iter().any(|a| net.contains(&a.net.addr()) || a.net.contains(net));
        let blackholes: BTreeSet<IpNet> =
            announced.filter(|net| aggregates.contains(net) && is_elsewhere(net)).collect();
        self.dirty.nets.extend(blackholes.symmetric_difference(&self.blackholes));
        self.blackholes = blackholes;
        if self.announced.as_ref() == Some(&now) {
            return None;
        }
        self.announced = Some(now.clone());
        Some(now)
    }

    /// Writes some of what differs: nothing is left to write now once this is idle.
    pub async fn apply(&mut self, kernel: &dyn Kernel, now: Instant) -> Applied {
        let applied = self.table.apply_some(kernel, now).await;
        for (key, error) in &applied.failures {
            let reason = sentence(error);
            if self.failures.get(key) == Some(&reason) {
                continue;
            }
            if self.failures.len() < LISTED || self.failures.contains_key(key) {
                tracing::warn!(route = %key, "a learned route is not in the kernel: {reason}");
                self.failures.insert(*key, reason);
            } else {
                tracing::debug!(route = %key, "a learned route is not in the kernel: {reason}");
            }
        }
        self.failures.retain(|key, _| self.table.has_failed(key));
        self.was_written |= applied.is_idle() && self.is_settled() && self.announced.is_some();
        applied
    }

    /// When a failed route is due again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// The speaker's judgement on next hops.
    pub fn resolver(&self) -> Resolver {
        let judgement = Judgement::new(&self.judge);
        Arc::new(move |addr| judgement.answer(addr))
    }

    /// How many routes failed and are tried again.
    pub fn failed(&self) -> usize {
        self.table.failed()
    }

    /// For the status socket.
    pub fn status(&self) -> Status {
        let failures = self.failures.iter().map(|(key, reason)| Failure { prefix: key.dst, reason: reason.clone() });
        Status {
            ready: self.was_written,
            routes: self.table.desired().len(),
            stale: self.stale.len(),
            failed: self.table.failed(),
            failures: failures.collect(),
        }
    }

    fn decides_next_hops(&self, nets: &BTreeSet<IpNet>) -> bool {
        let asked = self.judge.asked();
        nets.iter().any(|net| {
            let inside = net.network()..=net.broadcast();
            self.next_hops.range(inside.clone()).next().is_some()
                || asked.any_in(inside.clone())
                || self.inputs.peers.range(inside).next().is_some()
        })
    }

    /// Sets the desired route of each of these prefixes.
    fn want(&mut self, nets: Vec<IpNet>) {
        let judge = Arc::clone(&self.judge);
        let view = judge.read();
        let sources = self.sources(&view);
        for net in nets {
            let key = learned_key(net);
            if self.blackholes.contains(&net) {
                self.stale.remove(&key);
                self.table.insert(key, Route::new(Target::Blackhole, PROTOCOL_BGPD));
                continue;
            }
            let is_ours = view.is_served_here(net) || self.inputs.services.own.iter().any(|r| r.contains(&net));
            let gateways = view.learned.get(&net).filter(|_| !is_ours);
            let family = usize::from(!net.addr().is_ipv4());
            let route = gateways.and_then(|gateways| {
                // Only a route that covers a next hop can be part of its own resolution.
                match self.next_hops.range(net.network()..=net.broadcast()).next() {
                    Some(_) => {
                        let hops: Vec<NextHop> = gateways.iter().flat_map(|g| view.resolve(*g, Some(net))).collect();
                        learned_route(&hops, sources[family])
                    }
                    None => self.groups.get(gateways)?.route[family].clone(),
                }
            });
            match route {
                Some(route) => self.table.insert(key, route),
                None if self.stale.contains(&key) => {}
                None => self.table.remove(&key),
            }
        }
    }

    fn answers_changed(&self) -> bool {
        let view = self.judge.read();
        let asked = self.judge.asked();
        asked.has_more || asked.answers.iter().any(|(addr, answer)| view.distance(*addr) != *answer)
    }

    /// Peers that were on a link and whose every such link is down or gone; each once.
    fn lost_peers(&mut self) -> Vec<IpAddr> {
        let view = self.judge.read();
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

/// A learned route by these next hops; `None` without any.
fn learned_route(hops: &[NextHop], source: Option<IpAddr>) -> Option<Arc<Route>> {
    let (_, target) = (hops.first()?, Target::Gateways(hops.to_vec()));
    Some(Arc::new(Route { source, ..Route::new(target, PROTOCOL_BGPD) }))
}

/// Whether all its next hops are on this link.
fn is_only_on(route: &Route, index: u32) -> bool {
    let links = route.links();
    !links.is_empty() && links.iter().all(|link| *link == index)
}

fn prefix_net(prefix: Prefix) -> IpNet {
    IpNet::new(prefix.address(), prefix.len()).expect("a prefix's length fits its family")
}

fn learned_key(net: IpNet) -> RouteKey {
    RouteKey::new(net, PRIORITY_LEARNED)
}

#[cfg(test)]
mod tests;
