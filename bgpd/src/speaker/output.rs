//! Output: what goes to the kernel's task and to peers.

use std::time::Instant;

use super::{RouteBatch, Speaker};
use crate::peer::Connection;
use bgp_plan::config::PeerId;

/// Written to a peer at once.
const WRITE_SIZE: usize = 64 * 1024;

impl Speaker {
    /// Everything that changed goes to the kernel's task and to every peer whose socket has room.
    pub(super) fn flush(&mut self) {
        let mut batch = RouteBatch::new();
        self.roll_flaps();
        let is_watched = self.events.is_heard();
        let wanted = is_watched || !self.subscribers.is_empty();
        self.rib.distribute_and_tell(wanted.then_some(|prefix, hops| batch.push((prefix, hops))));
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
            self.note_blocked(id);
        }
        self.rib.make_room();
        self.check_in_sync();
    }

    /// Writes what there is for a peer until its socket is full; the writer comes back for the rest.
    pub(super) fn pump(&mut self, id: PeerId, extra: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let index = peer.index;
        let established = peer.session.is_some() && !extra;
        let sent = &mut peer.counters.sent;
        let connection = if extra { peer.extra.as_mut() } else { Some(&mut peer.primary) };
        let Some(Connection { fsm, link: Some(link), .. }) = connection else { return };
        // An error is the reader's to report.
        let mut has_room = matches!(link.flush(), Ok(true));
        while has_room && established && self.rib.has_output(index) {
            self.scratch.clear();
            self.rib.write_updates(index, &mut self.scratch, WRITE_SIZE);
            if self.scratch.is_empty() {
                return;
            }
            sent.count_all(&self.scratch);
            fsm.has_sent(Instant::now());
            has_room = matches!(link.send(&self.scratch), Ok(true));
        }
    }
}
