//! bgpd with FRR: one test for each directory below `tests/interop/frr`.

harness::scenarios!("frr" needs "needs FRR":
    as4,
    ebgp,
    ibgp,
);
