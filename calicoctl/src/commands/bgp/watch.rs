//! watch: sessions and best paths as they change.

use anyhow::{Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{SOCKET, path};
use crate::cli::Output;
use crate::cli::bgp::WatchArgs;
use crate::commands::sockets::cell;
use crate::output;

/// Shows events until it is interrupted, or the daemon ends.
pub async fn watch(args: &WatchArgs) -> Result<()> {
    let query = [("peer", args.peer.as_deref()), ("prefix", args.prefix.as_deref())];
    let socket = args.socket.run_dir.join(SOCKET);
    let mut lines = status::lines(&socket, &path("/v1/watch", &query)).await?;
    let zone = TimeZone::system();
    while let Some(line) = lines.next().await? {
        let event: Value = serde_json::from_str(&line)?;
        match args.socket.output {
            Output::Json => output::print(&(line + "\n")),
            Output::Yaml => output::print(&format!("---\n{}", crate::yaml::emit(event.clone())?)),
            Output::Ps | Output::Wide => output::print(&text(&event, &zone)),
        }
        if event["event"] == "lost" {
            bail!("{}", cell(&event, "reason"));
        }
    }
    bail!("bgpd has ended")
}

fn text(event: &Value, zone: &TimeZone) -> String {
    let time = cell(event, "time");
    let time =
        time.parse::<Timestamp>().map_or(time, |t| t.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string());
    let peer = || format!("{} ({}, AS {})", cell(event, "peer"), cell(event, "name"), cell(event, "remoteAs"));
    let what = match event["event"].as_str() {
        Some("peerUp") => format!("peer {} is up", peer()),
        Some("peerDown") => format!("peer {} is down: {}", peer(), cell(event, "reason")),
        Some("bestPath") => format!("{} {}", cell(event, "prefix"), best(&event["best"])),
        Some("lost") => return String::new(),
        _ => event.to_string(),
    };
    format!("{time} {what}\n")
}

fn best(best: &Value) -> String {
    if best.is_null() {
        return "has no path any more".into();
    }
    if best["peer"].is_null() {
        return "is a route of this node".into();
    }
    let path = cell(best, "asPath");
    let path = if path.is_empty() { String::new() } else { format!(", AS path {path}") };
    format!("via {} from {}{path}", cell(best, "nextHops"), cell(best, "peer"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let time = "2026-11-21T16:00:00.125Z";
        let peer = json!({"event": "peerDown", "time": time, "peer": "192.0.2.1", "name": "Global_192_0_2_1",
                          "remoteAs": 65001, "reason": "hold timer expired"});
        let best = |best: Value| json!({"event": "bestPath", "time": time, "prefix": "10.0.0.0/8", "best": best});
        for (event, want) in [
            (peer, "peer 192.0.2.1 (Global_192_0_2_1, AS 65001) is down: hold timer expired"),
            (best(Value::Null), "10.0.0.0/8 has no path any more"),
            (best(json!({"peer": null})), "10.0.0.0/8 is a route of this node"),
            (
                best(json!({"peer": "192.0.2.1", "nextHops": ["192.0.2.1", "192.0.2.2"], "asPath": [65001, 65009]})),
                "10.0.0.0/8 via 192.0.2.1 192.0.2.2 from 192.0.2.1, AS path 65001 65009",
            ),
        ] {
            assert_eq!(text(&event, &TimeZone::UTC), format!("16:00:00.125 {want}\n"));
        }
    }
}
