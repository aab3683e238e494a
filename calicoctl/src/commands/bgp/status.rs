//! node status: Calico's table, and below it what Calico's speaker does not know: peers held down, BFD, prefixes that flap.

use anyhow::{Result, bail};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{SOCKET, address};
use crate::cli::SocketArgs;
use crate::commands::sockets::cell;
use crate::{output, table};

/// BIRD shows the time of day of what is younger, else the date (`timeformat protocol`, 20 hours).
const DATE_AFTER: SignedDuration = SignedDuration::from_hours(20);

/// What the text is made from beside the answers.
struct Look {
    now: Timestamp,
    zone: TimeZone,
    width: Option<usize>,
}

/// Shows the sessions as Calico does.
pub async fn status(args: &SocketArgs) -> Result<()> {
    let socket = args.run_dir.join(SOCKET);
    let peers: Value = match status::get_json(&socket, "/v1/peers").await {
        Err(error @ status::Error::NotRunning { .. }) => bail!("Calico process is not running.\n{error}"),
        other => other?,
    };
    let speaker: Value = status::get_json(&socket, "/v1/status").await?;
    let both = json!({"status": speaker, "peers": peers});
    let look = Look { now: Timestamp::now(), zone: TimeZone::system(), width: output::width() };
    match output::structured(&both, args.output)? {
        Some(text) => output::print(&text),
        None => output::print(&text(&both["peers"], &both["status"], &look)),
    }
    Ok(())
}

fn text(peers: &Value, speaker: &Value, look: &Look) -> String {
    let mut out = String::from("Calico process is running.\n");
    let rows = peers.as_array().map(Vec::as_slice).unwrap_or_default();
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        out.push_str(&format!("\n{family} BGP status\n"));
        let mut rows: Vec<Vec<String>> = rows
            .iter()
            .filter(|p| (cell(p, "address").contains(':') || p["family"] == "IPv6") == is_v6)
            .map(|p| vec![address(p), cell(p, "type"), state(p).into(), since(&cell(p, "since"), look), info(p)])
            .collect();
        if rows.is_empty() {
            out.push_str(&format!("No {family} peers found.\n"));
        } else {
            let headings = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"];
            table::fit(&headings, &mut rows, look.width, table::BOXED.0, table::BOXED.1);
            out.push_str(&table::boxed(&headings, &rows));
        }
    }
    out.push('\n');
    for part in
        [held_down(rows, look), bfd(rows, look), flapping(speaker, look), refused(speaker, look), waiting(speaker)]
    {
        out.push_str(&part);
    }
    out
}

/// BIRD's protocol state: `up`, or `start` while the session is not established.
fn state(peer: &Value) -> &'static str {
    if peer["up"].as_bool().unwrap_or(false) { "up" } else { "start" }
}

fn info(peer: &Value) -> String {
    let (state, error) = (cell(peer, "state"), cell(peer, "lastError"));
    if peer["up"] == true || error.is_empty() { state } else { format!("{state} {error}") }
}

fn since(text: &str, look: &Look) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return text.into() };
    let format = if look.now.duration_since(time) < DATE_AFTER { "%H:%M:%S" } else { "%Y-%m-%d" };
    time.to_zoned(look.zone.clone()).strftime(format).to_string()
}

/// A titled table; nothing without rows.
fn part(title: &str, headings: &[&str], mut rows: Vec<Vec<String>>, look: &Look) -> String {
    if rows.is_empty() {
        return String::new();
    }
    table::fit(headings, &mut rows, look.width, table::TABS.0, table::TABS.1);
    format!("{title}\n{}", table::tabs(headings, &rows))
}

fn held_down(peers: &[Value], look: &Look) -> String {
    let rows = peers.iter().filter(|p| !p["heldDown"].is_null());
    let rows = rows.map(|p| vec![address(p), cell(p, "heldDown")]).collect();
    part("Held down by their configuration", &["PEER ADDRESS", "REASON"], rows, look)
}

fn bfd(peers: &[Value], look: &Look) -> String {
    let rows = peers.iter().filter(|p| !p["bfd"].is_null()).map(|p| {
        let b = &p["bfd"];
        let since = b["upSince"].as_str().map(|t| since(t, look)).unwrap_or_default();
        let detection = b["detectionTime"].as_f64().map(|ms| format!("{ms} ms")).unwrap_or_default();
        vec![address(p), cell(b, "state"), cell(b, "remoteState"), since, detection, cell(b, "diagnostic")]
    });
    let headings = ["PEER ADDRESS", "STATE", "REMOTE", "SINCE", "DETECTION", "LAST DIAGNOSTIC"];
    part("BFD", &headings, rows.collect(), look)
}

fn flapping(speaker: &Value, look: &Look) -> String {
    let rows = speaker["flapping"].as_array().into_iter().flatten();
    let rows = rows.map(|f| vec![cell(f, "prefix"), cell(f, "changes"), cell(f, "peers")]).collect();
    let title = format!("Flapping: {} or more changes of the best path in a minute", cell(speaker, "flapThreshold"));
    part(&title, &["PREFIX", "CHANGES", "PEERS"], rows, look)
}

/// Learned routes that the kernel does not take.
fn refused(speaker: &Value, look: &Look) -> String {
    let kernel = &speaker["kernel"];
    let rows: Vec<Vec<String>> = kernel["failures"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| vec![cell(f, "prefix"), cell(f, "reason")])
        .collect();
    let title = format!("Not in the kernel as they should be, tried again: {}", cell(kernel, "failed"));
    part(&title, &["PREFIX", "REASON"], rows, look)
}

fn waiting(speaker: &Value) -> String {
    let reason = speaker["waitingFor"].as_str().map(String::from);
    let awaited = Some(cell(speaker, "awaited")).filter(|peers| !peers.is_empty()).map(|peers| {
        format!("bgpd restarted: it announces nothing before the End-of-RIB of {peers}, for at most the restart time")
    });
    let notes = speaker["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from);
    let lines = reason.into_iter().chain(awaited).chain(notes);
    let notes: String = lines.map(|l| format!("  {l}\n")).collect();
    if notes.is_empty() { notes } else { format!("Notes\n{notes}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, state: &str, since: &str, error: Value) -> Value {
        json!({"address": address, "type": "node specific", "state": state, "up": state == "Established",
               "since": since, "lastError": error, "heldDown": null, "bfd": null})
    }

    fn look() -> Look {
        Look { now: "2023-08-30T12:00:00Z".parse().unwrap(), zone: TimeZone::UTC, width: None }
    }

    #[test]
    fn node_status_is_the_table_that_operators_know() {
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
        assert_eq!(text(&peers, &Value::Null, &look()), want);
        let young = json!([peer("fd00::1", "Active", "2023-08-30T11:59:58Z", json!("refused"))]);
        let young = text(&young, &Value::Null, &look());
        assert!(young.contains("No IPv4 peers found."), "{young}");
        assert!(young.contains("| fd00::1      | node specific | start | 11:59:58 | Active refused |"), "{young}");
        let mut unheard = peer("eth0", "Active", "2023-08-30T11:59:58Z", json!("no neighbour heard on eth0"));
        unheard["family"] = "IPv6".into();
        let unheard = text(&json!([unheard]), &Value::Null, &look());
        assert!(unheard.contains("No IPv4 peers found.") && unheard.contains("Active no neighbour heard on eth0"));
    }

    #[test]
    fn what_calico_does_not_know_stands_below_its_table() {
        let mut held = peer("192.168.1.9", "Idle", "2023-08-30T11:59:58Z", json!("no secret"));
        held["heldDown"] = "no secret".into();
        let mut guarded = peer("192.168.1.1", "Established", "2023-08-30T11:59:58Z", Value::Null);
        guarded["bfd"] = json!({"state": "Up", "remoteState": "Up", "upSince": "2023-08-30T11:59:59Z",
                                "detectionTime": 300.0, "diagnostic": "No Diagnostic"});
        let speaker = json!({
            "flapThreshold": 20,
            "flapping": [{"prefix": "10.0.0.0/8", "changes": 44, "peers": ["192.168.1.1", "192.168.1.2"]}],
            "kernel": {"routes": 9, "stale": 0, "failed": 1, "failures": [{"prefix": "10.1.0.0/16", "reason": "refused"}]},
            "awaited": ["192.168.1.2", "192.168.1.3"],
            "notes": ["BGPPeer x makes no session"],
        });
        let all = text(&json!([guarded, held]), &speaker, &look());
        let below = all.split_once("No IPv6 peers found.\n\n").unwrap().1;
        let want = "\
Held down by their configuration
PEER ADDRESS   REASON      
192.168.1.9    no secret   

BFD
PEER ADDRESS   STATE   REMOTE   SINCE      DETECTION   LAST DIAGNOSTIC   
192.168.1.1    Up      Up       11:59:59   300 ms      No Diagnostic     

Flapping: 20 or more changes of the best path in a minute
PREFIX       CHANGES   PEERS                     
10.0.0.0/8   44        192.168.1.1 192.168.1.2   

Not in the kernel as they should be, tried again: 1
PREFIX        REASON    
10.1.0.0/16   refused   

Notes
  bgpd restarted: it announces nothing before the End-of-RIB of 192.168.1.2 192.168.1.3, for at most the restart time
  BGPPeer x makes no session

";
        assert_eq!(below, want);
    }
}
