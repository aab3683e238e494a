//! An established session: up, UPDATEs, down.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_proto::af::Family;
use bgp_proto::fsm::Event;
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::update::Update;

use super::Speaker;
use crate::peer::Session;
use bgp_plan::config::{PeerId, Role};

impl Speaker {
    pub(super) fn update(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.session.as_mut().filter(|_| !extra) else {
            return self.event(id, extra, Event::Update);
        };
        peer.primary.fsm.is_alive(now);
        let index = peer.index;
        match Update::read(&session.context, body) {
            Err(notification) => self.event(id, extra, Event::UpdateError(notification)),
            Ok(update) => {
                for error in &update.errors {
                    tracing::debug!("peer {}: attribute {} is malformed: {:?}", id.address, error.kind, error.remedy);
                }
                for (family, list) in update.withdrawn {
                    self.rib.withdraw(index, family, list);
                }
                for (family, list, attributes) in update.announced {
                    self.rib.announce(index, family, list, attributes);
                }
                if let Some(family) = update.end_of_rib {
                    session.end_of_rib[family as usize] = true;
                    self.rib.remove_paths(index, family, true);
                    self.flush_wanted.notify_one();
                }
            }
        }
    }

    pub(super) fn up(&mut self, id: PeerId, extra: bool) {
        if extra {
            // The first connection has not come as far: it goes, and `settle` puts this one in its place.
            self.event(id, false, Event::CollisionDump);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(open) = peer.primary.open.clone() else { return };
        let local = peer.primary.local_address.unwrap_or(id.address);
        let config = &peer.config;
        let family = |f: Family| {
            let configured = match f {
                Family::Ipv4 => config.v4,
                Family::Ipv6 => config.v6,
            };
            configured && open.capabilities.family(f)
        };
        let context = Context {
            four_octet_as: open.capabilities.four_octet_as,
            ibgp: config.local_as == config.remote_as,
            ipv4: family(Family::Ipv4),
            ipv6: family(Family::Ipv6),
            add_path_receive: [false; 2],
            extended_next_hop: false,
            extended_messages: false,
            local_address: local,
            // A route server leaves its own AS out (RFC 7947 section 2.2.2.1).
            first_as: (config.local_as != config.remote_as && config.role != Some(Role::RouteServerClient))
                .then_some(open.asn),
        };
        let peer_restart = open.capabilities.graceful_restart.filter(|_| config.graceful_restart.is_some());
        let index = peer.index;
        if let Some(info) = self.rib.peer_mut(index) {
            info.router_id = open.router_id;
            info.export.local_address = local;
            info.export.four_octet_as = context.four_octet_as;
        }
        for f in Family::ALL {
            // RFC 4724 section 4.2: without F for the family nothing was kept.
            if !family(f) || peer_restart.and_then(|r| r.forwarding(f)) != Some(true) {
                self.rib.remove_paths(index, f, true);
            }
            if family(f) {
                self.rib.start(index, f);
            }
        }
        peer.last_error = None;
        peer.session = Some(Session { context, peer_restart, end_of_rib: [false; 2], since: Instant::now() });
        self.flush_wanted.notify_one();
    }

    pub(super) fn down(&mut self, id: PeerId, lost: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let restart = peer.session.take().and_then(|s| s.peer_restart).filter(|_| lost);
        let index = peer.index;
        peer.stale_until = None;
        for family in Family::ALL {
            self.rib.stop(index, family);
            let kept = restart.filter(|r| r.forwarding(family).is_some() && r.restart_time > 0);
            match kept {
                // Stale from an earlier restart, and still not confirmed: gone (RFC 4724 section 4.2).
                Some(restart) => {
                    self.rib.remove_paths(index, family, true);
                    self.rib.mark_stale(index, family);
                    peer.stale_until = Some(Instant::now() + Duration::from_secs(restart.restart_time.into()));
                }
                None => self.rib.remove_paths(index, family, false),
            }
        }
        self.flush_wanted.notify_one();
    }

    pub(super) fn next_hop_lost(&mut self, address: IpAddr) {
        let lost: Vec<PeerId> = self.peers.keys().filter(|id| id.address == address).copied().collect();
        for id in lost {
            self.bfd.path_lost(id);
            let Some(peer) = self.peers.get_mut(&id).filter(|p| p.session.is_some()) else {
                continue;
            };
            // The way to it is gone, and so is what it would keep forwarding: nothing is kept as stale.
            peer.session.as_mut().into_iter().for_each(|s| s.peer_restart = None);
            peer.last_error = Some("the interface towards the peer is down".into());
            self.event(id, false, Event::TcpFails);
        }
    }
}
