//! Resources as objects of the API, and back.
//!
//! A Calico v3 resource is a `crd.projectcalico.org/v1` object of the same name, labels, annotations and spec; what metadata it
//! has besides is JSON in the annotation `projectcalico.org/metadata` (Calico
//! `libcalico-go/lib/backend/k8s/resources/resources.go`). The uid that users see is made of the object's uid, so that no two
//! objects of a cluster have the same.

use api::kind::Kind;
use serde_json::{Map, Value, json};

use super::collection::Collection;

const METADATA: &str = "projectcalico.org/metadata";
/// What the API server keeps about an object and nobody else writes.
const SERVERS_OWN: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];
/// What other programs need on the object itself: losing it would change who deletes it.
const KEPT: [&str; 2] = ["ownerReferences", "finalizers"];

/// The object that stores a Calico resource.
pub fn calico_object(collection: &Collection, mut document: Value) -> Value {
    let mut metadata = take_metadata(&mut document);
    let mut object_metadata = Map::new();
    for field in ["name", "namespace", "labels"].iter().chain(&KEPT) {
        if let Some(value) = metadata.shift_remove(*field) {
            object_metadata.insert((*field).into(), value);
        }
    }
    let mut annotations = take_object(&mut metadata, "annotations");
    for field in ["uid", "resourceVersion", "generation", "managedFields", "selfLink"] {
        metadata.shift_remove(field);
    }
    annotations.insert(METADATA.into(), Value::Object(metadata).to_string().into());
    object_metadata.insert("annotations".into(), annotations.into());
    with_metadata(collection.api_version, collection.kind, object_metadata, document)
}

/// The Calico resource that an object stores.
pub fn calico_document(kind: Kind, mut object: Value) -> Value {
    let mut own = take_metadata(&mut object);
    let mut annotations = take_object(&mut own, "annotations");
    // One that nobody can read was not written by Calico or us: the object's own metadata will do.
    let mut stored = annotations
        .shift_remove(METADATA)
        .and_then(|text| serde_json::from_str::<Map<String, Value>>(text.as_str()?).ok())
        .unwrap_or_default();
    let mut metadata = Map::new();
    for field in ["name", "namespace"] {
        metadata.extend(own.shift_remove(field).map(|value| (field.to_string(), value)));
    }
    if let Some(uid) = own.get("uid").and_then(Value::as_str) {
        metadata.insert("uid".into(), converted_uid(uid).into());
    }
    let created = stored.shift_remove("creationTimestamp").filter(|t| !t.is_null());
    let created = created.or_else(|| own.shift_remove("creationTimestamp"));
    metadata.extend(created.map(|value| ("creationTimestamp".to_string(), value)));
    if let Some(labels) = own.shift_remove("labels") {
        metadata.insert("labels".into(), labels);
    }
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), annotations.into());
    }
    for field in KEPT {
        metadata.extend(own.shift_remove(field).map(|value| (field.to_string(), value)));
    }
    for (field, value) in stored {
        if !SERVERS_OWN.contains(&field.as_str()) {
            metadata.entry(field).or_insert(value);
        }
    }
    with_metadata(kind.api_version(), kind.as_str(), metadata, object)
}

/// The object for a document of a kind that the API has as it is.
pub fn plain_object(collection: &Collection, mut document: Value) -> Value {
    let mut metadata = take_metadata(&mut document);
    for field in SERVERS_OWN {
        metadata.shift_remove(field);
    }
    with_metadata(collection.api_version, collection.kind, metadata, document)
}

/// The document of such an object.
pub fn plain_document(collection: &Collection, mut object: Value) -> Value {
    let mut metadata = take_metadata(&mut object);
    for field in ["resourceVersion", "generation", "managedFields", "selfLink"] {
        metadata.shift_remove(field);
    }
    with_metadata(collection.api_version, collection.kind, metadata, object)
}

/// An object with its type and metadata first, and then the rest of `body`.
fn with_metadata(api_version: &str, kind: &str, metadata: Map<String, Value>, body: Value) -> Value {
    let mut object = Map::new();
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), api_version.into());
    object.insert("metadata".into(), metadata.into());
    if let Value::Object(body) = body {
        object.extend(body.into_iter().filter(|(name, _)| name != "kind" && name != "apiVersion"));
    }
    Value::Object(object)
}

fn take_metadata(object: &mut Value) -> Map<String, Value> {
    object.as_object_mut().map(|object| take_object(object, "metadata")).unwrap_or_default()
}

fn take_object(parent: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match parent.shift_remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Calico's uid for an object's, and back: every byte's bits in reverse, but for the two that say which UUID it is (Calico
/// `libcalico-go/lib/backend/k8s/conversion/conversion.go`, `ConvertUID`). What is no UUID stays.
fn converted_uid(uid: &str) -> String {
    let Ok(parsed) = uuid::Uuid::parse_str(uid) else { return uid.into() };
    let mut bytes = parsed.into_bytes();
    for (at, byte) in bytes.iter_mut().enumerate() {
        if at != 6 && at != 8 {
            *byte = byte.reverse_bits();
        }
    }
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// An election as a Lease: the record in an annotation, and what `kubectl get lease` shows of it.
pub fn lease(name: &str, namespace: &str, record: &Value, now: &str) -> Value {
    let milliseconds = record["leaseDurationMilliseconds"].as_u64().unwrap_or_default();
    let mut spec = json!({
        "leaseDurationSeconds": milliseconds.div_ceil(1000).max(1),
        "leaseTransitions": record["transitions"].as_u64().unwrap_or_default().min(i32::MAX as u64),
        "renewTime": now,
    });
    if let Some(holder) = record["holderIdentity"].as_str().filter(|h| !h.is_empty()) {
        spec["holderIdentity"] = holder.into();
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "namespace": namespace, "annotations": { ELECTION: record.to_string() } },
        "spec": spec,
    })
}

/// The record of an election and its name; `None` for a Lease of others.
pub fn election(object: &Value) -> Option<(String, String)> {
    let name = object.pointer("/metadata/name")?.as_str()?.strip_prefix("tortie-")?;
    let record = object.pointer("/metadata/annotations")?.get(ELECTION)?.as_str()?;
    Some((name.into(), record.into()))
}

const ELECTION: &str = "tortie.io/election";

#[cfg(test)]
mod tests;
