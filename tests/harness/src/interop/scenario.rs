//! A scenario's files as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::router::Kind;
use super::{Path, directory};

/// The address of `node1`, `leaf12`: the number at the end of a name.
///
/// # Errors
/// When the name ends without a number from 1 to 254.
pub fn number(name: &str) -> Result<u8> {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().ok().filter(|n| (1..255).contains(n)).with_context(|| format!("{name} ends without a number"))
}

/// `10.0.0.N`.
pub fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

/// `fd00::N`, the number read as it is written.
pub fn v6(number: u8) -> Ipv6Addr {
    let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, digits)
}

/// The Ethernet address of a speaker: tshark tells our frames by it.
pub fn mac(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// `scenario.yaml`, and the peers' configurations beside it.
pub struct Scenario {
    pub dir: PathBuf,
    pub script: Script,
    /// By name: `leaf2` with `leaf2.frr.conf`.
    pub routers: BTreeMap<String, (Kind, PathBuf)>,
}

/// What `scenario.yaml` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Script {
    /// Our nodes.
    pub nodes: BTreeMap<String, NodeSpec>,
    /// Namespaces on the wire without a speaker: a step runs something there.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Seconds that a step may take.
    #[serde(default = "default_limit")]
    pub limit: f64,
    /// TCP ports other than 179 on which BGP is spoken.
    #[serde(default)]
    pub ports: Vec<u16>,
    pub steps: Vec<Step>,
    /// What the capture has to show at the end.
    #[serde(default)]
    pub wire: Vec<Seen>,
}

fn default_limit() -> f64 {
    15.0
}

/// One of our nodes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Prefixes that felix serves here: what bgpd announces, if the resources let it.
    #[serde(default)]
    pub serves: Vec<String>,
    /// Arguments of bgpd.
    #[serde(default)]
    pub args: Vec<String>,
    /// Not started before a step says so.
    #[serde(default)]
    pub later: bool,
}

/// What is done, one after another, and what has to come true then.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    pub name: String,
    #[serde(default, rename = "do")]
    pub actions: Vec<Action>,
    #[serde(default)]
    pub expect: Expect,
    /// How often all of it is done.
    #[serde(default = "one")]
    pub times: usize,
    /// Once true, it has to stay true for so many seconds.
    #[serde(default)]
    pub stays: f64,
}

/// One thing that somebody does.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// `calicoctl apply -f FILE`
    Apply(String),
    /// `calicoctl delete -f FILE`
    Delete(String),
    /// Starts our bgpd or the peer.
    Start(String),
    /// Ends it as its service manager does: SIGTERM.
    Stop(String),
    /// `kill -9`.
    Kill(String),
    /// Gives a peer another configuration and has it read it.
    Reload {
        router: String,
        file: String,
    },
    /// Gives a peer what `bgpctl switch-config` writes for it. Its port to our nodes is `eth0`.
    Written {
        router: String,
        /// Of `switch-config`, beside the vendor.
        args: String,
    },
    /// A command of the peer's own command line, or one of our programs on a node of ours.
    Tell {
        router: String,
        command: String,
    },
    /// A shell command in a speaker's namespace. On a node of ours `bgpctl` finds its bgpd; `$OUT` is a directory for files.
    Run {
        on: String,
        command: String,
    },
    /// A command that runs until the end.
    Spawn {
        on: String,
        command: String,
    },
    /// Remembers how much memory our bgpd uses, or, the second time, checks that it uses so many KiB more at most.
    Memory {
        node: String,
        more: u64,
    },
    /// Seconds.
    Wait(f64),
    /// Starts a stream of datagrams from one speaker to an address that the other serves.
    Stream {
        from: String,
        to: String,
        address: String,
    },
    /// Ends the streams: nothing may be lost.
    EndStreams,
    /// SIGSTOP and SIGCONT: a peer that is there and says nothing.
    Freeze(String),
    Thaw(String),
    /// Both of a pair of speakers hear nothing of the other from now on.
    Part([String; 2]),
    /// Waits until both of a parted pair connect, and lets them find two connections.
    Collide([String; 2]),
}

/// What has to come true. What is not named is not looked at; what is named is compared whole.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// By speaker: the peer's address, and whether the session is up.
    #[serde(default)]
    pub sessions: BTreeMap<String, BTreeMap<String, bool>>,
    /// By speaker: every prefix learned by BGP and accepted, with all its paths.
    #[serde(default)]
    pub routes: BTreeMap<String, BTreeMap<String, Paths>>,
    /// By speaker: prefixes in its kernel with their gateways. Others are not looked at.
    #[serde(default)]
    pub kernel: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    pub shows: Vec<Shows>,
    /// By node of ours: how many sessions are up.
    #[serde(default)]
    pub up: BTreeMap<String, usize>,
    /// What the programs of `spawn` have printed: texts that are in one line.
    #[serde(default)]
    pub said: Vec<Vec<String>>,
}

/// One path or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    Several(Vec<PathOrHop>),
    One(PathOrHop),
}

impl Paths {
    /// As a list.
    pub fn list(&self) -> Vec<Path> {
        match self {
            Paths::Several(paths) => paths.iter().map(PathOrHop::path).collect(),
            Paths::One(path) => vec![path.path()],
        }
    }
}

/// A path; a text alone is its next hop.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PathOrHop {
    Hop(String),
    Path(Path),
}

impl PathOrHop {
    fn path(&self) -> Path {
        match self {
            PathOrHop::Hop(hop) => Path { next_hop: Some(hop.clone()), ..Path::default() },
            PathOrHop::Path(path) => path.clone(),
        }
    }
}

/// What a command has to print.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shows {
    pub on: String,
    /// Of `bgpctl` on our nodes, of its own command line on a peer.
    pub command: String,
    #[serde(default)]
    pub contains: Vec<String>,
    #[serde(default)]
    pub lacks: Vec<String>,
}

/// Frames of a display filter of tshark's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seen {
    pub filter: String,
    /// Who sent them.
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default = "one")]
    pub at_least: usize,
    #[serde(default)]
    pub at_most: Option<usize>,
    /// TCP connections with such frames are counted, not frames.
    #[serde(default)]
    pub connections: bool,
}

fn one() -> usize {
    1
}

impl Scenario {
    /// Reads the directory.
    ///
    /// # Errors
    /// When a file is missing or says what nobody understands.
    pub fn read(dir: &FilePath) -> Result<Self> {
        let text = crate::cluster::read(&dir.join("scenario.yaml"))?;
        let script: Script = serde_yaml::from_str(&text).context("scenario.yaml")?;
        let mut routers = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
            // `leaf2.later.frr.conf` is for a step.
            let parts: Vec<&str> = file.split('.').collect();
            if let [name, kind, _] = parts[..]
                && let Some(kind) = Kind::of(kind)
            {
                number(name)?;
                routers.insert(name.to_string(), (kind, path));
            }
        }
        for file in ["README.md", "resources.yaml"] {
            if !dir.join(file).exists() {
                bail!("there is no {file}");
            }
        }
        Ok(Self { dir: dir.into(), script, routers })
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The names of a family's scenarios: its directories.
pub fn names(family: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory(family)).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.path().is_dir());
    dirs.filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_addresses() {
        assert_eq!(number("leaf12").unwrap(), 12);
        assert_eq!((v4(12).to_string(), v6(12).to_string()), ("10.0.0.12".into(), "fd00::12".into()));
        assert!(number("leaf").is_err() && number("leaf0").is_err());
    }

    #[test]
    fn a_path_is_one_or_several_and_a_text_is_its_next_hop() {
        let yaml = "a: 10.0.0.1\nb: {asPath: \"1 2\"}\nc: [10.0.0.1, {nextHop: fd00::2, med: 5}]\n";
        let paths: BTreeMap<String, Paths> = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(paths["a"].list()[0].next_hop.as_deref(), Some("10.0.0.1"));
        assert_eq!(paths["b"].list()[0].as_path.as_deref(), Some("1 2"));
        assert_eq!(paths["c"].list().len(), 2);
        assert_eq!(paths["c"].list()[1].med, Some(5));
    }

    #[test]
    fn every_scenario_can_be_read() {
        for family in ["frr", "bird", "gobgp", "openbgpd", "exabgp", "scripted"] {
            for name in names(family) {
                Scenario::read(&directory(family).join(&name)).unwrap_or_else(|e| panic!("{family}/{name}: {e:#}"));
            }
        }
    }
}
