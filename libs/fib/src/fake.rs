//! A kernel in memory that fails on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::kernel::{Addr, Change, Error, Event, Kernel, KernelRoute, Link, Watch};
use crate::resolve::Routes;
use crate::route::{Route, RouteKey};

/// A kernel in memory. What is changed through its own methods is reported to monitors, as are writes.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    routes: Routes,
    links: BTreeMap<u32, Link>,
    addrs: BTreeSet<Addr>,
    refused: BTreeSet<RouteKey>,
    dumps_fail: bool,
    changes: Vec<Change>,
    monitors: Vec<(Watch, mpsc::Sender<Vec<Event>>)>,
}

impl State {
    /// Tells the monitors for which it is; those of others are not told of our own writes.
    fn emit(&mut self, event: &Event, is_own: bool) {
        let is_route = matches!(event, Event::RouteChanged(_) | Event::RouteRemoved(..));
        self.monitors.retain(|(watch, monitor)| {
            let is_for = match watch {
                Watch::All => true,
                Watch::Others => !is_own,
                Watch::Links => !is_route,
            };
            if is_for { monitor.try_send(vec![event.clone()]).is_ok() } else { !monitor.is_closed() }
        });
    }

    fn write(&mut self, change: Change) -> Result<(), Error> {
        let key = change.key();
        if self.refused.contains(&key) {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(Error::Refused { attempted: format!("write {key}"), reason: None, source });
        }
        if matches!(change, Change::Add(..)) && self.routes.contains_key(&key) {
            let source = io::Error::from_raw_os_error(libc::EEXIST);
            return Err(Error::Refused { attempted: format!("add {key}"), reason: None, source });
        }
        self.changes.push(change.clone());
        match change {
            Change::Add(key, route) | Change::Replace(key, route) => {
                self.routes.insert(key, route.clone());
                self.emit(&Event::RouteChanged(KernelRoute { key, route, is_beside: false }), true);
            }
            Change::Delete(key, protocol) => {
                if self.routes.get(&key).is_some_and(|r| r.protocol == protocol) {
                    self.routes.remove(&key);
                    self.emit(&Event::RouteRemoved(key, protocol), true);
                }
            }
        }
        Ok(())
    }
}

impl Fake {
    /// An empty kernel.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routes it holds.
    pub fn routes(&self) -> Routes {
        self.state().routes.clone()
    }

    /// The writes since the last call, without refused ones.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state().changes)
    }

    /// Somebody else sets a route.
    pub fn set_route(&self, key: RouteKey, route: Route) {
        let (mut state, route) = (self.state(), Arc::new(route));
        state.routes.insert(key, route.clone());
        state.emit(&Event::RouteChanged(KernelRoute { key, route, is_beside: false }), false);
    }

    /// Somebody else removes a route.
    pub fn remove_route(&self, key: &RouteKey) {
        let mut state = self.state();
        if let Some(route) = state.routes.remove(key) {
            state.emit(&Event::RouteRemoved(*key, route.protocol), false);
        }
    }

    /// A link appears or changes.
    pub fn set_link(&self, link: Link) {
        let mut state = self.state();
        state.links.insert(link.index, link.clone());
        state.emit(&Event::LinkChanged(link), false);
    }

    /// An address appears.
    pub fn add_addr(&self, addr: Addr) {
        let mut state = self.state();
        state.addrs.insert(addr);
        state.emit(&Event::AddrAdded(addr), false);
    }

    /// Refuses to write this key, or no longer.
    pub fn refuse(&self, key: RouteKey, refuse: bool) {
        let mut state = self.state();
        if refuse {
            state.refused.insert(key)
        } else {
            state.refused.remove(&key)
        };
    }

    /// Makes every dump fail, or no longer.
    pub fn fail_dumps(&self, fail: bool) {
        self.state().dumps_fail = fail;
    }

    fn dump<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Error> {
        let state = self.state();
        if state.dumps_fail {
            return Err(Error::Socket { attempted: "dump", source: io::Error::from_raw_os_error(libc::ENOBUFS) });
        }
        Ok(read(&state))
    }
}

#[async_trait::async_trait]
impl Kernel for Fake {
    async fn dump_routes(&self) -> Result<Vec<KernelRoute>, Error> {
        self.dump(|s| {
            s.routes.iter().map(|(k, r)| KernelRoute { key: *k, route: r.clone(), is_beside: false }).collect()
        })
    }

    async fn dump_links(&self) -> Result<Vec<Link>, Error> {
        self.dump(|s| s.links.values().cloned().collect())
    }

    async fn dump_addrs(&self) -> Result<Vec<Addr>, Error> {
        self.dump(|s| s.addrs.iter().copied().collect())
    }

    async fn apply(&self, changes: Vec<Change>) -> Vec<Result<(), Error>> {
        let mut state = self.state();
        changes.into_iter().map(|change| state.write(change)).collect()
    }

    fn monitor(&self, watch: Watch) -> Result<mpsc::Receiver<Vec<Event>>, Error> {
        let (tx, rx) = mpsc::channel(4096);
        self.state().monitors.push((watch, tx));
        Ok(rx)
    }
}
