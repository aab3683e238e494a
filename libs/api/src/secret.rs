//! Secret (Kubernetes `v1`): what a BGPPeer's `password.secretKeyRef` names.
//!
//! A fleet without Kubernetes applies Secrets as documents; the store keeps them where it keeps Services and Pods, under
//! `/tortie/`. Values are in base64 as in Kubernetes; a document may give plain text under `stringData`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::null_as_default;
use crate::kind::Kind;
use crate::meta::{Body, Resource};

/// The namespace of the Secrets that BGP passwords come from, where NAMESPACE does not say another (Calico's default).
pub const DEFAULT_NAMESPACE: &str = "kube-system";

pub type Secret = Resource<SecretBody>;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretBody {
    /// Values in base64.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Plain text; [`merge_string_data`] moves it to `data` before an object is stored.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Body for SecretBody {
    const KIND: Kind = Kind::Secret;
}

impl SecretBody {
    /// The value of a key; `None` where there is none, or where it is not base64.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        match self.string_data.get(key) {
            Some(text) => Some(text.clone().into_bytes()),
            None => STANDARD.decode(self.data.get(key)?.trim()).ok(),
        }
    }
}

/// The keys, never the values.
impl fmt::Debug for SecretBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().chain(self.string_data.keys()).collect();
        f.debug_struct("SecretBody").field("keys", &keys).finish_non_exhaustive()
    }
}

/// Whether a text is base64 as Kubernetes takes it.
pub fn is_base64(text: &str) -> bool {
    STANDARD.decode(text.trim()).is_ok()
}

/// Moves `stringData` to `data`, as the API server does; `stringData` wins.
pub fn merge_string_data(document: &mut Value) {
    let Some(object) = document.as_object_mut() else { return };
    let Some(Value::Object(plain)) = object.shift_remove("stringData") else { return };
    let data = object.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if let Some(data) = data.as_object_mut() {
        let text = |value: Value| value.as_str().map(|s| STANDARD.encode(s));
        data.extend(plain.into_iter().filter_map(|(key, value)| Some((key, text(value)?.into()))));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_base64_and_never_shown() {
        let mut document = json!({
            "kind": "Secret", "apiVersion": "v1", "metadata": {"name": "bgp", "namespace": "kube-system"}, "type": "Opaque",
            "data": {"a": "aHVudGVyMg==", "broken": "%"}, "stringData": {"b": "s3cret", "a": "wins"},
        });
        merge_string_data(&mut document);
        assert_eq!(document["data"], json!({"a": "d2lucw==", "broken": "%", "b": "czNjcmV0"}));
        assert_eq!(document.get("stringData"), None);
        let secret: Secret = serde_json::from_value(document).unwrap();
        let value = |key| secret.body.value(key).map(|v| String::from_utf8(v).unwrap());
        assert_eq!(value("a").as_deref(), Some("wins"));
        assert_eq!(value("b").as_deref(), Some("s3cret"));
        assert_eq!((value("broken"), value("none")), (None, None));
        let shown = format!("{secret:?}");
        assert!(shown.contains("\"b\"") && !shown.contains("czNjcmV0") && !shown.contains("s3cret"), "{shown}");
    }
}
