//! bgpd: Tortie's BGP speaker.
//!
//! ```text
//!  store ──watch──► feed ──resources, plan───► speaker (own thread) ◄──► peers
//!                       │                          ▲ │ best routes
//!                       └──────► kernel task ──────┘ ▼
//!                                  │   FIB of felix: originated; learned routes: protocol 202
//!  <run dir>/bgpd.sock ◄── control
//! ```
//!
//! On SIGTERM sessions with graceful restart end without a NOTIFICATION, so that peers keep the routes for the restart time
//! (RFC 4724 section 4); others get a Cease. Kernel routes stay in any case.

mod bfd;
mod bmp;
mod control;
mod dynamic;
mod events;
mod feed;
mod kernel;
mod link;
mod log_level;
mod metrics;
mod mrt;
mod peer;
mod session;
mod sockopt;
mod speaker;
mod unnumbered;

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use fib::Kernel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::control::Readiness;
use crate::feed::Feed;
use crate::kernel::Inputs;
use crate::log_level::LogLevel;
use crate::speaker::{Handle, InSync, Start};
use crate::unnumbered::Finder;
use bgp_plan::peers::RouterId;

/// In the run directory, which does not outlive the machine's boot.
const MARKER: &str = "bgpd.restart";

/// The port is none of Prometheus' list of exporters.
const DEFAULT_METRICS: &str = "127.0.0.1:9979";

/// Tortie's BGP speaker: announces what this node serves, installs what it learns.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Program no kernel route, originate none, and take every next hop as reachable.
    #[arg(long)]
    no_fib: bool,
    /// Directory of the status socket bgpd.sock.
    #[arg(long, default_value = "/run/tortie")]
    run_dir: PathBuf,
    /// Name of this node, as in its Node resource; the host name in lower case if absent.
    #[arg(long, env = "NODENAME")]
    nodename: Option<String>,
    /// Router id: a dotted quad, or `hash` for one made of the node's name; the node's IPv4 address if absent.
    #[arg(long, env = "CALICO_ROUTER_ID")]
    router_id: Option<String>,
    /// Namespace of the Secrets that hold the passwords of sessions.
    #[arg(long, env = "NAMESPACE", default_value = api::secret::DEFAULT_NAMESPACE)]
    namespace: String,
    /// Directory of secrets as Kubernetes mounts them, <name>/<key>, for those that the store does not have.
    #[arg(long, default_value = "/etc/tortie/secrets")]
    secrets_dir: PathBuf,
    /// Where /metrics, /healthz and /readyz are served by TCP, for Prometheus and for probes; off: nowhere. Another bgpd that
    /// has the default one already is no error.
    #[arg(long, env = "TORTIE_BGPD_METRICS", default_value = DEFAULT_METRICS)]
    metrics: String,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let level = log_level::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|r| r.block_on(run(arguments, level)));
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bgpd: {}", sentence(&e));
            std::process::ExitCode::FAILURE
        }
    }
}

/// An error and its causes; a cause that the text before it already names is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// What a previous run of this boot left: kernel routes, by which packets still go, and the marker that peers counted on it.
async fn how_it_begins(kernel: Option<&dyn Kernel>, run_dir: &Path) -> anyhow::Result<Start> {
    let was_counted_on = run_dir.join(MARKER).exists();
    let routes = match kernel {
        Some(kernel) => kernel.dump_routes().await.context("cannot read the kernel's routes")?,
        None => Vec::new(),
    };
    let is_left = |is_ipv4| {
        let mut of_family = routes.iter().filter(|r| r.key.dst.addr().is_ipv4() == is_ipv4);
        of_family.any(|r| r.route.protocol == fib::PROTOCOL_BGPD)
    };
    let preserved = [is_left(true), is_left(false)];
    // The standard library's hasher has random keys. A process id is 1 in every container.
    let seed = std::hash::RandomState::new().build_hasher().finish();
    let restarted = was_counted_on || preserved != [false; 2];
    Ok(Start { restarted, preserved, no_fib: kernel.is_none(), seed })
}

/// Tells the next run of this boot whether peers keep routes for it: those of the previous run do until our restart is over,
/// and others from their first session on. Only who has the run directory for himself may call it.
async fn keep_marker(mut in_sync: watch::Receiver<InSync>, mut counted_on: watch::Receiver<bool>, marker: PathBuf) {
    let is_counted_on = tokio::select! {
        biased;
        is = counted_on.wait_for(|is| *is) => is.is_ok(),
        _ = in_sync.wait_for(|all| all.v4 && all.v6) => false,
    };
    if !is_counted_on {
        match std::fs::remove_file(&marker) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {e}; the next start will be taken for a restart", marker.display());
            }
            _ => {}
        }
    }
    if counted_on.wait_for(|is| *is).await.is_ok()
        && let Err(e) = std::fs::write(&marker, "")
    {
        tracing::warn!("cannot write {}: {e}; a restart will not be known as one", marker.display());
    }
}

/// Serves by TCP until the process ends.
async fn serve_metrics(address: &str, router: axum::Router) -> anyhow::Result<()> {
    if address == "off" {
        return Ok(());
    }
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => {
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!("metrics are not served any more: {error}");
                }
            });
            Ok(())
        }
        Err(e) if address == DEFAULT_METRICS => {
            tracing::warn!("no metrics on {address}: {e}; give this bgpd a port of its own with --metrics");
            Ok(())
        }
        Err(e) => Err(e).with_context(|| {
            format!("cannot serve metrics on '{address}'; give --metrics an address and a port of this host, or off")
        }),
    }
}

async fn run(arguments: Arguments, level: LogLevel) -> anyhow::Result<()> {
    let router_id = RouterId::parse(arguments.router_id.as_deref().unwrap_or_default()).map_err(anyhow::Error::msg)?;
    let node = match arguments.nodename {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host name; set NODENAME")?
            .trim()
            .to_lowercase(),
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let store = datastore::config::from_env()?.open().await?;
    let kernel: Option<Arc<dyn Kernel>> = match arguments.no_fib {
        true => None,
        false => Some(Arc::new(fib::Netlink::new().context("cannot reach the kernel's routes")?)),
    };
    let start = how_it_begins(kernel.as_deref(), &arguments.run_dir).await?;
    let speaker = Handle::start(start).context("cannot start the speaker's thread")?;
    let readiness = watch::Sender::new(Readiness::default());
    let router = control::router(speaker.clone(), readiness.subscribe());
    let _server = status::serve(&arguments.run_dir, "bgpd", router).await?;
    serve_metrics(&arguments.metrics, control::scraped(speaker.clone(), readiness.subscribe())).await?;
    let marker = arguments.run_dir.join(MARKER);
    let _marker = tokio::spawn(keep_marker(speaker.in_sync(), speaker.counted_on(), marker));

    let feed = Feed::new(store, &node, arguments.namespace, arguments.secrets_dir);
    let finder = Finder::new(speaker.clone(), start.seed);
    let work = follow(feed, Program { node, router_id, kernel, speaker: speaker.clone(), finder, level }, &readiness);
    tokio::select! {
        result = work => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    speaker.shut_down().await;
    Ok(())
}

/// What the resources steer.
struct Program {
    node: String,
    router_id: RouterId,
    kernel: Option<Arc<dyn Kernel>>,
    speaker: Handle,
    finder: Finder,
    level: LogLevel,
}

/// Keeps the program as the resources say, for as long as the process lives.
async fn follow(mut feed: Feed, program: Program, readiness: &watch::Sender<Readiness>) -> anyhow::Result<()> {
    let Program { node, router_id, kernel, speaker, mut finder, level } = program;
    let mut inputs: Option<watch::Sender<Inputs>> = None;
    let mut waiting_for = String::new();
    let mut noted = Vec::new();
    let mut listening = false;
    while let Some(resources) = feed.next().await {
        let plan = match bgp_plan::peers::plan(&node, resources, router_id) {
            Ok(plan) => plan,
            Err(e) => {
                let reason = e.to_string();
                if reason != waiting_for {
                    tracing::warn!("no session yet: {reason}");
                    readiness.send_modify(|r| r.waiting_for = Some(reason.clone()));
                    waiting_for = reason;
                }
                continue;
            }
        };
        level.set(plan.log_severity.as_deref());
        if noted != plan.notes {
            plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
            noted.clone_from(&plan.notes);
            readiness.send_modify(|r| r.notes.clone_from(&noted));
        }
        let now = Inputs::new(resources, &plan);
        let interfaces = plan.config.unnumbered.keys().cloned().collect();
        let applied = speaker.configure(plan.config).await.context("the speaker's thread ended")?;
        let problem = applied.err();
        match &problem {
            None => listening = true,
            // At the start nobody depends on us yet: say what is wrong and end.
            Some(e) if !listening => anyhow::bail!("{e}"),
            // Sessions live on, and the next change of a resource tries again.
            Some(e) => tracing::error!("{e}"),
        }
        if let Err(e) = finder.look_behind(interfaces) {
            tracing::error!("{e}");
        }
        match (&inputs, &kernel) {
            (Some(inputs), _) => {
                inputs.send_replace(now);
            }
            (None, Some(kernel)) => {
                let (sender, receiver) = watch::channel(now);
                let status = kernel::spawn(kernel.clone(), speaker.clone(), node.clone(), receiver)
                    .context("cannot watch the kernel's routes")?;
                readiness.send_modify(|r| r.kernel = Some(status));
                inputs = Some(sender);
            }
            (None, None) => speaker.originate(Vec::new()),
        }
        waiting_for.clear();
        readiness.send_modify(|r| {
            r.configured = true;
            r.waiting_for = problem;
        });
    }
    anyhow::bail!("the store's watch ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever starts by mistake beside a running one, or dies before its first session, takes nothing from the next start.
    #[tokio::test]
    async fn the_marker_outlives_a_start_that_comes_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join(MARKER);
        assert!(!how_it_begins(None, directory.path()).await.unwrap().restarted);
        std::fs::write(&marker, "").unwrap();
        for _ in 0..2 {
            assert!(how_it_begins(None, directory.path()).await.unwrap().restarted);
        }
        assert!(marker.exists());
    }

    /// (what happens in this order, whether the marker is there after each)
    #[tokio::test]
    async fn the_marker_goes_when_the_restart_is_over_and_comes_with_a_session() {
        const OVER: InSync = InSync { v4: true, v6: true };
        for (counted_on_first, there) in [(true, [true, true, true]), (false, [true, false, true])] {
            let directory = tempfile::tempdir().unwrap();
            let marker = directory.path().join(MARKER);
            std::fs::write(&marker, "").unwrap();
            let (in_sync, counted_on) = (watch::Sender::new(InSync::default()), watch::Sender::new(false));
            let task = tokio::spawn(keep_marker(in_sync.subscribe(), counted_on.subscribe(), marker.clone()));
            let mut found = Vec::new();
            for event in 0..3 {
                match (event, counted_on_first) {
                    (0, _) => drop(in_sync.send_replace(InSync { v4: true, v6: false })),
                    (1, true) | (2, false) => drop(counted_on.send_replace(true)),
                    _ => drop(in_sync.send_replace(OVER)),
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                found.push(marker.exists());
            }
            assert_eq!(found, there, "counted on first: {counted_on_first}");
            task.await.unwrap();
        }
    }
}
