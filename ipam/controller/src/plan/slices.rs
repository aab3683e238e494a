//! EndpointSlices of services with a selector, from the labels of the workloads: what Kubernetes' endpoint-slice controller does,
//! for a fleet without Kubernetes. A service for which anybody else keeps a slice is left to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use api::service::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSliceBody, LABEL_MANAGED_BY, LABEL_SERVICE_NAME,
    MANAGED_BY_TORTIE, Protocol, ServicePort, ServiceType, TargetPort,
};
use api::{EndpointSlice, Metadata, Service, WorkloadEndpoint};
use serde_json::{Map, json};

use super::Action;
use crate::state::{Name, State};

/// Plans the slices of all services: the difference between those there are and those there should be.
pub fn plan(state: &State, workloads: &BTreeMap<Name, WorkloadEndpoint>, actions: &mut Vec<Action>) {
    let foreign: BTreeSet<Name> = state.slices.values().filter(|s| !is_ours(s)).filter_map(service_of).collect();
    let mut wanted: BTreeMap<Name, EndpointSlice> = BTreeMap::new();
    for (name, service) in &state.services {
        let spec = &service.body.spec;
        if spec.selector.is_empty() || spec.service_type == ServiceType::ExternalName || foreign.contains(name) {
            continue;
        }
        for slice in slices_of(name, service, workloads, &state.slices) {
            wanted.insert((name.0.clone(), slice.metadata.name.clone()), slice);
        }
    }
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
    for (name, slice) in &state.slices {
        if is_ours(slice) && !wanted.contains_key(name) {
            actions.push(Action::DeleteSlice(Box::new(slice.clone())));
        }
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(LABEL_MANAGED_BY).map(String::as_str) == Some(MANAGED_BY_TORTIE)
}

fn service_of(slice: &EndpointSlice) -> Option<Name> {
    let service = slice.metadata.labels.get(LABEL_SERVICE_NAME)?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), service.clone()))
}

/// The slices of one service: one, unless workloads give a named port different numbers; then one for each combination. A
/// combination keeps the slice that it has, so that no endpoint is without one between two writes.
fn slices_of(
    name: &Name,
    service: &Service,
    workloads: &BTreeMap<Name, WorkloadEndpoint>,
    actual: &BTreeMap<Name, EndpointSlice>,
) -> Vec<EndpointSlice> {
    let spec = &service.body.spec;
    let mut groups: BTreeMap<Vec<Option<u16>>, BTreeMap<Ipv4Addr, Endpoint>> = BTreeMap::new();
    let of_namespace = workloads.range((name.0.clone(), String::new())..).take_while(|((ns, _), _)| *ns == name.0);
    for ((namespace, _), workload) in of_namespace {
        if !spec.selector.iter().all(|(k, v)| workload.metadata.labels.get(k) == Some(v)) {
            continue;
        }
        let numbers: Vec<Option<u16>> = spec.ports.iter().map(|p| number_of(p, Some(workload))).collect();
        // A workload that has none of the ports serves nothing; a service without ports (headless) has them all.
        if !numbers.is_empty() && numbers.iter().all(Option::is_none) {
            continue;
        }
        for ip in addresses_of(workload) {
            groups.entry(numbers.clone()).or_default().insert(ip, endpoint(namespace, ip, workload));
        }
    }
    if groups.is_empty() {
        groups.insert(spec.ports.iter().map(|p| number_of(p, None)).collect(), BTreeMap::new());
    }
    let bodies: Vec<EndpointSliceBody> = groups
        .into_iter()
        .map(|(numbers, endpoints)| {
            let ports = spec.ports.iter().zip(numbers).filter_map(|(port, number)| {
                Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: Some(number?) })
            });
            let (endpoints, ports) = (endpoints.into_values().collect(), ports.collect());
            EndpointSliceBody { address_type: "IPv4".into(), endpoints, ports }
        })
        .collect();
    let of_service = actual.values().filter(|s| is_ours(s) && service_of(s).as_ref() == Some(name));
    let mut kept: Vec<&EndpointSlice> =
        of_service.filter(|slice| bodies.iter().any(|body| body.ports == slice.body.ports)).collect();
    let taken: BTreeSet<&str> = kept.iter().map(|slice| slice.metadata.name.as_str()).collect();
    let names = (1..).map(|n| if n == 1 { format!("{}-tortie", name.1) } else { format!("{}-tortie-{n}", name.1) });
    let mut free = names.filter(|n| !taken.contains(n.as_str()));
    let mut slices = Vec::new();
    for body in bodies {
        let own = kept.iter().position(|slice| slice.body.ports == body.ports).map(|at| kept.remove(at));
        let own = own.map(|slice| slice.metadata.name.clone()).or_else(|| free.next());
        let mut metadata = Metadata::namespaced(&name.0, own.expect("the numbers do not end"));
        metadata.labels.insert(LABEL_SERVICE_NAME.into(), name.1.clone());
        metadata.labels.insert(LABEL_MANAGED_BY.into(), MANAGED_BY_TORTIE.into());
        slices.push(EndpointSlice::new(metadata, body));
    }
    slices
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

fn addresses_of(workload: &WorkloadEndpoint) -> impl Iterator<Item = Ipv4Addr> + '_ {
    workload.body.spec.ip_networks.iter().filter_map(|net| {
        match net.split('/').next().unwrap_or_default().parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        }
    })
}

fn endpoint(namespace: &str, ip: Ipv4Addr, workload: &WorkloadEndpoint) -> Endpoint {
    let spec = &workload.body.spec;
    let mut extra = Map::new();
    if let Some(pod) = &spec.pod {
        extra.insert("targetRef".into(), json!({"kind": "Pod", "namespace": namespace, "name": pod}));
    }
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions { ready: Some(true), ..EndpointConditions::default() },
        node_name: Some(spec.node.clone()).filter(|n| !n.is_empty()),
        extra,
    }
}
