//! The main job.
use anyhow::Result;
use crate::cluster::{Lab, Options};
/// Runs.
/// # Errors
/// Any.
pub fn run(options: Options) -> Result<Lab> {
    Lab::build(options)
}
