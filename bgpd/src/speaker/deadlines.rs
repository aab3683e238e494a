//! When each peer has something to do next, the soonest first: a thousand peers cost no more than their own timers.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use bgp_proto::af::Family;

use super::Speaker;
use crate::peer::Peer;
use bgp_plan::config::PeerId;

/// Invariant: `order` has exactly the pairs of `of`. A peer's entry is never later than its soonest timer; it may be earlier,
/// where a timer was put off since (each UPDATE puts off the hold timer): whoever wakes up for it sets it anew.
#[derive(Debug, Default)]
pub struct Deadlines {
    order: BTreeSet<(Instant, PeerId)>,
    of: HashMap<PeerId, Instant>,
}

impl Deadlines {
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Sets a peer's deadline; whether the soonest of all is sooner than before.
    pub fn set(&mut self, id: PeerId, deadline: Option<Instant>) -> bool {
        let before = self.next();
        if self.of.get(&id).copied() == deadline {
            return false;
        }
        if let Some(old) = self.of.remove(&id) {
            self.order.remove(&(old, id));
        }
        if let Some(at) = deadline {
            self.of.insert(id, at);
            self.order.insert((at, id));
        }
        deadline.is_some_and(|at| before.is_none_or(|b| at < b))
    }

    /// Takes out a peer whose deadline has come.
    pub fn take_due(&mut self, now: Instant) -> Option<PeerId> {
        let (at, id) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.remove(&(at, id));
        self.of.remove(&id);
        Some(id)
    }
}

impl Speaker {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.deadlines.next(), self.sync_deadline(), self.guests.next_deadline()].into_iter().flatten().min()
    }

    /// After whatever may have brought a timer of the peer forward.
    pub(super) fn schedule(&mut self, id: PeerId) {
        let deadline = self.peers.get(&id).and_then(Peer::next_deadline);
        if self.deadlines.set(id, deadline) {
            self.timers_changed.notify_one();
        }
    }

    /// The send hold timer runs while the socket of a session takes nothing.
    pub(super) fn note_blocked(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let since = peer.primary.link.as_ref().and_then(|l| l.blocked_since);
        let fsm = &mut peer.primary.fsm;
        if since.is_some() || fsm.is_blocked() {
            fsm.set_blocked(since);
            self.schedule(id);
        }
    }

    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.deadlines.take_due(now) {
            for extra in [true, false] {
                while let Some(event) =
                    self.peers.get_mut(&id).and_then(|p| p.connection(extra)).and_then(|c| c.fsm.expired(now))
                {
                    self.event(id, extra, event);
                }
            }
            for family in Family::ALL {
                let Some(peer) = self.peers.get_mut(&id) else { continue };
                let (index, sweep) = (peer.index, peer.retention[family as usize].expired(now));
                self.sweep(index, family, sweep);
            }
            self.schedule(id);
        }
        self.expire_guests(now);
        self.look_if_due(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_soonest_comes_first_and_each_once() {
        let id = |n: u8| PeerId::new([10, 0, 0, n].into(), 179);
        let t0 = Instant::now();
        let at = |s| Some(t0 + Duration::from_secs(s));
        let mut d = Deadlines::default();
        assert!(d.set(id(1), at(9)), "the first one");
        assert!(!d.set(id(2), at(12)));
        assert!(d.set(id(2), at(5)), "sooner than all");
        assert!(!d.set(id(1), at(7)), "sooner, but not the soonest");
        assert!(!d.set(id(3), None));
        assert_eq!(d.next(), at(5));
        assert_eq!(d.take_due(t0 + Duration::from_secs(4)), None);
        assert_eq!(d.take_due(t0 + Duration::from_secs(8)), Some(id(2)));
        assert_eq!(d.take_due(t0 + Duration::from_secs(8)), Some(id(1)));
        assert_eq!((d.take_due(t0 + Duration::from_secs(8)), d.next()), (None, None));
        d.set(id(1), at(1));
        d.set(id(1), None);
        assert_eq!(d.next(), None);
    }
}
