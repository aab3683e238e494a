//! Step 2: pods get what the seed shows.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use super::{Job, SETTLE};
use crate::evidence::eventually;
use crate::pod::PodSpec;

/// The namespace of the seed; its annotation names the pool.
pub const NAMESPACE: &str = "test";

/// A pod on one node with an address from the pool of that block size.
pub struct Placed {
    pub node: usize,
    pub name: &'static str,
    pub block_size: u64,
}

/// The pods of the main job.
pub const PODS: [Placed; 5] = [
    Placed { node: 0, name: "nettool", block_size: 29 },
    Placed { node: 0, name: "nettool-31", block_size: 31 },
    Placed { node: 0, name: "nettool-32", block_size: 32 },
    Placed { node: 1, name: "web-2", block_size: 29 },
    Placed { node: 2, name: "web-3", block_size: 32 },
];

/// Makes the pods and checks addresses, routes and interfaces.
///
/// # Errors
/// With the route or setting that is not as the seed shows it.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(2, "Pods, by our CNI plugin through the CNI protocol");
    for placed in &PODS {
        let pool = job.pools.of_block_size(placed.block_size)?.name.clone();
        let app = if is_web(placed.name) { "web" } else { "nettool" };
        let spec = PodSpec::new(NAMESPACE, placed.name)
            .label("app", app)
            .annotation("cni.projectcalico.org/ipv4pools", &format!("[\"{pool}\"]"));
        job.lab.add_pod(placed.node, spec)?;
        check(job, placed)?;
    }
    job.report.conclude(
        "pods: /32 on eth0, default via 169.254.1.1, proxy ARP, /32 and blackhole routes",
        "ip address, ip route, sysctl in pods and on nodes",
    );
    Ok(())
}

fn check(job: &mut Job, placed: &Placed) -> Result<()> {
    let node = &job.lab.nodes[placed.node];
    let pod = node.pods.get(placed.name).context("the pod is not there")?;
    let addresses = pod.netns.run(&["ip", "-o", "-4", "addr", "show", "dev", "eth0"])?;
    if !addresses.stdout.contains(&format!("inet {}/32", pod.address)) {
        bail!("{} has no /32 on eth0: {}", placed.name, addresses.stdout);
    }
    let routes = pod.netns.run(&["ip", "route"])?;
    // Which program made a route is its own affair.
    let plain = routes.stdout.replace(" proto static", "");
    for wanted in ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"] {
        if !plain.contains(wanted) {
            bail!("{} has no route '{wanted}': {}", placed.name, routes.stdout);
        }
    }
    let proxy = format!("net.ipv4.conf.{}.proxy_arp", pod.interface);
    let proxy_arp = node.netns.run(&["sysctl", "-n", &proxy])?;
    if proxy_arp.stdout.trim() != "1" {
        bail!("{proxy} on {} is {}", node.name, proxy_arp.stdout.trim());
    }
    let host_route = eventually(SETTLE, &format!("{} has the route to {}", node.name, pod.address), || {
        let found = node.netns.route_text(&format!("{}/32", pod.address))?;
        let wanted = format!("dev {} ", pod.interface);
        if found.stdout.contains(&wanted) && found.stdout.contains("scope link") {
            Ok(found)
        } else {
            bail!("{found:?}")
        }
    })?;
    let block = block_of(&pod.address, placed.block_size)?;
    let shown_block = eventually(SETTLE, &format!("the blackhole route of {block} on {} is right", node.name), || {
        let found = node.netns.route_text(&block)?;
        let is_blackhole = found.stdout.starts_with("blackhole");
        if is_blackhole == (placed.block_size != 32) { Ok(found) } else { bail!("{found:?}") }
    })?;
    job.report.shown(&addresses, |_| true);
    job.report.all(&routes);
    job.report.all(&proxy_arp);
    job.report.all(&host_route);
    job.report.all(&shown_block);
    let blackhole =
        if placed.block_size == 32 { "no blackhole for a /32 block" } else { "its block's blackhole route" };
    job.report.checked(&format!("{} on {}: {} on {}, {blackhole}", placed.name, node.name, pod.address, pod.interface));
    Ok(())
}

/// Whether a pod is a backend of the services.
pub fn is_web(name: &str) -> bool {
    name.starts_with("web-")
}

/// The block of an address, as a prefix.
///
/// # Errors
/// When the address is none.
pub fn block_of(address: &str, size: u64) -> Result<String> {
    let address: Ipv4Addr = address.parse().with_context(|| format!("'{address}' is no IPv4 address"))?;
    let mask = u32::MAX.checked_shl(32 - size as u32).unwrap_or(0);
    Ok(format!("{}/{size}", Ipv4Addr::from(u32::from(address) & mask)))
}

#[cfg(test)]
mod tests {
    use super::block_of;

    #[test]
    fn blocks_are_cut_at_their_size() {
        assert_eq!(block_of("1.1.1.14", 29).unwrap(), "1.1.1.8/29");
        assert_eq!(block_of("1.1.1.14", 32).unwrap(), "1.1.1.14/32");
    }
}
