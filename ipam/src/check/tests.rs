use serde_json::{Value, json};

use super::repair::{Circumstances, plan};
use super::report::{Cluster, Report, agreed};
use super::*;
use api::Key;
use datastore::{KeyValue, Op};
use jiff::{SignedDuration, Timestamp};

const OPEN: Circumstances = Circumstances { is_locked: false, cooldown: SignedDuration::ZERO };
const LOCKED: Circumstances = Circumstances { is_locked: true, cooldown: SignedDuration::ZERO };

fn now() -> Timestamp {
    "2026-08-22T12:00:00Z".parse().unwrap()
}

fn kv(path: &str, value: &str, mod_revision: u64) -> KeyValue {
    let key = Key::parse(path).unwrap_or_else(|| panic!("{path}"));
    KeyValue { key, value: value.as_bytes().to_vec(), mod_revision }
}

/// A store's objects by path. What it begins with is right: one node with two blocks, a pod with an address of each family, tunnels of
/// both families, a service.
#[derive(Clone)]
struct Lab(BTreeMap<String, Value>);

const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30";
const BLOCK6: &str = "/calico/ipam/v2/assignment/ipv6/block/fd00::-126";
const LB_BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-31";
const AFFINITY: &str = "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-30";
const POD_HANDLE: &str = "/calico/ipam/v2/handle/k8s-pod-network.4f1c";
const WEP: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/node--1-k8s-web--0-eth0";
const NODE: &str = "/calico/resources/v3/projectcalico.org/nodes/node-1";

const WEB: &str = "/tortie/resources/services/default/web";

/// A service with a sharing key, whose status has the address of [`WEB`].
fn sharing(name: &str, key: &str, port: u16) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default", "annotations": {"tortie.io/sharing-key": key}},
        "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.0"}]}}})
}

impl Lab {
    fn new() -> Self {
        let pod = json!({"namespace": "default", "node": "node-1", "pod": "web-0", "timestamp": "2026-08-22 10:00:00.12 +0000 UTC"});
        let resource = "/calico/resources/v3/projectcalico.org";
        let pool = |cidr: &str, size: u8| {
            json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "p"},
            "spec": {"cidr": cidr, "blockSize": size}})
        };
        let confirmed = json!({"state": "confirmed", "deleted": false});
        let handle = |cidr: &str| json!({"block": {cidr: 1}, "deleted": false});
        let tunnel = |kind: &str| json!({"node": "node-1", "type": kind});
        Self(BTreeMap::from([
            (
                BLOCK.into(),
                json!({"cidr": "10.0.0.0/30", "affinity": "host:node-1", "allocations": [0, null, null, 1],
                "unallocated": [1, 2], "attributes": [
                    {"handle_id": "vxlan-tunnel-addr-node-1", "secondary": tunnel("vxlanTunnelAddress")},
                    {"handle_id": "k8s-pod-network.4f1c", "secondary": pod}],
                "sequenceNumber": 13, "sequenceNumberForAllocation": {"0": 11, "3": 12}, "deleted": false}),
            ),
            (
                BLOCK6.into(),
                json!({"cidr": "fd00::/126", "affinity": "host:node-1", "allocations": [0, 1, null, null],
                "unallocated": [2, 3], "attributes": [
                    {"handle_id": "vxlan-v6-tunnel-addr-node-1", "secondary": tunnel("vxlanV6TunnelAddress")},
                    {"handle_id": "k8s-pod-network.4f1c", "secondary": pod}],
                "sequenceNumber": 3, "sequenceNumberForAllocation": {"0": 1, "1": 2}, "deleted": false}),
            ),
            (
                LB_BLOCK.into(),
                json!({"cidr": "10.9.0.0/31", "affinity": "virtual:load-balancer", "allocations": [0, null],
                "unallocated": [1], "attributes": [{"handle_id": "lb-1", "secondary": {"service": "web", "namespace": "default",
                "type": "LoadBalancer", "timestamp": "2026-08-22 10:00:00 +0000 UTC"}}],
                "sequenceNumber": 3, "sequenceNumberForAllocation": {"0": 1}, "deleted": false}),
            ),
            (AFFINITY.into(), confirmed.clone()),
            ("/calico/ipam/v2/host/node-1/ipv6/block/fd00::-126".into(), confirmed.clone()),
            ("/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.9.0.0-31".into(), confirmed),
            ("/calico/ipam/v2/handle/vxlan-tunnel-addr-node-1".into(), handle("10.0.0.0/30")),
            ("/calico/ipam/v2/handle/vxlan-v6-tunnel-addr-node-1".into(), handle("fd00::/126")),
            ("/calico/ipam/v2/handle/lb-1".into(), handle("10.9.0.0/31")),
            (POD_HANDLE.into(), json!({"block": {"10.0.0.0/30": 1, "fd00::/126": 1}, "deleted": false})),
            (format!("{resource}/ippools/v4"), pool("10.0.0.0/16", 30)),
            (format!("{resource}/ippools/v6"), pool("fd00::/64", 126)),
            (format!("{resource}/ippools/lb"), pool("10.9.0.0/24", 31)),
            (NODE.into(), json!({"spec": {"ipv4VXLANTunnelAddr": "10.0.0.0", "ipv6VXLANTunnelAddr": "fd00:0::0"}})),
            (
                WEP.into(),
                json!({"spec": {"node": "node-1", "pod": "web-0", "ipNetworks": ["10.0.0.3/32", "fd00::1/128"]}}),
            ),
            (
                "/tortie/resources/pods/default/web-0".into(),
                json!({"spec": {"nodeName": "node-1"}, "status": {"podIP": "10.0.0.3", "podIPs": [{"ip": "10.0.0.3"}]}}),
            ),
            (
                WEB.into(),
                json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.0"}]}}}),
            ),
        ]))
    }

    fn set(mut self, path: &str, pointer: &str, value: Value) -> Self {
        let object = self.0.get_mut(path).unwrap_or_else(|| panic!("{path}"));
        *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        self
    }

    fn put(mut self, path: &str, value: Value) -> Self {
        self.0.insert(path.into(), value);
        self
    }

    fn drop(mut self, path: &str) -> Self {
        self.0.remove(path).unwrap_or_else(|| panic!("{path}"));
        self
    }

    fn snapshot(&self) -> Snapshot {
        let objects = self.0.iter().zip(1..);
        let objects: Vec<KeyValue> = objects.map(|((path, value), n)| kv(path, &value.to_string(), n)).collect();
        Snapshot::new(&objects, now())
    }

    fn problems(&self) -> Vec<String> {
        check(&self.snapshot()).problems.iter().map(ToString::to_string).collect()
    }

    /// Carries out what is planned, round by round, as long as there is something; what was done and what is left.
    fn repair(&mut self, circumstances: Circumstances) -> (Vec<String>, Vec<String>) {
        let mut done = Vec::new();
        for _ in 0..10 {
            let snapshot = self.snapshot();
            let (mends, left) = plan(&snapshot, &check(&snapshot), circumstances);
            if mends.is_empty() {
                return (done, left.iter().map(|l| l.problem.to_string()).collect());
            }
            let revisions: BTreeMap<String, u64> = self.0.keys().cloned().zip(1..).collect();
            for mend in mends {
                let mut keys = BTreeSet::new();
                for op in &mend.ops {
                    let path = op.key().to_string();
                    op.check(revisions.get(&path).copied()).unwrap_or_else(|e| panic!("{}: {e}", mend.what));
                    assert!(keys.insert(path), "{}: a key twice", mend.what);
                }
                for op in mend.ops {
                    let path = op.key().to_string();
                    match op {
                        Op::Create(_, value) | Op::Update(_, value, _) | Op::Put(_, value) => {
                            self.0.insert(path, serde_json::from_slice(&value).unwrap());
                        }
                        Op::Delete(..) => {
                            self.0.remove(&path);
                        }
                        Op::Check(..) => {}
                    }
                }
                done.push(mend.what);
            }
        }
        panic!("it never ends: {done:?}");
    }
}

#[test]
fn what_is_right_is_found_right() {
    let lab = Lab::new();
    assert_eq!(lab.problems(), Vec::<String>::new());
    assert_eq!(lab.clone().repair(LOCKED), (vec![], vec![]));
    let findings = check(&lab.snapshot());
    assert_eq!(findings.allocations.len(), 5);
    assert_eq!(findings.in_use.len(), 5, "tunnels of both families, a pod and a service");
}

/// What a row breaks, how, the beginnings of what is said of it, of what is done about it, and of what is left then.
struct Row {
    name: &'static str,
    broken: fn(Lab) -> Lab,
    found: &'static [&'static str],
    done: &'static [&'static str],
    left: &'static [&'static str],
}

fn same(name: &str, what: &str, found: &[String], wanted: &[&str]) {
    let is_same = found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| f.starts_with(w));
    assert!(is_same, "{name}: {what}: want {wanted:#?}, found {found:#?}");
}

const ROWS: &[Row] = &[
    Row {
        name: "a pod is gone and its addresses are not",
        broken: |lab| lab.drop(WEP).drop("/tortie/resources/pods/default/web-0"),
        found: &[
            "10.0.0.3 leaked; attrs Main:k8s-pod-network.4f1c Extra:namespace=default,node=node-1,pod=web-0,timestamp=",
            "fd00::1 leaked; attrs Main:k8s-pod-network.4f1c",
        ],
        // Both change the handle: the second waits for the first.
        done: &["release 10.0.0.3 (Main:k8s-pod-network.4f1c", "release fd00::1 (Main:"],
        left: &[],
    },
    Row {
        name: "an address that was assigned just now is left alone",
        broken: |lab| {
            lab.drop(WEP)
                .set("/tortie/resources/pods/default/web-0", "/status/podIPs/0/ip", json!("fd00::1"))
                .set("/tortie/resources/pods/default/web-0", "/status/podIP", json!("fd00::1"))
                .set(BLOCK, "/attributes/1/secondary/timestamp", json!("2026-08-22 11:45:01 +0000 UTC"))
        },
        found: &["10.0.0.3 leaked"],
        done: &[],
        left: &["10.0.0.3 leaked"],
    },
    Row {
        name: "an address of unknown age is left alone",
        broken: |lab| {
            lab.set(NODE, "/spec/ipv4VXLANTunnelAddr", json!("")).set(NODE, "/spec/ipv6VXLANTunnelAddr", json!(""))
        },
        found: &[
            "10.0.0.0 leaked; attrs Main:vxlan-tunnel-addr-node-1 Extra:node=node-1,type=vxlanTunnelAddress",
            "fd00:: leaked",
        ],
        done: &[],
        left: &["10.0.0.0 leaked", "fd00:: leaked"],
    },
    Row {
        name: "a node is gone, and with it all that it had",
        broken: |lab| lab.drop(NODE).drop(WEP).drop("/tortie/resources/pods/default/web-0"),
        found: &[
            "10.0.0.0 leaked",
            "10.0.0.3 leaked",
            "fd00:: leaked",
            "fd00::1 leaked",
            "block 10.0.0.0/30 (2 in use) belongs to node node-1, which does not exist.",
            "block fd00::/126 (2 in use) belongs to node node-1",
        ],
        done: &["release 10.0.0.0 (", "release fd00:: ("],
        left: &[],
    },
    Row {
        name: "an address that cools down is no leak",
        broken: |lab| {
            lab.drop(WEP)
                .drop("/tortie/resources/pods/default/web-0")
                .drop(POD_HANDLE)
                .set(BLOCK, "/attributes/1", json!({"releasedAt": "2026-08-22T11:59:00Z"}))
                .set(BLOCK6, "/attributes/1", json!({"releasedAt": "2026-08-22T11:59:00Z"}))
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "a pod uses an address that cools down",
        broken: |lab| {
            lab.set(POD_HANDLE, "/block", json!({"fd00::/126": 1})).set(
                BLOCK,
                "/attributes/1",
                json!({"releasedAt": "2026-08-22T11:59:00Z"}),
            )
        },
        found: &["10.0.0.3 in use by Workload(default/node--1-k8s-web--0-eth0) has been released and is cooling down."],
        done: &[],
        left: &["10.0.0.3 in use by"],
    },
    Row {
        name: "a pod uses a free address",
        broken: |lab| lab.set(WEP, "/spec/ipNetworks", json!(["10.0.0.3/32", "10.0.0.1/32", "fd00::1/128"])),
        found: &[
            "10.0.0.1 in use by Workload(default/node--1-k8s-web--0-eth0) and in active IPAM pool but has no IPAM allocation.",
        ],
        done: &[],
        left: &["10.0.0.1 in use"],
    },
    Row {
        name: "a pod uses an address of no pool",
        broken: |lab| lab.set(WEP, "/spec/ipNetworks", json!(["10.0.0.3/32", "10.77.0.1/32", "fd00::1/128"])),
        found: &["10.77.0.1 in use by Workload(default/node--1-k8s-web--0-eth0) is not in any active IP pool."],
        done: &[],
        left: &["10.77.0.1"],
    },
    Row {
        name: "somebody else balances a service",
        broken: |lab| {
            lab.put(
                "/tortie/resources/services/default/other",
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
            )
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "a service of Cilium's class uses an address that is not allocated",
        broken: |lab| {
            lab.put(
                "/tortie/resources/services/default/other",
                json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "io.cilium/bgp-control-plane"},
                    "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.1"}]}}}),
            )
        },
        found: &["10.9.0.1 in use by"],
        done: &[],
        left: &["10.9.0.1 in use by"],
    },
    Row {
        name: "two services share an address, as their keys say",
        broken: |lab| {
            lab.put(WEB, sharing("web", "k", 80))
                .put("/tortie/resources/services/default/other", sharing("other", "k", 443))
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "services have one address that they may not share",
        broken: |lab| {
            lab.put(WEB, sharing("web", "k", 80))
                .put("/tortie/resources/services/default/other", sharing("other", "l", 443))
                .put("/tortie/resources/services/default/third", sharing("third", "k", 80))
        },
        found: &[
            "10.9.0.0 in use by Service(default/other) and Service(default/third), which may not share it: their sharing keys differ.",
            "10.9.0.0 in use by Service(default/other) and Service(default/web), which may not share it: their sharing keys differ.",
        ],
        done: &[],
        left: &[
            "10.9.0.0 in use by Service(default/other) and Service(default/third)",
            "10.9.0.0 in use by Service(default/other) and Service(default/web)",
        ],
    },
    Row {
        name: "a service that cannot be read as a whole has the address of another",
        broken: |lab| {
            lab.put(
                "/tortie/resources/services/default/other",
                json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "other", "namespace": "default"},
                    "spec": {"type": "LoadBalancer", "ports": 80},
                    "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.0"}]}}}),
            )
        },
        found: &[
            "10.9.0.0 in use by Service(default/other) and Service(default/web), which may not share it: Service(default/other) cannot be \
             read: ",
        ],
        done: &[],
        left: &["10.9.0.0 in use by"],
    },
    Row {
        name: "another balancer's address, which two services share by its rules",
        broken: |lab| {
            let mut other = sharing("other", "k", 80);
            other["status"]["loadBalancer"]["ingress"][0]["ip"] = "192.0.2.1".into();
            let mut third = sharing("third", "l", 80);
            third["status"]["loadBalancer"]["ingress"][0]["ip"] = "192.0.2.1".into();
            lab.put("/tortie/resources/services/default/other", other)
                .put("/tortie/resources/services/default/third", third)
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "two pods have one address",
        broken: |lab| {
            lab.put(
                "/calico/resources/v3/projectcalico.org/workloadendpoints/default/z",
                json!({"spec": {"node": "node-1", "pod": "web-1", "ipNetworks": ["10.0.0.3/32"]}}),
            )
        },
        found: &[
            "10.0.0.3 has multiple owners: Workload(default/node--1-k8s-web--0-eth0), Workload(default/z).",
            "10.0.0.3 in use by Workload(default/z) is allocated to Main:k8s-pod-network.4f1c",
        ],
        done: &[],
        left: &["10.0.0.3 has multiple", "10.0.0.3 in use"],
    },
    Row {
        name: "the two pods of a virtual machine that moves share its address",
        broken: |lab| {
            lab.set(
                BLOCK,
                "/attributes/1",
                json!({"handle_id": "k8s-pod-network.4f1c",
                "secondary": {"namespace": "default", "node": "node-1", "pod": "web-0"},
                "alternateOwnerAttrs": {"namespace": "default", "node": "node-2", "pod": "web-1"}}),
            )
            .put(
                "/calico/resources/v3/projectcalico.org/workloadendpoints/default/z",
                json!({"spec": {"node": "node-2", "pod": "web-1", "ipNetworks": ["10.0.0.3/32"]}}),
            )
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "an address is allocated to another pod than the one that uses it",
        broken: |lab| lab.set(BLOCK, "/attributes/1/secondary/pod", json!("web-9")),
        found: &[
            "10.0.0.3 in use by Workload(default/node--1-k8s-web--0-eth0) is allocated to Main:k8s-pod-network.4f1c",
        ],
        done: &[],
        left: &["10.0.0.3"],
    },
    Row {
        name: "a pod has a tunnel's address",
        broken: |lab| lab.set(WEP, "/spec/ipNetworks", json!(["10.0.0.3/32", "fd00::1/128", "10.0.0.0/32"])),
        found: &["10.0.0.0 has multiple owners: Node(node-1), Workload(default/node--1-k8s-web--0-eth0)."],
        done: &[],
        left: &["10.0.0.0"],
    },
    Row {
        name: "a handle without addresses",
        broken: |lab| lab.put("/calico/ipam/v2/handle/x", json!({"block": {"10.0.0.0/30": 1}, "deleted": false})),
        found: &["x doesn't have any active IPs."],
        done: &["delete handle x, which has no address"],
        left: &[],
    },
    Row {
        name: "a handle that is not there",
        broken: |lab| lab.drop(POD_HANDLE),
        found: &["k8s-pod-network.4f1c is in use in a block but doesn't exist."],
        done: &["make handle k8s-pod-network.4f1c, which blocks name"],
        left: &[],
    },
    Row {
        name: "a handle that counts wrongly",
        broken: |lab| lab.set(POD_HANDLE, "/block", json!({"10.0.0.0/30": 3, "10.0.0.4/30": 1})),
        found: &[
            "handle k8s-pod-network.4f1c says 3 in 10.0.0.0/30, 1 in 10.0.0.4/30, but has 1 in 10.0.0.0/30, 1 in fd00::/126.",
        ],
        done: &["count the addresses of handle k8s-pod-network.4f1c"],
        left: &[],
    },
    Row {
        name: "a block whose queue is wrong in every way",
        broken: |lab| lab.set(BLOCK, "/unallocated", json!([0, 1, 1, 9])),
        found: &[
            "IPAMBlock BlockKey(cidr=10.0.0.0/30) is invalid: ordinal 0 is allocated but appears in Unallocated; \
                  ordinal 1 appears more than once in Unallocated array; \
                  ordinal 9 appears in the Unallocated array but is out of the block; \
                  expected 4 addresses in this block, but Unallocated (4) + Allocated (2) = 6; neither has ordinal 2",
        ],
        done: &["put block 10.0.0.0/30 right: "],
        left: &[],
    },
    Row {
        name: "an attribute of nobody",
        broken: |lab| {
            lab.set(BLOCK, "/allocations/0", json!(null))
                .set(BLOCK, "/unallocated", json!([1, 2, 0]))
                .set(NODE, "/spec/ipv4VXLANTunnelAddr", json!(""))
                .drop("/calico/ipam/v2/handle/vxlan-tunnel-addr-node-1")
        },
        found: &[
            "IPAMBlock BlockKey(cidr=10.0.0.0/30) is invalid: attribute index 0 exists but is not indexed by an allocation",
        ],
        done: &["put block 10.0.0.0/30 right"],
        left: &[],
    },
    Row {
        name: "an allocation without attribute, which its pod uses",
        broken: |lab| lab.set(BLOCK, "/allocations/3", json!(7)),
        found: &[
            "handle k8s-pod-network.4f1c says 1 in 10.0.0.0/30, 1 in fd00::/126, but has 1 in fd00::/126.",
            "IPAMBlock BlockKey(cidr=10.0.0.0/30) is invalid: allocation 3 indexes a nonexistent attribute 7; \
             attribute index 1 exists",
        ],
        done: &[],
        left: &["handle k8s-pod-network.4f1c", "IPAMBlock BlockKey(cidr=10.0.0.0/30)"],
    },
    Row {
        name: "a block with too few slots",
        broken: |lab| {
            lab.set(BLOCK, "/allocations", json!([0, null, null]))
                .drop(WEP)
                .drop("/tortie/resources/pods/default/web-0")
                .put(WEP, json!({"spec": {"node": "node-1", "pod": "web-0", "ipNetworks": ["fd00::1/128"]}}))
                .set(POD_HANDLE, "/block", json!({"fd00::/126": 1}))
        },
        found: &[
            "IPAMBlock BlockKey(cidr=10.0.0.0/30) is invalid: expected 4 addresses in this block, but Allocations has 3",
        ],
        done: &[],
        left: &["IPAMBlock"],
    },
    Row {
        name: "a clock that is ahead",
        broken: |lab| {
            lab.set(LB_BLOCK, "/allocations", json!([0, 1])).set(LB_BLOCK, "/unallocated", json!([])).set(
                LB_BLOCK,
                "/attributes",
                json!([{"handle_id": "lb-1"}, {"releasedAt": "2026-08-22T13:00:00Z"}]),
            )
        },
        found: &[
            "IPAMBlock BlockKey(cidr=10.9.0.0/31) is invalid: attribute index 1 has releasedAt in the future, suggesting clock skew",
        ],
        done: &[],
        left: &["IPAMBlock"],
    },
    Row {
        name: "an empty block of nobody",
        broken: |lab| {
            lab.put(
                "/calico/ipam/v2/assignment/ipv4/block/10.0.1.0-30",
                json!({"cidr": "10.0.1.0/30", "affinity": null,
            "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3], "attributes": []}),
            )
        },
        found: &["block 10.0.1.0/30 is empty and nobody's."],
        done: &["delete block 10.0.1.0/30, which is empty and nobody's"],
        left: &[],
    },
    Row {
        name: "a block of another size than its pool's, in another block",
        broken: |lab| {
            lab.put(
                "/calico/ipam/v2/assignment/ipv4/block/10.0.0.2-31",
                json!({"cidr": "10.0.0.2/31", "affinity": "host:node-1",
            "allocations": [null, null], "unallocated": [0, 1], "attributes": []}),
            )
            .put("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.2-31", json!({"state": "confirmed"}))
        },
        found: &[
            "block 10.0.0.2/31 (0 in use) is in IPPool v4, whose blocks are /30.",
            "block 10.0.0.2/31 lies in block 10.0.0.0/30.",
        ],
        done: &["delete block 10.0.0.2/31, which is empty and of another size than its pool's"],
        left: &[],
    },
    Row {
        name: "a pool is gone, and its blocks are not",
        broken: |lab| lab.drop("/calico/resources/v3/projectcalico.org/ippools/v4"),
        found: &["block 10.0.0.0/30 (2 in use) is in no IP pool."],
        done: &[],
        left: &["block 10.0.0.0/30"],
    },
    Row {
        name: "a disabled pool keeps what is in use",
        broken: |lab| {
            let path = "/calico/resources/v3/projectcalico.org/ippools/v4";
            lab.set(path, "/spec", json!({"cidr": "10.0.0.0/16", "blockSize": 30, "disabled": true}))
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "a block of a pool for load balancers reaches beyond its range",
        broken: |lab| {
            lab.drop("/calico/resources/v3/projectcalico.org/ippools/lb").put(
                "/tortie/resources/loadbalancerippools/lb",
                json!({"kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1", "metadata": {"name": "lb"},
                    "spec": {"blocks": [{"start": "10.9.0.0"}]}}),
            )
        },
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "a block without affinity",
        broken: |lab| lab.drop(AFFINITY),
        found: &["block 10.0.0.0/30 belongs to host:node-1, which has no affinity for it."],
        done: &["give host:node-1 its affinity for block 10.0.0.0/30"],
        left: &[],
    },
    Row {
        name: "an affinity without block",
        broken: |lab| lab.put("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.8-30", json!({"state": "pending"})),
        found: &["host:node-1 has an affinity (pending) for block 10.0.0.8/30, which does not exist."],
        done: &["delete the affinity of host:node-1 for 10.0.0.8/30, a block that does not exist"],
        left: &[],
    },
    Row {
        name: "two affinities for one block",
        broken: |lab| lab.put("/calico/ipam/v2/host/node-10/ipv4/block/10.0.0.0-30", json!({"state": "confirmed"})),
        found: &["host:node-10 has an affinity for block 10.0.0.0/30, which belongs to host:node-1."],
        done: &["delete the affinity of host:node-10 for 10.0.0.0/30, a block that it has not"],
        left: &[],
    },
    Row {
        name: "an affinity that is stuck before its block was written",
        broken: |lab| lab.set(AFFINITY, "/state", json!("pending")),
        found: &["the affinity of host:node-1 for its block 10.0.0.0/30 is stuck at pending."],
        done: &["confirm the affinity of host:node-1 for its block 10.0.0.0/30"],
        left: &[],
    },
    Row {
        name: "an affinity that is stuck while it was given up",
        broken: |lab| lab.set(AFFINITY, "/state", json!("pendingDeletion")),
        found: &["the affinity of host:node-1 for its block 10.0.0.0/30 is stuck at pendingDeletion."],
        done: &["confirm the affinity of host:node-1 for its block 10.0.0.0/30"],
        left: &[],
    },
    Row {
        name: "affinities in Calico's oldest forms are confirmed",
        broken: |lab| lab.put(AFFINITY, json!({})).put("/calico/ipam/v2/host/node-1/ipv6/block/fd00::-126", json!("")),
        found: &[],
        done: &[],
        left: &[],
    },
    Row {
        name: "records that cannot be read",
        broken: |lab| {
            lab.put(AFFINITY, json!([]))
                .put(POD_HANDLE, json!({"block": 7}))
                .put("/calico/ipam/v2/host/node-2/ipv4/block/10.0.0.0-30", json!({"state": "what"}))
                .put("/calico/ipam/v2/handle/y", json!("y"))
        },
        found: &[
            "/calico/ipam/v2/handle/k8s-pod-network.4f1c cannot be read: ",
            "/calico/ipam/v2/handle/y cannot be read: ",
            "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-30 cannot be read: ",
            "/calico/ipam/v2/host/node-2/ipv4/block/10.0.0.0-30 cannot be read: ",
        ],
        done: &[
            "write /calico/ipam/v2/handle/k8s-pod-network.4f1c anew",
            "delete /calico/ipam/v2/handle/y",
            "write /calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-30 anew",
            "delete /calico/ipam/v2/host/node-2/ipv4/block/10.0.0.0-30",
        ],
        left: &[],
    },
    Row {
        name: "a block that cannot be read is not guessed",
        broken: |lab| lab.set(BLOCK, "/cidr", json!("10.0.0.4/30")),
        found: &[
            "10.0.0.0 in use by Node(node-1)",
            "10.0.0.3 in use by",
            "vxlan-tunnel-addr-node-1 doesn't have",
            "handle k8s-pod-network.4f1c says",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30 cannot be read: its cidr is 10.0.0.4/30.",
        ],
        done: &[],
        left: &["10.0.0.0 in use", "10.0.0.3 in use", "vxlan", "handle", "/calico"],
    },
];

#[test]
fn every_problem_is_found_and_mended_where_that_is_safe() {
    for row in ROWS {
        let mut lab = (row.broken)(Lab::new());
        same(row.name, "found", &lab.problems(), row.found);
        let in_use: Vec<Value> = [WEP, NODE].iter().filter_map(|p| lab.0.get(*p).cloned()).collect();
        let (done, left) = lab.repair(OPEN);
        same(row.name, "done", &done, row.done);
        same(row.name, "left", &left, row.left);
        let after: Vec<Value> = [WEP, NODE].iter().filter_map(|p| lab.0.get(*p).cloned()).collect();
        assert_eq!(in_use, after, "{}", row.name);
        let wanted: Vec<String> = left.clone();
        assert_eq!(lab.problems(), wanted, "{}: a second check finds what is left", row.name);
    }
}

#[test]
fn while_a_user_cannot_be_read_nothing_that_it_may_use_is_released() {
    let leaking = Lab::new().set(NODE, "/spec/ipv4VXLANTunnelAddr", json!(""));
    let rows = [
        NODE,
        WEP,
        "/tortie/resources/pods/default/web-0",
        "/calico/resources/v3/projectcalico.org/nodes/node-2",
        "/tortie/resources/services/default/other",
    ];
    let broken_fields = json!({"spec": {"type": 1, "nodeName": 1, "ipNetworks": 1, "ipv6VXLANTunnelAddr": 1}});
    for path in rows {
        for (circumstances, broken) in [(OPEN, json!("x")), (LOCKED, broken_fields.clone())] {
            let mut lab = leaking.clone().put(path, broken);
            let before = lab.0.clone();
            let (done, left) = lab.repair(circumstances);
            assert_eq!((done, &lab.0), (vec![], &before), "{path}");
            assert!(left.iter().any(|l| l.starts_with("10.0.0.0 leaked")), "{path}: {left:?}");
        }
    }
    let lab = Lab::new().set(NODE, "/spec/ipv4VXLANTunnelAddr", json!("none"));
    let problems = lab.problems();
    assert!(!problems.iter().any(|p| p.contains("does not exist")), "the node is there: {problems:?}");
    assert_eq!(lab.snapshot().unreadable_user().map(|u| u.key.to_string()).as_deref(), Some(NODE));
}

#[test]
fn addresses_of_services_that_another_store_has_are_left() {
    let mut lab = Lab::new().drop("/tortie/resources/services/default/web");
    let wanted = ["10.9.0.0 is a service's, and its Services are not in this store; attrs Main:lb-1"];
    same("elsewhere", "found", &lab.problems(), &wanted);
    let report = Report::new(&cluster(), &lab.snapshot(), &check(&lab.snapshot()));
    let reported = &report.allocations.unwrap()["10.9.0.0"][0];
    assert!(reported.in_use && reported.owners.is_some(), "{reported:?}");
    let (done, left) = lab.repair(LOCKED);
    same("elsewhere", "done", &done, &[]);
    same("elsewhere", "left", &left, &wanted);
    // With one of them here, all are.
    lab = lab.put("/tortie/resources/services/default/other", json!({"spec": {"type": "ClusterIP"}}));
    same("here", "found", &lab.problems(), &["10.9.0.0 leaked"]);
}

#[test]
fn what_was_assigned_just_before_the_lock_has_two_minutes() {
    for (timestamp, is_released) in [("11:58:30", false), ("11:57:59", true)] {
        let mut lab = Lab::new().drop(WEP).drop("/tortie/resources/pods/default/web-0");
        let text = json!(format!("2026-08-22 {timestamp} +0000 UTC"));
        lab = lab.set(BLOCK, "/attributes/1/secondary/timestamp", text.clone()).set(
            BLOCK6,
            "/attributes/1/secondary/timestamp",
            text,
        );
        let (done, left) = lab.repair(LOCKED);
        assert_eq!((done.len(), left.len()), if is_released { (2, 0) } else { (0, 2) }, "{timestamp}: {done:?}");
    }
}

#[test]
fn in_a_locked_datastore_age_does_not_matter() {
    let mut lab = Lab::new().set(NODE, "/spec/ipv4VXLANTunnelAddr", json!(""));
    let (done, left) = lab.repair(LOCKED);
    same("locked", "done", &done, &["release 10.0.0.0 (Main:vxlan-tunnel-addr-node-1"]);
    same("locked", "left", &left, &[]);
    assert!(!lab.0.contains_key("/calico/ipam/v2/handle/vxlan-tunnel-addr-node-1"));
    assert_eq!(lab.0[BLOCK]["unallocated"], json!([1, 2, 0]));
}

#[test]
fn a_released_address_cools_down_where_that_is_configured() {
    let mut lab = Lab::new().set(NODE, "/spec/ipv4VXLANTunnelAddr", json!(""));
    lab.repair(Circumstances { is_locked: true, cooldown: SignedDuration::from_secs(60) });
    assert_eq!(lab.0[BLOCK]["unallocated"], json!([1, 2]));
    assert_eq!(lab.0[BLOCK]["attributes"][1]["releasedAt"], "2026-08-22T12:00:00Z");
}

/// As Calico's `json.MarshalIndent` writes it (`calicoctl/commands/ipam/check.go`).
const REPORT: &str = r#"{
  "version": "v3.33.0",
  "clusterGUID": "guid-1",
  "datastoreLocked": true,
  "clusterInformationRevision": "42",
  "clusterType": "k8s,bgp",
  "allocations": {
    "10.0.0.0": [
      {
        "ip": "10.0.0.0",
        "handle": "vxlan-tunnel-addr-node-1",
        "sequenceNumber": 11,
        "node": "node-1",
        "type": "vxlanTunnelAddress",
        "inUse": false,
        "owners": null
      }
    ],
    "10.0.0.3": [
      {
        "ip": "10.0.0.3",
        "handle": "k8s-pod-network.4f1c",
        "sequenceNumber": 12,
        "pod": "web-0",
        "namespace": "default",
        "node": "node-1",
        "creationTimestamp": "2026-08-22 10:00:00.12 +0000 UTC",
        "inUse": true,
        "owners": [
          "Workload(default/node--1-k8s-web--0-eth0)"
        ]
      }
    ]
  },
  "leakedHandles": [
    {
      "ID": "x",
      "UID": null,
      "Revision": "7"
    }
  ]
}"#;

fn cluster() -> Cluster {
    Cluster {
        version: "v3.33.0".into(),
        guid: "guid-1".into(),
        is_locked: true,
        revision: "42".into(),
        cluster_type: "k8s,bgp".into(),
    }
}

#[test]
fn a_report_is_calicos_byte_for_byte() {
    let mut lab = Lab::new().set(NODE, "/spec/ipv4VXLANTunnelAddr", json!("")).drop(BLOCK6).drop(LB_BLOCK);
    lab.0.retain(|path, _| {
        !path.contains("handle/") || path.ends_with("4f1c") || path.ends_with("vxlan-tunnel-addr-node-1")
    });
    lab = lab.put("/calico/ipam/v2/handle/x", json!({"block": {}}));
    let mut snapshot = lab.snapshot();
    snapshot.handles.get_mut("x").unwrap().revision = 7;
    let report = Report::new(&cluster(), &snapshot, &check(&snapshot));
    assert_eq!(serde_json::to_string_pretty(&report).unwrap(), REPORT);
    assert_eq!(serde_json::from_str::<Report>(REPORT).unwrap(), report);
}

#[test]
fn only_what_every_report_says_is_agreed() {
    let report = |change: fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(REPORT).unwrap();
        change(&mut value);
        serde_json::from_value::<Report>(value).unwrap()
    };
    type Row = (&'static str, fn(&mut Value), usize, usize);
    let rows: &[Row] = &[
        ("the same", |_| {}, 1, 1),
        ("used meanwhile", |r| r["allocations"]["10.0.0.0"][0]["inUse"] = json!(true), 0, 1),
        ("released meanwhile", |r| r["allocations"]["10.0.0.0"][0]["coolingDown"] = json!(true), 0, 1),
        ("assigned anew", |r| r["allocations"]["10.0.0.0"][0]["sequenceNumber"] = json!(99), 0, 1),
        ("gone", |r| r["allocations"] = json!({}), 0, 1),
        ("no allocations at all, as Go writes it", |r| r["allocations"] = json!(null), 0, 1),
        ("the handle has changed", |r| r["leakedHandles"][0]["Revision"] = json!("8"), 1, 0),
        ("no leaked handles", |r| r["leakedHandles"] = json!(null), 1, 0),
    ];
    for (name, change, ips, handles) in rows {
        for reports in [[report(|_| {}), report(*change)], [report(*change), report(|_| {})]] {
            let (leaked, leaked_handles) = agreed(&reports).unwrap();
            assert_eq!((leaked.len(), leaked_handles.len()), (*ips, *handles), "{name}");
        }
    }
    let (leaked, _) = agreed(&[report(|_| {})]).unwrap();
    let handle = Some("vxlan-tunnel-addr-node-1".into());
    assert_eq!(leaked, [report::LeakedIp { address: "10.0.0.0".parse().unwrap(), handle, sequence: Some(11) }]);
    assert!(agreed(&[report(|r| r["allocations"]["10.0.0.0"][0]["ip"] = json!("x"))]).unwrap_err().contains("\"x\""));
}
