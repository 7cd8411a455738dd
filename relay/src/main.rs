//! The relay's program.

use std::process::ExitCode;

use clap::Parser as _;
use stentor_relay::{cli::Cli, exit};

/// jemalloc keeps what belongs to one connection close together: a tenth and more off each tick's cost.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    exit::report("stentor-relay", Cli::parse().run())
}
