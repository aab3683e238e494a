//! A stored value as an object of the API, and back, for every form.

use api::kdd;
use api::key::Key;
use api::kind::Kind;
use serde_json::Value;

use super::collection::{Collection, Form, Place};
use super::{endpoint, node, resource, status};
use crate::store::{Error, KeyValue};

/// What an object of the API is to us.
#[derive(Debug)]
pub enum Seen {
    Present(KeyValue),
    /// The object is there, what we would read from it is not.
    Absent(Key),
    /// None of ours.
    Foreign,
}

/// What an object holds.
///
/// # Errors
/// [`Error::Corrupt`] names the object that cannot be read.
pub fn read(collection: &Collection, object: Value) -> Result<Seen, Error> {
    let revision = status::revision(&object)?;
    let own = object["metadata"].as_object();
    let text = |field: &str| own.and_then(|m| m.get(field)).and_then(Value::as_str).map(str::to_string);
    let (namespace, name) = (text("namespace"), text("name").unwrap_or_default());
    let key = |kind| Key::resource(kind, namespace.as_deref(), &name);
    let present = |key, value: Value| {
        Seen::Present(KeyValue { key, value: value.to_string().into_bytes(), mod_revision: revision })
    };
    Ok(match collection.form {
        Form::Calico(kind) => present(key(kind), resource::calico_document(kind, object)),
        Form::Plain(kind) => present(key(kind), resource::plain_document(collection, object)),
        Form::Node => present(key(Kind::Node), node::document(&object)),
        Form::Endpoint => {
            let key = |namespace: String, name: String| Key::Resource {
                kind: Kind::WorkloadEndpoint,
                namespace: Some(namespace),
                name,
            };
            match endpoint::of_pod(&object) {
                endpoint::Seen::Present(namespace, name, document) => present(key(namespace, name), document),
                endpoint::Seen::Absent(namespace, name) => Seen::Absent(key(namespace, name)),
                endpoint::Seen::None => Seen::Foreign,
            }
        }
        Form::Election => match resource::election(&object) {
            Some((name, record)) => {
                Seen::Present(KeyValue { key: Key::Election(name), value: record.into_bytes(), mod_revision: revision })
            }
            None => Seen::Foreign,
        },
        Form::Record => {
            let name = format!("{} {name}", collection.name());
            let record = kdd::from_object(&object).map_err(|e| Error::Corrupt { key: name, reason: e.to_string() })?;
            if record.is_deleted { Seen::Absent(record.key) } else { present(record.key, record.value) }
        }
    })
}

/// The object that a value is stored as, without a resourceVersion. Not for what lives in objects of others: Nodes, endpoints.
///
/// # Errors
/// [`Error::Invalid`] where the value is no JSON object.
pub fn write(key: &Key, place: &Place, value: &[u8]) -> Result<Value, Error> {
    let document = parse(key, value)?;
    let Place { collection, namespace, name } = place;
    let mut object = match collection.form {
        Form::Calico(_) => resource::calico_object(collection, document),
        Form::Plain(_) | Form::Node | Form::Endpoint => resource::plain_object(collection, document),
        Form::Election => {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            resource::lease(name, namespace.as_deref().unwrap_or_default(), &document, &now)
        }
        Form::Record => kdd::to_object(key, document).expect("records have keys of IPAM"),
    };
    // The key decides where it is; a document that names another place would be refused by the server.
    object["metadata"]["name"] = name.as_str().into();
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    Ok(object)
}

/// The JSON object that a value must be.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse(key: &Key, value: &[u8]) -> Result<Value, Error> {
    match serde_json::from_slice(value) {
        Ok(document @ Value::Object(_)) => Ok(document),
        Ok(_) => Err(Error::Invalid(format!("{key}: the Kubernetes API stores JSON objects only"))),
        Err(e) => Err(Error::Invalid(format!("{key}: the Kubernetes API stores JSON objects only: {e}"))),
    }
}
