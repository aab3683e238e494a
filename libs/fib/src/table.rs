//! The routes of one protocol: desired against actual.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use reconcile::Delta;

use crate::kernel::{Change, Error, Event, Kernel, KernelRoute};
use crate::resolve::Routes;
use crate::route::{Route, RouteKey, Shared};

/// Changes that are made at a time: what they need beside the table is bounded.
const SLICE: usize = 4096;

/// What one [`RouteTable::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    pub written: usize,
    pub deleted: usize,
    /// What failed; each is tried again, later every time.
    pub failures: Vec<(RouteKey, Error)>,
    /// The kernel does not hold what we believed, or nobody knows what it did: a dump has to say.
    pub needs_resync: bool,
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
    delta: Delta<RouteKey, Arc<Route>>,
    values: Shared,
    foreign: BTreeMap<RouteKey, u8>,
}

impl RouteTable {
    /// An empty table; call [`RouteTable::resync`] before the first apply.
    pub fn new(protocol: u8) -> Self {
        Self { protocol, delta: Delta::new(), values: Shared::default(), foreign: BTreeMap::new() }
    }

    /// The routes wanted.
    pub fn desired(&self) -> &Routes {
        self.delta.desired()
    }

    /// Our routes as last read back or written.
    pub fn actual(&self) -> &Routes {
        self.delta.actual()
    }

    /// Wants this route. Its protocol becomes the table's.
    pub fn insert(&mut self, key: RouteKey, route: impl Into<Arc<Route>>) {
        let route = self.own(route.into());
        self.delta.insert(key, route);
    }

    /// The route as ours.
    fn own(&mut self, route: Arc<Route>) -> Arc<Route> {
        let is_own = route.protocol == self.protocol && route.is_normal();
        self.values.share(match is_own {
            true => route,
            false => Arc::new(Route { protocol: self.protocol, ..(*route).clone() }.normal()),
        })
    }

    /// Wants no route at this key.
    pub fn remove(&mut self, key: &RouteKey) {
        self.delta.remove(key);
    }

    /// Makes `desired` all that is wanted.
    pub fn set_desired(&mut self, desired: BTreeMap<RouteKey, Route>) {
        let own = desired.into_iter().map(|(k, r)| (k, self.own(r.into()))).collect();
        self.delta.set_desired(own);
    }

    /// The desired state is complete: routes of ours that are not wanted may go.
    pub fn set_in_sync(&mut self) {
        self.delta.set_in_sync();
    }

    /// Takes a dump as the truth.
    pub fn resync(&mut self, dump: &[KernelRoute]) {
        let (own, foreign): (Vec<_>, Vec<_>) = dump.iter().partition(|r| r.route.protocol == self.protocol);
        self.foreign = foreign.into_iter().map(|r| (r.key, r.route.protocol)).collect();
        let own = own.into_iter().map(|r| (r.key, self.values.share(r.route.clone()))).collect();
        self.delta.resync(own);
        self.values.forget_unused();
    }

    /// Learns from an event. [`Event::needs_resync`] ones need a dump in addition.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::RouteChanged(r) if r.route.protocol == self.protocol => {
                self.foreign.remove(&r.key);
                let route = self.values.share(r.route.clone());
                self.delta.observe(r.key, Some(route));
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
        let mut all = Applied::default();
        loop {
            let mut some = self.apply_some(kernel, now).await;
            if some.is_idle() {
                return all;
            }
            all.written += some.written;
            all.deleted += some.deleted;
            all.failures.append(&mut some.failures);
            all.needs_resync |= some.needs_resync;
        }
    }

    /// The same for a limited number of routes: idle once nothing is left to do now.
    pub async fn apply_some(&mut self, kernel: &dyn Kernel, now: Instant) -> Applied {
        let mut applied = Applied::default();
        let pending = self.delta.pending_up_to(now, SLICE);
        let mut changes = Vec::with_capacity(pending.updates.len() + pending.deletes.len());
        for (key, route) in pending.updates {
            if let Some(owner) = self.foreign.get(&key) {
                self.delta.record_failure(&key, now);
                applied.failures.push((key, Error::Foreign { key, owner: *owner }));
            } else if self.delta.actual().contains_key(&key) {
                changes.push(Change::Replace(key, route));
            } else {
                // Nobody has it, as far as we know.
                changes.push(Change::Add(key, route));
            }
        }
        changes.extend(pending.deletes.into_iter().map(|(key, _)| Change::Delete(key, self.protocol)));
        if changes.is_empty() {
            return applied;
        }
        let results = kernel.apply(changes.clone()).await;
        for (change, result) in changes.into_iter().zip(results) {
            match (change, result) {
                (Change::Add(key, route) | Change::Replace(key, route), Ok(())) => {
                    self.delta.record_write(&key, route);
                    applied.written += 1;
                }
                (Change::Delete(key, _), Ok(())) => {
                    self.delta.record_delete(&key);
                    applied.deleted += 1;
                }
                (change, Err(error)) => {
                    self.delta.record_failure(&change.key(), now);
                    applied.needs_resync |= error.is_taken() || error.is_unknown_outcome();
                    applied.failures.push((change.key(), error));
                }
            }
        }
        applied
    }

    /// Whether one of the values that routes of ours have, or had lately, is such.
    pub fn any_value(&self, is_such: impl FnMut(&Route) -> bool) -> bool {
        self.values.any(is_such)
    }

    /// When a failed route is due again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.delta.next_deadline()
    }

    /// How many routes failed and wait for their next try.
    pub fn failed(&self) -> usize {
        self.delta.failed()
    }

    /// Whether this one failed and waits for its next try.
    pub fn has_failed(&self, key: &RouteKey) -> bool {
        self.delta.has_failed(key)
    }

    /// Whether the kernel holds what is wanted.
    pub fn is_clean(&self) -> bool {
        self.delta.is_clean()
    }
}

#[cfg(test)]
mod tests;
