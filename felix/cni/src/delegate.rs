//! Runs the IPAM plugin that the configuration names (CNI specification, section 4).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::protocol::{AddResult, Error, code};

/// An IPAM plugin, and what it is started with.
#[derive(Clone, Debug)]
pub struct Delegate {
    program: PathBuf,
    /// The network configuration.
    stdin: Vec<u8>,
    /// Added to `CNI_ARGS`.
    args: Vec<(String, String)>,
}

impl Delegate {
    /// Finds the plugin in the folders of `CNI_PATH`.
    ///
    /// # Errors
    /// Code 7 for a name that is none, 5 when no folder has it.
    pub fn find(plugin: &str, path: &str, stdin: Vec<u8>) -> Result<Self, Error> {
        if plugin.is_empty() || plugin.contains('/') {
            let msg = format!("ipam.type is \"{plugin}\"; it must be the name of a plugin, such as tortie-ipam");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        let candidates = std::env::split_paths(path).map(|dir| dir.join(plugin));
        let program = candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| {
            Error::new(code::IO_FAILURE, format!("failed to find plugin \"{plugin}\" in path [{path}]"))
        })?;
        Ok(Self { program, stdin, args: Vec::new() })
    }

    /// The same, asking for one address (`IP` of `CNI_ARGS`).
    pub fn with_address(mut self, addr: std::net::IpAddr) -> Self {
        self.args.push(("IP".into(), addr.to_string()));
        self
    }

    /// ADD.
    ///
    /// # Errors
    /// The plugin's own error; code 6 when its result cannot be read.
    pub fn add(&self) -> Result<AddResult, Error> {
        let stdout = self.run("ADD")?;
        serde_json::from_slice(&stdout).map_err(|e| {
            let msg = format!("cannot read the result of {}", self.program.display());
            Error::new(code::DECODE_FAILURE, msg).because(e)
        })
    }

    /// DEL or CHECK, which answer nothing.
    ///
    /// # Errors
    /// The plugin's own error.
    pub fn run(&self, command: &str) -> Result<Vec<u8>, Error> {
        let io = |e: std::io::Error| {
            Error::new(code::IO_FAILURE, format!("cannot run {} for {command}", self.program.display())).because(e)
        };
        let mut process = Command::new(&self.program);
        process.env("CNI_COMMAND", command).stdin(Stdio::piped()).stdout(Stdio::piped());
        if !self.args.is_empty() {
            let mut args = std::env::var("CNI_ARGS").unwrap_or_default();
            for (key, value) in &self.args {
                args = format!("{args};{key}={value}");
            }
            process.env("CNI_ARGS", args.trim_start_matches(';'));
        }
        let mut child = process.spawn().map_err(io)?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // A plugin that answers without having read its configuration closes the pipe: its answer counts.
        let _ = stdin.write_all(&self.stdin);
        drop(stdin);
        let output = child.wait_with_output().map_err(io)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
            let msg = format!("{} failed for {command} ({})", self.program.display(), output.status);
            Error::new(code::IO_FAILURE, msg).because(text)
        }))
    }
}
