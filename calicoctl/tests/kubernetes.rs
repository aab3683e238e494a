//! `calicoctl` with the Kubernetes API as the store: the real binary, a real API server, and what `kubectl` reads of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use api::key::{AffinityOwner, KeyRange};
use api::kind::{CALICO_CRD_V1, CALICO_V3};
use api::workload::k8s_endpoint_name;
use api::{Key, Kind};
use datastore::Error;
use datastore::config::StoreConfig;
use datastore::watcher::{self, Update};
use ipam::{AssignRequest, Ipam};
use serde_json::{Value, json};

#[path = "../../tests/cluster/api_server.rs"]
#[allow(dead_code, reason = "others include it too, and use more of it")]
mod api_server;

use api_server::{Server, open, root};

/// Exit code and what was printed, both ways.
fn calicoctl(kubeconfig: &Path, args: &[&str], stdin: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(args)
        .env("DATASTORE_TYPE", "kubernetes")
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// As `calicoctl`, of which it is an error to fail.
fn succeeds(kubeconfig: &Path, args: &[&str], stdin: &str) -> String {
    let (code, text) = calicoctl(kubeconfig, args, stdin);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

fn path(relative: &str) -> String {
    root().join(relative).to_str().unwrap().into()
}

/// A server with the definitions and the rights that operators apply.
fn with_rights() -> &'static Server {
    static APPLIED: std::sync::Once = std::sync::Once::new();
    let server = Server::shared();
    APPLIED.call_once(|| server.give_rights());
    server
}

const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/16, blockSize: 26, nodeSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {peerIP: 10.0.0.254, asNumber: 64512, holdTime: 9s}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64600, nodeToNodeMeshEnabled: false}
---
apiVersion: projectcalico.org/v3
kind: IPAMConfiguration
metadata: {name: default}
spec: {strictAffinity: true, autoAllocateBlocks: true}
---
apiVersion: tortie.io/v1
kind: LoadBalancerIPPool
metadata: {name: services}
spec: {blocks: [{cidr: 20.0.10.0/24}, {start: 20.0.20.1, stop: 20.0.20.9}]}
";

const CILIUMS: &str = "
apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPool
metadata: {name: blue-pool}
spec:
  cidrs: [{cidr: 20.0.10.0/24}]
  serviceSelector:
    matchExpressions:
    - {key: color, operator: In, values: [blue, cyan]}
";

#[test]
#[ignore = "needs a Kubernetes API server"]
fn resources_are_applied_and_read_by_both_programs() {
    let server = Server::bare();
    let admin = server.kubeconfig();
    let (code, text) = calicoctl(&admin, &["apply", "-f", "-"], RESOURCES);
    assert!(code == 1 && text.contains("apply the CRDs"), "without CRDs: {text}");

    server.define();
    let text = succeeds(&admin, &["apply", "-f", "-"], RESOURCES);
    assert!(text.contains("Successfully applied 5"), "{text}");
    // Who may not write applies the same again: nothing is written.
    let reader = server.reader();
    succeeds(&reader, &["apply", "-f", "-"], RESOURCES);

    let table = succeeds(&admin, &["get", "ippools"], "");
    assert!(table.contains("pods") && table.contains("10.244.0.0/16"), "{table}");
    let yaml = succeeds(&admin, &["get", "bgppeer", "rack", "-o", "yaml"], "");
    for part in ["holdTime: 9s", "peerIP: 10.0.0.254", "apiVersion: projectcalico.org/v3"] {
        assert!(yaml.replace('"', "").contains(part), "{yaml}");
    }
    let yaml = succeeds(&admin, &["get", "ipamconfig", "default", "-o", "yaml"], "");
    assert!(yaml.contains("strictAffinity: true"), "{yaml}");

    let read = |kind: &str, name: &str, path: &str| {
        server.kubectl(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")], "")
    };
    assert_eq!(read("ippools.crd.projectcalico.org", "pods", ".spec.cidr"), "10.244.0.0/16");
    assert_eq!(read("bgpconfigurations.crd.projectcalico.org", "default", ".spec.asNumber"), "64600");
    assert_eq!(read("ipamconfigs.crd.projectcalico.org", "default", ".spec.strictAffinity"), "true");
    assert_eq!(read("bgppeers.crd.projectcalico.org", "rack", ".metadata.annotations.tortie\\.io/holdTime"), "\"9s\"");

    // The documents of the examples, twice.
    let examples = [
        "docs/examples/calico-bgp/v3",
        "docs/examples/calico-bgp/crd-v1",
        "docs/examples/services/loadbalancer-pool.yaml",
    ];
    for example in examples.iter().chain(&examples) {
        succeeds(&admin, &["apply", "-f", &path(example)], "");
    }
    succeeds(&admin, &["apply", "-f", "-"], CILIUMS);
    succeeds(&reader, &["apply", "-f", "-"], CILIUMS);
    assert_eq!(read("loadbalancerippools.tortie.io", "blue-pool", ".spec.blocks[0].cidr"), "20.0.10.0/24");

    // What the server would not take is refused before anything is sent; what it refuses, it says why.
    let (code, text) = calicoctl(&admin, &["apply", "-f", "-"], &RESOURCES.replace("10.244.0.0/16", "10.245.0.0/16"));
    assert!(code == 1 && text.contains("CIDR") && text.contains("nothing was applied"), "{text}");
    succeeds(&admin, &["delete", "bgppeer", "rack"], "");
    let (code, text) = calicoctl(&admin, &["get", "bgppeer", "rack"], "");
    assert!(code == 1 && text.contains("resource does not exist: BGPPeer(rack)"), "{text}");

    // A cluster's nodes are its own; what Calico knows of one is changed.
    server.kubectl(
        &["create", "-f", "-"],
        r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"rack": "a"}}}"#,
    );
    let node = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-1, labels: {route-reflector: 'true'}}
spec: {bgp: {asNumber: 64700, ipv4Address: 10.0.0.1/24}}
";
    succeeds(&admin, &["apply", "-f", "-"], node);
    assert_eq!(read("node", "node-1", ".metadata.annotations.projectcalico\\.org/ASNumber"), "64700");
    let yaml = succeeds(&admin, &["get", "node", "node-1", "-o", "yaml"], "");
    for part in ["route-reflector: true", "rack: a", "ipv4Address: 10.0.0.1/24"] {
        assert!(yaml.replace(['\'', '"'], "").contains(part), "{yaml}");
    }
    succeeds(&reader, &["apply", "-f", "-"], node);
}

/// The server itself checks what it is given: our definitions, unknown fields and all, and documents of our kinds.
#[test]
#[ignore = "needs a Kubernetes API server"]
fn the_definitions_hold_what_they_promise() {
    let server = Server::shared();
    let strictly = |collection: &str, document: &Value| {
        let at = format!("{collection}?dryRun=All&fieldValidation=Strict");
        server.try_kubectl(&["create", "--raw", &at, "-f", "-"], &document.to_string())
    };
    let documents = |file: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(file).unwrap();
        serde_yaml::from_multiple(&text).unwrap()
    };
    let files = |folder: &str| -> Vec<_> {
        std::fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().path()).collect()
    };
    for file in files("crds") {
        for mut definition in documents(&file) {
            // Those that are there: a definition of the same names in another group is as new as they were.
            let spec = definition["spec"].as_object_mut().unwrap();
            let plural = spec["names"]["plural"].as_str().unwrap().to_string();
            spec.insert("group".into(), "test.tortie.io".into());
            definition["metadata"]["name"] = format!("{plural}.test.tortie.io").into();
            let outcome = strictly("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition);
            outcome.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
    }
    for folder in ["docs/examples/calico-bgp/crd-v1", "docs/examples/services"] {
        for file in files(folder) {
            for mut document in documents(&file) {
                // Another test may have applied it.
                document["metadata"]["name"] =
                    format!("{}-strict", document["metadata"]["name"].as_str().unwrap()).into();
                let kind = document["kind"].as_str().unwrap().to_string();
                let Some(kind) = Kind::ALL.iter().find(|k| k.as_str() == kind) else {
                    assert!(api::load_balancer_ip_pool::is_cilium(&document), "{kind}");
                    continue;
                };
                // Users' documents of Calico's kinds are stored as these.
                if document["apiVersion"] == CALICO_V3 {
                    document["apiVersion"] = CALICO_CRD_V1.into();
                }
                let version = document["apiVersion"].as_str().unwrap().to_string();
                let root = if version.contains('/') { "apis" } else { "api" };
                let mut within = "";
                if kind.is_namespaced() {
                    document["metadata"]["namespace"] = "default".into();
                    within = "/namespaces/default";
                }
                let outcome = strictly(&format!("/{root}/{version}{within}/{}", kind.plural()), &document);
                outcome.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
    }
    let pool = |blocks: Value| {
        let document = json!({"apiVersion": "tortie.io/v1", "kind": "LoadBalancerIPPool", "metadata": {"name": "p"}, "spec": {"blocks": blocks}});
        strictly("/apis/tortie.io/v1/loadbalancerippools", &document)
    };
    for blocks in [
        json!([{"cidr": "10.0.0.0/24"}, {"start": "10.1.0.1"}, {"start": "10.1.0.2", "stop": "10.1.0.255"}]),
        json!([{"cidr": "fd00::/64"}, {"start": "fd01::", "stop": "FD01::ffff"}, {"start": "fd02:0:0:0:0:0:0:1"}]),
        json!([{"start": "::ffff:10.0.0.1", "stop": ""}]),
    ] {
        pool(blocks.clone()).unwrap_or_else(|e| panic!("{blocks}: {e}"));
    }
    for (blocks, part) in [
        (json!([]), "a pool has at least one block"),
        (json!([{}]), "a block has a cidr, or a start"),
        (json!([{"cidr": "10.0.0.0/33"}]), "cidr"),
        (json!([{"cidr": "10.0.0.0/24", "start": "10.0.0.1"}]), "not both"),
        (json!([{"stop": "10.0.0.1"}]), "start is required when stop is set"),
        (json!([{"start": "banana"}]), "start"),
        (json!([{"start": "10.0.0.256"}]), "start"),
        (json!([{"start": "10.0.0.1", "stop": "10.0.0"}]), "stop"),
        (json!([{"start": "10.0.0.1", "stop": "10.0.0.1/32"}]), "stop"),
        (json!([{"begin": "10.0.0.1"}]), "begin"),
    ] {
        let refusal = pool(blocks.clone()).expect_err(&blocks.to_string());
        assert!(refusal.contains(part), "{blocks}: \"{refusal}\" lacks \"{part}\"");
    }
}

/// A pod of a node, with an address as the plugin writes it.
fn pod(name: &str, node: &str, address: IpAddr) -> Value {
    let annotations = json!({"cni.projectcalico.org/podIP": format!("{address}/32"), "cni.projectcalico.org/podIPs": format!("{address}/32")});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    })
}

/// Many clients, each with a connection of its own, allocate and release at once, one write after another; what is left is exact.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn many_clients_at_once_share_the_addresses() {
    const NODES: usize = 4;
    const CLIENTS_PER_NODE: usize = 3;
    const EACH: usize = 6;
    let server = with_rights();
    let (cni, operator) = (server.account("tortie-cni"), server.account("tortie-calicoctl"));
    let pool = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: crowd}, spec: {cidr: 10.60.0.0/24, blockSize: 28}}";
    succeeds(&operator, &["apply", "-f", "-"], pool);
    let nodes: Vec<Value> = (0..NODES)
        .map(|n| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("crowd-{n}")}}))
        .collect();
    server.kubectl(&["create", "-f", "-"], &json!({"apiVersion": "v1", "kind": "List", "items": nodes}).to_string());

    let mut clients = Vec::new();
    for client in 0..NODES * CLIENTS_PER_NODE {
        let ipam = Ipam::new(open(&cni).await);
        clients.push(tokio::spawn(async move {
            let node = format!("crowd-{}", client % NODES);
            let mut kept = Vec::new();
            for n in 0..EACH {
                let name = format!("p{client}-{n}");
                let mut request = AssignRequest::new(AffinityOwner::Host(node.clone()), format!("net.{name}"));
                request.num_v4 = 1;
                request.attributes = [("pod".into(), name.clone()), ("namespace".into(), "default".into())].into();
                let assigned = ipam.auto_assign(&request).await.unwrap();
                let [address] = assigned.v4[..] else { panic!("{assigned:?}") };
                // Every third goes back at once, by its handle.
                if n % 3 == 2 {
                    ipam.release_by_handle(&format!("net.{name}")).await.unwrap();
                } else {
                    kept.push((name, node.clone(), address.addr()));
                }
            }
            kept
        }));
    }
    let mut kept = Vec::new();
    for client in clients {
        kept.extend(client.await.unwrap());
    }
    let distinct: BTreeSet<IpAddr> = kept.iter().map(|(.., address)| *address).collect();
    assert_eq!((kept.len(), distinct.len()), (NODES * CLIENTS_PER_NODE * EACH * 2 / 3, kept.len()));

    let pods: Vec<Value> = kept.iter().map(|(name, node, address)| pod(name, node, *address)).collect();
    server.kubectl(&["create", "-f", "-"], &json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
    let text = succeeds(&operator, &["ipam", "check"], "");
    assert!(text.contains("48"), "{text}");
    let text = succeeds(&operator, &["ipam", "show", "--show-blocks"], "");
    assert!(text.contains("10.60.0.0/24") && text.contains("48 ("), "{text}");
    let (name, _, address) = &kept[0];
    let text = succeeds(&operator, &["ipam", "show", &format!("--ip={address}")], "");
    assert!(text.contains(name.as_str()), "{text}");
    // kubectl shows the same blocks.
    let affinities = server.kubectl(&["get", "blockaffinities", "-o", "jsonpath={.items[*].spec.state}"], "");
    assert!(affinities.split(' ').all(|state| state == "confirmed"), "{affinities}");

    // One address without its pod is found, and released; then nothing is wrong.
    server.kubectl(&["delete", "pod", name, "--grace-period=0", "--force"], "");
    let (code, text) = calicoctl(&operator, &["ipam", "check"], "");
    assert!(code == 1 && text.contains(&address.to_string()), "{text}");
    succeeds(&operator, &["ipam", "release", &format!("--ip={address}")], "");
    succeeds(&operator, &["ipam", "check"], "");
    let left = server.kubectl(&["get", "ipamhandles", "-o", "name"], "");
    assert_eq!(left.lines().filter(|l| l.contains("/net.p")).count(), kept.len() - 1, "{left}");
}

/// Each program has exactly the rights that it needs, and a message for one that it lacks.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn the_rights_of_the_manifest_are_enough_and_no_more() {
    let server = with_rights();
    server.kubectl(&["create", "-f", "-"], r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "rights-1"}}"#);
    server.kubectl(&["create", "-f", "-"], &pod("rights", "rights-1", "10.61.0.9".parse().unwrap()).to_string());
    let operator = server.account("tortie-calicoctl");
    succeeds(&operator, &["apply", "-f", &path("docs/examples/calico-bgp/v3/bgppeer-1.yaml")], "");
    let edge = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: rights}, spec: {cidr: 10.61.0.0/24, blockSize: 28}}";
    succeeds(&operator, &["apply", "-f", "-"], edge);
    let node = "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: rights-1}, spec: {bgp: {ipv4Address: 10.0.0.7/24}}}";
    succeeds(&operator, &["apply", "-f", "-"], node);
    for command in [
        &["get", "nodes"][..],
        &["get", "workloadendpoints", "-A"],
        &["get", "services", "-A"],
        &["ipam", "show"],
        &["ipam", "configure", "--strictaffinity=false"],
        &["datastore", "migrate", "lock"],
        &["datastore", "migrate", "export"],
        &["datastore", "migrate", "unlock"],
        &["plan", "--node", "rights-1"],
    ] {
        succeeds(&operator, command, "");
    }

    // What each daemon follows.
    let bgp = bgp_plan::resources::Resources::default();
    let felix = [Kind::FelixConfiguration, Kind::Node, Kind::WorkloadEndpoint, Kind::Service, Kind::EndpointSlice];
    let more = [Kind::WorkloadEndpoint, Kind::Service].map(KeyRange::Kind);
    let addresses = ipam::followed(&[AffinityOwner::Host("rights-1".into())]);
    let rows = [
        ("tortie-felix", felix.map(KeyRange::Kind).into_iter().chain(addresses).collect()),
        ("tortie-bgpd", bgp.ranges("rights-1").into_iter().chain(more).collect::<Vec<_>>()),
    ];
    for (account, ranges) in rows {
        let mut updates = watcher::watch(open(&server.account(account)).await, ranges);
        let in_sync = async { while updates.recv().await.unwrap() != Update::InSync {} };
        let synced = tokio::time::timeout(std::time::Duration::from_secs(20), in_sync).await;
        assert!(synced.is_ok(), "{account} is not in sync");
    }
    // felix gives and takes addresses for the plugin; the plugin writes the endpoint.
    let felix = Ipam::new(open(&server.account("tortie-felix")).await);
    let mut request = AssignRequest::new(AffinityOwner::Host("rights-1".into()), "net.rights");
    request.num_v4 = 1;
    assert_eq!(felix.auto_assign(&request).await.unwrap().v4.len(), 1);
    felix.release_by_handle("net.rights").await.unwrap();
    let cni = open(&server.account("tortie-cni")).await;
    let endpoint =
        Key::resource(Kind::WorkloadEndpoint, Some("default"), &k8s_endpoint_name("rights-1", "rights", "eth0"));
    let there = cni.get(&endpoint).await.unwrap().unwrap();
    cni.update(endpoint.clone(), there.value, there.mod_revision).await.unwrap();
    cni.delete(endpoint, None).await.unwrap();
    assert!(cni.get(&Key::resource(Kind::Namespace, None, "default")).await.unwrap().is_some());
    assert_eq!(cni.get(&Key::resource(Kind::ClusterInformation, None, "default")).await.unwrap().map(|_| ()), Some(()));

    // Nobody may more: the message names who, what and where to look.
    let refused = |outcome: Result<u64, Error>, verb: &str, resource: &str| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        let text = error.to_string();
        for part in [verb, resource, "system:serviceaccount:kube-system:tortie-", "deploy/kubernetes/rbac.yaml"] {
            assert!(text.contains(part), "\"{text}\" lacks \"{part}\"");
        }
    };
    let pool = Key::resource(Kind::IpPool, None, "rights");
    let bgpd = open(&server.account("tortie-bgpd")).await;
    refused(bgpd.create(pool.clone(), b"{\"spec\":{\"cidr\":\"10.1.0.0/24\"}}".into()).await, "create", "ippools");
    refused(cni.delete(pool, None).await, "delete", "ippools");
    refused(bgpd.list(&KeyRange::Kind(Kind::EndpointSlice)).await.map(|l| l.revision), "list", "endpointslices");
    let error = bgpd.watch(&KeyRange::Handles, 1).await.map(|_| 0);
    refused(error, "list", "ipamhandles");
    let (code, text) = calicoctl(&server.account("tortie-bgpd"), &["ipam", "show"], "");
    assert!(code == 1 && text.contains("cannot list") && text.contains("deploy/kubernetes/rbac.yaml"), "{text}");
    let manifest = |account: &str| format!("--as=system:serviceaccount:kube-system:{account}");
    for (account, verb, what) in [
        ("tortie-felix", "update", "services"),
        ("tortie-felix", "list", "secrets"),
        ("tortie-cni", "delete", "pods"),
        ("tortie-bgpd", "update", "nodes"),
        ("tortie-bgpd", "get", "secrets"),
        ("tortie-controller", "delete", "services"),
        ("tortie-controller", "update", "nodes"),
        ("tortie-calicoctl", "create", "pods"),
        ("tortie-calicoctl", "delete", "nodes"),
    ] {
        let may = server.try_kubectl(&["auth", "can-i", verb, what, &manifest(account)], "");
        assert!(may.is_err(), "{account} may {verb} {what}");
    }
}

/// Of what another store has as Calico writes it: a pool without what the API server fills in, a block that nobody has used, and one whose
/// owner stands in the field of Calico's first releases.
const RECORDS: [(&str, &str); 3] = [
    (
        "/calico/resources/v3/projectcalico.org/ippools/pods",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"pods"},"spec":{"cidr":"10.0.0.0/16","blockSize":30}}"#,
    ),
    (
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30",
        r#"{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":null,"deleted":false}"#,
    ),
    (
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.4-30",
        r#"{"cidr":"10.0.0.4/30","affinity":null,"hostAffinity":"n","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":null}],"deleted":false}"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn an_import_can_be_run_again() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("store.db");
    let old = StoreConfig::Sqlite { path: database.clone() }.open().await.unwrap();
    for (key, value) in RECORDS {
        old.put(Key::parse(key).unwrap(), value.as_bytes().to_vec()).await.unwrap();
    }
    let mut exported = String::new();
    for action in ["lock", "export"] {
        let output = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
            .args(["datastore", "migrate", action])
            .env("DATASTORE_TYPE", "sqlite")
            .env("SQLITE_PATH", &database)
            .output()
            .unwrap();
        assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
        exported = String::from_utf8(output.stdout).unwrap();
    }
    let file = directory.path().join("export.yaml");
    std::fs::write(&file, exported).unwrap();
    let import = ["datastore", "migrate", "import", "-f", file.to_str().unwrap()];
    for _ in 0..2 {
        succeeds(&server.kubeconfig(), &import, "");
    }
    let blocks = open(&server.kubeconfig()).await.list(&KeyRange::Blocks).await.unwrap().items;
    let owners = blocks.iter().map(|kv| serde_json::from_slice::<Value>(&kv.value).unwrap()["affinity"].clone());
    assert_eq!(owners.collect::<Vec<_>>(), ["host:n", "host:n"]);
}
