//! A worker: its felix and bgpd, its pods, and the commands that an operator types on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::program;
use crate::evidence::eventually;
use crate::exec::Exec;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::{Process, Spec};

/// A worker of the lab.
pub struct Node {
    pub name: String,
    pub address: String,
    pub netns: Netns,
    pub felix: Option<Process>,
    pub bgpd: Option<Process>,
    /// By name.
    pub pods: BTreeMap<String, Pod>,
    /// The cgroup of the whole node: felix's hooks are attached here.
    cgroup: PathBuf,
    dir: PathBuf,
    store_env: Vec<(String, String)>,
}

impl Node {
    /// A node without programs, in a namespace that is already connected.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn new(netns: Netns, address: &str, cgroup: PathBuf, lab_dir: &Path) -> Result<Self> {
        let dir = lab_dir.join(&netns.name);
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            name: netns.name.clone(),
            address: address.into(),
            netns,
            felix: None,
            bgpd: None,
            pods: BTreeMap::new(),
            cgroup,
            dir,
            store_env: Vec::new(),
        })
    }

    /// `--run-dir` of its programs.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// `--bpf-pin-root` of its felix: below the lab's own bpffs.
    pub fn pin_root(&self) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).join("bpf").join(&self.name)
    }

    /// The cgroup of all that runs on this node.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The store, as every program takes it from the environment.
    pub fn store_env(&self) -> &[(String, String)] {
        &self.store_env
    }

    /// Sets the store.
    pub fn set_store_env(&mut self, env: Vec<(String, String)>) {
        self.store_env = env;
    }

    /// Environment of a program on this node.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.store_env.clone();
        env.push(("NODENAME".into(), self.name.clone()));
        env.push(("RUST_LOG".into(), std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into())));
        env
    }

    /// Starts felix.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_felix(&mut self) -> Result<()> {
        let (pins, cgroup) = (self.pin_root().display().to_string(), self.cgroup.display().to_string());
        let process =
            self.spawn("felix", &["--bpf-pin-root", &pins, "--cgroup", &cgroup], &self.dir.join("felix.log"))?;
        self.felix = Some(process);
        Ok(())
    }

    /// Starts bgpd.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_bgpd(&mut self) -> Result<()> {
        self.start_bgpd_with(&[])
    }

    /// Starts bgpd with arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_bgpd_with(&mut self, args: &[&str]) -> Result<()> {
        self.bgpd = Some(self.spawn("bgpd", args, &self.dir.join("bgpd.log"))?);
        Ok(())
    }

    /// Starts a program of ours on this node.
    ///
    /// # Errors
    /// When it has not been built or cannot be started.
    pub fn spawn(&self, name: &str, args: &[&str], log: &Path) -> Result<Process> {
        let mut argv = vec![program(name)?.display().to_string()];
        argv.extend(["--run-dir".to_string(), self.run_dir().display().to_string()]);
        argv.extend(args.iter().map(|a| a.to_string()));
        let spec = Spec { name: format!("{name} of {}", self.name), argv, env: self.env(), log: log.into() };
        Process::spawn(&self.netns, spec)
    }

    /// Waits until both daemons answer 200 to `/readyz`.
    ///
    /// # Errors
    /// With the last answer and the log.
    pub fn await_ready(&mut self, limit: Duration) -> Result<()> {
        for daemon in ["felix", "bgpd"] {
            self.await_daemon(daemon, limit)?;
        }
        Ok(())
    }

    /// Waits until `felix` or `bgpd` answers 200 to `/readyz`.
    ///
    /// # Errors
    /// With the last answer and the log.
    pub fn await_daemon(&mut self, daemon: &str, limit: Duration) -> Result<()> {
        let (run_dir, name) = (self.run_dir(), self.name.clone());
        let process = if daemon == "felix" { &mut self.felix } else { &mut self.bgpd };
        let process = process.as_mut().with_context(|| format!("{daemon} of {name} was not started"))?;
        // One that has ended will not become ready: no reason to go on waiting.
        let answer = eventually(limit, &format!("{daemon} of {name} is ready"), || {
            if let Err(ended) = process.check_alive() {
                return Ok(Err(ended));
            }
            let (status, body) = get(&run_dir, daemon, "/readyz")?;
            if status == 200 { Ok(Ok(())) } else { bail!("/readyz answers {status}: {body}") }
        });
        answer?
    }

    /// A status page of one of its daemons.
    ///
    /// # Errors
    /// When it does not answer, or not with JSON.
    pub fn status(&self, daemon: &str, path: &str) -> Result<Value> {
        let body = self.answer(daemon, path)?;
        serde_json::from_str(&body).with_context(|| format!("{path} of {daemon} is not JSON: {body}"))
    }

    /// What a daemon answers on its socket.
    ///
    /// # Errors
    /// When it does not answer, or not with 200.
    pub fn answer(&self, daemon: &str, path: &str) -> Result<String> {
        let (status, body) = get(&self.run_dir(), daemon, path)?;
        if status != 200 {
            bail!("{daemon} of {} answers {status} to {path}: {body}", self.name);
        }
        Ok(body)
    }

    /// Peers with which bgpd says to be established, as `(address, up)`.
    ///
    /// # Errors
    /// When bgpd does not answer.
    pub fn peers(&self) -> Result<BTreeMap<String, bool>> {
        let rows = self.status("bgpd", "/v1/peers")?;
        let rows = rows.as_array().context("/v1/peers is not a list")?;
        let row = |r: &Value| Some((r["address"].as_str()?.to_string(), r["state"] == "Established"));
        Ok(rows.iter().filter_map(row).collect())
    }

    /// Environment of a command that asks this node's programs.
    pub fn ctl_env(&self) -> Vec<(String, String)> {
        let mut env = self.env();
        env.push(("TORTIE_RUN_DIR".into(), self.run_dir().display().to_string()));
        env
    }

    /// `calicoctl` or `bgpctl` on this node.
    pub fn ctl(&self, program_name: &str, args: &[&str]) -> Exec {
        let path = program(program_name).unwrap_or_else(|_| program_name.into()).display().to_string();
        let mut argv = vec![path.as_str()];
        argv.extend(args);
        self.netns.exec(&argv).env(self.ctl_env()).shown_as(format!("{}# {program_name} {}", self.name, args.join(" ")))
    }

    /// The CNI network configuration of this node.
    pub fn cni_config(&self) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0",
            "name": "tortie",
            "type": "tortie",
            "nodename": self.name,
            "run_dir": self.run_dir(),
            "ipam": {"type": "tortie-ipam"},
        });
        for (key, value) in &self.store_env {
            config[key.to_lowercase()] = json!(value);
        }
        config
    }
}

fn get(run_dir: &Path, daemon: &str, path: &str) -> Result<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reply = runtime.block_on(status::get(&run_dir.join(format!("{daemon}.sock")), path))?;
    Ok((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
}
