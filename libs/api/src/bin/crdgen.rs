//! crdgen: the CustomResourceDefinitions of Calico's kinds, from the schema tables, as `crds/` holds them.
//!
//! `cargo run -p api --bin crdgen -- crds` writes the files, without a directory they are printed. Names and group are Calico's
//! (`crd.projectcalico.org/v1`), those of our own kinds `tortie.io/v1`. The schemas are structural; what a schema cannot say, such as the form of a selector, is left to
//! [`api::validate`]. Nodes and workload endpoints have none: on Kubernetes, Calico derives them from Nodes and Pods.

use std::path::Path;
use std::process::ExitCode;

use api::Kind;
use api::kind::{CALICO_CRD_V1, CALICO_V3, TORTIE_V1};
use api::schema::{self, Field, Format, Object, Type};
use serde_json::{Map, Value, json};

/// The words that YAML 1.1 readers take for something else than a string.
const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

fn main() -> ExitCode {
    let files = files();
    let Some(directory) = std::env::args().nth(1) else {
        files.iter().for_each(|(_, text)| print!("{text}"));
        return ExitCode::SUCCESS;
    };
    for (name, text) in &files {
        let path = Path::new(&directory).join(name);
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("crdgen: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Name and text of every file.
fn files() -> Vec<(String, String)> {
    let has_crd = |k: &&Kind| group(**k).is_some() && !matches!(k, Kind::Node | Kind::WorkloadEndpoint);
    Kind::ALL.iter().filter(has_crd).map(|kind| file(*kind)).collect()
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

fn file(kind: Kind) -> (String, String) {
    let (name, plural) = names(kind);
    let group = group(kind).expect("only kinds that have one are written");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": name.to_ascii_lowercase(),
            },
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": document(schema::of(kind))},
            }],
        },
    });
    let mut text = String::from("# Written by crdgen from libs/api/src/schema/tables.rs: change it there.\n---\n");
    write_map(&mut text, definition.as_object().expect("it is written as an object above"), 0);
    (format!("{group}_{plural}.yaml"), text)
}

/// Kind and plural in the CRD's group. Calico's IPAMConfiguration is IPAMConfig there.
fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::IpamConfiguration => ("IPAMConfig", "ipamconfigs"),
        kind => (kind.as_str(), kind.plural()),
    }
}

/// The schema of a whole document; the API server itself checks its metadata.
fn document(object: &Object) -> Value {
    let property = |field: &Field| {
        let schema = if field.name == "metadata" { json!({"type": "object"}) } else { of_field(field) };
        (field.name.to_string(), schema)
    };
    json!({"type": "object", "properties": object.fields.iter().map(property).collect::<Map<_, _>>()})
}

fn of_object(object: &Object) -> Value {
    let mut schema = Map::from_iter([("type".to_string(), json!("object"))]);
    let properties: Map<String, Value> = object.fields.iter().map(|f| (f.name.to_string(), of_type(f.kind))).collect();
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
    schema.into()
}

/// The schema of a field. An empty string stands for an absent one wherever a field may be absent, as it does in Go.
fn of_field(field: &Field) -> Value {
    let mut schema = of_type(field.kind);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut).filter(|_| !field.required) {
        words.push("".into());
    }
    schema
}

fn of_type(kind: Type) -> Value {
    match kind {
        Type::Text(Format::OneOf(words)) => json!({"type": "string", "enum": words}),
        Type::Text(_) => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Type::As | Type::Port => json!({"x-kubernetes-int-or-string": true}),
        Type::Object(object) => of_object(object),
        Type::List(item) => json!({"type": "array", "items": of_type(*item)}),
        Type::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Type::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
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
                if let Some(inner) = schema.get(word) {
                    check(&format!("{at}.{word}"), inner);
                }
            }
        }
        for kind in Kind::ALL {
            check(kind.as_str(), &document(schema::of(*kind)));
        }
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
