//! Connection collision (RFC 4271 section 6.8).

use super::State;

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    Us,
    Peer,
}

/// The other connection with the peer whose OPEN has just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    pub state: State,
    pub initiator: Initiator,
    /// Established, with graceful restart, and long enough that the new connection is no part of the same beginning.
    pub may_have_restarted: bool,
}

/// Which connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collision {
    /// There is none: both go on, and the next OPEN decides.
    None,
    /// The one that the OPEN came on.
    CloseNew,
    /// The other one, with Cease 7 where it has a peer.
    CloseOther,
    /// The other one, without a word: its peer is gone (RFC 4724 section 5).
    PeerRestarted,
}

/// What an acceptable OPEN means for the other connection. `ours` and `theirs` are BGP Identifier and AS: the higher
/// identifier's connection stays, of equal ones that of the higher AS (RFC 6286 section 2.3).
pub fn resolve_collision(new: Initiator, other: Other, ours: (u32, u32), theirs: (u32, u32)) -> Collision {
    let winner = if ours < theirs { Initiator::Peer } else { Initiator::Us };
    match other.state {
        // An attempt or a wait, no connection with an OPEN: what is here already is better.
        State::Idle | State::Connect | State::Active => Collision::CloseOther,
        // Its peer is not known before its OPEN.
        State::OpenSent => Collision::None,
        State::OpenConfirm if winner == new => Collision::CloseOther,
        // Both begun by the same side: the older one is no use to a peer that began again.
        State::OpenConfirm if other.initiator == new => Collision::CloseOther,
        State::OpenConfirm => Collision::CloseNew,
        State::Established if other.may_have_restarted => Collision::PeerRestarted,
        // A collision with an established session closes the new connection.
        State::Established => Collision::CloseNew,
    }
}
