//! The ClusterInformation: whose datastore this is, and whether it is locked (Calico `clientv3/client.go` `EnsureInitialized`).

use anyhow::{Result, bail};
use api::go_json;
use api::kind::{CALICO_V3, Kind};
use datastore::{Error, KeyValue, Op, Store, Txn};
use ipam::check::report::Cluster;
use ipam::lock::{self, key};
use serde_json::{Map, Value, json};

use crate::stored::Unreadable;

/// How often a change is made again when somebody else writes at the same time.
const ATTEMPTS: u32 = 20;

/// What it says; nothing where there is none. The version is the cluster's, by which Calico's tools recognise a report, or ours.
pub async fn read(store: &dyn Store) -> Result<Cluster> {
    Ok(read_any(store).await??)
}

/// As [`read`]; why there is none that can be read stands in its place.
pub async fn read_any(store: &dyn Store) -> Result<Result<Cluster, Unreadable>> {
    let Some(kv) = store.get(&key()).await? else {
        return Ok(Ok(Cluster { version: env!("CARGO_PKG_VERSION").into(), ..Cluster::default() }));
    };
    let value = match document(&kv) {
        Ok(value) => value,
        Err(unreadable) => return Ok(Err(unreadable)),
    };
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let version = Some(text("/spec/calicoVersion")).filter(|v| !v.is_empty());
    Ok(Ok(Cluster {
        version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").into()),
        guid: text("/spec/clusterGUID"),
        is_locked: lock::is_locked(&kv.value),
        revision: kv.mod_revision.to_string(),
        cluster_type: text("/spec/clusterType"),
    }))
}

/// Changes the `spec`, and leaves the rest of the record as it is. Where there is none, it is made with a GUID of its own. Writes nothing
/// where nothing changes.
pub async fn change(store: &dyn Store, change: impl Fn(&mut Value)) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let found = store.get(&key()).await?;
        let before = found.as_ref().map(document).transpose()?;
        let mut value = before.clone().unwrap_or_else(new);
        if !value["spec"].is_object() {
            value["spec"] = json!({});
        }
        change(&mut value["spec"]);
        let op = match &found {
            Some(_) if before.as_ref() == Some(&value) => return Ok(()),
            Some(kv) => Op::Update(key(), go_json::to_vec(&value)?, kv.mod_revision),
            None => Op::Create(key(), go_json::to_vec(&value)?),
        };
        match store.txn(Txn { ops: vec![op] }).await {
            Err(Error::Conflict(_) | Error::NotFound(_) | Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
    bail!("gave up after {ATTEMPTS} attempts, others write {} too", key())
}

fn document(kv: &KeyValue) -> Result<Value, Unreadable> {
    let unreadable =
        |e: serde_json::Error| Unreadable { key: kv.key.clone(), revision: kv.mod_revision, reason: e.to_string() };
    serde_json::from_slice::<Map<String, Value>>(&kv.value).map(Value::Object).map_err(unreadable)
}

fn new() -> Value {
    json!({
        "kind": Kind::ClusterInformation.as_str(),
        "apiVersion": CALICO_V3,
        "metadata": {
            "name": "default",
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        },
        "spec": {"clusterGUID": uuid::Uuid::new_v4().simple().to_string(), "datastoreReady": true},
    })
}
