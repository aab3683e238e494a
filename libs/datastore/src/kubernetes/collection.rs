//! Which objects of the API hold what: keys to paths, ranges to lists.

use api::kdd;
use api::key::{AffinityOwner, Key, KeyRange};
use api::kind::{CALICO_CRD_V1, CALICO_V3, Kind};

use super::endpoint;
use crate::store::Error;

/// How an object of the API and the stored value of a key are one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A Calico v3 resource in a CRD of `crd.projectcalico.org/v1`.
    Calico(Kind),
    /// The API's own object, or a CRD of `tortie.io`: as it is.
    Plain(Kind),
    /// A Calico Node, in annotations of the Kubernetes Node.
    Node,
    /// A WorkloadEndpoint, in annotations of the Pod.
    Endpoint,
    /// A record of IPAM.
    Record,
    /// An election, in a Lease.
    Election,
}

/// All objects of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// As documents have it.
    pub api_version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub is_namespaced: bool,
    pub form: Form,
}

/// One object of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub collection: Collection,
    pub namespace: Option<String>,
    pub name: String,
}

/// What one list request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub collection: Collection,
    pub namespace: Option<String>,
}

const fn ipam(kind: &'static str, plural: &'static str) -> Collection {
    Collection { api_version: CALICO_CRD_V1, kind, plural, is_namespaced: false, form: Form::Record }
}

const BLOCKS: Collection = ipam(kdd::IPAM_BLOCK, "ipamblocks");
const AFFINITIES: Collection = ipam(kdd::BLOCK_AFFINITY, "blockaffinities");
const HANDLES: Collection = ipam(kdd::IPAM_HANDLE, "ipamhandles");
const CONFIGS: Collection = ipam(kdd::IPAM_CONFIG, "ipamconfigs");
const LEASES: Collection = Collection {
    api_version: "coordination.k8s.io/v1",
    kind: "Lease",
    plural: "leases",
    is_namespaced: true,
    form: Form::Election,
};
const IPAM: [Collection; 4] = [BLOCKS, AFFINITIES, HANDLES, CONFIGS];

/// All that Calico's group has, for messages.
pub const CALICOS: Collection = ipam("APIResourceList", "resources");

impl Collection {
    /// Whether the objects of that plural in Calico's group are ours to read.
    pub fn is_known(plural: &str) -> bool {
        let kinds = Kind::ALL.iter().map(|kind| Self::of_kind(*kind));
        kinds.chain(IPAM).any(|c| c.api_version == CALICO_CRD_V1 && c.plural == plural)
    }

    /// Where the objects of a kind are.
    pub fn of_kind(kind: Kind) -> Self {
        let plain = Self {
            api_version: kind.api_version(),
            kind: kind.as_str(),
            plural: kind.plural(),
            is_namespaced: kind.is_namespaced(),
            form: Form::Plain(kind),
        };
        match kind {
            Kind::Node => Self { api_version: "v1", form: Form::Node, ..plain },
            Kind::WorkloadEndpoint => {
                Self { api_version: "v1", kind: "Pod", plural: "pods", form: Form::Endpoint, ..plain }
            }
            Kind::IpamConfiguration => CONFIGS,
            _ if kind.api_version() == CALICO_V3 => {
                Self { api_version: CALICO_CRD_V1, form: Form::Calico(kind), ..plain }
            }
            _ => plain,
        }
    }

    /// `ippools.crd.projectcalico.org`, as kubectl names it.
    pub fn name(&self) -> String {
        match self.api_version.split_once('/') {
            Some((group, _)) => format!("{}.{group}", self.plural),
            None => self.plural.into(),
        }
    }

    /// The path of the collection, or of one namespace of it.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        match namespace.filter(|_| self.is_namespaced) {
            Some(namespace) => {
                format!("{root}/{}/namespaces/{}/{}", self.api_version, segment(namespace), self.plural)
            }
            None => format!("{root}/{}/{}", self.api_version, self.plural),
        }
    }

    /// Whether its objects are deleted in two steps (Calico's KDD: marked first, under compare-and-swap).
    pub fn is_marked_before_deletion(&self) -> bool {
        self.form == Form::Record && self.kind != kdd::IPAM_CONFIG
    }
}

impl Place {
    /// Where the object of a key is; `leases` is the namespace of Leases.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an endpoint that is no pod's: the API has no place for it.
    pub fn of(key: &Key, leases: &str) -> Result<Self, Error> {
        let at = |collection, name: String| Self { collection, namespace: None, name };
        Ok(match key {
            Key::Resource { kind: Kind::WorkloadEndpoint, namespace, name } => {
                let pod = endpoint::pod_of(name).ok_or_else(|| {
                    Error::Invalid(format!(
                        "{key}: in the Kubernetes API as the store each WorkloadEndpoint is a Pod, and is named \
                         <node>-k8s-<pod>-<interface>"
                    ))
                })?;
                Self { namespace: namespace.clone(), ..at(Collection::of_kind(Kind::WorkloadEndpoint), pod) }
            }
            Key::Resource { kind, namespace, name } => {
                Self { namespace: namespace.clone(), ..at(Collection::of_kind(*kind), name.clone()) }
            }
            Key::IpamBlock(_) | Key::BlockAffinity(..) | Key::IpamHandle(_) | Key::IpamConfig => {
                let (kind, name) = kdd::object_of(key).expect("it is a key of IPAM");
                let collection = IPAM.into_iter().find(|c| c.kind == kind).expect("each of IPAM's kinds is there");
                at(collection, name)
            }
            Key::Election(name) => {
                Self { collection: LEASES, namespace: Some(leases.into()), name: format!("tortie-{name}") }
            }
        })
    }

    pub fn path(&self) -> String {
        format!("{}/{}", self.collection.path(self.namespace.as_deref()), segment(&self.name))
    }
}

/// The lists that together hold a range, and more than it where the API cannot ask for exactly that.
pub fn of_range(range: &KeyRange, leases: &str) -> Vec<Selection> {
    let all = |collection| Selection { collection, namespace: None };
    match range {
        KeyRange::Kind(kind) => vec![all(Collection::of_kind(*kind))],
        KeyRange::Namespace(kind, namespace) => {
            vec![Selection { collection: Collection::of_kind(*kind), namespace: Some(namespace.clone()) }]
        }
        KeyRange::Blocks => vec![all(BLOCKS)],
        KeyRange::AffinitiesOf(AffinityOwner::Host(_) | AffinityOwner::Virtual(_))
        | KeyRange::HostAffinities
        | KeyRange::VirtualAffinities => vec![all(AFFINITIES)],
        KeyRange::Handles => vec![all(HANDLES)],
        KeyRange::IpamConfig => vec![all(CONFIGS)],
        KeyRange::Elections => vec![Selection { collection: LEASES, namespace: Some(leases.into()) }],
        // Not the API's own objects: they are no part of what we store.
        KeyRange::All => {
            let is_ours = |kind: &Kind| {
                let version = kind.api_version();
                *kind != Kind::IpamConfiguration && (version == CALICO_V3 || version.starts_with("tortie.io/"))
            };
            let kinds = Kind::ALL.iter().copied().filter(is_ours).map(Collection::of_kind);
            let ranges = [
                KeyRange::Blocks,
                KeyRange::HostAffinities,
                KeyRange::Handles,
                KeyRange::IpamConfig,
                KeyRange::Elections,
            ];
            kinds.map(all).chain(ranges.iter().flat_map(|r| of_range(r, leases))).collect()
        }
    }
}

/// A path segment: what is no unreserved character is escaped (RFC 3986 section 2.3).
pub fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
