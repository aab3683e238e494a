//! What can go wrong, said for the operator.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create the pin directory {path}: {source}")]
    PinRoot { path: PathBuf, source: io::Error },

    #[error(
        "the pin directory {path} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf) or choose \
         another directory with --bpf-pin-root"
    )]
    NotBpffs { path: PathBuf },

    #[error(
        "cannot load the {object} programs: {source}; this needs root (CAP_BPF, CAP_NET_ADMIN), and maps that an \
         incompatible version left pinned in {pins} have to be removed by hand"
    )]
    Load { object: &'static str, pins: PathBuf, source: libbpf_rs::Error },

    #[error("this kernel ({release}) has no {feature}: it needs Linux {since} or later, or --hooks without {hook}")]
    Kernel { release: String, feature: &'static str, since: &'static str, hook: &'static str },

    #[error("cannot attach {program} to {target}: {source}")]
    Attach { program: String, target: String, source: libbpf_rs::Error },

    #[error(
        "no cgroup v2 hierarchy is mounted: mount one, give its directory with --cgroup, or leave out the socket hook"
    )]
    NoCgroup,

    #[error("cannot open the cgroup {path}: {source}; --cgroup must name a directory of a cgroup v2 hierarchy")]
    Cgroup { path: PathBuf, source: io::Error },

    #[error("cannot {action} the map {map}: {source}")]
    Map { map: &'static str, action: &'static str, source: libbpf_rs::Error },

    #[error("cannot map the memory of the map slots: {source}")]
    Mmap { source: io::Error },
}
