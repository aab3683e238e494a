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

/// The slices of one service: one for each family, unless workloads give a named port different numbers; then one for each
/// combination. A combination keeps the slice that it has, so that no endpoint is without one between two writes.
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
    let bodies: Vec<EndpointSliceBody> = groups
        .into_iter()
        .map(|((family, numbers), endpoints)| {
            let ports = spec.ports.iter().zip(numbers).filter_map(|(port, number)| {
                let (name, protocol) = (port.name.clone(), port.protocol);
                Some(EndpointPort { name, protocol, port: Some(number?), ..EndpointPort::default() })
            });
            let (endpoints, ports) = (endpoints.into_values().collect(), ports.collect());
            EndpointSliceBody { address_type: family_name(family).into(), endpoints, ports }
        })
        .collect();
    let is_same = |a: &EndpointSliceBody, b: &EndpointSliceBody| a.address_type == b.address_type && a.ports == b.ports;
    let of_service = state.slices_of(name).map(|(_, slice)| slice).filter(|s| is_ours(s));
    let mut kept: Vec<&EndpointSlice> =
        of_service.filter(|slice| bodies.iter().any(|body| is_same(body, &slice.body))).collect();
    let taken: BTreeSet<&str> = kept.iter().map(|slice| slice.metadata.name.as_str()).collect();
    let names = (1..).map(|n| if n == 1 { format!("{}-tortie", name.1) } else { format!("{}-tortie-{n}", name.1) });
    let mut free = names.filter(|n| !taken.contains(n.as_str()));
    let mut slices = Vec::new();
    for body in bodies {
        let own = kept.iter().position(|slice| is_same(&body, &slice.body)).map(|at| kept.remove(at));
        let own = own.map(|slice| slice.metadata.name.clone()).or_else(|| free.next());
        let mut metadata = Metadata::namespaced(&name.0, own.expect("the numbers do not end"));
        metadata.labels.insert(LABEL_SERVICE_NAME.into(), name.1.clone());
        metadata.labels.insert(LABEL_MANAGED_BY.into(), MANAGED_BY_TORTIE.into());
        slices.push(EndpointSlice::new(metadata, body));
    }
    slices
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
