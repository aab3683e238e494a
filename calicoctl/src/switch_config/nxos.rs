//! Cisco NX-OS.

use std::fmt::Write as _;

use bgp_plan::switch::{Group, Switch};
use bgp_proto::af::Family;

use super::*;

pub fn render(switch: &Switch) -> String {
    let mut out = String::from("feature bgp\n");
    let groups = group_names(switch);
    if groups.iter().any(|(_, g)| g.session.bfd.is_some()) {
        out.push_str("feature bfd\n");
    }
    for (name, group) in &groups {
        if let Some(bfd) = &group.session.bfd {
            let (receive, transmit) = bfd_millis(bfd);
            let _ = writeln!(
                out,
                "! on the interfaces towards {name}: bfd interval {transmit} min_rx {receive} multiplier {}",
                bfd.multiplier
            );
        }
    }
    for family in switch.families() {
        prefix_lists(&mut out, switch, family);
    }
    let _ = writeln!(out, "router bgp {}", switch.asn);
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, "  router-id {id}");
    }
    out.push_str("  graceful-restart-helper\n  bestpath as-path multipath-relax\n");
    for family in switch.families() {
        let v = family_name(family);
        let _ = write!(
            out,
            "  address-family ip{v} unicast\n    maximum-paths {0}\n    maximum-paths ibgp {0}\n",
            switch.paths
        );
    }
    for (name, group) in &groups {
        template(&mut out, switch, name, group);
    }
    out
}

fn prefix_lists(out: &mut String, switch: &Switch, family: Family) {
    let (ip, v) = (if family == Family::Ipv4 { "ip" } else { "ipv6" }, family_name(family));
    for (i, permit) in switch.permits(family).enumerate() {
        let _ =
            writeln!(out, "{ip} prefix-list tortie-{v}-in seq {} permit {}{}", 5 * (i + 1), permit.net, ge_le(permit));
    }
    if switch.permits(family).next().is_none() {
        let _ =
            writeln!(out, "{ip} prefix-list tortie-{v}-in seq 5 deny {} le {}", default_route(family), family.bits());
    }
    let _ = writeln!(out, "{ip} prefix-list tortie-{v}-out seq 5 permit {}", default_route(family));
}

fn template(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let _ = write!(
        out,
        "  template peer {name}\n    remote-as {}\n    timers {} {}\n",
        group.node_as, s.keepalive, s.hold_time
    );
    if s.needs_password {
        let _ = writeln!(out, "    password 0 {PASSWORD}");
    }
    match s.ttl_security {
        Some(hops) => {
            let _ = writeln!(out, "    ttl-security hops {hops}");
        }
        None if s.is_multihop && !group.is_ibgp(switch) => {
            let _ = writeln!(out, "    ebgp-multihop {MULTIHOP}");
        }
        None => {}
    }
    if let Some(bfd) = &s.bfd {
        out.push_str(if bfd.is_multihop { "    bfd multihop\n" } else { "    bfd\n" });
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, "    ! the nodes say a BGP role (RFC 9234): this switch is the {}", role_name(role));
    }
    for family in &s.families {
        let v = family_name(*family);
        let _ = write!(
            out,
            "    address-family ip{v} unicast\n      default-originate\n      prefix-list tortie-{v}-in in\n      \
             prefix-list tortie-{v}-out out\n"
        );
        if let Some(limit) = switch.max_prefixes(*family) {
            let _ = writeln!(out, "      maximum-prefix {limit} {WARN_AT} restart {RESTART_MINUTES}");
        }
        if s.sends_paths {
            out.push_str("      capability additional-paths send\n");
        }
        if s.takes_paths {
            out.push_str("      capability additional-paths receive\n");
        }
    }
    for (at, n) in neighbors(switch, group, |i| format!("Ethernet1/{i}")) {
        let _ = write!(out, "  neighbor {at}\n    inherit peer {name}\n    description {}\n", n.node);
    }
}
