//! The kernel behind a trait: what can be read, written and watched.

use std::io;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::route::{Route, RouteKey};

/// A route as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    pub key: RouteKey,
    pub route: Arc<Route>,
    /// Of an event: it was added beside what the key has already, if that has anything, and replaced nothing.
    pub is_beside: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// The other side is there (`IFF_LOWER_UP`).
    pub carrier: bool,
}

impl Link {
    /// Whether packets can leave by this link.
    pub fn is_usable(&self) -> bool {
        self.up && self.carrier
    }
}

/// An address of this host; `net` keeps its host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr {
    pub ifindex: u32,
    pub net: IpNet,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the route. Where the key is taken, whoever has it, the kernel refuses ([`Error::is_taken`]).
    Add(RouteKey, Arc<Route>),
    /// Creates the route, or replaces the one of the same key, whoever has it: for keys that are known to be ours.
    Replace(RouteKey, Arc<Route>),
    /// Deletes the route of this key and protocol; an absent one is success.
    Delete(RouteKey, u8),
}

impl Change {
    /// The key that is written.
    pub fn key(&self) -> RouteKey {
        match self {
            Self::Add(key, _) | Self::Replace(key, _) | Self::Delete(key, _) => *key,
        }
    }
}

/// Something that happened. A hint, never the whole truth: see [`Event::needs_resync`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    RouteChanged(KernelRoute),
    /// The route of this key and protocol went.
    RouteRemoved(RouteKey, u8),
    /// A link appeared or changed; sent for every change, also where no field of [`Link`] did.
    LinkChanged(Link),
    LinkRemoved(u32),
    AddrAdded(Addr),
    AddrRemoved(Addr),
    /// Events were lost.
    Overrun,
}

impl Event {
    /// Whether routes may have changed without an event of their own: after a lost event, and after a link or an address
    /// went, because the kernel drops the IPv4 routes that used them in silence (`fib_sync_down_dev`,
    /// `fib_sync_down_addr`).
    pub fn needs_resync(&self) -> bool {
        match self {
            Self::Overrun | Self::LinkRemoved(_) | Self::AddrRemoved(_) => true,
            Self::LinkChanged(link) => !link.is_usable(),
            Self::RouteChanged(_) | Self::RouteRemoved(..) | Self::AddrAdded(_) => false,
        }
    }
}

/// Why the kernel could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {attempted} by netlink")]
    Socket {
        attempted: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel refused to {attempted}{}", .reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Refused {
        /// `add 10.0.0.0/26 metric 1024`
        attempted: String,
        /// The kernel's own words, where it gave any.
        reason: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's answer cannot be read while trying to {attempted}: {reason}")]
    Malformed { attempted: &'static str, reason: String },
    #[error("{key} belongs to route protocol {owner}: remove that route, or let its owner do so")]
    Foreign { key: RouteKey, owner: u8 },
}

impl Error {
    /// Somebody else has a route of this key, which we did not know of.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::EEXIST))
    }

    /// Whether the write may have happened all the same.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::Socket { .. } | Self::Malformed { .. })
    }
}

/// What a monitor is to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Routes, links and addresses.
    All,
    /// The same without the routes that this [`Kernel`] writes itself: who has a table of them knows. A million of them would
    /// otherwise overrun the socket.
    Others,
    Links,
}

/// A kernel. Dumps cover both families and the main table only.
#[async_trait::async_trait]
pub trait Kernel: Send + Sync {
    /// Every route of the main table.
    async fn dump_routes(&self) -> Result<Vec<KernelRoute>, Error>;
    /// Every link.
    async fn dump_links(&self) -> Result<Vec<Link>, Error>;
    /// Every address.
    async fn dump_addrs(&self) -> Result<Vec<Addr>, Error>;
    /// Writes in order; one answer for each change. One that fails does not stop the others.
    async fn apply(&self, changes: Vec<Change>) -> Vec<Result<(), Error>>;
    /// Starts to watch. Dump after this call, so that nothing falls between. Events come in batches; the channel ends
    /// only when the receiver is dropped or the socket fails.
    ///
    /// # Errors
    /// [`Error::Socket`] when the watching socket cannot be made.
    fn monitor(&self, watch: Watch) -> Result<mpsc::Receiver<Vec<Event>>, Error>;
}
