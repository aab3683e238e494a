//! The addresses of this node's workloads: the CNI plugin asks on felix.sock, so that what many ask at once is written together, and
//! planned on what is known already. With felix down the plugin does the same by itself.
//!
//! ```text
//!  POST /ipam/assign  ──┐
//!  POST /ipam/assign  ──┼──► ipam::Queue ──► ipam::Ipam, which follows the store
//!  POST /ipam/release ──┘
//! ```

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use datastore::DynStore;
use ipam::wire::{ASSIGN_PATH, AssignCall, Assigned, DEADLINE, Failure, RELEASE_PATH, ReleaseCall, Released, Verdict};
use ipam::{AffinityOwner, Error, Ipam, Queue};

#[derive(Clone)]
struct Context {
    node: String,
    ipam: Ipam,
    queue: Queue,
}

/// The routes, and what works behind them.
pub fn router(store: &DynStore, node: &str) -> Router {
    let ipam = Ipam::new(store.clone()).following([AffinityOwner::Host(node.into())]).heeding_lock();
    let queue = Queue::start(ipam.clone());
    Router::new().route(ASSIGN_PATH, post(assign)).route(RELEASE_PATH, post(release)).with_state(Context {
        node: node.into(),
        ipam,
        queue,
    })
}

async fn assign(State(context): State<Context>, Json(call): Json<AssignCall>) -> Response {
    let node = call.node.clone();
    context.serve(&node, async { context.queue.assign_call(&context.ipam, call).await.map(Assigned::from) }).await
}

async fn release(State(context): State<Context>, Json(call): Json<ReleaseCall>) -> Response {
    let released = async { context.queue.release(call.handle).await.map(|addresses| Released { addresses }) };
    context.serve(&call.node, released).await
}

impl Context {
    /// Does what a call asks for, unless it is refused: the plugin of another node with the same run directory goes to the store by
    /// itself, and so does one that finds the datastore locked. Answers within [`DEADLINE`]; what is under way by then goes on, and who
    /// asks again, or asks the store, finds it done.
    async fn serve<T: serde::Serialize>(&self, node: &str, work: impl Future<Output = Result<T, Error>>) -> Response {
        if node != self.node {
            let error = format!("this is felix of node {}, not of {node}: is nodename the same for both?", self.node);
            return unavailable(error);
        }
        tokio::time::timeout(DEADLINE, async { answer(work.await) })
            .await
            .unwrap_or_else(|_| unavailable(format!("the datastore has not answered within {} s", DEADLINE.as_secs())))
    }
}

fn unavailable(error: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(Failure { error })).into_response()
}

fn answer<T: serde::Serialize>(outcome: Result<T, Error>) -> Response {
    match outcome {
        Ok(body) => Json(body).into_response(),
        Err(error) => {
            let status = StatusCode::from_u16(Verdict::of(&error).status());
            let failure = Failure { error: error.to_string().trim().into() };
            (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(failure)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use api::key::KeyRange;
    use api::meta::WithSpec;
    use api::node::{ClusterInformation, ClusterInformationSpec};
    use api::{IpPool, IpPoolSpec, Metadata, Node, NodeSpec};
    use datastore::memory::MemoryStore;
    use datastore::{Error as StoreError, KeyValue, Listing, Revision, Store, Txn, WatchStream, typed};

    use super::*;

    #[tokio::test]
    async fn a_plugin_gets_addresses_and_gives_them_back() {
        let store: DynStore = Arc::new(MemoryStore::new());
        let node = Node::new(Metadata::named("n"), WithSpec { spec: NodeSpec::default(), status: None });
        typed::create(store.as_ref(), &node).await.unwrap();
        let spec = IpPoolSpec::new("10.0.0.0/24".parse().unwrap());
        let pool = IpPool::new(Metadata::named("p"), WithSpec { spec, status: None });
        typed::create(store.as_ref(), &pool).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let server = status::serve(directory.path(), "felix", router(&store, "n")).await.unwrap();
        let call = AssignCall { node: "n".into(), handle: "net.1".into(), num_v4: 1, ..Default::default() };
        let reply = status::post_json(server.socket(), ASSIGN_PATH, &call).await.unwrap();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        let assigned: Assigned = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((assigned.addresses.len(), &assigned.message), (1, &None));
        let again = status::post_json(server.socket(), ASSIGN_PATH, &call).await.unwrap();
        assert_eq!(serde_json::from_slice::<Assigned>(&again.body).unwrap(), assigned);
        for (change, expected) in [
            (AssignCall { node: "other".into(), ..call.clone() }, 503),
            (AssignCall { handle: "net.2".into(), ipv4_pools: vec!["none".into()], ..call.clone() }, 400),
            (AssignCall { handle: "net.2".into(), addresses: vec!["172.16.0.1".parse().unwrap()], ..call }, 409),
        ] {
            let reply = status::post_json(server.socket(), ASSIGN_PATH, &change).await.unwrap();
            assert_eq!(reply.status, expected, "{change:?}");
            assert!(!serde_json::from_slice::<Failure>(&reply.body).unwrap().error.is_empty());
        }
        let call = ReleaseCall { node: "n".into(), handle: "net.1".into() };
        let reply = status::post_json(server.socket(), RELEASE_PATH, &call).await.unwrap();
        let released: Released = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(released.addresses, [assigned.addresses[0].addr()]);
    }

    #[tokio::test]
    async fn while_the_datastore_is_locked_nothing_is_given_or_taken() {
        let store: DynStore = Arc::new(MemoryStore::new());
        let spec = ClusterInformationSpec { datastore_ready: Some(false), ..Default::default() };
        let body = WithSpec { spec, status: None };
        typed::create(store.as_ref(), &ClusterInformation::new(Metadata::named("default"), body)).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let server = status::serve(directory.path(), "felix", router(&store, "n")).await.unwrap();
        let assign = AssignCall { node: "n".into(), handle: "net.1".into(), num_v4: 1, ..Default::default() };
        let release = ReleaseCall { node: "n".into(), handle: "net.1".into() };
        for reply in [
            status::post_json(server.socket(), ASSIGN_PATH, &assign).await.unwrap(),
            status::post_json(server.socket(), RELEASE_PATH, &release).await.unwrap(),
        ] {
            let failure: Failure = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!((reply.status, failure.error), (503, Error::Locked.to_string()));
        }
    }

    /// A store of which every answer takes this long, and that cannot be listed.
    struct Slow(MemoryStore, Duration);

    #[async_trait::async_trait]
    impl Store for Slow {
        async fn get(&self, key: &api::Key) -> Result<Option<KeyValue>, StoreError> {
            tokio::time::sleep(self.1).await;
            self.0.get(key).await
        }

        async fn list(&self, _: &KeyRange) -> Result<Listing, StoreError> {
            std::future::pending().await
        }

        async fn watch(&self, _: &KeyRange, _: Revision) -> Result<WatchStream, StoreError> {
            std::future::pending().await
        }

        async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
            tokio::time::sleep(self.1).await;
            self.0.txn(txn).await
        }

        async fn compact(&self, _: Revision) -> Result<(), StoreError> {
            Ok(())
        }

        fn describe(&self) -> String {
            "a slow store".into()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_plugin_has_an_answer_before_it_stops_waiting() {
        let store: DynStore = Arc::new(Slow(MemoryStore::new(), DEADLINE * 3 / 4));
        let ipam = Ipam::new(store).following([AffinityOwner::Host("n".into())]);
        let context = Context { node: "n".into(), queue: Queue::start(ipam.clone()), ipam };
        let began = tokio::time::Instant::now();
        let call = ReleaseCall { node: "n".into(), handle: "net.1".into() };
        let answer = release(State(context), Json(call)).await;
        assert_eq!((answer.status(), began.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, DEADLINE));
        assert!(DEADLINE < ipam::wire::PLUGIN_WAIT);
    }
}
