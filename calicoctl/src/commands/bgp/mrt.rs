//! mrt: the table as a file that route analysis tools read.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::SOCKET;
use crate::cli::bgp::MrtArgs;

/// Writes the file; a dump that breaks off leaves what had come, and says so.
pub async fn mrt(args: &MrtArgs) -> Result<()> {
    let mut octets = status::lines(&args.run_dir.join(SOCKET), "/v1/mrt").await?;
    let mut out: Box<dyn Write> = if args.file == Path::new("-") {
        if std::io::stdout().is_terminal() {
            bail!("an MRT file is nothing for a terminal; name a file, or redirect the output");
        }
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(&args.file).with_context(|| format!("cannot create {}", args.file.display()))?)
    };
    while let Some(octets) = octets.next_octets().await? {
        match out.write_all(&octets) {
            // A reader that has seen enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.with_context(|| format!("cannot write {}", args.file.display()))?,
        }
    }
    match out.flush() {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.with_context(|| format!("cannot write {}", args.file.display())),
    }
}
