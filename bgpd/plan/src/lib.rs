//! What a node's BGP speaker runs on, worked out from resources (pure): sessions, policies, and what is originated.
//!
//! bgpd runs a [`peers::Plan`]; `bgpctl plan` prints one. Nothing here opens a socket or knows the time.
//!
//! - [`resources`]: the resources that count, as the store has them
//! - [`peers`]: resources to sessions
//! - [`settings`]: what users set on a session to what it runs on
//! - [`filters`]: BGPFilter to the matcher's rules
//! - [`password`]: the secrets that sessions are signed with
//! - [`origins`]: the kernel's routes of felix, and the export rules, to prefixes
//! - [`config`]: the result
//! - [`switch`]: the other ends of the sessions

pub mod config;
pub mod filters;
pub mod origins;
pub mod password;
pub mod peers;
pub mod resources;
pub mod settings;
pub mod switch;
