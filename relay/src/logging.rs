//! Structured logs on standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging: {0}")]
pub struct LoggingError(String);

/// Starts logging for the whole process, once.
///
/// # Errors
/// When the process logs already.
pub fn start(settings: &LogSettings) -> Result<(), LoggingError> {
    let wrong = |error: &dyn std::fmt::Display| LoggingError(error.to_string());
    let filter = EnvFilter::try_new(&settings.level).map_err(|error| wrong(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| wrong(&error))
}
