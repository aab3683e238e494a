//! What an episode takes place in: nodes, pools, reservations, configuration, how much fails; and what clients choose to do there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::ip_pool::{AllowedUse, IpPoolSpec};
use api::meta::WithSpec;
use api::{IpPool, IpReservation, IpReservationSpec, Metadata, Node, NodeSpec};
use datastore::memory::MemoryStore;
use datastore::typed;
use ipam::IpamConfig;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::choices::Choices;
use crate::judge::{Judge, Standing};
use crate::life::{Holder, Life};
use crate::task::Task;

/// What kind of store and allocator an episode is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Several keys change in one transaction, and every call reads the store.
    Transactions,
    /// The same with allocators that follow the store, some way behind.
    Following,
    /// One key changes at a time.
    Ordered,
    /// With transactions; some follow the store. Controllers collect what is leaked and give services addresses.
    Collected,
    /// The same where one key changes at a time.
    CollectedOrdered,
    /// The same on a store that answers clients with what it held a few writes ago; with or without transactions.
    Stale,
}

/// What the choice of a task goes by.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub judge: &'a Judge,
    pub life: &'a Life,
    pub now: Timestamp,
    /// That of who chooses.
    pub node: &'a str,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Transactions, Self::Following, Self::Ordered, Self::Collected, Self::CollectedOrdered, Self::Stale];

    pub fn store(self, choices: &mut Choices) -> MemoryStore {
        match self {
            Self::Ordered | Self::CollectedOrdered => MemoryStore::without_transactions(),
            Self::Stale if choices.below(2) == 1 => MemoryStore::without_transactions(),
            _ => MemoryStore::new(),
        }
    }

    /// Whether what is leaked is collected.
    pub fn collects(self) -> bool {
        matches!(self, Self::Collected | Self::CollectedOrdered | Self::Stale)
    }

    pub fn follows(self, client: usize) -> bool {
        self == Self::Following || self.collects() && client % 3 == 1
    }
}

/// A pool of an episode.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: &'static str,
    pub cidr: IpNet,
    pub block_size: u8,
    pub is_for_services: bool,
}

/// CIDR and block size of the pools that an episode may have.
const POOLS: &[(&str, &str, u8)] = &[
    ("p-30", "10.0.0.0/27", 30),
    ("p-29", "10.0.1.0/26", 29),
    ("p-32", "10.0.2.0/29", 32),
    ("p-28", "10.0.3.0/27", 28),
    ("p-26", "10.0.4.0/25", 26),
];
const POOLS_V6: &[(&str, &str, u8)] = &[("six-126", "fd00::/123", 126), ("six-125", "fd00:0:0:1::/122", 125)];

/// The pool of services, and the block of a pool of theirs that is no IPPool.
const SERVICES: (&str, &str, u8) = ("services", "10.0.8.0/27", 29);
const OTHER_SERVICES: &str = "10.0.9.0/29";

/// The setting.
#[derive(Clone, Debug)]
pub struct Setting {
    pub clients: usize,
    pub nodes: Vec<String>,
    pub pools: Vec<Pool>,
    pub reserved: Vec<IpNet>,
    pub config: IpamConfig,
    /// Nobody changes configuration, pools or nodes.
    pub is_steady: bool,
    pub crash_permille: usize,
    pub fault_permille: usize,
    /// How many of 1,000 reads are old.
    pub stale_permille: usize,
}

impl Setting {
    pub fn choose(choices: &mut Choices, kind: Kind) -> Self {
        let nodes = (0..2 + choices.below(5)).map(|n| format!("node-{n}")).collect();
        let mut pools = vec![];
        for (name, cidr, block_size) in POOLS.iter().skip(choices.below(POOLS.len())).take(1 + choices.below(2)) {
            pools.push(Pool { name, cidr: net(cidr), block_size: *block_size, is_for_services: false });
        }
        if choices.below(2) == 1 {
            let (name, cidr, block_size) = *choices.pick(POOLS_V6);
            pools.push(Pool { name, cidr: net(cidr), block_size, is_for_services: false });
        }
        let mut reserved = vec![];
        if choices.below(4) == 1 {
            let pool = choices.pick(&pools);
            let length = (pool.cidr.prefix_len() + 2).min(pool.cidr.max_prefix_len());
            reserved.push(IpNet::new(pool.cidr.addr(), length).expect("within the pool"));
        }
        let is_steady = choices.below(2) == 0;
        let config = choose_config(choices);
        Self {
            clients: 2 + choices.below(15),
            nodes,
            pools,
            reserved,
            config,
            is_steady,
            crash_permille: *choices.pick(&[0, 2, 10, 30]),
            fault_permille: *choices.pick(&[0, 5, 30, 150]),
            stale_permille: if kind == Kind::Stale { *choices.pick(&[20, 100, 400]) } else { 0 },
        }
    }

    /// Puts it into a store.
    pub async fn write(&self, store: &MemoryStore, kind: Kind) {
        if kind.collects() {
            let (name, cidr, block_size) = SERVICES;
            let pool = Pool { name, cidr: net(cidr), block_size, is_for_services: true };
            typed::create(store, &pool.resource()).await.expect("an empty store");
        }
        for name in &self.nodes {
            let node = Node::new(Metadata::named(name), WithSpec { spec: NodeSpec::default(), status: None });
            typed::create(store, &node).await.expect("an empty store");
        }
        for pool in &self.pools {
            typed::create(store, &pool.resource()).await.expect("an empty store");
        }
        if !self.reserved.is_empty() {
            let spec = IpReservationSpec { reserved_cidrs: self.reserved.iter().map(ToString::to_string).collect() };
            let reservation = IpReservation::new(Metadata::named("reserved"), WithSpec { spec, status: None });
            typed::create(store, &reservation).await.expect("an empty store");
        }
        let config = serde_json::to_vec(&self.config).expect("it has text keys");
        datastore::Store::put(store, api::Key::IpamConfig, config).await.expect("an empty store");
    }

    pub fn has(&self, v6: bool) -> bool {
        self.pools.iter().any(|p| p.cidr.addr().is_ipv6() == v6)
    }

    /// Whether every address that is free can be had by everybody.
    pub fn lends_everything(&self) -> bool {
        let config = &self.config;
        self.is_steady && !config.strict_affinity && config.ip_cooldown_seconds == 0 && config.max_blocks_per_host > 100
    }

    /// How many addresses of a family (0: IPv4, 1: IPv6) can be had unasked.
    pub fn capacity(&self, family: usize) -> usize {
        let of_family = |net: &&IpNet| usize::from(net.addr().is_ipv6()) == family;
        let size = |net: &IpNet| 1usize << (net.max_prefix_len() - net.prefix_len());
        let pools: usize = self.pools.iter().map(|p| &p.cidr).filter(of_family).map(size).sum();
        pools - self.reserved.iter().filter(of_family).map(size).sum::<usize>()
    }

    /// What a client does next. `handles` counts the handles that there were.
    pub fn choose_task(
        &self,
        choices: &mut Choices,
        judge: &Judge,
        handles: &mut usize,
        resumes: Option<String>,
    ) -> Task {
        if let Some(handle) = resumes {
            match choices.below(4) {
                0 | 1 => return Task::Release { handle },
                2 if judge.standing(&handle) != Some(Standing::Gone) => return self.assign(choices, handle, true),
                _ => {}
            }
        }
        let kept = judge.handles_that_are(Standing::Live);
        let uncertain = judge.handles_that_are(Standing::Uncertain);
        match choices.below(100) {
            0..4 => {
                let many = 2 + choices.below(5);
                let first = *handles + 1;
                *handles += many;
                let handles = (first..first + many).map(|n| format!("net.{n}")).collect();
                Task::AssignMany { handles, amount: self.amount(choices), is_repeated: choices.below(2) == 1 }
            }
            4..34 => {
                *handles += 1;
                let is_repeated = choices.below(4) == 3;
                self.assign(choices, format!("net.{handles}"), is_repeated)
            }
            34..42 if !kept.is_empty() || !uncertain.is_empty() => {
                let all: Vec<String> = kept.into_iter().chain(uncertain).collect();
                let handle = choices.pick(&all).clone();
                self.assign(choices, handle, true)
            }
            42..48 => {
                let ip = self.any_address(choices);
                let handle = if kept.is_empty() || choices.below(2) == 0 {
                    *handles += 1;
                    format!("net.{handles}")
                } else {
                    choices.pick(&kept).clone()
                };
                Task::Take { handle, ip, block: None }
            }
            48..76 if !kept.is_empty() => Task::Release { handle: choices.pick(&kept).clone() },
            76..84 if !uncertain.is_empty() => Task::Release { handle: choices.pick(&uncertain).clone() },
            84..86 if *handles > 0 => Task::Release { handle: format!("net.{}", 1 + choices.below(*handles)) },
            86..92 => {
                let mut addresses: Vec<IpAddr> = (0..choices.below(3)).map(|_| self.any_address(choices)).collect();
                let told: Vec<IpAddr> = judge.told().keys().copied().collect();
                if !told.is_empty() {
                    addresses.extend((0..choices.below(4)).map(|_| *choices.pick(&told)));
                }
                Task::ReleaseAddresses { addresses }
            }
            92..95 => {
                Task::Collect { dead: judge.handles_that_are(Standing::Gone).into_iter().collect::<BTreeSet<_>>() }
            }
            95..97 if !self.is_steady => Task::Configure(choose_config(choices)),
            97..99 if !self.is_steady => {
                let pool = choices.pick(&self.pools).clone();
                Task::ChangePool { pool, is_disabled: choices.below(3) == 1, selects: choices.below(3) != 1 }
            }
            99 if !self.is_steady => {
                let name = choices.pick(&self.nodes).clone();
                match choices.below(4) {
                    0 => Task::ChangeNode { name, is_there: true },
                    1 => Task::ChangeNode { name, is_there: false },
                    2 => Task::ReleaseHost { name, must_be_empty: choices.below(2) == 0 },
                    _ => Task::ReleasePool { cidr: choices.pick(&self.pools).cidr },
                }
            }
            _ => {
                *handles += 1;
                self.assign(choices, format!("net.{handles}"), false)
            }
        }
    }

    /// What a client of a node does next where there is a collection.
    pub fn choose_workload(
        &self,
        choices: &mut Choices,
        known: &Known<'_>,
        handles: &mut usize,
        resumes: Option<String>,
    ) -> Task {
        let Known { judge, life, now, node } = *known;
        let is_here = |h: &String| life.node_of(h) == Some(node) && life.is_wanting(h, now);
        if let Some(handle) = resumes {
            match choices.below(4) {
                0 | 1 => return Task::Release { handle },
                2 if judge.standing(&handle) != Some(Standing::Gone) && is_here(&handle) => {
                    return self.assign(choices, handle, true);
                }
                _ => {}
            }
        }
        let is_workload = |h: &String| Holder::of(h) != Holder::Service;
        let of = |standing| judge.handles_that_are(standing).into_iter().filter(is_workload).collect::<Vec<_>>();
        let (live, uncertain) = (of(Standing::Live), of(Standing::Uncertain));
        let wanting: Vec<String> = live.iter().chain(&uncertain).filter(|h| is_here(h)).cloned().collect();
        let mut new = |choices: &mut Choices| {
            *handles += 1;
            life.name(choices, *handles)
        };
        match choices.below(100) {
            0..4 => {
                let handles = (0..2 + choices.below(5)).map(|_| new(choices)).collect();
                Task::AssignMany { handles, amount: self.amount(choices), is_repeated: choices.below(2) == 1 }
            }
            4..36 => {
                let (handle, is_repeated) = (new(choices), choices.below(4) == 3);
                self.assign(choices, handle, is_repeated)
            }
            36..44 if !wanting.is_empty() => {
                let handle = choices.pick(&wanting).clone();
                self.assign(choices, handle, true)
            }
            44..50 => {
                let ip = self.any_address(choices);
                let is_new = wanting.is_empty() || choices.below(2) == 0;
                let handle = if is_new { new(choices) } else { choices.pick(&wanting).clone() };
                Task::Take { handle, ip, block: None }
            }
            50..70 if !live.is_empty() => Task::Release { handle: choices.pick(&live).clone() },
            70..78 if !uncertain.is_empty() => Task::Release { handle: choices.pick(&uncertain).clone() },
            78..82 => match judge.handles_that_are(Standing::Gone).as_slice() {
                [] => Task::ReleaseAddresses { addresses: vec![] },
                gone => Task::Release { handle: choices.pick(gone).clone() },
            },
            82..88 => {
                let mut addresses: Vec<IpAddr> = (0..choices.below(3)).map(|_| self.any_address(choices)).collect();
                let told: Vec<IpAddr> = judge.told().keys().copied().collect();
                if !told.is_empty() {
                    addresses.extend((0..choices.below(4)).map(|_| *choices.pick(&told)));
                }
                Task::ReleaseAddresses { addresses }
            }
            88..90 if !self.is_steady => Task::Configure(choose_config(choices)),
            90..92 if !self.is_steady => {
                let pool = choices.pick(&self.pools).clone();
                Task::ChangePool { pool, is_disabled: choices.below(3) == 1, selects: choices.below(3) != 1 }
            }
            92..97 if !self.is_steady => {
                let name = choices.pick(&self.nodes).clone();
                match choices.below(6) {
                    0 => Task::ReleaseHost { name, must_be_empty: choices.below(2) == 0 },
                    1 => Task::ReleasePool { cidr: choices.pick(&self.pools).cidr },
                    2 | 3 => Task::ChangeNode { name, is_there: false },
                    _ => Task::ChangeNode { name, is_there: true },
                }
            }
            _ => {
                let handle = new(choices);
                self.assign(choices, handle, false)
            }
        }
    }

    /// What a controller does next.
    pub fn choose_control(
        &self,
        choices: &mut Choices,
        known: &Known<'_>,
        handles: &mut usize,
        can_inspect: bool,
    ) -> Task {
        let Known { judge, life, now, .. } = *known;
        let is_service = |h: &String| Holder::of(h) == Holder::Service && life.is_wanting(h, now);
        let of = |standing| judge.handles_that_are(standing).into_iter().filter(is_service).collect::<Vec<_>>();
        let (live, uncertain) = (of(Standing::Live), of(Standing::Uncertain));
        let assign = |handle: String| Task::Assign { handle, v4: 1, v6: 0, pools: vec![], is_repeated: true };
        match choices.below(20) {
            0 if can_inspect => Task::Inspect,
            1..5 => {
                *handles += 1;
                assign(Holder::Service.handle(*handles))
            }
            5 | 6 if !uncertain.is_empty() => assign(choices.pick(&uncertain).clone()),
            7 => {
                *handles += 1;
                let block = net(OTHER_SERVICES);
                let ip = block.hosts().nth(choices.below(6)).unwrap_or(block.addr());
                Task::Take { handle: Holder::Service.handle(*handles), ip, block: Some(block) }
            }
            8..10 if live.len() > 1 => {
                let (from, to) = (choices.pick(&live).clone(), choices.pick(&live).clone());
                let address = judge.told().iter().find(|(_, h)| **h == from).map(|(ip, _)| *ip);
                match address.filter(|_| from != to) {
                    Some(ip) => Task::HandOver { ip, sequence: judge.sequence_of(ip), from, to },
                    None => Task::Sweep,
                }
            }
            10 if !live.is_empty() => Task::Release { handle: choices.pick(&live).clone() },
            _ => Task::Sweep,
        }
    }

    fn assign(&self, choices: &mut Choices, handle: String, is_repeated: bool) -> Task {
        let (v4, v6) = self.amount(choices);
        let pools = if choices.below(8) == 7 { vec![choices.pick(&self.pools).cidr] } else { vec![] };
        Task::Assign { handle, v4, v6, pools, is_repeated }
    }

    /// How many addresses of each family a workload wants.
    fn amount(&self, choices: &mut Choices) -> (usize, usize) {
        let many = *choices.pick(&[1, 1, 1, 1, 1, 1, 2, 3, 7]);
        match (self.has(false), self.has(true)) {
            (true, true) => *choices.pick(&[(many, 0), (0, many), (1, 1), (many, many)]),
            (true, false) => (many, 0),
            _ => (0, many),
        }
    }

    fn any_address(&self, choices: &mut Choices) -> IpAddr {
        let cidr = choices.pick(&self.pools).cidr;
        let hosts = 1usize << (cidr.max_prefix_len() - cidr.prefix_len());
        cidr.hosts().nth(choices.below(hosts)).unwrap_or(cidr.addr())
    }
}

fn choose_config(choices: &mut Choices) -> IpamConfig {
    IpamConfig {
        strict_affinity: choices.below(4) == 3,
        max_blocks_per_host: *choices.pick(&[1000, 1000, 0, 1, 2]),
        ip_cooldown_seconds: *choices.pick(&[0, 0, 0, 30]),
        ..IpamConfig::default()
    }
}

impl Pool {
    pub fn resource(&self) -> IpPool {
        let mut spec = IpPoolSpec { block_size: Some(self.block_size), ..IpPoolSpec::new(self.cidr) };
        if self.is_for_services {
            spec.allowed_uses = Some(vec![AllowedUse::LoadBalancer]);
        }
        IpPool::new(Metadata::named(self.name), WithSpec { spec, status: None })
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}
