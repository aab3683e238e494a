//! bgpd with a peer that is a script: one test for each directory below `tests/interop/scripted`.

harness::scenarios!("scripted" needs "needs BPF":
    crowd,
    crowd_reflected,
    flaps,
);
