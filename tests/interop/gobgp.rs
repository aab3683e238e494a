//! bgpd with GoBGP: one test for each directory below `tests/interop/gobgp`.

harness::scenarios!("gobgp" needs "needs GoBGP":
    as4,
    capabilities_all,
    ebgp,
    gtsm,
    ibgp,
    md5,
    refresh,
    shutdown,
);
