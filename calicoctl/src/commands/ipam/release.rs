//! ipam release (Calico `calicoctl/commands/ipam/release.go`).

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use api::address_range::AddressRange;
use api::key::AffinityOwner;
use api::kind::Kind;
use api::meta::WithSpec;
use api::{Key, LoadBalancerIpPoolSpec};
use datastore::{DynStore, Error, Op, Txn, typed};
use ipam::check::report::{Cluster, LeakedIp, Report, ReportedHandle, agreed};
use ipam::release::ReleaseRequest;
use ipam::{Ipam, handle};
use ipnet::IpNet;

use crate::cli::ipam::ReleaseArgs;
use crate::cluster;
use crate::output::print;

/// Releases what is named.
pub async fn release(store: DynStore, args: &ReleaseArgs) -> Result<()> {
    let ipam = Ipam::new(store.clone());
    if let Some(ip) = args.ip {
        let unallocated = ipam.release_ips(&[ip.into()]).await?;
        if !unallocated.is_empty() {
            bail!("IP address {ip} is not assigned");
        }
        println!("Successfully released IP address {ip}");
        return Ok(());
    }
    if let Some(id) = &args.handle {
        if store.get(&Key::IpamHandle(handle::sanitized(id).into())).await?.is_none() {
            bail!(crate::plan::missing(&format!("IPAMHandle({id})")));
        }
        return say(&format!("handle {id}"), &ipam.release_by_handle(id).await?);
    }
    if let Some(node) = &args.node {
        if !args.force && store.get(&Key::resource(Kind::Node, None, node)).await?.is_some() {
            bail!("node {node} exists, and its workloads may use their addresses: delete the Node, or use --force");
        }
        let released = ipam.release_node_addresses(node).await?;
        let blocks = ipam.release_host_affinities(&AffinityOwner::Host(node.clone()), false).await?;
        return say_with_blocks(&format!("node {node}"), &released, &blocks);
    }
    if let Some(pool) = &args.pool {
        let cidr = pool_to_release(&store, pool, args.force).await?;
        let released = ipam.release_pool_addresses(cidr).await?;
        let blocks = ipam.release_pool_affinities(cidr).await?;
        return say_with_blocks(&format!("pool {pool}"), &released, &blocks);
    }
    from_reports(&store, args).await
}

/// The CIDR of a pool by name, or of one that is gone by its CIDR.
async fn pool_to_release(store: &DynStore, pool: &str, force: bool) -> Result<IpNet> {
    let (pools, _) = typed::list::<WithSpec<api::IpPoolSpec>>(store.as_ref()).await?;
    let cidr: Option<IpNet> = pool.parse().ok();
    let found = pools.iter().find(|p| p.metadata.name == *pool || Some(p.body.spec.cidr) == cidr);
    match (found, cidr) {
        (Some(found), _) if !found.body.spec.disabled && !force => bail!(
            "IPPool {} is enabled, and workloads may use its addresses: disable it and drain them, or use --force",
            found.metadata.name
        ),
        (Some(found), _) => Ok(found.body.spec.cidr),
        (None, Some(cidr)) => {
            let whole = AddressRange::from(cidr);
            let (others, _) = typed::list::<WithSpec<LoadBalancerIpPoolSpec>>(store.as_ref()).await?;
            let ranges = pools.iter().map(|p| (format!("IPPool {}", p.metadata.name), p.body.spec.cidr.into()));
            let others = others.iter().flat_map(|p| {
                p.body.spec.ranges().map(|range| (format!("LoadBalancerIPPool {}", p.metadata.name), range))
            });
            match ranges.chain(others).find(|(_, range): &(String, AddressRange)| range.overlaps(&whole)) {
                Some((pool, range)) => bail!("{cidr} is no pool that is gone: it overlaps {pool} ({range})"),
                None => Ok(cidr),
            }
        }
        (None, None) => bail!("resource does not exist: IPPool({pool}); for a pool that is gone give its CIDR"),
    }
}

fn say(what: &str, released: &[IpAddr]) -> Result<()> {
    let all: Vec<String> = released.iter().map(ToString::to_string).collect();
    match released.len() {
        0 => println!("Nothing of {what} was assigned"),
        1 => println!("Successfully released IP address {} of {what}", all[0]),
        n => println!("Successfully released {n} IP addresses of {what}: {}", all.join(", ")),
    }
    Ok(())
}

fn say_with_blocks(what: &str, released: &[IpAddr], blocks: &[IpNet]) -> Result<()> {
    say(what, released)?;
    if !blocks.is_empty() {
        let all: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        println!("Successfully released {} blocks of {what}: {}", blocks.len(), all.join(", "));
    }
    Ok(())
}

/// Releases what every report says is leaked, where it is still as it was.
async fn from_reports(store: &DynStore, args: &ReleaseArgs) -> Result<()> {
    let present = cluster::read(store.as_ref()).await?;
    let mut reports = Vec::new();
    for path in &args.from_report {
        let name = path.display().to_string();
        let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let report: Report =
            serde_json::from_slice(&text).with_context(|| format!("{name} is no report of ipam check"))?;
        check_report(&present, &name, &report, args.force)?;
        reports.push(report);
    }
    if !reports.iter().any(|r| r.cluster_information_revision == present.revision) {
        bail!(
            "the provided reports are all stale - at least one should be up-to-date. Please generate a new report while the data \
             store is locked and try again"
        );
    }
    if !present.is_locked {
        if !args.force {
            bail!("data store is not locked. Either lock the data store, or re-run with --force");
        }
        println!("WARNING: Data store is not locked. Ignoring due to --force option");
    }
    let (ips, handles) = agreed(&reports).map_err(|e| anyhow!("a report is damaged: {e}"))?;
    release_ips(store, &ips).await?;
    release_handles(store, &handles).await?;
    println!("You may now unlock the data store.");
    Ok(())
}

/// Refuses a report of another cluster, and without --force one of another version.
fn check_report(present: &Cluster, name: &str, report: &Report, force: bool) -> Result<()> {
    if report.cluster_guid != present.guid {
        bail!("cluster does not match the provided report ({name}): mismatched cluster GUID. Refusing to release");
    }
    let known = [present.version.as_str(), env!("CARGO_PKG_VERSION")];
    if !known.contains(&report.version.as_str()) {
        if !force {
            bail!(
                "the provided report ({name}) was produced using a different version ({}) of calicoctl. Refusing to release",
                report.version
            );
        }
        println!("WARNING: Report was produced using a different version of calicoctl. Ignoring due to --force option");
    }
    Ok(())
}

async fn release_ips(store: &DynStore, ips: &[LeakedIp]) -> Result<()> {
    if ips.is_empty() {
        println!("Report didn't contain any leaked IPs to clean up.");
        return Ok(());
    }
    println!("Releasing {} old IPs...", ips.len());
    let ipam = Ipam::new(store.clone());
    let (mut released, mut gone, mut failed) = (0, 0, Vec::new());
    // One by one: an address that has another owner by now stops no other.
    for leaked in ips {
        let request =
            ReleaseRequest { address: leaked.address, handle: leaked.handle.clone(), sequence_number: leaked.sequence };
        match ipam.release_ips(&[request]).await {
            Ok(unallocated) if unallocated.is_empty() => released += 1,
            Ok(_) => gone += 1,
            Err(error @ ipam::Error::Store(_)) => return Err(error.into()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !failed.is_empty() {
        println!(
            "An error occurred while releasing some IPs: {}.  Problems are often caused by an out-of-date IPAM report.  Try \
             regenerating the IPAM report and retry.",
            failed.join("; ")
        );
    }
    if released > 0 || failed.is_empty() {
        println!("Released {released} IPs successfully");
    }
    if gone > 0 {
        println!("{gone} addresses marked as leaked in the report had already been cleaned up.");
    }
    Ok(())
}

async fn release_handles(store: &DynStore, handles: &[ReportedHandle]) -> Result<()> {
    if handles.is_empty() {
        println!("Report didn't contain any handles to clean up.");
        return Ok(());
    }
    let mut out = format!("Deleting {} handles...\n", handles.len());
    out += "Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.\n";
    let (mut released, mut skipped, mut errors) = (0, 0, 0);
    for reported in handles {
        let key = Key::IpamHandle(reported.id.clone());
        let outcome = match reported.revision.parse() {
            Ok(revision) => store.txn(Txn { ops: vec![Op::Delete(key, Some(revision))] }).await,
            Err(_) => Err(Error::Conflict(key)),
        };
        match outcome {
            Ok(_) => {
                released += 1;
                out.push('.');
            }
            Err(Error::NotFound(_) | Error::Conflict(_)) => {
                skipped += 1;
                out.push('x');
            }
            Err(error) => {
                errors += 1;
                let _ = write!(out, "\nDeleting handle {} failed: {error}.\n", reported.id);
            }
        }
    }
    let _ = writeln!(out, "\nReleased {released} handles; {skipped} skipped; {errors} errors.");
    print(&out);
    if errors > 0 { bail!("{errors} handles could not be deleted") } else { Ok(()) }
}
