//! EndpointSlices of services with a selector, from the labels of the workloads: what Kubernetes' endpoint-slice controller does,
//! for a fleet without Kubernetes. A service for which anybody else keeps a slice is left to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::service::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSliceBody, LABEL_MANAGED_BY, LABEL_SERVICE_NAME,
    MANAGED_BY_TORTIE, Protocol, ServicePort, ServiceSpec, ServiceType, TargetPort,
};
use api::{EndpointSlice, Metadata, Service, WorkloadEndpoint};
use ipam::pool::Family;
use serde_json::{Map, json};

use super::{Action, family_name, family_of, named_families};
use crate::state::{Name, Pod, State, addresses_of};

/// Endpoints of one slice: the default of Kubernetes' endpoint-slice controller (`--max-endpoints-per-slice`). Its API allows 1,000; with
/// fewer, less is written when one endpoint changes.
pub const MAX_ENDPOINTS: usize = 100;

/// Plans the slices of one service: the difference between those there are and those there should be.
pub fn plan(state: &State, name: &Name, actions: &mut Vec<Action>) {
    let is_foreign = state.slices_of(name).any(|(_, slice)| !is_ours(slice));
    let service = state.services.get(name).filter(|service| {
        let spec = &service.body.spec;
        !(spec.selector.is_empty() || spec.service_type == ServiceType::ExternalName || is_foreign)
    });
    let wanted: BTreeMap<Name, EndpointSlice> = service
        .into_iter()
        .flat_map(|service| slices_of(name, service, state))
        .map(|slice| ((name.0.clone(), slice.metadata.name.clone()), slice))
        .collect();
    for (name, slice) in &wanted {
        match state.slices.get(name) {
            None => actions.push(Action::CreateSlice(Box::new(slice.clone()))),
            Some(actual) if is_ours(actual) => {
                // Only the body and the service's name are ours to say.
                let mut next = actual.clone();
                next.body = slice.body.clone();
                next.metadata.labels.extend(slice.metadata.labels.clone());
                if next != *actual {
                    actions.push(Action::UpdateSlice(Box::new(next)));
                }
            }
            Some(_) => {}
        }
    }
    for (slice_name, slice) in state.slices_of(name) {
        if is_ours(slice) && !wanted.contains_key(slice_name) {
            actions.push(Action::DeleteSlice(Box::new(slice.clone())));
        }
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(LABEL_MANAGED_BY).map(String::as_str) == Some(MANAGED_BY_TORTIE)
}

/// The slices of one service: those of each family, and where workloads give a named port different numbers, those of each
/// combination.
fn slices_of(name: &Name, service: &Service, state: &State) -> Vec<EndpointSlice> {
    let spec = &service.body.spec;
    let families = families(spec);
    type Ports = (Family, Vec<Option<u16>>);
    let mut groups: BTreeMap<Ports, BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
    for (workload_name, workload) in state.selected(&name.0, &spec.selector) {
        let numbers: Vec<Option<u16>> = spec.ports.iter().map(|p| number_of(p, Some(workload))).collect();
        // A workload that has none of the ports serves nothing; a service without ports (headless) has them all.
        if !numbers.is_empty() && numbers.iter().all(Option::is_none) {
            continue;
        }
        for ip in addresses_of(workload).filter(|ip| families.contains(&family_of(*ip))) {
            let pod = state.pod_of(workload_name, workload);
            let endpoint = endpoint(ip, workload_name, workload, pod, publishes_not_ready(spec));
            groups.entry((family_of(ip), numbers.clone())).or_default().insert(ip, endpoint);
        }
    }
    for family in families {
        if !groups.keys().any(|(f, _)| *f == family) {
            let numbers = spec.ports.iter().map(|p| number_of(p, None)).collect();
            groups.insert((family, numbers), BTreeMap::new());
        }
    }
    let present: Vec<&EndpointSlice> = state.slices_of(name).map(|(_, slice)| slice).filter(|s| is_ours(s)).collect();
    let mut parts: Vec<(Option<&str>, EndpointSliceBody)> = Vec::new();
    for ((family, numbers), endpoints) in groups {
        let ports = spec.ports.iter().zip(numbers).filter_map(|(port, number)| {
            let (name, protocol) = (port.name.clone(), port.protocol);
            Some(EndpointPort { name, protocol, port: Some(number?), ..EndpointPort::default() })
        });
        let body =
            EndpointSliceBody { address_type: family_name(family).into(), endpoints: vec![], ports: ports.collect() };
        let same = present.iter().filter(|s| s.body.address_type == body.address_type && s.body.ports == body.ports);
        for part in divided(endpoints, same) {
            let endpoints = part.endpoints.into_values().collect();
            parts.push((part.name, EndpointSliceBody { endpoints, ..body.clone() }));
        }
    }
    let taken: BTreeSet<&str> = parts.iter().filter_map(|(own, _)| *own).collect();
    let names = (1..).map(|n| if n == 1 { format!("{}-tortie", name.1) } else { format!("{}-tortie-{n}", name.1) });
    let mut free = names.filter(|n| !taken.contains(n.as_str()));
    let mut slices = Vec::new();
    for (own, body) in parts {
        let own = own.map(ToString::to_string).or_else(|| free.next());
        let mut metadata = Metadata::namespaced(&name.0, own.expect("the numbers do not end"));
        metadata.labels.insert(LABEL_SERVICE_NAME.into(), name.1.clone());
        metadata.labels.insert(LABEL_MANAGED_BY.into(), MANAGED_BY_TORTIE.into());
        slices.push(EndpointSlice::new(metadata, body));
    }
    slices
}

/// The endpoints of one slice.
struct Part<'a> {
    /// Of the slice that has most of them already.
    name: Option<&'a str>,
    endpoints: BTreeMap<IpAddr, Endpoint>,
    /// It differs from what is stored.
    is_changed: bool,
}

impl Part<'_> {
    fn room(&self) -> usize {
        MAX_ENDPOINTS - self.endpoints.len()
    }
}

/// Endpoints in slices of [`MAX_ENDPOINTS`] at most; one slice, if there are none. An endpoint stays in the slice that it is in. New ones
/// go where something changes anyhow, then into what has least room, then into new slices: no more slices are written than
/// endpoints have changed.
fn divided<'a>(
    mut endpoints: BTreeMap<IpAddr, Endpoint>,
    present: impl Iterator<Item = &'a &'a EndpointSlice>,
) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for slice in present {
        let mut part = Part { name: Some(slice.metadata.name.as_str()), endpoints: BTreeMap::new(), is_changed: false };
        for stored in &slice.body.endpoints {
            let ip = stored.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok());
            match ip.filter(|_| part.room() > 0).and_then(|ip| Some((ip, endpoints.remove(&ip)?))) {
                Some((ip, endpoint)) => {
                    part.is_changed |= endpoint != *stored;
                    part.endpoints.insert(ip, endpoint);
                }
                None => part.is_changed = true,
            }
        }
        parts.push(part);
    }
    parts.sort_by_key(|part| (!part.is_changed, part.room(), part.name));
    let mut left = endpoints.into_iter().peekable();
    for part in &mut parts {
        let room = part.room();
        part.endpoints.extend(left.by_ref().take(room));
    }
    while left.peek().is_some() {
        let endpoints = left.by_ref().take(MAX_ENDPOINTS).collect();
        parts.push(Part { name: None, endpoints, is_changed: true });
    }
    // What is empty goes, but for one, whose name is the first.
    if parts.iter().any(|part| !part.endpoints.is_empty()) {
        parts.retain(|part| !part.endpoints.is_empty());
    } else {
        parts.sort_by_key(|part| part.name);
        parts.truncate(1);
    }
    if parts.is_empty() {
        parts.push(Part { name: None, endpoints: BTreeMap::new(), is_changed: true });
    }
    parts
}

/// The families of which a service has endpoints: those it names, else those of its cluster IPs, else IPv4.
fn families(spec: &ServiceSpec) -> BTreeSet<Family> {
    let named = named_families(spec);
    let of_ips = spec.cluster_ip.iter().chain(&spec.cluster_ips).filter_map(|ip| ip.parse().ok()).map(family_of);
    let mut families: BTreeSet<Family> = named.into_iter().chain(of_ips).collect();
    if families.is_empty() {
        families.insert(Family::V4);
    }
    families
}

fn publishes_not_ready(spec: &ServiceSpec) -> bool {
    spec.extra.get("publishNotReadyAddresses") == Some(&true.into())
}

/// The port on the workload: the target by number, by the name it has there, or the service's own number.
fn number_of(port: &ServicePort, workload: Option<&WorkloadEndpoint>) -> Option<u16> {
    match &port.target_port {
        None | Some(TargetPort::Number(0)) => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => {
            let mut ports = workload?.body.spec.ports.iter();
            ports.find(|p| p.name == *name && protocol_of(&p.protocol) == Some(port.protocol)).map(|p| p.port)
        }
    }
}

fn protocol_of(text: &str) -> Option<Protocol> {
    match text.to_ascii_uppercase().as_str() {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// An endpoint that terminates is not ready, and serves while its pod was ready; a service that publishes addresses which are not
/// ready calls them all ready (Kubernetes' endpoint-slice controller).
fn endpoint(
    ip: IpAddr,
    (namespace, _): &Name,
    workload: &WorkloadEndpoint,
    pod: Option<&Pod>,
    publishes_not_ready: bool,
) -> Endpoint {
    let spec = &workload.body.spec;
    let mut extra = Map::new();
    if let Some(pod) = &spec.pod {
        extra.insert("targetRef".into(), json!({"kind": "Pod", "namespace": namespace, "name": pod}));
    }
    let is_serving = !pod.is_some_and(|p| p.is_unready);
    let is_terminating = pod.is_some_and(|p| p.is_terminating);
    let conditions = if is_serving && !is_terminating {
        EndpointConditions { ready: Some(true), ..EndpointConditions::default() }
    } else {
        EndpointConditions {
            ready: Some(publishes_not_ready),
            serving: Some(is_serving),
            terminating: Some(is_terminating),
        }
    };
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions,
        node_name: Some(spec.node.clone()).filter(|n| !n.is_empty()),
        extra,
    }
}
