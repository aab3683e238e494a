//! A real API server over a real etcd, for the tests of several crates, which include this file. `kube-apiserver.sh` runs it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use datastore::DynStore;
use datastore::config::StoreConfig;
use datastore::kubernetes::config::KubernetesConfig;

const READER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: kube-system}]
";

/// A server that ends with its standard input, and so with this process.
pub struct Server {
    process: Child,
    pub directory: PathBuf,
}

impl Server {
    /// One that has no kinds but Kubernetes' own.
    pub fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap().keep();
        let process = Command::new(root().join("tests/cluster/kube-apiserver.sh"))
            .args(["run", "--remove"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut server = Self { process, directory };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !server.kubeconfig().exists() {
            assert!(server.process.try_wait().unwrap().is_none(), "the server has not started");
            assert!(Instant::now() < deadline, "the server is not ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// One with the definitions of `crds/`.
    pub fn start() -> Self {
        let server = Self::bare();
        server.define();
        server
    }

    /// The one of all tests of a program that do not stop it.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// Applies the definitions of `crds/`.
    pub fn define(&self) {
        self.kubectl(&["apply", "-f", root().join("crds").to_str().unwrap()], "");
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all"], "");
    }

    /// The kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A kubeconfig of a ServiceAccount of `kube-system`.
    pub fn account(&self, name: &str) -> PathBuf {
        let token = self.kubectl(&["-n", "kube-system", "create", "token", name], "");
        let admin = std::fs::read_to_string(self.kubeconfig()).unwrap();
        let server = admin.lines().find_map(|l| l.trim().strip_prefix("server: ")).unwrap();
        let mut text = String::from("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, ");
        write!(text, "context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{token: {}}}}}], ", token.trim())
            .unwrap();
        writeln!(text, "clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority: ca.pem}}}}]}}")
            .unwrap();
        let path = self.directory.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The kubeconfig of somebody who may read everything and write nothing.
    pub fn reader(&self) -> PathBuf {
        self.kubectl(&["apply", "-f", "-"], READER);
        self.account("reader")
    }

    /// Applies the accounts and rights of `deploy/kubernetes/rbac.yaml`.
    pub fn give_rights(&self) {
        self.kubectl(&["apply", "-f", root().join("deploy/kubernetes/rbac.yaml").to_str().unwrap()], "");
    }

    pub fn kubectl(&self, args: &[&str], input: &str) -> String {
        self.try_kubectl(args, input).unwrap_or_else(|e| panic!("kubectl {args:?}: {e}"))
    }

    /// What it printed; `Err` with its complaint.
    pub fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        let is_checked_by_kubectl = matches!(args[0], "apply" | "create" | "replace") && args.get(1) != Some(&"token");
        let mut kubectl = Command::new(std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(args)
            // The server checks; what kubectl checks with is not there in the server's first seconds.
            .args((is_checked_by_kubectl && !args.contains(&"--raw")).then_some("--validate=false"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = kubectl.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// `kill -9`; it is started again once [`Server::release`] is called.
    pub fn kill(&self) {
        std::fs::write(self.directory.join("hold"), "").unwrap();
        let pid = std::fs::read_to_string(self.directory.join("kube-apiserver.pid")).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    pub fn release(&self) {
        std::fs::remove_file(self.directory.join("hold")).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The store, as the account of a kubeconfig sees it.
pub async fn open(kubeconfig: &Path) -> DynStore {
    let config = KubernetesConfig {
        kubeconfig: Some(kubeconfig.to_string_lossy().into_owned()),
        namespace: "kube-system".into(),
        ..KubernetesConfig::default()
    };
    StoreConfig::Kubernetes(config).open().await.unwrap()
}

/// The top of the source tree.
pub fn root() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above.into_iter().find(|p| p.join("tests/cluster/kube-apiserver.sh").is_file()).unwrap().into()
}
