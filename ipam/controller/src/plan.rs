//! What is to be done: a function of the state alone. Pure.
//!
//! Each action makes the state more like what is wanted; done, or overtaken, it is not planned again. An action carries the revision
//! that it was planned on, so a stale one fails and the next plan knows better.

mod addresses;
mod load_balancer;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::ipam::attr;
use api::service::ServiceStatus;
use api::{EndpointSlice, Service, WorkloadEndpoint};
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};

pub use load_balancer::{handle_of, wants_address};

use crate::state::{Name, State, TYPE_LOAD_BALANCER};

/// The condition in a service's status that says what it did not get. Absent while it has everything.
const CONDITION: &str = "tortie.io/Allocated";
/// Labels of this prefix are Calico's, not the pod's.
const CALICO_LABELS: &str = "projectcalico.org/";

/// From where services get what they do not name.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_ips: Ipv4Net,
    pub node_ports: RangeInclusive<u16>,
}

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// With the cluster IP, node ports and load-balancer addresses that it lacked.
    UpdateService(Box<Service>),
    CreateSlice(Box<EndpointSlice>),
    UpdateSlice(Box<EndpointSlice>),
    DeleteSlice(Box<EndpointSlice>),
    /// With the labels of its pod.
    UpdateWorkload(Box<WorkloadEndpoint>),
    AssignAddress(AssignAddress),
    /// What a service has beyond what it wants, where its handle still has it.
    ReleaseAddresses {
        handle: String,
        addresses: Vec<IpAddr>,
    },
    /// Of a service that is gone, or wants no address any more.
    ReleaseHandle {
        service: Name,
        handle: String,
    },
}

/// A load-balancer address for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignAddress {
    pub service: Name,
    pub handle: String,
    pub wish: Wish,
    /// Pools asked for by CIDR; empty: all for load balancers.
    pub pools: Vec<IpNet>,
}

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Any,
    /// The user's: this or none.
    Must(IpAddr),
    /// What the status says, else any.
    Prefer(IpAddr),
}

impl AssignAddress {
    /// What the allocation is to carry (Calico `kube-controllers/pkg/controllers/loadbalancer`).
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let (namespace, name) = &self.service;
        let pairs = [(attr::SERVICE, name.as_str()), (attr::NAMESPACE, namespace), (attr::TYPE, TYPE_LOAD_BALANCER)];
        pairs.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }
}

/// What a service did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    /// One word, as Kubernetes has it.
    reason: &'static str,
    message: String,
}

/// Everything to be done now. `now` (RFC 3339) dates conditions that change.
pub fn plan(state: &State, settings: &Settings, now: &str) -> Vec<Action> {
    let mut actions = Vec::new();
    let workloads = relabelled(state, &mut actions);
    slices::plan(state, &workloads, &mut actions);
    let allocations = state.allocations();
    let handles: BTreeMap<&Name, String> = state
        .services
        .iter()
        .filter(|(_, service)| wants_address(service))
        .filter_map(|(name, service)| Some((name, handle_of(name, service)?)))
        .collect();
    // First of all what nobody wants: who wants it may come next.
    let wanted: BTreeSet<&str> = handles.values().map(String::as_str).collect();
    for (handle, allocation) in allocations.iter().filter(|(handle, _)| !wanted.contains(**handle)) {
        let service = allocation.service.clone();
        actions.push(Action::ReleaseHandle { service, handle: (*handle).into() });
    }
    let mut held = addresses::Held::of(&state.services);
    for name in addresses::by_age(&state.services) {
        let service = &state.services[name];
        let mut wanted = service.clone();
        let mut problems = held.complete(name, &mut wanted, settings);
        if let Some(handle) = handles.get(name) {
            let allocation = allocations.get(handle.as_str());
            problems.extend(load_balancer::plan(name, &mut wanted, handle, allocation, state, &mut actions));
        } else {
            load_balancer::forget(&mut wanted);
        }
        set_condition(&mut wanted, &problems, now);
        if wanted != *service {
            actions.push(Action::UpdateService(Box::new(wanted)));
        }
    }
    actions
}

/// The workloads with the labels of their pods, and an update for each that had others. A workload whose pod is no object of the
/// store keeps what the CNI plugin gave it.
fn relabelled(state: &State, actions: &mut Vec<Action>) -> BTreeMap<Name, WorkloadEndpoint> {
    let mut workloads = state.workloads.clone();
    for ((namespace, _), workload) in &mut workloads {
        let Some(pod) = workload.body.spec.pod.clone() else { continue };
        let Some(pod) = state.pods.get(&(namespace.clone(), pod)) else { continue };
        let mut labels = pod.clone();
        let calicos = workload.metadata.labels.iter().filter(|(k, _)| k.starts_with(CALICO_LABELS));
        labels.extend(calicos.map(|(k, v)| (k.clone(), v.clone())));
        if labels != workload.metadata.labels {
            workload.metadata.labels = labels;
            actions.push(Action::UpdateWorkload(Box::new(workload.clone())));
        }
    }
    workloads
}

/// Writes what a service did not get into its status. A condition that says the same keeps its time.
fn set_condition(service: &mut Service, problems: &[Problem], now: &str) {
    if service.body.status.is_none() && problems.is_empty() {
        return;
    }
    let status = service.body.status.get_or_insert_with(ServiceStatus::default);
    let conditions = status.extra.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_ours = |c: &Value| c["type"] == CONDITION;
    let mut wanted: Vec<Value> = conditions.iter().filter(|c| !is_ours(c)).cloned().collect();
    if let Some(first) = problems.first() {
        let message = problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ");
        let same = |c: &&Value| is_ours(c) && c["reason"] == first.reason && c["message"] == message.as_str();
        wanted.push(conditions.iter().find(same).cloned().unwrap_or_else(|| {
            json!({
                "type": CONDITION, "status": "False", "reason": first.reason, "message": message,
                "lastTransitionTime": now,
            })
        }));
    }
    if wanted.is_empty() {
        status.extra.shift_remove("conditions");
    } else {
        status.extra.insert("conditions".into(), Value::Array(wanted));
    }
}

#[cfg(test)]
mod tests;
