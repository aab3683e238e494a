//! Settings that Calico's kinds lack: ordinary `spec` fields for users, annotations `tortie.io/<field>` in the store.
//!
//! Calico's own tools keep annotations and drop fields they do not know, so a mixed or migrated fleet loses nothing. Each
//! annotation holds its field's value as JSON.

use serde_json::{Map, Value};

use crate::bgp_configuration::BgpConfigurationSpec;
use crate::bgp_peer::BgpPeerSpec;
use crate::bgp_session::BgpSessionSettings;
use crate::kind::Kind;

/// The prefix of the annotations that carry `spec` fields.
pub const PREFIX: &str = "tortie.io/";

/// The `spec` fields of a kind that are stored as annotations.
pub fn fields(kind: Kind) -> impl Iterator<Item = &'static str> {
    let (session, own): (&[_], &[_]) = match kind {
        Kind::BgpPeer => (BgpSessionSettings::FIELDS, BgpPeerSpec::FIELDS),
        Kind::BgpConfiguration => (BgpSessionSettings::FIELDS, BgpConfigurationSpec::FIELDS),
        _ => (&[], &[]),
    };
    session.iter().chain(own).copied()
}

/// Turns a user's document into the stored form: moves the fields that Calico lacks from `spec` to annotations.
///
/// A document that has both the field and its annotation keeps the field.
pub fn to_stored(kind: Kind, document: &mut Value) {
    for field in fields(kind) {
        let Some(value) =
            document.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.shift_remove(field))
        else {
            continue;
        };
        if let Some(annotations) =
            child(document, "metadata").and_then(|m| child(m, "annotations")).and_then(Value::as_object_mut)
        {
            annotations.insert(format!("{PREFIX}{field}"), Value::String(value.to_string()));
        }
    }
}

/// Turns a stored document into the user's form: the reverse of [`to_stored`].
///
/// An annotation that is not JSON was written by hand (`tortie.io/holdTime: 9s`) and is taken as a string. A field that stands
/// in the stored `spec` already wins over its annotation.
pub fn from_stored(kind: Kind, document: &mut Value) {
    for field in fields(kind) {
        let Some(annotations) = document.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
            return;
        };
        let Some(text) = annotations.shift_remove(&format!("{PREFIX}{field}")) else {
            continue;
        };
        let now_empty = annotations.is_empty();
        if now_empty && let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("annotations");
        }
        let value = match text {
            Value::String(s) => serde_json::from_str(&s).unwrap_or(Value::String(s)),
            other => other,
        };
        if let Some(spec) = child(document, "spec").and_then(Value::as_object_mut) {
            spec.entry(field).or_insert(value);
        }
    }
}

/// A member of an object, made an empty object where it is missing or null; `None` where the parent is no object.
fn child<'a>(parent: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let value = parent.as_object_mut()?.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_extension_field_survives_a_round_trip() {
        let rows = [
            (
                Kind::BgpPeer,
                json!({"metadata": {"name": "p"}, "spec": {"peerIP": "10.0.0.1", "holdTime": "9s", "passive": true}}),
            ),
            (Kind::BgpPeer, json!({"metadata": {"name": "p"}, "spec": {"gracefulRestart": {"mode": "Disabled"}}})),
            (
                Kind::BgpPeer,
                json!({"metadata": {"name": "p"}, "spec": {"families": ["IPv4", "IPv6"], "bfd": {}, "maxPrefixes": {"limit": 10},
                    "peerRange": "10.0.0.0/8", "peerRangeLimit": 10}}),
            ),
            (
                Kind::BgpConfiguration,
                json!({"metadata": {"name": "default"}, "spec": {"bmpCollectors": [{"address": "10.0.0.1", "port": 1790}]}}),
            ),
            (
                Kind::BgpConfiguration,
                json!({"metadata": {"name": "default", "annotations": {"a": "b"}}, "spec": {"connectRetryTime": "2s"}}),
            ),
            (Kind::IpPool, json!({"metadata": {"name": "pool"}, "spec": {"cidr": "10.0.0.0/16", "holdTime": "9s"}})),
        ];
        for (kind, user) in rows {
            let mut stored = user.clone();
            to_stored(kind, &mut stored);
            for field in fields(kind) {
                assert_eq!(stored["spec"].get(field), None, "{kind:?} {field} is still in the stored spec");
            }
            from_stored(kind, &mut stored);
            assert_eq!(stored, user);
        }
    }

    #[test]
    fn the_annotation_holds_the_value_as_json() {
        let mut doc =
            json!({"metadata": {"name": "p"}, "spec": {"holdTime": "9s", "gracefulRestart": {"mode": "Enabled"}}});
        to_stored(Kind::BgpPeer, &mut doc);
        let annotations = &doc["metadata"]["annotations"];
        assert_eq!(annotations["tortie.io/holdTime"], "\"9s\"");
        assert_eq!(annotations["tortie.io/gracefulRestart"], "{\"mode\":\"Enabled\"}");
    }

    #[test]
    fn an_annotation_written_by_hand_is_a_string() {
        let mut doc = json!({"metadata": {"name": "p", "annotations": {"tortie.io/holdTime": "9s"}}, "spec": {}});
        from_stored(Kind::BgpPeer, &mut doc);
        assert_eq!(doc, json!({"metadata": {"name": "p"}, "spec": {"holdTime": "9s"}}));
    }

    #[test]
    fn a_field_wins_over_its_annotation() {
        let stored = json!({"metadata": {"name": "p", "annotations": {"tortie.io/holdTime": "\"9s\""}}, "spec": {"holdTime": "30s"}});
        let mut read = stored.clone();
        from_stored(Kind::BgpPeer, &mut read);
        assert_eq!(read["spec"]["holdTime"], "30s");
        let mut written = stored;
        to_stored(Kind::BgpPeer, &mut written);
        assert_eq!(written["metadata"]["annotations"]["tortie.io/holdTime"], "\"30s\"");
    }
}
