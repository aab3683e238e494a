//! What must be there before felix can work, checked at the start so that one message says it.

use anyhow::{Context, Result, bail};

/// Linux `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Fails unless this process may program routes and BPF.
pub fn check_capabilities() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let missing = missing_capabilities(effective(&status).context("/proc/self/status has no CapEff")?);
    if !missing.is_empty() {
        bail!("felix lacks {}: start it as root, or give it these capabilities", missing.join(", "));
    }
    Ok(())
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN (routes, neighbours, sysctls)");
    }
    // CAP_SYS_ADMIN includes both. Without CAP_PERFMON the verifier refuses the packet programs (EACCES).
    for (bit, name) in
        [(CAP_BPF, "CAP_BPF (the service load balancer)"), (CAP_PERFMON, "CAP_PERFMON (its packet programs)")]
    {
        if !has(bit) && !has(CAP_SYS_ADMIN) {
            missing.push(name);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_capability_is_named() {
        assert_eq!(effective("Name:\tfelix\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert!(missing_capabilities(0x1ff_ffff_ffff).is_empty());
        assert_eq!(missing_capabilities(0).len(), 3);
        assert!(missing_capabilities(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).is_empty());
        let bpf = 1 << CAP_BPF | 1 << CAP_PERFMON;
        assert_eq!(missing_capabilities(bpf), ["CAP_NET_ADMIN (routes, neighbours, sysctls)"]);
        assert_eq!(missing_capabilities(1 << CAP_BPF | 1 << CAP_NET_ADMIN), ["CAP_PERFMON (its packet programs)"]);
    }
}
