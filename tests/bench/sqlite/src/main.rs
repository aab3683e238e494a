//! Watches across processes on the embedded store. Several processes write, several watch; each writer notes when it asked for a
//! write and when it was acknowledged, each watcher when it saw it. The ages are joined by revision. Last, how much CPU time a
//! process with idle watches takes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::key::{Key, KeyRange};
use clap::Parser;
use datastore::Store;
use datastore::sqlite::SqliteStore;
use futures::StreamExt;
use serde_json::{Value, json};

/// The goal: 99 of 100 events are seen within this time.
const GOAL: Duration = Duration::from_millis(20);
/// Ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

#[derive(Parser)]
struct Args {
    /// Processes that write
    #[arg(long, default_value_t = 4)]
    writers: usize,
    /// Processes that watch
    #[arg(long, default_value_t = 4)]
    watchers: usize,
    /// Clients of each writer, each of which waits for its acknowledgement
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long a client pauses between writes, in milliseconds
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the store is made; the disk matters
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where the result goes
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// What a child does
    #[arg(long, hide = true)]
    role: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.map_err(|e| e.to_string()).and_then(|runtime| match &args.role {
        Some(role) => runtime.block_on(child(role, &args)),
        None => runtime.block_on(measure(&args)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or_default()
}

// ---- children: what they saw goes to standard output when they are told to end

async fn child(role: &str, args: &Args) -> Result<(), String> {
    let path = args.directory.as_deref().ok_or("a child needs --directory")?.join("store.db");
    let store = std::sync::Arc::new(SqliteStore::open(&path).await.map_err(|e| e.to_string())?);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let lines = match role.split_once(':') {
        Some(("write", name)) => {
            let clients = (0..args.clients).map(|n| {
                let pause = Duration::from_millis(args.pause_ms);
                tokio::spawn(write(store.clone(), Key::IpamHandle(format!("{name}-{n}")), pause, until))
            });
            futures::future::try_join_all(clients).await.map_err(|e| e.to_string())?.concat()
        }
        Some(("watch", _)) => watch(&store, until + Duration::from_secs(1)).await?,
        // Ten watches that see nothing.
        _ => {
            let from = store.list(&KeyRange::Blocks).await.map_err(|e| e.to_string())?.revision;
            let mut watches = Vec::new();
            for _ in 0..10 {
                watches.push(store.watch(&KeyRange::Blocks, from).await.map_err(|e| e.to_string())?);
            }
            let idle =
                tokio::time::timeout_at(until.into(), futures::future::join_all(watches.iter_mut().map(|w| w.next())));
            let _ = idle.await;
            vec![format!("cpu {}", cpu_seconds().unwrap_or_default())]
        }
    };
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(|e| e.to_string())
}

async fn write(store: std::sync::Arc<SqliteStore>, key: Key, pause: Duration, until: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    let value = format!("{{\"pad\":\"{}\"}}", "x".repeat(500)).into_bytes();
    while Instant::now() < until {
        let asked = now();
        match store.put(key.clone(), value.clone()).await {
            Ok(revision) => lines.push(format!("wrote {revision} {asked} {}", now())),
            Err(e) => lines.push(format!("failed {e}")),
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    lines
}

async fn watch(store: &SqliteStore, until: Instant) -> Result<Vec<String>, String> {
    let mut events = store.watch(&KeyRange::Handles, 0).await.map_err(|e| e.to_string())?;
    let mut lines = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout_at(until.into(), events.next()).await {
        match event {
            Ok(event) => lines.push(format!("saw {} {}", event.revision(), now())),
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(lines)
}

/// The CPU time of this process.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS)
}

// ---- the parent

/// A child that is killed when the parent gives up.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(role: &str, args: &Args, directory: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child = Command::new(program)
            .args(["--role", role])
            .args(["--clients", &args.clients.to_string()])
            .args(["--pause-ms", &args.pause_ms.to_string()])
            .args(["--seconds", &args.seconds.to_string()])
            .arg("--directory")
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn();
        child.map(Self).map_err(|e| e.to_string())
    }

    fn lines(&mut self) -> Result<Vec<Vec<String>>, String> {
        let stdout = self.0.stdout.take().ok_or("a child has an output")?;
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let lines = lines.map(|line| line.split(' ').map(str::to_string).collect()).collect();
        match self.0.wait() {
            Ok(status) if status.success() => Ok(lines),
            outcome => Err(format!("a child failed: {outcome:?}")),
        }
    }
}

async fn measure(args: &Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let directory = args.directory.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    // Before anybody watches from the beginning.
    SqliteStore::open(directory.join("store.db")).await.map_err(|e| e.to_string())?;
    let watchers = (0..args.watchers).map(|n| Process::start(&format!("watch:{n}"), args, &directory));
    let mut watchers: Vec<Process> = watchers.collect::<Result<_, _>>()?;
    let writers = (0..args.writers).map(|n| Process::start(&format!("write:w{n}"), args, &directory));
    let mut writers: Vec<Process> = writers.collect::<Result<_, _>>()?;
    let mut written: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut failures = Vec::new();
    for writer in &mut writers {
        for line in writer.lines()? {
            match line.first().map(String::as_str) {
                Some("wrote") => drop(written.insert(number(&line, 1)?, (number(&line, 2)?, number(&line, 3)?))),
                _ => failures.push(line.join(" ")),
            }
        }
    }
    let (mut from_call, mut from_acknowledgement) = (Vec::new(), Vec::new());
    let mut missed = 0;
    for watcher in &mut watchers {
        let seen: HashMap<u64, u64> = watcher
            .lines()?
            .iter()
            .map(|line| Ok((number(line, 1)?, number(line, 2)?)))
            .collect::<Result<_, String>>()?;
        for (revision, (asked, acknowledged)) in &written {
            match seen.get(revision) {
                Some(seen) => {
                    from_call.push(seen.saturating_sub(*asked));
                    from_acknowledgement.push(seen.saturating_sub(*acknowledged));
                }
                None => missed += 1,
            }
        }
    }
    let acknowledged = written.values().map(|(asked, acknowledged)| acknowledged - asked).collect();
    let mut idle = Process::start("idle", args, &directory)?;
    let idle_cpu = idle.lines()?.iter().find_map(|line| line.get(1)?.parse::<f64>().ok());
    let age = percentiles(from_acknowledgement);
    let is_met = missed == 0 && failures.is_empty() && age["p99_ms"].as_f64() < Some(GOAL.as_secs_f64() * 1e3);
    let result = json!({
        "commit": args.commit, "machine": machine(), "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
        "writers": args.writers, "clients": args.clients, "watchers": args.watchers, "pause_ms": args.pause_ms,
        "seconds": args.seconds, "writes": written.len(), "failures": failures, "missed": missed,
        "acknowledgement": percentiles(acknowledged), "seen_after_call": percentiles(from_call),
        "seen_after_acknowledgement": age, "goal_p99_ms": GOAL.as_millis() as u64, "met": is_met,
        "idle_cpu_s": idle_cpu, "idle_wall_s": args.seconds,
    });
    println!("{result:#}");
    match &args.json {
        Some(path) => std::fs::write(path, format!("{result:#}\n")).map_err(|e| format!("{}: {e}", path.display())),
        None => Ok(()),
    }
}

fn number(line: &[String], field: usize) -> Result<u64, String> {
    let text = line.get(field).map(String::as_str).unwrap_or_default();
    text.parse().map_err(|e| format!("a child said {line:?}: {e}"))
}

/// Of microseconds, in milliseconds.
fn percentiles(mut values: Vec<u64>) -> Value {
    values.sort_unstable();
    let at = |share: f64| {
        let index = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
        values.get(index).map(|v| *v as f64 / 1e3)
    };
    json!({ "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0) })
}

fn machine() -> Value {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1).map(str::to_string));
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "cpu": cpu, "processors": processors, "kernel": read("/proc/sys/kernel/osrelease").trim() })
}
