//! peers: the sessions of this node, a line each.

use anyhow::Result;

use super::{SOCKET, address};
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
        ("ACCEPTED", "accepted"),
        ("ADVERTISED", "advertised"),
        ("LAST ERROR", "lastError"),
    ];
    let wide = [("PORT", "port"), ("LOCAL AS", "localAs"), ("FLAPS", "flaps"), ("FAMILY", "family")];
    let columns =
        if args.output == Output::Wide { [&narrow[..9], &wide, &narrow[9..]].concat() } else { narrow.to_vec() };
    let mut value = ask(&args.run_dir, SOCKET, "/v1/peers").await?;
    if matches!(args.output, Output::Ps | Output::Wide) {
        value.as_array_mut().into_iter().flatten().for_each(|peer| peer["address"] = address(peer).into());
    }
    show(&value, &columns, args.output)
}
