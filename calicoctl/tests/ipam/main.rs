//! The commands of address management, as users see them: the real binary against a store of its own, and what the store then holds.

mod calico;
mod migrate;
mod release;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use api::Key;
use api::key::KeyRange;
use datastore::DynStore;
use datastore::config::StoreConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Outcome {
    stdout: String,
    stderr: String,
    code: i32,
}

/// A store in a directory of its own, and a runtime to look into it.
struct Fleet {
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    store: DynStore,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = StoreConfig::Sqlite { path: dir.path().join("store.db") };
        let store = runtime.block_on(config.open()).unwrap();
        Self { dir, runtime, store }
    }

    /// The fleet of these tests: one node, a pool with a block, one pod with an address, a cluster that is known.
    fn with_a_pod() -> Self {
        let fleet = Self::new();
        fleet.put_all(&[
            (CLUSTER, &json!({"kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"},
                "spec": {"clusterGUID": "guid-1", "clusterType": "k8s,bgp", "calicoVersion": "v3.33.0", "datastoreReady": true}})),
            (NODE, &json!({"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "node-1"}, "spec": {}})),
            (POOL, &json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "pods"},
                "spec": {"cidr": "10.0.0.0/24", "blockSize": 29, "nodeSelector": "all()"}})),
            (BLOCK, &json!({"cidr": "10.0.0.8/29", "affinity": "host:node-1",
                "allocations": [0, null, null, null, null, null, null, null], "unallocated": [1, 2, 3, 4, 5, 6, 7],
                "attributes": [{"handle_id": "k8s-pod-network.4f1c", "secondary": {"namespace": "default", "node": "node-1",
                    "pod": "web-0", "timestamp": "2026-08-22 10:00:00.12 +0000 UTC"}}],
                "sequenceNumber": 1_787_392_800_000_000_003_u64,
                "sequenceNumberForAllocation": {"0": 1_787_392_800_000_000_001_u64}, "deleted": false})),
            (AFFINITY, &json!({"state": "confirmed", "deleted": false})),
            (HANDLE, &json!({"block": {"10.0.0.8/29": 1}, "deleted": false})),
            (WEP, &json!({"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "node--1-k8s-web--0-eth0", "namespace": "default"},
                "spec": {"node": "node-1", "pod": "web-0", "ipNetworks": ["10.0.0.8/32"], "interfaceName": "cali1"}})),
        ]);
        fleet
    }

    fn put_all(&self, objects: &[(&str, &Value)]) {
        for (path, value) in objects {
            self.put(path, value);
        }
    }

    fn put(&self, path: &str, value: &Value) {
        let key = Key::parse(path).unwrap_or_else(|| panic!("{path}"));
        self.runtime.block_on(self.store.put(key, value.to_string().into_bytes())).unwrap();
    }

    fn delete(&self, path: &str) {
        self.runtime.block_on(self.store.delete(Key::parse(path).unwrap(), None)).unwrap();
    }

    fn get(&self, path: &str) -> Option<Value> {
        let kv = self.runtime.block_on(self.store.get(&Key::parse(path).unwrap())).unwrap()?;
        Some(serde_json::from_slice(&kv.value).unwrap())
    }

    /// Everything, with its revisions.
    fn all(&self) -> Vec<(String, String, u64)> {
        let listing = self.runtime.block_on(self.store.list(&KeyRange::All)).unwrap();
        let text =
            |kv: datastore::KeyValue| (kv.key.to_string(), String::from_utf8(kv.value).unwrap(), kv.mod_revision);
        listing.items.into_iter().map(text).collect()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().into()
    }

    fn run(&self, args: &[&str]) -> Outcome {
        run(&[("DATASTORE_TYPE", "sqlite"), ("SQLITE_PATH", &self.path("store.db"))], self.dir.path(), args)
    }

    fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}\n{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    fn fails(&self, args: &[&str]) -> Outcome {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 1, "{args:?}: {}\n{}", outcome.stdout, outcome.stderr);
        outcome
    }
}

fn run(env: &[(&str, &str)], dir: &Path, args: &[&str]) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"").unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap(),
    }
}

const CLUSTER: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
const NODE: &str = "/calico/resources/v3/projectcalico.org/nodes/node-1";
const POOL: &str = "/calico/resources/v3/projectcalico.org/ippools/pods";
const WEP: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/node--1-k8s-web--0-eth0";
const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.8-29";
const AFFINITY: &str = "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.8-29";
const HANDLE: &str = "/calico/ipam/v2/handle/k8s-pod-network.4f1c";
const CONFIG: &str = "/calico/ipam/v2/config";

#[test]
fn show_prints_calicos_tables_cell_by_cell() {
    let fleet = Fleet::with_a_pod();
    fleet.put_all(&[
        (
            "/calico/resources/v3/projectcalico.org/ippools/a6",
            &json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "a6"}, "spec": {"cidr": "fd00::/48"}}),
        ),
        (
            "/calico/resources/v3/projectcalico.org/ipreservations/r",
            &json!({"kind": "IPReservation",
            "apiVersion": "projectcalico.org/v3", "metadata": {"name": "r"},
            "spec": {"reservedCIDRs": ["10.0.0.8/31", "10.0.0.9", "10.0.0.128/25"]}}),
        ),
        // Of a node that borrows, and in no pool any more.
        (
            "/calico/ipam/v2/assignment/ipv6/block/fd77::-127",
            &json!({"cidr": "fd77::/127", "affinity": "host:node-1",
            "allocations": [0, 1], "unallocated": [], "attributes": [
                {"handle_id": "h", "secondary": {"namespace": "a", "node": "node-2", "pod": "b"}}, {}]}),
        ),
    ]);
    let rows: &[(&[&str], &str)] = &[
        (
            &["ipam", "show"],
            "\
+----------+-------------+------------+------------+--------------+-------------------+
| GROUPING | CIDR        | IPS TOTAL  | IPS IN USE | IPS RESERVED | IPS FREE          |
+----------+-------------+------------+------------+--------------+-------------------+
| IP Pool  | fd00::/48   | 1.2089e+24 |     0 (0%) |       0 (0%) | 1.2089e+24 (100%) |
| IP Pool  | 10.0.0.0/24 |        256 |     1 (0%) |    130 (51%) |         126 (49%) |
+----------+-------------+------------+------------+--------------+-------------------+
",
        ),
        (
            &["ipam", "show", "--show-blocks"],
            "\
+----------+-------------+------------+------------+--------------+-------------------+
| GROUPING | CIDR        | IPS TOTAL  | IPS IN USE | IPS RESERVED | IPS FREE          |
+----------+-------------+------------+------------+--------------+-------------------+
| IP Pool  | fd00::/48   | 1.2089e+24 |     0 (0%) |       0 (0%) | 1.2089e+24 (100%) |
| IP Pool  | 10.0.0.0/24 |        256 |     1 (0%) |    130 (51%) |         126 (49%) |
| Block    | 10.0.0.8/29 |          8 |    1 (12%) |      2 (25%) |           6 (75%) |
| Block    | fd77::/127  |          2 |   2 (100%) |       0 (0%) |            0 (0%) |
+----------+-------------+------------+------------+--------------+-------------------+
",
        ),
        (
            &["ipam", "show", "--show-borrowed"],
            "\
+--------+----------------+------------+-------------+------+--------------+
| IP     | BORROWING-NODE | BLOCK      | BLOCK OWNER | TYPE | ALLOCATED-TO |
+--------+----------------+------------+-------------+------+--------------+
| fd77:: | node-2         | fd77::/127 | node-1      | pod  | a/b          |
+--------+----------------+------------+-------------+------+--------------+

Note: found 1 IP allocations without an explicit node association. Unable to determine if they are borrowed.
",
        ),
        (
            &["ipam", "show", "--show-configuration"],
            "\
+------------------------------+---------+
| PROPERTY                     | VALUE   |
+------------------------------+---------+
| StrictAffinity               | false   |
| AutoAllocateBlocks           | true    |
| MaxBlocksPerHost             | 0       |
| KubeVirtVMAddressPersistence | Enabled |
| IPCooldownSeconds            | 0       |
+------------------------------+---------+
",
        ),
        (
            &["ipam", "show", "--ip=10.0.0.8"],
            "IP 10.0.0.8 is in use\nHandle ID: k8s-pod-network.4f1c\nActive Owner Attributes:\n  namespace: default\n  \
             node: node-1\n  pod: web-0\n  timestamp: 2026-08-22 10:00:00.12 +0000 UTC\n",
        ),
        (
            &["ipam", "show", "--ip=fd77::1"],
            "IP fd77::1 is in use\nHandle ID: <none>\nNo Active Owner attributes defined\n",
        ),
        (&["ipam", "show", "--ip=10.0.0.9"], "10.0.0.9 is not assigned\n"),
        (&["ipam", "show", "--ip=192.0.2.1"], "192.0.2.1 is not assigned\n"),
    ];
    for (args, wanted) in rows {
        assert_eq!(fleet.ok(args), *wanted, "{args:?}");
    }
    assert!(fleet.fails(&["ipam", "show", "--ip=10.240.0.300"]).stderr.contains("invalid IP address"));
}

#[test]
fn blocks_of_a_load_balancers_pool_stand_with_it() {
    let fleet = Fleet::with_a_pod();
    fleet.delete(POOL);
    fleet.put(
        "/tortie/resources/loadbalancerippools/web",
        &json!({"kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": {"name": "web"},
            "spec": {"blocks": [{"start": "10.0.0.8", "stop": "10.0.0.17"}, {"cidr": "10.1.0.0/28"}]}}),
    );
    // Of a CIDR, the first and the last address are not given.
    let wanted = "\
+----------+--------------------+-----------+------------+--------------+-----------+
| GROUPING | CIDR               | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE  |
+----------+--------------------+-----------+------------+--------------+-----------+
| LB Pool  | 10.0.0.8-10.0.0.17 |        10 |    1 (10%) |       0 (0%) |   9 (90%) |
| Block    | 10.0.0.8/29        |         8 |    1 (12%) |       0 (0%) |   7 (88%) |
| LB Pool  | 10.1.0.0/28        |        14 |     0 (0%) |       0 (0%) | 14 (100%) |
+----------+--------------------+-----------+------------+--------------+-----------+
";
    assert_eq!(fleet.ok(&["ipam", "show", "--show-blocks"]), wanted);
}

#[test]
fn configure_changes_what_is_named_and_nothing_else() {
    let defaults = json!({"strict_affinity": false, "auto_allocate_blocks": true});
    let calicos = json!({"auto_allocate_blocks": true, "maxBlocksPerHost": 20, "ofTheFuture": {"a": 1}});
    /// (stored, flags, exit code, what is said, what is stored then)
    type Row<'a> = (Option<&'a Value>, &'a [&'a str], i32, &'a str, Value);
    let rows: &[Row<'_>] = &[
        (
            None,
            &["--strictaffinity=true"],
            0,
            "Successfully set StrictAffinity to: true\n",
            json!({"strict_affinity": true, "auto_allocate_blocks": true}),
        ),
        (
            Some(&calicos),
            &["--strictaffinity=1", "--max-blocks-per-host=4"],
            0,
            "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n",
            json!({"auto_allocate_blocks": true, "maxBlocksPerHost": 4, "ofTheFuture": {"a": 1}, "strict_affinity": true}),
        ),
        (
            Some(&defaults),
            &["--max-blocks-per-host", "3"],
            0,
            "Successfully set MaxBlocksPerHost to: 3\n",
            json!({"strict_affinity": false, "auto_allocate_blocks": true, "maxBlocksPerHost": 3}),
        ),
        (
            Some(&defaults),
            &["--kubevirt-ip-persistence=Disabled", "--ip-cooldown-seconds=30"],
            0,
            "Successfully set KubeVirtVMAddressPersistence to: Disabled\nSuccessfully set IPCooldownSeconds to: 30\n\
             warning: kubeVirtVMAddressPersistence: stored, not active: no virtual machine is known\n",
            json!({"strict_affinity": false, "auto_allocate_blocks": true, "kubeVirtVMAddressPersistence": "Disabled",
                "ipCooldownSeconds": 30}),
        ),
        (
            Some(&json!({"strict_affinity": true, "auto_allocate_blocks": false})),
            &["--strictaffinity=false"],
            1,
            "Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time\n",
            json!({"strict_affinity": true, "auto_allocate_blocks": false}),
        ),
        // As Calico writes it: what is false is left out.
        (
            Some(&json!({"strict_affinity": true})),
            &["--strictaffinity=false"],
            1,
            "Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time\n",
            json!({"strict_affinity": true}),
        ),
        (
            Some(&defaults),
            &[],
            1,
            "at least one configuration option must be specified: --strictaffinity, \
            --max-blocks-per-host, --kubevirt-ip-persistence or --ip-cooldown-seconds\n",
            defaults.clone(),
        ),
        (
            Some(&defaults),
            &["--strictaffinity=yes"],
            1,
            "invalid value. Use true or false to set strictaffinity: not 'yes'\n",
            defaults.clone(),
        ),
        (
            Some(&defaults),
            &["--max-blocks-per-host=x"],
            1,
            "invalid value for maxblockhost. Use a valid number: 0 to 1000000, not 'x'\n",
            defaults.clone(),
        ),
        (
            Some(&defaults),
            &["--kubevirt-ip-persistence=enabled"],
            1,
            "invalid value for --kubevirt-ip-persistence. Use Enabled or Disabled: not 'enabled'\n",
            defaults.clone(),
        ),
        (
            Some(&defaults),
            &["--ip-cooldown-seconds=1201"],
            1,
            "invalid value for --ip-cooldown-seconds. Use a number of seconds: \
            0 to 1200, not '1201'\n",
            defaults.clone(),
        ),
    ];
    for (stored, flags, code, said, then) in rows {
        let fleet = Fleet::new();
        if let Some(stored) = stored {
            fleet.put(CONFIG, stored);
        }
        let outcome = fleet.run(&[&["ipam", "configure"], *flags].concat());
        assert_eq!((outcome.code, outcome.stdout + &outcome.stderr), (*code, said.to_string()), "{flags:?}");
        // Also the order of the fields.
        assert_eq!(fleet.get(CONFIG).map(|v| v.to_string()), Some(then.to_string()), "{flags:?}");
    }
}

#[test]
fn a_check_prints_calicos_lines() {
    let fleet = Fleet::with_a_pod();
    let before = fleet.all();
    let wanted = "\
Checking IPAM for inconsistencies...

Loading all IPAM blocks...
Found 1 IPAM blocks.
 IPAM block 10.0.0.8/29 affinity=host:node-1:
  10.0.0.8 allocated; attrs Main:k8s-pod-network.4f1c Extra:namespace=default,node=node-1,pod=web-0,timestamp=2026-08-22 10:00:00.12 +0000 UTC
IPAM blocks record 1 allocations.

Loading all IPAM pools...
  10.0.0.0/24
Found 1 active IP pools.

Loading all nodes.
Found 0 node tunnel IPs.

Loading all service load balancer IPs.
Found 0 service load balancer(s).

Loading all workload endpoints.
  10.0.0.8 belongs to Workload(default/node--1-k8s-web--0-eth0)
Found 1 workload IPs.
Workloads and nodes are using 1 IPs.

Loading all handles
Looking for top (up to 20) nodes by allocations...
  node-1 has 1 allocations
Node with most allocations has 1; median is 1

Scanning for IPs that are allocated but not actually in use...
Found 0 IPs that are allocated in IPAM but not actually in use.
Scanning for IPs that are in use by a workload or node but not allocated in IPAM...
Found 0 in-use IPs that are not in active IP pools.
Found 0 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.

Scanning for IPAM handles with no matching IPs...
Found 0 handles with no matching IPs (and 1 handles with matches).
Scanning for IPs with missing handle...
Found 0 handles mentioned in blocks with no matching handle resource.
Validating IPAMBlock structures...
Found 0 invalid IPAMBlocks.

Scanning for IPs with the wrong owner or several...
Found 0 in-use IPs with the wrong owner or several.
Counting the IPs of handles...
Found 0 handles with wrong counts.
Comparing blocks with pools, nodes and each other...
Found 0 blocks that should not be as they are.
Comparing affinities with blocks...
Found 0 affinities that do not match their blocks.
Scanning for records that cannot be read...
Found 0 records that cannot be read.

Check complete; found 0 problems.
";
    assert_eq!(fleet.ok(&["ipam", "check", "--show-all-ips"]), wanted);
    let json: Value = serde_json::from_str(&fleet.ok(&["ipam", "check", "--format", "json"])).unwrap();
    assert_eq!(
        (&json["problems"], &json["allocations"], &json["clusterGUID"]),
        (&json!([]), &json!(1), &json!("guid-1"))
    );
    assert_eq!(fleet.all(), before);
}

#[test]
fn a_repair_mends_what_is_safe_and_can_be_repeated() {
    let fleet = Fleet::with_a_pod();
    fleet.put("/calico/ipam/v2/handle/x", &json!({"block": {"10.0.0.8/29": 1}, "deleted": false}));
    fleet.put("/calico/ipam/v2/host/node-2/ipv4/block/10.0.0.8-29", &json!({"state": "pending", "deleted": false}));
    fleet.put(AFFINITY, &json!({"state": "pendingDeletion", "deleted": false}));
    fleet.delete(WEP);
    let found = fleet.fails(&["ipam", "check", "--show-problem-ips"]);
    for line in [
        "  10.0.0.8 leaked; attrs Main:k8s-pod-network.4f1c",
        "Found 1 IPs that are allocated in IPAM but not actually in use.",
        "  x doesn't have any active IPs.",
        "Found 1 handles with no matching IPs (and 1 handles with matches).",
        "  the affinity of host:node-1 for its block 10.0.0.8/29 is stuck at pendingDeletion.",
        "  host:node-2 has an affinity for block 10.0.0.8/29, which belongs to host:node-1.",
        "Check complete; found 4 problems.",
    ] {
        assert!(found.stdout.contains(line), "{line}\n{}", found.stdout);
    }
    assert_eq!(found.stderr, "4 problems\n");

    let before = fleet.all();
    let dry = fleet.fails(&["ipam", "check", "--repair", "--dry-run"]).stdout;
    for line in [
        "  would delete handle x, which has no address\n",
        "  would confirm the affinity of host:node-1 for its block 10.0.0.8/29\n",
        "  would release 10.0.0.8 (Main:k8s-pod-network.4f1c",
        "Dry run; 4 mends would be made, 0 problems would be left.\n",
    ] {
        assert!(dry.contains(line), "{line}\n{dry}");
    }
    assert_eq!(fleet.all(), before, "a dry run writes nothing");

    let outcome = fleet.ok(&["ipam", "check", "--repair"]);
    for line in [
        "  delete handle x, which has no address: done\n",
        "  release 10.0.0.8 (Main:k8s-pod-network.4f1c Extra:namespace=default,",
        "Repair complete; 4 mends made, 0 problems left.\n",
    ] {
        assert!(outcome.contains(line), "{line}\n{outcome}");
    }
    let paths: Vec<String> = fleet.all().into_iter().map(|(path, ..)| path).filter(|p| p.contains("/ipam/")).collect();
    assert_eq!(paths, [BLOCK, AFFINITY]);
    assert_eq!(fleet.get(BLOCK).unwrap()["unallocated"], json!([1, 2, 3, 4, 5, 6, 7, 0]));
    let after = fleet.all();
    assert!(fleet.ok(&["ipam", "check", "--repair"]).ends_with("Repair complete; 0 mends made, 0 problems left.\n"));
    assert_eq!(fleet.all(), after, "a second repair writes nothing");
}

#[test]
fn a_repair_goes_on_as_long_as_something_comes_of_it() {
    let fleet = Fleet::with_a_pod();
    fleet.delete(WEP);
    let of_pool = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "big"},
        "spec": {"cidr": "10.1.0.0/16", "blockSize": 22}});
    let allocations: Vec<usize> = vec![0; 1024];
    let block = json!({"cidr": "10.1.0.0/22", "affinity": "host:node-1", "allocations": allocations, "unallocated": [],
        "attributes": [{"handle_id": "big", "secondary": {"node": "node-1", "timestamp": "2026-08-22 10:00:00 +0000 UTC"}}],
        "sequenceNumber": 1, "sequenceNumberForAllocation": {}, "deleted": false});
    fleet.put_all(&[
        ("/calico/resources/v3/projectcalico.org/ippools/big", &of_pool),
        ("/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-22", &block),
        ("/calico/ipam/v2/host/node-1/ipv4/block/10.1.0.0-22", &json!({"state": "confirmed", "deleted": false})),
        ("/calico/ipam/v2/handle/big", &json!({"block": {"10.1.0.0/22": 1024}, "deleted": false})),
        ("/calico/ipam/v2/handle/x", &json!({"block": {}, "deleted": false})),
    ]);
    let dry = fleet.fails(&["ipam", "check", "--repair", "--dry-run", "-o", "report.json"]).stdout;
    assert!(dry.ends_with("Dry run; 18 mends would be made, 0 problems would be left.\n"), "{dry}");
    let report: Value = serde_json::from_slice(&std::fs::read(fleet.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["allocations"].as_object().unwrap().len(), 1025, "as it is, not as it would be");
    assert_eq!(report["leakedHandles"][0]["ID"], "x");
}

#[test]
fn no_report_is_written_while_a_user_cannot_be_read() {
    let fleet = Fleet::with_a_pod();
    fleet.put(WEP, &json!("x"));
    let said = fleet.fails(&["ipam", "check", "-o", "report.json"]).stderr;
    assert!(said.starts_with(&format!("no report is written: {WEP} cannot be read (")), "{said}");
    assert!(!std::path::Path::new(&fleet.path("report.json")).exists());
}

#[test]
fn a_repair_never_takes_what_is_in_use_or_was_assigned_just_now() {
    let fleet = Fleet::with_a_pod();
    let mut block = fleet.get(BLOCK).unwrap();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string();
    block["allocations"][1] = json!(1);
    block["unallocated"] = json!([2, 3, 4, 5, 6, 7]);
    let young = json!({"handle_id": "young", "secondary": {"node": "node-1", "timestamp": now}});
    block["attributes"].as_array_mut().unwrap().push(young);
    fleet.put(BLOCK, &block);
    fleet.put("/calico/ipam/v2/handle/young", &json!({"block": {"10.0.0.8/29": 1}, "deleted": false}));
    let before = fleet.all();
    let outcome = fleet.fails(&["ipam", "check", "--repair", "--format=json"]);
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(json["problems"][0]["problem"], "leaked");
    assert_eq!(json["problems"][0]["ip"], "10.0.0.9");
    assert!(json["problems"][0]["cannotMend"].as_str().unwrap().contains("less than 15 minutes"), "{json}");
    assert_eq!(outcome.stderr, "1 of 1 problems are left\n");
    assert_eq!(fleet.all(), before);
}

#[test]
fn a_split_keeps_every_address_and_can_be_run_again() {
    let fleet = Fleet::with_a_pod();
    let unlocked =
        "datastore is not locked. Run the `calicoctl datastore migrate lock` command in order split the IP pools\n";
    assert_eq!(fleet.fails(&["ipam", "split", "4", "--name=pods"]).stderr, unlocked);
    let mut cluster = fleet.get(CLUSTER).unwrap();
    cluster["spec"]["datastoreReady"] = json!(false);
    fleet.put(CLUSTER, &cluster);
    let rows: &[(&[&str], &str)] = &[
        (&["3", "--name=pods"], "number to split CIDR into is not a valid power of 2: 3"),
        (&["1", "--name=pods"], "number to split CIDR into is not a valid power of 2: 1"),
        (
            &["64", "--name=pods"],
            "the CIDR 10.0.0.0/24 is not large enough to be split into 64 parts: its blocks are /29",
        ),
        (&["512", "--name=pods"], "the CIDR 10.0.0.0/24 is not large enough to be split into 512 parts"),
        (&["2", "--name=other"], "unable to find IP pool with name other"),
        (&["2", "--cidr=10.0.0.0/25"], "unable to find IP pool covering the specified CIDR 10.0.0.0/25"),
    ];
    let before = fleet.all();
    for (args, wanted) in rows {
        let outcome = fleet.fails(&[&["ipam", "split"], *args].concat());
        assert!(outcome.stderr.starts_with(wanted), "{args:?}: {}", outcome.stderr);
    }
    // Interrupted once: the first part is there already.
    assert_eq!(fleet.all(), before);
    fleet.put(
        "/calico/resources/v3/projectcalico.org/ippools/split-pods-0",
        &json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "split-pods-0"},
            "spec": {"cidr": "10.0.0.0/26", "blockSize": 29, "nodeSelector": "all()"}}),
    );
    let done = "\
IP Pool pods was successfully split into 4 smaller pools.
Created split-pods-0 with CIDR 10.0.0.0/26.
Created split-pods-1 with CIDR 10.0.0.64/26.
Created split-pods-2 with CIDR 10.0.0.128/26.
Created split-pods-3 with CIDR 10.0.0.192/26.
Please refer to the documentation for final steps.
";
    assert_eq!(fleet.ok(&["ipam", "split", "4", "--cidr=10.0.0.0/24"]), done);
    assert_eq!(fleet.get(POOL), None);
    let part = fleet.get("/calico/resources/v3/projectcalico.org/ippools/split-pods-3").unwrap();
    assert_eq!(part["spec"], json!({"cidr": "10.0.0.192/26", "blockSize": 29, "nodeSelector": "all()"}));
    assert_eq!(
        fleet.ok(&["ipam", "split", "4", "--name=pods"]),
        "IP Pool pods is split into 4 smaller pools already.\n"
    );
    let shown = fleet.ok(&["ipam", "show", "--show-blocks"]);
    assert!(shown.lines().any(|l| l.contains("| 10.0.0.8/29 ") && l.contains("1 (12%)")), "{shown}");
    fleet.ok(&["ipam", "check"]);
}
