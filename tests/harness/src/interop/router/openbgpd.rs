//! OpenBGPD: bgpd with its two children, and its bgpctl.

use anyhow::Result;
use serde_json::Value;

use super::{Router, START_LIMIT};
use crate::evidence::eventually;
use crate::exec::{Exec, Output};
use crate::interop::{Path, Sessions, Table};

pub const DAEMON: &str = "/usr/sbin/bgpd";
pub const CONTROL: &str = "/usr/sbin/bgpctl";
/// Its children are confined here; the unit's RuntimeDirectory makes it where systemd runs.
const CHROOT: &str = "/run/openbgpd";

/// The configuration has to name the socket: `socket "@DIR@/control.sock"`.
pub fn start(router: &mut Router) -> Result<()> {
    std::fs::create_dir_all(CHROOT)?;
    let config = router.file("router.conf");
    router.spawn("openbgpd", &[DAEMON, "-d", "-f", &config], &[])?;
    router.await_file("control.sock")?;
    eventually(START_LIMIT, "bgpctl answers", || control(router, "show"))?;
    Ok(())
}

pub fn control(router: &Router, command: &str) -> Result<Output> {
    let socket = router.file("control.sock");
    let mut argv = vec![CONTROL, "-s", &socket];
    // A quoted text is one word: `neighbor 10.0.0.1 down "good night"`.
    let (plain, quoted) = command.split_once('"').unwrap_or((command, ""));
    argv.extend(plain.split_whitespace());
    argv.extend(Some(quoted.trim_end_matches('"')).filter(|q| !q.is_empty()));
    Exec::new(&argv).shown_as(format!("{}# bgpctl {command}", router.netns.name)).run()?.ok()
}

pub fn sessions(router: &Router) -> Result<Sessions> {
    let json = control(router, "-j show neighbor")?.json()?;
    let row = |p: &Value| Some((p["remote_addr"].as_str()?.to_string(), p["state"] == "Established"));
    Ok(json["neighbors"].as_array().into_iter().flatten().filter_map(row).collect())
}

pub fn learned(router: &Router) -> Result<Table> {
    let json = control(router, "-j show rib detail")?.json()?;
    let mut table = Table::new();
    for row in json["rib"].as_array().into_iter().flatten().filter(|r| r["announced"] != true) {
        if let Some(prefix) = row["prefix"].as_str() {
            table.entry(prefix.to_string()).or_default().push(path(row));
        }
    }
    Ok(table)
}

fn path(row: &Value) -> Path {
    let text = |v: &Value| v.as_str().map(str::to_string);
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let lists = ["communities", "large_communities"].iter().flat_map(|f| row[*f].as_array().into_iter().flatten());
    let mut communities: Vec<String> = lists.filter_map(text).collect();
    communities.sort();
    let attributes: Vec<&Value> = row["attributes"].as_array().into_iter().flatten().collect();
    let find = |kind: &str| attributes.iter().copied().find(|a| a["type"] == kind);
    let clusters = find("Cluster Id List").and_then(|a| a["cluster_ids"].as_array());
    Path {
        next_hop: text(&row["exit_nexthop"]),
        as_path: text(&row["aspath"]),
        local_pref: number(&row["localpref"]),
        med: number(&row["metric"]),
        communities: Some(communities),
        originator: find("Originator Id").and_then(|a| text(&a["originator"])),
        cluster_list: clusters.map(|list| list.iter().filter_map(text).collect()),
    }
}
