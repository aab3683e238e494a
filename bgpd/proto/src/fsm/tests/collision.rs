//! RFC 4271 section 6.8, every combination.

use super::super::*;

/// The state of the other connection, whether it is an old session with graceful restart, and what happens where the
/// identifier speaks for the new connection, and where it speaks for the other one.
#[test]
fn every_state_of_the_other_connection() {
    use Collision::{CloseNew, CloseOther, None, PeerRestarted};
    let table = [
        (State::Idle, false, CloseOther, CloseOther),
        (State::Connect, false, CloseOther, CloseOther),
        (State::Active, false, CloseOther, CloseOther),
        (State::OpenSent, false, None, None),
        (State::OpenConfirm, false, CloseOther, CloseNew),
        (State::Established, false, CloseNew, CloseNew),
        (State::Established, true, PeerRestarted, PeerRestarted),
    ];
    let (us, low, high) = ((5, 65001), (4, 65002), (6, 65002));
    for (state, may_have_restarted, if_new_wins, if_other_wins) in table {
        for (new, initiator) in [(Initiator::Us, Initiator::Peer), (Initiator::Peer, Initiator::Us)] {
            let other = Other { state, initiator, may_have_restarted };
            let (winning, losing) = if new == Initiator::Us { (low, high) } else { (high, low) };
            let row = format!("{new:?} {other:?}");
            assert_eq!(resolve_collision(new, other, us, winning), if_new_wins, "{row}");
            assert_eq!(resolve_collision(new, other, us, losing), if_other_wins, "{row}");
        }
    }
}

#[test]
fn equal_identifiers_are_decided_by_the_as() {
    let other = Other { state: State::OpenConfirm, initiator: Initiator::Peer, may_have_restarted: false };
    let decide = |ours, theirs| resolve_collision(Initiator::Us, other, ours, theirs);
    assert_eq!(decide((1, 2), (1, 1)), Collision::CloseOther, "RFC 6286 section 2.3: ours is higher");
    assert_eq!(decide((1, 1), (1, 2)), Collision::CloseNew);
    assert_eq!(decide((2, 1), (1, 9)), Collision::CloseOther, "the identifier comes first");
}

#[test]
fn of_two_that_the_peer_began_the_newer_one_stays() {
    for theirs in [(4, 65002), (6, 65002)] {
        let other = Other { state: State::OpenConfirm, initiator: Initiator::Peer, may_have_restarted: false };
        assert_eq!(resolve_collision(Initiator::Peer, other, (5, 65001), theirs), Collision::CloseOther);
    }
}

/// Both sides run the same rule on what each knows: exactly one of two connections is left, whichever OPEN comes first.
#[test]
fn both_sides_keep_the_same_connection() {
    let ids = [((5, 65001), (4, 65002)), ((5, 65001), (6, 65002)), ((5, 65001), (5, 65002))];
    for (a, b) in ids {
        for first_by_a in [true, false] {
            let seen_from = |by_us: bool| if by_us { Initiator::Us } else { Initiator::Peer };
            // The first connection is in OpenConfirm on both sides, the OPEN comes on the second.
            let decide = |ours, theirs, is_a: bool| {
                let initiator = seen_from(first_by_a == is_a);
                let other = Other { state: State::OpenConfirm, initiator, may_have_restarted: false };
                resolve_collision(seen_from(first_by_a != is_a), other, ours, theirs)
            };
            assert_eq!(decide(a, b, true), decide(b, a, false), "{a:?} {b:?}, the first by {first_by_a}");
        }
    }
}
