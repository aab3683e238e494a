//! Where an object lives in the store: Calico's etcd layout, byte for byte (Calico `libcalico-go/lib/backend/model`).
//!
//! What Calico has no place for (Kubernetes objects in a fleet without Kubernetes, and kinds of `tortie.io`) lives under
//! `/tortie/`, where Calico's tools do not look.

use std::fmt;

use ipnet::IpNet;

use crate::kind::Kind;

const CALICO_RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const TORTIE_RESOURCES: &str = "/tortie/resources/";
const IPAM: &str = "/calico/ipam/v2/";
const ELECTION: &str = "/tortie/election/";

/// Where everything is that Calico and we store.
pub const ROOTS: [&str; 2] = ["/calico/", "/tortie/"];

/// Who a block is affine to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AffinityOwner {
    /// A node: `host:<name>` in a block, `host/<name>` in a key.
    Host(String),
    /// An owner that is no node, such as `load-balancer`: `virtual:<name>`, `virtual/<name>`.
    Virtual(String),
}

/// The name of the virtual owner of service load-balancer blocks (Calico `ipam.AffinityTypeVirtual`).
pub const LOAD_BALANCER_OWNER: &str = "load-balancer";

impl AffinityOwner {
    /// The value of an AllocationBlock's `affinity` field.
    pub fn to_block_field(&self) -> String {
        match self {
            Self::Host(n) => format!("host:{n}"),
            Self::Virtual(n) => format!("virtual:{n}"),
        }
    }

    /// Parses the `affinity` field of a block; `None` for a form that is neither.
    pub fn from_block_field(s: &str) -> Option<Self> {
        match s.split_once(':')? {
            ("host", n) => Some(Self::Host(n.into())),
            ("virtual", n) => Some(Self::Virtual(n.into())),
            _ => None,
        }
    }

    fn segment(&self) -> (&'static str, &str) {
        match self {
            Self::Host(n) => ("host", n),
            Self::Virtual(n) => ("virtual", n),
        }
    }
}

/// The key of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A resource; `namespace` is `Some` exactly for namespaced kinds.
    Resource {
        kind: Kind,
        namespace: Option<String>,
        name: String,
    },
    IpamBlock(IpNet),
    BlockAffinity(AffinityOwner, IpNet),
    IpamHandle(String),
    IpamConfig,
    /// Who leads among the processes that share this name.
    Election(String),
}

/// A set of keys that can be listed and watched: all that start with [`KeyRange::prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Every object of a kind, in all namespaces.
    Kind(Kind),
    /// Every object of a namespaced kind in one namespace.
    Namespace(Kind, String),
    /// Every IPAM block of both families.
    Blocks,
    /// Every affinity of one owner, both families. Listing `node-1` never reads `node-10`.
    AffinitiesOf(AffinityOwner),
    /// Every affinity of every node and virtual owner.
    HostAffinities,
    VirtualAffinities,
    Handles,
    Elections,
    /// The one object [`Key::IpamConfig`], to watch it.
    IpamConfig,
    /// Everything the store holds, Calico's and ours.
    All,
}

impl Key {
    /// The key of a resource. `namespace` is ignored for kinds that have none.
    pub fn resource(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = if kind.is_namespaced() { Some(namespace.unwrap_or("default").to_string()) } else { None };
        Self::Resource { kind, namespace, name: name.to_string() }
    }

    /// Parses a stored path; `None` for a path that is none of ours.
    pub fn parse(path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix(CALICO_RESOURCES).or_else(|| path.strip_prefix(TORTIE_RESOURCES)) {
            return Self::parse_resource(rest, path.starts_with(CALICO_RESOURCES));
        }
        if let Some(name) = path.strip_prefix(ELECTION) {
            return (!name.is_empty() && !name.contains('/')).then(|| Self::Election(name.to_string()));
        }
        let rest = path.strip_prefix(IPAM)?;
        if rest == "config" {
            return Some(Self::IpamConfig);
        }
        if let Some(handle) = rest.strip_prefix("handle/") {
            return Some(Self::IpamHandle(handle.to_string()));
        }
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["assignment", "ipv4" | "ipv6", "block", cidr] => Some(Self::IpamBlock(cidr_from_key(cidr)?)),
            ["host", name, "ipv4" | "ipv6", "block", cidr] => {
                Some(Self::BlockAffinity(AffinityOwner::Host((*name).into()), cidr_from_key(cidr)?))
            }
            ["virtual", name, "ipv4" | "ipv6", "block", cidr] => {
                Some(Self::BlockAffinity(AffinityOwner::Virtual((*name).into()), cidr_from_key(cidr)?))
            }
            _ => None,
        }
    }

    fn parse_resource(rest: &str, in_calico: bool) -> Option<Self> {
        let parts: Vec<&str> = rest.split('/').collect();
        let kind = Kind::ALL.iter().copied().find(|k| k.plural() == parts[0])?;
        if is_calico(kind) != in_calico {
            return None;
        }
        match (kind.is_namespaced(), parts.as_slice()) {
            (false, [_, name]) => Some(Self::resource(kind, None, name)),
            (true, [_, namespace, name]) => Some(Self::resource(kind, Some(namespace), name)),
            _ => None,
        }
    }

    /// The resource's kind, for keys of resources.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Resource { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// The object's name, for keys of resources.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Resource { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The object's namespace, for keys of namespaced resources.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Resource { namespace, .. } => namespace.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    /// The path in the store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { kind, namespace: Some(ns), name } => write!(f, "{}{ns}/{name}", kind_prefix(*kind)),
            Self::Resource { kind, namespace: None, name } => write!(f, "{}{name}", kind_prefix(*kind)),
            Self::IpamBlock(cidr) => write!(f, "{IPAM}assignment/{}/block/{}", family(cidr), cidr_to_key(cidr)),
            Self::BlockAffinity(owner, cidr) => {
                let (segment, name) = owner.segment();
                write!(f, "{IPAM}{segment}/{name}/{}/block/{}", family(cidr), cidr_to_key(cidr))
            }
            Self::IpamHandle(id) => write!(f, "{IPAM}handle/{id}"),
            Self::IpamConfig => write!(f, "{IPAM}config"),
            Self::Election(name) => write!(f, "{ELECTION}{name}"),
        }
    }
}

impl KeyRange {
    /// The prefix that all keys of the range, and no others, start with.
    pub fn prefix(&self) -> String {
        match self {
            Self::Kind(kind) => kind_prefix(*kind),
            Self::Namespace(kind, ns) => format!("{}{ns}/", kind_prefix(*kind)),
            Self::Blocks => format!("{IPAM}assignment/"),
            Self::AffinitiesOf(owner) => {
                let (segment, name) = owner.segment();
                format!("{IPAM}{segment}/{name}/")
            }
            Self::HostAffinities => format!("{IPAM}host/"),
            Self::VirtualAffinities => format!("{IPAM}virtual/"),
            Self::Handles => format!("{IPAM}handle/"),
            Self::Elections => ELECTION.into(),
            Self::IpamConfig => format!("{IPAM}config"),
            Self::All => "/".into(),
        }
    }
}

fn is_calico(kind: Kind) -> bool {
    kind.api_version() == crate::kind::CALICO_V3
}

fn kind_prefix(kind: Kind) -> String {
    let root = if is_calico(kind) { CALICO_RESOURCES } else { TORTIE_RESOURCES };
    format!("{root}{}/", kind.plural())
}

fn family(cidr: &IpNet) -> &'static str {
    match cidr {
        IpNet::V4(_) => "ipv4",
        IpNet::V6(_) => "ipv6",
    }
}

fn cidr_to_key(cidr: &IpNet) -> String {
    cidr.trunc().to_string().replace('/', "-")
}

fn cidr_from_key(s: &str) -> Option<IpNet> {
    let (addr, len) = s.rsplit_once('-')?;
    format!("{addr}/{len}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_calicos_byte_for_byte() {
        let rows = [
            (Key::IpamBlock("10.0.0.64/26".parse().unwrap()), "/calico/ipam/v2/assignment/ipv4/block/10.0.0.64-26"),
            (
                Key::IpamBlock("fd80:24e2:f998:72d6::/122".parse().unwrap()),
                "/calico/ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::-122",
            ),
            (
                Key::BlockAffinity(AffinityOwner::Host("node-1".into()), "10.0.0.64/26".parse().unwrap()),
                "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.64-26",
            ),
            (
                Key::BlockAffinity(AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into()), "10.9.0.0/26".parse().unwrap()),
                "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.9.0.0-26",
            ),
            (Key::IpamHandle("k8s-pod-network.4f1c".into()), "/calico/ipam/v2/handle/k8s-pod-network.4f1c"),
            (Key::IpamConfig, "/calico/ipam/v2/config"),
            (Key::resource(Kind::IpPool, None, "p"), "/calico/resources/v3/projectcalico.org/ippools/p"),
            (
                Key::resource(Kind::WorkloadEndpoint, Some("test"), "w"),
                "/calico/resources/v3/projectcalico.org/workloadendpoints/test/w",
            ),
            (Key::resource(Kind::Service, Some("test"), "web"), "/tortie/resources/services/test/web"),
            (Key::resource(Kind::LoadBalancerIpPool, None, "blue"), "/tortie/resources/loadbalancerippools/blue"),
            (Key::Election("controller".into()), "/tortie/election/controller"),
        ];
        for (key, path) in rows {
            assert_eq!(key.to_string(), path);
            assert_eq!(Key::parse(path), Some(key));
        }
    }

    /// The marker of a host that old clients of Calico wrote (empty, read by nobody) is passed over, and so is what is no path of theirs.
    #[test]
    fn what_is_not_ours_has_no_key() {
        for path in [
            "/calico/ipam/v2/host/node-1",
            "/calico/ipam/v2/host/node-1/ipv4/block/",
            "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.64-26/more",
            "/calico/resources/v3/projectcalico.org/services/test/web",
            "/tortie/election/",
        ] {
            assert_eq!(Key::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_listing_for_node_1_never_reads_node_10() {
        let range = KeyRange::AffinitiesOf(AffinityOwner::Host("node-1".into())).prefix();
        let other = Key::BlockAffinity(AffinityOwner::Host("node-10".into()), "10.0.0.0/26".parse().unwrap());
        assert!(!other.to_string().starts_with(&range));
    }
}
