//! What BFD says of a peer (RFC 5882), and what BFD is told of it.

use bgp_proto::af::Family;
use bgp_proto::fsm::{Again, Event};
use bgp_proto::wire::{Notification, iana};

use super::Speaker;
use crate::bfd::{Notice, Settings};
use bgp_plan::config::{PeerConfig, PeerId};

impl Speaker {
    /// The peer's BFD session is as its configuration says, whether or not BGP is up.
    pub(super) fn configure_bfd(&self, id: PeerId, config: &PeerConfig) {
        self.bfd.set(id, Settings::of(id, config));
    }

    /// The path to a peer failed, or works again. Only a failure has a consequence here: BGP never waits for BFD.
    pub(super) fn neighbour(&mut self, id: PeerId, notice: Notice) {
        let Notice::Down(down) = notice else { return };
        // RFC 5882 section 3.2: what an administrator does to BFD is no failure of the path.
        if down.by_administrator {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.session.is_some() {
            // RFC 5882 section 4.3.2.2.2: nobody announced a restart, so the peer counts as gone, and its routes with it.
            peer.explain(format!("BFD: {}", down.diag));
            return self.event(id, false, Event::AutomaticStop(Notification::cease(iana::BFD_DOWN), Again::Backoff));
        }
        // RFC 5882 section 4.3.2: the peer is restarting. Where its BFD dies with its control plane (C bit clear) that is what
        // was seen. Where it does not, forwarding has failed too, and what was kept for the restart goes.
        if down.control_plane_independent {
            for family in Family::ALL {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                let (index, sweep) = (peer.index, peer.retention[family as usize].abandon());
                self.sweep(index, family, sweep);
            }
            self.schedule(id);
        }
    }
}
