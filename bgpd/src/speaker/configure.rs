//! A new configuration: listeners, and the peers that come, change or go.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use bgp_proto::af::Family;
use bgp_proto::fsm::{Event, State};
use bgp_proto::wire::{Notification, iana};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::Speaker;
use crate::peer::{Peer, fsm_config};
use crate::{session, sockopt};
use bgp_plan::config::changes::Changes;
use bgp_plan::config::{PeerConfig, PeerId, SpeakerConfig};

impl Speaker {
    pub(super) fn configure(&mut self, config: SpeakerConfig) -> Result<(), String> {
        let config = self.guests.join(config);
        let renamed = self.config.as_ref().is_some_and(|old| old.router_id != config.router_id);
        let gone: Vec<PeerId> =
            self.peers.keys().filter(|id| renamed || !config.peers.contains_key(*id)).copied().collect();
        for id in gone {
            let subcode = if renamed { iana::OTHER_CONFIGURATION_CHANGE } else { iana::PEER_DECONFIGURED };
            self.remove_peer(id, subcode);
            self.bfd.set(id, None);
        }
        self.bmp.configure(&config.bmp, &self.myself);
        let listening = self.listen(&config);
        self.sign_ranges(&config);
        self.take_own_addresses(&config);
        self.config = Some(config.clone());
        self.configured_at.get_or_insert_with(Instant::now);
        for (id, peer) in config.peers {
            self.configure_peer(id, peer);
        }
        self.meet_neighbours();
        self.note_waiting();
        self.look_at_sync = true;
        self.flush_wanted.notify_one();
        listening
    }

    /// The next hops of our own routes where a session is of the other family.
    fn take_own_addresses(&mut self, config: &SpeakerConfig) {
        let own = |c: &SpeakerConfig| (c.own_v4, c.own_v6);
        if self.config.as_ref().is_none_or(|old| own(old) == own(config)) {
            return;
        }
        for peer in self.peers.values() {
            if let Some(info) = self.rib.peer_mut(peer.index) {
                info.export.other_address = config.other_address(info.export.local_address);
            }
            self.rib.regroup(peer.index);
        }
    }

    /// Closes and opens listeners, in this order: an address and all addresses exclude each other. What can be bound is,
    /// whatever else cannot.
    fn listen(&mut self, config: &SpeakerConfig) -> Result<(), String> {
        self.listeners.retain(|address, (_, task)| {
            let keep = config.listen.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        let mut result = Ok(());
        for address in &config.listen {
            if self.listeners.contains_key(address) {
                continue;
            }
            match (session::listen(*address), self.myself.upgrade()) {
                (Ok(listener), Some(myself)) => {
                    let listener = Rc::new(listener);
                    for (id, peer) in &self.peers {
                        sign(&listener, id.address, peer.config.password.as_deref());
                    }
                    let task = spawn_local(session::accept(Rc::downgrade(&listener), myself));
                    self.listeners.insert(*address, (listener, task));
                }
                (Ok(_), None) => {}
                (Err(e), _) => result = Err(e),
            }
        }
        result
    }

    fn configure_peer(&mut self, id: PeerId, config: PeerConfig) {
        self.configure_bfd(id, &config);
        match self.peers.get(&id) {
            None => self.add_peer(id, config),
            Some(old) if old.config == config => {}
            Some(old) => {
                let changes = old.config.changes(&config);
                self.change_peer(id, config, changes);
            }
        }
    }

    pub(super) fn add_peer(&mut self, id: PeerId, config: PeerConfig) {
        let Some(router_id) = self.config.as_ref().map(|c| c.router_id) else { return };
        let index = self.rib.add_peer(Peer::rib_info(id, &config, router_id));
        let seed = self.serial();
        let mut peer = Peer::new(config, index, self.start.seed ^ seed);
        peer.last_error = peer.down_reason();
        let is_down = peer.last_error.is_some();
        self.peers.insert(id, peer);
        self.sign(id.address);
        if !is_down {
            self.event(id, false, Event::AutomaticStart);
        }
    }

    fn change_peer(&mut self, id: PeerId, config: PeerConfig, changes: Changes) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let old = peer.config.clone();
        let was_down = peer.down_reason().is_some();
        if changes.reset && !was_down {
            peer.explain("its configuration changed".into());
            self.stop(id, &Notification::cease(iana::OTHER_CONFIGURATION_CHANGE));
            self.forget_routes(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.config = config;
        let reason = peer.down_reason();
        self.reconfigure_timers(id, &old);
        self.reconfigure_sockets(id, &old);
        self.reconfigure_rib(id, changes);
        match (was_down, reason) {
            (true, None) => self.restart(id),
            (false, None) if changes.reset => self.restart(id),
            (false, None) => self.reconfigure_state(id, &old),
            (_, Some(reason)) => self.hold_down(id, reason),
        }
    }

    /// Ends whatever there is of a peer, and tries nothing more until a start.
    pub(super) fn stop(&mut self, id: PeerId, why: &Notification) {
        for extra in [true, false] {
            self.event(id, extra, Event::ManualStop(why.clone()));
        }
    }

    fn restart(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.last_error = None;
            peer.awaited_since = Instant::now();
        }
        self.event(id, false, Event::ManualStart);
    }

    /// Administratively down (RFC 9003, with the text for the peer), or down for what it lacks.
    fn hold_down(&mut self, id: PeerId, reason: String) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let why = match &peer.config.shutdown {
            Some(text) => Notification::cease_with_text(iana::ADMINISTRATIVE_SHUTDOWN, text),
            None => Notification::cease(iana::OTHER_CONFIGURATION_CHANGE),
        };
        peer.explain(reason);
        self.stop(id, &why);
    }

    /// What another session would be about does not survive this one.
    fn forget_routes(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.retention = Default::default();
        let index = peer.index;
        Family::ALL.into_iter().for_each(|f| self.rib.remove_paths(index, f, false));
    }

    fn reconfigure_timers(&mut self, id: PeerId, old: &PeerConfig) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (timers, keepalive) = (fsm_config(&peer.config), peer.config.keepalive);
        for connection in [Some(&mut peer.primary), peer.extra.as_mut()].into_iter().flatten() {
            connection.fsm.configure(timers);
        }
        if old.keepalive != keepalive {
            peer.primary.fsm.set_keepalive(keepalive, now);
        }
        self.note_blocked(id);
        self.schedule(id);
    }

    /// Passwords and the minimum TTL count on connections that are there, too.
    fn reconfigure_sockets(&mut self, id: PeerId, old: &PeerConfig) {
        let Some(peer) = self.peers.get(&id) else { return };
        let new = &peer.config;
        let connections = [Some(&peer.primary), peer.extra.as_ref()];
        for link in connections.into_iter().flatten().filter_map(|c| c.link.as_ref()) {
            if old.password != new.password
                && let Err(e) = sockopt::set_md5(&*link.stream, id.address, new.password.as_deref())
            {
                tracing::warn!("peer {}: cannot change the TCP-MD5 key: {e}", id.address);
            }
            let ttl = new.ttl_security.map_or(0, sockopt::min_ttl);
            if old.ttl_security != new.ttl_security
                && let Err(e) = sockopt::set_min_ttl(&*link.stream, id.address, ttl)
            {
                tracing::warn!("peer {}: cannot change the minimum TTL: {e}", id.address);
            }
        }
        if old.password != new.password {
            self.sign(id.address);
        }
    }

    fn reconfigure_rib(&mut self, id: PeerId, changes: Changes) {
        let Some(router_id) = self.config.as_ref().map(|c| c.router_id) else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let (index, new) = (peer.index, Peer::rib_info(id, &peer.config, router_id));
        let Some(info) = self.rib.peer_mut(index) else { return };
        if changes.reset {
            *info = new;
        } else {
            // What the session negotiated stays.
            info.rr_client = new.rr_client;
            info.cluster_id = new.cluster_id;
            info.allow_own_as = new.allow_own_as;
            info.rejects_as_sets = new.rejects_as_sets;
            info.requires_policy = new.requires_policy;
            info.graceful_shutdown = new.graceful_shutdown;
            info.import = new.import;
            info.export.policy = new.export.policy;
            info.export.next_hop_self = new.export.next_hop_self;
        }
        if changes.refresh_in {
            self.rib.reimport(index);
        }
        if changes.refresh_out || changes.refresh_all {
            self.rib.regroup(index);
        }
        if changes.refresh_all {
            self.rib.redistribute(index);
        }
    }

    /// A peer that goes on as it is: limits, and who connects to whom.
    fn reconfigure_state(&mut self, id: PeerId, old: &PeerConfig) {
        let Some(peer) = self.peers.get(&id) else { return };
        let state = peer.primary.fsm.state();
        let begins_anew = (old.passive != peer.config.passive && state < State::OpenSent)
            || (old.max_prefixes != peer.config.max_prefixes && peer.primary.fsm.is_held_off());
        if begins_anew {
            self.stop(id, &Notification::cease(iana::OTHER_CONFIGURATION_CHANGE));
            self.restart(id);
        } else if state == State::Established {
            Family::ALL.into_iter().for_each(|f| self.check_limit(id, f));
        }
    }

    pub(super) fn remove_peer(&mut self, id: PeerId, subcode: u8) {
        self.stop(id, &Notification::cease(subcode));
        self.deadlines.set(id, None);
        if let Some(peer) = self.peers.remove(&id) {
            self.rib.remove_peer(peer.index);
            if peer.config.password.is_some() {
                self.sign(id.address);
            }
        }
        self.flush_wanted.notify_one();
    }

    /// The listeners' key for an address: peers that share it have one.
    fn sign(&mut self, address: IpAddr) {
        let password = self.peers_at(address).find_map(|(_, p)| p.config.password.as_deref());
        self.listeners.values().for_each(|(listener, _)| sign(listener, address, password));
    }
}

/// A listener demands signatures (TCP-MD5) from the moment it knows the key.
fn sign(listener: &TcpListener, address: IpAddr, password: Option<&str>) {
    let same_family = listener.local_addr().is_ok_and(|l| l.is_ipv4() == address.is_ipv4());
    if same_family && let Err(e) = sockopt::set_md5(listener, address, password) {
        tracing::warn!("peer {address}: cannot set the TCP-MD5 key on the listener: {e}");
    }
}
