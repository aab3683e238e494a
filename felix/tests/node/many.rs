//! Many pods at once on one node, as when a node boots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::key::KeyRange;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::lab::{Lab, Namespace, Plugin};

const PODS: usize = 100;

/// A lab with pools of both families, and the configuration that asks for both.
fn lab() -> (Lab, Value) {
    let lab = Lab::new();
    lab.pool("10.70.0.0/23", 26);
    lab.pool("fd70::/119", 122);
    let mut conf = lab.config();
    conf["ipam"]["assign_ipv6"] = json!("true");
    (lab, conf)
}

/// Plugins that wait for their configuration, one for each pod.
fn start(lab: &Lab, pods: &[Namespace]) -> Vec<Plugin> {
    let args = |n| format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=web-{n}");
    pods.iter().enumerate().map(|(n, pod)| lab.start_cni("ADD", &format!("c{n}"), &args(n), Some(pod))).collect()
}

/// Calls that wait at felix's socket.
fn waiting(lab: &Lab) -> usize {
    let socket = lab.dir.path().join("felix.sock").display().to_string();
    let sockets = lab.host.run("ss -xlH");
    let own = sockets.lines().find(|line| line.split_whitespace().nth(4) == Some(socket.as_str()));
    own.and_then(|line| line.split_whitespace().nth(2)?.parse().ok()).unwrap_or(0)
}

/// The transactions that have written the handles which are there; each is written once.
fn transactions(lab: &Lab) -> BTreeSet<u64> {
    let handles = lab.runtime.block_on(lab.store.list(&KeyRange::Handles)).unwrap().items;
    handles.iter().map(|kv| kv.mod_revision).collect()
}

/// What all pods have in the end. Who is told to try again, as on a machine that is too busy to program a route in time, has nothing, and
/// is asked for again, as a container runtime does.
fn settle(lab: &Lab, conf: &Value, pods: &[Namespace], plugins: Vec<Plugin>) -> Vec<Value> {
    let outcomes: Vec<Result<Value, Value>> = plugins.into_iter().map(Plugin::outcome).collect();
    let errors: Vec<&Value> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    let distinct: BTreeSet<String> = errors.iter().map(|e| format!("{}: {}", e["msg"], e["details"])).collect();
    println!("{} of {PODS} are told to try again: {distinct:#?}", errors.len());
    assert!(errors.iter().all(|error| error["code"] == 11), "{errors:?}");
    assert_eq!(lab.holders().len(), 2 * (PODS - errors.len()), "who has failed has nothing");
    let mut results = Vec::new();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let again = || lab.cni("ADD", conf, &format!("c{n}"), &format!("web-{n}"), Some(&pods[n]));
        results.push(outcome.or_else(|_| again()).unwrap());
    }
    results
}

/// Every pod has its own address of each family, and the store says the same.
fn assert_all_have_theirs(lab: &Lab, results: &[Value]) {
    let mut told = BTreeMap::new();
    for (n, result) in results.iter().enumerate() {
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 2, "{result}");
        for ip in ips {
            let ip: IpAddr = ip["address"].as_str().unwrap().parse::<IpNet>().unwrap().addr();
            assert_eq!(told.insert(ip, format!("k8s-pod-network.c{n}")), None, "{ip} was given twice");
        }
    }
    assert_eq!(lab.holders(), told, "what is stored, and what was told");
    assert_eq!(lab.endpoints().len(), PODS);
}

fn delete_all(lab: &Lab, conf: &Value, pods: &[Namespace]) {
    let args = |n| format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=web-{n}");
    let running: Vec<Plugin> =
        pods.iter().enumerate().map(|(n, pod)| lab.start_cni("DEL", &format!("c{n}"), &args(n), Some(pod))).collect();
    for plugin in tell(running, conf) {
        plugin.outcome().unwrap();
    }
    assert_eq!(lab.holders(), BTreeMap::new());
    assert!(lab.endpoints().is_empty());
    assert_eq!(lab.runtime.block_on(lab.store.list(&KeyRange::Handles)).unwrap().items, []);
}

/// Without asking felix, which may be stopped.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not yet");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn tell(mut plugins: Vec<Plugin>, conf: &Value) -> Vec<Plugin> {
    plugins.iter_mut().for_each(|plugin| plugin.tell(conf));
    plugins
}

#[test]
#[ignore = "needs BPF"]
fn a_hundred_pods_at_once_take_five_transactions_at_most() {
    let (lab, conf) = lab();
    let felix = lab.start_felix();
    let pods: Vec<Namespace> = (0..PODS).map(|_| Namespace::new()).collect();
    let plugins = start(&lab, &pods);
    // All of them are there before the first is answered: what is at once does not depend on how fast processes start.
    felix.stop();
    let plugins = tell(plugins, &conf);
    wait_for("all plugins ask felix", || waiting(&lab) >= PODS);
    felix.resume();
    let mut seen = BTreeSet::new();
    wait_for("all have addresses", || {
        seen.extend(transactions(&lab));
        lab.holders().len() == 2 * PODS
    });
    println!("{} transactions", seen.len());
    assert!(seen.len() <= 5, "{} transactions", seen.len());
    let results = settle(&lab, &conf, &pods, plugins);
    assert_all_have_theirs(&lab, &results);
    lab.until("all have a route of each family", || {
        ["-4", "-6"].iter().all(|f| lab.routes_of(f).iter().filter(|r| r.contains("dev cali")).count() == PODS)
    });
    delete_all(&lab, &conf, &pods);
}

#[test]
#[ignore = "needs BPF"]
fn plugins_go_on_alone_when_felix_is_killed_midway() {
    let (lab, conf) = lab();
    let mut felix = lab.start_felix();
    let pods: Vec<Namespace> = (0..PODS).map(|_| Namespace::new()).collect();
    let mut first = start(&lab, &pods);
    let second = first.split_off(PODS / 2);
    let first = tell(first, &conf);
    wait_for("felix gives addresses", || !transactions(&lab).is_empty());
    // Some have their addresses, some are about to get them, and half wait for an answer that does not come.
    felix.stop();
    let second = tell(second, &conf);
    wait_for("half of the plugins wait", || waiting(&lab) >= PODS / 2);
    felix.kill();
    let plugins = first.into_iter().chain(second).collect();
    let results = settle(&lab, &conf, &pods, plugins);
    assert_all_have_theirs(&lab, &results);
    let _felix = lab.start_felix();
    lab.until("all have a route of each family", || {
        ["-4", "-6"].iter().all(|f| lab.routes_of(f).iter().filter(|r| r.contains("dev cali")).count() == PODS)
    });
    delete_all(&lab, &conf, &pods);
}
