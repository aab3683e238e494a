//! Interop scenarios: our bgpd and calicoctl on one wire with somebody else's speaker, described by files.
//!
//! A scenario is a directory below `tests/interop/<family>`: see `tests/interop/README.md` for what is in it.
//!
//! - [`scenario`]: the files as data
//! - [`wire`]: namespaces on one bridge, our nodes, the store
//! - [`router`]: the other speakers, and what they say of sessions and routes
//! - [`steps`]: what is done, and what has to come true
//! - [`stream`], [`flap`]: datagrams that are counted; a peer that comes and goes
//! - [`crowd`]: many peers at once
//! - [`collision`]: two connections at once, for certain
//! - [`capture`]: what went over the wire, judged by tshark
//!
//! Addresses follow from names: `node1` is 10.0.0.1 and fd00::1, `leaf12` is 10.0.0.12 and fd00::12.

pub mod capture;
pub mod collision;
pub mod crowd;
pub mod flap;
pub mod router;
pub mod scenario;
pub mod steps;
pub mod stream;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cluster::repository;
use crate::evidence::say;
use scenario::Scenario;
use wire::Wire;

/// A path to a prefix, as a speaker shows it. What it does not show is absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Path {
    pub next_hop: Option<String>,
    /// Numbers with a blank between.
    pub as_path: Option<String>,
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    /// Standard and large ones, sorted as text.
    pub communities: Option<Vec<String>>,
    pub originator: Option<String>,
    pub cluster_list: Option<Vec<String>>,
}

impl Path {
    /// Whether all that `wanted` says is so.
    pub fn meets(&self, wanted: &Path) -> bool {
        fn says<T: PartialEq>(own: &Option<T>, wanted: &Option<T>) -> bool {
            wanted.is_none() || own == wanted
        }
        says(&self.next_hop, &wanted.next_hop)
            && says(&self.as_path, &wanted.as_path)
            && says(&self.local_pref, &wanted.local_pref)
            && says(&self.med, &wanted.med)
            && says(&self.communities, &wanted.communities)
            && says(&self.originator, &wanted.originator)
            && says(&self.cluster_list, &wanted.cluster_list)
    }
}

/// Every path of every prefix that a speaker has learned by BGP and accepted.
pub type Table = BTreeMap<String, Vec<Path>>;

/// Sessions by the peer's address, and whether they are established.
pub type Sessions = BTreeMap<String, bool>;

/// Where the scenarios of a family are.
pub fn directory(family: &str) -> PathBuf {
    repository().join("tests/interop").join(family)
}

/// Plays `tests/interop/<family>/<name>` from start to end.
///
/// # Errors
/// What was not as expected, with the end of every log.
pub fn play(family: &str, name: &str) -> Result<()> {
    let started = Instant::now();
    let dir = directory(family).join(name);
    let scenario = Scenario::read(&dir).with_context(|| format!("scenario {}", dir.display()))?;
    let mut wire = Wire::build(&scenario)?;
    let played = steps::play(&mut wire, &scenario);
    let evidence = if played.is_err() { wire.evidence(&scenario) } else { String::new() };
    played.and_then(|()| wire.judge(&scenario)).with_context(|| format!("{family}/{name}\n{evidence}"))?;
    say(&format!("{family}/{name}: {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// One `#[test]` for each scenario of a family, and one that compares the list with the directories.
#[macro_export]
macro_rules! scenarios {
    ($family:literal needs $reason:literal: $($name:ident),* $(,)?) => {
        $(
            #[test]
            #[ignore = $reason]
            fn $name() {
                $crate::interop::play($family, stringify!($name)).unwrap_or_else(|error| panic!("{error:#}"));
            }
        )*

        #[test]
        fn every_directory_has_a_test() {
            let listed = std::collections::BTreeSet::from([$(stringify!($name).to_string()),*]);
            assert_eq!($crate::interop::scenario::names($family), listed);
        }
    };
}
