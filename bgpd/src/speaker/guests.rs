//! Peers that come by themselves: see [`crate::dynamic`].

use std::net::IpAddr;
use std::time::Instant;

use bgp_proto::af::{Family, Prefix};
use bgp_proto::wire::iana;
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::Speaker;
use crate::dynamic::{Arrival, Neighbours};
use crate::peer::{PeerDetail, Waiting};
use crate::sockopt;
use bgp_plan::config::{PeerConfig, PeerId, SpeakerConfig};

impl Speaker {
    /// Makes a peer of one that connects, where a range or an interface has a template for it.
    pub(super) fn admit(&mut self, from: IpAddr, scope: u32) {
        if self.peers_at(from).any(|(id, _)| id.scope == 0 || id.scope == scope) {
            return;
        }
        if let IpAddr::V6(address) = from
            && let Some((name, _)) = self.neighbours.iter().find(|(_, (index, _))| scope != 0 && *index == scope)
        {
            let name = name.clone();
            return self.meet(&name, (scope, address));
        }
        let Some(config) = &self.config else { return };
        match self.guests.admit(config, from, Instant::now()) {
            Ok((id, peer)) => self.add_guest(id, peer),
            Err(why) => tracing::debug!("a connection from {from}: {why}"),
        }
    }

    /// What is known of the interfaces of unnumbered peers changed.
    pub(super) fn set_neighbours(&mut self, neighbours: Neighbours) {
        for id in self.guests.lost(&neighbours) {
            // Nothing is kept: the way to it is gone, and with it what it would keep forwarding.
            self.path_lost(id);
            self.remove_guest(id, "its interface is down");
        }
        self.neighbours = neighbours;
        self.meet_neighbours();
        self.note_waiting();
    }

    /// Notes which interfaces of unnumbered peers have nobody behind them, and since when; and who is behind the others.
    pub(super) fn note_waiting(&mut self) {
        self.tell_neighbours();
        let Some(config) = &self.config else { return };
        let mut waiting = std::collections::BTreeMap::new();
        for (name, _) in self.guests.missing(config) {
            let is_usable = self.neighbours.contains_key(name);
            let before = self.waiting.get(name).filter(|w| w.is_usable == is_usable);
            waiting.insert(name.clone(), before.copied().unwrap_or(Waiting { is_usable, since: Timestamp::now() }));
        }
        self.waiting = waiting;
    }

    /// Tells the kernel's task who is behind which link: it judges the next hops of what they will announce.
    fn tell_neighbours(&self) {
        let mut now = fib::Neighbours::new();
        for id in self.peers.keys().filter(|id| id.scope != 0) {
            now.entry(id.address).or_default().insert(id.scope);
        }
        self.behind.send_if_modified(|last| {
            let is_new = *last != now;
            *last = now;
            is_new
        });
    }

    /// Interfaces of unnumbered peers behind which nobody was heard yet, as peers.
    pub(super) fn missing_neighbours(&self) -> impl Iterator<Item = PeerDetail> {
        let of = |name: &String| self.config.as_ref().and_then(|c| c.unnumbered.get(name));
        self.waiting.iter().filter_map(move |(name, waiting)| Some(waiting.detail(name, of(name)?)))
    }

    /// Neighbours that were heard and have no peer yet.
    pub(super) fn meet_neighbours(&mut self) {
        for (name, (index, address)) in self.neighbours.clone() {
            if let Some(address) = address {
                self.meet(&name, (index, address));
            }
        }
    }

    fn meet(&mut self, interface: &str, neighbour: (u32, std::net::Ipv6Addr)) {
        let Some(config) = &self.config else { return };
        let Some(Arrival { id, peer, leaving }) = self.guests.meet(config, interface, neighbour, Instant::now()) else {
            return;
        };
        for old in leaving {
            self.remove_guest(old, "its interface has another neighbour");
        }
        tracing::info!("interface {interface}: the neighbour is {}", id.address);
        self.add_guest(id, peer);
    }

    /// A guest's session may have come up or gone down.
    pub(super) fn note_guest(&mut self, id: PeerId, now: Instant) {
        let is_up = self.peers.get(&id).is_some_and(|p| p.session.is_some());
        if self.guests.session(id, is_up, now) {
            self.timers_changed.notify_one();
        }
        // A neighbour that was heard while the old one still had its session.
        if !is_up && self.guests.is_neighbour(id) {
            self.meet_neighbours();
        }
    }

    pub(super) fn expire_guests(&mut self, now: Instant) {
        let peers = &self.peers;
        let is_kept = |id| peers.get(&id).is_some_and(|p| p.retention.iter().any(|r| r.next_deadline().is_some()));
        for id in self.guests.overdue(now, is_kept) {
            self.remove_guest(id, "it did not come back");
        }
    }

    fn add_guest(&mut self, id: PeerId, peer: PeerConfig) {
        if let Some(config) = &mut self.config {
            config.peers.insert(id, peer.clone());
        }
        self.configure_bfd(id, &peer);
        self.add_peer(id, peer);
        self.note_waiting();
        // It goes again if it never has a session, and nothing else may wake up the timers.
        self.timers_changed.notify_one();
    }

    fn remove_guest(&mut self, id: PeerId, why: &str) {
        tracing::info!("peer {} is no peer any more: {why}", id.address);
        self.guests.remove(id);
        self.bfd.set(id, None);
        self.remove_peer(id, iana::PEER_DECONFIGURED);
        if let Some(config) = &mut self.config {
            config.peers.remove(&id);
        }
        self.note_waiting();
    }

    /// The listeners' keys for whole ranges, as the new configuration has them.
    pub(super) fn sign_ranges(&self, new: &SpeakerConfig) {
        let before = self.config.iter().flat_map(|c| c.dynamic.values());
        let gone = before.filter(|old| !new.dynamic.values().any(|range| range.prefix == old.prefix));
        for range in gone.filter(|old| old.peer.password.is_some()) {
            self.listeners.values().for_each(|(listener, _)| sign(listener, range.prefix, None));
        }
        for range in new.dynamic.values() {
            let password = range.peer.password.as_deref();
            self.listeners.values().for_each(|(listener, _)| sign(listener, range.prefix, password));
        }
    }
}

fn sign(listener: &TcpListener, range: Prefix, password: Option<&str>) {
    let same_family = listener.local_addr().is_ok_and(|l| Family::of(l.ip()) == range.family());
    if same_family && let Err(e) = sockopt::set_md5_of_range(listener, range, password) {
        tracing::warn!("range {range}: cannot set the TCP-MD5 key on the listener: {e}");
    }
}
