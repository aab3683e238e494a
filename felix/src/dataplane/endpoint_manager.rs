//! Workload interfaces: their sysctls, and permanent neighbours, so that the host never has to ask who has a pod's address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use felix_calc::{DesiredState, LocalEndpoint};
use futures::TryStreamExt;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use reconcile::Delta;
use rtnetlink::Handle;

use crate::dataplane::iface_monitor::KernelView;
use crate::dataplane::sysctl;

type Mac = [u8; 6];

/// Owns the permanent neighbours on workload interfaces, and those interfaces' sysctls.
pub struct EndpointManager {
    handle: Handle,
    neighbours: Delta<(u32, IpAddr), Mac>,
    /// Interfaces whose sysctls were made; forgotten by [`EndpointManager::recheck`] and when the interface goes.
    configured: BTreeMap<String, u32>,
    /// What the last apply could not do, by interface.
    errors: BTreeMap<String, String>,
}

impl EndpointManager {
    /// With netlink in the namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn new() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, neighbours: Delta::new(), configured: BTreeMap::new(), errors: BTreeMap::new() })
    }

    /// Reads the neighbours back; sysctls are read again by the next apply.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn resync(&mut self, is_workload: impl Fn(u32) -> bool) -> Result<(), rtnetlink::Error> {
        let all: Vec<NeighbourMessage> = self.handle.neighbours().get().execute().try_collect().await?;
        let ours = all.iter().filter(|m| m.header.state == NeighbourState::Permanent && is_workload(m.header.ifindex));
        self.neighbours.resync(ours.filter_map(neighbour).collect());
        self.recheck();
        Ok(())
    }

    /// The next apply reads every sysctl again.
    pub fn recheck(&mut self) {
        self.configured.clear();
    }

    /// Makes the interfaces of the desired state what they shall be; gives the number of writes.
    pub async fn apply(&mut self, state: &DesiredState, view: &KernelView, now: Instant) -> usize {
        self.errors.clear();
        let present: BTreeMap<&str, u32> = view.links.values().map(|l| (l.name.as_str(), l.index)).collect();
        self.configured.retain(|name, index| present.get(name.as_str()) == Some(index));
        let mut written = 0;
        for name in state.endpoints.keys() {
            let Some(index) = present.get(name.as_str()) else { continue };
            if self.configured.contains_key(name) {
                continue;
            }
            match sysctl::apply(&sysctl::workload(name)) {
                Ok(n) => {
                    written += n;
                    self.configured.insert(name.clone(), *index);
                }
                Err(errors) => {
                    let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    tracing::error!(interface = name, error = text, "cannot configure a workload's interface");
                    self.errors.insert(name.clone(), text);
                }
            }
        }
        written + self.apply_neighbours(state, view, now).await
    }

    async fn apply_neighbours(&mut self, state: &DesiredState, view: &KernelView, now: Instant) -> usize {
        // The kernel forgets an interface's neighbours with the interface.
        let gone: Vec<_> =
            self.neighbours.actual().keys().filter(|(index, _)| !view.links.contains_key(index)).copied().collect();
        for key in gone {
            self.neighbours.observe(key, None);
        }
        self.neighbours.set_in_sync();
        self.neighbours.set_desired(desired_neighbours(state, view));
        let pending = self.neighbours.pending(now);
        let mut written = 0;
        for (key @ (index, addr), mac) in pending.updates {
            let request = self.handle.neighbours().add(index, addr).link_layer_address(&mac);
            match request.state(NeighbourState::Permanent).replace().execute().await {
                Ok(()) => {
                    self.neighbours.record_write(&key, mac);
                    written += 1;
                }
                Err(error) => {
                    tracing::warn!(%addr, index, %error, "cannot write a neighbour; the kernel will ask for it by ARP");
                    self.neighbours.record_failure(&key, now);
                }
            }
        }
        for (key @ (index, addr), _) in pending.deletes {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = index;
            message.header.family = if addr.is_ipv4() {
                netlink_packet_route::AddressFamily::Inet
            } else {
                netlink_packet_route::AddressFamily::Inet6
            };
            message.attributes.push(NeighbourAttribute::Destination(addr.into()));
            // Whether it was there or not: it is not any more.
            let _ = self.handle.neighbours().del(message).execute().await;
            self.neighbours.record_delete(&key);
            written += 1;
        }
        written
    }

    /// Whether the interface's sysctls are made.
    pub fn is_configured(&self, interface: &str) -> bool {
        self.configured.contains_key(interface)
    }

    /// What could not be done, for readiness.
    pub fn errors(&self) -> impl Iterator<Item = String> + '_ {
        self.errors.iter().map(|(interface, e)| format!("{interface}: {e}"))
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.neighbours.next_deadline()
    }
}

fn desired_neighbours(state: &DesiredState, view: &KernelView) -> BTreeMap<(u32, IpAddr), Mac> {
    let of = |(interface, endpoint): (&String, &LocalEndpoint)| {
        let index = view.link(interface).filter(|l| l.up)?.index;
        let mac = endpoint.mac?;
        let addresses: BTreeSet<IpAddr> = endpoint.addresses.iter().copied().collect();
        Some(addresses.into_iter().map(move |a| ((index, a), mac)).collect::<Vec<_>>())
    };
    state.endpoints.iter().filter_map(of).flatten().collect()
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Mac)> {
    let mut addr = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(((message.header.ifindex, addr?), mac?))
}
