//! Showing kinds: their columns and texts.

use crate::fleet::Fleet;

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
