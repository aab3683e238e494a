//! The store of a Kubernetes cluster: its API server, with Calico's data as Calico's own KDD mode keeps it.
//!
//! - A write is one request with a precondition on `resourceVersion`. There are no transactions: a [`Txn`] of more than one
//!   operation is refused, and [`Store::has_transactions`] says so.
//! - Revisions are `resourceVersion`s, which over etcd are etcd's revisions: numbers, and one counter for all kinds, so that a
//!   write of one kind and a listing of another can be ordered. A server whose kinds are spread over several etcds
//!   (`--etcd-servers-overrides`) has a counter for each; a listing and the watch that follows it are always of one kind, and
//!   stay right.
//! - The API does not say at which revision a deletion happened. The one returned is the least that it can be: later than the
//!   deleted object's last write, not later than the deletion.
//! - IPAM's records are deleted in two steps, as in Calico: marked under compare-and-swap, then removed. Who reads sees no
//!   marked record; a crash between the steps leaves one, which the next read or create of that key removes.
//! - A WorkloadEndpoint is a Pod and a Node a Kubernetes Node: what we write are annotations. Neither can be created or, for a
//!   Node, deleted through here.
//!
//! [`config`] reads kubeconfigs, [`client`] speaks HTTP, [`status`] reads refusals, [`collection`] knows where objects are,
//! [`object`] turns them into values and back ([`resource`], [`node`], [`endpoint`], `api::kdd`), [`watch`] follows them.

mod client;
mod collection;
pub mod config;
mod endpoint;
mod node;
mod object;
mod resource;
mod status;
mod tls;
mod watch;

use std::sync::Arc;

use api::key::{Key, KeyRange};
use api::kind::CALICO_CRD_V1;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all, unfold};
use hyper::Method;
use serde_json::{Value, json};

use self::client::{Answer, Client, Failure, JSON, MERGE_PATCH, Request};
use self::collection::{CALICOS, Collection, Form, Place, Selection, of_range};
use self::config::KubernetesConfig;
use self::object::Seen;
use self::status::{Context, Status};
use self::watch::Watch;
use crate::store::{Error, Event, KeyValue, Listing, Op, Revision, Store, Txn, WatchStream};

/// Objects that one request of a listing returns (client-go's default).
const PAGE: usize = 500;
/// Listings that may be overtaken by a compaction before that is an error.
const MAX_LISTINGS: usize = 3;
/// Attempts at the status of an object that others write as well.
const STATUS_ROUNDS: usize = 5;
/// Rounds of an unconditional write against others who write the same.
const MAX_ROUNDS: usize = 100;

/// The API server.
pub struct KubernetesStore {
    api: Arc<Api>,
}

/// The server, and what errors say about it.
struct Api {
    client: Client,
    /// `kubernetes https://10.0.0.1:6443`.
    name: String,
    /// The namespace of our Leases.
    leases: String,
}

impl KubernetesStore {
    /// Connects, and makes sure that the server answers, knows us and has Calico's kinds.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file or variable that is wrong; [`Error::Unavailable`] the server and what to check.
    pub async fn connect(config: &KubernetesConfig) -> Result<Self, Error> {
        let client = Client::new(config.access()?);
        let name = format!("kubernetes {}", client.server());
        let store = Self { api: Arc::new(Api { client, name, leases: config.namespace.clone() }) };
        store.get(&Key::IpamConfig).await?;
        Ok(store)
    }
}

impl Api {
    fn context<'a>(
        &'a self,
        collection: &'a Collection,
        doing: &'a str,
        key: Option<&'a Key>,
        is_write: bool,
    ) -> Context<'a> {
        Context { store: &self.name, collection, doing, key, is_write }
    }

    /// Where the store is now.
    async fn revision(&self, selection: &Selection) -> Result<Revision, Error> {
        let path = format!("{}?limit=1", selection.collection.path(selection.namespace.as_deref()));
        let answer = self.client.call(&Request::get(path)).await.map_err(Failure::of_read)?;
        let list = self.json(&self.context(&selection.collection, "list", None, false), &answer)?;
        status::revision(&list)
    }

    /// The body of an answer.
    fn json(&self, context: &Context<'_>, answer: &Answer) -> Result<Value, Error> {
        if !(200..300).contains(&answer.status) {
            return Err(status::error(context, &Status::of(answer)));
        }
        serde_json::from_slice(&answer.body).map_err(|e| {
            let text = format!("{}: cannot {} {}: no JSON: {e}", self.name, context.doing, context.collection.name());
            if context.is_write { Error::Unknown(text) } else { Error::Unavailable(text) }
        })
    }

    /// The object at a place, or `None`.
    async fn object(&self, key: &Key, place: &Place) -> Result<Option<Value>, Error> {
        let answer = self.client.call(&Request::get(place.path())).await.map_err(Failure::of_read)?;
        if answer.status == 404 && Status::of(&answer).is_absent() {
            return Ok(None);
        }
        self.json(&self.context(&place.collection, "read", Some(key), false), &answer).map(Some)
    }

    /// A write; the object as it is after it.
    async fn write(&self, key: &Key, collection: &Collection, request: Request) -> Result<Value, Error> {
        let answer = self.client.call(&request).await.map_err(Failure::of_write)?;
        self.json(&self.context(collection, "write", Some(key), true), &answer)
    }

    /// All pages of one list, and the revision that they are of.
    async fn pages(&self, selection: &Selection) -> Result<(Vec<Value>, Revision), Error> {
        self.pages_at(&selection.collection, &selection.collection.path(selection.namespace.as_deref())).await
    }

    /// As [`Self::pages`], of the list at a path; `collection` is what messages name.
    async fn pages_at(&self, collection: &Collection, path: &str) -> Result<(Vec<Value>, Revision), Error> {
        let base = format!("{path}?limit={PAGE}");
        let (mut items, mut revision, mut path) = (Vec::new(), None, base.clone());
        loop {
            let answer = self.client.call(&Request::get(path)).await.map_err(Failure::of_read)?;
            let mut list = self.json(&self.context(collection, "list", None, false), &answer)?;
            if revision.is_none() {
                revision = Some(status::revision(&list)?);
            }
            if let Value::Array(page) = list["items"].take() {
                items.extend(page);
            }
            match list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => path = format!("{base}&continue={}", collection::segment(token)),
                None => return Ok((items, revision.unwrap_or_default())),
            }
        }
    }

    /// The paths of objects of Calico's group whose kind is none of ours.
    async fn foreign_paths(&self) -> Result<Vec<String>, Error> {
        let root = format!("/apis/{CALICO_CRD_V1}");
        let answer = self.client.call(&Request::get(root.clone())).await.map_err(Failure::of_read)?;
        let known = self.json(&self.context(&CALICOS, "list", None, false), &answer)?;
        let names = known["resources"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str());
        let mut paths = Vec::new();
        // A name with a slash is a part of an object, such as its status.
        for plural in names.filter(|name| !name.contains('/') && !Collection::is_known(name)) {
            let path = format!("{root}/{}", collection::segment(plural));
            for object in self.pages_at(&CALICOS, &path).await?.0 {
                let of = |field: &str| object["metadata"][field].as_str().filter(|text| !text.is_empty());
                let parts: Vec<&str> = [of("namespace"), of("name")].into_iter().flatten().collect();
                paths.push(format!("{path}/{}", parts.join("/")));
            }
        }
        paths.sort();
        Ok(paths)
    }

    async fn list(&self, selection: &Selection, prefix: &str) -> Result<Listing, Error> {
        let mut outcome = self.pages(selection).await;
        for _ in 1..MAX_LISTINGS {
            if !matches!(outcome, Err(Error::Compacted(_))) {
                break;
            }
            outcome = self.pages(selection).await;
        }
        let (objects, revision) = outcome?;
        let mut items = Vec::with_capacity(objects.len());
        for object in objects {
            match object::read(&selection.collection, object) {
                Ok(Seen::Present(kv)) if kv.key.to_string().starts_with(prefix) => items.push(kv),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "left out an object of the datastore"),
            }
        }
        Ok(Listing { items, revision })
    }

    /// The value under a key, with the object that holds it; `Err` with the object where it holds none.
    async fn read(&self, key: &Key, place: &Place) -> Result<Option<(Option<KeyValue>, Value)>, Error> {
        let Some(object) = self.object(key, place).await? else { return Ok(None) };
        let value = match object::read(&place.collection, object.clone())? {
            Seen::Present(kv) if kv.key == *key => Some(kv),
            _ => None,
        };
        Ok(Some((value, object)))
    }

    async fn create(&self, key: &Key, place: &Place, value: &[u8]) -> Result<Revision, Error> {
        match place.collection.form {
            Form::Endpoint => return self.create_endpoint(key, place, value).await,
            Form::Node => {
                return Err(match self.object(key, place).await? {
                    Some(_) => Error::AlreadyExists(key.clone()),
                    None => no_object(key, "a cluster's Nodes are made by their kubelets"),
                });
            }
            _ => {}
        }
        let object = object::write(key, place, value)?;
        let post = || Request {
            method: Method::POST,
            path: place.collection.path(place.namespace.as_deref()),
            content_type: JSON,
            body: object.to_string().into_bytes(),
        };
        let mut outcome = self.write(key, &place.collection, post()).await;
        if matches!(outcome, Err(Error::AlreadyExists(_))) && place.collection.is_marked_before_deletion() {
            // What is there may be one that somebody began to delete.
            if let Some((None, marked)) = self.read(key, place).await? {
                self.finish_deletion(key, place, &marked).await?;
                outcome = self.write(key, &place.collection, post()).await;
            }
        }
        // The namespace is missing, not the object.
        let created = outcome.map_err(|e| match e {
            Error::NotFound(_) => no_object(key, "there is no such namespace"),
            e => e,
        })?;
        self.write_status(key, place, object, created).await
    }

    /// Writes the endpoint of a pod that has none. The pod is that of the key, and not one of the same name elsewhere.
    async fn create_endpoint(&self, key: &Key, place: &Place, value: &[u8]) -> Result<Revision, Error> {
        for _ in 0..MAX_ROUNDS {
            let pod = self.object(key, place).await?.ok_or_else(|| no_object(key, "there is no such Pod"))?;
            let revision = status::revision(&pod)?;
            let other = match object::read(&place.collection, pod)? {
                Seen::Present(kv) if kv.key == *key => return Err(Error::AlreadyExists(key.clone())),
                Seen::Absent(free) if endpoint::are_of_one_pod(&free, key) => None,
                Seen::Present(KeyValue { key: other, .. }) | Seen::Absent(other) => {
                    Some(format!("the Pod is on another node, or has another interface: its endpoint is {other}"))
                }
                Seen::Foreign => Some("the Pod is on no node yet, or in its node's network".into()),
            };
            if let Some(why) = other {
                return Err(no_object(key, &why));
            }
            match self.patch_endpoint(key, place, value, revision).await {
                // Somebody else, the kubelet mostly, has written the pod.
                Err(Error::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Unavailable(format!("{}: {key} is written by others all the time", self.name)))
    }

    async fn update(&self, key: &Key, place: &Place, value: &[u8], revision: Revision) -> Result<Revision, Error> {
        // For the API that is a write at whatever revision.
        if revision == 0 {
            let present = self.read(key, place).await?.and_then(|(kv, _)| kv);
            return Err(present.map_or(Error::NotFound(key.clone()), |_| Error::Conflict(key.clone())));
        }
        match place.collection.form {
            Form::Endpoint => return self.patch_endpoint(key, place, value, revision).await,
            Form::Node => return self.patch_node(key, place, value, revision).await,
            _ => {}
        }
        let mut object = object::write(key, place, value)?;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let put = Request {
            method: Method::PUT,
            path: place.path(),
            content_type: JSON,
            body: object.to_string().into_bytes(),
        };
        let updated = self.write(key, &place.collection, put).await?;
        self.write_status(key, place, object, updated).await
    }

    /// Writes the status where the server keeps it apart; the revision after it. The object is written already: what fails here
    /// is no conflict and no refusal of the whole.
    async fn write_status(
        &self,
        key: &Key,
        place: &Place,
        mut wanted: Value,
        written: Value,
    ) -> Result<Revision, Error> {
        let revision = status::revision(&written)?;
        let has_status = matches!(place.collection.form, Form::Plain(_) | Form::Calico(_));
        if !has_status || wanted.get("status").is_none_or(|s| written.get("status") == Some(s)) {
            return Ok(revision);
        }
        let unknown = |error| match error {
            Error::Unknown(text) => Error::Unknown(text),
            other => Error::Unknown(other.to_string()),
        };
        wanted["metadata"] = written["metadata"].clone();
        for round in 0..STATUS_ROUNDS {
            match self.put_status(key, place, &wanted).await {
                Ok(None) => return Ok(revision),
                Ok(Some(after)) if round == 0 => return Ok(after),
                // Who goes on from here must read what others have written between.
                Ok(Some(_)) => return Ok(revision),
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(unknown(error)),
            }
            let present = self.object(key, place).await.map_err(unknown)?.unwrap_or_default();
            if present["metadata"]["uid"] != written["metadata"]["uid"]
                || present.get("status") != written.get("status")
            {
                break;
            }
            wanted["metadata"] = present["metadata"].clone();
        }
        Err(Error::Unknown(format!("{}: {key} is written, but others write its status", self.name)))
    }

    /// The revision after it; `None` where the kind has no status of its own.
    async fn put_status(&self, key: &Key, place: &Place, object: &Value) -> Result<Option<Revision>, Error> {
        let put = Request {
            method: Method::PUT,
            path: format!("{}/status", place.path()),
            content_type: JSON,
            body: object.to_string().into_bytes(),
        };
        let answer = self.client.call(&put).await.map_err(Failure::of_write)?;
        if matches!(answer.status, 404 | 405) {
            return Ok(None);
        }
        let context = self.context(&place.collection, "write the status of", Some(key), true);
        status::revision(&self.json(&context, &answer)?).map(Some)
    }

    async fn patch(&self, key: &Key, place: &Place, patch: &Value) -> Result<Revision, Error> {
        let request = Request {
            method: Method::PATCH,
            path: format!("{}/status", place.path()),
            content_type: MERGE_PATCH,
            body: patch.to_string().into_bytes(),
        };
        status::revision(&self.write(key, &place.collection, request).await?)
    }

    async fn patch_endpoint(&self, key: &Key, place: &Place, value: &[u8], at: Revision) -> Result<Revision, Error> {
        let document = object::parse(key, value)?;
        self.patch(key, place, &endpoint::patch(&document, Some(&at.to_string()))).await
    }

    async fn patch_node(&self, key: &Key, place: &Place, value: &[u8], at: Revision) -> Result<Revision, Error> {
        let document = object::parse(key, value)?;
        let object = self.object(key, place).await?.ok_or_else(|| Error::NotFound(key.clone()))?;
        if status::revision(&object)? != at {
            return Err(Error::Conflict(key.clone()));
        }
        let patch = node::patch(&object, &document);
        if patch["metadata"]["annotations"].as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(at);
        }
        self.patch(key, place, &patch).await
    }

    async fn put(&self, key: &Key, place: &Place, value: &[u8]) -> Result<Revision, Error> {
        for _ in 0..MAX_ROUNDS {
            let outcome = match self.read(key, place).await? {
                Some((Some(present), _)) => self.update(key, place, value, present.mod_revision).await,
                _ => self.create(key, place, value).await,
            };
            match outcome {
                Err(Error::AlreadyExists(_) | Error::NotFound(_) | Error::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Unavailable(format!("{}: {key} is written by others all the time", self.name)))
    }

    async fn delete(&self, key: &Key, place: &Place, expected: Option<Revision>) -> Result<Revision, Error> {
        for _ in 0..MAX_ROUNDS {
            let (present, object) = match self.read(key, place).await? {
                Some((Some(present), object)) => (present, object),
                _ => return Err(Error::NotFound(key.clone())),
            };
            let at = present.mod_revision;
            if expected.is_some_and(|expected| expected != at) {
                return Err(Error::Conflict(key.clone()));
            }
            match self.delete_at(key, place, object, at).await {
                Err(Error::Conflict(_)) if expected.is_none() => {}
                outcome => return outcome,
            }
        }
        Err(Error::Unavailable(format!("{}: {key} is written by others all the time", self.name)))
    }

    async fn delete_at(&self, key: &Key, place: &Place, mut object: Value, at: Revision) -> Result<Revision, Error> {
        match place.collection.form {
            Form::Endpoint => self.patch(key, place, &endpoint::removal(Some(&at.to_string()))).await,
            Form::Node => Err(Error::Invalid(format!(
                "{key}: it is a Kubernetes Node, which is deleted as such: kubectl delete node {}",
                place.name
            ))),
            _ if place.collection.is_marked_before_deletion() => {
                api::kdd::mark_deleted(&mut object);
                let put = Request {
                    method: Method::PUT,
                    path: place.path(),
                    content_type: JSON,
                    body: object.to_string().into_bytes(),
                };
                let marked = self.write(key, &place.collection, put).await?;
                // It is deleted; what cannot be removed now, the next who reads it removes.
                if let Err(error) = self.finish_deletion(key, place, &marked).await {
                    tracing::debug!(%error, %key, "a deleted record stays marked for now");
                }
                status::revision(&marked)
            }
            _ => {
                self.remove(key, place, &object).await?;
                Ok(at + 1)
            }
        }
    }

    /// Removes a record that is marked as deleted, if it still is.
    async fn finish_deletion(&self, key: &Key, place: &Place, marked: &Value) -> Result<(), Error> {
        match self.remove(key, place, marked).await {
            Ok(()) | Err(Error::NotFound(_) | Error::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes exactly this object, at this revision.
    async fn remove(&self, key: &Key, place: &Place, object: &Value) -> Result<(), Error> {
        let metadata = &object["metadata"];
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"] },
        });
        let request = Request {
            method: Method::DELETE,
            path: place.path(),
            content_type: JSON,
            body: options.to_string().into_bytes(),
        };
        self.write(key, &place.collection, request).await.map(drop)
    }
}

#[async_trait]
impl Store for KubernetesStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let place = Place::of(key, &self.api.leases)?;
        let Some((value, object)) = self.api.read(key, &place).await? else { return Ok(None) };
        if value.is_none() && place.collection.is_marked_before_deletion() {
            // As Calico does: whoever finds a deletion half done ends it. That it fails changes nothing for the reader.
            let _ = self.api.finish_deletion(key, &place, &object).await;
        }
        Ok(value)
    }

    async fn list(&self, range: &KeyRange) -> Result<Listing, Error> {
        let prefix = range.prefix();
        let mut listing = Listing { items: Vec::new(), revision: Revision::MAX };
        for selection in of_range(range, &self.api.leases) {
            let part = self.api.list(&selection, &prefix).await?;
            listing.items.extend(part.items);
            // Several lists are of several moments: who goes on from the first misses nothing.
            listing.revision = listing.revision.min(part.revision);
        }
        listing.items.sort_by_cached_key(|kv| kv.key.to_string());
        Ok(listing)
    }

    async fn foreign_paths(&self) -> Result<Vec<String>, Error> {
        self.api.foreign_paths().await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<WatchStream, Error> {
        let mut parts: Vec<BoxStream<'static, Result<Event, Error>>> = Vec::new();
        for selection in of_range(range, &self.api.leases) {
            let watch = Watch::open(self.api.clone(), selection, range.prefix(), from).await?;
            parts.push(unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }).boxed());
        }
        let mut all = select_all(parts);
        let mut has_failed = false;
        // An error is the last item, also where other parts would go on.
        let events = futures::stream::poll_fn(move |cx| {
            if has_failed {
                return std::task::Poll::Ready(None);
            }
            let polled = all.poll_next_unpin(cx);
            has_failed = matches!(polled, std::task::Poll::Ready(Some(Err(_))));
            polled
        });
        Ok(events.boxed())
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, Error> {
        txn.check_keys()?;
        let [op] = txn.ops.as_slice() else {
            return Err(Error::Invalid(format!(
                "{}: the Kubernetes API has no transactions; one of {} operations cannot be made",
                self.api.name,
                txn.ops.len()
            )));
        };
        let key = op.key();
        let place = Place::of(key, &self.api.leases)?;
        match op {
            Op::Create(_, value) => self.api.create(key, &place, value).await,
            Op::Update(_, value, revision) => self.api.update(key, &place, value, *revision).await,
            Op::Put(_, value) => self.api.put(key, &place, value).await,
            Op::Delete(_, expected) => self.api.delete(key, &place, *expected).await,
            Op::Check(_, revision) => {
                let present = self.api.read(key, &place).await?.and_then(|(kv, _)| kv).map(|kv| kv.mod_revision);
                op.check(present)?;
                Ok(*revision)
            }
        }
    }

    fn has_transactions(&self) -> bool {
        false
    }

    /// Nothing: the API server compacts its etcd by itself (`--etcd-compaction-interval`, 5 minutes).
    async fn compact(&self, _revision: Revision) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        self.api.name.clone()
    }
}

/// The resources of the API, each after its group, that hold a range: what a program that follows the range lists and watches.
pub fn resources(range: &KeyRange) -> Vec<(&'static str, &'static str)> {
    let group = |version: &'static str| version.split_once('/').map_or("", |(group, _)| group);
    of_range(range, "").iter().map(|s| (group(s.collection.api_version), s.collection.plural)).collect()
}

/// What a key would be written to is not there.
fn no_object(key: &Key, why: &str) -> Error {
    Error::Invalid(format!("cannot create {key} in the Kubernetes API: {why}"))
}
