//! KubeControllersConfiguration (Calico `api/pkg/apis/projectcalico/v3/kubecontrollersconfig.go`). The controller acts on two of its
//! fields; the others are checked, stored, and told to whoever applies them.

use super::super::Format::*;
use super::super::Object;
use super::super::Type::*;
use super::{ENABLED, METADATA, PORT_OR_NONE, TEXT, f, object, req};

pub(super) const CONFIGURATION: &Object = &KUBE_CONTROLLERS_CONFIGURATION;

document!(KUBE_CONTROLLERS_CONFIGURATION, "KubeControllersConfiguration", spec & KUBE_CONTROLLERS_CONFIGURATION_SPEC);
static KUBE_CONTROLLERS_CONFIGURATION_SPEC: Object = object(
    "KubeControllersConfigurationSpec",
    &[
        f("logSeverityScreen", Text(OneOf(&["None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic"])))
            .or("Info")
            .is("RUST_LOG decides")
            .inert(),
        f("healthChecks", ENABLED).or("Enabled").inert(),
        f("etcdV3CompactionPeriod", Text(Duration))
            .or("10m")
            .is("etcd compacts by itself, with --auto-compaction-retention")
            .inert(),
        f("prometheusMetricsPort", PORT_OR_NONE).or("9094").is("tortie-controller has /metrics on its socket").inert(),
        f("controllers", Object(&CONTROLLERS)).is("one that is left out has its defaults"),
        f("debugProfilePort", PORT_OR_NONE).inert(),
    ],
);
static CONTROLLERS: Object = object(
    "ControllersConfig",
    &[
        f("node", Object(&NODE_CONTROLLER)),
        f("policy", Object(&PERIODIC_CONTROLLER)).inert(),
        f("workloadEndpoint", Object(&PERIODIC_CONTROLLER)).inert(),
        f("serviceAccount", Object(&PERIODIC_CONTROLLER)).inert(),
        f("namespace", Object(&PERIODIC_CONTROLLER)).inert(),
        f(
            "loadBalancer",
            Object(&object(
                "LoadBalancerControllerConfig",
                &[f("assignIPs", Text(OneOf(&["AllServices", "RequestedServicesOnly"])))],
            )),
        ),
        f("policyMigration", Object(&object("MigrationControllerConfig", &[f("enabled", ENABLED)]))).inert(),
    ],
);
static PERIODIC_CONTROLLER: Object = object("ControllerConfig", &[f("reconcilerPeriod", Text(Duration))]);
static NODE_CONTROLLER: Object = object(
    "NodeControllerConfig",
    &[
        f("reconcilerPeriod", Text(Duration)).or("5m").is("what changes is acted on at once").inert(),
        f("syncLabels", ENABLED)
            .or("Enabled")
            .is("with Kubernetes its labels are ours, else those of our Node count")
            .inert(),
        f("hostEndpoint", Object(&AUTO_HOST_ENDPOINT)).is("no HostEndpoint is made").inert(),
        f("leakGracePeriod", Text(Duration)).or("15m").is("how long an address without owner is left; 0: for ever"),
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
        f("interfaceCIDRs", Set(&Text(Cidr), 1000)),
        f("interfacePattern", TEXT),
        f("labels", Map),
        f("nodeSelector", Text(Selector)),
    ],
);
