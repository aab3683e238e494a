//! The frame of both programs: reads the command, runs it, prints what it answers.

use std::future::Future;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::protocol::{Attachment, Command, Error, NEWEST_VERSION, NetConf, SUPPORTED_VERSIONS, code};

/// Everything that one call of a plugin starts from.
#[derive(Debug)]
pub struct Call {
    pub command: Command,
    pub conf: NetConf,
    /// The configuration as it came.
    pub stdin: Vec<u8>,
}

impl Call {
    /// The attachment of ADD, DEL and CHECK.
    ///
    /// # Errors
    /// Code 4.
    pub fn attachment(&self) -> Result<Attachment, Error> {
        Attachment::from_vars(self.command, |name| std::env::var(name).ok())
    }
}

/// Runs a plugin: `--help` and `--version`, else `CNI_COMMAND`. `run` gives what is printed on stdout.
pub fn main<F, Fut>(name: &str, about: &str, run: F) -> ExitCode
where
    F: FnOnce(Call) -> Fut,
    Fut: Future<Output = Result<Option<serde_json::Value>, Error>>,
{
    let version = format!("CNI plugin {name} {}", env!("CARGO_PKG_VERSION"));
    if let Some(arg) = std::env::args().nth(1) {
        return match arg.as_str() {
            "--version" | "-V" => {
                println!("{version}");
                ExitCode::SUCCESS
            }
            "--help" | "-h" => {
                let versions = SUPPORTED_VERSIONS.join(", ");
                println!("{version}\n{about}\nA container runtime starts it; CNI versions {versions}.");
                ExitCode::SUCCESS
            }
            _ => {
                eprintln!("{name}: unknown argument \"{arg}\"; see {name} --help");
                ExitCode::FAILURE
            }
        };
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let mut cni_version = NEWEST_VERSION.to_string();
    match call(&mut cni_version, run) {
        Ok(Some(value)) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            let error = Error { cni_version, ..error };
            println!("{}", json!(error));
            ExitCode::FAILURE
        }
    }
}

fn call<F, Fut>(cni_version: &mut String, run: F) -> Result<Option<serde_json::Value>, Error>
where
    F: FnOnce(Call) -> Fut,
    Fut: Future<Output = Result<Option<serde_json::Value>, Error>>,
{
    let command = Command::parse(&std::env::var("CNI_COMMAND").unwrap_or_default())?;
    let mut stdin = Vec::new();
    let read = std::io::stdin().read_to_end(&mut stdin);
    read.map_err(|e| Error::new(code::IO_FAILURE, "cannot read the network configuration on stdin").because(e))?;
    if command == Command::Version {
        // Specification, VERSION: the answer is in the version of the configuration, which holds nothing else.
        let asked: Option<serde_json::Value> = serde_json::from_slice(&stdin).ok();
        let asked = asked.and_then(|v| v.get("cniVersion")?.as_str().map(str::to_string));
        let version = asked.filter(|v| SUPPORTED_VERSIONS.contains(&v.as_str())).unwrap_or(NEWEST_VERSION.into());
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS})));
    }
    let conf = NetConf::parse(&stdin)?;
    cni_version.clone_from(&conf.cni_version);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(code::IO_FAILURE, "cannot start a runtime").because(e))?;
    runtime.block_on(run(Call { command, conf, stdin }))
}
