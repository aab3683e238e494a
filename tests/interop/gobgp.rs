//! bgpd with GoBGP: one test for each directory below `tests/interop/gobgp`.

harness::scenarios!("gobgp" needs "needs GoBGP":
    as4,
    ebgp,
    gtsm,
    ibgp,
    refresh,
);
