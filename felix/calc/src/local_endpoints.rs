//! The workloads of this node, by interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::workload::WorkloadEndpointSpec;
use ipnet::IpNet;
use serde::Serialize;

use crate::graph::ObjectName;

/// What one workload interface carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalEndpoint {
    /// The WorkloadEndpoint.
    pub id: ObjectName,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// The MAC address of the interface inside the workload, where the endpoint says so.
    pub mac: Option<[u8; 6]>,
}

/// Keeps the endpoints whose `node` is ours and which name an interface.
pub struct LocalEndpoints {
    node: String,
    endpoints: BTreeMap<ObjectName, (String, LocalEndpoint)>,
}

impl LocalEndpoints {
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), endpoints: BTreeMap::new() }
    }

    /// Takes an endpoint; one of another node, or whose interface or addresses cannot be read, counts as absent.
    pub fn apply(&mut self, id: ObjectName, spec: Option<WorkloadEndpointSpec>) {
        match spec.filter(|s| s.node == self.node).and_then(|s| endpoint(&id, &s)) {
            Some(entry) => self.endpoints.insert(id, entry),
            None => self.endpoints.remove(&id),
        };
    }

    /// The endpoint of every interface. Of two endpoints that claim one interface the lowest name wins; the other one takes
    /// over when the winner leaves (Calico `felix/dataplane/linux/endpoint_mgr.go`, shadowed endpoints).
    pub fn by_interface(&self) -> BTreeMap<String, LocalEndpoint> {
        let mut by_interface = BTreeMap::new();
        for (interface, endpoint) in self.endpoints.values() {
            by_interface.entry(interface.clone()).or_insert_with(|| endpoint.clone());
        }
        by_interface
    }
}

fn endpoint(id: &ObjectName, spec: &WorkloadEndpointSpec) -> Option<(String, LocalEndpoint)> {
    if spec.interface_name.is_empty() {
        return None;
    }
    let mut addresses = spec.ip_networks.iter().map(|s| host_address(s)).collect::<Option<Vec<IpAddr>>>()?;
    addresses.sort();
    addresses.dedup();
    let mac = spec.mac.as_deref().and_then(parse_mac);
    Some((spec.interface_name.clone(), LocalEndpoint { id: id.clone(), addresses, mac }))
}

/// `10.0.0.1/32`, or a bare address. Only /32 and /128 may stand in an endpoint (Calico's validation).
fn host_address(text: &str) -> Option<IpAddr> {
    if let Ok(addr) = text.parse() {
        return Some(addr);
    }
    let net: IpNet = text.parse().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Six hexadecimal bytes with colons.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_macs() {
        let rows = [
            ("10.0.0.1/32", Some("10.0.0.1")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("fd00::1/128", Some("fd00::1")),
            ("10.0.0.0/24", None),
            ("x", None),
        ];
        for (text, addr) in rows {
            assert_eq!(host_address(text), addr.map(|a| a.parse().unwrap()), "{text}");
        }
        assert_eq!(parse_mac("ee:ee:ee:00:01:0f"), Some([0xee, 0xee, 0xee, 0, 1, 15]));
        assert_eq!(parse_mac("ee:ee:ee:ee:ee"), None);
        assert_eq!(parse_mac("ee:ee:ee:ee:ee:ee:ee"), None);
    }

    #[test]
    fn the_lowest_name_owns_an_interface_until_it_leaves() {
        let spec = |addr: &str| WorkloadEndpointSpec {
            node: "me".into(),
            interface_name: "cali1".into(),
            ip_networks: vec![addr.into()],
            ..Default::default()
        };
        let mut e = LocalEndpoints::new("me");
        e.apply(ObjectName::new("n", "b"), Some(spec("10.0.0.2/32")));
        e.apply(ObjectName::new("n", "a"), Some(spec("10.0.0.1/32")));
        assert_eq!(e.by_interface()["cali1"].id.name, "a");
        e.apply(ObjectName::new("n", "a"), None);
        assert_eq!(e.by_interface()["cali1"].id.name, "b");
        e.apply(ObjectName::new("n", "b"), Some(WorkloadEndpointSpec { node: "other".into(), ..spec("10.0.0.2/32") }));
        assert!(e.by_interface().is_empty());
    }
}
