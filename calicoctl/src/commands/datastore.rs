//! The commands of `datastore`.

mod sqlite;

use anyhow::Result;

use crate::cli::datastore::DatastoreCommand;

/// Runs one command of `datastore`.
pub fn run(command: DatastoreCommand) -> Result<()> {
    match command {
        DatastoreCommand::Sqlite(command) => sqlite::run(command),
    }
}
