//! What annotations ask of the address allocation, in both families, with felix and without it; and that a pod which cannot have all that
//! it asks for has nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Metadata;
use api::service::{NamespaceBody, PodBody};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::lab::{Lab, Namespace};

const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
const IP_ADDRS: &str = "cni.projectcalico.org/ipAddrs";
const IP_ADDRS_NO_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap());
    ips.map(|text| text.parse::<IpNet>().unwrap().addr()).collect()
}

fn is_in(ip: IpAddr, cidr: &str) -> bool {
    cidr.parse::<IpNet>().unwrap().contains(&ip)
}

fn dual_stack(lab: &Lab) -> Value {
    let mut conf = lab.config();
    conf["ipam"]["assign_ipv6"] = json!("true");
    conf
}

fn annotate(lab: &Lab, pod: &str, annotations: &[(&str, &str)]) {
    lab.annotated::<PodBody>(Metadata::namespaced("test", pod), annotations);
}

/// What is taken and written, and nothing else is.
fn assert_has(lab: &Lab, wanted: &BTreeMap<IpAddr, String>, what: &str) {
    assert_eq!(lab.holders(), *wanted, "{what}");
    let handles: std::collections::BTreeSet<&String> = wanted.values().collect();
    let stored = lab.runtime.block_on(lab.store.list(&api::key::KeyRange::Handles)).unwrap();
    assert_eq!(stored.items.len(), handles.len(), "{what}: handles");
}

#[test]
#[ignore = "needs BPF"]
fn a_pod_of_both_families_is_wired_and_gives_both_back() {
    let lab = Lab::new();
    lab.pool("10.60.0.0/24", 29);
    lab.pool("fd60::/120", 125);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let conf = dual_stack(&lab);
    let result = lab.cni("ADD", &conf, "c1", "web-0", Some(&pod)).unwrap();
    let [v4, v6] = addresses(&result)[..] else { panic!("{result}") };
    assert!(is_in(v4, "10.60.0.0/24") && is_in(v6, "fd60::/120"), "{result}");
    let inside = pod.run("ip -o addr show dev eth0");
    assert!(inside.contains(&format!("inet {v4}/32")) && inside.contains(&format!("inet6 {v6}/128")), "{inside}");
    assert!(pod.run("ip route").contains("default via 169.254.1.1 dev eth0"));
    assert!(
        pod.run("ip -6 route").contains("default via fe80::ecee:eeff:feee:eeee dev eth0"),
        "{}",
        pod.run("ip -6 route")
    );
    for (family, ip) in [("-4", v4), ("-6", v6)] {
        let routes = lab.routes_of(family);
        assert!(routes.iter().any(|r| r.starts_with(&format!("{ip} dev cali"))), "{routes:?}");
    }
    let mut check = conf.clone();
    check["prevResult"] = result.clone();
    lab.cni("CHECK", &check, "c1", "web-0", Some(&pod)).unwrap();
    assert_eq!(lab.cni("ADD", &conf, "c1", "web-0", Some(&pod)).unwrap(), result, "a repeated ADD answers the same");
    assert_eq!(lab.allocated(), 2);
    lab.cni("DEL", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert_has(&lab, &BTreeMap::new(), "after DEL");
    lab.until("the routes go", || {
        ["-4", "-6"].iter().all(|f| !lab.routes_of(f).iter().any(|r| r.contains("dev cali")))
    });
}

#[test]
#[ignore = "needs BPF"]
fn pools_of_annotations_are_those_used() {
    for has_felix in [true, false] {
        let lab = Lab::new();
        for cidr in ["10.61.0.0/24", "10.62.0.0/24", "10.63.0.0/24"] {
            lab.pool(cidr, 29);
        }
        for cidr in ["fd61::/120", "fd62::/120", "fd63::/120"] {
            lab.pool(cidr, 125);
        }
        let _felix = has_felix.then(|| lab.start_felix());
        // Of the namespace: the third of each family, by CIDR.
        lab.annotated::<NamespaceBody>(
            Metadata::named("test"),
            &[(IPV4_POOLS, r#"["10.63.0.0/24"]"#), (IPV6_POOLS, r#"["fd63::/120"]"#)],
        );
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], [&'a str; 2]);
        let rows: [Row<'_>; 4] = [
            (
                "by-name",
                &[(IPV4_POOLS, r#"["10-62-0-0-24"]"#), (IPV6_POOLS, r#"["fd62--120"]"#)],
                ["10.62.0.0/24", "fd62::/120"],
            ),
            (
                "by-cidr",
                &[(IPV4_POOLS, r#"["10.62.0.0/24"]"#), (IPV6_POOLS, r#"["fd62::/120"]"#)],
                ["10.62.0.0/24", "fd62::/120"],
            ),
            ("one-family", &[(IPV6_POOLS, r#"["fd62::/120"]"#)], ["10.63.0.0/24", "fd62::/120"]),
            ("of-the-namespace", &[], ["10.63.0.0/24", "fd63::/120"]),
        ];
        let pods: Vec<Namespace> = rows.iter().map(|_| Namespace::new()).collect();
        for ((name, annotations, pools), pod) in rows.into_iter().zip(&pods) {
            annotate(&lab, name, annotations);
            let result = lab.cni("ADD", &dual_stack(&lab), name, name, Some(pod)).unwrap();
            let [v4, v6] = addresses(&result)[..] else { panic!("{name}: {result}") };
            assert!(is_in(v4, pools[0]) && is_in(v6, pools[1]), "{name}, felix: {has_felix}: {result}");
        }
        let before = lab.holders();
        // One pool that is not there, beside one that is.
        let refused: [(&str, &[(&str, &str)]); 3] = [
            ("no-v4", &[(IPV4_POOLS, r#"["none"]"#), (IPV6_POOLS, r#"["fd62::/120"]"#)]),
            ("no-v6", &[(IPV4_POOLS, r#"["10.62.0.0/24"]"#), (IPV6_POOLS, r#"["none"]"#)]),
            ("other-family", &[(IPV4_POOLS, r#"["fd62::/120"]"#)]),
        ];
        for (name, annotations) in refused {
            annotate(&lab, name, annotations);
            let pod = Namespace::new();
            let error = lab.cni("ADD", &dual_stack(&lab), name, name, Some(&pod)).unwrap_err();
            assert!(error["code"].as_u64().is_some(), "{name}: {error}");
            assert_has(&lab, &before, name);
            assert!(!pod.run("ip -o link").contains("eth0"), "{name}");
        }
        assert_eq!(lab.endpoints().len(), 4);
    }
}

#[test]
#[ignore = "needs BPF"]
fn a_family_that_is_full_gives_the_other_back() {
    for (full_v4, has_felix) in [(true, true), (true, false), (false, true), (false, false)] {
        let lab = Lab::new();
        // Of one family two addresses, of the other plenty.
        let (v4, v6) = if full_v4 {
            (("10.64.0.0/31", 31), ("fd64::/120", 125))
        } else {
            (("10.64.0.0/24", 29), ("fd64::/127", 127))
        };
        lab.pool(v4.0, v4.1);
        lab.pool(v6.0, v6.1);
        let _felix = has_felix.then(|| lab.start_felix());
        let pods: Vec<Namespace> = (0..3).map(|_| Namespace::new()).collect();
        let conf = dual_stack(&lab);
        for (i, pod) in pods[..2].iter().enumerate() {
            lab.cni("ADD", &conf, &format!("c{i}"), &format!("web-{i}"), Some(pod)).unwrap();
        }
        let before = lab.holders();
        assert_eq!(before.len(), 4);
        let error = lab.cni("ADD", &conf, "c2", "web-2", Some(&pods[2])).unwrap_err();
        assert!(error["code"].as_u64().unwrap() >= 100, "{error}");
        assert_has(&lab, &before, &format!("full IPv4: {full_v4}, felix: {has_felix}"));
        assert_eq!(lab.endpoints().len(), 2);
        assert!(!pods[2].run("ip -o link").contains("eth0"));
        // One that goes makes room.
        lab.cni("DEL", &conf, "c0", "web-0", Some(&pods[0])).unwrap();
        lab.cni("ADD", &conf, "c2", "web-2", Some(&pods[2])).unwrap();
        assert_eq!(lab.holders().len(), 4);
    }
}

#[test]
#[ignore = "needs BPF"]
fn addresses_that_are_asked_for_are_given_all_or_none() {
    for has_felix in [true, false] {
        let lab = Lab::new();
        lab.pool("10.65.0.0/24", 29);
        lab.pool("fd65::/120", 125);
        let _felix = has_felix.then(|| lab.start_felix());
        let pods: Vec<Namespace> = (0..3).map(|_| Namespace::new()).collect();
        let conf = lab.config();
        annotate(&lab, "first", &[(IP_ADDRS, r#"["10.65.0.77", "fd65::77"]"#)]);
        let result = lab.cni("ADD", &conf, "c0", "first", Some(&pods[0])).unwrap();
        let wanted: Vec<IpAddr> = vec!["10.65.0.77".parse().unwrap(), "fd65::77".parse().unwrap()];
        assert_eq!(addresses(&result), wanted, "felix: {has_felix}");
        if has_felix {
            assert!(lab.routes().iter().any(|r| r.starts_with("10.65.0.77 dev cali")), "{:?}", lab.routes());
            assert!(
                lab.routes_of("-6").iter().any(|r| r.starts_with("fd65::77 dev cali")),
                "{:?}",
                lab.routes_of("-6")
            );
        }
        let before = lab.holders();
        assert_eq!(before.keys().copied().collect::<Vec<_>>(), wanted);
        // The first is free and the second is not to be had: another's, in no pool.
        let refused = [
            ("v6-taken", r#"["10.65.0.78", "fd65::77"]"#),
            ("v4-taken", r#"["fd65::78", "10.65.0.77"]"#),
            ("v6-nowhere", r#"["10.65.0.78", "fd99::1"]"#),
            ("v4-nowhere", r#"["fd65::78", "10.99.0.1"]"#),
        ];
        for (name, list) in refused {
            annotate(&lab, name, &[(IP_ADDRS, list)]);
            let error = lab.cni("ADD", &conf, name, name, Some(&pods[1])).unwrap_err();
            assert!(error["code"].as_u64().unwrap() >= 100, "{name}: {error}");
            assert_has(&lab, &before, &format!("{name}, felix: {has_felix}"));
            assert!(!pods[1].run("ip -o link").contains("eth0"), "{name}");
        }
        for (name, list) in [("two-of-one", r#"["10.65.0.78", "10.65.0.79"]"#), ("no-list", "10.65.0.78")] {
            annotate(&lab, name, &[(IP_ADDRS, list)]);
            assert_eq!(lab.cni("ADD", &conf, name, name, Some(&pods[1])).unwrap_err()["code"], 7, "{name}");
        }
        assert_has(&lab, &before, "what cannot be read");
        // What was given back is had by the next.
        annotate(&lab, "second", &[(IP_ADDRS, r#"["10.65.0.78", "fd65::78"]"#)]);
        let result = lab.cni("ADD", &conf, "c1", "second", Some(&pods[2])).unwrap();
        assert_eq!(addresses(&result), ["10.65.0.78".parse::<IpAddr>().unwrap(), "fd65::78".parse().unwrap()]);
        for (container, name, pod) in [("c0", "first", &pods[0]), ("c1", "second", &pods[2])] {
            lab.cni("DEL", &conf, container, name, Some(pod)).unwrap();
        }
        assert_has(&lab, &BTreeMap::new(), "after DEL");
        assert!(lab.endpoints().is_empty());
    }
}

#[test]
#[ignore = "needs BPF"]
fn addresses_without_ipam_are_used_and_taken_from_no_pool() {
    let lab = Lab::new();
    lab.pool("10.66.0.0/24", 29);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    annotate(&lab, "web-0", &[(IP_ADDRS_NO_IPAM, r#"["10.66.0.9", "fd66::9"]"#)]);
    let mut conf = lab.config();
    let error = lab.cni("ADD", &conf, "c1", "web-0", Some(&pod)).unwrap_err();
    assert_eq!(error["code"], 7, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("ip_addrs_no_ipam"), "{error}");
    conf["feature_control"] = json!({"ip_addrs_no_ipam": true});
    let result = lab.cni("ADD", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert_eq!(addresses(&result), ["10.66.0.9".parse::<IpAddr>().unwrap(), "fd66::9".parse().unwrap()]);
    assert!(lab.routes().iter().any(|r| r.starts_with("10.66.0.9 dev cali")), "{:?}", lab.routes());
    assert!(lab.routes_of("-6").iter().any(|r| r.starts_with("fd66::9 dev cali")), "{:?}", lab.routes_of("-6"));
    assert_has(&lab, &BTreeMap::new(), "nobody assigned them");
    annotate(&lab, "both", &[(IP_ADDRS_NO_IPAM, r#"["10.66.0.9"]"#), (IP_ADDRS, r#"["10.66.0.9"]"#)]);
    let other = Namespace::new();
    assert_eq!(lab.cni("ADD", &conf, "c2", "both", Some(&other)).unwrap_err()["code"], 7);
    lab.cni("DEL", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert!(lab.endpoints().is_empty());
    lab.until("the routes go", || {
        ["-4", "-6"].iter().all(|f| !lab.routes_of(f).iter().any(|r| r.contains("dev cali")))
    });
}
