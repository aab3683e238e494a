//! ROUTE-REFRESH (RFC 2918), with the marks around an answer (RFC 7313).

use super::iana::{self, MessageType};
use super::{HEADER_LEN, Notification, write_message};
use crate::af::Family;

/// Octets of a body without filters.
const BODY_LEN: usize = 4;

/// ```text
///  |   AFI, 16   | kind, 8 | SAFI, 8 |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: Family,
    pub kind: RefreshKind,
}

/// The octet that RFC 2918 reserved (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefreshKind {
    /// Send me everything again.
    Request = 0,
    /// What follows is everything, up to the end mark.
    BeginOfRib = 1,
    /// What was not announced since the begin mark is gone.
    EndOfRib = 2,
}

impl RouteRefresh {
    /// Reads a body. `enhanced`: the capability of RFC 7313 was negotiated. `None`: to be ignored, as for another family, an
    /// unknown kind, or a mark that was not negotiated.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 7313 section 5 for a mark, else, where the body is too short, that of RFC 4271 section 6.1.
    pub fn read(enhanced: bool, body: &[u8]) -> Result<Option<RouteRefresh>, Notification> {
        let is_mark = enhanced && matches!(body.get(2), Some(1 | 2));
        if is_mark && body.len() != BODY_LEN {
            // The data is the whole message.
            let mut data = Vec::with_capacity(HEADER_LEN + body.len());
            write_message(&mut data, MessageType::RouteRefresh, |out| out.extend_from_slice(body));
            let code = iana::ROUTE_REFRESH_MESSAGE_ERROR;
            return Err(Notification { code, subcode: iana::INVALID_MESSAGE_LENGTH, data });
        }
        if body.len() < BODY_LEN {
            let len = (HEADER_LEN + body.len()) as u16;
            return Err(Notification::header(iana::BAD_MESSAGE_LENGTH, &len.to_be_bytes()));
        }
        // A request may have filters after it (RFC 5291), which are not negotiated.
        let &[a, b, kind, safi] = body else { return Ok(None) };
        let kind = match kind {
            0 => RefreshKind::Request,
            1 if is_mark => RefreshKind::BeginOfRib,
            2 if is_mark => RefreshKind::EndOfRib,
            _ => return Ok(None),
        };
        let family = Family::from_wire(u16::from_be_bytes([a, b]), safi);
        Ok(family.map(|family| RouteRefresh { family, kind }))
    }

    /// Appends the message.
    pub fn write(self, out: &mut Vec<u8>) {
        let afi = self.family.afi().to_be_bytes();
        write_message(out, MessageType::RouteRefresh, |out| {
            out.extend_from_slice(&[afi[0], afi[1], self.kind as u8, Family::SAFI]);
        });
    }
}
