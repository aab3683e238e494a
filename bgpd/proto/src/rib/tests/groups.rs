//! Update groups against a model that knows nothing of them: whatever happens in whatever order, with peers that read slowly
//! or not at all, each has in the end what it should have, and never hears what it should not.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rib::group::Limits;
use crate::wire::iana::LARGE_COMMUNITIES;

const KINDS: [Kind; 7] = [Ebgp, Ebgp, Ibgp, Ibgp, Client, Client, Client];
const PREFIXES: u64 = 40;

/// These send and get path identifiers (RFC 7911).
const ADD_PATH: [bool; 7] = [false, false, false, true, true, true, false];

/// A path as the model knows it: which of all announcements it is, of whom, with which next hop (192.0.2.n). The higher is
/// preferred.
type Mark = [u32; 3];

#[derive(Default)]
struct Speaker {
    is_up: bool,
    rejects_odd: bool,
    announced: BTreeMap<(Prefix, u32), Mark>,
    /// What it has, from what it was told.
    has: BTreeMap<(Prefix, u32), Mark>,
    /// RFC 7313: since BoRR, what was not told again.
    stale: Option<BTreeSet<(Prefix, u32)>>,
}

struct World {
    rib: Rib,
    speakers: Vec<Speaker>,
    random: u64,
    version: u32,
}

fn prefix(n: u64) -> Prefix {
    Prefix::new([10, 0, n as u8, 0].into(), 24).unwrap()
}

fn is_odd(prefix: Prefix) -> bool {
    matches!(prefix.address(), IpAddr::V4(a) if a.octets()[2] % 2 == 1)
}

fn policy(rejects_odd: bool) -> Policy {
    use crate::policy::{MatchOperator, PrefixMatch, Rule};
    let odd = (0..PREFIXES).filter(|n| n % 2 == 1).map(|n| Rule {
        prefix: Some(PrefixMatch { prefix: prefix(n), operator: MatchOperator::Equal, min_len: None, max_len: None }),
        action: Action::Reject,
        ..Rule::default()
    });
    Policy { rules: if rejects_odd { odd.collect() } else { Vec::new() }, default: Action::Accept }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rib = Rib::new(seed);
        // A chunk of few items and a stream of few chunks, so that everything happens in a short time.
        let limits = Limits { chunk_items: 3, chunk_octets: 150, stream: 600, patience: 200 };
        rib.out.iter_mut().for_each(|g| g.limits = limits);
        rib.originate(vec![]);
        let mut world = World { rib, speakers: Vec::new(), random: seed.wrapping_mul(0x9e37_79b9) | 1, version: 0 };
        for (i, &kind) in KINDS.iter().enumerate() {
            let add_path = [ADD_PATH[i], false];
            let info = PeerInfo { add_path_receive: add_path, add_path_send: add_path, ..info(i as u8 + 1, kind) };
            assert_eq!(usize::from(world.rib.add_peer(info)), i + 1);
            world.speakers.push(Speaker::default());
            world.start(i);
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn start(&mut self, i: usize) {
        self.speakers[i].is_up = true;
        self.rib.start(i as PeerIndex + 1, Family::Ipv4);
    }

    /// A few prefixes, with path identifiers where the speaker has them.
    fn list(&mut self, i: usize) -> (Vec<(Prefix, u32)>, Vec<u8>) {
        let count = 1 + self.below(6);
        let mut id = || if ADD_PATH[i] { 1 + self.below(3) as u32 } else { 0 };
        let ids: Vec<u32> = (0..count).map(|_| id()).collect();
        let paths: BTreeSet<_> = ids.into_iter().map(|id| (prefix(self.below(PREFIXES)), id)).collect();
        let mut list = Vec::new();
        for &(prefix, id) in &paths {
            crate::wire::nlri::write(&mut list, ADD_PATH[i].then_some(id), V4::from_prefix(prefix).unwrap());
        }
        (paths.into_iter().collect(), list)
    }

    fn step(&mut self) {
        let i = self.below(KINDS.len() as u64) as usize;
        let peer = i as PeerIndex + 1;
        match self.below(20) {
            0..7 if self.speakers[i].is_up => {
                self.version += 1;
                // Mostly somebody who is no peer of ours, else one of these.
                let next_hop = if self.below(2) == 0 { 200 } else { 1 + self.below(KINDS.len() as u64) as u8 };
                let mark = [self.version, u32::from(peer), next_hop.into()];
                let (paths, list) = self.list(i);
                let octets: Vec<u8> = mark.iter().flat_map(|v| v.to_be_bytes()).collect();
                let mut set = received(&[65009], &[(LARGE_COMMUNITIES, octets)]);
                set.local_pref = Some(mark[0]);
                set.next_hop = [192, 0, 2, next_hop].into();
                self.rib.announce(peer, Family::Ipv4, &list, set);
                self.speakers[i].announced.extend(paths.into_iter().map(|p| (p, mark)));
            }
            7..10 if self.speakers[i].is_up => {
                let (paths, list) = self.list(i);
                self.rib.withdraw(peer, Family::Ipv4, &list);
                self.speakers[i].announced.retain(|p, _| !paths.contains(p));
            }
            10..14 => self.read(i, 1),
            14 => self.read(i, usize::MAX),
            15 => self.rib.distribute(),
            16 => self.rib.reap(),
            17 if self.speakers[i].is_up && self.below(3) == 0 => {
                let is_marked = self.below(2) == 0;
                self.rib.refresh(peer, Family::Ipv4, is_marked);
            }
            18 if self.below(4) == 0 => {
                let rejects_odd = self.below(2) == 0;
                self.speakers[i].rejects_odd = rejects_odd;
                self.rib.peer_mut(peer).unwrap().export.policy = policy(rejects_odd);
                self.rib.regroup(peer);
            }
            19 if self.below(4) == 0 => {
                if self.speakers[i].is_up {
                    self.rib.stop(peer, Family::Ipv4);
                    self.rib.remove_paths(peer, Family::Ipv4, false);
                    let rejects_odd = self.speakers[i].rejects_odd;
                    self.speakers[i] = Speaker { rejects_odd, ..Speaker::default() };
                } else {
                    self.start(i);
                }
            }
            _ => {}
        }
    }

    /// The peer reads, until it has `limit` octets or there is no more.
    fn read(&mut self, i: usize, limit: usize) {
        let peer = i as PeerIndex + 1;
        let mut out = Vec::new();
        for round in 0.. {
            assert!(round < 10_000, "writing comes to an end");
            let before = out.len();
            if !self.speakers[i].is_up || before >= limit || !self.rib.has_output(peer) {
                break;
            }
            self.rib.write_updates(peer, &mut out, limit);
            if out.len() == before {
                break;
            }
        }
        let mut rest = &out[..];
        while let Some(message) = frame(rest, MAX_MESSAGE_LEN).unwrap() {
            self.hear(i, &rest[..message.len]);
            rest = &rest[message.len..];
        }
    }

    fn hear(&mut self, i: usize, message: &[u8]) {
        let peer = i as PeerIndex + 1;
        let told = heard(&self.rib, peer, message);
        let Speaker { has, stale, .. } = &mut self.speakers[i];
        let mut again = |path| {
            stale.iter_mut().for_each(|s| {
                s.remove(&path);
            });
        };
        for ((prefix, set), id) in told.announced.into_iter().zip(told.announced_ids) {
            let mark = set.large_communities().next().unwrap();
            assert_ne!(mark[1], u32::from(peer), "{prefix} goes back to peer {peer}");
            let before = has.insert((prefix, id), mark);
            if let (Some(before), true) = (before, ADD_PATH[i]) {
                assert_eq!(before[1], mark[1], "an identifier stays with the path");
            }
            again((prefix, id));
        }
        for path in told.withdrawn.into_iter().zip(told.withdrawn_ids) {
            assert!(has.remove(&path).is_some(), "{path:?} is withdrawn from peer {peer}, which does not have it");
            again(path);
        }
        match told.refresh_marks[..] {
            [] => {}
            [1] => *stale = Some(has.keys().copied().collect()),
            [2] => assert_eq!(stale.take(), Some(BTreeSet::new()), "everything is told between the marks"),
            _ => panic!("one message, one mark"),
        }
    }

    /// What a peer should have: of each prefix the best path, or with add-path all of them.
    fn expected(&self, i: usize) -> BTreeSet<(Prefix, Mark)> {
        let mut expected = BTreeSet::new();
        for n in 0..PREFIXES {
            let prefix = prefix(n);
            let of =
                |s: &Speaker| s.announced.range((prefix, 0)..=(prefix, u32::MAX)).map(|p| *p.1).collect::<Vec<_>>();
            let all: Vec<Mark> = self.speakers.iter().flat_map(of).collect();
            let best = all.iter().max().copied();
            for mark in if ADD_PATH[i] { all } else { best.into_iter().collect() } {
                let source = mark[1] as usize - 1;
                let reflected = [KINDS[source], KINDS[i]] != [Ibgp, Ibgp];
                // To other ASes we are the next hop.
                let is_next_hop = KINDS[i] != Ebgp && mark[2] as usize == i + 1;
                let is_rejected = self.speakers[i].rejects_odd && is_odd(prefix);
                if source != i && reflected && !is_next_hop && !is_rejected {
                    expected.insert((prefix, mark));
                }
            }
        }
        expected
    }

    fn has_all(&self, i: usize) {
        let has: BTreeSet<_> = self.speakers[i].has.iter().map(|(p, mark)| (p.0, *mark)).collect();
        assert_eq!(has, self.expected(i), "peer {}", i + 1);
    }

    fn check(&mut self) {
        let announced: BTreeSet<Prefix> = self.speakers.iter().flat_map(|s| s.announced.keys()).map(|p| p.0).collect();
        assert_eq!(self.rib.size(Family::Ipv4).0, announced.len() as u32);
        for _ in 0..3 {
            self.rib.distribute();
            (0..KINDS.len()).for_each(|i| self.read(i, usize::MAX));
        }
        for i in (0..KINDS.len()).filter(|&i| self.speakers[i].is_up) {
            self.has_all(i);
            let has = &self.speakers[i].has;
            assert_eq!(self.rib.counts(i as PeerIndex + 1, Family::Ipv4).1, has.len() as u32);
            assert!(!self.rib.has_output(i as PeerIndex + 1));
        }
    }
}

#[test]
fn every_peer_ends_with_what_it_should_have() {
    for seed in 1..80 {
        let mut world = World::new(seed);
        for steps in [5, 30, 200, 400] {
            (0..steps).for_each(|_| world.step());
            world.check();
        }
        // And nothing is left when everything is gone.
        for i in 0..KINDS.len() {
            world.rib.remove_paths(i as PeerIndex + 1, Family::Ipv4, false);
            world.speakers[i].announced.clear();
        }
        world.check();
        world.rib.reap();
        assert_eq!((world.rib.attribute_sets(), world.rib.v4.empty_len()), (0, 0), "seed {seed}");
        assert!(world.rib.out[0].paths.is_empty(), "seed {seed}");
    }
}

#[test]
fn who_reads_hears_everything_while_others_of_the_group_read_nothing() {
    let mut world = World::new(1);
    // The first two are one group, and only the first reads. The other does not fall out of the stream.
    world.rib.out.iter_mut().for_each(|g| g.limits.stream = usize::MAX);
    for round in 0..5 {
        for n in 0..PREFIXES {
            let mut list = Vec::new();
            V4::from_prefix(prefix(n)).unwrap().write(&mut list);
            let mark = [round * PREFIXES as u32 + n as u32 + 1, 3, 0];
            let octets: Vec<u8> = mark.iter().flat_map(|v| v.to_be_bytes()).collect();
            world.rib.announce(3, Family::Ipv4, &list, received(&[65009], &[(LARGE_COMMUNITIES, octets)]));
            world.speakers[2].announced.insert((prefix(n), 0), mark);
        }
        world.rib.distribute();
        world.read(0, usize::MAX);
        world.has_all(0);
    }
    // Those that were stalled have missed nothing.
    world.check();
}

/// 500 clients of which one reads nothing: what waits for it is bounded, the others hear everything, and it does in the end.
#[test]
fn one_of_500_that_never_reads_costs_bounded_memory() {
    const CLIENTS: u16 = 500;
    let mut rib = Rib::new(1);
    let stream = 4000;
    rib.out[0].limits = Limits { chunk_items: 64, chunk_octets: 1000, stream, patience: 1000 };
    for n in 0..CLIENTS {
        let address = [10, 1, (n >> 8) as u8, n as u8];
        let info = PeerInfo { address: address.into(), router_id: address.into(), ..info(1, Client) };
        let peer = rib.add_peer(info);
        rib.start(peer, Family::Ipv4);
    }
    rib.originate(vec![]);
    let stalled = CLIENTS;
    let mut heard_of = vec![0_u32; usize::from(CLIENTS)];
    for round in 1..=3 {
        for source in 1..CLIENTS {
            let mut list = Vec::new();
            let prefix = Prefix::new([10, 2 + (source >> 8) as u8, source as u8, 0].into(), 26).unwrap();
            V4::from_prefix(prefix).unwrap().write(&mut list);
            rib.announce(source, Family::Ipv4, &list, Attributes { med: Some(round), ..received(&[], &[]) });
        }
        rib.distribute();
        for peer in 1..CLIENTS {
            let told = told(&mut rib, peer);
            heard_of[usize::from(peer) - 1] += told.announced.len() as u32;
            assert!(rib.out[0].stream_len(peer) <= stream + 2000, "what waits is bounded");
        }
    }
    assert!(
        heard_of[..usize::from(CLIENTS) - 1].iter().all(|&n| n == 3 * u32::from(CLIENTS - 2)),
        "each change, each once"
    );
    let told = told(&mut rib, stalled);
    assert_eq!(told.announced.len(), usize::from(CLIENTS) - 1, "only what is so now");
    assert!(told.announced.iter().all(|(_, set)| set.med == Some(3)));
    rib.reap();
    assert_eq!(rib.out[0].stream_len(1), 0);
}
