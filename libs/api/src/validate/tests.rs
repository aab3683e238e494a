use ipnet::IpNet;
use serde_json::json;

use super::*;

mod bad_specs;
mod tables;

/// A document with this spec.
fn doc(kind: Kind, name: &str, spec: Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": name}, "spec": spec})
}

fn messages(kind: Kind, name: &str, spec: Value) -> String {
    let lines: Vec<String> = document(kind, &doc(kind, name, spec)).errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn a_status_is_checked() {
    let status = |status: Value| {
        let spec = json!({"node": "a", "classes": ["BGP"], "updatePeriodSeconds": 1});
        let mut document = doc(Kind::CalicoNodeStatus, "a", spec);
        document["status"] = status;
        super::document(Kind::CalicoNodeStatus, &document).errors.iter().map(ToString::to_string).collect::<String>()
    };
    let whole = json!({"lastUpdated": null, "agent": {"birdV4": {"state": "Ready"}},
        "bgp": {"numberEstablishedV4": 1, "peersV4": [{"peerIP": "10.0.0.1", "type": "NodeMesh", "state": "Established", "since": "10:00:00"}]},
        "routes": {"routesV4": [{"type": "FIB", "destination": "10.0.0.0/26", "learnedFrom": {"sourceType": "BGPPeer", "peerIP": "10.0.0.1"}}]}});
    assert_eq!(status(whole), "");
    let got = status(json!({"bgp": {"peersV4": [{"type": "Nonsense"}]}}));
    assert!(
        got.contains("Type = 'Nonsense'") && got.contains("the values are NodeMesh, NodePeer, GlobalPeer"),
        "{got}"
    );
    assert!(status(json!({"bgp": {"established": 1}})).contains("wrong location: established"));
}

/// What Calico writes where Go has no value: the field is absent.
#[test]
fn an_empty_string_is_an_absent_field() {
    let pool: crate::IpPool = serde_json::from_value(doc(
        Kind::IpPool,
        "p",
        json!({"cidr": "10.0.0.0/16", "ipipMode": "", "vxlanMode": "", "assignmentMode": "", "blockSize": 0, "nodeSelector": ""}),
    ))
    .unwrap();
    let spec = pool.body.spec;
    assert_eq!((spec.ipip_mode, spec.assignment_mode, spec.node_selector), (Default::default(), None, None));
    assert_eq!(crate::IpPoolSpec { block_size: Some(0), ..crate::IpPoolSpec::new(spec.cidr) }.block_prefix_len(), 26);
    for (kind, spec) in [
        (Kind::IpPool, json!({"cidr": "10.0.0.0/16", "ipipMode": "", "assignmentMode": ""})),
        (Kind::BgpPeer, json!({"peerIP": "1.1.1.1", "nextHopMode": "", "sourceAddress": ""})),
        (
            Kind::BgpFilter,
            json!({"exportV4": [{"action": "Accept", "cidr": "", "matchOperator": "", "source": "", "peerType": ""}]}),
        ),
        (Kind::Node, json!({"bgp": {"ipv4Address": "", "ipv6Address": "fd00::1/64"}})),
        (Kind::KubeControllersConfiguration, json!({"controllers": {"loadBalancer": {"assignIPs": ""}}})),
    ] {
        assert_eq!(messages(kind, "default", spec.clone()), "", "{kind} {spec}");
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
                "bpfPSNATPorts": "20000:29999", "routeTableRanges": [{"min": 1, "max": 250}], "bpfExternalServiceMode": "DSR"}),
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

/// One line for a document, however many of its fields nothing acts on.
#[test]
fn settings_that_nothing_here_acts_on_are_told_once() {
    let rows = [
        (
            Kind::KubeControllersConfiguration,
            json!({"etcdV3CompactionPeriod": "10m", "prometheusMetricsPort": 9094, "healthChecks": "", "controllers": {
                "node": {"reconcilerPeriod": "5m", "syncLabels": "Enabled", "leakGracePeriod": "1m", "hostEndpoint": {"autoCreate": "Enabled"}},
                "policy": {"reconcilerPeriod": "5m"}, "namespace": {}, "loadBalancer": {"assignIPs": "AllServices"}}}),
            "spec.etcdV3CompactionPeriod, spec.prometheusMetricsPort, spec.controllers.node.reconcilerPeriod, \
             spec.controllers.node.syncLabels, spec.controllers.node.hostEndpoint, spec.controllers.policy",
        ),
        (
            Kind::KubeControllersConfiguration,
            json!({"controllers": {"node": {"leakGracePeriod": "1m"}, "loadBalancer": {"assignIPs": "AllServices"}}}),
            "",
        ),
        (
            Kind::IpamConfiguration,
            json!({"strictAffinity": true, "kubeVirtVMAddressPersistence": "Disabled"}),
            "spec.kubeVirtVMAddressPersistence",
        ),
        (
            Kind::IpamConfiguration,
            json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 4, "ipCooldownSeconds": 9}),
            "",
        ),
        (
            Kind::FelixConfiguration,
            json!({"interfacePrefix": "cali", "bpfEnabled": false, "routeRefreshInterval": "90s", "bpfDataIfacePattern": "^eth"}),
            "spec.bpfEnabled",
        ),
    ];
    for (kind, spec, wanted) in rows {
        let found = document(kind, &doc(kind, "default", spec.clone()));
        let texts: Vec<String> = found.warnings.iter().map(ToString::to_string).collect();
        match wanted {
            "" => assert!(texts.is_empty(), "{spec}: {texts:?}"),
            paths => {
                assert_eq!(texts, [format!("stored, not active: {paths}; no program here acts on that")], "{spec}")
            }
        }
        assert_eq!(found.errors, []);
    }
}

/// The fields of Calico's that operators meet: those of its reference, and of earlier versions.
#[test]
fn a_felix_configuration_takes_calicos_fields_and_no_others() {
    let names = "interfacePrefix interfaceExclude routeRefreshInterval interfaceRefreshInterval deviceRouteProtocol deviceRouteSourceAddress \
                 deviceRouteSourceAddressIPv6 removeExternalRoutes routeTableRanges ipForwarding routeSource programClusterRoutes \
                 ipv4NormalRoutePriority ipv6NormalRoutePriority ipv4ElevatedRoutePriority ipv6ElevatedRoutePriority \
                 liveMigrationRouteConvergenceTime serviceLoopPrevention localSubnetL2Reachability externalNodesList netlinkTimeout \
                 healthPort prometheusMetricsPort bpfEnabled bpfExternalServiceMode bpfDSROptoutCIDRs bpfConnectTimeLoadBalancing \
                 bpfHostNetworkedNATWithoutCTLB bpfKubeProxyMinSyncPeriod bpfKubeProxyHealthzPort bpfKubeProxyIptablesCleanupEnabled \
                 bpfPSNATPorts bpfMapSizeNATFrontend bpfMapSizeNATBackend bpfMapSizeNATAffinity bpfMapSizeRoute bpfMapSizeConntrack \
                 bpfMapSizeIPSets bpfMapSizeIfState bpfMapSizeConntrackScaling bpfMapSizeConntrackCleanupQueue bpfConntrackMode \
                 bpfConntrackCleanupMode bpfConntrackTimeouts bpfMaglevMaxEndpointsPerService bpfMaglevMaxServices \
                 bpfExcludeCIDRsFromNAT bpfEnforceRPF bpfAttachType bpfDataIfacePattern bpfRedirectToPeer bpfHostConntrackBypass \
                 bpfIPFragmentReassembly bpfIPFragmentReassemblyEnabled bpfJITHardening bpfLogLevel iptablesLockFilePath \
                 iptablesLockTimeout bpfKubeProxyEndpointSlicesEnabled";
    let spec = crate::schema::of(Kind::FelixConfiguration).field("spec").and_then(|f| f.kind.object()).unwrap();
    let missing: Vec<&str> = names.split_whitespace().filter(|name| spec.field(name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (written, advice) in [
        ("interfacePrefx", "did you mean interfacePrefix?"),
        ("InterfacePrefix", "it is spelled interfacePrefix"),
        ("bpfMapSizeNATFrontent", "did you mean bpfMapSizeNATFrontend?"),
        ("zzz", "the nearest fields are "),
    ] {
        let got = messages(Kind::FelixConfiguration, "default", json!({ written: 1 }));
        let message = format!("field in document is not recognized or is in the wrong location: {written}; {advice}");
        assert!(got.contains(&message) && got.len() < message.len() + 120, "{got}");
    }
    let active = spec.fields.iter().filter(|f| !f.is_inert).map(|f| f.name).collect::<Vec<_>>();
    assert_eq!(active, ["routeRefreshInterval", "interfacePrefix", "bpfDataIfacePattern"]);
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
    let mut none = doc(Kind::KubeControllersConfiguration, "default", json!({}));
    fill_defaults(Kind::KubeControllersConfiguration, &mut none);
    assert_eq!(none["spec"], json!({"healthChecks": "Enabled", "prometheusMetricsPort": 9094}));
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
