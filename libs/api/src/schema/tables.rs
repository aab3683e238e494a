//! The tables. One line per field.

mod felix;
mod session;

use super::Format::*;
use super::Type::*;
use super::{Field, Format, Object, Rule, Type};
use crate::kind::Kind;

/// An optional field.
const fn f(name: &'static str, kind: Type) -> Field {
    Field { name, kind, required: false, default: "", about: "", rules: &[], is_inert: false }
}

/// A required field.
const fn req(name: &'static str, kind: Type) -> Field {
    Field { required: true, ..f(name, kind) }
}

const fn object(go_type: &'static str, fields: &'static [Field]) -> Object {
    Object { go_type, fields, open: false, is_choice: false, rules: &[] }
}

const fn open(go_type: &'static str, fields: &'static [Field]) -> Object {
    Object { go_type, fields, open: true, is_choice: false, rules: &[] }
}

const fn rule(cel: &'static str, message: &'static str) -> Rule {
    Rule { cel, message }
}

const TEXT: Type = Text(Free);
const TEXTS: Type = List(&Text(Free));
const CIDRS: Type = List(&Text(Cidr));
const IPS: Type = List(&Text(Ip));
const UINT8: Type = Int(0, u8::MAX as i64);
const PORT: Type = Int(1, 65535);
const PORT_OR_NONE: Type = Int(0, 65535);
const PROTOCOL: Type = Text(OneOf(&["TCP", "UDP", "SCTP"]));
const LOG_LEVEL: Format = AnyCase(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]);
const ENABLED: Type = Text(OneOf(&["Enabled", "Disabled"]));
/// Linux route metrics that leave room for the kernel's own (Calico `felix/config`).
const ROUTE_PRIORITY: Type = Int(1, 2_147_483_646);

pub(super) fn of(kind: Kind) -> &'static Object {
    match kind {
        Kind::IpPool => &IP_POOL,
        Kind::IpReservation => &IP_RESERVATION,
        Kind::IpamConfiguration => &IPAM_CONFIGURATION,
        Kind::BgpPeer => &BGP_PEER,
        Kind::BgpConfiguration => &BGP_CONFIGURATION,
        Kind::BgpFilter => &BGP_FILTER,
        Kind::Node => &NODE,
        Kind::WorkloadEndpoint => &WORKLOAD_ENDPOINT,
        Kind::HostEndpoint => &HOST_ENDPOINT,
        Kind::FelixConfiguration => &FELIX_CONFIGURATION,
        Kind::ClusterInformation => &CLUSTER_INFORMATION,
        Kind::KubeControllersConfiguration => controllers::CONFIGURATION,
        Kind::CalicoNodeStatus => &CALICO_NODE_STATUS,
        Kind::LoadBalancerIpPool => &LOAD_BALANCER_IP_POOL,
        Kind::Namespace => &NAMESPACE,
        Kind::Pod => &POD,
        Kind::Secret => &SECRET,
        Kind::Service => &SERVICE,
        Kind::EndpointSlice => &ENDPOINT_SLICE,
    }
}

/// Kubernetes' ObjectMeta (`k8s.io/apimachinery/pkg/apis/meta/v1`).
static METADATA: Object = object(
    "ObjectMeta",
    &[
        req("name", Text(Name)),
        f("namespace", Text(Name)),
        f("labels", Map),
        f("annotations", Map),
        f("uid", TEXT),
        f("resourceVersion", TEXT),
        f("creationTimestamp", Text(Time)),
        f("deletionGracePeriodSeconds", Any),
        f("deletionTimestamp", Any),
        f("finalizers", Any),
        f("generateName", TEXT),
        f("generation", Any),
        f("managedFields", Any),
        f("ownerReferences", Any),
        f("selfLink", Any),
    ],
);

/// `kind`, `apiVersion`, `metadata`, `spec`, `status`.
macro_rules! document {
    ($name:ident, $go:literal, spec $spec:expr) => {
        document!($name, $go, spec $spec, status Any);
    };
    ($name:ident, $go:literal, spec $spec:expr, status $status:expr) => {
        static $name: Object = object(
            $go,
            &[
                f("apiVersion", TEXT),
                f("kind", TEXT),
                req("metadata", Object(&METADATA)),
                f("spec", Object($spec)),
                f("status", $status),
            ],
        );
    };
}

mod controllers;
pub(super) mod ipam;

document!(IP_POOL, "IPPool", spec & IP_POOL_SPEC);
static IP_POOL_SPEC: Object = Object {
    rules: IP_POOL_RULES,
    ..object(
        "IPPoolSpec",
        &[
            req("cidr", Text(Cidr)).is("the addresses; no host bits, no other pool's, and never changed").under(&[
                rule("self == oldSelf", "CIDR cannot be changed; follow IP pool migration guide to avoid corruption."),
            ]),
            f("blockSize", Int(0, 128))
                .or("26, IPv6 122")
                .is("prefix length of the blocks that nodes claim: 20 to 32, IPv6 116 to 128; never changed")
                .under(&[rule(
                    "self == oldSelf",
                    "Block size cannot be changed; follow IP pool migration guide to avoid corruption.",
                )]),
            f("ipipMode", ENCAPSULATION).or("Never").is("stored, not active: there is no overlay"),
            f("vxlanMode", ENCAPSULATION).or("Never").is("stored, not active: there is no overlay"),
            f("natOutgoing", Bool).or("false").is("masquerade what leaves the pools"),
            f("disabled", Bool).or("false").is("give out no more addresses; routes stay"),
            f("disableBGPExport", Bool).or("false").is("announce nothing of this pool"),
            f("nodeSelector", Text(Selector)).or("all()").is("nodes that take blocks of it"),
            f("namespaceSelector", Text(Selector)).or("any").is("namespaces whose pods take addresses of it"),
            f("allowedUses", Set(&Text(OneOf(&["Workload", "Tunnel", "LoadBalancer"])), 10))
                .or("[Workload, Tunnel]")
                .is("LoadBalancer stands alone and is for Services"),
            f("assignmentMode", Text(OneOf(&["Automatic", "Manual"])))
                .or("Automatic")
                .is("Manual: only for who asks for this pool"),
        ],
    )
};
const ENCAPSULATION: Type = Text(OneOf(&["Never", "Always", "CrossSubnet"]));
/// Calico's rules and words (`api/pkg/apis/projectcalico/v3/ippool.go`), but for that of a namespace selector with LoadBalancer.
const IP_POOL_RULES: &[Rule] = &[
    rule(
        "!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode == 'Never' || self.vxlanMode == 'Never' || size(self.ipipMode) == 0 || size(self.vxlanMode) == 0",
        "ipipMode and vxlanMode cannot both be enabled",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'LoadBalancer') || (!has(self.ipipMode) || size(self.ipipMode) == 0 || self.ipipMode == 'Never') && (!has(self.vxlanMode) || size(self.vxlanMode) == 0 || self.vxlanMode == 'Never')",
        "LoadBalancer IP pool cannot have IPIP or VXLAN enabled",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'LoadBalancer') || !self.allowedUses.exists(u, u == 'Workload' || u == 'Tunnel')",
        "LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
    ),
    rule(
        "cidr(self.cidr).ip().family() != 6 || !has(self.ipipMode) || self.ipipMode == 'Never' || size(self.ipipMode) == 0",
        "IPIP is not supported on IPv6 pools",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'LoadBalancer') || !has(self.disableBGPExport) || !self.disableBGPExport",
        "LoadBalancer IP pools cannot disable BGP export",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'LoadBalancer') || self.nodeSelector == 'all()'",
        "IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'Tunnel') || !has(self.namespaceSelector) || size(self.namespaceSelector) == 0",
        "IP Pool with AllowedUse Tunnel cannot have namespaceSelector",
    ),
    rule(
        "!has(self.allowedUses) || !self.allowedUses.exists(u, u == 'LoadBalancer') || !has(self.namespaceSelector) || size(self.namespaceSelector) == 0",
        "namespaceSelector cannot be used with LoadBalancer allowed use",
    ),
    rule(
        "!has(self.nodeSelector) || !self.nodeSelector.contains('global(')",
        "global() selector is not valid for IPPool nodeSelector",
    ),
    rule(
        "!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')",
        "global() selector is not valid for IPPool namespaceSelector",
    ),
    rule("cidr(self.cidr) == cidr(self.cidr).masked()", "IPPool CIDR must be strictly masked"),
    rule(
        "!cidr('169.254.0.0/16').containsIP(cidr(self.cidr).ip()) && !cidr(self.cidr).containsIP('169.254.0.0')",
        "IPPool CIDR overlaps with IPv4 link local range 169.254.0.0/16",
    ),
    rule(
        "!cidr('fe80::/10').containsIP(cidr(self.cidr).ip()) && !cidr(self.cidr).containsIP('fe80::')",
        "IPPool CIDR overlaps with IPv6 link local range fe80::/10",
    ),
    rule(
        "!has(self.blockSize) || self.blockSize == 0 || (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116 && self.blockSize <= 128)",
        "blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools",
    ),
    rule(
        "(has(self.disabled) && self.disabled) || cidr(self.cidr).prefixLength() <= (has(self.blockSize) && self.blockSize != 0 ? self.blockSize : (cidr(self.cidr).ip().family() == 4 ? 26 : 122))",
        "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.",
    ),
];

document!(IP_RESERVATION, "IPReservation", spec & IP_RESERVATION_SPEC);
static IP_RESERVATION_SPEC: Object = object(
    "IPReservationSpec",
    &[f("reservedCIDRs", List(&Text(CidrOrIp))).is("never given out by themselves; an address alone is a /32 or /128")],
);

document!(IPAM_CONFIGURATION, "IPAMConfiguration", spec & IPAM_CONFIGURATION_SPEC);
static IPAM_CONFIGURATION_SPEC: Object = object(
    "IPAMConfigurationSpec",
    &[
        f("strictAffinity", Bool).or("false").is("a node takes addresses of its own blocks only"),
        f("autoAllocateBlocks", Bool).or("true").is("a node claims blocks when it needs them"),
        f("maxBlocksPerHost", Int(0, 1_000_000))
            .or("20")
            .is("0 is the default; a node at the limit borrows unless strict"),
        f("kubeVirtVMAddressPersistence", ENABLED).or("Enabled").is("no virtual machine is known").inert(),
        f("ipCooldownSeconds", Int(0, 1200)).or("0").is("how long a released address is not given out"),
    ],
);

static SECRET_KEY_SELECTOR: Object =
    object("SecretKeySelector", &[req("name", TEXT), req("key", TEXT), f("optional", Bool)]);
static BGP_PASSWORD: Object = object("BGPPassword", &[f("secretKeyRef", Object(&SECRET_KEY_SELECTOR))]);

/// Calico's rules and words (`api/pkg/apis/projectcalico/v3/bgppeer.go`).
const BGP_PEER_RULES: &[Rule] = &[
    rule(
        "(!has(self.node) || size(self.node) == 0) || (!has(self.nodeSelector) || size(self.nodeSelector) == 0)",
        "node and nodeSelector cannot both be set",
    ),
    rule(
        "(!has(self.peerIP) || size(self.peerIP) == 0) || (!has(self.peerSelector) || size(self.peerSelector) == 0)",
        "peerIP and peerSelector cannot both be set",
    ),
    rule(
        "(!has(self.peerSelector) || size(self.peerSelector) == 0) || !has(self.asNumber) || self.asNumber == 0",
        "asNumber must be empty when peerSelector is set",
    ),
    rule(
        "(!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0) || (!has(self.peerIP) || size(self.peerIP) == 0)",
        "peerIP must be empty when localWorkloadSelector is set",
    ),
    rule(
        "(!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0) || (!has(self.peerSelector) || size(self.peerSelector) == 0)",
        "peerSelector must be empty when localWorkloadSelector is set",
    ),
    rule(
        "(!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0) || (has(self.asNumber) && self.asNumber != 0)",
        "asNumber is required when localWorkloadSelector is set",
    ),
    rule(
        "!has(self.reachableBy) || size(self.reachableBy) == 0 || (has(self.peerIP) && size(self.peerIP) > 0)",
        "reachableBy must be empty when peerIP is empty",
    ),
    rule(
        "!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",
        "keepOriginalNextHop and nextHopMode cannot both be set; keepOriginalNextHop is deprecated, use nextHopMode instead",
    ),
];
const BGP_CONFIGURATION_RULES: &[Rule] = &[
    rule(
        "!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled == true",
        "nodeMeshPassword cannot be set when nodeToNodeMeshEnabled is false",
    ),
    rule(
        "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled == true",
        "nodeMeshMaxRestartTime cannot be set when nodeToNodeMeshEnabled is false",
    ),
    rule(
        "!has(self.communities) || size(self.communities) == 0 || (has(self.prefixAdvertisements) && size(self.prefixAdvertisements) > 0)",
        "communities are defined but not used in prefixAdvertisements",
    ),
];
const BGP_FILTER_RULES: &[Rule] = &[
    rule(
        "(has(self.cidr) && size(self.cidr) > 0) == (has(self.matchOperator) && size(self.matchOperator) > 0)",
        "cidr and matchOperator must both be set or both be empty",
    ),
    rule(
        "!has(self.prefixLength) || (has(self.cidr) && size(self.cidr) > 0)",
        "cidr is required when prefixLength is set",
    ),
    rule(
        "!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",
        "operations may only be used with action Accept",
    ),
];

/// A spec that has the session settings beside its own fields.
macro_rules! with_session {
    ($name:ident, $go:literal, $rules:expr, $own:expr $(,)?) => {
        static $name: Object = {
            static OWN: &[Field] = $own;
            static FIELDS: [Field; OWN.len() + session::FIELDS.len()] = session::after(OWN);
            Object { rules: $rules, ..object($go, &FIELDS) }
        };
    };
}

document!(BGP_PEER, "BGPPeer", spec & BGP_PEER_SPEC);
with_session!(
    BGP_PEER_SPEC,
    "BGPPeerSpec",
    BGP_PEER_RULES,
    &[
        f("node", Text(Name)).is("exactly this node; neither this nor nodeSelector: every node"),
        f("nodeSelector", Text(Selector)).is("nodes that have this peering"),
        f("peerIP", Text(IpPort)).is("`ip`, `ip:port` or `[ip6]:port`"),
        f("asNumber", As).is("of the peer; a number, or two halves as in \"1.10\""),
        f("peerSelector", Text(Selector)).is("nodes to peer with; their addresses and AS numbers are used"),
        f("localASNumber", As).or("the node's").is("own AS number on this session"),
        f("password", Object(&BGP_PASSWORD)).is("a key of a Secret, for TCP-MD5"),
        f("sourceAddress", Text(OneOf(&["UseNodeIP", "None"]))).or("UseNodeIP").is("None: the kernel chooses"),
        f("nextHopMode", Text(OneOf(&["Auto", "Self", "Keep"])))
            .or("Auto")
            .is("Auto: itself towards other ASes, unchanged within one"),
        f("keepOriginalNextHop", Bool).or("false").is("deprecated: nextHopMode: Keep"),
        f("maxRestartTime", Text(Duration)).or("120s").is("graceful restart time that is announced"),
        f("keepaliveTime", Text(Within(&session::KEEPALIVE_TIME))).or("a third of the hold time"),
        f("numAllowedLocalASNumbers", Int(0, 2_147_483_647))
            .or("0")
            .is("how often the own AS number may be in a received path"),
        f("ttlSecurity", UINT8).is("hops to the peer, RFC 5082"),
        f("reachableBy", Text(Ip)).is("gateway to the peer, of the family of peerIP"),
        f("filters", List(&Text(Name))).is("BGPFilters, in order"),
        f("localWorkloadSelector", Text(Selector)).is("peer with pods of this node; needs asNumber"),
        f("reversePeering", Text(OneOf(&["Auto", "Manual"])))
            .or("Auto")
            .is("Manual: the other node needs a BGPPeer of its own"),
        f("peerInterface", Text(Interface)).is("unnumbered: the peer behind this interface"),
        f("peerRange", Text(Cidr)).is("whoever connects from this prefix"),
        f("peerRangeLimit", Int(1, 65_535)).is("how many of them at once"),
    ],
);

static CIDR_BLOCK: Object = object("ServiceClusterIPBlock", &[req("cidr", Text(Cidr))]);
static NAMED_COMMUNITY: Object = object("Community", &[req("name", Text(Name)), req("value", Text(Community))]);
static PREFIX_ADVERTISEMENT: Object =
    object("PrefixAdvertisement", &[req("cidr", Text(Cidr)), f("communities", TEXTS)]);

document!(BGP_CONFIGURATION, "BGPConfiguration", spec & BGP_CONFIGURATION_SPEC);
static BMP_COLLECTOR: Object = object("BMPCollector", &[req("address", Text(Ip)), req("port", PORT)]);
with_session!(
    BGP_CONFIGURATION_SPEC,
    "BGPConfigurationSpec",
    BGP_CONFIGURATION_RULES,
    &[
        f("logSeverityScreen", Text(LOG_LEVEL)).or("Info"),
        f("nodeToNodeMeshEnabled", Bool).or("true").is("every node peers with every other"),
        f("asNumber", As).or("64512").is("of nodes that have none"),
        f("serviceClusterIPs", List(&Object(&CIDR_BLOCK))).is("ranges whose Services are announced"),
        f("serviceExternalIPs", List(&Object(&CIDR_BLOCK))),
        f("serviceLoadBalancerIPs", List(&Object(&CIDR_BLOCK))),
        f("serviceLoadBalancerAggregation", ENABLED).or("Enabled").is("Disabled: each address by itself"),
        f("communities", List(&Object(&NAMED_COMMUNITY))).is("names for community values"),
        f("prefixAdvertisements", List(&Object(&PREFIX_ADVERTISEMENT))).is("communities for announced prefixes"),
        f("listenPort", PORT).or("179"),
        f("bindMode", Text(OneOf(&["None", "NodeIP"]))).or("None").is("NodeIP: listen on the node's address only"),
        f("nodeMeshPassword", Object(&BGP_PASSWORD)).is("a key of a Secret"),
        f("nodeMeshMaxRestartTime", Text(Duration)).or("120s"),
        f("ignoredInterfaces", Set(&Text(Interface), 1000)).is("interfaces whose routes are not read"),
        f("localWorkloadPeeringIPV4", Text(Ipv4)).is("address that pods peer with"),
        f("localWorkloadPeeringIPV6", Text(Ipv6)),
        f("programClusterRoutes", Text(OneOf(&["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"])))
            .or("EnabledNoEncapOnly"),
        f("ipv4NormalRoutePriority", ROUTE_PRIORITY).or("1024"),
        f("ipv6NormalRoutePriority", ROUTE_PRIORITY).or("1024"),
        f("bmpCollectors", List(&Object(&BMP_COLLECTOR))).is("where every node streams BMP to"),
        f("flapThreshold", Int(2, 1_000_000)).is("changes a minute from which a prefix flaps"),
    ],
);

document!(BGP_FILTER, "BGPFilter", spec & BGP_FILTER_SPEC);
static BGP_FILTER_SPEC: Object = object(
    "BGPFilterSpec",
    &[
        f("exportV4", List(&Object(&BGP_FILTER_RULE_V4))),
        f("importV4", List(&Object(&BGP_FILTER_RULE_V4))),
        f("exportV6", List(&Object(&BGP_FILTER_RULE_V6))),
        f("importV6", List(&Object(&BGP_FILTER_RULE_V6))),
    ],
);

macro_rules! filter_rule {
    ($name:ident, $go:literal, $len_go:literal, $max:literal) => {
        static $name: Object = Object {
            rules: BGP_FILTER_RULES,
            ..object(
                $go,
                &[
                    f("cidr", Text(Cidr)),
                    f("matchOperator", Text(OneOf(&["Equal", "NotEqual", "In", "NotIn"]))),
                    f("prefixLength", Object(&object($len_go, &[f("min", Int(0, $max)), f("max", Int(0, $max))]))),
                    f("source", Text(OneOf(&["RemotePeers"]))),
                    f("interface", Text(Interface)).is("kernel interface of the route; `*` allowed"),
                    f("peerType", Text(OneOf(&["eBGP", "iBGP"]))),
                    f("communities", Object(&COMMUNITY_MATCH)),
                    f("asPathPrefix", List(&As)),
                    f("priority", ROUTE_PRIORITY),
                    req("action", Text(OneOf(&["Accept", "Reject"]))),
                    f("operations", Items(&Object(&FILTER_OPERATION), 0, 10)),
                ],
            )
        };
    };
}
filter_rule!(BGP_FILTER_RULE_V4, "BGPFilterRuleV4", "BGPFilterPrefixLengthV4", 32);
filter_rule!(BGP_FILTER_RULE_V6, "BGPFilterRuleV6", "BGPFilterPrefixLengthV6", 128);
static COMMUNITY_MATCH: Object = object("BGPFilterCommunityMatch", &[req("values", Items(&Text(Community), 1, 1))]);
static FILTER_OPERATION: Object = Object {
    is_choice: true,
    ..object(
        "BGPFilterOperation",
        &[
            f("addCommunity", Object(&object("BGPFilterAddCommunity", &[req("value", Text(Community))]))),
            f("prependASPath", Object(&object("BGPFilterPrependASPath", &[req("prefix", Items(&As, 1, 10))]))),
            f("setPriority", Object(&object("BGPFilterSetPriority", &[req("value", ROUTE_PRIORITY)]))),
        ],
    )
};

document!(NODE, "Node", spec & NODE_SPEC);
static NODE_SPEC: Object = object(
    "NodeSpec",
    &[
        f("bgp", Object(&NODE_BGP_SPEC)),
        f("addresses", List(&Object(&NODE_ADDRESS))),
        f("orchRefs", List(&Object(&ORCH_REF))),
        f("interfaces", List(&Object(&NODE_INTERFACE))),
        f("ipv4VXLANTunnelAddr", Text(Ipv4)),
        f("ipv6VXLANTunnelAddr", Text(Ipv6)),
        f("vxlanTunnelMACAddr", Text(Mac)),
        f("vxlanTunnelMACAddrV6", Text(Mac)),
        f("wireguard", Object(&NODE_WIREGUARD)),
    ],
);
static NODE_BGP_SPEC: Object = object(
    "NodeBGPSpec",
    &[
        f("asNumber", As).or("that of the BGPConfiguration"),
        f("ipv4Address", Text(CidrOrIp)).is("with the length of its subnet"),
        f("ipv6Address", Text(CidrOrIp)),
        f("ipv4IPIPTunnelAddr", Text(Ipv4)),
        f("routeReflectorClusterID", Text(Ipv4)).is("a dotted quad; makes the node a route reflector"),
    ],
);
static NODE_ADDRESS: Object = object(
    "NodeAddress",
    &[req("address", Text(CidrOrIp)), f("type", Text(OneOf(&["CalicoNodeIP", "InternalIP", "ExternalIP"])))],
);
static NODE_INTERFACE: Object = object("NodeInterface", &[f("name", TEXT), f("addresses", List(&Text(CidrOrIp)))]);
static NODE_WIREGUARD: Object =
    object("NodeWireguardSpec", &[f("interfaceIPv4Address", Text(Ipv4)), f("interfaceIPv6Address", Text(Ipv6))]);
static ORCH_REF: Object = object("OrchRef", &[f("nodeName", TEXT), req("orchestrator", TEXT)]);

pub(super) static KUBERNETES_NODE: Object = object(
    "Node",
    &[
        f("apiVersion", TEXT),
        f("kind", TEXT),
        req("metadata", Object(&METADATA)),
        f("spec", Any),
        f("status", Object(&KUBERNETES_NODE_STATUS)),
    ],
);
static KUBERNETES_NODE_STATUS: Object = open("NodeStatus", &[f("addresses", List(&Object(&KUBERNETES_NODE_ADDRESS)))]);
static KUBERNETES_NODE_ADDRESS: Object = object("NodeAddress", &[req("address", TEXT), f("type", TEXT)]);

document!(WORKLOAD_ENDPOINT, "WorkloadEndpoint", spec & WORKLOAD_ENDPOINT_SPEC);
static WORKLOAD_ENDPOINT_SPEC: Object = object(
    "WorkloadEndpointSpec",
    &[
        f("orchestrator", Text(Name)).is("k8s, cni or libnetwork; with node, pod and endpoint it makes the name"),
        f("workload", Text(Name)),
        f("node", Text(Name)).is("where it runs"),
        f("containerID", TEXT),
        f("pod", Text(Name)),
        f("endpoint", Text(Name)).is("its interface within the pod"),
        f("serviceAccountName", Text(Name)),
        f("ipNetworks", List(&Text(CidrOrIp))).is("its addresses, /32 or /128"),
        f("ipNATs", List(&Object(&IP_NAT))),
        f("ipv4Gateway", Text(Ipv4)),
        f("ipv6Gateway", Text(Ipv6)),
        f("profiles", List(&Text(Name))),
        f("interfaceName", Text(Interface)).is("its interface on the node"),
        f("mac", Text(Mac)),
        f("ports", List(&Object(&WORKLOAD_PORT))),
        f("allowSpoofedSourcePrefixes", List(&Text(CidrOrIp))),
        f("qosControls", Any),
    ],
);
static WORKLOAD_PORT: Object = object(
    "WorkloadEndpointPort",
    &[
        f("name", TEXT),
        f("protocol", Protocol),
        req("port", PORT),
        f("hostPort", PORT_OR_NONE),
        f("hostIP", Text(CidrOrIp)),
    ],
);
static IP_NAT: Object = object("IPNAT", &[req("internalIP", Text(Ip)), req("externalIP", Text(Ip))]);

document!(HOST_ENDPOINT, "HostEndpoint", spec & HOST_ENDPOINT_SPEC);
static HOST_ENDPOINT_SPEC: Object = Object {
    rules: &[
        rule(
            "(has(self.interfaceName) && size(self.interfaceName) > 0) || (has(self.expectedIPs) && size(self.expectedIPs) > 0)",
            "at least one of interfaceName or expectedIPs must be specified",
        ),
        rule("has(self.node) && size(self.node) > 0", "node must be specified"),
    ],
    ..object(
        "HostEndpointSpec",
        &[
            f("node", Text(Name)).is("required"),
            f("interfaceName", Text(Interface)).is("`*`: every interface"),
            f("expectedIPs", IPS).is("addresses that find the interface"),
            f("profiles", List(&Text(Name))),
            f("ports", List(&Object(&ENDPOINT_PORT_V3))),
        ],
    )
};
static ENDPOINT_PORT_V3: Object =
    object("EndpointPort", &[req("name", TEXT), req("protocol", Protocol), req("port", PORT)]);

document!(FELIX_CONFIGURATION, "FelixConfiguration", spec & FELIX_CONFIGURATION_SPEC);
static FELIX_CONFIGURATION_SPEC: Object = object("FelixConfigurationSpec", felix::FIELDS);

document!(CLUSTER_INFORMATION, "ClusterInformation", spec & CLUSTER_INFORMATION_SPEC);
static CLUSTER_INFORMATION_SPEC: Object = object(
    "ClusterInformationSpec",
    &[
        f("clusterGUID", TEXT),
        f("clusterType", TEXT),
        f("calicoVersion", TEXT),
        f("datastoreReady", Bool),
        f("variant", TEXT),
    ],
);

document!(
    CALICO_NODE_STATUS,
    "CalicoNodeStatus",
    spec & CALICO_NODE_STATUS_SPEC,
    status Object(&CALICO_NODE_STATUS_STATUS)
);
static CALICO_NODE_STATUS_SPEC: Object = object(
    "CalicoNodeStatusSpec",
    &[
        req("node", Text(Name)).is("whose state is reported"),
        req("classes", Set(&Text(OneOf(&["Agent", "BGP", "Routes"])), 3)).is("what of it"),
        req("updatePeriodSeconds", Int(0, 86_400)).is("0: no more; 86400 at most"),
    ],
);

/// What a node reports (`api/pkg/apis/projectcalico/v3/nodestatus.go`).
static CALICO_NODE_STATUS_STATUS: Object = object(
    "CalicoNodeStatusStatus",
    &[
        f("lastUpdated", Nullable(&Text(Time))),
        f("agent", Object(&object("CalicoNodeAgentStatus", &[f("birdV4", DAEMON), f("birdV6", DAEMON)]))),
        f("bgp", Object(&NODE_STATUS_BGP)),
        f("routes", Object(&object("CalicoNodeBGPRouteStatus", &[f("routesV4", ROUTES), f("routesV6", ROUTES)]))),
    ],
);
const DAEMON: Type = Object(&object(
    "BGPDaemonStatus",
    &[
        f("state", Text(OneOf(&["Ready", "NotReady"]))),
        f("version", TEXT),
        f("routerID", TEXT),
        f("lastBootTime", TEXT),
        f("lastReconfigurationTime", TEXT),
    ],
));
static NODE_STATUS_BGP: Object = object(
    "CalicoNodeBGPStatus",
    &[
        f("numberEstablishedV4", SESSIONS),
        f("numberNotEstablishedV4", SESSIONS),
        f("numberEstablishedV6", SESSIONS),
        f("numberNotEstablishedV6", SESSIONS),
        f("peersV4", PEERS),
        f("peersV6", PEERS),
    ],
);
const SESSIONS: Type = Int(0, i32::MAX as i64);
const PEERS: Type = List(&Object(&object(
    "CalicoNodePeer",
    &[
        f("peerIP", TEXT),
        f("type", Text(OneOf(&["NodeMesh", "NodePeer", "GlobalPeer"]))),
        f("state", Text(OneOf(&["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close"]))),
        f("since", TEXT),
    ],
)));
const ROUTES: Type = List(&Object(&object(
    "CalicoNodeRoute",
    &[
        f("type", Text(OneOf(&["FIB", "RIB"]))),
        f("destination", TEXT),
        f("gateway", TEXT),
        f("interface", TEXT),
        f(
            "learnedFrom",
            Object(&object(
                "CalicoNodeRouteLearnedFrom",
                &[
                    f("sourceType", Text(OneOf(&["Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"]))),
                    f("peerIP", TEXT),
                ],
            )),
        ),
    ],
)));

document!(LOAD_BALANCER_IP_POOL, "LoadBalancerIPPool", spec & LOAD_BALANCER_IP_POOL_SPEC);
static LOAD_BALANCER_IP_POOL_SPEC: Object = object(
    "LoadBalancerIPPoolSpec",
    &[
        req("blocks", List(&Object(&LOAD_BALANCER_IP_POOL_BLOCK)))
            .is("a `cidr`, or `start` and `stop`")
            .under(&[rule("size(self) > 0", "a pool has at least one block")]),
        f("serviceSelector", Object(&LABEL_SELECTOR)).or("every Service").is("Kubernetes' label selector"),
        f("disabled", Bool).or("false").is("give out no more addresses"),
        f("allowFirstLastIPs", Text(OneOf(&["Yes", "No"]))).or("No").is("whether the ends of a `cidr` are given out"),
    ],
);
/// Its rules cost the API server next to nothing: it refuses more in a list without an upper bound.
static LOAD_BALANCER_IP_POOL_BLOCK: Object = Object {
    rules: &[
        rule(
            "!has(self.cidr) || !has(self.start) && !has(self.stop)",
            "a block is a cidr, or start and stop, not both",
        ),
        rule("has(self.cidr) || has(self.start) || has(self.stop)", "a block has a cidr, or a start"),
        rule("!has(self.stop) || has(self.start)", "start is required when stop is set"),
    ],
    ..object(
        "LoadBalancerIPPoolBlock",
        &[f("cidr", Text(Cidr)), f("start", Text(Ip)), f("stop", Text(Ip)).or("start").is("last address")],
    )
};

/// Kubernetes' LabelSelector (`k8s.io/apimachinery/pkg/apis/meta/v1`).
static LABEL_SELECTOR: Object =
    object("LabelSelector", &[f("matchLabels", Map), f("matchExpressions", List(&Object(&LABEL_REQUIREMENT)))]);
static LABEL_REQUIREMENT: Object = object(
    "LabelSelectorRequirement",
    &[req("key", TEXT), req("operator", Text(OneOf(&["In", "NotIn", "Exists", "DoesNotExist"]))), f("values", TEXTS)],
);

static CARRIED: Object = open("Object", &[]);
document!(NAMESPACE, "Namespace", spec & CARRIED);
document!(POD, "Pod", spec & CARRIED);

static SECRET: Object = object(
    "Secret",
    &[
        f("apiVersion", TEXT),
        f("kind", TEXT),
        req("metadata", Object(&METADATA)),
        f("type", TEXT),
        f("data", Map),
        f("stringData", Map),
        f("immutable", Bool),
    ],
);

document!(SERVICE, "Service", spec & SERVICE_SPEC);
static SERVICE_SPEC: Object = object(
    "ServiceSpec",
    &[
        f("type", Text(OneOf(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))),
        f("clusterIP", TEXT),
        f("clusterIPs", TEXTS),
        f("externalIPs", IPS),
        f("loadBalancerIP", Text(Ip)),
        f("selector", Map),
        f("ports", List(&Object(&SERVICE_PORT))),
        f("externalTrafficPolicy", Text(OneOf(&["Cluster", "Local"]))),
        f("internalTrafficPolicy", Text(OneOf(&["Cluster", "Local"]))),
        f("allocateLoadBalancerNodePorts", Bool),
        f("externalName", TEXT),
        f("healthCheckNodePort", PORT),
        f("ipFamilies", List(&Text(OneOf(&["IPv4", "IPv6"])))),
        f("ipFamilyPolicy", Text(OneOf(&["SingleStack", "PreferDualStack", "RequireDualStack"]))),
        f("loadBalancerClass", TEXT),
        f("loadBalancerSourceRanges", CIDRS),
        f("publishNotReadyAddresses", Bool),
        f("sessionAffinity", Text(OneOf(&["None", "ClientIP"]))),
        f("sessionAffinityConfig", Any),
        f("trafficDistribution", TEXT),
    ],
);
static SERVICE_PORT: Object = object(
    "ServicePort",
    &[
        f("name", TEXT),
        f("protocol", PROTOCOL),
        req("port", PORT),
        f("targetPort", Port),
        f("nodePort", PORT),
        f("appProtocol", TEXT),
    ],
);

static ENDPOINT_SLICE: Object = object(
    "EndpointSlice",
    &[
        f("apiVersion", TEXT),
        f("kind", TEXT),
        req("metadata", Object(&METADATA)),
        req("addressType", Text(OneOf(&["IPv4", "IPv6", "FQDN"]))),
        f("endpoints", List(&Object(&ENDPOINT))),
        f("ports", List(&Object(&ENDPOINT_PORT))),
    ],
);
static ENDPOINT: Object = object(
    "Endpoint",
    &[
        req("addresses", TEXTS),
        f("conditions", Object(&CONDITIONS)),
        f("nodeName", TEXT),
        f("zone", TEXT),
        f("hostname", TEXT),
        f("targetRef", Any),
        f("hints", Any),
        f("deprecatedTopology", Any),
    ],
);
static CONDITIONS: Object =
    object("EndpointConditions", &[f("ready", Bool), f("serving", Bool), f("terminating", Bool)]);
static ENDPOINT_PORT: Object =
    object("EndpointPort", &[f("name", TEXT), f("protocol", PROTOCOL), f("port", PORT), f("appProtocol", TEXT)]);
