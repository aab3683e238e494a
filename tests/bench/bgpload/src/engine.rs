//! A single-threaded epoll loop that runs any number of BGP sessions.
//!
//! One thread on purpose: on a small machine the speaker under test must keep
//! the other cores. Everything that is sent was encoded before the clock starts.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Common;
use crate::check::{self, Check};
use crate::feed::{TAG_AS, Universe};
use crate::wire;

/// Of a session: RFC 4271 section 8.2.2, as far as a load generator needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Idle,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

/// A range of prefix numbers.
pub type Range = std::ops::Range<u32>;

/// What a receiver has counted since the last [`Peer::reset_counts`].
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub bytes: u64,
    pub updates: u64,
    pub announced: u64,
    pub withdrawn: u64,
    pub repeats: u64,
    pub unknown: u64,
    pub own: u64,
    pub malformed: u64,
}

pub struct Peer {
    pub local: IpAddr,
    pub open: wire::OpenParams,
    pub state: State,
    /// when the engine may (re)connect; `None`: leave it down
    pub connect_at: Option<Instant>,
    pub established_at: Option<Instant>,
    pub downs: u32,
    pub last_error: String,
    sock: Option<Socket>,
    want_write: bool,
    rx: Vec<u8>,
    rx_len: usize,
    tx: VecDeque<(Arc<Vec<u8>>, usize)>,
    hold: u16,
    next_keepalive: Instant,
    /// bit i: prefix i is announced to us now
    seen: Vec<u64>,
    /// prefixes announced to us now, less our own
    pub have: u32,
    /// prefixes that this peer announces itself
    pub own: Range,
    /// sent at once whenever the session comes up
    pub on_up: Option<Arc<Vec<u8>>>,
    /// what `have` must reach for this peer to be done
    pub target: Option<u32>,
    pub done_at: Option<Instant>,
    pub first_at: Option<Instant>,
    pub last_at: Option<Instant>,
    pub sent_at: Option<Instant>,
    pub counts: Counts,
    /// the sender (see `TAG_AS`) of the path we were last given for each prefix
    pub tags: Option<Vec<u8>>,
    pub check: Option<Check>,
    /// Comes up, and then reads nothing any more.
    pub stalled: bool,
}

impl Peer {
    pub fn new(local: IpAddr, open: wire::OpenParams, prefixes: u32) -> Peer {
        let now = Instant::now();
        Peer {
            local,
            open,
            state: State::Idle,
            connect_at: Some(now),
            established_at: None,
            downs: 0,
            last_error: String::new(),
            sock: None,
            want_write: false,
            rx: Vec::new(),
            rx_len: 0,
            tx: VecDeque::new(),
            hold: 0,
            next_keepalive: now,
            seen: vec![0; (prefixes as usize).div_ceil(64)],
            have: 0,
            own: 0..0,
            on_up: None,
            target: None,
            done_at: None,
            first_at: None,
            last_at: None,
            sent_at: None,
            counts: Counts::default(),
            tags: None,
            check: None,
            stalled: false,
        }
    }

    pub fn reset_counts(&mut self) {
        self.counts = Counts::default();
        (self.first_at, self.last_at, self.done_at, self.sent_at) = (None, None, None, None);
    }

    fn apply_update(&mut self, u: &Universe, body: &[u8]) -> bool {
        let (seen, have, own, c) = (&mut self.seen, &mut self.have, &self.own, &mut self.counts);
        let mut touched = false;
        let mut tagged: Vec<u32> = Vec::new();
        let want_tags = self.tags.is_some();
        let mut sampled = None;
        let block = wire::walk_update(body, &mut |n| {
            touched = true;
            let Some(i) = u.index(n.v6, n.bytes, n.len) else {
                c.unknown += 1;
                return;
            };
            if own.contains(&i) {
                c.own += 1;
                return;
            }
            let (w, bit) = (i as usize / 64, 1u64 << (i % 64));
            let had = seen[w] & bit != 0;
            if n.announce {
                c.announced += 1;
                if had {
                    c.repeats += 1;
                } else {
                    seen[w] |= bit;
                    *have += 1;
                }
                if want_tags {
                    tagged.push(i);
                }
                sampled = Some((i, n.v6));
            } else {
                c.withdrawn += 1;
                if had {
                    seen[w] &= !bit;
                    *have -= 1;
                }
            }
        });
        match block {
            None => c.malformed += 1,
            Some(a) => {
                if let (Some(tags), false) = (&mut self.tags, tagged.is_empty()) {
                    let t = wire::find_as(a, TAG_AS, TAG_AS + 255).map_or(255, |t| (t - TAG_AS) as u8);
                    tagged.iter().for_each(|&i| tags[i as usize] = t);
                }
                if let (Some(check), Some((i, v6)), 0) = (&mut self.check, sampled, c.updates % check::EVERY) {
                    check.see(i, v6, a);
                }
            }
        }
        c.updates += 1;
        touched
    }
}

pub struct Engine {
    pub target: SocketAddr,
    pub universe: Arc<Universe>,
    pub peers: Vec<Peer>,
    /// handshakes under way at a time: many speakers listen with a short backlog
    pub parallel: usize,
    pub verbose: bool,
    ep: Epoll,
    opening: usize,
    last_tick: Instant,
}

/// The chunk of one read; large, so that a busy receiver wakes seldom.
const RX_CHUNK: usize = 256 * 1024;
/// What the kernel takes for a peer that reads nothing.
const STALLED_BUFFER: usize = 64 * 1024;
/// How long after a lost session or a failed attempt the next attempt is made.
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait for events: timers are looked at after each.
const POLL: Duration = Duration::from_millis(10);

impl Engine {
    /// # Panics
    /// The kernel has no epoll instance left for us.
    pub fn new(c: &Common, universe: Arc<Universe>) -> Engine {
        Engine {
            target: c.target,
            universe,
            peers: Vec::new(),
            parallel: c.parallel,
            verbose: c.verbose,
            ep: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("the kernel gives us an epoll instance"),
            opening: 0,
            last_tick: Instant::now(),
        }
    }

    /// Forgets what the peers have counted.
    pub fn reset(&mut self) {
        self.peers.iter_mut().for_each(Peer::reset_counts);
    }

    pub fn established(&self) -> usize {
        self.peers.iter().filter(|p| p.state == State::Established).count()
    }

    pub fn downs(&self) -> u32 {
        self.peers.iter().map(|p| p.downs).sum()
    }

    /// Set what `peers` wait for; those already there are done now.
    pub fn expect(&mut self, peers: impl IntoIterator<Item = usize>, target: impl Fn(&Peer) -> u32) {
        let now = Instant::now();
        for i in peers {
            let p = &mut self.peers[i];
            p.target = Some(target(p));
            p.done_at = (p.target == Some(p.have)).then_some(now);
        }
    }

    /// Queue bytes, and write as much as the socket takes.
    pub fn send(&mut self, peer: usize, bytes: Arc<Vec<u8>>) {
        self.peers[peer].sent_at = None;
        self.peers[peer].tx.push_back((bytes, 0));
        self.write(peer);
    }

    /// Close a session as a crashed peer would.
    pub fn drop_session(&mut self, peer: usize) {
        self.close(peer, "dropped by us", None);
        self.peers[peer].downs -= 1;
    }

    fn close(&mut self, i: usize, why: &str, retry: Option<Duration>) {
        let p = &mut self.peers[i];
        if let Some(s) = p.sock.take() {
            // Closing takes it out of the set as well.
            let _ = self.ep.delete(&s);
        }
        if matches!(p.state, State::Connecting | State::OpenSent) {
            self.opening -= 1;
        }
        if p.state == State::Established {
            p.downs += 1;
        }
        if self.verbose {
            eprintln!("peer {} {:?}: {why}", p.local, p.state);
        }
        p.last_error = why.to_owned();
        p.state = State::Idle;
        p.tx.clear();
        p.seen.fill(0);
        p.have = 0;
        p.rx_len = 0;
        p.want_write = false;
        p.connect_at = retry.map(|d| Instant::now() + d);
    }

    fn connect(&mut self, i: usize) {
        let try_it = || -> io::Result<Socket> {
            let s = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
            s.set_reuse_address(true)?;
            s.bind(&SocketAddr::new(self.peers[i].local, 0).into())?;
            s.set_nonblocking(true)?;
            s.set_tcp_nodelay(true)?;
            if self.peers[i].stalled {
                s.set_recv_buffer_size(STALLED_BUFFER)?;
            }
            match s.connect(&self.target.into()) {
                Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(e),
                _ => Ok(s),
            }
        };
        match try_it() {
            Ok(s) => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, i as u64);
                if let Err(e) = self.ep.add(&s, event) {
                    return self.close(i, &format!("epoll: {e}"), Some(RETRY));
                }
                let p = &mut self.peers[i];
                p.sock = Some(s);
                p.want_write = true;
                p.state = State::Connecting;
                p.connect_at = None;
                self.opening += 1;
            }
            Err(e) => self.close(i, &format!("connect: {e}"), Some(RETRY)),
        }
    }

    fn interest(&mut self, i: usize, write: bool) {
        let p = &mut self.peers[i];
        if p.want_write != write
            && !(p.stalled && p.state == State::Established)
            && let Some(s) = &p.sock
        {
            let flags = if write { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            self.ep.modify(s, &mut EpollEvent::new(flags, i as u64)).expect("the socket was added when it was made");
            p.want_write = write;
        }
    }

    fn write(&mut self, i: usize) {
        let p = &mut self.peers[i];
        let mut budget = 1 << 20;
        while let (Some(s), Some((b, off))) = (&mut p.sock, p.tx.front_mut()) {
            if budget == 0 {
                break;
            }
            let end = b.len().min(*off + budget);
            match s.write(&b[*off..end]) {
                Ok(n) => {
                    *off += n;
                    budget -= n;
                    if *off == b.len() {
                        p.tx.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.close(i, &format!("write: {e}"), Some(RETRY));
                    return;
                }
            }
        }
        let idle = p.tx.is_empty();
        if idle && p.sent_at.is_none() {
            p.sent_at = Some(Instant::now());
        }
        self.interest(i, !idle);
    }

    fn read(&mut self, i: usize) {
        let p = &mut self.peers[i];
        if p.rx.len() < RX_CHUNK && p.target.is_some() || p.rx.is_empty() {
            // small until the peer is known to receive a lot
            let want = if p.seen.len() * 64 > 50_000 { RX_CHUNK } else { 64 * 1024 };
            p.rx.resize(want.max(p.rx.len()), 0);
        }
        let Some(s) = &mut p.sock else { return };
        let n = match s.read(&mut p.rx[p.rx_len..]) {
            Ok(0) => return self.close(i, "closed by the speaker", Some(RETRY)),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(e) => return self.close(i, &format!("read: {e}"), Some(RETRY)),
        };
        p.rx_len += n;
        p.counts.bytes += n as u64;
        let rx = std::mem::take(&mut p.rx);
        let end = p.rx_len;
        let mut at = 0;
        let mut touched = false;
        while end - at >= wire::HDR {
            let len = u16::from_be_bytes([rx[at + 16], rx[at + 17]]) as usize;
            if len < wire::HDR {
                self.close(i, "bad length from the speaker", Some(RETRY));
                break;
            }
            if end - at < len {
                break;
            }
            let body = &rx[at + wire::HDR..at + len];
            if rx[at + 18] == wire::UPDATE {
                touched |= self.peers[i].apply_update(&self.universe, body);
            } else {
                self.control(i, rx[at + 18], body);
            }
            at += len;
            if self.peers[i].sock.is_none() {
                break;
            }
        }
        let p = &mut self.peers[i];
        p.rx = rx;
        if p.sock.is_none() {
            return;
        }
        p.rx.copy_within(at..end, 0);
        p.rx_len = end - at;
        if touched {
            let now = Instant::now();
            p.first_at.get_or_insert(now);
            p.last_at = Some(now);
            if p.target == Some(p.have) {
                p.done_at.get_or_insert(now);
            } else {
                p.done_at = None;
            }
        }
    }

    fn control(&mut self, i: usize, kind: u8, body: &[u8]) {
        let state = self.peers[i].state;
        match (kind, state) {
            (wire::OPEN, State::OpenSent) => {
                self.opening -= 1;
                let p = &mut self.peers[i];
                p.hold = wire::open_hold(body).unwrap_or(0).min(p.open.hold);
                p.state = State::OpenConfirm;
                p.next_keepalive = Instant::now() + Duration::from_secs(u64::from(p.hold.max(3) / 3));
                self.send(i, Arc::new(wire::keepalive()));
            }
            (wire::KEEPALIVE, State::OpenConfirm) => {
                let p = &mut self.peers[i];
                p.state = State::Established;
                p.established_at = Some(Instant::now());
                if let (true, Some(s)) = (p.stalled, &p.sock) {
                    let _ = self.ep.delete(s);
                }
                if let Some(b) = p.on_up.clone() {
                    self.send(i, b);
                }
            }
            (wire::NOTIFICATION, _) => {
                let code = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
                self.close(i, &format!("NOTIFICATION {}/{}", code.0, code.1), Some(RETRY));
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for i in 0..self.peers.len() {
            let p = &self.peers[i];
            if p.state == State::Idle {
                if self.opening < self.parallel && p.connect_at.is_some_and(|t| t <= now) {
                    self.connect(i);
                }
            } else if p.hold > 0 && p.state == State::Established && p.next_keepalive <= now {
                // never inside a half-written message: the queue holds whole ones
                let ka = Arc::new(wire::keepalive());
                let p = &mut self.peers[i];
                p.next_keepalive = now + Duration::from_secs(u64::from(p.hold / 3));
                p.tx.push_back((ka, 0));
                self.write(i);
            }
        }
        self.last_tick = now;
    }

    /// Run until `done` or the deadline; whether it was done.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&Engine) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut events = [EpollEvent::empty(); 256];
        loop {
            if done(self) {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            let wait = (deadline - now).min(POLL);
            let timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
            let ready = match self.ep.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(e) => panic!("epoll: {e}"),
            };
            for e in &events[..ready] {
                let i = e.data() as usize;
                let flags = e.events();
                if flags.contains(EpollFlags::EPOLLOUT) && self.peers[i].state == State::Connecting {
                    let err = self.peers[i].sock.as_ref().and_then(|s| s.take_error().ok().flatten());
                    if let Some(e) = err {
                        self.close(i, &format!("connect: {e}"), Some(RETRY));
                        continue;
                    }
                    self.peers[i].state = State::OpenSent;
                    let open = Arc::new(wire::open(&self.peers[i].open));
                    self.send(i, open);
                } else if flags.contains(EpollFlags::EPOLLOUT) {
                    self.write(i);
                }
                if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.read(i);
                }
            }
            if self.last_tick.elapsed() > Duration::from_millis(5) || self.opening > 0 {
                self.tick();
            }
        }
    }

    /// Run until nothing has been received for `quiet`.
    pub fn settle(&mut self, quiet: Duration, limit: Duration) -> bool {
        let from = Instant::now();
        self.run(limit, |e| {
            let last = e.peers.iter().filter_map(|p| p.last_at).max().map_or(from, |t| t.max(from));
            last.elapsed() >= quiet
        })
    }
}

/// The i-th address from `base`: 250 to a /24, for clear configurations.
pub fn nth_addr(base: Ipv4Addr, i: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + i / 250 * 256 + i % 250)
}

/// A router ID for a loopback address: the same, in 10/8.
pub fn router_id(a: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(a) & 0x00ff_ffff | 0x0a00_0000)
}
