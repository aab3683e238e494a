//! LoadBalancerIPPool (`tortie.io/v1`): addresses for Services of type LoadBalancer, as Cilium's CiliumLoadBalancerIPPool has
//! them (Cilium `pkg/k8s/apis/cilium.io/v2/lbipam_types.go`), which [`from_cilium`] converts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::address_range::AddressRange;
use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::{Kind, TORTIE_V1};
use crate::label_selector::LabelSelector;
use crate::meta::{Body, Resource, WithSpec};

/// Keys in a `serviceSelector` that mean the service itself, with the value of its namespace or name. Cilium's
/// `io.kubernetes.service.…` mean the same.
pub const LABEL_SERVICE_NAMESPACE: &str = "tortie.io/service-namespace";
pub const LABEL_SERVICE_NAME: &str = "tortie.io/service-name";
const CILIUM_SERVICE_NAMESPACE: &str = "io.kubernetes.service.namespace";
const CILIUM_SERVICE_NAME: &str = "io.kubernetes.service.name";

/// What `kind` and `apiVersion` say of the pools that [`from_cilium`] converts.
pub const CILIUM_KIND: &str = "CiliumLoadBalancerIPPool";
pub const CILIUM_V2ALPHA1: &str = "cilium.io/v2alpha1";
pub const CILIUM_V2: &str = "cilium.io/v2";

pub type LoadBalancerIpPool = Resource<WithSpec<LoadBalancerIpPoolSpec>>;

impl Body for WithSpec<LoadBalancerIpPoolSpec> {
    const KIND: Kind = Kind::LoadBalancerIpPool;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIpPoolSpec {
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<LoadBalancerIpPoolBlock>,
    /// Which services may have an address of this pool; none: every service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// No new addresses; services keep what they have.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Whether the first and the last address of a block given as a CIDR may be assigned; none means `No`.
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "allowFirstLastIPs",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_first_last_ips: Option<AllowFirstLastIps>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowFirstLastIps {
    Yes,
    #[default]
    No,
}

/// A CIDR, or the addresses from `start` to `stop`; without `stop` it is one address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerIpPoolBlock {
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub start: Option<IpAddr>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub stop: Option<IpAddr>,
}

impl LoadBalancerIpPoolBlock {
    /// The addresses that it spans; `None` where it is neither a CIDR nor a range, or both.
    pub fn range(&self) -> Option<AddressRange> {
        match (self.cidr, self.start, self.stop) {
            (Some(cidr), None, None) => Some(cidr.into()),
            (None, Some(start), stop) => AddressRange::new(start, stop.unwrap_or(start)),
            _ => None,
        }
    }
}

impl LoadBalancerIpPoolSpec {
    /// The ranges as they are written, whether their ends may be assigned or not. Blocks that span nothing are left out.
    pub fn ranges(&self) -> impl Iterator<Item = AddressRange> {
        self.blocks.iter().filter_map(LoadBalancerIpPoolBlock::range)
    }

    /// The ranges of what may be assigned.
    pub fn assignable(&self) -> impl Iterator<Item = AddressRange> {
        let has_ends = self.allow_first_last_ips.unwrap_or_default() == AllowFirstLastIps::Yes;
        self.blocks.iter().filter_map(move |block| {
            let range = block.range()?;
            Some(if block.cidr.is_some() && !has_ends { range.without_ends() } else { range })
        })
    }

    /// How many addresses may be assigned.
    pub fn total(&self) -> u128 {
        self.assignable().fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    /// Whether this address may be assigned.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.assignable().any(|range| range.contains(address))
    }

    /// Whether the service may have an address of this pool.
    pub fn selects(&self, namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.service_selector.as_ref().is_none_or(|selector| {
            selector.matches(|key| match key {
                LABEL_SERVICE_NAMESPACE | CILIUM_SERVICE_NAMESPACE => Some(namespace),
                LABEL_SERVICE_NAME | CILIUM_SERVICE_NAME => Some(name),
                key => labels.get(key).map(String::as_str),
            })
        })
    }
}

/// Why a pool may not give out addresses: a range of it is also somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub range: AddressRange,
    pub other: AddressRange,
    /// Who has `other`: `LoadBalancerIPPool(red)`.
    pub owner: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} overlaps {} of {}", self.range, self.other, self.owner)
    }
}

/// The pools that conflict, by name. Of two pools that overlap the younger is in conflict, by `creationTimestamp` and then by name,
/// and takes no part in what follows. `taken` are ranges of others that precede every pool, with their owner: IPPools.
pub fn conflicts<'a>(
    pools: impl IntoIterator<Item = &'a LoadBalancerIpPool>,
    taken: impl IntoIterator<Item = (AddressRange, String)>,
) -> BTreeMap<&'a str, Conflict> {
    let mut pools: Vec<_> = pools.into_iter().collect();
    pools.sort_by_key(|p| (p.metadata.creation_timestamp.as_deref().unwrap_or_default(), p.metadata.name.as_str()));
    // Where ranges of `taken` overlap each other, the widest from one address on is what counts.
    let mut held: BTreeMap<IpAddr, (AddressRange, String)> = BTreeMap::new();
    let mut spans: Vec<_> = taken.into_iter().collect();
    spans.sort_by_key(|(range, _)| *range);
    let mut reached: Option<AddressRange> = None;
    for (range, owner) in spans {
        if reached.is_none_or(|r| r.first().is_ipv4() != range.first().is_ipv4() || range.last() > r.last()) {
            reached = Some(range);
            held.insert(range.first(), (range, owner));
        }
    }
    let mut found = BTreeMap::new();
    for pool in pools {
        let name = pool.metadata.name.as_str();
        let mut own: BTreeMap<IpAddr, AddressRange> = BTreeMap::new();
        let conflict = pool.body.spec.ranges().find_map(|range| {
            let before = held.range(..=range.last()).next_back().filter(|(_, (other, _))| other.overlaps(&range));
            if let Some((_, (other, owner))) = before {
                return Some(Conflict { range, other: *other, owner: owner.clone() });
            }
            let twin = own.range(..=range.last()).next_back().filter(|(_, other)| other.overlaps(&range));
            if let Some((_, other)) = twin {
                return Some(Conflict { range, other: *other, owner: "the same pool".into() });
            }
            own.insert(range.first(), range);
            None
        });
        match conflict {
            Some(conflict) => drop(found.insert(name, conflict)),
            None => {
                let owner = format!("{}({name})", Kind::LoadBalancerIpPool);
                held.extend(own.into_iter().map(|(first, range)| (first, (range, owner.clone()))));
            }
        }
    }
    found
}

/// Kubernetes' Condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub reason: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub message: String,
}

/// What the controller writes about a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerIpPoolStatus {
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: Vec<Condition>,
}

/// `True`: the pool overlaps an older one and gives out nothing; the message says where.
pub const CONDITION_CONFLICT: &str = "tortie.io/PoolConflict";
/// Counts, each in the condition's message; its status is `Unknown`.
pub const CONDITION_TOTAL: &str = "tortie.io/IPsTotal";
pub const CONDITION_AVAILABLE: &str = "tortie.io/IPsAvailable";
pub const CONDITION_USED: &str = "tortie.io/IPsUsed";

impl LoadBalancerIpPoolStatus {
    /// The status of a pool with `used` of `total` addresses assigned. A condition that says what it said in `previous` keeps its
    /// time; `now` is RFC 3339.
    pub fn new(conflict: Option<&Conflict>, total: u128, used: u128, now: &str, previous: &Self) -> Self {
        let count = |kind: &str, n: u128| (kind.to_string(), "Unknown", "noreason", n.to_string());
        let (status, reason) = if conflict.is_some() { ("True", "cidr_overlap") } else { ("False", "resolved") };
        let message = conflict.map(ToString::to_string).unwrap_or_default();
        let wanted = [
            (CONDITION_CONFLICT.to_string(), status, reason, message),
            count(CONDITION_TOTAL, total),
            count(CONDITION_AVAILABLE, total.saturating_sub(used)),
            count(CONDITION_USED, used),
        ];
        let conditions = wanted.map(|(kind, status, reason, message)| {
            let old = previous.condition(&kind).filter(|c| c.status == status && c.message == message);
            let since = old.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| now.into());
            let (status, reason) = (status.into(), reason.into());
            Condition { kind, status, reason, message, last_transition_time: Some(since) }
        });
        Self { conditions: conditions.into() }
    }

    /// The status that a stored pool carries; none where it has none that can be read.
    pub fn of(pool: &LoadBalancerIpPool) -> Self {
        pool.body.status.clone().and_then(|s| serde_json::from_value(s).ok()).unwrap_or_default()
    }

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}

/// Whether a document is one of Cilium's that [`from_cilium`] converts.
pub fn is_cilium(document: &Value) -> bool {
    document["kind"] == CILIUM_KIND && matches!(document["apiVersion"].as_str(), Some(CILIUM_V2ALPHA1 | CILIUM_V2))
}

/// Turns a CiliumLoadBalancerIPPool into a LoadBalancerIPPool: `cidrs` become `blocks` after those that are there already, and the
/// status, which Cilium's operator wrote, goes. In `cilium.io/v2` the first and last addresses are assigned unless the pool says
/// otherwise; `v2alpha1`, as it was published with `cidrs`, kept them.
pub fn from_cilium(document: &mut Value) {
    let assigns_ends = document["apiVersion"] == CILIUM_V2;
    let Some(map) = document.as_object_mut() else { return };
    map.insert("apiVersion".into(), TORTIE_V1.into());
    map.insert("kind".into(), Kind::LoadBalancerIpPool.as_str().into());
    map.shift_remove("status");
    let Some(spec) = map.entry("spec").or_insert_with(|| Value::Object(Map::new())).as_object_mut() else { return };
    match (spec.shift_remove("cidrs"), spec.get_mut("blocks")) {
        (None | Some(Value::Null), _) => {}
        (Some(Value::Array(more)), Some(Value::Array(blocks))) => blocks.extend(more),
        (Some(cidrs), _) => drop(spec.insert("blocks".into(), cidrs)),
    }
    if assigns_ends && spec.get("allowFirstLastIPs").is_none_or(Value::is_null) {
        spec.insert("allowFirstLastIPs".into(), "Yes".into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str, created: &str, spec: Value) -> LoadBalancerIpPool {
        serde_json::from_value(json!({
            "kind": "LoadBalancerIPPool", "apiVersion": "tortie.io/v1",
            "metadata": {"name": name, "creationTimestamp": created}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn the_published_pools_are_converted() {
        let mut document = json!({
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "blue-pool"},
            "spec": {
                "cidrs": [{"cidr": "20.0.10.0/24"}],
                "serviceSelector": {"matchExpressions": [{"key": "color", "operator": "In", "values": ["blue", "cyan"]}]},
            },
            "status": {"conditions": []},
        });
        assert!(is_cilium(&document));
        from_cilium(&mut document);
        let pool: LoadBalancerIpPool = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&pool).unwrap(), document);
        let spec = &pool.body.spec;
        assert_eq!(spec.total(), 254);
        assert!(!spec.contains("20.0.10.0".parse().unwrap()) && spec.contains("20.0.10.209".parse().unwrap()));
        let labels = |color: &str| BTreeMap::from([("color".to_string(), color.to_string())]);
        assert!(spec.selects("default", "cni", &labels("cyan")) && !spec.selects("default", "cni", &labels("red")));
    }

    #[test]
    fn a_pool_of_v2_assigns_the_ends() {
        for (spec, total) in [
            (json!({"blocks": [{"cidr": "10.0.0.0/24"}]}), 256),
            (json!({"blocks": [{"cidr": "10.0.0.0/24"}], "allowFirstLastIPs": "No"}), 254),
            (json!({"blocks": [{"start": "10.0.0.0", "stop": "10.0.0.9"}, {"start": "10.1.0.0"}]}), 11),
            (json!({"cidrs": [{"cidr": "10.0.0.0/24"}], "blocks": [{"cidr": "10.1.0.0/32"}]}), 257),
        ] {
            let mut document =
                json!({"apiVersion": "cilium.io/v2", "kind": CILIUM_KIND, "metadata": {"name": "p"}, "spec": spec});
            from_cilium(&mut document);
            let pool: LoadBalancerIpPool = serde_json::from_value(document).unwrap();
            assert_eq!(pool.body.spec.total(), total, "{spec}");
        }
    }

    #[test]
    fn an_empty_end_of_a_block_is_an_absent_one() {
        let pool = pool(
            "p",
            "",
            json!({"blocks": [{"cidr": "10.0.0.0/30", "start": "", "stop": ""}, {"start": "10.1.0.1", "stop": ""}]}),
        );
        assert_eq!(pool.body.spec.total(), 3);
    }

    #[test]
    fn a_selector_may_name_the_service() {
        for key in [LABEL_SERVICE_NAMESPACE, CILIUM_SERVICE_NAMESPACE] {
            let pool = pool("p", "", json!({"serviceSelector": {"matchLabels": {key: "prod"}}}));
            assert!(pool.body.spec.selects("prod", "web", &BTreeMap::new()));
            assert!(!pool.body.spec.selects("test", "web", &BTreeMap::new()));
        }
        let pool = pool("p", "", json!({"serviceSelector": {"matchLabels": {CILIUM_SERVICE_NAME: "web"}}}));
        assert!(pool.body.spec.selects("prod", "web", &BTreeMap::new()));
    }

    #[test]
    fn the_younger_pool_is_in_conflict() {
        let pools = [
            pool("b", "2024-07-12T09:00:01Z", json!({"blocks": [{"start": "10.0.0.5", "stop": "10.0.0.9"}]})),
            pool("a", "2024-07-12T09:00:02Z", json!({"blocks": [{"cidr": "10.1.0.0/24"}, {"cidr": "10.0.0.0/24"}]})),
            // Overlaps only what conflicts itself.
            pool("c", "2024-07-12T09:00:03Z", json!({"blocks": [{"cidr": "10.1.0.0/24"}]})),
            pool("d", "2024-07-12T09:00:03Z", json!({"blocks": [{"cidr": "10.1.0.7/32"}, {"cidr": "fd00::/64"}]})),
            pool(
                "e",
                "2024-07-12T09:00:04Z",
                json!({"blocks": [{"start": "10.9.0.8", "stop": "10.9.1.0"}, {"cidr": "10.9.0.0/24"}]}),
            ),
            pool("f", "2024-07-12T09:00:05Z", json!({"blocks": [{"cidr": "172.16.5.0/24"}]})),
            pool("g", "2024-07-12T09:00:06Z", json!({"blocks": [{"cidr": "fd00::/64"}]})),
        ];
        let taken = |cidr: &str| (AddressRange::from(cidr.parse::<IpNet>().unwrap()), format!("IPPool({cidr})"));
        let taken = [taken("172.16.0.0/16"), taken("172.16.4.0/24"), taken("192.168.0.0/16")];
        let found: Vec<_> = conflicts(&pools, taken).into_iter().map(|(n, c)| (n, c.to_string())).collect();
        let text = |name, text: &str| (name, text.to_string());
        assert_eq!(
            found,
            [
                text("a", "10.0.0.0-10.0.0.255 overlaps 10.0.0.5-10.0.0.9 of LoadBalancerIPPool(b)"),
                text("d", "10.1.0.7 overlaps 10.1.0.0-10.1.0.255 of LoadBalancerIPPool(c)"),
                text("e", "10.9.0.0-10.9.0.255 overlaps 10.9.0.8-10.9.1.0 of the same pool"),
                text("f", "172.16.5.0-172.16.5.255 overlaps 172.16.0.0-172.16.255.255 of IPPool(172.16.0.0/16)"),
            ]
        );
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_says_the_same() {
        let first = LoadBalancerIpPoolStatus::new(None, 254, 0, "2024-07-12T09:00:00Z", &Default::default());
        let then = LoadBalancerIpPoolStatus::new(None, 254, 1, "2024-07-12T10:00:00Z", &first);
        let time = |c: &str| then.condition(c).unwrap().last_transition_time.clone().unwrap();
        assert_eq!(then.condition(CONDITION_AVAILABLE).unwrap().message, "253");
        assert_eq!(time(CONDITION_AVAILABLE), "2024-07-12T10:00:00Z");
        assert_eq!(
            (time(CONDITION_TOTAL), time(CONDITION_CONFLICT)),
            ("2024-07-12T09:00:00Z".into(), "2024-07-12T09:00:00Z".into())
        );
    }
}
