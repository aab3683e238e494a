//! The real kernel, by netlink.
//!
//! ```text
//!   apply, dump_*  ──► a blocking socket under a lock, on tokio's blocking threads (one request at a time)
//!   monitor        ──► a task and a socket of its own ──► channel of event batches; ends when the receiver is dropped
//! ```
//! A netlink socket belongs to the network namespace in which it was made, whatever the thread does later.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc;

use crate::codec;
use crate::kernel::{Addr, Change, Error, Event, Kernel, KernelRoute, Link, Watch};
use crate::route::Shared;

/// Messages in one send. Only the last one asks for an answer; errors come back for any of them. With more, the kernel
/// gets slower, not faster (measured: 128 a send 680,000 routes/s, 512 a send 320,000).
const BATCH: usize = 128;
/// Receive buffer, bytes: answers of a batch that fails as a whole, and a burst of events, must fit.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Room for one datagram of answers or of a dump: the kernel's own limit for the latter is 32 KiB, once it has seen a reader with
/// so much room.
const DATAGRAM: usize = 64 << 10;
/// How long the kernel may take to answer. It answers within the send; this is a guard against a lost answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an inconsistent dump (`NLM_F_DUMP_INTR`) is repeated before its last result is taken.
const DUMP_TRIES: usize = 5;
/// Batches of events that may wait for their reader; beyond, the socket's buffer fills and the reader sees an overrun.
const EVENT_BATCHES: usize = 64;
/// Events in one batch.
const EVENTS_PER_BATCH: usize = 4096;
/// `NLM_F_DUMP_INTR`: the tables changed while they were dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
/// Length of `nlmsghdr`, bytes.
const HEADER_LEN: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words about an error.
const ERROR_TEXT: u16 = 1;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const HAS_TLVS: u16 = 0x200;

/// Multicast groups (`rtnetlink(7)`, `linux/rtnetlink.h` RTNLGRP_*).
const LINK_GROUP: u32 = 1;
const OTHER_GROUPS: [u32; 4] =
    [5 /* IPV4_IFADDR */, 7 /* IPV4_ROUTE */, 9 /* IPV6_IFADDR */, 11 /* IPV6_ROUTE */];

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// The kernel of the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub struct Netlink {
    requests: Arc<Mutex<Requests>>,
    /// The port of the socket that writes, by which its changes are known.
    port: u32,
}

#[derive(Debug)]
struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the socket, in the namespace of this thread.
    ///
    /// # Errors
    /// [`Error::Socket`]
    pub fn new() -> Result<Self, Error> {
        let wrap = |source| Error::Socket { attempted: "open a socket", source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(wrap)?;
        let port = socket.bind_auto().map_err(wrap)?.port_number();
        socket.connect(&SocketAddr::new(0, 0)).map_err(wrap)?;
        socket.set_ext_ack(true).map_err(wrap)?;
        socket.set_cap_ack(true).map_err(wrap)?;
        grow_receive_buffer(&socket);
        set_answer_timeout(&socket).map_err(wrap)?;
        Ok(Self { requests: Arc::new(Mutex::new(Requests { socket, sequence: 0 })), port })
    }

    async fn with<T: Send + 'static>(&self, f: impl FnOnce(&mut Requests) -> T + Send + 'static) -> T {
        let requests = Arc::clone(&self.requests);
        let job = tokio::task::spawn_blocking(move || f(&mut requests.lock().unwrap_or_else(PoisonError::into_inner)));
        job.await.expect("a netlink request neither panics nor is cancelled")
    }
}

#[async_trait::async_trait]
impl Kernel for Netlink {
    async fn dump_routes(&self) -> Result<Vec<KernelRoute>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut m = RouteMessage::default();
            m.header.address_family = family;
            m.header.kind = RouteType::Unspec;
            let request = RouteNetlinkMessage::GetRoute(m);
            routes.extend(
                self.with(|r| {
                    let mut values = Shared::default();
                    r.dump(request, "dump routes", |m| match m {
                        RouteNetlinkMessage::NewRoute(m) => {
                            codec::route(&m).map(|r| KernelRoute { route: values.share(r.route), ..r })
                        }
                        _ => None,
                    })
                })
                .await?,
            );
        }
        Ok(routes)
    }

    async fn dump_links(&self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.with(|r| {
            r.dump(request, "dump links", |m| match m {
                RouteNetlinkMessage::NewLink(m) => codec::link(&m),
                _ => None,
            })
        })
        .await
    }

    async fn dump_addrs(&self) -> Result<Vec<Addr>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.with(|r| {
            r.dump(request, "dump addresses", |m| match m {
                RouteNetlinkMessage::NewAddress(m) => codec::addr(&m),
                _ => None,
            })
        })
        .await
    }

    async fn apply(&self, changes: Vec<Change>) -> Vec<Result<(), Error>> {
        self.with(move |r| changes.chunks(BATCH).flat_map(|batch| r.apply_batch(batch)).collect()).await
    }

    fn monitor(&self, watch: Watch) -> Result<mpsc::Receiver<Vec<Event>>, Error> {
        let wrap = |source| Error::Socket { attempted: "open a monitor", source };
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(wrap)?;
        socket.socket_mut().bind_auto().map_err(wrap)?;
        grow_receive_buffer(socket.socket_ref());
        if watch == Watch::Others {
            skip_routes_of(socket.socket_ref(), self.port).map_err(wrap)?;
        }
        let others: &[u32] = if watch == Watch::Links { &[] } else { &OTHER_GROUPS };
        for group in [LINK_GROUP].iter().chain(others) {
            socket.socket_mut().add_membership(*group).map_err(wrap)?;
        }
        let (tx, rx) = mpsc::channel(EVENT_BATCHES);
        tokio::spawn(report(socket, tx));
        Ok(rx)
    }
}

impl Requests {
    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends up to [`BATCH`] changes and matches the kernel's answers to them.
    fn apply_batch(&mut self, batch: &[Change]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(batch.len());
        // Of each message, in the order of their sequence numbers, which change it makes.
        let (mut messages, mut sent) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (index, change) in batch.iter().enumerate() {
            results.push(Ok(()));
            match codec::message(change) {
                Some(mut message) => {
                    message.header.sequence_number = self.next_sequence();
                    sent.push((message.header.sequence_number, index));
                    messages.push(message);
                }
                None => {
                    results[index] = Err(refused(
                        change,
                        io::Error::from(io::ErrorKind::InvalidInput),
                        Some("no such target".into()),
                    ));
                }
            }
        }
        let Some(last) = messages.last_mut() else { return results };
        last.header.flags |= NLM_F_ACK;
        let last = last.header.sequence_number;
        if let Err(source) = self.send(&mut messages) {
            return fail_all(batch, &source);
        }
        let mut bytes = Vec::with_capacity(DATAGRAM);
        loop {
            if let Err(source) = self.receive(&mut bytes) {
                // The answers are lost: nobody knows what was written.
                return fail_all(batch, &source);
            }
            for answer in Answers(&bytes) {
                if answer.errno != 0
                    && let Some((_, index)) = sent.iter().find(|(sequence, _)| *sequence == answer.sequence)
                    && let index = *index
                    && !is_absent(&batch[index], answer.errno)
                {
                    let source = io::Error::from_raw_os_error(answer.errno);
                    results[index] = Err(refused(&batch[index], source, answer.text));
                }
                if answer.sequence == last {
                    return results;
                }
            }
        }
    }

    fn send(&mut self, messages: &mut [Message]) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(messages.len() * 128);
        for message in messages {
            message.finalize();
            let start = buffer.len();
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        self.socket.send(&buffer, 0).map(drop)
    }

    /// A datagram. A signal does not end the wait: a socket with a timeout is not restarted by the kernel (signal(7)).
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        loop {
            match self.socket.recv_from(bytes, libc::MSG_TRUNC) {
                Ok((len, _)) if len > bytes.len() => {
                    return Err(io::Error::other(format!("an answer of {len} bytes, more than there is room for")));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                received => return received.map(drop),
            }
        }
    }

    /// Dumps, and dumps again while the tables change under it.
    fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        attempted: &'static str,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut tries = 1;
        loop {
            let (found, interrupted) = self.dump_once(request.clone(), attempted, &mut pick)?;
            if !interrupted || tries == DUMP_TRIES {
                return Ok(found);
            }
            tries += 1;
        }
    }

    fn dump_once<T>(
        &mut self,
        request: RouteNetlinkMessage,
        attempted: &'static str,
        pick: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Error> {
        let wrap = |source| Error::Socket { attempted, source };
        let mut message = Message::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.header.sequence_number = self.next_sequence();
        let sequence = message.header.sequence_number;
        self.send(&mut [message]).map_err(wrap)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        let mut bytes = Vec::with_capacity(DATAGRAM);
        loop {
            self.receive(&mut bytes).map_err(wrap)?;
            for part in parts(&bytes) {
                let message =
                    Message::deserialize(part).map_err(|e| Error::Malformed { attempted, reason: e.to_string() })?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok((found, interrupted)),
                    NetlinkPayload::Error(e) => return Err(wrap(e.to_io())),
                    NetlinkPayload::InnerMessage(inner) => found.extend(pick(inner)),
                    _ => {}
                }
            }
        }
    }
}

/// Reads the monitor's socket dry, again and again.
async fn report(socket: TokioSocket, tx: mpsc::Sender<Vec<Event>>) {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        let mut batch = Vec::new();
        buffer.clear();
        let first = tokio::select! {
            received = socket.recv_from(&mut buffer) => received.map(drop),
            () = tx.closed() => return,
        };
        let mut received = first;
        loop {
            match received {
                Ok(()) => batch.extend(parts(&buffer).filter_map(read_event)),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => batch.push(Event::Overrun),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    tracing::error!(error = %e, "the netlink monitor's socket failed");
                    return;
                }
            }
            if batch.len() >= EVENTS_PER_BATCH {
                break;
            }
            buffer.clear();
            received = socket.socket_ref().recv_from(&mut buffer, libc::MSG_DONTWAIT).map(drop);
        }
        if !batch.is_empty() && tx.send(batch).await.is_err() {
            return;
        }
    }
}

/// An event; what cannot be read counts as lost.
fn read_event(part: &[u8]) -> Option<Event> {
    match Message::deserialize(part) {
        Ok(message) => codec::event(message),
        Err(e) => {
            tracing::debug!(error = %e, "a netlink event cannot be read; reading everything again");
            Some(Event::Overrun)
        }
    }
}

/// The netlink messages that stand in one datagram.
fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if len < HEADER_LEN || len > rest.len() {
            return None;
        }
        let part = &rest[..len];
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

/// The kernel's answer to one message.
struct Answer {
    sequence: u32,
    /// 0: done.
    errno: i32,
    text: Option<String>,
}

/// The answers (`NLMSG_ERROR`) in one datagram:
///
/// ```text
/// nlmsghdr | i32 -errno | nlmsghdr of the request | attributes (NLM_F_ACK_TLVS), with NETLINK_CAP_ACK
/// ```
struct Answers<'a>(&'a [u8]);

impl Iterator for Answers<'_> {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        loop {
            let part = parts(self.0).next()?;
            self.0 = self.0.get(part.len().next_multiple_of(4)..).unwrap_or_default();
            let u16_at = |at: usize| Some(u16::from_ne_bytes(part.get(at..at + 2)?.try_into().ok()?));
            let u32_at = |at: usize| Some(u32::from_ne_bytes(part.get(at..at + 4)?.try_into().ok()?));
            if u16_at(4) != Some(libc::NLMSG_ERROR as u16) {
                continue;
            }
            let code = u32_at(HEADER_LEN)? as i32;
            let text = if u16_at(6)? & HAS_TLVS != 0 { error_text(part.get(2 * HEADER_LEN + 4..)?) } else { None };
            return Some(Answer { sequence: u32_at(8)?, errno: code.wrapping_neg(), text });
        }
    }
}

fn error_text(mut attributes: &[u8]) -> Option<String> {
    loop {
        let len = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..len)?;
        if kind == ERROR_TEXT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// Deleting what is not there is success. A route goes with its link, hence ENODEV.
fn is_absent(change: &Change, errno: i32) -> bool {
    matches!(change, Change::Delete(..)) && matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV)
}

fn refused(change: &Change, source: io::Error, reason: Option<String>) -> Error {
    let verb = match change {
        Change::Add(..) => "add",
        Change::Replace(..) => "replace",
        Change::Delete(..) => "delete",
    };
    Error::Refused { attempted: format!("{verb} {}", change.key()), reason, source }
}

fn fail_all(batch: &[Change], source: &io::Error) -> Vec<Result<(), Error>> {
    let copy = || match source.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::from(source.kind()),
    };
    batch.iter().map(|_| Err(Error::Socket { attempted: "write routes", source: copy() })).collect()
}

/// Keeps what this port does to routes away from a monitor: a classic BPF program in the kernel.
fn skip_routes_of(socket: &Socket, port: u32) -> io::Result<()> {
    let stmt = |code: u32, k: u32, jt: u8, jf: u8| SockFilter::new(code as u16, jt, jf, k);
    // BPF loads in network order, the header is in the host's.
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let load_half = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    let load_word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let if_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let program = [
        stmt(load_word, 12 /* nlmsg_pid */, 0, 0),
        stmt(if_equal, u32::from_be_bytes(port.to_ne_bytes()), 0, 4),
        stmt(load_half, 4 /* nlmsg_type */, 0, 0),
        stmt(if_equal, kind(libc::RTM_NEWROUTE), 1, 0),
        stmt(if_equal, kind(libc::RTM_DELROUTE), 0, 1),
        stmt(give, 0, 0, 0),
        stmt(give, u32::MAX, 0, 0),
    ];
    SockRef::from(socket).attach_filter(&program)
}

/// A larger receive buffer, beyond the system's limit where we may. Without it we only see overruns sooner.
fn grow_receive_buffer(socket: &Socket) {
    if setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER).is_err()
        && let Err(e) = socket.set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int)
    {
        tracing::debug!(error = %e, "the netlink receive buffer stays small");
    }
}

fn set_answer_timeout(socket: &Socket) -> io::Result<()> {
    SockRef::from(socket).set_read_timeout(Some(ANSWER_TIMEOUT))
}
