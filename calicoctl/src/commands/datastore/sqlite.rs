//! datastore sqlite check, backup, restore and compact: the file, not through [`datastore::Store`], which a damaged one has none of.

use std::path::PathBuf;

use ::datastore::config::StoreConfig;
use ::datastore::sqlite::{self, Depth, Report, size};
use anyhow::{Result, bail};

use crate::cli::datastore::SqliteCommand;
use crate::commands::configured_store;

/// Runs one command of `datastore sqlite`.
pub fn run(command: SqliteCommand) -> Result<()> {
    match command {
        SqliteCommand::Check(args) => {
            let depth = if args.quick { Depth::Quick } else { Depth::Full };
            let file = match args.file {
                Some(file) => file,
                None => store()?,
            };
            let report = sqlite::check(&file, depth)?;
            print!("{}", text(&report));
            match report.problems.len() {
                0 => println!("No problem was found."),
                1 => bail!("1 problem was found; {ADVICE}"),
                n => bail!("{n} problems were found; {ADVICE}"),
            }
        }
        SqliteCommand::Backup { file } => {
            let report = sqlite::backup(&store()?, &file)?;
            print!("{}", text(&report));
            println!("The backup is complete.");
        }
        SqliteCommand::Restore { file } => {
            let restored = sqlite::restore(&store()?, &file)?;
            print!("{}", text(&restored.report));
            match restored.aside {
                Some(aside) => println!("The store is restored; the damaged file is now {}.", aside.display()),
                None => println!("The store is restored."),
            }
        }
        SqliteCommand::Compact => {
            let report = sqlite::compact(&store()?)?;
            print!("{}", text(&report));
        }
    }
    Ok(())
}

const ADVICE: &str =
    "stop every program of Tortie on this host and restore a backup: `calicoctl datastore sqlite restore BACKUP`";

/// The embedded store's file.
fn store() -> Result<PathBuf> {
    match configured_store()? {
        StoreConfig::Sqlite { path } => Ok(path),
        _ => bail!(
            "the configuration asks for another store than the embedded one; set DATASTORE_TYPE=sqlite and SQLITE_PATH (etcd has \
             `etcdctl snapshot save` and `etcdutl snapshot restore`)"
        ),
    }
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "File:      {}\nSize:      {} ({} free for new writes), write-ahead log {}\nRevision:  {}\nObjects:   {}\n\
         History:   {} writes after revision {}\n",
        report.path.display(),
        size(report.bytes),
        size(report.free_bytes),
        size(report.wal_bytes),
        report.revision,
        report.objects,
        report.history,
        report.compacted,
    );
    for problem in &report.problems {
        text.push_str(&format!("Problem:   {problem}\n"));
    }
    text
}
