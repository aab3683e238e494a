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
fn a_walk_visits_every_block_once_from_its_start() {
    let rows: [(&str, u8, u64, &[&str]); 5] = [
        ("10.0.0.0/24", 26, 0, &["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"]),
        ("10.0.0.0/24", 26, 7, &["10.0.0.192/26", "10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"]),
        ("10.0.0.8/29", 29, 5, &["10.0.0.8/29"]),
        ("fd00::/121", 122, 1, &["fd00::40/122", "fd00::/122"]),
        ("10.0.0.0/28", 26, 1, &[]),
    ];
    for (pool, len, seed, expected) in rows {
        let walk: Vec<String> = BlockWalk::new(net(pool), len, seed).map(|b| b.to_string()).collect();
        assert_eq!(walk, expected, "{pool} /{len} from {seed}");
    }
    assert_eq!(BlockWalk::new(net("fd00::/48"), 122, u64::MAX).take(3).count(), 3, "a huge pool is walked lazily");
}
