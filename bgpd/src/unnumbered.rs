//! Finds the neighbours behind interfaces without addresses: by Router Advertisements (RFC 4861 section 6), as FRR does.
//!
//! ```text
//! interfaces ──►┌──────────┐──set_neighbours──► speaker
//! link events ─►│ one task │
//! ICMPv6 ◄─────►└──────────┘
//! ```
//!
//! We advertise ourselves too, so that the other side finds us: with a router lifetime of 0, for we are nobody's default router
//! (section 6.2.3), and without prefixes. The task begins with the first interface and ends with the [`Finder`]. It decides nothing:
//! [`state::State`] does.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fib::{Event, Kernel, Link, Watch};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use self::message::Received;
use self::state::{Action, State};
use crate::dynamic::Neighbours;
use crate::speaker::Handle;

mod message;
mod state;

/// RFC 4861 section 6.1: what no packet has that was routed.
const HOP_LIMIT: u32 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Of what we read: the rest is options that we do not need.
const BUFFER: usize = 2048;
/// How long to wait after the links could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The task, once there is an interface to look behind.
pub struct Finder {
    speaker: Handle,
    seed: u64,
    interfaces: watch::Sender<BTreeSet<String>>,
    is_running: bool,
}

impl Finder {
    /// Nothing runs yet. `seed`: of the random delays.
    pub fn new(speaker: Handle, seed: u64) -> Finder {
        Finder { speaker, seed, interfaces: watch::Sender::default(), is_running: false }
    }

    /// Looks behind these interfaces from now on, and no others.
    ///
    /// # Errors
    /// In words: the kernel allows no raw ICMPv6 socket (it needs CAP_NET_RAW), or no netlink.
    pub fn look_behind(&mut self, interfaces: BTreeSet<String>) -> Result<(), String> {
        if !interfaces.is_empty() && !self.is_running {
            self.start().map_err(|e| format!("cannot find the neighbours of peerInterface: {e}"))?;
            self.is_running = true;
        }
        self.interfaces.send_if_modified(|last| std::mem::replace(last, interfaces.clone()) != interfaces);
        Ok(())
    }

    fn start(&self) -> Result<(), Box<dyn std::error::Error>> {
        let kernel = fib::Netlink::new()?;
        // SAFETY: a Socket has the same descriptor, its own, until it is dropped, and the AsyncFd owns it.
        let socket = unsafe { AsyncFd::register_with_interest(open()?, Interest::READABLE) }?;
        let task = Task {
            socket,
            state: State::new(self.seed),
            interfaces: self.interfaces.subscribe(),
            told: Neighbours::new(),
            speaker: self.speaker.clone(),
        };
        tokio::spawn(task.run(kernel));
        Ok(())
    }
}

/// How the task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Step,
    ReadLinks,
    End,
}

struct Task {
    socket: AsyncFd<Socket>,
    state: State,
    interfaces: watch::Receiver<BTreeSet<String>>,
    /// What the speaker knows.
    told: Neighbours,
    speaker: Handle,
}

impl Task {
    async fn run(mut self, kernel: impl Kernel) {
        let wanted = self.interfaces.borrow_and_update().clone();
        self.state.set_interfaces(wanted);
        loop {
            // Watched before it is read, so that nothing falls between.
            let (mut events, links) = match read_links(&kernel).await {
                Ok(both) => both,
                Err(e) => {
                    tracing::warn!("the links cannot be watched: {e}");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.state.resync(links, Instant::now());
            let next = loop {
                match self.step(&mut events).await {
                    Next::Step => {}
                    other => break other,
                }
            };
            if next == Next::End {
                return;
            }
        }
    }

    /// Does what is due, then waits for the next thing to happen.
    async fn step(&mut self, events: &mut mpsc::Receiver<Vec<Event>>) -> Next {
        for action in self.state.expire(Instant::now()) {
            self.act(action);
        }
        let now = self.state.neighbours();
        if self.told != now {
            self.told.clone_from(&now);
            self.speaker.set_neighbours(now);
        }
        let deadline = self.state.next_deadline();
        tokio::select! {
            received = receive(&self.socket) => match received {
                Ok(Some(received)) => self.state.received(received, Instant::now()),
                Ok(None) => {}
                Err(e) => {
                    tracing::warn!("ICMPv6: {e}");
                    tokio::time::sleep(RETRY).await;
                }
            },
            batch = events.recv() => match batch {
                Some(batch) => {
                    if !batch.iter().all(|event| self.observe(event)) {
                        return Next::ReadLinks;
                    }
                }
                None => return Next::ReadLinks,
            },
            changed = self.interfaces.changed() => match changed {
                Ok(()) => {
                    let wanted = self.interfaces.borrow_and_update().clone();
                    self.state.set_interfaces(wanted);
                    return Next::ReadLinks;
                }
                Err(_) => return Next::End,
            },
            () = sleep_until(deadline) => {}
        }
        Next::Step
    }

    /// False: events were lost.
    fn observe(&mut self, event: &Event) -> bool {
        match event {
            Event::LinkChanged(link) => self.state.link(link, Instant::now()),
            Event::LinkRemoved(index) => self.state.link_removed(*index),
            Event::Overrun => return false,
            _ => {}
        }
        true
    }

    fn act(&self, action: Action) {
        let socket = self.socket.get_ref();
        let (index, result) = match action {
            Action::Join(index) => match socket.join_multicast_v6(&ALL_ROUTERS, index) {
                // A member already: the interface had gone down only.
                Err(e) if e.kind() == ErrorKind::AddrInUse => (index, Ok(())),
                result => (index, result),
            },
            Action::Advertise(index) => (index, send(socket, &message::advertisement(), ALL_NODES, index)),
            Action::Solicit(index) => (index, send(socket, &message::solicitation(), ALL_ROUTERS, index)),
        };
        if let Err(e) = result {
            // The interface may have no link-local address yet, or be gone: the next one is not far.
            tracing::debug!("interface {index}: {action:?}: {e}");
        }
    }
}

async fn read_links(kernel: &impl Kernel) -> Result<(mpsc::Receiver<Vec<Event>>, Vec<Link>), fib::Error> {
    let events = kernel.monitor(Watch::Links)?;
    Ok((events, kernel.dump_links().await?))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_hops_v6(HOP_LIMIT)?;
    socket.set_unicast_hops_v6(HOP_LIMIT)?;
    socket.set_multicast_loop_v6(false)?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    Ok(socket)
}

/// The kernel makes the checksum (RFC 3542 section 3.1) and takes a link-local address of the interface as source.
fn send(socket: &Socket, message: &[u8], to: Ipv6Addr, index: u32) -> io::Result<()> {
    socket.send_to(message, &SocketAddrV6::new(to, 0, 0, index).into()).map(drop)
}

/// Waits for a packet; `None`: one that is none of ours.
async fn receive(socket: &AsyncFd<Socket>) -> io::Result<Option<Received>> {
    socket.async_io(Interest::READABLE, receive_now).await
}

fn receive_now(socket: &Socket) -> io::Result<Option<Received>> {
    let mut buffer = [0; BUFFER];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let packet = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let from = packet.address.map(|a| a.ip());
    let (mut hop_limit, mut index) = (None, None);
    for control in packet.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv6HopLimit(value) => hop_limit = Some(value),
            ControlMessageOwned::Ipv6PacketInfo(info) => index = Some(info.ipi6_ifindex),
            _ => {}
        }
    }
    let len = packet.bytes;
    let is_near = hop_limit == Some(HOP_LIMIT as i32);
    let parts = from.zip(index).filter(|_| is_near);
    Ok(parts.and_then(|(from, index)| message::read(&buffer[..len], from, index)))
}
