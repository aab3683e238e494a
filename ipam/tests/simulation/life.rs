//! Who has addresses: pods, containers, tunnels, services, and addresses that somebody took by hand. What of them the store knows beside
//! their addresses (endpoints, Pods, Services), from when it comes to when it goes, in order or not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::attr;
use api::key::Key;
use api::workload::{WorkloadEndpointSpec, cni_endpoint_name, k8s_endpoint_name};
use api::{Kind, Metadata};
use datastore::Op;
use ipam::gc::TYPE_LOAD_BALANCER;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::choices::Choices;

/// The namespace of everything.
pub const NAMESPACE: &str = "default";

/// What kind of thing a handle is of, which its text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Pod,
    /// One without Kubernetes.
    Container,
    ByHand,
    Tunnel,
    Service,
    /// Nothing is known of it: episodes without collection.
    Plain,
}

const PREFIXES: [(&str, Holder); 5] = [
    ("k8s-pod-network.pod", Holder::Pod),
    ("net.container", Holder::Container),
    ("hand-", Holder::ByHand),
    ("tunnel-", Holder::Tunnel),
    ("lb-", Holder::Service),
];

impl Holder {
    pub fn of(handle: &str) -> Self {
        PREFIXES.iter().find(|(prefix, _)| handle.starts_with(prefix)).map_or(Self::Plain, |(_, holder)| *holder)
    }

    /// The handle of the n-th that there is.
    pub fn handle(self, n: usize) -> String {
        match PREFIXES.iter().find(|(_, holder)| *holder == self) {
            Some((prefix, _)) => format!("{prefix}{n:06}"),
            None => format!("net.{n}"),
        }
    }

    /// Whether the collection takes what it has when it is over.
    pub fn is_collected(self) -> bool {
        matches!(self, Self::Pod | Self::Container | Self::Service)
    }
}

/// What is stored with the addresses of a handle.
pub fn attributes(handle: &str, node: &str) -> BTreeMap<String, String> {
    let pairs: &[(&str, &str)] = match Holder::of(handle) {
        Holder::Pod => &[(attr::NAMESPACE, NAMESPACE), (attr::POD, handle), (attr::NODE, node)],
        Holder::Service => &[(attr::TYPE, TYPE_LOAD_BALANCER), (attr::NAMESPACE, NAMESPACE), (attr::SERVICE, handle)],
        Holder::Tunnel => &[(attr::TYPE, "vxlanTunnelAddress"), (attr::NODE, node)],
        Holder::Container => &[(attr::NODE, node)],
        Holder::ByHand | Holder::Plain => &[],
    };
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may get its addresses and is to run then.
    Young,
    /// The store has its endpoint.
    Running,
    Over,
}

#[derive(Clone, Debug)]
struct One {
    node: String,
    born: Timestamp,
    stage: Stage,
}

/// All of them.
pub struct Life {
    /// How long what is leaked is kept.
    pub grace: SignedDuration,
    /// Whether Pod objects are the truth about pods.
    pub has_kubernetes: bool,
    ones: BTreeMap<String, One>,
}

impl Life {
    pub fn choose(choices: &mut Choices) -> Self {
        let grace = *choices.pick(&[SignedDuration::from_mins(15), SignedDuration::from_mins(6)]);
        Self { grace, has_kubernetes: choices.below(3) == 2, ones: BTreeMap::new() }
    }

    /// A name for something new.
    pub fn name(&self, choices: &mut Choices, n: usize) -> String {
        let holder = *choices.pick(&[
            Holder::Pod,
            Holder::Pod,
            Holder::Pod,
            Holder::Pod,
            Holder::Container,
            Holder::ByHand,
            Holder::Tunnel,
        ]);
        // With Kubernetes everything that runs is a pod.
        if holder == Holder::Container && self.has_kubernetes { Holder::Pod } else { holder }.handle(n)
    }

    pub fn node_of(&self, handle: &str) -> Option<&str> {
        self.ones.get(handle).map(|one| one.node.as_str())
    }

    /// Whether it can still be given addresses.
    pub fn is_wanting(&self, handle: &str, now: Timestamp) -> bool {
        self.ones.get(handle).is_none_or(|one| one.stage == Stage::Running || self.is_in_time(one, now))
    }

    /// Who makes one gives up long before the collection would take what it has.
    fn is_in_time(&self, one: &One, now: Timestamp) -> bool {
        one.stage == Stage::Young && now.duration_since(one.born) < self.grace / 3
    }

    /// One comes, with what the store knows of it before it has addresses; nothing where it is known.
    pub fn begin(&mut self, handle: &str, node: &str, now: Timestamp) -> Option<Op> {
        if self.ones.contains_key(handle) {
            return None;
        }
        let one = One { node: node.into(), born: now, stage: Stage::Young };
        self.ones.insert(handle.into(), one);
        match Holder::of(handle) {
            Holder::Pod if self.has_kubernetes => Some(put(pod(handle), &json!({}))),
            Holder::Service => Some(put(service(handle), &json!({ "spec": { "type": "LoadBalancer" } }))),
            _ => None,
        }
    }

    /// Those that can run now, of those that were told their addresses.
    pub fn startable<'a>(&self, told: impl Iterator<Item = &'a String>, now: Timestamp) -> Vec<String> {
        let is_of_workload = |h: &&String| matches!(Holder::of(h), Holder::Pod | Holder::Container);
        let can = |h: &&String| self.ones.get(*h).is_some_and(|one| self.is_in_time(one, now));
        let mut list: Vec<String> = told.filter(is_of_workload).filter(can).cloned().collect();
        list.sort();
        list.dedup();
        list
    }

    /// Whether it is a workload that runs or can.
    pub fn is_startable(&self, handle: &str, now: Timestamp) -> bool {
        let can = |one: &One| one.stage == Stage::Running || self.is_in_time(one, now);
        matches!(Holder::of(handle), Holder::Pod | Holder::Container) && self.ones.get(handle).is_some_and(can)
    }

    /// One runs: its endpoint, with these addresses.
    pub fn start(&mut self, handle: &str, addresses: &[IpAddr]) -> Option<Op> {
        let one = self.ones.get_mut(handle)?;
        one.stage = Stage::Running;
        let networks = addresses.iter().map(|ip| ipnet::IpNet::from(*ip).to_string()).collect();
        let spec =
            WorkloadEndpointSpec { node: one.node.clone(), ip_networks: networks, ..WorkloadEndpointSpec::default() };
        let node = one.node.clone();
        Some(put(endpoint(handle, &node), &json!({ "spec": spec })))
    }

    /// Those that are there and can go.
    pub fn present(&self) -> Vec<&String> {
        let can = |(handle, one): &(&String, &One)| {
            one.stage == Stage::Running || one.stage == Stage::Young && Holder::of(handle) == Holder::Service
        };
        self.ones.iter().filter(can).map(|(handle, _)| handle).collect()
    }

    /// Those that were given up.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<String> {
        let is_late = |(handle, one): &(&String, &One)| {
            one.stage == Stage::Young
                && matches!(Holder::of(handle), Holder::Pod | Holder::Container)
                && !self.is_in_time(one, now)
        };
        self.ones.iter().filter(is_late).map(|(handle, _)| handle.clone()).collect()
    }

    pub fn is_over(&self, handle: &str) -> bool {
        self.ones.get(handle).is_some_and(|one| one.stage == Stage::Over)
    }

    /// One goes, with what the store knew of it beside its addresses.
    pub fn end(&mut self, handle: &str) -> Vec<Key> {
        let Some(one) = self.ones.get_mut(handle) else { return vec![] };
        let before = std::mem::replace(&mut one.stage, Stage::Over);
        if before == Stage::Over {
            return vec![];
        }
        let mut keys = vec![];
        match Holder::of(handle) {
            Holder::Service => keys.push(service(handle)),
            Holder::Pod if self.has_kubernetes => keys.push(pod(handle)),
            _ => {}
        }
        if before == Stage::Running {
            keys.push(endpoint(handle, &one.node));
        }
        keys
    }
}

fn pod(handle: &str) -> Key {
    Key::resource(Kind::Pod, Some(NAMESPACE), handle)
}

fn service(handle: &str) -> Key {
    Key::resource(Kind::Service, Some(NAMESPACE), handle)
}

fn endpoint(handle: &str, node: &str) -> Key {
    let name = match (Holder::of(handle), handle.rsplit_once('.')) {
        (Holder::Container, Some((_, id))) => cni_endpoint_name(node, id, "eth0"),
        _ => k8s_endpoint_name(node, handle, "eth0"),
    };
    Key::resource(Kind::WorkloadEndpoint, Some(NAMESPACE), &name)
}

/// Writes an object, of which `body` is what matters.
fn put(key: Key, body: &serde_json::Value) -> Op {
    let mut object = body.clone();
    if let (Some(kind), Some(name)) = (key.kind(), key.name()) {
        object["kind"] = kind.as_str().into();
        object["apiVersion"] = kind.api_version().into();
        object["metadata"] = json!(Metadata::namespaced(NAMESPACE, name));
    }
    Op::Put(key, serde_json::to_vec(&object).expect("it is JSON"))
}
