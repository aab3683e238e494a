//! Events in order of time, and what they do to speakers and links.
//!
//! A session has a generation: what was under way when it was lost never arrives. A link takes so many octets that its
//! receiver has not read, like a socket's buffer, so a slow link holds back its sender's RIB, and nobody else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::failures::Failure;
use crate::rng::Rng;
use crate::speaker::Speaker;
use crate::topology::{Link, LinkId, Micros, Node, Topology};

/// What a link holds that was not read.
const WINDOW: usize = 16 * 1024;
/// Handed to a link at once.
const WRITE_SIZE: usize = 8 * 1024;
/// From input to what follows from it; it is one flush for all that comes meanwhile.
const PROCESSING: std::ops::Range<Micros> = 100..1_000;
/// A broken link is noticed after so long by each end: by BFD, or by the hold timer.
const DETECTION: std::ops::Range<Micros> = 50_000..9_000_000;
/// A reset connection, when the other end's process dies.
const RESET: std::ops::Range<Micros> = 100..5_000;
/// From the chance to connect until the session is up.
const CONNECTING: std::ops::Range<Micros> = 1_000..2_000_000;
/// Stale paths are kept so long for a peer that does not come back.
const RESTART_TIME: Micros = 20_000_000;
/// Octets a link carries in a microsecond.
const RATE: u64 = 100;

#[derive(Debug)]
enum Event {
    Deliver { link: LinkId, to: usize, generation: u32, octets: Vec<u8> },
    Flush(Node),
    Connect(LinkId),
    Lost { link: LinkId, end: usize, generation: u32 },
    RestartOver { link: LinkId, node: Node, loss: u32 },
    Failure(Failure),
}

/// Ordered by time, then by who came first.
struct Scheduled {
    at: Reverse<(Micros, u64)>,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.at == other.at
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The state of a link.
#[derive(Clone, Debug, Default)]
struct Wire {
    generation: u32,
    is_cut: bool,
    /// The session is lost, whether its ends know or not.
    is_broken: bool,
    slowness: u64,
    /// By sending end.
    direction: [Direction; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    unread: usize,
    /// When what was sent last has left, and when it arrives.
    free_at: Micros,
    arrives: Micros,
}

/// What there was until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub updates: u64,
    pub octets: u64,
    /// UPDATEs that a speaker found malformed: none may be.
    pub malformed: u64,
    /// When the last octets arrived.
    pub quiet_since: Micros,
}

/// The network in time.
pub struct World {
    pub topology: Topology,
    pub speakers: Vec<Option<Speaker>>,
    pub stats: Stats,
    pub now: Micros,
    seed: u64,
    rng: Rng,
    wires: Vec<Wire>,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    digest: u64,
    /// Room for what a speaker writes.
    out: Vec<u8>,
}

impl World {
    /// All speakers start at once; sessions come up as they may.
    pub fn new(topology: Topology, seed: u64, rng: Rng) -> World {
        let wires = vec![Wire { slowness: 1, ..Wire::default() }; topology.links.len()];
        let nodes = topology.speakers.len() as Node;
        let mut world = World {
            speakers: (0..nodes).map(|_| None).collect(),
            topology,
            stats: Stats::default(),
            now: 0,
            seed,
            rng,
            wires,
            queue: BinaryHeap::new(),
            scheduled: 0,
            digest: seed,
            out: Vec::new(),
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    /// A number that two runs share only if all that was delivered was the same, at the same time.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether both ends of a link have their session up.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.topology.links[link as usize].ends.iter().all(|&n| self.is_end_up(n, link))
    }

    /// Adds failures, by time from now.
    pub fn add_failures(&mut self, failures: Vec<(Micros, Failure)>) {
        for (after, failure) in failures {
            self.schedule(after, Event::Failure(failure));
        }
    }

    /// Runs until nothing is under way any more.
    pub fn run(&mut self) {
        while let Some(Scheduled { at: Reverse((at, _)), event }) = self.queue.pop() {
            self.now = at;
            match event {
                Event::Deliver { link, to, generation, octets } => self.deliver(link, to, generation, &octets),
                Event::Flush(node) => self.flush(node),
                Event::Connect(link) => self.connect(link),
                Event::Lost { link, end, generation } if self.is_current(link, generation) => self.lost(link, end),
                Event::Lost { .. } => {}
                Event::RestartOver { link, node, loss } => self.restart_over(link, node, loss),
                Event::Failure(failure) => self.fail(failure),
            }
        }
    }

    fn schedule(&mut self, after: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at: Reverse((self.now + after, self.scheduled)), event });
    }

    fn link(&self, link: LinkId) -> &Link {
        &self.topology.links[link as usize]
    }

    fn is_current(&self, link: LinkId, generation: u32) -> bool {
        self.wires[link as usize].generation == generation
    }

    fn is_end_up(&self, node: Node, link: LinkId) -> bool {
        let speaker = self.speakers[node as usize].as_ref();
        speaker.is_some_and(|s| s.sessions.iter().any(|s| s.link == link && s.is_up))
    }

    fn fail(&mut self, failure: Failure) {
        match failure {
            Failure::Cut(link) => {
                self.wires[link as usize].is_cut = true;
                self.break_off(link, [true; 2], DETECTION);
            }
            Failure::Mended(link) => {
                self.wires[link as usize].is_cut = false;
                self.connect_soon(link);
            }
            Failure::Slow(link, slowness) => self.wires[link as usize].slowness = slowness,
            Failure::Crash(node) => self.crash(node),
            Failure::Restart(node) if self.speakers[node as usize].is_none() => self.start(node),
            Failure::Restart(_) => {}
            Failure::Move(group, origins) => {
                let old = std::mem::replace(&mut self.topology.groups[group].origins, origins.clone());
                old.into_iter().chain(origins).for_each(|(node, _)| self.originate(node));
            }
        }
    }

    fn start(&mut self, node: Node) {
        let seed = self.seed ^ u64::from(node) << 32;
        self.speakers[node as usize] = Some(Speaker::new(&self.topology, node, seed));
        self.originate(node);
        for link in self.topology.links_of[node as usize].clone() {
            self.connect_soon(link);
        }
    }

    fn crash(&mut self, node: Node) {
        if self.speakers[node as usize].take().is_none() {
            return;
        }
        // A process that dies, or a machine that does.
        let noticed = if self.rng.chance(50) { RESET } else { DETECTION };
        for link in self.topology.links_of[node as usize].clone() {
            let end = self.link(link).end(node);
            self.break_off(link, [end != 0, end != 1], noticed.clone());
        }
    }

    /// What is under way is lost, and `ends` find out.
    fn break_off(&mut self, link: LinkId, ends: [bool; 2], noticed: std::ops::Range<Micros>) {
        let wire = &mut self.wires[link as usize];
        wire.generation += 1;
        wire.is_broken = true;
        let generation = wire.generation;
        for end in (0..2).filter(|&e| ends[e]) {
            let after = self.rng.within(noticed.clone());
            self.schedule(after, Event::Lost { link, end, generation });
        }
    }

    /// One end finds out that its session is lost.
    fn lost(&mut self, link: LinkId, end: usize) {
        let l = self.link(link);
        let (node, is_graceful) = (l.ends[end], l.is_graceful);
        if !self.is_end_up(node, link) {
            return;
        }
        let Some(speaker) = self.speakers[node as usize].as_mut() else { return };
        if let Some(loss) = speaker.down(link, is_graceful) {
            self.schedule(RESTART_TIME, Event::RestartOver { link, node, loss });
        }
        self.flush_soon(node);
    }

    /// Stale paths that nobody has confirmed since that loss go.
    fn restart_over(&mut self, link: LinkId, node: Node, loss: u32) {
        let Some(speaker) = self.speakers[node as usize].as_mut() else { return };
        if speaker.session(link).is_some_and(|s| s.losses == loss) {
            speaker.sweep(link);
            self.flush_soon(node);
        }
    }

    fn connect_soon(&mut self, link: LinkId) {
        let after = self.rng.within(CONNECTING);
        self.schedule(after, Event::Connect(link));
    }

    fn connect(&mut self, link: LinkId) {
        let ends = self.link(link).ends;
        let is_possible =
            !self.wires[link as usize].is_cut && ends.iter().all(|&n| self.speakers[n as usize].is_some());
        if !is_possible || self.is_up(link) && !self.wires[link as usize].is_broken {
            return;
        }
        // An end that has not noticed the loss does now: the new connection takes the place of the old one.
        (0..2).for_each(|end| self.lost(link, end));
        let wire = &mut self.wires[link as usize];
        wire.generation += 1;
        wire.is_broken = false;
        wire.direction = [Direction::default(); 2];
        let keeps_stale = self.link(link).is_graceful;
        for node in ends {
            if let Some(speaker) = self.speakers[node as usize].as_mut() {
                speaker.up(link, keeps_stale);
            }
            self.flush_soon(node);
        }
    }

    fn originate(&mut self, node: Node) {
        let groups = &self.topology.groups;
        let own = groups.iter().flat_map(|g| {
            let mine = g.origins.iter().find(|o| o.0 == node);
            mine.map(|o| (g.prefixes.clone(), o.1))
        });
        if let Some(speaker) = self.speakers[node as usize].as_mut() {
            speaker.originate(own);
            self.flush_soon(node);
        }
    }

    fn flush_soon(&mut self, node: Node) {
        if let Some(speaker) = self.speakers[node as usize].as_mut()
            && !std::mem::replace(&mut speaker.flush_due, true)
        {
            let after = self.rng.within(PROCESSING);
            self.schedule(after, Event::Flush(node));
        }
    }

    fn flush(&mut self, node: Node) {
        let Some(speaker) = self.speakers[node as usize].as_mut() else { return };
        speaker.flush_due = false;
        speaker.rib.distribute();
        let ready: Vec<LinkId> =
            speaker.sessions.iter().filter(|s| s.is_up && speaker.rib.has_output(s.peer)).map(|s| s.link).collect();
        for link in ready {
            self.pump(node, link);
        }
        if let Some(speaker) = self.speakers[node as usize].as_mut() {
            speaker.rib.reap();
        }
    }

    /// Writes what there is for a peer while its link takes it.
    fn pump(&mut self, node: Node, link: LinkId) {
        let end = self.link(link).end(node);
        let mut out = std::mem::take(&mut self.out);
        while self.wires[link as usize].direction[end].unread < WINDOW {
            let Some(speaker) = self.speakers[node as usize].as_mut() else { break };
            let Some(peer) = speaker.session(link).filter(|s| s.is_up).map(|s| s.peer) else { break };
            out.clear();
            speaker.rib.write_updates(peer, &mut out, WRITE_SIZE);
            if out.is_empty() {
                break;
            }
            // Octets arrive in pieces that know nothing of messages.
            let cut = if self.rng.chance(10) { self.rng.within(0..out.len() as u64) as usize } else { 0 };
            let (first, second) = out.split_at(cut);
            self.send(link, end, first);
            self.send(link, end, second);
        }
        self.out = out;
    }

    fn send(&mut self, link: LinkId, end: usize, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        let delay = self.link(link).delay;
        let (now, wire) = (self.now, &mut self.wires[link as usize]);
        let (slowness, generation) = (wire.slowness, wire.generation);
        let direction = &mut wire.direction[end];
        direction.unread += octets.len();
        if wire.is_broken {
            // The sender has yet to find out; its buffer fills.
            return;
        }
        direction.free_at = direction.free_at.max(now) + (octets.len() as u64).div_ceil(RATE) * slowness;
        direction.arrives = direction.arrives.max(direction.free_at + delay * slowness.min(100));
        let after = direction.arrives - now;
        self.schedule(after, Event::Deliver { link, to: 1 - end, generation, octets: octets.to_vec() });
    }

    fn deliver(&mut self, link: LinkId, to: usize, generation: u32, octets: &[u8]) {
        if !self.is_current(link, generation) {
            return;
        }
        let ends = self.link(link).ends;
        self.note(link, to, octets);
        self.wires[link as usize].direction[1 - to].unread -= octets.len();
        if let Some(speaker) = self.speakers[ends[to] as usize].as_mut() {
            let input = speaker.input(link, octets);
            self.stats.updates += input.updates;
            self.stats.malformed += input.malformed;
        }
        self.flush_soon(ends[to]);
        self.pump(ends[1 - to], link);
        // What was encoded for one peer is for the others of its update group too.
        self.flush_soon(ends[1 - to]);
    }

    fn note(&mut self, link: LinkId, to: usize, octets: &[u8]) {
        self.stats.octets += octets.len() as u64;
        self.stats.quiet_since = self.now;
        let mut mix = |word: u64| self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        mix(self.now);
        mix(u64::from(link) << 1 | to as u64);
        for chunk in octets.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(u64::from_le_bytes(word));
        }
    }
}
