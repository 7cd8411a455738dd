//! Runs fuzz targets for a while by seeded mutation, on any toolchain.
//!
//! Exit code 1 when an input breaks a target; the input is kept and the command that runs it
//! again is printed.
#![expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io, thread};

use clap::Parser;
use stentor_fuzz::{Mutator, TARGETS, Target, directory};

/// An input that takes longer than this hangs its target.
const HANG: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Fuzzes Stentor's parsers and machines by seeded mutation")]
struct Arguments {
    /// A target, or `all`
    target: String,
    /// Inputs to run once, in place of mutation (a failure that was kept)
    inputs: Vec<PathBuf>,
    /// Seconds for each target
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The seed of the mutations; from the clock if absent
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let targets: Vec<Target> = match arguments.target.as_str() {
        "all" => TARGETS.to_vec(),
        name => Target::named(name).into_iter().collect(),
    };
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no target {}; there is all, {}", arguments.target, names.join(", "));
        return ExitCode::from(2);
    }
    let seed = arguments.seed.unwrap_or_else(clock_seed);
    thread::spawn(watch_for_a_hang);
    for target in targets {
        let done = if arguments.inputs.is_empty() {
            fuzz(target, Duration::from_secs(arguments.seconds), seed)
        } else {
            replay(target, &arguments.inputs)
        };
        if let Err(e) = done {
            eprintln!("{}: {e}", target.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn clock_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

fn fuzz(target: Target, duration: Duration, seed: u64) -> io::Result<()> {
    let seeds = target.seeds().map_err(|e| {
        let place = target.corpus();
        io::Error::new(e.kind(), format!("{}: {e}", place.display()))
    })?;
    let count = seeds.len();
    for seed in &seeds {
        try_input(target, seed);
    }
    let start = Instant::now();
    let mut mutator = Mutator::new(seeds, seed);
    let mut input = Vec::new();
    let mut inputs = 0_u64;
    // The clock is read once for many inputs; it costs as much as a short input.
    while !inputs.is_multiple_of(64) || start.elapsed() < duration {
        mutator.next_input(&mut input);
        try_input(target, &input);
        inputs += 1;
    }
    eprintln!(
        "{}: {inputs} inputs from {count} seeds in {:.1} s with seed {seed}, none broke it",
        target.name,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn replay(target: Target, inputs: &[PathBuf]) -> io::Result<()> {
    for path in inputs {
        let input = fs::read(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        try_input(target, &input);
        eprintln!("{}: {} does not break it", target.name, path.display());
    }
    Ok(())
}

/// What is being run, for the thread that watches for a hang.
struct Running {
    target: Target,
    input: Vec<u8>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);
/// Rises with every input.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Runs one input; ends the process when it breaks the target.
fn try_input(target: Target, input: &[u8]) {
    {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.get_or_insert_with(|| Running { target, input: Vec::new() });
        running.target = target;
        running.input.clear();
        running.input.extend_from_slice(input);
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    if panic::catch_unwind(|| (target.run)(input)).is_err() {
        report(target, input, "panics");
    }
}

fn watch_for_a_hang() {
    let mut seen = 0;
    loop {
        thread::sleep(HANG);
        let count = COUNT.load(Ordering::Relaxed);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, Some(running)) = (count == seen, running.as_ref()) {
            report(running.target, &running.input, "hangs");
        }
        seen = count;
    }
}

/// Keeps the input, says how to run it again, and ends the process.
fn report(target: Target, input: &[u8], what: &str) -> ! {
    eprintln!("{} {what} on {} bytes", target.name, input.len());
    match keep(target, input) {
        Ok(path) => eprintln!(
            "run it again: cargo run -p stentor-fuzz --bin fuzz-run -- {} {}",
            target.name,
            path.display()
        ),
        Err(e) => eprintln!("the input could not be kept: {e}; its bytes: {input:02x?}"),
    }
    exit(1)
}

fn keep(target: Target, input: &[u8]) -> io::Result<PathBuf> {
    let folder: &Path = &directory().join("artefacts");
    fs::create_dir_all(folder)?;
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = folder.join(format!("{}-{:016x}", target.name, hasher.finish()));
    fs::write(&path, input)?;
    Ok(path)
}
