//! What this node originates: the kernel's routes of felix, under the export rules (pure).
//!
//! The FIB is the contract: what felix programmed under its protocol number is what this node serves. Each such route
//! becomes an [`Origin`] with the verdict of the rules that follow the peer's BGPFilters, which are Calico's
//! (`bird.cfg.template`, `bird_aggr.cfg.template`), in their order:
//!
//! 1. pools with disableBGPExport: reject
//! 2. an own confirmed block: accept; what lies inside it: reject (aggregation)
//! 3. a service address inside the service ranges of BGPConfiguration, or a LoadBalancer pool: accept
//! 4. an address of a workload inside an enabled pool (borrowed from another node's block): accept
//! 5. anything else: reject
//!
//! Learned routes pass by the same rules ([`transit_rules`]).
//!
//! Not implemented: Calico's static aggregates of whole service ranges. A service address is announced by the nodes that
//! serve it, each as its own host route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ip_pool::AllowedUse;
use api::{BgpConfigurationSpec, IpPoolSpec};
use bgp_proto::policy::{Action, Community, MatchOperator, PrefixMatch, Rule, Source};
use fib::{Links, PROTOCOL_FELIX, Routes, Target};
use ipnet::IpNet;

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
        let origin = Origin {
            prefix: prefix(key.dst),
            communities: rules.communities(key.dst),
            interface,
            priority: Some(key.priority),
            export: rules.verdict(key.dst, &route.target) == Action::Accept,
        };
        // Of two routes for one prefix the kernel uses the one with the lower priority, which comes first.
        origins.entry(key.dst).or_insert(origin);
    }
    origins.into_values().collect()
}

/// The export rules for learned routes, to follow a peer's BGPFilters; what none of them matches is rejected.
pub fn transit_rules(resources: &Resources, is_route_reflector: bool) -> Vec<Rule> {
    let learned = |name: String, net: IpNet, action| Rule {
        name,
        source: Some(Source::RemotePeers),
        prefix: Some(PrefixMatch { prefix: prefix(net), operator: MatchOperator::In, min_len: None, max_len: None }),
        action,
        ..Rule::default()
    };
    let pools = || resources.pools.iter().map(|(name, p)| (name, &p.body.spec));
    let closed = pools().filter(|(_, p)| p.disable_bgp_export);
    let mut rules: Vec<Rule> = closed
        .map(|(name, p)| learned(format!("IPPool {name} with disableBGPExport"), p.cidr, Action::Reject))
        .collect();
    rules.extend(resources.own_blocks.iter().map(|b| learned(format!("this node's block {b}"), *b, Action::Reject)));
    if is_route_reflector {
        let default = configuration(resources, "default");
        let accept = |net: IpNet| learned(format!("service range {net}"), net, Action::Accept);
        rules.extend(Ranges::new(&default).all().map(accept));
    }
    let open = pools().filter(|(_, p)| !p.disabled);
    rules.extend(open.map(|(name, p)| learned(format!("IPPool {name}"), p.cidr, Action::Accept)));
    rules
}

/// The service ranges of BGPConfiguration.
pub(crate) struct Ranges {
    cluster: Vec<IpNet>,
    /// External and load-balancer addresses.
    outside: Vec<IpNet>,
}

impl Ranges {
    pub(crate) fn new(spec: &BgpConfigurationSpec) -> Self {
        // A range that cannot be read is no range; validation refuses it where it is written.
        let parse = |cidr: &String| cidr.parse::<IpNet>().ok().or_else(|| cidr.parse::<IpAddr>().ok().map(IpNet::from));
        let outside = spec.service_external_ips.iter().chain(&spec.service_load_balancer_ips);
        Self {
            cluster: spec.service_cluster_ips.iter().filter_map(|b| parse(&b.cidr)).collect(),
            outside: outside.filter_map(|b| parse(&b.cidr)).collect(),
        }
    }

    pub(crate) fn all(self) -> impl Iterator<Item = IpNet> {
        self.cluster.into_iter().chain(self.outside)
    }
}

struct Rules<'a> {
    pools: Vec<&'a IpPoolSpec>,
    own_blocks: &'a BTreeSet<IpNet>,
    ranges: Ranges,
    /// The node serves nothing from outside.
    is_excluded: bool,
    /// prefixAdvertisements, their communities resolved.
    advertisements: Vec<(IpNet, Vec<Community>)>,
}

impl<'a> Rules<'a> {
    fn new(name: &str, resources: &'a Resources) -> Self {
        let default = configuration(resources, "default");
        let own = configuration(resources, &format!("node.{name}"));
        let label = resources.nodes.get(name).and_then(|n| n.metadata.labels.get(EXCLUDE_LABEL));
        Self {
            pools: resources.pools.values().map(|p| &p.body.spec).collect(),
            own_blocks: &resources.own_blocks,
            ranges: Ranges::new(&default),
            is_excluded: label.is_some_and(|v| v == "true"),
            advertisements: advertisements(&default, &own),
        }
    }

    fn verdict(&self, net: IpNet, target: &Target) -> Action {
        let accept_if = |condition| if condition { Action::Accept } else { Action::Reject };
        if self.pools.iter().any(|p| p.disable_bgp_export && p.cidr.contains(&net)) {
            return Action::Reject;
        }
        if let Some(block) = self.own_blocks.iter().find(|b| b.contains(&net)) {
            return accept_if(*block == net);
        }
        let is_host = net.prefix_len() == net.max_prefix_len();
        let pool_allows = |wanted| self.pools.iter().any(|p| !p.disabled && p.allows(wanted) && p.cidr.contains(&net));
        match target {
            Target::Blackhole if is_host && !self.is_excluded => {
                let is_in = |ranges: &[IpNet]| ranges.iter().any(|r| r.contains(&net));
                let is_in_pool = pool_allows(AllowedUse::LoadBalancer);
                accept_if(is_in(&self.ranges.cluster) || is_in(&self.ranges.outside) || is_in_pool)
            }
            Target::Link { .. } if is_host => accept_if(pool_allows(AllowedUse::Workload)),
            _ => Action::Reject,
        }
    }

    fn communities(&self, net: IpNet) -> Vec<Community> {
        let matching = self.advertisements.iter().filter(|(cidr, _)| cidr.contains(&net));
        let all: BTreeSet<Community> = matching.flat_map(|(_, c)| c.iter().copied()).collect();
        all.into_iter().collect()
    }
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
