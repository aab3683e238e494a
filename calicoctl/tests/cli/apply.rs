//! Applying: what is checked, kept and written.

use crate::fleet::{Fleet, pool, put, revision, service, value};

#[test]
fn the_examples_apply_in_both_versions() {
    for version in ["calico-bgp/v3", "calico-bgp/crd-v1"] {
        let fleet = Fleet::new();
        let outcome = fleet.run(&["apply", "-f", version, "-f", "nodes.yaml", "-f", "services"], "");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        assert_eq!(outcome.stdout, "Successfully applied 16 resource(s)\n");
        assert_eq!(
            fleet.get(&["ippool"]),
            "NAME            CIDR            SELECTOR   \n\
             ippool-test-0   1.1.1.0/24      !all()     \n\
             ippool-test-1   1.1.2.0/24      !all()     \n\
             ippool-test-2   1.1.3.0/24      !all()     \n\
             loadbalancer    172.31.0.0/24   all()      \n\n"
        );
        assert_eq!(
            fleet.get(&["bgppeer"]),
            "NAME         PEERIP        NODE                ASN       \n\
             bgp-peer-1   192.168.1.1   rr-group == 'rr1'   1111111   \n\
             bgp-peer-2   192.168.1.2   rr-group == 'rr1'   1111111   \n\n"
        );
        assert_eq!(
            fleet.get(&["bgpconfig"]),
            "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER   \ndefault   Info          false         1111111    \n\n"
        );
        assert_eq!(fleet.get(&["node"]), "NAME       \nworker01   \nworker02   \nworker03   \n\n");
        assert!(fleet.get(&["node", "-o", "wide"]).contains("worker01   (1111111)   192.168.1.4/24          \n"));
        assert!(
            fleet
                .get(&["svc", "-A"])
                .contains("test        web-lb         LoadBalancer   <none>       <pending>     80/TCP,53/UDP   \n")
        );
        let stored = fleet.get(&["ippool", "ippool-test-0", "-o", "json"]);
        assert!(stored.contains("\"projectcalico.org/v3\"") && stored.contains("\"blockSize\": 32"), "{stored}");
        assert!(
            fleet
                .get(&["ns", "test", "-o", "yaml"])
                .contains("cni.projectcalico.org/ipv4pools: \"[\\\"ippool-test-0\\\"]\"")
        );
        // What get prints applies again, and changes nothing.
        let before = fleet.get(&["ippool", "-o", "yaml"]);
        assert_eq!(fleet.apply(&before), "Successfully applied 4 'IPPool' resource(s)\n");
        assert_eq!(
            fleet.get(&["ippool", "-o", "yaml"]).split("metadata:\n  resourceVersion").next(),
            before.split("metadata:\n  resourceVersion").next()
        );
    }
}

#[test]
fn pasted_text_gets_the_cause_named() {
    let rows: &[(&str, &[&str])] = &[
        (
            "pasted/ippool.yaml",
            &[
                "line 1, column 12: a space is missing after the colon: write apiVersion: crd.projectcalico.org/v1",
                "line 4, column 1: the indentation is gone: `name` stands at the same level as `metadata` (line 3)",
                "line 10, column 15: typographic quotes were pasted from a text that curls quotes; use straight quotes",
            ],
        ),
        ("pasted/ippool-quotes.yaml", &["line 10, column 17: typographic quotes were pasted"]),
        ("pasted/bgpconfigurations.yaml", &["the indentation is gone: `name` stands at the same level as `metadata`"]),
        ("pasted/bgppeer1.yaml", &["the indentation is gone: `name`"]),
        ("pasted/namespace.yaml", &["the indentation is gone: `annotations`"]),
    ];
    for (file, wanted) in rows {
        let fleet = Fleet::new();
        let outcome = fleet.run(&["apply", "-f", file], "");
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{file}");
        for want in *wanted {
            assert!(outcome.stderr.contains(&format!("{file}: document 1, ")), "{}", outcome.stderr);
            assert!(outcome.stderr.contains(want), "{file}: want {want}\n{}", outcome.stderr);
        }
        assert_eq!(outcome.stderr.lines().count(), wanted.len() + 1, "{}", outcome.stderr);
    }
}

#[test]
fn a_bad_document_means_that_nothing_is_applied_and_every_error_is_told() {
    let fleet = Fleet::new();
    fleet.apply(&pool("stored", "10.9.0.0/16"));
    fleet.apply(&service("first", 30080));
    let v3 = "apiVersion: projectcalico.org/v3\n";
    let rows: Vec<(String, &[&str])> = vec![
        (
            format!("{v3}kind: BGPPeer\nmetadata: {{name: p}}\nspec:\n  peerIP: 1.1.1.1\n  asNumber: 4294967296\n"),
            &[
                "line 6, column 13: spec.asNumber '4294967296': cannot unmarshal number into Go struct field BGPPeerSpec.spec.asNumber of type string",
            ],
        ),
        (
            format!("{v3}kind: BGPPeer\nmetadata: {{name: p}}\nspec:\n  peerIP: 192.168.0.256\n"),
            &[
                "(BGPPeer p), line 5, column 11: spec.peerIP '192.168.0.256': error with field PeerIP = '192.168.0.256' (",
                "256 in 192.168.0.256 is over 255",
            ],
        ),
        (
            "apiVersion: projectcalico.org/v7\nkind: BGPPeer\nmetadata: {name: p}\n".into(),
            &[
                "unknown resource type (BGPPeer) and/or version (projectcalico.org/v7)",
                "apiVersion: projectcalico.org/v3",
            ],
        ),
        (
            "apiVersion: v7\nkind: BGPPeer\nmetadata: {name: p}\n".into(),
            &["unknown resource type (BGPPeer) and/or version (v7)"],
        ),
        (
            format!("{v3}kind: BgpPeers\nmetadata: {{name: p}}\n"),
            &["unknown resource type (BgpPeers)", "did you mean BGPPeer?"],
        ),
        (
            format!(
                "{v3}kind: BGPPeer\nmetadata: {{name: p}}\nspec:\n  peerIP: fd5f::6::ee\n  node: node 2\n  unknown: 1\n"
            ),
            &[
                "PeerIP = 'fd5f::6::ee'",
                "Node = 'node 2'",
                "line 7, column 3: spec.unknown: field in document is not recognized or is in the wrong location: unknown",
                "3 errors in 1 of 2 documents",
            ],
        ),
        (pool("a", "10.0.1.0/33"), &["CIDR = '10.0.1.0/33'"]),
        (pool("a", "10.0.256.0/24"), &["CIDR = '10.0.256.0/24'"]),
        (pool("a", "fd5f::2::1/32"), &["CIDR = 'fd5f::2::1/32'"]),
        (
            pool("a", "10.0.250.0/32"),
            &[
                "field spec (IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.)",
            ],
        ),
        (pool("a", "::/128"), &["field spec (IP pool size is too small"]),
        (pool("a", "fd5f::1/123"), &["IPPool.Spec.CIDR = 'fd5f::/123'"]),
        (
            pool("a", "10.0.0.0/16\n  disabled: \"True\""),
            &[
                "cannot unmarshal string into Go struct field IPPoolSpec.spec.disabled of type bool; write disabled: true",
            ],
        ),
        (
            pool("a", "10.0.0.0/16\n  disabled: \"Maybe\""),
            &[
                "cannot unmarshal string into Go struct field IPPoolSpec.spec.disabled of type bool; write disabled: true or false",
            ],
        ),
        // Structure.
        (
            pool("a", "10.0.0.0/16\nblockSize: 29"),
            &[
                "line 7, column 1: blockSize: field in document is not recognized or is in the wrong location: blockSize; it belongs at spec.blockSize",
            ],
        ),
        (
            pool("a", "10.0.0.0/16\n  cidr: 10.1.0.0/16"),
            &["line 7, column 3: key cidr stands here twice: it was already set on line 6"],
        ),
        (pool("a", "[10.0.0.0/16"), &["malformed YAML"]),
        (
            pool("A_b", "10.0.0.0/16"),
            &["name must consist of lower case alphanumeric characters, '-' or '.' (regex:", "a-b would do"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n\tname: x\n".into(),
            &["line 4, column 1: a tab indents this line: YAML takes spaces only"],
        ),
        (
            pool("a", "10.0.0.0/33\n  nodeSelector: \u{2018}all()\u{2019}\n  blocksize: 1"),
            &[
                "CIDR = '10.0.0.0/33'",
                "line 7, column 17: typographic quotes",
                "it is spelled blockSize",
                "3 errors in 1 of 2",
            ],
        ),
        ("apiVersion: v1\nkind: Node\n".into(), &["error with field Metadata = ''"]),
        ("kind: IPPool\n".into(), &["the document has no apiVersion"]),
        ("just words\n".into(), &["a document is a mapping of fields"]),
        (
            format!(
                "{v3}kind: IPPoolList\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: IPPool\n  metadata: {{name: x}}\n  spec: {{cidr: 1.1.1.1/99}}\n"
            ),
            &["line 7, column 16: items[0].spec.cidr '1.1.1.1/99'"],
        ),
        // Against what is stored, and against each other.
        (
            pool("a", "10.9.8.0/24"),
            &["line 6, column 9: spec.cidr", "IPPool(a) CIDR overlaps with IPPool(stored) CIDR 10.9.0.0/16"],
        ),
        (
            pool("a", "10.0.0.0/16") + &pool("b", "10.0.8.0/24"),
            &["IPPool(a) CIDR overlaps with IPPool(b)", "IPPool(b) CIDR overlaps with IPPool(a)"],
        ),
        (pool("stored", "10.8.0.0/16"), &["IPPool CIDR cannot be modified", "it is 10.9.0.0/16"]),
        (pool("stored", "10.9.0.0/16\n  blockSize: 29"), &["IPPool BlockSize cannot be modified", "it is 26"]),
        (
            service("second", 30080),
            &[
                "line 8, column 15: spec.ports[0].nodePort '30080'",
                "provided port is already allocated to service default/first",
            ],
        ),
    ];
    let before = fleet.get(&["ippool", "-o", "yaml"]);
    for (bad, wanted) in rows {
        let good = pool("good", "10.200.0.0/16");
        let outcome = fleet.run(&["apply", "-f", "-"], &format!("{bad}\n---\n{good}"));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{bad}\n{}", outcome.stderr);
        for want in wanted {
            assert!(outcome.stderr.contains(want), "{bad}\nwant {want}\ngot {}", outcome.stderr);
        }
        assert!(outcome.stderr.contains("stdin: document 1"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("nothing was applied"), "{}", outcome.stderr);
    }
    assert_eq!(fleet.get(&["ippool", "-o", "yaml"]), before);
}

#[test]
fn an_update_keeps_what_others_wrote() {
    let fleet = Fleet::new();
    let web =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  ports: [{port: 80}]\n";
    let assigned = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.96.0.7\n  ports: [{port: 80, nodePort: 30007}]\nstatus: {loadBalancer: {ingress: [{ip: 172.31.0.1}]}}\n";
    fleet.apply(assigned);
    fleet.apply(web);
    assert!(
        fleet.get(&["svc"]).contains("web    LoadBalancer   10.96.0.7    172.31.0.1    80:30007/TCP   "),
        "{}",
        fleet.get(&["svc"])
    );

    fleet.apply(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: w1}\nspec: {bgp: {ipv4Address: 10.0.0.1/24}}\n",
    );
    fleet.apply("apiVersion: v1\nkind: Node\nmetadata: {name: w1, labels: {rr-group: rr1}}\nstatus: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: Hostname, address: w1}]}\n");
    let node = fleet.get(&["node", "w1", "-o", "yaml"]);
    for want in ["rr-group: rr1", "ipv4Address: 10.0.0.1/24", "type: InternalIP", "apiVersion: projectcalico.org/v3"] {
        assert!(node.contains(want), "{want} is not in {node}");
    }
    assert!(!node.contains("Hostname"), "{node}");

    // Fields that Calico lacks come back as fields.
    fleet.apply("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 10.0.0.9, holdTime: 9s}\n");
    assert!(fleet.get(&["bgppeer", "p", "-o", "yaml"]).contains("holdTime: 9s"));
    assert!(fleet.get(&["bgppeer"]).contains("p      10.0.0.9   (global)   (64512)   "), "{}", fleet.get(&["bgppeer"]));

    let pool = fleet.run(&["apply", "-f", "-"], "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, resourceVersion: '999999'}\nspec: {cidr: 10.0.0.0/16, ipipMode: Always}\n");
    assert_eq!(pool.code, 0, "{}", pool.stderr);
    assert!(pool.stderr.contains("warning: stdin: document 1 (IPPool a), line 4, column 37: spec.ipipMode 'Always': ipipMode Always is stored but not active"), "{}", pool.stderr);
    let stale = fleet.run(&["apply", "-f", "-"], "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, resourceVersion: '999999'}\nspec: {cidr: 10.0.0.0/16}\n");
    assert!(
        stale.stderr.contains("update conflict: IPPool(a): resource version '999999' is out of date (latest: "),
        "{}",
        stale.stderr
    );
}

/// As `kubectl get -o yaml --show-managed-fields` prints it, and as its owner wrote it at first: neither asks for anything new.
#[test]
fn a_clusters_own_document_that_changes_nothing_writes_nothing() {
    let fleet = Fleet::new();
    let service = "/tortie/resources/services/default/web";
    let namespace = "/tortie/resources/namespaces/web";
    put(
        &fleet,
        service,
        r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"default","uid":"u1","creationTimestamp":"2026-08-22T10:00:00Z"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"],"ports":[{"port":80,"protocol":"TCP","targetPort":80,"nodePort":30007}],"selector":{"app":"web"},"sessionAffinity":"None","internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Cluster","allocateLoadBalancerNodePorts":true,"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"},"status":{"loadBalancer":{"ingress":[{"ip":"172.31.0.1","ipMode":"VIP"}]}}}"#,
    );
    put(
        &fleet,
        namespace,
        r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"web","uid":"u2","creationTimestamp":"2026-08-22T10:00:00Z","labels":{"kubernetes.io/metadata.name":"web"}},"spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}"#,
    );
    let before = (revision(&fleet, service), revision(&fleet, namespace));
    fleet.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web, creationTimestamp: null}
spec: {type: LoadBalancer, ports: [{port: 80}], selector: {app: web}}
status: {loadBalancer: {}}
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: default
  uid: elsewhere
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 3
  managedFields: [{manager: kubectl, operation: Update}]
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7]
  ports: [{port: 80, protocol: TCP, targetPort: 80, nodePort: 30007}]
  selector: {app: web}
  sessionAffinity: None
---
apiVersion: v1
kind: Namespace
metadata: {name: web, generation: 1, managedFields: [], labels: {kubernetes.io/metadata.name: web}}
spec: {finalizers: [kubernetes]}
status: {phase: Active}
"#,
    );
    assert_eq!((revision(&fleet, service), revision(&fleet, namespace)), before);
    fleet.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, ports: [{port: 80}], selector: {app: new}}\n");
    assert!(revision(&fleet, service) > before.0);
    assert!(value(&fleet, service).contains(r#""ip":"172.31.0.1""#));
}

#[test]
fn settings_that_nothing_acts_on_are_taken_and_told_once_for_each_document() {
    let fleet = Fleet::new();
    let v3 = "apiVersion: projectcalico.org/v3";
    let text = format!(
        "{v3}\nkind: KubeControllersConfiguration\nmetadata: {{name: default}}\nspec: {{etcdV3CompactionPeriod: 10m, controllers: {{node: {{syncLabels: Enabled}}}}}}\n---\n\
         {v3}\nkind: IPAMConfiguration\nmetadata: {{name: default}}\nspec: {{strictAffinity: true, kubeVirtVMAddressPersistence: Disabled}}\n---\n\
         {v3}\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{interfacePrefix: cali, bpfEnabled: true, floatingIPs: Disabled}}\n"
    );
    let outcome = fleet.run(&["apply", "-f", "-"], &text);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let told = "\
warning: stdin: document 1 (KubeControllersConfiguration default), line 4, column 8: spec.etcdV3CompactionPeriod: stored, not active: \
spec.etcdV3CompactionPeriod, spec.controllers.node.syncLabels; no program here acts on that
warning: stdin: document 2 (IPAMConfiguration default), line 9, column 30: spec.kubeVirtVMAddressPersistence: stored, not active: \
spec.kubeVirtVMAddressPersistence; no program here acts on that
warning: stdin: document 3 (FelixConfiguration default), line 14, column 31: spec.bpfEnabled: stored, not active: spec.bpfEnabled, \
spec.floatingIPs; no program here acts on that
";
    assert_eq!(outcome.stderr, told);
    let refused = fleet.run(
        &["apply", "-f", "-"],
        &format!("{v3}\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{interfacePrefx: cali}}\n"),
    );
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains(
            "line 4, column 8: spec.interfacePrefx: field in document is not recognized or is in the wrong location: interfacePrefx; did you \
             mean interfacePrefix?"
        ),
        "{}",
        refused.stderr
    );
}

#[test]
fn fields_of_a_newer_calico_outlive_an_apply() {
    let fleet = Fleet::new();
    let stored = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","uid":"u","creationTimestamp":"2026-08-22T10:00:00Z"},"spec":{"cidr":"10.0.0.0/16","blockSize":26,"later":{"a":[1]}}}"#;
    put(&fleet, "/calico/resources/v3/projectcalico.org/ippools/a", stored);
    fleet.apply(&pool("a", "10.0.0.0/16\n  natOutgoing: true"));
    let shown = fleet.get(&["ippool", "a", "-o", "json"]);
    assert!(shown.contains("\"later\": {") && shown.contains("\"natOutgoing\": true"), "{shown}");
}

#[test]
fn fields_of_a_newer_configuration_of_ipam_outlive_an_apply() {
    let fleet = Fleet::new();
    put(&fleet, "/calico/ipam/v2/config", r#"{"strict_affinity":false,"auto_allocate_blocks":true,"later":{"a":1}}"#);
    fleet.apply("apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: {name: default}\nspec: {strictAffinity: true}\n");
    let shown = fleet.get(&["ipamconfig", "default", "-o", "json"]);
    assert!(shown.contains("\"later\": {") && shown.contains("\"strictAffinity\": true"), "{shown}");
    assert_eq!(
        value(&fleet, "/calico/ipam/v2/config"),
        r#"{"strict_affinity":true,"auto_allocate_blocks":true,"later":{"a":1}}"#
    );
}

#[test]
fn a_peer_needs_its_filters() {
    let fleet = Fleet::new();
    let peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 1.1.1.1, asNumber: 1, filters: [f]}\n---\n";
    let filter = "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: f}\nspec: {}\n";
    let outcome = fleet.run(&["apply", "-f", "-"], peer);
    assert!(
        outcome.code == 1
            && outcome.stderr.contains("error with field BGPPeer.Spec.Filters = 'f' (BGPFilter(s) not found)"),
        "{}",
        outcome.stderr
    );
    fleet.apply(&format!("{peer}{filter}"));
    fleet.apply(peer);
}

#[test]
fn many_at_once_all_succeed() {
    let fleet = Fleet::new();
    let documents = |who: usize| -> String {
        (0..150)
            .map(|i| {
                format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{i}, labels: {{who: w{who}}}}}\n---\n")
            })
            .collect()
    };
    std::thread::scope(|scope| {
        for who in 0..6 {
            let fleet = &fleet;
            scope.spawn(move || fleet.apply(&documents(who)));
        }
    });
    assert_eq!(fleet.get(&["ns"]).lines().count(), 152);
}

#[test]
fn thousands_of_documents_are_one_apply() {
    let fleet = Fleet::new();
    let documents: Vec<String> = (0..3000)
        .map(|i| format!("{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"s{i}\", \"namespace\": \"n{}\"}}, \"spec\": {{\"clusterIP\": \"10.96.{}.{}\", \"ports\": [{{\"port\": 80}}]}}}}", i % 50, i / 256, i % 256))
        .collect();
    assert_eq!(fleet.apply(&documents.join("\n---\n")), "Successfully applied 3000 'Service' resource(s)\n");
    assert_eq!(fleet.get(&["svc", "-A"]).lines().count(), 3002);
}
