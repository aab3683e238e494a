//! tortie-controller: gives services what Kubernetes' control plane would (cluster IPs, node ports, endpoint slices) and what
//! Calico's would (load-balancer addresses), and keeps workloads' labels those of their pods.
//!
//! Run one per cluster. There is no leader election yet: every write is conditional on what was read, so a second one
//! overwrites nothing, but two that choose at the same moment may choose the same cluster IP for two services; the
//! conflict is then reported in the younger one's status.

mod controller;
mod plan;
mod report;
mod state;

use std::io::IsTerminal as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use clap::Parser;
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};

use crate::controller::Controller;
use crate::plan::Settings;
use crate::report::Report;

/// Gives services addresses and endpoints. Run one per cluster.
#[derive(Debug, Parser)]
#[command(name = "tortie-controller", version)]
struct Flags {
    /// Where the socket controller.sock is made
    #[arg(long, value_name = "DIR", default_value = "/run/tortie")]
    run_dir: PathBuf,
    /// From where services without clusterIP get one
    #[arg(long, env = "SERVICE_CLUSTER_IP_RANGE", value_name = "CIDR", default_value = "10.96.0.0/12", value_parser = cluster_ip_range)]
    service_cluster_ip_range: Ipv4Net,
    /// From where services of type NodePort and LoadBalancer get node ports
    #[arg(long, env = "SERVICE_NODE_PORT_RANGE", value_name = "FROM-TO", default_value = "30000-32767", value_parser = node_port_range)]
    service_node_port_range: RangeInclusive<u16>,
}

fn main() -> ExitCode {
    let flags = Flags::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        // clap would exit with 2 for a usage error; every program here fails with 1.
        std::process::exit(i32::from(error.use_stderr()))
    });
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tortie-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let store = datastore::config::from_env()?.open().await?;
    tracing::info!(store = store.describe(), "starting");
    let report = Arc::new(Mutex::new(Report::default()));
    let server = status::serve(&flags.run_dir, "controller", report::router(report.clone())).await?;
    tracing::info!(socket = %server.socket().display(), "serving status");
    let settings = Settings { cluster_ips: flags.service_cluster_ip_range, node_ports: flags.service_node_port_range };
    tokio::select! {
        () = Controller::new(store, settings, report).run() => anyhow::bail!("the datastore's watcher has ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    Ok(())
}

fn cluster_ip_range(text: &str) -> Result<Ipv4Net, String> {
    let range: Ipv4Net = text.parse().map_err(|_| format!("{text} is no IPv4 CIDR, such as 10.96.0.0/12"))?;
    match range.prefix_len() {
        8..=29 => Ok(range.trunc()),
        _ => Err(format!("{text}: the length must be from 8 to 29")),
    }
}

fn node_port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ports = text.split_once('-').and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    match ports {
        Some((from, to)) if 0 < from && from <= to => Ok(from..=to),
        _ => Err(format!("{text} is no range of ports, such as 30000-32767")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        for (text, ok) in [("10.96.0.0/12", true), ("10.96.0.0/30", false), ("0.0.0.0/0", false), ("fd00::/108", false)]
        {
            assert_eq!(cluster_ip_range(text).is_ok(), ok, "{text}");
        }
        for (text, ok) in [("30000-32767", true), ("30000", false), ("2-1", false), ("0-9", false), ("1-65536", false)]
        {
            assert_eq!(node_port_range(text).is_ok(), ok, "{text}");
        }
    }
}
