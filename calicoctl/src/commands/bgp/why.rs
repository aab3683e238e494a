//! why: the decision about a prefix.

use anyhow::Result;
use serde_json::Value;

use super::{ask, path};
use crate::cli::bgp::WhyArgs;
use crate::commands::sockets::cell;
use crate::{output, table};

/// Says why a prefix goes the way it goes.
pub async fn why(args: &WhyArgs) -> Result<()> {
    let answer = ask(&args.socket.run_dir, &path("/v1/why", &[("target", Some(&args.target))])).await?;
    match output::structured(&answer, args.socket.output)? {
        Some(text) => output::print(&text),
        None => output::print(&text(&answer, output::width())),
    }
    Ok(())
}

fn text(why: &Value, width: Option<usize>) -> String {
    let (target, prefix) = (cell(why, "target"), cell(why, "prefix"));
    let mut out = format!("{prefix}\n");
    if target != prefix && !target.is_empty() {
        out += &format!("There is no route for {target} itself; this is the longest one around it.\n");
    }
    let origin = &why["origin"];
    if !origin.is_null() {
        let interface = match origin["interface"].as_str() {
            Some(name) => format!("on {name}"),
            None => "a blackhole".into(),
        };
        let verdict = if origin["announced"] == true { "announced" } else { "not announced" };
        let (metric, rule) = (cell(origin, "priority"), cell(origin, "rule"));
        out += &format!(
            "A route of this node, {interface}, metric {metric}; {verdict} where no BGPFilter decides: {rule}\n"
        );
    }
    if let Some(reason) = why["kernel"].as_str() {
        out += &format!("Not in the kernel as it should be, tried again: {reason}\n");
    }
    let headings = ["FROM", "NEXT HOP", "METRIC", "AS PATH", "LOCAL PREF", "MED", "FATE", "WHY"];
    let mut rows: Vec<Vec<String>> = why["paths"].as_array().into_iter().flatten().map(path_row).collect();
    out += &format!("\n{}", titled("Paths", &headings, &mut rows, width));
    let headings = ["PEER", "TOLD", "NEXT HOP", "AS PATH", "COMMUNITIES", "WHY"];
    let mut rows: Vec<Vec<String>> = why["peers"].as_array().into_iter().flatten().map(peer_row).collect();
    if !rows.is_empty() {
        out += &titled("Peers", &headings, &mut rows, width);
    }
    out
}

fn titled(title: &str, headings: &[&str], rows: &mut [Vec<String>], width: Option<usize>) -> String {
    table::fit(headings, rows, width, table::TABS.0, table::TABS.1);
    format!("{title}\n{}", table::tabs(headings, rows))
}

fn path_row(path: &Value) -> Vec<String> {
    let or = |field: &str, absent: &str| if path[field].is_null() { absent.to_string() } else { cell(path, field) };
    let stale = if path["stale"] == true { ", stale" } else { "" };
    let reasons = [cell(path, "import"), cell(path, "why")];
    let reasons: Vec<String> = reasons.into_iter().filter(|r| !r.is_empty()).collect();
    vec![
        or("peer", "self"),
        or("nextHop", "self"),
        or("nextHopMetric", "unknown"),
        as_path(path),
        cell(path, "localPref"),
        cell(path, "med"),
        format!("{}{stale}", cell(path, "fate")),
        reasons.join("; "),
    ]
}

/// With AS_SETs in braces.
fn as_path(route: &Value) -> String {
    cell(route, if route["asPathText"].is_null() { "asPath" } else { "asPathText" })
}

fn peer_row(peer: &Value) -> Vec<String> {
    let told = &peer["told"];
    let yes = if told.is_null() { "no" } else { "yes" };
    vec![
        cell(peer, "peer"),
        yes.into(),
        cell(told, "nextHop"),
        as_path(told),
        cell(told, "communities"),
        cell(peer, "why"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_and_peers_each_have_their_reason() {
        let path = |peer: &str, fate: &str, why: &str, import: &str| {
            json!({"peer": peer, "nextHop": peer, "nextHopMetric": 0, "asPath": [65001], "localPref": 100, "med": null,
                   "communities": [], "stale": false, "fate": fate, "why": why, "import": import})
        };
        let why = json!({
            "target": "10.1.2.0/24",
            "prefix": "10.0.0.0/8",
            "origin": null,
            "kernel": "the kernel refused",
            "paths": [path("192.0.2.1", "best", "the best", "changed by BGPFilter a, importV4[0]"),
                      path("192.0.2.2", "lost", "LOCAL_PREF 90 is lower than 100", "")],
            "peers": [{"peer": "192.0.2.1", "told": null, "why": "the best path is its own"},
                      {"peer": "192.0.2.2", "told": {"nextHop": "192.0.2.9", "asPathText": "65000 {65001}", "communities": ["1:2"]}, "why": ""}],
        });
        let want = "\
10.0.0.0/8
There is no route for 10.1.2.0/24 itself; this is the longest one around it.
Not in the kernel as it should be, tried again: the kernel refused

Paths
FROM        NEXT HOP    METRIC   AS PATH   LOCAL PREF   MED   FATE   WHY                                             
192.0.2.1   192.0.2.1   0        65001     100                best   changed by BGPFilter a, importV4[0]; the best   
192.0.2.2   192.0.2.2   0        65001     100                lost   LOCAL_PREF 90 is lower than 100                 

Peers
PEER        TOLD   NEXT HOP    AS PATH         COMMUNITIES   WHY                        
192.0.2.1   no                                               the best path is its own   
192.0.2.2   yes    192.0.2.9   65000 {65001}   1:2                                      

";
        assert_eq!(text(&why, None), want);
    }
}
