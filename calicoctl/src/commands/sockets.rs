//! What the daemons of this node say: node status, peers, routes; `lb` has a file of its own.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use api::validate::shown;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cli::{RoutesArgs, RoutesView, SocketArgs, TableOrJson};
use crate::table;

/// BIRD shows the time of day of what is younger, else the date (`timeformat protocol`, 20 hours).
const DATE_AFTER: SignedDuration = SignedDuration::from_hours(20);

/// Calico's `node status`, to the letter.
pub async fn node_status(args: &SocketArgs) -> Result<()> {
    let socket = args.run_dir.join("bgpd.sock");
    let peers: Value = match status::get_json(&socket, "/v1/peers").await {
        Err(error @ status::Error::NotRunning { .. }) => bail!("Calico process is not running.\n{error}"),
        other => other?,
    };
    match args.output {
        TableOrJson::Json => println!("{}", serde_json::to_string_pretty(&peers)?),
        TableOrJson::Ps => print!("{}", node_status_text(&peers, Timestamp::now(), &TimeZone::system())),
    }
    Ok(())
}

fn node_status_text(peers: &Value, now: Timestamp, zone: &TimeZone) -> String {
    let mut out = String::from("Calico process is running.\n");
    let rows = peers.as_array().map(Vec::as_slice).unwrap_or_default();
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        out.push_str(&format!("\n{family} BGP status\n"));
        let rows: Vec<Vec<String>> = rows
            .iter()
            .filter(|p| cell(p, "address").contains(':') == is_v6)
            .map(|p| {
                vec![cell(p, "address"), cell(p, "type"), state(p).into(), since(&cell(p, "since"), now, zone), info(p)]
            })
            .collect();
        if rows.is_empty() {
            out.push_str(&format!("No {family} peers found.\n"));
        } else {
            out.push_str(&table::boxed(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"], &rows));
        }
    }
    out.push('\n');
    out
}

/// BIRD's protocol state: `up`, or `start` while the session is not established.
fn state(peer: &Value) -> &'static str {
    if peer["up"].as_bool().unwrap_or(false) { "up" } else { "start" }
}

/// The session's state, and why it is down.
fn info(peer: &Value) -> String {
    let (state, error) = (cell(peer, "state"), cell(peer, "lastError"));
    if peer["up"] == true || error.is_empty() { state } else { format!("{state} {error}") }
}

fn since(text: &str, now: Timestamp, zone: &TimeZone) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return text.into() };
    let format = if now.duration_since(time) < DATE_AFTER { "%H:%M:%S" } else { "%Y-%m-%d" };
    time.to_zoned(zone.clone()).strftime(format).to_string()
}

/// The sessions with all that is known of them.
pub async fn peers(args: &SocketArgs) -> Result<()> {
    let columns = [
        ("NAME", "name"),
        ("ADDRESS", "address"),
        ("TYPE", "type"),
        ("AS", "remoteAs"),
        ("STATE", "state"),
        ("SINCE", "since"),
        ("RECEIVED", "received"),
        ("ADVERTISED", "advertised"),
        ("LAST ERROR", "lastError"),
    ];
    let value = ask(&args.run_dir, "bgpd.sock", "/v1/peers").await?;
    show(&value, &columns, args.output)
}

/// The routes of one view.
pub async fn routes(args: &RoutesArgs) -> Result<()> {
    let columns = [
        ("PREFIX", "prefix"),
        ("NEXT HOP", "nextHop"),
        ("AS PATH", "asPath"),
        ("LOCAL PREF", "localPref"),
        ("MED", "med"),
        ("COMMUNITIES", "communities"),
        ("PEER", "peer"),
        ("BEST", "best"),
    ];
    if args.view == RoutesView::Advertised && args.peer.is_none() {
        return advertised_to_all(&args.socket, &columns).await;
    }
    let view = match args.view {
        RoutesView::Best => "best",
        RoutesView::Received => "received",
        RoutesView::Advertised => "advertised",
    };
    let peer = args.peer.map(|p| format!("&peer={p}")).unwrap_or_default();
    let value = ask(&args.socket.run_dir, "bgpd.sock", &format!("/v1/routes?view={view}{peer}")).await?;
    show_routes(value, &columns, args.socket.output)
}

/// What is sent to each peer: the daemon answers for one at a time.
async fn advertised_to_all(args: &SocketArgs, columns: &[(&str, &str)]) -> Result<()> {
    let peers = ask(&args.run_dir, "bgpd.sock", "/v1/peers").await?;
    let mut all = Vec::new();
    for address in peers.as_array().into_iter().flatten().map(|p| cell(p, "address")) {
        let path = format!("/v1/routes?view=advertised&peer={address}");
        let routes = ask(&args.run_dir, "bgpd.sock", &path).await?;
        all.extend(routes.as_array().into_iter().flatten().cloned().map(|mut route| {
            route["to"] = address.clone().into();
            route
        }));
    }
    show_routes(Value::Array(all), &[&[("TO", "to")], columns].concat(), args.output)
}

/// Routes in the order of their prefixes; in the table, one that begins at this node says so.
fn show_routes(mut routes: Value, columns: &[(&str, &str)], output: TableOrJson) -> Result<()> {
    let mut rows = routes.as_array_mut().map(std::mem::take).unwrap_or_default();
    rows.sort_by_cached_key(|r| (cell(r, "to"), cell(r, "prefix").parse::<IpNet>().ok()));
    if output == TableOrJson::Ps {
        for row in &mut rows {
            for field in ["nextHop", "peer"] {
                if row[field].is_null() {
                    row[field] = "self".into();
                }
            }
        }
    }
    show(&Value::Array(rows), columns, output)
}

/// A daemon's answer.
pub async fn ask(run_dir: &Path, socket: &str, path: &str) -> Result<Value> {
    // The error's text has its source already.
    status::get_json(&run_dir.join(socket), path).await.map_err(|e| anyhow!("{e}"))
}

/// A list of rows as a table, or as it is.
pub fn show(value: &Value, columns: &[(&str, &str)], output: TableOrJson) -> Result<()> {
    if output == TableOrJson::Json {
        println!("{}", serde_json::to_string_pretty(value)?);
        return Ok(());
    }
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let rows: Vec<Vec<String>> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect())
        .collect();
    print!("{}", table::tabs(&headings, &rows));
    Ok(())
}

/// A field as a cell: lists joined, what is not there empty, times to the second.
pub fn cell(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(item).collect::<Vec<_>>().join(" "),
        Value::String(text) if field == "since" => text.parse().map_or_else(|_| text.clone(), to_the_second),
        other => shown(other),
    }
}

fn to_the_second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// One item of a list; a backend as `address:port`.
fn item(value: &Value) -> String {
    match (value.get("addr"), value.get("port")) {
        (Some(address), Some(port)) => format!("{}:{port}", shown(address)),
        _ => shown(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(address: &str, state: &str, since: &str, error: Value) -> Value {
        json!({"address": address, "type": "node specific", "state": state, "up": state == "Established",
               "since": since, "lastError": error})
    }

    #[test]
    fn node_status_is_the_table_that_operators_know() {
        let now: Timestamp = "2023-08-30T12:00:00Z".parse().unwrap();
        let peers = json!([
            peer("192.168.1.1", "Established", "2023-08-17T10:00:00Z", Value::Null),
            peer("192.168.1.2", "Established", "2023-08-17T10:00:00Z", Value::Null),
        ]);
        let want = "\
Calico process is running.

IPv4 BGP status
+--------------+---------------+-------+------------+-------------+
| PEER ADDRESS |   PEER TYPE   | STATE |   SINCE    |    INFO     |
+--------------+---------------+-------+------------+-------------+
| 192.168.1.1  | node specific | up    | 2023-08-17 | Established |
| 192.168.1.2  | node specific | up    | 2023-08-17 | Established |
+--------------+---------------+-------+------------+-------------+

IPv6 BGP status
No IPv6 peers found.

";
        assert_eq!(node_status_text(&peers, now, &TimeZone::UTC), want);
        let young = node_status_text(
            &json!([peer("fd00::1", "Active", "2023-08-30T11:59:58Z", json!("refused"))]),
            now,
            &TimeZone::UTC,
        );
        assert!(young.contains("No IPv4 peers found."), "{young}");
        assert!(young.contains("| fd00::1      | node specific | start | 11:59:58 | Active refused |"), "{young}");
    }
}
