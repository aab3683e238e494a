//! A stream of datagrams that is counted: nothing may be lost while a control plane restarts.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cluster::program;
use crate::evidence::eventually;
use crate::netns::Netns;
use crate::process::{Process, Spec};
use crate::traffic::on_term;

const PORT: u16 = 9999;
/// 2,000 datagrams a second.
const PAUSE: Duration = Duration::from_micros(500);
/// How long the last datagrams may take.
const LAST: Duration = Duration::from_secs(2);

/// A stream that runs.
pub struct Stream {
    sender: Process,
    receiver: Process,
}

impl Stream {
    /// From one namespace to an address of another.
    ///
    /// # Errors
    /// When either end does not start.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr, dir: &Path) -> Result<Self> {
        let lab = program("lab")?.display().to_string();
        let end = |netns: &Netns, word: &str| {
            let argv = vec![lab.clone(), word.into(), SocketAddr::new(address, PORT).to_string()];
            let log = dir.join(format!("{word}-{}-{address}.log", netns.name));
            Process::spawn(netns, Spec { name: format!("{word} {address}"), argv, env: Vec::new(), log })
        };
        let mut receiver = end(to, "count")?;
        eventually(Duration::from_secs(10), "the counter listens", || {
            receiver.check_alive()?;
            if receiver.log().contains("started") { Ok(()) } else { bail!("not yet") }
        })?;
        Ok(Self { receiver, sender: end(from, "pour")? })
    }

    /// Ends it and compares.
    ///
    /// # Errors
    /// With how many were lost.
    pub fn finish(mut self) -> Result<u64> {
        self.sender.stop(Signal::SIGTERM)?;
        let sent: u64 = last_number(&self.sender)?;
        std::thread::sleep(Duration::from_millis(100));
        self.receiver.stop(Signal::SIGTERM)?;
        let received = last_number(&self.receiver)?;
        if sent < 100 || received != sent {
            bail!("{received} of {sent} datagrams arrived: {} lost\n{}", sent - received, self.sender.log_tail());
        }
        Ok(sent)
    }
}

fn last_number(process: &Process) -> Result<u64> {
    let log = process.log();
    log.lines().last().and_then(|l| l.parse().ok()).with_context(|| format!("no count: {log}"))
}

/// Sends numbered datagrams until SIGTERM; prints how many, those that the kernel refused included.
///
/// # Errors
/// When there is no socket.
pub fn pour(to: SocketAddr) -> Result<()> {
    let stop = on_term()?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let mut sent = 0_u64;
    let mut refused = 0_u64;
    println!("started");
    while !stop.load(Ordering::Relaxed) {
        refused += u64::from(socket.send_to(&sent.to_be_bytes(), to).is_err());
        sent += 1;
        std::thread::sleep(PAUSE);
    }
    println!("{refused} refused by the kernel of the sender");
    println!("{sent}");
    Ok(())
}

/// Counts datagrams until SIGTERM.
///
/// # Errors
/// When there is no socket.
pub fn count(at: SocketAddr) -> Result<()> {
    let stop: Arc<AtomicBool> = on_term()?;
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(LAST / 40))?;
    println!("started");
    let (mut received, mut buffer) = (0_u64, [0; 64]);
    while !stop.load(Ordering::Relaxed) {
        received += u64::from(socket.recv(&mut buffer).is_ok());
    }
    println!("{received}");
    Ok(())
}
