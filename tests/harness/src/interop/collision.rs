//! A connection collision (RFC 4271 section 6.8) that is sure to happen: both connections stand before either speaker looks.
//!
//! 1. Two speakers are parted: their kernels hold back what is for the other, as if ARP had no answer yet.
//! 2. Both connect; a SYN waits in each kernel, and neither speaker hears of the other's.
//! 3. Both processes are stopped, and the kernels are told the neighbours' addresses: both handshakes end without them.
//! 4. Both go on.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use super::scenario::{mac, number, v4};
use super::wire::Wire;
use crate::evidence::eventually;

/// Both speakers try again after a second or two.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// A handshake takes no time; a SYN that was sent again comes after 1 or 3 s.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A TCP port of BGP.
const BGP: &str = ":179";

/// Has the kernels of two speakers keep what is for the other, until [`collide`].
///
/// # Errors
/// When `ip` refuses.
pub fn part(wire: &Wire, pair: &[String; 2]) -> Result<()> {
    for (own, other) in both_ways(pair) {
        let (address, mac) = (v4(number(other)?), mac(number(other)?));
        // INCOMPLETE by hand has no timer: nobody asks, nobody gives up, packets queue.
        wire.netns(own)?.ip(&[
            format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
            format!("neigh replace {address} dev eth0 nud incomplete"),
        ])?;
    }
    Ok(())
}

/// Waits until both of a parted pair connect, and lets them find two connections.
///
/// # Errors
/// When one does not connect, or a handshake does not end.
pub fn collide(wire: &mut Wire, pair: &[String; 2]) -> Result<()> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        eventually(deadline.saturating_duration_since(Instant::now()), "both connect", || both_connect(wire, pair))?;
        signal(wire, pair, Signal::SIGSTOP)?;
        // A retry may have closed a socket just before the stop.
        if both_connect(wire, pair).is_ok() {
            break;
        }
        signal(wire, pair, Signal::SIGCONT)?;
    }
    for (own, other) in both_ways(pair) {
        let (address, mac) = (v4(number(other)?), mac(number(other)?));
        wire.netns(own)?.ip(&[format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent")])?;
    }
    let stand = eventually(HANDSHAKE_LIMIT, "both connections stand", || both_stand(wire, pair));
    signal(wire, pair, Signal::SIGCONT)?;
    stand
}

fn both_ways(pair: &[String; 2]) -> [(&String, &String); 2] {
    let [a, b] = pair;
    [(a, b), (b, a)]
}

fn signal(wire: &mut Wire, pair: &[String; 2], signal: Signal) -> Result<()> {
    pair.iter().try_for_each(|name| wire.signal(name, signal))
}

/// Each has exactly one connection on its way to the other.
fn both_connect(wire: &Wire, pair: &[String; 2]) -> Result<()> {
    for (own, other) in both_ways(pair) {
        let waiting = sockets(wire, own, other, "syn-sent")?;
        if waiting.len() != 1 {
            bail!("{own} has {waiting:?} on the way to {other}");
        }
    }
    Ok(())
}

/// Each has the connection it made and the one it was made, and no other.
fn both_stand(wire: &Wire, pair: &[String; 2]) -> Result<()> {
    for (own, other) in both_ways(pair) {
        let stand = sockets(wire, own, other, "established")?;
        let made = stand.iter().filter(|s| s.peer.ends_with(BGP)).count();
        let taken = stand.iter().filter(|s| s.local.ends_with(BGP)).count();
        if (made, taken, stand.len()) != (1, 1, 2) {
            bail!("{own} has {stand:?} with {other}");
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Socket {
    local: String,
    peer: String,
}

/// The BGP connections of `own` to or from `other` in a state of ss(8).
fn sockets(wire: &Wire, own: &str, other: &str, state: &str) -> Result<Vec<Socket>> {
    let address = v4(number(other)?).to_string();
    let out = wire.netns(own)?.run(&["ss", "-Htn", "state", state, "dst", &address])?;
    let socket = |line: &str| {
        let mut words = line.split_whitespace().skip(2).map(str::to_string);
        Some(Socket { local: words.next()?, peer: words.next()? })
    };
    let all = out.stdout.lines().filter_map(socket);
    Ok(all.filter(|s| s.local.ends_with(BGP) || s.peer.ends_with(BGP)).collect())
}
