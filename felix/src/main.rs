//! felix: routes of this node's workloads, blocks and services, and the eBPF service load balancer.
//!
//! - [`config`]: flags and FelixConfiguration
//! - [`preflight`]: what must be there at the start
//! - [`resources`]: stored objects to the calculators' updates
//! - [`daemon`]: the loop
//! - [`dataplane`]: the managers of kernel objects
//! - [`control`]: what felix.sock answers; [`addresses`]: the addresses that it gives to the CNI plugin

mod addresses;
mod config;
mod control;
mod daemon;
mod dataplane;
mod preflight;
mod resources;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::config::{Args, Part};
use crate::control::Snapshot;
use crate::daemon::Daemon;
use crate::dataplane::service_manager::{Queue, ServiceManager};

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("cannot start a runtime").and_then(|r| r.block_on(run(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("felix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let store = datastore::config::from_env()?;
    preflight::check_capabilities()?;
    // Before anything is touched: a store that cannot be opened ends the start.
    let store = store.open().await?;
    let node = node_name(args.nodename)?;
    let services_only = args.only == Some(Part::Services);
    let queue = Queue::default();
    let (snapshots, published) = watch::channel(Arc::new(Snapshot::starting(&node, services_only)));
    // The socket before the datapath: a second felix of this node ends here and touches nothing.
    let mut router = control::router(published, queue.status_client());
    if !services_only {
        router = router.merge(addresses::router(&store, &node));
    }
    let _server = status::serve(&args.run_dir, "felix", router).await?;
    let balancer = felix_lb::Config { pin_root: args.bpf_pin_root, cgroup: args.cgroup, hooks: args.hooks };
    // Its errors say their causes themselves.
    let services = ServiceManager::open(balancer, queue).await.map_err(|e| anyhow!("{e}"))?;
    let daemon = Daemon::new(node, services_only, services, snapshots)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    tokio::select! {
        outcome = daemon.run(store) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn node_name(given: Option<String>) -> Result<String> {
    if let Some(name) = given.filter(|n| !n.is_empty()) {
        return Ok(name);
    }
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name; set NODENAME")?;
    Ok(host.trim().to_lowercase())
}
