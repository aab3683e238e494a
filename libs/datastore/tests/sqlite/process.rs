//! Processes of their own: the test binary starts itself and runs `child` with a role.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

pub const ROLE: &str = "TORTIE_TEST_ROLE";
pub const FILE: &str = "TORTIE_TEST_FILE";
/// The user `nobody`, who may do little.
const NOBODY: u32 = 65534;

/// A child process that is killed when the test ends.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child that does what its role says with the store at a path.
pub fn start(role: &str, path: &Path) -> Process {
    spawn(role, path, |_| {})
}

/// As [`start`], without rights.
pub fn start_as_nobody(role: &str, path: &Path) -> Process {
    spawn(role, path, |command| {
        command.uid(NOBODY).gid(NOBODY);
    })
}

fn spawn(role: &str, path: &Path, prepare: impl Fn(&mut Command)) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FILE, path)
        .stdout(Stdio::piped());
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Process { child, lines }
}

impl Process {
    /// The rest of the next line that has the word; `None` at the end of the output.
    pub fn line(&mut self, word: &str) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split(word).nth(1)?;
            Some(rest.trim().to_string())
        })
    }

    pub fn number(&mut self, word: &str) -> Option<u64> {
        self.line(word).map(|n| n.parse().unwrap())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// One line to the parent, at once.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}
