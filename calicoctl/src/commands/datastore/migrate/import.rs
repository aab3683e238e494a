//! datastore migrate import. What is there already and the same is passed over, so that an import which was interrupted is run again; what is
//! there and differs stops it before it writes anything.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, anyhow, bail};
use api::go_json;
use api::key::{Key, KeyRange};
use api::kind::Kind;
use datastore::{DynStore, Error, Op, Txn};
use serde_json::Value;

use super::{Record, Records, SEPARATOR, lock};
use crate::cli::datastore::ImportArgs;
use crate::{cluster, yaml};

/// Most changes of one transaction; etcd's limit is 128 (`--max-txn-ops`).
const CHUNK: usize = 100;
/// Bytes of one transaction; etcd's limit for a request is 1.5 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// Differences that are told before the rest is only counted.
const MAX_SHOWN: usize = 20;
/// Every so many objects are told on standard error.
const PROGRESS: usize = 1000;

/// One object of the file.
struct Object {
    key: Key,
    value: Value,
}

/// What a file holds.
struct File {
    resources: Vec<Object>,
    cluster: Value,
    ipam: Vec<Object>,
    others: Vec<Object>,
    /// How many objects of kinds that this program does not know, by kind.
    unknown: BTreeMap<String, usize>,
}

/// Reads a file and writes what the store lacks.
pub async fn import(store: DynStore, args: &ImportArgs) -> Result<()> {
    let file = read(&args.filename)?;
    for (kind, count) in &file.unknown {
        eprintln!("warning: {count} {kind} left out: this version has no such kind");
    }
    let sections =
        [("resource(s)", &file.resources), ("IPAM resource(s)", &file.ipam), ("other object(s)", &file.others)];
    let present = refuse_differences(&store, &sections.map(|(_, objects)| objects)).await?;
    if !cluster::read(store.as_ref()).await?.is_locked {
        lock(store.as_ref(), true).await.context("error while attempting to lock the datastore for import")?;
    }
    let spec = file.cluster["spec"].clone();
    cluster::change(store.as_ref(), |own| {
        for field in ["clusterGUID", "calicoVersion", "clusterType"] {
            if spec[field].is_string() {
                own[field] = spec[field].clone();
            }
        }
    })
    .await
    .context("failed to update cluster information")?;
    for (what, objects) in sections {
        let missing: Vec<&Object> = objects.iter().filter(|o| !present.contains_key(&o.key)).collect();
        let there = objects.len() - missing.len();
        write(&store, what, &missing).await?;
        if what == "other object(s)" && objects.is_empty() {
            continue;
        }
        let already = if there > 0 { format!(", {there} were there already") } else { String::new() };
        println!("Successfully applied {} {what}{already}", missing.len());
    }
    println!(
        "Datastore information successfully imported. Please refer to the datastore migration documentation for next steps."
    );
    println!("The datastore is locked until `calicoctl datastore migrate unlock`.");
    Ok(())
}

fn read(name: &str) -> Result<File> {
    let mut text = String::new();
    if name == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
    }
    let parts: Vec<&str> = text.split(SEPARATOR).collect();
    let &[resources, cluster, ipam] = parts.as_slice() else {
        bail!(
            "imported file: {name} is improperly formatted: it has {} parts in place of 3. Try recreating with 'calicoctl datastore \
             migrate export'",
            parts.len()
        );
    };
    let json = |text: &str, what: &str| -> Result<Value> {
        serde_json::from_str(text).with_context(|| format!("{name}: the {what} cannot be read"))
    };
    let records: Records = serde_json::from_value(json(ipam, "IPAM resources")?)
        .with_context(|| format!("{name}: failed to read IPAM resources"))?;
    let mut file = File {
        resources: Vec::new(),
        cluster: json(cluster, "exported cluster info")?,
        ipam: Vec::new(),
        others: Vec::new(),
        unknown: BTreeMap::new(),
    };
    for chunk in yaml::split(resources) {
        let document = yaml::load(chunk)
            .map_err(|e| anyhow!("{name}: {}", e.errors.first().map_or("it is no YAML", |e| e.message.as_str())))?;
        let items = match document.get("items") {
            Some(Value::Array(items)) => items.clone(),
            Some(_) => Vec::new(),
            None => vec![document],
        };
        for item in items {
            file.add(item).with_context(|| name.to_string())?;
        }
    }
    let Records { block_affinities, blocks, handles, config, tortie } = records;
    for record in block_affinities.into_iter().chain(blocks).chain(handles).chain(config) {
        file.ipam.push(object(record).with_context(|| name.to_string())?);
    }
    for record in tortie {
        match object(record) {
            Ok(object) => file.others.push(object),
            Err(_) => *file.unknown.entry("object(s)".into()).or_default() += 1,
        }
    }
    Ok(file)
}

impl File {
    fn add(&mut self, mut item: Value) -> Result<()> {
        let kind = item["kind"].as_str().unwrap_or_default().to_string();
        let Some(known) = Kind::from_document(&kind) else {
            *self.unknown.entry(kind).or_default() += 1;
            return Ok(());
        };
        let name = item["metadata"]["name"].as_str().filter(|n| !n.is_empty());
        let name = name.with_context(|| format!("a {kind} has no metadata.name"))?.to_string();
        let namespace = item["metadata"]["namespace"].as_str().map(str::to_string);
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.shift_remove("resourceVersion");
            // Go writes the time that is none.
            if metadata.get("creationTimestamp").is_some_and(Value::is_null) {
                metadata.shift_remove("creationTimestamp");
            }
        }
        self.resources.push(Object { key: Key::resource(known, namespace.as_deref(), &name), value: item });
        Ok(())
    }
}

fn object(record: Record) -> Result<Object> {
    let key = Key::parse(&record.key).with_context(|| format!("\"{}\" is no key of ours", record.key))?;
    Ok(Object { key, value: record.value })
}

/// What the store has of the file; fails where it has something else in its place, or records of IPAM that the file lacks: two allocations
/// of one address could meet.
async fn refuse_differences(store: &DynStore, sections: &[&Vec<Object>]) -> Result<BTreeMap<Key, ()>> {
    let wanted: BTreeMap<&Key, &Value> = sections.iter().flat_map(|s| s.iter()).map(|o| (&o.key, &o.value)).collect();
    let mut present = BTreeMap::new();
    let mut problems = Vec::new();
    let ranges = [KeyRange::Blocks, KeyRange::HostAffinities, KeyRange::VirtualAffinities, KeyRange::Handles];
    let kinds = Kind::ALL.iter().filter(|k| !matches!(k, Kind::ClusterInformation | Kind::IpamConfiguration));
    let mut found = Vec::new();
    for range in ranges.into_iter().chain(kinds.map(|k| KeyRange::Kind(*k))) {
        found.extend(store.list(&range).await?.items);
    }
    found.extend(store.get(&Key::IpamConfig).await?);
    for kv in found {
        let stored: Option<Value> = serde_json::from_slice(&kv.value).ok();
        match wanted.get(&kv.key) {
            Some(value) if stored.as_ref().is_some_and(|s| identity_apart(s) == identity_apart(value)) => {
                present.insert(kv.key, ());
            }
            Some(_) => problems.push(format!("{} differs from the file's", kv.key)),
            None if !matches!(kv.key, Key::Resource { .. }) || kv.key.kind() == Some(Kind::IpPool) => {
                problems.push(format!("{} is not in the file", kv.key));
            }
            None => {}
        }
    }
    if problems.is_empty() {
        return Ok(present);
    }
    let more = problems.len().saturating_sub(MAX_SHOWN);
    problems.truncate(MAX_SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    bail!(
        "datastore already has Calico resources, nothing was imported. Import into an empty datastore, or one that an import of the same \
         file has begun to fill:\n{}",
        problems.join("\n")
    )
}

/// A document without what a store gives it.
fn identity_apart(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            metadata.shift_remove(field);
        }
    }
    value
}

/// Creates objects, many in one transaction where the store has them.
async fn write(store: &DynStore, what: &str, objects: &[&Object]) -> Result<()> {
    let chunk = if store.has_transactions() { CHUNK } else { 1 };
    let mut ops = Vec::new();
    let mut bytes = 0;
    for (place, object) in objects.iter().enumerate() {
        let value = go_json::to_vec(&with_identity(object))?;
        bytes += value.len();
        ops.push(Op::Create(object.key.clone(), value));
        if ops.len() >= chunk || bytes >= CHUNK_BYTES || place + 1 == objects.len() {
            bytes = 0;
            match store.txn(Txn { ops: std::mem::take(&mut ops) }).await {
                Ok(_) => {}
                // In Kubernetes a node is made by its kubelet.
                Err(Error::NotFound(_)) if object.key.kind() == Some(Kind::Node) && chunk == 1 => {
                    eprintln!(
                        "warning: node {} is skipped: it does not exist in Kubernetes",
                        object.key.name().unwrap_or_default()
                    );
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("{place} of {} {what} imported; run the import again to continue", objects.len())
                    });
                }
            }
        }
        if (place + 1) % PROGRESS == 0 {
            eprintln!("{} of {} {what} imported", place + 1, objects.len());
        }
    }
    Ok(())
}

/// A resource gets a uid and a time where the file has none, as `create` gives them.
fn with_identity(object: &Object) -> Value {
    let mut value = object.value.clone();
    if let (Key::Resource { .. }, Some(metadata)) =
        (&object.key, value.get_mut("metadata").and_then(Value::as_object_mut))
    {
        metadata.entry("uid").or_insert_with(|| uuid::Uuid::new_v4().to_string().into());
        let now = || jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        metadata.entry("creationTimestamp").or_insert_with(now);
    }
    value
}
