//! The flags of `ipam plan`.

use clap::{Args, ValueEnum};
use ipnet::IpNet;

/// Plays a fleet with every block size, and shows what each costs the switch.
#[derive(Debug, Args)]
pub struct IpamPlanArgs {
    /// Plan for this pool instead of those in the store; may be given several times
    #[arg(long = "pool", value_name = "CIDR")]
    pub pools: Vec<IpNet>,
    /// Plan for so many nodes, which all pools serve, instead of those in the store
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub nodes: Option<u32>,
    /// Pods of a node on average; they are spread at random
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub pods_per_node: u32,
    /// Most pods of a node [default: 110, or --pods-per-node where that is more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub max_pods_per_node: Option<u32>,
    /// Share of the pods that is replaced in an hour, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, value_parser = percent)]
    pub churn: f64,
    /// How long the fleet is played, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 24.0, value_parser = hours)]
    pub hours: f64,
    /// Only this block size (26, or /26); may be given several times [default: every one that the pools allow]
    #[arg(long = "block-size", value_name = "LENGTH", value_parser = block_size)]
    pub block_sizes: Vec<u8>,
    /// As in the IPAM configuration [default: what that says]
    #[arg(long, value_name = "true|false")]
    pub strict_affinity: Option<bool>,
    /// As in the IPAM configuration; 0 is the default, 20 [default: what that says]
    #[arg(long, value_name = "N")]
    pub max_blocks_per_host: Option<u32>,
    /// The fleets of two plans with one seed live the same life
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How to print
    #[arg(short, long, value_enum, default_value = "ps")]
    pub output: PlanOutput,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanOutput {
    /// A table and a picture
    #[value(alias = "table", alias = "wide")]
    Ps,
    Yaml,
    Json,
    /// A picture, for documents
    Svg,
}

fn percent(text: &str) -> Result<f64, String> {
    in_range(text.strip_suffix('%').unwrap_or(text), 0.0, 10_000.0)
}

fn hours(text: &str) -> Result<f64, String> {
    in_range(text, 0.0, 24.0 * 366.0)
}

fn in_range(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {least} to {most}")),
    }
}

fn block_size(text: &str) -> Result<u8, String> {
    match text.trim_start_matches('/').parse() {
        Ok(length @ (20..=32 | 116..=128)) => Ok(length),
        _ => Err("must be a prefix length from 20 to 32, or for IPv6 from 116 to 128".into()),
    }
}
