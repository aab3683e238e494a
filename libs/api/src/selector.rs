//! The selector grammar (Calico `libcalico-go/lib/selector`).
//!
//! ```text
//! or       = and { "||" and }
//! and      = unary { "&&" unary }
//! unary    = "!" unary | "(" or ")" | "all()" | "global()" | "has(" label ")" | label operator
//! operator = "==" string | "!=" string | "in" set | "not in" set
//!          | "contains" string | "starts with" string | "ends with" string
//! set      = "{" [ string { "," string } [ "," ] ] "}"
//! ```
//! Strings are quoted with `'` or `"` and know no escapes. Space and tab separate; `notin`, `startswith` and `endswith` may be one
//! word. An absent label fails `==`, `in` and the string operators, and satisfies `!=` and `not in`. An empty selector is
//! `all()`.

use std::collections::BTreeMap;
use std::fmt;

/// Longest label name.
const MAX_LABEL_LEN: usize = 512;
/// Most parentheses within each other. A resource's selector, which has at most 1,024 characters, cannot have more; any other
/// text must not be able to use up the stack.
const MAX_DEPTH: usize = 512;

/// Why a selector cannot be read; `offset` is in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at offset {offset} of selector {selector:?}")]
pub struct SelectorError {
    pub selector: String,
    pub offset: usize,
    pub reason: String,
}

/// A parsed selector. Its sets are sorted and name a value once, an `And` or `Or` has two parts or more, and a `Not` holds no
/// `Not`: the canonical form of one that was parsed is parsed into the same again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    All,
    Global,
    Has(String),
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Selector>),
    And(Vec<Selector>),
    Or(Vec<Selector>),
}

impl Selector {
    /// Parses a selector.
    ///
    /// # Errors
    /// [`SelectorError`] with the offset and Calico's wording of the reason.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut p = Parser { text, at: 0 };
        p.space();
        if p.rest().is_empty() { Ok(Self::All) } else { p.expression() }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(k) => labels.contains_key(k),
            Self::Equal(k, v) => labels.get(k) == Some(v),
            Self::NotEqual(k, v) => labels.get(k) != Some(v),
            Self::In(k, set) => labels.get(k).is_some_and(|l| set.contains(l)),
            Self::NotIn(k, set) => labels.get(k).is_none_or(|l| !set.contains(l)),
            Self::Contains(k, v) => labels.get(k).is_some_and(|l| l.contains(v.as_str())),
            Self::StartsWith(k, v) => labels.get(k).is_some_and(|l| l.starts_with(v.as_str())),
            Self::EndsWith(k, v) => labels.get(k).is_some_and(|l| l.ends_with(v.as_str())),
            Self::Not(s) => !s.matches(labels),
            Self::And(all) => all.iter().all(|s| s.matches(labels)),
            Self::Or(any) => any.iter().any(|s| s.matches(labels)),
        }
    }
}

impl Selector {
    fn write(&self, out: &mut String) {
        match self {
            Self::All => out.push_str("all()"),
            Self::Global => out.push_str("global()"),
            Self::Has(k) => {
                out.push_str("has(");
                out.push_str(k);
                out.push(')');
            }
            Self::Equal(k, v) => write_operation(out, k, " == ", v),
            Self::NotEqual(k, v) => write_operation(out, k, " != ", v),
            Self::In(k, set) => write_set(out, k, " in {", set),
            Self::NotIn(k, set) => write_set(out, k, " not in {", set),
            Self::Contains(k, v) => write_operation(out, k, " contains ", v),
            Self::StartsWith(k, v) => write_operation(out, k, " starts with ", v),
            Self::EndsWith(k, v) => write_operation(out, k, " ends with ", v),
            Self::Not(s) => {
                out.push('!');
                s.write(out);
            }
            Self::And(all) => write_group(out, all, " && "),
            Self::Or(any) => write_group(out, any, " || "),
        }
    }

    fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }
}

impl fmt::Display for Selector {
    /// The canonical form, Calico's: double quotes where they can be used, single spaces, sets sorted, parentheses around every
    /// `&&` and `||`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

fn write_group(out: &mut String, parts: &[Selector], with: &str) {
    out.push('(');
    for (i, part) in parts.iter().enumerate() {
        out.push_str(if i > 0 { with } else { "" });
        part.write(out);
    }
    out.push(')');
}

fn write_operation(out: &mut String, label: &str, operator: &str, value: &str) {
    out.push_str(label);
    out.push_str(operator);
    write_quoted(out, value);
}

fn write_set(out: &mut String, label: &str, operator: &str, values: &[String]) {
    out.push_str(label);
    out.push_str(operator);
    for (i, value) in values.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_quoted(out, value);
    }
    out.push('}');
}

fn write_quoted(out: &mut String, value: &str) {
    let quote = if value.contains('"') { '\'' } else { '"' };
    out.push(quote);
    out.push_str(value);
    out.push(quote);
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// An expression within parentheses, or the outermost, as far as it is read.
#[derive(Default)]
struct Group {
    /// Whether the parentheses stand behind an odd number of `!`.
    is_negated: bool,
    /// The parts of `||` that are complete, then those of the `&&` that is being read.
    ors: Vec<Selector>,
    ands: Vec<Selector>,
}

impl Group {
    fn end_and(&mut self) {
        let ands = std::mem::take(&mut self.ands);
        self.ors.push(one_or(ands, Selector::And));
    }

    fn end(mut self) -> Selector {
        self.end_and();
        let selector = one_or(self.ors, Selector::Or);
        if self.is_negated { selector.negated() } else { selector }
    }
}

/// The only part, or all of them joined.
fn one_or(mut parts: Vec<Selector>, join: fn(Vec<Selector>) -> Selector) -> Selector {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, reason: impl Into<String>) -> SelectorError {
        SelectorError { selector: self.text.into(), offset: self.at, reason: reason.into() }
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// The words of an operator, spaces between them or not, with the end of a word after the last.
    fn eat_words(&mut self, words: &[&str]) -> bool {
        let before = self.at;
        let is_there = words.iter().all(|word| self.eat(word)) && !self.rest().starts_with(is_label);
        if !is_there {
            self.at = before;
        }
        is_there
    }

    /// The whole text. Groups are kept in a list, not on the stack.
    fn expression(&mut self) -> Result<Selector, SelectorError> {
        let mut outer: Vec<Group> = Vec::new();
        let mut group = Group::default();
        loop {
            let mut is_negated = false;
            while self.eat("!") {
                is_negated = !is_negated;
            }
            if self.eat("(") {
                if outer.len() == MAX_DEPTH {
                    return Err(self.error(format!("more than {MAX_DEPTH} parentheses within each other")));
                }
                outer.push(std::mem::replace(&mut group, Group { is_negated, ..Group::default() }));
                continue;
            }
            let operation = self.operation()?;
            group.ands.push(if is_negated { operation.negated() } else { operation });
            loop {
                if self.eat("&&") {
                    break;
                }
                if self.eat("||") {
                    group.end_and();
                    break;
                }
                if !outer.is_empty() && self.eat(")") {
                    let inner = std::mem::replace(&mut group, outer.pop().unwrap_or_default());
                    group.ands.push(inner.end());
                    continue;
                }
                self.space();
                return match self.rest().chars().next() {
                    Some('&') => Err(self.error("expected &&")),
                    Some('|') => Err(self.error("expected ||")),
                    _ if !outer.is_empty() => Err(self.error("expected )")),
                    Some(_) => Err(self.error("unexpected content at end of selector")),
                    None => Ok(group.end()),
                };
            }
        }
    }

    /// `all()`, `global()`, `has()`, or a label and what is said of it.
    fn operation(&mut self) -> Result<Selector, SelectorError> {
        for (name, selector) in [("all", Selector::All), ("global", Selector::Global)] {
            if self.eat(&format!("{name}(")) {
                let is_closed = self.eat(")");
                return if is_closed { Ok(selector) } else { Err(self.error(format!("no closing ')' after {name}("))) };
            }
        }
        if self.eat("has(") {
            self.space();
            let label = self.label()?;
            return if self.eat(")") { Ok(Selector::Has(label)) } else { Err(self.error("no closing ')' after has(")) };
        }
        self.space();
        let label = self.label()?;
        self.operator(label)
    }

    fn label(&mut self) -> Result<String, SelectorError> {
        let len = self.rest().find(|c| !is_label(c)).unwrap_or(self.rest().len());
        if len == 0 {
            return Err(match self.rest().chars().next() {
                None => self.error("unexpected end of string looking for op"),
                Some(c) => self.error(format!("unexpected character {c:?}")),
            });
        }
        if len > MAX_LABEL_LEN {
            return Err(self.error("label too long"));
        }
        let label = self.rest()[..len].to_string();
        self.at += len;
        Ok(label)
    }

    fn operator(&mut self, k: String) -> Result<Selector, SelectorError> {
        if self.eat("==") {
            return Ok(Selector::Equal(k, self.string()?));
        }
        if self.eat("!=") {
            return Ok(Selector::NotEqual(k, self.string()?));
        }
        if self.eat("=") {
            return Err(self.error("expected =="));
        }
        if self.eat_words(&["not", "in"]) {
            return Ok(Selector::NotIn(k, self.set()?));
        }
        if self.eat_words(&["in"]) {
            return Ok(Selector::In(k, self.set()?));
        }
        if self.eat_words(&["contains"]) {
            return Ok(Selector::Contains(k, self.string()?));
        }
        if self.eat_words(&["starts", "with"]) {
            return Ok(Selector::StartsWith(k, self.string()?));
        }
        if self.eat_words(&["ends", "with"]) {
            return Ok(Selector::EndsWith(k, self.string()?));
        }
        self.space();
        Err(match self.rest().is_empty() {
            true => self.error("unexpected end of string looking for op"),
            false => self.error(format!("expected operator after label {k:?}")),
        })
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        self.space();
        let quote = match self.rest().chars().next() {
            Some(q @ ('"' | '\'')) => q,
            _ => return Err(self.error("expected string")),
        };
        match self.rest()[1..].find(quote) {
            None => Err(self.error("unterminated string")),
            Some(len) => {
                let s = self.rest()[1..1 + len].to_string();
                self.at += len + 2;
                Ok(s)
            }
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.eat("{") {
            return Err(self.error("expected set literal"));
        }
        let mut values = Vec::new();
        loop {
            self.space();
            if !self.rest().starts_with(['"', '\'']) {
                break;
            }
            values.push(self.string()?);
            if !self.eat(",") {
                break;
            }
        }
        if !self.eat("}") {
            return Err(self.error("expected }"));
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn is_label(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./-".contains(c)
}

#[cfg(test)]
mod tests;
