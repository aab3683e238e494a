//! Step 7: `kill -9` of felix and of bgpd during a transfer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Job, SETTLE, bgp};
use crate::evidence::eventually;

/// Longest silence of a transfer that still counts as going on: less than one retransmission timeout of TCP.
const STALL_LIMIT: Duration = Duration::from_millis(1000);

/// Kills felix, then bgpd, of the node that serves a stream to the client.
///
/// # Errors
/// When the transfer breaks or stalls, or the state afterwards differs.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(7, "kill -9 of felix and of bgpd during a transfer");
    for daemon in ["felix", "bgpd"] {
        let text = kill_during_transfer(job, daemon)?;
        job.report.conclude(text, "a stream to the client; routes of node and switches compared before and after");
    }
    Ok(())
}

/// Kills one daemon of worker02 under a stream and starts it again; what happened, in words.
///
/// # Errors
/// When the transfer breaks or stalls, or the state afterwards differs.
pub fn kill_during_transfer(job: &mut Job, daemon: &str) -> Result<String> {
    let address = job.lab.nodes[1].pods.values().next().context("worker02 has no pod")?.address.clone();
    let before = state(job)?;
    let transfer = job.lab.start_transfer(&job.lab.client, &format!("{address}:8080"))?;
    std::thread::sleep(Duration::from_millis(300));
    let node = &mut job.lab.nodes[1];
    let process = if daemon == "felix" { &mut node.felix } else { &mut node.bgpd };
    let process = process.as_mut().with_context(|| format!("{daemon} does not run"))?;
    process.kill9()?;
    // Long enough that whatever depended on the dead process would show.
    std::thread::sleep(Duration::from_millis(1000));
    let while_dead = routes_of(job, 1)?;
    let node = &mut job.lab.nodes[1];
    let process = if daemon == "felix" { &mut node.felix } else { &mut node.bgpd };
    process.as_mut().with_context(|| format!("{daemon} does not run"))?.restart()?;
    node.await_daemon(daemon, SETTLE)?;
    bgp::await_sessions(job)?;
    eventually(SETTLE, "the state is as before the crash", || {
        let after = state(job)?;
        if after == before { Ok(()) } else { bail!("{}", difference(&before, &after)) }
    })?;
    let result = transfer.finish_transfer()?;
    let text = format!(
        "kill -9 of {daemon}: the transfer went on, longest stall {} ms; same state afterwards",
        result.longest_stall_ms
    );
    if let Some(reason) = &result.broken {
        bail!("the transfer broke when {daemon} was killed: {reason}");
    }
    if Duration::from_millis(result.longest_stall_ms) > STALL_LIMIT {
        bail!("the transfer stalled {} ms when {daemon} was killed", result.longest_stall_ms);
    }
    let own = before.get("worker02").cloned().unwrap_or_default();
    if while_dead != own {
        bail!("routes changed while {daemon} was dead:\n{while_dead}\ninstead of\n{own}");
    }
    job.report.checked(&format!("{text}; {} bytes", result.bytes));
    Ok(text)
}

/// What the kernels of all nodes and the tables of both leaves hold.
fn state(job: &Job) -> Result<BTreeMap<String, String>> {
    let mut state = BTreeMap::new();
    for (i, node) in job.lab.nodes.iter().enumerate() {
        state.insert(node.name.clone(), routes_of(job, i)?);
    }
    for leaf in &job.lab.leaves {
        state.insert(leaf.netns.name.clone(), format!("{:#?}", leaf.learned()?));
    }
    Ok(state)
}

fn routes_of(job: &Job, node: usize) -> Result<String> {
    let shown = job.lab.nodes[node].netns.run(&["ip", "-d", "route"])?.stdout;
    let mut lines: Vec<String> = Vec::new();
    for line in shown.lines() {
        // A multipath route is several lines; they belong together and their order does not matter.
        match lines.last_mut() {
            Some(last) if line.starts_with(char::is_whitespace) => {
                let mut hops: Vec<String> =
                    last.split('\n').map(str::to_string).chain([line.trim().to_string()]).collect();
                hops[1..].sort();
                *last = hops.join("\n");
            }
            _ => lines.push(line.trim().to_string()),
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> String {
    let changed = before.iter().filter(|(name, text)| after.get(*name) != Some(text));
    changed
        .map(|(name, text)| format!("{name}:\n{text}\nbecame\n{}\n", after.get(name).cloned().unwrap_or_default()))
        .collect()
}
