//! Asking the daemons of this node.

use std::path::Path;

use anyhow::{Result, anyhow};
use api::validate::shown;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::Output;
use crate::{output, table};

/// A daemon's answer.
pub async fn ask(run_dir: &Path, socket: &str, path: &str) -> Result<Value> {
    // The error's text has its source already.
    status::get_json(&run_dir.join(socket), path).await.map_err(|e| anyhow!("{e}"))
}

/// A list of rows as a table, or as it is.
pub fn show(value: &Value, columns: &[(&str, &str)], how: Output) -> Result<()> {
    if let Some(text) = output::structured(value, how)? {
        output::print(&text);
        return Ok(());
    }
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut rows: Vec<Vec<String>> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect())
        .collect();
    let (between, outside) = table::TABS;
    table::fit(&headings, &mut rows, output::width(), between, outside);
    output::print(&table::tabs(&headings, &rows));
    Ok(())
}

/// A field as a cell: lists joined, what is not there empty, times to the second.
pub fn cell(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(item).collect::<Vec<_>>().join(" "),
        Value::String(text) if field == "since" => text.parse().map_or_else(|_| text.clone(), to_the_second),
        other => shown(other),
    }
}

fn to_the_second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// One item of a list; a backend as `address:port`.
fn item(value: &Value) -> String {
    match (value.get("addr"), value.get("port")) {
        (Some(address), Some(port)) => format!("{}:{port}", shown(address)),
        _ => shown(value),
    }
}
