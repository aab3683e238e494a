//! The topology of a scenario: one bridge, every speaker in a namespace of its own with `eth0` on it, one store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::capture::{Capture, one_of};
use super::router::Router;
use super::scenario::{NodeSpec, Scenario, mac, number, v4, v6};
use super::stream::Stream;
use crate::exec::Output;
use crate::guard::{self, Guard};
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Process;

/// felix's route protocol: what bgpd takes as served here.
const FELIX: u8 = 201;
/// How long our bgpd may take to be ready: it has nobody to wait for.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Forwarding, and addresses that are usable at once.
const SETTINGS: [&str; 8] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_dad=0",
];

/// Frames that a failure shows.
const SHOWN: usize = 40;

/// A running scenario. Dropping it removes everything.
pub struct Wire {
    pub nodes: BTreeMap<String, Node>,
    pub routers: BTreeMap<String, Router>,
    pub streams: Vec<Stream>,
    pub spawned: Vec<Process>,
    /// By node, in KiB: what its bgpd used when it was first asked.
    pub memory: BTreeMap<String, u64>,
    namespaces: BTreeMap<String, Netns>,
    args: BTreeMap<String, Vec<String>>,
    capture: Option<Capture>,
    dir: PathBuf,
    // Last: processes above are dropped before what they run in.
    guard: Guard,
}

impl Wire {
    /// Makes the namespaces, applies the resources, starts the capture, then peers and nodes.
    ///
    /// # Errors
    /// What could not be made; all of it is removed.
    pub fn build(scenario: &Scenario) -> Result<Self> {
        let guard = Guard::new()?;
        let (dir, cgroup) = (guard::dir(guard.id()), guard::cgroup(guard.id())?);
        let make = |name: &str| Netns::create(guard.id(), name, cgroup.join(name).join("system"));
        let bridge = make("wire")?;
        bridge.ip(&["link add br0 type bridge mcast_snooping 0", "link set br0 up"])?;
        let store = dir.join("store.db").display().to_string();
        let (mut nodes, mut namespaces) = (BTreeMap::new(), BTreeMap::new());
        for (name, spec) in &scenario.script.nodes {
            let netns = make(name)?;
            connect(&netns, &bridge)?;
            serve(&netns, spec)?;
            namespaces.insert(name.clone(), netns.clone());
            let mut node = Node::new(netns, &v4(number(name)?).to_string(), cgroup.join(name), &dir)?;
            node.set_store_env(vec![("DATASTORE_TYPE".into(), "sqlite".into()), ("SQLITE_PATH".into(), store.clone())]);
            nodes.insert(name.clone(), node);
        }
        let mut routers = BTreeMap::new();
        for (name, (kind, config)) in &scenario.routers {
            let netns = make(name)?;
            connect(&netns, &bridge)?;
            routers.insert(name.clone(), Router::new(netns.clone(), *kind, config, dir.join(name))?);
            namespaces.insert(name.clone(), netns);
        }
        for name in &scenario.script.hosts {
            let netns = make(name)?;
            connect(&netns, &bridge)?;
            namespaces.insert(name.clone(), netns);
        }
        let ports: Vec<String> = nodes.keys().cloned().collect();
        let capture = Capture::start(&bridge, &ports, &dir)?;
        let args = scenario.script.nodes.iter().map(|(name, spec)| (name.clone(), spec.args.clone())).collect();
        let mut wire = Self {
            nodes,
            routers,
            streams: Vec::new(),
            spawned: Vec::new(),
            memory: BTreeMap::new(),
            namespaces,
            args,
            capture: Some(capture),
            dir,
            guard,
        };
        wire.calicoctl(&["apply", "-f", &scenario.file("resources.yaml").display().to_string()])?;
        for router in wire.routers.values_mut() {
            router.start()?;
        }
        let now = scenario.script.nodes.iter().filter(|(_, spec)| !spec.later).map(|(name, _)| name.clone());
        for name in now.collect::<Vec<_>>() {
            wire.start(&name)?;
        }
        Ok(wire)
    }

    /// `calicoctl` on the first node; it has to succeed.
    ///
    /// # Errors
    /// With what it says.
    pub fn calicoctl(&self, args: &[&str]) -> Result<Output> {
        let node = self.nodes.values().next().context("the scenario has no node of ours")?;
        node.ctl("calicoctl", args).run()?.ok()
    }

    /// Starts a speaker, and waits until it answers.
    ///
    /// # Errors
    /// With its log.
    pub fn start(&mut self, name: &str) -> Result<()> {
        if let Some(router) = self.routers.get_mut(name) {
            return router.start();
        }
        let node = self.nodes.get_mut(name).with_context(|| format!("nobody is called {name}"))?;
        let args = self.args.get(name).cloned().unwrap_or_default();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.start_bgpd_with(&args)?;
        node.await_daemon("bgpd", READY_LIMIT)
    }

    /// Sends a signal to a speaker's processes; SIGTERM and SIGKILL are waited for.
    ///
    /// # Errors
    /// When it does not end.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        if let Some(router) = self.routers.get_mut(name) {
            return router.signal(signal);
        }
        let node = self.nodes.get_mut(name).with_context(|| format!("nobody is called {name}"))?;
        let mut bgpd = node.bgpd.take().with_context(|| format!("bgpd of {name} does not run"))?;
        match signal {
            Signal::SIGKILL => bgpd.kill9(),
            Signal::SIGTERM => bgpd.stop(signal).map(|_| ()),
            other => {
                let sent = bgpd.signal(other);
                node.bgpd = Some(bgpd);
                sent
            }
        }
    }

    /// The id of what it is made of.
    pub fn id(&self) -> &str {
        self.guard.id()
    }

    /// The namespace of a speaker.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn netns(&self, name: &str) -> Result<&Netns> {
        self.namespaces.get(name).with_context(|| format!("nobody is called {name}"))
    }

    /// Ends the capture and looks at it: nothing malformed from us, and everything that the scenario expects.
    ///
    /// # Errors
    /// The malformed frame, or what is not there.
    pub fn judge(mut self, scenario: &Scenario) -> Result<()> {
        // What is said at the end is judged as well.
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if self.nodes.get(&name).is_some_and(|n| n.bgpd.is_some()) {
                self.signal(&name, Signal::SIGTERM)?;
            }
        }
        let capture = self.capture.take().context("nothing was captured")?;
        let captured = capture.stop(&scenario.script.ports)?;
        let senders: Vec<String> = self.nodes.keys().map(|n| Ok(mac(number(n)?))).collect::<Result<_>>()?;
        captured.check_well_formed(&senders)?;
        for seen in &scenario.script.wire {
            let filter = match &seen.from {
                Some(name) => format!("{} && ({})", one_of(&[mac(number(name)?)]), seen.filter),
                None => seen.filter.clone(),
            };
            let frames = captured.frames(&filter)?;
            let (found, what) = match seen.connections {
                true => (captured.connections(&filter)?, "connections"),
                false => (frames.len(), "frames"),
            };
            if found < seen.at_least || seen.at_most.is_some_and(|most| found > most) {
                bail!(
                    "`{filter}` selects {found} {what}, expected from {} to {}:\n{}\nall OPENs, NOTIFICATIONs and refreshes:\n{}",
                    seen.at_least,
                    seen.at_most.map_or("any number".into(), |most| most.to_string()),
                    frames.join("\n"),
                    captured.conversation()?
                );
            }
        }
        Ok(())
    }

    /// The end of every log and of the conversation, for the message of a failure.
    pub fn evidence(&mut self, scenario: &Scenario) -> String {
        let mut text = String::new();
        if let Some(Ok(captured)) = self.capture.take().map(|c| c.stop(&scenario.script.ports)) {
            let frames = captured.frames("bgp && !tcp.analysis.retransmission").unwrap_or_default();
            text += &format!("--- BGP on the wire\n{}\n", frames[frames.len().saturating_sub(SHOWN)..].join("\n"));
        }
        for (name, node) in &self.nodes {
            let log = std::fs::read_to_string(self.dir.join(name).join("bgpd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- bgpd of {name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"));
            if let Ok(peers) = node.status("bgpd", "/v1/peers") {
                text += &format!("{peers}\n");
            }
        }
        for process in &self.spawned {
            text += &format!("--- {}\n{}\n", process.log_path().display(), process.log_tail());
        }
        for (name, router) in &self.routers {
            text += &format!("--- {name}\n{}\n", router.log_tail());
        }
        text
    }
}

/// `eth0` with the addresses of the name, on the bridge.
fn connect(netns: &Netns, bridge: &Netns) -> Result<()> {
    let number = number(&netns.name)?;
    netns.sysctl(&SETTINGS)?;
    netns.ip(&[
        format!("link add eth0 address {} type veth peer name {} netns {}", mac(number), netns.name, bridge.full_name),
        format!("addr add {}/24 dev eth0", v4(number)),
        format!("addr add {}/64 dev eth0 nodad", v6(number)),
        "link set eth0 up".into(),
    ])?;
    bridge.ip(&[format!("link set {} master br0", netns.name), format!("link set {} up", netns.name)])
}

/// Routes as felix writes them for service addresses.
fn serve(netns: &Netns, spec: &NodeSpec) -> Result<()> {
    let lines = spec.serves.iter().map(|prefix| format!("route add blackhole {prefix} proto {FELIX} metric 1024"));
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { Ok(()) } else { netns.ip(&lines) }
}
