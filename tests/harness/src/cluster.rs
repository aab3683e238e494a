//! The lab: two leaf switches, a client behind them, workers connected to both, a store, and the programs under test.
//!
//! ```text
//!                      client 10.100.0.10
//!              172.16.1.2 /          \ 172.16.2.2
//!                        /            \
//!      leaf1 192.168.1.1               leaf2 192.168.1.2      each: bridge vlan100, real FRR, BIRD or GoBGP
//!            |  |  |                         |  |  |
//!      eth0 of every worker            eth1 of every worker
//!      worker01 192.168.1.4   worker02 192.168.1.5   worker03 192.168.1.6     each: felix, bgpd, pods
//! ```
//!
//! A worker has its address on `lo` and reaches the leaves by host routes; its default route comes by BGP. With etcd as
//! the store, `mgmt0` of each worker leads to a namespace of its own where etcd runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::evidence::eventually;
use crate::exec::Output;
use crate::guard::{self, Guard};
use crate::netns::Netns;
use crate::node::Node;
use crate::process::{Process, Spec};
use crate::switch::{Switch, SwitchConfig, Tor};

/// The AS of the seed: nodes and leaves are one AS (iBGP).
pub const FLEET_ASN: u32 = 1_111_111;
/// The leaves' own AS numbers with eBGP.
pub const LEAF_ASNS: [u32; 2] = [65001, 65002];
pub const LEAF_ADDRESSES: [&str; 2] = ["192.168.1.1", "192.168.1.2"];
pub const WORKERS: [(&str, &str); 3] =
    [("worker01", "192.168.1.4"), ("worker02", "192.168.1.5"), ("worker03", "192.168.1.6")];
pub const CLIENT_ADDRESS: &str = "10.100.0.10";
const STORE_ADDRESS: &str = "192.168.255.1";
/// What every namespace that forwards is set to: loose about the way back, hashing ports, no redirects.
const ROUTER_SETTINGS: [&str; 7] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.fib_multipath_hash_policy=1",
    "net.ipv4.conf.all.ignore_routes_with_linkdown=1",
];

/// Which store the nodes share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Store {
    #[default]
    Sqlite,
    Etcd,
}

/// What kind of lab.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub tor: Tor,
    pub store: Store,
    /// The leaves have AS numbers of their own.
    pub ebgp: bool,
}

/// A running lab. Dropping it removes everything (see [`crate::guard`]).
pub struct Lab {
    pub options: Options,
    pub leaves: Vec<Switch>,
    pub nodes: Vec<Node>,
    pub client: Netns,
    /// The controller; one per cluster.
    pub controller: Option<Process>,
    etcd: Option<(Netns, Process)>,
    dir: PathBuf,
    cgroup: PathBuf,
    // Last: processes above are dropped before what they run in.
    guard: Guard,
}

impl Lab {
    /// Builds the namespaces, starts the store and the switches. No program of ours runs yet.
    ///
    /// # Errors
    /// The command that failed; what was made is removed.
    pub fn build(options: Options) -> Result<Self> {
        let guard = Guard::new()?;
        let (dir, cgroup) = (guard::dir(guard.id()), guard::cgroup(guard.id())?);
        let make = |name: &str| Netns::create(guard.id(), name, cgroup.join(name).join("system"));
        let client = make("client")?;
        client.sysctl(&ROUTER_SETTINGS)?;
        client.ip(&[format!("addr add {CLIENT_ADDRESS}/32 dev lo")])?;
        let leaf_spaces = vec![make("leaf1")?, make("leaf2")?];
        for (i, leaf) in leaf_spaces.iter().enumerate() {
            leaf.sysctl(&ROUTER_SETTINGS)?;
            connect_client(&client, leaf, i + 1)?;
        }
        client.ip(&["route add default src 10.100.0.10 nexthop via 172.16.1.1 nexthop via 172.16.2.1"])?;
        let mut nodes = Vec::new();
        for (i, (name, address)) in WORKERS.into_iter().enumerate() {
            let netns = make(name)?;
            netns.sysctl(&ROUTER_SETTINGS)?;
            connect_worker(&netns, address, &leaf_spaces, i + 1)?;
            nodes.push(Node::new(netns, address, cgroup.join(name), &dir)?);
        }
        let mut lab =
            Self { options, leaves: Vec::new(), nodes, client, controller: None, etcd: None, dir, cgroup, guard };
        lab.start_store()?;
        for (i, netns) in leaf_spaces.into_iter().enumerate() {
            let config = SwitchConfig {
                tor: options.tor,
                address: LEAF_ADDRESSES[i].into(),
                asn: if options.ebgp { LEAF_ASNS[i] } else { FLEET_ASN },
                worker_asn: FLEET_ASN,
                workers: WORKERS.iter().map(|(_, a)| a.to_string()).collect(),
            };
            let mut leaf = Switch::new(netns, config, lab.dir.join(format!("leaf{}", i + 1)))?;
            leaf.start()?;
            lab.leaves.push(leaf);
        }
        Ok(lab)
    }

    /// Its id, as `lab down` takes it.
    pub fn id(&self) -> &str {
        self.guard.id()
    }

    /// Its directory: configurations, logs, sockets, bpffs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the lab running after this process, and says how to use and how to remove it.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(self) -> Result<String> {
        self.guard.keep()?;
        let mut text = format!("The lab {} stays. Enter a namespace with:\n", self.id());
        let pods = self.nodes.iter().flat_map(|n| n.pods.values().map(|p| (&p.netns, format!("pod on {}", n.name))));
        let own = self.nodes.iter().map(|n| (&n.netns, format!("run directory {}", n.run_dir().display())));
        let leaves = self.leaves.iter().map(|l| (&l.netns, l.config.tor.title().to_string()));
        for (netns, what) in leaves.chain([(&self.client, "client".to_string())]).chain(own).chain(pods) {
            text += &format!("  nsenter --net={:<34} # {what}\n", netns.path());
        }
        let env: Vec<String> = self.nodes[0].store_env().iter().map(|(k, v)| format!("{k}={v}")).collect();
        text += &format!("calicoctl, from any directory of this machine, with: {}\n", env.join(" "));
        if self.options.store == Store::Etcd {
            text += &format!("  (inside nsenter --net={}, from where etcd is reached)\n", self.nodes[0].netns.path());
        }
        text += &format!(
            "Logs and sockets are in {}.\nTake it down with: {} down {}",
            self.dir.display(),
            std::env::current_exe()?.display(),
            self.id()
        );
        // Everything stays: nothing of this value may be dropped.
        std::mem::forget(self);
        Ok(text)
    }

    /// Starts felix and bgpd of every node and the controller.
    ///
    /// # Errors
    /// When a program cannot be started.
    pub fn start_programs(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_felix()?;
            node.start_bgpd()?;
        }
        self.controller = Some(self.nodes[0].spawn("tortie-controller", &[], &self.dir.join("controller.log"))?);
        Ok(())
    }

    /// Waits until felix and bgpd of every node say that they are in sync and have programmed what they know.
    ///
    /// # Errors
    /// With the last answer and the log of the one that does not.
    pub fn await_ready(&mut self, limit: Duration) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.await_ready(limit))
    }

    /// Runs calicoctl as an operator does, with the lab's store.
    ///
    /// # Errors
    /// When it cannot be started; what it says is in the output.
    pub fn calicoctl(&self, args: &[&str]) -> Result<Output> {
        self.calicoctl_with(args, "")
    }

    /// Runs calicoctl with `input` on standard input.
    ///
    /// # Errors
    /// As [`Lab::calicoctl`].
    pub fn calicoctl_with(&self, args: &[&str], input: &str) -> Result<Output> {
        self.nodes[0].ctl("calicoctl", args).shown_as(format!("calicoctl {}", args.join(" "))).input(input).run()
    }

    /// Applies YAML that has to be accepted.
    ///
    /// # Errors
    /// With what calicoctl says.
    pub fn apply(&self, yaml: &str) -> Result<Output> {
        self.calicoctl_with(&["apply", "-f", "-"], yaml)?.ok()
    }

    /// The node of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|n| n.name == name).with_context(|| format!("no node {name}"))
    }

    /// A leaf dies: its router with it, and every link to it.
    ///
    /// # Errors
    /// When a link cannot be set down.
    pub fn kill_leaf(&mut self, index: usize) -> Result<()> {
        let ports = WORKERS.iter().map(|(name, _)| *name).chain(["client"]);
        self.leaves[index].netns.ip(&ports.map(|p| format!("link set {p} down")).collect::<Vec<_>>())?;
        self.leaves[index].kill()
    }

    /// A dead leaf comes back: its router, and its links to the workers. Nothing behind it sends it packets before it has
    /// routes: for that see [`Lab::open_uplink`].
    ///
    /// # Errors
    /// When its router does not start.
    pub fn revive_leaf(&mut self, index: usize) -> Result<()> {
        let leaf = &mut self.leaves[index];
        leaf.netns.ip(&WORKERS.map(|(name, _)| format!("link set {name} up")))?;
        leaf.start()
    }

    /// Connects a leaf that came back to the client again.
    ///
    /// # Errors
    /// When the link cannot be set up.
    pub fn open_uplink(&mut self, index: usize) -> Result<()> {
        // The kernel removed the route with its link.
        let route = format!("route replace 10.100.0.0/24 via 172.16.{}.2", index + 1);
        self.leaves[index].netns.ip(&["link set client up".to_string(), route])
    }

    /// Stops etcd (`SIGKILL`) or lets it run again; nothing with SQLite.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_store(&mut self) -> Result<()> {
        match &mut self.etcd {
            Some((_, process)) => process.restart(),
            None => Ok(()),
        }
    }

    /// Everything that the programs under test logged, for the message of a failure.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            for (name, process) in [("felix", &node.felix), ("bgpd", &node.bgpd)] {
                if let Some(process) = process {
                    text += &format!(
                        "--- {name} of {} ({})\n{}\n",
                        node.name,
                        process.log_path().display(),
                        process.log_tail()
                    );
                }
            }
        }
        if let Some(controller) = &self.controller {
            text += &format!("--- controller\n{}\n", controller.log_tail());
        }
        text
    }

    fn start_store(&mut self) -> Result<()> {
        match self.options.store {
            Store::Sqlite => {
                let path = self.dir.join("store.db").display().to_string();
                self.set_store(&[("DATASTORE_TYPE", "sqlite"), ("SQLITE_PATH", &path)]);
            }
            Store::Etcd => {
                let netns = Netns::create(self.guard.id(), "store", self.cgroup.join("store"))?;
                netns.ip(&[
                    "link add br0 type bridge".to_string(),
                    format!("addr add {STORE_ADDRESS}/24 dev br0"),
                    "link set br0 up".into(),
                ])?;
                for (i, node) in self.nodes.iter().enumerate() {
                    let port = format!("worker{:02}", i + 1);
                    node.netns.ip(&[
                        format!("link add mgmt0 type veth peer name {port} netns {}", netns.full_name),
                        format!("addr add 192.168.255.{}/24 dev mgmt0", i + 4),
                        "link set mgmt0 up".into(),
                    ])?;
                    netns.ip(&[format!("link set {port} master br0"), format!("link set {port} up")])?;
                }
                let process = self.start_etcd(&netns)?;
                self.etcd = Some((netns, process));
                self.set_store(&[
                    ("DATASTORE_TYPE", "etcdv3"),
                    ("ETCD_ENDPOINTS", &format!("http://{STORE_ADDRESS}:2379")),
                ]);
            }
        }
        Ok(())
    }

    fn start_etcd(&self, netns: &Netns) -> Result<Process> {
        let (client, peer) = (format!("http://{STORE_ADDRESS}:2379"), "http://127.0.0.1:2380");
        let dir = self.dir.join("etcd").display().to_string();
        let cluster = format!("default={peer}");
        let argv = [
            "etcd",
            "--data-dir",
            &dir,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            &cluster,
        ];
        let spec = Spec {
            name: "etcd".into(),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: Vec::new(),
            log: self.dir.join("etcd.log"),
        };
        let mut process = Process::spawn(netns, spec)?;
        eventually(Duration::from_secs(30), "etcd is healthy", || {
            process.check_alive()?;
            let argv = ["etcdctl", "--endpoints", &client, "--command-timeout=1s", "endpoint", "health"];
            netns.exec(&argv).env([("ETCDCTL_API", "3")]).run()?.ok()
        })?;
        Ok(process)
    }

    fn set_store(&mut self, env: &[(&str, &str)]) {
        let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        self.nodes.iter_mut().for_each(|n| n.set_store_env(env.clone()));
    }
}

/// The repository: the examples that the lab applies are its files.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// A program of ours: beside this one, or in `TORTIE_BIN`.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("TORTIE_BIN") {
        let path = Path::new(&dir).join(name);
        return if path.exists() { Ok(path) } else { bail!("{} does not exist (TORTIE_BIN)", path.display()) };
    }
    program_beside(&std::env::current_exe()?, name)
}

/// `name` in the directory of `own`, or, when that is a test in `deps`, in the one above.
///
/// # Errors
/// When it has not been built.
pub fn program_beside(own: &Path, name: &str) -> Result<PathBuf> {
    let dir = own.parent().context("this program has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = dir.join(name);
    if !path.exists() {
        bail!("{} does not exist; build it first (cargo build, in the same profile)", path.display());
    }
    Ok(path)
}

/// The set of words, for comparisons.
pub fn set_of(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|w| w.to_string()).collect()
}

fn connect_client(client: &Netns, leaf: &Netns, number: usize) -> Result<()> {
    client.ip(&[
        format!("link add eth{number} type veth peer name client netns {}", leaf.full_name),
        format!("addr add 172.16.{number}.2/30 dev eth{number}"),
        format!("link set eth{number} up"),
    ])?;
    leaf.ip(&[
        format!("addr add 172.16.{number}.1/30 dev client"),
        "link set client up".into(),
        format!("route add 10.100.0.0/24 via 172.16.{number}.2"),
        "link add vlan100 type bridge".into(),
        format!("addr add {}/24 dev vlan100", LEAF_ADDRESSES[number - 1]),
        "link set vlan100 up".into(),
    ])
}

fn connect_worker(worker: &Netns, address: &str, leaves: &[Netns], number: usize) -> Result<()> {
    let port = format!("worker{number:02}");
    worker.ip(&[format!("addr add {address}/32 dev lo")])?;
    for (i, leaf) in leaves.iter().enumerate() {
        worker.ip(&[
            format!("link add eth{i} type veth peer name {port} netns {}", leaf.full_name),
            format!("link set eth{i} up"),
            format!("route add {}/32 dev eth{i} src {address}", LEAF_ADDRESSES[i]),
        ])?;
        leaf.ip(&[format!("link set {port} master vlan100"), format!("link set {port} up")])?;
    }
    Ok(())
}

/// A file's text, with its name in the error.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
