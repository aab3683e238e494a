//! peer: everything about one session.

use anyhow::Result;

use super::{ask, path};
use crate::cli::bgp::PeerArgs;
use crate::output;

/// Shows one session.
pub async fn peer(args: &PeerArgs) -> Result<()> {
    let detail = ask(&args.socket.run_dir, &path("/v1/peer", &[("peer", Some(&args.peer))])).await?;
    match output::structured(&detail, args.socket.output)? {
        Some(text) => output::print(&text),
        None => output::print(&format!("{detail:#}\n")),
    }
    Ok(())
}
