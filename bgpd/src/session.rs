//! TCP: listeners, connection attempts, and how a connection is read; [`crate::link`] has how it is written.
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

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bgp_proto::wire::{MAX_MESSAGE_LEN, Notification, iana};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::sockopt;
use crate::speaker::{Shared, Speaker};
use bgp_plan::config::{PeerConfig, PeerId};

/// All nodes of a cluster may come at once.
const BACKLOG: i32 = 4096;
/// Calico's multihop sessions: no limit on hops.
const MULTIHOP_TTL: u32 = 255;
/// Internetwork control (RFC 4271 appendix E), class selector 6 (RFC 2474): what a congested switch drops last.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Received at once. Then others, and what follows from it, have their turn: peers hear of changes as long as input goes on.
const READ_SIZE: usize = 128 * 1024;
/// A quiet session needs no more room.
const QUIET_SIZE: usize = 2 * MAX_MESSAGE_LEN;

/// Names a connection as long as the process lives.
pub type Serial = u64;

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
        sockopt::save_syn(&socket)?;
        set_traffic_class(&socket, address.ip())?;
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

/// Accepts as long as the listener is there. Its owner closes it at once: no wait of this task keeps it open.
pub async fn accept(listener: Weak<TcpListener>, speaker: Shared) {
    loop {
        let accepted = poll_fn(|cx| match listener.upgrade() {
            Some(listener) => listener.poll_accept(cx).map(Some),
            None => Poll::Ready(None),
        });
        let Some(accepted) = accepted.await else { return };
        match accepted {
            Ok((stream, from)) => Speaker::accepted(&speaker, stream, from),
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Closes a connection that nobody expects, and says so (RFC 4486 section 4).
pub fn refuse(stream: TcpStream) {
    let mut message = Vec::new();
    Notification::cease(iana::CONNECTION_REJECTED).write(&mut message);
    // A fresh socket takes that much, and nothing depends on it.
    let _ = SockRef::from(&stream).send(&message);
}

/// One attempt to connect; tells the speaker how it went.
pub async fn connect(speaker: Shared, id: PeerId, config: Box<PeerConfig>, serial: Serial) {
    let attempt = async {
        let address = match id.address {
            IpAddr::V4(v4) => SocketAddr::from((v4, id.port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, id.port, 0, id.scope).into(),
        };
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

/// How far packets of a connection go, and how they are treated on the way.
fn set_reach(socket: &Socket, peer: IpAddr) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => socket.set_ttl_v4(MULTIHOP_TTL)?,
        IpAddr::V6(_) => socket.set_unicast_hops_v6(MULTIHOP_TTL)?,
    }
    set_traffic_class(socket, peer)
}

fn set_traffic_class(socket: &Socket, end: IpAddr) -> io::Result<()> {
    match end {
        IpAddr::V4(_) => socket.set_tos_v4(TRAFFIC_CLASS),
        IpAddr::V6(_) => socket.set_tclass_v6(TRAFFIC_CLASS),
    }
}

/// TTL, traffic class, GTSM and MD5 of a connection that is about to be made.
fn set_options(socket: SockRef<'_>, peer: IpAddr, config: &PeerConfig) -> io::Result<()> {
    set_reach(&socket, peer)?;
    if let Some(hops) = config.ttl_security {
        // Before the connection is there: a packet queued before the option would pass.
        sockopt::set_min_ttl(&*socket, peer, sockopt::min_ttl(hops))?;
    }
    if let Some(password) = &config.password {
        sockopt::set_md5(&*socket, peer, Some(password))?;
    }
    Ok(())
}

/// Options of a connection that the peer made. A listener serves peers with and without a minimum TTL, so that the SYN is
/// checked here: what a peer that is too far away has queued behind it is never read (RFC 5082 section 3).
pub fn set_accepted_options(stream: &TcpStream, peer: IpAddr, config: &PeerConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_reach(&SockRef::from(stream), peer)?;
    match config.ttl_security {
        Some(hops) => {
            let least = sockopt::min_ttl(hops);
            sockopt::set_min_ttl(stream, peer, least)?;
            match sockopt::syn_ttl(stream)? {
                Some(ttl) if ttl < least => {
                    Err(io::Error::other(format!("it came with TTL {ttl}, ttlSecurity asks for {least} at least")))
                }
                _ => Ok(()),
            }
        }
        None => Ok(()),
    }
}

pub async fn read(serial: Serial, stream: Rc<TcpStream>, speaker: Shared) {
    // Grows to READ_SIZE with a large read and shrinks with a small one, so that quiet sessions stay small.
    let mut buffer = vec![0; QUIET_SIZE];
    let mut filled = 0;
    loop {
        if poll_fn(|cx| stream.poll_read_ready(cx)).await.is_err() {
            break;
        }
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Speaker::ended(&speaker, serial, "the peer closed the connection".into()),
            Ok(n) => {
                filled += n;
                let Some(used) = Speaker::input(&speaker, serial, &buffer[..filled]) else {
                    return;
                };
                let is_full = filled == buffer.len();
                buffer.copy_within(used..filled, 0);
                filled -= used;
                if is_full && buffer.len() < READ_SIZE {
                    buffer.resize(READ_SIZE, 0);
                } else if n < QUIET_SIZE && filled < QUIET_SIZE && buffer.len() > QUIET_SIZE {
                    buffer.truncate(QUIET_SIZE);
                    buffer.shrink_to_fit();
                }
                if !is_full {
                    // A short read has emptied the socket, and what comes from now on is a new event: to ask again would be a
                    // system call for nothing, with the next UPDATE waiting behind it.
                    let _: io::Result<()> = stream.try_io(Interest::READABLE, || Err(ErrorKind::WouldBlock.into()));
                    continue;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Speaker::ended(&speaker, serial, format!("connection lost: {e}")),
        }
        tokio::task::yield_now().await;
    }
}
