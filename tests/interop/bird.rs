//! bgpd with BIRD: one test for each directory below `tests/interop/bird`.

harness::scenarios!("bird" needs "needs BIRD":
    as4,
    bfd,
    ebgp,
    gtsm,
    gtsm_wrong,
    hold_time,
    ibgp,
    link_local,
    reflectors,
    refresh,
    restart_ours,
    restart_theirs,
    two_octet,
);
