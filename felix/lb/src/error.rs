//! What can go wrong, said for the operator.

use std::io;
use std::path::{Path, PathBuf};

use libbpf_rs::ErrorKind;

/// The hooks, each with the first kernel that has all that its programs use: tcx (6.6); `bpf_set_retval` (5.18).
pub(crate) const HOOKS: [(&str, &str); 2] = [("tc", "6.6"), ("socket", "5.18")];

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

    #[error("cannot load the {hook} programs: {source}; {}", load_advice(.hook, .source.kind(), .pins))]
    Load { hook: &'static str, pins: PathBuf, source: libbpf_rs::Error },

    #[error("this kernel ({release}) has no {feature}: it needs Linux {since} or later, or --hooks without {hook}")]
    Kernel { release: String, feature: &'static str, since: &'static str, hook: &'static str },

    #[error("cannot attach {program} to {target}: {source}{}", attach_advice(.hook, .source.kind()))]
    Attach { hook: &'static str, program: String, target: String, source: libbpf_rs::Error },

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

fn since(hook: &str) -> &'static str {
    HOOKS.iter().find(|(name, _)| *name == hook).map_or("", |(_, since)| since)
}

/// What the kernel's refusal of programs or maps most likely means, and what to do.
fn load_advice(hook: &str, kind: ErrorKind, pins: &Path) -> String {
    let since = since(hook);
    match kind {
        ErrorKind::PermissionDenied => "this needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; before Linux 5.11 \
                                        also unlimited locked memory (ulimit -l unlimited)"
            .into(),
        ErrorKind::Unsupported => "this kernel is built without CONFIG_BPF_SYSCALL".into(),
        ErrorKind::OutOfMemory => "there is not enough memory for the maps (about 40 MiB at first)".into(),
        _ => format!(
            "the {hook} hook needs Linux {since} or later, built with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF; leave \
             it out of --hooks on an older one; maps that an incompatible version left pinned in {} have to be removed by \
             hand",
            pins.display()
        ),
    }
}

/// The same for a hook that cannot be attached; empty when the error says it all.
fn attach_advice(hook: &str, kind: ErrorKind) -> String {
    match (hook, kind) {
        (_, ErrorKind::PermissionDenied) => "; this needs root, or CAP_BPF and CAP_NET_ADMIN".into(),
        ("tc", ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            format!("; this kernel has no tcx: it needs Linux {} or later, or --hooks without tc", since(hook))
        }
        ("socket", ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            format!("; the socket hook needs Linux {} or later, built with CONFIG_CGROUP_BPF", since(hook))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_what_is_missing_and_what_to_do() {
        let load = |hook, errno| {
            let source = libbpf_rs::Error::from_raw_os_error(errno);
            Error::Load { hook, pins: "/sys/fs/bpf/tortie".into(), source }
        };
        let attach = |hook, errno| {
            let source = libbpf_rs::Error::from_raw_os_error(errno);
            Error::Attach { hook, program: "p".into(), target: "eth0".into(), source }
        };
        let rows = [
            (load("tc", libc::EPERM), &["CAP_BPF", "CAP_NET_ADMIN", "locked memory"][..]),
            (load("tc", libc::EACCES), &["CAP_PERFMON"]),
            (load("tc", libc::EINVAL), &["tc hook", "6.6", "--hooks", "/sys/fs/bpf/tortie"]),
            (load("socket", libc::EINVAL), &["socket hook", "5.18", "CONFIG_CGROUP_BPF"]),
            (load("socket", libc::ENOSYS), &["CONFIG_BPF_SYSCALL"]),
            (load("tc", libc::ENOMEM), &["memory for the maps"]),
            (attach("tc", libc::EINVAL), &["eth0", "tcx", "6.6", "--hooks without tc"]),
            (attach("tc", libc::EPERM), &["CAP_NET_ADMIN"]),
            (attach("socket", libc::EINVAL), &["5.18", "CONFIG_CGROUP_BPF"]),
        ];
        for (error, parts) in rows {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}: {parts:?}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert!(!attach("tc", libc::ENODEV).to_string().contains("tcx"), "an interface that has gone is no old kernel");
    }
}
