use super::*;

fn kubernetes_node() -> Value {
    json!({
        "metadata": {
            "name": "node-1", "uid": "u", "creationTimestamp": "2026-08-22T10:00:00Z", "resourceVersion": "5",
            "labels": {"kubernetes.io/hostname": "node-1", "shared": "kubernetes"},
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                "projectcalico.org/ASNumber": "1.10",
                "projectcalico.org/IPv4Address": "10.0.0.1/24",
                "projectcalico.org/IPv6Address": "10.0.0.1/24",
                "projectcalico.org/IPv4IPIPTunnelAddr": "192.168.0.1",
                "projectcalico.org/IPv4VXLANTunnelAddr": "192.168.0.2",
                "projectcalico.org/RouteReflectorClusterID": "1.0.0.1",
                "projectcalico.org/labels": r#"{"rack":"a","shared":"calico"}"#,
                "projectcalico.org/annotations": r#"{"tortie.io/x":"1"}"#,
            },
        },
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "node-1"},
        ]},
    })
}

#[test]
fn a_kubernetes_node_is_read_as_calicos() {
    let read = document(&kubernetes_node());
    assert_eq!(
        read,
        json!({
            "kind": "Node", "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": "node-1", "uid": "u", "creationTimestamp": "2026-08-22T10:00:00Z",
                "labels": {"kubernetes.io/hostname": "node-1", "shared": "kubernetes", "rack": "a"},
                "annotations": {
                    "tortie.io/x": "1",
                    "projectcalico.org/kube-labels": r#"{"kubernetes.io/hostname":"node-1","shared":"kubernetes"}"#,
                },
            },
            "spec": {
                "bgp": {
                    "asNumber": 65546, "ipv4Address": "10.0.0.1/24", "ipv4IPIPTunnelAddr": "192.168.0.1",
                    "routeReflectorClusterID": "1.0.0.1",
                },
                "ipv4VXLANTunnelAddr": "192.168.0.2",
                "addresses": [
                    {"address": "10.0.0.1/24", "type": "CalicoNodeIP"}, {"address": "10.0.0.1", "type": "InternalIP"},
                ],
                "orchRefs": [{"nodeName": "node-1", "orchestrator": "k8s"}],
            },
            "status": {"podCIDRs": ["10.1.0.0/24"]},
        }),
        "an IPv6 address that is none is left out"
    );
    let typed: api::Node = serde_json::from_value(read).unwrap();
    assert_eq!(typed.body.spec.bgp.unwrap().ipv4_address.unwrap().to_string(), "10.0.0.1/24");
    let empty = document(&json!({"metadata": {"name": "n"}}));
    assert_eq!(empty["spec"], json!({"orchRefs": [{"nodeName": "n", "orchestrator": "k8s"}]}), "no empty bgp");
}

/// Only what differs is written; the Kubernetes Node's labels never become Calico's.
#[test]
fn a_write_changes_the_annotations_that_differ() {
    let node = kubernetes_node();
    let mut written = document(&node);
    // The invalid one is taken away: nobody reads it.
    assert_eq!(
        patch(&node, &written)["metadata"]["annotations"],
        json!({
            "projectcalico.org/ASNumber": "65546", "projectcalico.org/IPv6Address": null,
            "projectcalico.org/labels": r#"{"rack":"a"}"#,
        })
    );
    written["spec"]["bgp"]["ipv4Address"] = "10.0.0.9/24".into();
    written["spec"]["bgp"]["asNumber"] = 64512.into();
    written["metadata"]["labels"]["rack"] = "b".into();
    written["metadata"]["annotations"] = json!({});
    written["spec"].as_object_mut().unwrap().remove("ipv4VXLANTunnelAddr");
    let patch = patch(&node, &written);
    assert_eq!(
        patch,
        json!({"metadata": {"resourceVersion": "5", "annotations": {
            "projectcalico.org/labels": r#"{"rack":"b"}"#,
            "projectcalico.org/annotations": null,
            "projectcalico.org/ASNumber": "64512",
            "projectcalico.org/IPv4Address": "10.0.0.9/24",
            "projectcalico.org/IPv6Address": null,
            "projectcalico.org/IPv4VXLANTunnelAddr": null,
        }}})
    );
}
