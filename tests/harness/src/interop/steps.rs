//! What is done in a scenario, and what has to come true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::collision;
use super::scenario::{Action, Expect, Paths, Scenario, Shows, Step};
use super::stream::Stream;
use super::wire::Wire;
use super::{Path, Sessions, Table};
use crate::cluster::program;
use crate::exec::Output;
use crate::guard;
use crate::node::Node;
use crate::process::{Process, Spec};

/// How often an expectation is looked at: every look starts programs of the peer.
const POLL: Duration = Duration::from_millis(100);
/// A command of a step may take longer than most.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Plays every step.
///
/// # Errors
/// The step, and what is not as expected.
pub fn play(wire: &mut Wire, scenario: &Scenario) -> Result<()> {
    let limit = Duration::from_secs_f64(scenario.script.limit);
    for step in &scenario.script.steps {
        for time in 1..=step.times {
            play_step(wire, scenario, step, limit)
                .with_context(|| format!("step \"{}\", time {time} of {}", step.name, step.times))?;
        }
    }
    Ok(())
}

fn play_step(wire: &mut Wire, scenario: &Scenario, step: &Step, limit: Duration) -> Result<()> {
    for action in &step.actions {
        act(wire, scenario, action).with_context(|| format!("{action:?}"))?;
    }
    let start = Instant::now();
    while let Err(reason) = check(wire, &step.expect) {
        crate::exec::check_not_stopping()?;
        if start.elapsed() >= limit {
            bail!("not so within {:.1} s: {reason:#}", limit.as_secs_f64());
        }
        std::thread::sleep(POLL);
    }
    let end = Instant::now() + Duration::from_secs_f64(step.stays);
    while Instant::now() < end {
        check(wire, &step.expect).context("it was so, and did not stay so")?;
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Does one thing.
///
/// # Errors
/// When it fails.
pub fn act(wire: &mut Wire, scenario: &Scenario, action: &Action) -> Result<()> {
    let path = |file: &str| scenario.file(file).display().to_string();
    match action {
        Action::Apply(file) => wire.calicoctl(&["apply", "-f", &path(file)]).map(|_| ()),
        Action::Delete(file) => wire.calicoctl(&["delete", "-f", &path(file)]).map(|_| ()),
        Action::Start(name) => wire.start(name),
        Action::Stop(name) => wire.signal(name, Signal::SIGTERM),
        Action::Kill(name) => wire.signal(name, Signal::SIGKILL),
        Action::Freeze(name) => wire.signal(name, Signal::SIGSTOP),
        Action::Thaw(name) => wire.signal(name, Signal::SIGCONT),
        Action::Part(pair) => collision::part(wire, pair),
        Action::Collide(pair) => collision::collide(wire, pair),
        Action::Reload { router, file } => router_of(wire, router)?.reload(&scenario.file(file)),
        Action::Written { router, args } => written(wire, router, args),
        Action::Tell { router, command } => match wire.nodes.get(router) {
            Some(node) => ctl(node, command)?.ok().map(|_| ()),
            None => router_of(wire, router)?.tell(command).map(|_| ()),
        },
        Action::Run { on, command } => {
            let env = wire.nodes.get(on).map(Node::ctl_env).unwrap_or_default();
            let sh = wire.netns(on)?.exec(&["sh", "-c", command]).env(env).env(shell_env(wire)?);
            sh.shown_as(format!("{on}# {command}")).limit(RUN_LIMIT).run()?.ok().map(|_| ())
        }
        Action::Spawn { on, command } => {
            let argv = ["sh", "-c", &format!("exec {command}")].map(String::from).to_vec();
            let log = guard::dir(wire.id()).join(format!("spawned-{on}.log"));
            let spec = Spec { name: command.clone(), argv, env: shell_env(wire)?, log };
            let process = Process::spawn(wire.netns(on)?, spec)?;
            wire.spawned.push(process);
            Ok(())
        }
        Action::Memory { node, more } => memory(wire, node, *more),
        Action::Wait(seconds) => {
            std::thread::sleep(Duration::from_secs_f64(*seconds));
            Ok(())
        }
        Action::Stream { from, to, address } => {
            let receiver = wire.netns(to)?;
            // felix's route says who serves; what answers is local.
            receiver.ip(&[format!("addr replace {address} dev lo")])?;
            let dir = guard::dir(wire.id());
            let stream = Stream::start(wire.netns(from)?, receiver, address.parse()?, &dir)?;
            wire.streams.push(stream);
            Ok(())
        }
        Action::EndStreams => {
            let streams: Vec<Stream> = wire.streams.drain(..).collect();
            for stream in streams {
                let sent = stream.finish()?;
                crate::evidence::say(&format!("{sent} datagrams, none lost"));
            }
            Ok(())
        }
    }
}

/// Has a peer read what is written for it.
fn written(wire: &mut Wire, name: &str, args: &str) -> Result<()> {
    let vendor = router_of(wire, name)?.vendor();
    let argv: Vec<&str> = ["switch-config", "--vendor", vendor].into_iter().chain(args.split_whitespace()).collect();
    let text = wire.calicoctl(&argv)?.stdout.replace("swp1", "eth0");
    let file = guard::dir(wire.id()).join(format!("{name}.written"));
    std::fs::write(&file, &text)?;
    router_of(wire, name)?.reload(&file).context(text)
}

/// Environment of shell commands: our programs come first in `PATH`, `$OUT` is a directory that goes with the scenario.
fn shell_env(wire: &Wire) -> Result<Vec<(String, String)>> {
    let lab = program("lab")?;
    let dir = lab.parent().context("this program has no directory")?.display();
    let path = format!("{dir}:{}", std::env::var("PATH").unwrap_or_default());
    Ok(vec![("PATH".into(), path), ("OUT".into(), guard::dir(wire.id()).display().to_string())])
}

/// KiB that our bgpd keeps in memory (`VmRSS` of proc(5)).
fn memory(wire: &mut Wire, name: &str, more: u64) -> Result<()> {
    let bgpd = wire.nodes.get(name).and_then(|n| n.bgpd.as_ref()).with_context(|| format!("no bgpd of {name} runs"))?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", bgpd.pid()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let now: u64 = line.split_whitespace().next().context("no VmRSS")?.parse()?;
    let before = *wire.memory.entry(name.to_string()).or_insert(now);
    crate::evidence::say(&format!("bgpd of {name}: {before} KiB, now {now} KiB"));
    if now > before + more { bail!("bgpd of {name} grew from {before} to {now} KiB") } else { Ok(()) }
}

/// One of our programs on a node, with its arguments.
fn ctl(node: &Node, command: &str) -> Result<Output> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let (program, args) = words.split_first().context("an empty command")?;
    node.ctl(program, args).run()
}

fn router_of<'a>(wire: &'a mut Wire, name: &str) -> Result<&'a mut super::router::Router> {
    wire.routers.get_mut(name).with_context(|| format!("no peer is called {name}"))
}

/// Whether everything expected is so, the cheap things first.
///
/// # Errors
/// The first thing that is not.
pub fn check(wire: &Wire, expect: &Expect) -> Result<()> {
    for (name, wanted) in &expect.sessions {
        let found: Sessions = match wire.nodes.get(name) {
            Some(node) => node.peers()?,
            None => wire.routers.get(name).with_context(|| format!("nobody is called {name}"))?.sessions()?,
        };
        let found: BTreeMap<String, bool> = wanted.keys().map(|k| (k.clone(), found.get(k) == Some(&true))).collect();
        if found != *wanted {
            bail!("{name} has the sessions {found:?} instead of {wanted:?}");
        }
    }
    for (name, &wanted) in &expect.up {
        let node = wire.nodes.get(name).with_context(|| format!("no node of ours is called {name}"))?;
        let up = node.peers()?.values().filter(|up| **up).count();
        if up != wanted {
            bail!("{name} has {up} sessions instead of {wanted}");
        }
    }
    for wanted in &expect.said {
        let logs: String = wire.spawned.iter().map(Process::log).collect();
        if !logs.lines().any(|line| wanted.iter().all(|text| line.contains(text))) {
            bail!("nothing that was spawned says {wanted:?} in one line: {logs}");
        }
    }
    for (name, wanted) in &expect.routes {
        let found: Table = match wire.nodes.get(name) {
            Some(node) => learned(node)?,
            None => wire.routers.get(name).with_context(|| format!("nobody is called {name}"))?.learned()?,
        };
        compare(name, &found, wanted)?;
    }
    for (name, wanted) in &expect.kernel {
        check_kernel(wire, name, wanted)?;
    }
    expect.shows.iter().try_for_each(|shows| check_shown(wire, shows))
}

fn compare(name: &str, found: &Table, wanted: &BTreeMap<String, Paths>) -> Result<()> {
    let (has, wants): (BTreeSet<&String>, BTreeSet<&String>) = (found.keys().collect(), wanted.keys().collect());
    if has != wants {
        bail!("{name} has learned {has:?} instead of {wants:?}: {found:?}");
    }
    for (prefix, paths) in wanted {
        let (mut left, wanted) = (found[prefix].clone(), paths.list());
        for path in &wanted {
            let at = left.iter().position(|p| p.meets(path));
            let Some(at) = at else { bail!("{name} has {prefix} by {:?}, not by {path:?}", found[prefix]) };
            left.remove(at);
        }
        if !left.is_empty() {
            bail!("{name} has {prefix} also by {left:?}");
        }
    }
    Ok(())
}

fn check_kernel(wire: &Wire, name: &str, wanted: &BTreeMap<String, Vec<String>>) -> Result<()> {
    let netns = wire.netns(name)?;
    for (prefix, hops) in wanted {
        let found: BTreeSet<String> = netns.next_hops(prefix)?.into_iter().collect();
        let wanted: BTreeSet<String> = hops.iter().cloned().collect();
        if found != wanted {
            bail!("the kernel of {name} has {prefix} via {found:?} instead of {wanted:?}");
        }
    }
    Ok(())
}

fn check_shown(wire: &Wire, shows: &Shows) -> Result<()> {
    let output = match wire.nodes.get(&shows.on) {
        Some(node) => ctl(node, &shows.command)?,
        None => wire
            .routers
            .get(&shows.on)
            .with_context(|| format!("nobody is called {}", shows.on))?
            .tell(&shows.command)?,
    };
    let text = output.text();
    for wanted in &shows.contains {
        if !text.contains(wanted) {
            bail!("`{}` does not say \"{wanted}\":\n{text}", output.command);
        }
    }
    for unwanted in &shows.lacks {
        if text.contains(unwanted) {
            bail!("`{}` says \"{unwanted}\":\n{text}", output.command);
        }
    }
    Ok(())
}

/// What one of our nodes uses of what it learned.
fn learned(node: &Node) -> Result<Table> {
    let rows = node.status("bgpd", "/v1/routes?view=best")?;
    let mut table = Table::new();
    for row in rows.as_array().into_iter().flatten().filter(|r| !r["peer"].is_null()) {
        let Some(prefix) = row["prefix"].as_str() else { continue };
        table.entry(prefix.to_string()).or_default().push(path(row));
    }
    Ok(table)
}

/// A row of `/v1/routes`.
fn path(row: &Value) -> Path {
    let number = |field: &str| row[field].as_u64().and_then(|n| u32::try_from(n).ok());
    let list = |field: &str| -> Vec<String> {
        let words = row[field].as_array().into_iter().flatten();
        words.map(|w| w.as_str().map_or_else(|| w.to_string(), str::to_string)).collect()
    };
    let mut communities = list("communities");
    communities.sort();
    Path {
        next_hop: row["nextHop"].as_str().map(str::to_string),
        as_path: Some(list("asPath").join(" ")),
        local_pref: number("localPref"),
        med: number("med"),
        communities: Some(communities),
        originator: row["originatorId"].as_str().map(str::to_string),
        cluster_list: row["clusterList"].is_array().then(|| list("clusterList")),
    }
}
