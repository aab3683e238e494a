//! The network: four reflectors in a full mesh; clusters of two reflectors, each a client of two of the four; clients of
//! both reflectors of their cluster.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::rng::Rng;

/// Microseconds of simulated time.
pub type Micros = u64;
/// Names a speaker.
pub type Node = u32;
/// Names a link.
pub type LinkId = u32;

/// Reflectors of the first tier.
const TOP: u32 = 4;
/// Reflectors of a cluster.
const REDUNDANCY: u32 = 2;
/// Clients of a cluster, about.
const CLUSTER_SIZE: u32 = 120;
/// Prefixes that are originated together.
const GROUP_SIZE: u32 = 20;
/// Calico's route priorities that origins have; `None` is LOCAL_PREF 100.
const PRIORITIES: [Option<u32>; 3] = [None, Some(1024), Some(512)];

/// A speaker. Its address is its BGP identifier too.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub address: Ipv4Addr,
    /// Reflectors have one; some share it with the other reflector of their cluster.
    pub cluster_id: Option<Ipv4Addr>,
}

/// A session. Where `is_client`, the second end is a client of the first.
#[derive(Clone, Debug)]
pub struct Link {
    pub ends: [Node; 2],
    pub is_client: bool,
    pub delay: Micros,
    /// Both ends keep routes over a loss (RFC 4724).
    pub is_graceful: bool,
}

impl Link {
    /// The other end.
    pub fn other(&self, node: Node) -> Node {
        self.ends[usize::from(self.ends[0] == node)]
    }

    /// Which of the ends a node is.
    pub fn end(&self, node: Node) -> usize {
        usize::from(self.ends[1] == node)
    }
}

/// Prefixes that the same speakers originate.
#[derive(Clone, Debug)]
pub struct Group {
    pub prefixes: Range<u32>,
    /// Who, and with which priority.
    pub origins: Vec<(Node, Option<u32>)>,
}

/// The network at its best: nothing has failed.
#[derive(Clone, Debug)]
pub struct Topology {
    pub speakers: Vec<Speaker>,
    pub links: Vec<Link>,
    pub links_of: Vec<Vec<LinkId>>,
    pub groups: Vec<Group>,
    /// The first is no reflector.
    pub first_client: Node,
}

impl Topology {
    /// `speakers` at least 20.
    pub fn new(speakers: u32, prefixes: u32, rng: &mut Rng) -> Topology {
        let clusters = ((speakers - TOP) / CLUSTER_SIZE).max(3);
        let first_client = TOP + clusters * REDUNDANCY;
        let mut t = Topology {
            speakers: (0..speakers).map(|i| Speaker { address: address(i), cluster_id: None }).collect(),
            links: Vec::new(),
            links_of: vec![Vec::new(); speakers as usize],
            groups: Vec::new(),
            first_client,
        };
        for i in 0..TOP {
            t.speakers[i as usize].cluster_id = Some(address(i));
            (0..i).for_each(|j| t.link(i, j, false, rng));
        }
        for cluster in 0..clusters {
            let first = TOP + cluster * REDUNDANCY;
            let shares_id = rng.chance(50);
            for i in first..first + REDUNDANCY {
                t.speakers[i as usize].cluster_id = Some(address(if shares_id { first } else { i }));
                let up = rng.within(0..TOP.into()) as u32;
                t.link(up, i, true, rng);
                t.link((up + 1 + rng.within(0..u64::from(TOP) - 1) as u32) % TOP, i, true, rng);
            }
        }
        for i in first_client..speakers {
            let first = TOP + (i - first_client) % clusters * REDUNDANCY;
            (first..first + REDUNDANCY).for_each(|r| t.link(r, i, true, rng));
        }
        let mut at = 0;
        while at < prefixes {
            let end = prefixes.min(at + GROUP_SIZE);
            t.groups.push(Group { prefixes: at..end, origins: t.draw_origins(rng) });
            at = end;
        }
        t
    }

    fn link(&mut self, a: Node, b: Node, is_client: bool, rng: &mut Rng) {
        let id = self.links.len() as LinkId;
        let delay = rng.within(100..5000);
        self.links.push(Link { ends: [a, b], is_client, delay, is_graceful: rng.chance(50) });
        self.links_of[a as usize].push(id);
        self.links_of[b as usize].push(id);
    }

    /// One speaker, mostly a client; sometimes more than one, with different preference.
    pub(crate) fn draw_origins(&self, rng: &mut Rng) -> Vec<(Node, Option<u32>)> {
        let count = if rng.chance(20) { rng.within(2..4) } else { 1 };
        let mut origins: Vec<(Node, Option<u32>)> = Vec::new();
        for _ in 0..count {
            let from = if rng.chance(90) { self.first_client } else { 0 };
            let node = rng.within(from.into()..self.speakers.len() as u64) as Node;
            if !origins.iter().any(|o| o.0 == node) {
                origins.push((node, *rng.pick(&PRIORITIES)));
            }
        }
        origins
    }
}

/// The address of a speaker, and its BGP identifier.
pub fn address(node: Node) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0001 + node)
}

/// The network address of a prefix; all are /24.
pub fn prefix_address(prefix: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x1400_0000 + (prefix << 8))
}

/// The number of a prefix.
pub fn prefix_number(address: Ipv4Addr) -> u32 {
    (u32::from(address) - 0x1400_0000) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_both_reflectors_of_its_cluster() {
        let t = Topology::new(200, 400, &mut Rng::new(1));
        for node in t.first_client..200 {
            let links: Vec<&Link> = t.links_of[node as usize].iter().map(|&l| &t.links[l as usize]).collect();
            assert_eq!(links.len(), 2);
            assert!(links.iter().all(|l| l.is_client && l.ends[1] == node && l.ends[0] < t.first_client));
            assert_eq!(links[0].ends[0] + 1, links[1].ends[0]);
        }
    }

    #[test]
    fn every_prefix_has_one_group() {
        let t = Topology::new(50, 105, &mut Rng::new(1));
        let all: Vec<u32> = t.groups.iter().flat_map(|g| g.prefixes.clone()).collect();
        assert_eq!(all, (0..105).collect::<Vec<u32>>());
        assert!(t.groups.iter().all(|g| !g.origins.is_empty()));
        assert_eq!(prefix_number(prefix_address(104)), 104);
    }
}
