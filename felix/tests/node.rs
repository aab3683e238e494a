//! One node as it runs: the CNI plugins and felix as processes in a network namespace, over SQLite.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::meta::WithSpec;
use api::{IpPoolSpec, Key, Kind, Metadata, NodeSpec, Resource};
use datastore::{DynStore, typed};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const NODE: &str = "worker01";

/// The folder with the CNI plugins, built once.
fn plugins() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "cni"]).status().unwrap();
        assert!(built.success(), "cargo build -p cni");
        Path::new(env!("CARGO_BIN_EXE_felix")).parent().unwrap().to_path_buf()
    })
}

/// A network namespace that lives as long as this value.
struct Namespace {
    path: PathBuf,
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
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
    fn run(&self, command: &str) -> String {
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
struct Felix(Child);

impl Felix {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node: namespace, store, run directory, pin directory.
struct Lab {
    host: Namespace,
    dir: tempfile::TempDir,
    pins: PathBuf,
    store: DynStore,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("bpf");
        std::fs::create_dir(&pins).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some("bpf"), &pins, Some("bpf"), nix::mount::MsFlags::empty(), none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = dir.path().join("store.db");
        let store = runtime.block_on(async { datastore::sqlite::SqliteStore::open(path).await.unwrap() });
        let lab = Self { host: Namespace::new(), dir, pins, store: std::sync::Arc::new(store), runtime };
        lab.host.run("ip link set lo up");
        lab.node(NODE, "192.168.1.4/24");
        lab
    }

    fn create<B: api::meta::Body>(&self, metadata: Metadata, body: B) {
        self.runtime.block_on(typed::create(&*self.store, &Resource::new(metadata, body))).unwrap();
    }

    fn node(&self, name: &str, addr: &str) {
        let spec: NodeSpec = serde_json::from_value(json!({"bgp": {"ipv4Address": addr}})).unwrap();
        self.create(Metadata::named(name), WithSpec { spec, status: None });
    }

    fn pool(&self, cidr: &str, block_size: u8) {
        let spec = IpPoolSpec { block_size: Some(block_size), ..IpPoolSpec::new(cidr.parse().unwrap()) };
        self.create(Metadata::named(cidr.replace(['.', '/'], "-")), WithSpec { spec, status: None });
    }

    /// A load balancer service with one backend.
    fn service(&self, name: &str, addr: &str) {
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

    fn start_felix(&self) -> Felix {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("felix.log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.path.display()))
            .arg(env!("CARGO_BIN_EXE_felix"))
            .args(["--hooks", "tc", "--run-dir"])
            .arg(self.dir.path())
            .arg("--bpf-pin-root")
            .arg(self.pins.join("felix"))
            .env("NODENAME", NODE)
            .env("DATASTORE_TYPE", "sqlite")
            .env("SQLITE_PATH", self.dir.path().join("store.db"))
            .stderr(log)
            .spawn()
            .unwrap();
        let mut felix = Felix(child);
        self.until("felix is ready", || felix.0.try_wait().unwrap().is_some() || self.get("/readyz").0 == 200);
        self.until("felix runs on", || self.get("/readyz").0 == 200);
        felix
    }

    fn get(&self, path: &str) -> (u16, String) {
        let reply = self.runtime.block_on(status::get(&self.dir.path().join("felix.sock"), path));
        reply.map_or((0, String::new()), |r| (r.status, String::from_utf8_lossy(&r.body).into_owned()))
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            let log = || std::fs::read_to_string(self.dir.path().join("felix.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: not within 10 s; ready: {:?}\n{}", self.get("/readyz"), log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "tortie", "datastore_type": "sqlite",
            "sqlite_path": self.dir.path().join("store.db"), "nodename": NODE, "run_dir": self.dir.path(), "mtu": 1480,
            "ipam": {"type": "tortie-ipam"},
        })
    }

    /// Runs a plugin for a pod; Ok holds its result, Err its error.
    fn cni(
        &self,
        command: &str,
        conf: &Value,
        container: &str,
        pod: &str,
        netns: Option<&Namespace>,
    ) -> Result<Value, Value> {
        let mut process = Command::new("nsenter");
        process.arg(format!("--net={}", self.host.path.display())).arg(plugins().join("tortie"));
        process.env("CNI_COMMAND", command).env("CNI_PATH", plugins()).env("CNI_CONTAINERID", container);
        process.env("CNI_IFNAME", "eth0");
        process.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME={pod}"));
        process.env("CNI_NETNS", netns.map(|n| n.path.clone()).unwrap_or_default());
        let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(value) } else { Err(value) }
    }

    fn add(&self, container: &str, pod: &str, netns: &Namespace) -> Value {
        self.cni("ADD", &self.config(), container, pod, Some(netns)).unwrap()
    }

    fn endpoints(&self) -> Vec<String> {
        let range = api::key::KeyRange::Kind(Kind::WorkloadEndpoint);
        let listing = self.runtime.block_on(self.store.list(&range)).unwrap();
        listing.items.iter().map(|kv| kv.key.name().unwrap().to_string()).collect()
    }

    /// Allocated addresses of all blocks.
    fn allocated(&self) -> usize {
        let blocks = self.runtime.block_on(ipam::Ipam::new(self.store.clone()).blocks()).unwrap();
        blocks.iter().map(|b| b.allocations.iter().flatten().count()).sum()
    }

    fn routes(&self) -> Vec<String> {
        let text = self.host.run("ip route show proto 201");
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").to_string()
}

#[test]
#[ignore = "needs BPF"]
fn a_pod_gets_what_the_operator_expects() {
    let lab = Lab::new();
    lab.pool("10.77.0.0/24", 29);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let result = lab.add("c1", "web-0", &pod);
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_string();
    let addr = address(&result);
    assert_eq!(host, "cali7b07e5871ca");
    assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path.display().to_string());
    assert_eq!(result["ips"], json!([{"address": format!("{addr}/32"), "interface": 1}]));

    let inside = pod.run("ip -4 -o addr show dev eth0");
    assert!(inside.contains(&format!("inet {addr}/32 scope global eth0")), "{inside}");
    let routes = pod.run("ip route");
    assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
    assert!(routes.contains("169.254.1.1 dev eth0 scope link"), "{routes}");
    assert!(pod.run("ip link show dev eth0").contains("mtu 1480"));
    assert!(!pod.run("ip neigh").contains("PERMANENT"), "proxy ARP answers, no static neighbour");

    for (name, value) in [("proxy_arp", "1"), ("forwarding", "1"), ("rp_filter", "0"), ("route_localnet", "1")] {
        let path = format!("/proc/sys/net/ipv4/conf/{host}/{name}");
        assert_eq!(lab.host.run(&format!("cat {path}")).trim(), value, "{name}");
    }
    assert_eq!(lab.host.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    let routes = lab.routes();
    assert!(routes.contains(&format!("{addr} dev {host} scope link metric 1024")), "{routes:?}");
    assert!(routes.iter().any(|r| r.starts_with("blackhole 10.77.0.") && r.contains("/29")), "{routes:?}");
    let mac = result["interfaces"][1]["mac"].as_str().unwrap();
    let neighbours = lab.host.run(&format!("ip neigh show dev {host}"));
    assert!(neighbours.contains(&format!("{addr} lladdr {mac} PERMANENT")), "{neighbours}");
    // The pod finds its gateway by proxy ARP, which answers for what the host has a route to elsewhere.
    lab.host.run("ip addr add 192.168.1.4/32 dev lo");
    lab.host.run("ip link add eth0 type veth peer name peer");
    lab.host.run("ip link set eth0 up");
    lab.host.run("ip route add default dev eth0");
    pod.run("ping -c 1 -W 2 192.168.1.4");

    let mut conf = lab.config();
    conf["prevResult"] = result.clone();
    lab.cni("CHECK", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert_eq!(lab.add("c1", "web-0", &pod), result, "a repeated ADD answers the same");
    assert_eq!(lab.allocated(), 1);
    pod.run("ip route del default");
    let error = lab.cni("CHECK", &conf, "c1", "web-0", Some(&pod)).unwrap_err();
    assert!(error["details"].as_str().unwrap().contains("route to default"), "{error}");

    for netns in [Some(&pod), Some(&pod), None] {
        lab.cni("DEL", &lab.config(), "c1", "web-0", netns).unwrap();
    }
    assert!(lab.endpoints().is_empty());
    assert_eq!(lab.allocated(), 0);
    assert!(!lab.host.run("ip -o link").contains("cali"));
    lab.until("the route goes", || !lab.routes().iter().any(|r| r.starts_with(&format!("{addr} "))));
}

#[test]
#[ignore = "needs BPF"]
fn blocks_of_one_address_have_no_blackhole() {
    let lab = Lab::new();
    lab.pool("10.78.0.0/28", 32);
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let result = lab.add("c1", "web-0", &pod);
    let routes = lab.routes();
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].starts_with(&format!("{} dev cali", address(&result))), "{routes:?}");
}

#[test]
#[ignore = "needs BPF"]
fn a_failing_allocation_leaves_nothing() {
    let lab = Lab::new();
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    let error = lab.cni("ADD", &lab.config(), "c1", "web-0", Some(&pod)).unwrap_err();
    assert_eq!(error["cniVersion"], "1.0.0");
    assert!(error["code"].as_u64().unwrap() >= 100, "{error}");
    assert!(lab.endpoints().is_empty());
    assert!(!lab.host.run("ip -o link").contains("cali"));
    assert!(!pod.run("ip -o link").contains("eth0"));
}

#[test]
#[ignore = "needs BPF"]
fn a_failing_interface_gives_the_address_back() {
    let lab = Lab::new();
    lab.pool("10.79.0.0/24", 29);
    let pod = Namespace::new();
    pod.run("ip link add eth0 type veth peer name other");
    let error = lab.cni("ADD", &lab.config(), "c1", "web-0", Some(&pod)).unwrap_err();
    assert_eq!(error["code"], 102, "{error}");
    assert_eq!(lab.allocated(), 0);
    assert!(lab.endpoints().is_empty());
    assert!(pod.run("ip -o link").contains("eth0"), "what was there before is left alone");
}

#[test]
#[ignore = "needs BPF"]
fn a_newer_container_of_the_pod_takes_over_and_the_old_ones_del_leaves_it() {
    let lab = Lab::new();
    lab.pool("10.80.0.0/24", 29);
    let _felix = lab.start_felix();
    let (old, new) = (Namespace::new(), Namespace::new());
    lab.add("c1", "web-0", &old);
    let result = lab.add("c2", "web-0", &new);
    lab.cni("DEL", &lab.config(), "c1", "web-0", Some(&old)).unwrap();
    let mut conf = lab.config();
    conf["prevResult"] = result;
    lab.cni("CHECK", &conf, "c2", "web-0", Some(&new)).unwrap();
    assert_eq!(lab.allocated(), 1);
}

#[test]
#[ignore = "needs BPF"]
fn a_felix_that_was_killed_is_followed_by_one_that_writes_nothing() {
    let lab = Lab::new();
    lab.pool("10.81.0.0/24", 29);
    let mut felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    lab.service("web", "203.0.113.1");
    lab.until("the service is announced", || lab.routes().len() == 4);
    let before = lab.routes();
    felix.kill();
    assert_eq!(lab.routes(), before, "a dead felix takes nothing with it");
    let _felix = lab.start_felix();
    assert_eq!(lab.routes(), before);
    let metrics = lab.get("/metrics").1;
    assert!(metrics.contains("\nfelix_writes_total 0\n"), "{metrics}");
}

#[test]
#[ignore = "needs BPF"]
fn a_service_is_announced_while_it_can_be_served() {
    let lab = Lab::new();
    let _felix = lab.start_felix();
    let announced = |addr: &str| lab.routes().contains(&format!("blackhole {addr} metric 1024"));
    lab.service("web", "203.0.113.1");
    lab.until("the service is announced", || announced("203.0.113.1") && announced("10.96.0.1"));
    let (_, services) = lab.get("/v1/services");
    let services: Value = serde_json::from_str(&services).unwrap();
    assert!(services.as_array().unwrap().iter().all(|f| f["served"] == true && f["announced"] == true), "{services}");
    let slice = Key::resource(Kind::EndpointSlice, Some("test"), "web");
    lab.runtime.block_on(lab.store.delete(slice, None)).unwrap();
    lab.until("a service without backends is withdrawn", || !announced("203.0.113.1") && !announced("10.96.0.1"));
    lab.until("felix is ready", || lab.get("/readyz").0 == 200);
}

#[test]
#[ignore = "needs BPF"]
fn routes_that_somebody_deletes_come_back_and_those_not_wanted_go() {
    let lab = Lab::new();
    lab.pool("10.82.0.0/24", 29);
    lab.host.run("ip route add blackhole 10.99.0.0/24 proto 201");
    lab.host.run("ip route add blackhole 10.98.0.0/24 proto 4");
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    let wanted = lab.routes();
    assert!(!wanted.iter().any(|r| r.contains("10.99.0.0")), "{wanted:?}");
    assert!(lab.host.run("ip route").contains("10.98.0.0/24"), "a route of another program is left alone");
    let addr = wanted.iter().find(|r| r.contains("dev cali")).unwrap().split(' ').next().unwrap().to_string();
    lab.host.run(&format!("ip route del {addr}/32 metric 1024"));
    let deleted = Instant::now();
    lab.until("the route is back", || lab.routes() == wanted);
    assert!(deleted.elapsed() < Duration::from_secs(2));
}

#[test]
#[ignore = "needs BPF"]
fn a_borrowed_address_is_reached_at_the_borrower() {
    let lab = Lab::new();
    lab.pool("10.83.0.0/30", 30);
    lab.node("worker02", "192.168.1.5/24");
    lab.host.run("ip link add eth0 type veth peer name peer");
    lab.host.run("ip addr add 192.168.1.4/24 dev eth0");
    lab.host.run("ip link set eth0 up");
    lab.host.run("ip link set peer up");
    let _felix = lab.start_felix();
    let pod = Namespace::new();
    lab.add("c1", "web-0", &pod);
    let request = ipam::AssignRequest {
        num_v4: 1,
        num_v6: 0,
        handle: "net.c2".into(),
        attributes: Default::default(),
        owner: api::key::AffinityOwner::Host("worker02".into()),
        pools_v4: vec![],
        pools_v6: vec![],
        intended_use: api::ip_pool::AllowedUse::Workload,
        namespace: None,
    };
    let borrowed = lab.runtime.block_on(ipam::Ipam::new(lab.store.clone()).auto_assign(&request)).unwrap();
    let addr = borrowed.v4[0].addr();
    let wanted = format!("{addr} via 192.168.1.5 dev eth0 metric 2048");
    lab.until("the borrower's route", || lab.routes().contains(&wanted));
    lab.host.run("ip addr del 192.168.1.4/24 dev eth0");
    lab.until("no way to the borrower", || !lab.routes().iter().any(|r| r.starts_with(&format!("{addr} "))));
    lab.host.run("ip addr add 192.168.1.4/24 dev eth0");
    lab.until("the borrower's route is back", || lab.routes().contains(&wanted));
    lab.runtime.block_on(ipam::Ipam::new(lab.store.clone()).release_by_handle("net.c2")).unwrap();
    lab.until("the route goes with the address", || !lab.routes().contains(&wanted));
    assert!(lab.runtime.block_on(lab.store.get(&Key::IpamHandle("net.c2".into()))).unwrap().is_none());
}
