//! The resources that bgpd lives on, as the store has them: plain data for `peers` and `origins`.
//!
//! An object that cannot be read counts as absent, and is named in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use api::address_range::AddressRange;
use api::ip_pool::{AllowedUse, IpPoolSpec};
use api::ipam::{AffinityState, BlockAffinity};
use api::key::{AffinityOwner, KeyRange};
use api::meta::{Body, WithSpec};
use api::service::TrafficPolicy;
use api::{
    BgpConfiguration, BgpFilter, BgpPeer, IpPool, Key, Kind, LoadBalancerIpPoolSpec, Metadata, Node, Resource, Secret,
    Service, WorkloadEndpoint, secret,
};
use datastore::store::KeyValue;
use datastore::typed;
use datastore::watcher::Update;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::password::SecretKey;

/// Namespace and name.
pub type Name = (String, String);

/// The current resources, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources {
    pub nodes: BTreeMap<String, Node>,
    pub peers: BTreeMap<String, BgpPeer>,
    pub configurations: BTreeMap<String, BgpConfiguration>,
    pub filters: BTreeMap<String, BgpFilter>,
    /// With those that LoadBalancerIPPools amount to: `<name>/<number>`, one for each CIDR.
    pub pools: BTreeMap<String, IpPool>,
    /// Blocks with a confirmed affinity to this node.
    pub own_blocks: BTreeSet<IpNet>,
    /// Where passwords are looked up.
    pub namespace: String,
    pub secrets: BTreeMap<Name, Secret>,
    /// What the secrets directory holds.
    pub secret_files: BTreeMap<SecretKey, SecretFile>,
    /// Only while a BGPPeer selects workloads.
    pub workloads: BTreeMap<Name, WorkloadEndpoint>,
    /// The addresses of services with externalTrafficPolicy Local. Only while service ranges are announced as a whole.
    pub local_services: BTreeMap<Name, BTreeSet<IpAddr>>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            configurations: BTreeMap::new(),
            filters: BTreeMap::new(),
            pools: BTreeMap::new(),
            own_blocks: BTreeSet::new(),
            namespace: secret::DEFAULT_NAMESPACE.into(),
            secrets: BTreeMap::new(),
            secret_files: BTreeMap::new(),
            workloads: BTreeMap::new(),
            local_services: BTreeMap::new(),
        }
    }
}

/// The content of a file with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile(pub Vec<u8>);

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::password::REDACTED)
    }
}

impl Resources {
    /// What to watch on this node, always.
    pub fn ranges(&self, node: &str) -> Vec<KeyRange> {
        let kinds = [
            Kind::Node,
            Kind::BgpPeer,
            Kind::BgpConfiguration,
            Kind::BgpFilter,
            Kind::IpPool,
            Kind::LoadBalancerIpPool,
        ];
        let own_blocks = KeyRange::AffinitiesOf(AffinityOwner::Host(node.to_string()));
        let secrets = KeyRange::Namespace(Kind::Secret, self.namespace.clone());
        kinds.into_iter().map(KeyRange::Kind).chain([own_blocks, secrets]).collect()
    }

    /// What these resources call for beside that: kinds with many objects, which most fleets need not read here.
    pub fn more_ranges(&self) -> Vec<KeyRange> {
        let selects = |p: &BgpPeer| p.body.spec.local_workload_selector.as_deref().is_some_and(|s| !s.is_empty());
        let workloads = self.peers.values().any(selects).then_some(Kind::WorkloadEndpoint);
        let announces = |c: &BgpConfiguration| {
            let spec = &c.body.spec;
            let lists = [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips];
            lists.iter().any(|l| !l.is_empty())
        };
        let services = self.configurations.get("default").is_some_and(announces).then_some(Kind::Service);
        workloads.into_iter().chain(services).map(KeyRange::Kind).collect()
    }

    /// Takes one update; whether anything changed.
    pub fn update(&mut self, update: &Update) -> bool {
        match update {
            Update::Put(kv) => self.put(kv).unwrap_or_else(|reason| {
                tracing::warn!(key = %kv.key, reason, "an object cannot be read and counts as absent");
                true
            }),
            Update::Delete(key) => self.delete(key),
            Update::InSync => false,
        }
    }

    /// Whether anything changed.
    fn put(&mut self, kv: &KeyValue) -> Result<bool, String> {
        let cluster = || kv.key.name().unwrap_or_default().to_string();
        let namespaced = || name_of(&kv.key);
        match (&kv.key, kv.key.kind()) {
            (Key::BlockAffinity(_, cidr), _) => Ok(match is_confirmed(&kv.value) {
                true => self.own_blocks.insert(*cidr),
                false => self.own_blocks.remove(cidr),
            }),
            (_, Some(Kind::Node)) => put(&mut self.nodes, cluster(), kv),
            (_, Some(Kind::BgpPeer)) => put(&mut self.peers, cluster(), kv),
            (_, Some(Kind::BgpConfiguration)) => put(&mut self.configurations, cluster(), kv),
            (_, Some(Kind::BgpFilter)) => put(&mut self.filters, cluster(), kv),
            (_, Some(Kind::IpPool)) => put(&mut self.pools, cluster(), kv),
            (_, Some(Kind::LoadBalancerIpPool)) => match typed::decode::<WithSpec<LoadBalancerIpPoolSpec>>(kv) {
                Ok(pool) => Ok(self.set_load_balancer_pool(&cluster(), Some(&pool.body.spec))),
                Err(error) => {
                    self.set_load_balancer_pool(&cluster(), None);
                    Err(error.to_string())
                }
            },
            // The reader's own words might repeat a value.
            (_, Some(Kind::Secret)) => put(&mut self.secrets, namespaced(), kv)
                .map_err(|_| "its data is no mapping from keys to base64".into()),
            (_, Some(Kind::WorkloadEndpoint)) => put(&mut self.workloads, namespaced(), kv),
            (_, Some(Kind::Service)) => {
                let service: Service = typed::decode(kv).map_err(|e| e.to_string())?;
                let addresses = local_addresses(&service);
                Ok(match addresses.is_empty() {
                    true => self.local_services.remove(&namespaced()).is_some(),
                    false => self.local_services.insert(namespaced(), addresses.clone()) != Some(addresses),
                })
            }
            _ => Ok(false),
        }
    }

    fn delete(&mut self, key: &Key) -> bool {
        let name = key.name().unwrap_or_default();
        match (key, key.kind()) {
            (Key::BlockAffinity(_, cidr), _) => self.own_blocks.remove(cidr),
            (_, Some(Kind::Node)) => self.nodes.remove(name).is_some(),
            (_, Some(Kind::BgpPeer)) => self.peers.remove(name).is_some(),
            (_, Some(Kind::BgpConfiguration)) => self.configurations.remove(name).is_some(),
            (_, Some(Kind::BgpFilter)) => self.filters.remove(name).is_some(),
            (_, Some(Kind::IpPool)) => self.pools.remove(name).is_some(),
            (_, Some(Kind::LoadBalancerIpPool)) => self.set_load_balancer_pool(name, None),
            (_, Some(Kind::Secret)) => self.secrets.remove(&name_of(key)).is_some(),
            (_, Some(Kind::WorkloadEndpoint)) => self.workloads.remove(&name_of(key)).is_some(),
            (_, Some(Kind::Service)) => self.local_services.remove(&name_of(key)).is_some(),
            _ => false,
        }
    }

    /// A LoadBalancerIPPool counts as IPPools of service addresses; whether they changed. Its status, which changes with every
    /// address, does not.
    fn set_load_balancer_pool(&mut self, name: &str, spec: Option<&LoadBalancerIpPoolSpec>) -> bool {
        // No IPPool has a slash in its name.
        let prefix = format!("{name}/");
        let cidrs = spec.into_iter().flat_map(LoadBalancerIpPoolSpec::ranges).flat_map(cidrs_of);
        let pool = |(i, cidr): (usize, IpNet)| {
            let spec = IpPoolSpec { allowed_uses: Some(vec![AllowedUse::LoadBalancer]), ..IpPoolSpec::new(cidr) };
            let name = format!("{prefix}{i}");
            (name.clone(), IpPool::new(Metadata::named(name), WithSpec { spec, status: None }))
        };
        let wanted: BTreeMap<String, IpPool> = cidrs.enumerate().map(pool).collect();
        let of_pool = self.pools.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let before: BTreeMap<String, IpPool> = of_pool.map(|(name, pool)| (name.clone(), pool.clone())).collect();
        if before == wanted {
            return false;
        }
        self.pools.retain(|name, _| !name.starts_with(&prefix));
        self.pools.extend(wanted);
        true
    }
}

/// The fewest CIDRs that are a range together.
fn cidrs_of(range: AddressRange) -> Vec<IpNet> {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
        _ => vec![],
    }
}

fn put<K: Ord, B: Body>(objects: &mut BTreeMap<K, Resource<B>>, name: K, kv: &KeyValue) -> Result<bool, String> {
    match typed::decode::<B>(kv) {
        Ok(object) => Ok(objects.insert(name, object.clone()).as_ref() != Some(&object)),
        Err(error) => {
            objects.remove(&name);
            Err(error.to_string())
        }
    }
}

fn name_of(key: &Key) -> Name {
    (key.namespace().unwrap_or_default().into(), key.name().unwrap_or_default().into())
}

/// The addresses from outside that only nodes with an endpoint announce.
fn local_addresses(service: &Service) -> BTreeSet<IpAddr> {
    let spec = &service.body.spec;
    if spec.external_traffic_policy != Some(TrafficPolicy::Local) {
        return BTreeSet::new();
    }
    let ingress = service.body.status.iter().flat_map(|s| &s.load_balancer.ingress).filter_map(|i| i.ip.as_ref());
    let texts = spec.cluster_ip.iter().chain(&spec.cluster_ips).chain(&spec.external_ips).chain(ingress);
    texts.filter_map(|a| a.parse().ok()).collect()
}

/// An empty value is Calico's old form of a confirmed affinity.
fn is_confirmed(value: &[u8]) -> bool {
    value.is_empty()
        || serde_json::from_slice::<BlockAffinity>(value)
            .is_ok_and(|a| a.state == AffinityState::Confirmed && !a.deleted)
}

#[cfg(test)]
#[path = "../../../tests/cluster/rights.rs"]
mod rights;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_in_kubernetes_may_what_bgpd_does() {
        for account in ["tortie-bgpd", "tortie-calicoctl"] {
            rights::assert_may_follow(account, &Resources::default().ranges("node-1"));
            rights::assert_may_follow(account, &[Kind::WorkloadEndpoint, Kind::Service].map(KeyRange::Kind));
            rights::assert_may(account, "crd.projectcalico.org", "ipamconfigs", &["get"]);
        }
    }
}
