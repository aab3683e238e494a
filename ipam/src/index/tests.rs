use std::net::IpAddr;

use api::meta::WithSpec;
use api::{IpReservation, IpReservationSpec, Metadata};
use proptest::prelude::*;

use super::*;

fn cidr(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn reserve(list: &[&str]) -> Reservations {
    let spec = IpReservationSpec { reserved_cidrs: list.iter().map(|s| s.to_string()).collect() };
    Reservations::new(&[IpReservation::new(Metadata::named("r"), WithSpec { spec, status: None })])
}

fn summary(free: usize, is_empty: bool, owner: &str) -> Option<Summary> {
    let owner = Some(AffinityOwner::Host(owner.into()));
    Some(Summary { owner, free, is_cooling: false, is_empty, claimed_at: None })
}

#[test]
fn a_free_place_is_the_first_after_the_seeded_start() {
    /// Pool, length of its blocks, seed, blocks, reservations, the place.
    type Row<'a> = (&'a str, u8, u64, &'a [&'a str], &'a [&'a str], Option<&'a str>);
    let rows: [Row; 9] = [
        ("10.0.0.0/24", 26, 0, &[], &[], Some("10.0.0.0/26")),
        ("10.0.0.0/24", 26, 7, &[], &[], Some("10.0.0.192/26")),
        ("10.0.0.0/24", 26, 3, &["10.0.0.192/26"], &[], Some("10.0.0.0/26")),
        ("10.0.0.0/24", 26, 1, &["10.0.0.64/28", "10.0.0.128/26"], &[], Some("10.0.0.192/26")),
        ("10.0.0.0/24", 26, 1, &[], &["10.0.0.64/26", "10.0.0.128/27"], Some("10.0.0.128/26")),
        ("10.0.0.0/24", 26, 0, &["10.0.0.0/24"], &[], None),
        ("10.0.0.0/28", 26, 0, &[], &[], None),
        ("fd00::/64", 122, 0, &["fd00::/122"], &["fd00::/65"], Some("fd00::8000:0:0:0/122")),
        ("255.255.255.0/24", 26, 3, &["255.255.255.192/26"], &["255.255.255.0/25"], Some("255.255.255.128/26")),
    ];
    for (pool, length, seed, blocks, reserved, expected) in rows {
        let mut index = BlockIndex::default();
        blocks.iter().for_each(|b| index.insert(cidr(b), 1, None));
        let got = index.first_free(cidr(pool), length, seed, &reserve(reserved), |_| false);
        assert_eq!(got.map(|n| n.to_string()).as_deref(), expected, "{pool} {seed} {blocks:?} {reserved:?}");
    }
}

#[test]
fn blocks_with_room_are_found_from_a_start_and_around() {
    let mut index = BlockIndex::default();
    for (block, free, owner) in [("10.0.0.0/26", 1, "a"), ("10.0.0.64/26", 0, "b"), ("10.0.0.128/26", 3, "b")] {
        index.insert(cidr(block), 1, summary(free, false, owner));
    }
    index.insert(cidr("10.0.1.0/26"), 1, summary(64, true, "a"));
    let pool = cidr("10.0.0.0/24");
    let start = |s: &str| to_number(s.parse::<IpAddr>().unwrap());
    assert_eq!(index.first_roomy(pool, start("10.0.0.64"), |_| true), Some(cidr("10.0.0.128/26")));
    assert_eq!(index.first_roomy(pool, start("10.0.0.192"), |_| true), Some(cidr("10.0.0.0/26")));
    assert_eq!(index.first_empty(pool, start("10.0.0.0"), |_, _| true), None, "of another pool");
    let b = AffinityOwner::Host("b".into());
    assert_eq!((index.owned(&b).count(), index.roomy_of(&b).count()), (2, 1));
    // As texts.
    ["10.0.9.0/26", "10.0.10.0/26"].iter().for_each(|block| index.insert(cidr(block), 1, summary(2, false, "b")));
    let roomy: Vec<String> = index.roomy_of(&b).map(|n| n.to_string()).collect();
    assert_eq!(roomy, ["10.0.0.128/26", "10.0.10.0/26", "10.0.9.0/26"]);
    ["10.0.9.0/26", "10.0.10.0/26"].iter().for_each(|block| index.remove(&cidr(block)));
    assert!(index.is_owned(&cidr("10.0.0.64/26"), &b) && !index.is_owned(&cidr("10.0.0.0/26"), &b));
    index.insert(cidr("10.0.0.128/26"), 2, summary(0, false, "c"));
    assert_eq!(index.owned(&b).collect::<Vec<_>>(), [cidr("10.0.0.64/26")]);
    assert_eq!(index.roomy_of(&b).count(), 0);
    assert_eq!(index.holding("10.0.0.130".parse().unwrap()), Some(cidr("10.0.0.128/26")));
    assert_eq!(index.holding("10.0.0.200".parse().unwrap()), None);
    // Half of the first block is another block as well.
    index.insert(cidr("10.0.0.0/27"), 3, None);
    assert!(index.is_doubtful(&cidr("10.0.0.0/26")) && index.is_doubtful(&cidr("10.0.0.0/27")));
    assert_eq!(index.first_roomy(pool, start("10.0.0.0"), |_| true), None);
}

#[test]
fn a_summary_is_that_of_the_block() {
    let now: Timestamp = "2026-08-22T10:00:00Z".parse().unwrap();
    let mut block = Block::new(cidr("10.0.0.0/30"), &AffinityOwner::Host("a".into()), now).unwrap();
    let attributes = BTreeMap::new();
    let to = crate::block::Assignee { handle: "h", attributes: &attributes };
    let check = |block: &Block| {
        let value = serde_json::to_vec(block).unwrap();
        let read = Summary::read(&KeyValue { key: Key::IpamBlock(block.cidr()), value, mod_revision: 1 });
        assert_eq!(read, Some(Summary::of(block)));
    };
    check(&block);
    let taken = block.assign(2, to, &Reservations::default(), None).unwrap();
    check(&block);
    block.release(&taken, now, jiff::SignedDuration::from_secs(60));
    assert!(Summary::of(&block).is_empty && Summary::of(&block).is_cooling);
    check(&block);
    block.clear_owner();
    check(&block);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// After any sequence of blocks that come and go, also such as overlap, the runs are what the blocks cover.
    #[test]
    fn runs_are_what_blocks_cover(steps in prop::collection::vec((any::<bool>(), 25u8..=32, 0u32..128), 0..40)) {
        let mut index = BlockIndex::default();
        let mut model: BTreeSet<IpNet> = BTreeSet::new();
        for (add, length, last) in steps {
            let block = IpNet::new(IpAddr::V4((0x0a00_0000 + last).into()), length).unwrap().trunc();
            if add {
                index.insert(block, 1, None);
                model.insert(block);
            } else {
                index.remove(&block);
                model.remove(&block);
            }
            let covered = |n: u32| model.iter().any(|b| b.contains(&IpAddr::V4((0x0a00_0000 + n).into())));
            for n in 0..128 {
                let one = IpNet::new(IpAddr::V4((0x0a00_0000 + n).into()), 32).unwrap();
                prop_assert_eq!(index.overlaps(&one), covered(n), "{}", n);
            }
            let free = index.first_free(cidr("10.0.0.0/25"), 28, 0, &Reservations::default(), |_| false);
            let expected = (0..128u32).step_by(16).find(|n| !(*n..n + 16).any(covered));
            prop_assert_eq!(free.map(|f| to_number(f.network()) as u32 - 0x0a00_0000), expected);
        }
    }
}
