//! A Calico Node in the annotations of a Kubernetes Node (Calico `libcalico-go/lib/backend/k8s/resources/node.go`).
//!
//! Its addresses, AS number and cluster id are annotations of their own; labels and annotations of the Calico Node, which are
//! not those of the Kubernetes Node, are JSON in two more. Who reads sees the labels of both; the Kubernetes ones win, and are
//! listed in an annotation of what is read, so that they are not written back as Calico's.

use std::net::Ipv4Addr;

use api::bgp_peer::AsNumber;
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";
const KUBE_LABELS: &str = "projectcalico.org/kube-labels";

/// What the value of an annotation must be to count.
#[derive(Clone, Copy)]
enum Check {
    Cidr4,
    Cidr6,
    Address,
    Ipv4,
    As,
    Any,
}

/// Annotation, where its value stands in the Node, and what it must be.
const FIELDS: &[(&str, &[&str], Check)] = &[
    ("projectcalico.org/ASNumber", &["spec", "bgp", "asNumber"], Check::As),
    ("projectcalico.org/IPv4Address", &["spec", "bgp", "ipv4Address"], Check::Cidr4),
    ("projectcalico.org/IPv6Address", &["spec", "bgp", "ipv6Address"], Check::Cidr6),
    ("projectcalico.org/IPv4IPIPTunnelAddr", &["spec", "bgp", "ipv4IPIPTunnelAddr"], Check::Address),
    ("projectcalico.org/RouteReflectorClusterID", &["spec", "bgp", "routeReflectorClusterID"], Check::Ipv4),
    ("projectcalico.org/IPv4VXLANTunnelAddr", &["spec", "ipv4VXLANTunnelAddr"], Check::Address),
    ("projectcalico.org/VXLANTunnelMACAddr", &["spec", "vxlanTunnelMACAddr"], Check::Any),
    ("projectcalico.org/IPv6VXLANTunnelAddr", &["spec", "ipv6VXLANTunnelAddr"], Check::Address),
    ("projectcalico.org/VXLANTunnelMACAddrV6", &["spec", "vxlanTunnelMACAddrV6"], Check::Any),
    ("projectcalico.org/IPv4WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv4Address"], Check::Address),
    ("projectcalico.org/IPv6WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv6Address"], Check::Address),
    ("projectcalico.org/WireguardPublicKey", &["status", "wireguardPublicKey"], Check::Any),
    ("projectcalico.org/WireguardPublicKeyV6", &["status", "wireguardPublicKeyV6"], Check::Any),
];

/// The Calico Node that a Kubernetes Node is.
pub fn document(object: &Value) -> Value {
    let own = &object["metadata"];
    let annotation = |name: &str| own["annotations"].get(name).and_then(Value::as_str).filter(|v| !v.is_empty());
    let map_in = |name: &str| -> Map<String, Value> {
        annotation(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    };
    let mut metadata = Map::new();
    for field in ["name", "uid", "creationTimestamp"] {
        metadata.extend(own.get(field).map(|value| (field.to_string(), value.clone())));
    }
    let mut labels = map_in(LABELS);
    let kube_labels = own["labels"].as_object().cloned().unwrap_or_default();
    labels.extend(kube_labels.clone());
    if !labels.is_empty() {
        metadata.insert("labels".into(), labels.into());
    }
    let mut annotations = map_in(ANNOTATIONS);
    annotations.insert(KUBE_LABELS.into(), Value::Object(kube_labels).to_string().into());
    metadata.insert("annotations".into(), annotations.into());

    let mut document = json!({
        "kind": "Node",
        "apiVersion": api::kind::CALICO_V3,
        "metadata": metadata,
        "spec": {},
    });
    for (name, path, check) in FIELDS {
        match annotation(name).map(|text| checked(*check, text)) {
            Some(Some(value)) => put(&mut document, path, value),
            Some(None) => tracing::debug!(annotation = name, node = %own["name"], "ignored: its value is invalid"),
            None => {}
        }
    }
    let addresses = addresses(&document, &object["status"]["addresses"]);
    if !addresses.is_empty() {
        document["spec"]["addresses"] = addresses.into();
    }
    document["spec"]["orchRefs"] = json!([{ "nodeName": own["name"], "orchestrator": "k8s" }]);
    if let Some(cidrs) = object["spec"]["podCIDRs"].as_array().filter(|c| !c.is_empty()) {
        put(&mut document, &["status", "podCIDRs"], cidrs.clone().into());
    }
    document
}

/// The merge patch that makes a Kubernetes Node, at its revision, the given Calico Node.
pub fn patch(object: &Value, document: &Value) -> Value {
    let mut labels = document["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let mut annotations = document["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let inherited: Option<Map<String, Value>> =
        annotations.shift_remove(KUBE_LABELS).and_then(|text| serde_json::from_str(text.as_str()?).ok());
    // A document that was not read from here lists none: what the Kubernetes Node has anyway need not be Calico's.
    let own_labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for (name, value) in inherited.unwrap_or_else(|| own_labels.clone()) {
        if labels.get(&name).is_some_and(|v| *v != value) {
            tracing::warn!(label = name, "a label of the Kubernetes Node cannot be changed through Calico's");
        }
        labels.shift_remove(&name);
    }
    let mut changes = Map::new();
    let mut change = |name: &str, wanted: Option<String>| {
        let present = object["metadata"]["annotations"].get(name).and_then(Value::as_str);
        if present != wanted.as_deref() {
            changes.insert(name.into(), wanted.into());
        }
    };
    let text = |map: Map<String, Value>| (!map.is_empty()).then(|| Value::Object(map).to_string());
    change(LABELS, text(labels));
    change(ANNOTATIONS, text(annotations));
    for (name, path, _) in FIELDS {
        let value = path.iter().try_fold(document, |at, field| at.get(field));
        change(name, value.and_then(plain_text));
    }
    json!({ "metadata": {
        "resourceVersion": object["metadata"]["resourceVersion"],
        "annotations": changes,
    } })
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn checked(check: Check, text: &str) -> Option<Value> {
    let is_valid = match check {
        Check::Cidr4 => text.parse::<IpNetwork>().is_ok_and(|n| n.is_ipv4()),
        Check::Cidr6 => text.parse::<IpNetwork>().is_ok_and(|n| n.is_ipv6()),
        Check::Address => text.parse::<IpNetwork>().is_ok(),
        Check::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
        Check::As => {
            let number: AsNumber = serde_json::from_value(text.into()).ok()?;
            return serde_json::to_value(number).ok();
        }
        Check::Any => true,
    };
    is_valid.then(|| text.into())
}

fn put(document: &mut Value, path: &[&str], value: Value) {
    let mut at = document;
    for field in path {
        at = &mut at[*field];
    }
    *at = value;
}

/// Calico's own addresses, then those that the Kubernetes Node has.
fn addresses(document: &Value, reported: &Value) -> Vec<Value> {
    let bgp = &document["spec"]["bgp"];
    let own = ["ipv4Address", "ipv6Address"].map(|field| bgp.get(field));
    let own = own.into_iter().flatten().map(|address| json!({ "address": address, "type": "CalicoNodeIP" }));
    let is_ip = |a: &&Value| matches!(a["type"].as_str(), Some("InternalIP" | "ExternalIP"));
    let reported = reported.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter(is_ip);
    own.chain(reported.map(|a| json!({ "address": a["address"], "type": a["type"] }))).collect()
}

#[cfg(test)]
mod tests;
