//! One file per family of commands.

mod bgp;
mod datastore;
mod get;
mod ipam;
mod ipam_plan;
mod lb;
mod resources;
mod sockets;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ::datastore::DynStore;
use ::datastore::config::StoreConfig;
use anyhow::{Result, anyhow, bail};
use api::kind::Kind;
use api::validate;

use crate::cli::{Cli, Command, NodeCommand};
use crate::plan::Verb;
use crate::yaml::{self, Chunk};

/// Where Calico's calicoctl looks for its configuration.
const DEFAULT_CONFIG: &str = "/etc/calico/calicoctl.cfg";

/// The file of `--config`: set once, before any command opens the store.
static CONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Runs one command.
///
/// # Errors
/// What to print on standard error; the process exits with 1.
pub async fn run(cli: Cli) -> Result<()> {
    CONFIG.get_or_init(|| cli.config);
    match cli.command {
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
        Command::Datastore(command) => datastore::run(command).await,
        Command::Lb(command) => lb::run(&command).await,
        Command::Version => {
            println!("Client Version:    {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

/// The store that the configuration file asks for or, where there is none, the environment. Where it can only be read, the writes of
/// a command say so.
async fn open_store() -> Result<DynStore> {
    Ok(configured_store()?.open_to_read().await?)
}

/// Which store that is.
fn configured_store() -> Result<StoreConfig> {
    store_config(CONFIG.get().and_then(Option::as_deref))
}

fn store_config(asked: Option<&Path>) -> Result<StoreConfig> {
    let path = asked.unwrap_or(Path::new(DEFAULT_CONFIG));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // Only the default need not exist, as in Calico.
        Err(e) if asked.is_none() && e.kind() == ErrorKind::NotFound => return Ok(::datastore::config::from_env()?),
        Err(e) => bail!("{}: cannot be read: {e}", path.display()),
    };
    let chunk = Chunk { text: &text, lines_before: 0 };
    let document = yaml::load(chunk).map_err(|malformed| {
        let first = malformed.errors.first().map(|e| format!("line {}, column {}: {}", e.line, e.column, e.message));
        anyhow!("{}: {}", path.display(), first.unwrap_or_else(|| "is no YAML".into()))
    })?;
    ::datastore::config::from_document(&document).map_err(|e| anyhow!("{}: {e}", path.display()))
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
