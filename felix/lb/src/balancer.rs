//! [`LoadBalancer`]: the compiler's answer into the maps, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use felix_calc::service_index::Frontend;
use reconcile::Delta;
use tracing::warn;

use crate::compile::{Compiler, Entry, Key, SetRef, Slot};
use crate::loader::{Datapath, Role};
use crate::maps::{Maps, Settings};
use crate::status::{Hook, Interface, MapStatus, ServiceCounters, Status, drop_reason_name};
use crate::{Applied, Config, Error, Verified};

/// Source ports of translated connections to backends on other nodes: below Kubernetes' NodePorts (30000 to 32767)
/// and Linux's ephemeral ports (from 32768).
const SNAT_PORTS: (u16, u16) = (20_000, 29_999);

/// The address under which a pod sees itself when it reaches itself by a service: link-local, so a pod sends its
/// answer to its gateway, our 169.254.1.1.
const HAIRPIN_ADDR: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

/// Frontends that one [`LoadBalancer::verify`] reads back: what keeps its cost bounded.
const VERIFY_SLICE: usize = 256;

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
    /// Keys whose last reading back was wrong, and where the next slice begins.
    faulty: BTreeSet<Key>,
    next_slice: Option<Key>,
    /// The last answer of [`LoadBalancer::served`], until something changes.
    served: Option<BTreeSet<IpAddr>>,
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
        let images = sets_of(actual.values())
            .into_iter()
            .filter_map(|set| Some((set, checksum(&maps.read_set(set)?))))
            .collect();
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
            next_slice: None,
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
            self.images.insert(*set, checksum(image));
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

    /// Reads back what makes the services work: the links, and of the frontends a bounded slice at a time. What is
    /// wrong is repaired at once, and its address is not served until it has been read back right.
    pub fn verify(&mut self) -> Result<Verified, Error> {
        let mut faults = self.verify_links();
        let is_attached = faults.is_empty();
        for key in self.slice() {
            let desired = self.delta.desired().get(&key).copied();
            let actual = self.maps.frontend(key)?;
            if desired == actual && desired.is_none_or(|entry| self.has_sets(entry)) {
                if self.faulty.remove(&key) {
                    self.served = None;
                }
                continue;
            }
            self.served = None;
            faults.push(format!(
                "the frontend {}:{} (protocol {}) is not as it was written",
                key.addr, key.port, key.proto
            ));
            self.faulty.insert(key);
            self.delta.observe(key, actual);
            self.repair_sets(desired);
        }
        self.write_pending(Instant::now())?;
        let served = if is_attached { self.served() } else { BTreeSet::new() };
        Ok(Verified { served, faults })
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

    fn verify_links(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        for ifindex in self.datapath.detached() {
            let Some((role, name)) =
                self.datapath.interfaces.get(&ifindex).map(|attached| (attached.role, attached.name.clone()))
            else {
                continue;
            };
            let repair = self.datapath.attach(ifindex, &name, role);
            faults.push(format!("a program was detached from {name}; attached again: {repair:?}"));
        }
        let is_wanted = self.config.hooks.socket && self.socket_fault.is_none();
        if is_wanted && !self.datapath.is_cgroup_attached() {
            self.datapath.detach_cgroup();
            let repair = self.datapath.attach_cgroup(self.config.cgroup.as_deref());
            faults.push(format!("a program was detached from the cgroup; attached again: {repair:?}"));
        }
        faults
    }

    /// The keys to read back now: all that were wrong, then the next in order.
    fn slice(&mut self) -> BTreeSet<Key> {
        let desired = self.delta.desired();
        let from = self.next_slice.unwrap_or(Key { addr: Ipv4Addr::UNSPECIFIED, port: 0, proto: 0 });
        let mut rest = desired.range(from..).map(|(key, _)| *key);
        let mut slice: BTreeSet<Key> = rest.by_ref().take(VERIFY_SLICE).collect();
        let next = rest.next();
        if next.is_none() {
            slice.extend(desired.keys().copied().take(VERIFY_SLICE.saturating_sub(slice.len())));
        }
        slice.extend(&self.faulty);
        self.next_slice = next;
        slice
    }

    /// The addresses whose every frontend is in the map as it should be. Kept until something changes: a node
    /// with thousands of services asks many times a second.
    fn served(&mut self) -> BTreeSet<IpAddr> {
        if let Some(served) = &self.served {
            return served.clone();
        }
        let (desired, actual) = (self.delta.desired(), self.delta.actual());
        let is_broken = |(key, entry): &(&Key, &Entry)| actual.get(key) != Some(entry) || self.faulty.contains(key);
        let broken: BTreeSet<Ipv4Addr> = desired.iter().filter(is_broken).map(|(key, _)| key.addr).collect();
        let addrs = desired.keys().map(|key| key.addr);
        let served = addrs.filter(|addr| !addr.is_unspecified() && !broken.contains(addr)).map(IpAddr::V4);
        self.served.insert(served.collect()).clone()
    }

    fn has_sets(&self, entry: Entry) -> bool {
        sets_of([&entry])
            .into_iter()
            .all(|set| self.maps.read_set(set).map(|image| checksum(&image)) == self.images.get(&set).copied())
    }

    fn repair_sets(&mut self, entry: Option<Entry>) {
        for (set, image) in sets_of(entry.iter()).into_iter().filter_map(|set| Some((set, self.compiler.image(set)?))) {
            self.maps.write_set(set, &image);
        }
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

/// FNV-1a over words: finds a changed slot, protects against no one.
fn checksum(image: &[Slot]) -> u64 {
    image.iter().fold(0xcbf2_9ce4_8422_2325, |hash, slot| (hash ^ slot).wrapping_mul(0x0000_0100_0000_01b3))
}
