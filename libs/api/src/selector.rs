//! The selector grammar (Calico `libcalico-go/lib/selector`).
//!
//! ```text
//! or      = and { "||" and }
//! and     = unary { "&&" unary }
//! unary   = "!" unary | "(" or ")" | "all()" | "global()" | "has(" label ")" | label operator
//! operator = "==" string | "!=" string | "in" set | "not in" set
//!          | "contains" string | "starts with" string | "ends with" string
//! ```
//! Strings are quoted with `'` or `"` and know no escapes. An absent label fails `==`, `in` and the string operators, and
//! satisfies `!=` and `not in`. An empty selector is `all()`.

use std::collections::BTreeMap;
use std::fmt;

/// Longest label name.
const MAX_LABEL_LEN: usize = 512;

/// Why a selector cannot be read; `offset` is in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at offset {offset} of selector {selector:?}")]
pub struct SelectorError {
    pub selector: String,
    pub offset: usize,
    pub reason: String,
}

/// A parsed selector.
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
        if p.rest().is_empty() {
            return Ok(Self::All);
        }
        let selector = p.or()?;
        p.space();
        if p.rest().is_empty() { Ok(selector) } else { Err(p.error("unexpected content at end of selector")) }
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

impl fmt::Display for Selector {
    /// The canonical form: double quotes where they can be used, single spaces, parentheses only where needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(k) => write!(f, "has({k})"),
            Self::Equal(k, v) => write!(f, "{k} == {}", Quoted(v)),
            Self::NotEqual(k, v) => write!(f, "{k} != {}", Quoted(v)),
            Self::In(k, set) => write!(f, "{k} in {}", Set(set)),
            Self::NotIn(k, set) => write!(f, "{k} not in {}", Set(set)),
            Self::Contains(k, v) => write!(f, "{k} contains {}", Quoted(v)),
            Self::StartsWith(k, v) => write!(f, "{k} starts with {}", Quoted(v)),
            Self::EndsWith(k, v) => write!(f, "{k} ends with {}", Quoted(v)),
            Self::Not(s) if matches!(**s, Self::And(_) | Self::Or(_)) => write!(f, "!({s})"),
            Self::Not(s) => write!(f, "!{s}"),
            Self::And(all) => join(f, all, " && ", |s| matches!(s, Self::Or(_) | Self::And(_))),
            Self::Or(any) => join(f, any, " || ", |s| matches!(s, Self::Or(_))),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Selector], with: &str, wrap: fn(&Selector) -> bool) -> fmt::Result {
    for (i, s) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(with)?;
        }
        if wrap(s) { write!(f, "({s})")? } else { write!(f, "{s}")? }
    }
    Ok(())
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('"') { write!(f, "'{}'", self.0) } else { write!(f, "\"{}\"", self.0) }
    }
}

struct Set<'a>(&'a [String]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, v) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i > 0 { ", " } else { "" }, Quoted(v))?;
        }
        f.write_str("}")
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
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

    fn or(&mut self) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.and()?];
        while self.eat("||") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Selector::Or(parts) })
    }

    fn and(&mut self) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.unary()?];
        while self.eat("&&") {
            parts.push(self.unary()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Selector::And(parts) })
    }

    fn unary(&mut self) -> Result<Selector, SelectorError> {
        if self.eat("!") {
            return Ok(Selector::Not(Box::new(self.unary()?)));
        }
        if self.eat("(") {
            let inner = self.or()?;
            return if self.eat(")") { Ok(inner) } else { Err(self.error("expected )")) };
        }
        if self.eat("all()") {
            return Ok(Selector::All);
        }
        if self.eat("global()") {
            return Ok(Selector::Global);
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
        let is_label = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let len = self.rest().find(|c| !is_label(c)).unwrap_or(self.rest().len());
        if len == 0 {
            return Err(if self.rest().is_empty() {
                self.error("unexpected end of string looking for op")
            } else {
                self.error(format!("unexpected character {:?}", self.rest().chars().next().unwrap_or(' ')))
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
        if self.eat("not in") || self.eat("notin") {
            return Ok(Selector::NotIn(k, self.set()?));
        }
        if self.eat("in") {
            return Ok(Selector::In(k, self.set()?));
        }
        if self.eat("contains") {
            return Ok(Selector::Contains(k, self.string()?));
        }
        if self.eat("starts with") || self.eat("startswith") {
            return Ok(Selector::StartsWith(k, self.string()?));
        }
        if self.eat("ends with") || self.eat("endswith") {
            return Ok(Selector::EndsWith(k, self.string()?));
        }
        Err(self.error(format!("expected operator after label {k:?}")))
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
            if self.eat("}") {
                values.sort();
                values.dedup();
                return Ok(values);
            }
            values.push(self.string()?);
            if !self.eat(",") {
                if self.eat("}") {
                    self.at -= 1;
                    continue;
                }
                return Err(self.error("expected }"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
