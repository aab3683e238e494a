//! The switch's side of the nodes' sessions, in the language of its vendor (pure).
//!
//! Whatever the vendor, a configuration has: one group for nodes that want the same; AS, timers, a placeholder for a password,
//! GTSM, BFD, help for a node that restarts; multihop where a node is not on the switch's subnet; inbound prefix filters of
//! the pools and service ranges and a limit on prefixes, as the second safety net; outbound a default route and nothing
//! else; equal paths used together.
//!
//! What a vendor cannot say, or what has to be set elsewhere on the device, is a comment.

mod arista;
mod bird;
mod frr;
mod huawei;
mod junos;
mod nxos;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bgp_plan::config::{Bfd, Role};
use bgp_plan::switch::{End, Group, HIGHEST_LIMIT, Neighbor, Permit, Session, Switch};
use bgp_proto::af::Family;
use clap::ValueEnum;

/// What stands for a password: no output of ours holds one.
const PASSWORD: &str = "CHANGE-ME";
/// Hops of a session that goes through routers.
const MULTIHOP: u8 = 255;
/// The share of the limit on prefixes at which the switch warns, per cent.
const WARN_AT: u8 = 90;
/// Minutes until a session that went beyond the limit is tried again.
const RESTART_MINUTES: u8 = 5;

/// Whose language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vendor {
    Frr,
    Bird,
    CiscoNxos,
    Arista,
    Junos,
    Huawei,
}

/// The configuration of one switch.
pub fn render(vendor: Vendor, switch: &Switch) -> String {
    let mark = match vendor {
        Vendor::Frr | Vendor::CiscoNxos | Vendor::Arista => "!",
        Vendor::Bird | Vendor::Junos | Vendor::Huawei => "#",
    };
    let body = match vendor {
        Vendor::Frr => frr::render(switch),
        Vendor::Bird => bird::render(switch),
        Vendor::CiscoNxos => nxos::render(switch),
        Vendor::Arista => arista::render(switch),
        Vendor::Junos => junos::render(switch),
        Vendor::Huawei => huawei::render(switch),
    };
    notes(switch).iter().map(|note| format!("{mark} {note}\n")).collect::<String>() + &body
}

/// What the operator of the switch has to know.
fn notes(switch: &Switch) -> Vec<String> {
    let ends: Vec<String> = switch.ends.iter().map(end).collect();
    let nodes = switch.groups.iter().map(|g| g.neighbors.len()).sum::<usize>();
    let s = if nodes == 1 { "" } else { "s" };
    let mut notes = vec![format!("switch {}, AS {}: {nodes} session{s} with nodes", ends.join(" "), switch.asn)];
    if switch.groups.iter().any(Group::is_unnumbered) {
        notes.push("the ports are examples: write the one that leads to each node".into());
    }
    if switch.groups.iter().any(|g| !g.is_unnumbered() && g.carries(Family::Ipv6) && g.end.family() == Family::Ipv4) {
        notes.push(
            "IPv6 routes over IPv4 sessions: the switch needs an IPv6 address on the nodes' subnet as next hop".into(),
        );
    }
    if switch.groups.iter().any(|g| g.session.long_lived_stale_time.is_some()) {
        notes.push("the nodes ask for long-lived graceful restart (RFC 9494): where it is not set below, the switch keeps no routes for it".into());
    }
    if switch.groups.iter().any(|g| g.session.needs_password) {
        notes.push(format!("put the passwords of the nodes' secrets in the place of {PASSWORD}"));
    }
    if switch.groups.iter().any(|g| g.is_ibgp(switch)) {
        notes.push(
            "iBGP: nodes reach each other by the default route; reflect only where nodes need more specific ones"
                .into(),
        );
    }
    if switch.groups.iter().flat_map(|g| &g.neighbors).any(|n| n.port != 179) {
        notes.push(
            "nodes listen on a port other than 179: they connect to the switch, which must not wait to connect".into(),
        );
    }
    let ports: BTreeSet<u16> = switch.groups.iter().map(|g| g.session.port).filter(|p| *p != 179).collect();
    notes.extend(ports.iter().map(|p| format!("nodes connect to port {p} of the switch: it has to listen there")));
    let unlimited = switch.families().into_iter().filter(|f| switch.max_prefixes(*f).is_none());
    notes.extend(unlimited.map(|f| {
        format!(
            "no limit on prefixes of IP{}: a node may announce every block and, alone, every address that it borrowed or \
             serves, which can be more than {HIGHEST_LIMIT} here",
            family_name(f)
        )
    }));
    notes
}

fn end(end: &End) -> String {
    match end {
        End::Address(address) => address.to_string(),
        End::Range(net) => format!("inside {net}"),
        End::Interface(name) => format!("behind the nodes' {name}"),
    }
}

/// `tortie-v4`, `tortie-v4-2`, `tortie-link`, ...
fn group_names(switch: &Switch) -> Vec<(String, &Group)> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut name = |g: &Group| {
        let base = if g.is_unnumbered() { "link" } else { family_name(g.end.family()) };
        let count = counts.entry(base).or_default();
        *count += 1;
        if *count == 1 { format!("tortie-{base}") } else { format!("tortie-{base}-{count}") }
    };
    switch.groups.iter().map(|g| (name(g), g)).collect()
}

/// Neighbours of a group, each with what a vendor calls it: its address, or the `port` of the number that it has among all
/// that are behind links.
fn neighbors<'a>(switch: &'a Switch, group: &'a Group, port: impl Fn(usize) -> String) -> Vec<(String, &'a Neighbor)> {
    let before = switch.groups.iter().take_while(|g| !std::ptr::eq(*g, group)).filter(|g| g.is_unnumbered());
    let mut number = before.map(|g| g.neighbors.len()).sum::<usize>();
    let mut name = |n: &Neighbor| match n.address {
        Some(address) => address.to_string(),
        None => {
            number += 1;
            port(number)
        }
    };
    group.neighbors.iter().map(|n| (name(n), n)).collect()
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "v4",
        Family::Ipv6 => "v6",
    }
}

fn default_route(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "0.0.0.0/0",
        Family::Ipv6 => "::/0",
    }
}

/// The first IPv4 address: what a switch without another router id has.
fn router_id(switch: &Switch) -> Option<String> {
    switch.addresses().find(IpAddr::is_ipv4).map(|a| a.to_string())
}

/// ` ge 26 le 32` after a prefix: the words of Cisco and those who follow it. They refuse a `ge` of the prefix's own length, and
/// take a `ge` alone for all that is longer.
fn ge_le(permit: &Permit) -> String {
    let ge = if permit.min_len > permit.net.prefix_len() { format!(" ge {}", permit.min_len) } else { String::new() };
    let (own, longest) = (permit.net.prefix_len(), permit.net.max_prefix_len());
    let is_bounded = permit.max_len > own && (permit.max_len > permit.min_len || permit.max_len < longest);
    let le = if is_bounded { format!(" le {}", permit.max_len) } else { String::new() };
    ge + &le
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}

/// Milliseconds between packets that the node wants to receive and to send, as the switch has to set them.
fn bfd_millis(bfd: &Bfd) -> (u128, u128) {
    (bfd.min_tx.as_millis(), bfd.min_rx.as_millis())
}

/// Where BFD has other hops than the session: for devices on which it follows the session.
fn bfd_note(session: &Session) -> Option<&'static str> {
    match (session.bfd?.is_multihop, session.is_multihop) {
        (true, false) => Some("the nodes set bfd.multihop: where this device takes the link for one, BFD stays down"),
        (false, true) => Some("the nodes set bfd.multihop to false: where this device sees no link, BFD stays down"),
        _ => None,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "rs-server",
        Role::RouteServerClient => "rs-client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

#[cfg(test)]
mod tests;
