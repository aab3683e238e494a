//! Many peers of one speaker that connect at the same moment, each from an address of its own; some announce a prefix.

use std::collections::BTreeSet;
use std::io::Read;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{self as net, AddressFamily, SockFlag, SockType, SockaddrIn};

use super::flap::{HEADER, KEEPALIVE, NOTIFICATION, UPDATE, message, shake_hands};

/// A thread reads messages and nothing else.
const STACK: usize = 128 * 1024;
/// Longer than a SYN that was sent again takes, several times over.
const LIMIT: Duration = Duration::from_secs(20);
/// The hold time is 90 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);

/// What all peers of a crowd have in common.
pub struct Crowd {
    pub to: SocketAddr,
    pub asn: u16,
    /// The address of the first; the others follow.
    pub first: Ipv4Addr,
    pub peers: usize,
    /// How many of them announce a prefix.
    pub announce: usize,
    /// How many prefixes each has to hear.
    pub hears: usize,
}

/// Establishes all sessions and keeps them until the process is killed. Says when all are up, and when all have heard.
///
/// # Errors
/// When a session does not come up at the first attempt, or ends, or a peer does not hear everything.
pub fn crowd(crowd: Crowd) -> Result<()> {
    let crowd = Arc::new(crowd);
    let start = Arc::new(Barrier::new(crowd.peers + 1));
    let (up, informed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (failures, failed) = std::sync::mpsc::channel();
    for n in 0..crowd.peers {
        let (crowd, start, up, informed) = (crowd.clone(), start.clone(), up.clone(), informed.clone());
        let failures = failures.clone();
        let run = move || {
            start.wait();
            let error = peer(&crowd, n, &up, &informed).expect_err("a peer stays until the end");
            let _ = failures.send(error.context(format!("peer {}", address(&crowd, n))));
        };
        std::thread::Builder::new().stack_size(STACK).spawn(run)?;
    }
    start.wait();
    let since = Instant::now();
    for (count, what) in [(up, "are up"), (informed, "heard everything")] {
        while count.load(Ordering::Relaxed) < crowd.peers {
            if let Ok(error) = failed.recv_timeout(Duration::from_millis(10)) {
                return Err(error);
            }
            if since.elapsed() > LIMIT {
                bail!("{} of {} {what}", count.load(Ordering::Relaxed), crowd.peers);
            }
        }
        println!("{} peers {what} after {:.2} s", crowd.peers, since.elapsed().as_secs_f64());
    }
    Err(failed.recv()?)
}

fn address(crowd: &Crowd, n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(crowd.first.to_bits() + n as u32)
}

/// Never ends but by an error.
fn peer(crowd: &Crowd, n: usize, up: &AtomicUsize, informed: &AtomicUsize) -> Result<()> {
    let own = address(crowd, n);
    let mut session = connect(own, crowd.to)?;
    session.set_read_timeout(Some(LIMIT))?;
    session.set_nodelay(true)?;
    shake_hands(&mut session, crowd.asn, own)?;
    up.fetch_add(1, Ordering::Relaxed);
    if n < crowd.announce {
        session.write_all(&update(own))?;
    }
    session.set_read_timeout(Some(KEEPALIVE_AFTER))?;
    let mut heard = BTreeSet::new();
    let mut is_informed = false;
    loop {
        if heard.len() >= crowd.hears && !is_informed {
            is_informed = true;
            informed.fetch_add(1, Ordering::Relaxed);
        }
        let Some((kind, body)) = read(&mut session)? else {
            session.write_all(&message(KEEPALIVE, &[]))?;
            continue;
        };
        match kind {
            UPDATE => hear(&body, &mut heard).context("an UPDATE that ends early")?,
            NOTIFICATION => bail!("NOTIFICATION {body:?}"),
            _ => {}
        }
    }
}

/// A connection from an address of a whole local prefix.
fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let IpAddr::V4(address) = to.ip() else { bail!("{to} is no IPv4 address") };
    let socket = net::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    net::bind(fd, &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0))).context("bind")?;
    net::connect(fd, &SockaddrIn::from(std::net::SocketAddrV4::new(address, to.port()))).context("connect")?;
    Ok(socket.into())
}

/// The next message; `None` when there was none for some time.
fn read(session: &mut TcpStream) -> Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0; HEADER];
    match session.read(&mut header[..1]) {
        Ok(0) => bail!("the speaker closed the session"),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    session.read_exact(&mut header[1..])?;
    let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; len.saturating_sub(HEADER)];
    session.read_exact(&mut body)?;
    Ok(Some((header[18], body)))
}

/// The prefixes of an UPDATE without multiprotocol extensions (RFC 4271 section 4.3).
fn hear(body: &[u8], heard: &mut BTreeSet<(u8, u32)>) -> Option<()> {
    let (withdrawn, rest) = block(body)?;
    let (_, nlri) = block(rest)?;
    prefixes(withdrawn, |p| {
        heard.remove(&p);
    })?;
    prefixes(nlri, |p| {
        heard.insert(p);
    })
}

/// What a length of two octets is in front of, and what follows.
fn block(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

fn prefixes(mut octets: &[u8], mut each: impl FnMut((u8, u32))) -> Option<()> {
    while let Some((&len, rest)) = octets.split_first() {
        let (significant, rest) = rest.split_at_checked(usize::from(len.div_ceil(8)))?;
        let mut address = [0; 4];
        address.get_mut(..significant.len())?.copy_from_slice(significant);
        each((len, u32::from_be_bytes(address)));
        octets = rest;
    }
    Some(())
}

/// The /32 of the peer's address in 10.2.0.0/16. iBGP: an empty AS_PATH, LOCAL_PREF 100. Next hop: the sender.
fn update(own: Ipv4Addr) -> Vec<u8> {
    let [_, _, high, low] = own.octets();
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    attributes.extend(own.octets());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    let mut body = vec![0, 0, 0, attributes.len() as u8];
    body.extend(attributes);
    body.extend([32, 10, 2, high, low]);
    message(UPDATE, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_heard() {
        let mut heard = BTreeSet::new();
        hear(&update(Ipv4Addr::new(10, 1, 2, 3))[HEADER..], &mut heard).unwrap();
        assert_eq!(heard, BTreeSet::from([(32, 0x0a02_0203)]));
        // 10.2.2.3/32 withdrawn, 10.3.0.0/15 announced.
        hear(&[0, 5, 32, 10, 2, 2, 3, 0, 0, 15, 10, 2], &mut heard).unwrap();
        assert_eq!(heard, BTreeSet::from([(15, 0x0a02_0000)]));
        assert!(hear(&[0, 0, 0, 0, 32, 10, 2], &mut heard).is_none());
    }
}
