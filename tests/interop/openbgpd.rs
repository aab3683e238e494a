//! bgpd with OpenBGPD: one test for each directory below `tests/interop/openbgpd`.

harness::scenarios!("openbgpd" needs "needs OpenBGPD":
    as4,
    capabilities_all,
    capabilities_few,
    ebgp,
    gtsm,
    ibgp,
    md5,
    shutdown,
    two_octet,
);
