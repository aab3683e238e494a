use api::meta::WithSpec;
use api::service::NamespaceBody;
use api::{IpPoolSpec, Metadata};

use super::*;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> IpPool {
    let mut spec = IpPoolSpec::new(net(cidr));
    change(&mut spec);
    IpPool::new(Metadata::named(name), WithSpec { spec, status: None })
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn chosen(pools: &[IpPool], wanted: &Wanted<'_>) -> Result<Vec<String>, String> {
    let names = |pools: Vec<&IpPool>| pools.iter().map(|p| p.metadata.name.clone()).collect();
    select(pools, wanted).map(names).map_err(|e| e.to_string())
}

#[test]
fn pools_are_chosen_as_calico_does() {
    let pools = [
        pool("z", "10.0.0.0/16", |_| {}),
        pool("a", "10.1.0.0/16", |p| p.node_selector = Some("rack == 'r1'".into())),
        pool("disabled", "10.2.0.0/16", |p| p.disabled = true),
        pool("manual", "10.3.0.0/16", |p| p.assignment_mode = Some(AssignmentMode::Manual)),
        pool("seed", "10.4.0.0/16", |p| p.node_selector = Some("!all()".into())),
        pool("team", "10.5.0.0/16", |p| p.namespace_selector = Some("team == 'x'".into())),
        pool("lb", "10.6.0.0/16", |p| p.allowed_uses = Some(vec![AllowedUse::LoadBalancer])),
        pool("v6", "fd00::/64", |_| {}),
    ];
    let (r1, r2) = (labels(&[("rack", "r1")]), labels(&[("rack", "r2")]));
    let team =
        Namespace::new(Metadata { labels: labels(&[("team", "x")]), ..Metadata::named("n") }, NamespaceBody::default());
    let base = Wanted {
        family: Family::V4,
        requested: &[],
        intended_use: AllowedUse::Workload,
        node: "worker01",
        node_labels: &r1,
        namespace: None,
    };
    let manual = [net("10.3.0.0/16")];
    let seed = [net("10.4.0.0/16"), net("10.0.0.0/16")];
    let disabled = [net("10.2.0.0/16")];
    let lb = [net("10.6.0.0/16")];
    let ok = |names: &[&str]| Ok(names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    let rows = [
        ("all that match, by name", base, ok(&["a", "z"])),
        ("the node selector is judged on the node's labels", Wanted { node_labels: &r2, ..base }, ok(&["z"])),
        (
            "the namespace selector on the namespace's",
            Wanted { namespace: Some(&team), ..base },
            ok(&["a", "team", "z"]),
        ),
        ("asked for: used in spite of its mode", Wanted { requested: &manual, ..base }, ok(&["manual"])),
        ("asked for: in spite of its selector, in that order", Wanted { requested: &seed, ..base }, ok(&["seed", "z"])),
        (
            "asked for but disabled",
            Wanted { requested: &disabled, ..base },
            Err("the given pool (10.2.0.0/16) does not exist, or is not enabled".into()),
        ),
        (
            "asked for but not for this use",
            Wanted { requested: &lb, ..base },
            Err("cannot find a qualified ippool, no pools match the required use (Workload)".into()),
        ),
        ("for services", Wanted { intended_use: AllowedUse::LoadBalancer, ..base }, ok(&["lb"])),
        ("the other family", Wanted { family: Family::V6, ..base }, ok(&["v6"])),
    ];
    for (name, wanted, expected) in rows {
        assert_eq!(chosen(&pools, &wanted), expected, "{name}");
    }
    assert_eq!(
        chosen(&pools[4..5], &base),
        Err("no configured Calico pools for node worker01".into()),
        "no pool selects the node"
    );
    let broken = [pool("bad", "10.0.0.0/16", |p| p.node_selector = Some("rack ==".into()))];
    assert!(chosen(&broken, &base).unwrap_err().starts_with("IPPool bad: expected string"));
}

#[test]
fn a_namespace_is_selected_by_its_name_without_kubernetes() {
    let select_name = |p: &mut IpPoolSpec| p.namespace_selector = Some("kubernetes.io/metadata.name == 'test'".into());
    let pools = [pool("p", "10.0.0.0/16", select_name)];
    let none = BTreeMap::new();
    for (name, expected) in [("test", true), ("other", false)] {
        let namespace = Namespace::new(Metadata::named(name), NamespaceBody::default());
        let wanted = Wanted {
            family: Family::V4,
            requested: &[],
            intended_use: AllowedUse::Workload,
            node: "n",
            node_labels: &none,
            namespace: Some(&namespace),
        };
        assert_eq!(chosen(&pools, &wanted).is_ok(), expected, "{name}");
    }
}

#[test]
fn fnv_gives_the_published_values() {
    // http://www.isthe.com/chongo/src/fnv/test_fnv.c
    for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
        assert_eq!(fnv1a32(text), hash, "{text}");
    }
}

#[test]
fn reservations_are_one_set() {
    let texts = ["10.0.0.0/31", "10.0.0.2", "10.0.0.3/32", "10.0.0.8/30", "10.0.0.9", "fd00::/64", "nonsense"];
    let spec = api::IpReservationSpec { reserved_cidrs: texts.map(String::from).to_vec() };
    let r = Reservations::new(&[api::IpReservation::new(Metadata::named("r"), WithSpec { spec, status: None })]);
    for (ip, expected) in [
        ("10.0.0.0", true),
        ("10.0.0.3", true),
        ("10.0.0.4", false),
        ("10.0.0.7", false),
        ("10.0.0.11", true),
        ("10.0.0.12", false),
        ("9.255.255.255", false),
        ("fd00::1", true),
        ("fd00:0:0:1::", false),
        ("::10.0.0.1", false),
    ] {
        assert_eq!(r.contains(ip.parse().unwrap()), expected, "{ip}");
    }
    for (block, expected) in
        [("10.0.0.0/30", true), ("10.0.0.0/29", false), ("10.0.0.8/31", true), ("fd00::/122", true)]
    {
        assert_eq!(r.covers(&net(block)), expected, "{block}");
    }
    assert_ne!(r.fingerprint(), Reservations::default().fingerprint());
}
