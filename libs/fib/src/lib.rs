//! Kernel routes as desired state: what felix and bgpd share.
//!
//! The crate knows the main table's unicast and blackhole routes of IPv4 and IPv6, links and addresses; it does not know
//! BGP, resources or policy. It refuses to touch a route of another protocol number: ownership is the route's protocol
//! ([`PROTOCOL_FELIX`], [`PROTOCOL_BGPD`]) and nothing else.
//!
//! - [`route`]: keys, targets, next hops, their normal form
//! - [`kernel`]: the [`Kernel`] trait, [`Event`]s, errors
//! - [`netlink`]: the real kernel: dumps, batched writes, the monitor; [`codec`] turns routes into messages and back
//! - [`fake`]: a kernel in memory that fails on demand
//! - [`table`]: [`RouteTable`], the routes of one protocol, desired against actual
//! - [`resolve`]: by which next hops an address is reached, recursively

pub mod codec;
pub mod fake;
pub mod kernel;
pub mod netlink;
pub mod resolve;
pub mod route;
pub mod table;

pub use fake::Fake;
pub use kernel::{Addr, Change, Error, Event, Kernel, KernelRoute, Link, Watch};
pub use netlink::Netlink;
pub use resolve::{Links, Lookup, Neighbours, Recursive, Resolver, Routes, resolve};
pub use route::{
    NextHop, PRIORITY_BORROWED, PRIORITY_LEARNED, PRIORITY_LOCAL, PROTOCOL_BGPD, PROTOCOL_FELIX, Route, RouteKey,
    Shared, Target,
};
pub use table::{Applied, RouteTable};
