//! The speaker: owns every peer and the RIB.

use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::af::{Family, Prefix};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Origin, SpeakerConfig};

/// How far away a next hop is: the IGP metric of RFC 4271 section 9.1.2.2 step e, `None` if it cannot be reached.
pub type Resolver = Arc<dyn Fn(IpAddr) -> Option<u32> + Send + Sync>;

/// Best routes that changed: the next hops of the multipath set as announced (not resolved), `None` if the prefix has no
/// route by BGP any more. Routes of our own are not in it.
pub type RouteBatch = Vec<(Prefix, Option<Vec<IpAddr>>)>;

/// Whether what peers had to say after the start has been heard: End-of-RIB from every peer that announces it, or the time
/// for that is over. Kernel routes that a previous run left may be swept only then.
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
}

impl Handle {
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

    fn send(&self, command: Command) {
        // The speaker's thread ends only with the process.
        let _ = self.commands.send(command);
    }
}
