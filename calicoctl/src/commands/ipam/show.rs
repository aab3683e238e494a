//! ipam show (Calico `calicoctl/commands/ipam/show.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use api::address_range::AddressRange;
use api::ipam::{AllocationBlock, attr};
use api::meta::WithSpec;
use api::{IpPool, IpPoolSpec, IpReservationSpec, LoadBalancerIpPool, LoadBalancerIpPoolSpec};
use datastore::{DynStore, typed};
use ipam::Ipam;
use ipam::block::{address_at, owner_of};
use ipnet::IpNet;

use crate::cli::ipam::ShowArgs;
use crate::output::print;
use crate::table;

/// Prints what is asked for.
pub async fn show(store: DynStore, args: &ShowArgs) -> Result<()> {
    if let Some(ip) = args.ip {
        return show_ip(store, ip).await;
    }
    if args.show_borrowed {
        return show_borrowed(store).await;
    }
    if args.show_configuration {
        return show_configuration(store).await;
    }
    let (mut pools, _) = typed::list::<WithSpec<IpPoolSpec>>(store.as_ref()).await?;
    pools.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let (reservations, _) = typed::list::<WithSpec<IpReservationSpec>>(store.as_ref()).await?;
    let reserved: Vec<IpNet> = IpNet::aggregate(
        &reservations
            .iter()
            .flat_map(|r| &r.body.spec.reserved_cidrs)
            .filter_map(|c| c.trim().parse().ok().or_else(|| c.trim().parse::<IpAddr>().ok().map(IpNet::from)))
            .collect(),
    );
    let (others, _) = typed::list::<WithSpec<LoadBalancerIpPoolSpec>>(store.as_ref()).await?;
    let ranges: Vec<LbRange> = others.iter().flat_map(LbRange::of).collect();
    let blocks = Ipam::new(store).blocks().await?;
    print(&usage(&pools, &ranges, &blocks, &reserved, args.show_blocks));
    Ok(())
}

async fn show_ip(store: DynStore, ip: IpAddr) -> Result<()> {
    let blocks = Ipam::new(store).blocks().await?;
    let slot = blocks.iter().filter(|b| b.cidr.contains(&ip)).find_map(|block| {
        let ordinal = (0..block.allocations.len()).find(|&o| address_at(block.cidr, o) == ip)?;
        block.attributes.get(block.allocations[ordinal]?)
    });
    let Some(attribute) = slot.filter(|a| a.released_at.is_none()) else {
        print(&format!("{ip} is not assigned\n"));
        return Ok(());
    };
    let mut text = format!("IP {ip} is in use\n");
    text += &format!("Handle ID: {}\n", attribute.handle_id.as_deref().unwrap_or("<none>"));
    let owners = |title: &str, of: &Option<BTreeMap<String, String>>| {
        let pairs: Vec<String> = of.iter().flatten().map(|(k, v)| format!("  {k}: {v}\n")).collect();
        if pairs.is_empty() { String::new() } else { format!("{title}:\n{}", pairs.concat()) }
    };
    match owners("Active Owner Attributes", &attribute.secondary) {
        none if none.is_empty() => text += "No Active Owner attributes defined\n",
        active => text += &active,
    }
    text += &owners("Alternate Owner Attributes", &attribute.alternate_owner_attrs);
    print(&text);
    Ok(())
}

async fn show_borrowed(store: DynStore) -> Result<()> {
    let blocks = Ipam::new(store).blocks().await?;
    let mut rows = Vec::new();
    let mut unclassified = 0;
    for block in &blocks {
        let owner = owner_of(block).map(|o| o.to_block_field()).unwrap_or_default();
        let owner = owner.split_once(':').map_or(owner.as_str(), |(_, name)| name);
        for (ordinal, slot) in block.allocations.iter().enumerate() {
            let Some(attribute) = slot.and_then(|i| block.attributes.get(i)) else { continue };
            let attrs = attribute.secondary.clone().unwrap_or_default();
            let of = |name: &str| attrs.get(name).cloned();
            // Addresses of services and those that cool down have no node.
            let has_no_node = of(attr::SERVICE).is_some() || attribute.released_at.is_some();
            match of(attr::NODE) {
                None if has_no_node => {}
                None => unclassified += 1,
                Some(node) if node == owner => {}
                Some(node) => {
                    let namespace = of(attr::NAMESPACE).unwrap_or_default();
                    let (kind, to) = match (of("vmi-name"), of(attr::POD), of(attr::TYPE)) {
                        (Some(vmi), _, _) => ("vmi".to_string(), format!("{namespace}/{vmi}")),
                        (_, Some(pod), _) => ("pod".to_string(), format!("{namespace}/{pod}")),
                        (_, _, kind) => (kind.unwrap_or_default(), String::new()),
                    };
                    let ip = address_at(block.cidr, ordinal).to_string();
                    rows.push(vec![ip, node, block.cidr.to_string(), owner.to_string(), kind, to]);
                }
            }
        }
    }
    let headings = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
    let mut text = table::pretty(&headings, &[], &rows);
    if unclassified > 0 {
        text += &format!(
            "\nNote: found {unclassified} IP allocations without an explicit node association. Unable to determine if they are borrowed.\n"
        );
    }
    print(&text);
    Ok(())
}

async fn show_configuration(store: DynStore) -> Result<()> {
    let config = Ipam::new(store).config().await?;
    let persistence = config.kube_virt_vm_address_persistence.unwrap_or_else(|| "Enabled".into());
    let rows = [
        ("StrictAffinity", config.strict_affinity.to_string()),
        ("AutoAllocateBlocks", config.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", config.max_blocks_per_host.to_string()),
        ("KubeVirtVMAddressPersistence", persistence),
        ("IPCooldownSeconds", config.ip_cooldown_seconds.to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect();
    print(&table::pretty(&["PROPERTY", "VALUE"], &[], &rows));
    Ok(())
}

/// How many addresses of a range there are, and what they are; an address that was taken before it was reserved counts as both.
#[derive(Clone, Copy, Default)]
struct Use {
    total: f64,
    used: f64,
    reserved: f64,
    free: f64,
}

fn usage(
    pools: &[IpPool],
    ranges: &[LbRange],
    blocks: &[AllocationBlock],
    reserved: &[IpNet],
    show_blocks: bool,
) -> String {
    let mut rows = Vec::new();
    let pool_of = |b: &AllocationBlock| pools.iter().position(|p| overlaps(&p.body.spec.cidr, &b.cidr));
    for (place, pool) in pools.iter().enumerate() {
        let cidr = pool.body.spec.cidr;
        let inside: Vec<&AllocationBlock> = blocks.iter().filter(|b| pool_of(b) == Some(place)).collect();
        let mut sum = Use { total: size(&cidr), reserved: reserved_in(&cidr, reserved), ..Use::default() };
        let mut in_blocks = 0.0;
        for block in &inside {
            let usage = block_use(block, reserved);
            sum.used += usage.used;
            sum.free += usage.free;
            in_blocks += usage.total - usage.reserved;
        }
        sum.free += (sum.total - sum.reserved - in_blocks).max(0.0);
        rows.push(row("IP Pool", cidr, sum));
        if show_blocks {
            rows.extend(inside.iter().map(|b| row("Block", b.cidr, block_use(b, reserved))));
        }
    }
    let range_of = |b: &AllocationBlock| match pool_of(b) {
        Some(_) => None,
        None => ranges.iter().position(|r| r.whole.overlaps(&b.cidr.into())),
    };
    for (place, range) in ranges.iter().enumerate() {
        rows.push(row("LB Pool", &range.text, range_use(&range.assignable, blocks, reserved)));
        if show_blocks {
            let inside = blocks.iter().filter(|b| range_of(b) == Some(place));
            rows.extend(inside.map(|b| row("Block", b.cidr, block_use(b, reserved))));
        }
    }
    if show_blocks {
        // Blocks whose pool is gone still hold addresses.
        let orphans = blocks.iter().filter(|b| pool_of(b).is_none() && range_of(b).is_none());
        rows.extend(orphans.map(|b| row("Block", b.cidr, block_use(b, reserved))));
    }
    table::pretty(
        &["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"],
        &["IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"],
        &rows,
    )
}

/// One range of a LoadBalancerIPPool.
struct LbRange {
    /// As it is written: the CIDR, or first and last address.
    text: String,
    whole: AddressRange,
    /// Without the ends that are not given.
    assignable: AddressRange,
}

impl LbRange {
    fn of(pool: &LoadBalancerIpPool) -> Vec<Self> {
        let spec = &pool.body.spec;
        let written = spec.blocks.iter().filter_map(|block| Some((block.cidr, block.range()?)));
        let pairs = written.zip(spec.assignable());
        pairs
            .map(|((cidr, whole), assignable)| {
                let text = cidr.map_or_else(|| whole.to_string(), |cidr| cidr.to_string());
                Self { text, whole, assignable }
            })
            .collect()
    }
}

/// Of the blocks that reach into a range, what lies in it.
fn range_use(range: &AddressRange, blocks: &[AllocationBlock], reserved: &[IpNet]) -> Use {
    let total = range.len() as f64;
    let in_range = |ip: &IpAddr| range.contains(*ip);
    let used: Vec<IpAddr> = blocks
        .iter()
        .filter(|b| range.overlaps(&b.cidr.into()))
        .flat_map(|b| b.allocations.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(o, _)| address_at(b.cidr, o)))
        .filter(in_range)
        .collect();
    let overlap = |r: &IpNet| {
        let (first, last) =
            (AddressRange::from(*r).first().max(range.first()), AddressRange::from(*r).last().min(range.last()));
        AddressRange::new(first, last).map_or(0.0, |both| both.len() as f64)
    };
    let reserved_total: f64 =
        reserved.iter().filter(|r| range.overlaps(&(**r).into())).map(overlap).fold(0.0, |a, b| a + b);
    let outside = used.iter().filter(|ip| !reserved.iter().any(|r| r.contains(*ip))).count() as f64;
    Use { total, used: used.len() as f64, reserved: reserved_total, free: (total - reserved_total - outside).max(0.0) }
}

fn block_use(block: &AllocationBlock, reserved: &[IpNet]) -> Use {
    let total = size(&block.cidr);
    let is_free = |o: &&usize| !reserved.iter().any(|r| r.contains(&address_at(block.cidr, **o)));
    Use {
        total,
        used: total - block.unallocated.len() as f64,
        reserved: reserved_in(&block.cidr, reserved),
        free: block.unallocated.iter().filter(is_free).count() as f64,
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn reserved_in(cidr: &IpNet, reserved: &[IpNet]) -> f64 {
    reserved
        .iter()
        .map(|r| match (cidr.contains(r), r.contains(cidr)) {
            (true, _) => size(r),
            (_, true) => size(cidr),
            _ => 0.0,
        })
        .fold(0.0, |a, b| a + b)
}

fn size(cidr: &IpNet) -> f64 {
    2f64.powi(i32::from(cidr.max_prefix_len() - cidr.prefix_len()))
}

fn row(grouping: &str, cidr: impl std::fmt::Display, usage: Use) -> Vec<String> {
    let share = |n: f64| format!("{} ({:.0}%)", general(n), 100.0 * n / usage.total);
    let cells = [general(usage.total), share(usage.used), share(usage.reserved), share(usage.free)];
    [grouping.into(), cidr.to_string()].into_iter().chain(cells).collect()
}

/// Go's `%.5g`: five digits, an exponent where they do not suffice.
fn general(n: f64) -> String {
    if n < 99_999.5 {
        return format!("{n:.0}");
    }
    let rounded = format!("{n:.4e}");
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: u32 = exponent.parse().unwrap_or(0);
    format!("{}e+{exponent:02}", mantissa.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_go() {
        for (n, want) in [
            (0.0, "0"),
            (256.0, "256"),
            (65536.0, "65536"),
            (99_999.0, "99999"),
            (131_072.0, "1.3107e+05"),
            (100_000.0, "1e+05"),
            (999_999.0, "1e+06"),
            (2f64.powi(64), "1.8447e+19"),
            (2f64.powi(80), "1.2089e+24"),
        ] {
            assert_eq!(general(n), want);
        }
    }
}
