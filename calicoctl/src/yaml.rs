//! YAML (and JSON, which is YAML) to JSON values and back.
//!
//! A file is split at its document markers first, so that one malformed document hides no error of another. [`load`] gives the
//! value; [`marks`] walks the same events again and says where every field stands, which only an error message needs. That is why
//! reading goes through the parser's events: `serde_yaml` tells places only of fields that a type names, and a misspelt
//! field is in no type. Writing is [`emit`], which is `serde_yaml`.
//! Scalars are read by the YAML 1.2 core schema. Depth and what aliases may expand to are bounded.

use std::collections::HashMap;
use std::fmt::Write as _;

use api::validate::formats::{QUOTES, is_typographic_quote};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Number, Value};

/// Deepest nesting of a document; ours need less than ten.
const MAX_DEPTH: usize = 64;
/// Most values that the aliases of one document may expand to.
const MAX_ALIASED: usize = 10_000;

/// One document of a file.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    pub text: &'a str,
    /// The file's lines before it.
    pub lines_before: usize,
}

/// Where a field or its value stands. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// The documents of a text: what stands between lines `---` and `...`. Chunks of comments and blank lines are left out.
pub fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = at + line.len();
        let marker = line.starts_with("---") || line.starts_with("...");
        if marker && line[3..].chars().next().is_none_or(char::is_whitespace) {
            chunks.push(Chunk { text: &text[start..at], lines_before: start_line });
            // What follows the marker on its line belongs to the document; the marker becomes part of it.
            let has_content = !line[3..].trim().is_empty() && !line[3..].trim().starts_with('#');
            (start, start_line) = if has_content { (at, number) } else { (end, number + 1) };
        }
        at = end;
    }
    chunks.push(Chunk { text: &text[start..], lines_before: start_line });
    let has_content = |c: &Chunk| {
        c.text.lines().any(|l| {
            let l = l.trim();
            !l.is_empty() && !l.starts_with('#') && !l.starts_with('%')
        })
    };
    chunks.retain(has_content);
    chunks
}

/// A text that is no good document.
#[derive(Debug)]
pub struct Malformed {
    /// One syntax error, or all duplicate keys and pasted quotes.
    pub errors: Vec<SyntaxError>,
    /// What it says nevertheless, so that its other errors can be told too.
    pub value: Option<Value>,
}

/// The value of one document.
///
/// # Errors
/// [`Malformed`].
pub fn load(chunk: Chunk) -> Result<Value, Malformed> {
    if let Some(value) = strict_json(chunk.text) {
        return Ok(value);
    }
    let mut loader = Loader::new(chunk);
    let value = match loader.document() {
        Ok(value) if loader.errors.is_empty() => return Ok(value),
        Ok(value) => Some(value),
        Err(error) => {
            loader.errors.push(error);
            None
        }
    };
    Err(Malformed { errors: loader.errors, value })
}

/// Where the fields of a document stand, by path as `api::validate` writes paths. The empty path is the document.
#[derive(Debug, Default)]
pub struct Marks {
    names: HashMap<String, Mark>,
    values: HashMap<String, Mark>,
}

impl Marks {
    /// The place of a field's name, or of its value; that of the nearest field above where it is not in the text.
    pub fn of(&self, path: &str, is_name: bool) -> Option<&Mark> {
        let mut path = path;
        loop {
            let first = if is_name { &self.names } else { &self.values };
            if let Some(mark) = first.get(path).or_else(|| self.values.get(path)) {
                return Some(mark);
            }
            if path.is_empty() {
                return None;
            }
            path = path.rfind(['.', '[']).map_or("", |at| &path[..at]);
        }
    }
}

/// Where everything in a document stands.
pub fn marks(chunk: Chunk) -> Marks {
    let mut loader = Loader::new(chunk);
    loader.marks = Some(Marks::default());
    // A document that does not load has been reported; what was seen before its error is marked.
    let _ = loader.document();
    loader.marks.unwrap_or_default()
}

/// The fast way for JSON, which is many times the speed of the YAML reader: `None` where the text is no JSON object or has a
/// key twice, and the YAML reader says what is wrong.
fn strict_json(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str::<Strict>(text).ok().map(|s| s.0)
}

/// A JSON value that refuses duplicate keys.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> serde::de::Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_string<E>(self, v: String) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Strict(Value::Array(items)))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("duplicate key"));
            }
        }
        Ok(Strict(Value::Object(map)))
    }
}

struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    lines: usize,
    lines_before: usize,
    path: String,
    /// The values of anchors, and how many values each is made of.
    anchors: HashMap<usize, (Value, usize)>,
    seen: usize,
    aliased: usize,
    marks: Option<Marks>,
    errors: Vec<SyntaxError>,
}

impl<'a> Loader<'a> {
    fn new(chunk: Chunk<'a>) -> Self {
        Self {
            parser: Parser::new_from_str(chunk.text),
            lines: chunk.text.trim_end().lines().count(),
            lines_before: chunk.lines_before,
            path: String::new(),
            anchors: HashMap::new(),
            seen: 0,
            aliased: 0,
            marks: None,
            errors: Vec::new(),
        }
    }

    fn document(&mut self) -> Result<Value, SyntaxError> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd, _) => return Ok(Value::Null),
                (event, span) => {
                    let value = self.node(event, span, 0)?;
                    // Reads on to the end: what follows the first node may be malformed.
                    loop {
                        match self.next()? {
                            (Event::DocumentEnd, _) => {}
                            (Event::StreamEnd, _) => return Ok(value),
                            (_, span) => return Err(self.error(span, "text after the end of the document")),
                        }
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => {
                let Mark { line, column } = self.place(e.marker());
                Err(SyntaxError { line, column, message: format!("malformed YAML: {}", e.info()) })
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// A place in the file. What is missing at the end is on the last line.
    fn place(&self, marker: &Marker) -> Mark {
        Mark { line: marker.line().min(self.lines) + self.lines_before, column: marker.col() + 1 }
    }

    fn error(&self, span: Span, message: impl Into<String>) -> SyntaxError {
        let Mark { line, column } = self.place(&span.start);
        SyntaxError { line, column, message: message.into() }
    }

    fn mark(&mut self, span: Span, is_name: bool) {
        let mark = self.place(&span.start);
        if let Some(marks) = &mut self.marks {
            let of = if is_name { &mut marks.names } else { &mut marks.values };
            of.insert(self.path.clone(), mark);
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Value, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.error(span, format!("the document is nested more than {MAX_DEPTH} levels deep")));
        }
        self.seen += 1;
        self.mark(span, false);
        let before = self.seen;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain && tag.is_none_or(|t| t.suffix != "str");
                if is_plain && text.starts_with(is_typographic_quote) {
                    self.errors.push(self.error(span, QUOTES));
                }
                (if is_plain { plain(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(anchor) => {
                let Some((value, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(span, "an alias within what it stands for"));
                };
                self.aliased += size;
                self.seen += size;
                if self.aliased > MAX_ALIASED {
                    return Err(self.error(span, format!("aliases expand to more than {MAX_ALIASED} values")));
                }
                (value, 0)
            }
            _ => return Err(self.error(span, "a value was expected")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.seen - before + 1));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        let length = self.path.len();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(items));
            }
            let _ = write!(self.path, "[{}]", items.len());
            items.push(self.node(event, span, depth + 1)?);
            self.path.truncate(length);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut map = Map::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut merged = Vec::new();
        let length = self.path.len();
        loop {
            let (event, key_span) = self.next()?;
            let (key, is_plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(self.error(key_span, "a key is a single word, not a list or a mapping")),
            };
            if let Some(odd) = key.chars().find(|&c| is_odd(c)) {
                let message =
                    format!("key {key:?} holds {}, pasted from a formatted text; type it again", name_of(odd));
                self.errors.push(self.error(key_span, message));
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            self.mark(key_span, true);
            let (event, span) = self.next()?;
            // An empty value has no place of its own.
            let is_empty = matches!(&event, Event::Scalar(t, ScalarStyle::Plain, ..) if t.is_empty() || t == "~");
            let value = self.node(event, span, depth + 1)?;
            if is_empty || matches!(value, Value::Object(_) | Value::Array(_)) {
                self.mark(key_span, false);
            }
            self.path.truncate(length);
            if is_plain && key == "<<" && value.is_object() {
                merged.push(value);
                continue;
            }
            let line = key_span.start.line() + self.lines_before;
            if let Some(first) = lines.insert(key.clone(), line) {
                let message =
                    format!("key {key} stands here twice: it was already set on line {first}; keep one of them");
                self.errors.push(self.error(key_span, message));
            }
            map.insert(key, value);
        }
        for value in merged {
            if let Value::Object(more) = value {
                for (key, value) in more {
                    map.entry(key).or_insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

fn is_odd(c: char) -> bool {
    is_typographic_quote(c) || matches!(c, '\u{a0}' | '\u{ff1a}' | '\u{200b}' | '\u{3000}' | '\u{feff}')
}

/// What to call a character that looks like another.
fn name_of(c: char) -> &'static str {
    match c {
        '\u{a0}' => "a no-break space",
        '\u{ff1a}' => "a full-width colon",
        '\u{200b}' | '\u{feff}' => "an invisible character",
        '\u{3000}' => "an ideographic space",
        _ => "a typographic quote",
    }
}

/// A plain scalar by the core schema (YAML 1.2 section 10.3.2).
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Value::String(text.into());
    }
    if let Some(n) = text.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok()) {
        return n.into();
    }
    if let Some(n) = text.strip_prefix("0o").and_then(|o| u64::from_str_radix(o, 8).ok()) {
        return n.into();
    }
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    if let Ok(n) = text.parse::<u64>() {
        return n.into();
    }
    let is_float =
        text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) && text.contains(|c: char| c.is_ascii_digit());
    match text.parse::<f64>().ok().filter(|_| is_float).and_then(Number::from_f64) {
        Some(n) => Value::Number(n),
        None => Value::String(text.into()),
    }
}

/// A value as YAML, keys sorted, as Calico's tools print it.
///
/// # Errors
/// None is known: a JSON value has nothing that YAML lacks.
pub fn emit(mut value: Value) -> Result<String, serde_yaml::ser::Error> {
    value.sort_all_objects();
    serde_yaml::to_string(&value)
}

#[cfg(test)]
mod tests;
