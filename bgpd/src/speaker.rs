//! The speaker: owns every peer and the RIB, on a thread of its own.
//!
//! ```text
//! Handle ──commands──►┌───────────────── thread "speaker", one LocalSet ──────────────────┐
//!                     │ commands: configure, originate, queries                           │
//!                     │ timers:   sleeps until the next deadline of any session           │
//!                     │ flusher:  when the input has been read dry: changes to all peers, ├──► RouteBatch
//!                     │           UPDATEs to those whose socket has room                  │
//!                     │ listeners, attempts, readers and writers: see `session`           │
//!                     └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! All tasks are on one thread and share [`Speaker`] in a `RefCell` that none of them keeps borrowed across an await. The
//! thread ends with the process. The flusher runs after the readers that were ready with it, so what comes in together goes
//! out together, and nothing waits for a timer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::af::{Family, Prefix};
use bgp_proto::fsm::{Action, Event, Initiator, State, collision_winner, negotiate};
use bgp_proto::rib::{Rib, View};
use bgp_proto::wire::attribute::Context;
use bgp_proto::wire::open::{Capabilities, GracefulRestart, Open};
use bgp_proto::wire::update::{Update, read_route_refresh};
use bgp_proto::wire::{self, MessageType, Notification, iana};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::config::{Origin, PeerConfig, PeerId, SpeakerConfig};
use crate::peer::{Connection, Peer, PeerStatus, RouteStatus, Session};
use crate::session::{self, Link, Serial};
use crate::sockopt;

/// Written to a peer at once.
const WRITE_SIZE: usize = 256 * 1024;
/// Routes that one query shows.
const ROUTES_SHOWN: usize = 100_000;
/// How long after it is up a peer without graceful restart counts as still sending its first table.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// How far away a next hop is: the IGP metric of RFC 4271 section 9.1.2.2 step e, `None` if it cannot be reached.
pub type Resolver = Arc<dyn Fn(IpAddr) -> Option<u32> + Send + Sync>;

/// Best routes that changed: the next hops of the multipath set as announced (not resolved), `None` if the prefix has no
/// route by BGP any more. Routes of our own are not in it.
pub type RouteBatch = Vec<(Prefix, Option<Vec<IpAddr>>)>;

/// Whether what peers had to say after the start has been heard: End-of-RIB from every peer that announces it, or the time
/// for that is over. What was heard is in the subscriptions of best routes before it is said here, so that kernel routes of
/// a previous run which are in none of the batches may be swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InSync {
    pub v4: bool,
    pub v6: bool,
}

impl InSync {
    pub fn family(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.v4,
            Family::Ipv6 => self.v6,
        }
    }
}

/// What others ask of the speaker. Cheap to clone; calls return at once and take effect in the order they were made.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    in_sync: watch::Receiver<InSync>,
}

/// A message to the speaker's thread.
enum Command {
    Configure(Box<SpeakerConfig>, oneshot::Sender<Result<(), String>>),
    Originate(Vec<Origin>),
    BestRoutes(mpsc::UnboundedSender<RouteBatch>),
    Resolve(Resolver),
    NextHopLost(IpAddr),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteStatus>>),
    Shutdown(oneshot::Sender<()>),
}

/// Which routes a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteQuery {
    Best,
    /// Of one peer's address, or of all.
    Received(Option<IpAddr>),
    Advertised(IpAddr),
}

/// How the speaker begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Kernel routes of a previous run are still in place: OPENs say that we restarted and kept forwarding (RFC 4724).
    pub restarted: bool,
    /// Seed of the hash tables and of the timers' jitter.
    pub seed: u64,
}

impl Handle {
    /// Starts the speaker's thread. It does nothing until it is configured.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(start: Start) -> io::Result<Handle> {
        let (commands, received) = mpsc::unbounded_channel();
        let (in_sync_sender, in_sync) = watch::channel(InSync::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("speaker".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(start, received, in_sync_sender));
        })?;
        Ok(Handle { commands, in_sync })
    }

    /// Replaces the configuration; only peers whose session parameters changed are reset. The answer comes once it is applied;
    /// it is an error when a listener cannot be bound.
    pub fn configure(&self, config: SpeakerConfig) -> oneshot::Receiver<Result<(), String>> {
        let (done, applied) = oneshot::channel();
        self.send(Command::Configure(Box::new(config), done));
        applied
    }

    /// The full set of routes of our own. End-of-RIB goes out to no peer before the first call.
    pub fn originate(&self, origins: Vec<Origin>) {
        self.send(Command::Originate(origins));
    }

    /// Batches of changes of the best routes; the first one has all there are.
    pub fn best_routes(&self) -> mpsc::UnboundedReceiver<RouteBatch> {
        let (batches, receiver) = mpsc::unbounded_channel();
        self.send(Command::BestRoutes(batches));
        receiver
    }

    /// Replaces the judgement on next hops and asks it again for all of them: call it whenever its answers may have changed.
    /// Until the first call every next hop is reachable.
    pub fn set_resolver(&self, resolver: Resolver) {
        self.send(Command::Resolve(resolver));
    }

    /// The address cannot be reached any more (its interface lost its carrier or is gone): a session with it goes down at once.
    pub fn next_hop_lost(&self, address: IpAddr) {
        self.send(Command::NextHopLost(address));
    }

    /// See [`InSync`].
    pub fn in_sync(&self) -> watch::Receiver<InSync> {
        self.in_sync.clone()
    }

    /// Every configured peer, for display.
    pub async fn peers(&self) -> Vec<PeerStatus> {
        let (answer, peers) = oneshot::channel();
        self.send(Command::Peers(answer));
        peers.await.unwrap_or_default()
    }

    /// Routes, for display.
    pub async fn routes(&self, query: RouteQuery) -> Vec<RouteStatus> {
        let (answer, routes) = oneshot::channel();
        self.send(Command::Routes(query, answer));
        routes.await.unwrap_or_default()
    }

    /// Ends all sessions: with graceful restart without a word, so that peers keep the routes; else with Cease.
    pub async fn shut_down(&self) {
        let (done, finished) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = finished.await;
    }

    fn send(&self, command: Command) {
        // The speaker's thread ends only with the process.
        let _ = self.commands.send(command);
    }
}

/// The speaker as its tasks share it.
pub type Shared = Rc<RefCell<Speaker>>;

/// See the module.
pub struct Speaker {
    start: Start,
    started: Instant,
    config: Option<SpeakerConfig>,
    peers: BTreeMap<PeerId, Peer>,
    by_serial: std::collections::HashMap<Serial, PeerId>,
    listeners: BTreeMap<SocketAddr, (Rc<TcpListener>, JoinHandle<()>)>,
    rib: Rib,
    next_serial: Serial,
    subscribers: Vec<mpsc::UnboundedSender<RouteBatch>>,
    in_sync: watch::Sender<InSync>,
    flush_wanted: Rc<Notify>,
    timers_changed: Rc<Notify>,
    /// To start tasks that call back.
    myself: std::rc::Weak<RefCell<Speaker>>,
}

async fn run(start: Start, mut commands: mpsc::UnboundedReceiver<Command>, in_sync: watch::Sender<InSync>) {
    let flush_wanted = Rc::new(Notify::new());
    let timers_changed = Rc::new(Notify::new());
    let speaker: Shared = Rc::new_cyclic(|myself| {
        RefCell::new(Speaker {
            start,
            started: Instant::now(),
            config: None,
            peers: BTreeMap::new(),
            by_serial: Default::default(),
            listeners: BTreeMap::new(),
            rib: Rib::new(start.seed),
            next_serial: 0,
            subscribers: Vec::new(),
            in_sync,
            flush_wanted: flush_wanted.clone(),
            timers_changed: timers_changed.clone(),
            myself: myself.clone(),
        })
    });
    spawn_local(run_timers(speaker.clone(), timers_changed));
    spawn_local(run_flusher(speaker.clone(), flush_wanted));
    while let Some(command) = commands.recv().await {
        speaker.borrow_mut().command(command);
    }
}

async fn run_timers(speaker: Shared, changed: Rc<Notify>) {
    loop {
        let deadline = speaker.borrow().next_deadline();
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(deadline) => speaker.borrow_mut().expire(),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn run_flusher(speaker: Shared, wanted: Rc<Notify>) {
    loop {
        wanted.notified().await;
        speaker.borrow_mut().flush();
    }
}

/// What readers, listeners and attempts say.
impl Speaker {
    /// A peer connected to us.
    pub fn accepted(speaker: &Shared, stream: TcpStream, from: IpAddr) {
        speaker.borrow_mut().take_accepted(stream, from);
    }

    /// An attempt of ours ended.
    pub fn connected(speaker: &Shared, id: PeerId, serial: Serial, result: io::Result<TcpStream>) {
        let mut this = speaker.borrow_mut();
        let current = this.peers.get(&id).and_then(|p| p.primary.attempt.as_ref()).is_some_and(|a| a.0 == serial);
        if !current {
            return;
        }
        match result.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => {
                if let Some(peer) = this.peers.get_mut(&id) {
                    peer.primary.attempt = None;
                }
                this.attach(id, serial, stream, Initiator::Us, false);
            }
            Err(e) => {
                if let Some(peer) = this.peers.get_mut(&id) {
                    peer.last_error = Some(format!("cannot connect to {} port {}: {e}", id.address, id.port));
                }
                this.event(id, false, Event::TcpFails);
            }
        }
    }

    /// Octets of a connection; how many of them were whole messages, `None` if the connection is over.
    pub fn input(speaker: &Shared, serial: Serial, octets: &[u8]) -> Option<usize> {
        let mut this = speaker.borrow_mut();
        let mut used = 0;
        loop {
            match wire::frame(&octets[used..]) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    used += frame.len;
                    this.message(serial, frame.kind, frame.body);
                }
                Err(notification) => {
                    if let Some((id, extra)) = this.connection_of(serial) {
                        this.event(id, extra, Event::MessageError(notification));
                    }
                }
            }
            // A message may end its own connection.
            this.connection_of(serial)?;
        }
        if this.rib.has_changes() {
            this.flush_wanted.notify_one();
        }
        Some(used)
    }

    /// A connection is gone.
    pub fn ended(speaker: &Shared, serial: Serial, reason: String) {
        let mut this = speaker.borrow_mut();
        if let Some((id, extra)) = this.connection_of(serial) {
            if let Some(peer) = this.peers.get_mut(&id).filter(|_| !extra) {
                peer.last_error = Some(reason);
            }
            this.event(id, extra, Event::TcpFails);
        }
    }

    /// A socket that was full takes octets again.
    pub fn drain(speaker: &Shared, serial: Serial) {
        let mut this = speaker.borrow_mut();
        if let Some((id, extra)) = this.connection_of(serial) {
            this.pump(id, extra);
            this.rib.reap();
        }
    }
}

impl Speaker {
    fn command(&mut self, command: Command) {
        match command {
            Command::Configure(config, done) => {
                let result = self.configure(*config);
                let _ = done.send(result);
            }
            Command::Originate(origins) => {
                self.rib.originate(origins);
                self.flush_wanted.notify_one();
            }
            Command::BestRoutes(subscriber) => {
                let mut batch = RouteBatch::new();
                self.rib.for_each_best(|prefix, hops| batch.push((prefix, hops)));
                let _ = subscriber.send(batch);
                self.subscribers.push(subscriber);
            }
            Command::Resolve(resolver) => {
                self.rib.set_resolver(Box::new(move |next_hop| resolver(next_hop)));
                self.flush_wanted.notify_one();
            }
            Command::NextHopLost(address) => self.next_hop_lost(address),
            Command::Peers(answer) => {
                let _ = answer.send(self.peers.iter().map(|(id, p)| p.status(*id, &self.rib)).collect());
            }
            Command::Routes(query, answer) => {
                let _ = answer.send(self.routes(query));
            }
            Command::Shutdown(done) => {
                self.shut_down();
                let _ = done.send(());
            }
        }
    }

    fn configure(&mut self, config: SpeakerConfig) -> Result<(), String> {
        let identity = |c: &SpeakerConfig| (c.router_id, c.local_as);
        let renamed = self.config.as_ref().is_some_and(|old| identity(old) != identity(&config));
        let gone: Vec<PeerId> =
            self.peers.keys().filter(|id| renamed || !config.peers.contains_key(*id)).copied().collect();
        for id in gone {
            let subcode = if renamed { iana::OTHER_CONFIGURATION_CHANGE } else { iana::PEER_DECONFIGURED };
            self.remove_peer(id, subcode);
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
        match self.peers.get(&id) {
            Some(old) if old.config == config => return,
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
            self.event(id, false, Event::Start);
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
        Family::ALL.into_iter().for_each(|f| self.rib.refresh(index, f));
    }

    fn remove_peer(&mut self, id: PeerId, subcode: u8) {
        self.event(id, true, Event::Stop(Notification::cease(subcode)));
        self.event(id, false, Event::Stop(Notification::cease(subcode)));
        if let Some(peer) = self.peers.remove(&id) {
            self.rib.remove_peer(peer.index);
            if peer.config.password.is_some() {
                self.sign(id.address, None);
            }
        }
        self.flush_wanted.notify_one();
    }

    fn next_hop_lost(&mut self, address: IpAddr) {
        let lost: Vec<PeerId> = self.peers.keys().filter(|id| id.address == address).copied().collect();
        for id in lost {
            let Some(peer) = self.peers.get_mut(&id).filter(|p| p.session.is_some()) else {
                continue;
            };
            // The way to it is gone, and so is what it would keep forwarding: nothing is kept as stale.
            peer.session.as_mut().into_iter().for_each(|s| s.peer_restart = None);
            peer.last_error = Some("the interface towards the peer is down".into());
            self.event(id, false, Event::TcpFails);
        }
    }

    fn shut_down(&mut self) {
        for (_, (_, task)) in std::mem::take(&mut self.listeners) {
            task.abort();
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let stop = || Event::Stop(Notification::cease(iana::ADMINISTRATIVE_SHUTDOWN));
            if self.peers[&id].config.graceful_restart.is_some() {
                self.event(id, true, Event::TcpFails);
                self.event(id, false, Event::TcpFails);
            }
            // Without a connection it sends nothing, and there is no next attempt.
            self.event(id, true, stop());
            self.event(id, false, stop());
        }
    }

    fn routes(&self, query: RouteQuery) -> Vec<RouteStatus> {
        let index = |address: IpAddr| self.peers.iter().find(|(id, _)| id.address == address).map(|(_, p)| p.index);
        let view = match query {
            RouteQuery::Best => View::Best,
            RouteQuery::Received(None) => View::Received(None),
            RouteQuery::Received(Some(address)) => match index(address) {
                Some(peer) => View::Received(Some(peer)),
                None => return Vec::new(),
            },
            RouteQuery::Advertised(address) => match index(address) {
                Some(peer) => View::Advertised(peer),
                None => return Vec::new(),
            },
        };
        self.rib.routes(view, ROUTES_SHOWN).into_iter().map(RouteStatus::from).collect()
    }
}

/// Connections and the state machine.
impl Speaker {
    /// Whose connection it is, and whether it is the second one of its peer.
    fn connection_of(&self, serial: Serial) -> Option<(PeerId, bool)> {
        let id = *self.by_serial.get(&serial)?;
        let peer = self.peers.get(&id)?;
        let is = |c: &Connection| c.link.as_ref().is_some_and(|l| l.serial == serial);
        if is(&peer.primary) { Some((id, false)) } else { peer.extra.as_ref().is_some_and(is).then_some((id, true)) }
    }

    fn serial(&mut self) -> Serial {
        self.next_serial += 1;
        self.next_serial
    }

    fn take_accepted(&mut self, stream: TcpStream, from: IpAddr) {
        let serial = self.serial();
        let found = self.peers.iter().find(|(id, p)| id.address == from && p.config.down_reason.is_none());
        let Some((&id, peer)) = found else {
            tracing::debug!("connection from {from}, which is no peer");
            return;
        };
        if let Err(e) = session::set_accepted_options(&stream, from, &peer.config) {
            tracing::warn!("peer {from}: cannot set socket options: {e}");
            return;
        }
        match peer.primary.fsm.state() {
            State::Idle | State::Active => self.attach(id, serial, stream, Initiator::Peer, false),
            // RFC 4724 section 4.2: a restarted peer comes back before we noticed that it went.
            State::Established if peer.session.as_ref().is_some_and(|s| s.peer_restart.is_some()) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.last_error = Some("the peer connected anew".into());
                }
                self.event(id, false, Event::TcpFails);
                self.attach(id, serial, stream, Initiator::Peer, false);
            }
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

    fn attach(&mut self, id: PeerId, serial: Serial, stream: TcpStream, initiator: Initiator, extra: bool) {
        let Some(myself) = self.myself.upgrade() else { return };
        let Some(connection) = self.peers.get_mut(&id).and_then(|p| p.connection(extra)) else {
            return;
        };
        connection.local_address = stream.local_addr().ok().map(|a| a.ip().to_canonical());
        connection.initiator = initiator;
        connection.link = Some(Link::start(serial, stream, &myself));
        self.by_serial.insert(serial, id);
        self.event(id, extra, Event::TcpEstablished);
    }

    /// Runs an event through a connection's machine and does what it says.
    fn event(&mut self, id: PeerId, extra: bool, event: Event) {
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
            },
        };
        self.write(id, extra, |out| open.write(out));
    }

    fn is_restart_over(&self, restart_time: u16) -> bool {
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

    fn message(&mut self, serial: Serial, kind: MessageType, body: &[u8]) {
        let Some((id, extra)) = self.connection_of(serial) else {
            return;
        };
        match kind {
            MessageType::Update => self.update(id, extra, body),
            MessageType::Keepalive => self.event(id, extra, Event::KeepaliveReceived),
            MessageType::Open => self.open(id, extra, body),
            MessageType::Notification => {
                let notification = Notification::read(body);
                if let Some(peer) = self.peers.get_mut(&id).filter(|_| !extra) {
                    peer.last_error = Some(format!("received NOTIFICATION: {notification}"));
                }
                self.event(id, extra, Event::NotificationReceived);
            }
            MessageType::RouteRefresh => {
                self.event(id, extra, Event::UpdateReceived);
                let index = self.peers.get(&id).filter(|p| !extra && p.session.is_some()).map(|p| p.index);
                if let (Some(family), Some(index)) = (read_route_refresh(body), index) {
                    self.rib.refresh(index, family);
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
            Err(notification) => return self.event(id, extra, Event::MessageError(notification)),
        };
        let (hold_time, keepalive) = negotiate(peer.config.hold_time, open.hold_time, peer.config.keepalive);
        // RFC 4271 section 6.8, with the other connection of this peer.
        let theirs = (u32::from(open.router_id), open.asn);
        let ours = (own.0, peer.config.local_as);
        let other = peer.connection(!extra).map(|c| (c.fsm.state(), c.initiator));
        if let Some(connection) = peer.connection(extra) {
            connection.open = Some(open);
        }
        match other {
            Some((State::Established, _)) => return self.event(id, extra, Event::CollisionDump),
            Some((State::OpenConfirm, initiator)) => {
                let other_wins = collision_winner(ours, theirs) == initiator;
                self.event(id, extra == other_wins, Event::CollisionDump);
                if other_wins {
                    return;
                }
                // Where the second connection stays it is the first now.
                return self.event(id, false, Event::OpenReceived { hold_time, keepalive });
            }
            Some((State::Idle | State::Connect | State::Active, _)) if extra => {
                self.event(id, false, Event::Stop(Notification::cease(iana::CONNECTION_COLLISION_RESOLUTION)));
                return self.event(id, false, Event::OpenReceived { hold_time, keepalive });
            }
            _ => {}
        }
        self.event(id, extra, Event::OpenReceived { hold_time, keepalive });
    }

    fn update(&mut self, id: PeerId, extra: bool, body: &[u8]) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.session.as_mut().filter(|_| !extra) else {
            return self.event(id, extra, Event::UpdateReceived);
        };
        peer.primary.fsm.is_alive(now);
        let index = peer.index;
        match Update::read(&session.context, body) {
            Err(notification) => self.event(id, extra, Event::MessageError(notification)),
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

    fn up(&mut self, id: PeerId, extra: bool) {
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
            local_address: local,
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

    fn down(&mut self, id: PeerId, lost: bool) {
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
}

/// Time and output.
impl Speaker {
    fn next_deadline(&self) -> Option<Instant> {
        let in_sync = *self.in_sync.borrow();
        let settling = (!in_sync.v4 || !in_sync.v6).then(|| Instant::now() + Duration::from_secs(1));
        let peers = self.peers.values().flat_map(|p| {
            [p.primary.fsm.next_deadline(), p.extra.as_ref().and_then(|c| c.fsm.next_deadline()), p.stale_until]
        });
        peers.chain([settling]).flatten().min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            for extra in [true, false] {
                while let Some(event) =
                    self.peers.get_mut(&id).and_then(|p| p.connection(extra)).and_then(|c| c.fsm.expired(now))
                {
                    self.event(id, extra, event);
                }
            }
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.stale_until.is_some_and(|t| t <= now) {
                peer.stale_until = None;
                let index = peer.index;
                Family::ALL.into_iter().for_each(|f| self.rib.remove_paths(index, f, true));
                self.flush_wanted.notify_one();
            }
        }
        if *self.in_sync.borrow() != (InSync { v4: true, v6: true }) {
            self.flush_wanted.notify_one();
        }
    }

    /// See [`InSync`]. Only where every change has been handed out.
    fn check_in_sync(&self) {
        let Some(config) = &self.config else { return };
        let heard = |family: Family| {
            self.peers.values().filter(|p| p.config.down_reason.is_none()).all(|p| {
                let wait = p.config.graceful_restart.unwrap_or(crate::config::DEFAULT_RESTART_TIME);
                p.has_told(family, SETTLE_TIME) || self.is_restart_over(wait)
            })
        };
        let v4 = heard(Family::Ipv4) || config.peers.is_empty();
        let v6 = heard(Family::Ipv6) || config.peers.is_empty();
        self.in_sync.send_if_modified(|now| {
            // Once heard, a peer that goes down again is its own matter.
            let next = InSync { v4: now.v4 || v4, v6: now.v6 || v6 };
            std::mem::replace(now, next) != next
        });
    }

    /// Everything that changed goes to the kernel's task and to every peer whose socket has room.
    fn flush(&mut self) {
        let mut batch = RouteBatch::new();
        let wanted = !self.subscribers.is_empty();
        self.rib.distribute(|prefix, hops| {
            if wanted {
                batch.push((prefix, hops));
            }
        });
        if !batch.is_empty() {
            self.subscribers.retain(|s| s.send(batch.clone()).is_ok());
        }
        let ready: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.session.is_some() && self.rib.has_output(p.index))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.pump(id, false);
        }
        self.rib.reap();
        self.check_in_sync();
    }

    /// Writes what there is for a peer until its socket is full; the writer comes back for the rest.
    fn pump(&mut self, id: PeerId, extra: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let index = peer.index;
        let established = peer.session.is_some() && !extra;
        let Some(link) = peer.connection(extra).and_then(|c| c.link.as_mut()) else {
            return;
        };
        loop {
            // An error is the reader's to report.
            if !matches!(link.flush(), Ok(true)) || !established || !self.rib.has_output(index) {
                return;
            }
            self.rib.write_updates(index, &mut link.out, WRITE_SIZE);
        }
    }
}

/// A listener demands signatures (TCP-MD5) from the moment it knows the key.
fn sign(listener: &TcpListener, address: IpAddr, password: Option<&str>) {
    let same_family = listener.local_addr().is_ok_and(|l| l.is_ipv4() == address.is_ipv4());
    if same_family && let Err(e) = sockopt::set_md5(listener, address, password) {
        tracing::warn!("peer {address}: cannot set the TCP-MD5 key on the listener: {e}");
    }
}

#[cfg(test)]
mod tests;
