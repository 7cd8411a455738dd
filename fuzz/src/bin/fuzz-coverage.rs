//! The same targets under libFuzzer; the target is named by `STENTOR_FUZZ_TARGET`.
//!
//! `README.md` beside this crate has the compiler flags that make it coverage-guided.
#![no_main]
#![expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]

use std::sync::LazyLock;

use stentor_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("STENTOR_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("STENTOR_FUZZ_TARGET is to be one of {}", names.join(", "));
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); }, |data: &[u8]| {
    (TARGET.run)(data);
});
