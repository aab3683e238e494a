//! Assertions that wait, and what a run shows for its claims.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::exec::{self, Output};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(25);

/// Repeats `probe` until it succeeds.
///
/// # Errors
/// After `limit`: what was waited for, and the last reason why it was not so.
pub fn eventually<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let reason = match probe() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        exec::check_not_stopping()?;
        if start.elapsed() >= limit {
            bail!("{what}: not so within {:.1} s; last seen: {reason:#}", limit.as_secs_f64());
        }
        std::thread::sleep(POLL);
    }
}

/// Prints steps, their evidence and the closing summary.
#[derive(Default)]
pub struct Report {
    /// Collected `(what, how it was verified)`.
    summary: Vec<(String, String)>,
    step_started: Option<Instant>,
}

impl Report {
    /// Opens a step.
    pub fn step(&mut self, number: u32, title: &str) {
        self.done();
        self.step_started = Some(Instant::now());
        say(&format!("\n[{number}/8] {title}"));
    }

    /// Closes the running step.
    pub fn done(&mut self) {
        if let Some(start) = self.step_started.take() {
            say(&format!("      done in {:.1} s", start.elapsed().as_secs_f64()));
        }
    }

    /// A command and the lines of its output that `keep` accepts.
    pub fn shown(&self, output: &Output, keep: impl Fn(&str) -> bool) {
        say(&format!("  $ {}", output.command));
        for line in output.text().lines().filter(|l| keep(l)) {
            say(&format!("  | {line}"));
        }
    }

    /// A command and all it printed.
    pub fn all(&self, output: &Output) {
        self.shown(output, |_| true);
    }

    /// A claim that was checked.
    pub fn checked(&self, claim: &str) {
        say(&format!("  ✓ {claim}"));
    }

    /// A line for the closing summary.
    pub fn conclude(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.summary.push((what.into(), how.into()));
    }

    /// Prints the summary.
    pub fn print_summary(&mut self, title: &str) {
        self.done();
        say(&format!("\n{title}"));
        for (what, how) in &self.summary {
            say(&format!("  {what}  [{how}]"));
        }
    }
}

/// A line on standard output, or in what the test framework keeps of a test. A closed pipe ends the run, and the lab with
/// it.
pub fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_names_itself_and_the_last_evidence() {
        let mut n = 0;
        let error = eventually(Duration::from_millis(60), "the moon is blue", || -> Result<()> {
            n += 1;
            bail!("it is grey, look {n}")
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the moon is blue") && error.contains(&format!("look {n}")), "{error}");
        assert!(n > 1);
    }

    #[test]
    fn a_condition_that_comes_to_hold_ends_the_wait() {
        let mut n = 0;
        let found = eventually(Duration::from_secs(5), "three looks", || {
            n += 1;
            if n < 3 { bail!("{n}") } else { Ok(n) }
        });
        assert_eq!(found.unwrap(), 3);
    }
}
