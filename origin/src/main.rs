//! The origin's program.

use std::process::ExitCode;

use clap::Parser as _;
use stentor_origin::cli::Cli;
use stentor_relay::exit;

fn main() -> ExitCode {
    exit::report("stentor-origin", Cli::parse().run())
}
