//! `lab`: builds the network of the seed out of namespaces and proves that it works; see `lab quickstart --help`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use harness::capability::{self, Capability};
use harness::cluster::{Options, Store};
use harness::evidence::say;
use harness::interop::{crowd, flap, stream};
use harness::switch::Tor;
use harness::traffic::{self, Transport};
use harness::{exec, guard, main_job};

#[derive(Parser)]
#[command(
    version,
    about = "Two leaf switches, a client, three workers: Tortie's network in namespaces of this machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the lab, runs the main job with its evidence, and removes the lab.
    Quickstart {
        /// Leave the lab running, and print how to enter it and how to take it down.
        #[arg(long)]
        keep: bool,
        /// The router of the leaf switches.
        #[arg(long, value_enum, default_value_t)]
        tor: Tor,
        /// The store of the cluster.
        #[arg(long, value_enum, default_value_t)]
        store: Store,
        /// Give the leaves AS numbers of their own.
        #[arg(long)]
        ebgp: bool,
    },
    /// Removes a lab, or all that dead runs left behind.
    Down {
        id: Option<String>,
        /// Every kept lab and every one whose owner is gone.
        #[arg(long, conflicts_with = "id")]
        all_mine: bool,
        /// Every one whose owner is gone and which nobody kept.
        #[arg(long, conflicts_with_all = ["id", "all_mine"])]
        all_dead: bool,
    },
    /// Lists the labs of this machine.
    List,
    /// Says which tests this machine can run; one capability a line, with the reason when it is missing.
    Probe,
    /// A server that answers with its name, TCP and UDP.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long)]
        tcp: u16,
        #[arg(long)]
        udp: u16,
    },
    /// Sends requests and prints the answers.
    Fetch {
        transport: Transport,
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Sends requests until SIGTERM and prints what was lost.
    Load {
        transport: Transport,
        to: SocketAddr,
        #[arg(long, default_value_t = 10)]
        interval_ms: u64,
    },
    /// Reads a stream until SIGTERM and prints how long it stalled.
    Transfer { to: SocketAddr },
    /// Sends numbered datagrams until SIGTERM, and says how many.
    #[command(hide = true)]
    Pour { to: SocketAddr },
    /// Counts datagrams until SIGTERM.
    #[command(hide = true)]
    Count { at: SocketAddr },
    /// A BGP peer that comes up and goes down so many times, and then stays.
    #[command(hide = true)]
    Flap {
        to: SocketAddr,
        #[arg(long)]
        asn: u16,
        #[arg(long)]
        router_id: Ipv4Addr,
        #[arg(long)]
        times: u32,
        /// Ends instead.
        #[arg(long)]
        ends: bool,
    },
    /// So many BGP peers at once, with successive addresses.
    #[command(hide = true)]
    Crowd {
        to: SocketAddr,
        #[arg(long)]
        asn: u16,
        #[arg(long)]
        first: Ipv4Addr,
        #[arg(long)]
        peers: usize,
        /// How many of them announce a prefix.
        #[arg(long)]
        announce: usize,
        /// How many prefixes each has to hear.
        #[arg(long, default_value_t = 0)]
        hears: usize,
    },
    /// Keeps this namespace's kernel in step with its GoBGP.
    #[command(hide = true)]
    GobgpFib,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The thread that took the signal removes the lab and ends the program.
        Err(_) if exec::check_not_stopping().is_err() => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Quickstart { keep, tor, store, ebgp } => quickstart(Options { tor, store, ebgp }, keep),
        Command::Down { all_dead: true, .. } => {
            guard::reap_dead();
            Ok(())
        }
        Command::Down { id, all_mine, .. } => down(id, all_mine),
        Command::List => {
            for (id, alive, keep) in guard::labs() {
                let state = if alive {
                    "running"
                } else if keep {
                    "kept"
                } else {
                    "left behind"
                };
                say(&format!("{id}  {state}  {}", guard::dir(&id).display()));
            }
            Ok(())
        }
        Command::Probe => {
            for capability in Capability::ALL {
                match capability::missing(capability) {
                    None => say(&format!("{capability}\tyes")),
                    Some(reason) if capability.is_optional() => say(&format!("{capability}\toptional\t{reason}")),
                    Some(reason) => say(&format!("{capability}\tno\t{reason}")),
                }
            }
            Ok(())
        }
        Command::Serve { name, tcp, udp } => traffic::serve(&name, tcp, udp),
        Command::Fetch { transport, to, count } => fetch(transport, to, count),
        Command::Load { transport, to, interval_ms } => {
            traffic::load(transport, to, Duration::from_millis(interval_ms))
        }
        Command::Transfer { to } => traffic::transfer(to),
        Command::Pour { to } => stream::pour(to),
        Command::Count { at } => stream::count(at),
        Command::Flap { to, asn, router_id, times, ends } => flap::flap(to, asn, router_id, times, ends),
        Command::Crowd { to, asn, first, peers, announce, hears } => {
            crowd::crowd(crowd::Crowd { to, asn, first, peers, announce, hears })
        }
        Command::GobgpFib => harness::switch::gobgp_fib(),
    }
}

fn quickstart(options: Options, keep: bool) -> Result<()> {
    let mut needed = vec![Capability::Namespaces, Capability::Bpf];
    needed.push(match options.tor {
        Tor::Frr => Capability::Frr,
        Tor::Bird => Capability::Bird,
        Tor::Gobgp => Capability::Gobgp,
    });
    if options.store == Store::Etcd {
        needed.push(Capability::Etcd);
    }
    // One cause often takes several away: it is said once.
    let mut missing: Vec<(String, String)> = Vec::new();
    for capability in needed {
        let Some(reason) = capability::missing(capability) else { continue };
        match missing.iter_mut().find(|(_, known)| *known == reason) {
            Some((names, _)) => *names = format!("{names}, {capability}"),
            None => missing.push((capability.to_string(), reason)),
        }
    }
    if !missing.is_empty() {
        let lines: Vec<String> = missing.iter().map(|(names, reason)| format!("{names}: {reason}")).collect();
        bail!("the lab needs, and this machine lacks:\n  {}", lines.join("\n  "));
    }
    let lab = main_job::run(options)?;
    if keep {
        say(&format!("\n{}", lab.keep()?));
    }
    Ok(())
}

fn down(id: Option<String>, all_mine: bool) -> Result<()> {
    let labs = guard::labs();
    let chosen: Vec<String> = match (id, all_mine) {
        (Some(id), _) => {
            if !labs.iter().any(|(known, ..)| *known == id) {
                bail!("no lab {id} in {}; `lab list` shows what there is", guard::LABS);
            }
            vec![id]
        }
        (None, true) => labs.into_iter().filter(|(_, alive, _)| !alive).map(|(id, ..)| id).collect(),
        (None, false) => bail!("say which lab (`lab list` shows them), or --all-mine"),
    };
    for id in chosen {
        guard::down(&id)?;
        say(&format!("lab {id} is gone"));
    }
    Ok(())
}

fn fetch(transport: Transport, to: SocketAddr, count: usize) -> Result<()> {
    let mut lost = 0;
    for _ in 0..count {
        match traffic::fetch(transport, to) {
            Ok(answer) => say(&answer),
            Err(error) => {
                lost += 1;
                say(&format!("lost: {error:#}"));
            }
        }
    }
    if lost > 0 {
        bail!("{lost} of {count} requests to {to} had no answer");
    }
    Ok(())
}
