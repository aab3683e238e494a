//! By which next hops an address is reached: longest prefix first, recursively.

use std::collections::BTreeMap;
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

/// How many routes one address may be resolved through.
const MAX_DEPTH: usize = 8;
/// How many addresses are looked up for one: routes with several next hops each, nested, could be walked without end.
const MAX_STEPS: usize = 256;

/// The next hops by which `addr` is reached over `routes`; empty when it is not.
///
/// The longest prefix with a usable next hop decides, and of equal ones the lowest priority. A blackhole there makes the
/// address unreachable. Next hops over links that are absent or down are skipped.
pub fn resolve(routes: &Routes, links: &Links, addr: IpAddr) -> Vec<NextHop> {
    Resolver { routes, links, recursive: &BTreeMap::new() }.resolve(addr, None)
}

/// Kernel routes, links, and recursive routes beside them.
#[derive(Clone, Copy, Debug)]
pub struct Resolver<'a> {
    /// Routes whose next hops are taken as they are.
    pub routes: &'a Routes,
    pub links: &'a Links,
    /// Routes whose next hops are resolved in turn. One loses against a kernel route of the same prefix.
    pub recursive: &'a Recursive,
}

impl Resolver<'_> {
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
        for len in (0..=if addr.is_ipv4() { 32 } else { 128 }).rev() {
            let Ok(prefix) = IpNet::new(addr, len) else { continue };
            let prefix = prefix.trunc();
            let at = RouteKey { dst: prefix, priority: 0 }..=RouteKey { dst: prefix, priority: u32::MAX };
            for (_, route) in self.routes.range(at) {
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
        let usable = |ifindex: &u32| self.links.get(ifindex).is_some_and(Link::is_usable);
        match &route.target {
            Target::Blackhole | Target::Other => None,
            Target::Link { ifindex } => {
                // A host route says that this address is on the link, though no subnet there contains it.
                let onlink = len == if addr.is_ipv4() { 32 } else { 128 };
                let hop = NextHop { via: addr, ifindex: *ifindex, onlink };
                Some(if usable(ifindex) { vec![hop] } else { Vec::new() })
            }
            Target::Gateways(hops) => Some(hops.iter().filter(|h| usable(&h.ifindex)).copied().collect()),
        }
    }
}

#[cfg(test)]
mod tests;
