//! What operators do to sessions: `bgpctl clear`.

use bgp_proto::af::Family;
use bgp_proto::fsm::Event;
use bgp_proto::wire::{MessageType, Notification, RefreshKind, RouteRefresh, iana};

use super::Speaker;
use super::queries::PeersAt;
use bgp_plan::config::PeerId;

/// How much of a session begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// The session: Cease 6/4, and at once the next attempt. Also ends a wait after too many prefixes.
    Hard,
    /// What the peer announced is looked at again, and asked for where the peer can be asked (RFC 2918).
    SoftIn,
    /// What the peer was told is told again.
    SoftOut,
    /// Both.
    Soft,
}

impl Speaker {
    /// Clears the peers at an address, or all; how many there are. `message` is for the operators of peers (RFC 9003).
    pub(super) fn clear(&mut self, at: Option<PeersAt>, clear: Clear, message: Option<&str>) -> usize {
        let is_meant = |id: &&PeerId| at.is_none_or(|at| at.has(id));
        let ids: Vec<PeerId> = self.peers.keys().filter(is_meant).copied().collect();
        for &id in &ids {
            match clear {
                Clear::Hard => self.clear_hard(id, message),
                Clear::SoftIn => self.clear_in(id),
                Clear::SoftOut => self.clear_out(id),
                Clear::Soft => {
                    self.clear_in(id);
                    self.clear_out(id);
                }
            }
        }
        self.flush_wanted.notify_one();
        ids.len()
    }

    fn clear_hard(&mut self, id: PeerId, message: Option<&str>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let is_down = peer.down_reason().is_some();
        if !is_down {
            peer.explain("cleared by an operator".into());
            self.stop(
                id,
                &match message {
                    Some(text) => Notification::cease_with_text(iana::ADMINISTRATIVE_RESET, text),
                    None => Notification::cease(iana::ADMINISTRATIVE_RESET),
                },
            );
            self.event(id, false, Event::ManualStart);
        }
    }

    fn clear_in(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        self.rib.reimport(peer.index);
        let Some(session) = peer.session.as_ref().filter(|s| s.common.route_refresh) else { return };
        let families: Vec<Family> = Family::ALL.into_iter().filter(|&f| session.common.family(f)).collect();
        for family in families {
            let request = RouteRefresh { family, kind: RefreshKind::Request };
            self.write(id, false, MessageType::RouteRefresh, |out| request.write(out));
        }
    }

    fn clear_out(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            let index = peer.index;
            let is_marked = peer.session.as_ref().is_some_and(|s| s.common.enhanced_route_refresh);
            Family::ALL.into_iter().for_each(|f| self.rib.refresh(index, f, is_marked));
        }
    }
}
