//! `bgp-sim`: runs the simulation at several sizes, and reports time and messages as a table and as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bgp_sim::rng::Rng;
use bgp_sim::topology::Topology;
use bgp_sim::world::World;
use bgp_sim::{check, failures};
use clap::Parser;
use serde_json::{Value, json};

/// Simulates many BGP speakers: two tiers of reflectors, failures at random, and compares every Loc-RIB with a model.
#[derive(Parser)]
struct Arguments {
    /// How many speakers, several runs separated by commas
    #[arg(long, value_delimiter = ',', default_value = "100,500,1000,5000")]
    speakers: Vec<u32>,
    #[arg(long, default_value_t = 10_000)]
    prefixes: u32,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Failures of a run [default: 24 and one for every 50 speakers]
    #[arg(long)]
    failures: Option<u32>,
    /// Write the results to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// The version under test, for the record
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> ExitCode {
    let a = Arguments::parse();
    let mut runs = Vec::new();
    let mut wrong = 0;
    for &speakers in &a.speakers {
        let failures = a.failures.unwrap_or(24 + speakers / 50);
        let (run, differences) = run(speakers, a.prefixes, a.seed, failures);
        println!("{run}");
        differences.iter().for_each(|d| println!("  {d}"));
        let is_wrong = !differences.is_empty() || run["malformed"] != 0;
        wrong += usize::from(is_wrong);
        runs.push(run);
    }
    if let Some(path) = &a.json
        && let Err(e) = std::fs::write(path, format!("{:#}\n", record(&a.commit, runs)))
    {
        eprintln!("{}: {e}", path.display());
        return ExitCode::FAILURE;
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One size: start, compare, failures, compare.
fn run(speakers: u32, prefixes: u32, seed: u64, failures: u32) -> (Value, Vec<String>) {
    let mut rng = Rng::new(seed);
    let topology = Topology::new(speakers, prefixes, &mut rng);
    let started = Clock::start();
    let mut world = World::new(topology, seed, rng.clone());
    world.run();
    let took = started.stop();
    let start = world.stats;
    let first = check::check(&world);
    let all = failures::draw(&world.topology, failures, &mut rng);
    let (begun, restarted) = (world.now, Clock::start());
    world.add_failures(all);
    world.run();
    let took = took.and(restarted.stop());
    let second = check::check(&world);
    let end = world.stats;
    let report = json!({
        "speakers": speakers, "prefixes": prefixes, "seed": seed, "failures": failures,
        "start_updates": start.updates, "start_octets": start.octets, "start_s": seconds(start.quiet_since),
        "failure_updates": end.updates - start.updates, "failure_octets": end.octets - start.octets,
        "failure_s": seconds(end.quiet_since.saturating_sub(begun)),
        "wall_s": took.wall_s, "cpu_s": took.cpu_s, "peak_mib": peak_mib(),
        "entries": first.entries + second.entries, "paths": first.paths + second.paths, "wrong": first.wrong + second.wrong, "malformed": end.malformed,
        "digest": format!("{:016x}", world.digest()),
    });
    let differences = first.differences.into_iter().chain(second.differences).collect();
    (report, differences)
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// What one phase took of the machine: the comparisons are not in it.
struct Took {
    wall_s: f64,
    cpu_s: f64,
}

impl Took {
    fn and(self, other: Took) -> Took {
        let sum = |a: f64, b: f64| ((a + b) * 100.0).round() / 100.0;
        Took { wall_s: sum(self.wall_s, other.wall_s), cpu_s: sum(self.cpu_s, other.cpu_s) }
    }
}

struct Clock {
    wall: Instant,
    cpu_s: f64,
}

impl Clock {
    fn start() -> Clock {
        Clock { cpu_s: cpu_s(), wall: Instant::now() }
    }

    fn stop(self) -> Took {
        Took { wall_s: self.wall.elapsed().as_secs_f64(), cpu_s: cpu_s() - self.cpu_s }
    }
}

/// User and system time of this process, which has one thread.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// The most memory the process has held.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn record(commit: &str, runs: Vec<Value>) -> Value {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = file("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    json!({
        "machine": {"cpu": cpu.map_or("unknown", |c| c.1.trim()), "kernel": file("/proc/sys/kernel/osrelease").trim()},
        "commit": commit, "runs": runs,
    })
}
