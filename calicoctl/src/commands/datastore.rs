//! The commands of `datastore`.

mod migrate;
mod sqlite;

use anyhow::Result;

use crate::cli::datastore::DatastoreCommand;

/// Runs one command of `datastore`.
pub async fn run(command: DatastoreCommand) -> Result<()> {
    match command {
        DatastoreCommand::Migrate(command) => migrate::run(command).await,
        DatastoreCommand::Sqlite(command) => sqlite::run(command),
    }
}
