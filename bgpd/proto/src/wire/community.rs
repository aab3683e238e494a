//! Communities as operators write them (RFC 1997, RFC 4360, RFC 8092).

use super::as_path::be32;
use super::iana;

/// The name of a well-known community, in the spelling of its RFC; `None`: it is not well known.
pub fn well_known(community: u32) -> Option<&'static str> {
    Some(match community {
        iana::GRACEFUL_SHUTDOWN => "GRACEFUL_SHUTDOWN",
        iana::LLGR_STALE => "LLGR_STALE",
        iana::NO_LLGR => "NO_LLGR",
        iana::BLACKHOLE => "BLACKHOLE",
        iana::NO_EXPORT => "NO_EXPORT",
        iana::NO_ADVERTISE => "NO_ADVERTISE",
        iana::NO_EXPORT_SUBCONFED => "NO_EXPORT_SUBCONFED",
        iana::NO_PEER => "NOPEER",
        _ => return None,
    })
}

/// `65001:100`, or the name of a well-known one.
pub fn standard(community: u32) -> String {
    match well_known(community) {
        Some(name) => name.to_owned(),
        None => format!("{}:{}", community >> 16, community & 0xffff),
    }
}

/// `65001:1:2`.
pub fn large([a, b, c]: [u32; 3]) -> String {
    format!("{a}:{b}:{c}")
}

/// `rt:65001:100` and `ro:192.0.2.1:100` for route targets and origins of the three AS and address types (RFC 4360 section 4,
/// RFC 5668); anything else as octets.
pub fn extended(c: [u8; 8]) -> String {
    let kind = match c[1] {
        2 => "rt",
        3 => "ro",
        _ => return format!("0x{}", hex(&c)),
    };
    let two = |at: usize| u16::from_be_bytes([c[at], c[at + 1]]);
    // Bit 0x40 says that it is not transitive.
    match c[0] & !0x40 {
        0 => format!("{kind}:{}:{}", two(2), be32(&c[4..])),
        1 => format!("{kind}:{}.{}.{}.{}:{}", c[2], c[3], c[4], c[5], two(6)),
        2 => format!("{kind}:{}:{}", be32(&c[2..6]), two(6)),
        _ => format!("0x{}", hex(&c)),
    }
}

/// Octets as hexadecimal digits.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}
