//! OPEN and its capabilities (RFC 4271 section 4.2; RFC 5492; RFC 9072 for the extended length).

use std::net::Ipv4Addr;

use super::iana::{self, MessageType};
use super::{Notification, write_message};
use crate::af::Family;

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
/// RFC 9072: as the first parameter type it says that lengths take two octets.
const PARAMETER_EXTENDED: u8 = 255;
/// Restart time has 12 bits (RFC 4724 section 3).
pub const MAX_RESTART_TIME: u16 = 0x0fff;

/// What a speaker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The four-octet number where the capability has it.
    pub asn: u32,
    pub hold_time: u16,
    pub router_id: Ipv4Addr,
    pub capabilities: Capabilities,
}

/// The capabilities that are used; others are ignored (RFC 5492 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Multiprotocol, for the families of ours. A peer without any has IPv4 (RFC 4760 section 8).
    pub ipv4: bool,
    pub ipv6: bool,
    pub route_refresh: bool,
    pub four_octet_as: bool,
    pub graceful_restart: Option<GracefulRestart>,
}

/// RFC 4724 section 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted. Several set it always: it proves nothing.
    pub restarting: bool,
    /// Seconds.
    pub restart_time: u16,
    /// F of each family; `None` where the family is not listed: it has no End-of-RIB promise of forwarding.
    pub ipv4: Option<bool>,
    pub ipv6: Option<bool>,
}

impl Capabilities {
    pub fn family(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

impl GracefulRestart {
    /// F of a family, `None` if it is not listed.
    pub fn forwarding(&self, family: Family) -> Option<bool> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

impl Open {
    /// Reads a body.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 section 6.2; whether the AS is the expected one is for the caller to check.
    pub fn read(body: &[u8]) -> Result<Open, Notification> {
        let malformed = || Notification::open(0, &[]);
        let (fixed, rest) = body.split_first_chunk::<10>().ok_or_else(malformed)?;
        if fixed[0] != VERSION {
            return Err(Notification::open(iana::UNSUPPORTED_VERSION, &u16::from(VERSION).to_be_bytes()));
        }
        let hold_time = u16::from_be_bytes([fixed[3], fixed[4]]);
        if matches!(hold_time, 1 | 2) {
            return Err(Notification::open(iana::UNACCEPTABLE_HOLD_TIME, &[]));
        }
        let router_id = Ipv4Addr::new(fixed[5], fixed[6], fixed[7], fixed[8]);
        // RFC 6286 section 2.1: any but zero.
        if router_id.is_unspecified() {
            return Err(Notification::open(iana::BAD_BGP_IDENTIFIER, &[]));
        }
        let mut open = Open {
            asn: u16::from_be_bytes([fixed[1], fixed[2]]).into(),
            hold_time,
            router_id,
            capabilities: Capabilities::default(),
        };
        let extended = fixed[9] != 0 && rest.first() == Some(&PARAMETER_EXTENDED);
        let (len, mut parameters) = if extended {
            let (head, parameters) = rest.split_first_chunk::<3>().ok_or_else(malformed)?;
            (usize::from(u16::from_be_bytes([head[1], head[2]])), parameters)
        } else {
            (usize::from(fixed[9]), rest)
        };
        if parameters.len() != len {
            return Err(malformed());
        }
        let mut multiprotocol = false;
        while !parameters.is_empty() {
            let (kind, value, rest) = split_parameter(parameters, extended).ok_or_else(malformed)?;
            if kind != PARAMETER_CAPABILITIES {
                return Err(Notification::open(iana::UNSUPPORTED_OPTIONAL_PARAMETER, &[]));
            }
            open.read_capabilities(value, &mut multiprotocol).ok_or_else(malformed)?;
            parameters = rest;
        }
        if !multiprotocol {
            open.capabilities.ipv4 = true;
        }
        // RFC 7607: AS 0 is bad, in either field.
        if open.asn == 0 {
            return Err(Notification::open(iana::BAD_PEER_AS, &[]));
        }
        Ok(open)
    }

    fn read_capabilities(&mut self, mut list: &[u8], multiprotocol: &mut bool) -> Option<()> {
        while !list.is_empty() {
            let (code, value, rest) = split_parameter(list, false)?;
            list = rest;
            let caps = &mut self.capabilities;
            match (code, value) {
                (iana::CAP_MULTIPROTOCOL, &[a, b, _, safi]) => {
                    *multiprotocol = true;
                    match Family::from_wire(u16::from_be_bytes([a, b]), safi) {
                        Some(Family::Ipv4) => caps.ipv4 = true,
                        Some(Family::Ipv6) => caps.ipv6 = true,
                        None => {}
                    }
                }
                (iana::CAP_ROUTE_REFRESH, []) => caps.route_refresh = true,
                (iana::CAP_FOUR_OCTET_AS, &[a, b, c, d]) => {
                    caps.four_octet_as = true;
                    self.asn = u32::from_be_bytes([a, b, c, d]);
                }
                (iana::CAP_GRACEFUL_RESTART, value) => caps.graceful_restart = read_graceful_restart(value),
                _ => {}
            }
        }
        Some(())
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut caps = Vec::with_capacity(64);
        let caps_of = &self.capabilities;
        for family in Family::ALL.into_iter().filter(|&f| caps_of.family(f)) {
            let afi = family.afi().to_be_bytes();
            caps.extend_from_slice(&[iana::CAP_MULTIPROTOCOL, 4, afi[0], afi[1], 0, 1]);
        }
        if caps_of.route_refresh {
            caps.extend_from_slice(&[iana::CAP_ROUTE_REFRESH, 0]);
        }
        if let Some(gr) = &caps_of.graceful_restart {
            let listed: Vec<_> = Family::ALL.into_iter().filter_map(|f| gr.forwarding(f).map(|p| (f, p))).collect();
            caps.extend_from_slice(&[iana::CAP_GRACEFUL_RESTART, 2 + 4 * listed.len() as u8]);
            let flags = if gr.restarting { 0x8000 } else { 0 };
            caps.extend_from_slice(&(flags | gr.restart_time.min(MAX_RESTART_TIME)).to_be_bytes());
            for (family, preserved) in listed {
                caps.extend_from_slice(&family.afi().to_be_bytes());
                caps.extend_from_slice(&[1, if preserved { 0x80 } else { 0 }]);
            }
        }
        if caps_of.four_octet_as {
            caps.extend_from_slice(&[iana::CAP_FOUR_OCTET_AS, 4]);
            caps.extend_from_slice(&self.asn.to_be_bytes());
        }
        write_message(out, MessageType::Open, |out| {
            out.push(VERSION);
            out.extend_from_slice(&u16::try_from(self.asn).unwrap_or(iana::AS_TRANS).to_be_bytes());
            out.extend_from_slice(&self.hold_time.to_be_bytes());
            out.extend_from_slice(&self.router_id.octets());
            if caps.is_empty() {
                out.push(0);
            } else {
                out.extend_from_slice(&[caps.len() as u8 + 2, PARAMETER_CAPABILITIES, caps.len() as u8]);
                out.extend_from_slice(&caps);
            }
        });
    }
}

/// Type, value and what follows.
fn split_parameter(list: &[u8], extended: bool) -> Option<(u8, &[u8], &[u8])> {
    let (kind, len, rest) = match (extended, list) {
        (false, [kind, len, rest @ ..]) => (*kind, usize::from(*len), rest),
        (true, [kind, a, b, rest @ ..]) => (*kind, usize::from(u16::from_be_bytes([*a, *b])), rest),
        _ => return None,
    };
    (rest.len() >= len).then(|| (kind, &rest[..len], &rest[len..]))
}

fn read_graceful_restart(value: &[u8]) -> Option<GracefulRestart> {
    let (head, families) = value.split_first_chunk::<2>()?;
    let head = u16::from_be_bytes(*head);
    let mut gr = GracefulRestart {
        restarting: head & 0x8000 != 0,
        restart_time: head & MAX_RESTART_TIME,
        ..GracefulRestart::default()
    };
    for f in families.chunks_exact(4) {
        let preserved = Some(f[3] & 0x80 != 0);
        match Family::from_wire(u16::from_be_bytes([f[0], f[1]]), f[2]) {
            Some(Family::Ipv4) => gr.ipv4 = preserved,
            Some(Family::Ipv6) => gr.ipv6 = preserved,
            None => {}
        }
    }
    Some(gr)
}
