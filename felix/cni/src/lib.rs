//! The CNI plugins: `tortie` wires a container to its node, `tortie-ipam` gives it addresses (CNI specification 1.1.0).
//!
//! Both are short-lived programs that a container runtime starts: configuration on stdin, parameters in `CNI_*`, the answer
//! on stdout. They decide nothing about routes: `tortie` makes the veth pair and writes a WorkloadEndpoint, from which felix
//! programs the host side.
//!
//! - [`protocol`]: parameters, network configuration, results, errors, versions
//! - [`workload`]: who the container is: names, labels, annotations, the WorkloadEndpoint
//! - [`wiring`]: [io] network namespaces, veth pairs, addresses, routes
//! - [`delegate`]: [io] runs the IPAM plugin
//! - [`plugin`]: [io] ADD, DEL, CHECK of `tortie`
//! - [`address`]: [io] ADD, DEL, CHECK of `tortie-ipam`
//! - [`gc`]: [io] GC of both
//! - [`program`]: [io] the frame of both programs

pub mod address;
pub mod delegate;
pub mod gc;
pub mod plugin;
pub mod program;
pub mod protocol;
pub mod wiring;
pub mod workload;
