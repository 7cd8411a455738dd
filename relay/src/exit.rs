//! How a program ends: the one function that maps errors to exit codes.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::ConfigError;

/// Exit code of a failure at run time.
pub const RUNTIME: u8 = 1;
/// Exit code of a wrong command line; clap uses the same.
pub const USAGE: u8 = 2;
/// Exit code of a check that found what must not be.
pub const VIOLATED: u8 = 3;
/// Exit code of a wrong configuration (`EX_CONFIG` of sysexits.h).
pub const CONFIGURATION: u8 = 78;

/// Why a program ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong; no socket was bound.
    #[error("configuration: {0}")]
    Configuration(#[from] ConfigError),
    /// The command line asks for something that does not fit together.
    #[error("usage: {0}")]
    Usage(String),
    /// A check found what must not be.
    #[error("{0}")]
    Violated(String),
    /// Something failed at run time.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    /// A failure at run time, from whatever failed.
    #[must_use]
    pub fn runtime(error: impl std::fmt::Display) -> Self {
        Self::Runtime(error.to_string())
    }

    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Configuration(_) => CONFIGURATION,
            Self::Usage(_) => USAGE,
            Self::Violated(_) => VIOLATED,
            Self::Runtime(_) => RUNTIME,
        }
    }
}

/// Says on standard error why `program` ends, and gives its exit code.
#[must_use]
pub fn report(program: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed there is nobody to tell; the code remains.
            let _ = writeln!(std::io::stderr(), "{program}: {error}");
            ExitCode::from(error.code())
        }
    }
}

/// Writes a program's result to standard output.
///
/// # Errors
/// When standard output is closed or full: what was asked for has not arrived.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Error::Runtime(format!("standard output: {error}")))
}
