//! Addresses that a plan has given out and the store does not show yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Addresses with the handles that they are given to.
#[derive(Clone, Debug, Default)]
pub struct Picked {
    by_address: BTreeMap<IpAddr, String>,
    by_handle: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Picked {
    pub fn insert(&mut self, ip: IpAddr, handle: String) {
        self.remove(ip);
        self.by_handle.entry(handle.clone()).or_default().insert(ip);
        self.by_address.insert(ip, handle);
    }

    pub fn remove(&mut self, ip: IpAddr) {
        let Some(handle) = self.by_address.remove(&ip) else { return };
        if let Some(of_handle) = self.by_handle.get_mut(&handle) {
            of_handle.remove(&ip);
            if of_handle.is_empty() {
                self.by_handle.remove(&handle);
            }
        }
    }

    /// Forgets what is given to a handle.
    pub fn forget(&mut self, handle: &str) {
        for ip in self.by_handle.remove(handle).into_iter().flatten() {
            self.by_address.remove(&ip);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// To whom an address is given.
    pub fn handle_of(&self, ip: IpAddr) -> Option<&str> {
        self.by_address.get(&ip).map(String::as_str)
    }

    /// What is given to a handle, in order.
    pub fn of(&self, handle: &str) -> impl Iterator<Item = IpAddr> {
        self.by_handle.get(handle).into_iter().flatten().copied()
    }
}
