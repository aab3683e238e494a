//! bgpd: Tortie's BGP speaker.
//!
//! ```text
//!  store ──watch──► resources ──peers::plan──► speaker (own thread) ◄──► peers
//!                       │                          ▲ │ best routes
//!                       └──────► kernel task ──────┘ ▼
//!                                  │   FIB of felix: originated; learned routes: protocol 202
//!  <run dir>/bgpd.sock ◄── control
//! ```
//!
//! On SIGTERM sessions with graceful restart end without a NOTIFICATION, so that peers keep the routes for the restart time
//! (RFC 4724 section 4); others get a Cease. Kernel routes stay in any case.

mod bfd;
mod control;
mod events;
mod kernel;
mod link;
mod metrics;
mod peer;
mod session;
mod sockopt;
mod speaker;

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use fib::Kernel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::control::Readiness;
use crate::kernel::Inputs;
use crate::speaker::{Handle, Start};
use bgp_plan::peers::RouterId;
use bgp_plan::resources::Resources;

/// Every kind has a watch of its own: what one `calicoctl apply` wrote is planned together, so that a session does not end over
/// a filter that comes a moment after the peer which names it.
const SETTLE_TIME: Duration = Duration::from_millis(20);

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
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|r| r.block_on(run(arguments)));
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

async fn run(arguments: Arguments) -> anyhow::Result<()> {
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
    // Routes that a previous run left: it was there, and the kernel forwards by them.
    let preserved = match &kernel {
        Some(kernel) => {
            let routes = kernel.dump_routes().await.context("cannot read the kernel's routes")?;
            let is_left = |is_ipv4| {
                let mut of_family = routes.iter().filter(|r| r.key.dst.addr().is_ipv4() == is_ipv4);
                of_family.any(|r| r.route.protocol == fib::PROTOCOL_BGPD)
            };
            [is_left(true), is_left(false)]
        }
        None => [false; 2],
    };
    // The standard library's hasher has random keys. A process id is 1 in every container.
    let seed = std::hash::RandomState::new().build_hasher().finish();
    let speaker = Handle::start(Start { restarted: preserved != [false; 2], preserved, seed })
        .context("cannot start the speaker's thread")?;
    let readiness = watch::Sender::new(Readiness::default());
    let router = control::router(speaker.clone(), readiness.subscribe());
    let _server = status::serve(&arguments.run_dir, "bgpd", router).await?;

    let work = follow(store, node, router_id, kernel, speaker.clone(), &readiness);
    tokio::select! {
        result = work => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    speaker.shut_down().await;
    Ok(())
}

/// Keeps the speaker as the resources say, for as long as the process lives.
async fn follow(
    store: datastore::store::DynStore,
    node: String,
    router_id: RouterId,
    kernel: Option<Arc<dyn Kernel>>,
    speaker: Handle,
    readiness: &watch::Sender<Readiness>,
) -> anyhow::Result<()> {
    let mut updates = datastore::watcher::watch(store, Resources::ranges(&node));
    let mut resources = Resources::default();
    let mut in_sync = false;
    let mut inputs: Option<watch::Sender<Inputs>> = None;
    let mut waiting_for = String::new();
    let mut noted = Vec::new();
    let mut listening = false;
    while let Some(first) = updates.recv().await {
        // What arrives together is planned once.
        let deadline = tokio::time::Instant::now() + SETTLE_TIME;
        let mut next = Some(first);
        while let Some(update) = next {
            in_sync |= update == datastore::watcher::Update::InSync;
            resources.update(&update);
            next = tokio::time::timeout_at(deadline, updates.recv()).await.unwrap_or_default();
        }
        if !in_sync {
            continue;
        }
        let plan = match bgp_plan::peers::plan(&node, &resources, router_id) {
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
        if noted != plan.notes {
            plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
            noted = plan.notes;
            readiness.send_modify(|r| r.notes.clone_from(&noted));
        }
        let now = Inputs {
            resources: Arc::new(resources.clone()),
            peers: plan.config.peers.keys().map(|id| id.address).collect(),
        };
        let applied = speaker.configure(plan.config).await.context("the speaker's thread ended")?;
        let problem = applied.err();
        match &problem {
            None => listening = true,
            // At the start nobody depends on us yet: say what is wrong and end.
            Some(e) if !listening => anyhow::bail!("{e}"),
            // Sessions live on, and the next change of a resource tries again.
            Some(e) => tracing::error!("{e}"),
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
