//! Stored objects to the calculators' updates, and to what the daemon itself needs of them.

use api::key::KeyRange;
use api::meta::{Body, WithSpec};
use api::{EndpointSlice, FelixConfigurationSpec, Key, Kind, NodeSpec, Resource, WorkloadEndpointSpec};
use datastore::{KeyValue, typed};
use felix_calc::{ObjectName, Update};

/// A change, as the daemon uses it.
#[derive(Debug)]
pub enum Change {
    Calc(Update),
    /// The FelixConfiguration of this name.
    Config(String, Option<Box<FelixConfigurationSpec>>),
}

/// Everything that felix follows; with `services_only` no blocks, which matter to routes alone.
pub fn ranges(services_only: bool) -> Vec<KeyRange> {
    let kinds = [Kind::FelixConfiguration, Kind::Node, Kind::WorkloadEndpoint, Kind::Service, Kind::EndpointSlice];
    let blocks = (!services_only).then_some(KeyRange::Blocks);
    kinds.into_iter().map(KeyRange::Kind).chain(blocks).collect()
}

/// The change that a put means; `None` for a key that we do not use. What cannot be read counts as absent, and is logged.
pub fn put(kv: &KeyValue) -> Option<Change> {
    change(&kv.key, Some(kv))
}

/// The change that a deletion means.
pub fn delete(key: &Key) -> Option<Change> {
    change(key, None)
}

fn change(key: &Key, kv: Option<&KeyValue>) -> Option<Change> {
    let object = || ObjectName::new(key.namespace().unwrap_or_default(), key.name().unwrap_or_default());
    let name = || key.name().unwrap_or_default().to_string();
    Some(match key {
        Key::IpamBlock(cidr) => Change::Calc(Update::Block(*cidr, kv.and_then(block).map(Box::new))),
        Key::Resource { kind: Kind::WorkloadEndpoint, .. } => {
            let spec = body::<WithSpec<WorkloadEndpointSpec>>(kv).map(|r| Box::new(r.body.spec));
            Change::Calc(Update::WorkloadEndpoint(object(), spec))
        }
        Key::Resource { kind: Kind::Node, .. } => {
            Change::Calc(Update::Node(name(), body::<WithSpec<NodeSpec>>(kv).map(|r| Box::new(r.body.spec))))
        }
        Key::Resource { kind: Kind::Service, .. } => {
            Change::Calc(Update::Service(object(), body(kv).map(|r: api::Service| Box::new(r.body))))
        }
        Key::Resource { kind: Kind::EndpointSlice, .. } => {
            Change::Calc(Update::EndpointSlice(object(), body(kv).map(|r: EndpointSlice| Box::new(r))))
        }
        Key::Resource { kind: Kind::FelixConfiguration, .. } => {
            Change::Config(name(), body::<WithSpec<FelixConfigurationSpec>>(kv).map(|r| Box::new(r.body.spec)))
        }
        _ => return None,
    })
}

fn body<B: Body>(kv: Option<&KeyValue>) -> Option<Resource<B>> {
    let kv = kv?;
    typed::decode(kv).map_err(|error| ignored(&kv.key, &error)).ok()
}

fn block(kv: &KeyValue) -> Option<api::ipam::AllocationBlock> {
    serde_json::from_slice(&kv.value).map_err(|error| ignored(&kv.key, &error)).ok()
}

fn ignored(key: &Key, error: &dyn std::fmt::Display) {
    tracing::warn!(%key, %error, "ignoring a resource that cannot be read: correct it, or delete it");
}

#[cfg(test)]
#[path = "../../tests/cluster/rights.rs"]
mod rights;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_in_kubernetes_may_what_felix_does() {
        rights::assert_may_follow("tortie-felix", &ranges(false));
        // The addresses that it gives to the plugin.
        for resource in ["ipamblocks", "blockaffinities", "ipamhandles"] {
            let verbs = ["get", "list", "watch", "create", "update", "delete"];
            rights::assert_may("tortie-felix", "crd.projectcalico.org", resource, &verbs);
        }
        rights::assert_may_follow("tortie-felix", &ipam::followed(&[api::key::AffinityOwner::Host("node-1".into())]));
        for resource in ["ippools", "ipamconfigs", "clusterinformations"] {
            rights::assert_may("tortie-felix", "crd.projectcalico.org", resource, &["get"]);
        }
        rights::assert_may("tortie-felix", "", "nodes", &["get"]);
        rights::assert_may("tortie-felix", "", "namespaces", &["get"]);
    }

    fn kv(key: Key, value: &str) -> KeyValue {
        KeyValue { key, value: value.into(), mod_revision: 1 }
    }

    #[test]
    fn what_cannot_be_read_counts_as_absent() {
        let key = Key::resource(Kind::Service, Some("test"), "web");
        assert!(matches!(put(&kv(key.clone(), "{")), Some(Change::Calc(Update::Service(_, None)))));
        assert!(matches!(delete(&key), Some(Change::Calc(Update::Service(_, None)))));
        let good = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"test"},"spec":{}}"#;
        let Some(Change::Calc(Update::Service(name, Some(_)))) = put(&kv(key, good)) else { panic!("no service") };
        assert_eq!(name, ObjectName::new("test", "web"));
        assert!(put(&kv(Key::IpamConfig, "{}")).is_none());
    }
}
