//! BGP-4 without sockets, clocks or tasks: bytes in, messages out; events in, actions out; paths in, best paths out.
//!
//! - [`wire`]: messages to and from octets; what RFC 7606 makes of a malformed attribute
//! - [`fsm`]: the session state machine of RFC 4271 section 8 as a table, timers as deadlines
//! - [`rib`]: prefixes, interned attribute sets, the decision process, what goes to which peer
//! - [`policy`]: import and export rules as a function
//! - [`bmp`]: what collectors are told (RFC 7854)
//! - [`mrt`]: the table as a file (RFC 6396)
//! - [`af`]: prefixes and the two address families
//!
//! It never reads a clock (`now` is an argument), opens no socket and knows no configuration resource.

pub mod af;
pub mod bmp;
pub mod fsm;
pub mod mrt;
pub mod policy;
pub mod rib;
pub mod wire;
