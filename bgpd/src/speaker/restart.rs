//! Our own restart (RFC 4724 section 4.1): what peers are told of it, and what waits until they have told us everything.
//!
//! Two things wait, of each family:
//! - Kernel routes of the previous process that nobody announced again (see [`InSync`]): until every configured peer has told,
//!   at most its restart time. Peers of a range and neighbours behind an interface are not known before they are found: a
//!   range waits for the whole time, an interface until there is a neighbour, which then counts as any peer.
//! - Announcements, where this process restarted: peers keep our old routes until our End-of-RIB, so it must not come before
//!   ours are right. They wait for the same, but not for a peer that has stayed away for [`ATTEMPTS`] attempts to connect: one
//!   dead node must not silence the others.
//!
//! The R bit of a peer proves nothing (FRR sets it for two minutes, OpenBGPD always), so its End-of-RIB is awaited all the same.
//! But a peer with R that has announced nothing for [`SETTLE_TIME`] waits for us as we do for it (RFC 4724 section 4.1 leaves
//! such peers out): it holds up no announcement. Its kernel routes are kept, for it will tell.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_proto::af::Family;

use super::{InSync, Speaker, Start};
use crate::peer::{Peer, Restart, is_configured};
use bgp_plan::config::{DEFAULT_RESTART_TIME, NextHopMode, PeerConfig, PeerId};

/// How long after it is up a peer without graceful restart counts as still sending its first table.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// A peer that did not come in the time of so many attempts is away.
const ATTEMPTS: u32 = 4;
/// How often to look whether a time is over, while something waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How this process began, and since when.
#[derive(Clone, Copy, Debug)]
pub struct OwnRestart {
    pub began: Instant,
    pub start: Start,
}

impl OwnRestart {
    /// What an OPEN to a peer says: R until the restart is over, F as long for the families whose routes were found. After a
    /// session of this process F says that we went on forwarding, or else the peer would drop what it kept of us (RFC 8538
    /// section 4). Without a FIB nothing is forwarded here, so that only routes whose next hop is somebody else's were preserved,
    /// by those.
    pub fn says(&self, config: &PeerConfig, was_up: bool) -> Restart {
        let restarting = self.start.restarted && !self.is_over(config);
        let is_reflected = config.remote_as == config.local_as && config.next_hop_mode != NextHopMode::SelfAddress;
        let preserved = match (self.start.no_fib, was_up) {
            (true, _) => [is_reflected; 2],
            (false, true) => [true; 2],
            (false, false) => self.start.preserved,
        };
        Restart { restarting, preserved: preserved.map(|p| p && (restarting || was_up)) }
    }

    fn is_over(&self, config: &PeerConfig) -> bool {
        let time = config.graceful_restart.unwrap_or(DEFAULT_RESTART_TIME);
        self.began.elapsed() > Duration::from_secs(time.into())
    }
}

/// What a peer has told of a family since we began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    All,
    NotYet,
    /// It is not there, and was not for a while; or it restarted too, and waits.
    Away,
}

impl Speaker {
    /// Something happened to a peer that others may have waited for.
    pub(super) fn hear(&mut self, id: PeerId) {
        self.look_at_sync = true;
        self.flush_wanted.notify_one();
        self.schedule(id);
    }

    /// When to look again, while something waits.
    pub(super) fn sync_deadline(&self) -> Option<Instant> {
        let in_sync = *self.in_sync.borrow();
        (!in_sync.v4 || !in_sync.v6).then_some(self.next_look)
    }

    pub(super) fn look_if_due(&mut self, now: Instant) {
        if self.next_look <= now {
            self.next_look = now + LOOK_AGAIN;
            self.look_at_sync = true;
            self.flush_wanted.notify_one();
        }
    }

    /// See the module. Only where every change has been handed out.
    pub(super) fn check_in_sync(&mut self) {
        if !std::mem::take(&mut self.look_at_sync) || self.config.is_none() {
            return;
        }
        let told = Family::ALL.map(|family| self.have_told(family));
        for family in Family::ALL {
            if self.holding[family as usize] && told[family as usize].1 {
                self.holding[family as usize] = false;
                self.rib.release(family);
                self.flush_wanted.notify_one();
            }
        }
        self.in_sync.send_if_modified(|now| {
            // Once heard, a peer that goes down again is its own matter.
            let next = InSync { v4: now.v4 || told[0].0, v6: now.v6 || told[1].0 };
            std::mem::replace(now, next) != next
        });
    }

    /// Whose End-of-RIB holds up our announcements.
    pub(super) fn awaited(&self) -> Vec<IpAddr> {
        let is_awaited = |peer: &Peer, family: Family| {
            let received = self.rib.counts(peer.index, family).0;
            self.holding[family as usize] && told(peer, family, received) == Told::NotYet
        };
        let peers = self.peers.iter().filter(|(_, p)| p.down_reason().is_none() && !self.restart.is_over(&p.config));
        let awaited = peers.filter(|(_, p)| Family::ALL.into_iter().any(|f| is_awaited(p, f)));
        awaited.map(|(id, _)| id.address).collect()
    }

    /// Whether all peers have told all of a family, and whether that is enough to announce.
    fn have_told(&self, family: Family) -> (bool, bool) {
        let (mut all, mut enough) = (true, true);
        for peer in self.peers.values().filter(|p| p.down_reason().is_none()) {
            if self.restart.is_over(&peer.config) {
                continue;
            }
            let told = told(peer, family, self.rib.counts(peer.index, family).0);
            all &= told == Told::All;
            enough &= told != Told::NotYet;
        }
        for template in self.yet_to_be_found().filter(|t| is_configured(t, family) && !self.restart.is_over(t)) {
            all = false;
            enough &= self.configured_at.is_some_and(|at| at.elapsed() > template.connect_retry * ATTEMPTS);
        }
        (all, enough)
    }

    /// What peers are made from that may have had a session with the previous process: ranges, and interfaces without a peer.
    fn yet_to_be_found(&self) -> impl Iterator<Item = &PeerConfig> {
        let ranges = self.config.iter().flat_map(|c| c.dynamic.values().map(|range| &range.peer));
        let links = self.config.iter().flat_map(|c| self.guests.missing(c).map(|(_, peer)| peer));
        ranges.chain(links).filter(|peer| peer.down_reason.is_none() && peer.shutdown.is_none())
    }
}

/// `received`: prefixes of the family that the peer has announced.
fn told(peer: &Peer, family: Family, received: u32) -> Told {
    let Some(session) = &peer.session else {
        let is_away = peer.awaited_since.elapsed() > peer.config.connect_retry * ATTEMPTS;
        return if is_away { Told::Away } else { Told::NotYet };
    };
    // Only speakers of graceful restart promise an End-of-RIB (RFC 4724 section 3), helpers included.
    let is_silent = session.common.graceful_restart.is_none() && session.since.elapsed() >= SETTLE_TIME;
    let theirs = peer.primary.open.as_ref().and_then(|o| o.capabilities.graceful_restart.as_ref());
    let waits = theirs.is_some_and(|gr| gr.restarting) && received == 0 && session.since.elapsed() >= SETTLE_TIME;
    match !session.common.family(family) || session.end_of_rib[family as usize] || is_silent {
        true => Told::All,
        false if waits => Told::Away,
        false => Told::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_plan::config::PeerType;

    /// RFC 4724 section 3: F only for what was really preserved.
    #[test]
    fn what_an_open_says_of_our_restart() {
        let ebgp = PeerConfig::new("peer", PeerType::Global, 65001, 65002);
        let ibgp = PeerConfig { remote_as: 65001, ..ebgp.clone() };
        let through_us = PeerConfig { next_hop_mode: NextHopMode::SelfAddress, ..ibgp.clone() };
        let kernel = Start { restarted: true, preserved: [true, false], ..Start::default() };
        let reflector = Start { restarted: true, no_fib: true, ..Start::default() };
        let rows = [
            ("a first start", Start::default(), &ebgp, false, [false; 2]),
            ("IPv4 routes in the kernel", kernel, &ebgp, true, [true, false]),
            ("and to an iBGP peer", kernel, &ibgp, true, [true, false]),
            ("a marker, no routes", Start { preserved: [false; 2], ..kernel }, &ebgp, true, [false; 2]),
            ("without a FIB, reflected", reflector, &ibgp, true, [true; 2]),
            ("without a FIB, through us", reflector, &through_us, true, [false; 2]),
            ("without a FIB, to another AS", reflector, &ebgp, true, [false; 2]),
        ];
        for (name, start, peer, restarting, preserved) in rows {
            let says = OwnRestart { began: Instant::now(), start }.says(peer, false);
            assert_eq!(says, Restart { restarting, preserved }, "{name}");
            let long_ago = Instant::now().checked_sub(Duration::from_secs(121)).unwrap();
            let says = OwnRestart { began: long_ago, start }.says(peer, false);
            assert_eq!(says, Restart::default(), "{name}, when it is over");
            // RFC 8538 section 4: a session that comes again, and we were there all the time.
            let forwards = !start.no_fib || preserved != [false; 2];
            let says = OwnRestart { began: long_ago, start }.says(peer, true);
            assert_eq!(says, Restart { restarting: false, preserved: [forwards; 2] }, "{name}, after a session");
        }
    }
}
