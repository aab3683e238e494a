//! Cluster IPs and node ports for services that name none. What a service has is never changed.
//!
//! The search starts where the service's name hashes to: a service that is made again, or applied again without what it was
//! given, finds the same address unless somebody took it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::Service;
use api::service::{Protocol, ServiceType};
use ipam::pool::fnv1a32;

use super::{Problem, Settings};
use crate::state::Name;

/// The word for a headless service.
const HEADLESS: &str = "None";

/// Which service holds which cluster IP and node port: of two that name the same, the older.
pub struct Held {
    cluster_ips: BTreeMap<IpAddr, Name>,
    node_ports: BTreeMap<(Protocol, u16), Name>,
}

impl Held {
    pub fn of(services: &BTreeMap<Name, Service>) -> Self {
        let mut held = Self { cluster_ips: BTreeMap::new(), node_ports: BTreeMap::new() };
        for name in by_age(services) {
            let service = &services[name];
            for ip in cluster_ips(service) {
                held.cluster_ips.entry(ip).or_insert_with(|| name.clone());
            }
            // What is left from an earlier type is not served, and free for others.
            for port in service.body.spec.ports.iter().filter(|_| has_node_ports(service)) {
                if let Some(node_port) = port.node_port.filter(|p| *p != 0) {
                    held.node_ports.entry((port.protocol, node_port)).or_insert_with(|| name.clone());
                }
            }
        }
        held
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
        problems.extend(self.give_cluster_ip(name, service, settings));
        problems.extend(self.give_node_ports(name, service, settings));
        problems
    }

    fn give_cluster_ip(&mut self, name: &Name, service: &mut Service, settings: &Settings) -> Option<Problem> {
        let spec = &mut service.body.spec;
        if !is_unset(spec.cluster_ip.as_deref()) {
            return None;
        }
        if let Some(first) = spec.cluster_ips.first() {
            spec.cluster_ip = Some(first.clone());
            return None;
        }
        let range = settings.cluster_ips;
        // The first address is where Kubernetes puts its own API; the network's own and its last are nobody's.
        let first = u32::from(range.network()).saturating_add(2);
        let count = u32::from(range.broadcast()).saturating_sub(first);
        let start = fnv1a32(&format!("{}/{}", name.0, name.1)).checked_rem(count).unwrap_or(0);
        let free = (0..count)
            .map(|i| IpAddr::V4(Ipv4Addr::from(first + ((u64::from(start) + u64::from(i)) % u64::from(count)) as u32)))
            .find(|ip| !self.cluster_ips.contains_key(ip));
        let Some(ip) = free else {
            let message = format!("no address is left in the cluster IP range {range}");
            return Some(Problem { reason: "ClusterIPRangeFull", message });
        };
        self.cluster_ips.insert(ip, name.clone());
        spec.cluster_ip = Some(ip.to_string());
        spec.cluster_ips = vec![ip.to_string()];
        None
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
        for port in spec.ports.iter_mut().filter(|_| has_ports) {
            if let Some(node_port) = port.node_port.filter(|p| *p != 0) {
                let holder = self.node_ports.get(&(port.protocol, node_port));
                problems.extend(conflict(holder, name, || format!("nodePort {node_port}")));
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
                .find(|p| !self.node_ports.contains_key(&(port.protocol, *p)));
            match free {
                Some(node_port) => {
                    self.node_ports.insert((port.protocol, node_port), name.clone());
                    port.node_port = Some(node_port);
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

/// The services' names, oldest first. A time that is missing is before all others.
pub fn by_age(services: &BTreeMap<Name, Service>) -> Vec<&Name> {
    let mut names: Vec<&Name> = services.keys().collect();
    names.sort_by_key(|name| (services[*name].metadata.creation_timestamp.as_deref(), *name));
    names
}

fn has_node_ports(service: &Service) -> bool {
    matches!(service.body.spec.service_type, ServiceType::NodePort | ServiceType::LoadBalancer)
}

fn conflict(holder: Option<&Name>, name: &Name, what: impl Fn() -> String) -> Option<Problem> {
    let (namespace, other) = holder.filter(|h| *h != name)?;
    let message = format!("{} is already taken by service {namespace}/{other}", what());
    Some(Problem { reason: "Conflict", message })
}

fn is_unset(cluster_ip: Option<&str>) -> bool {
    cluster_ip.is_none_or(str::is_empty)
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = &service.body.spec;
    let mut ips: Vec<IpAddr> = spec
        .cluster_ip
        .iter()
        .chain(&spec.cluster_ips)
        .filter(|text| *text != HEADLESS)
        .filter_map(|text| text.parse().ok())
        .collect();
    ips.sort();
    ips.dedup();
    ips
}
