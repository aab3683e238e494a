//! BIRD 2.

use std::fmt::Write as _;

use bgp_plan::switch::{Group, Switch};
use bgp_proto::af::Family;

use super::*;

pub fn render(switch: &Switch) -> String {
    let mut out = String::new();
    if let Some(id) = router_id(switch) {
        let _ = writeln!(out, "router id {id};");
    }
    out.push_str("protocol device {}\nprotocol direct { ipv4; ipv6; }\n");
    for family in switch.families() {
        tables(&mut out, switch, family);
    }
    let groups = group_names(switch);
    if groups.iter().any(|(_, g)| g.session.bfd.is_some()) {
        out.push_str("protocol bfd {}\n");
    }
    for (name, group) in &groups {
        if group.is_unnumbered() {
            advertisements(&mut out, switch, &identifier(name), group);
        }
        template(&mut out, switch, &identifier(name), group);
    }
    out
}

/// Nodes find the switch by them; no router for anybody else.
fn advertisements(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let ports: Vec<String> = neighbors(switch, group, port).into_iter().map(|(at, _)| format!("\"{at}\"")).collect();
    let _ = write!(
        out,
        "protocol radv radv_{name} {{\n  interface {} {{ min ra interval 3; max ra interval 10; default lifetime 0; }};\n}}\n",
        ports.join(", ")
    );
}

fn port(number: usize) -> String {
    format!("swp{number}")
}

/// BIRD's names have no hyphen.
fn identifier(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn tables(out: &mut String, switch: &Switch, family: Family) {
    let (v, default) = (family_name(family), default_route(family));
    let sets: Vec<String> =
        switch.permits(family).map(|p| format!("{}{{{},{}}}", p.net, p.min_len, p.max_len)).collect();
    let accept = match sets.is_empty() {
        true => String::new(),
        false => format!("  if net ~ [ {} ] then accept;\n", sets.join(",\n             ")),
    };
    let _ = write!(
        out,
        "protocol kernel kernel_{v} {{ merge paths on limit {}; ip{v} {{ import none; export where source = RTS_BGP; }}; }}\n\
         # The default route for the nodes; where another protocol has one, leave this out.\n\
         protocol static default_{v} {{ ip{v}; route {default} unreachable; }}\n\
         filter tortie_{v}_in {{\n{accept}  reject;\n}}\n\
         filter tortie_{v}_out {{\n  if net = {default} then accept;\n  reject;\n}}\n",
        switch.paths
    );
}

fn template(out: &mut String, switch: &Switch, name: &str, group: &Group) {
    let s = &group.session;
    let listens = if s.port == 179 { String::new() } else { format!("port {} ", s.port) };
    let own = group.end.address().map(|a| format!("{a} ")).unwrap_or_default() + &listens;
    let _ = write!(
        out,
        "template bgp {name} {{\n  local {own}as {};\n  hold time {};\n  keepalive time {};\n  connect retry time {};\n  \
         connect delay time 1;\n  error wait time 1, 5;\n",
        switch.asn,
        s.hold_time,
        s.keepalive,
        seconds(s.connect_retry)
    );
    // BFD has the hops of the session; on a link a session with multihop works as well, and one with GTSM comes with all of its
    // TTL.
    let is_multihop = s.is_multihop || s.bfd.is_some_and(|b| b.is_multihop);
    match (s.ttl_security, is_multihop) {
        _ if group.is_unnumbered() => {}
        (Some(hops), true) => {
            let _ = writeln!(out, "  multihop {hops};");
        }
        (_, false) => out.push_str("  direct;\n"),
        (None, true) => out.push_str("  multihop;\n"),
    }
    if s.ttl_security.is_some() {
        out.push_str("  ttl security on;\n");
    }
    if s.needs_password {
        let _ = writeln!(out, "  password \"{PASSWORD}\";");
    }
    let _ = writeln!(out, "  graceful restart {};", if s.graceful_restart { "aware" } else { "off" });
    if s.long_lived_stale_time.is_some() {
        out.push_str("  long lived graceful restart aware;\n");
    }
    if let Some(bfd) = &s.bfd {
        let (receive, transmit) = bfd_millis(bfd);
        if let Some(note) = bfd_note(s).filter(|_| !bfd.is_multihop || group.is_unnumbered()) {
            let _ = writeln!(out, "  # {note}");
        }
        if s.graceful_restart {
            out.push_str(
                "  # With `graceful` in it the routes of a node whose bgpd restarts stay, and those of a node that died\n  \
                 # as well, for the restart time.\n",
            );
        }
        let _ = writeln!(
            out,
            "  bfd {{ min rx interval {receive} ms; min tx interval {transmit} ms; multiplier {}; }};",
            bfd.multiplier
        );
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, "  local role {};", role_name(role).replace('-', "_"));
    }
    s.families.iter().for_each(|f| channel(out, switch, group, *f));
    out.push_str("}\n");
    for (at, n) in neighbors(switch, group, port) {
        let port = if n.port == 179 { String::new() } else { format!(" port {}", n.port) };
        let at = match n.address {
            // The node connects: its address on the link is nobody's business.
            None => format!(
                "neighbor range fe80::/10 as {}; interface \"{at}\"; dynamic name \"link_{at}_\"",
                group.node_as
            ),
            Some(_) => format!("neighbor {at}{port} as {}", group.node_as),
        };
        let _ = writeln!(
            out,
            "protocol bgp {name}_{} from {name} {{ {at}; description \"{}\"; }}",
            identifier(&n.node),
            n.node
        );
    }
}

fn channel(out: &mut String, switch: &Switch, group: &Group, family: Family) {
    let (s, v) = (&group.session, family_name(family));
    let _ = write!(
        out,
        "  ip{v} {{\n    import filter tortie_{v}_in;\n    export filter tortie_{v}_out;\n    next hop self;\n"
    );
    if let Some(limit) = switch.max_prefixes(family) {
        let _ = writeln!(out, "    import limit {limit} action restart;");
    }
    if s.extended_next_hop && family == Family::Ipv4 && group.end.family() == Family::Ipv6 {
        out.push_str("    extended next hop on;\n");
    }
    match (s.sends_paths, s.takes_paths) {
        (true, true) => out.push_str("    add paths on;\n"),
        (true, false) => out.push_str("    add paths tx;\n"),
        (false, true) => out.push_str("    add paths rx;\n"),
        (false, false) => {}
    }
    out.push_str("  };\n");
}
