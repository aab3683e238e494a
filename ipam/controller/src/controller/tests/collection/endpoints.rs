//! Endpoints that the watch has not shown, and those that cannot be read.

use super::*;

/// Whatever their names, orchestrators and namespaces.
const NAMES: [(&str, &str); 4] = [
    ("test", "a-k8s-p1-net1"),
    ("default", "a-cni-0123456789abcdef-eth1"),
    ("default", "a-libnetwork-libnetwork-7"),
    ("test", "a-k8s-another--pod-eth0"),
];

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_any_name_that_is_written_at_the_last_moment_saves_its_address() {
    for (namespace, name) in NAMES {
        for is_readable in [true, false] {
            let (memory, store, ipam) = lab().await;
            let addresses = assign(&ipam, "a", "net.c1", &POD).await;
            let _lab = Lab::start(store.clone());
            tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
            // The controller's watches are behind: what it decides, it decides without this.
            memory.break_watches();
            let networks: Vec<String> = addresses.iter().map(|ip| IpNet::from(*ip).to_string()).collect();
            let spec = json!({"node": "a", "ipNetworks": networks, "interfaceName": "cali0"});
            let spec = if is_readable { spec } else { json!("?") };
            put(&store, Kind::WorkloadEndpoint, Some(namespace), name, spec).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(handles(&store).await, ["net.c1"], "{name}, readable: {is_readable}");
        }
    }
}

/// One of another node, or with other addresses, saves nothing.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_has_others_addresses_saves_none() {
    let (memory, store, ipam) = lab().await;
    assign(&ipam, "a", "net.c1", &POD).await;
    let _lab = Lab::start(store.clone());
    tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
    memory.break_watches();
    put(&store, Kind::WorkloadEndpoint, Some("test"), "b-k8s-p1-eth0", json!("?")).await;
    add_endpoint(&store, "a", "p1", &["10.0.0.7".parse().unwrap()]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(handles(&store).await.len(), 0);
}

/// It keeps its node's addresses for as long as the node is there, and for a grace period after that.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_read_does_not_outlive_its_node() {
    for had_some in [false, true] {
        for returns in [false, true] {
            let (_, store, ipam) = lab().await;
            let addresses = assign(&ipam, "a", "net.c1", &POD).await;
            let name = "a-k8s-p1-eth0";
            if had_some {
                add_endpoint(&store, "a", "p1", &addresses).await;
            }
            let _lab = Lab::start(store.clone());
            tokio::time::sleep(Duration::from_secs(5)).await;
            put(&store, Kind::WorkloadEndpoint, Some("test"), name, json!("?")).await;
            tokio::time::sleep(GRACE * 3).await;
            typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
            tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
            assert_eq!(handles(&store).await, ["net.c1"], "had some: {had_some}");
            if returns {
                add_node(&store, "a").await;
                tokio::time::sleep(GRACE * 3).await;
                assert_eq!(handles(&store).await, ["net.c1"], "the node is there again; had some: {had_some}");
                typed::delete(store.as_ref(), &Key::resource(Kind::Node, None, "a")).await.unwrap();
                tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
                assert_eq!(handles(&store).await, ["net.c1"], "its time begins anew; had some: {had_some}");
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(handles(&store).await.len(), 0, "had some: {had_some}");
        }
    }
}
