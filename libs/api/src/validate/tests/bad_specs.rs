//! A row for each thing that can be wrong in a spec: what is told contains these words.

use super::*;

/// Specs that are refused, each with a part of the message.
fn bad_specs() -> Vec<(Kind, Value, &'static str)> {
    let pool = |extra: Value| {
        let mut spec = json!({"cidr": "10.0.0.0/16"});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    vec![
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
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 9, "max": 8}}]}),
            "PrefixLength = '{\"min\":9,\"max\":8}' (min is greater than max)",
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
        // Plus signs, and texts that are empty.
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "asNumber": "+64512"}), "ASNumber = '+64512'"),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "asNumber": "+1.+2"}), "ASNumber = '+1.+2'"),
        (Kind::BgpConfiguration, json!({"communities": [{"name": "a", "value": "+1:+2"}]}), "Value = '+1:+2'"),
        (Kind::BgpConfiguration, json!({"communities": [{"name": "a", "value": "+1:+2:+3"}]}), "Value = '+1:+2:+3'"),
        (
            Kind::IpReservation,
            json!({"reservedCIDRs": [""]}),
            "ReservedCIDRs = '' (Reason: failed to validate Field: ReservedCIDRs because of Tag: required )",
        ),
        (
            Kind::IpPool,
            json!({"cidr": ""}),
            "CIDR = '' (Reason: failed to validate Field: CIDR because of Tag: required )",
        ),
        (
            Kind::CalicoNodeStatus,
            json!({"node": "", "classes": ["BGP"], "updatePeriodSeconds": 1}),
            "Node = '' (Reason: failed to validate Field: Node because of Tag: required )",
        ),
        (
            Kind::CalicoNodeStatus,
            json!({"node": "a", "classes": [], "updatePeriodSeconds": 1}),
            "Classes = '' (Reason: failed to validate Field: Classes because of Tag: required )",
        ),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "password": {"secretKeyRef": {"name": "", "key": "k"}}}),
            "Name = ''",
        ),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "keepaliveTime": " 90s "}), "KeepaliveTime = ' 90s '"),
        (
            Kind::BgpPeer,
            json!({"peerIP": "1.1.1.1", "keepaliveTime": "100ms"}),
            "KeepaliveTime = '100ms' (must be from 1s to 18h12m15s)",
        ),
        // FelixConfiguration: forms.
        (
            Kind::FelixConfiguration,
            json!({"bpfConntrackTimeouts": {"tcpSynSent": "soon"}}),
            "TcpSynSent = 'soon' (should match '^(([0-9]*",
        ),
        (
            Kind::FelixConfiguration,
            json!({"bpfDataIfacePattern": "("}),
            "BpfDataIfacePattern = '(' (Reason: failed to validate Field: BpfDataIfacePattern because of Tag: regexp ); ( is not a regular expression: unclosed group",
        ),
        (Kind::FelixConfiguration, json!({"mtuIfacePattern": "["}), "MtuIfacePattern = '['"),
        (Kind::FelixConfiguration, json!({"interfaceExclude": "/(/"}), "InterfaceExclude = '/(/'"),
        (Kind::FelixConfiguration, json!({"interfaceExclude": "kube-ipvs0,,"}), "'' is no interface name"),
        (
            Kind::FelixConfiguration,
            json!({"interfacePrefix": "wibblywobblyeth0"}),
            "InterfacePrefix = 'wibblywobblyeth0'",
        ),
        (Kind::FelixConfiguration, json!({"interfacePrefix": "cali, tap"}), "such as cali,tap"),
        (Kind::FelixConfiguration, json!({"bpfPSNATPorts": "5:3"}), "5 is above 3: swap them"),
        (Kind::FelixConfiguration, json!({"natPortRange": "x"}), "NATPortRange = 'x'"),
        (Kind::FelixConfiguration, json!({"kubeNodePortRanges": ["abc"]}), "write two port numbers up to 65535"),
        (Kind::FelixConfiguration, json!({"kubeNodePortRanges": [65536]}), "must be a port number from 0 to 65535"),
        (Kind::FelixConfiguration, json!({"deviceRouteProtocol": 900}), "from 0 to 255"),
        (Kind::FelixConfiguration, json!({"logActionRateLimit": "1/week"}), "such as 100/minute"),
        (
            Kind::FelixConfiguration,
            json!({"failsafeInboundHostPorts": [{"protocol": "IPIP", "port": 1}]}),
            "Protocol = 'IPIP'",
        ),
        (
            Kind::HostEndpoint,
            json!({"node": "a", "interfaceName": "*", "ports": [{"name": "a", "protocol": "HTTP", "port": 1}]}),
            "use one of TCP, UDP, ICMP",
        ),
        (Kind::Service, json!({"ports": [{"port": 1, "targetPort": "80"}]}), "a number stands without quotes"),
        (Kind::Service, json!({"ports": [{"port": 1, "targetPort": "Web_1"}]}), "TargetPort = 'Web_1'"),
    ]
}

#[test]
fn every_bad_spec_is_named_in_calicos_words() {
    for (kind, spec, want) in bad_specs() {
        let got = messages(kind, "default", spec.clone());
        assert!(got.contains(want), "{kind} {spec}\nwant {want}\ngot  {got}");
    }
}

/// What is said of a spec as a whole is in the kind's definition, where kubectl meets it.
#[test]
fn every_rule_of_a_spec_is_in_its_definition() {
    /// Told otherwise: by a bound on items or fields, or not at all where a setting may be an annotation.
    const NO_RULES: [&str; 5] = [
        "exactly one of addCommunity, prependASPath and setPriority must be set",
        "at most 10 operations are allowed",
        "one of peerIP, peerSelector and localWorkloadSelector must be set",
        "peerRangeLimit needs a peerRange",
        "restartAfter is for action Restart",
    ];
    fn messages_of(object: &'static Object, all: &mut Vec<&'static str>) {
        all.extend(object.rules.iter().map(|r| r.message));
        object.fields.iter().filter_map(|f| f.kind.object()).for_each(|inner| messages_of(inner, all));
    }
    let mut seen = 0;
    for (kind, spec, _) in bad_specs() {
        let mut known = NO_RULES.to_vec();
        messages_of(schema::of(kind), &mut known);
        for error in document(kind, &doc(kind, "default", spec)).errors {
            let Some(rule) = error.message.strip_prefix("field spec (").and_then(|m| m.strip_suffix(')')) else {
                continue;
            };
            seen += 1;
            assert!(known.contains(&rule), "{kind}: no rule says: {rule}");
        }
    }
    assert!(seen > 30, "{seen}");
}

/// Every rule that the API server checks is told in the same words by us, on a document that it refuses.
#[test]
fn every_rule_of_the_definitions_is_a_row_above() {
    let rows = concat!(include_str!("../tests.rs"), include_str!("bad_specs.rs"));
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
