//! A peer as operators see it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_proto::af::Family;
use bgp_proto::fsm::State;
use bgp_proto::fsm::restart::Cause;
use bgp_proto::rib::Rib;
use bgp_proto::wire::MessageType;
use bgp_proto::wire::iana::{self, Role};
use bgp_proto::wire::open::{Capabilities, Open};
use jiff::Timestamp;
use serde::Serialize;

use super::{MalformedUpdates, Messages, Peer, Reset, down_reason, is_configured};
use crate::bfd::BfdStatus;
use bgp_plan::config::{PeerConfig, PeerId, PeerType};

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Place {
    Address(IpAddr),
    /// Behind this interface, and nobody was heard there yet.
    Interface(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Address(address) => address.fmt(f),
            Place::Interface(name) => f.write_str(name),
        }
    }
}

impl PartialEq<IpAddr> for Place {
    fn eq(&self, other: &IpAddr) -> bool {
        matches!(self, Place::Address(address) if address == other)
    }
}

/// An interface of an unnumbered peer behind which nobody was heard yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The interface is there and can carry packets.
    pub is_usable: bool,
    pub since: Timestamp,
}

impl Waiting {
    /// As a peer: RFC 4271's Active waits for the other side, Idle does nothing.
    pub fn detail(&self, interface: &str, config: &PeerConfig) -> PeerDetail {
        let held_down = down_reason(config);
        let why = match self.is_usable {
            _ if held_down.is_some() => held_down.clone(),
            true => Some(format!("no neighbour heard on {interface}")),
            false => Some(format!("the interface {interface} is down or absent")),
        };
        let status = PeerStatus {
            name: config.name.clone(),
            address: Place::Interface(interface.into()),
            interface: Some(interface.into()),
            scope: 0,
            port: 179,
            peer_type: config.peer_type,
            remote_as: config.remote_as,
            local_as: config.local_as,
            state: if self.is_usable && held_down.is_none() { State::Active } else { State::Idle }.name(),
            up: false,
            since: self.since,
            last_error: why,
            held_down,
            received: 0,
            accepted: 0,
            advertised: 0,
            family: "IPv6",
            flaps: 0,
            near_limit: false,
            bfd: None,
        };
        PeerDetail {
            status,
            local: None,
            remote: None,
            router_id: None,
            established: 0,
            last_reset: None,
            last_code: None,
            capabilities: Vec::new(),
            families: Vec::new(),
            timers: Vec::new(),
            messages_received: Messages::default().into(),
            messages_sent: Messages::default().into(),
            malformed: MalformedUpdates::default(),
        }
    }
}

/// A row of `/v1/peers`; the fields are documented in `control`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub name: String,
    pub address: Place,
    /// The link that it is behind.
    pub interface: Option<String>,
    #[serde(skip)]
    pub scope: u32,
    pub port: u16,
    #[serde(rename = "type")]
    pub peer_type: PeerType,
    pub remote_as: u32,
    pub local_as: u32,
    pub state: &'static str,
    pub up: bool,
    pub since: Timestamp,
    /// Why it is down; while it is up, what an operator should know of it.
    pub last_error: Option<String>,
    /// Why its configuration keeps it down, where it does.
    pub held_down: Option<String>,
    pub received: u32,
    /// Of those, what loop checks and policy let pass.
    pub accepted: u32,
    pub advertised: u32,
    pub family: &'static str,
    /// Sessions that were lost.
    pub flaps: u64,
    /// It announces nearly as many prefixes of a family as it may, or more.
    pub near_limit: bool,
    pub bfd: Option<BfdStatus>,
}

/// Everything there is to know of a peer: `/v1/peers/ADDRESS`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerDetail {
    #[serde(flatten)]
    pub status: PeerStatus,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// The peer's BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// Sessions that came up since the peer was configured.
    pub established: u64,
    /// The end of the last one.
    pub last_reset: Option<Reset>,
    /// Code and subcode of the NOTIFICATION that ended the last session.
    pub last_code: Option<(u8, u8)>,
    pub capabilities: Vec<CapabilityStatus>,
    pub families: Vec<FamilyStatus>,
    pub timers: Vec<TimerStatus>,
    pub messages_received: MessageCounts,
    pub messages_sent: MessageCounts,
    pub malformed: MalformedUpdates,
}

/// A capability, with what each side says of it; null: nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapabilityStatus {
    pub name: String,
    pub ours: Option<String>,
    pub theirs: Option<String>,
}

/// A family that is configured for the peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyStatus {
    pub family: String,
    pub negotiated: bool,
    pub received: u32,
    /// Of those, what loop checks and policy let pass.
    pub accepted: u32,
    pub advertised: u32,
    pub end_of_rib: bool,
    /// What stale routes of the peer wait for, and how much longer, in seconds.
    pub retention: Option<(&'static str, f64)>,
    pub limit: Option<u32>,
}

/// In seconds; null: it does not run, or there is none.
#[derive(Clone, Debug, Serialize)]
pub struct TimerStatus {
    pub name: &'static str,
    pub configured: f64,
    pub negotiated: Option<f64>,
    pub remaining: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageCounts {
    pub open: u64,
    pub update: u64,
    pub notification: u64,
    pub keepalive: u64,
    pub route_refresh: u64,
}

impl From<Messages> for MessageCounts {
    fn from(messages: Messages) -> MessageCounts {
        let of = |kind: MessageType| messages.0[kind as usize - 1];
        MessageCounts {
            open: of(MessageType::Open),
            update: of(MessageType::Update),
            notification: of(MessageType::Notification),
            keepalive: of(MessageType::Keepalive),
            route_refresh: of(MessageType::RouteRefresh),
        }
    }
}

impl Peer {
    pub fn status(&self, id: PeerId, rib: &Rib, bfd: Option<BfdStatus>) -> PeerStatus {
        let (v4, v6) = (rib.counts(self.index, Family::Ipv4), rib.counts(self.index, Family::Ipv6));
        PeerStatus {
            name: self.config.name.clone(),
            address: Place::Address(id.address),
            interface: self.config.interface.clone(),
            scope: id.scope,
            port: id.port,
            peer_type: self.config.peer_type,
            // A template takes any AS: then it is what the OPEN said.
            remote_as: match (self.config.remote_as, &self.primary.open) {
                (0, Some(open)) => open.asn,
                (configured, _) => configured,
            },
            local_as: self.config.local_as,
            state: self.primary.fsm.state().name(),
            up: self.session.is_some(),
            since: self.since,
            last_error: self.last_error.clone(),
            held_down: self.down_reason(),
            received: v4.0 + v6.0,
            accepted: Family::ALL.into_iter().map(|f| rib.accepted(self.index, f)).sum(),
            advertised: v4.1 + v6.1,
            family: if id.address.is_ipv4() { "IPv4" } else { "IPv6" },
            flaps: self.counters.flaps,
            near_limit: Family::ALL.into_iter().any(|f| self.is_near_limit(rib.accepted(self.index, f))),
            bfd,
        }
    }

    pub fn detail(&self, id: PeerId, rib: &Rib, bfd: Option<BfdStatus>) -> PeerDetail {
        let now = Instant::now();
        PeerDetail {
            status: self.status(id, rib, bfd),
            local: self.primary.local,
            remote: self.primary.remote,
            router_id: self.primary.open.as_ref().map(|o| o.router_id),
            established: self.counters.established,
            last_reset: self.last_reset.clone(),
            last_code: match self.cause {
                Cause::Sent(code, subcode) | Cause::Received(code, subcode) => Some((code, subcode)),
                Cause::ConnectionLost | Cause::PathLost => None,
            },
            capabilities: capabilities(self.primary.sent.as_ref(), self.primary.open.as_ref()),
            families: Family::ALL
                .into_iter()
                .filter(|&f| is_configured(&self.config, f))
                .map(|f| self.family_status(f, rib, now))
                .collect(),
            timers: self.timers(now),
            messages_received: self.counters.received.into(),
            messages_sent: self.counters.sent.into(),
            malformed: self.malformed.clone(),
        }
    }

    fn family_status(&self, family: Family, rib: &Rib, now: Instant) -> FamilyStatus {
        let (received, advertised) = rib.counts(self.index, family);
        let retention = &self.retention[family as usize];
        let left = retention.next_deadline().map_or(0.0, |t| t.saturating_duration_since(now).as_secs_f64());
        FamilyStatus {
            family: family.to_string(),
            negotiated: self.session.as_ref().is_some_and(|s| s.common.family(family)),
            received,
            accepted: rib.accepted(self.index, family),
            advertised,
            end_of_rib: self.session.as_ref().is_some_and(|s| s.end_of_rib[family as usize]),
            retention: retention.phase().map(|phase| (phase, left)),
            limit: self.config.max_prefixes.map(|m| m.limit),
        }
    }

    fn timers(&self, now: Instant) -> Vec<TimerStatus> {
        let config = &self.config;
        let running = self.primary.fsm.timers();
        let negotiated = self.session.as_ref().map(|_| self.primary.fsm.negotiated());
        let left = |t: Option<Instant>| t.map(|t| t.saturating_duration_since(now).as_secs_f64());
        let secs = |s: u16| f64::from(s);
        let third = config.hold_time / 3;
        let row = |name, configured, negotiated: Option<Duration>, remaining| TimerStatus {
            name,
            configured,
            negotiated: negotiated.map(|d| d.as_secs_f64()),
            remaining,
        };
        vec![
            row("hold", secs(config.hold_time), negotiated.map(|n| n.0), left(running.hold)),
            row(
                "keepalive",
                secs(config.keepalive.unwrap_or(third).min(third)),
                negotiated.map(|n| n.1),
                left(running.keepalive),
            ),
            row("connect retry", config.connect_retry.as_secs_f64(), None, left(running.connect_retry)),
            row("delay open", config.delay_open.as_secs_f64(), None, left(running.delay_open)),
            row("idle hold", config.connect_retry.as_secs_f64(), None, left(running.idle_hold)),
            row("send hold", secs(config.send_hold_time), None, left(running.send_hold)),
            row(
                "restart",
                secs(config.graceful_restart.unwrap_or(0)),
                self.session
                    .as_ref()
                    .and_then(|s| s.common.graceful_restart)
                    .map(|gr| Duration::from_secs(gr.restart_time.into())),
                None,
            ),
        ]
    }
}

/// What each side said in its OPEN, a row for everything that either has.
fn capabilities(ours: Option<&Open>, theirs: Option<&Open>) -> Vec<CapabilityStatus> {
    let said = |open: Option<&Open>| open.map(|o| describe(&o.capabilities, o.asn)).unwrap_or_default();
    let (ours, mut theirs) = (said(ours), said(theirs));
    let mut rows: Vec<CapabilityStatus> = Vec::new();
    for (name, own) in ours {
        let at = theirs.iter().position(|(n, _)| *n == name);
        let theirs = at.map(|at| theirs.remove(at).1);
        rows.push(CapabilityStatus { name, ours: Some(own), theirs });
    }
    rows.extend(theirs.into_iter().map(|(name, theirs)| CapabilityStatus { name, ours: None, theirs: Some(theirs) }));
    rows
}

/// The capabilities of one OPEN: name, and what it says; `yes` where it says nothing but its name.
fn describe(c: &Capabilities, asn: u32) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, says: String| all.push((name.into(), says));
    let yes = || "yes".to_string();
    for family in Family::ALL.into_iter().filter(|&f| c.family(f)) {
        add(&format!("multiprotocol {family}"), yes());
    }
    let flags = [
        (c.route_refresh, "route refresh"),
        (c.enhanced_route_refresh, "enhanced route refresh"),
        (c.extended_messages, "extended messages"),
        (c.extended_next_hop, "extended next hop"),
    ];
    flags.into_iter().filter(|f| f.0).for_each(|(_, name)| add(name, yes()));
    if c.four_octet_as {
        add("four-octet AS", asn.to_string());
    }
    if let Some(gr) = &c.graceful_restart {
        let mut says = format!("{} s", gr.restart_time);
        says += if gr.restarting { ", restarted" } else { "" };
        says += if gr.notification { ", with NOTIFICATIONs" } else { "" };
        for (family, preserved) in Family::ALL.into_iter().filter_map(|f| gr.forwarding(f).map(|p| (f, p))) {
            says += &format!(", {family}{}", if preserved { " preserved" } else { "" });
        }
        add("graceful restart", says);
    }
    for family in Family::ALL {
        if let Some(f) = c.long_lived.and_then(|l| l.family(family)) {
            let preserved = if f.preserved { ", preserved" } else { "" };
            add(&format!("long-lived graceful restart {family}"), format!("{} s{preserved}", f.stale_time));
        }
        let a = c.add_path[family as usize];
        let says = match (a.send, a.receive) {
            (true, true) => "send and receive",
            (true, false) => "send",
            (false, true) => "receive",
            (false, false) => continue,
        };
        add(&format!("add-path {family}"), says.into());
    }
    if let Some(role) = c.role {
        add("role", Role::from_wire(role).map_or_else(|| role.to_string(), |r| r.name().into()));
    }
    if let Some(name) = &c.fqdn {
        add("host name", format!("{} {}", name.host, name.domain).trim().escape_debug().to_string());
    }
    for code in &c.unknown {
        match iana::capability_name(*code) {
            Some(name) => add(&format!("{name} ({code})"), yes()),
            None => add(&format!("capability {code}"), yes()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_proto::wire::open::{AddPath, GracefulRestart};

    fn open(capabilities: Capabilities) -> Open {
        Open { asn: 65001, hold_time: 90, router_id: [1, 1, 1, 1].into(), capabilities }
    }

    #[test]
    fn a_row_for_every_capability_of_either_side() {
        let graceful_restart = Some(GracefulRestart { restart_time: 120, ipv4: Some(true), ..Default::default() });
        let ours = Capabilities { ipv4: true, four_octet_as: true, graceful_restart, ..Default::default() };
        let add_path = [AddPath { send: true, receive: false }, AddPath::default()];
        let theirs = Capabilities { ipv4: true, ipv6: true, add_path, unknown: vec![128, 250], ..Default::default() };
        let rows = capabilities(Some(&open(ours)), Some(&open(theirs)));
        let rows: Vec<(&str, Option<&str>, Option<&str>)> =
            rows.iter().map(|r| (r.name.as_str(), r.ours.as_deref(), r.theirs.as_deref())).collect();
        assert_eq!(
            rows,
            [
                ("multiprotocol IPv4", Some("yes"), Some("yes")),
                ("four-octet AS", Some("65001"), None),
                ("graceful restart", Some("120 s, IPv4 preserved"), None),
                ("multiprotocol IPv6", None, Some("yes")),
                ("add-path IPv4", None, Some("send")),
                ("Route Refresh (before RFC 2918) (128)", None, Some("yes")),
                ("capability 250", None, Some("yes")),
            ]
        );
        assert_eq!(capabilities(None, None), []);
    }
}
