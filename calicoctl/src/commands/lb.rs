//! lb list and status: the services that this node's felix serves, and how.

use anyhow::Result;
use serde_json::{Map, Value};

use super::sockets::{ask, cell, show};
use crate::cli::{LbCommand, Output};
use crate::{output, table};

/// Runs one command of `lb`.
pub async fn run(command: &LbCommand) -> Result<()> {
    match command {
        LbCommand::List(args) => {
            let columns = [
                ("SERVICE", "service"),
                ("KIND", "kind"),
                ("ADDRESS", "addr"),
                ("PORT", "port"),
                ("PROTOCOL", "protocol"),
                ("SERVED", "served"),
                ("ANNOUNCED", "announced"),
                ("BACKENDS", "backends"),
            ];
            let mut services = ask(&args.run_dir, "felix.sock", "/v1/services").await?;
            if matches!(args.output, Output::Ps | Output::Wide)
                && let Some(rows) = services.as_array_mut()
            {
                rows.sort_by_cached_key(|r| (cell(r, "service"), cell(r, "kind"), r["port"].as_u64()));
                rows.iter_mut().for_each(for_the_table);
            }
            show(&services, &columns, args.output)
        }
        LbCommand::Status(args) => {
            let status = ask(&args.run_dir, "felix.sock", "/v1/status").await?;
            match output::structured(&status, args.output)? {
                Some(text) => output::print(&text),
                None => output::print(&status_text(&status)),
            }
            Ok(())
        }
    }
}

/// A frontend in the words of a Service. A node port is on addresses that the node has anyway: whether those are served and
/// announced is no question.
fn for_the_table(row: &mut Value) {
    match row["kind"].as_str() {
        Some("ClusterIp") => row["kind"] = "ClusterIP".into(),
        Some("ExternalIp") => row["kind"] = "ExternalIP".into(),
        Some("NodePort") => {
            row["addr"] = "node".into();
            row["served"] = "-".into();
            row["announced"] = "-".into();
        }
        _ => {}
    }
}

fn status_text(status: &Value) -> String {
    let balancer = &status["loadBalancer"];
    let mut out = vec![summary(status)];
    if balancer.is_null() {
        out.push("The load balancer has not started yet.\n".into());
        return out.join("\n");
    }
    let rows = |list: &str, row: fn(&Value) -> Vec<String>| -> Vec<Vec<String>> {
        balancer[list].as_array().into_iter().flatten().map(row).collect()
    };
    let hooks = rows("hooks", |h| {
        let state = if h["is_active"] == true { "active" } else { "off" };
        vec![cell(h, "name"), state.into(), cell(h, "reason")]
    });
    out.push(table::tabs(&["HOOK", "STATE", "REASON"], &hooks));
    let interfaces = rows("interfaces", |i| vec![cell(i, "name"), cell(i, "role"), cell(i, "ifindex")]);
    out.push(table::tabs(&["INTERFACE", "ROLE", "INDEX"], &interfaces));
    let services: Vec<Vec<String>> = entries(&balancer["services"])
        .map(|(name, s)| {
            vec![name.clone(), cell(s, "flows"), cell(s, "packets"), cell(s, "bytes"), counts(&s["drops"])]
        })
        .collect();
    out.push(table::tabs(&["SERVICE", "FLOWS", "PACKETS", "BYTES", "DROPS"], &services));
    let maps = rows("maps", |m| vec![cell(m, "name"), cell(m, "used"), cell(m, "max_entries"), fill(m)]);
    out.push(table::tabs(&["MAP", "USED", "SIZE", "FILL"], &maps));
    out.concat()
}

/// What an operator looks at first: whether it works, and what does not.
fn summary(status: &Value) -> String {
    let balancer = &status["loadBalancer"];
    let flag = |name: &str| if status[name] == true { "yes" } else { "no" };
    let or_none = |text: String| if text.is_empty() { "none".into() } else { text };
    let mut lines = vec![
        ("Node", format!("{} ({})", cell(status, "node"), cell(status, "mode"))),
        ("Store", cell(status, "store")),
        ("Ready", format!("{}, in sync: {}", flag("ready"), flag("inSync"))),
        ("Problems", or_none(list(&status["problems"]))),
        ("Frontends", format!("{}, not written: {}", cell(balancer, "frontends"), cell(balancer, "failed"))),
        ("Announced", or_none(cell(status, "announced"))),
        ("Drops", or_none(counts(&balancer["drops"]))),
    ];
    if let not_served @ 1.. = status["notServed"].as_array().map_or(0, Vec::len) {
        lines.push(("Not served", format!("{not_served}: {}", list(&status["notServed"]))));
    }
    let skipped = entries(&status["skipped"]).filter(|(_, n)| n.as_u64() != Some(0));
    let skipped: Vec<String> = skipped.map(|(what, n)| format!("{} {n}", what.replace('_', " "))).collect();
    if !skipped.is_empty() {
        lines.push(("Left out", skipped.join(", ")));
    }
    lines.into_iter().map(|(name, text)| format!("{:<12}{text}\n", format!("{name}:"))).collect::<String>() + "\n"
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn list(value: &Value) -> String {
    let items = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    items.collect::<Vec<_>>().join("; ")
}

/// `reason 3, other 1`.
fn counts(value: &Value) -> String {
    entries(value).map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

fn fill(map: &Value) -> String {
    match (map["used"].as_f64(), map["max_entries"].as_f64()) {
        (Some(used), Some(size)) if size > 0.0 => format!("{:.1}%", 100.0 * used / size),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_says_first_what_is_wrong() {
        let status = json!({
            "node": "worker01", "mode": "all", "store": "sqlite /x.db", "ready": false, "inSync": true,
            "problems": ["services: programming"], "announced": ["172.31.0.96"],
            "notServed": ["test/v6: IPv6"], "skipped": {"sctp_ports": 2, "ipv6_frontends": 0},
            "loadBalancer": {
                "drops": {"no backend": 3}, "failed": 0, "frontends": 13,
                "hooks": [{"is_active": true, "name": "tc", "reason": null}, {"is_active": false, "name": "xdp", "reason": "off"}],
                "interfaces": [{"ifindex": 2, "name": "eth0", "role": "uplink"}],
                "maps": [{"max_entries": 1000, "name": "frontends", "used": 13}, {"max_entries": 5, "name": "conntrack", "used": null}],
                "services": {"test/web": {"bytes": 9, "drops": {}, "flows": 1, "packets": 2}},
            },
        });
        let want = "\
Node:       worker01 (all)
Store:      sqlite /x.db
Ready:      no, in sync: yes
Problems:   services: programming
Frontends:  13, not written: 0
Announced:  172.31.0.96
Drops:      no backend 3
Not served: 1: test/v6: IPv6
Left out:   sctp ports 2

HOOK   STATE    REASON   
tc     active            
xdp    off      off      

INTERFACE   ROLE     INDEX   
eth0        uplink   2       

SERVICE    FLOWS   PACKETS   BYTES   DROPS   
test/web   1       2         9               

MAP         USED   SIZE   FILL   
frontends   13     1000   1.3%   
conntrack          5             

";
        assert_eq!(status_text(&status), want);
        let starting = status_text(&json!({"node": "a", "mode": "all", "loadBalancer": null}));
        assert!(starting.contains("has not started"), "{starting}");
    }

    #[test]
    fn frontends_have_the_words_of_services() {
        let mut row = json!({"kind": "ClusterIp", "addr": "10.96.0.1", "served": true});
        for_the_table(&mut row);
        assert_eq!(row, json!({"kind": "ClusterIP", "addr": "10.96.0.1", "served": true}));
        let mut row = json!({"kind": "NodePort", "addr": "0.0.0.0", "served": false, "announced": false});
        for_the_table(&mut row);
        assert_eq!(row, json!({"kind": "NodePort", "addr": "node", "served": "-", "announced": "-"}));
    }
}
