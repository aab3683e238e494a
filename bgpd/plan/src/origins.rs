//! What this node originates: the kernel's routes of felix, under the export rules (pure).
//!
//! The FIB is the contract: what felix programmed under its protocol number is what this node serves. Each such route
//! becomes an [`Origin`] with the verdict of the rules that follow the peer's BGPFilters, which are Calico's
//! (`bird.cfg.template`, `bird_aggr.cfg.template`), in their order:
//!
//! 1. pools with disableBGPExport: reject
//! 2. an own confirmed block: accept; what lies inside it: reject (aggregation), unless its priority is better than the
//!    normal one, as that of a workload that is being moved
//! 3. a service address inside the service ranges of BGPConfiguration, or a LoadBalancer pool: accept, but in a range that
//!    is announced as a whole only where the service has externalTrafficPolicy Local
//! 4. an address of a workload inside a pool (borrowed from another node's block): accept
//! 5. anything else: reject
//!
//! A pool that is disabled gives no new addresses; what has one keeps its route.
//!
//! Beside these a node originates the service ranges that are announced as a whole ([`ServiceRanges`]), each while felix
//! serves some address of it here. Learned routes pass by the same rules ([`transit_rules`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::bgp_configuration::CidrBlock;
use api::ip_pool::AllowedUse;
use api::{BgpConfigurationSpec, IpPoolSpec};
use bgp_proto::policy::{self, Action, Community, MatchOperator, Operation, PrefixMatch, Rule, Source};
use fib::{Links, PRIORITY_LOCAL, PROTOCOL_FELIX, Routes, Target};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::Origin;
use crate::filters::{community, prefix};
use crate::peers::configuration;
use crate::resources::Resources;

/// Kubernetes' label of nodes that serve no traffic from outside.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What node `name` originates, given the kernel's routes. Routes of other protocols are none of ours.
pub fn origins(name: &str, resources: &Resources, routes: &Routes, links: &Links) -> Vec<Origin> {
    let rules = Rules::new(name, resources);
    let mut origins = BTreeMap::new();
    for (key, route) in routes.iter().filter(|(_, r)| r.protocol == PROTOCOL_FELIX) {
        let interface = match &route.target {
            // A way to another node's address is for that node to announce.
            Target::Gateways(_) | Target::Other => continue,
            Target::Link { ifindex } => links.get(ifindex).map(|l| l.name.clone()),
            Target::Blackhole => None,
        };
        if interface.as_deref().is_some_and(|i| rules.is_ignored(i)) {
            continue;
        }
        let is_service = is_host(key.dst) && route.target == Target::Blackhole;
        for range in rules.services.aggregates.iter().filter(|r| is_service && **r != key.dst && r.contains(&key.dst)) {
            let verdict = (Action::Accept, "a service range that stands for the addresses in it");
            origins.entry(*range).or_insert_with(|| rules.origin(*range, None, PRIORITY_LOCAL, verdict));
        }
        // Of two routes for one prefix the kernel uses the one with the lower priority, which comes first.
        let verdict = rules.verdict(key.dst, key.priority, &route.target);
        origins.entry(key.dst).or_insert_with(|| rules.origin(key.dst, interface, key.priority, verdict));
    }
    origins.into_values().collect()
}

/// The export rules of node `name` for learned routes, to follow a peer's BGPFilters; what none of them matches is rejected.
/// What passes by them gets the communities of prefixAdvertisements, as our own routes do.
pub fn transit_rules(name: &str, resources: &Resources, is_route_reflector: bool) -> Vec<Rule> {
    let learned = |name: String, net: IpNet, action| Rule {
        name,
        source: Some(Source::RemotePeers),
        prefix: Some(PrefixMatch { prefix: prefix(net), operator: MatchOperator::In, min_len: None, max_len: None }),
        action,
        ..Rule::default()
    };
    let default = configuration(resources, "default");
    let advertisements = advertisements(&default, &configuration(resources, &format!("node.{name}")));
    // Ranges contain one another or have nothing in common: the communities of the narrowest are those of each route in it.
    let passed_on = |name: String, net: IpNet| {
        let mut ranges: BTreeSet<IpNet> =
            advertisements.iter().map(|(range, _)| *range).filter(|range| net.contains(range)).collect();
        ranges.insert(net);
        let mut ranges: Vec<IpNet> = ranges.into_iter().collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.prefix_len()));
        let rule = |range| {
            let operations = communities(&advertisements, range).into_iter().map(Operation::AddCommunity).collect();
            Rule { operations, ..learned(name.clone(), range, Action::Accept) }
        };
        ranges.into_iter().map(rule).collect::<Vec<Rule>>()
    };
    let pools = || resources.pools.iter().map(|(name, p)| (name, &p.body.spec));
    let closed = pools().filter(|(_, p)| p.disable_bgp_export);
    let mut rules: Vec<Rule> = closed
        .map(|(name, p)| learned(format!("IPPool {name} with disableBGPExport"), p.cidr, Action::Reject))
        .collect();
    rules.extend(resources.own_blocks.iter().map(|b| learned(format!("this node's block {b}"), *b, Action::Reject)));
    if is_route_reflector {
        // Calico's ranges from outside; cluster IPs are every node's own.
        let outside = ranges(&default.service_external_ips).chain(ranges(&default.service_load_balancer_ips));
        rules.extend(outside.flat_map(|net| passed_on(format!("service range {net}"), net)));
    }
    rules.extend(pools().flat_map(|(name, p)| passed_on(format!("IPPool {name}"), p.cidr)));
    rules
}

/// The service ranges of BGPConfiguration, as they concern one node (Calico `confd/pkg/backends/calico/routes.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRanges {
    /// Announced as a whole: cluster IPs; external and load-balancer ranges of more than one address, the latter unless
    /// serviceLoadBalancerAggregation is Disabled. Empty on a node that is excluded from load balancers.
    pub aggregates: BTreeSet<IpNet>,
    /// All of them. They are served here: what others announce of them is not put into the kernel.
    pub own: BTreeSet<IpNet>,
}

impl ServiceRanges {
    /// Those of node `name`.
    pub fn new(name: &str, resources: &Resources) -> Self {
        let spec = configuration(resources, "default");
        let is_whole = spec.service_load_balancer_aggregation.as_deref() != Some("Disabled");
        let balanced = ranges(&spec.service_load_balancer_ips).filter(|_| is_whole);
        let outside = ranges(&spec.service_external_ips).chain(balanced).filter(|net| !is_host(*net));
        let mut aggregates: BTreeSet<IpNet> = ranges(&spec.service_cluster_ips).chain(outside).collect();
        if is_excluded(name, resources) {
            aggregates.clear();
        }
        Self { aggregates, own: service_ranges(&spec) }
    }
}

/// Every service range of a BGPConfiguration.
pub(crate) fn service_ranges(spec: &BgpConfigurationSpec) -> BTreeSet<IpNet> {
    let lists = [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips];
    lists.into_iter().flat_map(|l| ranges(l)).collect()
}

/// Parsed; a range that cannot be read is no range, and validation refuses it where it is written.
fn ranges(blocks: &[CidrBlock]) -> impl Iterator<Item = IpNet> {
    let parse = |cidr: &str| cidr.parse::<IpNet>().ok().or_else(|| cidr.parse::<IpAddr>().ok().map(IpNet::from));
    blocks.iter().filter_map(move |b| parse(&b.cidr)).map(|net| net.trunc())
}

/// Whether the node serves nothing from outside.
fn is_excluded(name: &str, resources: &Resources) -> bool {
    let label = resources.nodes.get(name).and_then(|n| n.metadata.labels.get(EXCLUDE_LABEL));
    label.is_some_and(|v| v == "true")
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

struct Rules<'a> {
    pools: Vec<&'a IpPoolSpec>,
    own_blocks: &'a BTreeSet<IpNet>,
    services: ServiceRanges,
    /// Addresses that only nodes with an endpoint announce.
    local_services: BTreeSet<IpAddr>,
    is_excluded: bool,
    /// prefixAdvertisements, their communities resolved.
    advertisements: Vec<(IpNet, Vec<Community>)>,
    /// Patterns of interfaces whose routes are not ours to announce.
    ignored: Vec<String>,
    /// ipv4NormalRoutePriority and ipv6NormalRoutePriority.
    normal_priority: [u32; 2],
}

impl<'a> Rules<'a> {
    fn new(name: &str, resources: &'a Resources) -> Self {
        let default = configuration(resources, "default");
        let own = configuration(resources, &format!("node.{name}"));
        let normal = |pick: fn(&BgpConfigurationSpec) -> Option<i64>| {
            pick(&own).or(pick(&default)).and_then(|p| u32::try_from(p).ok()).unwrap_or(PRIORITY_LOCAL)
        };
        let ignored = if own.ignored_interfaces.is_empty() { &default } else { &own }.ignored_interfaces.clone();
        Self {
            pools: resources.pools.values().map(|p| &p.body.spec).collect(),
            own_blocks: &resources.own_blocks,
            services: ServiceRanges::new(name, resources),
            local_services: resources.local_services.values().flatten().copied().collect(),
            is_excluded: is_excluded(name, resources),
            advertisements: advertisements(&default, &own),
            ignored,
            normal_priority: [normal(|s| s.ipv4_normal_route_priority), normal(|s| s.ipv6_normal_route_priority)],
        }
    }

    fn origin(
        &self,
        net: IpNet,
        interface: Option<String>,
        priority: u32,
        (verdict, rule): (Action, &'static str),
    ) -> Origin {
        Origin {
            prefix: prefix(net),
            communities: communities(&self.advertisements, net),
            interface,
            priority: Some(priority),
            export: verdict == Action::Accept,
            rule,
        }
    }

    /// The export rules, and which of them it was.
    fn verdict(&self, net: IpNet, priority: u32, target: &Target) -> (Action, &'static str) {
        use Action::{Accept, Reject};
        if self.pools.iter().any(|p| p.disable_bgp_export && p.cidr.contains(&net)) {
            return (Reject, "its pool has disableBGPExport");
        }
        if let Some(block) = self.own_blocks.iter().find(|b| b.contains(&net)) {
            let normal = self.normal_priority[usize::from(net.addr().is_ipv6())];
            return match (*block == net, priority < normal) {
                (true, _) => (Accept, "a block of this node"),
                (false, true) => (Accept, "inside a block of this node, with a better priority than is normal"),
                (false, false) => (Reject, "inside a block of this node, which stands for it"),
            };
        }
        let pool_allows = |wanted| self.pools.iter().any(|p| p.allows(wanted) && p.cidr.contains(&net));
        match target {
            Target::Blackhole if is_host(net) && self.is_excluded => {
                (Reject, "the node's label excludes it from serving traffic from outside")
            }
            Target::Blackhole if is_host(net) => {
                if self.is_announced_alone(net) || self.services.aggregates.contains(&net) {
                    (Accept, "a service address in a range that BGPConfiguration announces")
                } else if self.services.own.iter().any(|r| r.contains(&net)) {
                    (Reject, "a service address whose whole range is announced")
                } else if pool_allows(AllowedUse::LoadBalancer) {
                    (Accept, "a service address in a pool for load balancers")
                } else {
                    (Reject, "a service address in no range or pool that is announced")
                }
            }
            Target::Link { .. } if is_host(net) => match pool_allows(AllowedUse::Workload) {
                true => (Accept, "the address of a workload in a pool"),
                false => (Reject, "the address of a workload in no pool"),
            },
            _ => (Reject, "neither a block nor an address"),
        }
    }

    /// Whether a service address in some range has a route of its own.
    fn is_announced_alone(&self, net: IpNet) -> bool {
        let is_in = |ranges: &BTreeSet<IpNet>| ranges.iter().any(|r| r.contains(&net));
        is_in(&self.services.own) && (!is_in(&self.services.aggregates) || self.local_services.contains(&net.addr()))
    }

    fn is_ignored(&self, interface: &str) -> bool {
        self.ignored.iter().any(|pattern| policy::wildcard(pattern, interface))
    }
}

/// Those of every advertisement that the prefix is in, once each.
fn communities(advertisements: &[(IpNet, Vec<Community>)], net: IpNet) -> Vec<Community> {
    let matching = advertisements.iter().filter(|(cidr, _)| cidr.contains(&net));
    let all: BTreeSet<Community> = matching.flat_map(|(_, c)| c.iter().copied()).collect();
    all.into_iter().collect()
}

/// prefixAdvertisements of the node's BGPConfiguration if it has any, else of the default one. A community is a value, or
/// the name of one of either configuration; others are left out (validation names them).
fn advertisements(default: &BgpConfigurationSpec, own: &BgpConfigurationSpec) -> Vec<(IpNet, Vec<Community>)> {
    let named = own.communities.iter().chain(&default.communities);
    let named: Vec<(&str, &str)> = named.map(|c| (c.name.as_str(), c.value.as_str())).collect();
    let value = |text: &String| {
        let by_name = named.iter().find(|(name, _)| name == text).map(|(_, value)| *value);
        community(by_name.unwrap_or(text)).ok()
    };
    let lists = if own.prefix_advertisements.is_empty() { default } else { own };
    let parsed = lists.prefix_advertisements.iter().filter_map(|a| Some((a.cidr.parse::<IpNet>().ok()?, a)));
    parsed.map(|(cidr, a)| (cidr.trunc(), a.communities.iter().filter_map(value).collect())).collect()
}

#[cfg(test)]
mod tests;
