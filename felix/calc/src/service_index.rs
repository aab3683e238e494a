//! Services and their endpoint slices, as the datapath needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use api::service::{EndpointSlice, LABEL_SERVICE_NAME, ServiceBody, ServicePort, ServiceType, TrafficPolicy};
use serde::Serialize;

pub use api::service::Protocol;

use crate::graph::ObjectName;

/// How a frontend came to be, which decides who may use it and what is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    /// On every address of the node; [`Frontend::addr`] is the unspecified address.
    NodePort,
}

/// One address, protocol and port that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub kind: FrontendKind,
    /// `namespace/name` of the service, for status and counters.
    pub service: String,
    /// Only backends of this node may serve traffic that comes from outside (externalTrafficPolicy Local).
    pub external_local: bool,
    /// Only backends of this node may serve traffic of this node's pods and processes (internalTrafficPolicy Local).
    pub internal_local: bool,
    /// Ready backends, sorted, without duplicates: every node computes the same list.
    pub backends: Vec<Backend>,
}

/// One endpoint behind a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Backend {
    pub addr: IpAddr,
    pub port: u16,
    /// Whether the endpoint is a workload of this node.
    pub is_local: bool,
}

/// What services ask for and this version does not serve: counted, so that status can say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Ports of protocol SCTP.
    pub sctp_ports: usize,
    /// Frontend addresses of IPv6.
    pub ipv6_frontends: usize,
    /// Frontends whose address, protocol and port another service holds.
    pub conflicting_frontends: usize,
    /// Addresses that cannot be read.
    pub invalid_addresses: usize,
}

/// Keeps services and their slices; recomputes the services that an update touched.
pub struct ServiceIndex {
    node: String,
    services: BTreeMap<ObjectName, ServiceBody>,
    /// By slice.
    slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Service to its slices.
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    local_addresses: BTreeSet<IpAddr>,
    dirty: BTreeSet<ObjectName>,
    computed: BTreeMap<ObjectName, (Vec<Frontend>, Skipped)>,
}

impl ServiceIndex {
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            local_addresses: BTreeSet::new(),
            dirty: BTreeSet::new(),
            computed: BTreeMap::new(),
        }
    }

    pub fn apply_service(&mut self, name: ObjectName, body: Option<ServiceBody>) {
        match body {
            Some(b) => self.services.insert(name.clone(), b),
            None => self.services.remove(&name),
        };
        self.dirty.insert(name);
    }

    pub fn apply_slice(&mut self, name: ObjectName, slice: Option<EndpointSlice>) {
        let old = match &slice {
            Some(s) => self.slices.insert(name.clone(), s.clone()),
            None => self.slices.remove(&name),
        };
        if let Some(service) = old.as_ref().and_then(service_of) {
            if let Some(set) = self.slices_of.get_mut(&service) {
                set.remove(&name);
                if set.is_empty() {
                    self.slices_of.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        if let Some(service) = slice.as_ref().and_then(service_of) {
            self.slices_of.entry(service.clone()).or_default().insert(name);
            self.dirty.insert(service);
        }
    }

    /// The addresses of this node's workloads: an endpoint with one of them is local even where its slice names no node.
    pub fn set_local_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if addresses != self.local_addresses {
            self.local_addresses = addresses;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// All frontends, sorted and unique by address, protocol and port, and what was left out. Of two services that want the
    /// same one, the lower kind wins, then the lower service name.
    pub fn frontends(&mut self) -> (Vec<Frontend>, Skipped) {
        for name in std::mem::take(&mut self.dirty) {
            match self.services.get(&name) {
                Some(body) => {
                    let computed = self.compute(&name, body);
                    self.computed.insert(name, computed);
                }
                None => {
                    self.computed.remove(&name);
                }
            }
        }
        let mut skipped = Skipped::default();
        let mut all = Vec::new();
        for (frontends, s) in self.computed.values() {
            all.extend(frontends.iter().cloned());
            skipped.sctp_ports += s.sctp_ports;
            skipped.ipv6_frontends += s.ipv6_frontends;
            skipped.invalid_addresses += s.invalid_addresses;
        }
        all.sort_by(|a, b| identity(a).cmp(&identity(b)).then_with(|| (a.kind, &a.service).cmp(&(b.kind, &b.service))));
        let before = all.len();
        all.dedup_by(|later, first| identity(later) == identity(first));
        skipped.conflicting_frontends = before - all.len();
        (all, skipped)
    }

    fn compute(&self, name: &ObjectName, body: &ServiceBody) -> (Vec<Frontend>, Skipped) {
        let mut skipped = Skipped::default();
        let spec = &body.spec;
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        if is_headless || spec.service_type == ServiceType::ExternalName {
            return (Vec::new(), skipped);
        }
        let addresses = service_addresses(body, &mut skipped);
        let external_local = spec.external_traffic_policy == Some(TrafficPolicy::Local);
        let cluster_local = spec.internal_traffic_policy == Some(TrafficPolicy::Local);
        let mut frontends = Vec::new();
        for port in &spec.ports {
            if port.protocol == Protocol::Sctp {
                skipped.sctp_ports += 1;
                continue;
            }
            let backends = self.backends(name, port);
            let mut push = |addr, port_number, kind| {
                let is_cluster_ip = kind == FrontendKind::ClusterIp;
                frontends.push(Frontend {
                    addr,
                    port: port_number,
                    protocol: port.protocol,
                    kind,
                    service: name.to_string(),
                    // A cluster IP knows only the internal policy, wherever the packet comes from; the other addresses know
                    // only the external one (kube-proxy `pkg/proxy/serviceport.go`, UsesLocalEndpoints).
                    external_local: if is_cluster_ip { cluster_local } else { external_local },
                    internal_local: is_cluster_ip && cluster_local,
                    backends: backends.clone(),
                });
            };
            for (addr, kind) in &addresses {
                push(*addr, port.port, *kind);
            }
            let has_node_port = matches!(spec.service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
            if let Some(node_port) = port.node_port.filter(|p| has_node_port && *p != 0) {
                push(IpAddr::V4(Ipv4Addr::UNSPECIFIED), node_port, FrontendKind::NodePort);
            }
        }
        (frontends, skipped)
    }

    /// The ready endpoints of one service port: the slices' port of the same name and protocol says the number.
    fn backends(&self, service: &ObjectName, port: &ServicePort) -> Vec<Backend> {
        let mut backends = BTreeMap::new();
        let slices = self.slices_of.get(service).into_iter().flatten().filter_map(|s| self.slices.get(s));
        for slice in slices.filter(|s| s.body.address_type != "FQDN") {
            let wanted = port.name.as_deref().unwrap_or("");
            let numbers = slice
                .body
                .ports
                .iter()
                .filter(|p| p.name.as_deref().unwrap_or("") == wanted && p.protocol == port.protocol);
            let numbers: Vec<u16> = numbers.filter_map(|p| p.port).collect();
            for endpoint in slice.body.endpoints.iter().filter(|e| e.conditions.ready.unwrap_or(true)) {
                // Kubernetes: consumers use the first address only.
                let Some(addr) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
                if addr.is_ipv6() {
                    continue;
                }
                let is_local =
                    endpoint.node_name.as_deref() == Some(&self.node) || self.local_addresses.contains(&addr);
                for number in &numbers {
                    // The same endpoint in two slices, as happens while one replaces the other, is one backend.
                    *backends.entry((addr, *number)).or_insert(false) |= is_local;
                }
            }
        }
        backends.into_iter().map(|((addr, port), is_local)| Backend { addr, port, is_local }).collect()
    }
}

fn identity(f: &Frontend) -> (IpAddr, Protocol, u16) {
    (f.addr, f.protocol, f.port)
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or("default");
    let name = slice.metadata.labels.get(LABEL_SERVICE_NAME)?;
    Some(ObjectName::new(namespace, name.as_str()))
}

/// The addresses of a service that are not the node's own, IPv4 only.
fn service_addresses(body: &ServiceBody, skipped: &mut Skipped) -> BTreeMap<IpAddr, FrontendKind> {
    let spec = &body.spec;
    let cluster_ips: BTreeSet<&String> =
        spec.cluster_ips.iter().chain(&spec.cluster_ip).filter(|a| !a.is_empty()).collect();
    let mut wanted: Vec<(&String, FrontendKind)> =
        cluster_ips.into_iter().map(|a| (a, FrontendKind::ClusterIp)).collect();
    wanted.extend(spec.external_ips.iter().map(|a| (a, FrontendKind::ExternalIp)));
    if spec.service_type == ServiceType::LoadBalancer {
        let ingress = body.status.iter().flat_map(|s| &s.load_balancer.ingress);
        wanted.extend(ingress.filter_map(|i| i.ip.as_ref()).map(|a| (a, FrontendKind::LoadBalancer)));
    }
    let mut addresses = BTreeMap::new();
    for (text, kind) in wanted {
        match text.parse::<IpAddr>() {
            // The unspecified address stands for "every address of the node" in a frontend; nobody may ask for it by name.
            Ok(addr) if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() => {
                skipped.invalid_addresses += 1;
            }
            Ok(addr @ IpAddr::V4(_)) => {
                addresses.entry(addr).or_insert(kind);
            }
            Ok(IpAddr::V6(_)) => skipped.ipv6_frontends += spec.ports.len(),
            Err(_) => skipped.invalid_addresses += 1,
        }
    }
    addresses
}
