use std::sync::Arc;

use api::meta::WithSpec;
use api::{IpPoolSpec, Metadata};
use datastore::memory::MemoryStore;

use super::*;

fn pool_key() -> Key {
    Key::resource(Kind::IpPool, None, "p")
}

fn pool(block_size: u8) -> IpPool {
    let spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new("10.0.0.0/24".parse().unwrap()) };
    IpPool::new(Metadata::named("p"), WithSpec { spec, status: None })
}

fn put(block_size: u8, mod_revision: Revision) -> KeyValue {
    KeyValue { key: pool_key(), value: serde_json::to_vec(&pool(block_size)).unwrap(), mod_revision }
}

async fn follow() -> Arc<Snapshot> {
    let store: DynStore = Arc::new(MemoryStore::new());
    typed::create(store.as_ref(), &pool(26)).await.unwrap();
    let snapshot = Snapshot::follow(store, vec![AffinityOwner::Host("a".into())]);
    snapshot.synced().await;
    snapshot
}

fn block_sizes(snapshot: &Snapshot) -> Vec<u8> {
    snapshot.pools().iter().map(|p| p.body.spec.block_prefix_len()).collect()
}

#[tokio::test]
async fn a_doubt_that_arises_during_the_listing_stays() {
    let snapshot = follow().await;
    let doubts = snapshot.doubts().expect("until the blocks are listed");
    let listing = Listing { items: vec![], revision: 1 };
    snapshot.update(Update::Put(put(28, 50)));
    snapshot.listed(&listing, doubts);
    let doubts = snapshot.doubts().expect("the pool has changed since the listing began");
    snapshot.listed(&listing, doubts);
    assert_eq!(snapshot.doubts(), None);
}

#[tokio::test]
async fn what_was_read_takes_back_nothing_that_was_heard_meanwhile() {
    let snapshot = follow().await;
    let key = pool_key();
    let before = snapshot.revision(&key);
    assert!(before.is_some());
    snapshot.update(Update::Put(put(28, 50)));
    snapshot.refreshed(&key, before, Some(put(27, 40)));
    assert_eq!((block_sizes(&snapshot), snapshot.revision(&key)), (vec![28], Some(50)));
    snapshot.refreshed(&key, before, None);
    assert_eq!(block_sizes(&snapshot), [28], "deleted, and made anew since");
    snapshot.refreshed(&key, before, Some(put(29, 60)));
    assert_eq!(block_sizes(&snapshot), [29], "newer than what was heard");
    let before = snapshot.revision(&key);
    snapshot.update(Update::Delete(key.clone()));
    snapshot.refreshed(&key, before, Some(put(29, 60)));
    assert!(block_sizes(&snapshot).is_empty(), "deleted since");
    snapshot.update(Update::Put(put(28, 70)));
    snapshot.refreshed(&key, Some(70), None);
    assert!(block_sizes(&snapshot).is_empty());
}

#[tokio::test]
async fn a_pool_that_cannot_be_read_any_more_gives_nothing() {
    let snapshot = follow().await;
    let doubts = snapshot.doubts();
    snapshot.update(Update::Put(KeyValue { value: b"{".to_vec(), ..put(26, 50) }));
    assert!(block_sizes(&snapshot).is_empty());
    assert!(snapshot.doubts() > doubts);
}

#[tokio::test]
async fn affinities_that_are_no_longer_right_are_known() {
    let snapshot = follow().await;
    let owner = AffinityOwner::Host("a".into());
    let node = |labels: &[(&str, &str)]| {
        let mut metadata = Metadata::named("a");
        metadata.labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let node = api::Node::new(metadata, WithSpec { spec: NodeSpec::default(), status: None });
        let value = serde_json::to_vec(&node).unwrap();
        Update::Put(KeyValue { key: Key::resource(Kind::Node, None, "a"), value, mod_revision: 60 })
    };
    let block = |owner: &str, mod_revision| {
        let cidr: IpNet = "10.0.0.64/26".parse().unwrap();
        let owner = AffinityOwner::Host(owner.into());
        let block = Block::new(cidr, &owner, jiff::Timestamp::UNIX_EPOCH).unwrap();
        Update::Put(KeyValue { key: Key::IpamBlock(cidr), value: serde_json::to_vec(&block).unwrap(), mod_revision })
    };
    let affinity = |cidr: &str| {
        let value = br#"{"state":"confirmed","deleted":false}"#.to_vec();
        let key = Key::BlockAffinity(owner.clone(), cidr.parse().unwrap());
        Update::Put(KeyValue { key, value, mod_revision: 50 })
    };
    let texts = |cidrs: Vec<IpNet>| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let strays = || texts(snapshot.strays(&owner));
    let unselected = || texts(snapshot.unselected(&owner).unwrap().into_iter().map(|(cidr, _)| cidr).collect());
    snapshot.update(affinity("10.0.0.64/26"));
    snapshot.update(affinity("10.9.0.0/26"));
    assert!(unselected().is_empty(), "the node is not known");
    snapshot.update(node(&[]));
    assert_eq!(strays(), ["10.0.0.64/26", "10.9.0.0/26"]);
    assert_eq!(unselected(), ["10.9.0.0/26"], "of no pool");
    snapshot.update(block("a", 51));
    assert_eq!(strays(), ["10.9.0.0/26"]);
    snapshot.update(block("b", 52));
    assert_eq!(strays(), ["10.0.0.64/26", "10.9.0.0/26"], "another's");
    snapshot.update(Update::Delete(Key::BlockAffinity(owner.clone(), "10.9.0.0/26".parse().unwrap())));
    assert_eq!((strays().len(), unselected().len()), (1, 0));
    let mut selecting = pool(26);
    selecting.body.spec.node_selector = Some("!has(out)".into());
    let value = serde_json::to_vec(&selecting).unwrap();
    snapshot.update(Update::Put(KeyValue { key: pool_key(), value, mod_revision: 70 }));
    assert!(unselected().is_empty());
    snapshot.update(node(&[("out", "")]));
    assert_eq!(unselected(), ["10.0.0.64/26"]);
    assert_eq!(snapshot.unselected(&AffinityOwner::Host("b".into())), None);
}

/// Handles are kept in another form.
#[test]
fn a_handle_is_kept_as_it_was() {
    for text in [r#"{"block":{},"deleted":false}"#, r#"{"block":{"10.0.0.0/26":2,"x":1},"deleted":true}"#] {
        let value: IpamHandle = serde_json::from_str(text).unwrap();
        let kept = Held::new(Versioned { value, revision: 7 }).handle();
        assert_eq!((serde_json::to_string(&kept.value).unwrap().as_str(), kept.revision), (text, 7));
    }
}
