//! A long-running program of a lab: in its namespace and cgroup, its output in a file, killed by its pid.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::evidence::eventually;
use crate::exec;
use crate::netns::Netns;

/// How long a program may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Names the log file.
    pub name: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Standard output and error go to this file, appended.
    pub log: PathBuf,
}

/// A running program; dropping it kills it.
pub struct Process {
    spec: Spec,
    netns: Netns,
    child: Child,
}

impl Process {
    /// Starts `spec` in `netns`.
    ///
    /// # Errors
    /// When it cannot be started; that it ends at once is noticed by whoever waits for it.
    pub fn spawn(netns: &Netns, spec: Spec) -> Result<Self> {
        let child = start(netns, &spec)?;
        Ok(Self { spec, netns: netns.clone(), child })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &PathBuf {
        &self.spec.log
    }

    /// All its output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.spec.log).unwrap_or_default()
    }

    /// The end of its output, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// An error with its log once it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.spec.name, self.log_tail());
        }
        Ok(())
    }

    /// `kill -9`, as a crash.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill9(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("waiting for {}", self.spec.name))?;
        Ok(())
    }

    /// Asks it to end with `signal` and waits; its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<Option<i32>> {
        let _ = kill(Pid::from_raw(self.pid()), signal);
        let (child, name) = (&mut self.child, &self.spec.name);
        eventually(STOP_LIMIT, &format!("{name} ends on {signal}"), || {
            child.try_wait()?.map(|s| s.code()).context("it still runs")
        })
    }

    /// Sends it a signal and does not wait.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("{signal} to {}", self.spec.name))
    }

    /// Kills it if it runs, and starts it again as before.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        self.child = start(&self.netns, &self.spec)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(netns: &Netns, spec: &Spec) -> Result<Child> {
    exec::check_not_stopping()?;
    let log = File::options().create(true).append(true).open(&spec.log)?;
    let argv = netns.enter(&spec.argv);
    Command::new(&argv[0])
        .args(&argv[1..])
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", spec.name))
}
