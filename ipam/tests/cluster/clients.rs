//! What the clients do, and what they write down: every call with its beginning, its end and its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::ip_pool::IpPoolSpec;
use api::ipam::IpamHandle;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::{IpPool, Key, Metadata, Node, NodeSpec};
use datastore::{DynStore, typed};
use ipam::block::Block;
use ipam::{AffinityOwner, AssignRequest, Ipam};

use crate::history::{self, Action, Event, Handle, Moment};

/// Few addresses for many clients, so that they meet.
const POOL: &str = "10.0.0.0/26";
const BLOCK_SIZE: u8 = 28;
const NODES: usize = 8;
/// How long a client tries to release what it is not sure of, when all members are up again.
const PATIENCE: Duration = Duration::from_secs(30);

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What happened, by address; and the calls that may concern any address.
#[derive(Clone)]
pub struct Recorder {
    start: Instant,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    of_address: BTreeMap<IpAddr, Vec<Event>>,
    /// Assignments without an answer: of which address, if any, only the rest of the history tells.
    lost: BTreeMap<Handle, Moment>,
    /// Releases of a handle without an answer.
    lost_releases: Vec<(Handle, Moment)>,
    /// Releases that found nothing.
    nothing: Vec<(Handle, Moment, Moment)>,
    counts: Counts,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub assigned: usize,
    pub released: usize,
    pub read: usize,
    pub refused: usize,
    pub unanswered: usize,
    /// Addresses whose assignment came after its handle was released, for the collection.
    pub late: usize,
}

impl Recorder {
    pub fn new() -> Self {
        Self { start: Instant::now(), record: Arc::default() }
    }

    fn now(&self) -> Moment {
        u64::try_from(self.start.elapsed().as_nanos()).expect("less than centuries")
    }

    fn write(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Record {
    fn add(&mut self, ip: IpAddr, action: Action, began: Moment, ended: Option<Moment>) {
        self.of_address.entry(ip).or_default().push(Event { action, began, ended });
    }
}

/// Nodes and a pool; the nodes' names.
pub async fn prepare(store: &DynStore) -> Arc<Vec<String>> {
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    for name in &nodes {
        let node = Node::new(Metadata::named(name), WithSpec { spec: NodeSpec::default(), status: None });
        typed::create(store.as_ref(), &node).await.unwrap();
    }
    let spec = IpPoolSpec { block_size: Some(BLOCK_SIZE), ..IpPoolSpec::new(POOL.parse().unwrap()) };
    typed::create(store.as_ref(), &IpPool::new(Metadata::named("pool"), WithSpec { spec, status: None }))
        .await
        .unwrap();
    Arc::new(nodes)
}

/// One client until the end; what it has then.
pub async fn run(
    client: usize,
    store: DynStore,
    nodes: Arc<Vec<String>>,
    recorder: Recorder,
    end: Instant,
    seed: u64,
) -> Vec<(Handle, IpAddr)> {
    let ipam = Ipam::new(store);
    let owner = AffinityOwner::Host(nodes[client % nodes.len()].clone());
    let mut random = Random::new(seed.wrapping_mul(1000) + client as u64);
    let mut held: Vec<(Handle, IpAddr)> = vec![];
    // A handle that may have an address: to be released before anything else.
    let mut unsure: Option<Handle> = None;
    let mut handles = 0;
    while Instant::now() < end || (unsure.is_some() && Instant::now() < end + PATIENCE) {
        tokio::time::sleep(Duration::from_millis(random.below(10))).await;
        if let Some(handle) = unsure {
            if release(&ipam, &recorder, handle).await {
                unsure = None;
            } else {
                tokio::time::sleep(Duration::from_millis(50 + random.below(100))).await;
            }
            continue;
        }
        match random.below(10) {
            0..5 if held.len() < 2 => {
                handles += 1;
                let handle = client as Handle * 100_000 + handles;
                match assign(&ipam, &recorder, handle, &owner).await {
                    Ok(addresses) => held.extend(addresses.into_iter().map(|ip| (handle, ip))),
                    Err(()) => unsure = Some(handle),
                }
            }
            5..9 if !held.is_empty() => {
                unsure = Some(held.swap_remove(random.below(held.len() as u64) as usize).0);
            }
            _ => read(&ipam, &recorder, &mut random).await,
        }
    }
    assert!(unsure.is_none(), "client {client} could not release for {PATIENCE:?}");
    held
}

fn name(handle: Handle) -> String {
    format!("net.{handle}")
}

async fn assign(ipam: &Ipam, recorder: &Recorder, handle: Handle, owner: &AffinityOwner) -> Result<Vec<IpAddr>, ()> {
    let request = AssignRequest { num_v4: 1, ..AssignRequest::new(owner.clone(), name(handle)) };
    let began = recorder.now();
    let answer = ipam.auto_assign(&request).await;
    let ended = recorder.now();
    match answer {
        Ok(assignment) => {
            let addresses: Vec<IpAddr> = assignment.v4.iter().map(|net| net.addr()).collect();
            recorder.write(|r| {
                r.counts.assigned += addresses.len();
                r.counts.refused += usize::from(addresses.is_empty());
                addresses.iter().for_each(|ip| r.add(*ip, Action::Assign(handle), began, Some(ended)));
            });
            Ok(addresses)
        }
        Err(error) => {
            assert!(matches!(error, ipam::Error::Store(_)), "{error}");
            recorder.write(|r| {
                r.counts.unanswered += 1;
                r.lost.insert(handle, began);
            });
            Err(())
        }
    }
}

/// Releases a handle; whether the store answered.
async fn release(ipam: &Ipam, recorder: &Recorder, handle: Handle) -> bool {
    let began = recorder.now();
    let answer = ipam.release_by_handle(&name(handle)).await;
    let ended = recorder.now();
    match answer {
        Ok(released) => {
            recorder.write(|r| {
                r.counts.released += released.len();
                released.iter().for_each(|ip| r.add(*ip, Action::Release(handle), began, Some(ended)));
                if released.is_empty() {
                    r.nothing.push((handle, began, ended));
                }
            });
            true
        }
        Err(error) => {
            assert!(matches!(error, ipam::Error::Store(_)), "{error}");
            recorder.write(|r| {
                r.counts.unanswered += 1;
                r.lost_releases.push((handle, began));
            });
            false
        }
    }
}

async fn read(ipam: &Ipam, recorder: &Recorder, random: &mut Random) {
    let ip = IpAddr::from([10, 0, 0, random.below(64) as u8]);
    let began = recorder.now();
    let answer = ipam.ip_info(ip).await;
    let ended = recorder.now();
    if let Ok(info) = answer {
        let holder = info.map(|i| handle_of(&i.handle.expect("all are assigned with a handle")));
        recorder.write(|r| {
            r.counts.read += 1;
            r.add(ip, Action::Read(holder), began, Some(ended));
        });
    }
}

fn handle_of(name: &str) -> Handle {
    name.strip_prefix("net.").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name} is no handle of this test"))
}

/// When all is quiet: the store holds what was told, and what came late; and each address has a linearisable history.
pub async fn settle(store: &DynStore, recorder: &Recorder, told: Vec<(Handle, IpAddr)>) -> Counts {
    let began = recorder.now();
    let stored = audit(store).await;
    let ended = recorder.now();
    let mut record = std::mem::take(&mut *recorder.record.lock().unwrap_or_else(PoisonError::into_inner));
    let told: BTreeMap<IpAddr, Handle> = told.into_iter().map(|(handle, ip)| (ip, handle)).collect();
    for (ip, handle) in &told {
        assert_eq!(stored.get(ip), Some(handle), "{ip}: what its client was told, and what is stored");
    }
    for (ip, handle) in stored.iter().filter(|(ip, _)| !told.contains_key(*ip)) {
        assert!(record.lost.contains_key(handle), "{ip} is stored for {}, which was told otherwise", name(*handle));
        record.counts.late += 1;
    }
    for last in 0..64 {
        let ip = IpAddr::from([10, 0, 0, last]);
        record.add(ip, Action::Read(stored.get(&ip).copied()), began, Some(ended));
    }
    // What a lost assignment took shows in who was seen with the address; a lost release concerns what the handle was seen with.
    let mut seen: BTreeMap<Handle, BTreeSet<IpAddr>> = BTreeMap::new();
    for (ip, events) in &record.of_address {
        for event in events {
            match event.action {
                Action::Assign(h) | Action::Release(h) | Action::Read(Some(h)) | Action::IsNot(h) => {
                    seen.entry(h).or_default().insert(*ip);
                }
                Action::Read(None) => {}
            }
        }
    }
    let of = |handle: &Handle| seen.get(handle).into_iter().flatten().copied().collect::<Vec<IpAddr>>();
    for (handle, began) in std::mem::take(&mut record.lost) {
        of(&handle).into_iter().for_each(|ip| record.add(ip, Action::Assign(handle), began, None));
    }
    for (handle, began) in std::mem::take(&mut record.lost_releases) {
        of(&handle).into_iter().for_each(|ip| record.add(ip, Action::Release(handle), began, None));
    }
    for (handle, began, ended) in std::mem::take(&mut record.nothing) {
        of(&handle).into_iter().for_each(|ip| record.add(ip, Action::IsNot(handle), began, Some(ended)));
    }
    for (ip, events) in &record.of_address {
        history::check(events).unwrap_or_else(|why| panic!("{ip}, {} calls: {why}", events.len()));
    }
    record.counts
}

/// Who has what; panics unless handles and affinities agree with the blocks.
async fn audit(store: &DynStore) -> BTreeMap<IpAddr, Handle> {
    let mut owners = BTreeMap::new();
    let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut claims = BTreeSet::new();
    for kv in store.list(&KeyRange::Blocks).await.unwrap().items {
        let block = Block::from_stored(serde_json::from_slice(&kv.value).unwrap()).unwrap();
        claims.extend(block.owner().map(|o| Key::BlockAffinity(o, block.cidr())));
        for (ip, attribute) in block.allocated() {
            let handle = attribute.handle_id.clone().unwrap();
            assert!(owners.insert(ip, handle_of(&handle)).is_none(), "{ip} is in two blocks");
            *counts.entry(handle).or_default().entry(block.cidr().to_string()).or_default() += 1;
        }
    }
    let mut stored = BTreeMap::new();
    for kv in store.list(&KeyRange::Handles).await.unwrap().items {
        let Key::IpamHandle(id) = &kv.key else { panic!("{} among the handles", kv.key) };
        stored.insert(id.clone(), serde_json::from_slice::<IpamHandle>(&kv.value).unwrap().block);
    }
    assert_eq!(stored, counts, "handles are exact");
    let affinities = store.list(&KeyRange::HostAffinities).await.unwrap().items;
    assert_eq!(affinities.into_iter().map(|kv| kv.key).collect::<BTreeSet<_>>(), claims, "affinities and owners agree");
    owners
}
