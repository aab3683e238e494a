//! What an update keeps of the stored object: its identity, what others wrote, and what Kubernetes' API server fills in where a document
//! says nothing. So a document that asks for nothing new changes nothing.

use api::kind::Kind;
use serde_json::{Map, Value, json};

/// Metadata that the store gives.
const IDENTITY: [&str; 2] = ["uid", "creationTimestamp"];
/// An API server's bookkeeping, which the store of a cluster leaves out: a document that brings it changes nothing.
const BOOKKEEPING: [&str; 3] = ["generation", "managedFields", "selfLink"];
/// Who must agree to a deletion.
const AGREED: [&str; 2] = ["finalizers", "ownerReferences"];

/// Completes what is wanted by what is stored.
pub fn keep(kind: Kind, stored: &Value, wanted: &mut Value) {
    if let Some(metadata) = wanted["metadata"].as_object_mut() {
        for field in BOOKKEEPING {
            metadata.shift_remove(field);
        }
        for field in IDENTITY.iter().chain(&BOOKKEEPING) {
            if let Some(value) = stored["metadata"].get(*field) {
                metadata.insert((*field).into(), value.clone());
            }
        }
        for field in AGREED {
            if let (Some(value), None) = (stored["metadata"].get(field), metadata.get(field)) {
                metadata.insert(field.into(), value.clone());
            }
        }
    }
    keep_status(kind, stored, wanted);
    match kind {
        Kind::IpPool => fill_from(&stored["spec"], &mut wanted["spec"], |field, _| field == "blockSize"),
        Kind::Service => keep_service(&stored["spec"], &mut wanted["spec"]),
        Kind::Namespace => keep_namespace(stored, wanted),
        _ => {}
    }
}

/// The status is its controller's. That of a Service or Namespace stays whatever a document says, as with Kubernetes' API server, but for
/// addresses that a Service without any brings along from elsewhere.
fn keep_status(kind: Kind, stored: &Value, wanted: &mut Value) {
    let Some(status) = stored.get("status") else { return };
    let has_address = |v: &Value| v.pointer("/status/loadBalancer/ingress/0").is_some();
    let is_kubernetes = match kind {
        Kind::Service => has_address(stored) || !has_address(wanted),
        Kind::Namespace => true,
        _ => false,
    };
    if is_kubernetes || wanted.get("status").is_none() {
        wanted["status"] = status.clone();
    }
}

/// Takes the fields that a mapping lacks from the stored one where `keeps` says so of the field and its stored value.
fn fill_from(stored: &Value, wanted: &mut Value, keeps: impl Fn(&str, &Value) -> bool) {
    let (Some(stored), Some(wanted)) = (stored.as_object(), wanted.as_object_mut()) else { return };
    for (field, value) in stored {
        if !wanted.contains_key(field) && keeps(field, value) {
            wanted.insert(field.clone(), value.clone());
        }
    }
}

/// What was assigned (cluster IPs, node ports, families), and the API server's defaults (Kubernetes `pkg/apis/core/v1/defaults.go`).
fn keep_service(stored: &Value, wanted: &mut Value) {
    let service_type = wanted["type"].as_str().unwrap_or("ClusterIP").to_string();
    let (is_external, has_node_ports) =
        (service_type == "ExternalName", matches!(service_type.as_str(), "NodePort" | "LoadBalancer"));
    let is_balanced = service_type == "LoadBalancer";
    if !is_external && wanted.get("clusterIP").is_none() {
        fill_from(stored, wanted, |field, _| matches!(field, "clusterIP" | "clusterIPs"));
    }
    let says_families = ["ipFamilies", "ipFamilyPolicy"].iter().any(|field| wanted.get(*field).is_some());
    let has_one_family = stored["ipFamilyPolicy"] == "SingleStack";
    let same_address = stored.get("clusterIP") == wanted.get("clusterIP");
    fill_from(stored, wanted, |field, value| match field {
        "type" => value == "ClusterIP",
        "sessionAffinity" => value == "None",
        "internalTrafficPolicy" => !is_external && value == "Cluster",
        "externalTrafficPolicy" => has_node_ports && value == "Cluster",
        "allocateLoadBalancerNodePorts" => is_balanced && value == true,
        "ipFamilies" | "ipFamilyPolicy" => !is_external && !says_families && has_one_family && same_address,
        _ => false,
    });
    let old = stored["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let id = |p: &Value| (p["protocol"].as_str().unwrap_or("TCP").to_string(), p["port"].as_u64());
    for port in wanted["ports"].as_array_mut().into_iter().flatten() {
        let Some(old) = old.iter().find(|o| id(o) == id(port)) else { continue };
        fill_from(old, port, |field, value| match field {
            "nodePort" => has_node_ports,
            "protocol" => value == "TCP",
            "targetPort" => Some(value) == old.get("port"),
            _ => false,
        });
    }
}

/// The label and the finalizer that every Namespace of Kubernetes has.
fn keep_namespace(stored: &Value, wanted: &mut Value) {
    const NAME_LABEL: &str = "kubernetes.io/metadata.name";
    if let Some(value) = stored.pointer("/metadata/labels").and_then(|labels| labels.get(NAME_LABEL))
        && *value == stored["metadata"]["name"]
        && let Some(metadata) = wanted["metadata"].as_object_mut()
    {
        let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
        fill_from(&json!({ NAME_LABEL: value }), labels, |_, _| true);
    }
    fill_from(&stored["spec"], &mut wanted["spec"], |field, value| {
        field == "finalizers" && *value == json!(["kubernetes"])
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_who_must_agree_to_a_deletion() {
        let stored =
            json!({"metadata": {"name": "a", "uid": "u", "finalizers": ["f"], "ownerReferences": [{"name": "o"}]}});
        for (own, finalizers) in
            [(json!({"name": "a"}), json!(["f"])), (json!({"name": "a", "finalizers": []}), json!([]))]
        {
            let mut wanted = json!({ "metadata": own });
            keep(Kind::BgpPeer, &stored, &mut wanted);
            assert_eq!(wanted["metadata"]["finalizers"], finalizers);
            assert_eq!(
                (&wanted["metadata"]["uid"], &wanted["metadata"]["ownerReferences"][0]["name"]),
                (&json!("u"), &json!("o"))
            );
        }
    }

    /// (the document's spec, what is stored that it does not say, what comes of it)
    #[test]
    fn what_a_service_does_not_say_is_kept_where_it_is_the_default_or_was_assigned() {
        let stored = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30007}]});
        let short = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let completed = |stored: &Value, mut wanted: Value| {
            keep_service(stored, &mut wanted);
            wanted
        };
        assert_eq!(completed(&stored, short.clone()), stored);
        let mut other = stored.clone();
        other["sessionAffinity"] = "ClientIP".into();
        other["externalTrafficPolicy"] = "Local".into();
        other["ports"][0]["targetPort"] = 8080.into();
        let reset = completed(&other, short);
        for (pointer, is_kept) in [
            ("/sessionAffinity", false),
            ("/externalTrafficPolicy", false),
            ("/ports/0/targetPort", false),
            ("/ports/0/nodePort", true),
            ("/clusterIPs/0", true),
        ] {
            assert_eq!(reset.pointer(pointer).is_some(), is_kept, "{pointer}: {reset}");
        }
        let inner = completed(&stored, json!({"ports": [{"port": 80}]}));
        assert_eq!(
            inner,
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7"], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack"})
        );
    }

    #[test]
    fn a_status_is_its_controllers() {
        let with = |ip: &str| json!({"metadata": {}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
        let without = json!({"metadata": {}, "status": {"loadBalancer": {}}});
        // (stored, document, what counts)
        let rows = [
            (with("10.0.0.1"), without.clone(), with("10.0.0.1")),
            (with("10.0.0.1"), with("10.0.0.2"), with("10.0.0.1")),
            (without.clone(), with("10.0.0.2"), with("10.0.0.2")),
            (json!({"metadata": {}}), with("10.0.0.2"), with("10.0.0.2")),
        ];
        for (stored, document, counts) in rows {
            let mut wanted = document.clone();
            keep_status(Kind::Service, &stored, &mut wanted);
            assert_eq!(wanted, counts, "{stored} {document}");
        }
    }
}
