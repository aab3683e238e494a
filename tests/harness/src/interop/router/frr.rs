//! FRR: zebra and bgpd, and bfdd where the configuration speaks of BFD; vtysh.

use std::path::Path as FilePath;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Router;
use crate::exec::{self, Exec, Output};
use crate::interop::{Path, Sessions, Table};

const PROGRAMS: &str = "/usr/lib/frr";

/// FRR's daemons give up root for the user frr and make their sockets in the directory.
pub fn own(router: &Router) -> Result<()> {
    std::fs::write(router.dir.join("zebra.conf"), "")?;
    std::fs::write(router.dir.join("bfdd.conf"), "")?;
    exec::run(&["chown", "-R", "frr:frr", &router.dir.display().to_string()])?;
    Ok(())
}

pub fn start(router: &mut Router) -> Result<()> {
    let config = crate::cluster::read(&router.dir.join("router.conf"))?;
    daemon(router, "zebra", "zebra.conf")?;
    router.await_file("zserv.api")?;
    if config.lines().any(|l| l.contains(" bfd")) {
        daemon(router, "bfdd", "bfdd.conf")?;
        router.await_file("bfdd.vty")?;
    }
    daemon(router, "bgpd", "router.conf")?;
    router.await_file("bgpd.vty")
}

fn daemon(router: &mut Router, name: &str, config: &str) -> Result<()> {
    let program = format!("{PROGRAMS}/{name}");
    let (config, dir, zserv) = (router.file(config), router.dir.display().to_string(), router.file("zserv.api"));
    let pid = router.file(&format!("{name}.pid"));
    let mut argv = vec![&*program, "-f", &config, "--vty_socket", &dir, "-z", &zserv, "-i", &pid];
    argv.extend(["--log", "stdout", "-P", "0"]);
    let control = router.file("bfdd.sock");
    match name {
        "bgpd" => argv.extend(["-p", "179"]),
        "bfdd" => argv.extend(["--bfdctl", &control]),
        _ => {}
    }
    router.spawn(name, &argv, &[])
}

/// Adds a configuration of all daemons to the running one, as `vtysh -f` does.
pub fn load(router: &Router, config: &FilePath) -> Result<()> {
    let (dir, file) = (router.dir.display().to_string(), config.display().to_string());
    let said = Exec::new(&["vtysh", "--vty_socket", &dir, "-f", &file]).run()?.ok()?.text();
    // vtysh goes on after a line that no daemon understands.
    if said.contains('%') { bail!("{said}") } else { Ok(()) }
}

/// One command, or several of a configuration with `;` between.
pub fn vtysh(router: &Router, command: &str) -> Result<Output> {
    let dir = router.dir.display().to_string();
    let mut argv = vec!["vtysh", "--vty_socket", &dir];
    for line in command.split(';') {
        argv.extend(["-c", line.trim()]);
    }
    Exec::new(&argv).shown_as(format!("{}# vtysh -c '{command}'", router.netns.name)).run()?.ok()
}

pub fn sessions(router: &Router) -> Result<Sessions> {
    let json = vtysh(router, "show bgp neighbors json")?.json()?;
    let peers = json.as_object().into_iter().flatten().filter(|(_, p)| p["bgpState"].is_string());
    Ok(peers.map(|(ip, p)| (ip.clone(), p["bgpState"] == "Established")).collect())
}

pub fn learned(router: &Router) -> Result<Table> {
    let mut table = Table::new();
    for family in ["ipv4", "ipv6"] {
        let json = vtysh(router, &format!("show bgp {family} unicast json detail"))?.json()?;
        read(&json, &mut table);
    }
    Ok(table)
}

/// The answer to `show bgp … json detail`.
fn read(json: &Value, table: &mut Table) {
    for (prefix, entry) in json["routes"].as_object().into_iter().flatten() {
        // FRR 8 has a list of paths here, later ones an object with it.
        let paths = entry.as_array().or_else(|| entry["paths"].as_array()).into_iter().flatten();
        let learned = paths.filter(|p| p["sourced"] != true && p["local"] != true && p["valid"] == true);
        let learned: Vec<Path> = learned.map(path).collect();
        if !learned.is_empty() {
            table.insert(prefix.clone(), learned);
        }
    }
}

fn path(path: &Value) -> Path {
    let text = |v: &Value| v.as_str().map(str::to_string);
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let hops = path["nexthops"].as_array().into_iter().flatten();
    // Of a global and a link-local address, the global one.
    let hop = hops.filter(|h| h["scope"] != "link-local").find_map(|h| text(&h["ip"]));
    let any = || path["nexthops"][0]["ip"].as_str().map(str::to_string);
    let mut communities: Vec<String> = ["community", "largeCommunity"]
        .iter()
        .flat_map(|f| path[*f]["list"].as_array().into_iter().flatten())
        .filter_map(text)
        .collect();
    communities.sort();
    let as_path = path["aspath"]["string"].as_str().filter(|s| *s != "Local").unwrap_or_default();
    let clusters = path["clusterList"]["list"].as_array();
    Path {
        next_hop: hop.or_else(any),
        as_path: Some(as_path.to_string()),
        local_pref: number(&path["locPrf"]),
        med: number(&path["metric"]),
        communities: Some(communities),
        originator: text(&path["originatorId"]),
        cluster_list: clusters.map(|list| list.iter().filter_map(text).collect()),
    }
}
