//! A node in a network namespace: a store, felix and the CNI plugins as processes.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::meta::WithSpec;
use api::{IpPoolSpec, Kind, Metadata, NodeSpec, Resource};
use datastore::{DynStore, typed};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub const NODE: &str = "worker01";

/// The folder with the CNI plugins, built once unless `TORTIE_PROGRAMS_ARE_BUILT` says that they are.
fn plugins() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let programs = Path::new(env!("CARGO_BIN_EXE_felix")).parent().unwrap();
        if std::env::var_os("TORTIE_PROGRAMS_ARE_BUILT").is_some() {
            return programs.to_path_buf();
        }
        // In the profile of this test and with the features of the whole workspace: nothing is built twice.
        let profile = match programs.file_name().and_then(|name| name.to_str()).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let arguments = ["build", "--quiet", "--locked", "--workspace", "--bin", "tortie", "--bin", "tortie-ipam"];
        let built = Command::new(env!("CARGO")).args(arguments).args(["--profile", profile]).status().unwrap();
        assert!(built.success(), "cargo build --bin tortie --bin tortie-ipam");
        programs.to_path_buf()
    })
}

/// A network namespace that lives as long as this value.
pub struct Namespace {
    pub path: PathBuf,
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Self {
        let (hold, held) = channel();
        let (made, path) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            made.send(PathBuf::from(path)).unwrap();
            // Ends when the sender is dropped.
            let _ = held.recv();
        });
        Self { path: path.recv().unwrap(), hold: Some(hold), thread: Some(thread) }
    }

    /// What a command prints in here.
    pub fn run(&self, command: &str) -> String {
        let output =
            Command::new("nsenter").arg(format!("--net={}", self.path.display())).args(command.split(' ')).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// A running felix; killed when dropped.
pub struct Felix(Child);

impl Felix {
    /// It stops, and what it serves waits.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running plugin.
pub struct Plugin(Child);

impl Plugin {
    /// Gives it its configuration: it begins.
    pub fn tell(&mut self, conf: &Value) {
        self.0.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    }

    /// What it answers when it has ended; Ok holds its result, Err its error.
    pub fn outcome(self) -> Result<Value, Value> {
        let output = self.0.wait_with_output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(value) } else { Err(value) }
    }
}

/// A cgroup (v2) without processes, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).expect("cgroup v2 is mounted");
        let name = format!("felix-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(root.split(' ').nth(1).unwrap()).join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Settings of a network configuration as variables of the environment.
fn variables(settings: &[(&'static str, String)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| (name.to_uppercase(), value.clone())).collect()
}

/// A node: namespace, store, run directory, pin directory.
pub struct Lab {
    pub host: Namespace,
    pub dir: tempfile::TempDir,
    pins: PathBuf,
    cgroup: Cgroup,
    /// As the daemons and plugins are told to reach it: settings of the network configuration.
    settings: Vec<(&'static str, String)>,
    pub store: DynStore,
    pub runtime: tokio::runtime::Runtime,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Lab {
    /// Over SQLite.
    pub fn new() -> Self {
        let host = Namespace::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db").display().to_string();
        Self::over(host, dir, vec![("datastore_type", "sqlite".into()), ("sqlite_path", path)])
    }

    pub fn over(host: Namespace, dir: tempfile::TempDir, settings: Vec<(&'static str, String)>) -> Self {
        let pins = dir.path().join("bpf");
        std::fs::create_dir(&pins).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some("bpf"), &pins, Some("bpf"), nix::mount::MsFlags::empty(), none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let vars = variables(&settings);
        let config = datastore::config::from_vars(|name| vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()));
        let store = runtime.block_on(config.unwrap().open()).unwrap();
        let lab = Self { host, dir, pins, cgroup: Cgroup::new(), settings, store, runtime };
        lab.host.run("ip link set lo up");
        lab.node(NODE, "192.168.1.4/24");
        lab
    }

    pub fn create<B: api::meta::Body>(&self, metadata: Metadata, body: B) {
        self.runtime.block_on(typed::create(&*self.store, &Resource::new(metadata, body))).unwrap();
    }

    pub fn node(&self, name: &str, addr: &str) {
        let spec: NodeSpec = serde_json::from_value(json!({"bgp": {"ipv4Address": addr}})).unwrap();
        self.create(Metadata::named(name), WithSpec { spec, status: None });
    }

    pub fn pool(&self, cidr: &str, block_size: u8) {
        let spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new(cidr.parse().unwrap()) };
        self.create(
            Metadata::named(cidr.replace("::", ":").replace(['.', '/', ':'], "-")),
            WithSpec { spec, status: None },
        );
    }

    /// A Pod, or a Namespace, with annotations.
    pub fn annotated<B: api::meta::Body + Default>(&self, mut metadata: Metadata, annotations: &[(&str, &str)]) {
        metadata.annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        self.create(metadata, B::default());
    }

    /// A load balancer service with one backend.
    pub fn service(&self, name: &str, addr: &str) {
        let body = json!({
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": addr}]}},
        });
        let body: api::service::ServiceBody = serde_json::from_value(body).unwrap();
        self.create(Metadata::namespaced("test", name), body);
        let slice =
            json!({"addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.77.0.9"]}]});
        let slice: api::service::EndpointSliceBody = serde_json::from_value(slice).unwrap();
        let mut metadata = Metadata::namespaced("test", name);
        metadata.labels.insert(api::service::LABEL_SERVICE_NAME.into(), name.into());
        self.create(metadata, slice);
    }

    pub fn start_felix(&self) -> Felix {
        self.start_felix_with("tc")
    }

    /// felix with these hooks and a cgroup of its own for the socket hook; returns when it is ready.
    pub fn start_felix_with(&self, hooks: &str) -> Felix {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("felix.log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.path.display()))
            .arg(env!("CARGO_BIN_EXE_felix"))
            .args(["--hooks", hooks, "--cgroup"])
            .arg(self.cgroup.path())
            .arg("--run-dir")
            .arg(self.dir.path())
            .arg("--bpf-pin-root")
            .arg(self.pins.join("felix"))
            .env("NODENAME", NODE)
            .envs(variables(&self.settings))
            .stderr(log)
            .spawn()
            .unwrap();
        let mut felix = Felix(child);
        self.until("felix is ready", || felix.0.try_wait().unwrap().is_some() || self.get("/readyz").0 == 200);
        self.until("felix runs on", || self.get("/readyz").0 == 200);
        felix
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let reply = self.runtime.block_on(status::get(&self.dir.path().join("felix.sock"), path));
        reply.map_or((0, String::new()), |r| (r.status, String::from_utf8_lossy(&r.body).into_owned()))
    }

    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            let log = || std::fs::read_to_string(self.dir.path().join("felix.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: not within 10 s; ready: {:?}\n{}", self.get("/readyz"), log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn config(&self) -> Value {
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "tortie", "nodename": NODE,
            "run_dir": self.dir.path(), "mtu": 1480, "ipam": {"type": "tortie-ipam"},
        });
        for (name, value) in &self.settings {
            conf[*name] = json!(value);
        }
        conf
    }

    /// Runs a plugin for a pod; Ok holds its result, Err its error.
    pub fn cni(
        &self,
        command: &str,
        conf: &Value,
        container: &str,
        pod: &str,
        netns: Option<&Namespace>,
    ) -> Result<Value, Value> {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME={pod}");
        self.cni_with(command, conf, container, &args, netns)
    }

    /// The same with `CNI_ARGS`. Plugins are looked for in the lab's folder `plugins` first.
    pub fn cni_with(
        &self,
        command: &str,
        conf: &Value,
        container: &str,
        args: &str,
        netns: Option<&Namespace>,
    ) -> Result<Value, Value> {
        let mut running = self.start_cni(command, container, args, netns);
        running.tell(conf);
        running.outcome()
    }

    /// Starts a plugin, which waits for its configuration.
    pub fn start_cni(&self, command: &str, container: &str, args: &str, netns: Option<&Namespace>) -> Plugin {
        let mut process = Command::new("nsenter");
        process.arg(format!("--net={}", self.host.path.display())).arg(plugins().join("tortie"));
        let path = format!("{}:{}", self.dir.path().join("plugins").display(), plugins().display());
        process.env("CNI_COMMAND", command).env("CNI_PATH", path).env("CNI_CONTAINERID", container);
        process.env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
        process.env("CNI_NETNS", netns.map(|n| n.path.clone()).unwrap_or_default());
        Plugin(process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    pub fn add(&self, container: &str, pod: &str, netns: &Namespace) -> Value {
        self.cni("ADD", &self.config(), container, pod, Some(netns)).unwrap()
    }

    pub fn endpoints(&self) -> Vec<String> {
        let range = api::key::KeyRange::Kind(Kind::WorkloadEndpoint);
        let listing = self.runtime.block_on(self.store.list(&range)).unwrap();
        listing.items.iter().map(|kv| kv.key.name().unwrap().to_string()).collect()
    }

    /// Allocated addresses of all blocks.
    pub fn allocated(&self) -> usize {
        let blocks = self.runtime.block_on(ipam::Ipam::new(self.store.clone()).blocks()).unwrap();
        blocks.iter().map(|b| b.allocations.iter().flatten().count()).sum()
    }

    /// Every allocated address with its handle.
    pub fn holders(&self) -> BTreeMap<IpAddr, String> {
        let mut holders = BTreeMap::new();
        for stored in self.runtime.block_on(ipam::Ipam::new(self.store.clone()).blocks()).unwrap() {
            for (ip, attribute) in ipam::block::Block::from_stored(stored).unwrap().allocated() {
                assert!(holders.insert(ip, attribute.handle_id.clone().unwrap()).is_none(), "{ip} is in two blocks");
            }
        }
        holders
    }

    pub fn routes(&self) -> Vec<String> {
        self.routes_of("-4")
    }

    /// Of a family: `-4` or `-6`.
    pub fn routes_of(&self, family: &str) -> Vec<String> {
        let text = self.host.run(&format!("ip {family} route show proto 201"));
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

/// The first address of a result.
pub fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").to_string()
}
