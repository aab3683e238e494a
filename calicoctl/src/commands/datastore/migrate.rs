//! datastore migrate (Calico `calicoctl/commands/datastore/migrate`): everything out of one store and into another, in Calico's file.
//!
//! The file has three parts, with lines `===` between: lists of resources as YAML; the ClusterInformation as JSON; the records of IPAM as JSON.
//! Resources are in their stored form, so that what Calico's kinds lack stands in annotations. What Calico's import does not take (workload
//! endpoints, Kubernetes' objects, kinds of `tortie.io`) is in the third part under a name that Calico passes over.

mod export;
mod import;
mod left_out;

use std::time::Duration;

use anyhow::{Context as _, Result};
use api::kind::{CALICO_V3, Kind, TORTIE_V1};
use ipam::lock::SETTLED_AFTER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::datastore::MigrateCommand;
use crate::cluster;
use crate::commands::open_store;

/// The line between the parts of a file.
const SEPARATOR: &str = "===\n";

/// How often is told how long it takes.
const PROGRESS: Duration = Duration::from_secs(10);

/// The resources of a file's first part, in Calico's order (`export.go` `allV3Resources`); kinds that this program does not know are left
/// out.
const CALICO_ORDER: &[&str] = &[
    "ippools",
    "bgppeers",
    "tiers",
    "globalnetworkpolicies",
    "stagedglobalnetworkpolicies",
    "globalnetworksets",
    "hostendpoints",
    "kubecontrollersconfigurations",
    "networkpolicies",
    "stagednetworkpolicies",
    "stagedkubernetesnetworkpolicies",
    "networksets",
    "nodes",
    "bgpconfigurations",
    "felixconfigurations",
    "ipreservations",
    "bgpfilters",
];

/// The third part of a file (Calico `migrateipam.go` `migrateIPAM`).
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    block_affinities: Vec<Record>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<Record>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    handles: Vec<Record>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Record>,
    /// What Calico's import does not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tortie: Vec<Record>,
}

/// One record. Go's field names: Calico gives them no others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    key: String,
    value: Value,
    #[serde(default, rename = "TTL")]
    ttl: i64,
}

/// Runs one command of `datastore migrate`.
pub async fn run(command: MigrateCommand) -> Result<()> {
    let store = open_store().await?;
    match command {
        MigrateCommand::Export(args) => export::export(store, &args).await,
        MigrateCommand::Import(args) => import::import(store, &args).await,
        MigrateCommand::Lock => {
            lock(store.as_ref(), true).await?;
            if !store.has_transactions() {
                settle().await;
            }
            println!("Datastore locked.");
            Ok(())
        }
        MigrateCommand::Unlock => {
            lock(store.as_ref(), false).await?;
            println!("Datastore unlocked.");
            Ok(())
        }
    }
}

async fn lock(store: &dyn datastore::Store, locks: bool) -> Result<()> {
    let verb = if locks { "locking" } else { "unlocking" };
    cluster::change(store, |spec| spec["datastoreReady"] = (!locks).into())
        .await
        .with_context(|| format!("error updating ClusterInformation for {verb}"))
}

/// Waits until what was begun before the lock is written or given up, where nothing else keeps it from coming later.
async fn settle() {
    eprintln!(
        "An allocation that was begun before the lock may still be written: this datastore takes one write at a time."
    );
    let end = Instant::now() + SETTLED_AFTER;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        eprintln!("Waiting for such ones: {} s", left.as_secs_f64().ceil());
        tokio::time::sleep(left.min(PROGRESS)).await;
    }
}

/// Whether the store is Kubernetes, which has Nodes, endpoints and its own kinds by itself.
fn is_kubernetes(store: &dyn datastore::Store) -> bool {
    !store.has_transactions()
}

/// Kinds of Kubernetes' API, and those that are made from them there.
fn is_of_kubernetes(kind: Kind) -> bool {
    !matches!(kind.api_version(), CALICO_V3 | TORTIE_V1) || kind == Kind::WorkloadEndpoint
}

/// The kinds of a file's first part.
fn calicos_kinds() -> impl Iterator<Item = Kind> {
    CALICO_ORDER.iter().filter_map(|plural| Kind::ALL.iter().copied().find(|k| k.plural() == *plural))
}
