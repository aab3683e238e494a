//! Messages, and an established session: up, UPDATEs, refreshes, limits, down.

use std::net::IpAddr;
use std::time::Instant;

use bgp_proto::af::Family;
use bgp_proto::fsm::restart::{Cause, SWEEP_TIME, Sweep};
use bgp_proto::fsm::{Again, Event};
use bgp_proto::rib::PeerIndex;
use bgp_proto::wire::open::Open;
use bgp_proto::wire::update::Update;
use bgp_proto::wire::{MAX_MESSAGE_LEN, MessageType, Notification, RefreshKind, RouteRefresh, iana};

use super::Speaker;
use super::connections::local_ip;
use crate::peer::Session;
use bgp_plan::config::{PeerId, Role};

impl Speaker {
    /// The longest message that a connection may bring.
    pub(super) fn max_message_len(&self, id: PeerId, extra: bool) -> usize {
        let session = self.peers.get(&id).and_then(|p| p.session.as_ref()).filter(|_| !extra);
        session.map_or(MAX_MESSAGE_LEN, Session::max_message_len)
    }

    pub(super) fn message(&mut self, id: PeerId, extra: bool, kind: MessageType, body: &[u8]) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.counters.received.count(kind, 1);
        }
        match kind {
            MessageType::Update => self.update(id, extra, body),
            MessageType::Keepalive => self.event(id, extra, Event::Keepalive),
            MessageType::Open => self.open(id, extra, body),
            MessageType::Notification => self.notification(id, extra, &Notification::read(body)),
            MessageType::RouteRefresh => self.route_refresh(id, extra, body),
        }
    }

    fn notification(&mut self, id: PeerId, extra: bool, notification: &Notification) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| !extra) {
            peer.last_error = Some(format!("received NOTIFICATION: {}", notification.describe()));
            peer.cause = Cause::Received(notification.code, notification.subcode);
            self.bmp.notification(id, notification);
        } else if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.session.is_none())
            && notification.code != iana::CEASE
        {
            peer.last_error = Some(format!("received NOTIFICATION: {}", notification.describe()));
        }
        let said = (notification.code, notification.subcode);
        let is_version = said == (iana::OPEN_MESSAGE_ERROR, iana::UNSUPPORTED_VERSION);
        if said == (iana::OPEN_MESSAGE_ERROR, iana::UNSUPPORTED_OPTIONAL_PARAMETER)
            && let Some(peer) = self.peers.get_mut(&id)
            // Without capabilities there is nothing but IPv4, and no role.
            && peer.config.v4
            && !peer.config.role_is_strict
            && peer.connection(extra).and_then(|c| c.sent.as_ref()).is_some_and(|s| s.capabilities.four_octet_as)
        {
            peer.next_open_is_plain = true;
        }
        self.event(id, extra, if is_version { Event::NotificationVersionError } else { Event::Notification });
    }

    fn update(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.session.as_mut().filter(|_| !extra) else {
            return self.event(id, extra, Event::Update);
        };
        peer.primary.fsm.is_alive(now);
        let index = peer.index;
        let update = match Update::read(&session.context, body) {
            Ok(update) => update,
            Err(notification) => return self.event(id, extra, Event::UpdateError(notification)),
        };
        self.bmp.update(id, session.context.four_octet_as, &update, body);
        if !update.errors.is_empty() {
            peer.malformed.note(id.address, &session.context, &update, body, now);
        }
        for (family, list) in update.withdrawn {
            self.rib.withdraw(index, family, list);
        }
        let is_limited = peer.config.max_prefixes.is_some();
        let mut announced = [false; 2];
        for (family, list, attributes) in update.announced {
            announced[family as usize] = true;
            self.rib.announce(index, family, list, attributes);
        }
        if let Some(family) = update.end_of_rib {
            session.end_of_rib[family as usize] = true;
            let sweep = peer.retention[family as usize].end_of_rib();
            self.sweep(index, family, sweep);
            self.hear(id);
        }
        if is_limited {
            Family::ALL.into_iter().filter(|&f| announced[f as usize]).for_each(|f| self.check_limit(id, f));
        }
    }

    fn route_refresh(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.session.as_mut().filter(|_| !extra) else {
            return self.event(id, extra, Event::Update);
        };
        let now = Instant::now();
        peer.primary.fsm.is_alive(now);
        let enhanced = session.common.enhanced_route_refresh;
        let refresh = match RouteRefresh::read(enhanced, body) {
            Ok(Some(refresh)) if session.common.family(refresh.family) => refresh,
            Ok(_) => return,
            Err(notification) => return self.event(id, extra, Event::UpdateError(notification)),
        };
        let (index, family) = (peer.index, refresh.family);
        // RFC 7313 section 4: with graceful restart, BoRR means nothing before End-of-RIB.
        let is_complete = session.common.graceful_restart.is_none() || session.end_of_rib[family as usize];
        let retention = &mut peer.retention[family as usize];
        match refresh.kind {
            RefreshKind::Request => session.refresh_wanted[family as usize] = true,
            RefreshKind::BeginOfRib if is_complete => {
                let sweep = retention.begin_refresh(now);
                self.sweep(index, family, sweep);
            }
            RefreshKind::BeginOfRib => {}
            RefreshKind::EndOfRib => {
                let sweep = retention.end_refresh();
                self.sweep(index, family, sweep);
            }
        }
        self.flush_wanted.notify_one();
        self.schedule(id);
    }

    /// What a retention says about the paths of a peer.
    pub(super) fn sweep(&mut self, index: PeerIndex, family: Family, sweep: Sweep) {
        match sweep {
            Sweep::Nothing => return,
            Sweep::MarkStale => self.rib.mark_stale(index, family),
            Sweep::DropStaleAndMark => {
                self.rib.remove_paths(index, family, true);
                self.rib.mark_stale(index, family);
            }
            Sweep::DropStale => self.rib.remove_paths(index, family, true),
            Sweep::DropAll => self.rib.remove_paths(index, family, false),
            Sweep::MarkLongLived => {
                self.rib.mark_stale(index, family);
                self.rib.mark_long_lived_stale(index, family);
            }
        }
        self.flush_wanted.notify_one();
    }

    /// RFC 4271 section 6.7: the peer announces more than it may.
    pub(super) fn check_limit(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(max) = peer.config.max_prefixes else { return };
        let count = self.rib.accepted(peer.index, family);
        let address = id.address;
        let is_over = count > max.limit;
        let is_near = peer.is_near_limit(count);
        let warned = std::mem::replace(&mut peer.is_warned[family as usize], is_near);
        if is_over && max.ends_session {
            let again = max.restart_after.map_or(Again::Never, Again::After);
            let next = match max.restart_after {
                Some(time) => format!("it is tried again after {} s", time.as_secs()),
                None => "until `bgpctl clear`".into(),
            };
            peer.explain(format!("the peer announces more than {} {family} prefixes: down, {next}", max.limit));
            let notification = Notification::maximum_prefixes(family, max.limit);
            return self.event(id, false, Event::AutomaticStop(notification, again));
        }
        if is_near && !warned {
            let warning = format!("the peer announces {count} {family} prefixes; its limit is {}", max.limit);
            tracing::warn!("peer {address} ({}): {warning}", peer.config.name);
            peer.last_error = Some(warning);
        }
    }

    pub(super) fn up(&mut self, id: PeerId, extra: bool) {
        if extra {
            // The first connection has not come as far: it goes, and `settle` puts this one in its place.
            self.event(id, false, Event::CollisionDump);
        }
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (Some(ours), Some(theirs)) = (&peer.primary.sent, &peer.primary.open) else { return };
        let local = local_ip(id, &peer.primary);
        let mut session = Session::new(ours, theirs, local);
        // A route server leaves its own AS out (RFC 7947 section 2.2.2.1).
        let is_transparent = peer.config.role == Some(Role::RouteServerClient);
        session.context.first_as = (!session.context.ibgp && !is_transparent).then_some(theirs.asn);
        let index = peer.index;
        // Another identifier is another speaker: what decisions and ORIGINATOR_ID were made of does not hold for it.
        let is_same = self.rib.peer(index).is_some_and(|before| before.router_id == theirs.router_id);
        tell_rib(&mut self.rib, index, &session, theirs, local);
        if let Some(info) = self.rib.peer_mut(index) {
            info.export.other_address = self.config.as_ref().and_then(|c| c.other_address(local));
        }
        for family in Family::ALL {
            let returned = session.returned(family, SWEEP_TIME).filter(|_| is_same);
            if peer.retention[family as usize].returned(returned, now) == Sweep::DropStale {
                self.rib.remove_paths(index, family, true);
            }
            if session.common.family(family) {
                self.rib.start(index, family);
            }
        }
        peer.last_error = None;
        peer.is_warned = [false; 2];
        let ends = [peer.primary.local, peer.primary.remote];
        self.bmp.up((id, index), ends, ours, &peer.primary.open_body, &session.common);
        let is_counted_on = session.common.graceful_restart.is_some();
        peer.session = Some(session);
        self.counted_on.send_if_modified(|now| is_counted_on && !std::mem::replace(now, true));
        self.hear(id);
    }

    pub(super) fn down(&mut self, id: PeerId) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.session.take() else { return };
        let (index, cause) = (peer.index, std::mem::replace(&mut peer.cause, Cause::ConnectionLost));
        let is_kept = peer.config.graceful_restart.is_some() && cause.keeps_routes(session.survives_notifications());
        self.bmp.down(id, cause);
        for family in Family::ALL {
            let agreed = session.agreed(family).filter(|_| is_kept);
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let sweep = peer.retention[family as usize].ended(agreed, now);
            self.rib.stop(index, family);
            self.sweep(index, family, sweep);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.awaited_since = now;
        }
        self.hear(id);
    }

    pub(super) fn next_hop_lost(&mut self, address: IpAddr) {
        let lost: Vec<PeerId> = self.peers_at(address).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.path_lost(id));
    }

    /// The interface towards one peer is down. Behind another one there may be a peer of the same link-local address.
    pub(super) fn path_lost(&mut self, id: PeerId) {
        self.bfd.path_lost(id);
        if self.peers.get(&id).is_some_and(|p| p.session.is_some()) {
            // The way to it is gone, and so is what it would keep forwarding: nothing is kept as stale.
            self.lose(id, false, Cause::PathLost, "the interface towards the peer is down".into());
        }
    }
}

/// What a session negotiated, for the RIB.
fn tell_rib(rib: &mut bgp_proto::rib::Rib, index: PeerIndex, session: &Session, theirs: &Open, local: IpAddr) {
    let Some(info) = rib.peer_mut(index) else { return };
    let common = &session.common;
    info.router_id = theirs.router_id;
    info.remote_as = theirs.asn;
    info.is_ebgp = !session.context.ibgp;
    info.add_path_receive = common.add_path.map(|a| a.receive);
    info.add_path_send = common.add_path.map(|a| a.send);
    info.long_lived = common.long_lived.is_some();
    info.extended_messages = common.extended_messages;
    info.extended_next_hop = common.extended_next_hop;
    info.export.local_address = local;
    info.export.four_octet_as = common.four_octet_as;
}
