//! The relay's program.

use std::process::ExitCode;

use clap::Parser as _;
use stentor_relay::{cli::Cli, exit};

fn main() -> ExitCode {
    exit::report("stentor-relay", Cli::parse().run())
}
