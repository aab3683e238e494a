//! Step 4: the tables that the seed shows.

use anyhow::{Result, bail};

use super::Job;
use crate::cluster::LEAF_ADDRESSES;

/// Columns as the seed prints them.
const COLUMNS: [(&str, &[&str]); 4] = [
    ("ippool", &["NAME", "CIDR", "SELECTOR"]),
    ("workloadendpoint", &["NAMESPACE", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE"]),
    ("bgppeer", &["NAME", "PEERIP", "NODE", "ASN"]),
    ("node", &["NAME"]),
];

/// `node status` by both names, and `get` of the seed's kinds.
///
/// # Errors
/// With the table that differs.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(4, "calicoctl and bgpctl");
    for program in ["calicoctl", "bgpctl"] {
        let shown = job.lab.nodes[0].ctl(program, &["node", "status"]).run()?.ok()?;
        for wanted in ["Calico process is running.", "IPv4 BGP status", "IPv6 BGP status", "No IPv6 peers found."] {
            if !shown.stdout.contains(wanted) {
                bail!("`{}` does not say '{wanted}':\n{}", shown.command, shown.stdout);
            }
        }
        for leaf in LEAF_ADDRESSES {
            let row = shown.stdout.lines().find(|l| cells(l).first() == Some(&leaf)).unwrap_or_default();
            let cells = cells(row);
            if cells.len() != 5 || cells[1] != "node specific" || cells[2] != "up" || cells[4] != "Established" {
                bail!("`{}` has no row of an established peer {leaf}:\n{}", shown.command, shown.stdout);
            }
        }
        job.report.all(&shown);
    }
    for (kind, columns) in COLUMNS {
        let args = if kind == "workloadendpoint" { vec!["get", kind, "-A"] } else { vec!["get", kind] };
        let shown = job.lab.calicoctl(&args)?.ok()?;
        let found: Vec<&str> = shown.stdout.lines().next().unwrap_or_default().split_whitespace().collect();
        if found != columns {
            bail!("`{}` has the columns {found:?} instead of {columns:?}", shown.command);
        }
        job.report.all(&shown);
    }
    let endpoints = job.lab.calicoctl(&["get", "workloadendpoint", "-A"])?.ok()?;
    for pod in job.lab.nodes.iter().flat_map(|n| n.pods.values()) {
        let wanted = [
            pod.spec.namespace.clone(),
            pod.spec.name.clone(),
            pod.node.clone(),
            format!("{}/32", pod.address),
            pod.interface.clone(),
        ];
        let is_row = |l: &str| l.split_whitespace().eq(wanted.iter().map(String::as_str));
        if !endpoints.stdout.lines().any(is_row) {
            bail!("`{}` has no row {wanted:?}:\n{}", endpoints.command, endpoints.stdout);
        }
    }
    job.report.conclude("node status, get ippool|workloadendpoint|bgppeer|node as in the seed", "calicoctl and bgpctl");
    Ok(())
}

fn cells(line: &str) -> Vec<&str> {
    line.split('|').map(str::trim).filter(|c| !c.is_empty()).collect()
}
