//! Files to documents: reads, splits, recognises kinds and validates. Every error of every document is collected, each with its
//! file, document, line, column and field.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use api::kind::{CALICO_V3, Kind};
use api::load_balancer_ip_pool;
use api::validate::{self, FieldError};
use serde_json::{Map, Value};

use crate::pasted;
use crate::yaml::{self, Chunk, Mark, Marks, SyntaxError};

/// A text and where it came from.
#[derive(Debug)]
pub struct Source {
    /// The path as it was given, or `stdin`.
    pub name: String,
    pub text: String,
}

/// A document that has been read and is valid by itself.
#[derive(Debug)]
pub struct Document<'a> {
    pub kind: Kind,
    /// The user's form: canonical kind and apiVersion, namespace filled in, nulls removed.
    pub value: Value,
    /// Whether it is a Kubernetes Node, which only brings labels and addresses.
    pub is_kubernetes_node: bool,
    place: Place<'a>,
}

/// Where a document stands.
#[derive(Clone, Debug)]
struct Place<'a> {
    file: &'a str,
    /// Counts from 1 within its file.
    number: usize,
    chunk: Chunk<'a>,
    /// `items[3].` for a document within a list.
    prefix: String,
    /// `IPPool test`, or empty where that is not known.
    subject: String,
    /// Where everything stands in the chunk, once somebody has asked; the documents of a list share it.
    marks: Arc<OnceLock<Marks>>,
}

/// One thing wrong with a document, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub document: usize,
    pub line: usize,
    pub column: usize,
    pub subject: String,
    /// The field and its value; empty for the document itself.
    pub path: String,
    pub value: String,
    pub text: String,
}

impl Problem {
    /// The document that it is in: `pools.yaml: document 2 (IPPool test)`.
    pub fn document(&self) -> String {
        let subject = if self.subject.is_empty() { String::new() } else { format!(" ({})", self.subject) };
        format!("{}: document {}{subject}", self.file, self.document)
    }

    /// Where in the document.
    pub fn position(&self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }

    pub fn is_of_same_document(&self, other: &Self) -> bool {
        (&self.file, self.document, &self.subject) == (&other.file, other.document, &other.subject)
    }

    /// What is wrong with a field's value, in Calico's form without its heading: `CIDR = 'x' (why)`.
    pub fn field(&self) -> Option<&str> {
        self.text.strip_prefix("error with field ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: ", self.document(), self.position())?;
        match (self.path.is_empty(), self.value.is_empty()) {
            (true, _) => {}
            (false, true) => write!(f, "{}: ", self.path)?,
            (false, false) => write!(f, "{} '{}': ", self.path, self.value)?,
        }
        f.write_str(&self.text)
    }
}

/// What a set of files holds.
#[derive(Debug, Default)]
pub struct Loaded<'a> {
    pub documents: Vec<Document<'a>>,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// How many documents were read, good and bad.
    pub total: usize,
}

/// Reads what `-f` names: a file, `-` for standard input, or a directory's .yaml, .yml and .json files in the order of their names.
///
/// # Errors
/// Names the path that cannot be read.
pub fn read(names: &[String], recursive: bool) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in names {
        if name == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
            sources.push(source("stdin".into(), bytes)?);
            continue;
        }
        let path = Path::new(name);
        let meta = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?;
        let mut files = Vec::new();
        if meta.is_dir() {
            walk(path, recursive, &mut files)?;
            if files.is_empty() {
                bail!("no resources specified in directory {name}: it has no .yaml, .yml or .json file");
            }
        } else {
            files.push(path.to_path_buf());
        }
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            sources.push(source(file.display().to_string(), bytes)?);
        }
    }
    Ok(sources)
}

fn source(name: String, bytes: Vec<u8>) -> Result<Source> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(e) => {
            let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = good.iter().filter(|&&b| b == b'\n').count() + 1;
            bail!("{name}: line {line}: the text is not UTF-8; save the file as UTF-8")
        }
    }
}

fn walk(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| format!("cannot read {}", directory.display()))?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if recursive {
                walk(&path, recursive, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads and checks every document of every source. `namespace` is for namespaced documents that name none.
pub fn load<'a>(sources: &'a [Source], namespace: Option<&str>) -> Loaded<'a> {
    let mut loaded = Loaded::default();
    for source in sources {
        for (i, chunk) in yaml::split(&source.text).into_iter().enumerate() {
            loaded.total += 1;
            let place = Place {
                file: &source.name,
                number: i + 1,
                chunk,
                prefix: String::new(),
                subject: String::new(),
                marks: Arc::default(),
            };
            match yaml::load(chunk) {
                Err(malformed) => {
                    let causes = if malformed.value.is_none() { pasted::causes(chunk) } else { Vec::new() };
                    let errors = if causes.is_empty() { malformed.errors } else { causes };
                    let mut told: Vec<Problem> = errors.into_iter().map(|e| place.syntax(e)).collect();
                    if let Some(value) = malformed.value {
                        let mut more = Loaded::default();
                        document(value, place, namespace, &mut more);
                        let is_new = |p: &Problem| !told.iter().any(|t| (t.line, t.column) == (p.line, p.column));
                        more.errors.retain(is_new);
                        let subject = more.errors.iter().map(|p| &p.subject);
                        let subject = subject.chain(more.documents.iter().map(|d| &d.place.subject)).next().cloned();
                        told.iter_mut().for_each(|p| p.subject = subject.clone().unwrap_or_default());
                        told.extend(more.errors);
                        told.sort_by_key(|p| (p.line, p.column));
                    }
                    loaded.errors.extend(told);
                }
                Ok(value) => document(value, place, namespace, &mut loaded),
            }
        }
    }
    loaded
}

fn document<'a>(mut value: Value, place: Place<'a>, namespace: Option<&str>, loaded: &mut Loaded<'a>) {
    let lost_a_child =
        value.as_object().is_some_and(|m| ["metadata", "spec"].iter().any(|k| m.get(*k) == Some(&Value::Null)));
    if lost_a_child || !value.is_object() {
        let causes = pasted::causes(place.chunk);
        if !causes.is_empty() {
            loaded.errors.extend(causes.into_iter().map(|e| place.syntax(e)));
            return;
        }
    }
    if let Some(items) = value.get_mut("items").filter(|_| place.prefix.is_empty()).and_then(Value::as_array_mut) {
        let items = std::mem::take(items);
        loaded.total = loaded.total - 1 + items.len();
        for (i, item) in items.into_iter().enumerate() {
            document(item, Place { prefix: format!("items[{i}]."), ..place.clone() }, namespace, loaded);
        }
        return;
    }
    let mut place = place;
    let foreign = Foreign::convert(&mut value);
    let kind = match recognise(&value) {
        Ok(kind) => kind,
        Err(error) => return loaded.errors.extend(place.problems(vec![error])),
    };
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    place.subject = format!("{kind} {name}").trim_end().to_string();
    let is_kubernetes_node = kind == Kind::Node && value["apiVersion"] == "v1";
    strip_nulls(&mut value);
    normalise(kind, &mut value, namespace);
    let mut found = validate::document(kind, &value);
    if let Some(foreign) = foreign {
        found.errors.iter_mut().chain(&mut found.warnings).for_each(|e| foreign.restore(&mut e.path));
    }
    if !is_kubernetes_node {
        value["apiVersion"] = kind.api_version().into();
    }
    loaded.warnings.extend(place.problems(found.warnings));
    if found.errors.is_empty() {
        loaded.documents.push(Document { kind, value, is_kubernetes_node, place });
    } else {
        loaded.errors.extend(place.problems(found.errors));
    }
}

/// A CiliumLoadBalancerIPPool that was read as a LoadBalancerIPPool: which of the `blocks` were its `cidrs`.
struct Foreign {
    first: usize,
}

impl Foreign {
    fn convert(value: &mut Value) -> Option<Self> {
        if !load_balancer_ip_pool::is_cilium(value) {
            return None;
        }
        let has_cidrs = value["spec"]["cidrs"].is_array();
        let first = if has_cidrs { value["spec"]["blocks"].as_array().map_or(0, Vec::len) } else { usize::MAX };
        load_balancer_ip_pool::from_cilium(value);
        Some(Self { first })
    }

    /// The path as the user wrote it.
    fn restore(&self, path: &mut String) {
        let Some((index, rest)) = path.strip_prefix("spec.blocks[").and_then(|rest| rest.split_once(']')) else {
            return;
        };
        if let Some(i) = index.parse::<usize>().ok().and_then(|i| i.checked_sub(self.first)) {
            *path = format!("spec.cidrs[{i}]{rest}");
        }
    }
}

/// The kind of a document, by its `kind` and `apiVersion`.
fn recognise(value: &Value) -> Result<Kind, FieldError> {
    let Some(map) = value.as_object() else {
        let advice = "it begins with apiVersion: and kind:";
        return Err(FieldError::text("", &short(value), "a document is a mapping of fields", advice));
    };
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    for (field, example) in [("kind", "kind: IPPool"), ("apiVersion", "apiVersion: projectcalico.org/v3")] {
        if text(field).is_empty() {
            return Err(FieldError::text("", "", format!("the document has no {field}"), format!("write {example}")));
        }
    }
    let message = format!("unknown resource type ({kind}) and/or version ({version})");
    match Kind::from_document(kind) {
        Some(found) if found.accepts_version(version) => Ok(found),
        Some(found) => {
            let wanted = found.api_version();
            let also = if wanted == CALICO_V3 { " or crd.projectcalico.org/v1" } else { "" };
            Err(FieldError::text("apiVersion", version, message, format!("{found} has apiVersion: {wanted}{also}")))
        }
        None => {
            let names = || Kind::ALL.iter().map(|k| k.as_str());
            let advice = match validate::nearest(kind, names()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the kinds are {}", names().collect::<Vec<_>>().join(", ")),
            };
            Err(FieldError::text("kind", kind, message, advice))
        }
    }
}

/// Gives the document the envelope that is stored: a namespace where its kind has one, and a spec.
fn normalise(kind: Kind, value: &mut Value, namespace: Option<&str>) {
    if !matches!(kind, Kind::EndpointSlice | Kind::Secret)
        && let Some(map) = value.as_object_mut()
    {
        map.entry("spec").or_insert_with(|| Value::Object(Map::new()));
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if kind.is_namespaced() {
            let namespace = namespace.unwrap_or("default");
            metadata.entry("namespace").or_insert_with(|| namespace.into());
        } else {
            metadata.shift_remove("namespace");
        }
    }
}

/// A null is a field that is not set, as in Go.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn short(value: &Value) -> String {
    let text = validate::shown(value);
    let mut line: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
    if line.len() < text.len() {
        line.push_str("...");
    }
    line
}

impl<'a> Place<'a> {
    fn syntax(&self, error: SyntaxError) -> Problem {
        Problem {
            file: self.file.into(),
            document: self.number,
            line: error.line,
            column: error.column,
            subject: self.subject.clone(),
            path: String::new(),
            value: String::new(),
            text: error.message,
        }
    }

    /// Finds the line and column of each error. The text is read once more for that.
    fn problems(&self, errors: Vec<FieldError>) -> Vec<Problem> {
        if errors.is_empty() {
            return Vec::new();
        }
        let marks = self.marks.get_or_init(|| yaml::marks(self.chunk));
        let problem = |error: FieldError| {
            let path = format!("{}{}", self.prefix, error.path);
            let start = Mark { line: self.chunk.lines_before + 1, column: 1 };
            let mark = marks.of(path.trim_end_matches('.'), error.is_name).unwrap_or(&start);
            Problem {
                file: self.file.into(),
                document: self.number,
                line: mark.line,
                column: mark.column,
                subject: self.subject.clone(),
                path,
                text: error.to_string(),
                value: error.value,
            }
        };
        errors.into_iter().map(problem).collect()
    }
}

impl Document<'_> {
    /// The name in its metadata.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The namespace in its metadata.
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str()
    }

    /// An error or warning about this document, with its place.
    pub fn problems(&self, errors: Vec<FieldError>) -> Vec<Problem> {
        self.place.problems(errors)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each error is looked up in what was read once: looking it up by reading the list again took minutes.
    #[test]
    fn a_long_list_of_bad_documents_is_read_twice_and_not_for_each() {
        let item =
            "- {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.0.0.0/33}}\n";
        let sources = [Source { name: "f".into(), text: format!("items:\n{}", item.repeat(5_000)) }];
        let loaded = load(&sources, None);
        assert_eq!((loaded.errors.len(), loaded.total), (5_000, 5_000));
        assert_eq!((loaded.errors[4_999].line, loaded.errors[4_999].column), (5_001, 86));
    }

    /// Lines that real files are made of, right and wrong.
    fn line() -> impl Strategy<Value = String> {
        let words = [
            "apiVersion: v1",
            "apiVersion: projectcalico.org/v3",
            "kind: Node",
            "kind: IPPool",
            "kind: Service",
            "kind: EndpointSlice",
            "kind: BGPFilter",
            "metadata:",
            "metadata: {name: a}",
            "name: a",
            "spec:",
            "spec: {cidr: 10.0.0.0/8}",
            "cidr: 10.0.0.0/33",
            "ports: [{port: 80}]",
            "ports:",
            "- port: 1",
            "items:",
            "- kind: IPPool",
            "exportV4: [{action: Accept}]",
            "status: {}",
            "---",
            "...",
            "- ",
            "[",
            "}",
            "\u{201c}a\u{201d}: \u{2018}",
            "\t",
            "&a",
            "*a",
            "<<: *a",
            "? x",
            "|",
            "\"",
            "%YAML 1.2",
            "null",
            "labels: {a: 1}",
            "addressType: IPv4",
        ];
        (0..3usize, proptest::sample::select(words.to_vec()), "\\PC{0,4}").prop_map(|(indent, word, noise)| {
            format!("{}{word}{}", "  ".repeat(indent), if noise.len() > 2 { noise } else { String::new() })
        })
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader_and_every_error_has_its_place(lines in prop::collection::vec(line(), 0..14)) {
            let sources = [Source { name: "f".into(), text: lines.join("\n") }];
            let loaded = load(&sources, None);
            let last = sources[0].text.split('\n').count();
            for problem in loaded.errors.iter().chain(&loaded.warnings) {
                prop_assert!((1..=last).contains(&problem.line), "{problem}");
                prop_assert!(problem.column >= 1 && !problem.text.is_empty());
            }
            for document in &loaded.documents {
                prop_assert!(!document.name().is_empty());
                prop_assert!(stored_form_reads_back(document));
            }
        }
    }

    fn stored_form_reads_back(document: &Document) -> bool {
        let bytes = crate::stored::encode(document.kind, &document.value).unwrap();
        serde_json::from_slice::<Value>(&bytes).is_ok()
    }
}
