//! What a lab leaves on the machine, and its removal: after success, failure, panic, Ctrl-C, and after `kill -9` by whoever
//! comes next.
//!
//! Everything a lab makes carries its id, so that removal needs nothing but the id:
//!
//! | thing | name |
//! |---|---|
//! | directory, with configurations, logs, sockets and a bpffs | `/run/tortie-lab/<id>` |
//! | namespaces | `tt<id>-<name>` |
//! | cgroups, and through them every process | `<cgroup v2 mount>/tortie-lab-<id>` |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::evidence::eventually;
use crate::exec;

/// Where labs live.
pub const LABS: &str = "/run/tortie-lab";
/// Who owns a lab: `<pid> <start time of that process>`.
const OWNER: &str = "owner";
/// Its presence says that the lab stays when its owner ends.
const KEEP: &str = "keep";
/// Where iproute2 keeps namespaces; it mounts the directory on itself when it makes the first one.
const NAMESPACES: &str = "/run/netns";
/// Its presence in [`LABS`] says that a lab, and nobody before it, caused that mount.
const NAMESPACES_MOUNT: &str = ".namespaces-mount";
/// Exit code after a signal, as a shell reports it for SIGINT.
const INTERRUPTED: i32 = 130;

static COUNTER: AtomicU32 = AtomicU32::new(0);
/// Labs of this process that are to go when it is interrupted.
static MINE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static SIGNALS: Once = Once::new();

/// The claim on a lab id; dropping it removes everything that carries the id.
pub struct Guard {
    id: String,
}

impl Guard {
    /// Takes a fresh id, its directory, its bpffs and its cgroup. Removes what dead runs left behind.
    ///
    /// # Errors
    /// When the machine refuses any of them.
    pub fn new() -> Result<Self> {
        exec::check_not_stopping()?;
        on_signals();
        reap_dead();
        let pid = std::process::id();
        let id = format!("{pid}x{}", COUNTER.fetch_add(1, Ordering::SeqCst));
        let (dir, new) = (dir(&id), Path::new(LABS).join(format!(".new-{id}")));
        fs::create_dir_all(&new).with_context(|| format!("cannot create {}; a lab needs root", new.display()))?;
        fs::write(new.join(OWNER), format!("{pid} {}", start_time(pid).unwrap_or_default()))?;
        if !is_mounted(Path::new(NAMESPACES)) {
            fs::write(Path::new(LABS).join(NAMESPACES_MOUNT), "")?;
        }
        mine(|set| set.insert(id.clone()));
        let guard = Self { id };
        fs::rename(&new, &dir)?;
        // Daemons that give up root keep their sockets below.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let bpf = dir.join("bpf");
        fs::create_dir_all(&bpf)?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", bpf.display()))?;
        if cgroup_mount().is_none() {
            let own = dir.join("cgroup");
            fs::create_dir_all(&own)?;
            mount(Some("cgroup2"), &own, Some("cgroup2"), MsFlags::empty(), None::<&str>)
                .context("no cgroup v2 is mounted, and none can be")?;
        }
        fs::create_dir_all(cgroup(&guard.id)?)?;
        Ok(guard)
    }

    /// The lab's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab stays after this process.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(&self) -> Result<()> {
        fs::write(dir(&self.id).join(KEEP), "")?;
        mine(|set| set.remove(&self.id));
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !mine(|set| set.contains(&self.id)) {
            return;
        }
        if let Err(error) = down(&self.id) {
            eprintln!("lab {} is not removed completely: {error:#}", self.id);
        }
        mine(|set| set.remove(&self.id));
    }
}

/// The directory of a lab.
pub fn dir(id: &str) -> PathBuf {
    Path::new(LABS).join(id)
}

/// The cgroup of a lab.
///
/// # Errors
/// When no cgroup v2 is mounted.
pub fn cgroup(id: &str) -> Result<PathBuf> {
    let own = dir(id).join("cgroup");
    let mount = if own.exists() { Some(own) } else { cgroup_mount() };
    Ok(mount.context("no cgroup v2 is mounted (mount -t cgroup2 none DIR)")?.join(format!("tortie-lab-{id}")))
}

/// The prefix of the namespaces of a lab.
pub fn netns_prefix(id: &str) -> String {
    format!("tt{id}-")
}

/// Where the machine has cgroup v2, beside v1 or alone; never a lab's own mount.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2" && !at.starts_with(LABS)).then(|| PathBuf::from(at))
    })
}

/// Removes everything that carries `id`. Says at the end what could not be removed; goes on until there.
///
/// # Errors
/// The list of what is left.
pub fn down(id: &str) -> Result<()> {
    let mut left = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            left.push(format!("{what}: {error:#}"));
        }
    };
    if let Ok(cgroup) = cgroup(id) {
        note("processes", kill_cgroup(&cgroup));
        note("cgroups", remove_cgroup(&cgroup));
    }
    let prefix = netns_prefix(id);
    for name in names_in(NAMESPACES).into_iter().filter(|n| n.starts_with(&prefix)) {
        note(&format!("namespace {name}"), remove_netns(&name));
    }
    let dir = dir(id);
    for below in ["bpf", "cgroup"] {
        let at = dir.join(below);
        if is_mounted(&at) {
            note(below, umount2(&at, MntFlags::MNT_DETACH).with_context(|| format!("umount {}", at.display())));
        }
    }
    if dir.exists() && !is_mounted(&dir.join("bpf")) && !is_mounted(&dir.join("cgroup")) {
        note("directory", fs::remove_dir_all(&dir).with_context(|| format!("rm -r {}", dir.display())));
    }
    let mark = Path::new(LABS).join(NAMESPACES_MOUNT);
    // Busy while anybody's namespace is there: then whoever ends last does it.
    if mark.exists() && umount2(Path::new(NAMESPACES), MntFlags::empty()).is_ok() {
        let _ = fs::remove_file(mark);
    }
    let _ = fs::remove_dir(LABS);
    if !left.is_empty() {
        bail!("{}", left.join("; "));
    }
    Ok(())
}

/// The labs that exist: `(id, its owner lives, it is kept)`.
pub fn labs() -> Vec<(String, bool, bool)> {
    let ids = names_in(LABS).into_iter().filter(|n| !n.starts_with('.'));
    ids.map(|id| {
        let dir = dir(&id);
        let owner = fs::read_to_string(dir.join(OWNER)).unwrap_or_default();
        let alive = owner
            .split_once(' ')
            .is_some_and(|(pid, started)| pid.parse().ok().and_then(start_time).is_some_and(|now| now == started));
        let keep = dir.join(KEEP).exists();
        (id, alive, keep)
    })
    .collect()
}

/// Removes the labs whose owner is gone and which nobody asked to keep.
pub fn reap_dead() {
    for (id, alive, keep) in labs() {
        if !alive && !keep {
            // Another run may be at it: what it removes meanwhile is no fault.
            let _ = down(&id);
        }
    }
}

fn remove_netns(name: &str) -> Result<()> {
    let path = Path::new(NAMESPACES).join(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(e) => bail!("umount {}: {e}", path.display()),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => bail!("rm {}: {e}", path.display()),
        _ => Ok(()),
    }
}

/// Kills what runs in a cgroup and below, and waits until it is gone.
///
/// # Errors
/// When something does not end.
pub fn kill_cgroup(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    // Linux 5.14 kills a whole tree at once; before, process by process until none is left.
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let start = std::time::Instant::now();
    loop {
        let pids: Vec<i32> = cgroup_tree(cgroup).iter().flat_map(|c| pids_in(c)).collect();
        if pids.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(10) {
            bail!("{pids:?} do not end");
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_cgroup(cgroup: &Path) -> Result<()> {
    for dir in cgroup_tree(cgroup).iter().rev() {
        let mut tries = 0;
        // A process that has just ended may still be counted.
        while let Err(error) = fs::remove_dir(dir) {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            tries += 1;
            if tries > 200 {
                bail!("rmdir {}: {error}", dir.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// `top` and every cgroup below, parents first.
fn cgroup_tree(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        let children = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let dirs: Vec<PathBuf> =
            children.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        found.extend(dirs);
        next += 1;
    }
    if top.exists() { found } else { Vec::new() }
}

fn pids_in(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|l| l.split(' ').nth(1) == at.to_str())
}

fn names_in(dir: &str) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// When a process started, in clock ticks since boot (proc(5), `/proc/pid/stat` field 22): with the pid, its identity.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_string)
}

/// On SIGINT, SIGTERM and SIGHUP: stop starting things, remove this process's labs, end.
fn on_signals() {
    SIGNALS.call_once(|| {
        std::thread::spawn(|| {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let name = runtime.block_on(async {
                let mut int = signal(SignalKind::interrupt()).ok()?;
                let mut term = signal(SignalKind::terminate()).ok()?;
                let mut hup = signal(SignalKind::hangup()).ok()?;
                tokio::select! {
                    _ = int.recv() => Some("SIGINT"),
                    _ = term.recv() => Some("SIGTERM"),
                    _ = hup.recv() => Some("SIGHUP"),
                }
            });
            let Some(name) = name else { return };
            exec::stop_all();
            eprintln!("{name}: removing the lab");
            // Twice: a command that was on its way when the first round passed may have made something.
            for _ in 0..2 {
                for id in mine(|set| set.clone()) {
                    if let Err(error) = down(&id) {
                        eprintln!("lab {id} is not removed completely: {error:#}");
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            std::process::exit(INTERRUPTED);
        });
    });
}

fn mine<R>(f: impl FnOnce(&mut BTreeSet<String>) -> R) -> R {
    f(&mut MINE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until a process is gone.
///
/// # Errors
/// When it is still there after `limit`.
pub fn wait_gone(pid: i32, limit: Duration) -> Result<()> {
    eventually(limit, &format!("process {pid} ends"), || match kill(Pid::from_raw(pid), None) {
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        _ => bail!("it runs"),
    })
}
