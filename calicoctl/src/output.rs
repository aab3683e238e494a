//! Standard output: JSON and YAML, the width of the terminal, and readers that go away.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::cli::Output;
use crate::yaml;

/// A value as JSON or YAML, if that is asked for.
///
/// # Errors
/// None is known: what we print has nothing that JSON or YAML lack.
pub fn structured(value: &impl Serialize, output: Output) -> Result<Option<String>> {
    Ok(match output {
        Output::Json => Some(serde_json::to_string_pretty(value)? + "\n"),
        Output::Yaml => Some(yaml::emit(serde_json::to_value(value)?)?),
        Output::Ps | Output::Wide => None,
    })
}

/// Prints; a reader that has seen enough (`| head`) ends the program without a word.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("cannot write to standard output: {error}");
        }
        std::process::exit(i32::from(error.kind() != ErrorKind::BrokenPipe));
    }
}

/// Columns of the terminal; `None` where the output goes elsewhere, and nothing is to be cut.
pub fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

/// A field as text: lists joined, what is not there empty.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
