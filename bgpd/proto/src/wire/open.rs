//! OPEN (RFC 4271 section 4.2; RFC 9072 for parameters beyond 255 octets).

use std::net::Ipv4Addr;

use super::as_path;
use super::capability::{self, ListError};
pub use super::capability::{
    AddPath, Capabilities, Fqdn, GracefulRestart, LongLived, LongLivedFamily, MAX_RESTART_TIME, MAX_STALE_TIME,
};
use super::iana::{self, MessageType};
use super::{Notification, write_message};

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
/// RFC 9072: as the first parameter type it says that lengths take two octets.
const PARAMETER_EXTENDED: u8 = 255;

/// What a speaker says of itself.
///
/// ```text
///  | version | my AS, 16 | hold time, 16 | BGP identifier, 32 | length, 8 | parameters ... |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The four-octet number where the capability has it.
    pub asn: u32,
    pub hold_time: u16,
    pub router_id: Ipv4Addr,
    pub capabilities: Capabilities,
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
        let asn = u16::from_be_bytes([fixed[1], fixed[2]]).into();
        let mut open = Open { asn, hold_time, router_id, capabilities: Capabilities::default() };
        let (extended, parameters) = parameters(fixed[9], rest).ok_or_else(malformed)?;
        open.read_parameters(extended, parameters)?;
        // RFC 7607 section 2: AS 0 is bad, in either field.
        if asn == 0 || open.asn == 0 {
            return Err(Notification::open(iana::BAD_PEER_AS, &[]));
        }
        Ok(open)
    }

    fn read_parameters(&mut self, extended: bool, mut parameters: &[u8]) -> Result<(), Notification> {
        let malformed = || Notification::open(0, &[]);
        let mut multiprotocol = false;
        while !parameters.is_empty() {
            let (kind, value, rest) = split_parameter(parameters, extended).ok_or_else(malformed)?;
            if kind != PARAMETER_CAPABILITIES {
                return Err(Notification::open(iana::UNSUPPORTED_OPTIONAL_PARAMETER, &[]));
            }
            let found = self.capabilities.read_list(value).map_err(|e| match e {
                ListError::Malformed => malformed(),
                ListError::Roles => Notification::open(iana::ROLE_MISMATCH, &[]),
            })?;
            multiprotocol |= found.multiprotocol;
            self.asn = found.asn.unwrap_or(self.asn);
            parameters = rest;
        }
        let caps = &mut self.capabilities;
        if !multiprotocol {
            caps.ipv4 = true;
        }
        // RFC 9494 section 4.2: ignored without graceful restart.
        if caps.graceful_restart.is_none() {
            caps.long_lived = None;
        }
        Ok(())
    }

    /// The same for a peer that knows no capabilities: what is left is IPv4 (RFC 4760 section 8).
    pub fn without_capabilities(self) -> Open {
        Open { capabilities: Capabilities { ipv4: true, ..Capabilities::default() }, ..self }
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut caps = Vec::with_capacity(64);
        self.capabilities.write_list(&mut caps, self.asn);
        self.write_with(&caps, out);
    }

    /// Appends the message without the parameter for capabilities (RFC 5492 section 3).
    pub fn write_without_capabilities(&self, out: &mut Vec<u8>) {
        self.write_with(&[], out);
    }

    fn write_with(&self, caps: &[u8], out: &mut Vec<u8>) {
        write_message(out, MessageType::Open, |out| {
            out.push(VERSION);
            out.extend_from_slice(&as_path::narrow(self.asn).to_be_bytes());
            out.extend_from_slice(&self.hold_time.to_be_bytes());
            out.extend_from_slice(&self.router_id.octets());
            match u8::try_from(caps.len() + 2) {
                Ok(2) => out.push(0),
                Ok(len) => out.extend_from_slice(&[len, PARAMETER_CAPABILITIES, len - 2]),
                Err(_) => {
                    // RFC 9072 section 2: both octets are 255, then lengths have two octets.
                    let [a, b] = (caps.len() as u16 + 3).to_be_bytes();
                    let [c, d] = (caps.len() as u16).to_be_bytes();
                    out.extend_from_slice(&[255, PARAMETER_EXTENDED, a, b, PARAMETER_CAPABILITIES, c, d]);
                }
            }
            out.extend_from_slice(caps);
        });
    }
}

/// The codes of a list of capabilities, as far as it is well formed (the data of a NOTIFICATION 2/7).
pub(super) fn capability_codes(mut list: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (code, _, rest) = capability::split(list)?;
        list = rest;
        Some(code)
    })
}

/// The contents of each capabilities parameter of a body, as far as it is well formed.
pub(super) fn capability_parameters(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = body.split_first_chunk::<10>().and_then(|(fixed, rest)| parameters(fixed[9], rest));
    let (extended, mut list) = all.unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, value, rest) = split_parameter(list, extended)?;
        list = rest;
        Some((kind, value))
    })
    .filter_map(|(kind, value)| (kind == PARAMETER_CAPABILITIES).then_some(value))
}

/// The parameters, and whether their lengths take two octets.
fn parameters(len: u8, rest: &[u8]) -> Option<(bool, &[u8])> {
    // RFC 9072 section 2: with the first type 255 the length before it is ignored, unless it is 0.
    let extended = len != 0 && rest.first() == Some(&PARAMETER_EXTENDED);
    let (len, parameters) = if extended {
        let (&[_, a, b], parameters) = rest.split_first_chunk::<3>()?;
        (usize::from(u16::from_be_bytes([a, b])), parameters)
    } else {
        (usize::from(len), rest)
    };
    (parameters.len() == len).then_some((extended, parameters))
}

/// Type, value and what follows.
fn split_parameter(list: &[u8], extended: bool) -> Option<(u8, &[u8], &[u8])> {
    let (kind, len, rest) = match (extended, list) {
        (false, [kind, len, rest @ ..]) => (*kind, usize::from(*len), rest),
        (true, [kind, a, b, rest @ ..]) => (*kind, usize::from(u16::from_be_bytes([*a, *b])), rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(len)?;
    Some((kind, value, rest))
}
