//! Routes for display, in slices: a table of a million routes is shown without stopping anybody for long.
//!
//! A [`Cursor`] is an entry number, so what changes between two slices may be shown as it was or as it is, and a prefix whose
//! entry came to be used for another one meanwhile may be missed; whatever stays is shown once.

use std::net::IpAddr;

use super::group::Groups;
use super::import::has_community;
use super::{AttrId, LOCAL, PeerIndex, Rib, Shared, Stale, Table};
use crate::af::{Family, Key, Prefix};
use crate::policy::Community;
use crate::wire::attribute::Attributes;

/// A path for display.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    pub prefix: Prefix,
    /// From [`Rib::advertised`]: what is sent, next hop and all.
    pub attributes: Attributes,
    /// `None`: a route of our own.
    pub peer: Option<IpAddr>,
    /// The same, where peers share an address; [`LOCAL`] for our own.
    pub peer_index: PeerIndex,
    /// As received (RFC 7911); 0 from peers without.
    pub path_id: u32,
    pub best: bool,
    pub stale: bool,
    /// Loop checks and import policy let it pass.
    pub accepted: bool,
}

/// Which routes to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The multipath sets.
    Best,
    /// All paths of a peer, or of all, as received.
    Received(Option<PeerIndex>),
    /// What a peer was told, as the table holds it: see [`Rib::advertised`].
    Advertised(PeerIndex),
}

/// Which of them; an absent condition holds for every route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    pub prefix: Option<PrefixFilter>,
    /// Where the path came from.
    pub from: Option<PeerIndex>,
    /// Carried, all of them.
    pub communities: Vec<Community>,
}

/// A condition on the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixFilter {
    Exact(Prefix),
    /// It and what lies inside it.
    Longer(Prefix),
    /// It and what it lies inside of.
    Covering(Prefix),
}

impl PrefixFilter {
    fn takes(self, prefix: Prefix) -> bool {
        match self {
            PrefixFilter::Exact(p) => p == prefix,
            PrefixFilter::Longer(p) => p.contains(prefix),
            PrefixFilter::Covering(p) => prefix.contains(p),
        }
    }

    /// The only prefixes it can take, where they are few.
    fn candidates(self) -> Option<Vec<Prefix>> {
        match self {
            PrefixFilter::Exact(p) => Some(vec![p]),
            PrefixFilter::Covering(p) => Some((0..=p.len()).filter_map(|len| Prefix::new(p.address(), len)).collect()),
            PrefixFilter::Longer(_) => None,
        }
    }
}

/// Where the next slice begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    family: Family,
    at: u32,
}

impl Cursor {
    pub const START: Cursor = Cursor { family: Family::Ipv4, at: 0 };
}

impl Rib {
    /// Prefixes that have a path, and paths, of a family.
    pub fn size(&self, family: Family) -> (u32, u32) {
        let prefixes = match family {
            Family::Ipv4 => self.v4.prefix_count(),
            Family::Ipv6 => self.v6.prefix_count(),
        };
        let learned: u32 = self.shared.peers.iter().flatten().map(|s| s.received[family as usize]).sum();
        let own = self.shared.origins.keys().filter(|p| p.family() == family).count();
        (prefixes, learned + own as u32)
    }

    /// What a peer is told, as it is sent; as [`Rib::routes`].
    pub fn advertised(
        &mut self,
        peer: PeerIndex,
        filter: &RouteFilter,
        from: Cursor,
        steps: u32,
    ) -> (Vec<RouteInfo>, Option<Cursor>) {
        let (mut routes, next) = self.routes(View::Advertised(peer), filter, from, steps);
        // What is to be withdrawn at the next flush is not advertised any more.
        routes.retain_mut(|r| self.sent(peer, r.prefix, r.peer, r.path_id).map(|a| r.attributes = a).is_some());
        (routes, next)
    }

    /// Routes for display, from the entries that `steps` looks at, and where to go on; `None`: that was all.
    pub fn routes(
        &self,
        view: View,
        filter: &RouteFilter,
        from: Cursor,
        steps: u32,
    ) -> (Vec<RouteInfo>, Option<Cursor>) {
        let mut routes = Vec::new();
        if let Some(prefixes) = filter.prefix.and_then(PrefixFilter::candidates) {
            for prefix in prefixes {
                match prefix.family() {
                    Family::Ipv4 => one(&self.v4, &self.scan(Family::Ipv4, view, filter), prefix, &mut routes),
                    Family::Ipv6 => one(&self.v6, &self.scan(Family::Ipv6, view, filter), prefix, &mut routes),
                }
            }
            return (routes, None);
        }
        let next = match from.family {
            Family::Ipv4 => slice(&self.v4, &self.scan(Family::Ipv4, view, filter), from.at, steps, &mut routes)
                .or(Some(Cursor { family: Family::Ipv6, at: 0 })),
            Family::Ipv6 => slice(&self.v6, &self.scan(Family::Ipv6, view, filter), from.at, steps, &mut routes),
        };
        (routes, next)
    }

    fn scan<'a>(&'a self, family: Family, view: View, filter: &'a RouteFilter) -> Scan<'a> {
        Scan { shared: &self.shared, out: &self.out[family as usize], view, filter }
    }
}

/// What is looked for, and where.
struct Scan<'a> {
    shared: &'a Shared,
    out: &'a Groups,
    view: View,
    filter: &'a RouteFilter,
}

/// Appends the routes of one prefix.
fn one<K: Key>(table: &Table<K>, scan: &Scan, prefix: Prefix, routes: &mut Vec<RouteInfo>) {
    if let Some(at) = K::from_prefix(prefix).and_then(|k| table.find(k)) {
        entry(table, scan, at, routes);
    }
}

/// Appends the routes of `steps` entries; where to go on in this family.
fn slice<K: Key>(table: &Table<K>, scan: &Scan, from: u32, steps: u32, routes: &mut Vec<RouteInfo>) -> Option<Cursor> {
    let all = table.entries().len() as u32;
    let end = all.min(from.saturating_add(steps));
    (from..end).for_each(|at| entry(table, scan, at, routes));
    (end < all).then_some(Cursor { family: K::FAMILY, at: end })
}

fn entry<K: Key>(table: &Table<K>, scan: &Scan, at: u32, routes: &mut Vec<RouteInfo>) {
    let &Scan { shared, out, view, filter } = scan;
    let entry = &table.entries()[at as usize];
    let prefix = entry.key.prefix();
    if !filter.prefix.is_none_or(|f| f.takes(prefix)) {
        return;
    }
    let best = entry.multipath().len();
    for (i, path) in entry.paths().iter().enumerate() {
        let (shown, id) = match view {
            View::Best => (i < best, path.used),
            View::Received(peer) => (path.peer != LOCAL && peer.is_none_or(|p| p == path.peer), path.received),
            // What import has turned down since is to be withdrawn.
            View::Advertised(peer) => {
                let is_told = out.is_told_path(peer, at, path, i == 0 && best > 0);
                (is_told && path.used != AttrId::NONE, path.used)
            }
        };
        if !shown || filter.from.is_some_and(|p| p != path.peer) {
            continue;
        }
        let attributes = &shared.attrs.get(id).attributes;
        if filter.communities.iter().all(|&c| has_community(attributes, c)) {
            routes.push(RouteInfo {
                prefix,
                attributes: attributes.clone(),
                peer: shared.peer(path.peer).map(|p| p.address),
                peer_index: path.peer,
                path_id: path.id,
                best: i < best,
                stale: path.stale != Stale::No,
                accepted: path.used != AttrId::NONE,
            });
        }
    }
}
