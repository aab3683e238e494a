//! The kernel's side of felix: each manager makes one kind of kernel object what the calculators say.
//!
//! - [`iface_monitor`]: links, addresses and routes as they are
//! - [`route_manager`]: routes of workloads, blocks, borrowed addresses and services
//! - [`endpoint_manager`]: sysctls and neighbours of workload interfaces
//! - [`service_manager`]: the thread that owns the load balancer
//! - [`sysctl`]: reads and writes of `/proc/sys`

pub mod endpoint_manager;
pub mod iface_monitor;
pub mod route_manager;
pub mod service_manager;
pub mod sysctl;
