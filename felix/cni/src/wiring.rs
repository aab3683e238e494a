//! The veth pair, its addresses and routes. Every function works on one namespace through its [`Handle`].

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::protocol::{Error, code};

/// The gateway of every pod: no interface has it, the host answers for it by proxy ARP (Calico `cni-plugin/pkg/dataplane`).
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The address of the host's side of every veth.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// The link-local address that the host's side has by [`HOST_MAC`] (RFC 4291 appendix A): the gateway of IPv6 pods.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// An interface as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub mac: String,
    /// What ADD wrote on the host's side: the container's ID.
    pub alias: Option<String>,
}

/// A veth pair to be made.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    pub host: &'a str,
    /// The name inside the container.
    pub container: &'a str,
    /// Written on the host's side, so that DEL of an older container leaves a newer one's alone.
    pub container_id: &'a str,
    pub mtu: Option<u32>,
    /// The container's namespace.
    pub netns: RawFd,
}

/// Opens a network namespace.
///
/// # Errors
/// Code 3 when there is none at this path.
pub fn open_namespace(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|e| {
        Error::new(code::UNKNOWN_CONTAINER, format!("cannot open the network namespace {}", path.display())).because(e)
    })
}

/// Runs `work` with a netlink handle in a namespace, on a thread that enters it and ends.
///
/// # Errors
/// Code 102 when the namespace cannot be entered, and what `work` answers.
pub fn in_namespace<T, F, Fut>(netns: &File, work: F) -> Result<T, Error>
where
    T: Send,
    F: FnOnce(Handle) -> Fut + Send,
    Fut: Future<Output = Result<T, Error>>,
{
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|e| failed("enter the container's network namespace (needs CAP_SYS_ADMIN)", e))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| failed("start a runtime", e))?;
            runtime.block_on(async { work(open_handle()?).await })
        });
        worker.join().unwrap_or_else(|_| Err(failed("work in the container's network namespace", "thread panicked")))
    })
}

/// A netlink handle for the namespace of the calling thread.
///
/// # Errors
/// Code 102 when no netlink socket can be had.
pub fn open_handle() -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| failed("open a netlink socket", e))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The interface of this name, or `None`.
///
/// # Errors
/// Code 102.
pub async fn find(handle: &Handle, name: &str) -> Result<Option<Interface>, Error> {
    match handle.link().get().match_name(name.to_string()).execute().try_next().await {
        Ok(message) => Ok(message.map(|m| interface(&m))),
        Err(e) if is_errno(&e, libc::ENODEV) => Ok(None),
        Err(e) => Err(failed(&format!("read interface {name}"), e)),
    }
}

/// Deletes an interface; one that is gone is success.
///
/// # Errors
/// Code 102.
pub async fn delete(handle: &Handle, index: u32) -> Result<(), Error> {
    match handle.link().del(index).execute().await {
        Err(e) if !is_errno(&e, libc::ENODEV) => Err(failed(&format!("delete interface {index}"), e)),
        _ => Ok(()),
    }
}

/// Makes the pair, its peer born in the container's namespace, and sets the host's side up.
///
/// # Errors
/// Code 102; nothing is left then.
pub async fn create_pair(handle: &Handle, pair: &Pair<'_>) -> Result<Interface, Error> {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(pair.container.into()));
    peer.attributes.push(LinkAttribute::NetNsFd(pair.netns));
    let mut host = LinkMessage::default();
    host.attributes.push(LinkAttribute::IfName(pair.host.into()));
    host.attributes.push(LinkAttribute::Address(HOST_MAC.to_vec()));
    if let Some(mtu) = pair.mtu {
        peer.attributes.push(LinkAttribute::Mtu(mtu));
        host.attributes.push(LinkAttribute::Mtu(mtu));
    }
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    host.attributes.push(LinkAttribute::LinkInfo(info));
    let what = format!("create the veth pair {} and {}", pair.host, pair.container);
    handle.link().add(host).execute().await.map_err(|e| {
        let hint = if is_errno(&e, libc::EPERM) { " (needs root or CAP_NET_ADMIN)" } else { "" };
        failed(&format!("{what}{hint}"), e)
    })?;
    let made = find(handle, pair.host).await?.ok_or_else(|| failed(&what, "the interface vanished"))?;
    if let Err(e) = set_up(handle, made.index, Some(pair.container_id)).await {
        let _ = delete(handle, made.index).await;
        return Err(e);
    }
    Ok(Interface { alias: Some(pair.container_id.into()), ..made })
}

async fn set_up(handle: &Handle, index: u32, alias: Option<&str>) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(alias.map(|a| LinkAttribute::IfAlias(a.into())));
    handle.link().set(message).execute().await.map_err(|e| failed(&format!("set interface {index} up"), e))
}

/// Inside the container: loopback and the interface up, its addresses as /32 and /128, the default route by the gateway that
/// the host answers for. Gives the interface.
///
/// # Errors
/// Code 102.
pub async fn configure(handle: &Handle, ifname: &str, addresses: &[IpNet]) -> Result<Interface, Error> {
    if let Some(lo) = find(handle, "lo").await? {
        set_up(handle, lo.index, None).await?;
    }
    let link =
        find(handle, ifname).await?.ok_or_else(|| failed(&format!("configure {ifname}"), "no such interface"))?;
    set_up(handle, link.index, None).await?;
    for addr in addresses.iter().map(|a| a.addr()) {
        let mut request = handle.address().add(link.index, addr, if addr.is_ipv4() { 32 } else { 128 });
        if addr.is_ipv6() {
            // Nobody else is on a veth: duplicate address detection would only delay the pod (RFC 4862 section 5.4).
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(|e| failed(&format!("add {addr} to {ifname}"), e))?;
    }
    for route in pod_routes(link.index, addresses) {
        let what = format!("add the route to {}", destination(&route));
        handle.route().add(route).execute().await.map_err(|e| failed(&what, e))?;
    }
    Ok(link)
}

/// The routes inside a pod: the gateway on the link, the default by it. Protocol boot, as Calico's and `ip route add`'s.
fn pod_routes(index: u32, addresses: &[IpNet]) -> Vec<RouteMessage> {
    let mut routes = Vec::new();
    if addresses.iter().any(|a| a.addr().is_ipv4()) {
        let builder = || RouteMessageBuilder::<Ipv4Addr>::new().protocol(RouteProtocol::Boot).output_interface(index);
        routes.push(builder().destination_prefix(GATEWAY_V4, 32).scope(RouteScope::Link).build());
        routes.push(builder().gateway(GATEWAY_V4).build());
    }
    if addresses.iter().any(|a| a.addr().is_ipv6()) {
        let builder = || RouteMessageBuilder::<Ipv6Addr>::new().protocol(RouteProtocol::Boot).output_interface(index);
        routes.push(builder().destination_prefix(GATEWAY_V6, 128).build());
        routes.push(builder().gateway(GATEWAY_V6).build());
    }
    routes
}

/// What is not as [`configure`] left it; empty when all is well.
///
/// # Errors
/// Code 102 when the namespace cannot be read.
pub async fn differences(handle: &Handle, ifname: &str, addresses: &[IpNet]) -> Result<Vec<String>, Error> {
    let Some(link) = find(handle, ifname).await? else { return Ok(vec![format!("interface {ifname} is missing")]) };
    let mut found = Vec::new();
    let held: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_link_index_filter(link.index)
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed(&format!("read the addresses of {ifname}"), e))?;
    for addr in addresses.iter().map(|a| a.addr()) {
        if !held.iter().any(|m| m.header.scope == AddressScope::Universe && address_of(m) == Some(addr)) {
            found.push(format!("address {addr} is missing on {ifname}"));
        }
    }
    for family in [true, false] {
        if !addresses.iter().any(|a| a.addr().is_ipv4() == family) {
            continue;
        }
        let routes = routes(handle, family).await?;
        for wanted in pod_routes(link.index, addresses).iter().filter(|r| is_ipv4(r) == family) {
            if !routes.iter().any(|r| is_same(r, wanted)) {
                found.push(format!("the route to {} by {ifname} is missing", destination(wanted)));
            }
        }
    }
    Ok(found)
}

/// Whether the host has a route to exactly this address out of this interface.
///
/// # Errors
/// Code 102.
pub async fn has_host_route(handle: &Handle, index: u32, addr: IpAddr) -> Result<bool, Error> {
    let full = if addr.is_ipv4() { 32 } else { 128 };
    let routes = routes(handle, addr.is_ipv4()).await?;
    let is_it = |r: &RouteMessage| {
        r.header.destination_prefix_length == full
            && r.attributes.contains(&RouteAttribute::Oif(index))
            && destination(r) == addr.to_string()
    };
    Ok(routes.iter().any(is_it))
}

async fn routes(handle: &Handle, v4: bool) -> Result<Vec<RouteMessage>, Error> {
    let all = if v4 {
        RouteMessageBuilder::<Ipv4Addr>::new().build()
    } else {
        RouteMessageBuilder::<Ipv6Addr>::new().build()
    };
    handle.route().get(all).execute().try_collect().await.map_err(|e| failed("read routes", e))
}

fn is_ipv4(route: &RouteMessage) -> bool {
    route.header.address_family == AddressFamily::Inet
}

/// Same destination, gateway and interface.
fn is_same(a: &RouteMessage, b: &RouteMessage) -> bool {
    let key = |r: &RouteMessage| {
        let gateway = r.attributes.iter().find(|a| matches!(a, RouteAttribute::Gateway(_))).cloned();
        let oif = r.attributes.iter().find(|a| matches!(a, RouteAttribute::Oif(_))).cloned();
        (r.header.destination_prefix_length, destination(r), gateway, oif)
    };
    key(a) == key(b)
}

/// The destination's address, or `default`.
fn destination(route: &RouteMessage) -> String {
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(a.to_string()),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(a.to_string()),
        _ => None,
    });
    address.unwrap_or_else(|| "default".into())
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(addr) => Some(*addr),
        _ => None,
    })
}

fn interface(message: &LinkMessage) -> Interface {
    let mut found = Interface { index: message.header.index, mac: String::new(), alias: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                found.mac = bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
            }
            LinkAttribute::IfAlias(alias) => found.alias = Some(alias.clone()),
            _ => {}
        }
    }
    found
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(m) if m.raw_code() == -errno)
}

fn failed(attempted: &str, error: impl std::fmt::Display) -> Error {
    Error::new(code::WIRING_FAILED, format!("cannot {attempted}")).because(error)
}

/// The descriptor of an open namespace, for [`Pair::netns`].
pub fn descriptor(netns: &File) -> RawFd {
    netns.as_raw_fd()
}
