//! One-off commands: every one has a time limit, leaves its output behind, and is killed when the program is interrupted.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// No command of a lab takes longer, unless it says so.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// Set when the program was interrupted: nothing new is started after that.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Process groups of the commands that run now.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// As shown to people, with the place where it ran.
    pub command: String,
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output, when the command succeeded.
    ///
    /// # Errors
    /// The command, its exit code and what it printed, when it did not.
    pub fn ok(self) -> Result<Self> {
        if self.code != 0 {
            bail!("`{}` ended with code {}\n{}{}", self.command, self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// The standard output as JSON.
    ///
    /// # Errors
    /// When the command failed or printed something else.
    pub fn json(self) -> Result<serde_json::Value> {
        let output = self.ok()?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("`{}` did not print JSON: {}", output.command, output.stdout))
    }

    /// Both streams in one text.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command with its display name, input and limit.
pub struct Exec {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Exec {
    /// `argv[0]` with the rest as arguments.
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Self {
        let mut command = Command::new(argv[0].as_ref());
        command.args(argv[1..].iter().map(AsRef::as_ref));
        let shown = argv.iter().map(|a| quoted(a.as_ref())).collect::<Vec<_>>().join(" ");
        Self { command, shown, input: None, limit: DEFAULT_LIMIT }
    }

    /// How the command is shown instead of its full form.
    pub fn shown_as(mut self, shown: impl Into<String>) -> Self {
        self.shown = shown.into();
        self
    }

    /// Adds environment variables.
    pub fn env<K: AsRef<str>, V: AsRef<str>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        for (k, v) in vars {
            self.command.env(k.as_ref(), v.as_ref());
        }
        self
    }

    /// Gives it `input` on standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Kills it after `limit`.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started or runs into its limit; a command that fails is an [`Output`] with its code.
    pub fn run(mut self) -> Result<Output> {
        check_not_stopping()?;
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let group = child.id() as i32;
        running(|set| set.insert(group));
        if let (Some(input), Some(mut stdin)) = (self.input.take(), child.stdin.take()) {
            // A command that ends without reading its input says why on its own.
            let _ = stdin.write_all(&input);
        }
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        let deadline = Instant::now() + self.limit;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        running(|set| set.remove(&group));
        let text = |handle: Option<std::thread::JoinHandle<Vec<u8>>>| {
            let bytes = handle.and_then(|h| h.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        let Some(status) = status else {
            bail!("`{}` did not end within {:?}\n{stdout}{stderr}", self.shown, self.limit);
        };
        let code =
            std::os::unix::process::ExitStatusExt::signal(&status).map_or(status.code().unwrap_or(-1), |s| 128 + s);
        Ok(Output { command: self.shown, code, stdout, stderr })
    }
}

/// Runs `argv` where the program itself runs.
///
/// # Errors
/// As [`Exec::run`], and when the command fails.
pub fn run<S: AsRef<str>>(argv: &[S]) -> Result<Output> {
    Exec::new(argv).run()?.ok()
}

/// Forbids new commands and kills those that run: the program was interrupted.
pub fn stop_all() {
    STOPPING.store(true, Ordering::SeqCst);
    running(|set| {
        for group in set.iter() {
            let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(*group), Signal::SIGKILL);
        }
    });
}

/// An error once the program was interrupted.
///
/// # Errors
/// After [`stop_all`].
pub fn check_not_stopping() -> Result<()> {
    if STOPPING.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// A word as a shell wants it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn running<R>(f: impl FnOnce(&mut BTreeSet<i32>) -> R) -> R {
    f(&mut RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_command_and_what_it_printed() {
        let error = run(&["sh", "-c", "echo no such thing >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("code 3") && error.contains("no such thing"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let error =
            Exec::new(&["sh", "-c", "sleep 60 & sleep 60"]).limit(Duration::from_millis(100)).run().unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn input_reaches_the_command_and_words_are_quoted() {
        let output = Exec::new(&["cat"]).input("hello").run().unwrap();
        assert_eq!(output.stdout, "hello");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a/b.c"), "a/b.c");
    }
}
