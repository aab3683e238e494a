//! The command tree: one definition per command and flag, with its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod bgp;
pub mod datastore;
pub mod ipam;
pub mod ipam_plan;

use self::bgp::{ClearArgs, DecodeArgs, MrtArgs, PeerArgs, PlanArgs, RoutesArgs, SwitchConfigArgs, WatchArgs, WhyArgs};
use self::datastore::DatastoreCommand;
use self::ipam::IpamCommand;

/// Where the daemons' sockets are.
const DEFAULT_RUN_DIR: &str = "/run/tortie";

/// Manages Tortie's resources and shows its state
///
/// The store is chosen by DATASTORE_TYPE (sqlite, etcdv3, kubernetes), SQLITE_PATH, ETCD_ENDPOINTS and KUBECONFIG.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Calico's configuration file (CalicoAPIConfig): where it is, it says which store to use, and the environment does not.
    /// Default: /etc/calico/calicoctl.cfg
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Creates resources, or updates those that exist
    Apply(FileArgs),
    /// Creates resources
    Create {
        #[command(flatten)]
        files: FileArgs,
        /// Leave resources alone that exist already
        #[arg(long)]
        skip_exists: bool,
    },
    /// Replaces resources that exist
    Replace(FileArgs),
    /// Deletes resources, by file or by kind and name
    Delete(DeleteArgs),
    /// Checks documents without a store
    Validate(FileArgs),
    /// Shows resources
    Get(GetArgs),
    /// This node's daemons
    #[command(subcommand)]
    Node(NodeCommand),
    /// Shows the sessions of this node's BGP speaker
    Peers(SocketArgs),
    /// Shows everything about one session of this node's BGP speaker
    Peer(PeerArgs),
    /// Shows the routes of this node's BGP speaker
    Routes(RoutesArgs),
    /// Says why a prefix goes the way it goes: every path and where it lost, the rule that changed or rejected it, who hears it
    Why(WhyArgs),
    /// Shows sessions and best paths as they change
    Watch(WatchArgs),
    /// Ends sessions so that they begin anew, or (soft) asks for and sends routes again
    Clear(ClearArgs),
    /// Shows the sessions and filters that resources give a node, without its speaker
    Plan(PlanArgs),
    /// Explains BGP messages, hexadecimal on standard input, and what RFC 7606 makes of them
    Decode(DecodeArgs),
    /// Writes what peers announced to a file, as MRT (RFC 6396)
    Mrt(MrtArgs),
    /// Writes the switch's side of the nodes' sessions
    SwitchConfig(SwitchConfigArgs),
    /// IP address management
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// This node's service load balancer
    #[command(subcommand)]
    Lb(LbCommand),
    /// The store itself: migration, its files, their backup
    #[command(subcommand)]
    Datastore(DatastoreCommand),
    /// Shows the version of this program
    Version,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// File, directory, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filename: Vec<String>,
    /// Look into directories within the directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Namespace of documents that name none [default: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kind of the resources
    #[arg(required_unless_present = "filename", requires = "names")]
    pub kind: Option<String>,
    /// Names of the resources
    pub names: Vec<String>,
    /// File, directory, or - for standard input; may be given several times
    #[arg(short, long, value_name = "FILE", conflicts_with = "kind")]
    pub filename: Vec<String>,
    /// Look into directories within the directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Namespace of the resources [default: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Leave out what does not exist
    #[arg(short, long)]
    pub skip_not_exists: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// Kind of the resources, or a short name of it
    #[arg(required_unless_present = "filename")]
    pub kind: Option<String>,
    /// Names of the resources; all where none is given
    pub names: Vec<String>,
    /// Show the resources that these documents name
    #[arg(short, long, value_name = "FILE", conflicts_with = "kind")]
    pub filename: Vec<String>,
    /// ps, wide, yaml or json
    #[arg(short, long, default_value = "ps")]
    pub output: String,
    /// Namespace of the resources [default: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Resources of all namespaces
    #[arg(short = 'A', long, visible_short_alias = 'a', conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table
    #[value(alias = "table")]
    Ps,
    /// A table with more columns, where there are more
    Wide,
    Yaml,
    Json,
}

#[derive(Debug, Args)]
pub struct SocketArgs {
    /// Where the daemons' sockets are
    #[arg(long, env = "TORTIE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value = "ps")]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Shows the BGP sessions as Calico does
    Status(SocketArgs),
}

#[derive(Debug, Subcommand)]
pub enum LbCommand {
    /// Shows the services that this node serves
    List(SocketArgs),
    /// Shows the state of the load balancer
    Status(SocketArgs),
}
