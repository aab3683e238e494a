//! ipam show and configure.

use std::net::IpAddr;

use anyhow::{Result, bail};
use api::ipam::AllocationBlock;
use api::meta::WithSpec;
use api::{IpPool, IpPoolSpec, IpReservationSpec};
use datastore::{DynStore, typed};
use ipam::Ipam;
use ipnet::IpNet;

use super::open_store;
use crate::cli::IpamCommand;
use crate::table;

/// Runs one command of `ipam`.
pub async fn run(command: IpamCommand) -> Result<()> {
    match command {
        IpamCommand::Plan(args) => super::ipam_plan::plan(&args).await,
        IpamCommand::Show { ip: Some(ip), .. } => show_ip(open_store().await?, ip).await,
        IpamCommand::Show { ip: None, show_blocks } => show(open_store().await?, show_blocks).await,
        IpamCommand::Configure { strictaffinity: None, max_blocks_per_host: None } => {
            bail!("nothing to configure: give --strictaffinity=true|false or --max-blocks-per-host=N")
        }
        IpamCommand::Configure { strictaffinity, max_blocks_per_host } => {
            let ipam = Ipam::new(open_store().await?);
            let mut config = ipam.config().await?;
            config.strict_affinity = strictaffinity.unwrap_or(config.strict_affinity);
            config.max_blocks_per_host = max_blocks_per_host.unwrap_or(config.max_blocks_per_host);
            ipam.set_config(config).await?;
            if let Some(strict) = strictaffinity {
                println!("Successfully set StrictAffinity to: {strict}");
            }
            if let Some(max) = max_blocks_per_host {
                println!("Successfully set MaxBlocksPerHost to: {max}");
            }
            Ok(())
        }
    }
}

async fn show_ip(store: DynStore, ip: IpAddr) -> Result<()> {
    let Some(info) = Ipam::new(store).ip_info(ip).await? else {
        println!("{ip} is not assigned");
        return Ok(());
    };
    println!("IP {ip} is in use");
    if let Some(handle) = &info.handle {
        println!("Handle ID: {handle}");
    }
    println!("Active Owner Attributes:");
    for (name, value) in &info.attributes {
        println!("  {name}: {value}");
    }
    Ok(())
}

/// How many addresses of a range are there, used and reserved.
#[derive(Clone, Copy, Default)]
struct Use {
    total: f64,
    used: f64,
    reserved: f64,
}

async fn show(store: DynStore, show_blocks: bool) -> Result<()> {
    let (pools, _) = typed::list::<WithSpec<IpPoolSpec>>(store.as_ref()).await?;
    let (reservations, _) = typed::list::<WithSpec<IpReservationSpec>>(store.as_ref()).await?;
    let reserved: Vec<IpNet> = IpNet::aggregate(
        &reservations
            .iter()
            .flat_map(|r| &r.body.spec.reserved_cidrs)
            .filter_map(|c| c.parse().ok().or_else(|| c.parse::<IpAddr>().ok().map(IpNet::from)))
            .collect(),
    );
    let blocks = Ipam::new(store).blocks().await?;
    print!("{}", show_text(&pools, &blocks, &reserved, show_blocks));
    Ok(())
}

fn show_text(pools: &[IpPool], blocks: &[AllocationBlock], reserved: &[IpNet], show_blocks: bool) -> String {
    let mut rows = Vec::new();
    let mut sorted: Vec<&IpPool> = pools.iter().collect();
    sorted.sort_by_key(|p| p.body.spec.cidr);
    for pool in sorted {
        let cidr = pool.body.spec.cidr;
        let inside: Vec<&AllocationBlock> = blocks.iter().filter(|b| cidr.contains(&b.cidr)).collect();
        let used = inside.iter().map(|b| used_of(b)).fold(0.0, |a, b| a + b);
        rows.push(row("IP Pool", cidr, Use { total: size(&cidr), used, reserved: reserved_in(&cidr, reserved) }));
        if show_blocks {
            rows.extend(inside.iter().map(|b| block_row(b, reserved)));
        }
    }
    // Blocks whose pool is gone still hold addresses.
    let orphans = blocks.iter().filter(|b| !pools.iter().any(|p| p.body.spec.cidr.contains(&b.cidr)));
    rows.extend(orphans.map(|b| block_row(b, reserved)));
    table::boxed(&["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"], &rows)
}

fn block_row(block: &AllocationBlock, reserved: &[IpNet]) -> Vec<String> {
    let usage = Use { total: size(&block.cidr), used: used_of(block), reserved: reserved_in(&block.cidr, reserved) };
    row("Block", block.cidr, usage)
}

fn used_of(block: &AllocationBlock) -> f64 {
    block.allocations.iter().flatten().count() as f64
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

fn row(grouping: &str, cidr: IpNet, usage: Use) -> Vec<String> {
    let share = |n: f64| format!("{} ({:.0}%)", general(n), 100.0 * n / usage.total);
    let free = (usage.total - usage.used - usage.reserved).max(0.0);
    vec![grouping.into(), cidr.to_string(), general(usage.total), share(usage.used), share(usage.reserved), share(free)]
}

/// Go's `%.5g`: five digits, an exponent where they do not suffice.
fn general(n: f64) -> String {
    if n < 1e5 {
        return format!("{n:.0}");
    }
    let exponent = n.log10().floor() as i32;
    let mantissa = format!("{:.4}", n / 10f64.powi(exponent));
    format!("{}e+{exponent:02}", mantissa.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_go() {
        for (n, want) in
            [(0.0, "0"), (256.0, "256"), (65536.0, "65536"), (131072.0, "1.3107e+05"), (2f64.powi(64), "1.8447e+19")]
        {
            assert_eq!(general(n), want);
        }
    }
}
