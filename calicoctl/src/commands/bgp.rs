//! This node's BGP speaker, and what speakers would do: one file for each command.

pub mod clear;
pub mod decode;
pub mod mrt;
pub mod peer;
pub mod peers;
pub mod plan;
pub mod routes;
pub mod status;
pub mod switch_config;
pub mod watch;
pub mod why;

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::sockets;

/// The speaker's socket below a run directory.
const SOCKET: &str = "bgpd.sock";

/// The speaker's answer.
async fn ask(run_dir: &Path, path: &str) -> Result<Value> {
    sockets::ask(run_dir, SOCKET, path).await
}

/// A peer's address, with the link where it needs one: `fe80::1%eth0`.
fn address(peer: &Value) -> String {
    let address = sockets::cell(peer, "address");
    match peer["interface"].as_str() {
        Some(link) if address.starts_with("fe80:") => format!("{address}%{link}"),
        _ => address,
    }
}

/// A text in a query.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The name and the values of a query.
fn path(base: &str, query: &[(&str, Option<&str>)]) -> String {
    let pairs = query.iter().filter_map(|(name, value)| value.map(|v| format!("{name}={}", quoted(v))));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { base.to_string() } else { format!("{base}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_has_its_link() {
        let peer = |address: &str, interface: Value| serde_json::json!({"address": address, "interface": interface});
        assert_eq!(address(&peer("fe80::1", "eth0".into())), "fe80::1%eth0");
        assert_eq!(address(&peer("192.0.2.1", Value::Null)), "192.0.2.1");
    }

    #[test]
    fn a_query_has_what_was_given_and_nothing_that_would_end_it() {
        assert_eq!(path("/v1/x", &[("a", None)]), "/v1/x");
        assert_eq!(path("/v1/x", &[("a", Some("fd00::/8")), ("b", Some("ü &"))]), "/v1/x?a=fd00::/8&b=%C3%BC%20%26");
    }
}
