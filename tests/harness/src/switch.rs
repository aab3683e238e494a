//! A leaf switch: a real router from Debian in its own namespace. FRR (zebra and bgpd), BIRD, or GoBGP.
//!
//! All three are configured alike: one session to each worker, the clients' subnet and a default route advertised, nothing
//! reflected, several paths to one prefix used together, helper of a restarting neighbour, hold time 9 s.
//!
//! GoBGP 3.10 programs no kernel itself and its zebra client cannot read what FRR 8.4 sends (it ends in a panic); a
//! `lab gobgp-fib` process puts its best paths into the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::evidence::eventually;
use crate::exec::{self, Exec, Output};
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// What a switch tells the workers about: where the clients are.
pub const CLIENT_SUBNET: &str = "10.100.0.0/24";
/// Seconds without a word until a session is given up; ours and the switches' are the same.
pub const HOLD_TIME: u32 = 9;
const FRR_BIN: &str = "/usr/lib/frr";
const GOBGP_API: &str = "127.0.0.1:50051";
const START_LIMIT: Duration = Duration::from_secs(20);

/// Which router a switch runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tor {
    #[default]
    Frr,
    Bird,
    Gobgp,
}

impl Tor {
    /// Its name in sentences.
    pub fn title(self) -> &'static str {
        match self {
            Tor::Frr => "FRR",
            Tor::Bird => "BIRD",
            Tor::Gobgp => "GoBGP",
        }
    }
}

/// What the configuration of a switch is made from.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    pub tor: Tor,
    pub address: String,
    pub asn: u32,
    pub worker_asn: u32,
    pub workers: Vec<String>,
}

/// A switch and its router.
pub struct Switch {
    pub netns: Netns,
    pub config: SwitchConfig,
    dir: PathBuf,
    processes: Vec<Process>,
}

impl Switch {
    /// Writes the configuration below `dir`; [`Switch::start`] starts the router.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(netns: Netns, config: SwitchConfig, dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        match config.tor {
            Tor::Frr => {
                fs::write(dir.join("zebra.conf"), format!("hostname {}\n", netns.name))?;
                fs::write(dir.join("bgpd.conf"), frr_config(&netns.name, &config))?;
                // FRR's daemons give up root for the user frr and make their sockets here.
                exec::run(&["chown", "-R", "frr:frr", &dir.display().to_string()])?;
            }
            Tor::Bird => fs::write(dir.join("bird.conf"), bird_config(&config))?,
            Tor::Gobgp => fs::write(dir.join("gobgpd.toml"), gobgp_config(&config))?,
        }
        Ok(Self { netns, config, dir, processes: Vec::new() })
    }

    /// Gives the router another configuration, for its next start; returns the file.
    ///
    /// # Errors
    /// When it cannot be written, or the router is GoBGP.
    pub fn replace_config(&mut self, text: &str) -> Result<String> {
        let name = match self.config.tor {
            Tor::Frr => "bgpd.conf",
            Tor::Bird => "bird.conf",
            Tor::Gobgp => bail!("nothing of ours writes GoBGP's configuration"),
        };
        fs::write(self.dir.join(name), text)?;
        Ok(self.file(name))
    }

    /// Starts the router and waits until it answers.
    ///
    /// # Errors
    /// With its log, when it does not.
    pub fn start(&mut self) -> Result<()> {
        match self.config.tor {
            Tor::Frr => {
                self.spawn_frr("zebra", &[])?;
                self.await_file("zserv.api")?;
                self.spawn_frr("bgpd", &["-p", "179"])?;
                self.await_file("bgpd.vty")?;
            }
            Tor::Bird => {
                let conf = self.file("bird.conf");
                let socket = self.file("bird.ctl");
                self.spawn("bird", &["bird", "-f", "-c", &conf, "-s", &socket, "-P", &self.file("bird.pid")])?;
                self.await_file("bird.ctl")?;
            }
            Tor::Gobgp => self.start_gobgp()?,
        }
        Ok(())
    }

    /// `kill -9` of the router: what a power cut does to its sessions.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.kill9()?;
        }
        self.processes.clear();
        for leftover in ["zserv.api", "zebra.vty", "bgpd.vty", "bird.ctl"] {
            let _ = fs::remove_file(self.dir.join(leftover));
        }
        Ok(())
    }

    /// The command that shows the routing table as its operator looks at it.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn show_routes(&self) -> Result<Output> {
        match self.config.tor {
            Tor::Frr => self.vtysh("show ip route bgp"),
            Tor::Bird => self.birdc("show route"),
            Tor::Gobgp => self.gobgp(&["global", "rib"]),
        }
    }

    /// The command that shows the sessions.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn show_sessions(&self) -> Result<Output> {
        match self.config.tor {
            Tor::Frr => self.vtysh("show ip bgp summary"),
            Tor::Bird => self.birdc("show protocols"),
            Tor::Gobgp => self.gobgp(&["neighbor"]),
        }
    }

    /// What it learned by BGP and uses: prefix to next hops, read from its own table.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn learned(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let table = match self.config.tor {
            Tor::Frr => learned_frr(&self.vtysh("show ip route bgp json")?.json()?),
            Tor::Bird => learned_bird(&self.birdc("show route where source = RTS_BGP")?.stdout),
            Tor::Gobgp => learned_gobgp(&self.gobgp(&["global", "rib", "-j"])?.json()?),
        };
        Ok(table)
    }

    /// Checks that its own table has `prefix` via exactly `next_hops`, and that its kernel forwards so.
    ///
    /// # Errors
    /// With what it has instead.
    pub fn check_route(&self, prefix: &str, next_hops: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = next_hops.iter().map(|h| h.to_string()).collect();
        let table = self.learned()?;
        let found = table.get(prefix).cloned().unwrap_or_default();
        if found != wanted {
            bail!("{} has {prefix} via {found:?} instead of {wanted:?}; its table: {table:?}", self.netns.name);
        }
        let kernel: BTreeSet<String> = self.netns.next_hops(prefix)?.into_iter().collect();
        if kernel != wanted {
            bail!("the kernel of {} forwards {prefix} via {kernel:?} instead of {wanted:?}", self.netns.name);
        }
        Ok(())
    }

    /// Peers with which it says to have an established session.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn established(&self) -> Result<BTreeSet<String>> {
        let peers = match self.config.tor {
            Tor::Frr => {
                let json = self.vtysh("show ip bgp summary json")?.json()?;
                let peers = json["ipv4Unicast"]["peers"].as_object().cloned().unwrap_or_default();
                peers.into_iter().filter(|(_, p)| p["state"] == "Established").map(|(ip, _)| ip).collect()
            }
            Tor::Bird => {
                let text = self.birdc("show protocols")?.stdout;
                let up = text.lines().filter(|l| l.contains("Established"));
                let numbers =
                    up.filter_map(|l| l.split_whitespace().next()?.strip_prefix("worker")?.parse::<usize>().ok());
                numbers.filter_map(|n| self.config.workers.get(n.checked_sub(1)?).cloned()).collect()
            }
            Tor::Gobgp => {
                let json = self.gobgp(&["neighbor", "-j"])?.json()?;
                let peers = json.as_array().cloned().unwrap_or_default();
                // 6 is ESTABLISHED in GoBGP's PeerState.SessionState.
                let up = peers.iter().filter(|p| p["state"]["session_state"] == 6);
                up.filter_map(|p| p["state"]["neighbor_address"].as_str().map(str::to_string)).collect()
            }
        };
        Ok(peers)
    }

    /// `vtysh -c`, as the operator of an FRR switch types it.
    ///
    /// # Errors
    /// When FRR does not answer.
    pub fn vtysh(&self, command: &str) -> Result<Output> {
        let dir = self.dir.display().to_string();
        let shown = format!("{}# vtysh -c '{command}'", self.netns.name);
        Exec::new(&["vtysh", "--vty_socket", &dir, "-c", command]).shown_as(shown).run()?.ok()
    }

    fn birdc(&self, command: &str) -> Result<Output> {
        let shown = format!("{}# birdc {command}", self.netns.name);
        Exec::new(&["birdc", "-r", "-s", &self.file("bird.ctl"), command]).shown_as(shown).run()?.ok()
    }

    fn gobgp(&self, args: &[&str]) -> Result<Output> {
        let mut argv = vec!["gobgp"];
        argv.extend(args);
        self.netns.exec(&argv).run()?.ok()
    }

    fn spawn_frr(&mut self, daemon: &str, more: &[&str]) -> Result<()> {
        let (dir, zserv) = (self.dir.display().to_string(), self.file("zserv.api"));
        let (program, conf) = (format!("{FRR_BIN}/{daemon}"), self.file(&format!("{daemon}.conf")));
        let pid = self.file(&format!("{daemon}.pid"));
        let mut argv = vec![
            &program,
            "-f",
            &conf,
            "--vty_socket",
            &dir,
            "-z",
            &zserv,
            "-i",
            &pid,
            "--log",
            "stdout",
            "-A",
            "127.0.0.1",
        ];
        argv.extend(more);
        self.spawn(daemon, &argv)
    }

    fn start_gobgp(&mut self) -> Result<()> {
        let conf = self.file("gobgpd.toml");
        self.spawn("gobgpd", &["gobgpd", "-f", &conf, "-p", "--pprof-disable", "--api-hosts", GOBGP_API])?;
        eventually(START_LIMIT, "gobgpd answers", || self.gobgp(&["global"]))?;
        for prefix in [CLIENT_SUBNET, "0.0.0.0/0"] {
            self.gobgp(&["global", "rib", "add", prefix, "nexthop", &self.config.address])?;
        }
        let lab = std::env::current_exe()?;
        let lab = crate::cluster::program_beside(&lab, "lab")?;
        self.spawn("gobgp-fib", &[&lab.display().to_string(), "gobgp-fib"])
    }

    fn spawn(&mut self, name: &str, argv: &[&str]) -> Result<()> {
        let spec = Spec {
            name: format!("{} of {}", name, self.netns.name),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: Vec::new(),
            log: self.dir.join(format!("{name}.log")),
        };
        self.processes.push(Process::spawn(&self.netns, spec)?);
        Ok(())
    }

    fn await_file(&mut self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        let processes = &mut self.processes;
        eventually(START_LIMIT, &format!("{} appears", path.display()), || {
            processes.iter_mut().try_for_each(Process::check_alive)?;
            if path.exists() { Ok(()) } else { bail!("it does not exist") }
        })
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn frr_config(name: &str, config: &SwitchConfig) -> String {
    let SwitchConfig { address, asn, worker_asn, workers, .. } = config;
    let each = |f: &dyn Fn(&str) -> String| workers.iter().map(|w| f(w)).collect::<String>();
    let sessions = each(&|w| {
        format!(
            " neighbor {w} remote-as {worker_asn}\n neighbor {w} timers 3 {HOLD_TIME}\n neighbor {w} timers connect 1\n \
             neighbor {w} advertisement-interval 0\n"
        )
    });
    let families = each(&|w| {
        format!("  neighbor {w} activate\n  neighbor {w} default-originate\n  neighbor {w} route-map own out\n")
    });
    format!(
        "hostname {name}\n\
         ip prefix-list own permit {CLIENT_SUBNET}\nip prefix-list own permit 0.0.0.0/0\n\
         route-map own permit 10\n match ip address prefix-list own\n\
         router bgp {asn}\n bgp router-id {address}\n bgp log-neighbor-changes\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n no bgp network import-check\n bgp bestpath as-path multipath-relax\n{sessions} \
         address-family ipv4 unicast\n  network {CLIENT_SUBNET}\n  maximum-paths 8\n  maximum-paths ibgp 8\n{families} \
         exit-address-family\n"
    )
}

fn bird_config(config: &SwitchConfig) -> String {
    let SwitchConfig { address, asn, worker_asn, workers, .. } = config;
    let sessions: String = workers
        .iter()
        .enumerate()
        .map(|(i, w)| {
            format!(
                "protocol bgp worker{} {{\n  local {address} as {asn};\n  neighbor {w} as {worker_asn};\n  hold time {HOLD_TIME};\n  \
                 connect retry time 1;\n  connect delay time 1;\n  error wait time 1, 2;\n  ipv4 {{ import all; next hop self; export where source = RTS_STATIC; }};\n}}\n",
                i + 1
            )
        })
        .collect();
    format!(
        "router id {address};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n\
         protocol kernel {{ merge paths on; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol static {{ ipv4; route {CLIENT_SUBNET} unreachable; route 0.0.0.0/0 unreachable; }}\n{sessions}"
    )
}

fn gobgp_config(config: &SwitchConfig) -> String {
    let SwitchConfig { address, asn, worker_asn, workers, .. } = config;
    let sessions: String = workers
        .iter()
        .map(|w| {
            format!(
                "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{w}\"\n    peer-as = {worker_asn}\n  \
                 [neighbors.timers.config]\n    hold-time = {HOLD_TIME}\n    keepalive-interval = 3\n    connect-retry = 1\n    idle-hold-time-after-reset = 1\n  \
                 [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = 120\n  \
                 [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"ipv4-unicast\"\n    \
                 [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n"
            )
        })
        .collect();
    format!(
        "[global.config]\n  as = {asn}\n  router-id = \"{address}\"\n  port = 179\n  \
         [global.use-multiple-paths.config]\n    enabled = true\n{sessions}"
    )
}

fn learned_frr(json: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut table = BTreeMap::new();
    for (prefix, routes) in json.as_object().into_iter().flatten() {
        let hops = routes.as_array().into_iter().flatten().filter(|r| r["selected"] == true);
        let hops = hops.flat_map(|r| r["nexthops"].as_array().cloned().unwrap_or_default());
        let active = hops.filter(|h| h["active"] == true && h["recursive"] != true);
        table.insert(prefix.clone(), active.filter_map(|h| h["ip"].as_str().map(str::to_string)).collect());
    }
    table
}

/// Several paths of one prefix follow each other, the prefix printed once.
fn learned_bird(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with(char::is_whitespace) && first.contains('/') {
            prefix = first.to_string();
        }
        if let Some(rest) = line.trim_start().strip_prefix("via ") {
            let hop = rest.split_whitespace().next().unwrap_or_default();
            table.entry(prefix.clone()).or_default().insert(hop.to_string());
        }
    }
    table
}

/// Paths with an origin other than itself: what it added has no source peer.
pub fn learned_gobgp(json: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (prefix, paths) in json.as_object().into_iter().flatten() {
        for path in paths.as_array().into_iter().flatten() {
            let attributes = path["attrs"].as_array().into_iter().flatten();
            // Path attribute 3 is NEXT_HOP (RFC 4271 section 5.1.3).
            let hop = attributes.filter(|a| a["type"] == 3).find_map(|a| a["nexthop"].as_str());
            let learned = path["source-id"].as_str().is_some_and(|s| !s.is_empty() && s != "<nil>");
            if let (Some(hop), true, false) = (hop, learned, path["stale"] == true && path["best"] != true) {
                table.entry(prefix.clone()).or_default().insert(hop.to_string());
            }
        }
    }
    table
}

/// Puts GoBGP's paths into this namespace's kernel, whenever GoBGP says that one changed; runs until GoBGP ends.
///
/// # Errors
/// When GoBGP or `ip` fails.
pub fn gobgp_fib() -> Result<()> {
    use std::io::BufRead;
    let mut monitor = std::process::Command::new("gobgp")
        .args(["monitor", "global", "rib", "-j"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot start gobgp monitor")?;
    let lines = std::io::BufReader::new(monitor.stdout.take().context("gobgp monitor has no output")?).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines {
            if line.is_err() || tell.send(()).is_err() {
                return;
            }
        }
    });
    let mut installed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    loop {
        let wanted = learned_gobgp(&exec::run(&["gobgp", "global", "rib", "-j"])?.json()?);
        for (prefix, hops) in wanted.iter().filter(|(p, h)| installed.get(*p) != Some(h)) {
            let mut argv = vec!["ip", "route", "replace", prefix, "proto", "bgp"];
            hops.iter().for_each(|h| argv.extend(["nexthop", "via", h]));
            exec::run(&argv)?;
        }
        for prefix in installed.keys().filter(|p| !wanted.contains_key(*p)) {
            exec::run(&["ip", "route", "del", prefix, "proto", "bgp"])?;
        }
        installed = wanted;
        // Beside the events a slow look: GoBGP's monitor tells of best paths only, not of further ones of a multipath.
        match told.recv_timeout(Duration::from_millis(500)) {
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => bail!("gobgp monitor ended"),
            _ => while told.try_recv().is_ok() {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn birds_table_with_two_paths_to_one_prefix() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            1.1.1.0/29           unicast [worker1 12:45:00.1] * (100) [i]\n\tvia 192.168.1.4 on vlan100\n\
            1.1.2.7/32           unicast [worker1 12:45:00.1] * (100) [i]\n\tvia 192.168.1.4 on vlan100\n\
            \x20                    unicast [worker2 12:45:00.1] (100) [i]\n\tvia 192.168.1.5 on vlan100\n";
        let table = learned_bird(text);
        assert_eq!(table["1.1.1.0/29"], BTreeSet::from(["192.168.1.4".to_string()]));
        assert_eq!(table["1.1.2.7/32"].len(), 2);
    }

    #[test]
    fn frrs_table_counts_what_is_selected_and_active() {
        let json = serde_json::json!({"1.1.1.0/29": [
            {"selected": true, "nexthops": [{"ip": "192.168.1.4", "active": true}, {"ip": "192.168.1.5"}]},
            {"nexthops": [{"ip": "192.168.1.6", "active": true}]}]});
        assert_eq!(learned_frr(&json)["1.1.1.0/29"], BTreeSet::from(["192.168.1.4".to_string()]));
    }
}
