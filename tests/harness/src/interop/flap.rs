//! A peer that comes up, announces, and is gone again, many times as fast as it can; then it stays.
//!
//! Scripted by hand: no daemon restarts a thousand times in seconds.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

/// RFC 4271 section 4.1: message types.
const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
pub(super) const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;
pub(super) const HEADER: usize = 19;
const LIMIT: Duration = Duration::from_secs(10);
/// Our bgpd waits before it hears a peer again that has just failed; a refused attempt is repeated.
const PAUSE: Duration = Duration::from_millis(1);

/// Sessions with `to`: `times` that end, then one that stays until the process is killed,
/// unless it `ends`.
///
/// # Errors
/// When the peer does not come up within the limit.
pub fn flap(to: SocketAddr, asn: u16, router_id: Ipv4Addr, times: u32, ends: bool) -> Result<()> {
    for round in 0..times {
        let mut session = establish(to, asn, router_id)?;
        session.write_all(&update(round))?;
        match round % 3 {
            // A reset, an orderly end, a Cease (RFC 4486, 6/2).
            0 => setsockopt(&session, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?,
            1 => {}
            _ => session.write_all(&message(NOTIFICATION, &[6, 2]))?,
        }
    }
    println!("{times} sessions ended");
    if ends {
        return Ok(());
    }
    let mut session = establish(to, asn, router_id)?;
    session.write_all(&update(times))?;
    println!("the last one stays");
    session.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 4096];
    loop {
        session.write_all(&message(KEEPALIVE, &[]))?;
        if matches!(session.read(&mut buffer), Ok(0)) {
            bail!("the peer closed the last session");
        }
    }
}

fn establish(to: SocketAddr, asn: u16, router_id: Ipv4Addr) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match attempt(to, asn, router_id) {
            Ok(session) => return Ok(session),
            Err(error) if start.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn attempt(to: SocketAddr, asn: u16, router_id: Ipv4Addr) -> Result<TcpStream> {
    let mut session = TcpStream::connect_timeout(&to, LIMIT)?;
    session.set_read_timeout(Some(LIMIT))?;
    session.set_nodelay(true)?;
    shake_hands(&mut session, asn, router_id)?;
    Ok(session)
}

/// OPEN and KEEPALIVE, both ways.
pub(super) fn shake_hands(session: &mut TcpStream, asn: u16, router_id: Ipv4Addr) -> Result<()> {
    // Version 4, hold time 90 s, no capabilities (RFC 4271 section 4.2).
    let mut open = vec![4];
    open.extend(asn.to_be_bytes());
    open.extend(90_u16.to_be_bytes());
    open.extend(router_id.octets());
    open.push(0);
    session.write_all(&message(OPEN, &open))?;
    expect(session, OPEN)?;
    session.write_all(&message(KEEPALIVE, &[]))?;
    expect(session, KEEPALIVE)
}

fn expect(session: &mut TcpStream, kind: u8) -> Result<()> {
    let mut header = [0; HEADER];
    session.read_exact(&mut header)?;
    let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; len.saturating_sub(HEADER)];
    session.read_exact(&mut body)?;
    if header[18] == kind { Ok(()) } else { bail!("message type {} instead of {kind}: {body:?}", header[18]) }
}

/// Two prefixes: one of all rounds, one of this round alone. Next hop: the sender, 10.0.0.2.
fn update(round: u32) -> Vec<u8> {
    let attributes: &[u8] = &[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0xfd, 0xea, 0x40, 3, 4, 10, 0, 0, 2];
    let [_, _, high, low] = round.to_be_bytes();
    let mut body = vec![0, 0, 0, attributes.len() as u8];
    body.extend(attributes);
    body.extend([24, 10, 2, 0, 32, 10, 3, high, low]);
    message(UPDATE, &body)
}

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(((HEADER + body.len()) as u16).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keepalive_is_a_header() {
        assert_eq!(message(KEEPALIVE, &[])[16..], [0, 19, 4]);
        assert_eq!(update(258)[HEADER..][22..], [24, 10, 2, 0, 32, 10, 3, 1, 2]);
    }
}
