//! The collection, as the controller runs it: what the store says, watched; what the real [`Collector`] makes of that by the simulated
//! clock; and the real releases. One that crashes begins anew and has observed nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use api::Kind;
use api::ipam::IpamHandle;
use api::key::{Key, KeyRange};
use api::meta::WithSpec;
use api::workload::WorkloadEndpointSpec;
use datastore::watcher::{self, Update};
use datastore::{DynStore, KeyValue, typed};
use ipam::block::Block;
use ipam::environment::Environment;
use ipam::gc::{Collector, PodView, Settings};
use ipam::ordered::Suspicions;
use ipam::{Error, Ipam, collect};
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::world::ClientStore;

/// What one controller knows.
pub struct Watched {
    collector: Collector,
    updates: mpsc::Receiver<Update>,
    is_in_sync: bool,
    has_kubernetes: bool,
    /// Endpoints, with their nodes.
    endpoints: BTreeMap<Key, String>,
    suspicions: Suspicions,
}

pub type Shared = Arc<Mutex<Watched>>;

/// Begins to watch.
pub fn watch(store: DynStore, settings: Settings) -> Shared {
    let kinds = [Kind::Node, Kind::Pod, Kind::Service, Kind::WorkloadEndpoint].map(KeyRange::Kind);
    let ipam = [KeyRange::Blocks, KeyRange::HostAffinities, KeyRange::VirtualAffinities, KeyRange::Handles];
    Arc::new(Mutex::new(Watched {
        collector: Collector::new(settings),
        updates: watcher::watch(store, kinds.into_iter().chain(ipam).collect()),
        is_in_sync: false,
        has_kubernetes: settings.has_kubernetes,
        endpoints: BTreeMap::new(),
        suspicions: Suspicions::default(),
    }))
}

/// One round of the controller: what is due is released. What fails comes again.
///
/// # Errors
/// Of a release that no race explains.
pub async fn collect(watched: Shared, client: Arc<ClientStore>, ipam: Ipam) -> Result<(), Error> {
    let store: DynStore = client.clone();
    let (endpoints, settings, releases) = {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.take_updates();
        if !watched.is_in_sync {
            return Ok(());
        }
        let collector = &mut watched.collector;
        let (settings, releases) = (collector.settings(), collector.observe(client.now()));
        (watched.endpoints_of_no_node(), settings, releases)
    };
    for (key, node) in endpoints {
        accept(collect::delete_of_node(&ipam, &node, &key, None).await)?;
    }
    let outcomes = collect::execute(&store, &ipam, settings, &releases).await;
    outcomes.into_iter().try_for_each(|outcome| accept(outcome.map(drop)))
}

/// One look at what was cut off.
///
/// # Errors
/// As [`Ipam::repair`].
pub async fn repair(watched: Shared, ipam: Ipam) -> Result<(), Error> {
    let take = || std::mem::take(&mut watched.lock().unwrap_or_else(PoisonError::into_inner).suspicions);
    let mut seen = take();
    ipam.repair(&mut seen).await?;
    watched.lock().unwrap_or_else(PoisonError::into_inner).suspicions = seen;
    Ok(())
}

/// What nothing is left to do for.
pub fn is_idle(watched: &Shared) -> bool {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    watched.take_updates();
    watched.is_in_sync && !watched.collector.is_dirty() && watched.collector.candidates().next().is_none()
}

/// What is left to do.
pub fn candidates(watched: &Shared) -> String {
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    format!("{:?}", watched.collector.candidates().collect::<Vec<_>>())
}

fn accept(outcome: Result<(), Error>) -> Result<(), Error> {
    use datastore::Error as E;
    match outcome {
        // Another was faster, or the store failed: it is observed again.
        Err(Error::NotTheSame { .. } | Error::Contention { .. }) => Ok(()),
        Err(Error::Store(
            E::Conflict(_) | E::NotFound(_) | E::AlreadyExists(_) | E::Unavailable(_) | E::Unknown(_),
        )) => Ok(()),
        other => other,
    }
}

impl Watched {
    fn take_updates(&mut self) {
        while let Ok(update) = self.updates.try_recv() {
            match update {
                Update::InSync => self.is_in_sync = true,
                Update::Put(kv) => self.put(&kv),
                Update::Delete(key) => self.delete(&key),
            }
        }
    }

    fn put(&mut self, kv: &KeyValue) {
        let collector = &mut self.collector;
        match &kv.key {
            Key::IpamBlock(cidr) => {
                let block = serde_json::from_slice(&kv.value).ok().and_then(|stored| Block::from_stored(stored).ok());
                match block {
                    Some(block) => collector.put_block(&block),
                    None => collector.put_unreadable_block(*cidr),
                }
            }
            Key::BlockAffinity(owner, cidr) => collector.put_affinity(owner, *cidr, kv.mod_revision),
            Key::IpamHandle(id) => {
                let blocks = serde_json::from_slice::<IpamHandle>(&kv.value).map(|h| ipam::handle::blocks(&h));
                collector.put_record(id, blocks.ok(), kv.mod_revision);
            }
            Key::Resource { kind, namespace, name } => {
                let full = (namespace.clone().unwrap_or_default(), name.clone());
                match kind {
                    Kind::Node => collector.put_node(name),
                    Kind::Service => collector.put_service(&full),
                    Kind::Pod => collector.put_pod(&full, PodView::default()),
                    Kind::WorkloadEndpoint => {
                        let Ok(endpoint) = typed::decode::<WithSpec<WorkloadEndpointSpec>>(kv) else { return };
                        let spec = endpoint.body.spec;
                        let of = |text: &String| text.parse::<IpNet>().ok().map(|net| net.addr());
                        let addresses: Vec<IpAddr> = spec.ip_networks.iter().filter_map(of).collect();
                        collector.put_workload(&full, addresses);
                        self.endpoints.insert(kv.key.clone(), spec.node);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        let collector = &mut self.collector;
        match key {
            Key::IpamBlock(cidr) => collector.delete_block(*cidr),
            Key::BlockAffinity(owner, cidr) => collector.delete_affinity(owner, *cidr),
            Key::IpamHandle(id) => collector.delete_record(id),
            Key::Resource { kind, namespace, name } => {
                let full = (namespace.clone().unwrap_or_default(), name.clone());
                match kind {
                    Kind::Node => collector.delete_node(name),
                    Kind::Service => collector.delete_service(&full),
                    Kind::Pod => collector.delete_pod(&full),
                    Kind::WorkloadEndpoint => {
                        collector.delete_workload(&full);
                        self.endpoints.remove(key);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Endpoints of nodes that are gone. With Kubernetes they are the Pods'.
    fn endpoints_of_no_node(&self) -> Vec<(Key, String)> {
        let is_lost = |(_, node): &(&Key, &String)| !self.has_kubernetes && !self.collector.has_node(node);
        self.endpoints.iter().filter(is_lost).map(|(key, node)| (key.clone(), node.clone())).collect()
    }
}
