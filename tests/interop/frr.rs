//! bgpd with FRR: one test for each directory below `tests/interop/frr`.

harness::scenarios!("frr" needs "needs FRR":
    as4,
    bfd,
    bfd_multihop,
    communities,
    ebgp,
    gtsm,
    gtsm_wrong,
    hold_time,
    ibgp,
    local_as,
    no_capabilities,
    own_as,
    passive,
    reflectors,
    refresh,
    restart_ours,
    restart_theirs,
    unnumbered,
);
