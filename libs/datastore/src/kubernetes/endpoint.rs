//! A WorkloadEndpoint in the annotations of a Pod (Calico `libcalico-go/lib/backend/k8s/conversion/workload_endpoint_default.go`).
//!
//! The endpoint is there when the pod has an address: the plugin's annotation says it, or the kubelet's status. It goes when the
//! plugin empties its annotation, when the pod is finished, or with the pod. What Calico's annotations have no place for (the
//! MAC, the interface, annotations of the endpoint) is in one of ours.

use api::key::Key;
use api::workload::{LABEL_NAMESPACE, LABEL_ORCHESTRATOR, k8s_endpoint_name};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};

const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
const AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
/// JSON: what of the endpoint is nowhere else.
const OWN: &str = "tortie.io/endpoint";
/// The interface that Calico assumes.
const INTERFACE: &str = "eth0";
/// Of `spec`: what [`OWN`] holds.
const OWN_FIELDS: [&str; 5] = ["endpoint", "interfaceName", "mac", "ipv4Gateway", "ipv6Gateway"];
/// Calico's label for the service account is left out where the name is longer (a label's value has 63 characters).
const SERVICE_ACCOUNT_LABEL_LEN: usize = 63;

/// The endpoint of a pod.
pub enum Seen {
    /// Its namespace, its name, and the WorkloadEndpoint.
    Present(String, String, Value),
    /// It is not, or no longer, there.
    Absent(String, String),
    /// The pod has no node, or its node's network: it never had one.
    None,
}

/// The pod that an endpoint's name names: `<node>-k8s-<pod>-<interface>`, dashes inside each part doubled.
pub fn pod_of(name: &str) -> Option<String> {
    let parts = name.replace("--", "\0");
    match parts.split('-').collect::<Vec<_>>().as_slice() {
        [_, "k8s", pod, _] if !pod.is_empty() => Some(pod.replace('\0', "-")),
        _ => None,
    }
}

/// Whether two endpoints are of the same pod on the same node, whatever their interfaces.
pub fn are_of_one_pod(a: &Key, b: &Key) -> bool {
    let pod = |key: &Key| match key {
        Key::Resource { namespace, name, .. } => {
            let parts: Vec<String> = name.replace("--", "\0").split('-').take(3).map(str::to_string).collect();
            Some((namespace.clone(), parts))
        }
        _ => None,
    };
    pod(a) == pod(b)
}

/// The endpoint of a pod as it is now.
pub fn of_pod(pod: &Value) -> Seen {
    let metadata = &pod["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let node = text(&pod["spec"]["nodeName"]);
    if node.is_empty() || pod["spec"]["hostNetwork"] == true {
        return Seen::None;
    }
    let own: Value = annotation(pod, OWN).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let interface = own["endpoint"].as_str().unwrap_or(INTERFACE);
    let endpoint_name = k8s_endpoint_name(node, name, interface);
    let addresses = addresses(pod);
    if addresses.is_empty() {
        return Seen::Absent(namespace.into(), endpoint_name);
    }
    let document = document(pod, &endpoint_name, &own, &addresses);
    Seen::Present(namespace.into(), endpoint_name, document)
}

/// The merge patch of a pod that writes an endpoint; at a revision, or whatever it is at.
pub fn patch(document: &Value, revision: Option<&str>) -> Value {
    let spec = &document["spec"];
    let addresses: Vec<&str> = spec["ipNetworks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut own: Map<String, Value> =
        OWN_FIELDS.iter().filter_map(|field| Some(((*field).to_string(), spec.get(field)?.clone()))).collect();
    if let Some(annotations) = document["metadata"].get("annotations") {
        own.insert("annotations".into(), annotations.clone());
    }
    let mut annotations = json!({
        POD_IP: addresses.first().copied().unwrap_or_default(),
        POD_IPS: addresses.join(","),
        OWN: Value::Object(own).to_string(),
    });
    if let Some(id) = spec["containerID"].as_str().filter(|id| !id.is_empty()) {
        annotations[CONTAINER_ID] = id.into();
    }
    at_revision(annotations, revision)
}

/// The merge patch of a pod that removes its endpoint. The container's id stays, as in Calico: a repeated DEL must know whose
/// network it takes down.
pub fn removal(revision: Option<&str>) -> Value {
    at_revision(json!({ POD_IP: "", POD_IPS: "" }), revision)
}

fn at_revision(annotations: Value, revision: Option<&str>) -> Value {
    let mut metadata = json!({ "annotations": annotations });
    if let Some(revision) = revision {
        metadata["resourceVersion"] = revision.into();
    }
    json!({ "metadata": metadata })
}

fn document(pod: &Value, name: &str, own: &Value, addresses: &[String]) -> Value {
    let metadata = &pod["metadata"];
    let (namespace, pod_name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let account = text(&pod["spec"]["serviceAccountName"]);
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(LABEL_NAMESPACE.into(), namespace.into());
    labels.insert(LABEL_ORCHESTRATOR.into(), "k8s".into());
    let mut profiles = vec![format!("kns.{namespace}")];
    if !account.is_empty() {
        profiles.push(format!("ksa.{namespace}.{account}"));
        if account.len() < SERVICE_ACCOUNT_LABEL_LEN {
            labels.insert("projectcalico.org/serviceaccount".into(), account.into());
        }
    }
    let mut endpoint_metadata = json!({ "name": name, "namespace": namespace });
    for field in ["uid", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            endpoint_metadata[field] = value.clone();
        }
    }
    endpoint_metadata["labels"] = labels.into();
    if let Some(annotations) = own["annotations"].as_object().filter(|a| !a.is_empty()) {
        endpoint_metadata["annotations"] = annotations.clone().into();
    }
    let mut spec = json!({ "orchestrator": "k8s", "node": pod["spec"]["nodeName"] });
    if let Some(id) = annotation(pod, CONTAINER_ID) {
        spec["containerID"] = id.into();
    }
    spec["pod"] = pod_name.into();
    spec["endpoint"] = INTERFACE.into();
    if !account.is_empty() {
        spec["serviceAccountName"] = account.into();
    }
    spec["ipNetworks"] = json!(addresses);
    spec["profiles"] = json!(profiles);
    spec["interfaceName"] = host_interface(namespace, pod_name).into();
    for field in OWN_FIELDS {
        if let Some(value) = own.get(field) {
            spec[field] = value.clone();
        }
    }
    let ports = ports(pod);
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    json!({
        "kind": "WorkloadEndpoint",
        "apiVersion": api::kind::CALICO_V3,
        "metadata": endpoint_metadata,
        "spec": spec,
    })
}

/// The addresses of a pod, as /32 or /128; none where it has none, or no longer owns them.
fn addresses(pod: &Value) -> Vec<String> {
    let is_finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Completed"));
    // Emptied by the plugin: the network is down, whatever the kubelet's status still says.
    let is_removed = pod["metadata"]["annotations"].get(POD_IP).is_some_and(|v| v == "");
    if is_finished || is_removed {
        return Vec::new();
    }
    let listed = |name| annotation(pod, name).map(|v| v.split(',').map(str::to_string).collect::<Vec<_>>());
    let reported = || {
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let ips: Vec<String> = ips.filter_map(|ip| ip["ip"].as_str()).map(str::to_string).collect();
        let single = || pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty()).map(|ip| vec![ip.to_string()]);
        Some(ips).filter(|ips| !ips.is_empty()).or_else(single)
    };
    // The plugin's word first: after a new sandbox the kubelet's status is the old one for a while.
    let found = listed(POD_IPS).or_else(|| listed(POD_IP)).or_else(reported).or_else(|| listed(AWS_POD_IPS));
    found.unwrap_or_default().iter().filter_map(|text| host_net(text)).collect()
}

fn host_net(text: &str) -> Option<String> {
    let text = text.trim();
    let address = text.parse::<IpNet>().map(|n| n.addr()).or_else(|_| text.parse());
    address.ok().map(|a| IpNet::from(a).to_string())
}

/// Ports that have a name or are on the node too, as Calico lists them.
fn ports(pod: &Value) -> Vec<Value> {
    let containers = ["containers", "initContainers"].map(|field| pod["spec"][field].as_array());
    let all = containers.into_iter().flatten().flatten().filter_map(|c| c["ports"].as_array()).flatten();
    let listed = all.filter_map(|port| {
        let (name, host_port) = (text(&port["name"]), port["hostPort"].as_u64().filter(|p| *p != 0));
        if name.is_empty() && host_port.is_none() {
            return None;
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
        let mut entry = json!({ "name": name, "protocol": protocol, "port": port["containerPort"].as_u64()? });
        if let Some(host_port) = host_port {
            entry["hostPort"] = host_port.into();
        }
        if let Some(ip) = port["hostIP"].as_str().filter(|ip| !ip.is_empty()) {
            entry["hostIP"] = ip.into();
        }
        Some(entry)
    });
    listed.collect()
}

/// The host's end of a pod's veth pair (Calico `VethNameForWorkload`).
fn host_interface(namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let id: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("cali{}", &id[..11])
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"].get(name).and_then(Value::as_str).filter(|v| !v.is_empty())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
