//! Compares what the speakers have with what the model says, when all is quiet.

use std::fmt::Write;
use std::net::IpAddr;

use bgp_proto::af::Family;
use bgp_proto::rib::{Cursor, RouteFilter, View};

use crate::model::{Model, Path};
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

/// Compares every Loc-RIB, and the number of paths of every Adj-RIB-In; no path may be stale.
pub fn check(world: &World) -> Verdict {
    let t = &world.topology;
    let is_alive = |node: Node| world.speakers[node as usize].is_some();
    let up: Vec<bool> = (0..t.links.len()).map(|l| world.is_up(l as u32)).collect();
    let is_up = |link| up[link as usize];
    let model = Model::new(t, &is_alive, &is_up);
    let best: Vec<Vec<Option<Path>>> = t.groups.iter().map(|g| model.best(g)).collect();
    let mut group_of = vec![0; t.groups.last().map_or(0, |g| g.prefixes.end) as usize];
    for (i, g) in t.groups.iter().enumerate() {
        group_of[g.prefixes.start as usize..g.prefixes.end as usize].fill(i);
    }
    let mut verdict = Verdict::default();
    for node in (0..t.speakers.len() as Node).filter(|&n| is_alive(n)) {
        loc_rib(world, node, &group_of, &best, &mut verdict);
        adj_ribs_in(world, node, &model, &best, &mut verdict);
    }
    verdict
}

fn loc_rib(world: &World, node: Node, group_of: &[usize], best: &[Vec<Option<Path>>], verdict: &mut Verdict) {
    let Some(speaker) = &world.speakers[node as usize] else { return };
    let mut seen = vec![false; group_of.len()];
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let (routes, rest) = speaker.rib.routes(View::Best, &RouteFilter::default(), from, STEPS);
        next = rest;
        for route in routes {
            let IpAddr::V4(network) = route.prefix.address() else { continue };
            let number = prefix_number(network) as usize;
            // The best of a multipath set comes first.
            if std::mem::replace(&mut seen[number], true) {
                continue;
            }
            verdict.entries += 1;
            let expected = best[group_of[number]][node as usize].as_ref();
            let a = &route.attributes;
            let is_right = expected.is_some_and(|path| {
                let clusters = path.clusters.iter().map(|&c| u32::from(c));
                // A route of its own has no next hop yet, and the originator says nothing of itself.
                let origin = path.via.is_none()
                    || a.next_hop == IpAddr::from(address(path.origin))
                        && a.originator_id().is_none_or(|id| id == address(path.origin));
                route.peer == path.via.map(|n| address(n).into())
                    && a.local_pref == Some(path.local_pref)
                    && a.cluster_list().eq(clusters)
                    && origin
                    && !route.stale
            });
            if !is_right {
                verdict.differs(|text| {
                    let _ = write!(
                        text,
                        "{} {}: has {:?} {:?}, expected {expected:?}",
                        address(node),
                        route.prefix,
                        route.peer,
                        a
                    );
                });
            }
        }
    }
    for (number, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        if let Some(expected) = &best[group_of[number]][node as usize] {
            verdict.differs(|text| {
                let _ = write!(text, "{} lacks prefix {number}: {expected:?}", address(node));
            });
        }
    }
}

/// A path too many in an Adj-RIB-In is a leftover, one too few is lost.
fn adj_ribs_in(world: &World, node: Node, model: &Model<'_>, best: &[Vec<Option<Path>>], verdict: &mut Verdict) {
    let Some(speaker) = &world.speakers[node as usize] else { return };
    let t = &world.topology;
    for session in &speaker.sessions {
        let peer = t.links[session.link as usize].other(node);
        let told = |g: usize| {
            let path = best[g][peer as usize].as_ref()?;
            // A route through the receiver itself is not kept.
            model.told(peer, node, path).filter(|p| p.origin != node)
        };
        let groups = t.groups.iter().enumerate().filter(|&(g, _)| world.is_up(session.link) && told(g).is_some());
        let expected: u32 = groups.map(|(_, g)| g.prefixes.len() as u32).sum();
        let received = speaker.rib.counts(session.peer, Family::Ipv4).0;
        if received != expected {
            verdict.differs(|text| {
                let _ =
                    write!(text, "{} has {received} paths of {}, expected {expected}", address(node), address(peer));
            });
        }
    }
}
