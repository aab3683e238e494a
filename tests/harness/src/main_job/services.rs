//! Step 6: services, by eBPF alone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use libbpf_rs::Link;
use serde_json::{Value, json};

use super::pods::NAMESPACE;
use super::{Job, SETTLE};
use crate::cluster::{WORKERS, repository};
use crate::evidence::eventually;
use crate::exec::{Output, run};
use crate::netns::Netns;
use crate::pod::TCP_PORT;
use crate::process::{Process, Spec};
use crate::traffic::Transport;

/// Requests to each address: enough that one backend of two is never missed by chance (2⁻²³).
const REQUESTS: usize = 24;
/// A service address that the datapath does not serve is gone from the kernel within this.
pub const WITHDRAWAL_LIMIT: Duration = Duration::from_millis(100);
/// The ports of the examples' services.
const PORTS: [(Transport, u16); 2] = [(Transport::Tcp, 80), (Transport::Udp, 53)];

/// A service as the controller completed it.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    pub cluster_ip: String,
    pub node_port: Option<u64>,
    pub load_balancer: Option<String>,
}

/// Everything about services.
///
/// # Errors
/// With the request that was not answered, or the route that is not as it should be.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(6, "Services, by eBPF alone");
    let services = create(job)?;
    let [cluster, node_port, balancer] = &services;
    check_cluster_ip(job, cluster)?;
    check_node_port(job, node_port)?;
    check_load_balancer(job, balancer)?;
    let withdrawn = withdrawn_without_datapath(job, balancer)?;
    job.report.conclude(
        format!("a service address without its datapath is withdrawn after {} ms", withdrawn.as_millis()),
        "ip -ts monitor route, while the pinned link was detached",
    );
    let lost = remove_backend(job)?;
    job.report.conclude(lost, "a client in a loop while the backend left the EndpointSlice and its pod was deleted");
    show_hooks(job)?;
    Ok(())
}

/// Applies a ClusterIP, a NodePort and a LoadBalancer service over the pods labelled `app=web`, without addresses, ports or
/// slices; waits until the controller has filled them in.
///
/// # Errors
/// With what is missing.
pub fn create(job: &mut Job) -> Result<[Service; 3]> {
    let examples = repository().join("docs/examples/services");
    for file in ["loadbalancer-pool.yaml", "clusterip.yaml", "nodeport.yaml", "loadbalancer.yaml"] {
        job.report.all(&job.lab.calicoctl(&["apply", "-f", &examples.join(file).display().to_string()])?.ok()?);
    }
    let services = [await_service(job, "web")?, await_service(job, "web-nodeport")?, await_service(job, "web-lb")?];
    for service in &services {
        let port = service.node_port.map(|port| format!(", node port {port}")).unwrap_or_default();
        let balancer = service.load_balancer.as_ref().map(|ip| format!(", load balancer {ip}")).unwrap_or_default();
        job.report.checked(&format!(
            "{}: cluster IP {}{port}{balancer}, slices derived from its selector",
            service.name, service.cluster_ip
        ));
    }
    let shown: Vec<String> =
        services.iter().map(|s| format!("{} {}", s.name, s.load_balancer.as_ref().unwrap_or(&s.cluster_ip))).collect();
    job.report.conclude(
        format!("services: {}", shown.join(", ")),
        "calicoctl get service; addresses, ports and slices by the controller",
    );
    Ok(services)
}

/// A service with slices of its own.
fn echo() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "echo", "namespace": NAMESPACE},
        "spec": {"type": "ClusterIP", "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": TCP_PORT}]},
    })
}

fn await_service(job: &Job, name: &'static str) -> Result<Service> {
    eventually(SETTLE, &format!("the controller completes the service {name}"), || {
        let service = job.lab.calicoctl(&["get", "service", name, "-n", NAMESPACE, "-o", "json"])?.json()?;
        let spec = &service["spec"];
        let cluster_ip = spec["clusterIP"].as_str().context("no clusterIP")?.to_string();
        let kind = spec["type"].as_str().unwrap_or_default();
        let node_port = spec["ports"][0]["nodePort"].as_u64();
        if kind != "ClusterIP" && (node_port.is_none() || spec["ports"][1]["nodePort"].is_null()) {
            bail!("no node ports: {spec}");
        }
        let load_balancer = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_string);
        if kind == "LoadBalancer" && load_balancer.is_none() {
            bail!("no load balancer address: {service}");
        }
        Ok(Service { name, cluster_ip, node_port, load_balancer })
    })
}

/// Sends requests and checks that all were answered, by exactly `servers`.
///
/// # Errors
/// With the answers.
pub fn check_served(job: &Job, from: &Netns, transport: Transport, to: &str, servers: &BTreeSet<String>) -> Result<()> {
    let shown = eventually(SETTLE, &format!("{} reaches {to} over {transport:?}", from.name), || {
        let shown = job.lab.fetch(from, transport, to, REQUESTS)?.ok()?;
        let seen: BTreeSet<String> =
            shown.stdout.lines().filter_map(|l| l.split(' ').next().map(str::to_string)).collect();
        if seen == *servers { Ok(shown) } else { bail!("answered by {seen:?} instead of {servers:?}") }
    })?;
    job.report.shown(&Output { stdout: counted(&shown.stdout), ..shown }, |_| true);
    Ok(())
}

/// `web-2 ×13, web-3 ×11`: how requests spread.
fn counted(answers: &str) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for line in answers.lines() {
        *counts.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    counts.iter().map(|(name, n)| format!("{name} ×{n}")).collect::<Vec<_>>().join(", ")
}

fn web_servers() -> BTreeSet<String> {
    super::pods::PODS.iter().map(|p| p.name.to_string()).filter(|n| super::pods::is_web(n)).collect()
}

fn pod(job: &Job, node: usize, name: &str) -> Result<Netns> {
    Ok(job.lab.nodes[node].pods.get(name).with_context(|| format!("no pod {name}"))?.netns.clone())
}

fn check_cluster_ip(job: &Job, service: &Service) -> Result<()> {
    for from in
        [pod(job, 0, "nettool")?, pod(job, 1, "web-2")?, job.lab.nodes[0].netns.clone(), job.lab.nodes[2].netns.clone()]
    {
        for (transport, port) in PORTS {
            check_served(job, &from, transport, &format!("{}:{port}", service.cluster_ip), &web_servers())?;
        }
    }
    job.report.checked("the cluster IP is served to pods and nodes, TCP and UDP, by both backends");
    Ok(())
}

fn check_node_port(job: &Job, service: &Service) -> Result<()> {
    let port = service.node_port.context("the service has no node port")?;
    let sources = [
        pod(job, 0, "nettool")?,
        job.lab.nodes[1].netns.clone(),
        job.lab.leaves[0].netns.clone(),
        job.lab.client.clone(),
    ];
    for (transport, _) in PORTS {
        // The second port of a service has a node port of its own.
        let port = if transport == Transport::Tcp { port } else { node_port_of(job, service.name, 1)? };
        for from in &sources {
            check_served(job, from, transport, &format!("{}:{port}", job.lab.nodes[0].address), &web_servers())?;
        }
        check_served(
            job,
            &job.lab.leaves[1].netns,
            transport,
            &format!("{}:{port}", job.lab.nodes[1].address),
            &web_servers(),
        )?;
    }
    job.report.checked(
        "the node port is served to a pod, a node, the switches and the client, also on a node without a backend",
    );
    Ok(())
}

fn node_port_of(job: &Job, name: &str, index: usize) -> Result<u64> {
    let service = job.lab.calicoctl(&["get", "service", name, "-n", NAMESPACE, "-o", "json"])?.json()?;
    service["spec"]["ports"][index]["nodePort"].as_u64().context("the service has no second node port")
}

fn check_load_balancer(job: &mut Job, service: &Service) -> Result<()> {
    let address = service.load_balancer.clone().context("the service has no load balancer address")?;
    let (host, workers) = (format!("{address}/32"), WORKERS.map(|(_, a)| a));
    for node in &job.lab.nodes {
        let shown = eventually(SETTLE, &format!("{} has {address} as a blackhole route", node.name), || {
            let found = node.netns.route_text(&host)?;
            if found.stdout.starts_with("blackhole") && found.stdout.contains("proto 201") {
                Ok(found)
            } else {
                bail!("{found:?}")
            }
        })?;
        job.report.all(&shown);
    }
    for leaf in &job.lab.leaves {
        eventually(SETTLE, &format!("{} has {host} via all nodes", leaf.netns.name), || {
            leaf.check_route(&host, &workers)
        })?;
    }
    job.report.shown(&job.lab.leaves[0].show_routes()?, |l| {
        l.contains(&host) || l.trim_start().starts_with('*') || l.trim_start().starts_with("via")
    });
    let sources = [
        pod(job, 0, "nettool")?,
        job.lab.nodes[0].netns.clone(),
        job.lab.leaves[0].netns.clone(),
        job.lab.client.clone(),
    ];
    for from in &sources {
        for (transport, port) in PORTS {
            check_served(job, from, transport, &format!("{address}:{port}"), &web_servers())?;
        }
    }
    job.report.checked("the load balancer's address is announced by every node and served to all, TCP and UDP");
    job.report.conclude(
        format!("{address} served to a pod, a node, the switch and the client"),
        "requests over TCP and UDP, every backend answering",
    );
    Ok(())
}

/// Takes an uplink's program away on worker03 and measures how long the service's route stays; waits until felix has
/// repaired it.
///
/// # Errors
/// When the route stays longer than [`WITHDRAWAL_LIMIT`], or does not come back.
pub fn withdrawn_without_datapath(job: &mut Job, service: &Service) -> Result<Duration> {
    let address = service.load_balancer.clone().context("the service has no load balancer address")?;
    let node = &job.lab.nodes[2];
    let pin = uplink_pin(&node.pin_root().join("links"))?;
    let spec = Spec {
        name: "ip monitor".into(),
        argv: ["ip", "-ts", "monitor", "route"].map(str::to_string).to_vec(),
        env: Vec::new(),
        log: job.lab.dir().join("monitor.log"),
    };
    let monitor = Process::spawn(&node.netns, spec)?;
    // The monitor says nothing when it is ready: a route of our own shows it.
    eventually(SETTLE, "ip monitor follows the routes", || {
        node.netns.ip(&["route replace blackhole 203.0.113.1/32 proto static"])?;
        node.netns.ip(&["route del blackhole 203.0.113.1/32"])?;
        if monitor.log().contains("203.0.113.1") { Ok(()) } else { bail!("it has shown nothing") }
    })?;
    let link = Link::open(&pin).with_context(|| format!("cannot open the link {}", pin.display()))?;
    let before = SystemTime::now();
    link.detach().with_context(|| format!("cannot detach {}", pin.display()))?;
    let at = eventually(Duration::from_secs(2), &format!("the route to {address} is withdrawn"), || {
        let log = monitor.log();
        let gone = log.lines().find(|l| l.contains("Deleted") && l.contains(&address)).map(str::to_string);
        gone.with_context(|| format!("the monitor saw: {log}"))
    })?;
    let took = since_midnight(&at)?.saturating_sub(seconds_of_day(before)?);
    job.report.checked(&format!("detached {}", pin.display()));
    job.report.checked(&format!("{}: {at} ({} ms after the detach began)", node.name, took.as_millis()));
    if took > WITHDRAWAL_LIMIT {
        bail!(
            "the route to {address} stayed {} ms without its datapath; {} ms are allowed",
            took.as_millis(),
            WITHDRAWAL_LIMIT.as_millis()
        );
    }
    let start = Instant::now();
    eventually(SETTLE, &format!("{} serves and announces {address} again", node.name), || {
        let found = node.netns.route_text(&format!("{address}/32"))?;
        if found.stdout.starts_with("blackhole") { Ok(()) } else { bail!("no route") }
    })?;
    job.report.checked(&format!(
        "felix attached it again and announced the address {} ms later",
        start.elapsed().as_millis()
    ));
    Ok(took)
}

fn uplink_pin(links: &std::path::Path) -> Result<PathBuf> {
    let names = std::fs::read_dir(links).with_context(|| format!("no pinned links in {}", links.display()))?;
    let found = names.flatten().find(|e| e.file_name().to_string_lossy().starts_with("uplink"));
    Ok(found.with_context(|| format!("no pinned uplink in {}", links.display()))?.path())
}

/// `[2026-11-21T12:57:28.704123] Deleted …`: the time of day, which is local time.
fn since_midnight(line: &str) -> Result<Duration> {
    let stamp = line.trim_start_matches('[').split(']').next().unwrap_or_default();
    let clock = stamp.split('T').nth(1).with_context(|| format!("no time in '{line}'"))?;
    let mut parts = clock.split(':').map(|p| p.parse::<f64>().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    Ok(Duration::from_secs_f64(next() * 3600.0 + next() * 60.0 + next()))
}

fn seconds_of_day(time: SystemTime) -> Result<Duration> {
    // The monitor's stamps are local time: so is this.
    let since = time.duration_since(UNIX_EPOCH)?;
    let offset = run(&["date", "+%z"])?.stdout;
    let number: i64 = offset.trim().parse().unwrap_or_default();
    let offset = (number / 100 * 60 + number % 100) * 60;
    let day = (since.as_secs() as i64 + offset).rem_euclid(86_400);
    Ok(Duration::new(day as u64, since.subsec_nanos()))
}

/// A service with a slice of its own loses a backend, whose pod is then deleted, while a client loops; in words.
///
/// # Errors
/// When a request was lost.
pub fn remove_backend(job: &mut Job) -> Result<String> {
    for (node, name) in [(0, "leaving"), (1, "staying")] {
        let pool = job.pools.of_block_size(29)?.name.clone();
        let spec = crate::pod::PodSpec::new(NAMESPACE, name)
            .annotation("cni.projectcalico.org/ipv4pools", &format!("[\"{pool}\"]"));
        job.lab.add_pod(node, spec)?;
    }
    job.lab.apply(&echo().to_string())?;
    job.lab.apply(&slice(job, &["leaving", "staying"])?.to_string())?;
    let service = await_service(job, "echo")?;
    let to = format!("{}:80", service.cluster_ip);
    let from = pod(job, 0, "nettool")?;
    let both = crate::cluster::set_of(&["leaving", "staying"]);
    check_served(job, &from, Transport::Tcp, &to, &both)?;
    let load = job.lab.start_load(&from, Transport::Tcp, &to, Duration::from_millis(2))?;
    std::thread::sleep(Duration::from_millis(300));
    job.lab.apply(&slice(job, &["staying"])?.to_string())?;
    await_backends(job, &service.cluster_ip, 1)?;
    job.lab.delete_pod(0, "leaving")?;
    std::thread::sleep(Duration::from_millis(500));
    let result = load.finish_load()?;
    let text =
        format!("a backend left and its pod was deleted: {} of {} requests lost", result.lost_count(), result.sent);
    job.report.checked(&format!("{text}; answered by {:?}", result.servers));
    // A retransmission would hide the loss of a packet from the count, and show here.
    if result.lost_count() > 0 || result.servers.len() != 2 || result.longest_gap_ms >= 900 {
        bail!("{text}: {result:?}");
    }
    job.lab.delete_pod(1, "staying")?;
    Ok(text)
}

/// Waits until felix of worker01, where the client is, serves a cluster IP with so many backends.
fn await_backends(job: &Job, cluster_ip: &str, count: usize) -> Result<()> {
    eventually(SETTLE, &format!("{cluster_ip} is served by {count} backends"), || {
        let services = job.lab.nodes[0].status("felix", "/v1/services")?;
        let rows = services.as_array().or(services["services"].as_array()).cloned().unwrap_or_default();
        let mine: Vec<&Value> = rows.iter().filter(|r| r.to_string().contains(&format!("\"{cluster_ip}\""))).collect();
        let counts: Vec<usize> = mine.iter().map(|r| r["backends"].as_array().map_or(usize::MAX, Vec::len)).collect();
        if !counts.is_empty() && counts.iter().all(|c| *c == count) { Ok(()) } else { bail!("{mine:?}") }
    })
}

fn slice(job: &Job, pods: &[&str]) -> Result<Value> {
    let all = || job.lab.nodes.iter().flat_map(|n| n.pods.values());
    let endpoints = pods.iter().map(|name| {
        let pod = all().find(|p| p.spec.name == *name).with_context(|| format!("no pod {name}"))?;
        Ok(json!({"addresses": [pod.address], "nodeName": pod.node, "conditions": {"ready": true}}))
    });
    Ok(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "echo-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "echo"}},
        "endpoints": endpoints.collect::<Result<Vec<_>>>()?,
        "ports": [{"name": "http", "protocol": "TCP", "port": TCP_PORT}],
    }))
}

/// Where the load balancer is attached, and that no packet filter takes part.
fn show_hooks(job: &Job) -> Result<()> {
    let node = &job.lab.nodes[0];
    let shown = node.ctl("calicoctl", &["lb", "status"]).run()?.ok()?;
    job.report.shown(&shown, |l| ["name:", "is_active:", "reason:"].iter().any(|w| l.contains(w)));
    let tables = node.netns.run(&["sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null || true"])?;
    if !tables.stdout.trim().is_empty() {
        bail!("{} uses iptables: {}", node.name, tables.stdout);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_the_monitor_is_a_time_of_day() {
        let at = since_midnight("[2026-11-21T01:02:03.500000] Deleted blackhole 10.200.0.1").unwrap();
        assert_eq!(at, Duration::from_secs_f64(3723.5));
    }
}
