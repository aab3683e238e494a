//! datastore migrate: what one store holds, another holds afterwards.

use etcd_server::Etcd;

use super::*;

/// Everything that Calico's file has a place for, and what it has none for.
fn filled() -> Fleet {
    let fleet = Fleet::with_a_pod();
    fleet.put_all(&[
        (
            "/calico/resources/v3/projectcalico.org/ippools/lb",
            &json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "lb"},
            "spec": {"cidr": "10.9.0.0/24", "blockSize": 31, "allowedUses": ["LoadBalancer"]}}),
        ),
        (CONFIG, &json!({"auto_allocate_blocks": true, "maxBlocksPerHost": 20})),
        ("/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.9.0.0-31", &json!({"state": "confirmed", "deleted": false})),
        ("/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-31", &json!({"cidr": "10.9.0.0/31", "affinity": "virtual:load-balancer",
            "allocations": [null, null], "unallocated": [0, 1], "attributes": [], "sequenceNumber": 1,
            "sequenceNumberForAllocation": {}, "deleted": false})),
        ("/calico/resources/v3/projectcalico.org/bgppeers/rack", &json!({"kind": "BGPPeer", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "rack", "uid": "5d6f", "creationTimestamp": "2026-08-22T10:00:00Z",
                "annotations": {"tortie.io/holdTime": "\"9s\""}},
            "spec": {"peerIP": "192.0.2.1", "asNumber": 64512, "nodeSelector": "rack == 'a' && !has(off)"}})),
        ("/calico/resources/v3/projectcalico.org/bgpconfigurations/node.node-1", &json!({"kind": "BGPConfiguration",
            "apiVersion": "projectcalico.org/v3", "metadata": {"name": "node.node-1"}, "spec": {"listenPort": 178}})),
        ("/tortie/resources/services/default/web", &json!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})),
    ]);
    fleet
}

/// Path and value of everything but the ClusterInformation, which is locked at other times.
fn content(fleet: &Fleet) -> Vec<(String, Value)> {
    let all = fleet.all().into_iter().filter(|(path, ..)| path != CLUSTER);
    all.map(|(path, text, _)| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            // An import gives them to those that have none.
            metadata.retain(|name, v| {
                !(name == "uid" && *v != "5d6f" || name == "creationTimestamp" && *v != "2026-08-22T10:00:00Z")
            });
        }
        (path, value)
    })
    .collect()
}

#[test]
fn an_export_is_what_calicos_import_reads() {
    let fleet = filled();
    let refused = fleet.fails(&["datastore", "migrate", "export"]);
    assert!(refused.stderr.starts_with("datastore is not locked. Run the `calicoctl datastore migrate lock` command"));
    assert_eq!(fleet.ok(&["datastore", "migrate", "lock"]), "Datastore locked.\n");
    let outcome = fleet.run(&["datastore", "migrate", "export"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("IPPools: 2 exported\n"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("Secret"), "{}", outcome.stderr);
    let secret = "/tortie/resources/secrets/default/bgp";
    fleet.put(
        secret,
        &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "bgp", "namespace": "default"}}),
    );
    let with_secret = fleet.run(&["datastore", "migrate", "export"]).stderr;
    assert!(with_secret.contains("warning: the export holds the content of 1 Secrets"), "{with_secret}");
    fleet.delete(secret);
    assert!(outcome.stderr.contains("IPAM: 2 affinities, 2 blocks, 1 handles exported\n"), "{}", outcome.stderr);
    let parts: Vec<&str> = outcome.stdout.split("===\n").collect();
    assert_eq!(parts.len(), 3, "as Calico splits it");
    let lists: Vec<&str> = parts[0].lines().filter_map(|l| l.strip_prefix("kind: ")).collect();
    assert_eq!(
        lists,
        [
            "IPPoolList",
            "BGPPeerList",
            "HostEndpointList",
            "KubeControllersConfigurationList",
            "NodeList",
            "BGPConfigurationList",
            "FelixConfigurationList",
            "IPReservationList",
            "BGPFilterList"
        ],
        "in Calico's order"
    );
    assert!(
        parts[0].contains("tortie.io/holdTime: '\"9s\"'") || parts[0].contains("tortie.io/holdTime: \"\\\"9s\\\"\""),
        "{}",
        parts[0]
    );
    let cluster: Value = serde_json::from_str(parts[1]).unwrap();
    assert_eq!(cluster["spec"]["clusterGUID"], "guid-1");
    let ipam: Value = serde_json::from_str(parts[2]).unwrap();
    let fields: Vec<&String> = ipam.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["block_affinities", "blocks", "handles", "config", "tortie"]);
    assert_eq!(
        ipam["handles"][0],
        json!({"Key": HANDLE, "Value": {"block": {"10.0.0.8/29": 1}, "deleted": false}, "TTL": 0})
    );
    assert_eq!(ipam["blocks"][0]["Value"], fleet.get(BLOCK).unwrap());
    let others: Vec<&str> = ipam["tortie"].as_array().unwrap().iter().map(|r| r["Key"].as_str().unwrap()).collect();
    assert_eq!(others, [WEP, "/tortie/resources/services/default/web"]);
}

/// (what is no JSON, the command, what is said, the exit code)
#[test]
fn what_is_no_json_is_named_and_keeps_nobody_from_the_rest() {
    const SLICE: &str = "/tortie/resources/endpointslices/default/broken";
    let garbage = |fleet: &Fleet, path: &str| {
        fleet.runtime.block_on(fleet.store.put(Key::parse(path).unwrap(), b"no JSON".into())).unwrap();
    };
    let fleet = filled();
    fleet.put(
        "/tortie/resources/endpointslices/default/web",
        &json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "web", "namespace": "default"},
            "addressType": "IPv4", "endpoints": []}),
    );
    garbage(&fleet, SLICE);
    let said = format!("{SLICE} holds what cannot be read: expected ident at line 1 column 2");
    let shown = fleet.fails(&["get", "endpointslices"]);
    assert!(shown.stdout.contains("web    IPv4"), "{}", shown.stdout);
    assert_eq!(shown.stderr, format!("failed to get resources: {said}; apply it anew, or delete it by its name\n"),);
    let one = fleet.fails(&["get", "endpointslice", "broken", "web", "-o", "yaml"]);
    assert!(one.stdout.contains("name: web") && one.stderr.contains(&said), "{}{}", one.stdout, one.stderr);
    fleet.ok(&["datastore", "migrate", "lock"]);
    let refused = fleet.fails(&["datastore", "migrate", "export"]);
    assert!(refused.stderr.contains(&said) && refused.stdout.is_empty(), "{}", refused.stderr);
    let deleted = fleet.run(&["delete", "endpointslice", "broken"]);
    assert_eq!((deleted.code, deleted.stderr), (0, format!("warning: {said}; it is deleted as it is\n")));
    let file = fleet.ok(&["datastore", "migrate", "export"]);
    std::fs::write(fleet.path("a.yaml"), &file).unwrap();
    fleet.ok(&["datastore", "migrate", "unlock"]);

    // What is in the way of no key of the file does not stop an import; what is, does.
    let to = Fleet::new();
    garbage(&to, SLICE);
    let import = |to: &Fleet| to.run(&["datastore", "migrate", "import", "-f", &fleet.path("a.yaml")]);
    garbage(&to, CLUSTER);
    let before = to.all();
    let stopped = import(&to);
    let said = format!("{CLUSTER} holds what cannot be read: expected ident at line 1 column 2");
    assert_eq!((stopped.code, stopped.stderr), (1, format!("{said}\n")));
    assert_eq!(to.all(), before);
    to.delete(CLUSTER);
    assert_eq!(import(&to).code, 0);

    garbage(&fleet, CLUSTER);
    for command in
        [["datastore", "migrate", "lock"], ["datastore", "migrate", "unlock"], ["datastore", "migrate", "export"]]
    {
        let refused = fleet.fails(&command);
        assert!(refused.stderr.contains(&said) && refused.stdout.is_empty(), "{command:?}: {}", refused.stderr);
    }
    assert!(fleet.fails(&["get", "clusterinfo"]).stderr.contains(&said));
    let checked = fleet.fails(&["ipam", "check"]);
    assert!(checked.stdout.contains("Found 1 records that cannot be read."), "{}", checked.stdout);
    assert!(checked.stdout.contains(&format!("  {CLUSTER} cannot be read: expected ident at line 1 column 2.\n")));
    assert_eq!(checked.stderr, "1 problem\n", "the rest is checked, and right");
    let unknown = fleet.fails(&["ipam", "check", "-o", &fleet.path("report.json")]);
    assert!(unknown.stderr.contains("no report is written") && unknown.stderr.contains(CLUSTER), "{}", unknown.stderr);
    let mended = "apiVersion: projectcalico.org/v3\nkind: ClusterInformation\nmetadata: {name: default}\nspec: {clusterGUID: guid-1}\n";
    std::fs::write(fleet.path("cluster.yaml"), mended).unwrap();
    fleet.ok(&["apply", "-f", &fleet.path("cluster.yaml")]);
    let cluster = fleet.get(CLUSTER).unwrap();
    assert!(cluster["spec"]["clusterGUID"] == "guid-1" && cluster["metadata"]["uid"].is_string(), "{cluster}");
    fleet.ok(&["ipam", "check"]);
}

/// Kinds and keys that this program does not have are not in the file, and nobody shall learn that from what is missing afterwards.
#[test]
fn an_export_tells_what_it_leaves_out() {
    let from = filled();
    let server = from.runtime.block_on(Etcd::start());
    let env = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", server.endpoint())];
    let etcd = |args: &[&str]| {
        let outcome = run(&env, from.dir.path(), args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
        outcome
    };
    from.ok(&["datastore", "migrate", "lock"]);
    std::fs::write(from.path("a.yaml"), from.ok(&["datastore", "migrate", "export"])).unwrap();
    etcd(&["datastore", "migrate", "import", "-f", "a.yaml"]);
    let silent = etcd(&["datastore", "migrate", "export"]);
    assert!(!silent.stderr.contains("left out"), "{}", silent.stderr);
    let v3 = "/calico/resources/v3/projectcalico.org";
    for path in [
        format!("{v3}/networkpolicies/default/a"),
        format!("{v3}/networkpolicies/other/a"),
        format!("{v3}/tiers/default"),
        "/calico/felix/v2/no-region/host/node-1/status".into(),
        "/calico/ipam/v2/host/node-1".into(),
        "/tortie/election/controller".into(),
        "/tortie/resources/laterkinds/a".into(),
    ] {
        server.write(&path, "{}");
    }
    let told = etcd(&["datastore", "migrate", "export"]);
    assert_eq!(told.stdout.matches("networkpolicies").count(), 0);
    for line in [
        format!("warning: left out: 2 networkpolicies ({v3}/networkpolicies/): this version has no such kind"),
        format!("warning: left out: 1 tiers ({v3}/tiers/): this version has no such kind"),
        "warning: left out: 1 laterkinds (/tortie/resources/laterkinds/): this version has no such kind".into(),
        "warning: left out: 1 below /calico/felix/v2/: this version does not know what that is".into(),
        "left out: 1 below /calico/ipam/v2/host/: empty markers, which nothing reads".into(),
        "left out: 1 below /tortie/election/: who leads in this store".into(),
    ] {
        assert!(told.stderr.lines().any(|l| l == line), "{line}\n{}", told.stderr);
    }
    assert_eq!(told.stderr.matches("left out").count(), 6, "{}", told.stderr);
    let node = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"node-1"},"spec":{"orchRefs":[{"orchestrator":"k8s","nodeName":"w"}]}}"#;
    server.write(NODE, node);
    let renamed = etcd(&["datastore", "migrate", "export", "--kubernetes-node-names"]);
    let line = "warning: left out: 1 workloadendpoints: Kubernetes makes its own from Pods";
    assert!(renamed.stderr.lines().any(|l| l == line), "{}", renamed.stderr);
}

#[test]
fn nodes_get_the_names_that_kubernetes_has_for_them() {
    let fleet = filled();
    let mut node = fleet.get(NODE).unwrap();
    fleet.ok(&["datastore", "migrate", "lock"]);
    let missing = fleet.fails(&["datastore", "migrate", "export", "--kubernetes-node-names"]);
    assert!(missing.stderr.contains("node node-1 missing a 'k8s' orchestrator reference"), "{}", missing.stderr);
    node["spec"]["orchRefs"] = json!([{"orchestrator": "k8s", "nodeName": "worker-1"}]);
    fleet.put(NODE, &node);
    fleet.put("/calico/ipam/v2/handle/vxlan-v6-tunnel-addr-node-1", &json!({"block": {}, "deleted": false}));
    for (kind, plural) in
        [("BGPPeer", "bgppeers"), ("HostEndpoint", "hostendpoints"), ("CalicoNodeStatus", "caliconodestatuses")]
    {
        fleet.put(
            &format!("/calico/resources/v3/projectcalico.org/{plural}/of-node"),
            &json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": "of-node"},
                "spec": {"node": "node-1"}}),
        );
    }
    let kept = fleet.run(&["datastore", "migrate", "export"]);
    assert!(kept.stderr.contains("warning: node node-1 is worker-1 in Kubernetes"), "{}", kept.stderr);
    assert!(kept.stdout.contains("host:node-1"));
    let text = fleet.ok(&["datastore", "migrate", "export", "--kubernetes-node-names"]);
    for wanted in [
        "name: worker-1\n",
        "name: node.worker-1\n",
        "\"affinity\": \"host:worker-1\"",
        "\"node\": \"worker-1\"",
        "/calico/ipam/v2/host/worker-1/ipv4/block/10.0.0.8-29",
        "/calico/ipam/v2/handle/vxlan-v6-tunnel-addr-worker-1",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    for gone in ["host:node-1", "host/node-1", "node: node-1", "\"node\": \"node-1\"", "node--1"] {
        assert!(!text.contains(gone), "{gone}\n{text}");
    }
}

#[test]
fn an_import_makes_the_other_store_the_same_and_can_be_interrupted() {
    let from = filled();
    from.ok(&["datastore", "migrate", "lock"]);
    let file = from.ok(&["datastore", "migrate", "export"]);
    let to = Fleet::new();
    std::fs::write(to.path("export.yaml"), &file).unwrap();
    // Somebody was here before, and was interrupted.
    to.put(BLOCK, &from.get(BLOCK).unwrap());
    let import: &[&str] = &["datastore", "migrate", "import", "-f", "export.yaml"];
    let wanted = "\
Successfully applied 5 resource(s)
Successfully applied 5 IPAM resource(s), 1 were there already
Successfully applied 2 other object(s)
Datastore information successfully imported. Please refer to the datastore migration documentation for next steps.
The datastore is locked until `calicoctl datastore migrate unlock`.
";
    assert_eq!(to.ok(import), wanted);
    assert_eq!(content(&to), content(&from));
    let cluster = to.get(CLUSTER).unwrap();
    assert_eq!(
        cluster["spec"],
        json!({"clusterGUID": "guid-1", "datastoreReady": false, "calicoVersion": "v3.33.0",
        "clusterType": "k8s,bgp"})
    );
    let before = to.all();
    assert!(to.ok(import).starts_with("Successfully applied 0 resource(s), 5 were there already\n"));
    assert_eq!(to.all(), before, "a second import writes nothing");
    assert_eq!(to.ok(&["datastore", "migrate", "unlock"]), "Datastore unlocked.\n");
    to.ok(&["ipam", "check"]);
}

#[test]
fn an_import_that_is_killed_midway_is_run_again_to_the_end() {
    const MORE: usize = 10_000;
    let from = filled();
    from.ok(&["datastore", "migrate", "lock"]);
    let file = from.ok(&["datastore", "migrate", "export"]);
    let (rest, ipam) = file.rsplit_once("===\n").unwrap();
    let mut ipam: Value = serde_json::from_str(ipam).unwrap();
    let more = (0..MORE).map(|n| {
        json!({"Key": format!("/calico/ipam/v2/handle/k8s-pod-network.{n}"),
            "Value": {"block": {"10.0.0.8/29": 1}, "deleted": false}, "TTL": 0})
    });
    ipam["handles"].as_array_mut().unwrap().extend(more);
    let to = Fleet::new();
    std::fs::write(to.path("export.yaml"), format!("{rest}===\n{ipam}")).unwrap();
    let import: &[&str] = &["datastore", "migrate", "import", "-f", "export.yaml"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(import)
        .env_clear()
        .envs([("DATASTORE_TYPE", "sqlite"), ("SQLITE_PATH", &to.path("store.db"))])
        .current_dir(to.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let handles = || to.runtime.block_on(to.store.list_keys(&KeyRange::Handles)).unwrap().items.len();
    let started = std::time::Instant::now();
    while handles() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ends before it writes");
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "it writes nothing");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let there = handles();
    assert!((1..MORE).contains(&there), "{there} of {MORE} handles were there when it was killed");
    assert_eq!(to.get(CLUSTER).unwrap()["spec"]["datastoreReady"], false, "nobody uses it meanwhile");
    let said = to.ok(import);
    let ipam_line = said.lines().find(|l| l.contains("IPAM resource(s)")).unwrap();
    let numbers: Vec<usize> = ipam_line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    // Blocks and affinities of the file, its configuration and handle.
    assert_eq!(numbers.iter().sum::<usize>(), MORE + 6, "{said}");
    assert!(numbers.len() == 2 && numbers[1] >= there, "{said}");
    assert_eq!(handles(), MORE + 1);
    let all = content(&to).into_iter().filter(|(path, _)| !path.contains("handle/k8s-pod-network.") || path == HANDLE);
    assert_eq!(all.collect::<Vec<_>>(), content(&from));
    let before = to.all();
    to.ok(import);
    assert_eq!(to.all(), before, "a further import writes nothing");
}

/// Whoever imports a large fleet sees how far it is, and after an interruption that only the rest is written.
#[test]
fn an_import_tells_how_far_it_is() {
    const MORE: usize = 2_500;
    let from = filled();
    from.ok(&["datastore", "migrate", "lock"]);
    let file = from.ok(&["datastore", "migrate", "export"]);
    let (rest, ipam) = file.rsplit_once("===\n").unwrap();
    let mut ipam: Value = serde_json::from_str(ipam).unwrap();
    let handle = |n: usize| format!("/calico/ipam/v2/handle/more.{n:04}");
    let more = (0..MORE).map(|n| json!({"Key": handle(n), "Value": {"block": {}, "deleted": false}, "TTL": 0}));
    ipam["handles"].as_array_mut().unwrap().extend(more);
    let to = Fleet::new();
    std::fs::write(to.path("export.yaml"), format!("{rest}===\n{ipam}")).unwrap();
    let import = || {
        let outcome = to.run(&["datastore", "migrate", "import", "-f", "export.yaml"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        (outcome.stderr, outcome.stdout.lines().nth(1).unwrap().to_string())
    };
    // 2 affinities, 2 blocks, a handle and the configuration are there besides.
    let all = MORE + 6;
    let progress = |counts: &[usize], all: usize| -> String {
        counts.iter().map(|n| format!("{n} of {all} IPAM resource(s) imported\n")).collect()
    };
    assert_eq!(import(), (progress(&[1000, 2000], all), format!("Successfully applied {all} IPAM resource(s)")));
    // As an interruption leaves it: of the handles only some are there.
    for n in 0..1200 {
        to.delete(&handle(n));
    }
    let there = all - 1200;
    assert_eq!(
        import(),
        (progress(&[1000], 1200), format!("Successfully applied 1200 IPAM resource(s), {there} were there already"))
    );
    assert_eq!(import(), (String::new(), format!("Successfully applied 0 IPAM resource(s), {all} were there already")));
}

#[test]
fn an_import_that_does_not_fit_writes_nothing() {
    let from = filled();
    from.ok(&["datastore", "migrate", "lock"]);
    let file = from.ok(&["datastore", "migrate", "export"]);
    // (what the store has, the file, what is said)
    type Row = (&'static str, fn(&Fleet), fn(&str) -> String, &'static str);
    let rows: &[Row] = &[
        (
            "another block",
            |f| f.put("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-28", &json!({"cidr": "10.0.0.0/28"})),
            str::to_string,
            "10.0.0.0-28 is not in the file",
        ),
        (
            "another pool",
            |f| f.put("/calico/resources/v3/projectcalico.org/ippools/p", &json!({"spec": {"cidr": "10.0.0.0/8"}})),
            str::to_string,
            "ippools/p is not in the file",
        ),
        (
            "the same with other content",
            |f| f.put(BLOCK, &json!({"cidr": "10.0.0.8/29"})),
            str::to_string,
            "10.0.0.8-29 differs from the file's",
        ),
        ("half a file", |_| {}, |t| t[..t.find("===").unwrap()].into(), "has 1 parts in place of 3"),
        ("a file that ends", |_| {}, |t| t[..t.len() - 20].into(), "the IPAM resources cannot be read"),
        ("no YAML", |_| {}, |t| format!("a: [\n{t}"), "export.yaml: "),
        ("a resource without name", |_| {}, |t| format!("kind: IPPool\n---\n{t}"), "a IPPool has no metadata.name"),
    ];
    for (name, broken, change, wanted) in rows {
        let to = Fleet::new();
        broken(&to);
        std::fs::write(to.path("export.yaml"), change(&file)).unwrap();
        let before = to.all();
        let outcome = to.fails(&["datastore", "migrate", "import", "-f", "export.yaml"]);
        assert!(outcome.stderr.contains(wanted), "{name}: {}", outcome.stderr);
        assert_eq!(to.all(), before, "{name}");
    }
}

#[test]
fn objects_that_are_large_together_are_more_than_one_transaction() {
    let from = filled();
    let server = from.runtime.block_on(Etcd::start());
    for n in 0..3 {
        from.put(
            &format!("/calico/resources/v3/projectcalico.org/bgpfilters/f{n}"),
            &json!({"kind": "BGPFilter", "apiVersion": "projectcalico.org/v3", "spec": {},
                "metadata": {"name": format!("f{n}"), "annotations": {"a": "x".repeat(900_000)}}}),
        );
    }
    from.ok(&["datastore", "migrate", "lock"]);
    std::fs::write(from.path("a.yaml"), from.ok(&["datastore", "migrate", "export"])).unwrap();
    let env = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", server.endpoint())];
    let outcome = run(&env, from.dir.path(), &["datastore", "migrate", "import", "-f", "a.yaml"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn calicos_own_export_is_read() {
    // As Calico v3.33 prints it: kinds that are none of ours, empty lists, no uid, host affinities only.
    let file = r#"apiVersion: projectcalico.org/v3
items:
- apiVersion: projectcalico.org/v3
  kind: IPPool
  metadata:
    creationTimestamp: null
    name: default-ipv4-ippool
  spec:
    allowedUses:
    - Workload
    - Tunnel
    blockSize: 26
    cidr: 10.244.0.0/16
    ipipMode: Never
    natOutgoing: true
    nodeSelector: all()
    vxlanMode: Never
kind: IPPoolList
metadata:
  resourceVersion: "1234"
---
apiVersion: projectcalico.org/v3
items:
- apiVersion: projectcalico.org/v3
  kind: GlobalNetworkPolicy
  metadata:
    creationTimestamp: null
    name: default.deny
  spec:
    selector: all()
kind: GlobalNetworkPolicyList
metadata:
  resourceVersion: "1235"
---
apiVersion: projectcalico.org/v3
items: []
kind: BGPFilterList
metadata:
  resourceVersion: "1240"
---
===
{
  "kind": "ClusterInformation",
  "apiVersion": "projectcalico.org/v3",
  "metadata": {
    "name": "default",
    "resourceVersion": "1200",
    "creationTimestamp": null
  },
  "spec": {
    "clusterGUID": "0123456789abcdef",
    "calicoVersion": "v3.33.0",
    "datastoreReady": false
  }
}
===
{
  "block_affinities": [
    {
      "Key": "/calico/ipam/v2/host/node-1/ipv4/block/10.244.0.64-26",
      "Value": {
        "state": "confirmed",
        "deleted": false
      },
      "TTL": 0
    }
  ],
  "config": {
    "Key": "/calico/ipam/v2/config",
    "Value": {
      "auto_allocate_blocks": true
    },
    "TTL": 0
  }
}
"#;
    let to = Fleet::new();
    std::fs::write(to.path("export.yaml"), file).unwrap();
    let outcome = to.run(&["datastore", "migrate", "import", "-f", "export.yaml"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "warning: 1 GlobalNetworkPolicy left out: this version has no such kind\n");
    assert!(
        outcome.stdout.starts_with("Successfully applied 1 resource(s)\nSuccessfully applied 2 IPAM resource(s)\n"),
        "{}",
        outcome.stdout
    );
    assert!(to.ok(&["get", "ippool", "-o", "wide"]).contains("default-ipv4-ippool   10.244.0.0/16   true"));
    assert_eq!(to.get(CLUSTER).unwrap()["spec"]["clusterGUID"], "0123456789abcdef");
}

#[test]
fn sqlite_moves_to_etcd_and_back() {
    let from = filled();
    let server = from.runtime.block_on(Etcd::start());
    from.ok(&["datastore", "migrate", "lock"]);
    std::fs::write(from.path("a.yaml"), from.ok(&["datastore", "migrate", "export"])).unwrap();
    let etcd = |args: &[&str]| {
        let env = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", server.endpoint())];
        let outcome = run(&env, from.dir.path(), args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
        outcome.stdout
    };
    etcd(&["datastore", "migrate", "import", "-f", "a.yaml"]);
    assert_eq!(server.read(HANDLE), r#"{"block":{"10.0.0.8/29":1},"deleted":false}"#);
    std::fs::write(from.path("b.yaml"), etcd(&["datastore", "migrate", "export"])).unwrap();
    let back = Fleet::new();
    back.ok(&["datastore", "migrate", "import", "-f", from.path("b.yaml").as_str()]);
    assert_eq!(content(&back), content(&from));
}
