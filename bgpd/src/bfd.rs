//! BFD's shell: sockets, clock and thread around the sessions of crate `bfd`.
//!
//! ```text
//! speaker ──set, path_lost──►┌────────── thread "bfd", one LocalSet ──────────┐
//!                            │ commands: sessions come, change, go            │
//! speaker ◄──Notice──────────│ timers:   the next deadline of any session     │
//!         ◄──statuses────────│ readers:  one a family and port: 3784, 4784    │
//!                            └────────────────────────────────────────────────┘
//! ```
//!
//! A thread of its own, because a table load keeps the speaker's busy for longer than a detection time. All tasks are on it
//! and share [`Shell`] in a `RefCell` that none keeps borrowed across an await; they end with the process.
//!
//! A session exists as soon as its peer is configured, whether or not BGP is up, and BGP does not wait for it: a peer without
//! BFD would never come up (RFC 5882 section 10.1). Only a session that was Up and fails ends the BGP session.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::bfd::packet::{Discard, Packet};
use ::bfd::session::{Action, Down, Event, Timers};
use ::bfd::sessions::{Datagram, Hops, Path, Sessions};
use bgp_plan::config::{PeerConfig, PeerId};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use self::socket::Transmitter;
pub use self::status::BfdStatus;
use self::status::History;
use crate::sockopt;

mod socket;
mod status;

/// What arrived has 1 at least.
const ANY_TTL: u8 = 1;

/// What the speaker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Up,
    Down(Down),
}

/// A session as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    path: Path,
    timers: Timers,
    /// The least TTL of a packet of several hops. Changes live, and so is no part of the path, which takes any.
    min_ttl: u8,
}

impl Settings {
    /// `None`: the peer has no BFD, or is held down.
    pub fn of(id: PeerId, config: &PeerConfig) -> Option<Settings> {
        let bfd = config.bfd.filter(|_| config.down_reason.is_none() && config.shutdown.is_none())?;
        let path = Path {
            hops: if bfd.is_multihop { Hops::Multi } else { Hops::Single },
            peer: id.address,
            local: config.source,
            interface: id.scope,
            min_ttl: ANY_TTL,
        };
        // RFC 5883 section 6: several hops have no TTL of their own, but for GTSM.
        let min_ttl = config.ttl_security.map_or(ANY_TTL, sockopt::min_ttl);
        Some(Settings { path, timers: Timers::new(bfd.min_tx, bfd.min_rx, bfd.multiplier), min_ttl })
    }

    /// Whether a packet came from as near as it must. A single hop is judged by what any session of one asks for.
    fn allows(&self, datagram: &Datagram<'_>) -> bool {
        datagram.hops == Hops::Single || datagram.ttl >= self.min_ttl
    }
}

enum Command {
    Set(PeerId, Option<Settings>),
    PathLost(PeerId),
    Shutdown(oneshot::Sender<()>),
}

/// What others ask of BFD's thread. Calls return at once and take effect in the order they were made.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    statuses: Statuses,
}

/// Written by BFD's thread, read by who shows it.
type Statuses = Arc<Mutex<BTreeMap<PeerId, BfdStatus>>>;

impl Handle {
    /// Starts the thread. `notify` is called on it and must return at once.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(seed: u64, notify: impl Fn(PeerId, Notice) + Send + 'static) -> io::Result<Handle> {
        let (commands, received) = mpsc::unbounded_channel();
        let statuses = Statuses::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shown = statuses.clone();
        std::thread::Builder::new().name("bfd".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(seed, Box::new(notify), shown, received));
        })?;
        Ok(Handle { commands, statuses })
    }

    /// Makes, changes or takes away a peer's session. Other timers are negotiated without a flap, another TTL counts at once;
    /// another path is another session, before which the old one says AdminDown.
    pub fn set(&self, id: PeerId, settings: Option<Settings>) {
        self.send(Command::Set(id, settings));
    }

    /// The interface towards the peer is down: the detection time is not waited for.
    pub fn path_lost(&self, id: PeerId) {
        self.send(Command::PathLost(id));
    }

    /// How a peer's session is; `None`: it has none.
    pub fn status(&self, id: PeerId) -> Option<BfdStatus> {
        lock(&self.statuses).get(&id).cloned()
    }

    /// Tells every other end that this is no failure (RFC 5880 section 6.8.16), so that it does not end its BGP session for it.
    pub async fn shut_down(&self) {
        let (done, finished) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = finished.await;
    }

    fn send(&self, command: Command) {
        // The thread ends only with the process.
        let _ = self.commands.send(command);
    }
}

async fn run(
    seed: u64,
    notify: Box<dyn Fn(PeerId, Notice)>,
    statuses: Statuses,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let timers_changed = Rc::new(Notify::new());
    let shell = Rc::new_cyclic(|myself| {
        RefCell::new(Shell {
            sessions: Sessions::new(seed),
            peers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            receivers: BTreeMap::new(),
            notify,
            statuses,
            timers_changed: timers_changed.clone(),
            myself: myself.clone(),
        })
    });
    spawn_local(run_timers(shell.clone(), timers_changed));
    while let Some(command) = commands.recv().await {
        shell.borrow_mut().command(command, Instant::now());
    }
}

async fn run_timers(shell: Rc<RefCell<Shell>>, changed: Rc<Notify>) {
    loop {
        let deadline = shell.borrow().next_deadline();
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(deadline) => shell.borrow_mut().expire(),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads one port of one family until the process ends.
async fn read(shell: Rc<RefCell<Shell>>, hops: Hops, socket: Rc<UdpSocket>) {
    loop {
        match socket::receive(&socket).await {
            Ok(datagrams) => {
                let mut shell = shell.borrow_mut();
                datagrams.iter().for_each(|d| shell.received(d.with(hops)));
                shell.timers_changed.notify_one();
            }
            Err(e) => {
                tracing::warn!("BFD: cannot read port {}: {e}", hops.port());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A peer's session, beside what the pure part knows.
struct Peer {
    settings: Settings,
    transmitter: Transmitter,
    history: History,
}

/// See the module.
struct Shell {
    sessions: Sessions<PeerId>,
    peers: BTreeMap<PeerId, Peer>,
    /// Sessions in AdminDown that were taken away, and until when they go on saying so.
    leaving: BTreeMap<PeerId, Instant>,
    /// The families and ports that are read, by whether it is IPv4.
    receivers: BTreeMap<(bool, Hops), Rc<UdpSocket>>,
    notify: Box<dyn Fn(PeerId, Notice)>,
    statuses: Statuses,
    timers_changed: Rc<Notify>,
    /// To start tasks that call back.
    myself: std::rc::Weak<RefCell<Shell>>,
}

impl Shell {
    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Set(id, Some(settings)) => self.set(id, settings, now),
            Command::Set(id, None) => self.leave(id, now),
            Command::PathLost(id) => self.event(id, Event::PathDown, now),
            Command::Shutdown(done) => {
                let ids: Vec<PeerId> = self.peers.keys().copied().collect();
                ids.into_iter().for_each(|id| self.event(id, Event::AdminDown, now));
                let _ = done.send(());
            }
        }
        self.timers_changed.notify_one();
    }

    fn set(&mut self, id: PeerId, settings: Settings, now: Instant) {
        match self.peers.get_mut(&id) {
            Some(peer) if peer.settings.path == settings.path => {
                peer.settings = settings;
                self.event(id, Event::Configure(settings.timers), now);
                if self.leaving.remove(&id).is_some() {
                    self.event(id, Event::AdminUp, now);
                }
            }
            other => {
                if other.is_some() {
                    // RFC 5882 section 3.2: no failure, so that the other end keeps its BGP session.
                    self.event(id, Event::AdminDown, now);
                }
                self.leaving.remove(&id);
                self.sessions.insert(id, settings.path, settings.timers, now);
                let transmitter = Transmitter::new(settings.path);
                self.peers.insert(id, Peer { settings, transmitter, history: History::default() });
                self.publish(id);
            }
        }
    }

    /// RFC 5880 section 6.8.16: AdminDown is said for at least a detection time.
    fn leave(&mut self, id: PeerId, now: Instant) {
        if !self.peers.contains_key(&id) || self.leaving.contains_key(&id) {
            return;
        }
        self.event(id, Event::AdminDown, now);
        let detection = self
            .sessions
            .get(id)
            .map(|entry| entry.session.status())
            .and_then(|status| status.transmit_interval.map(|interval| interval * u32::from(status.multiplier)));
        self.leaving.insert(id, now + detection.unwrap_or_default());
        lock(&self.statuses).remove(&id);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.leaving.values().copied().chain(self.sessions.next_deadline()).min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.sessions.due(now) {
            self.event(id, Event::Timer, now);
        }
        for (id, _) in self.leaving.extract_if(.., |_, until| *until <= now) {
            self.sessions.remove(id);
            self.peers.remove(&id);
        }
    }

    fn received(&mut self, datagram: Datagram<'_>) {
        let selected = self.sessions.select(datagram).and_then(|(id, packet)| match self.peers.get(&id) {
            Some(peer) if !peer.settings.allows(&datagram) => Err(Discard::Ttl),
            _ => Ok((id, packet)),
        });
        match selected {
            Ok((id, packet)) => self.event(id, Event::Received(packet), Instant::now()),
            Err(reason) => {
                tracing::debug!("BFD packet from {} discarded: {reason:?}", datagram.from);
                let known = self.peers.iter_mut().find(|(id, _)| id.address == datagram.from);
                if let Some((&id, peer)) = known {
                    peer.history.discarded(reason);
                    self.publish(id);
                }
            }
        }
    }

    fn event(&mut self, id: PeerId, event: Event, now: Instant) {
        for action in self.sessions.handle(id, event, now) {
            match action {
                Action::Send(packet) => self.transmit(id, packet),
                Action::Up => self.tell(id, Notice::Up),
                Action::Down(down) => self.tell(id, Notice::Down(down)),
            }
        }
        self.publish(id);
    }

    fn tell(&mut self, id: PeerId, notice: Notice) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.history.changed(notice);
        match notice {
            Notice::Up => tracing::info!("BFD with {}: Up", id.address),
            Notice::Down(down) => tracing::warn!("BFD with {}: Down: {}", id.address, down.diag),
        }
        (self.notify)(id, notice);
    }

    /// Where a socket cannot be had, the next packet tries again.
    fn transmit(&mut self, id: PeerId, packet: Packet) {
        let listening = self.listen(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let result = listening.and_then(|()| peer.transmitter.send(&packet.write()));
        if let Some(problem) = peer.history.sent(result) {
            tracing::warn!("BFD with {}: {problem}", id.address);
        }
    }

    fn listen(&mut self, id: PeerId) -> Result<(), String> {
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let (is_ipv4, hops) = (id.address.is_ipv4(), peer.settings.path.hops);
        if self.receivers.contains_key(&(is_ipv4, hops)) {
            return Ok(());
        }
        let socket = Rc::new(socket::listen(is_ipv4, hops)?);
        if let Some(myself) = self.myself.upgrade() {
            spawn_local(read(myself, hops, socket.clone()));
        }
        self.receivers.insert((is_ipv4, hops), socket);
        Ok(())
    }

    fn publish(&self, id: PeerId) {
        if self.leaving.contains_key(&id) {
            return;
        }
        if let (Some(peer), Some(entry)) = (self.peers.get(&id), self.sessions.get(id)) {
            lock(&self.statuses).insert(id, peer.history.status(entry));
        }
    }
}

/// What a panic elsewhere left is still a whole map.
fn lock(statuses: &Statuses) -> MutexGuard<'_, BTreeMap<PeerId, BfdStatus>> {
    statuses.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
