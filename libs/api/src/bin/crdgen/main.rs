//! crdgen: what is written from the schema tables: the CustomResourceDefinitions of `crds/`, and the reference of resources.
//!
//! `cargo run -p api --bin crdgen -- crds` writes the definitions, `-- --markdown docs/guide/resources.md` the reference; without
//! arguments the definitions are printed. Names and group are Calico's (`crd.projectcalico.org/v1`), those of our own kinds
//! `tortie.io/v1`. The schemas are structural; what a schema cannot say, such as the form of a selector, is left to
//! [`api::validate`]. Nodes and workload endpoints have none: on Kubernetes, Calico derives them from Nodes and Pods.

mod markdown;

use std::path::Path;
use std::process::ExitCode;

use api::Kind;
use api::kind::{CALICO_CRD_V1, CALICO_V3, TORTIE_V1};
use api::schema::{self, Field, Format, Object, Rule, SERVER_DEFAULTS, Type};
use serde_json::{Map, Value, json};

/// The words that YAML 1.1 readers take for something else than a string.
const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// An IPv4 address.
const IPV4_PATTERN: &str =
    r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
/// Groups and colons; that they are an IPv6 address is left to [`api::validate`].
const IPV6_PATTERN: &str = "[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){1,7}";

/// A column that kubectl prints: heading, type, path.
type Column = (&'static str, &'static str, &'static str);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            files().iter().for_each(|(_, text)| print!("{text}"));
            return ExitCode::SUCCESS;
        }
        ["--markdown", path] => vec![(path.into(), markdown::reference())],
        [directory] => files().into_iter().map(|(name, text)| (Path::new(directory).join(name), text)).collect(),
        _ => {
            eprintln!("usage: crdgen [DIRECTORY | --markdown FILE]");
            return ExitCode::FAILURE;
        }
    };
    for (path, text) in files {
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("crdgen: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// One definition.
struct Definition {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
    object: &'static Object,
    /// Short names that kubectl takes.
    short: &'static [&'static str],
}

/// Every definition; those of IPAM's records are not kinds of documents.
fn definitions() -> Vec<Definition> {
    let own = Kind::ALL.iter().filter_map(|kind| {
        // The user's IPAMConfiguration is stored as the record IPAMConfig.
        if matches!(kind, Kind::Node | Kind::WorkloadEndpoint | Kind::IpamConfiguration) {
            return None;
        }
        let short: &[&str] = match kind {
            Kind::BgpConfiguration => &["bgpconfig", "bgpconfigs"],
            Kind::FelixConfiguration => &["felixconfig", "felixconfigs"],
            Kind::HostEndpoint => &["hep", "heps"],
            Kind::KubeControllersConfiguration => &["kcc", "kccs"],
            Kind::LoadBalancerIpPool => &["lbippool", "lbippools"],
            _ => &[],
        };
        Some(Definition {
            group: group(*kind)?,
            kind: kind.as_str(),
            plural: kind.plural(),
            is_namespaced: kind.is_namespaced(),
            object: schema::of(*kind),
            short,
        })
    });
    let records = schema::records().into_iter().map(|(kind, plural, object)| {
        let group = CALICO_CRD_V1.trim_end_matches("/v1");
        Definition { group, kind, plural, is_namespaced: false, object, short: &[] }
    });
    own.chain(records).collect()
}

/// The API group of a kind's definition; none where Kubernetes defines it.
fn group(kind: Kind) -> Option<&'static str> {
    let version = match kind.api_version() {
        CALICO_V3 => CALICO_CRD_V1,
        TORTIE_V1 => TORTIE_V1,
        _ => return None,
    };
    version.strip_suffix("/v1")
}

/// Name and text of every file.
fn files() -> Vec<(String, String)> {
    definitions().iter().map(file).collect()
}

fn file(d: &Definition) -> (String, String) {
    let Definition { group, kind, plural, .. } = d;
    let mut names = json!({
        "kind": kind,
        "listKind": format!("{kind}List"),
        "plural": plural,
        "singular": kind.to_ascii_lowercase(),
    });
    if !d.short.is_empty() {
        names["shortNames"] = d.short.into();
    }
    let mut version = json!({
        "name": "v1",
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": document(d.object)},
    });
    let columns: Vec<Value> =
        columns(kind).iter().map(|(name, kind, path)| json!({"name": name, "type": kind, "jsonPath": path})).collect();
    if !columns.is_empty() {
        version["additionalPrinterColumns"] = columns.into();
    }
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "names": names,
            "scope": if d.is_namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    });
    let mut text = String::from("# Written by crdgen from libs/api/src/schema/tables: change it there.\n---\n");
    write_map(&mut text, definition.as_object().expect("it is written as an object above"), 0);
    (format!("{group}_{plural}.yaml"), text)
}

fn columns(kind: &str) -> &'static [Column] {
    const AGE: Column = ("Age", "date", ".metadata.creationTimestamp");
    match kind {
        "IPPool" => &[
            ("CIDR", "string", ".spec.cidr"),
            ("VXLAN", "string", ".spec.vxlanMode"),
            ("IPIP", "string", ".spec.ipipMode"),
            ("NAT", "boolean", ".spec.natOutgoing"),
            AGE,
        ],
        "BGPPeer" => &[
            ("Node Selector", "string", ".spec.nodeSelector"),
            ("Node", "string", ".spec.node"),
            ("Local ASN", "string", ".spec.localASNumber"),
            ("Peer Selector", "string", ".spec.peerSelector"),
            ("Peer IP", "string", ".spec.peerIP"),
            ("Peer ASN", "string", ".spec.asNumber"),
        ],
        "LoadBalancerIPPool" => &[
            ("Disabled", "boolean", ".spec.disabled"),
            ("Conflicting", "string", ".status.conditions[?(@.type=='tortie.io/PoolConflict')].status"),
            ("IPs Available", "string", ".status.conditions[?(@.type=='tortie.io/IPsAvailable')].message"),
            AGE,
        ],
        "HostEndpoint" => &[("Node", "string", ".spec.node"), ("Interface", "string", ".spec.interfaceName")],
        "CalicoNodeStatus" => &[("Node", "string", ".spec.node"), ("Last Updated", "date", ".status.lastUpdated")],
        "IPAMBlock" => &[("CIDR", "string", ".spec.cidr"), ("Affinity", "string", ".spec.affinity"), AGE],
        "BlockAffinity" => {
            &[("CIDR", "string", ".spec.cidr"), ("Node", "string", ".spec.node"), ("State", "string", ".spec.state")]
        }
        "IPAMHandle" => &[("Handle ID", "string", ".spec.handleID"), AGE],
        _ => &[],
    }
}

/// The schema of a whole document; the API server itself checks its metadata.
fn document(object: &Object) -> Value {
    let property = |field: &Field| {
        let schema = if field.name == "metadata" { json!({"type": "object"}) } else { of_field(object, field) };
        (field.name.to_string(), schema)
    };
    json!({"type": "object", "properties": object.fields.iter().map(property).collect::<Map<_, _>>()})
}

fn of_object(object: &Object) -> Value {
    let mut schema = Map::from_iter([("type".to_string(), json!("object"))]);
    let property = |f: &Field| (f.name.to_string(), of_field(object, f));
    let properties: Map<String, Value> = object.fields.iter().map(property).collect();
    if !properties.is_empty() {
        schema.insert("properties".into(), properties.into());
    }
    let required: Vec<&str> = object.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if object.open {
        schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    if object.is_choice {
        schema.insert("minProperties".into(), 1.into());
        schema.insert("maxProperties".into(), 1.into());
    }
    add_rules(&mut schema, object.rules);
    schema.into()
}

/// The schema of a field. An empty string stands for an absent one wherever a field may be absent, as it does in Go.
fn of_field(object: &Object, field: &Field) -> Value {
    let mut schema = of_type(field.kind);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut).filter(|_| !field.required) {
        words.push("".into());
    }
    if let Type::Text(Format::Ip | Format::Ipv4 | Format::Ipv6) = field.kind
        && !field.required
    {
        let pattern = schema["pattern"].as_str().unwrap_or_default().replacen('(', "(|", 1);
        schema["pattern"] = pattern.into();
    }
    if let Some(schema) = schema.as_object_mut() {
        let is_this = |(of, name, _): &&(&str, &str, &str)| (*of, *name) == (object.go_type, field.name);
        if let Some((.., default)) = SERVER_DEFAULTS.iter().find(is_this) {
            schema.insert("default".into(), (*default).into());
        }
        let text = field.text();
        if !text.is_empty() {
            schema.insert("description".into(), text.into());
        }
        add_rules(schema, field.rules);
    }
    schema
}

fn add_rules(schema: &mut Map<String, Value>, rules: &[Rule]) {
    if !rules.is_empty() {
        let rules: Vec<Value> = rules.iter().map(|r| json!({"rule": r.cel, "message": r.message})).collect();
        schema.insert("x-kubernetes-validations".into(), rules.into());
    }
}

fn of_type(kind: Type) -> Value {
    match kind {
        Type::Text(format) => of_text(format),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int(min, max) => {
            let mut schema = json!({"type": "integer", "minimum": min});
            // Bounds are floating-point numbers to the API server, which refuses what is then above int64.
            if max < 1 << 53 {
                schema["maximum"] = max.into();
            }
            if max > i32::MAX.into() {
                schema["format"] = "int64".into();
            }
            schema
        }
        Type::As | Type::Port | Type::PortRange | Type::Protocol => json!({"x-kubernetes-int-or-string": true}),
        Type::Object(object) => of_object(object),
        Type::List(item) => json!({"type": "array", "items": of_type(*item)}),
        Type::Items(item, least, most) => {
            let mut schema = json!({"type": "array", "items": of_type(*item), "maxItems": most});
            if least > 0 {
                schema["minItems"] = least.into();
            }
            schema
        }
        Type::Set(item, most) => {
            json!({"type": "array", "items": of_type(*item), "maxItems": most, "x-kubernetes-list-type": "set"})
        }
        Type::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Type::Counts => json!({"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}}),
        Type::Nullable(inner) => {
            let mut schema = of_type(*inner);
            schema["nullable"] = true.into();
            schema
        }
        Type::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
    }
}

/// Bounds on lengths are Calico's: without them the cost of a rule has no bound, and the API server refuses the definition.
fn of_text(format: Format) -> Value {
    let longest = match format {
        Format::OneOf(words) => return json!({"type": "string", "enum": words}),
        Format::AnyCase(words) => {
            return json!({"type": "string", "pattern": format!("^(?i)({})?$", words.join("|"))});
        }
        Format::Time => return json!({"type": "string", "format": "date-time"}),
        Format::Cidr => return json!({"type": "string", "format": "cidr", "maxLength": 48}),
        Format::Name => 253,
        Format::Selector => 1024,
        Format::Ip | Format::Ipv4 | Format::Ipv6 => {
            return json!({"type": "string", "maxLength": 64, "pattern": pattern(format)});
        }
        Format::IpPort | Format::CidrOrIp => 64,
        Format::Community => 40,
        Format::Interface => 15,
        Format::Matches(pattern) => return json!({"type": "string", "pattern": pattern.regex}),
        Format::Free
        | Format::Mac
        | Format::Duration
        | Format::Within(_)
        | Format::Regex
        | Format::InterfacePatterns => return json!({"type": "string"}),
    };
    json!({"type": "string", "maxLength": longest})
}

/// Of an address.
fn pattern(format: Format) -> String {
    let v6 = format!("{IPV6_PATTERN}(:{IPV4_PATTERN})?");
    match format {
        Format::Ipv4 => format!("^({IPV4_PATTERN})$"),
        Format::Ipv6 => format!("^({v6})$"),
        _ => format!("^({IPV4_PATTERN}|{v6})$"),
    }
}

fn write_map(text: &mut String, map: &Map<String, Value>, depth: usize) {
    for (name, value) in map {
        text.push_str(&"  ".repeat(depth));
        text.push_str(&scalar(&Value::from(name.as_str())));
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                write_map(text, inner, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                items.iter().for_each(|item| write_item(text, item, depth));
            }
            value => text.push_str(&format!(" {}\n", scalar(value))),
        }
    }
}

/// One item of a list; its dash stands below the list's name.
fn write_item(text: &mut String, item: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match item {
        Value::Object(map) => {
            let mut inner = String::new();
            write_map(&mut inner, map, depth + 1);
            text.push_str(&format!("{indent}- {}", inner.trim_start()));
        }
        item => text.push_str(&format!("{indent}- {}\n", scalar(item))),
    }
}

/// A value on one line; a string bare where every reader takes it for one.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(s)
            if s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '-'))
                && !RESERVED.contains(&s.to_ascii_lowercase().as_str()) =>
        {
            s.clone()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn crds_are_not_stale() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        let stored: BTreeMap<String, String> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read_to_string(e.path()).unwrap()))
            .collect();
        let wanted: BTreeMap<String, String> = files().into_iter().collect();
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&stored), names(&wanted), "run: cargo run -p api --bin crdgen -- crds");
        for (name, text) in wanted {
            assert!(stored[&name] == text, "{name} is stale: run: cargo run -p api --bin crdgen -- crds");
        }
    }

    /// What the API server demands of a structural schema: every node has a type, or one of the two extensions instead.
    #[test]
    fn every_schema_is_structural() {
        fn check(at: &str, schema: &Value) {
            let is_any =
                schema["x-kubernetes-preserve-unknown-fields"] == true || schema["x-kubernetes-int-or-string"] == true;
            assert!(schema["type"].is_string() || is_any, "{at}: {schema}");
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{at}.{name}"), inner);
            }
            for word in ["items", "additionalProperties"] {
                assert_eq!(schema["type"] == "array", schema["items"].is_object(), "{at}");
                if let Some(inner) = schema.get(word).filter(|v| v.is_object()) {
                    check(&format!("{at}.{word}"), inner);
                }
            }
        }
        for kind in Kind::ALL {
            check(kind.as_str(), &document(schema::of(*kind)));
        }
        for definition in definitions() {
            check(definition.kind, &document(definition.object));
        }
    }

    /// The API server reads bounds as floating-point numbers.
    #[test]
    fn no_bound_is_beyond_what_a_double_holds() {
        for (_, text) in files() {
            let numbers = text.lines().filter_map(|l| l.trim().strip_prefix("maximum: ")).map(|n| n.parse::<i64>());
            assert!(numbers.flatten().all(|n| n < 1 << 53));
        }
    }

    #[test]
    fn every_kind_and_record_has_a_definition() {
        let kinds: Vec<&str> = definitions().iter().map(|d| d.kind).collect();
        let wanted = [
            "IPPool",
            "IPReservation",
            "BGPPeer",
            "BGPConfiguration",
            "BGPFilter",
            "HostEndpoint",
            "FelixConfiguration",
            "ClusterInformation",
            "KubeControllersConfiguration",
            "CalicoNodeStatus",
            "LoadBalancerIPPool",
            "IPAMBlock",
            "BlockAffinity",
            "IPAMHandle",
            "IPAMConfig",
        ];
        assert_eq!(kinds, wanted);
    }

    #[test]
    fn the_reference_is_not_stale() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/resources.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        let is_fresh = stored == markdown::reference();
        assert!(is_fresh, "run: cargo run -p api --bin crdgen -- --markdown docs/guide/resources.md");
    }

    #[test]
    fn strings_that_mean_something_else_are_quoted() {
        for (value, text) in [
            (json!("Never"), "Never"),
            (json!("apiextensions.k8s.io/v1"), "apiextensions.k8s.io/v1"),
            (json!("No"), "\"No\""),
            (json!("1.5"), "\"1.5\""),
            (json!(""), "\"\""),
            (json!("a: b"), "\"a: b\""),
            (json!(7), "7"),
            (json!([]), "[]"),
        ] {
            assert_eq!(scalar(&value), text);
        }
    }
}
