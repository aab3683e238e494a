//! What a container runtime may ask of the plugins, besides a plain ADD and DEL.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::lab::{Lab, Namespace, address};

#[test]
#[ignore = "needs BPF"]
fn an_add_without_felix_gets_its_route_when_felix_comes() {
    let lab = Lab::new();
    lab.pool("10.84.0.0/24", 29);
    let pod = Namespace::new();
    let addr = address(&lab.add("c1", "web-0", &pod));
    assert!(lab.routes().is_empty());
    let _felix = lab.start_felix();
    lab.until("the route comes with felix", || lab.routes().iter().any(|r| r.starts_with(&format!("{addr} dev cali"))));
}

#[test]
#[ignore = "needs BPF"]
fn an_address_in_cni_args_is_the_one_given() {
    let lab = Lab::new();
    lab.pool("10.85.0.0/24", 29);
    let _felix = lab.start_felix();
    let (pod, other) = (Namespace::new(), Namespace::new());
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=web-0;IP=10.85.0.77";
    let result = lab.cni_with("ADD", &lab.config(), "c1", args, Some(&pod)).unwrap();
    assert_eq!(address(&result), "10.85.0.77");
    assert!(lab.routes().iter().any(|r| r.starts_with("10.85.0.77 dev cali")), "{:?}", lab.routes());
    let taken = lab.cni_with("ADD", &lab.config(), "c2", &args.replace("web-0", "web-1"), Some(&other)).unwrap_err();
    assert!(taken["code"].as_u64().unwrap() >= 100, "{taken}");
    let bad = lab.cni_with("ADD", &lab.config(), "c3", "IP=10.85", Some(&other)).unwrap_err();
    assert_eq!(bad["code"], 4, "{bad}");
    assert_eq!((lab.allocated(), lab.endpoints().len()), (1, 1));
}

#[test]
#[ignore = "needs BPF"]
fn gc_removes_what_is_not_valid_of_its_network_and_node() {
    let lab = Lab::new();
    lab.pool("10.86.0.0/24", 29);
    let _felix = lab.start_felix();
    let pods = [Namespace::new(), Namespace::new(), Namespace::new()];
    let mut conf = lab.config();
    conf["cniVersion"] = json!("1.1.0");
    let mut other = conf.clone();
    other["name"] = json!("other");
    lab.cni("ADD", &conf, "c1", "web-0", Some(&pods[0])).unwrap();
    lab.cni("ADD", &conf, "c2", "web-1", Some(&pods[1])).unwrap();
    lab.cni("ADD", &other, "c3", "web-2", Some(&pods[2])).unwrap();
    let gc = |conf: &Value| lab.cni("GC", conf, "", "", None);
    assert_eq!(gc(&conf).unwrap_err()["code"], 7, "without a list nothing would be valid");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "eth0"}]);
    gc(&conf).unwrap();
    assert_eq!(lab.endpoints(), ["worker01-k8s-web--1-eth0", "worker01-k8s-web--2-eth0"]);
    assert_eq!(lab.allocated(), 2);
    assert_eq!(lab.host.run("ip -o link").matches(": cali").count(), 2);
    lab.until("the lost route goes", || lab.routes().iter().filter(|r| r.contains("dev cali")).count() == 2);
    let mut elsewhere = conf.clone();
    elsewhere["nodename"] = json!("worker02");
    elsewhere["cni.dev/valid-attachments"] = json!([]);
    gc(&elsewhere).unwrap();
    assert_eq!((lab.endpoints().len(), lab.allocated()), (2, 2), "another node's GC leaves this one's");
    gc(&conf).unwrap();
    assert_eq!((lab.endpoints().len(), lab.allocated()), (2, 2), "a second GC finds nothing");
}

/// Answers as host-local does, one address for all, and writes down what it was asked.
const FOREIGN_IPAM: &str = r#"#!/bin/sh
conf=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$(dirname "$0")/log"
case "$conf" in *10.87.0.0/24*) ;; *) echo '{"cniVersion":"1.0.0","code":7,"msg":"no subnet"}'; exit 1 ;; esac
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.87.0.5/24","gateway":"10.87.0.1"}],
    "routes":[{"dst":"0.0.0.0/0"}],"dns":{}}'
"#;

#[test]
#[ignore = "needs BPF"]
fn another_ipam_plugin_gives_the_addresses() {
    let lab = Lab::new();
    let _felix = lab.start_felix();
    let plugins = lab.dir.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let script = plugins.join("host-local");
    std::fs::write(&script, FOREIGN_IPAM).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut conf = lab.config();
    conf["ipam"] = json!({"type": "host-local"});
    let pod = Namespace::new();
    let error = lab.cni("ADD", &conf, "c0", "web-0", Some(&pod)).unwrap_err();
    assert_eq!((&error["code"], &error["msg"]), (&json!(7), &json!("no subnet")), "the plugin's own error");
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.87.0.0/24"}]]);
    let result = lab.cni("ADD", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert_eq!(address(&result), "10.87.0.5");
    lab.until("the route", || lab.routes().iter().any(|r| r.starts_with("10.87.0.5 dev cali")));
    lab.cni("DEL", &conf, "c1", "web-0", Some(&pod)).unwrap();
    assert!(lab.endpoints().is_empty());
    let log = std::fs::read_to_string(plugins.join("log")).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), ["ADD c0", "DEL c0", "ADD c1", "DEL c1"]);
}

#[test]
#[ignore = "needs BPF"]
fn hooks_are_used_or_reported_with_the_reason() {
    let lab = Lab::new();
    for (hooks, active) in [
        ("tc", &["tc"][..]),
        ("socket", &["socket"]),
        ("tc,socket", &["socket", "tc"]),
        ("xdp,tc,socket", &["socket", "tc"]),
    ] {
        let _felix = lab.start_felix_with(hooks);
        let status: Value = serde_json::from_str(&lab.get("/v1/status").1).unwrap();
        let list = status["loadBalancer"]["hooks"].as_array().unwrap();
        for hook in list {
            let name = hook["name"].as_str().unwrap();
            assert_eq!(active.contains(&name), hook["is_active"] == true, "{hooks}: {hook}");
            assert_eq!(hook["is_active"] == true, hook["reason"].is_null(), "{hooks}: {hook}");
        }
        let xdp = list.iter().find(|h| h["name"] == "xdp").unwrap()["reason"].as_str().unwrap();
        let expected = if hooks.contains("xdp") { "not in this version" } else { "not among --hooks" };
        assert!(xdp.contains(expected), "{hooks}: {xdp}");
    }
}

/// An etcd; killed when dropped.
struct Etcd(Child);

impl Etcd {
    /// In the network namespace of the calling thread.
    fn start(dir: &std::path::Path) -> Self {
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.join("etcd"));
        for (flag, url) in [
            ("--listen-client-urls", "http://127.0.0.1:2379"),
            ("--advertise-client-urls", "http://127.0.0.1:2379"),
            ("--listen-peer-urls", "http://127.0.0.1:2380"),
        ] {
            command.arg(flag).arg(url);
        }
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd can be started"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs BPF"]
fn the_node_works_over_etcd() {
    // On a thread of its own, which moves to the host's namespace: etcd listens there.
    let test = std::thread::spawn(|| {
        let host = Namespace::new();
        let namespace = std::fs::File::open(&host.path).unwrap();
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        host.run("ip link set lo up");
        let dir = tempfile::tempdir().unwrap();
        let _etcd = Etcd::start(dir.path());
        let settings =
            vec![("datastore_type", "etcdv3".into()), ("etcd_endpoints", "http://127.0.0.1:2379".to_string())];
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::net::TcpStream::connect("127.0.0.1:2379").is_err() {
            assert!(std::time::Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let lab = Lab::over(host, dir, settings);
        lab.pool("10.88.0.0/24", 29);
        let _felix = lab.start_felix();
        let pod = Namespace::new();
        let addr = address(&lab.add("c1", "web-0", &pod));
        assert!(lab.routes().iter().any(|r| r.starts_with(&format!("{addr} dev cali"))), "{:?}", lab.routes());
        lab.service("web", "203.0.113.1");
        lab.until("the service is announced", || lab.routes().iter().any(|r| r.contains("blackhole 203.0.113.1")));
        lab.cni("DEL", &lab.config(), "c1", "web-0", Some(&pod)).unwrap();
        lab.until("the route goes", || !lab.routes().iter().any(|r| r.starts_with(&format!("{addr} dev"))));
        assert_eq!(lab.allocated(), 0);
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}
