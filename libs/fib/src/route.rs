//! Routes of the main table: key, target, ownership.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

/// The protocol number of felix's routes: no other program's (`/etc/iproute2/rt_protos`).
pub const PROTOCOL_FELIX: u8 = 201;
/// The protocol number of the routes that bgpd learned.
pub const PROTOCOL_BGPD: u8 = 202;

/// Priority (metric) of what this node serves itself: workloads, blocks, services. Calico's normal priority.
pub const PRIORITY_LOCAL: u32 = 1024;
/// Priority of routes learned by BGP: they lose against what this node serves itself and win against
/// [`PRIORITY_BORROWED`].
pub const PRIORITY_LEARNED: u32 = 1536;
/// Priority of felix's routes to borrowed addresses on other nodes: used only while BGP teaches no better one.
pub const PRIORITY_BORROWED: u32 = 2048;

/// What identifies a route of the main table. The kernel replaces a route of the same key, whoever owns it.
/// Ordered by prefix, then by priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Masked.
    pub dst: IpNet,
    /// The metric; the lowest is used. IPv6 has no 0: the kernel makes it 1024.
    pub priority: u32,
}

impl RouteKey {
    /// The key of `dst` (masked here) at `priority`.
    pub fn new(dst: IpNet, priority: u32) -> Self {
        Self { dst: dst.trunc(), priority }
    }

    /// The keys of this prefix (masked), whatever their priority.
    pub fn all_of(dst: IpNet) -> RangeInclusive<Self> {
        Self { dst, priority: 0 }..=Self { dst, priority: u32::MAX }
    }
}

impl Ord for RouteKey {
    /// IPv4 keys as one number each: most of the time that a large table takes goes into comparing them.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.dst, &other.dst) {
            (IpNet::V4(a), IpNet::V4(b)) => {
                let place = |net: &Ipv4Net| u64::from(net.addr().to_bits()) << 8 | u64::from(net.prefix_len());
                place(a).cmp(&place(b)).then(self.priority.cmp(&other.priority))
            }
            (a, b) => a.cmp(b).then(self.priority.cmp(&other.priority)),
        }
    }
}

impl PartialOrd for RouteKey {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for RouteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} metric {}", self.dst, self.priority)
    }
}

/// A gateway on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Of either family: an IPv4 route may go by an IPv6 gateway (RFC 8950).
    pub via: IpAddr,
    pub ifindex: u32,
    /// The gateway is taken to be on the link, whatever the addresses there say.
    pub onlink: bool,
}

/// Where a route's packets go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Blackhole,
    /// Directly on a link (scope link), without a gateway.
    Link {
        ifindex: u32,
    },
    /// One gateway, or several with equal cost; sorted, without duplicates, never empty.
    Gateways(Vec<NextHop>),
    /// Something that we read and never write (unreachable, prohibit, next-hop objects, gateways mixed with links).
    Other,
}

/// The value of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub target: Target,
    /// The owner.
    pub protocol: u8,
    /// The preferred source address of what this host sends.
    pub source: Option<IpAddr>,
}

impl Route {
    /// A route without a source address, in normal form.
    pub fn new(target: Target, protocol: u8) -> Self {
        Self { target, protocol, source: None }.normal()
    }

    /// The same route with its next hops sorted and without duplicates: the kernel keeps IPv6 ones in no order.
    pub fn normal(mut self) -> Self {
        if let Target::Gateways(hops) = &mut self.target {
            hops.sort_unstable();
            hops.dedup();
        }
        self
    }

    /// Whether [`Route::normal`] changes nothing.
    pub fn is_normal(&self) -> bool {
        match &self.target {
            Target::Gateways(hops) => hops.is_sorted_by(|a, b| a < b),
            _ => true,
        }
    }

    /// The links that the route needs.
    pub fn links(&self) -> Vec<u32> {
        match &self.target {
            Target::Link { ifindex } => vec![*ifindex],
            Target::Gateways(hops) => hops.iter().map(|h| h.ifindex).collect(),
            Target::Blackhole | Target::Other => Vec::new(),
        }
    }
}

/// Equal routes as one: a million prefixes have few different values.
#[derive(Debug, Default)]
pub struct Shared(HashSet<Arc<Route>>);

impl Shared {
    /// The one that stands for all its equals.
    pub fn share(&mut self, route: Arc<Route>) -> Arc<Route> {
        match self.0.get(&*route) {
            Some(known) => Arc::clone(known),
            None => {
                self.0.insert(Arc::clone(&route));
                route
            }
        }
    }

    /// Whether one that somebody has is such.
    pub fn any(&self, mut is_such: impl FnMut(&Route) -> bool) -> bool {
        self.0.iter().any(|route| Arc::strong_count(route) > 1 && is_such(route))
    }

    /// Lets go of what nobody else has.
    pub fn forget_unused(&mut self) {
        self.0.retain(|route| Arc::strong_count(route) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_prefixes_and_then_of_priorities() {
        let nets = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "255.0.0.0/8", "::/0", "2001:db8::/32"];
        let keys: Vec<RouteKey> = nets
            .iter()
            .flat_map(|net| [0, 1024, u32::MAX].map(|priority| RouteKey::new(net.parse().unwrap(), priority)))
            .collect();
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a}, {b}");
                assert_eq!(a.cmp(b), (a.dst, a.priority).cmp(&(b.dst, b.priority)), "as IpNet has it");
            }
        }
    }
}
