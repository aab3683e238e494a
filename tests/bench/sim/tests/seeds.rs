//! Small networks, several seeds: right when all is quiet, before and after failures; the same again from the same seed.
//! `tests/bench/run.sh sim` runs the large ones.

use bgp_proto::af::Family;
use bgp_proto::rib::{Cursor, PeerIndex, Rib, RouteFilter, View};
use bgp_proto::wire::attribute::Attributes;
use bgp_sim::rng::Rng;
use bgp_sim::speaker::Speaker;
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

/// Something that the comparison has to find.
type Change = fn(&mut Rib, PeerIndex, Attributes);

#[test]
fn every_difference_is_seen() {
    const TWO: &[u8] = &[24, 0x14, 0, 0, 24, 0x14, 0, 1];
    let changes: [(&str, Change); 4] = [
        ("lost paths", |rib, peer, _| rib.withdraw(peer, Family::Ipv4, TWO)),
        ("stale paths", |rib, peer, _| rib.mark_stale(peer, Family::Ipv4)),
        ("a path too many", |rib, peer, a| rib.announce(peer, Family::Ipv4, &[24, 0x20, 0, 0], a)),
        ("a path, best or not, with another attribute", |rib, peer, a| {
            rib.announce(peer, Family::Ipv4, TWO, Attributes { med: Some(1), local_pref: Some(1), ..a });
        }),
    ];
    let (mut world, mut wrong) = (run(5), 0);
    for (i, (name, change)) in changes.into_iter().enumerate() {
        let has_session = |s: &&mut Speaker| s.sessions.iter().any(|s| s.is_up);
        let speaker = world.speakers.iter_mut().flatten().rev().filter(has_session).nth(i).expect("some live");
        let peer = speaker.sessions.iter().find(|s| s.is_up).expect("it has a session").peer;
        let (routes, _) = speaker.rib.routes(View::Received(Some(peer)), &RouteFilter::default(), Cursor::START, 9999);
        let attributes = routes[0].attributes.clone();
        change(&mut speaker.rib, peer, attributes);
        let now = check::check(&world).wrong;
        assert!(now > wrong, "{name}");
        wrong = now;
    }
}
