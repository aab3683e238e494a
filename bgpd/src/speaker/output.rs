//! Output: what goes to the kernel's task and to peers.

use std::time::Instant;

use bgp_proto::af::Family;
use bgp_proto::rib::Rib;

use super::{RouteBatch, Speaker};
use crate::peer::{Connection, Peer};
use bgp_plan::config::PeerId;

/// Written to a peer at once.
const WRITE_SIZE: usize = 64 * 1024;

impl Speaker {
    /// Everything that changed goes to the kernel's task and to every peer whose socket has room.
    pub(super) fn flush(&mut self, now: Instant) {
        let mut batch = RouteBatch::new();
        self.roll_flaps(now);
        let is_watched = self.events.is_heard();
        let wanted = is_watched || !self.subscribers.is_empty();
        self.rib.distribute_and_tell(wanted.then_some(|prefix, hops| batch.push((prefix, hops))));
        if is_watched {
            self.tell_of_best_paths(batch.iter().map(|(prefix, _)| *prefix));
        }
        if !batch.is_empty() {
            self.subscribers.retain(|s| s.send(batch.clone()).is_ok());
        }
        let mut blocked = Vec::new();
        for (id, peer) in &mut self.peers {
            refresh_where_wanted(peer, &mut self.rib);
            if peer.session.is_some() && self.rib.has_output(peer.index) {
                write_updates(peer, &mut self.rib, &mut self.scratch, now);
                if has_news_of_room(peer) {
                    blocked.push(*id);
                }
            }
        }
        blocked.into_iter().for_each(|id| self.note_blocked(id));
        self.rib.make_room();
        self.check_in_sync();
    }

    /// Writes what there is for a connection until its socket is full; the writer comes back for the rest.
    pub(super) fn pump(&mut self, id: PeerId, extra: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.session.is_some() && !extra {
            write_updates(peer, &mut self.rib, &mut self.scratch, Instant::now());
        } else if let Some(link) = peer.connection(extra).and_then(|c| c.link.as_mut()) {
            // An error is the reader's to report.
            let _ = link.flush();
        }
    }
}

/// Requests that came together are one.
fn refresh_where_wanted(peer: &mut Peer, rib: &mut Rib) {
    let Some(session) = &mut peer.session else { return };
    for family in Family::ALL {
        if std::mem::take(&mut session.refresh_wanted[family as usize]) {
            rib.refresh(peer.index, family, session.common.enhanced_route_refresh);
        }
    }
}

/// Writes the UPDATEs there are for an established peer until its socket is full. `scratch` is room for them.
fn write_updates(peer: &mut Peer, rib: &mut Rib, scratch: &mut Vec<u8>, now: Instant) {
    let Connection { fsm, link: Some(link), .. } = &mut peer.primary else { return };
    // An error is the reader's to report.
    let mut has_room = matches!(link.flush(), Ok(true));
    while has_room {
        scratch.clear();
        rib.write_updates(peer.index, scratch, WRITE_SIZE);
        if scratch.is_empty() {
            return;
        }
        peer.counters.sent.count_all(scratch);
        fsm.has_sent(now);
        has_room = matches!(link.send(scratch), Ok(true)) && rib.has_output(peer.index);
    }
}

/// Whether the send hold timer has to begin or to end.
fn has_news_of_room(peer: &Peer) -> bool {
    let is_blocked = peer.primary.link.as_ref().is_some_and(|l| l.blocked_since.is_some());
    is_blocked || peer.primary.fsm.is_blocked()
}
