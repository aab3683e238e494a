//! bgpd with OpenBGPD: one test for each directory below `tests/interop/openbgpd`.

harness::scenarios!("openbgpd" needs "needs OpenBGPD":
    add_path,
    as4,
    capabilities_all,
    capabilities_few,
    ebgp,
    gtsm,
    ibgp,
    max_prefixes,
    md5,
    restart_ours,
    role,
    role_wrong,
    shutdown,
    two_octet,
);
