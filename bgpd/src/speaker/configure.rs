//! A new configuration: listeners, and the peers that come, change or go.

use std::net::IpAddr;
use std::rc::Rc;

use bgp_proto::fsm::Event;
use bgp_proto::wire::{Notification, iana};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::Speaker;
use crate::peer::Peer;
use crate::{session, sockopt};
use bgp_plan::config::{PeerConfig, PeerId, SpeakerConfig};

impl Speaker {
    pub(super) fn configure(&mut self, config: SpeakerConfig) -> Result<(), String> {
        let identity = |c: &SpeakerConfig| (c.router_id, c.local_as);
        let renamed = self.config.as_ref().is_some_and(|old| identity(old) != identity(&config));
        let gone: Vec<PeerId> =
            self.peers.keys().filter(|id| renamed || !config.peers.contains_key(*id)).copied().collect();
        for id in gone {
            let subcode = if renamed { iana::OTHER_CONFIGURATION_CHANGE } else { iana::PEER_DECONFIGURED };
            self.remove_peer(id, subcode);
            self.bfd.set(id, None);
        }
        let listening = self.listen(&config);
        self.config = Some(config.clone());
        for (id, peer) in config.peers {
            self.configure_peer(id, peer);
        }
        self.timers_changed.notify_one();
        self.flush_wanted.notify_one();
        listening
    }

    /// Opens and closes listeners. What can be bound is, whatever else cannot.
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
                    let task = spawn_local(session::accept(listener.clone(), myself));
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
            Some(old) if old.config == config => return,
            // BFD negotiates its own timers.
            Some(old) if PeerConfig { bfd: config.bfd, ..old.config.clone() } == config => {
                return self.peers.get_mut(&id).into_iter().for_each(|p| p.config.bfd = config.bfd);
            }
            Some(old) if !old.config.needs_reset(&config) => return self.update_policy(id, config),
            Some(_) => self.remove_peer(id, iana::OTHER_CONFIGURATION_CHANGE),
            None => {}
        }
        let Some(own) = &self.config else { return };
        let index = self.rib.add_peer(Peer::rib_info(id, &config, own.router_id));
        let held_down = config.down_reason.is_some();
        self.sign(id.address, config.password.as_deref());
        let seed = self.serial();
        self.peers.insert(id, Peer::new(config, index, self.start.seed ^ seed));
        if !held_down {
            self.event(id, false, Event::AutomaticStart);
        }
    }

    fn sign(&mut self, address: IpAddr, password: Option<&str>) {
        self.listeners.values().for_each(|(listener, _)| sign(listener, address, password));
    }

    fn update_policy(&mut self, id: PeerId, config: PeerConfig) {
        let Some(own) = &self.config else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let new = Peer::rib_info(id, &config, own.router_id);
        let imports = (&peer.config.import, peer.config.allow_own_as) != (&config.import, config.allow_own_as);
        let index = peer.index;
        peer.config = config;
        if let Some(info) = self.rib.peer_mut(index) {
            info.import = new.import;
            info.allow_own_as = new.allow_own_as;
            info.export.policy = new.export.policy;
            info.export.next_hop_self = new.export.next_hop_self;
        }
        if imports {
            self.rib.reimport(index);
        }
        self.rib.regroup(index);
    }

    fn remove_peer(&mut self, id: PeerId, subcode: u8) {
        self.event(id, true, Event::ManualStop(Notification::cease(subcode)));
        self.event(id, false, Event::ManualStop(Notification::cease(subcode)));
        if let Some(peer) = self.peers.remove(&id) {
            self.rib.remove_peer(peer.index);
            if peer.config.password.is_some() {
                self.sign(id.address, None);
            }
        }
        self.flush_wanted.notify_one();
    }
}

/// A listener demands signatures (TCP-MD5) from the moment it knows the key.
fn sign(listener: &TcpListener, address: IpAddr, password: Option<&str>) {
    let same_family = listener.local_addr().is_ok_and(|l| l.is_ipv4() == address.is_ipv4());
    if same_family && let Err(e) = sockopt::set_md5(listener, address, password) {
        tracing::warn!("peer {address}: cannot set the TCP-MD5 key on the listener: {e}");
    }
}
