//! Carries out what [`crate::gc`] decided: each release is checked against the store once more, and conditional on what was observed.

mod endpoints;

use std::net::IpAddr;

use api::ipam::{AllocationBlock, IpamHandle, attr};
use api::key::AffinityOwner;
use api::{Key, Kind};
use datastore::{DynStore, Op, Revision, Txn};
use futures::{StreamExt, stream};
use ipnet::IpNet;

use crate::allocator::{Error, IpInfo, Ipam, cooldown};
use crate::block::Block;
use crate::gc::{PodView, Reason, Release, Settings};
use crate::handle;
use crate::lock::Gate;
use crate::release::ReleaseRequest;
use endpoints::{Suspects, suspect};

/// Reads and writes that are under way at the same time.
const PARALLEL: usize = 64;

/// Releases what is still as it was observed, addresses first; whether each was released. One that fails harms no other, and is
/// tried again.
pub async fn execute(
    store: &DynStore,
    ipam: &Ipam,
    settings: Settings,
    releases: &[Release],
) -> Vec<Result<bool, Error>> {
    let mut checks = Vec::new();
    for release in releases {
        checks.push(is_true(store, ipam, settings, release));
    }
    let checked = endpoints::unused(store, releases, together(checks).await).await;
    let requests_of = |release: &Release, is_true: &Result<bool, Error>| match release {
        Release::Addresses { handle, addresses, .. } if matches!(is_true, Ok(true)) => {
            release_requests(handle, addresses)
        }
        _ => vec![],
    };
    let requests: Vec<Vec<ReleaseRequest>> = releases.iter().zip(&checked).map(|(r, c)| requests_of(r, c)).collect();
    // All together; where that fails, each by itself.
    let are_released = ipam.release_ips(&requests.concat()).await.is_ok();
    let mut parts = Vec::new();
    for ((release, is_true), requests) in releases.iter().zip(checked).zip(requests) {
        parts.push(finish(store, ipam, release, is_true, are_released, requests));
    }
    together(parts).await
}

/// What is still as it was observed, but for endpoints: the addresses that these may have. Of records that is a condition of their
/// deletion.
async fn is_true(
    store: &DynStore,
    ipam: &Ipam,
    settings: Settings,
    release: &Release,
) -> Result<Option<Suspects>, Error> {
    match release {
        Release::Addresses { reason, .. } if is_alive(store, reason).await? => Ok(None),
        Release::Addresses { handle, addresses, .. } => revalidate(store, ipam, settings, handle, addresses).await,
        _ => Ok(Some(Suspects::new())),
    }
}

/// Does what is left of a release after the addresses of all were released, or were not.
async fn finish(
    store: &DynStore,
    ipam: &Ipam,
    release: &Release,
    is_true: Result<bool, Error>,
    are_released: bool,
    requests: Vec<ReleaseRequest>,
) -> Result<bool, Error> {
    if !is_true? {
        return Ok(false);
    }
    match release {
        Release::Addresses { .. } => {
            if !are_released {
                ipam.release_ips(&requests).await?;
            }
            Ok(true)
        }
        Release::Block { owner: Some(owner), cidr, must_be_empty, reason } => {
            if is_alive(store, reason).await? {
                return Ok(false);
            }
            match ipam.release_block_affinity(*cidr, owner, *must_be_empty).await {
                Err(Error::NotEmpty(_)) => Ok(false),
                outcome => outcome.map(|()| true),
            }
        }
        Release::Block { owner: None, cidr, .. } => release_block_of_nobody(store, ipam, *cidr).await,
        Release::Affinity { owner, cidr, revision, reason } => {
            Ok(!is_alive(store, reason).await? && release_affinity(store, ipam, owner, *cidr, *revision).await?)
        }
        Release::Record { handle, revision, .. } => release_record(store, ipam, handle, *revision).await,
    }
}

async fn release_block_of_nobody(store: &DynStore, ipam: &Ipam, cidr: IpNet) -> Result<bool, Error> {
    let key = Key::IpamBlock(cidr);
    let Some(kv) = store.get(&key).await? else { return Ok(false) };
    let Some(mut block) = read_block(&kv.value) else { return Ok(false) };
    block.thaw(ipam.now(), cooldown(&ipam.config().await?));
    if !block.is_empty() || block.owner().is_some() {
        return Ok(false);
    }
    conditionally(ipam, Op::Delete(key, Some(kv.mod_revision)), None).await?;
    Ok(true)
}

async fn release_affinity(
    store: &DynStore,
    ipam: &Ipam,
    owner: &AffinityOwner,
    cidr: IpNet,
    revision: Revision,
) -> Result<bool, Error> {
    let delete = Op::Delete(Key::BlockAffinity(owner.clone(), cidr), Some(revision));
    // Its block may have been made meanwhile: by this owner, it is no leak.
    let block = store.get(&Key::IpamBlock(cidr)).await?;
    if block.as_ref().and_then(|kv| read_block(&kv.value)).is_some_and(|b| b.owner().as_ref() == Some(owner)) {
        return Ok(false);
    }
    let present = Op::Check(Key::IpamBlock(cidr), block.map_or(0, |kv| kv.mod_revision));
    conditionally(ipam, delete, Some(present)).await?;
    Ok(true)
}

/// Deletes the record of a handle that has no address.
async fn release_record(store: &DynStore, ipam: &Ipam, handle: &str, revision: Revision) -> Result<bool, Error> {
    let key = Key::IpamHandle(handle.into());
    let Some(kv) = store.get(&key).await?.filter(|kv| kv.mod_revision == revision) else { return Ok(false) };
    let Ok(record) = serde_json::from_slice::<IpamHandle>(&kv.value) else { return Ok(false) };
    for cidr in handle::blocks(&record) {
        let Some(kv) = store.get(&Key::IpamBlock(cidr)).await? else { continue };
        if read_block(&kv.value).is_none_or(|b| !b.addresses_of(handle).is_empty()) {
            return Ok(false);
        }
    }
    conditionally(ipam, Op::Delete(key, Some(revision)), None).await?;
    Ok(true)
}

/// Deletes on a condition, and that the lock is open. A store without transactions is asked for them before.
async fn conditionally(ipam: &Ipam, delete: Op, condition: Option<Op>) -> Result<(), Error> {
    let mut fence = ipam.fence().await?;
    loop {
        match delete_if(&ipam.store, delete.clone(), condition.clone(), fence.check()).await {
            Err(lost) if fence.renew(&lost).await? => {}
            outcome => return Ok(outcome?),
        }
    }
}

async fn delete_if(
    store: &DynStore,
    delete: Op,
    condition: Option<Op>,
    lock: Option<Op>,
) -> Result<(), datastore::Error> {
    let mut ops = vec![delete];
    if store.has_transactions() {
        ops.extend(condition.into_iter().chain(lock));
    } else {
        if let Some(condition) = condition {
            condition.check(store.get(condition.key()).await?.map(|kv| kv.mod_revision))?;
        }
        Gate::new(lock).pass(store.as_ref()).await?;
    }
    store.txn(Txn { ops }).await.map(drop)
}

/// Deletes what was a node's own, while that node does not exist, and where a revision is given, while it has that.
///
/// # Errors
/// Of the store; [`datastore::Error::Conflict`] where the node is there again, or the object is another; [`Error::Locked`].
pub async fn delete_of_node(ipam: &Ipam, node: &str, key: &Key, revision: Option<u64>) -> Result<(), Error> {
    let absent = Op::Check(Key::resource(Kind::Node, None, node), 0);
    match conditionally(ipam, Op::Delete(key.clone(), revision), Some(absent)).await {
        Err(Error::Store(datastore::Error::NotFound(gone))) if gone == *key => Ok(()),
        outcome => outcome,
    }
}

/// Whether the store still says what was observed: the handle's addresses, which are returned.
async fn revalidate(
    store: &DynStore,
    ipam: &Ipam,
    settings: Settings,
    handle: &str,
    addresses: &[(IpAddr, Option<u64>)],
) -> Result<Option<Suspects>, Error> {
    let mut suspects = Suspects::new();
    for (ip, _) in addresses {
        let Some(info) = ipam.ip_info(*ip).await? else { continue };
        if info.handle.as_deref() != Some(handle) {
            return Ok(None);
        }
        // Each kind is watched by itself: that of the pods may be behind that of the blocks.
        if settings.has_kubernetes
            && let Some(pod) = pod_of(&info)
            && store.get(&pod).await?.is_some_and(|kv| may_run(&kv.value, *ip))
        {
            return Ok(None);
        }
        suspect(&mut suspects, &info);
    }
    Ok(Some(suspects))
}

/// The pod that an address was given to.
fn pod_of(info: &IpInfo) -> Option<Key> {
    let (namespace, name) = (info.attributes.get(attr::NAMESPACE)?, info.attributes.get(attr::POD)?);
    Some(Key::resource(Kind::Pod, Some(namespace), name))
}

/// Whether a pod runs that may have an address. One that cannot be read may.
fn may_run(pod: &[u8], ip: IpAddr) -> bool {
    let pod = serde_json::from_slice::<serde_json::Value>(pod);
    pod.map_or(true, |pod| PodView::of_status(&pod["status"]).may_have(ip))
}

/// Whether the node or service that was gone is there again.
async fn is_alive(store: &DynStore, reason: &Reason) -> Result<bool, Error> {
    let key = match reason {
        Reason::NodeGone(node) | Reason::NodeLongGone(node) => Key::resource(Kind::Node, None, node),
        Reason::NoService((namespace, name)) => Key::resource(Kind::Service, Some(namespace), name),
        _ => return Ok(false),
    };
    Ok(store.get(&key).await?.is_some())
}

fn read_block(value: &[u8]) -> Option<Block> {
    Block::from_stored(serde_json::from_slice::<AllocationBlock>(value).ok()?).ok()
}

/// A release, for the log.
pub fn describe(release: &Release) -> String {
    let owner = |owner: &AffinityOwner| owner.to_block_field();
    let what = match release {
        Release::Addresses { handle, addresses, .. } => {
            let addresses: Vec<String> = addresses.iter().map(|(ip, _)| ip.to_string()).collect();
            format!("collect {} of {handle}", addresses.join(", "))
        }
        Release::Block { cidr, owner: Some(o), .. } => format!("collect block {cidr} of {}", owner(o)),
        Release::Block { cidr, owner: None, .. } => format!("collect block {cidr}"),
        Release::Affinity { owner: o, cidr, .. } => format!("collect the affinity of {} for {cidr}", owner(o)),
        Release::Record { handle, .. } => format!("collect handle {handle}"),
    };
    format!("{what}: {}", release.reason())
}

/// To release addresses of a handle, while they are the allocations that were observed.
pub fn release_requests(handle: &str, addresses: &[(IpAddr, Option<u64>)]) -> Vec<ReleaseRequest> {
    let request = |(address, sequence_number): &(IpAddr, Option<u64>)| ReleaseRequest {
        address: *address,
        handle: Some(handle.to_string()),
        sequence_number: *sequence_number,
    };
    addresses.iter().map(request).collect()
}

/// Waits for all of them, some at the same time; the outcomes, in order.
pub async fn together<F: Future>(parts: Vec<F>) -> Vec<F::Output> {
    stream::iter(parts).buffered(PARALLEL).collect().await
}
