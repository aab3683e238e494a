//! What each vendor's configuration must say, and must not.

use bgp_plan::switch::{Neighbor, Session};

use super::*;

fn session() -> Session {
    Session {
        families: vec![Family::Ipv4],
        port: 179,
        hold_time: 9,
        keepalive: 3,
        connect_retry: Duration::from_secs(2),
        needs_password: true,
        graceful_restart: true,
        long_lived_stale_time: None,
        ttl_security: None,
        is_multihop: false,
        bfd: None,
        role: None,
        extended_next_hop: false,
        sends_paths: false,
        takes_paths: false,
    }
}

/// One node with both families, eBGP, the IPv6 session through a router, and one with GTSM and BFD.
fn leaf() -> Switch {
    let group = |address: &str, node: &str, name: &str, session: Session| Group {
        end: End::Address(address.parse().unwrap()),
        node_as: 65010,
        session,
        neighbors: vec![Neighbor { address: Some(node.parse().unwrap()), node: name.into(), port: 179 }],
    };
    let bfd = Bfd {
        min_rx: Duration::from_millis(150),
        min_tx: Duration::from_millis(100),
        multiplier: 3,
        is_multihop: false,
    };
    let guarded = Session { ttl_security: Some(1), bfd: Some(bfd), needs_password: false, ..session() };
    let far = Session { families: vec![Family::Ipv6], is_multihop: true, ..session() };
    let permit = |net: &str, min_len| {
        let net: ipnet::IpNet = net.parse().unwrap();
        Permit { net, min_len, max_len: net.max_prefix_len() }
    };
    Switch {
        ends: ["192.0.2.1", "2001:db8::1"].map(|a| End::Address(a.parse().unwrap())).into(),
        asn: 65001,
        groups: vec![
            group("192.0.2.1", "192.0.2.4", "worker01", session()),
            group("192.0.2.1", "192.0.2.5", "worker02", guarded),
            group("2001:db8::1", "2001:db8:9::4", "worker01", far),
        ],
        permits: vec![permit("10.244.0.0/20", 26), permit("172.31.0.0/24", 24), permit("fd00:10::/64", 122)],
        paths: 8,
    }
}

#[test]
fn every_vendor_is_told_the_same() {
    for (vendor, lines) in [
        (
            Vendor::Frr,
            &[
                "ip prefix-list tortie-v4-in seq 5 permit 10.244.0.0/20 ge 26 le 32",
                "ip prefix-list tortie-v4-in seq 10 permit 172.31.0.0/24 le 32",
                "ipv6 prefix-list tortie-v6-in seq 5 permit fd00:10::/64 ge 122 le 128",
                " neighbor tortie-v4 remote-as 65010",
                " neighbor tortie-v4 timers 3 9",
                " neighbor tortie-v4 password CHANGE-ME",
                " neighbor tortie-v4-2 ttl-security hops 1",
                "  receive-interval 100",
                "  transmit-interval 150",
                " neighbor tortie-v6 ebgp-multihop 255",
                " neighbor 192.0.2.5 peer-group tortie-v4-2",
                "  neighbor tortie-v4 maximum-prefix 6625 90 restart 5",
                "  maximum-paths 8",
            ][..],
        ),
        (
            Vendor::Bird,
            &[
                "  if net ~ [ 10.244.0.0/20{26,32},",
                "  if net ~ [ fd00:10::/64{122,128} ] then accept;",
                "  hold time 9;",
                "  password \"CHANGE-ME\";",
                "  ttl security on;",
                "  bfd { min rx interval 100 ms; min tx interval 150 ms; multiplier 3; };",
                "  multihop;",
                "  graceful restart aware;",
                "    import limit 6625 action restart;",
                "protocol bgp tortie_v4_worker01 from tortie_v4 { neighbor 192.0.2.4 as 65010; description \"worker01\"; }",
            ],
        ),
        (
            Vendor::CiscoNxos,
            &[
                "feature bfd",
                "ip prefix-list tortie-v4-in seq 5 permit 10.244.0.0/20 ge 26 le 32",
                "    remote-as 65010",
                "    timers 3 9",
                "    password 0 CHANGE-ME",
                "    ttl-security hops 1",
                "    ebgp-multihop 255",
                "      maximum-prefix 6625 90 restart 5",
                "    inherit peer tortie-v4-2",
                "    maximum-paths 8",
            ],
        ),
        (
            Vendor::Arista,
            &[
                "   seq 10 permit 10.244.0.0/20 ge 26 le 32",
                "   neighbor tortie-v4 timers 3 9",
                "   neighbor tortie-v4 password 0 CHANGE-ME",
                "   neighbor tortie-v4-2 ttl maximum-hops 1",
                "   neighbor tortie-v4-2 bfd interval 150 min-rx 100 multiplier 3",
                "   neighbor tortie-v6 ebgp-multihop 255",
                "   neighbor tortie-v4 maximum-routes 6625 warning-limit 90 percent",
                "   neighbor tortie-v4 idle-restart-timer 300",
                "   neighbor tortie-v6 maximum-routes 0",
                "   maximum-paths 8 ecmp 8",
                "      neighbor tortie-v6 prefix-list tortie-v6-in in",
            ],
        ),
        (
            Vendor::Junos,
            &[
                "set policy-options policy-statement tortie-v4-in term own from route-filter 10.244.0.0/20 prefix-length-range /26-/32",
                "set protocols bgp group tortie-v4 hold-time 9",
                "set protocols bgp group tortie-v4 authentication-key CHANGE-ME",
                "set protocols bgp group tortie-v4-2 ttl 255",
                "set protocols bgp group tortie-v4-2 bfd-liveness-detection multiplier 3",
                "set protocols bgp group tortie-v6 multihop ttl 255",
                "set protocols bgp group tortie-v4 multipath multiple-as",
                "set protocols bgp group tortie-v4 family inet unicast prefix-limit maximum 6625",
                "set protocols bgp group tortie-v6 family inet6 unicast",
                "set protocols bgp precision-timers",
                "set policy-options policy-statement tortie-v4-out term default then next-hop self",
                "set policy-options policy-statement tortie-v4-out term default then accept",
                "set routing-options static route 0.0.0.0/0 discard",
                "set routing-options rib inet6.0 static route ::/0 discard",
            ],
        ),
        (
            Vendor::Huawei,
            &[
                "ip ip-prefix tortie-v4-in index 10 permit 10.244.0.0 20 greater-equal 26 less-equal 32",
                "ip ip-prefix tortie-v4-out index 10 permit 0.0.0.0 0",
                " peer tortie-v4 timer keepalive 3 hold 9",
                " peer tortie-v4 password cipher CHANGE-ME",
                " peer tortie-v4-2 valid-ttl-hops 1",
                " peer tortie-v4-2 bfd enable",
                " peer tortie-v6 ebgp-max-hop 255",
                "  peer tortie-v4 route-limit 6625 90 idle-timeout 5",
                "  maximum load-balancing 8",
            ],
        ),
    ] {
        let text = render(vendor, &leaf());
        for want in lines {
            assert!(text.lines().any(|l| l == *want), "{vendor:?} lacks {want:?}:\n{text}");
        }
        assert!(text.contains("AS 65001: 3 sessions with nodes"), "{text}");
    }
}

#[test]
fn without_pools_nothing_is_let_in() {
    let mut closed = leaf();
    closed.permits.clear();
    for (vendor, want) in [
        (Vendor::Frr, "ip prefix-list tortie-v4-in seq 5 deny any"),
        (Vendor::Bird, "filter tortie_v4_in {\n  reject;\n}"),
        (Vendor::CiscoNxos, "ip prefix-list tortie-v4-in seq 5 deny 0.0.0.0/0 le 32"),
        (Vendor::Arista, "   seq 10 deny 0.0.0.0/0 le 32"),
        (Vendor::Huawei, "ip ip-prefix tortie-v4-in index 10 deny 0.0.0.0 0 less-equal 32"),
    ] {
        assert!(render(vendor, &closed).contains(want), "{vendor:?}");
    }
    assert!(!render(Vendor::Junos, &closed).contains("tortie-v4-in term own then accept"));
}

#[test]
fn with_ibgp_nobody_is_called_multihop_and_the_note_says_what_it_means() {
    let mut switch = leaf();
    switch.asn = 65010;
    for vendor in Vendor::value_variants() {
        let text = render(*vendor, &switch);
        assert!(!text.contains("multihop 255") && !text.contains("ebgp-max-hop"), "{vendor:?}: {text}");
        assert!(text.contains("iBGP: nodes reach each other"), "{vendor:?}");
    }
}

/// A session of both families, several paths both ways, and nodes behind links.
#[test]
fn every_kind_of_session_has_its_words() {
    let mut switch = leaf();
    let both = Session { families: Family::ALL.into(), needs_password: false, ..session() };
    switch.groups.truncate(1);
    switch.groups[0].session = Session { sends_paths: true, takes_paths: true, ..both.clone() };
    let behind = |node: &str| Neighbor { address: None, node: node.into(), port: 179 };
    switch.ends.push(End::Interface("eth1".into()));
    switch.groups.push(Group {
        end: End::Interface("eth1".into()),
        node_as: 65010,
        session: Session { extended_next_hop: true, ..both },
        neighbors: vec![behind("worker01"), behind("worker02")],
    });
    for (vendor, lines) in [
        (
            Vendor::Frr,
            &[
                " neighbor tortie-link capability extended-nexthop",
                " neighbor swp2 interface peer-group tortie-link",
                " neighbor swp2 description worker02",
                "  neighbor tortie-v4 addpath-tx-all-paths",
                "  neighbor tortie-v4 prefix-list tortie-v6-in in",
                "  neighbor tortie-link prefix-list tortie-v4-in in",
            ][..],
        ),
        (
            Vendor::Bird,
            &[
                "    add paths on;",
                "    extended next hop on;",
                "  interface \"swp1\", \"swp2\" { min ra interval 3; max ra interval 10; default lifetime 0; };",
                "  local as 65001;",
            ],
        ),
        (
            Vendor::CiscoNxos,
            &[
                "      capability additional-paths send",
                "      prefix-list tortie-v6-out out",
                "  neighbor Ethernet1/2",
                "    inherit peer tortie-link",
            ],
        ),
        (
            Vendor::Arista,
            &[
                "      neighbor tortie-v4 additional-paths receive",
                "      neighbor tortie-link next-hop address-family ipv6 originate",
                "   neighbor interface Ethernet1 peer-group tortie-link remote-as 65010",
            ],
        ),
        (
            Vendor::Junos,
            &[
                "set protocols bgp group tortie-v4 import tortie-v4-in",
                "set protocols bgp group tortie-v4 import tortie-v6-in",
                "set protocols bgp group tortie-v4 family inet6 unicast add-path receive",
                "set protocols bgp group tortie-link family inet unicast extended-nexthop",
                "set protocols bgp group tortie-link dynamic-neighbor worker02 peer-auto-discovery interface et-0/0/1.0",
                "set protocols router-advertisement interface et-0/0/0.0",
            ],
        ),
        (
            Vendor::Huawei,
            &[
                "  peer tortie-v4 capability-advertise add-path both",
                "  peer tortie-v4 ipv6-prefix tortie-v6-in import",
            ],
        ),
    ] {
        let text = render(vendor, &switch);
        for want in lines {
            assert!(text.lines().any(|l| l == *want), "{vendor:?} lacks {want:?}:\n{text}");
        }
        assert!(text.contains("behind the nodes' eth1") && text.contains("the ports are examples"), "{text}");
    }
}

#[test]
fn a_permit_is_bounded_on_both_sides() {
    let rows = [
        ("10.6.0.0/16", 20, 20, " ge 20 le 20"),
        ("10.6.0.0/16", 20, 24, " ge 20 le 24"),
        ("10.6.0.0/16", 16, 24, " le 24"),
        ("10.6.0.0/16", 16, 16, ""),
        ("10.6.0.0/16", 26, 32, " ge 26 le 32"),
        ("10.6.0.0/16", 32, 32, " ge 32"),
        ("10.6.0.1/32", 32, 32, ""),
        ("fd00::/64", 122, 122, " ge 122 le 122"),
    ];
    for (net, min_len, max_len, expected) in rows {
        let permit = Permit { net: net.parse().unwrap(), min_len, max_len };
        assert_eq!(ge_le(&permit), expected, "{net} {min_len} {max_len}");
    }
}

/// IPv6 pools hold more addresses than any limit.
#[test]
fn where_there_can_be_too_many_prefixes_there_is_no_limit_and_a_reason() {
    for vendor in Vendor::value_variants() {
        let text = render(*vendor, &leaf());
        assert!(text.contains("no limit on prefixes of IPv6") && !text.contains("prefixes of IPv4"), "{text}");
        assert_eq!(text.matches("50000").count(), 1, "{vendor:?}: {text}");
    }
}

#[test]
fn a_port_of_the_switch_is_said() {
    let mut switch = leaf();
    switch.groups[0].session.port = 1790;
    for vendor in Vendor::value_variants() {
        let text = render(*vendor, &switch);
        assert!(text.contains("nodes connect to port 1790 of the switch: it has to listen there"), "{text}");
    }
    assert!(render(Vendor::Bird, &switch).contains("  local 192.0.2.1 port 1790 as 65001;\n"));
    assert!(!render(Vendor::Bird, &leaf()).contains(" port "));
}

#[test]
fn junos_has_precise_timers_for_short_hold_times_alone() {
    let mut switch = leaf();
    switch.groups.iter_mut().for_each(|g| g.session.hold_time = 20);
    assert!(!render(Vendor::Junos, &switch).contains("precision-timers"));
    switch.groups[0].session.hold_time = 19;
    assert!(render(Vendor::Junos, &switch).contains("precision-timers"));
}

/// FRR's peer groups keep TTL 1 with ttl-security, and want the neighbour on a link.
#[test]
fn gtsm_through_routers() {
    let mut switch = leaf();
    switch.groups[2].session.ttl_security = Some(2);
    let text = render(Vendor::Frr, &switch);
    let check = " neighbor tortie-v6 ttl-security hops 2\n neighbor tortie-v6 disable-connected-check\n";
    assert!(text.contains(check) && text.matches("disable-connected-check").count() == 1, "{text}");
    switch.asn = 65010;
    assert!(!render(Vendor::Frr, &switch).contains("disable-connected-check"), "iBGP looks for no link");
}

/// Its hops are those that the nodes use, whatever the session's are.
#[test]
fn bfd_of_other_hops_than_the_session() {
    let of = |vendor: Vendor, is_multihop: bool, bfd_is_multihop: bool, asn: u32| {
        let mut switch = leaf();
        switch.asn = asn;
        switch.groups = vec![switch.groups.remove(1)];
        let session = &mut switch.groups[0].session;
        (session.is_multihop, session.ttl_security) = (is_multihop, Some(2));
        session.bfd.as_mut().unwrap().is_multihop = bfd_is_multihop;
        render(vendor, &switch)
    };
    let rows: [(Vendor, bool, bool, &str); 12] = [
        (Vendor::Bird, false, false, "  direct;\n"),
        (Vendor::Bird, false, true, "  multihop 2;\n"),
        (Vendor::Bird, true, false, "# the nodes set bfd.multihop to false"),
        (Vendor::CiscoNxos, false, true, "    bfd multihop\n"),
        (Vendor::CiscoNxos, true, false, "    bfd\n"),
        (Vendor::Junos, false, true, "bfd-liveness-detection session-mode multihop\n"),
        (Vendor::Junos, true, false, "bfd-liveness-detection session-mode single-hop\n"),
        (Vendor::Frr, false, true, " ! the nodes set bfd.multihop:"),
        (Vendor::Frr, true, false, " ! the nodes set bfd.multihop to false"),
        (Vendor::Arista, false, true, "   ! the nodes set bfd.multihop:"),
        (Vendor::Huawei, false, true, " # the nodes set bfd.multihop:"),
        (Vendor::Huawei, true, false, " # the nodes set bfd.multihop to false"),
    ];
    for (vendor, is_multihop, bfd_is_multihop, want) in rows {
        let text = of(vendor, is_multihop, bfd_is_multihop, 65001);
        assert!(text.contains(want), "{vendor:?} {is_multihop} {bfd_is_multihop} lacks {want:?}:\n{text}");
    }
    for vendor in Vendor::value_variants() {
        for same in [false, true] {
            let text = of(*vendor, same, same, 65001);
            assert!(!text.contains("the nodes set bfd") && !text.contains("session-mode"), "{vendor:?}: {text}");
        }
    }
    let huawei = |asn| of(Vendor::Huawei, false, false, asn);
    assert!(huawei(65010).contains("bfd enable single-hop-prefer\n"), "iBGP");
    assert!(!huawei(65001).contains("single-hop-prefer"), "eBGP");
}
