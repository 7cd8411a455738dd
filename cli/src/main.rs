//! The `stentor` command.

use std::process::ExitCode;

use clap::Parser as _;
use stentor_cli::Cli;
use stentor_relay::exit;

fn main() -> ExitCode {
    exit::report("stentor", Cli::parse().run())
}
