//! tortie-controller: gives services what Kubernetes' control plane would (cluster IPs, node ports, endpoint slices) and what
//! Calico's would (load-balancer addresses), keeps workloads' labels those of their pods, and collects what nobody needs.
//!
//! Run several: one leads, the others wait to take over. Every write of the leader is conditional on its still leading.

mod clock;
mod controller;
mod fenced;
mod plan;
mod report;
mod state;

use std::io::IsTerminal as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use datastore::election::{self, Election, Leadership};
use ipam::pool::Family;
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::controller::Controller;
use crate::fenced::Fenced;
use crate::plan::Settings;
use crate::report::Report;

/// Gives services addresses and endpoints, and collects what nobody needs. Run several: one leads.
#[derive(Debug, Parser)]
#[command(name = "tortie-controller", version)]
struct Flags {
    /// Where the socket controller.sock is made
    #[arg(long, value_name = "DIR", default_value = "/run/tortie")]
    run_dir: PathBuf,
    /// From where services without clusterIP get one; one range, or one of each family, the usual one first
    #[arg(long, env = "SERVICE_CLUSTER_IP_RANGE", value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/12", value_parser = cluster_ip_ranges)]
    service_cluster_ip_range: Ranges,
    /// From where services of type NodePort and LoadBalancer get node ports
    #[arg(long, env = "SERVICE_NODE_PORT_RANGE", value_name = "FROM-TO", default_value = "30000-32767", value_parser = node_port_range)]
    service_node_port_range: RangeInclusive<u16>,
    /// Collect nothing: say on the socket (/v1/gc) and in the log what would be collected
    #[arg(long)]
    gc_dry_run: bool,
    /// How long the others leave the leader alone that they do not hear of
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    leader_lease: Duration,
}

/// One CIDR, or one of each family.
#[derive(Clone, Debug)]
struct Ranges(Vec<IpNet>);

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

// The lead is renewed on another thread than plans are made on.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let store = datastore::config::from_env()?.open().await?;
    tracing::info!(store = store.describe(), "starting");
    let identity = identity();
    let report = Report { identity: identity.clone(), is_dry_run: flags.gc_dry_run, ..Report::default() };
    let report = Arc::new(Mutex::new(report));
    let server = status::serve(&flags.run_dir, "controller", report::router(report.clone(), store.clone())).await?;
    tracing::info!(socket = %server.socket().display(), "serving status");
    let settings = Settings {
        cluster_ips: flags.service_cluster_ip_range.0,
        node_ports: flags.service_node_port_range,
        has_kubernetes: store.describe().starts_with("kubernetes"),
        is_dry_run: flags.gc_dry_run,
    };
    // The proportions of client-go's defaults.
    let lease = flags.leader_lease;
    let election = Election {
        store: store.clone(),
        name: report::ELECTION.into(),
        identity,
        settings: election::Settings::new(lease, lease * 2 / 3, lease * 2 / 15)?,
    };
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = election::run_as_leader(election, shutdown, |leadership| {
        let (report, settings) = (report.clone(), settings.clone());
        let store = Arc::new(Fenced::new(store.clone(), leadership.clone()));
        async move {
            let _term = Term::begin(report.clone(), leadership);
            // A task of its own, which ends with the term: however long a plan takes, the lead is renewed meanwhile.
            let mut work = JoinSet::new();
            work.spawn(Controller::new(store, settings, report).run());
            if let Some(Err(error)) = work.join_next().await {
                tracing::error!(%error, "the controller has failed");
            }
        }
    })
    .await?;
    anyhow::ensure!(ended.is_none(), "the datastore's watcher has ended");
    tracing::info!("stopping");
    Ok(())
}

/// While it lives, this process says that it leads.
struct Term(Arc<Mutex<Report>>);

impl Term {
    fn begin(report: Arc<Mutex<Report>>, leadership: Leadership) -> Self {
        report.lock().unwrap_or_else(PoisonError::into_inner).leadership = Some(leadership);
        Self(report)
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        report.leadership = None;
        report.is_in_sync = false;
        report.questions = None;
    }
}

/// Who this is, for the others: the node's name, else the host's.
fn identity() -> String {
    let name = std::env::var("NODENAME").ok().or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let name = name.unwrap_or_default().trim().to_lowercase();
    if name.is_empty() { "unnamed".into() } else { name }
}

fn cluster_ip_ranges(text: &str) -> Result<Ranges, String> {
    let ranges: Vec<IpNet> = text.split(',').map(|part| cluster_ip_range(part.trim())).collect::<Result<_, _>>()?;
    match ranges.as_slice() {
        [_] => Ok(Ranges(ranges)),
        [a, b] if Family::of(a) != Family::of(b) => Ok(Ranges(ranges)),
        [_, _] => Err(format!("{text}: two ranges must be one of IPv4 and one of IPv6")),
        _ => Err(format!("{text}: at most one range of each family")),
    }
}

fn cluster_ip_range(text: &str) -> Result<IpNet, String> {
    let range: IpNet =
        text.parse().map_err(|_| format!("{text} is no CIDR, such as 10.96.0.0/12 or fd00:10:96::/112"))?;
    match range {
        IpNet::V4(net) if (8..=29).contains(&net.prefix_len()) => Ok(range.trunc()),
        IpNet::V4(_) => Err(format!("{text}: the length must be from 8 to 29")),
        IpNet::V6(net) if (48..=125).contains(&net.prefix_len()) => Ok(range.trunc()),
        IpNet::V6(_) => Err(format!("{text}: the length must be from 48 to 125")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let found = api::duration::parse(text).filter(|d| *d >= Duration::from_secs(1));
    found.ok_or_else(|| format!("{text} is no duration of a second or more, such as 15s"))
}

fn node_port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ports = text.split_once('-').and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    match ports {
        Some((from, to)) if 0 < from && from <= to => Ok(from..=to),
        _ => Err(format!("{text} is no range of ports, such as 30000-32767")),
    }
}

#[cfg(test)]
#[path = "../../../tests/cluster/rights.rs"]
mod rights;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_in_kubernetes_may_what_the_controller_does() {
        let account = "tortie-controller";
        rights::assert_may_follow(account, &state::ranges());
        for resource in ["ipamblocks", "blockaffinities", "ipamhandles"] {
            rights::assert_may(account, "crd.projectcalico.org", resource, &["get", "create", "update", "delete"]);
        }
        rights::assert_may(account, "crd.projectcalico.org", "ipamconfigs", &["get"]);
        rights::assert_may(account, "tortie.io", "loadbalancerippools", &["update"]);
        rights::assert_may(account, "", "services", &["get", "update"]);
        rights::assert_may(account, "", "services/status", &["update"]);
        rights::assert_may(account, "", "nodes", &["get"]);
        rights::assert_may(account, "", "pods", &["get"]);
        let verbs = ["get", "list", "watch", "create", "update"];
        rights::assert_may(account, "coordination.k8s.io", "leases", &verbs);
    }

    #[test]
    fn ranges_are_checked() {
        for (text, ok) in [
            ("10.96.0.0/12", true),
            ("10.96.0.0/30", false),
            ("0.0.0.0/0", false),
            ("fd00::/108", true),
            ("fd00::/32", false),
            ("10.96.0.0/12,fd00::/112", true),
            ("fd00::/112, 10.96.0.0/12", true),
            ("10.96.0.0/12,10.112.0.0/12", false),
            ("10.96.0.0/12,", false),
        ] {
            assert_eq!(cluster_ip_ranges(text).is_ok(), ok, "{text}");
        }
        for (text, ok) in [("15s", true), ("1m", true), ("0s", false), ("15", false)] {
            assert_eq!(duration(text).is_ok(), ok, "{text}");
        }
        for (text, ok) in [("30000-32767", true), ("30000", false), ("2-1", false), ("0-9", false), ("1-65536", false)]
        {
            assert_eq!(node_port_range(text).is_ok(), ok, "{text}");
        }
    }
}
