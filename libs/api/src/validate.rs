//! What is wrong with a document, with Calico's texts where it has one (Calico `libcalico-go/lib/validator/v3`, the CEL
//! rules of `api/pkg/apis/projectcalico/v3`, and Go's JSON decoder).
//!
//! [`document`] looks at one document by itself: names, fields and types by the [`schema`](crate::schema), the form of every value
//! ([`formats`]), the rules between fields ([`rules`]). [`set`] holds what concerns several documents: overlapping pools,
//! fields that may not change, node ports given twice. All of it collects; nothing stops at the first error.

pub mod formats;
pub mod rules;
pub mod set;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};
use crate::schema::{self, Format, Object, Type};

/// Fields that a message lists; of more it names the nearest.
const MAX_LISTED: usize = 60;

/// One thing wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON path in the document, such as `spec.ports[0].port`; empty for the document itself.
    pub path: String,
    /// The value as the user wrote it; empty where there is none.
    pub value: String,
    /// The rule, in Calico's words where Calico has it.
    pub message: String,
    /// What would be right; may be empty.
    pub advice: String,
    /// Whether the field's name is wrong, not its value.
    pub is_name: bool,
}

impl FieldError {
    /// An error in Calico's form `error with field <Field> = '<value>' (<reason>)`.
    pub fn field(path: &str, field: &str, value: &str, reason: &str, advice: impl Into<String>) -> Self {
        let message = format!("error with field {field} = '{value}' ({reason})");
        Self { path: path.into(), value: value.into(), message, advice: advice.into(), is_name: false }
    }

    /// An error in the form of Calico's CEL rules, `field spec (<rule>)`.
    pub fn spec(path: &str, value: &str, rule: &str, advice: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            value: value.into(),
            message: format!("field spec ({rule})"),
            advice: advice.into(),
            is_name: false,
        }
    }

    /// An error with a text of its own.
    pub fn text(path: &str, value: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { path: path.into(), value: value.into(), message: message.into(), advice: advice.into(), is_name: false }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

/// What a check found. A document with errors must not be stored; a warning is for the user to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub errors: Vec<FieldError>,
    pub warnings: Vec<FieldError>,
}

/// Checks one document of a kind by itself. The Kubernetes form of a Node (`v1`) has only its metadata checked.
pub fn document(kind: Kind, value: &Value) -> Findings {
    let mut found = Findings::default();
    let schema = schema::of(kind);
    let Value::Object(map) = value else {
        found.errors.push(FieldError::text("", &shown(value), "a document is a mapping of fields", ""));
        return found;
    };
    if kind == Kind::Node && map.get("apiVersion").and_then(Value::as_str) == Some("v1") {
        let schema = schema::kubernetes_node();
        check_object(schema, schema, "", map, &mut found);
        return found;
    }
    check_object(schema, schema, "", map, &mut found);
    found.warnings.extend(inert_fields(schema, map));
    if found.errors.is_empty() {
        rules::check(kind, value, &mut found);
    }
    if found.errors.is_empty()
        && let Err(reason) = decodes(kind, value)
    {
        found.errors.push(FieldError::text("", "", format!("the document cannot be read as {kind}: {reason}"), ""));
    }
    found
}

/// One warning of all fields of a document on which nothing here acts; it stands with the first.
fn inert_fields(object: &Object, map: &Map<String, Value>) -> Option<FieldError> {
    let mut paths = Vec::new();
    collect_inert(object, "", map, &mut paths);
    let first = paths.first()?.clone();
    let text = format!("{}: {}; no program here acts on that", schema::INERT, paths.join(", "));
    Some(FieldError { is_name: true, ..FieldError::text(&first, "", text, "") })
}

fn collect_inert(object: &Object, path: &str, map: &Map<String, Value>, paths: &mut Vec<String>) {
    let is_empty = |v: &Value| match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    for (name, value) in map.iter().filter(|(_, v)| !is_empty(v)) {
        let Some(field) = object.field(name) else { continue };
        let at = join(path, name);
        match (field.kind, value) {
            _ if field.is_inert => paths.push(at),
            (Type::Object(inner), Value::Object(map)) => collect_inert(inner, &at, map, paths),
            _ => {}
        }
    }
}

/// Fills in what Calico's client fills in before it stores an object (Calico `libcalico-go/lib/clientv3`).
pub fn fill_defaults(kind: Kind, value: &mut Value) {
    match (kind, value.get_mut("spec")) {
        (Kind::IpPool, Some(spec)) => fill_pool(spec),
        (Kind::KubeControllersConfiguration, Some(spec)) => fill_controllers(spec),
        (Kind::Secret, _) => crate::secret::merge_string_data(value),
        _ => {}
    }
}

fn fill_pool(spec: &mut Value) {
    let Some(fields) = spec.as_object_mut() else { return };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let cidr = text("cidr").parse::<ipnet::IpNet>().ok();
    let is_v6 = matches!(cidr, Some(ipnet::IpNet::V6(_)));
    let block_size = if is_v6 { crate::ip_pool::DEFAULT_BLOCK_SIZE_V6 } else { crate::ip_pool::DEFAULT_BLOCK_SIZE_V4 };
    // Addresses of tunnels belong to no namespace: a pool for some namespaces cannot have that use.
    let has_namespaces = !text("namespaceSelector").is_empty();
    let uses: &[&str] = if has_namespaces { &["Workload"] } else { &["Workload", "Tunnel"] };
    // The same range in another spelling is stored as Calico spells it.
    if let Some(cidr) = cidr {
        fields.insert("cidr".into(), cidr.to_string().into());
    }
    fill(fields, "blockSize", block_size.into());
    fill(fields, "ipipMode", "Never".into());
    fill(fields, "vxlanMode", "Never".into());
    fill(fields, "nodeSelector", "all()".into());
    fill(fields, "allowedUses", Value::from(uses));
    fill(fields, "assignmentMode", "Automatic".into());
}

fn fill_controllers(spec: &mut Value) {
    if let Some(fields) = spec.as_object_mut() {
        fill(fields, "healthChecks", "Enabled".into());
        fill(fields, "prometheusMetricsPort", 9094.into());
    }
    // An index would make what is absent.
    if let Some(node) = spec.pointer_mut("/controllers/node").and_then(Value::as_object_mut) {
        fill(node, "leakGracePeriod", "15m0s".into());
    }
    if let Some(services) = spec.pointer_mut("/controllers/loadBalancer").and_then(Value::as_object_mut) {
        fill(services, "assignIPs", "AllServices".into());
    }
}

/// Sets a field that is not set, in the sense of Go: absent, null, an empty string or list, and 0 for a block size.
fn fill(fields: &mut Map<String, Value>, name: &str, default: Value) {
    let is_missing = match fields.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Number(n)) => name == "blockSize" && n.as_u64() == Some(0),
        Some(_) => false,
    };
    if is_missing {
        fields.insert(name.into(), default);
    }
}

/// The candidate that is nearest to what was written, if any is near.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    scored(written, candidates).filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, c)| c)
}

/// The candidates, the nearest first.
fn ranked<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut all: Vec<(f64, &str)> = scored(written, candidates).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, candidate)| candidate)
}

fn scored<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = (f64, &'a str)> {
    let lower = written.to_ascii_lowercase();
    candidates.into_iter().map(move |c| (strsim::jaro_winkler(&lower, &c.to_ascii_lowercase()), c))
}

/// A value as it reads in a message: strings bare, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The body of a kind as a type.
macro_rules! with_body {
    ($kind:expr, $body:ident => $then:expr) => {
        with_body!($kind, $body => $then,
            IpPool: WithSpec<crate::IpPoolSpec>,
            IpReservation: WithSpec<crate::IpReservationSpec>,
            IpamConfiguration: WithSpec<crate::ipam::IpamConfigurationSpec>,
            BgpPeer: WithSpec<crate::BgpPeerSpec>,
            BgpConfiguration: WithSpec<crate::BgpConfigurationSpec>,
            BgpFilter: WithSpec<crate::BgpFilterSpec>,
            Node: WithSpec<crate::NodeSpec>,
            WorkloadEndpoint: WithSpec<crate::WorkloadEndpointSpec>,
            HostEndpoint: WithSpec<crate::HostEndpointSpec>,
            FelixConfiguration: WithSpec<crate::FelixConfigurationSpec>,
            ClusterInformation: WithSpec<crate::node::ClusterInformationSpec>,
            KubeControllersConfiguration: WithSpec<crate::KubeControllersConfigurationSpec>,
            CalicoNodeStatus: crate::calico_node_status::CalicoNodeStatusBody,
            LoadBalancerIpPool: WithSpec<crate::LoadBalancerIpPoolSpec>,
            Namespace: crate::service::NamespaceBody,
            Pod: crate::service::PodBody,
            Secret: crate::secret::SecretBody,
            Service: crate::service::ServiceBody,
            EndpointSlice: crate::service::EndpointSliceBody,
        )
    };
    ($kind:expr, $body:ident => $then:expr, $($variant:ident: $type:ty,)*) => {
        match $kind {
            $(Kind::$variant => {
                type $body = $type;
                $then
            })*
        }
    };
}

/// Whether the typed form of the kind reads the document.
fn decodes(kind: Kind, value: &Value) -> Result<(), String> {
    fn read<B: Body>(value: &Value) -> Result<(), String> {
        Resource::<B>::deserialize(value).map(drop).map_err(|e| e.to_string())
    }
    with_body!(kind, B => read::<B>(value))
}

/// Where a value stands: the document's schema, for "wrong location", and the object that has the field.
struct Cx {
    root: &'static Object,
    object: &'static Object,
}

fn check_object(
    root: &'static Object,
    object: &'static Object,
    path: &str,
    map: &Map<String, Value>,
    found: &mut Findings,
) {
    for (name, value) in map {
        let at = join(path, name);
        match object.field(name) {
            Some(field) => check_type(&Cx { root, object }, &at, field.kind, Some(value), found),
            None if object.open => {
                if let Some(near) = nearest(name, object.fields.iter().map(|f| f.name)) {
                    let text = format!("field {name} is stored, but nothing here acts on it");
                    let warning = FieldError::text(&at, "", text, format!("did you mean {near}?"));
                    found.warnings.push(FieldError { is_name: true, ..warning });
                }
            }
            None => found.errors.push(unknown_field(root, object, &at, name)),
        }
    }
    for field in object.fields.iter().filter(|f| f.required) {
        let at = join(path, field.name);
        let is_missing = match map.get(field.name) {
            None | Some(Value::Null) => true,
            // The form of a name has a text of its own for this.
            Some(Value::String(s)) => s.is_empty() && matches!(field.kind, Type::Text(_)) && at != "metadata.name",
            Some(_) => false,
        };
        if is_missing {
            let name = formats::go_name(field.name);
            let reason = format!("Reason: failed to validate Field: {name} because of Tag: required ");
            found.errors.push(FieldError::field(path, &name, "", &reason, format!("{at} must be given")));
        }
    }
}

fn unknown_field(root: &Object, object: &Object, at: &str, name: &str) -> FieldError {
    let message = format!("field in document is not recognized or is in the wrong location: {name}");
    let advice = if let Some(near) = object.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)) {
        format!("it is spelled {}", near.name)
    } else if let Some(place) = root.locate(name).or_else(|| root.locate(&name.to_ascii_lowercase())) {
        format!("it belongs at {place}")
    } else if let Some(near) = nearest(name, object.fields.iter().map(|f| f.name)) {
        format!("did you mean {near}?")
    } else if object.fields.len() > MAX_LISTED {
        let near = ranked(name, object.fields.iter().map(|f| f.name)).take(3);
        format!("the nearest fields are {}", near.collect::<Vec<_>>().join(", "))
    } else {
        let names: Vec<_> = object.fields.iter().map(|f| f.name).collect();
        format!("the fields here are {}", names.join(", "))
    };
    FieldError { is_name: true, ..FieldError::text(at, "", message, advice) }
}

fn check_type(cx: &Cx, at: &str, kind: Type, value: Option<&Value>, found: &mut Findings) {
    let Some(value) = value.filter(|v| !v.is_null()) else { return };
    match (kind, value) {
        (Type::Any, _) | (Type::Bool, Value::Bool(_)) => {}
        (Type::Text(format), Value::String(s)) => found.errors.extend(formats::check(format, at, s)),
        (Type::Int(min, max), Value::Number(n)) => {
            if n.as_i64().is_none_or(|n| n < min || n > max) {
                let name = formats::go_name(last(at));
                let reason = format!("must be a whole number from {min} to {max}");
                found.errors.push(FieldError::field(at, &name, &n.to_string(), &reason, ""));
            }
        }
        (Type::As, Value::Number(_) | Value::String(_)) => found.errors.extend(formats::check_as(cx.object, at, value)),
        (Type::Port, Value::Number(n)) => {
            if n.as_u64().is_none_or(|n| n == 0 || n > 65535) {
                found.errors.push(FieldError::field(
                    at,
                    &formats::go_name(last(at)),
                    &n.to_string(),
                    "must be a port number from 1 to 65535",
                    "",
                ));
            }
        }
        (Type::PortRange | Type::Protocol, Value::Number(n)) => {
            let (most, what) = if matches!(kind, Type::PortRange) { (65_535, "port") } else { (255, "protocol") };
            if n.as_u64().is_none_or(|n| n > most) {
                let rule = format!("must be a {what} number from 0 to {most}");
                found.errors.push(FieldError::field(at, &formats::go_name(last(at)), &n.to_string(), &rule, ""));
            }
        }
        (Type::Port, Value::String(s)) => found.errors.extend(formats::check_port_name(at, s)),
        (Type::PortRange, Value::String(s)) => found.errors.extend(formats::check_port_range(at, s)),
        (Type::Protocol, Value::String(s)) => found.errors.extend(formats::check_protocol(at, s)),
        (Type::Object(object), Value::Object(map)) => check_object(cx.root, object, at, map, found),
        (Type::Nullable(inner), value) => check_type(cx, at, *inner, Some(value), found),
        (Type::List(item) | Type::Items(item, ..) | Type::Set(item, _), Value::Array(items)) => {
            if let Type::Set(_, most) = kind {
                found.errors.extend(set_errors(at, items, most));
            }
            for (i, value) in items.iter().enumerate() {
                let at = format!("{at}[{i}]");
                // A text of any form may be empty, as the value of a label is.
                if matches!(item, Type::Text(format) if *format != Format::Free) && value == "" {
                    let advice = "give it a value, or leave the item out";
                    found.errors.push(formats::tagged("required", &at, "", advice.into()));
                }
                check_type(cx, &at, *item, Some(value), found);
            }
        }
        (Type::Counts, Value::Object(map)) => {
            for (name, value) in map.iter().filter(|(_, v)| !v.is_u64()) {
                let advice = format!("{name} is a whole number, not negative");
                found.errors.push(wrong_type(cx.object, &format!("{at}.{name}"), "uint64", value, advice));
            }
        }
        (Type::Map, Value::Object(map)) => {
            for (name, value) in map.iter().filter(|(_, v)| !v.is_string()) {
                let path = format!("{at}.{name}");
                found.errors.push(wrong_type(
                    cx.object,
                    &path,
                    "string",
                    value,
                    format!("quote it: {name}: \"{}\"", shown(value)),
                ));
            }
        }
        (Type::Text(_), _) => found.errors.push(wrong_type(cx.object, at, "string", value, text_advice(at, value))),
        (Type::Bool, _) => found.errors.push(wrong_type(cx.object, at, "bool", value, bool_advice(at, value))),
        (Type::Int(..) | Type::Port | Type::PortRange | Type::Protocol, _) => {
            let advice = format!("{} is a number without quotes", last(at));
            found.errors.push(wrong_type(cx.object, at, "int", value, advice));
        }
        (Type::As, _) => {
            found.errors.push(wrong_type(cx.object, at, "numorstring.ASNumber", value, formats::AS_ADVICE.into()))
        }
        (Type::Object(object), _) => {
            let fields: Vec<_> = object.fields.iter().map(|f| f.name).collect();
            let advice = format!("{} is a mapping with the fields {}", last(at), fields.join(", "));
            found.errors.push(wrong_type(cx.object, at, object.go_type, value, advice));
        }
        (Type::List(_) | Type::Items(..) | Type::Set(..), _) => {
            let advice = format!("{} is a list: put `- ` before each item, or [ ] around them", last(at));
            found.errors.push(wrong_type(cx.object, at, "[]", value, advice));
        }
        (Type::Counts, _) => {
            let advice = format!("{} is a mapping from names to numbers", last(at));
            found.errors.push(wrong_type(cx.object, at, "map[string]uint64", value, advice));
        }
        (Type::Map, _) => {
            let advice = format!("{} is a mapping from names to strings", last(at));
            found.errors.push(wrong_type(cx.object, at, "map[string]string", value, advice));
        }
    }
}

/// What is wrong with a list that is a set: items that are there twice, or too many.
fn set_errors(at: &str, items: &[Value], most: usize) -> Vec<FieldError> {
    let name = formats::go_name(last(at));
    let mut errors = Vec::new();
    if items.len() > most {
        let rule = format!("has at most {most} items");
        errors.push(FieldError::field(at, &name, &items.len().to_string(), &rule, ""));
    }
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let text = shown(item);
        if !seen.insert(text.clone()) {
            let reason = format!("Reason: failed to validate Field: {name} because of Tag: unique ");
            errors.push(FieldError::field(
                &format!("{at}[{i}]"),
                &name,
                &text,
                &reason,
                format!("{text} is there already"),
            ));
        }
    }
    errors
}

/// Go's wording of a value of the wrong type.
fn wrong_type(object: &Object, at: &str, wanted: &str, value: &Value, advice: String) -> FieldError {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let message = format!(
        "cannot unmarshal {got} into Go struct field {}.{} of type {wanted}",
        object.go_type,
        without_indices(at)
    );
    FieldError::text(at, &shown(value), message, advice)
}

fn text_advice(at: &str, value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("{} is a single string", last(at)),
        _ => format!("quote it: {}: \"{}\"", last(at), shown(value)),
    }
}

fn bool_advice(at: &str, value: &Value) -> String {
    let meant = match shown(value).to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => "true",
        "false" | "no" | "off" | "0" => "false",
        _ => "true or false",
    };
    format!("write {}: {meant}, without quotes", last(at))
}

/// The path of a field below `path`.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

/// The last field name of a path, without an index.
fn last(path: &str) -> &str {
    let name = path.rsplit('.').next().unwrap_or(path);
    name.split('[').next().unwrap_or(name)
}

fn without_indices(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut depth = 0;
    for c in path.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests;
