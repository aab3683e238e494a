//! datastore migrate import. What is there already and the same is passed over, so that an import which was interrupted is run again; what is
//! there and differs stops it before it writes anything.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, anyhow, bail};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::{go_json, kdd, schema};
use datastore::{DynStore, Error, Op, Txn};
use serde_json::Value;

use super::{Record, Records, SEPARATOR, is_kubernetes, is_of_kubernetes, lock};
use crate::cli::datastore::ImportArgs;
use crate::{cluster, yaml};

/// Most changes of one transaction; etcd's limit is 128 (`--max-txn-ops`).
const CHUNK: usize = 100;
/// Bytes of one transaction; etcd's limit for a request is 1.5 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// How often a Node of Kubernetes is written before others have written it too often.
const ATTEMPTS: u32 = 10;
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
    let mut file = read(&args.filename)?;
    let nodes = if is_kubernetes(store.as_ref()) { file.fit_for_kubernetes() } else { Vec::new() };
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
    if !nodes.is_empty() {
        println!("Successfully updated {} of {} node(s)", update_nodes(&store, &nodes).await?, nodes.len());
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
    /// Takes out what Kubernetes has by itself, which is told; the nodes, which exist there or do not.
    fn fit_for_kubernetes(&mut self) -> Vec<Object> {
        let mut left = BTreeMap::new();
        for objects in [&mut self.resources, &mut self.others] {
            objects.retain(|object| match object.key.kind().filter(|k| is_of_kubernetes(*k)) {
                Some(kind) => {
                    *left.entry(kind).or_insert(0) += 1;
                    false
                }
                None => true,
            });
        }
        for (kind, count) in left {
            eprintln!("warning: {count} {kind} left out: Kubernetes has its own");
        }
        self.resources.extract_if(.., |o| o.key.kind() == Some(Kind::Node)).collect()
    }

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

/// Gives Kubernetes' Nodes what the file says of them; how many there are.
async fn update_nodes(store: &DynStore, nodes: &[Object]) -> Result<usize> {
    let mut updated = 0;
    'nodes: for node in nodes {
        let name = node.key.name().unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let Some(present) = store.get(&node.key).await? else {
                eprintln!("warning: node {name} is skipped: it does not exist in Kubernetes");
                continue 'nodes;
            };
            match store.update(node.key.clone(), go_json::to_vec(&node.value)?, present.mod_revision).await {
                Ok(_) => {
                    updated += 1;
                    continue 'nodes;
                }
                // Its kubelet writes it, too.
                Err(Error::Conflict(_) | Error::NotFound(_)) => {}
                Err(error) => return Err(error).with_context(|| format!("node {name} cannot be updated")),
            }
        }
        bail!("node {name} cannot be updated: others write it all the time; run the import again to continue");
    }
    Ok(updated)
}

/// What the store has of the file; fails where it has something else in its place, or records of IPAM that the file lacks: two allocations
/// of one address could meet.
async fn refuse_differences(store: &DynStore, sections: &[&Vec<Object>]) -> Result<BTreeMap<Key, ()>> {
    let wanted: BTreeMap<&Key, &Value> = sections.iter().flat_map(|s| s.iter()).map(|o| (&o.key, &o.value)).collect();
    let mut present = BTreeMap::new();
    let mut problems = Vec::new();
    let ranges = [KeyRange::Blocks, KeyRange::HostAffinities, KeyRange::VirtualAffinities, KeyRange::Handles];
    // What Kubernetes has by itself is not compared.
    let is_its_own = |k: Kind| is_kubernetes(store.as_ref()) && (is_of_kubernetes(k) || k == Kind::Node);
    let is_none = |k: Kind| matches!(k, Kind::ClusterInformation | Kind::IpamConfiguration);
    let kinds = Kind::ALL.iter().filter(|k| !is_none(**k) && !is_its_own(**k));
    let mut found = Vec::new();
    for range in ranges.into_iter().chain(kinds.map(|k| KeyRange::Kind(*k))) {
        found.extend(store.list(&range).await?.items);
    }
    found.extend(store.get(&Key::IpamConfig).await?);
    for kv in found {
        let stored: Option<Value> = serde_json::from_slice(&kv.value).ok();
        match wanted.get(&kv.key) {
            Some(value)
                if stored.as_ref().is_some_and(|s| is_same(&kv.key, s, value, is_kubernetes(store.as_ref()))) =>
            {
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

/// Whether what is stored is what the file says. The Kubernetes API leaves out what is null and fills in what its schemas tell, and a
/// record passes through its object.
fn is_same(key: &Key, stored: &Value, wanted: &Value, in_kubernetes: bool) -> bool {
    let form = |value: &Value| {
        let mut value = identity_apart(value);
        if !in_kubernetes {
            return value;
        }
        match key.kind() {
            Some(kind) => {
                schema::fill_as_the_server(kind, &mut value);
                kdd::without_nulls(&mut value);
                value
            }
            None => {
                let record = kdd::to_object(key, value.clone()).and_then(|object| kdd::from_object(&object).ok());
                record.map_or(value, |r| r.value)
            }
        }
    };
    form(stored) == form(wanted)
}

/// A document without what a store gives it.
fn identity_apart(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "creationTimestamp", "resourceVersion", "generation"] {
            metadata.shift_remove(field);
        }
    }
    value
}

/// Creates objects, many in one transaction where the store has them.
async fn write(store: &DynStore, what: &str, objects: &[&Object]) -> Result<()> {
    let chunk = if store.has_transactions() { CHUNK } else { 1 };
    let mut ops = Vec::new();
    let (mut bytes, mut done) = (0, 0);
    for (place, object) in objects.iter().enumerate() {
        let value = go_json::to_vec(&with_identity(object))?;
        if !ops.is_empty() && (ops.len() == chunk || bytes + value.len() > CHUNK_BYTES) {
            commit(store, what, std::mem::take(&mut ops), done, objects.len()).await?;
            if place / PROGRESS > done / PROGRESS {
                eprintln!("{place} of {} {what} imported", objects.len());
            }
            (bytes, done) = (0, place);
        }
        bytes += value.len();
        ops.push(Op::Create(object.key.clone(), value));
    }
    if ops.is_empty() { Ok(()) } else { commit(store, what, ops, done, objects.len()).await }
}

async fn commit(store: &DynStore, what: &str, ops: Vec<Op>, done: usize, all: usize) -> Result<()> {
    let outcome = store.txn(Txn { ops }).await;
    outcome.map(drop).with_context(|| format!("{done} of {all} {what} imported; run the import again to continue"))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datastore::Listing;
    use datastore::memory::MemoryStore;
    use serde_json::json;

    use super::*;

    const NODES: &str = "/calico/resources/v3/projectcalico.org/nodes/";

    fn key(path: &str) -> Key {
        Key::parse(path).unwrap()
    }

    fn resource(path: &str, spec: Value) -> Object {
        let name = key(path).name().unwrap_or_default().to_string();
        Object { key: key(path), value: json!({"metadata": {"name": name}, "spec": spec}) }
    }

    /// An import that was interrupted finds what it wrote in the form that an API server keeps.
    #[test]
    fn what_kubernetes_has_made_of_the_file_is_the_same() {
        let pool = key("/calico/resources/v3/projectcalico.org/ippools/p");
        let block = key("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30");
        let attribute = |secondary: Value| json!({"handle_id": "h", "secondary": secondary});
        let rows = [
            (
                &pool,
                json!({"spec": {"cidr": "10.0.0.0/16", "disabled": null}}),
                json!({"metadata": {"generation": 1},
                    "spec": {"cidr": "10.0.0.0/16", "assignmentMode": "Automatic", "nodeSelector": "all()"}}),
            ),
            (
                &block,
                json!({"cidr": "10.0.0.0/30", "affinity": null, "hostAffinity": "n", "allocations": [0, null, null, null],
                    "unallocated": [1, 2, 3], "attributes": [attribute(Value::Null)]}),
                json!({"cidr": "10.0.0.0/30", "affinity": "host:n", "allocations": [0, null, null, null],
                    "unallocated": [1, 2, 3], "attributes": [{"handle_id": "h"}]}),
            ),
        ];
        for (key, mut wanted, stored) in rows {
            if stored.get("metadata").is_some() {
                wanted["metadata"] = json!({});
            }
            assert!(is_same(key, &stored, &wanted, true), "{key}");
            assert!(!is_same(key, &stored, &wanted, false), "{key}: another store keeps what it is given");
            let mut other = wanted.clone();
            other[if key.kind().is_some() { "spec" } else { "attributes" }] = json!({"cidr": "10.1.0.0/16"});
            assert!(!is_same(key, &stored, &other, true), "{key}: {other}");
        }
    }

    /// A store that, as Kubernetes, has no transactions and Nodes of its own.
    #[tokio::test]
    async fn kubernetes_keeps_what_it_has_by_itself() {
        let store: DynStore = Arc::new(MemoryStore::without_transactions());
        store.put(key(&format!("{NODES}here")), br#"{"metadata":{"name":"here"},"spec":{}}"#.into()).await.unwrap();
        let mut file = File {
            resources: vec![
                resource(&format!("{NODES}here"), json!({"bgp": {"asNumber": 64512}})),
                resource(&format!("{NODES}away"), json!({})),
                resource("/calico/resources/v3/projectcalico.org/ippools/p", json!({"cidr": "10.0.0.0/16"})),
            ],
            cluster: json!({}),
            ipam: Vec::new(),
            others: vec![
                resource("/tortie/resources/secrets/default/s", json!({})),
                resource("/tortie/resources/services/default/s", json!({})),
                resource("/calico/resources/v3/projectcalico.org/workloadendpoints/default/w", json!({})),
                resource("/tortie/resources/loadbalancerippools/l", json!({})),
            ],
            unknown: BTreeMap::new(),
        };
        let nodes = file.fit_for_kubernetes();
        let left: Vec<&str> = file.resources.iter().chain(&file.others).filter_map(|o| o.key.name()).collect();
        assert_eq!(left, ["p", "l"]);
        assert!(refuse_differences(&store, &[&file.resources, &file.others]).await.unwrap().is_empty());
        assert_eq!(update_nodes(&store, &nodes).await.unwrap(), 1);
        let Listing { items, .. } = store.list(&KeyRange::Kind(Kind::Node)).await.unwrap();
        assert_eq!(items.len(), 1, "the other is not made");
        let written: Value = serde_json::from_slice(&items[0].value).unwrap();
        assert_eq!(written["spec"]["bgp"]["asNumber"], 64512);
    }
}
