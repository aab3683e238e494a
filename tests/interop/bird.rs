//! bgpd with BIRD: one test for each directory below `tests/interop/bird`.

harness::scenarios!("bird" needs "needs BIRD":
    as4,
    ebgp,
    gtsm,
    gtsm_wrong,
    hold_time,
    ibgp,
    reflectors,
    refresh,
    restart_ours,
    restart_theirs,
    two_octet,
);
