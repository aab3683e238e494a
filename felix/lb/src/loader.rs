//! Objects, pins and links.
//!
//! Under the pin root: `v<layout version>/<map>` and `links/<target>_<hook>`. Everything is pinned before it carries
//! traffic, so the process may die at any time; a new process opens the same maps, and swaps its programs into the links
//! it finds. A link whose interface has gone is removed.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::{
    AsRawLibbpf, Link, MapCore, MapHandle, Object, ObjectBuilder, PrintLevel, ProgramAttachType, ProgramMut,
};
use tracing::{debug, warn};

use crate::layout::layout as layout_constant;
use crate::maps::{self, Maps};
use crate::{Config, Error};

static TC_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tc.bpf.o"));
static CONNECT_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/connect.bpf.o"));

/// The cgroup programs; each one's name is its attach point's.
const CGROUP_PROGRAMS: [&str; 4] = ["connect4", "sendmsg4", "recvmsg4", "getpeername4"];

/// The first kernel with tcx.
const TCX_SINCE: (u32, u32) = (6, 6);

/// What an interface is to the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A pod's, host side.
    Workload,
    /// Leads out of the node.
    Uplink,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Uplink => "uplink",
        }
    }

    /// The hooks, each with its program. Egress first: replies of the host are translated before requests arrive.
    fn programs(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::Workload => [("egress", "host_egress"), ("ingress", "workload_ingress")],
            Self::Uplink => [("egress", "host_egress"), ("ingress", "uplink_ingress")],
        }
    }
}

/// An interface with our programs.
pub struct Attached {
    pub role: Role,
    pub name: String,
    links: Vec<Link>,
}

/// The loaded programs and their links. Dropping it leaves all of them working.
pub struct Datapath {
    tc: Object,
    connect: Object,
    links_dir: PathBuf,
    pub interfaces: BTreeMap<u32, Attached>,
    cgroup_links: Vec<Link>,
    is_tc_allowed: bool,
}

impl Datapath {
    /// Loads the programs; maps that are pinned already are used again.
    pub fn load(config: &Config) -> Result<Self, Error> {
        libbpf_rs::set_print(Some((PrintLevel::Debug, print)));
        if config.hooks.tc {
            require_tcx()?;
        }
        let pins = config.pin_root.join(format!("v{}", layout_constant::LAYOUT_VERSION.0));
        let links_dir = config.pin_root.join("links");
        for dir in [&pins, &links_dir] {
            create_on_bpffs(&config.pin_root, dir)?;
        }
        let mut datapath = Self {
            tc: load("tc", TC_OBJECT, &pins, config.hooks.tc)?,
            connect: load("socket", CONNECT_OBJECT, &pins, config.hooks.socket)?,
            links_dir,
            interfaces: BTreeMap::new(),
            cgroup_links: Vec::new(),
            is_tc_allowed: config.hooks.tc,
        };
        datapath.adopt_links()?;
        Ok(datapath)
    }

    /// The maps both objects share.
    pub fn maps(&self) -> Result<Maps, Error> {
        Maps::new(|map| {
            let error = |source| Error::Map { map, action: "open", source };
            let found = self.tc.maps().find(|found| found.name() == OsStr::new(map));
            let found = found.ok_or_else(|| error(io::Error::from(io::ErrorKind::NotFound).into()))?;
            MapHandle::try_from(&found).map_err(error)
        })
    }

    /// Attaches the programs of `role`; does nothing where they are attached. Without the tc hook an interface is known
    /// and has no programs.
    pub fn attach(&mut self, ifindex: u32, name: &str, role: Role) -> Result<(), Error> {
        let target = format!("{name} (interface {ifindex})");
        if let Some(attached) = self.interfaces.get_mut(&ifindex) {
            if attached.role == role && attached.links.iter().all(|link| is_attached_to(link, ifindex)) {
                name.clone_into(&mut attached.name);
                return Ok(());
            }
            self.detach(ifindex);
        }
        let mut links = Vec::new();
        let programs = role.programs().into_iter().filter(|_| self.is_tc_allowed);
        for (hook, program) in programs {
            let error = |source| Error::Attach { hook: "tc", program: program.into(), target: target.clone(), source };
            let path = self.links_dir.join(format!("{}_{ifindex}_{hook}", role.name()));
            links.push(pinned(&path, attach_tcx(&find_program(&self.tc, program)?, ifindex)).map_err(error)?);
        }
        self.interfaces.insert(ifindex, Attached { role, name: name.to_owned(), links });
        Ok(())
    }

    /// Detaches and forgets; an unknown interface is none of ours already.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(attached) = self.interfaces.remove(&ifindex) {
            attached.links.into_iter().for_each(remove_link);
        }
    }

    /// Attaches the socket programs to a cgroup, the root of the hierarchy by default.
    pub fn attach_cgroup(&mut self, cgroup: Option<&Path>) -> Result<(), Error> {
        let path = match cgroup {
            Some(path) => path.to_owned(),
            None => cgroup2_root().ok_or(Error::NoCgroup)?,
        };
        let error = |source| Error::Cgroup { path: path.clone(), source };
        let dir = fs::File::open(&path).map_err(error)?;
        let id = dir.metadata().map_err(error)?.ino();
        for program in CGROUP_PROGRAMS {
            let target = || path.display().to_string();
            let error = |source| Error::Attach { hook: "socket", program: program.into(), target: target(), source };
            let pin = self.links_dir.join(format!("cgroup_{program}"));
            let new = find_program(&self.connect, program)?;
            if let Ok(mut link) = Link::open(&pin) {
                if cgroup_of(&link) == Some(id) && link.update_prog(&new).is_ok() {
                    self.cgroup_links.push(link);
                    continue;
                }
                remove_link(link);
            }
            let link = pinned(&pin, new.attach_cgroup(dir.as_raw_fd())).map_err(error)?;
            self.cgroup_links.push(link);
        }
        Ok(())
    }

    /// Detaches the socket programs that an earlier process attached.
    pub fn detach_cgroup(&mut self) {
        self.cgroup_links.clear();
        for program in CGROUP_PROGRAMS {
            if let Ok(link) = Link::open(self.links_dir.join(format!("cgroup_{program}"))) {
                remove_link(link);
            }
        }
    }

    /// Whether every socket program is attached.
    pub fn is_cgroup_attached(&self) -> bool {
        self.cgroup_links.len() == CGROUP_PROGRAMS.len()
            && self.cgroup_links.iter().all(|link| cgroup_of(link).is_some_and(|id| id != 0))
    }

    /// The interfaces that exist and have lost a program.
    pub fn detached(&self) -> Vec<u32> {
        let lost = |(ifindex, attached): (&u32, &Attached)| {
            attached.links.iter().any(|link| !is_attached_to(link, *ifindex)).then_some(*ifindex)
        };
        self.interfaces.iter().filter_map(lost).filter(|&ifindex| interface_exists(ifindex)).collect()
    }

    /// Swaps our programs into the links an earlier process left, and removes those that lead nowhere.
    fn adopt_links(&mut self) -> Result<(), Error> {
        let dir =
            fs::read_dir(&self.links_dir).map_err(|source| Error::PinRoot { path: self.links_dir.clone(), source })?;
        let mut found: BTreeMap<(u32, Role), Vec<Link>> = BTreeMap::new();
        for path in dir.flatten().map(|entry| entry.path()) {
            let Some((role, ifindex, hook)) = path.file_name().and_then(OsStr::to_str).and_then(parse_link_name) else {
                continue;
            };
            let Ok(mut link) = Link::open(&path) else { continue };
            let program = role.programs().into_iter().find(|(name, _)| *name == hook).map(|(_, program)| program);
            let is_current = match program {
                Some(program) if self.is_tc_allowed && is_in_this_namespace(&link, ifindex) => {
                    link.update_prog(&*find_program(&self.tc, program)?).is_ok()
                }
                _ => false,
            };
            if is_current {
                found.entry((ifindex, role)).or_default().push(link);
            } else {
                remove_link(link);
            }
        }
        for ((ifindex, role), links) in found {
            if links.len() == role.programs().len() && !self.interfaces.contains_key(&ifindex) {
                debug!(ifindex, role = role.name(), "adopted the links of an earlier process");
                let name = interface_name(ifindex).unwrap_or_default();
                self.interfaces.insert(ifindex, Attached { role, name, links });
            } else {
                links.into_iter().for_each(remove_link);
            }
        }
        Ok(())
    }
}

/// All of libbpf's text is for debugging: it warns of attempts that may fail, and errors reach the caller anyway.
fn print(_: PrintLevel, text: String) {
    debug!(target: "libbpf", "{}", text.trim_end());
}

fn load(name: &'static str, image: &'static [u8], pins: &Path, is_wanted: bool) -> Result<Object, Error> {
    let error = |source| Error::Load { hook: name, pins: pins.to_owned(), source };
    let mut builder = ObjectBuilder::default();
    let mut object = builder.name(name).and_then(|builder| builder.open_memory(image)).map_err(error)?;
    for mut map in object.maps_mut() {
        let map_name = map.name().to_string_lossy().into_owned();
        if maps::NAMES.contains(&map_name.as_str()) {
            map.set_pin_path(pins.join(map_name)).map_err(error)?;
        }
    }
    for mut program in object.progs_mut() {
        program.set_autoload(is_wanted);
    }
    object.load().map_err(error)
}

fn find_program<'a>(object: &'a Object, name: &str) -> Result<ProgramMut<'a>, Error> {
    object.progs_mut().find(|program| program.name() == OsStr::new(name)).ok_or_else(|| Error::Attach {
        hook: "any",
        program: name.into(),
        target: "any hook".into(),
        source: io::Error::from(io::ErrorKind::NotFound).into(),
    })
}

fn attach_tcx(program: &ProgramMut<'_>, ifindex: u32) -> libbpf_rs::Result<Link> {
    // SAFETY: the program is loaded and lives as long as its object; a null opts asks for the defaults.
    let link = unsafe {
        libbpf_sys::bpf_program__attach_tcx(program.as_libbpf_object().as_ptr(), ifindex as i32, std::ptr::null())
    };
    let link = NonNull::new(link).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: not null, so a link that libbpf has just made and handed to us.
    Ok(unsafe { Link::from_ptr(link) })
}

/// Pins a new link, so that it outlives us; what is left at `path` leads nowhere and goes.
fn pinned(path: &Path, link: libbpf_rs::Result<Link>) -> libbpf_rs::Result<Link> {
    let mut link = link?;
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err.into()),
        _ => link.pin(path)?,
    }
    Ok(link)
}

fn remove_link(mut link: Link) {
    let path = link.pin_path();
    if let Some(Err(err)) = path.as_ref().map(|_| link.unpin()) {
        warn!(?path, %err, "cannot remove the pin of a link");
    }
    // The last reference: closing detaches. An explicit detach also works while another process holds one.
    let _ = link.detach();
}

fn is_attached_to(link: &Link, ifindex: u32) -> bool {
    matches!(link.info().map(|info| info.info), Ok(LinkTypeInfo::Tcx(tcx)) if tcx.ifindex == ifindex)
}

/// Whether a link is on our `ifindex`, and not on the same number in a network namespace that an earlier process had
/// and somebody keeps alive.
fn is_in_this_namespace(link: &Link, ifindex: u32) -> bool {
    let Ok(info) = link.info() else { return false };
    let LinkTypeInfo::Tcx(tcx) = info.info else { return false };
    tcx.ifindex == ifindex && tcx_links(ifindex, tcx.attach_type).contains(&info.id)
}

/// Ids of the links on a hook of our interface; of more than fit, the first.
fn tcx_links(ifindex: u32, hook: ProgramAttachType) -> Vec<u32> {
    const MAX: usize = 64;
    let (mut programs, mut links) = ([0; MAX], [0; MAX]);
    let mut opts = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        // The kernel fills the links in only where programs are asked for too.
        prog_ids: programs.as_mut_ptr(),
        link_ids: links.as_mut_ptr(),
        ..Default::default()
    };
    opts.__bindgen_anon_1.count = MAX as u32;
    // SAFETY: both arrays live through the call and have the `count` elements that it may write.
    let result = unsafe { libbpf_sys::bpf_prog_query_opts(ifindex as i32, hook as u32, &mut opts) };
    // SAFETY: both fields of the union are the same u32.
    let count = unsafe { opts.__bindgen_anon_1.count } as usize;
    links[..if result == 0 { count.min(MAX) } else { 0 }].to_vec()
}

fn cgroup_of(link: &Link) -> Option<u64> {
    match link.info().ok()?.info {
        LinkTypeInfo::Cgroup(cgroup) => Some(cgroup.cgroup_id),
        _ => None,
    }
}

fn parse_link_name(name: &str) -> Option<(Role, u32, &str)> {
    let (role, rest) = name.split_once('_')?;
    let (ifindex, hook) = rest.split_once('_')?;
    let role = [Role::Workload, Role::Uplink].into_iter().find(|known| known.name() == role)?;
    Some((role, ifindex.parse().ok()?, hook))
}

fn interface_name(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    // SAFETY: on success the buffer holds a string with its terminator.
    (!found.is_null()).then(|| unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

fn interface_exists(ifindex: u32) -> bool {
    interface_name(ifindex).is_some()
}

fn create_on_bpffs(root: &Path, dir: &Path) -> Result<(), Error> {
    // The nearest directory that exists decides: nothing is created where it cannot work.
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let on_bpffs = nix::sys::statfs::statfs(existing)
        .map(|fs| fs.filesystem_type() == nix::sys::statfs::FsType(libc::BPF_FS_MAGIC as _))
        .map_err(|err| Error::PinRoot { path: root.to_owned(), source: err.into() })?;
    if !on_bpffs {
        return Err(Error::NotBpffs { path: root.to_owned() });
    }
    fs::create_dir_all(dir).map_err(|source| Error::PinRoot { path: dir.to_owned(), source })
}

fn require_tcx() -> Result<(), Error> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < TCX_SINCE => {
            Err(Error::Kernel { release, feature: "tcx", since: "6.6", hook: "tc" })
        }
        _ => Ok(()),
    }
}

/// The first cgroup v2 mount. There may be one beside version 1 (`/sys/fs/cgroup/unified`).
fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}
