//! Connections and the state machine: accepted and made ones, collisions, what an event makes each machine do.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bgp_proto::fsm::restart::Cause;
use bgp_proto::fsm::{Action, Again, Collision, Event, Initiator, Other, State, negotiate, resolve_collision};
use bgp_proto::wire::open::Open;
use bgp_proto::wire::{self, MessageType, Notification, iana};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Speaker;
use crate::link::Link;
use crate::peer::{Connection, Peer, check_open, ip, our_open};
use crate::session::{self, Serial};
use bgp_plan::config::PeerId;

/// How well a connection that a peer made suits it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Welcome {
    /// Nothing is there yet.
    First,
    /// Beside a connection or an attempt of ours: the OPENs decide (RFC 4271 section 6.8).
    Second,
    /// In the place of a second one whose peer has said nothing: it cannot lock others out.
    InPlaceOfSilent,
}

impl Speaker {
    /// Whose connection it is, and whether it is the second one of its peer.
    pub(super) fn connection_of(&self, serial: Serial) -> Option<(PeerId, bool)> {
        let id = *self.by_serial.get(&serial)?;
        let peer = self.peers.get(&id)?;
        let is = |c: &Connection| c.link.as_ref().is_some_and(|l| l.serial == serial);
        if is(&peer.primary) { Some((id, false)) } else { peer.extra.as_ref().is_some_and(is).then_some((id, true)) }
    }

    pub(super) fn serial(&mut self) -> Serial {
        self.next_serial += 1;
        self.next_serial
    }

    /// The peers at an address, whatever their ports.
    pub(super) fn peers_at(&self, address: IpAddr) -> impl Iterator<Item = (&PeerId, &Peer)> {
        let last = PeerId { address, port: u16::MAX, scope: u32::MAX };
        self.peers.range(PeerId { address, port: 0, scope: 0 }..=last)
    }

    /// A connection costs nothing until it is known whose it is; then it is one of at most two of a configured peer.
    pub(super) fn take_accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        let address = from.ip().to_canonical();
        let scope = match from {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        self.admit(address, scope);
        let candidates = self.peers_at(address).filter(|(id, _)| id.scope == 0 || id.scope == scope);
        let suited = candidates.filter_map(|(id, peer)| welcome(peer).map(|w| (w, peer.last_accepted, *id)));
        let Some((welcome, _, id)) = suited.min() else {
            tracing::debug!("a connection from {address} is refused");
            return session::refuse(stream);
        };
        let serial = self.serial();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Err(e) = session::set_accepted_options(&stream, address, &peer.config) {
            tracing::debug!("peer {address}: its connection is refused: {e}");
            if peer.session.is_none() {
                peer.last_error = Some(format!("its connection is refused: {e}"));
            }
            return;
        }
        peer.last_accepted = serial;
        if welcome == Welcome::InPlaceOfSilent {
            self.event(id, true, Event::CollisionDump);
        }
        let extra = welcome != Welcome::First;
        let seed = self.start.seed ^ serial;
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| extra) {
            peer.extra = Some(Connection::new(&peer.config, seed));
        }
        self.attach(id, serial, stream, Initiator::Peer, extra);
    }

    pub(super) fn attach(&mut self, id: PeerId, serial: Serial, stream: TcpStream, initiator: Initiator, extra: bool) {
        let Some(myself) = self.myself.upgrade() else { return };
        let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
            return;
        };
        connection.local = stream.local_addr().ok();
        connection.remote = stream.peer_addr().ok();
        connection.initiator = initiator;
        connection.sent = None;
        connection.link = Some(Link::start(serial, stream, &myself));
        self.by_serial.insert(serial, id);
        let event = if initiator == Initiator::Us { Event::TcpAcked } else { Event::TcpConfirmed };
        self.event(id, extra, event);
    }

    /// A connection is gone, or the way to its peer, without a NOTIFICATION.
    pub(super) fn lose(&mut self, id: PeerId, extra: bool, cause: Cause, reason: String) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| !extra) {
            peer.cause = cause;
            peer.last_error = Some(reason);
        }
        self.event(id, extra, Event::TcpFails);
    }

    /// Runs an event through a connection's machine and does what it says.
    pub(super) fn event(&mut self, id: PeerId, extra: bool, event: Event) {
        let now = Instant::now();
        let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
            return;
        };
        let before = connection.fsm.state();
        let by_operator = matches!(event, Event::ManualStop(_));
        let actions = connection.fsm.handle(event, now);
        let after = connection.fsm.state();
        for action in actions {
            self.act(id, extra, action);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.why = None;
        }
        if before != after {
            self.moves += 1;
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.counters.established += u64::from(after == State::Established);
                peer.counters.flaps += u64::from(before == State::Established && !by_operator);
                peer.state_changed(id, extra, before, after);
            }
            self.tell_of_session(id, before, after);
            self.note_guest(id, now);
        }
        self.settle(id, extra, after);
        self.schedule(id);
    }

    /// Keeps one connection where there were two.
    fn settle(&mut self, id: PeerId, extra: bool, state: State) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if extra {
            // A second connection lives as long as its socket.
            if peer.extra.as_ref().is_some_and(|c| c.link.is_none()) {
                peer.extra = None;
            }
        } else if state == State::Established {
            if peer.extra.is_some() {
                self.event(id, true, Event::CollisionDump);
            }
        } else if state == State::Idle && peer.primary.fsm.is_held_off() && peer.extra.is_some() {
            // Stopped for a time or for good: a second connection does not go on in the place of the first.
            let refusal = Notification::cease(iana::CONNECTION_REJECTED);
            self.event(id, true, Event::AutomaticStop(refusal, Again::Never));
        } else if state == State::Idle
            && let Some(next) = peer.extra.take()
        {
            peer.primary = next;
            self.moves += 1;
        }
    }

    fn act(&mut self, id: PeerId, extra: bool, action: Action) {
        match action {
            Action::Connect => self.connect(id),
            Action::SendOpen => self.send_open(id, extra),
            Action::SendKeepalive => self.write(id, extra, MessageType::Keepalive, wire::write_keepalive),
            Action::SendNotification(n) => self.send_notification(id, extra, n),
            Action::Close => {
                let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
                    return;
                };
                if let Some((_, attempt)) = connection.attempt.take() {
                    attempt.abort();
                }
                connection.open = None;
                if let Some(link) = connection.link.take() {
                    self.by_serial.remove(&link.serial);
                    link.close();
                }
            }
            Action::Up => self.up(id, extra),
            Action::Down => self.down(id),
        }
    }

    fn connect(&mut self, id: PeerId) {
        let serial = self.serial();
        let Some(myself) = self.myself.upgrade() else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let task = spawn_local(session::connect(myself, id, Box::new(peer.config.clone()), serial));
        peer.primary.attempt = Some((serial, task));
    }

    fn send_open(&mut self, id: PeerId, extra: bool) {
        let Some(router_id) = self.config.as_ref().map(|c| c.router_id) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let says = self.restart.says(&peer.config, peer.counters.established > 0);
        let mut open = our_open(&peer.config, router_id, says);
        let is_plain = std::mem::take(&mut peer.next_open_is_plain);
        if is_plain {
            open = open.without_capabilities();
        }
        if let Some(connection) = peer.connection(extra) {
            connection.sent = Some(open.clone());
        }
        self.write(id, extra, MessageType::Open, |out| match is_plain {
            true => open.write_without_capabilities(out),
            false => open.write(out),
        });
    }

    fn send_notification(&mut self, id: PeerId, extra: bool, notification: Notification) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.connection(extra).is_none_or(|c| c.link.is_none()) {
            return;
        }
        let mut notification = notification;
        if !extra {
            let reason = peer.why.take().unwrap_or_else(|| format!("sent NOTIFICATION: {}", notification.describe()));
            let is_hard = notification.code == iana::CEASE && Cause::is_hard(notification.subcode);
            if is_hard && peer.session.as_ref().is_some_and(|s| s.survives_notifications()) {
                notification = notification.hard_reset();
            }
            peer.cause = Cause::Sent(notification.code, notification.subcode);
            peer.last_error = Some(reason);
            self.bmp.notification(id, &notification);
        } else if peer.session.is_none() && notification.code != iana::CEASE {
            // The connection that the peer made may be the only one that comes through.
            peer.last_error = Some(format!("sent NOTIFICATION: {}", notification.describe()));
        }
        self.write(id, extra, MessageType::Notification, |out| notification.write(out));
    }

    /// Appends a message to a connection and sends what the socket takes.
    pub(super) fn write(&mut self, id: PeerId, extra: bool, kind: MessageType, message: impl FnOnce(&mut Vec<u8>)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.counters.sent.count(kind, 1);
        if let Some(link) = peer.connection(extra).and_then(|c| c.link.as_mut()) {
            message(&mut link.out);
            // An error is the reader's to report.
            let _ = link.flush();
        }
    }

    /// An OPEN: whether it is acceptable, and which connection stays where there are two.
    pub(super) fn open(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let Some(router_id) = self.config.as_ref().map(|c| c.router_id) else { return };
        let restart = self.restart;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // What we said counts, whatever was configured since; with a delayed OPEN ours is not out yet.
        let said = peer.connection(extra).and_then(|c| c.sent.clone());
        let says = restart.says(&peer.config, peer.counters.established > 0);
        let ours = said.unwrap_or_else(|| our_open(&peer.config, router_id, says));
        let checked = Open::read(body).and_then(|open| check_open(&peer.config, &ours, &open).map(|()| open));
        let open = match checked {
            Ok(open) => open,
            Err(notification) => return self.event(id, extra, Event::OpenError(notification)),
        };
        let (hold_time, keepalive) = negotiate(ours.hold_time, open.hold_time, peer.config.keepalive);
        let accepted = Event::Open { hold_time, keepalive };
        let collision = find_collision(peer, extra, &ours, &open);
        let Some(connection) = peer.connection(extra) else { return };
        if !connection.is_silent() {
            // A second OPEN on this connection: an error of the state machine.
            return self.event(id, extra, accepted);
        }
        connection.open = Some(open);
        connection.open_body = body.into();
        match collision {
            Collision::None => return self.event(id, extra, accepted),
            Collision::CloseNew => return self.event(id, extra, Event::CollisionDump),
            Collision::CloseOther => self.event(id, !extra, Event::CollisionDump),
            Collision::PeerRestarted => {
                self.lose(id, !extra, Cause::ConnectionLost, "the peer connected anew".into());
            }
        }
        // The connection that stays is the first now.
        self.event(id, false, accepted);
    }
}

fn find_collision(peer: &mut Peer, extra: bool, ours: &Open, theirs: &Open) -> Collision {
    let may_have_restarted = peer.may_have_restarted();
    let Some(new) = peer.connection(extra).map(|c| c.initiator) else { return Collision::None };
    let Some(other) = peer.connection(!extra) else { return Collision::None };
    let state = other.fsm.state();
    let other = Other {
        state,
        initiator: other.initiator,
        may_have_restarted: may_have_restarted && state == State::Established,
    };
    let id = |open: &Open| (u32::from(open.router_id), open.asn);
    resolve_collision(new, other, id(ours), id(theirs))
}

/// `None`: not welcome.
fn welcome(peer: &Peer) -> Option<Welcome> {
    if peer.down_reason().is_some() || peer.primary.fsm.is_held_off() {
        return None;
    }
    let is_free = matches!(peer.primary.fsm.state(), State::Idle | State::Active) && peer.primary.link.is_none();
    match &peer.extra {
        None if is_free => Some(Welcome::First),
        None => Some(Welcome::Second),
        Some(extra) if extra.is_silent() => Some(Welcome::InPlaceOfSilent),
        Some(_) => None,
    }
}

/// Our end of a peer's session.
pub(super) fn local_ip(id: PeerId, connection: &Connection) -> IpAddr {
    ip(connection.local).unwrap_or(id.address)
}
