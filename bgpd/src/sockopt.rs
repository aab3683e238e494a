//! Socket options that have no safe wrapper: TCP-MD5 (RFC 2385) and the minimum TTL of GTSM (RFC 5082).

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use bgp_proto::af::Prefix;

/// `linux/tcp.h`.
const TCP_MD5SIG: libc::c_int = 14;
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const MD5_KEY_LEN: usize = 80;
const TCP_SAVE_SYN: libc::c_int = 27;
const TCP_SAVED_SYN: libc::c_int = 28;
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; MD5_KEY_LEN],
}

/// The least TTL of a packet from a peer at most `hops` away (RFC 5082 section 3).
pub fn min_ttl(hops: u8) -> u8 {
    u8::MAX - hops.saturating_sub(1).min(254)
}

/// Has a listener keep the SYN of each connection for [`syn_ttl`].
pub fn save_syn(listener: &impl AsFd) -> io::Result<()> {
    set(listener, libc::IPPROTO_TCP, TCP_SAVE_SYN, &1_i32)
}

/// The TTL with which the SYN of an accepted connection arrived; `None` where the kernel kept none (SYN cookies).
pub fn syn_ttl(stream: &impl AsFd) -> io::Result<Option<u8>> {
    // The network header comes first: 20 octets of IPv4, 40 of IPv6.
    let mut headers = [0_u8; 256];
    let mut len = headers.len() as libc::socklen_t;
    // SAFETY: `headers` is writable for `len` octets, of which the kernel says in `len` how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(match (len, headers[0] >> 4) {
        (20.., 4) => Some(headers[8]),
        (40.., 6) => Some(headers[7]),
        _ => None,
    })
}

/// Drops packets whose TTL is lower.
pub fn set_min_ttl(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let value = libc::c_int::from(ttl);
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, IP_MINTTL, &value),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value),
    }
}

/// Signs and demands signatures on segments to and from `peer`; `None` takes the key away.
pub fn set_md5(socket: &impl AsFd, peer: IpAddr, password: Option<&str>) -> io::Result<()> {
    set_md5_option(socket, TCP_MD5SIG, (peer, None), password)
}

/// The same for every address of a range. A key of one address goes before it.
pub fn set_md5_of_range(socket: &impl AsFd, range: Prefix, password: Option<&str>) -> io::Result<()> {
    set_md5_option(socket, TCP_MD5SIG_EXT, (range.address(), Some(range.len())), password)
}

fn set_md5_option(
    socket: &impl AsFd,
    option: libc::c_int,
    (peer, prefix_len): (IpAddr, Option<u8>),
    password: Option<&str>,
) -> io::Result<()> {
    let password = password.unwrap_or_default().as_bytes();
    if password.len() > MD5_KEY_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a BGP password has at most 80 octets"));
    }
    let mut key = [0; MD5_KEY_LEN];
    key[..password.len()].copy_from_slice(password);
    let address = socket2::SockAddr::from(std::net::SocketAddr::new(peer, 0));
    let mut storage = std::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
    // SAFETY: `address` holds `len()` initialised octets, at most the size of sockaddr_storage, of which every bit pattern,
    // zero included, is a value.
    let address = unsafe {
        let len = address.len() as usize;
        std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), storage.as_mut_ptr().cast::<u8>(), len);
        storage.assume_init()
    };
    let flags = prefix_len.map_or(0, |_| TCP_MD5SIG_FLAG_PREFIX);
    let prefix_len = prefix_len.unwrap_or_default();
    let value = TcpMd5Sig { address, flags, prefix_len, key_len: password.len() as u16, ifindex: 0, key };
    match set(socket, libc::IPPROTO_TCP, option, &value) {
        // Taking away a key that is not there.
        Err(e) if password.is_empty() && e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn set<T>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live T and its size is given; the kernel only reads it. The descriptor is borrowed for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
