//! What a set of documents changes in the store: planned as a whole, checked against what is stored, then written.
//!
//! Nothing is written while any document has an error. Up to [`CHUNK`] changes are one transaction, so that an ordinary file
//! happens entirely or not at all; more are written as several, in the order of the documents.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, anyhow};
use api::key::{Key, KeyRange};
use api::kind::Kind;
use api::validate::{self, FieldError, set};
use datastore::{DynStore, Error, Op, Txn};
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::documents::{Document, Problem};
use crate::kept;
use crate::retire;
use crate::stored::{self, Stored, Unreadable};

/// Most changes of one transaction; etcd's limit is 128 (`--max-txn-ops`).
pub const CHUNK: usize = 100;
/// Bytes of one transaction; etcd's limit for a request is 1.5 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// How often a plan is made again when somebody else writes at the same time.
const ATTEMPTS: u32 = 20;
/// The longest pause between two attempts, milliseconds; the first are shorter.
const MAX_PAUSE_MS: u64 = 400;

/// What to do with documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Apply,
    /// As apply, in a store that is thrown away: what a plan lacks, the plan tells.
    Suppose,
    Create {
        skip_exists: bool,
    },
    Replace,
    Delete {
        skip_missing: bool,
    },
}

/// Why nothing, or not everything, was done.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was written.
    Problems(Vec<Problem>),
    /// The first `.0` documents are written.
    Store(usize, anyhow::Error),
}

/// One key: what is stored and what is wanted, `None` for absent.
struct Slot {
    kind: Kind,
    stored: Option<Stored>,
    wanted: Option<Value>,
    /// The last document that concerns it.
    document: usize,
}

#[derive(Default)]
struct Plan {
    slots: Vec<Slot>,
    by_key: HashMap<Key, usize>,
}

/// Carries out a verb. Done again where somebody else wrote in between.
///
/// # Errors
/// [`Failure`].
pub async fn execute(store: &DynStore, documents: &[Document<'_>], verb: Verb) -> Result<(), Failure> {
    let mut last = anyhow!("nothing was tried");
    // Documents that earlier attempts have written.
    let mut written = 0;
    let retires = matches!(verb, Verb::Delete { .. }) && documents.iter().any(|d| d.kind == Kind::IpPool);
    for attempt in 0..ATTEMPTS {
        let (plan, problems) = plan(store, documents, verb).await.map_err(|e| Failure::Store(written, e))?;
        if !problems.is_empty() {
            if written == 0 {
                return Err(Failure::Problems(problems));
            }
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(Failure::Store(written, anyhow!("{}", lines.join("\n"))));
        }
        // Which moves the pools' revisions: what is deleted is planned on the new ones.
        if retires && attempt == 0 {
            retire::pools(store, &plan.going(Kind::IpPool)).await.map_err(|e| Failure::Store(0, e))?;
            continue;
        }
        let (done, kind, error) = match write(store, &plan).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        written = written.max(done);
        let lost_a_race = matches!(kind, Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_));
        // What an attempt has created or deleted in part would look wrong to the next.
        let can_repeat = written == 0 || matches!(verb, Verb::Apply | Verb::Suppose | Verb::Replace);
        if !lost_a_race || !can_repeat {
            return Err(Failure::Store(written, error));
        }
        last = error;
        tokio::time::sleep(pause(attempt)).await;
    }
    let text = format!("gave up after {ATTEMPTS} attempts, others write the same objects");
    Err(Failure::Store(written, last.context(text)))
}

/// Longer with every attempt, and by chance, so that two who collided do not meet again.
fn pause(attempt: u32) -> Duration {
    let longest = (10 << attempt.min(6)).min(MAX_PAUSE_MS);
    let chance = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    Duration::from_millis(longest * (chance + 1) / 256)
}

async fn plan(store: &DynStore, documents: &[Document<'_>], verb: Verb) -> Result<(Plan, Vec<Problem>)> {
    let mut plan = Plan::default();
    let mut problems = Vec::new();
    let listed = prefetch(store, documents, &mut plan).await?;
    for (i, document) in documents.iter().enumerate() {
        let (kind, name, namespace) = (document.kind, document.name(), document.namespace());
        let key = stored::key_of(kind, namespace, name);
        let slot = match plan.by_key.get(&key) {
            Some(&slot) => slot,
            None => {
                let found = if listed.contains(&kind) {
                    None
                } else {
                    stored::get_any(store.as_ref(), kind, namespace, name).await?
                };
                plan.add(key, kind, found.map(|found| readable(found, kind)).transpose()?)
            }
        };
        let slot = &mut plan.slots[slot];
        slot.document = i;
        let errors = change(slot, document, verb);
        problems.extend(document.problems(errors));
    }
    if !matches!(verb, Verb::Delete { .. }) && problems.is_empty() {
        between(&plan, documents, &mut problems);
        foreign_blocks(store, &plan, documents, &mut problems).await?;
        if verb != Verb::Suppose {
            missing_filters(store, &plan, documents, &mut problems).await?;
        }
    }
    Ok((plan, problems))
}

/// Reads whole kinds where rules look at all of a kind, or where many documents of it come: one read in place of thousands.
async fn prefetch(store: &DynStore, documents: &[Document<'_>], plan: &mut Plan) -> Result<HashSet<Kind>> {
    const MANY: usize = 8;
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for document in documents {
        *counts.entry(document.kind).or_default() += 1;
    }
    let mut listed = HashSet::new();
    for (kind, count) in counts {
        if kind != Kind::IpamConfiguration && (count > MANY || matches!(kind, Kind::IpPool | Kind::Service)) {
            for found in stored::list_any(store.as_ref(), kind, None).await?.0 {
                let found = readable(found, kind)?;
                plan.add(found.key.clone(), kind, Some(found));
            }
            listed.insert(kind);
        }
    }
    Ok(listed)
}

/// What is stored; what cannot be read counts as empty, to be written anew or deleted, but for a pool: others are checked against it.
fn readable(found: Result<Stored, Unreadable>, kind: Kind) -> Result<Stored> {
    match found {
        Err(unreadable) if kind != Kind::IpPool => {
            Ok(Stored { key: unreadable.key, value: Value::Null, revision: unreadable.revision })
        }
        found => Ok(found?),
    }
}

impl Plan {
    fn add(&mut self, key: Key, kind: Kind, stored: Option<Stored>) -> usize {
        let wanted = stored.as_ref().map(|s| s.value.clone());
        self.slots.push(Slot { kind, stored, wanted, document: usize::MAX });
        self.by_key.insert(key, self.slots.len() - 1);
        self.slots.len() - 1
    }

    /// What documents delete.
    fn going(&self, kind: Kind) -> Vec<Stored> {
        let is_going = |s: &&Slot| s.kind == kind && s.document != usize::MAX && s.wanted.is_none();
        self.slots.iter().filter(is_going).filter_map(|s| s.stored.clone()).collect()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&Slot, &Value)> {
        self.slots.iter().filter(move |s| s.kind == kind).filter_map(|s| Some((s, s.wanted.as_ref()?)))
    }
}

/// Changes what is wanted of one key; what is wrong with that.
fn change(slot: &mut Slot, document: &Document, verb: Verb) -> Vec<FieldError> {
    let id = identity(document.kind, document.namespace(), document.name());
    match (verb, &slot.wanted) {
        (Verb::Delete { skip_missing }, None) if !skip_missing => {
            return vec![FieldError::text("metadata.name", "", missing(&id), "-s skips what does not exist")];
        }
        (Verb::Delete { .. }, _) => slot.wanted = None,
        (Verb::Create { skip_exists: true }, Some(_)) => {}
        (Verb::Create { .. }, Some(_)) => {
            let advice = "use apply or replace to change it";
            return vec![FieldError::text("metadata.name", "", existing(&id), advice)];
        }
        (Verb::Replace, None) => {
            return vec![FieldError::text("metadata.name", "", missing(&id), "use apply or create to make it")];
        }
        (_, None | Some(Value::Null)) => slot.wanted = Some(new_object(document)),
        (_, Some(present)) => match update(document, present, &id) {
            Ok(wanted) => slot.wanted = Some(wanted),
            Err(errors) => return errors,
        },
    }
    Vec::new()
}

/// What a document makes of the object that is there.
fn update(document: &Document, present: &Value, id: &str) -> Result<Value, Vec<FieldError>> {
    let version = |v: &Value| v["metadata"]["resourceVersion"].as_str().map(str::to_string);
    if let (Some(wanted), Some(latest)) = (version(&document.value), version(present))
        && wanted != latest
    {
        let text = format!("update conflict: {id}: resource version '{wanted}' is out of date (latest: {latest})");
        let advice = "get it again, or leave resourceVersion out";
        return Err(vec![FieldError::text("metadata.resourceVersion", &wanted, text, advice)]);
    }
    let mut wanted = if document.is_kubernetes_node { present.clone() } else { document.value.clone() };
    if document.is_kubernetes_node {
        add_kubernetes_node(&mut wanted, &document.value);
    } else {
        kept::keep(document.kind, present, &mut wanted);
        set::keep_unknown(document.kind, present, &mut wanted);
        validate::fill_defaults(document.kind, &mut wanted);
    }
    let errors = set::immutable(document.kind, present, &wanted);
    if errors.is_empty() { Ok(wanted) } else { Err(errors) }
}

fn new_object(document: &Document) -> Value {
    let mut value = if document.is_kubernetes_node {
        let mut node = serde_json::json!({
            "apiVersion": document.kind.api_version(), "kind": document.kind.as_str(),
            "metadata": {"name": document.name()}, "spec": {},
        });
        add_kubernetes_node(&mut node, &document.value);
        node
    } else {
        document.value.clone()
    };
    validate::fill_defaults(document.kind, &mut value);
    value
}

/// Puts the labels of a Kubernetes Node, and its addresses, on our Node; what else that has, stays.
fn add_kubernetes_node(node: &mut Value, kubernetes: &Value) {
    for field in ["labels", "annotations"] {
        let Some(more) = kubernetes["metadata"][field].as_object() else { continue };
        if !node["metadata"][field].is_object() {
            node["metadata"][field] = Value::Object(Map::new());
        }
        for (name, value) in more {
            node["metadata"][field][name] = value.clone();
        }
    }
    let addresses: Vec<Value> = kubernetes["status"]["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|a| matches!(a["type"].as_str(), Some("InternalIP" | "ExternalIP")))
        .cloned()
        .collect();
    if !addresses.is_empty() {
        node["spec"]["addresses"] = addresses.into();
    }
}

/// Rules between objects: pools that overlap, node ports given twice.
fn between(plan: &Plan, documents: &[Document<'_>], problems: &mut Vec<Problem>) {
    let name_of = |v: &Value| v["metadata"]["name"].as_str().unwrap_or_default().to_string();
    let cidr_of = |v: &Value| v["spec"]["cidr"].as_str().and_then(|c| c.parse::<IpNet>().ok());
    let pools: Vec<(&Slot, String, IpNet)> =
        plan.of(Kind::IpPool).filter_map(|(slot, v)| Some((slot, name_of(v), cidr_of(v)?))).collect();
    let overlaps = set::pool_overlaps(pools.iter().map(|(_, name, cidr)| (name.as_str(), *cidr)));
    for (slot, name, cidr) in pools.iter().filter(|(s, ..)| s.document != usize::MAX) {
        if let Some((other, range)) = overlaps.get(name.as_str()) {
            let error = set::pool_overlap(name, *cidr, other, *range);
            problems.extend(documents[slot.document].problems(vec![error]));
        }
    }
    let mut ports = set::NodePorts::default();
    // What is stored comes first, so that the error stands with the new one.
    let mut services: Vec<_> = plan.of(Kind::Service).collect();
    services.sort_by_key(|(slot, _)| (slot.document != usize::MAX, slot.document));
    for (slot, value) in services {
        let id = format!("{}/{}", value["metadata"]["namespace"].as_str().unwrap_or_default(), name_of(value));
        let errors = ports.add(&id, &value["spec"]);
        if slot.document != usize::MAX {
            problems.extend(documents[slot.document].problems(errors));
        }
    }
}

/// Blocks of another size in the ranges of pools that are new.
async fn foreign_blocks(
    store: &DynStore,
    plan: &Plan,
    documents: &[Document<'_>],
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let is_new = |slot: &&Slot| slot.kind == Kind::IpPool && slot.stored.is_none() && slot.wanted.is_some();
    if !plan.slots.iter().any(|slot| is_new(&slot)) {
        return Ok(());
    }
    let keys = store.list(&KeyRange::Blocks).await?.items.into_iter().map(|kv| kv.key);
    let blocks: Vec<IpNet> =
        keys.filter_map(|key| if let Key::IpamBlock(cidr) = key { Some(cidr) } else { None }).collect();
    for slot in plan.slots.iter().filter(is_new) {
        let spec = slot.wanted.as_ref().map(|w| &w["spec"]);
        let cidr = spec.and_then(|s| s["cidr"].as_str()).and_then(|c| c.parse::<IpNet>().ok());
        let size = spec.and_then(|s| s["blockSize"].as_u64()).and_then(|n| u8::try_from(n).ok());
        if let (Some(cidr), Some(size)) = (cidr, size) {
            let error = set::block_sizes(cidr, size, blocks.iter().copied());
            problems.extend(documents[slot.document].problems(error.into_iter().collect()));
        }
    }
    Ok(())
}

/// BGPFilters that peers name and nobody has made.
async fn missing_filters(
    store: &DynStore,
    plan: &Plan,
    documents: &[Document<'_>],
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let named: Vec<(usize, String)> = plan
        .of(Kind::BgpPeer)
        .filter(|(slot, _)| slot.document != usize::MAX)
        .flat_map(|(slot, v)| {
            let names = v["spec"]["filters"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(|n| (slot.document, n.to_string())).collect::<Vec<_>>()
        })
        .collect();
    let mut known: HashSet<String> =
        plan.of(Kind::BgpFilter).filter_map(|(_, v)| v["metadata"]["name"].as_str().map(Into::into)).collect();
    for (document, name) in named {
        if known.contains(&name) {
            continue;
        }
        if stored::get(store.as_ref(), Kind::BgpFilter, None, &name).await?.is_some() {
            known.insert(name);
            continue;
        }
        let advice = format!("apply BGPFilter {name} first, or in the same command");
        let error = FieldError::field("spec.filters", "BGPPeer.Spec.Filters", &name, "BGPFilter(s) not found", advice);
        problems.extend(documents[document].problems(vec![error]));
    }
    Ok(())
}

/// Writes the changes; on failure says how many documents are written entirely.
async fn write(store: &DynStore, plan: &Plan) -> Result<(), (usize, Error, anyhow::Error)> {
    let mut changed: Vec<&Slot> = plan.slots.iter().filter(|s| s.document != usize::MAX && is_changed(s)).collect();
    changed.sort_by_key(|s| s.document);
    let mut ops: Vec<Op> = Vec::new();
    let (mut bytes, mut done) = (0, 0);
    let most = if store.has_transactions() { CHUNK } else { 1 };
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for slot in changed {
        let op = operation(slot, &now).map_err(|e| (done, Error::Invalid(e.to_string()), e))?;
        let size = match &op {
            Op::Create(_, v) | Op::Update(_, v, _) | Op::Put(_, v) => v.len(),
            Op::Delete(..) | Op::Check(..) => 0,
        };
        if !ops.is_empty() && (ops.len() == most || bytes + size > CHUNK_BYTES) {
            commit(store, std::mem::take(&mut ops), done).await?;
            (bytes, done) = (0, slot.document);
        }
        bytes += size;
        ops.push(op);
    }
    if ops.is_empty() { Ok(()) } else { commit(store, ops, done).await }
}

async fn commit(store: &DynStore, ops: Vec<Op>, done: usize) -> Result<(), (usize, Error, anyhow::Error)> {
    store.txn(Txn { ops }).await.map(drop).map_err(|e| (done, e.clone(), anyhow!(described(&e))))
}

/// Calico's text of what is not there, by its name (`libcalico-go/lib/errors`). It has no cause to tell where the store is etcd.
pub fn missing(id: &str) -> String {
    format!("resource does not exist: {id} with error: <nil>")
}

fn existing(id: &str) -> String {
    format!("resource already exists: {id} with error: <nil>")
}

/// A store's error with the resource's name in Calico's form.
fn described(error: &Error) -> String {
    let id = |key: &Key| match key.kind() {
        Some(kind) => identity(kind, key.namespace(), key.name().unwrap_or_default()),
        None => key.to_string(),
    };
    match error {
        Error::AlreadyExists(key) => existing(&id(key)),
        Error::NotFound(key) => missing(&id(key)),
        Error::Conflict(key) => format!("update conflict: {}", id(key)),
        other => other.to_string(),
    }
}

fn is_changed(slot: &Slot) -> bool {
    match (&slot.stored, &slot.wanted) {
        (None, None) => false,
        (Some(stored), Some(wanted)) => !is_same(&stored.value, wanted),
        _ => true,
    }
}

/// Whether two objects differ in nothing but their resourceVersion.
fn is_same(a: &Value, b: &Value) -> bool {
    is_same_but(a, b, "metadata") && is_same_but(&a["metadata"], &b["metadata"], "resourceVersion")
}

/// Whether two mappings have the same fields, one left aside.
fn is_same_but(a: &Value, b: &Value, aside: &str) -> bool {
    let fields = |v: &Value| v.as_object().map_or(0, |m| m.keys().filter(|name| *name != aside).count());
    let mut entries = a.as_object().into_iter().flatten().filter(|(name, _)| *name != aside);
    fields(a) == fields(b) && entries.all(|(name, value)| b.get(name) == Some(value))
}

fn operation(slot: &Slot, now: &str) -> Result<Op> {
    let key_of = |v: &Value| {
        let metadata = &v["metadata"];
        stored::key_of(slot.kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap_or_default())
    };
    Ok(match (&slot.stored, &slot.wanted) {
        (Some(stored), Some(wanted)) => {
            let mut wanted = api::go_json::in_order_of(wanted, &stored.value);
            if stored.value.is_null() {
                identify(&mut wanted, now);
            }
            Op::Update(stored.key.clone(), stored::encode(slot.kind, &wanted)?, stored.revision)
        }
        (Some(stored), None) => Op::Delete(stored.key.clone(), Some(stored.revision)),
        (None, Some(wanted)) => {
            let mut value = wanted.clone();
            identify(&mut value, now);
            Op::Create(key_of(wanted), stored::encode(slot.kind, &value)?)
        }
        (None, None) => anyhow::bail!("a key that is neither stored nor wanted"),
    })
}

/// Gives a new object its identity.
fn identify(value: &mut Value, now: &str) {
    value["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    value["metadata"]["creationTimestamp"] = now.into();
}

/// `IPPool(x)`, `WorkloadEndpoint(ns/x)`: how Calico's messages name an object.
pub fn identity(kind: Kind, namespace: Option<&str>, name: &str) -> String {
    match namespace.filter(|_| kind.is_namespaced()) {
        Some(namespace) => format!("{kind}({namespace}/{name})"),
        None => format!("{kind}({name})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_resource_version_may_differ() {
        let stored = json!({"kind": "X", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"b": 1}});
        let rows = [
            (json!({"kind": "X", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"b": 1}}), true),
            (json!({"spec": {"b": 1}, "metadata": {"name": "a"}, "kind": "X"}), true),
            (json!({"kind": "X", "metadata": {"name": "a"}, "spec": {"b": 2}}), false),
            (json!({"kind": "X", "metadata": {"name": "a"}}), false),
            (json!({"kind": "X", "metadata": {"name": "a"}, "spec": {"b": 1}, "status": {}}), false),
            (json!({"kind": "X", "metadata": {"name": "a", "labels": {}}, "spec": {"b": 1}}), false),
            (json!({"kind": "X", "metadata": {}, "spec": {"b": 1}}), false),
        ];
        for (wanted, same) in rows {
            assert_eq!((is_same(&stored, &wanted), is_same(&wanted, &stored)), (same, same), "{wanted}");
        }
    }
}
