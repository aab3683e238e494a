//! A network namespace and what runs in it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::exec::{self, Exec, Output};

/// A named namespace of a lab; removed with the lab (see [`crate::guard`]).
#[derive(Clone, Debug)]
pub struct Netns {
    /// As `ip netns` lists it.
    pub full_name: String,
    /// What people call it: `leaf1`, `worker02`, a pod's name.
    pub name: String,
    /// Processes started in it belong to this cgroup.
    pub cgroup: PathBuf,
}

impl Netns {
    /// Makes the namespace, with loopback up, and its cgroup.
    ///
    /// # Errors
    /// When either cannot be made.
    pub fn create(lab_id: &str, name: &str, cgroup: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&cgroup).with_context(|| format!("cannot create the cgroup {}", cgroup.display()))?;
        let full_name = format!("{}{name}", crate::guard::netns_prefix(lab_id));
        exec::run(&["ip", "netns", "add", &full_name])?;
        let netns = Self { full_name, name: name.into(), cgroup };
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// The file that stands for it.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.full_name)
    }

    /// The argument vector that enters the namespace and the cgroup, and then becomes `argv`: the process keeps its pid.
    /// Not `ip netns exec`, which hides bpffs and cgroup mounts.
    pub fn enter<S: AsRef<str>>(&self, argv: &[S]) -> Vec<String> {
        let script = r#"echo $$ > "$0" && netns="$1" && shift && exec nsenter --net="$netns" -- "$@""#;
        let mut all = vec!["sh".to_string(), "-c".into(), script.into()];
        all.push(self.cgroup.join("cgroup.procs").display().to_string());
        all.push(self.path());
        all.extend(argv.iter().map(|a| a.as_ref().to_string()));
        all
    }

    /// A command in here; it is shown as `name# command`.
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Exec {
        let words: Vec<String> = argv.iter().map(|a| exec::quoted(a.as_ref())).collect();
        Exec::new(&self.enter(argv)).shown_as(format!("{}# {}", self.name, words.join(" ")))
    }

    /// Runs a command in here that has to succeed.
    ///
    /// # Errors
    /// As [`exec::run`].
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.exec(argv).run()?.ok()
    }

    /// `ip` in here, outside of the cgroup. Not `ip -n`, which remounts the root and so fails in a chroot.
    fn ip_command(&self, arguments: &[&str]) -> Exec {
        let netns = format!("--net={}", self.path());
        let mut argv = vec!["nsenter", &netns, "--", "ip"];
        argv.extend(arguments);
        Exec::new(&argv)
    }

    /// `ip` commands in one batch.
    ///
    /// # Errors
    /// When one fails; it is named.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        let text = lines.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n");
        self.ip_command(&["-batch", "-"])
            .shown_as(format!("{}# ip {}", self.name, text.replace('\n', "; ip ")))
            .input(text)
            .run()?
            .ok()?;
        Ok(())
    }

    /// Kernel settings, `net.` names with dots.
    ///
    /// # Errors
    /// When one is refused.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        let mut argv = vec!["sysctl", "-q", "-w"];
        argv.extend(settings);
        self.run(&argv)?;
        Ok(())
    }

    /// The main table of a family, `-4` or `-6`, as `ip -j route` prints it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn routes(&self, family: &str) -> Result<Vec<Value>> {
        let out = self.ip_command(&["-j", "-d", family, "route", "show", "table", "main"]).run()?.json()?;
        Ok(out.as_array().cloned().unwrap_or_default())
    }

    /// The routes to exactly `dst`, as `ip` prints them.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn route_text(&self, dst: &str) -> Result<Output> {
        let argv = ["-4", "-d", "route", "show", "exact", dst];
        self.ip_command(&argv).shown_as(format!("{}# ip -d route show exact {dst}", self.name)).run()?.ok()
    }

    /// The next hop addresses of the route to exactly `dst`; empty when there is none or it has no gateway.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn next_hops(&self, dst: &str) -> Result<Vec<String>> {
        let family = if dst.contains(':') { "-6" } else { "-4" };
        let dst = dst.strip_suffix("/32").or_else(|| dst.strip_suffix("/128")).unwrap_or(dst);
        let dst = if ["0.0.0.0/0", "::/0"].contains(&dst) { "default" } else { dst };
        let routes = self.routes(family)?;
        let mut found = Vec::new();
        for route in routes.iter().filter(|r| r["dst"] == dst) {
            let hops = route["nexthops"].as_array().cloned().unwrap_or_else(|| vec![route.clone()]);
            // An IPv4 route by an IPv6 next hop has it under `via`.
            let gateway = |h: &Value| h["gateway"].as_str().or(h["via"]["host"].as_str()).map(str::to_string);
            found.extend(hops.iter().filter_map(gateway));
        }
        found.sort();
        Ok(found)
    }
}
