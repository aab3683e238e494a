//! Router Solicitations and Advertisements (RFC 4861 sections 4.1, 4.2), as far as they say that somebody is there.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Cur Hop Limit |M|O|  Reserved |       Router Lifetime         |   Advertisement; Solicitation: reserved
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Reachable Time                        |   Advertisement
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Retrans Timer                        |   Advertisement
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   Options ...
//! ```

use std::net::Ipv6Addr;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const SOLICITATION_LEN: usize = 8;
const ADVERTISEMENT_LEN: usize = 16;

/// A valid message, and the interface it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Solicitation { index: u32 },
    Advertisement { index: u32, from: Ipv6Addr },
}

/// No default router (lifetime 0), nothing specified, no prefix: here I am.
pub fn advertisement() -> [u8; ADVERTISEMENT_LEN] {
    let mut octets = [0; ADVERTISEMENT_LEN];
    octets[0] = ADVERTISEMENT;
    octets
}

/// Asks routers to advertise themselves now.
pub fn solicitation() -> [u8; SOLICITATION_LEN] {
    let mut octets = [0; SOLICITATION_LEN];
    octets[0] = SOLICITATION;
    octets
}

/// What a packet with hop limit 255 and a right checksum says; `None` where RFC 4861 sections 6.1.1 and 6.1.2 have it discarded.
pub fn read(octets: &[u8], from: Ipv6Addr, index: u32) -> Option<Received> {
    let [kind, code] = [*octets.first()?, *octets.get(1)?];
    if code != 0 {
        return None;
    }
    match kind {
        SOLICITATION if options_are_valid(octets.get(SOLICITATION_LEN..)?) => Some(Received::Solicitation { index }),
        ADVERTISEMENT if from.is_unicast_link_local() && options_are_valid(octets.get(ADVERTISEMENT_LEN..)?) => {
            Some(Received::Advertisement { index, from })
        }
        _ => None,
    }
}

/// Each option has a length in units of 8 octets, which is not 0.
fn options_are_valid(mut options: &[u8]) -> bool {
    while let [_, units, ..] = options {
        let len = usize::from(*units) * 8;
        if len == 0 || len > options.len() {
            return false;
        }
        options = &options[len..];
    }
    options.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn validity_of_sections_6_1_1_and_6_1_2() {
        let heard = Some(Received::Advertisement { index: 3, from: FROM });
        let asked = Some(Received::Solicitation { index: 3 });
        let with = |message: &[u8], options: &[u8]| [message, options].concat();
        let (ra, rs) = (advertisement().to_vec(), solicitation().to_vec());
        let mtu = [5, 1, 0, 0, 0, 0, 5, 0xdc];
        let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let rows: &[(&str, Vec<u8>, Ipv6Addr, Option<Received>)] = &[
            ("ours", ra.clone(), FROM, heard),
            ("with an option", with(&ra, &mtu), FROM, heard),
            ("an unknown option", with(&ra, &[99, 1, 0, 0, 0, 0, 0, 0]), FROM, heard),
            ("an option of length 0", with(&ra, &[5, 0, 0, 0, 0, 0, 0, 0]), FROM, None),
            ("an option cut short", with(&ra, &mtu[..7]), FROM, None),
            ("half an option's head", with(&ra, &mtu[..1]), FROM, None),
            ("too short", ra[..15].to_vec(), FROM, None),
            ("a code", with(&[134, 1], &ra[2..]), FROM, None),
            ("not from a link-local address", ra.clone(), global, None),
            ("a solicitation", rs.clone(), FROM, asked),
            ("a solicitation without a source", rs.clone(), unspecified, asked),
            ("a solicitation cut short", rs[..7].to_vec(), FROM, None),
            ("a neighbour solicitation", with(&[135, 0], &ra[2..]), FROM, None),
            ("nothing", vec![], FROM, None),
        ];
        for (what, octets, from, expected) in rows {
            assert_eq!(read(octets, *from, 3), *expected, "{what}");
        }
    }

    #[test]
    fn an_advertisement_makes_nobody_a_default_router() {
        assert_eq!(advertisement()[6..8], [0, 0], "router lifetime");
    }
}
