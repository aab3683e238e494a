//! FRR (8.4 and later; `bgpd`, and `bfdd` where a node wants BFD).

use std::fmt::Write as _;

use bgp_plan::switch::{Group, Switch};
use bgp_proto::af::Family;

use super::*;

pub fn render(switch: &Switch) -> String {
    let mut out = String::new();
    let groups = group_names(switch);
    for family in switch.families() {
        prefix_lists(&mut out, switch, family);
    }
    bfd_profiles(&mut out, &groups);
    let _ = writeln!(out, "router bgp {}", switch.asn);
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, " bgp router-id {id}");
    }
    out.push_str(" no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n");
    if let Some(time) = groups.iter().filter_map(|(_, g)| g.session.long_lived_stale_time).max() {
        let _ = writeln!(out, " bgp long-lived-graceful-restart stale-time {time}");
    }
    for (name, group) in &groups {
        session(&mut out, switch, name, group);
    }
    for family in switch.families() {
        address_family(&mut out, switch, family, &groups);
    }
    out.push_str("exit\n");
    out
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ipv6",
    }
}

fn prefix_lists(out: &mut String, switch: &Switch, family: Family) {
    let (ip, v) = (ip(family), family_name(family));
    for (i, permit) in switch.permits(family).enumerate() {
        let _ =
            writeln!(out, "{ip} prefix-list tortie-{v}-in seq {} permit {}{}", 5 * (i + 1), permit.net, ge_le(permit));
    }
    if switch.permits(family).next().is_none() {
        let _ = writeln!(out, "{ip} prefix-list tortie-{v}-in seq 5 deny any");
    }
    let _ = writeln!(out, "{ip} prefix-list tortie-{v}-out seq 5 permit {}", default_route(family));
}

fn bfd_profiles(out: &mut String, groups: &[(String, &Group)]) {
    let with_bfd: Vec<_> = groups.iter().filter_map(|(name, g)| Some((name, g.session.bfd?))).collect();
    if with_bfd.is_empty() {
        return;
    }
    out.push_str("bfd\n");
    for (name, bfd) in with_bfd {
        let (receive, transmit) = bfd_millis(&bfd);
        let _ = write!(
            out,
            " profile {name}\n  detect-multiplier {}\n  receive-interval {receive}\n  transmit-interval {transmit}\n exit\n",
            bfd.multiplier
        );
    }
    out.push_str("exit\n");
}

fn session(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let _ = write!(
        out,
        " neighbor {name} peer-group\n neighbor {name} remote-as {}\n neighbor {name} timers {} {}\n \
         neighbor {name} timers connect {}\n neighbor {name} advertisement-interval 0\n",
        group.node_as,
        s.keepalive,
        s.hold_time,
        seconds(s.connect_retry)
    );
    if s.needs_password {
        let _ = writeln!(out, " neighbor {name} password {PASSWORD}");
    }
    if s.graceful_restart {
        let _ = writeln!(out, " neighbor {name} graceful-restart-helper");
    }
    match s.ttl_security {
        Some(hops) => {
            let _ = writeln!(out, " neighbor {name} ttl-security hops {hops}");
            if hops > 1 && !group.is_ibgp(switch) {
                // In a group it does not imply ebgp-multihop, which it excludes.
                let _ = writeln!(out, " neighbor {name} disable-connected-check");
            }
        }
        // iBGP is multihop by itself.
        None if s.is_multihop && !group.is_ibgp(switch) => {
            let _ = writeln!(out, " neighbor {name} ebgp-multihop {MULTIHOP}");
        }
        None => {}
    }
    if let Some(note) = bfd_note(s) {
        let _ = writeln!(out, " ! {note}");
    }
    if s.bfd.is_some() {
        let _ = writeln!(out, " neighbor {name} bfd\n neighbor {name} bfd profile {name}");
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, " neighbor {name} local-role {}", role_name(role));
    }
    if s.extended_next_hop && group.end.family() == Family::Ipv6 {
        let _ = writeln!(out, " neighbor {name} capability extended-nexthop");
    }
    if let Some(own) = group.end.address() {
        let _ = writeln!(out, " neighbor {name} update-source {own}");
    }
    let is = if group.is_unnumbered() { "interface " } else { "" };
    for (at, n) in neighbors(switch, group, |i| format!("swp{i}")) {
        let _ = writeln!(out, " neighbor {at} {is}peer-group {name}\n neighbor {at} description {}", n.node);
        if n.port != 179 {
            let _ = writeln!(out, " neighbor {at} port {}", n.port);
        }
    }
}

fn address_family(out: &mut String, switch: &Switch, family: Family, groups: &[(String, &Group)]) {
    let v = family_name(family);
    let _ = write!(out, " address-family ip{v} unicast\n  maximum-paths {0}\n  maximum-paths ibgp {0}\n", switch.paths);
    for (name, group) in groups.iter().filter(|(_, g)| g.carries(family)) {
        let _ = write!(
            out,
            "  neighbor {name} activate\n  neighbor {name} default-originate\n  neighbor {name} prefix-list tortie-{v}-in in\n  \
             neighbor {name} prefix-list tortie-{v}-out out\n"
        );
        if let Some(limit) = switch.max_prefixes(family) {
            let _ = writeln!(out, "  neighbor {name} maximum-prefix {limit} {WARN_AT} restart {RESTART_MINUTES}");
        }
        if group.session.sends_paths {
            let _ = writeln!(out, "  neighbor {name} addpath-tx-all-paths");
        }
    }
    out.push_str(" exit-address-family\n");
}
