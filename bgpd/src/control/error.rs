//! What is wrong with a request: JSON with `error`, a sentence that says what would be right.

use std::net::IpAddr;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::peer::PeerStatus;

/// Peers that an error lists.
const SHOWN: usize = 10;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub error: String,
}

impl Refusal {
    /// The request cannot be understood.
    pub fn bad(error: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, error: error.into() }
    }

    /// There is no such peer; names the one that may have been meant.
    pub fn no_peer(wanted: IpAddr, peers: &[PeerStatus]) -> Refusal {
        let known: Vec<String> = peers.iter().map(|p| p.address.to_string()).collect();
        let error = match nearest(&wanted.to_string(), &known) {
            Some(near) => format!("there is no peer {wanted}; did you mean {near}?"),
            None => format!("there is no peer {wanted}{}", which(&known)),
        };
        Refusal { status: StatusCode::NOT_FOUND, error }
    }

    /// An unnumbered peer that has no address yet.
    pub fn not_heard(link: &str) -> Refusal {
        Refusal { status: StatusCode::NOT_FOUND, error: format!("no neighbour was heard on {link} yet") }
    }

    /// The same as [`Refusal::no_peer`] for what is no address.
    pub fn no_peer_of_name(wanted: &str, peers: &[PeerStatus]) -> Refusal {
        let names = || peers.iter().flat_map(|p| [Some(p.name.as_str()), p.interface.as_deref()]).flatten();
        let known: Vec<String> = peers.iter().map(|p| p.address.to_string()).collect();
        let hint = match api::validate::nearest(wanted, names()) {
            Some(near) => format!("; did you mean {near}?"),
            None => which(&known),
        };
        let error = format!("'{wanted}' is no address, and the name or interface of no peer{hint}");
        Refusal { status: StatusCode::NOT_FOUND, error }
    }
}

/// The end of a sentence: what there is, of many the first.
fn which(known: &[String]) -> String {
    match known.len() {
        0 => ": this node has none".into(),
        n @ 0..=SHOWN => format!("; the peers are {}", known[..n].join(", ")),
        n => format!("; the peers are {} and {} more", known[..SHOWN].join(", "), n - SHOWN),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.error}))).into_response()
    }
}

/// The address that is one slip of the fingers away. Addresses of one subnet all resemble each other, so the likeness
/// that names are judged by says nothing here.
fn nearest<'a>(wanted: &str, known: &'a [String]) -> Option<&'a str> {
    let mut near = known.iter().filter(|k| is_one_slip(wanted.as_bytes(), k.as_bytes()));
    match (near.next(), near.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// One character more, less or other, or two exchanged.
fn is_one_slip(a: &[u8], b: &[u8]) -> bool {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    match (a, b) {
        ([_, a @ ..], [_, b @ ..]) if a == b => true,
        ([_, rest @ ..], b) if rest == b => true,
        (a, [_, rest @ ..]) if a == rest => true,
        ([a0, a1, a @ ..], [b0, b1, b @ ..]) => a0 == b1 && a1 == b0 && a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_of_the_fingers_is_forgiven_where_it_is_unambiguous() {
        let known = ["192.168.1.1", "10.0.0.17", "fd00::1"].map(String::from);
        for (wanted, near) in [
            ("192.168.1.11", Some("192.168.1.1")),
            ("192.168.11.1", Some("192.168.1.1")),
            ("10.0.0.71", Some("10.0.0.17")),
            ("10.0.0.18", Some("10.0.0.17")),
            ("fd00::", Some("fd00::1")),
            ("172.16.0.1", None),
        ] {
            assert_eq!(nearest(wanted, &known), near, "{wanted}");
        }
        let two = ["10.0.0.1", "10.0.0.2"].map(String::from);
        assert_eq!(nearest("10.0.0.3", &two), None, "either may be meant");
    }
}
