//! The speakers on the other side: started from their own configuration files, asked by their own tools.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Sessions, Table};
use crate::evidence::eventually;
use crate::exec::Output;
use crate::netns::Netns;
use crate::process::{Process, Spec};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Whose speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Frr,
    Bird,
    Gobgp,
    Openbgpd,
    Exabgp,
}

impl Kind {
    /// From the middle of a file's name, `leaf2.frr.conf`.
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "frr" => Kind::Frr,
            "bird" => Kind::Bird,
            "gobgp" => Kind::Gobgp,
            "openbgpd" => Kind::Openbgpd,
            "exabgp" => Kind::Exabgp,
            _ => return None,
        })
    }

    /// What has to be installed, and the Debian package it comes in.
    pub fn programs(self) -> (&'static [&'static str], &'static str) {
        match self {
            Kind::Frr => (&["/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/bin/vtysh"], "frr"),
            Kind::Bird => (&["/usr/sbin/bird", "/usr/sbin/birdc"], "bird2"),
            Kind::Gobgp => (&["/usr/bin/gobgpd", "/usr/bin/gobgp"], "gobgpd"),
            Kind::Openbgpd => (&[openbgpd::DAEMON, openbgpd::CONTROL], "openbgpd"),
            Kind::Exabgp => (&[exabgp::DAEMON], "exabgp"),
        }
    }
}

/// A peer of a scenario.
pub struct Router {
    kind: Kind,
    /// With a cgroup for the router alone: other things run in the namespace too.
    netns: Netns,
    dir: PathBuf,
    processes: Vec<Process>,
}

impl Router {
    /// Puts its configuration below `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(netns: Netns, kind: Kind, config: &FilePath, dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let netns = Netns { cgroup: netns.cgroup.join("router"), ..netns };
        fs::create_dir_all(&netns.cgroup)?;
        let router = Self { kind, netns, dir, processes: Vec::new() };
        router.configure(config)?;
        Ok(router)
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// With its log.
    pub fn start(&mut self) -> Result<()> {
        self.processes.clear();
        match self.kind {
            Kind::Frr => frr::start(self),
            Kind::Bird => bird::start(self),
            Kind::Gobgp => gobgp::start(self),
            Kind::Openbgpd => openbgpd::start(self),
            Kind::Exabgp => exabgp::start(self),
        }
    }

    /// Signals all its processes; those that are to end are waited for, and their sockets removed.
    ///
    /// # Errors
    /// When one does not end.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // What was started last depends on what was started before.
        for process in self.processes.iter_mut().rev() {
            match signal {
                Signal::SIGKILL => process.kill9()?,
                Signal::SIGTERM => {
                    process.stop(signal)?;
                }
                other => process.signal(other)?,
            }
        }
        if matches!(signal, Signal::SIGKILL | Signal::SIGTERM) {
            self.processes.clear();
            // OpenBGPD's children outlive a killed parent for a moment.
            crate::guard::kill_cgroup(&self.netns.cgroup)?;
            for leftover in ["zserv.api", "zebra.vty", "bgpd.vty", "bfdd.vty", "bird.ctl", "control.sock"] {
                let _ = fs::remove_file(self.dir.join(leftover));
            }
        }
        Ok(())
    }

    /// As `bgpctl switch-config --vendor` calls it.
    pub fn vendor(&self) -> &'static str {
        if self.kind == Kind::Frr { "frr" } else { "bird" }
    }

    /// Gives it another configuration and has it read it.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn reload(&mut self, config: &FilePath) -> Result<()> {
        if self.kind != Kind::Frr {
            self.configure(config)?;
        }
        match self.kind {
            Kind::Bird => self
                .tell("configure")
                .and_then(|o| if o.stdout.contains("Reconfigur") { Ok(()) } else { bail!("{}", o.stdout) }),
            Kind::Openbgpd => self.tell("reload").map(|_| ()),
            // SIGHUP and SIGUSR1 read the file again.
            Kind::Gobgp => self.processes[0].signal(Signal::SIGHUP),
            Kind::Exabgp => self.processes[0].signal(Signal::SIGUSR1),
            Kind::Frr => frr::load(self, config),
        }
    }

    /// A command of its own command line.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn tell(&self, command: &str) -> Result<Output> {
        match self.kind {
            Kind::Frr => frr::vtysh(self, command),
            Kind::Bird => bird::birdc(self, command),
            Kind::Gobgp => gobgp::gobgp(self, command),
            Kind::Openbgpd => openbgpd::control(self, command),
            Kind::Exabgp => exabgp::tell(self, command),
        }
    }

    /// Its sessions.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sessions(&self) -> Result<Sessions> {
        match self.kind {
            Kind::Frr => frr::sessions(self),
            Kind::Bird => bird::sessions(self),
            Kind::Gobgp => gobgp::sessions(self),
            Kind::Openbgpd => openbgpd::sessions(self),
            Kind::Exabgp => exabgp::sessions(self),
        }
    }

    /// What it has learned by BGP and accepted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn learned(&self) -> Result<Table> {
        match self.kind {
            Kind::Frr => frr::learned(self),
            Kind::Bird => bird::learned(self),
            Kind::Gobgp => gobgp::learned(self),
            Kind::Openbgpd => openbgpd::learned(self),
            Kind::Exabgp => exabgp::learned(self),
        }
    }

    /// The end of its logs.
    pub fn log_tail(&self) -> String {
        self.processes.iter().map(|p| format!("{}\n{}\n", p.log_path().display(), p.log_tail())).collect()
    }

    /// Copies a configuration; `@DIR@` in it is the peer's directory.
    fn configure(&self, config: &FilePath) -> Result<()> {
        let text = crate::cluster::read(config)?.replace("@DIR@", &self.dir.display().to_string());
        let at = self.dir.join("router.conf");
        fs::write(&at, text)?;
        // OpenBGPD reads no file that others can read.
        fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        if self.kind == Kind::Frr {
            frr::own(self)?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn spawn(&mut self, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<()> {
        let spec = Spec {
            name: format!("{name} of {}", self.netns.name),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            log: self.dir.join(format!("{name}.log")),
        };
        self.processes.push(Process::spawn(&self.netns, spec)?);
        Ok(())
    }

    /// Waits until a file is there, or a process has ended.
    fn await_file(&mut self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        let processes = &mut self.processes;
        eventually(START_LIMIT, &format!("{} appears", path.display()), || {
            processes.iter_mut().try_for_each(Process::check_alive)?;
            path.exists().then_some(()).context("it does not exist")
        })
    }
}
