//! What an episode takes place in: nodes, pools, reservations, configuration, how much fails; and what clients choose to do there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::ip_pool::IpPoolSpec;
use api::meta::WithSpec;
use api::{IpPool, IpReservation, IpReservationSpec, Metadata, Node, NodeSpec};
use datastore::memory::MemoryStore;
use datastore::typed;
use ipam::IpamConfig;
use ipnet::IpNet;

use crate::choices::Choices;
use crate::judge::{Judge, Standing};
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
}

impl Kind {
    pub fn store(self) -> MemoryStore {
        match self {
            Self::Transactions | Self::Following => MemoryStore::new(),
            Self::Ordered => MemoryStore::without_transactions(),
        }
    }
}

/// A pool of an episode.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: &'static str,
    pub cidr: IpNet,
    pub block_size: u8,
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
}

impl Setting {
    pub fn choose(choices: &mut Choices) -> Self {
        let nodes = (0..2 + choices.below(5)).map(|n| format!("node-{n}")).collect();
        let mut pools = vec![];
        for (name, cidr, block_size) in POOLS.iter().skip(choices.below(POOLS.len())).take(1 + choices.below(2)) {
            pools.push(Pool { name, cidr: net(cidr), block_size: *block_size });
        }
        if choices.below(2) == 1 {
            let (name, cidr, block_size) = *choices.pick(POOLS_V6);
            pools.push(Pool { name, cidr: net(cidr), block_size });
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
        }
    }

    /// Puts it into a store.
    pub async fn write(&self, store: &MemoryStore) {
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
                Task::Take { handle, ip }
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
        let spec = IpPoolSpec { block_size: Some(self.block_size), ..IpPoolSpec::new(self.cidr) };
        IpPool::new(Metadata::named(self.name), WithSpec { spec, status: None })
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}
