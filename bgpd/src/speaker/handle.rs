//! How the rest of the program talks to the speaker: [`Handle`] and the messages it sends.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::af::{Family, Prefix};
use bgp_proto::rib::Cursor;
use bgp_proto::rib::explain::Explanation;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};

use super::clear::Clear;
use super::queries::{PeersAt, RouteQuery, RouteSlice, SpeakerStatus};
use super::{Watched, run};
use crate::bfd;
use crate::dynamic::Neighbours;
use crate::events::{self, Event};
use crate::mrt;
use crate::peer::{PeerDetail, PeerStatus};
use bgp_plan::config::{Origin, PeerId, SpeakerConfig};

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
    counted_on: watch::Receiver<bool>,
    behind: watch::Receiver<fib::Neighbours>,
    bfd: bfd::Handle,
}

/// A message to the speaker's thread.
pub(super) enum Command {
    Configure(Box<SpeakerConfig>, oneshot::Sender<Result<(), String>>),
    Originate(Vec<Origin>),
    BestRoutes(mpsc::UnboundedSender<RouteBatch>),
    Resolve(Resolver),
    NextHopLost(IpAddr),
    Neighbour(PeerId, bfd::Notice),
    SetNeighbours(Neighbours),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Details(oneshot::Sender<Vec<PeerDetail>>),
    Peer(PeersAt, oneshot::Sender<Vec<PeerDetail>>),
    Clear(Option<PeersAt>, Clear, Option<String>, oneshot::Sender<usize>),
    Routes(RouteQuery, Cursor, oneshot::Sender<Option<RouteSlice>>),
    Status(oneshot::Sender<SpeakerStatus>),
    Explain(Prefix, oneshot::Sender<Option<Explanation>>),
    Watch(events::Subscriber),
    MrtIndex(oneshot::Sender<mrt::Index>),
    Shutdown(oneshot::Sender<()>),
}

/// How the speaker begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// A previous run has left something that peers still count on: OPENs say that we restarted (RFC 4724), and nothing is
    /// announced before peers have told us what they have.
    pub restarted: bool,
    /// Of each family: the kernel still has the routes of that run, and forwards by them.
    pub preserved: [bool; 2],
    /// Nothing is forwarded here.
    pub no_fib: bool,
    /// Seed of the hash tables and of the timers' jitter.
    pub seed: u64,
}

impl Handle {
    /// Starts the speaker's thread, and BFD's. It does nothing until it is configured.
    ///
    /// # Errors
    /// A thread or its runtime cannot be had.
    pub fn start(start: Start) -> io::Result<Handle> {
        let (commands, received) = mpsc::unbounded_channel();
        let notices = commands.downgrade();
        let bfd = bfd::Handle::start(start.seed, move |id, notice| {
            if let Some(speaker) = notices.upgrade() {
                // The speaker's thread ends only with the process.
                let _ = speaker.send(Command::Neighbour(id, notice));
            }
        })?;
        let speakers_bfd = bfd.clone();
        let watched = Watched::default();
        let (in_sync, counted_on) = (watched.in_sync.subscribe(), watched.counted_on.subscribe());
        let behind = watched.behind.subscribe();
        let (began, beginning) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("speaker".into()).spawn(move || {
            // A runtime for tasks of one thread has to be made on it.
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    // Whoever starts the speaker waits for it.
                    let _ = began.send(Ok(()));
                    runtime.block_on(run(start, speakers_bfd, received, watched));
                }
                Err(e) => {
                    let _ = began.send(Err(e));
                }
            }
        })?;
        beginning.recv().map_err(io::Error::other)??;
        Ok(Handle { commands, in_sync, counted_on, behind, bfd })
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

    /// Who is behind the interfaces of unnumbered peers.
    pub fn set_neighbours(&self, neighbours: Neighbours) {
        self.send(Command::SetNeighbours(neighbours));
    }

    /// The peers that were found behind links, however they were: next hops of theirs are on those links.
    pub fn neighbours(&self) -> watch::Receiver<fib::Neighbours> {
        self.behind.clone()
    }

    /// See [`InSync`].
    pub fn in_sync(&self) -> watch::Receiver<InSync> {
        self.in_sync.clone()
    }

    /// A peer had a session with graceful restart: if this process ends, the next one has restarted.
    pub fn counted_on(&self) -> watch::Receiver<bool> {
        self.counted_on.clone()
    }

    /// Every configured peer, for display.
    pub async fn peers(&self) -> Vec<PeerStatus> {
        let (answer, peers) = oneshot::channel();
        self.send(Command::Peers(answer));
        peers.await.unwrap_or_default()
    }

    /// Everything about every peer.
    pub async fn details(&self) -> Vec<PeerDetail> {
        let (answer, details) = oneshot::channel();
        self.send(Command::Details(answer));
        details.await.unwrap_or_default()
    }

    /// Everything about the peers at an address, for display.
    pub async fn peer(&self, at: PeersAt) -> Vec<PeerDetail> {
        let (answer, details) = oneshot::channel();
        self.send(Command::Peer(at, answer));
        details.await.unwrap_or_default()
    }

    /// Begins sessions anew, or a part of what they carry: of the peers at an address, or of all. How many there are. `message`
    /// goes with the end of a session.
    pub async fn clear(&self, at: Option<PeersAt>, clear: Clear, message: Option<String>) -> usize {
        let (answer, count) = oneshot::channel();
        self.send(Command::Clear(at, clear, message, answer));
        count.await.unwrap_or_default()
    }

    /// A slice of routes, for display, and where the next one begins; `None`: there is no such peer. Other work of the
    /// speaker has its turn between two slices.
    pub async fn routes(&self, query: RouteQuery, from: Cursor) -> Option<RouteSlice> {
        let (answer, routes) = oneshot::channel();
        self.send(Command::Routes(query, from, answer));
        routes.await.unwrap_or_default()
    }

    /// The speaker as a whole, for display.
    pub async fn status(&self) -> SpeakerStatus {
        let (answer, status) = oneshot::channel();
        self.send(Command::Status(answer));
        status.await.unwrap_or_default()
    }

    /// Why a prefix, or the longest one that it lies inside of, goes the way it goes.
    pub async fn explain(&self, target: Prefix) -> Option<Explanation> {
        let (answer, explanation) = oneshot::channel();
        self.send(Command::Explain(target, answer));
        explanation.await.unwrap_or_default()
    }

    /// What happens from now on; see [`events`] for how it ends.
    pub fn watch(&self, filter: events::Filter) -> mpsc::Receiver<Event> {
        let (subscriber, events) = events::subscription(filter);
        self.send(Command::Watch(subscriber));
        events
    }

    /// Who a dump of the table is about; `None`: the speaker's thread ended.
    pub async fn mrt_index(&self) -> Option<mrt::Index> {
        let (answer, index) = oneshot::channel();
        self.send(Command::MrtIndex(answer));
        index.await.ok()
    }

    /// Ends all sessions: with graceful restart without a word, so that peers keep the routes; else with Cease.
    pub async fn shut_down(&self) {
        // First, or peers would take the end of BFD for a failure and keep nothing.
        self.bfd.shut_down().await;
        let (done, finished) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = finished.await;
    }

    fn send(&self, command: Command) {
        // The speaker's thread ends only with the process.
        let _ = self.commands.send(command);
    }
}
