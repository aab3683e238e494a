//! What is collected, what goes with a node, and that a dead or locked controller does nothing.

use std::collections::BTreeMap;

use api::bgp_peer::BgpPeerSpec;
use api::key::AffinityOwner;
use api::{BgpPeer, Node, NodeSpec};
use serde_json::{Value, json};

use super::*;

mod endpoints;

pub const GRACE: Duration = Duration::from_secs(15 * 60);

async fn put(store: &DynStore, kind: Kind, namespace: Option<&str>, name: &str, spec: Value) {
    let document = json!({
        "kind": kind.as_str(), "apiVersion": kind.api_version(),
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    store.put(Key::resource(kind, namespace, name), document.to_string().into_bytes()).await.unwrap();
}

pub async fn add_node(store: &DynStore, name: &str) {
    let node = Node::new(Metadata::named(name), WithSpec { spec: NodeSpec::default(), status: None });
    typed::create(store.as_ref(), &node).await.unwrap();
}

/// Nodes a and b, and a pool of two blocks.
pub async fn lab() -> (MemoryStore, DynStore, Ipam) {
    let memory = MemoryStore::new();
    let store: DynStore = Arc::new(memory.clone());
    add_node(&store, "a").await;
    add_node(&store, "b").await;
    for (name, cidr, size) in [("pods", "10.0.0.0/29", 30), ("pods6", "fd00::/125", 126)] {
        let spec = IpPoolSpec { block_size: Some(size), ..IpPoolSpec::new(cidr.parse().unwrap()) };
        typed::create(store.as_ref(), &IpPool::new(Metadata::named(name), WithSpec { spec, status: None }))
            .await
            .unwrap();
    }
    (memory, store.clone(), Ipam::new(store))
}

pub async fn assign(ipam: &Ipam, node: &str, handle: &str, attributes: &[(&str, &str)]) -> Vec<IpAddr> {
    let mut attributes: BTreeMap<String, String> = attributes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    attributes.insert("node".into(), node.into());
    let owner = AffinityOwner::Host(node.into());
    let request = AssignRequest { num_v4: 1, num_v6: 1, attributes, ..AssignRequest::new(owner, handle) };
    let assignment = ipam.auto_assign(&request).await.unwrap();
    assignment.v4.iter().chain(&assignment.v6).map(|net| net.addr()).collect()
}

async fn add_endpoint(store: &DynStore, node: &str, pod: &str, addresses: &[IpAddr]) {
    let networks: Vec<String> = addresses.iter().map(|ip| IpNet::from(*ip).to_string()).collect();
    let name = api::workload::k8s_endpoint_name(node, pod, "eth0");
    let spec = json!({"node": node, "pod": pod, "endpoint": "eth0", "ipNetworks": networks, "interfaceName": "cali0"});
    put(store, Kind::WorkloadEndpoint, Some("test"), &name, spec).await;
}

pub async fn handles(store: &DynStore) -> Vec<String> {
    let items = store.list(&KeyRange::Handles).await.unwrap().items;
    items.into_iter().filter_map(|kv| if let Key::IpamHandle(id) = kv.key { Some(id) } else { None }).collect()
}

pub const POD: [(&str, &str); 2] = [("pod", "p1"), ("namespace", "test")];

#[tokio::test(start_paused = true)]
async fn leaked_addresses_are_collected_and_others_stay() {
    let (_, store, ipam) = lab().await;
    let lives = assign(&ipam, "a", "net.c1", &POD).await;
    add_endpoint(&store, "a", "p1", &lives).await;
    assign(&ipam, "a", "net.c2", &[("pod", "p2"), ("namespace", "test")]).await;
    assign(&ipam, "b", "net.0123456789abcdef", &[]).await;
    assign(&ipam, "b", "by-hand", &[]).await;
    assign(&ipam, "a", "vxlan-v6-tunnel-addr-a", &[("type", "vxlanV6TunnelAddress")]).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
    assert_eq!(handles(&store).await.len(), 5, "nothing goes before its time");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handles(&store).await, ["by-hand", "net.c1", "vxlan-v6-tunnel-addr-a"]);
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!(handles(&store).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_written_at_the_last_moment_saves_its_address() {
    let (memory, store, ipam) = lab().await;
    let addresses = assign(&ipam, "a", "net.c1", &POD).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
    // The controller's watches are behind: what it decides, it decides without this.
    memory.break_watches();
    add_endpoint(&store, "a", "p1", &addresses).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(handles(&store).await, ["net.c1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_saves_its_address_as_soon_as_it_is_stored_and_also_where_it_cannot_be_read() {
    let pod = Key::resource(Kind::Pod, Some("test"), "p1");
    let of_phase = |phase: &str| {
        let metadata = json!({"name": "p1", "namespace": "test"});
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": {"phase": phase}}).to_string()
    };
    for (value, stays) in [("{".to_string(), true), (of_phase("Running"), true), (of_phase("Succeeded"), false)] {
        for is_seen in [false, true] {
            let (memory, store, ipam) = lab().await;
            assign(&ipam, "a", "net.c1", &POD).await;
            let _lab = Lab::start_with(store.clone(), Settings { has_kubernetes: true, ..settings() });
            tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
            if !is_seen {
                memory.break_watches();
            }
            store.put(pod.clone(), value.as_bytes().to_vec()).await.unwrap();
            tokio::time::sleep(GRACE * 4).await;
            assert_eq!(handles(&store).await.len(), usize::from(stays), "{value}, seen: {is_seen}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_grace_period_is_configured_and_zero_turns_collection_off() {
    let (_, store, ipam) = lab().await;
    let configure = async |grace: &str| {
        let spec = json!({"controllers": {"node": {"leakGracePeriod": grace}}});
        put(&store, Kind::KubeControllersConfiguration, None, "default", spec).await;
    };
    configure("0s").await;
    assign(&ipam, "a", "net.c1", &POD).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE * 10).await;
    assert_eq!(handles(&store).await.len(), 1);
    // What is no duration turns nothing on.
    configure("soon").await;
    tokio::time::sleep(GRACE * 10).await;
    assert_eq!(handles(&store).await.len(), 1);
    configure("1m").await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(handles(&store).await.len(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handles(&store).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_be_read_turns_nothing_on() {
    for was_read in [false, true] {
        let (_, store, ipam) = lab().await;
        let settings = |value: Value| json!({"controllers": value});
        let configure =
            async |spec| put(&store, Kind::KubeControllersConfiguration, None, "default", settings(spec)).await;
        if was_read {
            configure(json!({"node": {"leakGracePeriod": "0s"}})).await;
        } else {
            configure(json!("all")).await;
        }
        assign(&ipam, "a", "net.c1", &POD).await;
        let _lab = Lab::start(store.clone());
        tokio::time::sleep(GRACE * 2).await;
        configure(json!("all")).await;
        tokio::time::sleep(GRACE * 4).await;
        assert_eq!(handles(&store).await.len(), 1);
        configure(json!({})).await;
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(handles(&store).await.len(), 0, "the default is for who says nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_cannot_be_read_stays() {
    let (_, store, _) = lab().await;
    let key = Key::IpamHandle("net.c9".into());
    store.put(key.clone(), br#"{"block": "all"}"#.to_vec()).await.unwrap();
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE * 4).await;
    assert!(store.get(&key).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_go_and_when() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    put(&store, Kind::IpReservation, None, "r", json!({"reservedCIDRs": ["10.0.0.4/31", "10.0.0.6", "192.0.2.0/24"]}))
        .await;
    // A service that is gone, and a peer of a node that is.
    add_other_service(&store).await;
    let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
    let attributes = plan::service_attributes(&("test".into(), "gone".into()), None);
    let (ip, block) = ("172.20.0.5".parse().unwrap(), "172.20.0.0/26".parse().unwrap());
    ipam.assign_ip_in_block(ip, block, "lb.gone", attributes, owner).await.unwrap();
    let body = WithSpec { spec: BgpPeerSpec { node: Some("c".into()), ..BgpPeerSpec::default() }, status: None };
    typed::create(store.as_ref(), &BgpPeer::new(Metadata::named("tor-c"), body)).await.unwrap();
    add_node(&store, "c").await;
    let settings = Settings { is_dry_run: true, ..settings() };
    let report = Arc::new(Mutex::new(Report::default()));
    let task = tokio::spawn(Controller::new(store.clone(), settings, report.clone()).run());
    tokio::time::sleep(Duration::from_secs(5)).await;
    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "c")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let questions = report.lock().unwrap().questions.clone().unwrap();
    let (question, answer) = oneshot::channel();
    questions.send(question).await.unwrap();
    let snapshot = answer.await.unwrap();
    let of = |field: &str, text: &str| snapshot.candidates.iter().find(|c| c[field] == text).unwrap();
    assert_eq!(of("handle", "lb.gone")["reason"], "service test/gone does not exist");
    assert_eq!(snapshot.candidates.iter().filter(|c| c["reason"] == "node c does not exist").count(), 1);
    let candidate = of("handle", "net.c1");
    assert_eq!(candidate["reason"], "pod test/p1 has no workload endpoint");
    let time = |field: &str| candidate[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("due").duration_since(time("since")), jiff::SignedDuration::from_mins(15));
    let wanted = [
        "ipam_allocations_gc_candidates{ippool=\"pods\",node=\"a\"} 1",
        "ipam_allocations_in_use{ippool=\"pods\",node=\"a\"} 1",
        "ipam_blocks{ippool=\"pods\",node=\"a\"} 1",
        "ipam_ippool_size{ippool=\"pods\"} 8",
        "ipam_ippool_reserved{ippool=\"pods\"} 3",
    ];
    for line in wanted {
        assert!(snapshot.metrics.lines().any(|l| l == line), "{line} in {}", snapshot.metrics);
    }
    let revision = memory.revision();
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!(memory.revision(), revision, "nothing is written");
    task.abort();
}

/// What is of node a: two workloads, tunnels of both families, a peer, configurations; b borrows out of a's block.
async fn furnish(store: &DynStore, ipam: &Ipam) {
    for pod in ["p1", "p2"] {
        let addresses = assign(ipam, "a", &format!("net.{pod}"), &[("pod", pod), ("namespace", "test")]).await;
        add_endpoint(store, "a", pod, &addresses).await;
    }
    assign(ipam, "a", "ipip-tunnel-addr-a", &[("type", "ipipTunnelAddress")]).await;
    let others = assign(ipam, "b", "net.p3", &[("pod", "p3"), ("namespace", "test")]).await;
    add_endpoint(store, "b", "p3", &others).await;
    let peer = |node: &str| BgpPeerSpec { node: Some(node.into()), ..BgpPeerSpec::default() };
    for (name, node) in [("tor-a", "a"), ("tor-b", "b")] {
        let body = WithSpec { spec: peer(node), status: None };
        typed::create(store.as_ref(), &BgpPeer::new(Metadata::named(name), body)).await.unwrap();
    }
    for kind in [Kind::BgpConfiguration, Kind::FelixConfiguration] {
        put(store, kind, None, "node.a", json!({})).await;
        put(store, kind, None, "node.b", json!({})).await;
    }
}

/// Every path in the store that has to do with a node or pods of a.
async fn paths(store: &DynStore) -> Vec<String> {
    store.list(&KeyRange::All).await.unwrap().items.into_iter().map(|kv| kv.key.to_string()).collect()
}

fn assert_without_a(paths: &[String]) {
    let of_a: Vec<&String> = paths
        .iter()
        .filter(|p| {
            ["/a-k8s", "/host/a/", "node.a", "tor-a", "net.p1", "net.p2", "tunnel-addr-a"].iter().any(|t| p.contains(t))
        })
        .collect();
    assert_eq!(of_a, Vec::<&String>::new());
    for of_b in
        ["/b-k8s-p3-eth0", "/host/b/", "bgpconfigurations/node.b", "felixconfigurations/node.b", "tor-b", "net.p3"]
    {
        assert!(paths.iter().any(|p| p.contains(of_b)), "{of_b} stays: {paths:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_node_goes_what_was_its_own() {
    for while_it_runs in [true, false] {
        let (_, store, ipam) = lab().await;
        furnish(&store, &ipam).await;
        let node = Key::resource(Kind::Node, None, "a");
        let _lab = if while_it_runs {
            let lab = Lab::start(store.clone());
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(paths(&store).await.iter().any(|p| p.contains("tor-a")), "nothing goes while the node is there");
            typed::delete(store.as_ref(), &node).await.unwrap();
            lab
        } else {
            typed::delete(store.as_ref(), &node).await.unwrap();
            Lab::start(store.clone())
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_without_a(&paths(&store).await);
        // What b has is untouched: its block, and what it has of it.
        let held = Ipam::new(store.clone()).blocks().await.unwrap();
        assert!(held.iter().all(|b| b.affinity.as_deref() == Some("host:b")), "{held:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_collected_of_nodes_that_are_gone_is_counted_together() {
    let (_, store, ipam) = lab().await;
    assign(&ipam, "a", "net.p1", &POD).await;
    assign(&ipam, "b", "net.p2", &[("pod", "p2"), ("namespace", "test")]).await;
    let report = Arc::new(Mutex::new(Report::default()));
    let task = tokio::spawn(Controller::new(store.clone(), settings(), report.clone()).run());
    tokio::time::sleep(GRACE + RESYNC).await;
    let counted = || report.lock().unwrap().reclamations.clone();
    assert_eq!(counted().get(&("pods".into(), "a".into())), Some(&1));
    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
    tokio::time::sleep(RESYNC * 2).await;
    let counts = counted();
    let of = |node: &str| counts.iter().filter(|((_, n), _)| n == node).map(|(_, n)| n).sum::<u64>();
    assert_eq!((of("a"), of("b"), of("")), (0, 2, 2), "{counts:?}");
    task.abort();
}

/// With Kubernetes, a Node object that is gone for a moment costs neither what is configured for it nor the block of what runs.
#[tokio::test(start_paused = true)]
async fn with_kubernetes_a_node_that_comes_back_has_what_it_had() {
    let (_, store, ipam) = lab().await;
    furnish(&store, &ipam).await;
    let settings = Settings { has_kubernetes: true, ..settings() };
    let task = tokio::spawn(Controller::new(store.clone(), settings, Arc::default()).run());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let blocks = async || Ipam::new(store.clone()).blocks().await.unwrap();
    let before = blocks().await;
    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    add_node(&store, "a").await;
    tokio::time::sleep(RESYNC * 2).await;
    let (now, affinity) = (blocks().await, "host:a");
    let of_a = |blocks: &[api::ipam::AllocationBlock]| {
        blocks.iter().filter(|b| b.affinity.as_deref() == Some(affinity)).map(|b| b.cidr).collect::<Vec<_>>()
    };
    assert_eq!(of_a(&now), of_a(&before));
    let paths = paths(&store).await;
    for of_a in ["bgpconfigurations/node.a", "felixconfigurations/node.a", "tor-a", "net.p1", "a-k8s-p1-eth0"] {
        assert!(paths.iter().any(|p| p.contains(of_a)), "{of_a} stays: {paths:?}");
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_names_a_node_that_was_never_there_stays() {
    let (_, store, _) = lab().await;
    put(&store, Kind::BgpConfiguration, None, "node.later", json!({})).await;
    add_endpoint(&store, "later", "p9", &["10.9.9.9".parse().unwrap()]).await;
    let before = paths(&store).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!(paths(&store).await, before);
}

/// What is applied for a node after it ended is for one to come, whether or not anything of the former one is left.
#[tokio::test(start_paused = true)]
async fn what_is_applied_for_a_node_after_its_end_stays() {
    for has_traces in [false, true] {
        let (_, store, ipam) = lab().await;
        if has_traces {
            furnish(&store, &ipam).await;
        } else {
            put(&store, Kind::BgpConfiguration, None, "node.a", json!({})).await;
        }
        let _lab = Lab::start(store.clone());
        tokio::time::sleep(Duration::from_secs(5)).await;
        typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let of_a =
            async || paths(&store).await.into_iter().filter(|p| p.contains("node.a") || p.contains("tor-a")).count();
        assert_eq!(of_a().await, 0, "what was its own has gone");
        put(&store, Kind::BgpConfiguration, None, "node.a", json!({"asNumber": 64600})).await;
        put(&store, Kind::BgpPeer, None, "tor-a", json!({"node": "a", "peerIP": "192.0.2.1", "asNumber": 64601})).await;
        tokio::time::sleep(RESYNC * 3).await;
        assert_eq!(of_a().await, 2, "{has_traces}");
    }
}

/// While the watches are behind, a peer of the node that ended is given to another.
#[tokio::test(start_paused = true)]
async fn what_was_given_to_another_node_meanwhile_stays() {
    let (_, store, ipam) = lab().await;
    put(&store, Kind::BgpPeer, None, "tor", json!({"node": "a", "peerIP": "192.0.2.1"})).await;
    let key = Key::resource(Kind::BgpPeer, None, "tor");
    let seen = store.get(&key).await.unwrap().unwrap().mod_revision;
    typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
    put(&store, Kind::BgpPeer, None, "tor", json!({"node": "b", "peerIP": "192.0.2.1"})).await;
    let refused = collect::delete_of_node(&ipam, "a", &key, Some(seen)).await;
    assert!(matches!(refused, Err(ipam::Error::Store(datastore::Error::Conflict(_)))), "{refused:?}");
    assert!(store.get(&key).await.unwrap().is_some());
}

/// Killed before or after each of the writes that a node's end takes, the next one ends it.
#[tokio::test(start_paused = true)]
async fn a_kill_in_the_middle_of_a_nodes_end_leaves_nothing_behind() {
    for n in 0..12 {
        for last_happens in [false, true] {
            let (memory, store, ipam) = lab().await;
            furnish(&store, &ipam).await;
            typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
            let mortal = Mortal { inner: memory.clone(), left: AtomicUsize::new(n), last_happens };
            let first = Lab::start(Arc::new(mortal));
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(first);
            let _second = Lab::start(store.clone());
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_without_a(&paths(&store).await);
        }
    }
}

/// What is due while the datastore is locked waits, and the controller sleeps: the paused clock moves on only then.
#[tokio::test(start_paused = true)]
async fn a_lock_that_comes_later_stops_collection_until_it_goes() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE / 2).await;
    put(&store, Kind::ClusterInformation, None, "default", json!({"datastoreReady": false})).await;
    let revision = memory.revision();
    tokio::time::timeout(GRACE * 4, tokio::time::sleep(GRACE * 3)).await.unwrap();
    assert_eq!(memory.revision(), revision);
    typed::delete(store.as_ref(), &Key::resource(Kind::ClusterInformation, None, "default")).await.unwrap();
    tokio::time::sleep(RESYNC * 2).await;
    assert_eq!(handles(&store).await.len(), 0);
}

/// Of a record that says it is locked, no other field matters.
#[tokio::test(start_paused = true)]
async fn a_lock_counts_whatever_else_its_record_says() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    let spec = json!({"datastoreReady": false, "clusterGUID": 7});
    put(&store, Kind::ClusterInformation, None, "default", spec).await;
    let revision = memory.revision();
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!(memory.revision(), revision);
}

/// An endpoint that cannot be read may have what was given to workloads of its node; what others have is collected.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_read_keeps_its_nodes_addresses() {
    for (name, had_some) in [("a-k8s-p1-eth0", true), ("a-k8s-p1-net1", false), ("a-libnetwork-libnetwork-7", false)] {
        let (_, store, ipam) = lab().await;
        let addresses = assign(&ipam, "a", "net.c1", &POD).await;
        assign(&ipam, "b", "net.c2", &[("pod", "p2"), ("namespace", "test")]).await;
        if had_some {
            add_endpoint(&store, "a", "p1", &addresses).await;
        } else {
            put(&store, Kind::WorkloadEndpoint, Some("test"), name, json!("?")).await;
        }
        let _lab = Lab::start(store.clone());
        tokio::time::sleep(Duration::from_secs(5)).await;
        put(&store, Kind::WorkloadEndpoint, Some("test"), name, json!("??")).await;
        tokio::time::sleep(GRACE * 3).await;
        assert_eq!(handles(&store).await, ["net.c1"], "{name}");
        typed::delete(store.as_ref(), &Key::resource(Kind::WorkloadEndpoint, Some("test"), name)).await.unwrap();
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(handles(&store).await.len(), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_locked_datastore_is_left_alone() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    put(&store, Kind::ClusterInformation, None, "default", json!({"datastoreReady": false})).await;
    add_service(&store).await;
    let revision = memory.revision();
    let lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(memory.revision(), revision);
    put(&store, Kind::ClusterInformation, None, "default", json!({"datastoreReady": true})).await;
    eventually!(lab.service().await.body.spec.cluster_ip.is_some());
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(handles(&store).await.len(), 0);
}
