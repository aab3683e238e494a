//! bgpd with OpenBGPD: one test for each directory below `tests/interop/openbgpd`.

harness::scenarios!("openbgpd" needs "needs OpenBGPD":
    as4,
    ebgp,
    gtsm,
    ibgp,
    two_octet,
);
