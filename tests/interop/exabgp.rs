//! bgpd with ExaBGP: one test for each directory below `tests/interop/exabgp`.

harness::scenarios!("exabgp" needs "needs ExaBGP":
    as4,
    capabilities_all,
    capabilities_few,
    ebgp,
    families,
    gtsm,
    ibgp,
    max_prefixes,
    md5,
    refresh,
    two_octet,
);
