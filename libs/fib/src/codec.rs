//! Routes, links and addresses as netlink messages, and back (`rtnetlink(7)`).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::kernel::{Addr, Change, Event, KernelRoute, Link};
use crate::route::{NextHop, Route, RouteKey, Target};

/// The message that makes `change`, without sequence number and acknowledgement flag.
///
/// A route with [`Target::Other`] has no message: `None`.
pub fn message(change: &Change) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
    let (payload, flags) = match change {
        Change::Add(key, route) => {
            (RouteNetlinkMessage::NewRoute(route_message(key, route)?), NLM_F_CREATE | NLM_F_EXCL)
        }
        Change::Replace(key, route) => {
            (RouteNetlinkMessage::NewRoute(route_message(key, route)?), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Change::Delete(key, protocol) => {
            let mut m = key_message(key, *protocol);
            // Any type and scope: the key and the protocol alone name the route.
            m.header.kind = RouteType::Unspec;
            m.header.scope = RouteScope::NoWhere;
            (RouteNetlinkMessage::DelRoute(m), 0)
        }
    };
    let mut message = NetlinkMessage::from(payload);
    message.header.flags = NLM_F_REQUEST | flags;
    Some(message)
}

fn key_message(key: &RouteKey, protocol: u8) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = family(key.dst.addr());
    m.header.destination_prefix_length = key.dst.prefix_len();
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m.header.protocol = RouteProtocol::from(protocol);
    m.attributes.push(RouteAttribute::Destination(key.dst.addr().into()));
    m.attributes.push(RouteAttribute::Priority(key.priority));
    m
}

fn route_message(key: &RouteKey, route: &Route) -> Option<RouteMessage> {
    let mut m = key_message(key, route.protocol);
    m.header.kind = RouteType::Unicast;
    m.header.scope = RouteScope::Universe;
    match &route.target {
        Target::Blackhole => m.header.kind = RouteType::BlackHole,
        Target::Link { ifindex } => {
            m.header.scope = RouteScope::Link;
            m.attributes.push(RouteAttribute::Oif(*ifindex));
        }
        Target::Gateways(hops) => match hops.as_slice() {
            [] => return None,
            [one] => {
                if one.onlink {
                    m.header.flags |= RouteFlags::Onlink;
                }
                m.attributes.push(RouteAttribute::Oif(one.ifindex));
                m.attributes.push(gateway(key, one.via));
            }
            many => {
                let hops = many.iter().map(|hop| {
                    let mut h = RouteNextHop::default();
                    h.flags = if hop.onlink { RouteNextHopFlags::Onlink } else { RouteNextHopFlags::empty() };
                    h.interface_index = hop.ifindex;
                    h.attributes = vec![gateway(key, hop.via)];
                    h
                });
                m.attributes.push(RouteAttribute::MultiPath(hops.collect()));
            }
        },
        Target::Other => return None,
    }
    if let Some(source) = route.source {
        m.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    Some(m)
}

fn gateway(key: &RouteKey, via: IpAddr) -> RouteAttribute {
    match (key.dst, via) {
        // RFC 8950: an IPv4 route by an IPv6 gateway; the kernel takes it as RTA_VIA.
        (IpNet::V4(_), IpAddr::V6(v6)) => RouteAttribute::Via(RouteVia::Inet6(v6)),
        (_, via) => RouteAttribute::Gateway(via.into()),
    }
}

fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The route of a message; `None` for what this crate does not look at: other tables and families, cached clones, routes
/// of one type of service.
pub fn route(m: &RouteMessage) -> Option<KernelRoute> {
    let h = &m.header;
    let table = m.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(t) => Some(*t),
        _ => None,
    });
    let in_main = table.unwrap_or(u32::from(h.table)) == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !in_main || h.tos != 0 || h.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match h.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut dst, mut priority, mut source) = (unspecified, 0, None);
    let (mut oif, mut via, mut multipath, mut by_object) = (None, None, None, false);
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Destination(a) => dst = address(a)?,
            RouteAttribute::Priority(p) => priority = *p,
            RouteAttribute::PrefSource(a) => source = address(a),
            RouteAttribute::Oif(i) => oif = Some(*i),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => via = gateway_address(attribute),
            RouteAttribute::MultiPath(hops) => multipath = Some(hops),
            RouteAttribute::NhId(_) | RouteAttribute::Encap(_) => by_object = true,
            _ => {}
        }
    }
    let target = match (h.kind, by_object) {
        (RouteType::BlackHole, _) => Target::Blackhole,
        (RouteType::Unicast, false) => match (multipath, oif, via) {
            (Some(hops), ..) => {
                hops.iter().map(next_hop).collect::<Option<_>>().map_or(Target::Other, Target::Gateways)
            }
            (None, Some(ifindex), Some(via)) => {
                Target::Gateways(vec![NextHop { via, ifindex, onlink: h.flags.contains(RouteFlags::Onlink) }])
            }
            (None, Some(ifindex), None) => Target::Link { ifindex },
            (None, None, _) => Target::Other,
        },
        _ => Target::Other,
    };
    let dst = IpNet::new(dst, h.destination_prefix_length).ok()?;
    let route = Route { target, protocol: u8::from(h.protocol), source }.normal();
    Some(KernelRoute { key: RouteKey::new(dst, priority), route: route.into(), is_beside: false })
}

fn next_hop(hop: &RouteNextHop) -> Option<NextHop> {
    let via = hop.attributes.iter().find_map(gateway_address)?;
    Some(NextHop { via, ifindex: hop.interface_index, onlink: hop.flags.contains(RouteNextHopFlags::Onlink) })
}

fn gateway_address(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(a) => address(a),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

fn address(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The link of a message, if it has a name.
pub fn link(m: &LinkMessage) -> Option<Link> {
    let name = m.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = m.header.flags;
    Some(Link {
        index: m.header.index,
        name,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
    })
}

/// The address of a message. On a point-to-point link the local one.
pub fn addr(m: &AddressMessage) -> Option<Addr> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| m.attributes.iter().find_map(pick);
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let ip = local.or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))?;
    Some(Addr { ifindex: m.header.index, net: IpNet::new(ip, m.header.prefix_len).ok()? })
}

/// What a message of the monitor says, if it is about anything of ours.
pub fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    // `fib_table_insert`, `fib6_add_rt2node`: the first route of a key comes with NLM_F_EXCL.
    let is_beside = message.header.flags & (NLM_F_EXCL | NLM_F_REPLACE) == 0;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewRoute(m) => route(&m).map(|r| Event::RouteChanged(KernelRoute { is_beside, ..r })),
        RouteNetlinkMessage::DelRoute(m) => route(&m).map(|r| Event::RouteRemoved(r.key, r.route.protocol)),
        // A bridge reports its ports as links of family AF_BRIDGE; they are no links of their own.
        RouteNetlinkMessage::NewLink(m) if is_link(&m) => link(&m).map(Event::LinkChanged),
        RouteNetlinkMessage::DelLink(m) if is_link(&m) => Some(Event::LinkRemoved(m.header.index)),
        RouteNetlinkMessage::NewAddress(m) => addr(&m).map(Event::AddrAdded),
        RouteNetlinkMessage::DelAddress(m) => addr(&m).map(Event::AddrRemoved),
        _ => None,
    }
}

fn is_link(m: &LinkMessage) -> bool {
    m.header.interface_family == AddressFamily::Unspec
}
