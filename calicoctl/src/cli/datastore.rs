//! The commands of `datastore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum DatastoreCommand {
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
