use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// Calico's stored form of a block with a tunnel address and a pod (its sample, with a /30).
const CALICO: &str = r#"{"cidr":"10.0.0.64/30","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z",
 "allocations":[0,null,null,1],"unallocated":[1,2],
 "attributes":[
  {"handle_id":"ipip-tunnel-addr-node-1","secondary":{"node":"node-1","type":"ipipTunnelAddress"}},
  {"handle_id":"k8s-pod-network.4f1c","secondary":{"namespace":"default","node":"node-1","pod":"web-0","timestamp":"2026-08-22 10:00:00.12 +0000 UTC"}}],
 "sequenceNumber":1787392800000000003,
 "sequenceNumberForAllocation":{"0":1787392800000000001,"3":1787392800000000002},"deleted":false}"#;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_787_392_800 + seconds).unwrap()
}

fn host(name: &str) -> AffinityOwner {
    AffinityOwner::Host(name.into())
}

fn none() -> Reservations {
    Reservations::default()
}

fn assign(block: &mut Block, n: usize, handle: &str) -> Vec<IpAddr> {
    let attributes = BTreeMap::from([("node".to_string(), "node-1".to_string())]);
    block.assign(n, Assignee { handle, attributes: &attributes }, &none(), None).unwrap()
}

#[test]
fn calicos_block_round_trips() {
    let stored: AllocationBlock = serde_json::from_str(CALICO).unwrap();
    let block = Block::from_stored(stored).unwrap();
    let written = serde_json::to_value(block.stored()).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(CALICO).unwrap());
    assert_eq!(block.owner(), Some(host("node-1")));
    assert_eq!(block.addresses_of("k8s-pod-network.4f1c"), [ip("10.0.0.67")]);
}

#[test]
fn a_block_with_an_owner_in_the_deprecated_field_has_that_owner() {
    let old = CALICO.replace(r#""host:node-1""#, "null").replacen('{', r#"{"hostAffinity":"node-9","#, 1);
    let stored: AllocationBlock = serde_json::from_str(&old).unwrap();
    assert_eq!(owner_of(&stored), Some(host("node-9")));
    let mut block = Block::from_stored(stored).unwrap();
    let written = serde_json::to_value(&block).unwrap();
    assert_eq!((&written["affinity"], written.get("hostAffinity")), (&"host:node-9".into(), None));
    // Beside an owner it says nothing, and does not come to life with the owner's end.
    let both = CALICO.replacen('{', r#"{"hostAffinity":"node-9","#, 1);
    block = Block::from_stored(serde_json::from_str(&both).unwrap()).unwrap();
    assert_eq!(block.owner(), Some(host("node-1")));
    block.clear_owner();
    let again: AllocationBlock = serde_json::from_value(serde_json::to_value(&block).unwrap()).unwrap();
    assert_eq!(owner_of(&again), None);
}

#[test]
fn what_is_stored_wrongly_is_refused() {
    type Break = fn(&mut AllocationBlock);
    let rows: [(&str, Break); 6] = [
        ("2 slots for 4 addresses", |b| b.allocations.truncate(2)),
        ("an address has attribute 7 of 2", |b| b.allocations[0] = Some(7)),
        ("ordinal 1 is free twice", |b| b.unallocated = vec![1, 2, 1]),
        ("ordinal 0 is free and allocated", |b| b.unallocated = vec![0, 1, 2]),
        ("ordinal 9 is outside the block", |b| b.unallocated = vec![1, 2, 9]),
        ("ordinal 2 is neither free nor allocated", |b| b.unallocated = vec![1]),
    ];
    for (reason, break_it) in rows {
        let mut stored: AllocationBlock = serde_json::from_str(CALICO).unwrap();
        break_it(&mut stored);
        let error = Block::from_stored(stored).unwrap_err();
        assert_eq!(error, BlockError::Inconsistent { cidr: net("10.0.0.64/30"), reason: reason.into() });
    }
}

#[test]
fn blocks_hold_4096_addresses_and_no_more() {
    for (cidr, size) in [
        ("10.0.0.0/20", Some(4096)),
        ("10.0.0.0/26", Some(64)),
        ("10.0.0.7/32", Some(1)),
        ("fd00::/116", Some(4096)),
        ("fd00::7/128", Some(1)),
        ("10.0.0.0/19", None),
        ("fd00::/64", None),
    ] {
        let block = Block::new(net(cidr), &host("n"), at(0));
        assert_eq!(block.ok().map(|b| b.stored().allocations.len()), size, "{cidr}");
    }
}

#[test]
fn the_first_and_the_last_address_are_given_too() {
    let mut block = Block::new(net("fd00::10/126"), &host("n"), at(0)).unwrap();
    let all = ["fd00::10", "fd00::11", "fd00::12", "fd00::13"].map(ip);
    assert_eq!(assign(&mut block, 9, "h"), all);
    assert!(assign(&mut block, 1, "h").is_empty());
}

#[test]
fn a_released_address_waits_behind_all_others() {
    let mut block = Block::new(net("10.0.0.0/30"), &host("n"), at(0)).unwrap();
    let first = assign(&mut block, 1, "a");
    assert_eq!(first, [ip("10.0.0.0")]);
    block.release(&first, at(1), SignedDuration::ZERO);
    assert_eq!(assign(&mut block, 4, "b"), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.0"].map(ip));
}

#[test]
fn equal_attributes_share_one_entry_and_unused_entries_go() {
    let mut block = Block::new(net("10.0.0.0/29"), &host("n"), at(0)).unwrap();
    let a = assign(&mut block, 2, "a");
    let b = assign(&mut block, 1, "b");
    assign(&mut block, 1, "a");
    assert_eq!(block.stored().attributes.len(), 2);
    block.release(&a, at(1), SignedDuration::ZERO);
    assert_eq!(block.stored().attributes.len(), 2, "one address of a is left");
    block.release(&block.addresses_of("a"), at(1), SignedDuration::ZERO);
    assert_eq!(block.stored().attributes.len(), 1);
    assert_eq!(block.attribute_of(b[0]).unwrap().handle_id.as_deref(), Some("b"), "the index was moved");
}

#[test]
fn reserved_addresses_are_passed_over_unless_asked_for() {
    let reservation = api::IpReservation::new(
        api::Metadata::named("r"),
        api::meta::WithSpec {
            spec: api::IpReservationSpec { reserved_cidrs: vec!["10.0.0.0/31".into(), "10.0.0.3".into()] },
            status: None,
        },
    );
    let reserved = Reservations::new(&[reservation]);
    let mut block = Block::new(net("10.0.0.0/30"), &host("n"), at(0)).unwrap();
    let attributes = BTreeMap::new();
    let to = Assignee { handle: "h", attributes: &attributes };
    assert_eq!(block.assign(4, to, &reserved, None).unwrap(), [ip("10.0.0.2")]);
    assert_eq!(block.stored().unallocated, [0, 1, 3], "in order");
    block.assign_address(ip("10.0.0.3"), to, None).unwrap();
    assert_eq!(block.assign_address(ip("10.0.0.3"), to, None), Err(BlockError::AlreadyAssigned(ip("10.0.0.3"))));
    let outside = block.assign_address(ip("10.0.0.4"), to, None);
    assert!(matches!(outside, Err(BlockError::NotInBlock { .. })));
}

#[test]
fn under_strict_affinity_only_the_owner_takes() {
    let mut block = Block::new(net("10.0.0.0/30"), &host("node-1"), at(0)).unwrap();
    let attributes = BTreeMap::new();
    let to = Assignee { handle: "h", attributes: &attributes };
    let error = block.assign(1, to, &none(), Some(&host("node-2"))).unwrap_err();
    assert!(error.to_string().starts_with("Block host affinity does not match"), "{error}");
    assert_eq!(block.assign(1, to, &none(), Some(&host("node-1"))).unwrap().len(), 1);
    assert_eq!(block.assign(1, to, &none(), None).unwrap().len(), 1);
}

#[test]
fn a_cooling_address_is_nobodys_until_it_is_cold() {
    let cooldown = SignedDuration::from_secs(60);
    let mut block = Block::new(net("10.0.0.0/31"), &host("n"), at(0)).unwrap();
    let both = assign(&mut block, 2, "a");
    let released = block.release(&both, at(10), cooldown);
    assert_eq!(released.len(), 2);
    assert!(block.allocated().next().is_none() && !block.is_empty());
    assert!(block.release(&both, at(11), cooldown).is_empty(), "a second release finds nothing");
    assert!(!block.thaw(at(69), cooldown));
    assert!(assign(&mut block, 1, "b").is_empty());
    assert!(block.thaw(at(70), cooldown));
    assert!(block.is_empty() && block.stored().attributes.is_empty());
    assert_eq!(assign(&mut block, 1, "b"), [ip("10.0.0.0")]);
}

#[test]
fn every_change_advances_the_sequence_and_marks_its_allocations() {
    let mut block = Block::new(net("10.0.0.0/30"), &host("n"), at(0)).unwrap();
    let start = block.stored().sequence_number;
    assert_eq!(start, 1_787_392_800_000_000_000);
    let taken = assign(&mut block, 1, "a");
    assert_eq!((block.sequence_of(taken[0]), block.stored().sequence_number), (Some(start), start + 1));
    block.release(&taken, at(1), SignedDuration::ZERO);
    assert_eq!((block.sequence_of(taken[0]), block.stored().sequence_number), (None, start + 2));
    assert!(block.release(&taken, at(1), SignedDuration::ZERO).is_empty());
    assert_eq!(block.stored().sequence_number, start + 2, "nothing changed");
}

/// What is in a Calico block and is not of ours goes back as it came, byte for byte.
#[test]
fn a_block_is_written_as_its_stored_form_is() {
    let cidr = net("10.0.0.0/24");
    let mut block = Block::new(cidr, &host("n"), at(0)).unwrap();
    for n in 0..250 {
        assign(&mut block, 1, &format!("h{}", n % 90));
    }
    let odd: Vec<IpAddr> = (0..250).filter(|n| n % 3 == 0).map(|n| address_at(cidr, n)).collect();
    block.release(&odd[..40], at(5), SignedDuration::from_secs(60));
    block.release(&odd[40..], at(6), SignedDuration::ZERO);
    let mut stored = block.stored();
    stored.sequence_number_for_allocation.extend([("0".into(), 0), ("007".into(), 4), ("999".into(), 5)]);
    stored.extra.insert("vendor".into(), serde_json::json!({"x": [1, 2]}));
    stored.attributes.push(AllocationAttribute { handle_id: Some("unused".into()), ..Default::default() });
    let text = serde_json::to_string(&stored).unwrap();
    let mut read = Block::from_stored(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    assert!(text.contains(r#""sequenceNumberForAllocation":{"0":0,"007":4,"1":"#), "sorted as texts");
    // An entry that nothing points at goes with the next release.
    assert!(read.addresses_of("unused").is_empty());
    read.release(&read.addresses_of("h1"), at(7), SignedDuration::ZERO);
    assert!(read.stored().attributes.iter().all(|a| a.handle_id.as_deref() != Some("unused")));
}

/// Entries come and go for longer than a block has room for them; those of others keep what they say.
#[test]
fn entries_stay_right_through_any_churn() {
    let cidr = net("10.0.0.0/29");
    let mut block = Block::new(cidr, &host("n"), at(0)).unwrap();
    let kept = assign(&mut block, 2, "kept");
    for n in 0..500 {
        let handle = format!("h{n}");
        let taken = assign(&mut block, 3, &handle);
        assert_eq!(block.addresses_of(&handle).len(), 3);
        block.release(&taken, at(n), SignedDuration::ZERO);
        assert_eq!(block.addresses_of("kept"), kept);
        assert!(block.entries.len() <= 2 * block.live + MIN_UNUSED + 2, "{}", block.entries.len());
    }
    assert_eq!(block.stored().attributes.len(), 1);
}

#[test]
fn a_reserved_head_of_the_queue_is_passed_once() {
    let reserve = |list: &[&str]| {
        let spec = api::IpReservationSpec { reserved_cidrs: list.iter().map(|s| s.to_string()).collect() };
        let body = api::meta::WithSpec { spec, status: None };
        Reservations::new(&[api::IpReservation::new(api::Metadata::named("r"), body)])
    };
    let mut block = Block::new(net("10.0.0.0/29"), &host("n"), at(0)).unwrap();
    let attributes = BTreeMap::new();
    let to = Assignee { handle: "h", attributes: &attributes };
    let low = reserve(&["10.0.0.0/30"]);
    assert_eq!(block.assign(1, to, &low, None).unwrap(), [ip("10.0.0.4")]);
    assert_eq!(block.reserved_before, Some((low.fingerprint(), 5)));
    block.assign_address(ip("10.0.0.5"), to, None).unwrap();
    assert_eq!(block.assign(9, to, &low, None).unwrap(), ["10.0.0.6", "10.0.0.7"].map(ip));
    block.release(&[ip("10.0.0.6")], at(1), SignedDuration::ZERO);
    assert_eq!(block.assign(9, to, &low, None).unwrap(), [ip("10.0.0.6")], "what comes back is behind");
    // Other reservations: from the head.
    assert_eq!(
        block.assign(9, to, &reserve(&["10.0.0.1"]), None).unwrap(),
        ["10.0.0.0", "10.0.0.2", "10.0.0.3"].map(ip)
    );
}

/// A block is stored in as many bytes as it says or a few less for each slot, whatever it holds and however full it is.
#[test]
fn the_stored_length_is_never_more_than_was_reckoned() {
    let check = |block: &Block, what: &str| {
        let (stored, reckoned) = (api::go_json::to_vec(block).unwrap().len(), block.stored_len());
        let slots = block.holders.len();
        assert!(
            stored <= reckoned && reckoned <= stored + 200 + slots * 16,
            "{what}: {stored} stored, {reckoned} reckoned"
        );
    };
    for (cidr, size) in
        [("10.0.0.0/20", 4096), ("fd00:1111:2222:3333:4444:5555:6666:7000/116", 4096), ("10.0.0.0/32", 1)]
    {
        let long = "n".repeat(253);
        let mut block = Block::new(net(cidr), &host(&long), at(0)).unwrap();
        check(&block, "empty");
        for n in 0..size {
            let handle = format!("k8s-pod-network.{n}");
            let pod = format!("web-{n} <b>&\u{2028}é\u{1}\t\"\\\u{7f}");
            let attributes = BTreeMap::from([("pod".to_string(), pod), ("namespace".to_string(), long.clone())]);
            let to = Assignee { handle: &handle, attributes: &attributes };
            let before = block.stored_len();
            let growth = block.growth(1, to);
            assert_eq!(block.assign(1, to, &none(), None).unwrap().len(), 1);
            assert_eq!(block.stored_len(), before + growth, "{n}");
        }
        check(&block, "full");
        let some: Vec<IpAddr> = (0..size).step_by(3).map(|o| address_at(net(cidr), o)).collect();
        block.release(&some, at(1), SignedDuration::from_secs(60));
        check(&block, "cooling");
        let read = Block::from_stored(serde_json::from_slice(&api::go_json::to_vec(&block).unwrap()).unwrap()).unwrap();
        assert_eq!(read.stored_len(), block.stored_len(), "as it is read");
        block.thaw(at(100), SignedDuration::from_secs(60));
        check(&block, "cold");
    }
    // What others store: an alternate owner, fields that we do not know, numbers of no ordinal.
    let rich = CALICO
        .replacen(
            r#""handle_id""#,
            r#""alternateOwnerAttrs":{"pod":"<old>","node":"node-2"},"later":{"a":["&"]},"handle_id""#,
            1,
        )
        .replacen('{', r#"{"unknown":{"x":"<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<"},"#, 1)
        .replace(r#"{"0":"#, r#"{"700":1,"0":"#);
    let rich = Block::from_stored(serde_json::from_str(&rich).unwrap()).unwrap();
    check(&rich, "others'");
    assert!(api::go_json::to_vec(&rich).unwrap().len() > 900);
}

/// Addresses of one handle share an entry, which counts once.
#[test]
fn a_block_gives_what_it_has_bytes_for() {
    let mut block = Block::new(net("10.0.0.0/20"), &host("n"), at(0)).unwrap();
    let attributes = BTreeMap::from([("note".to_string(), "x".repeat(100_000))]);
    for handle in 0..11 {
        let handle = handle.to_string();
        let to = Assignee { handle: &handle, attributes: &attributes };
        assert_eq!(block.fitting(300, to), 300);
        assert_eq!(block.assign(300, to, &none(), None).unwrap().len(), 300);
        assert!(block.stored_len() <= MAX_BYTES);
    }
    let (old, new) =
        (Assignee { handle: "0", attributes: &attributes }, Assignee { handle: "11", attributes: &attributes });
    assert_eq!((block.fitting(300, new), block.free()), (0, 4096 - 11 * 300));
    let more = block.fitting(300, old);
    assert!(more > 0 && block.growth(more, old) < 10_000, "{more}");
}

#[derive(Clone, Debug)]
enum Step {
    Assign { n: usize, handle: u8 },
    Take { ordinal: usize, handle: u8 },
    Release { ordinals: Vec<usize> },
    ReleaseHandle { handle: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6usize, 0..4u8).prop_map(|(n, handle)| Step::Assign { n, handle }),
        (0..20usize, 0..4u8).prop_map(|(ordinal, handle)| Step::Take { ordinal, handle }),
        prop::collection::vec(0..20usize, 0..6).prop_map(|ordinals| Step::Release { ordinals }),
        (0..4u8).prop_map(|handle| Step::ReleaseHandle { handle }),
    ]
}

proptest! {
    /// Any sequence of steps gives what a queue and a map give, and what is stored reads back as a valid block.
    #[test]
    fn a_block_is_a_queue_and_a_map(steps in prop::collection::vec(step(), 0..60)) {
        let cidr = net("10.0.0.0/28");
        let mut block = Block::new(cidr, &host("n"), at(0)).unwrap();
        let mut queue: VecDeque<usize> = (0..16).collect();
        let mut holders: BTreeMap<usize, u8> = BTreeMap::new();
        let attributes = BTreeMap::new();
        for step in steps {
            match step {
                Step::Assign { n, handle } => {
                    let expected: Vec<usize> = queue.drain(..n.min(queue.len())).collect();
                    let text = handle.to_string();
                    let to = Assignee { handle: &text, attributes: &attributes };
                    let taken = block.assign(n, to, &none(), None).unwrap();
                    prop_assert_eq!(taken, expected.iter().map(|&o| address_at(cidr, o)).collect::<Vec<_>>());
                    holders.extend(expected.into_iter().map(|o| (o, handle)));
                }
                Step::Take { ordinal, handle } => {
                    let text = handle.to_string();
                    let to = Assignee { handle: &text, attributes: &attributes };
                    let ok = block.assign_address(address_at(cidr, ordinal), to, None).is_ok();
                    prop_assert_eq!(ok, queue.contains(&ordinal));
                    if ok {
                        queue.retain(|&o| o != ordinal);
                        holders.insert(ordinal, handle);
                    }
                }
                Step::Release { ordinals } => {
                    let addresses: Vec<IpAddr> = ordinals.iter().map(|&o| address_at(cidr, o)).collect();
                    let expected: Vec<usize> = ordinals.into_iter().filter(|o| holders.remove(o).is_some()).collect();
                    prop_assert_eq!(block.release(&addresses, at(0), SignedDuration::ZERO).len(), expected.len());
                    queue.extend(expected);
                }
                Step::ReleaseHandle { handle } => {
                    let expected: Vec<usize> = holders.iter().filter(|(_, h)| **h == handle).map(|(o, _)| *o).collect();
                    let mine = block.addresses_of(&handle.to_string());
                    prop_assert_eq!(block.release(&mine, at(0), SignedDuration::ZERO).len(), expected.len());
                    holders.retain(|_, h| *h != handle);
                    queue.extend(expected);
                }
            }
            let text = serde_json::to_string(&block).unwrap();
            prop_assert!((text.len()..text.len() + 800).contains(&block.stored_len()), "{} {}", text.len(), block.stored_len());
            prop_assert_eq!(&text, &serde_json::to_string(&block.stored()).unwrap());
            let read = Block::from_stored(serde_json::from_str(&text).unwrap()).unwrap();
            prop_assert_eq!(&read, &block);
            prop_assert_eq!(&read.stored().unallocated, &queue.iter().copied().collect::<Vec<_>>());
            let used: std::collections::BTreeSet<u8> = holders.values().copied().collect();
            prop_assert_eq!(read.stored().attributes.len(), used.len());
        }
    }
}
