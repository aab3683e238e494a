//! ExaBGP: it has no table and no questions to ask; what it hears it writes as JSON lines, and it takes commands from a pipe.
//!
//! A configuration names the processes that do so, and has its neighbours use them:
//!
//! ```text
//! process heard { run /bin/sh @DIR@/heard; encoder json; }
//! process told { run /bin/sh @DIR@/told; encoder text; }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Router, START_LIMIT};
use crate::evidence::eventually;
use crate::exec::Output;
use crate::interop::{Path, Sessions, Table};

pub const DAEMON: &str = "/usr/sbin/exabgp";

pub fn start(router: &mut Router) -> Result<()> {
    let dir = router.dir.display().to_string();
    // ExaBGP takes a process whose output it cannot read for dead: the pipe stays open beside the file.
    for (name, script) in [
        ("heard", format!("exec cat 3>&1 >>{dir}/heard.json\n")),
        ("told", format!(": >{dir}/tell\nexec tail -n +1 -f {dir}/tell\n")),
    ] {
        fs::write(router.dir.join(name), script)?;
    }
    fs::write(router.dir.join("heard.json"), "")?;
    let (config, env) = (router.file("router.conf"), router.file("none.env"));
    let variables = [
        ("exabgp_daemon_user", "root"),
        ("exabgp_daemon_drop", "false"),
        ("exabgp_api_ack", "false"),
        ("exabgp_api_cli", "false"),
        ("exabgp_log_level", "INFO"),
        ("exabgp_log_destination", "stdout"),
    ];
    router.spawn("exabgp", &[DAEMON, "-e", &env, &config], &variables)?;
    eventually(START_LIMIT, "exabgp starts", || {
        router.processes[0].check_alive()?;
        if router.processes[0].log().contains("loaded new configuration successfully") {
            return Ok(());
        }
        anyhow::bail!("not yet: {}", router.processes[0].log_tail())
    })
}

pub fn tell(router: &Router, command: &str) -> Result<Output> {
    let mut pipe = fs::OpenOptions::new().append(true).create(true).open(router.dir.join("tell"))?;
    writeln!(pipe, "{command}").context("cannot tell exabgp")?;
    let command = format!("{}# {command}", router.netns.name);
    Ok(Output { command, code: 0, stdout: fs::read_to_string(router.dir.join("heard.json"))?, stderr: String::new() })
}

fn events(router: &Router) -> Vec<Value> {
    let text = fs::read_to_string(router.dir.join("heard.json")).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

pub fn sessions(router: &Router) -> Result<Sessions> {
    let mut sessions = Sessions::new();
    for event in events(router).iter().filter(|e| e["type"] == "state") {
        if let Some(peer) = event["neighbor"]["address"]["peer"].as_str() {
            sessions.insert(peer.to_string(), event["neighbor"]["state"] == "up");
        }
    }
    Ok(sessions)
}

/// Plays all events: by peer and prefix, the last word.
pub fn learned(router: &Router) -> Result<Table> {
    Ok(read(&events(router)))
}

fn read(events: &[Value]) -> Table {
    let mut known: BTreeMap<(String, String), Path> = BTreeMap::new();
    for event in events {
        let Some(peer) = event["neighbor"]["address"]["peer"].as_str() else { continue };
        if event["type"] == "state" && event["neighbor"]["state"] != "connected" {
            known.retain(|(_, from), _| from != peer);
        }
        let update = &event["neighbor"]["message"]["update"];
        for (_, list) in update["withdraw"].as_object().into_iter().flatten() {
            for prefix in list.as_array().into_iter().flatten().filter_map(nlri) {
                known.remove(&(prefix, peer.to_string()));
            }
        }
        for (_, hops) in update["announce"].as_object().into_iter().flatten() {
            for (hop, list) in hops.as_object().into_iter().flatten() {
                for prefix in list.as_array().into_iter().flatten().filter_map(nlri) {
                    let entry = known.entry((prefix, peer.to_string())).or_default();
                    // Both next hops of IPv6 are told, each with all prefixes: the global one is kept.
                    if !hop.starts_with("fe80") || entry.next_hop.is_none() {
                        *entry = path(hop, &update["attribute"]);
                    }
                }
            }
        }
    }
    let mut table = Table::new();
    for ((prefix, _), path) in known {
        table.entry(prefix).or_default().push(path);
    }
    table
}

fn nlri(value: &Value) -> Option<String> {
    value["nlri"].as_str().or(value.as_str()).map(str::to_string)
}

fn path(hop: &str, attributes: &Value) -> Path {
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let words = |v: &Value, between: &str| -> Vec<String> {
        let rows = v.as_array().into_iter().flatten();
        rows.map(|r| match r.as_array() {
            Some(parts) => parts.iter().map(Value::to_string).collect::<Vec<_>>().join(between),
            None => r.as_str().map_or_else(|| r.to_string(), str::to_string),
        })
        .collect()
    };
    let mut communities = words(&attributes["community"], ":");
    communities.extend(words(&attributes["large-community"], ":"));
    communities.sort();
    Path {
        next_hop: Some(hop.to_string()),
        as_path: Some(words(&attributes["as-path"], " ").join(" ")),
        local_pref: number(&attributes["local-preference"]),
        med: number(&attributes["med"]),
        communities: Some(communities),
        originator: attributes["originator-id"].as_str().map(str::to_string),
        cluster_list: attributes["cluster-list"].is_array().then(|| words(&attributes["cluster-list"], ".")),
    }
}
