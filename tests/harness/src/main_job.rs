//! The main job: the network of the seed, step by step, each with its evidence. Every step is a function of its own, so
//! that tests can take a lab as far as they need it.

pub mod bgp;
pub mod borrowing;
pub mod cli;
pub mod crashes;
pub mod pods;
pub mod resources;
pub mod services;

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::cluster::{Lab, Options, Store};
use crate::evidence::{Report, say};
use resources::Pools;

/// How long anything may take to settle on a busy machine. Nothing waits this long when it works.
pub const SETTLE: Duration = Duration::from_secs(30);

/// A lab on its way through the steps.
pub struct Job {
    pub lab: Lab,
    pub report: Report,
    /// The pools of the seed's YAML, read back from the store.
    pub pools: Pools,
}

impl Job {
    /// Builds a lab, applies the seed's YAML and the nodes, starts every program and waits until all are ready.
    ///
    /// # Errors
    /// With the evidence and the programs' logs.
    pub fn start(options: Options) -> Result<Self> {
        let lab = Lab::build(options)?;
        let mut job = Self { lab, report: Report::default(), pools: Pools::default() };
        job.attempt(|job| {
            resources::step(job)?;
            job.lab.start_programs()?;
            job.lab.await_ready(SETTLE)
        })?;
        Ok(job)
    }

    /// Runs one step; its failure carries the ends of all logs.
    ///
    /// # Errors
    /// As the step.
    pub fn attempt<R>(&mut self, step: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        step(self).map_err(|error| anyhow!("{error:#}\n\nWhat the programs last said:\n{}", self.lab.log_tails()))
    }
}

/// Runs all of it; the lab is returned so that it can be kept.
///
/// # Errors
/// At the first step that fails, with its evidence.
pub fn run(options: Options) -> Result<Lab> {
    let start = Instant::now();
    let store = if options.store == Store::Etcd { "etcd" } else { "SQLite" };
    let mode = if options.ebgp { "eBGP" } else { "iBGP" };
    say(&format!(
        "Building the lab: two leaf switches running {}, a client, three nodes; {mode}, store: {store}",
        options.tor.title()
    ));
    let mut job = Job::start(options)?;
    job.attempt(pods::step)?;
    job.attempt(bgp::step)?;
    job.attempt(cli::step)?;
    job.attempt(borrowing::step)?;
    job.attempt(services::step)?;
    job.attempt(crashes::step)?;
    job.attempt(conclude)?;
    job.report.print_summary(&format!("Everything works. {:.1} s in all.", start.elapsed().as_secs_f64()));
    Ok(job.lab)
}

/// Step 8: what there is at the end, looked at once more.
fn conclude(job: &mut Job) -> Result<()> {
    job.report.step(8, "Summary");
    for node in &job.lab.nodes {
        let pods: Vec<String> = node.pods.values().map(|p| format!("{} {}", p.spec.name, p.address)).collect();
        job.report.conclude(
            format!("{} {}: {}", node.name, node.address, pods.join(", ")),
            "felix and bgpd answer 200 to /readyz; CNI ADD",
        );
    }
    for leaf in &job.lab.leaves {
        let (sessions, routes) = (leaf.established()?.len(), leaf.learned()?);
        let command = leaf.show_sessions()?.command;
        job.report
            .conclude(format!("{} {}: {sessions} sessions established", leaf.netns.name, leaf.config.address), command);
        let blocks: Vec<&str> = routes.keys().map(String::as_str).collect();
        let command = leaf.show_routes()?.command;
        job.report.conclude(
            format!("{}: {} routes from the nodes: {}", leaf.netns.name, routes.len(), blocks.join(" ")),
            command,
        );
    }
    job.lab.await_ready(SETTLE)
}
