//! Commands about this node's BGP speaker, and about what speakers would do.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DEFAULT_RUN_DIR, Output, SocketArgs};
use crate::switch_config::Vendor;

#[derive(Debug, Args)]
pub struct PeerArgs {
    /// The peer's address (on a link fe80::1%eth0), its name, or the interface it is behind
    pub peer: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutesView {
    /// The chosen path of every prefix
    Best,
    /// What peers sent
    Received,
    /// What is sent to peers
    Advertised,
}

impl RoutesView {
    pub const ALL: [RoutesView; 3] = [RoutesView::Best, RoutesView::Received, RoutesView::Advertised];

    /// As the daemon is asked.
    pub fn name(self) -> &'static str {
        match self {
            RoutesView::Best => "best",
            RoutesView::Received => "received",
            RoutesView::Advertised => "advertised",
        }
    }
}

#[derive(Debug, Args)]
pub struct RoutesArgs {
    /// best (the chosen paths, if absent), received or advertised; then a prefix: only it and those inside it; or an address:
    /// those that it is inside of
    #[arg(value_name = "[best|received|advertised] [PREFIX|ADDRESS]", num_args = 0..=2)]
    pub words: Vec<String>,
    /// Only routes of this peer
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Only the prefix itself
    #[arg(long, requires = "words")]
    pub exact: bool,
    /// The prefix and those inside it
    #[arg(long, requires = "words", conflicts_with = "exact")]
    pub longer: bool,
    /// Only routes with this community, aa:nn or aa:nn:mm; all of them where it is given several times
    #[arg(long, value_name = "COMMUNITY")]
    pub community: Vec<String>,
    /// Show no more than this
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A prefix, or an address: the longest prefix that has it
    pub target: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only this peer's session and the best paths that become its own
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Only best paths of this prefix and of those inside it
    pub prefix: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct ClearArgs {
    /// `soft`: routes again, without ending the session; then `in` or `out` for one direction; then a peer's address, or all
    #[arg(value_name = "[soft [in|out]] PEER|all", required = true, num_args = 1..=3)]
    pub words: Vec<String>,
    /// What the peer is told (RFC 9003), at most 255 octets
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct ResourceArgs {
    /// Take the resources from these files or directories, not from the store
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<String>,
    /// Look into directories within the directory too
    #[arg(short = 'R', long, requires = "filename")]
    pub recursive: bool,
    /// As bgpd's: a dotted quad, or `hash`
    #[arg(long, env = "CALICO_ROUTER_ID", default_value = "", hide_default_value = true)]
    pub router_id: String,
    /// As bgpd's: the namespace of the Secrets with passwords
    #[arg(long, env = "NAMESPACE", default_value = api::secret::DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// As bgpd's: the directory of secrets that the store does not have, <name>/<key>
    #[arg(long, value_name = "DIR", default_value = "/etc/tortie/secrets")]
    pub secrets_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The node
    #[arg(long, env = "NODENAME")]
    pub node: String,
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// A table (table, ps; wide: with the filters' rules), yaml or json
    #[arg(short, long, value_enum, default_value = "ps")]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct SwitchConfigArgs {
    #[arg(long, value_enum)]
    pub vendor: Vendor,
    /// Only sessions of this node; may be given several times [default: all nodes]
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Only the switch with this address, inside this peerRange, or behind this peerInterface; several are one switch
    /// [default: each is a switch]
    #[arg(long, value_name = "ADDRESS|RANGE|INTERFACE")]
    pub peer: Vec<String>,
    /// The switch's AS, where nodes take any
    #[arg(long = "as-number", value_name = "ASN")]
    pub asn: Option<api::bgp_peer::AsNumber>,
    #[command(flatten)]
    pub resources: ResourceArgs,
}

#[derive(Debug, Args)]
pub struct MrtArgs {
    /// Where to write it; `-`: standard output
    pub file: PathBuf,
    /// Where the daemons' sockets are
    #[arg(long, env = "TORTIE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Take the messages as those of a session with two-octet AS numbers
    #[arg(long)]
    pub two_octet_as: bool,
    /// Take them as from a peer in our own AS
    #[arg(long)]
    pub ibgp: bool,
    /// Take IPv4 prefixes, IPv6 prefixes, or both, as with path identifiers (RFC 7911)
    #[arg(long, value_name = "FAMILY", value_enum)]
    pub add_path: Vec<FamilyName>,
    /// Take messages of more than 4096 octets (RFC 8654)
    #[arg(long)]
    pub extended_messages: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "json")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyName {
    Ipv4,
    Ipv6,
}
