//! The commands of `ipam`; `plan` is in [`super::ipam_plan`].

mod check;
mod configure;
mod release;
mod show;
mod split;

use anyhow::Result;

use super::{ipam_plan, open_store};
use crate::cli::ipam::IpamCommand;

/// Runs one command of `ipam`.
pub async fn run(command: IpamCommand) -> Result<()> {
    match command {
        // Plans without a store too.
        IpamCommand::Plan(args) => ipam_plan::plan(&args).await,
        IpamCommand::Check(args) => check::check(open_store().await?, &args).await,
        IpamCommand::Show(args) => show::show(open_store().await?, &args).await,
        IpamCommand::Release(args) => release::release(open_store().await?, &args).await,
        IpamCommand::Configure(args) => configure::configure(open_store().await?, &args).await,
        IpamCommand::Split(args) => split::split(open_store().await?, &args).await,
    }
}
