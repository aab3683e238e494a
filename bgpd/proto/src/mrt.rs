//! MRT, the table as a file (RFC 6396): TABLE_DUMP_V2, with path identifiers RFC 8050.
//!
//! A file is one PEER_INDEX_TABLE, then one record for each prefix. Every function appends one whole record.
//!
//! ```text
//!  | timestamp, 32 | type, 16 | subtype, 16 | length, 32 |      section 2
//! ```

use std::net::{IpAddr, Ipv4Addr};

use crate::af::{Family, Prefix};
use crate::wire::attribute::{self, Attributes};
use crate::wire::iana;

const TABLE_DUMP_V2: u16 = 13;
// Subtypes (RFC 6396 section 4.3, RFC 8050 section 4).
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
const RIB_IPV4_UNICAST_ADDPATH: u16 = 8;
const RIB_IPV6_UNICAST_ADDPATH: u16 = 10;

/// A peer of the index table; entries of routes name it by its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub router_id: Ipv4Addr,
    pub address: IpAddr,
    pub asn: u32,
}

/// One path of a prefix.
#[derive(Clone, Debug)]
pub struct Path {
    /// Place of its peer in the index table.
    pub peer: u16,
    /// When it came, seconds since 1970.
    pub originated: u32,
    /// Only written where one of the paths has an identifier other than 0.
    pub path_id: u32,
    pub attributes: Attributes,
}

/// The first record: who announced what follows (section 4.3.1). At most 65535 peers.
pub fn write_peer_index(out: &mut Vec<u8>, now: u32, router_id: Ipv4Addr, view: &str, peers: &[Peer]) {
    const IPV6: u8 = 1;
    const FOUR_OCTET_AS: u8 = 2;
    record(out, now, PEER_INDEX_TABLE, |out| {
        out.extend_from_slice(&router_id.octets());
        let view = &view.as_bytes()[..view.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&(view.len() as u16).to_be_bytes());
        out.extend_from_slice(view);
        let peers = &peers[..peers.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&(peers.len() as u16).to_be_bytes());
        for peer in peers {
            out.push(FOUR_OCTET_AS | if peer.address.is_ipv6() { IPV6 } else { 0 });
            out.extend_from_slice(&peer.router_id.octets());
            match peer.address {
                IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
                IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
            }
            out.extend_from_slice(&peer.asn.to_be_bytes());
        }
    });
}

/// The paths of a prefix (section 4.3.2). `sequence` counts the records from 0.
pub fn write_rib(out: &mut Vec<u8>, now: u32, sequence: u32, prefix: Prefix, paths: &[Path]) {
    let has_ids = paths.iter().any(|p| p.path_id != 0);
    let subtype = match (prefix.family(), has_ids) {
        (Family::Ipv4, false) => RIB_IPV4_UNICAST,
        (Family::Ipv6, false) => RIB_IPV6_UNICAST,
        (Family::Ipv4, true) => RIB_IPV4_UNICAST_ADDPATH,
        (Family::Ipv6, true) => RIB_IPV6_UNICAST_ADDPATH,
    };
    record(out, now, subtype, |out| {
        out.extend_from_slice(&sequence.to_be_bytes());
        out.push(prefix.len());
        let octets = usize::from(prefix.len().div_ceil(8));
        match prefix.address() {
            IpAddr::V4(a) => out.extend_from_slice(&a.octets()[..octets]),
            IpAddr::V6(a) => out.extend_from_slice(&a.octets()[..octets]),
        }
        let paths = &paths[..paths.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&(paths.len() as u16).to_be_bytes());
        for path in paths {
            out.extend_from_slice(&path.peer.to_be_bytes());
            out.extend_from_slice(&path.originated.to_be_bytes());
            if has_ids {
                out.extend_from_slice(&path.path_id.to_be_bytes());
            }
            let start = out.len();
            out.extend_from_slice(&[0, 0]);
            write_attributes(out, prefix.family(), &path.attributes);
            let len = (out.len() - start - 2) as u16;
            out[start..start + 2].copy_from_slice(&len.to_be_bytes());
        }
    });
}

/// Section 4.3.4: AS_PATH with four octets a number; MP_REACH_NLRI has the next hop only, for IPv6 prefixes. An IPv4 prefix
/// with an IPv6 next hop (RFC 8950) has it there too.
fn write_attributes(out: &mut Vec<u8>, family: Family, attributes: &Attributes) {
    attributes.write(out, |out| match (family, attributes.next_hop) {
        (Family::Ipv4, IpAddr::V4(a)) => attribute::write(out, iana::TRANSITIVE, iana::NEXT_HOP, &a.octets()),
        (_, next_hop) => {
            let address = match next_hop {
                IpAddr::V4(a) => a.to_ipv6_mapped(),
                IpAddr::V6(a) => a,
            };
            let mut value = address.octets().to_vec();
            value.extend(attributes.link_local.iter().flat_map(std::net::Ipv6Addr::octets));
            value.insert(0, value.len() as u8);
            attribute::write(out, iana::OPTIONAL, iana::MP_REACH_NLRI, &value);
        }
    });
}

fn record(out: &mut Vec<u8>, now: u32, subtype: u16, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&now.to_be_bytes());
    out.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn attributes(next_hop: &str) -> Attributes {
        let mut a = Attributes::originated(100, &[0xfde9_0001], &[]);
        a.prepend(&[65001]);
        Attributes { next_hop: next_hop.parse().unwrap(), med: Some(5), ..a }
    }

    const HEADER: [u8; 6] = [0, 0, 0, 9, 0, 13];

    #[test]
    fn the_index_of_peers() {
        let peers = [
            Peer { router_id: [10, 0, 0, 2].into(), address: [192, 0, 2, 2].into(), asn: 65001 },
            Peer { router_id: [10, 0, 0, 3].into(), address: "2001:db8::3".parse().unwrap(), asn: 70000 },
        ];
        let mut out = Vec::new();
        write_peer_index(&mut out, 9, [10, 0, 0, 1].into(), "x", &peers);
        let mut want = [&HEADER[..], &[0, 1, 0, 0, 0, 47, 10, 0, 0, 1, 0, 1, b'x', 0, 2]].concat();
        want.extend_from_slice(&[2, 10, 0, 0, 2, 192, 0, 2, 2, 0, 0, 0xfd, 0xe9]);
        want.extend_from_slice(&[
            3, 10, 0, 0, 3, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0x11, 0x70,
        ]);
        assert_eq!(out, want, "RFC 6396 section 4.3.1");
    }

    #[test]
    fn the_paths_of_a_prefix() {
        let list4: &[u8] = &[
            0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 192, 0, 2, 2, 0x80, 4, 4, 0, 0, 0, 5, 0x40,
            5, 4, 0, 0, 0, 100, 0xc0, 8, 4, 0xfd, 0xe9, 0, 1,
        ];
        let path = Path { peer: 1, originated: 7, path_id: 0, attributes: attributes("192.0.2.2") };
        let mut out = Vec::new();
        write_rib(&mut out, 9, 3, prefix("10.1.0.0/16"), std::slice::from_ref(&path));
        let entry = [&[0, 1, 0, 0, 0, 7, 0, 41], list4].concat();
        let want = [&HEADER[..], &[0, 2, 0, 0, 0, 58, 0, 0, 0, 3, 16, 10, 1, 0, 1], &entry].concat();
        assert_eq!(out, want, "RFC 6396 section 4.3.2");

        out.clear();
        let with_id = Path { path_id: 8, ..path };
        write_rib(&mut out, 9, 3, prefix("10.1.0.0/16"), &[with_id]);
        assert_eq!(out[6..8], [0, RIB_IPV4_UNICAST_ADDPATH as u8], "RFC 8050 section 4.1");
        assert_eq!(out[21..31], [0, 1, 0, 0, 0, 7, 0, 0, 0, 8][..]);

        out.clear();
        let path = Path { peer: 0, originated: 7, path_id: 0, attributes: attributes("2001:db8::2") };
        write_rib(&mut out, 9, 4, prefix("2001:db8::/32"), &[path]);
        assert_eq!(out[6..8], [0, RIB_IPV6_UNICAST as u8]);
        let next_hop = [&[0x80, 14, 17, 16, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[2]].concat();
        assert!(out.windows(next_hop.len()).any(|w| w == next_hop), "section 4.3.4: the next hop alone");
    }
}
