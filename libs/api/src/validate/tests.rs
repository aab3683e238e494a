use ipnet::IpNet;
use serde_json::json;

use super::*;

/// A document with this spec.
fn doc(kind: Kind, name: &str, spec: Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": name}, "spec": spec})
}

fn messages(kind: Kind, name: &str, spec: Value) -> String {
    let lines: Vec<String> = document(kind, &doc(kind, name, spec)).errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn every_bad_spec_is_named_in_calicos_words() {
    let pool = |extra: Value| {
        let mut spec = json!({"cidr": "10.0.0.0/16"});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    let rows = [
        // Calico's own bad-input table (calicoctl system tests).
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "asNumber": 4294967296u64}),
            "cannot unmarshal number into Go struct field BGPPeerSpec.spec.asNumber of type string",
        ),
        (Kind::BgpPeer, json!({"peerIP": "192.168.0.256"}), "PeerIP = '192.168.0.256'"),
        (Kind::BgpPeer, json!({"peerIP": "fd5f::6::ee"}), "PeerIP = 'fd5f::6::ee'"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "node": "node 2"}), "Node = 'node 2'"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "unknown": 1}),
            "field in document is not recognized or is in the wrong location: unknown",
        ),
        (Kind::WorkloadEndpoint, json!({"interfaceName": "wibblywobblyeth0"}), "InterfaceName = 'wibblywobblyeth0'"),
        (Kind::IpPool, json!({"cidr": "10.0.1.0/33"}), "CIDR = '10.0.1.0/33'"),
        (Kind::IpPool, json!({"cidr": "10.0.256.0/24"}), "CIDR = '10.0.256.0/24'"),
        (Kind::IpPool, json!({"cidr": "fd5f::2::1/32"}), "CIDR = 'fd5f::2::1/32'"),
        (
            Kind::IpPool,
            json!({"cidr": "10.0.250.0/32"}),
            "field spec (IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.)",
        ),
        (
            Kind::IpPool,
            json!({"cidr": "192.168.0.0/27"}),
            "field spec (IP pool size is too small for use with Calico IPAM.",
        ),
        (Kind::IpPool, json!({"cidr": "::/128"}), "field spec (IP pool size is too small for use with Calico IPAM."),
        (Kind::IpPool, json!({"cidr": "fd5f::1/123"}), "IPPool.Spec.CIDR = 'fd5f::/123'"),
        (
            Kind::IpPool,
            pool(json!({"disabled": "True"})),
            "cannot unmarshal string into Go struct field IPPoolSpec.spec.disabled of type bool; write disabled: true",
        ),
        (
            Kind::IpPool,
            pool(json!({"disabled": "Maybe"})),
            "cannot unmarshal string into Go struct field IPPoolSpec.spec.disabled of type bool",
        ),
        // IPPool.
        (Kind::IpPool, json!({}), "error with field CIDR = ''"),
        (
            Kind::IpPool,
            json!({"cidr": "10.0.0.5/16"}),
            "IPPool CIDR must be strictly masked); 10.0.0.5/16 has host bits set: write 10.0.0.0/16",
        ),
        (
            Kind::IpPool,
            json!({"cidr": "169.254.8.0/24"}),
            "field spec (IPPool CIDR overlaps with IPv4 link local range 169.254.0.0/16)",
        ),
        (
            Kind::IpPool,
            pool(json!({"blockSize": 33})),
            "field spec (blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools)",
        ),
        (Kind::IpPool, pool(json!({"blockSize": 19})), "between 20 and 32 for IPv4 pools"),
        (Kind::IpPool, json!({"cidr": "fd00::/64", "blockSize": 115}), "between 116 and 128 for IPv6 pools"),
        (
            Kind::IpPool,
            json!({"cidr": "fe80:1::/64"}),
            "field spec (IPPool CIDR overlaps with IPv6 link local range fe80::/10)",
        ),
        (Kind::IpPool, json!({"cidr": "0.0.0.0/0"}), "overlaps with IPv4 link local range"),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["Workload", "Workload"]})),
            "AllowedUses = 'Workload' (Reason: failed to validate Field: AllowedUses because of Tag: unique )",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["Tunnel"], "namespaceSelector": "has(a)"})),
            "field spec (IP Pool with AllowedUse Tunnel cannot have namespaceSelector)",
        ),
        (
            Kind::IpPool,
            pool(json!({"namespaceSelector": "!global()"})),
            "field spec (global() selector is not valid for IPPool namespaceSelector)",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["LoadBalancer"], "namespaceSelector": "has(a)"})),
            "namespaceSelector cannot be used with LoadBalancer allowed use",
        ),
        (
            Kind::IpPool,
            pool(json!({"nodeSelector": "has(a) && ".repeat(103) + "has(a)"})),
            "a selector has at most 1024 characters",
        ),
        (
            Kind::IpPool,
            pool(json!({"blockSize": "26"})),
            "cannot unmarshal string into Go struct field IPPoolSpec.spec.blockSize of type int",
        ),
        (Kind::IpPool, pool(json!({"blocksize": 26})), "wrong location: blocksize; it is spelled blockSize"),
        (
            Kind::IpPool,
            pool(json!({"ipipMode": "Always", "vxlanMode": "Always"})),
            "ipipMode and vxlanMode cannot both be enabled",
        ),
        (Kind::IpPool, json!({"cidr": "fd00::/112", "ipipMode": "Always"}), "IPIP is not supported on IPv6 pools"),
        (Kind::IpPool, pool(json!({"ipipMode": "always"})), "did you mean Always?"),
        (Kind::IpPool, pool(json!({"nodeSelector": "rr = 'a'"})), "Tag: selector ); expected == at offset 4"),
        (
            Kind::IpPool,
            pool(json!({"nodeSelector": "global()"})),
            "field spec (global() selector is not valid for IPPool nodeSelector)",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["LoadBalancer", "Workload"]})),
            "LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["LoadBalancer"], "disableBGPExport": true})),
            "LoadBalancer IP pools cannot disable BGP export",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["LoadBalancer"], "nodeSelector": "has(a)"})),
            "field spec (IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all())",
        ),
        (
            Kind::IpPool,
            pool(json!({"allowedUses": ["LoadBalancer"], "vxlanMode": "Always"})),
            "LoadBalancer IP pool cannot have IPIP or VXLAN enabled",
        ),
        // BGPPeer.
        (Kind::BgpPeer, json!({}), "one of peerIP, peerSelector and localWorkloadSelector must be set"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "node": "a", "nodeSelector": "all()"}),
            "node and nodeSelector cannot both be set",
        ),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "peerSelector": "all()"}),
            "peerIP and peerSelector cannot both be set",
        ),
        (
            Kind::BgpPeer,
            json!({"peerSelector": "all()", "asNumber": 1}),
            "asNumber must be empty when peerSelector is set",
        ),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1:70000"}), "the port is 1 to 65535"),
        (Kind::BgpPeer, json!({"peerIP": "switch-1"}), "PeerIP = 'switch-1'"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "asNumber": "70000.1"}), "ASNumber = '70000.1'"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "nodeSelector": "rr-group == \u{2018}rr1\u{2019}"}),
            "typographic quotes",
        ),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "keepaliveTime": "3"}), "KeepaliveTime = '3'"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "holdTime": "2s"}),
            "error with field HoldTime = '2s' (must be 0s or from 3s to 18h12m15s, RFC 4271 section 4.2); use 9s for fast",
        ),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "reachableBy": "fd00::1"}),
            "ReachableBy = 'fd00::1' (ReachableBy and PeerIP address family mismatched)",
        ),
        (
            Kind::BgpPeer,
            json!({"peerSelector": "all()", "reachableBy": "1.1.1.1"}),
            "field spec (reachableBy must be empty when peerIP is empty)",
        ),
        (
            Kind::BgpPeer,
            json!({"localWorkloadSelector": "all()"}),
            "field spec (asNumber is required when localWorkloadSelector is set)",
        ),
        (
            Kind::BgpPeer,
            json!({"localWorkloadSelector": "all()", "asNumber": 0}),
            "field spec (asNumber is required when localWorkloadSelector is set)",
        ),
        (
            Kind::BgpPeer,
            json!({"localWorkloadSelector": "all()", "asNumber": 1, "peerIP": "1.1.1.1"}),
            "field spec (peerIP must be empty when localWorkloadSelector is set)",
        ),
        (
            Kind::BgpPeer,
            json!({"localWorkloadSelector": "all()", "asNumber": 1, "peerSelector": "all()"}),
            "field spec (peerSelector must be empty when localWorkloadSelector is set)",
        ),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "nextHopMode": "Keep", "keepOriginalNextHop": true}),
            "field spec (keepOriginalNextHop and nextHopMode cannot both be set; keepOriginalNextHop is deprecated, use nextHopMode instead)",
        ),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "filters": ["A b"]}), "Filters = 'A b'"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "ttlSecurity": 256}), "from 0 to 255"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "sourceAddress": "Node"}), "the values are UseNodeIP, None"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "reversePeering": "auto"}), "did you mean Auto?"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "password": {"secretKeyRef": {"name": "a"}}}),
            "spec.password.secretKeyRef.key must be given",
        ),
        (Kind::BgpPeer, json!({"peerIp": "1.1.1.1"}), "it is spelled peerIP"),
        // BGPConfiguration.
        (
            Kind::BgpConfiguration,
            json!({"nodeToNodeMeshEnabled": "false"}),
            "of type bool; write nodeToNodeMeshEnabled: false",
        ),
        (Kind::BgpConfiguration, json!({"listenPort": 0}), "from 1 to 65535"),
        (Kind::BgpConfiguration, json!({"communities": [{"name": "a", "value": "65536:1"}]}), "Value = '65536:1'"),
        (
            Kind::BgpConfiguration,
            json!({"communities": [{"name": "lab", "value": "1:1"}], "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["lbb"]}]}),
            "error with field Spec.PrefixAdvertisement[].Communities[] = 'lbb' (community used is invalid or not defined.)",
        ),
        (
            Kind::BgpConfiguration,
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "1s"}),
            "field spec (nodeMeshMaxRestartTime cannot be set when nodeToNodeMeshEnabled is false)",
        ),
        (
            Kind::BgpConfiguration,
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            "field spec (nodeMeshPassword cannot be set when nodeToNodeMeshEnabled is false)",
        ),
        (
            Kind::BgpConfiguration,
            json!({"communities": [{"name": "a", "value": "1:1"}]}),
            "field spec (communities are defined but not used in prefixAdvertisements)",
        ),
        (
            Kind::BgpConfiguration,
            json!({"localWorkloadPeeringIPV4": "fd00::1"}),
            "LocalWorkloadPeeringIPV4 = 'fd00::1'",
        ),
        (Kind::BgpConfiguration, json!({"ipv4NormalRoutePriority": 2147483647i64}), "from 1 to 2147483646"),
        (Kind::BgpConfiguration, json!({"logSeverityScreen": "Loud"}), "the values are Trace, Debug, Info"),
        (
            Kind::BgpConfiguration,
            json!({"serviceClusterIPs": ["10.96.0.0/16"]}),
            "cannot unmarshal string into Go struct field BGPConfigurationSpec.spec.serviceClusterIPs of type ServiceClusterIPBlock",
        ),
        // BGPFilter.
        (Kind::BgpFilter, json!({"exportV4": [{}]}), "spec.exportV4[0].action must be given"),
        (
            Kind::BgpFilter,
            json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]}),
            "field spec (cidr and matchOperator must both be set or both be empty)",
        ),
        (
            Kind::BgpFilter,
            json!({"exportV4": [{"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"}]}),
            "this list is for IPv4",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}]}),
            "field spec (operations may only be used with action Accept)",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "prefixLength": {"min": 4}}]}),
            "field spec (cidr is required when prefixLength is set)",
        ),
        (
            Kind::BgpFilter,
            json!({"exportV6": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}]}),
            "CIDR = '10.0.0.0/8' (Reason: failed to validate Field: CIDR because of Tag: netv6 )",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "communities": {"values": ["1:1", "1:2"]}}]}),
            "exactly one community can be matched",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "communities": {"values": ["x"]}}]}),
            "a community is aa:nn",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "interface": "wibblywobblyeth0"}]}),
            "at most 15 characters",
        ),
        (Kind::BgpFilter, json!({"importV4": [{"action": "Accept", "peerType": "ibgp"}]}), "did you mean iBGP?"),
        (Kind::BgpFilter, json!({"importV4": [{"action": "Accept", "source": "Peers"}]}), "the values are RemotePeers"),
        (Kind::BgpFilter, json!({"importV4": [{"action": "Accept", "priority": 0}]}), "from 1 to 2147483646"),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "operations": [{}]}]}),
            "exactly one of addCommunity, prependASPath and setPriority must be set",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "operations": vec![json!({"setPriority": {"value": 1}}); 11]}]}),
            "at most 10 operations",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "operations": [{"prependASPath": {"prefix": []}}]}]}),
            "has from 1 to 10 AS numbers",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "prefixLength": {"min": 40}}]}),
            "whole number from 0 to 32",
        ),
        // LoadBalancerIPPool.
        (Kind::LoadBalancerIpPool, json!({}), "spec.blocks must be given"),
        (Kind::LoadBalancerIpPool, json!({"blocks": []}), "Blocks = '' (a pool has at least one block)"),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"cidr": "10.0.0.0/24", "start": "10.0.0.1"}]}),
            "a block is a cidr, or start and stop, not both",
        ),
        (Kind::LoadBalancerIpPool, json!({"blocks": [{}]}), "a block has a cidr, or a start"),
        (Kind::LoadBalancerIpPool, json!({"blocks": [{"stop": "10.0.0.1"}]}), "start is required when stop is set"),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"start": "10.0.0.9", "stop": "10.0.0.1"}]}),
            "error with field Stop = '10.0.0.1' (stop is below start 10.0.0.9); swap them",
        ),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"start": "10.0.0.9", "stop": "fd00::1"}]}),
            "start 10.0.0.9 is of the other address family",
        ),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"cidr": "10.0.0.0/24"}, {"cidr": "10.1.0.0/24"}, {"start": "10.0.0.9"}]}),
            "error with field Blocks = '10.0.0.9' (overlaps with spec.blocks[0], 10.0.0.0-10.0.0.255)",
        ),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"start": "10.0.0.9"}], "serviceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"start": "10.0.0.9"}], "serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"start": "10.0.0.9"}], "allowFirstLastIPs": true}),
            "cannot unmarshal bool into Go struct field LoadBalancerIPPoolSpec.spec.allowFirstLastIPs of type string",
        ),
        // KubeControllersConfiguration, CalicoNodeStatus.
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"loadBalancer": {"assignIPs": "Requested"}}}),
            "the values are AllServices, RequestedServicesOnly",
        ),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"leakGracePeriod": "15"}}}),
            "LeakGracePeriod = '15'",
        ),
        (Kind::CalicoNodeStatus, json!({"classes": ["BGP"], "updatePeriodSeconds": 0}), "spec.node must be given"),
        (
            Kind::CalicoNodeStatus,
            json!({"node": "a", "classes": ["BGP", "BGP"], "updatePeriodSeconds": 0}),
            "Classes = 'BGP' (Reason: failed to validate Field: Classes because of Tag: unique )",
        ),
        (
            Kind::CalicoNodeStatus,
            json!({"node": "a", "classes": ["BGP"], "updatePeriodSeconds": 86401}),
            "from 0 to 86400",
        ),
        // IPAMConfiguration, Node.
        (
            Kind::IpamConfiguration,
            json!({"strictAffinity": false, "autoAllocateBlocks": false}),
            "Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time",
        ),
        (Kind::IpamConfiguration, json!({"maxBlocksPerHost": 1_000_001}), "from 0 to 1000000"),
        (Kind::IpamConfiguration, json!({"ipCooldownSeconds": 1201}), "from 0 to 1200"),
        (Kind::IpamConfiguration, json!({"kubeVirtVMAddressPersistence": "On"}), "the values are Enabled, Disabled"),
        (Kind::IpReservation, json!({"reservedCIDRs": ["10.0.0.0/8", "10.0.0.256"]}), "ReservedCIDRs = '10.0.0.256'"),
        (Kind::Node, json!({"bgp": {}}), "Spec.BGP should not be empty"),
        (
            Kind::Node,
            json!({"bgp": {"ipv6Address": "10.0.0.1"}}),
            "IPv6Address = '10.0.0.1' (Reason: failed to validate Field: IPv6Address because of Tag: cidrv6 )",
        ),
        (Kind::Node, json!({"vxlanTunnelMACAddr": "ee:ee"}), "because of Tag: mac "),
        (
            Kind::Node,
            json!({"addresses": [{"address": "1.1.1.1", "type": "Public"}]}),
            "the values are CalicoNodeIP, InternalIP, ExternalIP",
        ),
        (Kind::Node, json!({"wireguard": {"interfaceIPv4Address": "fd00::1"}}), "InterfaceIPv4Address = 'fd00::1'"),
        (Kind::Node, json!({"bgp": {"ipv4Address": "192.168.1.4/240"}}), "IPv4Address = '192.168.1.4/240'"),
        (Kind::Node, json!({"bgp": {"ipv4Address": "fd00::1/64"}}), "must be an IPv4 address"),
        (Kind::Node, json!({"bgp": {"routeReflectorClusterID": "7"}}), "RouteReflectorClusterID = '7'"),
        (Kind::WorkloadEndpoint, json!({"ipNetworks": ["10.0.0.0/24"]}), "IP network contains multiple addresses"),
        (Kind::WorkloadEndpoint, json!({"ipv4Gateway": "fd00::1"}), "IPv4Gateway = 'fd00::1'"),
        (Kind::WorkloadEndpoint, json!({"mac": "x"}), "MAC = 'x'"),
        (
            Kind::WorkloadEndpoint,
            json!({"ports": [{"port": 80, "protocol": "ICMP", "name": "a"}]}),
            "WorkloadEndpointPort.Protocol = 'ICMP' (WorkloadEndpointPort protocol does not support ports.)",
        ),
        (
            Kind::WorkloadEndpoint,
            json!({"ports": [{"port": 80, "protocol": "TCP"}]}),
            "WorkloadEndpointPort.Name = '' (WorkloadEndpointPort name must not be empty if no HostPort is specified)",
        ),
        (
            Kind::WorkloadEndpoint,
            json!({"ipNetworks": ["10.0.0.1/32"], "ipNATs": [{"internalIP": "10.0.0.2", "externalIP": "1.1.1.1"}]}),
            "IPNATs = '10.0.0.2' (NAT is not in the endpoint networks)",
        ),
        (
            Kind::WorkloadEndpoint,
            json!({"ipNetworks": ["10.0.0.1/32"], "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "fd00::1"}]}),
            "ExternalIP = 'fd00::1' (mismatched IP versions)",
        ),
        (
            Kind::WorkloadEndpoint,
            json!({"orchestrator": "k8s", "node": "node-1", "pod": "web", "endpoint": "eth0"}),
            "Name = 'default' (the WorkloadEndpoint name does not match the primary identifiers assigned in the Spec: expected name node--1-k8s-web-eth0)",
        ),
        (
            Kind::HostEndpoint,
            json!({"node": "a", "interfaceName": "wibblywobblyeth0"}),
            "InterfaceName = 'wibblywobblyeth0'",
        ),
        (Kind::HostEndpoint, json!({"interfaceName": "eth0"}), "field spec (node must be specified)"),
        (
            Kind::HostEndpoint,
            json!({"node": "a"}),
            "field spec (at least one of interfaceName or expectedIPs must be specified)",
        ),
        (Kind::HostEndpoint, json!({"node": "a", "expectedIPs": ["10.0.0.256"]}), "ExpectedIPs = '10.0.0.256'"),
        // FelixConfiguration.
        (Kind::FelixConfiguration, json!({"bpfEnabled": "yes"}), "FelixConfigurationSpec.spec.bpfEnabled of type bool"),
        (
            Kind::FelixConfiguration,
            json!({"bpfConnectTimeLoadBalancing": "Off"}),
            "the values are TCP, Enabled, Disabled",
        ),
        (Kind::FelixConfiguration, json!({"serviceLoopPrevention": "Dropp"}), "did you mean Drop?"),
        (Kind::FelixConfiguration, json!({"bpfMaglevMaxServices": 3001}), "from 1 to 3000"),
        (Kind::FelixConfiguration, json!({"routeRefreshInterval": "90"}), "RouteRefreshInterval = '90'"),
        (Kind::FelixConfiguration, json!({"bpfDSROptoutCIDRs": ["10.0.0.0/33"]}), "BpfDSROptoutCIDRs = '10.0.0.0/33'"),
        (
            Kind::FelixConfiguration,
            json!({"deviceRouteSourceAddress": "fd00::1"}),
            "DeviceRouteSourceAddress = 'fd00::1'",
        ),
        (Kind::FelixConfiguration, json!({"routeTableRanges": [{"min": 9, "max": 1}]}), "min value exceeds max value"),
        (
            Kind::FelixConfiguration,
            json!({"kubeNodePortRanges": [1, 2, 3, 4, 5, 6, 7, 8]}),
            "node port ranges list is too long (max 7)",
        ),
        (Kind::FelixConfiguration, json!({"externalNodesList": ["fd00::/8"]}), "has invalid IPv6 CIDR"),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"hostEndpoint": {"templates": [{}]}}}}),
            "Template name must be specified",
        ),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"hostEndpoint": {"templates": [{"generateName": "a", "interfaceCIDRs": ["10.0.0.0/8"]}, {"generateName": "a", "interfacePattern": "eth.*"}]}}}}),
            "error with field KubeControllersConfiguration.Node.HostEndpoint.Templates.a = 'a' (Template name must be unique)",
        ),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"hostEndpoint": {"templates": [{"generateName": "a"}]}}}}),
            "InterfaceCIDRs or InterfacePattern must be specified",
        ),
        // Service.
        (Kind::Service, json!({"ports": [{"port": 0}]}), "from 1 to 65535"),
        (Kind::Service, json!({"ports": [{"port": 70000}]}), "Port = '70000'"),
        (Kind::Service, json!({}), "a service has at least one port"),
        (Kind::Service, json!({"clusterIP": "10.96.0", "ports": [{"port": 1}]}), "ClusterIP = '10.96.0'"),
        (Kind::Service, json!({"ports": [{"port": 1}, {"port": 2}]}), "names each of them"),
        (Kind::Service, json!({"ports": [{"port": 1, "nodePort": 30000}]}), "may not be used when type is ClusterIP"),
        (Kind::Service, json!({"type": "Loadbalancer", "ports": [{"port": 1}]}), "did you mean LoadBalancer?"),
        (Kind::Service, json!({"selector": {"app": 1}, "ports": [{"port": 1}]}), "cannot unmarshal number"),
    ];
    for (kind, spec, want) in rows {
        let got = messages(kind, "default", spec.clone());
        assert!(got.contains(want), "{kind} {spec}\nwant {want}\ngot  {got}");
    }
}

#[test]
fn good_documents_pass() {
    let rows = [
        (
            Kind::IpPool,
            json!({"cidr": "1.1.1.0/24", "blockSize": 32, "nodeSelector": "!all()", "ipipMode": "Never", "natOutgoing": false, "vxlanMode": "Never"}),
        ),
        (Kind::IpPool, json!({"cidr": "172.31.0.0/24", "allowedUses": ["LoadBalancer"]})),
        (Kind::IpPool, json!({"cidr": "fd00::/64"})),
        (
            Kind::BgpConfiguration,
            json!({"asNumber": 1111111, "logSeverityScreen": "Info", "nodeToNodeMeshEnabled": false}),
        ),
        (
            Kind::BgpConfiguration,
            json!({"communities": [{"name": "c", "value": "1:2:3"}], "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["c", "65535:1"]}]}),
        ),
        (
            Kind::BgpPeer,
            json!({"asNumber": 1111111, "nodeSelector": "rr-group == 'rr1'", "peerIP": "192.168.1.1", "holdTime": "9s"}),
        ),
        (
            Kind::BgpPeer,
            json!({"peerIP": "[fd00::1]:1790", "asNumber": "1.10", "gracefulRestart": {"mode": "Enabled"}}),
        ),
        (
            Kind::BgpFilter,
            json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 8, "max": 32}}]}),
        ),
        (
            Kind::Node,
            json!({"bgp": {"ipv4Address": "192.168.1.4/24", "asNumber": 65000, "routeReflectorClusterID": "1.0.0.1"}}),
        ),
        (Kind::IpamConfiguration, json!({"strictAffinity": true, "autoAllocateBlocks": false})),
        (
            Kind::FelixConfiguration,
            json!({"interfacePrefix": "cali,tap", "bpfEnabled": true, "logSeverityScreen": "info", "kubeNodePortRanges": ["30000:32767"],
                "bpfPSNATPorts": "20000:29999", "routeTableRanges": [{"min": 1, "max": 250}], "bpfExternalServiceMode": "DSR", "later": {}}),
        ),
        (Kind::IpPool, json!({"cidr": "10.0.0.0/32", "disabled": true})),
        (
            Kind::HostEndpoint,
            json!({"node": "a", "interfaceName": "*", "expectedIPs": ["1.1.1.1"], "profiles": ["p"], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}),
        ),
        (Kind::IpPool, json!({"cidr": "10.0.0.0/24", "namespaceSelector": "has(a)"})),
        (
            Kind::WorkloadEndpoint,
            json!({"node": "a", "ipNetworks": ["10.0.0.1/32", "fd00::1"], "mac": "ee:ee:ee:ee:ee:ee", "profiles": ["kns.default", "ksa.default.default"],
                "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}],
                "ports": [{"name": "", "protocol": "tcp", "port": 80, "hostPort": 8080, "hostIP": ""}, {"name": "dns", "protocol": 17, "port": 53, "hostPort": 0, "hostIP": ""}]}),
        ),
        (
            Kind::Node,
            json!({"addresses": [{"address": "1.1.1.1/24", "type": "CalicoNodeIP"}], "interfaces": [{"name": "eth0", "addresses": ["1.1.1.1"]}], "vxlanTunnelMACAddr": "66:aa:bb:cc:dd:ee"}),
        ),
        (Kind::Service, json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}]})),
        (Kind::Service, json!({"clusterIP": "None"})),
        (
            Kind::LoadBalancerIpPool,
            json!({"blocks": [{"cidr": "10.0.0.0/24"}, {"start": "10.0.1.0", "stop": "10.0.1.9"}, {"start": "fd00::1"}], "allowFirstLastIPs": "Yes"}),
        ),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"leakGracePeriod": "15m", "hostEndpoint": {"autoCreate": "Disabled"}}, "loadBalancer": {}}, "prometheusMetricsPort": 0}),
        ),
        (
            Kind::CalicoNodeStatus,
            json!({"node": "a", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10}),
        ),
        (Kind::Namespace, json!({"finalizers": ["kubernetes"]})),
    ];
    for (kind, spec) in rows {
        assert_eq!(messages(kind, "default", spec.clone()), "", "{kind} {spec}");
    }
}

#[test]
fn secrets_are_checked_without_being_shown() {
    let secret = |field: &str, key: &str, value: &str| {
        let document = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "bgp"}, field: {key: value}});
        document_errors(&document)
    };
    assert_eq!(secret("data", "password", "aHVudGVyMg=="), "");
    assert_eq!(secret("stringData", "password", "hunter2"), "");
    let wrong = secret("data", "password", "hunter2!");
    assert!(
        wrong.contains("data.password is not base64; encode it, or put the text itself under stringData"),
        "{wrong}"
    );
    assert!(!wrong.contains("hunter2"), "{wrong}");
    assert!(secret("data", "pass word", "aGk=").contains("a key has letters"));
}

fn document_errors(document: &Value) -> String {
    super::document(Kind::Secret, document).errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Settings of ours: the message names the field, the value and what would be right.
#[test]
fn session_settings_are_checked() {
    let rows = [
        (
            json!({"holdTime": "soon"}),
            "HoldTime = 'soon' (Reason: failed to validate Field: HoldTime because of Tag: duration ); write a duration with its unit",
        ),
        (json!({"holdTime": "19h"}), "HoldTime = '19h' (must be 0s or from 3s to 18h12m15s"),
        (
            json!({"connectRetryTime": "50ms"}),
            "ConnectRetryTime = '50ms' (must be from 100ms to 18h12m15s); 5s is the default",
        ),
        (json!({"sendHoldTime": "1s"}), "SendHoldTime = '1s' (must be 0s or from 3s to 18h12m15s, RFC 9687)"),
        (json!({"holdTime": "9s", "sendHoldTime": "9s"}), "SendHoldTime = '9s' (must be longer than holdTime"),
        (json!({"holdTime": "9s", "keepaliveTime": "9s"}), "KeepaliveTime = '9s' (must be shorter than holdTime"),
        (json!({"delayOpenTime": "5m"}), "DelayOpenTime = '5m' (must be 0s or from 1ms to 4m)"),
        (json!({"longLivedGracefulRestart": {"staleTime": "200d"}}), "StaleTime = '200d'"),
        (
            json!({"longLivedGracefulRestart": {"staleTime": "5000h"}}),
            "(must be 0s or from 1s to 4660h20m15s, RFC 9494",
        ),
        (json!({"longLivedGracefulRestart": {}}), "spec.longLivedGracefulRestart.staleTime must be given"),
        (
            json!({"families": ["ipv4"]}),
            "Families = 'ipv4' (Reason: failed to validate Field: Families because of Tag: oneof ); the values are IPv4, IPv6; did you mean IPv4?",
        ),
        (json!({"families": "IPv4"}), "families is a list"),
        (json!({"addPath": "Recieve"}), "the values are None, Receive, Send, Both; did you mean Receive?"),
        (json!({"bfd": {"minRxInterval": "1ms"}}), "MinRxInterval = '1ms' (must be from 10ms to 1m)"),
        (json!({"bfd": {"multiplier": 0}}), "Multiplier = '0' (must be a whole number from 1 to 255)"),
        (json!({"bfd": true}), "bfd is a mapping with the fields mode, minRxInterval"),
        (json!({"maxPrefixes": {"action": "Warn"}}), "spec.maxPrefixes.limit must be given"),
        (
            json!({"maxPrefixes": {"limit": 5, "action": "Warn", "restartAfter": "5m"}}),
            "restartAfter is for action Restart",
        ),
        (json!({"maxPrefixes": {"limit": 5, "warnAt": 101}}), "WarnAt = '101' (must be a whole number from 1 to 100)"),
        (json!({"role": "Client"}), "the values are Provider, Customer, Peer, RouteServer, RouteServerClient"),
        (json!({"roleStrict": true}), "roleStrict needs a role"),
        (json!({"gracefulShutdown": "yes"}), "write gracefulShutdown: true, without quotes"),
        (json!({"shutdown": {"message": "x".repeat(256)}}), "has at most 255 bytes, RFC 9003 section 2); it has 256"),
    ];
    for (settings, expected) in rows {
        for (kind, name) in [(Kind::BgpPeer, json!({"peerIP": "1.1.1.1"})), (Kind::BgpConfiguration, json!({}))] {
            if kind == Kind::BgpConfiguration && settings.get("keepaliveTime").is_some() {
                continue;
            }
            let mut spec = name;
            spec.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            let got = messages(kind, "default", spec);
            assert!(got.contains(expected), "{kind} {settings}: {got}");
        }
    }
    let rows = [
        (json!({"peerRange": "10.0.0.0/8", "peerIP": "1.1.1.1"}), "peerIP must be empty when peerRange is set"),
        (json!({"peerRange": "10.0.0.0/40"}), "PeerRange = '10.0.0.0/40'"),
        (json!({"peerIP": "1.1.1.1", "peerRangeLimit": 5}), "peerRangeLimit needs a peerRange"),
        (json!({"peerInterface": "eth0", "peerIP": "fe80::1"}), "peerIP must be empty when peerInterface is set"),
        (json!({"peerInterface": "wibblywobblyeth0"}), "an interface name has at most 15 characters"),
    ];
    for (spec, expected) in rows {
        let got = messages(Kind::BgpPeer, "p", spec.clone());
        assert!(got.contains(expected), "{spec}: {got}");
    }
    let rows = [
        (json!({"bmpCollectors": [{"address": "leaf", "port": 1790}]}), "Address = 'leaf'"),
        (json!({"bmpCollectors": [{"address": "10.0.0.1"}]}), "spec.bmpCollectors[0].port must be given"),
        (json!({"flapThreshold": 1}), "FlapThreshold = '1'"),
    ];
    for (spec, expected) in rows {
        let got = messages(Kind::BgpConfiguration, "default", spec.clone());
        assert!(got.contains(expected), "{spec}: {got}");
    }
}

#[test]
fn names_are_checked_and_a_right_one_offered() {
    for (name, advice) in [("Test_0", "test-0 would do"), ("-a", "a would do"), ("a..b", ""), ("", "give it a name")] {
        let mut document = doc(Kind::IpPool, name, json!({"cidr": "10.0.0.0/16"}));
        document["metadata"]["name"] = name.into();
        let errors = super::document(Kind::IpPool, &document).errors;
        assert_eq!(errors.len(), 1, "{name}: {errors:?}");
        assert!(errors[0].message.contains("must consist of lower case alphanumeric characters, '-' or '.' (regex: "));
        assert!(errors[0].advice.contains(advice), "{name}: {errors:?}");
    }
}

#[test]
fn a_controllers_configuration_has_one_name() {
    let got = messages(Kind::KubeControllersConfiguration, "mine", json!({}));
    assert!(
        got.contains("Cannot create a Kube Controllers Configuration resource with a name other than \"default\""),
        "{got}"
    );
}

#[test]
fn fields_of_the_default_configuration_stay_there() {
    let got = messages(
        Kind::BgpConfiguration,
        "node.worker01",
        json!({"nodeToNodeMeshEnabled": false, "asNumber": 1, "logSeverityScreen": "Debug"}),
    );
    assert!(got.contains("Cannot set nodeToNodeMeshEnabled on a non default BGP Configuration."), "{got}");
    assert!(got.contains("Cannot set asNumber on a non default BGP Configuration."), "{got}");
    assert!(!got.contains("logSeverityScreen"), "{got}");
}

#[test]
fn encapsulation_is_accepted_with_a_warning() {
    let found = document(Kind::IpPool, &doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "ipipMode": "Always"})));
    assert_eq!(found.errors, []);
    assert!(found.warnings[0].message.contains("not active"), "{found:?}");
}

#[test]
fn a_pool_gets_calicos_defaults() {
    let mut some =
        doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "namespaceSelector": "has(a)", "blockSize": 0}));
    fill_defaults(Kind::IpPool, &mut some);
    assert_eq!(some["spec"]["allowedUses"], json!(["Workload"]));
    assert_eq!(some["spec"]["blockSize"], 26);
    let mut controllers =
        doc(Kind::KubeControllersConfiguration, "default", json!({"controllers": {"node": {}, "loadBalancer": {}}}));
    fill_defaults(Kind::KubeControllersConfiguration, &mut controllers);
    assert_eq!(
        controllers["spec"],
        json!({"controllers": {"node": {"leakGracePeriod": "15m0s"}, "loadBalancer": {"assignIPs": "AllServices"}}, "healthChecks": "Enabled", "prometheusMetricsPort": 9094})
    );
    let mut pool = doc(Kind::IpPool, "p", json!({"cidr": "fd00:0:0:0::/64", "nodeSelector": "", "allowedUses": []}));
    fill_defaults(Kind::IpPool, &mut pool);
    assert_eq!(
        pool["spec"],
        json!({"cidr": "fd00::/64", "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "blockSize": 122, "ipipMode": "Never", "vxlanMode": "Never", "assignmentMode": "Automatic"})
    );
}

#[test]
fn sets_are_checked() {
    let net = |s: &str| s.parse().unwrap();
    let pools = [
        ("a", "10.0.0.0/16"),
        ("b", "10.1.0.0/16"),
        ("c", "10.1.2.0/24"),
        ("d", "10.2.0.0/24"),
        ("e", "fd00::/64"),
        ("f", "fd00::/112"),
        ("g", "10.3.0.0/24"),
        ("h", "10.3.0.0/24"),
    ];
    let found = set::pool_overlaps(pools.map(|(name, cidr)| (name, net(cidr))));
    let found: Vec<String> =
        found.into_iter().map(|(n, (other, range))| set::pool_overlap(n, range, other, range).message).collect();
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found[0].contains("IPPool(b) CIDR overlaps with IPPool(c) CIDR 10.1.2.0/24"), "{found:?}");
    assert!(found[1].contains("IPPool(c) CIDR overlaps with IPPool(b) CIDR 10.1.0.0/16"), "{found:?}");

    let old = doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "blockSize": 26}));
    let new = doc(Kind::IpPool, "p", json!({"cidr": "10.2.0.0/16", "blockSize": 29}));
    let errors: Vec<_> = set::immutable(Kind::IpPool, &old, &new).into_iter().map(|e| e.to_string()).collect();
    assert!(
        errors[0].contains("IPPool CIDR cannot be modified") && errors[1].contains("BlockSize cannot be modified"),
        "{errors:?}"
    );
    assert_eq!(set::immutable(Kind::IpPool, &old, &old), []);
    let same = doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16"}));
    assert_eq!(set::immutable(Kind::IpPool, &same, &old), []);
    let six = |cidr: &str| doc(Kind::IpPool, "p", json!({"cidr": cidr, "blockSize": 122}));
    assert_eq!(set::immutable(Kind::IpPool, &six("fd00:0:0::/64"), &six("fd00::/64")), []);
    let services =
        doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "blockSize": 26, "allowedUses": ["LoadBalancer"]}));
    for (stored, wanted, rule) in [
        (&services, &old, "IPPool allowed use cannot be changed from LoadBalacer to Workload or Tunnel"),
        (&old, &services, "IPPool allowed use cannot be changed from Workload or Tunnel to LoadBalancer"),
    ] {
        let errors = set::immutable(Kind::IpPool, stored, wanted);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].message.contains(rule), "{errors:?}");
    }

    let blocks = || [net("10.9.0.0/29"), net("10.0.0.0/26"), net("10.0.1.0/28")];
    assert_eq!(set::block_sizes(net("10.8.0.0/16"), 26, blocks()), None);
    assert_eq!(set::block_sizes(net("10.0.0.0/24"), 26, blocks()), None);
    let error = set::block_sizes(net("10.0.0.0/16"), 26, blocks()).unwrap().to_string();
    assert!(error.contains("IPPool.Spec.BlockSize = '26' (IPPool blocksSize conflicts with existing allocations that use a different blockSize); block 10.0.1.0/28 is there"), "{error}");

    let mut ports = set::NodePorts::default();
    let spec = |protocol: &str| json!({"ports": [{"port": 1, "protocol": protocol, "nodePort": 30000}]});
    assert_eq!(ports.add("default/a", &spec("TCP")), []);
    assert_eq!(ports.add("default/a", &spec("TCP")), []);
    assert_eq!(ports.add("default/b", &spec("UDP")), []);
    assert!(ports.add("default/b", &spec("TCP"))[0].message.contains("already allocated to service default/a"));
}

#[test]
fn what_the_schema_does_not_know_is_kept() {
    let stored = doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "later": {"a": 1}, "natOutgoing": true}));
    let mut wanted = doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16"}));
    set::keep_unknown(Kind::IpPool, &stored, &mut wanted);
    assert_eq!(wanted["spec"], json!({"cidr": "10.0.0.0/16", "later": {"a": 1}}));

    let stored = doc(Kind::Node, "n", json!({"bgp": {"asNumber": 1, "later": 2}, "wireguard": {"later": 3}}));
    let mut wanted = doc(Kind::Node, "n", json!({"bgp": {"ipv4Address": "1.1.1.1/24"}}));
    set::keep_unknown(Kind::Node, &stored, &mut wanted);
    assert_eq!(wanted["spec"], json!({"bgp": {"ipv4Address": "1.1.1.1/24", "later": 2}}));
}

/// What types do not act on is in `extra`, and written back.
#[test]
fn no_type_loses_a_field() {
    fn again<B: crate::meta::Body>(document: &Value) -> Value {
        let typed: Resource<B> = serde_json::from_value(document.clone()).unwrap();
        serde_json::to_value(typed).unwrap()
    }
    use crate::meta::WithSpec;
    let with = |kind: Kind, spec: Value| {
        let mut document = doc(kind, "n", spec);
        document["metadata"]["ownerReferences"] = json!([{"uid": "x"}]);
        document["spec"]["later"] = json!({"b": [null, 18446744073709551615u64], "a": {}});
        document["status"] = json!({"any": 1});
        document
    };
    let pool = with(Kind::IpPool, json!({"cidr": "10.0.0.0/16", "ipipMode": "Never", "vxlanMode": "Never"}));
    let typed = again::<WithSpec<crate::IpPoolSpec>>(&pool);
    assert_eq!((&typed, typed["spec"].to_string()), (&pool, pool["spec"].to_string()));
    let node = with(Kind::Node, json!({"bgp": {"ipv4Address": "1.1.1.1/24", "later": 1}}));
    assert_eq!(again::<WithSpec<crate::NodeSpec>>(&node), node);
    let endpoint = with(
        Kind::WorkloadEndpoint,
        json!({"node": "n", "ipNetworks": ["10.0.0.1/32"], "interfaceName": "cali1",
            "ports": [{"name": "dns", "protocol": 17, "port": 53}, {"name": "web", "protocol": "TCP", "port": 80, "hostPort": 0, "hostIP": ""}],
            "qosControls": {"ingressBandwidth": 1}}),
    );
    assert_eq!(again::<WithSpec<crate::WorkloadEndpointSpec>>(&endpoint), endpoint);
    let peer = with(Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "asNumber": 1, "holdTime": "9s"}));
    assert_eq!(again::<WithSpec<crate::BgpPeerSpec>>(&peer), peer);
    let filter = with(Kind::BgpFilter, json!({"exportV4": [{"action": "Accept"}]}));
    assert_eq!(again::<WithSpec<crate::BgpFilterSpec>>(&filter), filter);
    let configuration = with(Kind::BgpConfiguration, json!({"asNumber": 1, "holdTime": "9s"}));
    assert_eq!(again::<WithSpec<crate::BgpConfigurationSpec>>(&configuration), configuration);
    let information = with(Kind::ClusterInformation, json!({"clusterGUID": "x", "variant": "Calico"}));
    assert_eq!(again::<WithSpec<crate::node::ClusterInformationSpec>>(&information), information);
}

/// Ten thousand documents, long lists and long texts are checked in time that grows with their size.
#[test]
fn long_documents_are_checked_in_one_pass() {
    let many = |n: usize| json!({"blocks": (0..n).map(|i| json!({"start": std::net::Ipv4Addr::from(i as u32 * 2).to_string()})).collect::<Vec<_>>()});
    assert_eq!(messages(Kind::LoadBalancerIpPool, "p", many(20_000)), "");
    let cidrs: Vec<String> = (0..20_000_u32).map(|i| format!("{}/24", std::net::Ipv4Addr::from(i << 8))).collect();
    assert_eq!(messages(Kind::IpReservation, "r", json!({"reservedCIDRs": cidrs})), "");
    let classes = json!({"node": "a", "classes": vec!["BGP"; 5_000], "updatePeriodSeconds": 1});
    assert_eq!(document(Kind::CalicoNodeStatus, &doc(Kind::CalicoNodeStatus, "s", classes)).errors.len(), 5_000);
}

proptest::proptest! {
    /// Against the comparison of every pair.
    #[test]
    fn every_overlap_of_pools_is_found(ranges in proptest::collection::vec((0..4_u32, 26..=32_u8), 0..12)) {
        let pools: Vec<(String, IpNet)> = ranges
            .iter()
            .enumerate()
            .map(|(i, (at, length))| (format!("p{i}"), ipnet::Ipv4Net::new((0x0a00_0000 + at * 8).into(), *length).unwrap().trunc().into()))
            .collect();
        let found = set::pool_overlaps(pools.iter().map(|(name, cidr)| (name.as_str(), *cidr)));
        for (name, cidr) in &pools {
            let overlaps = pools.iter().any(|(other, range)| other != name && set::overlap(cidr, range));
            proptest::prop_assert_eq!(found.contains_key(name.as_str()), overlaps, "{} of {:?}", name, &pools);
            if let Some((_, range)) = found.get(name.as_str()) {
                proptest::prop_assert!(set::overlap(cidr, range));
            }
        }
    }
}

/// Every rule that the API server checks is told in the same words by us, on a document that it refuses.
#[test]
fn every_rule_of_the_definitions_is_a_row_above() {
    let rows = include_str!("tests.rs");
    let mut seen = 0;
    for kind in Kind::ALL {
        let spec = schema::of(*kind).field("spec").and_then(|f| f.kind.object());
        let mut objects: Vec<&Object> = spec.into_iter().collect();
        while let Some(object) = objects.pop() {
            for rule in object.rules {
                seen += 1;
                assert!(rows.contains(rule.message), "{kind}: no row for: {}", rule.message);
            }
            objects.extend(object.fields.iter().filter_map(|f| f.kind.object()));
        }
    }
    assert!(seen > 30, "{seen}");
}
