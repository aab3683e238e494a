use api::key::Key;

use super::*;
use crate::kubernetes::collection::Place;

fn collection(kind: Kind) -> Collection {
    Collection::of_kind(kind)
}

/// As Calico's typed client writes an IPPool in KDD mode (v3.30, by its `customresource.go` and `resources.go`).
#[test]
fn calico_resources_are_custom_resources_with_their_metadata_in_an_annotation() {
    let document = json!({
        "kind": "IPPool",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": "pool", "uid": "3fae2eb9-6ab3-4a53-9cc2-c1b5f4c26e1a", "resourceVersion": "7",
            "creationTimestamp": "2026-08-22T10:00:00Z", "labels": {"a": "b"}, "annotations": {"tortie.io/x": "1"},
            "generateName": "p", "finalizers": ["f"], "generation": 3, "managedFields": [{}],
        },
        "spec": {"cidr": "10.0.0.0/16", "unknown": [1]},
    });
    let mut object = calico_object(&collection(Kind::IpPool), document);
    assert_eq!(
        object,
        json!({
            "kind": "IPPool",
            "apiVersion": "crd.projectcalico.org/v1",
            "metadata": {
                "name": "pool", "labels": {"a": "b"}, "finalizers": ["f"],
                "annotations": {
                    "tortie.io/x": "1",
                    "projectcalico.org/metadata": r#"{"creationTimestamp":"2026-08-22T10:00:00Z","generateName":"p"}"#,
                },
            },
            "spec": {"cidr": "10.0.0.0/16", "unknown": [1]},
        })
    );
    // The server adds its own.
    object["metadata"]["uid"] = "e4bd82c8-0b31-4d6f-8f40-000000000001".into();
    object["metadata"]["creationTimestamp"] = "2026-08-22T10:00:05Z".into();
    object["metadata"]["resourceVersion"] = "1234".into();
    object["metadata"]["generation"] = 1.into();
    object["metadata"]["managedFields"] = json!([{}]);
    let read = calico_document(Kind::IpPool, object);
    assert_eq!(
        read.to_string(),
        concat!(
            r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"pool","#,
            r#""uid":"27bd4113-d08c-4df6-8f02-000000000080","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"a":"b"},"#,
            r#""annotations":{"tortie.io/x":"1"},"finalizers":["f"],"generateName":"p"},"#,
            r#""spec":{"cidr":"10.0.0.0/16","unknown":[1]}}"#,
        )
    );
}

/// Written with kubectl, by an operator, or by a release whose Go wrote no time.
#[test]
fn custom_resources_of_others_are_read_too() {
    for annotation in [None, Some(r#"{"creationTimestamp":null}"#), Some("no JSON")] {
        let mut object = json!({
            "kind": "IPPool", "apiVersion": "crd.projectcalico.org/v1",
            "metadata": {"name": "pool", "creationTimestamp": "2026-08-22T10:00:05Z", "resourceVersion": "1"},
            "spec": {"cidr": "10.0.0.0/16"},
        });
        if let Some(annotation) = annotation {
            object["metadata"]["annotations"] = json!({ "projectcalico.org/metadata": annotation });
        }
        assert_eq!(
            calico_document(Kind::IpPool, object),
            json!({
                "kind": "IPPool", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "pool", "creationTimestamp": "2026-08-22T10:00:05Z"},
                "spec": {"cidr": "10.0.0.0/16"},
            }),
            "{annotation:?}"
        );
    }
}

/// Calico `conversion_test.go` asserts both properties of `ConvertUID`.
#[test]
fn uids_are_converted_both_ways() {
    for uid in ["e4bd82c8-0b31-4d6f-8f40-123456789abc", "30316465-6365-4463-ad63-3564622d3638"] {
        assert_ne!(converted_uid(uid), uid);
        assert_eq!(converted_uid(&converted_uid(uid)), uid);
        assert_eq!(converted_uid(uid)[14..15], uid[14..15], "the UUID's version stays");
    }
    assert_eq!(converted_uid("no uuid"), "no uuid");
}

#[test]
fn a_plain_object_is_sent_without_what_is_the_servers() {
    let document = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "1", "creationTimestamp": "t", "labels": {"a": "b"}},
        "spec": {"clusterIP": "10.96.0.1"},
    });
    let object = plain_object(&collection(Kind::Service), document.clone());
    assert_eq!(object["metadata"], json!({"name": "s", "namespace": "n", "labels": {"a": "b"}}));
    assert_eq!(object["spec"], document["spec"]);
    // Items of a list say neither kind nor apiVersion.
    let mut item = document.clone();
    item["metadata"]["managedFields"] = json!([]);
    item["metadata"]["generation"] = json!(2);
    item.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
    let read = plain_document(&collection(Kind::Service), item);
    assert_eq!((&read["kind"], &read["apiVersion"]), (&json!("Service"), &json!("v1")));
    assert_eq!(read["metadata"]["uid"], "u");
    for field in ["managedFields", "resourceVersion", "generation"] {
        assert_eq!(read["metadata"].get(field), None, "it would look like a change");
    }
}

#[test]
fn an_election_is_a_lease() {
    let record =
        json!({"holderIdentity": "node-1_x", "leaseDurationMilliseconds": 15001, "transitions": 2, "renewals": 7});
    let object = lease("tortie-controller", "kube-system", &record, "2026-08-22T10:00:00.000000Z");
    assert_eq!(
        object["spec"],
        json!({"leaseDurationSeconds": 16, "leaseTransitions": 2, "renewTime": "2026-08-22T10:00:00.000000Z", "holderIdentity": "node-1_x"})
    );
    assert_eq!(election(&object), Some(("controller".into(), record.to_string())));
    let released = lease("tortie-controller", "kube-system", &json!({"holderIdentity": ""}), "t");
    assert!(released["spec"].get("holderIdentity").is_none(), "the API refuses an empty holder");
    assert_eq!(election(&json!({"metadata": {"name": "kube-scheduler"}, "spec": {}})), None);
}

#[test]
fn every_key_has_its_place() {
    let rows = [
        (Key::resource(Kind::IpPool, None, "p"), "/apis/crd.projectcalico.org/v1/ippools/p"),
        (Key::resource(Kind::Node, None, "n"), "/api/v1/nodes/n"),
        (Key::resource(Kind::Service, Some("x"), "s"), "/api/v1/namespaces/x/services/s"),
        (Key::resource(Kind::EndpointSlice, Some("x"), "e"), "/apis/discovery.k8s.io/v1/namespaces/x/endpointslices/e"),
        (Key::resource(Kind::LoadBalancerIpPool, None, "l"), "/apis/tortie.io/v1/loadbalancerippools/l"),
        (
            Key::resource(Kind::WorkloadEndpoint, Some("x"), "node--1-k8s-web--0-eth0"),
            "/api/v1/namespaces/x/pods/web-0",
        ),
        (Key::IpamBlock("10.0.0.64/26".parse().unwrap()), "/apis/crd.projectcalico.org/v1/ipamblocks/10-0-0-64-26"),
        (Key::IpamHandle("Net.A".into()), "/apis/crd.projectcalico.org/v1/ipamhandles/net.a"),
        (Key::IpamConfig, "/apis/crd.projectcalico.org/v1/ipamconfigs/default"),
        (
            Key::Election("controller".into()),
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tortie-controller",
        ),
        (Key::resource(Kind::IpPool, None, "a/b ?"), "/apis/crd.projectcalico.org/v1/ippools/a%2Fb%20%3F"),
    ];
    for (key, path) in rows {
        assert_eq!(Place::of(&key, "kube-system").unwrap().path(), path);
    }
    let container = Key::resource(Kind::WorkloadEndpoint, Some("x"), "node-cni-abc-eth0");
    assert!(Place::of(&container, "x").unwrap_err().to_string().contains("each WorkloadEndpoint is a Pod"));
}
