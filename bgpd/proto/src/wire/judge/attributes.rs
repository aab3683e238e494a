//! Path attributes as they are shown.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::prefixes;
use crate::af::Family;
use crate::wire::as_path::{self, be32, widen_path};
use crate::wire::attribute::{Context, Raw, split};
use crate::wire::community::{self, hex};
use crate::wire::iana::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE};

/// One attribute.
#[derive(Debug, Serialize)]
pub struct AttributeView {
    #[serde(rename = "type")]
    pub kind: u8,
    pub name: String,
    pub flags: Vec<&'static str>,
    pub length: usize,
    pub value: Value,
}

/// The value in the form that fits; octets where it is malformed, or not known.
#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Value {
    Number(u32),
    Text(String),
    List(Vec<String>),
    Reach { afi: u16, safi: u8, next_hop: Vec<String>, nlri: Vec<String> },
    Unreach { afi: u16, safi: u8, withdrawn: Vec<String> },
    Octets { octets: String },
}

/// Withdrawn routes, attributes and NLRI of an UPDATE, as far as their lengths lead.
pub(super) fn parts(body: &[u8]) -> (&[u8], &[u8], &[u8]) {
    fn list(body: &[u8]) -> (&[u8], &[u8]) {
        let Some((len, rest)) = body.split_first_chunk::<2>() else {
            return (&[], &[]);
        };
        rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()))
    }
    let (withdrawn, rest) = list(body);
    let (attributes, nlri) = list(rest);
    (withdrawn, attributes, nlri)
}

/// The attributes of a list, as far as it is well formed; what is left of it is the last one.
pub(super) fn list(cx: &Context, mut list: &[u8]) -> Vec<AttributeView> {
    let mut all = Vec::new();
    while !list.is_empty() {
        let Some((raw, rest)) = split(list) else {
            let (flags, kind) = (list[0], list.get(1).copied().unwrap_or(0));
            let octets = Value::Octets { octets: hex(list) };
            all.push(AttributeView { value: octets, ..view(cx, Raw { flags, kind, value: &[] }) });
            break;
        };
        all.push(view(cx, raw));
        list = rest;
    }
    all
}

fn view(cx: &Context, raw: Raw<'_>) -> AttributeView {
    let names = [(OPTIONAL, "optional"), (TRANSITIVE, "transitive"), (PARTIAL, "partial")];
    let extended = (EXTENDED_LENGTH, "extended length");
    let value = value(cx, raw.kind, raw.value).unwrap_or_else(|| Value::Octets { octets: hex(raw.value) });
    AttributeView {
        kind: raw.kind,
        name: iana::attribute_name(raw.kind).unwrap_or("unknown").to_owned(),
        flags: names.into_iter().chain([extended]).filter(|(bit, _)| raw.flags & bit != 0).map(|(_, n)| n).collect(),
        length: raw.value.len(),
        value,
    }
}

/// `None`: the octets have not the form of the attribute.
fn value(cx: &Context, kind: u8, value: &[u8]) -> Option<Value> {
    let number = || Some(u32::from_be_bytes(value.try_into().ok()?));
    let address = || number().map(|n| Ipv4Addr::from(n).to_string());
    let each = |width: usize, text: &dyn Fn(&[u8]) -> String| {
        let whole = !value.is_empty() && value.len().is_multiple_of(width);
        whole.then(|| Value::List(value.chunks_exact(width).map(text).collect()))
    };
    match kind {
        iana::ORIGIN => match value {
            [n @ 0..=2] => Some(Value::Text(["IGP", "EGP", "INCOMPLETE"][usize::from(*n)].to_owned())),
            _ => None,
        },
        iana::AS_PATH => path(value, if cx.four_octet_as { 4 } else { 2 }),
        iana::AS4_PATH => path(value, 4),
        iana::NEXT_HOP | iana::ORIGINATOR_ID => address().map(Value::Text),
        iana::MULTI_EXIT_DISC | iana::LOCAL_PREF | iana::ONLY_TO_CUSTOMER => number().map(Value::Number),
        iana::ATOMIC_AGGREGATE => value.is_empty().then(|| Value::Text(String::new())),
        iana::AGGREGATOR | iana::AS4_AGGREGATOR => {
            let (asn, address) = value.split_last_chunk::<4>()?;
            matches!(asn.len(), 2 | 4).then(|| Value::Text(format!("{} {}", be32(asn), Ipv4Addr::from(*address))))
        }
        iana::COMMUNITIES => each(4, &|c| community::standard(be32(c))),
        iana::CLUSTER_LIST => each(4, &|c| Ipv4Addr::from(be32(c)).to_string()),
        iana::EXTENDED_COMMUNITIES => each(8, &|c| c.try_into().map(community::extended).unwrap_or_default()),
        iana::LARGE_COMMUNITIES => each(12, &|c| community::large([be32(&c[..4]), be32(&c[4..8]), be32(&c[8..])])),
        iana::MP_REACH_NLRI => reach(cx, value),
        iana::MP_UNREACH_NLRI => unreach(cx, value),
        _ => None,
    }
}

fn path(value: &[u8], width: usize) -> Option<Value> {
    let well_formed = as_path::fault(value, width).is_none();
    let wide = if width == 2 { widen_path(value) } else { value.to_vec() };
    well_formed.then(|| Value::Text(as_path::display(&wide)))
}

fn reach(cx: &Context, value: &[u8]) -> Option<Value> {
    let (&[a, b, safi, len], rest) = value.split_first_chunk::<4>()?;
    let (next_hop, rest) = rest.split_at_checked(usize::from(len))?;
    let nlri = rest.get(1..)?;
    let afi = u16::from_be_bytes([a, b]);
    let next_hop = match next_hop.len() {
        4 => vec![Ipv4Addr::from(be32(next_hop)).to_string()],
        16 | 32 => next_hop.as_chunks::<16>().0.iter().map(|a| Ipv6Addr::from(*a).to_string()).collect(),
        _ => vec![hex(next_hop)],
    };
    Some(Value::Reach { afi, safi, next_hop, nlri: of_family(cx, afi, safi, nlri) })
}

fn unreach(cx: &Context, value: &[u8]) -> Option<Value> {
    let (&[a, b, safi], nlri) = value.split_first_chunk::<3>()?;
    let afi = u16::from_be_bytes([a, b]);
    Some(Value::Unreach { afi, safi, withdrawn: of_family(cx, afi, safi, nlri) })
}

/// Prefixes of a family of ours as text; another family's as octets.
fn of_family(cx: &Context, afi: u16, safi: u8, nlri: &[u8]) -> Vec<String> {
    match Family::from_wire(afi, safi) {
        Some(family) => prefixes(cx, family, nlri),
        None if nlri.is_empty() => Vec::new(),
        None => vec![hex(nlri)],
    }
}
