//! The resources as they come: from the store, and passwords from files.
//!
//! ```text
//!   store ──watch (always)──────────────────┐
//!   store ──watch (once a resource asks)────┼──► Feed ──next──► plan
//!   secrets directory ──read every 2 s──────┘
//! ```
//! Workloads and services are watched only where a BGPPeer or a BGPConfiguration needs them. The tasks end with the feed.

use std::path::PathBuf;
use std::time::Duration;

use api::key::KeyRange;
use bgp_plan::password;
use bgp_plan::resources::{Resources, SecretFile};
use datastore::store::DynStore;
use datastore::watcher::Update;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout_at};

/// How soon a password that was put into a file is used.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// Every kind has a watch of its own: what one `calicoctl apply` wrote is planned together, so that a session does not end over
/// a filter that comes a moment after the peer which names it.
const SETTLE_TIME: Duration = Duration::from_millis(20);
/// Updates that may wait.
const QUEUE: usize = 1024;

/// Where resources come from.
pub struct Feed {
    store: DynStore,
    secrets_dir: PathBuf,
    resources: Resources,
    watched: Vec<KeyRange>,
    /// Watches that have not listed everything yet.
    unlisted: usize,
    sender: mpsc::Sender<Update>,
    updates: mpsc::Receiver<Update>,
    files: Interval,
}

impl Feed {
    /// Starts to watch; `namespace` is where Secrets are looked up.
    pub fn new(store: DynStore, node: &str, namespace: String, secrets_dir: PathBuf) -> Feed {
        let (sender, updates) = mpsc::channel(QUEUE);
        let mut files = tokio::time::interval(FILE_INTERVAL);
        files.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let resources = Resources { namespace, ..Resources::default() };
        let ranges = resources.ranges(node);
        let mut feed = Feed { store, secrets_dir, resources, watched: Vec::new(), unlisted: 0, sender, updates, files };
        feed.watch(ranges);
        feed
    }

    /// The resources, whenever they changed and everything asked for was listed; `None` when the store's watch ended.
    pub async fn next(&mut self) -> Option<&Resources> {
        loop {
            tokio::select! {
                update = self.updates.recv() => {
                    self.take(update?);
                    // What arrives together is planned once.
                    let deadline = Instant::now() + SETTLE_TIME;
                    while let Ok(Some(update)) = timeout_at(deadline, self.updates.recv()).await {
                        self.take(update);
                    }
                }
                _ = self.files.tick() => {
                    if !self.read_files().await {
                        continue;
                    }
                }
            }
            if self.unlisted > 0 {
                continue;
            }
            let more: Vec<KeyRange> =
                self.resources.more_ranges().into_iter().filter(|r| !self.watched.contains(r)).collect();
            if more.is_empty() {
                return Some(&self.resources);
            }
            self.watch(more);
        }
    }

    fn take(&mut self, update: Update) {
        self.resources.update(&update);
        if update == Update::InSync {
            self.unlisted -= 1;
            if self.unlisted == 0 {
                // What a file holds may be what a new peer needs.
                self.files.reset_immediately();
            }
        }
    }

    fn watch(&mut self, ranges: Vec<KeyRange>) {
        self.watched.extend(ranges.iter().cloned());
        self.unlisted += 1;
        let mut updates = datastore::watcher::watch(self.store.clone(), ranges);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                if sender.send(update).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Reads the files with passwords that some resource names; whether one changed.
    async fn read_files(&mut self) -> bool {
        let mut files = std::collections::BTreeMap::new();
        for (name, key) in password::wanted(&self.resources) {
            // Absent or not readable: the plan says what to create.
            if let Ok(bytes) = tokio::fs::read(self.secrets_dir.join(&name).join(&key)).await {
                files.insert((name, key), SecretFile(bytes));
            }
        }
        let changed = files != self.resources.secret_files;
        self.resources.secret_files = files;
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::{Key, Kind};
    use bgp_plan::peers::{RouterId, plan};
    use datastore::Store;
    use datastore::memory::MemoryStore;
    use serde_json::{Value, json};

    use super::*;

    async fn put(store: &MemoryStore, kind: Kind, name: &str, body: Value) {
        let mut document = json!({"kind": kind.as_str(), "apiVersion": kind.api_version(), "metadata": {"name": name}});
        document.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let key = Key::resource(kind, Some("kube-system"), name);
        store.create(key, document.to_string().into_bytes()).await.unwrap();
    }

    /// Plans until the only peer is as wanted.
    async fn until(feed: &mut Feed, wanted: Result<&str, &str>) {
        let soon = async {
            loop {
                let plan = plan("a", feed.next().await.unwrap(), RouterId::Hash).unwrap();
                let Some(peer) = plan.config.peers.values().next() else { continue };
                match (&peer.password, &peer.down_reason, wanted) {
                    (Some(password), None, Ok(wanted)) if **password == *wanted => return,
                    (None, Some(why), Err(wanted)) if why.contains(wanted) => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), soon).await.expect("the plan comes");
    }

    #[tokio::test]
    async fn a_password_is_taken_up_when_it_comes() {
        let (store, directory) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
        put(&store, Kind::Node, "a", json!({"spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}})).await;
        let password = json!({"secretKeyRef": {"name": "bgp", "key": "password"}});
        let spec = json!({"peerIP": "10.0.0.2", "asNumber": 65001, "password": password});
        put(&store, Kind::BgpPeer, "tor", json!({ "spec": spec })).await;
        let mut feed = Feed::new(store.clone(), "a", "kube-system".into(), directory.path().into());
        until(&mut feed, Err("there is no Secret kube-system/bgp")).await;

        std::fs::create_dir(directory.path().join("bgp")).unwrap();
        std::fs::write(directory.path().join("bgp/password"), "from a file\n").unwrap();
        until(&mut feed, Ok("from a file")).await;
        put(&store, Kind::Secret, "bgp", json!({"data": {"password": "aHVudGVyMg=="}})).await;
        until(&mut feed, Ok("hunter2")).await;
        store.delete(Key::resource(Kind::Secret, Some("kube-system"), "bgp"), None).await.unwrap();
        until(&mut feed, Ok("from a file")).await;
        std::fs::remove_file(directory.path().join("bgp/password")).unwrap();
        until(&mut feed, Err("there is no Secret")).await;
    }

    /// Workloads and services are read once something asks for them, and are all there when it is planned.
    #[tokio::test]
    async fn what_few_need_is_watched_when_it_is_needed() {
        let store = Arc::new(MemoryStore::new());
        put(&store, Kind::Node, "a", json!({"spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}})).await;
        let service =
            json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.6"]}});
        put(&store, Kind::Service, "web", service).await;
        let mut feed = Feed::new(store.clone(), "a", "kube-system".into(), "/nonexistent".into());
        assert!(feed.next().await.unwrap().local_services.is_empty());
        let ranges = json!({"spec": {"serviceExternalIPs": [{"cidr": "203.0.113.0/24"}]}});
        put(&store, Kind::BgpConfiguration, "default", ranges).await;
        let soon = async { while feed.next().await.unwrap().local_services.is_empty() {} };
        tokio::time::timeout(Duration::from_secs(20), soon).await.expect("the service comes");
    }
}
