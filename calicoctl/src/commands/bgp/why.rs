//! why: the decision about a prefix.

use anyhow::Result;

use super::{ask, path};
use crate::cli::bgp::WhyArgs;
use crate::output;

/// Says why a prefix goes the way it goes.
pub async fn why(args: &WhyArgs) -> Result<()> {
    let answer = ask(&args.socket.run_dir, &path("/v1/why", &[("target", Some(&args.target))])).await?;
    match output::structured(&answer, args.socket.output)? {
        Some(text) => output::print(&text),
        None => output::print(&format!("{answer:#}\n")),
    }
    Ok(())
}
