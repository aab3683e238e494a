//! Capabilities as they are shown.

use serde::Serialize;

use crate::af::Family;
use crate::wire::capability::{self, Capabilities};
use crate::wire::community::hex;
use crate::wire::iana::{self, Role};
use crate::wire::open;

/// One capability.
#[derive(Debug, Serialize)]
pub struct CapabilityView {
    pub code: u8,
    pub name: String,
    /// What it says, in words; octets where it is not understood.
    pub value: String,
}

/// The capabilities of an OPEN's body, as far as it is well formed.
pub(super) fn list(body: &[u8]) -> Vec<CapabilityView> {
    let mut all = Vec::new();
    for mut list in open::capability_parameters(body) {
        while let Some((code, value, rest)) = capability::split(list) {
            let name = iana::capability_name(code).unwrap_or("unknown").to_owned();
            all.push(CapabilityView { code, name, value: words(code, value) });
            list = rest;
        }
    }
    all
}

fn words(code: u8, value: &[u8]) -> String {
    let mut octets = vec![code, value.len() as u8];
    octets.extend_from_slice(value);
    let mut caps = Capabilities::default();
    match caps.read_list(&octets) {
        Ok(found) if caps.unknown.is_empty() => say(code, value, &caps, found.asn),
        _ => hex(value),
    }
}

fn say(code: u8, value: &[u8], caps: &Capabilities, asn: Option<u32>) -> String {
    let families = |f: &dyn Fn(Family) -> Option<String>| -> String {
        Family::ALL.into_iter().filter_map(f).collect::<Vec<_>>().join(", ")
    };
    match code {
        iana::CAP_MULTIPROTOCOL => {
            let known = families(&|f| caps.family(f).then(|| format!("{f} unicast")));
            if known.is_empty() { format!("AFI/SAFI {}", hex(value)) } else { known }
        }
        iana::CAP_FOUR_OCTET_AS => asn.map(|a| a.to_string()).unwrap_or_default(),
        iana::CAP_EXTENDED_NEXT_HOP if caps.extended_next_hop => "IPv4 unicast over IPv6".to_owned(),
        iana::CAP_ROLE => caps.role.map_or_else(String::new, role),
        iana::CAP_GRACEFUL_RESTART => caps.graceful_restart.map_or_else(String::new, |gr| {
            let flags = [(gr.restarting, "restarting"), (gr.notification, "notification")];
            let flags: String = flags.iter().filter(|f| f.0).map(|f| format!(", {}", f.1)).collect();
            let kept = families(&|f| gr.forwarding(f).map(|kept| format!("{f}{}", preserved(kept))));
            format!("{} s{flags}; {}", gr.restart_time, if kept.is_empty() { "no families" } else { &kept })
        }),
        iana::CAP_LONG_LIVED_GRACEFUL_RESTART => families(&|f| {
            let l = caps.long_lived?.family(f)?;
            Some(format!("{f} {} s{}", l.stale_time, preserved(l.preserved)))
        }),
        iana::CAP_ADD_PATH => families(&|f| match caps.add_path[f as usize] {
            capability::AddPath { send: true, receive: true } => Some(format!("{f} both")),
            capability::AddPath { send: true, .. } => Some(format!("{f} send")),
            capability::AddPath { receive: true, .. } => Some(format!("{f} receive")),
            _ => None,
        }),
        iana::CAP_FQDN => caps.fqdn.as_ref().map_or_else(String::new, |f| match f.domain.is_empty() {
            true => f.host.escape_debug().to_string(),
            false => format!("{}.{}", f.host, f.domain).escape_debug().to_string(),
        }),
        _ => hex(value),
    }
}

fn role(octet: u8) -> String {
    Role::from_wire(octet).map_or_else(|| format!("unassigned ({octet})"), |r| r.name().to_owned())
}

fn preserved(kept: bool) -> &'static str {
    if kept { " (forwarding kept)" } else { "" }
}
