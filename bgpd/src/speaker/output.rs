//! Time and output: deadlines, being in sync, what goes to the kernel's task and to peers.

use std::time::{Duration, Instant};

use bgp_proto::af::Family;

use super::{InSync, RouteBatch, Speaker};
use bgp_plan::config::PeerId;

/// Written to a peer at once.
const WRITE_SIZE: usize = 64 * 1024;
/// How long after it is up a peer without graceful restart counts as still sending its first table.
const SETTLE_TIME: Duration = Duration::from_secs(5);

impl Speaker {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let in_sync = *self.in_sync.borrow();
        let settling = (!in_sync.v4 || !in_sync.v6).then(|| Instant::now() + Duration::from_secs(1));
        let peers = self.peers.values().flat_map(|p| {
            [p.primary.fsm.next_deadline(), p.extra.as_ref().and_then(|c| c.fsm.next_deadline()), p.stale_until]
        });
        peers.chain([settling]).flatten().min()
    }

    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            for extra in [true, false] {
                while let Some(event) =
                    self.peers.get_mut(&id).and_then(|p| p.connection(extra)).and_then(|c| c.fsm.expired(now))
                {
                    self.event(id, extra, event);
                }
            }
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.stale_until.is_some_and(|t| t <= now) {
                peer.stale_until = None;
                let index = peer.index;
                Family::ALL.into_iter().for_each(|f| self.rib.remove_paths(index, f, true));
                self.flush_wanted.notify_one();
            }
        }
        if *self.in_sync.borrow() != (InSync { v4: true, v6: true }) {
            self.flush_wanted.notify_one();
        }
    }

    /// See [`InSync`]. Only where every change has been handed out.
    fn check_in_sync(&self) {
        let Some(config) = &self.config else { return };
        let heard = |family: Family| {
            self.peers.values().filter(|p| p.config.down_reason.is_none()).all(|p| {
                let wait = p.config.graceful_restart.unwrap_or(bgp_plan::config::DEFAULT_RESTART_TIME);
                p.has_told(family, SETTLE_TIME) || self.is_restart_over(wait)
            })
        };
        let v4 = heard(Family::Ipv4) || config.peers.is_empty();
        let v6 = heard(Family::Ipv6) || config.peers.is_empty();
        self.in_sync.send_if_modified(|now| {
            // Once heard, a peer that goes down again is its own matter.
            let next = InSync { v4: now.v4 || v4, v6: now.v6 || v6 };
            std::mem::replace(now, next) != next
        });
    }

    /// Everything that changed goes to the kernel's task and to every peer whose socket has room.
    pub(super) fn flush(&mut self) {
        let mut batch = RouteBatch::new();
        let is_watched = self.events.is_heard();
        let wanted = is_watched || !self.subscribers.is_empty();
        self.rib.distribute(|prefix, hops| {
            if wanted {
                batch.push((prefix, hops));
            }
        });
        if is_watched {
            self.tell_of_best_paths(batch.iter().map(|(prefix, _)| *prefix));
        }
        if !batch.is_empty() {
            self.subscribers.retain(|s| s.send(batch.clone()).is_ok());
        }
        let ready: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.session.is_some() && self.rib.has_output(p.index))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.pump(id, false);
        }
        self.rib.reap();
        self.check_in_sync();
    }

    /// Writes what there is for a peer until its socket is full; the writer comes back for the rest.
    pub(super) fn pump(&mut self, id: PeerId, extra: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let index = peer.index;
        let established = peer.session.is_some() && !extra;
        let Some(link) = peer.connection(extra).and_then(|c| c.link.as_mut()) else {
            return;
        };
        // An error is the reader's to report.
        let mut has_room = matches!(link.flush(), Ok(true));
        while has_room && established && self.rib.has_output(index) {
            self.scratch.clear();
            self.rib.write_updates(index, &mut self.scratch, WRITE_SIZE);
            if self.scratch.is_empty() {
                return;
            }
            has_room = matches!(link.send(&self.scratch), Ok(true));
        }
    }
}
