//! Path attributes: what is kept of them.
//!
//! [`Attributes`] is built from what was parsed, never from the received octets, so what was discarded is gone downstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::as_path::{self, be32};
pub use super::as_path::{narrow_path, prepend_path};
use super::iana::{self, EXTENDED_LENGTH, OPTIONAL, TRANSITIVE};
pub use super::walk::{Context, Malformed, Remedy};

/// The attributes of a route, decoded as far as decisions need them.
///
/// Invariant: `rest` is a list of attributes in their wire form, ascending by type, each type once; the AS_PATH in it has
/// four-octet numbers. ORIGIN, NEXT_HOP, MULTI_EXIT_DISC, LOCAL_PREF and the MP attributes are never in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// 0 IGP, 1 EGP, 2 INCOMPLETE.
    pub origin: u8,
    /// An IPv6 one for IPv4 routes too, where RFC 8950 was negotiated.
    pub next_hop: IpAddr,
    /// The link-local address that came with the next hop (RFC 2545 section 3): good on the link to the peer only.
    pub link_local: Option<Ipv6Addr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub rest: Box<[u8]>,
}

/// One attribute as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    pub flags: u8,
    pub kind: u8,
    pub value: &'a [u8],
}

/// Takes one attribute off the front of a list.
pub fn split(list: &[u8]) -> Option<(Raw<'_>, &[u8])> {
    let (&[flags, kind], rest) = list.split_first_chunk::<2>()?;
    let (len, rest) = if flags & EXTENDED_LENGTH != 0 {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*len)), rest)
    } else {
        let (&len, rest) = rest.split_first()?;
        (usize::from(len), rest)
    };
    let (value, rest) = rest.split_at_checked(len)?;
    Some((Raw { flags, kind, value }, rest))
}

/// Appends one attribute.
pub fn write(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(len) => out.extend_from_slice(&[flags & !EXTENDED_LENGTH, kind, len]),
        Err(_) => {
            let len = (value.len() as u16).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind, len[0], len[1]]);
        }
    }
    out.extend_from_slice(value);
}

/// Octets that [`write`] appends for a value.
pub fn written_len(value: &[u8]) -> usize {
    value.len() + if value.len() > usize::from(u8::MAX) { 4 } else { 3 }
}

/// Appends one attribute, whose value `write_value` appends: at most 65,535 octets.
pub fn write_with(out: &mut Vec<u8>, flags: u8, kind: u8, write_value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[flags & !EXTENDED_LENGTH, kind, 0]);
    write_value(out);
    let len = out.len() - start - 3;
    match u8::try_from(len) {
        Ok(len) => out[start + 2] = len,
        Err(_) => {
            let len = (len as u16).to_be_bytes();
            out[start] |= EXTENDED_LENGTH;
            out[start + 2] = len[0];
            out.insert(start + 3, len[1]);
        }
    }
}

impl Attributes {
    /// Those of a route of our own: ORIGIN IGP, an empty AS_PATH.
    pub fn originated(local_pref: u32, communities: &[u32], large: &[[u32; 3]]) -> Attributes {
        let octets = |v: &u32| v.to_be_bytes();
        let mut rest = Vec::new();
        write(&mut rest, TRANSITIVE, iana::AS_PATH, &[]);
        if !communities.is_empty() {
            let value: Vec<u8> = communities.iter().flat_map(octets).collect();
            write(&mut rest, OPTIONAL | TRANSITIVE, iana::COMMUNITIES, &value);
        }
        if !large.is_empty() {
            let value: Vec<u8> = large.iter().flatten().flat_map(octets).collect();
            write(&mut rest, OPTIONAL | TRANSITIVE, iana::LARGE_COMMUNITIES, &value);
        }
        Attributes {
            origin: 0,
            next_hop: Ipv4Addr::UNSPECIFIED.into(),
            link_local: None,
            med: None,
            local_pref: Some(local_pref),
            rest: rest.into(),
        }
    }

    /// Appends all in wire form, ascending but for what `next_hop` appends, which comes third.
    pub fn write(&self, out: &mut Vec<u8>, next_hop: impl FnOnce(&mut Vec<u8>)) {
        write(out, TRANSITIVE, iana::ORIGIN, &[self.origin]);
        write(out, TRANSITIVE, iana::AS_PATH, self.as_path());
        next_hop(out);
        if let Some(med) = self.med {
            write(out, OPTIONAL, iana::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        if let Some(local_pref) = self.local_pref {
            write(out, TRANSITIVE, iana::LOCAL_PREF, &local_pref.to_be_bytes());
        }
        self.iter().filter(|a| a.kind != iana::AS_PATH).for_each(|a| write(out, a.flags, a.kind, a.value));
    }

    /// The attributes of `rest`.
    pub fn iter(&self) -> impl Iterator<Item = Raw<'_>> {
        let mut list = &self.rest[..];
        std::iter::from_fn(move || {
            let (raw, rest) = split(list)?;
            list = rest;
            Some(raw)
        })
    }

    /// The value of an attribute of `rest`; empty if it is not there.
    pub fn value(&self, kind: u8) -> &[u8] {
        self.iter().find(|a| a.kind == kind).map_or(&[], |a| a.value)
    }

    /// Replaces the value of one attribute of `rest`, or adds it. A value that is longer than an attribute can be changes
    /// nothing.
    pub fn set(&mut self, flags: u8, kind: u8, value: &[u8]) {
        if value.len() > as_path::MAX_VALUE_LEN {
            return;
        }
        let mut rest = Vec::with_capacity(self.rest.len() + value.len() + 4);
        let mut written = false;
        for a in self.iter().filter(|a| a.kind != kind) {
            if a.kind > kind && !written {
                write(&mut rest, flags, kind, value);
                written = true;
            }
            write(&mut rest, a.flags, a.kind, a.value);
        }
        if !written {
            write(&mut rest, flags, kind, value);
        }
        self.rest = rest.into();
    }

    /// The AS_PATH, four octets a number.
    pub fn as_path(&self) -> &[u8] {
        self.value(iana::AS_PATH)
    }

    /// The length that counts in the decision process: an AS_SET is one (RFC 4271 section 9.1.2.2 a).
    pub fn as_path_len(&self) -> u32 {
        as_path::decision_len(self.as_path())
    }

    /// The neighbour that announced it to our AS: the first AS of a path that begins with a sequence.
    pub fn neighbour_as(&self) -> Option<u32> {
        as_path::first_as(self.as_path(), 4)
    }

    /// Whether the path has an AS_SET (RFC 9774).
    pub fn has_as_set(&self) -> bool {
        as_path::has_set(self.as_path())
    }

    /// Every AS of the path, those of sets too, in order.
    pub fn ases(&self) -> impl Iterator<Item = u32> {
        as_path::segments(self.as_path(), 4).flat_map(|(_, ases)| ases.chunks_exact(4)).map(be32)
    }

    pub fn communities(&self) -> impl Iterator<Item = u32> {
        self.value(iana::COMMUNITIES).chunks_exact(4).map(be32)
    }

    pub fn large_communities(&self) -> impl Iterator<Item = [u32; 3]> {
        self.value(iana::LARGE_COMMUNITIES).chunks_exact(12).map(|c| [be32(&c[..4]), be32(&c[4..8]), be32(&c[8..])])
    }

    /// RFC 4360: type, subtype and value of each, as eight octets.
    pub fn extended_communities(&self) -> impl Iterator<Item = [u8; 8]> {
        self.value(iana::EXTENDED_COMMUNITIES).chunks_exact(8).filter_map(|c| c.try_into().ok())
    }

    pub fn originator_id(&self) -> Option<Ipv4Addr> {
        self.value(iana::ORIGINATOR_ID).first_chunk::<4>().map(|a| Ipv4Addr::from(*a))
    }

    pub fn cluster_list(&self) -> impl ExactSizeIterator<Item = u32> {
        self.value(iana::CLUSTER_LIST).chunks_exact(4).map(be32)
    }

    /// OTC (RFC 9234 section 5): the AS that said it to a customer or peer.
    pub fn only_to_customer(&self) -> Option<u32> {
        self.value(iana::ONLY_TO_CUSTOMER).first_chunk::<4>().map(|a| u32::from_be_bytes(*a))
    }

    /// Puts ASes in front of the path, in the order given (RFC 4271 section 5.1.2 b).
    pub fn prepend(&mut self, ases: &[u32]) {
        let mut value = Vec::new();
        prepend_path(&mut value, ases, self.as_path());
        self.set(TRANSITIVE, iana::AS_PATH, &value);
    }
}
