//! The routes of one protocol: desired against actual.

use std::collections::BTreeMap;
use std::time::Instant;

use reconcile::Delta;

use crate::kernel::{Change, Error, Event, Kernel, KernelRoute};
use crate::route::{Route, RouteKey};

/// What one [`RouteTable::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    pub written: usize,
    pub deleted: usize,
    /// What failed; each is tried again, later every time.
    pub failures: Vec<(RouteKey, Error)>,
}

impl Applied {
    /// Whether nothing was written or tried.
    pub fn is_idle(&self) -> bool {
        self.written == 0 && self.deleted == 0 && self.failures.is_empty()
    }
}

/// The routes of one protocol.
///
/// Owns every route of its protocol in the main table, and no other: a key that another protocol holds is refused
/// ([`Error::Foreign`]) until that route has gone, because the kernel's replace would overwrite it.
#[derive(Debug)]
pub struct RouteTable {
    protocol: u8,
    delta: Delta<RouteKey, Route>,
    foreign: BTreeMap<RouteKey, u8>,
}

impl RouteTable {
    /// An empty table; call [`RouteTable::resync`] before the first apply.
    pub fn new(protocol: u8) -> Self {
        Self { protocol, delta: Delta::new(), foreign: BTreeMap::new() }
    }

    /// The routes wanted.
    pub fn desired(&self) -> &BTreeMap<RouteKey, Route> {
        self.delta.desired()
    }

    /// Our routes as last read back or written.
    pub fn actual(&self) -> &BTreeMap<RouteKey, Route> {
        self.delta.actual()
    }

    /// Wants this route. Its protocol becomes the table's.
    pub fn insert(&mut self, key: RouteKey, route: Route) {
        self.delta.insert(key, Route { protocol: self.protocol, ..route }.normal());
    }

    /// Wants no route at this key.
    pub fn remove(&mut self, key: &RouteKey) {
        self.delta.remove(key);
    }

    /// Makes `desired` all that is wanted.
    pub fn set_desired(&mut self, desired: BTreeMap<RouteKey, Route>) {
        let protocol = self.protocol;
        let own = desired.into_iter().map(|(k, r)| (k, Route { protocol, ..r }.normal()));
        self.delta.set_desired(own.collect());
    }

    /// The desired state is complete: routes of ours that are not wanted may go.
    pub fn set_in_sync(&mut self) {
        self.delta.set_in_sync();
    }

    /// Takes a dump as the truth.
    pub fn resync(&mut self, dump: &[KernelRoute]) {
        let (own, foreign): (Vec<_>, Vec<_>) = dump.iter().partition(|r| r.route.protocol == self.protocol);
        self.foreign = foreign.into_iter().map(|r| (r.key, r.route.protocol)).collect();
        self.delta.resync(own.into_iter().map(|r| (r.key, r.route.clone())).collect());
    }

    /// Learns from an event. [`Event::needs_resync`] ones need a dump in addition.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::RouteChanged(r) if r.route.protocol == self.protocol => {
                self.foreign.remove(&r.key);
                self.delta.observe(r.key, Some(r.route.clone()));
            }
            Event::RouteChanged(r) => {
                // The kernel holds one route a key: whoever wrote last has replaced ours.
                self.foreign.insert(r.key, r.route.protocol);
                self.delta.observe(r.key, None);
            }
            Event::RouteRemoved(key, protocol) if *protocol == self.protocol => self.delta.observe(*key, None),
            Event::RouteRemoved(key, protocol) => {
                if self.foreign.get(key) == Some(protocol) {
                    self.foreign.remove(key);
                    self.delta.retry_now();
                }
            }
            // What was refused for want of a link or a source address may be accepted now.
            Event::LinkChanged(link) if link.is_usable() => self.delta.retry_now(),
            Event::AddrAdded(_) => self.delta.retry_now(),
            Event::LinkChanged(_) | Event::LinkRemoved(_) | Event::AddrRemoved(_) | Event::Overrun => {}
        }
    }

    /// Writes what differs and is not waiting for its next try. With nothing to do it does not touch the kernel.
    pub async fn apply(&mut self, kernel: &dyn Kernel, now: Instant) -> Applied {
        let mut applied = Applied::default();
        let pending = self.delta.pending(now);
        let mut changes = Vec::with_capacity(pending.updates.len() + pending.deletes.len());
        for (key, route) in pending.updates {
            match self.foreign.get(&key) {
                Some(owner) => {
                    self.delta.record_failure(&key, now);
                    applied.failures.push((key, Error::Foreign { key, owner: *owner }));
                }
                None => changes.push(Change::Replace(key, route)),
            }
        }
        changes.extend(pending.deletes.into_iter().map(|(key, _)| Change::Delete(key, self.protocol)));
        if changes.is_empty() {
            return applied;
        }
        let results = kernel.apply(changes.clone()).await;
        for (change, result) in changes.into_iter().zip(results) {
            match (change, result) {
                (Change::Replace(key, route), Ok(())) => {
                    self.delta.record_write(&key, route);
                    applied.written += 1;
                }
                (Change::Delete(key, _), Ok(())) => {
                    self.delta.record_delete(&key);
                    applied.deleted += 1;
                }
                (change, Err(error)) => {
                    self.delta.record_failure(&change.key(), now);
                    applied.failures.push((change.key(), error));
                }
            }
        }
        applied
    }

    /// When a failed route is due again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.delta.next_deadline()
    }

    /// Whether the kernel holds what is wanted.
    pub fn is_clean(&self) -> bool {
        self.delta.is_clean()
    }
}

#[cfg(test)]
mod tests;
