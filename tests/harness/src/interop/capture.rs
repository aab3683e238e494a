//! What went over the wire: dumpcap writes it at the ports of our nodes, tshark judges it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::evidence::eventually;
use crate::exec::Exec;
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// For so long the kernel may hold frames back from dumpcap (its read timeout is 250 ms).
const HELD_BACK: Duration = Duration::from_millis(400);

/// BGP on any port, and BFD (RFC 5881, RFC 5883).
const FILTER: &str = "tcp or udp port 3784 or udp port 4784";

/// A capture that runs.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures BGP and BFD on `interfaces` of a namespace, into a file below `dir`.
    ///
    /// # Errors
    /// When dumpcap does not start.
    pub fn start(netns: &Netns, interfaces: &[String], dir: &Path) -> Result<Self> {
        let file = dir.join("wire.pcapng");
        let mut argv: Vec<String> = ["dumpcap", "-q", "-f", FILTER].map(String::from).to_vec();
        for interface in interfaces {
            argv.extend(["-i".to_string(), interface.clone()]);
        }
        argv.extend(["-w".to_string(), file.display().to_string()]);
        let spec = Spec { name: "dumpcap".into(), argv, env: Vec::new(), log: dir.join("dumpcap.log") };
        if !Path::new("/usr/bin/tshark").exists() {
            bail!("tshark is not installed (Debian package tshark)");
        }
        let mut process = Process::spawn(netns, spec)?;
        eventually(Duration::from_secs(10), "dumpcap captures", || {
            process.check_alive()?;
            if process.log().contains("File: ") { Ok(()) } else { bail!("{}", process.log()) }
        })?;
        Ok(Self { process, file })
    }

    /// Ends it; what was captured.
    ///
    /// # Errors
    /// When dumpcap does not end.
    pub fn stop(mut self, ports: &[u16]) -> Result<Captured> {
        std::thread::sleep(HELD_BACK);
        self.process.stop(Signal::SIGTERM)?;
        Ok(Captured { file: self.file.clone(), ports: ports.to_vec() })
    }
}

/// A file of frames.
pub struct Captured {
    file: PathBuf,
    /// Ports beside 179 on which BGP is spoken.
    ports: Vec<u16>,
}

impl Captured {
    /// The frames that a display filter selects, one line each.
    ///
    /// # Errors
    /// When tshark does not understand the filter.
    pub fn frames(&self, filter: &str) -> Result<Vec<String>> {
        let out = self.tshark(&["-Y", filter])?;
        Ok(out.lines().map(str::to_string).collect())
    }

    /// Who said what on which TCP connection: OPENs, NOTIFICATIONs with code and subcode, refreshes, one line each.
    ///
    /// # Errors
    /// When tshark fails.
    pub fn conversation(&self) -> Result<String> {
        let mut args = vec!["-Y", "bgp.type in {1, 3, 5}", "-T", "fields"];
        for field in ["_ws.col.Time", "_ws.col.Source", "tcp.stream", "tcp.srcport", "tcp.dstport", "_ws.col.Info"] {
            args.extend(["-e", field]);
        }
        args.extend(["-e", "bgp.notify.major_error", "-e", "bgp.notify.minor_error_cease"]);
        self.tshark(&args)
    }

    /// How many TCP connections have frames that a display filter selects.
    ///
    /// # Errors
    /// When tshark does not understand the filter.
    pub fn connections(&self, filter: &str) -> Result<usize> {
        let out = self.tshark(&["-Y", filter, "-T", "fields", "-e", "tcp.stream"])?;
        Ok(out.lines().collect::<BTreeSet<_>>().len())
    }

    /// Fails with the frame when one of those senders (Ethernet addresses) sent something malformed.
    ///
    /// # Errors
    /// The frame, dissected.
    pub fn check_well_formed(&self, senders: &[String]) -> Result<()> {
        let ours = one_of(senders);
        let filter = format!("{ours} && (_ws.malformed || _ws.expert.severity == error)");
        let bad = self.frames(&filter)?;
        let Some(first) = bad.first() else { return Ok(()) };
        let number = first.split_whitespace().next().context("tshark names no frame")?;
        let shown = self.tshark(&["-Y", &format!("frame.number == {number}"), "-V", "-x"])?;
        bail!("tshark finds {} malformed frames from us; the first:\n{shown}", bad.len());
    }

    fn tshark(&self, args: &[&str]) -> Result<String> {
        let file = self.file.display().to_string();
        let mut argv: Vec<String> = ["tshark", "-n", "-r", &file].map(String::from).to_vec();
        for port in &self.ports {
            argv.extend(["-d".to_string(), format!("tcp.port=={port},bgp")]);
        }
        argv.extend(args.iter().map(|a| a.to_string()));
        Ok(Exec::new(&argv).limit(Duration::from_secs(120)).run()?.ok()?.stdout)
    }
}

/// A display filter for frames of these senders.
pub fn one_of(senders: &[String]) -> String {
    format!("eth.src in {{{}}}", senders.join(", "))
}
