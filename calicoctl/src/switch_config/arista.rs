//! Arista EOS.

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
    let _ = writeln!(out, "router bgp {}", switch.asn);
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, "   router-id {id}");
    }
    let _ = write!(
        out,
        "   no bgp default ipv4-unicast\n   graceful-restart-helper\n   bgp bestpath as-path multipath-relax\n   \
         maximum-paths {0} ecmp {0}\n",
        switch.paths
    );
    for (name, group) in &groups {
        session(&mut out, switch, name, group);
    }
    for family in switch.families() {
        let v = family_name(family);
        let _ = writeln!(out, "   address-family ip{v}");
        for (name, group) in groups.iter().filter(|(_, g)| g.carries(family)) {
            let _ = write!(
                out,
                "      neighbor {name} activate\n      neighbor {name} prefix-list tortie-{v}-in in\n      \
                 neighbor {name} prefix-list tortie-{v}-out out\n      neighbor {name} default-originate always\n"
            );
            if group.session.sends_paths {
                let _ = writeln!(out, "      neighbor {name} additional-paths send any");
            }
            if group.session.takes_paths {
                let _ = writeln!(out, "      neighbor {name} additional-paths receive");
            }
            if group.session.extended_next_hop && family == Family::Ipv4 && group.end.family() == Family::Ipv6 {
                let _ = writeln!(out, "      neighbor {name} next-hop address-family ipv6 originate");
            }
        }
    }
    out
}

fn prefix_lists(out: &mut String, switch: &Switch, family: Family) {
    let (ip, v) = (if family == Family::Ipv4 { "ip" } else { "ipv6" }, family_name(family));
    let _ = writeln!(out, "{ip} prefix-list tortie-{v}-in");
    for (i, permit) in switch.permits(family).enumerate() {
        let _ = writeln!(out, "   seq {} permit {}{}", 10 * (i + 1), permit.net, ge_le(permit));
    }
    if switch.permits(family).next().is_none() {
        let _ = writeln!(out, "   seq 10 deny {} le {}", default_route(family), family.bits());
    }
    let _ = writeln!(out, "{ip} prefix-list tortie-{v}-out\n   seq 10 permit {}", default_route(family));
}

fn session(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let _ = write!(
        out,
        "   neighbor {name} peer group\n   neighbor {name} remote-as {}\n   neighbor {name} timers {} {}\n",
        group.node_as, s.keepalive, s.hold_time
    );
    // One limit for both families; 0 is none, and without a word there is one.
    let limits = s.families.iter().map(|f| switch.max_prefixes(*f));
    match limits.sum::<Option<u32>>() {
        Some(limit) => {
            let idle = u32::from(RESTART_MINUTES) * 60;
            let _ = write!(
                out,
                "   neighbor {name} maximum-routes {limit} warning-limit {WARN_AT} percent\n   \
                 neighbor {name} idle-restart-timer {idle}\n"
            );
        }
        None => {
            let _ = writeln!(out, "   neighbor {name} maximum-routes 0");
        }
    }
    if s.needs_password {
        let _ = writeln!(out, "   neighbor {name} password 0 {PASSWORD}");
    }
    match s.ttl_security {
        Some(hops) => {
            let _ = writeln!(out, "   neighbor {name} ttl maximum-hops {hops}");
        }
        None if s.is_multihop && !group.is_ibgp(switch) => {
            let _ = writeln!(out, "   neighbor {name} ebgp-multihop {MULTIHOP}");
        }
        None => {}
    }
    if let Some(note) = bfd_note(s) {
        let _ = writeln!(out, "   ! {note}");
    }
    if let Some(bfd) = &s.bfd {
        let (receive, transmit) = bfd_millis(bfd);
        let _ = write!(
            out,
            "   neighbor {name} bfd\n   neighbor {name} bfd interval {transmit} min-rx {receive} multiplier {}\n",
            bfd.multiplier
        );
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, "   ! the nodes say a BGP role (RFC 9234): this switch is the {}", role_name(role));
    }
    for (at, n) in neighbors(switch, group, |i| format!("Ethernet{i}")) {
        if group.is_unnumbered() {
            let _ = writeln!(out, "   neighbor interface {at} peer-group {name} remote-as {}", group.node_as);
            continue;
        }
        let _ = write!(out, "   neighbor {at} peer group {name}\n   neighbor {at} description {}\n", n.node);
        if n.port != 179 {
            let _ = writeln!(out, "   neighbor {at} transport remote-port {}", n.port);
        }
    }
}
