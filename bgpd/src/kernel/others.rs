//! The kernel's routes of others, as dumps and events show them.
//!
//! The kernel may have several routes of one key: those of two interfaces in one subnet, or the next hops of an IPv6 route. An
//! event of one that goes does not say which of them it was, and one that comes after a dump may be older than it. So wherever
//! a key has, or has had, several, only another dump tells what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fib::{KernelRoute, Lookup, PROTOCOL_BGPD, Route, RouteKey, Routes, Target};
use ipnet::IpNet;

/// Never an empty list; in the kernel's order.
type Lists = BTreeMap<RouteKey, Vec<Arc<Route>>>;

/// Routes of every protocol but 202. Those to link-local IPv6 addresses are left out: each link has the same one, and none of
/// them says where a neighbour is.
#[derive(Debug, Default)]
pub struct Others {
    routes: Lists,
    /// Keys that have had several routes or next hops since they were last absent from a dump.
    several: BTreeSet<RouteKey>,
}

/// What an event did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub is_change: bool,
    /// What the key has now, only a dump can say.
    pub needs_resync: bool,
}

impl Others {
    /// Takes a dump as the truth; the prefixes for which it has something else.
    pub fn resync(&mut self, dump: &[KernelRoute]) -> BTreeSet<IpNet> {
        let before = std::mem::take(&mut self.routes);
        for r in dump.iter().filter(|r| is_others(r)) {
            self.routes.entry(r.key).or_default().push(r.route.clone());
        }
        self.several.retain(|key| self.routes.contains_key(key));
        self.several.extend(self.routes.iter().filter(|(key, list)| is_several(key, list)).map(|(key, _)| *key));
        let moved = |now: &Lists, then: &Lists| {
            let differs = now.iter().filter(|(key, list)| then.get(key) != Some(list));
            differs.map(|(key, _)| key.dst).collect::<BTreeSet<IpNet>>()
        };
        &moved(&self.routes, &before) | &moved(&before, &self.routes)
    }

    /// A route came, or replaced another one.
    pub fn changed(&mut self, event: &KernelRoute) -> Seen {
        if !is_others(event) {
            return Seen::default();
        }
        let list = self.routes.entry(event.key).or_default();
        let seen = match (&list[..], event.is_beside) {
            ([], _) => Seen { is_change: true, needs_resync: false },
            ([one], _) if *one == event.route => return Seen::default(),
            ([_], false) => {
                list.clear();
                Seen { is_change: true, needs_resync: false }
            }
            (all, true) if all.contains(&event.route) => return Seen::default(),
            (_, true) => Seen { is_change: true, needs_resync: true },
            // Nobody knows which one it replaced.
            (_, false) => return Seen { is_change: false, needs_resync: true },
        };
        list.push(event.route.clone());
        if is_several(&event.key, list) {
            self.several.insert(event.key);
        }
        seen
    }

    /// A route of this key and protocol went, or one of its next hops.
    pub fn removed(&mut self, key: &RouteKey, protocol: u8) -> Seen {
        if self.routes.get(key).is_none_or(|list| list.iter().all(|r| r.protocol != protocol)) {
            return Seen::default();
        }
        if self.several.contains(key) {
            return Seen { is_change: false, needs_resync: true };
        }
        self.routes.remove(key);
        Seen { is_change: true, needs_resync: false }
    }

    /// The kernel has dropped these; their prefixes.
    pub fn forget(&mut self, is_gone: impl Fn(&RouteKey, &Route) -> bool) -> Vec<IpNet> {
        let mut gone = Vec::new();
        self.routes.retain(|key, list| {
            let before = list.len();
            list.retain(|route| !is_gone(key, route));
            if list.len() < before {
                gone.push(key.dst);
            }
            !list.is_empty()
        });
        gone
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RouteKey, &Arc<Route>)> {
        self.routes.iter().flat_map(|(key, list)| list.iter().map(move |route| (key, route)))
    }

    /// Those of one protocol that gives each key one route.
    pub fn of(&self, protocol: u8) -> Routes {
        self.iter().filter(|(_, r)| r.protocol == protocol).map(|(key, route)| (*key, route.clone())).collect()
    }
}

impl Lookup for Others {
    fn routes_to(&self, prefix: IpNet) -> impl Iterator<Item = &Route> {
        self.routes.range(RouteKey::all_of(prefix)).flat_map(|(_, list)| list.iter().map(|route| &**route))
    }
}

fn is_others(r: &KernelRoute) -> bool {
    let is_link_local = matches!(r.key.dst.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    r.route.protocol != PROTOCOL_BGPD && !is_link_local
}

/// The kernel makes and deletes next hops of an IPv6 route one by one.
fn is_several(key: &RouteKey, list: &[Arc<Route>]) -> bool {
    let has_parts = |route: &Route| match &route.target {
        Target::Gateways(hops) => hops.len() > 1,
        Target::Other => true,
        Target::Link { .. } | Target::Blackhole => false,
    };
    list.len() > 1 || (!key.dst.addr().is_ipv4() && list.iter().any(|route| has_parts(route)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fib::NextHop;

    const STATIC: u8 = 4;

    type Known<'a> = &'a [Arc<Route>];

    fn key(dst: &str) -> RouteKey {
        RouteKey::new(dst.parse().unwrap(), 0)
    }

    fn on(ifindex: u32) -> Arc<Route> {
        Route::new(Target::Link { ifindex }, STATIC).into()
    }

    fn by(links: &[u32]) -> Arc<Route> {
        let via = "2001:db8::1".parse().unwrap();
        let hops = links.iter().map(|&ifindex| NextHop { via, ifindex, onlink: false });
        Route::new(Target::Gateways(hops.collect()), STATIC).into()
    }

    fn route(dst: &str, route: &Arc<Route>, is_beside: bool) -> KernelRoute {
        KernelRoute { key: key(dst), route: route.clone(), is_beside }
    }

    const NOTHING: Seen = Seen { is_change: false, needs_resync: false };
    const CHANGE: Seen = Seen { is_change: true, needs_resync: false };
    const RESYNC: Seen = Seen { is_change: false, needs_resync: true };

    #[test]
    fn a_route_that_comes_takes_the_place_of_one_or_stands_beside_it() {
        let rows: [(&str, Known<'_>, bool, Seen, Known<'_>); 8] = [
            ("the first", &[], false, CHANGE, &[on(1)]),
            ("the first, however it was added", &[], true, CHANGE, &[on(1)]),
            ("the same again", &[on(1)], true, NOTHING, &[on(1)]),
            ("it replaces another one", &[on(2)], false, CHANGE, &[on(1)]),
            (
                "the order is the kernel's",
                &[on(2)],
                true,
                Seen { is_change: true, needs_resync: true },
                &[on(2), on(1)],
            ),
            ("one that is known beside another", &[on(2), on(1)], true, NOTHING, &[on(2), on(1)]),
            ("it replaces one of two", &[on(2), on(3)], false, RESYNC, &[on(2), on(3)]),
            (
                "a third one",
                &[on(2), on(3)],
                true,
                Seen { is_change: true, needs_resync: true },
                &[on(2), on(3), on(1)],
            ),
        ];
        for (name, before, is_beside, seen, after) in rows {
            let mut others = Others::default();
            let dump: Vec<KernelRoute> = before.iter().map(|r| route("192.0.2.0/24", r, false)).collect();
            others.resync(&dump);
            assert_eq!(others.changed(&route("192.0.2.0/24", &on(1), is_beside)), seen, "{name}");
            assert_eq!(others.iter().map(|(_, r)| r.clone()).collect::<Vec<_>>(), after, "{name}");
        }
    }

    #[test]
    fn one_of_several_that_goes_is_known_by_a_dump_only() {
        let (v4, v6) = ("192.0.2.0/24", "2001:db8::/64");
        let rows: [(&str, &str, Known<'_>, u8, Seen); 6] = [
            ("the only one", v4, &[on(1)], STATIC, CHANGE),
            ("of somebody else", v4, &[on(1)], STATIC + 1, NOTHING),
            ("one of two", v4, &[on(1), on(2)], STATIC, RESYNC),
            ("IPv4 routes go with all their next hops", v4, &[by(&[1, 2])], STATIC, CHANGE),
            ("IPv6 routes lose next hops one by one", v6, &[by(&[1, 2])], STATIC, RESYNC),
            ("an IPv6 route by one next hop", v6, &[by(&[1])], STATIC, CHANGE),
        ];
        for (name, dst, before, protocol, seen) in rows {
            let mut others = Others::default();
            let dump: Vec<KernelRoute> = before.iter().map(|r| route(dst, r, false)).collect();
            others.resync(&dump);
            assert_eq!(others.removed(&key(dst), protocol), seen, "{name}");
            let left = if seen == CHANGE { 0 } else { before.len() };
            assert_eq!(others.iter().count(), left, "{name}");
        }
    }

    #[test]
    fn news_that_is_older_than_the_dump_removes_nothing() {
        let mut others = Others::default();
        let both = [route("192.0.2.0/24", &on(1), false), route("192.0.2.0/24", &on(2), false)];
        others.resync(&both);
        assert_eq!(others.resync(&both[..1]), [key("192.0.2.0/24").dst].into());
        assert_eq!(others.removed(&key("192.0.2.0/24"), STATIC), RESYNC, "it is about the other one");
        assert_eq!(others.resync(&both[..1]), BTreeSet::new());
        others.resync(&[]);
        others.resync(&both[..1]);
        assert_eq!(others.removed(&key("192.0.2.0/24"), STATIC), CHANGE, "it was gone in between");
    }

    #[test]
    fn routes_to_link_local_addresses_and_learned_ones_are_none_of_them() {
        let mut others = Others::default();
        let learned: Arc<Route> = Route::new(Target::Blackhole, PROTOCOL_BGPD).into();
        for r in [route("fe80::/64", &on(1), false), route("192.0.2.0/24", &learned, false)] {
            assert_eq!(others.changed(&r), NOTHING);
            assert_eq!(others.resync(std::slice::from_ref(&r)), BTreeSet::new());
            assert_eq!(others.removed(&r.key, r.route.protocol), NOTHING);
        }
    }
}
