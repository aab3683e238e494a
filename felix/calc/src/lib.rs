//! The calculators: resources in, desired state out. Pure.
//!
//! [`Graph::apply`] takes one update and touches memory only; [`Graph::desired`] answers what the dataplane shall look like.
//! The answer is a function of the resources that exist, never of the order in which they arrived. A resource that cannot be
//! read counts as one that does not exist. What it refuses to do: keep clocks, sockets or the kernel's state.
//!
//! - [`graph`]: the updates, the calculators' wiring, the combined answer
//! - [`local_endpoints`]: this node's workloads to interfaces and host routes
//! - [`l3_route_resolver`]: IPAM blocks and nodes to blackholes and routes of borrowed addresses
//! - [`service_index`]: services and endpoint slices to frontends and backends

pub mod graph;
pub mod l3_route_resolver;
pub mod local_endpoints;
pub mod service_index;

pub use graph::{DesiredState, Graph, ObjectName, Update};
pub use l3_route_resolver::BlockRoute;
pub use local_endpoints::LocalEndpoint;
pub use service_index::{Backend, Frontend, FrontendKind};
