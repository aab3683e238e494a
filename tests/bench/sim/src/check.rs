//! Compares what the speakers have with what the model says, when all is quiet.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;

use bgp_proto::rib::{Cursor, RouteFilter, RouteInfo, View};

use crate::model::{Model, Path};
use crate::speaker::Speaker;
use crate::topology::{Node, address, prefix_number};
use crate::world::World;

/// Entries of a table looked at together.
const STEPS: u32 = 4096;
/// Differences that are described; the others are counted.
const DESCRIBED: usize = 10;

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Loc-RIB entries.
    pub entries: u64,
    /// Paths of Adj-RIBs-In.
    pub paths: u64,
    pub wrong: u64,
    /// The first of them in words.
    pub differences: Vec<String>,
}

impl Verdict {
    fn differs(&mut self, what: impl FnOnce(&mut String)) {
        self.wrong += 1;
        if self.differences.len() < DESCRIBED {
            let mut text = String::new();
            what(&mut text);
            self.differences.push(text);
        }
    }
}

/// What the network is when all is quiet.
struct Expected<'a> {
    model: Model<'a>,
    /// Of each prefix: its group.
    group_of: Vec<usize>,
    /// Of each group: the best path of every speaker.
    best: Vec<Vec<Option<Path>>>,
}

/// Compares every Loc-RIB and every Adj-RIB-In, path by path; none may be stale.
pub fn check(world: &World) -> Verdict {
    let t = &world.topology;
    let is_alive = |node: Node| world.speakers[node as usize].is_some();
    let up: Vec<bool> = (0..t.links.len()).map(|l| world.is_up(l as u32)).collect();
    let is_up = |link| up[link as usize];
    let model = Model::new(t, &is_alive, &is_up);
    let best = t.groups.iter().map(|g| model.best(g)).collect();
    let mut group_of = vec![0; t.groups.last().map_or(0, |g| g.prefixes.end) as usize];
    for (i, g) in t.groups.iter().enumerate() {
        group_of[g.prefixes.start as usize..g.prefixes.end as usize].fill(i);
    }
    let expected = Expected { model, group_of, best };
    let mut verdict = Verdict::default();
    for (node, speaker) in (0..).zip(&world.speakers) {
        if let Some(speaker) = speaker {
            loc_rib(&expected, node, speaker, &mut verdict);
            adj_ribs_in(world, &expected, node, speaker, &mut verdict);
        }
    }
    verdict
}

/// Hands every route of a view to `each`, with the number of its prefix.
fn for_each_route(speaker: &Speaker, view: View, mut each: impl FnMut(usize, &RouteInfo)) {
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let (routes, rest) = speaker.rib.routes(view, &RouteFilter::default(), from, STEPS);
        next = rest;
        for route in &routes {
            if let IpAddr::V4(network) = route.prefix.address() {
                each(prefix_number(network) as usize, route);
            }
        }
    }
}

fn loc_rib(expected: &Expected<'_>, node: Node, speaker: &Speaker, verdict: &mut Verdict) {
    let mut seen = vec![false; expected.group_of.len()];
    for_each_route(speaker, View::Best, |number, route| {
        // The best of a multipath set comes first.
        if seen.get_mut(number).is_some_and(|seen| std::mem::replace(seen, true)) {
            return;
        }
        verdict.entries += 1;
        let path = expected.group_of.get(number).and_then(|&g| expected.best[g][node as usize].as_ref());
        if !path.is_some_and(|path| is_it(path, route)) {
            verdict.differs(|text| describe(text, "best path", node, route, path));
        }
    });
    for (number, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        if let Some(path) = &expected.best[expected.group_of[number]][node as usize] {
            verdict.differs(|text| {
                let _ = write!(text, "{} lacks prefix {number}: {path:?}", address(node));
            });
        }
    }
}

/// A path too many in an Adj-RIB-In is a leftover, one too few is lost.
fn adj_ribs_in(world: &World, expected: &Expected<'_>, node: Node, speaker: &Speaker, verdict: &mut Verdict) {
    let t = &world.topology;
    // By peer: what it tells of each group, and how many paths of it there are.
    let mut told: HashMap<IpAddr, (Vec<Option<Path>>, u32)> = HashMap::new();
    for session in &speaker.sessions {
        let peer = t.links[session.link as usize].other(node);
        let path = |best: &Vec<Option<Path>>| {
            let path = best[peer as usize].as_ref().filter(|_| world.is_up(session.link))?;
            // A route of the receiver's own is withdrawn from it, or never told.
            expected.model.told(peer, node, path).filter(|p| p.origin != node)
        };
        told.insert(address(peer).into(), (expected.best.iter().map(path).collect(), 0));
    }
    for_each_route(speaker, View::Received(None), |number, route| {
        verdict.paths += 1;
        let of_peer = route.peer.and_then(|peer| told.get_mut(&peer));
        let path = of_peer.and_then(|(paths, found)| {
            *found += 1;
            paths[*expected.group_of.get(number)?].as_ref()
        });
        if !path.is_some_and(|path| is_it(path, route)) {
            verdict.differs(|text| describe(text, "received", node, route, path));
        }
    });
    for (peer, (paths, found)) in told {
        let groups = t.groups.iter().zip(&paths).filter(|(_, path)| path.is_some());
        let count: u32 = groups.map(|(g, _)| g.prefixes.len() as u32).sum();
        if found != count {
            verdict.differs(|text| {
                let _ = write!(text, "{} has {found} paths of {peer}, expected {count}", address(node));
            });
        }
    }
}

/// Whether a route is the path that the model has.
fn is_it(path: &Path, route: &RouteInfo) -> bool {
    let a = &route.attributes;
    // A route of its own has no next hop yet. Who originates a path is said from the first reflector on.
    let next_hop = path.via.is_none() || a.next_hop == IpAddr::from(address(path.origin));
    let originator = (!path.clusters.is_empty()).then_some(address(path.origin));
    route.peer == path.via.map(|n| address(n).into())
        && a.local_pref == Some(path.local_pref)
        && a.cluster_list().eq(path.clusters.iter().map(|&c| u32::from(c)))
        && a.originator_id() == originator
        && a.as_path().is_empty()
        && next_hop
        && !route.stale
}

fn describe(text: &mut String, what: &str, node: Node, route: &RouteInfo, path: Option<&Path>) {
    let (at, stale) = (address(node), if route.stale { ", stale" } else { "" });
    let RouteInfo { prefix, peer, attributes, .. } = route;
    let _ = write!(text, "{at} {prefix}, {what}: {peer:?} {attributes:?}{stale}; expected {path:?}");
}
