//! File systems that are full, or that may not be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::key::KeyRange;
use datastore::sqlite::{self, Depth, SqliteStore};
use datastore::{Error, Op, Store, Txn};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::{handle, open};

/// A tmpfs; gone when dropped.
struct Tmpfs {
    directory: TempDir,
}

impl Tmpfs {
    fn new(size: &str) -> Self {
        let tmpfs = Self { directory: tempfile::tempdir().unwrap() };
        tmpfs.mount(MsFlags::empty(), size);
        tmpfs
    }

    fn mount(&self, flags: MsFlags, size: &str) {
        let options = format!("size={size}");
        // Threads that close their files a moment later keep it busy.
        for attempt in 0.. {
            match mount(Some("none"), self.directory.path(), Some("tmpfs"), flags, Some(options.as_str())) {
                Err(nix::errno::Errno::EBUSY) if attempt < 500 => std::thread::sleep(Duration::from_millis(10)),
                outcome => return outcome.unwrap(),
            }
        }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

fn text(length: usize) -> Vec<u8> {
    format!("\"{}\"", "x".repeat(length)).into_bytes()
}

/// Every write is there if and only if it was acknowledged, also after a restart on the full disk; with room again it goes on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mounts"]
async fn a_full_disk_loses_nothing_and_says_how_much_is_free() {
    let disk = Tmpfs::new("4m");
    let path = disk.join("store.db");
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let store = open(&path).await;
    let mut acknowledged = BTreeMap::new();
    let mut failures = 0;
    for n in 0..400_usize {
        // Small and large: some fail at a statement, some at the commit.
        let value = text(100 + n * 997 % 30_000);
        let key = handle(&format!("k{}", n % 150));
        match store.put(key.clone(), value.clone()).await {
            Ok(_) => drop(acknowledged.insert(key, value)),
            Err(error) => {
                failures += 1;
                let text = error.to_string();
                assert!(matches!(error, Error::Unavailable(_)), "what became of it is known: {error:?}");
                for part in [path.to_str().unwrap(), "full", " of 4.0 MiB are free on the file system of", "free some"]
                {
                    assert!(text.contains(part), "\"{text}\" lacks \"{part}\"");
                }
            }
        }
    }
    assert!(failures > 10 && acknowledged.len() > 50, "{failures} failures, {} writes", acknowledged.len());
    let ops = (0..200).map(|n| Op::Put(handle(&format!("k{n}")), text(20_000)));
    store.txn(Txn { ops: ops.collect() }).await.unwrap_err();
    let stored = async |store: &dyn Store| -> BTreeMap<_, _> {
        let items = store.list(&KeyRange::Handles).await.unwrap().items;
        items.into_iter().map(|kv| (kv.key, kv.value)).collect()
    };
    assert!(stored(&*store).await == acknowledged, "reads go on, and see what was acknowledged");

    // A process that starts now finds no room for anything new.
    drop(store);
    if let Ok(store) = SqliteStore::open(&path).await {
        assert!(stored(&store).await == acknowledged);
    }
    // Room for what the WAL holds as well: a checkpoint takes it before it gives back the WAL's.
    std::fs::remove_file(&filler).unwrap();
    disk.mount(MsFlags::MS_REMOUNT, "16m");
    let store = open(&path).await;
    assert!(stored(&*store).await == acknowledged);
    store.put(handle("after"), text(20_000)).await.unwrap();
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
}

/// The error names the state of the disk; what is there can be checked and copied away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mounts"]
async fn a_read_only_disk_is_named_and_can_be_backed_up() {
    let disk = Tmpfs::new("4m");
    let path = disk.join("store.db");
    let store = open(&path).await;
    let revision = store.put(handle("a"), b"1".into()).await.unwrap();
    drop(store);
    // Who closes it as the last leaves no WAL.
    while disk.join("store.db-wal").exists() {
        let last = rusqlite::Connection::open(&path).unwrap();
        last.query_row("SELECT count(*) FROM kv", [], |row| row.get::<_, u64>(0)).unwrap();
    }
    disk.mount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "4m");
    let Err(error) = SqliteStore::open(&path).await else { panic!("it was opened for writing") };
    let text = error.to_string();
    for part in [path.to_str().unwrap(), "mounted read-only", "kernel's log"] {
        assert!(text.contains(part), "\"{text}\" lacks \"{part}\"");
    }
    assert_eq!(sqlite::check(&path, Depth::Full).unwrap().problems, [""; 0]);
    // For a command that only reads.
    let reader = SqliteStore::open_to_read(&path).await.unwrap();
    assert_eq!(reader.list(&KeyRange::Handles).await.unwrap().items.len(), 1);
    assert_eq!(reader.get(&handle("a")).await.unwrap().unwrap().value, b"1");
    let refused =
        [reader.put(handle("a"), b"2".into()).await.map(drop), reader.watch(&KeyRange::Handles, 0).await.map(drop)];
    for outcome in refused {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("cannot write or watch") && text.contains("mounted read-only"), "{text}");
    }
    drop(reader);
    let elsewhere = tempfile::tempdir().unwrap();
    let backup = elsewhere.path().join("rescued.db");
    assert_eq!(sqlite::backup(&path, &backup).unwrap().revision, revision);
    let text = sqlite::backup(&path, &disk.join("backup.db")).unwrap_err().to_string();
    assert!(text.contains("mounted read-only"), "{text}");
    disk.mount(MsFlags::MS_REMOUNT, "4m");
    open(&path).await.put(handle("b"), b"1".into()).await.unwrap();
}

/// An ext4 in a file, which can be told that it met an error; gone when dropped.
struct Ext4 {
    device: String,
    mounted: PathBuf,
    _directory: TempDir,
}

impl Ext4 {
    /// `None` where this machine has no loop devices, or no mkfs.ext4.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, mounted) = (directory.path().join("image"), directory.path().join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir(&mounted).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str()?])?;
        let device = run("losetup", &["-f", "--show", image.to_str()?])?.trim().to_string();
        let ext4 = Self { device, mounted, _directory: directory };
        let (source, options) = (Some(ext4.device.as_str()), Some("errors=remount-ro"));
        mount(source, &ext4.mounted, Some("ext4"), MsFlags::empty(), options).unwrap();
        Some(ext4)
    }

    fn fail(&self) {
        let name = Path::new(&self.device).file_name().unwrap().to_str().unwrap();
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = umount2(&self.mounted, MntFlags::MNT_DETACH);
        let _ = run("losetup", &["-d", &self.device]);
    }
}

/// What a program printed; `None` where it is not there or fails.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The kernel met an error of the disk under running programs: they say so, and what is there can be read and copied away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mounts"]
async fn a_disk_that_turns_read_only_in_use_is_named() {
    let Some(disk) = Ext4::new() else {
        eprintln!("no loop device or no mkfs.ext4: not tried");
        return;
    };
    let path = disk.mounted.join("store.db");
    let store = open(&path).await;
    let revision = store.put(handle("a"), b"1".into()).await.unwrap();
    disk.fail();
    let text = store.put(handle("b"), b"1".into()).await.unwrap_err().to_string();
    for part in [path.to_str().unwrap(), "mounted read-only", "kernel's log"] {
        assert!(text.contains(part), "\"{text}\" lacks \"{part}\"");
    }
    assert_eq!(store.list(&KeyRange::Handles).await.unwrap().revision, revision, "reads go on");
    let Err(error) = SqliteStore::open(&path).await else { panic!("it was opened for writing") };
    assert!(error.to_string().contains("mounted read-only"), "{error}");
    let reader = SqliteStore::open_to_read(&path).await.unwrap();
    assert_eq!(reader.get(&handle("a")).await.unwrap().unwrap().mod_revision, revision);
    let backup = tempfile::tempdir().unwrap();
    assert_eq!(sqlite::backup(&path, &backup.path().join("rescued.db")).unwrap().revision, revision);
}
