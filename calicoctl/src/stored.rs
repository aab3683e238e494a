//! Documents in and out of the store: the user's form against the stored form (`datastore::typed` does the same for types).

use std::fmt;

use anyhow::Result;
use api::ipam::{IpamConfig, IpamConfigurationSpec};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::{extension, go_json, kdd, schema};
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

/// What is under a key and is none of its kind.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub key: Key,
    pub revision: Revision,
    pub reason: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} holds what cannot be read: {}", self.key, self.reason)
    }
}

impl std::error::Error for Unreadable {}

/// The user's form of a stored object, with its resourceVersion.
pub fn decode(kind: Kind, kv: KeyValue) -> Result<Stored, Unreadable> {
    let mut value = match form(kind, &kv.value) {
        Ok(value) => value,
        Err(reason) => return Err(Unreadable { key: kv.key, revision: kv.mod_revision, reason }),
    };
    extension::from_stored(kind, &mut value);
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.insert("resourceVersion".into(), kv.mod_revision.to_string().into());
    }
    Ok(Stored { key: kv.key, value, revision: kv.mod_revision })
}

fn form(kind: Kind, bytes: &[u8]) -> Result<Value, String> {
    let text = |e: serde_json::Error| e.to_string();
    if kind == Kind::IpamConfiguration {
        let mut stored: Map<String, Value> = serde_json::from_slice(bytes).map_err(text)?;
        // Calico leaves out what is false; the user's form says it.
        for field in ["strict_affinity", "auto_allocate_blocks"] {
            stored.entry(field).or_insert(false.into());
        }
        let stored = Value::Object(stored);
        let _: IpamConfig = serde::Deserialize::deserialize(&stored).map_err(text)?;
        let spec = kdd::config_spec(stored);
        return Ok(json!({
            "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": "default"}, "spec": spec,
        }));
    }
    let fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(text)?;
    Ok(Value::Object(fields))
}

/// The stored form of a document: no resourceVersion, the fields that Calico lacks as annotations.
pub fn encode(kind: Kind, value: &Value) -> Result<Vec<u8>> {
    if kind == Kind::IpamConfiguration {
        let known: IpamConfigurationSpec = serde::Deserialize::deserialize(&value["spec"])?;
        let mut spec = value["spec"].clone();
        if let (Some(spec), Value::Object(known)) = (spec.as_object_mut(), serde_json::to_value(known)?) {
            // With its defaults, and without what Calico leaves out.
            spec.retain(|name, _| known.contains_key(name) || !is_known(kind, name));
            spec.extend(known);
        }
        return Ok(go_json::to_vec(&kdd::config_record(spec))?);
    }
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.shift_remove("resourceVersion");
    }
    extension::to_stored(kind, &mut value);
    Ok(go_json::to_vec(&value)?)
}

/// Whether the schema of a kind has a field of its spec.
fn is_known(kind: Kind, field: &str) -> bool {
    schema::of(kind).field("spec").and_then(|f| f.kind.object()?.field(field)).is_some()
}

/// One object.
pub async fn get(store: &dyn Store, kind: Kind, namespace: Option<&str>, name: &str) -> Result<Option<Stored>> {
    Ok(get_any(store, kind, namespace, name).await?.transpose()?)
}

/// One object, or why what is stored is none.
pub async fn get_any(
    store: &dyn Store,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Result<Stored, Unreadable>>> {
    let key = key_of(kind, namespace, name);
    if key == Key::IpamConfig && name != "default" {
        return Ok(None);
    }
    Ok(store.get(&key).await?.map(|kv| decode(kind, kv)))
}

/// Every object of a kind, in one namespace or in all, sorted by namespace and name, or why what is stored is none; and the store's revision.
pub async fn list_any(
    store: &dyn Store,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<(Vec<Result<Stored, Unreadable>>, Revision)> {
    if kind == Kind::IpamConfiguration {
        let found = get_any(store, kind, None, "default").await?;
        let revision = found.as_ref().and_then(|s| s.as_ref().ok()).map_or(0, |s| s.revision);
        return Ok((found.into_iter().collect(), revision));
    }
    let range = match namespace.filter(|_| kind.is_namespaced()) {
        Some(namespace) => KeyRange::Namespace(kind, namespace.into()),
        None => KeyRange::Kind(kind),
    };
    let listing = store.list(&range).await?;
    Ok((listing.items.into_iter().map(|kv| decode(kind, kv)).collect(), listing.revision))
}
