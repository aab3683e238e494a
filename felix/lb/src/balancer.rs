//! [`LoadBalancer`]: the compiler's answer into the maps, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use felix_calc::service_index::Frontend;
use reconcile::Delta;
use tracing::warn;

use crate::compile::{Compiler, Entry, Key, SetRef};
use crate::loader::{Datapath, Role};
use crate::maps::{Maps, Settings, checksum};
use crate::status::{Hook, Interface, MapStatus, ServiceCounters, Status, drop_reason_name};
use crate::{Applied, Config, Error};

/// Source ports of translated connections to backends on other nodes: below Kubernetes' NodePorts (30000 to 32767)
/// and Linux's ephemeral ports (from 32768).
const SNAT_PORTS: (u16, u16) = (20_000, 29_999);

/// The address under which a pod sees itself when it reaches itself by a service: link-local, so a pod sends its
/// answer to its gateway, our 169.254.1.1.
const HAIRPIN_ADDR: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

mod verify;

use verify::Rotation;

/// The service load balancer of this node. One thread owns it; dropping it leaves the datapath working.
pub struct LoadBalancer {
    config: Config,
    datapath: Datapath,
    maps: Maps,
    compiler: Compiler,
    delta: Delta<Key, Entry>,
    /// Checksums of the regions of the slots, by what they should hold.
    images: BTreeMap<SetRef, u64>,
    settings: Settings,
    node_addrs: Vec<Ipv4Addr>,
    socket_fault: Option<String>,
    /// Keys whose last reading back was wrong.
    faulty: BTreeSet<Key>,
    rotation: Rotation,
    /// The addresses that are served, until something changes.
    served: Option<Arc<BTreeSet<IpAddr>>>,
}

impl LoadBalancer {
    /// Loads the programs, or swaps them into the pinned links of an earlier process, and reads the maps back.
    ///
    /// # Errors
    /// The pin root is not on a bpffs; the kernel lacks what a hook needs; a named cgroup cannot be used. Without a named
    /// cgroup a socket hook that cannot be attached is reported by [`LoadBalancer::status`] only.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut datapath = Datapath::load(&config)?;
        let maps = datapath.maps()?;
        let socket_fault = attach_sockets(&mut datapath, &config)?;
        let actual = maps.dump_frontends()?;
        let slots = maps.sizes().iter().find(|(name, _)| *name == "slots").map_or(0, |(_, size)| *size);
        let mut compiler = Compiler::new(slots);
        compiler.adopt(&actual, |set| maps.read_set(set));
        let images =
            sets_of(actual.values()).into_iter().filter_map(|set| Some((set, maps.set_checksum(set)?))).collect();
        let mut settings = maps.settings()?;
        (settings.hairpin_addr, settings.ports) = (HAIRPIN_ADDR, SNAT_PORTS);
        maps.write_settings(settings)?;
        let mut delta = Delta::new();
        delta.resync(actual);
        let node_addrs = maps.node_addrs();
        Ok(Self {
            config,
            datapath,
            maps,
            compiler,
            delta,
            images,
            settings,
            node_addrs,
            socket_fault,
            faulty: BTreeSet::new(),
            rotation: Rotation::default(),
            served: None,
        })
    }

    /// The addresses on which NodePorts answer. The first is the source of connections that are translated to
    /// backends on other nodes.
    pub fn set_node_addresses(&mut self, addrs: &[Ipv4Addr]) -> Result<(), Error> {
        for addr in addrs.iter().filter(|addr| !self.node_addrs.contains(addr)) {
            self.maps.add_node_addr(*addr)?;
        }
        if self.settings.snat_addr != addrs.first().copied() {
            self.settings.snat_addr = addrs.first().copied();
            self.maps.write_settings(self.settings)?;
        }
        for addr in self.node_addrs.iter().filter(|addr| !addrs.contains(addr)) {
            self.maps.delete_node_addr(*addr)?;
        }
        self.node_addrs = addrs.to_vec();
        Ok(())
    }

    /// An interface that leads out of the node. Idempotent.
    pub fn attach_uplink(&mut self, ifindex: u32, name: &str) -> Result<(), Error> {
        self.datapath.attach(ifindex, name, Role::Uplink)
    }

    /// The host's side of a pod's interface. Idempotent.
    pub fn attach_workload(&mut self, ifindex: u32, name: &str) -> Result<(), Error> {
        self.datapath.attach(ifindex, name, Role::Workload)
    }

    /// Detaches our programs from an interface, or forgets one that has gone.
    pub fn detach(&mut self, ifindex: u32) {
        self.datapath.detach(ifindex);
    }

    /// The interfaces with our programs, those adopted from an earlier process included.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.datapath.interfaces.keys().copied()
    }

    /// Makes `frontends` the whole of what is served. Endpoint sets are written before the frontends that point to them,
    /// each frontend changes by one write, and what is not desired any more goes last. A second call with the
    /// same frontends writes nothing.
    ///
    /// Frontends whose write failed are retried by later calls, [`LoadBalancer::verify`] included.
    pub fn apply(&mut self, frontends: &[Frontend]) -> Result<Applied, Error> {
        let now = Instant::now();
        let compiled = self.compiler.compile(frontends, now);
        // First, as it cannot fail: the compiler takes these sets for written from now on.
        for (set, image) in &compiled.writes {
            self.maps.write_set(*set, image);
            self.images.insert(*set, checksum(image.iter().copied()));
        }
        for service in &compiled.new_services {
            self.maps.reset_counters(*service)?;
        }
        self.served = None;
        self.delta.set_desired(compiled.entries);
        self.delta.set_in_sync();
        let mut applied = self.write_pending(now)?;
        applied.sets_written = compiled.writes.len();
        applied.skipped = compiled.skipped.iter().map(|&(index, reason)| (frontends[index].clone(), reason)).collect();
        self.faulty.retain(|key| self.delta.desired().contains_key(key));
        self.retain_sets(now);
        Ok(applied)
    }

    /// Counters, fill and hooks, as they are now.
    pub fn status(&self) -> Result<Status, Error> {
        let drops = self.maps.drops()?;
        let mut services = BTreeMap::new();
        for (name, &id) in self.compiler.services() {
            let counters = self.maps.counters(id)?;
            let drops = drops.range((id, 0)..=(id, u32::MAX));
            services.insert(
                name.clone(),
                ServiceCounters {
                    packets: counters.packets,
                    bytes: counters.bytes,
                    flows: counters.flows,
                    drops: drops.map(|(&(_, reason), &count)| (drop_reason_name(reason), count)).collect(),
                },
            );
        }
        let mut by_reason = BTreeMap::new();
        for (&(_, reason), &count) in &drops {
            *by_reason.entry(drop_reason_name(reason)).or_insert(0) += count;
        }
        Ok(Status {
            hooks: self.hooks(),
            interfaces: self
                .datapath
                .interfaces
                .iter()
                .map(|(&ifindex, attached)| Interface {
                    ifindex,
                    name: attached.name.clone(),
                    role: attached.role.name(),
                })
                .collect(),
            maps: self.map_status(drops.len()),
            services,
            drops: by_reason,
            frontends: self.delta.actual().len(),
            failed: self.delta.failed(),
        })
    }

    fn hooks(&self) -> Vec<Hook> {
        let not_allowed = |is_allowed: bool| (!is_allowed).then(|| "not among --hooks".to_owned());
        let hook = |name, reason: Option<String>| Hook { name, is_active: reason.is_none(), reason };
        let hooks = self.config.hooks;
        vec![
            hook("socket", not_allowed(hooks.socket).or_else(|| self.socket_fault.clone())),
            hook("tc", not_allowed(hooks.tc)),
            hook("xdp", not_allowed(hooks.xdp).or_else(|| Some("not in this version: tc does its work".into()))),
        ]
    }

    fn map_status(&self, drops: usize) -> Vec<MapStatus> {
        let used = |name: &str| match name {
            "config" => Some(1),
            "node_addrs" => Some(self.node_addrs.len() as u32),
            "frontends" => Some(self.delta.actual().len() as u32),
            "slots" => Some(self.compiler.slots_used()),
            "services" => Some(self.compiler.services().len() as u32),
            "drops" => Some(drops as u32),
            // Counting the entries of a large LRU means to walk it.
            _ => None,
        };
        let sizes = self.maps.sizes().iter();
        sizes.map(|&(name, max_entries)| MapStatus { name, max_entries, used: used(name) }).collect()
    }

    /// Writes and deletes what differs. A batch first; where it fails, one by one, so that one bad key keeps no other back.
    fn write_pending(&mut self, now: Instant) -> Result<Applied, Error> {
        let pending = self.delta.pending(now);
        let mut applied = Applied::default();
        if pending.is_empty() {
            return Ok(applied);
        }
        self.served = None;
        let is_written = self.maps.write_frontends(&pending.updates).is_ok();
        for (key, entry) in pending.updates {
            match if is_written { Ok(()) } else { self.maps.write_frontend(key, &entry) } {
                Ok(()) => {
                    self.delta.record_write(&key, entry);
                    applied.frontends_written += 1;
                }
                Err(err) => {
                    warn!(?key, %err, "cannot write a frontend; it is retried");
                    self.delta.record_failure(&key, now);
                }
            }
        }
        for (key, _) in pending.deletes {
            match self.maps.delete_frontend(key) {
                Ok(()) => {
                    self.delta.record_delete(&key);
                    applied.frontends_deleted += 1;
                }
                Err(err) => {
                    warn!(?key, %err, "cannot delete a frontend; it is retried");
                    self.delta.record_failure(&key, now);
                }
            }
        }
        // After the frontends: a flow that looks again must see the new sets.
        self.settings.epoch = self.settings.epoch.wrapping_add(1);
        self.maps.write_settings(self.settings)?;
        Ok(applied)
    }

    fn retain_sets(&mut self, now: Instant) {
        let used = sets_of(self.delta.desired().values().chain(self.delta.actual().values()));
        self.compiler.retain(&used, now);
        self.images.retain(|set, _| used.contains(set));
    }
}

fn attach_sockets(datapath: &mut Datapath, config: &Config) -> Result<Option<String>, Error> {
    if !config.hooks.socket {
        datapath.detach_cgroup();
        return Ok(None);
    }
    match datapath.attach_cgroup(config.cgroup.as_deref()) {
        Ok(()) => Ok(None),
        Err(err) if config.cgroup.is_none() => {
            warn!(%err, "processes of the node cannot use services: the socket hook is not active");
            Ok(Some(err.to_string()))
        }
        Err(err) => Err(err),
    }
}

fn sets_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeSet<SetRef> {
    entries.into_iter().flat_map(|entry| [entry.inside, entry.outside]).filter(|set| !set.is_empty()).collect()
}
