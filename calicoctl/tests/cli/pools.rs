//! Pools and the configuration of address management.

use crate::fleet::{Fleet, keys, pool, put};

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
        "stdin: document 1 (LoadBalancerIPPool blue-pool): error with the following fields:",
        "such as 20.0.10.0/24; spec.cidrs[0].cidr, line 8, column 11\n",
        "; spec.serviceSelector.matchExpressions[0].operator, line 11, column 32\n",
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
