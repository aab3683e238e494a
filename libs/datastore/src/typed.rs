//! Resources in and out of a store, with metadata filled as Calico does (`libcalico-go/lib/clientv3/resources.go`).
//!
//! `uid` and `creationTimestamp` are set on create and kept by every later write; `resourceVersion` is the store's revision of
//! the key, filled on read and never stored. Fields that Calico's kinds lack are stored as annotations ([`api::extension`]). The
//! user's IPAMConfiguration is stored as an [`api::ipam::IpamConfig`] under [`Key::IpamConfig`], as Calico does.

use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::meta::{Body, Metadata, Resource};
use api::{extension, go_json, kdd, schema};
use serde_json::{Value, json};

use crate::store::{Error, KeyValue, Op, Revision, Store, Txn};

/// What holds of every document.
const JSON: &str = "documents have text keys and finite numbers";

/// The key under which a resource of this body is stored.
pub fn key_of<B: Body>(namespace: Option<&str>, name: &str) -> Key {
    if B::KIND == Kind::IpamConfiguration { Key::IpamConfig } else { Key::resource(B::KIND, namespace, name) }
}

/// The resource that a stored value holds.
///
/// # Errors
/// [`Error::Corrupt`] names the key and the field that cannot be read.
pub fn decode<B: Body>(kv: &KeyValue) -> Result<Resource<B>, Error> {
    let corrupt = |e: serde_json::Error| Error::Corrupt { key: kv.key.to_string(), reason: e.to_string() };
    let mut document: Value = serde_json::from_slice(&kv.value).map_err(corrupt)?;
    if kv.key == Key::IpamConfig {
        document = ipam_configuration(document);
    }
    extension::from_stored(B::KIND, &mut document);
    let mut resource: Resource<B> = serde_json::from_value(document).map_err(corrupt)?;
    resource.metadata.resource_version = Some(kv.mod_revision.to_string());
    Ok(resource)
}

/// The stored form of a resource: canonical kind and apiVersion, without its resourceVersion.
pub fn encode<B: Body>(resource: &Resource<B>) -> Vec<u8> {
    let mut document = serde_json::to_value(resource).expect("resources have string keys and finite numbers");
    if B::KIND == Kind::IpamConfiguration {
        return go_json::to_vec(&kdd::config_record(document["spec"].take())).expect(JSON);
    }
    document["kind"] = B::KIND.as_str().into();
    document["apiVersion"] = B::KIND.api_version().into();
    if let Some(metadata) = document["metadata"].as_object_mut() {
        metadata.shift_remove("resourceVersion");
    }
    extension::to_stored(B::KIND, &mut document);
    go_json::to_vec(&document).expect(JSON)
}

/// The resource of that name, or `None`.
pub async fn get<B: Body>(
    store: &dyn Store,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Resource<B>>, Error> {
    store.get(&key_of::<B>(namespace, name)).await?.map(|kv| decode(&kv)).transpose()
}

/// Every resource of a kind in all namespaces, and the revision to watch from. What cannot be read is left out, with a warning
/// that names it.
pub async fn list<B: Body>(store: &dyn Store) -> Result<(Vec<Resource<B>>, Revision), Error> {
    let mut listing = store.list(&KeyRange::Kind(B::KIND)).await?;
    if B::KIND == Kind::IpamConfiguration {
        listing.items = store.get(&Key::IpamConfig).await?.into_iter().collect();
    }
    let mut resources = Vec::with_capacity(listing.items.len());
    for kv in &listing.items {
        match decode(kv) {
            Ok(resource) => resources.push(resource),
            Err(error) => tracing::warn!(%error, "left out an object of the datastore"),
        }
    }
    Ok((resources, listing.revision))
}

/// Stores a new resource; returns it as stored.
///
/// # Errors
/// [`Error::AlreadyExists`].
pub async fn create<B: Body>(store: &dyn Store, resource: &Resource<B>) -> Result<Resource<B>, Error> {
    let mut stored = resource.clone();
    stored.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    stored.metadata.creation_timestamp = Some(now());
    let revision = store.create(key_for(&stored), encode(&stored)).await?;
    stored.metadata.resource_version = Some(revision.to_string());
    Ok(stored)
}

/// Replaces a resource that is still at its `metadata.resourceVersion`; returns it as stored.
///
/// # Errors
/// [`Error::Conflict`] where someone else has written it since, [`Error::NotFound`] where it is gone, [`Error::Invalid`] where
/// `resourceVersion` is missing or no number.
pub async fn update<B: Body>(store: &dyn Store, resource: &Resource<B>) -> Result<Resource<B>, Error> {
    let key = key_for(resource);
    let revision = resource.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).ok_or_else(|| {
        Error::Invalid(format!("cannot update {key}: metadata.resourceVersion must be the number that was read"))
    })?;
    let mut stored = resource.clone();
    if stored.metadata.uid.is_none() || stored.metadata.creation_timestamp.is_none() {
        let present = store.get(&key).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        keep_identity(&mut stored.metadata, &decode::<B>(&present)?.metadata);
    }
    let revision = store.update(key, encode(&stored), revision).await?;
    stored.metadata.resource_version = Some(revision.to_string());
    Ok(stored)
}

/// Creates the resource, or replaces the present one whatever its revision; returns it as stored. Writes nothing where the
/// store holds the same already.
pub async fn apply<B: Body>(store: &dyn Store, resource: &Resource<B>) -> Result<Resource<B>, Error> {
    let key = key_for(resource);
    loop {
        let outcome = match store.get(&key).await? {
            None => create(store, resource).await,
            Some(present) => replace(store, resource, &present).await,
        };
        match outcome {
            Err(Error::AlreadyExists(_) | Error::Conflict(_) | Error::NotFound(_)) => {}
            outcome => return outcome,
        }
    }
}

/// Deletes an object whatever its revision; whether it was there.
pub async fn delete(store: &dyn Store, key: &Key) -> Result<bool, Error> {
    match store.txn(Txn { ops: vec![Op::Delete(key.clone(), None)] }).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

async fn replace<B: Body>(store: &dyn Store, resource: &Resource<B>, present: &KeyValue) -> Result<Resource<B>, Error> {
    let mut stored = resource.clone();
    // A present object that cannot be read is repaired by replacing it; it has no identity to keep.
    let metadata = decode::<B>(present).map_or_else(|_| Metadata::default(), |r| r.metadata);
    stored.metadata.uid = metadata.uid.or_else(|| Some(uuid::Uuid::new_v4().to_string()));
    stored.metadata.creation_timestamp = metadata.creation_timestamp.or_else(|| Some(now()));
    let value = encode(&stored);
    let revision = if is_same(B::KIND, &value, &present.value) {
        present.mod_revision
    } else {
        store.update(present.key.clone(), value, present.mod_revision).await?
    };
    stored.metadata.resource_version = Some(revision.to_string());
    Ok(stored)
}

/// Whether two stored values say the same. An API server gives fields back in another order, and with its defaults.
fn is_same(kind: Kind, a: &[u8], b: &[u8]) -> bool {
    let read = |bytes| {
        let mut document: Value = serde_json::from_slice(bytes).ok()?;
        schema::fill_as_the_server(kind, &mut document);
        Some(document)
    };
    a == b || read(a).is_some_and(|a| read(b).is_some_and(|b| a == b))
}

fn key_for<B: Body>(resource: &Resource<B>) -> Key {
    key_of::<B>(resource.metadata.namespace.as_deref(), &resource.metadata.name)
}

fn keep_identity(metadata: &mut Metadata, present: &Metadata) {
    metadata.uid = metadata.uid.take().or_else(|| present.uid.clone());
    metadata.creation_timestamp = metadata.creation_timestamp.take().or_else(|| present.creation_timestamp.clone());
}

/// RFC 3339, seconds, UTC, as Kubernetes writes creationTimestamp.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The user's document for a stored IPAM configuration.
fn ipam_configuration(stored: Value) -> Value {
    let mut spec = kdd::config_spec(stored);
    // Calico leaves out what is false, and the user's form has another default.
    if let Some(spec) = spec.as_object_mut() {
        spec.entry("autoAllocateBlocks").or_insert(false.into());
    }
    json!({
        "kind": Kind::IpamConfiguration.as_str(),
        "apiVersion": Kind::IpamConfiguration.api_version(),
        "metadata": { "name": "default" },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests;
