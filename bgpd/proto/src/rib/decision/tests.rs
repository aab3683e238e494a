use super::*;

fn base(n: u8) -> Candidate {
    Candidate {
        is_long_lived_stale: false,
        local_pref: 100,
        is_local: false,
        as_path_len: 2,
        origin: 0,
        neighbour_as: 65001,
        med: 0,
        is_ebgp: true,
        igp_metric: 10,
        router_id: Ipv4Addr::new(10, 0, 0, n),
        cluster_list_len: 0,
        peer: IpAddr::from([192, 0, 2, n]),
        path_id: 0,
    }
}

type Change = fn(&mut Candidate);

/// One row for each step: what the better path has is worth more than every later step against it.
#[test]
fn each_step_of_the_rfc_decides_before_the_next() {
    use Step::*;
    let rows: [(Step, Change, Change); 12] = [
        (LongLivedStale, |_| {}, |w| (w.is_long_lived_stale, w.local_pref) = (true, 200)),
        (LocalPref, |b| b.local_pref = 200, |w| w.is_local = true),
        (Local, |b| b.is_local = true, |w| w.as_path_len = 1),
        (AsPathLength, |b| (b.as_path_len, b.origin) = (1, 2), |_| {}),
        (Origin, |b| b.med = 9, |w| (w.origin, w.med) = (1, 0)),
        (Med, |b| b.is_ebgp = false, |w| w.med = 5),
        (Ebgp, |b| b.igp_metric = 99, |w| (w.is_ebgp, w.igp_metric) = (false, 1)),
        (IgpMetric, |b| b.igp_metric = 9, |w| w.router_id = Ipv4Addr::new(1, 1, 1, 1)),
        (RouterId, |b| b.cluster_list_len = 3, |w| w.router_id = Ipv4Addr::new(20, 0, 0, 0)),
        (
            ClusterListLength,
            |b| b.peer = [192, 0, 2, 9].into(),
            |w| (w.router_id, w.cluster_list_len) = (base(1).router_id, 1),
        ),
        (PeerAddress, |b| b.path_id = 7, |w| w.router_id = base(1).router_id),
        (PathId, |_| {}, |w| (w.router_id, w.peer, w.path_id) = (base(1).router_id, base(1).peer, 1)),
    ];
    for (step, better, worse) in rows {
        let (mut b, mut w) = (base(1), base(2));
        better(&mut b);
        worse(&mut w);
        for order in [[(0, b), (1, w)], [(1, w), (0, b)]] {
            let mut list = order;
            let mut told = None;
            let left = select_and_tell(&mut list, |i, step| told = Some((i, step)));
            assert_eq!(list[0].0, 0, "{step:?}");
            match told {
                Some(told) => assert_eq!((told, left), ((1, step), 1)),
                None => assert_eq!((deciding_step(&list[0].1, &list[1].1), left), (step, 2)),
            }
        }
    }
}

#[test]
fn med_is_compared_within_one_neighbour_as_over_the_whole_set() {
    // B loses to C by MED; A, of another AS, must not be judged by it. Pair by pair the answer would depend on the order.
    let a = Candidate { neighbour_as: 65002, med: 50, ..base(2) };
    let b = Candidate { med: 20, ..base(1) };
    let c = Candidate { med: 10, ..base(3) };
    for order in [[a, b, c], [c, b, a], [b, c, a], [b, a, c], [a, c, b], [c, a, b]] {
        let mut list: Vec<_> = order.into_iter().enumerate().collect();
        assert_eq!(select(&mut list), 2);
        assert_eq!((list[0].1, list[1].1), (a, c), "C beats B, and A wins by identifier");
    }
}

#[test]
fn equals_up_to_the_identifier_are_the_multipath_set() {
    let mut list = vec![(0, base(3)), (1, base(1)), (2, Candidate { igp_metric: 11, ..base(2) })];
    assert_eq!(select(&mut list), 2);
    assert_eq!(list.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 0, 2]);
    assert_eq!(select(&mut []), 0);
}

proptest::proptest! {
    #[test]
    fn the_order_of_arrival_decides_nothing(
        fields in proptest::collection::vec((0u32..2, 0u32..2, 0u8..2, 0u32..3, 0u32..3, proptest::bool::ANY), 1..7),
        seed in 0usize..5040,
    ) {
        let paths: Vec<Candidate> = fields.iter().enumerate().map(|(i, &(pref, len, origin, asn, med, is_ebgp))| Candidate {
            local_pref: 100 + pref, as_path_len: len, origin, neighbour_as: asn, med, is_ebgp, ..base(i as u8)
        }).collect();
        let mut sorted: Vec<_> = paths.iter().copied().enumerate().collect();
        let mut shuffled = sorted.clone();
        let mut seed = seed;
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, seed % (i + 1));
            seed /= i + 1;
        }
        let (a, b) = (select(&mut sorted), select(&mut shuffled));
        proptest::prop_assert_eq!(&sorted[..a], &shuffled[..b]);
    }
}
