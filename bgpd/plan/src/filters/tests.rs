//! Calico's rule vectors (its BGPFilter templates' test data), as routes and what becomes of them.

use api::Metadata;
use api::meta::Resource;
use bgp_proto::policy::{PRIORITY_BASE, Policy};
use serde_json::{Value, json};

use super::*;

/// A route as a rule sees it.
#[derive(Clone)]
struct Sample {
    prefix: Prefix,
    interface: Option<&'static str>,
    session: SessionType,
    communities: Vec<Community>,
    path: Vec<u32>,
    priority: u32,
}

impl policy::Route for Sample {
    fn prefix(&self) -> Prefix {
        self.prefix
    }
    fn is_local(&self) -> bool {
        self.interface.is_some()
    }
    fn interface(&self) -> Option<&str> {
        self.interface
    }
    fn session_type(&self) -> SessionType {
        self.session
    }
    fn has_community(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }
    fn as_path_starts_with(&self, ases: &[u32]) -> bool {
        self.path.starts_with(ases)
    }
    fn local_pref(&self) -> u32 {
        PRIORITY_BASE - self.priority
    }
}

/// A route learned by eBGP.
fn learned(net: &str) -> Sample {
    Sample {
        prefix: prefix(net.parse().unwrap()),
        interface: None,
        session: SessionType::Ebgp,
        communities: Vec::new(),
        path: Vec::new(),
        priority: 1024,
    }
}

fn filter(spec: Value) -> BTreeMap<String, BgpFilter> {
    let body = serde_json::from_value(json!({ "spec": spec })).unwrap();
    [("f".to_string(), Resource::new(Metadata::named("f"), body))].into()
}

/// What the rules of a list, in both directions, make of a route: the verdict and the operations, or `next` where no rule
/// decides.
fn judged(family: &str, rules: &Value, route: &Sample) -> String {
    let spec = json!({format!("import{family}"): rules, format!("export{family}"): rules});
    let (import, export) = compile(&["f".to_string()], &filter(spec)).unwrap();
    let verdict = |rules: Vec<Rule>| match (Policy { rules, ..Policy::default() }).decide(route) {
        None => "next".to_string(),
        Some(rule) => {
            let operation = |o: &Operation| match o {
                Operation::AddCommunity(Community::Standard(c)) => format!(" +{}:{}", c >> 16, c & 0xffff),
                Operation::AddCommunity(Community::Large(a, b, c)) => format!(" +{a}:{b}:{c}"),
                Operation::PrependAsPath(path) => format!(" {path:?}"),
                Operation::SetPriority(priority) => format!(" local_pref {}", PRIORITY_BASE - priority),
            };
            format!("{:?}{}", rule.action, rule.operations.iter().map(operation).collect::<String>())
        }
    };
    let (import, export) = (verdict(import), verdict(export));
    assert_eq!(import, export, "{rules}");
    import
}

#[test]
fn match_operators() {
    let rows = [
        ("Equal", ["Accept", "next", "next"]),
        ("NotEqual", ["next", "Accept", "Accept"]),
        ("In", ["Accept", "Accept", "next"]),
        ("NotIn", ["next", "next", "Accept"]),
    ];
    let families =
        [("V4", ["77.0.0.0/16", "77.0.1.0/24", "77.1.0.0/16"]), ("V6", ["ffee::/32", "ffee:0:1::/64", "ffef::/32"])];
    for (family, routes) in families {
        for (operator, expected) in rows {
            let rules = json!([{"action": "Accept", "matchOperator": operator, "cidr": routes[0]}]);
            let got = routes.map(|r| judged(family, &rules, &learned(r)));
            assert_eq!(got, expected, "{family} {operator}");
        }
    }
}

/// `prefixLength` narrows In, and what is not In.
#[test]
fn prefix_lengths() {
    let rows = [
        (json!({"min": 24, "max": 28}), ["next", "Accept", "Accept", "next", "next"]),
        (json!({"min": 24}), ["next", "Accept", "Accept", "Accept", "next"]),
        (json!({"max": 24}), ["Accept", "Accept", "next", "next", "next"]),
    ];
    let routes = ["10.0.0.0/16", "10.0.1.0/24", "10.0.1.0/28", "10.0.1.1/32", "10.1.0.0/24"];
    for (length, expected) in rows {
        let rules = json!([{"action": "Accept", "matchOperator": "In", "cidr": "10.0.0.0/16", "prefixLength": length}]);
        assert_eq!(routes.map(|r| judged("V4", &rules, &learned(r))), expected, "{length}");
    }
}

#[test]
fn match_source() {
    let rules = json!([
        {"action": "Accept", "source": "RemotePeers", "matchOperator": "In", "cidr": "10.0.0.0/8"},
        {"action": "Reject", "source": "RemotePeers"},
    ]);
    let own = Sample { interface: Some("cali0"), ..learned("10.65.0.0/26") };
    assert_eq!(judged("V4", &rules, &learned("10.65.0.0/26")), "Accept");
    assert_eq!(judged("V4", &rules, &learned("192.0.2.0/24")), "Reject");
    assert_eq!(judged("V4", &rules, &own), "next");
}

#[test]
fn match_interface() {
    let on = |interface| Sample { interface: Some(interface), ..learned("10.65.0.5/32") };
    for (pattern, expected) in [
        ("cali*", ["Reject", "next", "next"]),
        ("*.cali", ["next", "Reject", "next"]),
        ("eth0", ["next", "next", "Reject"]),
    ] {
        let rules = json!([{"action": "Reject", "interface": pattern}]);
        assert_eq!(["cali12ab", "vxlan.cali", "eth0"].map(|i| judged("V4", &rules, &on(i))), expected, "{pattern}");
        assert_eq!(judged("V4", &rules, &learned("10.65.0.5/32")), "next", "a learned route has no interface here");
    }
}

#[test]
fn peer_type() {
    let rules = json!([
        {"action": "Accept", "peerType": "iBGP", "operations": [{"setPriority": {"value": 100}}]},
        {"action": "Reject", "peerType": "eBGP"},
    ]);
    let internal = Sample { session: SessionType::Ibgp, ..learned("10.0.0.0/8") };
    assert_eq!(judged("V4", &rules, &internal), "Accept local_pref 2147483547");
    assert_eq!(judged("V4", &rules, &learned("10.0.0.0/8")), "Reject");
}

#[test]
fn communities_and_operations() {
    let rules = json!([{
        "action": "Accept", "communities": {"values": ["65000:100"]},
        "operations": [
            {"setPriority": {"value": 256}}, {"addCommunity": {"value": "65001:200"}}, {"prependASPath": {"prefix": [65000, 65001]}},
        ],
    }]);
    let marked = |communities| Sample { communities, ..learned("10.0.0.0/8") };
    let all = vec![Community::Standard(7), Community::Standard(65000 << 16 | 100)];
    assert_eq!(judged("V4", &rules, &marked(all)), "Accept local_pref 2147483391 +65001:200 [65000, 65001]");
    assert_eq!(judged("V4", &rules, &marked(vec![Community::Standard(65000 << 16 | 101)])), "next");
}

#[test]
fn large_community() {
    let rules = json!([{"action": "Reject", "communities": {"values": ["65000:100:4294967295"]}}]);
    let marked = |community| Sample { communities: vec![community], ..learned("2001:db8::/32") };
    assert_eq!(judged("V6", &rules, &marked(Community::Large(65000, 100, u32::MAX))), "Reject");
    assert_eq!(judged("V6", &rules, &marked(Community::Standard(65000 << 16 | 100))), "next");
}

#[test]
fn as_path_and_priority() {
    let rules = json!([
        {"action": "Accept", "asPathPrefix": [65000, 65001], "operations": [{"setPriority": {"value": 200}}]},
        {"action": "Reject", "priority": 512},
    ]);
    let by = |path: &[u32], priority| Sample { path: path.into(), priority, ..learned("10.0.0.0/8") };
    assert_eq!(judged("V4", &rules, &by(&[65000, 65001, 65002], 512)), "Accept local_pref 2147483447");
    assert_eq!(judged("V4", &rules, &by(&[65001, 65000], 512)), "Reject", "from the path's beginning");
    assert_eq!(judged("V4", &rules, &by(&[65000], 1024)), "next");
}

/// A virtual machine that moves: its /32 has the elevated priority, marked by a community, and comes first.
#[test]
fn kubevirt_live_migration() {
    let rules = json!([
        {"action": "Accept", "peerType": "iBGP", "priority": 512, "operations": [{"addCommunity": {"value": "65000:512"}}]},
        {"action": "Accept", "communities": {"values": ["65000:512"]}, "operations": [{"setPriority": {"value": 512}}]},
    ]);
    let moving = Sample { session: SessionType::Ibgp, priority: 512, ..learned("10.65.0.5/32") };
    assert_eq!(judged("V4", &rules, &moving), "Accept +65000:512");
    let marked = Sample { communities: vec![Community::Standard(65000 << 16 | 512)], ..learned("10.65.0.5/32") };
    assert_eq!(judged("V4", &rules, &marked), "Accept local_pref 2147483135");
    assert_eq!(judged("V4", &rules, &learned("10.65.0.5/32")), "next");
}

#[test]
fn filters_are_concatenated_and_the_first_rule_that_holds_decides() {
    let mut filters =
        filter(json!({"importV4": [{"action": "Reject", "matchOperator": "Equal", "cidr": "10.0.0.0/8"}]}));
    let body = serde_json::from_value(json!({"spec": {"importV4": [{"action": "Accept"}]}})).unwrap();
    filters.insert("g".into(), Resource::new(Metadata::named("g"), body));
    let first = |names: [&str; 2]| {
        let (rules, _) = compile(&names.map(String::from), &filters).unwrap();
        Policy { rules, ..Policy::default() }.decide(&learned("10.0.0.0/8")).unwrap().action
    };
    assert_eq!((first(["f", "g"]), first(["g", "f"])), (Action::Reject, Action::Accept));
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let rows = [
        (
            json!({"importV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]}),
            "importV4[0]: cidr and matchOperator go together",
        ),
        (
            json!({"exportV6": [{"action": "Accept"}, {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}]}),
            "exportV6[1]: 10.0.0.0/8 is of the other family",
        ),
        (json!({"exportV4": [{"action": "Accept", "priority": -1}]}), "priority -1 is negative"),
        (json!({"exportV4": [{"action": "Accept", "operations": [{}]}]}), "exactly one of"),
        (
            json!({"exportV4": [{"action": "Accept", "operations": [{"addCommunity": {"value": "1"}}]}]}),
            "'1' is no community",
        ),
    ];
    for (spec, expected) in rows {
        let why = compile(&["f".to_string()], &filter(spec)).unwrap_err();
        assert!(why.starts_with("BGPFilter f: ") && why.contains(expected), "{why}");
    }
    assert_eq!(compile(&["x".to_string()], &filter(json!({}))).unwrap_err(), "BGPFilter x does not exist");
}
