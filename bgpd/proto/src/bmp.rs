//! BMP, the BGP Monitoring Protocol (RFC 7854): what a speaker tells a collector of its peers and of what they announce.
//!
//! A writer only: collectors say nothing. Every function appends one whole message.
//!
//! ```text
//!  | version 3 | length, 32 | type |            common header (section 4.1)
//!  | type | flags | distinguisher, 64 | address, 128 | AS, 32 | identifier, 32 | seconds, 32 | microseconds, 32 |
//!                                                 header of each peer (section 4.2)
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::af::Family;

const VERSION: u8 = 3;
/// Octets of the common header.
pub const HEADER_LEN: usize = 6;
/// Octets of the header of each peer.
pub const PEER_HEADER_LEN: usize = 42;

// Message types (section 4.1).
const ROUTE_MONITORING: u8 = 0;
const STATISTICS_REPORT: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

// Information TLVs (section 4.4).
const SYS_DESCR: u16 = 1;
const SYS_NAME: u16 = 2;

// Flags of the header of each peer (section 4.2). L, the Adj-RIB-In after policy, is never set here.
const FLAG_IPV6: u8 = 0x80;
const FLAG_TWO_OCTET_AS: u8 = 0x20;

// Statistics (section 4.8): 64-bit gauges of the Adj-RIB-In.
const ROUTES: u16 = 7;
const ROUTES_OF_FAMILY: u16 = 9;

/// A peer as collectors know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub asn: u32,
    pub router_id: Ipv4Addr,
    /// The AS_PATH in its UPDATEs has two octets a number (the A flag).
    pub two_octet_as: bool,
}

/// Why a session went down (section 4.9). Messages are whole, with their headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down<'a> {
    /// We sent this NOTIFICATION.
    LocalNotification(&'a [u8]),
    /// We closed without one: number of the event of RFC 4271 section 8.1, 0 where none fits.
    Local(u16),
    /// The peer sent this NOTIFICATION.
    RemoteNotification(&'a [u8]),
    /// The peer closed without one, or the connection was lost.
    Remote,
}

/// Why no more is sent (section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Termination {
    Administrative = 0,
    OutOfResources = 2,
}

/// Says who we are (section 4.3).
pub fn write_initiation(out: &mut Vec<u8>, description: &str, name: &str) {
    message(out, INITIATION, |out| {
        tlv(out, SYS_DESCR, description.as_bytes());
        tlv(out, SYS_NAME, name.as_bytes());
    });
}

/// The last message (section 4.5).
pub fn write_termination(out: &mut Vec<u8>, reason: Termination) {
    const REASON: u16 = 1;
    message(out, TERMINATION, |out| tlv(out, REASON, &(reason as u16).to_be_bytes()));
}

/// A session is Established (section 4.10). The OPENs are whole messages.
pub fn write_peer_up(
    out: &mut Vec<u8>,
    peer: &Peer,
    since: Duration,
    local: (IpAddr, u16),
    remote_port: u16,
    [sent, received]: [&[u8]; 2],
) {
    of_peer(out, PEER_UP, peer, since, |out| {
        address(out, local.0);
        out.extend_from_slice(&local.1.to_be_bytes());
        out.extend_from_slice(&remote_port.to_be_bytes());
        out.extend_from_slice(sent);
        out.extend_from_slice(received);
    });
}

/// A session is over (section 4.9).
pub fn write_peer_down(out: &mut Vec<u8>, peer: &Peer, at: Duration, reason: Down<'_>) {
    of_peer(out, PEER_DOWN, peer, at, |out| match reason {
        Down::LocalNotification(pdu) => {
            out.push(1);
            out.extend_from_slice(pdu);
        }
        Down::Local(event) => {
            out.push(2);
            out.extend_from_slice(&event.to_be_bytes());
        }
        Down::RemoteNotification(pdu) => {
            out.push(3);
            out.extend_from_slice(pdu);
        }
        Down::Remote => out.push(4),
    });
}

/// An UPDATE, a whole message, that says what the peer's Adj-RIB-In has now, before policy (section 4.6).
pub fn write_route_monitoring(out: &mut Vec<u8>, peer: &Peer, at: Duration, update: &[u8]) {
    of_peer(out, ROUTE_MONITORING, peer, at, |out| out.extend_from_slice(update));
}

/// How many routes of each family a peer has announced (section 4.8).
pub fn write_statistics(out: &mut Vec<u8>, peer: &Peer, at: Duration, routes: &[(Family, u64)]) {
    of_peer(out, STATISTICS_REPORT, peer, at, |out| {
        out.extend_from_slice(&(1 + routes.len() as u32).to_be_bytes());
        let all: u64 = routes.iter().map(|r| r.1).sum();
        tlv(out, ROUTES, &all.to_be_bytes());
        for (family, count) in routes {
            let [a, b] = family.afi().to_be_bytes();
            tlv(out, ROUTES_OF_FAMILY, &[&[a, b, Family::SAFI], &count.to_be_bytes()[..]].concat());
        }
    });
}

fn message(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0, kind]);
    write(out);
    let len = (out.len() - start) as u32;
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
}

/// `at`: since 1970.
fn of_peer(out: &mut Vec<u8>, kind: u8, peer: &Peer, at: Duration, write: impl FnOnce(&mut Vec<u8>)) {
    const GLOBAL_INSTANCE: u8 = 0;
    message(out, kind, |out| {
        let v6 = if peer.address.is_ipv6() { FLAG_IPV6 } else { 0 };
        let two = if peer.two_octet_as { FLAG_TWO_OCTET_AS } else { 0 };
        out.extend_from_slice(&[GLOBAL_INSTANCE, v6 | two]);
        out.extend_from_slice(&[0; 8]);
        address(out, peer.address);
        out.extend_from_slice(&peer.asn.to_be_bytes());
        out.extend_from_slice(&peer.router_id.octets());
        // Good until 2106.
        out.extend_from_slice(&(at.as_secs() as u32).to_be_bytes());
        out.extend_from_slice(&at.subsec_micros().to_be_bytes());
        write(out);
    });
}

/// Sixteen octets, an IPv4 address in the last four (section 4.2).
fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(a) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&a.octets());
        }
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

fn tlv(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::new(0x0102_0304, 5_000);

    fn peer(address: &str) -> Peer {
        let address = address.parse().unwrap();
        Peer { address, asn: 65001, router_id: [10, 0, 0, 1].into(), two_octet_as: false }
    }

    /// The header of 192.0.2.1 as it stands in section 4.2.
    fn header() -> Vec<u8> {
        let mut header = vec![0; 10 + 12];
        header.extend_from_slice(&[192, 0, 2, 1, 0, 0, 0xfd, 0xe9, 10, 0, 0, 1, 1, 2, 3, 4, 0, 0, 0, 5]);
        header
    }

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[3][..], &(6 + body.len() as u32).to_be_bytes(), &[kind], body].concat()
    }

    #[test]
    fn messages_on_the_wire() {
        let p = peer("192.0.2.1");
        assert_eq!(header().len(), PEER_HEADER_LEN);
        let with = |body: &[u8]| [&header(), body].concat();
        type Row = (&'static str, Box<dyn Fn(&mut Vec<u8>)>, u8, Vec<u8>);
        let rows: [Row; 9] = [
            ("4.3", Box::new(|o| write_initiation(o, "d", "n")), 4, vec![0, 1, 0, 1, b'd', 0, 2, 0, 1, b'n']),
            ("4.5", Box::new(|o| write_termination(o, Termination::OutOfResources)), 5, vec![0, 1, 0, 2, 0, 2]),
            ("4.6", Box::new(move |o| write_route_monitoring(o, &p, AT, &[9, 9])), 0, with(&[9, 9])),
            ("4.9: 1", Box::new(move |o| write_peer_down(o, &p, AT, Down::LocalNotification(&[7]))), 2, with(&[1, 7])),
            ("4.9: 2", Box::new(move |o| write_peer_down(o, &p, AT, Down::Local(2))), 2, with(&[2, 0, 2])),
            ("4.9: 3", Box::new(move |o| write_peer_down(o, &p, AT, Down::RemoteNotification(&[7]))), 2, with(&[3, 7])),
            ("4.9: 4", Box::new(move |o| write_peer_down(o, &p, AT, Down::Remote)), 2, with(&[4])),
            (
                "4.10",
                Box::new(move |o| write_peer_up(o, &p, AT, ([192, 0, 2, 9].into(), 179), 4000, [&[1], &[2]])),
                3,
                with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9, 0, 179, 0x0f, 0xa0, 1, 2]),
            ),
            (
                "4.8: types 7 and 9",
                Box::new(move |o| write_statistics(o, &p, AT, &[(Family::Ipv6, 3)])),
                1,
                with(&[0, 0, 0, 2, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 9, 0, 11, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 3]),
            ),
        ];
        for (row, write, kind, body) in rows {
            let mut out = Vec::new();
            write(&mut out);
            assert_eq!(out, framed(kind, &body), "section {row}");
        }
    }

    #[test]
    fn flags_of_the_peer() {
        let mut out = Vec::new();
        write_route_monitoring(&mut out, &Peer { two_octet_as: true, ..peer("2001:db8::1") }, AT, &[]);
        assert_eq!(out[HEADER_LEN + 1], 0xa0, "V and A");
        assert_eq!(out[HEADER_LEN + 10..][..4], [0x20, 1, 0xd, 0xb8]);
    }
}
