//! NOTIFICATION (RFC 4271 section 4.5), and the errors that end a session.

use std::fmt;

use super::iana::{self, MessageType};
use super::write_message;
use crate::af::Family;

/// Octets of the text that goes with a shutdown or reset (RFC 9003 section 2).
pub const MAX_SHUTDOWN_TEXT: usize = 255;

/// Why a session ends, as it is told to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Notification {
        Notification { code, subcode, data: data.to_vec() }
    }

    pub fn header(subcode: u8, data: &[u8]) -> Notification {
        Notification::new(iana::MESSAGE_HEADER_ERROR, subcode, data)
    }

    pub fn open(subcode: u8, data: &[u8]) -> Notification {
        Notification::new(iana::OPEN_MESSAGE_ERROR, subcode, data)
    }

    pub fn update(subcode: u8, data: &[u8]) -> Notification {
        Notification::new(iana::UPDATE_MESSAGE_ERROR, subcode, data)
    }

    pub fn cease(subcode: u8) -> Notification {
        Notification::new(iana::CEASE, subcode, &[])
    }

    /// A Cease with text for the peer's operator (RFC 9003): administrative shutdown or reset. Cut after 255 octets, between
    /// characters.
    pub fn cease_with_text(subcode: u8, text: &str) -> Notification {
        let mut len = text.len().min(MAX_SHUTDOWN_TEXT);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let mut data = vec![len as u8];
        data.extend_from_slice(&text.as_bytes()[..len]);
        Notification { code: iana::CEASE, subcode, data }
    }

    /// RFC 4486 section 4: which family had too many prefixes, and how many it may have.
    pub fn maximum_prefixes(family: Family, limit: u32) -> Notification {
        let mut data = family.afi().to_be_bytes().to_vec();
        data.push(Family::SAFI);
        data.extend_from_slice(&limit.to_be_bytes());
        Notification { code: iana::CEASE, subcode: iana::MAXIMUM_PREFIXES, data }
    }

    /// RFC 8538 section 3: the peer is not to keep routes, whatever graceful restart says. The reason goes inside.
    pub fn hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification { code: iana::CEASE, subcode: iana::HARD_RESET, data }
    }

    /// What a Hard Reset was sent for.
    pub fn inner(&self) -> Option<Notification> {
        let is_hard_reset = (self.code, self.subcode) == (iana::CEASE, iana::HARD_RESET);
        (is_hard_reset && self.data.len() >= 2).then(|| Notification::read(&self.data))
    }

    /// The text of a shutdown or reset (RFC 9003 section 2); `None` where there is none, or it is no UTF-8.
    pub fn shutdown_text(&self) -> Option<&str> {
        let has_text = matches!(self.subcode, iana::ADMINISTRATIVE_SHUTDOWN | iana::ADMINISTRATIVE_RESET);
        if self.code != iana::CEASE || !has_text {
            return None;
        }
        let (&len, rest) = self.data.split_first()?;
        // Section 5: octets that are no UTF-8 must not reach a terminal or a log.
        let text = std::str::from_utf8(rest.get(..usize::from(len))?).ok()?;
        Some(text).filter(|t| !t.is_empty())
    }

    /// Reads a body; [`super::frame`] saw to it that code and subcode are there.
    pub fn read(body: &[u8]) -> Notification {
        Notification {
            code: body.first().copied().unwrap_or(0),
            subcode: body.get(1).copied().unwrap_or(0),
            data: body.get(2..).unwrap_or_default().to_vec(),
        }
    }

    /// Appends the message; data beyond what fits is cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let room = super::MAX_MESSAGE_LEN - super::HEADER_LEN - 2;
        write_message(out, MessageType::Notification, |out| {
            out.extend_from_slice(&[self.code, self.subcode]);
            out.extend_from_slice(&self.data[..self.data.len().min(room)]);
        });
    }

    /// In words, with what the data says. Text of the peer comes escaped and in quotes. Of a Hard Reset inside a Hard Reset only
    /// the name is said: there is no reason to send one, and a message has room for thousands.
    pub fn describe(&self) -> String {
        match self.inner() {
            Some(inner) => format!("{self}: {}", inner.with_detail()),
            None => self.with_detail(),
        }
    }

    fn with_detail(&self) -> String {
        match self.detail() {
            Some(detail) => format!("{self}: {detail}"),
            None => self.to_string(),
        }
    }

    fn detail(&self) -> Option<String> {
        if let Some(text) = self.shutdown_text() {
            return Some(format!("{text:?}"));
        }
        let data = &self.data[..];
        match (self.code, self.subcode, data) {
            (iana::MESSAGE_HEADER_ERROR, iana::BAD_MESSAGE_LENGTH, &[a, b]) => {
                Some(format!("length {}", u16::from_be_bytes([a, b])))
            }
            (iana::MESSAGE_HEADER_ERROR, iana::BAD_MESSAGE_TYPE, &[kind]) => Some(format!("type {kind}")),
            (iana::OPEN_MESSAGE_ERROR, iana::UNSUPPORTED_VERSION, &[a, b]) => {
                Some(format!("version {} is supported", u16::from_be_bytes([a, b])))
            }
            // RFC 5492 section 5: the capabilities that the sender misses.
            (iana::OPEN_MESSAGE_ERROR, iana::UNSUPPORTED_CAPABILITY, list) => {
                let names: Vec<String> = super::open::capability_codes(list).map(capability).collect();
                (!names.is_empty()).then(|| names.join(", "))
            }
            // RFC 4271 section 6.3: the attribute, from its flags on.
            (iana::UPDATE_MESSAGE_ERROR, 2 | 4..=9, &[_, kind, ..]) => Some(attribute(kind)),
            (iana::UPDATE_MESSAGE_ERROR, 3, &[kind]) => Some(attribute(kind)),
            (iana::CEASE, iana::MAXIMUM_PREFIXES, &[a, b, safi, c, d, e, f]) => {
                let limit = u32::from_be_bytes([c, d, e, f]);
                Some(match Family::from_wire(u16::from_be_bytes([a, b]), safi) {
                    Some(family) => format!("at most {limit} of {family}"),
                    None => format!("at most {limit} of AFI {} SAFI {safi}", u16::from_be_bytes([a, b])),
                })
            }
            _ => None,
        }
    }
}

fn capability(code: u8) -> String {
    iana::capability_name(code).map_or_else(|| format!("capability {code}"), str::to_owned)
}

fn attribute(kind: u8) -> String {
    iana::attribute_name(kind).map_or_else(|| format!("attribute {kind}"), str::to_owned)
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", iana::error_name(self.code, self.subcode), self.code, self.subcode)
    }
}
