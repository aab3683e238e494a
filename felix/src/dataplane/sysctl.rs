//! Settings under `/proc/sys/net`, which belong to the network namespace of the calling thread.

use std::io::ErrorKind;
use std::path::PathBuf;

/// A setting and the value that it shall have.
pub type Setting = (String, &'static str);

/// Why a setting cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}: {source}; felix needs a writable /proc/sys")]
pub struct Error {
    path: PathBuf,
    value: &'static str,
    source: std::io::Error,
}

/// Makes the settings that differ; gives the number of writes. A setting of IPv6 that does not exist (IPv6 is off) is left out.
///
/// # Errors
/// One for each setting that failed; the others are made.
pub fn apply(settings: &[Setting]) -> Result<usize, Vec<Error>> {
    let mut written = 0;
    let mut errors = Vec::new();
    for (name, value) in settings {
        let path = PathBuf::from("/proc/sys").join(name);
        let outcome = match std::fs::read_to_string(&path) {
            Ok(present) if present.trim() == *value => continue,
            Ok(_) => std::fs::write(&path, value),
            Err(e) => Err(e),
        };
        match outcome {
            Ok(()) => written += 1,
            Err(e) if e.kind() == ErrorKind::NotFound && name.starts_with("net/ipv6/") => {}
            Err(source) => errors.push(Error { path, value, source }),
        }
    }
    if errors.is_empty() { Ok(written) } else { Err(errors) }
}

/// The host's settings (calico.org: felix sets forwarding; the hash policy spreads flows by their ports, so that a flow
/// stays on one of several equal paths).
pub fn host() -> Vec<Setting> {
    let fixed = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // A packet of a translated flow may come in by another way than its answer leaves.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/fib_multipath_hash_policy", "1"),
    ];
    fixed.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Settings of an uplink.
pub fn uplink(interface: &str) -> Vec<Setting> {
    vec![(format!("net/ipv4/conf/{}/rp_filter", interface), "0")]
}

/// Settings of a workload's interface (Calico `felix/dataplane/linux/endpoint_mgr.go`, `configureInterface`).
pub fn workload(interface: &str) -> Vec<Setting> {
    let name = interface;
    vec![
        // The pod's gateway 169.254.1.1 exists nowhere: the host answers for it, and at once.
        (format!("net/ipv4/neigh/{name}/proxy_delay"), "0"),
        (format!("net/ipv4/conf/{name}/proxy_arp"), "1"),
        (format!("net/ipv4/conf/{name}/forwarding"), "1"),
        (format!("net/ipv4/conf/{name}/route_localnet"), "1"),
        // With the eBPF datapath an answer may come in by another interface than its route names.
        (format!("net/ipv4/conf/{name}/rp_filter"), "0"),
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/proxy_ndp"), "1"),
        (format!("net/ipv6/conf/{name}/forwarding"), "1"),
    ]
}
