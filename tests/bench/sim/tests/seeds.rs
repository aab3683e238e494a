//! Small networks, several seeds: right when all is quiet, before and after failures; the same again from the same seed.
//! `tests/bench/run.sh sim` runs the large ones.

use bgp_sim::rng::Rng;
use bgp_sim::topology::Topology;
use bgp_sim::world::World;
use bgp_sim::{check, failures};

const SPEAKERS: u32 = 60;
const PREFIXES: u32 = 400;
const FAILURES: u32 = 32;

/// Runs one seed; the world when it is quiet again.
fn run(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let topology = Topology::new(SPEAKERS, PREFIXES, &mut rng);
    let mut world = World::new(topology, seed, rng.clone());
    world.run();
    expect_right(&world, seed, "at the start");
    let failures = failures::draw(&world.topology, FAILURES, &mut rng);
    world.add_failures(failures);
    world.run();
    expect_right(&world, seed, "after failures");
    world
}

fn expect_right(world: &World, seed: u64, when: &str) {
    let verdict = check::check(world);
    assert!(verdict.entries > 0, "seed {seed} {when}: nothing was compared");
    assert_eq!(world.stats.malformed, 0, "seed {seed} {when}: malformed UPDATEs");
    assert_eq!(verdict.wrong, 0, "seed {seed} {when}: {:#?}", verdict.differences);
}

#[test]
fn every_loc_rib_is_right_when_all_is_quiet() {
    (1..=8).for_each(|seed| {
        run(seed);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, again, other) = (run(3), run(3), run(4));
    assert_eq!((one.digest(), one.stats, one.now), (again.digest(), again.stats, again.now));
    assert_ne!(one.digest(), other.digest());
}

#[test]
fn a_lost_route_is_seen() {
    let mut world = run(5);
    let speaker = world.speakers.iter_mut().flatten().last().expect("some speaker lives");
    let session = speaker.sessions.iter().find(|s| s.is_up).expect("it has a session");
    speaker.rib.withdraw(session.peer, bgp_proto::af::Family::Ipv4, &[24, 0x14, 0, 0, 24, 0x14, 0, 1]);
    assert!(check::check(&world).wrong > 0);
}
