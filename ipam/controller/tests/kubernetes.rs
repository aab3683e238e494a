//! The controller with the Kubernetes API as the store and the rights of `deploy/kubernetes/rbac.yaml`: a real API server, which is
//! killed once; addresses of pods, nodes and services that are gone are collected, and no others.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::key::{AffinityOwner, KeyRange};
use api::{Key, Kind};
use datastore::{DynStore, election};
use ipam::{AssignRequest, Ipam};
use serde_json::{Value, json};

#[path = "../../../tests/cluster/api_server.rs"]
#[allow(dead_code, reason = "others include it too, and use more of it")]
mod api_server;

use api_server::{Server, open};

const PATIENCE: Duration = Duration::from_secs(60);

struct Controller(Child);

impl Controller {
    fn start(kubeconfig: &Path, run_dir: &Path) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_tortie-controller"))
            .args(["--leader-lease", "3s", "--run-dir"])
            .arg(run_dir)
            .env("DATASTORE_TYPE", "kubernetes")
            .env("KUBECONFIG", kubeconfig)
            .stderr(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until it is so; what could not be read meanwhile is not.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool, datastore::Error>) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await.unwrap_or(false) {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A node's pod with the address that it is given.
async fn run_pod(server: &Server, cni: &Ipam, node: &str, name: &str) {
    let mut request = AssignRequest::new(AffinityOwner::Host(node.into()), format!("net.{name}"));
    request.num_v4 = 1;
    request.attributes = [("pod".into(), name.into()), ("namespace".into(), "default".into())].into();
    let address = cni.auto_assign(&request).await.unwrap().v4[0].addr();
    let annotations = json!({"cni.projectcalico.org/podIP": format!("{address}/32"), "cni.projectcalico.org/podIPs": format!("{address}/32")});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    });
    server.kubectl(&["create", "-f", "-"], &pod.to_string());
}

async fn handles(store: &DynStore) -> Result<Vec<String>, datastore::Error> {
    let items = store.list(&KeyRange::Handles).await?.items;
    Ok(items.into_iter().filter_map(|kv| if let Key::IpamHandle(id) = kv.key { Some(id) } else { None }).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server"]
async fn what_is_gone_is_collected_with_the_rights_of_the_manifest() {
    let server = Server::start();
    server.give_rights();
    let resources = [
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "pods"}, "spec": {"cidr": "10.62.0.0/24", "blockSize": 28}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "KubeControllersConfiguration", "metadata": {"name": "default"},
            "spec": {"controllers": {"node": {"leakGracePeriod": "2s"}, "loadBalancer": {"assignIPs": "AllServices"}}}}),
        json!({"apiVersion": "tortie.io/v1", "kind": "LoadBalancerIPPool", "metadata": {"name": "services"}, "spec": {"blocks": [{"cidr": "20.0.10.0/28"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stays"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "goes"}}),
    ];
    server
        .kubectl(&["create", "-f", "-"], &json!({"apiVersion": "v1", "kind": "List", "items": resources}).to_string());
    let store = open(&server.kubeconfig()).await;
    let cni = Ipam::new(open(&server.account("tortie-cni")).await);
    for (node, pod) in [("stays", "one"), ("stays", "two"), ("stays", "three"), ("goes", "four")] {
        run_pod(&server, &cni, node, pod).await;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let account = server.account("tortie-controller");
    let _controller = Controller::start(&account, run_dir.path());

    let ingress =
        || server.try_kubectl(&["get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"], "");
    eventually("an address for the service", async || Ok(ingress().is_ok_and(|ip| ip.starts_with("20.0.10.")))).await;
    let status = server.kubectl(&["get", "loadbalancerippool", "services", "-o", "json"], "");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["status"]["conditions"].as_array().map(Vec::len), Some(4), "{status}");
    assert!(election::leader(&store, "controller").await.unwrap().is_some());

    // A pod that is gone: its address, and no other.
    server.kubectl(&["delete", "pod", "one", "--grace-period=0", "--force"], "");
    eventually("the address of a pod", async || Ok(!handles(&store).await?.contains(&"net.one".into()))).await;
    // The server is gone for a moment; then a node is, for good.
    server.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.release();
    let is_back = async || store.get(&Key::IpamConfig).await.map(|_| true);
    eventually("the server", is_back).await;
    let delete =
        |kind: &str, name: &str| server.try_kubectl(&["delete", kind, name, "--grace-period=0", "--force"], "").is_ok();
    eventually("the pod goes", async || Ok(delete("pod", "four"))).await;
    eventually("the node goes", async || Ok(delete("node", "goes"))).await;
    let of_node = KeyRange::AffinitiesOf(AffinityOwner::Host("goes".into()));
    eventually("the block of a node", async || Ok(store.list(&of_node).await?.items.is_empty())).await;
    assert!(delete("service", "web"));
    eventually("the address of a service", async || Ok(handles(&store).await?.len() == 2)).await;
    assert_eq!(handles(&store).await.unwrap(), ["net.three", "net.two"]);
    let blocks = store.list(&KeyRange::Blocks).await.unwrap().items;
    let of_stays = blocks.iter().filter(|kv| String::from_utf8_lossy(&kv.value).contains("host:stays")).count();
    assert_eq!(of_stays, 1, "{blocks:?}");
    assert!(store.get(&Key::resource(Kind::Node, None, "goes")).await.unwrap().is_none());
}
