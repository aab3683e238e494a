//! The maps, typed: what [`crate::compile`] speaks on one side, the bytes of `bpf/types.h` on the other.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::Error;
use crate::compile::{Entry, Key, SetRef, Slot};
use crate::layout;

/// A type of `bpf/types.h`: plain bytes, with explicit padding.
///
/// # Safety
/// The type is `repr(C)`, has no implicit padding and is valid for every value of its bytes.
unsafe trait Plain: Copy + Default {
    fn bytes(&self) -> &[u8] {
        // SAFETY: by the trait's contract each of the size_of bytes is initialised.
        unsafe { std::slice::from_raw_parts((self as *const Self).cast(), size_of::<Self>()) }
    }

    /// `None` if there are fewer bytes than the type has.
    fn read(bytes: &[u8]) -> Option<Self> {
        // SAFETY: by the trait's contract any bytes are a value; read_unaligned has no alignment to keep.
        (bytes.len() >= size_of::<Self>()).then(|| unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

macro_rules! plain {
    ($($ty:ty = $size:literal),* $(,)?) => {
        $(
            // SAFETY: generated as repr(C) from the BTF of a C struct with explicit padding and integer fields only;
            // the size is asserted here as in types.h.
            unsafe impl Plain for $ty {}
            const _: () = assert!(size_of::<$ty>() == $size);
        )*
    };
}

plain!(
    layout::frontend_key = 8,
    layout::frontend = 24,
    layout::config = 20,
    layout::service_stats = 24,
    layout::drop_key = 8,
    u32 = 4,
    u64 = 8,
);
const _: () = assert!(size_of::<layout::backend>() == size_of::<Slot>());

/// A map with keys and values of `bpf/types.h`.
struct TypedMap<K, V> {
    handle: MapHandle,
    name: &'static str,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// # Errors
    /// When the map's keys or values are of another size.
    fn new(name: &'static str, handle: MapHandle) -> Result<Self, Error> {
        let map = Self { handle, name, types: PhantomData };
        if (map.handle.key_size() as usize, map.handle.value_size() as usize) != (size_of::<K>(), size_of::<V>()) {
            let other = io::Error::new(io::ErrorKind::InvalidData, "its keys or values are of another size");
            return Err(map.error("use")(other.into()));
        }
        Ok(map)
    }

    fn error(&self, action: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Error {
        let map = self.name;
        move |source| Error::Map { map, action, source }
    }

    /// Without an allocation: the frontends are read back all the time.
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let mut value = V::default();
        let fd = self.handle.as_fd().as_raw_fd();
        let (from, to) = (std::ptr::from_ref(key).cast(), std::ptr::from_mut(&mut value).cast());
        // SAFETY: K and V have the sizes of this map's keys and values, checked when it was opened; any bytes are a V.
        match unsafe { libbpf_sys::bpf_map_lookup_elem(fd, from, to) } {
            0 => Ok(Some(value)),
            result if result == -libc::ENOENT => Ok(None),
            result => Err(self.error("read")(libbpf_rs::Error::from_raw_os_error(-result))),
        }
    }

    /// One value per CPU.
    fn get_percpu(&self, key: &K) -> Result<Vec<V>, Error> {
        let values = self.handle.lookup_percpu(key.bytes(), MapFlags::ANY).map_err(self.error("read"))?;
        Ok(values.unwrap_or_default().iter().filter_map(|bytes| V::read(bytes)).collect())
    }

    fn set(&self, key: &K, value: &V) -> Result<(), Error> {
        self.handle.update(key.bytes(), value.bytes(), MapFlags::ANY).map_err(self.error("write"))
    }

    fn set_percpu(&self, key: &K, value: &V) -> Result<(), Error> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(self.error("size"))?;
        let values = vec![value.bytes().to_vec(); cpus];
        self.handle.update_percpu(key.bytes(), &values, MapFlags::ANY).map_err(self.error("write"))
    }

    /// All at once; on an error some may have been written.
    fn set_batch(&self, entries: &[(K, V)]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let keys: Vec<u8> = entries.iter().flat_map(|(key, _)| key.bytes().to_vec()).collect();
        let values: Vec<u8> = entries.iter().flat_map(|(_, value)| value.bytes().to_vec()).collect();
        self.handle
            .update_batch(&keys, &values, entries.len() as u32, MapFlags::ANY, MapFlags::ANY)
            .map_err(self.error("write"))
    }

    /// A key that is not there counts as deleted.
    fn delete(&self, key: &K) -> Result<(), Error> {
        match self.handle.delete(key.bytes()) {
            Err(source) if source.kind() != libbpf_rs::ErrorKind::NotFound => Err(self.error("delete from")(source)),
            _ => Ok(()),
        }
    }

    fn keys(&self) -> Vec<K> {
        self.handle.keys().filter_map(|bytes| K::read(&bytes)).collect()
    }
}

/// The array of endpoint sets, in our memory.
struct SlotMemory {
    at: NonNull<Slot>,
    len: usize,
}

impl SlotMemory {
    fn map(handle: &MapHandle) -> Result<Self, Error> {
        let len = handle.max_entries() as usize;
        // SAFETY: a new mapping of a live file descriptor at an address of the kernel's choice aliases nothing.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<Slot>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                handle.as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at.cast::<Slot>()) {
            Some(slots) if at != libc::MAP_FAILED => Ok(Self { at: slots, len }),
            _ => Err(Error::Mmap { source: io::Error::last_os_error() }),
        }
    }

    fn contains(&self, set: SetRef) -> bool {
        set.offset as usize + set.len() as usize <= self.len
    }

    fn write(&self, set: SetRef, image: &[Slot]) {
        assert!(self.contains(set) && image.len() == set.len() as usize, "the compiler allots regions inside the map");
        for (i, slot) in image.iter().enumerate() {
            // SAFETY: in bounds by the assertion. The kernel reads the same memory: hence volatile, a word at a time. No
            // frontend points to this region yet, and the system call that makes one do so orders these stores before it.
            unsafe { self.at.add(set.offset as usize + i).write_volatile(*slot) }
        }
    }

    /// The slots of a region; `None` if it is not in the map.
    fn read(&self, set: SetRef) -> Option<impl Iterator<Item = Slot> + '_> {
        let slots = set.offset as usize..set.offset as usize + set.len() as usize;
        // SAFETY: in bounds by the check; the kernel's programs only read this memory, its other writers are processes
        // of ours, and volatile reads make no assumption about them.
        self.contains(set).then(|| slots.map(|i| unsafe { self.at.add(i).read_volatile() }))
    }
}

impl Drop for SlotMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len * size_of::<Slot>()) };
    }
}

/// What the datapath is told besides the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Advances whenever sets change.
    pub epoch: u32,
    pub snat_addr: Option<Ipv4Addr>,
    pub hairpin_addr: Ipv4Addr,
    pub ports: (u16, u16),
}

/// Sums over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// Every map that user space reads or writes.
pub struct Maps {
    config: TypedMap<u32, layout::config>,
    node_addrs: TypedMap<u32, u32>,
    frontends: TypedMap<layout::frontend_key, layout::frontend>,
    services: TypedMap<u32, layout::service_stats>,
    drops: TypedMap<layout::drop_key, u64>,
    slots: SlotMemory,
    sizes: Vec<(&'static str, u32)>,
}

/// Names of the maps, as in `bpf/maps.h`.
pub const NAMES: [&str; 8] =
    ["config", "node_addrs", "frontends", "slots", "conntrack", "sk_reverse", "services", "drops"];

impl Maps {
    /// `find` returns the map of a name of [`NAMES`].
    pub fn new(find: impl Fn(&'static str) -> Result<MapHandle, Error>) -> Result<Self, Error> {
        let mut sizes = Vec::new();
        for name in NAMES {
            sizes.push((name, find(name)?.max_entries()));
        }
        Ok(Self {
            config: TypedMap::new("config", find("config")?)?,
            node_addrs: TypedMap::new("node_addrs", find("node_addrs")?)?,
            frontends: TypedMap::new("frontends", find("frontends")?)?,
            services: TypedMap::new("services", find("services")?)?,
            drops: TypedMap::new("drops", find("drops")?)?,
            slots: SlotMemory::map(&find("slots")?)?,
            sizes,
        })
    }

    /// Each map's name and how many entries fit.
    pub fn sizes(&self) -> &[(&'static str, u32)] {
        &self.sizes
    }

    pub fn settings(&self) -> Result<Settings, Error> {
        let config = self.config.get(&0)?.unwrap_or_default();
        Ok(Settings {
            epoch: config.epoch,
            snat_addr: (config.snat_addr != 0).then(|| from_be(config.snat_addr)),
            hairpin_addr: from_be(config.hairpin_addr),
            ports: (config.port_min, config.port_max),
        })
    }

    pub fn write_settings(&self, settings: Settings) -> Result<(), Error> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(self.config.error("size"))?;
        let config = layout::config {
            epoch: settings.epoch,
            snat_addr: settings.snat_addr.map_or(0, to_be),
            hairpin_addr: to_be(settings.hairpin_addr),
            port_min: settings.ports.0,
            port_max: settings.ports.1,
            cpus: cpus as u32,
        };
        self.config.set(&0, &config)
    }

    pub fn node_addrs(&self) -> Vec<Ipv4Addr> {
        self.node_addrs.keys().into_iter().map(from_be).collect()
    }

    pub fn add_node_addr(&self, addr: Ipv4Addr) -> Result<(), Error> {
        self.node_addrs.set(&to_be(addr), &1)
    }

    pub fn delete_node_addr(&self, addr: Ipv4Addr) -> Result<(), Error> {
        self.node_addrs.delete(&to_be(addr))
    }

    pub fn frontend(&self, key: Key) -> Result<Option<Entry>, Error> {
        Ok(self.frontends.get(&raw_key(key))?.map(entry))
    }

    pub fn dump_frontends(&self) -> Result<BTreeMap<Key, Entry>, Error> {
        let mut all = BTreeMap::new();
        for raw in self.frontends.keys() {
            if let Some(value) = self.frontends.get(&raw)? {
                let key = Key { addr: from_be(raw.addr), port: u16::from_be(raw.port), proto: raw.proto };
                all.insert(key, entry(value));
            }
        }
        Ok(all)
    }

    pub fn write_frontends(&self, entries: &[(Key, Entry)]) -> Result<(), Error> {
        let entries: Vec<_> = entries.iter().map(|(key, entry)| (raw_key(*key), raw_entry(entry))).collect();
        self.frontends.set_batch(&entries)
    }

    pub fn write_frontend(&self, key: Key, entry: &Entry) -> Result<(), Error> {
        self.frontends.set(&raw_key(key), &raw_entry(entry))
    }

    pub fn delete_frontend(&self, key: Key) -> Result<(), Error> {
        self.frontends.delete(&raw_key(key))
    }

    pub fn write_set(&self, set: SetRef, image: &[Slot]) {
        self.slots.write(set, image);
    }

    /// `None` if the region is not in the map.
    pub fn read_set(&self, set: SetRef) -> Option<Vec<Slot>> {
        self.slots.read(set).map(Iterator::collect)
    }

    /// [`checksum`] of a region; `None` if it is not in the map.
    pub fn set_checksum(&self, set: SetRef) -> Option<u64> {
        self.slots.read(set).map(checksum)
    }

    pub fn counters(&self, service: u32) -> Result<Counters, Error> {
        Ok(self.services.get_percpu(&service)?.iter().fold(Counters::default(), |sum, cpu| Counters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            flows: sum.flows + cpu.flows,
        }))
    }

    pub fn reset_counters(&self, service: u32) -> Result<(), Error> {
        for raw in self.drops.keys().iter().filter(|raw| raw.service == service) {
            self.drops.delete(raw)?;
        }
        self.services.set_percpu(&service, &layout::service_stats::default())
    }

    /// By service and [`layout::drop_reason`].
    pub fn drops(&self) -> Result<BTreeMap<(u32, u32), u64>, Error> {
        let mut all = BTreeMap::new();
        for raw in self.drops.keys() {
            all.insert((raw.service, raw.reason), self.drops.get_percpu(&raw)?.iter().sum());
        }
        Ok(all)
    }
}

/// FNV-1a over words: finds a changed slot, protects against no one.
pub fn checksum(image: impl IntoIterator<Item = Slot>) -> u64 {
    image.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, slot| (hash ^ slot).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The address as a `__be32`.
fn to_be(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

fn from_be(addr: u32) -> Ipv4Addr {
    Ipv4Addr::from(addr.to_ne_bytes())
}

fn raw_key(key: Key) -> layout::frontend_key {
    layout::frontend_key { addr: to_be(key.addr), port: key.port.to_be(), proto: key.proto, pad: 0 }
}

fn raw_entry(entry: &Entry) -> layout::frontend {
    let set = |set: SetRef| layout::set_ref { offset: set.offset, count: set.count, table: set.table };
    let mut sets = [layout::set_ref::default(); layout::origin::ORIGINS.0 as usize];
    sets[layout::origin::ORIGIN_INSIDE.0 as usize] = set(entry.inside);
    sets[layout::origin::ORIGIN_OUTSIDE.0 as usize] = set(entry.outside);
    layout::frontend { service: entry.service, pad: 0, set: sets }
}

fn entry(raw: layout::frontend) -> Entry {
    let set = |origin: layout::origin| {
        let raw = raw.set[origin.0 as usize];
        SetRef { offset: raw.offset, count: raw.count, table: raw.table }
    };
    Entry {
        service: raw.service,
        inside: set(layout::origin::ORIGIN_INSIDE),
        outside: set(layout::origin::ORIGIN_OUTSIDE),
    }
}
