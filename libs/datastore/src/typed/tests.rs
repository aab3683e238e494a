use api::bgp_peer::BgpPeer;
use api::ip_pool::{IpPool, IpPoolSpec};
use api::ipam::IpamConfiguration;
use api::meta::WithSpec;

use super::*;
use crate::memory::{Fault, MemoryStore};

fn resource<B: Body>(document: Value) -> Resource<B> {
    serde_json::from_value(document).unwrap()
}

fn pool(cidr: &str) -> IpPool {
    resource(json!({
        "kind": "IPPool", "apiVersion": "crd.projectcalico.org/v1", "metadata": {"name": "p", "resourceVersion": "77"},
        "spec": {"cidr": cidr}
    }))
}

async fn stored(store: &MemoryStore, key: &Key) -> Value {
    serde_json::from_slice(&store.get(key).await.unwrap().unwrap().value).unwrap()
}

#[tokio::test]
async fn metadata_is_filled_as_calico_does() {
    let store = MemoryStore::new();
    let created = create(&store, &pool("10.0.0.0/16")).await.unwrap();
    let uid = created.metadata.uid.clone().unwrap();
    assert_eq!(uid.len(), 36);
    let time = created.metadata.creation_timestamp.clone().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2006-01-02T15:04:05Z".len(), "{time}");
    assert_eq!(created.metadata.resource_version.as_deref(), Some("1"));

    let value = stored(&store, &created.key()).await;
    assert_eq!(value["metadata"].get("resourceVersion"), None, "never stored");
    assert_eq!((&value["kind"], &value["apiVersion"]), (&json!("IPPool"), &json!("projectcalico.org/v3")));
    assert_eq!(get::<WithSpec<IpPoolSpec>>(&store, None, "p").await.unwrap().unwrap().metadata, created.metadata);
    assert!(matches!(create(&store, &pool("10.0.0.0/16")).await, Err(Error::AlreadyExists(_))));
}

#[tokio::test]
async fn update_is_a_compare_and_swap_on_the_resource_version() {
    let store = MemoryStore::new();
    let created = create(&store, &pool("10.0.0.0/16")).await.unwrap();
    let mut without_identity = pool("10.1.0.0/16");
    without_identity.metadata.resource_version = Some("1".into());
    let updated = update(&store, &without_identity).await.unwrap();
    assert_eq!(updated.metadata.uid, created.metadata.uid);
    assert_eq!(updated.metadata.resource_version.as_deref(), Some("2"));

    assert!(matches!(update(&store, &created).await, Err(Error::Conflict(_))), "another has written since");
    without_identity.metadata.resource_version = None;
    assert!(matches!(update(&store, &without_identity).await, Err(Error::Invalid(_))));
    assert!(delete(&store, &created.key()).await.unwrap());
    assert!(matches!(update(&store, &updated).await, Err(Error::NotFound(_))));
    assert!(!delete(&store, &created.key()).await.unwrap(), "deleting what is gone succeeds");
}

#[tokio::test]
async fn apply_creates_replaces_and_leaves_alone() {
    let store = MemoryStore::new();
    let created = apply(&store, &pool("10.0.0.0/16")).await.unwrap();
    store.fail_next_txn(Fault::Conflict);
    let replaced = apply(&store, &pool("10.1.0.0/16")).await.unwrap();
    assert_eq!(replaced.metadata.uid, created.metadata.uid);
    assert_eq!(replaced.metadata.creation_timestamp, created.metadata.creation_timestamp);
    assert_eq!(replaced.metadata.resource_version.as_deref(), Some("2"));
    apply(&store, &pool("10.1.0.0/16")).await.unwrap();
    assert_eq!(store.revision(), 2, "the same again is no write");
}

/// As an API server gives it back.
#[tokio::test]
async fn apply_leaves_alone_what_says_the_same_in_another_order_and_with_the_servers_defaults() {
    let store = MemoryStore::new();
    let key = apply(&store, &pool("10.0.0.0/16")).await.unwrap().key();
    let mut value = stored(&store, &key).await;
    value["spec"] = json!({"assignmentMode": "Automatic", "vxlanMode": "Never", "nodeSelector": "all()", "ipipMode": "Never", "cidr": "10.0.0.0/16"});
    let there = store.put(key, value.to_string().into_bytes()).await.unwrap();
    let applied = apply(&store, &pool("10.0.0.0/16")).await.unwrap();
    assert_eq!((store.revision(), applied.metadata.resource_version), (there, Some(there.to_string())));
    let mut other = pool("10.0.0.0/16");
    other.body.spec.node_selector = Some("rack == 'a'".into());
    apply(&store, &other).await.unwrap();
    assert_eq!(store.revision(), there + 1, "another value than the default is a change");
}

#[tokio::test]
async fn settings_that_calico_lacks_are_annotations_in_the_store() {
    let store = MemoryStore::new();
    let document = json!({
        "kind": "BGPPeer", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "leaf"},
        "spec": {"peerIP": "192.168.1.1", "asNumber": 65001, "holdTime": "9s"}
    });
    let peer: BgpPeer = resource(document);
    create(&store, &peer).await.unwrap();
    let value = stored(&store, &peer.key()).await;
    assert_eq!(value["spec"].get("holdTime"), None);
    assert_eq!(value["metadata"]["annotations"]["tortie.io/holdTime"], "\"9s\"");
    let read: BgpPeer = get(&store, None, "leaf").await.unwrap().unwrap();
    assert_eq!(read.body, peer.body);
    assert!(read.metadata.annotations.is_empty());
}

#[tokio::test]
async fn the_ipam_configuration_is_stored_as_calicos() {
    let store = MemoryStore::new();
    let config: IpamConfiguration = resource(json!({
        "kind": "IPAMConfiguration", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"},
        "spec": {"strictAffinity": true, "maxBlocksPerHost": 4}
    }));
    apply(&store, &config).await.unwrap();
    let value = stored(&store, &Key::IpamConfig).await;
    assert_eq!(value, json!({"strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 4}));
    let as_ipam: api::ipam::IpamConfig = serde_json::from_value(value).unwrap();
    assert!(as_ipam.strict_affinity);
    let (read, _) = list(&store).await.unwrap();
    assert_eq!(read.iter().map(|c: &IpamConfiguration| &c.body).collect::<Vec<_>>(), [&config.body]);
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_a_listing_goes_on() {
    let store = MemoryStore::new();
    apply(&store, &pool("10.0.0.0/16")).await.unwrap();
    let broken = Key::resource(Kind::IpPool, None, "broken");
    store.put(broken.clone(), b"{\"kind\":\"IPPool\"".into()).await.unwrap();
    let (pools, revision) = list::<WithSpec<IpPoolSpec>>(&store).await.unwrap();
    assert_eq!((pools.len(), revision), (1, 2));
    let error = get::<WithSpec<IpPoolSpec>>(&store, None, "broken").await.unwrap_err();
    assert!(error.to_string().contains("/ippools/broken"), "{error}");
}
