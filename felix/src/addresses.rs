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
use ipam::{AffinityOwner, Ipam, Queue};

#[derive(Clone)]
struct Context {
    node: String,
    ipam: Ipam,
    queue: Queue,
}

/// The routes, and what works behind them.
pub fn router(store: &DynStore, node: &str) -> Router {
    let ipam = Ipam::new(store.clone()).following([AffinityOwner::Host(node.into())]);
    let queue = Queue::start(ipam.clone());
    Router::new().route(ASSIGN_PATH, post(assign)).route(RELEASE_PATH, post(release)).with_state(Context {
        node: node.into(),
        ipam,
        queue,
    })
}

async fn assign(State(context): State<Context>, Json(call): Json<AssignCall>) -> Response {
    if let Some(refusal) = context.refuses(&call.node).await {
        return refusal;
    }
    let outcome = in_time(context.queue.assign_call(&context.ipam, call)).await;
    answer(outcome.map(Assigned::from))
}

async fn release(State(context): State<Context>, Json(call): Json<ReleaseCall>) -> Response {
    if let Some(refusal) = context.refuses(&call.node).await {
        return refusal;
    }
    let outcome = in_time(context.queue.release(call.handle)).await;
    answer(outcome.map(|addresses| Released { addresses }))
}

/// One deadline for the whole of a call. What is under way by then goes on: who asks again, or asks the store, finds it done.
async fn in_time<T>(outcome: impl Future<Output = Result<T, ipam::Error>>) -> Result<T, ipam::Error> {
    tokio::time::timeout(DEADLINE, outcome).await.unwrap_or_else(|_| {
        let text = format!("the datastore has not answered within {} s", DEADLINE.as_secs());
        Err(datastore::Error::Unknown(text).into())
    })
}

impl Context {
    /// The plugin of another node with the same run directory goes to the store by itself; so does one that finds the datastore locked.
    async fn refuses(&self, node: &str) -> Option<Response> {
        let error = if node != self.node {
            format!("this is felix of node {}, not of {node}: is nodename the same for both?", self.node)
        } else {
            match in_time(self.ipam.is_locked()).await {
                Ok(false) => return None,
                Ok(true) => "the datastore is locked".into(),
                Err(error) => error.to_string(),
            }
        };
        Some((StatusCode::SERVICE_UNAVAILABLE, Json(Failure { error })).into_response())
    }
}

fn answer<T: serde::Serialize>(outcome: Result<T, ipam::Error>) -> Response {
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

    use api::meta::WithSpec;
    use api::node::{ClusterInformation, ClusterInformationSpec};
    use api::{IpPool, IpPoolSpec, Metadata, Node, NodeSpec};
    use datastore::memory::MemoryStore;
    use datastore::typed;

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
            assert_eq!((reply.status, failure.error.as_str()), (503, "the datastore is locked"));
        }
    }
}
