//! The octets that the peers of an update group have in common.
//!
//! A [`Stream`] is a queue of chunks, each encoded once. A peer has a [`Cursor`] in it; a chunk goes when the last peer is past
//! it. Parts of a chunk are not for every peer (a route does not go back to where it came from): [`Audience`].

use std::collections::VecDeque;

use super::PeerIndex;
use super::group::NOBODY;

/// Which peers of a group have a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hearers {
    /// Who it is from, and is not told; [`NOBODY`]: there is no route, and nobody is told.
    pub source: PeerIndex,
    /// Who is not told besides, for the next hop is its own address (RFC 4271 section 5.1.3); mostly [`NOBODY`].
    pub next_hop: PeerIndex,
}

impl Hearers {
    pub const NONE: Hearers = Hearers { source: NOBODY, next_hop: NOBODY };

    pub fn include(self, peer: PeerIndex) -> bool {
        self.source != NOBODY && self.source != peer && self.next_hop != peer
    }
}

/// Who hears a part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    All(Hearers),
    Only(PeerIndex),
}

impl Audience {
    pub fn includes(self, peer: PeerIndex) -> bool {
        match self {
            Audience::All(hearers) => hearers.include(peer),
            Audience::Only(one) => one == peer,
        }
    }
}

/// Whole messages for one audience, up to `end` from where the part before ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    audience: Audience,
    end: u32,
}

/// An item whose state changed, and who had a route before.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub item: u32,
    pub before: Hearers,
}

/// Messages encoded together.
#[derive(Debug, Default)]
pub struct Chunk {
    pub octets: Vec<u8>,
    spans: Vec<Span>,
    /// What a peer that falls out of the stream has to look at again.
    pub ops: Vec<Op>,
    readers: u32,
}

/// Octets of an UPDATE with one prefix, mostly.
const SHORT_UPDATE: usize = 128;

impl Chunk {
    /// An empty one; where it is to be about one item, it grows no more.
    pub fn with_room_for(items: usize) -> Chunk {
        let few = items == 1;
        Chunk {
            octets: Vec::with_capacity(if few { SHORT_UPDATE } else { 0 }),
            spans: Vec::with_capacity(usize::from(few)),
            ops: Vec::with_capacity(items),
            readers: 0,
        }
    }

    /// What was appended since the last call is for `audience`.
    pub fn close_span(&mut self, audience: Audience) {
        let end = self.octets.len() as u32;
        match self.spans.last_mut() {
            Some(last) if last.audience == audience => last.end = end,
            Some(last) if last.end == end => {}
            None if end == 0 => {}
            _ => self.spans.push(Span { audience, end }),
        }
    }

    fn copy_for(&self, peer: PeerIndex, out: &mut Vec<u8>) {
        let mut from = 0;
        let mut start = 0;
        // Neighbouring parts go out as one.
        for span in &self.spans {
            if !span.audience.includes(peer) {
                out.extend_from_slice(&self.octets[from..start]);
                from = span.end as usize;
            }
            start = span.end as usize;
        }
        out.extend_from_slice(&self.octets[from..start]);
    }
}

/// A peer's place in the stream: the number of the chunk it takes next. A peer takes whole chunks, so that what it was told is
/// known exactly when it falls out of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Stream {
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk that is kept.
    first: u64,
    /// Octets kept.
    len: usize,
}

impl Stream {
    /// Where the next chunk will begin.
    pub fn end(&self) -> Cursor {
        Cursor(self.first + self.chunks.len() as u64)
    }

    /// Octets that somebody has yet to take.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Appends a chunk for `readers` peers, all of which are before it.
    pub fn push(&mut self, mut chunk: Chunk, readers: u32) {
        if readers > 0 && !chunk.ops.is_empty() {
            chunk.readers = readers;
            self.len += chunk.octets.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Appends what `peer` has yet to hear to `out`, chunk by chunk until it has `limit` octets.
    pub fn read(&mut self, peer: PeerIndex, cursor: &mut Cursor, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit
            && let Some(chunk) = self.chunks.get_mut((cursor.0 - self.first) as usize)
        {
            chunk.copy_for(peer, out);
            chunk.readers -= 1;
            cursor.0 += 1;
            self.trim();
        }
    }

    /// Takes a peer out of the stream: the operations of the chunks that it has not taken, oldest first.
    pub fn leave(&mut self, cursor: Cursor, mut each: impl FnMut(Op)) {
        for chunk in self.chunks.range_mut((cursor.0 - self.first) as usize..) {
            chunk.ops.iter().for_each(|&op| each(op));
            chunk.readers -= 1;
        }
        self.trim();
    }

    /// Whether a peer is among those that keep the most.
    pub fn is_last(&self, cursor: Cursor) -> bool {
        cursor.0 == self.first && !self.is_empty()
    }

    fn trim(&mut self) {
        while let Some(chunk) = self.chunks.pop_front_if(|c| c.readers == 0) {
            self.len -= chunk.octets.len();
            self.first += 1;
        }
    }
}
