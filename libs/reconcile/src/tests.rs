//! [`Delta`] against a simple model: two maps and a world that sometimes refuses.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u8),
    Remove(u8),
    SetDesired(BTreeMap<u8, u8>),
    /// Somebody else changes the world, and we are told.
    Drift(u8, Option<u8>),
    /// Somebody else changes the world, and we are not told.
    SilentDrift(u8, Option<u8>),
    Resync,
    /// Applies; keys in the set are refused.
    Apply(BTreeSet<u8>),
    /// The same, but no more keys than this.
    ApplySome(BTreeSet<u8>, usize),
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u8..12;
    let map = prop::collection::btree_map(0u8..12, 0u8..3, 0..6);
    prop_oneof![
        (key.clone(), 0u8..3).prop_map(|(k, v)| Step::Insert(k, v)),
        key.clone().prop_map(Step::Remove),
        map.prop_map(Step::SetDesired),
        (key.clone(), prop::option::of(0u8..3)).prop_map(|(k, v)| Step::Drift(k, v)),
        (key, prop::option::of(0u8..3)).prop_map(|(k, v)| Step::SilentDrift(k, v)),
        Just(Step::Resync),
        prop::collection::btree_set(0u8..12, 0..5).prop_map(Step::Apply),
        (prop::collection::btree_set(0u8..12, 0..5), 1usize..5).prop_map(|(r, n)| Step::ApplySome(r, n)),
        (0u64..60_000).prop_map(Step::Sleep),
    ]
}

/// One apply of at most `limit` keys against `world`; returns the number of writes and deletes that were tried.
fn apply(
    delta: &mut Delta<u8, u8>,
    world: &mut BTreeMap<u8, u8>,
    (refused, limit): (&BTreeSet<u8>, usize),
    now: Instant,
) -> (usize, usize) {
    let pending = delta.pending_up_to(now, limit);
    let counts = (pending.updates.len(), pending.deletes.len());
    for (k, v) in pending.updates {
        if refused.contains(&k) {
            delta.record_failure(&k, now);
        } else {
            world.insert(k, v);
            delta.record_write(&k, v);
        }
    }
    for (k, _) in pending.deletes {
        if refused.contains(&k) {
            delta.record_failure(&k, now);
        } else {
            world.remove(&k);
            delta.record_delete(&k);
        }
    }
    counts
}

proptest! {
    #[test]
    fn any_history_ends_at_the_desired_state_and_stays_there(
        start in prop::collection::btree_map(0u8..12, 0u8..3, 0..8),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut now = Instant::now();
        let (mut world, mut wanted) = (start, BTreeMap::new());
        let mut delta = Delta::new();
        delta.resync(world.clone());
        for step in steps {
            match step {
                Step::Insert(k, v) => { wanted.insert(k, v); delta.insert(k, v); }
                Step::Remove(k) => { wanted.remove(&k); delta.remove(&k); }
                Step::SetDesired(m) => { wanted = m.clone(); delta.set_desired(m); }
                Step::Drift(k, v) => {
                    match v { Some(v) => world.insert(k, v), None => world.remove(&k) };
                    delta.observe(k, v);
                }
                Step::SilentDrift(k, v) => { match v { Some(v) => world.insert(k, v), None => world.remove(&k) }; }
                Step::Resync => delta.resync(world.clone()),
                Step::Apply(refused) => { apply(&mut delta, &mut world, (&refused, usize::MAX), now); }
                Step::ApplySome(refused, limit) => {
                    let (updates, deletes) = apply(&mut delta, &mut world, (&refused, limit), now);
                    prop_assert!(updates + deletes <= limit);
                }
                Step::Sleep(ms) => now += Duration::from_millis(ms),
            }
            prop_assert_eq!(delta.desired(), &wanted);
            for k in 0..12u8 {
                let differs = delta.desired.get(&k) != delta.actual.get(&k);
                let failed = delta.has_failed(&k);
                let places = [delta.to_write.contains(&k), delta.to_delete.contains(&k), failed];
                prop_assert_eq!(places.into_iter().filter(|p| *p).count(), usize::from(differs));
                prop_assert!(!places[0] || delta.desired.contains_key(&k));
                prop_assert!(!places[1] || !delta.desired.contains_key(&k));
                prop_assert_eq!(delta.due.iter().filter(|(_, d)| *d == k).count(), usize::from(failed));
            }
        }
        delta.resync(world.clone());
        delta.set_in_sync();
        now += RETRY_MAX;
        // A slice at a time comes to the end as well.
        while apply(&mut delta, &mut world, (&BTreeSet::new(), 2), now) != (0, 0) {}
        prop_assert_eq!(&world, &wanted);
        prop_assert!(delta.is_clean());
        prop_assert_eq!(delta.failed(), 0);
        prop_assert_eq!(apply(&mut delta, &mut world, (&BTreeSet::new(), usize::MAX), now), (0, 0), "a second apply writes nothing");
    }

    #[test]
    fn nothing_is_deleted_before_in_sync(
        world in prop::collection::btree_map(0u8..12, 0u8..3, 0..8),
        desired in prop::collection::btree_map(0u8..12, 0u8..3, 0..8),
    ) {
        let now = Instant::now();
        let mut delta = Delta::new();
        delta.resync(world.clone());
        delta.set_desired(desired.clone());
        prop_assert!(delta.pending(now).deletes.is_empty());
        delta.set_in_sync();
        let deletes: Vec<u8> = delta.pending(now).deletes.into_iter().map(|(k, _)| k).collect();
        let strangers: Vec<u8> = world.keys().filter(|k| !desired.contains_key(k)).copied().collect();
        prop_assert_eq!(deletes, strangers);
    }
}

#[test]
fn a_failed_key_waits_longer_every_time_and_the_others_proceed() {
    let (start, mut delta) = (Instant::now(), Delta::new());
    delta.insert("bad", 1);
    delta.insert("good", 1);
    let mut now = start;
    for wait_ms in [100, 200, 400, 800] {
        assert!(delta.pending(now).updates.contains(&("bad", 1)));
        delta.record_write(&"good", 1);
        delta.record_failure(&"bad", now);
        assert_eq!(delta.next_deadline(), Some(now + Duration::from_millis(wait_ms)));
        assert!(delta.pending(now + Duration::from_millis(wait_ms - 1)).is_empty());
        now += Duration::from_millis(wait_ms);
    }
    (0..20).for_each(|_| delta.record_failure(&"bad", now));
    assert_eq!(delta.next_deadline(), Some(now + RETRY_MAX), "the wait has a limit");
}

#[test]
fn updates_go_before_deletes_however_few_at_a_time() {
    let (now, mut delta) = (Instant::now(), Delta::new());
    delta.resync([(1, 0), (2, 0)].into());
    delta.set_in_sync();
    (5..8).for_each(|k| delta.insert(k, 1));
    let first = delta.pending_up_to(now, 2);
    assert_eq!((first.updates, first.deletes), (vec![(5, 1), (6, 1)], vec![]));
    let all = delta.pending_up_to(now, 4);
    assert_eq!((all.updates.len(), all.deletes), (3, vec![(1, 0)]));
}

#[test]
fn new_information_ends_the_wait_of_a_failed_key() {
    type Change = fn(&mut Delta<&'static str, u8>);
    let rows: [(&str, Change); 3] = [
        ("another desired value", |d| d.insert("k", 2)),
        ("another actual value", |d| d.observe("k", Some(9))),
        ("the caller says so", |d| d.retry_now()),
    ];
    for (name, change) in rows {
        let (now, mut delta) = (Instant::now(), Delta::new());
        delta.insert("k", 1);
        delta.record_failure(&"k", now);
        assert!(delta.pending(now).is_empty(), "{name}: waits first");
        change(&mut delta);
        assert_eq!(delta.pending(now).updates.len(), 1, "{name}");
    }
}
