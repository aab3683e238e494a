//! `tortie`: gives a container its interface.
//!
//! ADD in order: address, veth pair, WorkloadEndpoint, wait for felix. What fails is undone in reverse. DEL in order: endpoint
//! (felix withdraws the route), veth pair, address: an address is free only when nothing leads to its old owner any more.

use std::fs::File;
use std::time::Duration;

use api::meta::WithSpec;
use api::service::{NamespaceBody, PodBody};
use api::workload::WorkloadEndpointSpec;
use api::{Namespace, Pod, WorkloadEndpoint};
use datastore::{DynStore, typed};
use ipam::lock;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::delegate::Delegate;
use crate::gc;
use crate::program::Call;
use crate::protocol::{AddResult, Attachment, Command, Error, NetConf, ResultInterface, ResultIp, ResultRoute, code};
use crate::wiring::{self, Pair};
use crate::workload::{Wishes, Workload};

/// How long felix may take to program the host's side before ADD fails.
const FELIX_WAIT: Duration = Duration::from_secs(10);

/// Runs one call.
///
/// # Errors
/// As the runtime shall see them.
pub async fn run(call: Call) -> Result<Option<Value>, Error> {
    match call.command {
        Command::Add => {
            let plugin = Plugin::new(&call).await?;
            check_ready(&plugin.store).await?;
            plugin.add().await.map(|r| Some(json!(r)))
        }
        Command::Del => {
            let plugin = Plugin::new(&call).await?;
            check_ready(&plugin.store).await?;
            plugin.remove().await.map(|()| None)
        }
        Command::Check => Plugin::new(&call).await?.check().await.map(|()| None),
        Command::Status => status(&call.conf).await.map(|()| None),
        Command::Gc => gc::interfaces(&call).await.map(|()| None),
        Command::Version => unreachable!("answered before the configuration is read"),
    }
}

pub(crate) async fn open_store(conf: &NetConf) -> Result<DynStore, Error> {
    let store = conf.store()?;
    store.open().await.map_err(|e| Error::new(code::TRY_AGAIN_LATER, "cannot open the datastore").because(e))
}

/// Refuses while the datastore is locked (`calicoctl datastore migrate lock`), in Calico's words: what is being exported stands still.
pub(crate) async fn check_ready(store: &DynStore) -> Result<(), Error> {
    match store.get(&lock::key()).await? {
        Some(kv) if lock::is_locked(&kv.value) => Err(not_ready()),
        _ => Ok(()),
    }
}

/// The refusal while the datastore is locked.
pub(crate) fn not_ready() -> Error {
    Error::new(code::TRY_AGAIN_LATER, "Calico is currently not ready to process requests").because(ipam::Error::Locked)
}

/// What the allocator refused: `what`, of who may try again, unless it is because of the lock.
pub(crate) fn not_now(error: ipam::Error, what: &str) -> Error {
    match error {
        ipam::Error::Locked => not_ready(),
        error => Error::new(code::TRY_AGAIN_LATER, what).because(error),
    }
}

/// Ready when the store can be read.
async fn status(conf: &NetConf) -> Result<(), Error> {
    let unavailable =
        |e: &dyn std::fmt::Display| Error::new(code::NOT_AVAILABLE, "the plugin is not available").because(e);
    let store = open_store(conf).await.map_err(|e| unavailable(&e))?;
    store.get(&api::Key::IpamConfig).await.map_err(|e| unavailable(&e))?;
    Ok(())
}

/// One container, and the call that is about it.
pub(crate) struct Plugin<'a> {
    pub call: &'a Call,
    pub attachment: Attachment,
    pub workload: Workload,
    pub store: DynStore,
}

impl<'a> Plugin<'a> {
    async fn new(call: &'a Call) -> Result<Self, Error> {
        let attachment = call.attachment()?;
        let workload = Workload::new(call.conf.node()?, &attachment);
        let store = open_store(&call.conf).await?;
        Ok(Self { call, attachment, workload, store })
    }

    fn netns(&self) -> Result<File, Error> {
        let path = self.attachment.netns.as_ref().expect("ADD and CHECK require CNI_NETNS");
        wiring::open_namespace(path)
    }

    async fn endpoint(&self) -> Result<Option<WorkloadEndpoint>, Error> {
        let name = self.workload.endpoint_name();
        let found = typed::get::<WithSpec<WorkloadEndpointSpec>>(&*self.store, Some(&self.workload.namespace), &name);
        Ok(found.await?)
    }

    /// The endpoint, if it is this container's and not a newer one's.
    async fn own_endpoint(&self) -> Result<Option<WorkloadEndpoint>, Error> {
        let endpoint = self.endpoint().await?;
        Ok(endpoint.filter(|e| e.body.spec.container_id.as_ref() == Some(&self.workload.container_id)))
    }

    /// The IPAM plugin of the configuration, which gets `stdin`.
    pub fn ipam(call: &Call, stdin: Vec<u8>) -> Result<Delegate, Error> {
        let plugin = call.conf.ipam.as_ref().map(|i| i.plugin.as_str()).unwrap_or_default();
        Delegate::find(plugin, &std::env::var("CNI_PATH").unwrap_or_default(), stdin)
    }

    async fn add(&self) -> Result<AddResult, Error> {
        let netns = self.netns()?;
        if let Some(endpoint) = self.own_endpoint().await? {
            // A retry of an ADD that succeeded: the same answer. Of one that did not: from the start.
            let addresses = addresses_of(&endpoint);
            if self.differences(&netns, &addresses).await?.is_empty() {
                self.wait_for_felix().await?;
                return self.result(&addresses, endpoint.body.spec.mac.as_deref().unwrap_or_default());
            }
            self.undo().await;
        }
        let namespace = typed::get::<NamespaceBody>(&*self.store, None, &self.workload.namespace).await?;
        let pod = self.pod().await?;
        let outcome = self.attach(&netns, namespace.as_ref(), pod.as_ref()).await;
        if outcome.is_err() {
            self.undo().await;
        }
        outcome
    }

    async fn pod(&self) -> Result<Option<Pod>, Error> {
        match &self.workload.pod {
            Some(pod) => Ok(typed::get::<PodBody>(&*self.store, Some(&self.workload.namespace), pod).await?),
            None => Ok(None),
        }
    }

    async fn attach(&self, netns: &File, namespace: Option<&Namespace>, pod: Option<&Pod>) -> Result<AddResult, Error> {
        let addresses = self.allocate(namespace, pod)?;
        let handle = wiring::open_handle()?;
        let host = self.workload.host_interface();
        // What an older container of the same pod left: this one takes its place.
        if let Some(stale) = wiring::find(&handle, &host).await? {
            wiring::delete(&handle, stale.index).await?;
        }
        let pair = Pair {
            host: &host,
            container: &self.workload.ifname,
            container_id: &self.workload.container_id,
            mtu: self.call.conf.mtu,
            netns: wiring::descriptor(netns),
        };
        wiring::create_pair(&handle, &pair).await?;
        let inside = wiring::in_namespace(netns, |h| async move {
            wiring::configure(&h, &self.workload.ifname, &addresses.clone()).await.map(|i| (i, addresses))
        });
        let (inside, addresses) = inside?;
        typed::apply(&*self.store, &self.workload.endpoint(&addresses, &inside.mac, pod, &self.call.conf.name)).await?;
        self.wait_for_felix().await?;
        self.result(&addresses, &inside.mac)
    }

    fn allocate(&self, namespace: Option<&Namespace>, pod: Option<&Pod>) -> Result<Vec<IpNet>, Error> {
        let wishes = Wishes::new(namespace, pod, self.call.conf.has_feature("ip_addrs_no_ipam"))?;
        if !wishes.addresses_without_ipam.is_empty() {
            return Ok(wishes.addresses_without_ipam.into_iter().map(IpNet::from).collect());
        }
        let wanted = wishes.addresses.clone();
        let ipam = Self::ipam(self.call, wishes.into_config(&self.call.stdin)?)?;
        let mut ips = Vec::new();
        if wanted.is_empty() {
            ips.extend(ipam.add()?.ips);
        }
        for addr in wanted {
            ips.extend(ipam.clone().with_address(addr).add()?.ips);
        }
        if ips.is_empty() {
            return Err(Error::new(code::NO_ADDRESS, "the IPAM plugin gave no address"));
        }
        Ok(ips.iter().map(|ip| IpNet::from(ip.address.addr())).collect())
    }

    /// felix programs the route from the endpoint. Without felix the pod is wired and waits for it, as it does while felix
    /// restarts; a felix that runs and does not program it is an error.
    async fn wait_for_felix(&self) -> Result<(), Error> {
        let socket = self.call.conf.felix_socket();
        let interface = self.workload.host_interface();
        let path = format!("/v1/workloads/{interface}?wait_ms={}", FELIX_WAIT.as_millis());
        let not_programmed = |details: String| {
            Error::new(code::TRY_AGAIN_LATER, format!("felix did not program {interface}")).because(details)
        };
        match status::get(&socket, &path).await {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(not_programmed(String::from_utf8_lossy(&reply.body).trim().to_string())),
            Err(status::Error::NotRunning { .. }) => {
                tracing::warn!(socket = %socket.display(), "felix is not running: the pod is unreachable until it does");
                Ok(())
            }
            Err(e) => Err(not_programmed(e.to_string())),
        }
    }

    fn result(&self, addresses: &[IpNet], mac: &str) -> Result<AddResult, Error> {
        let sandbox = self.attachment.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let host = ResultInterface {
            name: self.workload.host_interface(),
            mac: wiring::HOST_MAC.map(|b| format!("{b:02x}")).join(":"),
            ..Default::default()
        };
        let inside = ResultInterface { name: self.workload.ifname.clone(), mac: mac.into(), sandbox };
        let ip = |a: &IpNet| ResultIp { version: None, address: *a, gateway: None, interface: Some(1) };
        let mut routes = Vec::new();
        if self.call.conf.include_default_routes {
            let default = |v4: bool| if v4 { "0.0.0.0/0" } else { "::/0" };
            for v4 in [true, false] {
                if addresses.iter().any(|a| a.addr().is_ipv4() == v4) {
                    let gw = if v4 { wiring::GATEWAY_V4.into() } else { wiring::GATEWAY_V6.into() };
                    routes.push(ResultRoute { dst: default(v4).parse().expect("a prefix"), gw: Some(gw) });
                }
            }
        }
        let ips = addresses.iter().map(ip).collect();
        let result = AddResult { interfaces: vec![host, inside], ips, routes, ..Default::default() };
        Ok(result.in_version(&self.call.conf.cni_version))
    }

    /// Takes back what ADD did; what cannot be taken back is logged, because the error that led here is the one to report.
    async fn undo(&self) {
        if let Err(error) = self.remove().await {
            tracing::error!(container = self.workload.container_id, %error, "cannot undo the ADD; DEL will");
        }
    }

    /// DEL, which needs no namespace: removes endpoint, interface and address of this container; what is not there is success.
    /// Goes on after an error and reports the first.
    async fn remove(&self) -> Result<(), Error> {
        let steps = [
            self.remove_endpoint().await,
            self.remove_interface().await,
            Self::ipam(self.call, self.call.stdin.clone()).and_then(|ipam| ipam.run("DEL").map(drop)),
        ];
        steps.into_iter().collect()
    }

    /// The endpoint, if it is this container's.
    pub async fn remove_endpoint(&self) -> Result<(), Error> {
        let Some(endpoint) = self.own_endpoint().await? else { return Ok(()) };
        let revision = endpoint.metadata.resource_version.as_ref().and_then(|v| v.parse().ok());
        match self.store.delete(endpoint.key(), revision).await {
            // A newer container of the pod has taken the endpoint over since it was read.
            Ok(_) | Err(datastore::Error::NotFound(_)) => Ok(()),
            Err(datastore::Error::Conflict(_)) if self.own_endpoint().await?.is_none() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The pair, if it is this container's: deleting one end deletes both.
    pub async fn remove_interface(&self) -> Result<(), Error> {
        let handle = wiring::open_handle()?;
        let host = wiring::find(&handle, &self.workload.host_interface()).await?;
        if let Some(own) = host.filter(|h| h.alias.as_ref() == Some(&self.workload.container_id)) {
            wiring::delete(&handle, own.index).await?;
        }
        Ok(())
    }

    /// Everything that is not as ADD left it.
    async fn differences(&self, netns: &File, addresses: &[IpNet]) -> Result<Vec<String>, Error> {
        let handle = wiring::open_handle()?;
        let host = self.workload.host_interface();
        let mut found = match wiring::find(&handle, &host).await? {
            None => vec![format!("interface {host} is missing on the host")],
            Some(i) if i.alias.as_deref() != Some(&self.workload.container_id) => {
                vec![format!("interface {host} belongs to container {}", i.alias.as_deref().unwrap_or("unknown"))]
            }
            Some(_) => Vec::new(),
        };
        let inside =
            wiring::in_namespace(
                netns,
                |h| async move { wiring::differences(&h, &self.workload.ifname, addresses).await },
            );
        found.extend(inside?);
        Ok(found)
    }

    async fn check(&self) -> Result<(), Error> {
        let failed = |found: Vec<String>| {
            Error::new(code::CHECK_FAILED, "the container is not as ADD left it").because(found.join("; "))
        };
        let netns = self.netns()?;
        let previous = self.call.conf.prev_result.as_ref().ok_or_else(|| {
            Error::new(code::INVALID_CONFIG, "CHECK needs \"prevResult\" in the network configuration")
        })?;
        let addresses: Vec<IpNet> = previous.ips.iter().map(|ip| IpNet::from(ip.address.addr())).collect();
        let mut found = self.differences(&netns, &addresses).await?;
        match self.own_endpoint().await? {
            None => found
                .push(format!("WorkloadEndpoint {} is missing or another container's", self.workload.endpoint_name())),
            Some(endpoint) => {
                let held = addresses_of(&endpoint);
                found.extend(
                    addresses.iter().filter(|a| !held.contains(a)).map(|a| format!("the WorkloadEndpoint lacks {a}")),
                );
            }
        }
        let handle = wiring::open_handle()?;
        let host = self.workload.host_interface();
        if let Some(interface) = wiring::find(&handle, &host).await? {
            for addr in addresses.iter().map(IpNet::addr) {
                if !wiring::has_host_route(&handle, interface.index, addr).await? {
                    found.push(format!("the host has no route to {addr} by {host}; is felix running?"));
                }
            }
        }
        if !found.is_empty() {
            return Err(failed(found));
        }
        let wishes = Wishes::new(None, self.pod().await?.as_ref(), self.call.conf.has_feature("ip_addrs_no_ipam"))?;
        if !wishes.addresses_without_ipam.is_empty() {
            return Ok(());
        }
        Self::ipam(self.call, self.call.stdin.clone())?.run("CHECK").map(drop)
    }
}

fn addresses_of(endpoint: &WorkloadEndpoint) -> Vec<IpNet> {
    endpoint.body.spec.ip_networks.iter().filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datastore::memory::MemoryStore;

    use super::*;

    #[test]
    fn a_locked_datastore_is_not_ready() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows = [
            (r#"{"spec":{}}"#, true),
            (r#"{"spec":{"datastoreReady":true,"clusterGUID":7}}"#, true),
            (r#"{"spec":{"datastoreReady":false,"clusterGUID":7}}"#, false),
        ];
        for (document, wanted) in rows {
            let store: DynStore = Arc::new(MemoryStore::new());
            runtime.block_on(async {
                assert!(check_ready(&store).await.is_ok(), "without ClusterInformation");
                store.put(lock::key(), document.into()).await.unwrap();
                assert_eq!(check_ready(&store).await.is_ok(), wanted, "{document}");
            });
        }
    }
}
