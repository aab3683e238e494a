//! Records byte for byte as Calico writes them into etcd: they are read, they work, and what is not asked to change does not change by a byte.

use std::collections::BTreeMap;

use etcd_server::Etcd;
use ipam::{AffinityOwner, AssignRequest, Ipam};

use super::*;

const V3: &str = "/calico/resources/v3/projectcalico.org/";

/// (key, what Calico stores, kind and name for the command line). Fields stand in the order of Go's structs; `&` is escaped as Go does.
const RESOURCES: &[(&str, &str, &[&str])] = &[
    (
        "ippools/default-ipv4-ippool",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"default-ipv4-ippool","uid":"0b1c","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"},"annotations":{"note":"a \u003c b"}},"spec":{"cidr":"10.0.0.0/16","vxlanMode":"Never","ipipMode":"Never","natOutgoing":true,"blockSize":29,"nodeSelector":"rack == 'a' \u0026\u0026 !has(off) || all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}"#,
        &["ippool", "default-ipv4-ippool"],
    ),
    (
        "ipreservations/routers",
        r#"{"kind":"IPReservation","apiVersion":"projectcalico.org/v3","metadata":{"name":"routers","uid":"0b1d","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"reservedCIDRs":["10.0.0.10/31","10.0.255.1"]}}"#,
        &["ipreservation", "routers"],
    ),
    (
        "bgppeers/rack",
        r#"{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"rack","uid":"0b1e","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"nodeSelector":"all()","peerIP":"192.0.2.1:178","asNumber":64513,"password":{"secretKeyRef":{"name":"bgp","key":"rack"}},"maxRestartTime":"10m0s","keepaliveTime":"3s","numAllowedLocalASNumbers":1,"filters":["f"]}}"#,
        &["bgppeer", "rack"],
    ),
    (
        "bgpconfigurations/default",
        r#"{"kind":"BGPConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"0b1f","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"logSeverityScreen":"Info","nodeToNodeMeshEnabled":false,"asNumber":64512,"serviceLoadBalancerIPs":[{"cidr":"10.9.0.0/24"}],"communities":[{"name":"bgp-large","value":"64512:300:100"}],"prefixAdvertisements":[{"cidr":"10.0.0.0/16","communities":["bgp-large","64512:120"]}]}}"#,
        &["bgpconfig", "default"],
    ),
    (
        "bgpfilters/f",
        r#"{"kind":"BGPFilter","apiVersion":"projectcalico.org/v3","metadata":{"name":"f","uid":"0b20","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"exportV4":[{"cidr":"10.0.0.0/16","prefixLength":{"min":24,"max":32},"matchOperator":"In","action":"Accept"},{"action":"Reject"}]}}"#,
        &["bgpfilter", "f"],
    ),
    (
        "nodes/node-1",
        r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-1","uid":"0b21","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"},"annotations":{"projectcalico.org/kube-labels":"{\"a\":\"b\"}"}},"spec":{"bgp":{"ipv4Address":"192.0.2.11/24","ipv4IPIPTunnelAddr":"10.0.0.8"},"ipv6VXLANTunnelAddr":"fd00::8","orchRefs":[{"nodeName":"node-1","orchestrator":"k8s"}],"addresses":[{"address":"192.0.2.11/24","type":"CalicoNodeIP"}]},"status":{"podCIDRs":["10.0.0.0/24"]}}"#,
        &["node", "node-1"],
    ),
    (
        "workloadendpoints/default/node--1-k8s-web--0-eth0",
        r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"node--1-k8s-web--0-eth0","namespace":"default","uid":"0b22","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"k8s","x":"y"}},"spec":{"orchestrator":"k8s","node":"node-1","containerID":"4f1c","pod":"web-0","endpoint":"eth0","serviceAccountName":"default","ipNetworks":["10.0.0.11/32"],"profiles":["kns.default","ksa.default.default"],"interfaceName":"cali12345678901","mac":"5e:d6:aa:11:22:33","ports":[{"name":"http","protocol":"TCP","port":80,"hostPort":0,"hostIP":""}]}}"#,
        &["wep", "node--1-k8s-web--0-eth0"],
    ),
    (
        "felixconfigurations/default",
        r#"{"kind":"FelixConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"0b23","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"ipipEnabled":false,"logSeverityScreen":"Info","reportingInterval":"0s","bpfConnectTimeLoadBalancing":"TCP","floatingIPs":"Disabled"}}"#,
        &["felixconfig", "default"],
    ),
    (
        "clusterinformations/default",
        r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"0b24","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"clusterGUID":"8a1b","clusterType":"k8s,bgp","calicoVersion":"v3.33.0","datastoreReady":true}}"#,
        &["clusterinfo", "default"],
    ),
    (
        "hostendpoints/node-1-eth0",
        r#"{"kind":"HostEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-1-eth0","uid":"0b25","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"node":"node-1","interfaceName":"eth0","expectedIPs":["192.0.2.11"],"profiles":["p"],"ports":[{"name":"bgp","protocol":"TCP","port":179}]}}"#,
        &["hostendpoint", "node-1-eth0"],
    ),
    (
        "kubecontrollersconfigurations/default",
        r#"{"kind":"KubeControllersConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"0b26","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"logSeverityScreen":"Info","healthChecks":"Enabled","etcdV3CompactionPeriod":"10m0s","prometheusMetricsPort":9094,"controllers":{"node":{"reconcilerPeriod":"5m0s","syncLabels":"Enabled","hostEndpoint":{"autoCreate":"Disabled","createDefaultHostEndpoint":"Enabled"},"leakGracePeriod":"15m0s"},"policy":{"reconcilerPeriod":"5m0s"},"loadBalancer":{"assignIPs":"AllServices"}}},"status":{"runningConfig":{"logSeverityScreen":"Info","healthChecks":"Enabled","controllers":{}}}}"#,
        &["kubecontrollersconfig", "default"],
    ),
    (
        "caliconodestatuses/node-1",
        r#"{"kind":"CalicoNodeStatus","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-1","uid":"0b27","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"node":"node-1","classes":["Agent","BGP"],"updatePeriodSeconds":10},"status":{"lastUpdated":"2026-08-22T10:00:00Z","agent":{"birdV4":{"state":"Ready","version":"v0.3.3","routerID":"192.0.2.11","lastBootTime":"2026-08-22 09:00:00","lastReconfigurationTime":"2026-08-22 09:00:00"},"birdV6":{}},"bgp":{"numberEstablishedV4":1,"numberNotEstablishedV4":0,"numberEstablishedV6":0,"numberNotEstablishedV6":0,"peersV4":[{"peerIP":"192.0.2.12","type":"NodeMesh","state":"Established","since":"09:00:00"}]},"routes":{}}}"#,
        &["caliconodestatus", "node-1"],
    ),
    // Strings that are empty, where an administrator or another client wrote them so.
    (
        "ippools/empty-strings",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"empty-strings","uid":"0b28","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"cidr":"10.8.0.0/24","vxlanMode":"Never","ipipMode":"Never","blockSize":26,"nodeSelector":"all()","namespaceSelector":"","allowedUses":["Workload"],"assignmentMode":"Automatic"}}"#,
        &["ippool", "empty-strings"],
    ),
    (
        "bgppeers/empty-strings",
        r#"{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"empty-strings","uid":"0b29","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"x":"y"}},"spec":{"node":"","peerIP":"192.0.2.1","asNumber":64513,"nextHopMode":"","sourceAddress":"","peerSelector":""}}"#,
        &["bgppeer", "empty-strings"],
    ),
];

/// A block with a tunnel's address and a pod's; what `newBlock` leaves, not yet used; a block whose owner is gone.
const CALICO_BLOCK: (&str, &str) = (
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.8-29",
    r#"{"cidr":"10.0.0.8/29","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[0,null,null,1,null,null,null,null],"unallocated":[1,2,4,5,6,7],"attributes":[{"handle_id":"ipip-tunnel-addr-node-1","secondary":{"node":"node-1","type":"ipipTunnelAddress"}},{"handle_id":"k8s-pod-network.4f1c","secondary":{"namespace":"default","node":"node-1","pod":"web-0","timestamp":"2026-08-22 10:00:00.12 +0000 UTC"}}],"sequenceNumber":1787392800000000003,"sequenceNumberForAllocation":{"0":1787392800000000001,"3":1787392800000000002},"deleted":false}"#,
);
const NEW_BLOCK: (&str, &str) = (
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.16-29",
    r#"{"cidr":"10.0.0.16/29","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,1,2,3,4,5,6,7],"attributes":null,"sequenceNumber":1787392800000000001,"sequenceNumberForAllocation":{},"deleted":false}"#,
);
/// (block, an address that is released, the block then): of IPv6, with text that Go escapes; of services, with a standby owner and an
/// address that cools down; one of the first releases, whose owner stands in `hostAffinity` and whose affinity is empty.
const RELEASES: &[(&str, &str, &str, &str)] = &[
    (
        "/calico/ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::-126",
        r#"{"cidr":"fd80:24e2:f998:72d6::/126","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[0,1,null,null],"unallocated":[3,2],"attributes":[{"handle_id":"k8s-pod-network.6a","secondary":{"namespace":"a\u0026b","node":"node-1","pod":"\u003cweb-0\u003e"}},{"handle_id":"k8s-pod-network.6b","secondary":{"namespace":"default","node":"node-1","pod":"web-1"}}],"sequenceNumber":1787392800000000003,"sequenceNumberForAllocation":{"0":1787392800000000001,"1":1787392800000000002},"deleted":false}"#,
        "fd80:24e2:f998:72d6::1",
        r#"{"cidr":"fd80:24e2:f998:72d6::/126","affinity":"host:node-1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[0,null,null,null],"unallocated":[3,2,1],"attributes":[{"handle_id":"k8s-pod-network.6a","secondary":{"namespace":"a\u0026b","node":"node-1","pod":"\u003cweb-0\u003e"}}],"sequenceNumber":1787392800000000004,"sequenceNumberForAllocation":{"0":1787392800000000001},"deleted":false}"#,
    ),
    (
        "/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-30",
        r#"{"cidr":"10.9.0.0/30","affinity":"virtual:load-balancer","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[2,1,0,null],"unallocated":[3],"attributes":[{"handle_id":"lb-1","secondary":{"namespace":"default","service":"web","type":"LoadBalancer"}},{"handle_id":"lb-2","secondary":{"namespace":"default","service":"db","type":"LoadBalancer"},"alternateOwnerAttrs":{"namespace":"default","service":"db-2"}},{"releasedAt":"2199-01-01T00:00:00Z"}],"sequenceNumber":4,"sequenceNumberForAllocation":{"1":2,"2":1},"deleted":false}"#,
        "10.9.0.2",
        r#"{"cidr":"10.9.0.0/30","affinity":"virtual:load-balancer","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[1,0,null,null],"unallocated":[3,2],"attributes":[{"handle_id":"lb-2","secondary":{"namespace":"default","service":"db","type":"LoadBalancer"},"alternateOwnerAttrs":{"namespace":"default","service":"db-2"}},{"releasedAt":"2199-01-01T00:00:00Z"}],"sequenceNumber":5,"sequenceNumberForAllocation":{"1":2},"deleted":false}"#,
    ),
    (
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.32-29",
        r#"{"cidr":"10.0.0.32/29","affinity":null,"allocations":[0,1,null,null,null,null,null,null],"unallocated":[2,3,4,5,6,7],"attributes":[{"handle_id":"old.1","secondary":{"node":"node-1"}},{"handle_id":"old.2","secondary":{"node":"node-1"}}],"sequenceNumber":3,"sequenceNumberForAllocation":{},"deleted":false,"hostAffinity":"node-1"}"#,
        "10.0.0.32",
        r#"{"cidr":"10.0.0.32/29","affinity":"host:node-1","allocations":[null,0,null,null,null,null,null,null],"unallocated":[2,3,4,5,6,7,0],"attributes":[{"handle_id":"old.2","secondary":{"node":"node-1"}}],"sequenceNumber":4,"sequenceNumberForAllocation":{},"deleted":false}"#,
    ),
];
/// Of the addresses in [`RELEASES`]; those that are released have these handles, the second counts another address still.
const RELEASED: [&str; 3] = ["k8s-pod-network.6b", "lb-1", "old.1"];

const RECORDS: &[(&str, &str)] = &[
    CALICO_BLOCK,
    NEW_BLOCK,
    ("/calico/ipam/v2/host/node-1/ipv6/block/fd80:24e2:f998:72d6::-126", r#"{"state":"confirmed","deleted":false}"#),
    ("/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.9.0.0-30", r#"{"state":"confirmed","deleted":false}"#),
    ("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.32-29", ""),
    ("/calico/ipam/v2/handle/k8s-pod-network.6a", r#"{"block":{"fd80:24e2:f998:72d6::/126":1},"deleted":false}"#),
    ("/calico/ipam/v2/handle/lb-2", r#"{"block":{"10.9.0.0/30":1},"deleted":false}"#),
    ("/calico/ipam/v2/handle/old.2", r#"{"block":{"10.0.0.32/29":1},"deleted":false}"#),
    ("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.8-29", r#"{"state":"confirmed","deleted":false}"#),
    ("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.16-29", r#"{"state":"confirmed","deleted":false}"#),
    ("/calico/ipam/v2/handle/ipip-tunnel-addr-node-1", r#"{"block":{"10.0.0.8/29":1},"deleted":false}"#),
    ("/calico/ipam/v2/handle/k8s-pod-network.4f1c", r#"{"block":{"10.0.0.8/29":1},"deleted":false}"#),
    // Beside ours in the same etcd: not ours, and left alone.
    ("/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.deny", r#"{"kind":"GlobalNetworkPolicy"}"#),
    ("/calico/ipam/v2/host/node-1", ""),
];

#[test]
fn records_of_calico_are_handed_back_as_they_were_but_for_what_was_asked() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Etcd::start());
    let dir = tempfile::tempdir().unwrap();
    for kind in api::Kind::ALL.iter().filter(|k| k.api_version() == api::kind::CALICO_V3) {
        // The configuration of IPAM is a record, below.
        let is_there = RESOURCES.iter().any(|(key, ..)| key.starts_with(&format!("{}/", kind.plural())));
        assert!(is_there || *kind == api::Kind::IpamConfiguration, "no record of {kind}");
    }
    let all: Vec<(String, &str)> = RESOURCES.iter().map(|(key, value, _)| (format!("{V3}{key}"), *value)).collect();
    let releases = RELEASES.iter().map(|(key, before, ..)| (*key, *before));
    let records = RECORDS.iter().copied().chain(releases).map(|(key, value)| (key.to_string(), value));
    let all: Vec<(String, &str)> = all.into_iter().chain(records).collect();
    for (key, value) in &all {
        server.write(key, value);
    }
    let unchanged = |but: &[&str], when: &str| {
        for (key, value) in all.iter().filter(|(key, _)| !but.contains(&key.as_str())) {
            assert_eq!(server.read(key), *value, "{when}: {key}");
        }
    };
    let calicoctl = |args: &[&str]| {
        let env = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", server.endpoint())];
        let outcome = run(&env, dir.path(), args);
        assert_eq!(outcome.code, 0, "{args:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    };

    // Every resource: applied as it is shown, nothing changes; with a label more, nothing but that.
    for (key, value, named) in RESOURCES {
        let shown = calicoctl(&[&["get", "-o", "json"], *named].concat());
        let mut document: Value = serde_json::from_str(&shown).unwrap();
        document["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
        std::fs::write(dir.path().join("r.json"), document.to_string()).unwrap();
        calicoctl(&["apply", "-f", "r.json"]);
        assert_eq!(server.read(&format!("{V3}{key}")), *value, "{key} applied as it is");
        document["metadata"]["labels"]["z"] = "new".into();
        std::fs::write(dir.path().join("r.json"), document.to_string()).unwrap();
        calicoctl(&["apply", "-f", "r.json"]);
        let wanted = value.replace(r#""x":"y"}"#, r#""x":"y","z":"new"}"#);
        assert_eq!(server.read(&format!("{V3}{key}")), wanted, "{key} with a label");
        document["metadata"]["labels"].as_object_mut().unwrap().shift_remove("z");
        std::fs::write(dir.path().join("r.json"), document.to_string()).unwrap();
        calicoctl(&["apply", "-f", "r.json"]);
    }
    unchanged(&[], "after resources");

    // The lock changes one word.
    let cluster = format!("{V3}clusterinformations/default");
    let value = RESOURCES.iter().find(|(key, ..)| key.starts_with("clusterinformations")).unwrap().1;
    calicoctl(&["datastore", "migrate", "lock"]);
    assert_eq!(server.read(&cluster), value.replace("Ready\":true", "Ready\":false"));
    calicoctl(&["datastore", "migrate", "unlock"]);

    // So does the configuration of IPAM.
    server.write(CONFIG, r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":20}"#);
    calicoctl(&["ipam", "configure", "--max-blocks-per-host=4"]);
    assert_eq!(server.read(CONFIG), r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":4}"#);

    // What Calico wrote is right.
    let known = calicoctl(&["ipam", "show", "--show-blocks"]);
    assert!(known.lines().any(|l| l.contains("| 10.0.0.8/29 ") && l.contains("2 (25%)")), "{known}");

    // An address is taken and given back: the block's queue, its number, and nothing else.
    runtime.block_on(async {
        let store = server.open().await;
        let ipam = Ipam::new(store);
        let owner = AffinityOwner::Host("node-1".into());
        let request = AssignRequest {
            num_v4: 1,
            attributes: BTreeMap::from([("pod".into(), "web-1".into())]),
            ..AssignRequest::new(owner, "k8s-pod-network.5a5a")
        };
        let assigned = ipam.auto_assign(&request).await.unwrap();
        assert_eq!(assigned.v4.len(), 1, "{assigned:?}");
        ipam.release_by_handle(&request.handle).await.unwrap();
    });
    let [changed, other] = {
        let mut blocks = [CALICO_BLOCK, NEW_BLOCK];
        blocks.sort_by_key(|(key, value)| server.read(key) == *value);
        blocks
    };
    let (before, after) = (numbered(changed.1), numbered(&server.read(changed.0)));
    assert_eq!(after.1, before.1 + 2, "a number for each write");
    let free = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        value["unallocated"].clone()
    };
    let rotated = before.0.replace(&free(changed.1).to_string(), &free(&server.read(changed.0)).to_string());
    assert_eq!(after.0, rotated.replace("\"attributes\":null", "\"attributes\":[]"));
    assert_eq!(server.read(other.0), other.1);
    unchanged(&[changed.0], "after an allocation");
    assert_eq!(server.read("/calico/ipam/v2/handle/k8s-pod-network.5a5a"), "");

    // An address of each other form of block is given back.
    let handle = |id: &str| format!("/calico/ipam/v2/handle/{id}");
    for ((.., before, address, _), id) in RELEASES.iter().zip(RELEASED) {
        let block: Value = serde_json::from_str(before).unwrap();
        let cidr = block["cidr"].as_str().unwrap();
        server
            .write(&handle(id), &format!(r#"{{"block":{{"{cidr}":1,"10.0.0.248/29":3}},"deleted":false,"later":1}}"#));
        calicoctl(&["ipam", "release", &format!("--ip={address}")]);
    }
    for ((key, .., after), id) in RELEASES.iter().zip(RELEASED) {
        assert_eq!(server.read(key), *after, "{key}");
        assert_eq!(server.read(&handle(id)), r#"{"block":{"10.0.0.248/29":3},"deleted":false,"later":1}"#, "{id}");
    }
    let but: Vec<&str> = RELEASES.iter().map(|(key, ..)| *key).chain([changed.0]).collect();
    unchanged(&but, "after releases");
    // Its node has the block still, and takes the next address there.
    runtime.block_on(async {
        let ipam = Ipam::new(server.open().await);
        let owner = AffinityOwner::Host("node-1".into());
        let given = AssignRequest { addresses: vec!["10.0.0.34".parse().unwrap()], ..AssignRequest::new(owner, "new") };
        ipam.ensure_assigned(&given).await.unwrap();
        let all = AssignRequest { num_v4: 20, addresses: vec![], ..given };
        assert!(ipam.auto_assign(&all).await.unwrap().v4.iter().any(|n| n.trunc() == "10.0.0.32/29".parse().unwrap()));
    });
    let owned: Value = serde_json::from_str(&server.read(RELEASES[2].0)).unwrap();
    assert_eq!(owned["affinity"], "host:node-1");
    assert_eq!(server.read("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.32-29"), "");
}

/// A block without its number, and the number.
fn numbered(block: &str) -> (String, u64) {
    let value: Value = serde_json::from_str(block).unwrap();
    let number = value["sequenceNumber"].as_u64().unwrap();
    (block.replace(&format!("\"sequenceNumber\":{number}"), "\"sequenceNumber\":0"), number)
}
