//! Doubly linked lists over the ordinals of a block. Each ordinal is in one list at most, so that one pair of links each is enough.

use super::NONE;

/// No ordinal: blocks have 4,096 at most.
const END: u16 = u16::MAX;

/// The ends of one list; its links are in [`Lists`].
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u16,
    last: u16,
    len: u16,
}

impl List {
    pub const EMPTY: Self = Self { first: END, last: END, len: 0 };

    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first ordinal, or [`NONE`].
    pub fn first(&self) -> u32 {
        widen(self.first)
    }
}

/// The links: (previous, next) of each ordinal.
#[derive(Clone, Debug)]
pub(super) struct Lists(Vec<(u16, u16)>);

impl Lists {
    pub fn new(size: usize) -> Self {
        Self(vec![(END, END); size])
    }

    /// The ordinal after this one, or [`NONE`].
    pub fn after(&self, ordinal: u32) -> u32 {
        widen(self.0[ordinal as usize].1)
    }

    /// Puts an ordinal, which is in no list, at the end.
    pub fn push(&mut self, list: &mut List, ordinal: u32) {
        let narrow = u16::try_from(ordinal).expect("a block has at most 4,096 addresses");
        self.0[ordinal as usize] = (list.last, END);
        match list.last {
            END => list.first = narrow,
            last => self.0[usize::from(last)].1 = narrow,
        }
        list.last = narrow;
        list.len += 1;
    }

    /// Takes an ordinal out of the list that it is in.
    pub fn remove(&mut self, list: &mut List, ordinal: u32) {
        let (previous, next) = std::mem::replace(&mut self.0[ordinal as usize], (END, END));
        match previous {
            END => list.first = next,
            previous => self.0[usize::from(previous)].1 = next,
        }
        match next {
            END => list.last = previous,
            next => self.0[usize::from(next)].0 = previous,
        }
        list.len -= 1;
    }

    /// The ordinals of a list, in order.
    pub fn of(&self, list: &List) -> impl Iterator<Item = u32> + use<'_> {
        let mut at = list.first();
        std::iter::from_fn(move || {
            let ordinal = Some(at).filter(|o| *o != NONE)?;
            at = self.after(ordinal);
            Some(ordinal)
        })
    }
}

fn widen(ordinal: u16) -> u32 {
    if ordinal == END { NONE } else { u32::from(ordinal) }
}
