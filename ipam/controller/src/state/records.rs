//! What is read of the store's records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::attr;
use api::key::Key;
use api::kind::Kind;
use api::meta::{Body, Resource, WithSpec};
use api::service::LABEL_SERVICE_NAME;
use api::workload::WorkloadEndpointSpec;
use api::{EndpointSlice, Metadata, Service, WorkloadEndpoint};
use datastore::{KeyValue, typed};
use ipam::block::Block;
use serde_json::Value;

use super::{ATTRIBUTE_POOL, Name, Slot, TYPE_LOAD_BALANCER, Taken};

/// The addresses of a workload.
pub fn addresses_of(workload: &WorkloadEndpoint) -> impl Iterator<Item = IpAddr> + '_ {
    workload.body.spec.ip_networks.iter().filter_map(|net| net.split('/').next()?.parse().ok())
}

/// The service that a slice says it is of.
pub fn service_of(slice: &EndpointSlice) -> Option<Name> {
    let service = slice.metadata.labels.get(LABEL_SERVICE_NAME)?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), service.clone()))
}

/// What is planned from of a workload. Whoever writes it reads the rest again.
pub fn slim(workload: WorkloadEndpoint) -> WorkloadEndpoint {
    let (metadata, spec) = (workload.metadata, workload.body.spec);
    let metadata = Metadata {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        labels: metadata.labels,
        ..Metadata::default()
    };
    let spec = WorkloadEndpointSpec {
        node: spec.node,
        pod: spec.pod,
        ip_networks: spec.ip_networks,
        ports: spec.ports,
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(metadata, WithSpec { spec, status: None })
}

/// A workload without what changes at every write.
pub fn comparable(workload: &WorkloadEndpoint) -> WorkloadEndpoint {
    let mut same = workload.clone();
    same.metadata.resource_version = None;
    same
}

/// Under what a service with a selector is found.
pub fn first_label(name: &Name, service: &Service) -> Option<(String, String, String)> {
    let (k, v) = service.body.spec.selector.first_key_value()?;
    Some((name.0.clone(), k.clone(), v.clone()))
}

/// The node whose own a resource is.
pub fn node_of(kind: Kind, name: &str, kv: &KeyValue) -> Option<String> {
    if kind != Kind::BgpPeer {
        return name.strip_prefix("node.").filter(|n| !n.is_empty()).map(ToString::to_string);
    }
    let document: Value = serde_json::from_slice(&kv.value).ok()?;
    document["spec"]["node"].as_str().filter(|n| !n.is_empty()).map(ToString::to_string)
}

pub fn named(key: &Key) -> Option<(Kind, Name)> {
    Some((key.kind()?, (key.namespace().unwrap_or_default().to_string(), key.name()?.to_string())))
}

/// An object that cannot be read counts as absent, and is logged.
pub fn decoded<B: Body>(kv: &KeyValue) -> Option<Resource<B>> {
    typed::decode(kv).inspect_err(|error| tracing::warn!(%error, "an object of the datastore is ignored")).ok()
}

/// The addresses of services in a block.
pub fn service_addresses(block: &Block) -> BTreeMap<IpAddr, Taken> {
    let mut found = BTreeMap::new();
    for (address, attribute) in block.allocated() {
        let (Some(handle), Some(attributes)) = (&attribute.handle_id, &attribute.secondary) else { continue };
        if attributes.get(attr::TYPE).map(String::as_str) != Some(TYPE_LOAD_BALANCER) {
            continue;
        }
        let text = |key: &str| attributes.get(key).cloned().unwrap_or_default();
        let service = (text(attr::NAMESPACE), text(attr::SERVICE));
        let slot = Slot { sequence: block.sequence_of(address), pool: attributes.get(ATTRIBUTE_POOL).cloned() };
        found.insert(address, (handle.clone(), slot, service));
    }
    found
}
