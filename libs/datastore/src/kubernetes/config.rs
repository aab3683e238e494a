//! How to reach the API server: `KUBECONFIG`, the `K8S_*` variables that Calico takes, or a pod's service account.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::store::Error;

/// Where a pod finds its service account (Kubernetes, "Accessing the Kubernetes API from a Pod").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The namespace of Leases where NAMESPACE does not say another (Calico's default).
const DEFAULT_NAMESPACE: &str = "kube-system";

/// What the environment says about the API server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Paths, separated by colons; the first that names a thing wins.
    pub kubeconfig: Option<String>,
    pub context: Option<String>,
    pub server: Option<String>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub token: Option<String>,
    pub insecure: bool,
    /// `host:port` of the API server as a pod knows it.
    pub in_cluster: Option<String>,
    /// The directory of the service account; a pod's own where it is not given.
    pub service_account: Option<PathBuf>,
    pub home: Option<PathBuf>,
    /// The namespace of our Leases.
    pub namespace: String,
}

/// Without the token: it may be logged.
impl fmt::Debug for KubernetesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesConfig")
            .field("kubeconfig", &self.kubeconfig)
            .field("context", &self.context)
            .field("server", &self.server)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("ca_file", &self.ca_file)
            .field("insecure", &self.insecure)
            .field("in_cluster", &self.in_cluster)
            .field("service_account", &self.service_account)
            .field("home", &self.home)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl KubernetesConfig {
    /// From variables.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the variable, what it holds and what it may hold.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let insecure = match var("K8S_INSECURE_SKIP_TLS_VERIFY").as_deref() {
            None | Some("false" | "False" | "FALSE" | "f" | "0") => false,
            Some("true" | "True" | "TRUE" | "t" | "1") => true,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "K8S_INSECURE_SKIP_TLS_VERIFY={other} is unknown; valid are true and false"
                )));
            }
        };
        let path = |name| var(name).map(PathBuf::from);
        let host = var("KUBERNETES_SERVICE_HOST");
        let port = var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".into());
        Ok(Self {
            kubeconfig: var("KUBECONFIG"),
            context: var("K8S_CURRENT_CONTEXT"),
            server: var("K8S_API_ENDPOINT"),
            cert_file: path("K8S_CERT_FILE"),
            key_file: path("K8S_KEY_FILE"),
            ca_file: path("K8S_CA_FILE"),
            token: var("K8S_API_TOKEN"),
            insecure,
            in_cluster: host.map(|h| if h.contains(':') { format!("[{h}]:{port}") } else { format!("{h}:{port}") }),
            service_account: None,
            home: path("HOME"),
            namespace: var("NAMESPACE").unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        })
    }

    /// Reads the files that the configuration names, but for keys, certificates and tokens: these are read at each connection,
    /// because they are renewed.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file or the variable and what is wrong.
    pub fn access(&self) -> Result<Access, Error> {
        let mut access = match (&self.kubeconfig, &self.server, &self.in_cluster, self.default_kubeconfig()) {
            (Some(paths), ..) => from_kubeconfig(paths, self.context.as_deref())?,
            (None, Some(server), ..) => Access::new(Server::parse("K8S_API_ENDPOINT", server)?, "K8S_API_ENDPOINT"),
            (None, None, Some(address), _) => self.in_cluster(address)?,
            (None, None, None, Some(path)) => from_kubeconfig(&path, self.context.as_deref())?,
            (None, None, None, None) => {
                return Err(Error::Invalid(
                    "DATASTORE_TYPE=kubernetes needs KUBECONFIG (a file), K8S_API_ENDPOINT (https://host:port) or, in a pod, a \
                     service account; none is there"
                        .into(),
                ));
            }
        };
        // As in Calico, each K8S_* variable overrides what the kubeconfig says.
        if let (Some(server), true) = (&self.server, self.kubeconfig.is_some()) {
            access.server = Server::parse("K8S_API_ENDPOINT", server)?;
        }
        if let Some(ca) = &self.ca_file {
            access.ca = Some(Source::File(ca.clone()));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                access.identity = Some((Source::File(cert.clone()), Source::File(key.clone())));
            }
            (None, None) => {}
            (has_cert, _) => {
                let (present, missing) = match has_cert {
                    Some(_) => ("K8S_CERT_FILE", "K8S_KEY_FILE"),
                    None => ("K8S_KEY_FILE", "K8S_CERT_FILE"),
                };
                return Err(Error::Invalid(format!("{present} is set but {missing} is not; set both or neither")));
            }
        }
        if let Some(token) = &self.token {
            access.token = Some(Source::Data(token.clone().into_bytes()));
        }
        access.insecure |= self.insecure;
        Ok(access)
    }

    /// `~/.kube/config`, where it is there: what calicoctl and kubectl take.
    fn default_kubeconfig(&self) -> Option<String> {
        let path = self.home.as_ref()?.join(".kube/config");
        path.exists().then(|| path.to_string_lossy().into_owned())
    }

    fn in_cluster(&self, address: &str) -> Result<Access, Error> {
        let directory = self.service_account.clone().unwrap_or_else(|| SERVICE_ACCOUNT.into());
        let server = Server::parse("KUBERNETES_SERVICE_HOST", &format!("https://{address}"))?;
        let mut access = Access::new(server, "the pod's service account");
        access.ca = Some(Source::File(directory.join("ca.crt")));
        access.token = Some(Source::File(directory.join("token")));
        Ok(access)
    }
}

/// A file that is read at each use, or what it would hold.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Data(Vec<u8>),
}

impl Source {
    /// What it holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file and why it cannot be read.
    pub fn read(&self, what: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::Data(data) => Ok(data.clone()),
            Self::File(path) => std::fs::read(path)
                .map_err(|e| Error::Invalid(format!("{what}: {} cannot be read: {e}", path.display()))),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Data(_) => "the data in the kubeconfig".into(),
        }
    }
}

/// Never the data: it may be a key.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    /// What stands before `/api`, without a slash at its end: empty, or where a proxy has the server.
    pub path: String,
}

impl Server {
    /// `https://host:port[/path]`; `origin` is named in the error.
    fn parse(origin: &str, text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::Invalid(format!(
                "{origin}: the server is \"{text}\"; it must be a URL such as https://10.0.0.1:6443"
            ))
        };
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(invalid()),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| invalid())?),
            None => (authority, if is_tls { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
            return Err(invalid());
        }
        Ok(Self { is_tls, host: host.into(), port, path: path.trim_end_matches('/').into() })
    }

    /// `host:port`, as a Host header has it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// A server, and how to prove to each other who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub server: Server,
    /// The name that the server's certificate must have, where it is not the host.
    pub server_name: Option<String>,
    /// The CA of the server's certificate; the system's where none is given.
    pub ca: Option<Source>,
    /// Our certificate and its key.
    pub identity: Option<(Source, Source)>,
    pub token: Option<Source>,
    /// The server's certificate is not checked.
    pub insecure: bool,
    /// Where this comes from, for messages.
    pub origin: String,
}

impl Access {
    fn new(server: Server, origin: impl Into<String>) -> Self {
        Self {
            server,
            server_name: None,
            ca: None,
            identity: None,
            token: None,
            insecure: false,
            origin: origin.into(),
        }
    }
}

/// A kubeconfig (Kubernetes `client-go/tools/clientcmd/api/v1`).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: Option<String>,
    clusters: Option<Vec<NamedCluster>>,
    contexts: Option<Vec<NamedContext>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
}

/// What one file of `KUBECONFIG` holds; paths in it are relative to its directory.
struct Loaded {
    path: PathBuf,
    content: Kubeconfig,
}

impl Loaded {
    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The file's or the inline form of one thing; inline wins, as in client-go.
    fn source(&self, field: &str, data: Option<&String>, file: Option<&PathBuf>) -> Result<Option<Source>, Error> {
        match (data.filter(|d| !d.is_empty()), file.filter(|f| !f.as_os_str().is_empty())) {
            (Some(data), _) => STANDARD
                .decode(data.split_whitespace().collect::<String>())
                .map(|bytes| Some(Source::Data(bytes)))
                .map_err(|e| Error::Invalid(format!("{}: {field}-data is no base64: {e}", self.path.display()))),
            (None, Some(file)) => Ok(Some(Source::File(self.resolve(file)))),
            (None, None) => Ok(None),
        }
    }
}

fn from_kubeconfig(paths: &str, wanted: Option<&str>) -> Result<Access, Error> {
    let files = load(paths)?;
    let current = files.iter().find_map(|f| f.content.current_context.clone().filter(|c| !c.is_empty()));
    let name = wanted.map(str::to_string).or(current).ok_or_else(|| {
        Error::Invalid(format!("{paths}: there is no current-context; set it, or K8S_CURRENT_CONTEXT"))
    })?;
    let context = files.iter().flat_map(|f| f.content.contexts.iter().flatten()).find(|c| c.name == name);
    let context = &context.ok_or_else(|| missing(paths, "context", &name))?.context;
    let find_cluster = |f: &'_ Loaded| f.content.clusters.iter().flatten().position(|c| c.name == context.cluster);
    let (file, at) = files
        .iter()
        .find_map(|f| find_cluster(f).map(|at| (f, at)))
        .ok_or_else(|| missing(paths, "cluster", &context.cluster))?;
    let cluster = &file.content.clusters.as_ref().expect("it was found there")[at].cluster;
    let origin = format!("{}: cluster {}", file.path.display(), context.cluster);
    if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
        return Err(Error::Invalid(format!("{origin}: proxy-url is not supported; connect to the server directly")));
    }
    let mut access = Access::new(Server::parse(&origin, &cluster.server)?, format!("context {name} of {paths}"));
    access.server_name = cluster.tls_server_name.clone().filter(|n| !n.is_empty());
    access.insecure = cluster.insecure_skip_tls_verify;
    access.ca = file.source(
        "certificate-authority",
        cluster.certificate_authority_data.as_ref(),
        cluster.certificate_authority.as_ref(),
    )?;
    if context.user.is_empty() {
        return Ok(access);
    }
    let owner = |f: &&Loaded| f.content.users.iter().flatten().any(|u| u.name == context.user);
    let file = files.iter().find(owner).ok_or_else(|| missing(paths, "user", &context.user))?;
    let user = file.content.users.iter().flatten().find(|u| u.name == context.user).and_then(|u| u.user.clone());
    authenticate(&mut access, file, &context.user, &user.unwrap_or_default())?;
    Ok(access)
}

fn load(paths: &str) -> Result<Vec<Loaded>, Error> {
    let mut files = Vec::new();
    for path in paths.split(':').filter(|p| !p.is_empty()).map(PathBuf::from) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // As kubectl: of several files some may be missing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && paths.contains(':') => continue,
            Err(e) => return Err(Error::Invalid(format!("KUBECONFIG: {} cannot be read: {e}", path.display()))),
        };
        let content = serde_yaml::from_str(&text)
            .map_err(|e| Error::Invalid(format!("KUBECONFIG: {} is no kubeconfig: {e}", path.display())))?;
        files.push(Loaded { path, content });
    }
    if files.is_empty() {
        return Err(Error::Invalid(format!("KUBECONFIG={paths}: none of these files exists")));
    }
    Ok(files)
}

fn missing(paths: &str, what: &str, name: &str) -> Error {
    Error::Invalid(format!("{paths}: there is no {what} \"{name}\""))
}

fn authenticate(access: &mut Access, file: &Loaded, name: &str, user: &User) -> Result<(), Error> {
    let refused = [
        (user.exec.is_some(), "exec: programs that fetch credentials are not run"),
        (user.auth_provider.is_some(), "auth-provider: it is not supported"),
        (user.username.is_some(), "username: the API server takes no passwords"),
        (user.impersonate.is_some(), "as: it is not supported"),
    ];
    if let Some((_, why)) = refused.iter().find(|(is_set, _)| *is_set) {
        return Err(Error::Invalid(format!(
            "{}: user {name}: {why}; use a client certificate, token or tokenFile (kubectl create token)",
            file.path.display()
        )));
    }
    let cert =
        file.source("client-certificate", user.client_certificate_data.as_ref(), user.client_certificate.as_ref())?;
    let key = file.source("client-key", user.client_key_data.as_ref(), user.client_key.as_ref())?;
    access.identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (has_cert, _) => {
            let missing = if has_cert.is_some() { "client-key" } else { "client-certificate" };
            return Err(Error::Invalid(format!("{}: user {name} has no {missing}", file.path.display())));
        }
    };
    // As client-go: the file wins.
    access.token = match (&user.token_file, &user.token) {
        (Some(path), _) if !path.as_os_str().is_empty() => Some(Source::File(file.resolve(path))),
        (_, Some(token)) if !token.is_empty() => Some(Source::Data(token.clone().into_bytes())),
        _ => None,
    };
    Ok(())
}

#[cfg(test)]
mod tests;
