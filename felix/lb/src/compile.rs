//! Frontends and backends to map entries. Pure.
//!
//! An endpoint set is written once, in a region of the slots of its own, and shared by every frontend that has the same
//! endpoints; it never changes while a frontend points to it. A frontend changes to another set by one write of its
//! [`SetRef`]. A region that nobody points to is reused only after [`QUARANTINE`], so that no program in flight reads
//! through an old reference what was written for another set.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use felix_calc::service_index::{Frontend, Protocol};

use crate::layout;
use crate::maglev;

/// Far longer than a BPF program runs.
const QUARANTINE: Duration = Duration::from_secs(1);

/// Service ids are indices of the counters' map; 0 is nobody's.
pub const MAX_SERVICES: u32 = 65_536;

const ORDINALS_PER_SLOT: usize = size_of::<Slot>() / size_of::<u16>();

/// The image of one slot: a backend, or [`ORDINALS_PER_SLOT`] ordinals of a Maglev table.
pub type Slot = u64;

/// The address, port and protocol of a frontend; the zero address is NodePort's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub addr: Ipv4Addr,
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
}

/// Where a set lies; the default is the empty set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetRef {
    pub offset: u32,
    pub count: u16,
    pub table: u16,
}

impl SetRef {
    /// Slots of the whole region.
    pub fn len(&self) -> u32 {
        u32::from(self.count) + u32::from(self.table).div_ceil(ORDINALS_PER_SLOT as u32)
    }

    /// Whether it is the empty set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What the frontends' map holds for a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub service: u32,
    /// For this node's pods and processes.
    pub inside: SetRef,
    /// For what comes in by an uplink.
    pub outside: SetRef,
}

/// One endpoint as the datapath sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub addr: Ipv4Addr,
    pub port: u16,
    pub is_local: bool,
}

/// The desired entries, and what has to be in the slots before they may be written.
#[derive(Debug, Default)]
pub struct Compiled {
    pub entries: BTreeMap<Key, Entry>,
    pub writes: Vec<(SetRef, Vec<Slot>)>,
    /// Ids given to services that had none: their counters start at zero.
    pub new_services: Vec<u32>,
    /// Index into the frontends, and why it is not among the entries.
    pub skipped: Vec<(usize, &'static str)>,
}

/// Remembers which sets lie where and which service has which id.
#[derive(Debug)]
pub struct Compiler {
    slots: Regions,
    sets: HashMap<Vec<Endpoint>, SetRef>,
    /// Sets whose contents could not be trusted when they were read back: reserved, never shared.
    foreign: BTreeSet<SetRef>,
    services: BTreeMap<String, u32>,
    /// Ids read back for keys whose service's name we do not know yet.
    adopted: BTreeMap<Key, u32>,
    adoptable: HashSet<u32>,
    ids: HashSet<u32>,
    next_id: u32,
}

impl Compiler {
    pub fn new(slots: u32) -> Self {
        Self {
            slots: Regions::new(slots),
            sets: HashMap::new(),
            foreign: BTreeSet::new(),
            services: BTreeMap::new(),
            adopted: BTreeMap::new(),
            adoptable: HashSet::new(),
            ids: HashSet::new(),
            next_id: 0,
        }
    }

    /// Takes over what an earlier process left in the maps. `read` returns the slots of a region.
    pub fn adopt(&mut self, actual: &BTreeMap<Key, Entry>, read: impl Fn(SetRef) -> Option<Vec<Slot>>) {
        let sets: BTreeSet<SetRef> = actual.values().flat_map(|entry| [entry.inside, entry.outside]).collect();
        for set in sets.into_iter().filter(|set| !set.is_empty()) {
            self.slots.reserve(set.offset, set.len());
            let endpoints = read(set).and_then(|image| decode(set, &image));
            match endpoints {
                Some(endpoints) if !self.sets.contains_key(&endpoints) => {
                    self.sets.insert(endpoints, set);
                }
                _ => {
                    self.foreign.insert(set);
                }
            }
        }
        self.adopted = actual.iter().map(|(key, entry)| (*key, entry.service)).collect();
        self.adoptable = self.adopted.values().copied().filter(|&id| id != 0).collect();
    }

    /// The desired state of the maps.
    pub fn compile(&mut self, frontends: &[Frontend], now: Instant) -> Compiled {
        self.slots.release_quarantined(now);
        let mut out = Compiled::default();
        let mut owners: BTreeMap<Key, &str> = BTreeMap::new();
        let mut order: Vec<usize> = (0..frontends.len()).collect();
        // Two services may claim one address and port (externalIPs): the first by name has it, on every node.
        order.sort_by(|&a, &b| frontends[a].service.cmp(&frontends[b].service));
        self.forget_services(frontends);
        for index in order {
            let frontend = &frontends[index];
            let result = key(frontend).and_then(|key| match owners.insert(key, &frontend.service) {
                None => Ok(key),
                Some(first) => {
                    owners.insert(key, first);
                    Err("the address and port belong to another service")
                }
            });
            let entry = result.and_then(|key| {
                let inside = self.set(frontend, frontend.internal_local, &mut out)?;
                let outside = self.set(frontend, frontend.external_local, &mut out)?;
                Ok((key, Entry { service: self.service(&frontend.service, key, &mut out)?, inside, outside }))
            });
            match entry {
                Ok((key, entry)) => {
                    out.entries.insert(key, entry);
                }
                Err(reason) => out.skipped.push((index, reason)),
            }
        }
        self.adopted.clear();
        self.adoptable.clear();
        out
    }

    /// Frees every set but `used`, once no program in flight can hold a reference.
    pub fn retain(&mut self, used: &BTreeSet<SetRef>, now: Instant) {
        let slots = &mut self.slots;
        self.sets.retain(|_, set| used.contains(set) || slots.quarantine(*set, now));
        self.foreign.retain(|set| used.contains(set) || slots.quarantine(*set, now));
    }

    /// What a set's region has to hold.
    pub fn image(&self, set: SetRef) -> Option<Vec<Slot>> {
        let (endpoints, _) = self.sets.iter().find(|&(_, &known)| known == set)?;
        Some(encode(set, endpoints))
    }

    /// Names of the services that have ids.
    pub fn services(&self) -> &BTreeMap<String, u32> {
        &self.services
    }

    /// Slots in use, quarantined ones included.
    pub fn slots_used(&self) -> u32 {
        self.slots.used()
    }

    fn set(&mut self, frontend: &Frontend, local_only: bool, out: &mut Compiled) -> Result<SetRef, &'static str> {
        let endpoints = endpoints(frontend, local_only)?;
        if endpoints.is_empty() {
            return Ok(SetRef::default());
        }
        if let Some(&set) = self.sets.get(&endpoints) {
            return Ok(set);
        }
        let mut set = SetRef {
            offset: 0,
            count: u16::try_from(endpoints.len()).map_err(|_| "more than 65535 endpoints")?,
            table: maglev::table_size(endpoints.len()).unwrap_or(0),
        };
        set.offset = self.slots.take(set.len()).ok_or("the map of endpoints is full")?;
        out.writes.push((set, encode(set, &endpoints)));
        self.sets.insert(endpoints, set);
        Ok(set)
    }

    fn service(&mut self, name: &str, key: Key, out: &mut Compiled) -> Result<u32, &'static str> {
        if let Some(&id) = self.services.get(name) {
            return Ok(id);
        }
        let id = match self.adopted.get(&key) {
            Some(&id) if self.adoptable.remove(&id) => id,
            _ => {
                let id = self.free_id().ok_or("more than 65535 services")?;
                out.new_services.push(id);
                id
            }
        };
        self.ids.insert(id);
        self.services.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The next id that neither a service has nor a key may still adopt; the one freed last comes last.
    fn free_id(&mut self) -> Option<u32> {
        for _ in 1..MAX_SERVICES {
            self.next_id = self.next_id % (MAX_SERVICES - 1) + 1;
            if !self.ids.contains(&self.next_id) && !self.adoptable.contains(&self.next_id) {
                return Some(self.next_id);
            }
        }
        None
    }

    fn forget_services(&mut self, frontends: &[Frontend]) {
        let names: BTreeSet<&str> = frontends.iter().map(|frontend| frontend.service.as_str()).collect();
        let ids = &mut self.ids;
        self.services.retain(|name, id| names.contains(name.as_str()) || !ids.remove(id));
    }
}

/// Free ranges of the slots.
#[derive(Debug)]
struct Regions {
    free: BTreeMap<u32, u32>,
    quarantine: Vec<(Instant, u32, u32)>,
    total: u32,
}

impl Regions {
    fn new(total: u32) -> Self {
        Self { free: BTreeMap::from([(0, total)]), quarantine: Vec::new(), total }
    }

    fn used(&self) -> u32 {
        self.total - self.free.values().sum::<u32>()
    }

    fn take(&mut self, len: u32) -> Option<u32> {
        let (&offset, &free) = self.free.iter().find(|&(_, &free)| free >= len)?;
        self.free.remove(&offset);
        if free > len {
            self.free.insert(offset + len, free - len);
        }
        Some(offset)
    }

    fn reserve(&mut self, offset: u32, len: u32) {
        let Some((&start, &free)) = self.free.range(..=offset).next_back() else { return };
        let (end, free_end) = (offset + len, start + free);
        if end > free_end {
            return;
        }
        self.free.remove(&start);
        if offset > start {
            self.free.insert(start, offset - start);
        }
        if free_end > end {
            self.free.insert(end, free_end - end);
        }
    }

    /// Always false, for `retain`.
    fn quarantine(&mut self, set: SetRef, now: Instant) -> bool {
        self.quarantine.push((now + QUARANTINE, set.offset, set.len()));
        false
    }

    fn release_quarantined(&mut self, now: Instant) {
        let (over, waiting) = self.quarantine.drain(..).partition(|&(until, ..)| until <= now);
        self.quarantine = waiting;
        let over: Vec<(Instant, u32, u32)> = over;
        for (_, offset, len) in over {
            self.release(offset, len);
        }
    }

    fn release(&mut self, mut offset: u32, mut len: u32) {
        if let Some((&before, &free)) = self.free.range(..offset).next_back()
            && before + free == offset
        {
            self.free.remove(&before);
            offset = before;
            len += free;
        }
        if let Some(free) = self.free.remove(&(offset + len)) {
            len += free;
        }
        self.free.insert(offset, len);
    }
}

fn key(frontend: &Frontend) -> Result<Key, &'static str> {
    let IpAddr::V4(addr) = frontend.addr else { return Err("IPv6 is not in this version") };
    let proto = match frontend.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Sctp => return Err("SCTP is not in this version"),
    };
    Ok(Key { addr, port: frontend.port, proto })
}

/// In the order of addresses and ports, which all nodes share.
fn endpoints(frontend: &Frontend, local_only: bool) -> Result<Vec<Endpoint>, &'static str> {
    let mut endpoints = Vec::with_capacity(frontend.backends.len());
    for backend in &frontend.backends {
        let IpAddr::V4(addr) = backend.addr else { return Err("IPv6 is not in this version") };
        if backend.is_local || !local_only {
            endpoints.push(Endpoint { addr, port: backend.port, is_local: backend.is_local });
        }
    }
    endpoints.sort_unstable();
    endpoints.dedup_by_key(|endpoint| (endpoint.addr, endpoint.port));
    Ok(endpoints)
}

/// The image of a set's region.
pub fn encode(set: SetRef, endpoints: &[Endpoint]) -> Vec<Slot> {
    let mut image = Vec::with_capacity(set.len() as usize);
    image.extend(endpoints.iter().map(|endpoint| {
        let mut bytes = [0; size_of::<Slot>()];
        bytes[..4].copy_from_slice(&endpoint.addr.octets());
        bytes[4..6].copy_from_slice(&endpoint.port.to_be_bytes());
        let flags = if endpoint.is_local { layout::backend_flags::BACKEND_LOCAL.0 as u16 } else { 0 };
        bytes[6..].copy_from_slice(&flags.to_ne_bytes());
        Slot::from_ne_bytes(bytes)
    }));
    if set.table > 0 {
        let names: Vec<_> = endpoints.iter().map(|endpoint| (endpoint.addr, endpoint.port)).collect();
        image.extend(maglev::table(&names, set.table).chunks(ORDINALS_PER_SLOT).map(|ordinals| {
            let mut bytes = [0; size_of::<Slot>()];
            for (at, ordinal) in bytes.chunks_mut(size_of::<u16>()).zip(ordinals) {
                at.copy_from_slice(&ordinal.to_ne_bytes());
            }
            Slot::from_ne_bytes(bytes)
        }));
    }
    image
}

/// The endpoints of a region; `None` if it is not exactly what [`encode`] writes.
fn decode(set: SetRef, image: &[Slot]) -> Option<Vec<Endpoint>> {
    let endpoints: Vec<Endpoint> = image
        .get(..usize::from(set.count))?
        .iter()
        .map(|slot| {
            let b = slot.to_ne_bytes();
            Endpoint {
                addr: Ipv4Addr::new(b[0], b[1], b[2], b[3]),
                port: u16::from_be_bytes([b[4], b[5]]),
                is_local: u16::from_ne_bytes([b[6], b[7]]) & layout::backend_flags::BACKEND_LOCAL.0 as u16 != 0,
            }
        })
        .collect();
    (set.table == maglev::table_size(endpoints.len()).unwrap_or(0) && encode(set, &endpoints) == image)
        .then_some(endpoints)
}

#[cfg(test)]
mod tests;
