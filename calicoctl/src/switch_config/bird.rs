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
        template(&mut out, switch, &identifier(name), group);
    }
    out
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
    let (s, v) = (&group.session, family_name(group.family));
    let _ = write!(
        out,
        "template bgp {name} {{\n  local {} as {};\n  hold time {};\n  keepalive time {};\n  connect retry time {};\n  \
         connect delay time 1;\n  error wait time 1, 5;\n",
        group.address,
        switch.asn,
        s.hold_time,
        s.keepalive,
        seconds(s.connect_retry)
    );
    match (s.ttl_security, s.is_multihop) {
        (Some(hops), true) => {
            let _ = writeln!(out, "  multihop {hops};");
        }
        (Some(1), false) | (None, false) => out.push_str("  direct;\n"),
        (Some(hops), false) => {
            let _ = writeln!(out, "  multihop {hops};");
        }
        (None, true) => out.push_str("  multihop;\n"),
    }
    if s.ttl_security.is_some() {
        out.push_str("  ttl security on;\n");
    }
    if s.needs_password {
        let _ = writeln!(out, "  password \"{PASSWORD}\";");
    }
    let _ = writeln!(out, "  graceful restart {};", if s.graceful_restart { "aware" } else { "off" });
    if let Some(bfd) = &s.bfd {
        let (receive, transmit) = bfd_millis(bfd);
        let _ = writeln!(
            out,
            "  bfd {{ min rx interval {receive} ms; min tx interval {transmit} ms; multiplier {}; }};",
            bfd.multiplier
        );
    }
    if let Some(role) = s.role {
        let _ = writeln!(out, "  local role {};", role_name(role).replace('-', "_"));
    }
    let _ = write!(
        out,
        "  ip{v} {{\n    import filter tortie_{v}_in;\n    export filter tortie_{v}_out;\n    next hop self;\n    \
         import limit {} action restart;\n  }};\n}}\n",
        switch.max_prefixes
    );
    for n in &group.neighbors {
        let port = if n.port == 179 { String::new() } else { format!(" port {}", n.port) };
        let _ = writeln!(
            out,
            "protocol bgp {name}_{} from {name} {{ neighbor {}{port} as {}; description \"{}\"; }}",
            identifier(&n.node),
            n.address,
            group.node_as,
            n.node
        );
    }
}
