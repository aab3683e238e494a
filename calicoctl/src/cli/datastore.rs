//! The commands of `datastore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum DatastoreCommand {
    /// Moves everything from one store to another, by a file in Calico's form
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// The embedded store's file (SQLITE_PATH)
    #[command(subcommand)]
    Sqlite(SqliteCommand),
}

#[derive(Debug, Subcommand)]
pub enum SqliteCommand {
    /// Says whether the store is whole; exits with 1 where it is not
    Check(CheckArgs),
    /// Copies the store as it is at one moment into a new file, while programs write
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Makes a backup the content of the store; programs that run list again
    Restore {
        /// The backup; the store's own file: take it as it is, although it lost writes
        file: PathBuf,
    },
    /// Forgets all history and returns free space to the file system
    Compact,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file, such as a backup [default: the store]
    pub file: Option<PathBuf>,
    /// Do not compare indices with their tables
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Writes everything that the store holds to standard output; it must be locked
    Export(ExportArgs),
    /// Writes a file of export into the store, and leaves it locked; may be interrupted and run again
    Import(ImportArgs),
    /// Locks the store: no address is assigned or released until it is unlocked
    Lock,
    /// Unlocks the store
    Unlock,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Give nodes the names that they have in Kubernetes, for an import into Kubernetes
    #[arg(long)]
    pub kubernetes_node_names: bool,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: String,
}
