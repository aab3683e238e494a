//! datastore migrate export.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use api::key::{AffinityOwner, Key, KeyRange};
use api::kind::Kind;
use datastore::{DynStore, KeyValue};
use serde_json::{Value, json};

use super::{Record, Records, SEPARATOR, calicos_kinds, is_kubernetes, is_of_kubernetes, left_out};
use crate::cli::datastore::ExportArgs;
use crate::cluster;
use crate::output::print;
use crate::yaml;

/// Handles of tunnels: each ends in the name of its node (Calico `migrateipam.go` `ipamHandlePrefixes`, which lacks those of IPv6).
const TUNNEL_HANDLES: &[&str] = &[
    "ipip-tunnel-addr-",
    "vxlan-tunnel-addr-",
    "vxlan-v6-tunnel-addr-",
    "wireguard-tunnel-addr-",
    "wireguard-v6-tunnel-addr-",
];
/// Configurations of one node are named so.
const NODE_PREFIX: &str = "node.";

/// Writes everything to standard output.
pub async fn export(store: DynStore, args: &ExportArgs) -> Result<()> {
    if !cluster::read(store.as_ref()).await?.is_locked {
        bail!(
            "datastore is not locked. Run the `calicoctl datastore migrate lock` command in order to begin migration"
        );
    }
    let nodes = node_names(&store, args.kubernetes_node_names).await?;
    let mut out = String::new();
    for kind in calicos_kinds() {
        let listing = store.list(&KeyRange::Kind(kind)).await?;
        eprintln!("{}s: {} exported", kind, listing.items.len());
        let items = listing.items.iter().map(|kv| document(kv, kind, &nodes)).collect::<Result<Vec<Value>>>()?;
        let list = json!({"apiVersion": kind.api_version(), "kind": format!("{kind}List"), "items": items,
            "metadata": {"resourceVersion": listing.revision.to_string()}});
        out += &yaml::emit(list)?;
        out += "---\n";
    }
    out += SEPARATOR;
    let info = store.get(&ipam::lock::key()).await?;
    let info = info.map(|kv| value(&kv)).transpose()?.unwrap_or_else(|| json!({}));
    out += &(serde_json::to_string_pretty(&info)? + "\n");
    out += SEPARATOR;
    let records = records(&store, &nodes, args.kubernetes_node_names).await?;
    out += &(serde_json::to_string_pretty(&records)? + "\n");
    left_out::tell(&store, args.kubernetes_node_names).await;
    print(&out);
    Ok(())
}

/// The name of each node that has another in Kubernetes, and that name; empty where names are kept.
async fn node_names(store: &DynStore, rename: bool) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    let mut missing = Vec::new();
    for kv in store.list(&KeyRange::Kind(Kind::Node)).await?.items {
        let name = kv.key.name().unwrap_or_default().to_string();
        let node = value(&kv)?;
        let refs = node.pointer("/spec/orchRefs").and_then(Value::as_array).into_iter().flatten();
        let of_kubernetes =
            refs.filter(|r| r["orchestrator"] == "k8s").filter_map(|r| r["nodeName"].as_str()).next_back();
        match of_kubernetes {
            Some(other) if other != name => {
                names.insert(name, other.to_string());
            }
            Some(_) => {}
            None => missing.push(name),
        }
    }
    if !rename {
        for (name, other) in &names {
            eprintln!(
                "warning: node {name} is {other} in Kubernetes; for an import into Kubernetes export with --kubernetes-node-names"
            );
        }
        return Ok(BTreeMap::new());
    }
    if let Some(name) = missing.first() {
        bail!(
            "node {name} missing a 'k8s' orchestrator reference. Unable to export data with --kubernetes-node-names unless every node \
             has a 'k8s' orchestrator reference"
        );
    }
    Ok(names)
}

/// A resource in its stored form.
fn document(kv: &KeyValue, kind: Kind, nodes: &BTreeMap<String, String>) -> Result<Value> {
    let mut value = value(kv)?;
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.shift_remove("resourceVersion");
    }
    let name = kv.key.name().unwrap_or_default();
    let renamed = match kind {
        Kind::Node => nodes.get(name).cloned(),
        Kind::BgpConfiguration | Kind::FelixConfiguration => {
            let node = name.strip_prefix(NODE_PREFIX).and_then(|n| nodes.get(n));
            node.map(|n| format!("{NODE_PREFIX}{n}"))
        }
        _ => None,
    };
    if let Some(name) = renamed {
        value["metadata"]["name"] = name.into();
    }
    rename_reference(&mut value, kind, nodes);
    Ok(value)
}

/// Puts Kubernetes' name of a node in the place of the one that a resource refers to.
fn rename_reference(value: &mut Value, kind: Kind, nodes: &BTreeMap<String, String>) {
    if matches!(kind, Kind::BgpPeer | Kind::HostEndpoint | Kind::CalicoNodeStatus)
        && let Some(node) = value.pointer_mut("/spec/node")
        && let Some(other) = node.as_str().and_then(|n| nodes.get(n))
    {
        *node = other.as_str().into();
    }
}

async fn records(store: &DynStore, nodes: &BTreeMap<String, String>, to_kubernetes: bool) -> Result<Records> {
    let mut records = Records::default();
    for range in [KeyRange::HostAffinities, KeyRange::VirtualAffinities] {
        for kv in store.list(&range).await?.items {
            let key = match &kv.key {
                Key::BlockAffinity(AffinityOwner::Host(name), cidr) => {
                    Key::BlockAffinity(AffinityOwner::Host(renamed(nodes, name)), *cidr)
                }
                other => other.clone(),
            };
            // Calico's oldest forms say nothing, and mean confirmed.
            let value = match kv.value.as_slice() {
                b"" | b"\"\"" | b"{}" => json!({"state": "confirmed", "deleted": false}),
                _ => value(&kv)?,
            };
            records.block_affinities.push(Record { key: key.to_string(), value, ttl: 0 });
        }
    }
    for kv in store.list(&KeyRange::Blocks).await?.items {
        let mut value = value(&kv)?;
        rename_in_block(&mut value, nodes);
        records.blocks.push(Record { key: kv.key.to_string(), value, ttl: 0 });
    }
    for kv in store.list(&KeyRange::Handles).await?.items {
        let key = match &kv.key {
            Key::IpamHandle(id) => Key::IpamHandle(renamed_handle(nodes, id)),
            other => other.clone(),
        };
        records.handles.push(Record { key: key.to_string(), value: value(&kv)?, ttl: 0 });
    }
    if let Some(kv) = store.get(&Key::IpamConfig).await? {
        records.config = Some(Record { key: kv.key.to_string(), value: value(&kv)?, ttl: 0 });
    }
    eprintln!(
        "IPAM: {} affinities, {} blocks, {} handles exported",
        records.block_affinities.len(),
        records.blocks.len(),
        records.handles.len()
    );
    let in_first_part: Vec<Kind> = calicos_kinds().collect();
    for &kind in Kind::ALL.iter().filter(|k| !in_first_part.contains(k)) {
        if matches!(kind, Kind::ClusterInformation | Kind::IpamConfiguration) {
            continue;
        }
        // Kubernetes has its own, and makes endpoints from its pods; their names hold those of nodes.
        if is_of_kubernetes(kind) && is_kubernetes(store.as_ref()) || kind == Kind::WorkloadEndpoint && to_kubernetes {
            continue;
        }
        let items = store.list(&KeyRange::Kind(kind)).await?.items;
        if !items.is_empty() {
            eprintln!("{kind}s: {} exported", items.len());
            if kind == Kind::Secret {
                eprintln!("warning: the export holds the content of {} Secrets: keep it from others", items.len());
            }
        }
        for kv in items {
            let mut value = value(&kv)?;
            rename_reference(&mut value, kind, nodes);
            records.tortie.push(Record { key: kv.key.to_string(), value, ttl: 0 });
        }
    }
    Ok(records)
}

fn renamed(nodes: &BTreeMap<String, String>, name: &str) -> String {
    nodes.get(name).map_or(name, String::as_str).to_string()
}

fn renamed_handle(nodes: &BTreeMap<String, String>, id: &str) -> String {
    let found = TUNNEL_HANDLES.iter().find_map(|prefix| Some((prefix, nodes.get(id.strip_prefix(prefix)?)?)));
    found.map_or_else(|| id.to_string(), |(prefix, node)| format!("{prefix}{node}"))
}

/// Puts Kubernetes' names of nodes into a block: its owner, who has its addresses, the handles of tunnels.
fn rename_in_block(block: &mut Value, nodes: &BTreeMap<String, String>) {
    if let Some(node) = block["affinity"].as_str().and_then(|a| a.strip_prefix("host:")).and_then(|n| nodes.get(n)) {
        block["affinity"] = format!("host:{node}").into();
    }
    for attribute in block["attributes"].as_array_mut().into_iter().flatten() {
        for owner in ["secondary", "alternateOwnerAttrs"] {
            let pointer = format!("/{owner}/node");
            if let Some(name) = attribute.pointer_mut(&pointer)
                && let Some(other) = name.as_str().and_then(|n| nodes.get(n))
            {
                *name = other.as_str().into();
            }
        }
        if let Some(id) = attribute["handle_id"].as_str().map(|id| renamed_handle(nodes, id)) {
            attribute["handle_id"] = id.into();
        }
    }
}

fn value(kv: &KeyValue) -> Result<Value> {
    let unreadable = |e| {
        anyhow::anyhow!(
            "{} holds what cannot be read: {e}; nothing is exported: apply it anew, or delete it, and export again",
            kv.key
        )
    };
    let value: Value = serde_json::from_slice(&kv.value).map_err(unreadable)?;
    Ok(value)
}
