//! A store of one test, and the programs run against it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// A store in a directory of its own.
pub struct Fleet {
    pub dir: TempDir,
    /// Environment beyond that of the embedded store.
    pub env: Vec<(String, String)>,
}

impl Fleet {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    pub fn run(&self, args: &[&str], stdin: &str) -> Outcome {
        run_with(env!("CARGO_BIN_EXE_calicoctl"), self.dir.path(), &self.env, args, stdin)
    }

    /// Applies what must be good.
    pub fn apply(&self, yaml: &str) -> String {
        let outcome = self.run(&["apply", "-f", "-"], yaml);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    }

    pub fn get(&self, args: &[&str]) -> String {
        let outcome = self.run(&[&["get"], args].concat(), "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    }
}

pub fn run(program: &str, dir: &Path, args: &[&str], stdin: &str) -> Outcome {
    run_with(program, dir, &[], args, stdin)
}

pub fn run_with(program: &str, dir: &Path, env: &[(String, String)], args: &[&str], stdin: &str) -> Outcome {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("TZ", "UTC")
        .env("DATASTORE_TYPE", "sqlite")
        .env("SQLITE_PATH", dir.join("store.db"))
        .envs(env.iter().map(|(k, v)| (k, v)))
        .current_dir(examples())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap(),
    }
}

pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

pub fn pool(name: &str, cidr: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n---\n")
}

pub fn service(name: &str, node_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    nodePort: {node_port}\n---\n"
    )
}

/// Writes a key as Calico would, beside the command line.
pub fn put(fleet: &Fleet, key: &str, value: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        store.put(api::Key::parse(key).unwrap(), value.into()).await.unwrap();
    });
}

/// Every key of the store.
pub fn keys(fleet: &Fleet) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        let listing = store.list(&api::key::KeyRange::All).await.unwrap();
        listing.items.iter().map(|kv| kv.key.to_string()).collect()
    })
}

/// What a key holds, byte for byte.
pub fn value(fleet: &Fleet, key: &str) -> String {
    String::from_utf8(stored(fleet, key).value).unwrap()
}

/// The revision of a key's last write.
pub fn revision(fleet: &Fleet, key: &str) -> u64 {
    stored(fleet, key).mod_revision
}

fn stored(fleet: &Fleet, key: &str) -> datastore::KeyValue {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = fleet.dir.path().join("store.db");
        let store = datastore::config::StoreConfig::Sqlite { path }.open().await.unwrap();
        store.get(&api::Key::parse(key).unwrap()).await.unwrap().unwrap()
    })
}
