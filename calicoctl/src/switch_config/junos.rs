//! Junos, as `set` commands.

use std::fmt::Write as _;

use bgp_plan::switch::{Group, Switch};
use bgp_proto::af::Family;

use super::*;

/// Seconds: for hold times below it Juniper recommends keepalives from the kernel.
const PRECISE: u16 = 20;

pub fn render(switch: &Switch) -> String {
    let mut out = String::new();
    for family in switch.families() {
        policies(&mut out, switch, family);
    }
    out.push_str(
        "set policy-options policy-statement tortie-ecmp then load-balance per-packet\n\
         set routing-options forwarding-table export tortie-ecmp\n",
    );
    let _ = writeln!(out, "set routing-options autonomous-system {}", switch.asn);
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, "set routing-options router-id {id}");
    }
    if switch.groups.iter().any(|g| (1..PRECISE).contains(&g.session.hold_time)) {
        out.push_str(
            "# For hold times below 20 s; a release that refuses one below 10 s needs a longer holdTime, best with BFD.\n\
             set protocols bgp precision-timers\n",
        );
    }
    for (name, group) in group_names(switch) {
        session(&mut out, switch, &name, group);
    }
    out
}

fn policies(out: &mut String, switch: &Switch, family: Family) {
    let v = family_name(family);
    for p in switch.permits(family) {
        let _ = writeln!(
            out,
            "set policy-options policy-statement tortie-{v}-in term own from route-filter {} prefix-length-range /{}-/{}",
            p.net, p.min_len, p.max_len
        );
    }
    if switch.permits(family).next().is_some() {
        let _ = writeln!(out, "set policy-options policy-statement tortie-{v}-in term own then accept");
    }
    let (inet, default) = (inet(family), default_route(family));
    let _ = writeln!(
        out,
        "set policy-options policy-statement tortie-{v}-out term default from route-filter {default} exact"
    );
    let rib = if family == Family::Ipv4 { "" } else { "rib inet6.0 " };
    let _ = write!(
        out,
        "set policy-options policy-statement tortie-{v}-out term default then next-hop self\n\
         set policy-options policy-statement tortie-{v}-out term default then accept\n\
         # The default route for the nodes; where the switch has one of its own, leave these two out.\n\
         set routing-options {rib}static route {default} discard\n\
         set routing-options {rib}static route {default} preference 254\n"
    );
    // Of this family alone: a session with both has both policies, one after the other.
    for direction in ["in", "out"] {
        let _ = write!(
            out,
            "set policy-options policy-statement tortie-{v}-{direction} term rest from family {inet}\n\
             set policy-options policy-statement tortie-{v}-{direction} term rest then reject\n"
        );
    }
}

fn inet(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "inet",
        Family::Ipv6 => "inet6",
    }
}

fn session(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let is_ibgp = group.is_ibgp(switch);
    let mut set = |text: String| {
        let _ = writeln!(out, "set protocols bgp group {name} {text}");
    };
    set(format!("type {}", if is_ibgp { "internal" } else { "external" }));
    if let Some(own) = group.end.address() {
        set(format!("local-address {own}"));
    }
    if !is_ibgp {
        set(format!("peer-as {}", group.node_as));
    }
    // The keepalive interval is a third of it.
    set(format!("hold-time {}", s.hold_time));
    if s.needs_password {
        set(format!("authentication-key {PASSWORD}"));
    }
    if s.is_multihop && !is_ibgp {
        set(format!("multihop ttl {MULTIHOP}"));
    } else if s.ttl_security.is_some() {
        set(format!("ttl {MULTIHOP}"));
    }
    set(if is_ibgp { "multipath".into() } else { "multipath multiple-as".into() });
    for family in &s.families {
        let (inet, v) = (inet(*family), family_name(*family));
        set(format!("import tortie-{v}-in"));
        set(format!("export tortie-{v}-out"));
        match switch.max_prefixes(*family) {
            Some(limit) => {
                set(format!("family {inet} unicast prefix-limit maximum {limit}"));
                set(format!("family {inet} unicast prefix-limit teardown {WARN_AT} idle-timeout {RESTART_MINUTES}"));
            }
            None => set(format!("family {inet} unicast")),
        }
        if s.sends_paths {
            set(format!("family {inet} unicast add-path send path-count {}", switch.paths));
        }
        if s.takes_paths {
            set(format!("family {inet} unicast add-path receive"));
        }
        if s.extended_next_hop && *family == Family::Ipv4 && group.end.family() == Family::Ipv6 {
            set(format!("family {inet} unicast extended-nexthop"));
        }
    }
    if let Some(bfd) = &s.bfd {
        let (receive, transmit) = bfd_millis(bfd);
        set(format!("bfd-liveness-detection minimum-receive-interval {receive}"));
        set(format!("bfd-liveness-detection transmit-interval minimum-interval {transmit}"));
        set(format!("bfd-liveness-detection multiplier {}", bfd.multiplier));
        if bfd.is_multihop != s.is_multihop {
            let mode = if bfd.is_multihop { "multihop" } else { "single-hop" };
            set(format!("bfd-liveness-detection session-mode {mode}"));
        }
    }
    let ports = neighbors(switch, group, |i| format!("et-0/0/{}.0", i - 1));
    for (at, n) in &ports {
        match group.is_unnumbered() {
            true => set(format!("dynamic-neighbor {} peer-auto-discovery family inet6 ipv6-nd", n.node)),
            false => set(format!("neighbor {at} description {}", n.node)),
        }
        if group.is_unnumbered() {
            set(format!("dynamic-neighbor {} peer-auto-discovery interface {at}", n.node));
        }
    }
    for (at, _) in ports.iter().filter(|_| group.is_unnumbered()) {
        let _ = writeln!(out, "set protocols router-advertisement interface {at}");
    }
    if let Some(hops) = s.ttl_security {
        let _ = writeln!(
            out,
            "# GTSM: let the filter of lo0 drop BGP of group {name} with a TTL below {}",
            256 - u16::from(hops)
        );
    }
    if let Some(role) = s.role {
        let _ = writeln!(
            out,
            "# the nodes of group {name} say a BGP role (RFC 9234): this switch is the {}",
            role_name(role)
        );
    }
}
