//! What the controller knows: the watched objects, as the store had them last, what follows from them at once, and what changed
//! since it was last planned.
//!
//! A change marks what depends on it, and nothing else: planning costs what changed. The indexes here are functions of the objects.

mod picked;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AllocationBlock, IpamHandle};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::kube_controllers_configuration::AssignIps;
use api::load_balancer_ip_pool::{Conflict, LoadBalancerIpPool, conflicts};
use api::meta::WithSpec;
use api::service::PodBody;
use api::{EndpointSlice, IpPool, IpReservation, KubeControllersConfigurationSpec, Service, WorkloadEndpoint};
use datastore::KeyValue;
use datastore::watcher::Update;
use ipam::block::Block;
use ipam::gc::{self, Collector};
use ipam::lock;
use ipam::pool::{Family, Reservations};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde_json::Value;

use crate::plan::addresses::Held;
use crate::plan::{self, Action};

pub use picked::Picked;
pub use records::{addresses_of, service_of};
use records::{comparable, decoded, first_label, named, node_of, service_addresses, slim};

/// The `type` attribute of a service's addresses (Calico `ipam.AttributeTypeLoadBalancer`).
pub const TYPE_LOAD_BALANCER: &str = gc::TYPE_LOAD_BALANCER;
/// The attribute that names the LoadBalancerIPPool of an address.
pub const ATTRIBUTE_POOL: &str = "tortie.io/pool";
/// The one object of its kind that counts.
const DEFAULT: &str = "default";
/// Labels of this prefix are Calico's, not the pod's.
const CALICO_LABELS: &str = "projectcalico.org/";

/// Namespace and name.
pub type Name = (String, String);

/// Addresses of one service, as the blocks have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub service: Name,
    pub addresses: BTreeMap<IpAddr, Slot>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Of the allocation, by which a later one of the same address is told apart.
    pub sequence: Option<u64>,
    /// The LoadBalancerIPPool that it came from, if it came from one.
    pub pool: Option<String>,
}

/// An address of a service in a block: its handle, and the service.
type Taken = (String, Slot, Name);

/// What a pod says that matters here; the rest of it is large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub labels: BTreeMap<String, String>,
    /// Its condition `Ready` is `False`. A pod without that condition, as one applied by hand, is ready.
    pub is_unready: bool,
    pub is_terminating: bool,
}

/// The watched objects.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub services: BTreeMap<Name, Service>,
    pub slices: BTreeMap<Name, EndpointSlice>,
    /// With the labels of their pods, and no more than is planned from: there are many.
    pub workloads: BTreeMap<Name, Box<WorkloadEndpoint>>,
    pub pods: BTreeMap<Name, Pod>,
    pub pools: BTreeMap<String, IpPool>,
    pub lb_pools: BTreeMap<String, LoadBalancerIpPool>,
    /// Pools of both kinds that are there and cannot be read: each is kept as it was read last, if it was, and gives out nothing.
    unreadable: BTreeSet<Key>,
    /// Addresses that are not given unasked.
    pub reservations: Reservations,
    ip_reservations: BTreeMap<String, IpReservation>,
    /// LoadBalancerIPPools that meet another pool.
    pub conflicts: BTreeMap<String, Conflict>,
    /// Addresses in use, by LoadBalancerIPPool.
    pub lb_used: BTreeMap<String, u128>,
    /// Addresses that a plan gives away, until the blocks show it.
    pub picked: Picked,
    /// By handle.
    pub allocations: BTreeMap<String, Allocation>,
    /// Who holds which cluster IP and node port.
    pub held: Held,
    pub collector: Collector,
    /// Keys and revisions of what is one node's own, by the node.
    pub node_scoped: BTreeMap<String, BTreeMap<Key, u64>>,
    /// Nodes that have ended, until nothing of theirs is left: what was their own then, at its revision. What is written for a node
    /// afterwards is for one to come.
    pub ended_nodes: BTreeMap<String, BTreeMap<Key, u64>>,
    /// Services that lack an address which another may give back.
    pub starved: BTreeSet<Name>,
    /// Why a service could not get its address when it was last tried.
    pub failures: BTreeMap<Name, String>,
    /// A Service was seen, or Kubernetes keeps them. Before, the Services may be elsewhere (Calico on etcd leaves them in Kubernetes),
    /// and what they have is kept.
    has_services: bool,
    /// Handles that had addresses before the first Service was seen.
    inherited: BTreeSet<String>,
    pub config: Config,
    /// The grace period is of a configuration that was read.
    is_grace_read: bool,
    pub is_in_sync: bool,
    pub dirty: Dirty,
    /// LoadBalancerIPPools that have no address left of a family, as the present plan has found.
    pub exhausted: BTreeSet<(String, Family)>,
    /// The labels that workloads are stored with, where those of their pods differ.
    stored_labels: BTreeMap<Name, BTreeMap<String, String>>,
    /// By block: its addresses of services.
    blocks: BTreeMap<IpNet, BTreeMap<IpAddr, Taken>>,
    /// Handles by their addresses, of services.
    holders: BTreeMap<IpAddr, String>,
    /// Services by the key under which they share addresses; of these, those that have an address in their status.
    sharing: BTreeMap<String, BTreeSet<Name>>,
    claims: BTreeMap<IpAddr, BTreeSet<Name>>,
    slices_of: BTreeMap<Name, BTreeSet<Name>>,
    workloads_of_pod: BTreeMap<Name, Vec<Name>>,
    workloads_of_node: BTreeMap<String, BTreeSet<Name>>,
    /// Workloads by namespace and label, services with a selector by namespace and the first label they ask for.
    labelled: BTreeMap<(String, String, String), BTreeSet<Name>>,
    selecting: BTreeMap<(String, String, String), BTreeSet<Name>>,
}

/// What the stored configuration says to the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The datastore is being migrated (ClusterInformation's `datastoreReady: false`): nothing is written.
    pub is_locked: bool,
    /// Only services that ask for an address get one (Calico `assignIPs: RequestedServicesOnly`).
    pub only_requested: bool,
}

/// What changed since it was last planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    pub services: BTreeSet<Name>,
    /// Services whose slices are to be looked at.
    pub endpoints: BTreeSet<Name>,
    pub workloads: BTreeSet<Name>,
    pub handles: BTreeSet<String>,
    pub nodes: BTreeSet<String>,
    /// LoadBalancerIPPools whose status is to be looked at.
    pub pools: BTreeSet<String>,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be watched.
pub fn ranges() -> Vec<KeyRange> {
    let kinds = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::WorkloadEndpoint,
        Kind::Pod,
        Kind::IpPool,
        Kind::IpReservation,
        Kind::Node,
        Kind::BgpPeer,
        Kind::BgpConfiguration,
        Kind::FelixConfiguration,
        Kind::ClusterInformation,
        Kind::LoadBalancerIpPool,
        Kind::KubeControllersConfiguration,
    ];
    let ipam = [KeyRange::Blocks, KeyRange::HostAffinities, KeyRange::VirtualAffinities, KeyRange::Handles];
    kinds.into_iter().map(KeyRange::Kind).chain(ipam).collect()
}

impl State {
    pub fn new(collection: gc::Settings) -> Self {
        Self { collector: Collector::new(collection), has_services: collection.has_kubernetes, ..Self::default() }
    }

    /// Takes an update over.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::InSync => {
                if !self.is_in_sync {
                    self.end_nodes_before();
                }
                self.is_in_sync = true;
                self.collector.hold_services(!self.has_services);
                let handles = self.held_handles();
                if handles > 0 {
                    tracing::warn!(
                        handles,
                        "there is no Service in the datastore: what services have is kept until there is one"
                    );
                }
                self.mark_all();
            }
            Update::Put(kv) => self.put(&kv),
            Update::Delete(key) => self.delete(&key),
        }
        // With its last trace a node that ended is forgotten: its name may be that of one to come.
        if self.is_in_sync && !self.ended_nodes.is_empty() {
            let (collector, workloads) = (&self.collector, &self.workloads_of_node);
            self.ended_nodes
                .retain(|node, own| !own.is_empty() || workloads.contains_key(node) || collector.has_traces_of(node));
        }
    }

    /// Nodes of which there are traces and that are not there ended before we looked. Of one without any trace what names it may have
    /// been written before it.
    fn end_nodes_before(&mut self) {
        let named = self.node_scoped.keys().chain(self.workloads_of_node.keys());
        let gone = named.filter(|node| !self.collector.has_node(node) && self.collector.has_traces_of(node));
        for node in gone.cloned().collect::<BTreeSet<_>>() {
            self.end_node(node);
        }
    }

    fn end_node(&mut self, node: String) {
        let own = self.node_scoped.get(&node).cloned().unwrap_or_default();
        self.dirty.nodes.insert(node.clone());
        self.ended_nodes.insert(node, own);
    }

    /// Everything is to be planned.
    pub fn mark_all(&mut self) {
        self.dirty.services = self.services.keys().cloned().collect();
        self.dirty.endpoints = self.services.keys().chain(self.slices_of.keys()).cloned().collect();
        self.dirty.workloads = self.workloads.keys().cloned().collect();
        self.dirty.handles = self.allocations.keys().cloned().collect();
        self.dirty.nodes = self.node_scoped.keys().chain(self.workloads_of_node.keys()).cloned().collect();
        self.dirty.nodes.extend(self.ended_nodes.keys().cloned());
        self.dirty.pools = self.lb_pools.keys().cloned().collect();
        self.picked.clear();
    }

    /// What is to be planned again.
    pub fn mark(&mut self, again: Dirty) {
        let Dirty { services, endpoints, workloads, handles, nodes, pools } = again;
        self.dirty.pools.extend(pools);
        self.dirty.services.extend(services);
        self.dirty.endpoints.extend(endpoints);
        self.dirty.workloads.extend(workloads);
        self.dirty.handles.extend(handles);
        self.dirty.nodes.extend(nodes);
    }

    /// An action was not done: what the plan gave away with it is free again.
    pub fn forget_plan(&mut self, action: &Action) {
        let planned = match action {
            Action::UpdateService(planned) => planned,
            Action::AssignAddress(assign) => {
                self.picked.forget(&assign.handle);
                return;
            }
            _ => return,
        };
        let name = (planned.metadata.namespace.clone().unwrap_or_default(), planned.metadata.name.clone());
        let others = match self.services.get(&name) {
            Some(present) => self.held.insert(&name, present),
            None => self.held.remove(&name),
        };
        self.dirty.services.extend(others);
    }

    /// Reserved CIDRs, neighbours joined.
    pub fn reserved(&self) -> Vec<IpNet> {
        let texts = self.ip_reservations.values().flat_map(|r| &r.body.spec.reserved_cidrs);
        let nets = texts.filter_map(|t| t.parse().ok().or_else(|| t.parse::<IpAddr>().ok().map(IpNet::from)));
        IpNet::aggregate(&nets.collect())
    }

    /// Whether a pool is there and cannot be read.
    pub fn is_unreadable(&self, kind: Kind, pool: &str) -> bool {
        self.unreadable.contains(&Key::resource(kind, None, pool))
    }

    /// The pools of a kind of which nothing is known but that they are there.
    pub fn unknown_pools(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let names = self.unreadable.iter().filter(move |key| key.kind() == Some(kind)).filter_map(Key::name);
        names.filter(move |name| match kind {
            Kind::IpPool => !self.pools.contains_key(*name),
            _ => !self.lb_pools.contains_key(*name),
        })
    }

    /// Whether the addresses of a handle are kept though the store has no service that they are of. Once there are Services, what is
    /// of none is left to collection, which waits: they may come one by one.
    pub fn is_held(&self, handle: &str) -> bool {
        !self.has_services || self.inherited.contains(handle)
    }

    /// How many handles are kept so.
    pub fn held_handles(&self) -> usize {
        if self.has_services { self.inherited.len() } else { self.allocations.len() }
    }

    /// The handle that has an address of a service.
    pub fn holder_of(&self, ip: IpAddr) -> Option<&str> {
        self.holders.get(&ip).map(String::as_str)
    }

    /// Whether a service that shares addresses has this one in its status.
    pub fn is_claimed(&self, ip: IpAddr) -> bool {
        self.claims.contains_key(&ip)
    }

    /// The other services that have the sharing key of this one.
    pub fn sharing_with(&self, name: &Name) -> Vec<Name> {
        let key = self.services.get(name).and_then(plan::sharing_key);
        key.and_then(|key| self.sharing.get(key)).into_iter().flatten().cloned().collect()
    }

    /// The services whose addresses are planned together with this one's, oldest first.
    pub fn group_of(&self, name: &Name) -> Vec<Name> {
        let mut members = self.sharing_with(name);
        if members.is_empty() {
            return vec![name.clone()];
        }
        members.sort_by_key(|member| self.services.get(member).map(|s| plan::addresses::age(member, s)));
        members
    }

    /// The slices that say they are of a service.
    pub fn slices_of(&self, service: &Name) -> impl Iterator<Item = (&Name, &EndpointSlice)> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get_key_value(name))
    }

    /// The workloads that a selector of this namespace selects.
    pub fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a Name, &'a WorkloadEndpoint)> {
        let first = selector.first_key_value().map(|(k, v)| (namespace.to_string(), k.clone(), v.clone()));
        let candidates = first.and_then(|label| self.labelled.get(&label)).into_iter().flatten();
        candidates
            .filter_map(|name| self.workloads.get_key_value(name).map(|(name, w)| (name, w.as_ref())))
            .filter(|(_, w)| selector.iter().all(|(k, v)| w.metadata.labels.get(k) == Some(v)))
    }

    /// The pod of a workload.
    pub fn pod_of(&self, name: &Name, workload: &WorkloadEndpoint) -> Option<&Pod> {
        self.pods.get(&(name.0.clone(), workload.body.spec.pod.clone()?))
    }

    /// Whether the store has other labels for a workload than its pod.
    pub fn is_relabelled(&self, name: &Name) -> bool {
        self.stored_labels.contains_key(name)
    }

    pub fn workloads_of_node(&self, node: &str) -> impl Iterator<Item = &Name> {
        self.workloads_of_node.get(node).into_iter().flatten()
    }

    /// Puts a service as it was just written, without waiting for the watch.
    pub fn put_service(&mut self, name: Name, service: Service) {
        if self.services.get(&name) == Some(&service) {
            return;
        }
        if !self.has_services {
            self.has_services = true;
            self.collector.hold_services(false);
            if self.is_in_sync {
                self.inherited = self.allocations.keys().cloned().collect();
            }
        }
        // Also those of a former uid.
        let handles: Vec<String> = self.collector.handles_of_service(&name).map(ToString::to_string).collect();
        for handle in &handles {
            self.inherited.remove(handle);
        }
        self.dirty.handles.extend(handles);
        self.remove_service(&name);
        if let Some(label) = first_label(&name, &service) {
            self.selecting.entry(label).or_default().insert(name.clone());
        }
        if let Some(key) = plan::sharing_key(&service).filter(|_| plan::wants_address(&service)) {
            self.sharing.entry(key.to_string()).or_default().insert(name.clone());
            for ip in plan::ingress_of(&service) {
                self.claims.entry(ip).or_default().insert(name.clone());
            }
        }
        self.collector.put_service(&name);
        let others = self.held.insert(&name, &service);
        self.dirty.services.extend(others);
        self.services.insert(name.clone(), service);
        self.dirty.services.insert(name.clone());
        self.dirty.endpoints.insert(name);
    }

    fn remove_service(&mut self, name: &Name) {
        let Some(before) = self.services.remove(name) else { return };
        if let Some(label) = first_label(name, &before) {
            unlink(&mut self.selecting, &label, name);
        }
        if let Some(key) = plan::sharing_key(&before) {
            unlink(&mut self.sharing, &key.to_string(), name);
            self.dirty.services.extend(self.sharing.get(key).into_iter().flatten().cloned());
            for ip in plan::ingress_of(&before) {
                unlink(&mut self.claims, &ip, name);
                self.dirty.handles.extend(self.holders.get(&ip).cloned());
            }
        }
        let others = self.held.remove(name);
        self.dirty.services.extend(others);
        self.dirty.endpoints.insert(name.clone());
        self.dirty.handles.extend(plan::handle_of(name, &before));
    }

    fn put(&mut self, kv: &KeyValue) {
        match &kv.key {
            Key::IpamBlock(cidr) => return self.put_block(*cidr, kv),
            Key::BlockAffinity(owner, cidr) => return self.collector.put_affinity(owner, *cidr, kv.mod_revision),
            Key::IpamHandle(id) => {
                let blocks = serde_json::from_slice::<IpamHandle>(&kv.value).map(|h| ipam::handle::blocks(&h));
                return self.collector.put_record(id, blocks.ok(), kv.mod_revision);
            }
            _ => {}
        }
        let Some((kind, name)) = named(&kv.key) else { return };
        match kind {
            Kind::Service => match decoded(kv) {
                Some(service) => self.put_service(name, service),
                None => self.delete(&kv.key),
            },
            Kind::EndpointSlice => {
                self.delete(&kv.key);
                if let Some(slice) = decoded::<api::service::EndpointSliceBody>(kv) {
                    if let Some(service) = service_of(&slice) {
                        self.slices_of.entry(service.clone()).or_default().insert(name.clone());
                        self.dirty.endpoints.insert(service);
                    }
                    self.slices.insert(name, slice);
                }
            }
            Kind::WorkloadEndpoint => match decoded(kv) {
                Some(workload) => self.put_workload(name, workload),
                // It serves nothing, and keeps what it may have.
                None => {
                    self.collector.put_unreadable_workload(&name);
                    self.remove_workload(&name);
                }
            },
            Kind::Pod => self.put_pod(name, kv),
            Kind::IpPool => {
                let before = self.pools.get(&name.1).map(|p| p.body.spec.clone());
                // One that cannot be read counts as it was read last.
                let is_other = match decoded(kv) {
                    Some(pool) => {
                        self.pools.insert(name.1.clone(), pool);
                        self.unreadable.remove(&kv.key)
                    }
                    None => self.unreadable.insert(kv.key.clone()),
                };
                if is_other || before != self.pools.get(&name.1).map(|p| p.body.spec.clone()) {
                    self.reread_pools();
                }
            }
            Kind::LoadBalancerIpPool => self.put_pool(name.1, kv),
            Kind::IpReservation => self.set_reservation(name.1, decoded(kv)),
            Kind::KubeControllersConfiguration if name.1 == DEFAULT => {
                match decoded::<WithSpec<KubeControllersConfigurationSpec>>(kv) {
                    Some(configuration) => self.configure(Some(configuration.body.spec)),
                    None => self.set_grace(None),
                }
            }
            Kind::Node => {
                self.collector.put_node(&name.1);
                self.ended_nodes.remove(&name.1);
            }
            Kind::BgpPeer | Kind::BgpConfiguration | Kind::FelixConfiguration => {
                let node = node_of(kind, &name.1, kv);
                let known = node.as_ref().and_then(|node| self.node_scoped.get(node)?.get(&kv.key));
                if known == Some(&kv.mod_revision) {
                    return;
                }
                self.forget_node_scoped(&kv.key);
                if let Some(node) = node {
                    self.node_scoped.entry(node).or_default().insert(kv.key.clone(), kv.mod_revision);
                }
            }
            Kind::ClusterInformation if kv.key == lock::key() => self.config.is_locked = lock::is_locked(&kv.value),
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::IpamBlock(cidr) => {
                self.collector.delete_block(*cidr);
                return self.set_block(*cidr, BTreeMap::new());
            }
            Key::BlockAffinity(owner, cidr) => return self.collector.delete_affinity(owner, *cidr),
            Key::IpamHandle(id) => return self.collector.delete_record(id),
            _ => {}
        }
        let Some((kind, name)) = named(key) else { return };
        match kind {
            Kind::Service => {
                self.failures.remove(&name);
                self.starved.remove(&name);
                self.collector.delete_service(&name);
                self.remove_service(&name);
            }
            Kind::EndpointSlice => {
                if let Some(service) = self.slices.remove(&name).as_ref().and_then(service_of) {
                    unlink(&mut self.slices_of, &service, &name);
                    self.dirty.endpoints.insert(service);
                }
            }
            Kind::WorkloadEndpoint => {
                self.collector.delete_workload(&name);
                self.remove_workload(&name);
            }
            Kind::Pod => {
                self.collector.delete_pod(&name);
                self.pods.remove(&name);
                self.reread_workloads_of(&name);
            }
            Kind::IpPool => {
                self.pools.remove(&name.1);
                self.unreadable.remove(key);
                self.reread_pools();
            }
            Kind::LoadBalancerIpPool => {
                self.lb_pools.remove(&name.1);
                self.lb_used.remove(&name.1);
                self.unreadable.remove(key);
                self.reread_pools();
            }
            Kind::IpReservation => self.set_reservation(name.1, None),
            Kind::KubeControllersConfiguration if name.1 == DEFAULT => self.configure(None),
            Kind::Node => {
                self.collector.delete_node(&name.1);
                self.end_node(name.1);
            }
            Kind::BgpPeer | Kind::BgpConfiguration | Kind::FelixConfiguration => self.forget_node_scoped(key),
            Kind::ClusterInformation if *key == lock::key() => self.config.is_locked = false,
            _ => {}
        }
    }

    fn put_workload(&mut self, name: Name, workload: WorkloadEndpoint) {
        let mut workload = Box::new(slim(workload));
        if self.ended_nodes.contains_key(&workload.body.spec.node) {
            self.dirty.nodes.insert(workload.body.spec.node.clone());
        }
        self.collector.put_workload(&name, addresses_of(&workload).collect());
        let before = self.workloads.get(&name).map(|w| comparable(w));
        if before.is_some() && before == Some(comparable(&workload)) && !self.is_relabelled(&name) {
            // The revision alone: what was planned on the one before must be planned on this.
            self.workloads.insert(name, workload);
            return;
        }
        self.remove_workload(&name);
        let stored = workload.metadata.labels.clone();
        if let Some(pod) = self.pod_of(&name, &workload) {
            let calicos = stored.iter().filter(|(k, _)| k.starts_with(CALICO_LABELS));
            let mut labels = pod.labels.clone();
            labels.extend(calicos.map(|(k, v)| (k.clone(), v.clone())));
            workload.metadata.labels = labels;
        }
        if workload.metadata.labels != stored {
            self.stored_labels.insert(name.clone(), stored);
            self.dirty.workloads.insert(name.clone());
        }
        if let Some(pod) = workload.body.spec.pod.clone() {
            self.workloads_of_pod.entry((name.0.clone(), pod)).or_default().push(name.clone());
        }
        self.workloads_of_node.entry(workload.body.spec.node.clone()).or_default().insert(name.clone());
        for (k, v) in &workload.metadata.labels {
            self.labelled.entry((name.0.clone(), k.clone(), v.clone())).or_default().insert(name.clone());
        }
        self.mark_selecting(&name.0, &workload);
        self.workloads.insert(name, workload);
    }

    fn remove_workload(&mut self, name: &Name) {
        self.stored_labels.remove(name);
        let Some(workload) = self.workloads.remove(name) else { return };
        if let Some(pod) = workload.body.spec.pod.clone() {
            let pod = (name.0.clone(), pod);
            if let Some(of_pod) = self.workloads_of_pod.get_mut(&pod) {
                of_pod.retain(|known| known != name);
                if of_pod.is_empty() {
                    self.workloads_of_pod.remove(&pod);
                }
            }
        }
        unlink(&mut self.workloads_of_node, &workload.body.spec.node, name);
        for (k, v) in &workload.metadata.labels {
            unlink(&mut self.labelled, &(name.0.clone(), k.clone(), v.clone()), name);
        }
        self.mark_selecting(&name.0, &workload);
    }

    fn put_pod(&mut self, name: Name, kv: &KeyValue) {
        let Some(pod) = decoded::<PodBody>(kv) else {
            self.delete(&kv.key);
            // One that cannot be read runs, and may have any address that it was given.
            return self.collector.put_pod(&name, gc::PodView::default());
        };
        let status = pod.body.extra.get("status").unwrap_or(&Value::Null);
        self.collector.put_pod(&name, gc::PodView::of_status(status));
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let pod = Pod {
            labels: pod.metadata.labels,
            is_unready: conditions.any(|c| c["type"] == "Ready" && c["status"] == "False"),
            is_terminating: pod.metadata.extra.contains_key("deletionTimestamp"),
        };
        if self.pods.get(&name) != Some(&pod) {
            self.pods.insert(name.clone(), pod);
            self.reread_workloads_of(&name);
        }
    }

    /// The workloads of a pod take its labels.
    fn reread_workloads_of(&mut self, pod: &Name) {
        for name in self.workloads_of_pod.get(pod).cloned().unwrap_or_default() {
            let stored = self.stored_labels.remove(&name);
            let Some(mut workload) = self.workloads.get(&name).cloned() else { continue };
            self.remove_workload(&name);
            if let Some(stored) = stored {
                workload.metadata.labels = stored;
            }
            self.put_workload(name, *workload);
        }
    }

    /// Marks the services that select a workload.
    fn mark_selecting(&mut self, namespace: &str, workload: &WorkloadEndpoint) {
        let labels = &workload.metadata.labels;
        for (k, v) in labels {
            let label = (namespace.to_string(), k.clone(), v.clone());
            for name in self.selecting.get(&label).into_iter().flatten() {
                let selector = self.services.get(name).map(|s| &s.body.spec.selector);
                if selector.is_some_and(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v))) {
                    self.dirty.endpoints.insert(name.clone());
                }
            }
        }
    }

    fn put_pool(&mut self, name: String, kv: &KeyValue) {
        let Some(pool) = decoded::<WithSpec<api::LoadBalancerIpPoolSpec>>(kv) else {
            if self.unreadable.insert(kv.key.clone()) {
                self.reread_pools();
            }
            return;
        };
        let is_same = |p: &LoadBalancerIpPool| {
            p.body.spec == pool.body.spec && p.metadata.creation_timestamp == pool.metadata.creation_timestamp
        };
        let was_unreadable = self.unreadable.remove(&kv.key);
        let is_known = self.lb_pools.get(&name).is_some_and(is_same);
        self.dirty.pools.insert(name.clone());
        if !is_known {
            let used = self.holders.keys().filter(|ip| pool.body.spec.contains(**ip)).count();
            self.lb_used.insert(name.clone(), used as u128);
        }
        self.lb_pools.insert(name, pool);
        if !is_known || was_unreadable {
            self.reread_pools();
        }
    }

    /// After a change of pools: which of them conflict, and who is concerned.
    fn reread_pools(&mut self) {
        let ip_pools = self.pools.iter().map(|(name, p)| (p.body.spec.cidr.into(), format!("IPPool({name})")));
        let found = conflicts(self.lb_pools.values(), ip_pools);
        self.conflicts = found.into_iter().map(|(name, conflict)| (name.to_string(), conflict)).collect();
        self.dirty.pools.extend(self.lb_pools.keys().cloned());
        self.mark_load_balancers();
    }

    fn set_reservation(&mut self, name: String, reservation: Option<IpReservation>) {
        match reservation {
            Some(reservation) => drop(self.ip_reservations.insert(name, reservation)),
            None => drop(self.ip_reservations.remove(&name)),
        }
        let all: Vec<IpReservation> = self.ip_reservations.values().cloned().collect();
        self.reservations = Reservations::new(&all);
        // Who found no address may find one that is reserved no more.
        self.dirty.services.extend(self.failures.keys().chain(&self.starved).cloned());
    }

    fn configure(&mut self, spec: Option<KubeControllersConfigurationSpec>) {
        let is_present = spec.is_some();
        let controllers = spec.map(|s| s.controllers).unwrap_or_default();
        match controllers.node.and_then(|n| n.leak_grace_period) {
            None => self.set_grace(Some(gc::DEFAULT_GRACE)),
            Some(text) => {
                let read = api::duration::parse(&text).and_then(|d| SignedDuration::try_from(d).ok());
                if read.is_none() {
                    tracing::warn!(leakGracePeriod = text, "a duration is ignored");
                }
                self.set_grace(read);
            }
        }
        self.is_grace_read &= is_present;
        let assign = controllers.load_balancer.and_then(|l| l.assign_ips).unwrap_or_default();
        self.config.only_requested = assign == AssignIps::RequestedServicesOnly;
        self.mark_load_balancers();
    }

    /// Takes a grace period that was read. One that cannot be read (None) changes none that was; where none was, nothing is collected by
    /// time.
    fn set_grace(&mut self, read: Option<SignedDuration>) {
        if read.is_none() && self.is_grace_read {
            return;
        }
        self.is_grace_read = read.is_some();
        let grace = read.unwrap_or(SignedDuration::ZERO);
        self.collector.set_settings(gc::Settings { grace, ..self.collector.settings() });
    }

    /// Marks the services whose addresses pools decide.
    fn mark_load_balancers(&mut self) {
        let wanting = self.services.iter().filter(|(_, s)| plan::wants_address(s));
        self.dirty.services.extend(wanting.map(|(name, _)| name.clone()));
    }

    fn put_block(&mut self, cidr: IpNet, kv: &KeyValue) {
        let read = serde_json::from_slice::<AllocationBlock>(&kv.value).map_err(|e| e.to_string());
        match read.and_then(|stored| Block::from_stored(stored).map_err(|e| e.to_string())) {
            Ok(block) => {
                self.collector.put_block(&block);
                self.set_block(cidr, service_addresses(&block));
            }
            Err(error) => {
                tracing::warn!(key = %kv.key, error, "a block is ignored");
                self.collector.put_unreadable_block(cidr);
                self.set_block(cidr, BTreeMap::new());
            }
        }
    }

    fn set_block(&mut self, cidr: IpNet, found: BTreeMap<IpAddr, Taken>) {
        let mut before = self.blocks.remove(&cidr).unwrap_or_default();
        for (ip, (handle, slot, service)) in &found {
            self.picked.remove(*ip);
            if before.get(ip).is_some_and(|(h, s, _)| h == handle && s == slot) {
                before.remove(ip);
                continue;
            }
            if let Some((other, ..)) = before.remove(ip) {
                self.remove_address(&other, *ip);
            }
            let allocation = self.allocations.entry(handle.clone()).or_default();
            allocation.service = service.clone();
            allocation.addresses.insert(*ip, slot.clone());
            if self.holders.insert(*ip, handle.clone()).is_none() {
                self.count(*ip, true);
            }
            self.mark_handle(handle.clone(), service.clone());
        }
        for (ip, (handle, ..)) in before {
            self.remove_address(&handle, ip);
        }
        if !found.is_empty() {
            self.blocks.insert(cidr, found);
        }
    }

    fn remove_address(&mut self, handle: &str, ip: IpAddr) {
        if self.holders.get(&ip).is_some_and(|h| h == handle) {
            self.holders.remove(&ip);
            self.count(ip, false);
        }
        let Some(allocation) = self.allocations.get_mut(handle) else { return };
        allocation.addresses.remove(&ip);
        let service = allocation.service.clone();
        if allocation.addresses.is_empty() {
            self.allocations.remove(handle);
            self.inherited.remove(handle);
        }
        self.mark_handle(handle.to_string(), service);
        // Who found no address may find this one.
        self.dirty.services.extend(self.failures.keys().chain(&self.starved).cloned());
    }

    /// Keeps the number of addresses in use of the pools that have this one.
    fn count(&mut self, ip: IpAddr, is_used: bool) {
        for (name, _) in self.lb_pools.iter().filter(|(_, p)| p.body.spec.contains(ip)) {
            let used = self.lb_used.entry(name.clone()).or_default();
            *used = if is_used { *used + 1 } else { used.saturating_sub(1) };
            self.dirty.pools.insert(name.clone());
        }
    }

    fn mark_handle(&mut self, handle: String, service: Name) {
        self.dirty.handles.insert(handle);
        if self.services.contains_key(&service) {
            self.dirty.services.insert(service);
        }
    }

    fn forget_node_scoped(&mut self, key: &Key) {
        self.node_scoped.retain(|_, keys| {
            keys.remove(key);
            !keys.is_empty()
        });
        self.ended_nodes.values_mut().for_each(|own| {
            own.remove(key);
        });
    }
}

fn unlink<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Name>>, key: &K, name: &Name) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}
