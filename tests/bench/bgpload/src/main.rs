//! `bgpload`: load, convergence and hostile-input tests for any BGP speaker. README.md says how to use it.
//!
//! Shares no code with bgpd: what measures and judges the speaker must not have its errors.
//!
//! - `engine`: sessions, one epoll loop; `wire`, `feed`: what they say; `check`: whether what comes back is right.
//! - `run`, `load`, `mass`: phases of a run; `procstat`: the speaker's CPU time and memory.
//! - `hostile`: malformed input; `baseline`: the machine's limits.

mod baseline;
mod check;
mod engine;
mod feed;
mod hostile;
mod load;
mod mass;
mod procstat;
mod run;
mod wire;

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// senders and receivers are eBGP peers of the speaker
    Ebgp,
    /// senders and receivers are iBGP clients of the speaker, a route reflector
    Ibgp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WithdrawBy {
    None,
    /// UPDATEs that withdraw every prefix
    Explicit,
    /// the senders' sessions are closed
    Session,
}

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    cmd: Cmd,
}

#[derive(Args, Clone)]
pub struct Common {
    /// the speaker under test
    #[arg(long, global = true, default_value = "127.0.0.1:1790")]
    pub target: SocketAddr,
    #[arg(long, global = true, value_enum, default_value = "ebgp")]
    pub mode: Mode,
    /// AS number of the speaker (and of every peer with --mode ibgp)
    #[arg(long, global = true, default_value_t = 65000)]
    pub dut_as: u32,
    #[arg(long, global = true, default_value_t = 65001)]
    pub sender_as: u32,
    #[arg(long, global = true, default_value_t = 65002)]
    pub receiver_as: u32,
    /// address of the first sender; the others follow, 250 to a /24
    #[arg(long, global = true, default_value = "127.1.0.1")]
    pub sender_base: Ipv4Addr,
    #[arg(long, global = true, default_value = "127.2.0.1")]
    pub receiver_base: Ipv4Addr,
    /// next hop of the first sender; the others follow
    #[arg(long, global = true, default_value = "198.18.0.1")]
    pub next_hop: Ipv4Addr,
    #[arg(long, global = true, default_value = "2001:db8:ffff::1")]
    pub next_hop6: Ipv6Addr,
    /// hold time to offer
    #[arg(long, global = true, default_value_t = 240)]
    pub hold: u16,
    /// negotiate both IPv4 and IPv6 unicast, whatever the prefixes
    #[arg(long, global = true)]
    pub both_families: bool,
    /// sessions that may be opening at a time
    #[arg(long, global = true, default_value_t = 32)]
    pub parallel: usize,
    /// process of the speaker, whose CPU time and memory to record (with its descendants); repeatable
    #[arg(long, global = true)]
    pub pid: Vec<u32>,
    /// seconds that one phase may take
    #[arg(long, global = true, default_value_t = 300)]
    pub timeout: u64,
    /// silence that ends a phase, after everything has arrived
    #[arg(long, global = true, default_value_t = 1500)]
    pub quiet_ms: u64,
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// name of the speaker, for the record
    #[arg(long, global = true, default_value = "")]
    pub label: String,
    /// append the JSON line to this file as well
    #[arg(long, global = true)]
    pub json: Option<PathBuf>,
    /// no table on standard error
    #[arg(long, global = true)]
    pub brief: bool,
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

#[derive(Args)]
pub struct LoadArgs {
    #[arg(long, default_value_t = 1)]
    pub senders: u32,
    #[arg(long, default_value_t = 1)]
    pub receivers: u32,
    /// receivers that come up and then read nothing: the others must not notice
    #[arg(long, default_value_t = 0)]
    pub stalled: u32,
    /// prefixes of each sender
    #[arg(long, default_value_t = 100_000)]
    pub prefixes: u32,
    /// all senders announce the same prefixes: best-path selection is checked
    #[arg(long)]
    pub same: bool,
    #[arg(long, value_enum, default_value = "internet")]
    pub mix: feed::Mix,
    #[arg(long)]
    pub v6: bool,
    /// then announce, and withdraw, this many single prefixes one after the other
    #[arg(long, default_value_t = 0)]
    pub latency: u32,
    /// then let one more receiver join
    #[arg(long)]
    pub late: bool,
    #[arg(long, value_enum, default_value = "explicit")]
    pub withdraw: WithdrawBy,
}

#[derive(Args)]
pub struct MassArgs {
    #[arg(long, default_value_t = 500)]
    pub clients: u32,
    #[arg(long, default_value_t = 10)]
    pub prefixes: u32,
    /// announce as each session comes up, and time from the first connect
    #[arg(long)]
    pub cold: bool,
    /// then announce this many single prefixes, each until all clients have it
    #[arg(long, default_value_t = 20)]
    pub churn: u32,
}

#[derive(Args)]
pub struct HoldArgs {
    /// sessions to keep up
    #[arg(long, default_value_t = 100)]
    pub peers: u32,
    #[arg(long, default_value_t = 0)]
    pub prefixes: u32,
    /// how long; 0: until killed
    #[arg(long, default_value_t = 0)]
    pub seconds: u64,
}

#[derive(Args)]
pub struct HostileArgs {
    /// only cases whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// seconds to wait for the speaker's reaction to one case
    #[arg(long, default_value_t = 1.2)]
    pub wait: f64,
    /// leave out the first cases (to go on after one that the speaker did not survive)
    #[arg(long, default_value_t = 0)]
    pub start: usize,
    /// list the cases and what the RFCs expect, and exit
    #[arg(long)]
    pub list: bool,
}

#[derive(Subcommand)]
enum Cmd {
    /// senders load a table, receivers must get it; then latency, a late joiner, and withdrawal
    Load(LoadArgs),
    /// many clients with few prefixes each, who must all learn all
    Mass(MassArgs),
    /// keep sessions up
    Hold(HoldArgs),
    /// malformed messages, and what the speaker makes of them
    Hostile(HostileArgs),
    /// what parsing, inserting and loopback TCP cost on this machine at the least
    Baseline {
        #[arg(long, default_value_t = 1_000_000)]
        prefixes: u32,
    },
}

/// A human table of one result: nested objects become `outer.inner`.
fn table(prefix: &str, m: &Map<String, Value>) {
    for (k, v) in m {
        match v {
            Value::Object(o) => table(&format!("{prefix}{k}."), o),
            Value::Array(_) => {}
            _ => eprintln!("  {:<28} {v}", format!("{prefix}{k}")),
        }
    }
}

fn main() {
    let cli = Cli::parse();
    let c = &cli.common;
    if !c.target.ip().is_loopback() {
        eprintln!("note: {} is no loopback address: be sure that it is yours", c.target);
    }
    let out = match &cli.cmd {
        Cmd::Load(a) => load::load(c, a),
        Cmd::Mass(a) => mass::mass(c, a),
        Cmd::Hold(a) => mass::hold(c, a),
        Cmd::Hostile(a) => hostile::run(c, a),
        Cmd::Baseline { prefixes } => baseline::run(*prefixes, c.seed),
    };
    if !c.brief {
        table("", &out);
    }
    let failed = out.contains_key("error");
    let line = Value::Object(out).to_string();
    println!("{line}");
    if let Some(path) = &c.json {
        let f = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(e) = f.and_then(|mut f| writeln!(f, "{line}")) {
            eprintln!("{}: {e}", path.display());
        }
    }
    if failed {
        std::process::exit(1);
    }
}
