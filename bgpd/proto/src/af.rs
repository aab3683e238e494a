//! Prefixes, and the two address families behind one trait.
//!
//! Invariant: a [`Prefix`] and a [`Key`] have no bit set beyond their length.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Address Family Identifier with SAFI 1, unicast (IANA "Address Family Numbers"; RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];
    /// Unicast.
    pub const SAFI: u8 = 1;

    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// The AFI on the wire.
    pub fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// The family of an AFI and SAFI, if it is one of ours.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// Bits in an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// An address and a length; host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix that holds `address`; `None` if `len` is longer than the family's addresses.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        match address {
            IpAddr::V4(a) => V4::new(u32::from(a), len).map(V4::prefix),
            IpAddr::V6(a) => V6::new(u128::from(a), len).map(V6::prefix),
        }
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether it is the default route.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether `other` is this prefix or lies inside it.
    pub fn contains(self, other: Prefix) -> bool {
        self.len <= other.len && Prefix::new(other.address, self.len) == Some(self) && self.family() == other.family()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A prefix of one family, packed as the RIB keeps it.
pub trait Key: Copy + Eq + Hash + fmt::Debug + Sized + 'static {
    const FAMILY: Family;
    /// From the octets of an NLRI (RFC 4271 section 4.3): as many as `len` needs, or more; bits beyond `len` are dropped.
    fn from_wire(len: u8, octets: &[u8]) -> Self;
    fn prefix(self) -> Prefix;
    /// `None` for a prefix of the other family.
    fn from_prefix(prefix: Prefix) -> Option<Self>;
    /// Appends the NLRI encoding.
    fn write(self, out: &mut Vec<u8>);
    /// Whether all addresses in it are multicast ones (RFC 5771, RFC 4291 section 2.7): no destination of a unicast route.
    fn is_multicast(self) -> bool;
}

/// An IPv4 prefix in eight octets, five of them used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V4 {
    address: u32,
    len: u8,
}

impl V4 {
    fn new(address: u32, len: u8) -> Option<V4> {
        let mask = match len {
            0 => 0,
            1..=32 => u32::MAX << (32 - len),
            _ => return None,
        };
        Some(V4 { address: address & mask, len })
    }
}

impl Key for V4 {
    const FAMILY: Family = Family::Ipv4;

    fn from_wire(len: u8, octets: &[u8]) -> V4 {
        V4::new(u32::from_be_bytes(padded(octets)), len.min(32)).expect("the length was limited")
    }

    fn prefix(self) -> Prefix {
        Prefix { address: Ipv4Addr::from(self.address).into(), len: self.len }
    }

    fn from_prefix(prefix: Prefix) -> Option<V4> {
        match prefix.address {
            IpAddr::V4(a) => Some(V4 { address: a.into(), len: prefix.len }),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        let [a, b, c, d] = self.address.to_be_bytes();
        append(out, &[self.len, a, b, c, d], self.len);
    }

    fn is_multicast(self) -> bool {
        self.len >= 4 && self.address >> 28 == 0xe
    }
}

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V6 {
    address: [u8; 16],
    len: u8,
}

impl V6 {
    fn new(address: u128, len: u8) -> Option<V6> {
        let mask = match len {
            0 => 0,
            1..=128 => u128::MAX << (128 - len),
            _ => return None,
        };
        Some(V6 { address: (address & mask).to_be_bytes(), len })
    }
}

impl Key for V6 {
    const FAMILY: Family = Family::Ipv6;

    fn from_wire(len: u8, octets: &[u8]) -> V6 {
        V6::new(u128::from_be_bytes(padded(octets)), len.min(128)).expect("the length was limited")
    }

    fn prefix(self) -> Prefix {
        Prefix { address: Ipv6Addr::from(self.address).into(), len: self.len }
    }

    fn from_prefix(prefix: Prefix) -> Option<V6> {
        match prefix.address {
            IpAddr::V6(a) => Some(V6 { address: a.octets(), len: prefix.len }),
            IpAddr::V4(_) => None,
        }
    }

    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        let mut whole = [0; 17];
        whole[0] = self.len;
        whole[1..].copy_from_slice(&self.address);
        append(out, &whole, self.len);
    }

    fn is_multicast(self) -> bool {
        self.len >= 8 && self.address[0] == 0xff
    }
}

/// The first octets, with zeros where there are none. A copy of constant length is one instruction, of any other a call.
#[inline]
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    octets.first_chunk().copied().unwrap_or_else(|| {
        let mut whole = [0; N];
        whole[..octets.len()].copy_from_slice(octets);
        whole
    })
}

/// Appends the part of a length octet and an address that `len` bits need; as for [`padded`].
#[inline]
fn append<const N: usize>(out: &mut Vec<u8>, whole: &[u8; N], len: u8) {
    let end = out.len() + 1 + usize::from(len.div_ceil(8));
    out.extend_from_slice(whole);
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Prefix {
        let (a, l) = s.split_once('/').unwrap();
        Prefix::new(a.parse().unwrap(), l.parse().unwrap()).unwrap()
    }

    #[test]
    fn host_bits_are_dropped_and_lengths_checked() {
        assert_eq!(p("10.1.2.3/8"), p("10.0.0.0/8"));
        assert_eq!(p("2001:db8::1/32"), p("2001:db8::/32"));
        assert_eq!(Prefix::new("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Prefix::new("::".parse().unwrap(), 129), None);
    }

    #[test]
    fn a_prefix_contains_itself_and_longer_ones_of_its_family() {
        for (a, b, want) in [
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.9.0.0/16", true),
            ("10.9.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("0.0.0.0/0", "1.2.3.4/32", true),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "2001:db8::/32", true),
        ] {
            assert_eq!(p(a).contains(p(b)), want, "{a} contains {b}");
        }
    }

    #[test]
    fn nlri_round_trip() {
        for (s, wire) in [("0.0.0.0/0", &[0][..]), ("10.0.0.0/8", &[8, 10]), ("10.1.128.0/17", &[17, 10, 1, 128])] {
            let mut out = Vec::new();
            V4::from_prefix(p(s)).unwrap().write(&mut out);
            assert_eq!(out, wire);
            assert_eq!(V4::from_wire(wire[0], &wire[1..]).prefix(), p(s));
        }
    }
}
