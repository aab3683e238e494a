//! Reading back: [`LoadBalancer::verify`], which runs many times a second and has to cost next to nothing.
//!
//! Nothing is allocated while all is well, and a call is bounded: one system call per link, one per frontend of a slice,
//! and a part of the slots, which are memory of ours.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use super::{LoadBalancer, sets_of};
use crate::compile::{Entry, Key, SetRef};
use crate::{Error, Verified};

/// Frontends that one call reads back.
const FRONTENDS: usize = 256;
/// Slots after which a call reads no further set: 8 KiB, which are out of the cache by the next call.
const SLOTS: usize = 1_024;

/// Where the next call goes on; `None` is the beginning.
#[derive(Debug, Default)]
pub struct Rotation {
    frontend: Option<Key>,
    set: Option<SetRef>,
}

impl LoadBalancer {
    /// Reads back what makes the services work: the links; of frontends and endpoint sets a bounded part at a time. What is
    /// wrong is repaired at once, and its address is not served until it has been read back right.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn verify(&mut self) -> Result<Verified, Error> {
        let mut faults = self.verify_links();
        let is_attached = faults.is_empty();
        self.verify_faulty()?;
        self.verify_sets(&mut faults);
        self.verify_frontends(&mut faults)?;
        self.write_pending(Instant::now())?;
        let served = if is_attached { self.served() } else { Arc::default() };
        Ok(Verified { served, faults })
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

    /// What was wrong and is right now is served again.
    fn verify_faulty(&mut self) -> Result<(), Error> {
        let mut healed = Vec::new();
        for key in &self.faulty {
            let desired = self.delta.desired().get(key).copied();
            if desired == self.maps.frontend(*key)? && desired.is_none_or(|entry| self.has_sets(entry)) {
                healed.push(*key);
            }
        }
        for key in &healed {
            self.faulty.remove(key);
            self.served = None;
        }
        Ok(())
    }

    fn verify_sets(&mut self, faults: &mut Vec<String>) {
        let mut wrong = Vec::new();
        let mut read = 0;
        let mut rest = self.images.range(self.rotation.set.take().unwrap_or_default()..);
        for (&set, &image) in rest.by_ref() {
            if self.maps.set_checksum(set) != Some(image) {
                wrong.push(set);
            }
            read += set.len() as usize;
            if read >= SLOTS {
                break;
            }
        }
        self.rotation.set = rest.next().map(|(set, _)| *set);
        for set in wrong {
            faults.push(format!("the {} endpoints at slot {} are not as they were written", set.count, set.offset));
            if let Some(image) = self.compiler.image(set) {
                self.maps.write_set(set, &image);
            }
            let uses = |entry: &Entry| entry.inside == set || entry.outside == set;
            let users = self.delta.desired().iter().filter(|(_, entry)| uses(entry));
            self.faulty.extend(users.map(|(key, _)| *key));
            self.served = None;
        }
    }

    fn verify_frontends(&mut self, faults: &mut Vec<String>) -> Result<(), Error> {
        let mut wrong = Vec::new();
        let from = self.rotation.frontend.take().unwrap_or(Key { addr: Ipv4Addr::UNSPECIFIED, port: 0, proto: 0 });
        let mut rest = self.delta.desired().range(from..);
        for (&key, &desired) in rest.by_ref().take(FRONTENDS) {
            let actual = self.maps.frontend(key)?;
            if actual != Some(desired) {
                wrong.push((key, actual));
            }
        }
        self.rotation.frontend = rest.next().map(|(key, _)| *key);
        for (key, actual) in wrong {
            self.served = None;
            faults.push(format!(
                "the frontend {}:{} (protocol {}) is not as it was written",
                key.addr, key.port, key.proto
            ));
            self.faulty.insert(key);
            self.delta.observe(key, actual);
        }
        Ok(())
    }

    fn has_sets(&self, entry: Entry) -> bool {
        sets_of([&entry]).into_iter().all(|set| self.maps.set_checksum(set) == self.images.get(&set).copied())
    }

    /// The addresses whose every frontend is in the map as it should be. Kept until something changes.
    fn served(&mut self) -> Arc<BTreeSet<IpAddr>> {
        if let Some(served) = &self.served {
            return served.clone();
        }
        let (desired, actual) = (self.delta.desired(), self.delta.actual());
        let is_broken = |(key, entry): &(&Key, &Entry)| actual.get(key) != Some(entry) || self.faulty.contains(key);
        let broken: BTreeSet<Ipv4Addr> = desired.iter().filter(is_broken).map(|(key, _)| key.addr).collect();
        let addrs = desired.keys().map(|key| key.addr);
        let served = addrs.filter(|addr| !addr.is_unspecified() && !broken.contains(addr)).map(IpAddr::V4);
        self.served.insert(Arc::new(served.collect())).clone()
    }
}
