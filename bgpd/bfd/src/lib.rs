//! BFD (RFC 5880) without sockets, clocks or tasks: octets in, packets out; events in, actions out.
//!
//! - [`packet`]: the control packet, and why one is discarded before a session sees it
//! - [`session`]: one session: the state machine as a table, negotiation, poll sequences, jitter
//! - [`sessions`]: all of them: which session a packet is for (RFC 5881 section 3, RFC 5883 section 4)
//!
//! Asynchronous mode in the active role. Demand mode is not asked for, but a peer that asks for it is obeyed. No Echo:
//! Required Min Echo RX Interval is always 0. No authentication: a packet with the A bit is discarded. The C bit is clear: we
//! live in the process of the control plane.

pub mod packet;
pub mod session;
pub mod sessions;
