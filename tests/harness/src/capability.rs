//! What this machine allows. A test names the strongest thing it needs in its `#[ignore = "needs …"]`; `tests/run.sh` runs
//! it where that is there, and lists it as skipped where it is not.

use std::fmt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::guard;
use crate::interop::router::Kind;

/// The first kernel with tcx, which felix's default hooks need.
const KERNEL: (u32, u32) = (6, 6);

/// One thing a test may need. The routers are needed by tests of whole labs, which mount a bpffs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    Namespaces,
    Bpf,
    Etcd,
    Frr,
    Bird,
    Gobgp,
    Openbgpd,
    Exabgp,
    KubeApiserver,
    Mounts,
    Qemu,
}

/// Where `deploy/prerequisites.sh` puts a kernel for guests. A kernel of the machine itself is as good.
const GUEST_KERNELS: [&str; 2] = ["/var/cache/tortie/guest-kernel/boot", "/boot"];

impl Capability {
    pub const ALL: [Capability; 11] = [
        Capability::Namespaces,
        Capability::Bpf,
        Capability::Etcd,
        Capability::Frr,
        Capability::Bird,
        Capability::Gobgp,
        Capability::Openbgpd,
        Capability::Exabgp,
        Capability::KubeApiserver,
        Capability::Mounts,
        Capability::Qemu,
    ];

    /// Whether a machine that allows everything else may lack it: no package has it and it takes long to build, or its kernel
    /// could not be downloaded.
    pub fn is_optional(self) -> bool {
        matches!(self, Capability::KubeApiserver | Capability::Qemu)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::Namespaces => "network namespaces",
            Capability::Bpf => "BPF",
            Capability::Etcd => "etcd",
            Capability::Frr => "FRR",
            Capability::Bird => "BIRD",
            Capability::Gobgp => "GoBGP",
            Capability::Openbgpd => "OpenBGPD",
            Capability::Exabgp => "ExaBGP",
            Capability::KubeApiserver => "a Kubernetes API server",
            Capability::Mounts => "mounts",
            Capability::Qemu => "qemu",
        })
    }
}

/// Why a capability is missing, or `None` when it is there.
pub fn missing(capability: Capability) -> Option<String> {
    match capability {
        Capability::Namespaces => no_namespaces(),
        Capability::Bpf => no_namespaces().or_else(no_bpf),
        Capability::Etcd => {
            let there = ["/usr/bin/etcd", "/usr/local/bin/etcd"].iter().any(|p| Path::new(p).exists());
            (!there).then(|| "etcd is not installed (Debian package etcd-server)".into())
        }
        Capability::Frr => no_router(capability, Kind::Frr),
        Capability::Bird => no_router(capability, Kind::Bird),
        Capability::Gobgp => no_router(capability, Kind::Gobgp),
        Capability::Openbgpd => no_router(capability, Kind::Openbgpd),
        Capability::Exabgp => no_router(capability, Kind::Exabgp),
        Capability::KubeApiserver => no_program("KUBE_APISERVER", "kube-apiserver")
            .map(|why| format!("{why}; tests/cluster/kube-apiserver.sh builds one"))
            .or_else(|| no_program("KUBECTL", "kubectl")),
        Capability::Mounts => no_mount("tmpfs", "this machine does not allow it to mount a file system"),
        Capability::Qemu => no_qemu(),
    }
}

/// A program that a variable names, or that is in PATH.
fn no_program(variable: &str, name: &str) -> Option<String> {
    match std::env::var_os(variable) {
        Some(path) => {
            (!Path::new(&path).is_file()).then(|| format!("{variable} names {}, which is no file", path.display()))
        }
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let is_there = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
            (!is_there).then(|| format!("there is no {name} in PATH, and {variable} names none"))
        }
    }
}

fn no_router(capability: Capability, kind: Kind) -> Option<String> {
    let (programs, package) = kind.programs();
    let absent = || {
        let is_missing = programs.iter().any(|p| !Path::new(p).exists());
        is_missing.then(|| format!("{capability} is not installed (Debian package {package})"))
    };
    no_namespaces().or_else(no_bpf).or_else(absent)
}

/// A guest needs the emulator, a static busybox, a file system for its disk, and a kernel with its modules.
fn no_qemu() -> Option<String> {
    let programs = [
        ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
        ("/bin/busybox", "busybox-static"),
        ("/sbin/mkfs.ext4", "e2fsprogs"),
    ];
    if let Some((program, package)) = programs.iter().find(|(program, _)| !Path::new(program).exists()) {
        return Some(format!("{program} is missing (Debian package {package})"));
    }
    let is_kernel = |name: &str| name.strip_prefix("vmlinuz-").is_some_and(|version| !version.is_empty());
    let there = GUEST_KERNELS.iter().flat_map(std::fs::read_dir).flatten().flatten();
    let found = there.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| is_kernel(&name));
    (!found).then(|| format!("there is no kernel for guests in {}", GUEST_KERNELS.join(" or ")))
}

/// Makes a namespace with a veth pair in it: what an unprivileged container may not.
fn no_namespaces() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root; run it with sudo".into());
    }
    let script = "ip link add probe0 type veth peer name probe1 && sysctl -q -w net.ipv4.ip_forward=1";
    let why = "this machine does not allow it to make network namespaces (in a container: --privileged)";
    refused(&["unshare", "--net", "sh", "-c", script], why)
}

/// Mounts a bpffs and looks for a place to attach: what felix needs from the kernel it checks itself, by name.
fn no_bpf() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF)".into());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !is_new_enough(&release) {
        let (major, minor) = KERNEL;
        return Some(format!(
            "the service datapath needs tcx, which Linux {major}.{minor} has; this is {} (Debian 12 has a newer one in bookworm-backports: linux-image-amd64)",
            release.trim()
        ));
    }
    no_mount("bpf", "this machine does not allow it to mount a bpffs").or_else(|| match guard::cgroup_mount() {
        Some(_) => None,
        None => no_mount("cgroup2", "there is no cgroup v2, and none can be mounted"),
    })
}

/// Mounts a file system on a directory of its own, and takes it away again. Not in a mount namespace of its own: a chroot
/// whose root is no mount point cannot make one.
fn no_mount(kind: &str, why: &str) -> Option<String> {
    let tried = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}")).and_then(|dir| {
        mount(Some("none"), dir.path(), Some(kind), MsFlags::empty(), None::<&str>)
            .and_then(|()| umount2(dir.path(), MntFlags::empty()))
            .map_err(|e| format!("mount of a {kind} file system: {e}"))
    });
    tried.err().map(|said| format!("{why}; {said}"))
}

/// `6.1.0-56-amd64` is older than [`KERNEL`]. What cannot be read is left to felix, which knows by trying.
fn is_new_enough(release: &str) -> bool {
    let mut parts = release.split('.').map(|p| p.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= KERNEL,
        _ => true,
    }
}

fn refused(argv: &[&str], why: &str) -> Option<String> {
    match Command::new(argv[0]).args(&argv[1..]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("{why}; `{}` said: {}", argv.join(" "), said.trim()))
        }
        Err(error) => Some(format!("{why}; {} cannot be started: {error}", argv[0])),
    }
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn kernels_without_tcx_are_known_by_their_release() {
        for (release, enough) in [
            ("6.1.0-56-amd64", false),
            ("5.15.0", false),
            ("6.6.0", true),
            ("6.18.44+", true),
            ("7.0-rc1", true),
            ("?", true),
        ] {
            assert_eq!(is_new_enough(release), enough, "{release}");
        }
    }
}
