//! The command line: `calicoctl`, and `bgpctl`, which is the same program under its other name.
//!
//! Documents go down: file -> [`yaml`] -> [`documents`] (kinds, validation, every error with its place) -> [`plan`] (checked
//! against what is stored, written in one transaction where it fits) -> store. State comes up: the store through [`kinds`], the
//! daemons through their sockets.
//!
//! It refuses to write anything while any document has an error.

mod cli;
mod cluster;
mod commands;
mod documents;
mod kept;
mod kinds;
mod output;
mod pasted;
mod plan;
mod retire;
mod stored;
mod switch_config;
mod table;
mod yaml;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command of the process's arguments: 0, or 1 with the reason on standard error.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes; a cause that the text before it already names is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}
