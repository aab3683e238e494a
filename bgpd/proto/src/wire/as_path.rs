//! AS_PATH as octets (RFC 4271 section 4.3 b): segments of a type, a count, and as many AS numbers.

use super::iana;

const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;
const AS_CONFED_SEQUENCE: u8 = 3;
const AS_CONFED_SET: u8 = 4;

/// Octets that the value of an attribute can have.
pub(super) const MAX_VALUE_LEN: usize = u16::MAX as usize;

/// Segments of a path: type and the octets of its numbers, `width` each. Ends early at what is not well formed.
pub(super) fn segments(mut path: &[u8], width: usize) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, count], rest) = path.split_first_chunk::<2>()?;
        let ases = rest.get(..usize::from(count) * width)?;
        path = &rest[ases.len()..];
        Some((kind, ases))
    })
}

/// What is wrong with a path whose numbers have `width` octets; `None`: nothing. RFC 7606 section 7.2, RFC 7607 section 2;
/// confederation segments do not leave a confederation (RFC 5065 section 5.3).
pub(super) fn fault(path: &[u8], width: usize) -> Option<&'static str> {
    fault_of(path, width, &[AS_SET, AS_SEQUENCE])
}

/// What is wrong with an AS4_PATH. Confederation segments in it are no fault: they are left out (RFC 6793 section 6).
pub(super) fn fault_of_as4(path: &[u8]) -> Option<&'static str> {
    fault_of(path, 4, &[AS_SET, AS_SEQUENCE, AS_CONFED_SEQUENCE, AS_CONFED_SET])
}

fn fault_of(mut path: &[u8], width: usize, kinds: &[u8]) -> Option<&'static str> {
    while !path.is_empty() {
        let Some((&[kind, count], rest)) = path.split_first_chunk::<2>() else {
            return Some("the last segment has no length");
        };
        let len = usize::from(count) * width;
        if !kinds.contains(&kind) {
            return Some("a segment is neither AS_SET nor AS_SEQUENCE");
        }
        if count == 0 {
            return Some("a segment has no AS numbers");
        }
        if rest.len() < len {
            return Some("a segment is longer than the path");
        }
        if rest[..len].chunks_exact(width).any(|a| a.iter().all(|&o| o == 0)) {
            return Some("AS number 0 (RFC 7607)");
        }
        path = &rest[len..];
    }
    None
}

/// The length that counts in the decision process: an AS_SET is one (RFC 4271 section 9.1.2.2 a).
pub(super) fn decision_len(path: &[u8]) -> u32 {
    segments(path, 4).map(|(kind, ases)| if kind == AS_SET { 1 } else { ases.len() as u32 / 4 }).sum()
}

/// The first AS of a path that begins with a sequence of numbers of `width` octets.
pub(super) fn first_as(path: &[u8], width: usize) -> Option<u32> {
    match segments(path, width).next() {
        Some((AS_SEQUENCE, ases)) => ases.get(..width).map(be32),
        _ => None,
    }
}

/// Whether there is an AS_SET (RFC 9774 deprecates them).
pub(super) fn has_set(path: &[u8]) -> bool {
    segments(path, 4).any(|(kind, _)| kind == AS_SET)
}

/// As operators write it: AS_SETs in braces.
pub fn display(path: &[u8]) -> String {
    let mut words = Vec::new();
    for (kind, ases) in segments(path, 4) {
        let numbers: Vec<String> = ases.chunks_exact(4).map(|a| be32(a).to_string()).collect();
        words.push(if kind == AS_SET { format!("{{{}}}", numbers.join(",")) } else { numbers.join(" ") });
    }
    words.join(" ")
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
            replaced |= asn > u16::MAX.into();
            out.extend_from_slice(&narrow(asn).to_be_bytes());
        }
    }
    (out, replaced)
}

/// An AS number in two octets (RFC 6793 section 4.2.2).
pub(super) fn narrow(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(iana::AS_TRANS)
}

/// Octets of [`widen_path`].
pub(super) fn widened_len(path: &[u8]) -> usize {
    segments(path, 2).map(|(_, ases)| 2 + 2 * ases.len()).sum()
}

/// A path of two-octet numbers with four octets each.
pub(super) fn widen_path(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() * 2);
    for (kind, ases) in segments(path, 2) {
        out.extend_from_slice(&[kind, (ases.len() / 2) as u8]);
        ases.chunks_exact(2).for_each(|a| out.extend_from_slice(&[0, 0, a[0], a[1]]));
    }
    out
}

/// RFC 6793 section 4.2.3: as many leading ASes of the path as it is longer, then the AS4_PATH. The path alone where that is
/// shorter, or where both would be more than an attribute can hold.
pub(super) fn merge_as4_path(path: &[u8], as4: &[u8]) -> Vec<u8> {
    let as4 = without_confederations(as4);
    let Some(mut lead) = decision_len(path).checked_sub(decision_len(&as4)) else {
        return path.to_vec();
    };
    let mut out = Vec::with_capacity(path.len());
    for (kind, ases) in segments(path, 4) {
        if lead == 0 {
            break;
        }
        let count = ases.len() as u32 / 4;
        let take = if kind == AS_SET { count } else { lead.min(count) };
        lead -= if kind == AS_SET { 1 } else { take };
        out.extend_from_slice(&[kind, take as u8]);
        out.extend_from_slice(&ases[..take as usize * 4]);
    }
    out.extend_from_slice(&as4);
    if out.len() > MAX_VALUE_LEN { path.to_vec() } else { out }
}

/// An AS4_PATH without the segments that it must not carry (RFC 6793 section 6).
fn without_confederations(as4: &[u8]) -> Vec<u8> {
    let kept = segments(as4, 4).filter(|(kind, _)| matches!(*kind, AS_SET | AS_SEQUENCE));
    kept.flat_map(|(kind, ases)| [&[kind, (ases.len() / 4) as u8], ases].concat()).collect()
}

/// A number of at most four octets.
pub(super) fn be32(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |n, &o| n << 8 | u32::from(o))
}
