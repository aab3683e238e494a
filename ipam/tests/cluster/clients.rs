//! What the clients do, and what they write down: every call with its beginning, its end and its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::ip_pool::IpPoolSpec;
use api::ipam::IpamHandle;
use api::key::KeyRange;
use api::meta::WithSpec;
use api::{IpPool, Key, Metadata, Node, NodeSpec};
use datastore::{DynStore, typed};
use ipam::block::Block;
use ipam::{AffinityOwner, AssignRequest, Assignment, Ipam, Queue};
use ipnet::IpNet;

use crate::history::{self, Action, Event, Handle, Moment};

/// Few addresses for many clients, so that they meet: CIDR and block size.
const POOLS: [(&str, u8); 2] = [("10.0.0.0/26", 28), ("fd00::/122", 124)];
/// Addresses of one pool.
const ADDRESSES: u64 = 64;
const NODES: usize = 8;
/// How often a client tries to release what it is not sure of, when all members are up again.
const LAST_TRIES: usize = 1000;

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

/// How a client asks: it reads the store for each call, as a plugin that is alone; it follows the store; or it shares a queue over an
/// allocator that follows, with others of its node, as plugins that ask felix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Reads,
    Follows,
    Queues,
}

impl Way {
    /// Of each node's eight clients, three read, two follow and three queue.
    fn of(client: usize) -> Self {
        match client / NODES {
            0..3 => Self::Reads,
            3..5 => Self::Follows,
            _ => Self::Queues,
        }
    }
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Addresses, by the way of who asked: read, follow, queue.
    pub assigned: [usize; 3],
    /// Calls that were given an address of each family.
    pub dual: usize,
    pub released: usize,
    pub read: usize,
    pub refused: usize,
    pub unanswered: usize,
    /// Addresses whose assignment came after its handle was released, for the collection.
    pub late: usize,
}

impl Counts {
    /// Whether there is enough of everything for the history to mean something.
    pub fn is_enough(&self) -> bool {
        self.assigned.iter().all(|n| *n >= 30) && self.dual >= 20 && self.released >= 100 && self.unanswered > 0
    }
}

impl Recorder {
    pub fn new() -> Self {
        Self { start: Instant::now(), record: Arc::default() }
    }

    pub fn counts(&self) -> Counts {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).counts
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

/// What the clients share.
pub struct Setting {
    nodes: Vec<String>,
    recorder: Recorder,
    /// The work is done: a client releases what it is not sure of, and ends.
    is_over: AtomicBool,
    seed: u64,
}

impl Setting {
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Nodes and a pool of each family.
pub async fn prepare(store: &DynStore, recorder: &Recorder, seed: u64) -> Arc<Setting> {
    let nodes: Vec<String> = (0..NODES).map(|n| format!("node-{n}")).collect();
    for name in &nodes {
        let node = Node::new(Metadata::named(name), WithSpec { spec: NodeSpec::default(), status: None });
        typed::create(store.as_ref(), &node).await.unwrap();
    }
    for (i, (cidr, size)) in POOLS.into_iter().enumerate() {
        let spec = IpPoolSpec { block_size: Some(size), ..IpPoolSpec::new(cidr.parse().unwrap()) };
        let pool = IpPool::new(Metadata::named(format!("pool-{i}")), WithSpec { spec, status: None });
        typed::create(store.as_ref(), &pool).await.unwrap();
    }
    Arc::new(Setting { nodes, recorder: recorder.clone(), is_over: AtomicBool::new(false), seed })
}

fn all_addresses() -> Vec<IpAddr> {
    let nth = |pool: &str, n: u64| match pool.parse::<IpNet>().unwrap() {
        IpNet::V4(net) => IpAddr::from(Ipv4Addr::from_bits(net.addr().to_bits() + n as u32)),
        IpNet::V6(net) => IpAddr::from(Ipv6Addr::from_bits(net.addr().to_bits() + u128::from(n))),
    };
    POOLS.iter().flat_map(|(cidr, _)| (0..ADDRESSES).map(move |n| nth(cidr, n))).collect()
}

/// The queue of each node, as its felix has one.
pub async fn queues(setting: &Setting, stores: Vec<DynStore>) -> Vec<Queue> {
    let mut queues = Vec::new();
    for (node, store) in setting.nodes.iter().zip(stores.into_iter().cycle()) {
        let ipam = Ipam::new(store).following([AffinityOwner::Host(node.clone())]);
        ipam.synced().await;
        queues.push(Queue::start(ipam));
    }
    queues
}

/// The way of one client to the store.
struct Client {
    way: Way,
    /// Of its own; a client that queues takes it where the queue has given no answer, as a plugin does.
    ipam: Ipam,
    queue: Queue,
    owner: AffinityOwner,
    setting: Arc<Setting>,
}

/// One client until the end; what it has then.
pub async fn run(client: usize, store: DynStore, setting: Arc<Setting>, queues: Vec<Queue>) -> Vec<(Handle, IpAddr)> {
    let way = Way::of(client);
    let owner = AffinityOwner::Host(setting.nodes[client % NODES].clone());
    let ipam = Ipam::new(store);
    let ipam = if way == Way::Follows { ipam.following([owner.clone()]) } else { ipam };
    ipam.synced().await;
    let queue = queues[client % NODES].clone();
    let mut random = Random::new(setting.seed.wrapping_mul(1000) + client as u64);
    let this = Client { way, ipam, queue, owner, setting };
    let mut held: Vec<(Handle, Vec<IpAddr>)> = vec![];
    // A handle that may have an address: to be released before anything else.
    let mut unsure: Option<Handle> = None;
    let (mut handles, mut tries) = (0, 0);
    while !this.setting.is_over() || unsure.is_some() {
        tokio::time::sleep(Duration::from_millis(random.below(10))).await;
        if let Some(handle) = unsure {
            tries += usize::from(this.setting.is_over());
            assert!(tries < LAST_TRIES, "client {client} could not release {handle} in {tries} tries");
            if this.release(handle, tries > 0 || random.below(4) == 0).await {
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
                let families = [(1, 0), (0, 1), (1, 1), (1, 1)][random.below(4) as usize];
                match this.assign(handle, families).await {
                    Ok(addresses) if addresses.is_empty() => {}
                    Ok(addresses) => held.push((handle, addresses)),
                    Err(()) => unsure = Some(handle),
                }
            }
            5..9 if !held.is_empty() => {
                unsure = Some(held.swap_remove(random.below(held.len() as u64) as usize).0);
            }
            _ => this.read(&mut random).await,
        }
    }
    held.into_iter().flat_map(|(handle, ips)| ips.into_iter().map(move |ip| (handle, ip))).collect()
}

fn name(handle: Handle) -> String {
    format!("net.{handle}")
}

impl Client {
    /// Asks for addresses of IPv4 and of IPv6.
    async fn assign(&self, handle: Handle, (num_v4, num_v6): (usize, usize)) -> Result<Vec<IpAddr>, ()> {
        let recorder = &self.setting.recorder;
        let request = AssignRequest { num_v4, num_v6, ..AssignRequest::new(self.owner.clone(), name(handle)) };
        let began = recorder.now();
        let answer = match self.way {
            Way::Queues => self.queue.assign(request).await,
            _ => self.ipam.auto_assign(&request).await,
        };
        let ended = recorder.now();
        match answer {
            Ok(Assignment { v4, v6, .. }) => {
                assert!(v4.len() <= num_v4 && v6.len() <= num_v6, "{handle} has {v4:?} and {v6:?}");
                let addresses: Vec<IpAddr> = v4.iter().chain(&v6).map(|net| net.addr()).collect();
                recorder.write(|r| {
                    r.counts.assigned[self.way as usize] += addresses.len();
                    r.counts.dual += usize::from(!v4.is_empty() && !v6.is_empty());
                    r.counts.refused += usize::from(addresses.len() < num_v4 + num_v6);
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
    async fn release(&self, handle: Handle, is_alone: bool) -> bool {
        let recorder = &self.setting.recorder;
        let began = recorder.now();
        let answer = match self.way {
            Way::Queues if !is_alone => self.queue.release(name(handle)).await,
            _ => self.ipam.release_by_handle(&name(handle)).await,
        };
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

    async fn read(&self, random: &mut Random) {
        let recorder = &self.setting.recorder;
        let addresses = all_addresses();
        let ip = addresses[random.below(addresses.len() as u64) as usize];
        let began = recorder.now();
        let answer = self.ipam.ip_info(ip).await;
        let ended = recorder.now();
        if let Ok(info) = answer {
            let holder = info.map(|i| handle_of(&i.handle.expect("all are assigned with a handle")));
            recorder.write(|r| {
                r.counts.read += 1;
                r.add(ip, Action::Read(holder), began, Some(ended));
            });
        }
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
    for ip in all_addresses() {
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
