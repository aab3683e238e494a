//! The tables. One line per field.

mod session;

use super::Format::*;
use super::Type::*;
use super::{Field, Object, Type};
use crate::kind::Kind;

/// An optional field.
const fn f(name: &'static str, kind: Type) -> Field {
    Field { name, kind, required: false }
}

/// A required field.
const fn req(name: &'static str, kind: Type) -> Field {
    Field { name, kind, required: true }
}

const fn object(go_type: &'static str, fields: &'static [Field]) -> Object {
    Object { go_type, fields, open: false }
}

const fn open(go_type: &'static str, fields: &'static [Field]) -> Object {
    Object { go_type, fields, open: true }
}

const TEXT: Type = Text(Free);
const TEXTS: Type = List(&Text(Free));
const CIDRS: Type = List(&Text(Cidr));
const IPS: Type = List(&Text(Ip));
const UINT8: Type = Int(0, u8::MAX as i64);
const PORT: Type = Int(1, 65535);
const PORT_OR_NONE: Type = Int(0, 65535);
const PROTOCOL: Type = Text(OneOf(&["TCP", "UDP", "SCTP"]));
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
        Kind::FelixConfiguration => &FELIX_CONFIGURATION,
        Kind::ClusterInformation => &CLUSTER_INFORMATION,
        Kind::KubeControllersConfiguration => &KUBE_CONTROLLERS_CONFIGURATION,
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
        f("creationTimestamp", Any),
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
        static $name: Object = object(
            $go,
            &[
                f("apiVersion", TEXT),
                f("kind", TEXT),
                req("metadata", Object(&METADATA)),
                f("spec", Object($spec)),
                f("status", Any),
            ],
        );
    };
}

document!(IP_POOL, "IPPool", spec & IP_POOL_SPEC);
static IP_POOL_SPEC: Object = object(
    "IPPoolSpec",
    &[
        req("cidr", Text(Cidr)),
        f("blockSize", Int(0, 128)),
        f("ipipMode", Text(OneOf(&["Never", "Always", "CrossSubnet"]))),
        f("vxlanMode", Text(OneOf(&["Never", "Always", "CrossSubnet"]))),
        f("natOutgoing", Bool),
        f("disabled", Bool),
        f("disableBGPExport", Bool),
        f("nodeSelector", Text(Selector)),
        f("namespaceSelector", Text(Selector)),
        f("allowedUses", List(&Text(OneOf(&["Workload", "Tunnel", "LoadBalancer"])))),
        f("assignmentMode", Text(OneOf(&["Automatic", "Manual"]))),
    ],
);

document!(IP_RESERVATION, "IPReservation", spec & IP_RESERVATION_SPEC);
static IP_RESERVATION_SPEC: Object = object("IPReservationSpec", &[f("reservedCIDRs", List(&Text(CidrOrIp)))]);

document!(IPAM_CONFIGURATION, "IPAMConfiguration", spec & IPAM_CONFIGURATION_SPEC);
static IPAM_CONFIGURATION_SPEC: Object = object(
    "IPAMConfigurationSpec",
    &[
        f("strictAffinity", Bool),
        f("autoAllocateBlocks", Bool),
        f("maxBlocksPerHost", Int(0, 2_147_483_647)),
        f("kubeVirtVMAddressPersistence", ENABLED),
        f("ipCooldownSeconds", Int(0, 1200)),
    ],
);

static SECRET_KEY_SELECTOR: Object =
    object("SecretKeySelector", &[req("name", TEXT), req("key", TEXT), f("optional", Bool)]);
static BGP_PASSWORD: Object = object("BGPPassword", &[f("secretKeyRef", Object(&SECRET_KEY_SELECTOR))]);

/// A spec that has the session settings beside its own fields.
macro_rules! with_session {
    ($name:ident, $go:literal, $own:expr $(,)?) => {
        static $name: Object = {
            static OWN: &[Field] = $own;
            static FIELDS: [Field; OWN.len() + session::FIELDS.len()] = session::after(OWN);
            object($go, &FIELDS)
        };
    };
}

document!(BGP_PEER, "BGPPeer", spec & BGP_PEER_SPEC);
with_session!(
    BGP_PEER_SPEC,
    "BGPPeerSpec",
    &[
        f("node", Text(Name)),
        f("nodeSelector", Text(Selector)),
        f("peerIP", Text(IpPort)),
        f("asNumber", As),
        f("peerSelector", Text(Selector)),
        f("localASNumber", As),
        f("password", Object(&BGP_PASSWORD)),
        f("sourceAddress", Text(OneOf(&["UseNodeIP", "None"]))),
        f("nextHopMode", Text(OneOf(&["Auto", "Self", "Keep"]))),
        f("keepOriginalNextHop", Bool),
        f("maxRestartTime", Text(Duration)),
        f("keepaliveTime", Text(Duration)),
        f("numAllowedLocalASNumbers", Int(0, 2_147_483_647)),
        f("ttlSecurity", UINT8),
        f("reachableBy", Text(Ip)),
        f("filters", TEXTS),
        f("localWorkloadSelector", Text(Selector)),
        f("reversePeering", Text(OneOf(&["Auto", "Manual"]))),
        f("peerInterface", Text(Interface)),
        f("peerRange", Text(Cidr)),
        f("peerRangeLimit", Int(1, 65_535)),
    ],
);

static CIDR_BLOCK: Object = object("ServiceClusterIPBlock", &[req("cidr", Text(Cidr))]);
static NAMED_COMMUNITY: Object = object("Community", &[req("name", TEXT), req("value", Text(Community))]);
static PREFIX_ADVERTISEMENT: Object =
    object("PrefixAdvertisement", &[req("cidr", Text(Cidr)), f("communities", TEXTS)]);

document!(BGP_CONFIGURATION, "BGPConfiguration", spec & BGP_CONFIGURATION_SPEC);
static BMP_COLLECTOR: Object = object("BMPCollector", &[req("address", Text(Ip)), req("port", PORT)]);
with_session!(
    BGP_CONFIGURATION_SPEC,
    "BGPConfigurationSpec",
    &[
        f("logSeverityScreen", Text(OneOf(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]))),
        f("nodeToNodeMeshEnabled", Bool),
        f("asNumber", As),
        f("serviceClusterIPs", List(&Object(&CIDR_BLOCK))),
        f("serviceExternalIPs", List(&Object(&CIDR_BLOCK))),
        f("serviceLoadBalancerIPs", List(&Object(&CIDR_BLOCK))),
        f("serviceLoadBalancerAggregation", ENABLED),
        f("communities", List(&Object(&NAMED_COMMUNITY))),
        f("prefixAdvertisements", List(&Object(&PREFIX_ADVERTISEMENT))),
        f("listenPort", PORT),
        f("bindMode", Text(OneOf(&["None", "NodeIP"]))),
        f("nodeMeshPassword", Object(&BGP_PASSWORD)),
        f("nodeMeshMaxRestartTime", Text(Duration)),
        f("ignoredInterfaces", TEXTS),
        f("localWorkloadPeeringIPV4", Text(Ip)),
        f("localWorkloadPeeringIPV6", Text(Ip)),
        f("programClusterRoutes", Text(OneOf(&["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"]))),
        f("ipv4NormalRoutePriority", ROUTE_PRIORITY),
        f("ipv6NormalRoutePriority", ROUTE_PRIORITY),
        f("bmpCollectors", List(&Object(&BMP_COLLECTOR))),
        f("flapThreshold", Int(2, 1_000_000)),
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
        static $name: Object = object(
            $go,
            &[
                f("cidr", Text(Cidr)),
                f("matchOperator", Text(OneOf(&["Equal", "NotEqual", "In", "NotIn"]))),
                f("prefixLength", Object(&object($len_go, &[f("min", Int(0, $max)), f("max", Int(0, $max))]))),
                f("source", Text(OneOf(&["RemotePeers"]))),
                f("interface", Text(Interface)),
                f("peerType", Text(OneOf(&["eBGP", "iBGP"]))),
                f("communities", Object(&COMMUNITY_MATCH)),
                f("asPathPrefix", List(&As)),
                f("priority", ROUTE_PRIORITY),
                req("action", Text(OneOf(&["Accept", "Reject"]))),
                f("operations", List(&Object(&FILTER_OPERATION))),
            ],
        );
    };
}
filter_rule!(BGP_FILTER_RULE_V4, "BGPFilterRuleV4", "BGPFilterPrefixLengthV4", 32);
filter_rule!(BGP_FILTER_RULE_V6, "BGPFilterRuleV6", "BGPFilterPrefixLengthV6", 128);
static COMMUNITY_MATCH: Object = object("BGPFilterCommunityMatch", &[req("values", List(&Text(Community)))]);
static FILTER_OPERATION: Object = object(
    "BGPFilterOperation",
    &[
        f("addCommunity", Object(&object("BGPFilterAddCommunity", &[req("value", Text(Community))]))),
        f("prependASPath", Object(&object("BGPFilterPrependASPath", &[req("prefix", List(&As))]))),
        f("setPriority", Object(&object("BGPFilterSetPriority", &[req("value", ROUTE_PRIORITY)]))),
    ],
);

document!(NODE, "Node", spec & NODE_SPEC);
static NODE_SPEC: Object = object(
    "NodeSpec",
    &[
        f("bgp", Object(&NODE_BGP_SPEC)),
        f("addresses", List(&Object(&NODE_ADDRESS))),
        f("orchRefs", List(&Object(&ORCH_REF))),
        f("interfaces", Any),
        f("ipv4VXLANTunnelAddr", TEXT),
        f("ipv6VXLANTunnelAddr", TEXT),
        f("vxlanTunnelMACAddr", TEXT),
        f("vxlanTunnelMACAddrV6", TEXT),
        f("wireguard", Any),
    ],
);
static NODE_BGP_SPEC: Object = object(
    "NodeBGPSpec",
    &[
        f("asNumber", As),
        f("ipv4Address", Text(CidrOrIp)),
        f("ipv6Address", Text(CidrOrIp)),
        f("ipv4IPIPTunnelAddr", Text(Ip)),
        f("routeReflectorClusterID", Text(Ipv4)),
    ],
);
static NODE_ADDRESS: Object = object(
    "NodeAddress",
    &[req("address", Text(CidrOrIp)), f("type", Text(OneOf(&["CalicoNodeIP", "InternalIP", "ExternalIP"])))],
);
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
        f("orchestrator", TEXT),
        f("workload", TEXT),
        f("node", Text(Name)),
        f("containerID", TEXT),
        f("pod", TEXT),
        f("endpoint", TEXT),
        f("serviceAccountName", TEXT),
        f("ipNetworks", List(&Text(CidrOrIp))),
        f("ipNATs", Any),
        f("ipv4Gateway", Text(Ip)),
        f("ipv6Gateway", Text(Ip)),
        f("profiles", TEXTS),
        f("interfaceName", Text(Interface)),
        f("mac", TEXT),
        f("ports", List(&Object(&WORKLOAD_PORT))),
        f("allowSpoofedSourcePrefixes", CIDRS),
        f("qosControls", Any),
    ],
);
static WORKLOAD_PORT: Object = object(
    "WorkloadEndpointPort",
    &[f("name", TEXT), f("protocol", Any), req("port", PORT), f("hostPort", PORT), f("hostIP", Text(Ip))],
);

document!(FELIX_CONFIGURATION, "FelixConfiguration", spec & FELIX_CONFIGURATION_SPEC);
static FELIX_CONFIGURATION_SPEC: Object = open(
    "FelixConfigurationSpec",
    &[f("interfacePrefix", TEXT), f("routeRefreshInterval", Text(Duration)), f("bpfDataIfacePattern", TEXT)],
);

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

document!(KUBE_CONTROLLERS_CONFIGURATION, "KubeControllersConfiguration", spec & KUBE_CONTROLLERS_CONFIGURATION_SPEC);
static KUBE_CONTROLLERS_CONFIGURATION_SPEC: Object = object(
    "KubeControllersConfigurationSpec",
    &[
        f("logSeverityScreen", Text(OneOf(&["None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic"]))),
        f("healthChecks", ENABLED),
        f("etcdV3CompactionPeriod", Text(Duration)),
        f("prometheusMetricsPort", PORT_OR_NONE),
        f("controllers", Object(&CONTROLLERS)),
        f("debugProfilePort", PORT_OR_NONE),
    ],
);
static CONTROLLERS: Object = object(
    "ControllersConfig",
    &[
        f("node", Object(&NODE_CONTROLLER)),
        f("policy", Object(&PERIODIC_CONTROLLER)),
        f("workloadEndpoint", Object(&PERIODIC_CONTROLLER)),
        f("serviceAccount", Object(&PERIODIC_CONTROLLER)),
        f("namespace", Object(&PERIODIC_CONTROLLER)),
        f(
            "loadBalancer",
            Object(&object(
                "LoadBalancerControllerConfig",
                &[f("assignIPs", Text(OneOf(&["AllServices", "RequestedServicesOnly"])))],
            )),
        ),
        f("policyMigration", Object(&object("MigrationControllerConfig", &[f("enabled", ENABLED)]))),
    ],
);
static PERIODIC_CONTROLLER: Object = object("ControllerConfig", &[f("reconcilerPeriod", Text(Duration))]);
static NODE_CONTROLLER: Object = object(
    "NodeControllerConfig",
    &[
        f("reconcilerPeriod", Text(Duration)),
        f("syncLabels", ENABLED),
        f("hostEndpoint", Object(&AUTO_HOST_ENDPOINT)),
        f("leakGracePeriod", Text(Duration)),
    ],
);
static AUTO_HOST_ENDPOINT: Object = object(
    "AutoHostEndpointConfig",
    &[f("autoCreate", ENABLED), f("createDefaultHostEndpoint", ENABLED), f("templates", List(&Object(&TEMPLATE)))],
);
static TEMPLATE: Object = object(
    "Template",
    &[
        f("generateName", Text(Name)),
        f("interfaceCIDRs", CIDRS),
        f("interfacePattern", TEXT),
        f("labels", Map),
        f("nodeSelector", Text(Selector)),
    ],
);

document!(CALICO_NODE_STATUS, "CalicoNodeStatus", spec & CALICO_NODE_STATUS_SPEC);
static CALICO_NODE_STATUS_SPEC: Object = object(
    "CalicoNodeStatusSpec",
    &[
        req("node", Text(Name)),
        req("classes", List(&Text(OneOf(&["Agent", "BGP", "Routes"])))),
        req("updatePeriodSeconds", Int(0, 86_400)),
    ],
);

document!(LOAD_BALANCER_IP_POOL, "LoadBalancerIPPool", spec & LOAD_BALANCER_IP_POOL_SPEC);
static LOAD_BALANCER_IP_POOL_SPEC: Object = object(
    "LoadBalancerIPPoolSpec",
    &[
        req("blocks", List(&Object(&LOAD_BALANCER_IP_POOL_BLOCK))),
        f("serviceSelector", Object(&LABEL_SELECTOR)),
        f("disabled", Bool),
        f("allowFirstLastIPs", Text(OneOf(&["Yes", "No"]))),
    ],
);
static LOAD_BALANCER_IP_POOL_BLOCK: Object =
    object("LoadBalancerIPPoolBlock", &[f("cidr", Text(Cidr)), f("start", Text(Ip)), f("stop", Text(Ip))]);

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
