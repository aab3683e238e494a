use super::*;

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "web-0", "namespace": "test", "uid": "u", "creationTimestamp": "2026-08-22T10:00:00Z",
            "labels": {"app": "web"}, "annotations": {},
        },
        "spec": {
            "nodeName": "node-1", "serviceAccountName": "web",
            "containers": [{"ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 9090},
                {"containerPort": 53, "protocol": "UDP", "hostPort": 5353, "hostIP": "10.0.0.1"},
            ]}],
        },
        "status": {"phase": "Pending"},
    })
}

/// Where something about a pod is special, and how.
type Changes<'a> = Vec<(&'a str, Value)>;

fn with(mut pod: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    pod
}

fn annotations(value: Value) -> (&'static str, Value) {
    ("/metadata/annotations", value)
}

fn seen(pod: &Value) -> Option<Vec<String>> {
    match of_pod(pod) {
        Seen::Present(namespace, name, document) => {
            assert_eq!((namespace.as_str(), name.as_str()), ("test", "node--1-k8s-web--0-eth0"));
            let nets = document["spec"]["ipNetworks"].as_array().unwrap();
            Some(nets.iter().map(|n| n.as_str().unwrap().to_string()).collect())
        }
        Seen::Absent(namespace, name) => {
            assert_eq!((namespace.as_str(), name.as_str()), ("test", "node--1-k8s-web--0-eth0"));
            Some(Vec::new())
        }
        Seen::None => None,
    }
}

#[test]
fn an_endpoint_is_there_while_its_pod_has_an_address() {
    let ips = |text: &str| {
        annotations(
            json!({ "cni.projectcalico.org/podIPs": text, "cni.projectcalico.org/podIP": text.split(',').next() }),
        )
    };
    let reported = ("/status", json!({"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]}));
    // (what is special about the pod, its addresses: empty where the endpoint is absent, None where there never is one)
    let rows: [(Changes<'_>, Option<&[&str]>); 12] = [
        (vec![], Some(&[])),
        (vec![ips("10.0.0.1/32,fd00::1/128")], Some(&["10.0.0.1/32", "fd00::1/128"])),
        (vec![ips("10.0.0.1")], Some(&["10.0.0.1/32"])),
        (vec![annotations(json!({"cni.projectcalico.org/podIP": "10.0.0.1/32"}))], Some(&["10.0.0.1/32"])),
        (vec![reported.clone()], Some(&["10.0.0.9/32", "fd00::9/128"])),
        (vec![("/status", json!({"podIP": "10.0.0.9"}))], Some(&["10.0.0.9/32"])),
        (vec![ips("10.0.0.1/32"), reported.clone()], Some(&["10.0.0.1/32"])),
        (vec![ips(""), reported], Some(&[])),
        (vec![ips("10.0.0.1/32"), ("/status/phase", "Succeeded".into())], Some(&[])),
        (vec![annotations(json!({"vpc.amazonaws.com/pod-ips": "10.0.0.1"}))], Some(&["10.0.0.1/32"])),
        (vec![ips("10.0.0.1/32"), ("/spec/hostNetwork", true.into())], None),
        (vec![ips("10.0.0.1/32"), ("/spec/nodeName", Value::Null)], None),
    ];
    for (changes, expected) in rows {
        let expected = expected.map(|nets| nets.iter().map(ToString::to_string).collect());
        assert_eq!(seen(&with(pod(), &changes)), expected, "{changes:?}");
    }
}

#[test]
fn a_pod_is_read_as_calicos_endpoint() {
    let pod = with(
        pod(),
        &[annotations(json!({
            "cni.projectcalico.org/podIP": "10.0.0.1/32", "cni.projectcalico.org/podIPs": "10.0.0.1/32",
            "cni.projectcalico.org/containerID": "abc",
        }))],
    );
    let Seen::Present(_, _, document) = of_pod(&pod) else { panic!("it has an address") };
    assert_eq!(
        document,
        json!({
            "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": "node--1-k8s-web--0-eth0", "namespace": "test", "uid": "u", "creationTimestamp": "2026-08-22T10:00:00Z",
                "labels": {
                    "app": "web", "projectcalico.org/namespace": "test", "projectcalico.org/orchestrator": "k8s",
                    "projectcalico.org/serviceaccount": "web",
                },
            },
            "spec": {
                "orchestrator": "k8s", "node": "node-1", "containerID": "abc", "pod": "web-0", "endpoint": "eth0",
                "serviceAccountName": "web", "ipNetworks": ["10.0.0.1/32"], "profiles": ["kns.test", "ksa.test.web"],
                // printf test.web-0 | sha1sum
                "interfaceName": "cali7b07e5871ca",
                "ports": [
                    {"name": "http", "protocol": "tcp", "port": 8080},
                    {"name": "", "protocol": "udp", "port": 53, "hostPort": 5353, "hostIP": "10.0.0.1"},
                ],
            },
        })
    );
}

/// What was written is read back, also what Calico has no annotation for; a removal leaves the container's id.
#[test]
fn what_is_written_is_read_back() {
    let written = json!({
        "metadata": {"annotations": {"tortie.io/network": "net"}},
        "spec": {
            "containerID": "abc", "ipNetworks": ["10.0.0.1/32", "fd00::1/128"], "endpoint": "eth0", "mac": "ee:ee:ee:ee:ee:ee",
            "interfaceName": "cali1",
        },
    });
    let patched = patch(&written, Some("7"));
    assert_eq!(patched["metadata"]["resourceVersion"], "7");
    let annotations_written = patched["metadata"]["annotations"].clone();
    assert_eq!(annotations_written["cni.projectcalico.org/podIP"], "10.0.0.1/32");
    assert_eq!(annotations_written["cni.projectcalico.org/podIPs"], "10.0.0.1/32,fd00::1/128");
    assert_eq!(annotations_written["cni.projectcalico.org/containerID"], "abc");
    let mut pod = with(pod(), &[annotations(annotations_written)]);
    let Seen::Present(_, _, document) = of_pod(&pod) else { panic!("it has an address") };
    assert_eq!(document["metadata"]["annotations"], written["metadata"]["annotations"]);
    for field in ["containerID", "ipNetworks", "mac", "interfaceName"] {
        assert_eq!(document["spec"][field], written["spec"][field]);
    }
    let removed = removal(None);
    assert!(removed["metadata"].get("resourceVersion").is_none());
    for (name, value) in removed["metadata"]["annotations"].as_object().unwrap() {
        pod["metadata"]["annotations"][name] = value.clone();
    }
    assert_eq!(seen(&pod), Some(Vec::new()));
    assert_eq!(pod["metadata"]["annotations"]["cni.projectcalico.org/containerID"], "abc");
}

#[test]
fn the_pod_is_in_the_name() {
    let rows = [
        ("node--1-k8s-web--0-eth0", Some("web-0")),
        ("n-k8s-a.b-eth0", Some("a.b")),
        ("n-cni-abc-eth0", None),
        ("n-k8s-pod", None),
        ("n-k8s--eth0", None),
    ];
    for (name, pod) in rows {
        assert_eq!(pod_of(name).as_deref(), pod, "{name}");
    }
}
