//! bgpd with GoBGP: one test for each directory below `tests/interop/gobgp`.

harness::scenarios!("gobgp" needs "needs GoBGP":
    add_path,
    as4,
    capabilities_all,
    ebgp,
    families,
    gtsm,
    ibgp,
    long_lived,
    max_prefixes,
    md5,
    refresh,
    restart_ours,
    shutdown,
);
