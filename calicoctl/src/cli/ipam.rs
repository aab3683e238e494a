//! The commands of `ipam`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::ipam_plan::IpamPlanArgs;

#[derive(Debug, Subcommand)]
pub enum IpamCommand {
    /// Looks for what is wrong with the stored addresses; exits with 1 where something is
    Check(CheckArgs),
    /// Shows pools and what is used of them, or who has an address
    Show(ShowArgs),
    /// Releases addresses: one, those of a report of ipam check, or all of a handle, a node or a pool
    Release(ReleaseArgs),
    /// Changes how addresses are given out
    Configure(ConfigureArgs),
    /// Shows what each block size costs the switch: routes, and addresses that are borrowed
    Plan(IpamPlanArgs),
    /// Splits an IP pool into smaller ones; the datastore must be locked
    Split(SplitArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print every address that is looked at
    #[arg(long)]
    pub show_all_ips: bool,
    /// Print every address, handle and affinity that something is wrong with
    #[arg(long)]
    pub show_problem_ips: bool,
    /// Write a report for ipam release, in Calico's form
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Mend what can be mended safely: nothing that is in use is touched
    #[arg(long)]
    pub repair: bool,
    /// Say what --repair would do, and do nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
}

/// How a check is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Who has this address
    #[arg(long, value_name = "ADDRESS", group = "what")]
    pub ip: Option<IpAddr>,
    /// The blocks of each pool too, and those of no pool
    #[arg(long, group = "what")]
    pub show_blocks: bool,
    /// The addresses that nodes have out of the blocks of others
    #[arg(long, group = "what")]
    pub show_borrowed: bool,
    /// How addresses are given out
    #[arg(long, group = "what")]
    pub show_configuration: bool,
}

#[derive(Debug, Args)]
#[group(id = "what", required = true)]
pub struct ReleaseArgs {
    /// This address, whoever has it
    #[arg(long, value_name = "ADDRESS", group = "what")]
    pub ip: Option<IpAddr>,
    /// What this report of ipam check says is leaked; of several, what all of them say
    #[arg(long, value_name = "FILE", group = "what")]
    pub from_report: Vec<PathBuf>,
    /// All addresses of this handle
    #[arg(long, value_name = "ID", group = "what")]
    pub handle: Option<String>,
    /// All addresses and blocks of this node
    #[arg(long, value_name = "NAME", group = "what")]
    pub node: Option<String>,
    /// All addresses and blocks of this IP pool
    #[arg(long, value_name = "NAME|CIDR", group = "what")]
    pub pool: Option<String>,
    /// Although the datastore is not locked, the report is another version's, the node exists or the pool is enabled
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ConfigureArgs {
    /// Nodes take addresses only from their own blocks
    #[arg(long, value_name = "true|false")]
    pub strictaffinity: Option<String>,
    /// Most blocks that a node may have; 0 is the default, 20
    #[arg(long, value_name = "N")]
    pub max_blocks_per_host: Option<String>,
    /// Whether virtual machines of KubeVirt keep their addresses
    #[arg(long, value_name = "Enabled|Disabled")]
    pub kubevirt_ip_persistence: Option<String>,
    /// How long a released address is not given out again
    #[arg(long, value_name = "N")]
    pub ip_cooldown_seconds: Option<String>,
}

#[derive(Debug, Args)]
pub struct SplitArgs {
    /// Into how many: a power of two
    pub number: u32,
    /// CIDR of the IP pool
    #[arg(long, conflicts_with = "name", required_unless_present = "name")]
    pub cidr: Option<IpNet>,
    /// Name of the IP pool
    #[arg(long)]
    pub name: Option<String>,
}
