//! Huawei VRP 8.

use std::fmt::Write as _;

use bgp_plan::switch::{Group, Switch};
use bgp_proto::af::Family;

use super::*;

pub fn render(switch: &Switch) -> String {
    let mut out = String::new();
    for family in switch.families() {
        prefix_lists(&mut out, switch, family);
    }
    let groups = group_names(switch);
    if groups.iter().any(|(_, g)| g.session.bfd.is_some()) {
        out.push_str("bfd\n quit\n");
    }
    let _ = writeln!(out, "bgp {}", switch.asn);
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, " router-id {id}");
    }
    out.push_str(" graceful-restart\n");
    for (name, group) in &groups {
        if group.is_unnumbered() {
            out.push_str(" # VRP has no peers without addresses: give the link addresses, and the nodes a peerIP\n");
            continue;
        }
        session(&mut out, switch, name, group);
    }
    for family in switch.families() {
        address_family(&mut out, switch, family, &groups);
    }
    out.push_str(" quit\n");
    out
}

fn ip_prefix(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip-prefix",
        Family::Ipv6 => "ipv6-prefix",
    }
}

fn prefix_lists(out: &mut String, switch: &Switch, family: Family) {
    let (list, v) = (ip_prefix(family), family_name(family));
    for (i, p) in switch.permits(family).enumerate() {
        let (net, own) = (p.net.addr(), p.net.prefix_len());
        let ge = if p.min_len > own { format!(" greater-equal {}", p.min_len) } else { String::new() };
        let le = if p.max_len > own { format!(" less-equal {}", p.max_len) } else { String::new() };
        let _ = writeln!(out, "ip {list} tortie-{v}-in index {} permit {net} {own}{ge}{le}", 10 * (i + 1));
    }
    let (net, _) = default_route(family).split_once('/').unwrap_or_default();
    if switch.permits(family).next().is_none() {
        let _ = writeln!(out, "ip {list} tortie-{v}-in index 10 deny {net} 0 less-equal {}", family.bits());
    }
    let _ = writeln!(out, "ip {list} tortie-{v}-out index 10 permit {net} 0");
}

fn session(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let is_ibgp = group.is_ibgp(switch);
    let _ = writeln!(out, " group {name} {}", if is_ibgp { "internal" } else { "external" });
    if !is_ibgp {
        let _ = writeln!(out, " peer {name} as-number {}", group.node_as);
    }
    let _ = write!(
        out,
        " peer {name} timer keepalive {} hold {}\n peer {name} timer connect-retry {}\n",
        s.keepalive,
        s.hold_time,
        seconds(s.connect_retry)
    );
    if s.needs_password {
        let _ = writeln!(out, " peer {name} password cipher {PASSWORD}");
    }
    match s.ttl_security {
        Some(hops) => {
            let _ = writeln!(out, " peer {name} valid-ttl-hops {hops}");
        }
        None if s.is_multihop && !is_ibgp => {
            let _ = writeln!(out, " peer {name} ebgp-max-hop {MULTIHOP}");
        }
        None => {}
    }
    if let Some(note) = bfd_note(s) {
        let _ = writeln!(out, " # {note}");
    }
    if let Some(bfd) = &s.bfd {
        let (receive, transmit) = bfd_millis(bfd);
        // Of iBGP peers on a link VRP expects multihop BFD by itself.
        let prefer = if is_ibgp && !bfd.is_multihop { " single-hop-prefer" } else { "" };
        let _ = write!(
            out,
            " peer {name} bfd min-tx-interval {transmit} min-rx-interval {receive} detect-multiplier {}\n \
             peer {name} bfd enable{prefer}\n",
            bfd.multiplier
        );
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, " # the nodes say a BGP role (RFC 9234): this switch is the {}", role_name(role));
    }
    for (at, n) in neighbors(switch, group, |_| String::new()) {
        let _ = write!(
            out,
            " peer {at} as-number {}\n peer {at} group {name}\n peer {at} description {}\n",
            group.node_as, n.node
        );
        if n.port != 179 {
            let _ = writeln!(out, " peer {at} connect-port {}", n.port);
        }
    }
}

fn address_family(out: &mut String, switch: &Switch, family: Family, groups: &[(String, &Group)]) {
    let (list, v) = (ip_prefix(family), family_name(family));
    let _ = write!(
        out,
        " ip{v}-family unicast\n  load-balancing as-path-ignore\n  maximum load-balancing {}\n",
        switch.paths
    );
    for (name, group) in groups.iter().filter(|(_, g)| g.carries(family) && !g.is_unnumbered()) {
        let _ = write!(
            out,
            "  peer {name} enable\n  peer {name} {list} tortie-{v}-in import\n  peer {name} {list} tortie-{v}-out export\n  \
             peer {name} default-route-advertise\n"
        );
        if let Some(limit) = switch.max_prefixes(family) {
            let _ = writeln!(out, "  peer {name} route-limit {limit} {WARN_AT} idle-timeout {RESTART_MINUTES}");
        }
        match (group.session.sends_paths, group.session.takes_paths) {
            (true, true) => drop(writeln!(out, "  peer {name} capability-advertise add-path both")),
            (true, false) => drop(writeln!(out, "  peer {name} capability-advertise add-path send")),
            (false, true) => drop(writeln!(out, "  peer {name} capability-advertise add-path receive")),
            (false, false) => {}
        }
        for (at, _) in neighbors(switch, group, |_| String::new()) {
            let _ = write!(out, "  peer {at} enable\n  peer {at} group {name}\n");
        }
    }
    out.push_str("  quit\n");
}
