//! Small servers and clients: who answers, how many requests are lost, how long a transfer stalls.
//!
//! The server answers every TCP request and every datagram with its name and the address it saw the client under;
//! `GET /stream` gets bytes until the client goes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cluster::{Lab, program};
use crate::exec::Output;
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// A request without an answer for this long is lost: long enough for TCP's first
/// retransmission, after 1 s. What that costs shows in the longest gap.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(2500);
/// Size and pace of a stream: about 13 Mbit/s, far below what two cores carry.
const CHUNK: usize = 8192;
const CHUNK_PAUSE: Duration = Duration::from_millis(5);

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn word(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// What a client that sent many requests saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    pub sent: u64,
    pub answered: u64,
    /// Requests without an answer, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Longest time between two answers.
    pub longest_gap_ms: u64,
    /// Answers by server.
    pub servers: BTreeMap<String, u64>,
}

impl LoadResult {
    /// How many requests were lost.
    pub fn lost_count(&self) -> u64 {
        self.lost.values().sum()
    }
}

/// What a client that reads one stream saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamResult {
    pub bytes: u64,
    pub longest_stall_ms: u64,
    /// Why it ended before it was told to.
    pub broken: Option<String>,
}

/// Serves on a TCP and a UDP port until killed.
///
/// # Errors
/// When a port cannot be had.
pub fn serve(name: &str, tcp: u16, udp: u16) -> Result<()> {
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let listener = TcpListener::bind(any(tcp)).with_context(|| format!("cannot listen on TCP {tcp}"))?;
    let socket = UdpSocket::bind(any(udp)).with_context(|| format!("cannot listen on UDP {udp}"))?;
    println!("listening on TCP {tcp} and UDP {udp}");
    let own = name.to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{own} {}\n", from.ip()).as_bytes(), from);
        }
    });
    for connection in listener.incoming().flatten() {
        let name = name.to_string();
        std::thread::spawn(move || answer(&name, connection));
    }
    Ok(())
}

fn answer(name: &str, mut connection: TcpStream) {
    let Ok(peer) = connection.peer_addr() else { return };
    let Ok(reader) = connection.try_clone() else { return };
    let mut reader = BufReader::new(reader);
    let mut request = String::new();
    if reader.read_line(&mut request).is_err() {
        return;
    }
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
        header.clear();
    }
    if request.starts_with("GET /stream") {
        let chunk = [b'.'; CHUNK];
        while connection.write_all(&chunk).is_ok() {
            std::thread::sleep(CHUNK_PAUSE);
        }
        return;
    }
    let body = format!("{name} {}\n", peer.ip());
    let _ = write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// One request; the answer is `server client-as-seen`.
///
/// # Errors
/// When no answer comes in time.
pub fn fetch(transport: Transport, to: SocketAddr) -> Result<String> {
    let text = match transport {
        Transport::Tcp => {
            let mut connection = TcpStream::connect_timeout(&to, ANSWER_LIMIT).context("connect")?;
            connection.set_read_timeout(Some(ANSWER_LIMIT))?;
            connection.write_all(b"GET / HTTP/1.0\r\n\r\n").context("send")?;
            let mut text = String::new();
            connection.read_to_string(&mut text).context("receive")?;
            text.split("\r\n\r\n").nth(1).context("the answer has no body")?.to_string()
        }
        Transport::Udp => {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            socket.connect(to).context("connect")?;
            socket.send(b"hello").context("send")?;
            let mut buffer = [0; 2048];
            let n = socket.recv(&mut buffer).context("receive")?;
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        }
    };
    Ok(text.trim().to_string())
}

/// Requests one after another until told to stop by SIGTERM; prints a [`LoadResult`].
///
/// # Errors
/// When the result cannot be printed.
pub fn load(transport: Transport, to: SocketAddr, interval: Duration) -> Result<()> {
    let stop = on_term()?;
    let mut result = LoadResult::default();
    let mut last_answer = Instant::now();
    println!("started");
    while !stop.load(Ordering::Relaxed) {
        result.sent += 1;
        match fetch(transport, to) {
            Ok(text) => {
                result.answered += 1;
                let gap = last_answer.elapsed().as_millis() as u64;
                result.longest_gap_ms = result.longest_gap_ms.max(gap);
                last_answer = Instant::now();
                let server = text.split(' ').next().unwrap_or_default().to_string();
                *result.servers.entry(server).or_default() += 1;
            }
            Err(error) => *result.lost.entry(format!("{error:#}")).or_default() += 1,
        }
        std::thread::sleep(interval);
    }
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

/// Reads a stream until told to stop by SIGTERM; prints a [`StreamResult`].
///
/// # Errors
/// When the stream cannot be opened.
pub fn transfer(to: SocketAddr) -> Result<()> {
    let stop = on_term()?;
    let mut connection = TcpStream::connect_timeout(&to, ANSWER_LIMIT).context("connect")?;
    connection.write_all(b"GET /stream HTTP/1.0\r\n\r\n")?;
    // Woken often enough to see the request to stop.
    connection.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut result = StreamResult { bytes: 0, longest_stall_ms: 0, broken: None };
    let mut buffer = vec![0; CHUNK];
    let mut last = Instant::now();
    println!("started");
    while !stop.load(Ordering::Relaxed) {
        match connection.read(&mut buffer) {
            Ok(0) => {
                result.broken = Some("the server closed it".into());
                break;
            }
            Ok(n) => {
                result.bytes += n as u64;
                result.longest_stall_ms = result.longest_stall_ms.max(last.elapsed().as_millis() as u64);
                last = Instant::now();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => {
                result.broken = Some(e.to_string());
                break;
            }
        }
    }
    result.longest_stall_ms = result.longest_stall_ms.max(last.elapsed().as_millis() as u64);
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

/// A flag that SIGTERM sets.
///
/// # Errors
/// When the signal cannot be had.
pub fn on_term() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Installed before this returns, so that no signal is missed.
    let mut term =
        runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) })?;
    std::thread::spawn(move || {
        runtime.block_on(term.recv());
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// A client running in the background.
pub struct Client {
    process: Process,
}

impl Lab {
    /// Starts requests in a loop from `netns`.
    ///
    /// # Errors
    /// When the client does not start.
    pub fn start_load(&self, netns: &Netns, transport: Transport, to: &str, interval: Duration) -> Result<Client> {
        let interval = interval.as_millis().to_string();
        self.start_client(netns, &["load", transport.word(), to, "--interval-ms", &interval])
    }

    /// Starts a transfer from `netns`.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub fn start_transfer(&self, netns: &Netns, to: &str) -> Result<Client> {
        self.start_client(netns, &["transfer", to])
    }

    /// Requests from `netns`, one after another: the answers, one a line.
    ///
    /// # Errors
    /// When the client cannot be started; a lost request is a line `lost: why` and exit code 1.
    pub fn fetch(&self, netns: &Netns, transport: Transport, to: &str, count: usize) -> Result<Output> {
        let program = program("lab")?.display().to_string();
        let argv = [&program, "fetch", transport.word(), to, "--count", &count.to_string()];
        netns.exec(&argv).shown_as(format!("{}# lab {}", netns.name, argv[1..].join(" "))).run()
    }

    fn start_client(&self, netns: &Netns, args: &[&str]) -> Result<Client> {
        use std::sync::atomic::AtomicU32;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut argv = vec![program("lab")?.display().to_string()];
        argv.extend(args.iter().map(|a| a.to_string()));
        let log = self.dir().join(format!("client-{}.log", NUMBER.fetch_add(1, Ordering::SeqCst)));
        let mut process = Process::spawn(netns, Spec { name: args.join(" "), argv, env: Vec::new(), log })?;
        crate::evidence::eventually(Duration::from_secs(10), &format!("`{}` starts", args.join(" ")), || {
            process.check_alive()?;
            if process.log().contains("started") { Ok(()) } else { bail!("not yet") }
        })?;
        Ok(Client { process })
    }
}

impl Client {
    /// Ends a loop of requests.
    ///
    /// # Errors
    /// When it left no result.
    pub fn finish_load(self) -> Result<LoadResult> {
        self.finish()
    }

    /// Ends a transfer.
    ///
    /// # Errors
    /// When it left no result.
    pub fn finish_transfer(self) -> Result<StreamResult> {
        self.finish()
    }

    fn finish<T: for<'de> Deserialize<'de>>(mut self) -> Result<T> {
        self.process.stop(Signal::SIGTERM)?;
        let log = self.process.log();
        let line = log.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("a client ended with: {log}"))
    }
}

/// `ping` as people type it; the output ends with what was lost.
///
/// # Errors
/// When an echo is missing.
pub fn ping(from: &Netns, to: &str, count: u32) -> Result<Output> {
    from.exec(&["ping", "-n", "-c", &count.to_string(), "-i", "0.05", "-W", "1", to]).run()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_with_the_name_over_tcp_and_udp() {
        // A port that was free a moment ago; the server thread ends with the test program.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::thread::spawn(move || serve("web-1", port, port));
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let answer = crate::evidence::eventually(Duration::from_secs(5), "tcp", || fetch(Transport::Tcp, to)).unwrap();
        assert_eq!(answer, "web-1 127.0.0.1");
        assert_eq!(fetch(Transport::Udp, to).unwrap(), "web-1 127.0.0.1");
    }

    #[test]
    fn nobody_there_is_an_error_and_not_a_hang() {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(fetch(Transport::Tcp, to).is_err());
    }
}
