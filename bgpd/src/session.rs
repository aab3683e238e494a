//! TCP: listeners, connection attempts, and the two tasks of a connection.
//!
//! ```text
//! listener (one each address) ──accept──┐
//! attempt (one each Connect) ──connect──┤
//!                                       ▼
//!                reader: octets ──► Speaker::input      ends with the connection, or is aborted by it
//!                writer: waits until the socket takes more ──► Speaker::drain       (as above)
//! ```
//!
//! All run on the speaker's thread and call the speaker directly; none keeps it borrowed across an await.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bgp_proto::wire::MAX_MESSAGE_LEN;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::sockopt;
use crate::speaker::{Shared, Speaker};
use bgp_plan::config::{PeerConfig, PeerId};

/// All nodes of a cluster may come at once.
const BACKLOG: i32 = 4096;
/// Calico's multihop sessions: no limit on hops.
const MULTIHOP_TTL: u32 = 255;
/// Received at once.
const READ_SIZE: usize = 256 * 1024;
/// Reads of one connection before others, and what follows from them, have their turn.
const READS_IN_A_ROW: usize = 4;
/// How long a NOTIFICATION may take to reach the peer before the socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// Names a connection as long as the process lives.
pub type Serial = u64;

/// The transport of a connection.
pub struct Link {
    pub serial: Serial,
    pub stream: Rc<TcpStream>,
    /// Octets that the socket has yet to take, from `sent` on.
    pub out: Vec<u8>,
    pub sent: usize,
    want_write: Rc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    /// Starts the tasks of a connection.
    pub fn start(serial: Serial, stream: TcpStream, speaker: &Shared) -> Link {
        let stream = Rc::new(stream);
        let want_write = Rc::new(Notify::new());
        let tasks = [
            spawn_local(read(serial, stream.clone(), speaker.clone())),
            spawn_local(write(serial, stream.clone(), want_write.clone(), speaker.clone())),
        ];
        Link { serial, stream, out: Vec::new(), sent: 0, want_write, tasks }
    }

    /// Hands the socket what it takes. False: it is full, and the writer will come back.
    ///
    /// # Errors
    /// The connection is gone; the reader will find out too.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.try_write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.want_write.notify_one();
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        self.sent = 0;
        self.out.clear();
        if self.out.capacity() > 2 * READ_SIZE {
            self.out = Vec::new();
        }
        Ok(true)
    }

    /// Ends the connection; what was written last still reaches the peer.
    pub fn close(mut self) {
        let _ = self.flush();
        self.tasks.iter().for_each(JoinHandle::abort);
        let stream = self.stream;
        let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
        // Closing with unread octets would send a reset that overtakes a NOTIFICATION.
        spawn_local(async move {
            let rest = async {
                let mut sink = [0; MAX_MESSAGE_LEN];
                while stream.readable().await.is_ok() {
                    match stream.try_read(&mut sink) {
                        Ok(1..) => {}
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, rest).await;
        });
    }
}

/// Binds a listener.
///
/// # Errors
/// Names the address and what to do about it.
pub fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|e| {
        let (ip, port) = (address.ip(), address.port());
        let advice = match e.kind() {
            ErrorKind::AddrInUse => format!(
                "another program listens there (`ss -ltnp 'sport = :{port}'` names it): stop it, or set another listenPort in \
                 BGPConfiguration"
            ),
            ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or set another listenPort in BGPConfiguration".into()
            }
            ErrorKind::AddrNotAvailable => "this machine has no such address: correct the Node's BGP address, or set bindMode \
                                            to None in BGPConfiguration"
                .into(),
            _ => "check the Node's BGP address and listenPort in BGPConfiguration".into(),
        };
        format!("cannot listen for BGP on {ip} port {port}: {e}; {advice}")
    })
}

/// Accepts until it is aborted.
pub async fn accept(listener: Rc<TcpListener>, speaker: Shared) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => Speaker::accepted(&speaker, stream, from.ip().to_canonical()),
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One attempt to connect; tells the speaker how it went.
pub async fn connect(speaker: Shared, id: PeerId, config: Box<PeerConfig>, serial: Serial) {
    let attempt = async {
        let address = SocketAddr::new(id.address, id.port);
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = config.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        set_options(SockRef::from(&socket), id.address, &config)?;
        socket.connect(address).await
    };
    let result = attempt.await;
    Speaker::connected(&speaker, id, serial, result);
}

/// TTL, GTSM and MD5 of a connection that is about to be made.
fn set_options(socket: SockRef<'_>, peer: IpAddr, config: &PeerConfig) -> io::Result<()> {
    let ttl = if peer.is_ipv4() { socket.set_ttl_v4(MULTIHOP_TTL) } else { socket.set_unicast_hops_v6(MULTIHOP_TTL) };
    ttl?;
    if let Some(hops) = config.ttl_security {
        // Before the connection is there: a packet queued before the option would pass.
        sockopt::set_min_ttl(&*socket, peer, sockopt::min_ttl(hops))?;
    }
    if let Some(password) = &config.password {
        sockopt::set_md5(&*socket, peer, Some(password))?;
    }
    Ok(())
}

/// Options of a connection that the peer made. What came before is not checked against the minimum TTL: a listener serves
/// peers with and without it.
pub fn set_accepted_options(stream: &TcpStream, peer: IpAddr, config: &PeerConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let ttl = if peer.is_ipv4() { socket.set_ttl_v4(MULTIHOP_TTL) } else { socket.set_unicast_hops_v6(MULTIHOP_TTL) };
    ttl?;
    match config.ttl_security {
        Some(hops) => sockopt::set_min_ttl(stream, peer, sockopt::min_ttl(hops)),
        None => Ok(()),
    }
}

async fn read(serial: Serial, stream: Rc<TcpStream>, speaker: Shared) {
    // Grows to READ_SIZE with the first large read, so that quiet sessions stay small.
    let mut buffer = vec![0; 2 * MAX_MESSAGE_LEN];
    let mut filled = 0;
    loop {
        if stream.readable().await.is_err() {
            break;
        }
        for _ in 0..READS_IN_A_ROW {
            match stream.try_read(&mut buffer[filled..]) {
                Ok(0) => return Speaker::ended(&speaker, serial, "the peer closed the connection".into()),
                Ok(n) => {
                    filled += n;
                    let Some(used) = Speaker::input(&speaker, serial, &buffer[..filled]) else {
                        return;
                    };
                    let full = filled == buffer.len();
                    buffer.copy_within(used..filled, 0);
                    filled -= used;
                    if !full {
                        break;
                    }
                    if buffer.len() < READ_SIZE {
                        buffer.resize(READ_SIZE, 0);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Speaker::ended(&speaker, serial, format!("connection lost: {e}")),
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn write(serial: Serial, stream: Rc<TcpStream>, want_write: Rc<Notify>, speaker: Shared) {
    loop {
        want_write.notified().await;
        if stream.writable().await.is_err() {
            return;
        }
        Speaker::drain(&speaker, serial);
    }
}
