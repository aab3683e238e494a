//! b: 100 requests of one node at once, counted in transactions. c: 64 nodes at once, each one address after another.
//! d: 1,000 nodes that take their first address at once, as the plugin does, without anything in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use api::ip_pool::IpPoolSpec;
use api::meta::WithSpec;
use api::{IpPool, Metadata, Node, NodeSpec};
use datastore::{DynStore, typed};
use ipam::queue::Queue;
use ipam::{AffinityOwner, AssignRequest, Ipam};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Row;
use crate::stores::{Kind, Lab};
use crate::times::Times;

const AT_ONCE: usize = 100;
const SOME_NODES: usize = 64;
/// Addresses that each of them takes.
const EACH: usize = 30;
const MANY_NODES: usize = 1_000;
/// Connections that the many share.
const CONNECTIONS: usize = 20;

pub fn node(number: usize) -> AffinityOwner {
    AffinityOwner::Host(format!("node-{number}"))
}

pub fn request(number: usize, handle: String) -> AssignRequest {
    AssignRequest { num_v4: 1, ..AssignRequest::new(node(number), handle) }
}

/// Nodes, and a pool that has room for all.
pub async fn prepare(store: &DynStore, nodes: usize) -> Result<(), String> {
    for number in 0..nodes {
        let body = WithSpec { spec: NodeSpec::default(), status: None };
        let node = Node::new(Metadata::named(format!("node-{number}")), body);
        typed::create(store.as_ref(), &node).await.map_err(|e| e.to_string())?;
    }
    let spec = IpPoolSpec::new("10.0.0.0/12".parse().map_err(|e| format!("{e}"))?);
    let pool = IpPool::new(Metadata::named("pool"), WithSpec { spec, status: None });
    typed::create(store.as_ref(), &pool).await.map(drop).map_err(|e| e.to_string())
}

pub async fn one_node(kind: Kind, data: &Path) -> Result<Vec<Row>, String> {
    let lab = Lab::start(kind, data).await?;
    let store = lab.open().await.map_err(|e| e.to_string())?;
    prepare(store.bare(), 1).await?;
    let ipam = Ipam::new(store.clone() as DynStore).heeding_lock().following([node(0)]);
    ipam.synced().await;
    let queue = Queue::start(ipam);
    let mut most = [0, 0];
    for round in 0..10 {
        let before = store.transactions();
        let mut tasks = JoinSet::new();
        for n in 0..AT_ONCE {
            let (queue, asked) = (queue.clone(), request(0, format!("b.{round}.{n}")));
            tasks.spawn(async move { queue.assign(asked).await.map(|got| got.v4.len()) });
        }
        while let Some(got) = tasks.join_next().await {
            if got.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? != 1 {
                return Err("a request got no address".into());
            }
        }
        most[0] = most[0].max(store.transactions() - before);
        let before = store.transactions();
        let mut tasks = JoinSet::new();
        for n in 0..AT_ONCE {
            let queue = queue.clone();
            tasks.spawn(async move { queue.release(format!("b.{round}.{n}")).await.map(|released| released.len()) });
        }
        while let Some(released) = tasks.join_next().await {
            if released.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? != 1 {
                return Err("a release released nothing".into());
            }
        }
        most[1] = most[1].max(store.transactions() - before);
    }
    let (name, limit) = (kind.name(), Some(5.0));
    let row = |what, value: u64, limit| Row {
        scenario: 'b',
        store: name,
        what,
        unit: "",
        value: value as f64,
        against: None,
        limit,
    };
    Ok(vec![
        row("transactions for 100 at once, the most of ten runs", most[0], limit),
        row("transactions for 100 releases at once", most[1], None),
    ])
}

pub async fn some_nodes(data: &Path) -> Result<Vec<Row>, String> {
    let lab = Lab::start(Kind::Etcd, data).await?;
    prepare(lab.open().await.map_err(|e| e.to_string())?.bare(), SOME_NODES).await?;
    let mut nodes = vec![];
    for number in 0..SOME_NODES {
        let store = lab.open().await.map_err(|e| e.to_string())?;
        let ipam = Ipam::new(store as DynStore).heeding_lock().following([node(number)]);
        ipam.synced().await;
        nodes.push(ipam);
    }
    at_once('c', nodes, EACH, "64 nodes at once, failures", "64 nodes at once, 99th percentile").await
}

pub async fn many_nodes(data: &Path) -> Result<Vec<Row>, String> {
    let lab = Lab::start(Kind::Etcd, data).await?;
    let mut stores = vec![];
    for _ in 0..CONNECTIONS {
        stores.push(lab.open().await.map_err(|e| e.to_string())?);
    }
    prepare(stores[0].bare(), MANY_NODES).await?;
    let nodes =
        (0..MANY_NODES).map(|n| Ipam::new(stores[n % CONNECTIONS].clone() as DynStore).heeding_lock()).collect();
    at_once('d', nodes, 1, "1,000 first addresses, failures", "1,000 first addresses, 99th percentile").await
}

/// Every node allocates `each` addresses, and all begin at once.
async fn at_once(
    scenario: char,
    nodes: Vec<Ipam>,
    each: usize,
    failures: &'static str,
    slowest: &'static str,
) -> Result<Vec<Row>, String> {
    let start = Arc::new(Barrier::new(nodes.len()));
    let mut tasks = JoinSet::new();
    for (number, ipam) in nodes.into_iter().enumerate() {
        let start = start.clone();
        tasks.spawn(async move {
            start.wait().await;
            let (mut times, mut failed, mut taken) = (Times::default(), 0, vec![]);
            for n in 0..each {
                match times.time(ipam.auto_assign(&request(number, format!("c.{number}.{n}")))).await {
                    Ok(got) if got.v4.len() == 1 => taken.push(got.v4[0].addr()),
                    _ => failed += 1,
                }
            }
            (times, failed, taken)
        });
    }
    let (began, mut times, mut failed, mut taken) = (Instant::now(), Times::default(), 0, vec![]);
    while let Some(result) = tasks.join_next().await {
        let (of_one, failed_one, taken_one) = result.map_err(|e| e.to_string())?;
        times.extend(of_one);
        failed += failed_one;
        taken.extend(taken_one);
    }
    let took = began.elapsed().as_secs_f64() * 1e6;
    let count = taken.len();
    taken.sort();
    taken.dedup();
    if taken.len() != count {
        return Err(format!("{} addresses were given twice", count - taken.len()));
    }
    let row = |what, unit, value, against, limit| Row { scenario, store: "etcd", what, unit, value, against, limit };
    Ok(vec![
        row(failures, "", f64::from(failed), None, Some(0.0)),
        row(slowest, "us", times.quantile(0.99), Some(("median", times.median())), Some(5.0)),
        row("until all have all, for each address", "us", took / count.max(1) as f64, None, None),
    ])
}
