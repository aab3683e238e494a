//! A service of many workloads: how its endpoints are divided into slices, and what a change rewrites.

use std::collections::BTreeSet;

use super::super::slices::MAX_ENDPOINTS;
use super::world::{World, key_of};
use super::*;

const PODS: usize = 2_500;

fn ip_of(n: usize) -> String {
    format!("10.1.{}.{}", n / 250, n % 250)
}

fn pod(n: usize) -> Value {
    workload(&format!("p{n}"), &ip_of(n), json!({"app": "web", "track": "a"}))
}

/// A service, and its slices.
fn world(pods: usize) -> World {
    let mut documents: Vec<Value> = (0..pods).map(pod).collect();
    documents.push(web(json!([{"name": "http", "port": 80, "targetPort": "http"}])));
    let mut world = World::new(&documents);
    world.settle();
    world
}

fn stored(world: &World) -> Vec<EndpointSlice> {
    let of_kind = world.objects.iter().filter(|(key, _)| key.kind() == Some(api::Kind::EndpointSlice));
    of_kind.map(|(_, document)| serde_json::from_value(document.clone()).unwrap()).collect()
}

/// Every workload of these is in one slice, none of which is too long or empty.
fn assert_has(world: &World, pods: impl Iterator<Item = usize>) {
    let slices = stored(world);
    let mut found: Vec<&str> = slices.iter().flat_map(addresses).collect();
    found.sort_unstable();
    let mut wanted: Vec<String> = pods.map(ip_of).collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert!(slices.iter().all(|s| (1..=MAX_ENDPOINTS).contains(&s.body.endpoints.len())), "{:?}", lengths(world));
}

fn lengths(world: &World) -> Vec<usize> {
    stored(world).iter().map(|slice| slice.body.endpoints.len()).collect()
}

/// How many slices are written and deleted after a change.
fn writes(world: &mut World) -> (usize, usize) {
    let before = stored(world);
    world.settle();
    let after = stored(world);
    let names = |slices: &[EndpointSlice]| slices.iter().map(|s| s.metadata.name.clone()).collect::<BTreeSet<_>>();
    let written = after.iter().filter(|s| !before.contains(s)).count();
    (written, names(&before).difference(&names(&after)).count())
}

#[test]
fn many_workloads_are_divided_and_a_change_of_one_writes_one_slice() {
    let mut world = world(PODS);
    assert_has(&world, 0..PODS);
    assert_eq!(lengths(&world), [MAX_ENDPOINTS; PODS / MAX_ENDPOINTS]);
    let named: BTreeSet<String> = stored(&world).into_iter().map(|s| s.metadata.name).collect();
    assert!(named.contains("web-tortie") && named.contains("web-tortie-25"), "{named:?}");
    world.state.mark_all();
    assert_eq!(world.settle(), 0, "done is done");

    world.delete(&key_of(&pod(7)));
    assert_eq!(writes(&mut world), (1, 0), "one that goes");
    world.put(pod(PODS));
    assert_eq!(writes(&mut world), (1, 0), "one that comes goes where there is room");
    assert_has(&world, (0..=PODS).filter(|n| *n != 7));
    assert_eq!(stored(&world).len(), PODS / MAX_ENDPOINTS);
    world.put(pod(7));
    assert_eq!(writes(&mut world), (1, 0), "one too many has a slice of its own");
    assert_eq!(stored(&world).len(), PODS / MAX_ENDPOINTS + 1);
    world.delete(&key_of(&pod(7)));
    assert_eq!(writes(&mut world), (0, 1), "which goes with it");
    // One is replaced, as in a rollout.
    world.delete(&key_of(&pod(1_000)));
    world.put(pod(7));
    assert_eq!(writes(&mut world), (1, 0));
    world.change(&key_of(&pod(2_000)), |w| w["spec"]["node"] = json!("worker02"));
    assert_eq!(writes(&mut world), (1, 0));
    assert_has(&world, (0..=PODS).filter(|n| *n != 1_000));
}

#[test]
fn slices_that_nothing_is_left_for_go_and_one_stays() {
    let mut world = world(PODS);
    (1..PODS).for_each(|n| world.delete(&key_of(&pod(n))));
    world.settle();
    assert_has(&world, 0..1);
    assert_eq!(lengths(&world), [1]);
    world.delete(&key_of(&pod(0)));
    world.settle();
    assert_eq!(lengths(&world), [0], "a service without workloads has an empty slice");
    (0..PODS).for_each(|n| world.put(pod(n)));
    world.settle();
    assert_has(&world, 0..PODS);
    let service = key_of(&web(json!([])));
    world.delete(&service);
    world.settle();
    assert_eq!(stored(&world).len(), 0);
}

/// Another port: the slices are rewritten, not made anew beside the old ones.
#[test]
fn another_port_keeps_the_names() {
    let mut world = world(PODS);
    let names = |world: &World| stored(world).into_iter().map(|s| s.metadata.name).collect::<Vec<_>>();
    let before = names(&world);
    world.change(&key_of(&web(json!([]))), |s| s["spec"]["ports"][0]["targetPort"] = json!(9090));
    assert_eq!(writes(&mut world), (PODS / MAX_ENDPOINTS, 0));
    assert_eq!(names(&world), before);
    assert!(stored(&world).iter().all(|s| s.body.ports[0].port == Some(9090)));
}

/// What was written without a bound is divided; what is in it stays in its place as far as there is room.
#[test]
fn a_slice_that_is_too_long_is_divided() {
    let mut world = world(1);
    let mut long = serde_json::to_value(&stored(&world)[0]).unwrap();
    let mut documents: Vec<Value> = (0..PODS).map(pod).collect();
    let one = long["endpoints"][0].clone();
    long["endpoints"] = (0..PODS)
        .map(|n| {
            let mut endpoint = one.clone();
            endpoint["addresses"] = json!([ip_of(n)]);
            endpoint["targetRef"]["name"] = json!(format!("p{n}"));
            endpoint
        })
        .collect();
    documents.push(long);
    documents.into_iter().for_each(|document| world.put(document));
    world.settle();
    assert_has(&world, 0..PODS);
    let first = stored(&world).into_iter().find(|s| s.metadata.name == "web-tortie").unwrap();
    assert_eq!(addresses(&first), (0..MAX_ENDPOINTS).map(ip_of).collect::<Vec<_>>());
}

/// Each change writes no more slices than endpoints have changed, and all that is left is in one.
#[test]
fn any_changes_write_no_more_slices_than_they_are() {
    let mut world = world(0);
    let (mut present, mut random) = (BTreeSet::new(), 7u64);
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let changed = (random >> 33) as usize % 150 + 1;
        let first = (random >> 13) as usize % 900;
        for n in (first..first + changed).filter(|n| n % 3 != 0) {
            match present.insert(n) {
                true => world.put(pod(n)),
                false => {
                    present.remove(&n);
                    world.delete(&key_of(&pod(n)));
                }
            }
        }
        let (written, deleted) = writes(&mut world);
        assert!(written + deleted <= changed, "{written} and {deleted} for {changed}");
        if !present.is_empty() {
            assert_has(&world, present.iter().copied());
        }
    }
}
