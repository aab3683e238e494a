//! UDP for BFD: RFC 5881 sections 4 and 5, RFC 5883 section 5.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use ::bfd::packet::LEN;
use ::bfd::sessions::{Datagram, Hops, Path};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// RFC 5881 section 4: where packets come from.
const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;
/// RFC 5881 section 5: what no packet has that was routed.
const TTL: u32 = 255;
/// DSCP CS6, network control (RFC 4594 section 3.1).
const TOS: u32 = 0xc0;
/// The longest packet: Length has one octet.
const BUFFER: usize = 256;
/// Packets that are read before others have their turn.
const AT_ONCE: usize = 64;

/// What arrived on a port.
pub struct Received {
    from: IpAddr,
    to: IpAddr,
    interface: u32,
    ttl: u8,
    payload: Vec<u8>,
}

impl Received {
    /// With the port it came to.
    pub fn with(&self, hops: Hops) -> Datagram<'_> {
        let Received { from, to, interface, ttl, ref payload } = *self;
        Datagram { hops, from, to, interface, ttl, payload }
    }
}

/// Binds the port of a family. No other program can: two would take each other's packets.
///
/// # Errors
/// Names the port and what to do about it.
pub fn listen(is_ipv4: bool, hops: Hops) -> Result<UdpSocket, String> {
    let port = hops.port();
    let bind = || -> io::Result<UdpSocket> {
        let socket = new_socket(is_ipv4)?;
        if is_ipv4 {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        socket.bind(&SocketAddr::new(unspecified(is_ipv4), port).into())?;
        UdpSocket::from_std(socket.into())
    };
    bind().map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => format!(
            "another program has BFD's UDP port {port} (`ss -lunp 'sport = :{port}'` names it): stop it, or take `bfd` from \
             the BGPPeer"
        ),
        _ => format!("cannot listen on UDP port {port}: {e}"),
    })
}

fn new_socket(is_ipv4: bool) -> io::Result<Socket> {
    let domain = if is_ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if !is_ipv4 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn unspecified(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Waits for packets; some of those that are there.
///
/// # Errors
/// The socket's.
pub async fn receive(socket: &UdpSocket) -> io::Result<Vec<Received>> {
    socket.async_io(Interest::READABLE, || receive_now(socket)).await
}

fn receive_now(socket: &UdpSocket) -> io::Result<Vec<Received>> {
    let mut all = Vec::new();
    while all.len() < AT_ONCE {
        match receive_one(socket) {
            Ok(Some(received)) => all.push(received),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock && !all.is_empty() => break,
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// `None`: the kernel did not say how it came.
fn receive_one(socket: &UdpSocket) -> io::Result<Option<Received>> {
    let mut buffer = [0; BUFFER];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, libc::c_int);
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.as_ref().and_then(address_of);
    let (mut ttl, mut at) = (None, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                ttl = u8::try_from(value).ok();
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                at = u32::try_from(info.ipi_ifindex).ok().map(|interface| (IpAddr::from(to), interface));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                at = Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), info.ipi6_ifindex));
            }
            _ => {}
        }
    }
    let len = message.bytes;
    Ok(from.zip(ttl).zip(at).map(|((from, ttl), (to, interface))| Received {
        from,
        to,
        interface,
        ttl,
        payload: buffer[..len].to_vec(),
    }))
}

fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
}

/// Sends a session's packets, all from the same port (RFC 5881 section 4), which is no other session's.
pub struct Transmitter {
    path: Path,
    socket: Option<std::net::UdpSocket>,
}

impl Transmitter {
    /// The socket is made for the first packet.
    pub fn new(path: Path) -> Transmitter {
        Transmitter { path, socket: None }
    }

    /// # Errors
    /// In words, the session's address among them.
    pub fn send(&mut self, packet: &[u8; LEN]) -> Result<(), String> {
        let Path { peer, interface, hops, .. } = self.path;
        let to = with_scope(peer, hops.port(), interface);
        let result = match &self.socket {
            Some(socket) => socket.send_to(packet, to),
            None => self.open().and_then(|socket| self.socket.insert(socket).send_to(packet, to)),
        };
        match result {
            Ok(_) => Ok(()),
            // A full queue is a lost packet, which the other end's detection time allows for.
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(e) => {
                // The source address may have gone and come again, on another interface.
                self.socket = None;
                Err(format!("cannot send to {peer}: {e}"))
            }
        }
    }

    fn open(&self) -> io::Result<std::net::UdpSocket> {
        let Path { peer, local, interface, .. } = self.path;
        let socket = new_socket(peer.is_ipv4())?;
        if peer.is_ipv4() {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(TOS)?;
        } else {
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(TOS)?;
        }
        let source = local.unwrap_or(unspecified(peer.is_ipv4()));
        let mut ports = SOURCE_PORTS;
        loop {
            let Some(port) = ports.next() else { return Err(ErrorKind::AddrInUse.into()) };
            match socket.bind(&with_scope(source, port, interface).into()) {
                Err(e) if e.kind() == ErrorKind::AddrInUse => {}
                bound => return bound.map(|()| socket.into()),
            }
        }
    }
}

fn with_scope(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, interface).into(),
        IpAddr::V4(_) => SocketAddr::new(address, port),
    }
}
