//! A deterministic simulation of many speakers in one process: the RIB and the codec of bgp-proto, no sockets, no clock.
//!
//! ```text
//! Topology ──► World: events by time ──► Speaker (Rib) ──octets──► link with delay ──► Speaker (Rib) ...
//!    │                                                                                      │
//!    └────────► model: the fix-point of the same network, computed from the rules ──compare─┘
//! ```
//!
//! - [`topology`]: two tiers of redundant reflectors, clients, links, who originates what
//! - [`world`]: events, links, sessions; [`speaker`]: one speaker; [`failures`]: what goes wrong, and when
//! - [`model`]: what every Loc-RIB must be when all is quiet; it shares no code with bgp-proto
//! - [`mod@check`] compares
//!
//! Everything is a function of the seed: the same seed gives the same [`World::digest`](world::World::digest). Sessions
//! come up and go without the FSM: that an end notices a loss late, and at another time than the other end, is drawn.

pub mod check;
pub mod failures;
pub mod model;
pub mod rng;
pub mod speaker;
pub mod topology;
pub mod world;
