//! The speaker: owns every peer and the RIB, on a thread of its own.
//!
//! ```text
//! Handle ──commands──►┌───────────────── thread "speaker" ────────────────────────────────┐
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

mod clear;
mod configure;
mod connections;
mod deadlines;
mod established;
mod guests;
mod handle;
mod neighbour;
mod output;
mod queries;
mod restart;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bgp_proto::af::Family;
use bgp_proto::fsm::restart::Cause;
use bgp_proto::fsm::{Event, Initiator};
use bgp_proto::rib::Rib;
use bgp_proto::wire::{self, Notification, iana};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};

pub use self::clear::Clear;
use self::deadlines::Deadlines;
use self::handle::Command;
pub use self::handle::{Handle, InSync, Resolver, RouteBatch, Start};
pub use self::queries::{PeersAt, RibStatus, RouteQuery, RouteSlice, RouteView, SpeakerStatus};
use self::restart::OwnRestart;
use crate::bfd;
use crate::bmp::Stations;
use crate::dynamic::{Guests, Neighbours};
use crate::events;
use crate::peer::{Peer, Waiting};
use crate::session::Serial;
use bgp_plan::config::{PeerId, SpeakerConfig};

/// The speaker as its tasks share it.
pub type Shared = Rc<RefCell<Speaker>>;

/// See the module.
pub struct Speaker {
    start: Start,
    restart: OwnRestart,
    config: Option<SpeakerConfig>,
    /// For the first time.
    configured_at: Option<Instant>,
    peers: BTreeMap<PeerId, Peer>,
    by_serial: BTreeMap<Serial, PeerId>,
    /// Counts the times that a connection came, went, took another's place, or became a session.
    moves: u64,
    listeners: BTreeMap<SocketAddr, (Rc<TcpListener>, JoinHandle<()>)>,
    pub(crate) rib: Rib,
    /// UPDATEs on their way to a socket, kept for its room.
    scratch: Vec<u8>,
    next_serial: Serial,
    subscribers: Vec<mpsc::UnboundedSender<RouteBatch>>,
    events: events::Bus,
    /// When the present window of changes began.
    flap_window: Instant,
    pub(crate) bmp: Stations,
    bfd: bfd::Handle,
    guests: Guests,
    /// Of the interfaces of unnumbered peers.
    neighbours: Neighbours,
    /// Those behind which nobody was heard yet.
    waiting: BTreeMap<String, Waiting>,
    /// Peers by their link-local addresses, for the kernel's task.
    behind: watch::Sender<fib::Neighbours>,
    in_sync: watch::Sender<InSync>,
    counted_on: watch::Sender<bool>,
    /// Something happened that `in_sync` may have waited for; and when to look again at any rate.
    look_at_sync: bool,
    next_look: Instant,
    /// Nothing is announced of a family yet: we restart.
    holding: [bool; 2],
    deadlines: Deadlines,
    flush_wanted: Rc<Notify>,
    timers_changed: Rc<Notify>,
    /// To start tasks that call back.
    myself: std::rc::Weak<RefCell<Speaker>>,
}

/// What others of the program watch.
#[derive(Default)]
struct Watched {
    in_sync: watch::Sender<InSync>,
    counted_on: watch::Sender<bool>,
    behind: watch::Sender<fib::Neighbours>,
}

async fn run(start: Start, bfd: bfd::Handle, mut commands: mpsc::UnboundedReceiver<Command>, watched: Watched) {
    let speaker = new_speaker(start, bfd, watched);
    let (timers_changed, flush_wanted) = {
        let this = speaker.borrow();
        (this.timers_changed.clone(), this.flush_wanted.clone())
    };
    spawn_local(run_timers(speaker.clone(), timers_changed));
    spawn_local(run_flusher(speaker.clone(), flush_wanted));
    while let Some(command) = commands.recv().await {
        speaker.borrow_mut().command(command);
    }
}

/// One that has heard nothing yet.
fn new_speaker(start: Start, bfd: bfd::Handle, watched: Watched) -> Shared {
    let Watched { in_sync, counted_on, behind } = watched;
    Rc::new_cyclic(|myself| {
        RefCell::new(Speaker {
            start,
            restart: OwnRestart { began: Instant::now(), start },
            config: None,
            configured_at: None,
            peers: BTreeMap::new(),
            by_serial: BTreeMap::new(),
            moves: 0,
            listeners: BTreeMap::new(),
            rib: new_rib(start),
            scratch: Vec::new(),
            next_serial: 0,
            subscribers: Vec::new(),
            events: events::Bus::default(),
            flap_window: Instant::now(),
            bmp: Stations::default(),
            bfd,
            guests: Guests::default(),
            neighbours: Neighbours::new(),
            behind,
            waiting: BTreeMap::new(),
            in_sync,
            counted_on,
            look_at_sync: true,
            next_look: Instant::now(),
            holding: [start.restarted; 2],
            deadlines: Deadlines::default(),
            flush_wanted: Rc::default(),
            timers_changed: Rc::default(),
            myself: myself.clone(),
        })
    })
}

/// An empty one, which announces nothing while we restart.
fn new_rib(start: Start) -> Rib {
    let mut rib = Rib::new(start.seed);
    if start.restarted {
        Family::ALL.into_iter().for_each(|f| rib.hold(f));
    }
    rib
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
        speaker.borrow_mut().flush(Instant::now());
    }
}

/// What readers, listeners and attempts say.
impl Speaker {
    /// A peer connected to us.
    pub fn accepted(speaker: &Shared, stream: TcpStream, from: SocketAddr) {
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
                let reason = format!("cannot connect to {} port {}: {e}", id.address, id.port);
                this.lose(id, false, Cause::ConnectionLost, reason);
            }
        }
    }

    /// Octets of a connection; how many of them were whole messages, `None` if the connection is over.
    pub fn input(speaker: &Shared, serial: Serial, octets: &[u8]) -> Option<usize> {
        let mut this = speaker.borrow_mut();
        let mut used = 0;
        let (mut id, mut extra) = this.connection_of(serial)?;
        let mut max_len = this.max_message_len(id, extra);
        let mut known = this.moves;
        loop {
            match wire::frame(&octets[used..], max_len) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    used += frame.len;
                    this.message(id, extra, frame.kind, frame.body);
                }
                Err(notification) => this.event(id, extra, Event::HeaderError(notification)),
            }
            if known != this.moves {
                // The message ended its own connection, or changed what it is.
                (id, extra) = this.connection_of(serial)?;
                max_len = this.max_message_len(id, extra);
                known = this.moves;
            }
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
            this.lose(id, extra, Cause::ConnectionLost, reason);
        }
    }

    /// A socket that was full takes octets again.
    pub fn drain(speaker: &Shared, serial: Serial) {
        let mut this = speaker.borrow_mut();
        if let Some((id, extra)) = this.connection_of(serial) {
            this.pump(id, extra);
            this.note_blocked(id);
            // What was encoded for this peer is for others of its group too.
            this.flush_wanted.notify_one();
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
            Command::SetNeighbours(neighbours) => self.set_neighbours(neighbours),
            Command::Neighbour(id, notice) => self.neighbour(id, notice),
            Command::Peers(answer) => {
                let all = self.peers.iter().map(|(id, p)| p.status(*id, &self.rib, self.bfd.status(*id)));
                let _ = answer.send(all.chain(self.missing_neighbours().map(|p| p.status)).collect());
            }
            Command::Routes(query, from, answer) => {
                let _ = answer.send(self.routes(&query, from));
            }
            Command::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Command::Details(answer) => {
                let all = self.peers.iter().map(|(id, p)| p.detail(*id, &self.rib, self.bfd.status(*id)));
                let _ = answer.send(all.chain(self.missing_neighbours()).collect());
            }
            Command::Peer(at, answer) => {
                let all = self.peers.iter().filter(|(id, _)| at.has(id));
                let _ = answer.send(all.map(|(id, p)| p.detail(*id, &self.rib, self.bfd.status(*id))).collect());
            }
            Command::Clear(at, clear, message, answer) => {
                let _ = answer.send(self.clear(at, clear, message.as_deref()));
            }
            Command::Explain(target, answer) => {
                let _ = answer.send(self.rib.explain(target));
            }
            Command::Watch(subscriber) => self.events.add(subscriber),
            Command::MrtIndex(answer) => {
                let _ = answer.send(self.mrt_index());
            }
            Command::Shutdown(done) => {
                self.shut_down();
                let _ = done.send(());
            }
        }
    }

    fn shut_down(&mut self) {
        for (_, (_, task)) in std::mem::take(&mut self.listeners) {
            task.abort();
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let stop = || Event::ManualStop(Notification::cease(iana::ADMINISTRATIVE_SHUTDOWN));
            if self.peers[&id].ends_silently() {
                self.event(id, true, Event::TcpFails);
                self.event(id, false, Event::TcpFails);
            }
            // Without a connection it sends nothing, and there is no next attempt.
            self.event(id, true, stop());
            self.event(id, false, stop());
        }
        self.bmp.shut_down();
    }
}

#[cfg(test)]
mod tests;
