//! NOTIFICATION (RFC 4271 section 4.5), and the errors that end a session.

use std::fmt;

use super::iana::{self, MessageType};
use super::write_message;

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
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.code, self.subcode) {
            (1, 1) => "connection not synchronized",
            (1, 2) => "bad message length",
            (1, 3) => "bad message type",
            (2, 1) => "unsupported version",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 4) => "unsupported optional parameter",
            (2, 6) => "unacceptable hold time",
            (2, 7) => "unsupported capability",
            (3, 1) => "malformed attribute list",
            (3, 2) => "unrecognized well-known attribute",
            (3, 9) => "optional attribute error",
            (3, 10) => "invalid network field",
            (4, _) => "hold timer expired",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer de-configured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 6) => "other configuration change",
            (6, 7) => "connection collision resolution",
            (6, _) => "cease",
            (1, _) => "message header error",
            (2, _) => "OPEN message error",
            (3, _) => "UPDATE message error",
            _ => "unknown error",
        };
        write!(f, "{name} ({}/{})", self.code, self.subcode)
    }
}
