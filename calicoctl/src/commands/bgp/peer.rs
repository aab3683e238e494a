//! peer: everything about one session, a page.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{address, ask, path};
use crate::cli::bgp::PeerArgs;
use crate::commands::sockets::cell;
use crate::{output, table};

/// What is on our side and on the peer's of a capability that one of them lacks.
const LACKING: &str = "-";

/// Shows one session; several, where peers of different ports have the address.
pub async fn peer(args: &PeerArgs) -> Result<()> {
    let answer = ask(&args.socket.run_dir, &path("/v1/peer", &[("peer", Some(&args.peer))])).await?;
    match output::structured(&answer, args.socket.output)? {
        Some(text) => output::print(&text),
        None => {
            let pages = answer.as_array().into_iter().flatten();
            let pages: Vec<String> = pages.map(|p| page(p, Timestamp::now(), output::width())).collect();
            output::print(&pages.join("\n"));
        }
    }
    Ok(())
}

fn page(peer: &Value, now: Timestamp, width: Option<usize>) -> String {
    let mut out = head(peer, now);
    let tables = [
        ("Families", families(peer)),
        ("Timers, seconds", timers(peer)),
        ("Capabilities", capabilities(peer)),
        ("Messages", messages(peer)),
    ];
    for (title, (headings, mut rows)) in tables {
        if rows.is_empty() {
            continue;
        }
        table::fit(&headings, &mut rows, width, table::TABS.0, table::TABS.1);
        out += &format!("\n{title}\n{}", table::tabs(&headings, &rows).trim_end_matches('\n'));
        out.push('\n');
    }
    out + &bfd(&peer["bfd"], now)
}

fn head(peer: &Value, now: Timestamp) -> String {
    let field = |name: &str| cell(peer, name);
    let since = peer["since"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let age = since.map(|t| format!(" for {}", age(now.duration_since(t)))).unwrap_or_default();
    let kind = if peer["localAs"] == peer["remoteAs"] { "iBGP" } else { "eBGP" };
    let ends = match (peer["local"].as_str(), peer["remote"].as_str()) {
        (Some(local), Some(remote)) => format!("{local} to {remote}"),
        _ => "none".into(),
    };
    let lines = [
        ("Peer", format!("{} port {} ({}, {})", address(peer), field("port"), field("name"), field("type"))),
        ("State", format!("{}{age}", field("state"))),
        ("AS", format!("{} here, {} there ({kind})", field("localAs"), field("remoteAs"))),
        ("Router id", field("routerId")),
        ("Connection", ends),
        ("Sessions", format!("{} came up, {} were lost", field("established"), field("flaps"))),
        ("Last reset", reset(&peer["lastReset"], now)),
        ("Held down", field("heldDown")),
        ("Last error", field("lastError")),
        ("Malformed", malformed(&peer["malformed"], now)),
    ];
    lines.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| format!("{name:<12}{text}\n")).collect()
}

/// What RFC 7606 had to mend; empty where there was nothing.
fn malformed(malformed: &Value, now: Timestamp) -> String {
    let count = |name: &str| malformed[name].as_u64().unwrap_or(0);
    match (count("withdrawn"), count("discarded")) {
        (0, 0) => String::new(),
        (withdrawn, discarded) => format!(
            "{withdrawn} UPDATEs taken as withdrawals, {discarded} without an attribute; the last {}",
            reset(&malformed["last"], now)
        ),
    }
}

fn reset(reset: &Value, now: Timestamp) -> String {
    match reset["time"].as_str().and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(time) => format!("{} ago: {}", age(now.duration_since(time)), cell(reset, "reason")),
        None => String::new(),
    }
}

/// `2d 3h`, `3h 7m`, `7m 12s`, `12s`.
fn age(time: SignedDuration) -> String {
    let secs = time.as_secs().max(0);
    let (days, hours, minutes, secs) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m {secs}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

type Table = (Vec<&'static str>, Vec<Vec<String>>);

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn families(peer: &Value) -> Table {
    let yes_no = |value: &Value| if value == true { "yes".to_string() } else { "no".into() };
    let kept = |family: &Value| match (family["retention"][0].as_str(), family["retention"][1].as_f64()) {
        (Some(phase), Some(left)) => format!("{phase}, {left:.0} s left"),
        _ => String::new(),
    };
    let row = |f: &Value| {
        vec![
            cell(f, "family"),
            yes_no(&f["negotiated"]),
            cell(f, "received"),
            cell(f, "accepted"),
            cell(f, "advertised"),
            yes_no(&f["endOfRib"]),
            cell(f, "limit"),
            kept(f),
        ]
    };
    let headings =
        vec!["FAMILY", "IN USE", "RECEIVED", "ACCEPTED", "ADVERTISED", "END-OF-RIB", "LIMIT", "STALE ROUTES"];
    (headings, rows(&peer["families"], row))
}

fn timers(peer: &Value) -> Table {
    let number = |value: &Value| value.as_f64().map(|n| format!("{}", (n * 10.0).round() / 10.0)).unwrap_or_default();
    let row =
        |t: &Value| vec![cell(t, "name"), number(&t["configured"]), number(&t["negotiated"]), number(&t["remaining"])];
    (vec!["TIMER", "CONFIGURED", "NEGOTIATED", "REMAINING"], rows(&peer["timers"], row))
}

fn capabilities(peer: &Value) -> Table {
    let said = |value: &Value| value.as_str().unwrap_or(LACKING).to_string();
    let row = |c: &Value| vec![cell(c, "name"), said(&c["ours"]), said(&c["theirs"])];
    (vec!["CAPABILITY", "OURS", "THE PEER'S"], rows(&peer["capabilities"], row))
}

fn messages(peer: &Value) -> Table {
    let names = [
        ("OPEN", "open"),
        ("UPDATE", "update"),
        ("KEEPALIVE", "keepalive"),
        ("NOTIFICATION", "notification"),
        ("ROUTE-REFRESH", "routeRefresh"),
    ];
    let row = |(name, field): &(&str, &str)| {
        vec![name.to_string(), cell(&peer["messagesReceived"], field), cell(&peer["messagesSent"], field)]
    };
    (vec!["MESSAGE", "RECEIVED", "SENT"], names.iter().map(row).collect())
}

fn bfd(bfd: &Value, now: Timestamp) -> String {
    if bfd.is_null() {
        return String::new();
    }
    let millis = |name: &str| bfd[name].as_f64().map(|ms| format!("{ms} ms")).unwrap_or_else(|| "unknown".into());
    let since = bfd["upSince"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let age = since.map(|t| format!(" for {}", age(now.duration_since(t)))).unwrap_or_default();
    let lines = [
        ("State", format!("{}{age}, the peer says {}", cell(bfd, "state"), cell(bfd, "remoteState"))),
        ("Kind", format!("{}, went down {} times", cell(bfd, "kind"), cell(bfd, "flaps"))),
        ("Packets", format!("one in {} out, one in {} in", millis("transmitInterval"), millis("receiveInterval"))),
        ("Detection", millis("detectionTime")),
        ("Diagnostic", format!("{}; the peer's: {}", cell(bfd, "diagnostic"), cell(bfd, "remoteDiagnostic"))),
        ("Problem", cell(bfd, "problem")),
    ];
    let lines = lines.iter().filter(|(_, text)| !text.is_empty());
    "\nBFD\n".to_string() + &lines.map(|(name, text)| format!("{name:<12}{text}\n")).collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_both_sides_of_everything() {
        let peer = json!({
            "name": "Global_192_0_2_1", "address": "192.0.2.1", "port": 179, "type": "global", "remoteAs": 65001, "localAs": 65010,
            "state": "Established", "up": true, "since": "2026-11-21T13:52:48Z", "lastError": null, "heldDown": null,
            "local": "192.0.2.4:40211", "remote": "192.0.2.1:179", "routerId": "192.0.2.1", "established": 2, "flaps": 1,
            "lastReset": {"time": "2026-11-21T13:52:40Z", "reason": "hold timer expired"},
            "capabilities": [{"name": "route refresh", "ours": "yes", "theirs": "yes"},
                             {"name": "role", "ours": "customer", "theirs": null}],
            "families": [{"family": "IPv4", "negotiated": true, "received": 5, "accepted": 4, "advertised": 2,
                          "endOfRib": true, "retention": null, "limit": 100}],
            "timers": [{"name": "hold", "configured": 90.0, "negotiated": 9.0, "remaining": 7.251}],
            "messagesReceived": {"open": 2, "update": 6, "keepalive": 40, "notification": 1, "routeRefresh": 0},
            "messagesSent": {"open": 2, "update": 3, "keepalive": 41, "notification": 0, "routeRefresh": 0},
            "malformed": {"withdrawn": 2, "discarded": 1, "last": {"time": "2026-11-21T13:59:00Z", "reason": "ORIGIN: missing"}},
            "bfd": {"state": "Up", "remoteState": "Up", "upSince": "2026-11-21T13:59:50Z", "kind": "single-hop", "flaps": 0,
                    "transmitInterval": 100.0, "receiveInterval": 100.0, "detectionTime": 300.0,
                    "diagnostic": "No Diagnostic", "remoteDiagnostic": "No Diagnostic", "problem": null},
        });
        let want = "\
Peer        192.0.2.1 port 179 (Global_192_0_2_1, global)
State       Established for 7m 12s
AS          65010 here, 65001 there (eBGP)
Router id   192.0.2.1
Connection  192.0.2.4:40211 to 192.0.2.1:179
Sessions    2 came up, 1 were lost
Last reset  7m 20s ago: hold timer expired
Malformed   2 UPDATEs taken as withdrawals, 1 without an attribute; the last 1m 0s ago: ORIGIN: missing

Families
FAMILY   IN USE   RECEIVED   ACCEPTED   ADVERTISED   END-OF-RIB   LIMIT   STALE ROUTES   
IPv4     yes      5          4          2            yes          100                    

Timers, seconds
TIMER   CONFIGURED   NEGOTIATED   REMAINING   
hold    90           9            7.3         

Capabilities
CAPABILITY      OURS       THE PEER'S   
route refresh   yes        yes          
role            customer   -            

Messages
MESSAGE         RECEIVED   SENT   
OPEN            2          2      
UPDATE          6          3      
KEEPALIVE       40         41     
NOTIFICATION    1          0      
ROUTE-REFRESH   0          0      

BFD
State       Up for 10s, the peer says Up
Kind        single-hop, went down 0 times
Packets     one in 100 ms out, one in 100 ms in
Detection   300 ms
Diagnostic  No Diagnostic; the peer's: No Diagnostic
";
        assert_eq!(page(&peer, "2026-11-21T14:00:00Z".parse().unwrap(), None), want);
    }
}
