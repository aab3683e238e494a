//! The walk over the attributes of an UPDATE, and what RFC 7606 does with each that is malformed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::as_path::{self, MAX_VALUE_LEN, merge_as4_path, narrow, widen_path};
use super::attribute::{Attributes, Raw, split, write, written_len};
use super::iana::{self, OPTIONAL, PARTIAL, TRANSITIVE};
use super::open::Capabilities;
use crate::af::Family;

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
    pub reason: &'static str,
    /// The section that asks for the remedy.
    pub rule: &'static str,
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
    /// Of each family: the peer's prefixes have path identifiers (RFC 7911).
    pub add_path_receive: [bool; 2],
    /// IPv4 prefixes may come with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Messages may have up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// Our end of the session: no route's next hop (RFC 4271 section 5.1.3).
    pub local_address: IpAddr,
    /// The AS that every path must begin with (RFC 4271 section 6.3): the neighbour's. A route server does not put its own
    /// in front (RFC 7947 section 2.2.2.1).
    pub first_as: Option<u32>,
}

impl Context {
    /// `common`: what [`Capabilities::common`] says of the session.
    pub fn new(common: &Capabilities, ibgp: bool, local_address: IpAddr) -> Context {
        Context {
            four_octet_as: common.four_octet_as,
            ibgp,
            ipv4: common.ipv4,
            ipv6: common.ipv6,
            add_path_receive: common.add_path.map(|a| a.receive),
            extended_next_hop: common.extended_next_hop,
            extended_messages: common.extended_messages,
            local_address,
            first_as: None,
        }
    }

    pub fn family(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    pub fn has_path_ids(&self, family: Family) -> bool {
        self.add_path_receive[family as usize]
    }

    /// How long a message of the session may be.
    pub fn max_message_len(&self) -> usize {
        if self.extended_messages { super::MAX_EXTENDED_MESSAGE_LEN } else { super::MAX_MESSAGE_LEN }
    }
}

/// What the contents of an attribute must be.
#[derive(Clone, Copy)]
enum Shape {
    Origin,
    Path,
    /// Four octets.
    Number,
    Empty,
    Aggregator,
    /// A list of elements of so many octets; none is malformed (RFC 7606 section 4).
    ListOf(usize),
    As4Path,
    As4Aggregator,
    /// Read later, with the prefixes in it.
    Multiprotocol,
    /// Not used here, and so not looked into.
    Opaque,
}

/// An attribute that is known here.
struct Spec {
    /// Optional and Transitive as they must be.
    flags: u8,
    shape: Shape,
    /// What is done where the contents are wrong, and the section that says so.
    remedy: Remedy,
    rule: &'static str,
}

/// RFC 7606 section 7 as a table; `None` for attributes that are not known here.
fn spec(kind: u8) -> Option<Spec> {
    use Remedy::{AttributeDiscard as Discard, TreatAsWithdraw as Withdraw};
    use Shape::*;
    const BOTH: u8 = OPTIONAL | TRANSITIVE;
    let (flags, shape, remedy, rule) = match kind {
        iana::ORIGIN => (TRANSITIVE, Origin, Withdraw, "RFC 7606 section 7.1"),
        iana::AS_PATH => (TRANSITIVE, Path, Withdraw, "RFC 7606 section 7.2"),
        iana::NEXT_HOP => (TRANSITIVE, Number, Withdraw, "RFC 7606 section 7.3"),
        iana::MULTI_EXIT_DISC => (OPTIONAL, Number, Withdraw, "RFC 7606 section 7.4"),
        iana::LOCAL_PREF => (TRANSITIVE, Number, Withdraw, "RFC 7606 section 7.5"),
        iana::ATOMIC_AGGREGATE => (TRANSITIVE, Empty, Discard, "RFC 7606 section 7.6"),
        iana::AGGREGATOR => (BOTH, Aggregator, Discard, "RFC 7606 section 7.7"),
        iana::COMMUNITIES => (BOTH, ListOf(4), Withdraw, "RFC 7606 section 7.8"),
        iana::ORIGINATOR_ID => (OPTIONAL, Number, Withdraw, "RFC 7606 section 7.9"),
        iana::CLUSTER_LIST => (OPTIONAL, ListOf(4), Withdraw, "RFC 7606 section 7.10"),
        iana::MP_REACH_NLRI => (OPTIONAL, Multiprotocol, Withdraw, "RFC 7606 section 7.11"),
        iana::MP_UNREACH_NLRI => (OPTIONAL, Multiprotocol, Withdraw, "RFC 7606 section 7.12"),
        iana::EXTENDED_COMMUNITIES => (BOTH, ListOf(8), Withdraw, "RFC 7606 section 7.14"),
        iana::AS4_PATH => (BOTH, As4Path, Discard, "RFC 6793 section 6"),
        iana::AS4_AGGREGATOR => (BOTH, As4Aggregator, Discard, "RFC 6793 section 6"),
        iana::IPV6_EXTENDED_COMMUNITIES => (BOTH, ListOf(20), Withdraw, "RFC 7606 section 7.15"),
        iana::AIGP => (OPTIONAL, Opaque, Discard, "RFC 7311 section 3"),
        iana::LINK_STATE => (OPTIONAL, Opaque, Discard, "RFC 9552 section 8.2.2"),
        iana::LARGE_COMMUNITIES => (BOTH, ListOf(12), Withdraw, "RFC 8092 section 6"),
        iana::ONLY_TO_CUSTOMER => (BOTH, Number, Withdraw, "RFC 9234 section 5"),
        iana::PREFIX_SID => (BOTH, Opaque, Discard, "RFC 8669 section 6"),
        _ => return None,
    };
    Some(Spec { flags, shape, remedy, rule })
}

impl Shape {
    /// What is wrong with a value; `None`: nothing.
    fn fault(self, cx: &Context, value: &[u8]) -> Option<&'static str> {
        let unless = |good: bool, reason: &'static str| (!good).then_some(reason);
        match self {
            Shape::Origin => unless(matches!(value, [0..=2]), "not one octet of IGP, EGP or INCOMPLETE"),
            Shape::Path => {
                let width = if cx.four_octet_as { 4 } else { 2 };
                let expected = cx.first_as.map(|asn| if cx.four_octet_as { asn } else { narrow(asn).into() });
                let first = as_path::first_as(value, width);
                let fits = width == 4 || as_path::widened_len(value) <= MAX_VALUE_LEN;
                as_path::fault(value, width)
                    .or_else(|| unless(fits, "longer than an attribute can be with four octets a number"))
                    .or_else(|| {
                        unless(expected.is_none() || first == expected, "the first AS is not the peer's (RFC 4271 6.3)")
                    })
            }
            Shape::Number => unless(value.len() == 4, "length is not 4"),
            Shape::Empty => unless(value.is_empty(), "length is not 0"),
            Shape::Aggregator => {
                let width = if cx.four_octet_as { 4 } else { 2 };
                match value.len() == width + 4 {
                    true => unless(value[..width].iter().any(|&o| o != 0), "AS number 0 (RFC 7607)"),
                    false => Some("length does not fit the AS number capability"),
                }
            }
            Shape::ListOf(width) => {
                unless(!value.is_empty() && value.len().is_multiple_of(width), "length is no multiple, or 0")
            }
            // Never from a four-octet speaker, and never a reason for more than discarding it.
            Shape::As4Path | Shape::As4Aggregator if cx.four_octet_as => Some("from a peer with four-octet AS numbers"),
            Shape::As4Path if value.is_empty() => Some("length is 0"),
            Shape::As4Path => as_path::fault_of_as4(value),
            Shape::As4Aggregator => unless(value.len() == 8 && value[..4] != [0; 4], "length is not 8, or AS number 0"),
            Shape::Multiprotocol | Shape::Opaque => None,
        }
    }
}

/// What the attribute walk found.
#[derive(Debug, Default)]
pub(super) struct Walk<'a> {
    pub origin: Option<u8>,
    pub next_hop: Option<Ipv4Addr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    /// As received, and well formed.
    pub as_path: Option<&'a [u8]>,
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
            // The NLRI is still where the list ends.
            found.errors.push(Malformed {
                kind: list.get(1).copied().unwrap_or(0),
                remedy: Remedy::TreatAsWithdraw,
                reason: "longer than the list of attributes",
                rule: "RFC 7606 section 4",
            });
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
        found.read(cx, raw, octets)?;
    }
    Ok(found)
}

impl<'a> Walk<'a> {
    /// Reads one attribute.
    fn read(&mut self, cx: &Context, raw: Raw<'a>, octets: &'a [u8]) -> Result<(), Fatal<'a>> {
        let Some(spec) = spec(raw.kind) else {
            if raw.flags & OPTIONAL == 0 {
                return Err(Fatal::UnrecognizedWellKnown(octets));
            }
            self.pass_on(raw);
            return Ok(());
        };
        let mut wrong = |remedy, reason, rule| {
            self.errors.push(Malformed { kind: raw.kind, remedy, reason, rule });
            Ok(())
        };
        // RFC 7606 sections 7.5, 7.9, 7.10: from outside they are discarded whatever they hold.
        if !cx.ibgp && matches!(raw.kind, iana::LOCAL_PREF | iana::ORIGINATOR_ID | iana::CLUSTER_LIST) {
            return wrong(Remedy::AttributeDiscard, "from another AS", spec.rule);
        }
        if raw.flags & (OPTIONAL | TRANSITIVE) != spec.flags {
            let reason = "Optional or Transitive is not as specified";
            // Those whose own RFC discards them are discarded for this too.
            if matches!(spec.shape, Shape::Opaque | Shape::As4Path | Shape::As4Aggregator) {
                return wrong(Remedy::AttributeDiscard, reason, spec.rule);
            }
            let result = wrong(Remedy::TreatAsWithdraw, reason, "RFC 7606 section 3 (c)");
            // MP attributes are read all the same: their prefixes have to be withdrawn.
            if matches!(spec.shape, Shape::Multiprotocol) {
                self.take(raw, spec.shape);
            }
            return result;
        }
        if let Some(reason) = spec.shape.fault(cx, raw.value) {
            return wrong(spec.remedy, reason, spec.rule);
        }
        self.take(raw, spec.shape);
        Ok(())
    }

    /// RFC 4271 section 5: an attribute that is not used goes on with Partial if it is transitive, else it is dropped.
    fn pass_on(&mut self, raw: Raw<'a>) {
        if raw.flags & TRANSITIVE != 0 {
            self.kept.push((raw.kind, OPTIONAL | TRANSITIVE | PARTIAL, raw.value));
        }
    }

    /// Keeps an attribute whose contents are right.
    fn take(&mut self, raw: Raw<'a>, shape: Shape) {
        let value = raw.value;
        let number = || value.first_chunk::<4>().map(|v| u32::from_be_bytes(*v));
        match raw.kind {
            iana::ORIGIN => self.origin = value.first().copied(),
            iana::AS_PATH => self.as_path = Some(value),
            iana::NEXT_HOP => self.next_hop = number().map(Ipv4Addr::from),
            iana::MULTI_EXIT_DISC => self.med = number(),
            iana::LOCAL_PREF => self.local_pref = number(),
            iana::MP_REACH_NLRI => self.mp_reach = Some(value),
            iana::MP_UNREACH_NLRI => self.mp_unreach = Some(value),
            iana::AS4_PATH => self.as4_path = Some(value),
            iana::AS4_AGGREGATOR => self.as4_aggregator = Some(value),
            _ if matches!(shape, Shape::Opaque) => self.pass_on(raw),
            _ => self.kept.push((raw.kind, raw.flags & (OPTIONAL | TRANSITIVE | PARTIAL), value)),
        }
    }

    /// The attributes, once it is known that the mandatory ones are there.
    pub(super) fn attributes(&mut self, cx: &Context, origin: u8, next_hop: NextHop) -> Attributes {
        let mut aggregator = None;
        let received = self.as_path.unwrap_or_default();
        let widened;
        let path = if cx.four_octet_as {
            received
        } else {
            let at = self.kept.iter().position(|k| k.0 == iana::AGGREGATOR);
            // RFC 6793 section 4.2.3: of both aggregators one that does not say AS_TRANS is newer than the AS4 attributes. Without
            // AS4_AGGREGATOR, which a number of two octets does not need, it says nothing about the path.
            let is_trans = |i: usize| self.kept[i].2[..2] == iana::AS_TRANS.to_be_bytes();
            let trusted = self.as4_aggregator.is_none() || at.is_none_or(is_trans);
            let path = widen_path(received);
            widened = match self.as4_path.filter(|_| trusted) {
                Some(as4) => merge_as4_path(&path, as4),
                None => path,
            };
            aggregator = at.map(|i| {
                let narrow = self.kept[i].2;
                let four = || [&[0, 0], &narrow[..6]].concat();
                self.as4_aggregator.filter(|_| trusted).map_or_else(four, <[u8]>::to_vec)
            });
            &widened
        };
        // To the octet, mostly: it is a boxed slice in the end.
        let kept: usize = self.kept.iter().map(|k| written_len(k.2)).sum();
        let mut rest = Vec::with_capacity(written_len(path) + kept);
        if !self.kept.is_sorted_by_key(|k| k.0) {
            self.kept.sort_unstable_by_key(|k| k.0);
        }
        // Type 0 is reserved, but nobody may be stopped from passing it on.
        let (before, after) = self.kept.split_at(self.kept.partition_point(|k| k.0 < iana::AS_PATH));
        before.iter().for_each(|&(kind, flags, value)| write(&mut rest, flags, kind, value));
        write(&mut rest, TRANSITIVE, iana::AS_PATH, path);
        for &(kind, flags, value) in after {
            match &aggregator {
                Some(wide) if kind == iana::AGGREGATOR => write(&mut rest, flags, kind, wide),
                // RFC 8092 section 3: redundant values are removed.
                _ if kind == iana::LARGE_COMMUNITIES => {
                    let once = without_repeats(value, 12);
                    write(&mut rest, flags, kind, once.as_deref().unwrap_or(value));
                }
                _ => write(&mut rest, flags, kind, value),
            }
        }
        Attributes {
            origin,
            next_hop: next_hop.address,
            link_local: next_hop.link_local,
            med: self.med,
            local_pref: self.local_pref,
            rest: rest.into(),
        }
    }
}

/// A list of elements of so many octets, each of them once; `None`: it is so already.
fn without_repeats(list: &[u8], width: usize) -> Option<Vec<u8>> {
    if list.len() == width {
        return None;
    }
    let mut seen = BTreeSet::new();
    let kept: Vec<u8> = list.chunks_exact(width).filter(|c| seen.insert(*c)).flatten().copied().collect();
    (kept.len() < list.len()).then_some(kept)
}

/// A next hop as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextHop {
    pub address: IpAddr,
    pub link_local: Option<Ipv6Addr>,
}

/// Whether a next hop can be a host (RFC 4271 section 6.3; RFC 1122 section 3.2.1.3 for loopback).
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
    }
}
