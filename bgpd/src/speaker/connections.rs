//! Connections and the state machine: accepted and made ones, OPEN and collisions, what an event makes each machine do.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_proto::fsm::{Action, Collision, Event, Initiator, Other, State, negotiate, resolve_collision};
use bgp_proto::wire::open::{Capabilities, GracefulRestart, Open};
use bgp_proto::wire::{self, MessageType, Notification, RouteRefresh};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Speaker;
use crate::link::Link;
use crate::peer::Connection;
use crate::session::{self, Serial};
use bgp_plan::config::PeerId;

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

    pub(super) fn take_accepted(&mut self, stream: TcpStream, from: IpAddr) {
        let serial = self.serial();
        let found = self.peers.iter().find(|(id, p)| id.address == from && p.config.down_reason.is_none());
        let Some((&id, peer)) = found else {
            tracing::debug!("connection from {from}, which is no peer");
            return;
        };
        if let Err(e) = session::set_accepted_options(&stream, from, &peer.config) {
            tracing::debug!("peer {from}: its connection is refused: {e}");
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.last_error = Some(format!("its connection is refused: {e}"));
            }
            return;
        }
        match peer.primary.fsm.state() {
            State::Idle | State::Active => self.attach(id, serial, stream, Initiator::Peer, false),
            _ if peer.extra.is_none() => {
                let seed = self.start.seed ^ serial;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.extra = Some(Connection::new(&peer.config, seed));
                }
                self.attach(id, serial, stream, Initiator::Peer, true);
            }
            _ => tracing::debug!("peer {from}: a third connection is refused"),
        }
    }

    pub(super) fn attach(&mut self, id: PeerId, serial: Serial, stream: TcpStream, initiator: Initiator, extra: bool) {
        let Some(myself) = self.myself.upgrade() else { return };
        let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
            return;
        };
        connection.local_address = stream.local_addr().ok().map(|a| a.ip().to_canonical());
        connection.initiator = initiator;
        connection.link = Some(Link::start(serial, stream, &myself));
        self.by_serial.insert(serial, id);
        let event = if initiator == Initiator::Us { Event::TcpAcked } else { Event::TcpConfirmed };
        self.event(id, extra, event);
    }

    /// Runs an event through a connection's machine and does what it says.
    pub(super) fn event(&mut self, id: PeerId, extra: bool, event: Event) {
        let now = Instant::now();
        let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
            return;
        };
        let before = connection.fsm.state();
        let lost = matches!(event, Event::TcpFails);
        let actions = connection.fsm.handle(event, now);
        let after = connection.fsm.state();
        for action in actions {
            self.act(id, extra, action, lost);
        }
        if before != after {
            self.timers_changed.notify_one();
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.state_changed(id, extra, before, after);
            }
            self.tell_of_session(id, before, after);
        }
        self.settle(id, extra, after);
    }

    /// Keeps one connection where there were two.
    fn settle(&mut self, id: PeerId, extra: bool, state: State) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if extra {
            if state < State::OpenSent
                && let Some(gone) = peer.extra.take()
                && let Some(link) = gone.link
            {
                self.by_serial.remove(&link.serial);
                link.close();
            }
        } else if state == State::Established {
            if peer.extra.is_some() {
                self.event(id, true, Event::CollisionDump);
            }
        } else if state == State::Idle
            && let Some(next) = peer.extra.take()
        {
            peer.primary = next;
            self.timers_changed.notify_one();
        }
    }

    fn act(&mut self, id: PeerId, extra: bool, action: Action, lost: bool) {
        match action {
            Action::Connect => self.connect(id),
            Action::SendOpen => self.send_open(id, extra),
            Action::SendKeepalive => self.write(id, extra, wire::write_keepalive),
            Action::SendNotification(n) => {
                if let Some(peer) = self.peers.get_mut(&id).filter(|_| !extra) {
                    peer.last_error = Some(format!("sent NOTIFICATION: {n}"));
                }
                self.write(id, extra, |out| n.write(out));
            }
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
            Action::Down => self.down(id, lost),
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
        let Some(own) = &self.config else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let config = &peer.config;
        let graceful_restart = config.graceful_restart.map(|restart_time| {
            // RFC 4724 section 4.1: R until the restart is over, F where the kernel kept the routes.
            let restarting = self.start.restarted && !self.is_restart_over(restart_time);
            GracefulRestart {
                restarting,
                restart_time,
                notification: false,
                ipv4: config.v4.then_some(restarting),
                ipv6: config.v6.then_some(restarting),
            }
        });
        let open = Open {
            asn: config.local_as,
            hold_time: config.hold_time,
            router_id: own.router_id,
            capabilities: Capabilities {
                ipv4: config.v4,
                ipv6: config.v6,
                route_refresh: true,
                four_octet_as: true,
                graceful_restart,
                ..Capabilities::default()
            },
        };
        self.write(id, extra, |out| open.write(out));
    }

    pub(super) fn is_restart_over(&self, restart_time: u16) -> bool {
        self.started.elapsed() > Duration::from_secs(restart_time.into())
    }

    /// Appends a message to a connection and sends what the socket takes.
    fn write(&mut self, id: PeerId, extra: bool, message: impl FnOnce(&mut Vec<u8>)) {
        let link = self.peers.get_mut(&id).and_then(|p| p.connection(extra)).and_then(|c| c.link.as_mut());
        if let Some(link) = link {
            message(&mut link.out);
            // An error is the reader's to report.
            let _ = link.flush();
        }
    }

    pub(super) fn message(&mut self, serial: Serial, kind: MessageType, body: &[u8]) {
        let Some((id, extra)) = self.connection_of(serial) else {
            return;
        };
        match kind {
            MessageType::Update => self.update(id, extra, body),
            MessageType::Keepalive => self.event(id, extra, Event::Keepalive),
            MessageType::Open => self.open(id, extra, body),
            MessageType::Notification => {
                let notification = Notification::read(body);
                if let Some(peer) = self.peers.get_mut(&id).filter(|_| !extra) {
                    peer.last_error = Some(format!("received NOTIFICATION: {notification}"));
                }
                self.event(id, extra, Event::Notification);
            }
            MessageType::RouteRefresh => {
                self.event(id, extra, Event::Update);
                let index = self.peers.get(&id).filter(|p| !extra && p.session.is_some()).map(|p| p.index);
                if let (Ok(Some(refresh)), Some(index)) = (RouteRefresh::read(false, body), index) {
                    self.rib.refresh(index, refresh.family, false);
                    self.flush_wanted.notify_one();
                }
            }
        }
    }

    fn open(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let Some(own) = self.config.as_ref().map(|c| (u32::from(c.router_id), c.local_as)) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let open = match Open::read(body).and_then(|open| peer.check_open(open, own.0.into())) {
            Ok(open) => open,
            Err(notification) => return self.event(id, extra, Event::OpenError(notification)),
        };
        let (hold_time, keepalive) = negotiate(peer.config.hold_time, open.hold_time, peer.config.keepalive);
        // RFC 4271 section 6.8, with the other connection of this peer.
        let theirs = (u32::from(open.router_id), open.asn);
        let ours = (own.0, peer.config.local_as);
        let may_have_restarted = peer.may_have_restarted();
        let other = peer.connection(!extra).map(|c| Other {
            state: c.fsm.state(),
            initiator: c.initiator,
            may_have_restarted: may_have_restarted && c.fsm.state() == State::Established,
        });
        let Some(connection) = peer.connection(extra) else { return };
        connection.open = Some(open);
        let new = connection.initiator;
        let accepted = Event::Open { hold_time, keepalive };
        match other.map_or(Collision::None, |other| resolve_collision(new, other, ours, theirs)) {
            Collision::None => return self.event(id, extra, accepted),
            Collision::CloseNew => return self.event(id, extra, Event::CollisionDump),
            Collision::CloseOther => self.event(id, !extra, Event::CollisionDump),
            Collision::PeerRestarted => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.last_error = Some("the peer connected anew".into());
                }
                self.event(id, !extra, Event::TcpFails);
            }
        }
        // The connection that stays is the first now.
        self.event(id, false, accepted);
    }
}
