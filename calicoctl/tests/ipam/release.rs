//! ipam release.

use super::*;

/// Somebody who has gone and left an address and a handle, and a report of that; the datastore is locked.
fn leaking() -> Fleet {
    let fleet = Fleet::with_a_pod();
    fleet.delete(WEP);
    fleet.put("/calico/ipam/v2/handle/x", &json!({"block": {"10.0.0.16/29": 1}, "deleted": false}));
    fleet.ok(&["datastore", "migrate", "lock"]);
    fleet.fails(&["ipam", "check", "-o", "report.json"]);
    fleet
}

#[test]
fn what_a_report_says_is_leaked_is_released() {
    let fleet = leaking();
    let report: Value = serde_json::from_slice(&std::fs::read(fleet.path("report.json")).unwrap()).unwrap();
    let fields: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "version",
            "clusterGUID",
            "datastoreLocked",
            "clusterInformationRevision",
            "clusterType",
            "allocations",
            "leakedHandles"
        ]
    );
    assert_eq!(
        (&report["version"], &report["datastoreLocked"]),
        (&json!("v3.33.0"), &json!(true)),
        "Calico takes it for its own"
    );
    let wanted = "\
Releasing 1 old IPs...
Released 1 IPs successfully
Deleting 1 handles...
Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.
.
Released 1 handles; 0 skipped; 0 errors.
You may now unlock the data store.
";
    assert_eq!(fleet.ok(&["ipam", "release", "--from-report=report.json", "--from-report", "report.json"]), wanted);
    assert_eq!(fleet.get(BLOCK).unwrap()["allocations"][0], Value::Null);
    assert_eq!((fleet.get(HANDLE), fleet.get("/calico/ipam/v2/handle/x")), (None, None));
    // Once more, and with the handle made anew.
    fleet.put("/calico/ipam/v2/handle/x", &json!({"block": {"10.0.0.16/29": 1}, "deleted": false}));
    let again = fleet.ok(&["ipam", "release", "--from-report=report.json"]);
    assert!(again.contains("1 addresses marked as leaked in the report had already been cleaned up."), "{again}");
    assert!(again.contains("\nx\nReleased 0 handles; 1 skipped; 0 errors."), "{again}");
    assert!(fleet.get("/calico/ipam/v2/handle/x").is_some());
}

#[test]
fn an_address_that_was_assigned_anew_is_not_released() {
    let fleet = leaking();
    let mut block = fleet.get(BLOCK).unwrap();
    block["sequenceNumberForAllocation"]["0"] = json!(7);
    fleet.put(BLOCK, &block);
    let said = fleet.ok(&["ipam", "release", "--from-report=report.json"]);
    assert!(said.contains("An error occurred while releasing some IPs: "), "{said}");
    assert_eq!(fleet.get(BLOCK).unwrap(), block);
}

#[test]
fn an_address_of_before_there_were_sequence_numbers_is_released() {
    let fleet = leaking();
    let mut block = fleet.get(BLOCK).unwrap();
    for field in ["sequenceNumber", "sequenceNumberForAllocation"] {
        block.as_object_mut().unwrap().remove(field);
    }
    fleet.put(BLOCK, &block);
    fleet.fails(&["ipam", "check", "-o", "report.json"]);
    let said = fleet.ok(&["ipam", "release", "--from-report=report.json"]);
    assert!(said.contains("Released 1 IPs successfully"), "{said}");
    assert_eq!(fleet.get(BLOCK).unwrap()["allocations"][0], Value::Null);
}

#[test]
fn a_report_of_another_time_or_cluster_is_refused() {
    // (what changes, flags, the beginning of the error)
    type Row = (&'static str, fn(&Fleet), &'static [&'static str], &'static str);
    let rows: &[Row] = &[
        (
            "another cluster",
            |f| change(f, "/spec/clusterGUID", json!("guid-2")),
            &["--force"],
            "cluster does not match the provided report (report.json): mismatched cluster GUID. Refusing to release",
        ),
        (
            "another version",
            |f| change(f, "/spec/calicoVersion", json!("v3.34.0")),
            &[],
            "the provided report (report.json) was produced using a different version (v3.33.0) of calicoctl. Refusing to release",
        ),
        (
            "unlocked",
            |f| {
                f.ok(&["datastore", "migrate", "unlock"]);
            },
            &[],
            "the provided reports are all stale",
        ),
        (
            "unlocked and locked",
            |f| {
                f.ok(&["datastore", "migrate", "unlock"]);
                f.ok(&["datastore", "migrate", "lock"]);
            },
            &[],
            "the provided reports are all stale",
        ),
        (
            "reported while unlocked",
            |f| {
                f.ok(&["datastore", "migrate", "unlock"]);
                f.fails(&["ipam", "check", "-o", "report.json"]);
            },
            &[],
            "data store is not locked. Either lock the data store, or re-run with --force",
        ),
        (
            "no report",
            |f| std::fs::write(f.path("report.json"), "{").unwrap(),
            &[],
            "report.json is no report of ipam check",
        ),
        ("no file", |f| std::fs::remove_file(f.path("report.json")).unwrap(), &[], "cannot read report.json"),
    ];
    for (name, broken, flags, wanted) in rows {
        let fleet = leaking();
        broken(&fleet);
        let before = fleet.all();
        let outcome = fleet.fails(&[&["ipam", "release", "--from-report=report.json"], *flags].concat());
        assert!(outcome.stderr.starts_with(wanted), "{name}: {}", outcome.stderr);
        assert_eq!(fleet.all(), before, "{name}");
    }
}

fn change(fleet: &Fleet, pointer: &str, value: Value) {
    let mut cluster = fleet.get(CLUSTER).unwrap();
    *cluster.pointer_mut(pointer).unwrap() = value;
    fleet.put(CLUSTER, &cluster);
}

#[test]
fn addresses_are_released_by_themselves_by_handle_by_node_and_by_pool() {
    let gone = |fleet: &Fleet| {
        let paths: Vec<String> =
            fleet.all().into_iter().map(|(path, ..)| path).filter(|p| p.contains("/ipam/")).collect();
        paths.is_empty()
    };
    // (what is missing, arguments, exit code, what is said, whether nothing of IPAM is left)
    type Row = (&'static [&'static str], &'static [&'static str], i32, &'static str, bool);
    let rows: &[Row] = &[
        (&[], &["--ip=10.0.0.8"], 0, "Successfully released IP address 10.0.0.8\n", false),
        (&[], &["--ip=10.0.0.9"], 1, "IP address 10.0.0.9 is not assigned\n", false),
        (&[], &["--ip=192.0.2.1"], 1, "IP address 192.0.2.1 is not assigned\n", false),
        (
            &[],
            &["--handle=k8s-pod-network.4f1c"],
            0,
            "Successfully released IP address 10.0.0.8 of handle k8s-pod-network.4f1c\n",
            false,
        ),
        (&[], &["--handle=x"], 1, "resource does not exist: IPAMHandle(x) with error: <nil>\n", false),
        (
            &[],
            &["--node=node-1"],
            1,
            "node node-1 exists, and its workloads may use their addresses: delete the Node, or use --force\n",
            false,
        ),
        (&[NODE], &["--node=node-1"], 0, "Successfully released IP address 10.0.0.8 of node node-1\n", true),
        (
            &[],
            &["--node=node-1", "--force"],
            0,
            "Successfully released IP address 10.0.0.8 of node node-1\n\
            Successfully released 1 blocks of node node-1: 10.0.0.8/29\n",
            true,
        ),
        (
            &[],
            &["--pool=pods"],
            1,
            "IPPool pods is enabled, and workloads may use its addresses: disable it and drain them, or use --force\n",
            false,
        ),
        (
            &[],
            &["--pool=10.0.0.0/25"],
            1,
            "10.0.0.0/25 is no pool that is gone: it overlaps IPPool pods (10.0.0.0-10.0.0.255)\n",
            false,
        ),
        (
            &[],
            &["--pool=0.0.0.0/0"],
            1,
            "0.0.0.0/0 is no pool that is gone: it overlaps IPPool pods (10.0.0.0-10.0.0.255)\n",
            false,
        ),
        (
            &[POOL],
            &["--pool=pods"],
            1,
            "resource does not exist: IPPool(pods); for a pool that is gone give its CIDR\n",
            false,
        ),
        (
            &[POOL],
            &["--pool=10.0.0.0/24"],
            0,
            "Successfully released IP address 10.0.0.8 of pool 10.0.0.0/24\n\
            Successfully released 1 blocks of pool 10.0.0.0/24: 10.0.0.8/29\n",
            true,
        ),
    ];
    for (missing, args, code, said, is_gone) in rows {
        let fleet = Fleet::with_a_pod();
        missing.iter().for_each(|path| fleet.delete(path));
        let before = fleet.all();
        let outcome = fleet.run(&[&["ipam", "release"], *args].concat());
        assert_eq!((outcome.code, outcome.stdout + &outcome.stderr), (*code, said.to_string()), "{args:?}");
        assert_eq!(gone(&fleet), *is_gone, "{args:?}");
        assert_eq!(fleet.all() == before, *code == 1, "{args:?}: an error changes nothing");
    }
    assert!(Fleet::new().run(&["ipam", "release"]).stderr.contains("--from-report"));
    let fleet = Fleet::with_a_pod();
    fleet.delete(POOL);
    fleet.put(
        "/tortie/resources/loadbalancerippools/web",
        &json!({"kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": {"name": "web"},
            "spec": {"blocks": [{"start": "10.0.0.8", "stop": "10.0.0.20"}]}}),
    );
    assert_eq!(
        fleet.fails(&["ipam", "release", "--pool=10.0.0.0/16"]).stderr,
        "10.0.0.0/16 is no pool that is gone: it overlaps LoadBalancerIPPool web (10.0.0.8-10.0.0.20)\n"
    );
}
