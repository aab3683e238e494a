//! How many bytes a block is stored in, without writing it: never fewer than it is, hardly more, and found in the same time in a block of
//! one address and of 4,096.

use std::collections::BTreeMap;

use api::go_json;
use api::ipam::AllocationAttribute;

use super::{Assignee, Block};

/// Most bytes of a block in which addresses are taken, 1.25 MiB. etcd takes 1.5 MiB in one request (`--max-request-bytes`): what is left
/// is for the handles and affinities beside it, and for what stays of an address while it cools down.
pub const MAX_BYTES: usize = 5 << 18;
/// Most bytes of what is stored with one address, so that an empty block of 4,096 has room for it.
pub const MAX_ATTRIBUTE_BYTES: usize = MAX_BYTES - (64 << 10);

/// A free address: `null,` and its place in the queue, `4095,`.
const FREE: usize = 10;
/// A taken one: the index of its entry, `4095,`, and its number, `"4095":18446744073709551615,`.
const TAKEN: usize = 33;
/// The names of the block's own fields, its CIDR, its number and two marks.
const FRAME: usize = 240;
/// `{"handle_id":,"secondary":{}},`.
const ENTRY_FRAME: usize = 30;
/// `,"alternateOwnerAttrs":{}`.
const ALTERNATE_FRAME: usize = 25;
/// `,"releasedAt":`.
const RELEASED_AT_FRAME: usize = 14;
/// `:18446744073709551615,`.
const NUMBER: usize = 22;

impl Block {
    /// In how many bytes it is stored, at most.
    pub(crate) fn stored_len(&self) -> usize {
        let taken = self.holders.len() - self.free.len();
        let texts = [&self.affinity, &self.claim_time].into_iter().flatten();
        let other_numbers = self.other_numbers.keys().map(|name| text_len(name) + NUMBER);
        FRAME
            + texts.map(|t| text_len(t)).sum::<usize>()
            + self.free.len() * FREE
            + taken * TAKEN
            + self.entries_len
            + other_numbers.sum::<usize>()
            + extra_len(&self.extra)
    }

    /// By how many bytes it grows when somebody takes `n` more addresses. Addresses with the same attributes share one entry.
    pub(crate) fn growth(&self, n: usize, to: Assignee<'_>) -> usize {
        if n == 0 { 0 } else { self.entry_growth(to) + n * (TAKEN - FREE) }
    }

    /// How many of `want` addresses somebody can take while it stays within [`MAX_BYTES`].
    pub(crate) fn fitting(&self, want: usize, to: Assignee<'_>) -> usize {
        let room = MAX_BYTES.saturating_sub(self.stored_len());
        room.checked_sub(self.entry_growth(to)).map_or(0, |room| want.min(room / (TAKEN - FREE)))
    }

    fn entry_growth(&self, to: Assignee<'_>) -> usize {
        let is_shared = self.chain(to.handle).any(|(_, entry)| to.owns(&entry.attribute));
        if is_shared { 0 } else { to.stored_len() }
    }
}

impl Assignee<'_> {
    /// In how many bytes the entry of its addresses is stored, at most.
    pub(crate) fn stored_len(&self) -> usize {
        ENTRY_FRAME + text_len(self.handle) + texts_len(self.attributes)
    }
}

/// In how many bytes an entry is stored, at most.
pub(super) fn attribute_len(attribute: &AllocationAttribute) -> usize {
    let AllocationAttribute { handle_id, secondary, alternate_owner_attrs, released_at, extra } = attribute;
    ENTRY_FRAME
        + handle_id.as_deref().map_or(0, text_len)
        + secondary.as_ref().map_or(0, texts_len)
        + alternate_owner_attrs.as_ref().map_or(0, |texts| ALTERNATE_FRAME + texts_len(texts))
        + released_at.as_deref().map_or(0, |text| RELEASED_AT_FRAME + text_len(text))
        + extra_len(extra)
}

/// `"name":"value",` each.
fn texts_len(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(name, value)| text_len(name) + text_len(value) + 2).sum()
}

/// A text in quotes and escaped ([`go_json`]).
fn text_len(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        b'<' | b'>' | b'&' | 0..=0x1f => 6,
        // The first of the three bytes of U+2028 and U+2029, and of others.
        0xe2 => 4,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 2
}

/// Fields that we do not know.
fn extra_len(extra: &serde_json::Map<String, serde_json::Value>) -> usize {
    match extra.is_empty() {
        true => 0,
        false => go_json::to_vec(extra).map_or(0, |text| text.len()),
    }
}
