//! Documents in and out of the store: the user's form against the stored form (`datastore::typed` does the same for types).

use anyhow::{Context as _, Result};
use api::ipam::{IpamConfig, IpamConfigurationSpec};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::{extension, go_json, schema};
use datastore::{KeyValue, Revision, Store};
use serde_json::{Map, Value, json};

/// An object as the store has it, in the user's form.
#[derive(Clone, Debug)]
pub struct Stored {
    pub key: Key,
    pub value: Value,
    pub revision: Revision,
}

/// The key of a document. A fleet has one IPAMConfiguration.
pub fn key_of(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    if kind == Kind::IpamConfiguration { Key::IpamConfig } else { Key::resource(kind, namespace, name) }
}

/// The user's form of a stored object, with its resourceVersion.
pub fn decode(kind: Kind, kv: KeyValue) -> Result<Stored> {
    let unreadable = || format!("{} holds what cannot be read", kv.key);
    let mut value: Value = if kind == Kind::IpamConfiguration {
        let stored: Map<String, Value> = serde_json::from_slice(&kv.value).with_context(unreadable)?;
        let config: IpamConfig =
            serde::Deserialize::deserialize(&Value::Object(stored.clone())).with_context(unreadable)?;
        let spec = IpamConfigurationSpec {
            strict_affinity: config.strict_affinity,
            auto_allocate_blocks: config.auto_allocate_blocks,
            max_blocks_per_host: config.max_blocks_per_host,
            kube_virt_vm_address_persistence: config.kube_virt_vm_address_persistence,
            ip_cooldown_seconds: config.ip_cooldown_seconds,
        };
        let mut spec = serde_json::to_value(spec).with_context(unreadable)?;
        carry(stored.into_iter().filter(|(name, _)| !IpamConfig::FIELDS.contains(&name.as_str())), &mut spec);
        json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": "default"}, "spec": spec})
    } else {
        serde_json::from_slice(&kv.value).with_context(unreadable)?
    };
    extension::from_stored(kind, &mut value);
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.insert("resourceVersion".into(), kv.mod_revision.to_string().into());
    }
    Ok(Stored { key: kv.key, value, revision: kv.mod_revision })
}

/// The stored form of a document: no resourceVersion, the fields that Calico lacks as annotations.
pub fn encode(kind: Kind, value: &Value) -> Result<Vec<u8>> {
    if kind == Kind::IpamConfiguration {
        let spec: IpamConfigurationSpec = serde::Deserialize::deserialize(&value["spec"])?;
        let config = IpamConfig {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: spec.auto_allocate_blocks,
            max_blocks_per_host: spec.max_blocks_per_host,
            kube_virt_vm_address_persistence: spec.kube_virt_vm_address_persistence,
            ip_cooldown_seconds: spec.ip_cooldown_seconds,
        };
        let mut config = serde_json::to_value(&config)?;
        let fields = value["spec"].as_object().into_iter().flatten();
        let is_known = |name: &str| schema::of(kind).field("spec").and_then(|f| f.kind.object()?.field(name)).is_some();
        carry(
            fields.filter(|(name, _)| !is_known(name)).map(|(name, value)| (name.clone(), value.clone())),
            &mut config,
        );
        return Ok(go_json::to_vec(&config)?);
    }
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.shift_remove("resourceVersion");
    }
    extension::to_stored(kind, &mut value);
    Ok(go_json::to_vec(&value)?)
}

/// Fields of a configuration that we do not know, from one form to the other.
fn carry(fields: impl Iterator<Item = (String, Value)>, to: &mut Value) {
    if let Some(to) = to.as_object_mut() {
        to.extend(fields);
    }
}

/// One object.
pub async fn get(store: &dyn Store, kind: Kind, namespace: Option<&str>, name: &str) -> Result<Option<Stored>> {
    let key = key_of(kind, namespace, name);
    if key == Key::IpamConfig && name != "default" {
        return Ok(None);
    }
    store.get(&key).await?.map(|kv| decode(kind, kv)).transpose()
}

/// Every object of a kind, in one namespace or in all, sorted by namespace and name; and the store's revision.
pub async fn list(store: &dyn Store, kind: Kind, namespace: Option<&str>) -> Result<(Vec<Stored>, Revision)> {
    if kind == Kind::IpamConfiguration {
        let found = get(store, kind, None, "default").await?;
        let revision = found.as_ref().map_or(0, |s| s.revision);
        return Ok((found.into_iter().collect(), revision));
    }
    let range = match namespace.filter(|_| kind.is_namespaced()) {
        Some(namespace) => KeyRange::Namespace(kind, namespace.into()),
        None => KeyRange::Kind(kind),
    };
    let listing = store.list(&range).await?;
    let items = listing.items.into_iter().map(|kv| decode(kind, kv)).collect::<Result<_>>()?;
    Ok((items, listing.revision))
}
