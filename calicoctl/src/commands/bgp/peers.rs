//! peers: the sessions of this node, a line each.

use anyhow::Result;

use super::SOCKET;
use crate::cli::{Output, SocketArgs};
use crate::commands::sockets::{ask, show};

/// Shows the sessions.
pub async fn peers(args: &SocketArgs) -> Result<()> {
    let narrow = [
        ("NAME", "name"),
        ("ADDRESS", "address"),
        ("TYPE", "type"),
        ("AS", "remoteAs"),
        ("STATE", "state"),
        ("SINCE", "since"),
        ("RECEIVED", "received"),
        ("ADVERTISED", "advertised"),
        ("LAST ERROR", "lastError"),
    ];
    let wide = [("PORT", "port"), ("LOCAL AS", "localAs"), ("FLAPS", "flaps"), ("FAMILY", "family")];
    let columns =
        if args.output == Output::Wide { [&narrow[..8], &wide, &narrow[8..]].concat() } else { narrow.to_vec() };
    let value = ask(&args.run_dir, SOCKET, "/v1/peers").await?;
    show(&value, &columns, args.output)
}
