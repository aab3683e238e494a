//! What every Loc-RIB must be when all is quiet: RFC 4271 section 9 and RFC 4456 as a fix-point over the network, written
//! from the rules and not from bgp-proto.
//!
//! Every hop adds to the CLUSTER_LIST or takes a right to be passed on away, and what is compared before its length is the
//! same at every speaker, so the fix-point is unique and any order of messages must end in it.

use std::net::Ipv4Addr;

use crate::topology::{Group, LinkId, Node, Topology};

/// Of a route without Calico's priority.
const DEFAULT_LOCAL_PREF: u32 = 100;
/// Less the priority: LOCAL_PREF.
const PRIORITY_BASE: u32 = 2_147_483_647;

/// The best path of a speaker to the prefixes of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub local_pref: u32,
    /// Whose prefix it is: next hop and ORIGINATOR_ID.
    pub origin: Node,
    /// `None`: its own.
    pub via: Option<Node>,
    /// Whether `via` is a client.
    from_client: bool,
    pub clusters: Vec<Ipv4Addr>,
}

impl Path {
    /// Least is best: LOCAL_PREF; a route of one's own; ORIGINATOR_ID; the length of CLUSTER_LIST; the peer's address.
    fn rank(&self) -> (u32, bool, Node, usize, Option<Node>) {
        // Addresses grow with the numbers of speakers.
        (u32::MAX - self.local_pref, self.via.is_some(), self.origin, self.clusters.len(), self.via)
    }
}

/// The network as it is in the end.
pub struct Model<'a> {
    t: &'a Topology,
    is_alive: &'a dyn Fn(Node) -> bool,
    is_up: &'a dyn Fn(LinkId) -> bool,
}

impl<'a> Model<'a> {
    /// Of the speakers that live and the sessions that are up.
    pub fn new(t: &'a Topology, is_alive: &'a dyn Fn(Node) -> bool, is_up: &'a dyn Fn(LinkId) -> bool) -> Model<'a> {
        Model { t, is_alive, is_up }
    }

    /// The best path of every speaker to the prefixes of a group.
    pub fn best(&self, group: &Group) -> Vec<Option<Path>> {
        let mut best: Vec<Option<Path>> = vec![None; self.t.speakers.len()];
        let mut todo: Vec<Node> = group.origins.iter().map(|o| o.0).filter(|&n| (self.is_alive)(n)).collect();
        while !todo.is_empty() {
            let mut next = Vec::new();
            for node in todo {
                let now = self.decide(node, group, &best);
                if now != best[node as usize] {
                    best[node as usize] = now;
                    next.extend(self.sessions(node).map(|(peer, _)| peer));
                }
            }
            next.sort_unstable();
            next.dedup();
            todo = next;
        }
        best
    }

    /// The peers of a node, and whether each is its client.
    fn sessions(&self, node: Node) -> impl Iterator<Item = (Node, bool)> + '_ {
        let up = self.t.links_of[node as usize].iter().filter(|&&l| (self.is_up)(l));
        up.map(move |&l| {
            let link = &self.t.links[l as usize];
            (link.other(node), link.is_client && link.ends[0] == node)
        })
    }

    fn decide(&self, node: Node, group: &Group, best: &[Option<Path>]) -> Option<Path> {
        let own = group.origins.iter().find(|o| o.0 == node).map(|o| Path {
            local_pref: o.1.map_or(DEFAULT_LOCAL_PREF, |p| PRIORITY_BASE - p),
            origin: node,
            via: None,
            from_client: false,
            clusters: Vec::new(),
        });
        let learned = self.sessions(node).filter_map(|(peer, is_client)| {
            let path = self.told(peer, node, best[peer as usize].as_ref()?)?;
            Some(Path { from_client: is_client, ..path })
        });
        let usable = learned.filter(|p| !self.is_loop(node, p));
        usable.chain(own).min_by_key(Path::rank)
    }

    /// What `from` tells `to` of its best path.
    pub fn told(&self, from: Node, to: Node, path: &Path) -> Option<Path> {
        if path.via == Some(to) {
            return None;
        }
        let mut clusters = path.clusters.clone();
        if path.via.is_some() {
            let to_client = self.sessions(from).any(|(peer, is_client)| peer == to && is_client);
            // RFC 4456 section 6; who is no reflector passes nothing on (RFC 4271 section 9.2).
            if !path.from_client && !to_client {
                return None;
            }
            clusters.insert(0, self.t.speakers[from as usize].cluster_id?);
        }
        Some(Path { clusters, via: Some(from), from_client: false, ..path.clone() })
    }

    /// RFC 4456 section 8.
    fn is_loop(&self, node: Node, path: &Path) -> bool {
        let cluster = self.t.speakers[node as usize].cluster_id;
        path.origin == node || cluster.is_some_and(|id| path.clusters.contains(&id))
    }
}
