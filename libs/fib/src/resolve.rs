//! By which next hops an address is reached: longest prefix first, recursively.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::kernel::Link;
use crate::route::{NextHop, Route, RouteKey, Target};

/// Routes by key, as a dump gives them.
pub type Routes = BTreeMap<RouteKey, Arc<Route>>;
/// Links by index.
pub type Links = BTreeMap<u32, Link>;
/// Routes that are not in the kernel in this form: a prefix and the addresses by which it is reached, themselves to be
/// resolved (BGP next hops).
pub type Recursive = BTreeMap<IpNet, Arc<[IpAddr]>>;
/// Link-local addresses of neighbours, and the links they are on: no route says so.
pub type Neighbours = BTreeMap<IpAddr, BTreeSet<u32>>;

/// How many routes one address may be resolved through.
const MAX_DEPTH: usize = 8;
/// How many addresses are looked up for one: routes with several next hops each, nested, could be walked without end.
const MAX_STEPS: usize = 256;

/// The next hops by which `addr` is reached over `routes`; empty when it is not.
///
/// The longest prefix with a usable next hop decides, and of equal ones the lowest priority. A blackhole there makes the
/// address unreachable. Next hops over links that are absent or down are skipped.
pub fn resolve(routes: &Routes, links: &Links, addr: IpAddr) -> Vec<NextHop> {
    Resolver { routes, links, neighbours: &BTreeMap::new(), recursive: &BTreeMap::new() }.resolve(addr, None)
}

/// Kernel routes by prefix.
pub trait Lookup {
    /// The routes to exactly this prefix, the one that the kernel prefers first. Several may have one priority.
    fn routes_to(&self, prefix: IpNet) -> impl Iterator<Item = &Route>;
}

impl Lookup for Routes {
    fn routes_to(&self, prefix: IpNet) -> impl Iterator<Item = &Route> {
        self.range(RouteKey::all_of(prefix)).map(|(_, route)| &**route)
    }
}

/// Kernel routes, links, and recursive routes beside them.
#[derive(Debug)]
pub struct Resolver<'a, R> {
    /// Routes whose next hops are taken as they are.
    pub routes: &'a R,
    pub links: &'a Links,
    /// By which alone a link-local IPv6 address is reached: every link has the same route to all of them.
    pub neighbours: &'a Neighbours,
    /// Routes whose next hops are resolved in turn. One loses against a kernel route of the same prefix.
    pub recursive: &'a Recursive,
}

impl<R: Lookup> Resolver<'_, R> {
    /// The next hops by which `addr` is reached, sorted; empty when it is not.
    ///
    /// `through` is the prefix for which this is asked: a route does not resolve through itself, directly or by others
    /// (RFC 4271 section 9.1.2.1).
    pub fn resolve(&self, addr: IpAddr, through: Option<IpNet>) -> Vec<NextHop> {
        let mut passed: Vec<IpNet> = through.into_iter().collect();
        let mut steps = MAX_STEPS;
        let mut hops = self.step(addr, &mut passed, &mut steps);
        hops.sort_unstable();
        hops.dedup();
        hops
    }

    fn step(&self, addr: IpAddr, passed: &mut Vec<IpNet>, steps: &mut usize) -> Vec<NextHop> {
        if passed.len() > MAX_DEPTH || *steps == 0 {
            return Vec::new();
        }
        *steps -= 1;
        if matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            let links = self.neighbours.get(&addr).into_iter().flatten();
            let usable = links.filter(|link| self.is_usable(link));
            return usable.map(|link| NextHop { via: addr, ifindex: *link, onlink: false }).collect();
        }
        for len in (0..=if addr.is_ipv4() { 32 } else { 128 }).rev() {
            let Ok(prefix) = IpNet::new(addr, len) else { continue };
            let prefix = prefix.trunc();
            for route in self.routes.routes_to(prefix) {
                match self.by_route(route, addr, len) {
                    Some(hops) if hops.is_empty() => {}
                    Some(hops) => return hops,
                    None => return Vec::new(),
                }
            }
            if passed.contains(&prefix) {
                continue;
            }
            if let Some(gateways) = self.recursive.get(&prefix) {
                passed.push(prefix);
                let hops: Vec<NextHop> = gateways.iter().flat_map(|g| self.step(*g, passed, steps)).collect();
                passed.pop();
                if !hops.is_empty() {
                    return hops;
                }
            }
        }
        Vec::new()
    }

    /// The usable next hops of a kernel route to `addr`; `None` when it drops what it matches.
    fn by_route(&self, route: &Route, addr: IpAddr, len: u8) -> Option<Vec<NextHop>> {
        match &route.target {
            Target::Blackhole | Target::Other => None,
            Target::Link { ifindex } => {
                // A host route says that this address is on the link, though no subnet there contains it.
                let onlink = len == if addr.is_ipv4() { 32 } else { 128 };
                let hop = NextHop { via: addr, ifindex: *ifindex, onlink };
                Some(if self.is_usable(ifindex) { vec![hop] } else { Vec::new() })
            }
            Target::Gateways(hops) => Some(hops.iter().filter(|h| self.is_usable(&h.ifindex)).copied().collect()),
        }
    }

    fn is_usable(&self, ifindex: &u32) -> bool {
        self.links.get(ifindex).is_some_and(Link::is_usable)
    }
}

#[cfg(test)]
mod tests;
