//! The command line as users see it: the real binary against a store of its own, row by row.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

struct Outcome {
    stdout: String,
    stderr: String,
    code: i32,
}

/// A store in a directory of its own.
struct Fleet {
    dir: TempDir,
    /// Environment beyond that of the embedded store.
    env: Vec<(String, String)>,
}

impl Fleet {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    fn run(&self, args: &[&str], stdin: &str) -> Outcome {
        run_with(env!("CARGO_BIN_EXE_calicoctl"), self.dir.path(), &self.env, args, stdin)
    }

    /// Applies what must be good.
    fn apply(&self, yaml: &str) -> String {
        let outcome = self.run(&["apply", "-f", "-"], yaml);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    }

    fn get(&self, args: &[&str]) -> String {
        let outcome = self.run(&[&["get"], args].concat(), "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    }
}

fn run(program: &str, dir: &Path, args: &[&str], stdin: &str) -> Outcome {
    run_with(program, dir, &[], args, stdin)
}

fn run_with(program: &str, dir: &Path, env: &[(String, String)], args: &[&str], stdin: &str) -> Outcome {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("TZ", "UTC")
        .env("DATASTORE_TYPE", "sqlite")
        .env("SQLITE_PATH", dir.join("store.db"))
        .envs(env.iter().map(|(k, v)| (k, v)))
        .current_dir(examples())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap(),
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

fn pool(name: &str, cidr: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n---\n")
}

fn service(name: &str, node_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    nodePort: {node_port}\n---\n"
    )
}

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

/// (what is stored, arguments, standard input, exit code, what standard output is, what standard error has)
type Row = (&'static str, &'static [&'static str], String, i32, &'static str, &'static [&'static str]);

#[test]
fn commands_do_what_they_say() {
    let apply: &[&str] = &["apply", "-f", "-"];
    let rows: Vec<Row> = vec![
        (
            "",
            apply,
            pool("a", "10.0.0.0/16") + &pool("b", "10.1.0.0/16"),
            0,
            "Successfully applied 2 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["apply", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully applied 1 'IPPool' resource(s)\n",
            &[],
        ),
        ("", &["create", "-f", "-"], pool("a", "10.0.0.0/16"), 0, "Successfully created 1 'IPPool' resource(s)\n", &[]),
        (
            "pool",
            &["create", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            1,
            "",
            &["resource already exists: IPPool(stored)", "nothing was created"],
        ),
        (
            "pool",
            &["create", "--skip-exists", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully created 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["replace", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully replaced 1 'IPPool' resource(s)\n",
            &[],
        ),
        ("", &["replace", "-f", "-"], pool("a", "10.0.0.0/16"), 1, "", &["resource does not exist: IPPool(a)"]),
        (
            "pool",
            &["delete", "-f", "-"],
            pool("stored", "10.0.0.0/16"),
            0,
            "Successfully deleted 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "pool",
            &["delete", "ippool", "stored"],
            String::new(),
            0,
            "Successfully deleted 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "",
            &["delete", "ippool", "x"],
            String::new(),
            1,
            "",
            &["failed to delete 'IPPool' resource: [resource does not exist: IPPool(x)]"],
        ),
        ("", &["delete", "ippool", "x", "-s"], String::new(), 0, "Successfully deleted 0 'IPPool' resource(s)\n", &[]),
        (
            "",
            &["validate", "-f", "-"],
            pool("a", "10.0.0.0/16"),
            0,
            "Successfully validated 1 'IPPool' resource(s)\n",
            &[],
        ),
        (
            "",
            &["validate", "-f", "-"],
            pool("a", "10.0.0.0/33"),
            1,
            "",
            &["nothing was validated: 1 error in 1 of 1 document"],
        ),
        ("", apply, String::new(), 1, "", &["no resources specified in file stdin"]),
        ("", &["apply", "-f", "missing.yaml"], String::new(), 1, "", &["cannot read missing.yaml: No such file"]),
        (
            "",
            &["get", "ippool", "x"],
            String::new(),
            1,
            "",
            &["failed to get resources: resource does not exist: IPPool(x)"],
        ),
        (
            "",
            &["get", "ipool"],
            String::new(),
            1,
            "",
            &["resource type 'ipool' is not supported; did you mean IPPool?"],
        ),
        ("", &["get", "ippool", "-n", "x"], String::new(), 1, "", &["IPPool is not namespaced"]),
        ("", &["get", "ippool", "-o", "xml"], String::new(), 1, "", &["unrecognized output format 'xml'"]),
        (
            "",
            &["get", "ippool", "-o", "yaml"],
            String::new(),
            0,
            "apiVersion: projectcalico.org/v3\nitems: []\nkind: IPPoolList\nmetadata: {}\n",
            &[],
        ),
        (
            "",
            &["ipam", "configure", "--strictaffinity=true"],
            String::new(),
            0,
            "Successfully set StrictAffinity to: true\n",
            &[],
        ),
        ("", &["ipam", "configure"], String::new(), 1, "", &["at least one configuration option must be specified"]),
        ("", &["ipam", "show", "--ip=10.0.0.1"], String::new(), 0, "10.0.0.1 is not assigned\n", &[]),
        (
            "",
            &["node", "status", "--run-dir", "/nonexistent"],
            String::new(),
            1,
            "",
            &["Calico process is not running.", "/nonexistent/bgpd.sock"],
        ),
        ("", &["nonsense"], String::new(), 1, "", &["unrecognized subcommand"]),
    ];
    for (state, args, stdin, code, stdout, stderr) in rows {
        let fleet = Fleet::new();
        if state == "pool" {
            fleet.apply(&pool("stored", "10.0.0.0/16"));
        }
        let outcome = fleet.run(args, &stdin);
        assert_eq!(outcome.code, code, "{args:?} {}", outcome.stderr);
        assert_eq!(outcome.stdout, stdout, "{args:?} {}", outcome.stderr);
        for want in stderr {
            assert!(outcome.stderr.contains(want), "{args:?}\nwant {want}\ngot {}", outcome.stderr);
        }
        if code == 0 {
            assert_eq!(outcome.stderr, "", "{args:?}");
        }
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
fn a_secret_is_applied_and_shown_as_kubernetes_does() {
    let fleet = Fleet::new();
    fleet.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: bgp, namespace: kube-system}\nstringData: {password: hunter2}\n");
    let table = fleet.get(&["secret", "-n", "kube-system"]);
    assert!(table.contains("bgp") && table.contains("Opaque") && !table.contains("aHVudGVyMg"), "{table}");
    let yaml = fleet.get(&["secret", "bgp", "-n", "kube-system", "-o", "yaml"]);
    assert!(yaml.contains("password: aHVudGVyMg==") && !yaml.contains("hunter2"), "{yaml}");
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

#[test]
fn workload_endpoints_have_the_columns_that_operators_know() {
    let fleet = Fleet::new();
    fleet.apply(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: worker01-k8s-nettool-eth0}\n\
         spec: {orchestrator: k8s, pod: nettool, node: worker01, endpoint: eth0, ipNetworks: [1.1.1.1/32], interfaceName: cali200f7a51a47}\n",
    );
    let want = "NAMESPACE   WORKLOAD   NODE       NETWORKS     INTERFACE         \n\
                default     nettool    worker01   1.1.1.1/32   cali200f7a51a47   \n\n";
    assert_eq!(fleet.get(&["workloadendpoint"]), want);
    assert_eq!(fleet.get(&["wep", "-A"]), want);
    assert_eq!(fleet.get(&["wep", "-n", "other"]).lines().count(), 2);
}

#[test]
fn kinds_that_are_only_carried_have_calicos_columns() {
    let fleet = Fleet::new();
    let v3 = "apiVersion: projectcalico.org/v3";
    fleet.apply(&format!(
        "{v3}\nkind: HostEndpoint\nmetadata: {{name: h}}\nspec: {{node: n, interfaceName: eth0, expectedIPs: [1.1.1.1, 1.1.1.2]}}\n---\n\
         {v3}\nkind: CalicoNodeStatus\nmetadata: {{name: s}}\nspec: {{node: n, classes: [Agent, BGP], updatePeriodSeconds: 10}}\n---\n\
         {v3}\nkind: KubeControllersConfiguration\nmetadata: {{name: default}}\nspec: {{controllers: {{node: {{}}}}}}\n"
    ));
    for (arguments, want) in [
        (
            ["hep", "-o", "wide"],
            "NAME   NODE   INTERFACE   IPS               PROFILES   \nh      n      eth0        1.1.1.1,1.1.1.2              \n\n",
        ),
        (["nodestatus", "-o", "wide"], "NAME   NODE   CLASSES     \ns      n      Agent,BGP   \n\n"),
        (["caliconodestatus", "-o", "ps"], "NAME   NODE   \ns      n      \n\n"),
        (["kubecontrollersconfig", "-o", "wide"], "NAME      \ndefault   \n\n"),
    ] {
        assert_eq!(fleet.get(&arguments), want);
    }
    let stored = fleet.get(&["kubecontrollersconfig", "default", "-o", "yaml"]);
    assert!(stored.contains("leakGracePeriod: 15m0s") && stored.contains("prometheusMetricsPort: 9094"), "{stored}");
}

/// Writes a key as Calico would, beside the command line.
fn put(fleet: &Fleet, key: &str, value: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        store.put(api::Key::parse(key).unwrap(), value.into()).await.unwrap();
    });
}

#[test]
fn a_new_pool_takes_no_range_with_blocks_of_another_size() {
    let fleet = Fleet::new();
    fleet.apply(&pool("other", "10.9.0.0/16"));
    let block = r#"{"cidr":"10.0.1.0/28","affinity":null,"allocations":[],"unallocated":[],"attributes":[],"sequenceNumber":1,"sequenceNumberForAllocation":{},"deleted":false}"#;
    put(&fleet, "/calico/ipam/v2/assignment/ipv4/block/10.0.1.0-28", block);
    let outcome = fleet.run(&["apply", "-f", "-"], &pool("a", "10.0.0.0/16"));
    let want = "IPPool.Spec.BlockSize = '26' (IPPool blocksSize conflicts with existing allocations that use a different blockSize); block 10.0.1.0/28 is there";
    assert!(outcome.code == 1 && outcome.stderr.contains(want), "{}", outcome.stderr);
    fleet.apply(&pool("a", "10.0.0.0/16\n  blockSize: 28"));
}

#[test]
fn a_pool_that_is_deleted_leaves_what_is_in_use() {
    let fleet = Fleet::new();
    for by_name in [false, true] {
        fleet.apply(&pool("a", "10.0.0.0/16\n  blockSize: 30"));
        let block = |cidr: &str, allocations: &str, free: &str, attributes: &str| {
            let key = format!("/calico/ipam/v2/assignment/ipv4/block/{}", cidr.replace('/', "-"));
            put(
                &fleet,
                &key,
                &format!(
                    r#"{{"cidr":"{cidr}","affinity":"host:node-1","allocations":{allocations},"unallocated":{free},"attributes":{attributes},"sequenceNumber":1,"sequenceNumberForAllocation":{{}},"deleted":false}}"#
                ),
            );
            let key = format!("/calico/ipam/v2/host/node-1/ipv4/block/{}", cidr.replace('/', "-"));
            put(&fleet, &key, r#"{"state":"confirmed","deleted":false}"#);
        };
        block("10.0.0.0/30", "[0,null,null,null]", "[1,2,3]", r#"[{"handle_id":"h"}]"#);
        block("10.0.0.4/30", "[null,null,null,null]", "[0,1,2,3]", "[]");
        let outcome = match by_name {
            true => fleet.run(&["delete", "ippool", "a"], ""),
            false => fleet.run(&["delete", "-f", "-"], &pool("a", "10.0.0.0/16\n  blockSize: 30")),
        };
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (0, "Successfully deleted 1 'IPPool' resource(s)\n"),
            "{}",
            outcome.stderr
        );
        let keys = keys(&fleet);
        assert_eq!(keys, ["/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30"], "by name: {by_name}");
    }
}

/// Every key of the store.
fn keys(fleet: &Fleet) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        let listing = store.list(&api::key::KeyRange::All).await.unwrap();
        listing.items.iter().map(|kv| kv.key.to_string()).collect()
    })
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

/// What a key holds, byte for byte.
fn value(fleet: &Fleet, key: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        let found = store.get(&api::Key::parse(key).unwrap()).await.unwrap().unwrap();
        String::from_utf8(found.value.to_vec()).unwrap()
    })
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

/// As published for Cilium.
const CILIUM_POOLS: &str = r#"---
apiVersion: "cilium.io/v2alpha1"
kind: CiliumLoadBalancerIPPool
metadata:
  name: "blue-pool"
spec:
  cidrs:
  - cidr: "20.0.10.0/24"
  serviceSelector:
    matchExpressions:
      - {key: color, operator: In, values: [blue, cyan]}
---
apiVersion: "cilium.io/v2alpha1"
kind: CiliumLoadBalancerIPPool
metadata:
  name: "red-pool"
spec:
  cidrs:
  - cidr: "30.0.10.0/24"
  serviceSelector:
    matchLabels:
      color: red
"#;

#[test]
fn pools_written_for_cilium_are_converted() {
    let fleet = Fleet::new();
    assert_eq!(fleet.apply(CILIUM_POOLS), "Successfully applied 2 'LoadBalancerIPPool' resource(s)\n");
    for word in ["ciliumloadbalancerippool", "lbippool", "LoadBalancerIPPools"] {
        let table = fleet.get(&[word]);
        let rows: Vec<Vec<&str>> =
            table.lines().map(|l| l.split("   ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
        assert_eq!(rows[0], ["NAME", "DISABLED", "CONFLICTING", "IPS AVAILABLE", "AGE"]);
        for (row, name) in [(&rows[1], "blue-pool"), (&rows[2], "red-pool")] {
            assert_eq!(row[..4], [name, "false", "False", "254"], "{table}");
            assert!(row[4].ends_with('s'), "{table}");
        }
    }
    let stored = fleet.get(&["lbippool", "red-pool", "-o", "yaml"]);
    assert!(stored.starts_with("apiVersion: tortie.io/v1\nkind: LoadBalancerIPPool\n"), "{stored}");
    assert!(
        stored.contains(
            "spec:\n  blocks:\n  - cidr: 30.0.10.0/24\n  serviceSelector:\n    matchLabels:\n      color: red\n"
        ),
        "{stored}"
    );

    let younger = "apiVersion: tortie.io/v1\nkind: LoadBalancerIPPool\nmetadata: {name: young}\nspec:\n  allowFirstLastIPs: Yes\n  blocks: [{cidr: 20.0.0.0/16}]\n";
    std::thread::sleep(std::time::Duration::from_millis(1100));
    fleet.apply(younger);
    let table = fleet.get(&["lbippool", "young"]);
    assert!(table.contains("young   false      True          65536 "), "{table}");

    let wrong = CILIUM_POOLS.replace("20.0.10.0/24", "20.0.10.0/33").replace("operator: In", "operator: Among");
    let outcome = fleet.run(&["apply", "-f", "-"], &wrong);
    for text in [
        "stdin: document 1 (LoadBalancerIPPool blue-pool), line 8, column 11: spec.cidrs[0].cidr '20.0.10.0/33'",
        "line 11, column 32: spec.serviceSelector.matchExpressions[0].operator 'Among'",
        "nothing was applied: 2 errors in 1 of 2 documents",
    ] {
        assert!(outcome.stderr.contains(text), "want {text}\ngot {}", outcome.stderr);
    }
    let outcome = fleet.run(&["delete", "-f", "-"], CILIUM_POOLS);
    assert_eq!(outcome.stdout, "Successfully deleted 2 'LoadBalancerIPPool' resource(s)\n");
}

#[test]
fn an_ipam_configuration_is_one_object_however_it_is_written() {
    let fleet = Fleet::new();
    fleet.apply("apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: {name: default}\nspec: {strictAffinity: true, maxBlocksPerHost: 4}\n");
    let table = "NAME      STRICTAFFINITY   AUTOALLOCATEBLOCKS   MAXBLOCKSPERHOST   \ndefault   true             true                 4                  \n\n";
    assert_eq!(fleet.get(&["ipamconfig", "-o", "wide"]), table);
    assert_eq!(fleet.run(&["ipam", "configure", "--max-blocks-per-host=7"], "").code, 0);
    assert!(fleet.get(&["ipamconfig", "-o", "yaml"]).contains("maxBlocksPerHost: 7"));
    fleet.apply(&pool("a", "10.0.0.0/24"));
    let want = "\
+----------+-------------+-----------+------------+--------------+------------+
| GROUPING | CIDR        | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE   |
+----------+-------------+-----------+------------+--------------+------------+
| IP Pool  | 10.0.0.0/24 |       256 |     0 (0%) |       0 (0%) | 256 (100%) |
+----------+-------------+-----------+------------+--------------+------------+
";
    assert_eq!(fleet.run(&["ipam", "show", "--show-blocks"], "").stdout, want);
}

#[test]
fn a_store_that_cannot_be_reached_is_one_clear_line() {
    let fleet = Fleet::new();
    std::fs::create_dir(fleet.dir.path().join("store.db")).unwrap();
    let outcome = fleet.run(&["apply", "-f", "calico-bgp/v3"], "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("store.db"), "{}", outcome.stderr);
}

#[test]
fn calicos_configuration_file_says_which_store() {
    let fleet = Fleet::new();
    let (file, other) = (fleet.dir.path().join("calicoctl.cfg"), fleet.dir.path().join("other.db"));
    let run = |spec: &str| {
        let head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n";
        std::fs::write(&file, format!("{head}{spec}")).unwrap();
        fleet.run(&["get", "ippools", "--config", file.to_str().unwrap()], "")
    };
    fleet.apply(&pool("a", "10.0.0.0/24"));
    // Another store than the environment's.
    let outcome = run(&format!("  datastoreType: sqlite\n  sqlitePath: {}\n", other.display()));
    assert_eq!((outcome.code, outcome.stdout.contains("10.0.0.0/24")), (0, false), "{}", outcome.stderr);
    let rows = [
        ("  etcdEndpoint: x\n", "calicoctl.cfg: spec.etcdEndpoint is unknown; valid are datastoreType"),
        ("  etcdEndpoints: https://127.0.0.1:1\n  etcdCACert: none\n", "spec.etcdCACert: holds no PEM certificate"),
        ("  etcdEndpoints: [\n", "calicoctl.cfg: line "),
    ];
    for (spec, text) in rows {
        let outcome = run(spec);
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains(text), "want {text}\ngot {}", outcome.stderr);
    }
    let outcome = fleet.run(&["get", "ippools", "-c", "/nonexistent.cfg"], "");
    assert!(outcome.stderr.contains("/nonexistent.cfg: cannot be read"), "{}", outcome.stderr);
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

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs etcd"]
fn etcd_takes_the_same_and_says_when_it_is_gone() {
    let mut fleet = Fleet::new();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (client, peer) = (format!("http://127.0.0.1:{}", free()), format!("http://127.0.0.1:{}", free()));
    let data = fleet.dir.path().join("etcd");
    let etcd = Command::new("etcd")
        .args([
            "--data-dir",
            data.to_str().unwrap(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let etcd = Running(etcd);
    fleet.env = vec![("DATASTORE_TYPE".into(), "etcdv3".into()), ("ETCD_ENDPOINTS".into(), client)];
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fleet.run(&["get", "ippool"], "").code != 0 {
        assert!(std::time::Instant::now() < deadline, "etcd does not answer");
    }
    let outcome = fleet.run(&["apply", "-f", "calico-bgp/v3", "-f", "nodes.yaml", "-f", "services"], "");
    assert_eq!(outcome.stdout, "Successfully applied 16 resource(s)\n", "{}", outcome.stderr);
    assert!(fleet.get(&["ippool"]).contains("ippool-test-0   1.1.1.0/24      !all()     \n"));
    let many: String = (0..300).map(|i| pool(&format!("p{i}"), &format!("10.{}.{}.0/24", i / 256, i % 256))).collect();
    assert_eq!(fleet.apply(&many), "Successfully applied 300 'IPPool' resource(s)\n");
    drop(etcd);
    let outcome = fleet.run(&["get", "ippool"], "");
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1"), "{}", outcome.stderr);
}

#[test]
fn both_names_read_the_sockets() {
    let fleet = Fleet::new();
    let peers = serde_json::json!([
        {"name": "bgp-peer-1", "address": "192.168.1.1", "port": 179, "type": "node specific", "remoteAs": 1111111, "localAs": 1111111,
         "state": "Established", "up": true, "since": "2023-08-17T10:00:00.123456789Z", "lastError": null, "received": 3, "advertised": 2, "family": "ipv4"}]);
    let routes = serde_json::json!(
        {"prefix": "1.1.1.0/29", "nextHop": "192.168.1.4", "asPath": [], "localPref": 100, "med": null, "communities": ["65000:1"], "peer": null, "best": true});
    let router = axum::Router::new()
        .route("/v1/peers", axum::routing::get(move || async move { axum::Json(peers) }))
        .route("/v1/status", axum::routing::get(|| async { axum::Json(serde_json::json!({})) }))
        .route("/v1/routes", axum::routing::get(move || async move { format!("{routes}\n") }));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _server = runtime.block_on(status::serve(fleet.dir.path(), "bgpd", router)).unwrap();
    let services = serde_json::json!([
        {"service": "test/web", "kind": "ClusterIp", "addr": "10.96.0.1", "port": 80, "protocol": "TCP", "served": true, "announced": false,
         "backends": [{"addr": "1.1.1.1", "port": 8080, "is_local": true}, {"addr": "1.1.2.1", "port": 8080, "is_local": false}]}]);
    let status = serde_json::json!({"node": "worker01", "ready": true, "counts": {"frontends": 1}});
    let router = axum::Router::new()
        .route("/v1/services", axum::routing::get(move || async move { axum::Json(services) }))
        .route("/v1/status", axum::routing::get(move || async move { axum::Json(status) }));
    let _felix = runtime.block_on(status::serve(fleet.dir.path(), "felix", router)).unwrap();
    let run_dir = fleet.dir.path().to_str().unwrap();
    for program in [env!("CARGO_BIN_EXE_calicoctl"), env!("CARGO_BIN_EXE_bgpctl")] {
        let status = run(program, fleet.dir.path(), &["node", "status", "--run-dir", run_dir], "");
        assert!(
            status.stdout.starts_with("Calico process is running.\n\nIPv4 BGP status\n+--------------+"),
            "{}",
            status.stderr
        );
        assert!(
            status.stdout.contains("| 192.168.1.1  | node specific | up    | 2023-08-17 | Established |"),
            "{}",
            status.stdout
        );
        let routes = run(program, fleet.dir.path(), &["routes", "best", "--run-dir", run_dir], "").stdout;
        assert!(routes.contains("1.1.1.0/29   192.168.1.4") && routes.contains(" self   true "), "{routes}");
        let sent = run(program, fleet.dir.path(), &["routes", "advertised", "--run-dir", run_dir], "").stdout;
        assert!(sent.contains("192.168.1.1   1.1.1.0/29"), "{sent}");
        let peers = run(program, fleet.dir.path(), &["peers", "--run-dir", run_dir], "").stdout;
        assert!(peers.contains(" 2023-08-17T10:00:00Z "), "{peers}");
        let peers = run(program, fleet.dir.path(), &["peers", "-o", "json", "--run-dir", run_dir], "").stdout;
        assert!(peers.contains("\"bgp-peer-1\""), "{peers}");
        let list = run(program, fleet.dir.path(), &["lb", "list", "--run-dir", run_dir], "").stdout;
        let want =
            "test/web   ClusterIP   10.96.0.1   80     TCP        true     false       1.1.1.1:8080 1.1.2.1:8080   \n";
        assert!(list.contains(want), "{list}");
        let state = run(program, fleet.dir.path(), &["lb", "status", "--run-dir", run_dir], "").stdout;
        assert!(state.starts_with("Node:       worker01"), "{state}");
    }
}

const TWO_SWITCHES: &str = r#"
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 192.0.2.4/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {peerRange: 192.0.2.0/29, password: {secretKeyRef: {name: bgp, key: leaf}}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: uplink}
spec: {peerInterface: eth1, asNumber: 65002}
"#;

/// As bgpd finds them: in the namespace it is told, and as files.
#[test]
fn a_plan_knows_the_passwords_that_are_files() {
    let fleet = Fleet::new();
    fleet.apply(TWO_SWITCHES);
    let plan = |args: &[&str]| {
        let outcome = fleet.run(&[&["plan", "--node", "a"], args].concat(), "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    assert!(plan(&["--namespace", "net"]).contains("there is no Secret net/bgp"));
    std::fs::create_dir_all(fleet.dir.path().join("secrets/bgp")).unwrap();
    std::fs::write(fleet.dir.path().join("secrets/bgp/leaf"), "hunter2\n").unwrap();
    let secrets = fleet.dir.path().join("secrets");
    let found = plan(&["--secrets-dir", secrets.to_str().unwrap()]);
    assert!(!found.contains("no Secret") && found.contains(" password ") && !found.contains("hunter2"), "{found}");
}

#[test]
fn a_switch_is_chosen_by_what_names_it() {
    let fleet = Fleet::new();
    fleet.apply(TWO_SWITCHES);
    let config = |args: &[&str]| fleet.run(&[&["switch-config", "--vendor", "frr"], args].concat(), "");
    let all = config(&[]);
    assert!(all.stdout.contains("router bgp 65002") && all.stderr.contains("--as-number"), "{}", all.stderr);
    let inside = config(&["--peer", "192.0.2.1", "--as-number", "65001"]);
    for want in
        ["router bgp 65001", " bgp router-id 192.0.2.1", " neighbor 192.0.2.4 peer-group tortie-v4", "CHANGE-ME"]
    {
        assert!(inside.stdout.contains(want), "{want}: {}{}", inside.stdout, inside.stderr);
    }
    assert!(config(&["--peer", "eth1"]).stdout.contains(" neighbor swp1 interface peer-group tortie-link"));
    for (peer, want) in [
        ("192.0.2.1", "nothing is left of 1 switch"),
        ("192.0.2.9", "no session leads to 192.0.2.9; the switches are 192.0.2.0/29, eth1"),
    ] {
        let outcome = config(&["--peer", peer]);
        assert!(outcome.code == 1 && outcome.stderr.contains(want), "{}", outcome.stderr);
    }
}

/// A backup is taken, the store is damaged, the check says so and the way back works.
#[test]
fn the_embedded_store_is_checked_backed_up_and_restored() {
    let fleet = Fleet::new();
    fleet.apply(&pool("kept", "10.0.0.0/16"));
    let sqlite = |args: &[&str]| fleet.run(&[&["datastore", "sqlite"], args].concat(), "");
    let checked = sqlite(&["check"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    assert!(checked.stdout.contains("Objects:   1\n") && checked.stdout.ends_with("No problem was found.\n"));
    let backup = fleet.dir.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    let made = sqlite(&["backup", backup]);
    assert_eq!((made.code, made.stderr.as_str()), (0, ""));
    assert!(made.stdout.ends_with("The backup is complete.\n"), "{}", made.stdout);
    let again = sqlite(&["backup", backup]);
    assert!(again.code == 1 && again.stderr.contains("exists"), "{}", again.stderr);

    fleet.apply(&pool("added", "10.1.0.0/16"));
    let restored = sqlite(&["restore", backup]);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""));
    assert!(fleet.get(&["ippool"]).contains("kept") && !fleet.get(&["ippool"]).contains("added"));
    assert_eq!(sqlite(&["compact"]).code, 0);

    let store = fleet.dir.path().join("store.db");
    let mut bytes = std::fs::read(&store).unwrap();
    let page = 4096;
    bytes[page..page + 24].fill(0xA5);
    std::fs::write(&store, &bytes).unwrap();
    let checked = sqlite(&["check"]);
    assert!(checked.code == 1 && checked.stdout.contains("Problem:"), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stderr.contains("restore BACKUP"), "{}", checked.stderr);
    let restored = sqlite(&["restore", backup]);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""));
    assert!(restored.stdout.contains("store.db.damaged"), "{}", restored.stdout);
    assert!(fleet.get(&["ippool"]).contains("kept"));
}
