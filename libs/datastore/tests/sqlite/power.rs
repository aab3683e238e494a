//! Power loss: a guest writes to a disk, and the power goes at random moments.
//!
//! ```text
//!  guest (qemu): Linux, ext4, this program as its init ──virtio-blk──► NBD ──► the disk: here, in memory
//!       │ serial console: what it found, then a line for each acknowledged write
//!       └──► the test: SIGKILL to qemu, and the disk forgets what was not flushed
//! ```
//! The disk is one with a volatile cache, and not a kind one: of what was written since the last flush, each block is kept, lost,
//! or kept up to one of its sectors, at random. The guest's clock jumps about as well.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::key::KeyRange;
use datastore::DynStore;
use tempfile::TempDir;

use crate::handle;
use crate::process::{FILE, ROLE, say};

/// Where deploy/prerequisites.sh puts a kernel for guests; the machine's own is as good.
const KERNELS: [&str; 2] = ["/var/cache/tortie/guest-kernel", "/"];
/// How long the test cuts the power; more by this variable, in seconds.
const DURATION: Duration = Duration::from_secs(22);
const DURATION_VARIABLE: &str = "TORTIE_POWER_SECONDS";
const DISK: usize = 64 << 20;
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const CLIENTS: usize = 4;
/// How long the disk takes to empty its cache.
const FLUSH: Duration = Duration::from_millis(5);
/// No guest is silent for longer, however loaded the machine.
const PATIENCE: Duration = Duration::from_secs(120);

// ---- in the guest

/// Says what is there, then writes as several clients until the power goes. Values of all sizes: checkpoints come often.
pub async fn write_until_the_end(store: DynStore) {
    let sqlite = datastore::sqlite::check(Path::new(&std::env::var(FILE).unwrap()), datastore::sqlite::Depth::Full);
    say(&format!("problems {:?}", sqlite.unwrap().problems));
    let listing = store.list(&KeyRange::Handles).await.unwrap();
    for kv in &listing.items {
        let text = String::from_utf8(kv.value.clone()).unwrap();
        let n = text.trim_matches('"').split(' ').next().unwrap().to_string();
        say(&format!("stored {} {n}", kv.key.to_string().rsplit('/').next().unwrap()));
    }
    say(&format!("verified {}", listing.revision));
    let clients = (0..CLIENTS).map(|n| tokio::spawn(write_one(store.clone(), format!("client-{n}"))));
    futures::future::join_all(clients).await;
}

async fn write_one(store: DynStore, name: String) {
    let kv = store.get(&handle(&name)).await.unwrap();
    let mut n: u64 = kv.as_ref().map_or(0, |kv| {
        String::from_utf8_lossy(&kv.value).trim_matches('"').split(' ').next().unwrap().parse().unwrap()
    });
    let mut revision = kv.map(|kv| kv.mod_revision);
    loop {
        n += 1;
        let value = format!("\"{n} {}\"", "x".repeat((n * 7919 % 12_000) as usize)).into_bytes();
        revision = Some(match revision {
            Some(revision) => store.update(handle(&name), value, revision).await.unwrap(),
            None => store.create(handle(&name), value).await.unwrap(),
        });
        say(&format!("acknowledged {name} {n} {}", revision.unwrap_or_default()));
    }
}

// ---- the disk

/// What is on the disk, and what is only in its cache.
struct Disk {
    durable: Vec<u8>,
    cached: BTreeMap<usize, Vec<u8>>,
    /// Without it nothing is done any more, and nothing answered.
    has_power: bool,
    random: Random,
    flushes: u64,
    lost: u64,
}

impl Disk {
    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut data = self.durable[offset..offset + length].to_vec();
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            if let Some(cached) = self.cached.get(&block) {
                let (from, to) = (offset.max(block * BLOCK), (offset + length).min((block + 1) * BLOCK));
                data[from - offset..to - offset].copy_from_slice(&cached[from - block * BLOCK..to - block * BLOCK]);
            }
        }
        data
    }

    fn write(&mut self, offset: usize, data: &[u8], is_forced: bool) {
        let end = offset + data.len();
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            let mut content = self.read(block * BLOCK, BLOCK);
            let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
            content[from - block * BLOCK..to - block * BLOCK].copy_from_slice(&data[from - offset..to - offset]);
            if is_forced {
                self.cached.remove(&block);
                self.durable[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&content);
            } else {
                self.cached.insert(block, content);
            }
        }
    }

    fn flush(&mut self) {
        self.flushes += 1;
        for (block, content) in std::mem::take(&mut self.cached) {
            self.durable[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&content);
        }
    }

    fn lose_power(&mut self) {
        self.has_power = false;
        for (block, content) in std::mem::take(&mut self.cached) {
            let kept = match self.random.below(4) {
                0 | 1 => BLOCK,
                2 => 0,
                _ => self.random.below((BLOCK / SECTOR) as u64) as usize * SECTOR,
            };
            self.lost += u64::from(kept < BLOCK);
            self.durable[block * BLOCK..][..kept].copy_from_slice(&content[..kept]);
        }
    }
}

/// xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One connection of the NBD protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md), until it ends.
fn serve(mut stream: UnixStream, disk: &Mutex<Disk>) -> std::io::Result<()> {
    const OPTION: u64 = 0x4948_4156_454f_5054;
    const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    const REPLY: u32 = 0x6744_6698;
    // HAS_FLAGS, SEND_FLUSH, SEND_FUA
    const FLAGS: u16 = 0b1101;
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        assert_eq!(be(&header[..8]), OPTION);
        let (option, length) = (be(&header[8..12]) as u32, be(&header[12..]) as usize);
        let mut data = vec![0; length];
        stream.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| {
            stream.write_all(&OPTION_REPLY.to_be_bytes())?;
            stream.write_all(&option.to_be_bytes())?;
            stream.write_all(&kind.to_be_bytes())?;
            stream.write_all(&(data.len() as u32).to_be_bytes())?;
            stream.write_all(data)
        };
        // NBD_OPT_GO, answered by NBD_INFO_EXPORT and an acknowledgement; anything else is not supported.
        if option == 7 {
            reply(3, &[&[0, 0][..], &(DISK as u64).to_be_bytes(), &FLAGS.to_be_bytes()].concat())?;
            reply(1, &[])?;
            break;
        }
        reply(1 << 31 | 1, &[])?;
    }
    loop {
        let mut request = [0; 28];
        stream.read_exact(&mut request)?;
        let (flags, kind) = (be(&request[4..6]), be(&request[6..8]));
        let (offset, length) = (be(&request[16..24]) as usize, be(&request[24..]) as usize);
        let mut data = vec![0; if kind == 1 { length } else { 0 }];
        stream.read_exact(&mut data)?;
        if kind == 3 {
            // As disks do: the power goes while it waits, too.
            std::thread::sleep(FLUSH);
        }
        let mut disk = disk.lock().unwrap();
        let mut answer = Vec::new();
        match kind {
            _ if !disk.has_power => return Ok(()),
            0 => answer = disk.read(offset, length),
            1 => disk.write(offset, &data, flags & 1 == 1),
            3 => disk.flush(),
            _ => return Ok(()),
        }
        drop(disk);
        stream.write_all(&REPLY.to_be_bytes())?;
        stream.write_all(&[0; 4])?;
        stream.write_all(&request[8..16])?;
        stream.write_all(&answer)?;
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

// ---- the guest's file system

/// In the order in which they need each other; what the kernel has built in is not there.
const MODULES: [&str; 12] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "crc32c_generic",
    "libcrc32c",
    "mbcache",
    "jbd2",
    "ext4",
];

const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc
$b mount -t devtmpfs none /dev
$b mount -t tmpfs none /tmp
for m in MODULES; do [ ! -e /modules/$m.ko ] || $b insmod /modules/$m.ko; done
$b mount -t ext4 /dev/vda /mnt || echo 'guest cannot mount its disk'
export PATH=/bin TORTIE_TEST_ROLE=power TORTIE_TEST_FILE=/mnt/tortie/store.db
(while :; do $b date -s @$((1000000000 + RANDOM * 30000)); $b sleep 1; done) >/dev/null 2>&1 &
/writer --exact child --nocapture --test-threads=1
echo 'guest ended by itself'
";

/// An archive that Linux unpacks at its start (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Initramfs(Vec<u8>);

impl Initramfs {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08X}").bytes());
        }
        self.0.extend(name.bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name.trim_start_matches('/'), 0o100_755, content);
    }
}

/// The kernel, and the initramfs with its modules, busybox, this program and its libraries.
fn guest(directory: &Path) -> (PathBuf, PathBuf) {
    let (kernel, modules) =
        KERNELS.iter().find_map(|root| kernel_in(Path::new(root))).expect("the probe found a kernel");
    let mut archive = Initramfs::default();
    for name in ["bin", "proc", "dev", "tmp", "mnt", "modules", "lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.directory(name);
    }
    archive.file("bin/busybox", &std::fs::read("/bin/busybox").unwrap());
    archive.file("init", INIT.replace("MODULES", &MODULES.join(" ")).as_bytes());
    for (name, content) in modules {
        archive.file(&format!("modules/{name}.ko"), &content);
    }
    let program = std::env::current_exe().unwrap();
    let stripped = directory.join("writer");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&program).status();
    let is_stripped = strip.is_ok_and(|status| status.success());
    archive.file("writer", &std::fs::read(if is_stripped { &stripped } else { &program }).unwrap());
    let libraries = Command::new("ldd").arg(&program).output().unwrap();
    for word in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        archive.file(word, &std::fs::read(word).unwrap());
    }
    archive.entry("TRAILER!!!", 0, &[]);
    let initramfs = directory.join("initramfs");
    std::fs::write(&initramfs, archive.0).unwrap();
    (kernel, initramfs)
}

type Modules = Vec<(&'static str, Vec<u8>)>;

/// A kernel whose modules are there, and those that the guest needs.
fn kernel_in(root: &Path) -> Option<(PathBuf, Modules)> {
    let images = std::fs::read_dir(root.join("boot")).ok()?.flatten();
    images.map(|entry| entry.path()).find_map(|image| {
        let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_string();
        let directory = root.join("lib/modules").join(version).join("kernel");
        let mut found = BTreeMap::new();
        find_modules(&directory, &mut found);
        let modules = MODULES.iter().filter_map(|name| Some((*name, std::fs::read(found.get(*name)?).ok()?)));
        found.contains_key("virtio_blk").then(|| (image, modules.collect()))
    })
}

fn find_modules(directory: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            find_modules(&path, found);
        } else if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".ko")) {
            found.insert(name.replace('-', "_"), path);
        }
    }
}

// ---- the test

/// A running guest; killed when dropped.
struct Guest {
    qemu: Child,
    /// Whole lines; it ends with the guest.
    console: Receiver<String>,
    /// What it said, for the report of a failure.
    said: Vec<String>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            println!("the guest said:\n{}", self.said.join("\n"));
        }
    }
}

impl Guest {
    fn start(directory: &Path, kernel: &Path, initramfs: &Path) -> Self {
        let disk = format!("file=nbd+unix:///?socket={},format=raw,if=virtio", directory.join("disk").display());
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1", "-drive", &disk])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (lines, console) = std::sync::mpsc::channel();
        let mut output = BufReader::new(qemu.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            // A kill cuts the last line: what it says was not acknowledged.
            while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) && line.ends_with(b"\n") {
                let _ = lines.send(String::from_utf8_lossy(&line).trim().to_string());
                line.clear();
            }
        });
        Self { qemu, console, said: Vec::new() }
    }

    /// The words of the next line that begins with one of these; `None` when the guest is gone, or at a time.
    fn next(&mut self, words: &[&str], until: Option<Instant>) -> Option<Vec<String>> {
        loop {
            let patience = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
            let line = match self.console.recv_timeout(patience) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if until.is_some() => return None,
                Err(RecvTimeoutError::Timeout) => panic!("the guest says nothing"),
            };
            assert!(!line.contains("guest "), "{line}");
            self.said.push(line.clone());
            let parts: Vec<String> = line.split_whitespace().map(str::to_string).collect();
            if parts.first().is_some_and(|first| words.contains(&first.as_str())) {
                return Some(parts);
            }
        }
    }
}

fn new_disk(directory: &Path, random: Random) -> Disk {
    let image = directory.join("image");
    std::fs::File::create(&image).unwrap().set_len(DISK as u64).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
    assert!(made.success());
    Disk {
        durable: std::fs::read(&image).unwrap(),
        cached: BTreeMap::new(),
        has_power: true,
        random,
        flushes: 0,
        lost: 0,
    }
}

#[test]
#[ignore = "needs qemu"]
fn power_loss_loses_no_acknowledged_write() {
    let seconds = std::env::var(DURATION_VARIABLE).map(|s| Duration::from_secs(s.parse().unwrap()));
    let duration = seconds.unwrap_or(DURATION);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}; the guest gets {ROLE} and {FILE}");
    let directory = TempDir::new().unwrap();
    let (kernel, initramfs) = guest(directory.path());
    let disk = Arc::new(Mutex::new(new_disk(directory.path(), Random(seed))));
    let listener = UnixListener::bind(directory.path().join("disk")).unwrap();
    let of_server = disk.clone();
    let (served, disconnected) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends when qemu is killed.
            let _ = serve(stream, &of_server);
            let _ = served.send(());
        }
    });
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let (mut revision, mut writes, mut cuts) = (0, 0, 0);
    let started = Instant::now();
    loop {
        let is_last = started.elapsed() > duration;
        disk.lock().unwrap().has_power = true;
        let mut guest = Guest::start(directory.path(), &kernel, &initramfs);
        let mut stored = BTreeMap::new();
        let found = loop {
            let line = guest.next(&["problems", "stored", "verified"], None).expect("the guest comes up");
            match (line[0].as_str(), line.get(1).map(String::as_str)) {
                ("problems", problems) => assert_eq!(problems, Some("[]"), "cut {cuts}: {line:?}"),
                ("stored", Some(name)) => drop(stored.insert(name.to_string(), line[2].parse::<u64>().unwrap())),
                _ => break line[1].parse::<u64>().unwrap(),
            }
        };
        assert!(found >= revision, "cut {cuts}: revision {found}, acknowledged {revision}");
        for (name, n) in &acknowledged {
            let stored = stored.get(name).copied().unwrap_or_default();
            assert!(stored >= *n, "cut {cuts}: {name} is at {stored}, acknowledged {n}");
        }
        if is_last {
            break;
        }
        let pause = Duration::from_millis(disk.lock().unwrap().random.below(2500));
        let cut_at = Instant::now() + pause;
        let mut note = |line: Vec<String>| {
            revision = revision.max(line[3].parse().unwrap());
            writes += 1;
            acknowledged.insert(line[1].clone(), line[2].parse().unwrap());
        };
        while let Some(line) = guest.next(&["acknowledged"], Some(cut_at)) {
            note(line);
        }
        assert!(guest.qemu.try_wait().unwrap().is_none(), "the guest ended by itself");
        disk.lock().unwrap().lose_power();
        guest.qemu.kill().unwrap();
        guest.qemu.wait().unwrap();
        disconnected.recv_timeout(PATIENCE).expect("the connection ends with qemu");
        // What was acknowledged before that is still in the pipe.
        while let Some(line) = guest.next(&["acknowledged"], None) {
            note(line);
        }
        cuts += 1;
    }
    let disk = disk.lock().unwrap();
    println!(
        "{cuts} power cuts, {writes} acknowledged writes, {} flushes, {} blocks lost or torn",
        disk.flushes, disk.lost
    );
    assert!(cuts > 0 && writes > 0 && disk.flushes > 0);
}
