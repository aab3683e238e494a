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
        (Kind::IpPool, json!({"cidr": "169.254.8.0/24"}), "Link Local range 169.254.0.0/16"),
        (Kind::IpPool, pool(json!({"blockSize": 33})), "IPPool.Spec.BlockSize = '33'"),
        (Kind::IpPool, pool(json!({"blockSize": 19})), "must be between 20 and 32"),
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
        (Kind::IpPool, pool(json!({"nodeSelector": "global()"})), "global() selector is not valid"),
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
            "must have nodeSelector set to all()",
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
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "reachableBy": "fd00::1"}), "same address family"),
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
            "community used is invalid or not defined",
        ),
        (
            Kind::BgpConfiguration,
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "1s"}),
            "cannot be set if spec.nodeToNodeMesh is disabled",
        ),
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
            "cidr and matchOperator must both be set",
        ),
        (
            Kind::BgpFilter,
            json!({"exportV4": [{"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"}]}),
            "this list is for IPv4",
        ),
        (
            Kind::BgpFilter,
            json!({"importV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}]}),
            "only be used with action Accept",
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
        (Kind::Node, json!({"bgp": {}}), "Spec.BGP should not be empty"),
        (Kind::Node, json!({"bgp": {"ipv4Address": "192.168.1.4/240"}}), "IPv4Address = '192.168.1.4/240'"),
        (Kind::Node, json!({"bgp": {"ipv4Address": "fd00::1/64"}}), "must be an IPv4 address"),
        (Kind::Node, json!({"bgp": {"routeReflectorClusterID": "7"}}), "RouteReflectorClusterID = '7'"),
        (Kind::WorkloadEndpoint, json!({"ipNetworks": ["10.0.0.0/24"]}), "IP network contains multiple addresses"),
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
        (Kind::FelixConfiguration, json!({"interfacePrefix": "cali,tap", "bpfEnabled": true})),
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
    let mut pool = doc(Kind::IpPool, "p", json!({"cidr": "fd00::/64", "nodeSelector": ""}));
    fill_defaults(Kind::IpPool, &mut pool);
    assert_eq!(
        pool["spec"],
        json!({"cidr": "fd00::/64", "nodeSelector": "all()", "blockSize": 122, "ipipMode": "Never", "vxlanMode": "Never", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic"})
    );
}

#[test]
fn sets_are_checked() {
    let net = |s: &str| s.parse().unwrap();
    let others = [("a", net("10.0.0.0/16")), ("b", net("10.1.0.0/16"))];
    let error = set::pool_overlap("c", net("10.1.2.0/24"), others).unwrap();
    assert!(error.message.contains("IPPool(c) CIDR overlaps with IPPool(b) CIDR 10.1.0.0/16"), "{error}");
    assert_eq!(set::pool_overlap("a", net("10.0.0.0/16"), others), None);

    let old = doc(Kind::IpPool, "p", json!({"cidr": "10.0.0.0/16", "blockSize": 26}));
    let new = doc(Kind::IpPool, "p", json!({"cidr": "10.2.0.0/16", "blockSize": 29}));
    let errors: Vec<_> = set::immutable(Kind::IpPool, &old, &new).into_iter().map(|e| e.to_string()).collect();
    assert!(
        errors[0].contains("IPPool CIDR cannot be modified") && errors[1].contains("BlockSize cannot be modified"),
        "{errors:?}"
    );
    assert_eq!(set::immutable(Kind::IpPool, &old, &old), []);

    let mut ports = set::NodePorts::default();
    let spec = |protocol: &str| json!({"ports": [{"port": 1, "protocol": protocol, "nodePort": 30000}]});
    assert_eq!(ports.add("default/a", &spec("TCP")), []);
    assert_eq!(ports.add("default/a", &spec("TCP")), []);
    assert_eq!(ports.add("default/b", &spec("UDP")), []);
    assert!(ports.add("default/b", &spec("TCP"))[0].message.contains("already allocated to service default/a"));
}
