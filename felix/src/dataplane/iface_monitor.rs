//! The kernel as it was last read: links, addresses and routes, kept up by events between dumps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use fib::resolve::{Links, Routes};
use fib::{Addr, Event, Kernel, KernelRoute, Link};

/// What the managers need to know of the kernel.
#[derive(Debug, Default)]
pub struct KernelView {
    pub links: Links,
    pub addrs: BTreeSet<Addr>,
    pub routes: Routes,
}

impl KernelView {
    /// Reads everything; gives the routes for the route table.
    ///
    /// # Errors
    /// The kernel's; then the view is as before.
    pub async fn read_dumps(&mut self, kernel: &dyn Kernel) -> Result<Vec<KernelRoute>, fib::Error> {
        let links = kernel.dump_links().await?;
        let addrs = kernel.dump_addrs().await?;
        let routes = kernel.dump_routes().await?;
        self.links = links.into_iter().map(|l| (l.index, l)).collect();
        self.addrs = addrs.into_iter().collect();
        self.routes = routes.iter().map(|r| (r.key, r.route.clone())).collect();
        Ok(routes)
    }

    /// Learns from an event; whether anything changed that we keep.
    pub fn observe(&mut self, event: &Event) -> bool {
        match event {
            Event::RouteChanged(r) => self.routes.insert(r.key, r.route.clone()).as_ref() != Some(&r.route),
            Event::RouteRemoved(key, protocol) => {
                let is_it = self.routes.get(key).is_some_and(|r| r.protocol == *protocol);
                is_it && self.routes.remove(key).is_some()
            }
            Event::LinkChanged(link) => self.links.insert(link.index, link.clone()).as_ref() != Some(link),
            Event::LinkRemoved(index) => {
                self.addrs.retain(|a| a.ifindex != *index);
                self.links.remove(index).is_some()
            }
            Event::AddrAdded(addr) => self.addrs.insert(*addr),
            Event::AddrRemoved(addr) => self.addrs.remove(addr),
            Event::Overrun => true,
        }
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|l| l.name == name)
    }

    /// The IPv4 addresses by which this host is known, in order of interface: neither loopback nor link-local, and not those
    /// of the interfaces that `skip` names.
    pub fn host_addresses(&self, skip: impl Fn(&str) -> bool) -> Vec<Ipv4Addr> {
        let is_skipped = |a: &Addr| self.links.get(&a.ifindex).is_some_and(|l| skip(&l.name));
        let addrs = self.addrs.iter().filter(|a| !is_skipped(a)).filter_map(|a| match a.net.addr() {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() => Some(v4),
            _ => None,
        });
        let mut seen = BTreeSet::new();
        addrs.filter(|a| seen.insert(*a)).collect()
    }
}
