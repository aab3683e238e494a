//! Pods: a namespace, wired by our CNI plugin through the real CNI protocol, with a small server in it.
//!
//! Without Kubernetes a pod's labels come from a v1 Pod document, applied before the plugin runs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Lab, program};
use crate::evidence::eventually;
use crate::exec::{Exec, Output};
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// Ports of the server in every pod; the examples' services point there.
pub const TCP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 5353;

/// What a pod is made from.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl PodSpec {
    /// A pod without labels.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), ..Self::default() }
    }

    /// With one more label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With one more annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

/// A pod that has its address.
pub struct Pod {
    pub spec: PodSpec,
    pub node: String,
    pub netns: Netns,
    pub address: String,
    /// The host's end, `cali…`.
    pub interface: String,
    /// What ADD answered.
    pub result: Value,
    server: Option<Process>,
}

impl Lab {
    /// Makes a pod and waits until its server listens.
    ///
    /// # Errors
    /// With what the plugin says.
    pub fn add_pod(&mut self, node: usize, spec: PodSpec) -> Result<&Pod> {
        let cgroup = self.nodes[node].cgroup().join("pods").join(&spec.name);
        let netns = Netns::create(self.id(), &spec.name, cgroup)?;
        let document = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": spec.labels, "annotations": spec.annotations},
            "spec": {"nodeName": self.nodes[node].name},
        });
        self.apply(&document.to_string())?;
        let output = self.cni(node, "ADD", &spec, &netns)?;
        let result: Value = if output.code == 0 {
            serde_json::from_str(&output.stdout).with_context(|| format!("ADD printed no JSON: {}", output.text()))?
        } else {
            bail!(
                "CNI ADD of {} on {} failed with code {}: {}",
                spec.name,
                self.nodes[node].name,
                output.code,
                output.text()
            );
        };
        let address = result["ips"][0]["address"].as_str().context("ADD gave no address")?.to_string();
        let address = address.split('/').next().unwrap_or_default().to_string();
        let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
        let host_end = interfaces.iter().find_map(|i| i["name"].as_str().filter(|n| n.starts_with("cali")));
        let interface = host_end.context("ADD named no cali interface")?.to_string();
        let mut pod =
            Pod { node: self.nodes[node].name.clone(), spec, netns, address, interface, result, server: None };
        pod.start_server(self)?;
        let name = pod.spec.name.clone();
        Ok(self.nodes[node].pods.entry(name).or_insert(pod))
    }

    /// Deletes a pod as a runtime does: its processes, DEL, its namespace, its Pod document.
    ///
    /// # Errors
    /// With what the plugin says.
    pub fn delete_pod(&mut self, node: usize, name: &str) -> Result<()> {
        let mut pod = self.nodes[node].pods.remove(name).with_context(|| format!("no pod {name}"))?;
        if let Some(server) = &mut pod.server {
            server.kill9()?;
        }
        self.cni(node, "DEL", &pod.spec, &pod.netns)?.ok()?;
        crate::exec::run(&["ip", "netns", "del", &pod.netns.full_name])?;
        let gone = self.calicoctl(&["delete", "pod", name, "-n", &pod.spec.namespace])?;
        if gone.code != 0 {
            bail!("`{}`: {}", gone.command, gone.text());
        }
        Ok(())
    }

    /// One call of the plugin, with the environment that the CNI specification gives it.
    ///
    /// # Errors
    /// When it cannot be started; a refusal is in the output.
    pub fn cni(&self, node: usize, command: &str, spec: &PodSpec, netns: &Netns) -> Result<Output> {
        let node = &self.nodes[node];
        let plugin = program("tortie")?;
        let path = plugin.parent().context("the plugin has no directory")?.display().to_string();
        let container = format!("{}-{}", self.id(), spec.name);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container}",
            spec.namespace, spec.name
        );
        let env = [
            ("CNI_COMMAND", command.to_string()),
            ("CNI_CONTAINERID", container.clone()),
            ("CNI_NETNS", netns.path()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_ARGS", args),
            ("CNI_PATH", path),
        ];
        let shown = format!("{}# CNI_COMMAND={command} CNI_CONTAINERID={container} tortie < network.conf", node.name);
        self.plugin(&plugin.display().to_string(), node, &node.cni_config()).env(env).shown_as(shown).run()
    }

    fn plugin(&self, plugin: &str, node: &crate::node::Node, config: &Value) -> Exec {
        node.netns.exec(&[plugin]).input(config.to_string())
    }
}

impl Pod {
    /// What CNI calls the container's end.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    fn start_server(&mut self, lab: &Lab) -> Result<()> {
        let program = program("lab")?.display().to_string();
        let argv = [
            &program,
            "serve",
            "--name",
            &self.spec.name,
            "--tcp",
            &TCP_PORT.to_string(),
            "--udp",
            &UDP_PORT.to_string(),
        ];
        let spec = Spec {
            name: format!("server of {}", self.spec.name),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: Vec::new(),
            log: lab.dir().join(format!("pod-{}.log", self.spec.name)),
        };
        let mut server = Process::spawn(&self.netns, spec)?;
        eventually(Duration::from_secs(10), &format!("the server of {} listens", self.spec.name), || {
            server.check_alive()?;
            if server.log().contains("listening") { Ok(()) } else { bail!("it has not said so") }
        })?;
        self.server = Some(server);
        Ok(())
    }
}
