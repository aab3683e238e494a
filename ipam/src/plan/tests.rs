use super::*;

fn nodes(count: usize) -> Vec<PlannedNode> {
    (0..count).map(|n| PlannedNode { name: format!("node-{n}"), pools: vec![0] }).collect()
}

fn scenario(pool: &str, count: usize, pods_per_node: usize) -> Scenario {
    Scenario {
        pools: vec![pool.parse().unwrap()],
        nodes: nodes(count),
        pods_per_node,
        max_pods_per_node: 110,
        churn: 0.5,
        hours: 4.0,
        strict_affinity: false,
        max_blocks_per_host: 20,
        seed: 1,
    }
}

#[test]
fn sizes_are_those_that_calico_allows_and_every_pool_can_hold() {
    let rows: [(&[&str], std::ops::RangeInclusive<u8>); 5] = [
        (&["10.0.0.0/16"], 20..=32),
        (&["10.0.0.0/24"], 24..=32),
        (&["10.0.0.0/16", "10.1.0.0/26"], 26..=32),
        (&["fd00::/64"], 116..=128),
        (&["fd00::/120"], 120..=128),
    ];
    for (pools, expected) in rows {
        let pools: Vec<IpNet> = pools.iter().map(|p| p.parse().unwrap()).collect();
        assert_eq!(sizes(&pools), expected.collect::<Vec<u8>>());
    }
    assert_eq!(sizes(&[]), Vec::<u8>::new());
}

#[test]
fn with_room_for_all_nothing_is_borrowed_and_each_node_has_a_route_for_each_block() {
    let cost = cost(&scenario("10.0.0.0/16", 10, 20), 26, 0);
    assert_eq!((cost.borrowed_peak, cost.failed), (0, 0));
    assert_eq!(cost.routes, cost.blocks);
    assert!((10..=20).contains(&cost.blocks), "{cost:?}");
}

#[test]
fn with_fewer_blocks_than_nodes_the_rest_borrow() {
    let cost = cost(&scenario("10.0.0.0/24", 8, 10), 26, 0);
    assert_eq!((cost.blocks, cost.blocks_possible), (4, 4));
    assert!(cost.borrowed_peak > 0 && cost.routes_peak > 4, "{cost:?}");
    assert_eq!(cost.failed, 0);
}

#[test]
fn with_strict_affinity_they_fail_instead() {
    let strict = Scenario { strict_affinity: true, ..scenario("10.0.0.0/24", 8, 10) };
    let cost = cost(&strict, 26, 0);
    assert_eq!(cost.borrowed_peak, 0);
    assert!(cost.failed > 0, "{cost:?}");
}

#[test]
fn a_block_of_one_address_is_a_route_while_it_is_used() {
    let mut one = scenario("10.0.0.0/24", 4, 10);
    one.max_blocks_per_host = 1000;
    let cost = cost(&one, 32, 0);
    assert_eq!((cost.routes, cost.addresses, cost.failed), (40, 1, 0));
}

#[test]
fn a_pool_that_is_too_small_fails_whatever_the_size() {
    for size in [24, 28, 32] {
        let cost = cost(&scenario("10.0.0.0/24", 10, 30), size, 0);
        assert!(cost.failed >= 300 - 256, "/{size}: {cost:?}");
    }
}

#[test]
fn the_best_gives_all_pods_addresses_then_has_the_fewest_routes() {
    let scenario = scenario("10.0.0.0/20", 30, 40);
    let costs: Vec<Cost> = sizes(&scenario.pools).into_iter().map(|size| cost(&scenario, size, 0)).collect();
    let best = &costs[best(&costs).unwrap()];
    assert_eq!(best.failed, 0);
    assert!(costs.iter().all(|c| c.failed > 0 || c.rank().1 * 101 >= best.rank().1 * 100));
    // 30 nodes with 40 pods on average: in one block each or two, and never borrowed by the dozen.
    assert!((25..=27).contains(&best.block_size), "{best:?}");
}

#[test]
fn of_sizes_that_cost_the_same_the_smaller_blocks_are_better() {
    let base = cost(&scenario("10.0.0.0/24", 1, 1), 26, 0);
    let of = |block_size, routes_peak, failed| Cost { block_size, routes_peak, failed, ..base.clone() };
    let rows = [
        (vec![of(24, 500, 0), of(25, 500, 0), of(26, 501, 0), of(27, 1000, 0)], 2),
        (vec![of(24, 500, 0), of(26, 506, 0)], 0),
        (vec![of(24, 500, 1), of(26, 506, 0), of(27, 506, 9)], 1),
    ];
    for (costs, expected) in rows {
        assert_eq!(best(&costs), Some(expected), "{costs:?}");
    }
    assert_eq!(best(&[]), None);
}

#[test]
fn a_plan_is_a_function_of_its_seed() {
    let scenario = scenario("10.0.0.0/22", 12, 40);
    assert_eq!(cost(&scenario, 27, 64), cost(&scenario, 27, 64));
    let other = Scenario { seed: 2, ..scenario.clone() };
    assert_ne!(cost(&other, 27, 64), cost(&scenario, 27, 64));
}

#[test]
fn the_map_adds_up_to_what_is_claimed_and_used() {
    let scenario = scenario("10.0.0.0/22", 12, 40);
    // More cells than blocks, as many, and fewer.
    for cells in [3, 32, 100] {
        let cost = cost(&scenario, 27, cells);
        let per_cell = 1024.0 / cells as f64;
        let claimed: f64 = cost.map.iter().map(|c| c.claimed * per_cell).sum();
        assert!(
            (claimed - (cost.blocks * 32) as f64).abs() < 1e-6,
            "{cells} cells: {claimed} of {} blocks",
            cost.blocks
        );
        let used: f64 = cost.map.iter().map(|c| c.used * per_cell).sum();
        assert!((used - (claimed - cost.stranded as f64)).abs() < 1e-6, "{cells} cells: {used}");
        assert!(cost.map.iter().all(|c| c.used <= c.claimed + 1e-9 && c.claimed <= 1.0 + 1e-9));
    }
}

#[test]
fn an_empty_block_goes_after_two_collections_but_no_nodes_last_one() {
    let mut fleet = Fleet::new(&scenario("10.0.0.0/24", 1, 1), 31);
    for _ in 0..3 {
        assert!(fleet.start(0));
    }
    assert_eq!(fleet.blocks(), 2);
    for _ in 0..3 {
        fleet.stop(0);
    }
    fleet.collect();
    assert_eq!(fleet.blocks(), 2);
    fleet.collect();
    assert_eq!(fleet.blocks(), 1);
    fleet.collect();
    fleet.collect();
    assert_eq!(fleet.blocks(), 1);
}
