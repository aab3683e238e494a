//! The kinds, their names, scope and API groups.

/// Calico's v3 API version.
pub const CALICO_V3: &str = "projectcalico.org/v3";
/// Calico's CRD API version: accepted in documents, stored as [`CALICO_V3`].
pub const CALICO_CRD_V1: &str = "crd.projectcalico.org/v1";
/// The API version of kinds of ours.
pub const TORTIE_V1: &str = "tortie.io/v1";

macro_rules! kinds {
    ($($variant:ident, $name:literal, $version:literal, $plural:literal, $namespaced:literal, [$($alias:literal),*];)*) => {
        /// Every kind that the store holds as a resource.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($variant),* }

        impl Kind {
            /// All kinds, in the order in which they are declared.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// The kind as documents spell it: `IPPool`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$variant => $name),* }
            }

            /// The canonical API version, the one that is stored.
            pub const fn api_version(self) -> &'static str {
                match self { $(Kind::$variant => $version),* }
            }

            /// The plural as it stands in store keys: `ippools`.
            pub const fn plural(self) -> &'static str {
                match self { $(Kind::$variant => $plural),* }
            }

            /// Whether objects of this kind live in a namespace.
            pub const fn is_namespaced(self) -> bool {
                match self { $(Kind::$variant => $namespaced),* }
            }

            /// Short names that the command line takes besides the kind and its plural, lower case (Calico's aliases).
            pub const fn aliases(self) -> &'static [&'static str] {
                match self { $(Kind::$variant => &[$($alias),*]),* }
            }
        }
    };
}

kinds! {
    IpPool, "IPPool", "projectcalico.org/v3", "ippools", false, ["ipp", "ipps", "pool", "pools"];
    IpReservation, "IPReservation", "projectcalico.org/v3", "ipreservations", false, ["reservation", "reservations"];
    IpamConfiguration, "IPAMConfiguration", "projectcalico.org/v3", "ipamconfigurations", false, ["ipamconfig", "ipamconfigs"];
    BgpPeer, "BGPPeer", "projectcalico.org/v3", "bgppeers", false, ["bgpp", "bgpps", "bp", "bps"];
    BgpConfiguration, "BGPConfiguration", "projectcalico.org/v3", "bgpconfigurations", false, ["bgpconfig", "bgpconfigs"];
    BgpFilter, "BGPFilter", "projectcalico.org/v3", "bgpfilters", false, ["bgpf", "bf"];
    Node, "Node", "projectcalico.org/v3", "nodes", false, ["no", "nos"];
    WorkloadEndpoint, "WorkloadEndpoint", "projectcalico.org/v3", "workloadendpoints", true, ["wep", "weps"];
    HostEndpoint, "HostEndpoint", "projectcalico.org/v3", "hostendpoints", false, ["hep", "heps"];
    FelixConfiguration, "FelixConfiguration", "projectcalico.org/v3", "felixconfigurations", false, ["felixconfig", "felixconfigs"];
    ClusterInformation, "ClusterInformation", "projectcalico.org/v3", "clusterinformations", false, ["clusterinfo", "clusterinfos"];
    KubeControllersConfiguration, "KubeControllersConfiguration", "projectcalico.org/v3", "kubecontrollersconfigurations", false, ["kubecontrollersconfig", "kubecontrollersconfigs", "kcc", "kccs"];
    CalicoNodeStatus, "CalicoNodeStatus", "projectcalico.org/v3", "caliconodestatuses", false, ["nodestatus", "nodestatuses"];
    LoadBalancerIpPool, "LoadBalancerIPPool", "tortie.io/v1", "loadbalancerippools", false, ["lbippool", "lbippools", "lbpool", "lbpools", "ciliumloadbalancerippool", "ciliumloadbalancerippools"];
    Namespace, "Namespace", "v1", "namespaces", false, ["ns"];
    Pod, "Pod", "v1", "pods", true, ["po"];
    Secret, "Secret", "v1", "secrets", true, [];
    Service, "Service", "v1", "services", true, ["svc", "svcs"];
    EndpointSlice, "EndpointSlice", "discovery.k8s.io/v1", "endpointslices", true, ["eps"];
}

impl Kind {
    /// The kind that a document spells exactly so, if it is one of ours.
    pub fn from_document(kind: &str) -> Option<Kind> {
        Self::ALL.iter().copied().find(|k| k.as_str() == kind)
    }

    /// The kind that a command line means: kind, plural or alias, in any case.
    pub fn from_arg(word: &str) -> Option<Kind> {
        let word = word.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|k| {
            k.as_str().to_ascii_lowercase() == word || k.plural() == word || k.aliases().contains(&word.as_str())
        })
    }

    /// Whether a document of this kind may carry `api_version`. Calico's kinds take both of Calico's groups;
    /// a Node may also be a Kubernetes one (`v1`).
    pub fn accepts_version(self, api_version: &str) -> bool {
        api_version == self.api_version()
            || (self.api_version() == CALICO_V3 && api_version == CALICO_CRD_V1)
            || (self == Kind::Node && api_version == "v1")
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
