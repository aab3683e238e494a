//! Cluster IPs and node ports for services that name none. What a service has is never changed.
//!
//! The search starts where the service's name hashes to: a service that is made again, or applied again without what it was
//! given, finds the same address unless somebody took it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::Service;
use api::service::{Protocol, ServiceSpec, ServiceType};
use ipam::pool::{Family, fnv1a32};
use ipnet::IpNet;
use serde_json::json;

use super::{Problem, Settings, family_name, family_of, named_families, policy};
use crate::state::Name;

/// The word for a headless service.
pub const HEADLESS: &str = "None";

/// When a service was made (a time that is missing is before all others), and its name.
pub type Age = (Option<String>, Name);

/// Which services hold which cluster IP and node port, oldest first: of two that name the same, the older has it.
#[derive(Clone, Debug, Default)]
pub struct Held {
    cluster_ips: BTreeMap<IpAddr, BTreeSet<Age>>,
    node_ports: BTreeMap<(Protocol, u16), BTreeSet<Age>>,
    of: BTreeMap<Name, Holding>,
    /// Services that found nothing free.
    starved: BTreeSet<Name>,
}

#[derive(Clone, Debug)]
struct Holding {
    age: Age,
    cluster_ips: Vec<IpAddr>,
    node_ports: Vec<(Protocol, u16)>,
}

impl Held {
    /// Takes a service over as it is now; the others whom this concerns.
    pub fn insert(&mut self, name: &Name, service: &Service) -> BTreeSet<Name> {
        let mut others = self.remove(name);
        let mut holding = Holding { age: age(name, service), cluster_ips: cluster_ips(service), node_ports: vec![] };
        // What is left from an earlier type is not served, and free for others.
        if has_node_ports(service) {
            let ports = service.body.spec.ports.iter();
            holding.node_ports = ports.filter_map(|p| Some((p.protocol, p.node_port.filter(|n| *n != 0)?))).collect();
        }
        for ip in &holding.cluster_ips {
            others.extend(join(&mut self.cluster_ips, ip, &holding.age));
        }
        for port in &holding.node_ports {
            others.extend(join(&mut self.node_ports, port, &holding.age));
        }
        self.of.insert(name.clone(), holding);
        others.remove(name);
        others
    }

    /// Forgets a service; the others whom this concerns.
    pub fn remove(&mut self, name: &Name) -> BTreeSet<Name> {
        let mut others = BTreeSet::new();
        self.starved.remove(name);
        let Some(holding) = self.of.remove(name) else { return others };
        for ip in &holding.cluster_ips {
            others.extend(leave(&mut self.cluster_ips, ip, &holding.age));
        }
        for port in &holding.node_ports {
            others.extend(leave(&mut self.node_ports, port, &holding.age));
        }
        if !(holding.cluster_ips.is_empty() && holding.node_ports.is_empty()) {
            others.extend(self.starved.iter().cloned());
        }
        others
    }

    /// Gives a service what it lacks; what it could not get, or shares with another.
    pub fn complete(&mut self, name: &Name, service: &mut Service, settings: &Settings) -> Vec<Problem> {
        if service.body.spec.service_type == ServiceType::ExternalName {
            return vec![];
        }
        let mut problems = Vec::new();
        for ip in cluster_ips(service) {
            problems.extend(conflict(self.cluster_ips.get(&ip), name, || format!("clusterIP {ip}")));
        }
        let before = service.body.spec.clone();
        problems.extend(self.give_cluster_ips(name, &mut service.body.spec, settings));
        problems.extend(self.give_node_ports(name, service, settings));
        if service.body.spec != before {
            self.insert(name, service);
        }
        if problems.iter().any(|p| p.is_starved()) {
            self.starved.insert(name.clone());
        }
        problems
    }

    /// The addresses of the families that a service asks for (Kubernetes `ipFamilyPolicy`).
    fn give_cluster_ips(&mut self, name: &Name, spec: &mut ServiceSpec, settings: &Settings) -> Vec<Problem> {
        let mut problems = Vec::new();
        if spec.cluster_ip.as_deref() == Some(HEADLESS) || spec.cluster_ips.iter().any(|ip| ip == HEADLESS) {
            return problems;
        }
        if is_unset(spec.cluster_ip.as_deref()) {
            spec.cluster_ip = spec.cluster_ips.first().filter(|ip| !ip.is_empty()).cloned();
        }
        let mut has: Vec<IpAddr> = spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        match spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty()).map(str::parse) {
            Some(Ok(first)) if has.is_empty() => has.push(first),
            Some(Err(_)) => return problems,
            _ => {}
        }
        let (wanted, is_required) = cluster_families(spec, &has, settings);
        let mut given = Vec::new();
        for family in &wanted {
            if has.iter().any(|ip| family_of(*ip) == *family) {
                continue;
            }
            let Some(range) = settings.cluster_ips.iter().find(|r| Family::of(r) == *family) else {
                let name = family_name(*family);
                let message = format!("there is no cluster IP range of {name} (--service-cluster-ip-range)");
                problems.extend(is_required.then_some(Problem { reason: "NoClusterIPRange", message }));
                continue;
            };
            match self.free_in(*range, name) {
                Some(ip) => given.push(ip),
                None => {
                    let message = format!("no address is left in the cluster IP range {range}");
                    problems.push(Problem { reason: "ClusterIPRangeFull", message });
                }
            }
        }
        if given.is_empty() {
            return problems;
        }
        has.extend(given);
        spec.cluster_ip = has.first().map(ToString::to_string);
        spec.cluster_ips = has.iter().map(ToString::to_string).collect();
        if has.len() > 1 {
            let families: Vec<&str> = has.iter().map(|ip| family_name(family_of(*ip))).collect();
            spec.extra.insert("ipFamilies".into(), json!(families));
        }
        problems
    }

    fn free_in(&self, range: IpNet, name: &Name) -> Option<IpAddr> {
        // The first address is where Kubernetes puts its own API; the network's own and its last are nobody's.
        let first = to_number(range.network()).saturating_add(2);
        let count = to_number(range.broadcast()).saturating_sub(first);
        let start = u128::from(fnv1a32(&format!("{}/{}", name.0, name.1))).checked_rem(count).unwrap_or(0);
        let at = |number: u128| match range {
            IpNet::V4(_) => u32::try_from(number).ok().map(|n| IpAddr::V4(Ipv4Addr::from(n))),
            IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(number))),
        };
        let mut all = (0..count).filter_map(|i| at(first + (start + i) % count));
        all.find(|ip| !self.cluster_ips.contains_key(ip))
    }

    fn give_node_ports(&mut self, name: &Name, service: &mut Service, settings: &Settings) -> Vec<Problem> {
        let has_ports = has_node_ports(service);
        let spec = &mut service.body.spec;
        // Kubernetes API: spec.allocateLoadBalancerNodePorts, default true.
        let wanted = match spec.service_type {
            ServiceType::NodePort => true,
            ServiceType::LoadBalancer => spec.extra.get("allocateLoadBalancerNodePorts") != Some(&false.into()),
            ServiceType::ClusterIP | ServiceType::ExternalName => false,
        };
        let mut problems = Vec::new();
        let mut given: BTreeSet<(Protocol, u16)> = BTreeSet::new();
        for port in spec.ports.iter_mut().filter(|_| has_ports) {
            if let Some(node_port) = port.node_port.filter(|p| *p != 0) {
                let holders = self.node_ports.get(&(port.protocol, node_port));
                problems.extend(conflict(holders, name, || format!("nodePort {node_port}")));
                continue;
            }
            if !wanted {
                continue;
            }
            let range = &settings.node_ports;
            let count = u32::from(range.end() - range.start()) + 1;
            let start = fnv1a32(&format!("{}/{}:{}", name.0, name.1, port.port)) % count;
            let free = (0..count)
                .filter_map(|i| u16::try_from(u32::from(*range.start()) + (start + i) % count).ok())
                .map(|p| (port.protocol, p))
                .find(|p| !self.node_ports.contains_key(p) && !given.contains(p));
            match free {
                Some(free) => {
                    given.insert(free);
                    port.node_port = Some(free.1);
                }
                None => problems.push(Problem {
                    reason: "NodePortRangeFull",
                    message: format!("no port is left in the node port range {}-{}", range.start(), range.end()),
                }),
            }
        }
        problems
    }
}

/// The families of which a service wants a cluster IP, and whether each is a must.
fn cluster_families(spec: &ServiceSpec, has: &[IpAddr], settings: &Settings) -> (Vec<Family>, bool) {
    let named = named_families(spec);
    let first = has.first().map(|ip| family_of(*ip)).or_else(|| named.first().copied());
    let Some(first) = first.or_else(|| settings.cluster_ips.first().map(Family::of)) else { return (vec![], false) };
    let other = if first == Family::V4 { Family::V6 } else { Family::V4 };
    match policy(spec) {
        Some("PreferDualStack") => (vec![first, other], false),
        Some("RequireDualStack") => (vec![first, other], true),
        _ if named.len() > 1 => (vec![first, other], true),
        _ => (vec![first], true),
    }
}

pub fn age(name: &Name, service: &Service) -> Age {
    (service.metadata.creation_timestamp.clone(), name.clone())
}

/// Who is told something else now: the others, where the oldest is another than before.
fn join<K: Ord + Clone>(holders: &mut BTreeMap<K, BTreeSet<Age>>, key: &K, age: &Age) -> Vec<Name> {
    let set = holders.entry(key.clone()).or_default();
    set.insert(age.clone());
    if set.first() == Some(age) { set.iter().map(|(_, name)| name.clone()).collect() } else { vec![] }
}

/// As [`join`].
fn leave<K: Ord>(holders: &mut BTreeMap<K, BTreeSet<Age>>, key: &K, age: &Age) -> Vec<Name> {
    let Some(set) = holders.get_mut(key) else { return vec![] };
    let was_first = set.first() == Some(age);
    set.remove(age);
    let left = if was_first { set.iter().map(|(_, name)| name.clone()).collect() } else { vec![] };
    if set.is_empty() {
        holders.remove(key);
    }
    left
}

fn has_node_ports(service: &Service) -> bool {
    matches!(service.body.spec.service_type, ServiceType::NodePort | ServiceType::LoadBalancer)
}

fn conflict(holders: Option<&BTreeSet<Age>>, name: &Name, what: impl Fn() -> String) -> Option<Problem> {
    let (_, (namespace, other)) = holders?.first().filter(|(_, holder)| holder != name)?;
    let message = format!("{} is already taken by service {namespace}/{other}", what());
    Some(Problem { reason: "Conflict", message })
}

fn is_unset(cluster_ip: Option<&str>) -> bool {
    cluster_ip.is_none_or(str::is_empty)
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = &service.body.spec;
    let mut ips: Vec<IpAddr> =
        spec.cluster_ip.iter().chain(&spec.cluster_ips).filter_map(|text| text.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    ips
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}
