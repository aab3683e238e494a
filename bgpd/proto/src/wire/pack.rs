//! UPDATEs to octets, as many prefixes in each as fit (RFC 4271 section 4.3, RFC 4760).

use std::net::{IpAddr, Ipv6Addr};

use super::iana::{self, EXTENDED_LENGTH, MessageType, OPTIONAL};
use super::nlri;
use super::{HEADER_LEN, write_message};
use crate::af::{Family, Key};

/// The longest prefix, with its path identifier.
const MAX_NLRI_LEN: usize = nlri::PATH_ID_LEN + 17;
/// What an UPDATE has beside attributes and prefixes: header and two lengths.
const OVERHEAD: usize = HEADER_LEN + 4;

/// How the UPDATEs of a session are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// [`super::MAX_MESSAGE_LEN`] or [`super::MAX_EXTENDED_MESSAGE_LEN`].
    pub max_len: usize,
    /// Prefixes have path identifiers (RFC 7911).
    pub add_path: bool,
}

/// A next hop in MP_REACH_NLRI: IPv6 always, IPv4 where RFC 8950 was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpNextHop {
    pub address: IpAddr,
    /// RFC 2545 section 3: for a peer on a common subnet.
    pub link_local: Option<Ipv6Addr>,
}

impl MpNextHop {
    /// Octets of MP_REACH_NLRI beside the prefixes: its header with an extended length, AFI, SAFI, next hop, reserved octet.
    fn overhead(&self) -> usize {
        4 + 2 + 1 + 1 + self.len() + 1
    }

    fn len(&self) -> usize {
        if self.link_local.is_some() { 32 } else { 16 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let address = match self.address {
            IpAddr::V4(a) => a.to_ipv6_mapped(),
            IpAddr::V6(a) => a,
        };
        out.push(self.len() as u8);
        out.extend_from_slice(&address.octets());
        if let Some(link_local) = self.link_local {
            out.extend_from_slice(&link_local.octets());
        }
    }
}

impl Layout {
    /// Whether attributes of so many octets leave room for any prefix (RFC 4271 section 9.2: else it is not announced).
    pub fn fits(&self, attributes: usize, next_hop: Option<&MpNextHop>) -> bool {
        OVERHEAD + attributes + next_hop.map_or(0, MpNextHop::overhead) + MAX_NLRI_LEN <= self.max_len
    }

    /// Appends UPDATEs that announce. `attributes` are in wire form and must fit; `next_hop` is `None` where they have a
    /// NEXT_HOP, for IPv4 prefixes.
    pub fn write_reach<K: Key>(
        &self,
        out: &mut Vec<u8>,
        attributes: &[u8],
        next_hop: Option<&MpNextHop>,
        paths: impl Iterator<Item = (u32, K)>,
    ) {
        let mut paths = paths.peekable();
        while paths.peek().is_some() {
            let start = out.len();
            write_message(out, MessageType::Update, |out| {
                out.extend_from_slice(&[0, 0]);
                let lengths = out.len();
                out.extend_from_slice(&[0, 0]);
                let Some(next_hop) = next_hop else {
                    out.extend_from_slice(attributes);
                    patch(out, lengths);
                    self.fill(out, start + self.max_len, &mut paths);
                    return;
                };
                // RFC 7606 section 5.1: MP_REACH_NLRI first.
                out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, iana::MP_REACH_NLRI, 0, 0]);
                let value = out.len();
                out.extend_from_slice(&K::FAMILY.afi().to_be_bytes());
                out.push(Family::SAFI);
                next_hop.write(out);
                out.push(0);
                self.fill(out, start + self.max_len - attributes.len(), &mut paths);
                patch(out, value - 2);
                out.extend_from_slice(attributes);
                patch(out, lengths);
            });
        }
    }

    /// Appends UPDATEs that withdraw.
    pub fn write_unreach<K: Key>(&self, out: &mut Vec<u8>, paths: impl Iterator<Item = (u32, K)>) {
        let mut paths = paths.peekable();
        while paths.peek().is_some() {
            let start = out.len();
            write_message(out, MessageType::Update, |out| {
                let lengths = out.len();
                out.extend_from_slice(&[0, 0]);
                if K::FAMILY == Family::Ipv4 {
                    self.fill(out, start + self.max_len - 2, &mut paths);
                    patch(out, lengths);
                    out.extend_from_slice(&[0, 0]);
                    return;
                }
                out.extend_from_slice(&[0, 0, OPTIONAL | EXTENDED_LENGTH, iana::MP_UNREACH_NLRI, 0, 0]);
                let value = out.len();
                out.extend_from_slice(&K::FAMILY.afi().to_be_bytes());
                out.push(Family::SAFI);
                self.fill(out, start + self.max_len, &mut paths);
                patch(out, value - 2);
                patch(out, lengths + 2);
            });
        }
    }

    /// Appends prefixes while the longest one fits before `end`.
    fn fill<K: Key>(&self, out: &mut Vec<u8>, end: usize, paths: &mut impl Iterator<Item = (u32, K)>) {
        while out.len() + MAX_NLRI_LEN <= end {
            let Some((id, key)) = paths.next() else { break };
            nlri::write(out, self.add_path.then_some(id), key);
        }
    }
}

/// Writes the number of octets that follow a two-octet length into it.
fn patch(out: &mut [u8], at: usize) {
    let len = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}
