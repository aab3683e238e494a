//! The tables of the schema against the types that read the documents.

use serde_json::{Map, Value, json};

use super::super::{Cx, check_object, check_type, decodes};
use crate::duration;
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};
use crate::schema::{self, Field, Format, Object, Type};
use crate::validate::Findings;

/// Texts of a form, its bounds among them.
fn texts(format: Format) -> Vec<String> {
    let words: &[&str] = match format {
        Format::Free | Format::Name => &["a.b-0"],
        Format::Cidr => &["10.0.0.0/8", "10.0.0.5/32", "0.0.0.0/0", "fd00::/64"],
        Format::CidrOrIp => &["10.0.0.5/24", "10.0.0.1", "fd00::1"],
        Format::Ip => &["10.0.0.1", "fd00::1"],
        Format::Ipv4 => &["10.0.0.1"],
        Format::Ipv6 => &["fd00::1"],
        Format::Mac => &["ee:ee:ee:ee:ee:ee"],
        Format::Time => &["2026-08-22T10:00:00Z"],
        Format::IpPort => &["10.0.0.1", "10.0.0.1:179", "[fd00::1]:179"],
        Format::Selector => &["all()", "a == 'b'"],
        Format::Duration => &["0", "90s", "1m30s"],
        Format::Community => &["65535:0", "4294967295:0:0"],
        Format::Interface => &["eth0", "abcdefghijklmn*"],
        Format::Regex => &[r"^eth\d+(\.[0-9]+)?$"],
        Format::InterfacePatterns => &["kube-ipvs0,/^dummy[0-9]+$/"],
        Format::Matches(pattern) => &[pattern.example],
        Format::OneOf(words) => words,
        Format::AnyCase(words) => return words.iter().flat_map(|w| [w.to_string(), w.to_lowercase()]).collect(),
        Format::Within(span) => {
            let zero = span.or_zero.then_some(std::time::Duration::ZERO);
            return [span.least, span.most].into_iter().chain(zero).map(duration::format).collect();
        }
    };
    words.iter().map(|w| (*w).into()).collect()
}

/// What a field may hold, each with the path to what is tried.
fn values(kind: Type, may_be_empty: bool) -> Vec<(String, Value)> {
    let plain = |values: Vec<Value>| values.into_iter().map(|v| (format!(" = {v}"), v)).collect();
    match kind {
        Type::Text(format) => {
            let empty = may_be_empty.then(String::new);
            plain(texts(format).into_iter().chain(empty).map(Value::from).collect())
        }
        Type::Bool => plain(vec![true.into(), false.into()]),
        Type::Int(least, most) => plain(vec![least.into(), most.into()]),
        Type::As => plain(vec![json!(0), json!(u32::MAX), json!("65535.65535"), json!("64512")]),
        Type::Port => plain(vec![json!(1), json!(65535), json!("http")]),
        Type::PortRange => plain(vec![json!(0), json!(65535), json!("30000:32767"), json!("80")]),
        Type::Protocol => plain(vec![json!(0), json!(255), json!("TCP"), json!("udp")]),
        Type::Map => plain(vec![json!({}), json!({"a": "b", "c": ""})]),
        Type::Counts => plain(vec![json!({}), json!({"a": u64::MAX})]),
        Type::Nullable(inner) => {
            values(*inner, may_be_empty).into_iter().chain([(" = null".into(), Value::Null)]).collect()
        }
        Type::Any => plain(vec![json!({"any": [1]})]),
        Type::Object(object) => variants(object).into_iter().map(|(path, v)| (format!(".{path}"), v)).collect(),
        Type::List(item) | Type::Items(item, ..) | Type::Set(item, _) => {
            let items = values(*item, false).into_iter().map(|(path, v)| (format!("[]{path}"), json!([v])));
            items.chain(may_be_empty.then(|| (" = []".into(), json!([])))).collect()
        }
    }
}

/// Objects that have what is required, and of each field each value that it may hold.
fn variants(object: &Object) -> Vec<(String, Value)> {
    let least = least(object);
    let mut all = vec![("{}".to_string(), least.clone())];
    for field in object.fields {
        let mut tried = values(field.kind, !field.required);
        if !field.required {
            tried.push((" = null".into(), Value::Null));
        }
        for (path, value) in tried {
            let mut with = least.clone();
            with[field.name] = value;
            all.push((format!("{}{path}", field.name), with));
        }
    }
    all
}

/// What is required and nothing else.
fn least(object: &Object) -> Value {
    let required = object.fields.iter().filter(|f| f.required);
    Value::Object(required.map(|f| (f.name.to_string(), first(f))).collect::<Map<_, _>>())
}

fn first(field: &Field) -> Value {
    match field.kind {
        Type::Object(object) => least(object),
        kind => values(kind, false).into_iter().next().map(|(_, v)| v).unwrap_or_default(),
    }
}

/// Every field with a value.
fn most(object: &Object) -> Value {
    let value = |kind: Type| match kind {
        Type::Object(inner) => most(inner),
        Type::List(Type::Object(inner)) | Type::Items(Type::Object(inner), ..) => json!([most(inner)]),
        kind => values(kind, false).into_iter().next().map(|(_, v)| v).unwrap_or_default(),
    };
    Value::Object(object.fields.iter().map(|f| (f.name.to_string(), value(f.kind))).collect::<Map<_, _>>())
}

/// With what `calicoctl` gives every document.
fn enveloped(kind: Kind, mut value: Value) -> Value {
    value["kind"] = kind.as_str().into();
    value["apiVersion"] = kind.api_version().into();
    if let Some(spec) = schema::of(kind).field("spec").and_then(|f| f.kind.object())
        && value["spec"].is_null()
    {
        value["spec"] = least(spec);
    }
    value
}

fn documents(kind: Kind) -> impl Iterator<Item = (String, Value)> {
    let all = variants(schema::of(kind)).into_iter().chain([("everything".into(), most(schema::of(kind)))]);
    all.map(move |(path, value)| (format!("{kind} {path}"), enveloped(kind, value)))
}

/// Whatever the tables allow, and the API server therefore stores, is read; null and an empty string are an absent field.
#[test]
fn every_value_of_the_tables_is_read_by_its_type() {
    let (mut tried, mut wrong) = (0, Vec::new());
    for kind in Kind::ALL {
        let schema = schema::of(*kind);
        for (path, document) in documents(*kind) {
            tried += 1;
            let mut found = Findings::default();
            check_object(schema, schema, "", document.as_object().unwrap(), &mut found);
            wrong.extend(found.errors.iter().map(|e| format!("{path}: refused by the table: {e}")));
            if let Err(error) = decodes(*kind, &document) {
                wrong.push(format!("{path}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 1500, "{tried}");
}

/// What a type writes is in the table, and nothing that was read is lost.
#[test]
fn every_field_that_is_written_is_in_the_tables() {
    fn again<B: Body>(document: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<Resource<B>>(document.clone()).unwrap()).unwrap()
    }
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        for (path, document) in documents(*kind) {
            if decodes(*kind, &document).is_err() {
                continue;
            }
            let written = with_body!(*kind, B => again::<B>(&document));
            strange(&path, Type::Object(schema::of(*kind)), &written, &mut wrong);
            lost(&path, &document, &written, &mut wrong);
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Fields that the table does not have.
fn strange(at: &str, kind: Type, written: &Value, wrong: &mut Vec<String>) {
    match (kind, written) {
        (Type::Object(object), Value::Object(fields)) => {
            for (name, value) in fields {
                match object.field(name) {
                    Some(field) => strange(at, field.kind, value, wrong),
                    None if object.open => {}
                    None => wrong.push(format!("{at}: {}.{name} is written and not in the table", object.go_type)),
                }
            }
        }
        (Type::List(item) | Type::Items(item, ..) | Type::Set(item, _), Value::Array(items)) => {
            items.iter().for_each(|value| strange(at, *item, value, wrong));
        }
        (Type::Nullable(inner), value) => strange(at, *inner, value, wrong),
        _ => {}
    }
}

/// Fields that were read with a value and are not written.
fn lost(at: &str, read: &Value, written: &Value, wrong: &mut Vec<String>) {
    let is_absent = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Number(n) => n.as_u64() == Some(0),
        Value::Bool(true) => false,
    };
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            for (name, value) in read.iter().filter(|(_, v)| !is_absent(v)) {
                match written.get(name) {
                    Some(written) => lost(at, value, written, wrong),
                    None => wrong.push(format!("{at}: {name}: {value} is lost")),
                }
            }
        }
        (Value::Array(read), Value::Array(written)) => {
            if read.len() != written.len() {
                wrong.push(format!("{at}: of {} items {} are written", read.len(), written.len()));
            }
            read.iter().zip(written).for_each(|(read, written)| lost(at, read, written, wrong));
        }
        _ => {}
    }
}

/// Where a text must be given, an empty one is not one.
#[test]
fn what_is_required_is_not_empty() {
    fn check(root: &'static Object, object: &'static Object, at: &str, wrong: &mut Vec<String>) {
        for field in object.fields.iter().filter(|f| f.name != "metadata") {
            let path = format!("{at}.{}", field.name);
            if let (Type::Text(_), true) = (field.kind, field.required) {
                let mut value = least(object);
                value[field.name] = "".into();
                let mut found = Findings::default();
                check_object(root, object, at, value.as_object().unwrap(), &mut found);
                if found.errors.is_empty() {
                    wrong.push(path.clone());
                }
            }
            if let Type::List(Type::Text(format))
            | Type::Items(Type::Text(format), ..)
            | Type::Set(Type::Text(format), _) = field.kind
                && *format != Format::Free
            {
                let mut found = Findings::default();
                check_type(&Cx { root, object }, &path, field.kind, Some(&json!([""])), &mut found);
                if found.errors.is_empty() {
                    wrong.push(format!("{path}[]"));
                }
            }
            if let Some(inner) = field.kind.object() {
                check(root, inner, &path, wrong);
            }
        }
    }
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        check(schema::of(*kind), schema::of(*kind), kind.as_str(), &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
