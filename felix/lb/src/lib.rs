//! The service load balancer: frontends and backends in, eBPF maps and programs in the kernel.
//!
//! It translates packets to a service where they enter the node (tcx on pods' interfaces and uplinks) and sockets where
//! they connect (cgroup hooks). Maps and links are pinned, so the datapath works without the process that loaded it, and
//! a new process adopts what it finds. It decides nothing about what is served: that is felix-calc's; and announces
//! nothing: that is the FIB's.
//!
//! Not in this version: IPv6, XDP, DSR, session affinity, ICMP errors, fragments, SCTP, kernels without tcx (before
//! 6.6). Such frontends are listed in [`Applied::skipped`] with the reason.
//!
//! - [`loader`]: objects, pins, links
//! - [`maps`]: typed maps
//! - [`compile`], [`maglev`]: pure, frontends -> map entries
//! - [`balancer`]: [`LoadBalancer`], which ties them together
//! - [`layout`]: the types of the maps, generated from the objects' BTF

mod balancer;
pub mod compile;
mod error;
mod loader;
pub mod maglev;
mod maps;
mod status;

/// The types of the maps, generated from the BTF of `bpf/types.h`.
pub mod layout {
    #[allow(dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/layout.rs"));
    }
    pub use generated::types::*;
}

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use balancer::LoadBalancer;
pub use error::Error;
pub use status::{Hook, Interface, MapStatus, ServiceCounters, Status};

/// Where and how to load.
#[derive(Clone, Debug)]
pub struct Config {
    /// A directory on a bpffs that is ours alone; created if missing.
    pub pin_root: PathBuf,
    /// The cgroup v2 directory whose processes the socket hooks serve; `None`: the root of the mounted hierarchy.
    pub cgroup: Option<PathBuf>,
    pub hooks: Hooks,
}

/// Which hooks may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    pub socket: bool,
    pub tc: bool,
    pub xdp: bool,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { socket: true, tc: true, xdp: true }
    }
}

impl FromStr for Hooks {
    type Err = String;

    /// A list as in `xdp,tc,socket`.
    fn from_str(list: &str) -> Result<Self, String> {
        let mut hooks = Self { socket: false, tc: false, xdp: false };
        for name in list.split(',').map(str::trim) {
            match name {
                "socket" => hooks.socket = true,
                "tc" => hooks.tc = true,
                "xdp" => hooks.xdp = true,
                other => return Err(format!("unknown hook {other:?}: expected a list of xdp, tc and socket")),
            }
        }
        Ok(hooks)
    }
}

/// What [`LoadBalancer::apply`] wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub frontends_written: usize,
    pub frontends_deleted: usize,
    pub sets_written: usize,
    /// Frontends that this version cannot serve, with the reason.
    pub skipped: Vec<(felix_calc::service_index::Frontend, &'static str)>,
}

/// What [`LoadBalancer::verify`] found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Addresses of which every frontend is in the maps as desired, while the hooks are attached.
    pub served: Arc<BTreeSet<IpAddr>>,
    /// What is not as it should be, for the log; empty when all is well.
    pub faults: Vec<String>,
}
