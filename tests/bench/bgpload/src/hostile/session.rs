//! A blocking session of a case, and what the monitor session is told meanwhile.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Common;
use crate::run::open_params;
use crate::wire::{self, HDR, KEEPALIVE, NOTIFICATION, OPEN, UPDATE};

pub enum Got {
    Message(u8, Vec<u8>),
    Closed,
    Nothing,
}

/// A blocking session with time limits.
pub struct Session {
    s: TcpStream,
    buf: Vec<u8>,
    pub closed: bool,
}

impl Session {
    pub fn connect(target: SocketAddr, local: Ipv4Addr) -> io::Result<Session> {
        let s = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        s.set_reuse_address(true)?;
        s.bind(&SocketAddr::new(local.into(), 0).into())?;
        s.connect_timeout(&target.into(), Duration::from_secs(2))?;
        s.set_tcp_nodelay(true)?;
        Ok(Session { s: s.into(), buf: Vec::new(), closed: false })
    }

    pub fn send(&mut self, b: &[u8]) {
        if self.s.write_all(b).is_err() {
            // what the speaker said before it closed is still to be read
        }
    }

    pub fn next(&mut self, limit: Duration) -> Got {
        let until = Instant::now() + limit;
        loop {
            if self.buf.len() >= HDR {
                let n = (u16::from_be_bytes([self.buf[16], self.buf[17]]) as usize).max(HDR);
                if self.buf.len() >= n {
                    let m: Vec<u8> = self.buf.drain(..n).collect();
                    return Got::Message(m[18], m[HDR..].to_vec());
                }
            }
            if self.closed {
                return Got::Closed;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Got::Nothing;
            }
            let _ = self.s.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            let mut b = [0; 8192];
            match self.s.read(&mut b) {
                Ok(0) => self.closed = true,
                Ok(n) => self.buf.extend_from_slice(&b[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => self.closed = true,
            }
        }
    }

    /// Read until the speaker has confirmed our OPEN.
    pub fn opened(&mut self, limit: Duration, confirm: bool) -> Result<(), String> {
        let until = Instant::now() + limit;
        loop {
            match self.next(until.saturating_duration_since(Instant::now())) {
                Got::Message(OPEN, _) if confirm => self.send(&wire::keepalive()),
                Got::Message(OPEN, _) => return Ok(()),
                Got::Message(KEEPALIVE, _) => return Ok(()),
                Got::Message(NOTIFICATION, b) => return Err(notify(&b)),
                Got::Message(..) => {}
                Got::Closed => return Err("closed".into()),
                Got::Nothing => return Err("no answer".into()),
            }
        }
    }
}

pub fn notify(b: &[u8]) -> String {
    format!("notify {}/{}", b.first().copied().unwrap_or(0), b.get(1).copied().unwrap_or(0))
}

/// What the monitor was told of one prefix.
#[derive(Default)]
pub struct Seen {
    pub announced: bool,
    pub withdrawn: bool,
    /// type to flags, of the last announcement
    pub attrs: Vec<(u8, u8)>,
}

/// Read what the monitor has, and keep what concerns `prefix`.
pub fn watch(mon: &mut Session, prefix: [u8; 2], limit: Duration, seen: &mut Seen) -> bool {
    match mon.next(limit) {
        Got::Message(UPDATE, b) => {
            let (mut up, mut down) = (false, false);
            let block = wire::walk_update(&b, &mut |n| {
                if n.len == 16 && n.bytes == prefix {
                    if n.announce { up = true } else { down = true }
                }
            });
            if up {
                seen.announced = true;
                seen.withdrawn = false;
                seen.attrs = block.map(|a| wire::attrs(a).map(|x| (x.1, x.0)).collect()).unwrap_or_default();
            } else if down {
                seen.withdrawn = true;
            }
            true
        }
        Got::Message(..) => true,
        _ => false,
    }
}

pub fn open_session(c: &Common, local: Ipv4Addr, asn: u32, hold: u16) -> Result<Session, String> {
    let mut last = String::new();
    for _ in 0..8 {
        match Session::connect(c.target, local) {
            Ok(mut s) => {
                let mut p = open_params(c, local, asn, false);
                p.hold = hold;
                s.send(&wire::open(&p));
                match s.opened(Duration::from_secs(3), true) {
                    Ok(()) => return Ok(s),
                    Err(e) => last = e,
                }
            }
            Err(e) => last = e.to_string(),
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    Err(last)
}

/// Wait for a NOTIFICATION or a close.
pub fn react(s: &mut Session, limit: Duration) -> String {
    let until = Instant::now() + limit;
    loop {
        match s.next(until.saturating_duration_since(Instant::now())) {
            Got::Message(NOTIFICATION, b) => return notify(&b),
            Got::Closed => return "closed".into(),
            Got::Nothing => return "kept".into(),
            _ => {}
        }
    }
}
