//! What must be there before felix can work, checked at the start so that one message says it.

use anyhow::{Context, Result, bail};

/// Linux `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Fails unless this process may program routes and BPF.
pub fn check_capabilities() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let missing = missing_capabilities(effective(&status).context("/proc/self/status has no CapEff")?);
    if !missing.is_empty() {
        bail!("felix lacks {}: start it as root, or give it these capabilities", missing.join(" and "));
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
    // Before CAP_BPF existed CAP_SYS_ADMIN was its name, and it still includes it.
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF (the service load balancer)");
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
        assert_eq!(missing_capabilities(0).len(), 2);
        assert!(missing_capabilities(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).is_empty());
        assert_eq!(missing_capabilities(1 << CAP_BPF), ["CAP_NET_ADMIN (routes, neighbours, sysctls)"]);
    }
}
