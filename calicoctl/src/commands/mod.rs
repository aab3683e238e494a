//! One file per family of commands.

mod bgp;
mod get;
mod ipam;
mod ipam_plan;
mod lb;
mod resources;
mod sockets;

use anyhow::{Result, bail};
use api::kind::Kind;
use api::validate;
use datastore::DynStore;

use crate::cli::{Command, NodeCommand};
use crate::plan::Verb;

/// Runs one command.
///
/// # Errors
/// What to print on standard error; the process exits with 1.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Apply(files) => resources::change(&files, Verb::Apply).await,
        Command::Create { files, skip_exists } => resources::change(&files, Verb::Create { skip_exists }).await,
        Command::Replace(files) => resources::change(&files, Verb::Replace).await,
        Command::Delete(args) => resources::delete(args).await,
        Command::Validate(files) => resources::validate(&files),
        Command::Get(args) => get::get(args).await,
        Command::Node(NodeCommand::Status(args)) => bgp::status::status(&args).await,
        Command::Peers(args) => bgp::peers::peers(&args).await,
        Command::Peer(args) => bgp::peer::peer(&args).await,
        Command::Routes(args) => bgp::routes::routes(&args).await,
        Command::Why(args) => bgp::why::why(&args).await,
        Command::Watch(args) => bgp::watch::watch(&args).await,
        Command::Clear(args) => bgp::clear::clear(&args).await,
        Command::Plan(args) => bgp::plan::plan(&args).await,
        Command::Decode(args) => bgp::decode::decode(&args),
        Command::Mrt(args) => bgp::mrt::mrt(&args).await,
        Command::SwitchConfig(args) => bgp::switch_config::switch_config(&args).await,
        Command::Ipam(command) => ipam::run(command).await,
        Command::Lb(command) => lb::run(&command).await,
        Command::Version => {
            println!("Client Version:    {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

/// The store that the environment asks for.
async fn open_store() -> Result<DynStore> {
    Ok(datastore::config::from_env()?.open().await?)
}

/// The kind that a word of the command line means.
fn kind(word: &str) -> Result<Kind> {
    if let Some(kind) = Kind::from_arg(word) {
        return Ok(kind);
    }
    // Two or three letters are near to anything.
    let short_names = |k: Kind| k.aliases().iter().copied().filter(|a| a.len() > 3);
    let names = Kind::ALL.iter().flat_map(|&k| [k.as_str(), k.plural()].into_iter().chain(short_names(k)));
    match validate::nearest(word, names) {
        Some(near) => bail!("resource type '{word}' is not supported; did you mean {near}?"),
        None => {
            let plurals: Vec<_> = Kind::ALL.iter().map(|k| k.plural()).collect();
            bail!("resource type '{word}' is not supported; the types are {}", plurals.join(", "))
        }
    }
}
