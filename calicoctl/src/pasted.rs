//! Recognises what happens to YAML on its way through a web page or a word processor: indentation is lost, quotes are
//! curled, the space after a colon goes. The syntax errors that follow name none of these causes.

use api::validate::formats::{QUOTES, is_typographic_quote};

use crate::yaml::{Chunk, SyntaxError};

/// Keys that hold a mapping in every document that has them.
const PARENTS: &[&str] = &["metadata", "spec", "annotations", "labels"];
/// Keys that may stand at the top of a document.
const TOP: &[&str] =
    &["apiVersion", "kind", "metadata", "spec", "status", "endpoints", "ports", "addressType", "items"];

/// Every trace of pasting in a document that does not read well: one error for lost indentation, one for each other place.
pub fn causes(chunk: Chunk) -> Vec<SyntaxError> {
    let mut found: Vec<SyntaxError> = flattened(chunk).into_iter().collect();
    for (i, line) in chunk.text.lines().enumerate() {
        let number = chunk.lines_before + i + 1;
        let mut at = |byte: usize, message: String| {
            found.push(SyntaxError { line: number, column: line[..byte].chars().count() + 1, message });
        };
        if let Some(byte) = line.find('\t').filter(|&byte| line[..byte].trim().is_empty()) {
            at(byte, "a tab indents this line: YAML takes spaces only".into());
        }
        if let Some(byte) = curled(line) {
            at(byte, QUOTES.into());
        }
        if let Some((byte, key, value)) = joined(line) {
            at(byte, format!("a space is missing after the colon: write {key}: {value}"));
        }
    }
    found.sort_by_key(|e| (e.line, e.column));
    found
}

/// A parent key whose children stand at its own level.
fn flattened(chunk: Chunk) -> Option<SyntaxError> {
    let lines: Vec<(usize, &str)> = chunk
        .text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#') && !l.starts_with("---"))
        .collect();
    lines.windows(2).find_map(|pair| {
        let [(parent_line, parent), (line, child)] = pair else { return None };
        let name = parent.trim().strip_suffix(':').filter(|n| PARENTS.contains(n))?;
        let key = child.trim().split(':').next()?.trim_matches(['"', '\'']);
        let same_level = indent(child) == indent(parent);
        if !same_level || !child.contains(':') || child.trim_start().starts_with("- ") || (indent(child) == 0 && TOP.contains(&key)) {
            return None;
        }
        Some(SyntaxError {
            line: chunk.lines_before + line + 1,
            column: indent(child) + 1,
            message: format!(
                "the indentation is gone: `{key}` stands at the same level as `{name}` (line {}), under which it belongs; \
                 indent everything under metadata and spec by two spaces, as it was before it was pasted",
                chunk.lines_before + parent_line + 1
            ),
        })
    })
}

/// Where a value begins with a typographic quote, in bytes.
fn curled(line: &str) -> Option<usize> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    line.char_indices()
        .find(|&(byte, c)| {
            let before = line[..byte].trim_end();
            is_typographic_quote(c) && (before.is_empty() || before.ends_with([':', '-', ',', '[', '{', '=']))
        })
        .map(|(byte, _)| byte)
}

/// A top-level key whose value follows the colon without a space: where, key and value.
fn joined(line: &str) -> Option<(usize, &str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = TOP.contains(&key.trim()) || key.trim() == "name";
    (is_key && value.starts_with(|c: char| !c.is_whitespace())).then_some((key.len() + 1, key.trim(), value))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}
