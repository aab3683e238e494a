//! The compiler against what a reader of the maps sees.

use felix_calc::service_index::{Backend, FrontendKind};
use proptest::prelude::*;

use super::*;

const SLOTS: u32 = 1 << 16;

fn frontend(service: &str, addr: [u8; 4], port: u16, backends: &[(u8, bool)]) -> Frontend {
    Frontend {
        addr: Ipv4Addr::from(addr).into(),
        port,
        protocol: Protocol::Tcp,
        kind: FrontendKind::ClusterIp,
        service: service.into(),
        external_local: false,
        internal_local: false,
        backends: backends
            .iter()
            .map(|&(host, is_local)| Backend { addr: Ipv4Addr::new(10, 65, 0, host).into(), port: 8080, is_local })
            .collect(),
    }
}

/// The memory of the slots, and a compiler.
struct World {
    compiler: Compiler,
    memory: Vec<Slot>,
    entries: BTreeMap<Key, Entry>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            compiler: Compiler::new(SLOTS),
            memory: vec![0; SLOTS as usize],
            entries: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    /// One apply, as the balancer does it. Returns what the compiler said.
    fn apply(&mut self, frontends: &[Frontend]) -> Compiled {
        let compiled = self.compiler.compile(frontends, self.now);
        for (set, image) in &compiled.writes {
            assert!(sets(&self.entries).iter().all(|used| !overlap(used, set)), "{set:?} is in use");
            self.memory[set.offset as usize..][..image.len()].copy_from_slice(image);
        }
        self.entries = compiled.entries.clone();
        self.compiler.retain(&sets(&self.entries), self.now);
        compiled
    }

    fn read(&self, set: SetRef) -> Vec<Slot> {
        self.memory[set.offset as usize..][..set.len() as usize].to_vec()
    }

    /// The addresses behind a key, as the datapath finds them.
    fn backends(&self, key: Key) -> Vec<(u8, bool)> {
        let set = self.entries[&key].outside;
        if set.is_empty() {
            return Vec::new();
        }
        let endpoints = decode(set, &self.read(set)).expect("a whole set");
        endpoints.iter().map(|endpoint| (endpoint.addr.octets()[3], endpoint.is_local)).collect()
    }
}

fn sets(entries: &BTreeMap<Key, Entry>) -> BTreeSet<SetRef> {
    entries.values().flat_map(|entry| [entry.inside, entry.outside]).filter(|set| !set.is_empty()).collect()
}

fn overlap(a: &SetRef, b: &SetRef) -> bool {
    a.offset < b.offset + b.len() && b.offset < a.offset + a.len()
}

fn tcp_key(addr: [u8; 4], port: u16) -> Key {
    Key { addr: addr.into(), port, proto: 6 }
}

#[test]
fn frontends_with_the_same_endpoints_share_one_set() {
    let mut world = World::new();
    let backends = [(1, true), (2, false), (3, false)];
    let compiled = world.apply(&[
        frontend("ns/a", [10, 96, 0, 1], 80, &backends),
        frontend("ns/a", [10, 96, 0, 1], 443, &backends),
        frontend("ns/b", [10, 96, 0, 2], 80, &backends),
        frontend("ns/c", [10, 96, 0, 3], 80, &backends[..1]),
    ]);
    assert_eq!(compiled.writes.len(), 2);
    assert_eq!(world.entries.values().map(|entry| entry.service).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(world.backends(tcp_key([10, 96, 0, 2], 80)), backends);
    assert!(world.apply(&[]).entries.is_empty());
    world.now += QUARANTINE;
    world.apply(&[]);
    assert_eq!(world.compiler.slots_used(), 0);
}

#[test]
fn traffic_policies_choose_among_local_endpoints() {
    let mut world = World::new();
    let mut both = frontend("ns/a", [10, 96, 0, 1], 80, &[(1, true), (2, false)]);
    both.external_local = true;
    let compiled = world.apply(&[both]);
    let entry = compiled.entries[&tcp_key([10, 96, 0, 1], 80)];
    assert_eq!((entry.inside.count, entry.outside.count, entry.outside.table), (2, 1, 0));
}

#[test]
fn what_this_version_cannot_serve_is_skipped_with_a_reason() {
    let good = frontend("ns/a", [10, 96, 0, 1], 80, &[]);
    let mut v6 = frontend("ns/b", [10, 96, 0, 2], 80, &[]);
    v6.addr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    let mut sctp = frontend("ns/c", [10, 96, 0, 3], 80, &[]);
    sctp.protocol = Protocol::Sctp;
    let taken = frontend("ns/d", [10, 96, 0, 1], 80, &[(9, false)]);
    // The order of the list does not matter: the first by name has the address.
    let compiled = World::new().apply(&[taken, v6, sctp, good]);
    assert_eq!(compiled.entries.len(), 1);
    assert_eq!(compiled.entries[&tcp_key([10, 96, 0, 1], 80)].outside, SetRef::default());
    let mut skipped: Vec<usize> = compiled.skipped.iter().map(|&(index, _)| index).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, [0, 1, 2]);
}

#[test]
fn a_full_map_refuses_the_frontend_and_keeps_the_rest() {
    let mut compiler = Compiler::new(300);
    let small = frontend("ns/a", [10, 96, 0, 1], 80, &[(1, false), (2, false)]);
    let large = frontend("ns/b", [10, 96, 0, 2], 80, &[(1, false), (2, false), (3, false)]);
    let compiled = compiler.compile(&[small, large], Instant::now());
    assert_eq!((compiled.entries.len(), compiled.skipped.len()), (1, 1));
}

#[test]
fn a_new_process_adopts_sets_and_service_ids() {
    let frontends = [
        frontend("ns/b", [10, 96, 0, 2], 80, &[(1, true), (2, false)]),
        frontend("ns/c", [10, 96, 0, 3], 80, &[(3, false)]),
    ];
    let mut world = World::new();
    world.apply(&frontends);
    let before = world.entries.clone();
    // One set was damaged while no one looked.
    let damaged = before[&tcp_key([10, 96, 0, 3], 80)].outside;
    world.memory[damaged.offset as usize] ^= 1 << 50;
    let mut compiler = Compiler::new(SLOTS);
    compiler.adopt(&before, |set| Some(world.read(set)));
    world.compiler = compiler;
    let first = frontend("ns/a", [10, 96, 0, 1], 80, &[(1, true), (2, false)]);
    let compiled = world.apply(&[&[first][..], &frontends].concat());
    assert_eq!(compiled.entries[&tcp_key([10, 96, 0, 2], 80)], before[&tcp_key([10, 96, 0, 2], 80)]);
    assert_eq!(compiled.writes.len(), 1, "the damaged set is written elsewhere");
    assert_ne!(compiled.entries[&tcp_key([10, 96, 0, 3], 80)].outside.offset, damaged.offset);
    let ids: BTreeSet<u32> = compiled.entries.values().map(|entry| entry.service).collect();
    assert_eq!(ids.len(), 3);
}

proptest! {
    /// Whatever came before, each frontend has its endpoints, sets in use are never written, and nothing leaks.
    #[test]
    fn any_sequence_of_changes(
        states in proptest::collection::vec(
            proptest::collection::btree_map(1u8..6, proptest::collection::btree_map(1u8..20, any::<bool>(), 0..8), 0..6),
            1..12,
        ),
        waits in proptest::collection::vec(0u64..3, 12),
    ) {
        let mut world = World::new();
        for (state, wait) in states.iter().zip(waits) {
            world.now += Duration::from_secs(wait);
            let list: Vec<Frontend> = state
                .iter()
                .map(|(&host, backends)| {
                    let backends: Vec<_> = backends.iter().map(|(&host, &is_local)| (host, is_local)).collect();
                    frontend(&format!("ns/{host}"), [10, 96, 0, host], 80, &backends)
                })
                .collect();
            let compiled = world.apply(&list);
            prop_assert!(compiled.skipped.is_empty());
            for (&host, backends) in state {
                let expected: Vec<_> = backends.iter().map(|(&host, &is_local)| (host, is_local)).collect();
                prop_assert_eq!(world.backends(tcp_key([10, 96, 0, host], 80)), expected);
            }
            prop_assert!(world.apply(&list).writes.is_empty(), "a second apply writes nothing");
        }
        world.now += QUARANTINE;
        world.apply(&[]);
        world.now += QUARANTINE;
        world.apply(&[]);
        prop_assert_eq!(world.compiler.slots_used(), 0);
    }
}
