//! Is what 64 clients saw of one address explained by some order of their calls, each at one moment between its beginning and its end?
//! (Herlihy and Wing 1990; the search is Wing and Gong's with Lowe's cache of states.)
//!
//! An address is a register that holds a handle or nothing. A call without an answer may have had its effect at any moment since it
//! began, or never.

use std::collections::HashSet;

/// A handle by number.
pub type Handle = u32;
/// Nanoseconds.
pub type Moment = u64;

/// What a call did to the address, or saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// From free to the handle.
    Assign(Handle),
    /// From the handle to free.
    Release(Handle),
    /// It has this handle, or none.
    Read(Option<Handle>),
    /// It has not this handle.
    IsNot(Handle),
}

impl Action {
    /// The register after the action; `None` where the action is impossible.
    fn apply(self, holder: Option<Handle>) -> Option<Option<Handle>> {
        match self {
            Self::Assign(handle) => holder.is_none().then_some(Some(handle)),
            Self::Release(handle) => (holder == Some(handle)).then_some(None),
            Self::Read(seen) => (holder == seen).then_some(holder),
            Self::IsNot(handle) => (holder != Some(handle)).then_some(holder),
        }
    }
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub action: Action,
    pub began: Moment,
    /// `None`: no answer.
    pub ended: Option<Moment>,
}

/// Whether the calls of one address, which was free at first, are linearisable.
///
/// # Errors
/// The calls at which every order fails, for people.
pub fn check(events: &[Event]) -> Result<(), String> {
    let mut events = events.to_vec();
    // Those that had to end first are tried first.
    events.sort_by_key(|e| (e.ended.unwrap_or(Moment::MAX), e.began));
    let mut search = Search { events: &events, seen: HashSet::new(), furthest: vec![] };
    if search.run() { Ok(()) } else { Err(search.explain()) }
}

struct Search<'a> {
    events: &'a [Event],
    /// Which calls had happened, and what the register was.
    seen: HashSet<(Vec<u64>, Option<Handle>)>,
    /// The longest order that was possible.
    furthest: Vec<usize>,
}

impl Search<'_> {
    fn run(&mut self) -> bool {
        let mut order: Vec<(usize, Option<Handle>)> = vec![];
        let mut happened = vec![0u64; self.events.len().div_ceil(64)];
        let mut holder = None;
        let mut from = 0;
        loop {
            if self.first_due(&happened).is_none() {
                return true;
            }
            match self.next(&mut happened, holder, from) {
                Some((index, after)) => {
                    order.push((index, holder));
                    holder = after;
                    from = 0;
                    if order.len() > self.furthest.len() {
                        self.furthest = order.iter().map(|(i, _)| *i).collect();
                    }
                }
                None => {
                    let Some((index, before)) = order.pop() else { return false };
                    flip(&mut happened, index);
                    holder = before;
                    from = index + 1;
                }
            }
        }
    }

    /// The end of the call that has to happen first: no call that began later may come before it.
    fn first_due(&self, happened: &[u64]) -> Option<Moment> {
        let waiting = self.events.iter().enumerate().filter(|(i, _)| !is_set(happened, *i));
        waiting.filter_map(|(_, e)| e.ended).min()
    }

    /// The next call from `from` on that may happen now, and leads where the search has not been.
    fn next(&mut self, happened: &mut [u64], holder: Option<Handle>, from: usize) -> Option<(usize, Option<Handle>)> {
        let due = self.first_due(happened)?;
        for index in from..self.events.len() {
            let event = self.events[index];
            if is_set(happened, index) || event.began > due {
                continue;
            }
            let Some(after) = event.action.apply(holder) else { continue };
            flip(happened, index);
            if self.seen.insert((happened.to_vec(), after)) {
                return Some((index, after));
            }
            flip(happened, index);
        }
        None
    }

    fn explain(&self) -> String {
        let mut happened = vec![0u64; self.events.len().div_ceil(64)];
        let mut holder = None;
        for &index in &self.furthest {
            flip(&mut happened, index);
            holder = self.events[index].action.apply(holder).unwrap_or(holder);
        }
        let due = self.first_due(&happened).unwrap_or_default();
        let waiting = self.events.iter().enumerate().filter(|(i, e)| !is_set(&happened, *i) && e.began <= due);
        let waiting: Vec<String> = waiting.take(12).map(|(_, e)| format!("  {e:?}")).collect();
        let before: Vec<String> =
            self.furthest.iter().rev().take(6).rev().map(|&i| format!("  {:?}", self.events[i])).collect();
        format!(
            "after\n{}\nit holds {holder:?}, and none of these can come next:\n{}",
            before.join("\n"),
            waiting.join("\n")
        )
    }
}

fn is_set(bits: &[u64], index: usize) -> bool {
    bits[index / 64] & (1 << (index % 64)) != 0
}

fn flip(bits: &mut [u64], index: usize) {
    bits[index / 64] ^= 1 << (index % 64);
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::*;

    fn call(action: Action, began: Moment, ended: Moment) -> Event {
        Event { action, began, ended: Some(ended) }
    }

    fn unanswered(action: Action, began: Moment) -> Event {
        Event { action, began, ended: None }
    }

    #[test]
    fn histories_that_some_order_explains_are_accepted() {
        let rows: &[(&str, Vec<Event>)] = &[
            ("nothing happened", vec![]),
            ("one after another", vec![call(Assign(1), 0, 1), call(Release(1), 2, 3), call(Assign(2), 4, 5)]),
            ("the second took it before the first was told of its release", {
                vec![call(Assign(1), 0, 1), call(Release(1), 2, 9), call(Assign(2), 3, 4), call(Read(Some(2)), 5, 6)]
            }),
            ("a read may see either side of a call that runs", {
                vec![call(Assign(1), 0, 9), call(Read(None), 1, 2), call(Read(Some(1)), 3, 4)]
            }),
            ("an unanswered assignment happened", {
                vec![
                    unanswered(Assign(1), 0),
                    call(Read(None), 1, 2),
                    call(Read(Some(1)), 5, 6),
                    call(Release(1), 7, 8),
                ]
            }),
            ("an unanswered assignment never happened", vec![unanswered(Assign(1), 0), call(Assign(2), 5, 6)]),
            ("an unanswered release came late", {
                vec![call(Assign(1), 0, 1), unanswered(Release(1), 2), call(Read(Some(1)), 4, 5), call(Assign(2), 6, 7)]
            }),
            ("two that overlap, in the order of their answers turned round", {
                vec![call(Assign(1), 0, 10), call(Release(1), 0, 3), call(Assign(2), 4, 5), call(Read(Some(2)), 6, 7)]
            }),
            ("not a handle's before and after", {
                vec![call(IsNot(1), 0, 1), call(Assign(1), 2, 3), call(Release(1), 4, 5), call(IsNot(1), 6, 7)]
            }),
        ];
        for (name, events) in rows {
            check(events).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }

    #[test]
    fn histories_that_no_order_explains_are_refused() {
        let rows: &[(&str, Vec<Event>)] = &[
            ("owned twice", vec![call(Assign(1), 0, 1), call(Assign(2), 2, 3)]),
            ("owned twice, at once", vec![call(Assign(1), 0, 5), call(Assign(2), 1, 6)]),
            ("lost", vec![call(Assign(1), 0, 1), call(Read(None), 2, 3)]),
            ("taken by another before its release began", {
                vec![call(Assign(1), 0, 1), call(Assign(2), 2, 3), call(Release(1), 4, 5)]
            }),
            ("a release that did nothing", {
                vec![call(Assign(1), 0, 1), call(Release(1), 2, 3), call(Read(Some(1)), 4, 5)]
            }),
            ("released by two", vec![call(Assign(1), 0, 1), call(Release(1), 2, 9), call(Release(1), 3, 8)]),
            ("an unanswered release cannot come before it began", {
                vec![call(Assign(1), 0, 1), call(Assign(2), 2, 3), unanswered(Release(1), 4)]
            }),
            ("an unanswered assignment happens once", {
                vec![unanswered(Assign(1), 0), call(Release(1), 1, 2), call(Release(1), 3, 4)]
            }),
            ("a reader goes back in time", {
                vec![call(Assign(1), 0, 9), call(Read(Some(1)), 1, 2), call(Read(None), 3, 4)]
            }),
            ("still there after it was said not to be", {
                vec![call(Assign(1), 0, 1), call(IsNot(1), 2, 3), call(Release(1), 4, 5)]
            }),
        ];
        for (name, events) in rows {
            assert!(check(events).is_err(), "{name} was accepted");
        }
    }

    /// A long history with many calls at once: made from an order, so it is accepted; with one answer changed, it is refused.
    #[test]
    fn long_histories_are_decided() {
        let mut events = vec![];
        let mut at = 0;
        for handle in 0..500u32 {
            at += 10;
            events.push(call(Assign(handle), at - 8, at + 9));
            events.push(call(Read(Some(handle)), at - 7, at + 12));
            events.push(unanswered(Assign(10_000 + handle), at - 5));
            at += 10;
            events.push(call(Release(handle), at - 9, at + 8));
            events.push(call(IsNot(handle), at - 3, at + 30));
        }
        check(&events).unwrap();
        events.push(call(Read(Some(77)), at - 100, at));
        assert!(check(&events).is_err());
    }
}
