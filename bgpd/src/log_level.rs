//! The log: what it says, live.
//!
//! RUST_LOG decides if it is set; else BGPConfiguration's logSeverityScreen does, from the moment that it is known; else info.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

const DEFAULT: &str = "info";

/// Changes what the log says.
pub struct LogLevel(Option<reload::Handle<EnvFilter, Registry>>);

/// Starts the log, on standard error.
pub fn start() -> LogLevel {
    let from_environment = EnvFilter::try_from_default_env().ok();
    let is_fixed = from_environment.is_some();
    let (filter, handle) = reload::Layer::new(from_environment.unwrap_or_else(|| DEFAULT.into()));
    let output = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(output).init();
    LogLevel((!is_fixed).then_some(handle))
}

impl LogLevel {
    /// Takes a logSeverityScreen; none is the default.
    pub fn set(&self, severity: Option<&str>) {
        let Some(handle) = &self.0 else { return };
        let level = directive(severity);
        // Said before it may be too quiet to be said.
        let is_new = handle.with_current(|now| now.to_string() != level).unwrap_or(false);
        if is_new {
            tracing::info!("the log is at {level} from here on");
            // The subscriber lives as long as the process.
            let _ = handle.reload(EnvFilter::from(level));
        }
    }
}

/// Calico's word as ours.
fn directive(severity: Option<&str>) -> &'static str {
    match severity {
        Some("Trace") => "trace",
        Some("Debug") => "debug",
        Some("Warning") => "warn",
        Some("Error" | "Fatal") => "error",
        Some(_) | None => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_words() {
        let words = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal", "nonsense"];
        let levels = ["trace", "debug", "info", "warn", "error", "error", "info"];
        assert_eq!(words.map(|w| directive(Some(w))), levels);
        assert_eq!(directive(None), EnvFilter::from(DEFAULT).to_string());
    }
}
