//! Path attributes: what is kept of them, and what RFC 7606 does with each that is malformed.
//!
//! [`Attributes`] is built from what was parsed, never from the received octets, so what was discarded is gone downstream.

use std::net::{IpAddr, Ipv4Addr};

use super::iana::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE};

const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;

/// The attributes of a route, decoded as far as decisions need them.
///
/// Invariant: `rest` is a list of attributes in their wire form, ascending by type, each type once; the AS_PATH in it has
/// four-octet numbers. ORIGIN, NEXT_HOP, MULTI_EXIT_DISC, LOCAL_PREF and the MP attributes are never in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// 0 IGP, 1 EGP, 2 INCOMPLETE.
    pub origin: u8,
    pub next_hop: IpAddr,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub rest: Box<[u8]>,
}

/// What RFC 7606 section 2 does about an error, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    AttributeDiscard,
    TreatAsWithdraw,
}

/// An attribute that was malformed; the session stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub kind: u8,
    pub remedy: Remedy,
}

/// What a session knows that the octets of an UPDATE do not tell.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Both sides have the four-octet AS capability.
    pub four_octet_as: bool,
    pub ibgp: bool,
    /// Negotiated families.
    pub ipv4: bool,
    pub ipv6: bool,
    /// Our end of the session: no route's next hop (RFC 4271 section 5.1.3).
    pub local_address: IpAddr,
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
    (rest.len() >= len).then(|| (Raw { flags, kind, value: &rest[..len] }, &rest[len..]))
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
            med: None,
            local_pref: Some(local_pref),
            rest: rest.into(),
        }
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

    /// Replaces the value of one attribute of `rest`, or adds it.
    pub fn set(&mut self, flags: u8, kind: u8, value: &[u8]) {
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
        segments(self.as_path(), 4).map(|(kind, ases)| if kind == AS_SET { 1 } else { ases.len() as u32 / 4 }).sum()
    }

    /// The neighbour that announced it to our AS: the first AS of a path that begins with a sequence.
    pub fn neighbour_as(&self) -> Option<u32> {
        match segments(self.as_path(), 4).next() {
            Some((AS_SEQUENCE, ases)) => ases.first_chunk().map(|a| u32::from_be_bytes(*a)),
            _ => None,
        }
    }

    /// Every AS of the path, those of sets too, in order.
    pub fn ases(&self) -> impl Iterator<Item = u32> {
        segments(self.as_path(), 4).flat_map(|(_, ases)| ases.chunks_exact(4)).map(be32)
    }

    pub fn communities(&self) -> impl Iterator<Item = u32> {
        self.value(iana::COMMUNITIES).chunks_exact(4).map(be32)
    }

    pub fn large_communities(&self) -> impl Iterator<Item = [u32; 3]> {
        self.value(iana::LARGE_COMMUNITIES).chunks_exact(12).map(|c| [be32(&c[..4]), be32(&c[4..8]), be32(&c[8..])])
    }

    pub fn originator_id(&self) -> Option<Ipv4Addr> {
        self.value(iana::ORIGINATOR_ID).first_chunk::<4>().map(|a| Ipv4Addr::from(*a))
    }

    pub fn cluster_list(&self) -> impl ExactSizeIterator<Item = u32> {
        self.value(iana::CLUSTER_LIST).chunks_exact(4).map(be32)
    }

    /// Puts ASes in front of the path, in the order given (RFC 4271 section 5.1.2 b).
    pub fn prepend(&mut self, ases: &[u32]) {
        let mut value = Vec::new();
        prepend_path(&mut value, ases, self.as_path());
        self.set(TRANSITIVE, iana::AS_PATH, &value);
    }
}

/// Appends to `out` the path with `ases` before it. A first sequence grows up to 255 numbers, then a new one begins.
pub fn prepend_path(out: &mut Vec<u8>, ases: &[u32], path: &[u8]) {
    let (head, tail) = match path {
        [AS_SEQUENCE, count, rest @ ..] if usize::from(*count) + ases.len() <= 255 => {
            let len = (usize::from(*count) * 4).min(rest.len());
            rest.split_at(len)
        }
        _ => (&[][..], path),
    };
    let count = ases.len().min(255) + head.len() / 4;
    if count > 0 {
        out.extend_from_slice(&[AS_SEQUENCE, count as u8]);
        ases.iter().take(255).for_each(|a| out.extend_from_slice(&a.to_be_bytes()));
        out.extend_from_slice(head);
    }
    out.extend_from_slice(tail);
}

/// The path for a peer with two-octet numbers, and whether a number had to be replaced (RFC 6793 section 4.2.2).
pub fn narrow_path(path: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(path.len());
    let mut replaced = false;
    for (kind, ases) in segments(path, 4) {
        out.extend_from_slice(&[kind, (ases.len() / 4) as u8]);
        for asn in ases.chunks_exact(4).map(be32) {
            let short = u16::try_from(asn).unwrap_or_else(|_| {
                replaced = true;
                iana::AS_TRANS
            });
            out.extend_from_slice(&short.to_be_bytes());
        }
    }
    (out, replaced)
}

/// Segments of a path: type and the octets of its numbers. Ends early at what is not well formed.
fn segments(mut path: &[u8], width: usize) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, count], rest) = path.split_first_chunk::<2>()?;
        let ases = rest.get(..usize::from(count) * width)?;
        path = &rest[ases.len()..];
        Some((kind, ases))
    })
}

/// RFC 7606 section 7.2, RFC 7607 section 2; confederation segments do not leave a confederation (RFC 5065 section 5.3).
fn path_is_well_formed(mut path: &[u8], width: usize) -> bool {
    while !path.is_empty() {
        let Some((&[kind, count], rest)) = path.split_first_chunk::<2>() else {
            return false;
        };
        let len = usize::from(count) * width;
        if !matches!(kind, AS_SET | AS_SEQUENCE) || count == 0 || rest.len() < len {
            return false;
        }
        if rest[..len].chunks_exact(width).any(|a| a.iter().all(|&o| o == 0)) {
            return false;
        }
        path = &rest[len..];
    }
    true
}

fn be32(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |n, &o| n << 8 | u32::from(o))
}

/// What the attribute walk found.
#[derive(Debug, Default)]
pub(super) struct Walk<'a> {
    pub origin: Option<u8>,
    pub next_hop: Option<Ipv4Addr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub as_path: Option<Vec<u8>>,
    /// Everything for `rest` but the path: type, flags, value.
    pub kept: Vec<(u8, u8, &'a [u8])>,
    /// From a two-octet peer only.
    pub as4_path: Option<&'a [u8]>,
    pub as4_aggregator: Option<&'a [u8]>,
    pub mp_reach: Option<&'a [u8]>,
    pub mp_unreach: Option<&'a [u8]>,
    /// All that was wrong, in order.
    pub errors: Vec<Malformed>,
}

/// An error for which RFC 7606 keeps the session reset.
pub(super) enum Fatal<'a> {
    /// Section 3 (g): a second MP_REACH_NLRI or MP_UNREACH_NLRI.
    Repeated,
    /// RFC 4271 section 6.3, which RFC 7606 leaves as it is.
    UnrecognizedWellKnown(&'a [u8]),
}

/// Reads a list of attributes to its end, whatever is wrong with them (RFC 7606 section 3 h).
pub(super) fn walk<'a>(cx: &Context, mut list: &'a [u8]) -> Result<Walk<'a>, Fatal<'a>> {
    let mut found = Walk::default();
    let mut seen = [0u64; 4];
    while !list.is_empty() {
        let Some((raw, rest)) = split(list) else {
            // RFC 7606 section 4: the length leads beyond the list; the NLRI is still where the list ends.
            found.errors.push(Malformed { kind: list.get(1).copied().unwrap_or(0), remedy: Remedy::TreatAsWithdraw });
            break;
        };
        let octets = &list[..list.len() - rest.len()];
        list = rest;
        let (word, bit) = (usize::from(raw.kind >> 6), 1u64 << (raw.kind & 63));
        if seen[word] & bit != 0 {
            if matches!(raw.kind, iana::MP_REACH_NLRI | iana::MP_UNREACH_NLRI) {
                return Err(Fatal::Repeated);
            }
            // RFC 7606 section 3 (g): all but the first are discarded.
            continue;
        }
        seen[word] |= bit;
        if let Err(remedy) = read_one(cx, raw, octets, &mut found)? {
            found.errors.push(Malformed { kind: raw.kind, remedy });
        }
    }
    Ok(found)
}

/// Reads one attribute into `found`.
fn read_one<'a>(
    cx: &Context,
    raw: Raw<'a>,
    octets: &'a [u8],
    found: &mut Walk<'a>,
) -> Result<Result<(), Remedy>, Fatal<'a>> {
    use Remedy::{AttributeDiscard as Discard, TreatAsWithdraw as Withdraw};
    let value = raw.value;
    // RFC 7606 sections 7.5, 7.9, 7.10: from outside they are discarded whatever they hold.
    if !cx.ibgp && matches!(raw.kind, iana::LOCAL_PREF | iana::ORIGINATOR_ID | iana::CLUSTER_LIST) {
        return Ok(Err(Discard));
    }
    match expected_flags(raw.kind) {
        Some(flags) if raw.flags & (OPTIONAL | TRANSITIVE) != flags => {
            // Section 3 (c). MP attributes are read all the same: their prefixes have to be withdrawn.
            match raw.kind {
                iana::MP_REACH_NLRI => found.mp_reach = Some(value),
                iana::MP_UNREACH_NLRI => found.mp_unreach = Some(value),
                iana::AIGP | iana::LINK_STATE | iana::PREFIX_SID | iana::AS4_PATH | iana::AS4_AGGREGATOR => {
                    return Ok(Err(Discard));
                }
                _ => {}
            }
            return Ok(Err(Withdraw));
        }
        Some(_) => {}
        None if raw.flags & OPTIONAL == 0 => return Err(Fatal::UnrecognizedWellKnown(octets)),
        None => {
            // RFC 4271 section 5: passed on with Partial if transitive, else dropped.
            if raw.flags & TRANSITIVE != 0 {
                found.kept.push((raw.kind, OPTIONAL | TRANSITIVE | PARTIAL, value));
            }
            return Ok(Ok(()));
        }
    }
    let number = value.first_chunk::<4>().filter(|_| value.len() == 4).map(|v| u32::from_be_bytes(*v));
    let list_of = |width: usize| !value.is_empty() && value.len().is_multiple_of(width);
    let keep = |found: &mut Walk<'a>, good: bool, remedy: Remedy| {
        if good {
            let flags = OPTIONAL | TRANSITIVE | raw.flags & PARTIAL;
            let flags = match raw.kind {
                iana::ATOMIC_AGGREGATE => TRANSITIVE,
                iana::ORIGINATOR_ID | iana::CLUSTER_LIST => OPTIONAL,
                _ => flags,
            };
            found.kept.push((raw.kind, flags, value));
        }
        if good { Ok(()) } else { Err(remedy) }
    };
    Ok(match raw.kind {
        iana::ORIGIN => match value {
            [origin @ 0..=2] => {
                found.origin = Some(*origin);
                Ok(())
            }
            _ => Err(Withdraw),
        },
        iana::AS_PATH => {
            let width = if cx.four_octet_as { 4 } else { 2 };
            if path_is_well_formed(value, width) {
                found.as_path = Some(if cx.four_octet_as { value.to_vec() } else { widen_path(value) });
                Ok(())
            } else {
                Err(Withdraw)
            }
        }
        iana::NEXT_HOP => match number.map(Ipv4Addr::from) {
            Some(address) if is_host(address.into()) => {
                found.next_hop = Some(address);
                Ok(())
            }
            _ => Err(Withdraw),
        },
        iana::MULTI_EXIT_DISC => number.map(|n| found.med = Some(n)).ok_or(Withdraw),
        iana::LOCAL_PREF => number.map(|n| found.local_pref = Some(n)).ok_or(Withdraw),
        iana::ATOMIC_AGGREGATE => keep(found, value.is_empty(), Discard),
        iana::AGGREGATOR => {
            let (width, len) = if cx.four_octet_as { (4, 8) } else { (2, 6) };
            let good = value.len() == len && value[..width].iter().any(|&o| o != 0);
            keep(found, good, Discard)
        }
        iana::COMMUNITIES => keep(found, list_of(4), Withdraw),
        iana::ORIGINATOR_ID => keep(found, number.is_some(), Withdraw),
        iana::CLUSTER_LIST => keep(found, list_of(4), Withdraw),
        iana::MP_REACH_NLRI => {
            found.mp_reach = Some(value);
            Ok(())
        }
        iana::MP_UNREACH_NLRI => {
            found.mp_unreach = Some(value);
            Ok(())
        }
        iana::EXTENDED_COMMUNITIES => keep(found, list_of(8), Withdraw),
        // RFC 6793 section 6: never from a four-octet speaker, and never a reason for more than discarding it.
        iana::AS4_PATH if cx.four_octet_as || value.is_empty() || !path_is_well_formed(value, 4) => Err(Discard),
        iana::AS4_PATH => {
            found.as4_path = Some(value);
            Ok(())
        }
        iana::AS4_AGGREGATOR if cx.four_octet_as || value.len() != 8 || value[..4] == [0; 4] => Err(Discard),
        iana::AS4_AGGREGATOR => {
            found.as4_aggregator = Some(value);
            Ok(())
        }
        iana::IPV6_EXTENDED_COMMUNITIES => keep(found, list_of(20), Withdraw),
        iana::LARGE_COMMUNITIES => keep(found, list_of(12), Withdraw),
        // RFC 9234 section 5. Not implemented: roles; the attribute is passed on.
        iana::ONLY_TO_CUSTOMER => keep(found, number.is_some(), Withdraw),
        // Not used; transitive ones go on with Partial.
        iana::PREFIX_SID => {
            found.kept.push((raw.kind, OPTIONAL | TRANSITIVE | PARTIAL, value));
            Ok(())
        }
        // AIGP and LINK_STATE are not transitive and not used.
        _ => Ok(()),
    })
}

/// Optional and Transitive as specified; `None` for attributes that are not known here.
fn expected_flags(kind: u8) -> Option<u8> {
    Some(match kind {
        iana::ORIGIN | iana::AS_PATH | iana::NEXT_HOP | iana::LOCAL_PREF | iana::ATOMIC_AGGREGATE => TRANSITIVE,
        iana::MULTI_EXIT_DISC
        | iana::ORIGINATOR_ID
        | iana::CLUSTER_LIST
        | iana::MP_REACH_NLRI
        | iana::MP_UNREACH_NLRI
        | iana::AIGP
        | iana::LINK_STATE => OPTIONAL,
        iana::AGGREGATOR
        | iana::COMMUNITIES
        | iana::EXTENDED_COMMUNITIES
        | iana::AS4_PATH
        | iana::AS4_AGGREGATOR
        | iana::IPV6_EXTENDED_COMMUNITIES
        | iana::LARGE_COMMUNITIES
        | iana::ONLY_TO_CUSTOMER
        | iana::PREFIX_SID => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

/// Whether a next hop can be a host (RFC 4271 section 6.3; RFC 1122 section 3.2.1.3 for loopback).
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
    }
}

fn widen_path(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() * 2);
    for (kind, ases) in segments(path, 2) {
        out.extend_from_slice(&[kind, (ases.len() / 2) as u8]);
        ases.chunks_exact(2).for_each(|a| out.extend_from_slice(&[0, 0, a[0], a[1]]));
    }
    out
}

impl Walk<'_> {
    /// The attributes, once it is known that the mandatory ones are there.
    pub(super) fn attributes(&mut self, cx: &Context, origin: u8, next_hop: IpAddr) -> Attributes {
        let mut path = self.as_path.take().unwrap_or_default();
        let mut aggregator = self.kept.iter().position(|k| k.0 == iana::AGGREGATOR);
        let mut wide = [0; 8];
        if !cx.four_octet_as {
            // RFC 6793 section 4.2.3: an AGGREGATOR that does not say AS_TRANS is newer than the AS4 attributes.
            let trusted = aggregator.is_none_or(|i| self.kept[i].2[..2] == iana::AS_TRANS.to_be_bytes());
            if let (true, Some(as4)) = (trusted, self.as4_path) {
                path = merge_as4_path(&path, as4);
            }
            if let Some(i) = aggregator {
                match self.as4_aggregator {
                    Some(as4) if trusted => wide.copy_from_slice(as4),
                    _ => {
                        wide[2..4].copy_from_slice(&self.kept[i].2[..2]);
                        wide[4..].copy_from_slice(&self.kept[i].2[2..6]);
                    }
                }
            }
        } else {
            aggregator = None;
        }
        let mut rest = Vec::with_capacity(path.len() + 4 + self.kept.iter().map(|k| k.2.len() + 4).sum::<usize>());
        write(&mut rest, TRANSITIVE, iana::AS_PATH, &path);
        let aggregator = aggregator.map(|_| wide);
        if !self.kept.is_sorted_by_key(|k| k.0) {
            self.kept.sort_unstable_by_key(|k| k.0);
        }
        for &(kind, flags, value) in &self.kept {
            match aggregator {
                Some(ref wide) if kind == iana::AGGREGATOR => write(&mut rest, flags, kind, wide),
                _ => write(&mut rest, flags, kind, value),
            }
        }
        Attributes { origin, next_hop, med: self.med, local_pref: self.local_pref, rest: rest.into() }
    }
}

/// RFC 6793 section 4.2.3: as many leading ASes of the path as it is longer, then the AS4_PATH.
fn merge_as4_path(path: &[u8], as4: &[u8]) -> Vec<u8> {
    let count = |p| segments(p, 4).map(|(kind, a)| if kind == AS_SET { 1 } else { a.len() / 4 }).sum::<usize>();
    let Some(mut lead) = count(path).checked_sub(count(as4)) else {
        return path.to_vec();
    };
    let mut out = Vec::with_capacity(path.len());
    for (kind, ases) in segments(path, 4) {
        if lead == 0 {
            break;
        }
        let take = if kind == AS_SET { ases.len() / 4 } else { lead.min(ases.len() / 4) };
        lead -= if kind == AS_SET { 1 } else { take };
        out.extend_from_slice(&[kind, take as u8]);
        out.extend_from_slice(&ases[..take * 4]);
    }
    out.extend_from_slice(as4);
    out
}
