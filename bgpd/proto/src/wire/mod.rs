//! Messages to and from octets (RFC 4271 section 4).
//!
//! [`frame`] finds the next message in a receive buffer; the types of the submodules read its body. Writers append whole
//! messages, marker included. Nothing here panics, whatever the octets.

pub mod as_path;
pub mod attribute;
mod capability;
pub mod community;
pub mod iana;
pub mod judge;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod pack;
mod refresh;
pub mod update;
mod walk;

pub use iana::MessageType;
pub use notification::Notification;
pub use refresh::{RefreshKind, RouteRefresh};

/// Marker, length, type (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;
/// Without the extended message capability, and always for OPEN and KEEPALIVE.
pub const MAX_MESSAGE_LEN: usize = 4096;
/// Where both sides have the extended message capability (RFC 8654 section 4).
pub const MAX_EXTENDED_MESSAGE_LEN: usize = 65535;

/// One whole message of a receive buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: MessageType,
    pub body: &'a [u8],
    /// Octets it took, header included.
    pub len: usize,
}

/// The first message of `input`, or `None` while it is incomplete. `max_len` is [`MAX_MESSAGE_LEN`], or
/// [`MAX_EXTENDED_MESSAGE_LEN`] where the capability was negotiated.
///
/// ```text
///  0                   1                   2                   3
///  |                     marker, 16 octets of ones                 |
///  |          length               |      type     |
/// ```
///
/// # Errors
/// The NOTIFICATION of RFC 4271 section 6.1.
pub fn frame(input: &[u8], max_len: usize) -> Result<Option<Frame<'_>>, Notification> {
    let Some(header) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    if header[..16] != [0xff; 16] {
        return Err(Notification::header(iana::CONNECTION_NOT_SYNCHRONIZED, &[]));
    }
    let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let bad_length = || Notification::header(iana::BAD_MESSAGE_LENGTH, &header[16..18]);
    if !(HEADER_LEN..=max_len).contains(&len) {
        return Err(bad_length());
    }
    let Some(kind) = MessageType::from_wire(header[18]) else {
        return Err(Notification::header(iana::BAD_MESSAGE_TYPE, &header[18..19]));
    };
    // RFC 4271 section 6.1. Of a ROUTE-REFRESH that is too short the reader says what is wrong (RFC 7313 section 5).
    let fits = match kind {
        // RFC 8654 section 4: an OPEN is never longer.
        MessageType::Open => (29..=MAX_MESSAGE_LEN).contains(&len),
        MessageType::Update => len >= 23,
        MessageType::Notification => len >= 21,
        MessageType::Keepalive => len == HEADER_LEN,
        MessageType::RouteRefresh => true,
    };
    if !fits {
        return Err(bad_length());
    }
    Ok(input.get(HEADER_LEN..len).map(|body| Frame { kind, body, len }))
}

/// Appends a message whose body `write` appends.
pub fn write_message(out: &mut Vec<u8>, kind: MessageType, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind as u8]);
    write(out);
    let len = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&len.to_be_bytes());
}

/// Appends a KEEPALIVE.
pub fn write_keepalive(out: &mut Vec<u8>) {
    write_message(out, MessageType::Keepalive, |_| {});
}

#[cfg(test)]
mod tests;
