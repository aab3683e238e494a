//! GoBGP: gobgpd, and gobgp as its command line. It keeps its table to itself: no kernel routes.

use anyhow::Result;
use serde_json::Value;

use super::{Router, START_LIMIT};
use crate::evidence::eventually;
use crate::exec::Output;
use crate::interop::{Path, Sessions, Table};

/// PeerState.SessionState of GoBGP's API.
const ESTABLISHED: u64 = 6;
/// RFC 4271 section 5.1, RFC 1997, RFC 4456, RFC 8092: path attribute types.
const AS_PATH: u64 = 2;
const NEXT_HOP: u64 = 3;
const MED: u64 = 4;
const LOCAL_PREF: u64 = 5;
const COMMUNITIES: u64 = 8;
const ORIGINATOR_ID: u64 = 9;
const CLUSTER_LIST: u64 = 10;
const MP_REACH: u64 = 14;
const LARGE_COMMUNITIES: u64 = 32;

pub fn start(router: &mut Router) -> Result<()> {
    let config = router.file("router.conf");
    let restarts = if router.dir.join("was-up").exists() { vec!["--graceful-restart"] } else { Vec::new() };
    std::fs::write(router.dir.join("was-up"), "")?;
    let mut argv = vec!["gobgpd", "-t", "toml", "-f", &config, "--pprof-disable", "--api-hosts", "127.0.0.1:50051"];
    argv.extend(restarts);
    router.spawn("gobgpd", &argv, &[])?;
    eventually(START_LIMIT, "gobgpd answers", || {
        router.processes[0].check_alive()?;
        gobgp(router, "global")
    })?;
    // Its own routes come by its command line: lines `# originate PREFIX …` of the configuration.
    for line in crate::cluster::read(&router.dir.join("router.conf"))?.lines() {
        if let Some(route) = line.strip_prefix("# originate ") {
            let family = if route.contains("::") { "ipv6" } else { "ipv4" };
            gobgp(router, &format!("global rib -a {family} add {route}"))?;
        }
    }
    Ok(())
}

pub fn gobgp(router: &Router, command: &str) -> Result<Output> {
    let mut argv = vec!["gobgp"];
    argv.extend(command.split_whitespace());
    router.netns.exec(&argv).run()?.ok()
}

pub fn sessions(router: &Router) -> Result<Sessions> {
    let json = gobgp(router, "neighbor -j")?.json()?;
    let row = |p: &Value| {
        let address = p["state"]["neighbor_address"].as_str().or(p["conf"]["neighbor_address"].as_str())?;
        Some((address.to_string(), p["state"]["session_state"] == ESTABLISHED))
    };
    Ok(json.as_array().into_iter().flatten().filter_map(row).collect())
}

pub fn learned(router: &Router) -> Result<Table> {
    let mut table = Table::new();
    for family in ["ipv4", "ipv6"] {
        let text = gobgp(router, &format!("global rib -a {family} -j"))?.stdout;
        // An empty table is printed as words.
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        read(&json, &mut table);
    }
    Ok(table)
}

fn read(json: &Value, table: &mut Table) {
    for (prefix, paths) in json.as_object().into_iter().flatten() {
        // What it added itself has no source.
        let learned = paths.as_array().into_iter().flatten();
        let learned = learned.filter(|p| p["source-id"].as_str().is_some_and(|s| !s.is_empty() && s != "<nil>"));
        let learned: Vec<Path> = learned.map(path).collect();
        if !learned.is_empty() {
            table.insert(prefix.clone(), learned);
        }
    }
}

fn path(path: &Value) -> Path {
    let attributes: Vec<&Value> = path["attrs"].as_array().into_iter().flatten().collect();
    let find = |kind: u64| attributes.iter().copied().find(|a| a["type"] == kind);
    let text = |v: &Value| v.as_str().map(str::to_string);
    let number = |kind: u64, field: &str| find(kind)?[field].as_u64().and_then(|n| u32::try_from(n).ok());
    let segments = find(AS_PATH).and_then(|a| a["as_paths"].as_array()).into_iter().flatten();
    let ases = segments.flat_map(|s| s["asns"].as_array().into_iter().flatten()).map(Value::to_string);
    let standard = find(COMMUNITIES).and_then(|a| a["communities"].as_array()).into_iter().flatten();
    let standard = standard.filter_map(Value::as_u64).map(|c| format!("{}:{}", c >> 16, c & 0xffff));
    let large = find(LARGE_COMMUNITIES).and_then(|a| a["value"].as_array()).into_iter().flatten();
    let large = large.map(|c| format!("{}:{}:{}", c["ASN"], c["LocalData1"], c["LocalData2"]));
    let mut communities: Vec<String> = standard.chain(large).collect();
    communities.sort();
    let clusters = find(CLUSTER_LIST).and_then(|a| a["value"].as_array());
    Path {
        next_hop: find(NEXT_HOP).or_else(|| find(MP_REACH)).and_then(|a| text(&a["nexthop"])),
        as_path: Some(ases.collect::<Vec<_>>().join(" ")),
        local_pref: number(LOCAL_PREF, "value"),
        med: number(MED, "metric"),
        communities: Some(communities),
        originator: find(ORIGINATOR_ID).and_then(|a| text(&a["value"])),
        cluster_list: clusters.map(|list| list.iter().filter_map(text).collect()),
    }
}
