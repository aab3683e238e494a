//! The calculators: resources in, desired state out. Pure.
//!
//! - [`service_index`]: services and endpoint slices to frontends and backends

pub mod service_index;
