//! What a check reads: the records of IPAM, and who uses addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use api::Service;
use api::address_range::AddressRange;
use api::ipam::{AffinityState, AllocationBlock, BlockAffinity, IpamHandle};
use api::key::{AffinityOwner, Key};
use api::kind::Kind;
use datastore::{KeyValue, Revision};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::service_address::{LOAD_BALANCER_CLASSES, cannot_share};

/// A record, and the revision that it was read at.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    pub value: T,
    pub revision: Revision,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub key: Key,
    pub revision: Revision,
    pub reason: String,
}

/// Addresses that blocks may be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRange {
    pub name: String,
    /// As the user wrote it.
    pub text: String,
    pub range: AddressRange,
    /// `None` where blocks of any size are right, also such as reach beyond the range.
    pub block_len: Option<u8>,
    pub disabled: bool,
}

/// What kind of thing uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum UserKind {
    Node,
    Service,
    Workload,
}

/// Somebody who uses addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub kind: UserKind,
    /// Empty for a node.
    pub namespace: String,
    pub name: String,
    /// The pod of a workload, where it is one of Kubernetes.
    pub pod: Option<String>,
    /// Where it runs; for a node its name.
    pub node: Option<String>,
    pub addresses: Vec<IpAddr>,
}

impl fmt::Display for User {
    /// As Calico names it: `Node(node-1)`, `Workload(default/node--1-k8s-web-eth0)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            UserKind::Node => write!(f, "Node({})", self.name),
            kind => write!(f, "{kind:?}({}/{})", self.namespace, self.name),
        }
    }
}

/// Everything that a check looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub now: Timestamp,
    pub blocks: BTreeMap<IpNet, Stored<AllocationBlock>>,
    pub affinities: BTreeMap<(IpNet, AffinityOwner), Stored<BlockAffinity>>,
    pub handles: BTreeMap<String, Stored<IpamHandle>>,
    pub unreadable: Vec<Unreadable>,
    pub pools: Vec<PoolRange>,
    pub nodes: BTreeSet<String>,
    pub users: Vec<User>,
    /// The services among the users, by namespace and name, or why one cannot be read as a whole.
    pub services: BTreeMap<(String, String), Result<Service, String>>,
}

impl Snapshot {
    /// Sorts objects of a store into a snapshot; those that say nothing about addresses are passed over. Nodes come first among the
    /// users, then services, then workloads; each as its store listed it.
    pub fn new(objects: &[KeyValue], now: Timestamp) -> Self {
        let mut snapshot = Self {
            now,
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            handles: BTreeMap::new(),
            unreadable: Vec::new(),
            pools: Vec::new(),
            nodes: BTreeSet::new(),
            users: Vec::new(),
            services: BTreeMap::new(),
        };
        let mut pods = Vec::new();
        for kv in objects {
            if let Err(reason) = snapshot.add(kv, &mut pods) {
                snapshot.unreadable.push(Unreadable { key: kv.key.clone(), revision: kv.mod_revision, reason });
            }
        }
        // A pod that has an endpoint is the endpoint.
        let endpoints: BTreeSet<(String, String)> =
            snapshot.users.iter().filter_map(|u| Some((u.namespace.clone(), u.pod.clone()?))).collect();
        snapshot.users.extend(
            pods.into_iter()
                .filter(|p: &User| !p.pod.clone().is_some_and(|pod| endpoints.contains(&(p.namespace.clone(), pod)))),
        );
        snapshot.users.sort_by_key(|u| u.kind);
        snapshot
    }

    /// The pool that a block or address is in; an enabled one first.
    pub fn pool_of(&self, cidr: &IpNet) -> Option<&PoolRange> {
        let block = AddressRange::from(*cidr);
        let has = |p: &&PoolRange| match p.block_len {
            Some(_) => p.range.contains(block.first()) && p.range.contains(block.last()),
            None => p.range.overlaps(&block),
        };
        let mut all: Vec<&PoolRange> = self.pools.iter().filter(has).collect();
        all.sort_by_key(|p| (p.disabled, p.range.len()));
        all.first().copied()
    }

    /// A record of somebody who may use any address, as it cannot be read.
    pub fn unreadable_user(&self) -> Option<&Unreadable> {
        const USERS: &[Kind] = &[Kind::Node, Kind::WorkloadEndpoint, Kind::Pod, Kind::Service];
        self.unreadable.iter().find(|u| u.key.kind().is_some_and(|k| USERS.contains(&k)))
    }

    /// Whether the record of a key is there and cannot be read.
    pub fn is_unreadable(&self, key: &Key) -> bool {
        self.unreadable.iter().any(|u| u.key == *key)
    }

    /// Whether Services are kept elsewhere, as far as one can tell: Calico on etcd leaves them in Kubernetes.
    pub fn lacks_services(&self) -> bool {
        !self.users.iter().any(|u| u.kind == UserKind::Service)
    }

    /// Why two services may not have one address, as far as is known.
    pub fn cannot_share(&self, a: &User, b: &User) -> Option<String> {
        let service = |user: &User| self.services.get(&(user.namespace.clone(), user.name.clone()));
        match (service(a)?, service(b)?) {
            (Ok(first), Ok(second)) => cannot_share((&a.namespace, first), (&b.namespace, second)),
            (Err(reason), _) => Some(format!("{a} cannot be read: {reason}")),
            (_, Err(reason)) => Some(format!("{b} cannot be read: {reason}")),
        }
    }

    /// Whether an enabled pool has the address.
    pub fn is_in_active_pool(&self, ip: IpAddr) -> bool {
        self.pools.iter().any(|p| !p.disabled && p.range.contains(ip))
    }

    fn add(&mut self, kv: &KeyValue, pods: &mut Vec<User>) -> Result<(), String> {
        let revision = kv.mod_revision;
        match &kv.key {
            Key::IpamBlock(cidr) => {
                let value: AllocationBlock = read(kv)?;
                if value.cidr != *cidr {
                    return Err(format!("its cidr is {}", value.cidr));
                }
                if !value.deleted {
                    self.blocks.insert(*cidr, Stored { value, revision });
                }
            }
            Key::BlockAffinity(owner, cidr) => {
                let value = affinity(kv)?;
                if !value.deleted {
                    self.affinities.insert((*cidr, owner.clone()), Stored { value, revision });
                }
            }
            Key::IpamHandle(id) => {
                let value: IpamHandle = read(kv)?;
                if !value.deleted {
                    self.handles.insert(id.clone(), Stored { value, revision });
                }
            }
            Key::Resource { kind: Kind::IpPool, name, .. } => {
                let pool: api::IpPool = datastore::typed::decode(kv).map_err(|e| reason_of(&e))?;
                let spec = pool.body.spec;
                self.pools.push(PoolRange {
                    name: name.clone(),
                    text: spec.cidr.to_string(),
                    range: spec.cidr.into(),
                    block_len: Some(spec.block_prefix_len()),
                    disabled: spec.disabled,
                });
            }
            Key::Resource { kind: Kind::LoadBalancerIpPool, name, .. } => {
                let pool: api::LoadBalancerIpPool = datastore::typed::decode(kv).map_err(|e| reason_of(&e))?;
                let disabled = pool.body.spec.disabled;
                self.pools.extend(pool.body.spec.ranges().map(|range| PoolRange {
                    name: name.clone(),
                    text: range.to_string(),
                    range,
                    block_len: None,
                    disabled,
                }));
            }
            Key::Resource { kind, namespace, name } => {
                let namespace = namespace.clone().unwrap_or_default();
                let (user_kind, read): (_, fn(&Value) -> Seen) = match kind {
                    // Whoever checks reads what it says; here it only has to be one.
                    Kind::ClusterInformation => return self::read::<serde_json::Map<String, Value>>(kv).map(drop),
                    Kind::Node => (UserKind::Node, node),
                    Kind::WorkloadEndpoint => (UserKind::Workload, endpoint),
                    Kind::Pod => (UserKind::Workload, pod),
                    Kind::Service => (UserKind::Service, service),
                    _ => return Ok(()),
                };
                if *kind == Kind::Node {
                    // It is there, whatever it says.
                    self.nodes.insert(name.clone());
                }
                let value: Value = self::read(kv)?;
                if !value.is_object() {
                    return Err("it is no object".into());
                }
                let (texts, pod, on) = read(&value)?;
                let addresses = texts.iter().map(|t| address(t)).collect::<Result<Vec<_>, _>>()?;
                let mut user = User { kind: user_kind, namespace, name: name.clone(), pod, node: on, addresses };
                match kind {
                    Kind::Node => {
                        user.node = Some(name.clone());
                        self.users.push(user);
                    }
                    Kind::Pod => {
                        user.pod = Some(name.clone());
                        pods.push(user);
                    }
                    _ => {
                        if *kind == Kind::Service && !user.addresses.is_empty() {
                            let service = datastore::typed::decode(kv).map_err(|e| reason_of(&e));
                            self.services.insert((user.namespace.clone(), user.name.clone()), service);
                        }
                        self.users.push(user);
                    }
                }
            }
            Key::IpamConfig | Key::Election(_) => {}
        }
        Ok(())
    }
}

/// Addresses, pod and node of an object; what is not as it should be makes the object one that cannot be read.
type Seen = Result<(Vec<String>, Option<String>, Option<String>), String>;

/// The addresses of a node's tunnels, of both families (Calico's check knows those of IPv4 only).
fn node(value: &Value) -> Seen {
    const FIELDS: &[&str] = &[
        "/spec/ipv4VXLANTunnelAddr",
        "/spec/ipv6VXLANTunnelAddr",
        "/spec/wireguard/interfaceIPv4Address",
        "/spec/wireguard/interfaceIPv6Address",
        "/spec/bgp/ipv4IPIPTunnelAddr",
    ];
    let mut addresses = Vec::new();
    for field in FIELDS {
        addresses.extend(text(value, field)?);
    }
    Ok((addresses, None, None))
}

fn endpoint(value: &Value) -> Seen {
    let mut addresses = Vec::new();
    for item in items(value, "/spec/ipNetworks")? {
        addresses.push(item.as_str().map(str::to_string).ok_or("/spec/ipNetworks has what is no text")?);
    }
    Ok((addresses, text(value, "/spec/pod")?, text(value, "/spec/node")?))
}

/// The addresses of a pod that runs in a network of its own.
fn pod(value: &Value) -> Seen {
    let is_over = matches!(value.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    let on_host = value.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    let mut addresses: Vec<String> = Vec::new();
    if !is_over && !on_host {
        for ip in items(value, "/status/podIPs")? {
            addresses.extend(text(ip, "/ip")?);
        }
        addresses.extend(text(value, "/status/podIP")?);
        addresses.sort();
        addresses.dedup();
    }
    Ok((addresses, None, text(value, "/spec/nodeName")?))
}

/// The addresses of a service whose load balancer is ours.
fn service(value: &Value) -> Seen {
    let is_ours = text(value, "/spec/type")?.as_deref() == Some("LoadBalancer")
        && text(value, "/spec/loadBalancerClass")?.is_none_or(|c| LOAD_BALANCER_CLASSES.contains(&c.as_str()));
    let mut addresses = Vec::new();
    for ingress in items(value, "/status/loadBalancer/ingress")?.iter().filter(|_| is_ours) {
        addresses.extend(text(ingress, "/ip")?);
    }
    Ok((addresses, None, None))
}

fn text(value: &Value, pointer: &str) -> Result<Option<String>, String> {
    match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
        Some(_) => Err(format!("its {pointer} is no text")),
    }
}

fn items<'a>(value: &'a Value, pointer: &str) -> Result<&'a [Value], String> {
    match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("its {pointer} is no list")),
    }
}

/// An address, or the address of a CIDR.
fn address(text: &str) -> Result<IpAddr, String> {
    let (ip, _) = text.split_once('/').unwrap_or((text, ""));
    ip.parse().map_err(|_| format!("\"{text}\" is no address"))
}

fn read<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, String> {
    serde_json::from_slice(&kv.value).map_err(|e| e.to_string())
}

/// An affinity; Calico's oldest forms, an empty value, an empty string and an empty object, mean confirmed.
fn affinity(kv: &KeyValue) -> Result<BlockAffinity, String> {
    if matches!(kv.value.as_slice(), b"" | b"\"\"" | b"{}") {
        return Ok(BlockAffinity::new(AffinityState::Confirmed));
    }
    read(kv)
}

fn reason_of(error: &datastore::Error) -> String {
    match error {
        datastore::Error::Corrupt { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
